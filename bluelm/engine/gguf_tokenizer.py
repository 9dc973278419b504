"""The tokenizer inside a GGUF file: byte-level BPE, as SmolLM2 has it, from the `tokenizer.*` metadata.

Source of the format: the GGUF specification (docs/gguf.md of ggml). `gguf.GGUFReader` keeps four numpy views for
every string of the vocabulary and takes seconds; the tokenizer needs only the metadata, which is read here in a
tenth of a second.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from bluelm.engine.specials import Names, is_marker
from bluelm.errors import CheckpointError

CONTROL, USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


def read_metadata(path: Path) -> dict[str, Any]:
    """All metadata of a GGUF file (version 2 or 3, little-endian) as plain Python values.

    Raises CheckpointError when it is no such file.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            magic, version, _, count = struct.unpack_from("<4sIQQ", data, 0)
            if magic != b"GGUF" or version not in (2, 3):
                raise ValueError(f"magic {magic!r}, version {version}")
            return _Cursor(data, 24).pairs(count)
    except (OSError, ValueError, struct.error) as error:
        raise CheckpointError(
            f"{path} cannot be read as a GGUF file ({error}): download it again, or name another model."
        ) from error


class _Cursor:
    def __init__(self, data: mmap.mmap, at: int) -> None:
        self.data, self.at = data, at

    def pairs(self, count: int) -> dict[str, Any]:
        return {self.string(): self.value(self.scalar("I")) for _ in range(count)}

    def scalar(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return value

    def string(self) -> str:
        length = self.scalar("Q")
        start, self.at = self.at, self.at + length
        if self.at > len(self.data):
            raise ValueError("a string runs past the end of the file")
        return self.data[start : self.at].decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            inner, length = self.scalar("I"), self.scalar("Q")
            if inner in _SCALARS:
                code = f"<{length}{_SCALARS[inner]}"
                start, self.at = self.at, self.at + struct.calcsize(code)
                return list(struct.unpack_from(code, self.data, start))
            return [self.value(inner) for _ in range(length)]
        if kind not in _SCALARS:
            raise ValueError(f"unknown value type {kind}")
        return self.scalar(_SCALARS[kind])


def build(metadata: Mapping[str, Any]) -> tuple[Tokenizer, Names]:
    """The tokenizer that the metadata describes, its control tokens under secret names (see specials.py).

    Raises CheckpointError for any kind of tokenizer but byte-level BPE with the `smollm` pre-tokenizer.
    """
    _check_kind(metadata)
    try:
        tokens: list[str] = metadata["tokenizer.ggml.tokens"]
        merges: list[str] = metadata["tokenizer.ggml.merges"]
        kinds: list[int] = metadata["tokenizer.ggml.token_type"]
    except KeyError as error:
        raise CheckpointError(f"The GGUF file has no {error}: convert the model again.") from None
    control = {id: token for id, token in enumerate(tokens) if kinds[id] == CONTROL}
    added = {id: token for id, token in enumerate(tokens) if kinds[id] == USER_DEFINED and not is_marker(token)}
    names = Names(control | {id: t for id, t in enumerate(tokens) if kinds[id] == USER_DEFINED and is_marker(t)})

    vocabulary = {names.secret.get(id, token): id for id, token in enumerate(tokens)}
    hidden = set(names.public.values())
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    try:
        model = models.BPE(vocabulary, [pair for pair in pairs if hidden.isdisjoint((*pair, "".join(pair)))])
    except Exception as error:  # the library raises plain Exceptions
        raise CheckpointError(f"The GGUF file's merges do not fit its tokens ({error}): download it again.") from error
    tokenizer = Tokenizer(model)
    # As in the official tokenizer.json. transformers' reading of this GGUF leaves the digits out, and so differs
    # where several spaces stand before a digit.
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in names.secret.values()])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in added.values()])
    return tokenizer, names


def _check_kind(metadata: Mapping[str, Any]) -> None:
    for key, supported in (("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "smollm")):
        value = metadata.get(key)
        if value != supported:
            raise CheckpointError(
                f"The GGUF file has {key} {value!r}, and only {supported!r} can be read here: use the model's "
                "folder with tokenizer.json or tokenizer.model instead."
            )


def byte_table(metadata: Mapping[str, Any]) -> list[bytes]:
    """The bytes of every id; none for control tokens."""
    kinds = metadata["tokenizer.ggml.token_type"]
    return [
        b"" if kind == CONTROL else token.encode() if kind == USER_DEFINED else bytes_of(token)
        for token, kind in zip(metadata["tokenizer.ggml.tokens"], kinds, strict=True)
    ]


def _byte_alphabet() -> dict[str, int]:
    """The letter that byte-level BPE writes for each byte: printable Latin-1 as it is, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()


def bytes_of(token: str) -> bytes:
    """The bytes that a token of byte-level BPE stands for; a token not in its alphabet stands for its own letters."""
    try:
        return bytes(_BYTE_OF[letter] for letter in token)
    except KeyError:
        return token.encode()
