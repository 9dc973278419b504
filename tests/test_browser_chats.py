"""Conversations that last, in a real browser: versions, the list, links, files, and a server that is killed."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from tests.browser_kit import ANSWER, BOX, LONG, grows, say, shot
from tests.servers import Server, serve

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def server(browser: Browser) -> Iterator[Server]:
    with serve(model={"id": "BlueLM-7B-Chat"}) as running:
        yield running


@pytest.fixture
def reader(browser: Browser, server: Server) -> Iterator[Callable[..., BrowserContext]]:
    """Makes readers: each has cookies of their own."""
    contexts: list[BrowserContext] = []
    server.fake(answer=[], pause=0.0)

    def make(**options: object) -> BrowserContext:
        given = {"locale": "en-US", "viewport": {"width": 1200, "height": 800}} | options
        contexts.append(browser.new_context(**given))  # type: ignore[arg-type]
        return contexts[-1]

    yield make
    for context in contexts:
        context.close()
    server.wait_idle(20)


def opened(context: BrowserContext, url: str) -> Page:
    page = context.new_page()
    page.goto(url)
    expect(page.locator(BOX)).to_be_visible()
    return page


def press(page: Page | Locator, name: str, **how: object) -> None:
    page.get_by_role("button", name=name, **how).last.click()  # type: ignore[arg-type]


def listed(page: Page) -> Locator:
    return page.locator("[class*=st-key-open_] button")


def choose(page: Page, title: str, option: str) -> None:
    """An option of a conversation's menu."""
    page.locator("[class*=st-key-chat_]", has_text=title).first.hover()
    press(page, f"Options of {title}")
    page.get_by_role("menuitem", name=option).click()


def test_versions_are_kept_and_stepped_through(reader: Callable[..., BrowserContext], server: Server) -> None:
    page = opened(reader(), server.url)
    say(page, "first wording")
    expect(page.locator(ANSWER).last).to_contain_text("finished")
    say(page, "and then")
    expect(page.get_by_role("button", name="Regenerate")).to_have_count(2)
    server.fake(answer=["another answer"])
    press(page, "Regenerate")
    expect(page.get_by_text("2/2")).to_be_visible()
    press(page, "Earlier version")
    expect(page.locator(ANSWER).last).to_contain_text("and then")
    page.get_by_role("button", name="Edit this message").first.click()
    expect(page.locator(".st-key-edited_text textarea")).to_have_value("first wording")
    page.locator(".st-key-edited_text textarea").fill("second wording")
    press(page, "Send", exact=True)
    expect(page.locator(".said")).to_have_text(["second wording"])
    expect(page.locator(ANSWER).nth(1)).to_contain_text("finished")
    shot(page, "versions")
    page.reload()
    expect(page.locator(".said")).to_have_text(["second wording"])
    press(page, "Earlier version")
    expect(page.locator(".said")).to_have_text(["first wording", "and then"])


def test_the_arrows_keep_the_focus(reader: Callable[..., BrowserContext], server: Server) -> None:
    page = opened(reader(), server.url)
    say(page, "again and again")
    expect(page.locator(ANSWER).last).to_contain_text("finished")
    for number in (2, 3):
        press(page, "Regenerate")
        expect(page.get_by_text(f"{number}/{number}")).to_be_visible()
    page.get_by_role("button", name="Earlier version").focus()
    for shown in ("2/3", "1/3"):
        page.keyboard.press("Enter")
        expect(page.get_by_text(shown)).to_be_visible()


def test_back_and_forward_step_through_conversations(reader: Callable[..., BrowserContext], server: Server) -> None:
    page = opened(reader(), server.url)
    said = page.locator(".said")
    for text in ("first", "second"):
        press(page, "New chat")
        expect(said).to_have_count(0)
        say(page, text)
        expect(page.locator(ANSWER).last).to_contain_text("finished")
    for step, texts in (
        (page.go_back, []),
        (page.go_back, ["first"]),
        (page.go_forward, []),
        (page.go_forward, ["second"]),
    ):
        step()
        expect(said).to_have_text(texts)
    page.go_back()
    expect(said).to_have_count(0)
    listed(page).last.click()
    expect(said).to_have_text(["first"])


def test_what_is_sent_right_after_new_chat_begins_one(reader: Callable[..., BrowserContext], server: Server) -> None:
    """And not what the browser's address still names, which lags behind."""
    page = opened(reader(), server.url)
    say(page, "old")
    expect(page.locator(ANSWER).last).to_contain_text("finished")
    page.fill(BOX, "new")
    server.process.send_signal(signal.SIGSTOP)
    press(page, "New chat")
    page.locator(BOX).press("Enter")
    server.process.send_signal(signal.SIGCONT)
    expect(page.locator(".said")).to_have_text(["new"])
    expect(listed(page)).to_have_text(["new", "old"])


def test_an_answer_cut_by_length_goes_on_in_its_place(reader: Callable[..., BrowserContext], server: Server) -> None:
    page = opened(reader(), server.url)
    server.fake(answer=LONG)
    page.get_by_role("tab", name="Settings").click()
    page.locator(".st-key-max_length input").fill("5")
    page.locator(".st-key-max_length input").press("Enter")
    say(page, "count")
    expect(page.get_by_text("Cut off")).to_be_visible()
    server.fake(answer=["w5 ", "w6 "])
    press(page, "Continue")
    expect(page.locator(ANSWER).last).to_contain_text("w0 w1 w2 w3 w4 w5 w6")
    expect(page.locator(ANSWER).last).to_contain_text("goes on behind 5 tokens")
    expect(page.get_by_text("1/2")).to_have_count(0)


def test_the_list_finds_names_pins_and_brings_back(reader: Callable[..., BrowserContext], server: Server) -> None:
    page = opened(reader(), server.url)
    for text in ("apples are red", "今天天气不错", "bananas"):
        press(page, "New chat")
        expect(page.locator(".said")).to_have_count(0)
        say(page, text)
        expect(page.locator(ANSWER).last).to_contain_text("finished")
    expect(listed(page)).to_have_text(["bananas", "今天天气不错", "apples are red"])
    search = page.get_by_role("textbox", name="Search")
    search.fill("天气")
    search.press("Enter")
    expect(listed(page)).to_have_text(["今天天气不错"])
    search.fill("")
    search.press("Enter")
    choose(page, "apples are red", "Pin")
    expect(listed(page)).to_contain_text(["apples are red", "bananas", "今天天气不错"])
    choose(page, "bananas", "Rename")
    page.get_by_role("dialog").get_by_role("textbox").fill("Fruit")
    press(page.get_by_role("dialog"), "Save")
    expect(listed(page).nth(1)).to_have_text("Fruit")
    choose(page, "Fruit", "Delete")
    expect(listed(page)).to_have_count(2)
    expect(page.locator(".said")).to_have_count(0)
    press(page, "Undo")
    expect(listed(page)).to_have_count(3)
    listed(page).nth(1).click()
    expect(page.locator(".said")).to_have_text(["bananas"])


def test_a_link_is_for_reading_and_nobody_else_sees_more(reader: Callable[..., BrowserContext], server: Server) -> None:
    page = opened(reader(), server.url)
    say(page, "my secret")
    expect(page.locator(ANSWER).last).to_contain_text("finished")
    other = reader()
    stranger = opened(other, page.url)
    expect(stranger.get_by_text("is not here")).to_be_visible()
    expect(stranger.locator(".said")).to_have_count(0)
    assert not listed(stranger).count() and "c=" not in stranger.url
    choose(page, "my secret", "Share")
    press(page.get_by_role("dialog"), "Make a link")
    link = page.get_by_role("dialog").locator("code").inner_text()
    stranger.goto(link)
    expect(stranger.locator(".said")).to_have_text(["my secret"])
    expect(stranger.locator(BOX)).to_have_count(0)
    assert "Edit this message" not in stranger.content() and "Regenerate" not in stranger.content()
    press(stranger, "Go on in a copy")
    expect(stranger.locator(BOX)).to_be_visible()
    say(stranger, "mine now")
    expect(stranger.locator(".said")).to_have_text(["my secret", "mine now"])
    press(page.get_by_role("dialog"), "Take the link back")
    expect(page.get_by_role("dialog").locator("code")).to_have_count(0)
    page.keyboard.press("Escape")
    expect(page.locator(".said")).to_have_text(["my secret"])
    stranger.goto(link)
    expect(stranger.get_by_text("no longer, one to a conversation")).to_be_visible()


def test_conversations_leave_as_files_and_come_back(
    reader: Callable[..., BrowserContext], server: Server, tmp_path: Path
) -> None:
    page = opened(reader(), server.url)
    say(page, "keep **this**")
    expect(page.locator(ANSWER).last).to_contain_text("finished")
    files = {}
    press(page, "Export and import")
    for kind in ("Markdown", "JSONL"):
        with page.expect_download() as download:
            press(page.get_by_role("dialog"), kind)
        files[kind] = tmp_path / download.value.suggested_filename
        download.value.save_as(files[kind])
    assert json.loads(files["JSONL"].read_text())["messages"][0] == {"role": "user", "content": "keep **this**"}
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": [{"role": "user", "content": "x"}]}\n{"messages": 7}\n')
    new = opened(reader(), server.url)
    press(new, "Export and import")
    for file, told in ((bad, "Line 2"), (files["Markdown"], "1 conversations imported"), (files["JSONL"], "1 conv")):
        new.locator("input[type=file]").set_input_files(file)
        press(new.get_by_role("dialog"), "Import")
        expect(new.get_by_text(told).last).to_be_visible()
        if file is not bad:
            press(new, "Export and import")
    new.keyboard.press("Escape")
    expect(listed(new)).to_have_text(["keep **this**", "keep **this**"])


def test_an_answer_is_copied_as_it_was_written(reader: Callable[..., BrowserContext], server: Server) -> None:
    context = reader()
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = opened(context, server.url)
    server.fake(answer=["**bold** $5\n\n", "```\ncode\n```\n"])
    say(page, "go")
    press(page.locator(ANSWER).last, "Copy", exact=True)
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == "**bold** $5\n\n```\ncode\n```\n"


def test_presets_prompts_and_the_language_are_remembered(reader: Callable[..., BrowserContext], server: Server) -> None:
    context = reader()
    page = opened(context, server.url)
    page.get_by_role("tab", name="Settings").click()
    page.locator(".st-key-system textarea").fill("Answer in rhymes.")
    page.locator(".st-key-system textarea").press("Control+Enter")
    press(page, "Save the settings as a preset")
    page.locator(".st-key-preset_name input").fill("Poet")
    page.locator(".st-key-preset_name input").press("Enter")
    press(page, "Save", exact=True)
    page.keyboard.press("Escape")
    press(page, "Prompts")
    dialog = page.get_by_role("dialog")
    for name, value in (("language", "French"), ("text", "Good morning")):
        dialog.get_by_role("textbox", name=name, exact=True).fill(value)
        dialog.get_by_role("textbox", name=name, exact=True).press("Control+Enter")
    press(dialog, "Send")
    expect(page.locator(".said")).to_have_text(
        "Translate the following into French. Give the translation alone.\n\nGood morning"
    )
    page.get_by_text("中文", exact=True).click()
    expect(page.get_by_role("button", name="新对话")).to_be_visible()
    page.close()
    page = opened(context, server.url)
    page.get_by_role("tab", name="设置").click()
    expect(page.locator(".st-key-system textarea")).to_have_value("")
    page.locator(".st-key-preset").get_by_role("combobox").click()
    page.get_by_role("option", name="Poet").click()
    expect(page.locator(".st-key-system textarea")).to_have_value("Answer in rhymes.")


def test_a_killed_server_loses_less_than_a_second_and_the_answer_can_go_on(
    browser: Browser,
    tmp_path: Path,
) -> None:
    data, context = {"BLUELM_DATA": str(tmp_path)}, browser.new_context(locale="en-US")
    with serve(env=data, answer=LONG, pause=0.05) as first:
        page = opened(context, first.url)
        say(page, "go")
        grows(page)
        address = page.url.removeprefix(first.url)
        before = int(re.findall(r"w(\d+)", page.locator(ANSWER).last.inner_text())[-1])
        time.sleep(1.0)
        first.process.kill()
    with serve(env=data, answer=["and on."]) as second:
        page = opened(context, second.url + address)
        expect(page.get_by_text("Interrupted, because the app ended")).to_be_visible()
        assert int(re.findall(r"w(\d+)", page.locator(ANSWER).last.inner_text())[-1]) >= before
        press(page, "Continue")
        expect(page.locator(ANSWER).last).to_contain_text("and on.")
        expect(page.locator(ANSWER).last).to_contain_text("w0 w1 w2")
    context.close()
