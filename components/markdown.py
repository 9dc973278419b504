"""Model text as Markdown that shows what the model wrote: no surprise formulas, emoji, colours, or images fetched.

Streamlit's Markdown reads more into a text than CommonMark does. `render` writes those marks so that they come out as
themselves, and adds what models mean and Streamlit does not read (`\\(..\\)`, `\\[..\\]`, single newlines, bold beside
Chinese punctuation). Code is left alone. `components.blocks` cuts a growing text into blocks for it.
"""

from __future__ import annotations

import re
import unicodedata

from components.blocks import FENCE, closes, is_table_rule

__all__ = ["code_block", "render"]

_TOP_FENCE = re.compile(r"^\s*?(?:^|\n)(`{3,}(?=[^`\n]*(?:\n|$))|~{3,})[ \t]*([^\n]*)(?:\n|$)")
_LIST_ITEM = re.compile(r"^[ \t]*(?:[-*+]|\d{1,9}[.)])(?:[ \t]|$)")
_DEFINITION = re.compile(r"^([ \t]{0,3})\[(?=[^\]\n]+\]:)", re.MULTILINE)

# What is kept whole or rewritten as a whole; everything between is plain text. None goes on over a blank line.
_INSIDE = r"(?:(?!\n[ \t]*\n)[^$])+?"
_TOKEN = re.compile(
    rf"""
      (?P<code>(?<![`\\])(`+)(?!`)(?:(?!\n[ \t]*\n).)+?(?<!`)\2(?!`))
    | (?P<block>(?:(?<=\n)|\A)(?P<indent>[ \t]*)(?:\$\$(?P<b1>{_INSIDE})\$\$|\\\[(?P<b2>{_INSIDE})\\\])[ \t]*(?=\n|\Z))
    | \$\$(?P<m1>{_INSIDE})\$\$
    | \\\((?P<m2>{_INSIDE})\\\)
    | \\\[(?P<m3>{_INSIDE})\\\]
    | (?P<link><(?:https?://|mailto:)[^\s<>]*> | https?://[^\s<>"'`|*，。；：！？、（）《》“”]*)
    | (?P<target>(?<=\])\((?:[^()\s]|\([^()\s]*\))*(?:\s+"[^"\n]*")?\))
    | (?P<escape>\\[!-/:-@\[-`{{-~])
    """,
    re.VERBOSE | re.DOTALL,
)

# Streamlit turns these into typographic signs where they stand alone, after entities have been read back.
_ARROWS = re.compile(r"(?<![\w<>=~-])(<->|->|<-|--|>=|<=|~=)(?![\w<>=~-])")
_SHORTCODE = re.compile(r":(?=[\w+-]+:|material[/_])", re.ASCII)
_COLON = re.compile(r":(?=\S)|(?<=:):")
_SINGLE_TILDE = re.compile(r"(?<!~)~(?!~)")
_ENTITY = re.compile(r"&(?=#?\w+;)")
_STARS = re.compile(r"\*{1,3}")

# Stand-ins while a text is rewritten, for marks that a later step would take for the model's own.
_CUT_OPEN, _CUT_CLOSE, _COLON_MARK, _BANG, _CODE_POINT = "\0", "\1", "\2", "\3", "\4"
_STAND_INS = {_CUT_OPEN: ":color[", _CUT_CLOSE: "]", _COLON_MARK: "&#58;", _BANG: "&#33;", _CODE_POINT: "&#"}
_CONTROL = re.compile("[\0-\4]")


def code_block(block: str) -> tuple[str, str] | None:
    """(language, code) if the block is one fenced code block at the left margin, closed or still open; else None."""
    opening = _TOP_FENCE.match(block)
    if opening is None:
        return None
    fence, info = opening.groups()
    lines = block[opening.end() :].split("\n")
    closed = next((i for i, line in enumerate(lines) if closes(line, fence)), None)
    lines = lines[:closed] if closed is not None else lines[:-1] if lines[-1] == "" else lines
    return info.split()[0] if info.split() else "", "\n".join(lines)


def render(text: str) -> str:
    """Markdown for `st.markdown` (without HTML) that shows `text` as it was meant."""
    runs = _runs(_CONTROL.sub("", text).replace("\r\n", "\n"))
    return "\n".join(run if is_code else _render_text(run) for is_code, run in runs)


def _runs(text: str) -> list[tuple[bool, str]]:
    """The text as runs of whole lines; (True, lines) are code, fenced (wherever it is nested) or indented."""
    runs: list[tuple[bool, list[str]]] = []
    fence, in_list, after_blank = "", False, True
    for line in text.split("\n"):
        opening = FENCE.match(line) if not fence else None
        indented = not fence and not in_list and line.startswith("    ") and bool(line.strip())
        indented = indented and (after_blank or (bool(runs) and runs[-1][1][-1].startswith("    ")))
        is_code = bool(fence) or opening is not None or indented
        if not runs or runs[-1][0] != is_code:
            runs.append((is_code, []))
        runs[-1][1].append(line)
        if opening is not None and not indented:
            fence = opening.group(1)
        elif fence and closes(line.lstrip(" \t>"), fence):
            fence = ""
        in_list = in_list or bool(_LIST_ITEM.match(line))
        after_blank = not line.strip()
    return [(is_code, _fenced(lines) if is_code else "\n".join(lines)) for is_code, lines in runs]


def _fenced(lines: list[str]) -> str:
    """Indented code as a fence, since Streamlit takes common indentation away; a fence as it is."""
    if FENCE.match(lines[0]) and not lines[0].startswith("    "):
        return "\n".join(lines)
    if not all(line.startswith("    ") for line in lines):
        return "\n".join(lines)
    return "\n".join(["~~~~", *(line[4:] for line in lines), "~~~~"])


def _render_text(text: str) -> str:
    out: list[str] = []
    at = 0
    for token in _TOKEN.finditer(text):
        out += [_plain(text, at, token.start()), _rewrite(token)]
        at = token.end()
    out.append(_plain(text, at, len(text)))
    return "".join(out)


def _rewrite(token: re.Match[str]) -> str:
    """The Markdown for one token; math goes between double dollars, which need no guessing."""
    if token["code"] is not None:
        return token.group()
    if token["block"] is not None:
        indent, body = token["indent"], (token["b1"] or token["b2"]).strip()
        return f"{indent}$$\n{indent}{body}\n{indent}$$"
    inline = token["m1"] or token["m2"]
    if inline is not None:
        return f"$${' '.join(inline.split())}$$"
    if token["m3"] is not None:
        return f"$$\\displaystyle {' '.join(token['m3'].split())}$$"
    if token["escape"] in ("\\(", "\\)", "\\[", "\\]"):  # a formula that is not closed (yet)
        return "&#92;" + token["escape"][1]
    if token["escape"] in ("\\$", "\\:", "\\~", "\\&"):
        return f"&#{ord(token['escape'][1])};"
    return token.group().replace("$", "&#36;")


def _plain(text: str, start: int, end: int) -> str:
    """text[start:end], which lies outside code and formulas, with the marks that would be misread written otherwise.

    Entities are read back before Streamlit looks for shortcodes and arrows, so these are cut in two by an empty colour.
    """
    lines = _free_stars(text, start, end).split("\n")
    plain = [line if is_table_rule(line) else _plain_line(line) for line in lines]
    for i in range(len(lines) - 1):
        here = lines[i].strip() or (i == 0 and start > 0 and text[start - 1] != "\n")
        below = lines[i + 1].strip() or (i + 2 == len(lines) and end < len(text))
        if here and below:
            plain[i] += "  "
    return _DEFINITION.sub(r"\1&#91;", "\n".join(plain))


def _plain_line(line: str) -> str:
    line = _ENTITY.sub("&amp;", line)
    line = line.replace("![", _BANG + "[")
    line = _ARROWS.sub(lambda m: f"{_CUT_OPEN}{m[1][0]}{_CUT_CLOSE}{m[1][1:]}", line)
    line = _SHORTCODE.sub(f"{_CUT_OPEN}{_COLON_MARK}{_CUT_CLOSE}", line)
    line = _COLON.sub(_COLON_MARK, line)
    line = _SINGLE_TILDE.sub("&#126;", line)
    line = line.replace("$", "&#36;").replace("<", "&lt;")
    return _CONTROL.sub(lambda m: _STAND_INS[m[0]], line)


def _free_stars(text: str, start: int, end: int) -> str:
    """text[start:end] in which `**“重点”**内容` is bold: CommonMark reads stars between punctuation and letter as text.

    The letter is written as an entity, whose own punctuation makes the stars count. Only beside Chinese, Japanese and
    Korean letters, which are written without spaces.
    """
    out = list(text[start:end])
    for stars in _STARS.finditer(text, max(0, start - 3), min(len(text), end + 3)):
        before, after = stars.start() - 1, stars.end()
        if before < 0 or after >= len(text):
            continue
        if start <= after < end and _is_cjk_letter(text[after]) and _is_punctuation(text[before]):
            out[after - start] = f"{_CODE_POINT}{ord(text[after])};"
        if start <= before < end and _is_cjk_letter(text[before]) and _is_punctuation(text[after]):
            out[before - start] = f"{_CODE_POINT}{ord(text[before])};"
    return "".join(out)


def _is_cjk_letter(char: str) -> bool:
    return ord(char) >= 0x2E80 and unicodedata.category(char)[0] in "LN"


def _is_punctuation(char: str) -> bool:
    return unicodedata.category(char)[0] in "PS"
