"""From 16 bits to 8 or 4 as a model is loaded: rounding to the nearest code, matrix by matrix, on the device.

8 bits: one scale a row. 4 bits: groups of neighbours along the input with a scale and a minimum each. A group's range
is first cut by each of CUTS in turn (a few far numbers then cost less than a coarse step for all), the codes are
rounded, the scale and minimum that fit these codes best are computed by least squares, and the codes rounded once
more; the cut with the least squared error is kept.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bluelm.engine.linear import Grouped4, Int8, Quantization, Stored, shape_of
from bluelm.errors import CheckpointError

GROUPS = (128, 64, 32)  # the first that divides the input
CUTS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
_NUMBERS = 1 << 24  # rounded at once: 64 MB in float32, and a few times that for what is computed from them
_LEAST = 2.0**-14  # a group's step: the least normal number of float16, in which steps are stored


def rounded(stored: Stored, quantization: Quantization) -> Stored | Int8:
    """A matrix [out, in] in the bits asked for; what is in 4 bits already stays as it is.

    Raises CheckpointError for a matrix that 4 bits do not fit.
    """
    if quantization == "none" or isinstance(stored, Grouped4):
        return stored
    return to_int8(stored) if quantization == "int8" else to_int4(stored)


def to_int8(weight: Tensor) -> Int8:
    """The scale is in the dtype of the weight."""
    codes = torch.empty(weight.shape, dtype=torch.int8, device=weight.device)
    scale = weight.new_empty(weight.shape[0])
    for rows in _pieces(weight):
        part = Int8.of(weight[rows].float(), weight.dtype)
        codes[rows], scale[rows] = part.codes, part.scale
    return Int8(codes, scale)


def to_int4(weight: Tensor, group: int = 0) -> Grouped4:
    """group: 0: the longest of GROUPS that divides the input."""
    out, inner = shape_of(weight)
    group = group or next((size for size in GROUPS if inner % size == 0), 0)
    if not group:
        raise CheckpointError(
            f"A matrix with {inner} inputs has no groups of {GROUPS[-1]}, which 4 bits need: "
            "set BLUELM_QUANTIZATION to int8 or none."
        )
    codes = torch.empty(out, inner, dtype=torch.uint8, device=weight.device)
    scale, minimum = (torch.empty(out, inner // group, device=weight.device) for _ in range(2))
    for rows in _pieces(weight):
        found = _rounded_groups(weight[rows].float().view(-1, inner // group, group))
        codes[rows], scale[rows], minimum[rows] = found[0].view(-1, inner), found[1], found[2]
    return Grouped4(codes, scale, minimum)


def _pieces(weight: Tensor) -> list[slice]:
    step = max(1, _NUMBERS // weight.shape[1])
    return [slice(start, start + step) for start in range(0, weight.shape[0], step)]


def _rounded_groups(numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """numbers: float32 [out, groups, group]. Gives codes uint8 of that shape, scale and minimum [out, groups]."""
    low, high = numbers.amin(-1, keepdim=True), numbers.amax(-1, keepdim=True)
    middle, half = (low + high) / 2, (high - low) / 2
    best = torch.full_like(low, torch.inf)
    codes, scale, minimum = torch.zeros_like(numbers, dtype=torch.uint8), torch.zeros_like(low), torch.zeros_like(low)
    for cut in CUTS:
        step = (half * (cut * 2 / 15)).clamp_min_(_LEAST)
        step, least = _fitted(numbers, _codes(numbers, step, middle - half * cut), step, low)
        found = _codes(numbers, step, least)
        error = (found * step + least - numbers).square_().sum(-1, keepdim=True)
        better = error < best
        best = torch.where(better, error, best)
        codes = torch.where(better, found.to(torch.uint8), codes)
        scale, minimum = torch.where(better, step, scale), torch.where(better, least, minimum)
    return codes, scale.squeeze(-1), minimum.squeeze(-1)


def _codes(numbers: Tensor, step: Tensor, least: Tensor) -> Tensor:
    return ((numbers - least) / step).round_().clamp_(0, 15)


def _fitted(numbers: Tensor, codes: Tensor, step: Tensor, least: Tensor) -> tuple[Tensor, Tensor]:
    """Step and minimum for these codes by least squares; where all codes are one, those given."""
    mean_code, mean = codes.mean(-1, keepdim=True), numbers.mean(-1, keepdim=True)
    spread = (codes - mean_code).square().mean(-1, keepdim=True)
    fitted = ((codes - mean_code) * (numbers - mean)).mean(-1, keepdim=True) / spread.clamp_min(1e-12)
    fits = (spread > 0) & (fitted > _LEAST)
    step = torch.where(fits, fitted, step)
    return step, torch.where(fits, mean - step * mean_code, least)
