"""Tokenizers of the `tokenizers` library, from what a `tokenizer.json` says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import tokenizers

from bluelm.engine.specials import Names, Vocabulary, is_marker, longest
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
    added, vocab = specification.get("added_tokens") or [], model["vocab"]
    text_of_token = {id: token for token, id in vocab.items()} | {t["id"]: t["content"] for t in added}
    special_ids = frozenset(t["id"] for t in added if t["special"])
    cut_out = {vocab[piece]: piece for step in _steps(specification) for piece in _pieces_cut_by(step, vocab)}
    known = {t["id"]: t["content"] for t in added} | cut_out
    names = Names({id: text for id, text in known.items() if id in special_ids or is_marker(text)})
    bytes_of = _bytes_of_byte_level if _is_byte_level(specification) else _bytes_of_sentencepiece
    table = [b""] * (max(text_of_token) + 1)
    for id, token in text_of_token.items():
        if id not in special_ids:
            table[id] = bytes_of(token)
    fast = _build(_renamed(specification, names))
    space = 1 if _is_byte_level(specification) else len("\u2581".encode())
    most = longest(table, names, space) if _keeps_all(specification) else 0
    single = {bytes_of(piece) for piece in vocab if len(piece) in (1, 6)}
    unseen = bytes(byte for byte in range(256) if bytes([byte]) not in single)
    return Vocabulary(lambda text: _ids(fast, text), table, names, special_ids, most, unseen), *_around(fast)


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


def cutting(pieces: Iterable[str]) -> dict[str, Any]:
    """A pre-tokenizer that cuts these pieces out of a text, the longest first, as SentencePiece does with its own."""
    pattern = "|".join(re.escape(piece) for piece in sorted(pieces, key=len, reverse=True))
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def _pieces_cut_by(step: dict[str, Any], vocab: Mapping[str, int]) -> list[str]:
    """What `cutting` was given; nothing for a step that somebody else wrote."""
    pattern = step.get("pattern", {}).get("Regex", "") if step.get("behavior") == "Isolated" else ""
    pieces = [re.sub(r"\\(.)", r"\1", piece, flags=re.DOTALL) for piece in re.split(r"(?<!\\)\|", pattern)]
    return pieces if all(piece in vocab for piece in pieces) else []


def _steps(specification: dict[str, Any]) -> list[dict[str, Any]]:
    step = specification.get("pre_tokenizer")
    return step.get("pretokenizers", [step]) if step else []


def _renamed(specification: dict[str, Any], names: Names) -> dict[str, Any]:
    """The same tokenizer with its special tokens and markers under secret names, and without limits on length."""
    model = specification["model"]
    secret = {public: names.secret[id] for id, public in names.public.items()}
    pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
    steps = [
        cutting(secret.get(piece, piece) for piece in pieces)
        if (pieces := _pieces_cut_by(step, model["vocab"]))
        else step
        for step in _steps(specification)
    ]
    return {
        **specification,
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {**token, "content": names.secret.get(token["id"], token["content"])}
            for token in specification.get("added_tokens") or []
        ],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps} if steps else None,
        "model": {
            **model,
            "unk_token": secret.get(model.get("unk_token"), model.get("unk_token")),
            "vocab": {names.secret.get(id, token): id for token, id in model["vocab"].items()},
            "merges": [pair for pair in pairs if secret.keys().isdisjoint((*pair, "".join(pair)))],
        },
    }


def _keeps_all(specification: dict[str, Any]) -> bool:
    """Whether no step of it drops what has a token: nothing is stripped or normalized, letters are spelled in bytes."""
    normalizer = specification.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    spaces = all(each["type"] == "Prepend" or each.get("pattern") == {"String": " "} for each in steps)
    cuts = ("ByteLevel", "Digits", "Metaspace", "Split")
    cut = all(each["type"] in cuts and each.get("behavior") != "Removed" for each in _steps(specification))
    added = specification.get("added_tokens") or []
    strips = any(token.get("lstrip") or token.get("rstrip") for token in added)
    spelled = _is_byte_level(specification) or specification["model"].get("byte_fallback")
    return bool(spaces and cut and not strips and spelled)


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
