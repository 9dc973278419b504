"""The script that Streamlit runs for every page: what all pages share, then the page asked for."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from components import style
from components.i18n import tell

HERE = Path(__file__).resolve().parent
PAGES = HERE.parent / "pages"
ICON = str(HERE / "icon.svg")  # a named icon would be fetched from the internet

st.set_page_config(page_title=tell("app"), page_icon=ICON, layout="centered")
style.draw()
st.navigation([st.Page(PAGES / "chat.py", title=tell("page.chat"), icon=":material/chat:", default=True)]).run()
