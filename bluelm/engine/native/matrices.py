"""Matrices of 4 and 8 bits for a CPU's instructions that multiply 8-bit numbers (AVX-512 VNNI)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from bluelm.engine.linear import Grouped4
from bluelm.engine.native import job as places
from bluelm.engine.native.crew import crew
from bluelm.engine.native.vectors import CODES, GROUP, HALF_CODES, TILE


@dataclass(frozen=True, slots=True)
class Native:
    """weight [outer, inner] in tiles, as vectors.product takes them: packed, uint8 [outer / 16, inner / 32, bytes].
    What it multiplies is rounded to 8 bits in groups of 32; a row's numbers do not depend on the other rows."""

    packed: Tensor
    bits: Literal[4, 8]

    @classmethod
    def of_4(cls, stored: Grouped4) -> Native:
        outer, inner = stored.codes.shape
        halves = stored.codes.view(
            outer // TILE, TILE, inner // GROUP, 2, 4, 4
        )  # tile, output, group, half, quad, input
        both = halves[:, :, :, 0] | halves[:, :, :, 1] << 4
        codes = both.permute(0, 2, 3, 1, 4).reshape(outer // TILE, -1, HALF_CODES)
        scales = [_by_tiles(each, stored.group) for each in (stored.scale, stored.minimum)]
        return cls(torch.cat((codes, *scales), dim=-1), 4)

    @classmethod
    def of_8(cls, codes: Tensor, scale: Tensor) -> Native:
        """codes: int8 [outer, inner]; scale: float32 [outer, inner / group]."""
        outer, inner = codes.shape
        raised = (codes.to(torch.int16) + 128).to(torch.uint8)
        tiles = raised.view(outer // TILE, TILE, inner // GROUP, 8, 4).permute(0, 2, 3, 1, 4)
        parts = tiles.reshape(outer // TILE, -1, CODES), _by_tiles(scale, inner // scale.shape[1])
        return cls(torch.cat(parts, dim=-1), 8)

    @staticmethod
    def takes(codes: Tensor, scale: Tensor, minimum: Tensor | None = None, order: Tensor | None = None) -> bool:
        """Whether the product can do such a matrix, and float16 hold its scales [outer, inner / group]."""
        outer, inner = codes.shape
        fits = not outer % TILE and not inner % GROUP and not inner // scale.shape[1] % GROUP and order is None
        return fits and all(bool(each.half().isfinite().all()) for each in (scale, minimum) if each is not None)

    @property
    def precision(self) -> str:
        return f"int{self.bits}"

    @property
    def outer(self) -> int:
        return self.packed.shape[0] * TILE

    @property
    def inner(self) -> int:
        return self.packed.shape[1] * GROUP

    @property
    def parameters(self) -> int:
        return self.outer * self.inner

    @property
    def bytes(self) -> int:
        return self.packed.numel()

    def __call__(self, x: Tensor) -> Tensor:
        rows, numbers = x.shape[0], x.float().contiguous()
        codes, scales = torch.empty(rows * self.inner, dtype=torch.int8), torch.empty(rows * self.inner // GROUP * 2)
        out = torch.empty(rows, self.outer)
        job = np.zeros(places.JOB, dtype=np.int64)
        job[[places.KIND, places.ROWS, places.INNER]] = (places.PRODUCT, rows, self.inner)
        job[[places.OUTER, places.BITS, places.MATRIX]] = (self.outer, self.bits, self.packed.data_ptr())
        addresses = [each.data_ptr() for each in (numbers, codes, scales, out)]
        job[[places.X, places.CODES, places.SCALES, places.RESULT]] = addresses
        crew().run(job)
        return out.to(x.dtype)


def _by_tiles(scale: Tensor, group: int) -> Tensor:
    """[outer, inner / group] as float16's bytes [outer / 16, inner / 32, 32]."""
    each = scale.repeat_interleave(group // GROUP, dim=1)
    return each.view(-1, TILE, each.shape[1]).transpose(1, 2).half().contiguous().view(torch.uint8)
