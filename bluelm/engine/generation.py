"""One answer in the making, as seen by those who look on: any number of readers, on threads or in asyncio."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress

from bluelm.errors import BlueLMError
from bluelm.types import Chunk, FinishReason, TokenLogprob, Usage


class Generation:
    """An answer that grows. The engine writes (`push`, `fail`); everyone else reads from the start, at their own pace.

    id: unique. prompt_tokens: tokens of the prompt as sent to the model, `dropped` whole messages left out of it first.
    window: tokens the model can hold. seed: the one in use. model: the model's id.
    """

    def __init__(
        self,
        id: str,
        *,
        model: str,
        prompt_tokens: int,
        window: int,
        seed: int,
        dropped: int = 0,
        on_cancel: Callable[[], None] = lambda: None,
        place: Callable[[], int] = lambda: 0,
    ) -> None:
        self.id = id
        self.model = model
        self.prompt_tokens = prompt_tokens
        self.window = window
        self.seed = seed
        self.dropped = dropped
        self._on_cancel, self._place = on_cancel, place
        self._chunks: list[Chunk] = []
        self._error: BlueLMError | None = None
        self._changed = threading.Condition()
        self._listeners: list[Callable[[], None]] = []
        self._at_end: list[Callable[[], None]] = []
        self._looked_at = time.monotonic()

    # --- the engine's side ---

    def push(self, chunk: Chunk) -> None:
        """Add a piece; the one with a finish_reason is the last, and what comes after an end is dropped."""
        with self._changed:
            if self._ended():
                return
            self._chunks.append(chunk)
            listeners = self._wake()
        for listener in listeners:
            listener()

    def fail(self, error: BlueLMError) -> None:
        """End with an error; text already shown stays readable."""
        with self._changed:
            if self._ended():
                return
            self._error = error
            listeners = self._wake()
        for listener in listeners:
            listener()

    def _wake(self) -> tuple[Callable[[], None], ...]:
        if self._ended():
            ended, self._at_end = self._at_end, []
            for call in ended:
                call()
        self._changed.notify_all()
        return tuple(self._listeners)

    def _ended(self) -> bool:
        return self._error is not None or bool(self._chunks and self._chunks[-1].finish_reason)

    # --- the readers' side ---

    def cancel(self) -> None:
        """Ask the engine to stop; the end comes as a chunk with CANCELLED. Harmless after the end."""
        if not self.done:
            self._on_cancel()

    @property
    def place(self) -> int:
        """Its place among those that wait to be begun, from 1; 0 once it has been begun, or while it is not known."""
        return 0 if self._chunks or self._error else self._place()

    @property
    def done(self) -> bool:
        with self._changed:
            return self._ended()

    def when_ended(self, call: Callable[[], None]) -> None:
        """Have it called once, at the end and before any reader sees that; at once where the end has come already."""
        with self._changed:
            if not self._ended():
                self._at_end.append(call)
                return
        call()

    @property
    def error(self) -> BlueLMError | None:
        return self._error

    @property
    def text(self) -> str:
        """All text so far."""
        with self._changed:
            self._looked_at = time.monotonic()
            return "".join(chunk.text for chunk in self._chunks)

    def so_far(self) -> str:
        """The same for whoever keeps it: it does not count as looking on."""
        with self._changed:
            return "".join(chunk.text for chunk in self._chunks)

    @property
    def tokens(self) -> tuple[TokenLogprob, ...]:
        """All tokens so far; none unless that was asked for (SamplingParams.logprobs)."""
        with self._changed:
            return tuple(token for chunk in self._chunks for token in chunk.tokens)

    @property
    def prompt(self) -> tuple[TokenLogprob, ...]:
        """The prompt's tokens so far; none unless that was asked for (SamplingParams.prompt_logprobs)."""
        with self._changed:
            return tuple(token for chunk in self._chunks for token in chunk.prompt)

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why it ended; None while it goes on, and when it failed (see `error`)."""
        with self._changed:
            return self._chunks[-1].finish_reason if self._chunks else None

    @property
    def usage(self) -> Usage | None:
        with self._changed:
            return self._chunks[-1].usage if self._chunks else None

    @property
    def unwatched_s(self) -> float:
        """Seconds since somebody last read (`text`, `wait`, iteration); 0 while an asyncio reader waits."""
        return 0.0 if self._listeners else time.monotonic() - self._looked_at

    def wait(self, seen: int, timeout: float) -> list[Chunk]:
        """Chunks after the first `seen`, waiting up to `timeout` seconds for one; [] at the end or when none came.

        Raises the answer's error once every chunk before it has been seen.
        """
        with self._changed:
            self._looked_at = time.monotonic()
            self._changed.wait_for(lambda: len(self._chunks) > seen or self._ended(), timeout)
            return self._after(seen)

    def _after(self, seen: int) -> list[Chunk]:
        chunks = self._chunks[seen:]
        if not chunks and self._error is not None:
            raise self._error
        return chunks

    def __iter__(self) -> Iterator[Chunk]:
        """Every chunk to the last; raises the answer's error. A reader on a thread may block here for long."""
        seen = 0
        while True:
            chunks = self.wait(seen, timeout=1.0)
            seen += len(chunks)
            yield from chunks
            if chunks and chunks[-1].finish_reason:
                return

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        """The same for asyncio, without a thread."""
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def listener() -> None:
            with suppress(RuntimeError):  # the loop has closed: nobody is reading there any more
                loop.call_soon_threadsafe(changed.set)

        with self._changed:
            self._listeners.append(listener)
        try:
            seen = 0
            while True:
                changed.clear()
                with self._changed:
                    self._looked_at = time.monotonic()
                    chunks = self._after(seen)
                seen += len(chunks)
                for chunk in chunks:
                    yield chunk
                if chunks and chunks[-1].finish_reason:
                    return
                if not chunks:
                    await changed.wait()
        finally:
            with self._changed:
                self._listeners.remove(listener)
