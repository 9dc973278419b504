"""The CPU's own kernels: products, attention and whole steps against plain formulas, and rows that know no company."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bluelm.engine import native
from bluelm.engine.gguf_file import GGUFFile
from bluelm.engine.gguf_weights import gguf_config, load_gguf
from bluelm.engine.linear import Form, Grouped4, Int8, Linear, linear
from bluelm.engine.model import Llama
from bluelm.engine.opening import embedded_model
from bluelm.engine.quantized import from_q8_0
from bluelm.engine.runner import FAILED
from bluelm.engine.scheduler import Piece, Row
from bluelm.types import SamplingParams
from tests.tiny import BLOCK, GREEDY, engine_parts, row, step

pytestmark = pytest.mark.skipif(bool(native.missing()), reason=f"no kernels for this processor: {native.missing()}")
NATIVE = Form(torch.bfloat16, native=True)
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def two_threads() -> Iterator[None]:
    """More than one, so that they have to wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def file() -> GGUFFile:
    return GGUFFile.open(embedded_model())


@pytest.fixture(scope="module")
def model(file: GGUFFile) -> Llama:
    config = gguf_config(file)
    return Llama(config, load_gguf(file, config, NATIVE, CPU, lambda _: None), context=512)


@pytest.fixture(scope="module")
def whole(file: GGUFFile) -> Llama:
    config = gguf_config(file)
    return Llama(config, load_gguf(file, config, Form(torch.float32), CPU, lambda _: None), context=512)


def in_8_bits(x: Tensor) -> Tensor:
    """What the products see of their input."""
    groups = x.unflatten(1, (-1, 32))
    scale = groups.abs().amax(-1, keepdim=True) / 127
    return torch.where(scale > 0, (groups / scale).round() * scale, 0).flatten(1)


def matrices(outer: int, inner: int, group: int) -> Iterator[tuple[Linear, Tensor]]:
    """Both kinds, and what each stands for."""
    scale, least = (
        torch.rand(outer, inner // group).half().float(),
        -torch.rand(outer, inner // group).half().float() * 8,
    )
    stored = Grouped4(torch.randint(0, 16, (outer, inner), dtype=torch.uint8), scale, least)
    yield linear(stored, NATIVE), stored.dequantize()
    small = Int8.of(stored.dequantize(), torch.float32)
    yield (
        linear(Int8(small.codes, small.scale.half()), NATIVE),
        small.codes.float() * small.scale.half().float()[:, None],
    )


@given(st.integers(1, 21), st.integers(1, 9), st.integers(1, 4), st.sampled_from([32, 64, 128]))
@settings(max_examples=25, deadline=None)
def test_products_are_the_formulas_and_each_rows_own(rows: int, tiles: int, groups: int, group: int) -> None:
    torch.manual_seed(rows + 100 * tiles)
    x = torch.randn(rows, groups * group)
    for matrix, weight in matrices(16 * tiles, groups * group, group):
        got = matrix(x)
        assert (got - in_8_bits(x) @ weight.T).norm() <= 1e-4 * got.norm()
        assert all(torch.equal(got[i], matrix(x[i : i + 1])[0]) for i in range(rows))


def test_q8_0_is_read_as_its_formula() -> None:
    from gguf.constants import GGMLQuantizationType
    from gguf.quants import dequantize, quantize

    blocks = quantize(torch.randn(16, 96).numpy(), GGMLQuantizationType.Q8_0)
    codes, scale = from_q8_0(blocks)
    weight = codes.float() * scale.repeat_interleave(32, dim=1)
    assert torch.equal(weight, torch.from_numpy(dequantize(blocks, GGMLQuantizationType.Q8_0)))


def test_what_cannot_be_multiplied_stays_with_pytorch() -> None:
    stored = Grouped4(torch.zeros(24, 64, dtype=torch.uint8), torch.ones(24, 2), torch.zeros(24, 2))
    assert linear(stored, NATIVE).precision == "bfloat16"  # 24 outputs are no whole tiles
    order = torch.arange(64).flip(0)
    swapped = Grouped4(torch.zeros(32, 64, dtype=torch.uint8), torch.ones(32, 2), torch.zeros(32, 2), order)
    assert linear(swapped, NATIVE).precision == "int4"
    huge = Grouped4(torch.zeros(32, 64, dtype=torch.uint8), torch.full((32, 2), 1e6), torch.zeros(32, 2))
    assert float(linear(huge, NATIVE)(torch.ones(1, 64).bfloat16()).norm()) == 0


def logits(model: Llama, ids: list[int], prompt: int) -> Tensor:
    """Behind the prompt and each of the other tokens."""
    from bluelm.engine.native.runner import NativeRunner
    from bluelm.engine.runner import Runner

    kind = Runner if model.weights.precision == "float32" else NativeRunner
    runner = kind(model, blocks=64, block_size=BLOCK, vocab=model.config.vocab)
    asked = Row("asked", ids[:prompt], GREEDY, 0, len(ids), blocks=list(range(9, 9 + -(-len(ids) // BLOCK))))
    found = [runner.run_for_logits([Piece(asked, 0, prompt)])[1]]
    for id in ids[prompt:]:
        asked.tokens.append(id)
        found.append(runner.run_for_logits([Piece(asked, len(asked.tokens) - 1, 1)])[1])
    return torch.cat(found)


def test_a_model_in_four_bits_stays_near_float32(model: Llama, whole: Llama) -> None:
    ids = torch.randint(0, model.config.vocab, (32,), generator=torch.Generator().manual_seed(0)).tolist()
    near, right = logits(model, ids, 24), logits(whole, ids, 24)
    assert (near - right).norm() < 0.05 * right.norm()
    assert (near.argmax(-1) == right.argmax(-1)).float().mean() > 0.85


def test_a_row_is_the_same_to_the_last_bit_in_any_company(model: Llama) -> None:
    params = SamplingParams(temperature=1.0)  # over random tokens, where a last bit soon tells
    ids = torch.randint(0, model.config.vocab, (12, 30), generator=torch.Generator().manual_seed(1)).tolist()
    texts = []
    for company in (0, 11):
        scheduler, runner = engine_parts(model, step_tokens=48)
        for i in range(company):
            scheduler.add(row(f"o{i}", ids[i + 1][: 8 + 2 * i], 8, params, seed=i))
        if company:
            step(scheduler, runner)
        scheduler.add(ours := row("ours", ids[0], 12, params, seed=7))
        while not scheduler.idle:
            step(scheduler, runner)
        texts.append(ours.tokens)
    assert texts[0] == texts[1]


def test_what_is_no_number_spoils_its_own_row_alone(model: Llama) -> None:
    weights = model.weights
    embedding = weights.embedding.clone()
    embedding[77] = torch.nan
    _, runner = engine_parts(Llama(model.config, replace(weights, embedding=embedding), context=512))
    rows = [Row(str(i), [5, 6, 7, last], GREEDY, 0, 9, blocks=[i]) for i, last in enumerate((8, 77, 9))]
    tokens = runner.run([Piece(each, 0, 4) for each in rows])
    assert tokens[1] == FAILED and FAILED not in (tokens[0], tokens[2])
    for each, token in zip(rows, (8, 77, 9), strict=True):
        each.tokens.append(token)
    tokens = runner.run([Piece(each, 4, 1) for each in rows])
    assert tokens[1] == FAILED and FAILED not in (tokens[0], tokens[2])


def test_a_cache_that_others_may_write_is_not_taken(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    kept = native.cache_folder()
    assert kept == native.cache_folder() and kept.is_relative_to(home)
    kept.chmod(0o777)
    other = native.cache_folder()
    assert not other.is_relative_to(home) and not other.stat().st_mode & 0o077
    other.rmdir()
