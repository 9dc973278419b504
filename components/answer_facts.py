"""What stands under an answer: how it ended, what it cost, what went wrong."""

from __future__ import annotations

import streamlit as st

from bluelm.conversation import Status, Turn
from bluelm.errors import PromptTooLong
from bluelm.types import FinishReason
from components.i18n import Language, explain, language, tell, word

__all__ = ["draw", "facts"]


def draw(turn: Turn, *, plain: bool = False) -> None:
    """Marks and errors first, then one line of facts. plain: the answer is a base model's continuation of a text."""
    if turn.dropped:
        st.caption(":material/history: " + tell("dropped", n=turn.dropped))
    if turn.error is not None:
        too_long = plain and isinstance(turn.error, PromptTooLong)
        words = tell("draft.too_long", **turn.error.details) if too_long else explain(turn.error)
        st.error(words, icon=":material/error:")
        if not plain:
            st.caption(tell("mark.kept" if turn.status is Status.DONE else "mark.excluded"))
    elif turn.status is Status.STOPPED:
        st.badge(tell("mark.stopped"), icon=":material/stop_circle:", color="gray")
    elif turn.status is Status.ABANDONED:
        st.badge(tell("mark.abandoned"), icon=":material/visibility_off:", color="gray")
    elif not turn.answer.strip():
        st.caption(tell("mark.empty"))
    if turn.finish_reason is FinishReason.LENGTH and not plain:
        st.caption(":material/content_cut: " + tell("mark.length"))
    if line := facts(turn, language()):
        st.caption(line)


def facts(turn: Turn, to: Language) -> str:
    """Tokens, times and the end of an answer in one line; "" if the engine told nothing."""
    usage = turn.usage
    if usage is None:
        return ""
    made = usage.completion_tokens
    parts = [word("facts.token" if made == 1 else "facts.tokens", to, n=f"{made:,}")]
    if usage.ttft_s:
        parts.append(word("facts.ttft", to, s=f"{usage.ttft_s:.2f}"))
    if usage.tokens_per_s:
        parts.append(word("facts.rate", to, n=f"{usage.tokens_per_s:.1f}"))
    if turn.finish_reason is not None:
        parts.append(word(f"end.{turn.finish_reason}", to))
    if usage.cached_tokens:
        parts.append(word("facts.prompt_cached", to, n=f"{usage.prompt_tokens:,}", cached=f"{usage.cached_tokens:,}"))
    else:
        parts.append(word("facts.prompt", to, n=f"{usage.prompt_tokens:,}"))
    parts.append(word("facts.seed", to, n=usage.seed))
    return " · ".join(parts)
