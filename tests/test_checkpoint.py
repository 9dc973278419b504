"""Checkpoint folders in the original formats give the same numbers as the original architecture."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig as TheirConfig
from transformers import LlamaForCausalLM

from bluelm.engine.attention import Span, Step
from bluelm.engine.checkpoint import Checkpoint
from bluelm.engine.folder_config import folder_config
from bluelm.engine.folder_weights import load_folder
from bluelm.engine.linear import Form
from bluelm.engine.model import KVCache, Llama
from bluelm.engine.rope import ntkmixed
from tests import reference
from tests.checkpoints import NTKMIXED, bluelm_config, write_checkpoint
from tests.tiny import engine_parts, greedy, row, step

torch.set_num_threads(1)
CPU = torch.device("cpu")
MAPS = Path("/proc/self/maps")


def load(path: Path, dtype: torch.dtype = torch.float32) -> Llama:
    checkpoint = Checkpoint(path)
    config = folder_config(checkpoint)
    return Llama(config, load_folder(checkpoint, config, Form(dtype), CPU, lambda _: None))


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


@pytest.mark.parametrize("form", ["bin", "safetensors"])
@pytest.mark.parametrize("shards, mixed", [(1, False), (3, False), (5, True)])
def test_logits_equal_the_original_architecture(tmp_path: Path, form: str, shards: int, mixed: bool) -> None:
    config = bluelm_config()
    tensors = write_checkpoint(tmp_path, config=config, form=form, shards=shards, mixed=mixed)
    exact = {name: tensor.double() for name, tensor in tensors.items()}
    assert error(logits(load(tmp_path), ids(100)), reference.logits(config, exact, ids(100))) < 1e-5


@pytest.mark.parametrize("scaling", [NTKMIXED, {"type": "linear", "factor": 16.0}, None])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_long_forms_equal_the_original_beyond_their_first_window(
    tmp_path: Path, scaling: dict[str, Any] | None, kv_heads: int
) -> None:
    window = 2048 if scaling else 32_768
    config = bluelm_config(rope_scaling=scaling, num_key_value_heads=kv_heads, max_position_embeddings=window)
    tensors = write_checkpoint(tmp_path, config=config)
    model = load(tmp_path)
    assert model.config.context == 32_768
    exact = {name: tensor.double() for name, tensor in tensors.items()}
    for first in (0, 2048, 6000, 32_700):
        assert error(logits(model, ids(60), first), reference.logits(config, exact, ids(60), first)) < 1e-5


@pytest.mark.parametrize("prompt", [20, 2100])
def test_greedy_tokens_equal_the_original_over_200_tokens(tmp_path: Path, prompt: int) -> None:
    config = bluelm_config(rope_scaling=NTKMIXED, max_position_embeddings=2048)
    tensors = write_checkpoint(tmp_path, config=config)
    scheduler, runner = engine_parts(load(tmp_path), blocks=160, step_tokens=512)
    scheduler.add(ours := row("a", ids(prompt), 200))
    while not scheduler.idle:
        step(scheduler, runner)
    told = reference.logits(config, tensors, ours.tokens[:-1]).argmax(-1).tolist()
    assert ours.tokens[prompt:] == told[prompt - 1 :]


@pytest.mark.parametrize("dtype, bound", [(torch.bfloat16, 0.05), (torch.float16, 0.01)])
def test_half_precisions_stay_near(tmp_path: Path, dtype: torch.dtype, bound: float) -> None:
    tensors = write_checkpoint(tmp_path)
    assert error(logits(load(tmp_path, dtype), ids(50)), reference.logits(bluelm_config(), tensors, ids(50))) < bound


def llama(path: Path, **changes: Any) -> LlamaForCausalLM:
    """transformers' own model, saved into a folder."""
    torch.manual_seed(0)
    shape = TheirConfig(
        **{
            **{"vocab_size": 300, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2},
            **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128},
            **{"tie_word_embeddings": False, "initializer_range": 0.2, **changes},
        }
    )
    theirs = LlamaForCausalLM(shape).float().eval()
    theirs.save_pretrained(path)
    return theirs


LONGROPE = {
    **{"rope_type": "longrope", "rope_theta": 10000.0, "attention_factor": 1.0, "factor": 16.0},
    **{"original_max_position_embeddings": 16, "short_factor": [*ntkmixed(16, 0.3, 8)]},
    "long_factor": [*ntkmixed(16, 0.3, 8)],
}
LLAMAS = [
    pytest.param({}, id="untied, grouped queries"),
    pytest.param({"tie_word_embeddings": True, "num_key_value_heads": 4}, id="tied"),
    pytest.param({"head_dim": 24}, id="heads wider than hidden"),
    pytest.param({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, id="another theta"),
    pytest.param({"rope_parameters": LONGROPE}, id="longrope, as exported"),
]


@pytest.mark.parametrize("changes", LLAMAS)
def test_a_plain_llama_equals_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    theirs = llama(tmp_path, **changes)
    model = load(tmp_path)
    tokens = torch.randint(0, 300, (60,), generator=torch.Generator().manual_seed(3)).tolist()
    with torch.inference_mode():
        assert error(logits(model, tokens), theirs(torch.tensor([tokens])).logits[0]) < 1e-5
    scheduler, runner = engine_parts(model)
    scheduler.add(ours := row("a", tokens[:4], 30))
    while not scheduler.idle:
        step(scheduler, runner)
    assert ours.tokens == greedy(theirs, tokens[:4], 30)


def test_safetensors_are_preferred_and_the_rest_is_not_read(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, form="safetensors")
    (tmp_path / "pytorch_model.bin").write_bytes(b"nothing of use")
    assert [file.name for file in Checkpoint(tmp_path).files] == ["model.safetensors"]
    load(tmp_path)


def test_a_single_file_may_have_another_name(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, form="safetensors")
    (tmp_path / "model.safetensors").rename(tmp_path / "gptq_model-4bit-128g.safetensors")
    load(tmp_path)


def test_old_files_that_cannot_be_mapped_load_too(tmp_path: Path) -> None:
    config = bluelm_config()
    tensors = write_checkpoint(tmp_path, config=config)
    torch.save(tensors, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert error(logits(load(tmp_path), ids(20)), reference.logits(config, tensors, ids(20))) < 1e-5


@pytest.mark.skipif(not MAPS.exists(), reason="only Linux tells what is mapped")
@pytest.mark.parametrize("form", ["bin", "safetensors"])
def test_two_shards_are_mapped_at_most_and_none_once_the_model_is_loaded(tmp_path: Path, form: str) -> None:
    write_checkpoint(tmp_path, form=form, shards=6)
    seen = 0

    def look(done: float) -> None:
        nonlocal seen
        lines = [line for line in MAPS.read_text().splitlines() if str(tmp_path) in line]
        seen = max(seen, len({line.split()[-1] for line in lines}))

    checkpoint = Checkpoint(tmp_path)
    config = folder_config(checkpoint)
    weights = load_folder(checkpoint, config, Form(torch.float32), CPU, look)
    assert 1 <= seen <= 2 and weights.norm.numel()
    assert str(tmp_path) not in MAPS.read_text()


def test_progress_grows_with_what_is_there(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, shards=2)
    checkpoint, told = Checkpoint(tmp_path), [0.0]
    load_folder(checkpoint, folder_config(checkpoint), Form(torch.float32), CPU, told.append)
    assert told == sorted(told) and told[-1] == 1.0
    assert max(later - sooner for sooner, later in pairwise(told)) < 0.45  # of this model, the embedding is the most
