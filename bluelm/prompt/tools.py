"""Tools in BlueLM's training format: how they are told to it, and how its own calls are written.

Source: vivo's demo code for Chat-32K. Whatever tools say of themselves is text of others, never trusted.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from bluelm.errors import InvalidParameter
from bluelm.prompt.parts import Part
from bluelm.types import Message, Tool

BEFORE = "你是一个AI助手，尽你所能回答用户的问题，你可以使用的工具如下:\n<APIs>\n"
AFTER = (
    "</APIs>\n你需要根据用户问题，选择合适的工具，输出的格式为：\n"
    '{"answer":"给用户的回复","function_calls":[{"name":"函数名","parameters":{"参数名":"参数"}}]}\n'
    "如果不需要额外回复或者没有合适工具，则对应字段输出空。\n"
)
SAID = {"type", "properties", "required", "additionalProperties", "title", "$schema"}


def written_tools(tools: Sequence[Tool]) -> Iterator[Part]:
    """The system text that tells the model what it may call, and how. Raises InvalidParameter."""
    yield Part(BEFORE, True)
    for tool in tools:
        try:
            told = str(_told(tool))
        except RecursionError:
            raise InvalidParameter("tools", tool.name, "described by a schema that is nested less deeply") from None
        yield Part("- ", True)
        yield Part(told, False)
        yield Part("\n", True)
    yield Part(AFTER, True)


def _told(tool: Tool) -> dict[str, Any]:
    schema = json.loads(tool.parameters)
    if schema.get("description") == tool.description:
        del schema["description"]
    parameters = _list(schema) if _is_flat(schema) else schema
    return {"name": tool.name, "description": tool.description, "parameters": parameters}


def _is_flat(schema: dict[str, Any]) -> bool:
    """Whether a schema says no more than BlueLM's list of parameters can; one that does is stated as it is."""
    properties, required = schema.get("properties", {}), schema.get("required", [])
    return (
        set(schema) <= SAID
        and schema.get("type", "object") == "object"
        and isinstance(properties, dict)
        and isinstance(required, list)
        and all(isinstance(name, str) and name in properties for name in required)
        and any(schema.get("additionalProperties", False) is said for said in (False, bool(properties)))
    )


def _list(schema: dict[str, Any]) -> list[dict[str, str]]:
    """Each property with a text for a flag, as in the demo code."""
    required = schema.get("required", [])
    return [
        {"name": name, "description": _description(told), "required": str(name in required)}
        for name, told in schema.get("properties", {}).items()
    ]


def _description(told: Any) -> str:
    """What a property says of itself: in words, and behind them whatever more its schema says than "a string"."""
    if not isinstance(told, dict):
        return "" if told is True else json.dumps(told, ensure_ascii=False)
    words = told.get("description", "")
    more = {key: value for key, value in told.items() if key not in ("description", "title")}
    if not isinstance(words, str) or not more or more == {"type": "string"}:
        return words if isinstance(words, str) else json.dumps(told, ensure_ascii=False)
    return f"{words} {json.dumps(more, ensure_ascii=False)}".strip()


def written_calls(message: Message) -> str:
    """An assistant message that called tools, as the model itself would have written it."""
    calls = ", ".join(
        f'{{"name": {json.dumps(call.name, ensure_ascii=False)}, "parameters": {call.arguments}}}'
        for call in message.tool_calls
    )
    answer = json.dumps(message.content or None, ensure_ascii=False)
    return f'{{"answer": {answer}, "function_calls": [{calls}]}}'
