"""A `tokenizer.model` as a `tokenizer.json`, which every program reads without code of the checkpoint.

SentencePiece's BPE joins whichever two neighbours make the piece of the highest score, the leftmost first; `tokenizers`
does the same by a list of merges. What is not the same there by itself:
- User-defined pieces (the chat markers) are cut out of the text once its spaces are written as U+2581, so that the
  text in front of the first one has its dummy prefix, and those behind have none. They are pieces of the vocabulary,
  which `ignore_merges` takes whole.
- `ignore_merges` would take any other piece whole too, where it is all there is between two markers. The few that
  SentencePiece does not make out of such a text (`<0x41>`, which stands for a byte) are cut in two, where it cuts them.
- Control pieces (`<s>`, `</s>`) are special tokens: they cut the text first, and each chunk has a dummy prefix, as in
  the original slow class.
Measured against the sentencepiece library by tests; `check` compares both once more for the tokenizer at hand. One
thing stays: where a model normalises texts (NFKC), `tokenizers` does so by whole clusters, so that a letter with
accents or an emoji with modifiers may come out in another form.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sentencepiece

from bluelm.engine.fast_tokenizer import cutting
from bluelm.engine.sentencepiece_tokenizer import Kind, Piece, fields, read_pieces, read_varint
from bluelm.errors import CheckpointError

SPACE = "\u2581"
_TRAINER, _NORMALIZER = 2, 3  # fields of ModelProto
_MODEL_TYPE, _SUFFIX = 3, 24  # fields of TrainerSpec
_CHARSMAP, _DUMMY_PREFIX, _REMOVE_SPACES, _ESCAPE = 2, 3, 4, 5  # fields of NormalizerSpec
_BPE = 2


@dataclass(frozen=True, slots=True)
class _Normal:
    """How a text is normalised. charsmap: SentencePiece's compiled rules, or none."""

    charsmap: bytes
    dummy_prefix: bool
    remove_spaces: bool


def tokenizer_json(model: bytes, added: dict[int, str], bos_id: int | None) -> dict[str, Any]:
    """What goes into tokenizer.json.

    model: a tokenizer.model. added: tokens that other files of the checkpoint name beyond those of the model. bos_id:
    what stands in front of every text, or None.
    Raises CheckpointError for models that cannot be written down so.
    """
    pieces, normal = read_pieces(model), _read_normal(model)
    if any(piece.kind is Kind.UNUSED for piece in pieces):
        raise _impossible("it has pieces that are marked as unused")
    library = sentencepiece.SentencePieceProcessor(model_proto=model)
    control = {id: piece.text for id, piece in enumerate(pieces) if piece.kind in (Kind.CONTROL, Kind.UNKNOWN)}
    markers = [piece.text for piece in pieces if piece.kind is Kind.USER_DEFINED]
    steps = [cutting(markers)] if markers else []
    if halves := _halves(pieces, library, markers[0] if markers else "", normal.dummy_prefix):
        steps.append(_halving(halves))
    bos = control.get(bos_id, added.get(bos_id)) if bos_id is not None else None
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_special(id, text, id in control) for id, text in sorted((control | added).items())],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(normal)},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps} if steps else None,
        "post_processor": None if bos is None else _in_front(bos, bos_id),
        "decoder": {"type": "Sequence", "decoders": _decoders(normal)},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": pieces[library.unk_id()].text,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": any(piece.kind is Kind.BYTE for piece in pieces),
            "ignore_merges": True,
            "vocab": {piece.text: id for id, piece in enumerate(pieces)} | {text: id for id, text in added.items()},
            "merges": _merges(pieces, library),
        },
    }


def _impossible(why: str) -> CheckpointError:
    return CheckpointError(
        f"tokenizer.model cannot be written as a tokenizer.json ({why}): serve this checkpoint from its own folder."
    )


def _read_normal(model: bytes) -> _Normal:
    specs: dict[int, dict[int, bytes]] = {_TRAINER: {}, _NORMALIZER: {}}
    for field, _, _, value in fields(model):
        if field in specs:
            specs[field] = {inner: content for inner, _, _, content in fields(value)}
    trainer, normalizer = specs[_TRAINER], specs[_NORMALIZER]
    kind = read_varint(trainer.get(_MODEL_TYPE, b"\x01"))[0]
    if kind != _BPE:
        raise _impossible("it is not of the kind BPE")
    if trainer.get(_SUFFIX, b"\x00") != b"\x00" or normalizer.get(_ESCAPE, b"\x01") == b"\x00":
        raise _impossible("it writes spaces in another way")
    return _Normal(
        normalizer.get(_CHARSMAP, b""),
        normalizer.get(_DUMMY_PREFIX, b"\x01") != b"\x00",
        normalizer.get(_REMOVE_SPACES, b"\x01") != b"\x00",
    )


def _merges(pieces: Sequence[Piece], library: sentencepiece.SentencePieceProcessor) -> list[list[str]]:
    """Every way to join two pieces into a third, the highest score first.

    Where one piece can be joined in several ways, the longest left part comes first: SentencePiece goes from the left.
    """
    normal = {piece.text: id for id, piece in enumerate(pieces) if piece.kind is Kind.NORMAL}
    found = [
        (-library.get_score(id), id, -cut, text)
        for text, id in normal.items()
        for cut in range(1, len(text))
        if text[:cut] in normal and text[cut:] in normal
    ]
    return [[text[:-back], text[-back:]] for _, _, back, text in sorted(found)]


def _halves(
    pieces: Sequence[Piece], library: sentencepiece.SentencePieceProcessor, marker: str, dummy_prefix: bool
) -> list[tuple[str, str]]:
    """The pieces that SentencePiece cuts up where they are a whole chunk, in two at its first cut.

    A chunk stands behind a marker, or, where there are no markers, behind a dummy prefix, which is part of the piece.
    """
    before, halves = len(library.encode(marker)), []
    for id, piece in enumerate(pieces):
        text = piece.text
        if piece.kind not in (Kind.NORMAL, Kind.BYTE) or not (marker or text[0] == SPACE or not dummy_prefix):
            continue
        chunk = marker + text if marker or not dummy_prefix else text[1:]
        ids = library.encode(chunk.replace(SPACE, " "))[before:]
        if ids and ids != [id]:
            first = pieces[ids[0]]
            cut = len(first.text) if first.kind is Kind.NORMAL else 1
            halves.append((text[:cut], text[cut:]))
    return halves


def _halving(halves: Sequence[tuple[str, str]]) -> dict[str, Any]:
    either = "|".join(f"{re.escape(left)}(?={re.escape(right)}\\z)" for left, right in halves)
    return {
        "type": "Split",
        "pattern": {"Regex": f"\\A(?:{either})"},
        "behavior": "MergedWithPrevious",
        "invert": False,
    }


def _normalizers(normal: _Normal) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = []
    if normal.charsmap:
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(normal.charsmap).decode()})
    if normal.remove_spaces:
        steps.append({"type": "Replace", "pattern": {"Regex": "\\A +| +\\z"}, "content": ""})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if normal.dummy_prefix:
        steps.append({"type": "Prepend", "prepend": SPACE})
    return [*steps, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]


def _decoders(normal: _Normal) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    return [*steps, {"type": "Strip", "content": " ", "start": 1, "stop": 0}] if normal.dummy_prefix else steps


def _special(id: int, text: str, special: bool) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id, "content": text, **flags, "special": special}


def _in_front(token: str, id: int | None) -> dict[str, Any]:
    def both(*sequences: str) -> list[dict[str, Any]]:
        first = [{"SpecialToken": {"id": token, "type_id": 0}}]
        return [step for one in sequences for step in (*first, {"Sequence": {"id": one, "type_id": 0}})]

    return {
        "type": "TemplateProcessing",
        "single": both("A"),
        "pair": both("A", "B"),
        "special_tokens": {token: {"id": token, "ids": [id], "tokens": [token]}},
    }
