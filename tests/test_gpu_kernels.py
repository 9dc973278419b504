"""The card's kernels against the plain twin: on a CUDA device, or in Triton's interpreter (see test_gpu.py)."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from bluelm.engine.attention import paged_attention
from bluelm.engine.runner import Runner
from bluelm.engine.sampler import sample_row
from bluelm.engine.scheduler import BlockPool, Piece, Row, Scheduler
from bluelm.types import SamplingParams
from tests.gpu_kit import INTERPRETED
from tests.tiny import BLOCK, GREEDY, VOCAB, row, step, tiny_llama

if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a CUDA device or Triton's interpreter", allow_module_level=True)
pytest.importorskip("triton")

from bluelm.engine.gpu import products, rows
from bluelm.engine.gpu.attend import Paged, attend
from bluelm.engine.gpu.runner import GpuRunner
from bluelm.engine.gpu.sample import Scratch, sample
from bluelm.engine.gpu.shapes import Strip, Tile
from bluelm.engine.gpu.states import States
from bluelm.engine.gpu.vector import vector

DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
# The interpreter multiplies bfloat16 wrongly without saying so.
DTYPES = [torch.float16, torch.float32] if INTERPRETED else [torch.bfloat16, torch.float16, torch.float32]
BOUND = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def error(ours: torch.Tensor, truth: torch.Tensor) -> float:
    return float((ours.double() - truth.double()).norm() / truth.double().norm())


def random(*shape: int, dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
    return (torch.randn(*shape) * scale).to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", [products.PLAIN, products.ADD, products.GATED])
@pytest.mark.parametrize(
    "count, inner, outer, across, halved",
    [(1, 64, 96, 0, 0), (5, 80, 33, 1, 0), (19, 144, 70, 0, 0), (9, 576, 40, 1, 1)],
)
def test_a_product(dtype, kind, count, inner, outer, across, halved) -> None:  # type: ignore[no-untyped-def]
    x = random(count, inner, dtype=dtype)
    weight = random(outer * (2 if kind == products.GATED else 1), inner, dtype=dtype, scale=inner**-0.5)
    y = random(count + 1, outer, dtype=dtype) if kind == products.ADD else x.new_full((count + 1, outer), torch.nan)
    y[count] = 7.0
    truth = products.reference(x, weight, y[:count], kind)
    parts = products.Parts(count, outer, DEVICE) if halved and kind != products.GATED else None
    products.product(x, weight, y, count, Tile(16 if inner == 80 else 32, 64, 4, 3, across=across), kind, parts)
    assert error(y[:count], truth) < BOUND[dtype]
    assert (y[count] == 7.0).all(), "a row of nobody was written"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", [products.PLAIN, products.ADD, products.GATED])
@pytest.mark.parametrize("inner, outer, normed", [(80, 33, True), (144, 70, False)])
def test_a_product_of_one_row(dtype: torch.dtype, kind: int, inner: int, outer: int, normed: bool) -> None:
    x, gain = random(1, inner, dtype=dtype, scale=3.0), random(inner, dtype=dtype)
    weight = random(outer * (2 if kind == products.GATED else 1), inner, dtype=dtype, scale=inner**-0.5)
    y = random(1, outer, dtype=dtype) if kind == products.ADD else x.new_full((1, outer), torch.nan)
    into = torch.nn.functional.rms_norm(x.double(), (inner,), gain.double(), 1e-5) if normed else x
    truth = products.reference(into, weight, y, kind)
    vector(x, weight, y, kind, gain=gain if normed else None, eps=1e-5, shape=Strip(4, 64, 4))
    assert error(y, truth) < BOUND[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_rows_kernels(dtype: torch.dtype) -> None:
    x, weight = random(3, 576, dtype=dtype), random(576, dtype=dtype)
    y = torch.full_like(x, torch.nan)
    rows.norm(x, weight, y, 3, 1e-5)
    assert error(y, torch.nn.functional.rms_norm(x.double(), (576,), weight.double(), 1e-5)) < BOUND[dtype]
    both = random(3, 2 * 96, dtype=dtype)
    out = torch.full_like(both[:, :96], torch.nan).contiguous()
    rows.gate(both, out)
    first, second = both.double().chunk(2, dim=-1)
    assert error(out, torch.nn.functional.silu(first) * second) < BOUND[dtype]
    slots = torch.tensor([1, 0, 2], dtype=torch.int32, device=DEVICE)
    token = torch.tensor([5, 3, -1], dtype=torch.int32, device=DEVICE)
    table = random(9, 576, dtype=dtype)
    rows.embed(slots, token, table, y, 3)
    assert torch.equal(y, table[[3, 5, 0]])


def plain_attention(qkv, keys, values, tables, positions, cos, sin, heads):  # type: ignore[no-untyped-def]
    """What `attend` must give, by the plain twin in float64; keys and values get the new tokens."""
    from bluelm.engine.attention import RowGroup, Step
    from bluelm.engine.model import rotate

    kv, dim = keys.shape[1:]
    q, k, v = (part.double() for part in qkv.split([heads * dim, kv * dim, kv * dim], dim=-1))
    cos, sin = cos[positions].double()[:, None], sin[positions].double()[:, None]
    places = [[tables[i][t // BLOCK] * BLOCK + t % BLOCK for t in range(p + 1)] for i, p in enumerate(positions)]
    new = torch.tensor([row[-1] for row in places], device=DEVICE)
    k64, v64 = keys.double(), values.double()
    k64[new] = rotate(k.view(-1, kv, dim), cos, sin).to(keys.dtype).double()
    v64[new] = v.view(-1, kv, dim).to(values.dtype).double()
    longest = max(map(len, places))
    padded = torch.tensor([row + [0] * (longest - len(row)) for row in places], device=DEVICE)
    lengths = torch.tensor([len(row) for row in places], device=DEVICE)
    mask = torch.arange(longest, device=DEVICE)[None] < lengths[:, None]
    empty = torch.empty(0, device=DEVICE)
    step = Step(empty, empty, empty, (RowGroup(0, len(places), padded, mask[:, None, None]),), (), empty)
    return paged_attention(rotate(q.view(-1, heads, dim), cos, sin), k64, v64, step), k64, v64


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("heads, kv, dim", [(2, 2, 32), (6, 2, 16)])
def test_attention_over_blocks_in_any_order(dtype: torch.dtype, heads: int, kv: int, dim: int) -> None:
    positions = [0, 15, 16, 31, 32, 75] if INTERPRETED else [0, 15, 16, 127, 128, 300]
    blocks, context = 20, 320
    flat = torch.randperm(6 * blocks).tolist()
    tables = [flat[i * blocks : (i + 1) * blocks] for i in range(6)]
    angles = torch.outer(torch.arange(context).float(), torch.rand(dim // 2))
    cos = torch.cat((angles.cos(), angles.cos()), -1).to(DEVICE)
    sin = torch.cat((-angles.sin(), angles.sin()), -1).to(DEVICE)
    keys, values = (random(6 * blocks * BLOCK, kv, dim, dtype=dtype) for _ in range(2))
    qkv = random(6, (heads + 2 * kv) * dim, dtype=dtype)
    truth, k64, v64 = plain_attention(qkv, keys, values, tables, positions, cos, sin, heads)
    order = [3, 0, 5, 1, 4, 2]  # the states of the batch's rows
    slots = torch.tensor(order, dtype=torch.int32, device=DEVICE)
    position, table = torch.zeros(6, dtype=torch.int32), torch.zeros(6, blocks, dtype=torch.int32)
    for i, state in enumerate(order):
        position[state], table[state] = positions[i], torch.tensor(tables[i], dtype=torch.int32)
    paged = Paged.make(slots, position.to(DEVICE), table.to(DEVICE), cos, sin, heads, kv, BLOCK)
    y = qkv.new_full((6, heads * dim), torch.nan)
    for _ in range(2):  # the second time finds its counters as the first did
        attend(qkv, keys, values, y, paged, 6)
        assert error(y, truth) < BOUND[dtype]
    assert error(keys, k64) < BOUND[dtype] and error(values, v64) < BOUND[dtype]
    alone = Paged.make(slots[5:].clone(), paged.position, paged.tables, cos, sin, heads, kv, BLOCK)
    one = torch.empty_like(y[:1])
    attend(qkv[5:].contiguous(), keys, values, one, alone, 1)
    assert torch.equal(one[0], y[5]), "a row's numbers depend on its company"


def draw(logits: torch.Tensor, vocab: int, params: list[SamplingParams], seen: list[list[int]], seed: int = 1) -> list:
    """Tokens of rows with these settings, through the device's sampler."""
    count, width = logits.shape
    states = States(count, width, 1, DEVICE)
    made = [Row(str(i), [*s, 0], p, seed + i, 99) for i, (p, s) in enumerate(zip(params, seen, strict=True))]
    states.place(made)
    for each in made:
        states.write(each, len(each.tokens) - 1)
    slots = torch.tensor([states.slot(each) for each in made], dtype=torch.int32, device=DEVICE)
    sample(logits.to(DEVICE), slots, states, Scratch.make(count, width, DEVICE), count, vocab)
    return [int(states.token[slot]) for slot in slots.tolist()]


def test_greedy_and_broken_rows() -> None:
    logits = torch.randn(6, 1500)
    logits[:, 1400:] = 50.0  # ids that the tokenizer does not have
    logits[2, 7] = torch.nan
    logits[3] = -torch.inf
    logits[4, 11] = 9.0
    params = [GREEDY, SamplingParams(top_k=1), GREEDY, GREEDY, SamplingParams(temperature=0.0, repetition_penalty=9.0)]
    params.append(SamplingParams(temperature=0.0, repetition_penalty=1.3))
    seen: list[list[int]] = [[], [], [], [], [11, 11], [int(logits[5, :1400].argmax()), 3]]
    oracle = [sample_row(logits[i, :1400].clone(), params[i], [*seen[i], 0], 0.5) for i in range(6)]
    assert draw(logits.clone(), 1400, params, seen) == oracle
    assert oracle[2] == oracle[3] == -1


@pytest.mark.parametrize(
    "top_k, top_p, temperature", [(0, 1.0, 0.7), (0, 0.6, 1.0), (3, 1.0, 2.0), (5, 0.7, 1.0), (0, 1e-6, 1.0)]
)
def test_draws_follow_the_allowed_probabilities(top_k: int, top_p: float, temperature: float) -> None:
    """Many rows with the same logits and different seeds; the frequencies against the exact probabilities."""
    torch.manual_seed(0)  # among 40 rows one rare token is beyond the bound: with other logits each time some runs fail
    count = 40 if INTERPRETED else 4000
    logits = torch.randn(12)
    weights = torch.softmax(logits.double() / temperature, 0).sort(descending=True)
    chance, ids = weights.values.clone(), weights.indices
    if top_k:
        chance[top_k:] = 0
    before = chance.cumsum(0) - chance
    chance[before >= top_p * chance.sum()] = 0
    chance /= chance.sum()
    params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p)
    found = torch.tensor(draw(logits.repeat(count, 1), 12, [params] * count, [[]] * count))
    often = torch.stack([(found == id).sum() for id in ids]) / count
    assert (often[chance == 0] == 0).all(), "a token that top-k or top-p left out"
    assert ((often - chance).abs() < 4.5 * (chance * (1 - chance) / count).sqrt() + 1e-9).all()


def test_top_k_among_many() -> None:
    """k-th greatest of a large vocabulary, with ties and with rows of different settings."""
    logits = torch.randn(3, 5000)
    logits[2] = logits[2].round(decimals=1)
    params = [SamplingParams(temperature=2.0, top_k=k) for k in (50, 2, 7)]
    for seed in range(3):
        found = draw(logits.clone(), 5000, params, [[]] * 3, seed)
        for i, p in enumerate(params):
            assert logits[i, found[i]] >= logits[i].topk(p.top_k).values[-1]


def answers(make, model, prompts, new, *, blocks=40, running=4, params=GREEDY):  # type: ignore[no-untyped-def]
    """Tokens of all rows, served together."""
    runner = make(model, blocks=blocks, block_size=BLOCK, vocab=VOCAB)
    pool = BlockPool(blocks, BLOCK)
    scheduler = Scheduler(pool, max_running=running, step_tokens=32, retrace=runner.retrace)
    made = [row(str(i), prompt, new, params, seed=i) for i, prompt in enumerate(prompts)]
    for each in made:
        scheduler.add(each)
    while not scheduler.idle:
        step(scheduler, runner)
    return [each.tokens for each in made], scheduler


def on_card(model, **parts):  # type: ignore[no-untyped-def]
    return GpuRunner(model, max_running=4, exact=True, **parts)


def prompts(*lengths: int) -> list[list[int]]:
    torch.manual_seed(5)
    return [torch.randint(0, VOCAB, (length,)).tolist() for length in lengths]


@pytest.mark.parametrize("kv_heads", [2] if INTERPRETED else [4, 2, 1])
def test_greedy_tokens_equal_the_plain_runner(kv_heads: int) -> None:
    """Prompts in pieces, more rows than run at once, a cache so small that rows are put back."""
    model, _ = tiny_llama(kv_heads=kv_heads)
    lengths = (30, 1, 14) if INTERPRETED else (5, 33, 1, 20, 47, 16, 15)
    new = 4 if INTERPRETED else 40
    plain, _ = answers(Runner, model, prompts(*lengths), new)
    blocks = 4 if INTERPRETED else 12
    ours, scheduler = answers(on_card, moved(model), prompts(*lengths), new, blocks=blocks)
    assert scheduler.preemptions > 0
    assert ours == plain


def test_a_seed_gives_the_same_text_in_any_company() -> None:
    model, _ = tiny_llama(kv_heads=4)
    params = SamplingParams(temperature=0.9, top_p=0.9, top_k=0 if INTERPRETED else 30, repetition_penalty=1.2)
    new = 2 if INTERPRETED else 40
    first, *others = prompts(9, 4)
    alone, _ = answers(on_card, moved(model), [first], new, params=params)
    among, _ = answers(on_card, moved(model), [first, *others], new, params=params)
    assert among[0] == alone[0]
    if INTERPRETED:  # too slow there
        return
    fast, _ = answers(partial(GpuRunner, max_running=1), moved(model), [first], new, params=params)
    assert fast[0] == alone[0]  # in float32 the faster way for one row hardly differs


@pytest.mark.skipif(INTERPRETED, reason="needs PyTorch's attention kernels for CUDA")
def test_pieces_of_prompts_by_graph_and_without() -> None:
    """In bfloat16, at the start of rows and behind a history, against plain attention."""
    model, _ = tiny_llama(kv_heads=2)
    runner = on_card(moved(model, torch.bfloat16), blocks=64, block_size=BLOCK, vocab=VOCAB)
    prefill = runner._prefill
    made = [row(str(i), prompt, 1) for i, prompt in enumerate(prompts(33, 90, 20))]
    for i, each in enumerate(made):
        each.blocks = list(range(i * 7, i * 7 + 7))
    first = [Piece(each, 0, 17) for each in made]
    second = [Piece(each, 17, len(each.tokens) - 17) for each in made]
    results = []
    for flash, graphs in ((True, prefill._graphs), (True, {}), (False, {})):
        prefill._flash, prefill._graphs = flash, dict(graphs)
        with torch.inference_mode():
            runner.cache.keys.fill_(torch.nan)
            steps = (first, second, [Piece(made[1], 0, 90)])
            results.append(torch.cat([prefill(pieces)[0].clone() for pieces in steps]))
    for result in results[:2]:
        assert error(result, results[2]) < BOUND[torch.bfloat16]


@pytest.mark.skipif(INTERPRETED, reason="needs PyTorch's attention kernels for CUDA")
def test_exact_rows_are_the_same_in_any_company_to_the_last_bit() -> None:
    """In bfloat16, where another order of sums soon gives other tokens. Also where rows are put back since the cache is
    small, and where a prompt goes on from an answer that is in the cache."""
    model, _ = tiny_llama(kv_heads=4)
    there, asked = moved(model, torch.bfloat16), prompts(9, 70, 33, 17, 64, 100, 5, 21)
    asked.append(answers(on_card, there, asked[:1], 60)[0][0] + [7] * 9)
    among, _ = answers(on_card, there, asked, 60, blocks=100)
    crowded, scheduler = answers(on_card, there, asked, 60, blocks=18)
    assert scheduler.preemptions > 0 and crowded == among
    for i, prompt in enumerate(asked):
        alone, _ = answers(on_card, there, [prompt], 60, blocks=100)
        assert alone[0] == among[i]


def moved(model, dtype=torch.float32):  # type: ignore[no-untyped-def]
    """The model on the device under test."""
    from dataclasses import replace

    from bluelm.engine.linear import Dense
    from bluelm.engine.model import Llama

    def dense(linear: Dense) -> Dense:
        return Dense(linear.weight.to(DEVICE, dtype))

    weights = model.weights
    layers = [
        replace(
            layer, input_norm=layer.input_norm.to(DEVICE, dtype), post_norm=layer.post_norm.to(DEVICE, dtype),
            qkv=dense(layer.qkv), o=dense(layer.o), gate_up=dense(layer.gate_up), down=dense(layer.down),
        )
        for layer in weights.layers
    ]  # fmt: skip
    there = replace(
        weights, embedding=weights.embedding.to(DEVICE, dtype), layers=tuple(layers),
        norm=weights.norm.to(DEVICE, dtype), lm_head=dense(weights.lm_head),
    )  # fmt: skip
    return Llama(model.config, there)
