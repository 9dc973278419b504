"""A short test of a model that has just been loaded: better a clear sentence at the start than nonsense in a chat."""

from __future__ import annotations

from pathlib import Path

import torch

from bluelm.engine.attention import Span, Step
from bluelm.engine.model import KVCache, Llama
from bluelm.engine.tokenizer import Tokenizer
from bluelm.errors import CheckpointError
from bluelm.prompt import plain
from bluelm.types import Message, Role

SAMPLE = "Hello, 世界 2024"
TURNS = (Message(Role.USER, "Hello"), Message(Role.ASSISTANT, "Hi"), Message(Role.USER, "你好"))


def check(model: Llama, tokenizer: Tokenizer, path: Path) -> None:
    """Raises CheckpointError, which names the file at fault, if tokenizer and weights do not work together."""
    ids = tokenizer.encode(plain(SAMPLE))
    if tokenizer.decode(ids).strip() != SAMPLE:
        raise CheckpointError(
            f"The tokenizer of {path} does not give a text back as it was: its files are damaged; download them again."
        )
    if tokenizer.size > model.config.vocab:
        raise CheckpointError(
            f"The tokenizer of {path} has {tokenizer.size} tokens, the model only {model.config.vocab}: "
            "they do not belong together; download the checkpoint again."
        )
    if tokenizer.template is not None:
        ids = tokenizer.encode(tokenizer.template.render(TURNS))
        for marker in tokenizer.template.stop_markers:
            if not any(tokenizer.piece(id) == marker for id in ids):
                raise CheckpointError(f"The tokenizer of {path} cuts {marker} into pieces: download it again.")
    _finite(model, ids, path)


def _finite(model: Llama, ids: list[int], path: Path) -> None:
    places = torch.arange(len(ids), device=model.weights.norm.device)
    whole = Span(0, len(ids), places, None)
    step = Step(torch.tensor(ids, device=places.device), places, places, (), (whole,), places[-1:])
    logits = model.forward(step, KVCache(model.config, len(ids), model.weights.norm))
    if not torch.isfinite(logits).all():
        raise CheckpointError(
            f"The model in {path} gives no numbers (NaN or infinity) in {model.weights.precision}: its weights are "
            "damaged, or BLUELM_DTYPE is too narrow for it; set it to bfloat16 or float32, or download it again."
        )
