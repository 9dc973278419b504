"""Tools, their calls and their results in OpenAI's words: what bodies are checked against, and what they stand for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from bluelm.api.options import must, unsupported
from bluelm.errors import InvalidParameter
from bluelm.prompt import check_messages
from bluelm.types import Message, Role, Tool, ToolCall

_UNENFORCED = 'what the model calls cannot be forced here; send "auto" or "none".'


def _free_choice(value: Any) -> Any:
    if value == "required" or (isinstance(value, dict) and value.get("type") in ("function", "allowed_tools")):
        raise unsupported(_UNENFORCED)
    return value


def _not_strict(value: Any) -> Any:
    if value is True:
        raise unsupported("arguments cannot be held to a schema here; leave it out.")
    return value


def _only_functions(value: Any) -> Any:
    if isinstance(value, str) and value != "function":
        raise unsupported('only tools of the type "function" are known.')
    return value


def _many_calls(value: Any) -> Any:
    if value is False:
        raise unsupported("the model may call several tools in one answer; leave it out.")
    return value


def _some_name(name: str) -> str:
    if not name.strip():
        raise must("the name of a tool")
    return name


def _object_text(arguments: str) -> str:
    try:
        ToolCall("any", arguments)
    except InvalidParameter as error:
        raise must(error.details["must"]) from None
    return arguments


Choice = Annotated[Literal["auto", "none"], BeforeValidator(_free_choice), WithJsonSchema({"enum": ["auto", "none"]})]
OnlyFunctions = Annotated[Literal["function"], BeforeValidator(_only_functions)]
NotStrict = Annotated[bool, BeforeValidator(_not_strict)]
ManyCalls = Annotated[bool, BeforeValidator(_many_calls)]
Name = Annotated[str, AfterValidator(_some_name)]
Arguments = Annotated[str, AfterValidator(_object_text)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class FunctionTold(_Part):
    name: Name
    description: str | None = Field(None, description="what it is for; the model chooses by it")
    parameters: dict[str, Any] | None = Field(None, description="a JSON schema of its arguments")
    strict: NotStrict | None = None


class ToolTold(_Part):
    type: OnlyFunctions
    function: FunctionTold

    def tool(self) -> Tool:
        told = self.function
        try:
            return Tool(told.name, told.description or "", json.dumps(told.parameters or {}, ensure_ascii=False))
        except RecursionError:
            raise InvalidParameter("tools", told.name, "described by a schema that is nested less deeply") from None


class FunctionCalled(_Part):
    name: Name
    arguments: Arguments = Field(description="a JSON object, as text")


class ToolCalled(_Part):
    id: str = Field(min_length=1)
    type: OnlyFunctions
    function: FunctionCalled

    def call(self) -> ToolCall:
        return ToolCall(self.function.name, self.function.arguments, self.id)


def told_tools(told: Sequence[ToolTold]) -> tuple[Tool, ...]:
    """What they stand for. Raises InvalidParameter where two have one name."""
    seen: set[str] = set()
    for i, one in enumerate(told):
        if one.function.name in seen:
            raise InvalidParameter(f"tools[{i}].function.name", one.function.name, "a name that no other tool has")
        seen.add(one.function.name)
    return tuple(one.tool() for one in told)


def tell_of(tools: Sequence[Tool], messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages, the system message (a new one, if need be) telling of the tools. Raises InvalidParameter."""
    check_messages(messages)  # here, where their places are still the client's
    has_system = messages[0].role is Role.SYSTEM
    system = Message(Role.SYSTEM, messages[0].content if has_system else "", tools=tuple(tools))
    return (system, *messages[has_system:])
