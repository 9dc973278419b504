"""Demo mode: a clean page for an audience. What is locked is not asked of the browser at all."""

from __future__ import annotations

from dataclasses import replace

from bluelm import service
from bluelm.types import ModelInfo, SamplingParams

__all__ = ["ANSWER_LENGTH", "on", "params"]

ANSWER_LENGTH = 512  # new tokens at most: nobody keeps the others waiting for long


def on() -> bool:
    return service.settings().demo


def params(model: ModelInfo) -> SamplingParams:
    """The model's own defaults, with answers of a bounded length, each with a seed of its own."""
    longest = min(ANSWER_LENGTH, max(1, model.context // 2))
    return replace(model.defaults, max_length=min(model.defaults.max_length or longest, longest), seed=None)
