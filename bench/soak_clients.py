"""Clients of bench.soak: programs that stream over HTTP, and browser pages as their websockets see them."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect

CHAT = "/v1/chat/completions"
ANSWER_S = 900.0


@dataclass
class Told:
    """What a request got. status: of HTTP, 0 where the client left; whole: whether it came to its end."""

    status: int
    text: str = ""
    whole: bool = False
    first_s: float = 0.0
    total_s: float = 0.0
    retry_after: str = ""


async def stream(
    client: httpx.AsyncClient, prompt: str, tokens: int, leave_after: int | None = None, **more: Any
) -> Told:
    """One streamed answer, greedy unless told otherwise; the client hangs up after so many pieces."""
    body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": tokens, "stream": True, "temperature": 0}
    begun = time.monotonic()
    told = Told(0)
    async with client.stream("POST", CHAT, json={**body, **more}, timeout=ANSWER_S) as answer:
        told.status, told.retry_after = answer.status_code, answer.headers.get("retry-after", "")
        pieces = 0
        async for line in answer.aiter_lines():
            if line == "data: [DONE]":
                told.whole = True
            elif line.startswith("data: ") and told.status == 200:
                choices = json.loads(line[6:]).get("choices")
                if not choices:
                    break
                if piece := choices[0]["delta"].get("content"):
                    told.first_s = told.first_s or time.monotonic() - begun
                    told.text += piece
                    pieces += 1
            if leave_after is not None and pieces >= leave_after:
                break
    told.total_s = time.monotonic() - begun
    return told


@dataclass
class Page:
    """A browser page: its websocket, and what it was told to draw in the last run of its script."""

    url: str
    query: str = ""
    cookie: str = field(default_factory=lambda: f"bluelm_owner={secrets.token_urlsafe(24)}")
    box: str = ""
    shown: list[str] = field(default_factory=list)
    line: ClientConnection | None = None

    async def open(self) -> None:
        """Connect and wait until the page is drawn."""
        address = self.url.replace("http", "ws", 1) + "/_stcore/stream"
        headers = {"Cookie": self.cookie, "Origin": self.url}
        self.line = await connect(address, subprotocols=["streamlit"], additional_headers=headers, max_size=None)  # type: ignore[list-item]
        await self._rerun()
        await self._drawn()

    async def ask(self, text: str) -> None:
        """Send a question. `answered` waits for its end."""
        assert self.line is not None
        message = BackMsg()
        message.rerun_script.query_string = self.query
        state = message.rerun_script.widget_states.widgets.add(id=self.box)
        state.chat_input_value.data = text
        await self.line.send(message.SerializeToString())

    async def answered(self) -> str:
        """All texts of the page once its answer has ended: the script runs once more then."""
        while not await self._drawn():
            pass
        return "\n".join(self.shown)

    async def look_on(self, seconds: float) -> None:
        """Take what is drawn meanwhile."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.answered()

    async def leave(self) -> None:
        if self.line is not None:
            await self.line.close()

    async def _rerun(self) -> None:
        assert self.line is not None
        message = BackMsg()
        message.rerun_script.query_string = self.query
        await self.line.send(message.SerializeToString())

    async def _drawn(self) -> bool:
        """Read until the script has run to its end; False where it ends only to run again."""
        assert self.line is not None
        while True:
            async with asyncio.timeout(ANSWER_S):
                message = ForwardMsg.FromString(await self.line.recv(decode=False))  # type: ignore[arg-type]
            kind = message.WhichOneof("type")
            if kind == "new_session":
                self.shown = []
            elif kind == "page_info_changed":
                self.query = message.page_info_changed.query_string
            elif kind == "delta" and message.delta.HasField("new_element"):
                self._see(message.delta.new_element)
            elif kind == "script_finished":
                return message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY

    def _see(self, element: Any) -> None:
        kind = element.WhichOneof("type")
        if kind == "chat_input":
            self.box = element.chat_input.id
        elif kind in ("markdown", "html"):
            self.shown.append(getattr(element, kind).body)


async def restless_program(
    client: httpx.AsyncClient, until: float, dice: random.Random, counts: dict[str, int]
) -> None:
    """Asks again and again: short and long prompts; takes the whole answer, part of it, or nothing."""
    while time.monotonic() < until:
        prompt = f"{dice.random()} " + dice.choice(
            ("Tell me a story.", "What is the sea?", "word " * dice.randint(50, 1500))
        )
        leave = dice.choice((None, None, 0, 1, dice.randint(2, 20)))
        told = await stream(client, prompt, dice.randint(1, 60), leave, temperature=dice.choice((0, 0.8)))
        kind = f"status {told.status}" if told.status != 200 else "whole" if told.whole else "left"
        if told.status == 200 and leave is None and not told.whole:
            kind = "broken"
        counts[kind] = counts.get(kind, 0) + 1
        await asyncio.sleep(dice.random() * 0.3)


async def restless_reader(url: str, until: float, dice: random.Random, counts: dict[str, int]) -> None:
    """Opens the page, asks, and reads to the end, reloads in mid-answer and reads on, or leaves."""
    while time.monotonic() < until:
        page, mark = Page(url), f"mark{dice.randrange(10**9)}"
        await page.open()
        for _ in range(dice.randint(1, 3)):
            await page.ask(f"{mark} {dice.choice(('Hello!', 'What is the sea?', 'word ' * dice.randint(10, 400)))}")
            what = dice.choice(("read", "read", "reload", "leave"))
            counts[what] = counts.get(what, 0) + 1
            if what == "read":
                assert mark in await page.answered(), "somebody else's page"
                continue
            await page.look_on(dice.random() * 2)
            await page.leave()
            if what == "reload" and page.query:
                await page.open()
                assert mark in "\n".join(page.shown), "the page has lost its conversation"
            break
        await page.leave()
