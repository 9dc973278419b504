"""bluelm.prompt: the exact strings, who wrote what, and which turns are left out."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bluelm.errors import CheckpointError, InvalidParameter, InvalidRequest
from bluelm.prompt import BlueLMTemplate, JinjaTemplate, Part, check_messages, fit_turns, plain, text_of
from bluelm.types import Message, Role

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def conversation(*contents: str, system: str | None = None) -> tuple[Message, ...]:
    """Messages from user and assistant by turns."""
    roles = (Role.USER, Role.ASSISTANT)
    head = () if system is None else (Message(Role.SYSTEM, system),)
    return head + tuple(Message(roles[i % 2], content) for i, content in enumerate(contents))


said = st.text(st.sampled_from("ab 你|[]:<>/s\n"), min_size=1).filter(str.strip) | st.sampled_from(
    ["</s>", "[|AI|]:", "<|im_end|>", " a ", "{{ messages }}", "{% raw %}"]
)
conversations = st.builds(
    lambda contents, system: conversation(*contents[: len(contents) - 1 + len(contents) % 2], system=system),
    st.lists(said, min_size=1, max_size=9),
    st.none() | said,
)


def test_bluelm_one_turn() -> None:
    assert text_of(BlueLMTemplate().render(conversation("你好"))) == "[|Human|]:你好[|AI|]:"


def test_bluelm_several_turns_close_each_answer() -> None:
    parts = BlueLMTemplate().render(conversation("q1", "a1", "q2", "a2", "q3"))
    assert text_of(parts) == "[|Human|]:q1[|AI|]:a1</s>[|Human|]:q2[|AI|]:a2</s>[|Human|]:q3[|AI|]:"


def test_bluelm_system_comes_in_front() -> None:
    parts = BlueLMTemplate().render(conversation("q", system="你是诗人"))
    assert text_of(parts) == "[|SYSTEM|]:你是诗人[|Human|]:q[|AI|]:"


def test_plain_text_is_nobodys_template() -> None:
    assert plain("[|Human|]:x") == (Part("[|Human|]:x", trusted=False),)


@pytest.mark.parametrize("template", [BlueLMTemplate(), JinjaTemplate(CHATML)], ids=["bluelm", "jinja"])
@given(messages=conversations)
def test_contents_are_exactly_the_untrusted_parts(template: BlueLMTemplate, messages: tuple[Message, ...]) -> None:
    parts = template.render(messages)
    assert [p.text for p in parts if not p.trusted] == [m.content for m in messages]


@given(messages=conversations)
def test_jinja_gives_what_the_template_says(messages: tuple[Message, ...]) -> None:
    expected = "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in messages)
    assert text_of(JinjaTemplate(CHATML).render(messages)) == expected + "<|im_start|>assistant\n"


def test_jinja_template_may_strip_contents() -> None:
    template = JinjaTemplate("{% for m in messages %}<{{ m.content | trim }}>{% endfor %}")
    parts = template.render(conversation("  hi\n"))
    assert parts == (Part("<", True), Part("hi", False), Part(">", True))


def test_jinja_template_that_rewrites_contents_is_refused() -> None:
    template = JinjaTemplate("{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}")
    assert text_of(template.render(conversation("fine"))) == "fine"
    with pytest.raises(InvalidRequest, match="rewrites"):
        template.render(conversation("a</think>b"))


def test_jinja_template_may_repeat_and_leave_out() -> None:
    template = JinjaTemplate(
        "{{ bos_token }}{{ messages[-1].content }}|{{ messages[-1].content }}", {"bos_token": "<s>"}
    )
    assert text_of(template.render(conversation("a", "b", "c"))) == "<s>c|c"


def test_jinja_template_may_refuse() -> None:
    template = JinjaTemplate("{{ raise_exception('no system message, please') }}")
    with pytest.raises(InvalidRequest, match="no system message, please"):
        template.render(conversation("a"))


def test_jinja_template_has_no_way_out_of_its_sandbox() -> None:
    template = JinjaTemplate("{{ messages.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(InvalidRequest):
        template.render(conversation("a"))


@pytest.mark.parametrize("how", ["{% if m.role != 'system' %}{{ m.content }}{% endif %}", "{{ m.content.role }}"])
def test_jinja_template_without_a_place_for_system_messages_refuses_them(how: str) -> None:
    deaf = JinjaTemplate("{% for m in messages %}" + how + "{% endfor %}")
    assert not deaf.heeds_system and JinjaTemplate(CHATML).heeds_system
    with pytest.raises(InvalidRequest, match="no place for a system message"):
        deaf.render((Message(Role.SYSTEM, "s"), Message(Role.USER, "u")))


def test_broken_jinja_is_a_checkpoint_error() -> None:
    with pytest.raises(CheckpointError, match="chat template"):
        JinjaTemplate("{% for %}")


U, A, S = (lambda text="x", role=role: Message(role, text) for role in (Role.USER, Role.ASSISTANT, Role.SYSTEM))


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ([S()], "messages[0].role"),
        ([A(), U()], "messages[0].role"),
        ([S(), A(), U()], "messages[1].role"),
        ([U(), U()], "messages[1].role"),
        ([U(), A()], "messages[1].role"),
        ([U(), A(), A(), U()], "messages[2].role"),
        ([U(), S(), U()], "messages[1].role"),
        ([S(), S(), U()], "messages[1].role"),
        ([U("")], "messages[0].content"),
        ([U(" \n")], "messages[0].content"),
        ([S(""), U()], "messages[0].content"),
    ],
)
def test_what_is_no_conversation_is_refused_by_name(messages: list[Message], param: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        check_messages(messages)
    assert caught.value.param == param


@pytest.mark.parametrize("template", [BlueLMTemplate(), JinjaTemplate(CHATML)], ids=["bluelm", "jinja"])
@given(messages=conversations, answer=said)
def test_an_unfinished_answer_is_left_open_to_the_letter(
    template: BlueLMTemplate, messages: tuple[Message, ...], answer: str
) -> None:
    parts = template.render((*messages, Message(Role.ASSISTANT, answer, unfinished=True)))
    assert parts[-1] == Part(answer, trusted=False)
    begun = text_of(template.render(messages))
    assert text_of(parts) == begun + answer


def test_a_template_that_trims_does_not_trim_an_unfinished_answer() -> None:
    template = JinjaTemplate("{% for m in messages %}<{{ m.content | trim }}>{% endfor %}")
    parts = template.render((U(" q "), Message(Role.ASSISTANT, " and then ", unfinished=True)))
    assert text_of(parts) == "<q>< and then "


@pytest.mark.parametrize("after", [(), (U(),)])
def test_only_the_last_answer_with_a_text_can_be_unfinished(after: tuple[Message, ...]) -> None:
    answer = Message(Role.ASSISTANT, "text" if after else " ", unfinished=True)
    with pytest.raises(InvalidParameter) as caught:
        check_messages([U(), answer, *after])
    assert caught.value.param == "messages[1].unfinished"


@given(messages=conversations, room=st.integers(0, 60))
def test_an_unfinished_answer_stays_with_its_question(messages: tuple[Message, ...], room: int) -> None:
    answer = Message(Role.ASSISTANT, "and so", unfinished=True)
    kept, _ = fit_turns((*messages, answer), length, room)
    assert kept[-2:] == (messages[-1], answer)


def test_an_answer_may_be_empty() -> None:
    check_messages([U(), A(""), U()])


# --- fit_turns ---


def length(messages: Sequence[Message]) -> int:
    return sum(len(m.content) for m in messages)


@given(messages=conversations, room=st.integers(0, 60))
def test_fit_turns_leaves_out_as_few_whole_oldest_turns_as_it_can(messages: tuple[Message, ...], room: int) -> None:
    kept, dropped = fit_turns(messages, length, room)
    head = messages[:1] if messages[0].role is Role.SYSTEM else ()
    body = messages[len(head) :]
    assert kept == head + body[dropped:]
    assert dropped % 2 == 0
    check_messages(kept)
    assert length(kept) <= room or kept == head + body[-1:]
    assert not dropped or length(head + body[dropped - 2 :]) > room


@given(turns=st.integers(1, 300), room=st.integers(0, 700))
def test_fit_turns_counts_few_times(turns: int, room: int) -> None:
    calls = 0

    def count(messages: Sequence[Message]) -> int:
        nonlocal calls
        calls += 1
        return length(messages)

    fit_turns(conversation(*["x"] * (2 * turns - 1)), count, room)
    assert calls <= 2 + math.log2(turns)
