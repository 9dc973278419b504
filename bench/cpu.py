"""Our engine beside the tutorial's way (transformers' generate with a streamer), on this CPU, same weights and prompts.

    .venv/bin/python -m bench.cpu [--chats 1 4 16] [--new 64] [--rounds 3] [--out bench/results/cpu.json]

Every chat asks for its own story, greedily; all chats of a round are asked at once. The tutorial's way serves them one
after another, as one cached model does behind Streamlit. The two take turns, and the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from bluelm.config import load_settings
from bluelm.engine.client import EngineProcess
from bluelm.engine.opening import embedded_model
from bluelm.types import Message, Phase, Role, SamplingParams

TOPICS: tuple[str, ...] = ("cat", "dog", "sun", "moon", "sea", "tree", "fish", "bird")
TOPICS += ("car", "train", "ship", "rock", "snow", "rain", "fire", "ice")
QUESTION = "Tell me a long story about a {}, with many names, places and dates in it, and no end in sight."


@dataclass(frozen=True)
class Figures:
    """One round: tokens made by all chats, seconds from the first question to the last token, first-token times (s)."""

    tokens: int
    seconds: float
    first: list[float]


Round = Callable[[int, int], Figures]


def ours() -> tuple[Round, Callable[[], None], float]:
    begun = time.monotonic()
    engine = EngineProcess(load_settings())
    while engine.state().phase is not Phase.READY:
        assert engine.state().phase is not Phase.DOWN, engine.state().detail
        time.sleep(0.05)
    ready = time.monotonic() - begun

    def round(chats: int, new: int) -> Figures:
        params = SamplingParams(temperature=0.0, max_length=new)
        start = time.monotonic()
        asked = [engine.submit((Message(Role.USER, QUESTION.format(t)),), params) for t in TOPICS[:chats]]
        ends = [list(generation)[-1].usage for generation in asked]
        assert all(ends)
        usages = [usage for usage in ends if usage]
        return Figures(sum(u.completion_tokens for u in usages), time.monotonic() - start, [u.ttft_s for u in usages])

    return round, engine.close, ready


def tutorial() -> tuple[Round, float]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.generation.streamers import BaseStreamer

    begun = time.monotonic()
    path = embedded_model()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
    ready = time.monotonic() - begun
    lock = threading.Lock()

    class Clock(BaseStreamer):
        """Decodes as a text streamer does, and notes when the first new token came."""

        def __init__(self) -> None:
            self.seen, self.first = 0, 0.0

        def put(self, value: object) -> None:
            self.seen += 1
            if self.seen == 2:  # the first call brings the prompt
                self.first = time.monotonic()

        def end(self) -> None:
            pass

    def one(topic: str, new: int) -> tuple[int, float]:
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": QUESTION.format(topic)}], tokenize=False, add_generation_prompt=True
        )
        ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)
        clock = Clock()
        with lock, torch.inference_mode():
            out = model.generate(**ids, max_new_tokens=new, do_sample=False, streamer=clock)
        return out.shape[1] - ids["input_ids"].shape[1], clock.first

    def round(chats: int, new: int) -> Figures:
        start = time.monotonic()
        results = [one(topic, new) for topic in TOPICS[:chats]]
        return Figures(sum(n for n, _ in results), time.monotonic() - start, [t - start for _, t in results])

    return round, ready


def summary(rounds: list[Figures]) -> dict[str, float]:
    return {
        "tokens_per_s": round(statistics.median(r.tokens / r.seconds for r in rounds), 1),
        "first_token_s_median": round(statistics.median(statistics.median(r.first) for r in rounds), 3),
        "first_token_s_worst": round(statistics.median(max(r.first) for r in rounds), 3),
    }


def cpu_name() -> str:
    with Path("/proc/cpuinfo").open() as lines:
        return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chats", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--new", type=int, default=64, help="new tokens per answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("bench/results/cpu.json"))
    args = parser.parse_args()
    ask_ours, close, ready_ours = ours()
    ask_theirs, ready_theirs = tutorial()
    for ask in (ask_ours, ask_theirs):
        ask(1, 8)  # warm up
    rows = []
    for chats in args.chats:
        measured: dict[str, list[Figures]] = {"ours": [], "tutorial": []}
        for _ in range(args.rounds):
            measured["ours"].append(ask_ours(chats, args.new))
            measured["tutorial"].append(ask_theirs(chats, args.new))
        for name, rounds in measured.items():
            rows.append({"engine": name, "chats": chats, "new_tokens": args.new, **summary(rounds)})
            print(json.dumps(rows[-1]), flush=True)
            rows[-1]["rounds"] = [asdict(r) for r in rounds]
    close()
    import torch
    import transformers

    report = {
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "python": platform.python_version()},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "model": embedded_model().name,
        "ready_s": {"ours": round(ready_ours, 1), "tutorial": round(ready_theirs, 1)},
        "rows": rows,
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
