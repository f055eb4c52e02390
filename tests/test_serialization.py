"""The data types of section 1.5: what is written, what is taken back, and everything that is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ohmqtt.errors import ArgumentError, MalformedPacketError
from ohmqtt.serialization import (
    decode_binary,
    decode_string,
    decode_string_pair,
    decode_uint8,
    decode_uint16,
    decode_uint32,
    decode_varint,
    encode_binary,
    encode_string,
    encode_string_pair,
    encode_uint8,
    encode_uint16,
    encode_uint32,
    encode_varint,
)

if TYPE_CHECKING:
    from collections.abc import Callable

CODECS: dict[str, tuple[Callable[..., bytes], Callable[..., tuple[Any, int]]]] = {
    "uint8": (encode_uint8, decode_uint8),
    "uint16": (encode_uint16, decode_uint16),
    "uint32": (encode_uint32, decode_uint32),
    "varint": (encode_varint, decode_varint),
    "string": (encode_string, decode_string),
    "binary": (encode_binary, decode_binary),
    "string_pair": (encode_string_pair, decode_string_pair),
}

ENCODED: list[tuple[str, Any, str]] = [
    ("uint8", 0, "00"),
    ("uint8", 255, "ff"),
    ("uint16", 1, "0001"),
    ("uint16", 65_535, "ffff"),
    ("uint32", 1, "00000001"),
    ("uint32", 0x0102_0304, "01020304"),
    ("uint32", 4_294_967_295, "ffffffff"),
    ("varint", 0, "00"),
    ("varint", 127, "7f"),
    ("varint", 128, "8001"),
    ("varint", 16_383, "ff7f"),
    ("varint", 16_384, "808001"),
    ("varint", 2_097_151, "ffff7f"),
    ("varint", 2_097_152, "80808001"),
    ("varint", 268_435_455, "ffffff7f"),
    ("string", "", "0000"),
    ("string", "A\N{CJK UNIFIED IDEOGRAPH-2A6D4}", "000541f0aa9b94"),
    ("string", "\ufefftopic", "0008efbbbf746f706963"),
    ("string", "\x01\x7f\x85\ufffe\U0010ffff", "000b" + "\x01\x7f\x85\ufffe\U0010ffff".encode().hex()),
    ("binary", b"", "0000"),
    ("binary", b"\x00\xff", "000200ff"),
    ("string_pair", ("name", ""), "00046e616d650000"),
]


@pytest.mark.spec("MQTT-1.5.5-1", "MQTT-1.5.4-3", "MQTT-1.5.4")
@pytest.mark.parametrize(("kind", "value", "encoded"), ENCODED)
def test_bytes_are_those_of_the_standard_and_come_back(kind: str, value: Any, encoded: str) -> None:
    encode, decode = CODECS[kind]
    data = bytes.fromhex(encoded)
    assert encode(value) == data
    assert decode(data, 0, len(data)) == (value, len(data))


@pytest.mark.parametrize(("kind", "value", "encoded"), ENCODED)
def test_decoders_start_at_the_offset_and_ignore_what_follows(kind: str, value: Any, encoded: str) -> None:
    data = bytes.fromhex(encoded)
    for buffer in (bytes, bytearray, memoryview):
        assert CODECS[kind][1](buffer(b"xyz" + data + b"q"), 3, 3 + len(data)) == (value, 3 + len(data))


@pytest.mark.parametrize(("kind", "value", "encoded"), ENCODED)
def test_decoders_never_read_past_the_end(kind: str, value: Any, encoded: str) -> None:
    data = bytes.fromhex(encoded)
    for end in range(len(data)):
        with pytest.raises(MalformedPacketError):
            CODECS[kind][1](data, 0, end)
        with pytest.raises(MalformedPacketError):
            CODECS[kind][1](data[:end], 0, len(data))


@pytest.mark.parametrize("kind", CODECS)
def test_decoders_refuse_a_negative_offset(kind: str) -> None:
    with pytest.raises(MalformedPacketError):
        CODECS[kind][1](b"\0" * 8, -4, 8)


@pytest.mark.spec("MQTT-1.5.5-1")
@pytest.mark.parametrize("encoded", ["8000", "808000", "80808000", "ff00", "ff8000"])
def test_a_padded_length_is_malformed(encoded: str) -> None:
    data = bytes.fromhex(encoded)
    with pytest.raises(MalformedPacketError, match="padded"):
        decode_varint(data, 0, len(data))


@pytest.mark.spec("MQTT-1.5.5")
@pytest.mark.parametrize("encoded", ["ffffffff7f", "80808080", "ffffffff01"])
def test_a_length_of_five_bytes_is_malformed(encoded: str) -> None:
    data = bytes.fromhex(encoded)
    with pytest.raises(MalformedPacketError, match="longer than four bytes") as caught:
        decode_varint(data, 0, len(data))
    assert caught.value.reason_code == 0x81


@pytest.mark.spec("MQTT-1.5.4-1", "MQTT-1.5.7-1")
@pytest.mark.parametrize("bad", ["eda080", "edbfbf", "ff", "c080", "c1bf", "e08080", "f0808080", "f4908080", "e282", "80", "c3"])
def test_ill_formed_utf8_is_malformed(bad: str) -> None:
    raw = b"ab" + bytes.fromhex(bad)
    data = len(raw).to_bytes(2, "big") + raw
    with pytest.raises(MalformedPacketError, match="no UTF-8"):
        decode_string(data, 0, len(data))
    for pair in (data + b"\0\1b", b"\0\1b" + data):
        with pytest.raises(MalformedPacketError):
            decode_string_pair(pair, 0, len(pair))


@pytest.mark.spec("MQTT-1.5.4-2", "MQTT-1.5.7-1")
def test_u_0000_is_malformed() -> None:
    with pytest.raises(MalformedPacketError, match=r"U\+0000"):
        decode_string(b"\0\3a\0b", 0, 5)
    with pytest.raises(MalformedPacketError):
        decode_string_pair(b"\0\1a\0\1\0", 0, 6)


@pytest.mark.spec("MQTT-1.5.4-1", "MQTT-1.5.4-2", "MQTT-1.5.7-1")
@pytest.mark.parametrize("text", ["a\ud800", "\udfff", "a\0b", "\0"])
def test_text_that_no_string_may_hold_is_refused(text: str) -> None:
    for kind, value in (("string", text), ("string_pair", ("ok", text)), ("string_pair", (text, "ok"))):
        with pytest.raises(ArgumentError, match=r"surrogate|U\+0000"):
            CODECS[kind][0](value)


@pytest.mark.spec("MQTT-4.7.3-3")
def test_strings_and_binary_are_limited_in_bytes() -> None:
    assert decode_string(encode_string("€" * 21_845), 0, 65_537) == ("€" * 21_845, 65_537)
    with pytest.raises(ArgumentError, match="65536 bytes in UTF-8 is longer than 65535"):
        encode_string("€" * 21_845 + "x")
    assert decode_binary(encode_binary(b"x" * 65_535), 0, 65_537) == (b"x" * 65_535, 65_537)
    with pytest.raises(ArgumentError, match="65536 bytes is longer than 65535"):
        encode_binary(b"x" * 65_536)


def test_buffers_are_copied() -> None:
    buffer = bytearray(b"ab")
    encoded = encode_binary(buffer)
    buffer[0] = 0
    assert encoded == b"\0\2ab"
    assert encode_binary(memoryview(b"xy")[::-1]) == b"\0\2yx"


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("uint8", -1, "-1 is out of range, 0 to 255"),
        ("uint8", 256, "256 is out of range, 0 to 255"),
        ("uint16", 65_536, "out of range, 0 to 65535"),
        ("uint32", 4_294_967_296, "out of range, 0 to 4294967295"),
        ("varint", 268_435_456, "out of range, 0 to 268435455"),
        ("varint", 1.5, "integer expected, got float"),
        ("uint16", "1", "integer expected, got str"),
        ("uint32", None, "integer expected, got NoneType"),
        ("string", b"text", "str expected, got bytes"),
        ("string", None, "str expected, got NoneType"),
        ("binary", "text", "bytes expected, got str"),
        ("binary", 3, "bytes expected, got int"),
        ("string_pair", ("one",), "pair of str expected"),
        ("string_pair", ("a", "b", "c"), "pair of str expected"),
        ("string_pair", "ab", "pair of str expected"),
        ("string_pair", ("a", 1), "str expected, got int"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_with_the_limit(kind: str, value: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        CODECS[kind][0](value)
