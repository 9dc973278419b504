"""An answer on the page while it is written: each frame sends only what is still open, in parts where that is long."""

from __future__ import annotations

from streamlit.delta_generator import DeltaGenerator

from components import i18n
from components.blocks import BlockSplitter, part_end
from components.i18n import tell
from components.markdown import code_block, render

__all__ = ["FRAME_S", "OPEN_CHARS_PER_S", "GrowingAnswer", "draw_block"]

FRAME_S = 0.1  # at most ten updates a second
OPEN_CHARS_PER_S = 20_000  # of what is sent again and again: where it is long (a table), it is updated less often
PART_CHARS = 1_000  # an open block longer than this is cut where it can be


def draw_block(place: DeltaGenerator, block: str) -> None:
    """One block of an answer. Code has an element of its own, which touches nothing in it."""
    if not block.strip():
        return
    code = code_block(block)
    if code is None:
        place.markdown(render(block))
    else:
        _draw_code(place, code[0], code[1])


class GrowingAnswer:
    """Draws the pieces of an answer into `body`, behind what is there.

    A block that is finished is drawn once more, in one piece, in the place of its parts.
    """

    def __init__(self, body: DeltaGenerator, begun_with: str = "") -> None:
        """begun_with: the text that the answer goes on with."""
        self._body = body
        self._splitter = BlockSplitter()
        self._finished = 0
        self._place = 0
        self._begin_block()
        self.feed(begun_with)
        if not self._splitter.tail.strip():
            self._slot.caption(tell("thinking"))

    def feed(self, text: str) -> None:
        """Draw the answer with this text behind it."""
        for block in self._splitter.feed(text):
            if block.strip():
                draw_block(self._slot, block)
                self._begin_block()
        if text and self._splitter.tail.strip():
            self._draw_open()

    def tell_place(self, place: int) -> None:
        """While nothing is written: the place in the queue, from 1; 0 where there is none."""
        if place != self._place and not self._splitter.tail.strip():
            self._place = place
            self._slot.caption(tell("queue.place", place=i18n.nth(place)) if place else tell("thinking"))

    @property
    def pause_s(self) -> float:
        """How long to wait before the next update."""
        return max(FRAME_S, (len(self._splitter.tail) - self._cut) / OPEN_CHARS_PER_S)

    def _begin_block(self) -> None:
        self._slot = self._body.empty()
        self._parts: DeltaGenerator | None = None
        self._part = self._slot
        self._cut = 0  # characters of the open block that stand in finished parts

    def _draw_open(self) -> None:
        code = code_block(self._splitter.tail)
        text = self._splitter.tail if code is None else code[1]
        if len(text) - self._cut > PART_CHARS and (end := part_end(text[self._cut :], code=code is not None)):
            if self._parts is None:
                self._parts = self._slot.container(gap=None, key=f"parts_{self._finished}")
                self._part = self._parts.empty()
                self._finished += 1
            self._draw_part(code, text[self._cut : self._cut + end].removesuffix("\n"))
            self._cut += end
            self._part = self._parts.empty()
        self._draw_part(code, text[self._cut :])

    def _draw_part(self, code: tuple[str, str] | None, text: str) -> None:
        if code is not None:
            _draw_code(self._part, code[0], text)
        elif text.strip():
            self._part.markdown(render(text))


def _draw_code(place: DeltaGenerator, language: str, code: str) -> None:
    place.code(f"\n{code}\n", language=language or None)  # Streamlit takes one line break away at each end
