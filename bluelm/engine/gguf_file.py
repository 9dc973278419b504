"""A GGUF file: its metadata as plain values, its tensors as raw bytes on disk (mapped, not read).

Source of the format: the GGUF specification (docs/gguf.md of ggml). `gguf.GGUFReader` keeps four numpy views for every
string of the vocabulary and takes seconds; this takes a tenth of one. The library still knows the quantisations.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from bluelm.errors import CheckpointError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """shape: rows first, as in numpy. data: uint8 [rows..., bytes of a row], mapped from the file."""

    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    data: np.ndarray


@dataclass(frozen=True, slots=True)
class GGUFFile:
    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, StoredTensor]

    @classmethod
    def open(cls, path: Path) -> GGUFFile:
        """Read the file's directory (version 2 or 3, little-endian). Raises CheckpointError when it is no such file."""
        try:
            with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                magic, version, tensors, pairs = struct.unpack_from("<4sIQQ", data, 0)
                if magic != b"GGUF" or version not in (2, 3):
                    raise ValueError(f"magic {magic!r}, version {version}")
                cursor = _Cursor(data, 24)
                metadata = cursor.pairs(pairs)
                directory = [cursor.tensor() for _ in range(tensors)]
            unit = metadata.get("general.alignment", 32)
            start = -(-cursor.at // unit) * unit
            numbers = np.memmap(path, dtype=np.uint8, mode="r")
            return cls(path, metadata, {name: _stored(numbers, start, entry) for name, *entry in directory})
        except (OSError, ValueError, struct.error) as error:
            raise CheckpointError(
                f"{path} cannot be read as a GGUF file ({error}): download it again, or name another model."
            ) from error


def _stored(numbers: np.ndarray, start: int, entry: list[Any]) -> StoredTensor:
    dimensions, code, offset = entry
    kind = GGMLQuantizationType(code)
    numbers_per_block, bytes_per_block = GGML_QUANT_SIZES[kind]
    shape = tuple(reversed(dimensions))
    row = shape[-1] // numbers_per_block * bytes_per_block
    size = prod(shape[:-1]) * row
    data = numbers[start + offset : start + offset + size]
    if data.size != size:
        raise ValueError("it ends before its last tensor")
    return StoredTensor(kind, shape, data.reshape(*shape[:-1], row))


class _Cursor:
    def __init__(self, data: mmap.mmap, at: int) -> None:
        self.data, self.at = data, at

    def pairs(self, count: int) -> dict[str, Any]:
        return {self.string(): self.value(self.scalar("I")) for _ in range(count)}

    def tensor(self) -> tuple[str, list[int], int, int]:
        """Name, dimensions (innermost first), type, offset."""
        name, count = self.string(), self.scalar("I")
        return name, [self.scalar("Q") for _ in range(count)], self.scalar("I"), self.scalar("Q")

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def string(self) -> str:
        length = self.scalar("Q")
        start, self.at = self.at, self.at + length
        if self.at > len(self.data):
            raise ValueError("a string runs past the end of the file")
        return self.data[start : self.at].decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            inner, length = self.scalar("I"), self.scalar("Q")
            if inner in _SCALARS:
                code = f"<{length}{_SCALARS[inner]}"
                start, self.at = self.at, self.at + struct.calcsize(code)
                return list(struct.unpack_from(code, self.data, start))
            return [self.value(inner) for _ in range(length)]
        if kind not in _SCALARS:
            raise ValueError(f"unknown value type {kind}")
        return self.scalar(_SCALARS[kind])
