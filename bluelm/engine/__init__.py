"""The one swap point: `Engine`, and `open_engine`, which makes the one that the settings ask for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Protocol

from bluelm.engine.generation import Generation
from bluelm.types import NOBODY, Caller, EngineState, Prompt, SamplingParams, Tokenized

if TYPE_CHECKING:
    from bluelm.config import Settings

__all__ = ["Engine", "Generation", "open_engine"]


class Engine(Protocol):
    """What makes answers: a process on this machine, a server elsewhere, or a fake in tests. Safe to share."""

    def submit(
        self, prompt: Prompt, params: SamplingParams, *, drop_oldest: bool = False, caller: Caller = NOBODY
    ) -> Generation:
        """Start an answer, having checked everything that can be known now.

        prompt: messages (put into the model's own template) or a plain text to continue.
        drop_oldest: leave out whole oldest turns (never the system message or the last one) until prompt and answer
        fit; otherwise what does not fit is refused. caller: who asks.
        Blocks for some milliseconds, until the engine has said yes or no.

        Raises InvalidRequest and its kinds, QueueFull, EngineUnavailable and its kinds. Once a Generation is returned,
        only what could not be known before (EngineDied, GenerationFailed) can still be raised, by reading it.
        """
        ...

    def tokenize(self, prompt: Prompt, *, bos: bool = True) -> Tokenized:
        """The very tokens that an answer to `prompt` would begin with, nothing left out; without `bos` a plain text
        has no beginning-of-sequence token in front. Blocks for some milliseconds.

        Raises InvalidParameter, WrongModelKind, EngineUnavailable and its kinds.
        """
        ...

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of tokens, control tokens and chat markers by name, U+FFFD for bytes that are no character.

        Raises InvalidParameter for an id that is none, EngineUnavailable and its kinds.
        """
        ...

    def state(self) -> EngineState:
        """How the engine is at the moment; never blocks, never raises."""
        ...

    def restart(self) -> None:
        """Start anew with the same model. Returns at once: no new answers begin (EngineLoading), open ones have some
        seconds to end, then fail with EngineRestarted, and `state` tells how the model loads. Raises EngineDown once
        it is closed."""
        ...

    def switch(self, model: str) -> None:
        """The same, with another model, named as in settings.model. Where that one cannot be loaded, the former one is
        served again, and `state` tells so (failed, trouble).

        Raises SettingError and CheckpointError for what is not there or not whole, before anything ends.
        """
        ...

    def close(self) -> None:
        """End it: open answers fail with EngineDown. May be called twice."""
        ...


def open_engine(settings: Settings) -> Engine:
    """The engine that the settings ask for; it returns at once and loads behind the scenes (see `state`).

    Raises SettingError for cards that are not there.
    """
    from bluelm.engine.cards import places
    from bluelm.engine.client import EngineProcess
    from bluelm.engine.fleet import Fleet

    starts = [partial(EngineProcess, own, environment) for own, environment in places(settings)]
    if len(starts) == 1:
        return starts[0]()
    # A driver without a PyTorch that can use it: the first engine computes on the CPU then, and is enough.
    on_cards = settings.device == "auto" and not settings.engines
    return Fleet(starts, lambda first: not (on_cards and first.model is not None and first.model.device == "cpu"))
