"""Turns a planned step into tensors, runs the model, and samples: the only place where requests meet torch."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from bluelm.engine.attention import RowGroup, Span, Step, padded_length
from bluelm.engine.model import KVCache, Llama
from bluelm.engine.sampler import sample_row, uniform
from bluelm.engine.scheduler import Piece, Row

FAILED = -1  # stands for a token where the model gave no numbers


class Runner:
    """A model with its cache. vocab: ids from here on exist in the model but not in the tokenizer: never sampled."""

    def __init__(self, model: Llama, *, blocks: int, block_size: int, vocab: int) -> None:
        self.model = model
        self.block_size = block_size
        self.vocab = vocab
        self.device = model.weights.norm.device
        self.cache = KVCache(model.config, blocks * block_size, model.weights.norm)

    @torch.inference_mode()
    def run(self, pieces: Sequence[Piece]) -> list[int | None]:
        """The next token of each piece that samples (FAILED if its logits are not numbers), None for the others."""
        ordered = sorted(pieces, key=_place)
        logits = iter(self.model.forward(self._step(ordered), self.cache)[:, : self.vocab].float())
        tokens = {piece.row.id: self._sample(next(logits), piece.row) for piece in ordered if piece.samples}
        return [tokens.get(piece.row.id) for piece in pieces]

    def _sample(self, logits: Tensor, row: Row) -> int:
        return sample_row(logits, row.params, row.tokens, uniform(row.seed, len(row.tokens)))

    def _step(self, pieces: Sequence[Piece]) -> Step:
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        sampled: list[int] = []
        spans: list[Span] = []
        for piece in pieces:
            end = piece.start + piece.count
            if piece.samples:
                sampled.append(len(tokens) + piece.count - 1)
            if piece.count > 1:
                spans.append(self._span(piece, first=len(tokens)))
            tokens += piece.row.tokens[piece.start : end]
            positions += range(piece.start, end)
            slots += self._slots(piece.row, piece.start, end)
        singles = [piece for piece in pieces if piece.count == 1]
        return Step(
            self._ids(tokens), self._ids(positions), self._ids(slots), self._groups(singles), tuple(spans),
            self._ids(sampled),
        )  # fmt: skip

    def _groups(self, singles: Sequence[Piece]) -> tuple[RowGroup, ...]:
        groups, first = [], 0
        for padded, members in groupby(singles, lambda piece: padded_length(piece.start + 1)):
            group = list(members)
            lengths = [piece.start + 1 for piece in group]
            slots = [self._slots(p.row, 0, n) + [0] * (padded - n) for p, n in zip(group, lengths, strict=True)]
            mask = torch.arange(padded, device=self.device)[None] < self._ids(lengths)[:, None]
            groups.append(RowGroup(first, len(group), self._ids(slots), mask[:, None, None]))
            first += len(group)
        return tuple(groups)

    def _span(self, piece: Piece, first: int) -> Span:
        length = piece.start + piece.count
        mask = None
        if piece.start:
            columns = torch.arange(length, device=self.device)
            mask = columns[None] <= columns[piece.start :, None]
        return Span(first, piece.count, self._ids(self._slots(piece.row, 0, length)), mask)

    def _slots(self, row: Row, start: int, end: int) -> list[int]:
        size = self.block_size
        return [row.blocks[place // size] * size + place % size for place in range(start, end)]

    def _ids(self, values: Sequence[int] | Sequence[Sequence[int]]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)


def _place(piece: Piece) -> tuple[bool, int]:
    """Order within a step: single tokens first, those of about the same length together (see Step)."""
    return piece.count > 1, padded_length(piece.start + 1) if piece.count == 1 else 0
