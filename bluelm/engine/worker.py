"""The engine process: `python -m bluelm.engine.worker FD`, FD being its end of the socket pair to the app.

Four threads: the main one loads the model and computes step after step; one takes what the app says (and tokenizes,
so that a refusal comes at once); one does what may take long, JSON schemas and long texts; one sends a
pulse. The process ends with
the app: a cut line is its end.
"""

from __future__ import annotations

import gc
import logging
import os
import queue
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection

from bluelm import logs
from bluelm.config import Settings
from bluelm.engine.core import Request
from bluelm.engine.guide import Guide, Guides
from bluelm.engine.intake import Admitted, admit, detokenize, tokenize
from bluelm.engine.loader import Loaded, load
from bluelm.engine.memory import card_memory
from bluelm.engine.wire import (
    Accepted,
    Cancel,
    Configure,
    Detokenize,
    Failed,
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
    ToEngine,
    Tokenize,
    TokensTold,
)
from bluelm.errors import BlueLMError, GenerationFailed, OutOfMemory, QueueFull
from bluelm.types import Prompt, Totals

PULSE_S = 0.5
QUEUE_S = 0.2
LONG = 65_536  # characters: what has more is not tokenized by the intake itself
IDLE_S = 1.0  # without requests, after which what a first schema needs is made
KEPT_SHARE = 8  # of the queue: one part in so many more is for clients that have nothing open
SWITCH_S = 0.0005  # the step's thread waits for a busy other one so long at most, not Python's 5 ms
log = logging.getLogger("bluelm.engine")


class Worker:
    """A loaded model on the line."""

    def __init__(self, line: Line, loaded: Loaded, settings: Settings) -> None:
        self.line = line
        self.core = loaded.core
        self.tokenizer = loaded.tokenizer
        self.guides = Guides(loaded.tokenizer)
        self.window = loaded.info.context
        self.most = loaded.max_running + settings.max_waiting
        self._on_card = loaded.info.device == "cuda"
        self._step_began: float | None = None
        self._coming: dict[str, str] = {}  # ids in the inbox, and their shares
        self._queue: tuple[str, ...] = ()  # as the app knows it
        self._queue_at = 0.0
        self._prepare = loaded.prepare
        self._inbox: queue.SimpleQueue[Request | Cancel] = queue.SimpleQueue()
        self._aside: queue.SimpleQueue[Submit | Tokenize | Cancel] = queue.SimpleQueue()  # what may take long
        self._held: set[str] = set()  # ids of requests that are there

    def run(self) -> None:
        """Compute until the process ends."""
        for work, name in ((self._listen, "intake"), (self._work_aside, "aside")):
            threading.Thread(target=work, name=name, daemon=True).start()
        while True:
            news = self._take_in()
            if not self.core.idle:
                self._step_began = time.monotonic()
                news += self.core.step()
                self._step_began = None
            queue = self._new_queue()
            if news or queue is not None:
                self.line.send(Step(tuple(news), queue))

    def _new_queue(self) -> tuple[str, ...] | None:
        """Those that have not been begun, next first, if that has changed; looked at some times a second."""
        scheduler = self.core.scheduler
        if not (scheduler.waiting or self._queue) or time.monotonic() < self._queue_at + QUEUE_S:
            return None
        before, self._queue_at = self._queue, time.monotonic()
        self._queue = tuple(row.id for row in scheduler.waiting.in_turn(scheduler.running) if not row.started)
        return None if self._queue == before else self._queue

    def pulse(self) -> Pulse:
        scheduler = self.core.scheduler
        free, total = card_memory() if self._on_card else (0, 0)
        waiting = len(scheduler.waiting) + len(self._coming)
        used = scheduler.used_tokens
        began = self._step_began
        step_s = 0.0 if began is None else time.monotonic() - began
        return Pulse(len(scheduler.running), waiting, used, total - free, total, self.core.totals, step_s)

    def _take_in(self) -> list[Grown | Failed]:
        news: list[Grown | Failed] = []
        while self.core.idle or not self._inbox.empty():
            while self._inbox.empty() and self._prepare():
                pass
            said = self._inbox.get()
            if isinstance(said, Cancel):
                news += self.core.cancel(said.id)
            else:
                self.core.add(said)
                del self._coming[said.id]
            if news:
                break
        return news

    def _listen(self) -> None:
        while True:
            self.hear(receive_or_end(self.line))

    def hear(self, said: ToEngine) -> None:
        """Take in what the app says; yes or no comes at once, but for what may take long."""
        if isinstance(said, Cancel):
            (self._aside if said.id in self._held else self._inbox).put(said)  # never before its request
        elif isinstance(said, Submit):
            self._submit(said)
        elif isinstance(said, Tokenize) and _is_long(said.prompt):
            self._aside.put(said)
        elif isinstance(said, Tokenize | Detokenize):
            self._tell(said)

    def _submit(self, asked: Submit) -> None:
        try:
            self._refuse_if_full(asked.caller.share)
        except QueueFull as error:
            self._refuse(asked, error)
            return
        self._coming[asked.id] = asked.caller.share
        if asked.params.json_schema or _is_long(asked.prompt):
            self._held.add(asked.id)
            self._aside.put(asked)
        else:
            self._admit(asked)

    def _work_aside(self) -> None:
        while True:
            try:
                said = self._aside.get(timeout=None if self.guides.ready else IDLE_S)
            except queue.Empty:
                if self.core.idle:
                    self.guides.prepare()
                continue
            if isinstance(said, Cancel):
                self._inbox.put(said)
            elif isinstance(said, Tokenize):
                self._tell(said)
            else:
                self._admit(said)
                self._held.discard(said.id)

    def _admit(self, asked: Submit) -> None:
        """Accept or refuse a request that is among those that come."""
        try:
            ok = admit(self.tokenizer, self.window, asked.prompt, asked.params, drop_oldest=asked.drop_oldest)
            guide = self.guides.start(asked.params.json_schema) if asked.params.json_schema else None
        except Exception as error:  # a fault of one request is not to end the intake
            del self._coming[asked.id]
            self._refuse(asked, error)
            return
        self._accept(asked, ok, guide)

    def _refuse(self, asked: Submit, error: Exception) -> None:
        refusal = told(error)
        logs.event(log, "refused", request=asked.caller.request, answer=asked.id, code=refusal.code)
        self.line.send(Refused(asked.id, refusal.to_wire()))

    def _accept(self, asked: Submit, ok: Admitted, guide: Guide | None) -> None:
        logs.event(
            log, "accepted", request=asked.caller.request, answer=asked.id, prompt_tokens=len(ok.tokens),
            dropped=ok.dropped or None, open=self.core.open + len(self._coming) - 1,
        )  # fmt: skip
        self.line.send(Accepted(asked.id, len(ok.tokens), ok.dropped, ok.seed))
        share = asked.caller.share
        self._inbox.put(Request(asked.id, ok.tokens, asked.params, ok.seed, ok.max_new, time.monotonic(), share, guide))

    def _refuse_if_full(self, share: str) -> None:
        """What is kept free of a full queue is for those who have nothing open: nobody shuts others out."""
        there = self.core.open + len(self._coming)
        known = share in list(self._coming.values()) or self.core.has(share)
        if there >= self.most + (0 if known else self.most // KEPT_SHARE):
            raise QueueFull(there)

    def _tell(self, asked: Tokenize | Detokenize) -> None:
        try:
            if isinstance(asked, Detokenize):
                self.line.send(TextTold(asked.id, detokenize(self.tokenizer, asked.ids)))
                return
            self.line.send(TokensTold(asked.id, tokenize(self.tokenizer, asked.prompt, bos=asked.bos)))
        except Exception as error:
            self.line.send(Refused(asked.id, told(error).to_wire()))


def _is_long(prompt: Prompt) -> bool:
    if isinstance(prompt, tuple):
        return sum(len(message.content) for message in prompt) > LONG
    return isinstance(prompt, str) and len(prompt) > LONG


def told(error: Exception) -> BlueLMError:
    """What is told of an error: of one that nobody foresaw no details, which the log has."""
    if isinstance(error, BlueLMError):
        return error
    log.error("a request failed before it began", exc_info=error)
    if isinstance(error, MemoryError):
        return OutOfMemory("There is no memory left for this request: try again when fewer answers are being made.")
    return GenerationFailed("The engine failed at this request: its log says why.")


def end_with_any_thread(args: threading.ExceptHookArgs) -> None:
    """A process that lost a thread can do half of its work for ever: better it ends, and is started again."""
    log.critical("the thread %s failed", args.thread and args.thread.name, exc_info=args.exc_value)
    os._exit(1)


def receive_or_end(line: Line) -> ToEngine:
    """The next message; the process ends where the app is gone."""
    try:
        return line.receive()
    except (EOFError, OSError):
        os._exit(0)


def main(fd: int) -> None:
    threading.excepthook = end_with_any_thread
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is for the app, which ends this process
    line = Line(Connection(fd), ToEngine)
    first = receive_or_end(line)
    assert isinstance(first, Configure)
    worker: Worker | None = None

    def beat() -> None:
        while True:
            try:
                line.send(worker.pulse() if worker else Pulse(0, 0, 0, 0, 0, Totals()))
            except OSError:
                os._exit(0)
            time.sleep(PULSE_S)

    threading.Thread(target=beat, name="pulse", daemon=True).start()
    settings = Settings(**first.settings)
    logs.set_up(settings)
    sys.setswitchinterval(SWITCH_S)
    gc.disable()  # until all is loaded: a tokenizer's 100,000 pieces take three times as long with it
    try:
        loaded = load(settings, lambda phase, progress: line.send(Loading(phase, progress)))
    except BlueLMError as error:
        line.send(Fatal(error.to_wire()))
        os._exit(0)  # threads may still be sending weights to the card: no orderly end
    worker = Worker(line, loaded, settings)
    gc.enable()
    gc.collect()
    gc.freeze()  # PyTorch's own objects, which would take 50 ms each time they were looked through
    log.info(
        "ready: %s in %s on %s, a cache of %d tokens, up to %d answers at a time",
        loaded.info.id, loaded.info.dtype, loaded.info.device, loaded.cache_tokens, loaded.max_running,
    )  # fmt: skip
    line.send(worker.pulse())  # so that its figures are there from the start
    line.send(Ready(loaded.info, loaded.cache_tokens))
    worker.run()


if __name__ == "__main__":
    main(int(sys.argv[1]))
