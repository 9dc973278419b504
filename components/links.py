"""The pages, and links to them. There is no menu of pages: the chat is the place, and the others are a link away."""

from __future__ import annotations

from pathlib import Path

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from components.i18n import tell

__all__ = ["ICON", "main", "shared", "status", "to_main", "to_status"]

HERE = Path(__file__).resolve().parent
PAGES = HERE.parent / "pages"
ICON = str(HERE / "icon.svg")  # a named icon would be fetched from the internet
PLAIN = "plain_page"  # whether the main page is the one for base models


def main(*, plain: bool) -> StreamlitPage:
    """The page that the app opens with: the chat, or plain completion for a base model."""
    st.session_state[PLAIN] = plain
    if plain:
        return st.Page(PAGES / "complete.py", title=tell("page.complete"), icon=":material/edit_note:", default=True)
    return st.Page(PAGES / "chat.py", title=tell("page.chat"), icon=":material/chat:", default=True)


def shared() -> StreamlitPage:
    return st.Page(PAGES / "shared.py", title=tell("page.shared"), icon=":material/link:", default=True)


def status() -> StreamlitPage:
    return st.Page(PAGES / "status.py", title=tell("page.status"), icon=":material/monitoring:", url_path="status")


def to_status() -> None:
    st.page_link(status(), width="stretch")


def to_main() -> None:
    page = main(plain=st.session_state.get(PLAIN, False))
    st.page_link(page, label=tell("page.back"), icon=":material/arrow_back:", width="stretch")
