"""config.json and generation_config.json of an exported folder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bluelm.engine.model import LlamaConfig
from bluelm.engine.tokenizer import Tokenizer
from bluelm.types import SamplingParams


def llama_config(
    config: LlamaConfig, said: Mapping[str, Any], name: str, *, dtype: str, quantization: Mapping[str, Any]
) -> dict[str, Any]:
    """config.json, in the older spelling of rope and dtype, which newer programs read as well.

    said: the checkpoint's own config. name: of the model, by which chat is told from base. dtype: torch's name.
    """
    ids = {key: said[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if said.get(key) is not None}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "_name_or_path": name,
        "vocab_size": config.vocab,
        "hidden_size": config.hidden,
        "intermediate_size": config.intermediate,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "max_position_embeddings": config.context,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": _rope(config),
        "tie_word_embeddings": bool(said.get("tie_word_embeddings", False)),
        **ids,
        "torch_dtype": dtype,
        "use_cache": True,
        **({"quantization_config": dict(quantization)} if quantization else {}),
    }


def _rope(config: LlamaConfig) -> dict[str, Any] | None:
    """Frequencies divided alike at every length, as `longrope`.

    The window it names as the original one is the whole: so no program scales attention by the ratio of both, which
    vLLM and SGLang do whatever attention_factor says, and none changes over from short to long.
    """
    if not config.rope_divisors:
        return None
    factors = list(config.rope_divisors)
    return {
        "rope_type": "longrope",
        "short_factor": factors,
        "long_factor": factors,
        "factor": 1.0,
        "attention_factor": 1.0,
        "original_max_position_embeddings": config.context,
    }


def generation_config(tokenizer: Tokenizer, said: Mapping[str, Any], defaults: SamplingParams) -> dict[str, Any]:
    """generation_config.json: what ends an answer, markers included, and the settings to start from."""
    stops = [*sorted(tokenizer.eos_ids), *sorted(tokenizer.stop_ids - tokenizer.eos_ids)]
    ids = {key: said[key] for key in ("bos_token_id", "pad_token_id") if said.get(key) is not None}
    sampling = {name: getattr(defaults, name) for name in ("temperature", "top_p", "top_k", "repetition_penalty")}
    if not defaults.temperature:
        sampling = {"repetition_penalty": defaults.repetition_penalty}  # the others are for sampling only
    return {
        **ids,
        "eos_token_id": stops if len(stops) > 1 else stops[0],
        "do_sample": defaults.temperature > 0,
        **sampling,
    }
