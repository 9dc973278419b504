"""Tools over /v1: what reaches the engine, what comes back, and what is refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bluelm.api import responses
from bluelm.errors import UnsupportedOption
from bluelm.types import Chunk, FinishReason, Message, Role, Tool, ToolCall, Usage
from tests.api_kit import CHAT, Api, events, refused
from tests.fakes import FakeEngine
from tests.servers import Server, serve

SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "description": "城市"}}, "required": ["city"]}
WEATHER: Any = {"type": "function", "function": {"name": "weather", "description": "天气", "parameters": SCHEMA}}
CLOCK: Any = {"type": "function", "function": {"name": "clock"}}
USER: Any = {"role": "user", "content": "北京天气如何？"}
CALLED: Any = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "北京"}'}}
ASKED: Any = {"role": "assistant", "content": None, "tool_calls": [CALLED]}
RESULT: Any = {"role": "tool", "tool_call_id": "c1", "content": '{"result": 20}'}
FORM = ['{"answer": "我', '查一下", "function_calls": [{"name": "weather", "para', 'meters": {"city": "北京"}}, ']
FORM += ['{"name": "clock", "parameters": {}}', "]}"]


@pytest.fixture
def api() -> Api:
    return Api(FakeEngine(lambda prompt, params: FORM))


def ask(api: Api, *messages: Any, **more: Any) -> Any:
    return api.post(CHAT, {"messages": list(messages), **more})


# --- what reaches the engine ---


def test_tools_calls_and_results_reach_the_engine(api: Api) -> None:
    ask(api, {"role": "system", "content": "s"}, USER, ASKED, RESULT, tools=[WEATHER, CLOCK])
    tools = (Tool("weather", "天气", json.dumps(SCHEMA, ensure_ascii=False)), Tool("clock"))
    assert api.engine.seen[0][0] == (
        Message(Role.SYSTEM, "s", tools=tools),
        Message(Role.USER, USER["content"]),
        Message(Role.ASSISTANT, "", tool_calls=(ToolCall("weather", '{"city": "北京"}', "c1"),)),
        Message(Role.TOOL, '{"result": 20}', tool_call_id="c1"),
    )


def test_tools_need_no_system_message_of_the_client(api: Api) -> None:
    ask(api, USER, tools=[CLOCK])
    prompt, _ = api.engine.seen[0]
    assert isinstance(prompt, tuple) and prompt[0] == Message(Role.SYSTEM, "", tools=(Tool("clock"),))


@pytest.mark.parametrize("more", [{"tools": []}, {"tools": None}, {"tools": [CLOCK], "tool_choice": "none"}])
def test_tools_that_are_not_on_offer_are_not_told(api: Api, more: Any) -> None:
    told = ask(api, USER, **more).json()
    assert api.engine.seen[0][0] == (Message(Role.USER, USER["content"]),)
    assert told["choices"][0]["message"]["content"] == "".join(FORM)


def test_a_result_may_name_its_tool(api: Api) -> None:
    assert ask(api, USER, ASKED, {**RESULT, "name": "weather"}, tools=[WEATHER]).status_code == 200
    error = refused(ask(api, USER, ASKED, {**RESULT, "name": "clock"}, tools=[WEATHER]))
    assert error["param"] == "messages[2].name"


# --- what is refused ---


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "weather"}}}, "tool_choice", "invalid_parameter"),
        ({"tool_choice": {"type": "function", "function": {}}}, "tool_choice", "invalid_parameter"),
        ({"tool_choice": {"type": "allowed_tools"}}, "tool_choice", "unsupported_option"),
        ({"tool_choice": "required", "tools": []}, "tool_choice", "invalid_parameter"),
        ({"tool_choice": "sometimes"}, "tool_choice", "invalid_parameter"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls", "unsupported_option"),
        ({"functions": [{"name": "f"}]}, "functions", "unsupported_option"),
        ({"tools": "clock"}, "tools", "invalid_parameter"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type", "unsupported_option"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "invalid_request"),
        ({"tools": [CLOCK, CLOCK]}, "tools[1].function.name", "invalid_parameter"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name", "invalid_parameter"),
        ({"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]}, "tools[0].function.strict",
         "unsupported_option"),
        ({"tools": [{"type": "function", "function": {"name": "f", "x": 1}}]}, "tools[0].function.x",
         "invalid_request"),
    ],
)  # fmt: skip
def test_what_cannot_be_honoured_of_tools_is_refused_by_name(api: Api, more: Any, param: str, code: str) -> None:
    error = refused(ask(api, USER, **{"tools": [CLOCK], **more}))
    assert (error["param"], error["code"]) == (param, code)
    assert not api.engine.seen


def call(**changes: Any) -> Any:
    return {**ASKED, "tool_calls": [{**CALLED, **changes}]}


def called(arguments: Any) -> Any:
    return call(function={"name": "f", "arguments": arguments})


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([USER, {"role": "tool", "content": "hi"}], "messages[1].tool_call_id"),
        ([{**USER, "tool_call_id": "c1"}], "messages[0].tool_call_id"),
        ([{**USER, "tool_calls": [CALLED]}], "messages[0].tool_calls"),
        ([USER, {"role": "assistant", "content": None}], "messages[1].content"),
        ([USER, {**ASKED, "tool_calls": []}], "messages[1].content"),
        (
            [USER, call(function={"name": "f", "arguments": "{"}), RESULT],
            "messages[1].tool_calls[0].function.arguments",
        ),
        ([USER, call(function={"name": "f", "arguments": {}}), RESULT], "messages[1].tool_calls[0].function.arguments"),
        ([USER, call(id=""), RESULT], "messages[1].tool_calls[0].id"),
        ([USER, call(type="custom"), RESULT], "messages[1].tool_calls[0].type"),
        ([USER, RESULT], "messages[1].role"),
        ([USER, ASKED, {**RESULT, "tool_call_id": "c2"}], "messages[2].tool_call_id"),
        ([USER, ASKED], "messages[1].role"),
        ([USER, ASKED, RESULT, USER], "messages[3].role"),
    ],
)
def test_talk_of_tools_that_does_not_fit_is_refused_at_its_place(api: Api, messages: Any, param: str) -> None:
    assert refused(ask(api, *messages, tools=[WEATHER]))["param"] == param
    assert not api.engine.seen


@pytest.mark.parametrize("stream", [False, True])
def test_a_model_without_tools_refuses_them_before_anything_is_made(api: Api, stream: bool) -> None:
    api.engine.refusal = UnsupportedOption("tools", "this model was not trained to call any.")
    error = refused(ask(api, USER, tools=[CLOCK], stream=stream))
    assert (error["param"], error["code"]) == ("tools", "unsupported_option")


def test_a_schema_that_is_nested_without_end_is_refused(api: Api) -> None:
    depth = b'{"a":' * 5000 + b"{}" + b"}" * 5000
    body = json.dumps({"messages": [USER], "tools": [{**CLOCK, "function": {"name": "f", "parameters": {"x": 1}}}]})
    refused(api.post(CHAT, body.encode().replace(b'{"x": 1}', depth)))


# --- what comes back ---


def test_an_answer_that_calls_is_told_in_openais_shape(api: Api) -> None:
    told = ask(api, USER, tools=[WEATHER, CLOCK]).json()
    responses.ChatCompletion.model_validate(told, strict=True)
    (choice,) = told["choices"]
    id = told["id"].removeprefix("chatcmpl-")
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": "我查一下",
        "refusal": None,
        "tool_calls": [
            {**CALLED, "id": f"call_{id}_0"},
            {"id": f"call_{id}_1", "type": "function", "function": {"name": "clock", "arguments": "{}"}},
        ],
    }


def test_an_answer_that_only_calls_has_no_content(api: Api) -> None:
    api.engine.script = lambda prompt, params: ['{"answer": null, "function_calls": [{"name": "clock"}]}']
    message = ask(api, USER, tools=[CLOCK]).json()["choices"][0]["message"]
    assert message["content"] is None and len(message["tool_calls"]) == 1


def test_a_stream_tells_text_names_arguments_and_the_reason_in_this_order(api: Api) -> None:
    told = events(ask(api, USER, tools=[WEATHER, CLOCK], stream=True))
    assert told.pop() == "[DONE]"
    for event in told:
        responses.ChatCompletionChunk.model_validate(event, strict=True)
    id = told[0]["id"].removeprefix("chatcmpl-")
    assert [event["choices"][0]["delta"] for event in told] == [
        {"role": "assistant", "content": ""},
        {"content": "我"},
        {"content": "查一下"},
        {"tool_calls": [{"index": 0, "id": f"call_{id}_0", "type": "function",
                         "function": {"name": "weather", "arguments": ""}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"city": "北京"}'}}]},
        {"tool_calls": [{"index": 1, "id": f"call_{id}_1", "type": "function",
                         "function": {"name": "clock", "arguments": ""}}]},
        {"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]},
        {},
    ]  # fmt: skip
    assert told[-1]["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    "text", ["你好！", '{"temperature": 20}', '{"answer": nul', '{"function_calls": [{"name"', " "]
)
def test_other_text_is_plain_content_even_with_tools(api: Api, text: str) -> None:
    api.engine.script = lambda prompt, params: list(text)
    choice = ask(api, USER, tools=[CLOCK]).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (text, "stop")
    told = events(ask(api, USER, tools=[CLOCK], stream=True))
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in told[:-1]) == text


def test_calls_that_the_limit_cut_off_end_with_length(api: Api) -> None:
    def write(generation: Any, *_: Any) -> None:
        api.engine.running.pop(generation.id)
        generation.push(Chunk('{"function_calls": [{"name": "clock"}, {"na', FinishReason.LENGTH, Usage()))

    api.engine._write = write  # type: ignore
    choice = ask(api, USER, tools=[CLOCK]).json()["choices"][0]
    assert choice["finish_reason"] == "length" and len(choice["message"]["tool_calls"]) == 1
    assert events(ask(api, USER, tools=[CLOCK], stream=True))[-2]["choices"][0]["finish_reason"] == "length"


@given(st.lists(st.sampled_from([*FORM, "你", "{", '"', "\\", "]", "}"]), max_size=8))
@settings(max_examples=60)
def test_a_stream_tells_the_same_as_a_whole_answer(pieces: list[str]) -> None:
    api = Api(FakeEngine(lambda prompt, params: pieces))
    message = ask(api, USER, tools=[CLOCK]).json()["choices"][0]["message"]
    deltas = [event["choices"][0]["delta"] for event in events(ask(api, USER, tools=[CLOCK], stream=True))[:-1]]
    assert "".join(delta.get("content") or "" for delta in deltas) == (message["content"] or "")
    functions = [one["function"] for delta in deltas for one in delta.get("tool_calls", [])]
    streamed = [(a["name"], b["arguments"]) for a, b in zip(functions[::2], functions[1::2], strict=True)]
    assert streamed == [(c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls", [])]


# --- openai's own client ---


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(answer=FORM) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    server.fake(answer=FORM)
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def test_openais_client_calls_a_tool_and_sends_its_result_back(client: openai.OpenAI, server: Server) -> None:
    first = client.chat.completions.create(model="fake", messages=[USER], tools=[WEATHER, CLOCK], tool_choice="auto")
    assert first.choices[0].finish_reason == "tool_calls"
    message = first.choices[0].message
    calls: list[Any] = message.tool_calls or []
    assert [(c.function.name, json.loads(c.function.arguments)) for c in calls] == [
        ("weather", {"city": "北京"}), ("clock", {}),
    ]  # fmt: skip
    results = [{"role": "tool", "tool_call_id": c.id, "content": "20"} for c in calls]
    server.fake(answer=["北京 20 度"])
    talk: Any = [USER, message.model_dump(), *results]
    second = client.chat.completions.create(model="fake", messages=talk, tools=[WEATHER, CLOCK])
    assert (second.choices[0].message.content, second.choices[0].finish_reason) == ("北京 20 度", "stop")


def test_openais_client_puts_streamed_calls_together(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="fake", messages=[USER], tools=[WEATHER, CLOCK]) as stream:
        kinds = [event.type for event in stream]
        whole = stream.get_final_completion().choices[0]
    assert "content.delta" in kinds and "tool_calls.function.arguments.done" in kinds
    assert whole.message.content == "我查一下" and whole.finish_reason == "tool_calls"
    assert [(c.function.name, c.function.arguments) for c in whole.message.tool_calls or []] == [
        ("weather", '{"city": "北京"}'), ("clock", "{}"),
    ]  # fmt: skip


def test_openais_client_is_told_what_cannot_be_kept(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="parallel_tool_calls is not supported here"):
        client.chat.completions.create(model="fake", messages=[USER], tools=[CLOCK], parallel_tool_calls=False)
