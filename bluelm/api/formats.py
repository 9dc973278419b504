"""The form that an answer is to have: OpenAI's response_format, as the JSON schema that it stands for."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from bluelm.api.options import must, unsupported

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
