"""Tools, their calls and their results in OpenAI's words: what bodies are checked against, and what they stand for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from bluelm.api.formats import forced_calls
from bluelm.api.options import must, unsupported
from bluelm.errors import InvalidParameter, UnsupportedOption
from bluelm.prompt import check_messages
from bluelm.types import Message, Role, Tool, ToolCall

_CHOICES = ("auto", "none", "required")
_NAMED = {
    "type": "object",
    "properties": {
        "type": {"const": "function"},
        "function": {
            "type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"],
            "additionalProperties": False,
        },
    },
    "required": ["type", "function"],
    "additionalProperties": False,
}  # fmt: skip


class Named(NamedTuple):
    """The choice of one tool."""

    name: str


def _choice(value: Any) -> Any:
    match value:
        case {"type": "allowed_tools"}:
            raise unsupported("send the tools that are allowed, and no others.")
        case {"type": "function", "function": {"name": str(name), **others}, **more} if not others and not more:
            return Named(name)
        case str() if value in _CHOICES:
            return value
    raise must('"auto", "none", "required" or {"type": "function", "function": {"name": "..."}}')


def _only_functions(value: Any) -> Any:
    if isinstance(value, str) and value != "function":
        raise unsupported('only tools of the type "function" are known.')
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


Choice = Annotated[str | Named, BeforeValidator(_choice), WithJsonSchema({"anyOf": [{"enum": [*_CHOICES]}, _NAMED]})]
OnlyFunctions = Annotated[Literal["function"], BeforeValidator(_only_functions)]
Name = Annotated[str, AfterValidator(_some_name)]
Arguments = Annotated[str, AfterValidator(_object_text)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class FunctionTold(_Part):
    name: Name
    description: str | None = Field(None, description="what it is for; the model chooses by it")
    parameters: dict[str, Any] | None = Field(None, description="a JSON schema of its arguments")
    strict: bool | None = Field(None, description="true: only where tool_choice has it called")


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


def forced(told: Sequence[ToolTold], choice: str | Named | None, many: bool | None) -> str | None:
    """The schema of an answer that has to call, as the choice has it; None for one that is free.

    many: whether it may be several calls. Raises InvalidParameter, and UnsupportedOption for what a free answer cannot
    be held to.
    """
    if choice == "required" or isinstance(choice, Named):
        tools = told_tools(told)
        chosen = tools if choice == "required" else [one for one in tools if one.name == choice.name]  # type: ignore[union-attr]
        if not chosen:
            must = "the name of one of the tools" if tools else "left out where there are no tools"
            raise InvalidParameter("tool_choice", choice if isinstance(choice, str) else choice.name, must)
        return forced_calls(chosen, many=many is not False and choice == "required")
    why = 'a free answer cannot be held to it; leave it out, or send tool_choice "required".'
    for i, one in enumerate(told if choice != "none" else ()):
        if one.function.strict:
            raise UnsupportedOption(f"tools[{i}].function.strict", why)
    if told and choice != "none" and many is False:
        raise UnsupportedOption("parallel_tool_calls", why)
    return None


def tell_of(tools: Sequence[Tool], messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages, the system message (a new one, if need be) telling of the tools. Raises InvalidParameter."""
    check_messages(messages)  # here, where their places are still the client's
    has_system = messages[0].role is Role.SYSTEM
    system = Message(Role.SYSTEM, messages[0].content if has_system else "", tools=tuple(tools))
    return (system, *messages[has_system:])
