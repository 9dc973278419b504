"""One choice of an answer in OpenAI's words: whole, and in the pieces of a stream."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from bluelm.api import chances
from bluelm.engine import Generation
from bluelm.prompt import AnswerReader
from bluelm.types import Chunk, FinishReason, TokenLogprob, ToolCall

Told = dict[str, Any]  # a choice as JSON


def finish(reason: FinishReason) -> str:
    """OpenAI's two words for the three ways in which an answer ends well."""
    return "length" if reason is FinishReason.LENGTH else "stop"


class Form(ABC):
    """The form of one choice. index: its place; echo: a text to put in front of it."""

    prefix: ClassVar[str]  # of the answer's id
    object: ClassVar[str]
    chunk_object: ClassVar[str]

    def __init__(self, index: int, generation: Generation, echo: str = "") -> None:
        self.index = index
        self.generation = generation
        self.echo = echo

    @abstractmethod
    def whole(self, text: str, reason: FinishReason) -> Told:
        """The choice of a whole answer."""

    @abstractmethod
    def opening(self) -> Iterable[Told]:
        """What comes before there is any text."""

    @abstractmethod
    def pieces(self, chunk: Chunk) -> Iterable[Told]:
        """What a piece of the answer brings."""

    @abstractmethod
    def closing(self, reason: FinishReason) -> Iterable[Told]:
        """What comes last; the very last one tells why it ended."""


class ChatForm(Form):
    prefix, object, chunk_object = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def whole(self, text: str, reason: FinishReason) -> Told:
        return self._message({"role": "assistant", "content": text, "refusal": None}, finish(reason), reason)

    def opening(self) -> Iterable[Told]:
        yield self._delta({"role": "assistant", "content": ""})

    def pieces(self, chunk: Chunk) -> Iterable[Told]:
        tokens = chances.of_text(chunk.tokens, chunk.finish_reason)
        if chunk.text or tokens:
            yield self._delta({"content": chunk.text}, tokens=tokens)

    def closing(self, reason: FinishReason) -> Iterable[Told]:
        yield self._delta({}, finish(reason))

    def _message(self, message: Told, told: str, reason: FinishReason) -> Told:
        tokens = self.generation.tokens
        logprobs = chances.chat(chances.of_text(tokens, reason)) if tokens else None
        return {"index": self.index, "message": message, "logprobs": logprobs, "finish_reason": told}

    def _delta(self, delta: Told, reason: str | None = None, tokens: Sequence[TokenLogprob] = ()) -> Told:
        logprobs = chances.chat(tokens) if tokens else None
        return {"index": self.index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}


class ToolForm(ChatForm):
    """The answer of a model that was told of tools: what it calls stands apart from what it says."""

    def __init__(self, index: int, generation: Generation, echo: str = "") -> None:
        super().__init__(index, generation, echo)
        self._reader = AnswerReader()
        self._calls = 0

    def whole(self, text: str, reason: FinishReason) -> Told:
        read = [*self._reader.feed(text), *self._reader.close()]
        said = "".join(one for one in read if isinstance(one, str))
        calls = [self._told(one) for one in read if isinstance(one, ToolCall)]
        message = {"role": "assistant", "content": said if said or not calls else None, "refusal": None}
        return self._message(message | ({"tool_calls": calls} if calls else {}), self._finish(reason), reason)

    def pieces(self, chunk: Chunk) -> Iterable[Told]:
        tokens = chances.of_text(chunk.tokens, chunk.finish_reason)
        if tokens:  # as the model wrote them, in calls too, whose text comes later
            yield self._delta({"content": ""}, tokens=tokens)
        yield from self._deltas(self._reader.feed(chunk.text))

    def closing(self, reason: FinishReason) -> Iterable[Told]:
        yield from self._deltas(self._reader.close())
        yield self._delta({}, self._finish(reason))

    def _deltas(self, read: list[str | ToolCall]) -> Iterator[Told]:
        """A call as OpenAI's clients put it together: first its name, then its arguments."""
        for one in read:
            if isinstance(one, str):
                yield self._delta({"content": one})
                continue
            index = self._calls
            begun = self._told(one) | {"function": {"name": one.name, "arguments": ""}}
            yield self._delta({"tool_calls": [{"index": index, **begun}]})
            yield self._delta({"tool_calls": [{"index": index, "function": {"arguments": one.arguments}}]})

    def _told(self, call: ToolCall) -> Told:
        id = f"call_{self.generation.id}_{self._calls}"
        self._calls += 1
        return {"id": id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}

    def _finish(self, reason: FinishReason) -> str:
        return "tool_calls" if self._calls and reason is not FinishReason.LENGTH else finish(reason)


class CompletionForm(Form):
    prefix, object, chunk_object = "cmpl", "text_completion", "text_completion"

    def __init__(self, index: int, generation: Generation, echo: str = "") -> None:
        super().__init__(index, generation, echo)
        self._chances = chances.Completion(echo)
        self._with_prompt = False

    def whole(self, text: str, reason: FinishReason) -> Told:
        prompt, tokens = self.generation.prompt, self.generation.tokens
        pieces = self._logprobs(prompt, tokens, reason)
        logprobs = {name: [one for piece in pieces for one in piece[name]] for name in pieces[0]} if pieces else None
        return self._text(self.echo + text, finish(reason), logprobs)

    def opening(self) -> Iterable[Told]:
        if self.echo:
            yield self._text(self.echo)

    def pieces(self, chunk: Chunk) -> Iterable[Told]:
        told = self._logprobs(chunk.prompt, chunk.tokens, chunk.finish_reason)
        for piece in told[:-1]:
            yield self._text("", logprobs=piece)
        if chunk.text or told:
            yield self._text(chunk.text, logprobs=told[-1] if told else None)

    def closing(self, reason: FinishReason) -> Iterable[Told]:
        yield self._text("", finish(reason))

    def _logprobs(
        self, prompt: Sequence[TokenLogprob], tokens: Sequence[TokenLogprob], reason: FinishReason | None
    ) -> list[Told]:
        """Behind a prompt's tokens also the one that closes the answer: who evaluates counts on max_tokens of them."""
        self._with_prompt = self._with_prompt or bool(prompt)
        made = tokens if self._with_prompt else chances.of_text(tokens, reason)
        return [*([self._chances.prompt(prompt)] if prompt else []), *([self._chances.piece(made)] if made else [])]

    def _text(self, text: str, reason: str | None = None, logprobs: Told | None = None) -> Told:
        return {"index": self.index, "text": text, "logprobs": logprobs, "finish_reason": reason}
