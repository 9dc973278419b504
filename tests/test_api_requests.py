"""What /v1 may be asked, and what it refuses by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bluelm.api.options import CHAT as CHAT_OPTIONS
from bluelm.api.options import COMPLETION as COMPLETION_OPTIONS
from bluelm.errors import PromptTooLong
from bluelm.types import Message, Role, SamplingParams
from tests.api_kit import CHAT, COMPLETIONS, Api, refused
from tests.fakes import INFO

USER = {"role": "user", "content": "hi"}


@pytest.fixture
def api() -> Api:
    return Api()


def test_every_role_and_text_part_reaches_the_engine(api: Api) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    talk = [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "yes", "refusal": None, "tool_calls": None, "annotations": []},
        {"role": "user", "content": "hi"},
    ]
    api.post(CHAT, {"messages": talk})
    assert api.engine.seen[0][0] == (
        Message(Role.SYSTEM, "be kind"),
        Message(Role.USER, "a\nb"),
        Message(Role.ASSISTANT, "yes"),
        Message(Role.USER, "hi"),
    )


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
def test_every_setting_reaches_the_sampler(api: Api, limit: str) -> None:
    given = {"temperature": 0.5, "top_p": 0.9, "top_k": 4, "repetition_penalty": 1.2, "seed": 5}
    api.chat("hi", **given, stop=["x", "y"], user="me", model="fake", **{limit: 3})
    wanted = SamplingParams(max_length=3, stop=("x", "y"), **given)  # type: ignore[arg-type]
    assert api.engine.seen[0][1] == wanted


def test_what_is_left_out_is_the_models_own_default(api: Api) -> None:
    defaults = SamplingParams(temperature=0.3, top_p=0.8)
    api.engine.now = replace(api.engine.now, model=replace(INFO, defaults=defaults))
    api.chat("hi", stop=None, n=None)
    assert api.engine.seen[0][1] == defaults


def test_both_names_of_the_limit_must_agree(api: Api) -> None:
    assert api.chat("hi", max_tokens=4, max_completion_tokens=4).status_code == 200
    assert refused(api.chat("hi", max_tokens=4, max_completion_tokens=5))["param"] == "max_completion_tokens"


NEUTRAL: dict[str, Any] = {
    "tools": None, "tool_choice": "none", "n": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "logprobs": False,
    "response_format": {"type": "text"}, "logit_bias": {}, "store": False, "functions": [], "modalities": ["text"],
}  # fmt: skip


def test_labels_are_taken(api: Api) -> None:
    labels = {"user": "me", "safety_identifier": "me", "prompt_cache_key": "k", "prompt_cache_retention": "in_memory"}
    assert api.chat("hi", **labels, stream_options=None).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_a_body_that_says_it_is_no_json_is_refused_but_by_the_tutorials_api(api: Api, kind: str) -> None:
    body = {"content": b'{"prompt": "hi"}', "headers": {"Content-Type": kind}}
    assert refused(api.send("POST", COMPLETIONS, **body), 415)["code"] == "unsupported_media_type"
    assert api.send("POST", "/", **body).status_code == 200


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8", "application/problem+json"])
def test_json_by_any_of_its_names_is_taken(api: Api, kind: str) -> None:
    body = {"content": b'{"prompt": "hi"}', "headers": {"Content-Type": kind}}
    assert api.send("POST", COMPLETIONS, **body).status_code == 200


def test_options_at_their_neutral_value_ask_for_nothing(api: Api) -> None:
    assert api.chat("hi", **NEUTRAL).status_code == 200
    assert api.post(COMPLETIONS, {"prompt": "a", "n": 1, "best_of": 1, "echo": False, "suffix": ""}).status_code == 200


@pytest.mark.parametrize("name", CHAT_OPTIONS)
def test_an_option_that_we_lack_is_refused_by_name_in_chats(api: Api, name: str) -> None:
    error = refused(api.chat("hi", **{name: ["something"]}))
    assert error["param"] == name
    assert error["code"] == "unsupported_option"
    assert name in error["message"]


@pytest.mark.parametrize("name", COMPLETION_OPTIONS)
def test_an_option_that_we_lack_is_refused_by_name_in_completions(api: Api, name: str) -> None:
    error = refused(api.post(COMPLETIONS, {"prompt": "hi", name: 2}))
    assert (error["param"], error["code"]) == (name, "unsupported_option")


@pytest.mark.parametrize("value", [True, 1.0, 0, -1, 129, 2**70, "1", [1]])
def test_the_number_of_answers_is_a_whole_number_in_its_range(api: Api, value: Any) -> None:
    assert refused(api.chat("hi", n=value))["param"] == "n"


BAD_CHATS: list[tuple[dict[str, Any], str, str]] = [
    ({}, "messages", "missing"),
    ({"messages": []}, "messages", "not empty"),
    ({"messages": "hi"}, "messages", "list"),
    ({"messages": ["hi"]}, "messages[0]", "a JSON object"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "missing"),
    ({"messages": [{"content": "hi"}]}, "messages[0].role", "missing"),
    ({"messages": [{"role": "boss", "content": "hi"}]}, "messages[0].role", "'assistant'"),
    ({"messages": [{"role": "function", "content": "hi"}]}, "messages[0].role", "'tool'"),
    ({"messages": [USER, {"role": "user", "content": None}]}, "messages[1].content", "a string or a list"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "is 5"),
    ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "text parts"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content", "only text parts"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content", "text parts"),
    ({"messages": [{**USER, "foo": 1}]}, "messages[0].foo", "Unknown"),
    ({"messages": [{**USER, "name": "Li"}]}, "messages[].name", "not supported"),
    ({"messages": [{"role": "user", "content": "\udc00"}]}, "messages[0].content", "half of a character"),
    ({"messages": [USER], "min_p": 0.1}, "min_p", "Unknown: 'min_p'"),
    ({"messages": [USER], "max_length": 5}, "max_length", "max_tokens"),
    ({"messages": [USER], "max_tokens": 0}, "max_tokens", "max_tokens is 0"),
    ({"messages": [USER], "max_completion_tokens": 0}, "max_completion_tokens", "max_completion_tokens is 0"),
    ({"messages": [USER], "max_tokens": 1.5}, "max_tokens", "integer"),
    ({"messages": [USER], "temperature": 3}, "temperature", "from 0 to 2"),
    ({"messages": [USER], "stream": "yes"}, "stream", "boolean"),
    ({"messages": [USER], "stream_options": {"include_usage": True}}, "stream_options", "set stream to true"),
    ({"messages": [USER], "stream": True, "stream_options": {"x": 1}}, "stream_options.x", "Unknown"),
    (
        {"messages": [USER], "stream": True, "stream_options": {"include_obfuscation": True}},
        "stream_options.include_obfuscation",
        "not supported",
    ),
    ({"messages": [USER], "user": 5}, "user", "string"),
    ({"messages": [USER], "model": 5}, "model", "string"),
]


@pytest.mark.parametrize(("body", "param", "words"), BAD_CHATS)
def test_a_bad_chat_is_refused_and_the_field_named(api: Api, body: Any, param: str, words: str) -> None:
    error = refused(api.post(CHAT, body))
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert words in error["message"]
    assert not api.engine.seen


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        (["a", 1], "either kind alone"),
        (["a", ["b"]], "either kind alone"),
        (["a", [1]], "either kind alone"),
        ([1, [2]], "either kind alone"),
        ([[1], []], "none of them empty"),
        ([True], "a string, a list of token ids"),
        ([1, True], "a string, a list of token ids"),
        ([1.0], "a string, a list of token ids"),
        ([-1], "a string, a list of token ids"),
        ([2**31], "a string, a list of token ids"),
        (["a"] * 129, "at most 128"),
        ([[1]] * 129, "at most 128"),
        ([], "a string"),
        (5, "a string"),
        ([97, 0x110000], "token ids from 0 to"),
    ],
)
def test_prompts_other_than_texts_or_tokens_are_refused(api: Api, prompt: Any, words: str) -> None:
    error = refused(api.post(COMPLETIONS, {"prompt": prompt}))
    assert error["param"] == "prompt" and words in error["message"]


def test_too_long_a_prompt_is_told_in_the_clients_words(api: Api) -> None:
    error = refused(api.chat("x" * 2000, max_tokens=5))
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "messages"
    assert error["message"].endswith("shorten the prompt or lower max_tokens.")
    api.engine.refusal = PromptTooLong(1, 2, 3)
    assert refused(api.post(COMPLETIONS, {"prompt": "hi"}))["param"] == "prompt"
