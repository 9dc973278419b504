"""The form that an answer is to have: response_format and tool_choice, as the JSON schemas that they stand for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from bluelm.api.options import must, unsupported
from bluelm.errors import InvalidParameter
from bluelm.types import Tool

_NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}
_FORMATS: dict[str, Any] = {
    "anyOf": [
        {
            "type": "object", "required": ["type"],
            "properties": {"type": {"enum": ["text", "json_object"]}}, "additionalProperties": False,
        },
        {
            "type": "object", "required": ["type", "json_schema"],
            "properties": {
                "type": {"const": "json_schema"},
                "json_schema": {
                    "type": "object", "required": ["schema"], "additionalProperties": False,
                    "properties": {
                        "name": {"type": "string"}, "description": {"type": "string"}, "schema": {"type": "object"},
                        "strict": {"type": "boolean"},
                    },
                },
            },
            "additionalProperties": False,
        },
    ]
}  # fmt: skip


def _schema(value: Any) -> Any:
    """The JSON schema that a response format stands for, as text; "" for plain text."""
    kind = value.get("type") if isinstance(value, dict) else None
    if kind in ("text", "json_object") and set(value) == {"type"}:
        return "" if kind == "text" else '{"type":"object"}'
    asked = value.get("json_schema") if kind == "json_schema" and set(value) == {"type", "json_schema"} else None
    if not isinstance(asked, dict) or not isinstance(asked.get("schema"), dict):
        raise must(
            '{"type": "text"}, {"type": "json_object"} or {"type": "json_schema", "json_schema": {"schema": ...}}'
        )
    if unknown := set(asked) - {"name", "description", "schema", "strict"}:
        raise unsupported(f"a JSON schema comes with name, description and strict alone, not with {min(unknown)!r}.")
    return json.dumps(asked["schema"], ensure_ascii=False, separators=(",", ":"))


Schema = Annotated[str, BeforeValidator(_schema), WithJsonSchema(_FORMATS)]


def forced_calls(tools: Sequence[Tool], *, many: bool) -> str:
    """The schema of an answer in BlueLM's form that only calls: one of these tools, or several (`many`)."""
    told: dict[str, Any] = {}
    calls = []
    for i, tool in enumerate(tools):
        told[str(i)] = _moved(_parameters(tool), f"#/$defs/{i}")
        calls.append(_object(name={"const": tool.name}, parameters={"$ref": f"#/$defs/{i}"}))
    most = {} if many else {"maxItems": 1}
    listed = {"type": "array", "items": {"anyOf": calls}, "minItems": 1, **most}
    return _text(_object(answer={"type": "null"}, function_calls=listed) | {"$defs": told}, "tools")


def _object(**properties: Any) -> dict[str, Any]:
    named = {"properties": properties, "required": list(properties)}
    return {"type": "object", **named, "additionalProperties": False}


def _parameters(tool: Tool) -> dict[str, Any]:
    schema = json.loads(tool.parameters) or _NO_PARAMETERS
    return schema if "$ref" in schema else {"type": "object", **schema}


def _moved(schema: Any, place: str) -> Any:
    """A schema whose references still lead where they led, now that it stands at `place` of another."""
    if isinstance(schema, list):
        return [_moved(one, place) for one in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {name: _moved(one, place) for name, one in schema.items()}
    if isinstance(reference := schema.get("$ref"), str) and reference.startswith("#"):
        moved["$ref"] = place + reference[1:]
    return moved


def _text(schema: dict[str, Any], param: str) -> str:
    try:
        return json.dumps(schema, ensure_ascii=False)
    except RecursionError:
        raise InvalidParameter(param, "{...}", "a schema that is nested less deeply") from None
