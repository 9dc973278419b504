"""A conversation that goes on: at most one of its answers is being made.

A plain one is a text that a base model continues: a turn is what a person wrote and what the model wrote behind it.

A reload, a moved slider or a dropped websocket ends a page's look, never the answer: the next look attaches to the same
Generation. What ends while nobody looks is in its turn all the same.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from bluelm import asking
from bluelm.conversation.title import automatic_title
from bluelm.conversation.told import joined, pack
from bluelm.conversation.tree import Answer, Node, Question, Status, Tree
from bluelm.conversation.turns import Turn, View, text_of, turn_of
from bluelm.engine import Engine, Generation
from bluelm.errors import BlueLMError, Conflict, EngineDown
from bluelm.types import Caller, FinishReason, Message, Role, SamplingParams, Written


@dataclass(frozen=True, slots=True)
class Changes:
    """What is new since it was last asked for: nodes to be kept, nodes taken out, and the conversation's own facts."""

    nodes: tuple[Node, ...]
    removed: tuple[int, ...]
    leaf: int | None
    title: str


class Conversation:
    """A tree of turns that grows. Safe to use from many threads; no method waits for an answer.

    owner: who may see it. plain: one text, continued as it is, in the place of messages. changed: is called, without
    the lock, after everything that a reader does.
    """

    def __init__(
        self,
        id: str,
        owner: str = "",
        *,
        plain: bool = False,
        tree: Tree | None = None,
        changed: Callable[[Conversation], None] = lambda _: None,
    ) -> None:
        self.id, self.owner, self.plain = id, owner, plain
        self._tree = tree or Tree()
        self._changed = changed
        self._generation: Generation | None = None
        self._begun = ""  # the text of the answer in the making that was there before
        self._end_as = Status.DONE  # how a cancelled answer is to be marked, once someone asked for that
        self._notice: tuple[int, BlueLMError] | None = None  # why a new try of this answer could not begin
        self._new: set[int] = set()
        self._removed: set[int] = set()
        self._moved = False  # another path is shown than the one that was kept
        self._kept_chars = 0  # of the answer in the making
        self._lock = threading.Lock()

    # --- what a reader does ---

    def ask(self, engine: Engine, text: str, params: SamplingParams, system: str = "") -> None:
        """Add a question and start its answer. What the engine refuses stays, marked, and never becomes context.

        A plain conversation goes on behind `text`, which may be empty.
        Raises Conflict while another answer is being made.
        """
        with self._lock:
            self._must_be_free()
            answer = self._add_question(self._tree.leaf, text, params, system)
        self._start(engine, answer, None)

    def edit(self, engine: Engine, question: int, text: str, params: SamplingParams, system: str = "") -> None:
        """Ask an earlier question in other words: a version of it, with the conversation before it and none behind it.

        Raises Conflict while an answer is being made, and KeyError where there is no such question.
        """
        with self._lock:
            self._must_be_free()
            answer = self._add_question(self._tree.question(question).parent, text, params, system)
        self._start(engine, answer, None)

    def regenerate(self, engine: Engine, params: SamplingParams, system: str = "", answer: int | None = None) -> None:
        """Answer a question anew, the last one or that of `answer`: a version beside the one that is there.

        Raises Conflict while an answer is being made or when there is no question, KeyError for an unknown answer.
        """
        with self._lock:
            before = self._old_answer(answer)
            new = Answer(self._tree.next_id, before.parent, "", Status.ASKING, params, system)
            leaf = self._add(new)
            if before.status is Status.REFUSED and self._tree.is_last(before.id):  # it never was an answer
                self._remove(before.id)
                leaf = None
        self._start(engine, new, leaf)

    def go_on(self, engine: Engine, params: SamplingParams, system: str = "", answer: int | None = None) -> None:
        """Have the model go on with an answer that was cut off, from its last letter. Raises as `regenerate` does."""
        with self._lock:
            before = self._old_answer(answer)
            if not before.text.strip():
                raise Conflict("This answer has no text to go on with: answer the question anew.")
            new = Answer(
                self._tree.next_id, before.parent, before.text, Status.ASKING, params, system, continues=before.id,
                tokens=before.tokens,
            )  # fmt: skip
            leaf = self._add(new)
        self._start(engine, new, leaf)

    def show(self, node: int) -> None:
        """Step to another version of a question or an answer. Raises Conflict as `ask` does, KeyError if unknown."""
        with self._lock:
            self._must_be_free()
            self._tree.show(node)
            self._moved, self._notice = True, None
        self._changed(self)

    def stop(self) -> None:
        """End the answer in the making, on the reader's wish; its text so far stays and counts as context."""
        self._cancel(Status.STOPPED)

    def take_back(self) -> str:
        """Remove the last question if it has no answer, and return it ("" if it has one), to be changed and resent."""
        with self._lock:
            self._settle()
            last = self._last()
            if last is None or last.status is not Status.REFUSED or not self._tree.is_last(last.id):
                return ""
            question = self._tree.question(last.parent)
            self._remove(last.id)
            if self._tree.leaf == question.parent:  # no other answer was left
                self._remove(question.id)
        self._changed(self)
        return question.text

    def undo(self) -> str:
        """Step back before the last turn, and return its question. Raises Conflict while an answer is being made."""
        with self._lock:
            self._must_be_free()
            last = self._last()
            if last is None:
                return ""
            question = self._tree.question(last.parent)
            self._tree.leaf, self._moved = question.parent, True
        self._changed(self)
        return question.text

    def view(self) -> View:
        """The conversation now."""
        with self._lock:
            self._settle()
            turns = tuple(self._turns())
        last = turns[-1] if turns else None
        return View(self.id, turns, last is not None and last.status.is_open, last.generation if last else None)

    def prompt(self, answer: int) -> Written:
        """What the engine was sent for an answer, before it left out what did not fit. Raises KeyError if unknown."""
        with self._lock:
            return self._prompt(self._tree.answer(answer))

    # --- what the store does ---

    def look_after(self, abandon_after_s: float) -> bool:
        """Take in an answer that has ended, end one that nobody watches; whether one is still being made."""
        with self._lock:
            self._settle()
            last = self._last()
            if last is None or not last.status.is_open:
                return False
            unwatched_s = self._generation.unwatched_s if self._generation else 0.0
        if unwatched_s > abandon_after_s:
            self._cancel(Status.ABANDONED)
        return True

    def take_changes(self) -> Changes | None:
        """What is to be kept now, once; an answer in the making comes with its text so far."""
        with self._lock:
            self._settle()
            last = self._last()
            grown: Answer | None = None
            if last is not None and self._generation is not None:
                text = self._begun + self._generation.so_far()
                grown = replace(last, text=text) if len(text) != self._kept_chars else None
                self._kept_chars = len(text)
            if not (self._new or self._removed or self._moved or grown):
                return None
            nodes = [grown if grown and id == grown.id else self._tree[id] for id in sorted(self._new)]
            if grown and grown.id not in self._new:
                nodes.append(grown)
            changes = Changes(
                tuple(nodes), tuple(self._removed), self._tree.leaf, automatic_title(self._tree.path(), self.plain)
            )
            self._new, self._removed, self._moved = set(), set(), False
            return changes

    def give_back(self, changes: Changes) -> None:
        """These could not be kept: they come again the next time."""
        with self._lock:
            there = {node.id for node in self._tree.nodes}
            self._new |= {node.id for node in changes.nodes} & there
            self._removed |= set(changes.removed) - there
            self._moved, self._kept_chars = True, 0

    @property
    def title(self) -> str:
        """Its first words."""
        with self._lock:
            return automatic_title(self._tree.path(), self.plain)

    @property
    def tree(self) -> Tree:
        """All versions, as they are now: a copy."""
        with self._lock:
            self._settle()
            return Tree(self._tree.nodes, self._tree.leaf)

    # --- inside; the lock is held ---

    def _must_be_free(self) -> None:
        self._settle()
        last = self._last()
        if last is not None and last.status.is_open:
            raise Conflict("An answer is still being made: wait for it or stop it first.")

    def _old_answer(self, id: int | None) -> Answer:
        self._must_be_free()
        last = self._last()
        if last is None:
            raise Conflict("There is no question to answer again: ask one first.")
        return last if id is None else self._tree.answer(id)

    def _last(self) -> Answer | None:
        return None if self._tree.leaf is None else self._tree.answer(self._tree.leaf)

    def _turns(self, leaf: int | None = None) -> list[Turn]:
        turns = [turn_of(self._tree, *pair, None) for pair in self._tree.path(leaf)]
        if turns and turns[-1].status.is_open:
            turns[-1] = replace(turns[-1], generation=self._generation)
        if turns and self._notice is not None and turns[-1].answer_id == self._notice[0]:
            turns[-1] = replace(turns[-1], error=self._notice[1])
        return turns

    def _add(self, node: Node) -> int | None:
        """Put it in; the leaf before."""
        leaf = self._tree.leaf
        self._tree.add(node)
        self._new.add(node.id)
        self._removed.discard(node.id)
        self._end_as, self._notice, self._kept_chars = Status.DONE, None, 0
        return leaf

    def _remove(self, id: int) -> None:
        self._tree.remove(id)
        self._new.discard(id)
        self._removed.add(id)

    def _add_question(self, parent: int | None, text: str, params: SamplingParams, system: str) -> Answer:
        question = Question(self._tree.next_id, parent, text)
        self._add(question)
        answer = Answer(self._tree.next_id, question.id, "", Status.ASKING, params, system)
        self._add(answer)
        return answer

    def _prompt(self, answer: Answer) -> Written:
        *turns, last = self._turns(answer.id)
        if self.plain:
            return text_of(turns) + last.question
        messages = [Message(Role.SYSTEM, answer.system)] if answer.system.strip() else []
        for turn in turns:
            if turn.is_context:
                messages += [Message(Role.USER, turn.question), Message(Role.ASSISTANT, turn.answer)]
        messages.append(Message(Role.USER, last.question))
        if answer.continues is not None:
            messages.append(Message(Role.ASSISTANT, answer.text, unfinished=True))
        return tuple(messages)

    def _settle(self) -> None:
        """Take the answer that has ended into the tree."""
        ended, last = self._generation, self._last()
        if ended is None or last is None or not ended.done:
            return
        status, error = Status.DONE, ended.error
        if isinstance(error, EngineDown):  # the app ends, or its engine was closed: not this answer's fault
            status, error = Status.INTERRUPTED, None
        elif error is not None:
            status = Status.FAILED
        elif ended.finish_reason is FinishReason.CANCELLED:
            status = Status.STOPPED if self._end_as is Status.DONE else self._end_as
        self._tree.replace(
            replace(last, status=status, text=self._begun + ended.so_far(), finish_reason=ended.finish_reason,
                    usage=ended.usage, error=error, tokens=joined(last.tokens, pack(ended.tokens)))
        )  # fmt: skip
        self._new.add(last.id)
        self._generation = None

    # --- without the lock ---

    def _start(self, engine: Engine, answer: Answer, leaf: int | None) -> None:
        """Ask the engine, which may take its time: the conversation can be viewed meanwhile.

        leaf: where to go back to if it refuses; None: what was refused stays, marked.
        """
        self._changed(self)
        with self._lock:
            prompt = self._prompt(answer)
        caller = Caller("page", secrets.token_hex(8), f"browser {self.owner}")
        try:
            generation = asking.submit(engine, prompt, answer.params, caller, drop_oldest=True)
        except BaseException as error:
            self._refused(
                answer, leaf, error if isinstance(error, BlueLMError) else BlueLMError(f"{error}: try again.")
            )
            if not isinstance(error, BlueLMError):
                raise
            return
        running = replace(
            answer, status=Status.RUNNING, model=generation.model, prompt_tokens=generation.prompt_tokens,
            window=generation.window, dropped=generation.dropped,
        )  # fmt: skip
        with self._lock:
            self._tree.replace(running)
            self._new.add(answer.id)
            self._generation, self._begun = generation, answer.text
            stop_now = self._end_as is not Status.DONE
        if stop_now:
            generation.cancel()
        self._changed(self)

    def _refused(self, answer: Answer, leaf: int | None, error: BlueLMError) -> None:
        with self._lock:
            if leaf is None:
                self._tree.replace(replace(answer, status=Status.REFUSED, error=error))
                self._new.add(answer.id)
            else:
                self._remove(answer.id)
                self._tree.leaf, self._moved = leaf, True
                self._notice = (leaf, error)
        self._changed(self)

    def _cancel(self, end_as: Status) -> None:
        with self._lock:
            self._settle()
            last = self._last()
            if last is None or not last.status.is_open:
                return
            self._end_as = end_as
            generation = self._generation
        if generation is not None:
            generation.cancel()
