"""A short test of a model that has just been loaded: better a clear sentence at the start than nonsense in a chat."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from bluelm.engine.attention import Span, Step
from bluelm.engine.linear import Dense
from bluelm.engine.model import KVCache, Llama, Weights
from bluelm.engine.tokenizer import Tokenizer
from bluelm.engine.weights import PARTS
from bluelm.errors import CheckpointError
from bluelm.prompt import AI, HUMAN, BlueLMTemplate, plain
from bluelm.types import Message, Role

SAMPLE = "Hello, 世界 2024"
TURNS = (Message(Role.USER, "Hello"), Message(Role.ASSISTANT, "Hi"), Message(Role.USER, "你好"))
TOKENIZERS = ("tokenizer.json", "tokenizer.model")  # in the order in which they are read


def check(model: Llama, tokenizer: Tokenizer, path: Path) -> None:
    """Raises CheckpointError, which names the file at fault, if tokenizer and weights do not work together.

    path: the checkpoint's folder or file.
    """
    file = next((path / name for name in TOKENIZERS if (path / name).exists()), path)
    ids = tokenizer.encode(plain(SAMPLE))
    if tokenizer.decode(ids).strip() != SAMPLE:
        raise CheckpointError(f"The tokenizer in {file} changes a text on its way: download the file again.")
    if tokenizer.size > model.config.vocab:
        raise CheckpointError(
            f"The tokenizer in {file} has {tokenizer.size} tokens, the model only {model.config.vocab}: "
            "they do not belong together; download the checkpoint again."
        )
    if tokenizer.template is not None:
        ids = tokenizer.encode(tokenizer.template.render(TURNS))
        pieces = {tokenizer.piece(id) for id in ids}
        own = (HUMAN, AI) if isinstance(tokenizer.template, BlueLMTemplate) else ()
        for marker in (*own, *tokenizer.template.stop_markers):
            if marker not in pieces:
                raise CheckpointError(f"The tokenizer in {file} cuts {marker} into pieces: download the file again.")
    _finite(model, ids, path)


def _finite(model: Llama, ids: list[int], path: Path) -> None:
    places = torch.arange(len(ids), device=model.weights.norm.device)
    whole = Span(0, len(ids), places, None)
    step = Step(torch.tensor(ids, device=places.device), places, places, (), (whole,), places[-1:])
    logits = model.forward(step, KVCache(model.config, len(ids), model.weights.norm))
    if torch.isfinite(logits).all():
        return
    bad = next((name for name, tensor in _tensors(model.weights) if not torch.isfinite(tensor).all()), None)
    if bad is not None:
        raise CheckpointError(
            f"The weights in {path} are damaged, {bad} holds NaN or infinity: download them again, or set BLUELM_DTYPE "
            "to bfloat16 or float32 if it is float16.",
            tensor=bad,
        )
    raise CheckpointError(
        f"The model in {path} gives no numbers (NaN or infinity) in {model.weights.precision}, though its weights are "
        "numbers: set BLUELM_DTYPE to bfloat16 or float32; if that does not help, download it again."
    )


def _tensors(weights: Weights) -> Iterator[tuple[str, Tensor]]:
    """With the names they have in a checkpoint, fused ones together. What is in 4 or 8 bits holds numbers only."""
    yield "model.embed_tokens", weights.embedding
    for index, layer in enumerate(weights.layers):
        for part in ("input_norm", "qkv", "o", "post_norm", "gate_up", "down"):
            stored = getattr(layer, part)
            tensor = stored.weight if isinstance(stored, Dense) else stored
            if isinstance(tensor, Tensor):
                yield f"model.layers.{index}.{' + '.join(PARTS[part])}", tensor
    yield "model.norm", weights.norm
    if isinstance(weights.lm_head, Dense):
        yield "lm_head", weights.lm_head.weight
