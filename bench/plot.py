"""The pictures of docs/performance-gpu.md, from a run of `python -m bench.gpu`; needs bench/requirements.txt.

python -m bench.plot [bench/results/h100.json] [--into docs/images]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

WEIGHTS_GB, CACHE_MB = 13.77, 0.524  # read for each step, and for each token of context: BlueLM-7B in 16 bits
NAMES = {"ours": "BlueLM Chat", "vllm": "vLLM 0.25.1", "tutorial": "the tutorial's path"}
COLOURS = {"ours": "#2563eb", "vllm": "#d97706", "tutorial": "#6b7280"}


def lines(rows: Sequence[dict[str, Any]]) -> dict[str, dict[int, float]]:
    """Greedy tokens per second in bfloat16, by engine and number of chats."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        wanted = row.get("precision") == "bfloat16" and row.get("sampling") == "greedy" and not row.get("exact")
        if wanted and "out_tokens_per_s" in row:
            found.setdefault(row["engine"], {})[row["streams"]] = row["out_tokens_per_s"]
    alone = [row["out_tokens_per_s"] for row in rows if row.get("engine") == "tutorial" and "out_tokens_per_s" in row]
    if alone:  # it serves one request after another; the fastest of its rows, which the host's processor decides
        streams = sorted({count for line in found.values() for count in line})
        found["tutorial"] = dict.fromkeys(streams, max(alone))
    return found


def floor_ms(streams: int, context: float, read_tb_s: float) -> float:
    """What reading weights and cache once takes, at the card's own speed."""
    return (WEIGHTS_GB + streams * context * CACHE_MB / 1e3) / read_tb_s


def throughput(found: dict[str, dict[int, float]], file: Path) -> None:
    axes = _axes("simultaneous chats", "tokens per second, all chats together", found)
    for engine, line in found.items():
        axes.plot(list(line), list(line.values()), "o-", color=COLOURS[engine], label=NAMES[engine])
    _save(axes, file)


def per_token(found: dict[str, dict[int, float]], read_tb_s: float, context: float, file: Path) -> None:
    axes = _axes("simultaneous chats", "milliseconds from one token of a chat to the next", found)
    for engine, line in found.items():
        if engine != "tutorial":
            axes.plot(
                list(line),
                [1e3 * n / rate for n, rate in line.items()],
                "o-",
                color=COLOURS[engine],
                label=NAMES[engine],
            )
    streams = sorted(found["ours"])
    axes.plot(
        streams, [floor_ms(n, context, read_tb_s) for n in streams], "k--", label="reading weights and cache once"
    )
    axes.set_yscale("linear")
    axes.set_ylim(bottom=0)
    _save(axes, file)


def _axes(across: str, up: str, found: dict[str, dict[int, float]]) -> Any:
    from matplotlib import pyplot

    _, axes = pyplot.subplots(figsize=(7, 4.2))
    axes.set(xlabel=across, ylabel=up, xscale="log", yscale="log")
    streams = sorted({n for line in found.values() for n in line})
    axes.set_xticks(streams, [str(n) for n in streams])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    return axes


def _save(axes: Any, file: Path) -> None:
    axes.legend(frameon=False)
    axes.figure.tight_layout()
    axes.figure.savefig(file, metadata={"Date": None})
    print(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", default=Path("bench/results/h100.json"))
    parser.add_argument("--into", type=Path, default=Path("docs/images"))
    args = parser.parse_args()
    run = json.loads(args.run.read_text(encoding="utf-8"))
    found = lines(run["rows"])
    tokens = next(row for row in run["rows"] if "prompt_tokens" in row)
    context = tokens["prompt_tokens"] + tokens["new_tokens"] / 2
    throughput(found, args.into / "gpu-throughput.svg")
    per_token(found, run["ceilings"]["read_tb_s"], context, args.into / "gpu-per-token.svg")


if __name__ == "__main__":
    main()
