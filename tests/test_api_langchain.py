"""LangChain's ChatOpenAI, as its users use it, against the real app on loopback."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

from tests.servers import Server

FORM = ['{"answer": null, "function_calls": [{"name": "Weather", "para', 'meters": {"city": "北京"}}]}']


class Weather(BaseModel):
    """The weather of a city."""

    city: str = Field(description="its name")


@pytest.fixture
def server(fake_server: Server) -> Server:
    return fake_server


@pytest.fixture
def model(server: Server) -> ChatOpenAI:
    return ChatOpenAI(model="fake", base_url=server.url + "/v1", api_key="none", max_retries=0, temperature=0.3)  # type: ignore[arg-type]


def test_it_invokes_and_tells_the_usage(model: ChatOpenAI) -> None:
    answer = model.invoke([SystemMessage("be kind"), HumanMessage("你好 world")])
    assert answer.content == "你好 world "
    assert answer.response_metadata["finish_reason"] == "stop"
    assert answer.usage_metadata is not None and answer.usage_metadata["output_tokens"] == 2


def test_it_streams_and_tells_the_usage(model: ChatOpenAI) -> None:
    chunks = list(model.stream("a b c"))
    assert "".join(str(chunk.content) for chunk in chunks) == "a b c "
    assert len(chunks) >= 4
    whole = list(model.bind(stream_options={"include_usage": True}).stream("a b"))
    assert sum(chunk.usage_metadata["output_tokens"] for chunk in whole if chunk.usage_metadata) == 2


def test_it_batches_in_order(model: ChatOpenAI) -> None:
    assert [one.content for one in model.batch([f"{i} x" for i in range(12)])] == [f"{i} x " for i in range(12)]


def test_it_takes_several_choices(model: ChatOpenAI) -> None:
    (several,) = model.generate([[HumanMessage("a b")]], n=3).generations
    assert [one.text for one in several] == ["a b "] * 3


def test_it_works_in_asyncio(model: ChatOpenAI) -> None:
    async def both() -> tuple[str, str]:
        whole = await model.ainvoke("a b")
        pieces = [str(chunk.content) async for chunk in model.astream("a b")]
        return str(whole.content), "".join(pieces)

    assert asyncio.run(both()) == ("a b ", "a b ")


@pytest.mark.parametrize("streamed", [False, True])
def test_bound_tools_are_called_and_their_results_taken(server: Server, model: ChatOpenAI, streamed: bool) -> None:
    server.fake(answer=FORM)
    bound = model.bind_tools([Weather])
    question = HumanMessage("北京天气如何？")
    message: Any
    if streamed:
        first, *rest = bound.stream([question])
        message = first
        for chunk in rest:
            message += chunk
    else:
        message = bound.invoke([question])
    assert [(call["name"], call["args"]) for call in message.tool_calls] == [("Weather", {"city": "北京"})]
    server.fake(answer=["20 度"])
    said = AIMessage(content=message.content, tool_calls=message.tool_calls)
    result = ToolMessage("20", tool_call_id=message.tool_calls[0]["id"])
    assert bound.invoke([question, said, result]).content == "20 度"


def test_errors_are_openais_own(model: ChatOpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature is 3"):
        model.bind(temperature=3).invoke("hi")
