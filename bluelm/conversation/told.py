"""Log-probabilities of an answer's tokens in few letters: as JSON text, which is kept with the answer.

A list of [token, logprob, [[token, logprob], ...]]; a token is [id, text], with its bytes in hexadecimal and whether it
is a marker where the text does not say it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import msgspec

from bluelm.sampling import MAX_LOGPROBS
from bluelm.types import Token, TokenLogprob

DIGITS = 4  # behind the point of a logprob
LEAST = -1e6

_Id = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
_Text = Annotated[str, msgspec.Meta(max_length=1000)]
_Logprob = Annotated[float, msgspec.Meta(ge=LEAST, le=0.1)]
_Token = tuple[_Id, _Text, str, bool]
_Short = tuple[_Id, _Text]
_Top = Annotated[list[tuple[list[Any], _Logprob]], msgspec.Meta(max_length=MAX_LOGPROBS)]
_DECODER = msgspec.json.Decoder(list[tuple[list[Any], _Logprob, _Top]])


def pack(tokens: Iterable[TokenLogprob]) -> str:
    """The text; empty for no tokens."""
    told = [[*_packed(one), [_packed(other) for other in one.top]] for one in tokens]
    return msgspec.json.encode(told).decode() if told else ""


def unpack(text: str) -> tuple[TokenLogprob, ...]:
    """Raises ValueError for what `pack` never wrote."""
    return tuple(
        TokenLogprob(_token(token), logprob, tuple(TokenLogprob(_token(other), chance) for other, chance in top))
        for token, logprob, top in (_DECODER.decode(text) if text else ())
    )


def joined(first: str, then: str) -> str:
    """What was told of an answer, and of its continuation."""
    return first[:-1] + "," + then[1:] if first and then else first or then


def _packed(one: TokenLogprob) -> list[Any]:
    token = one.token
    plain = token.utf8 == token.text.encode() and not token.marker
    more = [] if plain else [token.utf8.hex(), token.marker]
    return [[token.id, token.text, *more], max(round(one.logprob, DIGITS), LEAST)]


def _token(packed: list[Any]) -> Token:
    if len(packed) == 2:
        id, text = msgspec.convert(packed, _Short)
        return Token(id, text, text.encode())
    id, text, utf8, marker = msgspec.convert(packed, _Token)
    return Token(id, text, bytes.fromhex(utf8), marker)
