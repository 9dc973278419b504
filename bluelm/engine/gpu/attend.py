"""Attention of one new token per row over its paged cache, with rotary embedding and cache write in the same kernel.

A row's context is cut into at most 16 chunks, by its own length alone. Where there are few rows, programs share a
head's chunks out, each leaves its chunks' softmax sums, and the last one to finish adds them up in order; where there
are many, one program does it all. The sums are added in the same order either way: who computes a chunk never changes
the result.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from bluelm.engine.gpu import launch, shapes
from bluelm.engine.gpu.rows import turned

GROUP_TILE = 16  # query heads that share a key head are padded to this for the tensor cores
CHUNKS = tl.constexpr(16)  # of a row, at most
SHORTEST = tl.constexpr(32)  # tokens of a chunk


@dataclass(frozen=True, slots=True)
class Paged:
    """What the rows of a step share. States are per row in the engine, batch rows name theirs in `slots`.

    slots: [batch] int32; position: [states] int32, the new token's; tables: [states, blocks] int32;
    cos, sin: [context, D] float32, sin's first half negated; part: [batch, kv_heads, CHUNKS, group, D] float32 and
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
    block_size: int

    @classmethod
    def make(
        cls, slots: Tensor, position: Tensor, tables: Tensor, cos: Tensor, sin: Tensor, heads: int, kv_heads: int,
        block_size: int,
    ) -> Paged:  # fmt: skip
        lead = (slots.shape[0], kv_heads, CHUNKS.value, heads // kv_heads)
        part = torch.empty((*lead, cos.shape[1]), dtype=torch.float32, device=cos.device)
        sums = torch.empty((*lead, 2), dtype=torch.float32, device=cos.device)
        done = torch.zeros(lead[:2], dtype=torch.int32, device=cos.device)
        return cls(slots, position, tables, cos, sin, part, sums, done, block_size)


@triton.jit
def _cached(keys, values, table, head, first, position, KV: tl.constexpr, D: tl.constexpr, SIZE: tl.constexpr,
            STEP: tl.constexpr):  # fmt: skip
    """Keys and values [STEP, D] of the cached tokens from `first` on, zeros from `position` on."""
    t = first + tl.arange(0, STEP)
    inside = t < position
    slot = tl.load(table + t // SIZE, mask=inside, other=0).to(tl.int64) * SIZE + t % SIZE
    at = (slot * KV + head)[:, None] * D + tl.arange(0, D)[None, :]
    key = tl.load(keys + at, mask=inside[:, None], other=0.0)
    return key, tl.load(values + at, mask=inside[:, None], other=0.0)


@triton.jit
def _queries(qkv, cos, sin, head, HEADS: tl.constexpr, KV: tl.constexpr, G16: tl.constexpr, D: tl.constexpr):
    """The turned queries of a key head, float32: [D], or [G16, D] where several share it. cos, sin: [D]."""
    G: tl.constexpr = HEADS // KV
    d = tl.arange(0, D)
    if G == 1:
        q = turned(qkv + head * D, cos, sin, d, D)
    else:
        g = tl.arange(0, G16)
        at = qkv + tl.where(g < G, head * G + g, 0)[:, None] * D
        here = tl.load(at + d[None, :]).to(tl.float32)
        there = tl.load(at + ((d + D // 2) % D)[None, :]).to(tl.float32)
        q = here * cos[None, :] + there * sin[None, :]
    return q


@triton.jit
def _add(most, total, out, q, key, value, inside, scale, G: tl.constexpr):
    """Softmax sums (greatest score, sum of weights, weighted values) with another tile of tokens added."""
    if G == 1:
        score = tl.sum(key.to(tl.float32) * q.to(tl.float32)[None, :], axis=1) * scale
        score = tl.where(inside, score, -float("inf"))
        new = tl.maximum(most, tl.max(score))
        weight = tl.exp(score - new)
        keep = tl.exp(most - new)
        out = out * keep + tl.sum(weight[:, None] * value.to(tl.float32), axis=0)
        total = total * keep + tl.sum(weight)
    else:
        score = tl.dot(q, tl.trans(key), input_precision="ieee") * scale
        score = tl.where(inside[None, :], score, -float("inf"))
        new = tl.maximum(most, tl.max(score, axis=1))
        weight = tl.exp(score - new[:, None])
        keep = tl.exp(most - new)
        out = out * keep[:, None] + tl.dot(weight.to(value.dtype), value, input_precision="ieee")
        total = total * keep + tl.sum(weight, axis=1)
    return new, total, out


@triton.jit
def _score(q, key, scale, G: tl.constexpr):
    """One key's scores: a number for one query [D], [G16] for queries [G16, D]."""
    if G == 1:
        score = tl.sum(key * q) * scale
    else:
        score = tl.sum(key[None, :] * q, axis=1) * scale
    return score


@triton.jit
def _begun(newest, score, value, G: tl.constexpr, G16: tl.constexpr, D: tl.constexpr):
    """A chunk's sums before its cached keys: those of the new token where `newest`, else of nothing."""
    most = tl.where(newest, score, -float("inf"))
    total = tl.where(newest, 1.0, 0.0) + score * 0.0
    if G == 1:
        out = tl.where(newest, value.to(tl.float32), 0.0)
    else:
        out = tl.where(newest, value.to(tl.float32)[None, :], 0.0) + tl.zeros((G16, D), tl.float32)
    return most, total, out


@triton.jit
def _keep(part, part_sums, most, total, out, at, d, g, G: tl.constexpr, D: tl.constexpr):
    """Store a chunk's sums for `_summed`; `at` is the chunk's place among all of this key head."""
    if G == 1:
        tl.store(part + at * D + d, out)
        tl.store(part_sums + at * 2, total)
        tl.store(part_sums + at * 2 + 1, most)
    else:
        tl.store(part + (at * G + g[:, None]) * D + d[None, :], out, mask=(g < G)[:, None])
        tl.store(part_sums + (at * G + g) * 2, total, mask=g < G)
        tl.store(part_sums + (at * G + g) * 2 + 1, most, mask=g < G)


@triton.jit
def _attend(
    qkv, keys, values, y, slots, positions, tables, cosines, sines, part, part_sums, done, scale,
    HEADS: tl.constexpr, KV: tl.constexpr, G16: tl.constexpr, D: tl.constexpr, SIZE: tl.constexpr,
    BLOCKS: tl.constexpr, STEP: tl.constexpr, SPLITS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    if EARLY:
        gdc_launch_dependents()
    G: tl.constexpr = HEADS // KV
    head, split, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    d, g = tl.arange(0, D), tl.arange(0, G16)
    # All up to the wait was written before this step began.
    state = tl.load(slots + row).to(tl.int64)
    position = tl.load(positions + state).to(tl.int64)
    BASE: tl.constexpr = SHORTEST // STEP
    doubled = _doubled(position)
    length = SHORTEST << doubled
    tiles = BASE << doubled
    chunks = (position // length + 1).to(tl.int32)
    if split >= chunks:
        return
    table = tables + state * BLOCKS
    cos = tl.load(cosines + position * D + d)
    sin = tl.load(sines + position * D + d)
    key, value = _cached(keys, values, table, head, split * length, position, KV, D, SIZE, STEP)
    if EARLY:
        gdc_wait()
    qkv += row.to(tl.int64) * (HEADS + 2 * KV) * D
    q, new_key, new_value, score = _newest(qkv, cos, sin, head, scale, keys.dtype.element_ty, HEADS, KV, G16, D)
    lead = (row * KV + head).to(tl.int64) * CHUNKS
    most, total, out = _begun(False, score, new_value, G, G16, D)
    all_most, all_total, all_out = most, total, out
    for tile in range(0, tl.cdiv(chunks - split, SPLITS) * tiles):
        chunk = split + (tile // BASE >> doubled) * SPLITS
        inside = _tile(tile, split, tiles, doubled, BASE, SPLITS) * STEP + tl.arange(0, STEP) < position
        if tile & tiles - 1 == 0:  # the last chunk begins with the new token, the others with nothing
            most, total, out = _begun(chunk == chunks - 1, score, new_value, G, G16, D)
        most, total, out = _add(most, total, out, q, key, value, inside, scale, G)
        if tile & tiles - 1 == tiles - 1:
            if SPLITS == 1:
                all_most, all_total, all_out = _merged(all_most, all_total, all_out, most, total, out, G)
            else:
                _keep(part, part_sums, most, total, out, lead + chunk, d, g, G, D)
        first = _tile(tile + 1, split, tiles, doubled, BASE, SPLITS) * STEP
        key, value = _cached(keys, values, table, head, first, position, KV, D, SIZE, STEP)
    if split == (chunks - 1) % SPLITS:
        at = (tl.load(table + position // SIZE).to(tl.int64) * SIZE + position % SIZE) * KV + head
        tl.store(keys + at * D + d, new_key)
        tl.store(values + at * D + d, new_value)
    y += (row.to(tl.int64) * HEADS + head * G) * D
    last = True
    if SPLITS > 1:
        tl.debug_barrier()  # all of this program's sums are written before it says so
        last = tl.atomic_add(done + row * KV + head, 1) == tl.minimum(chunks, SPLITS) - 1
        if last:
            tl.store(done + row * KV + head, 0)
            all_total, all_out = _summed(part, part_sums, lead, chunks, all_most, all_total, all_out, d, g, G, D)
    if last:
        _store(y, all_total, all_out, d, g, G, D)


@triton.jit
def _newest(qkv, cos, sin, head, scale, kind: tl.constexpr, HEADS: tl.constexpr, KV: tl.constexpr, G16: tl.constexpr,
            D: tl.constexpr):  # fmt: skip
    """The new token's queries and key, turned, its value, and the score of one with the other."""
    d = tl.arange(0, D)
    q = _queries(qkv, cos, sin, head, HEADS, KV, G16, D).to(kind)
    key = turned(qkv + (HEADS + head) * D, cos, sin, d, D).to(kind)
    value = tl.load(qkv + (HEADS + KV + head) * D + d)
    return q, key, value, _score(q.to(tl.float32), key.to(tl.float32), scale, HEADS // KV)


@triton.jit
def _doubled(position):
    """How often the shortest chunk is doubled for a row with so many cached tokens."""
    longer = position >= (1 << tl.arange(0, 16)) * CHUNKS * SHORTEST
    return tl.sum(longer.to(tl.int32))


@triton.jit
def _tile(number, split, tiles, doubled, BASE: tl.constexpr, SPLITS: tl.constexpr):
    """Which tile of the row is a program's tile of this number: those of its first chunk, then of its next."""
    return (split + (number // BASE >> doubled) * SPLITS) * tiles + (number & tiles - 1)


@triton.jit
def _merged(most, total, out, more, sum, value, G: tl.constexpr):
    """Softmax sums of a chunk added to those of all before it."""
    new = tl.maximum(most, more)
    keep = tl.exp(most - new)
    weight = tl.exp(more - new)
    if G == 1:
        out = out * keep + value * weight
    else:
        out = out * keep[:, None] + value * weight[:, None]
    return new, total * keep + sum * weight, out


@triton.jit
def _summed(part, part_sums, lead, chunks, most, total, out, d, g, G: tl.constexpr, D: tl.constexpr):
    """The sums of all chunks, added in order. Fetched four chunks at a time, since each fetch takes a while."""
    for start in range(0, chunks, 4):
        for chunk in tl.static_range(0, 4):
            at = lead + tl.minimum(start + chunk, chunks - 1)
            if G == 1:
                sum = tl.load(part_sums + at * 2, cache_modifier=".cg")
                more = tl.load(part_sums + at * 2 + 1, cache_modifier=".cg")
                value = tl.load(part + at * D + d, cache_modifier=".cg")
            else:
                at = at * G + tl.where(g < G, g, 0)
                sum = tl.load(part_sums + at * 2, cache_modifier=".cg")
                more = tl.load(part_sums + at * 2 + 1, cache_modifier=".cg")
                value = tl.load(part + at[:, None] * D + d[None, :], cache_modifier=".cg")
            more = tl.where(start + chunk < chunks, more, -float("inf"))  # of nothing
            most, total, out = _merged(most, total, out, more, sum, value, G)
    return total, out


@triton.jit
def _store(y, total, out, d, g, G: tl.constexpr, D: tl.constexpr):
    if G == 1:
        tl.store(y + d, (out / total).to(y.dtype.element_ty))
    else:
        kept = (out / tl.where(g < G, total, 1.0)[:, None]).to(y.dtype.element_ty)
        tl.store(y + g[:, None] * D + d[None, :], kept, mask=(g < G)[:, None])


def attend(
    qkv: Tensor, keys: Tensor, values: Tensor, y: Tensor, paged: Paged, rows: int,
    reading: shapes.Reading = shapes.READING,
) -> None:  # fmt: skip
    """Attention of each row's new token; its key (turned) and value go to the cache.

    qkv: [>= rows, (heads + 2 kv_heads) * D], not yet turned; keys, values: one layer's cache [slots, kv_heads, D];
    y: [>= rows, heads * D]. A row's numbers depend on `reading`'s step and warps, not on its programs.
    """
    kv_heads, dim = keys.shape[1:]
    heads = y.shape[1] // dim
    group = 1 if heads == kv_heads else max(GROUP_TILE, triton.next_power_of_2(heads // kv_heads))
    step = reading.step if group == 1 else max(reading.step, GROUP_TILE)
    splits = shapes.splits(rows * kv_heads, CHUNKS.value, reading.programs)
    _attend[(kv_heads, splits, rows)](
        qkv, keys, values, y, paged.slots, paged.position, paged.tables, paged.cos, paged.sin, paged.part,
        paged.part_sums, paged.done, dim**-0.5, heads, kv_heads, group, dim,
        paged.block_size, paged.tables.shape[1], step, splits,
        num_warps=reading.warps, **launch.options(qkv.device),
    )  # fmt: skip
