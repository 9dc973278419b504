"""Copy as curl and as Python: what the dialog offers is the request that made the answer, and makes it again."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluelm.conversation import Conversation, Turn
from bluelm.types import SamplingParams, Written
from components.api_request import as_curl, as_python, body
from tests.api_kit import Api
from tests.fakes import FakeEngine
from tests.servers import Server, serve

PARAMS = SamplingParams(
    24,
    0.9,
    0.95,
    40,
    1.1,
    stop=("###", "'\n"),
    logprobs=3,
    presence_penalty=0.5,
    frequency_penalty=-0.5,
    logit_bias=((7, 1.5), (2, -3.0)),
    json_schema='{"type":"object","required":["a"]}',
)


def answered(engine: FakeEngine, *questions: str, params: SamplingParams = PARAMS) -> tuple[Turn, Written]:
    conversation = Conversation("c")
    for question in questions:
        conversation.ask(engine, question, params, "Be 'kind'.")
        while conversation.view().busy:
            time.sleep(0)
    turn = conversation.view().turns[-1]
    return turn, conversation.prompt(turn.answer_id)


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip), min_size=1, max_size=3))
def test_a_shell_and_python_read_back_what_was_asked(questions: list[str]) -> None:
    turn, prompt = answered(FakeEngine(), *questions, params=SamplingParams(10))
    path, request = body(turn, prompt)
    command = shlex.split(as_curl("http://x", path, request))
    assert command[1] == "http://x/v1/chat/completions" and json.loads(command[-1]) == request
    if "\0" not in "".join(questions):
        compile(as_python("http://x", path, request), "script", "exec")


def test_what_fell_out_of_the_window_is_left_out() -> None:
    turn, prompt = answered(FakeEngine(), "a", "b", "c")
    _, request = body(replace(turn, dropped=2), prompt)
    assert [m["content"] for m in request["messages"]] == ["Be 'kind'.", "b", "b ", "c"]


def test_the_engine_gets_the_same_from_the_api_as_from_the_page() -> None:
    engine = FakeEngine()
    turn, prompt = answered(engine, "one", "two", params=replace(PARAMS, max_length=None))
    path, request = body(turn, prompt)
    answer = Api(engine).post(path, request)
    assert answer.status_code == 200, answer.text
    assert turn.usage is not None and engine.seen[-1] == (prompt, replace(turn.params, seed=turn.usage.seed))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    # In fewer bits, a beginning that comes from the cache may round otherwise than one that was computed with the rest.
    with serve("real", env={"BLUELM_DTYPE": "float32"}) as running:
        running.wait_ready()
        yield running


def test_curl_and_python_give_the_same_answer(server: Server) -> None:
    """Through the real engine: sampled, with the seed that was drawn."""
    question = [{"role": "user", "content": "It's a 'test': say \"hello\" $HOME `ls`"}]
    turn, prompt = answered(FakeEngine(), question[0]["content"])
    path, request = body(replace(turn, model=server.health()["model"]["id"]), prompt)
    shell = subprocess.run(["sh", "-c", as_curl(server.url, path, request)], capture_output=True, text=True, check=True)
    python = subprocess.run(
        [sys.executable, "-c", as_python(server.url, path, request)], capture_output=True, text=True, check=True
    )
    answer = json.loads(shell.stdout)["choices"][0]["message"]["content"]
    assert answer and python.stdout == answer + "\n"
