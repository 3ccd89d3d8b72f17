"""Read the fields of a protobuf message, without a library and without knowing what they mean."""

from __future__ import annotations

from collections.abc import Iterator

_SIZES = {1: 8, 5: 4}  # bytes of the fixed kinds of number
_LARGEST = (1 << 29) - 1  # number of a field


def fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The number of each field, and its number or bytes.

    Raises:
        ValueError: the bytes are no message.
        IndexError: likewise: they end too early.
    """
    place = 0
    while place < len(message):
        key, place = _varint(message, place)
        number, wire = key >> 3, key & 7
        if not 0 < number <= _LARGEST:  # some readers cut it to 32 bits, and would see another field than we do
            raise ValueError("a field with a number that none can have")
        if wire == 0:
            value, place = _varint(message, place)
            yield number, value
            continue
        if wire == 2:
            length, place = _varint(message, place)
        elif wire in _SIZES:
            length = _SIZES[wire]
        else:
            raise ValueError(f"a field of the unknown kind {wire}")
        if place + length > len(message):
            raise ValueError("a field that ends behind its message")
        yield number, message[place : place + length]
        place += length


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[place]
        value |= (byte & 127) << shift
        place += 1
        if byte < 128:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("a number without end")


def merged(message: memoryview, wanted: int) -> memoryview:
    """The message that lies in this field. Where it comes several times, every reader takes all of them together.

    Raises:
        ValueError: the bytes are no message, or there is a number in the field.
        IndexError: they end too early.
    """
    parts = [content for number, content in fields(message) if number == wanted]
    if any(isinstance(part, int) for part in parts):
        raise ValueError("a number in place of a message")
    return memoryview(b"".join(part for part in parts if not isinstance(part, int)))
