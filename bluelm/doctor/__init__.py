"""`python -m bluelm.doctor`: looks at everything that the app needs, and names the cure for what it finds.

It starts no server and loads no model, and it works where packages are missing: nothing but the standard library is
imported before a check asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    OK = "ok"
    NOTE = "note"  # it works, and could be better
    FAULT = "fault"  # the app will not start, or not as it is set up


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, what was found, and what to do about it ("" where all is well)."""

    level: Level
    about: str
    found: str
    cure: str = ""


Check = Callable[[], Iterator[Finding]]


def ok(about: str, found: str) -> Finding:
    return Finding(Level.OK, about, found)


def note(about: str, found: str, cure: str) -> Finding:
    return Finding(Level.NOTE, about, found, cure)


def fault(about: str, found: str, cure: str) -> Finding:
    return Finding(Level.FAULT, about, found, cure)


def look(checks: list[Check]) -> list[Finding]:
    """All findings. A check that cannot be made is a finding too, and the others are made all the same."""
    findings: list[Finding] = []
    for check in checks:
        about = check.__name__.replace("_", " ")
        try:
            for finding in check():
                findings.append(finding)
        except ImportError as error:
            findings.append(fault(about, f"cannot be looked at: {error}", "run `make setup`"))
        except Exception as error:
            told = getattr(error, "message", "")  # an error of ours names its own cure
            cure = "" if told else "please report this line"
            findings.append(fault(about, told or f"{type(error).__name__}: {error}", cure))
    return findings
