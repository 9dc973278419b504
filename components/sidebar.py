"""The sidebar: widgets that make one SamplingParams and the system prompt, the language, and the model's card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from bluelm.conversation import View
from bluelm.errors import InvalidParameter
from bluelm.sampling import MAX_STOP_STRINGS, SEED_LIMIT
from bluelm.store.rows import Settings
from bluelm.types import ModelInfo, ModelKind, SamplingParams
from components import address, chats, demo, i18n, links, presets, sign_out, token_view
from components.i18n import tell

__all__ = ["Sidebar", "Wishes", "draw", "languages"]

ANSWER_LENGTH = 512  # to start from, where the model's own defaults name none
CONTINUATION_LENGTH = 128  # the same for a base model, which hardly ever ends by itself
PROMPT_ROOM = 32  # tokens of the window kept for a short message and the template around it


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the next answer is to be made with; params is None while a value cannot be used."""

    params: SamplingParams | None
    system: str = ""


@dataclass(frozen=True, slots=True)
class Sidebar:
    """What is set, and where things are drawn that are known only once the reader's wish has been carried out."""

    wishes: Wishes
    model: ModelInfo | None
    _list: DeltaGenerator
    _meter: DeltaGenerator | None
    _new_chat: Callable[[], None]

    def finish(self, view: View | None) -> None:
        """The list of conversations, with the one on the page, and how much of the window that one takes."""
        with self._list:
            plain = self.model is not None and self.model.kind is ModelKind.BASE
            chats.draw(view.id if view else "", address.open_one, self._new_chat, plain=plain)
        if self.model is not None and self._meter is not None:
            with self._meter:
                _context_meter(self.model, view)


def draw(model: ModelInfo | None, new_chat: Callable[[], None]) -> Sidebar:
    """Draw it, but for what `finish` draws. Before the model is known there is nothing to set yet."""
    with st.sidebar:
        base = model is not None and model.kind is ModelKind.BASE
        new = tell("new.text" if base else "new")
        st.button(new, key="new_chat", on_click=new_chat, icon=":material/edit_square:", width="stretch")
        if demo.on():
            return _for_an_audience(model, new_chat)
        listed, settings = st.tabs([tell("chats"), tell("settings")])
        place = listed.container(gap="small")
        with settings:
            wishes = Wishes(SamplingParams()) if model is None else _settings(model)
        with st.container(key="sidebar_foot"):
            meter = st.container()
            if model is not None:
                _model_card(model)
            links.to_status()
            languages()
            sign_out.draw()
    return Sidebar(wishes, model, place, meter, new_chat)


def _for_an_audience(model: ModelInfo | None, new_chat: Callable[[], None]) -> Sidebar:
    """Their conversations and the language: there is nothing to be set."""
    place = st.container(gap="small")
    with st.container(key="sidebar_foot"):
        languages()
        sign_out.draw()
    return Sidebar(Wishes(SamplingParams() if model is None else demo.params(model)), model, place, None, new_chat)


def languages() -> None:
    """The choice of a language. Set anew each time: what another page's widget held is not this one's."""
    st.session_state[i18n.KEY] = i18n.language()
    st.segmented_control(
        tell("language"), list(i18n.LANGUAGES), format_func=lambda code: i18n.LANGUAGES[code], key=i18n.KEY,
        required=True, label_visibility="collapsed", on_change=i18n.remember, persist_state="session",
    )  # fmt: skip


def _context_meter(model: ModelInfo, view: View | None) -> None:
    """How much of the window the conversation takes, as of its last answer."""
    known = [turn for turn in view.turns if turn.prompt_tokens] if view else []
    used = known[-1].context_tokens if known else 0
    window = known[-1].window if known else model.context
    st.progress(min(1.0, used / window), text=tell("context", used=f"{used:,}", window=f"{window:,}"))


def _defaults(model: ModelInfo) -> dict[str, object]:
    length = CONTINUATION_LENGTH if model.kind is ModelKind.BASE else ANSWER_LENGTH
    return _as_widgets(model.defaults, min(model.defaults.max_length or length, _length_limit(model)), "")


def _as_widgets(given: SamplingParams, max_length: int, system: str) -> dict[str, object]:
    """What the widgets hold for these settings."""
    return {
        "max_length": max_length,
        "temperature": float(given.temperature),
        "top_p": float(given.top_p),
        "top_k": given.top_k,
        "repetition_penalty": float(given.repetition_penalty),
        "seed": "" if given.seed is None else str(given.seed),
        "stop_strings": "\n".join(_escape(stop) for stop in given.stop),
        "logprobs": given.logprobs is not None,
        "system": system,
    }


def _length_limit(model: ModelInfo) -> int:
    return max(1, model.context - PROMPT_ROOM)


def _settings(model: ModelInfo) -> Wishes:
    defaults = _defaults(model)
    for name, value in defaults.items():
        st.session_state.setdefault(name, value)
    limit = _length_limit(model)
    presets_place = st.container()
    _number("max_length", 1, limit, limit=f"{limit:,}")
    _slider("temperature", 0.0, 2.0, 0.05)
    with st.expander(tell("settings.more"), icon=":material/tune:"):
        _slider("top_p", 0.05, 1.0, 0.05)
        _number("top_k", 0, max(1000, model.defaults.top_k))
        _slider("repetition_penalty", 0.5, 2.0, 0.05)
        st.text_input(  # a browser's numbers are not exact for the longest seeds
            tell("seed"), key="seed", help=tell("seed.help"), placeholder=tell("seed.empty"), persist_state="session"
        )
        _text("stop_strings")
        st.toggle(tell("logprobs"), key="logprobs", help=tell("logprobs.help"), persist_state="session")
        st.button(tell("settings.reset"), key="reset", on_click=_reset, args=(defaults,), icon=":material/restart_alt:")
    if model.kind is ModelKind.CHAT:
        _text("system", placeholder=tell("system.empty"))
        if not model.system_prompt:
            st.caption(tell("system.unheeded"))
    wishes = _wishes(model)
    with presets_place:
        now = None if wishes.params is None else Settings(wishes.params, wishes.system)
        presets.draw(now, lambda settings: _put_in(settings, limit))
    return wishes


def _put_in(settings: Settings, limit: int) -> None:
    _reset(_as_widgets(settings.params, settings.params.max_length or limit, settings.system))


def _keep_within(name: str, low: float, high: float) -> None:
    """Another model may allow less. Written only where it must be: what is set overrules a moving slider."""
    if not low <= st.session_state[name] <= high:
        st.session_state[name] = min(high, max(low, st.session_state[name]))


def _number(name: str, low: int, high: int, **words: str) -> None:
    _keep_within(name, low, high)
    st.number_input(
        tell(name), low, high, step=1, key=name, help=tell(f"{name}.help", **words), persist_state="session"
    )


def _slider(name: str, low: float, high: float, step: float) -> None:
    _keep_within(name, low, high)
    st.slider(tell(name), low, high, step=step, key=name, help=tell(f"{name}.help"), persist_state="session")


def _text(name: str, placeholder: str | None = None) -> None:
    st.text_area(
        tell(name), key=name, help=tell(f"{name}.help"), height=76, placeholder=placeholder, persist_state="session"
    )


def _reset(defaults: dict[str, object]) -> None:
    for name, value in defaults.items():
        st.session_state[name] = value


def _wishes(model: ModelInfo) -> Wishes:
    state = st.session_state
    try:
        params = SamplingParams(
            max_length=state["max_length"],
            temperature=state["temperature"],
            top_p=state["top_p"],
            top_k=state["top_k"],
            repetition_penalty=state["repetition_penalty"],
            seed=seed(state["seed"]),
            stop=stop_strings(state["stop_strings"]),
            logprobs=token_view.ALTERNATIVES if state["logprobs"] else None,
        )
    except InvalidParameter as error:
        st.error(tell("settings.bad", error=i18n.explain(error)))
        return Wishes(None)
    return Wishes(params, state["system"].strip() if model.kind is ModelKind.CHAT else "")


def seed(text: str) -> int | None:
    """The whole number that was typed, None for none. Raises InvalidParameter."""
    text = text.strip()
    if not text:
        return None
    if not (text.isascii() and text.isdigit()):
        raise InvalidParameter("seed", text, f"a whole number from 0 to {SEED_LIMIT - 1}")
    return int(text)


def stop_strings(lines: str) -> tuple[str, ...]:
    """One stop string a line; \\n, \\t and \\\\ stand for a line break, a tab and a backslash."""
    strings = []
    for line in lines.split("\n"):
        parts = line.split("\\\\")
        strings.append("\\".join(part.replace("\\n", "\n").replace("\\t", "\t") for part in parts))
    return tuple(string for string in strings if string)[: MAX_STOP_STRINGS + 1]


def _escape(stop: str) -> str:
    return stop.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")


def _model_card(model: ModelInfo) -> None:
    facts = tell(
        "model.facts",
        device=model.device or "?",
        dtype=model.dtype or "?",
        parameters=_short(model.parameters),
        context=f"{model.context:,}",
    )
    with st.container(gap=None):
        st.text(model.id)
        st.caption(facts)


def _short(count: int) -> str:
    """134515008 as "135M"."""
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)
