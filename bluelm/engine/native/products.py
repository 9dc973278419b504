"""Products of all rows by one matrix: rows are rounded to 8 bits, and threads take tiles of outputs in turn."""

from __future__ import annotations

import numpy as np

from bluelm.engine.native.job import BITS, CODES, INNER, MATRIX, OUTER, RESULT, ROWS, SCALES, TAKEN, X, compiled
from bluelm.engine.native.together import meet, share
from bluelm.engine.native.vectors import GROUP, STRIDE_4, STRIDE_8, TILE, apart, fetched_added, product, quantize

ROW_PANELS = (8, 4)  # rows that are multiplied at once; what is left, one by one
_four_by_8, _four_by_4, _four_by_1 = (product(rows, 4) for rows in (*ROW_PANELS, 1))
_eight_by_8, _eight_by_4, _eight_by_1 = (product(rows, 8) for rows in (*ROW_PANELS, 1))


@compiled
def panel(row, rows):
    """The rows that are multiplied together with this one: the first, and how many."""
    if row < rows // 8 * 8:
        return row // 8 * 8, 8
    first = rows // 8 * 8
    if rows - first >= 4 and row < first + 4:
        return first, 4
    return row, 1


@compiled
def rounded(address, row, rows, inner, begin, end, codes, scales):
    """Groups begin .. end-1 of a row, float32 from `address` on, into the place where `multiply` wants them."""
    apart()
    first, width = panel(row, rows)
    codes += first * inner + (row - first) * GROUP
    scales += 8 * (first * (inner // GROUP) + row - first)
    for group in range(begin, end):
        quantize(address + 4 * GROUP * (group - begin), codes + GROUP * width * group, scales + 8 * width * group)


@compiled
def tiles(bits, matrix, first, last, inner, outer, rows, codes, scales, out, adding):
    """Outputs of tiles first .. last-1 for all rows."""
    apart()
    groups = inner // GROUP
    stride = groups * (STRIDE_4 if bits == 4 else STRIDE_8)
    for tile in range(first, last):
        there = matrix + tile * stride
        row = 0
        while row < rows:
            row, width = panel(row, rows)
            x, s, y = codes + row * inner, scales + 8 * row * groups, out + 4 * (row * outer + tile * TILE)
            if bits == 4:
                if width == 8:
                    _four_by_8(there, x, s, inner, y, outer, adding)
                elif width == 4:
                    _four_by_4(there, x, s, inner, y, outer, adding)
                else:
                    _four_by_1(there, x, s, inner, y, outer, adding)
            elif width == 8:
                _eight_by_8(there, x, s, inner, y, outer, adding)
            elif width == 4:
                _eight_by_4(there, x, s, inner, y, outer, adding)
            else:
                _eight_by_1(there, x, s, inner, y, outer, adding)
            row += width


@compiled
def multiply(threads, control, bits, matrix, inner, outer, rows, codes, scales, out, adding):
    """All threads take tiles in turn, so that one that is held up holds up no other for long."""
    apart()
    count = outer // TILE
    share = max(count // (8 * threads), 1)
    while True:
        first = fetched_added(control + 8 * TAKEN, share)
        if first >= count:
            break
        tiles(bits, matrix, first, min(first + share, count), inner, outer, rows, codes, scales, out, adding)
    meet(threads, control)


@compiled
def one_product(thread, threads, control, job):
    """x W^T of one matrix."""
    rows, inner = job[ROWS], job[INNER]
    begin, end = share(thread, threads, rows)
    for row in range(begin, end):
        rounded(job[X] + 4 * row * inner, row, rows, inner, np.int64(0), inner // GROUP, job[CODES], job[SCALES])
    meet(threads, control)
    bits, matrix, outer = job[BITS], job[MATRIX], job[OUTER]
    multiply(threads, control, bits, matrix, inner, outer, rows, job[CODES], job[SCALES], job[RESULT], np.int64(0))
