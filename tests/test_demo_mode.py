"""Demo mode without a browser: what is locked stays locked, whatever a browser says."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from bluelm import models, service
from bluelm.config import load_settings
from bluelm.store import conversations
from bluelm.types import Message, ModelKind, Role, SamplingParams
from components import demo, i18n, reader
from tests.fakes import INFO, FakeEngine
from tests.test_page import SCRIPT

FORGED = {"temperature": 2.0, "max_length": 900, "top_p": 0.1, "top_k": 1, "repetition_penalty": 2.0, "seed": "7",
          "stop_strings": "e", "system": "Swear.", "token_view": True}  # fmt: skip


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    conversations()
    fake, before = FakeEngine(), service._engine
    monkeypatch.setattr(service, "_settings", load_settings(demo=True))
    service.use(fake)
    st.cache_resource.clear()
    yield fake
    service._engine = before
    st.cache_resource.clear()


@pytest.mark.parametrize("kind", [ModelKind.CHAT, ModelKind.BASE])
def test_settings_of_a_browser_change_nothing(engine: FakeEngine, kind: ModelKind) -> None:
    model = replace(INFO, kind=kind, defaults=SamplingParams(temperature=0.4, top_k=7, max_length=4000))
    engine.now = replace(engine.now, model=model)
    app = AppTest.from_file(SCRIPT, default_timeout=20)
    app.session_state[reader.KEY], app.session_state[i18n.KEY] = secrets.token_hex(8), "en"
    for name, value in FORGED.items():
        app.session_state[name] = value
    app.run()
    assert not app.exception, app.exception
    assert not (app.slider or app.number_input or app.toggle or app.tabs), "nothing is there to be set"
    if kind is ModelKind.CHAT:
        app.chat_input[0].set_value("Hello").run()
    else:
        app.text_area(key="draft_text").set_value("Once")
        app.button(key="complete").click().run()
    assert not app.exception, app.exception
    end = time.monotonic() + 5
    while not engine.seen:
        assert time.monotonic() < end
        time.sleep(0.01)
    prompt, params = engine.seen[-1]
    assert params == demo.params(model) == SamplingParams(temperature=0.4, top_k=7, max_length=500)
    assert prompt == ((Message(Role.USER, "Hello"),) if kind is ModelKind.CHAT else "Once")


def test_answers_are_never_longer_than_an_audience_waits() -> None:
    for context, own, allowed in ((32_768, None, 512), (32_768, 100, 100), (600, None, 300), (2048, 9000, 512)):
        model = replace(INFO, context=context, defaults=SamplingParams(max_length=own, seed=3))
        assert demo.params(model) == SamplingParams(max_length=allowed)


def test_a_place_is_worded() -> None:
    places = {1: "1st", 2: "2nd", 3: "3rd", 4: "4th", 11: "11th", 12: "12th", 13: "13th", 21: "21st", 112: "112th"}
    assert {place: i18n.nth(place, "en") for place in places} == places
    assert i18n.nth(3, "zh") == "3"


def test_what_can_be_served_is_listed(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    from tests.checkpoints import write_checkpoint

    monkeypatch.setattr(models, "roots", lambda: (tmp_path / "models",))
    write_checkpoint(tmp_path / "models" / "BlueLM-7B-Chat", form="safetensors")
    write_checkpoint(tmp_path / "mine" / "own", form="safetensors")
    write_checkpoint(tmp_path / "mine" / "beside", form="safetensors")
    (tmp_path / "mine" / "small.gguf").write_bytes(b"GGUF")
    (tmp_path / "mine" / "half").mkdir()
    (tmp_path / "mine" / "half" / "config.json").write_text("{}")
    found = models.on_disk(load_settings(model=str(tmp_path / "mine" / "own")))
    names = ["mine/own", "models/BlueLM-7B-Chat", "mine/beside", "mine/small.gguf"]
    assert found == [*(str(tmp_path / name) for name in names), "demo"]
    assert models.on_disk(load_settings(model="/nowhere")) == [str(tmp_path / "models" / "BlueLM-7B-Chat"), "demo"]
