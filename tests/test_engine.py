"""One contract for every Engine: the fake that other tests rely on, and the real process with the real demo model."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from bluelm.config import load_settings
from bluelm.engine import Engine, Generation, open_engine
from bluelm.engine.client import EngineProcess
from bluelm.errors import (
    EngineDied,
    EngineDown,
    EngineUnavailable,
    InvalidParameter,
    InvalidRequest,
    PromptTooLong,
    QueueFull,
)
from bluelm.types import FinishReason, Message, Phase, Role, SamplingParams, TokenIds, Totals
from tests.fakes import FakeEngine

FRANCE = (Message(Role.USER, "Name the capital of France."),)  # a clear choice each time: no rounding changes it
STORY = (Message(Role.USER, "Tell me a long story about the sea."),)
# exact: "The" and "L'" are as likely as each other, but for the last bits, to begin the answer about France.
SMALL: dict[str, Any] = {"max_running": 4, "max_waiting": 6, "context": 1024, "cache_tokens": 4096, "exact": True}
GREEDY = SamplingParams(temperature=0.0)


def wait_ready(engine: Engine, timeout: float = 120.0) -> None:
    end = time.monotonic() + timeout
    while engine.state().phase is not Phase.READY:
        assert engine.state().phase is not Phase.DOWN, engine.state().detail
        assert time.monotonic() < end, engine.state()
        time.sleep(0.05)


@pytest.fixture(scope="module")
def process() -> Iterator[EngineProcess]:
    engine = EngineProcess(load_settings(**SMALL))
    wait_ready(engine)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def fleet() -> Iterator[Engine]:
    engine = open_engine(load_settings(device="cpu", engines=2, **SMALL))
    wait_ready(engine)
    yield engine
    engine.close()


@pytest.fixture(params=["fake", "process", "fleet"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    if request.param != "fake":
        yield request.getfixturevalue(request.param)
    else:
        yield FakeEngine(lambda prompt, params: ["word "] * 400, pause=0.002)


def settled(engine: Engine) -> bool:
    """Whether nothing runs any more (the figures come twice a second)."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        state = engine.state()
        if state.running == 0 and state.waiting == 0:
            return True
        time.sleep(0.05)
    return False


def totals_now(engine: Engine) -> Totals:
    now = time.monotonic()
    while engine.state().totals.at < now:
        time.sleep(0.02)
    return engine.state().totals


# --- the contract ---


def test_an_answer_ends_with_its_reason_and_usage(engine: Engine) -> None:
    generation = engine.submit(STORY, SamplingParams(max_length=5, seed=3))
    chunks = list(generation)
    assert [chunk.finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    last = chunks[-1]
    assert last.finish_reason is FinishReason.LENGTH and last.usage is not None
    assert last.usage.completion_tokens == 5 and last.usage.prompt_tokens == generation.prompt_tokens > 0
    assert last.usage.seed == generation.seed == 3
    assert 0 <= last.usage.queue_s <= last.usage.ttft_s <= last.usage.total_s
    assert generation.text == "".join(chunk.text for chunk in chunks)
    assert generation.done and generation.finish_reason is FinishReason.LENGTH


def test_any_number_of_readers_see_the_same(engine: Engine) -> None:
    generation = engine.submit(STORY, SamplingParams(temperature=0.0, max_length=20))
    with ThreadPoolExecutor(4) as readers:
        texts = set(readers.map(lambda _: "".join(c.text for c in generation), range(4)))
    assert texts == {generation.text}


def test_cancel_ends_the_answer_soon_and_keeps_its_text(engine: Engine) -> None:
    generation = engine.submit(STORY, GREEDY)
    assert generation.wait(0, timeout=30)
    asked = time.monotonic()
    generation.cancel()
    list(generation)
    assert time.monotonic() - asked < 2
    assert generation.finish_reason is FinishReason.CANCELLED and generation.text
    assert settled(engine)
    generation.cancel()


def test_what_does_not_fit_is_refused_before_anything_is_made(engine: Engine) -> None:
    with pytest.raises(PromptTooLong) as caught:
        engine.submit((Message(Role.USER, "word " * 9000),), SamplingParams(max_length=10))
    assert caught.value.details["window"] > 0
    with pytest.raises(PromptTooLong):
        engine.submit(FRANCE, SamplingParams(max_length=100_000))
    assert settled(engine)


def test_old_turns_make_room_when_that_is_wanted(engine: Engine) -> None:
    history = tuple(
        Message(Role.USER if i % 2 == 0 else Role.ASSISTANT, f"number {i} " + "and so on " * 30) for i in range(301)
    )
    with pytest.raises(PromptTooLong):
        engine.submit(history, SamplingParams(max_length=5))
    generation = engine.submit(history, SamplingParams(max_length=5), drop_oldest=True)
    list(generation)
    assert 0 < generation.dropped < 301
    assert generation.prompt_tokens + 5 <= generation.window


def test_tokens_are_told_with_their_chances_where_that_is_asked(engine: Engine) -> None:
    for wanted in (None, 0, 3):
        chunks = list(engine.submit(STORY, SamplingParams(max_length=6, seed=3, temperature=0.0, logprobs=wanted)))
        tokens = [told for chunk in chunks for told in chunk.tokens]
        assert len(tokens) == (0 if wanted is None else 6)
        assert all(len(told.top) == wanted and told.logprob <= 0 for told in tokens)
        assert all(told.top[0].token == told.token for told in tokens if told.top), "greedy takes the likeliest"
        if tokens:
            assert b"".join(told.token.utf8 for told in tokens).decode() == "".join(chunk.text for chunk in chunks)


def test_a_prompt_is_told_as_the_tokens_that_its_answer_begins_with(engine: Engine) -> None:
    said = (Message(Role.USER, "Say  <|im_end|>\n你好 🦩"),)
    for prompt in (said, "Once upon\ta time"):
        told = engine.tokenize(prompt)
        generation = engine.submit(prompt, SamplingParams(max_length=1))
        assert len(told.ids) == generation.prompt_tokens == len(told.tokens) and set(told.ids) == set(told.vocabulary)
        spelled = b"".join(token.text.encode() if token.marker else token.utf8 for token in told.tokens)
        assert spelled.decode() == told.text
        content = prompt if isinstance(prompt, str) else prompt[0].content
        assert content in told.text
        generation.cancel()
    assert engine.detokenize(engine.tokenize("plain 你好", bos=False).ids) == "plain 你好" and not engine.detokenize(())
    for bad in (-1, 2**40):
        with pytest.raises(InvalidParameter):
            engine.detokenize((5, bad))
    assert settled(engine)


def test_a_prompt_in_tokens_is_continued_as_its_text_is(engine: Engine) -> None:
    text, params = "The capital of France is", SamplingParams(temperature=0.0, max_length=8)
    ids = engine.tokenize(text).ids
    told = {"".join(chunk.text for chunk in engine.submit(prompt, params)) for prompt in (text, TokenIds(ids))}
    assert len(told) == 1 and engine.tokenize(TokenIds(ids)).ids == ids
    for bad in (TokenIds((*ids, 2**30)), TokenIds(ids * 3000)):
        with pytest.raises(InvalidRequest) as caught:
            engine.submit(bad, params)
        assert caught.value.param == "prompt"


# --- the real process ---


def test_an_answer_is_held_to_a_json_schema_beside_others(process: EngineProcess) -> None:
    schema = {
        "type": "object", "properties": {"city": {"type": "string", "maxLength": 12}, "big": {"type": "boolean"}},
        "required": ["city", "big"], "additionalProperties": False,
    }  # fmt: skip
    params = SamplingParams(60, temperature=1.0, seed=5, json_schema=json.dumps(schema))
    free = process.submit(FRANCE, GREEDY)
    held = [process.submit(FRANCE, replace(params, seed=seed)) for seed in (1, 2)]
    for generation in held:
        told = json.loads("".join(chunk.text for chunk in generation))
        assert set(told) == {"city", "big"} and isinstance(told["big"], bool) and len(told["city"]) <= 12
        assert generation.finish_reason is FinishReason.STOP
    assert list(free)[-1].finish_reason is FinishReason.STOP
    with pytest.raises(InvalidRequest, match="JSON schema"):
        process.submit(FRANCE, SamplingParams(json_schema='{"not": {}}'))
    assert settled(process)


def test_what_people_write_is_no_marker_in_what_is_told(process: EngineProcess) -> None:
    """The tokens of a talk, of what an exact text of it would have been, and of the template's own words."""
    said = process.tokenize((Message(Role.USER, "a<|im_end|>b"),))
    markers = [token.text for token in said.tokens if token.marker]
    assert said.text.count("<|im_end|>") == 3 and markers.count("<|im_end|>") == 2
    assert process.detokenize(said.ids) == said.text
    retold = process.tokenize(said.text)
    assert retold.text == said.text and not any(token.marker for token in retold.tokens)
    with pytest.raises(InvalidParameter):
        process.tokenize(())
    with pytest.raises(InvalidParameter, match="surrogate"):
        process.tokenize("\ud800")


def test_tokens_are_told_whole_where_their_text_is_held_back_or_cut(process: EngineProcess) -> None:
    asked = (Message(Role.USER, "Name three large cities in Europe."),)
    params = SamplingParams(40, temperature=0.0, logprobs=1)
    list(process.submit(asked, params))  # from here on its prompt comes from the cache
    whole = process.submit(asked, params)
    tokens = [told.token for chunk in whole for told in chunk.tokens]
    words = whole.text.split(" ")
    stopped = process.submit(asked, replace(params, stop=(" ".join(words[2:4]), "zzz")))
    told = [told.token for chunk in stopped for told in chunk.tokens]
    assert stopped.finish_reason is FinishReason.STOP_STRING and stopped.text == " ".join(words[:2]) + " "
    assert stopped.usage is not None and stopped.usage.completion_tokens == len(told)
    assert told == tokens[: len(told)] and " ".join(words[:4]) in b"".join(token.utf8 for token in told).decode()


def test_a_character_of_several_tokens_is_told_in_bytes(process: EngineProcess) -> None:
    again = (Message(Role.USER, "Repeat exactly: 😀🦩"), Message(Role.ASSISTANT, "Sure: 😀🦩😀🦩😀", unfinished=True))
    generation = process.submit(again, SamplingParams(8, temperature=0.0, logprobs=0))
    tokens = [told.token for chunk in generation for told in chunk.tokens]
    assert b"".join(token.utf8 for token in tokens).decode("utf-8", "replace") == generation.text
    assert any(token.text.startswith("\\x") for token in tokens), generation.text


def test_the_demo_model_really_answers(process: EngineProcess) -> None:
    generation = process.submit(FRANCE, GREEDY)
    assert "".join(chunk.text for chunk in generation) == "The capital of France is Paris."
    assert generation.finish_reason is FinishReason.STOP
    assert process.submit("The capital of France is", SamplingParams(temperature=0.0, max_length=2)).wait(0, 30)


def test_the_next_turn_reuses_the_cache(process: EngineProcess) -> None:
    first = process.submit(STORY, SamplingParams(temperature=0.0, max_length=40))
    list(first)
    history = (*STORY, Message(Role.ASSISTANT, first.text), Message(Role.USER, "Go on."))
    second = process.submit(history, SamplingParams(temperature=0.0, max_length=2))
    list(second)
    assert second.usage is not None and second.usage.cached_tokens >= 48


def test_an_answer_cut_by_length_goes_on_as_if_it_had_not_been(process: EngineProcess) -> None:
    whole, begun = (
        "".join(c.text for c in process.submit(STORY, SamplingParams(length, temperature=0.0))) for length in (40, 25)
    )
    rest = process.submit(
        (*STORY, Message(Role.ASSISTANT, begun, unfinished=True)), SamplingParams(15, temperature=0.0)
    )
    assert begun + "".join(c.text for c in rest) == whole


def test_stop_strings_end_the_answer_before_them(process: EngineProcess) -> None:
    generation = process.submit(FRANCE, SamplingParams(temperature=0.0, stop=("France is", "zzz")))
    list(generation)
    assert generation.text == "The capital of " and generation.finish_reason is FinishReason.STOP_STRING


def test_the_same_seed_gives_the_same_text_among_others(process: EngineProcess) -> None:
    params = SamplingParams(temperature=1.0, top_p=0.95, seed=11, max_length=16)
    alone = process.submit(STORY, params)
    list(alone)
    together = [process.submit(STORY, SamplingParams(max_length=16)) for _ in range(3)]
    again = process.submit(STORY, params)
    list(again)
    assert again.text == alone.text
    assert [list(g)[-1].finish_reason for g in together]


def until_places(generations: Sequence[Generation], places: list[int]) -> None:
    end = time.monotonic() + 5
    while [generation.place for generation in generations] != places:
        assert time.monotonic() < end, [generation.place for generation in generations]
        time.sleep(0.02)


def test_those_who_wait_know_their_place(process: EngineProcess) -> None:
    before = totals_now(process)
    running = [process.submit(STORY, SamplingParams(max_length=150, seed=i)) for i in range(4)]
    waiting = [process.submit(STORY, SamplingParams(max_length=2, seed=i)) for i in range(3)]
    assert all(generation.wait(0, timeout=30) for generation in running)
    until_places((*running, *waiting), [0, 0, 0, 0, 1, 2, 3])
    waiting[0].cancel()
    list(waiting[0])
    until_places(waiting, [0, 1, 2])
    for generation in (*running, *waiting):
        generation.cancel()
        list(generation)
    assert not any(generation.place for generation in (*running, *waiting))
    made = totals_now(process)
    tokens = sum(g.usage.completion_tokens for g in (*running, *waiting) if g.usage)
    assert made.tokens - before.tokens == tokens and made.answers - before.answers >= 4
    assert made.prompt_tokens > before.prompt_tokens and made.first_token_s > before.first_token_s


def test_a_full_queue_refuses_at_once_and_recovers(process: EngineProcess) -> None:
    open_now = [process.submit(STORY, SamplingParams(max_length=300, seed=i)) for i in range(10)]
    with pytest.raises(QueueFull) as caught:
        process.submit(FRANCE, GREEDY)
    assert caught.value.details["retry_after"] > 0
    for generation in open_now:
        generation.cancel()
    for generation in open_now:
        assert list(generation)[-1].finish_reason is FinishReason.CANCELLED
    assert settled(process)
    assert "Paris" in "".join(c.text for c in process.submit(FRANCE, GREEDY))


def test_an_empty_prompt_and_a_bad_conversation_are_refused_by_name(process: EngineProcess) -> None:
    for prompt in ("", (), (Message(Role.ASSISTANT, "hello"),)):
        with pytest.raises(InvalidParameter):
            process.submit(prompt, GREEDY)


def test_a_killed_engine_fails_its_answers_at_once_and_comes_back(process: EngineProcess) -> None:
    generation = process.submit(STORY, GREEDY)
    waiting = [process.submit(STORY, GREEDY) for _ in range(6)]
    assert generation.wait(0, timeout=30)
    before = process.state()
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    killed = time.monotonic()
    for each in (generation, *waiting):
        with pytest.raises(EngineDied):
            list(each)
    assert time.monotonic() - killed < 2
    assert generation.text, "what was shown stays"
    with pytest.raises(EngineUnavailable):
        process.submit(FRANCE, GREEDY)
    wait_ready(process)
    assert process.state().restarts == before.restarts + 1 and process.state().pid != before.pid
    assert "Paris" in "".join(c.text for c in process.submit(FRANCE, GREEDY))


def test_one_engine_dies_and_another_goes_on(fleet: Engine) -> None:
    """Each on a process of its own; what the dead one was making fails, and it comes back."""
    end = time.monotonic() + 60
    while fleet.state().engines_ready < 2:
        assert time.monotonic() < end, fleet.state()
        time.sleep(0.05)
    params = SamplingParams(temperature=0.0, max_length=80)
    both = [fleet.submit((Message(Role.USER, f"{i} Tell me a long story."),), params) for i in range(2)]
    assert all(generation.wait(0, timeout=30) for generation in both)
    before = fleet.state()
    assert before.pid is not None and before.running <= 2 and before.cache_total == 2 * 4096
    os.kill(before.pid, signal.SIGKILL)
    ends = []
    for generation in both:
        try:
            ends.append(list(generation)[-1].finish_reason)
        except EngineDied:
            ends.append(None)
    assert ends.count(None) == 1, "one of two equally loaded engines made each"
    assert "Paris" in "".join(c.text for c in fleet.submit(FRANCE, GREEDY)), "nobody waits for the other to come back"
    wait_ready(fleet)
    while fleet.state().engines_ready < 2:
        assert time.monotonic() < end, fleet.state()
        time.sleep(0.05)
    assert fleet.state().restarts == 1 and fleet.state().phase is Phase.READY


def test_a_model_that_cannot_be_loaded_is_told_and_not_tried_again() -> None:
    engine = EngineProcess(load_settings(model="/nowhere/model.gguf"))
    end = time.monotonic() + 60
    while engine.state().phase is not Phase.DOWN and time.monotonic() < end:
        time.sleep(0.05)
    with pytest.raises(EngineDown, match=r"/nowhere/model\.gguf"):
        engine.submit(FRANCE, GREEDY)
    assert engine.state().restarts == 0
    engine.close()


def test_closing_ends_the_process_and_every_open_answer() -> None:
    engine = EngineProcess(load_settings(max_running=2))
    wait_ready(engine)
    pid = engine.state().pid
    assert pid is not None
    generation = engine.submit(STORY, GREEDY)
    engine.close()
    engine.close()
    with pytest.raises(EngineDown):
        list(generation)
    with pytest.raises(EngineDown):
        engine.submit(FRANCE, GREEDY)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
