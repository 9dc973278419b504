"""Draws a text that a person began and a base model goes on with, what the model wrote set apart by its colour."""

from __future__ import annotations

import html
import time
from collections.abc import Sequence

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from bluelm.conversation import View
from bluelm.engine import Generation
from bluelm.errors import BlueLMError
from components import i18n
from components.growing import FRAME_S, OPEN_CHARS_PER_S
from components.i18n import tell
from components.transcript import rest

__all__ = ["Piece", "cut", "draw", "follow", "pieces"]

OPEN_CHARS = 400  # lines are closed, and sent no more, once the open part is longer

Piece = tuple[str, bool]  # some text, and whether the model wrote it


def pieces(view: View) -> list[Piece]:
    """Who wrote what, in order, without the answer in the making."""
    turns = [((turn.question, False), (turn.answer, True)) for turn in view.turns]
    written = [piece for turn in turns for piece in turn]
    return [piece for piece in (written[:-1] if view.busy else written) if piece[0]]


def cut(written: Sequence[Piece]) -> tuple[list[Piece], list[Piece]]:
    """Whole lines, and the last line, which is still open; joined they are the text."""
    for i in reversed(range(len(written))):
        text, by_model = written[i]
        end = text.rfind("\n") + 1
        if end:
            closed = [*written[:i], (text[:end], by_model)]
            return closed, [piece for piece in ((text[end:], by_model), *written[i + 1 :]) if piece[0]]
    return [], list(written)


def draw(view: View) -> DeltaGenerator:
    """The whole text; returns the place behind it, for `follow`."""
    window = st.container(key="draft_window", border=True, gap=None)  # shows the end of a long text, see style.py
    place = window.container(key="draft", gap=None)
    written = pieces(view)
    if not view.busy:
        _block(place, written)
    return place


def follow(generation: Generation | None, view: View, place: DeltaGenerator) -> None:
    """Draw the text as it grows, until the answer ends; None: the engine has not taken it yet, look again soon."""
    closed, tail = cut(pieces(view))
    if closed:
        _block(place, closed)
    slot = place.empty()
    _block(slot, tail, growing=True)
    if generation is None:
        rest(time.monotonic() + FRAME_S)
        return
    seen, line = 0, place.empty()
    while True:
        begun = time.monotonic()
        try:
            chunks = generation.wait(seen, FRAME_S)
        except BlueLMError:  # is told below the text
            return
        if chunks and not seen:
            line.empty()
        elif not seen and (place_in_line := generation.place):
            line.caption(tell("queue.place", place=i18n.nth(place_in_line)))
        seen += len(chunks)
        tail = _joined(tail, "".join(chunk.text for chunk in chunks))
        if sum(len(text) for text, _ in tail) > OPEN_CHARS:
            closed, tail = cut(tail)
            if closed:
                _block(slot, closed)
                slot = place.empty()
        if chunks:
            _block(slot, tail, growing=True)
        if chunks and chunks[-1].finish_reason:
            return
        rest(begun + max(FRAME_S, sum(len(text) for text, _ in tail) / OPEN_CHARS_PER_S))


def _joined(tail: list[Piece], more: str) -> list[Piece]:
    if not more:
        return tail
    if tail and tail[-1][1]:
        return [*tail[:-1], (tail[-1][0] + more, True)]
    return [*tail, (more, True)]


def _block(place: DeltaGenerator, written: Sequence[Piece], *, growing: bool = False) -> None:
    """Some lines, as they were written. Nothing in them is Markdown or HTML."""
    spans = [f"<mark>{html.escape(t)}</mark>" if by_model else html.escape(t) for t, by_model in written]
    caret = '<span class="caret"></span>' if growing else ""
    place.html(f'<div class="draft">{"".join(spans)}{caret}</div>')
