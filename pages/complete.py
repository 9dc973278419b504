"""Plain completion, for base models: a text to begin with, and what the model goes on with, right behind it.

As on the chat page, buttons leave a wish, which is carried out once the sidebar has told what is set.
"""

from __future__ import annotations

import streamlit as st

from bluelm.conversation import Conversation, Status, View
from bluelm.errors import Conflict
from bluelm.store import conversations
from bluelm.types import Phase
from components import address, answer_dialogs, answer_facts, draft, engine_notice, sidebar, welcome
from components.engine_handle import engine as shared_engine
from components.i18n import tell
from components.reader import owner
from components.undisturbed import undisturbed

TEXT, EDITING, WISH = "draft_text", "draft_editing", "draft_wish"

engine = shared_engine()


def wish(what: str) -> None:
    st.session_state[WISH] = what


def begin_with(text: str) -> None:
    st.session_state[TEXT] = text


def edit(conversation: Conversation) -> None:
    """Put the whole text back into the box."""
    st.session_state[TEXT] = conversation.view().text
    st.session_state[EDITING] = conversation.id


def keep(conversation: Conversation) -> None:
    """Leave the box, and the text as it was."""
    st.session_state.pop(EDITING, None)


def undo(conversation: Conversation) -> None:
    """Take back the last continuation; where that was the first one, its text goes back into the box."""
    try:
        question = conversation.undo()
    except Conflict:  # another tab has just gone on with it
        return
    if conversation.view().last is None:
        st.session_state[TEXT] = question


def clear() -> None:
    address.forget()
    st.session_state.pop(EDITING, None)
    st.session_state[TEXT] = ""


@undisturbed()
def carry_out(conversation: Conversation | None, wishes: sidebar.Wishes) -> Conversation | None:
    """Do what the reader wished, once."""
    what = st.session_state.pop(WISH, "")
    if not what or wishes.params is None:  # else the sidebar says which setting is at fault
        return conversation
    try:
        if what == "complete" and (text := st.session_state.get(TEXT, "")):
            if conversation is None or conversation.view().last is not None:
                conversation = conversations().new(owner(), plain=True)
            conversation.ask(engine, text, wishes.params)
            address.remember(conversation)
            st.session_state.pop(EDITING, None)
        elif what == "continue" and conversation is not None:
            conversation.ask(engine, "", wishes.params)
        elif what == "again" and conversation is not None:
            conversation.regenerate(engine, wishes.params)
    except Conflict:
        st.toast(tell("error.conflict"), icon=":material/hourglass_top:")
    return conversation


def draw_box(ready: bool, edited: Conversation | None) -> None:
    """Where a text is written; with prompts to begin with, unless one is being changed."""
    if edited is None:
        welcome.draw_prompts(begin_with)
    with st.form("draft_form", border=False):
        st.text_area(
            tell("draft.text"), key=TEXT, height=260, placeholder=tell("draft.text.empty"), label_visibility="collapsed"
        )
        with st.container(horizontal=True, gap="small"):
            st.form_submit_button(
                tell("complete"), key="complete", type="primary", icon=":material/edit_note:", on_click=wish,
                args=("complete",), disabled=not ready,
            )  # fmt: skip
            if edited is not None:
                st.form_submit_button(tell("cancel"), key="keep", on_click=keep, args=(edited,))


def draw_text(conversation: Conversation, view: View, ready: bool) -> None:
    """The text, what its last continuation cost, and what can be done with it."""
    draft.draw(view)
    last = view.last
    if last is None:
        return
    answer_facts.draw(last, plain=True)
    failed = last.status in (Status.FAILED, Status.REFUSED)
    with st.container(horizontal=True, gap="small"):
        st.button(
            tell("continue"), key="continue", icon=":material/arrow_forward:", on_click=wish, args=("continue",),
            disabled=not ready or last.status is Status.REFUSED, type="secondary" if failed else "primary",
        )  # fmt: skip
        st.button(
            tell("retry" if failed else "regenerate"), key="again", icon=":material/refresh:", on_click=wish,
            args=("again",), disabled=not ready, type="primary" if failed else "secondary",
        )  # fmt: skip
        st.button(tell("undo"), key="undo", icon=":material/undo:", on_click=undo, args=(conversation,))
        st.button(tell("edit"), key="edit", icon=":material/edit:", on_click=edit, args=(conversation,))
        answer_dialogs.buttons(last)


def draw_page() -> None:
    state = engine.state()
    ready = state.phase is Phase.READY
    conversation = address.current(plain=True)
    side = sidebar.draw(state.model, clear)
    conversation = carry_out(conversation, side.wishes)
    view = conversation.view() if conversation else None
    side.finish(view)

    st.caption(f"**{tell('app')}** · {state.model.id}" if state.model else f"**{tell('app')}**")
    with st.bottom:
        engine_notice.watch(engine, state)
    if conversation is None or view is None or view.last is None:
        draw_box(ready, None)
    elif st.session_state.get(EDITING) == conversation.id:
        draw_box(ready, conversation)
    elif not view.busy:
        draw_text(conversation, view, ready)
        answer_dialogs.draw(conversation, view, engine)
    else:
        place = draft.draw(view)
        with st.bottom:
            st.button(
                tell("stop"), key="stop", icon=":material/stop_circle:", on_click=conversation.stop, shortcut="Esc"
            )
        draft.follow(view.running, view, place)
        st.rerun()


draw_page()
