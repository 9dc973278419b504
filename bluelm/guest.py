"""Who asks, as the rooms behind the gate see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SCOPE_KEY = "bluelm.guest"


@dataclass(frozen=True, slots=True)
class Guest:
    """Somebody who was let in. `name` is a key's, or "" for who has the passcode (or where none is needed).

    Limits are None where there is none: requests a minute, requests at the same time, new tokens of an answer.
    """

    name: str = ""
    requests_per_minute: int | None = None
    simultaneous: int | None = None
    max_tokens: int | None = None


def guest_of(scope: Mapping[str, Any]) -> Guest | None:
    """Who asks in this ASGI scope; None for a stranger, whom the gate lets see /health and nothing else.

    Without a gate, as in tests of the API alone, everybody is a guest without limits.
    """
    return scope.get(SCOPE_KEY, Guest())
