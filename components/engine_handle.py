"""The engine as pages get it: one handle, shared by every session."""

from __future__ import annotations

import streamlit as st

from bluelm import service
from bluelm.engine import Engine

__all__ = ["engine"]


@st.cache_resource(show_spinner=False)
def engine() -> Engine:
    """The process's engine. Its owner is `bluelm.service`, so clearing the cache opens no second one."""
    return service.engine()
