"""Several engine processes behind one handle: the least loaded answers, or the one that knows the conversation.

Each has a card, a model and a cache of its own. The first loads alone, so that kernels are compiled once and the files
are in the system's cache for the others, which start as soon as it answers; it serves from then on. Another model is
tried by one of them alone as well: the others take it then, or never learn of it.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Protocol, TypeVar

from bluelm.engine.generation import Generation
from bluelm.errors import BlueLMError, EngineDown, EngineUnavailable, QueueFull
from bluelm.types import NOBODY, Caller, EngineState, Phase, Prompt, SamplingParams, TokenIds, Tokenized, Totals

SLACK = 4  # open answers more than the least loaded has, up to which a conversation stays where it was
REMEMBERED = 10_000  # conversations
LOOK_S = 0.1
log = logging.getLogger("bluelm.engine")
HEAD = 512  # characters of a plain text (or tokens) that name it
ORDER = (Phase.READY, Phase.LOADING, Phase.RESTARTING, Phase.DOWN)  # what a fleet is, if one of it is

T = TypeVar("T")


class Member(Protocol):
    """An Engine that counts its open answers."""

    @property
    def open(self) -> int: ...

    def submit(
        self, prompt: Prompt, params: SamplingParams, *, drop_oldest: bool = False, caller: Caller = NOBODY
    ) -> Generation: ...

    def tokenize(self, prompt: Prompt, *, bos: bool = True) -> Tokenized: ...

    def detokenize(self, ids: Sequence[int]) -> str: ...

    def state(self) -> EngineState: ...

    def restart(self) -> None: ...

    def switch(self, model: str, *, may_go_back: bool = True) -> None: ...

    def close(self) -> None: ...


class Fleet:
    """An Engine made of others. starts: what starts each; wanted: whether the rest is to be started, given the first's
    state once it has loaded (or failed to)."""

    def __init__(
        self, starts: Sequence[Callable[[], Member]], wanted: Callable[[EngineState], bool] = lambda _: True
    ) -> None:
        self._starts = list(starts)
        self._wanted = wanted
        self._members = [self._starts.pop(0)()]
        self._lock = threading.Lock()
        self._pilot: Member | None = None  # who tries another model: nobody else is asked until it has loaded
        self._switches = 0
        self._model: str | None = None  # what was switched to
        self._places: OrderedDict[bytes, Member] = OrderedDict()  # where a conversation was last, oldest first
        self._closed = threading.Event()
        threading.Thread(target=self._start_others, name="fleet", daemon=True).start()

    # --- Engine ---

    def submit(
        self, prompt: Prompt, params: SamplingParams, *, drop_oldest: bool = False, caller: Caller = NOBODY
    ) -> Generation:
        names = names_of(prompt)
        member, generation = self._first(
            self._in_order(names),
            lambda member: member.submit(prompt, params, drop_oldest=drop_oldest, caller=caller),
        )
        self._remember(names[0], member)
        return generation

    def tokenize(self, prompt: Prompt, *, bos: bool = True) -> Tokenized:
        return self._first(self._in_order(()), lambda member: member.tokenize(prompt, bos=bos))[1]

    def detokenize(self, ids: Sequence[int]) -> str:
        return self._first(self._in_order(()), lambda member: member.detokenize(ids))[1]

    def state(self) -> EngineState:
        with self._lock:
            members, pilot = list(self._members), self._pilot
        states = [member.state() for member in members]
        best = pilot.state() if pilot else min(states, key=lambda state: ORDER.index(state.phase))
        serving = [best] if pilot else [state for state in states if state.phase is best.phase]
        windows = [state.model for state in serving if state.model]
        return EngineState(
            phase=best.phase,
            progress=best.progress,
            detail=best.detail or self._troubles(states),
            model=min(windows, key=lambda model: model.context) if windows else None,
            running=sum(state.running for state in states),
            waiting=sum(state.waiting for state in states),
            cache_used=sum(state.cache_used for state in states),
            cache_total=sum(state.cache_total for state in states),
            restarts=sum(state.restarts for state in states),
            pid=best.pid,
            gpu_memory_used=sum(state.gpu_memory_used for state in states),
            gpu_memory_total=sum(state.gpu_memory_total for state in states),
            engines=len(states) + len(self._starts),
            engines_ready=len(serving) if best.phase is Phase.READY else 0,
            totals=sum((state.totals for state in states), Totals()),
            checkpoint=best.checkpoint,
            failed=next((state.failed for state in states if state.failed), ""),
            trouble=next((state.trouble for state in states if state.failed), ""),
        )

    def restart(self) -> None:
        for member in self._all():
            member.restart()

    def switch(self, model: str) -> None:
        with self._lock:
            ready = (member for member in self._members if member.state().phase is Phase.READY)
            pilot = self._pilot or next(ready, self._members[0])
            pilot.switch(model)
            self._pilot, self._switches = pilot, self._switches + 1
            number = self._switches
        threading.Thread(target=self._follow, args=(pilot, model, number), name="fleet-switch", daemon=True).start()

    def close(self) -> None:
        with self._lock:
            self._closed.set()
            members = list(self._members)
        closing = [threading.Thread(target=member.close) for member in members]
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join()

    # --- inside ---

    def _first(self, members: Sequence[Member], ask: Callable[[Member], T]) -> tuple[Member, T]:
        """Whoever says yes first, and what it says. Raises the first no."""
        refusal: BlueLMError | None = None
        for member in members:
            try:
                return member, ask(member)
            except (EngineUnavailable, QueueFull) as error:  # another one may do
                refusal = refusal or error
        raise refusal or EngineDown("The engine was closed: start the app again.")

    def _follow(self, pilot: Member, model: str, number: int) -> None:
        """Once the pilot has loaded the model, have the others load it too."""
        while (state := pilot.state()).phase in (Phase.LOADING, Phase.RESTARTING):
            if self._closed.wait(LOOK_S) or self._switches != number:
                return
        with self._lock:
            if self._switches != number:
                return
            if state.phase is Phase.READY and not state.failed:
                self._model = model
                for member in self._members:
                    if member is not pilot:
                        self._take_over(member)
            self._pilot = None

    def _take_over(self, member: Member) -> None:
        """Have a member load what was switched to. It never goes back: no two models are served at once."""
        try:
            if self._model is not None:
                member.switch(self._model, may_go_back=False)
        except BlueLMError as error:  # the files are gone, or the app is ending
            log.error("an engine could not take over the model: %s", error.message)
            member.close()

    def _all(self) -> list[Member]:
        with self._lock:
            return list(self._members)

    def _troubles(self, states: Sequence[EngineState]) -> str:
        """Of those that cannot answer while others can."""
        others = [(i, state) for i, state in enumerate(states, 1) if state.phase is not Phase.READY]
        return "; ".join(f"engine {i} of {len(states)}: {state.detail or state.phase}" for i, state in others)

    def _start_others(self) -> None:
        """Once the first has loaded, or has failed to: that may be its card's fault alone."""
        first = self._members[0]
        while (state := first.state()).phase is Phase.LOADING:
            if self._closed.wait(LOOK_S):
                return
        while True:
            with self._lock:
                if self._closed.is_set() or not self._starts:
                    return
                if not self._wanted(state):
                    self._starts.clear()
                    return
                self._members.append(self._starts.pop(0)())
                self._take_over(self._members[-1])

    def _in_order(self, names: Sequence[bytes]) -> list[Member]:
        """Whom to ask, one after the other: who can answer first, and of these whoever has least to do."""
        with self._lock:
            members = [self._pilot] if self._pilot else list(self._members)
            known = next((self._places[name] for name in names if self._places.get(name) in members), None)
        order = {id(member): (ORDER.index(member.state().phase), member.open) for member in members}
        members.sort(key=lambda member: order[id(member)])
        phase, least = order[id(members[0])]
        if known is not None and order[id(known)][0] == phase and order[id(known)][1] <= least + SLACK:
            members.sort(key=lambda member: member is not known)
        return members

    def _remember(self, name: bytes, member: Member) -> None:
        with self._lock:
            self._places[name] = member
            self._places.move_to_end(name)
            while len(self._places) > REMEMBERED:
                self._places.popitem(last=False)


def names_of(prompt: Prompt) -> list[bytes]:
    """Digests of what a prompt begins with, the longest first: all its messages, all but the last, and so on.

    A conversation's next turn begins with all messages of the one before. A plain text is named by its first letters,
    and tokens by the first of them.
    """
    if isinstance(prompt, str | TokenIds):
        head = prompt[:HEAD] if isinstance(prompt, str) else repr(prompt.ids[:HEAD])
        return [blake2b(head.encode("utf-8", "replace"), digest_size=16).digest()]
    names, name = [], b""
    for message in prompt:
        name = blake2b(name + repr(message).encode("utf-8", "replace"), digest_size=16).digest()
        names.append(name)
    return names[::-1] or [b""]
