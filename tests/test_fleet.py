"""Who of several engines answers; which cards there are. With the fake, and without any card."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluelm.config import Settings, load_settings
from bluelm.engine import cards
from bluelm.engine.cards import places, visible
from bluelm.engine.fleet import SLACK, Fleet, names_of
from bluelm.errors import EngineDown, EngineLoading, QueueFull, SettingError
from bluelm.types import EngineState, Message, Phase, Role, SamplingParams
from tests.fakes import FakeEngine

ANY = SamplingParams()


def fakes(count: int, slots: int = 32) -> list[FakeEngine]:
    """Engines whose answers do not end by themselves."""
    return [FakeEngine(lambda prompt, params: ["word "] * 10**6, pause=0.01, slots=slots) for _ in range(count)]


def fleet_of(members: list[FakeEngine]) -> Fleet:
    fleet = Fleet([lambda member=member: member for member in members])  # type: ignore[misc]
    until(lambda: fleet.state().engines == len(fleet._members))
    return fleet


def until(true) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


def said(*texts: str) -> tuple[Message, ...]:
    return tuple(Message(Role.USER if i % 2 == 0 else Role.ASSISTANT, text) for i, text in enumerate(texts))


def test_the_least_loaded_answers() -> None:
    members = fakes(3)
    fleet = fleet_of(members)
    for i in range(9):
        fleet.submit(said(f"question {i}"), ANY)
    assert [member.open for member in members] == [3, 3, 3]
    fleet.close()


def test_a_conversation_stays_where_its_beginning_is_unless_there_is_too_much_to_do() -> None:
    members = fakes(2)
    fleet = fleet_of(members)
    fleet.submit(said("other"), ANY)
    fleet.submit(said("mine"), ANY)  # goes to the second
    turn = ["mine"]
    for i in range(SLACK):
        turn += [f"answer {i}", f"question {i}"]
        fleet.submit(said(*turn), ANY)
    assert [member.open for member in members] == [1, 1 + SLACK]
    fleet.submit(said(*turn), ANY)
    assert members[1].open == 2 + SLACK, "the same again, to be made anew"
    fleet.submit(said(*turn, "a", "q"), ANY)
    assert members[0].open == 2, "the second has too much to do"
    fleet.close()


def test_text_that_grows_stays_too() -> None:
    members = fakes(2)
    fleet = fleet_of(members)
    fleet.submit("another text", ANY)
    text = "once upon a time " * 40
    for _ in range(3):
        fleet.submit(text, ANY)
        text += "there was a king "
    assert [member.open for member in members] == [1, 3]
    fleet.close()


def test_who_cannot_answer_is_passed_over() -> None:
    members = fakes(3, slots=2)
    fleet = fleet_of(members)
    members[0].now = replace(members[0].now, phase=Phase.RESTARTING, detail="restarting")
    for i in range(4):
        fleet.submit(said(f"{i}"), ANY)
    assert [member.open for member in members] == [0, 2, 2]
    with pytest.raises(QueueFull):
        fleet.submit(said("one more"), ANY)
    state = fleet.state()
    assert (state.phase, state.engines, state.engines_ready) == (Phase.READY, 3, 2)
    assert state.detail == "engine 1 of 3: restarting" and state.running == 4 and state.cache_total == 30_000
    for member in members:
        member.now = replace(member.now, phase=Phase.LOADING, detail="loading weights", progress=0.5)
    with pytest.raises(EngineLoading, match="loading weights, 50%"):
        fleet.submit(said("too early"), ANY)
    assert fleet.state().phase is Phase.LOADING and fleet.state().progress == 0.5
    fleet.close()
    with pytest.raises(EngineDown):
        fleet.submit(said("too late"), ANY)


def test_the_others_start_once_the_first_has_loaded() -> None:
    first, second = fakes(2)
    first.now = EngineState(Phase.LOADING)
    fleet = Fleet([lambda: first, lambda: second])
    time.sleep(0.3)
    assert len(fleet._members) == 1 and fleet.state().engines == 2
    first.now = replace(second.now)
    until(lambda: fleet.state().engines_ready == 2)
    fleet.close()
    alone = Fleet([lambda: first, lambda: second], wanted=lambda state: state.model is None)
    until(lambda: alone.state().engines == 1)
    alone.close()


@given(texts=st.lists(st.text(), min_size=1, max_size=6), more=st.lists(st.text(), min_size=1, max_size=3))
def test_a_later_turn_is_named_by_all_its_beginnings(texts: list[str], more: list[str]) -> None:
    names, later = names_of(said(*texts)), names_of(said(*texts, *more))
    assert later[len(more) :] == names and len(set(later)) == len(later)
    assert names_of(said(*texts[:-1], texts[-1] + "x"))[0] != names[0]


def test_only_so_many_conversations_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bluelm.engine.fleet.REMEMBERED", 3)
    fleet = fleet_of([FakeEngine(), FakeEngine()])
    for i in range(9):
        fleet.submit(said(str(i)), ANY)
    assert len(fleet._places) == 3
    fleet.close()


# --- cards ---


def shown(settings: Settings) -> list[str | None]:
    return [environment.get("CUDA_VISIBLE_DEVICES") for _, environment in places(settings)]


def test_one_engine_per_card_or_as_many_as_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "visible", lambda environment: ["0", "1", "GPU-5e1f"])
    assert shown(load_settings()) == shown(load_settings(device="cuda")) == ["0", "1", "GPU-5e1f"]
    assert shown(load_settings(device="cuda:2")) == ["GPU-5e1f"]
    assert shown(load_settings(device="cuda:1,0,1")) == ["1", "0"]
    assert shown(load_settings(engines=1)) == [None] and shown(load_settings(engines=2)) == ["0", "1"]
    assert shown(load_settings(device="cpu")) == [None] and shown(load_settings(device="cpu", engines=3)) == [None] * 3
    assert {own.device for own, _ in places(load_settings(device="cuda:2"))} == {"cuda"}
    with pytest.raises(SettingError, match="BLUELM_ENGINES is 4"):
        places(load_settings(engines=4))
    with pytest.raises(SettingError, match=r"there are 3 cards.* 3 is not one"):
        places(load_settings(device="cuda:0,3"))


def test_engines_on_a_cpu_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 8)
    assert [own.threads for own, _ in places(load_settings(device="cpu", engines=2))] == [4, 4]
    assert [own.threads for own, _ in places(load_settings(device="cpu", engines=2, threads=1))] == [1, 1]
    assert places(load_settings(device="cpu"))[0][0].threads == 0


def test_the_cards_of_this_host(tmp_path: Path) -> None:
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
    assert visible({}, tmp_path) == ["0", "1"]
    assert visible({"CUDA_VISIBLE_DEVICES": "3, 1"}, tmp_path) == ["3", "1"]
    assert visible({"CUDA_VISIBLE_DEVICES": ""}, tmp_path) == visible({"CUDA_VISIBLE_DEVICES": "-1"}, tmp_path) == []


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "cuda:1,", "CUDA"])
def test_a_device_that_is_none_is_refused_by_name(device: str) -> None:
    with pytest.raises(SettingError, match=r"device is .* it must be auto, cpu, cuda"):
        load_settings(device=device)
