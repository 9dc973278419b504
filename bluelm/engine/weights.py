"""Reads a model's tensors into the fused form the forward pass uses; a missing or misshapen one is an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from gguf.quants import dequantize
from torch import Tensor

from bluelm.engine.gguf_file import GGUFFile
from bluelm.engine.linear import Stored, joined, linear, shape_of
from bluelm.engine.model import Layer, LlamaConfig, Weights
from bluelm.errors import CheckpointError

Progress = Callable[[float], None]
Fetch = Callable[[str], Stored]

PARTS = {
    "input_norm": ("input_layernorm",),
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "post_norm": ("post_attention_layernorm",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
    "embedding": ("model.embed_tokens",),
    "norm": ("model.norm",),
    "lm_head": ("lm_head",),
}


def _shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    return {
        "input_norm": (config.hidden,),
        "qkv": (queries + 2 * keys, config.hidden),
        "o": (config.hidden, queries),
        "post_norm": (config.hidden,),
        "gate_up": (2 * config.intermediate, config.hidden),
        "down": (config.hidden, config.intermediate),
        "embedding": (config.vocab, config.hidden),
        "norm": (config.hidden,),
        "lm_head": (config.vocab, config.hidden),
    }


def assemble(config: LlamaConfig, fetch: Fetch, *, tied: bool, progress: Progress = lambda _: None) -> Weights:
    """Weights from tensors given by Llama's usual names ("model.layers.0.self_attn.q_proj.weight").

    fetch: gives one tensor, in the dtype and on the device it is to have; called once per name.
    Raises CheckpointError, which names the tensor.
    """
    shapes = _shapes(config)

    def matrix(part: str, prefix: str = "") -> Stored:
        names = [f"{prefix}{name}.weight" for name in PARTS[part]]
        return _checked(joined([fetch(name) for name in names]), shapes[part], " + ".join(names))

    def vector(part: str, prefix: str = "") -> Tensor:
        found = matrix(part, prefix)
        assert isinstance(found, Tensor)
        return found

    layers = []
    for index in range(config.layers):
        prefix = f"model.layers.{index}."
        layer = Layer(
            input_norm=vector("input_norm", prefix),
            qkv=linear(matrix("qkv", prefix)),
            o=linear(matrix("o", prefix)),
            post_norm=vector("post_norm", prefix),
            gate_up=linear(matrix("gate_up", prefix)),
            down=linear(matrix("down", prefix)),
        )
        layers.append(layer)
        progress((index + 1) / (config.layers + 1))
    embedding = vector("embedding")
    head = linear(embedding if tied else matrix("lm_head"))
    weights = Weights(embedding, tuple(layers), vector("norm"), head, tied)
    progress(1.0)
    return weights


def _checked(stored: Stored, shape: tuple[int, ...], name: str) -> Stored:
    if shape_of(stored) != shape:
        raise CheckpointError(
            f"{name} has the shape {shape_of(stored)}, the model's config asks for {shape}: "
            "the checkpoint is damaged or of another model; download it again.",
            tensor=name,
        )
    return stored


def from_state_dict(config: LlamaConfig, tensors: Mapping[str, Tensor]) -> Weights:
    """Weights from a mapping of Llama's usual names; the head is tied when there is no lm_head.weight."""

    def fetch(name: str) -> Tensor:
        if name not in tensors:
            raise CheckpointError(f"{name} is missing: the checkpoint is incomplete; download it again.", tensor=name)
        return tensors[name]

    return assemble(config, fetch, tied="lm_head.weight" not in tensors)


# --- GGUF (the embedded model) ---

GGUF_NAMES = {
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


def _gguf_name(name: str) -> str:
    name = name.removesuffix(".weight")
    if name.startswith("model.layers."):
        _, _, index, part = name.split(".", 3)
        return f"blk.{index}.{GGUF_NAMES[part]}.weight"
    return f"{GGUF_NAMES[name]}.weight"


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


def load_gguf(
    file: GGUFFile, config: LlamaConfig, dtype: torch.dtype, device: torch.device, progress: Progress
) -> Weights:
    """The file's tensors, dequantised to `dtype`. Raises CheckpointError, which names the tensor."""
    left = dict(file.tensors)

    def fetch(name: str) -> Tensor:
        tensor = left.pop(_gguf_name(name), None)
        if tensor is None:
            raise CheckpointError(f"{name} is missing in the GGUF file: install it again.", tensor=name)
        numbers = torch.tensor(dequantize(tensor.data, tensor.kind), dtype=dtype, device=device)
        heads = {"q_proj": config.heads, "k_proj": config.kv_heads}.get(name.split(".")[-2])
        return numbers if heads is None else _half_rotation(numbers, heads)

    weights = assemble(config, fetch, tied="output.weight" not in left, progress=progress)
    if left:
        raise CheckpointError(f"The GGUF file has tensors that a Llama has not: {', '.join(sorted(left)[:5])}.")
    return weights


def _half_rotation(matrix: Tensor, heads: int) -> Tensor:
    """GGUF keeps each head's rotary pairs side by side; the half-rotation form keeps first halves before second."""
    out, inner = matrix.shape
    return matrix.view(heads, out // heads // 2, 2, inner).transpose(1, 2).reshape(out, inner)
