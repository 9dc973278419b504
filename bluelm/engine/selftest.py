"""A short test of a model that has just been loaded: better a clear sentence at the start than nonsense in a chat."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bluelm.engine.attention import Span, Step
from bluelm.engine.linear import Blocked, Dense
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
FEW, MANY = 24, 300  # tokens that are tried; many, so that a card's programs share out a row
SHORT = 100  # of a prompt that a card computes by a graph
BOUND = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.1}  # correct kernels stay far below
ROUNDED = 0.3  # where products round their inputs to 8 bits, a last bit before them may change much more behind them
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
    short, long, whole = len(ids) // 2 if len(ids) < 2 * SHORT else SHORT, len(ids) - 1, len(ids)
    expected = _plain(model, ids, (short, long, whole))
    if not torch.isfinite(expected).all():
        raise _no_numbers(model, path)
    wanted = dict(zip((short, long, whole), expected[:, : tokenizer.size].float(), strict=True))
    tries = [_Try(1, ids[:short]), _Try(1, ids[:long]), *(_Try(batch, ids, one=True) for batch in runner.batches)]
    worst = max(_tried(runner, each, wanted[len(each.ids)]) for each in tries)
    log.info("what is served differs from the plain model by %.2g%% at most", 100 * worst)


def _plain(model: Llama, ids: list[int], counts: Sequence[int]) -> Tensor:
    """Logits [counts, vocab] behind so many of the tokens each, without what is served."""
    places = torch.arange(len(ids), device=model.weights.norm.device)
    whole = Span(0, len(ids), places, None)
    last = places[[count - 1 for count in counts]]
    step = Step(torch.tensor(ids, device=places.device), places, places, (), (whole,), last)
    return model.forward(step, KVCache(model.config, len(ids), model.weights.norm))


@dataclass(frozen=True, slots=True)
class _Try:
    """So many equal rows: their prompts, or `one`, their last tokens, in one step."""

    rows: int
    ids: list[int]
    one: bool = False

    def pieces(self, block_size: int) -> list[Piece]:
        """All in the same blocks, where they write the same, so that a small cache is enough."""
        count = len(self.ids)
        blocks = list(range(-(-count // block_size)))
        prompt = count - self.one
        rows = [Row(f"test {i}", list(self.ids), GREEDY, 0, count, prompt, blocks=blocks) for i in range(self.rows)]
        return [Piece(row, count - 1, 1) if self.one else Piece(row, 0, count) for row in rows]


def _tried(runner: Runner | GpuRunner, trying: _Try, expected: Tensor) -> float:
    """How far off the logits [vocab] are, relative to what is expected. Raises StartupError where that is too much."""
    tokens, logits = runner.run_for_logits(trying.pieces(runner.block_size))
    error = _error(logits, expected)
    bound = ROUNDED if isinstance(runner, Runner) and runner.rounds else BOUND[runner.cache.keys.dtype]
    if not error < bound or not _are_likeliest(tokens, logits):
        what = f"{trying.rows} rows" if trying.one else f"a prompt of {len(trying.ids)} tokens"
        raise StartupError(
            f"The engine computes wrong numbers on this device: {error:.1%} off for {what}. Upgrade PyTorch, Triton "
            "and the driver, or set BLUELM_KERNELS to plain (slower), or BLUELM_DEVICE to cpu."
        )
    return error


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
            tensor = stored.weight if isinstance(stored, Dense | Blocked) else stored
            if isinstance(tensor, Tensor):
                yield f"model.layers.{index}.{' + '.join(PARTS[part])}", tensor
    yield "model.norm", weights.norm
    if isinstance(weights.lm_head, Dense | Blocked):
        yield "lm_head", weights.lm_head.weight
