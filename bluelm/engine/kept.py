"""Rows that decode, side by side in a small cache of their own, as long as they go on together (on a CPU).

Attention reads it as it lies: gathering a step's keys and values from the paged cache takes a tenth of a small model's
time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bluelm.engine.attention import Step
from bluelm.engine.memory import step_fits
from bluelm.engine.model import KVCache
from bluelm.engine.scheduler import Piece
from bluelm.errors import OutOfMemory

MOST = 256 << 20  # bytes of keys and values; beyond, gathering takes a small part of a step

Compute = Callable[[Step, KVCache], Tensor]


class Kept:
    """Computes steps of one row group; what it holds of the last one's rows is good for the next if they follow."""

    def __init__(self) -> None:
        self._held: KVCache | None = None
        self._last: list[Piece] = []

    def forget(self) -> None:
        """Before any other step."""
        self._held, self._last = None, []

    def compute(self, forward: Compute, step: Step, pieces: Sequence[Piece], cache: KVCache) -> Tensor:
        """forward(step, cache), by way of the small cache. pieces: the step's, in its order."""
        group = step.groups[0]
        assert group.slots is not None
        if cache.slot_bytes * group.slots.numel() > MOST:
            self.forget()
            return forward(step, cache)
        if self._held is None or self._held.slots != group.slots.numel() or not self._followed_by(pieces):
            self.forget()
            try:
                with step_fits():
                    self._held = cache.gathered(group.slots.reshape(-1))
            except OutOfMemory:  # what is gathered a layer at a time needs less
                return forward(step, cache)
        self._last = list(pieces)
        places = torch.arange(group.count) * group.slots.shape[1] + step.positions
        result = forward(replace(step, slots=places, groups=(replace(group, slots=None),)), self._held)
        cache.copy(self._held, places, step.slots)
        return result

    def _followed_by(self, pieces: Sequence[Piece]) -> bool:
        """Whether these are the next tokens of the last step's rows, and of no others."""
        return len(pieces) == len(self._last) and all(
            piece.row is last.row and piece.start == last.start + 1
            for piece, last in zip(pieces, self._last, strict=True)
        )
