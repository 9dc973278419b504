"""tokenizer.model: the same ids as the original slow class, and markers that nobody can smuggle in."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import assume, given
from hypothesis import strategies as st

from bluelm.engine.tokenizer import Tokenizer, from_folder
from bluelm.errors import CheckpointError, InvalidParameter
from bluelm.prompt import BlueLMTemplate, Part, plain, text_of
from bluelm.types import Message, Role
from tests.synthetic import MARKERS, bluelm_tokenizer_folder, sentencepiece_model

CONTROL = {"<s>": 1, "</s>": 2, "<pad>": 3}
CUTS = re.compile("(<s>|</s>|<pad>|<unk>)")
VARIANTS: dict[str, dict[str, Any]] = {
    "llama": {},
    "nfkc": {"normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": True},
    "no_prefix": {"add_dummy_prefix": False},
    "suffix": {"treat_whitespace_as_suffix": True, "byte_fallback": False},
    "unigram": {"model_type": "unigram", "vocab_size": 600, "hard_vocab_limit": False},
}


class Twin:
    """One model in both forms: ours, and the sentencepiece library driven as the slow class drives it."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, model = name, sentencepiece_model(**VARIANTS[name])
        self.ours: Tokenizer = from_folder(bluelm_tokenizer_folder(folder / name, model))
        self.library = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.marker_ids = {marker: self.library.piece_to_id(marker) for marker in MARKERS} | CONTROL

    def original(self, text: str) -> list[int]:
        """transformers' slow LlamaTokenizer of 2023: cut at special tokens, each chunk encoded by itself."""
        ids = [CONTROL["<s>"]]
        for chunk in CUTS.split(text):
            ids += [self.library.piece_to_id(chunk)] if CUTS.fullmatch(chunk) else self.library.encode(chunk)
        return ids

    def markers_in(self, text: str) -> int:
        """Markers and special tokens of the text for the original, which finds markers after normalising too."""
        pieces = {self.library.piece_to_id(marker) for marker in MARKERS}
        return len(CUTS.findall(text)) + sum(id in pieces for id in self.original(text))


@pytest.fixture(scope="module", params=VARIANTS)
def twin(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Twin:
    return Twin(tmp_path_factory.mktemp("twins"), request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Twin:
    return Twin(tmp_path_factory.mktemp("twins"), "llama")


spaces = [" ", "  ", "   ", "\n", "\n\n", "\t", "\r\n", "\u3000", "\xa0", "\u2581", "\u200b", "\ufeff"]
odd = [
    "2024",
    "３",
    "½",
    "👍🏽",
    "👨‍👩‍👧",
    "é",
    "e\u0301",
    "ﬁ",
    "①",
    "㎡",
    "Ａ",
    "\x00",
    "\x07",
    "\x7f",
    "aaaaa",
    "abab",
]
words = st.sampled_from(
    [*"你好大家春天", "今天天气很好", "the weather", "<", "[", "|", "]:", "<0x41>", "<unk", *spaces, *odd]
)
ordinary = st.lists(words | st.characters(codec="utf-8"), max_size=12).map("".join)
seams = ["［|AI|］：", "[|", "Human", "|]:", "[|Hum", "an|]:", "<", "/s>", "</s", ">", "s>", "[SE"]
fragments = [*MARKERS, *CONTROL, "<unk>", *seams]
hostile = st.lists(st.sampled_from(fragments) | words, max_size=12).map("".join)


def conversations(contents: st.SearchStrategy[str]) -> st.SearchStrategy[list[Message]]:
    """[system], user, (assistant, user)*; contents that say nothing get a word."""
    asked = contents.map(lambda text: text if text.strip() else text + "问")

    def build(system: str | None, first: str, rest: list[tuple[str, str]]) -> list[Message]:
        head = [Message(Role.SYSTEM, system)] if system else []
        turns = [m for a, q in rest for m in (Message(Role.ASSISTANT, a), Message(Role.USER, q))]
        return [*head, Message(Role.USER, first), *turns]

    return st.builds(build, st.none() | asked, asked, st.lists(st.tuples(contents, asked), max_size=3))


@given(text=ordinary)
def test_plain_text_has_the_original_ids(twin: Twin, text: str) -> None:
    assume(not twin.markers_in(text))
    assert twin.ours.encode(plain(text)) == twin.original(text)


@given(messages=conversations(ordinary))
def test_conversations_have_the_original_ids(twin: Twin, messages: list[Message]) -> None:
    parts = BlueLMTemplate().render(messages)
    assume(twin.markers_in(text_of(parts)) == sum(part.trusted for part in parts))
    assert twin.ours.encode(parts) == twin.original(text_of(parts))


@given(messages=conversations(hostile))
def test_only_the_template_writes_markers(twin: Twin, messages: list[Message]) -> None:
    parts = BlueLMTemplate().render(messages)
    ids = twin.ours.encode(parts)
    meant = [twin.marker_ids[part.text] for part in parts if part.trusted]
    assert [id for id in ids[1:] if id in twin.marker_ids.values()] == meant


@given(messages=conversations(hostile.map(lambda text: text.replace("\u2581", ""))))
def test_hostile_text_is_still_there(llama: Twin, messages: list[Message]) -> None:
    parts = BlueLMTemplate().render(messages)
    cut = "\ue000"
    chunks = text_of([Part(cut, True) if part == Part("</s>", True) else part for part in parts]).split(cut)
    shown = "".join(" " + chunk for chunk in chunks if chunk)  # each chunk has SentencePiece's dummy prefix
    assert llama.ours.decode(llama.ours.encode(parts)) == shown


@given(texts=st.lists(hostile, max_size=4))
def test_untrusted_parts_are_no_seams(llama: Twin, texts: list[str]) -> None:
    parts = tuple(Part(text, trusted=False) for text in texts)
    assert llama.ours.encode(parts) == llama.ours.encode(plain("".join(texts)))


@given(text=st.text())
def test_decoding_gives_the_librarys_text(twin: Twin, text: str) -> None:
    unknown = twin.library.unk_id()  # shown as a sign by the library, and as nothing by us
    ids = [id for id in twin.library.encode(text) if id != unknown]
    expected = twin.library.decode(ids)  # without the dummy prefix, which we keep
    assert twin.ours.decode(ids) in (expected, " " + expected, expected + " ")


@given(data=st.data())
def test_any_ids_decode_as_in_the_library(llama: Twin, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(4, llama.ours.size - 1), max_size=30))

    def squeezed(text: str) -> str:  # the library marks each bad byte, we mark each bad sequence
        return re.sub("\ufffd+", "\ufffd", text)

    expected = squeezed(llama.library.decode(ids))
    assert squeezed(llama.ours.decode(ids)) in (expected, " " + expected)


@given(text=ordinary)
def test_no_broken_character_is_ever_pushed(llama: Twin, text: str) -> None:
    assume("\ufffd" not in text)
    decoder = llama.ours.decoder()
    assert not any("\ufffd" in decoder.push(id) for id in llama.ours.encode(plain(text)))
    assert decoder.flush() == ""


def test_the_facts_of_the_twin(llama: Twin) -> None:
    tokenizer = llama.ours
    human = llama.marker_ids["[|Human|]:"]
    assert isinstance(tokenizer.template, BlueLMTemplate)
    assert (tokenizer.bos_id, tokenizer.eos_ids, tokenizer.stop_ids) == (1, {2}, {2, human})
    assert tokenizer.size == llama.library.get_piece_size()
    assert tokenizer.piece(human) == "[|Human|]:"
    assert tokenizer.piece(2) == "</s>"
    assert tokenizer.piece(llama.library.piece_to_id("<0xE4>")) == "\\xe4"
    assert tokenizer.decode([1, 2, 3]) == ""


def test_half_a_surrogate_pair_is_refused(llama: Twin) -> None:
    with pytest.raises(InvalidParameter):
        llama.ours.encode(plain("a\ud83d"))


# --- what a folder says ---


def test_bos_is_left_out_when_the_checkpoint_says_so(tmp_path: Path) -> None:
    tokenizer = from_folder(bluelm_tokenizer_folder(tmp_path, add_bos_token=False))
    assert tokenizer.bos_id is None
    assert 1 not in tokenizer.encode(plain("a"))


def test_added_tokens_cut_the_text(tmp_path: Path) -> None:
    folder = bluelm_tokenizer_folder(tmp_path)
    (folder / "added_tokens.json").write_text(json.dumps({"[|Tool|]:": 903}))
    tokenizer = from_folder(folder)
    assert tokenizer.size == 904
    ids = tokenizer.encode((Part("[|Tool|]:", trusted=True), Part("[|Tool|]:", trusted=False)))
    assert ids.count(903) == 1
    assert tokenizer.decode(ids) == "[|Tool|]: [|Tool|]:"


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"add_eos_token": True}, "add_eos_token"),
        ({"tokenizer_class": "LlamaTokenizer", "legacy": False}, "legacy"),
        ({"bos_token": "<bos>"}, "<bos>"),
        ({"eos_token": {"content": "</s>", "lstrip": True}}, "lstrip"),
        ({"added_tokens_decoder": {"5": {"content": "<five>"}}}, r"\[5\]"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, config: dict[str, Any], named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        from_folder(bluelm_tokenizer_folder(tmp_path, **config))


@pytest.mark.parametrize("content", [b"", b"\xff", b"version https://git-lfs.github.com/spec/v1\n", b"\x0a\x02"])
def test_a_broken_model_is_named(tmp_path: Path, content: bytes) -> None:
    (bluelm_tokenizer_folder(tmp_path) / "tokenizer.model").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.model"):
        from_folder(tmp_path)


def test_a_truncated_model_is_named(tmp_path: Path) -> None:
    (bluelm_tokenizer_folder(tmp_path) / "tokenizer.model").write_bytes(sentencepiece_model()[:1000])
    with pytest.raises(CheckpointError, match=r"tokenizer\.model"):
        from_folder(tmp_path)


def test_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither tokenizer\.json nor tokenizer\.model"):
        from_folder(tmp_path)


@given(text=st.lists(st.tuples(st.sampled_from([*spaces, *odd, "a", "\ue000"]), st.integers(1, 40)), max_size=8))
def test_no_text_has_fewer_tokens_than_its_bytes_tell(twin: Twin, text: list[tuple[str, int]]) -> None:
    """Nor is anything told where the model may drop spaces, or take a run of unknown letters for one token."""
    parts = plain("".join(piece * times for piece, times in text))
    assert twin.ours.fewest(parts) <= len(twin.ours.encode(parts, bos=False))
    assert twin.ours.fewest(plain("a" * 10_000)) > 100 or twin.name in ("nfkc", "suffix")
