"""Tells that the engine loads, restarts or is down, moves along with it, and goes by itself."""

from __future__ import annotations

import streamlit as st

from bluelm.engine import Engine
from bluelm.types import EngineState, Phase
from components import demo
from components.i18n import tell

__all__ = ["watch"]


def watch(engine: Engine, drawn: EngineState) -> None:
    """Draw the notice for the state that the page was drawn with, and have the page drawn anew when that changes."""
    every_s = 2.0 if drawn.phase is Phase.READY else 0.4
    st.fragment(_look, run_every=every_s)(engine, drawn.phase)


def _look(engine: Engine, drawn: Phase) -> None:
    state = engine.state()
    if state.phase is not drawn:
        st.rerun()
    if state.phase is not Phase.READY:
        _notice(state)


def _notice(state: EngineState) -> None:
    with st.container(border=True, gap="small", key="engine_notice"):
        st.markdown(f"**{tell(f'engine.{state.phase}')}**")
        if state.phase is Phase.DOWN:
            st.caption(tell("engine.down.demo" if demo.on() else "engine.down.sub"))
            if state.detail and not demo.on():
                st.code(state.detail, language=None, wrap_lines=True)
        else:
            progress = min(1.0, max(0.0, state.progress))
            st.progress(progress, text=f"{progress:.0%}" if demo.on() else f"{state.detail} {progress:.0%}".strip())
            st.caption(tell(f"engine.{state.phase}.sub"))
