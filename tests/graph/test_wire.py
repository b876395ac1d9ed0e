from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxopt.graph.wire import WireError, fields, length_delimited, read_varint, varint


@given(st.integers(0, 2**64 - 1))
def test_varint_reads_back_what_it_wrote(number):
    encoded = memoryview(varint(number))
    assert read_varint(encoded, 0, len(encoded)) == (number, len(encoded))


@given(st.binary(max_size=64))
def test_fields_cover_the_message_or_refuse_it(data):
    view = memoryview(data)
    try:
        found = list(fields(view, 0, len(view)))
    except WireError:
        return
    position = 0
    for _, _, begin, start, end in found:
        assert begin == position
        assert begin < start <= end
        position = end
    assert position == len(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80" * 11,
        b"\x0a\x05abc",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x0b",
        b"\x00\x01",
        b"\x09",
    ],
)
def test_broken_field_is_refused(data):
    with pytest.raises(WireError):
        list(fields(memoryview(data), 0, len(data)))


def test_length_delimited_is_what_protobuf_writes():
    import onnx

    graph = onnx.GraphProto(name="n" * 300)
    body = graph.SerializeToString()
    model = onnx.ModelProto()
    model.graph.CopyFrom(graph)
    assert model.SerializeToString() == length_delimited(7, len(body)) + body
