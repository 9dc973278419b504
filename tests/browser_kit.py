"""What browser tests share: where things are on the page, and what a reader does there."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Page, expect

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

![picture](http://127.0.0.1:9/leak.png) https://example.org/a:b

`:smile: $x$ -> **`

```python
# :material/home: $x$ \(y\) -> **bold**
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
