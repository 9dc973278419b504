"""Which conversation a page shows: the one that its address names, so that a reload finds it again."""

from __future__ import annotations

import streamlit as st

from bluelm.conversation import Conversation
from bluelm.store import conversations
from components import message_actions
from components.i18n import tell
from components.reader import owner

__all__ = ["current", "forget", "open_one", "remember"]

CHOSEN = "conversation"


def current(*, plain: bool = False) -> Conversation | None:
    """The conversation that the address names, else this session's last one; None before the first question.

    plain: whether this page shows texts for a base model; it knows no conversations of the other kind.
    """
    asked = st.query_params.get("c")
    conversation = conversations().get(asked or st.session_state.get(CHOSEN, ""), owner())
    if conversation is not None and conversation.plain is not plain:
        conversation = None
    if asked and conversation is None:
        del st.query_params["c"]
        st.toast(tell("unknown"), icon=":material/info:")
    if conversation is not None:
        remember(conversation)
    return conversation


def remember(conversation: Conversation) -> None:
    """Show this one from now on."""
    open_one(conversation.id)


def open_one(id: str) -> None:
    """Show the conversation of this id from now on."""
    if st.session_state.get(CHOSEN) != id:
        message_actions.stop_editing()
    st.session_state[CHOSEN] = id
    if st.query_params.get("c") != id:
        st.query_params["c"] = id


def forget() -> None:
    """Show an empty page from now on."""
    message_actions.stop_editing()
    st.session_state.pop(CHOSEN, None)
    st.query_params.pop("c", None)
