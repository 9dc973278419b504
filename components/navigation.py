"""The script that Streamlit runs for every page: what all pages share, then the page asked for."""

from __future__ import annotations

import streamlit as st

from bluelm.types import ModelKind
from components import demo, habits, links, style
from components.engine_handle import engine
from components.i18n import tell

st.set_page_config(page_title=tell("app"), page_icon=links.ICON, layout="centered")
style.draw(large=demo.on())
habits.draw()

# A base model cannot chat. Which kind it is shows once it is known, at the latest when the notice of its loading ends.
model = engine().state().model
if "share" in st.query_params:
    pages = [links.shared()]
else:
    pages = [links.main(plain=model is not None and model.kind is ModelKind.BASE)]
    if not demo.on():
        pages.append(links.status())
st.navigation(pages, position="hidden").run()
