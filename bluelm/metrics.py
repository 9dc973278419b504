"""The figures of this process, for Prometheus.

Every answer is asked for through `asking.submit`, whoever asks (a page or a program), and counted here when it ends
or is refused. What is true of the engine at the moment is read from its state when somebody looks (`exposition`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from bluelm import __version__, logs
from bluelm.engine import Generation
from bluelm.errors import BlueLMError
from bluelm.types import Caller, EngineState, Phase, Prompt, Usage

FIRST_TOKEN_S = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2.5, 5, 10, 20, 30, 60, 120, 300)
TOKEN_S = (0.002, 0.004, 0.006, 0.008, 0.01, 0.0125, 0.015, 0.02, 0.03, 0.04, 0.06, 0.1, 0.2, 0.5, 1, 2.5)
WHOLE_S = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800)

disable_created_metrics()  # they double the series, and nobody here asks for them
registry = CollectorRegistry()
log = logging.getLogger("bluelm.answers")

_answers = Counter("bluelm_answers", "Answers that ended, by why", ["route", "end"], registry=registry)
_errors = Counter("bluelm_errors", "Requests refused and answers failed, by kind", ["route", "code"], registry=registry)
_prompt = Counter("bluelm_prompt_tokens", "Tokens of prompts", ["route"], registry=registry)
_cached = Counter("bluelm_prompt_tokens_cached", "Those found in the cache", ["route"], registry=registry)
_made = Counter("bluelm_completion_tokens", "Tokens of answers", ["route"], registry=registry)
_queue = Histogram(
    "bluelm_queue_seconds", "From acceptance to the first computed token of the prompt", ["route"],
    buckets=FIRST_TOKEN_S, registry=registry,
)  # fmt: skip
_first = Histogram(
    "bluelm_first_token_seconds", "From acceptance to the first token", ["route"], buckets=FIRST_TOKEN_S,
    registry=registry,
)  # fmt: skip
_each = Histogram(
    "bluelm_token_seconds", "Between tokens: one answer's mean", ["route"], buckets=TOKEN_S, registry=registry
)
_whole = Histogram("bluelm_answer_seconds", "From acceptance to the end", ["route"], buckets=WHOLE_S, registry=registry)
_http = Counter("bluelm_http_requests", "Requests over HTTP", ["route", "method", "status"], registry=registry)
ProcessCollector(registry=registry)


def began(caller: Caller, prompt: Prompt) -> None:
    """The engine has accepted a request."""
    logs.private(log, "prompt", request=caller.request, text=prompt)


def refused(caller: Caller, error: BlueLMError) -> None:
    """It has not."""
    _errors.labels(caller.route, error.code).inc()
    logs.event(log, "refused", request=caller.request, route=caller.route, code=error.code, param=error.param)


def ended(generation: Generation, caller: Caller) -> None:
    """An answer has ended, in one way or another."""
    route, error, usage = caller.route, generation.error, generation.usage
    end = "failed" if error is not None else str(generation.finish_reason)
    code = "" if error is None else getattr(error, "code", "error")
    _answers.labels(route, end).inc()
    if error is not None:
        _errors.labels(route, code).inc()
    if usage is not None:
        _measure(route, usage)
    times = usage or Usage(prompt_tokens=generation.prompt_tokens)
    logs.event(
        log, "answered", request=caller.request, answer=generation.id, route=route, end=end, code=code,
        model=generation.model, prompt_tokens=times.prompt_tokens, cached_tokens=times.cached_tokens,
        completion_tokens=times.completion_tokens, queue_s=times.queue_s, first_token_s=times.ttft_s,
        total_s=times.total_s,
    )  # fmt: skip
    logs.private(log, "text", request=caller.request, text=generation.so_far())


def count_http(route: str, method: str, status: int) -> None:
    _http.labels(route, method, str(status)).inc()


def exposition(state: EngineState) -> bytes:
    """Everything in Prometheus' text format (version 0.0.4)."""
    now = CollectorRegistry()
    now.register(_Now(state))
    if state.pid is not None:
        ProcessCollector(namespace="engine", pid=lambda: str(state.pid), registry=now)
    return generate_latest(registry) + generate_latest(now)


# --- inside ---


def _measure(route: str, usage: Usage) -> None:
    _prompt.labels(route).inc(usage.prompt_tokens)
    _cached.labels(route).inc(usage.cached_tokens)
    _made.labels(route).inc(usage.completion_tokens)
    _queue.labels(route).observe(usage.queue_s)
    _whole.labels(route).observe(usage.total_s)
    if usage.completion_tokens:
        _first.labels(route).observe(usage.ttft_s)
    if rate := usage.tokens_per_s:
        _each.labels(route).observe(1 / rate)


class _Now(Collector):
    """The engine's state, and what is served."""

    def __init__(self, state: EngineState) -> None:
        self.state = state

    def collect(self) -> Iterator[Metric]:
        state = self.state
        totals = state.totals
        counters = {
            "bluelm_engine_restarts": ("Times an engine was started anew", state.restarts),
            "bluelm_engine_tokens": ("Tokens made, as they are made", totals.tokens),
            "bluelm_engine_prompt_tokens": ("Tokens of prompts computed, as they are", totals.prompt_tokens),
        }
        for name, (words, count) in counters.items():
            yield CounterMetricFamily(name, words, value=count)
        gauges = {
            "bluelm_requests_running": ("Answers being made", state.running),
            "bluelm_requests_waiting": ("Answers that wait for their turn", state.waiting),
            "bluelm_cache_tokens_used": ("Tokens of KV cache in use", state.cache_used),
            "bluelm_cache_tokens": ("Tokens of KV cache", state.cache_total),
            "bluelm_gpu_memory_used_bytes": ("Of the cards, by all programs", state.gpu_memory_used),
            "bluelm_gpu_memory_bytes": ("Of the cards", state.gpu_memory_total),
            "bluelm_engines": ("Engine processes", state.engines),
            "bluelm_engines_ready": ("Engine processes that can answer", state.engines_ready),
            "bluelm_engine_load_ratio": ("How far the model is loaded", state.progress),
        }
        for name, (words, value) in gauges.items():
            yield GaugeMetricFamily(name, words, value=value)
        phase = GaugeMetricFamily("bluelm_engine_phase", "1 for the phase that the engine is in", labels=["phase"])
        for one in Phase:
            phase.add_metric([one.value], float(one is state.phase))
        yield phase
        build = GaugeMetricFamily("bluelm_build_info", "This app", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        if (model := state.model) is not None:
            names = ["id", "kind", "dtype", "device", "context"]
            served = GaugeMetricFamily("bluelm_model_info", "The model that is served", labels=names)
            served.add_metric([str(getattr(model, name)) for name in names], 1)
            yield served
