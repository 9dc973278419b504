"""What every test stands on: a clean environment, steady property tests, and a Chromium or a loud miss."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

# Settings of whoever runs the tests must not reach them, nor the servers they start; nothing is fetched from a hub.
for name in [n for n in os.environ if n.startswith(("BLUELM_", "STREAMLIT_"))]:
    del os.environ[name]
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["BLUELM_MODEL"] = "demo"  # not what somebody has downloaded
# Two workers with two threads each would wait for one another at every product; an engine chooses for itself.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["BLUELM_DATA"] = tempfile.mkdtemp(prefix="bluelm-test-data-")

BROWSER_REQUIRED = bool(os.environ.get("REQUIRE_BROWSER"))
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")

hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")


@pytest.fixture(scope="session", autouse=True)
def _data_folder() -> Iterator[None]:
    yield
    shutil.rmtree(os.environ["BLUELM_DATA"], ignore_errors=True)


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """The installed Chromium ($CHROMIUM or one on PATH); without one the test is skipped (see REQUIRE_BROWSER)."""
    for name in (os.environ.get("CHROMIUM", ""), *CHROMIUMS):
        if name and (path := shutil.which(name)):
            return path
    pytest.skip("no Chromium: apt install chromium, or set CHROMIUM to its path")


@pytest.fixture(scope="session")
def started_app() -> Iterator[Any]:
    from tests.servers import serve

    with serve() as server:
        yield server


@pytest.fixture
def fake_server(started_app: Any) -> Any:
    """The real app over the fake, one for all files that do not end it; the fake says prompts back, and has time."""
    started_app.fake(answer=[], pause=0.0, slots=32, phase="ready", progress=1.0, fail_after=-1, waits=0.0)
    return started_app


@pytest.fixture(scope="module")
def browser(chromium_path: str) -> Iterator[Any]:
    """A Chromium of a test file's own."""
    from playwright.sync_api import sync_playwright

    from tests.browser_kit import ARGS

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path, args=ARGS.split())
        yield browser
        browser.close()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Under REQUIRE_BROWSER a whole run without any browser test is a mistake, not a success."""
    narrowed = config.args != config.getini("testpaths") or config.option.keyword or config.option.markexpr
    if BROWSER_REQUIRED and not narrowed and not any(item.get_closest_marker("browser") for item in items):
        raise pytest.UsageError("REQUIRE_BROWSER is set, and no browser test was found (were they skipped as a file?)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]
    """Under REQUIRE_BROWSER a skipped browser test is a failed one."""
    report = yield
    if BROWSER_REQUIRED and report.skipped and item.get_closest_marker("browser"):
        report.outcome = "failed"
        report.longrepr = f"REQUIRE_BROWSER is set, but this was skipped: {report.longrepr}"
    return report
