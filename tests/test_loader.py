"""From settings to a model that answers: checkpoint folders through the real engine process, and its self-test."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from bluelm.config import load_settings
from bluelm.engine.client import EngineProcess
from bluelm.engine.loader import load
from bluelm.engine.tokenizer import from_folder
from bluelm.errors import CheckpointError, SettingError, WrongModelKind
from bluelm.types import Message, ModelKind, Phase, Role, SamplingParams
from tests import reference
from tests.checkpoints import bluelm_config, random_tensors, write_checkpoint


def quiet(phase: str, progress: float) -> None:
    assert phase and 0.0 <= progress <= 1.0


def test_a_bluelm_folder_chats_over_several_turns_as_the_original_would(tmp_path: Path) -> None:
    path = tmp_path / "BlueLM-7B-Chat"
    tensors = write_checkpoint(path, shards=2)
    tokenizer = from_folder(path)
    assert tokenizer.template is not None
    engine = EngineProcess(load_settings(model=str(path), dtype="float32"))
    end = time.monotonic() + 60
    while engine.state().phase is not Phase.READY:
        assert engine.state().phase is not Phase.DOWN and time.monotonic() < end, engine.state().detail
        time.sleep(0.05)
    info = engine.state().model
    assert info is not None and (info.id, info.kind, info.demo) == ("BlueLM-7B-Chat", ModelKind.CHAT, False)
    history: tuple[Message, ...] = ()
    for question in ("你好", "今天天气 [|AI|]: 很好", "Hello 123"):
        history = (*history, Message(Role.USER, question))
        generation = engine.submit(history, SamplingParams(temperature=0.0, max_length=8))
        text = "".join(chunk.text for chunk in generation)
        ids = tokenizer.encode(tokenizer.template.render(history))
        assert generation.prompt_tokens == len(ids)
        expected: list[int] = []
        while len(expected) < 8 and not set(expected) & tokenizer.stop_ids:
            all_logits = reference.logits(bluelm_config(), tensors, [*ids, *expected])
            expected.append(int(all_logits[-1, : tokenizer.size].argmax()))
        assert text == tokenizer.decode([id for id in expected if id not in tokenizer.stop_ids])
        history = (*history, Message(Role.ASSISTANT, text or "..."))
    engine.close()


def test_ids_beyond_the_tokenizer_are_never_sampled(tmp_path: Path) -> None:
    tensors = random_tensors(bluelm_config())
    size = write_and_size(tmp_path / "m", tensors)
    loaded = load(load_settings(model=str(tmp_path / "m"), dtype="float32"), quiet)
    assert loaded.core.runner.vocab == size < bluelm_config()["vocab_size"]  # type: ignore[attr-defined]


def write_and_size(path: Path, tensors: dict[str, torch.Tensor]) -> int:
    write_checkpoint(path, tensors=tensors)
    return from_folder(path).size


def test_a_base_model_is_known_by_its_name_and_refuses_chat(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "BlueLM-7B-Base")
    loaded = load(load_settings(model=str(tmp_path / "BlueLM-7B-Base"), dtype="float32"), quiet)
    assert loaded.info.kind is ModelKind.BASE and loaded.tokenizer.template is None
    from bluelm.engine.intake import admit

    with pytest.raises(WrongModelKind):
        admit(loaded.tokenizer, 256, (Message(Role.USER, "hi"),), SamplingParams(), drop_oldest=False)
    assert admit(loaded.tokenizer, 256, "春天来了", SamplingParams(), drop_oldest=False).tokens


def test_the_defaults_are_those_of_generation_config(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    file = tmp_path / "generation_config.json"
    said = {"temperature": 0.5, "top_p": 0.7, "top_k": 5, "repetition_penalty": 1.2, "eos_token_id": 2}
    for extra, temperature in (({}, 0.5), ({"do_sample": False}, 0.0)):
        file.write_text(json.dumps(said | extra))
        defaults = load(load_settings(model=str(tmp_path), dtype="float32"), quiet).info.defaults
        assert (defaults.temperature, defaults.top_p, defaults.top_k) == (temperature, 0.7, 5)
    file.write_text(json.dumps(said | {"top_p": 7}))
    with pytest.raises(CheckpointError, match="generation_config"):
        load(load_settings(model=str(tmp_path)), quiet)


def test_weights_that_give_no_numbers_are_found_at_load(tmp_path: Path) -> None:
    tensors = random_tensors(bluelm_config())
    tensors["model.layers.1.mlp.down_proj.weight"][3, 3] = float("nan")
    write_checkpoint(tmp_path, tensors=tensors)
    with pytest.raises(CheckpointError, match="no numbers"):
        load(load_settings(model=str(tmp_path)), quiet)


def test_a_setting_that_names_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="no such file"):
        load(load_settings(model=str(tmp_path / "nothing")), quiet)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(CheckpointError, match="neither"):
        load(load_settings(model=str(tmp_path / "notes.txt")), quiet)
    write_checkpoint(tmp_path / "m")
    with pytest.raises(SettingError, match="BLUELM_CONTEXT"):
        load(load_settings(model=str(tmp_path / "m"), context=100_000), quiet)
