"""A Llama whose matrices are all native: its tables, and a step as a job for the crew."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bluelm.engine.attention import Step, paged_attention
from bluelm.engine.model import KVCache, Llama
from bluelm.engine.native import job as places
from bluelm.engine.native.crew import crew
from bluelm.engine.native.matrices import Native
from bluelm.engine.native.vectors import GROUP, PART


@dataclass(frozen=True, slots=True)
class Tokens:
    """A step's tokens, those that are looked up one by one first. blocks: int64 [singles, most], where each one's row
    has its keys and values; singles: how many there are, all others being of step.spans."""

    step: Step
    blocks: Tensor

    @property
    def singles(self) -> int:
        return len(self.blocks)


class NativeLlama:
    """Computes steps of a model for whose matrices `serves` is true. block_size: of the cache."""

    def __init__(self, model: Llama, cache: KVCache, block_size: int) -> None:
        self._model, self._cache, self._block_size = model, cache, block_size
        config, weights = model.config, model.weights
        angles = torch.outer(torch.arange(model.context, dtype=torch.float64), config.inverse_frequencies())
        self._turns = [part.float().contiguous() for part in (angles.cos(), angles.sin())]
        norms = [weight for layer in weights.layers for weight in (layer.input_norm, layer.post_norm)]
        self._norms = torch.stack([*norms, weights.norm]).float()
        self._eps = torch.full((config.hidden,), config.norm_eps)
        self._table = self._layers()
        self._base = self._sizes()
        self._scratch = max(config.hidden, config.intermediate, config.heads * config.head_dim, model.context)

    @staticmethod
    def serves(model: Llama) -> bool:
        """Whether all matrices of its layers are native, with as many bits each."""
        inside = [matrix for layer in model.weights.layers for matrix in layer.matrices]
        alike = all(isinstance(matrix, Native) for matrix in inside) and len({each.precision for each in inside}) == 1
        return alike and model.config.head_dim % PART == 0

    def _layers(self) -> np.ndarray:
        table = np.zeros((len(self._model.weights.layers), 6), dtype=np.int64)
        for index, layer in enumerate(self._model.weights.layers):
            codes = [matrix.packed.data_ptr() for matrix in layer.matrices if isinstance(matrix, Native)]
            table[index] = [*codes, self._norms[2 * index].data_ptr(), self._norms[2 * index + 1].data_ptr()]
        return table

    def _sizes(self) -> np.ndarray:
        """A job with what every step has in common."""
        config, job = self._model.config, np.zeros(places.JOB, dtype=np.int64)
        job[places.KIND] = places.STEP
        job[places.LAYERS : places.INNER + 1] = (
            config.layers, config.hidden, config.heads, config.kv_heads, config.head_dim, config.intermediate,
        )  # fmt: skip
        job[places.TABLE : places.SIN + 1] = (
            self._table.ctypes.data, self._norms[-1].data_ptr(), self._eps.data_ptr(),
            *(part.data_ptr() for part in self._turns),
        )  # fmt: skip
        job[places.BLOCK_SIZE] = self._block_size
        first = self._model.weights.layers[0].down
        assert isinstance(first, Native)
        job[places.BITS] = first.bits
        return job

    def hidden(self, tokens: Tokens) -> Tensor:
        """What lm_head reads of the step's sampled tokens: [k, hidden]; keys and values are added to the cache."""
        step, layers = tokens.step, self._model.config.layers
        with self._room(tokens) as (job, qkv, attended, result):
            if not step.spans:
                self._run(job, 0, layers - 1)
            else:
                self._run(job, 0, 0, to_middle=True)
                for layer in range(layers):
                    self._spans(tokens, layer, qkv, attended)
                    last = layer == layers - 1
                    self._run(job, layer, layer if last else layer + 1, from_middle=True, to_middle=not last)
        head = self._model.weights.lm_head
        return result if isinstance(head, Native) else result.to(self._cache.keys.dtype)

    def _run(
        self, job: np.ndarray, first: int, last: int, *, from_middle: bool = False, to_middle: bool = False
    ) -> None:
        job[[places.FIRST, places.LAST, places.FROM_MIDDLE, places.TO_MIDDLE]] = (first, last, from_middle, to_middle)
        crew().run(job)

    def _spans(self, tokens: Tokens, layer: int, qkv: Tensor, attended: Tensor) -> None:
        """Attention of pieces of prompts, by PyTorch's operation."""
        config, cache = self._model.config, self._cache
        query = qkv.view(len(qkv), -1, config.head_dim)[:, : config.heads].to(cache.keys.dtype)
        attended[tokens.singles :] = paged_attention(query, cache.keys[layer], cache.values[layer], tokens.step)

    @contextmanager
    def _room(self, tokens: Tokens) -> Iterator[tuple[np.ndarray, Tensor, Tensor, Tensor]]:
        """The job of a step, and of its working space queries, keys and values, what attention gives, and the
        result."""
        config, step, cache = self._model.config, tokens.step, self._cache
        rows, job = len(step.tokens), self._base.copy()
        x = torch.nn.functional.embedding(step.tokens, self._model.weights.embedding).float()
        widest = max(config.hidden, config.intermediate, config.heads * config.head_dim)
        qkv = torch.empty(rows, (config.heads + 2 * config.kv_heads) * config.head_dim)
        attended, gates = torch.empty(rows, config.heads * config.head_dim), torch.empty(rows, 2 * config.intermediate)
        codes, scales = torch.empty(rows * widest, dtype=torch.int8), torch.empty(rows * widest // GROUP * 2)
        scratch, result = torch.empty(crew().threads, self._scratch), torch.empty(len(step.sampled), config.hidden)
        job[[places.ROWS, places.SINGLES, places.SAMPLED]] = (rows, tokens.singles, len(step.sampled))
        job[[places.BLOCKS_EACH, places.SCRATCH_EACH]] = (tokens.blocks.shape[1], self._scratch)
        job[places.LAYER_BYTES] = cache.keys.stride(0) * cache.keys.element_size()
        given = {
            places.POSITIONS: step.positions, places.SLOTS: step.slots, places.BLOCKS: tokens.blocks,
            places.WANTED: step.sampled, places.KEYS: cache.keys, places.VALUES: cache.values,
            places.X: x, places.QKV: qkv, places.ATTENDED: attended, places.GATES: gates, places.CODES: codes,
            places.SCALES: scales, places.SCRATCH: scratch, places.RESULT: result,
        }  # fmt: skip
        job[list(given)] = [each.data_ptr() for each in given.values()]
        yield job, qkv, attended, result  # who gets them holds what the addresses lead to


def blocks_of(rows: Sequence[Sequence[int]]) -> Tensor:
    """int64 [rows, most], what a row has not being 0."""
    most = max(map(len, rows), default=1)
    return torch.tensor([[*row, *[0] * (most - len(row))] for row in rows], dtype=torch.int64).view(len(rows), most)
