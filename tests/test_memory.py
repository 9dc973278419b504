"""How much of a card or a machine the cache gets: the laws of the arithmetic, and what happens where little is left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluelm.engine import memory, sizing
from bluelm.engine.memory import GB, card_room, tokens_for
from bluelm.engine.scheduler import Piece
from bluelm.engine.sizing import ALONE, BLOCK_SIZE, GRAPHS, STEPS, Wanted
from bluelm.errors import NotEnoughMemory, OutOfMemory, SettingError

TOKEN = 524_288  # bytes of a token of BlueLM-7B's cache in 16 bits
gigabytes = st.integers(1, 200).map(lambda n: n * GB)


@given(asked=st.floats(0.01, 200), free=gigabytes, total=gigabytes)
def test_the_engine_stays_within_its_share_and_leaves_what_others_use(asked: float, free: int, total: int) -> None:
    free = min(free, total)
    room = card_room(asked, free, total)
    assert 0 <= room <= free
    assert room <= (asked * total if asked <= 1 else asked * GB)


def test_a_limit_counts_what_cuda_takes_itself() -> None:
    assert card_room(24.0, free=79 * GB + GB // 2, total=80 * GB) == 23.5 * GB
    assert card_room(0.9, free=80 * GB, total=80 * GB) == 72 * GB
    assert card_room(0.9, free=30 * GB, total=80 * GB) < 30 * GB, "50 GB belong to another program"


@given(room=st.integers(-GB, 100 * GB), most=st.integers(1, 10**6))
def test_a_cache_is_whole_blocks_within_its_room(room: int, most: int) -> None:
    tokens = tokens_for(room, TOKEN, most=most, block_size=BLOCK_SIZE)
    assert tokens >= 0 and tokens % BLOCK_SIZE == 0 and tokens < most + BLOCK_SIZE
    assert tokens == 0 or (tokens + BLOCK_SIZE) * TOKEN <= room


@dataclass
class Working:
    """A runner whose steps take memory by their tokens and fail where there is no room."""

    free: int
    token: int = GB // 1000
    reserved: int = 0
    batches: Sequence[int] = (1, 2, 4)
    ran: list[int] = field(default_factory=list)

    def run(self, pieces: Sequence[Piece]) -> list[int | None]:
        tokens = sum(piece.count for piece in pieces)
        self.ran.append(tokens)
        if tokens * self.token > self.free:
            raise OutOfMemory("no room")
        self.reserved = max(self.reserved, tokens * self.token)
        return [0] * len(pieces)

    def left(self) -> int:
        return self.free - self.reserved

    @property
    def room(self) -> int:
        return self.free


def fitted(free: int, wanted: Wanted) -> tuple[sizing.Fit, Working]:
    working = Working(free)
    return sizing.on_card(working, working, wanted, TOKEN), working  # type: ignore[arg-type]


def test_a_large_card_holds_a_cache_for_all_and_long_steps() -> None:
    fit, working = fitted(200 * GB, Wanted(context=2048, running=4, cache=0, step=0))
    assert (fit.tokens, fit.step, fit.alone) == (4 * 2048, STEPS[0], ALONE * STEPS[0])
    assert max(working.ran) == fit.alone, "the largest step was computed before anything was promised"


@given(free=st.integers(GB // 2, 12 * GB), running=st.integers(1, 64), context=st.sampled_from([64, 300, 2048, 32768]))
def test_steps_are_smaller_where_little_is_left_and_what_is_promised_fits(
    free: int, running: int, context: int
) -> None:
    try:
        fit, working = fitted(free, Wanted(context, running, cache=0, step=0))
    except NotEnoughMemory as error:
        assert "BLUELM_QUANTIZATION" in error.message
        return
    assert min(fit.alone, running * context) * working.token <= free
    assert fit.tokens >= min(memory.FEWEST_TOKENS, context)
    assert fit.tokens * TOKEN + GRAPHS + working.reserved <= free
    assert fit.step in STEPS


def test_what_was_asked_for_is_given_or_refused() -> None:
    fit, _ = fitted(20 * GB, Wanted(2048, 64, cache=5000, step=100))
    assert fit.tokens == 5008 and fit.step == 100
    with pytest.raises(NotEnoughMemory, match="50000 are needed"):
        fitted(20 * GB, Wanted(2048, 64, cache=50_000, step=0))
    with pytest.raises(SettingError, match="BLUELM_CACHE_TOKENS is 31"):
        fitted(20 * GB, Wanted(2048, 64, cache=31, step=0))


def test_a_machine_without_a_card_gives_a_part_of_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "host_memory", lambda: 8 * GB)
    fit = sizing.on_host(Wanted(2048, 32, cache=0, step=0), TOKEN)
    assert 1.9 * GB < fit.tokens * TOKEN < 2 * GB
    monkeypatch.setattr(memory, "host_memory", lambda: GB // 10)
    with pytest.raises(NotEnoughMemory, match="smaller checkpoint"):
        sizing.on_host(Wanted(2048, 32, cache=0, step=0), TOKEN)


def test_this_machine_has_memory() -> None:
    assert GB // 4 < memory.host_memory() < 10**14
