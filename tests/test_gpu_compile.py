"""The kernels compile for the cards that are served, down to machine code, on a machine without a card.

The interpreter (test_gpu.py) takes things that the compiler refuses, and the other way round.
"""

from __future__ import annotations

from typing import Any

import pytest

triton = pytest.importorskip("triton")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from bluelm.engine.gpu import (  # noqa: E402
    attend,
    expand,
    inputs,
    products,
    products4,
    products8,
    rows,
    sample,
    vector,
    vector_packed,
)

POINTERS = {
    "*bf16": {"x", "w", "y", "qkv", "keys", "values", "table", "weight", "gain", "gate_up", "query"},
    "*i32": {"slots", "positions", "tables", "done", "token", "tokens", "top_ks", "likeliest", "winner"},
    "*fp32": {"cosines", "sines", "cos", "sin", "part", "part_sums", "logits", "temperatures", "penalties", "top_ps"},
    "*i64": {"seeds"},
    "*u8": {"seen"},
}
POINTERS["*fp32"] |= {"greatest", "race", "sums", "scales", "changed", "added", "presences", "frequencies"}
POINTERS["*i16"] = {"words"}
POINTERS["*i32"] |= {"steps", "order", "adds"}
SCALARS = {"scale": "fp32", "eps": "fp32", "rows": "i32", "width": "i32"}
MODEL = {"HEADS": 32, "D": 128, "SIZE": 16, "BLOCKS": 128}
PRODUCT = {"N": 4096, "K": 4096, "BK": 128, "STAGES": 3, "AHEAD": 1024}
PACKED = {"N": 11_008, "K": 4096, "M": 16, "BN": 64, "STAGES": 3, "PARTS": 1, "AHEAD": 4096, "KIND": 2, "ASM": True}
PACKED4 = PACKED | {"GROUP": 128, "SPANS": 2, "LENGTH": 32, "OFFSET": 128}
ALONE = {"N": 4096, "K": 11_008, "GROUP": 128, "WARPS": 16, "KIND": 1, "NORMED": True, "OFFSET": 128, "ASM": True}
FLOAT16 = {"x": "*fp16", "gain": "*fp16", "y": "*fp16"}
EXPANDED = {"N": 4096, "K": 11_008, "BN": 32, "BW": 64, "ASM": True}
VOCAB = {"VOCAB": 100_008, "WIDTH": 100_096, "PARTS": 98}
KERNELS: dict[str, tuple[JITFunction, dict[str, Any], dict[str, str], int]] = {
    "attention, one program a head": (attend._attend, MODEL | {"KV": 32, "G16": 1, "STEP": 8, "SPLITS": 1}, {}, 1),
    "attention, shared key heads": (attend._attend, MODEL | {"KV": 8, "G16": 16, "STEP": 16, "SPLITS": 8}, {}, 2),
    "product, gated": (products._product, PRODUCT | {"M": 16, "BN": 32, "PARTS": 1, "ACROSS": True, "KIND": 2}, {}, 4),
    "product, in halves": (products._product, PRODUCT | {"M": 64, "BN": 64, "PARTS": 2, "ACROSS": False, "KIND": 1},
                           {"part": "*fp32", "done": "*i32"}, 4),
    "one row": (vector._vector, {"N": 4096, "K": 4096, "BN": 4, "BK": 1024, "KIND": 2, "NORM": True}, {}, 4),
    "product in 4 bits": (products4._product4, PACKED4, {}, 4),
    "product in 4 bits, in parts": (
        products4._product4, PACKED4 | {"GROUP": 32, "M": 64, "PARTS": 4, "KIND": 1, "OFFSET": 1024}, FLOAT16, 8),
    "product in 8 bits": (products8._product8, PACKED | {"BK": 256, "LENGTH": 4096}, {}, 4),
    "one row in 4 bits": (vector_packed._vector, ALONE | {"BITS": 4}, {}, 16),
    "one row in 4 bits, gated": (
        vector_packed._vector, ALONE | {"BITS": 4, "KIND": 2, "GROUP": 32, "OFFSET": 1024, "WARPS": 4}, FLOAT16, 4),
    "one row in 8 bits": (vector_packed._vector, ALONE | {"BITS": 8}, {"steps": "*fp32"}, 16),
    "one row in 8 bits, gated": (
        vector_packed._vector, ALONE | {"BITS": 8, "KIND": 2, "OFFSET": 1024}, FLOAT16 | {"steps": "*fp32"}, 16),
    "inputs of 4 bits": (
        inputs._prepare, {"K": 4096, "WHOLE": 4096, "PIECE": 2048, "GROUP": 64, "NORMED": True,
                          "ORDERED": True}, {}, 8),
    "expanded from 4 bits": (expand._expand4, EXPANDED | {"GROUP": 128, "OFFSET": 128}, {}, 4),
    "expanded from 8 bits": (expand._expand8, EXPANDED, FLOAT16, 4),
    "embedding": (rows._embed, {"HIDDEN": 4096, "BLOCK": 1024}, {}, 4),
    "norm": (rows._norm, {"HIDDEN": 4096, "BLOCK": 4096}, {}, 8),
    "rotary embedding": (rows._rotate, {"HEADS": 32, "KV": 32, "D": 128, "SOME": 16},
                         {"positions": "*i64", "slots": "*i64"}, 4),
    "gate": (rows._gate, {"INNER": 11_008, "BLOCK": 2048}, {}, 4),
    "sampling, first look": (sample._scan, VOCAB | {"PART": 1024}, {"weight": "*fp32"}, 4),
    "sampling, choice": (sample._choose, VOCAB | {"TILE": 128, "BLOCK": 8192, "DUMMY": 64}, {"weight": "*fp32"}, 16),
}  # fmt: skip


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("name", KERNELS)
def test_a_kernel_compiles(name: str, capability: int) -> None:
    """80: A100, 3090 and 4090 run it too; 90: H100, with kernels that start early."""
    kernel, constants, types, warps = KERNELS[name]
    constants = constants | ({"EARLY": capability >= 90} if "EARLY" in kernel.arg_names else {})
    known = {argument: kind for kind, arguments in POINTERS.items() for argument in arguments} | SCALARS | types
    signature = {argument: "constexpr" if argument in constants else known[argument] for argument in kernel.arg_names}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, argument in enumerate(kernel.arg_names)
        if signature[argument].startswith("*")
    }
    source = ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    target = GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": warps, "num_stages": 3})
    assert compiled.asm["cubin"]
