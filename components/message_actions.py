"""What can be done with a message: step through its versions, change it, copy it, have it made anew or go on."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from bluelm.conversation import Status, Turn, Versions
from components import answer_dialogs, copy_button, demo
from components.i18n import tell

__all__ = ["Wish", "draw_answer", "draw_editor", "draw_question", "editing", "stop_editing"]

EDITING, EDITED = "editing", "edited_text"

Wish = Callable[..., None]  # wish(what, *values): is carried out with the next drawing


def editing() -> int | None:
    """The question that is being changed."""
    return st.session_state.get(EDITING)


def stop_editing() -> None:
    st.session_state.pop(EDITING, None)


def draw_question(turn: Turn, ready: bool, wish: Wish) -> None:
    """Versions and Edit, behind what a person said."""
    id = turn.question_id
    key = f"q{turn.question_versions.first}"
    with st.container(horizontal=True, gap=None, key=f"actions_{key}", vertical_alignment="center", width="content"):
        _steps(turn.question_versions, key, wish)
        if turn.status is not Status.REFUSED:  # that one goes back into the box, see draw_answer
            _icon("edit_message", f"edit_{id}", ":material/edit:", _start_editing, (id, turn.question), ready)


def draw_editor(turn: Turn, wish: Wish) -> None:
    """In the place of a question: its text, to be changed and sent as a version of its own."""
    with st.form("edit_form", border=False):
        st.text_area(tell("edit_message"), key=EDITED, height="content", label_visibility="collapsed")
        with st.container(horizontal=True, gap="small"):
            st.form_submit_button(
                tell("send"), type="primary", icon=":material/send:", on_click=_send, args=(turn.question_id, wish)
            )
            st.form_submit_button(tell("cancel"), on_click=stop_editing)


def draw_answer(turn: Turn, ready: bool, is_last: bool, wish: Wish) -> None:
    """The row under an answer that has ended."""
    id = turn.answer_id
    failed = turn.status in (Status.FAILED, Status.REFUSED) or not turn.answer.strip()
    key = f"a{turn.answer_versions.first}"
    with st.container(horizontal=True, gap=None, key=f"actions_{key}", vertical_alignment="center"):
        _steps(turn.answer_versions, key, wish)
        if turn.answer.strip():
            copy_button.draw(turn.answer, f"copy_{id}")
        if is_last and failed:
            st.button(tell("retry"), key="again", icon=":material/refresh:", on_click=wish, args=("regenerate", id),
                      disabled=not ready)  # fmt: skip
        else:
            again = "again" if is_last else f"again_{id}"
            _icon("regenerate", again, ":material/refresh:", wish, ("regenerate", id), ready)
        if not demo.on():
            answer_dialogs.buttons(turn)
        if is_last and turn.can_go_on:
            st.button(tell("continue"), key="go_on", icon=":material/arrow_forward:", on_click=wish,
                      args=("go_on", id), disabled=not ready)  # fmt: skip
        if is_last and turn.status is Status.REFUSED:
            st.button(tell("edit"), key="take_back", icon=":material/edit:", on_click=wish, args=("take_back",))


def _steps(versions: Versions, key: str, wish: Wish) -> None:
    """‹ 2/3 ›; key: the same beside each version, so that its buttons keep the focus, and a quick next click counts."""
    if len(versions.ids) < 2:
        return
    before, after = versions.before, versions.after
    _icon("version.before", f"before_{key}", ":material/chevron_left:", wish, ("show", before), before is not None)
    st.caption(f"{versions.shown + 1}/{len(versions.ids)}", width="content")
    _icon("version.after", f"after_{key}", ":material/chevron_right:", wish, ("show", after), after is not None)


def _icon(name: str, key: str, icon: str, on_click: Callable[..., None], args: tuple, enabled: bool) -> None:
    """A button that shows its icon alone; its name is there for those who do not see it (style.py)."""
    st.button(tell(name), key=f"icon_{key}", icon=icon, type="tertiary", on_click=on_click, args=args,
              disabled=not enabled, help=tell(name))  # fmt: skip


def _start_editing(question: int, text: str) -> None:
    st.session_state[EDITING], st.session_state[EDITED] = question, text


def _send(question: int, wish: Wish) -> None:
    text = st.session_state[EDITED]
    if text.strip():
        wish("edit", question, text)
        stop_editing()
