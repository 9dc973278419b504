"""Laws that hold for any body at all."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bluelm.api import body
from bluelm.api.errors import Refusal
from bluelm.api.requests import ChatRequest, CompletionRequest, TutorialRequest
from bluelm.errors import InvalidRequest
from tests.api_kit import CHAT, COMPLETIONS, Api, events

API = Api()

# Any text that json can carry, halves of characters included.
texts = st.text(st.characters(exclude_categories=()), max_size=8)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
anything = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3))
numbers = st.integers(-3, 5) | st.floats(-1, 3) | anything

SHARED: dict[str, st.SearchStrategy[Any]] = {
    "temperature": numbers,
    "top_p": numbers,
    "top_k": numbers,
    "repetition_penalty": numbers,
    "seed": numbers,
    "stop": texts | st.lists(texts, max_size=3) | anything,
}
OPENAI = SHARED | {
    "model": st.just("fake") | anything,
    "max_tokens": numbers,
    "n": st.just(1) | anything,
    "stream": st.booleans() | anything,
    "stream_options": st.just({"include_usage": True}) | anything,
    "tools": anything,
    "response_format": st.just({"type": "text"}) | anything,
}
roles = st.sampled_from(["system", "developer", "user", "assistant", "tool"]) | anything
contents = texts | st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": texts}), max_size=2) | anything
messages = st.lists(st.fixed_dictionaries({"role": roles, "content": contents}), max_size=3) | anything


def bodies(must: dict[str, Any], may: dict[str, Any]) -> st.SearchStrategy[Any]:
    near = st.fixed_dictionaries(must, optional=may)
    strange = st.dictionaries(texts, anything, min_size=1, max_size=1)
    return near | st.builds(lambda a, b: {**a, **b}, near, strange) | anything


tutorial_bodies = bodies({"prompt": texts}, SHARED | {"max_length": numbers, "echo": st.booleans() | anything})
chat_bodies = bodies({"messages": messages}, OPENAI | {"max_completion_tokens": numbers})
completion_bodies = bodies(
    {"prompt": texts | st.lists(texts, max_size=2) | st.lists(numbers) | st.lists(st.lists(numbers), max_size=2)},
    OPENAI | {"echo": anything},
)


@given(tutorial_bodies)
@example({"prompt": "hi", "temperature": 10**400})
@settings(max_examples=80)
def test_any_json_to_the_tutorials_api_is_answered_or_refused_in_its_shape(sent: Any) -> None:
    answer = API.post("/", sent)
    told = answer.json()
    if answer.status_code == 200:
        assert set(told) == {"response", "status", "time"}
    else:
        assert 400 <= answer.status_code < 500
        assert set(told) == {"error", "status"}
        assert told["status"] == answer.status_code


@pytest.mark.parametrize(("path", "sent"), [(CHAT, chat_bodies), (COMPLETIONS, completion_bodies)])
def test_any_json_to_openais_api_is_answered_or_refused_in_its_shape(path: str, sent: st.SearchStrategy[Any]) -> None:
    @given(sent)
    @settings(max_examples=80)
    def law(one: Any) -> None:
        answer = API.post(path, one)
        if answer.status_code != 200:
            assert 400 <= answer.status_code < 500
            assert set(answer.json()) == {"error"}
            assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        elif answer.headers["content-type"].startswith("text/event-stream"):
            assert events(answer)[-1] == "[DONE]"
        else:
            assert answer.json()["choices"][0]["finish_reason"] in ("stop", "length")

    law()


@given(st.binary(max_size=40))
@example(b"\xef\xbb\xbf{}")
@example(b'{"a":' * 50_000)
def test_any_bytes_are_a_json_object_or_refused(sent: bytes) -> None:
    try:
        assert isinstance(body.parse(sent), dict)
    except InvalidRequest as error:
        error.message.encode()


@given(st.dictionaries(texts, anything, max_size=3))
def test_what_is_read_is_what_was_sent_and_can_be_written_as_utf8(sent: dict[str, Any]) -> None:
    written = json.dumps(sent)
    try:
        read = body.parse(written.encode())
    except InvalidRequest as error:
        assert any(word in error.message for word in ("half of a character", "is not a JSON number", "given twice"))
    else:
        assert json.dumps(read) == written
        json.dumps(read, ensure_ascii=False).encode()


@pytest.mark.parametrize("kind", [TutorialRequest, ChatRequest, CompletionRequest])
def test_no_field_is_both_taken_and_refused(kind: Any) -> None:
    assert not set(kind.model_fields) & set(kind.options)


@given(st.text(max_size=5))
@settings(max_examples=50)
def test_a_field_that_nobody_knows_is_named(name: str) -> None:
    if name in TutorialRequest.model_fields:
        return
    with pytest.raises((InvalidRequest, Refusal)) as caught:
        body.understand(TutorialRequest, {"prompt": "hi", name: 1})
    assert repr(name) in str(caught.value)
