"""The engine at work: how it is, what it did in the last minutes, its settings; restart, another model."""

from __future__ import annotations

import html

import streamlit as st

from bluelm import __version__, service
from bluelm.types import EngineState, ModelInfo, Phase
from components import links, sidebar, status_actions, status_charts
from components.engine_handle import engine as shared_engine
from components.i18n import tell
from components.status_actions import name_of

EVERY_S = 2.0
MINUTES = (1, 5, 10)
COLOURS = {Phase.READY: "green", Phase.LOADING: "orange", Phase.RESTARTING: "orange", Phase.DOWN: "red"}
ICONS = {
    Phase.READY: ":material/check_circle:", Phase.LOADING: ":material/hourglass_top:",
    Phase.RESTARTING: ":material/restart_alt:", Phase.DOWN: ":material/error:",
}  # fmt: skip

engine = shared_engine()


def draw_state() -> None:
    """How it is now; with the load, as far as that is."""
    state = engine.state()
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="status_head"):
        name = name_of(state.checkpoint) if state.phase is not Phase.READY or state.model is None else state.model.id
        st.markdown(f"### {_escape(name)}" if name else f"### {tell('page.status')}")
        st.badge(tell(f"status.phase.{state.phase}"), icon=ICONS[state.phase], color=COLOURS[state.phase])  # type: ignore[arg-type]
    if state.phase in (Phase.LOADING, Phase.RESTARTING):
        progress = min(1.0, max(0.0, state.progress))
        st.progress(progress, text=f"{state.detail} {progress:.0%}".strip())
    elif state.detail:
        st.code(state.detail, language=None, wrap_lines=True)
    if state.failed:
        st.warning(tell("status.failed", name=_escape(name_of(state.failed))), icon=":material/undo:")
        st.code(state.trouble, language=None, wrap_lines=True)
    draw_numbers(state)


def draw_numbers(state: EngineState) -> None:
    last = service.history().last(5)
    newest = last[-1] if last else None
    first = [sample.first_token_s for sample in service.history().last(60) if sample.first_token_s is not None]
    used = f"{state.cache_used / state.cache_total:.0%}" if state.cache_total else "–"
    figures = [
        ("tokens", f"{newest.tokens_per_s:,.0f}" if newest else "–"),
        ("running", f"{state.running:,}"),
        ("waiting", f"{state.waiting:,}"),
        ("first", f"{sum(first) / len(first):.2f} s" if first else "–"),
        ("cache", used),
    ]
    if state.gpu_memory_total:
        figures.append(("memory", f"{state.gpu_memory_used / status_charts.GIB:.1f} GB"))
    with st.container(horizontal=True, gap="small", key="status_figures"):
        for name, value in figures:
            st.metric(tell(f"status.figure.{name}"), value, border=True)


def draw_charts() -> None:
    minutes = int(st.session_state.get("status_minutes") or MINUTES[1])
    status_charts.draw(engine.state(), service.history().last(60.0 * minutes), minutes)


def draw_facts() -> None:
    """The model and what it was set up with."""
    state, settings = engine.state(), service.settings()
    rows = {
        "engines": f"{state.engines_ready} / {state.engines}", "restarts": f"{state.restarts:,}",
        "cache_tokens": tell("status.tokens", n=f"{state.cache_total:,}") if state.cache_total else "–",
        "max_waiting": f"{settings.max_waiting:,}", "checkpoint": state.checkpoint,
        "quantization": settings.quantization, "version": __version__,
    }  # fmt: skip
    if state.model is not None:
        rows = _of_model(state.model) | rows
    lines = "".join(
        f"<tr><th>{html.escape(tell(f'status.fact.{name}'))}</th><td>{html.escape(value)}</td></tr>"
        for name, value in rows.items()
    )
    st.html(f'<table class="facts_table">{lines}</table>')


def _of_model(model: ModelInfo) -> dict[str, str]:
    return {
        "model": model.id, "kind": tell(f"status.kind.{model.kind}"), "device": model.device, "dtype": model.dtype,
        "parameters": f"{model.parameters:,}", "context": tell("status.tokens", n=f"{model.context:,}"),
    }  # fmt: skip


def _escape(text: str) -> str:
    return "".join("\\" + c if c in "\\`*_{}[]()#+-!~:$<>|" else c for c in text)


def draw_page() -> None:
    with st.sidebar:
        links.to_main()
        sidebar.languages()
    st.caption(f"**{tell('app')}** · {tell('page.status')}")
    st.fragment(draw_state, run_every=EVERY_S / 2)()
    status_actions.draw(engine)
    st.segmented_control(
        tell("status.minutes"), MINUTES, default=MINUTES[1], key="status_minutes", required=True,
        format_func=lambda minutes: f"{minutes} {tell('status.min')}", label_visibility="collapsed",
    )  # fmt: skip
    st.fragment(draw_charts, run_every=EVERY_S)()
    st.markdown(f"**{tell('status.facts')}**")
    st.fragment(draw_facts, run_every=EVERY_S)()


draw_page()
