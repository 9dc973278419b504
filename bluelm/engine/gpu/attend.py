"""Attention of one new token per row over its paged cache, with rotary embedding and cache write in the same kernel.

A row's context is cut into chunks of a fixed length. Programs share the chunks out, each leaves its chunks' softmax
sums, and the last one of a head to finish adds them up in order: who computes a chunk never changes the result.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from bluelm.engine.gpu import launch, shapes
from bluelm.engine.gpu.launch import begin
from bluelm.engine.gpu.rows import turned

GROUP_TILE = 16  # query heads that share a key head are padded to this for the tensor cores


@dataclass(frozen=True, slots=True)
class Paged:
    """What the rows of a step share. States are per row in the engine, batch rows name theirs in `slots`.

    slots: [batch] int32; position: [states] int32, the new token's; tables: [states, blocks] int32;
    cos, sin: [context, D] float32, sin's first half negated; part: [batch, kv_heads, chunks, group, D] float32 and
    part_sums: [..., group, 2] (sum and greatest score), done: [batch, kv_heads] int32, zeros between launches.
    """

    slots: Tensor
    position: Tensor
    tables: Tensor
    cos: Tensor
    sin: Tensor
    part: Tensor
    part_sums: Tensor
    done: Tensor
    chunk: int
    block_size: int

    @classmethod
    def make(
        cls, slots: Tensor, position: Tensor, tables: Tensor, cos: Tensor, sin: Tensor, heads: int, kv_heads: int,
        block_size: int,
    ) -> Paged:  # fmt: skip
        context, dim = cos.shape
        chunk = shapes.chunk(context)
        lead = (slots.shape[0], kv_heads, triton.cdiv(context, chunk), heads // kv_heads)
        part = torch.empty((*lead, dim), dtype=torch.float32, device=cos.device)
        sums = torch.empty((*lead, 2), dtype=torch.float32, device=cos.device)
        done = torch.zeros(lead[:2], dtype=torch.int32, device=cos.device)
        return cls(slots, position, tables, cos, sin, part, sums, done, chunk, block_size)


@triton.jit
def _add_chunk_single(q, keys, values, table, head, first, end, scale,
                      KV: tl.constexpr, D: tl.constexpr, SIZE: tl.constexpr, CHUNK: tl.constexpr,
                      STEP: tl.constexpr):  # fmt: skip
    """Softmax sums over cached tokens first .. end-1 of one query head. q: [D] float32."""
    d = tl.arange(0, D)
    most = -float("inf")
    total = 0.0
    out = tl.zeros((D,), tl.float32)
    for start in range(first, tl.minimum(first + CHUNK, end), STEP):
        t = start + tl.arange(0, STEP)
        inside = t < end
        slot = tl.load(table + t // SIZE, mask=inside, other=0).to(tl.int64) * SIZE + t % SIZE
        at = (slot * KV + head)[:, None] * D + d[None, :]
        key = tl.load(keys + at, mask=inside[:, None], other=0.0)
        value = tl.load(values + at, mask=inside[:, None], other=0.0)
        score = tl.where(inside, tl.sum(key.to(tl.float32) * q[None, :], axis=1) * scale, -float("inf"))
        new = tl.maximum(most, tl.max(score))
        keep = tl.exp(most - new)
        weight = tl.exp(score - new)
        out = out * keep + tl.sum(weight[:, None] * value.to(tl.float32), axis=0)
        total = total * keep + tl.sum(weight)
        most = new
    return most, total, out


@triton.jit
def _add_chunk_group(q, keys, values, table, head, first, end, scale,
                     G16: tl.constexpr, KV: tl.constexpr, D: tl.constexpr, SIZE: tl.constexpr, CHUNK: tl.constexpr,
                     STEP: tl.constexpr):  # fmt: skip
    """The same for all query heads of a key head. q: [G16, D] in the cache's dtype."""
    d = tl.arange(0, D)
    most = tl.full((G16,), -float("inf"), tl.float32)
    total = tl.zeros((G16,), tl.float32)
    out = tl.zeros((G16, D), tl.float32)
    for start in range(first, tl.minimum(first + CHUNK, end), STEP):
        t = start + tl.arange(0, STEP)
        inside = t < end
        slot = tl.load(table + t // SIZE, mask=inside, other=0).to(tl.int64) * SIZE + t % SIZE
        at = (slot * KV + head)[:, None] * D + d[None, :]
        key = tl.load(keys + at, mask=inside[:, None], other=0.0)
        value = tl.load(values + at, mask=inside[:, None], other=0.0)
        score = tl.dot(q, tl.trans(key), input_precision="ieee") * scale
        score = tl.where(inside[None, :], score, -float("inf"))
        new = tl.maximum(most, tl.max(score, axis=1))
        keep = tl.exp(most - new)
        weight = tl.exp(score - new[:, None])
        out = out * keep[:, None] + tl.dot(weight.to(value.dtype), value, input_precision="ieee")
        total = total * keep + tl.sum(weight, axis=1)
        most = new
    return most, total, out


@triton.jit
def _attend(
    qkv, keys, values, y, slots, positions, tables, cos, sin, part, part_sums, done, scale,
    HEADS: tl.constexpr, KV: tl.constexpr, G16: tl.constexpr, D: tl.constexpr, SIZE: tl.constexpr,
    BLOCKS: tl.constexpr, CHUNKS: tl.constexpr, CHUNK: tl.constexpr, STEP: tl.constexpr, SPLITS: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    begin(EARLY)
    head = tl.program_id(0)
    split = tl.program_id(1)
    row = tl.program_id(2)
    G: tl.constexpr = HEADS // KV
    state = tl.load(slots + row)
    position = tl.load(positions + state).to(tl.int64)
    table = tables + state.to(tl.int64) * BLOCKS
    d = tl.arange(0, D)
    g = tl.arange(0, G16)
    qkv += row.to(tl.int64) * (HEADS + 2 * KV) * D
    chunks = (position // CHUNK + 1).to(tl.int32)
    if split >= chunks:
        return
    type = keys.dtype.element_ty
    if G == 1:
        q = turned(qkv + head * D, position, cos, sin, d, D).to(type).to(tl.float32)
    else:
        at = tl.where(g < G, head * G + g, 0)[:, None] * D
        here = tl.load(qkv + at + d[None, :]).to(tl.float32)
        there = tl.load(qkv + at + ((d + D // 2) % D)[None, :]).to(tl.float32)
        q = here * tl.load(cos + position * D + d)[None, :] + there * tl.load(sin + position * D + d)[None, :]
        q = q.to(type)
    lead = (row * KV + head).to(tl.int64) * CHUNKS
    for chunk in range(split, chunks, SPLITS):
        first = chunk * CHUNK
        if G == 1:
            most, total, out = _add_chunk_single(
                q, keys, values, table, head, first, position, scale, KV, D, SIZE, CHUNK, STEP)  # fmt: skip
        else:
            most, total, out = _add_chunk_group(
                q, keys, values, table, head, first, position, scale, G16, KV, D, SIZE, CHUNK, STEP)  # fmt: skip
        if chunk == chunks - 1:  # the new token itself: from qkv into the cache, and into the sums
            key = turned(qkv + (HEADS + head) * D, position, cos, sin, d, D).to(type)
            value = tl.load(qkv + (HEADS + KV + head) * D + d)
            block = tl.load(table + position // SIZE).to(tl.int64)
            slot = ((block * SIZE + position % SIZE) * KV + head) * D
            tl.store(keys + slot + d, key)
            tl.store(values + slot + d, value)
            if G == 1:
                score = tl.sum(key.to(tl.float32) * q) * scale
            else:
                score = tl.sum(key.to(tl.float32)[None, :] * q.to(tl.float32), axis=1) * scale
            new = tl.maximum(most, score)
            keep = tl.exp(most - new)
            weight = tl.exp(score - new)
            if G == 1:
                out = out * keep + weight * value.to(tl.float32)
            else:
                out = out * keep[:, None] + weight[:, None] * value.to(tl.float32)[None, :]
            total = total * keep + weight
            most = new
        if G == 1:
            tl.store(part + (lead + chunk) * D + d, out)
            tl.store(part_sums + (lead + chunk) * 2, total)
            tl.store(part_sums + (lead + chunk) * 2 + 1, most)
        else:
            tl.store(part + ((lead + chunk) * G + g[:, None]) * D + d[None, :], out, mask=(g < G)[:, None])
            tl.store(part_sums + ((lead + chunk) * G + g) * 2, total, mask=g < G)
            tl.store(part_sums + ((lead + chunk) * G + g) * 2 + 1, most, mask=g < G)
    tl.debug_barrier()  # all of this program's sums are written before it says so
    others = tl.atomic_add(done + row * KV + head, 1)
    if others == tl.minimum(chunks, SPLITS) - 1:
        _finish(part, part_sums, y + (row.to(tl.int64) * HEADS + head * G) * D, lead, chunks, G, G16, D)
        tl.store(done + row * KV + head, 0)


@triton.jit
def _finish(part, part_sums, y, lead, chunks, G: tl.constexpr, G16: tl.constexpr, D: tl.constexpr):
    """Add up a head's chunks in order and store [G, D]."""
    d = tl.arange(0, D)
    g = tl.arange(0, G16)
    real = g < G
    most = tl.full((G16,), -float("inf"), tl.float32)
    total = tl.zeros((G16,), tl.float32)
    out = tl.zeros((G16, D), tl.float32)
    for chunk in range(0, chunks):
        at = (lead + chunk) * G + g
        sums = tl.load(part_sums + at * 2, mask=real, other=0.0, cache_modifier=".cg")
        score = tl.load(part_sums + at * 2 + 1, mask=real, other=0.0, cache_modifier=".cg")
        value = tl.load(part + at[:, None] * D + d[None, :], mask=real[:, None], other=0.0, cache_modifier=".cg")
        new = tl.maximum(most, score)
        keep = tl.exp(most - new)
        weight = tl.exp(score - new)
        out = out * keep[:, None] + value * weight[:, None]
        total = total * keep + sums * weight
        most = new
    tl.store(y + g[:, None] * D + d[None, :], (out / total[:, None]).to(y.dtype.element_ty), mask=real[:, None])


def attend(qkv: Tensor, keys: Tensor, values: Tensor, y: Tensor, paged: Paged, rows: int) -> None:
    """Attention of each row's new token; its key (turned) and value go to the cache.

    qkv: [>= rows, (heads + 2 kv_heads) * D], not yet turned; keys, values: one layer's cache [slots, kv_heads, D];
    y: [>= rows, heads * D].
    """
    kv_heads, dim = keys.shape[1:]
    heads = y.shape[1] // dim
    group = 1 if heads == kv_heads else max(GROUP_TILE, triton.next_power_of_2(heads // kv_heads))
    splits = shapes.splits(rows, kv_heads, paged.part.shape[2])
    _attend[(kv_heads, splits, rows)](
        qkv, keys, values, y, paged.slots, paged.position, paged.tables, paged.cos, paged.sin, paged.part,
        paged.part_sums, paged.done, dim**-0.5, heads, kv_heads, group, dim, paged.block_size,
        paged.tables.shape[1], paged.part.shape[2], paged.chunk, shapes.ATTEND_STEP, splits,
        num_warps=shapes.ATTEND_WARPS, **launch.options(qkv.device),
    )  # fmt: skip
