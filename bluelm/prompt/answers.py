"""Reads the answer of a BlueLM that was told of tools: `{"answer": "...", "function_calls": [{...}]}`, as it comes."""

from __future__ import annotations

import json
from collections.abc import Generator
from itertools import groupby
from typing import TypeVar

from bluelm.errors import InvalidParameter
from bluelm.types import ToolCall

__all__ = ["AnswerReader"]

T = TypeVar("T")
Reading = Generator[None, str, T]  # takes one character at a time

_KEYS = ("answer", "function_calls")
_SPACE = " \t\r\n"
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", '"': '"', "\\": "\\", "/": "/"}
_LOST = "\ufffd"  # in the place of half a character


class _OtherText(Exception):
    """This is not the form that was asked for."""


class AnswerReader:
    """`feed` it pieces and `close` it: they return the text for the reader (str) and the calls (ToolCall, without id).

    The text of "answer" comes as it grows, each call once it is complete. Text that is not the form comes out as it
    is: all of it, or, where the form breaks off or is broken, what follows the last thing that came out. However the
    text is cut, the same comes out.
    """

    def __init__(self) -> None:
        self._out: list[str | ToolCall] = []
        self._held: list[str] = []  # read, and nothing of it came out yet
        self._whole = False  # the form has come to its end
        self._reading: Reading[None] | None = self._form()
        next(self._reading)

    def feed(self, text: str) -> list[str | ToolCall]:
        """What this piece brings."""
        for place, character in enumerate(text):
            if self._reading is None:
                self._say(text[place:])
                break
            self._held.append(character)
            try:
                self._reading.send(character)
            except _OtherText:
                self._reading = None
                self._say("".join(self._held))
        return self._take()

    def close(self) -> list[str | ToolCall]:
        """What was held back, at the end of the answer."""
        if self._held and not self._whole:
            self._say("".join(self._held))
        self._reading = None
        return self._take()

    def _say(self, text: str) -> None:
        self._held.clear()
        self._out.append(text)

    def _take(self) -> list[str | ToolCall]:
        """What came out, texts joined."""
        taken: list[str | ToolCall] = []
        for kind, grouped in groupby(self._out, type):
            some = list(grouped)
            taken += ["".join(map(str, some))] if kind is str else some
        self._out = []
        return taken

    # --- the form ---

    def _form(self) -> Reading[None]:
        yield from _one_of("{")
        seen: set[str] = set()
        while len(seen) < len(_KEYS):
            key = yield from _key(seen)
            seen.add(key)
            yield from _one_of(":")
            yield from (self._answer() if key == "answer" else self._calls())
            if (yield from _one_of(",}")) == "}":
                break
        else:
            raise _OtherText
        self._held.clear()
        self._whole = True
        while (yield) in _SPACE:
            pass
        self._whole = False
        raise _OtherText

    def _answer(self) -> Reading[None]:
        if (yield from _one_of('"n')) == "n":
            yield from _rest("ull")
            return
        half = ""
        while (character := (yield)) != '"':
            if character == "\\":
                character = yield from _escape()
            half = self._put(half, character)
        if half:
            self._say(_LOST)

    def _put(self, half: str, character: str) -> str:
        """Say a character, or keep the first half of a pair; `half` is the one kept before."""
        if half and "\udc00" <= character <= "\udfff":
            self._say((half + character).encode("utf-16", "surrogatepass").decode("utf-16"))
            return ""
        if half:
            self._say(_LOST)
        if "\ud800" <= character <= "\udbff":
            return character
        self._say(_LOST if "\udc00" <= character <= "\udfff" else character)
        return ""

    def _calls(self) -> Reading[None]:
        opening = yield from _one_of('["n')
        if opening == "n":
            yield from _rest("ull")
        elif opening == '"':
            yield from _rest('"')
        else:
            character = yield from _one_of("{]")
            while character == "{":
                call = _call((yield from _object()))
                self._held.clear()
                self._out.append(call)
                if (yield from _one_of(",]")) == "]":
                    return
                character = yield from _one_of("{")


def _one_of(characters: str) -> Reading[str]:
    """The next character that is no space."""
    while (character := (yield)) in _SPACE:
        pass
    if character not in characters:
        raise _OtherText
    return character


def _rest(word: str) -> Reading[None]:
    for wanted in word:
        if (yield) != wanted:
            raise _OtherText


def _key(seen: set[str]) -> Reading[str]:
    """A key of the form that was not there yet."""
    yield from _one_of('"')
    key = ""
    while (character := (yield)) != '"':
        key += character
        if not any(known.startswith(key) for known in _KEYS if known not in seen):
            raise _OtherText
    if key not in _KEYS:
        raise _OtherText
    return key


def _escape() -> Reading[str]:
    """The character that an escape in a JSON string stands for; one that JSON does not know stands for itself."""
    character = yield
    if character != "u":
        return _ESCAPES.get(character, "\\" + character)
    digits = ""
    while len(digits) < 4:
        digits += yield
        if digits[-1] not in "0123456789abcdefABCDEF":
            raise _OtherText
    return chr(int(digits, 16))


def _object() -> Reading[str]:
    """The raw text of a JSON object, its opening brace having been read."""
    text, depth, quoted, escaped = ["{"], 1, False, False
    while depth:
        character = yield
        text.append(character)
        if quoted:
            quoted = escaped or character != '"'
            escaped = character == "\\" and not escaped
        elif character == '"':
            quoted = True
        else:
            depth += (character == "{") - (character == "}")
    return "".join(text)


def _call(text: str) -> ToolCall:
    """`{"name": "...", "parameters": {...}}`; the parameters stay as the model wrote them."""
    try:
        members = _members(text)
        name = json.loads(members.pop("name"))
        parameters = members.pop("parameters", "{}")
        if members or not isinstance(name, str):
            raise _OtherText
        name.encode()
        return ToolCall(name, "{}" if parameters in ("null", '""') else parameters)
    except (ValueError, KeyError, RecursionError, InvalidParameter):
        raise _OtherText from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _members(text: str) -> dict[str, str]:
    """The values of a JSON object by their names, as they are written. Raises ValueError."""
    decoder = json.JSONDecoder(parse_constant=_no_constant, parse_float=str, parse_int=str)
    decoder.decode(text)  # all of it is JSON: what follows needs to look for no mistakes
    members: dict[str, str] = {}
    at = 1
    while True:
        at = _next(text, at, _SPACE + ",")
        if text[at] == "}":
            return members
        name, at = decoder.raw_decode(text, at)
        at = _next(text, at, _SPACE + ":")
        _, end = decoder.raw_decode(text, at)
        members[name], at = text[at:end], end


def _next(text: str, at: int, skipped: str) -> int:
    while text[at] in skipped:
        at += 1
    return at
