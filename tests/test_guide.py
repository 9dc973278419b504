"""Answers held to a JSON schema: whatever is drawn from what is allowed, the text fits the schema."""

from __future__ import annotations

import json
import random

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bluelm.engine.gguf_file import GGUFFile
from bluelm.engine.guide import Guide, Guides
from bluelm.engine.opening import embedded_model
from bluelm.engine.tokenizer import Tokenizer, from_folder, from_gguf
from bluelm.errors import InvalidRequest
from tests.synthetic import bluelm_tokenizer_folder

TOKENIZER = from_gguf(GGUFFile.open(embedded_model()).metadata)
GUIDES = Guides(TOKENIZER)


@pytest.fixture(scope="module", params=["bytes", "sentencepiece"])
def guides(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Guides:
    if request.param == "bytes":
        return GUIDES
    return Guides(from_folder(bluelm_tokenizer_folder(tmp_path_factory.mktemp("tokenizer"))))


SCHEMAS = [
    {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string", "maxLength": 6}},
     "required": ["a", "b"], "additionalProperties": False},
    {"type": "object", "properties": {"list": {"type": "array", "items": {"enum": ["red", "好 x"]}, "maxItems": 3}},
     "required": ["list"], "additionalProperties": False},
    {"type": "object", "properties": {"x": {"anyOf": [{"type": "boolean"}, {"type": "null"}]}}, "required": ["x"],
     "additionalProperties": False},
]  # fmt: skip


def walked(guide: Guide, seed: int, most: int = 400, tokenizer: Tokenizer = TOKENIZER) -> list[int]:
    """Ids drawn from what is allowed, shorter texts of a token more often; without the one that ends the answer."""
    draw = random.Random(seed)
    ids: list[int] = []
    while len(ids) < most:
        allowed = np.nonzero(guide.allowed)[0].tolist()
        assert allowed, "nothing may come next"
        ends = [id for id in allowed if id in tokenizer.stop_ids]
        if ends and (len(ends) == len(allowed) or draw.random() < 0.3):
            return ids
        few = draw.sample(allowed, min(len(allowed), 4))
        id = min((id for id in few if id not in ends), key=lambda id: len(tokenizer.piece(id)), default=None)
        if id is None:
            return ids
        ids.append(id)
        guide.take(id)
    raise AssertionError("it never ends: " + tokenizer.decode(ids))


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: next(iter(schema["properties"])))
def test_whatever_is_drawn_fits_the_schema(guides: Guides, schema: dict) -> None:  # type: ignore[type-arg]
    tokenizer = guides.tokenizer
    for seed in range(12):
        ids = walked(guides.start(json.dumps(schema)), seed, tokenizer=tokenizer)
        assert not any(tokenizer.token(id).marker for id in ids)
        jsonschema.validate(json.loads(tokenizer.decode(ids)), schema)


def test_a_marker_in_a_string_is_spelled_and_ends_nothing(guides: Guides) -> None:
    said = "[|Human|]:</s><|im_end|>"
    ids = walked(guides.start(json.dumps({"enum": [said]})), 0, tokenizer=guides.tokenizer)
    assert json.loads(guides.tokenizer.decode(ids)) == said


def test_no_answer_is_made_of_spaces(guides: Guides) -> None:
    """A value is written in one way: where spaces are allowed, a small model may add them for ever."""
    guide = guides.start('{"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]}')
    assert not any(guides.tokenizer.token(int(id)).text.isspace() for id in np.nonzero(guide.allowed)[0])


@pytest.mark.parametrize("schema", ['{"type": "objekt"}', '{"$ref": "#/nope"}', '{"not": {}}'])
def test_a_schema_that_no_answer_can_be_held_to_is_refused(guides: Guides, schema: str) -> None:
    with pytest.raises(InvalidRequest, match="No answer can be held to"):
        guides.start(schema)


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


KEYS = ("type", "properties", "required", "items", "enum", "anyOf", "oneOf", "$ref", "$defs", "pattern", "maxLength",
        "minimum", "maxItems", "format", "additionalProperties", "multipleOf", "x-guidance")  # fmt: skip
leaves = st.sampled_from(
    ["object", "array", "string", "integer", "#", "#/$defs/a", "(", "a*", "date", None, True, -1, 2**70]
)
schemas = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from([*KEYS, "a"]), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(KEYS), schemas, max_size=4), st.integers(0, 99))
@settings(max_examples=150)
def test_any_schema_is_held_to_or_refused(schema: dict, seed: int) -> None:  # type: ignore[type-arg]
    try:
        guide = GUIDES.start(json.dumps(schema))
    except InvalidRequest as error:
        assert error.param == "json_schema"
        return
    draw = random.Random(seed)
    for _ in range(8):
        id = draw.choice(np.nonzero(guide.allowed)[0].tolist())
        if id in TOKENIZER.stop_ids:
            break
        guide.take(id)
