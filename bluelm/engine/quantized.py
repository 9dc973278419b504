"""The 4-bit layouts that checkpoints come in, read into Grouped4. Exact: codes are unpacked, never quantised anew.

GPTQ (AutoGPTQ, GPTQ-for-LLaMa): qweight int32 [in / 8, out], eight codes along the input, lowest bits first; scales
[in / group, out]; qzeros int32 [in / group, out / 8], one less than the zero point; g_idx [in], each input's group.
    w[k, n] = scales[g, n] * (code - (zero + 1))
AWQ (AutoAWQ): qweight int32 [in, out / 8], eight codes along the output in the order 0 2 4 6 1 3 5 7; qzeros alike.
    w[k, n] = scales[g, n] * (code - zero)
Source: the two projects' own packing code, as told in their documentation.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from bluelm.engine.linear import Grouped4
from bluelm.errors import CheckpointError

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
LONGEST_GROUP = 128  # one group over the whole input is split into groups of this size


def unpack(kind: str, tensors: Mapping[str, Tensor], name: str = "a matrix") -> Grouped4:
    """A matrix from its packed tensors.

    kind: "gptq" or "awq". tensors: by their last names: qweight, scales, qzeros (or zeros), and g_idx if there is one.
    name: for errors. Raises CheckpointError for what does not fit.
    """
    try:
        qweight, scales = tensors["qweight"], tensors["scales"]
        zeros = tensors["qzeros"] if "qzeros" in tensors else tensors["zeros"]
    except KeyError as error:
        raise CheckpointError(f"{name} has no {error}: the checkpoint is incomplete; download it again.") from None
    if kind == "gptq":
        codes, zero = nibbles(qweight.T), nibbles(zeros) + 1
    elif kind == "awq":
        codes, zero = _awq(qweight).T, _awq(zeros)
    else:
        raise CheckpointError(f"{name} is packed as {kind!r}: only GPTQ and AWQ with 4 bits can be read.")
    _check(name, codes, zero, scales)
    order = _order(name, tensors.get("g_idx"), codes.shape[1] // scales.shape[0])
    if order is not None:
        codes = codes[:, order]
    scale = scales.T.float()
    return regrouped(Grouped4(codes.contiguous(), scale.contiguous(), -scale * zero.T, order))


def regrouped(stored: Grouped4) -> Grouped4:
    """The same matrix in groups of at most LONGEST_GROUP where they were longer."""
    times = stored.group // LONGEST_GROUP
    if times < 2 or stored.group % LONGEST_GROUP:
        return stored
    repeat = (stored.scale.repeat_interleave(times, dim=1), stored.minimum.repeat_interleave(times, dim=1))
    return Grouped4(stored.codes, *repeat, stored.order)


def from_q4_1(blocks: np.ndarray) -> Grouped4:
    """GGUF's Q4_1: weight = d * code + m in groups of 32.

    blocks: uint8 [out, in / 32 * 20]: d and m in float16, then 16 bytes whose low halves are codes 0 to 15 and whose
    high halves are codes 16 to 31.
    """
    rows = blocks.shape[0]
    raw = np.ascontiguousarray(blocks).reshape(rows, -1, 20)
    head = raw[..., :4].copy().view(np.float16).astype(np.float32)
    packed = raw[..., 4:]
    codes = np.concatenate((packed & 15, packed >> 4), axis=-1).reshape(rows, -1)
    scale, minimum = (torch.from_numpy(np.ascontiguousarray(head[..., i])) for i in (0, 1))
    return Grouped4(torch.from_numpy(codes), scale, minimum)


def from_q8_0(blocks: np.ndarray) -> tuple[Tensor, Tensor]:
    """GGUF's Q8_0: weight = d * code in groups of 32. Gives codes, int8 [out, in], and d, float32 [out, in / 32].

    blocks: uint8 [out, in / 32 * 34]: d in float16, then the codes.
    """
    rows = blocks.shape[0]
    raw = np.ascontiguousarray(blocks).reshape(rows, -1, 34)
    scale = np.ascontiguousarray(raw[..., :2]).view(np.float16)[..., 0].astype(np.float32)
    codes = np.ascontiguousarray(raw[..., 2:]).view(np.int8).reshape(rows, -1)
    return torch.from_numpy(codes), torch.from_numpy(scale)


def nibbles(packed: Tensor) -> Tensor:
    """int32 [rows, n] to uint8 [rows, 8 n], lowest bits first."""
    shifts = torch.arange(0, 32, 4, dtype=torch.int32, device=packed.device)
    return ((packed[..., None] >> shifts) & 15).to(torch.uint8).flatten(-2)


def _awq(packed: Tensor) -> Tensor:
    codes = nibbles(packed).unflatten(-1, (-1, 8))
    place = torch.tensor(AWQ_ORDER).argsort()
    return codes[..., place].flatten(-2)


def pack_awq(codes: Tensor) -> Tensor:
    """Codes 0 to 15 [rows, 8 n] as AWQ packs them: int32 [rows, n]."""
    shifts = torch.arange(0, 32, 4)
    columns = codes.unflatten(-1, (-1, 8))[..., torch.tensor(AWQ_ORDER)].long()
    return (columns << shifts).sum(-1).to(torch.int32)  # the highest code may set the sign


def _check(name: str, codes: Tensor, zero: Tensor, scales: Tensor) -> None:
    out, inner = codes.shape
    groups = scales.shape[0]
    if scales.shape != (groups, out) or zero.shape != (groups, out) or inner % groups:
        raise CheckpointError(
            f"{name}: codes [{inner}, {out}], scales {list(scales.shape)} and zeros {list(zero.shape)} do not fit "
            "together for 4 bits: the checkpoint is damaged or packed in another way.",
            tensor=name,
        )


def _order(name: str, g_idx: Tensor | None, group: int) -> Tensor | None:
    """Columns sorted by group, or None where they are already."""
    if g_idx is None:
        return None
    g_idx = g_idx.long()
    if torch.equal(g_idx, torch.arange(len(g_idx), device=g_idx.device) // group):
        return None
    if (torch.bincount(g_idx, minlength=len(g_idx) // group) != group).any():
        raise CheckpointError(f"{name}: g_idx has groups of different sizes: use another checkpoint.", tensor=name)
    return g_idx.argsort(stable=True)
