"""An answer's request as a program would send it: for curl, for Python. The same seed gives the same answer."""

from __future__ import annotations

import json
import shlex
from typing import Any
from urllib.parse import urlsplit

import streamlit as st

from bluelm.conversation import Turn
from bluelm.types import Message, Written
from components.i18n import tell

__all__ = ["as_curl", "as_python", "body", "draw", "kept"]


def draw(turn: Turn, prompt: Written) -> None:
    """The dialog. prompt: what the engine was sent for the answer."""
    st.dialog(tell("api"), icon=":material/code:", width="medium")(_content)(turn, prompt)


def body(turn: Turn, prompt: Written) -> tuple[str, dict[str, Any]]:
    """The path and the JSON object of the request, oldest messages that fell out of the window left out."""
    usage, params = turn.usage, turn.params
    settings: dict[str, Any] = {
        "max_tokens": params.max_length, "temperature": params.temperature, "top_p": params.top_p,
        "top_k": params.top_k, "repetition_penalty": params.repetition_penalty,
        "seed": usage.seed if usage else params.seed, "stop": list(params.stop),
        "presence_penalty": params.presence_penalty or None, "frequency_penalty": params.frequency_penalty or None,
        "logit_bias": {str(id): bias for id, bias in params.logit_bias},
    }  # fmt: skip
    settings = {name: value for name, value in settings.items() if value not in (None, [], {})}
    if isinstance(prompt, str):
        told = {} if params.logprobs is None else {"logprobs": params.logprobs}
        return "/v1/completions", {"model": turn.model, "prompt": prompt} | settings | told
    if params.json_schema:
        schema = {"name": "answer", "schema": json.loads(params.json_schema)}
        settings["response_format"] = {"type": "json_schema", "json_schema": schema}
    if params.logprobs is not None:
        settings |= {"logprobs": True, "top_logprobs": params.logprobs}
    sent = _without_oldest(prompt, turn.dropped)
    messages = [{"role": message.role.value, "content": message.content} for message in sent]
    return "/v1/chat/completions", {"model": turn.model, "messages": messages} | settings


def as_curl(url: str, path: str, request: dict[str, Any]) -> str:
    """A command for a POSIX shell."""
    text = json.dumps(request, ensure_ascii=False, indent=2)
    return f"curl {shlex.quote(url + path)} \\\n  -H 'Content-Type: application/json' \\\n  -d {shlex.quote(text)}"


def as_python(url: str, path: str, request: dict[str, Any]) -> str:
    """A script for the openai package; what that does not name goes into extra_body."""
    own = {name: request[name] for name in ("top_k", "repetition_penalty") if name in request}
    named = {name: value for name, value in request.items() if name not in own}
    chat = path.endswith("chat/completions")
    arguments = "".join(f"    {name}={value!r},\n" for name, value in named.items())
    arguments += f"    extra_body={own!r},\n" if own else ""
    return (
        f'from openai import OpenAI\n\nclient = OpenAI(base_url={url + "/v1"!r}, api_key="none")\n'
        f"answer = client.{'chat.completions' if chat else 'completions'}.create(\n{arguments})\n"
        f"print(answer.choices[0].{'message.content' if chat else 'text'})"
    )


def kept(prompt: Written, dropped: int) -> Written:
    """What was left of a prompt once so many of its oldest messages had fallen out of the window."""
    return prompt if isinstance(prompt, str) else _without_oldest(prompt, dropped)


def _without_oldest(messages: tuple[Message, ...], dropped: int) -> tuple[Message, ...]:
    first = 1 if messages and messages[0].role == "system" else 0
    return messages[:first] + messages[first + dropped :]


def _content(turn: Turn, prompt: Written) -> None:
    if not isinstance(prompt, str) and prompt[-1].unfinished:
        st.info(tell("api.unfinished"), icon=":material/info:")
        return
    here = urlsplit(st.context.url or "http://127.0.0.1:6006")
    path, request = body(turn, prompt)
    st.write(tell("api.sub"))
    curl, python = st.tabs(["curl", "Python"])
    url = f"{here.scheme}://{here.netloc}"
    curl.code(as_curl(url, path, request), language="bash", wrap_lines=True, height=380)
    python.code(as_python(url, path, request), language="python", wrap_lines=True, height=380)
