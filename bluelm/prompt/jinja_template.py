"""The chat template that a checkpoint brings along."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import Any, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from bluelm.errors import CheckpointError, InvalidRequest
from bluelm.prompt.law import check_messages, refuse_tools
from bluelm.prompt.parts import Part, Parts, text_of
from bluelm.types import Message, Role


class JinjaTemplate:
    """The chat template that a checkpoint brings along (`chat_template`), in Jinja2 as transformers reads it.

    source: the template. special_tokens: names that it may use, such as bos_token and eos_token, with their text.
    Raises CheckpointError when the template is not valid Jinja.
    """

    stop_markers: tuple[str, ...] = ()
    writes_bos = True
    supports_tools = False
    heeds_system: bool

    def __init__(self, source: str, special_tokens: dict[str, str] | None = None) -> None:
        self._special_tokens = dict(special_tokens or {})
        try:
            self._template = _environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise CheckpointError(
                f"The checkpoint's chat template is not valid ({error}): correct chat_template in its "
                "tokenizer_config.json or chat_template.jinja."
            ) from error
        self.heeds_system = self._has_place_for_system()

    def render(self, messages: Sequence[Message]) -> Parts:
        """See PromptTemplate. Raises InvalidRequest when the template refuses the messages.

        To tell the template's words from the messages', it is also rendered with unguessable stand-ins for the
        contents; with the contents put back, that must give the true rendering, or it is refused.
        """
        check_messages(messages)
        refuse_tools(messages)
        if messages[0].role is Role.SYSTEM and not self.heeds_system:
            raise InvalidRequest(
                "The model's chat template has no place for a system message: say it in the first question.",
                param="messages[0].role",
            )
        truth = self._render(messages)
        secret = secrets.token_hex(16)
        stand_ins = [replace(m, content=f"{secret}{i:08d}") for i, m in enumerate(messages)]
        pieces = re.split(f"{secret}([0-9]{{8}})", self._render(stand_ins))
        for contents in ([m.content for m in messages], [m.content.strip() for m in messages]):
            parts = [Part(contents[int(p)], False) if i % 2 else Part(p, True) for i, p in enumerate(pieces)]
            if text_of(parts) == truth:
                if messages[-1].unfinished:
                    parts = _without_the_end(parts, pieces, messages)
                return tuple(part for part in parts if part.text)
        raise InvalidRequest(
            "The model's chat template rewrites the text of these messages, so that its own markers cannot be told "
            "from theirs: leave markup such as <think> out of the messages.",
            param="messages",
        )

    def _has_place_for_system(self) -> bool:
        secret = secrets.token_hex(16)
        try:
            return secret in self._render((Message(Role.SYSTEM, secret), Message(Role.USER, "?")))
        except InvalidRequest:
            return False

    def _render(self, messages: Sequence[Message]) -> str:
        shown = [{"role": m.role.value, "content": m.content} for m in messages]
        try:
            return self._template.render(
                messages=shown, add_generation_prompt=not messages[-1].unfinished, **self._special_tokens
            )
        except jinja2.TemplateError as error:
            raise InvalidRequest(
                f"The model's chat template does not take these messages ({error}): change them.", param="messages"
            ) from error


def _without_the_end(parts: list[Part], pieces: list[str], messages: Sequence[Message]) -> list[Part]:
    """The prompt up to the text of the last message, which is left open, to the letter. Raises InvalidRequest."""
    last = len(messages) - 1
    places = [i for i in range(1, len(pieces), 2) if int(pieces[i]) == last]
    if not places:
        raise InvalidRequest(
            "The model's chat template leaves out the last answer, so it cannot be continued: ask anew instead.",
            param=f"messages[{last}].unfinished",
        )
    return [*parts[: places[-1]], Part(messages[last].content, False)]


def _environment() -> ImmutableSandboxedEnvironment:
    """Jinja as chat templates expect it; the settings are those of transformers' `render_jinja_template`."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)  # Jinja's own would escape for HTML
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _raise_exception(message: Any) -> NoReturn:
    raise jinja2.TemplateError(str(message))
