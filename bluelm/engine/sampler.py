"""From logits to tokens, each row by its own settings and seed, whoever else is in the batch.

Order of the steps as in transformers: repetition penalty, temperature, top-k, top-p. A row's randomness is a function
of its seed and the token's position alone, so a row that was computed anew goes on with the same text.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bluelm.types import SamplingParams

MASK64 = 2**64 - 1
HEAD = 1024  # likely tokens looked at before a whole sort


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) from a counter-based generator (SplitMix64's mixing of seed and position)."""
    z = (seed * 0x9E3779B97F4A7C15 + (position + 1) * 0xD1B54A32D192ED03) & MASK64
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = ((z ^ (z >> shift)) * factor) & MASK64
    return ((z ^ (z >> 31)) >> 11) / 2**53


def sample_row(logits: Tensor, params: SamplingParams, seen: Sequence[int], draw: float) -> int:
    """The next token of one row. logits: [vocab] float32, changed in place; seen: ids so far; draw: in [0, 1).

    Gives -1 when the logits are not numbers (NaN, or none finite).
    """
    if params.repetition_penalty != 1.0:
        ids = torch.tensor(sorted(set(seen)), dtype=torch.int64, device=logits.device)
        scores = logits[ids]
        logits[ids] = torch.where(scores > 0, scores / params.repetition_penalty, scores * params.repetition_penalty)
    best = logits.max(dim=0)
    if not torch.isfinite(best.values):
        return -1
    if params.temperature == 0.0 or params.top_k == 1:
        return int(best.indices)
    weights = ((logits - best.values) / params.temperature).exp_()
    return _draw(weights, params, draw)


def _draw(weights: Tensor, params: SamplingParams, draw: float) -> int:
    """A token from unnormalised probabilities [vocab], by inverting their cumulative sum in float64."""
    vocab = weights.shape[0]
    if not 0 < params.top_k < vocab and params.top_p >= 1.0:
        return _invert(weights, draw)
    size = min(params.top_k or HEAD, vocab)
    values, ids = weights.topk(size)
    total = values.sum(dtype=torch.float64) if params.top_k else weights.sum(dtype=torch.float64)
    if params.top_p < 1.0:
        before = values.to(torch.float64).cumsum(0) - values
        if not params.top_k and size < vocab and before[-1] < params.top_p * total:
            values, ids = weights.sort(descending=True)
            before = values.to(torch.float64).cumsum(0) - values
        values = values[: max(int((before < params.top_p * total).sum()), 1)]
    return int(ids[_invert(values, draw)])


def _invert(weights: Tensor, draw: float) -> int:
    sums = weights.to(torch.float64).cumsum(0)
    index = int(torch.searchsorted(sums, draw * sums[-1], right=True))
    return min(index, weights.shape[0] - 1)
