"""Answers for bench/page.py: the kinds of Markdown that models write, of any length, cut into pieces like tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import count, islice

__all__ = ["KINDS", "pieces"]

PARAGRAPH = (
    "Light from the sun meets the molecules of the air, which are much smaller than its wavelength, and is turned "
    "aside. Blue is turned **about five times** as much as red, so it reaches the eye from every part of the sky, "
    "while the rest goes straight on; near the horizon the way is longer, and `red` is what remains ($5 of it)."
)
CHINESE = (
    "太阳光由各种颜色的光组成。空气分子比光的波长小得多，会把光向四面八方散射，其中**蓝光**被散射得最多，"
    "所以无论往天空的哪个方向看，进入眼睛的大多是蓝光；日出日落时光线走过的路程更长，剩下的就是红光。"
)
CODE = '''def scattered(wavelength_nm: float, strength: float = 1.0) -> float:
    """How much of the light is turned aside, by Rayleigh's law."""
    if wavelength_nm <= 0:
        raise ValueError(f"a wavelength is above 0, not {wavelength_nm}")
    return strength * (550.0 / wavelength_nm) ** 4  # blue: 2.2, red: 0.5

'''
ITEMS = (
    "- **Rayleigh**: small particles, blue light first\n- **Mie**: drops of water, all colours alike\n"
    "- dust: a bit of both, red evenings\n"
)


def _mixed(number: int) -> str:
    return (
        f"## {number}. Why it is blue\n\n{PARAGRAPH}\n\n{ITEMS}\n{CHINESE}\n\n"
        f"```python\n{CODE.strip()}\n```\n\n\\[ I(\\lambda) = I_0 \\lambda^{{-4}} \\]\n\n"
        "| colour | wavelength | share |\n|---|---|---|\n| blue | 450 nm | 2.2 |\n| green | 550 nm | 1.0 |\n"
        "| red | 650 nm | 0.5 |\n\n"
    )


def _endless(begin: str, line: Callable[[int], str]) -> Iterator[str]:
    yield begin
    for number in count(1):
        yield line(number)


KINDS: dict[str, Callable[[], Iterator[str]]] = {
    "mixed": lambda: _endless("", _mixed),
    "prose": lambda: _endless("", lambda n: PARAGRAPH + "\n\n"),
    "chinese": lambda: _endless("", lambda n: CHINESE + "\n\n"),
    "code": lambda: _endless("```python\n", lambda n: CODE.replace("scattered", f"scattered_{n}")),
    "list": lambda: _endless("", lambda n: f"{n}. **Point {n}**: {PARAGRAPH[: 60 + 7 * (n % 9)]}\n"),
    "table": lambda: _endless("| no | colour | nm |\n|---|---|---|\n", lambda n: f"| {n} | blue {n} | {400 + n} |\n"),
    "lines": lambda: _endless("", lambda n: f"{n} {PARAGRAPH[:70]}\n"),
}

_TOKEN = re.compile(r" ?[A-Za-z]{1,6}|[一-鿿]{1,2}|\n| {2,}|.", re.DOTALL)


def pieces(kind: str, tokens: int) -> list[str]:
    """The first `tokens` pieces of an answer of this kind, of about four letters or one and a half Chinese ones."""
    return list(islice((token for text in KINDS[kind]() for token in _TOKEN.findall(text)), tokens))
