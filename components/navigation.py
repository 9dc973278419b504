"""The script that Streamlit runs for every page: what all pages share, then the page asked for."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from bluelm.types import ModelKind
from components import habits, style
from components.engine_handle import engine
from components.i18n import tell

HERE = Path(__file__).resolve().parent
PAGES = HERE.parent / "pages"
ICON = str(HERE / "icon.svg")  # a named icon would be fetched from the internet

st.set_page_config(page_title=tell("app"), page_icon=ICON, layout="centered")
style.draw()
habits.draw()

# A base model cannot chat. Which kind it is shows once it is known, at the latest when the notice of its loading ends.
model = engine().state().model
if "share" in st.query_params:
    page = st.Page(PAGES / "shared.py", title=tell("page.shared"), icon=":material/link:", default=True)
elif model is not None and model.kind is ModelKind.BASE:
    page = st.Page(PAGES / "complete.py", title=tell("page.complete"), icon=":material/edit_note:", default=True)
else:
    page = st.Page(PAGES / "chat.py", title=tell("page.chat"), icon=":material/chat:", default=True)
st.navigation([page]).run()
