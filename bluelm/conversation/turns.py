"""What a reader sees of a conversation at one moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bluelm.conversation.tree import Answer, Question, Status, Tree
from bluelm.engine import Generation
from bluelm.errors import BlueLMError
from bluelm.types import FinishReason, SamplingParams, Usage

_KEPT = frozenset({Status.DONE, Status.STOPPED, Status.ABANDONED, Status.INTERRUPTED})
_CUT = _KEPT - {Status.DONE} | {Status.FAILED}


@dataclass(frozen=True, slots=True)
class Versions:
    """Which of several versions this is: ids of all, oldest first, and the place of the one that is shown."""

    ids: tuple[int, ...]
    shown: int

    @property
    def first(self) -> int:
        """The id that names all of them together."""
        return self.ids[0]

    @property
    def before(self) -> int | None:
        return self.ids[self.shown - 1] if self.shown else None

    @property
    def after(self) -> int | None:
        return self.ids[self.shown + 1] if self.shown + 1 < len(self.ids) else None


ONE = Versions((0,), 0)


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its answer, at one moment.

    generation: the answer in the making, to be followed; None once it has ended. answer: its text without what is
    being made. error: why it failed or was refused, or why a new try of a good answer could not begin.
    earlier_tokens: made by the answers that this one continues. The rest is as in tree.Answer.
    """

    question: str
    status: Status
    params: SamplingParams
    answer: str = ""
    generation: Generation | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    error: BlueLMError | None = None
    model: str = ""
    prompt_tokens: int = 0
    window: int = 0
    dropped: int = 0
    system: str = ""
    created: float = 0.0
    earlier_tokens: int = 0
    tokens: str = ""
    question_id: int = 0
    answer_id: int = 0
    question_versions: Versions = ONE
    answer_versions: Versions = ONE

    @property
    def is_context(self) -> bool:
        """Whether later questions are asked with this turn before them: whole ones and those stopped early are."""
        return self.status in _KEPT and bool(self.answer.strip())

    @property
    def can_go_on(self) -> bool:
        """Whether the answer was cut off and has a beginning that the model can go on with."""
        cut = self.status in _CUT or self.finish_reason is FinishReason.LENGTH
        return cut and bool(self.answer.strip())

    @property
    def context_tokens(self) -> int:
        """Tokens of the window that were in use when the answer ended; 0 if unknown."""
        return self.prompt_tokens + (self.usage.completion_tokens if self.usage else 0)


@dataclass(frozen=True, slots=True)
class View:
    """A conversation at one moment. running: the answer that is being made, or None."""

    id: str
    turns: tuple[Turn, ...]
    busy: bool
    running: Generation | None

    @property
    def last(self) -> Turn | None:
        return self.turns[-1] if self.turns else None

    @property
    def text(self) -> str:
        """All that both sides wrote, without the answer in the making: a plain conversation's text."""
        return text_of(self.turns[:-1]) + self.last.question if self.last and self.busy else text_of(self.turns)

    @property
    def first_in_context(self) -> int:
        """The number of the oldest turn that the last answer was made with; those before it fell out of the window."""
        left_out = self.last.dropped if self.last else 0
        for i, turn in enumerate(self.turns):
            if left_out <= 0:
                return i
            left_out -= 2 if turn.is_context else 0
        return max(0, len(self.turns) - 1)


def turn_of(tree: Tree, question: Question, answer: Answer, generation: Generation | None) -> Turn:
    """One turn of a tree's path."""
    return Turn(
        question.text, answer.status, answer.params, answer.text, generation, answer.finish_reason, answer.usage,
        answer.error, answer.model, answer.prompt_tokens, answer.window, answer.dropped, answer.system, answer.created,
        _earlier_tokens(tree, answer), answer.tokens, question.id, answer.id, _versions(tree, question.id),
        _versions(tree, answer.id),
    )  # fmt: skip


def text_of(turns: Sequence[Turn]) -> str:
    return "".join(turn.question + turn.answer for turn in turns)


def _versions(tree: Tree, id: int) -> Versions:
    ids = tuple(tree.versions(id))
    return Versions(ids, ids.index(id))


def _earlier_tokens(tree: Tree, answer: Answer) -> int:
    tokens = 0
    while answer.continues is not None:
        answer = tree.answer(answer.continues)
        tokens += answer.usage.completion_tokens if answer.usage else 0
    return tokens
