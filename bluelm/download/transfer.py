"""One checkpoint from a hub to a folder, whole and verified, or an error that says how to go on."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from bluelm.catalog import Checkpoint, Source
from bluelm.download import files as on_disk
from bluelm.download import manifest as notes
from bluelm.download.faults import disk_fault, hub_fault, is_line, line_fault
from bluelm.download.hubs import HUBS, Hub, unreachable
from bluelm.download.manifest import File, Manifest
from bluelm.download.progress import Bar
from bluelm.download.words import DownloadError, NotOnHub, tell

LOCK = ".bluelm-download.lock"
ATTEMPTS, PAUSE_S = 3, 1.0  # in a row without a new byte
Say = Callable[[str], None]


def download(checkpoint: Checkpoint, folder: Path, source: Source | None, revision: str | None, say: Say) -> Manifest:
    """Bring a checkpoint into a folder, going on with what is there.

    source: None tries the one that this folder was begun from, then ModelScope, then Hugging Face. say: is told each
    step. Raises DownloadError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            old = notes.read(folder)
            if old and old.complete and not old.size_faults(folder) and _is_asked(old, source, revision):
                say(tell(f"{folder} is complete already.", f"{folder} 已经完整。"))
                return old
            hub, listing = _choose(checkpoint, source, revision, old, say)
            return _bring(hub, listing, folder, old, say)
    except OSError as error:
        raise disk_fault(error, folder) or DownloadError(f"{folder}: {error}.") from error


def verify(folder: Path, say: Say) -> Manifest:
    """Hash every file of a complete folder against its manifest, without any network.

    A bad file is put aside (NAME.damaged), so that the next download brings it anew. Raises DownloadError.
    """
    promised = notes.read(folder)
    if promised is None:
        raise DownloadError(
            tell(
                f"{folder} has no {notes.NAME}, so there is nothing to verify it with: download it with this command.",
                f"{folder} 中没有 {notes.NAME}，无法校验：请先用本命令下载。",
            )
        )
    try:
        with _alone(folder):
            whole, bad = _hashed(folder, promised.files)
            if bad:
                _put_aside(folder, bad)
                promised.write(folder, complete=False)
                raise DownloadError(
                    tell(
                        f"Damaged or missing in {folder}: {_names(bad)}. Run the download again: it fetches only "
                        "these.",
                        f"{folder} 中已损坏或缺失：{_names(bad)}。请重新运行下载命令，只会补下这些文件。",
                    )
                )
            done = promised if promised.complete else _finished(promised, whole, folder)
    except OSError as error:
        raise disk_fault(error, folder) or DownloadError(f"{folder}: {error}.") from error
    say(tell(f"Every file of {folder} is as it should be.", f"{folder} 的所有文件校验无误。"))
    return done


def _is_asked(old: Manifest, source: Source | None, revision: str | None) -> bool:
    return source in (None, old.source) and revision in (None, old.revision, old.commit)


def _choose(
    checkpoint: Checkpoint, source: Source | None, revision: str | None, old: Manifest | None, say: Say
) -> tuple[Hub, Manifest]:
    """The first hub that answers and has the checkpoint."""
    order: list[Source] = [source] if source else ["modelscope", "huggingface"]
    order.sort(key=lambda name: old is None or name != old.source)
    silent: list[str] = []
    for name in order:
        hub = HUBS[name]()
        if why := unreachable(hub):
            silent.append(f"{hub.title} ({hub.endpoint}: {why})")
            continue
        try:
            listing = hub.listing(checkpoint.hub_id(name), revision)
        except Exception as error:
            fault = hub_fault(error, hub, checkpoint.hub_id(name), revision) or line_fault(error, hub)
            if name == order[-1] or not isinstance(fault, NotOnHub):
                raise fault from error
            say(fault.message)
            continue
        say(tell(f"From {hub.title}: {listing.id} ({listing.revision}).", f"来源 {hub.title}：{listing.id}"))
        return hub, listing
    raise DownloadError(
        tell(
            f"No answer from {', nor from '.join(silent)}. Check the network; behind a proxy set HTTPS_PROXY; a mirror "
            "can be named with HF_ENDPOINT or MODELSCOPE_DOMAIN.",
            f"无法连接 {'、'.join(silent)}。请检查网络；如需代理请设置 HTTPS_PROXY；"
            "可用 HF_ENDPOINT 或 MODELSCOPE_DOMAIN 指定镜像。",
        )
    )


def _bring(hub: Hub, listing: Manifest, folder: Path, old: Manifest | None, say: Say) -> Manifest:
    wanted = on_disk.wanted(listing.files)
    promised = Manifest(listing.id, listing.source, listing.revision, listing.commit, wanted)
    on_disk.drop_stale(folder, old, wanted)
    on_disk.check_space(folder, wanted)
    promised.write(folder, complete=False)
    _fetch(hub, promised, wanted, folder)
    whole, bad = _hashed(folder, wanted)
    if bad:
        say(tell(f"Not as the hub lists it: {_names(bad)}. Fetching anew.", f"校验不符：{_names(bad)}，正在重新下载。"))
        _put_aside(folder, bad)
        _fetch(hub, promised, bad, folder)
        again, bad = _hashed(folder, bad)
        whole = {**whole, **again}
    if bad:
        _put_aside(folder, bad)
        raise DownloadError(
            tell(
                f"Twice not as {hub.title} lists it: {_names(bad)}. Run the same command with the other --source, or "
                "later; what is good stays.",
                f"两次校验均不符：{_names(bad)}。请换一个 --source 或稍后再运行同一命令，已下载的文件会保留。",
            )
        )
    for damaged in folder.glob("*" + on_disk.DAMAGED):
        damaged.unlink()
    return _finished(promised, whole, folder)


def _fetch(hub: Hub, promised: Manifest, files: Iterable[File], folder: Path) -> None:
    """The transfer; a broken line is tried again as long as bytes still come."""
    files = tuple(files)
    total = sum(file.size for file in files)
    there, idle = on_disk.bytes_there(folder, files), 0
    with Bar(tell("Downloading", "下载"), total, lambda: on_disk.bytes_there(folder, files)):
        while True:
            try:
                return hub.fetch(promised, files, folder)
            except Exception as error:
                fault = disk_fault(error, folder) or hub_fault(error, hub, promised.id, promised.revision)
                before, there = there, on_disk.bytes_there(folder, files)
                idle = 0 if there > before else idle + 1
                if fault or not is_line(error) or idle >= ATTEMPTS:
                    raise fault or line_fault(error, hub) from error
                time.sleep(PAUSE_S * 2**idle)


def _hashed(folder: Path, files: Iterable[File]) -> tuple[dict[str, str], list[File]]:
    """The SHA-256 of each good file, and the files that are not as promised."""
    files = tuple(files)
    read, whole, bad = 0, {}, []

    def count(more: int) -> None:
        nonlocal read
        read += more

    with Bar(tell("Verifying", "校验"), sum(file.size for file in files), lambda: read):
        for file in files:
            path = folder / file.path
            if not path.is_file() or path.stat().st_size != file.size:
                bad.append(file)
                continue
            sha256, git_sha1 = notes.digests(path, count)
            if file.sha256 in ("", sha256) and (not git_sha1 or file.git_sha1 in ("", git_sha1)):
                whole[file.path] = sha256
            else:
                bad.append(file)
    return whole, bad


def _finished(promised: Manifest, whole: dict[str, str], folder: Path) -> Manifest:
    files = tuple(File(f.path, f.size, whole[f.path], f.git_sha1) for f in promised.files)
    done = Manifest(promised.id, promised.source, promised.revision, promised.commit, files)
    return done.write(folder, complete=True)


def _put_aside(folder: Path, bad: Iterable[File]) -> None:
    for file in bad:
        path = folder / file.path
        if path.exists():
            path.replace(path.with_name(path.name + on_disk.DAMAGED))


def _names(files: Iterable[File]) -> str:
    return ", ".join(file.path for file in files)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one command at a time in a folder; a killed one gives its place back by itself."""
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DownloadError(
                tell(
                    f"Another download into {folder} is under way: wait for it, or end it first.",
                    f"另一个下载正在写入 {folder}：请等它结束，或先终止它。",
                )
            ) from None
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()  # where nothing has come
