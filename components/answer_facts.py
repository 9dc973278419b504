"""What stands under an answer: how it ended, what it cost, what went wrong."""

from __future__ import annotations

import json
import re
from datetime import datetime

import streamlit as st

from bluelm.conversation import Status, Turn
from bluelm.errors import PromptTooLong
from bluelm.types import FinishReason, Usage
from components import demo
from components.i18n import Language, explain, language, tell, word

__all__ = ["details", "draw", "facts"]

_MARKS = {
    Status.STOPPED: ":material/stop_circle:",
    Status.ABANDONED: ":material/visibility_off:",
    Status.INTERRUPTED: ":material/power_off:",
}


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
    elif turn.status in _MARKS:
        st.badge(tell(f"mark.{turn.status}"), icon=_MARKS[turn.status], color="gray")
    elif not turn.answer.strip():
        st.caption(tell("mark.empty"))
    if turn.finish_reason is FinishReason.LENGTH and not plain:
        st.caption(":material/content_cut: " + tell("mark.length.demo" if demo.on() else "mark.length"))
    if demo.on():
        return
    if line := facts(turn, language()):
        st.caption(line, help=details(turn, language()))


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
    if turn.earlier_tokens:
        parts.append(word("facts.earlier", to, n=f"{turn.earlier_tokens:,}"))
    return " · ".join(parts)


def details(turn: Turn, to: Language) -> str:
    """All settings of an answer, its model and its times, as a code block: what people wrote in them stays as it is."""
    usage = turn.usage or Usage()
    values: dict[str, object] = {
        "model": turn.model, "time": datetime.fromtimestamp(turn.created).isoformat(" ", "seconds"),
        "max_length": turn.params.max_length, "temperature": turn.params.temperature, "top_p": turn.params.top_p,
        "top_k": turn.params.top_k, "repetition_penalty": turn.params.repetition_penalty, "seed": usage.seed,
        "presence_penalty": turn.params.presence_penalty or "",
        "frequency_penalty": turn.params.frequency_penalty or "",
        "logit_bias": dict(turn.params.logit_bias) or "", "json_schema": turn.params.json_schema,
        "logprobs": "" if turn.params.logprobs is None else turn.params.logprobs,
        "stop": json.dumps(turn.params.stop, ensure_ascii=False) if turn.params.stop else "",
        "system": turn.system, "prompt_tokens": usage.prompt_tokens, "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens, "queue_s": f"{usage.queue_s:.2f}",
        "ttft_s": f"{usage.ttft_s:.2f}", "total_s": f"{usage.total_s:.2f}",
    }  # fmt: skip
    lines = "\n".join(f"{name}: {value}" for name, value in values.items() if value != "")
    fence = "`" * (max([2, *(len(run) for run in re.findall("`+", lines))]) + 1)
    return f"**{word('facts.details', to)}**\n\n{fence}\n{lines}\n{fence}"
