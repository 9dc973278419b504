"""The habits of readers in a real browser: keys, input methods, scrolling, phones, and reading by other means."""

# ruff: noqa: F811  (fixtures come by import)

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, CDPSession, Page, expect

from tests.browser_kit import ANSWER, BOX, LONG, answer, say, shot, violations
from tests.servers import Server, serve
from tests.test_browser_chats import listed, opened, press, reader  # noqa: F401  (a fixture)

pytestmark = pytest.mark.browser


PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
MAIN = "[data-testid=stAppScrollToBottomContainer]"
LEFT = f"() => (e => e.scrollHeight - e.clientHeight - e.scrollTop)(document.querySelector('{MAIN}'))"
TALL = [f"line {i}\n\n" for i in range(400)]
CODE = ["```python\n", *(f"def f{i}(x):\n    return x + {i}  # the number {i}\n\n" for i in range(60)), "```\n"]


@pytest.fixture(scope="module")
def server(browser: Browser) -> Iterator[Server]:
    with serve(model={"id": "BlueLM-7B-Chat", "context": 8000, "defaults": {"max_length": 2000}}) as running:
        yield running


def press_key(cdp: CDPSession, key: str, code: int) -> None:
    cdp.send("Input.dispatchKeyEvent", {"type": "rawKeyDown", "key": key, "windowsVirtualKeyCode": code})
    cdp.send("Input.dispatchKeyEvent", {"type": "keyUp", "key": key, "windowsVirtualKeyCode": code})


def test_enter_sends_and_shift_enter_breaks_the_line(reader: Callable[..., BrowserContext], server: Server) -> None:
    page = opened(reader(), server.url)
    page.locator(BOX).press_sequentially("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    expect(page.locator(BOX)).to_have_value("one\ntwo")
    page.keyboard.press("Enter")
    expect(page.locator(".said")).to_have_text("one\ntwo")
    expect(page.locator(BOX)).to_have_value("")


def test_an_input_method_neither_sends_nor_stops(reader: Callable[..., BrowserContext], server: Server) -> None:
    context = reader()
    page = opened(context, server.url)
    cdp = context.new_cdp_session(page)
    page.locator(BOX).click()
    cdp.send("Input.imeSetComposition", {"text": "ni hao", "selectionStart": 6, "selectionEnd": 6})
    press_key(cdp, "Enter", 229)
    press_key(cdp, "Enter", 13)
    expect(page.locator(BOX)).to_have_value("ni hao")
    cdp.send("Input.insertText", {"text": "你好"})
    press_key(cdp, "Enter", 229)  # Safari's: behind the end of the composition
    expect(page.locator(BOX)).to_have_value("你好")
    expect(page.locator(".said")).to_have_count(0)
    server.fake(answer=LONG, pause=0.05)
    page.keyboard.press("Enter")
    expect(page.locator(".said")).to_have_text("你好")
    expect(page.locator(ANSWER).last).to_contain_text("w3 ")
    cdp.send("Input.imeSetComposition", {"text": "zai", "selectionStart": 3, "selectionEnd": 3})
    press_key(cdp, "Escape", 229)
    cdp.send("Input.insertText", {"text": "再"})
    press(page, "Prompts")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    assert server.health()["running"] == 1
    page.locator(BOX).press("Escape")
    server.wait_idle(2)
    expect(page.get_by_text("Stopped by you")).to_be_visible()
    expect(page.locator(BOX)).to_have_value("再")


def test_the_page_follows_the_text_only_from_the_bottom(reader: Callable[..., BrowserContext], server: Server) -> None:
    server.fake(answer=TALL, pause=0.03)
    page = opened(reader(), server.url)
    say(page, "go")
    expect(page.locator(ANSWER).last).to_contain_text("line 40")
    page.wait_for_function(f"{LEFT} < 60")
    page.mouse.move(600, 300)
    page.mouse.wheel(0, -300)
    page.wait_for_function(f"{LEFT} > 250")
    page.wait_for_timeout(400)  # a wheel goes on for a moment
    top = page.evaluate(f"document.querySelector('{MAIN}').scrollTop")
    expect(page.locator(ANSWER).last).to_contain_text("line 75")
    assert page.evaluate(f"document.querySelector('{MAIN}').scrollTop") == top
    to_the_bottom(page)
    expect(page.locator(ANSWER).last).to_contain_text("line 120")
    page.wait_for_function(f"{LEFT} < 60")
    press(page, "Stop")


def test_what_is_pressed_stays_under_the_pointer(reader: Callable[..., BrowserContext], server: Server) -> None:
    """A click ends where it began, and so does a selection, though text is added meanwhile."""
    server.fake(answer=TALL, pause=0.03)
    page = opened(reader(), server.url)
    say(page, "go")
    expect(page.locator(ANSWER).last).to_contain_text("line 40")
    page.mouse.move(600, 300)
    page.mouse.down()
    top = page.evaluate(f"document.querySelector('{MAIN}').scrollTop")
    page.wait_for_function(f"{LEFT} > 400")
    assert page.evaluate(f"document.querySelector('{MAIN}').scrollTop") == top
    page.mouse.up()
    page.wait_for_function(f"{LEFT} < 60")
    page.wait_for_timeout(300)
    page.wait_for_function(f"{LEFT} < 60")
    press(page, "Stop")
    server.wait_idle(3)


def to_the_bottom(page: Page) -> None:
    """As readers do: a wheel stops where the bottom was, so again where text was added meanwhile."""
    for _ in range(40):
        page.mouse.wheel(0, 20_000)
        page.wait_for_timeout(100)
        if page.evaluate(LEFT) < 60:
            return


def test_a_step_to_another_version_stays_where_it_was_made(
    reader: Callable[..., BrowserContext],
    server: Server,
) -> None:
    page = opened(reader(), server.url)
    for number, text in enumerate((TALL[:40], TALL[:30], TALL[:40])):
        server.fake(answer=text)
        say(page, f"question {number}")
        expect(page.locator(".said")).to_have_count(number + 1)
        expect(page.locator(ANSWER).last).to_contain_text("finished")
    server.fake(answer=["other"])
    page.get_by_role("button", name="Regenerate").nth(1).click()
    expect(page.get_by_text("2/2")).to_be_visible()
    server.fake(answer=TALL[:40])
    say(page, "more below it")
    expect(page.locator(".said")).to_have_count(3)
    expect(page.locator(ANSWER).last).to_contain_text("finished")
    step = page.get_by_role("button", name=re.compile("Earlier|Later"))
    for name, shown in (("Earlier version", "1/2"), ("Later version", "2/2")):
        expect(page.locator('[data-test-script-state="running"]')).to_have_count(0)  # it follows nothing any more
        button = page.get_by_role("button", name=name)
        button.scroll_into_view_if_needed()
        page.wait_for_timeout(100)
        before = button.bounding_box()
        button.click()
        expect(page.get_by_text(shown)).to_be_in_viewport()
        page.wait_for_timeout(700)
        after = step.first.bounding_box()
        assert before is not None and after is not None and abs(before["y"] - after["y"]) < 40, (before, after)


def test_a_long_open_block_is_drawn_in_parts_and_ends_in_one(
    reader: Callable[..., BrowserContext],
    server: Server,
) -> None:
    server.fake(answer=CODE, pause=0.04)
    page = opened(reader(), server.url)
    say(page, "go")
    blocks = page.locator(ANSWER).last.locator("pre code")
    expect(blocks).to_have_count(2)
    whole = "".join(CODE[1:-1])
    for _ in range(5):
        assert whole.startswith("\n".join(blocks.all_text_contents()).rstrip("\n"))
        page.wait_for_timeout(100)
    expect(page.get_by_text("first token")).to_be_visible()
    expect(blocks).to_have_count(1)
    assert blocks.text_content() == whole.removesuffix("\n")
    assert blocks.locator(".token.keyword").count() == 120


def test_a_phone_shows_what_was_chosen(reader: Callable[..., BrowserContext], server: Server) -> None:
    server.fake(answer=["wide " * 40, "\n\n| a | b | c |\n|---|---|---|\n| ", "x" * 90, " | y | z |\n"])
    page = opened(reader(**PHONE), server.url)
    say(page, "long " + "x" * 200)
    expect(page.locator(ANSWER).last).to_contain_text("finished")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for choose in (lambda: press(page, "New chat"), listed(page).first.click):
        page.get_by_test_id("stExpandSidebarButton").click()
        expect(page.get_by_role("button", name="New chat")).to_be_in_viewport()
        choose()
        expect(page.get_by_role("button", name="New chat")).not_to_be_in_viewport()
        shot(page, "phone")
    expect(page.locator(".said")).to_contain_text("long")
    buttons = page.locator(f"{ANSWER} [class*=st-key-icon_] button:visible")
    expect(buttons.last).to_be_visible()
    for box in [button.bounding_box() for button in buttons.all()]:
        assert box is not None and min(box["width"], box["height"]) >= 44


def test_text_and_code_are_copied_where_the_browser_gives_no_clipboard(
    reader: Callable[..., BrowserContext],
    server: Server,
) -> None:
    context = reader()
    context.add_init_script("Object.defineProperty(Navigator.prototype, 'clipboard', { get: () => undefined })")
    page = opened(context, server.url)
    server.fake(answer=["**bold** ", "text\n\n", "```\nthe code\n```\n"])
    say(page, "go")
    expect(page.locator(ANSWER).last).to_contain_text("finished")
    for button, text in (("Copy to clipboard", "the code"), ("Copy", "**bold** text\n\n```\nthe code\n```\n")):
        page.locator(ANSWER).last.locator("pre").hover()
        page.locator(ANSWER).last.get_by_role("button", name=button, exact=True).click()
        page.locator(BOX).fill("")
        page.locator(BOX).press("Control+V")
        expect(page.locator(BOX)).to_have_value(text)


@pytest.mark.parametrize(("scheme", "locale"), [("light", "en-US"), ("dark", "zh-CN")])
def test_every_control_has_a_name_and_can_be_read(
    reader: Callable[..., BrowserContext],
    server: Server,
    scheme: str,
    locale: str,
) -> None:
    page = opened(reader(locale=locale, color_scheme=scheme), server.url)
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.lang") == locale.removesuffix("-US")
    assert violations(page) == []
    server.fake(answer=["# Title\n\n", *CODE[:3], "# text\n```\n\n| a | b |\n|---|---|\n| `x` | \\(y\\) |\n"])
    say(page, "go")
    expect(page.locator(ANSWER).last).to_contain_text("seed" if locale == "en-US" else "种子")
    page.get_by_role("tab").nth(1).click()
    page.locator("[data-testid=stExpander] summary").click()
    page.locator("[class*=st-key-icon_edit_] button:visible").click()
    expect(page.locator(".st-key-edited_text textarea")).to_be_visible()
    page.wait_for_timeout(300)
    assert violations(page) == []
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == scheme  # dialogs stand there
    page.locator(".st-key-prompts_button button").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    page.wait_for_timeout(300)
    assert violations(page) == []


# How a control shows that it has the focus: a ring, or the colour of the border around it.
SEEN = """() => {
  let focused = document.activeElement;
  while (focused.shadowRoot?.activeElement) focused = focused.shadowRoot.activeElement;
  const style = getComputedStyle(focused);
  const ring = (style.outlineStyle !== 'none' && style.outlineWidth !== '0px') || style.boxShadow !== 'none';
  const primary = 'rgb(29, 86, 216)';
  let framed = false;
  for (let e = focused, i = 0; e && i < 5; e = e.parentElement, i++) {
    framed ||= getComputedStyle(e).borderTopColor === primary;
  }
  const name = focused.getAttribute('aria-label') || focused.innerText;
  return [focused.matches('main, body') ? focused.tagName : name.trim().split('\\n').pop(), ring || framed];
}"""


def test_every_control_is_reached_by_keyboard_and_shows_it(
    reader: Callable[..., BrowserContext],
    server: Server,
) -> None:
    page = opened(reader(), server.url)
    say(page, "go on")
    expect(page.locator(ANSWER).last).to_contain_text("finished")
    page.get_by_role("tab", name="Settings").click()
    expect(page.locator(".st-key-system textarea")).to_be_visible()
    page.mouse.click(900, 500)
    reached: dict[str, bool] = {}
    for _ in range(40):
        page.keyboard.press("Tab")
        for _ in range(10):  # some fade in
            name, seen = page.evaluate(SEEN)
            if seen:
                break
            page.wait_for_timeout(30)
        if name in reached and name == "New chat":
            break
        if name != "BODY":
            reached[name] = seen
    controls = {"New chat", "Settings", "max_length", "temperature", "More settings", "System prompt", "中文", "MAIN"}
    controls |= {"Edit this message", "Regenerate", "Copy", "As a request to the API", "Prompts"}
    controls.add("Message BlueLM-7B-Chat")
    assert controls <= {re.sub(r"^\w+_\w+ ", "", name) for name in reached}, reached
    assert not [name for name, seen in reached.items() if not seen and name in controls], reached
    assert "go on" in answer(page)
