"""The real page in a real browser: what a reader does, and what they then see.

One browser and one server for all: each test opens tabs of its own, and sets the fake engine's words and pauses.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser_kit import ANSWER, BOX, LONG, MARKDOWN, Line, answer, grows, say, shot
from tests.servers import Server, serve

pytestmark = pytest.mark.browser

ABANDON_S = 1.5


@pytest.fixture(scope="module")
def server(browser: Browser) -> Iterator[Server]:
    with serve(env={"BLUELM_ABANDON_AFTER_S": str(ABANDON_S)}) as running:
        yield running


@pytest.fixture(scope="module")
def context(browser: Browser, server: Server) -> Iterator[BrowserContext]:
    context = browser.new_context(locale="en-US", viewport={"width": 1200, "height": 800})
    yield context
    context.close()


@pytest.fixture
def tab(context: BrowserContext, server: Server) -> Iterator[Callable[..., Page]]:
    """Opens tabs, and closes them at the end; nothing may be fetched from elsewhere."""
    pages: list[Page] = []
    foreign: list[str] = []
    server.fake(answer=[], pause=0.0, phase="ready", fail_after=-1, slots=32)

    def open_tab(url: str = server.url, within: BrowserContext = context) -> Page:
        page = within.new_page()
        pages.append(page)
        page.on(
            "request",
            lambda r: None if r.url.startswith(("http://127.0.0.1:", "data:", "blob:")) else foreign.append(r.url),
        )
        page.goto(url)
        expect(page.locator(BOX)).to_be_visible()
        return page

    yield open_tab
    for page in pages:
        page.close()
    server.fake(phase="ready", fail_after=-1)
    server.wait_idle(10)
    assert not foreign


def test_chinese_and_english_are_answered_as_typed(tab: Callable[..., Page]) -> None:
    page = tab()
    say(page, "你好 **世界** 🎉 $5")
    expect(page.locator(".said")).to_have_text("你好 **世界** 🎉 $5")
    expect(page.locator(ANSWER).last).to_contain_text("你好 世界 🎉 $5")
    say(page, "Hello there")
    expect(page.locator(ANSWER).last).to_contain_text("Hello there")
    expect(page.locator(ANSWER).last).to_contain_text("2 tokens · first token 0.01 s")
    expect(page.locator(".said")).to_have_count(2)


def test_stop_frees_the_row_at_once_and_keeps_the_text(tab: Callable[..., Page], server: Server) -> None:
    server.fake(answer=LONG, pause=0.05)
    page = tab()
    say(page, "go")
    grows(page)
    page.get_by_role("button", name="Stop").click()
    server.wait_idle(1.0)
    expect(page.get_by_text("Stopped by you")).to_be_visible()
    assert "w3 " in answer(page)
    expect(page.get_by_role("button", name="Stop")).to_have_count(0)
    server.fake(answer=["Better."], pause=0.0)
    page.get_by_role("button", name="Regenerate").click()
    expect(page.locator(ANSWER).last).to_contain_text("Better.")
    expect(page.get_by_text("w3 ")).to_have_count(0)


def test_a_reload_attaches_to_the_running_answer(tab: Callable[..., Page], server: Server) -> None:
    server.fake(answer=LONG[:60], pause=0.05)
    page = tab()
    say(page, "go")
    grows(page)
    page.reload()
    grows(page)
    expect(page.get_by_text("60 tokens")).to_be_visible()
    assert answer(page).count("w3 ") == 1


def test_a_dropped_connection_attaches_again_by_itself(tab: Callable[..., Page], server: Server) -> None:
    server.fake(answer=LONG[:60], pause=0.05)
    line = Line(server.url)
    page = tab(line.url)
    say(page, "go")
    grows(page)
    line.cut()
    grows(page)
    expect(page.get_by_text("60 tokens")).to_be_visible()
    assert re.findall(r"w\d+", answer(page)) == [f"w{i}" for i in range(60)]
    line.close()


def test_a_slider_moved_mid_answer_neither_stops_nor_loses_it(tab: Callable[..., Page], server: Server) -> None:
    server.fake(answer=LONG[:70], pause=0.05)
    page = tab()
    say(page, "go")
    grows(page)
    page.get_by_role("tab", name="Settings").click()
    thumb = page.get_by_role("slider").first
    thumb.focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    expect(page.locator("[data-testid=stSliderThumbValue]").first).to_have_text("0.90")
    grows(page)
    expect(page.get_by_text("70 tokens")).to_be_visible()
    text = answer(page)
    assert [f"w{i}" for i in range(70)] == re.findall(r"w\d+", text)


def test_text_sent_during_an_answer_goes_back_into_the_box(tab: Callable[..., Page], server: Server) -> None:
    server.fake(answer=LONG[:60], pause=0.05)
    page = tab()
    say(page, "go")
    grows(page)
    say(page, "too early")
    expect(page.locator(BOX)).to_have_value("too early")
    expect(page.locator(".said")).to_have_count(1)
    expect(page.get_by_text("60 tokens")).to_be_visible()
    expect(page.locator(BOX)).to_have_value("too early")


def test_two_tabs_talk_at_once_without_mixing(tab: Callable[..., Page], server: Server) -> None:
    server.fake(pause=0.05)
    one, two = tab(), tab()
    say(one, "alpha " * 30)
    say(two, "beta " * 30)
    expect(one.get_by_text("30 tokens")).to_be_visible()
    expect(two.get_by_text("30 tokens")).to_be_visible()
    assert "beta" not in one.get_by_test_id("stMainBlockContainer").inner_text()
    assert "alpha" not in two.get_by_test_id("stMainBlockContainer").inner_text()


def test_a_closed_tab_ends_its_answer_after_a_while(tab: Callable[..., Page], server: Server) -> None:
    server.fake(answer=LONG, pause=0.05)
    page = tab()
    say(page, "go")
    grows(page)
    url = page.url
    page.close()
    closed = time.monotonic()
    assert server.health()["running"] == 1
    server.wait_idle(ABANDON_S + 5)
    assert time.monotonic() - closed > ABANDON_S - 0.5
    page = tab(url)
    expect(page.get_by_text("nobody was looking")).to_be_visible()
    assert "w3 " in answer(page)


def test_the_loading_page_moves_on_by_itself(tab: Callable[..., Page], server: Server) -> None:
    server.fake(phase="loading", progress=0.2, detail="reading weights")
    page = tab()
    expect(page.get_by_text("reading weights 20%")).to_be_visible()
    server.fake(phase="loading", progress=0.7, detail="reading weights")
    expect(page.get_by_text("reading weights 70%")).to_be_visible()
    expect(page.locator(BOX)).to_be_disabled()
    shot(page, "loading")
    server.fake(phase="ready")
    say(page, "now")
    expect(page.locator(ANSWER).last).to_contain_text("now")


def test_an_engine_that_dies_is_told_and_can_be_asked_again(tab: Callable[..., Page], server: Server) -> None:
    server.fake(answer=LONG[:30], pause=0.05, fail_after=10)
    page = tab()
    say(page, "go")
    expect(page.locator(ANSWER).last).to_contain_text("The engine stopped while it worked")
    assert "w3 " in answer(page)
    server.fake(phase="restarting", progress=0.5, fail_after=-1)
    expect(page.get_by_text("is starting again", exact=False).first).to_be_visible()
    expect(page.get_by_role("button", name="Retry")).to_be_disabled()
    server.fake(phase="ready")
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_text("30 tokens")).to_be_visible()
    expect(page.get_by_text("The engine stopped")).to_have_count(0)


def test_a_refused_message_is_not_lost(tab: Callable[..., Page], server: Server) -> None:
    server.fake(slots=0)
    page = tab()
    say(page, "please")
    expect(page.get_by_text("Too many are asking right now")).to_be_visible()
    page.get_by_role("button", name="Edit").click()
    expect(page.locator(BOX)).to_have_value("please")
    expect(page.locator(".said")).to_have_count(0)
    server.fake(slots=32)
    page.locator(BOX).press("Enter")
    expect(page.locator(ANSWER).last).to_contain_text("please")


def test_model_text_is_shown_as_it_was_written(tab: Callable[..., Page], server: Server) -> None:
    server.fake(answer=[MARKDOWN])
    page = tab()
    say(page, "go")
    message = page.locator("[data-testid=stChatMessage]").last
    expect(message).to_contain_text("finished")
    expect(message.locator("strong")).to_have_text(["“重点”", "“重点”"])
    expect(message.locator(".katex-display")).to_have_count(2)
    expect(message.locator(".katex")).to_have_count(4)
    expect(message.locator("img")).to_have_count(0)
    expect(message.locator("del, .stMarkdownColoredText, b, [role=img]")).to_have_count(0)
    expect(message.locator("p code")).to_have_text(":smile: $x$ -> **")
    expect(message.locator("pre")).to_have_text(["# :material/home: $x$ \\(y\\) -> **bold**", 'let price = "$1";'])
    expect(message.locator("pre .token.comment, pre .token.keyword")).to_have_count(2)
    expect(message.locator("table tr")).to_have_text(["pricemark", "$1 to $2:x: $y$"])
    expect(message.locator("ol li")).to_contain_text("one :tada:")
    expect(message.get_by_role("link", name="picture")).to_have_attribute("href", "http://leak.invalid/x.png")
    expect(message.get_by_role("link", name="https://example.org/a:b")).to_be_visible()
    first = message.locator("p").first.inner_text()
    assert first == MARKDOWN.split("\n\n")[0].replace("**", "")
    assert "line one\nline two" in message.inner_text()


def test_bytes_to_the_browser_grow_with_the_answer_not_with_its_square(
    tab: Callable[..., Page], server: Server
) -> None:
    paragraph = [f"word{i} " for i in range(40)] + ["\n\n"]
    page, received = tab(), [0]

    def count(frame: str | bytes) -> None:
        received[0] += len(frame)

    page.on("websocket", lambda socket: socket.on("framereceived", count))
    page.reload()
    sent = []
    for paragraphs in (2, 8):
        server.fake(answer=paragraph * paragraphs, pause=0.004)
        page.get_by_role("button", name="New chat").click()
        expect(page.get_by_text("What can I do for you?")).to_be_visible()
        before = received[0]
        say(page, "go")
        expect(page.get_by_text(f"{paragraphs * len(paragraph)} tokens")).to_be_visible()
        sent.append(received[0] - before)
    assert sent[1] < 5 * sent[0] and sent[1] < 400_000, sent


def test_new_chat_and_starters(tab: Callable[..., Page]) -> None:
    page = tab()
    page.get_by_role("button", name="Write a Python function").click()
    expect(page.locator(ANSWER).last).to_contain_text("Write a Python function that reverses a string")
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_text("What can I do for you?")).to_be_visible()
    expect(page.locator(".said")).to_have_count(0)
    assert "c=" not in page.url


def test_a_chinese_browser_gets_chinese_and_can_change_to_english(
    browser: Browser, tab: Callable[..., Page], server: Server
) -> None:
    chinese = browser.new_context(locale="zh-CN", viewport={"width": 1200, "height": 800})
    page = tab(server.url, chinese)
    expect(page.get_by_text("有什么可以帮你？")).to_be_visible()
    page.get_by_role("radio", name="English").or_(page.get_by_role("button", name="English")).first.click()
    expect(page.get_by_text("What can I do for you?")).to_be_visible()
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_text("What can I do for you?")).to_be_visible()
    chinese.close()
