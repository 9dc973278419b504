"""The plain runner's contract, kept by native code on a CPU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bluelm.engine.attention import RowGroup
from bluelm.engine.model import Llama
from bluelm.engine.native.llama import NativeLlama, Tokens, blocks_of
from bluelm.engine.runner import Runner
from bluelm.engine.scheduler import Piece

LONG = 512  # tokens from which PyTorch's attention is faster for a piece of a prompt, for it looks at many at once


class NativeRunner(Runner):
    """See Runner. exact: a token's numbers do not depend on how its prompt is cut into pieces either."""

    batches: tuple[int, ...] = (1, 5, 9)  # rows by ones, by fours and by eights
    rounds = True

    def __init__(self, model: Llama, *, block_size: int, vocab: int, blocks: int = 0, exact: bool = False) -> None:
        super().__init__(model, block_size=block_size, vocab=vocab, blocks=blocks, exact=exact)
        self._native = NativeLlama(model, self.cache, block_size)

    def _forward(self, pieces: Sequence[Piece]) -> Tensor:
        lone = [piece for piece in pieces if not self._is_span(piece)]  # they come first
        counts = torch.tensor([piece.count for piece in lone], dtype=torch.int64)
        blocks = blocks_of([piece.row.blocks for piece in lone]).repeat_interleave(counts, dim=0)
        return self._native.hidden(Tokens(self._step(pieces), blocks))

    def _is_span(self, piece: Piece) -> bool:
        return piece.count > 1 and piece.start + piece.count > LONG and not self.exact

    def _groups(self, singles: Sequence[Piece]) -> tuple[RowGroup, ...]:
        """None: lone tokens are looked up by their rows' blocks."""
        return ()
