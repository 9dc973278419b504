"""What the page costs while answers stream, in real Chromium: bytes, main thread, updates a second.

    .venv/bin/python -m bench.page [--kinds mixed prose code list table] [--sessions 1] [--rate 60]
        [--tokens 4000] [--engine fake] [--out bench/results/page.json]

One row for each kind of text and number of readers, who all ask at once; each has a Chromium tab of their own, and all
tabs share this machine with the server, which readers' own machines would not. The fake engine of the tests gives
`tokens` pieces at a fixed rate, so that the page alone is measured; `--engine real` asks the model that the app would
serve instead. Figures are of the first reader:

wire_kb, payload_kb  what came over the websocket from the question to the end, compressed as it is, and unpacked
main_thread_percent  CPU time of the tab's main thread, of the time that the answer took
updates_per_s        frames in which the page changed; gap_p95_ms: between two of them
made                 tokens of the answer
server_percent       CPU of the web process for each reader
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, CDPSession, Page, sync_playwright

from bench.page_texts import KINDS, pieces
from tests.browser_kit import ARGS, Line, say
from tests.servers import Server, serve

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
REAL_QUESTION = "Explain in great detail, with many examples, how a computer works."
WATCH = """() => {
  window.updates = [];
  let noted = false;
  const note = () => { noted = false; window.updates.push(performance.now()); };
  new MutationObserver(() => { if (!noted) { noted = true; requestAnimationFrame(note); } })
    .observe(document.body, {subtree: true, childList: true, characterData: true});
}"""


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Reader:
    """A tab whose connection and main thread are measured."""

    page: Page
    line: Line
    cdp: CDPSession
    payload: int = 0
    fetched: float = 0.0  # bytes that came over HTTP, not over the websocket
    begun: dict[str, float] = field(default_factory=dict)

    @property
    def wire(self) -> float:
        return self.line.received - self.fetched

    def main_thread_s(self) -> float:
        metrics = self.cdp.send("Performance.getMetrics")["metrics"]
        return float(next(m["value"] for m in metrics if m["name"] == "TaskDuration"))

    def begin(self) -> None:
        self.page.evaluate(WATCH)
        self.begun = {"wire": self.wire, "payload": self.payload, "cpu": self.main_thread_s()}

    def figures(self, seconds: float) -> dict[str, float]:
        cpu = self.main_thread_s() - self.begun["cpu"]
        updates: list[float] = self.page.evaluate("window.updates")
        gaps = sorted(b - a for a, b in itertools.pairwise(updates))
        return {
            "wire_kb": round((self.wire - self.begun["wire"]) / 1000, 1),
            "payload_kb": round((self.payload - self.begun["payload"]) / 1000, 1),
            "main_thread_percent": round(100 * cpu / seconds, 1),
            "updates_per_s": round(len(updates) / seconds, 1),
            "gap_p95_ms": round(gaps[int(0.95 * len(gaps))]),
            "made": int(re.findall(r"([\d,]+) tokens? · first", self.page.inner_text("body"))[-1].replace(",", "")),
        }


def open_reader(browser: Browser, server: Server, tokens: int, stack: ExitStack) -> Reader:
    line = Line(server.url)
    stack.callback(line.close)
    context = browser.new_context(locale="en-US", viewport={"width": 1200, "height": 800})
    stack.callback(context.close)
    page = context.new_page()
    cdp = context.new_cdp_session(page)
    reader = Reader(page, line, cdp)

    def count(frame: str | bytes) -> None:
        reader.payload += len(frame)

    def count_fetched(event: dict[str, Any]) -> None:
        reader.fetched += event["encodedDataLength"]

    cdp.on("Network.loadingFinished", count_fetched)
    cdp.send("Network.enable")
    page.on("websocket", lambda socket: socket.on("framereceived", count))
    cdp.send("Performance.enable", {"timeDomain": "threadTicks"})
    page.goto(line.url)
    page.get_by_role("tab", name="Settings").click()
    page.locator(".st-key-max_length input").fill(str(tokens))
    page.locator(".st-key-max_length input").press("Enter")
    page.get_by_role("tab", name="Chats").click()
    say(page, "warm up")
    page.get_by_text("first token").wait_for()
    page.get_by_role("button", name="New chat").click()
    page.get_by_text("What can I do for you?").wait_for()
    return reader


def measure(browser: Browser, server: Server, sessions: int, tokens: int, fake: dict[str, Any]) -> dict[str, Any]:
    """One answer for each of so many readers at once; figures of the first. fake: what a fake engine does, or {}."""
    with ExitStack() as stack:
        if fake:
            server.fake(answer=pieces("mixed", 500), pause=0.002)  # the browser fetches what draws code and formulas
        readers = [open_reader(browser, server, tokens, stack) for _ in range(sessions)]
        if fake:
            server.fake(**fake)
        time.sleep(2)
        server_cpu, begun = cpu_seconds(server.pid), time.monotonic()
        for reader in readers:
            reader.begin()
            say(reader.page, REAL_QUESTION)
        readers[0].page.get_by_text("first token").wait_for(timeout=1_000_000)
        seconds = time.monotonic() - begun
        share = (cpu_seconds(server.pid) - server_cpu) / seconds / sessions
        figures = readers[0].figures(seconds)
        for reader in readers[1:]:
            reader.page.get_by_text("first token").wait_for(timeout=1_000_000)
    return {"seconds": round(seconds, 1), **figures, "server_percent": round(100 * share, 1)}


def options(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=sorted(KINDS), default=["mixed"])
    parser.add_argument("--sessions", type=int, nargs="+", default=[1])
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--rate", type=float, default=60.0, help="tokens per second of each answer")
    parser.add_argument("--engine", choices=("fake", "real"), default="fake")
    parser.add_argument("--out", type=Path)
    return parser.parse_args(argv)


def main() -> None:
    args = options()
    fakes = args.engine == "fake"
    controls: dict[str, Any] = {"model": {"context": 100_000}} if fakes else {}
    rows = []
    with (
        sync_playwright() as playwright,
        serve(args.engine, **controls) as server,
    ):
        server.wait_ready()
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS.split())
        for kind in args.kinds if fakes else [""]:
            fake = {"answer": pieces(kind, args.tokens), "pause": 1 / args.rate} if fakes else {}
            about = {"kind": kind, "rate": args.rate} if fakes else {}
            for sessions in args.sessions:
                row = {"engine": args.engine, **about, "sessions": sessions, "tokens": args.tokens}
                rows.append(row | measure(browser, server, sessions, args.tokens, fake))
                print(json.dumps(rows[-1]), flush=True)
        browser.close()
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
