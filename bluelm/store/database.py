"""The one file of everything that is kept: SQLite in a data folder. All SQL connections of the app live here.

The file is made at the first write. A damaged one is set aside, never deleted; where nothing can be kept at all, a
database in memory takes its place, and `trouble` says why.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bluelm.errors import StorageError
from bluelm.store.schema import MIGRATIONS, RECOVERY

log = logging.getLogger(__name__)

FILE = "conversations.db"
BUSY_S = 5.0
Row = sqlite3.Row


class Database:
    """Reads and writes, from any thread. Every method raises StorageError, and sqlite3's errors never."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.trouble: StorageError | None = None
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._file_lock: int | None = None
        self._write_lock = threading.RLock()
        self._read_lock = threading.RLock()

    def read(self, sql: str, values: Sequence[Any] = ()) -> list[Row]:
        """All rows of a query; none while there is no file yet."""
        with self._told(), self._read_lock:
            if self._reader is None and not self.path.exists() and not self._in_memory:
                return []
            self._open()
            assert self._reader is not None
            return self._reader.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A connection whose changes are kept together when the block ends, or not at all."""
        with self._told(), self._write_lock:
            self._open()
            assert self._writer is not None
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back by itself
                    self._writer.execute("ROLLBACK")
                raise
            if self.trouble is not None and not self._in_memory and self.trouble.details["why"] != "damaged":
                self.trouble = None  # the disk has room again

    def close(self) -> None:
        """Let go of the file. The next read or write opens it again."""
        with self._write_lock, self._read_lock:
            for connection in {self._writer, self._reader} - {None}:
                assert connection is not None
                connection.close()
            self._writer = self._reader = None
            if self._file_lock is not None:
                os.close(self._file_lock)
                self._file_lock = None

    # --- inside ---

    @property
    def _in_memory(self) -> bool:
        return self._writer is not None and self._writer is self._reader

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            told = storage_error(error)
            if self.trouble is None or not self._in_memory:
                log.warning("%s", told.message)
                self.trouble = told
            if told.details["why"] == "damaged" and not self._in_memory:
                with self._write_lock, self._read_lock:
                    self.close()
                    self._set_aside()
            raise told from error

    def _open(self) -> None:
        """Both connections; in memory if need be. Locks are taken in one order: write, then read."""
        if self._writer is not None and self._reader is not None:
            return
        with self._write_lock, self._read_lock:
            if self._writer is not None:
                return
            try:
                self._open_file()
            except (sqlite3.Error, OSError) as error:
                self.close()
                self.trouble = storage_error(error)
                if self.trouble.details["why"] == "damaged":
                    self._set_aside()
                    with contextlib.suppress(sqlite3.Error, OSError):
                        self._open_file()
                        return
                    self.close()
                log.warning("%s", self.trouble.message)
                self._writer = self._reader = _connected(":memory:")
                _migrate(self._writer)

    def _open_file(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        unclean = self.path.with_name(FILE + "-wal").exists()
        self._writer = _connected(str(self.path))
        self._writer.execute("PRAGMA journal_mode = WAL")
        self._writer.execute("PRAGMA synchronous = NORMAL")  # a killed process loses nothing, and no sync per write
        if unclean and self._writer.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("database disk image is malformed")
        _migrate(self._writer)
        self._writer.execute(RECOVERY)
        self._reader = _connected(str(self.path))

    def _take_lock(self) -> None:
        """One app for one folder: two would write over each other's conversations. Dies with the process."""
        handle = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise BlockingIOError(f"{self.path.parent}") from error
            return  # a file system without locks
        self._file_lock = handle

    def _set_aside(self) -> None:
        """Move a damaged file out of the way, with what belongs to it."""
        aside = self.path.with_name(f"{FILE}.damaged-{time.strftime('%Y%m%d-%H%M%S')}")
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(OSError):
                self.path.with_name(FILE + suffix).rename(f"{aside}{suffix}")
        self.trouble = StorageError("damaged", str(aside))


def storage_error(error: Exception) -> StorageError:
    """What an error of the disk or of SQLite means to a reader."""
    if isinstance(error, BlockingIOError):
        return StorageError("in_use", str(error))
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    number = getattr(error, "errno", 0)
    if code == sqlite3.SQLITE_FULL or number in (errno.ENOSPC, errno.EDQUOT):
        why = "full"
    elif code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM) or number in (
        errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST
    ):  # fmt: skip
        why = "readonly"
    elif code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB) or "malformed" in str(error):
        why = "damaged"
    else:
        why = "failed"
    return StorageError(why, str(error))


def _connected(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _migrate(connection: sqlite3.Connection) -> None:
    """Bring the file to the newest schema, step by step. One from a newer app is refused."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise sqlite3.OperationalError(
            f"it was written by a newer version of this app (schema {version}, known are {len(MIGRATIONS)})"
        )
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {script}; PRAGMA user_version = {number}; COMMIT;")
