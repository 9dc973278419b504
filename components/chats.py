"""The list of conversations in the sidebar: search, open, and a menu for each."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from bluelm.errors import StorageError
from bluelm.store import Entry, conversations
from components import chat_dialogs, demo, i18n
from components.i18n import tell
from components.reader import owner

__all__ = ["draw"]

PAGE = 25  # conversations that are listed at first, and that each "more" adds
SEARCH, SHOWN, DELETED = "chats_search", "chats_shown", "chats_deleted"


def draw(current: str, open_one: Callable[[str], None], forget: Callable[[], None], *, plain: bool) -> None:
    """current: the id of the conversation on the page. forget: leave it, since it was deleted."""
    with st.container(horizontal=True, gap="xsmall", key="chats_top"):
        search = st.text_input(
            tell("chats.search"), key=SEARCH, placeholder=tell("chats.search"), icon=":material/search:",
            label_visibility="collapsed",
        )  # fmt: skip
        if not demo.on():
            st.button(
                tell("chats.files"), key="icon_chats_files", icon=":material/import_export:", type="tertiary",
                help=tell("chats.files"), on_click=chat_dialogs.ask, args=("files",),
            )  # fmt: skip
    _undo_bar()
    store = conversations()
    limit = st.session_state.setdefault(SHOWN, PAGE)
    entries = store.listed(owner(), plain=plain, search=search.strip(), limit=limit + 1)
    if (trouble := store.trouble) is not None:
        st.warning(i18n.explain(trouble), icon=":material/save:")
    if not entries:
        st.caption(tell("chats.none_found" if search.strip() else "chats.none"))
    with st.container(key="chats", gap=None):
        for entry in entries[:limit]:
            _row(entry, entry.id == current, open_one, forget)
    if len(entries) > limit:
        st.button(tell("chats.more"), key="chats_more", type="tertiary", on_click=_show_more, width="stretch")
    chat_dialogs.draw(plain=plain)


def _row(entry: Entry, is_current: bool, open_one: Callable[[str], None], forget: Callable[[], None]) -> None:
    with st.container(horizontal=True, gap=None, key=f"chat_{'here_' if is_current else ''}{entry.id}"):
        st.button(
            _plain_label(entry.title) or tell("chats.untitled"), key=f"open_{entry.id}", type="tertiary",
            icon=":material/keep:" if entry.pinned else None, on_click=open_one, args=(entry.id,), width="stretch",
        )  # fmt: skip
        files = [] if demo.on() else ["share", "export"]
        options = ["unpin" if entry.pinned else "pin", "rename", *files, "delete"]
        key = f"menu_{entry.id}"
        st.menu_button(
            tell("chats.menu", title=_plain_label(entry.title)), options, key=key, type="tertiary",
            icon=":material/more_horiz:", format_func=lambda option: _OPTION_ICONS[option] + " " + tell(option),
            on_click=_chosen, args=(key, entry, is_current, forget),
        )  # fmt: skip


_OPTION_ICONS = {
    "pin": ":material/keep:", "unpin": ":material/keep_off:", "rename": ":material/edit:",
    "share": ":material/link:", "export": ":material/download:", "delete": ":material/delete:",
}  # fmt: skip


def _chosen(key: str, entry: Entry, is_current: bool, forget: Callable[[], None]) -> None:
    option, store = st.session_state[key], conversations()
    try:
        if option in ("pin", "unpin"):
            store.pin(entry.id, owner(), option == "pin")
        elif option == "delete":
            store.delete(entry.id, owner())
            st.session_state[DELETED] = entry
            if is_current:
                forget()
        else:
            chat_dialogs.ask(option, entry.id)
    except StorageError:
        return  # is told above the list


def _undo_bar() -> None:
    """After a deletion, until something else is deleted or the bar is sent away."""
    entry: Entry | None = st.session_state.get(DELETED)
    if entry is None:
        return
    with st.container(horizontal=True, gap="xsmall", border=True, key="undo_bar", vertical_alignment="center"):
        st.caption(tell("chats.deleted", title=_plain_label(entry.title)))
        st.button(tell("undo"), key="undo_delete", icon=":material/undo:", type="tertiary", on_click=_undo)
        st.button(tell("close"), key="icon_undo_close", icon=":material/close:", type="tertiary", on_click=_no_undo)


def _undo() -> None:
    conversations().restore(st.session_state.pop(DELETED).id, owner())


def _no_undo() -> None:
    st.session_state.pop(DELETED, None)


def _show_more() -> None:
    st.session_state[SHOWN] += PAGE


def _plain_label(title: str) -> str:
    """A title as it is: labels are Markdown to Streamlit."""
    return "".join("\\" + c if c in "\\`*_{}[]()#+-!~:$<>|" else c for c in title)
