"""Tiny random Llamas, as ours and as transformers', with the same weights."""

from __future__ import annotations

import torch
from transformers import LlamaConfig as TheirConfig
from transformers import LlamaForCausalLM

from bluelm.engine.model import Llama, LlamaConfig
from bluelm.engine.runner import Runner
from bluelm.engine.scheduler import BlockPool, Row, Scheduler
from bluelm.engine.weights import from_state_dict
from bluelm.types import SamplingParams

torch.set_num_threads(1)  # tiny products: a second thread only waits
VOCAB, CONTEXT, BLOCK = 131, 256, 16
GREEDY = SamplingParams(temperature=0.0)


def tiny_llama(*, kv_heads: int = 4, tied: bool = False, seed: int = 0) -> tuple[Llama, LlamaForCausalLM]:
    """Three layers, hidden 64, 4 heads; wide initial weights, so that greedy choices are clear."""
    torch.manual_seed(seed)
    config = TheirConfig(
        vocab_size=VOCAB,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=kv_heads,
        head_dim=16,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=tied,
        rms_norm_eps=1e-5,
        initializer_range=0.2,
    )
    theirs = LlamaForCausalLM(config).float().eval()
    tensors = {name: t for name, t in theirs.state_dict().items() if not (tied and name == "lm_head.weight")}
    ours = LlamaConfig(VOCAB, 64, 96, 3, 4, kv_heads, 16, CONTEXT, 1e-5, 10000.0)
    return Llama(ours, from_state_dict(ours, tensors)), theirs


def runner_of(model: Llama) -> type[Runner]:
    """What serves it."""
    if not any(type(matrix).__name__ == "Native" for matrix in model.weights.matrices):
        return Runner
    from bluelm.engine.native.runner import NativeRunner

    return NativeRunner


def engine_parts(  # type: ignore[no-untyped-def]
    model: Llama, *, blocks: int = 64, max_running: int = 32, step_tokens: int = 64, exact: bool = False
):
    pool = BlockPool(blocks, BLOCK)
    runner = runner_of(model)(model, blocks=blocks, block_size=BLOCK, vocab=model.config.vocab, exact=exact)
    return Scheduler(pool, max_running=max_running, step_tokens=step_tokens), runner


def step(scheduler: Scheduler, runner: Runner) -> None:
    """One step; rows that reached their length leave."""
    pieces = scheduler.plan()
    assert pieces or scheduler.idle
    for piece, token in zip(pieces, runner.run(pieces), strict=True):
        scheduler.commit(piece, token)
        if len(piece.row.tokens) >= piece.row.max_tokens and token is not None:
            scheduler.remove(piece.row)
    scheduler.pool.check()


def greedy(theirs: LlamaForCausalLM, prompt: list[int], new: int) -> list[int]:
    """Prompt and answer by transformers' own generate."""
    ids = torch.tensor([prompt])
    out = theirs.generate(  # type: ignore[misc]
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    return out[0].tolist()


def row(id: str, prompt: list[int], new: int, params: SamplingParams = GREEDY, seed: int = 0) -> Row:
    return Row(id, list(prompt), params, seed, len(prompt) + new)
