"""Checks a request before the engine takes it: template, tokens, window. Everything that can be known is told here."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from bluelm.engine.tokenizer import Tokenizer
from bluelm.errors import InvalidParameter, PromptTooLong, WrongModelKind
from bluelm.prompt import Parts, fit_turns, plain, text_of
from bluelm.types import Message, Prompt, SamplingParams, TokenIds, Tokenized

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
    prompt: Prompt,
    params: SamplingParams,
    *,
    drop_oldest: bool,
) -> Admitted:
    """The prompt's tokens and the answer's limits. Raises InvalidParameter, WrongModelKind, PromptTooLong."""
    dropped = 0
    if drop_oldest and isinstance(prompt, tuple):
        prompt, dropped = fit_turns(prompt, lambda some: _count(tokenizer, some, window), _room(window, params))
    if (fewest := _fewest(tokenizer, prompt)) > window:  # told in no time, where to count would take seconds
        raise PromptTooLong(fewest, params.max_length or 1, window, _param(prompt), at_least=True)
    tokens = _encode(tokenizer, prompt)
    if not tokens:
        raise InvalidParameter("prompt", prompt, "a text that is not empty")
    for id, _ in params.logit_bias:
        if id >= tokenizer.size:
            raise InvalidParameter("logit_bias", id, f"for token ids from 0 to {tokenizer.size - 1}")
    max_new = window - len(tokens) if params.max_length is None else params.max_length
    if len(tokens) + max(max_new, 1) > window:  # the cache has room for the next token always
        raise PromptTooLong(len(tokens), max(max_new, 1), window, _param(prompt))
    seed = secrets.randbits(32) if params.seed is None else params.seed
    return Admitted(tokens, dropped, max_new, seed)


def tokenize(tokenizer: Tokenizer, prompt: Prompt, *, bos: bool) -> Tokenized:
    """What `admit` would have an answer begin with; without `bos` no token is put in front of it.

    Raises InvalidParameter, WrongModelKind.
    """
    ids = _encode(tokenizer, prompt, bos=bos)
    text = tokenizer.spell(ids) if isinstance(prompt, TokenIds) else text_of(_parts(tokenizer, prompt))
    return Tokenized(text, tuple(ids), {id: tokenizer.token(id) for id in set(ids)})


def detokenize(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of tokens, control tokens and chat markers by name. Raises InvalidParameter."""
    return tokenizer.spell(_known(tokenizer, "tokens", ids))


def _encode(tokenizer: Tokenizer, prompt: Prompt, *, bos: bool = True) -> list[int]:
    if isinstance(prompt, TokenIds):
        return list(_known(tokenizer, "prompt", prompt.ids))
    return tokenizer.encode(_parts(tokenizer, prompt), bos=bos)


def _count(tokenizer: Tokenizer, messages: Sequence[Message], window: int) -> int:
    """Tokens of a talk; where they are far more than the window, so many at least."""
    parts = _parts(tokenizer, messages)
    fewest = tokenizer.fewest(parts)
    return fewest if fewest > window else len(tokenizer.encode(parts))


def _fewest(tokenizer: Tokenizer, prompt: Prompt) -> int:
    return len(prompt.ids) if isinstance(prompt, TokenIds) else tokenizer.fewest(_parts(tokenizer, prompt))


def _param(prompt: Prompt) -> str:
    return "messages" if isinstance(prompt, tuple) else "prompt"


def _known(tokenizer: Tokenizer, name: str, ids: Sequence[int]) -> Sequence[int]:
    for id in ids:
        if not 0 <= id < tokenizer.size:
            raise InvalidParameter(name, id, f"token ids from 0 to {tokenizer.size - 1}")
    return ids


def _parts(tokenizer: Tokenizer, prompt: Sequence[Message] | str) -> Parts:
    if isinstance(prompt, str):
        return plain(prompt)
    if tokenizer.template is None:
        raise WrongModelKind(
            "This is a base model: it continues a text and has no chat format. Send a plain prompt to /v1/completions."
        )
    return tokenizer.template.render(prompt)


def _room(window: int, params: SamplingParams) -> int:
    return window - (min(window // 4, RESERVE) if params.max_length is None else params.max_length)
