"""Whether a card's kernels can be used: found out on a thread, and compiled there, while the weights are being read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from bluelm.config import Settings
from bluelm.engine.device import without_kernels
from bluelm.engine.sizing import Wanted

if TYPE_CHECKING:
    import torch

    from bluelm.engine.model import LlamaConfig, Weights


class Kernels:
    """Those for one device and precision. Importing Triton and trying it takes a second, for which nobody waits."""

    def __init__(self, settings: Settings, device: torch.device, dtype: torch.dtype) -> None:
        self.exact = settings.exact
        self._thread = ThreadPoolExecutor(1, "kernels")
        self._missing = self._thread.submit(without_kernels, settings, device, dtype)

    def why_not(self) -> str:
        """Why plain PyTorch operations are to be used; "" if the kernels can be. Waits for the answer."""
        return self._missing.result()

    def compile(self, config: LlamaConfig, first: Weights, wanted: Wanted, vocab: int) -> None:
        """Begin to compile all of them. first: the weights of the first layer alone."""
        self._thread.submit(self._compile, config, [first], wanted, vocab)

    def wait(self) -> None:
        """Until what was begun has ended."""
        self._thread.shutdown()

    def _compile(self, config: LlamaConfig, first: list[Weights], wanted: Wanted, vocab: int) -> None:
        if not self.why_not():
            from bluelm.engine.gpu.compiling import compile_ahead

            compile_ahead(config, first, wanted, vocab=vocab, exact=self.exact)
