"""The shape of a model from a checkpoint's config.json; whatever would compute something else is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bluelm.engine.checkpoint import Checkpoint
from bluelm.engine.model import LlamaConfig
from bluelm.engine.rope import read_rope
from bluelm.errors import CheckpointError

SERVED = ("bluelm", "llama")
FIXED = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "partial_rotary_factor": 1.0}


def folder_config(checkpoint: Checkpoint) -> LlamaConfig:
    """Every field that matters is read. Raises CheckpointError, which names the field and the file."""
    fields = _Fields(checkpoint.config, checkpoint.path / "config.json")
    fields.refuse_others()
    heads, hidden = fields.count("num_attention_heads"), fields.count("hidden_size")
    kv_heads = fields.count("num_key_value_heads", heads)
    head_dim = fields.count("head_dim", hidden // heads)
    if heads % kv_heads or head_dim % 2 or ("head_dim" not in checkpoint.config and hidden % heads):
        raise fields.error(
            "num_attention_heads", f"{heads} heads, {kv_heads} key heads and hidden size {hidden} do not fit together"
        )
    rope = read_rope(checkpoint.config, head_dim, fields.file)
    return LlamaConfig(
        vocab=fields.count("vocab_size"),
        hidden=hidden,
        intermediate=fields.count("intermediate_size"),
        layers=fields.count("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        context=int(fields.count("max_position_embeddings") * rope.reach),
        norm_eps=fields.epsilon("rms_norm_eps"),
        rope_theta=rope.theta,
        rope_divisors=rope.divisors,
    )


def is_bluelm(checkpoint: Checkpoint) -> bool:
    """Whether config.json says BlueLM (else: Llama)."""
    return str(checkpoint.config.get("model_type", "")).lower() == "bluelm"


class _Fields:
    """A field that is null is one that is absent, as in transformers."""

    def __init__(self, config: dict[str, Any], file: Path) -> None:
        self.config, self.file = config, file

    def error(self, field: str, what: str) -> CheckpointError:
        return CheckpointError(f"{self.file}: {what}; download it again, or use another checkpoint.", field=field)

    def refuse_others(self) -> None:
        kind = self.config.get("model_type")
        if str(kind).lower() not in SERVED:
            raise CheckpointError(f"{self.file} is of a {kind!r} model: only BlueLM and Llama can be served.")
        for field, only in FIXED.items():
            found = self.config.get(field)
            if found is not None and found != only:
                raise self.error(field, f"{field} is {found!r}, and only {only!r} can be served")

    def count(self, field: str, default: int | None = None) -> int:
        found = self._value(field, default)
        if isinstance(found, bool) or not isinstance(found, int) or found < 1:
            raise self.error(field, f"{field} is {found!r} and must be a whole number, 1 or more")
        return found

    def epsilon(self, field: str) -> float:
        found = self._value(field, None)
        if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 < found < 0.1:
            raise self.error(field, f"{field} is {found!r} and must be a small number above 0")
        return float(found)

    def _value(self, field: str, default: Any) -> Any:
        found = self.config.get(field)
        found = default if found is None else found
        if found is None:
            raise CheckpointError(f"{self.file} has no {field}: download it again.", field=field)
        return found
