"""The forward pass of a Llama over a flat batch of tokens; every BlueLM checkpoint is one once it is loaded.

The matrices that read the same input are fused at load: query, key and value into one, gate and up into one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bluelm.engine.attention import Step, paged_attention
from bluelm.engine.linear import FEW, PIECE, Linear, of_form
from bluelm.engine.traced import Traced, traceable


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """The shape of a Llama. context: positions it reaches. rope_theta: base of the rotary frequencies.

    rope_divisors: [head_dim / 2], what each frequency is divided by; empty: by nothing.
    """

    vocab: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_divisors: tuple[float, ...] = ()

    def inverse_frequencies(self) -> Tensor:
        """[head_dim / 2] float64: how far each pair of numbers turns per position, in radians.

        float32 would be off by some 1e-4 radians after thousands of positions, and the logits by 3e-5.
        """
        exponent = torch.arange(0, self.head_dim, 2, dtype=torch.float64) / self.head_dim
        frequencies = self.rope_theta**-exponent
        divisors = torch.tensor(self.rope_divisors or 1.0, dtype=torch.float64)
        return frequencies / divisors

    @property
    def cache_numbers(self) -> int:
        """Numbers in the KV cache per token."""
        return 2 * self.layers * self.kv_heads * self.head_dim


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder block. Norms are [hidden]."""

    input_norm: Tensor
    qkv: Linear  # [(heads + 2 * kv_heads) * head_dim, hidden]
    o: Linear
    post_norm: Tensor
    gate_up: Linear  # [2 * intermediate, hidden]
    down: Linear

    @property
    def matrices(self) -> tuple[Linear, ...]:
        """In the order in which they multiply."""
        return self.qkv, self.o, self.gate_up, self.down

    @property
    def parameters(self) -> int:
        return self.input_norm.numel() + self.post_norm.numel() + sum(matrix.parameters for matrix in self.matrices)

    def with_matrices(self, change: Callable[[Linear], Linear]) -> Layer:
        """The same block with what `change` makes of each matrix, one after the other."""
        qkv, o, gate_up, down = map(change, self.matrices)
        return replace(self, qkv=qkv, o=o, gate_up=gate_up, down=down)


@dataclass(frozen=True, slots=True)
class Weights:
    """All tensors of a model. tied: lm_head is the embedding table."""

    embedding: Tensor  # [vocab, hidden]
    layers: tuple[Layer, ...]
    norm: Tensor
    lm_head: Linear
    tied: bool

    @property
    def matrices(self) -> list[Linear]:
        """All that multiply."""
        return [*(matrix for layer in self.layers for matrix in layer.matrices), self.lm_head]

    @property
    def narrow(self) -> list[Linear]:
        """Those of them with few outputs: each shape once."""
        return [self.layers[0].qkv, self.layers[0].o, self.layers[0].down]

    @property
    def precision(self) -> str:
        """As people name it: that of the blocks' matrices."""
        return self.layers[0].down.precision

    @property
    def parameters(self) -> int:
        head = 0 if self.tied else self.lm_head.parameters
        return self.embedding.numel() + sum(layer.parameters for layer in self.layers) + self.norm.numel() + head


class KVCache:
    """Keys and values of every layer: [layers, slots, kv_heads, head_dim] each."""

    keys: Tensor
    values: Tensor

    def __init__(self, config: LlamaConfig, slots: int, like: Tensor) -> None:
        shape = (config.layers, slots, config.kv_heads, config.head_dim)
        self.keys, self.values = zeros(shape, like), zeros(shape, like)

    @property
    def slots(self) -> int:
        return self.keys.shape[1]

    @property
    def slot_bytes(self) -> int:
        """What a token takes."""
        layers, _, kv_heads, head_dim = self.keys.shape
        return 2 * layers * kv_heads * head_dim * self.keys.element_size()

    def resize(self, slots: int) -> None:
        """Another number of slots; what they held is gone."""
        layers, _, kv_heads, head_dim = self.keys.shape
        shape = (layers, slots, kv_heads, head_dim)
        self.keys, self.values = zeros(shape, self.keys), zeros(shape, self.keys)

    def gathered(self, slots: Tensor) -> KVCache:
        """A cache with what these slots [n] hold, one behind the other."""
        found = copy(self)
        found.keys, found.values = self.keys.index_select(1, slots), self.values.index_select(1, slots)
        return found

    def copy(self, other: KVCache, theirs: Tensor, slots: Tensor) -> None:
        """Take what another cache holds in slots `theirs` into these."""
        self.keys.index_copy_(1, slots, other.keys.index_select(1, theirs))
        self.values.index_copy_(1, slots, other.values.index_select(1, theirs))


def zeros(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Of the dtype and on the device of `like`; on a CPU memory is taken only as it is written to (by numpy)."""
    if like.device.type != "cpu":
        return torch.zeros(shape, dtype=like.dtype, device=like.device)
    bytes = np.zeros(prod(shape) * like.element_size(), dtype=np.uint8)
    return torch.from_numpy(bytes).view(like.dtype).view(shape)


class Llama:
    """Weights and the forward pass. Knows token ids, positions and cache slots; nothing of requests or text."""

    def __init__(self, config: LlamaConfig, weights: Weights, *, context: int | None = None) -> None:
        self.config = config
        self.weights = weights
        self.context = context or config.context
        angles = torch.outer(torch.arange(self.context, dtype=torch.float64), config.inverse_frequencies())
        self._cos = torch.cat((angles.cos(), angles.cos()), dim=-1).to(weights.norm)
        self._sin = torch.cat((-angles.sin(), angles.sin()), dim=-1).to(weights.norm)
        self._norms = [(doubled(layer.input_norm), doubled(layer.post_norm)) for layer in weights.layers]
        self._last_norm = doubled(weights.norm)
        # A prompt's last few tokens, where the others were in the cache, are multiplied as in the whole prompt.
        self._for_spans = [layer.with_matrices(lambda each: of_form(each, few=False)) for layer in weights.layers]
        traced = weights.norm.device.type == "cpu" and traceable(weights.layers)
        self._traced = {few: Traced(self._last, weights.layers, few=few) for few in (True, False)} if traced else {}

    @torch.inference_mode()
    def forward(self, step: Step, cache: KVCache) -> Tensor:
        """Logits [k, vocab] of the step's sampled tokens; the step's keys and values are added to the cache."""
        return self.logits(self.hidden(step, cache))

    def logits(self, hidden: Tensor) -> Tensor:
        """[k, vocab], of what `hidden` gives."""
        return self.weights.lm_head(hidden)

    @torch.inference_mode()
    def hidden(self, step: Step, cache: KVCache) -> Tensor:
        """What lm_head reads of the step's sampled tokens: [k, hidden]; keys and values are added to the cache."""
        count = len(step.tokens)
        if self._traced and step.only_rows and step.groups[0].slots is None and count <= PIECE:
            return self._traced[count <= FEW](step, cache)
        layers = self._for_spans if step.spans else self.weights.layers
        return self._last(layers, step, cache.keys, cache.values)

    def _last(self, layers: Sequence[Layer], step: Step, keys: Tensor, values: Tensor) -> Tensor:
        """`hidden`, by these layers."""
        inner, eps = self.config.intermediate, self.config.norm_eps
        x = F.embedding(step.tokens, self.weights.embedding)
        cos, sin = self._cos[step.positions][:, None], self._sin[step.positions][:, None]
        for index, (layer, (input_norm, post_norm)) in enumerate(zip(layers, self._norms, strict=True)):
            qkv = layer.qkv(rms_norm(x, input_norm, eps))
            x += layer.o(self._attend(qkv, keys[index], values[index], step, cos, sin))
            gate, up = layer.gate_up(rms_norm(x, post_norm, eps)).split(inner, dim=-1)
            x += layer.down(F.silu(gate).mul_(up))
        return rms_norm(x[step.sampled], self._last_norm, eps)

    def _attend(self, qkv: Tensor, keys: Tensor, values: Tensor, step: Step, cos: Tensor, sin: Tensor) -> Tensor:
        heads, kv_heads, dim = self.config.heads, self.config.kv_heads, self.config.head_dim
        query_key, value = qkv.view(-1, heads + 2 * kv_heads, dim).split((heads + kv_heads, kv_heads), dim=1)
        query, key = rotate(query_key, cos, sin).split((heads, kv_heads), dim=1)
        keys.index_copy_(0, step.slots, key)
        values.index_copy_(0, step.slots, value)
        return paged_attention(query, keys, values, step)


def doubled(weight: Tensor) -> Tensor:
    """A norm's weight as `rms_norm` takes it."""
    return torch.cat((weight, weight))


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension; weight is doubled.

    It is the first half of the LayerNorm of (x, -x), whose mean is 0: PyTorch has a kernel for that on a CPU, while its
    own rms_norm is ten operations there.
    """
    both, width = torch.cat((x, -x), dim=-1), len(weight)  # len: a plain number, also in a trace
    return F.layer_norm(both, (width,), weight, None, eps)[..., : width // 2].contiguous()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Half-rotation rotary embedding of x [n, heads, head_dim]; cos, sin [n, 1, head_dim], sin's first half negated."""
    swapped = x.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
    return (x * cos).addcmul_(swapped, sin)
