"""The real app on loopback, spoken to by the clients that people use: openai's, requests and curl."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
import requests

from tests.servers import Server, serve

HI: list[Any] = [{"role": "user", "content": "你好 world"}]
COUNT = [f"{number} " for number in range(1000)]


@pytest.fixture
def server(fake_server: Server) -> Server:
    return fake_server


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def curl(*words: str) -> str:
    program = shutil.which("curl")
    if program is None:
        pytest.skip("no curl")
    return subprocess.run([program, "-s", *words], capture_output=True, text=True, timeout=20, check=True).stdout


# --- the tutorial's own examples ---


def test_the_tutorials_curl_example_works_word_for_word(server: Server) -> None:
    told = curl(
        "-X", "POST", server.url,
        "-H", "Content-Type: application/json",
        "-d", '{"prompt": "你好"}',
    )  # fmt: skip
    assert json.loads(told)["response"] == "你好 "
    assert json.loads(told)["status"] == 200


def test_the_tutorials_requests_example_works_word_for_word(server: Server) -> None:
    def get_completion(prompt: str) -> Any:
        headers = {"Content-Type": "application/json"}
        data = {"prompt": prompt}
        response = requests.post(url=server.url, headers=headers, data=json.dumps(data), timeout=20)
        return response.json()["response"]

    assert get_completion("你好") == "你好 "


def test_a_stream_over_curl_arrives_piece_by_piece(server: Server) -> None:
    server.fake(answer=["a", "b", "c"], pause=0.2)
    body: Any = {"messages": HI, "stream": True}
    came = []
    with requests.post(server.url + "/v1/chat/completions", json=body, stream=True, timeout=20) as response:
        for line in response.iter_lines():
            if line:
                came.append(time.monotonic())
    assert len(came) == 6  # role, three pieces, reason, [DONE]
    assert came[2] - came[1] > 0.1 and came[3] - came[2] > 0.1


# --- openai's client ---


def test_openais_client_chats(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="fake", messages=HI, max_tokens=1, extra_body={"top_k": 5})
    assert answer.choices[0].message.content == "你好 "
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.completion_tokens == 1
    assert answer._request_id and answer.id.startswith("chatcmpl-")


def test_openais_client_can_send_an_answer_back(client: openai.OpenAI) -> None:
    first = client.chat.completions.create(model="fake", messages=HI).choices[0].message
    talk: list[Any] = [*HI, first.model_dump(), {"role": "user", "content": "and now"}]
    assert client.chat.completions.create(model="fake", messages=talk).choices[0].message.content == "and now "


def test_openais_client_reads_how_likely_tokens_were(client: openai.OpenAI) -> None:
    asked: Any = {"model": "fake", "messages": HI, "logprobs": True, "top_logprobs": 2}
    chances = client.chat.completions.create(**asked).choices[0].logprobs
    assert chances is not None and chances.content is not None
    assert [one.token for one in chances.content] == ["你好 ", "world "]
    assert bytes(chances.content[0].bytes or []).decode() == "你好 " and chances.content[0].logprob == -0.7
    assert [other.token for other in chances.content[0].top_logprobs] == ["你好 ", "A"]
    streamed = [event.choices[0].logprobs for event in client.chat.completions.create(**asked, stream=True)]
    assert [one for told in streamed if told for one in told.content or []] == chances.content
    older = client.completions.create(model="fake", prompt="a b", logprobs=1).choices[0].logprobs
    assert older is not None and older.tokens == ["a ", "b "] and older.text_offset == [0, 2]
    assert older.top_logprobs == [{"a ": -0.7}, {"b ": -0.7}]


def test_openais_client_streams(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    stream = client.chat.completions.create(model="fake", messages=HI, stream=True, stream_options=options)
    events = list(stream)
    assert "".join(event.choices[0].delta.content or "" for event in events if event.choices) == "你好 world "
    assert events[-1].usage is not None and events[-1].usage.completion_tokens == 2
    assert events[-2].choices[0].finish_reason == "stop"


def test_openais_stream_helper_gathers_the_answer(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(model="fake", messages=HI) as stream:
        assert stream.get_final_completion().choices[0].message.content == "你好 world "


def test_openais_client_completes_whole_and_streamed(client: openai.OpenAI) -> None:
    assert client.completions.create(model="fake", prompt="a b").choices[0].text == "a b "
    pieces = client.completions.create(model="fake", prompt="a b", stream=True)
    assert "".join(piece.choices[0].text for piece in pieces) == "a b "


def test_openais_client_lists_the_model(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["fake"]
    assert client.models.retrieve("fake").object == "model"


def test_openais_async_client_streams_many_at_a_time(server: Server) -> None:
    server.fake(pause=0.01)

    async def one(client: openai.AsyncOpenAI, number: int) -> str:
        said: list[Any] = [{"role": "user", "content": f"{number} is my number"}]
        stream = await client.chat.completions.create(model="fake", messages=said, stream=True)
        return "".join([event.choices[0].delta.content or "" async for event in stream])

    async def all_of_them() -> list[str]:
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
            return list(await asyncio.gather(*(one(client, number) for number in range(24))))

    assert asyncio.run(all_of_them()) == [f"{number} is my number " for number in range(24)]


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"model": "gpt-4"}, openai.NotFoundError, "There is no model 'gpt-4'"),
        ({"temperature": 3}, openai.BadRequestError, "temperature is 3"),
        ({"n": 200}, openai.BadRequestError, "n is 200: it must be a whole number from 1 to 128"),
        ({"store": True}, openai.BadRequestError, "store is not supported"),
        ({"extra_body": {"min_p": 1}}, openai.BadRequestError, "Unknown: 'min_p'"),
    ],
)
def test_openais_client_raises_its_own_kinds_of_errors(
    client: openai.OpenAI, given: Any, kind: type[openai.APIStatusError], words: str
) -> None:
    with pytest.raises(kind, match=words) as caught:
        client.chat.completions.create(**{"model": "fake", "messages": HI, **given})
    assert caught.value.code and caught.value.type == "invalid_request_error"


def test_a_full_queue_is_a_rate_limit_to_openais_client(server: Server, client: openai.OpenAI) -> None:
    server.fake(slots=0)
    with pytest.raises(openai.RateLimitError) as caught:
        client.chat.completions.create(model="fake", messages=HI)
    assert caught.value.response.headers["retry-after"] == "5"


def test_openais_client_waits_for_a_model_that_loads(server: Server) -> None:
    server.fake(phase="loading", progress=0.5, detail="reading")
    done = threading.Timer(0.5, server.fake, kwargs={"phase": "ready"})
    done.start()
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=3) as client:
        assert client.chat.completions.create(model="fake", messages=HI).choices[0].message.content == "你好 world "
    done.join()


def test_an_engine_that_dies_in_mid_stream_raises_in_openais_client(server: Server, client: openai.OpenAI) -> None:
    server.fake(fail_after=1)
    came = []
    with pytest.raises(openai.APIError, match="The engine stopped"):
        for event in client.chat.completions.create(model="fake", messages=HI, stream=True):
            came.append(event.choices[0].delta.content)
    assert came == ["", "你好 "]


# --- many clients, and clients that go ---


def test_two_hundred_at_once_are_all_answered(server: Server) -> None:
    server.fake(waits=0.2, slots=500)

    async def all_of_them() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
            chats = [client.chat.completions.create(model="fake", messages=HI) for _ in range(200)]
            return [answer.choices[0].message.content for answer in await asyncio.gather(*chats)]

    assert asyncio.run(all_of_them()) == ["你好 world "] * 200


def test_a_stream_that_is_closed_frees_the_engine(server: Server, client: openai.OpenAI) -> None:
    server.fake(answer=COUNT, pause=0.01)
    stream = client.chat.completions.create(model="fake", messages=HI, stream=True)
    for event in stream:
        if event.choices[0].delta.content == "2 ":
            break
    assert server.health()["running"] == 1
    stream.close()
    server.wait_idle()


@pytest.mark.parametrize("body", [{"prompt": "hi"}, {"messages": HI}, {"messages": HI, "stream": True}])
def test_a_broken_connection_frees_the_engine_before_any_byte_came(server: Server, body: Any) -> None:
    server.fake(answer=COUNT, pause=3600.0)
    path = "/" if "prompt" in body else "/v1/chat/completions"
    sent = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(sent)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as connection:
        connection.sendall(head.encode() + sent)
        server._until(lambda: server.health()["running"] == 1, 5, "the answer did not begin")
    server.wait_idle()


# --- one port for pages and programs ---


def test_the_page_and_the_api_share_one_address(server: Server) -> None:
    page = requests.get(server.url, timeout=20)
    assert page.status_code == 200 and "<html" in page.text
    assert requests.get(server.url + "/docs", timeout=20).text.count("swagger") > 2
    assert requests.get(server.url + "/openapi.json", timeout=20).json()["openapi"].startswith("3.")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/nope", 404), ("GET", "/docs/nope", 404), ("PUT", "/", 405), ("POST", "/chat", 405),
     ("DELETE", "/v1/models", 405), ("POST", "/health", 405)],
)  # fmt: skip
def test_what_is_no_page_is_never_answered_with_the_page(server: Server, method: str, path: str, status: int) -> None:
    answer = requests.request(method, server.url + path, timeout=20)
    assert answer.status_code == status
    assert answer.json()["error"]


def test_it_listens_on_loopback_alone(server: Server) -> None:
    port = int(server.url.rsplit(":", 1)[1])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.2", port)) != 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_open_answers_and_the_app_at_once(number: signal.Signals) -> None:
    with serve(answer=COUNT, pause=0.05, env={"BLUELM_DRAIN_S": "0"}) as server:
        body: Any = {"messages": HI, "stream": True}
        with requests.post(server.url + "/v1/chat/completions", json=body, stream=True, timeout=20) as response:
            lines = response.iter_lines()
            next(lines)
            begun = time.monotonic()
            server.process.send_signal(number)
            last = [line for line in lines if line][-1]
            server.process.wait(10)
        assert json.loads(last.removeprefix(b"data: "))["error"]["message"]
        assert time.monotonic() - begun < 5
        assert "Traceback" not in server.log()
