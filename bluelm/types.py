"""The few values that cross every room: what is asked, how, and what comes back. Frozen; standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from bluelm.errors import InvalidParameter
from bluelm.sampling import SamplingParams, require_json_object


class Role(StrEnum):
    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"  # what a tool that the assistant called gave back


class ModelKind(StrEnum):
    CHAT = "chat"
    BASE = "base"  # plain completion, no template


class FinishReason(StrEnum):
    """Why an answer ended. An answer that failed has none: reading it raises its error instead."""

    STOP = "stop"  # the model ended its turn
    STOP_STRING = "stop_string"  # one of SamplingParams.stop came up (and was left out)
    LENGTH = "length"  # max_length new tokens were made, or the window is full
    CANCELLED = "cancelled"  # somebody stopped it


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may ask to be called. parameters: a JSON schema of its arguments, as JSON text."""

    name: str
    description: str = ""
    parameters: str = "{}"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise InvalidParameter("name", self.name, "the name of a tool")
        require_json_object("parameters", self.parameters)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model's wish to have a tool called. arguments: a JSON object, as JSON text. id: what its result refers to."""

    name: str
    arguments: str = "{}"
    id: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name.strip():
            raise InvalidParameter("name", self.name, "the name of a tool")
        require_json_object("arguments", self.arguments)


@dataclass(frozen=True, slots=True)
class Message:
    """What one side said.

    tools: what the model may call (system message). tool_calls: what it called (assistant). tool_call_id: the call
    that this is the result of (tool). unfinished: the model is to go on with it (assistant, as the last message).
    """

    role: Role
    content: str
    tools: tuple[Tool, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""
    unfinished: bool = False

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "role", Role(self.role))
        except ValueError:
            raise InvalidParameter("role", self.role, f"one of {', '.join(Role)}") from None
        if not isinstance(self.content, str):
            raise InvalidParameter("content", self.content, "a string")
        owners = {
            "tools": Role.SYSTEM, "tool_calls": Role.ASSISTANT, "unfinished": Role.ASSISTANT, "tool_call_id": Role.TOOL,
        }  # fmt: skip
        for name, owner in owners.items():
            if getattr(self, name) and self.role is not owner:
                raise InvalidParameter(name, getattr(self, name), f"left out, but for the role {owner.value!r}")


Written = tuple[Message, ...] | str
"""Chat messages, to be put into the model's own template, or a plain text to be continued as it is."""


@dataclass(frozen=True, slots=True)
class TokenIds:
    """A prompt in tokens, which are taken as they are: nothing is put in front, and an id of a marker is the marker."""

    ids: tuple[int, ...]


Prompt = Written | TokenIds


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks for an answer.

    route: the page or the API's path, for figures. request: the id that log lines carry. share: whose turn it is while
    requests wait (a browser, a key, an address): the engine serves shares in turn, not requests.
    """

    route: str = ""
    request: str = ""
    share: str = ""


NOBODY = Caller()


@dataclass(frozen=True, slots=True)
class Usage:
    """What an answer cost. Times are seconds; the clock starts when the engine accepted the request.

    prompt_tokens: tokens of the whole prompt, template included; cached_tokens of them were still in the cache.
    completion_tokens: tokens made, the closing one included.
    queue_s: until the first prompt token was computed. ttft_s: until the first new token. total_s: until the end.
    seed: the seed in use, drawn if none was given.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    queue_s: float = 0.0
    ttft_s: float = 0.0
    total_s: float = 0.0
    seed: int = 0

    @property
    def tokens_per_s(self) -> float:
        """Tokens a second after the first one; 0 where there were fewer than two."""
        decode_s = self.total_s - self.ttft_s
        return (self.completion_tokens - 1) / decode_s if self.completion_tokens > 1 and decode_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Token:
    """A token of the vocabulary.

    text: for display: control tokens and chat markers by name, bytes that are no whole character as \\xNN.
    utf8: the bytes that it adds to a text, maybe a part of a character; none for a control token.
    marker: whether it is a control token or a chat marker.
    """

    id: int
    text: str
    utf8: bytes
    marker: bool = False


@dataclass(frozen=True, slots=True)
class Tokenized:
    """A prompt as a model gets it. text: the whole of it, markers by name; ids: its tokens, in order.

    vocabulary: every token that is among them.
    """

    text: str
    ids: tuple[int, ...]
    vocabulary: dict[int, Token]

    @property
    def tokens(self) -> tuple[Token, ...]:
        return tuple(self.vocabulary[id] for id in self.ids)


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and its natural log-probability under the model itself: before temperature, penalties and cuts.

    top: the likeliest tokens at its place, likeliest first.
    """

    token: Token
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of an answer: whole characters only. The last one carries finish_reason and usage.

    tokens: with SamplingParams.logprobs, the new tokens, the closing one included. Each comes as soon as it is made;
    the text of it may be held back until a later piece, or be cut off by a stop string.
    prompt: with SamplingParams.prompt_logprobs, the prompt's tokens, some in each piece until all have come, before any
    new one. Nothing is known of the very first, whose logprob is 0.
    """

    text: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    tokens: tuple[TokenLogprob, ...] = ()
    prompt: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model that is served.

    context: tokens of prompt and answer together. parameters: how many numbers it has. device, dtype: torch's names.
    defaults: the settings to start from (its generation_config). demo: the small embedded model.
    system_prompt: whether it was trained to heed one. tools: whether it was trained to call them.
    """

    id: str
    kind: ModelKind
    context: int
    parameters: int = 0
    dtype: str = ""
    device: str = ""
    demo: bool = False
    defaults: SamplingParams = field(default_factory=SamplingParams)
    system_prompt: bool = True
    tools: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", ModelKind(self.kind))


class Phase(StrEnum):
    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"  # the process died and is coming back
    DOWN = "down"  # it gave up; `detail` says why


@dataclass(frozen=True, slots=True)
class Totals:
    """What an engine has done since it was started.

    at: when, in seconds by a clock of this machine. tokens: made, in answers. prompt_tokens: computed, of prompts.
    answers: that have got their first token; first_token_s: seconds they waited for it, together.
    """

    at: float = 0.0
    tokens: int = 0
    prompt_tokens: int = 0
    answers: int = 0
    first_token_s: float = 0.0

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            max(self.at, other.at), self.tokens + other.tokens, self.prompt_tokens + other.prompt_tokens,
            self.answers + other.answers, self.first_token_s + other.first_token_s,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class EngineState:
    """The engine at a glance.

    progress: of the load, 0 to 1; detail: what is being done, or what went wrong. model: None until it is known.
    running, waiting: requests. cache_used, cache_total: tokens of KV cache. restarts: times it died.
    checkpoint: path of the model that is served or being loaded ("demo": the embedded one). failed, trouble: the
    checkpoint that could not be loaded last, and why, where the former one is served again instead.
    pid: of the process, or None. gpu_memory_used (by all programs), gpu_memory_total: bytes, 0 without a card.
    engines, engines_ready: processes that there are, and that can answer now; figures are sums over them.
    totals: over all processes that there ever were.
    """

    phase: Phase
    progress: float = 0.0
    detail: str = ""
    model: ModelInfo | None = None
    running: int = 0
    waiting: int = 0
    cache_used: int = 0
    cache_total: int = 0
    restarts: int = 0
    pid: int | None = None
    gpu_memory_used: int = 0
    gpu_memory_total: int = 0
    engines: int = 1
    engines_ready: int = 0
    checkpoint: str = ""
    failed: str = ""
    trouble: str = ""
    totals: Totals = field(default_factory=Totals)
