"""A restart and another model without a new app: real processes, real signals, a demo model and small checkpoints."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bluelm.config import load_settings
from bluelm.engine import Engine, open_engine
from bluelm.engine.choice import Choice
from bluelm.engine.client import EngineProcess
from bluelm.errors import CheckpointError, EngineDown, EngineLoading, EngineRestarted, SettingError
from bluelm.types import EngineState, FinishReason, Message, ModelKind, Phase, Role, SamplingParams
from tests.checkpoints import write_checkpoint
from tests.fakes import FakeEngine
from tests.test_fleet import ANY, fleet_of, said

QUESTION = (Message(Role.USER, "Tell me a long story about the sea."),)
FRANCE = (Message(Role.USER, "Name the capital of France."),)  # a clear choice each time: no rounding changes it
ONE = SamplingParams(temperature=0.0, max_length=1)
LONG = SamplingParams(temperature=0.0, max_length=900)


def until(true: Callable[[], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def wait_ready(engine: Engine, other_than: int | None = None) -> EngineState:
    until(lambda: engine.state().phase in (Phase.READY, Phase.DOWN) and engine.state().pid != other_than)
    assert engine.state().phase is Phase.READY, engine.state()
    return engine.state()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small`, a checkpoint; `cut`, the same with weights that end too soon, which only loading shows."""
    folder = tmp_path_factory.mktemp("models")
    write_checkpoint(folder / "small", form="safetensors")
    shutil.copytree(folder / "small", folder / "cut")
    weights = folder / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    return folder


@pytest.fixture(scope="module")
def process(folder: Path) -> Iterator[EngineProcess]:
    engine = EngineProcess(load_settings(model=str(folder / "small"), threads=1, cache_tokens=4096))
    yield engine
    engine.close()


@pytest.fixture
def engine(process: EngineProcess, folder: Path) -> EngineProcess:
    """Ready, with the small checkpoint."""
    if process.state().phase is not Phase.LOADING and process.state().checkpoint != str(folder / "small"):
        process.switch(str(folder / "small"))
    wait_ready(process)
    return process


def answers(engine: Engine) -> bool:
    return list(engine.submit(QUESTION, ONE))[-1].finish_reason is FinishReason.LENGTH


def test_a_restart_lets_open_answers_end_and_begins_none(engine: EngineProcess) -> None:
    before = engine.state()
    short = engine.submit(QUESTION, SamplingParams(max_length=60))
    engine.restart()
    with pytest.raises(EngineLoading):
        engine.submit(QUESTION, ONE)
    assert list(short)[-1].finish_reason in (FinishReason.LENGTH, FinishReason.STOP)
    after = wait_ready(engine, before.pid)
    assert after.pid != before.pid and after.restarts == before.restarts and answers(engine)


def test_another_model_is_loaded_and_the_first_one_again(
    engine: EngineProcess, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bluelm.engine.choice.DRAIN_S", 0.3)
    pid, small = engine.state().pid, engine.state().model
    engine.switch("demo")
    assert engine.state().phase is Phase.LOADING and engine.state().checkpoint == "demo"
    seen = []
    until(lambda: seen.append(engine.state().progress) or engine.state().phase is Phase.READY)  # type: ignore[func-returns-value]
    assert len(set(seen)) > 2, "the progress of the load is told"
    state = engine.state()
    assert state.model is not None and small is not None and state.model.demo and state.model.id != small.id
    assert "Paris" in "".join(c.text for c in engine.submit(FRANCE, SamplingParams(20, temperature=0.0)))
    long = engine.submit(QUESTION, LONG)
    assert long.wait(0, timeout=30)
    engine.switch(str(folder / "small"))
    with pytest.raises(EngineRestarted, match="restarted on request"):
        list(long)
    assert long.text, "what was shown stays"
    assert wait_ready(engine, state.pid).model == small and engine.state().pid != pid


def test_what_is_not_there_is_refused_before_anything_ends(engine: EngineProcess, folder: Path) -> None:
    pid = engine.state().pid
    (folder / "note.txt").write_text("no model")
    for name, error in (("/nowhere", SettingError), (str(folder / "note.txt"), CheckpointError)):
        with pytest.raises(error):
            engine.switch(name)
    assert engine.state().phase is Phase.READY and engine.state().pid == pid and answers(engine)


def test_a_model_that_cannot_be_loaded_gives_way_to_the_former_one(engine: EngineProcess, folder: Path) -> None:
    pid, small = engine.state().pid, engine.state().model
    engine.switch(str(folder / "cut"))
    state = wait_ready(engine, pid)
    assert state.model == small and state.checkpoint == str(folder / "small")
    assert state.failed == str(folder / "cut") and "model.safetensors" in state.trouble
    assert answers(engine)
    engine.restart()
    assert wait_ready(engine, state.pid).failed == "", "told until the next one"


def test_an_engine_killed_while_it_loads_another_model_serves_the_former_one(
    engine: EngineProcess, folder: Path
) -> None:
    before, small = engine.state(), engine.state().model
    engine.switch("demo")
    until(lambda: engine.state().pid not in (None, before.pid))
    os.kill(engine.state().pid or 0, signal.SIGKILL)
    until(lambda: engine.state().failed)
    state = wait_ready(engine)
    assert state.model == small and state.failed == "demo" and "SIGKILL" in state.trouble
    assert state.restarts == before.restarts and answers(engine)


def test_an_engine_that_hangs_can_be_restarted(engine: EngineProcess) -> None:
    pid = engine.state().pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    engine.restart()
    wait_ready(engine, pid)
    assert answers(engine)


def test_a_model_that_never_loaded_can_be_replaced(folder: Path) -> None:
    engine = EngineProcess(load_settings(model=str(folder / "cut"), kind="base", threads=1, cache_tokens=4096))
    until(lambda: engine.state().phase is Phase.DOWN)
    with pytest.raises(EngineDown, match=r"model\.safetensors"):
        engine.submit(QUESTION, ONE)
    engine.restart()
    until(lambda: engine.state().phase is Phase.DOWN)
    engine.switch(str(folder / "small"))
    state = wait_ready(engine)
    assert state.model is not None and state.model.kind is ModelKind.CHAT, "which kind was told of the first one"
    assert answers(engine) and state.failed == ""
    engine.switch("demo")
    engine.close()
    for ask in (engine.restart, lambda: engine.switch("demo")):
        with pytest.raises(EngineDown):
            ask()


def test_the_last_of_several_wishes_counts() -> None:
    choice = Choice(load_settings(model="demo"))
    first = choice.now
    choice.loaded()
    choice.ask(other := load_settings(model="demo", threads=1))
    choice.ask()
    assert choice.take_wish() and choice.now is other and not choice.take_wish()
    choice.ask(third := load_settings(model="demo", threads=2))
    assert choice.take_wish() and choice.now is third
    assert choice.go_back() and choice.now is first and not choice.go_back()
    choice.ask(other, may_go_back=False)
    assert choice.take_wish() and not choice.go_back()


# --- several engines ---


def test_one_engine_tries_another_model_and_the_others_follow() -> None:
    members = [FakeEngine() for _ in range(3)]
    fleet = fleet_of(members)
    held = members[1].submit(said("long"), ANY)
    fleet.switch("/models/other")
    assert [member.now.checkpoint for member in members] == ["/models/other", "", ""]
    assert fleet.state().phase is Phase.LOADING and fleet.state().engines_ready == 0
    with pytest.raises(EngineLoading):
        fleet.submit(said("no two models at once"), ANY)
    assert list(held)[-1].finish_reason is FinishReason.STOP
    until(lambda: fleet.state().engines_ready == 3)
    assert {member.now.checkpoint for member in members} == {"/models/other"}
    assert fleet.state().checkpoint == "/models/other" and fleet.submit(said("and on"), ANY)
    fleet.restart()
    assert fleet.state().phase is Phase.LOADING
    until(lambda: fleet.state().engines_ready == 3)
    fleet.close()


def test_a_model_that_one_engine_cannot_load_is_not_tried_by_the_others() -> None:
    members = [FakeEngine() for _ in range(2)]
    fleet = fleet_of(members)
    before = members[0].now
    fleet.switch("/models/bad")
    members[0].now = replace(before, failed="/models/bad", trouble="damaged")
    until(lambda: fleet.state().engines_ready == 2)
    assert not members[1].now.checkpoint
    assert (fleet.state().failed, fleet.state().trouble) == ("/models/bad", "damaged")
    fleet.close()


def test_a_real_fleet_changes_its_model(folder: Path) -> None:
    engine = open_engine(load_settings(model=str(folder / "small"), device="cpu", engines=2, cache_tokens=4096))
    until(lambda: engine.state().engines_ready == 2)
    shutil.copytree(folder / "small", folder / "twin", dirs_exist_ok=True)
    engine.switch(str(folder / "twin"))
    until(lambda: engine.state().engines_ready == 2 and engine.state().checkpoint == str(folder / "twin"))
    assert engine.state().model is not None and engine.state().model.id.endswith("twin")  # type: ignore[union-attr]
    assert answers(engine)
    engine.close()
