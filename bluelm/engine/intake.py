"""Checks a request before the engine takes it: template, tokens, window. Everything that can be known is told here."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from bluelm.engine.tokenizer import Tokenizer
from bluelm.errors import InvalidParameter, PromptTooLong, WrongModelKind
from bluelm.prompt import fit_turns, plain
from bluelm.types import Message, SamplingParams

RESERVE = 1024  # tokens kept for an answer without max_length when old turns are dropped (a quarter of a small window)


@dataclass(frozen=True, slots=True)
class Admitted:
    """tokens: the prompt's; dropped: messages left out; max_new: tokens the answer may have."""

    tokens: list[int]
    dropped: int
    max_new: int
    seed: int


def admit(
    tokenizer: Tokenizer,
    window: int,
    prompt: Sequence[Message] | str,
    params: SamplingParams,
    *,
    drop_oldest: bool,
) -> Admitted:
    """The prompt's tokens and the answer's limits. Raises InvalidParameter, WrongModelKind, PromptTooLong."""
    dropped = 0
    if isinstance(prompt, str):
        tokens = tokenizer.encode(plain(prompt))
    else:
        if drop_oldest:
            prompt, dropped = fit_turns(prompt, lambda some: len(_encode(tokenizer, some)), _room(window, params))
        tokens = _encode(tokenizer, prompt)
    if not tokens:
        raise InvalidParameter("prompt", prompt, "a text that is not empty")
    max_new = window - len(tokens) if params.max_length is None else params.max_length
    if max_new < 1 or len(tokens) + max_new > window:
        raise PromptTooLong(len(tokens), max(max_new, 1), window, "prompt" if isinstance(prompt, str) else "messages")
    seed = secrets.randbits(32) if params.seed is None else params.seed
    return Admitted(tokens, dropped, max_new, seed)


def _encode(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    if tokenizer.template is None:
        raise WrongModelKind(
            "This is a base model: it continues a text and has no chat format. Send a plain prompt to /v1/completions."
        )
    return tokenizer.encode(tokenizer.template.render(messages))


def _room(window: int, params: SamplingParams) -> int:
    return window - (min(window // 4, RESERVE) if params.max_length is None else params.max_length)
