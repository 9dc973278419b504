"""The real server, shut: what a stranger gets from every address of it, and what who may come in gets."""

from __future__ import annotations

import base64
import concurrent.futures
import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from bluelm.auth.keys import digest, new_key
from tests.servers import ROOT, Server, free_port, serve

PASSCODE = "open-sesame-1"
CHAT = {"messages": [{"role": "user", "content": "confidential words"}]}
KEYS = {name: new_key() for name in ("alice", "bob", "carol")}
ADDRESSES = (
    "/", "/?c=abc", "/?share=abc", "/index.html", "/favicon.png", "/manifest.json", "/static/js/index.js",
    "/media/abc.md",
    "/component/x/y", "/docs", "/docs/assets/swagger-ui.css", "/openapi.json", "/v1/models", "/v1/none", "/metrics",
    "/_stcore/health", "/_stcore/metrics", "/_stcore/host-config", "/_stcore/agent/openapi.json", "/_stcore/stream",
    "/_stcore/script-health-check", "/_stcore/upload_file/a/b", "/healthz", "/health/", "/health/none",
    "/health/../v1/models",
    "/%68ealth/..%2Fv1/models", "//v1/models", "/health%00", "/login/../v1/models", "/auth/login", "/oauth2callback",
)  # fmt: skip


@pytest.fixture(scope="module")
def shut(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    file = tmp_path_factory.mktemp("keys") / "keys.toml"
    limits = {"alice": "requests_per_minute = 2", "bob": "simultaneous = 1", "carol": "max_tokens = 5"}
    file.write_text("".join(f'[{n}]\nsha256 = "{digest(KEYS[n])}"\n{limit}\n' for n, limit in limits.items()))
    with serve(env={"BLUELM_PASSCODE": PASSCODE, "BLUELM_KEYS": str(file)}) as server:
        yield server


@pytest.fixture(scope="module")
def open_here() -> Iterator[Server]:
    with serve() as server:
        yield server


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def sign_in(server: Server) -> httpx.Client:
    client = httpx.Client(base_url=server.url)
    answer = client.post("/login", data={"passcode": PASSCODE}, headers={"Origin": server.url})
    assert answer.status_code == 303 and answer.headers["location"] == "/"
    return client


def raw(server: Server, method: str, target: str, *headers: str) -> int:
    """The status for exactly this target: no client in between tidies it up."""
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 5) as line:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}:{port}", "Connection: close", *headers, "", ""]
        line.sendall("\r\n".join(lines).encode())
        return int(line.makefile("rb").readline().split()[1])


def websocket_status(server: Server, **headers: str) -> int:
    url = server.url.replace("http", "ws") + "/_stcore/stream"
    try:
        with connect(url, additional_headers=headers, proxy=None, open_timeout=10):
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def test_a_stranger_gets_nothing_from_any_address(shut: Server) -> None:
    for address in ADDRESSES:
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
            assert raw(shut, method, address) in (400, 401), (method, address)


def test_a_strangers_browser_is_sent_to_sign_in(shut: Server) -> None:
    answer = httpx.get(shut.url + "/?c=abc", headers={"Accept": "text/html,*/*"})
    assert answer.status_code == 303 and answer.headers["location"] == "/login?next=%2F%3Fc%3Dabc"


def test_health_is_open_and_tells_a_stranger_no_more_than_that(shut: Server) -> None:
    told, known = httpx.get(shut.url + "/health"), httpx.get(shut.url + "/health", headers=bearer(PASSCODE))
    assert told.status_code == 200 and told.json()["status"] == "ok"
    assert told.json()["model"] is None and known.json()["model"]["id"] == "fake"
    assert known.json()["cache_total"] and not told.json()["cache_total"]


def test_no_websocket_opens_for_a_stranger_nor_for_another_site(shut: Server) -> None:
    cookie = "; ".join(f"{name}={value}" for name, value in sign_in(shut).cookies.items())
    own = {"Origin": shut.url}
    assert websocket_status(shut) == websocket_status(shut, **own) == 403
    assert websocket_status(shut, Cookie="bluelm_session=1.2.3.p.x", **own) == 403
    for origin in ("https://evil.com", "null", "http://127.0.0.1:1", "http://localhost:6006"):
        assert websocket_status(shut, Cookie=cookie, Origin=origin) == 403, origin
    assert websocket_status(shut, Cookie=cookie, **own) == 101
    assert websocket_status(shut, **bearer(PASSCODE)) == 101


def test_another_site_can_do_nothing_in_a_signed_in_browsers_name(shut: Server) -> None:
    client = sign_in(shut)
    assert client.post("/v1/chat/completions", json=CHAT, headers={"Origin": shut.url}).status_code == 200
    for headers in ({"Origin": "https://evil.com"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        for path in ("/", "/v1/chat/completions", "/_stcore/upload_file/a/b"):
            answer = client.post(path, json={"prompt": "hi"}, headers=headers)
            assert answer.status_code == 403 and "BLUELM_PUBLIC_URL" in answer.text
        assert client.post("/logout", headers=headers).status_code == 200, "the form is shown again"
    assert client.get("/v1/models").status_code == 200, "still signed in"
    assert (
        httpx.post(shut.url + "/login", data={"passcode": PASSCODE}, headers={"Origin": "https://evil.com"}).status_code
        == 403
    )


def test_a_proxys_own_password_is_neither_a_key_nor_in_the_way(shut: Server) -> None:
    basic = {"Authorization": "Basic " + base64.b64encode(f"user:{PASSCODE}".encode()).decode()}
    assert httpx.get(shut.url + "/v1/models", headers=basic).status_code == 401
    assert sign_in(shut).get("/v1/models", headers=basic).status_code == 200


def test_who_signed_out_is_out_even_with_a_copied_cookie(shut: Server) -> None:
    client = sign_in(shut)
    copied = dict(client.cookies)
    assert client.post("/logout", headers={"Origin": shut.url}).status_code == 303
    assert not client.cookies.get("bluelm_session")
    assert httpx.get(shut.url + "/v1/models", cookies=copied).status_code == 401


def test_the_openai_client_gets_its_own_errors(shut: Server) -> None:
    def models(key: str) -> Any:
        return openai.OpenAI(base_url=shut.url + "/v1", api_key=key, max_retries=0).models.list()

    with pytest.raises(openai.AuthenticationError) as refused:
        models("none")
    assert refused.value.code == "invalid_api_key" and "Bearer" in refused.value.message
    assert refused.value.response.headers["WWW-Authenticate"].startswith("Bearer")
    assert models(PASSCODE).data[0].id == models(KEYS["alice"]).data[0].id == "fake"
    answer = httpx.post(shut.url, json={"prompt": "hi"})
    assert answer.status_code == 401 and answer.json()["status"] == 401 and "Bearer" in answer.json()["error"]


def test_a_key_is_held_to_its_requests_a_minute(shut: Server) -> None:
    def ask() -> httpx.Response:
        return httpx.post(shut.url + "/v1/chat/completions", json=CHAT, headers=bearer(KEYS["alice"]))

    assert [ask().status_code, ask().status_code] == [200, 200]
    refused = ask()
    assert refused.status_code == 429 and int(refused.headers["Retry-After"]) >= 1
    assert refused.json()["error"]["type"] == "rate_limit_error" and "alice" in refused.json()["error"]["message"]


def test_a_key_is_held_to_its_requests_at_a_time(shut: Server) -> None:
    shut.fake(answer=["x "] * 20, pause=0.05)
    body = {**CHAT, "stream": True}
    with httpx.stream("POST", shut.url + "/v1/chat/completions", json=body, headers=bearer(KEYS["bob"])) as first:
        lines = first.iter_lines()  # letting go of it would hang up
        assert next(lines)
        second = httpx.post(shut.url + "/v1/chat/completions", json=CHAT, headers=bearer(KEYS["bob"]))
        assert second.status_code == 429 and second.headers["Retry-After"]
    shut.wait_idle()
    shut.fake(answer=[], pause=0.0)
    assert httpx.post(shut.url + "/v1/chat/completions", json=CHAT, headers=bearer(KEYS["bob"])).status_code == 200


def test_a_key_is_held_to_its_tokens(shut: Server) -> None:
    shut.fake(answer=["x"] * 50, pause=0.0)

    def ask(**more: int) -> httpx.Response:
        return httpx.post(shut.url + "/v1/completions", json={"prompt": "hi", **more}, headers=bearer(KEYS["carol"]))

    assert ask().json()["usage"]["completion_tokens"] == ask(max_tokens=5).json()["usage"]["completion_tokens"] == 5
    refused = ask(max_tokens=6)
    assert (
        refused.status_code == 400 and "at most 5" in refused.text and refused.json()["error"]["param"] == "max_tokens"
    )
    shut.fake(answer=[])


def test_wrong_passcodes_have_to_wait_and_do_not_shut_others_out() -> None:
    with serve(env={"BLUELM_PASSCODE": PASSCODE}) as server:
        signed_in = sign_in(server)
        for _ in range(5):
            assert httpx.post(server.url + "/login", data={"passcode": "wrong"}).status_code == 401
        for given in ("wrong", PASSCODE):
            held = httpx.post(server.url + "/login", data={"passcode": given})
            assert held.status_code == 429 and int(held.headers["Retry-After"]) > 0
        for _ in range(5):
            assert httpx.get(server.url + "/v1/models", headers=bearer("wrong")).status_code == 401
        held = httpx.get(server.url + "/v1/models", headers=bearer(PASSCODE))
        assert held.status_code == 429 and held.headers["Retry-After"]
        assert signed_in.get("/v1/models").status_code == 200, "who is signed in stays in"
        other = httpx.post(
            server.url + "/login", data={"passcode": PASSCODE}, headers={"X-Forwarded-For": "203.0.113.9"}
        )
        assert other.status_code == 303, "another address is not held up"
        again = httpx.post(server.url + "/login", data={"passcode": PASSCODE}, cookies=dict(signed_in.cookies))
        assert again.status_code == 303, "nor a browser that was signed in before"


def test_neither_secrets_nor_what_is_said_come_into_the_log(shut: Server) -> None:
    client = sign_in(shut)
    client.post("/v1/chat/completions", json=CHAT)
    client.post("/v1/chat/completions", json={**CHAT, "max_tokens": "confidential words"})
    shut.fake(fail_after=0)
    client.post("/v1/chat/completions", json=CHAT)
    shut.fake(fail_after=-1)
    httpx.get(shut.url + "/v1/models", headers=bearer("a-wrong-secret"))
    httpx.post(shut.url + "/login", data={"passcode": "a-wrong-secret"})
    log = shut.log()
    assert "A wrong passcode or key from 127.0.0.1" in log
    secrets = [PASSCODE, "a-wrong-secret", "confidential", client.cookies["bluelm_session"], *KEYS.values()]
    assert not [secret for secret in secrets if secret in log]


def test_every_answer_tells_browsers_what_to_refuse(shut: Server) -> None:
    client = sign_in(shut)
    for path in ("/", "/v1/models", "/v1/none", "/health", "/login", "/docs", "/media/none.md", "/static/none.js"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "same-origin"
        assert "frame-ancestors" in headers["content-security-policy"]
    assert "sandbox" in client.get("/media/none.md").headers["content-security-policy"]
    assert "unsafe-inline" not in client.get("/").headers["content-security-policy"].split("style-src")[0]


@pytest.mark.parametrize("path", ["/", "/v1/chat/completions", "/login", "/none"])
def test_a_body_without_end_is_cut_off(shut: Server, path: str) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 64 * 2**20:
            sent += 65536
            yield b"x" * 65536

    with contextlib.suppress(httpx.TransportError):  # hung up in mid-body
        answer = httpx.post(shut.url + path, content=endless(), headers=bearer(PASSCODE))
        assert answer.status_code in (401, 405, 413)
    assert sent < 24 * 2**20
    assert httpx.get(shut.url + "/health").status_code == 200


def test_a_stated_length_beyond_the_limit_is_refused_at_once(shut: Server) -> None:
    headers = f"Authorization: Bearer {PASSCODE}", f"Content-Length: {70 * 2**20}"
    assert raw(shut, "PUT", "/_stcore/upload_file/a/b", *headers) == 413
    assert raw(shut, "POST", "/v1/completions", *headers) == 413


# --- without a passcode ---


def test_without_a_passcode_only_this_machine_is_served(open_here: Server) -> None:
    port = open_here.url.rsplit(":", 1)[1]

    def status(**headers: str) -> tuple[int, int]:
        asked = httpx.post(open_here.url, json={"prompt": "hi"}, headers=headers).status_code
        return asked, websocket_status(open_here, **headers)

    assert status() == status(Origin=open_here.url) == (200, 101)
    assert httpx.post(f"http://localhost:{port}", json={"prompt": "hi"}).status_code == 200
    for origin in ("https://evil.com", "null", f"http://evil.com:{port}", "http://127.0.0.1:1"):
        assert status(Origin=origin) == (403, 403), origin
    for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "Via", "X-Forwarded-Host"):
        assert status(**{name: "203.0.113.1"}) == (403, 403), name
    assert httpx.post(open_here.url, json={"prompt": "hi"}, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403


def test_without_a_passcode_a_name_made_to_mean_this_machine_is_refused(open_here: Server) -> None:
    """DNS rebinding: the page of evil.com and this app are one origin to the browser."""
    port = open_here.url.rsplit(":", 1)[1]
    host = f"evil.com:{port}"
    for path in ("/", "/v1/models", "/docs", "/_stcore/health"):
        assert httpx.get(open_here.url + path, headers={"Host": host}).status_code == 403
    answer = httpx.post(open_here.url, json={"prompt": "hi"}, headers={"Host": host, "Origin": f"http://{host}"})
    assert answer.status_code == 403 and "localhost" in answer.json()["error"]


@pytest.mark.parametrize(
    "how", [["-m", "streamlit", "run", "app.py"], ["-m", "scripts.run"]], ids=["streamlit", "make"]
)
def test_the_start_is_refused_where_others_could_come_in(how: list[str], tmp_path: Path) -> None:
    options = ["--server.address=0.0.0.0", f"--server.port={free_port()}"]
    command = [sys.executable, *how, *options]
    ended = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "set BLUELM_PASSCODE" in ended.stderr and "Traceback" not in ended.stderr


def test_many_sign_in_at_once(shut: Server) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        clients = list(pool.map(lambda _: sign_in(shut), range(24)))
    assert len({client.cookies["bluelm_session"] for client in clients}) == 24
