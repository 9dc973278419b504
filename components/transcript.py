"""Draws a conversation, and follows the answer that is being made."""

from __future__ import annotations

import html
import time
from collections.abc import Callable

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from bluelm.conversation import Status, Turn, View
from bluelm.engine import Generation
from bluelm.errors import BlueLMError
from components import answer_facts, i18n
from components.blocks import BlockSplitter, split_blocks
from components.i18n import tell
from components.markdown import code_block, render

__all__ = ["FRAME_S", "TAIL_CHARS_PER_S", "draw", "follow", "rest"]

FRAME_S = 0.1  # at most ten updates a second
TAIL_CHARS_PER_S = 40_000  # of an open block sent again and again: a long one is updated less often


def draw(view: View, actions: Callable[[Turn], None]) -> DeltaGenerator | None:
    """All turns, with `actions` under the last one if it has ended; else returns that one's place, for `follow`."""
    open_place: DeltaGenerator | None = None
    for turn in view.turns:
        with st.chat_message("user", avatar=":material/person:"):
            _said(turn.question)
        with st.chat_message("assistant", avatar=":material/auto_awesome:"):
            body = st.container(gap="small")
            if turn.status in (Status.ASKING, Status.RUNNING):
                open_place = body
                continue
            for block in split_blocks(turn.answer):
                _block(body, block)
            answer_facts.draw(turn)
            if turn is view.last:
                actions(turn)
    return open_place


def follow(generation: Generation | None, body: DeltaGenerator) -> None:
    """Draw the answer as it grows, until it ends; None: the engine has not taken the question yet, look again soon.

    Stopping this script leaves the answer alone.
    """
    splitter = BlockSplitter()
    slot = body.empty()
    slot.caption(tell("thinking"))
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
        for block in splitter.feed("".join(chunk.text for chunk in chunks)):
            if block.strip():
                _block(slot, block)
                slot = body.empty()
        if chunks and splitter.tail.strip():
            _block(slot, splitter.tail)
        if chunks and chunks[-1].finish_reason:
            return
        rest(begun + max(FRAME_S, len(splitter.tail) / TAIL_CHARS_PER_S))


def rest(until: float) -> None:
    """Wait in short pieces: Streamlit can end a script only where it is called."""
    while True:
        st.session_state.get(i18n.KEY)
        left = until - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, FRAME_S))


def _block(place: DeltaGenerator, block: str) -> None:
    """One block of an answer. Code has an element of its own, which touches nothing in it."""
    if not block.strip():
        return
    code = code_block(block)
    if code is None:
        place.markdown(render(block))
    else:
        place.code(code[1], language=code[0] or None)


def _said(text: str) -> None:
    """What a person typed, as they typed it."""
    st.html(f'<div class="said">{html.escape(text)}</div>')
