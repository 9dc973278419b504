"""How text of users is kept from becoming special tokens: the tokenizer knows those only under secret names.

When a tokenizer is loaded, every special token and chat marker is renamed to a random name of 128 bits. A template's
own text is rewritten with those names before the whole prompt is encoded in one go; other text is left as it is. So
`</s>` or `[|Human|]:` in a user's text, in one piece or glued together at a seam, is ordinary text, and everything
else is encoded exactly as the original tokenizer encodes the whole string.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

_MARKER = re.compile(r"[\[<]\S+[\]>]:?")


def is_marker(token: str) -> bool:
    """Whether a token that is not declared special is a chat marker all the same: `[|AI|]:`, `[SEA]`, `<think>`.

    Runs of spaces, line breaks, digits and words, which some vocabularies add as well, are ordinary text.
    """
    return _MARKER.fullmatch(token) is not None


class Names:
    """The secret names of one loaded tokenizer. public: {id: the token as a checkpoint spells it}."""

    def __init__(self, public: Mapping[int, str]) -> None:
        prefix = secrets.token_hex(16)
        self.public = dict(public)
        self.secret = {id: f"{prefix}{id:08x}" for id in public}
        self._by_text = {text: self.secret[id] for id, text in public.items()}
        longest_first = sorted(self._by_text, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def rename(self, trusted: str) -> str:
        """A template's text with its special tokens (the longest, from the left) under their secret names."""
        return self._pattern.sub(lambda match: self._by_text[match.group()], trusted)

    def id_of(self, text: str) -> int | None:
        """The id of a special token by its public spelling."""
        return next((id for id, public in self.public.items() if public == text), None)


@dataclass(frozen=True)
class Vocabulary:
    """What every kind of tokenizer comes down to.

    encode: ids of a whole string in which special tokens stand under their secret names; adds none itself.
    table: the bytes of each id's text, empty for the special ones. names: of the special tokens and chat markers.
    special_ids: control tokens; a chat marker that is an ordinary piece is not among them.
    longest: bytes of a text that one token stands for at most; 0 where parts of a text may be dropped by the way.
    unseen: bytes that have no token, and are dropped.
    """

    encode: Callable[[str], list[int]]
    table: Sequence[bytes]
    names: Names
    special_ids: frozenset[int]
    longest: int = 0
    unseen: bytes = b""


def longest(table: Sequence[bytes], names: Names, space: int) -> int:
    """Of all tokens, in bytes of text. space: bytes that what becomes a space may have."""
    sizes = [len(text) + (space - 1) * text.count(b" ") for text in table]
    return max(*sizes, *(len(name.encode()) for name in names.public.values()), 1)
