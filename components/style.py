"""The little that the theme in .streamlit/config.toml cannot say."""

from __future__ import annotations

import streamlit as st

CSS = """
<style>
.said { white-space: pre-wrap; overflow-wrap: anywhere; }
.st-key-draft_window { max-height: 60vh; overflow-y: auto; /* and what it shows of a long text is its end: */
  flex-direction: column-reverse !important; justify-content: flex-start !important; }
.st-key-draft_window > * { flex-shrink: 0; }
.draft { white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.7; }
.draft mark { background: rgba(76, 127, 255, 0.16); color: inherit; border-radius: 0.2rem; padding: 0.1rem 0;
  -webkit-box-decoration-break: clone; box-decoration-break: clone; }
.caret { display: inline-block; width: 0.5rem; height: 1.05em; margin-left: 0.1rem; vertical-align: text-bottom;
  background: rgba(76, 127, 255, 0.85); border-radius: 0.1rem; animation: caret 1.1s step-end infinite; }
@keyframes caret { 50% { opacity: 0; } }
@media (prefers-reduced-motion: reduce) { .caret { animation: none; } }
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
