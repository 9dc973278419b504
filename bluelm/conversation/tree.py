"""Everything that was said in a conversation, as a tree: a new try of an answer, or another wording of a question, is a
sibling of the first. One path through it is shown; nothing is overwritten."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from types import EllipsisType

from bluelm.errors import BlueLMError
from bluelm.types import FinishReason, SamplingParams, Usage


class Status(StrEnum):
    """How far an answer is."""

    ASKING = "asking"  # the engine has not said yes or no
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"  # by the reader
    ABANDONED = "abandoned"  # nobody looked on
    INTERRUPTED = "interrupted"  # the app ended while it was being made
    FAILED = "failed"  # begun and broken off by an error
    REFUSED = "refused"  # never begun

    @property
    def is_open(self) -> bool:
        return self in (Status.ASKING, Status.RUNNING)


@dataclass(frozen=True, slots=True)
class Question:
    """What a person said. parent: the answer before it, None at the beginning. created: seconds since 1970."""

    id: int
    parent: int | None
    text: str
    created: float = field(default_factory=time.time)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said to the question `parent`, and how.

    text: as far as it is kept; an answer in the making is longer. error: why it failed or was refused.
    dropped: oldest messages that no longer fitted in the window. prompt_tokens, window: tokens.
    continues: the answer whose text this one begins with, and which it stands for from now on.
    tokens: how likely its tokens were, packed (see told.py); "" unless that was asked for, and until the answer ends.
    """

    id: int
    parent: int
    text: str = ""
    status: Status = Status.DONE
    params: SamplingParams = field(default_factory=SamplingParams)
    system: str = ""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    error: BlueLMError | None = None
    model: str = ""
    prompt_tokens: int = 0
    window: int = 0
    dropped: int = 0
    continues: int | None = None
    tokens: str = ""
    created: float = field(default_factory=time.time)


Node = Question | Answer


class Tree:
    """Questions and answers by turns. `leaf` is the last answer of the path that is shown, None if there is none."""

    def __init__(self, nodes: Iterable[Node] = (), leaf: int | EllipsisType | None = ...) -> None:
        """nodes: parents before their children. leaf: the last answer of all, if it is left out.

        Raises ValueError where they make no such tree.
        """
        self._nodes: dict[int, Node] = {}
        self._children: dict[int | None, list[int]] = {None: []}
        self.leaf: int | None = None
        for node in nodes:
            self.add(node)
        if not isinstance(leaf, EllipsisType):
            self._must_be(leaf is None or isinstance(self._nodes.get(leaf), Answer), f"{leaf} is not an answer")
            self.leaf = leaf

    @property
    def next_id(self) -> int:
        return max(self._nodes, default=0) + 1

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All of them, parents before their children."""
        return tuple(self._nodes[id] for id in sorted(self._nodes))

    def __getitem__(self, id: int) -> Node:
        return self._nodes[id]

    def answer(self, id: int) -> Answer:
        """Raises KeyError where there is no such answer."""
        node = self._nodes[id]
        if not isinstance(node, Answer):
            raise KeyError(id)
        return node

    def question(self, id: int) -> Question:
        """Raises KeyError where there is no such question."""
        node = self._nodes[id]
        if not isinstance(node, Question):
            raise KeyError(id)
        return node

    def add(self, node: Node) -> None:
        """Put in a new node below its parent; an answer becomes the leaf. Raises ValueError where it has no place."""
        parent = None if node.parent is None else self._nodes.get(node.parent)
        fits = isinstance(parent, Question) if isinstance(node, Answer) else not isinstance(parent, Question)
        self._must_be(fits and (node.parent is None or parent is not None), f"{node.id} does not fit below its parent")
        self._must_be(node.id > (node.parent or 0) and node.id not in self._nodes, f"{node.id} is no new number")
        if isinstance(node, Answer) and node.continues is not None:
            self._must_be(node.continues in self._children[node.parent], f"{node.id} continues no sibling")
        self._nodes[node.id] = node
        self._children[node.id] = []
        self._children[node.parent].append(node.id)
        if isinstance(node, Answer):
            self.leaf = node.id

    def replace(self, node: Node) -> None:
        """Say more of a node that is there."""
        self._nodes[node.id] = node

    def remove(self, id: int) -> None:
        """Take out a node without children; the path goes on with a sibling, if there is one, or ends before it."""
        node = self._nodes[id]
        self._must_be(not self._children[id], f"{id} has children")
        self._children[node.parent].remove(id)
        del self._children[id], self._nodes[id]
        if isinstance(node, Question) or self._children[node.parent]:
            self.leaf = self._newest_answer_below(node.parent)
        else:
            self.leaf = self.question(node.parent).parent

    def is_last(self, id: int) -> bool:
        """Whether nothing was said behind it."""
        return not self._children[id]

    def path(self, leaf: int | None = None) -> list[tuple[Question, Answer]]:
        """The turns from the first one to `leaf`, or to the tree's own."""
        turns = []
        at = self.leaf if leaf is None else leaf
        while at is not None:
            answer = self.answer(at)
            question = self.question(answer.parent)
            turns.append((question, answer))
            at = question.parent
        return turns[::-1]

    def versions(self, id: int) -> list[int]:
        """A node and its siblings, oldest first. An answer that another one continues is left out: it goes on there."""
        siblings = self._children[self._nodes[id].parent]
        continued = {node.continues for s in siblings if isinstance(node := self._nodes[s], Answer)}
        return [s for s in siblings if s == id or s not in continued]

    def show(self, id: int) -> None:
        """Have the path go through this node, and from there on to what was said last."""
        self._nodes[id]
        self.leaf = self._newest_answer_below(id)

    def _newest_answer_below(self, id: int | None) -> int | None:
        while children := self._children[id]:
            id = children[-1]
        return id

    @staticmethod
    def _must_be(held: bool, otherwise: str) -> None:
        if not held:
            raise ValueError(otherwise)
