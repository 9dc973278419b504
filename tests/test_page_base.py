"""The page of a base model without a browser: a text, what goes on behind it, and what can be done with it."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamlit.testing.v1 import AppTest

from bluelm.conversation import Conversation, Status
from bluelm.errors import Conflict, EngineDied, QueueFull
from bluelm.store import conversations
from bluelm.types import ModelKind, Phase, SamplingParams
from components import draft, i18n
from tests.fakes import INFO, FakeEngine
from tests.test_page import engine, page, run, shown, tab  # noqa: F401  (engine is a fixture)

PARAMS = SamplingParams(max_length=100)
BASE = replace(INFO, kind=ModelKind.BASE)


@pytest.fixture
def base(engine: FakeEngine) -> FakeEngine:  # noqa: F811
    engine.now = replace(engine.now, model=BASE)
    engine.script = lambda prompt, params: ["曹", "雪芹"]
    return engine


def press(app: AppTest, key: str) -> AppTest:
    app.button(key=key).click()
    return wait(run(app))


def wait(app: AppTest) -> AppTest:
    end, known = time.monotonic() + 5, ("", "")
    if "conversation" in app.session_state:
        known = app.session_state["conversation"], app.session_state["owner"]
    while (conversation := conversations().get(*known)) and conversation.view().busy:
        assert time.monotonic() < end
        time.sleep(0.01)
    return run(app)


def begin(app: AppTest, text: str) -> AppTest:
    app.text_area(key="draft_text").set_value(text)
    return press(app, "complete")


def html(app: AppTest) -> str:
    return "".join(str(one.proto.body) for one in app.get("html"))


def keys(app: AppTest) -> set[str]:
    return {str(button.key) for button in app.button}


# --- the text ---


def ended(conversation: Conversation) -> None:
    end = time.monotonic() + 5
    while conversation.view().busy:
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_plain_conversation_is_one_text_that_grows() -> None:
    made, text = FakeEngine(lambda prompt, params: [" b", " c"]), Conversation("t", plain=True)
    text.ask(made, "a", PARAMS)
    ended(text)
    text.ask(made, "", PARAMS, system="unheeded")
    ended(text)
    assert [prompt for prompt, _ in made.seen] == ["a", "a b c"]
    assert text.view().text == "a b c b c"
    text.regenerate(made, PARAMS)
    ended(text)
    assert made.seen[-1][0] == "a b c"
    assert (text.undo(), text.view().text) == ("", "a b c")
    assert (text.undo(), text.undo(), text.view().text) == ("a", "", "")


def test_what_failed_half_way_is_part_of_the_text() -> None:
    made, text = FakeEngine(lambda prompt, params: [" b", " c"]), Conversation("t", plain=True)
    made.failure, made.fail_after = EngineDied(), 1
    text.ask(made, "a", PARAMS)
    ended(text)
    assert text.view().text == "a b"
    made.failure, made.refusal = None, QueueFull(1)
    text.ask(made, "", PARAMS)
    assert (text.view().text, text.view().turns[-1].status) == ("a b", Status.REFUSED)


def test_a_text_that_grows_cannot_be_undone() -> None:
    made, text = FakeEngine(pause=0.05), Conversation("t", plain=True)
    text.ask(made, "a b c", PARAMS)
    assert text.view().text == "a b c"
    with pytest.raises(Conflict):
        text.undo()
    text.stop()


written = st.lists(st.tuples(st.text(st.sampled_from("ab\n"), min_size=1), st.booleans()))


@given(written)
def test_a_text_is_cut_behind_its_last_whole_line(pieces: list[draft.Piece]) -> None:
    closed, tail = draft.cut(pieces)
    for by in (True, False):
        assert "".join(t for t, b in [*closed, *tail] if b is by) == "".join(t for t, b in pieces if b is by)
    assert "".join(t for t, _ in [*closed, *tail]) == "".join(t for t, _ in pieces)
    assert not any("\n" in t for t, _ in tail)
    assert not closed or closed[-1][0].endswith("\n")


# --- the page ---


def test_a_base_model_gets_a_box_for_a_text_and_no_chat(base: FakeEngine) -> None:
    app = page()
    assert not app.chat_input and app.button(key="complete").label == "Complete"
    assert "follows no instructions" in shown(app)
    assert "system" not in {area.key for area in app.text_area}
    assert app.number_input(key="max_length").value == 128
    assert app.button(key="new_chat").label == "New text"


def test_prompts_are_put_into_the_box_and_continued_as_they_are(base: FakeEngine) -> None:
    app = press(page("zh"), "prompt_0")
    text = i18n.PROMPTS["zh"][0][2]
    assert text.startswith("儒林外史->吴敬梓\n") and app.text_area(key="draft_text").value == text
    app = press(app, "complete")
    assert base.seen[-1][0] == text
    assert "红楼梦-&gt;<mark>曹雪芹</mark>" in html(app)
    assert "2 token" in shown(app)


def test_a_text_is_shown_as_it_was_written(base: FakeEngine) -> None:
    base.script = lambda prompt, params: ["<b>", "**x**"]
    app = begin(page(), "  <i>a</i>\n ")
    assert base.seen[-1][0] == "  <i>a</i>\n "
    assert "  &lt;i&gt;a&lt;/i&gt;\n <mark>&lt;b&gt;**x**</mark>" in html(app)


def test_continue_goes_on_behind_everything_and_undo_takes_it_back(base: FakeEngine) -> None:
    app = press(begin(page(), "红楼梦->"), "continue")
    assert base.seen[-1][0] == "红楼梦->曹雪芹"
    assert html(app).count("<mark>曹雪芹</mark>") == 2
    app = press(app, "undo")
    assert html(app).count("<mark>") == 1
    app = press(app, "undo")
    assert app.text_area(key="draft_text").value == "红楼梦->"


def test_regenerate_replaces_the_last_continuation(base: FakeEngine) -> None:
    app = begin(page(), "a->")
    base.script = lambda prompt, params: ["other"]
    app = press(app, "again")
    assert base.seen[-1][0] == "a->" and "a-&gt;<mark>other</mark>" in html(app)


def test_the_whole_text_can_be_changed_and_that_can_be_given_up(base: FakeEngine) -> None:
    app = press(begin(page(), "a->"), "edit")
    assert app.text_area(key="draft_text").value == "a->曹雪芹"
    assert "prompt_0" not in keys(app)
    app = press(app, "keep")
    assert "<mark>曹雪芹</mark>" in html(app)
    app = press(app, "edit")
    app = begin(app, "b->")
    assert base.seen[-1][0] == "b->" and "a-&gt;" not in html(app)


def test_a_reload_finds_the_text_again(base: FakeEngine) -> None:
    app = begin(page(), "a->")
    again = tab(owner=app.session_state["owner"])
    again.query_params["c"] = app.session_state["conversation"]
    assert "a-&gt;<mark>曹雪芹</mark>" in html(run(again))


def test_new_text_empties_the_page(base: FakeEngine) -> None:
    app = press(begin(page(), "a->"), "new_chat")
    assert app.text_area(key="draft_text").value == "" and "c" not in app.query_params


def test_a_text_that_is_too_long_is_told_and_kept(base: FakeEngine) -> None:
    app = begin(page(), "x" * 990)
    assert "Shorten the text or lower max_length" in app.error[0].value
    assert app.button(key="again").label == "Retry" and app.button(key="continue").disabled
    assert press(app, "edit").text_area(key="draft_text").value == "x" * 990


def test_a_setting_that_cannot_be_used_keeps_the_text_in_the_box(base: FakeEngine) -> None:
    app = page()
    app.text_input(key="seed").set_value("lucky")
    app = begin(app, "a->")
    assert not base.seen and app.text_area(key="draft_text").value == "a->"


def test_the_page_changes_over_once_the_loading_model_turns_out_to_be_a_base_model(base: FakeEngine) -> None:
    base.now = replace(base.now, phase=Phase.LOADING, progress=0.3, model=None)
    app = page()
    assert app.chat_input[0].disabled
    base.now = replace(base.now, phase=Phase.READY, model=BASE)
    assert not run(app).chat_input and "complete" in keys(app)


def test_a_chat_in_the_address_is_no_text(base: FakeEngine) -> None:
    app = tab(owner="me")
    app.query_params["c"] = conversations().new("me").id
    assert "c" not in run(app).query_params and app.toast


# --- system prompts ---


@pytest.mark.parametrize("heeds", [True, False])
def test_a_model_without_system_prompts_says_so_quietly(engine: FakeEngine, heeds: bool) -> None:  # noqa: F811
    engine.now = replace(engine.now, model=replace(INFO, system_prompt=heeds))
    app = page()
    assert app.text_area(key="system") is not None
    assert ("not trained with system prompts" in shown(app)) is not heeds
