"""A conversation keeps what was said, whoever looks on, and never sends anything broken to the model."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bluelm.conversation import Conversation, Status
from bluelm.errors import Conflict, EngineDied, EngineLoading, PromptTooLong, QueueFull
from bluelm.store import Store
from bluelm.store.database import Database
from bluelm.types import FinishReason, Message, Role, SamplingParams
from tests.fakes import FakeEngine

PARAMS = SamplingParams(max_length=100)


def until(reached: Callable[[], object], seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


def ended(conversation: Conversation) -> None:
    until(lambda: not conversation.view().busy)


def test_an_answer_ends_up_in_its_turn_with_its_facts() -> None:
    conversation = Conversation("c")
    conversation.ask(FakeEngine(), "one two", PARAMS)
    ended(conversation)
    (turn,) = conversation.view().turns
    assert (turn.question, turn.answer, turn.status) == ("one two", "one two ", Status.DONE)
    assert turn.finish_reason is FinishReason.STOP and turn.usage is not None and turn.usage.completion_tokens == 2
    assert (turn.prompt_tokens, turn.window, turn.model, turn.params) == (7, 1000, "fake", PARAMS)


def test_later_questions_are_asked_with_the_earlier_turns() -> None:
    engine, conversation = FakeEngine(), Conversation("c")
    conversation.ask(engine, "one", PARAMS)
    ended(conversation)
    conversation.ask(engine, "two", PARAMS, system="Be kind.")
    ended(conversation)
    assert engine.seen[1][0] == (
        Message(Role.SYSTEM, "Be kind."),
        Message(Role.USER, "one"),
        Message(Role.ASSISTANT, "one "),
        Message(Role.USER, "two"),
    )


def test_stop_keeps_the_partial_answer_marked_and_in_context_and_frees_the_row() -> None:
    engine, conversation = FakeEngine(pause=0.02), Conversation("c")
    conversation.ask(engine, "word " * 50, PARAMS)
    until(lambda: (g := conversation.view().running) is not None and g.text)
    conversation.stop()
    until(lambda: not engine.running, 0.5)
    ended(conversation)
    last = conversation.view().last
    assert last is not None and last.status is Status.STOPPED and last.answer.startswith("word")
    assert len(last.answer) < 250 and last.is_context


@pytest.mark.parametrize(
    "refusal", [QueueFull(3), EngineLoading("loading", 0.5), PromptTooLong(2000, 10, 1000)], ids=lambda e: e.code
)
def test_a_refused_question_stays_and_is_never_context(refusal: Exception) -> None:
    engine, conversation = FakeEngine(), Conversation("c")
    engine.refusal = refusal  # type: ignore[assignment]
    conversation.ask(engine, "lost?", PARAMS)
    last = conversation.view().last
    assert last is not None and (last.question, last.status, last.error) == ("lost?", Status.REFUSED, refusal)
    engine.refusal = None
    conversation.ask(engine, "next", PARAMS)
    ended(conversation)
    assert engine.seen[-1][0] == (Message(Role.USER, "next"),)


def test_a_refused_question_can_be_tried_again_or_taken_back() -> None:
    engine, conversation = FakeEngine(), Conversation("c")
    engine.refusal = QueueFull(3)
    conversation.ask(engine, "again", PARAMS)
    conversation.regenerate(engine, PARAMS)
    assert conversation.view().turns[-1].status is Status.REFUSED
    engine.refusal = None
    conversation.regenerate(engine, PARAMS)
    ended(conversation)
    assert [(t.status, t.answer) for t in conversation.view().turns] == [(Status.DONE, "again ")]
    assert conversation.take_back() == ""
    engine.refusal = QueueFull(3)
    conversation.ask(engine, "mine", PARAMS)
    assert conversation.take_back() == "mine" and len(conversation.view().turns) == 1


def test_a_failed_answer_keeps_its_text_and_error_and_is_not_context() -> None:
    engine, conversation = FakeEngine(), Conversation("c")
    engine.failure, engine.fail_after = EngineDied("killed"), 2
    conversation.ask(engine, "one two three", PARAMS)
    ended(conversation)
    last = conversation.view().last
    assert last is not None and (last.status, last.answer, last.error) == (Status.FAILED, "one two ", engine.failure)
    engine.failure = None
    conversation.ask(engine, "next", PARAMS)
    ended(conversation)
    assert engine.seen[-1][0] == (Message(Role.USER, "next"),)


def test_regenerate_shows_a_new_version_of_the_last_answer() -> None:
    engine, conversation = FakeEngine(), Conversation("c")
    for text in ("one", "two"):
        conversation.ask(engine, text, PARAMS)
        ended(conversation)
    engine.script = lambda prompt, params: ["better"]
    other = SamplingParams(max_length=100, temperature=0.1)
    conversation.regenerate(engine, other)
    ended(conversation)
    assert [t.answer for t in conversation.view().turns] == ["one ", "better"]
    assert engine.seen[-1] == (
        (Message(Role.USER, "one"), Message(Role.ASSISTANT, "one "), Message(Role.USER, "two")),
        other,
    )
    assert conversation.view().turns[-1].params is other


def test_a_good_answer_survives_a_refused_new_try() -> None:
    engine, conversation = FakeEngine(), Conversation("c")
    conversation.ask(engine, "one", PARAMS)
    ended(conversation)
    engine.refusal = QueueFull(3)
    conversation.regenerate(engine, PARAMS)
    last = conversation.view().last
    assert last is not None and (last.answer, last.status, last.error) == ("one ", Status.DONE, engine.refusal)
    assert last.is_context


def test_a_second_question_waits_for_the_first_answer() -> None:
    engine, conversation = FakeEngine(pause=0.05), Conversation("c")
    conversation.ask(engine, "a b c", PARAMS)
    with pytest.raises(Conflict):
        conversation.ask(engine, "d", PARAMS)
    with pytest.raises(Conflict):
        conversation.regenerate(engine, PARAMS)
    assert len(conversation.view().turns) == 1
    conversation.stop()


def test_stop_while_the_engine_is_still_deciding_stops_the_answer() -> None:
    engine, conversation, gate = FakeEngine(pause=0.02), Conversation("c"), threading.Event()
    plain = engine.submit

    def slow(*given: object, **named: object) -> object:
        gate.wait(5)
        return plain(*given, **named)  # type: ignore[arg-type]

    engine.submit = slow  # type: ignore[method-assign, assignment]
    asking = threading.Thread(target=conversation.ask, args=(engine, "word " * 50, PARAMS))
    asking.start()
    until(lambda: conversation.view().busy)
    conversation.stop()
    gate.set()
    asking.join()
    ended(conversation)
    assert conversation.view().turns[-1].status is Status.STOPPED


def test_an_empty_answer_is_not_context() -> None:
    engine, conversation = FakeEngine(lambda prompt, params: []), Conversation("c")
    conversation.ask(engine, "one", PARAMS)
    ended(conversation)
    conversation.ask(engine, "two", PARAMS)
    ended(conversation)
    assert engine.seen[-1][0] == (Message(Role.USER, "two"),)


def test_an_answer_that_nobody_watches_is_ended_and_marked(tmp_path: Path) -> None:
    engine, store = FakeEngine(pause=0.05), Store(Database(tmp_path), abandon_after_s=0.3)
    conversation = store.new("me")
    conversation.ask(engine, "word " * 100, PARAMS)
    until(lambda: not engine.running, 3)
    ended(conversation)
    assert conversation.view().turns[-1].status is Status.ABANDONED
    assert conversation.view().turns[-1].answer.startswith("word")
    store.close()


def test_an_answer_that_somebody_watches_goes_on(tmp_path: Path) -> None:
    engine, store = FakeEngine(pause=0.05), Store(Database(tmp_path), abandon_after_s=0.3)
    conversation = store.new("me")
    conversation.ask(engine, "word " * 20, PARAMS)
    until(lambda: (running := conversation.view().running) is None or running.text is None)
    assert conversation.view().turns[-1].status is Status.DONE
    store.close()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["ask", "refused", "fail", "empty", "again", "stop", "back"]), max_size=12))
def test_whatever_happens_the_prompt_is_whole_turns_in_order(steps: list[str]) -> None:
    engine, conversation = FakeEngine(), Conversation("c")
    for number, step in enumerate(steps):
        engine.refusal = QueueFull(1) if step == "refused" else None
        engine.failure = EngineDied() if step == "fail" else None
        engine.script = lambda prompt, params, step=step, number=number: [] if step == "empty" else [f"a{number}"]  # type: ignore[misc]
        if step == "stop":
            conversation.stop()
        elif step == "back":
            conversation.take_back()
        elif step == "again" and conversation.view().turns:
            conversation.regenerate(engine, PARAMS)
        elif step != "again":
            conversation.ask(engine, f"q{number}", PARAMS)
        ended(conversation)
    for prompt, _ in engine.seen:
        assert isinstance(prompt, tuple) and all(m.content for m in prompt)
        assert [m.role for m in prompt] == [Role.USER, Role.ASSISTANT] * (len(prompt) // 2) + [Role.USER]
