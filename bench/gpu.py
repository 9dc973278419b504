"""Our GPU engine beside the tutorial's path and vLLM on one card, in one run: `python -m bench.gpu --out FILE`.

    python -m bench.gpu [--precision bfloat16 int8 int4] [--vllm FOLDER] [--skip-tutorial] [--out FILE]

The shape of BlueLM-7B with random weights; prompts of 128 tokens, 256 new tokens, all requests at once. The card's own
reading and copying speed is measured first, since it sets the limit. Each engine runs in a process of its own, one
after the other. FOLDER: an unpacked vLLM with its bench_vllm.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from bench.gpu_ours import PRECISIONS

GREEDY_AND_SAMPLED = {"greedy": "greedy", "t0.8_p0.9": "sampled"}  # vLLM's rows


def ceilings() -> dict[str, float]:
    """What the card reads and copies a second, in TB, by PyTorch's own kernels."""
    numbers = torch.randn(2**30, device="cuda")
    copy = torch.empty_like(numbers)
    size = numbers.numel() * 4
    return {
        "read_tb_s": round(size / median_s(lambda: torch.sum(numbers)) / 1e12, 3),
        "copy_tb_s": round(2 * size / median_s(lambda: copy.copy_(numbers)) / 1e12, 3),
    }


def median_s(work: Callable[[], Any], times: int = 11) -> float:
    took = []
    for _ in range(times):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        took.append(begin.elapsed_time(end) / 1e3)
    return statistics.median(took)


def rows_of(command: list[str], environment: dict[str, str] | None = None) -> Iterator[dict[str, Any]]:
    """The JSON objects that a program prints, as they come; what else it says goes to our error stream."""
    begin = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    ) as program:
        assert program.stdout is not None
        for line in program.stdout:
            if line.startswith("{"):
                row = json.loads(line)
                print(line.strip(), flush=True)
                yield row
            else:
                sys.stderr.write(line)
    if program.returncode:
        yield {"failed": command[-1], "returncode": program.returncode}
    print(f"-- {' '.join(command[1:4])}: {time.perf_counter() - begin:.0f} s", flush=True)


def ours(precision: str, args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    command = [sys.executable, "-m", "bench.gpu_ours", "--precision", precision, "--repetitions", str(args.repetitions)]
    narrow = precision in PRECISIONS[2:]
    yield from rows_of([*command, *(["--sampling", "greedy", "sampled"] if narrow else ["--scenarios"])])


def vllm(folder: Path) -> Iterator[dict[str, Any]]:
    environment = {"PYTHONPATH": str(folder), "PYTHONUNBUFFERED": "1"}
    for row in rows_of([sys.executable, str(folder / "bench_vllm.py"), "--flashinfer"], environment):
        if row.get("row") == "setup":
            start = row["import_s"] + row["engine_start_s"]
            yield {"engine": "vllm", "row": "ready", "version": row["engine"], "start_s": round(start, 1)}
        elif row.get("row") == "bench" and "error" not in row:
            first = {"ttft_ms": round(1e3 * row["one_token_s"], 2)} if "one_token_s" in row else {}
            decode = {"decode_tokens_per_s": row["decode_tok_s"]} if "decode_tok_s" in row else {}
            yield {
                "engine": "vllm", "precision": "bfloat16", "streams": row["batch"],
                "sampling": GREEDY_AND_SAMPLED[row["sampling"]], "prompt_tokens": row["prompt_len"],
                "new_tokens": row["new_tokens"], "out_tokens_per_s": row["out_tok_s"], **decode, **first,
            }  # fmt: skip
        elif "failed" in row or "error" in row:
            yield {"engine": "vllm", **row}


def table(rows: list[dict[str, Any]]) -> str:
    """Tokens per second by engine, precision and sampling, a column for each number of streams."""
    found: dict[tuple[str, str, str], dict[int, float]] = {}
    for row in rows:
        if "out_tokens_per_s" in row:
            key = (row["engine"], row["precision"], row["sampling"])
            found.setdefault(key, {})[row["streams"]] = row["out_tokens_per_s"]
    streams = sorted({each for line in found.values() for each in line})
    head = f"{'tokens/s':50}" + "".join(f"{each:>10}" for each in streams)
    lines = [
        f"{', '.join(key):50}" + "".join(f"{line.get(each, float('nan')):10.1f}" for each in streams)
        for key, line in found.items()
    ]
    return "\n".join([head, *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=["bfloat16"])
    parser.add_argument("--vllm", type=Path, metavar="FOLDER")
    parser.add_argument("--skip-tutorial", action="store_true")
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    args = parser.parse_args()
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name(), "torch": torch.__version__, "ceilings": ceilings(), "rows": [],
    }  # fmt: skip
    torch.cuda.empty_cache()  # the engines' processes need the room
    print(json.dumps(result), flush=True)
    engines = [ours(precision, args) for precision in args.precision]
    if not args.skip_tutorial:
        engines.append(rows_of([sys.executable, "-m", "bench.gpu_tutorial"]))
    if args.vllm:
        engines.append(vllm(args.vllm))
    for row in chain(*engines):
        result["rows"].append(row)
        if args.out:  # after each row, so that a run that is cut off leaves what it has
            args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result["rows"]))


if __name__ == "__main__":
    main()
