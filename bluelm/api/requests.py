"""Every request: what bodies are checked against, and what /openapi.json tells of them.

Types are strict ("5" and true are no integers). Ranges are SamplingParams' to judge; the figures here only
tell of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    model_validator,
)

from bluelm.api.choices import MOST
from bluelm.api.formats import Schema
from bluelm.api.options import (
    CHAT,
    COMPLETION,
    MESSAGE,
    STREAM,
    TOKENIZE,
    Option,
    drop_neutral,
)
from bluelm.api.tools import Choice, ToolCalled, ToolTold, forced, tell_of, told_tools
from bluelm.api.values import ID_LIMIT, Alternatives, Biases, Choices, Content, Prompts, Stop
from bluelm.errors import InvalidParameter, InvalidRequest, UnsupportedOption
from bluelm.sampling import SEED_LIMIT
from bluelm.types import Message, Prompt, Role, SamplingParams, Tool


class Body(BaseModel):
    """What a request may have. options: what is refused by name."""

    model_config = ConfigDict(extra="forbid", strict=True)
    options: ClassVar[dict[str, Option]] = {}


class Asked(Body):
    """What every request for an answer may ask of the sampler."""

    limits: ClassVar[tuple[str, ...]] = ("max_length",)  # the fields that stand for SamplingParams.max_length

    temperature: float | None = Field(
        None,
        description="0 to 2; 0 takes the likeliest token each time",
        json_schema_extra={"minimum": 0, "maximum": 2},
    )
    top_p: float | None = Field(
        None, description="above 0 and up to 1 (off)", json_schema_extra={"exclusiveMinimum": 0, "maximum": 1}
    )
    top_k: int | None = Field(None, description="0 (off) or more", json_schema_extra={"minimum": 0})
    repetition_penalty: float | None = Field(
        None, description="0.1 to 10; 1 is off", json_schema_extra={"minimum": 0.1, "maximum": 10}
    )
    seed: int | None = Field(
        None,
        description="0 or more; the same seed gives the same text",
        json_schema_extra={"minimum": 0, "maximum": SEED_LIMIT - 1},
    )
    stop: Stop | None = Field(None, description="the answer ends before any of these; up to 16")

    def limit(self) -> int | None:
        """The most new tokens that the client wants."""
        return next((value for name in self.limits if (value := getattr(self, name)) is not None), None)

    def limit_name(self) -> str:
        """The field that the client knows for it."""
        return next((name for name in self.limits if getattr(self, name) is not None), self.limits[0])

    def sampling(self) -> dict[str, Any]:
        """The fields of SamplingParams that are given."""
        given = {name: getattr(self, name, None) for name in SamplingParams.__dataclass_fields__}
        return {name: value for name, value in given.items() if value is not None} | (
            {} if self.limit() is None else {"max_length": self.limit()}
        )


class TutorialRequest(Asked):
    """The prompt is one question to a chat model, or the text for a base model to continue."""

    prompt: str = Field(description="what to ask", examples=["你好"])
    max_length: int | None = Field(None, description="new tokens at most", json_schema_extra={"minimum": 1})
    echo: bool | None = Field(None, description="put the prompt and a space in front of the answer")


class ChatMessage(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content
    tool_calls: list[ToolCalled] | None = Field(None, description="what the assistant called; content may be null then")
    tool_call_id: str | None = Field(None, description="the call that this message of a tool is the result of")
    name: str | None = Field(None, description="of the tool that gave this result; not needed")

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        options = {name: one for name, one in MESSAGE.items() if name != "name" or given.get("role") != "tool"}
        kept = drop_neutral(options, given, "messages[].")
        if kept.get("tool_calls") and kept.get("content") is None:
            kept["content"] = ""
        return kept

    def message(self, place: str) -> Message:
        """What it stands for. Raises InvalidParameter, which names the field at `place`."""
        role = Role.SYSTEM if self.role == "developer" else Role(self.role)
        calls = tuple(one.call() for one in self.tool_calls or ())
        if calls and role is not Role.ASSISTANT:
            raise InvalidParameter(f"{place}.tool_calls", [one.name for one in calls], "left out, but for 'assistant'")
        if (self.tool_call_id is None) is (role is Role.TOOL):
            words = "the id of a call" if role is Role.TOOL else "left out, but for the role 'tool'"
            raise InvalidParameter(f"{place}.tool_call_id", self.tool_call_id, words)
        return Message(role, self.content, tool_calls=calls, tool_call_id=self.tool_call_id or "")


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = Field(None, description="end the stream with a chunk that tells the usage")

    @model_validator(mode="before")
    @classmethod
    def _drop_neutral(cls, given: Any) -> Any:
        return drop_neutral(STREAM, given, "stream_options.") if isinstance(given, dict) else given


class OpenAIAsked(Asked):
    model: str | None = Field(None, description="the id that /v1/models tells; may be left out")
    max_tokens: int | None = Field(None, description="new tokens at most", json_schema_extra={"minimum": 1})
    stream: bool | None = Field(None, description="send the answer as server-sent events while it is made")
    stream_options: StreamOptions | None = None
    presence_penalty: float | None = Field(None, description="-2 to 2; above 0 words come up that were not said yet")
    frequency_penalty: float | None = Field(None, description="-2 to 2; above 0 what was said often comes less often")
    logit_bias: Biases | None = Field(None, description="added to the logits of these token ids, -100 to 100")
    n: Choices | None = Field(None, description="answers to make, each with a seed of its own")
    user: str | None = Field(None, description="your own label; not used")

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest(
                "stream_options is for streams: set stream to true, or leave it out.", param="stream_options"
            )
        return self

    @property
    def tells_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(OpenAIAsked):
    options: ClassVar[dict[str, Option]] = CHAT
    limits: ClassVar[tuple[str, ...]] = ("max_tokens", "max_completion_tokens")

    messages: Annotated[list[ChatMessage], FailFast()] = Field(
        min_length=1,
        description="the talk so far, the newest message last",
        examples=[[{"role": "user", "content": "你好"}]],
    )
    max_completion_tokens: int | None = Field(
        None, description="OpenAI's newer name of max_tokens", json_schema_extra={"minimum": 1}
    )
    tools: list[ToolTold] | None = Field(None, description="what the model may call, if it was trained to")
    tool_choice: Choice | None = Field(None, description="none: do not tell of the tools; required, or one: call")
    parallel_tool_calls: bool | None = Field(None, description="false: one call; only where tool_choice has it called")
    logprobs: bool | None = Field(None, description="tell how likely each token was")
    response_format: Schema | None = Field(None, description="JSON, by a schema if you like, held to token by token")
    top_logprobs: Alternatives | None = Field(None, description="and so many of the likeliest at its place")
    prompt_cache_key: str | None = Field(None, description="taken, not used: the cache is shared by what prompts say")
    safety_identifier: str | None = Field(None, description="OpenAI's newer name of user; not used")

    @model_validator(mode="after")
    def _top_needs_logprobs(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise InvalidParameter("top_logprobs", self.top_logprobs, "left out unless logprobs is true")
        return self

    @model_validator(mode="after")
    def _either_format_or_tools(self) -> Self:
        if self.response_format and self.offered:
            raise UnsupportedOption(
                "response_format", "calls of tools have a format of their own: leave out one of them."
            )
        return self

    def sampling(self) -> dict[str, Any]:
        calls = forced(self.tools or (), self.tool_choice, self.parallel_tool_calls)
        given = super().sampling() | {"json_schema": calls or self.response_format or ""}
        return given | {"logprobs": (self.top_logprobs or 0) if self.logprobs else None}

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        both = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(both) > 1:
            raise InvalidParameter(
                "max_completion_tokens", self.max_completion_tokens, "equal to max_tokens, or left out"
            )
        return self

    @property
    def offered(self) -> tuple[Tool, ...]:
        """The tools that the model is told of."""
        return () if self.tool_choice == "none" else told_tools(self.tools or ())

    def talk(self) -> tuple[Message, ...]:
        """The messages, the tools told. Raises InvalidParameter, which names the field at fault."""
        return talk(self.messages, self.offered)


def talk(given: Sequence[ChatMessage], tools: tuple[Tool, ...]) -> tuple[Message, ...]:
    """Messages, the first of them telling of the tools. Raises InvalidParameter, which names the field at fault."""
    messages = tuple(one.message(f"messages[{i}]") for i, one in enumerate(given))
    called = {call.id: call.name for message in messages for call in message.tool_calls}
    for i, one in enumerate(given):
        name = called.get(one.tool_call_id or "")
        if one.name is not None and one.name != name:
            raise InvalidParameter(f"messages[{i}].name", one.name, f"left out, or the tool that was called ({name})")
    return tell_of(tools, messages) if tools else messages


class CompletionRequest(OpenAIAsked):
    options: ClassVar[dict[str, Option]] = COMPLETION
    limits: ClassVar[tuple[str, ...]] = ("max_tokens",)

    prompt: Prompts = Field(
        description="the text to continue, as it is, or its token ids; or several", examples=["从前有座山，"]
    )
    max_tokens: int | None = Field(
        None, description="new tokens at most; 0 with echo and logprobs only", json_schema_extra={"minimum": 0}
    )
    echo: bool | None = Field(None, description="put the prompt in front of its answers")
    logprobs: Alternatives | None = Field(
        None, description="tell how likely each token was, and so many others; with echo the prompt's tokens too"
    )

    def sampling(self) -> dict[str, Any]:
        return super().sampling() | {"prompt_logprobs": bool(self.echo) and self.logprobs is not None}

    @model_validator(mode="after")
    def _not_too_many(self) -> Self:
        if len(self.prompt) * (self.n or 1) > MOST:
            must = f"at most {MOST // (self.n or 1)}, since a request may have {MOST} choices in all"
            raise InvalidParameter("prompt", f"{len(self.prompt)} prompts", must)
        return self


class TokenizeRequest(Body):
    """Either `prompt` or `messages`."""

    options: ClassVar[dict[str, Option]] = TOKENIZE

    model: str | None = Field(None, description="the id that /v1/models tells; may be left out")
    prompt: str | None = Field(None, description="a text", examples=["从前有座山，"])
    messages: list[ChatMessage] | None = Field(None, min_length=1, description="a talk")
    tools: list[ToolTold] | None = Field(None, description="what the model is told of, with messages")
    add_special_tokens: bool | None = Field(None, description="false: without the token that a text begins with")
    return_token_strs: bool | None = Field(None, description="tell the text of each token too")

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if (self.prompt is None) is (self.messages is None):
            raise InvalidRequest("Send either prompt or messages.", param="prompt")
        if self.messages is None and self.tools:
            raise UnsupportedOption("tools", "send messages with them, or leave them out.")
        if self.messages is not None and self.add_special_tokens:
            raise UnsupportedOption("add_special_tokens", "messages begin as the model's format has it; leave it out.")
        return self

    def asked(self) -> Prompt:
        return talk(self.messages, told_tools(self.tools or ())) if self.messages else self.prompt or ""


class DetokenizeRequest(Body):
    model: str | None = Field(None, description="the id that /v1/models tells; may be left out")
    tokens: Annotated[list[Annotated[int, Field(ge=0, lt=ID_LIMIT)]], FailFast()] = Field(examples=[[1, 2]])
