"""The few packets that the simulated server needs, in bytes. Written from the standard, and independent of the library's own codec.

It is fast rather than complete: whether the client's bytes are legal in every detail is for `tests.strict_parser` to say, which is asked for
some of the stories. Invariant: what it can't read raises `WireError`.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "Connect",
    "Publish",
    "Request",
    "WireError",
    "ack",
    "connack",
    "decode_ack",
    "decode_connect",
    "decode_disconnect",
    "decode_publish",
    "decode_request",
    "packet",
    "publish",
    "split",
]

# Table 2-4: how long the value of a property is; -1: a length before it, -2: a variable byte integer, -3: two strings.
_SIZES = {
    0x01: 1,
    0x02: 4,
    0x03: -1,
    0x08: -1,
    0x09: -1,
    0x0B: -2,
    0x11: 4,
    0x15: -1,
    0x16: -1,
    0x17: 1,
    0x18: 4,
    0x19: 1,
    0x1F: -1,
    0x21: 2,
    0x22: 2,
    0x23: 2,
    0x26: -3,
    0x27: 4,
}


class WireError(Exception):
    """Bytes that are no packet of a client."""


class Connect(NamedTuple):
    """A CONNECT."""

    client_id: str
    clean_start: bool
    keep_alive: int
    session_expiry_s: int
    receive_maximum: int
    packet_size_max: int


class Publish(NamedTuple):
    """A PUBLISH."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    packet_id: int
    alias: int
    expiry_s: int | None


class Request(NamedTuple):
    """A SUBSCRIBE (with the options of each filter) or an UNSUBSCRIBE (with 0 for each)."""

    packet_id: int
    identifier: int
    filters: list[tuple[str, int]]


def _varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, byte = divmod(value, 128)
        out.append(byte | 128 if value else byte)
        if not value:
            return bytes(out)


def _read_varint(data: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[offset]
        offset += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, offset
        shift += 7
        if shift > 21:
            raise WireError("a variable byte integer of more than four bytes")


def split(data: bytes) -> tuple[list[tuple[int, bytes, int]], bytes]:
    """Return the whole packets in `data` (first byte, body, size of the packet), and the rest."""
    found: list[tuple[int, bytes, int]] = []
    offset = 0
    size = len(data)
    while offset + 1 < size:
        length = data[offset + 1]
        start = offset + 2
        if length > 127:
            try:
                length, start = _read_varint(data, offset + 1)
            except IndexError:
                break
        end = start + length
        if end > size:
            break
        found.append((data[offset], data[start:end], end - offset))
        offset = end
    return found, data[offset:]


def _read_properties(body: bytes, offset: int) -> tuple[dict[int, int], int]:
    """Return the numbers among the properties by identifier, and where they end."""
    length = body[offset]
    if not length:
        return {}, offset + 1
    length, offset = _read_varint(body, offset)
    end = offset + length
    found: dict[int, int] = {}
    while offset < end:
        identifier = body[offset]
        offset += 1
        size = _SIZES.get(identifier)
        if size is None:
            raise WireError(f"property {identifier:#x} from a client")
        if size > 0:
            found[identifier] = int.from_bytes(body[offset : offset + size], "big")
            offset += size
        elif size == -2:
            found[identifier], offset = _read_varint(body, offset)
        else:
            for _ in range(2 if size == -3 else 1):
                offset += 2 + int.from_bytes(body[offset : offset + 2], "big")
    if offset != end:
        raise WireError("properties that end behind their end")
    return found, end


def decode_connect(body: bytes) -> Connect:
    """Decode a CONNECT (without Will, user name and password)."""
    if body[:7] != b"\0\x04MQTT\x05":
        raise WireError(f"CONNECT begins with {body[:7]!r}")
    if body[7] & ~2:
        raise WireError(f"Connect Flags {body[7]:#x}")
    properties, end = _read_properties(body, 10)
    length = int.from_bytes(body[end : end + 2], "big")
    if end + 2 + length != len(body):
        raise WireError("CONNECT with something behind its Client Identifier")
    return Connect(
        body[end + 2 :].decode(),
        bool(body[7] & 2),
        int.from_bytes(body[8:10], "big"),
        properties.get(0x11, 0),
        properties.get(0x21, 65_535),
        properties.get(0x27, 1 << 28),
    )


def decode_publish(first: int, body: bytes) -> Publish:
    """Decode a PUBLISH."""
    qos = first >> 1 & 3
    end = 2 + int.from_bytes(body[:2], "big")
    topic = body[2:end].decode()
    packet_id = 0
    if qos:
        packet_id = int.from_bytes(body[end : end + 2], "big")
        end += 2
        if not packet_id:
            raise WireError("PUBLISH with packet identifier 0")
    properties, end = _read_properties(body, end)
    return Publish(topic, body[end:], qos, bool(first & 1), bool(first & 8), packet_id, properties.get(0x23, 0), properties.get(0x02))


def decode_ack(body: bytes) -> tuple[int, int]:
    """Decode PUBACK, PUBREC, PUBREL or PUBCOMP: packet identifier and reason code."""
    return body[0] << 8 | body[1], body[2] if len(body) > 2 else 0


def decode_request(body: bytes, options: bool) -> Request:
    """Decode a SUBSCRIBE (with `options`) or UNSUBSCRIBE."""
    properties, offset = _read_properties(body, 2)
    filters: list[tuple[str, int]] = []
    while offset < len(body):
        end = offset + 2 + int.from_bytes(body[offset : offset + 2], "big")
        filters.append((body[offset + 2 : end].decode(), body[end] if options else 0))
        offset = end + options
    if not filters or offset != len(body):
        raise WireError("a request whose filters don't end with it")
    return Request(body[0] << 8 | body[1], properties.get(0x0B, 0), filters)


def decode_disconnect(body: bytes) -> tuple[int, int | None]:
    """Decode a DISCONNECT: reason code and Session Expiry Interval."""
    if not body:
        return 0, None
    return body[0], _read_properties(body, 1)[0].get(0x11) if len(body) > 1 else None


# ---- what the server says ---------------------------------------------------------------------------------------------------------------


def packet(first: int, body: bytes) -> bytes:
    """Return a packet."""
    return bytes((first,)) + _varint(len(body)) + body


def connack(session_present: bool, reason_code: int, properties: dict[int, int]) -> bytes:
    """Return a CONNACK; `properties` are numbers only."""
    block = b"".join(bytes((identifier,)) + value.to_bytes(_connack_size(identifier), "big") for identifier, value in properties.items())
    return packet(0x20, bytes((session_present, reason_code)) + _varint(len(block)) + block)


def _connack_size(identifier: int) -> int:
    return {0x11: 4, 0x13: 2, 0x21: 2, 0x22: 2, 0x27: 4}.get(identifier, 1)


def publish(topic: str, payload: bytes, qos: int, packet_id: int, dup: bool, retain: bool, identifiers: list[int]) -> bytes:
    """Return a PUBLISH."""
    field = topic.encode()
    block = b"".join(b"\x0b" + _varint(identifier) for identifier in identifiers)
    body = len(field).to_bytes(2, "big") + field + (packet_id.to_bytes(2, "big") if qos else b"") + _varint(len(block)) + block + payload
    return packet(0x30 | dup << 3 | qos << 1 | retain, body)


def ack(first: int, packet_id: int, reason_code: int = 0) -> bytes:
    """Return a PUBACK, PUBREC, PUBREL or PUBCOMP."""
    return packet(first, packet_id.to_bytes(2, "big") + (bytes((reason_code,)) if reason_code else b""))
