"""The end of a product: sums in parts put together, then the gate or the residual, then the result."""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

import torch
import triton
import triton.language as tl

from bluelm.engine.gpu.products import leave
from bluelm.engine.gpu.shapes_packed import padded


@triton.jit
def finish(total, up, y, part, done, m, line, rows, N: tl.constexpr, M: tl.constexpr, PARTS: tl.constexpr,
           KIND: tl.constexpr):  # fmt: skip
    """Leave total [BN, M] in y [rows, N] (see products.leave).

    m: [M], the rows, and line: [BN], the outputs. PARTS: programs over axis 1 have a part of the sum each: the last one
    to come adds them up in order. part: [PARTS, rows of all tiles, N] float32; done: [programs of a part] int32, zeros
    between launches.
    """
    places = m[None, :] * N + line[:, None]
    wanted = (m < rows)[None, :] & (line < N)[:, None]
    last = True
    if PARTS > 1:
        apart = tl.num_programs(2) * M * N
        mine = done + tl.program_id(2) * tl.num_programs(0) + tl.program_id(0)
        tl.store(part + tl.program_id(1) * apart + places, total, mask=wanted)
        tl.debug_barrier()  # all of this part is written before it says so
        last = tl.atomic_add(mine, 1) == PARTS - 1
        if last:
            total = tl.load(part + places, mask=wanted, cache_modifier=".cg")
            for i in tl.static_range(1, PARTS):
                total += tl.load(part + i * apart + places, mask=wanted, cache_modifier=".cg")
            tl.store(mine, 0)
    if last:
        leave(total, up, y, places, wanted, KIND)


class Parts:
    """Where the parts of sums meet: of up to `rows` rows and `outer` outputs, in up to `parts` parts."""

    def __init__(self, rows: int, outer: int, parts: int, device: torch.device) -> None:
        block = padded(rows)
        tiles = triton.cdiv(rows, block)
        self.rows = rows
        self.sums = torch.empty(parts * tiles * block * outer, dtype=torch.float32, device=device)
        self.done = torch.zeros(tiles * triton.cdiv(outer, 16), dtype=torch.int32, device=device)
