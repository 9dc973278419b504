"""How likely an answer's tokens were, in OpenAI's words: those of chat, and the older ones of completions."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import Any

from bluelm.types import FinishReason, TokenLogprob

LEAST = -9999.0  # what OpenAI tells where a token is hardly possible


def of_text(tokens: Sequence[TokenLogprob], reason: FinishReason | None) -> Sequence[TokenLogprob]:
    """Those that are no sign of the answer's end. reason: why it ended with the last of them, or None."""
    return tokens[:-1] if reason is FinishReason.STOP else tokens


def chat(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {"content": [_one(told) | {"top_logprobs": [_one(other) for other in told.top]} for told in tokens]}


def _one(told: TokenLogprob) -> dict[str, Any]:
    token = told.token
    return {"token": token.text, "logprob": max(told.logprob, LEAST), "bytes": list(token.utf8) if token.utf8 else None}


class Completion:
    """The same for /v1/completions, piece by piece: it counts where each token begins in the text.

    echo: the prompt, where its tokens come first (`prompt`).
    """

    def __init__(self, echo: str = "") -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._echo = echo
        self._begun = False
        self._chars = 0

    def prompt(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        """Of the very first token nothing is known."""
        if not self._chars and self._adds_a_space(tokens):
            self._chars = -1
        told = self.piece(tokens)
        if tokens and not self._begun:
            told["token_logprobs"][0] = told["top_logprobs"][0] = None
            self._begun = True
        return told

    def _adds_a_space(self, tokens: Sequence[TokenLogprob]) -> bool:
        """Whether the tokenizer put a space in front of the text, as SentencePiece does."""
        first = next((told.token.utf8 for told in tokens if told.token.utf8), b"")
        return first.startswith(b" ") and not self._echo.startswith(" ")

    def piece(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
        offsets = []
        for told in tokens:
            offsets.append(max(self._chars, 0))
            self._chars += len(self._utf8.decode(told.token.utf8))
        return {
            "tokens": [told.token.text for told in tokens],
            "token_logprobs": [max(told.logprob, LEAST) for told in tokens],
            "top_logprobs": [_by_text(told) for told in tokens],
            "text_offset": offsets,
        }


def _by_text(told: TokenLogprob) -> dict[str, float]:
    """Of tokens that look the same (parts of characters) the likelier one is told."""
    found: dict[str, float] = {}
    for one in (told, *told.top):
        found[one.token.text] = max(found.get(one.token.text, LEAST), one.logprob)
    return found
