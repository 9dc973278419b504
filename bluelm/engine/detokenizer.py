"""Token ids -> text, as it is made: whole characters only, and never a part of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class IncrementalDecoder:
    """Text of a stream of ids. `table[id]` is the id's bytes in UTF-8, empty for a control token.

    A character whose bytes are spread over several tokens comes with the last of them. Bytes that can never become a
    character come as U+FFFD.
    """

    def __init__(self, table: Sequence[bytes]) -> None:
        self._table = table
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> str:
        """The text that this id completes, maybe none."""
        return self._utf8.decode(self._table[id])

    def flush(self) -> str:
        """What is left at the end: U+FFFD where a character was begun and not ended."""
        return self._utf8.decode(b"", final=True)


class StopStrings:
    """Finds the first stop string in a text that comes in pieces, and lets pass what is before it.

    First is the one that ends first, and of those that end together the longest: as one sees it who reads letter by
    letter. However the text is cut, what `push` and `flush` return adds up to the text before it. Holds back no more
    than what may be a stop string's beginning. Time is linear in the text, for each stop string.
    """

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._matchers = [_Matcher(stop) for stop in stops if stop]
        self._held = ""
        self.hit = False

    def push(self, text: str) -> tuple[str, bool]:
        """The text that is safe to show now, and whether a stop string came up; after that, nothing is shown."""
        if self.hit:
            return "", True
        if not self._matchers:
            return text, False
        seen = self._held + text
        for end, character in enumerate(text, start=len(self._held) + 1):
            found = [len(matcher.stop) for matcher in self._matchers if matcher.step(character)]
            if found:
                self.hit, self._held = True, ""
                return seen[: end - max(found)], True
        safe = len(seen) - max(matcher.matched for matcher in self._matchers)
        self._held = seen[safe:]
        return seen[:safe], False

    def flush(self) -> str:
        """What was held back, once no more text comes."""
        held, self._held = self._held, ""
        return held


class _Matcher:
    """One stop string, by Knuth, Morris and Pratt. matched: how much of its beginning the text ends with."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.matched = 0
        self._shorter = [0] * (len(stop) + 1)  # [n]: the next shorter beginning that also ends stop[:n]
        for n in range(2, len(stop) + 1):
            self._shorter[n] = self._advance(self._shorter[n - 1], stop[n - 1])

    def step(self, character: str) -> bool:
        self.matched = self._advance(self.matched, character)
        return self.matched == len(self.stop)

    def _advance(self, matched: int, character: str) -> int:
        while matched and self.stop[matched] != character:
            matched = self._shorter[matched]
        return matched + 1 if self.stop[matched] == character else 0
