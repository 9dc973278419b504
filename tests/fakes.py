"""The one fake: an Engine that writes letters instead of running a model, for tests of everything above it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import PurePath

from bluelm.engine import Generation
from bluelm.errors import BlueLMError, EngineDown, EngineRestarted, InvalidParameter, PromptTooLong, QueueFull
from bluelm.types import (
    NOBODY,
    Caller,
    Chunk,
    EngineState,
    FinishReason,
    ModelInfo,
    ModelKind,
    Phase,
    Prompt,
    SamplingParams,
    Token,
    TokenIds,
    Tokenized,
    TokenLogprob,
    Totals,
    Usage,
)

LETTERS = 0x110000
INFO = ModelInfo(id="fake", kind=ModelKind.CHAT, context=1000, parameters=7, dtype="float32", device="cpu")


def text_of(prompt: Prompt) -> str:
    """A letter is a token; messages stand one behind the other."""
    if isinstance(prompt, TokenIds):
        if any(id >= LETTERS for id in prompt.ids):
            raise InvalidParameter("prompt", max(prompt.ids), f"token ids from 0 to {LETTERS - 1}")
        return "".join(map(chr, prompt.ids))
    return prompt if isinstance(prompt, str) else "".join(message.content for message in prompt)


def echo(prompt: Prompt, params: SamplingParams) -> Iterable[str]:
    """Say the last message back, a word at a time."""
    last = prompt[-1].content if isinstance(prompt, tuple) else text_of(prompt)
    return [word + " " for word in last.split()]


def told(piece: str, params: SamplingParams) -> tuple[TokenLogprob, ...]:
    """A piece as a token with a chance of one half, beside ever less likely capitals."""
    if params.logprobs is None:
        return ()
    others = [Token(65 + i, chr(65 + i), bytes([65 + i])) for i in range(params.logprobs)]
    chosen = Token(ord(piece[0]) if piece else 0, piece, piece.encode())
    top = [TokenLogprob(token, -0.7 - i) for i, token in enumerate([chosen, *others][: params.logprobs])]
    return (TokenLogprob(chosen, -0.7, tuple(top)),)


class FakeEngine:
    """Counts a character as a token. `script(prompt, params)` gives the pieces; `pause` seconds lie between them.

    Set `now` to an EngineState that is not ready, or `refusal` to an error, to have submit raise; `fail_after` pieces
    make an answer fail with `failure`. `places` answers are made at a time; others wait.
    """

    def __init__(
        self, script: Callable[[Prompt, SamplingParams], Iterable[str]] = echo, *, pause: float = 0.0, slots: int = 32
    ) -> None:
        self.script, self.pause, self.slots = script, pause, slots
        self.now = EngineState(Phase.READY, 1.0, model=INFO, cache_total=10_000)
        self.refusal: BlueLMError | None = None
        self.failure: BlueLMError | None = None
        self.fail_after = 0
        self.load_s, self.places, self.made = 0.2, slots, 0
        self.answers: dict[str, Generation] = {}
        self.seen: list[tuple[Prompt, SamplingParams]] = []
        self.callers: list[Caller] = []
        self.running: dict[str, threading.Event] = {}
        self._ids = itertools.count(1)
        self._answered, self._first_s = 0, 0.0
        self._closed = False

    def submit(
        self, prompt: Prompt, params: SamplingParams, *, drop_oldest: bool = False, caller: Caller = NOBODY
    ) -> Generation:
        self._refuse()
        model = self.now.model or INFO
        context = model.context
        size = len(text_of(prompt))
        dropped = 0
        if isinstance(prompt, tuple):
            while drop_oldest and size + (params.max_length or 1) > context and len(prompt) > 1:
                size, prompt, dropped = size - len(prompt[0].content), prompt[1:], dropped + 1
        if size + (params.max_length or 1) > context:
            raise PromptTooLong(size, params.max_length or 1, context)
        self.seen.append((prompt, params))
        self.callers.append(caller)
        stop = threading.Event()
        seed = params.seed if params.seed is not None else 1
        generation = Generation(
            f"fake-{next(self._ids)}", model=model.id, prompt_tokens=size, window=context, seed=seed,
            dropped=dropped, on_cancel=stop.set, place=lambda: self._place(stop),
        )  # fmt: skip
        self.running[generation.id], self.answers[generation.id] = stop, generation
        threading.Thread(target=self._write, args=(generation, prompt, params, stop), daemon=True).start()
        return generation

    def tokenize(self, prompt: Prompt, *, bos: bool = True) -> Tokenized:
        self._refuse()
        text = text_of(prompt)
        letters = {ord(letter): Token(ord(letter), letter, letter.encode()) for letter in text}
        return Tokenized(text, tuple(map(ord, text)), letters)

    def detokenize(self, ids: Sequence[int]) -> str:
        self._refuse()
        for id in ids:
            if not 0 <= id < LETTERS:
                raise InvalidParameter("tokens", id, f"ids from 0 to {LETTERS - 1}")
        return "".join(map(chr, ids))

    @property
    def open(self) -> int:
        return len(self.running)

    def _refuse(self) -> None:
        from bluelm.errors import EngineLoading

        if self._closed:
            raise EngineDown("The engine is closed: start the app again.")
        if self.refusal is not None:
            raise self.refusal
        if self.now.phase is not Phase.READY:
            raise EngineLoading(self.now.detail or "loading", self.now.progress)
        if len(self.running) >= self.slots:
            raise QueueFull(len(self.running))

    def _place(self, stop: threading.Event) -> int:
        """`places` answers are made at a time; the others wait, in their order."""
        open_now = list(self.running.values())
        return max(0, open_now.index(stop) + 1 - self.places) if stop in open_now else 0

    def _write(self, generation: Generation, prompt: Prompt, params: SamplingParams, stop: threading.Event) -> None:
        begun, made, reason = time.monotonic(), 0, FinishReason.STOP
        while self._place(stop) and not stop.is_set():
            time.sleep(0.005)
        if params.prompt_logprobs:
            given = [told(letter, params)[0] for letter in text_of(prompt)]
            generation.push(Chunk(prompt=(replace(given[0], logprob=0.0), *given[1:])))
        for piece in self.script(prompt, params):
            if self.failure is not None and made >= self.fail_after:
                self._forget(generation)
                generation.fail(self.failure)
                return
            if stop.wait(self.pause) if self.pause else stop.is_set():
                reason = FinishReason.CANCELLED
                break
            if params.max_length is not None and made >= params.max_length:
                reason = FinishReason.LENGTH
                break
            if made == 0:
                self._first_s += time.monotonic() - begun
                self._answered += 1
            made, self.made = made + 1, self.made + 1
            generation.push(Chunk(piece, tokens=told(piece, params)))
        usage = Usage(
            prompt_tokens=generation.prompt_tokens, completion_tokens=made, ttft_s=0.01,
            total_s=time.monotonic() - begun + 0.02, seed=generation.seed,
        )  # fmt: skip
        self._forget(generation)
        closing = told("", params) if reason is FinishReason.STOP else ()
        generation.push(Chunk("", reason, usage, closing))

    def _forget(self, generation: Generation) -> None:
        self.running.pop(generation.id, None)
        self.answers.pop(generation.id, None)

    def state(self) -> EngineState:
        running = min(self.places, len(self.running))
        totals = Totals(time.monotonic(), self.made, answers=self._answered, first_token_s=self._first_s)
        return replace(
            self.now, running=running, waiting=self.now.waiting + len(self.running) - running, totals=totals,
            cache_used=self.now.cache_used + 500 * running,
        )  # fmt: skip

    def restart(self) -> None:
        self._load(self.now.checkpoint)

    def switch(self, model: str, *, may_go_back: bool = True) -> None:
        """Any name will do; it becomes the model's id."""
        self._load(model)

    def _load(self, model: str) -> None:
        """Lose open answers, and load for `load_s` seconds."""
        if self._closed:
            raise EngineDown("The engine is closed: start the app again.")
        for lost in list(self.answers.values()):
            lost.fail(EngineRestarted())
        for stop in list(self.running.values()):
            stop.set()
        self.now = replace(self.now, phase=Phase.LOADING, progress=0.5, detail="loading weights", checkpoint=model)
        threading.Timer(self.load_s, self._loaded, [model]).start()

    def _loaded(self, model: str) -> None:
        info = replace(self.now.model or INFO, id=PurePath(model).name or INFO.id)
        self.now = replace(self.now, phase=Phase.READY, progress=1.0, detail="", model=info)

    def close(self) -> None:
        self._closed = True
        for stop in list(self.running.values()):
            stop.set()
