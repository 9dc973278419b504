"""What the model saw: the exact prompt of an answer, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import streamlit as st

from bluelm.conversation import Turn
from bluelm.engine import Engine
from bluelm.errors import BlueLMError
from bluelm.types import Written
from components import token_html
from components.i18n import explain, language, tell

__all__ = ["draw", "part"]

PART = 1500  # tokens on the page at once

T = TypeVar("T")


def draw(turn: Turn, prompt: Written, engine: Engine) -> None:
    """The dialog. prompt: what the engine was sent for the answer, without messages that fell out of the window."""
    st.dialog(tell("seen"), icon=":material/visibility:", width="large")(_content)(turn, prompt, engine)


def part(shown: Sequence[T], key: str) -> Sequence[T]:
    """So many as a page takes, the reader choosing which where there are more."""
    if len(shown) <= PART:
        return shown
    parts = -(-len(shown) // PART)
    number = int(st.number_input(tell("tokens.part", n=parts), 1, parts, key=key, width=240))
    return shown[(number - 1) * PART : number * PART]


def _content(turn: Turn, prompt: Written, engine: Engine) -> None:
    try:
        told = engine.tokenize(prompt)
    except BlueLMError as error:
        st.error(explain(error), icon=":material/error:")
        return
    markers = sum(token.marker for token in told.tokens)
    st.write(tell("seen.sub", n=f"{len(told.ids):,}", markers=f"{markers:,}"))
    model = engine.state().model
    if model is not None and turn.model and model.id != turn.model:
        st.warning(tell("seen.other_model", was=turn.model, now=model.id), icon=":material/warning:")
    by_token, as_text = st.tabs([tell("seen.tokens"), tell("seen.text")])
    with by_token:
        ids = st.toggle(tell("seen.ids"), key="seen_ids")
        shown = part(told.tokens, "seen_part")
        token_html.draw_style()
        st.html(token_html.tokens(shown, language(), ids=ids))
    as_text.code(told.text, language=None, wrap_lines=True, height=380)
