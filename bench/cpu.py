"""Our engine beside the tutorial's way (transformers' generate with a streamer) and llama.cpp, on this CPU.

    .venv/bin/python -m bench.cpu [--chats 1 4 16] [--new 64] [--rounds 3] [--llama-python PYTHON] [--out FILE]

The same weights (the embedded demo model) and questions, greedy; every chat asks for its own story, and all chats of a
round are asked at once. The tutorial's way serves them one after another, as one cached model does behind Streamlit,
and so does llama-cpp-python. All take turns, and the median of the rounds counts. Ours is also measured with the
sampling settings that the page begins with.

--llama-python: a Python with llama-cpp-python, in an environment of its own, since it is compiled at installation:
    CMAKE_ARGS="-DGGML_NATIVE=ON" pip install --no-binary llama-cpp-python llama-cpp-python
(on a Xeon with AMX that build crashed, and -DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON worked).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from bluelm.config import load_settings
from bluelm.engine.client import EngineProcess
from bluelm.engine.opening import DEMO_DEFAULTS, embedded_model
from bluelm.types import Message, Phase, Role, SamplingParams

TOPICS: tuple[str, ...] = ("cat", "dog", "sun", "moon", "sea", "tree", "fish", "bird")
TOPICS += ("car", "train", "ship", "rock", "snow", "rain", "fire", "ice")
# No two questions are the same, so that nobody finds more than the system prompt among what is computed already.
QUESTION = "{}: tell me a long story about a {}, with many names, places and dates in it, and no end in sight."
SHORT = "What is the capital of France?"


@dataclass(frozen=True, slots=True)
class Answer:
    """tokens: new ones. first_s, last_s: from the round's begin to the first and the last of them."""

    prompt_tokens: int
    tokens: int
    first_s: float
    last_s: float


@dataclass(frozen=True, slots=True)
class Round:
    """seconds: from the question to the last token of all."""

    seconds: float
    answers: list[Answer]

    @property
    def tokens_per_s(self) -> float:
        return sum(answer.tokens for answer in self.answers) / self.seconds

    @property
    def decode_tokens_per_s(self) -> float:
        """Of one chat, once its answer has begun."""
        return statistics.median((a.tokens - 1) / (a.last_s - a.first_s) for a in self.answers)


class Engine(Protocol):
    """Something to measure. ready_s: from its start until it can answer. version: of what it rests on."""

    ready_s: float
    version: str

    def ask(self, questions: list[str], new: int) -> Round: ...


class Ours:
    """The engine process, as the app has it. params: all but the length."""

    def __init__(self, engine: EngineProcess, ready_s: float, **params: Any) -> None:
        from importlib.metadata import version

        self.ready_s, self.version = ready_s, f"torch {version('torch')}"
        self._engine, self._params = engine, params

    @classmethod
    @contextmanager
    def start(cls) -> Iterator[Ours]:
        begun = time.monotonic()
        engine = EngineProcess(load_settings(model="demo"))
        try:
            while engine.state().phase is not Phase.READY:
                assert engine.state().phase is not Phase.DOWN, engine.state().detail
                time.sleep(0.01)
            yield cls(engine, time.monotonic() - begun, temperature=0.0)
        finally:
            engine.close()

    def sampled(self) -> Ours:
        """The same engine, as the page asks it."""
        defaults = asdict(DEMO_DEFAULTS)
        return Ours(self._engine, self.ready_s, **{key: defaults[key] for key in SAMPLED}, seed=1)

    def ask(self, questions: list[str], new: int) -> Round:
        params = SamplingParams(**self._params, max_length=new)
        begun = time.monotonic()
        asked = [(self._engine.submit((Message(Role.USER, q),), params), time.monotonic()) for q in questions]
        answers = []
        for generation, accepted in asked:
            usage = list(generation)[-1].usage
            assert usage is not None
            late = accepted - begun  # the engine counts from there
            answers.append(
                Answer(usage.prompt_tokens, usage.completion_tokens, late + usage.ttft_s, late + usage.total_s)
            )
        return Round(time.monotonic() - begun, answers)


SAMPLED_NAME = "ours, sampled"
SAMPLED = ("temperature", "top_p", "top_k", "repetition_penalty")


class Tutorial:
    """transformers' generate with a streamer, in float32, in this process."""

    def __init__(self) -> None:
        begun = time.monotonic()
        import torch
        import transformers

        path = embedded_model()
        self.version = f"transformers {transformers.__version__}, torch {torch.__version__}"
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        load = transformers.AutoModelForCausalLM.from_pretrained
        self._model: Any = load(path.parent, gguf_file=path.name, dtype=torch.float32).eval()
        self.ready_s = time.monotonic() - begun

    def ask(self, questions: list[str], new: int) -> Round:
        begun = time.monotonic()
        answers = [self._answer(question, new, begun) for question in questions]
        return Round(time.monotonic() - begun, answers)

    def _answer(self, question: str, new: int, begun: float) -> Answer:
        message = [{"role": "user", "content": question}]
        ids = self._tokenizer.apply_chat_template(
            message, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        times: list[float] = []

        class Clock:
            """A streamer: the first call brings the prompt."""

            def put(self, _: object) -> None:
                times.append(time.monotonic() - begun)

            def end(self) -> None: ...

        self._model.generate(**ids, max_new_tokens=new, do_sample=False, streamer=Clock())
        return Answer(ids["input_ids"].shape[1], len(times) - 1, times[1], times[-1])


class LlamaCpp:
    """llama-cpp-python in a process of its own (bench/llama_peer.py)."""

    def __init__(self, process: subprocess.Popen[str], said: dict[str, Any], ready_s: float) -> None:
        self.ready_s, self.version = ready_s, f"llama-cpp-python {said['version']}"
        self._process = process

    @classmethod
    @contextmanager
    def start(cls, python: Path) -> Iterator[LlamaCpp]:
        begun = time.monotonic()
        peer = Path(__file__).with_name("llama_peer.py")
        command = [str(python), str(peer), str(embedded_model()), str(os.cpu_count())]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdin and process.stdout
            yield cls(process, json.loads(process.stdout.readline()), time.monotonic() - begun)
            process.stdin.close()

    def ask(self, questions: list[str], new: int) -> Round:
        assert self._process.stdin and self._process.stdout
        begun = time.monotonic()
        print(json.dumps({"questions": questions, "new": new}), file=self._process.stdin, flush=True)
        said = json.loads(self._process.stdout.readline())
        answers = [Answer(a["prompt_tokens"], len(a["times"]), a["times"][0], a["times"][-1]) for a in said]
        return Round(time.monotonic() - begun, answers)


def measure(engines: dict[str, Engine], chats: int, new: int, rounds: int) -> Iterator[dict[str, Any]]:
    """One row of figures for each engine; they take turns."""
    measured: dict[str, list[Round]] = {name: [] for name in engines}
    for number in range(rounds):
        for name, engine in engines.items():
            told = f"{chats}.{number}" + (" again" if name == SAMPLED_NAME else "")
            questions = [QUESTION.format(told, topic) for topic in TOPICS[:chats]]
            measured[name].append(engine.ask(questions, new))
    for name, some in measured.items():
        first = [[answer.first_s for answer in one.answers] for one in some]
        yield {
            "engine": name,
            "chats": chats,
            "prompt_tokens": some[0].answers[0].prompt_tokens,
            "new_tokens": new,
            "tokens_per_s": round(statistics.median(one.tokens_per_s for one in some), 1),
            "decode_tokens_per_s": round(statistics.median(one.decode_tokens_per_s for one in some), 1),
            "first_token_s": round(statistics.median(map(statistics.median, first)), 4),
            "last_first_token_s": round(statistics.median(map(max, first)), 4),
            "rounds": [{"seconds": one.seconds, "tokens_per_s": one.tokens_per_s} for one in some],
        }


def cpu_name() -> str:
    """The processor, and what of it counts here."""
    lines = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
    told = {name.strip(): value.strip() for name, value in lines.items()}
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in told.get("flags", "").split()]
    return f"{told.get('model name', 'unknown')} ({', '.join(known)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chats", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--new", type=int, default=64, help="new tokens per answer")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--llama-python", type=Path, help="a Python with llama-cpp-python")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    rows, ready = [], {}
    with ExitStack() as stack:
        ours = stack.enter_context(Ours.start())
        engines: dict[str, Engine] = {"ours": ours, SAMPLED_NAME: ours.sampled(), "tutorial": Tutorial()}
        if args.llama_python:
            engines["llama.cpp"] = stack.enter_context(LlamaCpp.start(args.llama_python))
        for name, engine in engines.items():
            start = engine.ask([SHORT], 8).answers[0].first_s  # and warms it up
            ready[name] = {"ready_s": round(engine.ready_s, 2), "first_answer_s": round(engine.ready_s + start, 2)}
        for chats in args.chats:
            for row in measure(engines, chats, args.new, args.rounds):
                print(json.dumps({key: value for key, value in row.items() if key != "rounds"}), flush=True)
                rows.append(row)
        report = {
            "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "python": platform.python_version()},
            "versions": {name: engine.version for name, engine in engines.items()},
            "model": embedded_model().name,
            "start": ready,
            "rows": rows,
        }
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
