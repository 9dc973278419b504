"""Answers in OpenAI's words: whole, and as the events of a stream."""

from __future__ import annotations

import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, ClassVar

from bluelm.api.errors import fault_of
from bluelm.api.serving import ending
from bluelm.engine import Generation
from bluelm.errors import BlueLMError
from bluelm.types import FinishReason, Usage

log = logging.getLogger(__name__)


def finish(reason: FinishReason) -> str:
    """OpenAI's two words for the three ways in which an answer ends well."""
    return "length" if reason is FinishReason.LENGTH else "stop"


def told_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


class Reply(ABC):
    """The form of one answer. `tells_usage`: a stream ends with a chunk that has the usage and no choice."""

    prefix: ClassVar[str]
    object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(self, generation: Generation, *, tells_usage: bool) -> None:
        self.generation = generation
        self.tells_usage = tells_usage
        self.created = int(time.time())

    @abstractmethod
    def choice(self, text: str, reason: str) -> dict[str, Any]:
        """The choice of a whole answer."""

    @abstractmethod
    def piece(self, text: str | None, reason: str | None) -> dict[str, Any]:
        """The choice of a chunk; text None for the one that only tells why it ended."""

    def opening(self) -> dict[str, Any] | None:
        """A choice to send before there is any text."""
        return None

    def whole(self, text: str, reason: FinishReason, usage: Usage) -> dict[str, Any]:
        return self._frame(self.object, [self.choice(text, finish(reason))], {"usage": told_usage(usage)})

    async def events(self) -> AsyncIterator[str]:
        """The stream; an answer that fails ends it with an error in the place of [DONE]."""
        try:
            if (opening := self.opening()) is not None:
                yield self._chunk([opening])
            async with aclosing(self.generation.__aiter__()) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    if chunk.text:
                        yield self._chunk([self.piece(chunk.text, None)])
            reason, usage = ending(self.generation)
            yield self._chunk([self.piece(None, finish(reason))])
            if self.tells_usage:
                yield self._chunk([], usage)
            yield "data: [DONE]\n\n"
        except Exception as error:
            if not isinstance(error, BlueLMError):
                log.exception("an unforeseen error in a stream")
            yield _event(fault_of(error).openai())

    def _chunk(self, choices: list[dict[str, Any]], usage: Usage | None = None) -> str:
        told = {"usage": usage and told_usage(usage)} if self.tells_usage else {}
        return _event(self._frame(self.chunk_object, choices, told))

    def _frame(self, kind: str, choices: list[dict[str, Any]], more: dict[str, Any]) -> dict[str, Any]:
        return {
            "id": f"{self.prefix}-{self.generation.id}",
            "object": kind,
            "created": self.created,
            "model": self.generation.model,
            "choices": choices,
            **more,
        }


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"


class ChatReply(Reply):
    prefix, object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def choice(self, text: str, reason: str) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        return {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}

    def piece(self, text: str | None, reason: str | None) -> dict[str, Any]:
        delta = {} if text is None else {"content": text}
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}

    def opening(self) -> dict[str, Any]:
        return {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}


class CompletionReply(Reply):
    prefix, object, chunk_object = "cmpl", "text_completion", "text_completion"

    def choice(self, text: str, reason: str | None) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}

    def piece(self, text: str | None, reason: str | None) -> dict[str, Any]:
        return self.choice(text or "", reason)
