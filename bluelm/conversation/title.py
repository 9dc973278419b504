"""A name for a conversation: the first words of its first question."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from bluelm.conversation.tree import Answer, Question

TITLE_WIDTH = 48  # columns; a Chinese character takes two


def automatic_title(path: Sequence[tuple[Question, Answer]], plain: bool) -> str:
    """The first words of a path through a conversation; "" for an empty one."""
    if not path:
        return ""
    question, answer = path[0]
    return title_of(question.text + (answer.text if plain else ""))


def title_of(text: str) -> str:
    """The beginning of a text in one line, cut at a word's end where there is one, never within a character."""
    line = " ".join(text.split())
    cut = _fitting(line, TITLE_WIDTH)
    if cut == len(line):
        return line
    space = line.rfind(" ", 0, cut + 1)
    return line[: space if space > cut // 2 else cut].rstrip() + "…"


def _fitting(line: str, width: int) -> int:
    """How many characters fit in so many columns; what people see as one character is kept whole."""
    used = 0
    for i, character in enumerate(line):
        used += 2 if unicodedata.east_asian_width(character) in "WF" else 1
        if used > width:
            while i > 0 and (_joins(line[i]) or line[i - 1] == "\u200d"):
                i -= 1
            return i
    return len(line)


def _joins(character: str) -> bool:
    """Whether it changes the one before it: an accent, a joiner, a variation, a colour of skin."""
    return unicodedata.category(character) in ("Mn", "Me", "Mc", "Cf") or "\U0001f3fb" <= character <= "\U0001f3ff"
