"""OpenAI's fields that this server cannot honour: refused by name, except where their value asks for nothing."""

from __future__ import annotations

from typing import Any, NamedTuple

from pydantic_core import PydanticCustomError

from bluelm.errors import UnsupportedOption


class Option(NamedTuple):
    """`neutral` values, and null, ask for nothing and are let through; any other is refused with `remedy`."""

    neutral: tuple[Any, ...]
    remedy: str

    def asks_nothing(self, value: Any) -> bool:
        return value is None or any(type(value) is type(one) and value == one for one in self.neutral)


_FUNCTIONS = "use tools, and leave it out."
_LEAVE_OUT = "leave it out."
_BEST = "send n, and choose among the answers yourself."
_TEXT = "only text is answered; leave it out."

CHAT: dict[str, Option] = {
    "functions": Option(([],), _FUNCTIONS),
    "function_call": Option(("none", "auto"), _FUNCTIONS),
    "modalities": Option((["text"],), _TEXT),
    "audio": Option((), _TEXT),
    "prediction": Option((), _LEAVE_OUT),
    "web_search_options": Option((), _LEAVE_OUT),
    "reasoning_effort": Option(("none",), _LEAVE_OUT),
    "verbosity": Option(("medium",), _LEAVE_OUT),
    "service_tier": Option(("auto", "default"), _LEAVE_OUT),
    "store": Option((False,), "nothing is stored here; leave it out."),
    "metadata": Option(({},), "nothing is stored here; leave it out."),
    "moderation": Option((), _LEAVE_OUT),
    "prompt_cache_options": Option(({},), _LEAVE_OUT),
    "prompt_cache_retention": Option(("in_memory", "in-memory"), "the cache is in memory alone; leave it out."),
}
COMPLETION: dict[str, Option] = {
    "best_of": Option((1,), _BEST),
    "prompt_logprobs": Option((), "send echo and logprobs, which tell those of the prompt too."),
    "suffix": Option(("",), "leave it out: text can only be continued at its end."),
}
STREAM: dict[str, Option] = {"include_obfuscation": Option((False,), "nothing is added to hide lengths; leave it out.")}
TOKENIZE: dict[str, Option] = {
    "add_generation_prompt": Option((True,), "prompts are told as an answer begins with them; leave it out."),
    "continue_final_message": Option((False,), "prompts are told as an answer begins with them; leave it out."),
}
MESSAGE: dict[str, Option] = {
    "name": Option((), "write the name into the content."),
    "function_call": Option((), "use tool_calls, and leave it out."),
    "refusal": Option((), "write it into the content."),
    "audio": Option((), _TEXT),
    "annotations": Option(([],), _LEAVE_OUT),
}


def must(words: str) -> PydanticCustomError:
    """A value that can never be used, for a validator to raise; `words` say what it has to be."""
    return PydanticCustomError("must", "{words}", {"words": words})


def unsupported(remedy: str) -> PydanticCustomError:
    """A value that asks for what this server lacks, for a validator to raise."""
    return PydanticCustomError("unsupported", "{remedy}", {"remedy": remedy})


def drop_neutral(options: dict[str, Option], given: dict[str, Any], place: str = "") -> dict[str, Any]:
    """`given` without options that ask for nothing. Raises UnsupportedOption for one that asks for something."""
    kept = {}
    for name, value in given.items():
        option = options.get(name)
        if option is None:
            kept[name] = value
        elif not option.asks_nothing(value):
            raise UnsupportedOption(place + name, option.remedy)
    return kept
