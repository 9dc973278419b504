"""Pieces of prompts: big matrix products by cuBLAS, attention by PyTorch's kernels over the row's gathered cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

from bluelm.engine.gpu.decode import matrix
from bluelm.engine.gpu.rows import gate, norm, rotate_and_keep
from bluelm.engine.gpu.states import sent
from bluelm.engine.model import KVCache, Layer, LlamaConfig, Weights
from bluelm.engine.scheduler import Piece


@dataclass(frozen=True, slots=True)
class _Batch:
    """The pieces' tokens one behind the other, n in all, and the cache slots of their whole rows.

    tokens, positions, slots: [n]; row_slots: [all the rows' tokens so far]; starts_q, starts_k: [pieces + 1] int32.
    """

    tokens: Tensor
    positions: Tensor
    slots: Tensor
    row_slots: Tensor
    counts: list[int]
    lengths: list[int]
    starts_q: Tensor
    starts_k: Tensor


class Prefill:
    """Computes pieces of prompts, whole rows of them at a time; their keys and values go to the cache."""

    def __init__(
        self, config: LlamaConfig, weights: Weights, cache: KVCache, cos: Tensor, sin: Tensor, block_size: int
    ) -> None:
        self.config = config
        self.weights = weights
        self.cache = cache
        self.cos, self.sin = cos, sin
        self.block_size = block_size
        self.device = weights.norm.device
        self._flash = self.device.type == "cuda" and weights.norm.dtype in (torch.bfloat16, torch.float16)

    def __call__(self, pieces: Sequence[Piece]) -> Tensor:
        """The residual [pieces, hidden] of each piece's last token, before the last norm."""
        batch = self._batch(pieces)
        x = F.embedding(batch.tokens, self.weights.embedding)
        for index, layer in enumerate(self.weights.layers):
            self._layer(x, index, layer, batch)
        return x.index_select(0, batch.starts_q[1:] - 1)

    def _layer(self, x: Tensor, index: int, layer: Layer, batch: _Batch) -> None:
        """Adds what the layer says to the residual x [n, hidden]."""
        config, count = self.config, x.shape[0]
        normed, query = torch.empty_like(x), x.new_empty(count, config.heads, config.head_dim)
        norm(x, layer.input_norm, normed, count, config.norm_eps)
        keys, values = self.cache.keys[index], self.cache.values[index]
        qkv = F.linear(normed, matrix(layer.qkv))
        rotate_and_keep(qkv, batch.positions, batch.slots, self.cos, self.sin, query, keys, values)
        attended = self._attend(
            query, keys.index_select(0, batch.row_slots), values.index_select(0, batch.row_slots), batch
        )
        x.addmm_(attended, matrix(layer.o).T)
        norm(x, layer.post_norm, normed, count, config.norm_eps)
        inner = x.new_empty(count, config.intermediate)
        gate(F.linear(normed, matrix(layer.gate_up)), inner)
        x.addmm_(inner, matrix(layer.down).T)

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, batch: _Batch) -> Tensor:
        """Causal attention, each piece at the end of its row. query: [n, heads, D]; keys, values: [k, kv_heads, D]."""
        if self._flash:
            out = torch.ops.aten._flash_attention_forward(
                query, keys, values, batch.starts_q, batch.starts_k, max(batch.counts), max(batch.lengths),
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

    def _batch(self, pieces: Sequence[Piece]) -> _Batch:
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        row_slots: list[int] = []
        size = self.block_size
        for piece in pieces:
            row, end = piece.row, piece.start + piece.count
            here = [block * size + place for block in row.blocks for place in range(size)][:end]
            tokens += row.tokens[piece.start : end]
            positions += range(piece.start, end)
            slots += here[piece.start :]
            row_slots += here
        counts = [piece.count for piece in pieces]
        lengths = [piece.start + piece.count for piece in pieces]
        starts = sent([[0, *accumulate(counts)], [0, *accumulate(lengths)]], torch.int32, self.device)
        n = len(tokens)
        whole = sent(tokens + positions + slots + row_slots, torch.int64, self.device)
        new, places, row_places = whole[:n], whole[n : 2 * n], whole[3 * n :]
        return _Batch(new, places, whole[2 * n : 3 * n], row_places, counts, lengths, starts[0], starts[1])


def _attend_one(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """query: [count, heads, D], the last ones of [length, kv_heads, D]. Gives [count, heads * D]."""
    count, heads, _ = query.shape
    length, kv_heads, _ = keys.shape
    mask = torch.ones(count, length, dtype=torch.bool, device=query.device).tril(length - count)
    k = keys.transpose(0, 1).repeat_interleave(heads // kv_heads, dim=0)[None]
    v = values.transpose(0, 1).repeat_interleave(heads // kv_heads, dim=0)[None]
    out = F.scaled_dot_product_attention(query.transpose(0, 1)[None], k, v, attn_mask=mask)
    return out[0].transpose(0, 1).reshape(count, -1)
