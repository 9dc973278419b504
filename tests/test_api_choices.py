"""Several choices to one request: n, several prompts, echo."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest

from bluelm.api.choices import choice
from bluelm.engine import Generation
from bluelm.errors import EngineDied, QueueFull
from bluelm.types import SamplingParams
from tests.api_kit import CHAT, COMPLETIONS, Api, Hangup, events, refused
from tests.fakes import FakeEngine

USER = {"role": "user", "content": "hi"}


def by_seed(prompt: Any, params: SamplingParams) -> list[str]:
    return [f"{params.seed} ", "is ", "my ", "seed"]


@pytest.fixture
def api() -> Api:
    return Api(FakeEngine(by_seed))


def test_n_choices_have_seeds_of_their_own_and_the_first_has_the_requests(api: Api) -> None:
    told = api.chat("hi", n=5, seed=7).json()
    texts = [one["message"]["content"] for one in told["choices"]]
    assert [one["index"] for one in told["choices"]] == [0, 1, 2, 3, 4]
    assert len(set(texts)) == 5
    assert texts[0] == api.chat("hi", seed=7).json()["choices"][0]["message"]["content"]
    assert texts == [one["message"]["content"] for one in api.chat("hi", n=5, seed=7).json()["choices"]]
    assert texts[:2] == [one["message"]["content"] for one in api.chat("hi", n=2, seed=7).json()["choices"]]


def test_choices_without_a_seed_draw_one_each(api: Api) -> None:
    api.chat("hi", n=3)
    assert [params.seed for _, params in api.engine.seen] == [None] * 3


def test_a_seed_of_a_choice_is_a_seed() -> None:
    for seed in (0, 1, 2**63 - 1):
        seeds = {choice(SamplingParams(seed=seed), i).seed for i in range(128)}
        assert len(seeds) == 128 and all(one is not None and 0 <= one < 2**63 for one in seeds)


def test_usage_counts_each_prompt_once_and_every_answer(api: Api) -> None:
    one = api.post(COMPLETIONS, {"prompt": "abc"}).json()["usage"]
    many = api.post(COMPLETIONS, {"prompt": ["abc", "de"], "n": 3}).json()["usage"]
    assert (one["prompt_tokens"], one["completion_tokens"]) == (3, 4)
    assert (many["prompt_tokens"], many["completion_tokens"], many["total_tokens"]) == (5, 24, 29)


def test_choices_stream_interleaved_each_with_its_own_index_and_end() -> None:
    api = Api(FakeEngine(by_seed, pause=0.02))
    told = events(api.chat("hi", n=4, seed=3, stream=True, stream_options={"include_usage": True}))
    assert told.pop() == "[DONE]"
    assert told.pop()["usage"]["completion_tokens"] == 16
    texts: dict[int, str] = defaultdict(str)
    ends: dict[int, str] = {}
    order = []
    for event in told:
        (one,) = event["choices"]
        assert one["index"] not in ends, "nothing comes behind the end of a choice"
        texts[one["index"]] += one["delta"].get("content", "")
        order.append(one["index"])
        if one["finish_reason"]:
            ends[one["index"]] = one["finish_reason"]
    whole = api.chat("hi", n=4, seed=3).json()["choices"]
    assert texts == {one["index"]: one["message"]["content"] for one in whole}
    assert ends == dict.fromkeys(range(4), "stop")
    assert order != sorted(order), "they come side by side, not one after the other"
    assert len({event["id"] for event in told}) == 1


def test_several_prompts_are_answered_in_their_order(api: Api) -> None:
    api.engine.script = lambda prompt, params: [f"{prompt}:{params.seed}"]
    told = api.post(COMPLETIONS, {"prompt": ["a", "b"], "n": 2, "seed": 5}).json()["choices"]
    other = choice(SamplingParams(seed=5), 1).seed
    assert [one["text"] for one in told] == ["a:5", f"a:{other}", "b:5", f"b:{other}"]
    assert [one["index"] for one in told] == [0, 1, 2, 3]


def test_prompts_may_be_given_as_their_tokens(api: Api) -> None:
    for tokens, texts in (([97, 32, 20320], "a 你"), ([[97, 98], [99]], ["ab", "c"])):
        asked = [api.post(COMPLETIONS, {"prompt": prompt, "n": 2, "echo": True}).json() for prompt in (tokens, texts)]
        assert asked[0]["usage"] == asked[1]["usage"] and len(asked[0]["choices"]) == 2 * (1 + isinstance(texts, list))
        assert asked[0]["choices"] == asked[1]["choices"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", [["ab ", "c"], [[97, 98, 32], [99]]])
def test_echo_puts_each_prompt_in_front_of_its_answers(api: Api, prompt: Any, stream: bool) -> None:
    api.engine.script = lambda prompt, params: ["x", "y"]
    answer = api.post(COMPLETIONS, {"prompt": prompt, "n": 2, "echo": True, "stream": stream})
    texts: dict[int, str] = defaultdict(str)
    for told in events(answer)[:-1] if stream else [answer.json()]:
        for one in told["choices"]:
            texts[one["index"]] += one["text"]
    assert [texts[i] for i in range(4)] == ["ab xy", "ab xy", "cxy", "cxy"]


def test_where_not_all_choices_find_room_none_is_made(api: Api) -> None:
    api.engine.script, api.engine.pause, api.engine.slots = (lambda *_: iter(lambda: "x", 0)), 0.01, 3  # type: ignore
    error = refused(api.chat("hi", n=4), 429)
    assert error["code"] == "queue_full"
    assert nothing_runs(api.engine)


@pytest.mark.parametrize("stream", [False, True])
def test_one_choice_that_fails_ends_them_all_with_its_error(stream: bool) -> None:
    class One(FakeEngine):
        def _write(self, generation: Generation, prompt: Any, params: Any, stop: threading.Event) -> None:
            if generation.id == "fake-2":
                self.running.pop(generation.id)
                generation.fail(EngineDied("signal 9"))
            else:
                super()._write(generation, prompt, params, stop)

    api = Api(One(lambda *_: iter(lambda: "x", 0) if not stream else ["a"] * 400, pause=0.005))  # type: ignore
    if stream:
        told = events(api.chat("hi", n=3, stream=True))
        assert told[-1]["error"]["code"] == "engine_died" and "[DONE]" not in told
    else:
        api.engine.script = lambda *_: ["a", "b"]
        assert refused(api.chat("hi", n=3), 503)["code"] == "engine_died"
    assert nothing_runs(api.engine)


@pytest.mark.parametrize("after", [0, 9])
def test_a_client_that_hangs_up_ends_every_choice(after: int) -> None:
    api = Api(FakeEngine(lambda *_: iter(lambda: "x ", 0), pause=0.005))  # type: ignore[arg-type, return-value]
    body = {"messages": [USER], "n": 6, "stream": bool(after)}
    asyncio.run(Hangup(api, CHAT, body, after=after).run(gone_after_s=0.1))
    assert len(api.engine.seen) == 6
    assert nothing_runs(api.engine)


def test_a_refusal_behind_the_first_choice_leaves_nothing_behind(api: Api) -> None:
    plain, count = api.engine.submit, iter(range(9))

    def submit(*given: Any, **named: Any) -> Generation:
        if next(count) == 2:
            raise QueueFull(2)
        return plain(*given, **named)

    api.engine.submit, api.engine.pause = submit, 3600.0  # type: ignore[method-assign]
    refused(api.chat("hi", n=3), 429)
    assert nothing_runs(api.engine)


def test_the_fingerprint_is_the_configurations(api: Api) -> None:
    first, again = (api.chat("hi").json()["system_fingerprint"] for _ in range(2))
    assert first == again and first.startswith("fp_")
    model = api.engine.now.model
    assert model is not None
    api.engine.now = replace(api.engine.now, model=replace(model, dtype="bfloat16"))
    assert api.chat("hi").json()["system_fingerprint"] != first
    assert {event["system_fingerprint"] for event in events(api.chat("hi", stream=True))[:-1]} != {first}


def nothing_runs(engine: FakeEngine, seconds: float = 3.0) -> bool:
    end = time.monotonic() + seconds
    while engine.running and time.monotonic() < end:
        time.sleep(0.005)
    return not engine.running
