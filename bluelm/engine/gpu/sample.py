"""From logits to tokens on the device, each row by its own settings and seed, whoever else is in the batch.

Order as in bluelm.engine.sampler: what is added, repetition penalty, temperature, top-k, top-p. The draw is a race:
each token of the vocabulary gets a noise that depends on seed, position and its id alone, and the allowed token with
the best sum of scaled logit and noise wins, which draws by the softmax's probabilities. So nothing needs to be sorted:
the winner among all is taken if the tokens likelier than it weigh less than top_p, else it and all that are no likelier
leave the race. Tokens as likely as the last one let in by top-k or top-p are let in too.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from bluelm.engine.gpu import launch
from bluelm.engine.gpu import states as kept
from bluelm.engine.gpu.launch import begin
from bluelm.engine.gpu.states import States

PART = 1024  # logits that one program of the first kernel looks at
FAILED = tl.constexpr(-1)
SEEN, MADE = tl.constexpr(kept.SEEN), tl.constexpr(kept.MADE)
LOWEST = tl.constexpr(-2139095041)  # the order of minus infinity


@triton.jit
def _mixed(h):
    """A uint32 whose every bit depends on every bit of h."""
    h ^= h >> 16
    h *= 0x7FEB352D
    h ^= h >> 15
    h *= 0x846CA68B
    return h ^ (h >> 16)


@triton.jit
def _keys(seed, position):
    """Two uint32 of a 64-bit seed and a position."""
    low = (seed & 0xFFFFFFFF).to(tl.uint32)
    high = ((seed >> 32) & 0xFFFFFFFF).to(tl.uint32)
    place = position.to(tl.uint32)
    return _mixed(low ^ _mixed(high ^ _mixed(place + 0x9E3779B9))), _mixed(high + _mixed(low + _mixed(place)))


@triton.jit
def _race(logit, id, temperature, key, other):
    """logit / temperature plus Gumbel noise, float32."""
    h = _mixed(_mixed(id.to(tl.uint32) * 0x9E3779B1 + key) + other)
    u = (h.to(tl.float32) + 0.5) * 2.3283064365386963e-10  # 2^-32
    exponential = tl.where(u < 0.01, u * (1.0 + u * (0.5 + u * 0.33333333)), -tl.log(1.0 - u))
    return logit / temperature - tl.log(exponential)


@triton.jit
def _order(value):
    """An int32 that sorts as the float32 does."""
    bits = value.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _scan(
    logits, changed, slots, temperatures, penalties, adds, added, seeds, positions, seen, greatest, weight, race,
    likeliest, winner,
    VOCAB: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr, PART: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """Write the logits of a row with penalties or additions to `changed`, and note of each part: greatest logit and its
    id; of a row that is sampled also the weight of all and the winner of the race."""
    begin(EARLY)
    row = tl.program_id(0)
    part = tl.program_id(1)
    state = tl.load(slots + row).to(tl.int64)
    id = part * PART + tl.arange(0, PART)
    at = row.to(tl.int64) * WIDTH + id
    inside = id < VOCAB
    logit = tl.load(logits + at, mask=inside, other=-float("inf")) + 0.0
    penalty = tl.load(penalties + state)
    adding = tl.load(adds + state)
    if (penalty != 1.0) | (adding != 0):
        known = tl.load(seen + state * WIDTH + id, mask=inside, other=0) != 0
        if adding != 0:
            logit += tl.load(added + state * WIDTH + id, mask=inside, other=0.0)
        logit = tl.where(known, tl.where(logit > 0, logit / penalty, logit * penalty), logit)
        tl.store(changed + at, logit, mask=inside)
    best = tl.max(logit)
    broken = tl.max(tl.where(logit != logit, 1, 0)) > 0
    out = row * PARTS + part
    tl.store(greatest + out, tl.where(broken, float("inf"), best))
    tl.store(likeliest + out, tl.min(tl.where(logit == best, id, WIDTH)))
    temperature = tl.load(temperatures + state)
    if temperature > 0:
        key, other = _keys(tl.load(seeds + state), tl.load(positions + state))
        score = _race(logit, id, temperature, key, other)
        base = tl.where(best > -float("inf"), best, 0.0)
        tl.store(weight + out, tl.sum(tl.exp((logit - base) / temperature)))
        first = tl.max(score)
        tl.store(race + out, first)
        tl.store(winner + out, tl.min(tl.where(score == first, id, WIDTH)))


@triton.jit
def _counts(logits, one, two, three, VOCAB: tl.constexpr, BLOCK: tl.constexpr):
    """How many logits are above each of three orders."""
    a = tl.zeros((BLOCK,), tl.int32)
    b = tl.zeros((BLOCK,), tl.int32)
    c = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, VOCAB, BLOCK):
        id = start + tl.arange(0, BLOCK)
        order = _order(tl.load(logits + id, mask=id < VOCAB, other=-float("inf")))
        a += (order > one).to(tl.int32)
        b += (order > two).to(tl.int32)
        c += (order > three).to(tl.int32)
    return tl.sum(a), tl.sum(b), tl.sum(c)


@triton.jit
def _kth(logits, k, floor, top, VOCAB: tl.constexpr, BLOCK: tl.constexpr):
    """A number below the k-th greatest logit and not below the next smaller one. floor: one known to be below it."""
    low = _order(floor).to(tl.int64) - 1
    high = _order(top).to(tl.int64)
    exact = 0
    while (high - low > 1) & (exact == 0):
        step = tl.maximum((high - low) // 4, 1)
        one = tl.minimum(low + step, high - 1)
        two = tl.minimum(low + 2 * step, high - 1)
        three = tl.minimum(low + 3 * step, high - 1)
        a, b, c = _counts(logits, one, two, three, VOCAB, BLOCK)
        high = tl.where(a < k, one, tl.where(b < k, two, tl.where(c < k, three, high)))
        low = tl.where(c >= k, three, tl.where(b >= k, two, tl.where(a >= k, one, low)))
        exact = ((a == k) | (b == k) | (c == k)).to(tl.int32)
        low = tl.where(a == k, one, tl.where(b == k, two, tl.where(c == k, three, low)))
    order = tl.maximum(low, -2139095041).to(tl.int32)
    return (order ^ ((order >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def _weight_above(logits, low, top, temperature, VOCAB: tl.constexpr, BLOCK: tl.constexpr):
    """Sum of exp((logit - top) / temperature) over the logits above `low`."""
    sums = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, VOCAB, BLOCK):
        id = start + tl.arange(0, BLOCK)
        logit = tl.load(logits + id, mask=id < VOCAB, other=-float("inf"))
        sums += tl.where(logit > low, tl.exp((logit - top) / temperature), 0.0)
    return tl.sum(sums)


@triton.jit
def _winner_above(logits, low, temperature, key, other, VOCAB: tl.constexpr, BLOCK: tl.constexpr):
    """The id that wins the race among the logits above `low`."""
    best = tl.full((BLOCK,), -float("inf"), tl.float32)
    which = tl.zeros((BLOCK,), tl.int32)
    for start in range(0, VOCAB, BLOCK):
        id = start + tl.arange(0, BLOCK)
        logit = tl.load(logits + id, mask=id < VOCAB, other=-float("inf"))
        score = tl.where(logit > low, _race(logit, id, temperature, key, other), -float("inf"))
        which = tl.where(score > best, id, which)
        best = tl.maximum(score, best)
    return tl.min(tl.where(best == tl.max(best), which, VOCAB - 1))


@triton.jit
def _drawn(
    logits, first, top, total, least, parts, temperature, top_k, top_p, key, other,
    VOCAB: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The token of a row that is sampled. first: winner among all; least: smallest of the parts' greatest logits."""
    id = first
    if (top_k > 0) & (top_k < VOCAB):
        floor = tl.where(top_k <= parts, least, -float("inf"))
        low = _kth(logits, top_k, floor, top, VOCAB, BLOCK)
        id = _winner_above(logits, low, temperature, key, other, VOCAB, BLOCK)
        if top_p < 1.0:
            total = _weight_above(logits, low, top, temperature, VOCAB, BLOCK)
    unsure = (top_p < 1.0).to(tl.int32)
    while unsure > 0:
        low = tl.load(logits + id)
        if _weight_above(logits, low, top, temperature, VOCAB, BLOCK) < top_p * total:
            unsure = unsure * 0
        else:
            id = _winner_above(logits, low, temperature, key, other, VOCAB, BLOCK)
    return id


@triton.jit
def _choose(
    logits, changed, slots, temperatures, penalties, adds, added, presences, frequencies, top_ps, top_ks, seeds,
    positions, tokens, seen, greatest, weight, race, likeliest, winner,
    VOCAB: tl.constexpr, WIDTH: tl.constexpr, PARTS: tl.constexpr, TILE: tl.constexpr, BLOCK: tl.constexpr,
    DUMMY: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    begin(EARLY)
    row = tl.program_id(0)
    state = tl.load(slots + row).to(tl.int64)
    position = tl.load(positions + state)
    temperature = tl.load(temperatures + state)
    top_k = tl.load(top_ks + state)
    adding = tl.load(adds + state)
    part = tl.arange(0, TILE)
    real = part < PARTS
    most = tl.load(greatest + row * PARTS + part, mask=real, other=-float("inf"))
    top = tl.max(most)
    ids = tl.load(likeliest + row * PARTS + part, mask=real, other=WIDTH)
    id = tl.min(tl.where(most == top, ids, WIDTH))
    if (top == float("inf")) | (top == -float("inf")):
        id = id * 0 - 1
    elif (temperature > 0) & (top_k != 1):
        weights = tl.load(weight + row * PARTS + part, mask=real, other=0.0)
        total = tl.sum(tl.where(most > -float("inf"), weights * tl.exp((most - top) / temperature), 0.0))
        scores = tl.load(race + row * PARTS + part, mask=real, other=-float("inf"))
        winners = tl.load(winner + row * PARTS + part, mask=real, other=WIDTH)
        first = tl.min(tl.where(scores == tl.max(scores), winners, WIDTH))
        least = tl.min(tl.where(real, most, top))
        key, other = _keys(tl.load(seeds + state), position)
        drawn_from = tl.where((tl.load(penalties + state) != 1.0) | (adding != 0), changed, logits)
        id = _drawn(
            drawn_from + row.to(tl.int64) * WIDTH, first, top, total, least, PARTS, temperature, top_k,
            tl.load(top_ps + state), key, other, VOCAB, BLOCK)  # fmt: skip
    if state < DUMMY:
        tl.store(tokens + state, id)
        tl.store(positions + state, position + 1)
        place = state * WIDTH + tl.maximum(id, 0)
        if adding != 0:
            once = tl.where((tl.load(seen + place) & MADE) == 0, tl.load(presences + state), 0.0)
            tl.store(added + place, tl.load(added + place) - once - tl.load(frequencies + state), mask=id >= 0)
        tl.store(seen + place, SEEN | MADE, mask=id >= 0)


@dataclass(frozen=True, slots=True)
class Scratch:
    """Between the two kernels. changed: [rows, width], logits of rows with penalties or additions; the others: [rows,
    parts]."""

    changed: Tensor
    greatest: Tensor
    weight: Tensor
    race: Tensor
    likeliest: Tensor
    winner: Tensor

    @classmethod
    def make(cls, rows: int, width: int, device: torch.device) -> Scratch:
        shape = (rows, triton.cdiv(width, PART))
        floats = [torch.empty(shape, dtype=torch.float32, device=device) for _ in range(3)]
        changed = torch.zeros((rows, width), dtype=torch.float32, device=device)
        return cls(changed, *floats, *(torch.empty(shape, dtype=torch.int32, device=device) for _ in range(2)))


def sample(logits: Tensor, slots: Tensor, states: States, scratch: Scratch, rows: int, vocab: int) -> None:
    """Each row's next token to states.token, its position one further, the token noted as seen.

    logits: [>= rows, width] float32; slots: [>= rows] int32, the rows' states; ids from vocab on are
    never sampled. A row whose logits are not numbers gets the token -1.
    """
    width = logits.shape[1]
    parts, block = triton.cdiv(width, PART), min(8192, triton.next_power_of_2(width))
    noted = (scratch.greatest, scratch.weight, scratch.race, scratch.likeliest, scratch.winner)
    options = launch.options(logits.device)
    _scan[(rows, parts)](
        logits, scratch.changed, slots, states.temperature, states.penalty, states.adds, states.added, states.seed,
        states.position, states.seen, *noted, vocab, width, parts, PART, **options,
    )  # fmt: skip
    _choose[(rows,)](
        logits, scratch.changed, slots, states.temperature, states.penalty, states.adds, states.added, states.presence,
        states.frequency, states.top_p, states.top_k, states.seed, states.position, states.token, states.seen, *noted,
        vocab, width, parts, triton.next_power_of_2(parts), block, states.dummy, num_warps=16, **options,
    )  # fmt: skip
