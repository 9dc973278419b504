"""What those who watch the server are told: figures, log lines with one request's id, whether it is alive and ready."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bluelm import logs, metrics
from bluelm.config import load_settings
from bluelm.conversation import Conversation
from bluelm.errors import EngineDied, QueueFull
from bluelm.types import EngineState, Phase, SamplingParams
from tests.api_kit import CHAT, COMPLETIONS, Api
from tests.fakes import INFO, FakeEngine
from tests.servers import Server, serve

SECRET = "the-word-that-nobody-may-log"


Figures = dict[tuple[str, frozenset[str]], float]


def named(name: str, *labels: str) -> tuple[str, frozenset[str]]:
    return name, frozenset(labels)


def figures(text: str) -> Figures:
    """By name and label values."""
    return {
        named(sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Since:
    """What the counters went up by since this was made."""

    def __init__(self) -> None:
        self._before = self._now()

    def __call__(self, name: str, *labels: str) -> float:
        return self._now().get(named(name, *labels), 0) - self._before.get(named(name, *labels), 0)

    def _now(self) -> Figures:
        return figures(metrics.exposition(EngineState(Phase.READY)).decode())


@pytest.fixture
def api() -> Api:
    return Api()


def test_an_answer_is_counted_once_by_who_asked_and_how_it_ended(api: Api) -> None:
    since = Since()
    api.chat("one two three")
    api.chat("one two three", stream=True)
    api.chat("one two three", max_tokens=1)
    api.post(COMPLETIONS, {"prompt": "a b"})
    api.post("/", {"prompt": "a b"})
    assert since("bluelm_answers_total", CHAT, "stop") == 2
    assert since("bluelm_answers_total", CHAT, "length") == 1
    assert since("bluelm_answers_total", COMPLETIONS, "stop") == since("bluelm_answers_total", "/", "stop") == 1
    assert since("bluelm_completion_tokens_total", CHAT) == 7
    assert since("bluelm_first_token_seconds_count", CHAT) == since("bluelm_answer_seconds_count", CHAT) == 3
    assert since("bluelm_http_requests_total", CHAT, "POST", "200") == 3


def test_a_page_is_counted_as_a_program_is() -> None:
    since, engine = Since(), FakeEngine()
    conversation = Conversation("id", "owner")
    conversation.ask(engine, "one two", SamplingParams())
    while conversation.view().busy:
        time.sleep(0.001)
    assert since("bluelm_answers_total", "page", "stop") == 1 and since("bluelm_completion_tokens_total", "page") == 2
    assert engine.callers[0].route == "page" and engine.callers[0].share == "browser owner"


def test_refusals_and_failures_are_counted_by_kind(api: Api) -> None:
    since = Since()
    api.engine.refusal = QueueFull(9)
    assert api.chat("hi").status_code == 429
    api.engine.refusal, api.engine.failure = None, EngineDied("killed")
    assert api.chat("hi").status_code == 503
    api.chat("hi", stream=True)
    assert since("bluelm_errors_total", CHAT, "queue_full") == 1
    assert since("bluelm_errors_total", CHAT, "engine_died") == since("bluelm_answers_total", CHAT, "failed") == 2


def test_the_engines_state_is_in_the_figures(api: Api) -> None:
    api.chat("one two")
    api.engine.now = EngineState(
        Phase.RESTARTING, 0.5, model=INFO, waiting=3, cache_used=40, cache_total=100, restarts=2,
        gpu_memory_used=7, gpu_memory_total=8, engines=2, engines_ready=1,
    )  # fmt: skip
    answer = api.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    told = figures(answer.text)
    for name, value in {
        "bluelm_engine_restarts_total": 2, "bluelm_requests_running": 0, "bluelm_requests_waiting": 3,
        "bluelm_cache_tokens_used": 40, "bluelm_cache_tokens": 100, "bluelm_gpu_memory_used_bytes": 7,
        "bluelm_gpu_memory_bytes": 8, "bluelm_engines": 2, "bluelm_engines_ready": 1,
        "bluelm_engine_tokens_total": 2, "bluelm_engine_prompt_tokens_total": 0,
    }.items():  # fmt: skip
        assert told[named(name)] == value, name
    assert [told[named("bluelm_engine_phase", phase.value)] for phase in Phase] == [0, 0, 1, 0]
    assert told[named("bluelm_model_info", "fake", "chat", "float32", "cpu", "1000")] == 1


def test_paths_that_clients_make_up_make_no_new_series(api: Api) -> None:
    for i in range(20):
        api.get(f"/v1/models/{i}")
        api.get(f"/nowhere/{i}")
        api.send(f"MADE{i}", "/nowhere")
    series = [labels for name, labels in figures(api.get("/metrics").text) if name == "bluelm_http_requests_total"]
    assert len([labels for labels in series if labels >= {"GET", "404"}]) == 2
    assert not [labels for labels in series if any("MADE" in label for label in labels)]


@pytest.mark.parametrize(("phase", "status"), [("ready", 200), ("loading", 503), ("restarting", 503), ("down", 503)])
def test_alive_is_not_ready(api: Api, phase: str, status: int) -> None:
    api.engine.now = EngineState(Phase(phase), 0.3, model=INFO)
    assert api.get("/health/live").status_code == 200
    assert api.get("/health/ready").status_code == api.get("/health").status_code == status
    assert api.send("HEAD", "/health/ready").status_code == status
    assert api.get("/health/ready").json()["status"] == ("ok" if phase == "ready" else phase)


@pytest.mark.parametrize(
    ("given", "kept"), [("abc-1.2:Z_", True), ("x" * 65, False), ("a b", False), ("é", False), ("", False)]
)
def test_a_sane_request_id_is_kept_and_told_back(api: Api, given: str, kept: bool) -> None:
    answers = [
        api.send(method, path, headers={"x-request-id": given.encode()})
        for method, path in (("GET", "/health"), ("GET", "/v1/nowhere"), ("POST", CHAT))
    ]
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert (set(ids) == {given}) if kept else (len(set(ids)) == 3 and all(re.fullmatch("[0-9a-f]{16}", i) for i in ids))


# --- log lines ---


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    env = {"BLUELM_LOG": "json", "BLUELM_THREADS": "1", "BLUELM_CONTEXT": "512", "BLUELM_CACHE_TOKENS": "1024"}
    with serve("real", env=env) as server:
        server.wait_ready()
        yield server


def lines(server: Server, **wanted: str) -> list[dict[str, object]]:
    told = [json.loads(line) for line in server.log().splitlines() if line.startswith("{")]
    return [line for line in told if all(line.get(name) == value for name, value in wanted.items())]


def test_one_id_goes_from_the_client_to_the_engines_process(server: Server) -> None:
    import httpx

    body = {"messages": [{"role": "user", "content": f"Say {SECRET}"}], "max_tokens": 4}
    answer = httpx.post(server.url + CHAT, json=body, headers={"x-request-id": "seen-1"}, timeout=30)
    assert answer.headers["x-request-id"] == "seen-1"
    told = {str(line["event"]): line for line in lines(server, request="seen-1")}
    assert set(told) == {"accepted", "answered", "request"}, server.log()
    assert told["accepted"]["logger"] == "bluelm.engine" and told["accepted"]["answer"] == told["answered"]["answer"]
    assert told["answered"]["completion_tokens"] == 4 and told["answered"]["end"] == "length"
    assert told["request"]["status"] == 200 and told["request"]["route"] == CHAT
    assert SECRET not in server.log() and answer.json()["choices"][0]["message"]["content"] not in server.log()


def test_every_line_of_ours_is_an_object_where_that_is_asked_for(server: Server) -> None:
    assert lines(server, logger="bluelm.engine")
    strays = [line for line in server.log().splitlines() if re.match(r"\d{4}-\d\d-\d\d", line)]
    assert not strays


def test_what_was_said_is_in_the_log_only_where_that_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    before = list(logging.getLogger("bluelm").handlers)
    try:
        for asked in (False, True):
            logs.set_up(load_settings(log_prompts=asked))
            Api().chat(SECRET)
            assert (SECRET in capsys.readouterr().err) is asked
    finally:
        logs.set_up(load_settings())
        logging.getLogger("bluelm").handlers[:] = before
        logging.getLogger("bluelm").propagate = True


def test_a_line_of_text_ends_where_it_ends() -> None:
    record = logging.LogRecord("bluelm.x", logging.INFO, "", 0, "%s", ("answered",), None)
    record.fields = {"id": "a-1", "why": 'two\nlines = "odd"', "s": 0.25}
    assert logs.Text().format(record).endswith(r'INFO bluelm.x: answered id=a-1 why="two\nlines = \"odd\"" s=0.2500')
    assert json.loads(logs.Json().format(record))["why"] == 'two\nlines = "odd"'
