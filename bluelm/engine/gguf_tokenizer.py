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


def specification(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata as a `tokenizer.json` would have it, for fast_tokenizer.load.

    Raises CheckpointError for any kind of tokenizer but byte-level BPE with the `smollm` pre-tokenizer.
    """
    _check_kind(metadata)
    try:
        tokens: list[str] = metadata["tokenizer.ggml.tokens"]
        merges: list[str] = metadata["tokenizer.ggml.merges"]
        kinds: list[int] = metadata["tokenizer.ggml.token_type"]
    except KeyError as error:
        raise CheckpointError(f"The GGUF file has no {error}: convert the model again.") from None
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    added = [
        {"id": id, "content": token, "special": kind == CONTROL, **flags}
        for id, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (CONTROL, USER_DEFINED)
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    # As in the official tokenizer.json. transformers' reading of this GGUF leaves the digits out, and so differs
    # where several spaces stand before a digit.
    digits = {"type": "Digits", "individual_digits": True}
    return {
        "version": "1.0",
        "added_tokens": added,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]},
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": {token: id for id, token in enumerate(tokens)}, "merges": merges},
    }


def _check_kind(metadata: Mapping[str, Any]) -> None:
    for key, supported in (("tokenizer.ggml.model", "gpt2"), ("tokenizer.ggml.pre", "smollm")):
        value = metadata.get(key)
        if value != supported:
            raise CheckpointError(
                f"The GGUF file has {key} {value!r}, and only {supported!r} can be read here: use the model's "
                "folder with tokenizer.json or tokenizer.model instead."
            )
