"""What went wrong, in a sentence with a remedy: the libraries' many errors as a few of ours."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

from bluelm.download.hubs import Hub
from bluelm.download.words import DownloadError, NotOnHub, tell

FULL = {errno.ENOSPC, errno.EDQUOT}
TOO_LARGE = {errno.EFBIG}
FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
NO_FOLDER = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}
LINE = ("requests.", "urllib3.", "httpx", "httpcore", "modelscope_hub.")


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and all that led to it, the failures of single files included."""
    todo, seen = [error], set()
    while todo:
        one = todo.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        todo += getattr(one, "failed_files", {}).values()
        todo += [e for e in (one.__cause__, one.__context__) if e is not None]


def disk_fault(error: BaseException, folder: Path) -> DownloadError | None:
    """The sentence where the disk is at fault, not the line."""
    codes = {e.errno for e in chain(error) if isinstance(e, OSError) and e.errno}
    if codes & FULL:
        return DownloadError(
            tell(
                f"The disk of {folder} is full: free some room, then run the same command again; it goes on from here.",
                f"{folder} 所在磁盘已满：请腾出空间后再次运行同一命令，会从中断处继续。",
            )
        )
    if codes & TOO_LARGE:
        return DownloadError(
            tell(
                f"The disk of {folder}, or a limit of this account, does not allow files this large: name another disk "
                "with --dir (not FAT32), or raise the limit (ulimit -f).",
                f"{folder} 所在磁盘或账户限制不允许这么大的文件：请用 --dir 指定其他磁盘（非 FAT32）"
                "，或提高限制（ulimit -f）。",
            )
        )
    if codes & FORBIDDEN:
        return DownloadError(
            tell(
                f"{folder} cannot be written to: name a folder of yours with --dir, or change its permissions.",
                f"没有写入 {folder} 的权限：请用 --dir 指定可写的目录，或修改权限。",
            )
        )
    if codes & NO_FOLDER:
        return DownloadError(
            tell(
                f"{folder} cannot be a folder, since a file is in the way: name another place with --dir.",
                f"{folder} 处已有同名文件，无法作为目录：请用 --dir 指定其他位置。",
            )
        )
    return None


def hub_fault(error: BaseException, hub: Hub, id: str, revision: str | None) -> DownloadError | None:
    """The sentence where the hub answered, and the answer was no."""
    status = {s for e in chain(error) if (s := _status(e))}
    names = {kind.__name__ for e in chain(error) for kind in type(e).__mro__}
    if names & {"OfflineModeIsEnabled"}:
        return DownloadError(
            tell(
                "HF_HUB_OFFLINE is set, so nothing may be fetched: unset it, then run the same command again.",
                "设置了 HF_HUB_OFFLINE，禁止联网下载：请取消该变量后再运行同一命令。",
            )
        )
    if status & {404, 401, 403} or names & {"RepositoryNotFoundError", "RevisionNotFoundError", "NotExistError"}:
        where = f"{id} ({revision})" if revision else id
        which = tell("Check --revision, or leave", "请检查 --revision，或去掉") if revision else ""
        return NotOnHub(
            tell(
                f"{hub.title} does not have {where} for everyone. "
                + (f"{which} it out." if revision else "Try the other --source."),
                f"{hub.title} 上没有公开的 {where}。" + (f"{which}它。" if revision else "请换一个 --source。"),
            )
        )
    if 429 in status or any(s >= 500 for s in status):
        return DownloadError(
            tell(
                f"{hub.title} is too busy or out of order ({max(status)}): run the same command again later, or try "
                "the other --source; it goes on from here.",
                f"{hub.title} 繁忙或出现故障（{max(status)}）：请稍后再次运行同一命令，或换一个 --source，"
                "会从中断处继续。",
            )
        )
    return None


def line_fault(error: BaseException, hub: Hub) -> DownloadError:
    """The sentence for what is left: the line, or what nobody thought of."""
    last = list(chain(error))[-1]
    if is_line(error):
        return DownloadError(
            tell(
                f"The connection to {hub.title} broke ({type(last).__name__}): check the network, then run the same "
                "command again; it goes on from here.",
                f"与 {hub.title} 的连接中断（{type(last).__name__}）：请检查网络后再次运行同一命令，会从中断处继续。",
            )
        )
    return DownloadError(
        tell(
            f"The download failed ({type(error).__name__}: {error}): run the same command again, or try the other "
            "--source.",
            f"下载失败（{type(error).__name__}: {error}）：请再次运行同一命令，或换一个 --source。",
        )
    )


def is_line(error: BaseException) -> bool:
    """Whether it is the kind of error that another attempt may cure."""
    return any(
        isinstance(e, ConnectionError | TimeoutError) or type(e).__module__.startswith(LINE) or "Consistency" in str(e)
        for e in chain(error)
    )


def _status(error: BaseException) -> int:
    status = getattr(error, "status_code", None) or getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) and status >= 400 else 0
