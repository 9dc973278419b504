"""Compiles a model's kernels all at the same time, while its weights are still being read.

A model of the first layer alone is stepped through with every launch of a kernel that is not compiled yet noted and
left out; then Triton compiles what was noted, on as many threads as there are cores.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from triton import knobs
from triton.runtime import build

from bluelm.engine.gpu.runner import GpuRunner
from bluelm.engine.model import Llama, LlamaConfig, Weights
from bluelm.engine.sizing import BLOCK_SIZE, Wanted, largest_steps

STEPS = (512, 128, 32, 16)  # prompt tokens of the steps that are gone through: few meet other kernels in 4 and 8 bits
log = logging.getLogger("bluelm.engine")


def compile_ahead(config: LlamaConfig, first: list[Weights], wanted: Wanted, *, vocab: int, exact: bool) -> None:
    """Have every kernel of such a model compiled. first: the weights of its first layer alone, which are taken out of
    the list, so that their memory is free again before compiling begins; exact: as GpuRunner's.

    What goes wrong is only logged: kernels that are missing then are compiled as they are launched.
    """
    device = first[0].norm.device
    try:
        compile_all(_missing(config, first.pop(), wanted, vocab, exact), device)
    except Exception as error:
        log.warning("kernels could not be compiled ahead: %s", error)


def _missing(config: LlamaConfig, weights: Weights, wanted: Wanted, vocab: int, exact: bool) -> list[tuple[Any, str]]:
    """What `noted` notes of such a model."""
    model, device = Llama(replace(config, layers=1), weights, context=1), weights.norm.device
    with torch.cuda.device(device), torch.cuda.stream(torch.cuda.Stream()), noted() as missing:
        runner = GpuRunner(
            model, block_size=BLOCK_SIZE, vocab=vocab, max_running=wanted.running, context=wanted.context, exact=exact
        )
        for step in STEPS:
            for pieces in largest_steps(runner.batches if step == STEPS[0] else [], wanted, step):
                runner.run(pieces)
    return missing


@contextmanager
def noted() -> Iterator[list[tuple[Any, str]]]:
    """While it lasts, kernels that this thread launches and that are not compiled are added to the list given, each
    with what Triton needs to compile it, and not launched."""
    found: dict[tuple[Any, str], None] = {}
    missing: list[tuple[Any, str]] = []
    this = threading.get_ident()

    def note(*, fn: Any, compile: dict[str, Any], **_: Any) -> bool:
        if threading.get_ident() != this:
            return False
        wanted = (fn.jit_function, compile["specialization_data"])
        if wanted not in found:
            found[wanted] = None
            missing.append(wanted)
        return True  # Triton takes it for compiled elsewhere, and launches nothing

    before, knobs.runtime.jit_cache_hook = knobs.runtime.jit_cache_hook, note
    try:
        yield missing
    finally:
        knobs.runtime.jit_cache_hook = before


def compile_all(missing: Sequence[tuple[Any, str]], device: torch.device) -> None:
    """Compile and load what was noted, all at the same time."""

    def make(wanted: tuple[Any, str]) -> None:
        kernel, data = wanted
        with torch.cuda.device(device):
            kernel.preload(data).run  # noqa: B018  its launcher is compiled too, and its code sent to the card

    with launchers_apart(), ThreadPoolExecutor(min(os.cpu_count() or 1, 16), "compile") as pool:
        list(pool.map(make, missing))


@contextmanager
def launchers_apart() -> Iterator[None]:
    """While it lasts, threads may have Triton load kernels' launchers at the same time.

    Triton 3.6 makes each a Python module, all of one name. CPython gives who loads one for the second time the module
    of that name that was loaded last, with other contents: two threads then find each other's launcher in it.
    """
    load, lock = build._load_module_from_path, threading.Lock()

    def alone(name: str, path: str) -> Any:
        with lock:
            return SimpleNamespace(**vars(load(name, path)))

    build._load_module_from_path = alone
    try:
        yield
    finally:
        build._load_module_from_path = load
