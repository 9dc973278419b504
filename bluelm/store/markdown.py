"""Conversations as Markdown, for people, and back: what is shown, without other versions and facts.

Comments that no Markdown shows tell where a conversation and each of its messages begin. A line of a text that looks
like one gets a backslash in front.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

from bluelm.errors import BadImport, BlueLMError
from bluelm.store.exchange import FILE_BYTES, check_messages_of_file, check_size, from_messages, shown_messages
from bluelm.store.table import Portable
from bluelm.types import Message, Role

MARK = "<!-- bluelm-chat: "
_LINE = re.compile(re.escape(MARK) + r"(system|user|assistant|\{.*\}) -->$")
_LOOKS_LIKE = re.compile(r"^(\\*)(?=" + re.escape(MARK) + ")", re.MULTILINE)
_ESCAPED = re.compile(r"^\\(\\*)(?=" + re.escape(MARK) + ")", re.MULTILINE)
_NAME = re.compile(r"\n\*\*(System|User|Assistant)\*\*\n\n")
_ABOUT = {"title": str, "pinned": bool, "plain": bool, "created": float, "updated": float}
_NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}


def to_markdown(conversations: Iterable[Portable]) -> Iterator[str]:
    """One text after the other; joined they are the file."""
    for one in conversations:
        about = {
            "title": one.title,
            "pinned": one.pinned,
            "plain": one.plain,
            "created": one.created,
            "updated": one.updated,
        }
        text = json.dumps(about, ensure_ascii=False).replace(">", "\\u003e")
        yield f"{MARK}{text} -->\n\n# {one.title}\n\n"
        for message in shown_messages(one):
            content = _LOOKS_LIKE.sub(r"\1\\", message["content"])
            yield f"{MARK}{message['role']} -->\n\n**{_NAMES[message['role']]}**\n\n{content}\n\n"


def is_ours(data: bytes) -> bool:
    """Whether a file is Markdown that was written here."""
    return data.removeprefix(b"\xef\xbb\xbf").startswith(MARK.encode())


def from_markdown(data: bytes) -> list[Portable]:
    """Raises BadImport, which names the line."""
    check_size(0, len(data), FILE_BYTES)
    try:
        lines = data.decode("utf-8-sig").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise BadImport(0, "not_text", "is not UTF-8: save it as UTF-8.") from error
    found: list[tuple[int, dict, list[Message]]] = []
    marks = [(number, mark[1]) for number, line in enumerate(lines) if (mark := _LINE.match(line))]
    check_messages_of_file(0, len(marks))
    for (number, what), (end, _) in zip(marks, [*marks, (len(lines), "")][1:], strict=True):
        if what.startswith("{"):
            found.append((number + 1, _about(number + 1, what), []))
        elif not found:
            raise BadImport(number + 1, "no_messages", "comes before the first conversation: correct the file.")
        else:
            found[-1][2].append(Message(Role(what), _content(lines[number + 1 : end])))
    if not found:
        raise BadImport(0, "empty", "holds no conversation that was exported here.")
    return [_portable(*one) for one in found]


def _about(number: int, text: str) -> dict:
    try:
        about = json.loads(text)
        return {name: kind(about.get(name, kind())) for name, kind in _ABOUT.items()}
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise BadImport(
            number, "not_json", f"is not what was exported ({error}): correct it.", detail=str(error)
        ) from None


def _content(lines: list[str]) -> str:
    """Without the empty lines around it and the name of who said it."""
    body = "\n".join(lines).removesuffix("\n")
    named = _NAME.match(body)
    return _ESCAPED.sub(r"\1", body[named.end() :] if named else body.lstrip("\n"))


def _portable(number: int, about: dict, messages: list[Message]) -> Portable:
    try:
        return from_messages(messages, **about)
    except (BlueLMError, ValueError) as error:
        raise BadImport(number, "bad_conversation", f"cannot be used: {error}", detail=str(error)) from None
