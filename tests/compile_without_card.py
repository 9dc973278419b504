"""Compiles a small model's kernels ahead for compute capability 9.0, then goes through its steps; run by
test_gpu_ahead.py. Prints how many were compiled ahead, how many were launched, and how many had to be compiled then.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from typing import Any

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from bluelm.engine.gpu import compiling, launch
from bluelm.engine.gpu.runner import GpuRunner
from bluelm.engine.linear import Dense
from bluelm.engine.model import Layer, Llama, LlamaConfig, Weights
from bluelm.engine.scheduler import Piece, Row
from bluelm.engine.sizing import BLOCK_SIZE, GREEDY, Wanted, largest_steps

HIDDEN, INNER, VOCAB, CONTEXT, ROWS = 256, 512, 1000, 128, 2
launched = compiled = 0


class NoCard:
    """As triton.runtime.driver wants it."""

    class utils:
        @staticmethod
        def load_binary(*_: Any) -> tuple[int, ...]:
            return 1, 1, 0, 0, 1024

        @staticmethod
        def get_device_properties(_: int) -> dict[str, int]:
            return {"max_shared_mem": 232448, "multiprocessor_count": 132}

    def launcher_cls(self, src: Any, metadata: Any) -> Any:
        def launch(*_: Any) -> None:
            global launched
            launched += 1

        return launch

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")


def weights(layers: int) -> Weights:
    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(*shape, dtype=torch.bfloat16)

    def matrix(*shape: int) -> Dense:
        return Dense(zeros(*shape))

    layer = Layer(
        zeros(HIDDEN), matrix(3 * HIDDEN, HIDDEN), matrix(HIDDEN, HIDDEN), zeros(HIDDEN), matrix(2 * INNER, HIDDEN),
        matrix(HIDDEN, INNER),
    )  # fmt: skip
    return Weights(zeros(VOCAB, HIDDEN), (layer,) * layers, zeros(HIDDEN), matrix(VOCAB, HIDDEN), False)


def prompt(length: int) -> list[Piece]:
    return [Piece(Row("prompt", [1] * length, GREEDY, 0, length, blocks=[0] * (CONTEXT // BLOCK_SIZE)), 0, length)]


def count_compiled(**_: Any) -> None:
    global compiled
    compiled += 1


def main() -> None:
    logging.basicConfig(level=logging.WARNING)
    driver.set_active(NoCard())
    torch.cuda.device = torch.cuda.stream = lambda _: nullcontext()  # type: ignore
    torch.cuda.Stream = lambda: None  # type: ignore[assignment,misc]
    launch.early = lambda _: True  # type: ignore[assignment]
    knobs.runtime.jit_post_compile_hook = count_compiled
    config = LlamaConfig(VOCAB, HIDDEN, INNER, 2, 2, 2, HIDDEN // 2, CONTEXT)
    wanted = Wanted(CONTEXT, ROWS, cache=0, step=0)
    compiling.compile_ahead(config, [weights(1)], wanted, vocab=VOCAB, exact=False)
    ahead, before = compiled, launched
    runner = GpuRunner(
        Llama(config, weights(2)), block_size=BLOCK_SIZE, vocab=VOCAB, max_running=ROWS, context=CONTEXT, blocks=9
    )
    for pieces in (*largest_steps(runner.batches, wanted, 64), prompt(33), prompt(50)):
        runner.run(pieces)
    assert before == 0, "nothing is launched that is only to be compiled"
    print(ahead, launched, compiled - ahead)


if __name__ == "__main__":
    main()
