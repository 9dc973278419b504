"""Answers in OpenAI's words: whole, and as the events of a stream."""

from __future__ import annotations

import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import aclosing
from typing import Any, ClassVar

from bluelm.api.errors import fault_of
from bluelm.api.serving import ending
from bluelm.engine import Generation
from bluelm.errors import BlueLMError
from bluelm.prompt import AnswerReader
from bluelm.types import FinishReason, ToolCall, Usage

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
    def choice(self, text: str, reason: FinishReason) -> dict[str, Any]:
        """The choice of a whole answer."""

    @abstractmethod
    def pieces(self, text: str) -> Iterable[dict[str, Any]]:
        """The choices of chunks that a piece of the answer brings."""

    @abstractmethod
    def closing(self, reason: FinishReason) -> Iterable[dict[str, Any]]:
        """The choices of the last chunks; the very last one tells why it ended."""

    def opening(self) -> dict[str, Any] | None:
        """A choice to send before there is any text."""
        return None

    def whole(self, text: str, reason: FinishReason, usage: Usage) -> dict[str, Any]:
        return self._frame(self.object, [self.choice(text, reason)], {"usage": told_usage(usage)})

    async def events(self) -> AsyncIterator[str]:
        """The stream; an answer that fails ends it with an error in the place of [DONE]."""
        try:
            if (opening := self.opening()) is not None:
                yield self._chunk([opening])
            async with aclosing(self.generation.__aiter__()) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    for choice in self.pieces(chunk.text) if chunk.text else ():
                        yield self._chunk([choice])
            reason, usage = ending(self.generation)
            for choice in self.closing(reason):
                yield self._chunk([choice])
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

    def choice(self, text: str, reason: FinishReason) -> dict[str, Any]:
        return self._message({"role": "assistant", "content": text, "refusal": None}, finish(reason))

    def pieces(self, text: str) -> Iterable[dict[str, Any]]:
        yield self._delta({"content": text})

    def closing(self, reason: FinishReason) -> Iterable[dict[str, Any]]:
        yield self._delta({}, finish(reason))

    def opening(self) -> dict[str, Any]:
        return self._delta({"role": "assistant", "content": ""})

    @staticmethod
    def _message(message: dict[str, Any], reason: str) -> dict[str, Any]:
        return {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}

    @staticmethod
    def _delta(delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}


class ToolReply(ChatReply):
    """The answer of a model that was told of tools: what it calls stands apart from what it says."""

    def __init__(self, generation: Generation, *, tells_usage: bool) -> None:
        super().__init__(generation, tells_usage=tells_usage)
        self._reader = AnswerReader()
        self._calls = 0

    def choice(self, text: str, reason: FinishReason) -> dict[str, Any]:
        read = [*self._reader.feed(text), *self._reader.close()]
        said = "".join(one for one in read if isinstance(one, str))
        calls = [self._told(one) for one in read if isinstance(one, ToolCall)]
        message = {"role": "assistant", "content": said if said or not calls else None, "refusal": None}
        return self._message(message | ({"tool_calls": calls} if calls else {}), self._finish(reason))

    def pieces(self, text: str) -> Iterable[dict[str, Any]]:
        return self._deltas(self._reader.feed(text))

    def closing(self, reason: FinishReason) -> Iterable[dict[str, Any]]:
        yield from self._deltas(self._reader.close())
        yield self._delta({}, self._finish(reason))

    def _deltas(self, read: list[str | ToolCall]) -> Iterator[dict[str, Any]]:
        """A call as OpenAI's clients put it together: first its name, then its arguments."""
        for one in read:
            if isinstance(one, str):
                yield self._delta({"content": one})
                continue
            index = self._calls
            begun = self._told(one) | {"function": {"name": one.name, "arguments": ""}}
            yield self._delta({"tool_calls": [{"index": index, **begun}]})
            yield self._delta({"tool_calls": [{"index": index, "function": {"arguments": one.arguments}}]})

    def _told(self, call: ToolCall) -> dict[str, Any]:
        id = f"call_{self.generation.id}_{self._calls}"
        self._calls += 1
        return {"id": id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}

    def _finish(self, reason: FinishReason) -> str:
        return "tool_calls" if self._calls and reason is not FinishReason.LENGTH else finish(reason)


class CompletionReply(Reply):
    prefix, object, chunk_object = "cmpl", "text_completion", "text_completion"

    def choice(self, text: str, reason: FinishReason) -> dict[str, Any]:
        return self._text(text, finish(reason))

    def pieces(self, text: str) -> Iterable[dict[str, Any]]:
        yield self._text(text)

    def closing(self, reason: FinishReason) -> Iterable[dict[str, Any]]:
        yield self._text("", finish(reason))

    @staticmethod
    def _text(text: str, reason: str | None = None) -> dict[str, Any]:
        return {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
