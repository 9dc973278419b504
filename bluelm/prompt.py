"""Messages -> prompt text. The only place that spells BlueLM's markers.

A prompt is a tuple of `Part`s: what a template wrote is trusted (its markers become marker tokens), what people or
models wrote is not (its markers stay text). The tokenizer keeps that promise; here the two are only kept apart.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, NoReturn, Protocol

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from bluelm.errors import CheckpointError, InvalidParameter, InvalidRequest
from bluelm.types import Message, Role

HUMAN, AI, SYSTEM, FUNCTION = "[|Human|]:", "[|AI|]:", "[|SYSTEM|]:", "[|Function|]:"
END_OF_ANSWER = "</s>"


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a prompt. trusted: written by a template, so that its markers are meant as markers."""

    text: str
    trusted: bool


Parts = tuple[Part, ...]


class PromptTemplate(Protocol):
    """stop_markers: tokens, by name, that end an answer beside the end-of-sequence ones.

    writes_bos: the rendering has the beginning-of-sequence token where it wants one; the tokenizer adds none.
    """

    @property
    def stop_markers(self) -> tuple[str, ...]: ...

    @property
    def writes_bos(self) -> bool: ...

    def render(self, messages: Sequence[Message]) -> Parts:
        """The prompt that asks for the next answer. Raises InvalidParameter, which names the message at fault."""
        ...


def plain(text: str) -> Parts:
    """A prompt for plain completion: no template, no markers."""
    return (Part(text, trusted=False),)


def text_of(parts: Sequence[Part]) -> str:
    """The exact prompt string."""
    return "".join(part.text for part in parts)


def check_messages(messages: Sequence[Message]) -> None:
    """The law of a conversation: [system], user, assistant, user, ... , user.

    A user message has something to say. An assistant message may be empty (an answer that was stopped at once).
    Raises InvalidParameter, which names messages[i] and says what it must be.
    """
    if not messages:
        raise InvalidParameter("messages", [], "at least one message, the last one from the user")
    first = 1 if messages[0].role is Role.SYSTEM else 0
    for i, message in enumerate(messages):
        _check_role(i, message.role, first)
        if message.role is not Role.ASSISTANT and not message.content.strip():
            must = "left out" if message.role is Role.SYSTEM else "a text with something to answer"
            raise InvalidParameter(f"messages[{i}].content", message.content, f"{must}, not an empty text")
    if messages[-1].role is not Role.USER:
        last = len(messages) - 1
        must = "'user' in the last message: put the question to be answered last"
        raise InvalidParameter(f"messages[{last}].role", messages[-1].role.value, must)


def _check_role(i: int, role: Role, first: int) -> None:
    if i < first:
        return
    expected = Role.USER if (i - first) % 2 == 0 else Role.ASSISTANT
    if role is expected:
        return
    if role is Role.SYSTEM:
        must = f"'{expected}': a system message can only come first, and only once"
    elif i == first:
        must = "'user': a conversation begins with a question, after the system message if there is one"
    else:
        must = f"'{expected}': user and assistant take turns (join two messages of the same role into one)"
    raise InvalidParameter(f"messages[{i}].role", role.value, must)


class BlueLMTemplate:
    """BlueLM's own format: `[|SYSTEM|]:s[|Human|]:q1[|AI|]:a1</s>[|Human|]:q2[|AI|]:`.

    Source: vivo's model cards and demo code. The official server also ends an answer at `[|Human|]:`.
    """

    stop_markers: tuple[str, ...] = (HUMAN,)
    writes_bos = False  # the tokenizer puts it in front of the whole string

    _around = {  # noqa: RUF012
        Role.SYSTEM: (SYSTEM, ""),
        Role.USER: (HUMAN, AI),  # the question is always followed by an answer, or by the wish for one
        Role.ASSISTANT: ("", END_OF_ANSWER),
    }

    def render(self, messages: Sequence[Message]) -> Parts:
        """See PromptTemplate."""
        check_messages(messages)
        parts = []
        for message in messages:
            before, after = self._around[message.role]
            parts += [Part(before, True), Part(message.content, False), Part(after, True)]
        return tuple(part for part in parts if part.text)


class JinjaTemplate:
    """The chat template that a checkpoint brings along (`chat_template`), in Jinja2 as transformers reads it.

    source: the template. special_tokens: names that it may use, such as bos_token and eos_token, with their text.
    Raises CheckpointError when the template is not valid Jinja.
    """

    stop_markers: tuple[str, ...] = ()
    writes_bos = True

    def __init__(self, source: str, special_tokens: dict[str, str] | None = None) -> None:
        self._special_tokens = dict(special_tokens or {})
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise CheckpointError(
                f"The checkpoint's chat template is not valid ({error}): correct chat_template in its "
                "tokenizer_config.json or chat_template.jinja."
            ) from error

    def render(self, messages: Sequence[Message]) -> Parts:
        """See PromptTemplate. Raises InvalidRequest when the template refuses the messages.

        To tell the template's words from the messages', it is also rendered with unguessable stand-ins for the
        contents; with the contents put back, that must give the true rendering, or it is refused.
        """
        check_messages(messages)
        truth = self._render(messages)
        secret = secrets.token_hex(16)
        stand_ins = [Message(m.role, f"{secret}{i:08d}") for i, m in enumerate(messages)]
        pieces = re.split(f"{secret}([0-9]{{8}})", self._render(stand_ins))
        for contents in ([m.content for m in messages], [m.content.strip() for m in messages]):
            parts = [Part(contents[int(p)], False) if i % 2 else Part(p, True) for i, p in enumerate(pieces)]
            if text_of(parts) == truth:
                return tuple(part for part in parts if part.text)
        raise InvalidRequest(
            "The model's chat template rewrites the text of these messages, so that its own markers cannot be told "
            "from theirs: leave markup such as <think> out of the messages.",
            param="messages",
        )

    def _render(self, messages: Sequence[Message]) -> str:
        shown = [{"role": m.role.value, "content": m.content} for m in messages]
        try:
            return self._template.render(messages=shown, add_generation_prompt=True, **self._special_tokens)
        except jinja2.TemplateError as error:
            raise InvalidRequest(
                f"The model's chat template does not take these messages ({error}): change them.", param="messages"
            ) from error


def _environment() -> ImmutableSandboxedEnvironment:
    """Jinja as chat templates expect it; the settings are those of transformers' `render_jinja_template`."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)  # Jinja's own would escape for HTML
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _raise_exception(message: Any) -> NoReturn:
    raise jinja2.TemplateError(str(message))


def fit_turns(
    messages: Sequence[Message], count: Callable[[Sequence[Message]], int], room: int
) -> tuple[tuple[Message, ...], int]:
    """Leave out whole oldest turns until the prompt fits; a turn is a user message with the answer that follows.

    count: tokens of the prompt of such messages; more messages never have fewer tokens. room: tokens.
    Returns the messages kept and how many were left out. The system message and the last user message always stay:
    when even they are too long they are returned, for the caller to refuse. Calls `count` about log2(turns) times.
    """
    first = 1 if messages and messages[0].role is Role.SYSTEM else 0
    starts = [i for i in range(first, len(messages)) if messages[i].role is Role.USER]
    cuts = [first, *starts[1:]]  # the messages from `first` up to a cut are left out; the first cut leaves out none

    def kept(cut: int) -> tuple[Message, ...]:
        return (*messages[:first], *messages[cut:])

    if count(messages) <= room:
        return tuple(messages), 0
    low, high = 1, len(cuts) - 1  # cuts[low - 1] is known not to fit; cuts[high] is taken if nothing smaller fits
    while low < high:
        middle = (low + high) // 2
        if count(kept(cuts[middle])) <= room:
            high = middle
        else:
            low = middle + 1
    cut = cuts[max(high, 0)]
    return kept(cut), cut - first
