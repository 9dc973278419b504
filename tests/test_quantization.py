"""BLUELM_QUANTIZATION on a CPU: matrices rounded as they are read, and settings that contradict it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bluelm.config import load_settings
from bluelm.engine.checkpoint import Checkpoint
from bluelm.engine.folder_config import folder_config
from bluelm.engine.folder_weights import load_folder
from bluelm.engine.linear import Form, Quantization, of_form
from bluelm.engine.loader import load
from bluelm.engine.model import Llama
from bluelm.engine.rounding import GROUPS, rounded, to_int4, to_int8
from bluelm.errors import CheckpointError, SettingError
from tests.checkpoints import write_checkpoint
from tests.test_checkpoint import error, ids, logits
from tests.test_quantized_folder import write as write_4_bits

torch.set_num_threads(1)
BOUND = {"int8": 0.05, "int4": 0.4}  # of a tiny model with wide weights


def model(path: Path, quantization: Quantization = "none", dtype: torch.dtype = torch.float32) -> Llama:
    checkpoint = Checkpoint(path)
    config = folder_config(checkpoint)
    form = Form(dtype, quantization)
    return Llama(config, load_folder(checkpoint, config, form, torch.device("cpu"), lambda _: None))


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_a_rounded_checkpoint_is_near_the_whole_one_and_smaller(tmp_path: Path, quantization: Quantization) -> None:
    write_checkpoint(tmp_path)
    whole, small = model(tmp_path), model(tmp_path, quantization, torch.bfloat16)
    assert small.weights.precision == quantization
    assert small.weights.lm_head.precision == "int8"
    assert isinstance(small.weights.embedding, torch.Tensor)
    assert small.weights.parameters == whole.weights.parameters
    assert small.weights.layers[0].down.bytes < whole.weights.layers[0].down.bytes * (
        0.3 if quantization == "int8" else 0.2
    )
    assert error(logits(small, ids(40)), logits(whole, ids(40))) < BOUND[quantization]


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_the_engine_serves_a_rounded_checkpoint(tmp_path: Path, quantization: str) -> None:
    write_checkpoint(tmp_path)
    info = load(load_settings(model=str(tmp_path), device="cpu", quantization=quantization), lambda *_: None).info
    assert info.dtype == quantization


@pytest.mark.parametrize(
    "packed, settings, words",
    [
        (False, {"quantization": "int8", "dtype": "float32"}, "DTYPE float32"),
        (False, {"quantization": "int4", "dtype": "float16"}, "bfloat16 alone"),
        (True, {"quantization": "int8"}, "4 bits already"),
    ],
)
def test_contradictions_are_told(tmp_path: Path, packed: bool, settings: dict[str, str], words: str) -> None:
    write_4_bits(tmp_path, "gptq") if packed else write_checkpoint(tmp_path)
    with pytest.raises(SettingError, match=words) as raised:
        load(load_settings(model=str(tmp_path), device="cpu", **settings), lambda *_: None)
    assert "BLUELM_QUANTIZATION" in str(raised.value)


def test_4_bits_stay_the_4_bits_they_are(tmp_path: Path) -> None:
    write_4_bits(tmp_path, "awq")
    as_it_is, asked = model(tmp_path, "none", torch.bfloat16), model(tmp_path, "int4", torch.bfloat16)
    one, other = (of_form(each.weights.layers[0].down, few=True) for each in (as_it_is, asked))
    assert torch.equal(one.packed, other.packed)  # type: ignore[attr-defined]
    assert asked.weights.lm_head.precision == "int8" and as_it_is.weights.lm_head.precision == "bfloat16"


@pytest.mark.parametrize("group", GROUPS)
def test_rounding_is_better_than_the_plain_range(group: int) -> None:
    torch.manual_seed(group)
    weight = torch.randn(64, 256) * torch.rand(64, 1) + 0.1
    found = to_int4(weight, group).dequantize()
    grouped = weight.view(64, -1, group)
    low, high = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
    step = (high - low) / 15
    plain = (((grouped - low) / step).round() * step + low).view_as(weight)
    assert (found - weight).norm() < 0.97 * (plain - weight).norm()
    assert ((found - weight).abs() <= 0.6 * step.repeat_interleave(group, -1).view_as(weight) + 0.3).all()


def test_rounding_in_pieces_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(96, 64)
    whole4, whole8 = to_int4(weight), to_int8(weight)
    monkeypatch.setattr("bluelm.engine.rounding._NUMBERS", 640)
    assert torch.equal(to_int4(weight).dequantize(), whole4.dequantize())
    assert torch.equal(to_int8(weight).codes, whole8.codes)


def test_what_has_no_groups_is_told() -> None:
    with pytest.raises(CheckpointError, match="BLUELM_QUANTIZATION"):
        rounded(torch.randn(32, 48), "int4")
