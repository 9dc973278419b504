"""One step of decoding: the newest token of each row in, the next one out, all on the device, as one CUDA graph."""

from __future__ import annotations

import torch
from torch import Tensor

from bluelm.engine.gpu import shapes
from bluelm.engine.gpu.attend import Paged, attend
from bluelm.engine.gpu.packed import Int4Gpu, Int8Gpu, Packed
from bluelm.engine.gpu.products import ADD, GATED, PLAIN, Parts, product
from bluelm.engine.gpu.rows import embed, norm
from bluelm.engine.gpu.sample import Scratch, sample
from bluelm.engine.gpu.states import States
from bluelm.engine.gpu.vector import vector
from bluelm.engine.linear import Dense, Linear
from bluelm.engine.model import KVCache, LlamaConfig, Weights
from bluelm.errors import CheckpointError


def matrix(linear: Linear) -> Tensor:
    """The numbers of a matrix that is kept as they are: [out, in]."""
    if not isinstance(linear, Dense):
        raise CheckpointError(
            f"The kernels do not multiply by {linear.precision} matrices: set BLUELM_KERNELS to plain."
        )
    return linear.weight


def by_tile(name: str, x: Tensor, weight: Tensor, y: Tensor, rows: int, kind: int, parts: Parts) -> None:
    """`product` in the shape that suits the matrix of this name and so many rows."""
    shared = parts if name in shapes.HALVED else None
    product(x, weight, y, rows, shapes.tile(name, rows, weight.element_size()), kind, shared)


class Decoder:
    """Buffers and graphs for steps of up to `rows` rows. vocab: ids from here on are never sampled.

    exact: a row's numbers are the same, to the last bit, in a batch of any size; otherwise one row and 17 to 32 rows
    take faster ways, on which sums are taken in another order.
    """

    def __init__(
        self, config: LlamaConfig, weights: Weights, cache: KVCache, states: States, cos: Tensor, sin: Tensor,
        *, rows: int, block_size: int, vocab: int, exact: bool,
    ) -> None:  # fmt: skip
        self.config = config
        self.weights = weights
        self.cache = cache
        self.states = states
        self.vocab = vocab
        self.exact = exact
        like = weights.norm
        self.device = like.device
        self.batches = [batch for batch in shapes.BATCHES if batch < rows] + [
            next((batch for batch in shapes.BATCHES if batch >= rows), shapes.BATCHES[-1])
        ]
        most = self.batches[-1]
        self.slots = torch.full((most,), states.dummy, dtype=torch.int32, device=self.device)
        self._paged = Paged.make(
            self.slots, states.position, states.tables, cos, sin, config.heads, config.kv_heads, block_size
        )
        self.x = like.new_zeros(most, config.hidden)
        self._normed = like.new_zeros(most, config.hidden)
        self._qkv = like.new_zeros(most, (config.heads + 2 * config.kv_heads) * config.head_dim)
        self._attended = like.new_zeros(most, config.heads * config.head_dim)
        self._inner = like.new_zeros(most, config.intermediate)
        self.logits = torch.zeros(most, weights.embedding.shape[0], dtype=torch.float32, device=self.device)
        self._parts = Parts(most, config.hidden, self.device)
        self._packed = Packed(most, weights.matrices, like, weights.narrow)
        self._scratch = Scratch.make(most, self.logits.shape[1], self.device)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def batch(self, rows: int) -> int:
        """The size of the captured batch that holds so many rows."""
        return next(batch for batch in self.batches if batch >= rows)

    def capture(self) -> None:
        """Compile and capture a graph for each batch size; nothing on a CPU."""
        if self.device.type != "cuda":
            return
        pool = None
        for batch in reversed(self.batches):
            self.compute(batch)
            torch.cuda.synchronize(self.device)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                self.compute(batch)
            self._graphs[batch] = graph
            pool = graph.pool()

    def step(self, batch: int) -> None:
        """Launch a step for the rows whose states stand in `slots[:batch]`."""
        if batch in self._graphs:
            self._graphs[batch].replay()
        else:
            self.compute(batch)

    def compute(self, rows: int) -> None:
        """The step's kernels, one after the other."""
        embed(self.slots, self.states.token, self.weights.embedding, self.x, rows)
        for index in range(self.config.layers):
            self._layer(index, rows)
        self.sample(rows)

    def sample(self, rows: int) -> None:
        """From the residual x [rows, hidden] to the states' next tokens."""
        self._head(rows)
        sample(self.logits, self.slots, self.states, self._scratch, rows, self.vocab)

    def score(self, x: Tensor) -> Tensor:
        """Logits [rows, vocab] behind the residuals x [rows, hidden], as many as the largest batch at most; they are
        good until the next step."""
        self.x[: len(x)] = x
        self._head(len(x))
        return self.logits[: len(x), : self.vocab]

    def _head(self, rows: int) -> None:
        self._multiply("lm_head", self.x, self.weights.lm_head, self.logits, rows, PLAIN, self.weights.norm)

    def _layer(self, index: int, rows: int) -> None:
        layer = self.weights.layers[index]
        self._multiply("qkv", self.x, layer.qkv, self._qkv, rows, PLAIN, layer.input_norm)
        keys, values = self.cache.keys[index], self.cache.values[index]
        attend(self._qkv, keys, values, self._attended, self._paged, rows, shapes.reading(rows, exact=self.exact))
        self._multiply("o", self._attended, layer.o, self.x, rows, ADD)
        self._multiply("gate_up", self.x, layer.gate_up, self._inner, rows, GATED, layer.post_norm)
        self._multiply("down", self._inner, layer.down, self.x, rows, ADD)

    def _multiply(
        self, name: str, x: Tensor, linear: Linear, y: Tensor, rows: int, kind: int, gain: Tensor | None = None
    ) -> None:
        """y = x W^T, or y += x W^T; gain: the weight of the norm that x goes through before, if it does."""
        eps, alone = self.config.norm_eps, rows == 1 and not self.exact
        if isinstance(linear, Int4Gpu | Int8Gpu):
            linear.multiply(name, x, y, rows, kind, self._packed, gain=gain, eps=eps, alone=alone)
            return
        weight = matrix(linear)
        if alone:
            vector(x, weight, y, kind, gain=gain, eps=eps, shape=shapes.strip(name))
            return
        if gain is not None:
            norm(x, gain, self._normed, rows, eps)
            x = self._normed
        by_tile(name, x, weight, y, rows, kind, self._parts)
