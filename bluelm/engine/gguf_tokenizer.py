"""The tokenizer inside a GGUF file: byte-level BPE, as SmolLM2 has it, from the `tokenizer.*` metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bluelm.errors import CheckpointError

CONTROL, USER_DEFINED = 3, 4  # values of tokenizer.ggml.token_type


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
