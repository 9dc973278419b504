"""Presets: the settings of the sidebar and the system prompt under a name, to be had back at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import streamlit as st

from bluelm.errors import BlueLMError
from bluelm.store import shelf
from bluelm.store.rows import Settings
from bluelm.store.shelf import NAME_CHARS
from components import i18n
from components.i18n import tell
from components.reader import owner

__all__ = ["draw"]

CHOSEN, NAME, FAULT = "preset", "preset_name", "preset_fault"


def draw(current: Settings | None, put_in: Callable[[Settings], None]) -> None:
    """current: what is set now, None while it cannot be used. put_in: sets the widgets of the sidebar."""
    presets = shelf().presets(owner())
    with st.container(horizontal=True, gap="xsmall", vertical_alignment="bottom", key="presets"):
        st.selectbox(
            tell("presets"), list(presets), index=None, key=CHOSEN, placeholder=tell("presets.choose"),
            on_change=_choose, args=(presets, put_in), label_visibility="collapsed",
        )  # fmt: skip
        with st.popover(
            tell("presets.save"), icon=":material/bookmark_add:", key="icon_presets", help=tell("presets.save")
        ):
            st.text_input(tell("presets.name"), key=NAME, max_chars=NAME_CHARS, placeholder=tell("presets.example"))
            st.button(tell("save"), key="preset_save", icon=":material/save:", type="primary", on_click=_save,
                      args=(current,), disabled=current is None)  # fmt: skip
            chosen = st.session_state.get(CHOSEN)
            if chosen in presets:
                st.button(tell("presets.delete", name=chosen), key="preset_delete", icon=":material/delete:",
                          type="tertiary", on_click=_delete, args=(chosen,))  # fmt: skip
    if (fault := st.session_state.pop(FAULT, None)) is not None:
        st.error(i18n.explain(fault), icon=":material/error:")


def _choose(presets: Mapping[str, Settings], put_in: Callable[[Settings], None]) -> None:
    if (chosen := st.session_state[CHOSEN]) in presets:
        put_in(presets[chosen])


def _save(current: Settings) -> None:
    name = " ".join(st.session_state[NAME].split())
    if _did(lambda: shelf().save_preset(owner(), name, current)):
        st.session_state[CHOSEN], st.session_state[NAME] = name, ""


def _delete(name: str) -> None:
    if _did(lambda: shelf().delete_preset(owner(), name)):
        st.session_state[CHOSEN] = None


def _did(change: Callable[[], None]) -> bool:
    try:
        change()
    except BlueLMError as error:
        st.session_state[FAULT] = error
        return False
    return True
