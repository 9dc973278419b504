"""Cut a growing text into finished blocks and one open tail, so that a page redraws the tail alone.

Two laws hold for every text, however it arrives: the blocks and the tail joined are the text, and a block once
finished stays as it is. A long tail can be cut once more while it grows (`part_end`), for the eye alone: its parts look
much like the block that they will be.
"""

from __future__ import annotations

import re

__all__ = ["FENCE", "BlockSplitter", "closes", "is_table_rule", "part_end", "split_blocks"]

FENCE = re.compile(r"^[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)*(`{3,}(?=[^`\n]*$)|~{3,})")
_ITEM = re.compile(r"(?:[-*+]|\d{1,9}[.)])(?=\s)")
_TABLE_RULE = re.compile(r"^[ \t>]*\|?[ \t]*:?-+:?[ \t]*(\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$")
_PAIRED = re.compile(r"\$\$|`+|\*\*|~~|\\[\[\]()]")  # what may be open at the end of a line and go on in the next
_MAYBE_ITEM = re.compile(r"(?:[-*+]|\d{1,9}[.)]?)$")


class BlockSplitter:
    """Takes pieces of text; `feed` returns the blocks that they finish, `tail` is what is still open."""

    def __init__(self) -> None:
        self.tail = ""

    def feed(self, piece: str) -> list[str]:
        """The blocks finished by this piece, in order."""
        self.tail += piece
        blocks = []
        while (cut := _first_cut(self.tail)) is not None:
            blocks.append(self.tail[:cut])
            self.tail = self.tail[cut:]
        return blocks


def split_blocks(text: str) -> list[str]:
    """A whole text as blocks; joined they are the text."""
    splitter = BlockSplitter()
    blocks = splitter.feed(text)
    return [*blocks, splitter.tail] if splitter.tail else blocks


def _first_cut(text: str) -> int | None:
    """Where the first block ends, as soon as what follows can no longer change that; else None.

    A block ends after a fenced code block, before one, or at blank lines followed by text at the left margin, unless
    both sides are items of one list.
    """
    at, begun, blank, is_list = 0, False, False, False
    fence, at_margin = "", False
    while at < len(text):
        newline = text.find("\n", at)
        whole = newline >= 0
        line = text[at:newline] if whole else text[at:]
        after = newline + 1 if whole else len(text)
        if fence:
            if whole and closes(line, fence):
                if at_margin:
                    return after
                fence = ""
        elif not line.strip():
            blank = begun
        else:
            if begun and blank and not line[0].isspace() and _is_apart(line, whole, is_list):
                return at
            opening = FENCE.match(line) if whole else None
            if opening is not None:
                at_margin = line[0] in "`~"
                if begun and at_margin:
                    return at
                fence = opening.group(1)
            is_list = is_list or _ITEM.match(line) is not None
            begun, blank = True, False
        at = after
    return None


def _is_apart(line: str, whole: bool, is_list: bool) -> bool:
    """Whether a line after a blank one begins a new block; False while that is open."""
    if not is_list:
        return True
    return not _ITEM.match(line + "\n" if whole else line) and (whole or not _MAYBE_ITEM.match(line))


def closes(line: str, fence: str) -> bool:
    """Whether a line ends the code that `fence` opened."""
    bare = line.strip()
    return len(bare) >= len(fence) and set(bare) == {fence[0]}


def is_table_rule(line: str) -> bool:
    """Whether a line stands between a table's head and its rows."""
    return ("|" in line or "---" in line) and bool(_TABLE_RULE.match(line))


def part_end(text: str, *, code: bool) -> int:
    """Where an open block can be cut so that what is before looks finished: behind its last whole line but one; else 0.

    code: the text is code. A list is cut before its items alone, and nothing is cut in a table, a formula or quotes.
    """
    cut, is_list, fence, paired = 0, False, "", 0
    at = 0
    while (newline := text.find("\n", at)) >= 0:
        line = text[at:newline]
        if code:
            cut = at
        else:
            is_list = is_list or _ITEM.match(line) is not None
            if not fence and not paired % 2 and (_ITEM.match(line) if is_list else line[:1].strip()):
                cut = at
            if is_table_rule(line):
                return 0
            if (opening := FENCE.match(line)) is not None and not fence:
                fence = opening.group(1)
            elif fence and closes(line.lstrip(" \t>"), fence):
                fence = ""
            paired += 0 if fence else len(_PAIRED.findall(line))
        at = newline + 1
    return cut
