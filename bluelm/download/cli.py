"""The command `python download_model.py`: choose, fetch, verify, list."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import get_args

from bluelm import models
from bluelm.catalog import CHECKPOINTS, DEFAULT, Checkpoint, Source, lookup
from bluelm.download import manifest, transfer
from bluelm.download.files import bytes_there
from bluelm.download.words import gigabytes, tell
from bluelm.errors import BlueLMError, NotFound
from bluelm.models import State

USAGE, FAILED, INTERRUPTED = 2, 1, 130


def main(args: list[str] | None = None) -> int:
    """Run the command. 0: done; 1: it could not be done, said on stderr; 2: wrong usage; 130: Ctrl-C."""
    given = _parser().parse_args(args)
    signal.signal(signal.SIGINT, _interrupted)
    try:
        if given.list:
            _list(given.dir)
            return 0
        checkpoint = lookup(given.name)
        folder = _folder(checkpoint, given.dir)
        if given.verify:
            transfer.verify(folder, _say)
            return 0
        _announce(checkpoint, folder)
        done = transfer.download(checkpoint, folder, given.source, given.revision, _say)
        count = len(done.files)
        _say(
            tell(
                f"Complete: {folder} ({gigabytes(done.size)}, {count} files, verified).\nStart the chat with:",
                f"下载完成：{folder}（{gigabytes(done.size)}，{count} 个文件，校验无误）。\n启动对话：",
            )
            + f"  make run MODEL={_model(checkpoint, folder)}"
        )
        return 0
    except BlueLMError as error:
        print(error.message, file=sys.stderr)
        return USAGE if isinstance(error, NotFound) else FAILED
    except Exception as error:
        print(
            tell(f"Failed: {type(error).__name__}: {error}.", f"失败：{type(error).__name__}: {error}。")
            + tell(" Run the same command again; if it stays, report it.", "请再次运行；如仍失败请反馈。"),
            file=sys.stderr,
        )
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="download_model.py", description="Fetch a BlueLM checkpoint, verify it, and say how to chat with it."
    )
    shorts = ", ".join(c.short for c in CHECKPOINTS)
    parser.add_argument("name", nargs="?", default=DEFAULT.short, help=f"{shorts} (default: {DEFAULT.short})")
    parser.add_argument(
        "--dir", type=Path, help="the folder that holds models; the checkpoint gets one of its own in it"
    )
    parser.add_argument("--source", choices=get_args(Source), help="the hub (default: ModelScope, else Hugging Face)")
    parser.add_argument("--revision", help="a branch, tag or commit of the hub (default: the newest)")
    parser.add_argument("--list", action="store_true", help="show all checkpoints and what of them is on this disk")
    parser.add_argument("--verify", action="store_true", help="only hash what is on the disk; needs no network")
    return parser


def _folder(checkpoint: Checkpoint, place: Path | None) -> Path:
    """Where it is, or where it will be."""
    if place:
        return place.expanduser().resolve() / checkpoint.name
    return models.look(checkpoint).folder


def _model(checkpoint: Checkpoint, folder: Path) -> str:
    known = models.look(checkpoint).folder == folder
    return checkpoint.short if known else shlex.quote(str(folder))


def _announce(checkpoint: Checkpoint, folder: Path) -> None:
    size = gigabytes(checkpoint.disk_bytes)
    _say(
        tell(
            f"{checkpoint.name}, about {size}, into {folder}. Licence of the weights: {checkpoint.licence}.",
            f"{checkpoint.name}，约 {size}，下载到 {folder}。权重许可证：{checkpoint.licence}。",
        )
    )


def _list(place: Path | None) -> None:
    """The catalog as a table; the columns are the same in both languages."""
    rows = [("name", "kind", "context", "bits", "disk", "GPU memory", "state")]
    for checkpoint in CHECKPOINTS:
        local = models.look(checkpoint, *([place.expanduser().resolve()] if place else []))
        rows.append(
            (
                checkpoint.short,
                str(checkpoint.kind),
                str(checkpoint.context),
                str(checkpoint.bits),
                gigabytes(checkpoint.disk_bytes),
                gigabytes(checkpoint.memory_bytes("bfloat16")),
                _state(local),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(6)]
    for row in rows:
        _say("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]))
    _say(
        tell(
            "Sizes are about; GPU memory is weights in 16 bits (or 4) with the cache of one full window.",
            "大小均为约数；GPU memory 为 16 位（或 4 位）权重加一个完整窗口的缓存。",
        )
    )


def _state(local: models.Local) -> str:
    if local.state is State.ABSENT:
        return tell("absent", "未下载")
    if local.state is State.COMPLETE:
        return tell("complete", "完整") + f"  {local.folder}"
    promised = manifest.read(local.folder)
    share = f" ({bytes_there(local.folder, promised.files) / promised.size:.0%})" if promised and promised.size else ""
    return tell("partial", "不完整") + f"{share}  {local.folder}: {local.why}"


def _say(sentence: str) -> None:
    print(sentence, flush=True)


def _interrupted(signum: int, frame: FrameType | None) -> None:
    """End at once, whatever threads are in the middle of: a transfer may be killed at any moment."""
    print(
        tell(
            "\nInterrupted: what has come so far stays; the same command goes on from here.",
            "\n已中断：已下载的部分会保留，再次运行同一命令即可继续。",
        ),
        file=sys.stderr,
        flush=True,
    )
    os._exit(INTERRUPTED)
