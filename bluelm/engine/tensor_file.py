"""One file of tensors, mapped: `.safetensors`, or a `.bin` of which nothing but tensors is unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open
from torch import Tensor

from bluelm.errors import CheckpointError

LFS_POINTER = b"version https://git-lfs"
ZIP = b"PK"  # what torch.save writes since 1.6; before that it wrote a bare pickle, which cannot be mapped


class TensorFile(Protocol):
    @property
    def names(self) -> set[str]: ...

    def tensor(self, name: str) -> Tensor:
        """One tensor as stored. Raises CheckpointError if the file does not hold it."""
        ...


def open_tensors(file: Path) -> TensorFile:
    """Raises CheckpointError, which names the file, what is wrong with it and the remedy."""
    refuse_stub(file)
    try:
        return _Safetensors(file) if file.suffix == ".safetensors" else _Pickled(file)
    except CheckpointError:
        raise
    except Exception as error:  # each library has its own for a file that is cut off, or holds something else
        raise _damaged(file, error) from error


def refuse_stub(file: Path) -> None:
    """Raises CheckpointError for a file that only stands for one: empty, or a pointer of git-lfs."""
    with file.open("rb") as opened:
        start = opened.read(len(LFS_POINTER))
    if not start:
        raise CheckpointError(f"{file} is empty: download it again.")
    if start == LFS_POINTER:
        raise CheckpointError(f"{file} is only a git-lfs pointer: run `git lfs pull` there, or download it.")


class _Safetensors:
    def __init__(self, file: Path) -> None:
        self._file = file
        self._tensors: Any = safe_open(file, framework="pt")
        self.names = set(self._tensors.keys())

    def tensor(self, name: str) -> Tensor:
        if name not in self.names:
            raise _absent(self._file, name)
        try:
            return self._tensors.get_tensor(name)
        except Exception as error:  # a file that was changed since it was opened
            raise _damaged(self._file, error) from error


class _Pickled:
    def __init__(self, file: Path) -> None:
        self._file = file
        with file.open("rb") as opened:
            mapped = opened.read(len(ZIP)) == ZIP
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
        if not isinstance(found, Mapping) or not all(isinstance(each, Tensor) for each in found.values()):
            raise CheckpointError(f"{file} holds something else than tensors: use the file of a model's weights.")
        self._tensors = found
        self.names = set(found)

    def tensor(self, name: str) -> Tensor:
        if name not in self.names:
            raise _absent(self._file, name)
        return self._tensors[name]


def _absent(file: Path, name: str) -> CheckpointError:
    return CheckpointError(f"{file} does not hold {name}, which its index promises: download it again.", tensor=name)


def _damaged(file: Path, error: Exception) -> CheckpointError:
    why = (str(error).splitlines() or [type(error).__name__])[0][:120]
    return CheckpointError(f"{file} is damaged or half downloaded ({why}): download it again.")
