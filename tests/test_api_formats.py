"""Answers that are held to a form over /v1: response_format and tool_choice, with the real engine too."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field, SecretStr

from bluelm.api.formats import forced_calls
from bluelm.errors import InvalidRequest
from bluelm.types import SamplingParams, Tool
from tests.api_kit import Api, refused
from tests.checkpoints import NTKMIXED, bluelm_config, write_checkpoint
from tests.servers import Server, serve

SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["北京", "上海"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
TOLD = {"type": "json_schema", "json_schema": {"name": "trip", "schema": SCHEMA, "strict": True}}
WEATHER: Any = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA, "strict": True}}
CLOCK: Any = {"type": "function", "function": {"name": "clock"}}
NAMED: Any = {"type": "function", "function": {"name": "clock"}}
USER: Any = {"role": "user", "content": "hi"}


@pytest.fixture
def api() -> Api:
    return Api()


def seen(api: Api) -> SamplingParams:
    return api.engine.seen[-1][1]


def test_a_schema_of_tools_that_the_engine_refuses_is_told_in_the_clients_words(api: Api) -> None:
    asked: list[tuple[dict[str, Any], str]] = [
        ({"tools": [CLOCK], "tool_choice": "required"}, "tools"), ({"response_format": TOLD}, "response_format"),
    ]  # fmt: skip
    for more, param in asked:
        api.engine.refusal = InvalidRequest("No.", param="json_schema")
        assert refused(api.chat("hi", **more))["param"] == param


def calls_of(api: Api, **more: Any) -> Any:
    assert api.chat("hi", tools=[WEATHER, CLOCK], **more).status_code == 200
    schema = json.loads(seen(api).json_schema or "null")
    return schema and schema["properties"]["function_calls"]


def test_a_choice_of_tools_is_a_schema_of_calls(api: Api) -> None:
    both = calls_of(api, tool_choice="required")
    assert len(both["items"]["anyOf"]) == 2 and both["minItems"] == 1 and "maxItems" not in both
    assert calls_of(api, tool_choice="required", parallel_tool_calls=False)["maxItems"] == 1
    one = calls_of(api, tool_choice=NAMED)
    assert [call["properties"]["name"] for call in one["items"]["anyOf"]] == [{"const": "clock"}]
    assert one["maxItems"] == 1
    assert calls_of(api, tool_choice="none") is None


def test_references_of_a_tools_schema_lead_where_they_led() -> None:
    own = {"properties": {"x": {"$ref": "#/$defs/X"}}, "$defs": {"X": {"type": "null"}}}
    schema = json.loads(forced_calls([Tool("a", "", json.dumps(own)), Tool("b")], many=True))
    assert schema["$defs"]["0"]["properties"]["x"] == {"$ref": "#/$defs/0/$defs/X"}
    assert schema["$defs"]["0"]["type"] == "object"
    assert schema["$defs"]["1"] == {"type": "object", "properties": {}, "additionalProperties": False}


# --- the real engine, with random weights ---


class Trip(BaseModel):
    """A trip."""

    days: int = Field(ge=1, le=9)
    by_train: bool


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models") / "BlueLM-7B-Chat-32K"
    write_checkpoint(folder, config=bluelm_config(rope_scaling=NTKMIXED))
    with serve("real", env={"BLUELM_MODEL": str(folder), "BLUELM_THREADS": "1", "BLUELM_CONTEXT": "2048"}) as running:
        running.wait_ready()
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def test_an_answer_is_an_instance_of_its_schema(client: openai.OpenAI) -> None:
    for seed in range(4):
        answer = client.chat.completions.create(
            model="BlueLM-7B-Chat-32K",
            messages=[USER],
            response_format=TOLD,
            seed=seed,
            temperature=1.0,  # type: ignore[call-overload]
        )
        told = json.loads(answer.choices[0].message.content)
        assert set(told) == {"city", "days"} and told["city"] in ("北京", "上海") and 1 <= told["days"] <= 9
        assert answer.choices[0].finish_reason == "stop"


def test_a_json_object_that_the_limit_cut_is_told_so(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="BlueLM-7B-Chat-32K", messages=[USER], response_format={"type": "json_object"}, max_tokens=5, seed=1
    )
    choice = answer.choices[0]
    assert (choice.message.content or "").startswith("{")
    if choice.finish_reason == "stop":
        assert isinstance(json.loads(choice.message.content or ""), dict)
    else:
        assert choice.finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_tools_that_must_be_called_are(client: openai.OpenAI, stream: bool) -> None:
    asked: Any = {"model": "BlueLM-7B-Chat-32K", "messages": [USER], "seed": 3, "temperature": 1.0}
    asked |= {"tools": [WEATHER, CLOCK], "tool_choice": {"type": "function", "function": {"name": "weather"}}}
    if stream:
        with client.chat.completions.stream(**asked) as pieces:
            choice: Any = pieces.get_final_completion().choices[0]
    else:
        choice = client.chat.completions.create(**asked).choices[0]
    (call,) = choice.message.tool_calls
    assert call.function.name == "weather" and set(json.loads(call.function.arguments)) == {"city", "days"}
    assert choice.finish_reason == "tool_calls"


def test_a_schema_that_cannot_be_kept_to_is_refused(client: openai.OpenAI) -> None:
    bad: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}
    with pytest.raises(openai.BadRequestError, match="No answer can be held to"):
        client.chat.completions.create(model="BlueLM-7B-Chat-32K", messages=[USER], response_format=bad)


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_gets_its_structured_output(server: Server, method: Any) -> None:
    model = ChatOpenAI(
        model="BlueLM-7B-Chat-32K",
        base_url=server.url + "/v1",
        api_key=SecretStr("none"),
        max_retries=0,
        seed=1,
    )
    assert isinstance(model.with_structured_output(Trip, method=method).invoke("hi"), Trip)
