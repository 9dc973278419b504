"""What people set up for themselves: presets, a library of prompts, and preferences. Each owner has their own."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextlib import suppress

from bluelm.errors import InvalidParameter, StorageError
from bluelm.store.database import Database
from bluelm.store.rows import Settings

NAME_CHARS, TEXT_CHARS, ITEMS = 100, 100_000, 1000
_VARIABLE = re.compile(r"\{\{\s*([^{}\n]*[^{}\s])\s*\}\}")


class Shelf:
    """Named things of each owner. Saving under a name that is there replaces it. Writing raises StorageError."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def presets(self, owner: str) -> dict[str, Settings]:
        """Settings and system prompts by name, in the order of their names."""
        return {name: Settings.from_json(value) for name, value in self._all("presets", "settings", owner).items()}

    def save_preset(self, owner: str, name: str, settings: Settings) -> None:
        """Raises InvalidParameter for a name that is empty or too long."""
        self._save("presets", "settings", owner, name, settings.to_json())

    def delete_preset(self, owner: str, name: str) -> None:
        self._delete("presets", owner, name)

    def prompts(self, owner: str) -> dict[str, str]:
        """Texts with `{{variables}}` by name, in the order of their names."""
        return self._all("prompts", "text", owner)

    def save_prompt(self, owner: str, name: str, text: str) -> None:
        """Raises InvalidParameter for a name or a text that is empty or too long."""
        self._save("prompts", "text", owner, name, text)

    def delete_prompt(self, owner: str, name: str) -> None:
        self._delete("prompts", owner, name)

    def preference(self, owner: str, name: str) -> str:
        """A remembered choice, "" if there is none."""
        return self._all("preferences", "value", owner).get(name, "")

    def prefer(self, owner: str, name: str, value: str) -> None:
        with suppress(StorageError), self.database.write() as connection:  # a choice that is not remembered is no harm
            connection.execute("INSERT OR REPLACE INTO preferences VALUES (?, ?, ?)", (owner, name, value))

    def _all(self, table: str, column: str, owner: str) -> dict[str, str]:
        with suppress(StorageError):
            sql = f"SELECT name, {column} FROM {table} WHERE owner = ? ORDER BY name"  # nosec B608
            return {row["name"]: row[column] for row in self.database.read(sql, (owner,))}
        return {}

    def _save(self, table: str, column: str, owner: str, name: str, value: str) -> None:
        name = " ".join(name.split())
        if not 0 < len(name) <= NAME_CHARS:
            raise InvalidParameter("name", name, f"a name of 1 to {NAME_CHARS} characters")
        if not value.strip() or len(value) > TEXT_CHARS:
            raise InvalidParameter("text", value, f"a text of 1 to {TEXT_CHARS} characters")
        known = self._all(table, column, owner)
        if name not in known and len(known) >= ITEMS:
            raise InvalidParameter("name", name, f"one of the {ITEMS} that there are already: delete some first")
        with self.database.write() as connection:
            sql = f"INSERT OR REPLACE INTO {table} (owner, name, {column}, created) VALUES (?, ?, ?, ?)"
            connection.execute(sql, (owner, name, value, time.time()))

    def _delete(self, table: str, owner: str, name: str) -> None:
        with self.database.write() as connection:
            connection.execute(f"DELETE FROM {table} WHERE owner = ? AND name = ?", (owner, name))  # nosec B608


def variables(text: str) -> list[str]:
    """The names of a prompt's `{{variables}}`, in the order in which they come, each once."""
    return list(dict.fromkeys(_VARIABLE.findall(text)))


def filled(text: str, values: Mapping[str, str]) -> str:
    """The prompt with its variables filled in; braces in a value stay. Raises KeyError for one that is not given."""
    return _VARIABLE.sub(lambda found: values[found[1]], text)
