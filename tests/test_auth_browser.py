"""Signing in with a real browser: at the app itself, behind proxies as platforms have them, and through a tunnel."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.browser_kit import ANSWER, ARGS, BOX, Line, say, shot
from tests.proxies import ReverseProxy, certificate
from tests.servers import Server, serve

pytestmark = pytest.mark.browser

PASSCODE = "open-sesame-1"
NAME = "u1-abcd.westb.example.test"
HOSTILE = """<script>window.ran = 1</script><img src=x onerror="window.ran = 1">
![leak](http://leak.invalid/a.png) [run](javascript:window.ran=1) <iframe src="http://leak.invalid/b"></iframe>
<svg onload="window.ran = 1"></svg> <style>@import "http://leak.invalid/c.css";</style> $\\href{javascript:ran=1}{x}$
$$\\includegraphics{http://leak.invalid/d.png}$$ \\(\\htmlData{x=y}{z}\\) [ref]: http://leak.invalid/e

the end of it"""


@pytest.fixture(scope="module")
def browser(chromium_path: str) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        mapped = f"--host-resolver-rules=MAP {NAME} 127.0.0.1"
        browser = playwright.chromium.launch(executable_path=chromium_path, args=[*ARGS.split(), mapped])
        yield browser
        browser.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(locale="en-US", ignore_https_errors=True)
    yield context
    context.close()


@dataclass(frozen=True)
class Ways:
    """A server that is to be found at two proxies; of a third it was not told."""

    server: Server
    platform: str
    rewriting: str
    untold: str


@pytest.fixture(scope="module")
def ways() -> Iterator[Ways]:
    tls = certificate(NAME)
    proxies = {
        "https": ReverseProxy(NAME, tls=tls),  # TLS taken off, the port dropped: what AutoDL does
        "http": ReverseProxy("127.0.0.1:6006", ("X-Forwarded-For: 203.0.113.7", "X-Forwarded-Proto: http")),
        "untold": ReverseProxy("127.0.0.1:6006"),
    }
    urls = [f"https://{NAME}:{proxies['https'].port}", f"http://{NAME}:{proxies['http'].port}"]
    with serve(env={"BLUELM_PASSCODE": PASSCODE, "BLUELM_PUBLIC_URL": ",".join(urls)}) as server:
        for proxy in proxies.values():
            proxy.target = server.url
        yield Ways(server, urls[0], urls[1], f"http://{NAME}:{proxies['untold'].port}")
        for proxy in proxies.values():
            proxy.close()


@pytest.fixture(scope="module")
def server(ways: Ways) -> Server:
    return ways.server


def sign_in(page: Page, url: str, passcode: str = PASSCODE) -> None:
    page.goto(url)
    expect(page).to_have_url(re.compile("/login"))
    page.fill("#passcode", passcode)
    page.keyboard.press("Enter")


def complaints(page: Page) -> list[str]:
    """What the browser refused or could not do, as its console tells."""
    found: list[str] = []
    page.on("console", lambda message: found.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    return found


def test_one_signs_in_once_and_chats(context: BrowserContext, server: Server) -> None:
    page = context.new_page()
    refused = complaints(page)
    sign_in(page, server.url, "not the passcode")
    expect(page.get_by_role("alert")).to_have_text("This is not the passcode.")
    shot(page, "sign_in")
    refused.clear()  # the 401 itself
    page.fill("#passcode", PASSCODE)
    page.keyboard.press("Enter")
    say(page, "hello there")
    expect(page.locator(ANSWER).last).to_contain_text("hello there")
    again = context.new_page()
    again.goto(server.url)
    expect(again.locator(BOX)).to_be_visible()
    again.goto(server.url + "/docs")
    expect(again.locator(".opblock").first).to_be_visible()
    page.get_by_role("button", name="Export and import").click()
    with page.expect_download() as download:
        page.get_by_role("dialog").get_by_role("button", name="Markdown").click()
    for address in (download.value.url, page.url):
        got = httpx.get(address)
        assert got.status_code == 401 and "hello" not in got.text, "no stranger gets an export or a conversation"
    mine = httpx.get(download.value.url, cookies={c["name"]: c["value"] for c in context.cookies()})  # type: ignore[typeddict-item]
    assert "hello there" in mine.text and "sandbox" in mine.headers["content-security-policy"]
    assert not refused


def test_through_a_tunnel_to_another_port_one_chats_and_signing_out_ends_every_tab(
    context: BrowserContext, server: Server
) -> None:
    tunnel = Line(server.url)  # what `ssh -L` does
    page, other = context.new_page(), context.new_page()
    sign_in(page, tunnel.url)
    say(page, "through the tunnel")
    expect(page.locator(ANSWER).last).to_contain_text("through the tunnel")
    with other.expect_websocket() as opened:
        other.goto(tunnel.url)
    expect(other.locator(BOX)).to_be_visible()
    line = opened.value
    with line.expect_event("close"):
        page.get_by_role("link", name="Sign out").click()
        page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_url(re.compile("/login$"))
    expect(other).to_have_url(re.compile("/login"))
    tunnel.close()


def test_an_open_page_whose_session_is_over_leads_to_signing_in_and_back(context: BrowserContext, ways: Ways) -> None:
    """The cookie is gone, as a browser drops one at its end, and the line breaks; nobody reloads."""
    line = Line(ways.server.url)
    page = context.new_page()
    sign_in(page, line.url)
    say(page, "before the end")
    expect(page.locator(ANSWER).last).to_contain_text("before the end")
    expect(page).to_have_url(re.compile(r"\?c="))
    there = page.url
    context.clear_cookies(name=re.compile("session"))
    line.cut()
    expect(page).to_have_url(re.compile("/login"))
    page.fill("#passcode", PASSCODE)
    page.keyboard.press("Enter")
    expect(page).to_have_url(there)
    expect(page.locator(ANSWER).last).to_contain_text("before the end")
    line.close()


@pytest.mark.parametrize("way", ["platform", "rewriting"])
def test_the_page_chats_behind_a_proxy_that_rewrites_host(context: BrowserContext, ways: Ways, way: str) -> None:
    page, url = context.new_page(), getattr(ways, way)
    sign_in(page, url + "/?lang=none")
    say(page, "through the proxy")
    expect(page.locator(ANSWER).last).to_contain_text("through the proxy")
    secure = url.startswith("https://")
    for cookie in context.cookies():
        if cookie["name"].startswith(("bluelm", "__Host-")):
            assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (secure, True, "Lax")
    assert ("__Host-bluelm_session" in {cookie["name"] for cookie in context.cookies()}) is secure


def test_behind_a_proxy_of_which_it_was_not_told_the_page_says_what_to_set(context: BrowserContext, ways: Ways) -> None:
    page = context.new_page()
    sign_in(page, ways.untold)
    expect(page.get_by_role("alert")).to_contain_text("BLUELM_PUBLIC_URL")
    expect(page.get_by_role("alert")).to_contain_text(ways.untold)


def test_the_text_of_a_model_neither_runs_nor_fetches(context: BrowserContext, server: Server) -> None:
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    sign_in(page, server.url)
    expect(page.locator(BOX)).to_be_visible()
    server.fake(answer=[HOSTILE])
    say(page, "be hostile")
    expect(page.locator(ANSWER).last).to_contain_text("the end of it")
    server.fake(answer=[])
    assert not page.evaluate("() => window.ran")
    foreign = [url for url in asked if not url.startswith((server.url, "data:", "blob:"))]
    assert not foreign
    # And were a text ever drawn as it is, the browser itself would refuse.
    refused = page.evaluate(
        """async () => {
          const refused = [];
          addEventListener('securitypolicyviolation', event => refused.push(event.effectiveDirective));
          document.body.insertAdjacentHTML('beforeend',
            '<img src="http://leak.invalid/x.png" onerror="window.ran = 1"><a id=bait href="javascript:ran=2">x</a>'
            + '<iframe src="http://leak.invalid/"></iframe><form action="http://leak.invalid/"></form>');
          document.getElementById('bait').click();
          const script = document.createElement('script');
          script.textContent = 'window.ran = 3';
          document.body.append(script);
          await fetch('http://leak.invalid/').catch(() => 0);
          await new Promise(done => setTimeout(done, 200));
          return refused;
        }"""
    )
    assert {"img-src", "script-src-elem", "connect-src"} <= set(refused)
    assert not page.evaluate("() => window.ran")
