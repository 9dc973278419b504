"""Matrices in 4 bits as other programs read them: symmetric ones in AutoGPTQ's layout, all others in AutoAWQ's.

vLLM and SGLang take GPTQ only with the zero point in the middle and with inputs in their order (no act-order). AWQ's
layout has a zero point for every group; what GPTQ stored without a fixed one is packed anew into it, code by code, so
nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bluelm.engine.folder_weights import Source
from bluelm.engine.quantized import nibbles, pack_awq, unpack
from bluelm.engine.weights import check_shape, tensor_shapes
from bluelm.errors import CheckpointError

MIDDLE = 7  # the zero point of symmetric GPTQ, one less than it is


@dataclass(frozen=True, slots=True)
class Layout:
    """How all matrices are written. group: inputs that share a scale; -1: all of them."""

    kind: str
    group: int

    def said(self) -> dict[str, Any]:
        """What config.json has to say of it, as `quantization_config`."""
        shared = {"quant_method": self.kind, "bits": 4, "group_size": self.group}
        if self.kind == "awq":
            return {**shared, "version": "gemm", "zero_point": True}
        return {**shared, "desc_act": False, "sym": True, "checkpoint_format": "gptq"}

    def written(self, kind: str, parts: dict[str, Tensor], shape: tuple[int, ...], name: str) -> dict[str, Tensor]:
        """The tensors of one matrix, by their last names. kind, parts: as stored. Raises CheckpointError."""
        scales, zeros = parts["scales"], _zeros(parts)
        _check(kind, parts, shape, name)
        if self.kind == "gptq":
            g_idx = torch.arange(shape[1], dtype=torch.int32) // (shape[1] // len(scales))
            return {"qweight": parts["qweight"], "qzeros": zeros, "scales": scales, "g_idx": g_idx}
        if kind == "awq":
            return {"qweight": parts["qweight"], "qzeros": zeros, "scales": scales}
        codes = unpack(kind, parts, name).codes.T
        return {"qweight": pack_awq(codes), "qzeros": pack_awq(nibbles(zeros) + 1), "scales": scales}


def layout_for(source: Source) -> Layout:
    """The one that suits all matrices of a checkpoint in 4 bits. Raises CheckpointError where none does."""
    groups, zeros = set[int](), set[int]()
    for name, shape, parts in _matrices(source):
        if "scales" not in parts or ("qzeros" not in parts and "zeros" not in parts):
            unpack(str(source.kind), parts, name)  # which says what is missing
        count = len(parts["scales"])
        groups.add(shape[1] // count if count > 1 else -1)
        in_order = torch.arange(shape[1]) // (shape[1] // count)
        if "g_idx" in parts and not torch.equal(parts["g_idx"].long(), in_order):
            raise _refusal(source, name, "their inputs are sorted by importance (act-order)")
        if shape[0] % 8:
            raise _refusal(source, name, "their rows are no multiple of 8")
        if source.kind == "gptq":
            zeros |= set(nibbles(_zeros(parts)).unique().tolist())
    if len(groups) != 1:
        raise _refusal(source, "", f"their groups have different sizes ({', '.join(map(str, sorted(groups)))})")
    symmetric = source.kind == "gptq" and zeros == {MIDDLE}
    if not symmetric and max(zeros, default=0) > 14:
        raise _refusal(source, "", "a zero point is 16")
    return Layout("gptq" if symmetric else "awq", groups.pop())


def _matrices(source: Source) -> Iterator[tuple[str, tuple[int, ...], dict[str, Tensor]]]:
    for name, shape in tensor_shapes(source.config, tied=source.tied).items():
        if parts := source.packed(name):
            yield name.removesuffix(".weight"), shape, parts


def _check(kind: str, parts: dict[str, Tensor], shape: tuple[int, ...], name: str) -> None:
    out, inner = shape
    groups = len(parts["scales"])
    check_shape(parts["qweight"], (inner // 8, out) if kind == "gptq" else (inner, out // 8), f"{name}.qweight")
    check_shape(parts["scales"], (groups, out), f"{name}.scales")
    check_shape(_zeros(parts), (groups, out // 8), f"{name}.qzeros")


def _zeros(parts: dict[str, Tensor]) -> Tensor:
    return parts["qzeros"] if "qzeros" in parts else parts["zeros"]


def _refusal(source: Source, name: str, why: str) -> CheckpointError:
    where = f" ({name})" if name else ""
    return CheckpointError(
        f"The matrices of {source.checkpoint.path} cannot stay in 4 bits for other programs, since {why}{where}: add "
        "--dtype float16, which writes them in 16 bits.",
        tensor=name,
    )
