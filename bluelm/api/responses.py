"""Every response and every error body, as /openapi.json tells of them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class TutorialAnswer(BaseModel):
    response: str
    status: Literal[200]
    time: str = Field(description="YYYY-MM-DD HH:MM:SS, the server's clock", examples=["2026-01-31 09:30:00"])


class TutorialError(BaseModel):
    error: str = Field(description="a sentence that says what is wrong and what to do")
    status: int = Field(description="the HTTP status")


class PromptTokensDetails(BaseModel):
    cached_tokens: int = Field(description="of the prompt, taken from the cache")
    audio_tokens: Literal[0]


class CompletionTokensDetails(BaseModel):
    """OpenAI's kinds of tokens that no model here has."""

    reasoning_tokens: Literal[0]
    audio_tokens: Literal[0]
    accepted_prediction_tokens: Literal[0]
    rejected_prediction_tokens: Literal[0]


class TokenUsage(BaseModel):
    """A prompt counts once, however many choices answer it."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class CalledFunction(BaseModel):
    name: str
    arguments: str = Field(description="a JSON object, as text")


class CalledTool(BaseModel):
    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerMessage(BaseModel):
    role: Literal["assistant"]
    content: str | None = Field(description="null where the model only called tools")
    refusal: None
    tool_calls: list[CalledTool] | None = None


class TokenChance(BaseModel):
    token: str = Field(description="its text; bytes that are no whole character as \\xNN, control tokens by name")
    logprob: float = Field(description="natural; the model's own, before temperature, penalties and cuts")
    bytes: list[int] | None = Field(description="in UTF-8; null for a control token")


class TokenChances(TokenChance):
    top_logprobs: list[TokenChance] = Field(description="the likeliest tokens at this place, likeliest first")


class ChatLogprobs(BaseModel):
    content: list[TokenChances] = Field(description="every token but the one that closes the answer")


class CompletionLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float | None] = Field(description="null for the first token of a prompt")
    top_logprobs: list[dict[str, float] | None] = Field(description="the likeliest, and the token itself")
    text_offset: list[int] = Field(description="characters of the text before the token")


Finish = Literal["stop", "length"]
ChatFinish = Literal["stop", "length", "tool_calls"]


class ChatChoice(BaseModel):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinish


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    system_fingerprint: str = Field(description="the same as long as the same seed gives the same text")
    choices: list[ChatChoice]
    usage: TokenUsage


class FunctionDelta(BaseModel):
    name: str | None = None
    arguments: str


class ToolDelta(BaseModel):
    """The first one of a call has its id and name, the second one its arguments."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionDelta


class Delta(BaseModel):
    role: Literal["assistant"] | None = None
    content: str | None = None
    tool_calls: list[ToolDelta] | None = None


class ChunkChoice(BaseModel):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinish | None


class ChatCompletionChunk(BaseModel):
    """One `data:` event of a stream, which ends with `data: [DONE]`; or, if the answer fails, with an OpenAIError."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    system_fingerprint: str = Field(description="the same as long as the same seed gives the same text")
    choices: list[ChunkChoice]
    usage: TokenUsage | None = None


class CompletionChoice(BaseModel):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Finish | None


class Completion(BaseModel):
    """The whole answer, or one `data:` event of a stream (usage is then told where it was asked for)."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    system_fingerprint: str = Field(description="the same as long as the same seed gives the same text")
    choices: list[CompletionChoice]
    usage: TokenUsage | None = None


class ModelCard(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int = Field(description="tokens of prompt and answer together")
    kind: str = Field(description="chat, or base (use /v1/completions)")
    system_prompt: bool = Field(description="whether it was trained to heed one")
    tools: bool = Field(description="whether it was trained to call them")


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelCard]


class Tokens(BaseModel):
    count: int
    max_model_len: int = Field(description="tokens of prompt and answer together")
    tokens: list[int]
    token_strs: list[str] | None = Field(
        description="each one's text; bytes that are no whole character as \\xNN, markers by name"
    )


class Text(BaseModel):
    prompt: str


class OpenAIFault(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(BaseModel):
    error: OpenAIFault


class ServedModel(BaseModel):
    id: str
    kind: str
    context: int
    parameters: int
    dtype: str
    device: str
    demo: bool


class Status(BaseModel):
    status: Literal["ok", "loading", "restarting", "down"]


class Health(Status):
    phase: str = Field(description="what is being done, or what went wrong")
    progress: float = Field(description="of the load, in percent")
    model: ServedModel | None
    running: int = Field(description="answers being made")
    waiting: int = Field(description="answers that wait for their turn")
    cache_used: int = Field(description="tokens of KV cache in use")
    cache_total: int
    gpu_memory_used: int = Field(description="bytes of the cards in use, by all programs; 0 without a card")
    gpu_memory_total: int
    engines: int = Field(description="engine processes, one per card")
    engines_ready: int
    restarts: int = Field(description="times the engine died and came back")
    version: str
