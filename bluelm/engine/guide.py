"""Answers held to a JSON schema: which tokens may come next, by llguidance, computed on the host for each row."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bluelm.engine.tokenizer import Tokenizer
from bluelm.errors import GenerationFailed, InvalidRequest

# One way to write each value: a small model that may add spaces can do so for ever.
_OPTIONS: Any = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_NO_TEXT = b"\xff"  # is in no text, and llguidance's own sign of a control token


class Guide:
    """One answer's way through its grammar. allowed: [vocab] bool, the ids that may come next."""

    def __init__(self, matcher: Any, size: int) -> None:
        self._matcher = matcher
        self._size = size
        self._bits = np.zeros((size + 31) // 32, dtype=np.int32)
        self.allowed: NDArray[np.bool_] = self._look()

    def take(self, token: int) -> None:
        """The answer goes on with one of those. Raises GenerationFailed where the grammar was too much."""
        self._matcher.consume_token(token)
        self.allowed = self._look()

    def _look(self) -> NDArray[np.bool_]:
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        allowed = np.unpackbits(self._bits.view(np.uint8), bitorder="little")[: self._size].astype(np.bool_)
        if self._matcher.is_error() or not allowed.any():
            why = (self._matcher.get_error() or "nothing may come next").splitlines()[0]
            raise GenerationFailed(
                f"The answer could not be held to its JSON schema ({why}): send a simpler one.", why=why
            )
        return allowed


class Guides:
    """Makes the guides of one tokenizer's model, for one thread. Loads llguidance when it is first asked for one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._vocabulary: Any = None

    @property
    def ready(self) -> bool:
        """Whether `start` will be quick, or refuse."""
        return self._vocabulary is not None or not self.tokenizer.stop_ids

    def prepare(self) -> None:
        """Some tenths of a second, in part of which no other thread of Python goes on."""
        if not self.ready:
            self._vocabulary = _vocabulary(self.tokenizer)

    def start(self, schema: str) -> Guide:
        """schema: a JSON schema, as JSON text. Raises InvalidRequest for what it cannot hold an answer to."""
        from llguidance import LLMatcher

        if not self.tokenizer.stop_ids:
            raise _refusal("the model has no token that ends an answer")
        self.prepare()
        try:
            grammar = LLMatcher.grammar_from_json_schema(schema, overrides=_OPTIONS)
            if why := LLMatcher.validate_grammar(grammar, self._vocabulary):
                raise _refusal(why)
            return Guide(LLMatcher(self._vocabulary, grammar, log_level=0), self.tokenizer.size)
        except GenerationFailed as error:
            raise _refusal(error.details["why"]) from None
        except ValueError as error:
            raise _refusal(str(error)) from None


def _refusal(why: str) -> InvalidRequest:
    shown = why.splitlines()[0][:200]
    return InvalidRequest(f"No answer can be held to this JSON schema ({shown}): change it.", param="json_schema")


class _Known:
    """A tokenizer as llguidance wants it: the bytes of each token, which are markers, which of them end an answer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        told = [tokenizer.token(id) for id in range(tokenizer.size)]
        apart = {token.id for token in told if token.marker or not token.utf8 or _NO_TEXT in token.utf8}
        apart |= tokenizer.special_ids | tokenizer.stop_ids
        self.tokens = [f"<{token.id}>".encode() if token.id in apart else token.utf8 for token in told]
        self.special_token_ids = sorted(apart)
        self.eos_token_id = min(tokenizer.stop_ids)
        self.bos_token_id = tokenizer.bos_id
        self._ids = {token: id for id, token in enumerate(self.tokens) if id not in apart}
        self._longest = max(map(len, self._ids))

    def __call__(self, text: bytes | str) -> list[int]:
        """The longest token first: a tokenizer's own way may put a space in front, which would be another text."""
        data, ids, at = text.encode() if isinstance(text, str) else text, list[int](), 0
        while at < len(data):
            sizes = range(min(self._longest, len(data) - at), 0, -1)
            size = next((size for size in sizes if data[at : at + size] in self._ids), 0)
            if not size:
                break
            ids.append(self._ids[data[at : at + size]])
            at += size
        return ids


def _vocabulary(tokenizer: Tokenizer) -> Any:
    from llguidance import LLTokenizer, TokenizerWrapper

    known = TokenizerWrapper(_Known(tokenizer))
    return LLTokenizer(known, n_vocab=tokenizer.size, eos_token=sorted(tokenizer.stop_ids))
