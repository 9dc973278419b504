"""The matrices of the model as they are stored: 16 or 32 bits a number, or 4 bits with a scale and a minimum a group.

`Grouped4` is the one representation of every 4-bit format (GGUF's Q4_1, GPTQ, AWQ); `linear` makes what multiplies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from bluelm.errors import CheckpointError


class Linear(Protocol):
    """y = x W^T. x: [n, in], y: [n, out], in the model's dtype."""

    @property
    def parameters(self) -> int: ...

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        ...

    def __call__(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Dense:
    """weight: [out, in]."""

    weight: Tensor

    @property
    def parameters(self) -> int:
        return self.weight.numel()

    @property
    def bytes(self) -> int:
        return self.weight.numel() * self.weight.element_size()

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


@dataclass(frozen=True, slots=True)
class Grouped4:
    """A matrix of 4-bit codes as it comes from a file: weight[o, i] = scale[o, g] * code[o, i] + minimum[o, g].

    codes: uint8 [out, in], 0 to 15; scale, minimum: float32 [out, in / group], g = i // group.
    """

    codes: Tensor
    scale: Tensor
    minimum: Tensor

    @property
    def group(self) -> int:
        return self.codes.shape[1] // self.scale.shape[1]

    def dequantize(self) -> Tensor:
        """[out, in] float32."""
        out, inner = self.codes.shape
        grouped = self.codes.view(out, -1, self.group).float() * self.scale[..., None] + self.minimum[..., None]
        return grouped.view(out, inner)


Stored = Tensor | Grouped4
"""A matrix as a loader hands it over."""


def shape_of(stored: Stored) -> tuple[int, ...]:
    return tuple(stored.codes.shape if isinstance(stored, Grouped4) else stored.shape)


def joined(parts: Sequence[Stored]) -> Stored:
    """Matrices that read the same input as one, their outputs one behind the other."""
    dense = [part for part in parts if isinstance(part, Tensor)]
    grouped = [part for part in parts if isinstance(part, Grouped4)]
    if len(dense) == len(parts):
        return dense[0].contiguous() if len(parts) == 1 else torch.cat(dense)
    if dense or len({part.group for part in grouped}) > 1:
        raise CheckpointError("Matrices that belong together are stored in different precisions: use another file.")
    return Grouped4(*(torch.cat([getattr(part, name) for part in grouped]) for name in Grouped4.__slots__))


def linear(stored: Stored) -> Linear:
    """What multiplies by this matrix, on the device where it is."""
    return Dense(stored.dequantize() if isinstance(stored, Grouped4) else stored)
