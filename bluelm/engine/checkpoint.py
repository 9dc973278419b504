"""A checkpoint folder as downloaded: what its config says, which file holds which tensor. Nothing in it is executed.

Weights may be `.safetensors` or `.bin`, one file or shards with an index. Of a `.bin` nothing but tensors is unpickled.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from bluelm.errors import CheckpointError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in order of preference, each also in shards
OPEN_SHARDS = 2  # matrices that belong together may lie on either side of a seam


class Checkpoint:
    """An open folder.

    config: config.json. names: of all tensors. Raises CheckpointError, which names the file at fault and the remedy.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = read_json(path / "config.json")
        self._file_of = self._directory()
        self._open: OrderedDict[Path, Callable[[str], Tensor]] = OrderedDict()

    @property
    def names(self) -> set[str]:
        return set(self._file_of)

    @property
    def files(self) -> list[Path]:
        return sorted(set(self._file_of.values()))

    @property
    def bytes(self) -> int:
        """Of all weight files."""
        return sum(file.stat().st_size for file in self.files)

    def tensor(self, name: str) -> Tensor:
        """One tensor as stored, on the CPU; mapped from the file where its format allows."""
        file = self._file_of.get(name)
        if file is None:
            raise CheckpointError(
                f"{name} is missing in {self.path}: the checkpoint is incomplete; download it again.", tensor=name
            )
        if file not in self._open:
            self._open[file] = _reader(file)
            while len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(file)
        try:
            return self._open[file](name)
        except (KeyError, SafetensorError) as error:
            raise CheckpointError(
                f"{file.name} does not hold {name}, which its index promises: download {self.path} again.", tensor=name
            ) from error

    def close(self) -> None:
        self._open.clear()

    def _directory(self) -> dict[str, Path]:
        if not self.path.is_dir():
            raise CheckpointError(f"{self.path} is not a folder: name the folder of a checkpoint.")
        for file in WEIGHTS:
            index = self.path / f"{file}.index.json"
            if index.exists():
                return self._sharded(index)
            if (self.path / file).exists():
                return dict.fromkeys(_names(self.path / file), self.path / file)
        unfinished = sorted(
            p.name for pattern in ("*.incomplete", "._____temp", "*.part") for p in self.path.glob(pattern)
        )
        found = f" ({', '.join(unfinished)} is left of a download)" if unfinished else ""
        raise CheckpointError(f"{self.path} has no weights{found}: download the checkpoint, or finish its download.")

    def _sharded(self, index: Path) -> dict[str, Path]:
        file_of = read_json(index).get("weight_map")
        if not isinstance(file_of, dict) or not file_of:
            raise CheckpointError(f"{index} has no weight_map: download it again.")
        missing = sorted({name for name in file_of.values() if not (self.path / name).is_file()})
        if missing:
            raise CheckpointError(
                f"{self.path} lacks {len(missing)} of {len(set(file_of.values()))} weight files ({missing[0]}, ...): "
                "finish the download."
            )
        return {name: self.path / file for name, file in file_of.items()}


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a checkpoint's file. Raises CheckpointError, which names it."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing: download the checkpoint again.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}): download it again.") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} is not a JSON object: download it again.")
    return value


def _names(file: Path) -> list[str]:
    if file.suffix == ".safetensors":
        with _whole(file), safe_open(file, framework="pt") as tensors:
            return list(tensors.keys())
    return list(_unpickled(file))


def _reader(file: Path) -> Callable[[str], Tensor]:
    if file.suffix == ".safetensors":
        with _whole(file):
            return safe_open(file, framework="pt").get_tensor
    tensors = _unpickled(file)
    return tensors.__getitem__


def _unpickled(file: Path) -> Mapping[str, Tensor]:
    with _whole(file):
        tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    if not isinstance(tensors, Mapping) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise CheckpointError(f"{file} holds something else than tensors: download it again.")
    return tensors


class _whole:
    """Turns a library's complaint about a damaged file into one that names it and says what happened."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __enter__(self) -> None:
        with self.file.open("rb") as opened:
            start = opened.read(40)
        if not start:
            raise CheckpointError(f"{self.file} is empty: download it again.")
        if start.startswith(b"version https://git-lfs"):
            raise CheckpointError(f"{self.file} is only a git-lfs pointer: run `git lfs pull` there, or download it.")

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, CheckpointError):
            raise CheckpointError(
                f"{self.file} is damaged or half downloaded ({str(error).splitlines()[0][:120]}): download it again."
            ) from error
