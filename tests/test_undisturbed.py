"""A reader's click is done whole, though the next event is there already."""

from __future__ import annotations

import pytest
from streamlit.proto.WidgetStates_pb2 import WidgetStates
from streamlit.runtime.scriptrunner_utils.script_requests import RerunData, ScriptRequests
from streamlit.runtime.state import SessionState
from streamlit.runtime.state.safe_session_state import SafeSessionState

from components.undisturbed import keep_callbacks_whole, undisturbed


@pytest.fixture
def next_event() -> ScriptRequests:
    keep_callbacks_whole()
    requests = ScriptRequests()
    requests.request_rerun(RerunData())
    return requests


def test_the_next_event_waits_until_all_is_done(next_event: ScriptRequests) -> None:
    with undisturbed():
        with undisturbed():
            assert next_event.on_scriptrunner_yield() is None
        assert next_event.on_scriptrunner_yield() is None
    assert next_event.on_scriptrunner_yield() is not None


def test_callbacks_are_not_broken_off(next_event: ScriptRequests) -> None:
    def may_end() -> None:
        assert next_event.on_scriptrunner_yield() is None, "broken off"

    state = SafeSessionState(SessionState(), may_end)
    state.on_script_will_rerun(WidgetStates())
    with pytest.raises(AssertionError, match="broken off"):
        state["key"] = "value"
