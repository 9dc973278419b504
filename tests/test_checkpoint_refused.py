"""Folders that are damaged, half downloaded or of another model are named, with what is wrong and the remedy."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bluelm.engine.tokenizer import from_folder
from bluelm.errors import CheckpointError
from tests.checkpoints import bluelm_config, random_tensors, write_checkpoint
from tests.test_checkpoint import llama, load


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
    (path / "pytorch_model.bin").write_text(POINTER)


def shard_gone(path: Path) -> None:
    write_checkpoint(path, shards=3)
    (path / "pytorch_model-00002-of-00003.bin").unlink()


def no_weights(path: Path) -> None:
    write_checkpoint(path)
    (path / "pytorch_model.bin").rename(path / "pytorch_model.bin.incomplete")


def index_lies(path: Path) -> None:
    write_checkpoint(path, form="safetensors", shards=2)
    save_file({"lm_head.weight": torch.ones(64)}, path / "model-00002-of-00002.safetensors")


def index_is_silent(path: Path) -> None:
    write_checkpoint(path, form="safetensors", shards=2)
    index = path / "model.safetensors.index.json"
    told = json.loads(index.read_text())
    del told["weight_map"]["model.norm.weight"]
    index.write_text(json.dumps(told))


class Code:
    """What runs when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def pickled_code(path: Path) -> None:
    write_checkpoint(path)
    torch.save({"model.norm.weight": Code(path / "ran")}, path / "pytorch_model.bin")


def bare_pickled_code(path: Path) -> None:
    write_checkpoint(path)
    (path / "pytorch_model.bin").write_bytes(pickle.dumps(Code(path / "ran"), protocol=2))


def no_tensors(path: Path) -> None:
    write_checkpoint(path)
    torch.save({"model.norm.weight": torch.ones(64), "step": 7}, path / "pytorch_model.bin")


def stored_in_8_bits(path: Path) -> None:
    tensors = random_tensors(bluelm_config())
    write_checkpoint(path, tensors=tensors | {"lm_head.weight": tensors["lm_head.weight"].to(torch.int8)})


def untied_without_head(path: Path) -> None:
    tensors = {name: t for name, t in llama(path).state_dict().items() if name != "lm_head.weight"}
    save_file(tensors, path / "model.safetensors")


def small_file(name: str, content: str) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        write_checkpoint(path)
        (path / name).write_text(content)

    return spoil


def index_leaves_the_folder(path: Path) -> None:
    write_checkpoint(path, shards=2)
    file = path / "pytorch_model.bin.index.json"
    file.write_text(file.read_text().replace('"pytorch_model-', '"../pytorch_model-'))


def left_over(*names: str) -> Callable[[Path], None]:
    """A download that was cut off, as the hubs' own tools leave it."""

    def spoil(path: Path) -> None:
        write_checkpoint(path, shards=3)
        (path / "pytorch_model-00002-of-00003.bin").unlink()
        for name in names:
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).touch()

    return spoil


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def broken_config(path: Path) -> None:
    write_checkpoint(path)
    (path / "config.json").write_text("{")


LONGROPE = {"type": "longrope", "attention_factor": 1.0, "short_factor": [1.0] * 8, "long_factor": [1.0] * 8}
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
    (bare_pickled_code, r"pytorch_model\.bin"),
    (no_tensors, "something else than tensors"),
    (stored_in_8_bits, r"lm_head\.weight .* int8"),
    (untied_without_head, r"lm_head\.weight is missing"),
    (configured(tie_word_embeddings=True), "ties lm_head"),
    (configured(num_attention_heads=3), "num_attention_heads|heads"),
    (configured(num_key_value_heads=3), "key heads"),
    (configured(hidden_size="64"), "hidden_size"),
    (configured(num_hidden_layers=0), "num_hidden_layers"),
    (configured(rms_norm_eps=None), "rms_norm_eps"),
    (configured(attention_bias=True), "attention_bias"),
    (configured(partial_rotary_factor=0.5), "partial_rotary_factor"),
    (configured(rope_scaling={"type": "linear", "factor": 0}), "factor"),
    (configured(rope_scaling={"type": "linear"}), "factor"),
    (configured(rope_scaling=[16.0]), "rope_scaling"),
    (configured(rope_scaling={"rope_type": "llama3", "factor": 8.0}), "llama3"),
    (configured(rope_scaling={"rope_type": "yarn", "factor": 8.0}), "yarn"),
    (configured(rope_scaling=LONGROPE | {"attention_factor": None}), "attention_factor"),
    (configured(rope_scaling=LONGROPE | {"long_factor": [2.0] * 8}), "short and in long"),
    (configured(rope_scaling=LONGROPE | {"long_factor": [1.0] * 7, "short_factor": [1.0] * 7}), "instead of 8"),
    (small_file("config.json", POINTER), r"config\.json is only a git-lfs pointer"),
    (small_file("tokenizer.model", POINTER), r"tokenizer\.model is only a git-lfs pointer"),
    (small_file("tokenizer_config.json", ""), r"tokenizer_config\.json is empty"),
    (small_file("config.json", "[]"), r"config\.json is not a JSON object"),
    (index_leaves_the_folder, "outside its folder"),
    (left_over("pytorch_model-00002-of-00003.bin.incomplete"), "bin.incomplete is left"),
    (left_over("._____temp/pytorch_model-00002-of-00003.bin"), "._____temp is left"),
    (left_over(".cache/huggingface/download/abc.incomplete"), "abc.incomplete is left"),
]


@pytest.mark.parametrize("spoil, named", SPOILED)
def test_a_folder_that_does_not_fit_is_named(tmp_path: Path, spoil: Callable[[Path], None], named: str) -> None:
    spoil(tmp_path)
    with pytest.raises(CheckpointError, match=named):
        load(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_what_is_missing_beside_the_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere is not a folder"):
        load(tmp_path / "nowhere")
    write_checkpoint(tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    with pytest.raises(CheckpointError, match="tokenizer"):
        from_folder(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        load(tmp_path)
