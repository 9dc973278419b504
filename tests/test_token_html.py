"""Tokens on the page: nothing that a model or a person wrote becomes markup, and what was told is kept as it was."""

from __future__ import annotations

import math
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluelm.conversation import told
from bluelm.types import Token, TokenLogprob
from components import token_html

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
NASTY = [
    '<img src="http://leak.invalid/x.png">',
    '" onmouseover="alert(1)" x="',
    "</span><script>alert(1)</script>",
    "&#60;",
]


@st.composite
def tokens(draw: st.DrawFn) -> Token:
    text = draw(st.one_of(TEXTS, st.sampled_from(NASTY)))
    marker = draw(st.booleans())
    return Token(
        draw(st.integers(0, 2**31 - 1)),
        text,
        b"" if marker else draw(st.sampled_from([text.encode(), b"\xe4"])),
        marker,
    )


@st.composite
def told_tokens(draw: st.DrawFn) -> TokenLogprob:
    chance = st.floats(-30, 0).map(lambda value: round(value, told.DIGITS))
    top = draw(st.lists(st.builds(TokenLogprob, tokens(), chance), max_size=5))
    return TokenLogprob(draw(tokens()), draw(chance), tuple(top))


class Seen(HTMLParser):
    """Which elements and attributes there are, and what is to be read."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[str] = []
        self.names: set[str] = set()
        self.tips: list[str] = []
        self.text = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(tag)
        self.names |= {name for name, _ in attrs}
        self.tips += [value or "" for name, value in attrs if name == "data-tip"]

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.lists(told_tokens(), max_size=6), st.booleans())
def test_no_text_becomes_markup(shown: list[TokenLogprob], ids: bool) -> None:
    for html in (
        token_html.tokens([one.token for one in shown], "en", ids=ids), token_html.probabilities(shown, "zh"),
    ):  # fmt: skip
        seen = Seen(html)
        assert set(seen.elements) <= {"div", "span", "i", "sub"}
        assert seen.elements.count("span") == len(shown) == len(seen.tips)
        assert seen.names <= {"class", "data-tip", "tabindex", "role", "aria-label"}


@given(TEXTS)
def test_white_space_and_hidden_characters_are_visible_and_the_rest_is_as_it_was(text: str) -> None:
    seen = Seen(token_html.glyphs(text)).text
    for letter in text:
        if letter.isprintable() and letter != " ":
            assert letter in seen
        elif letter not in " \n\t\r":
            assert f"⟨U+{ord(letter):04X}⟩" in seen
    assert "\u202e" not in seen and seen.count("·") == text.count(" ") + text.count("·")


def test_shades_go_from_certain_to_unlikely() -> None:
    shades = [token_html.shade(math.log(chance)) for chance in (1.0, 0.95, 0.55, 0.21, 0.01)]
    assert shades == [9, 9, 5, 2, 0] and token_html.shade(0.001) == 9 and token_html.shade(-1e6) == 0


@given(st.lists(told_tokens(), max_size=5), st.lists(told_tokens(), max_size=5))
def test_what_is_kept_is_what_was_told(first: list[TokenLogprob], then: list[TokenLogprob]) -> None:
    packed = told.joined(told.pack(first), told.pack(then))
    assert told.unpack(packed) == (*first, *then)


@pytest.mark.parametrize(
    "bad", ["{}", "[1]", '[[[1],-1,[]]]', '[[[1,"a"],5,[]]]', '[[[-1,"a"],-1,[]]]', '[[[1,"a","zz",true],-1,[]]]',
            '[[[1,"a"],-1,[[[1,2],-1]]]]', "[[[1,\"a\"],-1," + str([[[1, "a"], -1]] * 21).replace("'", '"') + "]]"],
)  # fmt: skip
def test_what_was_never_told_is_refused(bad: str) -> None:
    with pytest.raises(ValueError):
        told.unpack(bad)
