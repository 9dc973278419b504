"""A step of a Llama as all threads do it together, in one call: between its parts they wait for each other.

Residuals, queries and gates are float32; what a matrix multiplies is rounded to 8 bits in groups of 32; keys and values
are bfloat16.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from bluelm.engine.native.job import (
    ATTENDED,
    BELL,
    BITS,
    BLOCK_SIZE,
    BLOCKS,
    BLOCKS_EACH,
    CODES,
    COS,
    DOWN_CODES,
    EPS,
    FIRST,
    FROM_MIDDLE,
    GATE_UP_CODES,
    GATES,
    HEAD_DIM,
    HEADS,
    HIDDEN,
    INNER,
    INPUT_NORM,
    KEYS,
    KIND,
    KV_HEADS,
    LAST,
    LAYER_BYTES,
    LAYERS,
    NORM,
    O_CODES,
    POSITIONS,
    POST_NORM,
    QKV,
    QKV_CODES,
    RESULT,
    ROWS,
    SAMPLED,
    SCALES,
    SCRATCH,
    SCRATCH_EACH,
    SIN,
    SINGLES,
    SLOTS,
    STEP,
    TABLE,
    TAKEN,
    TO_MIDDLE,
    VALUES,
    WANTED,
    X,
    compiled,
    halves,
    loose,
    numbers,
    wholes,
)
from bluelm.engine.native.products import multiply, one_product, rounded
from bluelm.engine.native.together import change, meet, share, until_changed
from bluelm.engine.native.vectors import (
    GROUP,
    alike,
    apart,
    exponential,
    fetched_added,
    maximum,
    narrowed,
    weighed,
)


@loose
def norm(x, weight, eps, out):
    """x / sqrt(mean(x^2) + eps) * weight."""
    total = np.float32(0)
    for i in range(len(x)):
        total += x[i] * x[i]
    factor = np.float32(1) / math.sqrt(total / np.float32(len(x)) + eps)
    for i in range(len(x)):
        out[i] = x[i] * factor * weight[i]


@compiled
def normed(thread, threads, control, job, weight):
    """Each row of x, by the norm's weight, rounded for the next product."""
    apart()
    rows, hidden = job[ROWS], job[HIDDEN]
    scratch, eps = job[SCRATCH] + 4 * thread * job[SCRATCH_EACH], numbers(job[EPS], hidden)[0]
    begin, end = share(thread, threads, rows)
    for row in range(begin, end):
        x = numbers(job[X] + 4 * row * hidden, hidden)
        norm(x, numbers(weight, hidden), eps, numbers(scratch, hidden))
        rounded(scratch, row, rows, hidden, np.int64(0), hidden // GROUP, job[CODES], job[SCALES])
    meet(threads, control)


@loose
def turned(head, cos, sin):
    """Half-rotation rotary embedding of a head, in place."""
    half = len(cos)
    for i in range(half):
        one, other = head[i], head[half + i]
        head[i] = one * cos[i] - other * sin[i]
        head[half + i] = other * cos[i] + one * sin[i]


@compiled
def all_narrowed(numbers, out):
    for i in range(len(numbers)):
        out[i] = narrowed(numbers[i])


@compiled
def placed(thread, threads, control, job, layer):
    """Queries and keys turned to their positions; keys and values into the cache."""
    rows, heads, kv_heads, dim = job[ROWS], job[HEADS], job[KV_HEADS], job[HEAD_DIM]
    positions, slots = wholes(job[POSITIONS], rows), wholes(job[SLOTS], rows)
    begin, end = share(thread, threads, rows)
    for row in range(begin, end):
        cos = numbers(job[COS] + 2 * dim * positions[row], dim // 2)
        sin = numbers(job[SIN] + 2 * dim * positions[row], dim // 2)
        first = job[QKV] + 4 * dim * row * (heads + 2 * kv_heads)
        for head in range(heads + kv_heads):
            turned(numbers(first + 4 * dim * head, dim), cos, sin)
        width = kv_heads * dim
        there, keys = layer * job[LAYER_BYTES] + 2 * width * slots[row], first + 4 * dim * heads
        all_narrowed(numbers(keys, width), halves(job[KEYS] + there, width))
        all_narrowed(numbers(keys + 4 * width, width), halves(job[VALUES] + there, width))
    meet(threads, control)


@loose
def softmax(scores):
    """In place, but for the factor that is given: 1 / their sum."""
    largest = scores[0]
    for i in range(len(scores)):
        largest = maximum(largest, scores[i])
    for i in range(len(scores)):
        scores[i] = exponential(scores[i] - largest)
    total = np.float32(0)
    for i in range(len(scores)):
        total += scores[i]
    return np.float32(1) / total


@compiled
def attend(job, layer, row, kv_head, scratch):
    """The heads of one token that share a key head, over its own row of the cache."""
    heads, kv_heads, dim = job[HEADS], job[KV_HEADS], job[HEAD_DIM]
    shared, size = heads // kv_heads, job[BLOCK_SIZE]
    length = wholes(job[POSITIONS], job[ROWS])[row] + 1
    blocks = wholes(job[BLOCKS] + 8 * row * job[BLOCKS_EACH], job[BLOCKS_EACH])
    queries = job[QKV] + 4 * dim * (row * (heads + 2 * kv_heads) + kv_head * shared)
    out = job[ATTENDED] + 4 * dim * (row * heads + kv_head * shared)
    scale, each = np.float32(1) / math.sqrt(np.float32(dim)), 2 * dim * kv_heads
    there = layer * job[LAYER_BYTES] + 2 * dim * kv_head
    for head in range(shared):
        for first in range(0, length, size):
            keys, count = job[KEYS] + there + each * size * blocks[first // size], min(size, length - first)
            alike(queries + 4 * dim * head, dim, keys, count, each, scale, scratch + 4 * first)
        weights, result = numbers(scratch, length), numbers(out + 4 * dim * head, dim)
        factor = softmax(weights)
        for i in range(length):
            weights[i] *= factor
        for i in range(dim):
            result[i] = np.float32(0)
        for first in range(0, length, size):
            values, count = job[VALUES] + there + each * size * blocks[first // size], min(size, length - first)
            weighed(scratch + 4 * first, values, count, each, dim, out + 4 * dim * head)


@compiled
def attended(thread, threads, control, job, layer):
    """Attention of the tokens that are looked up one by one; all threads take them in turn."""
    scratch, kv_heads = job[SCRATCH] + 4 * thread * job[SCRATCH_EACH], job[KV_HEADS]
    while True:
        part = fetched_added(control + 8 * TAKEN, 1)
        if part >= job[SINGLES] * kv_heads:
            break
        attend(job, layer, part // kv_heads, part % kv_heads, scratch)
    meet(threads, control)


@compiled
def gated(gates, ups, out):
    """silu(gate) * up."""
    for i in range(len(gates)):
        out[i] = ups[i] * (gates[i] / (np.float32(1) + exponential(-gates[i])))


@compiled
def fed_forward(thread, threads, control, job, down):
    """What the gates let through, rounded, and multiplied by the last matrix of a layer."""
    rows, inner, hidden = job[ROWS], job[INNER], job[HIDDEN]
    scratch, groups = job[SCRATCH] + 4 * thread * job[SCRATCH_EACH], inner // GROUP
    head, last, begin, end = (
        0,
        rows,
        thread * groups // threads,
        (thread + 1) * groups // threads,
    )  # few: of each a part
    if rows >= 2 * threads:
        (head, last), begin, end = share(thread, threads, rows), 0, groups
    for row in range(head, last):
        first, count = job[GATES] + 4 * (2 * inner * row + GROUP * begin), GROUP * (end - begin)
        gated(numbers(first, count), numbers(first + 4 * inner, count), numbers(scratch, count))
        rounded(scratch, row, rows, inner, begin, end, job[CODES], job[SCALES])
    meet(threads, control)
    multiply(threads, control, job[BITS], down, inner, hidden, rows, job[CODES], job[SCALES], job[X], np.int64(1))


@compiled
def begin_layer(thread, threads, control, job, layer, table):
    """Until all keys of the layer are in the cache, and the SINGLES first tokens have looked at theirs."""
    outer = (job[HEADS] + 2 * job[KV_HEADS]) * job[HEAD_DIM]
    normed(thread, threads, control, job, table[INPUT_NORM])
    codes, scales = job[CODES], job[SCALES]
    multiply(
        threads,
        control,
        job[BITS],
        table[QKV_CODES],
        job[HIDDEN],
        outer,
        job[ROWS],
        codes,
        scales,
        job[QKV],
        np.int64(0),
    )
    placed(thread, threads, control, job, layer)
    attended(thread, threads, control, job, layer)


@compiled
def end_layer(thread, threads, control, job, table):
    """From what attention gave on."""
    rows, hidden, width = job[ROWS], job[HIDDEN], job[HEADS] * job[HEAD_DIM]
    begin, end = share(thread, threads, rows)
    for row in range(begin, end):
        there = job[ATTENDED] + 4 * row * width
        rounded(there, row, rows, width, np.int64(0), width // GROUP, job[CODES], job[SCALES])
    meet(threads, control)
    multiply(
        threads, control, job[BITS], table[O_CODES], width, hidden, rows, job[CODES], job[SCALES], job[X], np.int64(1)
    )
    normed(thread, threads, control, job, table[POST_NORM])
    codes, scales, twice = job[CODES], job[SCALES], 2 * job[INNER]
    multiply(
        threads, control, job[BITS], table[GATE_UP_CODES], hidden, twice, rows, codes, scales, job[GATES], np.int64(0)
    )
    fed_forward(thread, threads, control, job, table[DOWN_CODES])


@compiled
def step(thread, threads, control, job):
    """Layers FIRST .. LAST: of the first only its second half, and of the last only its first, where that is said."""
    for layer in range(job[FIRST], job[LAST] + 1):
        table = wholes(job[TABLE] + 8 * 6 * layer, 6)
        if layer > job[FIRST] or not job[FROM_MIDDLE]:
            begin_layer(thread, threads, control, job, layer, table)
        if layer < job[LAST] or not job[TO_MIDDLE]:
            end_layer(thread, threads, control, job, table)
    if job[LAST] == job[LAYERS] - 1 and not job[TO_MIDDLE]:
        hidden, wanted = job[HIDDEN], wholes(job[WANTED], job[SAMPLED])
        weight, eps = numbers(job[NORM], hidden), numbers(job[EPS], hidden)[0]
        for index in range(thread, job[SAMPLED], threads):
            x, out = job[X] + 4 * hidden * wanted[index], job[RESULT] + 4 * hidden * index
            norm(numbers(x, hidden), weight, eps, numbers(out, hidden))


@njit("void(int64, int64, int64, int64[::1])", nogil=True, cache=True, error_model="numpy")
def work(thread, threads, control, job):
    """Do the job, as thread 0; as another, all jobs, one after the other, as soon as the bell rings."""
    heard = np.int64(0)
    while True:
        if thread == 0:
            change(control + 8 * BELL)
        else:
            until_changed(control + 8 * BELL, heard)
            heard += 1
        if job[KIND] == STEP:
            step(thread, threads, control, job)
        else:
            one_product(thread, threads, control, job)
        meet(threads, control)
        if thread == 0:
            return
