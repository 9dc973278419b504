"""Pieces of prompts: big matrix products by cuBLAS, attention by PyTorch's kernels over the row's gathered cache.

Where rows are to be exact the products are those of decoding, 64 tokens at a time: cuBLAS chooses its kernel, and so
the order of its sums, by how many tokens there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bluelm.engine.gpu import shapes
from bluelm.engine.gpu.decode import by_tile, matrix
from bluelm.engine.gpu.packed import Int4Gpu, Int8Gpu, Packed
from bluelm.engine.gpu.products import ADD, GATED, PLAIN, Parts
from bluelm.engine.gpu.rows import gate, norm, rotate_and_keep
from bluelm.engine.gpu.shapes_packed import ROWS_BY_TILES
from bluelm.engine.gpu.states import sent
from bluelm.engine.linear import Dense, Linear
from bluelm.engine.model import KVCache, Layer, LlamaConfig, Weights
from bluelm.engine.scheduler import Piece

_GRAPH_TOKENS = (512, 256, 128, 96, 64, 32, 16)  # pieces of so many tokens in all are computed by a captured graph
_FIRST = 128  # those of so many are there from the start, the others are captured when nobody waits
_GRAPH_PIECES = 8
_TILE_ROWS = shapes.BATCHES[-1]
_GATHERED = 8192  # tokens of cache that are gathered at once, at most (or one row of the longest)


@dataclass(frozen=True, slots=True)
class _Batch:
    """The pieces' tokens one behind the other, n in all, and the cache slots of their whole rows, k in all.

    ids: [3 * n + k] int64: tokens, positions, slots, row_slots. starts: [2, pieces + 1] int32: where each piece
    begins and ends among the n, and its row among the k. counts, lengths: of the pieces and of their rows.
    """

    ids: Tensor
    starts: Tensor
    n: int
    counts: list[int]
    lengths: list[int]

    @property
    def row_slots(self) -> Tensor:
        return self.ids[3 * self.n :]

    def column(self, index: int) -> Tensor:
        """tokens (0), positions (1) or slots (2): [n]."""
        return self.ids[index * self.n : (index + 1) * self.n]


@dataclass(frozen=True, slots=True)
class _Graph:
    """A captured forward pass: fill `batch`, replay, read `x` [n, hidden]."""

    batch: _Batch
    x: Tensor
    graph: torch.cuda.CUDAGraph


class Prefill:
    """Computes pieces of prompts; their keys and values go to the cache.

    spare: a slot that nobody reads, for the padding of a captured batch. exact: a token's numbers are the same, to the
    last bit, whatever is computed beside it.
    """

    def __init__(
        self, config: LlamaConfig, weights: Weights, cache: KVCache, cos: Tensor, sin: Tensor,
        *, block_size: int, exact: bool = False,
    ) -> None:  # fmt: skip
        self.config = config
        self.weights = weights
        self.cache = cache
        self.cos, self.sin = cos, sin
        self.block_size = block_size
        self.spare = 0
        self.exact = exact
        self.device = weights.norm.device
        self._flash = self.device.type == "cuda" and weights.norm.dtype in (torch.bfloat16, torch.float16)
        self._parts = Parts(_TILE_ROWS, config.hidden, self.device)
        self._packed = Packed(ROWS_BY_TILES, weights.matrices, weights.norm, weights.narrow)
        self._graphs: dict[tuple[int, int], _Graph] = {}
        self._left: list[tuple[int, int]] = []  # to be captured
        self._pool: Any = None

    def capture(self) -> None:
        """Capture the forward pass for short pieces, at the start of a row or behind a history; most are left for
        `capture_next`."""
        history = min(2048, self.cos.shape[0])
        sizes = sorted((n for n in _GRAPH_TOKENS if n <= history and self._flash), key=lambda n: n != _FIRST)
        self._left = list(dict.fromkeys((n, length) for n in sizes for length in (history, n)))
        while self._left and self._left[0][0] == _FIRST:
            self.capture_next()

    def capture_next(self) -> bool:
        """Capture one more; False if none is left."""
        if not self._left:
            return False
        n, length = self._left.pop(0)
        self._graphs[n, length] = self._captured(n, length)
        self._pool = self._graphs[n, length].graph.pool()
        return True

    def _captured(self, n: int, length: int) -> _Graph:
        ids = torch.zeros(3 * n + length, dtype=torch.int64, device=self.device)
        ids[2 * n :] = self.spare
        starts = torch.zeros(2, _GRAPH_PIECES + 1, dtype=torch.int32, device=self.device)
        batch = _Batch(ids, starts, n, [n], [length])
        self._forward(batch)
        torch.cuda.synchronize(self.device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            x = self._forward(batch)
        return _Graph(batch, x, graph)

    def __call__(self, pieces: Sequence[Piece]) -> tuple[Tensor, Tensor]:
        """The residual before the last norm: [pieces, hidden] of each piece's last token, and [places, hidden] of the
        tokens before all places that are scored (Piece.scores)."""
        found = [self._some(group) for group in self._groups(pieces)]
        return found[0] if len(found) == 1 else (torch.cat([one for one, _ in found]), torch.cat([b for _, b in found]))

    def _groups(self, pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
        """In order, so many at a time that what is gathered for them stays small."""
        most = max(_GATHERED, self.cos.shape[0])
        group: list[Piece] = []
        for piece in pieces:
            if group and sum(each.start + each.count for each in [*group, piece]) > most:
                yield group
                group = []
            group.append(piece)
        yield group

    def _some(self, pieces: Sequence[Piece]) -> tuple[Tensor, Tensor]:
        columns, row_slots = self._columns(pieces)
        counts = [piece.count for piece in pieces]
        lengths = [piece.start + piece.count for piece in pieces]
        starts = [[0, *accumulate(counts)], [0, *accumulate(lengths)]]
        wanted = [end - 1 for end in starts[0][1:]]
        for begin, piece in zip(starts[0], pieces, strict=False):
            wanted += [begin + place - 1 - piece.start for place in piece.scores]
        chosen = sent(wanted, torch.int64, self.device)
        fitting = [key for key in self._graphs if key[0] >= sum(counts) and key[1] >= sum(lengths)]
        if fitting and len(pieces) <= _GRAPH_PIECES:
            x = self._replayed(self._graphs[min(fitting)], columns, row_slots, starts)[chosen]
        else:
            ids = sent(np.concatenate((*columns, row_slots)), torch.int64, self.device)
            batch = _Batch(ids, sent(starts, torch.int32, self.device), sum(counts), counts, lengths)
            x = self._forward(batch)[chosen]
        return x[: len(pieces)], x[len(pieces) :]

    def _replayed(
        self, graph: _Graph, columns: list[np.ndarray], row_slots: np.ndarray, starts: list[list[int]]
    ) -> Tensor:
        batch, n, count = graph.batch, graph.batch.n, len(columns[0])
        ids = np.zeros(batch.ids.shape[0], dtype=np.int64)
        ids[2 * n :] = self.spare
        for index, column in enumerate(columns):
            ids[index * n : index * n + count] = column
        ids[3 * n : 3 * n + len(row_slots)] = row_slots
        batch.ids.copy_(sent(ids, torch.int64, self.device))
        missing = _GRAPH_PIECES + 1 - len(starts[0])
        batch.starts.copy_(sent([each + [each[-1]] * missing for each in starts], torch.int32, self.device))
        graph.graph.replay()
        return graph.x

    def _forward(self, batch: _Batch) -> Tensor:
        """The residual [n, hidden]."""
        x = F.embedding(batch.column(0), self.weights.embedding)
        for index, layer in enumerate(self.weights.layers):
            self._layer(x, index, layer, batch)
        return x

    def _layer(self, x: Tensor, index: int, layer: Layer, batch: _Batch) -> None:
        """Adds what the layer says to the residual x [n, hidden]."""
        config, count = self.config, x.shape[0]
        normed, query = torch.empty_like(x), x.new_empty(count, config.heads, config.head_dim)
        norm(x, layer.input_norm, normed, count, config.norm_eps)
        keys, values = self.cache.keys[index], self.cache.values[index]
        qkv = self._multiply("qkv", normed, layer.qkv)
        rotate_and_keep(qkv, batch.column(1), batch.column(2), self.cos, self.sin, query, keys, values)
        attended = self._attend(
            query, keys.index_select(0, batch.row_slots), values.index_select(0, batch.row_slots), batch
        )
        self._add("o", attended, layer.o, x)
        norm(x, layer.post_norm, normed, count, config.norm_eps)
        self._add("down", self._gated(normed, layer), layer.down, x)

    def _multiply(self, name: str, x: Tensor, linear: Linear) -> Tensor:
        """x W^T: [n, out]."""
        if not self._takes_tiles(x, linear):
            return linear(x)
        y = x.new_empty(x.shape[0], linear.parameters // x.shape[1])
        self._by_tiles(name, x, linear, y, PLAIN)
        return y

    def _add(self, name: str, x: Tensor, linear: Linear, y: Tensor) -> None:
        """y += x W^T."""
        if self._takes_tiles(x, linear):
            self._by_tiles(name, x, linear, y, ADD)
        elif isinstance(linear, Dense):
            y.addmm_(x, linear.weight.T)
        else:
            y.add_(linear(x))

    def _gated(self, x: Tensor, layer: Layer) -> Tensor:
        """silu(x G^T) * (x U^T): [n, intermediate]."""
        y = x.new_empty(x.shape[0], self.config.intermediate)
        if self._takes_tiles(x, layer.gate_up):
            self._by_tiles("gate_up", x, layer.gate_up, y, GATED)
        else:
            gate(layer.gate_up(x), y)
        return y

    def _takes_tiles(self, x: Tensor, linear: Linear) -> bool:
        """Whether the decoder's kernels are to multiply: for exact rows, or since they are faster for so few."""
        return self.exact or (isinstance(linear, Int4Gpu | Int8Gpu) and x.shape[0] <= ROWS_BY_TILES)

    def _by_tiles(self, name: str, x: Tensor, linear: Linear, y: Tensor, kind: int) -> None:
        count = x.shape[0]
        if isinstance(linear, Int4Gpu | Int8Gpu):
            for start in range(0, count, ROWS_BY_TILES):
                some = min(ROWS_BY_TILES, count - start)
                linear.multiply(name, x[start:], y[start:], some, kind, self._packed)
            return
        weight = matrix(linear)
        for start in range(0, count, _TILE_ROWS):
            by_tile(name, x[start:], weight, y[start:], min(_TILE_ROWS, count - start), kind, self._parts)

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, batch: _Batch) -> Tensor:
        """Causal attention, each piece at the end of its row. query: [n, heads, D]; keys, values: [k, kv_heads, D]."""
        if self._flash:
            out = torch.ops.aten._flash_attention_forward(
                query, keys, values, batch.starts[0], batch.starts[1], max(batch.counts), max(batch.lengths),
                0.0, True, False,
            )[0]  # fmt: skip
            return out.reshape(query.shape[0], -1)
        parts = [
            _attend_one(q, k, v)
            for q, k, v in zip(
                query.split(batch.counts), keys.split(batch.lengths), values.split(batch.lengths), strict=True
            )
        ]
        return torch.cat(parts)

    def _columns(self, pieces: Sequence[Piece]) -> tuple[list[np.ndarray], np.ndarray]:
        """Tokens, positions and slots of the pieces, and the slots of their whole rows."""
        tokens, positions, slots, row_slots = [], [], [], []
        size = self.block_size
        for piece in pieces:
            row, start, end = piece.row, piece.start, piece.start + piece.count
            blocks = np.array(row.blocks[: -(-end // size)], dtype=np.int64)
            here = (blocks[:, None] * size + np.arange(size)).ravel()[:end]
            tokens.append(np.array(row.tokens[start:end], dtype=np.int64))
            positions.append(np.arange(start, end))
            slots.append(here[start:])
            row_slots.append(here)
        return [np.concatenate(each) for each in (tokens, positions, slots)], np.concatenate(row_slots)


def _attend_one(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """query: [count, heads, D], the last ones of [length, kv_heads, D]. Gives [count, heads * D]."""
    count, heads, _ = query.shape
    length, kv_heads, _ = keys.shape
    mask = torch.ones(count, length, dtype=torch.bool, device=query.device).tril(length - count)
    k = keys.transpose(0, 1).repeat_interleave(heads // kv_heads, dim=0)[None]
    v = values.transpose(0, 1).repeat_interleave(heads // kv_heads, dim=0)[None]
    out = F.scaled_dot_product_attention(query.transpose(0, 1)[None], k, v, attn_mask=mask)
    return out[0].transpose(0, 1).reshape(count, -1)
