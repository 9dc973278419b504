"""What can be done to the engine from its page: a restart, another checkpoint. Each is asked about once more."""

from __future__ import annotations

from pathlib import PurePath

import streamlit as st

from bluelm import models, service
from bluelm.engine import Engine
from bluelm.errors import BlueLMError
from bluelm.models import DEMO
from bluelm.types import EngineState
from components import i18n
from components.i18n import tell

__all__ = ["draw", "name_of"]

ASKED, CHOSEN = "engine_dialog", "engine_checkpoint"


def name_of(checkpoint: str) -> str:
    """A checkpoint as people know it."""
    return tell("status.demo_model") if checkpoint == DEMO else PurePath(checkpoint).name


def draw(engine: Engine) -> None:
    """The two buttons, and the dialog that was asked for."""
    with st.container(horizontal=True, gap="small"):
        st.button(tell("status.restart"), key="engine_restart", icon=":material/restart_alt:", on_click=_ask,
                  args=("restart",))  # fmt: skip
        st.button(tell("status.switch"), key="engine_switch", icon=":material/swap_horiz:", on_click=_ask,
                  args=("switch",))  # fmt: skip
    asked = st.session_state.pop(ASKED, "")
    if asked == "restart":
        st.dialog(tell("status.restart"), icon=":material/restart_alt:")(_restart)(engine)
    elif asked == "switch":
        st.dialog(tell("status.switch"), icon=":material/swap_horiz:")(_switch)(engine)


def _ask(what: str) -> None:
    st.session_state[ASKED] = what


def _restart(engine: Engine) -> None:
    st.write(tell("status.restart.sub"))
    _tell_open(engine.state())
    if _confirmed("status.restart"):
        _do(engine.restart)


def _switch(engine: Engine) -> None:
    state, known = engine.state(), models.on_disk(service.settings())
    st.write(tell("status.switch.sub"))
    others = [checkpoint for checkpoint in known if checkpoint != state.checkpoint]
    chosen = st.radio(
        tell("status.checkpoint"), others, index=None, key=CHOSEN, format_func=name_of,
        captions=["" if one == DEMO else str(PurePath(one).parent) for one in others], label_visibility="collapsed",
    )  # fmt: skip
    if not others:
        st.info(tell("status.switch.none"), icon=":material/info:")
    _tell_open(state)
    if _confirmed("status.switch.go", disabled=chosen is None) and chosen is not None:
        _do(lambda: engine.switch(chosen))


def _tell_open(state: EngineState) -> None:
    if open_answers := state.running + state.waiting:
        st.warning(tell("status.open", n=open_answers), icon=":material/hourglass_top:")


def _confirmed(label: str, *, disabled: bool = False) -> bool:
    with st.container(horizontal=True, gap="small"):
        confirmed = st.button(tell(label), key="engine_confirm", type="primary", disabled=disabled)
        if st.button(tell("cancel"), key="engine_cancel"):
            st.rerun()
    return confirmed


def _do(change) -> None:  # type: ignore[no-untyped-def]
    try:
        change()
    except BlueLMError as error:
        st.error(i18n.explain(error), icon=":material/error:")
        return
    st.rerun()
