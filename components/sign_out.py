"""The way out, where a passcode was the way in."""

from __future__ import annotations

import streamlit as st

from bluelm import service
from components.i18n import tell

__all__ = ["draw"]


def draw() -> None:
    if service.settings().passcode.get_secret_value():
        st.html(f'<a class="sign-out" href="logout" target="_self">{tell("sign_out")}</a>')
