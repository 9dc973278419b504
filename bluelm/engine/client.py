"""The app's side of the engine process: starts it, watches it, starts it anew, and hands its news to those who wait."""

from __future__ import annotations

import contextlib
import itertools
import logging
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
from bluelm.engine.choice import Choice
from bluelm.engine.desk import Desk, Reply
from bluelm.engine.generation import Generation
from bluelm.engine.wire import (
    Accepted,
    Cancel,
    Configure,
    Detokenize,
    Fatal,
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
from bluelm.errors import (
    BlueLMError,
    EngineDied,
    EngineDown,
    EngineLoading,
    EngineRestarted,
    EngineUnavailable,
    InvalidParameter,
)
from bluelm.types import (
    NOBODY,
    Caller,
    EngineState,
    ModelInfo,
    Phase,
    Prompt,
    SamplingParams,
    Tokenized,
    Totals,
)

ANSWER_S = 30.0  # for a yes or no to a request
LOOK_S = 0.5  # at a wish to restart, where the process says nothing
ASKED = "restarted on request"
LOAD_TRIES = 5  # deaths in a row before the model was ready; then it stays down
# Where cores are few, OpenMP threads that spin for their next task take the time of those who have one (measured:
# several times slower beside a busy browser). Matrices in huge pages are read faster (glibc from 2.35 on; elsewhere it
# changes nothing). The user's own settings win.
ENVIRONMENT = {"GOMP_SPINCOUNT": "20000", "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
log = logging.getLogger("bluelm.engine")


class EngineProcess:
    """An Engine in a process of its own. One thread here supervises it; `submit` and the rest are for any thread."""

    def __init__(self, settings: Settings, environment: Mapping[str, str] | None = None) -> None:
        """environment: variables for the process, beside those of this one."""
        self._choice = Choice(settings)
        self._environment = {**ENVIRONMENT, **os.environ, **(environment or {})}
        self._lock = threading.Lock()
        self._state = EngineState(Phase.LOADING, detail="starting", checkpoint=self._choice.checkpoint)
        self._line: Line | None = None
        self._was_ready = False  # whether the process that ended last had its model loaded
        self._fatal = ""  # why it could not load it, and will not the next time
        self._process: subprocess.Popen[bytes] | None = None
        self._desk = Desk()
        self._before = Totals()  # of the processes that have ended
        self._ids = itertools.count(1)
        self._closed = threading.Event()
        self._woken = threading.Event()  # by a wish to restart, or by the end
        self._supervisor = threading.Thread(target=self._supervise, name="engine-supervisor", daemon=True)
        self._supervisor.start()

    # --- Engine ---

    def state(self) -> EngineState:
        with self._lock:
            return replace(self._state, engines_ready=int(self._state.phase is Phase.READY))

    @property
    def open(self) -> int:
        """Answers that have not ended yet."""
        return self._desk.open

    def submit(
        self, prompt: Prompt, params: SamplingParams, *, drop_oldest: bool = False, caller: Caller = NOBODY
    ) -> Generation:
        id = self._new_id()
        with self._lock:
            self._refuse_unless_ready()
            model = self._state.model
        assert model is not None
        generation = Generation(
            id, model=model.id, prompt_tokens=0, window=model.context, seed=0, on_cancel=lambda: self._cancel(id),
            place=lambda: self._desk.place(id),
        )  # fmt: skip
        answer = self._ask(Submit(id, prompt, params, drop_oldest, caller), generation)
        assert isinstance(answer, Accepted)
        generation.prompt_tokens, generation.dropped = answer.prompt_tokens, answer.dropped
        generation.seed = answer.seed
        return generation

    def tokenize(self, prompt: Prompt, *, bos: bool = True) -> Tokenized:
        answer = self._ask(Tokenize(self._new_id(), prompt, bos))
        assert isinstance(answer, TokensTold)
        return answer.prompt

    def detokenize(self, ids: Sequence[int]) -> str:
        answer = self._ask(Detokenize(self._new_id(), tuple(ids)))
        assert isinstance(answer, TextTold)
        return answer.text

    def restart(self) -> None:
        self._wish(None)

    def switch(self, model: str, *, may_go_back: bool = True) -> None:
        """may_go_back: whether the former model is served again where this one cannot be loaded."""
        self._wish(self._choice.settings_for(model), may_go_back)

    def close(self) -> None:
        self._closed.set()
        self._woken.set()
        self._kill()
        if threading.current_thread() is not self._supervisor:
            self._supervisor.join(timeout=10)

    # --- inside ---

    def _new_id(self) -> str:
        return f"{os.getpid():x}-{time.time_ns():x}-{next(self._ids):x}"

    def _ask(self, said: Submit | Tokenize | Detokenize, opens: Generation | None = None) -> Reply:
        """What the engine answers. opens: the answer that begins with a yes. Raises the engine's no."""
        with self._lock:  # in one step: what is expected of a process that is gone would never come
            self._refuse_unless_ready()
            line = self._line
            assert line is not None
            reply = self._desk.expect(said.id, opens)
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
        self._desk.answered(said.id, no=isinstance(answer, BlueLMError))
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

    def _wish(self, settings: Settings | None, may_go_back: bool = True) -> None:
        """Nothing new begins from now on; the supervisor does the rest."""
        with self._lock:
            if self._closed.is_set():
                raise EngineDown("The engine was closed: start the app again.")
            self._choice.ask(settings, may_go_back=may_go_back)
            detail = "waiting for open answers" if self.open else "starting"
            self._state = replace(
                self._state, phase=Phase.LOADING, progress=0.0, detail=detail, failed="", trouble="",
                checkpoint=self._choice.checkpoint,
            )  # fmt: skip
        self._woken.set()

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
            self._lose_all(self._loss(why))
            if self._take_wish() or self._go_back(why):
                failures = 0
                continue
            failures = 0 if self._was_ready and time.monotonic() - begun > 60 else failures + 1
            if self._fatal:
                self._set(phase=Phase.DOWN, detail=self._fatal)
            elif not self._was_ready and failures >= LOAD_TRIES:
                self._set(phase=Phase.DOWN, detail=f"it died {failures} times while loading ({why}); see its log above")
            if self.state().phase is Phase.DOWN:
                self._woken.wait()
            elif not self._closed.is_set():
                log.error("the engine process ended (%s); starting it again", why)
                restarts = self.state().restarts + 1
                self._set(phase=Phase.RESTARTING, progress=0.0, detail="restarting", restarts=restarts, pid=None)
                self._woken.wait(0 if failures <= 1 else min(2.0 ** (failures - 2), 30.0))
            if self._take_wish():
                failures = 0
        self._set(phase=Phase.DOWN, pid=None, running=0, waiting=0)

    def _loss(self, why: str) -> BlueLMError:
        if self._closed.is_set():
            return EngineDown("The engine was closed.")
        return EngineRestarted() if why == ASKED else EngineDied(why)

    def _take_wish(self) -> bool:
        """Whether something was asked for; the next process is started with it."""
        self._woken.clear()
        if self._closed.is_set():
            self._woken.set()
            return False
        with self._lock:
            taken = self._choice.take_wish()
            if taken:
                self._state = replace(self._state, phase=Phase.LOADING, progress=0.0, detail="starting", pid=None)
        return taken

    def _go_back(self, why: str) -> bool:
        """Whether a model that could not be loaded took the place of one that could, which is served again."""
        with self._lock:
            if self._was_ready or self._closed.is_set() or not self._choice.go_back():
                return False
            trouble = self._fatal or why
            log.error("%s could not be loaded (%s); going back", self._state.checkpoint, trouble)
            self._state = replace(
                self._state, phase=Phase.LOADING, progress=0.0, detail="starting", pid=None, trouble=trouble,
                failed=self._state.checkpoint, checkpoint=self._choice.checkpoint,
            )  # fmt: skip
        return True

    def _run_once(self) -> str:
        """Start the process and read its line until it is cut, or is to be; why it was."""
        connection = self._start()
        assert self._line is not None and self._process is not None
        why, silent, self._fatal = "", 0.0, ""
        silence_s = self._choice.now.silence_s
        # Looks are counted: time in which this very process was stopped is not silence.
        look = min(LOOK_S, silence_s / 4)
        try:
            while not why:
                if self._choice.is_due(self.open):
                    why = ASKED
                elif wait([connection], timeout=look):
                    why, silent = self._hear(self._line.receive()), 0.0
                elif (silent := silent + look) >= silence_s:
                    why = f"no sign of life for {silence_s:g} seconds"
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
            line.send(Configure(self._choice.now.model_dump(mode="json")))
        return connection

    def _hear(self, said: ToApp) -> str:
        """Pass its news on; why it has to be ended, "" where all is well."""
        match said:
            case Step():
                self._desk.tell(said)
            case Refused(id, error):
                self._desk.reply(id, BlueLMError.from_wire(error))
            case Accepted(id) | TokensTold(id) | TextTold(id):
                self._desk.reply(id, said)
            case Pulse(running, waiting, cache_used, gpu_used, gpu_total, totals, step_s):
                self._set(
                    running=running, waiting=waiting, cache_used=cache_used, gpu_memory_used=gpu_used,
                    gpu_memory_total=gpu_total, totals=self._before + totals,
                )  # fmt: skip
                if step_s > self._choice.now.step_limit_s:
                    return f"one step took more than {self._choice.now.step_limit_s:g} seconds"
            case Loading(phase, progress):
                self._set(detail=phase, progress=progress)
            case Ready(model, cache_tokens):
                self._is_ready(model, cache_tokens)
            case Fatal(error):
                self._fatal = error["message"]
        return ""

    def _is_ready(self, model: ModelInfo, cache_tokens: int) -> None:
        with self._lock:
            self._choice.loaded()
            self._state = replace(self._state, model=model, cache_total=cache_tokens)
            if self._choice.wish is None:  # else it is about to end
                self._state = replace(self._state, phase=Phase.READY, progress=1.0, detail="")

    def _lose_all(self, error: BlueLMError) -> None:
        with self._lock:
            self._before = self._state.totals
            self._state = replace(self._state, running=0, waiting=0, cache_used=0)
        self._desk.lose(error)


def _ending(code: int) -> str:
    if code == -signal.SIGKILL:
        return "ended by SIGKILL, as a system does that runs out of memory"
    if code < 0:
        with contextlib.suppress(ValueError):
            return f"ended by {signal.Signals(-code).name}"
    return f"ended with code {code}"
