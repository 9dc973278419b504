"""A library of prompts with `{{variables}}`: choose one, fill it in, send it or put it into the box."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from bluelm.errors import BlueLMError
from bluelm.store import shelf
from bluelm.store.shelf import NAME_CHARS, TEXT_CHARS, filled, variables
from components import i18n
from components.i18n import tell
from components.message_actions import Wish
from components.reader import owner

__all__ = ["draw", "draw_button"]

OPEN, CHOSEN = "prompts_open", "prompts_chosen"


def draw_button() -> None:
    st.button(tell("prompts"), key="prompts_button", icon=":material/library_books:", type="tertiary", on_click=_open)


def _open() -> None:
    st.session_state[OPEN] = True


def draw(wish: Wish) -> None:
    """The dialog, if it was asked for."""
    if st.session_state.pop(OPEN, False):
        st.dialog(tell("prompts"), icon=":material/library_books:", width="medium")(_library)(wish)


def _library(wish: Wish) -> None:
    use, write = st.tabs([tell("prompts.use"), tell("prompts.write")])
    own = shelf().prompts(owner())
    prompts = {**own, **{name: text for name, text in i18n.LIBRARY[i18n.language()] if name not in own}}
    with use:
        name = st.selectbox(tell("prompts.choose"), list(prompts), key=CHOSEN, label_visibility="collapsed")
        if name in prompts:
            _fill_in(name, prompts[name], name in own, wish)
    with write:
        _write(prompts)


def _fill_in(name: str, text: str, is_own: bool, wish: Wish) -> None:
    """A field for each variable, and the prompt as it will be."""
    values = {}
    for variable in variables(text):
        values[variable] = st.text_area(variable, key=f"variable_{name}_{variable}", height=68)
    whole = filled(text, values) if all(value.strip() for value in values.values()) else ""
    st.code(whole or text, language=None, wrap_lines=True, height=160 if len(whole or text) > 400 else "content")
    if values and not whole:
        st.caption(tell("prompts.fill"))
    with st.container(horizontal=True):
        if st.button(tell("send"), type="primary", icon=":material/send:", key="prompt_send", disabled=not whole):
            wish("ask", whole)
            st.rerun()
        if st.button(tell("prompts.to_box"), icon=":material/edit:", key="prompt_to_box", disabled=not whole):
            wish("write", whole)
            st.rerun()
        if is_own and st.button(tell("delete"), icon=":material/delete:", type="tertiary", key="prompt_delete"):
            _keep(lambda: shelf().delete_prompt(owner(), name))


def _write(prompts: dict[str, str]) -> None:
    """A new prompt, or another text for one that is there."""
    with st.form("prompt_form", border=False, clear_on_submit=False):
        name = st.text_input(tell("prompts.name"), max_chars=NAME_CHARS, key="prompt_name")
        text = st.text_area(
            tell("prompts.text"),
            max_chars=TEXT_CHARS,
            key="prompt_text",
            height=160,
            placeholder=tell("prompts.example"),
        )
        if st.form_submit_button(tell("save"), type="primary", icon=":material/save:"):
            _keep(lambda: shelf().save_prompt(owner(), name, text))
    if name.strip() in prompts:
        st.caption(tell("prompts.replaces"))


def _keep(change: Callable[[], None]) -> None:
    try:
        change()
    except BlueLMError as error:
        st.error(i18n.explain(error), icon=":material/error:")
        return
    st.rerun(scope="fragment")
