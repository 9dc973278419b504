"""What a download promised, kept beside its files: which files, how large, which hashes, and whether all are there.

Written before the first byte (not complete) and after the last check (complete), each time in one stroke.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

NAME = "bluelm-download.json"
CHUNK = 8 << 20


@dataclass(frozen=True, slots=True)
class File:
    """path: a plain file name. sha256: of the content; git_sha1: git's name of the blob; "" where a hub gives none."""

    path: str
    size: int
    sha256: str = ""
    git_sha1: str = ""


@dataclass(frozen=True, slots=True)
class Manifest:
    """source: the hub's name. revision: as asked for. commit: what that was, where the hub tells."""

    id: str
    source: str
    revision: str
    commit: str
    files: tuple[File, ...]
    complete: bool = False

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def write(self, folder: Path, *, complete: bool) -> Manifest:
        """Replace the folder's manifest by this one, in one stroke."""
        written = replace(self, complete=complete)
        draft = folder / f".{NAME}.tmp"
        with draft.open("w", encoding="utf-8") as out:
            json.dump(asdict(written), out, indent=1)
            out.flush()
            os.fsync(out.fileno())
        draft.replace(folder / NAME)
        return written

    def size_faults(self, folder: Path) -> list[str]:
        """The names of files that are not there with their full size."""
        return [file.path for file in self.files if _size(folder / file.path) != file.size]


def read(folder: Path) -> Manifest | None:
    """The folder's manifest; None where there is none that makes sense."""
    try:
        data: dict[str, Any] = json.loads((folder / NAME).read_text(encoding="utf-8"))
        files = tuple(File(**file) for file in data.pop("files"))
        return Manifest(**data, files=files)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def digests(path: Path, count: Callable[[int], object] = lambda _: None) -> tuple[str, str]:
    """SHA-256 and git's blob hash of a file, read once; `count` is told the bytes of each piece."""
    sha256, git = hashlib.sha256(), hashlib.sha1(usedforsecurity=False)
    small = path.stat().st_size <= CHUNK  # git's hash is only ever given for small files
    git.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as file:
        while piece := file.read(CHUNK):
            sha256.update(piece)
            if small:
                git.update(piece)
            count(len(piece))
    return sha256.hexdigest(), git.hexdigest() if small else ""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size if path.is_file() else -1
    except OSError:
        return -1
