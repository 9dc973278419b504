"""The matrices of the model as they are stored: 16 or 32 bits a number, or 4 bits with a scale and a minimum a group.

`Grouped4` is the one representation of every 4-bit format (GGUF's Q4_1, GPTQ, AWQ); `linear` makes what multiplies.
The products for CPUs are PyTorch's own and oneDNN's; what they take at which number of rows is in docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from bluelm.errors import CheckpointError

PIECE = 32  # rows up to which oneDNN takes the sums of a product in one order
FEW = 6  # rows up to which a product by 4 or 8 bits is faster than one by 16


class Linear(Protocol):
    """y = x W^T. x: [n, in], y: [n, out], in the model's dtype."""

    @property
    def precision(self) -> str:
        """As people name it: "bfloat16", "int4"."""
        ...

    @property
    def parameters(self) -> int: ...

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        ...

    def __call__(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class Dense:
    """weight: [out, in]."""

    weight: Tensor

    @property
    def precision(self) -> str:
        return str(self.weight.dtype).removeprefix("torch.")

    @property
    def parameters(self) -> int:
        return self.weight.numel()

    @property
    def bytes(self) -> int:
        return self.weight.numel() * self.weight.element_size()

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


@dataclass(frozen=True, slots=True)
class Blocked:
    """A bfloat16 matrix for a CPU in oneDNN's blocked layout, which is read at the memory's speed; [out, in] otherwise
    takes two to three times as long for few rows.

    exact: a row's numbers are the same, to the last bit, whatever the number of rows. From two rows up to PIECE they
    always are; a lone one may be summed in another order.
    """

    blocked: Tensor
    exact: bool = False

    @classmethod
    def of(cls, weight: Tensor, *, exact: bool = False) -> Blocked:
        return cls(torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None), exact)

    @staticmethod
    def takes(dtype: torch.dtype, device: torch.device) -> bool:
        """Whether a matrix of these can be multiplied by so, on this processor."""
        fits = dtype is torch.bfloat16 and device.type == "cpu" and torch.backends.mkldnn.is_available()
        return fits and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())

    @property
    def weight(self) -> Tensor:
        """[out, in], a copy."""
        return self.blocked.to_dense()

    @property
    def precision(self) -> str:
        return "bfloat16"

    @property
    def parameters(self) -> int:
        return self.blocked.numel()

    @property
    def bytes(self) -> int:
        return self.blocked.numel() * 2

    def __call__(self, x: Tensor) -> Tensor:
        if self.exact and x.shape[0] > PIECE:
            return torch.cat([self(piece) for piece in x.split(PIECE)])
        if self.exact and x.shape[0] <= FEW:  # not for one alone: a trace holds one branch for all of them
            return _blocked_product(torch.cat((x, x[:1])), self.blocked)[:-1]
        return _blocked_product(x, self.blocked)


@torch.jit.script  # so that a trace may hold it (bluelm.engine.traced)
def _blocked_product(x: Tensor, blocked: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, blocked, None, "none", [], "")


@dataclass(frozen=True, slots=True)
class Int8:
    """weight[o, i] = scale[o] * codes[o, i]. codes: int8 [out, in]; scale: [out] in the dtype of x."""

    codes: Tensor
    scale: Tensor

    @classmethod
    def of(cls, weight: Tensor, dtype: torch.dtype) -> Int8:
        """The nearest 8-bit form of a float32 matrix, one scale a row."""
        scale = weight.abs().amax(dim=1).clamp_min_(1e-12) / 127
        return cls((weight / scale[:, None]).round_().to(torch.int8), scale.to(dtype))

    @property
    def precision(self) -> str:
        return "int8"

    @property
    def parameters(self) -> int:
        return self.codes.numel()

    @property
    def bytes(self) -> int:
        return self.codes.numel() + self.scale.numel() * self.scale.element_size()

    def __call__(self, x: Tensor) -> Tensor:
        return torch.ops.aten._weight_int8pack_mm(x, self.codes, self.scale)

    def dequantize(self) -> Tensor:
        """[out, in] float32."""
        return self.codes.float() * self.scale.float()[:, None]


@dataclass(frozen=True, slots=True)
class Int4Cpu:
    """Four bits a number through PyTorch's own product for CPUs, which wants bfloat16 and groups of 32 to 256.

    packed: uint8 [out, in / 2] in the product's own order; scales: [in / group, out, 2], scale and value of code 8.
    order: [in], the columns' order where groups are not of neighbours (GPTQ's act-order), or None.
    """

    packed: Tensor
    scales: Tensor
    group: int
    order: Tensor | None

    @classmethod
    def of(cls, stored: Grouped4) -> Int4Cpu:
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(stored.codes.int(), 2)
        scales = torch.stack((stored.scale, stored.minimum + 8 * stored.scale), dim=-1).transpose(0, 1)
        return cls(packed, scales.to(torch.bfloat16).contiguous(), stored.group, stored.order)

    @staticmethod
    def takes(stored: Grouped4) -> bool:
        """Whether the product can do this matrix."""
        return stored.group in (32, 64, 128, 256) and stored.codes.shape[0] % 16 == 0

    @property
    def precision(self) -> str:
        return "int4"

    @property
    def parameters(self) -> int:
        return self.packed.numel() * 2

    @property
    def bytes(self) -> int:
        return self.packed.numel() + self.scales.numel() * 2

    def __call__(self, x: Tensor) -> Tensor:
        x = x if self.order is None else x[:, self.order]
        return torch.ops.aten._weight_int4pack_mm_for_cpu(x, self.packed, self.group, self.scales)


@dataclass(frozen=True, slots=True)
class ByRows:
    """Two forms of one matrix: the small one for up to FEW rows, where its bytes are what takes the time, and the one
    that multiplies fast for more."""

    few: Linear
    many: Linear

    @property
    def precision(self) -> str:
        return self.few.precision

    @property
    def parameters(self) -> int:
        return self.few.parameters

    @property
    def bytes(self) -> int:
        return self.few.bytes + self.many.bytes

    def __call__(self, x: Tensor) -> Tensor:
        return of_form(self, few=x.shape[0] <= FEW)(x)


def of_form(matrix: Linear, *, few: bool) -> Linear:
    """What multiplies up to FEW rows by it, or more."""
    if not isinstance(matrix, ByRows):
        return matrix
    return matrix.few if few else matrix.many


@dataclass(frozen=True, slots=True)
class Grouped4:
    """A matrix of 4-bit codes as it comes from a file: weight[o, order[i]] = scale[o, g] * codes[o, i] + minimum[o, g].

    codes: uint8 [out, in], 0 to 15; scale, minimum: float32 [out, in / group], g = i // group.
    order: int64 [in], where each column stands in the input; None: in place.
    """

    codes: Tensor
    scale: Tensor
    minimum: Tensor
    order: Tensor | None = None

    @property
    def group(self) -> int:
        return self.codes.shape[1] // self.scale.shape[1]

    def to(self, device: torch.device) -> Grouped4:
        order = None if self.order is None else self.order.to(device)
        return Grouped4(self.codes.to(device), self.scale.to(device), self.minimum.to(device), order)

    def dequantize(self) -> Tensor:
        """[out, in] float32."""
        out, inner = self.codes.shape
        grouped = self.codes.view(out, -1, self.group).float() * self.scale[..., None] + self.minimum[..., None]
        weight = grouped.view(out, inner)
        return weight if self.order is None else weight[:, self.order.argsort()]


Stored = Tensor | Grouped4
"""A matrix as a loader hands it over."""

Quantization = Literal["none", "int8", "int4"]


@dataclass(frozen=True, slots=True)
class Form:
    """How a model keeps its matrices. dtype: of the vectors they multiply; None: their own. quantization: what matrices
    of 16 bits are rounded to. kernels: on a card those of bluelm.engine.gpu multiply, not PyTorch's operations; native:
    on a CPU those of bluelm.engine.native multiply what is in 4 or 8 bits. exact: on a CPU, a row's numbers do not
    depend on how many others there are."""

    dtype: torch.dtype | None = None
    quantization: Quantization = "none"
    kernels: bool = False
    native: bool = False
    exact: bool = False


AS_STORED = Form()


def shape_of(stored: Stored) -> tuple[int, ...]:
    return tuple(stored.codes.shape if isinstance(stored, Grouped4) else stored.shape)


def joined(parts: Sequence[Stored]) -> Stored:
    """Matrices that read the same input as one, their outputs one behind the other."""
    dense = [part for part in parts if isinstance(part, Tensor)]
    grouped = [part for part in parts if isinstance(part, Grouped4)]
    if len(dense) == len(parts):
        return dense[0].contiguous() if len(parts) == 1 else torch.cat(dense)
    first = grouped[0]
    if dense or any(part.group != first.group or not _same(part.order, first.order) for part in grouped):
        raise CheckpointError("Matrices that belong together are stored in different ways: use another checkpoint.")
    codes, scale, minimum = (torch.cat([getattr(p, name) for p in grouped]) for name in ("codes", "scale", "minimum"))
    return Grouped4(codes, scale, minimum, first.order)


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    return other is None if one is None else other is not None and torch.equal(one, other)


def linear(stored: Stored | Int8, form: Form = AS_STORED, *, spacious: bool = False) -> Linear:
    """What multiplies by this matrix, on the device where it is.

    What is in 4 or 8 bits stays so where something can multiply by it: on a card the kernels, on a CPU PyTorch (4 bits
    with bfloat16 alone); else it becomes plain numbers in form.dtype.
    spacious: memory may go into a second form of what is in 4 bits, for batches and prompts on a CPU; it multiplies in
    another order, so not where rows are to be exact.
    """
    if isinstance(stored, Tensor):
        blocked = Blocked.takes(stored.dtype, stored.device)
        return Blocked.of(stored, exact=form.exact) if blocked else Dense(stored)
    device = stored.codes.device
    found: Linear | None
    if form.native:
        found = native_8(stored.codes, stored.scale[:, None]) if isinstance(stored, Int8) else native_4(stored)
        if found is not None:
            return found
    if form.kernels:
        from bluelm.engine.gpu.packed import packed

        found = packed(stored)
    elif isinstance(stored, Int8):
        found = stored if device.type == "cpu" else None
    elif device.type == "cpu" and form.dtype is torch.bfloat16 and Int4Cpu.takes(stored):
        found = Int4Cpu.of(stored)
        if spacious and not form.exact and Blocked.takes(form.dtype, device):
            found = ByRows(found, Blocked.of(stored.dequantize().to(form.dtype)))
    else:
        found = None
    return found or Dense(stored.dequantize().to(form.dtype or torch.float32))


def native_4(stored: Grouped4) -> Linear | None:
    """The matrix as the native kernels want it; None if they cannot do it."""
    from bluelm.engine.native.matrices import Native

    return Native.of_4(stored) if Native.takes(stored.codes, stored.scale, stored.minimum, stored.order) else None


def native_8(codes: Tensor, scale: Tensor) -> Linear | None:
    """The same for 8 bits. codes: int8 [out, in]; scale: [out, in / group]."""
    from bluelm.engine.native.matrices import Native

    return Native.of_8(codes, scale.float()) if Native.takes(codes, scale) else None
