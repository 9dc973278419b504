"""The little that the theme in .streamlit/config.toml cannot say."""

from __future__ import annotations

import streamlit as st

CSS = """
<style>
.said { white-space: pre-wrap; overflow-wrap: anywhere; }
[data-testid="stBottomBlockContainer"] { padding-bottom: 1.5rem; }
.st-key-welcome h2 { font-size: 1.75rem; padding-top: 2.5rem; }
.stChatMessage h1 { font-size: 1.5rem; }
.stChatMessage h2 { font-size: 1.3rem; }
.stChatMessage h3 { font-size: 1.1rem; }
.stChatMessage [data-testid="stMarkdownContainer"] { overflow-wrap: anywhere; }
.stChatMessage table { display: block; overflow-x: auto; }
[data-testid="stStatusWidget"] { display: none; } /* its Stop would end the page's look, not the answer */
</style>
"""


def draw() -> None:
    """Put the style on the page."""
    st.html(CSS)
