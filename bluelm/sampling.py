"""How an answer is to be sampled: one frozen value, which checks itself. Standard library only."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from bluelm.errors import InvalidParameter

MAX_STOP_STRINGS = 16
SEED_LIMIT = 2**63
MAX_BIASES = 1024
MAX_SCHEMA = 65_536  # characters
MAX_LOGPROBS = 20  # alternatives told for each token


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def require_json_object(name: str, value: Any) -> None:
    """Raises InvalidParameter for what is no JSON object as text."""
    try:
        if isinstance(json.loads(value, parse_constant=_no_constant), dict):
            return
    except (TypeError, ValueError, RecursionError):
        pass
    raise InvalidParameter(name, value, "a JSON object, as text")


def _number(name: str, value: Any, low: float, high: float, must: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InvalidParameter(name, value, must)
    if not low <= value <= high:
        raise InvalidParameter(name, value, must)


def _integer(name: str, value: Any, low: int, high: int, must: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise InvalidParameter(name, value, must)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How an answer is to be sampled; flows unchanged from the sidebar or HTTP to the sampler.

    max_length: new tokens at most, 1 or more (0 too with prompt_logprobs); None for all that fits in the window.
    temperature: 0 takes the likeliest token each time (greedy), 2 is the most random.
    top_p: keep the likeliest tokens up to this share of probability, above 0 and up to 1 (off).
    top_k: keep this many of the likeliest tokens; 0 is off.
    repetition_penalty: divide (or multiply, below zero) the logits of tokens seen in prompt and answer; 1 is off.
    presence_penalty, frequency_penalty: taken from the logits of tokens that the answer has already, once, and for each
    time; -2 to 2, 0 is off.
    logit_bias: (token id, what is added to its logit, from -100 to 100), each id once.
    json_schema: a JSON schema, as JSON text, which the answer is held to, token by token; "" is off.
    seed: the same seed, prompt and settings give the same text; None draws one, told in Usage.seed.
    stop: the answer ends before any of these strings.
    logprobs: tell the log-probability of each new token and of so many of the likeliest, up to 20; None tells none.
    prompt_logprobs: tell the same of the prompt's tokens. All of it is computed then, whatever the cache has.

    Raises InvalidParameter, which names the field.
    """

    max_length: int | None = None
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    logprobs: int | None = None
    prompt_logprobs: bool = False
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    json_schema: str = ""

    def __post_init__(self) -> None:
        if self.max_length is not None:
            least = 0 if self.prompt_logprobs else 1
            _integer("max_length", self.max_length, least, 2**31, f"a whole number of new tokens, {least} or more")
        _number("temperature", self.temperature, 0.0, 2.0, "a number from 0 to 2")
        _number("top_p", self.top_p, 1e-6, 1.0, "a number above 0 and up to 1")
        _integer("top_k", self.top_k, 0, 2**31, "a whole number, 0 (off) or more")
        _number("repetition_penalty", self.repetition_penalty, 0.1, 10.0, "a number from 0.1 to 10")
        if self.seed is not None:
            _integer("seed", self.seed, 0, SEED_LIMIT - 1, f"a whole number from 0 to {SEED_LIMIT - 1}")
        if self.logprobs is not None:
            _integer("logprobs", self.logprobs, 0, MAX_LOGPROBS, f"a whole number from 0 to {MAX_LOGPROBS}")
        if self.prompt_logprobs and self.logprobs is None:
            raise InvalidParameter("logprobs", None, f"a whole number from 0 to {MAX_LOGPROBS} with prompt_logprobs")
        for name in ("presence_penalty", "frequency_penalty"):
            _number(name, getattr(self, name), -2.0, 2.0, "a number from -2 to 2")
        self._check_bias()
        if self.json_schema:
            require_json_object("json_schema", self.json_schema)
            if len(self.json_schema) > MAX_SCHEMA:
                raise InvalidParameter("json_schema", self.json_schema, f"{MAX_SCHEMA} characters at most")
        self._check_stop()

    @property
    def adds(self) -> bool:
        """Whether something is added to logits."""
        return bool(self.logit_bias or self.presence_penalty or self.frequency_penalty)

    def _check_bias(self) -> None:
        must = f"up to {MAX_BIASES} pairs of a token id and a number from -100 to 100, each id once"
        if not isinstance(self.logit_bias, (tuple, list)) or len(self.logit_bias) > MAX_BIASES:
            raise InvalidParameter("logit_bias", self.logit_bias, must)
        if not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in self.logit_bias):
            raise InvalidParameter("logit_bias", self.logit_bias, must)
        object.__setattr__(self, "logit_bias", tuple((id, bias) for id, bias in self.logit_bias))
        for id, bias in self.logit_bias:
            _integer("logit_bias", id, 0, 2**31 - 1, must)
            _number("logit_bias", bias, -100.0, 100.0, must)
        if len({id for id, _ in self.logit_bias}) < len(self.logit_bias):
            raise InvalidParameter("logit_bias", self.logit_bias, must)

    def _check_stop(self) -> None:
        must = f"up to {MAX_STOP_STRINGS} non-empty strings"
        if not isinstance(self.stop, (tuple, list)):
            raise InvalidParameter("stop", self.stop, must)
        object.__setattr__(self, "stop", tuple(self.stop))
        if len(self.stop) > MAX_STOP_STRINGS or not all(isinstance(s, str) and s for s in self.stop):
            raise InvalidParameter("stop", self.stop, must)
