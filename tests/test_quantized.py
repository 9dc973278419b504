"""4-bit layouts against the formulas, computed number by number, and the products that keep the four bits."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from gguf.quants import dequantize, quantize
from hypothesis import given
from hypothesis import strategies as st

from bluelm.engine.linear import FEW, PIECE, Blocked, ByRows, Dense, Form, Grouped4, Int4Cpu, Int8, joined, linear
from bluelm.engine.quantized import from_q4_1, unpack
from bluelm.errors import CheckpointError

torch.set_num_threads(1)
AWQ_PLACES = [0, 2, 4, 6, 1, 3, 5, 7]


def packed(codes: np.ndarray, axis: int, places: list[int]) -> torch.Tensor:
    """Eight codes along `axis` into one int32, by plain loops: the i-th nibble holds code places[i]."""
    codes = np.moveaxis(codes.astype(np.int64), axis, -1)
    words = np.zeros((*codes.shape[:-1], codes.shape[-1] // 8), dtype=np.int64)
    for i, place in enumerate(places):
        words |= codes[..., place::8] << (4 * i)
    return torch.from_numpy(np.moveaxis(words.astype(np.uint32).view(np.int32), -1, axis).copy())


def random_case(seed: int, inner: int, out: int, group: int):  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 16, (inner, out))
    zeros = rng.integers(0, 15, (inner // group, out))
    scales = rng.normal(size=(inner // group, out)).astype(np.float16)
    return rng, codes, zeros, scales


@given(st.integers(0, 2**32 - 1), st.sampled_from([32, 64, 96]), st.sampled_from([8, 24]), st.sampled_from([16, 32]))
def test_gptq_is_exact(seed: int, inner: int, out: int, group: int) -> None:
    _, codes, zeros, scales = random_case(seed, inner, out, group)
    tensors = {
        "qweight": packed(codes, 0, list(range(8))),
        "qzeros": packed(zeros, 1, list(range(8))),
        "scales": torch.from_numpy(scales),
        "g_idx": torch.arange(inner, dtype=torch.int32) // group,
    }
    expected = np.empty((out, inner), dtype=np.float64)
    for k in range(inner):
        for n in range(out):
            expected[n, k] = float(scales[k // group, n]) * (int(codes[k, n]) - (int(zeros[k // group, n]) + 1))
    weight = unpack("gptq", tensors).dequantize()
    assert np.abs(weight.numpy() - expected).max() <= 1e-6 * np.abs(expected).max()


@given(st.integers(0, 2**32 - 1), st.sampled_from([32, 64]), st.sampled_from([8, 24]))
def test_gptq_with_any_order_of_groups_is_exact(seed: int, inner: int, out: int) -> None:
    rng, codes, zeros, scales = random_case(seed, inner, out, 16)
    g_idx = rng.permutation(np.arange(inner) // 16)
    tensors = {
        "qweight": packed(codes, 0, list(range(8))),
        "zeros": packed(zeros, 1, list(range(8))),
        "scales": torch.from_numpy(scales),
        "g_idx": torch.from_numpy(g_idx.astype(np.int32)),
    }
    stored = unpack("gptq", tensors)
    expected = (scales.astype(np.float64)[g_idx] * (codes - (zeros[g_idx] + 1))).T
    assert np.abs(stored.dequantize().numpy() - expected).max() <= 1e-6 * np.abs(expected).max()


@given(st.integers(0, 2**32 - 1), st.sampled_from([32, 64]), st.sampled_from([8, 24]))
def test_awq_is_exact(seed: int, inner: int, out: int) -> None:
    _, codes, zeros, scales = random_case(seed, inner, out, 32)
    tensors = {
        "qweight": packed(codes, 1, AWQ_PLACES),
        "qzeros": packed(zeros, 1, AWQ_PLACES),
        "scales": torch.from_numpy(scales),
    }
    expected = (scales.astype(np.float64).repeat(32, axis=0) * (codes - zeros.repeat(32, axis=0))).T
    assert np.abs(unpack("awq", tensors).dequantize().numpy() - expected).max() <= 1e-6 * np.abs(expected).max()


def test_q4_1_is_exactly_what_the_gguf_library_reads() -> None:
    numbers = np.random.default_rng(0).normal(size=(48, 96)).astype(np.float32)
    blocks = quantize(numbers, gguf.GGMLQuantizationType.Q4_1)
    assert np.array_equal(from_q4_1(blocks).dequantize().numpy(), dequantize(blocks, gguf.GGMLQuantizationType.Q4_1))


@pytest.mark.parametrize("rows", [1, 3, 16])
@pytest.mark.parametrize("ordered", [False, True])
def test_the_4_bit_product_is_the_dequantised_one(rows: int, ordered: bool) -> None:
    torch.manual_seed(rows)
    scale = torch.rand(48, 4)
    stored = Grouped4(torch.randint(0, 16, (48, 128), dtype=torch.uint8), scale, -7.3 * scale)
    if ordered:
        stored = Grouped4(stored.codes, stored.scale, stored.minimum, torch.randperm(128))
    product = linear(stored, Form(torch.bfloat16))
    assert isinstance(product, Int4Cpu) and product.bytes < 128 * 48 * 0.7
    x = torch.randn(rows, 128, dtype=torch.bfloat16)
    expected = x.double() @ stored.dequantize().double().T
    assert (product(x).double() - expected).norm() < 1e-2 * expected.norm()


needs_bfloat16 = pytest.mark.skipif(
    not Blocked.takes(torch.bfloat16, torch.device("cpu")), reason="this processor has no bfloat16 products"
)


@needs_bfloat16
@pytest.mark.parametrize("rows", [1, PIECE, PIECE + 5, 100])
@pytest.mark.parametrize("exact", [True, False])
def test_a_blocked_matrix_multiplies_as_it_is_written(rows: int, exact: bool) -> None:
    weight, x = torch.randn(96, 80).bfloat16(), torch.randn(rows, 80).bfloat16()
    product = linear(weight, Form(exact=exact))
    assert isinstance(product, Blocked) and torch.equal(product.weight, weight)
    expected = x.double() @ weight.double().T
    assert (product(x).double() - expected).norm() < 1e-2 * expected.norm()


@needs_bfloat16
@pytest.mark.parametrize("shape", [(96, 80), (960, 576), (576, 1536), (2048, 2048)])
def test_an_exact_blocked_matrix_gives_a_row_the_same_bits_in_any_company(shape: tuple[int, int]) -> None:
    product, x = linear(torch.randn(shape).bfloat16(), Form(exact=True)), torch.randn(100, shape[1]).bfloat16()
    together = product(x)
    for first, count in ((0, 1), (0, 2), (3, 1), (7, 17), (0, PIECE), (20, 50), (99, 1)):
        assert torch.equal(product(x[first : first + count]), together[first : first + count])
    order = torch.randperm(100)
    assert torch.equal(product(x[order]), together[order])


@needs_bfloat16
def test_a_matrix_of_four_bits_has_a_second_form_only_where_it_may() -> None:
    stored = Grouped4(torch.randint(0, 16, (48, 64), dtype=torch.uint8), torch.rand(48, 2), torch.rand(48, 2))
    assert isinstance(linear(stored, Form(torch.bfloat16)), Int4Cpu)
    assert isinstance(linear(stored, Form(torch.bfloat16, exact=True), spacious=True), Int4Cpu)
    both = linear(stored, Form(torch.bfloat16), spacious=True)
    assert isinstance(both, ByRows) and both.precision == "int4" and both.parameters == 48 * 64
    for rows in (1, FEW, FEW + 1, 40):
        x = torch.randn(rows, 64).bfloat16()
        expected = x.double() @ stored.dequantize().double().T
        assert (both(x).double() - expected).norm() < 1e-2 * expected.norm()


def test_joined_matrices_multiply_as_each_alone() -> None:
    parts = [
        Grouped4(torch.randint(0, 16, (16, 64), dtype=torch.uint8), torch.rand(16, 2), torch.rand(16, 2)) for _ in "qkv"
    ]
    x = torch.randn(2, 64)
    alone = torch.cat([linear(part)(x) for part in parts], dim=1)
    assert torch.allclose(linear(joined(parts))(x), alone, atol=1e-5)
    assert isinstance(linear(parts[0], Form(torch.float32)), Dense)
    with pytest.raises(CheckpointError):
        joined([parts[0], torch.rand(16, 64)])


def test_eight_bits_are_near_the_matrix() -> None:
    weight, x = torch.randn(64, 96), torch.randn(3, 96, dtype=torch.bfloat16)
    expected = x.float() @ weight.T
    assert (Int8.of(weight, torch.bfloat16)(x).float() - expected).norm() < 1e-2 * expected.norm()


def test_what_does_not_fit_is_named() -> None:
    _, codes, zeros, scales = random_case(0, 32, 16, 16)
    good = {
        "qweight": packed(codes, 0, list(range(8))),
        "qzeros": packed(zeros, 1, list(range(8))),
        "scales": torch.from_numpy(scales),
    }
    with pytest.raises(CheckpointError, match="scales"):
        unpack("gptq", {name: t for name, t in good.items() if name != "scales"}, "layer 3")
    with pytest.raises(CheckpointError, match="layer 3"):
        unpack("gptq", good | {"scales": torch.rand(2, 15)}, "layer 3")
    with pytest.raises(CheckpointError, match="g_idx"):
        unpack("gptq", good | {"g_idx": torch.tensor([0] * 20 + [1] * 12)}, "layer 3")
    with pytest.raises(CheckpointError, match="marlin"):
        unpack("marlin", good, "layer 3")
