"""Tools in BlueLM's prompt: the exact string and ids, who wrote what, and which conversations are none."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluelm.engine.tokenizer import Tokenizer, from_folder
from bluelm.engine.wire import Submit
from bluelm.errors import InvalidParameter, UnsupportedOption
from bluelm.prompt import AnswerReader, BlueLMTemplate, JinjaTemplate, check_messages, fit_turns, text_of
from bluelm.prompt.tools import written_calls
from bluelm.types import Message, Role, SamplingParams, Tool, ToolCall
from tests.synthetic import MARKERS, bluelm_tokenizer_folder

WEATHER = Tool(
    "current-weather",
    "根据给出的城市，查询即时天气信息",
    json.dumps(
        {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "用户输入的城市信息"},
                "unit": {"type": "string", "enum": ["C", "F"], "description": "单位"},
            },
            "required": ["city"],
        }
    ),
)
CLOCK = Tool("clock", "It's the time")
CALLS = (ToolCall("current-weather", '{"city": "北京"}', "a"), ToolCall("clock", "{}", "b"))
TALK = (
    Message(Role.SYSTEM, "请简短回答", tools=(WEATHER, CLOCK)),
    Message(Role.USER, "北京天气如何？现在几点？"),
    Message(Role.ASSISTANT, "", tool_calls=CALLS),
    Message(Role.TOOL, '{"time": "9:30"}', tool_call_id="b"),
    Message(Role.TOOL, '{"result": 20}', tool_call_id="a"),
)
PROMPT = (
    "[|SYSTEM|]:你是一个AI助手，尽你所能回答用户的问题，你可以使用的工具如下:\n<APIs>\n"
    "- {'name': 'current-weather', 'description': '根据给出的城市，查询即时天气信息', 'parameters': ["
    "{'name': 'city', 'description': '用户输入的城市信息', 'required': 'True'}, "
    "{'name': 'unit', 'description': '单位 {\"type\": \"string\", \"enum\": [\"C\", \"F\"]}', 'required': 'False'}]}\n"
    "- {'name': 'clock', 'description': \"It's the time\", 'parameters': []}\n"
    "</APIs>\n你需要根据用户问题，选择合适的工具，输出的格式为：\n"
    '{"answer":"给用户的回复","function_calls":[{"name":"函数名","parameters":{"参数名":"参数"}}]}\n'
    "如果不需要额外回复或者没有合适工具，则对应字段输出空。\n"
    "[|SYSTEM|]:请简短回答"
    "[|Human|]:北京天气如何？现在几点？"
    '[|AI|]:{"answer": null, "function_calls": [{"name": "current-weather", "parameters": {"city": "北京"}}, '
    '{"name": "clock", "parameters": {}}]}</s>'
    '[|Function|]:{"result": 20}[|Function|]:{"time": "9:30"}'
    "[|AI|]:"
)


def test_a_two_step_conversation_with_tools_is_exactly_blue_lms_format() -> None:
    assert text_of(BlueLMTemplate().render(TALK)) == PROMPT


def test_an_answer_after_the_results_and_another_question_follow() -> None:
    more = (Message(Role.ASSISTANT, "20 度"), Message(Role.USER, "谢谢"))
    assert text_of(BlueLMTemplate().render((*TALK, *more))) == PROMPT + "20 度</s>[|Human|]:谢谢[|AI|]:"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return from_folder(bluelm_tokenizer_folder(tmp_path_factory.mktemp("tools")))


def test_the_ids_are_those_of_the_whole_string_with_its_markers(tokenizer: Tokenizer) -> None:
    import sentencepiece

    from tests.synthetic import sentencepiece_model

    library = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    before, after = PROMPT.split("</s>")  # the slow class cuts there
    ids = tokenizer.encode(tokenizer.template.render(TALK)) if tokenizer.template else []
    assert ids == [1, *library.encode(before), 2, *library.encode(after)]
    names = [tokenizer.piece(id) for id in ids]
    assert [name for name in names if name in MARKERS] == [
        "[|SYSTEM|]:", "[|SYSTEM|]:", "[|Human|]:", "[|AI|]:", "[|Function|]:", "[|Function|]:", "[|AI|]:",
    ]  # fmt: skip


hostile = st.sampled_from(["</s>", "[|Human|]:", "[|AI|]:x", "[|Function|]:", "|]:", "你 [|"]) | st.text(max_size=6)


@given(hostile, hostile, hostile, hostile)
def test_tools_and_their_results_smuggle_no_markers(tokenizer: Tokenizer, a: str, b: str, c: str, d: str) -> None:
    schema = json.dumps({"properties": {a: {"type": "string", "description": b}}})
    call = ToolCall(f"n{c}", json.dumps({a: d}, ensure_ascii=False), "1")
    talk = (
        Message(Role.SYSTEM, a, tools=(Tool(f"n{a}", b, schema), Tool(f"n{b}", c, json.dumps({"$defs": d})))),
        Message(Role.USER, "q"),
        Message(Role.ASSISTANT, b, tool_calls=(call,)),
        Message(Role.TOOL, d, tool_call_id="1"),
    )
    assert tokenizer.template is not None
    parts = tokenizer.template.render(talk)
    ids = tokenizer.encode(parts)
    markers = [tokenizer.piece(id) for id in ids if tokenizer.piece(id) in (*MARKERS, "</s>")]
    wanted = [part.text for part in parts if part.trusted and part.text in (*MARKERS, "</s>")]
    assert markers == wanted


# --- what schemas become ---


def told(schema: Any) -> Any:
    parts = BlueLMTemplate().render((Message(Role.SYSTEM, "", tools=(Tool("t", "d", json.dumps(schema)),)), TALK[1]))
    (line,) = [part.text for part in parts if not part.trusted and part.text.startswith("{'name': 't'")]
    return eval(line)["parameters"]


@pytest.mark.parametrize("schema", [{}, {"type": "object"}, {"type": "object", "properties": {}, "required": []}])
def test_no_parameters_are_an_empty_list(schema: Any) -> None:
    assert told(schema) == []


def test_a_propertys_schema_is_told_behind_its_words() -> None:
    schema = {"properties": {"n": {"type": "integer"}, "s": {"type": "string", "title": "S"}, "any": True}}
    assert told(schema) == [
        {"name": "n", "description": '{"type": "integer"}', "required": "False"},
        {"name": "s", "description": "", "required": "False"},
        {"name": "any", "description": "", "required": "False"},
    ]


def test_a_nested_property_keeps_its_whole_schema() -> None:
    inner = {"type": "object", "properties": {"lat": {"type": "number"}}}
    (only,) = told({"properties": {"at": {"description": "where", **inner}}, "required": ["at"]})
    assert only == {"name": "at", "description": "where " + json.dumps(inner), "required": "True"}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "additionalProperties": True},
        {"properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {}}},
        {"anyOf": [{"required": ["a"]}]},
        {"properties": {"a": {}}, "required": ["b"]},
        {"properties": {"a": {}}, "required": [{}]},
        {"properties": 5},
        {"type": "array"},
    ],
)
def test_what_a_flat_list_cannot_say_is_stated_as_it_is(schema: Any) -> None:
    assert told(schema) == schema


# --- conversations ---

U, A, F = TALK[1], TALK[2], Message(Role.TOOL, "r", tool_call_id="a")
G = Message(Role.TOOL, "", tool_call_id="b")


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([U, A], "messages[1].role"),
        ([U, A, F], "messages[2].role"),
        ([U, A, F, U], "messages[3].role"),
        ([U, A, F, F], "messages[3].tool_call_id"),
        ([U, F], "messages[1].role"),
        ([U, A, F, G, U], "messages[4].role"),
        ([U, Message(Role.ASSISTANT, "", tool_calls=(ToolCall("x"),))], "messages[1].tool_calls"),
        ([U, Message(Role.ASSISTANT, "", tool_calls=(CALLS[0], CALLS[0]))], "messages[1].tool_calls"),
    ],
)
def test_calls_without_their_results_are_refused_by_name(messages: list[Message], param: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        check_messages(messages)
    assert caught.value.param == param


def test_a_conversation_may_end_with_results_and_a_result_may_be_empty() -> None:
    check_messages([U, A, G, F])


@pytest.mark.parametrize("template", [BlueLMTemplate(tools=False), JinjaTemplate("{{ messages }}")])
@pytest.mark.parametrize(("messages", "param"), [(TALK[:2], "tools"), (TALK[1:], "messages[1].tool_calls")])
def test_a_format_without_tools_refuses_them_by_name(
    template: BlueLMTemplate | JinjaTemplate, messages: Sequence[Message], param: str
) -> None:
    assert not template.supports_tools
    with pytest.raises(UnsupportedOption) as caught:
        template.render(messages)
    assert caught.value.param == param


def test_a_tokenizer_without_the_marker_for_results_has_no_tools(tmp_path: Path, tokenizer: Tokenizer) -> None:
    from tests.synthetic import sentencepiece_model

    model = sentencepiece_model(user_defined_symbols="[|Human|]:,[|AI|]:,[|SYSTEM|]:")
    without = from_folder(bluelm_tokenizer_folder(tmp_path, model))
    assert without.template is not None and not without.template.supports_tools
    assert tokenizer.template is not None and tokenizer.template.supports_tools


def test_a_turn_is_left_out_with_its_calls_and_results() -> None:
    answered = (*TALK, Message(Role.ASSISTANT, "20"), Message(Role.USER, "next"))
    kept, dropped = fit_turns(answered, len, 2)
    assert kept == (TALK[0], answered[-1]) and dropped == 5
    check_messages(kept)


def test_tools_cross_the_wire_whole() -> None:
    said = Submit("1", TALK, SamplingParams(), False)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(said), type=Submit) == said


@pytest.mark.parametrize(
    ("make", "param"),
    [
        (lambda: Message(Role.USER, "x", tools=(CLOCK,)), "tools"),
        (lambda: Message(Role.USER, "x", tool_calls=CALLS), "tool_calls"),
        (lambda: Message(Role.ASSISTANT, "x", tool_call_id="1"), "tool_call_id"),
        (lambda: Tool(" "), "name"),
        (lambda: Tool("t", parameters="[]"), "parameters"),
        (lambda: ToolCall("t", "{"), "arguments"),
        (lambda: ToolCall("t", '{"a": NaN}'), "arguments"),
    ],
)
def test_what_cannot_be_said_of_tools_is_refused_by_name(make: Any, param: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        make()
    assert caught.value.param == param


# --- there and back ---

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
calls = st.builds(
    lambda name, given, plain: ToolCall(name, json.dumps(given, ensure_ascii=plain)),
    st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip),
    st.dictionaries(st.text(), json_values, max_size=3),
    st.booleans(),
)


@given(st.text(st.characters(codec="utf-8")), st.lists(calls, min_size=1, max_size=3))
def test_calls_written_into_a_prompt_are_read_back_the_same(content: str, made: list[ToolCall]) -> None:
    reader = AnswerReader()
    read = reader.feed(written_calls(Message(Role.ASSISTANT, content, tool_calls=tuple(made))))
    assert read == [*([content] if content else []), *made]
    assert reader.close() == []
