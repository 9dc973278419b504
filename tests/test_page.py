"""The page without a browser: words in both languages, settings that become one SamplingParams, what is drawn when."""

from __future__ import annotations

import re
import secrets
import string
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from bluelm import service
from bluelm.conversation import Status, Turn
from bluelm.errors import (
    BadImport,
    BlueLMError,
    EngineDied,
    EngineLoading,
    InvalidParameter,
    PromptTooLong,
    QueueFull,
    StorageError,
)  # fmt: skip
from bluelm.store import conversations
from bluelm.types import FinishReason, Phase, SamplingParams, Usage
from components import i18n, reader
from components.answer_facts import details, facts
from components.sidebar import stop_strings
from tests.fakes import INFO, FakeEngine

SCRIPT = str(Path(__file__).parent.parent / "components" / "navigation.py")


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    fake = FakeEngine()
    before = service._engine
    service.use(fake)
    st.cache_resource.clear()
    yield fake
    service._engine = before
    st.cache_resource.clear()


def tab(language: str = "en", owner: str = "") -> AppTest:
    """Not yet drawn. AppTest has no cookies, so each tab is somebody's whom we name."""
    app = AppTest.from_file(SCRIPT, default_timeout=20)
    app.session_state[reader.KEY] = owner or secrets.token_hex(8)
    app.session_state[i18n.KEY] = language
    return app


def page(language: str = "en", owner: str = "") -> AppTest:
    return run(tab(language, owner))


def run(app: AppTest) -> AppTest:
    app.run()
    assert not app.exception, app.exception
    return app


def ask(app: AppTest, text: str) -> AppTest:
    app.chat_input[0].set_value(text)
    run(app)
    end = time.monotonic() + 5
    known = app.session_state["conversation"], app.session_state["owner"]
    while (conversation := conversations().get(*known)) and conversation.view().busy:
        assert time.monotonic() < end
        time.sleep(0.01)
    return run(app)


def shown(app: AppTest) -> str:
    kinds = (app.markdown, app.caption, app.error, app.code)
    return "\n".join(str(element.value) for kind in kinds for element in kind)


# --- words ---


def test_both_languages_have_the_same_words() -> None:
    assert set(i18n.STRINGS["en"]) == set(i18n.STRINGS["zh"])
    assert len(i18n.STARTERS["en"]) == len(i18n.STARTERS["zh"])
    for key, english in i18n.STRINGS["en"].items():
        holes = [{name for _, name, _, _ in string.Formatter().parse(text) if name} for text in
                 (english, i18n.STRINGS["zh"][key])]  # fmt: skip
        assert holes[0] == holes[1], key


def test_every_end_and_every_phase_has_words() -> None:
    for to in i18n.LANGUAGES:
        for reason in FinishReason:
            assert i18n.word(f"end.{reason}", to)
        for phase in set(Phase) - {Phase.READY}:
            assert i18n.word(f"engine.{phase}", to) and i18n.word(f"engine.{phase}.sub", to)


@pytest.mark.parametrize(
    "error",
    [QueueFull(3), EngineDied("killed"), EngineLoading("reading", 0.25), PromptTooLong(1200, 100, 1000),
     InvalidParameter("top_p", 3, "a number"), BlueLMError("Odd."), BadImport(2, "not_json", "x", detail="y"),
     BadImport(0, "too_large", "x", megabytes=64), StorageError("full", "x"), StorageError("in_use", "/data")],
    ids=lambda error: f"{error.code}-{error.details.get('why', '')}",
)  # fmt: skip
def test_errors_are_worded_in_both_languages(error: BlueLMError) -> None:
    english, chinese = i18n.explain(error, "en"), i18n.explain(error, "zh")
    assert english.isascii() and not chinese.isascii()
    assert "{" not in english + chinese
    far = BlueLMError.from_wire(error.to_wire())
    assert i18n.explain(far, "en") == english


def test_every_cause_of_a_bad_file_or_disk_has_words() -> None:
    code = "".join(path.read_text() for path in (Path(SCRIPT).parent.parent / "bluelm" / "store").glob("*.py"))
    whys = {("import", why) for why in re.findall(r'BadImport\(\s*\w+,\s*"(\w+)"', code)}
    whys |= {("storage", why) for why in re.findall(r'(?:why = |StorageError\()"(\w+)"', code)}
    assert len(whys) >= 12
    for to in i18n.LANGUAGES:
        assert not [why for why in whys if ".".join(why) not in i18n.STRINGS[to]]


def test_an_error_without_its_details_is_told_all_the_same() -> None:
    assert "half" in i18n.explain(BlueLMError.from_wire({"code": "queue_full", "message": "half"}), "en")


def test_the_facts_of_an_answer_are_one_line() -> None:
    usage = Usage(prompt_tokens=50, completion_tokens=11, cached_tokens=20, ttft_s=0.5, total_s=1.5, seed=7)
    turn = Turn("q", Status.DONE, SamplingParams(), "a", finish_reason=FinishReason.LENGTH, usage=usage)
    assert facts(turn, "en") == (
        "11 tokens · first token 0.50 s · 10.0 tokens/s · reached max_length · prompt 50 tokens, 20 cached · seed 7"
    )
    assert facts(replace(turn, usage=None), "en") == ""
    assert "goes on behind 9 tokens" in facts(replace(turn, earlier_tokens=9), "en")


def test_all_settings_of_an_answer_are_told_as_they_were_given() -> None:
    params = SamplingParams(7, 0.1, stop=("```",))
    turn = Turn("q", Status.DONE, params, "a", usage=Usage(seed=7), model="m", system="Say ```` *x*.")
    told = details(turn, "zh")
    fence = told.split("\n")[2]
    assert fence == "`````" and told.endswith(fence) and told.count(fence) == 2
    for line in ("model: m", "max_length: 7", "temperature: 0.1", 'stop: ["```"]', "seed: 7", "system: Say ```` *x*."):
        assert line in told


def test_stop_strings_are_lines_with_escapes() -> None:
    assert stop_strings("") == ()
    assert stop_strings("END\n\n\\n\\nQ:\na\\\\nb") == ("END", "\n\nQ:", "a\\nb")
    assert len(stop_strings("\n".join("abcdefghijklmnopqrstuvwxyz"))) == 17  # one too many, to be refused


# --- the page ---


def test_settings_become_the_params_and_system_prompt_of_the_next_answer(engine: FakeEngine) -> None:
    app = page()
    app.number_input(key="max_length").set_value(7)
    app.slider(key="temperature").set_value(0.0)
    app.slider(key="top_p").set_value(0.5)
    app.number_input(key="top_k").set_value(5)
    app.slider(key="repetition_penalty").set_value(1.1)
    app.text_input(key="seed").set_value("42")
    app.text_area(key="stop_strings").set_value("END\n\\n")
    app.text_area(key="system").set_value("Be brief.")
    ask(run(app), "hello")
    prompt, params = engine.seen[-1]
    assert params == SamplingParams(7, 0.0, 0.5, 5, 1.1, 42, ("END", "\n"))
    assert [m.content for m in prompt] == ["Be brief.", "hello"]  # type: ignore[union-attr]


def test_the_models_defaults_are_where_the_settings_start(engine: FakeEngine) -> None:
    given = SamplingParams(max_length=99999, temperature=1.0, top_p=0.8, top_k=50, repetition_penalty=1.1)
    engine.now = replace(engine.now, model=replace(INFO, defaults=given))
    ask(page(), "hello")
    assert engine.seen[-1][1] == replace(given, max_length=INFO.context - 32)


def test_settings_can_be_put_back_to_the_defaults(engine: FakeEngine) -> None:
    app = page()
    app.slider(key="temperature").set_value(1.5)
    run(app)
    app.button(key="reset").click()
    assert run(app).slider(key="temperature").value == 0.7


def test_too_many_stop_strings_are_told_and_nothing_is_sent(engine: FakeEngine) -> None:
    app = page()
    app.text_area(key="stop_strings").set_value("\n".join("abcdefghijklmnopqrst"))
    run(app)
    assert "up to 16" in app.error[0].value
    app.chat_input[0].set_value("hello")
    run(app)
    assert engine.seen == [] and len(app.chat_message) == 0


def test_a_seed_that_is_no_number_is_told(engine: FakeEngine) -> None:
    app = page()
    app.text_input(key="seed").set_value("lucky")
    assert "seed is 'lucky'" in run(app).error[0].value


def test_an_answer_shows_its_facts_and_the_context_in_use(engine: FakeEngine) -> None:
    app = ask(page(), "one two three")
    assert "3 tokens · first token 0.01 s" in shown(app) and "prompt 13 tokens" in shown(app)
    assert len(app.chat_message) == 2
    (meter,) = app.get("progress")
    assert meter.proto.text == "Context: 16 of 1,000 tokens"  # type: ignore[union-attr]


def test_messages_that_fell_out_of_the_window_are_told(engine: FakeEngine) -> None:
    app = page()
    app.number_input(key="max_length").set_value(100)
    for text in ("a" * 400, "b" * 400):
        ask(app, text)
    assert "oldest messages no longer fit" in shown(app)
    assert "made without what is above" in "".join(str(one.proto.body) for one in app.get("html"))


def test_a_disk_that_fails_is_told_in_the_list_and_the_chat_goes_on(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conversations().database, "trouble", StorageError("readonly", "/data"))
    app = page()
    assert "cannot be written (/data)" in app.warning[0].value
    assert "hello" in shown(ask(app, "hello"))


def test_somebody_elses_conversation_is_not_here(engine: FakeEngine) -> None:
    app, other = ask(page(), "secret"), tab()
    other.query_params["c"] = app.session_state["conversation"]
    assert "is not here" in run(other).toast[0].value and "secret" not in shown(other)


def test_a_conversation_is_listed_as_soon_as_it_is_asked(engine: FakeEngine) -> None:
    app = page()
    app.chat_input[0].set_value("What about `this`?")
    labels = [button.label for button in run(app).button if str(button.key).startswith("open_")]
    assert labels == ["What about \\`this\\`?"]


def test_a_message_too_long_by_itself_is_refused_with_both_remedies(engine: FakeEngine) -> None:
    app = ask(page(), "x" * 990)
    assert "Shorten the message or lower max_length" in app.error[0].value
    assert {"again", "take_back"} <= {button.key for button in app.button}


def test_the_page_opens_while_the_model_loads(engine: FakeEngine) -> None:
    engine.now = replace(engine.now, phase=Phase.LOADING, progress=0.3, detail="reading weights", model=None)
    app = page()
    assert "Loading the model" in shown(app) and app.chat_input[0].disabled
    engine.now = replace(engine.now, phase=Phase.READY, model=INFO)
    assert not run(app).chat_input[0].disabled and "Loading" not in shown(app)


def test_an_engine_that_is_down_says_why(engine: FakeEngine) -> None:
    engine.now = replace(engine.now, phase=Phase.DOWN, detail="no such folder: /models/x")
    app = page("zh")
    assert "模型没有在运行" in shown(app) and "/models/x" in shown(app)


def test_the_demo_model_is_named_as_one(engine: FakeEngine) -> None:
    assert "demo model" not in shown(page())
    engine.now = replace(engine.now, model=replace(INFO, id="SmolLM2", demo=True))
    app = page("zh")
    assert "SmolLM2" in shown(app) and "演示" in shown(app)
    assert any(button.label.isascii() and button.label for button in app.button if button.key.startswith("starter"))  # type: ignore[union-attr]


def test_an_unknown_conversation_in_the_address_is_a_new_one(engine: FakeEngine) -> None:
    app = tab()
    app.query_params["c"] = "guess"
    run(app)
    assert "is not here" in app.toast[0].value and "c" not in app.query_params
    ask(app, "hello")
    assert app.session_state["conversation"] != "guess"
