"""The exported tokenizer.json gives the ids of the original SentencePiece code, in plain transformers."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import tokenizers
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from bluelm.engine.tokenizer import from_folder
from bluelm.errors import CheckpointError
from bluelm.export.fast import tokenizer_json
from bluelm.export.tokenizer import write_tokenizer
from bluelm.prompt import BlueLMTemplate, plain, text_of
from bluelm.types import Message
from tests.synthetic import MARKERS, bluelm_tokenizer_folder, sentencepiece_model
from tests.test_tokenizer_sentencepiece import CUTS, VARIANTS, Twin, conversations, hostile, ordinary

WRITABLE = {
    "llama": {},
    "no_prefix": VARIANTS["no_prefix"],
    "nfkc": VARIANTS["nfkc"],
    "no_bytes": {"byte_fallback": False},
}
runs = st.builds(lambda text, times: text * times, st.sampled_from([*" -=a哈", "ab", "哈a"]), st.integers(1, 40))
pieces = st.sampled_from(["<0x41>", "<0xE4>", *MARKERS, "\u2581", "\x85", "2024年", "👨‍👩‍👧"])
PARTS_OF_LETTERS = {"Mn", "Mc", "Me", "Sk", "Cf"}  # normalised a cluster at a time by the tokenizers library


class Both:
    """The original (driven as the slow class drives it) and what was exported, read by plain transformers."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        VARIANTS.setdefault(name, WRITABLE[name])
        self.original = Twin(folder, name)
        source, self.folder = folder / name, folder / "exported"
        self.folder.mkdir()
        write_tokenizer(source, self.folder, self.original.ours, bluelm=True, context=2048)
        self.theirs: Any = AutoTokenizer.from_pretrained(self.folder)
        self.ours = from_folder(self.folder)

    def takes(self, text: str) -> bool:
        """Not so for the few texts that are normalised in another way, see bluelm/export/fast.py."""
        return self.name != "nfkc" or not any(unicodedata.category(letter) in PARTS_OF_LETTERS for letter in text)


@pytest.fixture(scope="module", params=WRITABLE)
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(tmp_path_factory.mktemp("exported"), request.param)


@given(texts=st.lists(ordinary | hostile | runs | pieces, max_size=6))
def test_a_text_has_the_original_ids(both: Both, texts: list[str]) -> None:
    text = "".join(texts)
    assume(both.takes(text))
    assert both.theirs(text).input_ids == both.original.original(text)


@given(messages=conversations(ordinary | runs))
def test_a_chat_has_the_ids_that_we_make(both: Both, messages: list[Message]) -> None:
    parts = BlueLMTemplate().render(messages)
    assume(both.takes(text_of(parts)))
    assume(both.original.markers_in(text_of(parts)) == sum(part.trusted for part in parts))
    said = [{"role": message.role.value, "content": message.content} for message in messages]
    given = both.theirs.apply_chat_template(said, add_generation_prompt=True)
    assert given["input_ids"] == both.original.ours.encode(parts) == both.ours.encode(parts)


@given(messages=conversations(hostile | pieces))
def test_our_engine_keeps_a_users_text_from_becoming_markers(both: Both, messages: list[Message]) -> None:
    parts = BlueLMTemplate().render(messages)
    assume(both.takes(text_of(parts)))
    assert both.ours.encode(parts) == both.original.ours.encode(parts)


@given(text=ordinary)
def test_decoding_gives_the_text_back(both: Both, text: str) -> None:
    library = both.original.library
    ids = [id for id in library.encode(text) if id != library.unk_id()]
    assert both.theirs.decode(ids) == library.decode(ids)


def test_the_facts_of_the_exported(both: Both) -> None:
    before, after = both.original.ours, both.ours
    for name in ("size", "bos_id", "eos_ids", "stop_ids", "special_ids"):
        assert getattr(before, name) == getattr(after, name)
    assert [after.piece(id) for id in range(after.size)] == [before.piece(id) for id in range(before.size)]
    theirs = both.theirs
    assert [theirs.bos_token_id, theirs.eos_token_id, theirs.unk_token_id, theirs.pad_token_id] == [1, 2, 0, 3]
    for marker in MARKERS:
        assert theirs.convert_tokens_to_ids(marker) == both.original.marker_ids[marker]
    assert (both.folder / "tokenizer.model").exists()  # for llama.cpp's converter


@given(texts=st.lists(ordinary | runs | pieces, max_size=6))
def test_a_model_without_markers_has_the_original_ids(bare: tuple[Any, Any], texts: list[str]) -> None:
    library, fast = bare
    text = CUTS.sub("", "".join(texts))
    assert fast.encode(text).ids == library.encode(text)


@pytest.fixture(scope="module", params=[True, False])
def bare(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    model = sentencepiece_model(user_defined_symbols="", add_dummy_prefix=request.param)
    fast = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(model, {}, None)))
    return sentencepiece.SentencePieceProcessor(model_proto=model), fast


def exported(source: Path, target: Path) -> None:
    target.mkdir()
    write_tokenizer(source, target, from_folder(source), bluelm=True, context=2048)


@pytest.mark.parametrize("name", ["unigram", "suffix"])
def test_what_a_tokenizer_json_cannot_say_is_refused(tmp_path: Path, name: str) -> None:
    source = bluelm_tokenizer_folder(tmp_path / "source", sentencepiece_model(**VARIANTS[name]))
    with pytest.raises(CheckpointError, match="cannot be written as a tokenizer"):
        exported(source, tmp_path / "llama")


@pytest.mark.parametrize("more", [{"add_bos_token": False}, {"added": {"[|Tool|]:": 903}}])
def test_what_the_folder_says_of_its_tokens_is_kept(tmp_path: Path, more: dict[str, Any]) -> None:
    added = more.pop("added", {})
    source = bluelm_tokenizer_folder(tmp_path / "source", **more)
    (source / "added_tokens.json").write_text(json.dumps(added))
    exported(source, tmp_path / "llama")
    theirs: Any = AutoTokenizer.from_pretrained(tmp_path / "llama")
    ids = theirs("你好 [|Tool|]: x</s>[|Human|]:y").input_ids
    assert (ids[0] == 1) is ("add_bos_token" not in more) and (903 in ids) is bool(added)
    told = theirs.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
    assert told.startswith("<s>") is ("add_bos_token" not in more)
    assert not CUTS.search(theirs.decode(theirs("你好").input_ids, skip_special_tokens=True))
    assert from_folder(tmp_path / "llama").encode(plain("x")) == from_folder(source).encode(plain("x"))
