"""Fits a runner into memory: computes the largest steps once, then gives the cache what is left."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from bluelm.engine import memory
from bluelm.engine.scheduler import Piece, Row
from bluelm.errors import NotEnoughMemory, OutOfMemory, SettingError
from bluelm.types import SamplingParams

BLOCK_SIZE = 16
STEPS = (1024, 512, 256, 128)  # prompt tokens of a step on a card, the largest that leaves room for a cache
ALONE = 2  # times as many where nobody is answered meanwhile
HOST_STEP = 256  # on a CPU, answered or not
GRAPHS = 400 << 20  # bytes that capturing takes beside what was computed before
REHEARSED = 2048  # tokens of a row that decodes
HISTORY = 8192  # tokens of the rows whose prompts a rehearsed step goes on with, if one is no longer
GREEDY = SamplingParams(temperature=0.0)
log = logging.getLogger("bluelm.engine")


class Runs(Protocol):
    @property
    def batches(self) -> Sequence[int]: ...

    def run(self, pieces: Sequence[Piece]) -> list[int | None]: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is asked for. context: tokens of a row; running: rows; cache, step (see Fit): tokens, or 0: what fits.

    Raises SettingError for a cache that holds nobody.
    """

    context: int
    running: int
    cache: int
    step: int

    @property
    def most(self) -> int:
        """Tokens of cache of which all could be in use, or what was asked for."""
        return self.cache or self.context * self.running

    def __post_init__(self) -> None:
        if self.cache and self.cache < 2 * BLOCK_SIZE:
            raise SettingError(
                f"BLUELM_CACHE_TOKENS is {self.cache}: set at least {2 * BLOCK_SIZE}, or 0 for a size that fits.",
                param="cache_tokens",
            )


@dataclass(frozen=True, slots=True)
class Fit:
    """tokens: of cache, in whole blocks; step: prompt tokens computed per step beside the answers, or `alone`."""

    tokens: int
    step: int
    alone: int


def on_host(wanted: Wanted, token_bytes: int) -> Fit:
    """For a CPU, where memory is only taken as it is written to. Raises NotEnoughMemory."""
    step = wanted.step or HOST_STEP
    if wanted.cache:
        return Fit(-(-wanted.cache // BLOCK_SIZE) * BLOCK_SIZE, step, step)
    room = int(memory.host_memory() * memory.HOST_SHARE)
    tokens = memory.tokens_for(room, token_bytes, most=wanted.most, block_size=BLOCK_SIZE)
    if tokens < min(memory.FEWEST_TOKENS, wanted.context):
        raise NotEnoughMemory(f"{room / memory.GB:.1f} GB of memory are too little for a cache: {memory.REMEDY}.")
    return Fit(tokens, step, step)


def on_card(runner: Runs, card: memory.Card, wanted: Wanted, token_bytes: int) -> Fit:
    """For a card that holds the weights already: the largest steps, and then the largest cache, that fit.

    Raises NotEnoughMemory.
    """
    tokens = 0
    for step in (wanted.step,) if wanted.step else STEPS:
        try:
            for pieces in largest_steps(runner.batches, wanted, step * ALONE):
                runner.run(pieces)
        except OutOfMemory as error:
            log.info("steps of %d prompt tokens do not fit: %s", step * ALONE, error.message)
            continue
        left = card.left()
        tokens = memory.tokens_for(left - GRAPHS, token_bytes, most=wanted.most, block_size=BLOCK_SIZE)
        log.info("steps of %d prompt tokens leave %.2f GB for graphs and cache", step * ALONE, left / memory.GB)
        if tokens >= min(2 * wanted.context, wanted.most):
            break
    needed = wanted.cache or min(memory.FEWEST_TOKENS, wanted.context)
    if tokens < needed:
        raise NotEnoughMemory(
            f"Of {card.room / memory.GB:.1f} GB that the engine may take of the card, weights and working space leave "
            f"room for {tokens} tokens of cache, but {needed} are needed: {memory.CARD_REMEDY}."
        )
    return Fit(tokens, step, step * ALONE)


def largest_steps(batches: Sequence[int], wanted: Wanted, step: int) -> Iterator[list[Piece]]:
    """Steps of which nothing is kept, on rows that are all in block 0: prompts at the end of long rows, then decoding
    in each of these batches."""
    context, longest = wanted.context, min(wanted.context, REHEARSED)
    rows = min(max(-(-step // context), HISTORY // context, 1), wanted.running)
    count = min(-(-step // rows), context)
    yield [Piece(_row(index, context), context - count, count) for index in range(rows)]
    for batch in reversed(batches):
        yield [Piece(_row(index, longest, longest - 1), longest - 1, 1) for index in range(min(batch, wanted.running))]


def _row(index: int, length: int, prompt: int = 0) -> Row:
    """prompt: tokens that are not of the answer; all if not given."""
    blocks = [0] * -(-length // BLOCK_SIZE)
    return Row(f"rehearsal {index}", [0] * length, GREEDY, 0, length, prompt, blocks=blocks)
