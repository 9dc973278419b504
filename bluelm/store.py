"""The conversations of this process. In memory; a file will take this room's place behind the same names."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict

from bluelm import service
from bluelm.conversation import Conversation

LIMIT = 1000
SWEEP_S = 0.5


class Store:
    """Conversations by unguessable id, the `limit` last used ones. A thread of its own ends answers nobody watches."""

    def __init__(self, abandon_after_s: float, limit: int = LIMIT, sweep_s: float = SWEEP_S) -> None:
        self.abandon_after_s = abandon_after_s
        self.limit = limit
        self._conversations: OrderedDict[str, Conversation] = OrderedDict()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._sweep_s = min(sweep_s, abandon_after_s / 4)
        threading.Thread(target=self._look_after_all, name="conversations", daemon=True).start()

    def new(self, *, plain: bool = False) -> Conversation:
        """A conversation without turns; the least recently used one makes room for it, if need be.

        plain: a text for a base model to go on with.
        """
        conversation = Conversation(secrets.token_urlsafe(16), plain=plain)
        with self._lock:
            self._conversations[conversation.id] = conversation
            oldest = self._conversations.popitem(last=False)[1] if len(self._conversations) > self.limit else None
        if oldest is not None:
            oldest.stop()
        return conversation

    def get(self, id: str) -> Conversation | None:
        """The conversation of this id, or None: an id that was not given out here never becomes one."""
        with self._lock:
            conversation = self._conversations.get(id)
            if conversation is not None:
                self._conversations.move_to_end(id)
            return conversation

    def close(self) -> None:
        """End the thread; the conversations stay readable."""
        self._closed.set()

    def sweep(self) -> int:
        """Look after every conversation once; how many answers are being made."""
        with self._lock:
            conversations = list(self._conversations.values())
        return sum(conversation.look_after(self.abandon_after_s) for conversation in conversations)

    def _look_after_all(self) -> None:
        while not self._closed.wait(self._sweep_s):
            self.sweep()


_lock = threading.Lock()
_store: Store | None = None


def conversations() -> Store:
    """The one store of this process, made at the first call."""
    global _store
    settings = service.settings()
    with _lock:
        if _store is None:
            _store = Store(settings.abandon_after_s)
        return _store
