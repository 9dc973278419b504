"""Turns a planned step into tensors, runs the model, and samples: the only place where requests meet torch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bluelm.engine.attention import RowGroup, Span, Step, padded_length
from bluelm.engine.kept import Kept
from bluelm.engine.likely import Likely
from bluelm.engine.linear import FEW
from bluelm.engine.memory import step_fits
from bluelm.engine.model import KVCache, Llama
from bluelm.engine.sampler import likeliest, sample_row, uniform
from bluelm.engine.scheduler import Piece, Row

SCORED = 64  # places of a prompt whose logits are there at once
FAILED = -1  # stands for a token where the model gave no numbers


class Runner:
    """A model with its cache, by PyTorch's own operations on any device.

    blocks: of the cache (0: `open` makes it later); vocab: ids from here on exist in the model but not in the
    tokenizer: they are never sampled. exact: no token's numbers depend on what else is in the step, or on how much of a
    prompt. likely: how likely the last step's tokens were, by the ids of the rows that ask; scores: the same of the
    prompts' tokens at Piece.scores.
    """

    batches: tuple[int, ...] = (1, FEW + 1)  # numbers of rows that are worth a test of their own
    rounds = False  # whether products round their inputs
    retrace = False  # a token's numbers are the same in a prompt and in an answer, or nobody asks for exact rows

    def __init__(self, model: Llama, *, block_size: int, vocab: int, blocks: int = 0, exact: bool = False) -> None:
        self.model = model
        self.exact = exact
        self.block_size = block_size
        self.vocab = vocab
        self.device = model.weights.norm.device
        self._in_block = torch.arange(block_size, device=self.device)
        self.likely: dict[str, Likely] = {}
        self.scores: dict[str, list[Likely]] = {}
        self.blocks = blocks
        self.cache = KVCache(model.config, max(blocks, 1) * block_size, model.weights.norm)
        self._kept = Kept()

    def open(self, blocks: int) -> None:
        """Make the cache. Until then all rows are in block 0."""
        self.blocks = blocks
        self.cache.resize(blocks * self.block_size)
        self._kept.forget()

    @torch.inference_mode()
    def run_for_logits(self, pieces: Sequence[Piece]) -> tuple[list[int | None], Tensor]:
        """`run`, and what the tokens were taken from: [pieces, vocab] float32. All sample; all are prompts, or all are
        single tokens of rows of one length."""
        logits = self.model.logits(self._forward(pieces))[:, : self.vocab].float()
        return [self._sample(row.clone(), piece.row) for row, piece in zip(logits, pieces, strict=True)], logits

    def run(self, pieces: Sequence[Piece]) -> list[int | None]:
        """The next token of each piece that samples (FAILED if its logits are not numbers), None for the others.

        Raises OutOfMemory; the same step, or another, may be run then.
        """
        with torch.inference_mode(), step_fits():
            return self._run(pieces)

    def _run(self, pieces: Sequence[Piece]) -> list[int | None]:
        self.likely = {}
        ordered = sorted(pieces, key=self._place)
        rows = [piece.row for piece in ordered if piece.samples]
        hidden = self._forward(ordered)
        logits = self.model.logits(hidden[: len(rows)])[:, : self.vocab]
        self.scores = self._score(ordered, hidden[len(rows) :])
        if all(map(_is_plain, rows)):
            sampled = _greedy(logits)
        else:
            sampled = [self._sample(each, row) for each, row in zip(logits, rows, strict=True)]
        tokens = {row.id: token for row, token in zip(rows, sampled, strict=True)}
        return [tokens.get(piece.row.id) for piece in pieces]

    def _score(self, pieces: Sequence[Piece], hidden: Tensor) -> dict[str, list[Likely]]:
        """How likely the prompts' tokens were. hidden: of the tokens before them, in order."""
        scores: dict[str, list[Likely]] = {}
        for piece in pieces:
            for first in range(0, len(piece.scores), SCORED):
                some = piece.scores[first : first + SCORED]
                logits = self.model.logits(hidden[: len(some)])[:, : self.vocab].float()
                tokens = self._ids(piece.row.tokens[some.start : some.stop])
                found = likeliest(logits, tokens, piece.row.params.logprobs or 0)
                scores.setdefault(piece.row.id, []).extend(found.every())
                hidden = hidden[len(some) :]
        return scores

    def _is_span(self, piece: Piece) -> bool:
        """Whether attention looks at its tokens together (Span)."""
        return piece.count > 1

    def _place(self, piece: Piece) -> tuple[bool, int]:
        """Order within a step: single tokens first, those of long rows before those of short ones (see Step)."""
        span = self._is_span(piece)
        return span, 0 if span else -piece.start

    def _forward(self, pieces: Sequence[Piece]) -> Tensor:
        """What lm_head reads: of the tokens that sample, then of those before the places that are scored."""
        step = self._step(pieces)
        if step.only_rows and self.device.type == "cpu":
            return self._kept.compute(self.model.hidden, step, pieces, self.cache)
        self._kept.forget()
        return self.model.hidden(step, self.cache)

    def _sample(self, logits: Tensor, row: Row) -> int:
        logits, params = logits.float(), row.params
        raw = None if params.logprobs is None else logits.clone()
        if row.guide is not None:
            logits.masked_fill_(torch.from_numpy(~row.guide.allowed).to(logits.device), -torch.inf)
        answer = row.tokens[row.prompt_tokens :] if params.adds else ()
        token = sample_row(logits, params, row.tokens, uniform(row.seed, len(row.tokens)), answer)
        if raw is not None and params.logprobs is not None and token != FAILED:
            self.likely[row.id] = likeliest(raw[None], self._ids([token]), params.logprobs).of(0, params.logprobs)
        return token

    def _step(self, pieces: Sequence[Piece]) -> Step:
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        sampled: list[int] = []
        before: list[int] = []
        spans: list[Span] = []
        for piece in pieces:
            end = piece.start + piece.count
            if piece.samples:
                sampled.append(len(tokens) + piece.count - 1)
            before += [len(tokens) + place - 1 - piece.start for place in piece.scores]
            if self._is_span(piece):
                spans.append(self._span(piece, first=len(tokens)))
            tokens += piece.row.tokens[piece.start : end]
            positions += range(piece.start, end)
            slots += self._slots(piece.row, piece.start, end)
        singles = [piece for piece in pieces if not self._is_span(piece)]
        return Step(
            self._ids(tokens), self._ids(positions), self._ids(slots), self._groups(singles), tuple(spans),
            self._ids(sampled + before),
        )  # fmt: skip

    def _groups(self, singles: Sequence[Piece]) -> tuple[RowGroup, ...]:
        """singles: longest first. Padding is never more than half of a row, or it starts a group of its own."""
        groups, first = [], 0
        lengths = [piece.start + 1 for piece in singles]
        while first < len(singles):
            padded = padded_length(lengths[first])
            end = first + sum(2 * padded_length(length) > padded for length in lengths[first:])
            beyond = torch.arange(padded, device=self.device)[None] >= self._ids(lengths[first:end])[:, None]
            mask = self.cache.keys.new_zeros(beyond.shape).masked_fill_(beyond, -torch.inf)
            slots = self._all_slots([piece.row for piece in singles[first:end]], padded)
            slots = torch.where(beyond, slots[:, :1], slots)  # its own: what a block held before may be no number
            groups.append(RowGroup(first, end - first, slots, mask[:, None, None]))
            first = end
        return tuple(groups)

    def _span(self, piece: Piece, first: int) -> Span:
        length = piece.start + piece.count
        padded = padded_length(length) if self.exact else length
        slots = self._all_slots([piece.row], padded)[0]
        slots[length:] = slots[0]  # its own: what a block held before may be no number
        mask = None
        if piece.start or self.exact:
            columns = torch.arange(padded, device=self.device)
            mask = columns[None] <= columns[piece.start : length, None]
        return Span(first, piece.count, slots, mask, self.exact)

    def _all_slots(self, rows: Sequence[Row], length: int) -> Tensor:
        """Where each row's first `length` tokens are: [rows, length]. What a row has not is anywhere in its blocks."""
        count = -(-length // self.block_size)
        blocks = self._ids([(row.blocks + row.blocks[:1] * (count - len(row.blocks)))[:count] for row in rows])
        return (blocks[..., None] * self.block_size + self._in_block).flatten(1)[:, :length]

    def _slots(self, row: Row, start: int, end: int) -> list[int]:
        size = self.block_size
        return [row.blocks[place // size] * size + place % size for place in range(start, end)]

    def _ids(self, values: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)


def _is_plain(row: Row) -> bool:
    """Whether the row's next token is the likeliest, and nothing else is asked."""
    params = row.params
    greedy = params.temperature == 0.0 and params.repetition_penalty == 1.0 and not params.adds
    return greedy and params.logprobs is None and row.guide is None


def _greedy(logits: Tensor) -> list[int]:
    """The likeliest token of each row of logits [rows, vocab], all at once."""
    values, ids = logits.float().max(dim=1)
    pairs = zip(ids.tolist(), values.tolist(), strict=True)
    return [index if math.isfinite(value) else FAILED for index, value in pairs]
