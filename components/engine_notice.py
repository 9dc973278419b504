"""Tells that the engine loads, restarts or is down, moves along with it, and goes by itself."""

from __future__ import annotations

import streamlit as st

from bluelm.engine import Engine
from bluelm.types import EngineState, Phase
from components.i18n import tell

__all__ = ["watch"]


def watch(engine: Engine, drawn: EngineState) -> None:
    """Draw the notice for the state that the page was drawn with, and have the page drawn anew when that changes."""
    if drawn.phase is Phase.READY:
        _watch_ready(engine)
    else:
        _watch_other(engine, drawn.phase)


@st.fragment(run_every=1.0)
def _watch_ready(engine: Engine) -> None:
    if engine.state().phase is not Phase.READY:
        st.rerun()


@st.fragment(run_every=0.4)
def _watch_other(engine: Engine, drawn: Phase) -> None:
    state = engine.state()
    if state.phase is not drawn:
        st.rerun()
    with st.container(border=True, gap="small", key="engine_notice"):
        st.markdown(f"**{tell(f'engine.{state.phase}')}**")
        if state.phase is Phase.DOWN:
            st.caption(tell("engine.down.sub"))
            if state.detail:
                st.code(state.detail, language=None, wrap_lines=True)
        else:
            progress = min(1.0, max(0.0, state.progress))
            st.progress(progress, text=f"{state.detail} {progress:.0%}".strip())
            st.caption(tell(f"engine.{state.phase}.sub"))
