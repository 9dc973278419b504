"""The app's side of the engine process: starts it, watches it, starts it anew, and hands its news to those who wait."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait

from bluelm.config import ROOT, Settings
from bluelm.engine.generation import Generation
from bluelm.engine.wire import (
    Accepted,
    Cancel,
    Configure,
    Detokenize,
    Fatal,
    Grown,
    Line,
    Loading,
    Pulse,
    Ready,
    Refused,
    Step,
    Submit,
    TextTold,
    ToApp,
    Tokenize,
    TokensTold,
)
from bluelm.errors import BlueLMError, EngineDied, EngineDown, EngineLoading, EngineUnavailable, InvalidParameter
from bluelm.types import NOBODY, Caller, Chunk, EngineState, Phase, Prompt, SamplingParams, Tokenized

LOOK_S = 1.0
ANSWER_S = 30.0  # for a yes or no to a request
LOAD_TRIES = 5  # deaths in a row before the model was ready; then it stays down
# Where cores are few, OpenMP threads that spin for their next task take the time of those who have one (measured:
# several times slower beside a busy browser). The user's own setting wins.
ENVIRONMENT = {"GOMP_SPINCOUNT": "20000"}
Reply = Accepted | TokensTold | TextTold
log = logging.getLogger("bluelm.engine")


class EngineProcess:
    """An Engine in a process of its own. One thread here supervises it; `submit` and the rest are for any thread."""

    def __init__(self, settings: Settings, environment: Mapping[str, str] | None = None) -> None:
        """environment: variables for the process, beside those of this one."""
        self._settings = settings
        self._environment = {**ENVIRONMENT, **os.environ, **(environment or {})}
        self._lock = threading.Lock()
        self._state = EngineState(Phase.LOADING, detail="starting")
        self._line: Line | None = None
        self._was_ready = False  # whether the process that ended last had its model loaded
        self._process: subprocess.Popen[bytes] | None = None
        self._replies: dict[str, queue.SimpleQueue[Reply | BlueLMError]] = {}
        self._open: dict[str, Generation] = {}
        self._ids = itertools.count(1)
        self._closed = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="engine-supervisor", daemon=True)
        self._supervisor.start()

    # --- Engine ---

    def state(self) -> EngineState:
        with self._lock:
            return replace(self._state, engines_ready=int(self._state.phase is Phase.READY))

    @property
    def open(self) -> int:
        """Answers that have not ended yet."""
        return len(self._open)

    def submit(
        self, prompt: Prompt, params: SamplingParams, *, drop_oldest: bool = False, caller: Caller = NOBODY
    ) -> Generation:
        id = self._new_id()
        messages, text = (None, prompt) if isinstance(prompt, str) else (tuple(prompt), None)
        with self._lock:
            self._refuse_unless_ready()
            model = self._state.model
        assert model is not None
        generation = Generation(
            id, model=model.id, prompt_tokens=0, window=model.context, seed=0, on_cancel=lambda: self._cancel(id)
        )
        answer = self._ask(Submit(id, messages, text, params, drop_oldest, caller), generation)
        assert isinstance(answer, Accepted)
        generation.prompt_tokens, generation.dropped = answer.prompt_tokens, answer.dropped
        generation.seed = answer.seed
        return generation

    def tokenize(self, prompt: Prompt, *, bos: bool = True) -> Tokenized:
        messages, text = (None, prompt) if isinstance(prompt, str) else (tuple(prompt), None)
        answer = self._ask(Tokenize(self._new_id(), messages, text, bos))
        assert isinstance(answer, TokensTold)
        return answer.prompt

    def detokenize(self, ids: Sequence[int]) -> str:
        answer = self._ask(Detokenize(self._new_id(), tuple(ids)))
        assert isinstance(answer, TextTold)
        return answer.text

    def close(self) -> None:
        self._closed.set()
        self._kill()
        if threading.current_thread() is not self._supervisor:
            self._supervisor.join(timeout=10)

    # --- inside ---

    def _new_id(self) -> str:
        return f"{os.getpid():x}-{time.time_ns():x}-{next(self._ids):x}"

    def _ask(self, said: Submit | Tokenize | Detokenize, opens: Generation | None = None) -> Reply:
        """What the engine answers. opens: the answer that begins with a yes. Raises the engine's no."""
        reply: queue.SimpleQueue[Reply | BlueLMError] = queue.SimpleQueue()
        with self._lock:
            self._refuse_unless_ready()
            line = self._line
            assert line is not None
            # Both are known before the engine can speak of them: its first news may come right behind its yes.
            self._replies[said.id] = reply
            if opens is not None:
                self._open[said.id] = opens
        answer: Reply | BlueLMError
        try:
            line.send(said)
            answer = reply.get(timeout=ANSWER_S)
        except UnicodeEncodeError as error:
            bad = error.object[error.start : error.end]
            answer = InvalidParameter("prompt", bad, "whole Unicode characters, not half of a surrogate pair")
        except OSError:
            answer = EngineDied("the line was cut")
        except queue.Empty:
            self._cancel(said.id)
            answer = EngineUnavailable(f"The engine gave no answer for {ANSWER_S:.0f} seconds: try again later.")
        with self._lock:
            self._replies.pop(said.id, None)
            if isinstance(answer, BlueLMError):
                self._open.pop(said.id, None)
        if isinstance(answer, BlueLMError):
            raise answer
        return answer

    def _refuse_unless_ready(self) -> None:
        state = self._state
        if self._closed.is_set():
            raise EngineDown("The engine was closed: start the app again.")
        if state.phase is Phase.DOWN:
            raise EngineDown(f"The engine is down: {state.detail}", why=state.detail)
        if state.phase is not Phase.READY:
            raise EngineLoading(state.detail or state.phase.value, state.progress)

    def _cancel(self, id: str) -> None:
        with self._lock:
            line = self._line
        if line is not None:
            with contextlib.suppress(OSError):  # cut: the supervisor is ending this answer with EngineDied
                line.send(Cancel(id))

    def _kill(self) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            process.kill()

    def _set(self, **changes: object) -> None:
        with self._lock:
            self._state = replace(self._state, **changes)  # type: ignore[arg-type]

    def _supervise(self) -> None:
        failures = 0
        while not self._closed.is_set():
            begun = time.monotonic()
            why = self._run_once()
            was_ready = self._was_ready
            self._lose_all(EngineDown("The engine was closed.") if self._closed.is_set() else EngineDied(why))
            if self._closed.is_set() or self.state().phase is Phase.DOWN:
                break
            failures = 0 if was_ready and time.monotonic() - begun > 60 else failures + 1
            if not was_ready and failures >= LOAD_TRIES:
                self._set(phase=Phase.DOWN, detail=f"it died {failures} times while loading ({why}); see its log above")
                break
            log.error("the engine process ended (%s); starting it again", why)
            restarts = self.state().restarts + 1
            self._set(phase=Phase.RESTARTING, progress=0.0, detail="restarting", restarts=restarts, pid=None)
            self._closed.wait(0 if failures <= 1 else min(2.0 ** (failures - 2), 30.0))
        self._closed.wait()
        self._set(phase=Phase.DOWN, pid=None, running=0, waiting=0)

    def _run_once(self) -> str:
        """Start the process and read its line until it is cut; why it was."""
        connection = self._start()
        assert self._line is not None and self._process is not None
        why = ""
        try:
            while not why:
                if not self._says_something(connection):
                    why = f"no sign of life for {self._settings.silence_s:g} seconds"
                    break
                why = self._hear(self._line.receive())
        except (EOFError, OSError):
            pass
        except Exception:  # nobody else watches the process: it is ended, and started again
            log.exception("the engine's news could not be taken in")
            why = "its news could not be taken in"
        self._kill()
        code = self._process.wait()
        with self._lock:
            self._line.close()
            self._line = None
            self._was_ready = self._state.phase is Phase.READY
            if self._was_ready:  # in one step with the line's end: nobody sees a ready engine without a process
                self._state = replace(self._state, phase=Phase.RESTARTING, progress=0.0, detail="restarting", pid=None)
        return why or _ending(code)

    def _says_something(self, connection: Connection) -> bool:
        """Wait for it, in short looks: time in which this very process was stopped is not the engine's silence."""
        look = min(LOOK_S, self._settings.silence_s / 4)
        return any(wait([connection], timeout=look) for _ in range(math.ceil(self._settings.silence_s / look)))

    def _start(self) -> Connection:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "bluelm.engine.worker", str(theirs.fileno())],
                cwd=ROOT, env=self._environment, pass_fds=[theirs.fileno()], process_group=0,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
            connection = Connection(ours.detach())
        line = Line(connection, ToApp)
        with self._lock:
            self._process, self._line = process, line
            self._state = replace(self._state, pid=process.pid)
        if self._closed.is_set():
            self._kill()
        with contextlib.suppress(OSError):
            line.send(Configure(self._settings.model_dump(mode="json")))
        return connection

    def _hear(self, said: ToApp) -> str:
        """Pass its news on; why it has to be ended, "" where all is well."""
        match said:
            case Step(news):
                for grown in news:
                    self._tell(grown.id, grown)
            case Accepted(id) | TokensTold(id) | TextTold(id) | Refused(id):
                reply = self._replies.get(id)
                if reply is not None:
                    reply.put(BlueLMError.from_wire(said.error) if isinstance(said, Refused) else said)
            case Pulse(running, waiting, cache_used, gpu_used, gpu_total, step_s):
                self._set(
                    running=running, waiting=waiting, cache_used=cache_used, gpu_memory_used=gpu_used,
                    gpu_memory_total=gpu_total,
                )  # fmt: skip
                if step_s > self._settings.step_limit_s:
                    return f"one step took more than {self._settings.step_limit_s:g} seconds"
            case Loading(phase, progress):
                self._set(detail=phase, progress=progress)
            case Ready(model, cache_tokens):
                self._set(phase=Phase.READY, progress=1.0, detail="", model=model, cache_total=cache_tokens)
            case Fatal(error):
                self._set(phase=Phase.DOWN, detail=error["message"])
        return ""

    def _tell(self, id: str, news: object) -> None:
        with self._lock:
            generation = self._open.get(id)
            if generation is not None and not (isinstance(news, Grown) and news.finish is None):
                del self._open[id]
        if generation is None:
            return
        if isinstance(news, Grown):
            generation.push(Chunk(news.text, news.finish, news.usage, news.tokens))
        else:
            generation.fail(BlueLMError.from_wire(news.error))  # type: ignore[attr-defined]

    def _lose_all(self, error: BlueLMError) -> None:
        with self._lock:
            replies, self._replies = dict(self._replies), {}
            lost, self._open = dict(self._open), {}
            self._state = replace(self._state, running=0, waiting=0, cache_used=0)
        for reply in replies.values():
            reply.put(error)
        for generation in lost.values():
            generation.fail(error)


def _ending(code: int) -> str:
    if code == -signal.SIGKILL:
        return "ended by SIGKILL, as a system does that runs out of memory"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"ended by {signal.Signals(-code).name}"
    return f"ended with code {code}"
