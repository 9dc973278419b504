"""The weights of a BlueLM or Llama checkpoint folder, folded and fused on the way to the device."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bluelm.engine.checkpoint import Checkpoint, read_json
from bluelm.engine.linear import Stored
from bluelm.engine.model import LlamaConfig, Weights
from bluelm.engine.quantized import unpack
from bluelm.engine.weights import Progress, assemble
from bluelm.errors import CheckpointError

EMBEDDING = "model.embed_tokens.weight"
EMBEDDING_NORM = "model.embed_layer_norm"
IGNORED = re.compile(r"rotary_emb\.inv_freq$")  # buffers, computed here
PACKED = ("qweight", "qzeros", "zeros", "scales", "g_idx", "bias")


def folder_config(checkpoint: Checkpoint) -> LlamaConfig:
    """The shape that config.json tells. Raises CheckpointError for anything that would compute something else."""
    config, file = checkpoint.config, checkpoint.path / "config.json"

    def value(key: str, default: Any = None) -> Any:
        found = config.get(key)
        found = default if found is None else found
        if found is None:
            raise CheckpointError(f"{file} has no {key}: download it again.", field=key)
        return found

    fixed = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}
    for key, only in fixed.items():
        if value(key, only) != only:
            raise CheckpointError(f"{file} has {key} {config[key]!r}: only {only!r} can be served.", field=key)
    if str(value("model_type")).lower() not in ("bluelm", "llama"):
        raise CheckpointError(f"{file} is of a {config['model_type']!r} model: only BlueLM and Llama can be served.")
    heads, hidden = value("num_attention_heads"), value("hidden_size")
    head_dim = value("head_dim", hidden // heads)
    rope = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling") or (rope if _rope_type(rope) != "default" else {})
    longest = value("max_position_embeddings")
    divisors, factor = _rope(scaling, head_dim, f"{file}: rope_scaling")
    return LlamaConfig(
        vocab=value("vocab_size"),
        hidden=hidden,
        intermediate=value("intermediate_size"),
        layers=value("num_hidden_layers"),
        heads=heads,
        kv_heads=value("num_key_value_heads", heads),
        head_dim=head_dim,
        context=int(longest * factor),
        norm_eps=value("rms_norm_eps"),
        rope_theta=float(rope.get("rope_theta") or value("rope_theta", 10000.0)),
        rope_divisors=divisors,
    )


def _rope_type(scaling: Mapping[str, Any]) -> str:
    return str(scaling.get("rope_type") or scaling.get("type") or "default")


def _rope(scaling: Mapping[str, Any], head_dim: int, where: str) -> tuple[tuple[float, ...], float]:
    """What each rotary frequency is divided by ([head_dim / 2], or empty for nothing), and how much longer it reaches.

    ntkmixed, from BlueLM's own code: lambda_i = exp(a i^power), a = ln(factor) / (d/2)^power, i from 1.
    """
    kind, half = _rope_type(scaling), head_dim // 2
    try:
        if kind == "default":
            return (), 1.0
        if kind == "linear":
            return (float(scaling["factor"]),) * half, float(scaling["factor"])
        if kind == "ntkmixed":
            factor, power = float(scaling["factor"]), float(scaling["power"])
            a = math.log(factor) / half**power
            return tuple(math.exp(a * i**power) for i in range(1, half + 1)), factor
        if kind == "longrope":
            same = scaling["short_factor"] == scaling["long_factor"] and len(scaling["long_factor"]) == half
            if same and float(scaling.get("attention_factor") or 0) == 1.0:
                return tuple(map(float, scaling["long_factor"])), 1.0
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{where} of type {kind} is incomplete ({error}): download it again.") from None
    raise CheckpointError(f"{where} has the type {kind!r} in a form that is not supported: use another checkpoint.")


def quantization(checkpoint: Checkpoint) -> str | None:
    """ "gptq", "awq", or None for 16 or 32 bits. Raises CheckpointError for other kinds and other widths."""
    packed = any(name.endswith(".qweight") for name in checkpoint.names)
    said = checkpoint.config.get("quantization_config") or {}
    side = checkpoint.path / "quantize_config.json"
    if not said and side.exists():
        said = {"quant_method": "gptq", **read_json(side)}
    if not packed and not said:
        return None
    kind, bits = said.get("quant_method", "gptq"), said.get("bits", said.get("w_bit", 4))
    if kind not in ("gptq", "awq") or bits != 4 or not packed:
        raise CheckpointError(
            f"{checkpoint.path} is quantised by {kind} to {bits} bits: only GPTQ and AWQ with 4 bits."
        )
    return str(kind)


def load_folder(
    checkpoint: Checkpoint, config: LlamaConfig, dtype: torch.dtype, device: torch.device, progress: Progress
) -> Weights:
    """All tensors as a model that computes in `dtype`. Strict: missing, extra and misshapen ones are named.

    The LayerNorm that BlueLM has behind its embedding works on each row alone, so it is folded into the table.
    """
    left = {name for name in checkpoint.names if not IGNORED.search(name)}
    kind = quantization(checkpoint)
    stable = bool(checkpoint.config.get("use_stable_embedding", False))

    def take(name: str) -> Tensor:
        left.discard(name)
        return checkpoint.tensor(name)

    def fetch(name: str) -> Stored:
        base = name.removesuffix(".weight")
        if kind and f"{base}.qweight" in left:
            parts = {part: take(f"{base}.{part}") for part in PACKED if f"{base}.{part}" in left}
            if (bias := parts.pop("bias", None)) is not None and bias.any():
                raise CheckpointError(f"{base}.bias is not zero: a Llama has no biases; use another checkpoint.")
            return unpack(kind, parts, base)
        tensor = take(name)
        if name == EMBEDDING and stable:
            weight, bias = (take(f"{EMBEDDING_NORM}.{part}").float() for part in ("weight", "bias"))
            tensor = F.layer_norm(tensor.float(), (config.hidden,), weight, bias, config.norm_eps)
        return tensor.to(device=device, dtype=dtype)

    tied = bool(checkpoint.config.get("tie_word_embeddings", False)) or "lm_head.weight" not in left
    if tied:
        left.discard("lm_head.weight")
    if tied and stable:
        raise CheckpointError(f"{checkpoint.path} has no lm_head.weight of its own: the checkpoint is incomplete.")
    weights = assemble(config, fetch, tied=tied, dtype=dtype, progress=progress)
    checkpoint.close()
    if left:
        raise CheckpointError(
            f"{checkpoint.path} has {len(left)} tensors that this model has not ({', '.join(sorted(left)[:3])}): "
            "it is of another model, or its config.json is.",
        )
    return weights
