"""The real app as a process of its own on a free loopback port, over the FakeEngine or the real engine.

    with serve(pause=0.05) as server:                 # the fake: says the last message back, a word at a time
        requests.get(server.url + "/health")
        server.fake(answer=["你", "好"], pause=0.2)    # from the next answer on; see FakeControls

    with serve(engine="real", env={"BLUELM_THREADS": "1"}) as server:
        server.wait_ready()

It runs what `streamlit run app.py` runs, in this repository's root.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).absolute().parent.parent
START_S = 60.0
STOP_S = 15.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Server:
    """A running app. `url` has no slash at the end; `log()` is all that it has printed."""

    url: str
    process: subprocess.Popen[str]
    log_file: Path
    headers: dict[str, str] = field(default_factory=dict)  # with which it is asked how it is

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def health(self) -> dict[str, Any]:
        """What /health says, whatever its status."""
        try:
            asked = urllib.request.Request(self.url + "/health", headers=self.headers)
            with urllib.request.urlopen(asked, timeout=5) as answer:
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            return dict(json.load(error))

    def wait_ready(self, seconds: float = 120.0) -> None:
        """Return once the engine can answer; fails with the log where that takes longer."""
        self._until(lambda: self.health()["status"] == "ok", seconds, "the engine is not ready")

    def wait_idle(self, seconds: float = 5.0) -> None:
        """Return once no answer is being made any more."""
        self._until(lambda: self.health()["running"] == 0, seconds, "answers are still being made")

    def fake(self, **controls: Any) -> None:
        """Change the FakeEngine; returns once it is done. The names are those of FakeControls.apply."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(controls) + "\n")
        self.process.stdin.flush()
        told = self.process.stdout.readline().strip()
        assert told == "done", told or self.log()

    def stop(self) -> int:
        """End it as a service manager does (SIGTERM), by force if need be; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
        return self.process.wait(STOP_S)

    def _until(self, reached: Any, seconds: float, otherwise: str) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, f"the app ended:\n{self.log()}"
            with contextlib.suppress(OSError, json.JSONDecodeError):
                if reached():
                    return
            time.sleep(0.02)
        raise AssertionError(f"after {seconds:g} s {otherwise}:\n{self.log()}")


@contextlib.contextmanager
def serve(engine: str = "fake", *, env: dict[str, str] | None = None, **controls: Any) -> Iterator[Server]:
    """The app from its start to its end. engine: "fake" or "real"; `controls` are for the fake (see FakeControls)."""
    port = free_port()
    command = [sys.executable, "-m", "tests.servers", "--port", str(port), "--engine", engine]
    with tempfile.TemporaryDirectory(prefix="bluelm-server-") as folder, (Path(folder) / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--controls", json.dumps(controls)],
            cwd=ROOT, text=True,
            env={**os.environ, "BLUELM_DATA": f"{folder}/data", "BLUELM_DRAIN_S": "0", **(env or {})},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
        passcode = (env or {}).get("BLUELM_PASSCODE")
        headers = {"Authorization": f"Bearer {passcode}"} if passcode else {}
        server = Server(f"http://127.0.0.1:{port}", process, Path(folder) / "log", headers)
        try:
            server._until(lambda: server.health() is not None, START_S, "the app does not answer")
            yield server
        finally:
            server.stop()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


class FakeControls:
    """In the app's process: turns the test's words into changes of its FakeEngine."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine

    def apply(
        self,
        *,
        answer: list[str] | None = None,
        endless: str | None = None,
        pause: float | None = None,
        slots: int | None = None,
        places: int | None = None,
        load_s: float | None = None,
        failed: str = "",
        trouble: str = "",
        phase: str | None = None,
        progress: float = 0.0,
        detail: str = "",
        model: dict[str, Any] | None = None,
        fail_after: int | None = None,
        waits: float | None = None,
        send_s: float | None = None,
    ) -> None:
        """answer: pieces of every answer from now on ([] for saying the prompt back); endless: or this piece
        for ever. pause: seconds between pieces. slots: answers at a time, others are refused; places: the same, but
        others wait. load_s: what a restart takes. failed, trouble: of EngineState.
        phase, progress, detail: of EngineState. model: fields of ModelInfo to change.
        fail_after: answers die after so many pieces (-1: no more). waits: seconds that submit takes.
        send_s: after which a client that reads nothing is taken for gone.
        """
        from bluelm.errors import EngineDied
        from bluelm.types import ModelInfo, Phase, SamplingParams
        from tests import fakes

        fake = self.engine
        if answer is not None:
            fake.script = (lambda prompt, params: answer) if answer else fakes.echo
        if endless is not None:
            fake.script = lambda prompt, params: itertools.repeat(endless)
        if pause is not None:
            fake.pause = pause
        if slots is not None:
            fake.slots = slots
        if places is not None:
            fake.places = places
        if failed:
            fake.now = replace(fake.now, failed=failed, trouble=trouble)
        if load_s is not None:
            fake.load_s = load_s
        if model is not None:
            if "defaults" in model:
                model = {**model, "defaults": SamplingParams(**model["defaults"])}
            fake.now = replace(fake.now, model=replace(fake.now.model or fakes.INFO, **model))
        if phase is not None:
            known: ModelInfo | None = fake.now.model or fakes.INFO
            known = None if phase == Phase.LOADING else known
            fake.now = replace(fake.now, phase=Phase(phase), progress=progress, detail=detail, model=known)
        if fail_after is not None:
            fake.fail_after, fake.failure = fail_after, None if fail_after < 0 else EngineDied("killed by a test")
        if waits is not None:
            self._wait_before_submit(waits)
        if send_s is not None:
            self._cut_off_after(send_s)

    def _cut_off_after(self, seconds: float) -> None:
        from bluelm import sockets
        from bluelm.api import serving

        serving.SEND_S = seconds
        sockets.cut_off_after(seconds)

    def _wait_before_submit(self, seconds: float) -> None:
        plain = type(self.engine).submit

        def slow(*given: Any, **named: Any) -> Any:
            time.sleep(seconds)
            return plain(self.engine, *given, **named)

        self.engine.submit = slow

    def listen(self, lines: IO[str], answers: IO[str]) -> None:
        for line in lines:
            try:
                self.apply(**json.loads(line))
                told = "done"
            except Exception as error:
                told = repr(error)
            print(told, file=answers, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", required=True)
    parser.add_argument("--engine", choices=("fake", "real"), required=True)
    parser.add_argument("--controls", type=json.loads, default={})
    given = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")  # what the app prints goes to its log; stdout is for the controls
    os.dup2(2, 1)
    if given.engine == "fake":
        from bluelm import service
        from tests.fakes import FakeEngine

        controls = FakeControls(FakeEngine())
        controls.apply(**given.controls)
        service.use(controls.engine)
        threading.Thread(target=controls.listen, args=(sys.stdin, answers), daemon=True).start()

    from streamlit.web import cli

    cli.main(["run", "app.py", "--server.port", given.port], prog_name="streamlit")


if __name__ == "__main__":
    main()
