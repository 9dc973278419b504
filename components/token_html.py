"""Tokens as HTML that can be looked at: every letter escaped, white space visible, facts where one points or tabs to.

What a model or a person wrote is never markup here: it stands in texts and attributes alone, escaped.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Sequence

import streamlit as st

from bluelm.types import Token, TokenLogprob
from components.i18n import Language, word

__all__ = ["SHADES", "draw_style", "glyphs", "probabilities", "shade", "tokens"]

SHADES = 10
_SHADED = "\n".join(
    f".tok.p{i} {{ background: rgba(234, 110, 20, {(SHADES - 1 - i) / (SHADES - 1) * 0.7:.2f}); }}"
    for i in range(SHADES)
)
CSS = f"""
<style>
.tokens {{ position: relative; white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.9; font-size: 0.95rem;
  max-height: 55vh; overflow-y: auto; padding: 0.5rem 0.75rem 0.75rem; border-radius: 0.5rem;
  border: 1px solid rgba(128, 138, 160, 0.35); }}
.tokens.told {{ padding-bottom: 9rem; }}
.tok {{ unicode-bidi: isolate; border-radius: 0.2rem; padding: 0.1rem 0; cursor: default;
  -webkit-box-decoration-break: clone; box-decoration-break: clone; }}
.tok.even {{ background: rgba(76, 127, 255, 0.16); }}
.tok.odd {{ background: rgba(30, 170, 110, 0.18); }}
.tok.marker {{ border: 1px dashed rgba(200, 60, 160, 0.9); color: inherit; background: rgba(200, 60, 160, 0.16);
  font-family: monospace; font-size: 0.85em; padding: 0.05rem 0.15rem; }}
.tok i {{ font-style: normal; opacity: 0.5; }}
.tok sub {{ font-size: 0.65rem; opacity: 0.75; margin: 0 0.25rem 0 0.1rem; user-select: none; }}
.tok:hover, .tok:focus-visible {{ outline: 2px solid rgba(76, 127, 255, 0.9); outline-offset: 1px; }}
.tok:hover::after, .tok:focus::after {{ content: attr(data-tip); position: absolute; left: 0.75rem; z-index: 5;
  margin-top: 1.9em; padding: 0.5rem 0.75rem; border-radius: 0.5rem; white-space: pre; font-family: monospace;
  font-size: 0.8rem; line-height: 1.5; background: #1c2130; color: #f3f5fa; max-width: calc(100% - 1.5rem);
  overflow: hidden; text-overflow: ellipsis; box-shadow: 0 4px 16px rgba(0, 0, 0, 0.35); pointer-events: none; }}
.tokens:has(.tok:hover) .tok:focus:not(:hover)::after {{ display: none; }}
{_SHADED}
.legend {{ display: flex; flex-wrap: wrap; gap: 0.25rem 0.75rem; font-size: 0.8rem; align-items: center; }}
.legend .tok {{ padding: 0.1rem 0.5rem; }}
</style>
"""
_SEEN = {" ": "·", "\n": "↵\n", "\t": "⇥\t", "\r": "␍"}


def draw_style() -> None:
    """Put the style on the page; once where `tokens` or `probabilities` is drawn."""
    st.html(CSS)


def glyphs(text: str) -> str:
    """A text as HTML with white space, control and direction characters visible; the rest as it is, escaped."""
    return "".join(_glyph(letter) for letter in text)


def _glyph(letter: str) -> str:
    if letter in _SEEN:
        return f"<i>{_SEEN[letter]}</i>"
    if unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp", "Zs", "Cn", "Co", "Cs"):
        return f"<i>⟨U+{ord(letter):04X}⟩</i>"
    return html.escape(letter)


def tokens(shown: Sequence[Token], to: Language, *, ids: bool) -> str:
    """Tokens in alternating colours. ids: beside each token, not only where one points."""
    spans = []
    for index, token in enumerate(shown):
        kind = "marker" if token.marker else ("even", "odd")[index % 2]
        facts = [word("tokens.id", to, id=token.id)]
        facts += [word("tokens.marker", to)] if token.marker else []
        facts += [word("tokens.bytes", to, bytes=token.utf8.hex(" "))] if token.utf8 else []
        said, tip = _text(token), _attribute(" · ".join(facts))
        end = "\n</i>" if said.endswith("\n</i>") else ""  # the number stands before the line's end
        number = f"<sub>{token.id}</sub>" if ids else ""
        spans.append(f'<span class="tok {kind}" data-tip="{tip}">{said.removesuffix(end)}{number}{end}</span>')
    return f'<div class="tokens">{"".join(spans)}</div>'


def probabilities(shown: Sequence[TokenLogprob], to: Language) -> str:
    """Tokens shaded by how likely they were, what else might have been said where one points or tabs to."""
    spans = []
    for one in shown:
        marker = " marker" if one.token.marker else ""
        tip = f"{_quoted(one.token)}  {percent(one.logprob)}  (logprob {one.logprob:.4f}, id {one.token.id})"
        for other in one.top:
            here = "▸" if other.token.id == one.token.id else " "
            tip += f"\n{here} {percent(other.logprob):>7}  {_quoted(other.token)}"
        label = word("tokens.label", to, token=_quoted(one.token), chance=percent(one.logprob)) + "".join(
            f"; {_quoted(other.token)} {percent(other.logprob)}" for other in one.top if other.token.id != one.token.id
        )
        spans.append(
            f'<span class="tok p{shade(one.logprob)}{marker}" tabindex="0" role="note" '
            f'aria-label="{_attribute(label)}" data-tip="{_attribute(tip)}">{_text(one.token)}</span>'
        )
    return f'<div class="tokens told">{"".join(spans)}</div>'


def legend(to: Language) -> str:
    """What the shades mean."""
    marks = "".join(f'<span class="tok p{shade(math.log(p))}">{p:.0%}</span>' for p in (0.99, 0.75, 0.5, 0.25, 0.05))
    return f'<div class="legend"><span>{html.escape(word("tokens.legend", to))}</span>{marks}</div>'


def shade(logprob: float) -> int:
    """0 for the unlikeliest to SHADES - 1."""
    return min(int(math.exp(min(logprob, 0.0)) * SHADES), SHADES - 1)


def percent(logprob: float) -> str:
    chance = math.exp(min(logprob, 0.0))
    return f"{chance:.1%}" if chance >= 0.001 else f"{chance:.0e}"


def _text(token: Token) -> str:
    return html.escape(token.text) if token.marker else glyphs(token.text) or "<i>∅</i>"


def _quoted(token: Token) -> str:
    """On one line, for a tip."""
    shown = token.text if token.marker else f"“{token.text}”"
    return "".join(
        letter if letter.isprintable() else {"\n": "↵", "\t": "⇥"}.get(letter, f"⟨U+{ord(letter):04X}⟩")
        for letter in shown
    )


def _attribute(text: str) -> str:
    return html.escape(text).replace("\n", "&#10;")
