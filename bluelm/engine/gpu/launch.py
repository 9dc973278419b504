"""How a kernel is started so that it may begin while the one before it is still ending.

On cards of compute capability 9.0 and up each kernel of a step is launched as a programmatic dependent of the one
before: it starts as soon as there is room, fetches what does not depend on the others (weights), and waits before it
touches what they wrote. Every kernel waits, so each one sees the results of all that came before.
"""

# mypy: disable-error-code="no-untyped-def"
from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def begin(EARLY: tl.constexpr):
    """Let the next kernel start, then wait for what the earlier ones wrote."""
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()


@triton.jit
def prefetch(addresses, size, EARLY: tl.constexpr):
    """Ask for `size` bytes (a multiple of 16) at each address to be brought into the card's L2 cache."""
    if EARLY:
        tl.inline_asm_elementwise(
            "cp.async.bulk.prefetch.L2.global [$1], $2; mov.b32 $0, 0;",
            "=r,l,r",
            [addresses.to(tl.int64), size],
            dtype=tl.int32,
            is_pure=False,
            pack=1,
        )


@cache
def early(device: torch.device) -> bool:
    """Whether the card can start kernels early."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def options(device: torch.device) -> dict[str, bool]:
    """Keyword arguments that every launch of a step's kernel takes."""
    return {"EARLY": True, "launch_pdl": True} if early(device) else {"EARLY": False}
