"""The ORIGINAL BlueLM architecture, straight from its description, in plain PyTorch: slow, unfused, no cache.

A Llama with a LayerNorm right behind the token embedding, and for 32K the ntkmixed rotary frequencies.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))


def frequencies(config: dict[str, Any], dim: int) -> Tensor:
    """inv_freq_i = theta^(-2(i-1)/d) / lambda_i for i = 1 .. d/2, one by one, in float64."""
    theta, scaling = config.get("rope_theta", 10000.0), config.get("rope_scaling")
    out = []
    for i in range(1, dim // 2 + 1):
        frequency = theta ** (-2 * (i - 1) / dim)
        if scaling and scaling["type"] == "ntkmixed":
            a = torch.log(torch.tensor(scaling["factor"], dtype=torch.float64)) / (dim / 2) ** scaling["power"]
            frequency = frequency / float(torch.exp(a * i ** scaling["power"]))
        elif scaling and scaling["type"] == "linear":
            frequency = frequency / scaling["factor"]
        out.append(frequency)
    return torch.tensor(out, dtype=torch.float64)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """x: [heads, n, dim]; each pair (j, j + dim/2) turns by angles[n, j]."""
    half = x.shape[-1] // 2
    cos, sin = angles.cos().to(x), angles.sin().to(x)
    first, second = x[..., :half], x[..., half:]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def logits(config: dict[str, Any], tensors: dict[str, Tensor], ids: list[int], first: int = 0) -> Tensor:
    """[n, vocab] of all tokens, in the tensors' dtype. first: position of the first token."""
    heads, eps = config["num_attention_heads"], config["rms_norm_eps"]
    dim = config["hidden_size"] // heads
    kv_heads = config.get("num_key_value_heads", heads)
    x = tensors["model.embed_tokens.weight"][torch.tensor(ids)]
    if config["use_stable_embedding"]:
        weight, bias = tensors["model.embed_layer_norm.weight"], tensors["model.embed_layer_norm.bias"]
        x = (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, unbiased=False, keepdim=True) + eps) * weight + bias
    places = torch.arange(first, first + len(ids), dtype=torch.float64)
    angles = places[:, None] * frequencies(config, dim)[None]
    blocked = torch.ones(len(ids), len(ids), dtype=torch.bool).triu(1)
    for i in range(config["num_hidden_layers"]):
        w = {name.removeprefix(f"model.layers.{i}."): t for name, t in tensors.items() if f"layers.{i}." in name}
        h = rms_norm(x, w["input_layernorm.weight"], eps)
        q, k, v = (
            (h @ w[f"self_attn.{n}_proj.weight"].T).view(len(ids), -1, dim).transpose(0, 1) for n in ("q", "k", "v")
        )
        q, k = rotate(q, angles), rotate(k, angles)
        k, v = (t.repeat_interleave(heads // kv_heads, dim=0) for t in (k, v))
        scores = (q @ k.transpose(1, 2) / dim**0.5).masked_fill(blocked, float("-inf")).softmax(-1)
        x = x + (scores @ v).transpose(0, 1).reshape(len(ids), -1) @ w["self_attn.o_proj.weight"].T
        h = rms_norm(x, w["post_attention_layernorm.weight"], eps)
        gate = h @ w["mlp.gate_proj.weight"].T
        x = x + (gate * torch.sigmoid(gate) * (h @ w["mlp.up_proj.weight"].T)) @ w["mlp.down_proj.weight"].T
    return rms_norm(x, tensors["model.norm.weight"], eps) @ tensors["lm_head.weight"].T
