"""An exported folder computes what the checkpoint does, in plain transformers and in our own engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from bluelm.config import load_settings
from bluelm.engine.loader import load
from bluelm.errors import CheckpointError, ExportError, SettingError
from bluelm.export.cli import export
from bluelm.types import ModelInfo, ModelKind
from tests import reference
from tests.checkpoints import NTKMIXED, bluelm_config, random_tensors, write_checkpoint
from tests.test_checkpoint import error, ids, logits
from tests.test_checkpoint import load as load_ours
from tests.test_quantized_folder import write as write_quantized

SMALL = 0.0003  # GB, which gives three shards
LONG = {"rope_scaling": NTKMIXED, "max_position_embeddings": 2048}


def exported(source: Path, target: Path, dtype: str = "auto", shard_gb: float = 4.0) -> Path:
    export(str(source), target, dtype=dtype, shard_gb=shard_gb)
    return target


def theirs(folder: Path, tokens: list[int]) -> Tensor:
    """Logits of plain transformers, in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0]


def info(folder: Path) -> ModelInfo:
    return load(load_settings(model=str(folder), context=256), lambda phase, progress: None).info


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("changes", [{}, LONG, {**LONG, "num_key_value_heads": 2}], ids=["2K", "32K", "shared keys"])
@pytest.mark.parametrize("form", ["bin", "safetensors"])
def test_transformers_gives_the_original_architectures_logits(tmp_path: Path, changes: Any, form: str) -> None:
    config = bluelm_config(**changes)
    tensors = write_checkpoint(tmp_path / "source", config=config, form=form, shards=2)
    folder = exported(tmp_path / "source", tmp_path / "llama", shard_gb=SMALL)
    assert len(list(folder.glob("model-*-of-00003.safetensors"))) == 3
    tokens = ids(2600 if changes else 200)
    exact = {name: tensor.double() for name, tensor in tensors.items()}
    right = reference.logits(config, exact, tokens)
    got = theirs(folder, tokens)
    assert error(got, right) < 1e-5
    if changes:  # there transformers' own angles, in float32, are off by some 1e-4 radians
        assert error(got[2048:], right[2048:]) < 3e-5


@pytest.mark.parametrize("changes", [{}, LONG], ids=["2K", "32K"])
def test_our_engine_gives_the_same_from_it_to_the_last_bit(tmp_path: Path, changes: Any) -> None:
    source, folder = tmp_path / "BlueLM-7B-Chat", tmp_path / "llama"
    write_checkpoint(source, config=bluelm_config(**changes))
    exported(source, folder)
    for first in (0, 3000) if changes else (0,):
        assert torch.equal(logits(load_ours(folder), ids(50), first), logits(load_ours(source), ids(50), first))
    before, after = info(source), info(folder)
    assert after == ModelInfo(**{**{name: getattr(before, name) for name in before.__slots__}, "id": "llama"})
    assert after.system_prompt is after.tools is bool(changes)


@pytest.mark.parametrize("name, kind", [("BlueLM-7B-Base", ModelKind.BASE), ("weights", ModelKind.CHAT)])
def test_what_it_is_survives_under_any_name(tmp_path: Path, name: str, kind: ModelKind) -> None:
    write_checkpoint(tmp_path / name)
    folder = exported(tmp_path / name, tmp_path / "llama")
    assert info(folder).kind is kind
    said = json.loads((folder / "tokenizer_config.json").read_text())
    assert ("chat_template" in said) is (kind is ModelKind.CHAT)
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert ends == (2 if kind is ModelKind.BASE else [2, 4])


def test_the_setting_for_the_kind_holds_for_an_export_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_checkpoint(tmp_path / "weights")
    monkeypatch.setenv("BLUELM_KIND", "base")
    folder = exported(tmp_path / "weights", tmp_path / "llama")
    monkeypatch.delenv("BLUELM_KIND")
    assert info(folder).kind is ModelKind.BASE


@pytest.mark.parametrize(
    "asked, stored", [("auto", torch.bfloat16), ("float16", torch.float16), ("float32", torch.float32)]
)
def test_the_precision_is_as_stored_or_as_asked(tmp_path: Path, asked: str, stored: torch.dtype) -> None:
    tensors = {name: tensor.bfloat16() for name, tensor in random_tensors(bluelm_config()).items()}
    write_checkpoint(tmp_path / "source", tensors=tensors)
    folder = exported(tmp_path / "source", tmp_path / "llama", asked)
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {stored}  # noqa: SIM118
    assert config_of(folder)["torch_dtype"] == str(stored).removeprefix("torch.")
    right = reference.logits(bluelm_config(), {name: tensor.double() for name, tensor in tensors.items()}, ids(50))
    assert error(theirs(folder, ids(50)), right) < (1e-5 if asked == "float32" else 0.03)


def test_an_exported_folder_and_a_plain_llama_can_be_exported_again(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "source", config=bluelm_config(**LONG))
    once = exported(tmp_path / "source", tmp_path / "once")
    twice = exported(once, tmp_path / "twice", shard_gb=SMALL)
    assert torch.equal(theirs(twice, ids(50)), theirs(once, ids(50)))
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        assert (twice / name).read_text() == (once / name).read_text()
    assert {**config_of(twice), "_name_or_path": ""} == {**config_of(once), "_name_or_path": ""}


# --- 4 bits ---


def change(
    folder: Path, part: str, changed: Callable[[Tensor], Tensor | None], name: Callable[[str], str] = str
) -> None:
    """Every tensor of a 4-bit folder whose last name is `part`, as another value (None: left out) or name."""
    with safe_open(folder / "model.safetensors", framework="pt") as opened:
        tensors = {one: opened.get_tensor(one).clone() for one in opened.keys()}  # noqa: SIM118
    new = {name(one): changed(tensor) if one.endswith(f".{part}") else tensor for one, tensor in tensors.items()}
    save_file({one: tensor for one, tensor in new.items() if tensor is not None}, folder / "model.safetensors")


def symmetric(zeros: Tensor) -> Tensor:
    return torch.full_like(zeros, 0x77777777)


@pytest.mark.parametrize("kind, becomes", [("gptq", "awq"), ("symmetric", "gptq"), ("awq", "awq")])
def test_four_bits_stay_four_bits_in_the_layout_that_others_read(tmp_path: Path, kind: str, becomes: str) -> None:
    source = tmp_path / "source"
    write_quantized(source, "awq" if kind == "awq" else "gptq")
    if kind == "symmetric":
        change(source, "qzeros", symmetric)
    folder = exported(source, tmp_path / "llama", shard_gb=SMALL)
    said = config_of(folder)["quantization_config"]
    assert (said["quant_method"], said["bits"], said["group_size"]) == (becomes, 4, 32)
    wide = exported(source, tmp_path / "wide", "float32")
    assert error(logits(load_ours(folder), ids(50)), theirs(wide, ids(50))) < 1e-3  # the embedding is in float16
    assert all(torch.equal(one, other) for one, other in zip(matrices(folder), matrices(source), strict=True))


def matrices(folder: Path) -> list[Tensor]:
    """Every matrix of the blocks, as our engine dequantises it to float32."""
    weights = load_ours(folder).weights
    return [part.weight for layer in weights.layers for part in (layer.qkv, layer.o, layer.gate_up, layer.down)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["gptq", "act-order", "awq"])
def test_four_bits_are_dequantised_where_another_precision_is_asked_for(tmp_path: Path, kind: str) -> None:
    dense = write_quantized(tmp_path / "source", kind)
    folder = exported(tmp_path / "source", tmp_path / "llama", "float32")
    assert "quantization_config" not in config_of(folder)
    assert error(theirs(folder, ids(50)), reference.logits(bluelm_config(), dense, ids(50))) < 1e-5


def test_the_older_gptq_layout_becomes_the_standard_one(tmp_path: Path) -> None:
    """As BlueLM-7B-Chat-4bits may have it: `zeros`, no g_idx, and nothing said of it in any config."""
    source, folder = tmp_path / "source", tmp_path / "llama"
    write_quantized(source, "gptq")
    change(source, "qzeros", symmetric, lambda name: name.replace("qzeros", "zeros"))
    change(source, "g_idx", lambda tensor: None)
    (source / "config.json").write_text(json.dumps(bluelm_config()))
    exported(source, folder)
    with safe_open(folder / "model.safetensors", framework="pt") as opened:
        base = "model.layers.0.mlp.up_proj."
        names = {name.removeprefix(base) for name in opened.keys() if name.startswith(base)}  # noqa: SIM118
        assert names == {"qweight", "qzeros", "scales", "g_idx"}
        assert opened.get_tensor(f"{base}g_idx").tolist() == [column // 32 for column in range(64)]
    assert config_of(folder)["quantization_config"]["checkpoint_format"] == "gptq"


@pytest.mark.parametrize("kind, why", [("act-order", "act-order"), ("gptq", "a zero point is 16")])
def test_four_bits_that_nobody_else_reads_are_refused_with_the_remedy(tmp_path: Path, kind: str, why: str) -> None:
    write_quantized(tmp_path / "source", kind)
    if kind == "gptq":
        change(tmp_path / "source", "qzeros", lambda zeros: torch.full_like(zeros, -1))
    with pytest.raises(CheckpointError, match=f"{why}.*: add --dtype float16"):
        exported(tmp_path / "source", tmp_path / "llama")
    assert not (tmp_path / "llama").exists()


# --- what is refused ---


@pytest.mark.parametrize("change", ["missing", "extra", "misshapen"])
def test_a_tensor_that_does_not_fit_is_named_and_nothing_is_left(tmp_path: Path, change: str) -> None:
    tensors = random_tensors(bluelm_config())
    name = "model.layers.1.mlp.up_proj.weight"
    if change == "missing":
        del tensors[name]
    elif change == "misshapen":
        tensors[name] = tensors[name][:-1]
    else:
        tensors[name := "model.layers.7.mlp.up_proj.weight"] = torch.zeros(2)
    write_checkpoint(tmp_path / "source", tensors=tensors)
    with pytest.raises(CheckpointError, match=name):
        exported(tmp_path / "source", tmp_path / "llama")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ExportError, match="GGUF file"):
        exported(tmp_path / "model.gguf", tmp_path / "llama")
    with pytest.raises(SettingError, match=r"SRC is '.*chatt': .* did you mean chat\?"):
        exported(Path("chatt"), tmp_path / "llama")
