"""What the page costs while an answer streams: bytes to the browser and CPU of the web process, in real Chromium.

    .venv/bin/python -m bench.page [--sessions 1 4] [--tokens 512] [--rate 40] [--out bench/results/page.json]

The engine is the fake of the tests, which gives words at a fixed rate, so that only the page is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser_kit import ARGS, say
from tests.servers import Server, serve

CHROMIUM = "/usr/bin/chromium"


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def words(tokens: int) -> list[str]:
    """Paragraphs of 60 words."""
    return [f"word{i} " if i % 60 else f"\n\nword{i} " for i in range(1, tokens + 1)]


def open_page(browser: Browser, url: str) -> tuple[Page, list[int]]:
    page, received = browser.new_page(locale="en-US"), [0]

    def count(frame: str | bytes) -> None:
        received[0] += len(frame)

    page.on("websocket", lambda socket: socket.on("framereceived", count))
    page.goto(url)
    page.get_by_text("What can I do for you?").wait_for()
    return page, received


def measure(browser: Browser, server: Server, sessions: int, tokens: int) -> dict[str, Any]:
    pages = [open_page(browser, server.url) for _ in range(sessions)]
    time.sleep(2)
    sent, cpu, begun = [received[0] for _, received in pages], cpu_seconds(server.pid), time.monotonic()
    for page, _ in pages:
        say(page, "go")
    for page, _ in pages:
        page.get_by_text("tokens · first token").wait_for(timeout=300_000)
    seconds = time.monotonic() - begun
    share = (cpu_seconds(server.pid) - cpu) / seconds / sessions
    figures = [received[0] - before for (_, received), before in zip(pages, sent, strict=True)]
    for page, _ in pages:
        page.close()
    return {
        "sessions": sessions,
        "tokens": tokens,
        "seconds": round(seconds, 1),
        "kilobytes_per_answer": round(sum(figures) / sessions / 1000, 1),
        "web_process_cpu_percent_per_session": round(100 * share, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--tokens", type=int, default=512, help="512 at most, the page's own max_length")
    parser.add_argument("--rate", type=float, default=40.0, help="tokens per second of each answer")
    parser.add_argument("--out", type=Path, default=Path("bench/results/page.json"))
    args = parser.parse_args()
    rows = []
    with sync_playwright() as playwright, serve(answer=words(args.tokens), pause=1 / args.rate) as server:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGS.split())
        for sessions in args.sessions:
            rows.append(measure(browser, server, sessions, args.tokens))
            print(json.dumps(rows[-1]), flush=True)
        browser.close()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
