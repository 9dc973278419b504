"""Who computes what in the next step: continuous batching over a paged cache. Plain data, no torch.

Every step serves all answers that are being made (one token each) and fills what is left of its token budget with
pieces of waiting prompts, oldest first; the budget is larger where nobody waits for a next token. When the cache is
full the youngest gives its blocks back and is computed anew later; nobody fails. Clients are served in turn
(waiting.py): one who has nothing running waits for no other's second answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from bluelm.engine.cache import BlockPool, digest
from bluelm.engine.waiting import Waiting, surplus
from bluelm.types import SamplingParams

if TYPE_CHECKING:
    from bluelm.engine.guide import Guide

FEWEST_TOKENS = 16  # of a step that is made smaller


@dataclass(eq=False, slots=True)
class Row:
    """One request in the engine.

    tokens: prompt and answer so far. computed: how many of them have keys and values in `blocks`.
    names: digests of the full blocks. cached: prompt tokens that were found in the cache at first admission.
    told: prompt tokens whose log-probabilities have been told, where that is asked (SamplingParams.prompt_logprobs).
    max_tokens: length at which the answer ends. share: whose it is. guide: says which tokens may come
    next, where not all may.
    """

    id: str
    tokens: list[int]
    params: SamplingParams
    seed: int
    max_tokens: int
    prompt_tokens: int = 0
    computed: int = 0
    cached: int = 0
    told: int = 0
    blocks: list[int] = field(default_factory=list)
    names: list[bytes] = field(default_factory=list)
    started: bool = False
    share: str = ""
    guide: Guide | None = None

    def __post_init__(self) -> None:
        self.prompt_tokens = self.prompt_tokens or len(self.tokens)


@dataclass(frozen=True, slots=True)
class Piece:
    """Compute tokens start .. start+count-1 of a row; `samples` when the last one's logits give the next token."""

    row: Row
    start: int
    count: int

    @property
    def samples(self) -> bool:
        return self.start + self.count == len(self.row.tokens)

    @property
    def scores(self) -> range:
        """Places of the prompt's tokens whose log-probabilities come of this piece, each from the token before it.

        Each is told once, also where a row is computed anew."""
        row = self.row
        end = min(self.start + self.count + 1, row.prompt_tokens) if row.params.prompt_logprobs else 0
        return range(max(self.start + 1, row.told), end)


class Scheduler:
    """Rows wait, run and leave. `plan` a step, compute it, `commit` its tokens; `remove` at any time between steps.

    step_tokens: computed in a step that running answers wait for their next token from; alone_tokens: in any other (as
    many, if not given). retrace: what was computed as an answer's token is never taken for a prompt's, nor the
    reverse, since the runner's numbers for the two differ: a row that was put back computes its answer again as at
    first, a token a step, and no other row shares that.
    """

    def __init__(
        self, pool: BlockPool, *, max_running: int, step_tokens: int, alone_tokens: int = 0, retrace: bool = False
    ) -> None:
        self.pool = pool
        self.retrace = retrace
        self.max_running = max_running
        self.step_tokens = step_tokens
        self.alone_tokens = max(alone_tokens, step_tokens)
        self._at_most = (self.step_tokens, self.alone_tokens)
        self.running: list[Row] = []  # oldest first
        self.waiting: Waiting[Row] = Waiting()
        self.preemptions = 0

    @property
    def idle(self) -> bool:
        return not self.running and not self.waiting

    @property
    def used_tokens(self) -> int:
        """Tokens of cache in use (in whole blocks)."""
        return (self.pool.total - self.pool.free) * self.pool.block_size

    def add(self, row: Row) -> None:
        """Queue a request. Its prompt and answer must fit in the whole cache (checked by the caller)."""
        self.waiting.add(row)

    def remove(self, row: Row) -> None:
        """Forget a request, running or waiting: its row and blocks are free for the next step."""
        if row in self.running:
            self.running.remove(row)
            self._give_back(row)
        elif row in self.waiting:
            self.waiting.remove(row)

    def plan(self) -> list[Piece]:
        """The next step: pieces that make one token each first, then pieces of prompts. Empty only when idle."""
        pieces: list[Piece] = []
        self._make_way()
        preemptions = self.preemptions
        for row in list(self.running):
            if row in self.running and row.computed == len(row.tokens) - 1 and self._grow(row, len(row.tokens)):
                pieces.append(Piece(row, row.computed, 1))
        budget = max(self.step_tokens - len(pieces), 1) if pieces else self.alone_tokens
        for row in list(self.running):
            if budget and row in self.running and row.computed < len(row.tokens) - 1:
                budget -= self._prefill(row, budget, pieces)
        if self.preemptions > preemptions:  # the cache is full: let nobody in, and leave out those just put back
            return [piece for piece in pieces if piece.row in self.running]
        while budget and self.waiting and len(self.running) < self.max_running and self._admit():
            budget -= self._prefill(self.running[-1], budget, pieces)
        self._spare([piece.row for piece in pieces if piece.samples])
        return pieces

    def _make_way(self) -> None:
        """Where all rows are taken: a client with several gives one to a client with none, and goes on later."""
        if self.waiting and len(self.running) >= self.max_running:
            row = surplus(self.waiting.next(self.running), self.running)
            if row is not None:
                self._put_back(row)

    def _spare(self, rows: list[Row]) -> None:
        """Give rows the block that their next token may need, if one is free, so that a runner can be a step ahead."""
        for row in rows:
            more = len(row.tokens) + 1
            if more < row.max_tokens and len(row.blocks) < self.pool.blocks_for(more):
                block = self.pool.take()
                if block is None:
                    return
                row.blocks.append(block)

    def shrink(self) -> bool:
        """Plan smaller steps from now on, since the last one did not fit in memory; False if they cannot be smaller."""
        if self.alone_tokens <= FEWEST_TOKENS:
            return False
        self.alone_tokens = max(self.alone_tokens // 2, FEWEST_TOKENS)
        self.step_tokens = min(self.step_tokens, self.alone_tokens)
        return True

    def enlarge(self) -> bool:
        """Take one `shrink` back, to try whether there is memory again; False once steps are as large as at first."""
        step, alone = self._at_most
        self.alone_tokens = min(self.alone_tokens * 2, alone)
        self.step_tokens = min(step, self.alone_tokens)
        return self.alone_tokens < alone

    def commit(self, piece: Piece, token: int | None) -> None:
        """Note that a piece was computed, and the token it gave (None for a piece that does not sample)."""
        row = piece.row
        row.computed = piece.start + piece.count
        row.told = max(row.told, piece.scores.stop)
        if token is not None:
            row.tokens.append(token)
        size = self.pool.block_size
        for index in range(len(row.names), row.computed // size):
            parent, end = row.names[-1] if row.names else b"", (index + 1) * size
            row.names.append(digest(parent, row.tokens[index * size : end], self._whose(row, end)))
            self.pool.publish(row.blocks[index], row.names[index])

    def _whose(self, row: Row, end: int) -> bytes:
        """Who may share a block of this row that ends there: the row alone, or everybody (b"")."""
        return row.id.encode()[-64:] if self.retrace and end > row.prompt_tokens else b""

    def _prefill(self, row: Row, budget: int, pieces: list[Piece]) -> int:
        count = min(len(row.tokens) - row.computed, budget)
        if self.retrace:
            count = min(count, max(row.prompt_tokens - row.computed, 1))
        if not self._grow(row, row.computed + count):
            return 0
        pieces.append(Piece(row, row.computed, count))
        return count

    def _admit(self) -> bool:
        """Move the first waiting row to the running ones if the cache can hold all its tokens and the next one."""
        row = self.waiting.next(self.running)
        # What the cache has gives no log-probabilities.
        whose = partial(self._whose, row)
        blocks, names = ([], []) if row.params.prompt_logprobs else self.pool.match(row.tokens, whose)
        if not row.params.prompt_logprobs and self._is_coming(row, len(blocks)):
            return False
        needed = self.pool.blocks_for(len(row.tokens) + 1) - len(blocks)
        if needed + self.pool.unused(blocks) > self.pool.free:
            return False
        self.waiting.take(row)
        self.pool.share(blocks)
        row.blocks, row.names = blocks, names
        row.computed = len(blocks) * self.pool.block_size
        if not row.started:
            row.started, row.cached = True, row.computed
        self.running.append(row)
        return True

    def _is_coming(self, row: Row, known: int) -> bool:
        """Whether more than half of what it would have to compute is being computed by another row at the moment.

        known: its blocks that are in the cache already.
        """
        size = self.pool.block_size
        wanted = (len(row.tokens) + known * size) // (2 * size) + 1  # its first blocks that would have to come
        end = wanted * size
        return end < len(row.tokens) and any(
            other.computed < end <= other.prompt_tokens and other.tokens[:end] == row.tokens[:end]
            for other in self.running
        )

    def _grow(self, row: Row, tokens: int) -> bool:
        """Give the row blocks for so many tokens, from younger rows if it must; False if it was put back itself."""
        while len(row.blocks) < self.pool.blocks_for(tokens):
            block = self.pool.take()
            if block is not None:
                row.blocks.append(block)
                continue
            youngest = self.running[-1]
            self._put_back(youngest)
            if youngest is row:
                return False
        return True

    def _put_back(self, row: Row) -> None:
        self.preemptions += 1
        self.running.remove(row)
        self._give_back(row)
        self.waiting.put_back(row)

    def _give_back(self, row: Row) -> None:
        self.pool.release(row.blocks)
        row.blocks, row.names, row.computed = [], [], 0
