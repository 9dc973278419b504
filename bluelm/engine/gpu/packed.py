"""Matrices of 4 and 8 bits on a card: the products of a decode step, and of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from bluelm.engine.gpu import packing
from bluelm.engine.gpu.expand import expand4, expand8
from bluelm.engine.gpu.finish import Parts
from bluelm.engine.gpu.inputs import prepare
from bluelm.engine.gpu.products import PLAIN
from bluelm.engine.gpu.products4 import product4
from bluelm.engine.gpu.products8 import product8
from bluelm.engine.gpu.rows import norm
from bluelm.engine.gpu.shapes_packed import GROUPS, PARTS, ROWS_BY_TILES, SHARED, SPAN, tile, warps
from bluelm.engine.gpu.vector_packed import vector
from bluelm.engine.linear import Grouped4, Int8, Linear


def packed(stored: Grouped4 | Int8) -> Int4Gpu | Int8Gpu | None:
    """The matrix as the kernels want it, on the device where it is; None if they cannot do it."""
    outer = stored.codes.shape[0]
    if outer % 32:  # tiles of 16 gates and of 16 ups
        return None
    if isinstance(stored, Int8):
        return Int8Gpu.of(stored)
    return Int4Gpu.of(stored) if stored.group in GROUPS else None


def _apart(tensor: Tensor) -> Tensor:
    """The same numbers in memory of their own. PyTorch would put them into blocks that the larger tensors of rounding
    have left, and the rest of these blocks, more than a gigabyte in all, would be lost on a small card."""
    if tensor.device.type != "cuda":
        return tensor
    with torch.cuda.stream(_stream(tensor.device)):  # each stream has its own blocks
        kept = torch.empty_like(tensor)
    return kept.copy_(tensor)  # in the order of the stream that everything else is in


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def _takes_one_row(x: Tensor) -> bool:
    """Whether the kernel for one row does: it has instructions for 16 bits alone."""
    return x.device.type == "cpu" or x.dtype is not torch.float32


class Packed:
    """Where inputs are prepared and parts of sums meet, for up to `rows` rows of these matrices.

    shared: those whose sums may be shared by several programs.
    """

    def __init__(
        self, rows: int, matrices: Sequence[Linear], like: Tensor, shared: Sequence[Linear] = ()
    ) -> None:  # fmt: skip
        ours = [each for each in matrices if isinstance(each, Int4Gpu | Int8Gpu)]
        inner = max((each.inner for each in ours), default=0)
        self._inputs = like.new_empty(rows * inner)
        self.sums = torch.empty(-(-inner // min(GROUPS)) + 3, rows, dtype=torch.float32, device=like.device)
        outer = max((each.outer for each in shared if isinstance(each, Int4Gpu | Int8Gpu)), default=0)
        self.parts = Parts(rows, outer, PARTS, like.device) if outer else None

    def inputs(self, rows: int, inner: int) -> Tensor:
        """Room for the inputs [rows, inner]."""
        return self._inputs[: rows * inner].view(rows, inner)


@dataclass(frozen=True, slots=True)
class Int4Gpu:
    """words, steps: as packing.pack4 gives them. inner: inputs; order: int32 [in], which of them each column meets."""

    words: Tensor
    steps: Tensor
    inner: int
    group: int
    order: Tensor | None

    @classmethod
    def of(cls, stored: Grouped4) -> Int4Gpu:
        order = None if stored.order is None else stored.order.int()
        words, steps = packing.pack4(stored)
        return cls(_apart(words), _apart(steps), stored.codes.shape[1], stored.group, order)

    @property
    def outer(self) -> int:
        return len(self.words) * 16

    @property
    def precision(self) -> str:
        return "int4"

    @property
    def parameters(self) -> int:
        return self.outer * self.inner

    @property
    def bytes(self) -> int:
        return self.words.numel() * 2 + self.steps.numel() * 4

    def multiply(
        self, name: str, x: Tensor, y: Tensor, rows: int, kind: int, room: Packed, *, gain: Tensor | None = None,
        eps: float = 0.0, alone: bool = False,
    ) -> None:  # fmt: skip
        """As `products.product`, of rms_norm(x) * gain where that is given. name: as in shapes.py. alone: the faster
        way for one row, on which sums are taken in another order."""
        into, alone = room.inputs(rows, self.inner), alone and _takes_one_row(x)
        if not alone or self.order is not None:
            x = prepare(x, into, room.sums, rows, self.group, gain=gain, order=self.order, eps=eps)
            gain = None
        if alone:
            shared = warps(4, name, self.inner)
            vector(x, self.words, self.steps, y, 4, self.group, shared, kind, gain=gain, eps=eps)
            return
        shape, parts = tile(4, name, rows, x.element_size()), room.parts if name in SHARED else None
        product4(x, room.sums, self.words, self.steps, y, rows, self.group, shape, kind, parts)

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        if rows > ROWS_BY_TILES:
            columns = expand4(self.words, self.steps, self.inner, self.group, x.dtype)
            return F.linear(x if self.order is None else x[:, self.order], columns)
        y = x.new_empty(rows, self.outer)
        self.multiply("prompt", x.contiguous(), y, rows, PLAIN, Packed(rows, [self], x))
        return y


@dataclass(frozen=True, slots=True)
class Int8Gpu:
    """words: as packing.pack8 gives them; scale: float32 [out]; inner: inputs."""

    words: Tensor
    scale: Tensor
    inner: int

    @classmethod
    def of(cls, stored: Int8) -> Int8Gpu:
        return cls(_apart(packing.pack8(stored)), stored.scale.float(), stored.codes.shape[1])

    @property
    def outer(self) -> int:
        return len(self.words) * 16

    @property
    def precision(self) -> str:
        return "int8"

    @property
    def parameters(self) -> int:
        return self.outer * self.inner

    @property
    def bytes(self) -> int:
        return self.words.numel() * 2 + self.scale.numel() * 4

    def multiply(
        self, name: str, x: Tensor, y: Tensor, rows: int, kind: int, room: Packed, *, gain: Tensor | None = None,
        eps: float = 0.0, alone: bool = False,
    ) -> None:  # fmt: skip
        """As Int4Gpu's."""
        if alone and _takes_one_row(x):
            vector(x, self.words, self.scale, y, 8, SPAN, warps(8, name, self.inner), kind, gain=gain, eps=eps)
            return
        if gain is not None:
            into = room.inputs(rows, self.inner)
            norm(x, gain, into, rows, eps)
            x = into
        shape, parts = tile(8, name, rows, x.element_size()), room.parts if name in SHARED else None
        product8(x, self.words, self.scale, y, rows, shape, kind, parts)

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        if rows > ROWS_BY_TILES:
            return F.linear(x, expand8(self.words, self.inner, x.dtype)).mul_(self.scale)
        y = x.new_empty(rows, self.outer)
        self.multiply("prompt", x.contiguous(), y, rows, PLAIN, Packed(rows, [self], x))
        return y
