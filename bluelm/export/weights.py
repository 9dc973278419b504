"""Weights as `.safetensors` shards, one of them in memory at a time."""

from __future__ import annotations

import json
from math import prod
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from bluelm.engine.folder_weights import Source
from bluelm.engine.linear import Grouped4
from bluelm.engine.weights import check_shape, tensor_shapes
from bluelm.export.packed import Layout

INDEX = "model.safetensors.index.json"


def byte_count(source: Source, *, packed: bool) -> int:
    """About what will be written. packed: what is in 4 bits stays so."""
    if packed:
        return source.checkpoint.bytes
    numbers = sum(map(prod, tensor_shapes(source.config, tied=source.tied).values()))
    return numbers * source.dtype.itemsize


def write_weights(source: Source, folder: Path, *, layout: Layout | None, shard_bytes: int) -> None:
    """Every tensor of a checkpoint under Llama's usual names, and their index.

    layout: how matrices in 4 bits are written; None: dequantised. Raises CheckpointError for a tensor that is missing,
    extra or misshapen.
    """
    shards = _Shards(folder, shard_bytes)
    for name, shape in tensor_shapes(source.config, tied=source.tied).items():
        if source.kind and layout and (parts := source.packed(name)):
            base = name.removesuffix(".weight")
            written = layout.written(source.kind, parts, shape, base)
            shards.add({f"{base}.{part}": tensor for part, tensor in written.items()})
            continue
        stored = source.fetch(name)
        check_shape(stored, shape, name)
        shards.add({name: stored.dequantize().to(source.dtype) if isinstance(stored, Grouped4) else stored})
    shards.close()
    source.close()
    source.check_all_taken()


class _Shards:
    """Collects tensors until a shard is full. How many there are is only known, and named, at the end."""

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most
        self.held: dict[str, Tensor] = {}
        self.names: list[list[str]] = []
        self.total = 0

    def add(self, tensors: dict[str, Tensor]) -> None:
        more = sum(tensor.nbytes for tensor in tensors.values())
        if self.held and sum(tensor.nbytes for tensor in self.held.values()) + more > self.most:
            self._write()
        self.held |= {name: tensor.contiguous() for name, tensor in tensors.items()}
        self.total += more

    def _write(self) -> None:
        self.names.append(list(self.held))
        save_file(self.held, self._draft(len(self.names)), metadata={"format": "pt"})
        self.held.clear()

    def _draft(self, number: int) -> Path:
        return self.folder / f"model-{number:05}.safetensors"

    def close(self) -> None:
        self._write()
        count = len(self.names)
        if count == 1:
            self._draft(1).rename(self.folder / "model.safetensors")
            return
        where: dict[str, str] = {}
        for number, names in enumerate(self.names, 1):
            file = f"model-{number:05}-of-{count:05}.safetensors"
            self._draft(number).rename(self.folder / file)
            where |= dict.fromkeys(names, file)
        index = {"metadata": {"total_size": self.total}, "weight_map": where}
        (self.folder / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
