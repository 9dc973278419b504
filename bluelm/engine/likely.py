"""How likely a sampled token was, and what else might have been said there. Plain data, no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Likely:
    """logprob: of the token, natural; top: ids and logprobs of the likeliest, likeliest first."""

    logprob: float
    top: tuple[tuple[int, float], ...]


def ranked(token: int, logprob: float, ids: Sequence[int], logprobs: Sequence[float]) -> Likely:
    """ids, logprobs: of the likeliest, in any order. Of equals the smaller id comes first; the token itself is among
    them wherever it is as likely as the last."""
    top = list(zip(ids, logprobs, strict=True))
    if top and token not in ids and logprob >= min(logprobs):
        top[logprobs.index(min(logprobs))] = (token, logprob)
    return Likely(logprob, tuple(sorted(top, key=lambda one: (-one[1], one[0]))))
