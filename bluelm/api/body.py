"""The body of a request: bytes, then JSON, then a request of requests.py; whatever does not fit is named."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.requests import Request

from bluelm.api.errors import Refusal
from bluelm.api.options import drop_neutral
from bluelm.api.requests import Body
from bluelm.errors import InvalidParameter, InvalidRequest, UnsupportedOption

MAX_BYTES = 4 * 2**20  # ten times the longest prompt that a window of 32K tokens can hold
NAMES_SHOWN = 8

A = TypeVar("A", bound=Body)


async def read(request: Request, kind: type[A]) -> A:
    """The request that the body asks for. Raises InvalidRequest and its kinds, and Refusal (413)."""
    return understand(kind, parse(await _bytes(request)))


def require_json(request: Request) -> None:
    """Raises Refusal (415) for a body that says that it is something else."""
    stated = request.headers.get("content-type", "")
    kind = stated.partition(";")[0].strip().lower()
    if kind and kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        shown = ascii(stated[:80])
        words = f"The body is sent as {shown}: send JSON, with the header Content-Type: application/json."
        raise Refusal(415, words, "unsupported_media_type")


async def _bytes(request: Request) -> bytes:
    too_large = Refusal(413, f"The body is larger than {MAX_BYTES} bytes: send a shorter prompt.", "body_too_large")
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated[:20]) > MAX_BYTES:
        raise too_large
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > MAX_BYTES:
            raise too_large
    return bytes(body)


def parse(body: bytes) -> dict[str, Any]:
    """The JSON object in `body`, whose every text can be written as UTF-8. Raises InvalidRequest."""
    try:
        data = json.loads(body.decode("utf-8-sig"), parse_constant=_no_constant, object_pairs_hook=_no_doubles)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not UTF-8 (at byte {error.start}): send JSON in UTF-8.") from None
    except RecursionError:
        raise InvalidRequest("The body is nested too deeply: send a flat JSON object.") from None
    except ValueError as error:
        raise InvalidRequest(f'The body is not JSON ({error}): send an object such as {{"prompt": "..."}}.') from None
    if not isinstance(data, dict):
        raise InvalidRequest('The body is not a JSON object: send one such as {"prompt": "..."}.')
    if b"\\u" in body:  # the only way in for half a character
        _refuse_halves(data)
    return data


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"{twice!a} is given twice in one object")
    return made


def _refuse_halves(data: dict[str, Any]) -> None:
    todo: list[tuple[tuple[str | int, ...], Any]] = [((), data)]
    while todo:
        place, value = todo.pop()
        if isinstance(value, dict):
            todo.extend(((*place, "(a name)"), name) for name in value)
            todo.extend(((*place, name), inner) for name, inner in value.items())
        elif isinstance(value, list):
            todo.extend(((*place, index), inner) for index, inner in enumerate(value))
        elif isinstance(value, str) and not _writable(value):
            where = ascii(path(place))[1:-1]
            raise InvalidRequest(
                f"{where} has half of a character (a lone surrogate, \\ud800 to \\udfff): send whole characters, in "
                "UTF-8 or as pairs of \\u escapes.",
                param=where,
            )


def _writable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def understand(kind: type[A], data: dict[str, Any]) -> A:
    """`data` as a request. Raises UnsupportedOption, InvalidParameter or InvalidRequest, which name the field."""
    wanted = drop_neutral(kind.options, data)
    unknown = [name for name in wanted if name not in kind.model_fields]
    if unknown:
        shown = ", ".join(repr(name[:80]) for name in unknown[:NAMES_SHOWN])
        more = f" and {len(unknown) - NAMES_SHOWN} more" if len(unknown) > NAMES_SHOWN else ""
        known = ", ".join(kind.model_fields)
        raise InvalidRequest(f"Unknown: {shown}{more}. The fields here are {known}.", param=unknown[0][:80])
    try:
        return kind.model_validate(wanted)
    except ValidationError as error:
        raise _named(error) from None


def _named(error: ValidationError) -> InvalidRequest:
    first = error.errors(include_url=False)[0]
    where, kind, words = path(first["loc"]), first["type"], first["msg"]
    if kind == "missing":
        return InvalidRequest(f"{where} is missing: add it (see /docs).", param=where)
    if kind == "extra_forbidden":
        return InvalidRequest(f"Unknown: {where}. Leave it out.", param=where)
    if kind == "unsupported":
        return UnsupportedOption(where, words)
    if kind in ("model_type", "model_attributes_type"):
        words = "a JSON object"
    if kind == "too_short":
        words = "a list that is not empty"
    return InvalidParameter(where, first["input"], words.removeprefix("Input should be "))


def path(place: tuple[str | int, ...]) -> str:
    """("messages", 0, "content") as messages[0].content."""
    shown = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place)
    return shown.removeprefix(".")
