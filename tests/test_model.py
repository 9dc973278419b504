"""The forward pass, alone and in company, against transformers with the same weights, in float32."""

from __future__ import annotations

import pytest
import torch

from bluelm.engine import kept
from bluelm.engine.model import KVCache, Llama
from bluelm.engine.weights import from_state_dict
from bluelm.errors import CheckpointError
from bluelm.types import SamplingParams
from tests.tiny import VOCAB, engine_parts, greedy, row, step, tiny_llama

SHAPES = [
    pytest.param({"kv_heads": 4, "tied": False}, id="every head its own keys"),
    pytest.param({"kv_heads": 2, "tied": True}, id="grouped queries, tied head"),
    pytest.param({"kv_heads": 1, "tied": False}, id="one key head"),
]


def prompts(count: int, seed: int = 1, longest: int = 70) -> list[list[int]]:
    torch.manual_seed(seed)
    lengths = torch.randint(1, longest, (count,)).tolist()
    return [torch.randint(0, VOCAB, (length,)).tolist() for length in lengths]


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_tokens_equal_transformers_alone(shape: dict) -> None:
    model, theirs = tiny_llama(**shape)
    for prompt in prompts(3):
        scheduler, runner = engine_parts(model)
        scheduler.add(ours := row("a", prompt, 40))
        while not scheduler.idle:
            step(scheduler, runner)
        assert ours.tokens == greedy(theirs, prompt, 40)


@pytest.mark.parametrize("shape", SHAPES)
def test_greedy_tokens_equal_transformers_with_strangers_joining_and_leaving(shape: dict) -> None:
    """Chunked prompts, a cache too small for all (rows are put back), others that come and are cancelled."""
    model, theirs = tiny_llama(**shape)
    scheduler, runner = engine_parts(model, blocks=12, max_running=6, step_tokens=24)
    ours = [row(str(i), prompt, 25) for i, prompt in enumerate(prompts(8))]
    strangers = [row(f"s{i}", prompt, 60) for i, prompt in enumerate(prompts(6, seed=9))]
    arrivals = iter(zip(ours, [*strangers, None, None], strict=True))
    steps = 0
    while not scheduler.idle or steps < 40:
        if steps % 3 == 0 and (pair := next(arrivals, None)):
            for each in filter(None, pair):
                scheduler.add(each)
        if steps % 7 == 6 and strangers:
            scheduler.remove(strangers.pop(0))
        step(scheduler, runner)
        steps += 1
    assert scheduler.preemptions > 0
    assert scheduler.pool.free == scheduler.pool.total
    for i, prompt in enumerate(prompts(8)):
        assert ours[i].tokens == greedy(theirs, prompt, 25)


def test_a_shared_prefix_is_reused_and_changes_nothing() -> None:
    model, theirs = tiny_llama(kv_heads=2)
    scheduler, runner = engine_parts(model)
    first = prompts(1, seed=3, longest=120)[0] + [1] * 40
    scheduler.add(one := row("1", first, 20))
    while not scheduler.idle:
        step(scheduler, runner)
    second = [*one.tokens, 5, 6, 7]
    scheduler.add(two := row("2", second, 20))
    while not scheduler.idle:
        step(scheduler, runner)
    assert two.cached >= len(one.tokens) - 17
    assert two.tokens == greedy(theirs, second, 20)


@pytest.mark.parametrize(
    "temperature, top_p, top_k, penalty", [(1.0, 1.0, 0, 1.0), (0.8, 0.9, 0, 1.1), (1.3, 1.0, 20, 1.2)]
)
def test_the_same_seed_gives_the_same_text_in_any_company(temperature, top_p, top_k, penalty) -> None:  # type: ignore[no-untyped-def]
    model, _ = tiny_llama()
    params = SamplingParams(temperature=temperature, top_p=top_p, top_k=top_k, repetition_penalty=penalty)
    prompt = prompts(1, seed=5)[0]
    texts = []
    for company in (0, 7):
        scheduler, runner = engine_parts(model, blocks=28, step_tokens=16)
        others = (
            [row(f"o{i}", p, 50, params, seed=i) for i, p in enumerate(prompts(company, seed=6))] if company else []
        )
        for other in others:
            scheduler.add(other)
        scheduler.add(ours := row("x", prompt, 40, params, seed=1234))
        while not scheduler.idle:
            step(scheduler, runner)
        texts.append(ours.tokens)
    assert texts[0] == texts[1]


def no_room(cache: KVCache, slots: torch.Tensor) -> KVCache:
    raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 byte")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [3, 12])
def test_decoding_by_a_trace_and_side_by_side_changes_no_bit(
    dtype: torch.dtype, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {name: t.to(dtype) for name, t in tiny_llama(kv_heads=2)[1].state_dict().items()}
    config, rows = tiny_llama(kv_heads=2)[0].config, []
    model = Llama(config, from_state_dict(config, tensors))
    caches = []
    for traces, most, gathered in (
        (model._traced, kept.MOST, KVCache.gathered), ({}, kept.MOST, KVCache.gathered), ({}, 0, KVCache.gathered),
        (model._traced, kept.MOST, no_room),
    ):  # fmt: skip
        model._traced = traces
        monkeypatch.setattr(kept, "MOST", most)
        monkeypatch.setattr(KVCache, "gathered", gathered)
        scheduler, runner = engine_parts(model)
        rows.append([row(str(i), prompt, 30) for i, prompt in enumerate(prompts(count, seed=2))])
        for each in rows[-1][1:]:
            scheduler.add(each)
        step(scheduler, runner)
        step(scheduler, runner)
        scheduler.add(rows[-1][0])
        while not scheduler.idle:
            step(scheduler, runner)
        caches.append(runner.cache)
    for other, cache in zip(rows[1:], caches[1:], strict=True):
        assert [each.tokens for each in rows[0]] == [each.tokens for each in other]
        assert torch.equal(caches[0].keys, cache.keys) and torch.equal(caches[0].values, cache.values)


def test_a_missing_or_misshapen_tensor_is_named() -> None:
    model, theirs = tiny_llama()
    tensors = dict(theirs.state_dict())
    del tensors["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.up_proj\.weight is missing"):
        from_state_dict(model.config, tensors)
    tensors = dict(theirs.state_dict())
    tensors["model.norm.weight"] = torch.zeros(3)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight has the shape"):
        from_state_dict(model.config, tensors)
