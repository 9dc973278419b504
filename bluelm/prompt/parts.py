"""What a prompt is made of, and what makes one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from bluelm.types import Message


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a prompt. trusted: written by a template, so that its markers are meant as markers."""

    text: str
    trusted: bool


Parts = tuple[Part, ...]


class PromptTemplate(Protocol):
    """stop_markers: tokens, by name, that end an answer beside the end-of-sequence ones.

    writes_bos: the rendering has the beginning-of-sequence token where it wants one; the tokenizer adds none.
    supports_tools: messages may tell of tools, their calls and their results.
    heeds_system: the model was trained with system messages.
    """

    @property
    def stop_markers(self) -> tuple[str, ...]: ...

    @property
    def writes_bos(self) -> bool: ...

    @property
    def supports_tools(self) -> bool: ...

    @property
    def heeds_system(self) -> bool: ...

    def render(self, messages: Sequence[Message]) -> Parts:
        """The prompt that asks for the next answer, or, behind an unfinished one, for the rest of it.

        Raises InvalidParameter, which names the message at fault, and UnsupportedOption for tools where they are not
        supported.
        """
        ...


def plain(text: str) -> Parts:
    """A prompt for plain completion: no template, no markers."""
    return (Part(text, trusted=False),)


def text_of(parts: Sequence[Part]) -> str:
    """The exact prompt string."""
    return "".join(part.text for part in parts)
