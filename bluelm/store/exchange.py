"""Conversations as files, and back: JSON Lines with everything, and the plain `messages` of OpenAI's format.

One conversation a line: `messages` holds what is shown, so that other programs can read it; beside it, under
`bluelm_chat`, stand all versions with their facts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Annotated, Any

import msgspec

from bluelm.conversation import Answer, Node, Question, Status, Tree, told
from bluelm.errors import BadImport, BlueLMError, InvalidParameter
from bluelm.prompt import check_messages
from bluelm.store import rows
from bluelm.store.table import Portable
from bluelm.types import Message, Role

FILE_BYTES = 64 * 2**20
CONVERSATIONS = 10_000  # in one file
MESSAGES = 200_000  # the same
LINE_BYTES = 16 * 2**20  # one conversation; its objects in memory take up to thirty times as much
CONTAINERS = 500_000  # brackets in such a line: a file of nothing but `{},{},...` would take gigabytes
FORMAT = 1
_PARTS = ("settings", "usage", "facts", "tokens")  # columns that hold JSON


def to_jsonl(conversations: Iterable[Portable]) -> Iterator[str]:
    """Lines, each with its end."""
    for one in conversations:
        yield json.dumps(_object(one), ensure_ascii=False) + "\n"


def from_jsonl(data: bytes) -> list[Portable]:
    """Raises BadImport, which names the line."""
    check_size(0, len(data), FILE_BYTES)
    found: list[Portable] = []
    messages = 0
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        if len(found) == CONVERSATIONS:
            raise BadImport(number, "too_many", f"is one conversation more than {CONVERSATIONS}: split the file.",
                            limit=CONVERSATIONS)  # fmt: skip
        found.append(_conversation(number, line))
        messages += len(found[-1].tree.nodes)
        check_messages_of_file(number, messages)
    if not found:
        raise BadImport(0, "empty", "holds no conversation: choose one with a conversation in each line.")
    return found


def check_size(line: int, size: int, limit: int) -> None:
    """Raises BadImport for a file (line 0), or one line of it, of more bytes than the limit."""
    if size > limit:
        raise BadImport(
            line, "too_large", f"has more than {limit >> 20} MB: split or shorten it.", megabytes=limit >> 20
        )


def check_messages_of_file(line: int, messages: int) -> None:
    """Raises BadImport where the conversations up to this line hold too many messages."""
    if messages > MESSAGES:
        raise BadImport(
            line, "too_many_messages", f"is beyond {MESSAGES} messages in one file: split it.", limit=MESSAGES
        )


def shown_messages(one: Portable) -> list[dict[str, str]]:
    """The path that is shown, as OpenAI's messages; an answer without a text is left out with its question."""
    path = one.tree.path()
    system = path[-1][1].system if path else ""
    messages = [{"role": "system", "content": system}] if system.strip() else []
    for question, answer in path:
        messages.append({"role": "user", "content": question.text})
        if answer.text or one.plain:
            messages.append({"role": "assistant", "content": answer.text})
    return messages


def from_messages(messages: list[Message], *, plain: bool = False, **facts: Any) -> Portable:
    """A conversation from [system], user, assistant, ... Raises InvalidParameter, which names the message.

    plain: of a text for a base model, where a person may have said nothing in between.
    """
    if not plain:
        tail = [Message(Role.USER, "?")] if messages and messages[-1].role is Role.ASSISTANT else []
        check_messages([*messages, *tail])
    system = messages[0].content if messages and messages[0].role is Role.SYSTEM else ""
    nodes: list[Node] = []
    for message in messages[1 if system else 0 :]:
        id = len(nodes) + 1
        if message.role is Role.USER:
            nodes.append(Question(id, id - 1 or None, message.content))
        else:
            nodes.append(Answer(id, id - 1, message.content, system=system))
    return Portable(_tree(nodes, None), plain=plain, **{"title": ""} | facts)


# --- inside ---


def _object(one: Portable) -> dict[str, Any]:
    nodes = []
    for node in one.tree.nodes:
        row = {name: value for name, value in rows.row(node).items() if value is not None}
        nodes.append(row | {name: json.loads(row[name]) for name in _PARTS if name in row})
    return {
        "title": one.title, "messages": shown_messages(one),
        "bluelm_chat": {
            "format": FORMAT, "pinned": one.pinned, "plain": one.plain, "created": one.created, "updated": one.updated,
            "leaf": one.tree.leaf, "nodes": nodes,
        },
    }  # fmt: skip


_Number = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e11)]


class _Node(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: _Number
    role: str
    content: str
    created: _Seconds
    parent: _Number | None = None
    state: Status = Status.DONE
    settings: dict[str, Any] = {}
    usage: dict[str, Any] | None = None
    facts: dict[str, Any] = {}
    finish_reason: str | None = None
    model: str = ""
    tokens: list[Any] | None = None


class _Whole(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    nodes: list[_Node]
    leaf: _Number | None = None
    pinned: bool = False
    plain: bool = False
    created: _Seconds = 0.0
    updated: _Seconds = 0.0


def _conversation(number: int, line: bytes) -> Portable:
    check_size(number, len(line), LINE_BYTES)
    if line.count(b"{") + line.count(b"[") > CONTAINERS:
        raise BadImport(
            number, "too_nested", f"has more than {CONTAINERS} brackets: it is no conversation.", limit=CONTAINERS
        )
    try:
        value = msgspec.json.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadImport(number, "not_json", f"is not JSON ({error}): correct it.", detail=str(error)) from None
    if not isinstance(value, dict) or not ("messages" in value or "bluelm_chat" in value):
        raise BadImport(number, "no_messages", "is not a JSON object with `messages`: correct it.")
    title = value.get("title", "")
    try:
        if not isinstance(title, str):
            raise InvalidParameter("title", title, "a string")
        if "bluelm_chat" in value:
            return _whole(msgspec.convert(value["bluelm_chat"], _Whole), title)
        for name in ("tools", "functions"):
            if value.get(name):
                raise InvalidParameter(name, value[name], "left out: calls of tools are not kept")
        return from_messages(_messages(value["messages"]), title=title)
    except (BlueLMError, ValueError, KeyError, TypeError) as error:  # msgspec's are ValueErrors
        detail = error.message if isinstance(error, BlueLMError) else str(error)
        raise BadImport(number, "bad_conversation", f"cannot be used: {detail}", detail=detail) from None


def _messages(value: Any) -> list[Message]:
    if not isinstance(value, list):
        raise InvalidParameter("messages", value, "a list")
    messages = []
    for i, one in enumerate(value):
        if not isinstance(one, dict):
            raise InvalidParameter(f"messages[{i}]", one, "an object with role and content")
        for name, more in one.items():
            if name not in ("role", "content") and more is not None:
                raise InvalidParameter(f"messages[{i}].{name}", more, "left out: it is not kept here")
        if one.get("role") == "tool":
            raise InvalidParameter(f"messages[{i}].role", "tool", "system, user or assistant: tools are not kept")
        try:
            messages.append(Message(one.get("role"), _text(one.get("content"))))  # type: ignore[arg-type]
        except InvalidParameter as error:
            raise InvalidParameter(
                f"messages[{i}].{error.param}", one.get(error.param or ""), error.details["must"]
            ) from None
    return messages


def _text(content: Any) -> Any:
    """OpenAI's list of text parts as one text; anything else as it is."""
    if isinstance(content, list) and all(isinstance(p, dict) and set(p) == {"type", "text"} for p in content):
        return "".join(part["text"] for part in content if isinstance(part["text"], str))
    return content


def _whole(given: _Whole, title: str) -> Portable:
    if given.format != FORMAT:
        raise ValueError(f"it has format {given.format}, and this version of the app reads {FORMAT}")
    nodes = []
    for one in sorted(given.nodes, key=lambda node: node.id):
        row = {name: getattr(one, name) for name in rows.COLUMNS}
        row |= {name: json.dumps(row[name]) if row[name] else None for name in _PARTS}
        node = rows.node(row)
        if isinstance(node, Answer):
            node = replace(node, tokens=told.pack(told.unpack(node.tokens)))  # or raises ValueError
        if isinstance(node, Answer) and node.status.is_open:
            node = replace(node, status=Status.INTERRUPTED)
        nodes.append(node)
    tree = _tree(nodes, given.leaf)
    return Portable(tree, title, given.pinned, given.plain, given.created, given.updated)


def _tree(nodes: list[Node], leaf: int | None) -> Tree:
    """Every question needs an answer: one that has none gets an empty one, to be tried again."""
    answered = {node.parent for node in nodes if isinstance(node, Answer)}
    last = max((node.id for node in nodes), default=0)
    for node in [n for n in nodes if isinstance(n, Question) and n.id not in answered]:
        last += 1
        nodes = [*nodes, Answer(last, node.id, status=Status.INTERRUPTED, created=node.created)]
    if not nodes:
        raise ValueError("it has no messages")
    return Tree(nodes) if leaf is None else Tree(nodes, leaf)
