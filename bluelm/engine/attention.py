"""Attention over the paged KV cache in plain PyTorch: right on any device, and the oracle for kernels that are faster.

The cache of one layer is two tensors [slots, kv_heads, head_dim]; slot = block * block_size + place in the block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a prompt in the step: tokens first .. first+count-1, after which its row has `length` tokens."""

    first: int
    count: int
    slots: Tensor  # [length] int64: where the row's keys and values are
    mask: Tensor | None  # [count, length] bool, True where attention looks; None: causal from the very start
    apart: bool = False  # each token by itself, so that its numbers do not depend on how many others are in the piece

    @property
    def causal(self) -> bool:
        return self.mask is None


@dataclass(frozen=True, slots=True)
class RowGroup:
    """One token each of answers that are padded to one length: tokens first .. first+count-1 of the step.

    slots: [count, padded] int64, the answers' cache slots, padded with any; None: the cache holds them side by side.
    mask: [count, 1, 1, padded], what is added to the scores (-inf where attention does not look), or bool, True where
    it looks.
    """

    first: int
    count: int
    slots: Tensor | None
    mask: Tensor


def padded_length(length: int) -> int:
    """What a row of this length is padded to when it is the longest of its group: at most a quarter too much.

    How far a row is padded changes no bit of its own numbers: what attention adds there is 0 (held by a test).
    """
    unit = max(64, 1 << max(length.bit_length() - 3, 0))
    return -(-length // unit) * unit


@dataclass(frozen=True, slots=True)
class Step:
    """What the model computes at once: the row groups' tokens first, then the spans' tokens.

    tokens, positions, slots: [n] int64, slots being where the new keys and values go.
    sampled: [k] int64, the tokens whose logits are wanted.
    """

    tokens: Tensor
    positions: Tensor
    slots: Tensor
    groups: tuple[RowGroup, ...]
    spans: tuple[Span, ...]
    sampled: Tensor

    @property
    def only_rows(self) -> bool:
        """Whether all tokens are those of one row group."""
        return len(self.groups) == 1 and not self.spans


def paged_attention(query: Tensor, keys: Tensor, values: Tensor, step: Step) -> Tensor:
    """Softmax attention of each token over its own row's cache, its own key included.

    query: [n, heads, head_dim]; keys, values: one layer's cache, already holding this step's tokens.
    Gives [n, heads * head_dim].
    """
    if step.only_rows:
        return _rows(query, keys, values, step.groups[0])
    parts = [_rows(query[g.first : g.first + g.count], keys, values, g) for g in step.groups]
    parts += [_span(query[s.first : s.first + s.count], keys, values, s) for s in step.spans]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _rows(query: Tensor, keys: Tensor, values: Tensor, group: RowGroup) -> Tensor:
    rows, kv_heads = group.mask.shape[0], keys.shape[1]
    if group.slots is not None:
        flat = group.slots.reshape(-1)
        keys, values = keys.index_select(0, flat), values.index_select(0, flat)
    k, v = (each.unflatten(0, (rows, -1)).transpose(1, 2) for each in (keys, values))
    # The heads that share a key head stand where a sequence of queries would: no copy of keys per head is needed.
    q = query.unflatten(1, (kv_heads, -1))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=group.mask).flatten(1)


def _span(query: Tensor, keys: Tensor, values: Tensor, span: Span) -> Tensor:
    count, heads, dim = query.shape
    k = keys.index_select(0, span.slots).transpose(0, 1)[None]
    v = values.index_select(0, span.slots).transpose(0, 1)[None]
    if span.apart:
        assert span.mask is not None
        k, v, mask = k.expand(count, -1, -1, -1), v.expand(count, -1, -1, -1), span.mask[:, None, None]
        return F.scaled_dot_product_attention(query.unflatten(1, (k.shape[1], -1)), k, v, attn_mask=mask).flatten(1)
    q = query.transpose(0, 1)[None]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=span.mask, is_causal=span.causal, enable_gqa=True)
    return out[0].transpose(0, 1).reshape(count, heads * dim)
