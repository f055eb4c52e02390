"""Bytes to packet records (chapter 3): a decoder for each first byte, and ``decode_packet`` for people who have a buffer.

Invariant: a decoder returns a record that fits the standard, or raises ``ProtocolError`` or ``MalformedPacketError``, and nothing else.
"""

# All decoders are called alike, whether they need the first byte or not.
# ruff: noqa: ARG001

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, overload

from ..errors import ArgumentError, MalformedPacketError, ProtocolError
from ..mqtt_spec import PROTOCOL_NAME, PROTOCOL_VERSION, REASON_CODES, PacketType, reason_name
from ..property import (
    MQTTAuthProps,
    MQTTConnAckProps,
    MQTTConnectProps,
    MQTTDisconnectProps,
    MQTTPubAckProps,
    MQTTPubCompProps,
    MQTTPublishProps,
    MQTTPubRecProps,
    MQTTPubRelProps,
    MQTTSubAckProps,
    MQTTSubscribeProps,
    MQTTUnsubAckProps,
    MQTTUnsubscribeProps,
    MQTTWillProps,
    Properties,
)
from ..serialization import decode_binary, decode_string, decode_uint8, decode_uint16, decode_varint
from .fields import PUBLISH_FIRST_BYTES, PUBLISH_FLAGS, decode_topic, decoded_topics, filter_problem, topic_problem
from .records import (
    MQTTAuthPacket,
    MQTTConnAckPacket,
    MQTTConnectPacket,
    MQTTDisconnectPacket,
    MQTTPacket,
    MQTTPingReqPacket,
    MQTTPingRespPacket,
    MQTTPubAckPacket,
    MQTTPubCompPacket,
    MQTTPublishPacket,
    MQTTPubRecPacket,
    MQTTPubRelPacket,
    MQTTSubAckPacket,
    MQTTSubscribePacket,
    MQTTUnsubAckPacket,
    MQTTUnsubscribePacket,
)
from .values import MQTTSubscription, MQTTWill

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Decoder: TypeAlias = Callable[[bytes, int, int, int], MQTTPacket]

__all__ = ["DECODERS", "decode_packet", "decode_publish"]

_Record = TypeVar("_Record")

_NO_PUBLISH_PROPERTIES = MQTTPublishProps.EMPTY
_decode_publish_properties = MQTTPublishProps.decode


def _decode_packet_id(data: bytes, start: int, end: int) -> int:
    packet_id, _ = decode_uint16(data, start, end)
    if not packet_id:  # [MQTT-2.2.1-3]
        raise ProtocolError("packet identifier 0")
    return packet_id


def _decode_reason_code(packet_type: PacketType, data: bytes, offset: int, end: int) -> int:
    reason_code, _ = decode_uint8(data, offset, end)
    if reason_code not in REASON_CODES[packet_type]:
        raise ProtocolError(f"{reason_name(reason_code)} is no reason code of {packet_type.name}")
    return reason_code


def _expect_end(what: str, offset: int, end: int) -> None:
    if offset != end:
        raise MalformedPacketError(f"{what} has {end - offset} bytes too many")


@overload
def decode_publish(data: bytes, start: int, end: int, first_byte: int) -> MQTTPublishPacket: ...
@overload
def decode_publish(
    data: bytes,
    start: int,
    end: int,
    first_byte: int,
    record: Callable[[str, bytes, int, bool, bool, int, MQTTPublishProps], _Record],
) -> _Record: ...
def decode_publish(data: bytes, start: int, end: int, first_byte: int, record: Any = MQTTPublishPacket) -> Any:
    """Decode the body ``data[start:end]`` of a PUBLISH (section 3.3).

    Args:
        data: at least ``end`` bytes.
        start: the offset after the Remaining Length.
        end: the offset after the packet.
        first_byte: 0x30 to 0x3F, with the flags DUP, QoS and RETAIN.
        record: what is made of it: called with topic, payload, qos, retain, dup, packet_id, properties.

    Raises:
        MalformedPacketError: no PUBLISH.
        ProtocolError: packet identifier 0, a wildcard in the topic, no topic and no alias, or a bad property.
    """
    qos, retain, dup = PUBLISH_FLAGS[first_byte]
    if qos == 3:  # [MQTT-3.3.1-2], [MQTT-3.3.1-4]
        raise MalformedPacketError(f"PUBLISH with first byte 0x{first_byte:02X}: QoS 3, or DUP with QoS 0")
    try:
        offset = start + 2 + (data[start] << 8 | data[start + 1])
        # A length that leads out of the packet is found out at the end; what the cache holds for it is valid, and not used.
        topic = decoded_topics.get(data[start + 2 : offset])
        if topic is None:
            topic = decode_topic(data, start, end)
        if qos:
            packet_id = data[offset] << 8 | data[offset + 1]
            offset += 2
            if not packet_id and offset < end:  # [MQTT-2.2.1-3]
                raise ProtocolError("PUBLISH with packet identifier 0")
        else:
            packet_id = 0
        if data[offset]:
            properties, offset = _decode_publish_properties(data, offset, end)
        else:
            properties = _NO_PUBLISH_PROPERTIES
            offset += 1
    except IndexError:
        raise MalformedPacketError("PUBLISH is cut short") from None
    if offset > end:
        raise MalformedPacketError("PUBLISH is cut short")
    if not topic and properties.TopicAlias is None:  # section 3.3.2.1
        raise ProtocolError("PUBLISH with neither topic nor topic alias")
    return record(topic, data[offset:end], qos, retain, dup, packet_id, properties)


def _decode_connect(data: bytes, start: int, end: int, first_byte: int) -> MQTTConnectPacket:
    name, offset = decode_string(data, start, end)
    version, offset = decode_uint8(data, offset, end)
    if name != PROTOCOL_NAME or version != PROTOCOL_VERSION:  # [MQTT-3.1.2-1], [MQTT-3.1.2-2]
        raise ProtocolError(f"protocol {name[:50]!r} version {version}, not MQTT version 5", 0x84)
    flags, offset = decode_uint8(data, offset, end)
    has_will = flags & 0x04
    # [MQTT-3.1.2-3], [MQTT-3.1.2-11], [MQTT-3.1.2-12], [MQTT-3.1.2-13]
    if flags & 0x01 or flags & 0x18 == 0x18 or (flags & 0x38 and not has_will):
        raise MalformedPacketError(f"CONNECT flags 0x{flags:02X}")
    keep_alive, offset = decode_uint16(data, offset, end)
    properties, offset = MQTTConnectProps.decode(data, offset, end)
    client_id, offset = decode_string(data, offset, end)
    will = user_name = password = None
    if has_will:
        will_properties, offset = MQTTWillProps.decode(data, offset, end)
        topic, offset = decode_string(data, offset, end)
        payload, offset = decode_binary(data, offset, end)
        try:
            will = MQTTWill(topic, payload, flags >> 3 & 3, bool(flags & 0x20), will_properties)
        except ArgumentError as error:
            # It is the topic, or a payload that isn't the text that it says (section 3.1.3.2.3): all else was looked at above.
            raise ProtocolError(str(error), 0x82 if topic_problem(topic) else 0x99) from error
    if flags & 0x80:
        user_name, offset = decode_string(data, offset, end)
    if flags & 0x40:
        password, offset = decode_binary(data, offset, end)
    _expect_end("CONNECT", offset, end)
    return MQTTConnectPacket(client_id, bool(flags & 0x02), keep_alive, will, user_name, password, properties)


def _decode_connack(data: bytes, start: int, end: int, first_byte: int) -> MQTTConnAckPacket:
    flags, offset = decode_uint8(data, start, end)
    if flags > 1:  # [MQTT-3.2.2-1]
        raise MalformedPacketError(f"CONNACK flags 0x{flags:02X}")
    # Session Present beside a failure is against [MQTT-3.2.2-6], but the refusal is what matters.
    reason_code = _decode_reason_code(PacketType.CONNACK, data, offset, end)  # [MQTT-3.2.2-8]
    properties, offset = MQTTConnAckProps.decode(data, offset + 1, end)
    _expect_end("CONNACK", offset, end)
    return MQTTConnAckPacket(reason_code, flags == 1, properties)


def _acknowledgement_decoder(record: Any, properties_class: type[Properties], packet_type: PacketType) -> Decoder:
    """Make the decoder of one kind of acknowledgement: they differ in their names and reason codes only."""
    codes = REASON_CODES[packet_type]

    def decode(data: bytes, start: int, end: int, first_byte: int) -> MQTTPacket:
        length = end - start
        if length < 2:
            raise MalformedPacketError(f"{packet_type.name} is cut short")
        packet_id = data[start] << 8 | data[start + 1]
        if not packet_id:  # [MQTT-2.2.1-3]
            raise ProtocolError(f"{packet_type.name} with packet identifier 0")
        # Sections 3.4.2.1 and 3.4.2.2.1: what is 0 at the end may be left out.
        if length == 2:
            return record(packet_id)  # type: ignore[no-any-return]
        reason_code = data[start + 2]
        if reason_code not in codes:  # [MQTT-3.4.2-1], [MQTT-3.5.2-1], [MQTT-3.6.2-1], [MQTT-3.7.2-1]
            raise ProtocolError(f"{reason_name(reason_code)} is no reason code of {packet_type.name}")
        if length == 3:
            return record(packet_id, reason_code)  # type: ignore[no-any-return]
        properties, offset = properties_class.decode(data, start + 3, end)
        if offset != end:
            _expect_end(packet_type.name, offset, end)
        return record(packet_id, reason_code, properties)  # type: ignore[no-any-return]

    return decode


def _decode_subscribe(data: bytes, start: int, end: int, first_byte: int) -> MQTTSubscribePacket:
    packet_id = _decode_packet_id(data, start, end)
    properties, offset = MQTTSubscribeProps.decode(data, start + 2, end)
    if offset == end:  # [MQTT-3.8.3-2]
        raise ProtocolError("SUBSCRIBE without a topic filter")
    subscriptions: list[MQTTSubscription] = []
    while offset < end:
        topic_filter, offset = decode_string(data, offset, end)
        options, offset = decode_uint8(data, offset, end)
        if options & 0xC0:  # [MQTT-3.8.3-5]
            raise MalformedPacketError(f"subscription options 0x{options:02X}")
        try:
            subscription = MQTTSubscription(topic_filter, options & 3, bool(options & 4), bool(options & 8), options >> 4)
        except ArgumentError as error:
            raise ProtocolError(str(error)) from error
        subscriptions.append(subscription)
    return MQTTSubscribePacket(packet_id, tuple(subscriptions), properties)


def _decode_reason_codes(packet_type: PacketType, data: bytes, offset: int, end: int) -> tuple[int, ...]:
    reason_codes = tuple(data[offset:end])
    if not reason_codes:
        raise ProtocolError(f"{packet_type.name} without a reason code")
    unlisted = set(reason_codes) - REASON_CODES[packet_type]
    if unlisted:  # [MQTT-3.9.3-2], [MQTT-3.11.3-2]
        raise ProtocolError(f"{reason_name(min(unlisted))} is no reason code of {packet_type.name}")
    return reason_codes


def _decode_suback(data: bytes, start: int, end: int, first_byte: int) -> MQTTSubAckPacket:
    packet_id = _decode_packet_id(data, start, end)
    properties, offset = MQTTSubAckProps.decode(data, start + 2, end)
    return MQTTSubAckPacket(packet_id, _decode_reason_codes(PacketType.SUBACK, data, offset, end), properties)


def _decode_unsubscribe(data: bytes, start: int, end: int, first_byte: int) -> MQTTUnsubscribePacket:
    packet_id = _decode_packet_id(data, start, end)
    properties, offset = MQTTUnsubscribeProps.decode(data, start + 2, end)
    if offset == end:  # [MQTT-3.10.3-2]
        raise ProtocolError("UNSUBSCRIBE without a topic filter")
    topic_filters: list[str] = []
    while offset < end:
        topic_filter, offset = decode_string(data, offset, end)
        problem = filter_problem(topic_filter)
        if problem:
            raise ProtocolError(problem)
        topic_filters.append(topic_filter)
    return MQTTUnsubscribePacket(packet_id, tuple(topic_filters), properties)


def _decode_unsuback(data: bytes, start: int, end: int, first_byte: int) -> MQTTUnsubAckPacket:
    packet_id = _decode_packet_id(data, start, end)
    properties, offset = MQTTUnsubAckProps.decode(data, start + 2, end)
    return MQTTUnsubAckPacket(packet_id, _decode_reason_codes(PacketType.UNSUBACK, data, offset, end), properties)


def _decode_pingreq(data: bytes, start: int, end: int, first_byte: int) -> MQTTPingReqPacket:
    _expect_end("PINGREQ", start, end)
    return MQTTPingReqPacket()


def _decode_pingresp(data: bytes, start: int, end: int, first_byte: int) -> MQTTPingRespPacket:
    _expect_end("PINGRESP", start, end)
    return MQTTPingRespPacket()


def _decode_disconnect(data: bytes, start: int, end: int, first_byte: int) -> MQTTDisconnectPacket:
    if start == end:  # section 3.14.2.1
        return MQTTDisconnectPacket()
    reason_code = _decode_reason_code(PacketType.DISCONNECT, data, start, end)  # [MQTT-3.14.2-1]
    if start + 1 == end:  # section 3.14.2.2.1
        return MQTTDisconnectPacket(reason_code)
    properties, offset = MQTTDisconnectProps.decode(data, start + 1, end)
    _expect_end("DISCONNECT", offset, end)
    return MQTTDisconnectPacket(reason_code, properties)


def _decode_auth(data: bytes, start: int, end: int, first_byte: int) -> MQTTAuthPacket:
    if start == end:  # section 3.15.2.1
        return MQTTAuthPacket()
    reason_code = _decode_reason_code(PacketType.AUTH, data, start, end)  # [MQTT-3.15.2-1]
    properties, offset = MQTTAuthProps.decode(data, start + 1, end)
    _expect_end("AUTH", offset, end)
    if properties.AuthenticationMethod is None:  # section 3.15.2.2.2
        raise ProtocolError("AUTH without an AuthenticationMethod")
    return MQTTAuthPacket(reason_code, properties)


def _refuse(data: bytes, start: int, end: int, first_byte: int) -> NoReturn:
    # [MQTT-2.1.3-1], [MQTT-3.3.1-2], [MQTT-3.3.1-4], [MQTT-3.14.1-1], [MQTT-3.15.1-1]
    raise MalformedPacketError(f"no packet begins with the byte 0x{first_byte:02X}")


_DECODERS_BY_FIRST_BYTE: dict[int, Decoder] = {
    0x10: _decode_connect,
    0x20: _decode_connack,
    **dict.fromkeys(PUBLISH_FIRST_BYTES.values(), decode_publish),
    0x40: _acknowledgement_decoder(MQTTPubAckPacket, MQTTPubAckProps, PacketType.PUBACK),
    0x50: _acknowledgement_decoder(MQTTPubRecPacket, MQTTPubRecProps, PacketType.PUBREC),
    0x62: _acknowledgement_decoder(MQTTPubRelPacket, MQTTPubRelProps, PacketType.PUBREL),
    0x70: _acknowledgement_decoder(MQTTPubCompPacket, MQTTPubCompProps, PacketType.PUBCOMP),
    0x82: _decode_subscribe,
    0x90: _decode_suback,
    0xA2: _decode_unsubscribe,
    0xB0: _decode_unsuback,
    0xC0: _decode_pingreq,
    0xD0: _decode_pingresp,
    0xE0: _decode_disconnect,
    0xF0: _decode_auth,
}

DECODERS: tuple[Decoder, ...] = tuple([_DECODERS_BY_FIRST_BYTE.get(first_byte, _refuse) for first_byte in range(256)])
"""A decoder for each first byte: ``DECODERS[first_byte](data, start, end, first_byte)`` decodes the body ``data[start:end]``."""


def decode_packet(
    data: bytes | bytearray | memoryview, offset: int = 0, *, packet_size_max: int | None = None
) -> tuple[MQTTPacket, int] | None:
    """Decode the packet that begins at ``offset``; return it and the offset after it, or ``None`` if it isn't complete.

    Args:
        data: bytes from the network, possibly ending inside a packet.
        offset: where the packet begins.
        packet_size_max: the Maximum Packet Size in bytes that was announced; ``None``: no limit but the standard's.

    Raises:
        MalformedPacketError: no MQTT packet (0x81).
        ProtocolError: a packet that the standard forbids; larger than ``packet_size_max`` (0x95).
    """
    size = len(data)
    if size - offset < 2:
        return None
    start = offset + 1
    length = data[start]
    if length < 128:
        start += 1
    else:
        # All four bytes, or the last one, are needed before the length can be judged.
        have = min(size, start + 4)
        if have < start + 4 and all(byte & 128 for byte in data[start:have]):
            return None
        length, start = decode_varint(data, start, size)
    end = start + length
    if packet_size_max is not None and end - offset > packet_size_max:  # [MQTT-3.1.2-24]
        raise ProtocolError(f"packet of {end - offset} bytes is larger than {packet_size_max}", 0x95)
    if end > size:
        return None
    first_byte = data[offset]
    if isinstance(data, bytes):
        return DECODERS[first_byte](data, start, end, first_byte), end
    return DECODERS[first_byte](bytes(data[start:end]), 0, length, first_byte), end
