"""What browser tests share: where things are on the page, and what a reader does there."""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

expect.set_options(timeout=15_000)  # of every browser test: milliseconds

BOX = "[data-testid=stChatInputTextArea]"
ANSWER = "[data-testid=stChatMessage]:has([data-testid=stChatMessageAvatarCustom])"
ARGS = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"
LONG = [f"w{i} " for i in range(400)]
MARKDOWN = r"""**“重点”**内容 and 内容**“重点”**, $5 and $6, 12:30:45, :smile: :red[no] :material/home: ~one~ a -> b
<b>tag</b> &lt; x >= y

line one
line two \(a^2\) and \[b^2\]

\[
c^2
\]

![picture](http://leak.invalid/x.png) https://example.org/a:b

`:smile: $x$ -> **`

```python
# :material/home: $x$ \(y\) -> **bold**
```

| price | mark |
|---|:-:|
| $1 to $2 | `:x: $y$` |

$$
d^2
$$

1. one :tada:
   ```js
   let price = "$1";
   ```
"""


def say(page: Page, text: str) -> None:
    expect(page.locator(BOX)).to_be_enabled()
    page.fill(BOX, text)
    page.keyboard.press("Enter")


def answer(page: Page) -> str:
    return page.locator("[data-testid=stChatMessage]").last.inner_text()


def grows(page: Page) -> None:
    """The last answer gets longer while we look."""
    expect(page.locator("[data-testid=stChatMessage]").last).to_contain_text("w3 ")
    before = len(answer(page))
    page.wait_for_function(
        "n => [...document.querySelectorAll('[data-testid=stChatMessage]')].pop().innerText.length > n", arg=before + 8
    )


def shot(page: Page, name: str) -> None:
    folder = Path(__file__).parent / "output"
    folder.mkdir(exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")


class Line:
    """A TCP line to a server on this machine, which can be cut: open connections break, new ones come through.

    received: bytes that the server has sent over it.
    """

    def __init__(self, server_url: str) -> None:
        self._target = int(server_url.rsplit(":", 1)[1])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.received = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        while self._open:
            with contextlib.suppress(OSError):
                self._open.pop().shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink, sink is near), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.received += len(data) if counted else 0
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def violations(page: Page) -> list[tuple[str, list[str]]]:
    """What axe finds. Chromium and Firefox let keys scroll what scrolls, which axe does not know."""
    options = {"rules": {"scrollable-region-focusable": {"enabled": False}}}
    found = Axe().run(page, options=options).response["violations"]
    return [(rule["id"], [node["html"][:200] for node in rule["nodes"]]) for rule in found]
