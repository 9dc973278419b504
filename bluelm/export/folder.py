"""The folder that an export makes: whole, or not there at all.

It grows beside its place under the name DST.partial and is renamed once everything is on the disk. What an interrupted
export leaves behind is told by the mark in it, and is removed by the next one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from bluelm.download.words import gigabytes, tell
from bluelm.errors import ExportError

PARTIAL, MARK = ".partial", ".bluelm-export"
SPARE = 64 << 20  # bytes for the tokenizer and the directory


@contextmanager
def new_folder(target: Path, needed: int) -> Iterator[Path]:
    """A folder to write to, which becomes `target` when the block ends, and is removed where it fails.

    needed: bytes that are to be written. Raises ExportError where there is no place or no room, and for a full disk.
    """
    partial = target.with_name(target.name + PARTIAL)
    check_target(target)
    try:
        with _alone(partial, target):
            _check_space(target, needed + SPARE)
            yield partial
            _finish(partial, target)
    except (OSError, SafetensorError) as error:
        raise _said(error, target) from error


def check_target(target: Path) -> None:
    """Raises ExportError where an export may not go."""
    if target.is_dir() and not os.path.ismount(target) and not any(target.iterdir()):
        return
    if target.exists() or target.is_symlink():
        full = tell("is not empty", "已存在且非空")
        what = tell("is a disk of its own", "是挂载点") if os.path.ismount(target) else full
        raise ExportError(
            tell(
                f"{target} {what}: name a new folder, for instance {_another(target)}.",
                f"{target} {what}：请指定一个新目录，例如 {_another(target)}。",
            )
        )


def _another(target: Path) -> Path:
    if os.path.ismount(target):
        return target / "llama"
    return target.with_name(target.name + "-2")


@contextmanager
def _alone(partial: Path, target: Path) -> Iterator[None]:
    """The partial folder, empty but for its mark, held by this process until the block ends."""
    if partial.exists() and not (partial / MARK).exists() and any(partial.iterdir()):
        raise ExportError(
            tell(
                f"{partial} is in the way and was not left by an export: move it away, or name another folder.",
                f"{partial} 已存在，且不是导出中断留下的：请移走它，或指定其他目录。",
            )
        )
    partial.mkdir(parents=True, exist_ok=True)
    with (partial / MARK).open("w") as mark:
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ExportError(
                tell(
                    f"Another export to {target} is under way: wait for it, or end it first.",
                    f"另一个导出正在写入 {target}：请等它结束，或先终止它。",
                )
            ) from None
        try:
            for left in partial.iterdir():
                if left.name != MARK:
                    left.unlink()
            yield
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def _check_space(target: Path, needed: int) -> None:
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise ExportError(
            tell(
                f"The disk of {target} has {gigabytes(free)} free and {gigabytes(needed)} are needed: free "
                f"{gigabytes(needed - free)}, or name a folder on a larger disk.",
                f"{target} 所在磁盘剩余 {gigabytes(free)}，需要 {gigabytes(needed)}：请再腾出 "
                f"{gigabytes(needed - free)}，或指定更大磁盘上的目录。",
            )
        )


def _finish(partial: Path, target: Path) -> None:
    """All of it on the disk, then in its place in one stroke."""
    for file in sorted(partial.iterdir()):
        shutil.copymode(partial / MARK, file)  # the safetensors library lets nobody else read its files
        with file.open("rb") as written:
            os.fsync(written.fileno())
    with suppress(FileNotFoundError):
        target.rmdir()
    partial.rename(target)
    (target / MARK).unlink()


def _said(error: Exception, target: Path) -> ExportError:
    """The sentence for what the system refused; the safetensors library only tells its number in words."""
    inside = re.search(r"os error (\d+)", str(error))
    code = error.errno if isinstance(error, OSError) else int(inside[1]) if inside else None
    if code in (errno.ENOSPC, errno.EDQUOT):
        return ExportError(
            tell(
                f"The disk of {target} is full: free some room, then run the same command again.",
                f"{target} 所在磁盘已满：请腾出空间后再次运行同一命令。",
            )
        )
    if code in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ExportError(
            tell(
                f"{target} cannot be written to: name a folder of yours, or change its permissions.",
                f"没有写入 {target} 的权限：请指定可写的目录，或修改权限。",
            )
        )
    if code == errno.EFBIG:
        return ExportError(
            tell(
                f"The disk of {target}, or a limit of this account, does not allow files this large: use a smaller "
                "--shard-gb, or name a folder on another disk.",
                f"{target} 所在磁盘或账户限制不允许这么大的文件：请减小 --shard-gb，或换一个磁盘上的目录。",
            )
        )
    return ExportError(tell(f"{target} could not be written: {error}.", f"写入 {target} 失败：{error}。"))
