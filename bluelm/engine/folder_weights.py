"""The weights of a BlueLM or Llama checkpoint folder, folded and fused on the way to the device."""

from __future__ import annotations

import re

import torch
import torch.nn.functional as F
from torch import Tensor

from bluelm.engine.checkpoint import Checkpoint, read_json
from bluelm.engine.linear import Form, Stored
from bluelm.engine.model import LlamaConfig, Weights
from bluelm.engine.quantized import unpack
from bluelm.engine.upload import AHEAD, Buffers, Upload
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
    checkpoint: Checkpoint, config: LlamaConfig, form: Form, device: torch.device, progress: Progress,
    preview: Preview = lambda _: None, upload: Upload | None = None,
) -> Weights:  # fmt: skip
    """All tensors as a model that computes in form.dtype. Strict: missing, extra and misshapen ones are named.

    Every tensor gets memory of its own, so that each shard is let go as soon as it is done. progress, preview: see
    assemble. upload: what `begin_upload` began.
    """
    source = Source(checkpoint, config, form.dtype or torch.float32, device, upload)
    try:
        weights = assemble(config, source.fetch, tied=source.tied, form=form, progress=progress, preview=preview)
    finally:
        source.close()
    source.check_all_taken()
    return weights


def begin_upload(checkpoint: Checkpoint, config: LlamaConfig, device: torch.device, *, kept: bool) -> Upload | None:
    """Have the tensors sent to a card from now on; None for a CPU. kept: they will be served in the bits they have, so
    that all of them may lie there at once.
    """
    if device.type != "cuda":
        return None
    first, *others = in_order(config, tied=False)
    order = [first, *(f"{EMBEDDING_NORM}.{part}" for part in ("weight", "bias")), *others]
    names = [name for name in order if name in checkpoint.names]
    kept = kept and bool(names) and checkpoint.tensor(names[0]).dtype.itemsize == 2
    return Upload(checkpoint.tensor, names, Buffers(device).sent, checkpoint.bytes if kept else AHEAD)


def is_stable(checkpoint: Checkpoint) -> bool:
    """Whether the embedding has a LayerNorm behind it."""
    return bool(checkpoint.config.get("use_stable_embedding", False))


class Source:
    """Gives the tensors of a checkpoint by Llama's names, in `dtype` on `device`, the embedding folded.

    tied: lm_head is the embedding. kind: of its 4 bits, see `quantization`. Raises CheckpointError.
    """

    def __init__(
        self, checkpoint: Checkpoint, config: LlamaConfig, dtype: torch.dtype, device: torch.device,
        upload: Upload | None = None,
    ) -> None:  # fmt: skip
        self.checkpoint, self.config, self.dtype, self.device = checkpoint, config, dtype, device
        self.tied = bool(checkpoint.config.get("tie_word_embeddings", False))
        self.kind = quantization(checkpoint)
        self._stable = is_stable(checkpoint)
        if self.tied and self._stable:
            raise CheckpointError(
                f"{checkpoint.path / 'config.json'} ties lm_head to an embedding with a LayerNorm, which no BlueLM "
                "does: download it again."
            )
        self._left = {name for name in checkpoint.names if not IGNORED.search(name)}
        self.upload = upload or begin_upload(checkpoint, config, device, kept=False)

    def close(self) -> None:
        """Let go of the files."""
        if self.upload is not None:
            self.upload.close()
        self.checkpoint.close()

    def check_all_taken(self) -> None:
        """Raises CheckpointError for tensors that nobody has asked for."""
        extra = sorted(self._left - {"lm_head.weight"} if self.tied else self._left)
        if extra:
            raise CheckpointError(
                f"{self.checkpoint.path} has {len(extra)} tensors that this model has not ({', '.join(extra[:3])}): "
                "it is of another model, or its config.json is.",
                tensor=extra[0],
            )

    def fetch(self, name: str) -> Stored:
        """A matrix or vector. Raises CheckpointError, which names it."""
        if self.kind and (parts := self.packed(name)):
            return unpack(self.kind, parts, name.removesuffix(".weight"))
        tensor = self._take(name)
        if tensor.dtype not in PLAIN:
            raise CheckpointError(
                f"{name} in {self.checkpoint.path} is stored as {str(tensor.dtype).removeprefix('torch.')}: "
                "only float32, float16 and bfloat16 can be served; use another checkpoint.",
                tensor=name,
            )
        if name == EMBEDDING and self._stable:
            return self._folded(tensor)
        mapped = tensor.device.type == "cpu" and not name.removesuffix(".weight").endswith(FUSED)  # else copied later
        return tensor.to(device=self.device, dtype=self.dtype, copy=mapped)

    def _take(self, name: str) -> Tensor:
        self._left.discard(name)
        return self.checkpoint.tensor(name) if self.upload is None else self.upload.tensor(name)

    def packed(self, name: str) -> dict[str, Tensor]:
        """The stored tensors of a matrix in 4 bits, by their last names; none for others."""
        base, names = name.removesuffix(".weight"), self.checkpoint.names
        if f"{base}.qweight" not in names:
            return {}
        parts = {part: self._take(f"{base}.{part}") for part in PACKED if f"{base}.{part}" in names}
        if (bias := parts.pop("bias", None)) is not None and bias.any():
            raise CheckpointError(f"{base}.bias is not zero: a Llama has no biases; use another checkpoint.")
        return parts

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
