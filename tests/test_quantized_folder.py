"""4-bit checkpoint folders: the engine computes exactly what their formulas say, over several turns."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bluelm.config import load_settings
from bluelm.engine.loader import load
from bluelm.engine.quantized import unpack
from bluelm.errors import CheckpointError
from tests import reference
from tests.checkpoints import bluelm_config, random_tensors, write_checkpoint
from tests.test_checkpoint import error, ids, logits
from tests.test_checkpoint import load as load_model
from tests.test_quantized import AWQ_PLACES, packed
from tests.tiny import engine_parts, row, step

LINEAR = re.compile(r"(.*layers\.\d+\..*_proj)\.weight$")
GROUP = 32


def quantize(weight: Tensor, kind: str, seed: int) -> dict[str, Tensor]:
    """Random codes for a matrix [out, in], packed as the kind packs them; the weight itself is not kept."""
    out, inner = weight.shape
    rng = np.random.default_rng(seed)
    codes, zeros = rng.integers(0, 16, (inner, out)), rng.integers(4, 12, (inner // GROUP, out))
    scales = torch.from_numpy((0.03 + 0.02 * rng.random((inner // GROUP, out))).astype(np.float16))
    if kind == "awq":
        return {"qweight": packed(codes, 1, AWQ_PLACES), "qzeros": packed(zeros, 1, AWQ_PLACES), "scales": scales}
    g_idx = torch.from_numpy((rng.permutation(inner) if kind == "act-order" else np.arange(inner)) // GROUP).int()
    order = list(range(8))
    return {"qweight": packed(codes, 0, order), "qzeros": packed(zeros, 1, order), "scales": scales, "g_idx": g_idx}


def write(path: Path, kind: str, *, shape: dict[str, Any] | None = None, **changes: Any) -> dict[str, Tensor]:
    """A 4-bit folder; gives its tensors dequantised by the formulas. shape: other figures for config.json."""
    config = bluelm_config(**(shape or {}))
    dense = random_tensors(config)
    stored: dict[str, Tensor] = {}
    for number, (name, tensor) in enumerate(list(dense.items())):
        match = LINEAR.match(name)
        if match is None:
            stored[name] = tensor.half()
            dense[name] = stored[name].float()
            continue
        # q, k and v read the same input, so that act-order orders them alike.
        seed = 5 if "attn.q" in name or "attn.k" in name or "attn.v" in name else number
        seed = 6 if "gate" in name or "up_proj" in name else seed
        parts = quantize(tensor, kind, seed)
        stored |= {f"{match[1]}.{part}": t for part, t in parts.items()}
        dense[name] = unpack("awq" if kind == "awq" else "gptq", parts).dequantize()
    said = {"quant_method": "awq" if kind == "awq" else "gptq", "bits": 4, "group_size": GROUP, **changes}
    write_checkpoint(path, config={**config, "quantization_config": said}, tensors=stored, form="safetensors")
    return dense


@pytest.mark.parametrize("kind", ["gptq", "act-order", "awq"])
def test_logits_equal_the_formulas(tmp_path: Path, kind: str) -> None:
    dense = write(tmp_path, kind)
    right = reference.logits(bluelm_config(), {name: t.double() for name, t in dense.items()}, ids(60))
    assert error(logits(load_model(tmp_path), ids(60)), right) < 1e-5
    small = load_model(tmp_path, torch.bfloat16)
    assert small.weights.precision == "int4"
    assert error(logits(small, ids(60)), right) < 0.05


def test_several_turns_stay_what_the_formulas_give(tmp_path: Path) -> None:
    dense = write(tmp_path, "gptq")
    model = load_model(tmp_path)
    scheduler, runner = engine_parts(model)
    tokens = ids(30)
    for turn in range(3):  # the earlier turns come from the cache
        scheduler.add(ours := row(str(turn), tokens, 20))
        while not scheduler.idle:
            step(scheduler, runner)
        told = reference.logits(bluelm_config(), dense, ours.tokens[:-1]).argmax(-1).tolist()
        assert ours.tokens[len(tokens) :] == told[len(tokens) - 1 :]
        assert turn == 0 or ours.cached > 0
        tokens = ours.tokens + ids(7, seed=turn)


def test_the_engine_serves_four_bits_as_they_are(tmp_path: Path) -> None:
    write(tmp_path, "awq")
    info = load(load_settings(model=str(tmp_path)), lambda phase, progress: None).info
    assert info.dtype == "int4"


@pytest.mark.parametrize("changes", [{"bits": 8}, {"quant_method": "eetq"}])
def test_other_widths_and_methods_are_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    write(tmp_path, "gptq", **changes)
    with pytest.raises(CheckpointError, match=str(next(iter(changes.values())))):
        load_model(tmp_path)
