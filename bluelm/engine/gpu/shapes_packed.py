"""Block shapes of the products in 4 and 8 bits: as in shapes.py, measured on one H100 80GB."""

from __future__ import annotations

from dataclasses import dataclass, replace

import triton

from bluelm.engine.gpu.shapes import shared_memory

SPAN = 128  # inputs: what one turn goes on by at least, and what inputs are padded to
GROUPS = (32, 64, 128)  # sizes of groups of 4 bits that the kernels can do
ROWS_BY_TILES = 128  # more rows than these are multiplied by cuBLAS, after the matrix was expanded to plain numbers
SHARED = ("qkv", "o", "down")  # few programs: so many share each sum, in batches of any size
PARTS = 4


@dataclass(frozen=True, slots=True)
class Tile:
    """One program's part of a product: outer outputs, 1 or 2 spans of inputs in a turn, stages of these in flight.

    ahead: bytes of the codes of each 16 outputs that are fetched into L2 before the inputs are ready.
    """

    outer: int
    spans: int
    warps: int
    stages: int
    ahead: int = 4096


_DEFAULT = Tile(64, 2, 4, 4)
_TILES = {  # (bits, matrix, rows)
    (4, "qkv", 64): Tile(128, 2, 8, 3),
    (4, "o", 64): Tile(128, 1, 8, 4),
    (4, "gate_up", 32): Tile(128, 2, 8, 3),
    (4, "gate_up", 64): Tile(128, 1, 8, 4),
    (4, "down", 64): Tile(128, 1, 8, 4),
    (4, "prompt", 64): Tile(128, 2, 8, 3),
    (8, "qkv", 64): Tile(128, 1, 8, 3),
    (8, "o", 64): Tile(128, 1, 8, 3),
    (8, "gate_up", 64): Tile(128, 1, 8, 3),
    (8, "down", 64): Tile(128, 1, 8, 3),
    (8, "lm_head", 64): Tile(128, 1, 8, 3),
    (8, "prompt", 64): Tile(128, 1, 8, 3),
}
_WARPS = {"qkv": 8, "o": 16, "down": 16}  # for one row
_WARPS_OTHERWISE = {4: 4, 8: 8}  # by bits


def padded(rows: int) -> int:
    """Rows of a tile: at most 64."""
    return min(64, max(8, triton.next_power_of_2(rows)))


def tile(bits: int, matrix: str, rows: int, element_size: int) -> Tile:
    """The shape for one of "qkv", "o", "gate_up", "down", "lm_head" or "prompt", and so many rows."""
    found = _TILES.get((bits, matrix, padded(rows)), _DEFAULT)
    codes = found.outer * SPAN * bits // 8 * (2 if matrix == "gate_up" else 1)
    while (codes + padded(rows) * SPAN * element_size) * found.spans * found.stages > shared_memory():
        if found.stages > 2:
            found = replace(found, stages=found.stages - 1)
        elif found.spans > 1:
            found = replace(found, spans=1)
        else:
            break
    return found


def warps(bits: int, matrix: str, inner: int) -> int:
    """Warps that share 16 outputs of one row: no more than have a turn each."""
    turns = -(-inner // SPAN) * bits // 4
    return min(_WARPS.get(matrix, _WARPS_OTHERWISE[bits]), triton.next_power_of_2(turns))


def turns(spans: int, most: int, parts: int) -> tuple[int, int]:
    """Spans in a turn of the loop and spans of each of so many parts; the latter whatever is asked of the former, so
    that sums are always cut in the same places."""
    if spans % 2:
        return 1, -(-spans // parts)
    return most, -(-spans // (2 * parts)) * 2
