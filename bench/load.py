"""How fast a checkpoint folder loads, against the disk's own read speed, and how much memory that takes.

    .venv/bin/python -m bench.load write DIR [--size 7b|1b|100m|tiny] [--form safetensors|bin] [--shard-gb 5]
    .venv/bin/python -m bench.load time DIR [--device cpu|cuda] [--dtype bfloat16] [--warm] [--out FILE]

`write` makes a BlueLM folder with random weights in bfloat16 (7b: 14.6 GB, the published shape) and the small tokenizer
of the tests; its greedy answers never end by themselves. `time` reads all files once plainly, then loads them, each in
a process of its own and each from the disk (the files are dropped from the system's cache before; --warm leaves them
there).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bluelm.errors import CheckpointError

SIZES = {  # vocab, hidden, intermediate, layers, heads
    "7b": (100_096, 4096, 11_008, 32, 32),
    "1b": (100_096, 2048, 5504, 16, 16),
    "100m": (32_768, 768, 2048, 8, 12),
    "tiny": (1024, 64, 96, 2, 4),
}
GB = 10**9
BLOCK = 16 << 20


@dataclass(frozen=True, slots=True)
class Figures:
    """read_gb_s: of a plain read of the same files. peak_own_gb: what the load made, mapped files left out (the
    system takes those back as it likes). peak_device_gb, device_gb: while and after loading, of a GPU."""

    files_gb: float
    cold: bool
    read_s: float
    read_gb_s: float
    load_s: float
    load_gb_s: float
    of_read_speed: float
    weights_gb: float
    peak_own_gb: float
    peak_mapped_gb: float
    device_gb: float = 0.0
    peak_device_gb: float = 0.0


# --- writing ---


def write(path: Path, size: str, form: str, shard_bytes: int) -> None:
    """A folder in the original format, one shard in memory at a time. Raises CheckpointError if the disk is full."""
    from bluelm.engine.tokenizer import from_folder
    from tests.checkpoints import bluelm_config
    from tests.synthetic import bluelm_tokenizer_folder

    vocab, hidden, intermediate, layers, heads = SIZES[size]
    config = bluelm_config(
        vocab_size=vocab, hidden_size=hidden, intermediate_size=intermediate, num_hidden_layers=layers,
        num_attention_heads=heads, max_position_embeddings=2048, torch_dtype="bfloat16",
    )  # fmt: skip
    shapes = dict(tensor_shapes(config))
    shards = split(shapes, shard_bytes)
    needed = sum(map(byte_size, shapes.values()))
    bluelm_tokenizer_folder(path)
    if needed > shutil.disk_usage(path).free:
        raise CheckpointError(f"{path} has no room for {needed / GB:.1f} GB: name another folder, or free some space.")
    (path / "config.json").write_text(json.dumps(config, indent=1))
    ends = sorted(from_folder(path).stop_ids)
    stem, ending = ("pytorch_model", ".bin") if form == "bin" else ("model", ".safetensors")
    where: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"{stem}-{number:05}-of-{len(shards):05}{ending}"
        save(path / file, {name: shapes[name] for name in names}, ends)
        where |= dict.fromkeys(names, file)
        print(f"{file}: {sum(byte_size(shapes[name]) for name in names) / GB:.2f} GB", flush=True)
    index = {"metadata": {"total_size": needed}, "weight_map": where}
    (path / f"{stem}{ending}.index.json").write_text(json.dumps(index))


def tensor_shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """In the order in which transformers writes them."""
    hidden, inner, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    yield "model.embed_tokens.weight", (vocab, hidden)
    yield from ((f"model.embed_layer_norm.{part}", (hidden,)) for part in ("weight", "bias"))
    for index in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{index}."
        yield from ((f"{prefix}self_attn.{part}_proj.weight", (hidden, hidden)) for part in "qkvo")
        yield from ((f"{prefix}mlp.{part}_proj.weight", (inner, hidden)) for part in ("gate", "up"))
        yield f"{prefix}mlp.down_proj.weight", (hidden, inner)
        yield from ((f"{prefix}{part}_layernorm.weight", (hidden,)) for part in ("input", "post_attention"))
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (vocab, hidden)


def byte_size(shape: tuple[int, ...]) -> int:
    return 2 * shape[0] * (shape[1] if shape[1:] else 1)


def split(shapes: dict[str, tuple[int, ...]], most: int) -> list[list[str]]:
    """Names in order, each shard of `most` bytes or less (or of one tensor)."""
    shards: list[list[str]] = [[]]
    room = most
    for name, shape in shapes.items():
        if byte_size(shape) > room and shards[-1]:
            shards.append([])
            room = most
        shards[-1].append(name)
        room -= byte_size(shape)
    return shards


def save(file: Path, shapes: dict[str, tuple[int, ...]], ends: list[int]) -> None:
    """ends: ids whose logits are to be 0, among thousands of others of which some are above."""
    import torch
    from safetensors.torch import save_file

    device = "cuda" if torch.cuda.is_available() else "cpu"  # a minute of a processor's time, else

    def random(shape: tuple[int, ...]) -> torch.Tensor:
        spread = 0.02 if shape[1:] else 0.1
        made = torch.empty(shape, dtype=torch.bfloat16, device=device)
        return made.normal_(0.0 if shape[1:] else 1.0, spread).cpu()

    tensors = {name: random(shape) for name, shape in shapes.items()}
    if "lm_head.weight" in tensors:
        tensors["lm_head.weight"][ends] = 0.0
    if file.suffix == ".bin":
        torch.save(tensors, file)
    else:
        save_file(tensors, file, metadata={"format": "pt"})


# --- timing ---


def plain_read(path: Path) -> float:
    """Seconds to read all weight files once, in order, in large blocks."""
    buffer = bytearray(BLOCK)
    begun = time.perf_counter()
    for file in weight_files(path):
        with file.open("rb", buffering=0) as opened:
            while opened.readinto(buffer):
                pass
    return time.perf_counter() - begun


def load(path: Path, device: str, dtype: str) -> dict[str, float]:
    """Seconds to have the model on its device, and the memory that took."""
    import torch

    from bluelm.engine.checkpoint import Checkpoint
    from bluelm.engine.folder_config import folder_config
    from bluelm.engine.folder_weights import load_folder
    from bluelm.engine.linear import Form

    place = torch.device(device)
    torch.zeros(1, device=place)  # a GPU's start is not the checkpoint's
    before, peak = resident(), {"own": 0.0, "mapped": 0.0}

    def look(_: float) -> None:
        for kind, now in resident().items():
            peak[kind] = max(peak[kind], now - before[kind])

    begun = time.perf_counter()
    checkpoint = Checkpoint(path)
    weights = load_folder(checkpoint, folder_config(checkpoint), Form(getattr(torch, dtype)), place, look)
    if device == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - begun
    on_device, peak_device = (
        (torch.cuda.memory_allocated() / GB, torch.cuda.max_memory_allocated() / GB) if device == "cuda" else (0.0, 0.0)
    )
    size = weights.parameters * weights.norm.element_size() / GB
    return {
        "load_s": seconds, "weights_gb": size, "peak_own_gb": peak["own"], "peak_mapped_gb": peak["mapped"],
        "device_gb": on_device, "peak_device_gb": peak_device,
    }  # fmt: skip


def resident() -> dict[str, float]:
    """GB of this process in memory: its own, and pages of files it maps."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    kept = {"own": "RssAnon", "mapped": "RssFile"}
    return {kind: int(lines[field].split()[0]) * 1024 / GB for kind, field in kept.items()}


def weight_files(path: Path) -> list[Path]:
    return sorted(file for file in path.iterdir() if file.suffix in (".bin", ".safetensors"))


def forget(path: Path) -> None:
    """Drop the files from the system's cache, so that they are read from the disk."""
    for file in weight_files(path):
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(path: Path, device: str, dtype: str, *, warm: bool) -> Figures:
    def fresh(work: Callable[..., Any], *given: Any) -> Any:
        if not warm:
            forget(path)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            return pool.apply(work, given)

    size = sum(file.stat().st_size for file in weight_files(path)) / GB
    read_s = fresh(plain_read, path)
    loaded = fresh(load, path, device, dtype)
    load_s = loaded["load_s"]
    return Figures(
        files_gb=size, cold=not warm, read_s=read_s, read_gb_s=size / read_s, load_gb_s=size / load_s,
        of_read_speed=read_s / load_s, **loaded,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    writer, timer = kinds.add_parser("write"), kinds.add_parser("time")
    for each in (writer, timer):
        each.add_argument("path", type=Path)
    writer.add_argument("--size", choices=SIZES, default="7b")
    writer.add_argument("--form", choices=("safetensors", "bin"), default="safetensors")
    writer.add_argument("--shard-gb", type=float, default=5.0)
    timer.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    timer.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    timer.add_argument("--warm", action="store_true")
    timer.add_argument("--out", type=Path)
    given = parser.parse_args()
    if given.kind == "write":
        write(given.path, given.size, given.form, int(given.shard_gb * GB))
        return
    figures = asdict(measure(given.path, given.device, given.dtype, warm=given.warm))
    told = json.dumps({name: round(value, 3) for name, value in figures.items()}, indent=1)
    print(told)
    if given.out:
        given.out.write_text(told + "\n")


if __name__ == "__main__":
    main()
