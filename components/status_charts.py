"""The engine's last minutes, drawn. The charts' frames stay the same, so that a browser only takes in new numbers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import streamlit as st

from bluelm.history import Sample
from bluelm.types import EngineState
from components.i18n import tell

__all__ = ["GIB", "draw"]

GIB = 1 << 30
HEIGHT = 150
COLOURS = ("#3b76ff", "#f2a33c")  # readable on light and dark


@dataclass(frozen=True, slots=True)
class _Chart:
    """series: values by what they are, a value for each sample. top: of the axis; None: by the values."""

    name: str
    mark: Literal["line", "area", "point"]
    series: dict[str, list[Any]]
    top: float | None = None
    whole: bool = False  # numbers


def draw(state: EngineState, samples: Sequence[Sample], minutes: int) -> None:
    """Two to a row, one to a row on a phone."""
    now = time.monotonic()
    ages = [sample.at - now for sample in samples]
    charts = _charts(state, samples)
    for first in range(0, len(charts), 2):
        for column, chart in zip(st.columns(2), charts[first : first + 2], strict=False):
            with column.container(border=True, gap="xsmall", key=f"chart_{chart.name}"):
                st.html(_title(chart))
                st.vega_lite_chart(_long(ages, chart), _spec(chart, minutes), key=f"vega_{chart.name}", height=HEIGHT)


def _charts(state: EngineState, samples: Sequence[Sample]) -> list[_Chart]:
    cached = [100 * sample.cache_used / max(state.cache_total, 1) for sample in samples]
    charts = [
        _Chart(
            "rate", "line",
            {"made": [s.tokens_per_s for s in samples], "read": [s.prompt_tokens_per_s for s in samples]},
        ),
        _Chart(
            "requests", "area", {"running": [s.running for s in samples], "waiting": [s.waiting for s in samples]},
            whole=True,
        ),
        _Chart("first", "point", {"first": [s.first_token_s for s in samples]}),
        _Chart("cache", "area", {"cache": cached}, 100.0),
    ]  # fmt: skip
    if state.gpu_memory_total:
        used = [sample.gpu_memory_used / GIB for sample in samples]
        charts.append(_Chart("memory", "area", {"memory": used}, state.gpu_memory_total / GIB))
    return charts


def _long(ages: list[float], chart: _Chart) -> pd.DataFrame:
    """One row a point: seconds ago (negative), value, and what it is a value of, in the reader's language."""
    parts = [
        pd.DataFrame({"age": ages, "value": values, "of": tell(f"status.of.{kind}"), "rank": rank})
        for rank, (kind, values) in enumerate(chart.series.items())
    ]
    return pd.concat(parts).astype({"age": "float64", "value": "float64"}).dropna()


def _title(chart: _Chart) -> str:
    """What is drawn, and in which colour."""
    named = zip(COLOURS, chart.series, strict=False) if len(chart.series) > 1 else ()
    dots = "".join(f' <span style="color:{colour}">●</span> {tell(f"status.of.{kind}")}' for colour, kind in named)
    return f'<div class="chart_title"><b>{tell(f"status.{chart.name}")}</b><span>{dots}</span></div>'


def _spec(chart: _Chart, minutes: int) -> dict[str, Any]:
    marks: dict[str, dict[str, Any]] = {
        "line": {"type": "line", "strokeWidth": 2, "clip": True},
        "area": {"type": "area", "opacity": 0.45, "line": {"strokeWidth": 1.5}, "clip": True},
        "point": {"type": "point", "filled": True, "size": 45, "opacity": 0.75, "clip": True},
    }
    words = [tell(f"status.of.{kind}") for kind in chart.series]
    # Of nothing but zeros Vega makes an axis of "0.000000".
    top = chart.top or (None if any(value for values in chart.series.values() for value in values) else 1.0)
    scale = {"zero": True, "nice": True} if top is None else {"domain": [0, top], "nice": False}
    return {
        "description": tell(f"status.{chart.name}"),
        "mark": {**marks[chart.mark], "aria": False},  # a point each is no help to those who listen
        "encoding": {
            "x": {"field": "age", "type": "quantitative", "scale": {"domain": [-60 * minutes, 0], "nice": False},
                  "axis": _time_axis(minutes)},
            "y": {"field": "value", "type": "quantitative", "stack": "zero" if chart.mark == "area" else None,
                  "scale": scale, "axis": {"title": None, "tickCount": 4, "tickMinStep": 1 if chart.whole else 0}},
            "color": {"field": "of", "type": "nominal", "scale": {"domain": words, "range": list(COLOURS)},
                      "legend": None},
            # The first at the bottom; a line follows the time.
            "order": {"field": "rank" if chart.mark == "area" else "age", "type": "quantitative"},
            "tooltip": [{"field": "of", "title": " "}, {"field": "value", "format": ",.2~f", "title": " "}],
        },
    }  # fmt: skip


def _time_axis(minutes: int) -> dict[str, Any]:
    now, min = tell("status.now"), tell("status.min")
    labels = f"datum.value === 0 ? '{now}' : format(datum.value / 60, 'd') + ' {min}'"
    if minutes == 1:
        labels = f"datum.value === 0 ? '{now}' : format(datum.value, 'd') + ' s'"
    step = {1: 15, 5: 60}.get(minutes, 120)
    ticks = list(range(-60 * minutes, 1, step))
    return {"title": None, "grid": False, "values": ticks, "labelExpr": labels, "labelFlush": False}
