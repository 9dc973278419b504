"""Answers in the making: ties the scheduler's plans, the runner's tokens and the tokenizer's characters together.

Knows tokens and text, no processes, no torch. One thread calls it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from bluelm.engine.likely import Likely
from bluelm.engine.scheduler import Piece, Row, Scheduler
from bluelm.engine.tokenizer import StopStrings, Tokenizer
from bluelm.engine.wire import Failed, Grown
from bluelm.errors import BlueLMError, GenerationFailed, OutOfMemory
from bluelm.types import FinishReason, SamplingParams, TokenLogprob, Totals, Usage

if TYPE_CHECKING:
    from bluelm.engine.guide import Guide

log = logging.getLogger("bluelm.engine")
LARGER_AFTER_S = 60.0  # steps that were made smaller are tried larger again; twice as late each time that was in vain,
LARGER_AT_LAST_S = 3600.0  # up to this


class Runs(Protocol):
    """What computes a step (bluelm.engine.runner.Runner)."""

    likely: dict[str, Likely]  # of the last step's tokens, by the ids of the rows whose settings ask for it
    scores: dict[str, list[Likely]]  # of the prompt's tokens at Piece.scores, likewise

    def run(self, pieces: Sequence[Piece]) -> list[int | None]: ...


@dataclass(frozen=True, slots=True)
class Request:
    """An accepted request. tokens: the prompt; max_new: tokens the answer may have; accepted_at: time.monotonic();
    share: whose it is (types.Caller)."""

    id: str
    tokens: list[int]
    params: SamplingParams
    seed: int
    max_new: int
    accepted_at: float
    share: str = ""
    guide: Guide | None = None


class _Answer:
    """One request's text and times."""

    def __init__(self, request: Request, row: Row, tokenizer: Tokenizer) -> None:
        self.row = row
        self.accepted_at = request.accepted_at
        self.begun_at = self.first_at = 0.0
        self.decoder = tokenizer.decoder()
        self.stops = StopStrings(request.params.stop)

    def grow(self, token: int) -> tuple[str, bool]:
        """The characters that are now sure, and whether a stop string came up."""
        return self.stops.push(self.decoder.push(token))

    def rest(self) -> tuple[str, bool]:
        """What was held back, at the end."""
        text, hit = self.stops.push(self.decoder.flush())
        return (text, hit) if hit else (text + self.stops.flush(), False)

    def usage(self) -> Usage:
        now = time.monotonic()
        begun, first = self.begun_at or now, self.first_at or now
        return Usage(
            prompt_tokens=self.row.prompt_tokens,
            completion_tokens=len(self.row.tokens) - self.row.prompt_tokens,
            cached_tokens=self.row.cached,
            queue_s=begun - self.accepted_at,
            ttft_s=first - self.accepted_at,
            total_s=now - self.accepted_at,
            seed=self.row.seed,
        )


class EngineCore:
    """Add requests, call `step` until `idle`; each step's news is returned. `cancel` takes effect at once."""

    def __init__(self, scheduler: Scheduler, runner: Runs, tokenizer: Tokenizer) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self.tokenizer = tokenizer
        self._tokens = self._prompt_tokens = self._begun = 0
        self._first_token_s = 0.0
        self._larger_after_s, self._larger_at = LARGER_AFTER_S, 0.0  # at 0.0: steps are as large as at first
        self._answers: dict[str, _Answer] = {}

    @property
    def idle(self) -> bool:
        return self.scheduler.idle

    @property
    def open(self) -> int:
        """Answers running and waiting."""
        return len(self._answers)

    def has(self, share: str) -> bool:
        """Whether an answer of this share is open; for any thread."""
        return any(answer.row.share == share for answer in list(self._answers.values()))

    @property
    def totals(self) -> Totals:
        return Totals(time.monotonic(), self._tokens, self._prompt_tokens, self._begun, self._first_token_s)

    def add(self, request: Request) -> None:
        length = len(request.tokens) + request.max_new
        row = Row(request.id, list(request.tokens), request.params, request.seed, length, share=request.share)
        row.guide = request.guide
        self._answers[request.id] = _Answer(request, row, self.tokenizer)
        self.scheduler.add(row)

    def cancel(self, id: str) -> list[Grown | Failed]:
        """End an answer, with the text it has; nothing if it has ended already."""
        answer = self._answers.get(id)
        if answer is None:
            return []
        text, _ = answer.rest()
        return [self._end(answer, text, FinishReason.CANCELLED)]

    def step(self) -> list[Grown | Failed]:
        """Compute one step for everyone; the news of those who got something to show, or ended."""
        begun = time.monotonic()
        if self._larger_at and begun >= self._larger_at:
            self._larger_at = begun + self._larger_after_s if self.scheduler.enlarge() else 0.0
            log.info("Steps have %d tokens again, to try it.", self.scheduler.alone_tokens)
        pieces = self.scheduler.plan()
        for piece in pieces:
            answer = self._answers[piece.row.id]
            answer.begun_at = answer.begun_at or begun
        try:
            tokens = self.runner.run(pieces)
        except OutOfMemory as error:
            # Nothing was committed: the same tokens are computed again, fewer at a time, if they can be fewer.
            if any(piece.count > 1 for piece in pieces) and self.scheduler.shrink():
                self._larger_at = begun + self._larger_after_s
                self._larger_after_s = min(2 * self._larger_after_s, LARGER_AT_LAST_S)
                log.warning("%s Steps have %d tokens for now.", error.message, self.scheduler.alone_tokens)
                return []
            return [self._fail(self._answers[piece.row.id], error) for piece in pieces]
        except BlueLMError as error:  # this step's rows cannot go on; others can
            return [self._fail(self._answers[piece.row.id], error) for piece in pieces]
        news = (self._commit(piece, token) for piece, token in zip(pieces, tokens, strict=True))
        return [said for said in news if said is not None]

    def _commit(self, piece: Piece, token: int | None) -> Grown | Failed | None:
        answer = self._answers[piece.row.id]
        if token is not None and token < 0:
            why = "The model gave no numbers (NaN) for this answer: try another prompt, or another precision."
            return self._fail(answer, GenerationFailed(why))
        prompt = self._told_prompt(piece) if piece.row.params.prompt_logprobs else ()
        if piece.row.max_tokens == piece.row.prompt_tokens:
            token = None  # no answer is wanted
        self._add_up(piece, token, answer)
        ends = piece.samples and token is None
        self.scheduler.commit(piece, token)
        if ends:
            return self._end(answer, "", FinishReason.LENGTH, prompt=prompt)
        if token is None:
            return Grown(piece.row.id, "", None, None, (), prompt) if prompt else None
        return self._grow(answer, token, prompt)

    def _grow(self, answer: _Answer, token: int, prompt: tuple[TokenLogprob, ...]) -> Grown | Failed | None:
        """What a new token brings. prompt: what is told with it of the prompt's."""
        row = answer.row
        tokens = () if row.params.logprobs is None else (self._told(token, self.runner.likely[row.id]),)
        if token in self.tokenizer.stop_ids:
            text, hit = answer.rest()
            return self._end(answer, text, FinishReason.STOP_STRING if hit else FinishReason.STOP, tokens, prompt)
        if row.guide is not None:
            try:
                row.guide.take(token)
            except GenerationFailed as error:
                return self._fail(answer, error)
        text, hit = answer.grow(token)
        if hit:
            return self._end(answer, text, FinishReason.STOP_STRING, tokens, prompt)
        if len(row.tokens) >= row.max_tokens:
            more, hit = answer.rest()
            reason = FinishReason.STOP_STRING if hit else FinishReason.LENGTH
            return self._end(answer, text + more, reason, tokens, prompt)
        return Grown(row.id, text, None, None, tokens, prompt) if text or tokens else None

    def _add_up(self, piece: Piece, token: int | None, answer: _Answer) -> None:
        """Before the piece is committed."""
        self._prompt_tokens += max(min(piece.start + piece.count, piece.row.prompt_tokens) - piece.start, 0)
        if token is None:
            return
        self._tokens += 1
        if not answer.first_at:
            answer.first_at = time.monotonic()
            self._begun += 1
            self._first_token_s += answer.first_at - answer.accepted_at

    def _told_prompt(self, piece: Piece) -> tuple[TokenLogprob, ...]:
        """Before the piece is committed."""
        row = piece.row
        first = () if row.told else (TokenLogprob(self.tokenizer.token(row.tokens[0]), 0.0),)
        scores = zip(piece.scores, self.runner.scores.get(row.id, ()), strict=True)
        return *first, *(self._told(row.tokens[place], likely) for place, likely in scores)

    def _told(self, token: int, likely: Likely) -> TokenLogprob:
        of = self.tokenizer.token
        top = tuple(TokenLogprob(of(id), logprob) for id, logprob in likely.top)
        return TokenLogprob(of(token), likely.logprob, top)

    def _end(
        self, answer: _Answer, text: str, reason: FinishReason, tokens: tuple[TokenLogprob, ...] = (),
        prompt: tuple[TokenLogprob, ...] = (),
    ) -> Grown:  # fmt: skip
        self._forget(answer)
        return Grown(answer.row.id, text, reason, answer.usage(), tokens, prompt)

    def _fail(self, answer: _Answer, error: BlueLMError) -> Failed:
        self._forget(answer)
        return Failed(answer.row.id, error.to_wire())

    def _forget(self, answer: _Answer) -> None:
        self.scheduler.remove(answer.row)
        del self._answers[answer.row.id]
