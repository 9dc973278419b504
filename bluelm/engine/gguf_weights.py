"""The tensors of a GGUF file: kept in their four or eight bits for bfloat16 and on a card, else dequantised."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize
from torch import Tensor

from bluelm.engine.gguf_file import GGUFFile, StoredTensor
from bluelm.engine.linear import Blocked, ByRows, Form, Grouped4, Int8, Stored, linear, native_8
from bluelm.engine.model import LlamaConfig, Weights
from bluelm.engine.quantized import from_q4_1, from_q8_0
from bluelm.engine.weights import Progress, assemble
from bluelm.errors import CheckpointError

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def _file_name(name: str) -> str:
    name = name.removesuffix(".weight")
    if name.startswith("model.layers."):
        _, _, index, part = name.split(".", 3)
        return f"blk.{index}.{NAMES[part]}.weight"
    return f"{NAMES[name]}.weight"


def gguf_config(file: GGUFFile) -> LlamaConfig:
    """The shape of the Llama in a GGUF file. Raises CheckpointError for another architecture or a missing field."""

    def value(key: str, default: Any = None) -> Any:
        found = file.metadata.get(key, default)
        if found is None:
            raise CheckpointError(f"The GGUF file has no field {key}: it is damaged; install it again.", field=key)
        return found

    if (kind := value("general.architecture")) != "llama":
        raise CheckpointError(f"The GGUF file holds a {kind!r} model: only 'llama' can be served.", architecture=kind)
    if "llama.rope.scaling.type" in file.metadata:
        raise CheckpointError("The GGUF file scales its rotary embedding, which is not supported: use another file.")
    heads, hidden = value("llama.attention.head_count"), value("llama.embedding_length")
    return LlamaConfig(
        vocab=len(value("tokenizer.ggml.tokens")),
        hidden=hidden,
        intermediate=value("llama.feed_forward_length"),
        layers=value("llama.block_count"),
        heads=heads,
        kv_heads=value("llama.attention.head_count_kv", heads),
        head_dim=value("llama.rope.dimension_count", hidden // heads),
        context=value("llama.context_length"),
        norm_eps=value("llama.attention.layer_norm_rms_epsilon"),
        rope_theta=value("llama.rope.freq_base", 10000.0),
    )


def load_gguf(file: GGUFFile, config: LlamaConfig, form: Form, device: torch.device, progress: Progress) -> Weights:
    """The file's tensors as a model that computes in form.dtype. Raises CheckpointError, which names the tensor."""
    left, dtype = dict(file.tensors), form.dtype or torch.float32
    keep = form.kernels or (dtype is torch.bfloat16 and device.type == "cpu")

    def fetch(name: str) -> Stored:
        tensor = left.pop(_file_name(name), None)
        if tensor is None:
            raise CheckpointError(f"{name} is missing in the GGUF file: install it again.", tensor=name)
        heads = {"q_proj": config.heads, "k_proj": config.kv_heads}.get(name.split(".")[-2])
        if keep and tensor.kind == GGMLQuantizationType.Q4_1:
            return _half_rotation_of_4(from_q4_1(tensor.data), heads).to(device)
        numbers = _numbers(tensor)
        return (numbers if heads is None else _half_rotation(numbers, heads)).to(device=device, dtype=dtype)

    tied = "output.weight" not in left
    head = left.get("token_embd.weight" if tied else "output.weight")
    weights = assemble(config, fetch, tied=tied, form=form, progress=progress)
    if left:
        raise CheckpointError(f"The GGUF file has tensors that a Llama has not: {', '.join(sorted(left)[:5])}.")
    if keep and head is not None and head.kind == GGMLQuantizationType.Q8_0:
        if form.native and (native := native_8(*from_q8_0(head.data))):
            return replace(weights, lm_head=native)
        small = linear(Int8.of(_numbers(head).to(device), dtype), form)
        in_two = isinstance(weights.lm_head, Blocked) and not form.exact
        return replace(weights, lm_head=ByRows(small, weights.lm_head) if in_two else small)
    return weights


def _numbers(tensor: StoredTensor) -> Tensor:
    return torch.tensor(dequantize(tensor.data, tensor.kind))


def _half_rotation(matrix: Tensor, heads: int) -> Tensor:
    """GGUF keeps each head's rotary pairs side by side; the half-rotation form keeps first halves before second."""
    out, inner = matrix.shape
    return matrix.view(heads, out // heads // 2, 2, inner).transpose(1, 2).reshape(out, inner)


def _half_rotation_of_4(stored: Grouped4, heads: int | None) -> Grouped4:
    if heads is None:
        return stored
    codes, scale, minimum = (_half_rotation(part, heads) for part in (stored.codes, stored.scale, stored.minimum))
    return Grouped4(codes, scale, minimum)
