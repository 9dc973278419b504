"""What is kept: conversations outlive the process that made them, and a disk that fails never takes the app with it."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bluelm.conversation import Conversation, Status, told
from bluelm.errors import InvalidParameter, StorageError
from bluelm.store import Store, keeper
from bluelm.store.database import FILE, Database
from bluelm.store.rows import Settings
from bluelm.store.schema import MIGRATIONS
from bluelm.store.shelf import Shelf, filled, variables
from bluelm.store.table import list_query
from bluelm.types import SamplingParams
from tests.fakes import FakeEngine
from tests.test_conversation import ended, until

PARAMS = SamplingParams(max_length=100, temperature=0.3, seed=2**62, stop=("END",), logprobs=2)
ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    store = Store(Database(folder), abandon_after_s=60)
    yield store
    store.close()


def reopened(store: Store) -> Store:
    store.close()
    return Store(Database(store.database.path.parent), abandon_after_s=60)


def said(store: Store, owner: str, *questions: str, engine: FakeEngine | None = None) -> Conversation:
    conversation = store.new(owner)
    for question in questions:
        conversation.ask(engine or FakeEngine(), question, PARAMS, "Be kind.")
        ended(conversation)
    store.sweep()
    return conversation


def titles(store: Store, owner: str = "me", **how: str) -> list[str]:
    return [entry.title for entry in store.listed(owner, **how)]  # type: ignore[arg-type]


# --- what lasts ---


def test_a_conversation_is_the_same_after_a_restart(store: Store) -> None:
    conversation = said(store, "me", "one", "two", "three")
    conversation.edit(FakeEngine(), conversation.view().turns[1].question_id, "deux", PARAMS)
    ended(conversation)
    before = conversation.view()
    again = reopened(store)
    found = again.get(conversation.id, "me")
    assert found is not None and found is not conversation
    assert found.view() == before and found.tree.nodes == conversation.tree.nodes
    assert len(told.unpack(found.view().turns[0].tokens)[0].top) == 2
    assert found.view().turns[0].params == PARAMS and found.view().turns[0].system == "Be kind."
    again.close()


def test_nothing_is_written_before_the_first_question(store: Store, folder: Path) -> None:
    store.new("me")
    assert store.listed("me") == [] and store.get("guess", "me") is None
    store.sweep()
    assert not folder.exists()


def test_an_owner_sees_their_own_and_nobody_elses(store: Store) -> None:
    conversation = said(store, "me", "mine")
    said(store, "you", "yours")
    assert titles(store) == ["mine"] and titles(store, "you") == ["yours"] and titles(store, "they") == []
    assert store.get(conversation.id, "you") is None and store.get(conversation.id, "me") is conversation
    for wrong in (lambda: store.rename(conversation.id, "you", "x"), lambda: store.delete(conversation.id, "you")):
        wrong()
    assert titles(store) == ["mine"] and len(conversation.id) >= 20


def test_one_conversation_is_one_object_however_often_it_is_opened(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "OPEN", 2)
    first = said(store, "me", "first")
    for n in range(4):
        said(store, "me", f"other {n}")
    assert store.get(first.id, "me") is first
    id, text = first.id, first.view().turns
    del first
    for n in range(4):
        said(store, "me", f"another {n}")
    loaded = store.get(id, "me")
    assert loaded is not None and loaded.view().turns == text


def test_a_killed_process_loses_less_than_a_second_and_its_answer_is_marked(folder: Path) -> None:
    """A real process, killed in mid-answer; what it had said is known from its own lines."""
    code = f"""
import time
from pathlib import Path
from bluelm.store import Store
from bluelm.store.database import Database
from bluelm.types import SamplingParams
from tests.fakes import FakeEngine
engine = FakeEngine(lambda prompt, params: (f"w{{i}} " for i in range(10**6)), pause=0.005)
store = Store(Database(Path({str(folder)!r})), 60)
conversation = store.new("me")
conversation.ask(engine, "go", SamplingParams())
print(conversation.id, flush=True)
while True:
    text = conversation.view().running.text
    print(time.time(), len(text), flush=True)
    time.sleep(0.02)
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    id = process.stdout.readline().strip()
    time.sleep(2.2)
    process.send_signal(signal.SIGKILL)
    killed = time.time()
    lines = [line.split() for line in process.stdout.read().splitlines() if line.count(" ") == 1]
    process.wait()
    long_ago = max(int(length) for at, length in lines if float(at) < killed - 1.0)
    store = Store(Database(folder), abandon_after_s=60)
    found = store.get(id, "me")
    assert found is not None and store.trouble is None
    (turn,) = found.view().turns
    assert turn.status is Status.INTERRUPTED and turn.can_go_on and len(turn.answer) >= long_ago > 0
    assert turn.answer == "".join(f"w{i} " for i in range(10**4))[: len(turn.answer)]
    assert titles(store, search="w12 w13") == ["go"]  # what was interrupted is found as well
    store.close()


# --- the list ---


def test_the_list_is_newest_first_and_pinned_first_of_all(store: Store) -> None:
    old, middle = said(store, "me", "old"), said(store, "me", "middle")
    said(store, "me", "new")
    assert titles(store) == ["new", "middle", "old"]
    old.ask(FakeEngine(), "more", PARAMS)
    ended(old)
    store.sweep()
    assert titles(store) == ["old", "new", "middle"]
    store.pin(middle.id, "me", True)
    assert titles(store) == ["middle", "old", "new"] and store.listed("me")[0].pinned
    assert [one.title for one in store.listed("me", limit=1)] == ["middle"]


def test_a_title_follows_the_first_question_until_somebody_names_it(store: Store) -> None:
    conversation = said(store, "me", "How   does\n\nit go?")
    assert titles(store) == ["How does it go?"]
    store.rename(conversation.id, "me", " My  talk ")
    conversation.edit(FakeEngine(), 1, "What now?", PARAMS)
    ended(conversation)
    store.sweep()
    assert titles(store) == ["My talk"]
    store.rename(conversation.id, "me", " ")
    assert titles(store) == ["What now?"]


def test_deleting_can_be_undone_for_a_while(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = said(store, "me", "precious")
    store.delete(conversation.id, "me")
    assert titles(store) == [] and store.get(conversation.id, "me") is None and titles(store, search="precious") == []
    store.restore(conversation.id, "me")
    assert titles(store) == ["precious"] and store.get(conversation.id, "me") is not None
    store.delete(conversation.id, "me")
    monkeypatch.setattr(keeper, "PURGE_AFTER_S", -1.0)
    store._purge()
    assert store.database.read("SELECT * FROM messages") == [] and store.database.read("SELECT * FROM texts") == []


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("weather", ["weather"]), ("WEATHER today", ["weather"]), ("today weather", ["weather"]), ("天气", ["天气"]),
        ("今天天气", ["天气"]), ("气", ["天气"]), ("天气 公园", ["天气"]), ("天气 weather", []), ('"', ["quotes"]),
        ("50%", ["quotes"]),
        ("5_%", []), ("it's", ["quotes"]), ("AND", ["quotes"]), ("", ["quotes", "天气", "weather"]), ("absent", []),
    ],
)  # fmt: skip
def test_words_are_found_in_titles_and_texts_in_both_languages(store: Store, search: str, found: list[str]) -> None:
    for title, text in (
        ("weather", "It rains today"),
        ("天气", "今天天气不错，我们去公园"),
        ("quotes", 'it\'s "50%" and'),
    ):
        conversation = said(store, "me", title, engine=FakeEngine(lambda prompt, params, text=text: [text]))  # type: ignore[misc]
        assert conversation.view().last
    assert titles(store, search=search) == found


def test_the_list_and_its_search_use_the_indexes(store: Store) -> None:
    """Time with 10,000 conversations is measured by bench/store.py; that nothing is read row by row is told here."""
    said(store, "me", "one")
    for search in ("", "three"):
        sql, values = list_query(search)
        rows = store.database.read("EXPLAIN QUERY PLAN " + sql, ("me", 0, *values, 30))
        plan = " | ".join(row["detail"] for row in rows)
        assert "USING INDEX conversations_by_owner (owner=? AND plain=?)" in plan and "TEMP B-TREE" not in plan
        assert "SCAN m" not in plan and "SCAN c" not in plan, plan


def test_a_shared_link_shows_one_conversation_until_it_is_taken_back(store: Store) -> None:
    conversation = said(store, "me", "look")
    word = store.share(conversation.id, "me", True)
    assert store.shared(word) is conversation and store.entry(conversation.id).shared == word  # type: ignore[union-attr]
    assert store.shared("guess") is None and store.shared("") is None
    store.share(conversation.id, "me", False)
    assert store.shared(word) is None


# --- disks that fail ---


def test_a_damaged_file_is_set_aside_and_the_app_goes_on(store: Store, folder: Path) -> None:
    said(store, "me", "before")
    store.close()
    (folder / FILE).write_bytes(b"this is no database" * 100)
    again = Store(Database(folder), abandon_after_s=60)
    said(again, "me", "after")
    assert titles(again) == ["after"] and again.trouble is not None and again.trouble.details["why"] == "damaged"
    aside = Path(again.trouble.details["detail"])
    assert aside.read_bytes().startswith(b"this is no database")
    again.close()
    assert titles(Store(Database(folder), 60)) == ["after"]


def test_a_full_disk_is_told_and_what_was_said_is_kept_once_there_is_room(store: Store) -> None:
    said(store, "me", "before")
    with store.database.write() as connection:
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")
    conversation = said(store, "me", "word " * 20_000)
    assert store.trouble is not None and store.trouble.details["why"] == "full"
    assert conversation.view().turns[0].status is Status.REFUSED or conversation.view().turns[0].answer
    assert store.get(conversation.id, "me") is conversation
    assert store.database._writer is not None
    store.database._writer.execute("PRAGMA max_page_count = 1000000")
    store.sweep()
    assert len(titles(store)) == 2 and not store.trouble


def test_a_folder_that_cannot_be_written_leaves_the_app_in_memory(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file in its place")
    store = Store(Database(tmp_path / "data"), abandon_after_s=60)
    conversation = said(store, "me", "hello")
    assert store.trouble is not None and store.trouble.details["why"] == "readonly"
    assert titles(store) == ["hello"] and store.get(conversation.id, "me") is conversation
    store.close()


def test_two_apps_do_not_share_one_folder(store: Store, folder: Path) -> None:
    said(store, "me", "first app")
    second = Store(Database(folder), abandon_after_s=60)
    said(second, "me", "second app")
    assert second.trouble is not None and second.trouble.details["why"] == "in_use"
    assert titles(store) == ["first app"] and titles(second) == ["second app"]
    second.close()


def test_a_file_of_an_older_app_is_brought_up_to_date(folder: Path) -> None:
    folder.mkdir()
    with sqlite3.connect(folder / FILE) as connection:
        connection.executescript(MIGRATIONS[0] + "; PRAGMA user_version = 1")
        connection.execute("INSERT INTO conversations (id, owner, plain, title, created, updated, leaf) "
                           "VALUES ('c', 'me', 0, 'old', 1, 1, 2)")  # fmt: skip
        connection.executemany(
            "INSERT INTO messages (conversation, id, parent, role, content, state, created) "
            "VALUES ('c', ?, ?, ?, ?, 'done', 1)",
            [(1, None, "user", "q"), (2, 1, "assistant", "a")],
        )
    connection.close()
    store = Store(Database(folder), abandon_after_s=60)
    found = store.get("c", "me")
    assert found is not None and [(turn.question, turn.answer, turn.tokens) for turn in found.view().turns] == [
        ("q", "a", "")
    ]
    found.ask(FakeEngine(), "and now", PARAMS)
    ended(found)
    store.sweep()
    again = reopened(store)
    found = again.get("c", "me")
    assert found is not None and found.view().turns[1].tokens and not found.view().turns[0].tokens
    again.close()


def test_a_file_of_a_newer_app_is_left_alone(store: Store, folder: Path) -> None:
    said(store, "me", "newer")
    store.close()
    with sqlite3.connect(folder / FILE) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()
    before = (folder / FILE).read_bytes()
    older = Store(Database(folder), abandon_after_s=60)
    said(older, "me", "older")
    assert older.trouble is not None and "newer version" in older.trouble.message
    older.close()
    assert (folder / FILE).read_bytes() == before


def test_sweeping_by_itself_keeps_what_is_new(folder: Path) -> None:
    store = Store(Database(folder), abandon_after_s=60, sweep_s=0.05)
    conversation = store.new("me")
    conversation.ask(FakeEngine(pause=0.01), "word " * 5, PARAMS)
    rows = "SELECT state FROM messages WHERE role = 'assistant'"
    until(lambda: [row["state"] for row in store.database.read(rows)] == ["done"])
    store.close()


# --- presets, prompts, preferences ---


def test_presets_and_prompts_are_their_owners(store: Store) -> None:
    shelf, settings = Shelf(store.database), Settings(PARAMS, "Be brief.")
    assert shelf.presets("me") == {} and shelf.preference("me", "language") == ""
    shelf.save_preset("me", " short ", settings)
    shelf.save_prompt("me", "b", "{{x}}")
    shelf.save_prompt("me", "a", "text")
    shelf.prefer("me", "language", "zh")
    shelf.prefer("me", "language", "en")
    assert shelf.presets("me") == {"short": settings} and list(shelf.prompts("me")) == ["a", "b"]
    assert shelf.preference("me", "language") == "en"
    assert shelf.presets("you") == {} and shelf.prompts("you") == {} and shelf.preference("you", "language") == ""
    shelf.delete_preset("me", "short")
    shelf.delete_prompt("me", "a")
    assert shelf.presets("me") == {} and list(shelf.prompts("me")) == ["b"]


def test_a_name_without_a_letter_is_refused(store: Store) -> None:
    shelf = Shelf(store.database)
    for name, text in ((" ", "text"), ("n" * 101, "text"), ("name", " ")):
        with pytest.raises(InvalidParameter):
            shelf.save_prompt("me", name, text)


def test_variables_are_filled_once_and_braces_in_values_stay() -> None:
    text = "Translate {{ text }} into {{语言}}: {{text}} {not one} {{ }}"
    assert variables(text) == ["text", "语言"]
    assert (
        filled(text, {"text": "{{语言}}", "语言": "中文"}) == "Translate {{语言}} into 中文: {{语言}} {not one} {{ }}"
    )
    assert variables("none") == [] and filled("none", {}) == "none"


def test_every_failure_of_the_disk_is_a_storage_error(folder: Path) -> None:
    database = Database(folder)
    with database.write() as connection:
        connection.execute("INSERT INTO preferences VALUES ('a', 'b', 'c')")
    with pytest.raises(StorageError), database.write() as connection:
        connection.execute("INSERT INTO nowhere VALUES (1)")
    assert len(database.read("SELECT * FROM preferences")) == 1
    database.close()
