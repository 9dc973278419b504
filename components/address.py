"""Which conversation a page shows: the one that its address names, so that a reload finds it again."""

from __future__ import annotations

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from bluelm.conversation import Conversation
from bluelm.store import conversations
from components import message_actions
from components.i18n import tell
from components.reader import owner

__all__ = ["current", "forget", "open_one", "remember"]

CHOSEN, LEFT = "conversation", "conversations_left"


def current(*, plain: bool = False) -> Conversation | None:
    """The conversation that the address names, else this session's last one; None before the first question.

    plain: whether this page shows texts for a base model; it knows no conversations of the other kind.
    """
    asked = _asked()
    conversation = conversations().get(asked or st.session_state.get(CHOSEN, ""), owner())
    if conversation is not None and conversation.plain is not plain:
        conversation = None
    if asked and conversation is None:
        del st.query_params["c"]
        st.toast(tell("unknown"), icon=":material/info:")
    if conversation is not None:
        remember(conversation)
    return conversation


def _asked() -> str | None:
    """The id in the browser's address; where its reader went back or forward to no id, this session's is forgotten.

    The address lags behind: a quick next event still names a conversation that was just left, and does not ask for it.
    """
    asked = st.query_params.get("c")
    context = get_script_run_ctx()
    if context is not None and context.is_history_navigation:
        if not asked:
            forget()
    elif asked in st.session_state.get(LEFT, ()):
        asked = st.session_state.get(CHOSEN)
        if not asked:
            del st.query_params["c"]
    return asked


def remember(conversation: Conversation) -> None:
    """Show this one from now on."""
    open_one(conversation.id)


def open_one(id: str) -> None:
    """Show the conversation of this id from now on."""
    if st.session_state.get(CHOSEN) != id:
        _leave()
    st.session_state.setdefault(LEFT, set()).discard(id)
    st.session_state[CHOSEN] = id
    if st.query_params.get("c") != id:
        st.query_params["c"] = id


def forget() -> None:
    """Show an empty page from now on."""
    _leave()
    st.query_params.pop("c", None)


def _leave() -> None:
    message_actions.stop_editing()
    if (id := st.session_state.pop(CHOSEN, None)) is not None:
        st.session_state.setdefault(LEFT, set()).add(id)
