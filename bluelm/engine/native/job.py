"""Where in `job` is what, how it is read in compiled code, and how that is compiled.

What is to be done stands in `job`, whole numbers at these places: sizes and addresses.
"""

from __future__ import annotations

import numpy as np
from numba import carray, config, njit

from bluelm.engine.native import cache_folder
from bluelm.engine.native.vectors import pointer

# Places in `job`. What is to be done:
KIND, ROWS, SINGLES, SAMPLED, FIRST, LAST, FROM_MIDDLE, TO_MIDDLE = range(8)
# The model's sizes:
LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, INNER = range(8, 14)
# Addresses: the model's tables; the step's tokens; working space.
TABLE, NORM, EPS, COS, SIN = range(14, 19)
POSITIONS, SLOTS, BLOCKS, BLOCKS_EACH, BLOCK_SIZE, WANTED = range(19, 25)
KEYS, VALUES, LAYER_BYTES = range(25, 28)
X, QKV, ATTENDED, GATES, CODES, SCALES, SCRATCH, SCRATCH_EACH, RESULT = range(28, 37)
BITS = 37  # of the matrices
# Of a single product: x [rows, inner] float32 is at X, the result at RESULT.
MATRIX, OUTER = 38, 39
JOB = 40

STEP, PRODUCT = range(2)  # kinds
QKV_CODES, O_CODES, GATE_UP_CODES, DOWN_CODES, INPUT_NORM, POST_NORM = range(6)  # columns of the table, a row a layer

# Places in `control`, each in a cache line of its own; behind what is waited for stands how many sleep.
ARRIVED, TURN, TAKEN, BELL = (8 * index for index in range(4))
CONTROL = 8 * 8

config.CACHE_DIR = str(cache_folder())
compiled = njit(error_model="numpy")  # Python's would look for a division by 0 at each
loose = njit(error_model="numpy", fastmath={"reassoc", "contract", "nsz"})  # not "nnan": what is no number stays so


@compiled
def numbers(address, count):
    """float32 [count] there."""
    return carray(pointer(address), (count,), np.float32)


@compiled
def wholes(address, count):
    return carray(pointer(address), (count,), np.int64)


@compiled
def halves(address, count):
    """bfloat16 [count] there, as bits."""
    return carray(pointer(address), (count,), np.uint16)
