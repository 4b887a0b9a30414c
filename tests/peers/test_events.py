"""Server-sent events: the same from bytes that are cut anywhere, with every end of a line that there is and no other."""

import json

import pytest

from specexp.peers.streams import Event, EventStream

CONTENT = {"text": "é\u2028你\u2029🙂\u0085\v\f\x1c"}
DATA = json.dumps(CONTENT, ensure_ascii=False)


def parsed(*pieces):
    stream = EventStream()
    return [event for piece in pieces for event in stream.feed(piece)] + stream.close()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_only_three_things_end_a_line_wherever_the_bytes_are_cut(end):
    lines = [": a comment", "", "event: delta", f"data: {DATA}", "id: 1", "", "retry: 3", f"data:{DATA}", "data", "data:  two", ""]
    body = b"\xef\xbb\xbf" + end.join(lines).encode() + end.encode()
    found = [Event((DATA,), "delta"), Event((DATA, "", " two"))]
    assert parsed(body) == found and json.loads(found[0].data) == CONTENT
    assert all(parsed(body[:cut], body[cut:]) == found for cut in range(len(body)))
    assert parsed(*(body[place : place + 1] for place in range(len(body)))) == found


def test_an_event_is_given_as_soon_as_its_empty_line_is_there():
    stream = EventStream()
    assert stream.feed(b"data: 1\r\n\r") == [Event(("1",))] and stream.feed(b"\n") == []
    assert stream.feed(b"data: 2\r\r") == [Event(("2",))] and stream.feed(b"") == [] and stream.feed(b"\ndata: 3\n\n") == [Event(("3",))]
    assert stream.feed(b"data: 4\r\n") == [] and stream.close() == [Event(("4",))] and stream.close() == []


def test_a_stream_that_ends_in_a_line_loses_nothing():
    assert parsed(b"data: 1\n\ndata: 2") == [Event(("1",)), Event(("2",))]
    assert parsed(b"event: error\n\n: nothing\n\n") == []
    assert parsed(b"data: \xff\n\n") == [Event(("\ufffd",))]
