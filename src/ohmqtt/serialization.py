"""The data types of section 1.5, to bytes and back. Public: serialize your own payloads with it.

Owns the byte order and the rules of each type. Must not know what a packet or a property is. Invariant: an encoder returns bytes
that the decoder of the same name takes back unchanged, or raises ``ArgumentError``; a decoder never looks at or past ``end``, and
raises ``MalformedPacketError`` for everything that the encoder would not have written.

Decoders take ``(data, offset, end)`` and return ``(value, next_offset)``: integers are cheaper than slices and streams.
Control characters and Unicode non-characters are passed on both ways (section 1.5.4 advises against them and forbids only U+0000).
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from .errors import ArgumentError, MalformedPacketError
from .mqtt_spec import STRING_BYTES_MAX, UINT32_MAX, VARINT_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeAlias

    Buffer: TypeAlias = bytes | bytearray | memoryview

__all__ = [
    "decode_binary",
    "decode_string",
    "decode_string_pair",
    "decode_uint8",
    "decode_uint16",
    "decode_uint32",
    "decode_varint",
    "encode_binary",
    "encode_string",
    "encode_string_pair",
    "encode_uint8",
    "encode_uint16",
    "encode_uint32",
    "encode_varint",
]

_UINT16 = Struct(">H")
_UINT32 = Struct(">I")
_ONE_BYTE = tuple(bytes((value,)) for value in range(256))


def _too_short(what: str, offset: int, end: int) -> MalformedPacketError:
    return MalformedPacketError(f"{what} at offset {offset} doesn't end before offset {end}")


def _check_integer(value: int, maximum: int) -> None:
    if not isinstance(value, int):
        raise ArgumentError(f"integer expected, got {type(value).__name__}: {value!r}")
    if not 0 <= value <= maximum:
        raise ArgumentError(f"{value} is out of range, 0 to {maximum}")


def encode_uint8(value: int) -> bytes:
    """Encode an integer from 0 to 255 as one byte (section 1.5.1).

    Raises:
        ArgumentError: no integer, or out of range.
    """
    _check_integer(value, 255)
    return _ONE_BYTE[value]


def decode_uint8(data: Buffer, offset: int, end: int) -> tuple[int, int]:
    """Decode one byte (section 1.5.1); return the value and the offset after it.

    Raises:
        MalformedPacketError: it lies at or past ``end``.
    """
    if not 0 <= offset < end <= len(data):
        raise _too_short("byte", offset, end)
    return data[offset], offset + 1


def encode_uint16(value: int) -> bytes:
    """Encode an integer from 0 to 65,535 as a Two Byte Integer, high byte first (section 1.5.2).

    Raises:
        ArgumentError: no integer, or out of range.
    """
    _check_integer(value, 65_535)
    return _UINT16.pack(value)


def decode_uint16(data: Buffer, offset: int, end: int) -> tuple[int, int]:
    """Decode a Two Byte Integer (section 1.5.2); return the value and the offset after it.

    Raises:
        MalformedPacketError: part of it lies at or past ``end``.
    """
    if not 0 <= offset < offset + 2 <= end <= len(data):
        raise _too_short("two byte integer", offset, end)
    return data[offset] << 8 | data[offset + 1], offset + 2


def encode_uint32(value: int) -> bytes:
    """Encode an integer from 0 to 4,294,967,295 as a Four Byte Integer, high byte first (section 1.5.3).

    Raises:
        ArgumentError: no integer, or out of range.
    """
    _check_integer(value, UINT32_MAX)
    return _UINT32.pack(value)


def decode_uint32(data: Buffer, offset: int, end: int) -> tuple[int, int]:
    """Decode a Four Byte Integer (section 1.5.3); return the value and the offset after it.

    Raises:
        MalformedPacketError: part of it lies at or past ``end``.
    """
    if not 0 <= offset < offset + 4 <= end <= len(data):
        raise _too_short("four byte integer", offset, end)
    value: int = _UINT32.unpack_from(data, offset)[0]
    return value, offset + 4


def encode_varint(value: int) -> bytes:
    """Encode an integer from 0 to 268,435,455 as a Variable Byte Integer of one to four bytes (section 1.5.5).

    Raises:
        ArgumentError: no integer, or out of range.
    """
    _check_integer(value, VARINT_MAX)
    # As few bytes as hold it [MQTT-1.5.5-1].
    if value < 128:
        return _ONE_BYTE[value]
    if value < 16_384:
        return bytes((value & 127 | 128, value >> 7))
    if value < 2_097_152:
        return bytes((value & 127 | 128, value >> 7 & 127 | 128, value >> 14))
    return bytes((value & 127 | 128, value >> 7 & 127 | 128, value >> 14 & 127 | 128, value >> 21))


def decode_varint(data: Buffer, offset: int, end: int) -> tuple[int, int]:
    """Decode a Variable Byte Integer (section 1.5.5); return the value and the offset after it.

    Raises:
        MalformedPacketError: it is longer than four bytes, padded [MQTT-1.5.5-1], or part of it lies at or past ``end``.
    """
    if not 0 <= offset < end <= len(data):
        raise _too_short("variable byte integer", offset, end)
    byte = data[offset]
    if byte < 128:
        return byte, offset + 1
    value = byte & 127
    for place in (1, 2, 3):
        position = offset + place
        if position >= end:
            raise _too_short("variable byte integer", offset, end)
        byte = data[position]
        value |= (byte & 127) << 7 * place
        if byte < 128:
            # [MQTT-1.5.5-1]: a last byte of 0 means that fewer bytes would have done.
            if not byte:
                raise MalformedPacketError(f"variable byte integer at offset {offset} is padded")
            return value, position + 1
    raise MalformedPacketError(f"variable byte integer at offset {offset} is longer than four bytes")


def encode_string(value: str) -> bytes:
    """Encode text as a UTF-8 Encoded String with its two byte length (section 1.5.4). A U+FEFF is kept.

    Raises:
        ArgumentError: no ``str``, a lone surrogate, U+0000, or more than 65,535 bytes of UTF-8.
    """
    if not isinstance(value, str):
        raise ArgumentError(f"str expected, got {type(value).__name__}: {value!r}")
    try:
        encoded = value.encode()  # [MQTT-1.5.4-1]: Python's codec refuses surrogates, and keeps U+FEFF [MQTT-1.5.4-3].
    except UnicodeEncodeError as error:
        raise ArgumentError(f"text holds a lone surrogate at index {error.start}: {value[:50]!r}") from error
    if "\0" in value:  # [MQTT-1.5.4-2]
        raise ArgumentError(f"text holds U+0000 at index {value.index(chr(0))}: {value[:50]!r}")
    if len(encoded) > STRING_BYTES_MAX:
        raise ArgumentError(f"text of {len(encoded)} bytes in UTF-8 is longer than {STRING_BYTES_MAX}: {value[:50]!r}...")
    return _UINT16.pack(len(encoded)) + encoded


def decode_string(data: Buffer, offset: int, end: int) -> tuple[str, int]:
    """Decode a UTF-8 Encoded String (section 1.5.4); return the text and the offset after it. A U+FEFF is kept.

    Raises:
        MalformedPacketError: ill-formed UTF-8, surrogates, U+0000, or part of it lies at or past ``end``.
    """
    start = offset + 2
    if not 0 <= offset < start <= end <= len(data):
        raise _too_short("string", offset, end)
    stop = start + (data[offset] << 8 | data[offset + 1])
    if stop > end:
        raise _too_short("string", offset, end)
    try:
        value = str(data[start:stop], "utf-8")  # [MQTT-1.5.4-1], [MQTT-1.5.4-3]
    except UnicodeDecodeError as error:
        raise MalformedPacketError(f"string at offset {offset} is no UTF-8: {error.reason} at byte {error.start}") from error
    if "\0" in value:  # [MQTT-1.5.4-2]
        raise MalformedPacketError(f"string at offset {offset} holds U+0000")
    return value, stop


def encode_binary(value: Buffer) -> bytes:
    """Encode bytes as Binary Data with its two byte length (section 1.5.6).

    Raises:
        ArgumentError: not ``bytes``, ``bytearray`` or ``memoryview``, or longer than 65,535 bytes.
    """
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise ArgumentError(f"bytes expected, got {type(value).__name__}: {value!r:.100}")
    encoded = bytes(value)
    if len(encoded) > STRING_BYTES_MAX:
        raise ArgumentError(f"binary data of {len(encoded)} bytes is longer than {STRING_BYTES_MAX}")
    return _UINT16.pack(len(encoded)) + encoded


def decode_binary(data: Buffer, offset: int, end: int) -> tuple[bytes, int]:
    """Decode Binary Data (section 1.5.6); return the bytes and the offset after them.

    Raises:
        MalformedPacketError: part of it lies at or past ``end``.
    """
    start = offset + 2
    if not 0 <= offset < start <= end <= len(data):
        raise _too_short("binary data", offset, end)
    stop = start + (data[offset] << 8 | data[offset + 1])
    if stop > end:
        raise _too_short("binary data", offset, end)
    return bytes(data[start:stop]), stop


def encode_string_pair(value: Sequence[str]) -> bytes:
    """Encode a name and a value as a UTF-8 String Pair (section 1.5.7).

    Raises:
        ArgumentError: not two ``str``, or one of them breaks the rules of ``encode_string`` [MQTT-1.5.7-1].
    """
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise ArgumentError(f"pair of str expected, got {value!r:.100}")
    return encode_string(value[0]) + encode_string(value[1])


def decode_string_pair(data: Buffer, offset: int, end: int) -> tuple[tuple[str, str], int]:
    """Decode a UTF-8 String Pair (section 1.5.7); return name and value, and the offset after them.

    Raises:
        MalformedPacketError: as ``decode_string``, for either [MQTT-1.5.7-1].
    """
    name, offset = decode_string(data, offset, end)
    value, offset = decode_string(data, offset, end)
    return (name, value), offset
