"""How likely tokens were, new ones and those of prompts: operations behind a step's own, for rows that ask alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bluelm.engine.gpu.states import States, sent
from bluelm.engine.likely import Likely
from bluelm.engine.sampler import Likeliest, likeliest
from bluelm.engine.scheduler import Row

_SOME = 16  # rows at a time, so that the working space stays small


@dataclass(frozen=True, slots=True)
class Noted:
    """What was found of some rows; on the host once the step's tokens are there."""

    rows: Sequence[Row]
    found: Likeliest

    def read(self) -> Iterator[tuple[Row, Likely]]:
        for index, row in enumerate(self.rows):
            yield row, self.found.of(index, row.params.logprobs or 0)


def note(rows: Sequence[Row], logits: Tensor, states: States) -> list[Noted]:
    """Of a step's rows, in order, those that ask. logits: [>= rows, vocab] float32, the model's own; each row's token
    is in its state. Nothing is waited for."""
    asking = [index for index, row in enumerate(rows) if row.params.logprobs is not None]
    noted = []
    for first in range(0, len(asking), _SOME):
        some = asking[first : first + _SOME]
        chosen = [rows[index] for index in some]
        tokens = states.token[sent([states.slot(row) for row in chosen], torch.int64, logits.device)]
        found = likeliest(
            logits[sent(some, torch.int64, logits.device)],
            tokens.clamp(min=0).long(),  # a failed row has none
            max(row.params.logprobs or 0 for row in chosen),
        )
        noted.append(Noted(chosen, _home(found)))
    return noted


@dataclass(frozen=True, slots=True)
class Scored:
    """What was found of some places of a row's prompt; on the host once the step's tokens are there."""

    row: Row
    found: Likeliest


def score(row: Row, places: range, logits: Tensor) -> list[Scored]:
    """logits: [places, vocab] float32, of the tokens before them. Nothing is waited for."""
    scored = []
    for first in range(0, len(places), _SOME):
        some = places[first : first + _SOME]
        tokens = sent(row.tokens[some.start : some.stop], torch.int64, logits.device)
        found = likeliest(logits[first : first + _SOME], tokens, row.params.logprobs or 0)
        scored.append(Scored(row, _home(found)))
    return scored


def _home(found: Likeliest) -> Likeliest:
    return Likeliest(*map(_sent_home, (found.tokens, found.logprobs, found.ids, found.best)))


def _sent_home(tensor: Tensor) -> Tensor:
    if tensor.device.type != "cuda":
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
