"""Protobuf's wire format, as far as cutting and splicing a message needs it.

A message is a sequence of fields; each begins with a varint tag (field number << 3 | wire type).
Wire type 0 is a varint, 1 eight bytes, 5 four bytes and 2 a length and that many bytes. Reading
never goes past the end that the caller gives, whatever the lengths inside the message claim.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, LENGTH_DELIMITED, FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10

Buffer = memoryview


class WireError(ValueError):
    """The bytes are no protobuf message, or end in the middle of one."""


def read_varint(buffer: Buffer, position: int, end: int) -> tuple[int, int]:
    """The unsigned integer at `position` and the position behind it."""
    result = shift = 0
    stop = min(end, position + _LONGEST_VARINT)
    while position < stop:
        byte = buffer[position]
        position += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            return result, position
        shift += 7
    raise WireError(f"it ends or breaks off at byte {position}")


def fields(buffer: Buffer, start: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
    """Walks the fields of the message in `buffer[start:end]` without looking inside them.

    Yields:
        Field number, wire type, position of the tag, and start and end of the value. For a varint
        `start` and `end` enclose its encoding.
    """
    position = start
    while position < end:
        begin = position
        tag = buffer[position]
        if tag < 0x80:
            position += 1
        else:
            tag, position = read_varint(buffer, position, end)
        number, kind = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise WireError(f"there is no protobuf field at byte {begin}")
        if kind == LENGTH_DELIMITED:
            length, value = read_varint(buffer, position, end)
            position = value + length
        elif kind == VARINT:
            value = position
            _, position = read_varint(buffer, position, end)
        elif kind == FIXED64:
            value, position = position, position + 8
        elif kind == FIXED32:
            value, position = position, position + 4
        else:
            raise WireError(f"there is no protobuf field at byte {begin}")
        if position > end:
            raise WireError(f"the field at byte {begin} needs {position - end} more bytes")
        yield number, kind, begin, value, position


def varint(number: int) -> bytes:
    """Encodes an unsigned integer."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def length_delimited(number: int, length: int) -> bytes:
    """Tag and length of a field whose `length` bytes follow."""
    return varint(number << 3 | LENGTH_DELIMITED) + varint(length)
