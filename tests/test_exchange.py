"""Conversations leave as files and come back as they were; what cannot be read is refused by its line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluelm.conversation import Answer, Conversation, Question, Status
from bluelm.errors import BadImport, EngineDied
from bluelm.store import Store, exchange
from bluelm.store.database import Database
from bluelm.store.exchange import from_jsonl, shown_messages, to_jsonl
from bluelm.store.markdown import from_markdown, is_ours, to_markdown
from bluelm.store.table import Portable
from bluelm.types import SamplingParams
from tests.fakes import FakeEngine
from tests.test_tree import play
from tests.test_tree import steps as many_steps

words = st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from(
    [
        "<!-- bluelm-chat: user -->",
        "\\<!-- bluelm-chat: {} -->\n\n",
        "**User**\n\n",
        "\n\n",
        "```\n# x\n```",
        "--> \r\n",
    ]
)


def talk(steps: list[tuple[str, int]], text: str = "") -> Portable:
    engine, conversation = FakeEngine(), Conversation("c")
    play(conversation, engine, steps)
    conversation.ask(
        FakeEngine(lambda prompt, params: [text or "yes"]), "last " + text, SamplingParams(seed=2**62, logprobs=2), text
    )
    while conversation.view().busy:
        pass
    return Portable(conversation.tree, "A “title” -->", True, False, 1.5, 2.5)


@given(many_steps, words)
def test_json_lines_bring_everything_back(steps: list[tuple[str, int]], text: str) -> None:
    one = talk(steps, text)
    (back,) = from_jsonl("".join(to_jsonl([one])).encode())
    assert [wire(node) for node in back.tree.nodes] == [wire(node) for node in one.tree.nodes]
    assert (back.tree.leaf, back.title, back.pinned, back.created, back.updated) == (
        one.tree.leaf,
        one.title,
        True,
        1.5,
        2.5,
    )
    assert list(to_jsonl([back])) == list(to_jsonl([one]))


def wire(node: Question | Answer) -> object:
    """Errors are equal when they say the same."""
    return exchange.rows.row(node)


@given(st.lists(words, min_size=1, max_size=4), words)
def test_markdown_brings_what_is_shown_back(texts: list[str], system: str) -> None:
    conversation, engine = Conversation("c"), FakeEngine(lambda prompt, params: [prompt[-1].content + "!"])  # type: ignore[union-attr,index]
    for text in texts:
        conversation.ask(engine, "q" + text, SamplingParams(), system)
        while conversation.view().busy:
            pass
    one = Portable(conversation.tree, "a\\b --> “c”", False, False, 1.0, 2.0)
    data = "".join(to_markdown([one, one])).encode()
    assert is_ours(data)
    for back in from_markdown(data):
        assert shown_messages(back) == shown_messages(one) and back.title == one.title
        assert (back.pinned, back.created, back.updated) == (False, 1.0, 2.0)


def test_what_is_exported_is_openais_messages_too(tmp_path: Path) -> None:
    line = json.loads(next(to_jsonl([talk([("ask", 0), ("again", 0)])])))
    assert [m["role"] for m in line["messages"]] == ["user", "assistant", "user", "assistant"]
    del line["bluelm_chat"]
    (plain,) = from_jsonl(json.dumps(line).encode())
    assert shown_messages(plain) == line["messages"]


def test_openais_messages_become_conversations() -> None:
    (one, two) = from_jsonl(
        b'{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "q"}'
        b']}, {"role": "assistant", "content": "a", "name": null}]}\r\n\n'
        b'{"messages": [{"role": "user", "content": "?"}], "x": 1}\n'
    )
    assert [m["content"] for m in shown_messages(one)] == ["s", "q", "a"]
    (_, answer) = two.tree.path()[0]
    assert answer.status is Status.INTERRUPTED and not answer.text  # to be answered with Retry


GOOD = {"messages": [{"role": "user", "content": "q"}]}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda d: None, "no_messages"),
        (lambda d: [d], "no_messages"),
        (lambda d: {"prompt": "x"}, "no_messages"),
        (lambda d: {"messages": {}}, "a list"),
        (lambda d: {"messages": []}, "at least one"),
        (lambda d: {"messages": ["x"]}, "messages[0]"),
        (lambda d: {"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        (lambda d: {"messages": [{"role": "user", "content": 7}]}, "messages[0].content"),
        (lambda d: {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content"),
        (lambda d: {"messages": [{"role": "user", "content": "x"}] * 2}, "messages[1].role"),
        (lambda d: {"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]}, "messages[0].tool_calls"),
        (lambda d: {"messages": [{"role": "tool", "content": "x"}]}, "tools are not kept"),
        (lambda d: d | {"tools": [1]}, "tools"),
        (lambda d: d | {"title": 3}, "title"),
        (lambda d: {"bluelm_chat": {"format": 9, "nodes": []}}, "format 9"),
        (lambda d: {"bluelm_chat": {"format": 1, "nodes": []}}, "no messages"),
        (lambda d: {"bluelm_chat": {"format": 1, "nodes": [{"id": "x"}]}}, "$.nodes[0]"),
        (lambda d: {"bluelm_chat": {"format": 1, "more": 1, "nodes": []}}, "more"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_taken(change: Callable, word: str) -> None:
    data = "\n".join(json.dumps(one) for one in (GOOD, change(GOOD))).encode()
    with pytest.raises(BadImport) as caught:
        from_jsonl(data)
    assert caught.value.details["line"] == 2
    assert word in (caught.value.message, caught.value.details["why"]) or word in caught.value.message


NODE = {"id": 1, "role": "user", "content": "q", "created": 1.0}
ANSWER = {"id": 2, "parent": 1, "role": "assistant", "content": "a", "created": 1.0}


@pytest.mark.parametrize(
    "nodes",
    [
        [NODE, NODE],
        [ANSWER],
        [NODE, ANSWER | {"parent": 2}],
        [NODE, ANSWER | {"state": "lost"}],
        [NODE, ANSWER | {"settings": {"params": {"temperature": 9}}}],
        [NODE, ANSWER | {"usage": {"prompt_tokens": "many"}}],
        [NODE, ANSWER | {"finish_reason": "bored"}],
        [NODE, ANSWER | {"facts": {"continues": 7}}],
        [NODE, ANSWER | {"facts": {"error": {"why": "none"}}}],
        [NODE, ANSWER | {"tokens": [[[1, "a"], 5, []]]}],
        [NODE | {"id": 10**30}, ANSWER],
    ],
)
def test_a_bad_tree_is_refused(nodes: list[dict]) -> None:
    with pytest.raises(BadImport):
        from_jsonl(json.dumps({"bluelm_chat": {"format": 1, "nodes": nodes}}).encode())


@given(st.binary(max_size=200) | st.text().map(lambda text: json.dumps({"messages": text}).encode()))
def test_whatever_a_file_holds_it_is_taken_or_refused_in_words(data: bytes) -> None:
    for read in (from_jsonl, from_markdown):
        try:
            assert read(data)
        except BadImport as error:
            assert error.message.endswith("Nothing was imported.")


def test_limits_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "CONVERSATIONS", 2)
    line = json.dumps(GOOD).encode() + b"\n"
    assert len(from_jsonl(line * 2)) == 2
    with pytest.raises(BadImport, match="Line 3 is one conversation more than 2"):
        from_jsonl(line * 3)
    monkeypatch.setattr(exchange, "FILE_BYTES", 10)
    with pytest.raises(BadImport, match="MB"):
        from_jsonl(line)
    nested = b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    monkeypatch.setattr(exchange, "FILE_BYTES", 10**6)
    with pytest.raises(BadImport, match="not JSON"):
        from_jsonl(nested)


def test_a_whole_store_moves_to_another_one(tmp_path: Path) -> None:
    old, new = (Store(Database(tmp_path / name), 60) for name in ("old", "new"))
    for number in range(3):
        conversation, engine = old.new("me"), FakeEngine()
        engine.failure = EngineDied() if number == 1 else None
        play(conversation, engine, [("ask", 0), ("edit", 0), ("ask", 0)])
        old.sweep()
        if number == 2:
            old.rename(conversation.id, "me", "Named")
            old.pin(conversation.id, "me", True)
    lines = list(to_jsonl(old.export("me")))
    ids = new.take_in("you", from_jsonl("".join(lines).encode()))
    assert list(to_jsonl(new.export("you"))) == lines and len(set(ids)) == 3
    assert [one.title for one in new.listed("you")] == [one.title for one in old.listed("me")]
    assert new.listed("you")[0].pinned
    old.close()
    new.close()


def test_a_file_that_would_fill_the_memory_is_refused_before_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "MESSAGES", 2_000)
    long = b'{"messages": [' + b"{}," * 5_600_000
    many = b'{"messages": [' + b"[]," * 600_000 + b"{}]}"
    deep = b'{"messages": ' + b"[" * 400_000
    turns = ",".join('{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}' for _ in range(600))
    line = f'{{"messages": [{turns}]}}\n'.encode()
    for data, why in ((long, "too_large"), (many, "too_nested"), (deep, "not_json"), (line * 2, "too_many_messages")):
        with pytest.raises(BadImport) as refused:
            from_jsonl(data)
        assert refused.value.details["why"] == why
    assert len(from_jsonl(line)) == 1
    with pytest.raises(BadImport, match="2000 messages"):
        from_markdown(b"<!-- bluelm-chat: {} -->\n" + b"<!-- bluelm-chat: user -->\n" * 2_000)
    with pytest.raises(BadImport):
        from_markdown(b'<!-- bluelm-chat: {"created": 1' + b"0" * 400 + b"} -->\n<!-- bluelm-chat: user -->\nhi\n")
