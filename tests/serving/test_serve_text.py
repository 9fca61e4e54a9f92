from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.text import StopMatcher, TextStream

PIECES = st.lists(st.binary(max_size=3), max_size=40)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=4)


def parts_of(pieces: list[bytes], stops: list[str]) -> tuple[list[str], bool]:
    stream = TextStream(stops)
    parts = []
    for piece in pieces:
        parts.append(stream.push(piece))
        if stream.stopped:
            return parts, True
    return [*parts, stream.flush()], stream.stopped


@given(PIECES)
def test_parts_add_up_to_the_decoded_bytes(pieces: list[bytes]):
    parts, _ = parts_of(pieces, [])
    assert "".join(parts) == b"".join(pieces).decode(errors="replace")


@given(st.text(), st.integers(1, 3))
def test_characters_are_never_broken(text: str, size: int):
    data = text.encode()
    parts, _ = parts_of([data[i : i + size] for i in range(0, len(data), size)], [])
    assert "".join(parts) == text


@given(st.lists(st.text("ab", max_size=3), max_size=20), STOPS)
def test_text_ends_before_the_first_stop_string(pieces: list[str], stops: list[str]):
    parts, stopped = parts_of([piece.encode() for piece in pieces], stops)
    shown, whole = "".join(parts), "".join(pieces)
    assert whole.startswith(shown)
    assert not any(stop in shown for stop in stops)
    assert stopped == any(stop in whole for stop in stops)
    if not stopped:
        assert shown == whole


def test_a_false_start_of_a_stop_string_is_shown_as_soon_as_it_is_one():
    stream = TextStream(["STOP"])
    assert [stream.push(piece) for piece in (b"a ST", b"O", b"x")] == ["a ", "", "STOx"]


def test_an_incomplete_character_at_the_end_is_replaced():
    stream = TextStream()
    assert stream.push("é".encode()[:1]) == ""
    assert stream.flush() == "\ufffd"


@pytest.mark.parametrize("step", [1, 2, 3, 50])
def test_from_the_mark_of_a_call_on_nothing_is_a_stop(step: int):
    def shown(text: str) -> tuple[str, bool]:
        matcher = StopMatcher(["END"], ["<call>"])
        said = "".join(matcher.push(text[at : at + step]) for at in range(0, len(text), step))
        return said + matcher.flush(), matcher.stopped

    assert shown("a <x <call>END <call> EN") == ("a <x <call>END <call> EN", False)
    assert shown("a END <call>b") == ("a ", True)


def test_a_stop_that_begins_a_mark_comes_before_it():
    matcher = StopMatcher(["<call>"], ["<call>"])
    assert matcher.push("a <call> b") == "a "
    assert matcher.stopped
