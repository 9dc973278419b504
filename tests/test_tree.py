"""The tree of a conversation: whatever is done to it, nothing that was said is lost, and one path is shown."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluelm.conversation import Answer, Conversation, Question, Status, Tree, title_of
from bluelm.errors import EngineDied, EngineDown, QueueFull
from bluelm.types import FinishReason, Message, Role, SamplingParams
from tests.fakes import FakeEngine

PARAMS = SamplingParams(max_length=100)
STEPS = ("ask", "edit", "again", "go_on", "back", "forth", "refused", "failed", "undo", "take_back")


def ended(conversation: Conversation) -> None:
    """The fake answers at once: no need to sleep."""
    while conversation.view().busy:
        time.sleep(0)


def play(conversation: Conversation, engine: FakeEngine, steps: list[tuple[str, int]]) -> None:
    """What a reader may do, each with a number that says where."""
    for n, (step, where) in enumerate(steps):
        turns = conversation.view().turns
        turn = turns[where % len(turns)] if turns else None
        engine.refusal = QueueFull(1) if step == "refused" else None
        engine.failure = EngineDied() if step == "failed" else None
        engine.script = lambda prompt, params, n=n: [f"a{n} ", "and on"]  # type: ignore[misc]
        if step in ("ask", "refused", "failed"):
            conversation.ask(engine, f"q{n}", PARAMS)
        elif step == "undo":
            conversation.undo()
        elif step == "take_back":
            conversation.take_back()
        elif turn is not None and step == "edit":
            conversation.edit(engine, turn.question_id, f"q{n}", PARAMS)
        elif turn is not None and step == "again":
            conversation.regenerate(engine, PARAMS, answer=turn.answer_id)
        elif turn is not None and step == "go_on" and turn.answer:
            conversation.go_on(engine, PARAMS, answer=turn.answer_id)
        elif turn is not None and step in ("back", "forth"):
            versions = turn.answer_versions if where % 2 else turn.question_versions
            other = versions.before if step == "back" else versions.after
            if other is not None:
                conversation.show(other)
        ended(conversation)


steps = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 7)), max_size=14)


@given(steps)
def test_nothing_that_was_answered_is_ever_lost_or_changed(steps: list[tuple[str, int]]) -> None:
    engine, conversation = FakeEngine(), Conversation("c")
    known: dict[int, object] = {}
    for step in steps:
        play(conversation, engine, [step])
        tree = conversation.tree
        now = {node.id: node for node in tree.nodes}
        refused = {i for i, node in known.items() if isinstance(node, Answer) and node.status is Status.REFUSED}
        refused |= {now_or.parent for i in refused if isinstance(now_or := known[i], Answer)}
        for id, node in known.items():
            assert id in refused or now[id] == node
        known = dict(now)
        assert Tree(tree.nodes, tree.leaf).path() == tree.path()


@given(steps)
def test_the_path_goes_by_turns_and_every_version_can_be_reached(steps: list[tuple[str, int]]) -> None:
    engine, conversation = FakeEngine(), Conversation("c")
    play(conversation, engine, steps)
    tree = conversation.tree
    answers = [node for node in tree.nodes if isinstance(node, Answer)]
    continued = {node.continues for node in answers}
    reached = set()
    for answer in answers:
        if answer.id not in continued:
            conversation.show(answer.id)
            view = conversation.view()
            assert answer.id in {turn.answer_id for turn in view.turns}
            reached.add(answer.id)
            for turn in view.turns:
                assert turn.answer_versions.ids[turn.answer_versions.shown] == turn.answer_id
                assert turn.question_versions.ids[turn.question_versions.shown] == turn.question_id
    assert reached == {node.id for node in answers} - continued


@given(steps)
def test_what_the_model_is_asked_is_the_path_that_is_shown(steps: list[tuple[str, int]]) -> None:
    engine, conversation = FakeEngine(), Conversation("c")
    play(conversation, engine, steps)
    before = conversation.view().turns
    engine.refusal = engine.failure = None
    conversation.ask(engine, "last", PARAMS)
    ended(conversation)
    said = [m for t in before if t.is_context for m in ((Role.USER, t.question), (Role.ASSISTANT, t.answer))]
    assert [(m.role, m.content) for m in engine.seen[-1][0]] == [*said, (Role.USER, "last")]  # type: ignore[union-attr]


@given(steps)
def test_what_is_kept_bit_by_bit_is_the_whole_tree(steps: list[tuple[str, int]]) -> None:
    engine, kept = FakeEngine(), dict[int, object]()
    leaf: list[int | None] = [None]

    def keep(conversation: Conversation) -> None:
        if (changes := conversation.take_changes()) is not None:
            for removed in changes.removed:
                kept.pop(removed, None)
            kept.update({node.id: node for node in changes.nodes})
            leaf[0] = changes.leaf

    conversation = Conversation("c", changed=keep)
    play(conversation, engine, steps)
    keep(conversation)
    tree = conversation.tree
    assert kept == {node.id: node for node in tree.nodes} and leaf[0] == tree.leaf
    assert conversation.take_changes() is None


def test_changes_that_could_not_be_kept_come_again() -> None:
    engine, conversation = FakeEngine(), Conversation("c")
    conversation.ask(engine, "one", PARAMS)
    ended(conversation)
    changes = conversation.take_changes()
    assert changes is not None
    conversation.give_back(changes)
    assert conversation.take_changes() == changes


def test_an_answer_in_the_making_is_kept_as_far_as_it_is() -> None:
    engine, conversation = FakeEngine(pause=0.02), Conversation("c")
    conversation.ask(engine, "word " * 100, PARAMS)
    kept: list[str] = []
    while len(kept) < 4:
        if (changes := conversation.take_changes()) is not None:
            kept.append(changes.nodes[-1].text)
    assert kept == sorted(set(kept), key=len) and "word word word ".startswith(kept[-1])
    conversation.stop()


def test_edit_makes_a_version_with_what_was_said_before_it_and_nothing_behind() -> None:
    engine, conversation = FakeEngine(), Conversation("c")
    for text in ("one", "two", "three"):
        conversation.ask(engine, text, PARAMS)
        ended(conversation)
    second = conversation.view().turns[1]
    conversation.edit(engine, second.question_id, "deux", PARAMS)
    ended(conversation)
    assert [turn.question for turn in conversation.view().turns] == ["one", "deux"]
    assert [m.content for m in engine.seen[-1][0]] == ["one", "one ", "deux"]  # type: ignore[union-attr]
    versions = conversation.view().turns[1].question_versions
    assert (len(versions.ids), versions.shown, versions.before, versions.after) == (2, 1, second.question_id, None)
    conversation.show(second.question_id)
    assert [turn.question for turn in conversation.view().turns] == ["one", "two", "three"]


def test_an_answer_that_goes_on_stands_for_the_one_it_continues() -> None:
    engine, conversation = FakeEngine(lambda prompt, params: ["It was "]), Conversation("c")
    conversation.ask(engine, "go", SamplingParams(max_length=1), "Be kind.")
    ended(conversation)
    engine.script = lambda prompt, params: ["a dark ", "night."]
    conversation.go_on(engine, PARAMS, "Be kind.")
    ended(conversation)
    (turn,) = conversation.view().turns
    assert turn.answer == "It was a dark night." and turn.answer_versions.ids == (turn.answer_id,)
    assert turn.earlier_tokens == 1 and turn.usage is not None and turn.usage.completion_tokens == 2
    assert engine.seen[-1][0] == (
        Message(Role.SYSTEM, "Be kind."), Message(Role.USER, "go"),
        Message(Role.ASSISTANT, "It was ", unfinished=True),
    )  # fmt: skip
    engine.refusal = QueueFull(2)
    conversation.go_on(engine, PARAMS)
    (turn,) = conversation.view().turns
    assert turn.answer == "It was a dark night." and turn.error is engine.refusal


def test_an_answer_that_ends_with_the_app_is_interrupted_and_can_go_on() -> None:
    engine, conversation = FakeEngine(), Conversation("c")
    engine.failure, engine.fail_after = EngineDown("closed"), 1
    conversation.ask(engine, "one two", PARAMS)
    ended(conversation)
    (turn,) = conversation.view().turns
    assert (turn.status, turn.answer, turn.error, turn.can_go_on) == (Status.INTERRUPTED, "one ", None, True)


def test_only_an_answer_that_was_cut_can_go_on() -> None:
    engine, conversation = FakeEngine(lambda prompt, params: ["a", "b"]), Conversation("c")
    conversation.ask(engine, "q", PARAMS)
    ended(conversation)
    assert conversation.view().last.can_go_on is False  # type: ignore[union-attr]
    conversation.regenerate(engine, SamplingParams(max_length=1))
    ended(conversation)
    last = conversation.view().last
    assert last is not None and last.finish_reason is FinishReason.LENGTH and last.can_go_on


@pytest.mark.parametrize(
    "nodes",
    [
        [Answer(1, 0)],
        [Question(1, None, "q"), Question(2, 1, "q")],
        [Question(1, None, "q"), Answer(2, 1), Answer(3, 2)],
        [Question(1, None, "q"), Answer(1, 1)],
        [Question(1, None, "q"), Answer(2, 1, continues=1)],
        [Question(1, 1, "q")],
    ],
)
def test_what_is_no_tree_is_refused(nodes: list[Question | Answer]) -> None:
    with pytest.raises(ValueError):
        Tree(nodes)


@given(st.text())
def test_a_title_is_one_short_line_of_the_text(text: str) -> None:
    title = title_of(text)
    assert ("\n" not in title and len(title) <= 49) or any(ord(c) > 127 for c in text)
    assert " ".join(text.split()).startswith(title.removesuffix("…"))


def test_titles_end_at_whole_words_and_characters() -> None:
    assert title_of("Why is\nthe sky blue?") == "Why is the sky blue?"
    assert title_of("word " * 30) == " ".join(["word"] * 9) + "…"
    assert title_of("天" * 40) == "天" * 24 + "…"
    family = "👨‍👩‍👧‍👦"
    assert title_of("a" * 47 + family) == "a" * 47 + "…" and title_of("é́" * 60).startswith("é́")
