"""SentencePiece models (`tokenizer.model`), encoded as the original slow tokenizer classes of transformers do it.

BlueLMTokenizer is a copy of transformers' LlamaTokenizer of 2023. It cuts a text at the special tokens (`</s>`), and
has SentencePiece encode each chunk by itself: so a chunk after `</s>` gets SentencePiece's dummy prefix again, as the
first one does. Chat markers such as `[|Human|]:` are user-defined pieces: SentencePiece itself finds them in a chunk.
The sentencepiece library does the encoding here too, which makes it exact for every normalizer and every score; only
the markers are renamed in the model it gets (see specials.py), and control pieces it never makes out of text.

The model file is a protocol buffer (sentencepiece_model.proto); it is read and written here without a library.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import IntEnum

import sentencepiece

from bluelm.engine.specials import Names, Vocabulary, is_marker, longest
from bluelm.errors import CheckpointError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_PIECES, _NORMALIZER, _SELF_TEST = 1, 3, 4  # fields of ModelProto
_PIECE, _TYPE = 1, 3  # fields of ModelProto.SentencePiece
_CHARSMAP, _STRIPS = 2, 4  # fields of NormalizerSpec


class Kind(IntEnum):
    """ModelProto.SentencePiece.Type"""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Piece:
    text: str
    kind: Kind


def load(model: bytes, declared: Mapping[int, str]) -> Vocabulary:
    """The vocabulary of a `tokenizer.model` (its bytes).

    declared: tokens that other files of the checkpoint name, {id: text}; those beyond the model's own are added to it
    and cut the text like control pieces. Raises CheckpointError when it cannot be read, or the files disagree.
    """
    try:
        pieces = read_pieces(model)
    except (ValueError, LookupError) as error:
        raise CheckpointError(f"tokenizer.model cannot be read ({error}): download the checkpoint again.") from error
    clash = sorted(id for id, text in declared.items() if id < len(pieces) and pieces[id].text != text)
    if clash:
        raise CheckpointError(
            f"The checkpoint's files name other tokens than tokenizer.model for the ids {clash}: download them again."
        )
    added = {id: text for id, text in declared.items() if id >= len(pieces)}
    special_ids = frozenset(id for id, piece in enumerate(pieces) if piece.kind in (Kind.CONTROL, Kind.UNKNOWN))
    cutting = {id: pieces[id].text for id in special_ids} | added
    markers = {id: p.text for id, p in enumerate(pieces) if p.kind is Kind.USER_DEFINED and is_marker(p.text)}
    names = Names(markers | cutting)
    processor = _processor(renamed(model, {id: names.secret[id] for id in markers}))
    table = [b"" if id in special_ids else bytes_of(piece) for id, piece in enumerate(pieces)]
    table += [b""] * (max(added, default=-1) + 1 - len(table))
    for id, text in added.items():
        table[id] = text.encode()
    ids_by_name = {names.secret[id]: id for id in cutting}
    cut = re.compile(f"({'|'.join(ids_by_name)})")

    def encode(text: str) -> list[int]:
        ids: list[int] = []
        for chunk in cut.split(text):
            ids += [ids_by_name[chunk]] if chunk in ids_by_name else processor.encode(chunk)
        return ids

    most = longest(table, names, len("\u2581".encode())) if keeps_all(model, pieces) else 0
    return Vocabulary(encode, table, names, special_ids, most)


def keeps_all(model: bytes, pieces: list[Piece]) -> bool:
    """Whether no part of a text is dropped: every byte has a piece, and only the form of spaces is normalized."""
    spec = next((value for field, _, _, value in fields(model) if field == _NORMALIZER), b"")
    rules = {field: value for field, _, _, value in fields(spec)}
    single = {bytes_of(piece) for piece in pieces if piece.kind is Kind.BYTE}
    # remove_extra_whitespaces is on where the model does not say that it is off.
    return not rules.get(_CHARSMAP) and rules.get(_STRIPS) == b"\x00" and len(single) == 256


def _processor(model: bytes) -> sentencepiece.SentencePieceProcessor:
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise CheckpointError(f"tokenizer.model cannot be read ({error}): download the checkpoint again.") from error


def bytes_of(piece: Piece) -> bytes:
    """The bytes that a piece stands for; its spaces are written as U+2581."""
    if piece.kind is Kind.BYTE:
        return bytes.fromhex(piece.text[3:5])  # <0x0A>
    return piece.text.replace("\u2581", " ").encode()


def read_pieces(model: bytes) -> list[Piece]:
    """All pieces, by id. Raises ValueError or LookupError when the bytes are no SentencePiece model."""
    pieces = []
    for field, _, _, value in fields(model):
        if field == _PIECES:
            parts = {inner: content for inner, _, _, content in fields(value)}
            pieces.append(Piece(parts[_PIECE].decode(), Kind(read_varint(parts.get(_TYPE, b"\x01"), 0)[0])))
    if not pieces:
        raise ValueError("it has no pieces")
    return pieces


def renamed(model: bytes, new_names: Mapping[int, str]) -> bytes:
    """The model with some pieces under other names, {id: name}, and without its self-test (which has the old ones)."""
    out = bytearray()
    id = 0
    for field, start, end, value in fields(model):
        if field == _SELF_TEST:
            continue
        if field == _PIECES:
            if id in new_names:
                rest = b"".join(value[s:e] for inner, s, e, _ in fields(value) if inner != _PIECE)
                out += _bytes_field(_PIECES, _bytes_field(_PIECE, new_names[id].encode()) + rest)
                id += 1
                continue
            id += 1
        out += model[start:end]
    return bytes(out)


def fields(message: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """The fields of a protocol buffer: number, start and end in the message, and the value's bytes."""
    at = 0
    while at < len(message):
        start = at
        tag, at = read_varint(message, at)
        value_at = at
        if tag & 7 == _BYTES:
            length, value_at = read_varint(message, at)
            at = value_at + length
        elif tag & 7 == _VARINT:
            _, at = read_varint(message, at)
        elif tag & 7 in (_FIXED32, _FIXED64):
            at += 4 if tag & 7 == _FIXED32 else 8
        else:
            raise ValueError(f"no such wire type: {tag & 7}")
        if at > len(message):
            raise ValueError("it ends early")
        yield tag >> 3, start, at, message[value_at:at]


def read_varint(message: bytes, at: int = 0) -> tuple[int, int]:
    """A number and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at


def _bytes_field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
