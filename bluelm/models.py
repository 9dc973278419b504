"""Checkpoints on this disk: which are there, whole or half, and which one is to be served."""

from __future__ import annotations

import json
import logging
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from bluelm.catalog import CHECKPOINTS, Checkpoint, lookup
from bluelm.download import manifest
from bluelm.errors import BlueLMError, CheckpointError, NotFound, SettingError
from bluelm.types import ModelKind

if TYPE_CHECKING:
    from bluelm.config import Settings

log = logging.getLogger("bluelm.models")

DEMO = "demo"  # what settings.model says for the embedded model, whatever has been downloaded
AUTODL_DISK = Path("/root/autodl-tmp")  # the large data disk of AutoDL's instances
PROJECT = Path(__file__).resolve().parent.parent
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
TOKENIZERS = ("tokenizer.model", "tokenizer.json")
LFS_POINTER = b"version https://git-lfs"


class State(StrEnum):
    ABSENT = "absent"
    PARTIAL = "partial"
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class Local:
    """A checkpoint's folder on this disk (or where it would be), and in which state; `why` it is partial."""

    checkpoint: Checkpoint
    folder: Path
    state: State
    why: str = ""


def roots() -> tuple[Path, ...]:
    """The folders that hold downloaded models, the one for new downloads first."""
    project = PROJECT / "models"
    return (AUTODL_DISK / "models", project) if AUTODL_DISK.is_dir() else (project,)


def find(settings: Settings) -> Path | None:
    """The folder or .gguf file to serve; None for the embedded model.

    What settings.model names: "demo" (the embedded model), a path, or a checkpoint of the catalog on this disk. Where
    it is empty, the first complete chat model in the catalog's order (Chat, Chat-32K, Chat-4bits, Chat-32K-GPTQ,
    Chat-32K-AWQ); a half-downloaded one is left out with a warning, and a base model is only served by name.
    Raises SettingError and CheckpointError.
    """
    if settings.model == DEMO:
        return None
    if settings.model:
        return named(settings.model, "BLUELM_MODEL")
    for checkpoint in CHECKPOINTS:
        if checkpoint.kind is not ModelKind.CHAT:
            continue
        local = look(checkpoint)
        if local.state is State.COMPLETE:
            return local.folder
        if local.state is State.PARTIAL:
            log.warning("%s is left out: %s", local.folder, unfinished(local))
    return None


def on_disk(settings: Settings) -> list[str]:
    """What settings.model may name here: paths of whole checkpoints and .gguf files, then "demo".

    They are looked for where downloads are, and beside the one that the settings name.
    """
    given = None
    with suppress(BlueLMError):
        given = find(settings)
    found = [] if given is None else [given]
    for place in dict.fromkeys((*roots(), *(path.parent for path in found))):
        with suppress(OSError):
            found += [path for path in sorted(place.iterdir()) if path not in found and _can_be_served(path)]
    return [*map(str, found), DEMO]


def _can_be_served(path: Path) -> bool:
    if path.suffix == ".gguf":
        return path.is_file()
    return (path / "config.json").is_file() and inspect(path)[0] is State.COMPLETE


def look(checkpoint: Checkpoint, *places: Path) -> Local:
    """Where a checkpoint is, in `places` or else the usual ones: a complete folder before a partial one."""
    tried = [_local(checkpoint, root / checkpoint.name) for root in places or roots()]
    for state in (State.COMPLETE, State.PARTIAL):
        for local in tried:
            if local.state is state:
                return local
    return tried[0]


def inspect(folder: Path) -> tuple[State, str]:
    """Whether a folder holds a whole checkpoint, by its manifest or else by what it needs; and what is wrong with it.

    Sizes are compared, contents are not read: `python download_model.py --verify` does that.
    """
    try:
        if not folder.is_dir() or all(file.name.startswith(".") for file in folder.iterdir()):
            return State.ABSENT, ""
        promised = manifest.read(folder)
        faults = promised.size_faults(folder) if promised else _faults(folder)
    except OSError as error:
        return State.PARTIAL, f"it cannot be read ({error.strerror})"
    if faults:
        shown = ", ".join(faults[:3]) + (f" and {len(faults) - 3} more" if len(faults) > 3 else "")
        return State.PARTIAL, f"not there or not whole: {shown}"
    if promised and not promised.complete:
        return State.PARTIAL, "its files have not been verified yet"
    return State.COMPLETE, ""


def unfinished(local: Local) -> str:
    """A sentence with the remedy for a partial folder."""
    place = "" if local.folder.parent in roots() else f" --dir {local.folder.parent}"
    return f"{local.why}. Run `python download_model.py {local.checkpoint.short}{place}` to complete it."


def named(name: str, what: str) -> Path:
    """The folder or .gguf file of a path or of a checkpoint's name in the catalog; what: who says so, for errors.

    Raises SettingError for what is not there, CheckpointError for what is not complete.
    """
    path = Path(name).expanduser()
    if path.exists():
        if not path.is_dir() and path.suffix != ".gguf":
            raise CheckpointError(f"{path} is neither a checkpoint folder nor a .gguf file: name one of these.")
        promised = manifest.read(path) if path.is_dir() else None
        if promised and (state := inspect(path))[0] is not State.COMPLETE:
            short = promised.id.split("/")[-1]
            raise CheckpointError(
                f"The download of {path} is not complete ({state[1]}): "
                f"run `python download_model.py {short} --dir {path.parent}` to complete it."
            )
        return path
    try:
        local = look(lookup(name))
    except NotFound as error:
        raise SettingError(
            f"{what} is {name!r}: there is no such file or folder. {error.message}", param="model"
        ) from None
    if local.state is State.COMPLETE:
        return local.folder
    if local.state is State.PARTIAL:
        raise CheckpointError(f"The download of {local.folder} is not complete: {unfinished(local)}")
    raise SettingError(
        f"{what} is {name!r}, and {local.checkpoint.name} is not on this disk: "
        f"run `python download_model.py {local.checkpoint.short}` first.",
        param="model",
    )


def _local(checkpoint: Checkpoint, folder: Path) -> Local:
    return Local(checkpoint, folder, *inspect(folder))


def _faults(folder: Path) -> list[str]:
    """What a folder without a manifest (copied, cloned) lacks of a checkpoint."""
    faults = [] if (folder / "config.json").is_file() else ["config.json"]
    if not any((folder / name).is_file() for name in TOKENIZERS):
        faults.append(TOKENIZERS[0])
    weights = _weights(folder)
    if not weights:
        faults.append("its weights")
    return faults + [name for name in weights if not _holds_data(folder / name)]


def _weights(folder: Path) -> list[str]:
    for name in WEIGHTS:
        index = folder / f"{name}.index.json"
        if index.is_file():
            try:
                return sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            except (ValueError, KeyError, TypeError, AttributeError):
                return [index.name + " (damaged)"]
        if (folder / name).is_file():
            return [name]
    return []


def _holds_data(file: Path) -> bool:
    """Not so for a file that is missing, empty, or git's stand-in for a large file that was not fetched."""
    if not file.is_file() or file.stat().st_size == 0:
        return False
    with file.open("rb") as opened:
        return opened.read(len(LFS_POINTER)) != LFS_POINTER
