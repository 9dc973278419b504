"""What the list of conversations costs with many of them: opening it, searching, keeping an answer in the making.

    .venv/bin/python -m bench.store [--conversations 10000] [--out bench/results/store.json]

The texts are made of random words in English and Chinese, about as long as real answers.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bluelm.conversation import Answer, Question, Tree
from bluelm.store import Store
from bluelm.store.database import FILE, Database
from bluelm.store.table import Portable

WORDS = [f"{a}{b}{c}" for a in "bcdfgst" for b in "aeiou" for c in ("nt", "ll", "rk", "sh")]
SIGNS = "天气公园今明好山水城市问答模型语言学习工作生活时间历史文化科技"
TURNS = 5


def text(draw: random.Random, words: int) -> str:
    some = [draw.choice(WORDS) if draw.random() < 0.5 else "".join(draw.choices(SIGNS, k=4)) for _ in range(words)]
    return " ".join(some)


def conversation(draw: random.Random) -> Portable:
    nodes: list[Question | Answer] = []
    for turn in range(TURNS):
        nodes.append(Question(2 * turn + 1, 2 * turn or None, text(draw, 12)))
        nodes.append(Answer(2 * turn + 2, 2 * turn + 1, text(draw, 120)))
    return Portable(Tree(nodes), "", created=draw.random() * 1e9)


def milliseconds(what: Callable[[], object], times: int = 15) -> float:
    took = []
    for _ in range(times):
        begun = time.perf_counter()
        what()
        took.append(time.perf_counter() - begun)
    return round(1000 * statistics.median(took), 2)


def measure(folder: Path, count: int) -> dict[str, float]:
    draw, store = random.Random(1), Store(Database(folder), abandon_after_s=60)
    begun = time.perf_counter()
    for _ in range(count // 100):
        store.take_in("me", [conversation(draw) for _ in range(100)])
    filled = time.perf_counter() - begun
    rare = store.take_in("me", [Portable(Tree([Question(1, None, "小猫 zebra"), Answer(2, 1, "喵")]), "", created=1.0)])
    figures = {
        "conversations": count, "megabytes": round((folder / FILE).stat().st_size / 2**20, 1),
        "kept_per_second": round(count / filled),
        "first_page_ms": milliseconds(lambda: store.listed("me", limit=26)),
        "common_word_ms": milliseconds(lambda: store.listed("me", search="bant", limit=26)),
        "rare_word_ms": milliseconds(lambda: store.listed("me", search="zebra", limit=26)),
        "absent_word_ms": milliseconds(lambda: store.listed("me", search="absent", limit=26)),
        "common_two_characters_ms": milliseconds(lambda: store.listed("me", search="天气", limit=26)),
        "rare_two_characters_ms": milliseconds(lambda: store.listed("me", search="小猫", limit=26), 3),
        "open_one_ms": milliseconds(lambda: store._load(rare[0])),
    }  # fmt: skip
    store.close()
    figures["start_again_ms"] = milliseconds(lambda: Database(folder).read("SELECT 1"), 1)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=10_000)
    parser.add_argument("--out", type=Path, default=Path("bench/results/store.json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bluelm-bench-") as folder:
        figures = measure(Path(folder), args.conversations)
    print(json.dumps(figures, indent=1))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
