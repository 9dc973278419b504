"""The conversations of this process: open ones in memory, all of them on the disk."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from weakref import WeakValueDictionary

from bluelm.conversation import Conversation
from bluelm.errors import StorageError
from bluelm.store import table
from bluelm.store.database import Database
from bluelm.store.table import Entry, Portable

OPEN = 200  # conversations held in memory after their last use
SWEEP_S = 0.5  # so that a killed process loses less than a second of what was said
PURGE_AFTER_S = 3600.0  # a deleted conversation can be had back until then
PURGE_EVERY_S = 60.0


class Store:
    """Conversations by unguessable id. A thread of its own keeps what is new and ends answers that nobody watches.

    What cannot be kept stays in memory, `trouble` says why, and it is tried again.
    """

    def __init__(self, database: Database, abandon_after_s: float, sweep_s: float = SWEEP_S) -> None:
        self.database = database
        self.abandon_after_s = abandon_after_s
        self._open: OrderedDict[str, Conversation] = OrderedDict()
        self._alive: WeakValueDictionary[str, Conversation] = WeakValueDictionary()
        self._unkept: dict[str, Conversation] = {}
        self._deleted: set[str] = set()
        self._lock = threading.RLock()
        self._keeping = threading.Lock()  # one at a time, so that an older text never comes after a newer one
        self._closed = threading.Event()
        self._sweep_s = min(sweep_s, abandon_after_s / 4)
        self._purged_at = 0.0
        self._thread = threading.Thread(target=self._look_after_all, name="conversations", daemon=True)
        self._thread.start()

    @property
    def trouble(self) -> StorageError | None:
        """Why conversations are not kept, or None."""
        return self.database.trouble

    def new(self, owner: str, *, plain: bool = False) -> Conversation:
        """A conversation without turns. It is kept, and listed, from its first question on."""
        return self._hold(Conversation(table.new_word(), owner, plain=plain, changed=self._keep_one))

    def get(self, id: str, owner: str) -> Conversation | None:
        """The owner's conversation of this id, or None: an id that was not given out here never becomes one."""
        found = self._find(id)
        return found if found is not None and found.owner == owner else None

    def shared(self, word: str) -> Conversation | None:
        """The conversation whose owner has given out this link; it is for reading only."""
        with suppress(StorageError):
            rows = self.database.read("SELECT id FROM conversations WHERE shared = ? AND deleted IS NULL", (word,))
            return self._find(rows[0]["id"]) if rows else None
        return None

    # --- the list ---

    def listed(self, owner: str, *, plain: bool = False, search: str = "", limit: int = 100) -> list[Entry]:
        """See table.listed; [] where the disk cannot be read, which `trouble` tells."""
        try:
            return table.listed(self.database, owner, plain, search, limit)
        except StorageError:
            return []

    def entry(self, id: str) -> Entry | None:
        with suppress(StorageError):
            return table.entry(self.database, id)
        return None

    def rename(self, id: str, owner: str, title: str) -> None:
        """Give it a name of its own; an empty one leaves it to its first question again."""
        title = " ".join(title.split())[:200]
        if title:
            self._set(id, owner, "title = ?, named = 1", title)
        elif conversation := self.get(id, owner):
            self._set(id, owner, "title = ?, named = 0", conversation.title)

    def pin(self, id: str, owner: str, pinned: bool) -> None:
        self._set(id, owner, "pinned = ?", pinned)

    def share(self, id: str, owner: str, on: bool) -> str:
        """Make or take away its link; the link's word, "" for none. A new link is a new word."""
        word = table.new_word() if on else None
        self._set(id, owner, "shared = ?", word)
        return word or ""

    def delete(self, id: str, owner: str) -> None:
        """Take it out of sight; its answer in the making ends. `restore` brings it back for an hour."""
        if conversation := self.get(id, owner):
            conversation.stop()
        self._set(id, owner, "deleted = ?", time.time())
        self._deleted.add(id)

    def restore(self, id: str, owner: str) -> None:
        self._set(id, owner, "deleted = ?", None)
        self._deleted.discard(id)

    # --- in and out ---

    def export(self, owner: str, id: str | None = None, *, plain: bool = False) -> Iterator[Portable]:
        """One conversation of the owner's, or all, newest first. Raises StorageError."""
        for one in table.listed(self.database, owner, plain, "", -1):
            if id in (None, one.id) and (conversation := self._alive.get(one.id) or self._load(one.id)):
                yield Portable(conversation.tree, one.title, one.pinned, plain, one.created, one.updated)

    def take_in(self, owner: str, conversations: Sequence[Portable]) -> list[str]:
        """Add conversations from elsewhere, all or none; their new ids. Raises StorageError."""
        ids = [table.new_word() for _ in conversations]
        with self.database.write() as connection:
            for id, one in zip(ids, conversations, strict=True):
                table.take_in(connection, id, owner, one)
        return ids

    def close(self) -> None:
        """Keep what is new, and end the thread."""
        self._closed.set()
        self._thread.join(5)
        self.sweep()
        self.database.close()

    # --- inside ---

    def sweep(self) -> int:
        """Look after every open conversation once; how many answers are being made."""
        with self._lock:
            everyone = {**self._unkept, **self._open, **self._alive}
        busy = sum(conversation.look_after(self.abandon_after_s) for conversation in everyone.values())
        self._keep(everyone.values())
        return busy

    def _look_after_all(self) -> None:
        while not self._closed.wait(self._sweep_s):
            self.sweep()
            if time.monotonic() - self._purged_at > PURGE_EVERY_S:
                self._purge()

    def _find(self, id: str) -> Conversation | None:
        with self._lock:
            found = None if id in self._deleted else self._alive.get(id) or self._load(id)
            return self._hold(found) if found is not None else None

    def _load(self, id: str) -> Conversation | None:
        with suppress(StorageError):
            if loaded := table.load(self.database, id):
                owner, plain, tree = loaded
                return Conversation(id, owner, plain=plain, tree=tree, changed=self._keep_one)
        return None

    def _hold(self, conversation: Conversation) -> Conversation:
        """Hold it as the last one used. One let go stays the only one of its id as long as somebody has it."""
        with self._lock:
            self._alive[conversation.id] = self._open[conversation.id] = conversation
            self._open.move_to_end(conversation.id)
            if len(self._open) > OPEN:
                oldest = next(iter(self._open.values()))
                if not oldest.view().busy:
                    self._keep_one(oldest)
                    del self._open[oldest.id]
        return conversation

    def _keep_one(self, conversation: Conversation) -> None:
        self._keep([conversation])

    def _keep(self, conversations: Iterable[Conversation]) -> None:
        """Write what is new in these, all or nothing."""
        with self._keeping:
            changed = [(one, changes) for one in conversations if (changes := one.take_changes()) is not None]
            if not changed:
                return
            try:
                with self.database.write() as connection:
                    for one, changes in changed:
                        table.keep(connection, one.id, one.owner, one.plain, changes)
            except StorageError:
                for one, changes in changed:
                    one.give_back(changes)
                    self._unkept[one.id] = one
            else:
                for one, _ in changed:
                    self._unkept.pop(one.id, None)

    def _set(self, id: str, owner: str, what: str, value: object) -> None:
        with self.database.write() as connection:
            connection.execute(f"UPDATE conversations SET {what} WHERE id = ? AND owner = ?", (value, id, owner))  # nosec B608

    def _purge(self) -> None:
        """Rub out what was deleted long enough ago."""
        self._purged_at = time.monotonic()
        with suppress(StorageError):
            then = (time.time() - PURGE_AFTER_S,)
            if self.database.read("SELECT 1 FROM conversations WHERE deleted < ? LIMIT 1", then):
                with self.database.write() as connection:
                    connection.execute("DELETE FROM conversations WHERE deleted < ?", then)
