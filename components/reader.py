"""Who looks at this page: their conversations are theirs alone."""

from __future__ import annotations

import secrets

import streamlit as st

from bluelm.owner import COOKIE, owner_of

__all__ = ["owner"]

KEY = "owner"


def owner() -> str:
    """The owner's id from the browser's cookie; for a browser that keeps none, one that lasts as long as its tab."""
    if KEY not in st.session_state:
        st.session_state[KEY] = owner_of(st.context.cookies.get(COOKIE)) or f"session-{secrets.token_urlsafe(16)}"
    return st.session_state[KEY]
