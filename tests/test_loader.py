"""From settings to a model that answers: checkpoint folders through the real engine process, and its self-test."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from bluelm.config import load_settings
from bluelm.engine.client import EngineProcess
from bluelm.engine.core import Request
from bluelm.engine.identity import folder_defaults, folder_kind, folder_name
from bluelm.engine.intake import admit
from bluelm.engine.loader import load
from bluelm.engine.opening import embedded_model
from bluelm.engine.runner import Runner
from bluelm.engine.selftest import check
from bluelm.engine.tokenizer import Tokenizer, from_folder
from bluelm.errors import CheckpointError, SettingError, UnsupportedOption, WrongModelKind
from bluelm.prompt import Part
from bluelm.types import Message, ModelKind, Phase, Role, SamplingParams, Tool
from tests import reference
from tests.checkpoints import NTKMIXED, bluelm_config, random_tensors, write_checkpoint


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
    write_checkpoint(tmp_path, tensors=tensors)
    size = from_folder(tmp_path).size
    tensors["lm_head.weight"][size:] *= 100  # what the padding of the table holds is nobody's business
    write_checkpoint(tmp_path, tensors=tensors)
    assert size < bluelm_config()["vocab_size"]
    for temperature in (0.0, 1.0):
        core = load(load_settings(model=str(tmp_path)), quiet).core
        params = SamplingParams(temperature=temperature, top_p=0.9)
        core.add(Request("a", [1, 5, 6], params, seed=3, max_new=40, accepted_at=time.monotonic()))
        row = core._answers["a"].row
        while not core.idle:
            core.step()
        assert len(row.tokens) > 4 and max(row.tokens) < size


NAMES = [
    ("BlueLM-7B-Base", "", ModelKind.BASE),
    ("bluelm-7b-base-32k", "", ModelKind.BASE),
    ("BlueLM-7B-Chat-4bits", "vivo-ai/BlueLM-7B-Base", ModelKind.CHAT),
    ("my_base_model", "", ModelKind.BASE),
    ("my-chat", "vivo-ai/BlueLM-7B-Base", ModelKind.CHAT),
    ("database-assistant", "", ModelKind.CHAT),
    ("weights", "vivo-ai/BlueLM-7B-Base/", ModelKind.BASE),
    ("weights", "", ModelKind.CHAT),
    ("models--vivo-ai--BlueLM-7B-Base/snapshots/0123abc", "", ModelKind.BASE),
]


@pytest.mark.parametrize("name, trained_from, kind", NAMES)
def test_chat_or_base_is_told_by_the_name(tmp_path: Path, name: str, trained_from: str, kind: ModelKind) -> None:
    config = {"model_type": "BlueLM", "_name_or_path": trained_from}
    assert folder_kind(tmp_path / name, config, wanted="auto", templated=True) is kind


def test_a_model_in_the_hubs_cache_is_named_after_its_repository(tmp_path: Path) -> None:
    assert folder_name(tmp_path / "models--vivo-ai--BlueLM-7B-Chat" / "snapshots" / "0123abc") == "BlueLM-7B-Chat"
    assert folder_name(tmp_path / "BlueLM-7B-Chat") == "BlueLM-7B-Chat"


def test_the_setting_has_the_last_word_on_the_kind(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "BlueLM-7B-Base")
    settings = load_settings(model=str(tmp_path / "BlueLM-7B-Base"), kind="chat")
    assert load(settings, quiet).info.kind is ModelKind.CHAT
    with pytest.raises(SettingError, match="BLUELM_KIND is chat"):
        folder_kind(tmp_path, {"model_type": "llama"}, wanted="chat", templated=False)
    assert folder_kind(tmp_path, {"model_type": "llama"}, wanted="auto", templated=False) is ModelKind.BASE
    with pytest.raises(SettingError, match="BLUELM_KIND is base"):
        load(load_settings(model=str(embedded_model()), kind="base"), quiet)


def test_a_bluelm_without_its_markers_does_not_pass_for_a_base_model(tmp_path: Path) -> None:
    config = {"model_type": "BlueLM"}
    with pytest.raises(CheckpointError, match="lacks BlueLM's chat markers"):
        folder_kind(tmp_path / "BlueLM-7B-Chat", config, wanted="auto", templated=False)
    assert folder_kind(tmp_path / "BlueLM-7B-Base", config, wanted="auto", templated=False) is ModelKind.BASE


def test_a_base_model_refuses_chat_and_writes_on_past_a_marker(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "BlueLM-7B-Base")
    loaded = load(load_settings(model=str(tmp_path / "BlueLM-7B-Base")), quiet)
    assert loaded.info.kind is ModelKind.BASE and loaded.tokenizer.template is None
    assert loaded.tokenizer.stop_ids == {2}
    with pytest.raises(WrongModelKind):
        admit(loaded.tokenizer, 256, (Message(Role.USER, "hi"),), SamplingParams(), drop_oldest=False)
    assert admit(loaded.tokenizer, 256, "春天来了", SamplingParams(), drop_oldest=False).tokens


@pytest.mark.parametrize("long", [False, True])
def test_of_bluelm_only_the_32k_form_heeds_system_prompts_and_calls_tools(tmp_path: Path, long: bool) -> None:
    write_checkpoint(tmp_path, config=bluelm_config(rope_scaling=NTKMIXED if long else None))
    loaded = load(load_settings(model=str(tmp_path), context=256), quiet)
    assert (loaded.info.system_prompt, loaded.info.tools) == (long, long)
    asked = (Message(Role.SYSTEM, "请简短回答"), Message(Role.USER, "你好"))
    assert admit(loaded.tokenizer, 256, asked, SamplingParams(), drop_oldest=False).tokens  # it has its place
    told = (Message(Role.SYSTEM, "", tools=(Tool("clock"),)), asked[1])
    with nullcontext() if long else pytest.raises(UnsupportedOption, match="not trained to call tools"):
        admit(loaded.tokenizer, 1024, told, SamplingParams(), drop_oldest=True)


def test_what_is_small_and_dense_computes_in_float32_on_a_cpu(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    for asked, told in (("auto", "float32"), ("bfloat16", "bfloat16"), ("float16", "float16")):
        assert load(load_settings(model=str(tmp_path), dtype=asked, device="cpu"), quiet).info.dtype == told


def test_the_defaults_are_those_of_generation_config(tmp_path: Path) -> None:
    file = tmp_path / "generation_config.json"
    official = SamplingParams(temperature=0.8, top_p=0.8, repetition_penalty=1.1)
    assert folder_defaults(tmp_path, bluelm_chat=True) == official
    assert folder_defaults(tmp_path, bluelm_chat=False) == SamplingParams()
    for said, expected in (
        ({"eos_token_id": 2}, official),
        ({"repetition_penalty": 1.2}, replace(official, repetition_penalty=1.2)),
        ({"do_sample": False}, replace(official, temperature=0.0)),
        ({"temperature": 0.5, "top_p": 0.7, "top_k": 5}, replace(official, temperature=0.5, top_p=0.7, top_k=5)),
    ):
        file.write_text(json.dumps(said))
        assert folder_defaults(tmp_path, bluelm_chat=True) == expected
    assert folder_defaults(tmp_path, bluelm_chat=False) == SamplingParams(temperature=0.5, top_p=0.7, top_k=5)
    file.write_text(json.dumps({"top_p": 7}))
    with pytest.raises(CheckpointError, match="generation_config"):
        folder_defaults(tmp_path, bluelm_chat=True)


def test_a_tokenizer_that_does_not_fit_is_found_at_load(tmp_path: Path) -> None:
    config = bluelm_config(vocab_size=700)
    write_checkpoint(tmp_path, config=config, tensors=random_tensors(config))
    with pytest.raises(CheckpointError, match=r"tokenizer\.model has \d+ tokens, the model only 700"):
        load(load_settings(model=str(tmp_path)), quiet)


def test_a_tokenizer_that_cuts_a_marker_or_changes_a_text_is_found(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    loaded = load(load_settings(model=str(tmp_path)), quiet)
    runner, whole = loaded.core.runner, loaded.tokenizer
    assert isinstance(runner, Runner)

    class Cutting(Tokenizer):
        def __init__(self) -> None:
            self.__dict__ = dict(whole.__dict__)

        def encode(self, parts: Sequence[Part], *, bos: bool = True) -> list[int]:
            return super().encode([Part("".join(part.text for part in parts), trusted=False)], bos=bos)

    class Changing(Cutting):
        def decode(self, ids: Iterable[int]) -> str:
            return super().decode(ids).upper()

    with pytest.raises(CheckpointError, match=r"tokenizer\.model cuts"):
        check(runner, runner.model, Cutting(), tmp_path)
    with pytest.raises(CheckpointError, match=r"tokenizer\.model changes a text"):
        check(runner, runner.model, Changing(), tmp_path)


def test_weights_that_give_no_numbers_are_found_at_load(tmp_path: Path) -> None:
    tensors = random_tensors(bluelm_config())
    tensors["model.layers.1.mlp.down_proj.weight"][3, 3] = float("nan")
    write_checkpoint(tmp_path, tensors=tensors)
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.down_proj holds NaN"):
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
