"""Who waits for the engine process: for its yes or no, and for what it makes."""

from __future__ import annotations

import queue
import threading

from bluelm.engine.generation import Generation
from bluelm.engine.wire import Accepted, Failed, Grown, Step, TextTold, TokensTold
from bluelm.errors import BlueLMError
from bluelm.types import Chunk

Reply = Accepted | TokensTold | TextTold
Waiting = queue.SimpleQueue[Reply | BlueLMError]


class Desk:
    """Requests by id, from just before they are sent; for any thread. What nobody waits for any more is dropped."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._replies: dict[str, Waiting] = {}
        self._open: dict[str, Generation] = {}
        self._queue: tuple[str, ...] = ()  # ids of those that have not been begun, next first

    @property
    def open(self) -> int:
        """Answers that have not ended yet."""
        return len(self._open)

    def expect(self, id: str, opens: Generation | None) -> Waiting:
        """Where the engine's yes or no will be. opens: the answer that begins with a yes: its first news may come right
        behind that."""
        reply: Waiting = queue.SimpleQueue()
        with self._lock:
            self._replies[id] = reply
            if opens is not None:
                self._open[id] = opens
        return reply

    def answered(self, id: str, *, no: bool) -> None:
        """The yes or no has been taken; behind a no there is nothing to come."""
        with self._lock:
            self._replies.pop(id, None)
            if no:
                self._open.pop(id, None)

    def place(self, id: str) -> int:
        """Among those that wait to be begun, from 1; 0 for others."""
        queue = self._queue
        return queue.index(id) + 1 if id in queue else 0

    def reply(self, id: str, said: Reply | BlueLMError) -> None:
        if (waiting := self._replies.get(id)) is not None:
            waiting.put(said)

    def tell(self, step: Step) -> None:
        """Pass on what a step brought."""
        self._queue = self._queue if step.queue is None else step.queue
        for news in step.news:
            self._tell(news)

    def lose(self, error: BlueLMError) -> None:
        """The process is gone: nobody waits on."""
        with self._lock:
            replies, self._replies = dict(self._replies), {}
            lost, self._open = dict(self._open), {}
            self._queue = ()
        for reply in replies.values():
            reply.put(error)
        for generation in lost.values():
            generation.fail(error)

    def _tell(self, news: Grown | Failed) -> None:
        with self._lock:
            generation = self._open.get(news.id)
            if generation is not None and not (isinstance(news, Grown) and news.finish is None):
                del self._open[news.id]
        if generation is None:
            return
        if isinstance(news, Grown):
            generation.push(Chunk(news.text, news.finish, news.usage, news.tokens, news.prompt))
        else:
            generation.fail(BlueLMError.from_wire(news.error))
