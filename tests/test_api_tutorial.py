"""POST /, the tutorial's API."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from bluelm.errors import EngineDied, EngineDown, PromptTooLong, QueueFull
from bluelm.types import Message, ModelKind, Phase, Role, SamplingParams
from tests.api_kit import Api
from tests.fakes import INFO, FakeEngine


@pytest.fixture
def api() -> Api:
    return Api()


def test_the_answer_alone_is_the_response(api: Api) -> None:
    answer = api.post("/", {"prompt": "你好 吗"})
    assert answer.status_code == 200
    assert answer.json()["response"] == "你好 吗 "
    assert set(answer.json()) == {"response", "status", "time"}
    assert answer.json()["status"] == 200


def test_the_time_is_the_servers_clock_to_the_second(api: Api) -> None:
    told = datetime.strptime(api.post("/", {"prompt": "hi"}).json()["time"], "%Y-%m-%d %H:%M:%S")
    assert abs(datetime.now() - told) < timedelta(seconds=5)


def test_echo_puts_the_prompt_and_a_space_in_front() -> None:
    api = Api(FakeEngine(lambda prompt, params: ["你好！", "很高兴见到你"]))
    answer = api.post("/", {"prompt": "你好", "echo": True})
    assert answer.json()["response"] == "你好 你好！很高兴见到你"


def test_the_prompt_is_one_user_message_to_a_chat_model(api: Api) -> None:
    api.post("/", {"prompt": " hi "})
    assert api.engine.seen[0][0] == (Message(Role.USER, " hi "),)


def test_the_prompt_is_a_plain_text_to_a_base_model(api: Api) -> None:
    api.engine.now = replace(api.engine.now, model=replace(INFO, kind=ModelKind.BASE))
    api.post("/", {"prompt": "once upon"})
    assert api.engine.seen[0][0] == "once upon"


def test_every_setting_reaches_the_sampler(api: Api) -> None:
    given = {"max_length": 3, "temperature": 0, "top_p": 0.5, "top_k": 4, "repetition_penalty": 1.1, "seed": 5}
    api.post("/", {"prompt": "hi", **given, "stop": "x"})
    assert api.engine.seen[0][1] == SamplingParams(**given, stop=("x",))  # type: ignore[arg-type]


def test_what_is_left_out_or_null_is_the_models_own_default(api: Api) -> None:
    defaults = SamplingParams(max_length=7, temperature=0.3, repetition_penalty=1.1)
    api.engine.now = replace(api.engine.now, model=replace(INFO, defaults=defaults))
    api.post("/", {"prompt": "hi", "temperature": None, "top_k": 2})
    assert api.engine.seen[0][1] == replace(defaults, top_k=2)


def test_max_length_counts_new_tokens(api: Api) -> None:
    assert api.post("/", {"prompt": "a b c d", "max_length": 2}).json()["response"] == "a b "


BAD: list[tuple[Any, str]] = [
    (b"", "not JSON"),
    (b"{", "not JSON"),
    (b'{"prompt": NaN}', "NaN"),
    (b'{"prompt": "a", "prompt": "b"}', "'prompt' is given twice"),
    (b'{"prompt": "\xff"}', "not UTF-8 (at byte 12)"),
    (b"[" * 100_000, "nested too deeply"),
    (b"1" * 5_000, "not JSON"),
    ([1], "not a JSON object"),
    ("hi", "not a JSON object"),
    (None, "not a JSON object"),
    ({}, "prompt is missing"),
    ({"prompt": None}, "prompt is None"),
    ({"prompt": 5}, "prompt is 5: it must be a valid string"),
    ({"prompt": ""}, "prompt is ''"),
    ({"prompt": " \n"}, "it must be a text that says something"),
    ({"prompt": "\ud800"}, "prompt has half of a character"),
    ({"prompt": "hi", "stop": ["a", "\udfff"]}, "stop[1] has half of a character"),
    ({"prompt": "hi", "\ud800": 1}, "half of a character"),
    ({"prompt": "hi", "max_lenght": 5, "n": 1}, "Unknown: 'max_lenght', 'n'. The fields here are"),
    ({"prompt": "hi", "max_length": "5"}, "max_length is '5': it must be a valid integer"),
    ({"prompt": "hi", "max_length": True}, "max_length is True"),
    ({"prompt": "hi", "max_length": 5.0}, "max_length is 5.0"),
    ({"prompt": "hi", "max_length": 0}, "max_length is 0: it must be a whole number of new tokens, 1 or more"),
    ({"prompt": "hi", "max_length": 2000}, "shorten the prompt or lower max_length"),
    ({"prompt": "hi", "temperature": 2.1}, "temperature is 2.1: it must be a number from 0 to 2"),
    ({"prompt": "hi", "temperature": "hot"}, "temperature is 'hot'"),
    ({"prompt": "hi", "temperature": 10**400}, "temperature is "),
    ({"prompt": "hi", "top_p": 0}, "top_p is 0"),
    ({"prompt": "hi", "top_k": -1}, "top_k is -1"),
    ({"prompt": "hi", "seed": 2**63}, "seed is 9223372036854775808"),
    ({"prompt": "hi", "stop": [""]}, "stop is ('',)"),
    ({"prompt": "hi", "stop": 5}, "stop is 5: it must be a string or a list of strings"),
    ({"prompt": "hi", "echo": 1}, "echo is 1"),
]


@pytest.mark.parametrize(("body", "words"), BAD)
def test_a_bad_request_is_refused_in_a_sentence_that_names_the_fault(api: Api, body: Any, words: str) -> None:
    answer = api.post("/", body)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error", "status"}
    assert answer.json()["status"] == 400
    assert words in answer.json()["error"]
    assert not api.engine.seen


def test_a_pair_of_escapes_is_a_whole_character(api: Api) -> None:
    answer = api.post("/", rb'{"prompt": "\ud83d\ude00"}')
    assert answer.json()["response"] == "😀 "


def test_a_byte_order_mark_does_no_harm(api: Api) -> None:
    assert api.post("/", b'\xef\xbb\xbf{"prompt": "hi"}').status_code == 200


def test_too_large_a_body_is_refused_whether_its_length_is_told_or_not(api: Api) -> None:
    large = b'{"prompt": "' + b"x" * 2**22 + b'"}'

    async def in_pieces() -> Any:
        for begin in range(0, len(large), 2**16):
            yield large[begin : begin + 2**16]

    for content in (large, in_pieces()):
        answer = api.send("POST", "/", content=content)
        assert answer.status_code == 413
        assert answer.json()["status"] == 413
        assert "larger than" in answer.json()["error"]


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (QueueFull(9, retry_after=7), 429, "7"),
        (EngineDown("It is down."), 503, None),
        (EngineDied(), 503, "5"),
        (PromptTooLong(5, 6, 7), 400, None),
    ],
)
def test_what_submit_refuses_is_told_with_its_status(
    api: Api, error: Any, status: int, retry_after: str | None
) -> None:
    api.engine.refusal = error
    answer = api.post("/", {"prompt": "hi"})
    assert answer.status_code == status
    assert answer.json() == {"error": error.message, "status": status}
    assert answer.headers.get("retry-after") == retry_after


def test_an_answer_that_fails_half_way_is_an_error(api: Api) -> None:
    api.engine.failure, api.engine.fail_after = EngineDied("signal 9"), 1
    answer = api.post("/", {"prompt": "a b c"})
    assert answer.status_code == 503
    assert "signal 9" in answer.json()["error"]


def test_while_the_model_loads_a_request_is_told_to_come_back(api: Api) -> None:
    api.engine.now = replace(api.engine.now, phase=Phase.LOADING, progress=0.4, detail="reading", model=None)
    answer = api.post("/", {"prompt": "hi"})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "5"
    assert "(reading, 40%)" in answer.json()["error"]


def test_a_bad_request_is_told_so_even_while_the_model_loads(api: Api) -> None:
    api.engine.now = replace(api.engine.now, phase=Phase.LOADING, model=None)
    assert api.post("/", {"prompt": "hi", "temperature": 9}).status_code == 400


def test_an_engine_that_is_down_says_why(api: Api) -> None:
    api.engine.now = replace(api.engine.now, phase=Phase.DOWN, detail="No such folder: /x.", model=None)
    answer = api.post("/", {"prompt": "hi"})
    assert answer.status_code == 503
    assert answer.json()["error"] == "The engine is down: No such folder: /x."
    assert "retry-after" not in answer.headers
