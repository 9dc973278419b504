"""The chat: what was said, the answer as it grows, and a box to write in.

Buttons and the box only leave a wish; it is carried out once the sidebar has told what is set.
"""

from __future__ import annotations

import streamlit as st

from bluelm.conversation import Conversation
from bluelm.errors import Conflict
from bluelm.store import conversations
from bluelm.types import Phase
from components import address, answer_dialogs, demo, engine_notice, prompt_library, sidebar, transcript, welcome
from components.engine_handle import engine as shared_engine
from components.i18n import tell
from components.reader import owner
from components.undisturbed import undisturbed

INPUT, WISH = "message", "wish"

engine = shared_engine()


def wish(what: str, *values: object) -> None:
    st.session_state.setdefault(WISH, []).append((what, *values))


def wish_typed() -> None:
    wish("ask", st.session_state[INPUT])


@undisturbed()
def carry_out(conversation: Conversation | None, wishes: sidebar.Wishes) -> Conversation | None:
    """Do what the reader wished, once, in its order."""
    for what, *values in st.session_state.pop(WISH, ()):
        conversation = carry_out_one(conversation, wishes, what, *values)
    return conversation


def carry_out_one(
    conversation: Conversation | None, wishes: sidebar.Wishes, what: str, *values: object
) -> Conversation | None:
    """Text that cannot be sent now goes back into the box."""
    text = str(values[-1]) if what in ("ask", "edit") else ""
    try:
        if what == "ask" and text.strip() and wishes.params is not None:
            conversation = conversation or conversations().new(owner())
            address.remember(conversation)
            conversation.ask(engine, text, wishes.params, wishes.system)
            text = ""
        elif what == "write":
            text = str(values[0])
        elif conversation is not None:
            text = carry_out_in(conversation, wishes, what, *values) or ""
    except Conflict:
        st.toast(tell("input.busy" if text else "error.conflict"), icon=":material/hourglass_top:")
    except KeyError:  # another tab has changed the conversation meanwhile
        pass
    if text.strip():
        st.session_state[INPUT] = text
    return conversation


def carry_out_in(conversation: Conversation, wishes: sidebar.Wishes, what: str, *values: object) -> str | None:
    """Do something with a message of a conversation; returns a text that goes back into the box."""
    if what == "show":
        conversation.show(*values)  # type: ignore[arg-type]
    elif what == "take_back":
        return conversation.take_back()
    elif wishes.params is None:  # the sidebar says which setting is at fault
        return str(values[-1]) if what == "edit" else None
    elif what == "regenerate":
        conversation.regenerate(engine, wishes.params, wishes.system, *values)  # type: ignore[arg-type]
    elif what == "go_on":
        conversation.go_on(engine, wishes.params, wishes.system, *values)  # type: ignore[arg-type]
    elif what == "edit":
        question, text = values
        conversation.edit(engine, question, text, wishes.params, wishes.system)  # type: ignore[arg-type]
    return None


def draw_page() -> None:
    state = engine.state()
    ready = state.phase is Phase.READY
    conversation = address.current()
    side = sidebar.draw(state.model, address.forget)
    conversation = carry_out(conversation, side.wishes)
    view = conversation.view() if conversation else None
    side.finish(view)
    name = state.model.id if state.model else ""

    st.caption(f"**{tell('app')}** · {name}" if name else f"**{tell('app')}**")
    if not demo.on():
        welcome.demo_line(state.model)
    place = None
    if view is None or view.last is None:
        welcome.draw(state.model, ready, lambda text: wish("ask", text))
    else:
        place = transcript.draw(view, ready, wish)
    with st.bottom:
        engine_notice.watch(engine, state)
        with st.container(horizontal=True, gap="small", key="above_input"):
            if not demo.on():
                prompt_library.draw_button()
            if view is not None and view.busy and conversation is not None:
                stop = conversation.stop
                st.button(tell("stop"), key="stop", icon=":material/stop_circle:", on_click=stop, shortcut="Esc")
    hint = tell("input", model=name) if ready else tell("input.loading")
    st.chat_input(hint, key=INPUT, on_submit=wish_typed, disabled=not ready)
    if not demo.on():
        prompt_library.draw(wish)
    if conversation is not None and view is not None and not demo.on():
        answer_dialogs.draw(conversation, view, engine)
    if view is not None and view.last is not None and view.busy and place is not None:
        transcript.follow(view.running, place, view.last.answer)
        st.rerun()


draw_page()
