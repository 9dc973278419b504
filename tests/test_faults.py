"""What may befall the engine's process, done to a real one; and what must not be mistaken for that."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bluelm.config import load_settings
from bluelm.engine.client import EngineProcess
from bluelm.errors import EngineDied, EngineUnavailable, QueueFull
from bluelm.types import Caller, FinishReason, Phase, SamplingParams
from tests.test_engine import STORY, settled, wait_ready

SILENCE_S = 2.0
LONG = "word " * 600
SHORT = SamplingParams(temperature=0.0, max_length=5)


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("log") / "engine"


@pytest.fixture(scope="module")
def engine(log: Path) -> Iterator[EngineProcess]:
    """The first process of it writes into `log`."""
    given = load_settings(
        threads=1, context=1024, cache_tokens=4096, step_tokens=1024, max_running=4, max_waiting=24, exact=True,
        silence_s=SILENCE_S,
    )  # fmt: skip
    plain = os.dup(2)
    with log.open("w") as file:
        os.dup2(file.fileno(), 2)
        # Large pieces of memory are asked for and given back one by one, so that a limit on it is felt at once.
        engine = EngineProcess(given, {"MALLOC_MMAP_THRESHOLD_": "1000000", "MALLOC_TRIM_THRESHOLD_": "1"})
        while engine.state().pid is None:
            time.sleep(0.005)
    os.dup2(plain, 2)
    os.close(plain)
    wait_ready(engine)
    yield engine
    engine.close()


def test_memory_that_runs_out_makes_steps_smaller_and_ends_no_answer(engine: EngineProcess, log: Path) -> None:
    """A limit on the real process: what its allocator asks for is refused by the system. It comes before the first long
    prompt, whose memory would be kept for the next one."""
    list(engine.submit("first", SHORT))
    before = engine.state()
    assert before.pid is not None
    plain = resource.prlimit(before.pid, resource.RLIMIT_AS)
    resource.prlimit(before.pid, resource.RLIMIT_AS, (size_of(before.pid) + (1 << 20), plain[1]))
    assert list(engine.submit(LONG, SHORT))[-1].finish_reason is FinishReason.LENGTH
    assert "The memory is not enough for this step" in (told := log.read_text()) and "Steps have 512 tokens" in told
    resource.prlimit(before.pid, resource.RLIMIT_AS, plain)
    assert list(engine.submit(f"third {LONG}", SHORT))[-1].finish_reason is FinishReason.LENGTH
    assert engine.state().restarts == before.restarts


def size_of(pid: int) -> int:
    """Bytes of address space."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def test_a_stopped_engine_is_ended_within_its_bound_and_comes_back(engine: EngineProcess) -> None:
    answers = [engine.submit(STORY, SamplingParams(max_length=500, seed=i)) for i in range(6)]
    assert answers[0].wait(0, timeout=30)
    before = engine.state()
    assert before.pid is not None
    os.kill(before.pid, signal.SIGSTOP)
    stopped = time.monotonic()
    for answer in answers:
        with pytest.raises(EngineDied, match="no sign of life for 2 seconds"):
            list(answer)
    assert SILENCE_S - 0.6 < time.monotonic() - stopped < SILENCE_S + 5
    with pytest.raises(EngineUnavailable):
        engine.submit(STORY, SHORT)
    with pytest.raises(ProcessLookupError):
        os.kill(before.pid, 0)
    wait_ready(engine)
    assert engine.state().restarts == before.restarts + 1
    assert list(engine.submit(STORY, SHORT))[-1].finish_reason is FinishReason.LENGTH


def test_a_short_stop_is_forgiven(engine: EngineProcess) -> None:
    before = engine.state()
    assert before.pid is not None
    answer = engine.submit(STORY, SamplingParams(max_length=30))
    os.kill(before.pid, signal.SIGSTOP)
    time.sleep(SILENCE_S / 3)
    os.kill(before.pid, signal.SIGCONT)
    assert list(answer)[-1].finish_reason is FinishReason.LENGTH
    assert engine.state().restarts == before.restarts


def test_a_busy_machine_and_long_prompts_are_not_taken_for_a_stopped_engine(engine: EngineProcess) -> None:
    before = engine.state().restarts
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        assert list(engine.submit(f"busy {LONG}", SHORT))[-1].finish_reason is FinishReason.LENGTH
    finally:
        for one in busy:
            one.kill()
            one.wait()
    assert engine.state().restarts == before


def test_one_request_is_answered_before_another_clients_many(engine: EngineProcess) -> None:
    params = SamplingParams(temperature=0.0, max_length=24)
    many = [engine.submit(STORY, params, caller=Caller(share="many")) for _ in range(12)]
    one = engine.submit(STORY, SHORT, caller=Caller(share="one"))
    assert list(one)[-1].finish_reason is FinishReason.LENGTH
    assert sum(answer.done for answer in many) <= 4, "it has waited for others"
    assert all(list(answer)[-1].finish_reason is FinishReason.LENGTH for answer in many)
    # Who made way is computed again as a prompt, which in 4 bits may round otherwise: nothing is missing, that is all.
    assert all(answer.usage is not None and answer.usage.completion_tokens == 24 for answer in many)


def test_a_full_queue_is_told_at_once_and_keeps_a_place_for_those_who_have_none(engine: EngineProcess) -> None:
    many = [engine.submit(STORY, SamplingParams(max_length=300), caller=Caller(share="many")) for _ in range(28)]
    begun = time.monotonic()
    with pytest.raises(QueueFull) as caught:
        engine.submit(STORY, SHORT, caller=Caller(share="many"))
    assert time.monotonic() - begun < 1 and caught.value.details["retry_after"] > 0
    one = engine.submit(STORY, SHORT, caller=Caller(share="one"))
    assert list(one)[-1].finish_reason is FinishReason.LENGTH
    for answer in many:
        answer.cancel()
    assert settled(engine) and engine.state().phase is Phase.READY


def test_a_step_that_never_ends_is_ended(engine: EngineProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a bound that a real step goes beyond. The last test here: the engine comes back behind it."""
    impatient = engine._choice.now.model_copy(update={"step_limit_s": 0.05})
    monkeypatch.setattr(engine._choice, "now", impatient)
    answers = [engine.submit(f"{i} {LONG}", SHORT) for i in range(4)]
    with pytest.raises(EngineDied, match=r"one step took more than 0\.05 seconds"):
        for answer in answers:
            list(answer)
