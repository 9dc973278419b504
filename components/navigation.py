"""The script that Streamlit runs for every page: what all pages share, then the page asked for."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from components import style
from components.i18n import tell

PAGES = Path(__file__).resolve().parent.parent / "pages"

st.set_page_config(page_title=tell("app"), page_icon=":material/forum:", layout="centered")
style.draw()
st.navigation([st.Page(PAGES / "chat.py", title=tell("page.chat"), icon=":material/chat:", default=True)]).run()
