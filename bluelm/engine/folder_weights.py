"""The weights of a BlueLM or Llama checkpoint folder, folded and fused on the way to the device."""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import Tensor

from bluelm.engine.checkpoint import Checkpoint, read_json
from bluelm.engine.linear import Stored
from bluelm.engine.model import LlamaConfig, Weights
from bluelm.engine.quantized import unpack
from bluelm.engine.upload import Buffers, Upload
from bluelm.engine.weights import PARTS, Preview, Progress, assemble, check_shape, in_order
from bluelm.errors import CheckpointError

EMBEDDING = "model.embed_tokens.weight"
EMBEDDING_NORM = "model.embed_layer_norm"
IGNORED = re.compile(r"rotary_emb\.inv_freq$")  # buffers, computed here
PLAIN = (torch.float32, torch.float16, torch.bfloat16)
FUSED = tuple(name for names in PARTS.values() if len(names) > 1 for name in names)
FOLDED_ROWS = 8192  # 134 MB in float32 where hidden is 4096
PACKED = ("qweight", "qzeros", "zeros", "scales", "g_idx", "bias")


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
    checkpoint: Checkpoint, config: LlamaConfig, dtype: torch.dtype, device: torch.device, progress: Progress,
    preview: Preview = lambda _: None,
) -> Weights:  # fmt: skip
    """All tensors as a model that computes in `dtype`. Strict: missing, extra and misshapen ones are named.

    Every tensor gets memory of its own, so that each shard is let go as soon as it is done. progress, preview: see
    assemble.
    """
    tied = bool(checkpoint.config.get("tie_word_embeddings", False))
    if tied and is_stable(checkpoint):
        raise CheckpointError(
            f"{checkpoint.path / 'config.json'} ties lm_head to an embedding with a LayerNorm, which no BlueLM does: "
            "download it again."
        )
    source = _Source(checkpoint, config, dtype, device)
    try:
        weights = assemble(config, source.fetch, tied=tied, dtype=dtype, progress=progress, preview=preview)
    finally:
        source.close()
    extra = sorted(source.left - {"lm_head.weight"} if tied else source.left)
    if extra:
        raise CheckpointError(
            f"{checkpoint.path} has {len(extra)} tensors that this model has not ({', '.join(extra[:3])}): "
            "it is of another model, or its config.json is.",
            tensor=extra[0],
        )
    return weights


def is_stable(checkpoint: Checkpoint) -> bool:
    """Whether the embedding has a LayerNorm behind it."""
    return bool(checkpoint.config.get("use_stable_embedding", False))


class _Source:
    """Gives each tensor once. left: names not given yet."""

    def __init__(self, checkpoint: Checkpoint, config: LlamaConfig, dtype: torch.dtype, device: torch.device) -> None:
        self.checkpoint, self.config, self.dtype, self.device = checkpoint, config, dtype, device
        self.left = {name for name in checkpoint.names if not IGNORED.search(name)}
        self.stable = is_stable(checkpoint)
        self.kind = quantization(checkpoint)
        names = [name for name in self._in_order() if name in self.left]
        self.upload = Upload(checkpoint.tensor, names, Buffers(device).sent) if device.type == "cuda" else None

    def _in_order(self) -> list[str]:
        first, *others = in_order(self.config, tied=False)
        return [first, *(f"{EMBEDDING_NORM}.{part}" for part in ("weight", "bias")), *others]

    def close(self) -> None:
        if self.upload is not None:
            self.upload.close()
        self.checkpoint.close()

    def fetch(self, name: str) -> Stored:
        base = name.removesuffix(".weight")
        if self.kind and f"{base}.qweight" in self.left:
            return self._packed(self.kind, base)
        tensor = self._take(name)
        if tensor.dtype not in PLAIN:
            raise CheckpointError(
                f"{name} in {self.checkpoint.path} is stored as {str(tensor.dtype).removeprefix('torch.')}: "
                "only float32, float16 and bfloat16 can be served; use another checkpoint.",
                tensor=name,
            )
        if name == EMBEDDING and self.stable:
            return self._folded(tensor)
        mapped = tensor.device.type == "cpu" and not name.removesuffix(".weight").endswith(FUSED)  # else copied later
        return tensor.to(device=self.device, dtype=self.dtype, copy=mapped)

    def _take(self, name: str) -> Tensor:
        self.left.discard(name)
        return self.checkpoint.tensor(name) if self.upload is None else self.upload.tensor(name)

    def _packed(self, kind: str, base: str) -> Stored:
        parts = {part: self._take(f"{base}.{part}") for part in PACKED if f"{base}.{part}" in self.left}
        if (bias := parts.pop("bias", None)) is not None and bias.any():
            raise CheckpointError(f"{base}.bias is not zero: a Llama has no biases; use another checkpoint.")
        return unpack(kind, parts, base)

    def _folded(self, table: Tensor) -> Tensor:
        """The embedding table behind its LayerNorm, which works on each row alone; in float32, some rows at a time."""
        weight, bias = (self._take(f"{EMBEDDING_NORM}.{part}") for part in ("weight", "bias"))
        hidden = (self.config.hidden,)
        for name, tensor in (("weight", weight), ("bias", bias)):
            check_shape(tensor, hidden, f"{EMBEDDING_NORM}.{name}")
        check_shape(table, (self.config.vocab, *hidden), EMBEDDING)
        folded = torch.empty(table.shape, dtype=self.dtype, device=self.device)
        for start in range(0, len(table), FOLDED_ROWS):
            rows = table[start : start + FOLDED_ROWS].float()
            folded[start : start + FOLDED_ROWS] = F.layer_norm(
                rows, hidden, weight.float(), bias.float(), self.config.norm_eps
            )
        return folded
