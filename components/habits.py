"""What readers expect of a chat page and Streamlit does not do, done in the browser: see habits.js."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from components.i18n import language

__all__ = ["draw"]

_JS = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")

_habits = st.components.v2.component("bluelm_habits", html="<i></i>", js=_JS)


def draw() -> None:
    """Once on every page; shows nothing (style.py)."""
    with st.container(key="habits"):
        _habits(key="page_habits", data={"language": {"zh": "zh-CN", "en": "en"}[language()]})
