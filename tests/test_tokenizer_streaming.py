"""bluelm.engine.detokenizer: whole characters and stop strings, however the stream is cut."""

from __future__ import annotations

import time

from hypothesis import given
from hypothesis import strategies as st

from bluelm.engine.detokenizer import IncrementalDecoder, StopStrings

BYTES = [bytes([byte]) for byte in range(256)]


@given(st.text())
def test_text_comes_in_whole_characters_byte_by_byte(text: str) -> None:
    decoder = IncrementalDecoder(BYTES)
    pushed = [decoder.push(byte) for byte in text.encode()]
    assert decoder.flush() == ""
    assert "".join(pushed) == text
    assert all(len(piece) <= 1 for piece in pushed)


@given(st.binary())
def test_bytes_that_are_no_text_come_as_replacement_characters(data: bytes) -> None:
    decoder = IncrementalDecoder(BYTES)
    assert "".join(decoder.push(byte) for byte in data) + decoder.flush() == data.decode("utf-8", "replace")


def before_first_stop(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """The law, spelled out: the first end of any stop string, and of those that end there the longest."""
    for end in range(1, len(text) + 1):
        lengths = [len(stop) for stop in stops if text[:end].endswith(stop)]
        if lengths:
            return text[: end - max(lengths)], True
    return text, False


@given(
    pieces=st.lists(st.text("ab你", max_size=5), max_size=12),
    stops=st.lists(st.text("ab你", min_size=1, max_size=5), max_size=4).map(tuple),
)
def test_stop_strings_let_pass_what_is_before_the_first(pieces: list[str], stops: tuple[str, ...]) -> None:
    filter = StopStrings(stops)
    passed = [filter.push(piece) for piece in pieces]
    shown = "".join(text for text, _ in passed) + filter.flush()
    assert (shown, filter.hit) == before_first_stop("".join(pieces), stops)
    assert [hit for _, hit in passed] == [
        before_first_stop("".join(pieces[: i + 1]), stops)[1] for i in range(len(pieces))
    ]


@given(text=st.text("ab你"), stops=st.lists(st.text("ab你", min_size=1, max_size=5), max_size=4).map(tuple))
def test_only_the_beginning_of_a_stop_string_is_held_back(text: str, stops: tuple[str, ...]) -> None:
    filter = StopStrings(stops)
    shown = "".join(filter.push(letter)[0] for letter in text)
    held = filter.flush()
    assert not held or any(stop.startswith(held) for stop in stops)
    assert filter.hit or shown + held == text


def test_a_nearly_matching_text_costs_linear_time() -> None:
    filter = StopStrings(("a" * 5_000 + "b",))
    started = time.perf_counter()
    for _ in range(100_000):
        filter.push("a")
    assert time.perf_counter() - started < 20  # some 0.3 s; matching anew at each letter takes minutes
