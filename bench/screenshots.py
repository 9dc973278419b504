"""The pictures in docs/images: the real page in Chromium, with answers written here, so that they stay the same.

    .venv/bin/python -m bench.screenshots [NAME ...]

It needs requirements-dev.txt and Chromium ($CHROMIUM, else /usr/bin/chromium). No model is loaded: the engine is the
fake of the tests, which says what it is told.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.browser_kit import ANSWER, ARGS, BOX, say
from tests.servers import Server, serve

FOLDER = Path(__file__).resolve().parent.parent / "docs" / "images"
MODEL = {
    "id": "BlueLM-7B-Chat", "context": 2048, "parameters": 7_280_000_000, "dtype": "bfloat16", "device": "cuda",
    "defaults": {"max_length": 1024, "seed": 7},
}  # fmt: skip
QUESTION = {"en": "Why is the sky blue? Show me with numbers.", "zh": "天空为什么是蓝色的？用数字说明一下。"}
ANSWERS = {
    "en": r"""Because air scatters **short waves** far more than long ones. Rayleigh's law says how much:

\[ I \propto \frac{1}{\lambda^4} \]

```python
def scattered(wavelength_nm: float) -> float:
    """
    + '"""Relative to green light."""'
    + r"""
    return (550 / wavelength_nm) ** 4
```

| Colour | Wavelength | Scattered |
|---|---|---|
| blue | 450 nm | 2.2 |
| green | 550 nm | 1.0 |
| red | 650 nm | 0.5 |

So *blue* reaches the eye from every part of the sky; at sunset, when the way is longest, what is left is **red**.
""",
    "zh": r"""因为空气对**短波**的散射远强于长波，瑞利定律给出了强度：

\[ I \propto \frac{1}{\lambda^4} \]

```python
def scattered(wavelength_nm: float) -> float:
    return (550 / wavelength_nm) ** 4  # 以绿光为 1
```

| 颜色 | 波长 | 散射强度 |
|---|---|---|
| 蓝 | 450 nm | 2.2 |
| 绿 | 550 nm | 1.0 |
| 红 | 650 nm | 0.5 |

所以**“蓝光”**会从天空的各个方向进入眼睛；日落时光线穿过的空气最长，剩下的就是红光。
""",
}
EARLIER = {
    "en": ("Suggest three names for a small telescope.", "1. **First Light**\n2. **Pocket Galaxy**\n3. **Skylark**\n"),
    "zh": ("给一台小望远镜起三个名字。", "1. **初光**\n2. **口袋星河**\n3. **云雀**\n"),
}
AGAIN = {
    "en": "1. **Little Dipper**\n2. **Night Owl**\n3. **Lens & Moon**\n",
    "zh": "1. **小北斗**\n2. **夜枭**\n3. **观月**\n",
}


def pieces(text: str) -> list[str]:
    """The text as a model would give it, about four letters at a time."""
    return [text[at : at + 4] for at in range(0, len(text), 4)]


def ask(page: Page, server: Server, question: str, text: str, pause: float = 0.014) -> None:
    server.fake(answer=pieces(text), pause=pause)
    say(page, question)
    expect(page.locator(".said")).to_have_text(question)


def finished(page: Page) -> None:
    expect(page.locator(ANSWER).last.locator("[class*=st-key-actions_a]")).to_be_visible()
    page.mouse.move(750, 640)
    page.wait_for_timeout(800)


def draw_welcome(page: Page, server: Server, language: str) -> None:
    page.wait_for_timeout(500)


def draw_chat(page: Page, server: Server, language: str) -> None:
    ask(page, server, *EARLIER[language])
    finished(page)
    page.goto(server.url)
    expect(page.locator(BOX)).to_be_enabled()
    ask(page, server, QUESTION[language], ANSWERS[language])
    finished(page)


def draw_streaming(page: Page, server: Server, language: str) -> None:
    ask(page, server, QUESTION[language], ANSWERS[language], pause=0.05)
    expect(page.locator(ANSWER).last.locator("table")).to_contain_text("550 nm")


def draw_versions(page: Page, server: Server, language: str) -> None:
    ask(page, server, *EARLIER[language])
    finished(page)
    server.fake(answer=pieces(AGAIN[language]))
    page.locator(".st-key-icon_again button:visible").click()
    expect(page.get_by_text("2/2")).to_be_visible()
    finished(page)
    page.locator("[class*=st-key-icon_before_a] button:visible").hover()
    page.wait_for_timeout(500)


def draw_settings(page: Page, server: Server, language: str) -> None:
    draw_versions(page, server, language)
    page.get_by_role("tab").nth(1).click()
    page.mouse.move(700, 500)
    page.wait_for_timeout(600)


def draw_prompts(page: Page, server: Server, language: str) -> None:
    page.locator(".st-key-prompts_button button").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.wait_for_timeout(800)


def draw_sidebar(page: Page, server: Server, language: str) -> None:
    draw_chat(page, server, language)
    page.get_by_test_id("stExpandSidebarButton").click()
    page.wait_for_timeout(800)


def draw_demo(page: Page, server: Server, language: str) -> None:
    ask(page, server, *EARLIER[language])
    finished(page)


def draw_status(page: Page, server: Server, language: str) -> None:
    """After a minute with clients that come and go."""
    server.fake(answer=pieces(ANSWERS[language] * 2), pause=0.02, places=6)
    with ThreadPoolExecutor(12) as clients:
        for number in range(110):
            clients.submit(_ask_as_program, server.url, number)
        page.goto(server.url + "/status")
        page.get_by_text("1 min", exact=True).click()
        page.wait_for_timeout(56_000)
        page.screenshot(path=FOLDER / "status.png")
        clients.shutdown(cancel_futures=True)
    server.fake(places=32)


def _ask_as_program(url: str, number: int) -> None:
    time.sleep(0.6 * (number % 12))
    body = {"messages": [{"role": "user", "content": str(number)}], "max_tokens": 90 + number * 37 % 200}
    data = json.dumps(body).encode()
    urlopen(Request(f"{url}/v1/chat/completions", data, {"Content-Type": "application/json"})).read()


@dataclass(frozen=True)
class Shot:
    draw: Callable[[Page, Server, str], None]
    language: str = "en"
    scheme: str = "light"
    phone: bool = False
    demo: bool = False  # in demo mode
    tall: bool = False


SHOTS = {
    "welcome": Shot(draw_welcome),
    "welcome-zh": Shot(draw_welcome, "zh"),
    "chat": Shot(draw_chat),
    "chat-dark": Shot(draw_chat, scheme="dark"),
    "chat-zh": Shot(draw_chat, "zh"),
    "chat-zh-dark": Shot(draw_chat, "zh", "dark"),
    "streaming": Shot(draw_streaming),
    "versions": Shot(draw_settings),
    "prompts": Shot(draw_prompts),
    "status": Shot(draw_status, tall=True),
    "demo-mode": Shot(draw_demo, demo=True),
    "phone": Shot(draw_chat, phone=True),
    "phone-sidebar-zh-dark": Shot(draw_sidebar, "zh", "dark", phone=True),
}


def take(browser: Browser, server: Server, name: str) -> Path:
    """One picture, of a reader who has never been here."""
    shot = SHOTS[name]
    context = browser.new_context(
        locale={"en": "en-US", "zh": "zh-CN"}[shot.language],
        color_scheme="dark" if shot.scheme == "dark" else "light",
        viewport={"width": 390, "height": 780} if shot.phone else {"width": 1200, "height": 980 if shot.tall else 800},
        is_mobile=shot.phone,
        has_touch=shot.phone,
        device_scale_factor=1.5 if shot.phone else 1,
    )
    page = context.new_page()
    page.goto(server.url)
    expect(page.locator(BOX)).to_be_enabled()
    shot.draw(page, server, shot.language)
    path = FOLDER / f"{name}.png"
    if shot.draw is not draw_status:  # that one is taken while its clients are at work
        page.screenshot(path=path)
    context.close()
    server.wait_idle(60)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*SHOTS, []], metavar="NAME", help=f"of {', '.join(SHOTS)}")
    names = parser.parse_args().names or list(SHOTS)
    expect.set_options(timeout=30_000)
    FOLDER.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"), args=ARGS.split()
        )
        for demo in (False, True):
            if not (some := [name for name in names if SHOTS[name].demo is demo]):
                continue
            with serve(model=MODEL, env={"BLUELM_DEMO": "1"} if demo else None) as server:
                for name in some:
                    path = take(browser, server, name)
                    print(f"{path.name}: {path.stat().st_size / 1000:.0f} KB", flush=True)
        browser.close()


if __name__ == "__main__":
    main()
