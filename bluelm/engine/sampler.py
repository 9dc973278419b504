"""From logits to tokens, each row by its own settings and seed, whoever else is in the batch.

Order of the steps: what is added (bias, presence and frequency penalties), then as in transformers: repetition penalty,
temperature, top-k, top-p. A row's randomness is a function
of its seed and the token's position alone, so a row that was computed anew goes on with the same text.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bluelm.engine.likely import Likely, ranked
from bluelm.types import SamplingParams

MASK64 = 2**64 - 1
NEGLIGIBLE = -80.0  # e to its power and less is taken for 0: denormal numbers would take a CPU several times as long
COMMON = 2048  # tokens looked at before a longer sort


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) from a counter-based generator (SplitMix64's mixing of seed and position)."""
    z = (seed * 0x9E3779B97F4A7C15 + (position + 1) * 0xD1B54A32D192ED03) & MASK64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = ((z ^ (z >> shift)) * factor) & MASK64
    return ((z ^ (z >> 31)) >> 11) / 2**53


def added(params: SamplingParams, answer: Sequence[int]) -> tuple[list[int], list[float]]:
    """Ids, and what is added to their logits. answer: the ids made so far."""
    sums = dict(params.logit_bias)
    if params.presence_penalty or params.frequency_penalty:
        for id, times in Counter(answer).items():
            sums[id] = sums.get(id, 0.0) - params.presence_penalty - times * params.frequency_penalty
    return list(sums), list(sums.values())


def sample_row(
    logits: Tensor, params: SamplingParams, seen: Sequence[int], draw: float, answer: Sequence[int] = ()
) -> int:
    """The next token of one row. logits: [vocab] float32, changed in place; seen: ids so far, those of the answer are
    `answer`; draw: in [0, 1).

    Gives -1 when the logits are not numbers (NaN, or none finite).
    """
    if params.adds:
        chosen, sums = added(params, answer)
        places = torch.tensor(chosen, dtype=torch.int64, device=logits.device)
        logits[places] += torch.tensor(sums, dtype=torch.float32, device=logits.device)
    if params.repetition_penalty != 1.0:
        ids = torch.from_numpy(np.array(seen, dtype=np.int64)).to(logits.device)  # one that is there twice is set twice
        scores = logits[ids]
        logits[ids] = torch.where(scores > 0, scores / params.repetition_penalty, scores * params.repetition_penalty)
    if params.temperature == 0.0 or params.top_k == 1:
        value, index = logits.max(dim=0)
        return int(index) if math.isfinite(value) else -1
    best = float(logits.amax())
    if not math.isfinite(best):
        return -1
    exponents = F.threshold((logits - best) / params.temperature, NEGLIGIBLE, -math.inf, inplace=True)
    weights = exponents.exp_()
    return _draw(weights, params, draw)


def _draw(weights: Tensor, params: SamplingParams, draw: float) -> int:
    """A token from unnormalised probabilities [vocab], by inverting their cumulative sum in float64."""
    if 0 < params.top_k < weights.shape[0]:
        values, ids = weights.topk(params.top_k)
        total = float(values.sum(dtype=torch.float64))
    elif params.top_p < 1.0:
        total = float(weights.sum(dtype=torch.float64))
        values, ids = _likeliest(weights, total, params.top_p)
    else:
        return _invert(weights, draw)
    if params.top_p < 1.0:
        before = values.to(torch.float64).cumsum(0) - values
        values = values[: max(int((before < params.top_p * total).sum()), 1)]
    return int(ids[_invert(values, draw)])


def _likeliest(weights: Tensor, total: float, top_p: float) -> tuple[Tensor, Tensor]:
    """Values and ids, likeliest first, of tokens that have at least the share top_p of all together.

    At most COMMON tokens have 1 / COMMON of all or more. If those are not enough, then the ones that have more than
    an even share of 1 - top_p are.
    """
    for least in (total / COMMON, (1.0 - top_p) * total / weights.shape[0]):
        ids = (weights >= least).nonzero()[:, 0]
        values = weights[ids]
        if float(values.sum(dtype=torch.float64)) >= top_p * total:
            break
    values, order = values.sort(descending=True, stable=True)
    return values, ids[order]


def _invert(weights: Tensor, draw: float) -> int:
    sums = weights.to(torch.float64).cumsum(0)
    index = int(torch.searchsorted(sums, draw * sums[-1], right=True))
    return min(index, weights.shape[0] - 1)


@dataclass(frozen=True, slots=True)
class Likeliest:
    """Of some rows: tokens [rows] int64, their logprobs [rows], ids [rows, k] and logprobs of the k likeliest."""

    tokens: Tensor
    logprobs: Tensor
    ids: Tensor
    best: Tensor

    def of(self, row: int, count: int) -> Likely:
        """One row, with its `count` likeliest; on the host."""
        ids, best = self.ids[row, :count].tolist(), self.best[row, :count].tolist()
        return ranked(int(self.tokens[row]), float(self.logprobs[row]), ids, best)

    def every(self) -> list[Likely]:
        """All rows; on the host."""
        told = (self.tokens.tolist(), self.logprobs.tolist(), self.ids.tolist(), self.best.tolist())
        return [ranked(*row) for row in zip(*told, strict=True)]


def likeliest(logits: Tensor, tokens: Tensor, count: int) -> Likeliest:
    """Log-softmax of the model's own logits [rows, vocab] float32: at `tokens` [rows] int64, and the greatest."""
    whole = logits.logsumexp(-1, keepdim=True)
    best, ids = logits.topk(min(count, logits.shape[-1]), dim=-1)
    chosen = logits.gather(-1, tokens[:, None])
    return Likeliest(tokens, (chosen - whole)[:, 0], ids, best - whole)
