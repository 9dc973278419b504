"""The SQL of conversations: how one is kept and read again, and how the list is made and searched."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from sqlite3 import Connection

from bluelm.conversation import Changes, Tree, automatic_title
from bluelm.store.database import Database
from bluelm.store.rows import COLUMNS, node, row

PIECE = 3  # characters that the index of texts is made of; shorter words are looked for one text after the other
_MARKS = ", ".join("?" * (len(COLUMNS) + 1))
_NEW_VALUES = ", ".join(f"{name} = excluded.{name}" for name in COLUMNS if name not in ("id", "created"))
_WRITE_MESSAGE = (
    f"INSERT INTO messages (conversation, {', '.join(COLUMNS)}) VALUES ({_MARKS}) "  # nosec B608
    f"ON CONFLICT (conversation, id) DO UPDATE SET {_NEW_VALUES}"
)
_WRITE_CONVERSATION = """
    INSERT INTO conversations (id, owner, plain, title, created, updated, leaf) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET leaf = excluded.leaf, updated = max(updated, excluded.updated),
        title = CASE WHEN named THEN title ELSE excluded.title END
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A conversation in the list. updated: seconds since 1970. shared: the word of its link, "" if it has none."""

    id: str
    title: str
    pinned: bool
    created: float
    updated: float
    shared: str


@dataclass(frozen=True, slots=True)
class Portable:
    """A conversation on its way in or out of the app. Times are seconds since 1970."""

    tree: Tree
    title: str
    pinned: bool = False
    plain: bool = False
    created: float = 0.0
    updated: float = 0.0


_ENTRY = "c.id, c.title, c.pinned, c.created, c.updated, coalesce(c.shared, '') AS shared"


def keep(connection: Connection, id: str, owner: str, plain: bool, changes: Changes) -> None:
    """Write what is new in a conversation. Only something said makes it newer, not a step to another version."""
    now = time.time()
    said = max((one.created for one in changes.nodes), default=0.0)
    connection.execute(_WRITE_CONVERSATION, (id, owner, plain, changes.title, now, said or now, changes.leaf))
    connection.executemany(
        "DELETE FROM messages WHERE conversation = ? AND id = ?", [(id, removed) for removed in changes.removed]
    )
    rows = [(id, *(values[name] for name in COLUMNS)) for one in changes.nodes for values in (row(one),)]
    connection.executemany(_WRITE_MESSAGE, rows)


def take_in(connection: Connection, id: str, owner: str, one: Portable) -> None:
    """Write a whole conversation. A title that is not that of its first words is a name of its own."""
    path = one.tree.path()
    by_itself = automatic_title(path, one.plain)
    keep(connection, id, owner, one.plain, Changes(one.tree.nodes, (), one.tree.leaf, by_itself))
    title = one.title or by_itself
    now = time.time()
    connection.execute(
        "UPDATE conversations SET title = ?, named = ?, pinned = ?, created = ?, updated = ? WHERE id = ?",
        (title, title != by_itself, one.pinned, one.created or now, one.updated or one.created or now, id),
    )


def load(database: Database, id: str) -> tuple[str, bool, Tree] | None:
    """Owner, plain and tree of a conversation that has not been deleted."""
    found = database.read("SELECT owner, plain, leaf FROM conversations WHERE id = ? AND deleted IS NULL", (id,))
    if not found:
        return None
    rows = database.read("SELECT * FROM messages WHERE conversation = ? ORDER BY id", (id,))
    return found[0]["owner"], bool(found[0]["plain"]), Tree(map(node, map(dict, rows)), found[0]["leaf"])


def listed(database: Database, owner: str, plain: bool, search: str, limit: int) -> list[Entry]:
    """Conversations with every word of `search` in the title or in some text; pinned ones first, newest first."""
    sql, values = list_query(search)
    return [_entry(one) for one in database.read(sql, (owner, plain, *values, limit))]


def entry(database: Database, id: str) -> Entry | None:
    rows = database.read(f"SELECT {_ENTRY} FROM conversations c WHERE c.id = ? AND c.deleted IS NULL", (id,))  # nosec B608
    return _entry(rows[0]) if rows else None


def list_query(search: str) -> tuple[str, list[str]]:
    """The list's SQL, and the values of its search: they come behind owner and plain, and before the limit."""
    where, values = "", []
    for term in search.split():
        like = "%" + "".join("\\" + c if c in "%_\\" else c for c in term) + "%"
        if len(term) >= PIECE:
            found = "SELECT m.conversation FROM texts JOIN messages m ON m.number = texts.rowid WHERE texts MATCH ?"
            inside = f"c.id IN ({found})"
            values += [like, '"' + term.replace('"', '""') + '"']
        else:
            inside = "EXISTS (SELECT 1 FROM messages m WHERE m.conversation = c.id AND m.content LIKE ? ESCAPE '\\')"
            values += [like, like]
        where += f" AND (c.title LIKE ? ESCAPE '\\' OR {inside})"
    sql = (
        f"SELECT {_ENTRY} FROM conversations c WHERE c.owner = ? AND c.plain = ? AND c.deleted IS NULL "  # nosec B608
        f"AND c.leaf IS NOT NULL {where} ORDER BY c.pinned DESC, c.updated DESC LIMIT ?"
    )
    return sql, values


def new_word() -> str:
    """An unguessable name, for a conversation or its link."""
    return secrets.token_urlsafe(16)


def _entry(row: object) -> Entry:
    values = {name: row[name] for name in ("id", "title", "created", "updated", "shared")}  # type: ignore[index]
    return Entry(pinned=bool(row["pinned"]), **values)  # type: ignore[index]
