"""Products in 4 and 8 bits on the card against float64: on a CUDA device, or in Triton's interpreter (test_gpu.py)."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import Tensor

from bluelm.engine.attention import Span, Step
from bluelm.engine.gpu import inputs, packing, products
from bluelm.engine.gpu.expand import expand4, expand8
from bluelm.engine.gpu.finish import Parts
from bluelm.engine.gpu.packed import Int4Gpu, Int8Gpu, Packed
from bluelm.engine.gpu.products4 import product4
from bluelm.engine.gpu.products8 import product8
from bluelm.engine.gpu.runner import GpuRunner
from bluelm.engine.gpu.shapes_packed import PARTS, Tile
from bluelm.engine.gpu.vector_packed import vector
from bluelm.engine.linear import Dense, Form, Grouped4, Int8, Linear, Quantization, linear
from bluelm.engine.model import KVCache, Layer, Llama
from bluelm.engine.rounding import rounded, to_int4, to_int8
from bluelm.engine.runner import Runner
from bluelm.engine.scheduler import Piece, Row
from tests.test_gpu_kernels import BOUND, DEVICE, DTYPES, INTERPRETED, answers, error, moved, prompts, random
from tests.tiny import BLOCK, GREEDY, VOCAB, tiny_llama

KINDS = [products.PLAIN, products.ADD, products.GATED]
TILES = [Tile(16, 1, 1, 2), Tile(32, 2, 2, 3), Tile(64, 1, 4, 3)]


def codes4(outer: int, inner: int, group: int, *, ordered: bool = False) -> Grouped4:
    """Random codes, scales that float16 holds, and zero points that are whole numbers for half of the groups."""
    scale = (0.005 + 0.01 * torch.rand(outer, inner // group)).half().float()
    zero = 15 * torch.rand(scale.shape)
    zero = torch.where(torch.rand(scale.shape) < 0.5, zero.round(), zero)
    order = torch.randperm(inner).to(DEVICE) if ordered else None
    codes = torch.randint(0, 16, (outer, inner), dtype=torch.uint8)
    return Grouped4(codes.to(DEVICE), scale.to(DEVICE), (-scale * zero).to(DEVICE), order)


def codes8(outer: int, inner: int) -> Int8:
    codes = torch.randint(-127, 128, (outer, inner), dtype=torch.int8)
    return Int8(codes.to(DEVICE), 0.001 * torch.rand(outer, device=DEVICE) + 0.0001)


def output(count: int, outer: int, kind: int, dtype: torch.dtype) -> Tensor:
    """Poisoned, or what is added to; with a row that nobody may write."""
    y = random(count + 1, outer, dtype=dtype) if kind == products.ADD else torch.full((count + 1, outer), torch.nan)
    y = y.to(DEVICE, dtype)
    y[count] = 7.0
    return y


@pytest.mark.parametrize("group, inner", [(32, 96), (32, 256), (64, 192), (128, 384)])
def test_packing_keeps_every_code(group: int, inner: int) -> None:
    stored = codes4(32, inner, group)
    words, steps = packing.pack4(stored)
    assert error(packing.unpack4(words, steps, inner), stored.dequantize()) < 1e-3
    eight = codes8(32, inner)
    assert torch.equal(packing.unpack8(packing.pack8(eight), inner), eight.codes)


@pytest.mark.parametrize("value", [0.0, 3.0, -1000.0, 1e-6])
def test_groups_of_one_number_keep_it(value: float) -> None:
    stored = to_int4(torch.full((16, 128), value))
    found = packing.unpack4(*packing.pack4(stored), 128)
    assert (found - value).abs().max() <= 1e-3 * abs(value)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "count, group, inner, outer, tile",
    [(1, 128, 384, 48, 2), (5, 64, 320, 80, 1), (9, 32, 96, 48, 0), (1, 32, 288, 16, 1), (70, 32, 64, 16, 0)],
)
def test_a_product_in_4_bits(dtype, kind, count, group, inner, outer, tile) -> None:  # type: ignore[no-untyped-def]
    stored = codes4(outer * (2 if kind == products.GATED else 1), inner, group)
    words, steps = packing.pack4(stored)
    x = random(count, inner, dtype=dtype)
    x += 0.2
    y = output(count, outer, kind, dtype)
    truth = products.reference(x, packing.unpack4(words, steps, inner), y[:count], kind)
    sums = torch.full((inner // 32 + 4, count + 3), torch.nan, device=DEVICE)
    inputs.prepare(x, x, sums, count, group)
    parts = Parts(count, outer, PARTS, DEVICE)
    product4(x, sums, words, steps, y, count, group, TILES[tile], kind, parts)
    assert error(y[:count], truth) < BOUND[dtype]
    assert (y[count] == 7.0).all(), "a row of nobody was written"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count, inner, outer, tile", [(1, 384, 48, 2), (5, 80, 80, 1), (70, 288, 16, 0)])
def test_a_product_in_8_bits(dtype, kind, count, inner, outer, tile) -> None:  # type: ignore[no-untyped-def]
    stored = codes8(outer * (2 if kind == products.GATED else 1), inner)
    x = random(count, inner, dtype=dtype)
    y = output(count, outer, kind, dtype)
    truth = products.reference(x, stored.codes.double() * stored.scale.double()[:, None], y[:count], kind)
    parts = Parts(count, outer, PARTS, DEVICE)
    product8(x, packing.pack8(stored), stored.scale, y, count, TILES[tile], kind, parts)
    assert error(y[:count], truth) < BOUND[dtype]
    assert (y[count] == 7.0).all(), "a row of nobody was written"


@pytest.mark.parametrize("dtype", DTYPES if INTERPRETED else DTYPES[:2], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "inner, group, warps, normed", [(256, 128, 2, True), (320, 64, 4, False), (96, 32, 1, True), (704, 32, 4, True)]
)
def test_a_product_of_one_row(dtype, kind, inner, group, warps, normed) -> None:  # type: ignore[no-untyped-def]
    outer = 64 if kind == products.GATED else 32
    x, gain = random(1, inner, dtype=dtype, scale=3.0), random(inner, dtype=dtype)
    into = torch.nn.functional.rms_norm(x.double(), (inner,), gain.double(), 1e-5) if normed else x
    words, steps = packing.pack4(codes4(outer, inner, group))
    eight = codes8(outer, inner)
    for bits, matrix, of, truth in (
        (4, words, steps, packing.unpack4(words, steps, inner)),
        (8, packing.pack8(eight), eight.scale, eight.dequantize()),
    ):
        y = output(1, 32, kind, dtype)
        truth = products.reference(into, truth, y[:1], kind)
        vector(x, matrix, of, y, bits, group, warps, kind, gain=gain if normed else None, eps=1e-5)
        assert error(y[:1], truth) < BOUND[dtype]
        assert (y[1] == 7.0).all(), "a row of nobody was written"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("group, inner", [(32, 96), (128, 2176)])
def test_inputs_are_normed_ordered_and_summed(dtype, normed, ordered, group, inner) -> None:  # type: ignore[no-untyped-def]
    x, gain = random(3, inner, dtype=dtype, scale=3.0), random(inner, dtype=dtype)
    order = torch.randperm(inner, dtype=torch.int32).to(DEVICE)
    y, sums = torch.full_like(x, torch.nan), torch.full((inner // group + 4, 4), torch.nan, device=DEVICE)
    found = inputs.prepare(
        x, y, sums, 3, group, gain=gain if normed else None, order=order if ordered else None, eps=1e-5
    )
    truth = torch.nn.functional.rms_norm(x.double(), (inner,), gain.double(), 1e-5) if normed else x
    truth = truth[:, order.long()] if ordered else truth
    assert error(found, truth) < BOUND[dtype]
    assert error(sums[: inner // group, :3].T, found.double().view(3, -1, group).sum(-1)) < 1e-5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("group, inner", [(32, 96), (64, 192), (128, 384)])
def test_expanded_matrices(dtype: torch.dtype, group: int, inner: int) -> None:
    words, steps = packing.pack4(codes4(48, inner, group))
    assert error(expand4(words, steps, inner, group, dtype), packing.unpack4(words, steps, inner)) < BOUND[dtype]
    eight = codes8(48, inner)
    assert torch.equal(expand8(packing.pack8(eight), inner, dtype), eight.codes.to(dtype))


@pytest.mark.parametrize("rows", [3, 300])
@pytest.mark.parametrize("ordered", [False, True])
def test_prompts_of_any_length(rows: int, ordered: bool) -> None:
    dtype = DTYPES[0]
    stored, eight = codes4(32, 64, 32, ordered=ordered), codes8(32, 64)
    x = random(rows, 64, dtype=dtype)
    assert error(Int4Gpu.of(stored)(x), x.double() @ stored.dequantize().double().T) < BOUND[dtype]
    truth = x.double() @ (eight.codes.double() * eight.scale.double()[:, None]).T
    assert error(Int8Gpu.of(eight)(x), truth) < BOUND[dtype]


@pytest.mark.parametrize("packed", [Int4Gpu.of(codes4(96, 128, 64, ordered=True)), Int8Gpu.of(codes8(96, 128))])
def test_a_row_is_computed_alike_in_any_company(packed: Int4Gpu | Int8Gpu) -> None:
    dtype = DTYPES[0]
    x, gain = random(16, 128, dtype=dtype), random(128, dtype=dtype)
    y = random(16, 96, dtype=dtype)
    alone, room = y[3:4].clone(), Packed(16, [packed], x, [packed])
    packed.multiply("o", x, y, 16, products.ADD, room, gain=gain, eps=1e-5)
    packed.multiply("o", x[3:4].contiguous(), alone, 1, products.ADD, room, gain=gain, eps=1e-5)
    # NumPy, which the interpreter multiplies with, may sum a row in another order than its neighbour.
    assert error(alone[0], y[3]) < 1e-3 if INTERPRETED else torch.equal(alone[0], y[3])


def test_rounding_is_near_the_matrix() -> None:
    weight = torch.randn(48, 256)
    assert error(to_int4(weight).dequantize(), weight) < 0.11
    assert error(to_int4(weight, 32).dequantize(), weight) < 0.085
    eight = to_int8(weight)
    assert error(eight.codes * eight.scale[:, None], weight) < 0.01


def quantised(model: Llama, bits: Quantization, dtype: torch.dtype) -> tuple[Llama, Llama]:
    """The model rounded, for the card's kernels, and the same numbers in plain matrices."""
    form = Form(dtype, bits, kernels=True)

    def both(matrix: Linear) -> tuple[Linear, Linear]:
        assert isinstance(matrix, Dense)
        made = linear(rounded(matrix.weight.to(DEVICE), bits), form)
        if isinstance(made, Int4Gpu):
            return made, Dense(packing.unpack4(made.words, made.steps, made.inner).to(dtype))
        assert isinstance(made, Int8Gpu)
        return made, Dense((packing.unpack8(made.words, made.inner) * made.scale[:, None]).to(dtype))

    layers: tuple[list[Layer], list[Layer]] = ([], [])
    for layer in moved(model, dtype).weights.layers:
        made = {name: both(getattr(layer, name)) for name in ("qkv", "o", "gate_up", "down")}
        for which, some in enumerate(layers):
            some.append(replace(layer, **{name: pair[which] for name, pair in made.items()}))
    weights = moved(model, dtype).weights
    ours, plain = (Llama(model.config, replace(weights, layers=tuple(some))) for some in layers)
    return ours, plain


@pytest.mark.parametrize("bits", ["int4", "int8"])
def test_a_rounded_model_answers_as_its_plain_twin(bits: Quantization) -> None:
    """Prompts in pieces and decoding, in float32."""
    model, _ = tiny_llama(kv_heads=2)
    ours, plain = quantised(model, bits, torch.float32)
    lengths, new = ((18, 5), 2) if INTERPRETED else ((5, 33, 1, 20, 47), 30)
    expected, _ = answers(Runner, plain, prompts(*lengths), new)
    found, _ = answers(partial(GpuRunner, max_running=4, exact=True), ours, prompts(*lengths), new)
    assert found == expected
    assert ours.weights.precision == bits


@pytest.mark.parametrize("bits", ["int4", "int8"])
@pytest.mark.parametrize("exact", [False, True])
def test_a_rounded_model_gives_the_logits_of_its_plain_twin(bits: Quantization, exact: bool) -> None:
    """A prompt, then its last token alone and in company, in 16 bits."""
    model, _ = tiny_llama(kv_heads=2)
    layers = 1 if INTERPRETED else 3  # it is slow
    model = Llama(replace(model.config, layers=layers), replace(model.weights, layers=model.weights.layers[:layers]))
    ours, same = quantised(model, bits, DTYPES[0])
    plain = moved(same, torch.float32)
    [tokens] = prompts(6)
    places = torch.arange(6, device=DEVICE)
    step = Step(torch.tensor(tokens, device=DEVICE), places, places, (), (Span(0, 6, places, None),), places[-2:])
    expected = plain.forward(step, KVCache(plain.config, 6, plain.weights.norm))
    runner = GpuRunner(ours, blocks=4, block_size=BLOCK, vocab=VOCAB, max_running=4, exact=exact)

    def logits(rows: int, count: int, start: int) -> torch.Tensor:
        made = [Row(str(i), tokens[:count], GREEDY, 0, count, blocks=[0, 1]) for i in range(rows)]
        return runner.run_for_logits([Piece(each, start, count - start) for each in made])[1]

    bound = 10 * BOUND[DTYPES[0]]
    assert error(logits(1, 5, 0)[0], expected[0]) < bound
    for rows in ((3,) if exact else (1,)) if INTERPRETED else (1, 3):
        for found in logits(rows, 6, 5):
            assert error(found, expected[1]) < bound
