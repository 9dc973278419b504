"""What may befall the disk and the clock, done to real files by real processes: kills in mid-write, a write that the
system refuses, another program that holds the file, a clock that jumps."""

from __future__ import annotations

import ast
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bluelm.store import Store
from bluelm.store.database import FILE, Database
from bluelm.types import FinishReason, SamplingParams
from tests.fakes import FakeEngine
from tests.servers import ROOT
from tests.test_store import said, titles

WRITER = """
import sys, time
from pathlib import Path
from bluelm.store import Store
from bluelm.store.database import Database
from bluelm.types import SamplingParams
from tests.fakes import FakeEngine
store = Store(Database(Path(sys.argv[1])), 60, sweep_s=0.01)
engine = FakeEngine(lambda prompt, params: [f"w{i} " for i in range(200)])
for number in range(10**6):
    conversation = store.new("me")
    conversation.ask(engine, f"{sys.argv[2]}-{number} " + "text " * 50, SamplingParams())
    while conversation.view().busy:
        time.sleep(0.001)
    store.sweep()
    print(f"{sys.argv[2]}-{number}", flush=True)
"""


def test_kills_in_mid_write_lose_nothing_that_was_kept(tmp_path: Path) -> None:
    """Again and again, each time into the same file, at another moment of its writing."""
    kept: set[str] = set()
    for round in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), f"r{round}"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        kept.add(writer.stdout.readline().strip())
        time.sleep(0.05 + 0.037 * round)
        writer.send_signal(signal.SIGKILL)
        kept |= {line.strip() for line in writer.stdout if line.endswith("\n")}
        writer.wait()
        with sqlite3.connect(tmp_path / FILE) as file:
            assert file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            texts = [row[0] for row in file.execute("SELECT content FROM messages WHERE role = 'user'")]
            whole = file.execute("SELECT count(*) FROM messages WHERE state = 'done' AND role = 'assistant'").fetchone()
        file.close()
        assert kept <= {text.split()[0] for text in texts} and whole[0] >= len(kept) > round
    store = Store(Database(tmp_path), 60)
    assert len(titles(store)) >= min(len(kept), 100) and store.trouble is None
    store.close()


FULL = """
import errno, sys
from pathlib import Path
from bluelm.store import Store
from bluelm.store.database import FILE, Database
from tests.test_store import said, titles
folder = Path(sys.argv[1])
store = Store(Database(folder), 60, sweep_s=60)
said(store, "me", "before")
filler = folder / "filler"
with filler.open("wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError as error:
        assert error.errno == errno.ENOSPC, error
for number in range(5):
    during = said(store, "me", f"during {number} " + "word " * 150)
    assert during.view().turns[-1].answer, "the chat goes on"
assert store.trouble is not None and store.trouble.details["why"] == "full", store.trouble
assert store.get(during.id, "me") is during
filler.unlink()
store.sweep()
assert store.trouble is None and len(titles(store)) == 6
store.close()
again = Store(Database(folder), 60)
assert len(titles(again)) == 6 and again.trouble is None
with again.database.write() as connection:
    assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
again.close()
print("kept")
"""
MOUNTED = 'mount -t tmpfs -o size=1m none "$0" && echo mounted && exec "$@"'


def test_a_file_system_that_is_full_to_the_last_byte_stops_no_chat_and_damages_nothing(tmp_path: Path) -> None:
    """A real one of 1 MB, seen by this process alone. Where none may be mounted, the system is made to refuse writes as
    the test below has it, which is the same to SQLite but for its name."""
    program = [sys.executable, "-c", FULL, str(tmp_path)]
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", MOUNTED, str(tmp_path), *program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if "mounted" not in done.stdout:
        test_writes_that_the_system_refuses_are_told_and_made_up_for(tmp_path)
        return
    assert done.stdout.split() == ["mounted", "kept"], done.stderr
    assert not any(tmp_path.iterdir()), "it was written beside the small file system"


REFUSED_WRITES = """
import resource, signal, sys
from pathlib import Path
from bluelm.store import Store
from bluelm.store.database import Database
from tests.test_store import said, titles
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Store(Database(Path(sys.argv[1])), 60, sweep_s=60)
said(store, "me", "before")
plain = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (16384, plain[1]))
during = said(store, "me", "during")
assert store.trouble is not None, "nothing was told"
assert during.view().turns[-1].answer, "the chat goes on"
resource.setrlimit(resource.RLIMIT_FSIZE, plain)
store.sweep()
assert store.trouble is None and len(titles(store)) == 2
store.close()
print("kept")
"""


def test_writes_that_the_system_refuses_are_told_and_made_up_for(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", REFUSED_WRITES, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "kept", done.stderr


def told(store: Store) -> bool:
    """Whether the page says that something is not kept."""
    return store.trouble is not None


def test_a_file_that_another_program_holds_delays_keeping_and_not_the_chat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bluelm.store.database.BUSY_S", 0.2)
    store = Store(Database(tmp_path), 60, sweep_s=60)
    said(store, "me", "before")
    other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    during = said(store, "me", "during")
    assert during.view().turns[-1].answer and told(store)
    other.execute("ROLLBACK")
    other.close()
    store.sweep()
    assert not told(store) and titles(store) == ["during", "before"]
    store.close()


def test_a_clock_that_jumps_ends_no_answer_and_falsifies_no_duration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, offset = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: real() + offset)
    store = Store(Database(tmp_path), abandon_after_s=5, sweep_s=0.02)
    for jump in (86400.0, -86400.0):
        conversation = store.new("me")
        conversation.ask(FakeEngine(pause=0.02), "one two three four five", SamplingParams())
        offset += jump
        while conversation.view().busy:
            time.sleep(0.01)
        turn = conversation.view().turns[-1]
        assert turn.finish_reason is FinishReason.STOP and turn.usage is not None and 0 < turn.usage.total_s < 5
    assert len(titles(store)) == 2
    store.close()


def test_durations_are_measured_by_a_clock_that_cannot_jump() -> None:
    """time.time() is for dates: nothing is subtracted from it or compared with it, but for a deletion's hour and for
    sessions, which a cookie dates."""
    found = []
    for file in sorted(set((ROOT / "bluelm").rglob("*.py")) - set((ROOT / "bluelm/auth").rglob("*.py"))):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.BinOp | ast.Compare) and "time.time()" in ast.unparse(node):
                found.append(f"{file.name}: {ast.unparse(node)}")
    assert [one for one in found if "PURGE_AFTER_S" not in one] == []


def test_every_promise_names_a_test_that_is_there() -> None:
    told = re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", (ROOT / "docs/reliability.md").read_text(encoding="utf-8"))
    assert len(told) > 20
    for file, name in told:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(encoding="utf-8") or not name, f"{file}::{name}"
