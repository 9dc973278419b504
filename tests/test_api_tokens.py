"""Chances and tokens over the API: the shapes that clients know, and the numbers that the engine told."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bluelm.api.chances import Completion
from bluelm.types import Chunk, FinishReason, Prompt, SamplingParams, Token, TokenLogprob
from tests.api_kit import CHAT, COMPLETIONS, Api, events, refused
from tests.fakes import FakeEngine


class Split(FakeEngine):
    """Says 你! in four tokens, the first character in two of them, the last one the sign of the end."""

    def _write(self, generation: Any, prompt: Prompt, params: SamplingParams, stop: Any) -> None:
        pieces = [(b"\xe4\xbd", ""), (b"\xa0", "你"), (b"!", "!"), (b"", "")]
        for id, (utf8, text) in enumerate(pieces):
            token = Token(id, utf8.decode("utf-8", "backslashreplace") or "<end>", utf8, not utf8)
            told = () if params.logprobs is None else (TokenLogprob(token, -1e5 if id == 2 else -0.5, ()),)
            usage = self.usage(generation) if id == 3 else None
            generation.push(Chunk(text, FinishReason.STOP if id == 3 else None, usage, told))
        self.running.pop(generation.id, None)

    @staticmethod
    def usage(generation: Any) -> Any:
        from bluelm.types import Usage

        return Usage(prompt_tokens=generation.prompt_tokens, completion_tokens=4)


def test_a_chat_tells_every_token_but_the_closing_one_whole_and_in_a_stream() -> None:
    api = Api(Split())
    content = api.chat("hi", logprobs=True).json()["choices"][0]["logprobs"]["content"]
    assert [one["bytes"] for one in content] == [[0xE4, 0xBD], [0xA0], [33]]
    assert [one["token"] for one in content] == ["\\xe4\\xbd", "\\xa0", "!"]
    assert [one["logprob"] for one in content] == [-0.5, -0.5, -9999.0]
    assert all(one["top_logprobs"] == [] for one in content)
    *told, done = events(api.chat("hi", logprobs=True, stream=True))
    choices = [event["choices"][0] for event in told]
    assert done == "[DONE]" and "".join(one["delta"].get("content") or "" for one in choices) == "你!"
    assert [token for one in choices if one["logprobs"] for token in one["logprobs"]["content"]] == content


def test_a_completion_tells_them_in_its_older_shape() -> None:
    api = Api(Split())
    whole = api.post(COMPLETIONS, {"prompt": "hi", "logprobs": 0}).json()["choices"][0]
    assert whole["text"] == "你!" and whole["logprobs"] == {
        "tokens": ["\\xe4\\xbd", "\\xa0", "!"], "token_logprobs": [-0.5, -0.5, -9999.0],
        "top_logprobs": [{"\\xe4\\xbd": -0.5}, {"\\xa0": -0.5}, {"!": -9999.0}], "text_offset": [0, 0, 1],
    }  # fmt: skip
    streamed = [event["choices"][0]["logprobs"] for event in events(api.post(COMPLETIONS, {
        "prompt": "hi", "logprobs": 0, "stream": True}))[:-1]]  # fmt: skip
    for name, values in whole["logprobs"].items():
        assert [value for one in streamed if one for value in one[name]] == values


@pytest.mark.parametrize("prompt", ["a你b", [97, 20320, 98]])
@pytest.mark.parametrize("most", [0, 1])
def test_echo_tells_the_prompts_tokens_first_as_those_who_evaluate_models_read_them(prompt: Any, most: int) -> None:
    """lm-evaluation-harness sums token_logprobs[context : -1] and holds each against max(top_logprobs)."""
    api = Api(FakeEngine(lambda *_: ["x", "y"]))
    asked = {"prompt": prompt, "max_tokens": most, "logprobs": 1, "echo": True, "temperature": 0}
    (whole,) = api.post(COMPLETIONS, asked).json()["choices"]
    told = whole["logprobs"]
    assert whole["text"] == "a你b" + "x" * most and whole["finish_reason"] == "length"
    assert told["tokens"] == list(whole["text"]) and told["text_offset"] == list(range(3 + most))
    assert told["token_logprobs"] == [None, *[-0.7] * (2 + most)] and told["top_logprobs"][0] is None
    assert [max(top.values()) for top in told["top_logprobs"][1:]] == told["token_logprobs"][1:]
    choices = [event["choices"][0] for event in events(api.post(COMPLETIONS, asked | {"stream": True}))[:-1]]
    assert "".join(one["text"] for one in choices) == whole["text"]
    for name, values in told.items():
        assert [value for one in choices if one["logprobs"] for value in one["logprobs"][name]] == values


def test_behind_a_prompts_tokens_the_one_that_closes_the_answer_is_told_too() -> None:
    """Or its last token would be taken for the answer's."""
    api = Api(FakeEngine(lambda *_: []))
    (whole,) = api.post(COMPLETIONS, {"prompt": "ab", "max_tokens": 1, "logprobs": 0, "echo": True}).json()["choices"]
    assert whole["finish_reason"] == "stop" and whole["logprobs"]["tokens"] == ["a", "b", ""]


def test_a_space_that_the_tokenizer_added_moves_no_offset() -> None:
    for tokens, text, offsets in (((b"", b" a", b"b"), "ab", [0, 0, 1]), ((b" a", b"b"), " ab", [0, 2])):
        told = [TokenLogprob(Token(i, utf8.decode(), utf8), -1.0) for i, utf8 in enumerate(tokens)]
        assert Completion(text).prompt(told)["text_offset"] == offsets


def test_the_engine_is_asked_for_as_many_as_the_client_wants() -> None:
    api = Api()
    for asked, wanted in (({}, None), ({"logprobs": True}, 0), ({"logprobs": True, "top_logprobs": 7}, 7)):
        choice = api.chat("hi", **asked).json()["choices"][0]  # type: ignore[arg-type]
        assert api.engine.seen[-1][1].logprobs == wanted
        assert (choice["logprobs"] is None) is (wanted is None)
    assert len(choice["logprobs"]["content"][0]["top_logprobs"]) == 7
    assert api.post(COMPLETIONS, {"prompt": "hi"}).json()["choices"][0]["logprobs"] is None


@pytest.mark.parametrize(
    "path, field, asked",
    [
        (CHAT, "top_logprobs", {"top_logprobs": 3}),
        (CHAT, "top_logprobs", {"logprobs": False, "top_logprobs": 3}),
        (CHAT, "top_logprobs", {"logprobs": True, "top_logprobs": 21}),
        (CHAT, "logprobs", {"logprobs": 5}),
        (COMPLETIONS, "logprobs", {"logprobs": True}),
        (COMPLETIONS, "logprobs", {"logprobs": -1}),
        (COMPLETIONS, "prompt_logprobs", {"prompt_logprobs": 1}),
        (COMPLETIONS, "max_tokens", {"max_tokens": 0, "echo": True}),
        (COMPLETIONS, "max_tokens", {"max_tokens": 0, "logprobs": 1}),
    ],
)
def test_what_cannot_be_told_is_refused_by_name(path: str, field: str, asked: dict[str, Any]) -> None:
    prompt = {"messages": [{"role": "user", "content": "x"}]} if path == CHAT else {"prompt": "x"}
    assert refused(Api().post(path, prompt | asked))["param"] == field


def test_penalties_biases_and_formats_reach_the_engine() -> None:
    api = Api()
    api.chat("hi", presence_penalty=1, frequency_penalty=-0.5, logit_bias={"7": 3, "12": -100})
    params = api.engine.seen[-1][1]
    assert (params.presence_penalty, params.frequency_penalty) == (1, -0.5)
    assert params.logit_bias == ((7, 3.0), (12, -100.0)) and params.json_schema == ""
    api.post(COMPLETIONS, {"prompt": "hi", "logit_bias": {"7": 3}, "presence_penalty": 0})
    assert api.engine.seen[-1][1].logit_bias == ((7, 3.0),)
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    for asked, wanted in (
        ({"type": "text"}, ""), ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}, schema),
    ):  # fmt: skip
        assert api.chat("hi", response_format=asked).status_code == 200
        told = api.engine.seen[-1][1].json_schema
        assert (json.loads(told) if told else "") == wanted


@pytest.mark.parametrize(
    "field, value",
    [
        ("presence_penalty", 3), ("frequency_penalty", "1"), ("logit_bias", {"x": 1}), ("logit_bias", {"1": 101}),
        ("logit_bias", [1]), ("logit_bias", {"1": True}), ("response_format", {"type": "xml"}),
        ("response_format", "json"), ("response_format", {"type": "json_schema"}),
        ("response_format", {"type": "json_schema", "json_schema": {"schema": {}, "more": 1}}),
        ("response_format", {"type": "json_object", "schema": {}}),
    ],
)  # fmt: skip
def test_those_that_cannot_be_used_are_refused_by_name(field: str, value: Any) -> None:
    assert refused(Api().chat("x", **{field: value}))["param"] == field


def test_tokens_there_and_back() -> None:
    api = Api()
    told = api.post("/tokenize", {"prompt": "a你"}).json()
    assert told == {"count": 2, "max_model_len": 1000, "tokens": [97, 20320], "token_strs": None}
    assert api.post("/tokenize", {"prompt": "a你", "return_token_strs": True}).json()["token_strs"] == ["a", "你"]
    assert api.post("/detokenize", {"tokens": told["tokens"]}).json() == {"prompt": "a你"}
    talk = {"messages": [{"role": "user", "content": "ab"}], "add_generation_prompt": True, "model": "fake"}
    assert api.post("/tokenize", talk).json()["tokens"] == [97, 98]


@pytest.mark.parametrize(
    "path, field, asked",
    [
        ("/tokenize", "prompt", {}),
        ("/tokenize", "prompt", {"prompt": "a", "messages": [{"role": "user", "content": "b"}]}),
        ("/tokenize", "messages", {"messages": []}),
        ("/tokenize", "tools", {"prompt": "a", "tools": [{"type": "function", "function": {"name": "f"}}]}),
        (
            "/tokenize",
            "add_special_tokens",
            {"messages": [{"role": "user", "content": "b"}], "add_special_tokens": True},
        ),
        ("/tokenize", "add_generation_prompt", {"prompt": "a", "add_generation_prompt": False}),
        ("/tokenize", "wrong", {"prompt": "a", "wrong": 1}),
        ("/detokenize", "tokens", {}),
        ("/detokenize", "tokens", {"tokens": "ab"}),
        ("/detokenize", "tokens[1]", {"tokens": [1, -1]}),
        ("/detokenize", "tokens", {"tokens": [2**30]}),
    ],
)
def test_bad_questions_about_tokens_are_refused_in_openais_shape(path: str, field: str, asked: dict[str, Any]) -> None:
    assert refused(Api().post(path, asked))["param"] == field


def test_another_model_is_not_here() -> None:
    assert refused(Api().post("/tokenize", {"prompt": "a", "model": "gpt"}), 404)["code"] == "model_not_found"
