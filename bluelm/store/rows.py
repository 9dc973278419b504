"""Questions and answers as rows of the table `messages`, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from bluelm.conversation import Answer, Node, Question, Status
from bluelm.errors import BlueLMError
from bluelm.types import FinishReason, Role, SamplingParams, Usage

COLUMNS = (
    "id", "parent", "role", "content", "state", "settings", "usage", "facts", "finish_reason", "model", "created",
    "tokens",
)  # fmt: skip
FACTS = ("prompt_tokens", "window", "dropped", "continues")


class Settings(msgspec.Struct, frozen=True):
    """What an answer is made with, as JSON keeps it."""

    params: SamplingParams = SamplingParams()
    system: str = ""

    def to_json(self) -> str:
        return json(self)

    @classmethod
    def from_json(cls, text: str | None) -> Settings:
        return msgspec.json.decode(text, type=cls) if text else cls()


def json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def row(node: Node) -> dict[str, Any]:
    """A row, by column; a conversation's id is its keeper's to add."""
    if isinstance(node, Question):
        return dict.fromkeys(COLUMNS) | {
            "id": node.id, "parent": node.parent, "role": Role.USER.value, "content": node.text,
            "state": Status.DONE.value, "model": "", "created": node.created,
        }  # fmt: skip
    facts: dict[str, Any] = {name: value for name in FACTS if (value := getattr(node, name))}
    if node.error is not None:
        facts["error"] = node.error.to_wire()
    return {
        "id": node.id, "parent": node.parent, "role": Role.ASSISTANT.value, "content": node.text,
        "state": node.status.value, "settings": Settings(node.params, node.system).to_json(),
        "usage": json(node.usage) if node.usage else None, "facts": json(facts),
        "finish_reason": node.finish_reason and node.finish_reason.value, "model": node.model, "created": node.created,
        "tokens": node.tokens or None,
    }  # fmt: skip


def node(row: Mapping[str, Any]) -> Node:
    """The node of a row. Raises ValueError, InvalidParameter or msgspec.ValidationError for one that makes none."""
    if row["role"] == Role.USER:
        return Question(row["id"], row["parent"], row["content"], row["created"])
    facts = msgspec.json.decode(row["facts"] or "{}", type=dict[str, Any])
    error = facts.pop("error", None)
    settings = Settings.from_json(row["settings"])
    return Answer(
        row["id"], row["parent"], row["content"], Status(row["state"]), settings.params, settings.system,
        FinishReason(row["finish_reason"]) if row["finish_reason"] else None,
        msgspec.json.decode(row["usage"], type=Usage) if row["usage"] else None,
        BlueLMError.from_wire(error) if error else None, row["model"], created=row["created"],
        tokens=row["tokens"] or "", **{name: facts[name] for name in FACTS if name in facts},
    )  # fmt: skip
