"""BlueLM's own format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bluelm.prompt.law import check_messages, refuse_tools
from bluelm.prompt.parts import Part, Parts
from bluelm.prompt.tools import written_calls, written_tools
from bluelm.types import Message, Role

HUMAN, AI, SYSTEM, FUNCTION = "[|Human|]:", "[|AI|]:", "[|SYSTEM|]:", "[|Function|]:"
END_OF_ANSWER = "</s>"


class BlueLMTemplate:
    """`[|SYSTEM|]:s[|Human|]:q1[|AI|]:a1</s>[|Human|]:q2[|AI|]:`, and with tools, after a section that tells of them,
    `[|Human|]:q[|AI|]:{calls}</s>[|Function|]:result[|AI|]:`.

    tools, system: whether the checkpoint was trained with them; a system message has its place in the format all the
    same. Source: vivo's model cards and demo code. The official server also ends an answer at `[|Human|]:`; it puts the
    tools in front of a system prompt, in a section of their own.
    """

    stop_markers: tuple[str, ...] = (HUMAN,)
    writes_bos = False  # the tokenizer puts it in front of the whole string

    def __init__(self, *, tools: bool = True, system: bool = True) -> None:
        self.supports_tools, self.heeds_system = tools, system

    def render(self, messages: Sequence[Message]) -> Parts:
        """See PromptTemplate. Results of tools come in the order of their calls, which is all that ties them."""
        check_messages(messages)
        if not self.supports_tools:
            refuse_tools(messages)
        parts: list[Part] = []
        for message in _in_order(messages):
            parts += _section(message)
        if not messages[-1].unfinished:
            parts.append(Part(AI, True))
        return tuple(part for part in parts if part.text)


def _section(message: Message) -> Iterator[Part]:
    match message.role:
        case Role.SYSTEM:
            if message.tools:
                yield Part(SYSTEM, True)
                yield from written_tools(message.tools)
            if message.content.strip():
                yield Part(SYSTEM, True)
                yield Part(message.content, False)
        case Role.USER:
            yield Part(HUMAN, True)
            yield Part(message.content, False)
        case Role.ASSISTANT:
            yield Part(AI, True)
            yield Part(written_calls(message) if message.tool_calls else message.content, False)
            if not message.unfinished:
                yield Part(END_OF_ANSWER, True)
        case Role.TOOL:
            yield Part(FUNCTION, True)
            yield Part(message.content, False)


def _in_order(messages: Sequence[Message]) -> list[Message]:
    """The messages, the results behind an assistant message in the order of its calls."""
    ordered = list(messages)
    for i, message in enumerate(messages):
        ids = [call.id for call in message.tool_calls]
        results = slice(i + 1, i + 1 + len(ids))
        ordered[results] = sorted(messages[results], key=lambda one, ids=ids: ids.index(one.tool_call_id))  # type: ignore[misc]
    return ordered
