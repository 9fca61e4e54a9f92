import pytest

from lathe.serving.loadtest.sse import EventReader, MalformedStreamError

STREAM = (
    b': keep-alive\n\ndata: {"a": "\xc3\xa9"}\r\n\r\n'
    b"event: x\nid: 1\ndata:one\ndata: two\n\ndata: [DONE]\n\ndata: cut"
)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_events_do_not_depend_on_where_the_bytes_are_cut(size: int) -> None:
    reader = EventReader()
    events = [e for i in range(0, len(STREAM), size) for e in reader.feed(STREAM[i : i + size])]
    assert events == ['{"a": "é"}', "one\ntwo", "[DONE]"]


@pytest.mark.parametrize("line", [b'{"choices": []}\n', b"dta: {}\n", b"data: \xff\xfe\n"])
def test_what_is_no_event_is_an_error(line: bytes) -> None:
    with pytest.raises(MalformedStreamError):
        EventReader().feed(line)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_l1_lines_end_in_any_of_three_ways_and_an_event_is_told_at_once(end: bytes, size: int) -> None:
    events = b"".join(b"data: " + text + end + end for text in (b"one", b"two"))
    stream = b"\xef\xbb\xbf" + events + b": x" + end
    reader, told = EventReader(), []
    for at in range(0, len(stream), size):
        told += [(at + size, event) for event in reader.feed(stream[at : at + size])]
    assert [event for _, event in told] == ["one", "two"]
    complete = 3 + len(b"data: one") + 2 * len(end) - (end == b"\r\n")  # a CR ends a line, before its LF
    assert told[0][0] - size < complete <= told[0][0]
