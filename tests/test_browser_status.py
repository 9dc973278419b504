"""The engine's page and demo mode in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser_kit import ANSWER, BOX, LONG, grows, say, shot, violations
from tests.servers import Server, serve

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def server(browser: Browser) -> Iterator[Server]:
    with serve(load_s=1.5) as running:
        yield running


def visitor(browser: Browser, url: str) -> Page:
    """Somebody with a browser of their own."""
    page = browser.new_context(locale="en-US", viewport={"width": 1200, "height": 900}).new_page()
    page.goto(url)
    return page


def figure(page: Page, name: str) -> str:
    return page.locator("[data-testid=stMetric]", has_text=name).locator("[data-testid=stMetricValue]").inner_text()


def test_the_engines_page_shows_it_at_work(browser: Browser, server: Server) -> None:
    server.fake(answer=LONG, pause=0.05)
    chat = visitor(browser, server.url)
    say(chat, "go")
    grows(chat)
    page = visitor(browser, server.url)
    page.get_by_role("link", name="Engine").click()
    expect(page.locator(".stMarkdownBadge", has_text="Ready")).to_be_visible()
    expect(page.locator("[data-testid=stMetric]", has_text="Running")).to_contain_text("1")
    page.wait_for_function(
        "() => Number([...document.querySelectorAll('[data-testid=stMetric]')]"
        ".find(e => e.innerText.startsWith('Tokens/s')).querySelector('[data-testid=stMetricValue]').innerText) > 5"
    )
    expect(page.locator("[data-testid=stVegaLiteChart] svg, [data-testid=stVegaLiteChart] canvas")).to_have_count(4)
    expect(page.locator(".facts_table")).to_contain_text("float32")
    shot(page, "status")
    chat.get_by_role("button", name="Stop").click()
    expect(page.locator("[data-testid=stMetric]", has_text="Running")).to_contain_text("0")
    assert violations(page) == []
    page.get_by_role("link", name="Back to the chat").click()
    expect(page.locator(BOX)).to_be_visible()
    page.context.close()
    chat.context.close()


def test_a_restart_is_asked_about_and_those_who_waited_are_told(browser: Browser, server: Server) -> None:
    server.fake(answer=LONG, pause=0.05)
    chat, page = visitor(browser, server.url), visitor(browser, server.url + "/status")
    say(chat, "go")
    grows(chat)
    page.get_by_role("button", name="Restart the engine").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Open answers: 1")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_have_count(0)
    grows(chat)
    page.get_by_role("button", name="Restart the engine").click()
    dialog.get_by_role("button", name="Restart the engine").click()
    expect(page.get_by_text("loading weights 50%")).to_be_visible()
    expect(chat.get_by_text("restarted on request")).to_be_visible()
    expect(page.locator(".stMarkdownBadge", has_text="Ready")).to_be_visible()
    server.fake(answer=["Here again."], pause=0.0)
    chat.get_by_role("button", name="Retry").click()
    expect(chat.locator(ANSWER).last).to_contain_text("Here again.")
    page.context.close()
    chat.context.close()


def test_another_model_is_chosen_from_those_on_the_disk(browser: Browser, server: Server) -> None:
    page = visitor(browser, server.url + "/status")
    page.get_by_role("button", name="Another model").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Load it")).to_be_disabled()
    dialog.get_by_text("Demo model").click()
    dialog.get_by_role("button", name="Load it").click()
    expect(page.get_by_role("heading", name="Demo model")).to_be_visible()
    expect(page.get_by_role("heading", name="demo", exact=True)).to_be_visible()
    server.fake(failed="/models/BlueLM-7B-Chat", trouble="config.json is damaged")
    expect(page.get_by_text("BlueLM-7B-Chat could not be loaded")).to_be_visible()
    expect(page.get_by_text("config.json is damaged")).to_be_visible()
    page.context.close()


def test_an_audience_sees_a_clean_page_and_its_place_in_the_queue(browser: Browser) -> None:
    with serve(env={"BLUELM_DEMO": "1"}, places=1, pause=0.05, answer=LONG) as server:
        first, second, third = (visitor(browser, server.url) for _ in range(3))
        for name in ("Settings", "Engine", "Prompts", "Context"):
            expect(first.get_by_text(name, exact=True)).to_have_count(0)
        assert first.evaluate("getComputedStyle(document.documentElement).fontSize") == "20px"
        shot(first, "demo-mode-empty")
        first.get_by_role("button", name=re.compile("sky is blue")).click()
        grows(first)
        for page in (second, third):
            say(page, "And mine?")
        expect(third.get_by_text("You are 2nd in line")).to_be_visible()
        expect(second.get_by_text("You are 1st in line")).to_be_visible()
        expect(third.locator("[class*=st-key-open_]")).to_have_count(1)
        shot(third, "demo-mode-waiting")
        first.get_by_role("button", name="Stop").click()
        grows(second)
        expect(third.get_by_text("You are 1st in line")).to_be_visible()
        expect(first.get_by_text("tokens/s")).to_have_count(0)
        phone = browser.new_context(
            locale="zh-CN", viewport={"width": 390, "height": 844}, color_scheme="dark"
        ).new_page()
        phone.goto(server.url + "/status")
        expect(phone.locator(BOX)).to_be_visible()
        expect(phone.get_by_text("重启引擎")).to_have_count(0)
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390
        for page in (first, second, third, phone):
            page.context.close()
