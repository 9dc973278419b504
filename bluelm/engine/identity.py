"""Who a checkpoint folder is: its name, whether it chats or only continues a text, and the settings to start from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bluelm.catalog import lookup
from bluelm.engine.checkpoint import read_json
from bluelm.errors import CheckpointError, InvalidParameter, NotFound, SettingError
from bluelm.prompt import BlueLMTemplate, PromptTemplate
from bluelm.types import ModelKind, SamplingParams

if TYPE_CHECKING:
    from bluelm.engine.model import LlamaConfig

OFFICIAL = {"temperature": 0.8, "top_p": 0.8, "repetition_penalty": 1.1}  # of BlueLM's own API server
SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty")
HUB_CACHE = re.compile(
    r"models--(?:.+--)?(.+)"
)  # Hugging Face's cache: models--vivo-ai--BlueLM-7B-Chat/snapshots/<hash>


def folder_name(path: Path) -> str:
    """The model's name: the folder's, or in Hugging Face's cache that of the repository."""
    path = path.resolve()
    cached = HUB_CACHE.fullmatch(path.parent.parent.name) if path.parent.name == "snapshots" else None
    return cached[1] if cached else path.name


def folder_kind(path: Path, config: Mapping[str, Any], *, wanted: str, templated: bool) -> ModelKind:
    """Chat or base. The tokenizer of BlueLM's base models has the chat markers too, so that only names can tell.

    wanted: the setting BLUELM_KIND. templated: the tokenizer has a chat format.
    Raises SettingError, or CheckpointError for a BlueLM that is to chat and whose tokenizer lacks the markers.
    """
    kind = ModelKind(wanted) if wanted != "auto" else kind_by_name(folder_name(path), config)
    if kind is ModelKind.BASE or templated:
        return kind
    if str(config.get("model_type")).lower() == "bluelm":
        raise CheckpointError(
            f"The tokenizer of {path} lacks BlueLM's chat markers: its files are of another model; download them "
            "again, or set BLUELM_KIND to base for plain completion."
        )
    if wanted == "chat":
        raise SettingError(
            f"BLUELM_KIND is chat, but {path} has no chat template: set it to auto or base, or name another model.",
            param="kind",
        )
    return ModelKind.BASE


def kind_by_name(name: str, config: Mapping[str, Any]) -> ModelKind:
    """What the names of a model say, its own first; chat where they say nothing."""
    try:
        return lookup(name).kind
    except NotFound:
        pass
    # What it was trained from comes last: a chat model is often trained from a base one.
    for each in (name, str(config.get("_name_or_path") or "").rstrip("/").rsplit("/")[-1]):
        words = re.split(r"[^a-z]+", each.lower())
        if "chat" in words or "base" in words:
            return ModelKind.CHAT if "chat" in words else ModelKind.BASE
    return ModelKind.CHAT


def folder_template(template: PromptTemplate | None, config: LlamaConfig) -> PromptTemplate | None:
    """The template as the checkpoint was trained with it: of BlueLM only the 32K ones know system prompts and tools.

    The markers of both are in every tokenizer of the family; what tells 32K is that its positions are stretched.
    """
    if not isinstance(template, BlueLMTemplate):
        return template
    long = bool(config.rope_divisors)
    return BlueLMTemplate(tools=template.supports_tools and long, system=long)


def folder_defaults(path: Path, *, bluelm_chat: bool) -> SamplingParams:
    """What generation_config.json says of sampling; what it leaves out is for BlueLM what its own server uses.

    Raises CheckpointError, which names the file.
    """
    file = path / "generation_config.json"
    said = read_json(file) if file.exists() else {}
    given = {name: said[name] for name in SAMPLING if said.get(name) is not None}
    if said.get("do_sample") is False:
        given["temperature"] = 0.0
    try:
        return SamplingParams(**(OFFICIAL if bluelm_chat else {}) | given)
    except InvalidParameter as error:
        raise CheckpointError(f"{file}: {error.message} Correct the file.") from None
