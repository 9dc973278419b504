"""The command `python -m bluelm.export SRC DST`."""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from bluelm.config import load_settings
from bluelm.download.files import size_of
from bluelm.download.progress import Bar
from bluelm.download.words import gigabytes, tell
from bluelm.errors import BlueLMError, ExportError
from bluelm.export.folder import check_target, new_folder
from bluelm.models import named

if TYPE_CHECKING:
    from bluelm.engine.folder_weights import Source
    from bluelm.engine.opening import Opened
    from bluelm.export.packed import Layout

FAILED, INTERRUPTED = 1, 130
DTYPES = ("auto", "bfloat16", "float16", "float32")
LICENCES = ("*LICENSE*", "*LICENCE*", "NOTICE*")


def main(args: list[str] | None = None) -> int:
    """Run the command. 0: done; 1: it could not be done, said on stderr; 2: wrong usage; 130: Ctrl-C."""
    given = _parser().parse_args(args)
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _interrupt)
    try:
        export(given.src, given.dst.expanduser().resolve(), dtype=given.dtype, shard_gb=given.shard_gb)
    except BlueLMError as error:
        print(error.message, file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(tell("\nInterrupted: nothing of the export is left.", "\n已中断：未完成的导出已删除。"), file=sys.stderr)
        return INTERRUPTED
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bluelm.export",
        description="Write a checkpoint as the standard Llama folder that transformers, vLLM and SGLang read.",
    )
    parser.add_argument("src", help="a checkpoint's folder, or the name of a downloaded one (chat, chat-32k, ...)")
    parser.add_argument("dst", type=Path, help="a new folder")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="auto",
        help="auto (default): as stored, what is in 4 bits stays so; any other: all numbers in this precision",
    )  # fmt: skip
    parser.add_argument("--shard-gb", type=_size, default=4.0, help="the size of a file of weights (default: 4)")
    return parser


def _size(text: str) -> float:
    size = float(text)
    if not 0 < size <= 1000:
        raise ValueError
    return size


def export(name: str, target: Path, *, dtype: str, shard_gb: float) -> None:
    """Write the folder `target`. Raises CheckpointError, SettingError and ExportError."""
    check_target(target)  # before PyTorch is loaded
    path = named(name, "SRC")
    if not path.is_dir():
        raise ExportError(
            tell(
                f"{path} is a GGUF file, which other programs read as it is: name the folder of a checkpoint.",
                f"{path} 是 GGUF 文件，其他程序可以直接读取：请指定检查点文件夹。",
            )
        )
    import torch

    from bluelm.engine.checkpoint import Checkpoint
    from bluelm.engine.folder_weights import EMBEDDING, Source
    from bluelm.engine.opening import open_model
    from bluelm.export.packed import layout_for
    from bluelm.export.weights import byte_count

    checkpoint = Checkpoint(path)
    opened = open_model(path, load_settings())
    packed = opened.packed and dtype == "auto"
    precision = checkpoint.tensor(EMBEDDING).dtype if dtype == "auto" else getattr(torch, dtype)
    source = Source(checkpoint, opened.config, precision, torch.device("cpu"))
    layout = layout_for(source) if packed else None
    with new_folder(target, needed := byte_count(source, packed=packed)) as folder:
        _write(opened, source, folder, layout=layout, shard_bytes=int(shard_gb * 10**9), total=needed)
    size = sum(file.stat().st_size for file in target.iterdir())
    done = tell(f"Complete: {target} ({gigabytes(size)}).", f"导出完成：{target}（{gigabytes(size)}）。")
    print(
        done,
        tell("Serve it, for instance, with:", "例如用 vLLM 提供服务：") + f"  vllm serve {shlex.quote(str(target))}",
        sep="\n",
    )


def _write(
    opened: Opened, source: Source, folder: Path, *, layout: Layout | None, shard_bytes: int, total: int
) -> None:
    """What can fail soon comes first; config.json, without which nothing is a model, last."""
    from bluelm.engine.folder_config import is_bluelm
    from bluelm.engine.identity import kind_by_name
    from bluelm.export.config import generation_config, llama_config
    from bluelm.export.tokenizer import write_tokenizer
    from bluelm.export.weights import write_weights

    path, said = source.checkpoint.path, source.checkpoint.config
    bluelm = is_bluelm(source.checkpoint)
    write_tokenizer(path, folder, opened.tokenizer, bluelm=bluelm, context=opened.config.context)
    for file in {file for pattern in LICENCES for file in path.glob(pattern) if file.is_file()}:
        shutil.copyfile(file, folder / file.name)

    def written() -> int:
        return sum(map(size_of, folder.glob("*.safetensors")))

    with Bar(tell("Writing", "写入"), total, written):
        write_weights(source, folder, layout=layout, shard_bytes=shard_bytes)
    name = opened.id if kind_by_name(opened.id, {}) is opened.kind else f"{opened.id}-{opened.kind}"
    precision = str(source.dtype).removeprefix("torch.")
    config = llama_config(opened.config, said, name, dtype=precision, quantization=layout.said() if layout else {})
    _json(folder / "generation_config.json", generation_config(opened.tokenizer, said, opened.defaults))
    _json(folder / "config.json", config)


def _json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
