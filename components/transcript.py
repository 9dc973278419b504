"""Draws a conversation, and follows the answer that is being made."""

from __future__ import annotations

import html
import time

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from bluelm.conversation import View
from bluelm.engine import Generation
from bluelm.errors import BlueLMError
from components import answer_facts, i18n, message_actions
from components.blocks import split_blocks
from components.growing import FRAME_S, GrowingAnswer, draw_block
from components.i18n import tell
from components.message_actions import Wish

__all__ = ["draw", "follow", "rest"]


def draw(view: View, ready: bool, wish: Wish | None = None) -> DeltaGenerator | None:
    """All turns; returns the place of an answer in the making, for `follow`.

    wish: takes what a reader wants to do with a message; without it there is nothing to be done.
    """
    open_place: DeltaGenerator | None = None
    left_out = view.first_in_context
    for number, turn in enumerate(view.turns):
        if number == left_out > 0:
            st.html(f'<div class="left_out"><span>{html.escape(tell("left_out"))}</span></div>')
        with st.chat_message("user", avatar=":material/person:"):
            if wish is not None and message_actions.editing() == turn.question_id:
                message_actions.draw_editor(turn, wish)
            else:
                with st.container(horizontal=True, gap="small", key=f"question_{turn.question_versions.first}"):
                    _said(turn.question)
                    if wish is not None:
                        message_actions.draw_question(turn, ready and not view.busy, wish)
        with st.chat_message("assistant", avatar=":material/auto_awesome:"):
            body = st.container(gap="small")
            if turn.status.is_open:
                open_place = body
                continue
            for block in split_blocks(turn.answer):
                draw_block(body, block)
            answer_facts.draw(turn)
            if wish is not None:
                message_actions.draw_answer(turn, ready and not view.busy, turn is view.last, wish)
    return open_place


def follow(generation: Generation | None, body: DeltaGenerator, begun_with: str = "") -> None:
    """Draw the answer as it grows, until it ends; None: the engine has not taken the question yet, look again soon.

    begun_with: the text that it goes on with. Stopping this script leaves the answer alone.
    """
    growing = GrowingAnswer(body, begun_with)
    if generation is None:
        rest(time.monotonic() + FRAME_S)
        return
    seen = 0
    while True:
        begun = time.monotonic()
        try:
            chunks = generation.wait(seen, FRAME_S)
        except BlueLMError:  # is told in its turn
            return
        seen += len(chunks)
        if not seen:
            growing.tell_place(generation.place)
        growing.feed("".join(chunk.text for chunk in chunks))
        if chunks and chunks[-1].finish_reason:
            return
        rest(begun + growing.pause_s)


def rest(until: float) -> None:
    """Wait in short pieces: Streamlit can end a script only where it is called."""
    while True:
        st.session_state.get(i18n.KEY)
        left = until - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, FRAME_S))


def _said(text: str) -> None:
    """What a person typed, as they typed it."""
    st.html(f'<div class="said">{html.escape(text)}</div>')
