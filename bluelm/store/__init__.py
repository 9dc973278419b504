"""What is kept: conversations, and what their owners set up for them. In one file, `data/conversations.db`.

keeper.py     the conversations of this process, in memory and on the disk
table.py      their SQL: keeping, reading, listing, searching
shelf.py      presets, prompts and preferences
exchange.py   export and import
database.py   the file, and what happens when it is damaged or full
schema.py     its tables
rows.py       messages as rows
"""

from __future__ import annotations

import threading

from bluelm import service
from bluelm.config import ROOT
from bluelm.store.database import Database
from bluelm.store.keeper import Store
from bluelm.store.shelf import Shelf
from bluelm.store.table import Entry

__all__ = ["Entry", "Shelf", "Store", "close", "conversations", "shelf"]

_lock = threading.Lock()
_store: Store | None = None


def conversations() -> Store:
    """The one store of this process, made at the first call."""
    global _store
    settings = service.settings()
    with _lock:
        if _store is None:
            _store = Store(Database(ROOT / settings.data), settings.abandon_after_s)
        return _store


def shelf() -> Shelf:
    """What people set up for themselves, in the same file."""
    return Shelf(conversations().database)


def close() -> None:
    """Keep what is new, at the process's end; a later call of `conversations` begins anew."""
    global _store
    with _lock:
        ending, _store = _store, None
    if ending is not None:
        ending.close()
