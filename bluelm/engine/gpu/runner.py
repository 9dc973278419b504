"""The runner for one CUDA card: decoding by captured graphs, one step ahead of the host; prompts by plain torch.

While the host reads a step's tokens, sends them off and plans the next step, the card is already computing that next
step, on the guess that every answer goes on: the sampled tokens never left the device. A guess that turns out wrong
for a row (it ended, it was put back) costs that row's share of one step; what it wrote is never read.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bluelm.engine.gpu.decode import Decoder
from bluelm.engine.gpu.likely import Noted, Scored, note, score
from bluelm.engine.gpu.prefill import Prefill
from bluelm.engine.gpu.states import States, sent
from bluelm.engine.likely import Likely
from bluelm.engine.memory import step_fits
from bluelm.engine.model import KVCache, Llama
from bluelm.engine.scheduler import Piece, Row

_BUFFERS = 8  # launches whose tokens may be on their way to the host at once
log = logging.getLogger("bluelm.engine")


@dataclass(frozen=True, slots=True)
class _Launch:
    """A step on its way. starts: position of the token it takes in, by row. tokens: [states] int32, once `done`; then
    also what was noted of them, and of prompts."""

    starts: dict[Row, int]
    tokens: Tensor
    done: torch.cuda.Event | None
    noted: list[Noted]
    scored: list[Scored]

    def read(self, states: dict[Row, int]) -> dict[Row, int]:
        """The sampled tokens, waited for."""
        if self.done is not None:
            self.done.synchronize()
        tokens = self.tokens.tolist()
        return {row: tokens[state] for row, state in states.items()}

    def likely(self) -> dict[str, Likely]:
        """How likely they were, by the ids of the rows that ask; to be called after `read`."""
        return {row.id: likely for noted in self.noted for row, likely in noted.read()}


class GpuRunner:
    """A model on a CUDA device, with its cache. The contract is bluelm.engine.runner.Runner's.

    blocks, block_size: of the cache (0: `open` makes it later); vocab: ids from here on are never sampled; max_running:
    rows of a step at most; context: positions that rows reach (of the model, if not given); exact: a row that is alone
    decodes as slowly as in company, and to the last bit the same, if the scheduler does as `retrace` says. likely,
    scores: as the Runner's. On a CPU the kernels need TRITON_INTERPRET=1.
    """

    def __init__(
        self, model: Llama, *, block_size: int, vocab: int, blocks: int = 0, max_running: int = 64, context: int = 0,
        exact: bool = False,
    ) -> None:  # fmt: skip
        config, weights = model.config, model.weights
        self.device = weights.norm.device
        self.blocks, self.block_size, self.vocab = 0, block_size, vocab
        context = context or config.context
        angles = torch.outer(torch.arange(context, dtype=torch.float64), config.inverse_frequencies().double())
        cos = torch.cat((angles.cos(), angles.cos()), dim=-1).to(self.device, torch.float32)
        sin = torch.cat((-angles.sin(), angles.sin()), dim=-1).to(self.device, torch.float32)
        self.cache = KVCache(config, block_size, weights.norm)
        self.states = States(max_running, weights.embedding.shape[0], -(-context // block_size), device=self.device)
        self._decoder = Decoder(
            config, weights, self.cache, self.states, cos, sin, rows=max_running, block_size=block_size, vocab=vocab,
            exact=exact,
        )  # fmt: skip
        self._prefill = Prefill(config, weights, self.cache, cos, sin, block_size=block_size, exact=exact)
        self.retrace = exact  # see Scheduler: prompts and answers take different kernels
        self.likely: dict[str, Likely] = {}
        self.scores: dict[str, list[Likely]] = {}
        self._slots: list[int] = []
        self._ahead: _Launch | None = None
        pinned = self.device.type == "cuda"
        self._buffers = [torch.zeros(max_running + 1, dtype=torch.int32, pin_memory=pinned) for _ in range(_BUFFERS)]
        if blocks:
            self.open(blocks)

    @property
    def batches(self) -> list[int]:
        """Numbers of rows for which a step of decoding has a graph of its own."""
        return [min(batch, self.states.count) for batch in self._decoder.batches]

    @torch.inference_mode()
    def open(self, blocks: int) -> None:
        """Make the cache, and capture the graphs, which compute in it. Until then all rows are in block 0."""
        # One block more than the scheduler knows of: the padding of a batch writes there.
        self.blocks = blocks
        self.cache.resize((blocks + 1) * self.block_size)
        self.states.forget(scratch_block=blocks)
        self._prefill.spare = blocks * self.block_size
        self._ahead = None
        self._decoder.capture()
        self._prefill.capture()

    @torch.inference_mode()
    def prepare(self) -> bool:
        """For an idle moment: capture one more of the graphs that make short prompts quicker; False if none is left."""
        try:
            return self._prefill.capture_next()
        except RuntimeError as error:  # no memory for it: they are computed without
            log.warning("prompts are computed without more graphs: %s", str(error).splitlines()[0])
            return False

    def run_for_logits(self, pieces: Sequence[Piece]) -> tuple[list[int | None], Tensor]:
        """`run`, and what the tokens were taken from: [pieces, vocab] float32. All sample; all are prompts, or all are
        single tokens; no more than the largest batch, and each at its row's end."""
        tokens = self.run(pieces)
        return tokens, self._decoder.logits[: len(pieces), : self.vocab].clone()

    def run(self, pieces: Sequence[Piece]) -> list[int | None]:
        """The next token of each piece that samples (FAILED if its logits are not numbers), None for the others.

        Raises OutOfMemory; the same step, or another, may be run then.
        """
        with torch.inference_mode(), step_fits():
            return self._run(pieces)

    def _run(self, pieces: Sequence[Piece]) -> list[int | None]:
        self.states.place([piece.row for piece in pieces])
        single = [piece for piece in pieces if self._decodes(piece)]
        prompts = [piece for piece in pieces if not self._decodes(piece)]
        launches = []
        ahead, self._ahead = self._ahead, None
        guessed = [piece for piece in single if ahead and self._was_guessed(piece, ahead)]
        if ahead and guessed:
            launches.append((ahead, guessed))
        fresh = [piece for piece in single if not (ahead and self._was_guessed(piece, ahead))]
        if fresh:
            launches.append((self._decode(fresh), fresh))
        if prompts:
            sampling = [piece for piece in prompts if piece.samples]
            launches.append((self._fill(prompts, sampling), sampling))
        for piece in fresh:
            if not piece.samples:  # its next token is known: the one just sampled is not it
                self.states.part(piece.row)
        self._guess([piece.row for _, some in launches for piece in some if piece.samples])
        tokens: dict[Row, int] = {}
        self.likely, self.scores = {}, {}
        for launch, some in launches:
            tokens |= launch.read({piece.row: self.states.slot(piece.row) for piece in some})
            self.likely |= launch.likely()
            for one in launch.scored:
                self.scores.setdefault(one.row.id, []).extend(one.found.every())
        return [tokens.get(piece.row) if piece.samples else None for piece in pieces]

    def _decodes(self, piece: Piece) -> bool:
        """Also a prompt's last token, if nothing else of it is left to compute. Where rows are to be exact: an answer's
        tokens, those of a row that was put back included, and no others."""
        if self.retrace:
            return piece.count == 1 and piece.start >= piece.row.prompt_tokens
        return piece.count == 1 and piece.samples

    def _was_guessed(self, piece: Piece, ahead: _Launch) -> bool:
        in_place = self.states.tokens_follow(piece.row, piece.start + 1)
        return in_place and ahead.starts.get(piece.row) == piece.start

    def _guess(self, rows: list[Row]) -> None:
        """Launch the step after the one in flight, if there is room for all whose answers may go on.

        Not beside a row with a guide, which has to see the token first: to launch it alone would be one step more.
        """
        going_on = [row for row in rows if len(row.tokens) + 1 < row.max_tokens]
        if any(row.guide is not None for row in going_on):
            return
        if going_on and all(len(row.tokens) < len(row.blocks) * self.block_size for row in going_on):
            self.states.write_blocks(going_on)
            self._ahead = self._launch({row: len(row.tokens) for row in going_on})

    def _decode(self, pieces: Sequence[Piece]) -> _Launch:
        for piece in pieces:
            if not self.states.tokens_follow(piece.row, piece.start):
                self.states.write(piece.row, piece.start)
        rows = [piece.row for piece in pieces]
        self.states.guide(rows)
        self.states.write_blocks(rows)
        return self._launch({piece.row: piece.start for piece in pieces})

    def _launch(self, starts: dict[Row, int]) -> _Launch:
        rows, noted = list(starts), []
        most = self._decoder.batches[-1]
        for first in range(0, len(rows), most):
            some = rows[first : first + most]
            batch = self._decoder.batch(len(some))
            self._set_slots(some, batch)
            self._decoder.step(batch)
            noted += note(some, self._decoder.logits[:, : self.vocab], self.states)
        return self._launched(starts, noted)

    def _fill(self, pieces: Sequence[Piece], sampling: Sequence[Piece]) -> _Launch:
        """Compute pieces of prompts; those that are complete sample."""
        last, before = self._prefill(pieces)
        scored = self._score(pieces, before)
        if len(sampling) < len(pieces):
            chosen = [index for index, piece in enumerate(pieces) if piece.samples]
            last = last[sent(chosen, torch.int64, self.device)]
        for piece in sampling:
            self.states.write(piece.row, piece.start + piece.count - 1)
        self.states.guide([piece.row for piece in sampling])
        most, noted = self._decoder.batches[-1], []
        for first in range(0, len(sampling), most):
            some = [piece.row for piece in sampling[first : first + most]]
            self._set_slots(some, len(some))
            self._decoder.x[: len(some)] = last[first : first + most]
            self._decoder.sample(len(some))
            noted += note(some, self._decoder.logits[:, : self.vocab], self.states)
        return self._launched({piece.row: piece.start + piece.count - 1 for piece in sampling}, noted, scored)

    def _score(self, pieces: Sequence[Piece], before: Tensor) -> list[Scored]:
        """How likely the prompts' tokens were. before: residuals of the tokens before them, in order."""
        most, scored = self._decoder.batches[-1], []
        for piece in pieces:
            for first in range(0, len(piece.scores), most):
                some = piece.scores[first : first + most]
                scored += score(piece.row, some, self._decoder.score(before[: len(some)]))
                before = before[len(some) :]
        return scored

    def _set_slots(self, rows: Sequence[Row], batch: int) -> None:
        slots = [self.states.slot(row) for row in rows] + [self.states.dummy] * (batch - len(rows))
        if slots != self._slots:
            self._decoder.slots[:batch] = sent(slots, torch.int32, self.device)
            self._slots = slots

    def _launched(self, starts: dict[Row, int], noted: list[Noted], scored: Sequence[Scored] = ()) -> _Launch:
        """Have the tokens sent to the host as soon as they are there."""
        for row in starts:
            self.states.advance(row)
        buffer = self._buffers.pop(0)
        self._buffers.append(buffer)
        buffer.copy_(self.states.token, non_blocking=True)
        done = None
        if self.device.type == "cuda":
            done = torch.cuda.Event()
            done.record()
        return _Launch(starts, buffer, done, noted, list(scored))
