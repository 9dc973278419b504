"""What can be looked at of one answer: its request as a program, what the model saw, how likely its tokens were."""

from __future__ import annotations

import streamlit as st

from bluelm.conversation import Conversation, Turn, View
from bluelm.engine import Engine
from components import api_request, prompt_seen, token_view
from components.i18n import tell

__all__ = ["ask", "buttons", "draw"]

ASKED = "answer_dialog"


def ask(what: str, answer: int) -> None:
    """Open a dialog (api, seen or tokens) for this answer with the next drawing."""
    st.session_state[ASKED] = (what, answer)


def buttons(turn: Turn) -> None:
    """One for each dialog that there is something to show in."""
    if turn.usage is not None or turn.answer.strip():
        _button("seen", ":material/visibility:", turn.answer_id)
    if turn.tokens:
        _button("tokens", ":material/query_stats:", turn.answer_id)
    if turn.usage is not None:
        _button("api", ":material/code:", turn.answer_id)


def draw(conversation: Conversation, view: View, engine: Engine) -> None:
    """The dialog that was asked for, once."""
    what, answer = st.session_state.pop(ASKED, ("", 0))
    turn = next((turn for turn in view.turns if turn.answer_id == answer), None)
    if turn is None:
        return
    prompt = conversation.prompt(answer)
    if what == "api":
        api_request.draw(turn, prompt)
    elif what == "tokens" and turn.tokens:
        token_view.draw(turn)
    elif what == "seen":
        prompt_seen.draw(turn, api_request.kept(prompt, turn.dropped), engine)


def _button(what: str, icon: str, answer: int) -> None:
    st.button(tell(what), key=f"icon_{what}_{answer}", icon=icon, type="tertiary", on_click=ask, args=(what, answer),
              help=tell(what))  # fmt: skip
