"""A conversation: its turns, and the answer in the making. Owned by the web process, not by the page that looks on.

A plain one is a text that a base model continues: a turn is what a person wrote and what the model wrote behind it.

A reload, a moved slider or a dropped websocket ends a page's look, never the answer: the next look attaches to the same
Generation. What ends while nobody looks is in its turn all the same.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from bluelm.engine import Engine, Generation
from bluelm.errors import BlueLMError, Conflict
from bluelm.types import FinishReason, Message, Prompt, Role, SamplingParams, Usage


class Status(StrEnum):
    """How far the answer of a turn is."""

    ASKING = "asking"  # the engine has not said yes or no
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"  # by the reader
    ABANDONED = "abandoned"  # nobody looked on
    FAILED = "failed"  # begun and broken off by an error
    REFUSED = "refused"  # never begun


_KEPT = frozenset({Status.DONE, Status.STOPPED, Status.ABANDONED})


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its answer, at one moment.

    generation: the answer in the making, to be followed; None once it has ended. answer: its text, "" while it runs.
    error: why it failed or was refused, or why a new try of a good answer could not begin. dropped: oldest messages
    that no longer fitted in the window. prompt_tokens, window: tokens.
    """

    question: str
    status: Status
    params: SamplingParams
    answer: str = ""
    generation: Generation | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    error: BlueLMError | None = None
    model: str = ""
    prompt_tokens: int = 0
    window: int = 0
    dropped: int = 0

    @property
    def is_context(self) -> bool:
        """Whether later questions are asked with this turn before them: whole ones and those stopped early are."""
        return self.status in _KEPT and bool(self.answer.strip())

    @property
    def context_tokens(self) -> int:
        """Tokens of the window that were in use when the answer ended; 0 if unknown."""
        return self.prompt_tokens + (self.usage.completion_tokens if self.usage else 0)


@dataclass(frozen=True, slots=True)
class View:
    """A conversation at one moment. running: the answer that is being made, or None."""

    id: str
    turns: tuple[Turn, ...]
    busy: bool
    running: Generation | None

    @property
    def last(self) -> Turn | None:
        return self.turns[-1] if self.turns else None

    @property
    def text(self) -> str:
        """All that both sides wrote, without the answer in the making: a plain conversation's text."""
        return _text(self.turns[:-1]) + self.last.question if self.last and self.busy else _text(self.turns)


class Conversation:
    """Turns, at most one of them being answered. Safe to use from many threads; no method waits for an answer.

    plain: one text, continued as it is, in the place of messages.
    """

    def __init__(self, id: str, *, plain: bool = False) -> None:
        self.id = id
        self.plain = plain
        self._turns: list[Turn] = []
        self._end_as = Status.DONE  # how a cancelled answer is to be marked, once someone asked for that
        self._lock = threading.Lock()

    # --- what a reader does ---

    def ask(self, engine: Engine, text: str, params: SamplingParams, system: str = "") -> None:
        """Add a question and start its answer. What the engine refuses stays, marked, and never becomes context.

        A plain conversation goes on behind `text`, which may be empty.
        Raises Conflict while another answer is being made.
        """
        with self._lock:
            self._must_be_free()
            prompt = self._prompt(self._turns, text, system)
            self._turns.append(Turn(text, Status.ASKING, params))
            self._end_as = Status.DONE
        self._submit(engine, prompt, self._turns[-1])

    def regenerate(self, engine: Engine, params: SamplingParams, system: str = "") -> None:
        """Answer the last question anew. A good answer is given up only once the engine has taken the new try.

        Raises Conflict while an answer is being made or when there is no question.
        """
        with self._lock:
            self._must_be_free()
            if not self._turns:
                raise Conflict("There is no question to answer again: ask one first.")
            before = self._turns[-1]
            prompt = self._prompt(self._turns[:-1], before.question, system)
            self._turns[-1] = replace(before, status=Status.ASKING, params=params, error=None)
            self._end_as = Status.DONE
        self._submit(engine, prompt, before)

    def stop(self) -> None:
        """End the answer in the making, on the reader's wish; its text so far stays and counts as context."""
        self._cancel(Status.STOPPED)

    def take_back(self) -> str:
        """Remove the last question if it has no answer, and return it ("" if it has one), to be changed and resent."""
        with self._lock:
            self._settle()
            if not self._turns or self._turns[-1].status is not Status.REFUSED:
                return ""
            return self._turns.pop().question

    def undo(self) -> str:
        """Remove the last turn, and return its question. Raises Conflict while an answer is being made."""
        with self._lock:
            self._must_be_free()
            return self._turns.pop().question if self._turns else ""

    def view(self) -> View:
        """The conversation now."""
        with self._lock:
            self._settle()
            turns = tuple(self._turns)
        last = turns[-1] if turns else None
        busy = last is not None and last.status in (Status.ASKING, Status.RUNNING)
        return View(self.id, turns, busy, last.generation if last else None)

    # --- what the store does ---

    def look_after(self, abandon_after_s: float) -> bool:
        """Take in an answer that has ended, end one that nobody watches; whether one is still being made."""
        with self._lock:
            self._settle()
            turn = self._turns[-1] if self._turns else None
            if turn is None or turn.status not in (Status.ASKING, Status.RUNNING):
                return False
            unwatched_s = turn.generation.unwatched_s if turn.generation else 0.0
        if unwatched_s > abandon_after_s:
            self._cancel(Status.ABANDONED)
        return True

    # --- inside ---

    def _must_be_free(self) -> None:
        self._settle()
        if self._turns and self._turns[-1].status in (Status.ASKING, Status.RUNNING):
            raise Conflict("An answer is still being made: wait for it or stop it first.")

    def _prompt(self, turns: list[Turn], text: str, system: str) -> Prompt:
        if self.plain:
            return _text(turns) + text
        messages = [Message(Role.SYSTEM, system)] if system.strip() else []
        for turn in turns:
            if turn.is_context:
                messages += [Message(Role.USER, turn.question), Message(Role.ASSISTANT, turn.answer)]
        return (*messages, Message(Role.USER, text))

    def _submit(self, engine: Engine, prompt: Prompt, before: Turn) -> None:
        """Ask the engine, without the lock: it may take its time, and the conversation can be viewed meanwhile."""
        try:
            generation = engine.submit(prompt, self._turns[-1].params, drop_oldest=True)
        except BaseException as error:
            known = error if isinstance(error, BlueLMError) else BlueLMError(f"{error}: try again.")
            status = Status.REFUSED if before.status is Status.ASKING else before.status
            with self._lock:
                self._turns[-1] = replace(before, status=status, error=known)
            if not isinstance(error, BlueLMError):
                raise
            return
        with self._lock:
            self._turns[-1] = Turn(
                before.question, Status.RUNNING, self._turns[-1].params, generation=generation, model=generation.model,
                prompt_tokens=generation.prompt_tokens, window=generation.window, dropped=generation.dropped,
            )  # fmt: skip
            stop_now = self._end_as is not Status.DONE
        if stop_now:
            generation.cancel()

    def _cancel(self, end_as: Status) -> None:
        with self._lock:
            self._settle()
            turn = self._turns[-1] if self._turns else None
            if turn is None or turn.status not in (Status.ASKING, Status.RUNNING):
                return
            self._end_as = end_as
        if turn.generation is not None:
            turn.generation.cancel()

    def _settle(self) -> None:
        """Take the answer that has ended into its turn. The lock is held."""
        turn = self._turns[-1] if self._turns else None
        if turn is None or turn.generation is None or not turn.generation.done:
            return
        ended = turn.generation
        status = Status.FAILED if ended.error is not None else Status.DONE
        if ended.finish_reason is FinishReason.CANCELLED:
            status = Status.STOPPED if self._end_as is Status.DONE else self._end_as
        self._turns[-1] = replace(
            turn, status=status, answer=ended.text, generation=None, finish_reason=ended.finish_reason,
            usage=ended.usage, error=ended.error,
        )  # fmt: skip


def _text(turns: Sequence[Turn]) -> str:
    return "".join(turn.question + turn.answer for turn in turns)
