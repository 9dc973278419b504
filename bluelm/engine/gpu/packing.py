"""How matrices of 4 and 8 bits lie on a card: so that few instructions turn the codes into numbers to multiply by.

Words of 16 bits in blocks of 512 bytes: 16 outputs times 16 words along the input. 4 bits: a word has four codes,
lowest bits first, and of a block's 64 inputs word q (0 to 15) holds the codes q, 16 + q, 32 + q and 48 + q: masking and
shifting two neighbouring words at once gives pairs of neighbours, and or-ing in an exponent makes them floating-point
numbers. 8 bits: of a block's 32 inputs word q holds the codes q and 16 + q, each plus 128. The blocks of 16 outputs
follow one another along the input, so that a program reads one long piece of memory.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bluelm.engine.gpu.shapes_packed import SPAN
from bluelm.engine.linear import Grouped4, Int8

_FARTHEST = 4096.0  # a zero point: float16 holds it, and it takes no more of float32's bits than the codes can spare
_ROWS = 4096  # packed at once, which takes a few times their bytes


def pack4(stored: Grouped4) -> tuple[Tensor, Tensor]:
    """Words int16 [out / 16, in / 64, 16, 16] and steps int32 [out / 16, in / group, 8, 2]; out a multiple of 16, in
    padded with zeros to whole 128s.

    A step is a group's scale (low half) and zero point (high half), both float16: weight = scale * (code - zero). Those
    of rows r and r + 8 of a tile stand side by side.
    """
    codes, scale, minimum, (out, inner) = stored.codes, stored.scale, stored.minimum, stored.codes.shape
    flat = minimum.abs() >= _FARTHEST * scale.abs()  # groups of one number, more or less: code 1 with zero point 0
    if flat.any():
        codes = codes.masked_fill(flat.repeat_interleave(stored.group, dim=1), 1)
        scale, minimum = torch.where(flat, minimum + 7.5 * scale, scale), minimum.masked_fill(flat, 0.0)
    zero = torch.where(minimum == 0, 0.0, -minimum / scale)
    padding = -inner % SPAN
    quarters = F.pad(codes, (0, padding)).view(out // 16, 16, -1, 4, 16).to(torch.int16).transpose(1, 2).unbind(3)
    words = quarters[0] | quarters[1] << 4 | quarters[2] << 8 | quarters[3] << 12
    steps = F.pad(_bits(scale) & 0xFFFF | _bits(zero) << 16, (0, padding // stored.group))
    return words.contiguous(), steps.view(out // 16, 2, 8, -1).permute(0, 3, 2, 1).contiguous()


def unpack4(words: Tensor, steps: Tensor, inner: int) -> Tensor:
    """The matrix [out, inner] in float32."""
    shifts = torch.tensor([0, 4, 8, 12], dtype=torch.int16, device=words.device)[:, None]
    codes = words.transpose(1, 2)[..., None, :] >> shifts & 15
    flat = steps.permute(0, 3, 2, 1).reshape(len(words) * 16, -1, 1)
    scale, zero = ((flat >> shift).to(torch.int16).view(torch.float16).float() for shift in (0, 16))
    return ((codes.reshape(*flat.shape[:2], -1) - zero) * scale).flatten(1)[:, :inner]


def pack8(stored: Int8) -> Tensor:
    """Words int16 [out / 16, in / 32, 16, 16]; out a multiple of 16, in padded with zeros to whole 128s."""
    out, inner = stored.codes.shape
    spans = -(-inner // SPAN) * SPAN // 32
    words = torch.empty(out // 16, spans, 16, 16, dtype=torch.int16, device=stored.codes.device)
    for start in range(0, out, _ROWS):
        codes = F.pad(stored.codes[start : start + _ROWS], (0, -inner % SPAN)).to(torch.int16) + 128
        low, high = codes.view(len(codes) // 16, 16, spans, 2, 16).transpose(1, 2).unbind(3)
        torch.bitwise_or(low, high << 8, out=words[start // 16 : (start + _ROWS) // 16])
    return words


def unpack8(words: Tensor, inner: int) -> Tensor:
    """The codes int8 [out, inner]."""
    shifts = torch.tensor([0, 8], dtype=torch.int16, device=words.device)[:, None]
    codes = (words.transpose(1, 2)[..., None, :] >> shifts & 255) - 128
    return codes.reshape(len(words) * 16, -1)[:, :inner].to(torch.int8)


def _bits(numbers: Tensor) -> Tensor:
    """Their float16 form as int32."""
    return numbers.half().view(torch.int16).int()
