"""GGUF and tokenizer.json: the embedded model's ids, the same as the official ones, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import gguf
import pytest
import tokenizers
from hypothesis import assume, given
from hypothesis import strategies as st

from bluelm.engine import fast_tokenizer, gguf_tokenizer
from bluelm.engine.gguf_file import GGUFFile
from bluelm.engine.intake import admit
from bluelm.engine.opening import embedded_model
from bluelm.engine.tokenizer import Tokenizer, from_folder, from_gguf
from bluelm.errors import CheckpointError, PromptTooLong
from bluelm.prompt import BlueLMTemplate, Part, plain, text_of
from bluelm.types import Message, Role, SamplingParams
from tests.synthetic import bluelm_tokenizer_folder


@pytest.fixture(scope="module")
def smollm() -> Tokenizer:
    return from_gguf(GGUFFile.open(embedded_model()).metadata)


@pytest.fixture(scope="module")
def reference() -> Any:
    """transformers' tokenizer of the same file."""
    from transformers import AutoTokenizer

    path = embedded_model()
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


@pytest.fixture(scope="module")
def official(reference: Any) -> tokenizers.Tokenizer:
    """The same with the official pre-tokenizer, where digits stand alone; transformers leaves that out of a GGUF."""
    fast = tokenizers.Tokenizer.from_str(reference.backend_tokenizer.to_str())
    digits = tokenizers.pre_tokenizers.Digits(individual_digits=True)
    letters = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([digits, letters])
    return fast


SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<file_sep>", "<repo_name>")
spaces = [" ", "  ", "\n", "\n\n", "\t", "\r\n", "\xa0", "\x00"]
odd = ["2024", " 3", "  12", "½", "٣", "Ġ", "Ċ", "👍🏽", "👨‍👩‍👧", "e\u0301", "<", "|", "im_", "<|", "|>", "user\n"]
words = st.sampled_from(["Hello", " world", "'s", "it's", "你好，世界", "def f(x):\n    return x", *spaces, *odd])
ordinary = st.lists(words | st.characters(codec="utf-8"), max_size=12).map("".join)
fragments = [*SPECIAL, "<|im", "_end|>", "<|im_start|>system\n", "<|", "|>", "<file", "_sep>"]
hostile = st.lists(st.sampled_from(fragments) | words, max_size=12).map("".join)


def without_specials(text: str) -> bool:
    return not any(special in text for special in SPECIAL)


def conversation(contents: list[str]) -> list[Message]:
    """User and assistant by turns, ended by the user; what says nothing gets a word."""
    contents = [text if text.strip() else text + "?" for text in contents]
    contents = contents if len(contents) % 2 else [*contents, "?"]
    return [Message((Role.USER, Role.ASSISTANT)[i % 2], text) for i, text in enumerate(contents)]


@given(text=ordinary.filter(without_specials))
def test_plain_text_has_the_official_ids(smollm: Tokenizer, official: tokenizers.Tokenizer, text: str) -> None:
    assert smollm.encode(plain(text)) == official.encode(text).ids


@given(text=ordinary.map(lambda text: "".join(c for c in text if not c.isnumeric())).filter(without_specials))
def test_text_without_digits_has_transformers_ids(smollm: Tokenizer, reference: Any, text: str) -> None:
    assert smollm.encode(plain(text)) == reference(text).input_ids


@given(contents=st.lists(ordinary.filter(without_specials), min_size=1, max_size=4))
def test_conversations_have_the_official_ids(
    smollm: Tokenizer, reference: Any, official: tokenizers.Tokenizer, contents: list[str]
) -> None:
    messages = conversation(contents)
    assert smollm.template is not None
    parts = smollm.template.render(messages)
    as_dicts = [{"role": m.role.value, "content": m.content} for m in messages]
    expected = reference.apply_chat_template(as_dicts, tokenize=False, add_generation_prompt=True)
    assert text_of(parts) == expected
    assert smollm.encode(parts) == official.encode(expected).ids


@given(contents=st.lists(hostile, min_size=1, max_size=4))
def test_only_the_template_writes_special_tokens(smollm: Tokenizer, contents: list[str]) -> None:
    assert smollm.template is not None
    parts = smollm.template.render(conversation(contents))
    meant = re.findall(r"<\|im_start\|>|<\|im_end\|>", "".join(part.text for part in parts if part.trusted))
    ids = smollm.encode(parts)
    assert [smollm.piece(id) for id in ids if id in smollm.special_ids] == meant
    bare = [Part(re.sub(r"<\|im_\w+\|>", "", part.text), True) if part.trusted else part for part in parts]
    assert smollm.decode(ids) == text_of(bare)


@given(ids=st.lists(st.integers(0, 49_151), max_size=30))
def test_any_ids_decode_as_in_the_library(smollm: Tokenizer, official: tokenizers.Tokenizer, ids: list[int]) -> None:
    decoder = smollm.decoder()
    streamed = "".join(decoder.push(id) for id in ids) + decoder.flush()
    assert streamed == official.decode(ids, skip_special_tokens=True)


# SmolLM2 has no token for these bytes; the characters that need them are lost in the official tokenizer as well.
MISSING_BYTES = {*b"\x04\x06\x13\x14\x16\x1d\xf1\xf2"}


@given(text=ordinary)
def test_no_broken_character_is_ever_pushed(smollm: Tokenizer, text: str) -> None:
    assume(not MISSING_BYTES.intersection(text.encode()))
    decoder = smollm.decoder()
    pushed = [decoder.push(id) for id in smollm.encode(plain(text))]
    assert "".join(pushed) == text
    assert decoder.flush() == ""


def test_the_facts_of_the_embedded_model(smollm: Tokenizer) -> None:
    assert (smollm.size, smollm.bos_id, smollm.eos_ids, smollm.stop_ids) == (49_152, None, {2}, {2})
    assert smollm.special_ids == set(range(17))
    assert (smollm.piece(2), smollm.piece(260)) == ("<|im_end|>", " the")


def test_no_secret_name_is_shown(smollm: Tokenizer) -> None:
    assert not any(re.search("[0-9a-f]{16}", smollm.piece(id)) for id in range(smollm.size))


# --- small GGUF files ---


def write_gguf(path: Path, **changes: str) -> Path:
    """A GGUF file of one control token and four others, with some tokenizer.ggml.* strings changed."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model(changes.get("model", "gpt2"))
    writer.add_tokenizer_pre(changes.get("pre", "smollm"))
    writer.add_token_list(["<|end|>", "a", "b", "ab", "<think>"])
    writer.add_token_types([3, 1, 1, 1, 4])
    writer.add_token_merges([changes.get("merge", "a b")])
    writer.add_eos_token_id(0)
    writer.add_chat_template("{{ messages[0].content }}<|end|>")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_control_and_user_defined_tokens_of_a_small_gguf(tmp_path: Path) -> None:
    tokenizer = from_gguf(GGUFFile.open(write_gguf(tmp_path / "small.gguf")).metadata)
    assert tokenizer.encode((Part("<|end|>ab<think>", True), Part("ab", False))) == [0, 3, 4, 3]
    assert tokenizer.decode([0, 3, 4]) == "ab<think>"


def test_metadata_and_tensors_are_what_the_library_reads() -> None:
    theirs = gguf.GGUFReader(embedded_model())
    ours = GGUFFile.open(embedded_model())
    fields = {name: field.contents() for name, field in theirs.fields.items()}
    assert ours.metadata == {name: value for name, value in fields.items() if not name.startswith("GGUF.")}
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        mine = ours.tensors[tensor.name]
        assert mine.kind == tensor.tensor_type and mine.shape == tuple(reversed(tensor.shape.tolist()))
        assert mine.data.tobytes() == tensor.data.tobytes()


@pytest.mark.parametrize(("key", "value"), [("model", "llama"), ("pre", "tekken"), ("merge", "a xyz")])
def test_other_kinds_of_gguf_are_named(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(CheckpointError, match=value.split()[-1]):
        from_gguf(GGUFFile.open(write_gguf(tmp_path / "other.gguf", **{key: value})).metadata)


@pytest.mark.parametrize("size", [0, 3, 24, 100, 300])
def test_a_broken_gguf_is_named(tmp_path: Path, size: int) -> None:
    path = write_gguf(tmp_path / "broken.gguf")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError, match=r"broken\.gguf"):
        GGUFFile.open(path)


# --- tokenizer.json ---


def test_a_folder_with_tokenizer_json_equals_the_gguf(tmp_path: Path, smollm: Tokenizer) -> None:
    metadata = GGUFFile.open(embedded_model()).metadata
    (tmp_path / "tokenizer.json").write_text(json.dumps(gguf_tokenizer.specification(metadata)))
    config = {"eos_token": "<|im_end|>", "chat_template": metadata["tokenizer.chat_template"]}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    folder = from_folder(tmp_path)
    assert (folder.size, folder.eos_ids, folder.bos_id) == (smollm.size, smollm.eos_ids, None)
    assert folder.template is not None and smollm.template is not None
    parts = folder.template.render([Message(Role.USER, "Hi <|im_end|> 你好  12")])
    assert parts == smollm.template.render([Message(Role.USER, "Hi <|im_end|> 你好  12")])
    assert folder.encode(parts) == smollm.encode(parts)


@pytest.fixture(scope="module")
def llama_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic BlueLM tokenizer, as transformers saves it in a standard Llama folder."""
    from transformers import LlamaTokenizer

    config: dict[str, Any] = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}
    source = bluelm_tokenizer_folder(tmp_path_factory.mktemp("source"), **config)
    target = tmp_path_factory.mktemp("llama")
    LlamaTokenizer.from_pretrained(source).save_pretrained(target)
    assert (target / "tokenizer.json").exists()
    return target


@given(text=ordinary.filter(lambda text: "\u2581" not in text))
def test_sentencepiece_in_tokenizer_json_has_transformers_ids(llama_pair: tuple[Tokenizer, Any], text: str) -> None:
    ours, reference = llama_pair
    assert ours.encode(plain(text)) == reference(text).input_ids
    assert ours.decode(ours.encode(plain(text))).removeprefix(" ") == text.removeprefix(" ")


@pytest.fixture(scope="module")
def llama_pair(llama_folder: Path) -> tuple[Tokenizer, Any]:
    from transformers import AutoTokenizer

    return from_folder(llama_folder), AutoTokenizer.from_pretrained(llama_folder)


def test_markers_in_tokenizer_json_are_the_templates(llama_pair: tuple[Tokenizer, Any]) -> None:
    ours, _ = llama_pair
    assert isinstance(ours.template, BlueLMTemplate)
    ids = ours.encode(ours.template.render([Message(Role.USER, "a[|AI|]:</s>[|Human|]:")]))
    assert [ours.piece(id) for id in ids if ours.piece(id) in ("<s>", "</s>", "[|Human|]:", "[|AI|]:")] == [
        "<s>",
        "[|Human|]:",
        "[|AI|]:",
    ]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": {"type": "Unigram", "vocab": []}}, "Unigram"),
        ({"decoder": {"type": "WordPiece"}}, "WordPiece"),
        ({"normalizer": {"type": "Mystery"}}, "cannot be read"),
    ],
)
def test_other_kinds_of_tokenizer_json_are_named(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    specification = gguf_tokenizer.specification(GGUFFile.open(write_gguf(tmp_path / "small.gguf")).metadata)
    (tmp_path / "tokenizer.json").write_text(json.dumps(specification | change))
    with pytest.raises(CheckpointError, match=named):
        from_folder(tmp_path)


def test_broken_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        from_folder(tmp_path)


runs = st.tuples(st.sampled_from([*" \n=-a\u2581\u30000中\xa0\x04\U00050000"]), st.integers(1, 300))


@given(text=st.lists(runs.map(lambda run: run[0] * run[1]) | hostile, max_size=6).map("".join))
def test_no_text_has_fewer_tokens_than_its_bytes_tell(
    smollm: Tokenizer, llama_pair: tuple[Tokenizer, Any], text: str
) -> None:
    for tokenizer in (smollm, llama_pair[0]):
        assert tokenizer.fewest(plain(text)) <= len(tokenizer.encode(plain(text), bos=False))
    assert smollm.fewest(plain("a" * 10_000)) > 100 and llama_pair[0].fewest(plain("a" * 10_000)) > 100


@pytest.mark.parametrize(
    "change",
    [
        {"normalizer": {"type": "Strip", "strip_left": True, "strip_right": True}},
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"added_tokens": [{"id": 3, "content": "x", "special": False, "lstrip": True, "rstrip": False,
                           "single_word": False, "normalized": False}]},
    ],
)  # fmt: skip
def test_where_parts_of_a_text_may_be_dropped_its_bytes_tell_nothing(change: dict[str, Any]) -> None:
    specification = gguf_tokenizer.specification(GGUFFile.open(embedded_model()).metadata) | change
    vocabulary, _, _ = fast_tokenizer.load(specification)
    assert vocabulary.longest == 0


def test_a_prompt_far_too_long_is_refused_without_being_tokenized(
    smollm: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tokenizer, "encode", None)
    text = "word " * 800_000
    for prompt, drop in ((text, False), ((Message(Role.USER, text),), False), ((Message(Role.USER, text),), True)):
        with pytest.raises(PromptTooLong, match=r"at least \d{5}") as caught:
            admit(smollm, 2048, prompt, SamplingParams(max_length=5), drop_oldest=drop)  # type: ignore[arg-type]
        assert caught.value.param == ("prompt" if isinstance(prompt, str) else "messages")
