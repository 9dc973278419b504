"""The tokenizer of an exported folder: tokenizer.json, and tokenizer_config.json with the chat template."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bluelm.engine.sentencepiece_tokenizer import read_pieces
from bluelm.engine.tokenizer import Tokenizer, from_folder
from bluelm.engine.tokenizer_folder import Folder
from bluelm.errors import CheckpointError
from bluelm.export.fast import tokenizer_json
from bluelm.prompt import END_OF_ANSWER, BlueLMTemplate, jinja_source, plain

FAST, MODEL, CONFIG = "tokenizer.json", "tokenizer.model", "tokenizer_config.json"
ALL = (FAST, MODEL, CONFIG, "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
SAMPLES = (
    "",
    " ",
    "你好，世界！",
    "Hello,  world\n\tcode",
    "2024年12月31日 3.14",
    "👍🏽 👨‍👩‍👧 é ﬁ ①",
    "<0x41>",
    "哈哈哈哈哈",
    "-" * 40,
)
LINE = 20  # pieces of the vocabulary in one text that is compared


def write_tokenizer(source: Path, target: Path, tokenizer: Tokenizer, *, bluelm: bool, context: int) -> None:
    """Raises CheckpointError for a tokenizer that cannot be written so.

    tokenizer: that of the source. bluelm: whether it is BlueLM's, else its files are taken over as they are.
    context: tokens of the window.
    """
    for name in ALL if not bluelm else (MODEL,):  # llama.cpp's converter prefers tokenizer.model
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
    if not bluelm:
        return
    if (source / FAST).exists():
        shutil.copyfile(source / FAST, target / FAST)
    else:
        model, declared = (source / MODEL).read_bytes(), Folder(source).declared_ids()
        known = len(read_pieces(model))
        added = {id: text for id, text in declared.items() if id >= known}
        _write(target / FAST, tokenizer_json(model, added, tokenizer.bos_id))
    _write(target / CONFIG, _config(Folder(source), tokenizer, context))
    check(source, target, tokenizer)


def _config(folder: Folder, tokenizer: Tokenizer, context: int) -> dict[str, Any]:
    bos = {} if tokenizer.bos_id is None else {"bos_token": tokenizer.piece(tokenizer.bos_id)}
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": END_OF_ANSWER,
        **folder.special_tokens,
        **bos,
        "add_bos_token": bool(bos),
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": context,
    }
    template = tokenizer.template
    if isinstance(template, BlueLMTemplate):
        config["chat_template"] = jinja_source(bos=bool(bos), tools=template.supports_tools)
    return config


def check(source: Path, target: Path, tokenizer: Tokenizer) -> None:
    """Raises CheckpointError where the tokenizer written gives other ids than the one read."""
    written = from_folder(target)
    for text in _texts(tokenizer):
        if written.encode(plain(text)) != tokenizer.encode(plain(text)):
            raise CheckpointError(
                f"The tokenizer of {source} cannot be written as a tokenizer.json, which gives other ids for {text!r}: "
                "serve this checkpoint from its own folder."
            )


def _texts(tokenizer: Tokenizer) -> Iterator[str]:
    """Some samples, and all of the vocabulary."""
    yield from SAMPLES
    for start in range(0, tokenizer.size, LINE):
        ids = range(start, min(start + LINE, tokenizer.size))
        yield "".join(tokenizer.decode([id]) for id in ids)


def _write(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False, indent=1), encoding="utf-8")
