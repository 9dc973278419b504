"""How likely the tokens of an answer were, and what the model might have said instead."""

from __future__ import annotations

import math

import streamlit as st

from bluelm.conversation import Turn, told
from components import token_html
from components.i18n import language, tell
from components.prompt_seen import part

__all__ = ["ALTERNATIVES", "draw"]

ALTERNATIVES = 5


def draw(turn: Turn) -> None:
    """The dialog, for an answer that was made with the switch on."""
    st.dialog(tell("tokens"), icon=":material/query_stats:", width="large")(_content)(turn)


def _content(turn: Turn) -> None:
    tokens = told.unpack(turn.tokens)
    made = (turn.usage.completion_tokens if turn.usage else 0) + turn.earlier_tokens
    mean = math.exp(-math.fsum(one.logprob for one in tokens) / len(tokens))
    st.write(tell("tokens.sub", n=f"{len(tokens):,}", perplexity=f"{mean:.2f}"))
    if len(tokens) < made:
        st.caption(tell("tokens.partly", n=f"{made - len(tokens):,}"))
    token_html.draw_style()
    st.html(token_html.legend(language()))
    st.html(token_html.probabilities(part(tokens, "token_part"), language()))
