"""From settings to a loaded model: which file, which device and precision, how large a cache, and a test of it all."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bluelm.config import Settings
from bluelm.engine import device as devices
from bluelm.engine import memory, sizing
from bluelm.engine.cache import BlockPool
from bluelm.engine.core import EngineCore
from bluelm.engine.kernels import Kernels
from bluelm.engine.memory import Card
from bluelm.engine.opening import Opened, open_model
from bluelm.engine.scheduler import Scheduler
from bluelm.engine.sizing import BLOCK_SIZE, Fit, Wanted
from bluelm.engine.tokenizer import Tokenizer
from bluelm.errors import NotEnoughMemory, SettingError
from bluelm.models import find
from bluelm.types import ModelInfo

if TYPE_CHECKING:
    import torch

    from bluelm.engine.gpu.runner import GpuRunner
    from bluelm.engine.linear import Form
    from bluelm.engine.model import Llama, Weights
    from bluelm.engine.runner import Runner

RUNNING, RUNNING_ON_HOST = 64, 32  # answers made at the same time, if nothing else is asked for
Report = Callable[[str, float], None]
log = logging.getLogger("bluelm.engine")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to answer. max_running: answers made at a time; cache_tokens: of KV cache for all of them.

    prepare: does a little more that makes it quicker, for an idle moment; False if nothing is left.
    """

    core: EngineCore
    tokenizer: Tokenizer
    info: ModelInfo
    cache_tokens: int
    max_running: int
    prepare: Callable[[], bool]


def load(settings: Settings, report: Report) -> Loaded:
    """Load what the settings name, a downloaded chat model, or the embedded one (see models.find).

    Raises StartupError and its kinds.
    report: called with what is being done and the fraction of the whole load, 0 to 1.
    """
    report("importing PyTorch", 0.0)
    devices.awaken(settings)
    import torch  # here, so that the first report comes before the seconds this takes

    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    report("looking for a card", 0.15)
    path, device = find(settings), devices.choose(settings)
    report("reading the tokenizer", 0.2)
    card = Card.take(settings.gpu_memory) if device.type == "cuda" else None
    opened = open_model(path, settings, device)
    report("preparing kernels", 0.25)
    with memory.loading_fits():
        core, info, fit = _serving(settings, opened, _place(settings, opened, device, card), report)
    prepare = getattr(core.runner, "prepare", lambda: False)  # what computes on a card has it
    return Loaded(core, opened.tokenizer, info, fit.tokens, core.scheduler.max_running, prepare)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where and how a model is computed. card: None for a CPU."""

    device: torch.device
    form: Form
    wanted: Wanted
    card: Card | None
    kernels: Kernels


def _place(settings: Settings, opened: Opened, device: torch.device, card: Card | None) -> _Place:
    dtype = _dtype(settings, opened, device)
    on_card = device.type == "cuda"
    running = settings.max_running or (RUNNING if on_card else RUNNING_ON_HOST)
    wanted = Wanted(_context(settings, opened.config.context), running, settings.cache_tokens, settings.step_tokens)
    kernels = Kernels(settings, device, dtype)
    return _Place(device, _form(settings, opened, dtype, device, kernels), wanted, card, kernels)


def _form(settings: Settings, opened: Opened, dtype: torch.dtype, device: torch.device, kernels: Kernels) -> Form:
    """How the matrices are kept. Raises SettingError for what contradicts BLUELM_QUANTIZATION."""
    import torch

    from bluelm.engine.linear import Form

    asked = settings.quantization
    if asked == "none" and not opened.packed:
        return Form(dtype, exact=settings.exact)
    no_native = devices.without_native(settings, device, dtype)
    missing = kernels.why_not()
    contradiction = ""
    if asked == "int8" and opened.packed:
        contradiction = f"but {opened.path} is in 4 bits already: set it to none"
    elif asked != "none" and dtype is torch.float32:
        contradiction = "and BLUELM_DTYPE float32: set the latter to auto"
    elif asked == "int4" and device.type == "cpu" and missing and dtype is not torch.bfloat16:
        contradiction = "which a CPU computes in bfloat16 alone: set BLUELM_DTYPE to auto"
    elif asked != "none" and device.type != "cpu" and missing:
        contradiction = f"which a card computes by its kernels alone, and {missing}: set it to none"
    if contradiction:
        raise SettingError(f"BLUELM_QUANTIZATION is {asked}, {contradiction}.", param="quantization")
    if no_native and device.type == "cpu":
        log.info("computing with PyTorch's own operations, which is slower: %s", no_native)
    return Form(dtype, asked, kernels=not missing, native=not no_native, exact=settings.exact)


def _serving(settings: Settings, opened: Opened, place: _Place, report: Report) -> tuple[EngineCore, ModelInfo, Fit]:
    from bluelm.engine.model import Llama
    from bluelm.engine.selftest import check

    weights = _weights(opened, place, report)
    model = Llama(opened.config, weights, context=place.wanted.context)
    runner, fit = _runner(model, opened, place, report)
    report("testing", 0.95)
    check(runner, model, opened.tokenizer, opened.path)
    pool = BlockPool(fit.tokens // BLOCK_SIZE, BLOCK_SIZE)
    rows = place.wanted.running
    scheduler = Scheduler(pool, max_running=rows, step_tokens=fit.step, alone_tokens=fit.alone, retrace=runner.retrace)
    return EngineCore(scheduler, runner, opened.tokenizer), _info(opened, place, weights, fit), fit


def _info(opened: Opened, place: _Place, weights: Weights, fit: Fit) -> ModelInfo:
    template = opened.tokenizer.template
    return ModelInfo(
        id=opened.id,
        kind=opened.kind,
        context=min(place.wanted.context, fit.tokens),
        parameters=weights.parameters,
        dtype=weights.precision,
        device=place.device.type,
        demo=opened.demo,
        defaults=opened.defaults,
        system_prompt=template is not None and template.heeds_system,
        tools=template is not None and template.supports_tools,
    )


def _weights(opened: Opened, place: _Place, report: Report) -> Weights:
    """Read to the device; the kernels are compiled meanwhile, as soon as the first layer is there."""
    _check_room(opened, place)
    kernels = place.kernels
    try:
        weights = opened.weights(
            place.form, place.device, lambda done: report("loading weights", 0.3 + 0.5 * done),
            lambda first: kernels.compile(opened.config, first, place.wanted, opened.tokenizer.size),
        )  # fmt: skip
        report("compiling kernels", 0.8)
    finally:
        kernels.wait()
    if place.card is not None:
        place.card.tidy()
        if why := kernels.why_not():
            log.warning("computing with plain PyTorch operations, which is several times slower: %s", why)
    return weights


def _check_room(opened: Opened, place: _Place) -> None:
    """Raises NotEnoughMemory before minutes of reading, rather than after them."""
    from bluelm.engine.weights import numbers

    room = place.card.room if place.card else memory.host_memory()
    size = {"int8": 1.0, "int4": 0.5}.get("int4" if opened.packed else place.form.quantization)
    assert place.form.dtype is not None
    needed = numbers(opened.config, tied=True) * (size or place.form.dtype.itemsize)
    if needed > room:
        raise NotEnoughMemory(
            f"The model's weights take {needed / memory.GB:.1f} GB, and there are only {room / memory.GB:.1f}: "
            f"{memory.CARD_REMEDY if place.card else memory.REMEDY}."
        )


def _runner(model: Llama, opened: Opened, place: _Place, report: Report) -> tuple[Runner | GpuRunner, Fit]:
    """The runner with its cache, and what fitted."""
    from bluelm.engine.runner import Runner

    report("making room for the cache", 0.85)
    plain = place.kernels.why_not()
    vocab, wanted = opened.tokenizer.size, place.wanted
    token_bytes = opened.config.cache_numbers * model.weights.norm.element_size()
    runner: Runner | GpuRunner
    if place.form.native and (native := _native(model, vocab, place.form.exact)):
        runner = native
    elif not plain:
        from bluelm.engine.gpu.runner import GpuRunner

        runner = GpuRunner(
            model, block_size=BLOCK_SIZE, vocab=vocab, max_running=wanted.running, context=wanted.context,
            exact=place.kernels.exact,
        )  # fmt: skip
    else:
        runner = Runner(model, block_size=BLOCK_SIZE, vocab=vocab, exact=place.form.exact)
    fit = sizing.on_card(runner, place.card, wanted, token_bytes) if place.card else sizing.on_host(wanted, token_bytes)
    report("making room for the cache" if plain else "capturing graphs", 0.9)
    runner.open(fit.tokens // BLOCK_SIZE)
    return runner, fit


def _native(model: Llama, vocab: int, exact: bool) -> Runner | None:
    """What computes in one call what PyTorch would do in hundreds; None if some of the matrices are not for it."""
    from bluelm.engine.native.llama import NativeLlama
    from bluelm.engine.native.runner import NativeRunner

    if not NativeLlama.serves(model):
        return None
    return NativeRunner(model, block_size=BLOCK_SIZE, vocab=vocab, exact=exact)


def _dtype(settings: Settings, opened: Opened, device: torch.device) -> torch.dtype:
    """By itself 16 bits, with which 4 bits stay 4 bits; on a CPU float32 for what is small and not in 4 bits."""
    import torch

    from bluelm.engine.weights import SMALL, numbers

    if settings.dtype != "auto":
        return getattr(torch, settings.dtype)
    plain = not opened.packed and settings.quantization == "none"
    small = device.type == "cpu" and plain and numbers(opened.config, tied=True) < SMALL
    return torch.float32 if small else devices.half_precision(device)


def _context(settings: Settings, longest: int) -> int:
    if settings.context > longest:
        raise SettingError(
            f"BLUELM_CONTEXT is {settings.context}: this model holds {longest} tokens; set that or less.",
            param="context",
        )
    return settings.context or longest
