"""A short test of a model that has just been loaded: better a clear sentence at the start than nonsense in a chat."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bluelm.engine.attention import Span, Step
from bluelm.engine.linear import Dense
from bluelm.engine.model import KVCache, Llama, Weights
from bluelm.engine.runner import Runner
from bluelm.engine.scheduler import Piece, Row
from bluelm.engine.tokenizer import Tokenizer
from bluelm.engine.weights import PARTS
from bluelm.errors import CheckpointError, StartupError
from bluelm.prompt import AI, HUMAN, BlueLMTemplate, plain
from bluelm.types import Message, Role, SamplingParams

if TYPE_CHECKING:
    from bluelm.engine.gpu.runner import GpuRunner

SAMPLE = "Hello, 世界 2024"
TURNS = (Message(Role.USER, "Hello"), Message(Role.ASSISTANT, "Hi"), Message(Role.USER, "你好"))
GREEDY = SamplingParams(temperature=0.0)
FEW, MANY = 24, 600  # tokens that are tried; many, so that a card's programs share out a row
BOUND = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}  # correct kernels stay far below
log = logging.getLogger("bluelm.engine")
TOKENIZERS = ("tokenizer.json", "tokenizer.model")  # in the order in which they are read


def check(runner: Runner | GpuRunner, model: Llama, tokenizer: Tokenizer, path: Path) -> None:
    """Raises CheckpointError, which names the file at fault, if tokenizer and weights do not work together, and
    StartupError if what will be served computes something else than the plain model.

    runner: what serves `model`, with its cache. path: the checkpoint's folder or file.
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
    longest = min(runner.blocks * runner.block_size, model.config.context, FEW if runner.device.type == "cpu" else MANY)
    ids = (ids * -(-longest // len(ids)))[:longest]
    expected = _plain(model, ids)
    if not torch.isfinite(expected).all():
        raise _no_numbers(model, path)
    _served(runner, ids, expected[:, : tokenizer.size].float())


def _plain(model: Llama, ids: list[int]) -> Tensor:
    """Logits [2, vocab] behind the last two tokens, without what is served."""
    places = torch.arange(len(ids), device=model.weights.norm.device)
    whole = Span(0, len(ids), places, None)
    step = Step(torch.tensor(ids, device=places.device), places, places, (), (whole,), places[-2:])
    return model.forward(step, KVCache(model.config, len(ids), model.weights.norm))


def _served(runner: Runner | GpuRunner, ids: list[int], expected: Tensor) -> None:
    """A prompt, and its last token in each size of batch, as they will be served: [2, vocab] are to come out.

    All rows have the same tokens in the same blocks, so that a small cache is enough.
    """
    blocks = list(range(-(-len(ids) // runner.block_size)))
    worst = 0.0
    for batch in (0, *runner.batches):
        before = len(ids) - 1
        count = before + bool(batch)
        rows = [Row(f"test {i}", ids[:count], GREEDY, 0, count, before, blocks=blocks) for i in range(batch or 1)]
        pieces = [Piece(row, count - 1, 1) if batch else Piece(row, 0, count) for row in rows]
        tokens, logits = runner.run_for_logits(pieces)
        error = _error(logits, expected[1 if batch else 0])
        worst = max(worst, error)
        if not error < BOUND[runner.cache.keys.dtype] or not _are_likeliest(tokens, logits):
            raise StartupError(
                f"The engine computes wrong numbers on this device: {error:.1%} off for {batch or 'a prompt of'} "
                f"{'rows' if batch else f'{count} tokens'}. Update PyTorch, Triton and the driver, or set "
                "BLUELM_KERNELS to plain (slower), or BLUELM_DEVICE to cpu."
            )
    log.info("what is served differs from the plain model by %.2g%% at most", 100 * worst)


def _error(logits: Tensor, expected: Tensor) -> float:
    """The worst row's distance from what is expected, relative to that; NaN where a number is none."""
    return float(((logits - expected).norm(dim=-1) / expected.norm()).max())


def _are_likeliest(tokens: Sequence[int | None], logits: Tensor) -> bool:
    """Whether each token is its row's likeliest, or as good as that."""
    chosen = torch.tensor([-1 if token is None else token for token in tokens], device=logits.device)
    if chosen.min() < 0:
        return False
    best, picked = logits.amax(dim=-1), logits.gather(1, chosen[:, None])[:, 0]
    return bool((picked >= best - 1e-3 * best.abs()).all())


def _no_numbers(model: Llama, path: Path) -> CheckpointError:
    bad = next((name for name, tensor in _tensors(model.weights) if not torch.isfinite(tensor).all()), None)
    if bad is not None:
        return CheckpointError(
            f"The weights in {path} are damaged, {bad} holds NaN or infinity: download them again, or set BLUELM_DTYPE "
            "to bfloat16 or float32 if it is float16.",
            tensor=bad,
        )
    return CheckpointError(
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
