"""Answers in OpenAI's words: whole, and as the events of a stream. What a choice looks like is forms.py's."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from hashlib import blake2b
from typing import Any

from bluelm import __version__
from bluelm.api.choices import interleaved
from bluelm.api.errors import fault_of
from bluelm.api.forms import Form
from bluelm.api.serving import ending
from bluelm.errors import BlueLMError
from bluelm.types import ModelInfo, Usage

log = logging.getLogger(__name__)


def told_usage(usages: Sequence[Usage], each: int = 1) -> dict[str, Any]:
    """What all choices cost together; a prompt counts once for the `each` choices that answer it."""
    prompts = usages[::each]
    prompt = sum(usage.prompt_tokens for usage in prompts)
    made = sum(usage.completion_tokens for usage in usages)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": made,
        "total_tokens": prompt + made,
        "prompt_tokens_details": {"cached_tokens": sum(usage.cached_tokens for usage in prompts), "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0, "audio_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
        },
    }  # fmt: skip


def fingerprint(model: ModelInfo) -> str:
    """Names what the same seed gives the same text on: this program, the model, and how it is computed."""
    what = (__version__, model.id, model.parameters, model.dtype, model.device)
    return "fp_" + blake2b(repr(what).encode(), digest_size=5).hexdigest()


class Reply:
    """An answer of one or more choices. each: of them to a prompt; tells_usage: a stream ends with a chunk that has
    the usage and no choice."""

    def __init__(self, forms: Sequence[Form], model: ModelInfo, *, each: int, tells_usage: bool) -> None:
        self.forms = forms
        self.each = each
        self.tells_usage = tells_usage
        first = forms[0]
        self._object, self._chunk_object = first.object, first.chunk_object
        self._head = {"id": f"{first.prefix}-{first.generation.id}", "created": int(time.time()), "model": model.id}
        self._fingerprint = fingerprint(model)

    def whole(self) -> dict[str, Any]:
        """Once every generation has come to its end. Raises GenerationFailed."""
        ends = [(form, *ending(form.generation)) for form in self.forms]
        choices = [form.whole(form.generation.text, reason) for form, reason, _ in ends]
        return self._frame(self._object, choices, {"usage": told_usage([usage for *_, usage in ends], self.each)})

    async def events(self) -> AsyncIterator[str]:
        """The stream; an answer that fails ends it with an error in the place of [DONE]."""
        try:
            for form in self.forms:
                for told in form.opening():
                    yield self._chunk([told])
            async with aclosing(interleaved([form.generation for form in self.forms])) as chunks:  # type: ignore[type-var]
                async for i, chunk in chunks:
                    form = self.forms[i]
                    for told in form.pieces(chunk):
                        yield self._chunk([told])
                    for told in form.closing(ending(form.generation)[0]) if chunk.finish_reason else ():
                        yield self._chunk([told])
            if self.tells_usage:
                usages = [ending(form.generation)[1] for form in self.forms]
                yield self._chunk([], told_usage(usages, self.each))
            yield "data: [DONE]\n\n"
        except Exception as error:
            if not isinstance(error, BlueLMError):
                log.exception("an unforeseen error in a stream")
            yield _event(fault_of(error).openai())

    def _chunk(self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None) -> str:
        return _event(self._frame(self._chunk_object, choices, {"usage": usage} if self.tells_usage else {}))

    def _frame(self, kind: str, choices: list[dict[str, Any]], more: dict[str, Any]) -> dict[str, Any]:
        return {**self._head, "object": kind, "system_fingerprint": self._fingerprint, "choices": choices, **more}


# Many clients end a line at these too, and would cut an event in two (httpx's aiter_lines, str.splitlines).
ENDS_OF_LINES = {ord(each): f"\\u{ord(each):04x}" for each in "\x85\u2028\u2029"}


def _event(data: dict[str, Any]) -> str:
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text.translate(ENDS_OF_LINES)}\n\n"
