"""The page of a base model in a real browser: a text that grows where one looks, and survives a reload."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser_kit import LONG, shot
from tests.servers import Server, serve

pytestmark = pytest.mark.browser

DRAFT, BOX = ".draft", ".st-key-draft_text textarea"
ANSWER = [" Leo", " Tolstoy", "\nCrime", " and", " Punishment", " ->", " Fyodor", " Dostoevsky\n", "\n", "Emma", " by"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(model={"kind": "base", "id": "BlueLM-7B-Base"}) as running:
        yield running


@pytest.fixture
def tab(browser: Browser, server: Server) -> Iterator[Callable[..., Page]]:
    contexts: list[BrowserContext] = []
    server.fake(answer=ANSWER, pause=0.0, phase="ready", fail_after=-1, slots=32)

    def open_tab(locale: str = "en-US", **options: object) -> Page:
        context = browser.new_context(locale=locale, viewport={"width": 1200, "height": 800}, **options)  # type: ignore[arg-type]
        contexts.append(context)
        page = context.new_page()
        page.goto(server.url)
        expect(page.locator(BOX)).to_be_visible()
        return page

    yield open_tab
    for context in contexts:
        context.close()
    server.wait_idle(10)


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name).click()


def text_of(page: Page) -> str:
    return page.evaluate("() => [...document.querySelectorAll('.draft')].map(d => d.textContent).join('')")


def begin(page: Page, text: str) -> None:
    page.fill(BOX, text)
    press(page, "Complete")


def grows(page: Page) -> None:
    expect(page.locator(DRAFT).last).to_contain_text("w3 ")
    before = len(text_of(page))
    page.wait_for_function(
        "n => [...document.querySelectorAll('.draft')].map(d => d.textContent).join('').length > n", arg=before + 8
    )


def test_a_prompt_is_pressed_completed_and_continued(tab: Callable[..., Page]) -> None:
    page = tab()
    shot(page, "base_empty")
    press(page, "Books and authors")
    expect(page.locator(BOX)).to_have_value(re.compile("War and Peace ->$"))
    press(page, "Complete")
    expect(page.get_by_text("11 tokens · first token")).to_be_visible()
    assert text_of(page).endswith("War and Peace ->" + "".join(ANSWER))
    expect(page.locator(".draft mark")).to_have_count(1)
    shot(page, "base_done")
    press(page, "Continue")
    expect(page.locator(".draft mark")).to_have_count(2)
    press(page, "Undo")
    expect(page.locator(".draft mark")).to_have_count(1)


def test_the_text_looks_the_same_while_it_grows_and_when_it_is_done(tab: Callable[..., Page], server: Server) -> None:
    server.fake(answer=[*ANSWER, "\n\n"] * 10 + ["end"], pause=0.02)
    page = tab()
    begin(page, "one\n\n  two ->")
    expect(page.locator(DRAFT).nth(2)).to_be_attached()  # whole lines are elements of their own by now
    expect(page.locator(DRAFT).last).to_contain_text("end")
    growing = page.locator(".st-key-draft").bounding_box()
    shot(page, "base_growing")
    expect(page.get_by_role("button", name="Continue")).to_be_visible()
    expect(page.locator(DRAFT)).to_have_count(1)
    done = page.locator(".st-key-draft").bounding_box()
    assert growing is not None and done is not None and abs(growing["height"] - done["height"]) < 3
    assert text_of(page) == "one\n\n  two ->" + "".join([*ANSWER, "\n\n"] * 10) + "end"


def test_the_end_of_a_long_text_stays_in_sight(tab: Callable[..., Page], server: Server) -> None:
    server.fake(answer=[f"line {i}\n" for i in range(100)], pause=0.02)
    page = tab()
    begin(page, "go\n")
    expect(page.get_by_text("line 80")).to_be_attached()
    assert end_below_window(page) < 5
    expect(page.get_by_role("button", name="Continue")).to_be_in_viewport()
    expect(page.locator(DRAFT)).to_contain_text("line 99")
    assert end_below_window(page) < 5
    shot(page, "base_long")


def end_below_window(page: Page) -> float:
    """By how many pixels the end of the text is out of sight."""
    text, window = (page.locator(f".st-key-{name}").bounding_box() for name in ("draft", "draft_window"))
    assert text is not None and window is not None and text["height"] > window["height"]
    return text["y"] + text["height"] - window["y"] - window["height"]


def test_stop_keeps_the_text_and_a_reload_attaches_again(tab: Callable[..., Page], server: Server) -> None:
    server.fake(answer=LONG, pause=0.05)
    page = tab()
    begin(page, "go: ")
    grows(page)
    page.reload()
    grows(page)
    press(page, "Stop")
    server.wait_idle(1.0)
    expect(page.get_by_text("Stopped by you")).to_be_visible()
    before = text_of(page)
    page.reload()
    expect(page.locator(DRAFT)).to_contain_text("w3 ")
    assert text_of(page) == before and before.startswith("go: w0 w1 ")


def test_the_whole_text_is_edited_and_completed_anew(tab: Callable[..., Page]) -> None:
    page = tab()
    begin(page, "War and Peace ->")
    press(page, "Edit")
    expect(page.locator(BOX)).to_have_value(re.compile("Emma by$"))
    page.fill(BOX, "Ulysses ->")
    page.locator(BOX).press("Control+Enter")
    expect(page.locator(DRAFT)).to_contain_text("Ulysses -> Leo")
    press(page, "New text")
    expect(page.locator(BOX)).to_have_value("")
    assert "c=" not in page.url


def test_a_chinese_reader_gets_chinese_prompts_day_and_night(tab: Callable[..., Page], server: Server) -> None:
    server.fake(answer=["曹雪芹\n", "西游记->", "吴承恩\n"])
    page = tab("zh-CN", color_scheme="dark")
    expect(page.get_by_text("基座模型不听指令")).to_be_visible()
    press(page, "书与作者")
    expect(page.locator(BOX)).to_have_value("儒林外史->吴敬梓\n隋唐演义->褚人获\n红楼梦->")
    press(page, "续写")
    expect(page.locator(".draft mark")).to_have_text("曹雪芹\n西游记->吴承恩\n")
    expect(page.get_by_text("首 token")).to_be_visible()
    shot(page, "base_chinese_dark")
