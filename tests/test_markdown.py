"""What models write comes out as it was meant; what a browser then shows is in test_browser_markdown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.blocks import BlockSplitter, part_end, split_blocks
from components.markdown import code_block, render

FENCES = ["```", "```py\n", "~~~", "`", "    ", "\n", "\n\n", "- ", "1. ", "2) ", "* ", "> ", "# "]
INLINE = ["**", "“重点”", "内容", "$", "$$", "\\(", "\\)", "\\[", "\\]", ":smile:", "a:b", "~x~", "<b>", "->", "word "]
MARKS = st.sampled_from([*FENCES, *INLINE, "| a | b |\n|---|---|\n", "![x](http://h/i.png)"])
TEXTS = st.lists(st.one_of(MARKS, st.text(max_size=8)), max_size=30).map("".join)


@given(TEXTS)
def test_the_blocks_joined_are_the_text(text: str) -> None:
    assert "".join(split_blocks(text)) == text


@given(st.lists(TEXTS, max_size=8), st.integers(1, 7))
def test_cutting_as_the_text_grows_gives_the_same_blocks_as_at_once(pieces: list[str], step: int) -> None:
    text = "".join(pieces)
    splitter, blocks = BlockSplitter(), []
    for i in range(0, len(text), step):
        blocks += splitter.feed(text[i : i + step])
    assert [*blocks, splitter.tail] == ([*split_blocks(text)] if splitter.tail else [*split_blocks(text), ""])


@given(TEXTS)
def test_any_text_can_be_rendered_in_whole_and_in_part(text: str) -> None:
    render(text)
    for block in split_blocks(text):
        code_block(block)
        render(block)


@given(st.text(alphabet="abc $:<~!\\[]()*内“”\n&;`", max_size=40).filter(lambda code: "````" not in code))
def test_fenced_code_is_untouched(code: str) -> None:
    block = f"````py\n{code}\n````\n"
    assert block.rstrip("\n") in render(block)
    assert code_block(block) == ("py", code)


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("One.\n\nTwo.\n", ["One.\n\n", "Two.\n"]),
        ("One\nline.\n\n\nTwo.", ["One\nline.\n\n\n", "Two."]),
        ("Look:\n```py\na\n\nb\n```\nDone.", ["Look:\n", "```py\na\n\nb\n```\n", "Done."]),
        ("1. a\n\n2. b\n\nEnd.", ["1. a\n\n2. b\n\n", "End."]),
        ("- a\n\n  more\n\n- b", ["- a\n\n  more\n\n- b"]),
        ("1. x:\n   ```py\n   a\n\nb\n   ```\n\nEnd.", ["1. x:\n   ```py\n   a\n\nb\n   ```\n\n", "End."]),
        ("```py\nopen\n\nstill", ["```py\nopen\n\nstill"]),
        ("\n\nStart", ["\n\nStart"]),
    ],
)
def test_blocks_are_paragraphs_lists_and_code(text: str, blocks: list[str]) -> None:
    assert split_blocks(text) == blocks


@pytest.mark.parametrize(
    ("text", "markdown"),
    [
        ("$5 and $6", "&#36;5 and &#36;6"),
        (r"so \(a_1*b\) is", "so $$a_1*b$$ is"),
        ("\\[\nx^2\n\\]", "$$\nx^2\n$$"),
        ("$$x^2$$", "$$\nx^2\n$$"),
        ("we see $$x^2$$ here", "we see $$x^2$$ here"),
        (r"open \(a", r"open &#92;(a"),
        (":smile: 12:30", ":color[&#58;]smile: 12&#58;30"),
        (":red[x] a::b", "&#58;red[x] a&#58;&#58;b"),
        ("~x~ ~~y~~", "&#126;x&#126; ~~y~~"),
        ("one\ntwo\n\nthree", "one  \ntwo\n\nthree"),
        ("**“重点”**内容", "**“重点”**&#20869;容"),
        ("内容**“重点”**", "内&#23481;**“重点”**"),
        ("**重点：**内容", "**重点：**&#20869;容"),
        ("2**(n) and a**b", "2**(n) and a**b"),
        ("![x](http://h/i.png)", "&#33;[x](http://h/i.png)"),
        ("<b>bold</b>", "&lt;b>bold&lt;/b>"),
        ("&lt;", "&amp;lt;"),
        ("a -> b", "a :color[-]> b"),
        ("`$a :smile: <b>` and ``x`y``", "`$a :smile: <b>` and ``x`y``"),
        ("see https://a.b/c:d?e=1 now", "see https://a.b/c:d?e=1 now"),
        ("[t](http://a/b:c)", "[t](http://a/b:c)"),
        ("| a | b |\n|:--|--:|\n| 1 | 2 |", "| a | b |  \n|:--|--:|  \n| 1 | 2 |"),
        ("[a]: http://x", "&#91;a]: http://x"),
        ("a\n\n    x < $y\n\nb", "a\n\n~~~~\nx < $y\n~~~~\n\nb"),
        ("- a\n    - b:c", "- a  \n    - b&#58;c"),
    ],
)
def test_marks_are_shown_as_meant(text: str, markdown: str) -> None:
    assert render(text) == markdown


@pytest.mark.parametrize(
    ("block", "code"),
    [
        ("```python title\nx = 1\n```\n", ("python", "x = 1")),
        ("~~~\na\n\nb", ("", "a\n\nb")),
        ("````md\n```\ninner\n```\n````", ("md", "```\ninner\n```")),
        ("```", ("", "")),
        ("\n\n```c\nx", ("c", "x")),
        ("```not code``` here", None),
        ("text\n```c\nx\n```", None),
    ],
)
def test_a_block_of_code_is_known_closed_or_open(block: str, code: tuple[str, str] | None) -> None:
    assert code_block(block) == code


@given(TEXTS, st.booleans())
def test_a_part_of_an_open_block_is_whole_lines_and_leaves_one(text: str, code: bool) -> None:
    end = part_end(text, code=code)
    assert end == 0 or (text[end - 1] == "\n" and text.count("\n", end) >= 1)
    assert not code or end or text.count("\n") < 2


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("one\ntwo\nthr", "one\n"),
        ("x **a\nb\nc", ""),
        ("- a\n  - b\n- c\n  d\n", "- a\n  - b\n"),
        ("1. a\n\n2. b\n3", "1. a\n\n"),
        ("| a | b |\n|---|---|\n| 1 | 2 |\n| 3 | 4 |\n", ""),
        ("- x\n  ```\n- y\n- z\n  ```\n", ""),
        ("\\[\na\nb\n", ""),
    ],
)
def test_a_part_ends_where_nothing_is_open(text: str, part: str) -> None:
    assert text[: part_end(text, code=False)] == part
