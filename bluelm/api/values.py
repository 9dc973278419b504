"""The values in requests that stand for more than one type: how they are read, and what /openapi.json tells of them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, PlainValidator, WithJsonSchema

from bluelm.api.choices import MOST
from bluelm.api.options import must, unsupported
from bluelm.sampling import MAX_LOGPROBS
from bluelm.types import TokenIds

ID_LIMIT = 2**31  # of token ids


def _stop_strings(value: Any) -> Any:
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list) or not all(isinstance(one, str) for one in strings):
        raise must("a string or a list of strings")
    return tuple(strings)


def _prompts(value: Any) -> Any:
    prompts = [value] if isinstance(value, str) or _are_ids(value) else value
    if isinstance(prompts, list) and prompts:
        if all(isinstance(one, str) for one in prompts):
            return tuple(prompts)
        if all(map(_are_ids, prompts)):
            return tuple(TokenIds(tuple(ids)) for ids in prompts)
    raise must("a string, a list of token ids, or a list of either kind alone, none of them empty")


def _are_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(id) is int and 0 <= id < ID_LIMIT for id in value)


def _choices(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and not 1 <= value <= MOST:
        raise must(f"a whole number from 1 to {MOST}")
    return value


def _biases(value: Any) -> Any:
    numbers = (int, float)
    if not isinstance(value, dict) or not all(
        id.isascii() and id.isdecimal() and len(id) <= 10 and isinstance(bias, numbers) and not isinstance(bias, bool)
        for id, bias in value.items()
    ):
        raise must("an object of token ids, each with a number from -100 to 100")
    return tuple((int(id), float(bias)) for id, bias in value.items())


def _alternatives(value: Any) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and not 0 <= value <= MAX_LOGPROBS:
        raise must(f"a whole number from 0 to {MAX_LOGPROBS}")
    return value


def _whole_text(value: Any) -> Any:
    """The text of a message; several text parts are joined by line ends."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value or not all(isinstance(part, dict) for part in value):
        raise must("a string or a list of text parts")
    for part in value:
        if part.get("type") != "text":
            raise unsupported('only text parts are understood: {"type": "text", "text": "..."}.')
        if set(part) != {"type", "text"} or not isinstance(part["text"], str):
            raise must('a string or a list of text parts {"type": "text", "text": "..."}')
    return "\n".join(part["text"] for part in value)


_STRINGS: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": ID_LIMIT - 1}, "minItems": 1}
_TEXT_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
_CONTENT: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "array", "items": _TEXT_PART}]}

Stop = Annotated[tuple[str, ...], BeforeValidator(_stop_strings), WithJsonSchema(_STRINGS)]
Prompts = Annotated[
    tuple[str, ...] | tuple[TokenIds, ...], PlainValidator(_prompts),
    WithJsonSchema({"anyOf": [*_STRINGS["anyOf"], _IDS, {"type": "array", "items": _IDS, "minItems": 1}]}),
]  # fmt: skip
Choices = Annotated[int, BeforeValidator(_choices), WithJsonSchema({"type": "integer", "minimum": 1, "maximum": MOST})]
Biases = Annotated[
    tuple[tuple[int, float], ...], BeforeValidator(_biases),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100}}),
]  # fmt: skip
Alternatives = Annotated[
    int, BeforeValidator(_alternatives), WithJsonSchema({"type": "integer", "minimum": 0, "maximum": MAX_LOGPROBS})
]
Content = Annotated[str, BeforeValidator(_whole_text), WithJsonSchema(_CONTENT)]
