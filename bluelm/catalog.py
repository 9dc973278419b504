"""The BlueLM family: seven published checkpoints, what they are and what they need. Sizes are computed, so 'about'."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from bluelm.errors import NotFound
from bluelm.types import ModelKind

Source = Literal["modelscope", "huggingface"]
Precision = Literal["bfloat16", "float16", "float32"]

OWNER = "vivo-ai"
FAMILY = "BlueLM-7B"
LICENCE = "OpenAtom Model License"  # of the weights, since 2024-12-25
LANGUAGES = ("zh", "en")

# The shape that all seven share.
VOCAB, HIDDEN, INTERMEDIATE, LAYERS = 100_096, 4096, 11_008, 32
LINEAR = LAYERS * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * INTERMEDIATE)
PARAMETERS = LINEAR + 2 * VOCAB * HIDDEN + (2 * LAYERS + 1) * HIDDEN + 2 * HIDDEN  # 7.30 billion
GROUP = 128  # the usual number of 4-bit weights that share one 16-bit scale and one 4-bit zero
BYTES: dict[Precision, int] = {"bfloat16": 2, "float16": 2, "float32": 4}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One published checkpoint.

    name: without the owner ("BlueLM-7B-Chat"). context: tokens of prompt and answer together. bits: of the weights of
    the linear layers as stored, 16 or 4. layout: how 4 bits are packed.
    """

    name: str
    kind: ModelKind
    context: int
    bits: Literal[4, 16] = 16
    layout: Literal["dense", "gptq-for-llama", "gptq", "awq"] = "dense"
    licence: str = LICENCE
    languages: tuple[str, ...] = LANGUAGES

    @property
    def short(self) -> str:
        """What people type: "chat", "chat-32k", ..."""
        return _plain(self.name)

    def hub_id(self, source: Source) -> str:
        """The id on a hub; both have them under the same owner and name today."""
        return {"modelscope": f"{OWNER}/{self.name}", "huggingface": f"{OWNER}/{self.name}"}[source]

    @property
    def disk_bytes(self) -> int:
        """About the bytes of its files."""
        return self.weight_bytes("bfloat16")

    def weight_bytes(self, precision: Precision) -> int:
        """About the bytes its weights take on the device; what is stored in 4 bits stays so in any precision."""
        wide = BYTES[precision]
        if self.bits == 16:
            return PARAMETERS * wide
        return round(LINEAR * (0.5 + 2.5 / GROUP)) + (PARAMETERS - LINEAR) * wide

    def memory_bytes(self, precision: Precision, tokens: int | None = None) -> int:
        """About the bytes of weights and the cache for so many tokens, by itself one full window."""
        cache = 2 * LAYERS * HIDDEN * BYTES[precision]  # keys and values of one token
        return self.weight_bytes(precision) + cache * (self.context if tokens is None else tokens)


CHECKPOINTS: tuple[Checkpoint, ...] = (
    Checkpoint(f"{FAMILY}-Chat", ModelKind.CHAT, 2048),
    Checkpoint(f"{FAMILY}-Chat-32K", ModelKind.CHAT, 32_768),
    Checkpoint(f"{FAMILY}-Chat-4bits", ModelKind.CHAT, 2048, 4, "gptq-for-llama"),
    Checkpoint(f"{FAMILY}-Chat-32K-GPTQ", ModelKind.CHAT, 32_768, 4, "gptq"),
    Checkpoint(f"{FAMILY}-Chat-32K-AWQ", ModelKind.CHAT, 32_768, 4, "awq"),
    Checkpoint(f"{FAMILY}-Base", ModelKind.BASE, 2048),
    Checkpoint(f"{FAMILY}-Base-32K", ModelKind.BASE, 32_768),
)
"""In the order in which downloaded ones are preferred: the default first."""

DEFAULT = CHECKPOINTS[0]


def lookup(name: str) -> Checkpoint:
    """The checkpoint of a short name, a name or a hub id, in any case of letters.

    Raises NotFound, which suggests the nearest name.
    """
    known = {c.short: c for c in CHECKPOINTS}
    plain = _plain(name)
    if plain in known:
        return known[plain]
    near = get_close_matches(plain, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    raise NotFound(
        f"There is no checkpoint {name!r}: {hint}Known are {', '.join(known)}.",
        param="name",
        name=name,
        nearest=near[0] if near else "",
        known=list(known),
    )


def _plain(name: str) -> str:
    return name.strip().lower().removeprefix(f"{OWNER}/").removeprefix(f"{FAMILY.lower()}-")
