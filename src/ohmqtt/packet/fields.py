"""Checks and encodings of the fields that several packets have, and the two topic caches.

Owns what a field may hold (topic, packet identifier, reason code, flag, properties). Must not know any packet's layout. Invariant: whatever
is in a topic cache is a valid Topic Name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ArgumentError, ProtocolError
from ..mqtt_spec import PACKET_ID_MAX, REASON_CODES, VARINT_MAX, PacketType, reason_name
from ..serialization import decode_string, encode_string, encode_varint

if TYPE_CHECKING:
    from ..property import Properties

__all__ = [
    "PUBLISH_FIRST_BYTES",
    "PUBLISH_FLAGS",
    "check_flag",
    "check_packet_id",
    "check_reason_code",
    "check_utf8",
    "decode_topic",
    "decoded_topics",
    "encode_length",
    "encode_packet",
    "encode_properties",
    "encode_reason_codes",
    "encode_text",
    "encode_topic",
    "encoded_topics",
    "filter_problem",
    "topic_problem",
]

_TOPIC_CACHE_ENTRIES_MAX = 4_096
_TOPIC_CACHE_BYTES_MAX = 256


# QoS, RETAIN and DUP by first byte; QoS 3 stands for what isn't allowed.
PUBLISH_FLAGS = tuple(
    (3 if flags & 6 == 6 or flags & 14 == 8 else flags >> 1 & 3, bool(flags & 1), bool(flags & 8)) for flags in range(256)
)
PUBLISH_FIRST_BYTES = {legal: 0x30 | flags for flags, legal in enumerate(PUBLISH_FLAGS[:16]) if legal[0] != 3}


def topic_problem(topic: str) -> str:
    """Say what is wrong with a Topic Name beyond being a string (section 4.7), or return an empty string."""
    if not topic:  # [MQTT-4.7.3-1]
        return "topic name is empty"
    if "+" in topic or "#" in topic:  # [MQTT-3.3.2-2], [MQTT-4.7.0-1]
        return f"topic name {topic[:100]!r} holds a wildcard"
    return ""


def filter_problem(topic_filter: str) -> str:
    """Say what is wrong with a Topic Filter beyond being a string (sections 4.7 and 4.8), or return an empty string."""
    levels = topic_filter.split("/")
    if topic_filter.startswith("$share/"):
        if len(levels) < 3 or not levels[1] or "+" in levels[1] or "#" in levels[1]:  # [MQTT-4.8.2-1], [MQTT-4.8.2-2]
            return f"topic filter {topic_filter[:100]!r} is no $share/{{name}}/{{filter}}"
        del levels[:2]
    if levels == [""]:  # [MQTT-4.7.3-1]
        return f"topic filter {topic_filter[:100]!r} is empty"
    if "+" in topic_filter or "#" in topic_filter:
        for level in levels:
            if level != "+" and "+" in level:  # [MQTT-4.7.1-2]
                return f"topic filter {topic_filter[:100]!r} has a + that isn't a whole level"
            if level != "#" and "#" in level:  # [MQTT-4.7.1-1]
                return f"topic filter {topic_filter[:100]!r} has a # that isn't a whole level"
        if "#" in levels[:-1]:  # [MQTT-4.7.1-1]
            return f"topic filter {topic_filter[:100]!r} has a # before its last level"
    return ""


def encode_text(field: str, value: str) -> bytes:
    """Encode a string; an error names the field."""
    try:
        return encode_string(value)
    except ArgumentError as error:
        raise ArgumentError(f"{field}: {error}") from None


def encode_topic(topic: str) -> bytes:
    """Check and encode a Topic Name that isn't in the cache yet."""
    encoded = encode_text("topic", topic)
    problem = topic_problem(topic)
    if problem:
        raise ArgumentError(problem)
    if len(encoded) <= _TOPIC_CACHE_BYTES_MAX:
        if len(encoded_topics) >= _TOPIC_CACHE_ENTRIES_MAX:
            encoded_topics.clear()
        encoded_topics[topic] = encoded
    return encoded


def decode_topic(data: bytes, start: int, end: int) -> str:
    """Decode and check a Topic Name that isn't in the cache yet; it may be empty."""
    topic, _ = decode_string(data, start, end)
    if topic:
        problem = topic_problem(topic)
        if problem:
            raise ProtocolError(problem)
        encoded = topic.encode()
        if len(encoded) <= _TOPIC_CACHE_BYTES_MAX:
            if len(decoded_topics) >= _TOPIC_CACHE_ENTRIES_MAX:
                decoded_topics.clear()
            decoded_topics[encoded] = topic
    return topic


# Clients publish and receive few topics many times: a lookup costs a tenth of validating again. All values are valid topic names,
# so that it doesn't matter who put them there, or when they are dropped.
encoded_topics: dict[str, bytes] = {}
decoded_topics: dict[bytes, str] = {}


def check_packet_id(packet_id: object) -> None:
    """Raise unless this is a Packet Identifier (section 2.2.1)."""
    if not isinstance(packet_id, int) or not 1 <= packet_id <= PACKET_ID_MAX:  # [MQTT-2.2.1-3]
        raise ArgumentError(f"packet_id: {packet_id!r} is out of range, 1 to {PACKET_ID_MAX}")


def check_reason_code(packet_type: PacketType, reason_code: object) -> None:
    """Raise unless the standard lists this Reason Code for the packet (section 2.4)."""
    if not isinstance(reason_code, int):
        raise ArgumentError(f"reason_code: integer expected, got {reason_code!r:.100}")
    if reason_code not in REASON_CODES[packet_type]:
        raise ArgumentError(f"reason_code: {reason_name(reason_code)} is no reason code of {packet_type.name}")


def encode_reason_codes(packet_type: PacketType, reason_codes: tuple[int, ...]) -> bytes:
    """Check and encode the payload of a SUBACK or UNSUBACK."""
    if not reason_codes:
        raise ArgumentError("reason_codes: at least one expected")
    for reason_code in reason_codes:
        check_reason_code(packet_type, reason_code)
    return bytes(reason_codes)


def check_flag(field: str, value: object) -> None:
    """Raise unless this is a truth value."""
    if value not in (0, 1):
        raise ArgumentError(f"{field}: True or False expected, got {value!r}")


def check_utf8(field: str, payload: bytes) -> None:
    """Raise unless the payload is what a Payload Format Indicator of 1 says."""
    try:
        str(payload, "utf-8")
    except UnicodeDecodeError as error:  # sections 3.1.3.2.3 and 3.3.2.3.2
        raise ArgumentError(f"{field}: PayloadFormatIndicator is 1, but byte {error.start} is no UTF-8: {error.reason}") from error


def encode_properties(cls: type[Properties], properties: Properties) -> bytes:
    """Encode properties, which must be those of this packet."""
    if properties.__class__ is not cls:
        raise ArgumentError(f"properties: {cls.__name__} expected, got {type(properties).__name__}")
    return properties.encode()


def encode_length(length: int) -> bytes:
    """Encode the Remaining Length of a packet (section 2.1.4)."""
    if length > VARINT_MAX:
        raise ArgumentError(f"packet of {length} bytes is longer than {VARINT_MAX}")
    return encode_varint(length)


def encode_packet(first_byte: int, *parts: bytes) -> bytes:
    """Put the fixed header before the parts of a packet (section 2.1)."""
    return b"".join((bytes((first_byte,)), encode_length(sum([len(part) for part in parts])), *parts))
