"""The chat: what was said, the answer as it grows, and a box to write in.

Buttons and the box only leave a wish; it is carried out once the sidebar has told what is set.
"""

from __future__ import annotations

import streamlit as st

from bluelm.conversation import Conversation, Status, Turn
from bluelm.errors import Conflict
from bluelm.store import conversations
from bluelm.types import Phase
from components import address, engine_notice, sidebar, transcript, welcome
from components.engine_handle import engine as shared_engine
from components.i18n import tell

INPUT, WISH = "message", "wish"

engine = shared_engine()


def wish(what: str, text: str = "") -> None:
    st.session_state[WISH] = (what, text)


def wish_typed() -> None:
    wish("ask", st.session_state[INPUT])


def carry_out(conversation: Conversation | None, wishes: sidebar.Wishes) -> Conversation | None:
    """Do what the reader wished, once; text that cannot be sent now goes back into the box."""
    what, text = st.session_state.pop(WISH, ("", ""))
    sent = False
    if what == "edit" and conversation is not None:
        st.session_state[INPUT] = conversation.take_back()
    elif what and wishes.params is not None:  # else the sidebar says which setting is at fault
        try:
            if what == "ask" and text.strip():
                conversation = conversation or conversations().new()
                address.remember(conversation)
                conversation.ask(engine, text, wishes.params, wishes.system)
            elif what == "regenerate" and conversation is not None:
                conversation.regenerate(engine, wishes.params, wishes.system)
            sent = True
        except Conflict:
            st.toast(tell("input.busy" if text else "error.conflict"), icon=":material/hourglass_top:")
    if text.strip() and not sent:
        st.session_state[INPUT] = text
    return conversation


def draw_actions(turn: Turn, ready: bool) -> None:
    """What can be done with the last turn once it has ended."""
    with st.container(horizontal=True, gap="small"):
        again = "retry" if turn.status in (Status.FAILED, Status.REFUSED) else "regenerate"
        st.button(
            tell(again), key="again", icon=":material/refresh:", on_click=wish, args=("regenerate",),
            disabled=not ready, type="tertiary" if again == "regenerate" else "secondary",
        )  # fmt: skip
        if turn.status is Status.REFUSED:
            st.button(tell("edit"), key="edit", icon=":material/edit:", on_click=wish, args=("edit",))


def draw_page() -> None:
    state = engine.state()
    ready = state.phase is Phase.READY
    conversation = address.current()
    wishes = sidebar.draw(state.model, conversation.view() if conversation else None, address.forget)
    conversation = carry_out(conversation, wishes)
    view = conversation.view() if conversation else None
    name = state.model.id if state.model else ""

    st.caption(f"**{tell('app')}** · {name}" if name else f"**{tell('app')}**")
    welcome.demo_line(state.model)
    place = None
    if view is None or view.last is None:
        welcome.draw(state.model, ready, lambda text: wish("ask", text))
    else:
        place = transcript.draw(view, lambda turn: draw_actions(turn, ready))
    with st.bottom:
        engine_notice.watch(engine, state)
        if view is not None and view.busy and conversation is not None:
            stop = conversation.stop
            st.button(tell("stop"), key="stop", icon=":material/stop_circle:", on_click=stop, shortcut="Esc")
    hint = tell("input", model=name) if ready else tell("input.loading")
    st.chat_input(hint, key=INPUT, on_submit=wish_typed, disabled=not ready)
    if view is not None and view.busy and place is not None:
        transcript.follow(view.running, place)
        st.rerun()


draw_page()
