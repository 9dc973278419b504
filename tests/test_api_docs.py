"""/openapi.json tells the truth, /docs needs no network, /health tells how things are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from pydantic import BaseModel

from bluelm.api import responses
from bluelm.errors import EngineDown
from bluelm.types import Phase
from tests.api_kit import CHAT, COMPLETIONS, Api, events


@pytest.fixture(scope="module")
def api() -> Api:
    return Api()


@pytest.fixture(scope="module")
def document(api: Api) -> Any:
    return api.get("/openapi.json").json()


def inside(value: Any) -> Iterator[Any]:
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from inside(inner)


def exactly(kind: type[BaseModel], told: Any) -> None:
    """`told` has the fields of `kind`, all that have no default and no other, at every depth."""
    assert kind.model_validate(told, strict=True).model_dump(exclude_unset=True) == told


def test_every_route_is_told(document: Any) -> None:
    told = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert told == {
        ("GET", "/"),
        ("POST", "/"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/{id}"),
        ("POST", CHAT),
        ("POST", COMPLETIONS),
        ("POST", "/tokenize"),
        ("POST", "/detokenize"),
        ("GET", "/health"),
        ("GET", "/health/live"),
        ("GET", "/health/ready"),
        ("GET", "/metrics"),
    }


def test_every_reference_leads_somewhere(document: Any) -> None:
    wanted = {one["$ref"].rsplit("/", 1)[1] for one in inside(document) if isinstance(one, dict) and "$ref" in one}
    assert wanted <= set(document["components"]["schemas"])


def test_no_route_tells_of_errors_that_it_does_not_give(document: Any) -> None:
    always = {"/health/live", "/metrics"}  # these answer whatever the engine does
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if (method, path) == ("get", "/"):
                continue  # the page
            assert "422" not in operation["responses"]
            assert ("503" in operation["responses"]) is (path not in always)


def test_bodies_are_told_with_their_required_fields(document: Any) -> None:
    for path, name, field in (("/", "TutorialRequest", "prompt"), (CHAT, "ChatRequest", "messages")):
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        assert content["schema"]["$ref"].endswith(name)
        schema = document["components"]["schemas"][name]
        assert schema["required"] == [field]
        assert schema["additionalProperties"] is False
        assert schema["properties"][field]["examples"]


def test_what_is_told_of_answers_is_true(api: Api) -> None:
    exactly(responses.TutorialAnswer, api.post("/", {"prompt": "hi"}).json())
    exactly(responses.TutorialError, api.post("/", {}).json())
    exactly(responses.ChatCompletion, api.chat("hi").json())
    exactly(responses.Completion, api.post(COMPLETIONS, {"prompt": "hi"}).json())
    exactly(responses.ChatCompletion, api.chat("hi", logprobs=True, top_logprobs=1).json())
    exactly(responses.Completion, api.post(COMPLETIONS, {"prompt": "hi", "logprobs": 1}).json())
    exactly(responses.Tokens, api.post("/tokenize", {"prompt": "hi"}).json())
    exactly(responses.Text, api.post("/detokenize", {"tokens": [1]}).json())
    exactly(responses.OpenAIError, api.chat().json())
    exactly(responses.ModelList, api.get("/v1/models").json())
    exactly(responses.ModelCard, api.get("/v1/models/fake").json())
    exactly(responses.Health, api.get("/health").json())


@pytest.mark.parametrize("more", [{}, {"stream_options": {"include_usage": True}}])
def test_what_is_told_of_streams_is_true(api: Api, more: dict[str, Any]) -> None:
    for event in events(api.chat("a b", stream=True, **more))[:-1]:
        exactly(responses.ChatCompletionChunk, event)
    for event in events(api.post(COMPLETIONS, {"prompt": "a b", "stream": True, **more}))[:-1]:
        exactly(responses.Completion, event)


def test_the_docs_page_fetches_nothing_from_elsewhere(api: Api) -> None:
    page = api.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    fetched = re.findall(r"(?:src|href|url)\s*[=:]\s*[\"']([^\"']+)", page.text)
    assert "/openapi.json" in fetched and len(fetched) >= 4
    for address in fetched:
        assert address.startswith("/") and not address.startswith("//")
        assert api.get(address).status_code == 200


def test_health_is_200_only_when_answers_can_be_made() -> None:
    api = Api()
    answer = api.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    assert answer.json()["model"]["id"] == "fake"
    assert answer.json()["running"] == 0
    api.engine.now = replace(api.engine.now, phase=Phase.LOADING, progress=0.425, detail="reading weights", model=None)
    answer = api.get("/health")
    assert answer.status_code == 503
    told = answer.json()
    assert (told["status"], told["phase"], told["progress"]) == ("loading", "reading weights", 42.5)
    for phase in (Phase.RESTARTING, Phase.DOWN):
        api.engine.now = replace(api.engine.now, phase=phase)
        answer = api.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, phase.value)
        exactly(responses.Health, answer.json())


def test_health_never_asks_the_engine_for_an_answer() -> None:
    api = Api()
    api.engine.refusal = EngineDown("no")
    assert api.get("/health").status_code == 200
    assert api.send("HEAD", "/health").status_code == 200
