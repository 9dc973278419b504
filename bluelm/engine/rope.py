"""How config.json stretches rotary positions: what each frequency is divided by, and how far that reaches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bluelm.errors import CheckpointError

SERVED = "default, linear, ntkmixed, and longrope with equal short and long factors"


@dataclass(frozen=True, slots=True)
class Rope:
    """theta: base of the frequencies. divisors: [head_dim / 2], or empty for none. reach: times the first window."""

    theta: float
    divisors: tuple[float, ...] = ()
    reach: float = 1.0


def read_rope(config: Mapping[str, Any], head_dim: int, file: Path) -> Rope:
    """From `rope_scaling` and `rope_theta`, or newer transformers' `rope_parameters`, which hold both.

    file: config.json, for errors. Raises CheckpointError for a type that would compute something else.
    """
    newer = config.get("rope_parameters") or {}
    scaling = config.get("rope_scaling") or newer
    try:
        theta = float(newer.get("rope_theta") or config.get("rope_theta") or 10000.0)
        kind = str(scaling.get("rope_type") or scaling.get("type") or "default")
        divisors, reach = _stretched(kind, scaling, head_dim // 2)
    except _NotServed as why:
        raise CheckpointError(f"{file} has rope_scaling of the type {kind!r}: {why}", field="rope_scaling") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{file} has a rope_scaling that is not complete ({error}): download it again.", field="rope_scaling"
        ) from None
    return Rope(theta, divisors, reach)


class _NotServed(Exception):
    """Why a type is refused, and the remedy."""


def _stretched(kind: str, scaling: Mapping[str, Any], half: int) -> tuple[tuple[float, ...], float]:
    if kind == "default":
        return (), 1.0
    if kind == "linear":
        return (_factor(scaling),) * half, _factor(scaling)
    if kind == "ntkmixed":
        return ntkmixed(_factor(scaling), float(scaling["power"]), half), _factor(scaling)
    if kind == "longrope":
        return _longrope(scaling, half), 1.0
    if kind == "dynamic":
        raise _NotServed(
            "its frequencies change with the length of the text, so that what is cached would no longer fit; "
            "set rope_scaling to null there to serve the first window, where it changes nothing."
        )
    raise _NotServed(f"only {SERVED} can be served; use another checkpoint.")


def ntkmixed(factor: float, power: float, half: int) -> tuple[float, ...]:
    """BlueLM's own, at every length: lambda_i = exp(a i^power), a = ln(factor) / half^power, i = 1 .. half."""
    a = math.log(factor) / half**power
    return tuple(math.exp(a * i**power) for i in range(1, half + 1))


def _longrope(scaling: Mapping[str, Any], half: int) -> tuple[float, ...]:
    factors = tuple(float(each) for each in scaling["long_factor"])
    if list(scaling["short_factor"]) != list(scaling["long_factor"]) or scaling.get("attention_factor") != 1.0:
        raise _NotServed(
            "it computes differently in short and in long texts; only equal short_factor and long_factor with an "
            "attention_factor of 1.0 can be served; use another checkpoint."
        )
    if len(factors) != half:
        raise ValueError(f"long_factor has {len(factors)} numbers instead of {half}")
    return factors


def _factor(scaling: Mapping[str, Any]) -> float:
    factor = float(scaling["factor"])
    if not 1.0 <= factor <= 1024.0:
        raise ValueError(f"factor is {factor}")
    return factor
