"""Many at once, and for long: whether answers stay whole and their own's, memory flat, and nothing is left behind.

    .venv/bin/python -m bench.soak load [--streams 200] [--pages 50]
    .venv/bin/python -m bench.soak soak [--minutes 30] [--programs 12] [--readers 6]

Both start the app with the embedded model on a free port of this machine, and put their figures into
bench/results/soak.json (--out). `load` asks everything at once and compares each greedy text with the same request
served alone; `soak` has restless clients hang up, reload and leave at random, then looks for what is left.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx

from bench.soak_clients import Page, Told, restless_program, restless_reader, stream
from tests.servers import Server, serve

TOKENS = 24
SESSION_S = 125.0  # Streamlit keeps a session for two minutes, for its page to come back
MEMORY = ("web_mb", "engine_mb")
TOPICS = [f"Tell me about {what}." for what in (
    "the sea", "rice", "trains", "the moon", "gold", "horses", "paper", "tea", "bridges", "snow",
    "music", "glass", "bees", "maps", "clocks", "rain", "salt", "ships", "silk", "stars",
)]  # fmt: skip


def usage(server: Server) -> dict[str, float]:
    """Of the app (web) and the engine: memory in MB, threads, file handles."""
    told: dict[str, float] = {}
    for name, pid in (("web", server.pid), ("engine", engine_pid(server))):
        status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        told[f"{name}_mb"] = int(status["VmRSS"].split()[0]) / 1024
        told[f"{name}_threads"] = int(status["Threads"])
        told[f"{name}_handles"] = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return told


def engine_pid(server: Server) -> int:
    children = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    for thread in Path(f"/proc/{server.pid}/task").iterdir():
        children += (thread / "children").read_text().split()
    return next(int(pid) for pid in children if "bluelm.engine.worker" in Path(f"/proc/{pid}/cmdline").read_text())


async def watch(server: Server, every_s: float, samples: list[dict[str, float]]) -> None:
    while True:
        samples.append(usage(server))
        await asyncio.sleep(every_s)


OPENING = """
import sys, time
from playwright.sync_api import sync_playwright
from tests.browser_kit import ARGS
with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=ARGS.split())
    for _ in range(int(sys.argv[2])):
        page, begun = browser.new_page(locale="en-US"), time.monotonic()
        page.goto(sys.argv[1])
        page.get_by_text("What can I do for you?").wait_for(timeout=60_000)
        print(time.monotonic() - begun, flush=True)
        page.close()
"""


async def opening(url: str, times: int) -> list[float]:
    """Seconds until a real browser shows the page, one after the other."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OPENING, url, str(times), stdout=subprocess.PIPE
    )
    out, _ = await process.communicate()
    return [float(line) for line in out.split()]


# --- load ---


async def load(server: Server, streams: int, pages: int) -> dict[str, Any]:
    """Everything at once, then beyond the queue's limit, then one against a hundred."""
    limits = httpx.Limits(max_connections=2000)
    async with httpx.AsyncClient(base_url=server.url, limits=limits) as client:
        alone = {topic: (await stream(client, topic, TOKENS)).text for topic in TOPICS}
        everybody = await at_once(server, client, alone, streams, pages)
        return {
            **everybody,
            "beyond_the_limit": await beyond(client),
            "one_against_100": await one_against(client, server),
        }


async def at_once(
    server: Server, client: httpx.AsyncClient, alone: dict[str, str], streams: int, pages: int
) -> dict[str, Any]:
    readers = [Page(server.url) for _ in range(pages)]
    for reader in readers:
        await reader.open()
    samples: list[dict[str, float]] = []
    watching = asyncio.create_task(watch(server, 0.5, samples))
    begun = time.monotonic()
    for number, reader in enumerate(readers):
        await reader.ask(f"mark{number:03} Hello, who are you?")
    asked = [TOPICS[i % len(TOPICS)] for i in range(streams)]
    programs = asyncio.gather(*(stream(client, topic, TOKENS) for topic in asked))
    drawn = asyncio.gather(*(reader.answered() for reader in readers))
    opened = asyncio.create_task(opening(server.url, 3))
    told: list[Told] = await programs
    texts = await drawn
    seconds = time.monotonic() - begun
    open_s = await opened
    watching.cancel()
    for reader in readers:
        await reader.leave()
    marks = [[f"mark{i:03}" for i in range(pages) if f"mark{i:03}" in text] for text in texts]
    different = [(topic, one.text) for topic, one in zip(asked, told, strict=True) if one.text != alone[topic]]
    return {
        "streams": streams, "pages": pages, "seconds": round(seconds, 1),
        "whole": sum(one.whole for one in told), "statuses": dict(Counter(one.status for one in told)),
        "greedy_as_alone": streams - len(different),
        "distinct_other_texts": len(set(different)),
        "mixed_up": sum(text in alone.values() and text != alone[topic] for topic, text in different),
        "pages_with_their_own_answer": sum(seen == [f"mark{i:03}"] for i, seen in enumerate(marks)),
        "first_token_s": spread([one.first_s for one in told]), "page_opens_s": spread(open_s),
        "memory_mb_first_and_most": {
            name: [round(samples[0][name]), round(max(s[name] for s in samples))] for name in MEMORY
        },
    }  # fmt: skip


def spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    return {
        "least": round(min(values), 2),
        "median": round(statistics.median(values), 2),
        "most": round(max(values), 2),
    }


async def beyond(client: httpx.AsyncClient) -> dict[str, Any]:
    """400 at once, of which 32 run and 256 wait; and while the queue is full, some more, one after the other."""
    asked = [asyncio.create_task(stream(client, f"{i} Hello", 8)) for i in range(400)]
    for one in asyncio.as_completed(asked):
        if (await one).status == 429:
            break
    late = [await stream(client, "Hello", 8) for _ in range(10)]
    told = await asyncio.gather(*asked)
    refused = [one for one in told if one.status == 429]
    return {
        "asked": len(told), "answered": sum(one.whole for one in told), "refused": len(refused),
        "refused_after_s": spread([one.total_s for one in refused]),
        "with_retry_after": sum(bool(one.retry_after) for one in refused),
        "late_ones_refused_after_s": spread([one.total_s for one in late if one.status == 429]),
    }  # fmt: skip


async def one_against(client: httpx.AsyncClient, server: Server) -> dict[str, Any]:
    """A client with 100 long requests, and another (from another address) with one."""
    many = [asyncio.create_task(stream(client, f"{i} Tell me a story.", 48)) for i in range(100)]
    await asyncio.sleep(3)
    transport = httpx.AsyncHTTPTransport(local_address="127.0.0.2")
    async with httpx.AsyncClient(base_url=server.url, transport=transport) as other:
        one = await stream(other, "What is the sea?", 8)
    done = sum(task.done() for task in many)
    told = await asyncio.gather(*many)
    return {
        "first_token_s": round(one.first_s, 2), "seconds": round(one.total_s, 2), "of_the_100_done_by_then": done,
        "the_100_first_token_s": spread([each.first_s for each in told]),
        "the_100_whole": sum(each.whole for each in told),
    }  # fmt: skip


# --- soak ---


async def soak(server: Server, minutes: float, programs: int, readers: int) -> dict[str, Any]:
    """Restless clients for so long; what was there before, on the way and after it."""
    counts: dict[str, int] = {}
    samples: list[dict[str, float]] = []
    await crowd(server, min(30.0, minutes * 15), programs, readers, {})  # what is made once and kept
    before = await settled(server)
    watching = asyncio.create_task(watch(server, 5, samples))
    await crowd(server, minutes * 60, programs, readers, counts)
    watching.cancel()
    after = await settled(server)
    state = server.health()
    sixth = max(len(samples) // 6, 1)
    means = [
        {name: round(statistics.mean(s[name] for s in part), 1) for name in MEMORY}
        for part in (samples[i * sixth : (i + 1) * sixth] for i in range(6))
        if part
    ]
    left = {name: state[name] for name in ("running", "waiting", "cache_used", "restarts")}
    return {
        "minutes": minutes, "programs": programs, "readers": readers, "requests": counts, "left_behind": left,
        "before": before, "after": after, "memory_mb_by_sixths": means,
    }  # fmt: skip


async def crowd(server: Server, seconds: float, programs: int, readers: int, counts: dict[str, int]) -> None:
    until = time.monotonic() + seconds
    async with httpx.AsyncClient(base_url=server.url, limits=httpx.Limits(max_connections=500)) as client:
        tasks = [restless_program(client, until, random.Random(i), counts) for i in range(programs)]
        tasks += [restless_reader(server.url, until, random.Random(-i), counts) for i in range(1, readers + 1)]
        await asyncio.gather(*tasks)


async def settled(server: Server) -> dict[str, float]:
    """Once nothing runs, and Streamlit has let go of sessions whose page is gone (it waits for them to come back)."""
    await asyncio.to_thread(server.wait_idle, 180)
    await asyncio.sleep(SESSION_S)
    return {name: round(value) for name, value in usage(server).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    loader, soaker = kinds.add_parser("load"), kinds.add_parser("soak")
    loader.add_argument("--streams", type=int, default=200)
    loader.add_argument("--pages", type=int, default=50)
    soaker.add_argument("--minutes", type=float, default=30.0)
    soaker.add_argument("--programs", type=int, default=12)
    soaker.add_argument("--readers", type=int, default=6)
    for each in (loader, soaker):
        each.add_argument("--out", type=Path, default=Path("bench/results/soak.json"))
        each.add_argument("--exact", action="store_true", help="with BLUELM_EXACT")
    given = parser.parse_args()
    env = {"BLUELM_CACHE_TOKENS": "40000", "BLUELM_EXACT": str(given.exact), "BLUELM_LOG_LEVEL": "warning"}
    with serve("real", env=env) as server:
        server.wait_ready()
        work = (
            load(server, given.streams, given.pages)
            if given.kind == "load"
            else soak(server, given.minutes, given.programs, given.readers)
        )
        figures = {"machine": f"{os.cpu_count()} cores", "exact": given.exact, **asyncio.run(work)}
        log = [line for line in server.log().splitlines() if "Traceback" in line or "ERROR" in line]
        figures["errors_in_the_log"] = len(log)
    told = json.loads(given.out.read_text()) if given.out.exists() else {}
    told[given.kind + (" exact" if given.exact else "")] = figures
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
