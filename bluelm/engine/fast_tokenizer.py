"""Tokenizers of the `tokenizers` library, from what a `tokenizer.json` says."""

from __future__ import annotations

import json
from typing import Any

import tokenizers

from bluelm.engine.specials import Names, Vocabulary, is_marker
from bluelm.errors import CheckpointError


def load(specification: dict[str, Any]) -> tuple[Vocabulary, list[int], list[int]]:
    """The vocabulary, and the ids that its post-processor puts in front of a text and after it.

    Raises CheckpointError for anything but BPE over bytes, or over SentencePiece pieces.
    """
    model = specification.get("model") or {}
    if model.get("type", "BPE") != "BPE":
        raise CheckpointError(
            f"tokenizer.json has a model of type {model.get('type')!r}, and only 'BPE' can be read here: use another "
            "checkpoint."
        )
    added = specification.get("added_tokens") or []
    text_of_token = {id: token for token, id in model["vocab"].items()} | {t["id"]: t["content"] for t in added}
    names = Names({t["id"]: t["content"] for t in added if t["special"] or is_marker(t["content"])})
    special_ids = frozenset(t["id"] for t in added if t["special"])
    bytes_of = _bytes_of_byte_level if _is_byte_level(specification) else _bytes_of_sentencepiece
    table = [b""] * (max(text_of_token) + 1)
    for id, token in text_of_token.items():
        if id not in special_ids:
            table[id] = bytes_of(token)
    fast = _build(_renamed(specification, names))
    return Vocabulary(lambda text: _ids(fast, text), table, names, special_ids), *_around(fast)


def _ids(fast: tokenizers.Tokenizer, text: str, special: bool = False) -> list[int]:
    ids: list[int] = fast.encode(text, add_special_tokens=special).ids
    return ids


def _around(fast: tokenizers.Tokenizer) -> tuple[list[int], list[int]]:
    probe = _ids(fast, "a")
    full = _ids(fast, "a", special=True)
    start = next((i for i in range(len(full)) if full[i : i + len(probe)] == probe), 0)
    return full[:start], full[start + len(probe) :]


def _build(specification: dict[str, Any]) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(specification))
    except Exception as error:  # the library raises plain Exceptions
        raise CheckpointError(f"The tokenizer cannot be read ({error}): download the checkpoint again.") from error


def _renamed(specification: dict[str, Any], names: Names) -> dict[str, Any]:
    """The same tokenizer with its special tokens and markers under secret names, and without limits on length."""
    model = specification["model"]
    hidden = set(names.public.values())
    pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
    return {
        **specification,
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {**token, "content": names.secret.get(token["id"], token["content"])}
            for token in specification.get("added_tokens") or []
        ],
        "model": {
            **model,
            "vocab": {names.secret.get(id, token): id for token, id in model["vocab"].items()},
            "merges": [pair for pair in pairs if hidden.isdisjoint((*pair, "".join(pair)))],
        },
    }


def _is_byte_level(specification: dict[str, Any]) -> bool:
    """Whether tokens are spelled in the byte alphabet. Raises CheckpointError when in neither of the known ways."""
    decoder = specification.get("decoder") or {}
    steps = [step.get("type") for step in decoder.get("decoders", [decoder])]
    if "ByteLevel" in steps:
        return True
    if "ByteFallback" in steps or "Metaspace" in steps:
        return False
    raise CheckpointError(
        f"tokenizer.json has a decoder of {steps}, and only byte-level BPE and SentencePiece pieces can be read here: "
        "use another checkpoint."
    )


def _byte_alphabet() -> dict[str, int]:
    """The letter that byte-level BPE writes for each byte: printable Latin-1 as it is, the others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()


def _bytes_of_byte_level(token: str) -> bytes:
    try:
        return bytes(_BYTE_OF[letter] for letter in token)
    except KeyError:  # an added token, in plain text
        return token.encode()


def _bytes_of_sentencepiece(token: str) -> bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes.fromhex(token[3:5])
    return token.replace("\u2581", " ").encode()
