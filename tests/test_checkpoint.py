"""Checkpoint folders in the original formats: the same numbers as the original architecture, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig as TheirConfig
from transformers import LlamaForCausalLM

from bluelm.engine.attention import Span, Step
from bluelm.engine.checkpoint import Checkpoint
from bluelm.engine.folder_config import folder_config
from bluelm.engine.folder_weights import load_folder
from bluelm.engine.model import KVCache, Llama
from bluelm.errors import CheckpointError
from tests import reference
from tests.checkpoints import NTKMIXED, bluelm_config, random_tensors, write_checkpoint
from tests.tiny import engine_parts, greedy, row, step

torch.set_num_threads(1)
CPU = torch.device("cpu")


def load(path: Path, dtype: torch.dtype = torch.float32) -> Llama:
    checkpoint = Checkpoint(path)
    config = folder_config(checkpoint)
    return Llama(config, load_folder(checkpoint, config, dtype, CPU, lambda _: None))


def logits(model: Llama, ids: list[int], first: int = 0) -> Tensor:
    """[n, vocab]; the tokens stand at positions first, first + 1, ..."""
    places = torch.arange(len(ids))
    whole = Span(0, len(ids), places, None)
    todo = Step(torch.tensor(ids), places + first, places, (), (whole,), places)
    return model.forward(todo, KVCache(model.config, len(ids), model.weights.norm)).float()


def error(near: Tensor, right: Tensor) -> float:
    return float((near.double() - right.double()).norm() / right.double().norm())


def ids(count: int, seed: int = 1) -> list[int]:
    return torch.randint(0, 900, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


FORMS = [("bin", 1), ("bin", 3), ("safetensors", 1), ("safetensors", 3)]


@pytest.mark.parametrize("form, shards", FORMS)
def test_logits_equal_the_original_architecture(tmp_path: Path, form: str, shards: int) -> None:
    config = bluelm_config()
    tensors = write_checkpoint(tmp_path, config=config, form=form, shards=shards)
    exact = {name: tensor.double() for name, tensor in tensors.items()}
    assert error(logits(load(tmp_path), ids(100)), reference.logits(config, exact, ids(100))) < 1e-5


@pytest.mark.parametrize("scaling", [NTKMIXED, {"type": "linear", "factor": 4.0}, None])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_long_forms_equal_the_original_beyond_their_first_window(
    tmp_path: Path, scaling: dict[str, Any] | None, kv_heads: int
) -> None:
    window = 2048 if scaling else 8192
    config = bluelm_config(rope_scaling=scaling, num_key_value_heads=kv_heads, max_position_embeddings=window)
    tensors = write_checkpoint(tmp_path, config=config)
    model = load(tmp_path)
    assert model.config.context == window * (scaling["factor"] if scaling else 1)
    exact = {name: tensor.double() for name, tensor in tensors.items()}
    far = reference.logits(config, exact, ids(60), first=6000)
    # Angles of thousands of radians: float32 itself, as the original computes them, is good to about 1e-4 there.
    assert error(logits(model, ids(60), first=6000), far) < 1e-3
    assert error(logits(model, ids(60)), reference.logits(config, exact, ids(60))) < 1e-5


def test_greedy_tokens_equal_the_original_over_200_tokens(tmp_path: Path) -> None:
    config = bluelm_config(rope_scaling=NTKMIXED)
    tensors = write_checkpoint(tmp_path, config=config)
    scheduler, runner = engine_parts(load(tmp_path))
    scheduler.add(ours := row("a", ids(20), 200))
    while not scheduler.idle:
        step(scheduler, runner)
    told = reference.logits(config, tensors, ours.tokens[:-1]).argmax(-1).tolist()
    assert ours.tokens[20:] == told[19:]


@pytest.mark.parametrize("dtype, bound", [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_half_precisions_stay_near(tmp_path: Path, dtype: torch.dtype, bound: float) -> None:
    tensors = write_checkpoint(tmp_path)
    assert error(logits(load(tmp_path, dtype), ids(50)), reference.logits(bluelm_config(), tensors, ids(50))) < bound


@pytest.mark.parametrize("tied", [False, True])
def test_a_plain_llama_equals_transformers(tmp_path: Path, tied: bool) -> None:
    torch.manual_seed(0)
    shape = TheirConfig(
        vocab_size=300, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=tied, initializer_range=0.2,
    )  # fmt: skip
    theirs = LlamaForCausalLM(shape).float().eval()
    theirs.save_pretrained(tmp_path)
    scheduler, runner = engine_parts(load(tmp_path))
    prompt = [7, 8, 9, 250]
    scheduler.add(ours := row("a", prompt, 30))
    while not scheduler.idle:
        step(scheduler, runner)
    assert ours.tokens == greedy(theirs, prompt, 30)


# --- what is refused ---


def without(name: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        tensors = random_tensors(bluelm_config())
        del tensors[name]
        write_checkpoint(path, tensors=tensors)

    return spoil


def with_extra(path: Path) -> None:
    write_checkpoint(
        path, tensors=random_tensors(bluelm_config()) | {"model.layers.0.self_attn.q_proj.bias": torch.ones(64)}
    )


def misshapen(path: Path) -> None:
    write_checkpoint(path, tensors=random_tensors(bluelm_config()) | {"model.norm.weight": torch.ones(65)})


def configured(**changes: Any) -> Callable[[Path], None]:
    return lambda path: void(
        write_checkpoint(path, config=bluelm_config(**changes), tensors=random_tensors(bluelm_config()))
    )


def void(_: object) -> None:
    pass


def cut(path: Path) -> None:
    write_checkpoint(path, form="safetensors")
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def cut_bin(path: Path) -> None:
    write_checkpoint(path)
    file = path / "pytorch_model.bin"
    file.write_bytes(file.read_bytes()[:-1000])


def empty(path: Path) -> None:
    write_checkpoint(path)
    (path / "pytorch_model.bin").write_bytes(b"")


def pointer(path: Path) -> None:
    write_checkpoint(path)
    (path / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def shard_gone(path: Path) -> None:
    write_checkpoint(path, shards=3)
    (path / "pytorch_model-00002-of-00003.bin").unlink()


def no_weights(path: Path) -> None:
    write_checkpoint(path)
    (path / "pytorch_model.bin").rename(path / "pytorch_model.bin.incomplete")


def index_lies(path: Path) -> None:
    write_checkpoint(path, form="safetensors", shards=2)
    save_file({"model.norm.weight": torch.ones(64)}, path / "model-00002-of-00002.safetensors")


def index_is_silent(path: Path) -> None:
    write_checkpoint(path, form="safetensors", shards=2)
    index = path / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    del told["weight_map"]["lm_head.weight"]
    index.write_text(json.dumps(told))


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("/tmp/bluelm-evil"),))


def pickled_code(path: Path) -> None:
    write_checkpoint(path)
    torch.save({"model.norm.weight": Evil()}, path / "pytorch_model.bin")


def broken_config(path: Path) -> None:
    write_checkpoint(path)
    (path / "config.json").write_text("{")


SPOILED = [
    (without("model.layers.1.mlp.up_proj.weight"), r"layers\.1\.mlp\.up_proj"),
    (without("model.embed_layer_norm.bias"), r"embed_layer_norm\.bias"),
    (without("lm_head.weight"), "lm_head"),
    (with_extra, r"q_proj\.bias"),
    (misshapen, r"model\.norm\.weight"),
    (configured(use_stable_embedding=False), "embed_layer_norm"),
    (configured(num_hidden_layers=3), r"layers\.2"),
    (configured(hidden_act="gelu"), "hidden_act"),
    (configured(model_type="mistral"), "mistral"),
    (configured(rope_scaling={"type": "dynamic", "factor": 2.0}), "dynamic"),
    (configured(rope_scaling={"type": "ntkmixed", "factor": 2.0}), "power"),
    (configured(quantization_config={"quant_method": "fp8", "bits": 8}), "fp8"),
    (cut, r"model\.safetensors is damaged"),
    (cut_bin, r"pytorch_model\.bin is damaged"),
    (empty, r"pytorch_model\.bin is empty"),
    (pointer, "git-lfs"),
    (shard_gone, "00002-of-00003"),
    (no_weights, "incomplete"),
    (index_lies, "does not hold"),
    (index_is_silent, "index does not name"),
    (pickled_code, r"pytorch_model\.bin"),
    (broken_config, r"config\.json"),
]


@pytest.mark.parametrize("spoil, named", SPOILED)
def test_a_folder_that_does_not_fit_is_named(tmp_path: Path, spoil: Callable[[Path], None], named: str) -> None:
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match=named):
        load(tmp_path)
    assert not Path("/tmp/bluelm-evil").exists()


def test_a_sharded_index_may_be_the_only_thing_read(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, shards=2)
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.bytes > 0 and len(checkpoint.files) == 2
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "BlueLM"
