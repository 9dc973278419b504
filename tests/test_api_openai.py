"""/v1: OpenAI's API, in this process."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bluelm.errors import EngineDied, QueueFull
from bluelm.types import Chunk, FinishReason, ModelKind, Phase, Usage
from tests.api_kit import CHAT, COMPLETIONS, Api, events, refused
from tests.fakes import INFO, FakeEngine


@pytest.fixture
def api() -> Api:
    return Api()


# --- whole answers ---


def test_a_chat_is_answered_in_openais_shape(api: Api) -> None:
    told = api.chat("你 好").json()
    assert told["id"].startswith("chatcmpl-fake-")
    assert told["object"] == "chat.completion"
    assert told["model"] == "fake"
    assert told["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "你 好 ", "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert told["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def test_a_completion_continues_a_plain_text(api: Api) -> None:
    told = api.post(COMPLETIONS, {"prompt": "a b", "max_tokens": 1}).json()
    assert told["id"].startswith("cmpl-fake-")
    assert told["object"] == "text_completion"
    assert told["choices"] == [{"index": 0, "text": "a ", "logprobs": None, "finish_reason": "length"}]
    assert api.engine.seen[0][0] == "a b"


@pytest.mark.parametrize(
    ("reason", "word"),
    [(FinishReason.STOP, "stop"), (FinishReason.STOP_STRING, "stop"), (FinishReason.LENGTH, "length")],
)
def test_why_an_answer_ended_is_told_in_openais_words(api: Api, reason: FinishReason, word: str) -> None:
    ends_with(api.engine, reason)
    assert api.chat("hi").json()["choices"][0]["finish_reason"] == word
    assert events(api.chat("hi", stream=True))[-2]["choices"][0]["finish_reason"] == word


def ends_with(engine: FakeEngine, reason: FinishReason, usage: Usage | None = None) -> None:
    def write(generation: Any, *_: Any) -> None:
        engine.running.pop(generation.id)
        generation.push(Chunk("text", reason, usage or Usage()))

    engine._write = write  # type: ignore


def test_an_answer_that_the_server_stopped_is_an_error_and_not_a_whole_answer(api: Api) -> None:
    ends_with(api.engine, FinishReason.CANCELLED)
    assert refused(api.chat("hi"), 500)["code"] == "generation_failed"
    assert events(api.chat("hi", stream=True))[-1]["error"]["code"] == "generation_failed"


def test_tokens_taken_from_the_cache_are_told(api: Api) -> None:
    ends_with(api.engine, FinishReason.STOP, Usage(prompt_tokens=9, cached_tokens=8))
    assert api.chat("hi").json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 8


# --- streams ---


def test_a_stream_opens_with_the_role_then_tells_each_piece_the_reason_and_done(api: Api) -> None:
    told = events(api.chat("a b", stream=True))
    assert told.pop() == "[DONE]"
    assert [event["choices"][0]["delta"] for event in told] == [
        {"role": "assistant", "content": ""},
        {"content": "a "},
        {"content": "b "},
        {},
    ]
    assert [event["choices"][0]["finish_reason"] for event in told] == [None, None, None, "stop"]
    assert len({(event["id"], event["created"], event["model"], event["object"]) for event in told}) == 1
    assert not any("usage" in event for event in told)


def test_the_usage_comes_last_where_it_is_asked_for(api: Api) -> None:
    told = events(api.chat("a b", stream=True, stream_options={"include_usage": True}))
    assert told.pop() == "[DONE]"
    last = told.pop()
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 2
    assert all(event["usage"] is None for event in told)


def test_a_completion_streams_its_text(api: Api) -> None:
    told = events(api.post(COMPLETIONS, {"prompt": "a b", "stream": True}))
    assert told.pop() == "[DONE]"
    assert [event["choices"][0]["text"] for event in told] == ["a ", "b ", ""]
    assert {event["object"] for event in told} == {"text_completion"}


def test_an_event_is_one_line_to_every_client_whatever_the_model_says(api: Api) -> None:
    said = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\x1dh\x1ei\rj\r\nk\n\nl你😀"
    api.engine.script = lambda prompt, params: [said]
    answer = api.chat("hi", stream=True)
    assert events(answer)[1]["choices"][0]["delta"]["content"] == said
    lines = answer.text.splitlines()
    assert len(lines) == 2 * len(events(answer)) and not any(lines[1::2])


def test_what_is_known_before_a_stream_is_refused_before_it(api: Api) -> None:
    api.engine.refusal = QueueFull(3)
    answer = api.chat("hi", stream=True)
    assert refused(answer, 429)["code"] == "queue_full"
    assert answer.headers["retry-after"] == "5"


def test_an_error_in_mid_stream_ends_it_with_an_error_event(api: Api) -> None:
    api.engine.failure, api.engine.fail_after = EngineDied("signal 9"), 1
    told = events(api.chat("a b c", stream=True))
    assert told[1]["choices"][0]["delta"] == {"content": "a "}
    assert told[-1]["error"]["code"] == "engine_died"
    assert "[DONE]" not in told


def test_what_nobody_foresaw_ends_a_stream_without_its_details(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    api.engine.failure, api.engine.fail_after = ZeroDivisionError("secret"), 0  # type: ignore[assignment]
    told = events(api.chat("a", stream=True))
    assert told[-1]["error"]["code"] == "internal_error"
    assert "secret" not in str(told) and "secret" in caplog.text


# --- models ---


def test_the_model_that_is_served_is_listed(api: Api) -> None:
    told = api.get("/v1/models").json()
    assert [model["id"] for model in told["data"]] == ["fake"]
    assert api.get("/v1/models/fake").json() == told["data"][0]


def test_a_model_id_may_have_slashes(api: Api) -> None:
    api.engine.now = replace(api.engine.now, model=replace(INFO, id="vivo-ai/BlueLM-7B-Chat"))
    assert api.get("/v1/models/vivo-ai/BlueLM-7B-Chat").json()["id"] == "vivo-ai/BlueLM-7B-Chat"


def test_another_model_is_not_found(api: Api) -> None:
    for answer in (api.get("/v1/models/gpt-4"), api.chat("hi", model="gpt-4")):
        error = refused(answer, 404)
        assert (error["code"], error["param"]) == ("model_not_found", "model")
        assert "'gpt-4'" in error["message"] and "'fake'" in error["message"]


def test_a_base_model_does_not_chat_and_says_where_to_go(api: Api) -> None:
    api.engine.now = replace(api.engine.now, model=replace(INFO, kind=ModelKind.BASE))
    error = refused(api.chat("hi"))
    assert error["code"] == "wrong_model_kind"
    assert "/v1/completions" in error["message"]
    assert api.post(COMPLETIONS, {"prompt": "a"}).status_code == 200


def test_while_the_model_loads_every_route_says_when_to_come_back(api: Api) -> None:
    api.engine.now = replace(api.engine.now, phase=Phase.LOADING, progress=0.25, model=None)
    for answer in (api.get("/v1/models"), api.chat("hi"), api.post(COMPLETIONS, {"prompt": "a"})):
        assert refused(answer, 503)["code"] == "engine_loading"
        assert answer.headers["retry-after"] == "5"


# --- addresses ---


@pytest.mark.parametrize("path", ["/v1", "/v1/", "/v1/nope", "/v1/chat", "/v1/chat/completions/x"])
def test_an_unknown_address_is_not_found_in_openais_shape(api: Api, path: str) -> None:
    assert refused(api.get(path), 404)["code"] == "not_found"


@pytest.mark.parametrize(("method", "path"), [("GET", CHAT), ("POST", "/v1/models"), ("DELETE", COMPLETIONS)])
def test_a_wrong_method_is_told_so(api: Api, method: str, path: str) -> None:
    answer = api.send(method, path)
    assert refused(answer, 405)["code"] == "method_not_allowed"
    assert "allow" in answer.headers
