"""A step of decoding, run by PyTorch's own interpreter (torch.jit) instead of Python's: the same operations.

Python takes a quarter of the time of a small model's step: its own work, and what it drives out of the processor's
caches. Nothing is compiled. A trace fixes what Python's numbers decide, so each form of the products needs one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bluelm.engine.attention import RowGroup, Step
from bluelm.engine.linear import Blocked, ByRows, Dense, Int4Cpu, Linear, of_form

if TYPE_CHECKING:
    from bluelm.engine.model import KVCache, Layer


def traceable(layers: Sequence[Layer]) -> bool:
    """Whether all products are operations of PyTorch."""
    return all(isinstance(matrix, Dense | Blocked | Int4Cpu | ByRows) for layer in layers for matrix in layer.matrices)


Compute = Callable[[Sequence["Layer"], Step, Tensor, Tensor], Tensor]


class Traced:
    """`compute(layers, step, keys, values)` for one row group that the cache holds side by side, with up to FEW
    rows or with more."""

    def __init__(self, compute: Compute, layers: Sequence[Layer], *, few: bool) -> None:
        self._compute = compute
        self._layers = [layer.with_matrices(lambda matrix: of_form(matrix, few=few)) for layer in layers]
        # A trace can hold every tensor but those in oneDNN's layout, so these are given each time.
        matrices = [matrix for layer in self._layers for matrix in layer.matrices]
        self._blocked = [matrix.blocked for matrix in matrices if isinstance(matrix, Blocked)]
        self._trace: Callable[..., Tensor] | None = None

    def __call__(self, step: Step, cache: KVCache) -> Tensor:
        group = step.groups[0]
        given = (
            step.tokens, step.positions, step.slots, step.sampled, group.mask, cache.keys, cache.values,
            *self._blocked,
        )  # fmt: skip
        with warnings.catch_warnings(), torch.jit.optimized_execution(False):  # else the first calls are slow
            if self._trace is None:
                warnings.simplefilter("ignore")  # of what the number of rows might decide
                self._trace = torch.jit.trace(self._run, given, check_trace=False)
            return self._trace(*given)

    def _run(
        self, tokens: Tensor, positions: Tensor, slots: Tensor, sampled: Tensor, mask: Tensor, keys: Tensor,
        values: Tensor, *blocked: Tensor,
    ) -> Tensor:  # fmt: skip
        left = iter(blocked)

        def given(matrix: Linear) -> Linear:
            return replace(matrix, blocked=next(left)) if isinstance(matrix, Blocked) else matrix

        layers = [layer.with_matrices(given) for layer in self._layers]
        return self._compute(
            layers, Step(tokens, positions, slots, (RowGroup(0, len(tokens), None, mask),), (), sampled), keys, values
        )
