"""Reads a model's tensors into the fused form the forward pass uses; a missing or misshapen one is an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

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


def assemble(
    config: LlamaConfig,
    fetch: Fetch,
    *,
    tied: bool,
    dtype: torch.dtype | None = None,
    progress: Progress = lambda _: None,
) -> Weights:
    """Weights from tensors given by Llama's usual names ("model.layers.0.self_attn.q_proj.weight").

    fetch: gives one tensor, in the dtype and on the device it is to have, or in 4 bits; called once per name.
    dtype: what the model computes in (needed where tensors are in 4 bits).
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
            qkv=linear(matrix("qkv", prefix), dtype),
            o=linear(matrix("o", prefix), dtype),
            post_norm=vector("post_norm", prefix),
            gate_up=linear(matrix("gate_up", prefix), dtype),
            down=linear(matrix("down", prefix), dtype),
        )
        layers.append(layer)
        progress((index + 1) / (config.layers + 1))
    embedding = vector("embedding")
    head = linear(embedding if tied else matrix("lm_head"), dtype)
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
