"""A conversation that its owner has given a link to, for reading."""

from __future__ import annotations

import streamlit as st

from bluelm.errors import StorageError
from bluelm.store import conversations
from bluelm.store.table import Portable
from components import address, draft, i18n, transcript
from components.i18n import tell
from components.reader import owner

WORD = "share"


def leave() -> None:
    st.query_params.pop(WORD, None)


def take_over(one: Portable) -> None:
    """Make a copy of it one's own, and go on there."""
    try:
        (id,) = conversations().take_in(owner(), [one])
    except StorageError as error:
        st.toast(i18n.explain(error), icon=":material/error:")
        return
    leave()
    address.open_one(id)


def draw_page() -> None:
    conversation = conversations().shared(st.query_params.get(WORD, ""))
    st.caption(f"**{tell('app')}**")
    if conversation is None:
        st.info(tell("share.unknown"), icon=":material/link_off:")
        st.button(tell("new"), key="leave", on_click=leave, icon=":material/edit_square:")
        return
    view, one = conversation.view(), Portable(conversation.tree, "", plain=conversation.plain)
    with st.container(horizontal=True, border=True, vertical_alignment="center", key="shared_bar"):
        st.caption(":material/visibility: " + tell("share.reading"))
        if not view.busy:
            st.button(tell("share.take"), key="take_over", icon=":material/content_copy:", on_click=take_over,
                      args=(one,))  # fmt: skip
        st.button(tell("new"), key="leave", on_click=leave, type="tertiary", icon=":material/edit_square:")
    if conversation.plain:
        place = draft.draw(view)
        if view.busy:
            draft.follow(view.running, view, place)
    elif (body := transcript.draw(view, False)) is not None and view.last is not None:
        transcript.follow(view.running, body, view.last.answer)
    if view.busy:
        st.rerun()


draw_page()
