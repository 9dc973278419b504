"""A checkpoint folder as downloaded: what its config says, which file holds which tensor. Nothing in it is executed.

Weights may be `.safetensors` or `.bin`, one file or shards with an index. Of a `.bin` nothing but tensors is unpickled.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

from torch import Tensor

from bluelm.engine.read_ahead import ReadAhead
from bluelm.engine.tensor_file import TensorFile, open_tensors, refuse_stub
from bluelm.errors import CheckpointError

WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # in order of preference, each also in shards
OTHER_WEIGHTS = "*.safetensors"  # AutoGPTQ's and GPTQ-for-LLaMa's tools name their one file as they like
LEFTOVERS = ("*.incomplete", "*.part", "._____temp", ".cache/huggingface/download/*.incomplete")
OPEN_SHARDS = 2  # matrices that belong together may lie on either side of a seam


class Checkpoint:
    """An open folder.

    config: config.json. names: of all tensors. Raises CheckpointError, which names the file at fault and the remedy.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_dir():
            raise CheckpointError(f"{path} is not a folder: name the folder of a checkpoint.")
        for file in sorted([*path.glob("*.json"), *path.glob("tokenizer.*")]):
            refuse_stub(file)
        self.config = read_json(path / "config.json")
        self._open: OrderedDict[Path, TensorFile] = OrderedDict()
        self._file_of = self._directory()
        self._ahead: ReadAhead | None = None

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
        """One tensor as stored, on the CPU, mapped from its file: use it or copy it, but do not keep it.

        A file stays mapped for as long as a tensor of it lives.
        """
        file = self._file_of.get(name)
        if file is None:
            raise CheckpointError(
                f"{name} is missing in {self.path}: the checkpoint is incomplete; download it again.", tensor=name
            )
        if self._ahead is None:
            self._ahead = ReadAhead(self.files)
        found = self._shard(file).tensor(name)
        self._ahead.used(found.nbytes)
        return found

    def close(self) -> None:
        self._open.clear()
        if self._ahead is not None:
            self._ahead.close()

    def _shard(self, file: Path) -> TensorFile:
        if file not in self._open:
            shard = open_tensors(file)
            promised = {name for name, place in self._file_of.items() if place == file}
            if extra := sorted(shard.names - promised):
                raise CheckpointError(
                    f"{file} holds {len(extra)} tensors that its index does not name ({extra[0]}): they are not of the "
                    f"same download; download {self.path} again.",
                    tensor=extra[0],
                )
            self._open[file] = shard
            while len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(file)
        return self._open[file]

    def _directory(self) -> dict[str, Path]:
        for name in WEIGHTS:
            index = self.path / f"{name}.index.json"
            if index.exists():
                return self._sharded(index)
            if (self.path / name).exists():
                return self._single(self.path / name)
        others = sorted(self.path.glob(OTHER_WEIGHTS))
        if len(others) == 1:
            return self._single(others[0])
        what = f"{len(others)} .safetensors files but no index of them" if others else "no weights"
        raise CheckpointError(
            f"{self.path} has {what}{self._leftovers()}: download the checkpoint, or finish its download."
        )

    def _single(self, file: Path) -> dict[str, Path]:
        self._open[file] = open_tensors(file)
        return dict.fromkeys(self._open[file].names, file)

    def _sharded(self, index: Path) -> dict[str, Path]:
        file_of = read_json(index).get("weight_map")
        if not isinstance(file_of, dict) or not file_of:
            raise CheckpointError(f"{index} has no weight_map: download it again.")
        files = set(file_of.values())
        if any(not isinstance(name, str) or Path(name).name != name for name in files):
            raise CheckpointError(f"{index} names files outside its folder: download it again.")
        missing = sorted(name for name in files if not (self.path / name).is_file())
        if missing:
            raise CheckpointError(
                f"{self.path} lacks {len(missing)} of {len(files)} weight files "
                f"({', '.join(missing[:3])}{', ...' if missing[3:] else ''}){self._leftovers()}: finish the download."
            )
        for name in sorted(files):
            refuse_stub(self.path / name)
        return {name: self.path / file for name, file in file_of.items()}

    def _leftovers(self) -> str:
        found = sorted(file.name for pattern in LEFTOVERS for file in self.path.glob(pattern))
        return f"; {', '.join(found[:3])} is left of a download that was cut off" if found else ""


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
