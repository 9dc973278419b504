"""Block shapes of the kernels: a small table with defaults, measured on one H100 80GB, good on its neighbours."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch
import triton

BATCHES = (1, 2, 4, 8, 16, 32, 64)  # a step of decoding is captured for each of these numbers of rows
ROWS_PER_TILE = 16  # the fewest rows that the tensor cores multiply at once


@dataclass(frozen=True, slots=True)
class Tile:
    """One program's part of a product: outer outputs, inner columns of W a time, stages of these in flight.

    ahead: columns of W that are fetched into L2 before the inputs are ready; across: see products.
    """

    outer: int
    inner: int
    warps: int
    stages: int
    ahead: int = 1024
    across: bool = False


@dataclass(frozen=True, slots=True)
class Strip:
    """One program's part of a product with one row: outer outputs, inner columns of W a time."""

    outer: int
    inner: int
    warps: int


_DEFAULT = Tile(64, 128, 4, 4)
_TILES = {  # (matrix, rows)
    ("qkv", 16): Tile(32, 256, 4, 4, ahead=512),
    ("qkv", 32): Tile(128, 128, 4, 3),
    ("qkv", 64): Tile(128, 128, 8, 3, across=True),
    ("o", 16): Tile(64, 256, 4, 5),
    ("o", 32): Tile(64, 256, 4, 3),
    ("o", 64): Tile(64, 128, 4, 4, across=True),
    ("gate_up", 16): Tile(32, 256, 4, 4, ahead=512, across=True),
    ("gate_up", 32): Tile(64, 128, 4, 4),
    ("gate_up", 64): Tile(32, 128, 4, 4, across=True),
    ("down", 16): Tile(64, 256, 4, 4),
    ("down", 32): Tile(64, 256, 4, 3),
    ("down", 64): Tile(64, 128, 4, 4, across=True),
    ("lm_head", 16): Tile(64, 256, 4, 3, ahead=512),
    ("lm_head", 32): Tile(32, 256, 4, 3),
    ("lm_head", 64): Tile(64, 128, 4, 3, across=True),
}
STRIP = Strip(4, 2048, 4)
_STRIPS = {
    "qkv": Strip(4, 4096, 8),
    "o": Strip(8, 1024, 4),
    "down": Strip(4, 1024, 4),
    "lm_head": Strip(2, 4096, 4),
}
HALVED = ("o", "down")  # few outputs: two programs share each sum, in batches of any size
_SHARED_MEMORY_BELOW = 96 * 1024  # where there is no card to ask


def padded(rows: int) -> int:
    """Rows of a tile."""
    return max(ROWS_PER_TILE, triton.next_power_of_2(rows))


def tile(matrix: str, rows: int, element_size: int) -> Tile:
    """The shape for one of "qkv", "o", "gate_up", "down", "lm_head" and so many rows."""
    found = _TILES.get((matrix, padded(rows)), _DEFAULT)
    outer = found.outer * (2 if matrix == "gate_up" else 1)
    while (stage := (outer + padded(rows)) * found.inner * element_size) * found.stages > shared_memory():
        if found.stages > 2:
            found = replace(found, stages=found.stages - 1)
        elif found.inner > 32:
            found = replace(found, inner=found.inner // 2)
        else:
            raise ValueError(f"{matrix} with {padded(rows)} rows needs {2 * stage} bytes of shared memory")
    return found


def strip(matrix: str) -> Strip:
    """The shape for one row."""
    return _STRIPS.get(matrix, STRIP)


@cache
def shared_memory() -> int:
    """Bytes that one program may use."""
    if not torch.cuda.is_available():
        return _SHARED_MEMORY_BELOW
    return getattr(torch.cuda.get_device_properties(), "shared_memory_per_block_optin", _SHARED_MEMORY_BELOW)


@dataclass(frozen=True, slots=True)
class Reading:
    """How one program attends: cached tokens it reads at once, warps, and how many programs a step has at most.

    A row's numbers depend on the first two.
    """

    step: int
    warps: int
    programs: int


READING = Reading(8, 1, 2048)
_FASTER = {1: Reading(32, 2, 1024), 32: Reading(16, 2, 1024)}  # by rows


def reading(rows: int, *, exact: bool) -> Reading:
    """exact: a row is read in the same way in a batch of any size."""
    return READING if exact else _FASTER.get(triton.next_power_of_2(rows), READING)


def splits(heads: int, chunks: int, programs: int) -> int:
    """Programs that share one row's and one key head's chunks; heads: key heads of all rows."""
    return max(1, min(chunks, triton.next_power_of_2(programs // heads)))
