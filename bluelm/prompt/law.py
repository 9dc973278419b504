"""What a conversation is, and which of its turns are left out where it is too long."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bluelm.errors import InvalidParameter, UnsupportedOption
from bluelm.types import Message, Role

_ORDER = {  # what has to come next, and why
    Role.USER: "user and assistant take turns (join two messages of the same role into one)",
    Role.ASSISTANT: "user and assistant take turns (join two messages of the same role into one)",
    Role.TOOL: "every call of the message before needs its result first",
}


def check_messages(messages: Sequence[Message]) -> None:
    """The law of a conversation: [system], user, assistant, user, ... , user [, unfinished assistant].

    An assistant message that calls tools is followed by one tool message for each call, and then by the assistant
    again; a conversation may end with the last of these results. A user message has something to say. An assistant
    message may be empty (an answer that was stopped at once), and so may a system message that tells of tools.
    Raises InvalidParameter, which names messages[i] and says what it must be.
    """
    if not messages:
        raise InvalidParameter("messages", [], "at least one message, the last one from the user")
    first = 1 if messages[0].role is Role.SYSTEM else 0
    expected, waiting = Role.USER, set[str]()
    for i, message in enumerate(messages):
        if i >= first:
            _check_role(i, message.role, expected, first)
            expected = _take(i, message, waiting)
        _check_content(i, message)
        _check_unfinished(i, message, i == len(messages) - 1)
    if expected is not Role.ASSISTANT and not messages[-1].unfinished:
        last = len(messages) - 1
        must = "'user' in the last message: put the question to be answered last"
        if waiting:
            must = "followed by the results of its calls, as messages of the role 'tool'"
        raise InvalidParameter(f"messages[{last}].role", messages[-1].role.value, must)


def _check_role(i: int, role: Role, expected: Role, first: int) -> None:
    if role is expected:
        return
    why = _ORDER[expected]
    if role is Role.SYSTEM:
        why = "a system message can only come first, and only once"
    elif role is Role.TOOL:
        why = "a result comes right behind the assistant message that called the tool"
    elif i == first:
        why = "a conversation begins with a question, after the system message if there is one"
    raise InvalidParameter(f"messages[{i}].role", role.value, f"'{expected}': {why}")


def _take(i: int, message: Message, waiting: set[str]) -> Role:
    """Note which calls now wait for their results; the role that has to come next."""
    if message.role is Role.TOOL:
        if message.tool_call_id not in waiting:
            must = f"one of the calls that wait for a result: {', '.join(sorted(waiting))}"
            raise InvalidParameter(f"messages[{i}].tool_call_id", message.tool_call_id, must)
        waiting.remove(message.tool_call_id)
    for call in message.tool_calls:
        if not call.id or call.id in waiting:
            raise InvalidParameter(f"messages[{i}].tool_calls", call.id, "calls with an id each, all different")
        waiting.add(call.id)
    if waiting:
        return Role.TOOL
    return Role.USER if message.role is Role.ASSISTANT else Role.ASSISTANT


def _check_content(i: int, message: Message) -> None:
    if message.content.strip() or message.tools or message.role in (Role.ASSISTANT, Role.TOOL):
        return
    must = "left out" if message.role is Role.SYSTEM else "a text with something to answer"
    raise InvalidParameter(f"messages[{i}].content", message.content, f"{must}, not an empty text")


def _check_unfinished(i: int, message: Message, last: bool) -> None:
    if message.unfinished and (not last or message.tool_calls or not message.content.strip()):
        must = "left out, but for the last message, an answer with a text to go on with and no calls"
        raise InvalidParameter(f"messages[{i}].unfinished", True, must)


def refuse_tools(messages: Sequence[Message]) -> None:
    """For a format that has no words for tools. Raises UnsupportedOption."""
    remedy = "the model that is served was not trained to call tools; describe them in the messages, and leave it out."
    for i, message in enumerate(messages):
        if message.tools:
            raise UnsupportedOption("tools", remedy)
        if message.tool_calls:
            raise UnsupportedOption(f"messages[{i}].tool_calls", remedy)


def fit_turns(
    messages: Sequence[Message], count: Callable[[Sequence[Message]], int], room: int
) -> tuple[tuple[Message, ...], int]:
    """Leave out whole oldest turns until the prompt fits; a turn is a user message with all that
    follows up to the next one (the answer; or calls, their results, and then the answer).

    count: tokens of the prompt of such messages; more messages never have fewer tokens. room: tokens.
    Returns the messages kept and how many were left out. The system message and the last user message always stay:
    when even they are too long they are returned, for the caller to refuse. Calls `count` about log2(turns) times.
    """
    first = 1 if messages and messages[0].role is Role.SYSTEM else 0
    starts = [i for i in range(first, len(messages)) if messages[i].role is Role.USER]
    cuts = [first, *starts[1:]]  # the messages from `first` up to a cut are left out; the first cut leaves out none

    def kept(cut: int) -> tuple[Message, ...]:
        return (*messages[:first], *messages[cut:])

    if count(messages) <= room:
        return tuple(messages), 0
    low, high = 1, len(cuts) - 1  # cuts[low - 1] is known not to fit; cuts[high] is taken if nothing smaller fits
    while low < high:
        middle = (low + high) // 2
        if count(kept(cuts[middle])) <= room:
            high = middle
        else:
            low = middle + 1
    cut = cuts[max(high, 0)]
    return kept(cut), cut - first
