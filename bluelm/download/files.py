"""Which of a hub's files are wanted, what of them is there already, and whether the rest has room."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from bluelm.download.manifest import NAME, File, Manifest
from bluelm.download.words import DownloadError, gigabytes, tell

WEIGHTS = ("*.safetensors", "*.bin")
WANTED = (*WEIGHTS, "*.json", "tokenizer.model", "*.jinja", "README*", "*LICENSE*", "*LICENCE*", "NOTICE*")
UNWANTED = ("*.py", "training_args.bin", "optimizer*", "scheduler*", ".*", NAME)
PARTIAL = ".incomplete"  # what a file is called until all of it is there; both hubs' transfers keep to it
DAMAGED = ".damaged"


def wanted(files: Iterable[File]) -> tuple[File, ...]:
    """Weights, tokenizer, configuration and licence in the top folder; never code. Raises DownloadError: no weights.

    Where a hub has the weights as .safetensors and as .bin, only the former.
    """
    chosen = [file for file in files if _is_wanted(file.path)]
    if any(file.path.endswith(".safetensors") for file in chosen):
        chosen = [file for file in chosen if not _fits(file.path, ("*.bin", "*.bin.index.json"))]
    if not any(_fits(file.path, WEIGHTS) for file in chosen):
        raise DownloadError(
            tell(
                "The hub lists no weights (.safetensors or .bin) for this checkpoint: try the other --source.",
                "该平台上没有这个模型的权重文件（.safetensors 或 .bin）：请换一个 --source。",
            )
        )
    return tuple(sorted(chosen, key=lambda file: file.path))


def _is_wanted(path: str) -> bool:
    return "/" not in path and "\\" not in path and _fits(path, WANTED) and not _fits(path, UNWANTED)


def _fits(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def bytes_there(folder: Path, files: Iterable[File]) -> int:
    """Bytes of these files that are on the disk, finished or not."""
    return sum(min(file.size, max(size_of(folder / file.path), size_of(partial(folder, file)))) for file in files)


def partial(folder: Path, file: File) -> Path:
    return folder / (file.path + PARTIAL)


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def drop_stale(folder: Path, old: Manifest | None, files: Iterable[File]) -> None:
    """Remove what cannot become one of these files: damaged ones, and beginnings of another version or too long."""
    for damaged in folder.glob("*" + DAMAGED):
        damaged.unlink()
    before = {file.path: file for file in old.files} if old else {}
    for file in files:
        was = before.get(file.path)
        for path in (folder / file.path, partial(folder, file)):
            if (was and not _may_be_same(was, file)) or size_of(path) > file.size:
                path.unlink(missing_ok=True)


def _may_be_same(a: File, b: File) -> bool:
    """Hubs give different hashes of the same file; only those that both give can differ."""
    return a.size == b.size and all(
        not x or not y or x == y for x, y in ((a.sha256, b.sha256), (a.git_sha1, b.git_sha1))
    )


def check_space(folder: Path, files: Iterable[File]) -> None:
    """Raises DownloadError where the disk has less room than what is still to come."""
    files = tuple(files)
    needed = sum(file.size for file in files) - bytes_there(folder, files)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(
            tell(
                f"The disk of {folder} has {gigabytes(free)} free and {gigabytes(needed)} are still to come: free "
                f"{gigabytes(needed - free)}, or name a larger disk with --dir.",
                f"{folder} 所在磁盘剩余 {gigabytes(free)}，还需要 {gigabytes(needed)}：请再腾出 "
                f"{gigabytes(needed - free)}，或用 --dir 指定更大的磁盘。",
            )
        )
