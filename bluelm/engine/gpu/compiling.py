"""Compiles a model's kernels while its weights are still being read: every kernel is there once its first layer is."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace

import torch

from bluelm.engine.gpu.runner import GpuRunner
from bluelm.engine.model import Llama, LlamaConfig, Weights
from bluelm.engine.sizing import BLOCK_SIZE, Wanted, largest_steps

PARTS = 4  # threads
STEP = 512  # prompt tokens of the step that is computed for its kernels
log = logging.getLogger("bluelm.engine")


class Compiling:
    """Threads that compute a model of one layer for each size of batch, each on a stream of its own.

    exact: as GpuRunner's. What goes wrong is only logged: it comes again, and is told, once the whole model runs.
    """

    def __init__(self, config: LlamaConfig, wanted: Wanted, *, vocab: int, exact: bool) -> None:
        self._config = replace(config, layers=1)
        self._wanted, self._vocab, self._exact = wanted, vocab, exact
        self._threads: list[threading.Thread] = []

    def begin(self, weights: Weights) -> None:
        """weights: of the first layer alone."""
        device = weights.norm.device
        model = Llama(self._config, weights, context=1)
        for part in range(PARTS):
            thread = threading.Thread(target=self._compile, args=(model, device, part), name=f"compile-{part}")
            thread.start()
            self._threads.append(thread)

    def wait(self) -> None:
        """Until all is compiled."""
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _compile(self, model: Llama, device: torch.device, part: int) -> None:
        try:
            with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream()):
                runner = GpuRunner(
                    model, block_size=BLOCK_SIZE, vocab=self._vocab, max_running=self._wanted.running,
                    context=self._wanted.context, exact=self._exact,
                )  # fmt: skip
                prompts, *decoding = largest_steps(runner.batches, self._wanted, STEP)
                mine = [pieces for pieces in decoding if _part(len(pieces)) == part]
                for pieces in mine if part else [*mine, prompts]:
                    runner.run(pieces)
                torch.cuda.synchronize()
        except Exception as error:
            log.info("kernels could not be compiled ahead: %s", error)


def _part(rows: int) -> int:
    """The tiles for 64, 32 and 16 rows, and the kernels for one row, are made at the same time."""
    return 0 if rows == 1 else 1 + rows.bit_length() % 3
