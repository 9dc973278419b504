"""The model's answer is read as it comes: text that grows, whole calls, and everything else as it is."""

from __future__ import annotations

import json
import time
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bluelm.prompt import AnswerReader
from bluelm.types import ToolCall


def read(*pieces: str) -> list[str | ToolCall]:
    reader = AnswerReader()
    out = [one for piece in pieces for one in reader.feed(piece)]
    return joined([*out, *reader.close()])


def joined(out: list[str | ToolCall]) -> list[str | ToolCall]:
    whole: list[str | ToolCall] = []
    for one in out:
        if isinstance(one, str) and whole and isinstance(whole[-1], str):
            whole[-1] += one
        else:
            whole.append(one)
    return whole


CALL = '{"name": "天气", "parameters": {"city": "北京"}}'
WEATHER = ToolCall("天气", '{"city": "北京"}')


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f'{{"answer": null, "function_calls": [{CALL}]}}', [WEATHER]),
        (f'{{"answer":"","function_calls":[{CALL}]}}\n', [WEATHER]),
        (f'{{"answer": "好的", "function_calls": [{CALL}, {CALL}]}}', ["好的", WEATHER, WEATHER]),
        (f'\n {{ "function_calls" : [ {CALL} ] , "answer" : "后" }} ', [WEATHER, "后"]),
        ('{"answer": "只有回答", "function_calls": []}', ["只有回答"]),
        ('{"answer": "只有回答", "function_calls": null}', ["只有回答"]),
        ('{"answer": "只有回答", "function_calls": ""}', ["只有回答"]),
        ('{"answer": null, "function_calls": []}', []),
        ('{"answer": "a\\n\\"b\\"\\u4f60\\ud83d\\ude00\\/\\(x\\)\n"}', ['a\n"b"你😀/\\(x\\)\n']),
        ('{"answer": "\\ud83dx\\udc00\\ud83d"}', ["\ufffdx\ufffd\ufffd"]),
        ('{"function_calls": [{"name": "now", "parameters": null}]}', [ToolCall("now")]),
        ('{"function_calls": [{"name": "now"}]}', [ToolCall("now")]),
        ('{"function_calls": [{"parameters": {"a": "}\\"{"}, "name": "x"}]}', [ToolCall("x", '{"a": "}\\"{"}')]),
    ],
)
def test_the_form_is_read(text: str, told: list[str | ToolCall]) -> None:
    assert read(text) == told
    assert read(*text) == told


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n",
        "你好！",
        " {",
        "{}",
        '{"temperature": 20}',
        '{"answer": 42}',
        '{"answer": null, "reason": "x"}',
        '{"answer": null, "answer": null}',
        '{"function_calls": [{"name": 5, "parameters": {}}]}',
        '{"function_calls": [{"name": "x", "parameters": [1]}]}',
        '{"function_calls": [{"name": "x", "parameters": {"a": NaN}}]}',
        '{"function_calls": [{"name": "x", "parameters": {a}}]}',
        '{"function_calls": [{"name": "x", "more": 1}]}',
        '{"function_calls": [{"name": "\\ud800"}]}',
        '{"function_calls": ["x"]}',
        '{"function_calls": [' + CALL[:-3],
        '{"function_calls": [{"name": "x", "parameters": {"a": ' + "[" * 100_000 + "]" * 100_000 + "}}]}",
        '[{"name": "x"}]',
        '```json\n{"answer": "x"}\n```',
        '{"answer": nul',
    ],
    ids=lambda text: text[:40],
)
def test_any_other_text_comes_out_as_it_is(text: str) -> None:
    assert read(text) == ([text] if text else [])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"answer": "to be cont', ["to be cont"]),
        ('{"answer": "half \\u4f', ["half \\u4f"]),
        ('{"answer": "x", "reason": "y"}', ['x", "reason": "y"}']),
        (f'{{"function_calls": [{CALL}, {{"na', [WEATHER, ', {"na']),
        (f'{{"function_calls": [{CALL}]}} 完毕', [WEATHER, " 完毕"]),
        ('{"answer": "\\uZZ"}', ['{"answer": "\\uZZ"}']),
    ],
)
def test_a_form_that_breaks_off_loses_nothing(text: str, told: list[str | ToolCall]) -> None:
    assert read(text) == told


def test_the_answers_text_comes_as_it_grows_and_a_call_when_it_is_whole() -> None:
    reader = AnswerReader()
    pieces = ['{"ans', 'wer": "', "今天", "\\u4f", "60", "\\ud83d", "\\ude00", '", "function_calls": [', CALL[:20]]
    assert [reader.feed(piece) for piece in pieces] == [[], [], ["今天"], [], ["你"], [], ["😀"], [], []]
    assert reader.feed(CALL[20:]) == [WEATHER]
    assert reader.feed("]}") == reader.feed("\n") == reader.close() == []


def test_plain_text_is_not_held_back() -> None:
    reader = AnswerReader()
    assert reader.feed(" ") == []
    assert reader.feed("你") == [" 你"]
    assert reader.feed(' {"answer"') == [' {"answer"']


pieces = st.sampled_from(
    ['{"answer": ', '"function_calls": [', CALL, "null", '"', '"你\\n', "\\u4f60", "\\ud83d", "\\ude00", "\\", ", ",
     "]", "}", "{", ":", " ", "\n", '{"name": "x"}', "[]", "x"]
)  # fmt: skip
near = st.lists(pieces, max_size=10).map("".join)
forms = st.builds(
    lambda answer, calls, cut: json.dumps({"answer": answer, "function_calls": calls})[:cut],
    st.none() | st.text(),
    st.lists(st.fixed_dictionaries({"name": st.text(), "parameters": st.dictionaries(st.text(), st.text())})),
    st.integers(0, 300),
)


@given(near | forms | st.text(), st.lists(st.integers(0, 300), max_size=6))
@example('{"answer": "\\ud83d\\ude00"}', [14, 17])
def test_however_the_text_is_cut_the_same_comes_out(text: str, cuts: list[int]) -> None:
    ends = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    cut = [text[a:b] for a, b in pairwise(ends)]
    assert read(*cut) == read(text) == read(*text)


@given(st.text() | near.filter(lambda text: not text.lstrip().startswith("{")))
def test_text_without_the_form_is_unchanged(text: str) -> None:
    if not text.lstrip(" \t\r\n").startswith("{"):
        assert read(text) == ([text] if text else [])


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.none(), min_size=1))
def test_ordinary_json_is_unchanged(data: dict[str, object]) -> None:
    if not set(data) & {"answer", "function_calls"}:
        assert read(json.dumps(data)) == [json.dumps(data)]


@pytest.mark.parametrize("text", ['{"answer": "' + "好" * 200_000 + '"}', '{"function_calls": [{"' + "x" * 200_000])
def test_time_is_linear_in_the_text(text: str) -> None:
    begun = time.monotonic()
    read(text)
    assert time.monotonic() - begun < 3
