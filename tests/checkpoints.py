"""Writes small synthetic checkpoints in the original BlueLM formats, with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests.synthetic import bluelm_tokenizer_folder

HIDDEN, INTERMEDIATE, LAYERS, HEADS, VOCAB = 64, 96, 2, 4, 928  # the tokenizer has some pieces less, as BlueLM's has
NTKMIXED = {"type": "ntkmixed", "factor": 16.0, "power": 0.3}


def bluelm_config(**changes: Any) -> dict[str, Any]:
    return {
        "architectures": ["BlueLMForCausalLM"],
        "model_type": "BlueLM",
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "use_stable_embedding": True,
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 3,
        **changes,
    }


def random_tensors(config: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Every tensor of a BlueLM checkpoint, the inv_freq buffers of old files included."""
    g = torch.Generator().manual_seed(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    kv = hidden // config["num_attention_heads"] * config.get("num_key_value_heads", config["num_attention_heads"])

    def matrix(out: int, into: int) -> Tensor:
        return torch.randn(out, into, generator=g) * 0.2

    def norm() -> Tensor:
        return 1 + 0.3 * torch.randn(hidden, generator=g)

    tensors = {"model.embed_tokens.weight": matrix(config["vocab_size"], hidden), "model.norm.weight": norm()}
    if config["use_stable_embedding"]:
        tensors["model.embed_layer_norm.weight"] = norm()
        tensors["model.embed_layer_norm.bias"] = 0.3 * torch.randn(hidden, generator=g)
    for i in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{i}."
        shapes = {
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.v_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "mlp.down_proj": (hidden, inner),
        }
        tensors |= {f"{prefix}{name}.weight": matrix(*shape) for name, shape in shapes.items()}
        tensors |= {f"{prefix}{name}.weight": norm() for name in ("input_layernorm", "post_attention_layernorm")}
        tensors[f"{prefix}self_attn.rotary_emb.inv_freq"] = torch.rand(8)
    tensors["lm_head.weight"] = matrix(config["vocab_size"], hidden)
    return tensors


def write_checkpoint(
    path: Path,
    *,
    config: dict[str, Any] | None = None,
    tensors: dict[str, Tensor] | None = None,
    form: str = "bin",
    shards: int = 1,
    mixed: bool = False,
) -> dict[str, Tensor]:
    """A whole folder: config, tokenizer, weights. Gives the tensors written.

    form: "bin" or "safetensors". mixed: tensors are dealt out to the shards one by one instead of in order.
    """
    config = config or bluelm_config()
    tensors = tensors or random_tensors(config)
    bluelm_tokenizer_folder(path)
    (path / "config.json").write_text(json.dumps(config))
    names = list(tensors)
    stem, ending = ("pytorch_model", ".bin") if form == "bin" else ("model", ".safetensors")
    long = -(-len(names) // shards)
    parts = [names[i::shards] if mixed else names[i * long : (i + 1) * long] for i in range(shards)]
    files = [f"{stem}-{i + 1:05}-of-{shards:05}{ending}" if shards > 1 else stem + ending for i in range(shards)]
    for file, part in zip(files, parts, strict=True):
        content = {name: tensors[name].clone() for name in part}
        if form == "bin":
            torch.save(content, path / file)
        else:
            save_file(content, path / file)
    if shards > 1:
        where = {name: file for file, part in zip(files, parts, strict=True) for name in part}
        (path / f"{stem}{ending}.index.json").write_text(json.dumps({"weight_map": where}))
    return tensors
