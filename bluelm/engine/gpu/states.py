"""What the device knows of each row being answered, so that a step of decoding needs nothing from the host.

A row keeps its state for as long as it runs. The device advances it with every sampled token; the host keeps count, so
that it can tell when the two have parted (a row put back, or a step computed ahead in vain) and write it anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bluelm.engine.sampler import added
from bluelm.engine.scheduler import Row

SEEN, MADE = 1, 2


@dataclass(slots=True)
class _Known:
    """What the device holds of a row. position: of the token it will take in next, or -1: not to be relied on."""

    state: int
    blocks: list[int]  # the row's own list, as long as the row keeps its place in the cache
    written: int = 0  # how many of them are in the table
    position: int = -1


class States:
    """Tensors over states 0 .. count-1, and the state `dummy` for the padding of a batch.

    token, position, top_k, adds: int32; temperature, top_p, penalty, presence, frequency: float32; seed: int64; seen:
    uint8 [states, width], SEEN for the ids of prompt and answer, and MADE for those of the answer, kept where a setting
    asks for it; added: float32 [states, width], what is added to logits, where `adds` is not 0; tables: int32 [states,
    blocks].
    """

    def __init__(self, count: int, width: int, blocks: int, device: torch.device) -> None:
        states = count + 1
        self.count = self.dummy = count
        self.integers = torch.zeros(4, states, dtype=torch.int32, device=device)
        self.token, self.position, self.top_k, self.adds = self.integers
        self.floats = torch.ones(5, states, dtype=torch.float32, device=device)
        self.temperature, self.top_p, self.penalty, self.presence, self.frequency = self.floats
        self.temperature[count] = 0.0
        self.seed = torch.zeros(states, dtype=torch.int64, device=device)
        self.seen = torch.zeros(states, width, dtype=torch.uint8, device=device)
        self.added = torch.zeros(states, width, dtype=torch.float32, device=device)
        self.tables = torch.zeros(states, blocks, dtype=torch.int32, device=device)
        self._known: dict[Row, _Known] = {}
        self._free = list(range(count))
        self._device = device

    def forget(self, scratch_block: int) -> None:
        """Know of no row. scratch_block: where the padding of a batch writes."""
        self.tables.fill_(scratch_block)
        self._known.clear()
        self._free = list(range(self.count))

    def slot(self, row: Row) -> int:
        """The row's state, which must have been placed."""
        return self._known[row].state

    def tokens_follow(self, row: Row, position: int) -> bool:
        """Whether the device will take in this row's token at this position next, with the blocks it has now."""
        known = self._known.get(row)
        return known is not None and known.position == position and known.blocks is row.blocks

    def advance(self, row: Row) -> None:
        """Note that a launched step samples the row's next token."""
        self._known[row].position += 1

    def part(self, row: Row) -> None:
        """Note that the token the device has sampled for this row is not its next."""
        self._known[row].position = -1

    def place(self, rows: list[Row]) -> None:
        """Give each of these rows, all those of a step, a state; it may be taken from a row that is not among them."""
        missing = [row for row in rows if row not in self._known]
        if len(missing) > len(self._free):
            staying = set(rows)
            for gone in [row for row in self._known if row not in staying]:
                self._free.append(self._known.pop(gone).state)
        for row in missing:
            self._known[row] = _Known(self._free.pop(), row.blocks)

    def write(self, row: Row, position: int) -> None:
        """Write all of a row whose next token to take in is the last one it has, at `position`."""
        known = self._known[row]
        state, params = known.state, row.params
        integers = [
            row.tokens[position],
            position,
            min(params.top_k, 2**31 - 1),
            int(params.adds or row.guide is not None),
        ]
        self.integers[:, state] = self._sent(integers, torch.int32)
        floats = [
            params.temperature, params.top_p, params.repetition_penalty, params.presence_penalty,
            params.frequency_penalty,
        ]  # fmt: skip
        self.floats[:, state] = self._sent(floats, torch.float32)
        self.seed[state] = self._sent([row.seed], torch.int64)[0]
        answer = row.tokens[row.prompt_tokens :]
        if params.repetition_penalty != 1.0 or params.adds:
            self.seen[state].zero_()
            self.seen[state].index_fill_(0, self._sent(sorted(set(row.tokens)), torch.int64), SEEN)
            self.seen[state].index_fill_(0, self._sent(sorted(set(answer)), torch.int64), SEEN | MADE)
        if params.adds:
            ids, sums = added(params, answer)
            self.added[state].zero_()
            self.added[state].index_copy_(0, self._sent(ids, torch.int64), self._sent(sums, torch.float32))
        known.position = position
        known.blocks, known.written = row.blocks, 0

    def guide(self, rows: list[Row]) -> None:
        """Let the next token of those of these rows that have a guide be one that it allows."""
        held = [(row, row.guide.allowed) for row in rows if row.guide is not None]
        if not held:
            return
        allowed = self._sent(np.stack([one for _, one in held]), torch.bool)
        sums = torch.full((len(held), self.added.shape[1]), -torch.inf, device=self._device)
        sums[:, : allowed.shape[1]].masked_fill_(allowed, 0.0)
        for place, (row, _) in enumerate(held):
            if row.params.adds:
                ids, more = added(row.params, row.tokens[row.prompt_tokens :])
                sums[place].index_add_(0, self._sent(ids, torch.int64), self._sent(more, torch.float32))
        self.added.index_copy_(0, self._sent([self._known[row].state for row, _ in held], torch.int64), sums)

    def write_blocks(self, rows: list[Row]) -> None:
        """Bring the block tables of these rows up to date."""
        states: list[int] = []
        places: list[int] = []
        blocks: list[int] = []
        for row in rows:
            known = self._known[row]
            new = row.blocks[known.written :]
            if new:
                states += [known.state] * len(new)
                places += range(known.written, len(row.blocks))
                blocks += new
                known.written = len(row.blocks)
        if blocks:
            sent = self._sent([states, places, blocks], torch.int64)
            self.tables.index_put_((sent[0], sent[1]), sent[2].int())

    def _sent(self, values: list | np.ndarray, dtype: torch.dtype) -> Tensor:
        return sent(values, dtype, self._device)


def sent(values: list | np.ndarray, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A tensor on the device, without waiting for what it is doing."""
    array = torch.from_numpy(np.asarray(values)).to(dtype)
    return array.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else array
