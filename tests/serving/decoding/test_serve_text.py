from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lathe.serving.decoding.detokenizer import Detokenizer, StopMatcher

PIECES = st.lists(st.binary(max_size=3), max_size=40)
STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=4)


def parts_of(pieces: list[bytes], stops: list[str]) -> tuple[list[str], bool]:
    stream = Detokenizer(stops)
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
    stream = Detokenizer(["STOP"])
    assert [stream.push(piece) for piece in (b"a ST", b"O", b"x")] == ["a ", "", "STOx"]


def test_an_incomplete_character_at_the_end_is_replaced():
    stream = Detokenizer()
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


@given(st.lists(st.text("ab", max_size=3), max_size=20), STOPS, st.integers(0, 12))
def test_s3_no_stop_string_ends_in_the_first_pieces(pieces: list[str], stops: list[str], early: int):
    stream, shown = Detokenizer(stops), ""
    for i, piece in enumerate(pieces):
        shown += stream.push(piece.encode(), may_stop=i >= early)
        if stream.stopped:
            break
    else:
        shown += stream.flush(may_stop=len(pieces) > early)
    whole, least = "".join(pieces), len("".join(pieces[:early]))
    found = ((at, stop) for stop in stops for at in range(len(whole)) if whole.startswith(stop, at))
    places = [(at, at + len(stop)) for at, stop in found]
    late = [(begin, end) for begin, end in places if end > least]
    assert stream.stopped == bool(late)
    assert whole.startswith(shown)
    if late:
        assert len(shown) in {begin for begin, _ in late}
        assert not any(end > least for begin, end in places if end <= len(shown))
    else:
        assert shown == whole


def test_s1_a_special_token_ends_the_text_where_a_stop_string_spells_it():
    names = {7: "<end>", 8: "<turn>"}

    def text(*pushed: bytes | int, **options: bool) -> str:
        stream = Detokenizer(["x<end>", "<turn><end>"], special_tokens=names, **options)
        parts = [stream.push(b"", one) if isinstance(one, int) else stream.push(one) for one in pushed]
        return "".join(parts) + ("|" if stream.stopped else stream.flush())

    assert text(b"ax", 7, b"b") == "a|"
    assert text(b"a", 7, b"b") == "ab"
    assert text(b"a", 8, 8, 7) == "a|"
    assert text(b"x", 8, b"e") == "xe"
    assert text(b"x<e", b"nd>y") == "|"
    assert text(b"ax", 7, keep_stop=True) == "ax<end>|"
    assert text(b"a", 8, b"x", 7, show_specials=True) == "a<turn>|"
    assert text("é".encode()[:1], 8, b"e") == "\ufffde"
