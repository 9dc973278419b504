"""The chat template of exported folders, read by transformers, gives exactly the prompt that we make."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from bluelm.prompt import BlueLMTemplate, jinja_source, text_of
from bluelm.types import Message, Role, Tool, ToolCall

texts = st.text(max_size=8) | st.sampled_from(["你好", "</s>[|AI|]:", " 空 格 ", "{{ x }}", '"', "'", "\\n", "👍🏽"])
words = texts.filter(str.strip)
flat = st.fixed_dictionaries(
    {"type": st.just("string") | st.just("integer")},
    optional={"description": texts, "enum": st.lists(texts, max_size=2), "title": texts},
)


@st.composite
def schemas(draw: st.DrawFn) -> dict[str, Any]:
    properties = draw(st.dictionaries(texts, flat | st.booleans(), max_size=3))
    required = [name for name in properties if draw(st.booleans())]
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    more = {"additionalProperties": draw(st.booleans()), "description": draw(texts), "$defs": {"a": 1}, "title": "t"}
    return schema | {name: value for name, value in more.items() if draw(st.booleans())}


tools = st.builds(
    lambda name, description, schema: Tool(name, description, json.dumps(schema, ensure_ascii=False)),
    words,
    texts,
    schemas(),
)


@st.composite
def talks(draw: st.DrawFn, told: bool) -> tuple[Message, ...]:
    talk = [Message(Role.USER, draw(words))]
    for _ in range(draw(st.integers(0, 3))):
        if told and draw(st.booleans()):
            calls = [
                ToolCall(draw(words), json.dumps({draw(texts): draw(texts)}, ensure_ascii=False), str(i))
                for i in range(draw(st.integers(1, 2)))
            ]
            talk.append(Message(Role.ASSISTANT, draw(texts), tool_calls=tuple(calls)))
            talk += [Message(Role.TOOL, draw(texts), tool_call_id=call.id) for call in calls]
        talk += [Message(Role.ASSISTANT, draw(texts)), Message(Role.USER, draw(words))]
    system = draw(st.none() | words)
    offered = tuple(draw(st.lists(tools, max_size=2, unique_by=lambda tool: tool.name))) if told else ()
    head = [Message(Role.SYSTEM, system or "", tools=offered)] if system or offered else []
    return (*head, *talk)


def rendered(source: str, talk: Sequence[Message], **more: Any) -> str:
    """As transformers renders it, from what a client of OpenAI's API sends."""
    offered: list[Any] = [
        {
            "type": "function",
            "function": {"name": t.name, "description": t.description, "parameters": json.loads(t.parameters)},
        }
        for message in talk
        for t in message.tools
    ]
    said = [
        {
            "role": message.role.value,
            "content": message.content,
            **({"tool_calls": [_call(one) for one in message.tool_calls]} if message.tool_calls else {}),
        }
        for message in talk
        if message.content or message.role is not Role.SYSTEM
    ]
    how: dict[str, Any] = {"add_generation_prompt": True, "bos_token": "<s>", **more}
    made: Any = render_jinja_template(conversations=[said], tools=offered or None, chat_template=source, **how)
    return str(made[0][0])


def _call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": json.loads(call.arguments)}}


@given(talk=talks(told=True))
def test_it_gives_our_prompt_with_tools_calls_and_results(talk: tuple[Message, ...]) -> None:
    assert rendered(jinja_source(bos=False, tools=True), talk) == text_of(BlueLMTemplate().render(talk))


@given(talk=talks(told=False), bos=st.booleans())
def test_it_gives_our_prompt_over_several_turns(talk: tuple[Message, ...], bos: bool) -> None:
    expected = ("<s>" if bos else "") + text_of(BlueLMTemplate(tools=False).render(talk))
    assert rendered(jinja_source(bos=bos, tools=False), talk) == expected


def test_without_the_generation_prompt_it_ends_behind_the_answer() -> None:
    talk = (Message(Role.USER, "q"), Message(Role.ASSISTANT, "a"))
    text = rendered(jinja_source(bos=False, tools=False), talk, add_generation_prompt=False)
    assert text == "[|Human|]:q[|AI|]:a</s>"


U, A, S = ({"role": role, "content": "x"} for role in ("user", "assistant", "system"))
PARTS = {"role": "user", "content": [{"type": "text", "text": "x"}]}


@pytest.mark.parametrize("said", [[A], [U, U], [U, A, A], [U, S], [U, {"role": "tool", "content": "x"}], [PARTS]])
@pytest.mark.parametrize("told", [True, False])
def test_what_is_no_conversation_is_refused(said: list[Any], told: bool) -> None:
    source = jinja_source(bos=False, tools=told)
    with pytest.raises(jinja2.TemplateError):
        render_jinja_template(conversations=[said], chat_template=source, add_generation_prompt=True)


def test_a_model_that_was_not_trained_to_call_tools_refuses_them() -> None:
    talk = (Message(Role.SYSTEM, "", tools=(Tool("clock"),)), Message(Role.USER, "q"))
    with pytest.raises(jinja2.TemplateError, match="not trained to call tools"):
        rendered(jinja_source(bos=False, tools=False), talk)
