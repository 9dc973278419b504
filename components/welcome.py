"""An empty page: a greeting, and some questions, or texts, to begin with."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from bluelm.types import ModelInfo
from components import i18n
from components.i18n import tell

__all__ = ["demo_line", "draw", "draw_prompts"]


def draw(model: ModelInfo | None, ready: bool, ask: Callable[[str], None]) -> None:
    """Greet; the questions can be pressed once the model is ready. The demo model understands English ones only."""
    with st.container(key="welcome", gap="small"):
        st.header(tell("hello"), anchor=False, text_alignment="center")
        st.caption(tell("hello.sub"), text_alignment="center")
        starters = i18n.STARTERS["en" if model is not None and model.demo else i18n.language()]
        for pair in (starters[:2], starters[2:]):
            for column, (icon, text) in zip(st.columns(2), pair, strict=True):
                key = f"starter_{text}"
                column.button(
                    text, key=key, icon=icon, on_click=ask, args=(text,), disabled=not ready, width="stretch", wrap=True
                )


def draw_prompts(begin_with: Callable[[str], None]) -> None:
    """Say what a base model does, and offer texts for it to go on with."""
    with st.container(key="welcome", gap="small"):
        st.header(tell("hello.base"), anchor=False, text_alignment="center")
        st.caption(tell("hello.base.sub"), text_alignment="center")
        with st.container(horizontal=True, gap="small", horizontal_alignment="center"):
            for i, (icon, name, text) in enumerate(i18n.PROMPTS[i18n.language()]):
                st.button(name, key=f"prompt_{i}", icon=icon, on_click=begin_with, args=(text,))


def demo_line(model: ModelInfo | None) -> None:
    """Say that this is only the demo model, where it is."""
    if model is not None and model.demo:
        st.caption(":material/science: " + tell("demo", model=model.id))
