"""What the app and the engine process say to each other: small frozen values, as MessagePack, over a socket pair."""

from __future__ import annotations

import threading
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from bluelm.types import (
    NOBODY,
    Caller,
    FinishReason,
    ModelInfo,
    Prompt,
    SamplingParams,
    Tokenized,
    TokenLogprob,
    Totals,
    Usage,
)


class _Said(msgspec.Struct, frozen=True, tag=True, array_like=True):
    pass


# --- app to engine ---


class Configure(_Said, frozen=True):
    """The first message: the settings, as a JSON object."""

    settings: dict[str, Any]


class Submit(_Said, frozen=True):
    id: str
    prompt: Prompt
    params: SamplingParams
    drop_oldest: bool
    caller: Caller = NOBODY


class Cancel(_Said, frozen=True):
    id: str


class Tokenize(_Said, frozen=True):
    id: str
    prompt: Prompt
    bos: bool  # a text: with the beginning-of-sequence token that an answer's prompt would have


class Detokenize(_Said, frozen=True):
    id: str
    ids: tuple[int, ...]


ToEngine = Configure | Submit | Cancel | Tokenize | Detokenize


# --- engine to app ---


class Loading(_Said, frozen=True):
    """progress: 0 to 1; phase: what is being done."""

    phase: str
    progress: float


class Ready(_Said, frozen=True):
    model: ModelInfo
    cache_tokens: int


class Fatal(_Said, frozen=True):
    """The engine cannot start, and would not the next time either: an error's `to_wire`."""

    error: dict[str, Any]


class Accepted(_Said, frozen=True):
    id: str
    prompt_tokens: int
    dropped: int
    seed: int


class Refused(_Said, frozen=True):
    id: str
    error: dict[str, Any]


class TokensTold(_Said, frozen=True):
    id: str
    prompt: Tokenized


class TextTold(_Said, frozen=True):
    id: str
    text: str


class Grown(_Said, frozen=True):
    """An answer went on; with `finish` it has ended."""

    id: str
    text: str
    finish: FinishReason | None
    usage: Usage | None
    tokens: tuple[TokenLogprob, ...] = ()
    prompt: tuple[TokenLogprob, ...] = ()


class Failed(_Said, frozen=True):
    id: str
    error: dict[str, Any]


class Step(_Said, frozen=True):
    """All that one step of the engine brought. queue: those that have not been begun, next first; None: as before."""

    news: tuple[Grown | Failed, ...]
    queue: tuple[str, ...] | None = None


class Pulse(_Said, frozen=True):
    """Sent about twice a second: a sign of life, and figures for whoever looks (see EngineState).

    step_s: how long the step has taken that is being computed.
    """

    running: int
    waiting: int
    cache_used: int
    gpu_memory_used: int
    gpu_memory_total: int
    totals: Totals
    step_s: float = 0.0


ToApp = Loading | Ready | Fatal | Accepted | Refused | TokensTold | TextTold | Step | Pulse


class Line:
    """One end of the socket pair: sends from any thread, receives on one. Raises OSError or EOFError when it is cut."""

    def __init__(self, connection: Connection, receives: Any) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._decoder = msgspec.msgpack.Decoder(receives)

    def send(self, said: _Said) -> None:
        data = msgspec.msgpack.encode(said)
        with self._lock:
            self._connection.send_bytes(data)

    def receive(self) -> Any:
        return self._decoder.decode(self._connection.recv_bytes())

    def close(self) -> None:
        self._connection.close()
