"""Reads a model's tensors into the fused form the forward pass uses; a missing or misshapen one is an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod

from torch import Tensor

from bluelm.engine.linear import AS_STORED, Form, Linear, Stored, joined, linear, shape_of
from bluelm.engine.model import Layer, LlamaConfig, Weights
from bluelm.engine.rounding import rounded
from bluelm.errors import CheckpointError

Progress = Callable[[float], None]
Preview = Callable[[Weights], None]
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
SMALL = 10**9  # parameters up to which memory is spent for speed on a CPU
OUTSIDE = ("embedding", "norm", "lm_head")  # of the layers


def _shapes(config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Of each tensor in PARTS."""
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    return {
        "input_layernorm": (config.hidden,),
        "self_attn.q_proj": (queries, config.hidden),
        "self_attn.k_proj": (keys, config.hidden),
        "self_attn.v_proj": (keys, config.hidden),
        "self_attn.o_proj": (config.hidden, queries),
        "post_attention_layernorm": (config.hidden,),
        "mlp.gate_proj": (config.intermediate, config.hidden),
        "mlp.up_proj": (config.intermediate, config.hidden),
        "mlp.down_proj": (config.hidden, config.intermediate),
        "model.embed_tokens": (config.vocab, config.hidden),
        "model.norm": (config.hidden,),
        "lm_head": (config.vocab, config.hidden),
    }


def tensor_shapes(config: LlamaConfig, *, tied: bool) -> dict[str, tuple[int, ...]]:
    """Of every tensor of such a model, by Llama's usual names, in the order in which `assemble` asks for them."""
    shapes = _shapes(config)
    inside = [name for part, names in PARTS.items() if part not in OUTSIDE for name in names]
    layers = {f"model.layers.{index}.{name}": shapes[name] for index in range(config.layers) for name in inside}
    names = ["model.embed_tokens", *layers, "model.norm", *([] if tied else ["lm_head"])]
    known = layers | shapes
    return {f"{name}.weight": known[name] for name in names}


def in_order(config: LlamaConfig, *, tied: bool) -> list[str]:
    """The names that `assemble` asks for, in its order."""
    return list(tensor_shapes(config, tied=tied))


def numbers(config: LlamaConfig, *, tied: bool) -> int:
    """How many numbers such a model has."""
    return sum(map(prod, tensor_shapes(config, tied=tied).values()))


def assemble(
    config: LlamaConfig,
    fetch: Fetch,
    *,
    tied: bool,
    form: Form = AS_STORED,
    progress: Progress = lambda _: None,
    preview: Preview = lambda _: None,
) -> Weights:
    """Weights from tensors given by Llama's usual names ("model.layers.0.self_attn.q_proj.weight").

    fetch: gives one tensor, in the dtype and on the device it is to have, or in 4 bits; called once per name, in the
    order in which checkpoints are written, so that a shard is done with before the next but one is begun.
    form: how the matrices are kept; where they are rounded, lm_head is in 8 bits (unless tied), the embedding as it is.
    progress: called with the share of the model's numbers that is there, 0 to 1.
    preview: called once, with a model of the first layer alone, of the same shapes, as soon as that is there.
    Raises CheckpointError, which names the tensor.
    """
    shapes = _shapes(config)
    total, done = numbers(config, tied=tied), 0

    def one(name: str, prefix: str) -> Stored:
        nonlocal done
        found = fetch(f"{prefix}{name}.weight")
        check_shape(found, shapes[name], f"{prefix}{name}.weight")
        done += prod(shapes[name])
        progress(done / total)
        return found

    def matrix(part: str, prefix: str = "") -> Stored:
        return joined([one(name, prefix) for name in PARTS[part]])

    def vector(part: str, prefix: str = "") -> Tensor:
        found = matrix(part, prefix)
        assert isinstance(found, Tensor)
        return found

    def product(part: str, prefix: str) -> Linear:
        spacious = total < SMALL and form.quantization == "none"  # who has it rounded wants it small
        return linear(rounded(matrix(part, prefix), form.quantization), form, spacious=spacious)

    embedding = vector("embedding")
    layers = []
    for index in range(config.layers):
        prefix = f"model.layers.{index}."
        layer = Layer(
            input_norm=vector("input_norm", prefix),
            qkv=product("qkv", prefix),
            o=product("o", prefix),
            post_norm=vector("post_norm", prefix),
            gate_up=product("gate_up", prefix),
            down=product("down", prefix),
        )
        layers.append(layer)
        if index == 0:
            preview(Weights(embedding, (layer,), layer.input_norm, _head(embedding, tied, form), True))
    norm = vector("norm")
    head = _head(embedding if tied else matrix("lm_head"), tied, form)
    return Weights(embedding, tuple(layers), norm, head, tied)


def _head(stored: Stored, tied: bool, form: Form) -> Linear:
    in_8_bits = form.quantization != "none" and not tied
    found = rounded(stored, "int8" if in_8_bits else "none")
    del stored  # the largest matrix: a small card has no room for it in three forms
    return linear(found, form)


def check_shape(stored: Stored, shape: tuple[int, ...], name: str) -> None:
    """Raises CheckpointError, which names the tensor and both shapes."""
    if shape_of(stored) != shape:
        raise CheckpointError(
            f"{name} has the shape {shape_of(stored)}, the model's config asks for {shape}: "
            "the checkpoint is damaged or of another model; download it again.",
            tensor=name,
        )


def from_state_dict(config: LlamaConfig, tensors: Mapping[str, Tensor]) -> Weights:
    """Weights from a mapping of Llama's usual names; the head is tied when there is no lm_head.weight."""

    def fetch(name: str) -> Tensor:
        if name not in tensors:
            raise CheckpointError(f"{name} is missing: the checkpoint is incomplete; download it again.", tensor=name)
        return tensors[name]

    return assemble(config, fetch, tied="lm_head.weight" not in tensors)
