"""Answers held to a JSON schema: whatever is drawn from what is allowed, the text fits the schema."""

from __future__ import annotations

import json
import random

import jsonschema
import numpy as np
import pytest

from bluelm.engine.gguf_file import GGUFFile
from bluelm.engine.guide import Guide, Guides
from bluelm.engine.opening import embedded_model
from bluelm.engine.tokenizer import from_gguf
from bluelm.errors import InvalidRequest

TOKENIZER = from_gguf(GGUFFile.open(embedded_model()).metadata)
GUIDES = Guides(TOKENIZER)
SCHEMAS = [
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string", "maxLength": 6}},
     "required": ["a", "b"], "additionalProperties": False},
    {"type": "object", "properties": {"list": {"type": "array", "items": {"enum": ["red", "好 x"]}, "maxItems": 3}},
     "required": ["list"], "additionalProperties": False},
    {"type": "object", "properties": {"x": {"anyOf": [{"type": "boolean"}, {"type": "null"}]}}, "required": ["x"],
     "additionalProperties": False},
]  # fmt: skip


def walked(guide: Guide, seed: int, most: int = 400) -> list[int]:
    """Ids drawn from what is allowed, shorter texts of a token more often; without the one that ends the answer."""
    draw = random.Random(seed)
    ids: list[int] = []
    while len(ids) < most:
        allowed = np.nonzero(guide.allowed)[0].tolist()
        assert allowed, "nothing may come next"
        ends = [id for id in allowed if id in TOKENIZER.stop_ids]
        if ends and (len(ends) == len(allowed) or draw.random() < 0.3):
            return ids
        few = draw.sample(allowed, min(len(allowed), 4))
        id = min((id for id in few if id not in ends), key=lambda id: len(TOKENIZER.piece(id)), default=None)
        if id is None:
            return ids
        ids.append(id)
        guide.take(id)
    raise AssertionError("it never ends: " + TOKENIZER.decode(ids))


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: next(iter(schema["properties"])))
def test_whatever_is_drawn_fits_the_schema(schema: dict) -> None:  # type: ignore[type-arg]
    for seed in range(12):
        ids = walked(GUIDES.start(json.dumps(schema)), seed)
        assert not TOKENIZER.special_ids & set(ids)
        jsonschema.validate(json.loads(TOKENIZER.decode(ids)), schema)


def test_an_answer_may_end_only_where_the_json_does() -> None:
    guide = GUIDES.start('{"type":"object"}')
    assert not guide.allowed[sorted(TOKENIZER.stop_ids)].any()
    for id in TOKENIZER.encode([*_plain('{"a": [1, {"b": null}]}')]):
        assert guide.allowed[id] and not guide.allowed[sorted(TOKENIZER.stop_ids)].any()
        guide.take(id)
    assert set(np.nonzero(guide.allowed)[0].tolist()) <= TOKENIZER.stop_ids


@pytest.mark.parametrize(
    "bad", [{"type": "strange"}, {"not": {"type": "string"}}, {"$ref": "http://leak.invalid/schema"}, {"$ref": "#"}]
)
def test_a_schema_that_cannot_be_held_to_is_refused_in_words(bad: dict) -> None:  # type: ignore[type-arg]
    with pytest.raises(InvalidRequest, match="JSON schema") as caught:
        GUIDES.start(json.dumps(bad))
    assert caught.value.param == "json_schema"


def _plain(text: str):  # type: ignore[no-untyped-def]
    from bluelm.prompt import plain

    return plain(text)
