"""Exported folders in a real, unmodified vLLM on loopback: the same greedy tokens as our own engine.

Not of the ordinary tests: it needs an environment of its own, which `make test-vllm` makes (scripts/test-vllm).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
import pytest
import torch

from bluelm.config import load_settings
from bluelm.engine.core import Request
from bluelm.engine.loader import Loaded, load
from bluelm.engine.sentencepiece_tokenizer import Kind, read_pieces
from bluelm.engine.tokenizer import from_folder
from bluelm.export.cli import export
from bluelm.prompt import plain
from bluelm.types import Message, Role, SamplingParams, Tool, ToolCall
from tests.checkpoints import NTKMIXED, bluelm_config, random_tensors, write_checkpoint
from tests.servers import free_port
from tests.synthetic import sentencepiece_model
from tests.test_checkpoint import load as load_ours
from tests.test_checkpoint import logits
from tests.test_export import change, config_of, symmetric
from tests.test_quantized_folder import write as write_quantized

VLLM = Path(os.environ["VLLM"])  # the command
START_S, WINDOW = 300.0, 4096
WIDE = {
    "hidden_size": 256,
    "intermediate_size": 384,
    "max_position_embeddings": 2048,
}  # heads of 64: vLLM's least on a CPU
GREEDY = {"temperature": 0, "repetition_penalty": 1.0, "top_p": 1.0, "top_k": 0}  # not what generation_config says
TEXTS = ("今天天气很好，", "The capital of", "1 + 1 = 2, 2024年", "👍🏽 é  \n", "</s", "春天")
LONG_TEXT = "今天天气很好，我们一起去公园散步吧。The weather is fine today. 2024 " * 60  # some 2,600 tokens


@dataclass
class Pair:
    """One checkpoint in both engines. url: of vLLM's server."""

    ours: Loaded
    url: str

    def our_tokens(self, prompt: list[int], count: int) -> list[int]:
        core = self.ours.core
        core.add(Request("a", prompt, SamplingParams(temperature=0.0), 0, count, time.monotonic()))
        row = core._answers["a"].row
        while not core.idle:
            core.step()
        return row.tokens[len(prompt) :]

    def agree(self, path: str, body: dict[str, Any], prompt: list[int], count: int) -> None:
        """vLLM reads the same prompt and writes the same tokens and text."""
        asked = {"model": "bluelm", "max_tokens": count, "return_token_ids": True, **GREEDY, **body}
        answer = httpx.post(self.url + path, json=asked, timeout=120).raise_for_status().json()
        (choice,) = answer["choices"]
        assert choice.get("prompt_token_ids", answer.get("prompt_token_ids")) == prompt
        tokens = self.our_tokens(prompt, count)
        assert choice["token_ids"] == tokens
        shown = choice["text"] if "text" in choice else choice["message"]["content"]
        stops = self.ours.tokenizer.stop_ids
        assert shown.strip() == self.ours.tokenizer.decode(id for id in tokens if id not in stops).strip()


@pytest.fixture(scope="module", params=["2K", "32K"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    source, folder = (tmp_path_factory.mktemp("vllm") / name for name in ("BlueLM-7B-Chat", "llama"))
    config = bluelm_config(**WIDE, rope_scaling=NTKMIXED if request.param == "32K" else None)
    tensors = random_tensors(config)
    # No ids beyond the tokenizer, which we never sample, and no single bytes: random ones are no text.
    pieces = read_pieces(sentencepiece_model())
    tensors["lm_head.weight"][[id for id, piece in enumerate(pieces) if piece.kind is Kind.BYTE]] = 0
    tensors["lm_head.weight"][len(pieces) :] = 0
    write_checkpoint(source, config=config, tensors=tensors, shards=2)
    export(str(source), folder, dtype="auto", shard_gb=0.003)
    window = WINDOW if request.param == "32K" else 2048
    settings = load_settings(model=str(source), dtype="float32", device="cpu", context=window)
    with serving(folder, "--dtype", "float32", "--max-model-len", str(window)) as url:
        yield Pair(load(settings, lambda phase, progress: None), url)


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[str]:
    """The address of a vLLM over a folder, until the block ends, or this process does."""
    port, log = free_port(), folder.with_suffix(".log")
    where = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "bluelm", "--enforce-eager"]
    with log.open("w") as out:
        keeper = subprocess.Popen(
            [sys.executable, "-c", KEEPER, str(VLLM), "serve", str(folder), *where, *options],
            stdin=subprocess.PIPE, stdout=out, stderr=out, env={**os.environ, **QUIET}, start_new_session=True,
        )  # fmt: skip
    assert keeper.stdin is not None
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + START_S
    try:
        while not answers(url + "/health"):
            if keeper.poll() is not None or time.monotonic() > end:
                pytest.fail(f"vLLM does not serve:\n{log.read_text()[-5000:]}")
            time.sleep(0.5)
        yield url
    finally:
        keeper.stdin.close()
        keeper.wait()


QUIET = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
# Runs a command until it ends or its own input does, even by a kill of the tests; then nothing of its group is left.
# While it starts, vLLM does not heed SIGTERM.
KEEPER = """
import os, select, signal, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while child.poll() is None and not select.select([0], [], [], 0.5)[0]:
    pass
os.killpg(0, signal.SIGTERM)
try:
    child.wait(10)
finally:
    os.killpg(0, signal.SIGKILL)
"""


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


for signum in (signal.SIGINT, signal.SIGTERM):
    signal.signal(signum, interrupt)  # so that fixtures are taken down
torch.set_num_threads(1)


@pytest.mark.parametrize("text", TEXTS)
def test_completions_have_our_greedy_tokens(pair: Pair, text: str) -> None:
    pair.agree("/v1/completions", {"prompt": text}, pair.ours.tokenizer.encode(plain(text)), 200)


def test_they_have_far_behind_the_first_window(pair: Pair) -> None:
    ids = pair.ours.tokenizer.encode(plain(LONG_TEXT))[: pair.ours.info.context - 120]
    pair.agree("/v1/completions", {"prompt": ids}, ids, 100)


TALK = (
    Message(Role.SYSTEM, "请简短回答"),
    Message(Role.USER, "你好 2024"),
    Message(Role.ASSISTANT, "Hi, 很高兴"),
    Message(Role.USER, "天气 👍"),
)


@pytest.mark.parametrize("talk", [TALK[1:2], TALK[1:], TALK], ids=["one turn", "several", "with a system prompt"])
def test_chats_have_our_prompt_and_greedy_tokens(pair: Pair, talk: tuple[Message, ...]) -> None:
    said = [{"role": message.role.value, "content": message.content} for message in talk]
    template = pair.ours.tokenizer.template
    assert template is not None
    pair.agree("/v1/chat/completions", {"messages": said}, pair.ours.tokenizer.encode(template.render(talk)), 200)


def test_calls_and_results_of_tools_are_put_as_we_do(pair: Pair) -> None:
    schema = (
        '{"type": "object", "properties": {"city": {"type": "string", "description": "城市"}}, "required": ["city"]}'
    )
    talk = (
        Message(Role.SYSTEM, "", tools=(Tool("weather", "天气", schema),)),
        Message(Role.USER, "北京？"),
        Message(Role.ASSISTANT, "", tool_calls=(ToolCall("weather", '{"city": "北京"}', "c1"),)),
        Message(Role.TOOL, '{"result": 20}', tool_call_id="c1"),
    )
    function = {"name": "weather", "description": "天气", "parameters": httpx.Response(200, text=schema).json()}
    called = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "北京"}'}}
    said = [
        {"role": "user", "content": "北京？"},
        {"role": "assistant", "content": None, "tool_calls": [called]},
        {"role": "tool", "tool_call_id": "c1", "content": '{"result": 20}'},
    ]
    body = {"messages": said, "tools": [{"type": "function", "function": function}], "tool_choice": "none"}
    if not pair.ours.info.tools:
        answer = httpx.post(pair.url + "/v1/chat/completions", json={"model": "bluelm", **body}, timeout=60)
        assert answer.status_code == 400 and "not trained to call tools" in answer.text
        return
    template = pair.ours.tokenizer.template
    assert template is not None
    pair.agree("/v1/chat/completions", body, pair.ours.tokenizer.encode(template.render(talk)), 100)


@pytest.mark.parametrize("kind, becomes", [("symmetric", "gptq"), ("gptq", "awq")])
def test_four_bits_stay_four_bits_with_our_probabilities(tmp_path: Path, kind: str, becomes: str) -> None:
    source, folder = tmp_path / "BlueLM-7B-Chat-4bits", tmp_path / "llama"
    write_quantized(source, "gptq", shape=WIDE)
    if kind == "symmetric":
        change(source, "qzeros", symmetric)
    export(str(source), folder, dtype="auto", shard_gb=4.0)
    assert config_of(folder)["quantization_config"]["quant_method"] == becomes
    tokenizer, model = from_folder(folder), load_ours(folder)
    with serving(folder, "--max-model-len", "2048") as url:
        for text in TEXTS:
            asked = {"prompt": text, "max_tokens": 1, "logprobs": 5, "return_tokens_as_token_ids": True, **GREEDY}
            answer = httpx.post(f"{url}/v1/completions", json={"model": "bluelm", **asked}, timeout=60).json()
            (told,) = answer["choices"][0]["logprobs"]["top_logprobs"]
            ours = logits(model, tokenizer.encode(plain(text)))[-1].log_softmax(-1)
            for name, value in told.items():  # vLLM computes 4 bits in float16 at best
                assert value == pytest.approx(float(ours[int(name.removeprefix("token_id:"))]), abs=0.05)
