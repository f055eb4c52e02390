"""The fifteen packet records and how each becomes bytes (chapter 3). Constructors take what they are given; ``encode`` checks it."""

from __future__ import annotations

from struct import Struct
from typing import Any, ClassVar

from ..errors import ArgumentError
from ..mqtt_spec import PACKET_ID_MAX, PROTOCOL_NAME, PROTOCOL_VERSION, PacketType, reason_name
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
    Properties,
)
from ..serialization import encode_binary, encode_string, encode_uint16
from .fields import (
    PUBLISH_FIRST_BYTES,
    check_flag,
    check_packet_id,
    check_reason_code,
    check_utf8,
    encode_length,
    encode_packet,
    encode_properties,
    encode_reason_codes,
    encode_text,
    encode_topic,
    encoded_topics,
    filter_problem,
)
from .values import MQTTSubscription, MQTTWill

__all__ = [
    "MQTTPacket",
    "MQTTConnectPacket",
    "MQTTConnAckPacket",
    "MQTTPublishPacket",
    "MQTTPubAckPacket",
    "MQTTPubRecPacket",
    "MQTTPubRelPacket",
    "MQTTPubCompPacket",
    "MQTTSubscribePacket",
    "MQTTSubAckPacket",
    "MQTTUnsubscribePacket",
    "MQTTUnsubAckPacket",
    "MQTTPingReqPacket",
    "MQTTPingRespPacket",
    "MQTTDisconnectPacket",
    "MQTTAuthPacket",
]

_PROTOCOL = encode_string(PROTOCOL_NAME) + bytes((PROTOCOL_VERSION,))
_BYTES = tuple(bytes((value,)) for value in range(256))
_UINT16 = Struct(">H")
_HEADER_AND_PACKET_ID = Struct(">BBH")
_HEADER_PACKET_ID_AND_CODE = Struct(">BBHB")


class MQTTPacket:
    """What all packet records have in common: comparable, with a readable ``repr``; ``encode`` gives the whole packet."""

    __slots__ = ()
    _fields: ClassVar[tuple[str, ...]] = ()

    def encode(self) -> bytes:
        """Return the packet as bytes, fixed header included.

        Raises:
            ArgumentError: a field holds what the standard forbids; the message names field, value and limit.
        """
        raise NotImplementedError

    def _values(self) -> tuple[object, ...]:
        return tuple([getattr(self, name) for name in self._fields])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MQTTPacket) or other.__class__ is not self.__class__:
            return NotImplemented
        return self._values() == other._values()

    # Fields may be assigned to, so that a hash would not last.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join([f'{name}={getattr(self, name)!r}' for name in self._fields])})"


class MQTTConnectPacket(MQTTPacket):
    """CONNECT: a client asks for a connection (section 3.1)."""

    __slots__ = _fields = ("client_id", "clean_start", "keep_alive", "will", "user_name", "password", "properties")

    def __init__(
        self,
        client_id: str = "",
        clean_start: bool = False,
        keep_alive: int = 0,
        will: MQTTWill | None = None,
        user_name: str | None = None,
        password: bytes | None = None,
        properties: MQTTConnectProps = MQTTConnectProps.EMPTY,
    ) -> None:
        self.client_id = client_id
        self.clean_start = clean_start
        self.keep_alive = keep_alive
        self.will = will
        self.user_name = user_name
        self.password = password
        self.properties = properties

    def encode(self) -> bytes:
        """Return the packet as bytes; see ``MQTTPacket.encode``."""
        check_flag("clean_start", self.clean_start)
        flags = self.clean_start << 1
        parts = [encode_text("client_id", self.client_id)]  # first, and always there [MQTT-3.1.3-1], [MQTT-3.1.3-3]
        will = self.will
        if will is not None:
            if not isinstance(will, MQTTWill):
                raise ArgumentError(f"will: MQTTWill expected, got {type(will).__name__}")
            flags |= 0x04 | will.qos << 3 | will.retain << 5  # otherwise these stay 0 [MQTT-3.1.2-11], [MQTT-3.1.2-13]
            parts += (will.properties.encode(), encode_string(will.topic), encode_binary(will.payload))  # [MQTT-3.1.2-9]
        if self.user_name is not None:
            flags |= 0x80
            parts.append(encode_text("user_name", self.user_name))  # [MQTT-3.1.2-17], [MQTT-3.1.3-12]
        if self.password is not None:
            flags |= 0x40
            try:
                parts.append(encode_binary(self.password))  # [MQTT-3.1.2-19]
            except ArgumentError:
                # A password doesn't belong into an error message.
                raise ArgumentError("password: up to 65535 bytes expected") from None
        try:
            keep_alive = encode_uint16(self.keep_alive)
        except ArgumentError as error:
            raise ArgumentError(f"keep_alive: {error}") from None
        properties = encode_properties(MQTTConnectProps, self.properties)
        return encode_packet(0x10, _PROTOCOL, bytes((flags,)), keep_alive, properties, *parts)

    def __repr__(self) -> str:
        # A password doesn't belong into a log either.
        shown = [
            f"{name}={'...' if name == 'password' and self.password is not None else repr(getattr(self, name))}" for name in self._fields
        ]
        return f"{type(self).__name__}({', '.join(shown)})"


class MQTTConnAckPacket(MQTTPacket):
    """CONNACK: the server's answer to CONNECT (section 3.2)."""

    __slots__ = _fields = ("reason_code", "session_present", "properties")

    def __init__(
        self,
        reason_code: int = 0,
        session_present: bool = False,
        properties: MQTTConnAckProps = MQTTConnAckProps.EMPTY,
    ) -> None:
        self.reason_code = reason_code
        self.session_present = session_present
        self.properties = properties

    def encode(self) -> bytes:
        """Return the packet as bytes; see ``MQTTPacket.encode``."""
        check_reason_code(PacketType.CONNACK, self.reason_code)
        check_flag("session_present", self.session_present)
        if self.session_present and self.reason_code:  # [MQTT-3.2.2-6]
            raise ArgumentError(f"session_present: not allowed with {reason_name(self.reason_code)}")
        properties = encode_properties(MQTTConnAckProps, self.properties)
        return encode_packet(0x20, bytes((self.session_present, self.reason_code)), properties)


class MQTTPublishPacket(MQTTPacket):
    """PUBLISH: an application message (section 3.3). ``packet_id`` is 0 with QoS 0."""

    __slots__ = _fields = ("topic", "payload", "qos", "retain", "dup", "packet_id", "properties")

    def __init__(
        self,
        topic: str,
        payload: bytes = b"",
        qos: int = 0,
        retain: bool = False,
        dup: bool = False,
        packet_id: int = 0,
        properties: MQTTPublishProps = MQTTPublishProps.EMPTY,
    ) -> None:
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.retain = retain
        self.dup = dup
        self.packet_id = packet_id
        self.properties = properties

    def encode(self) -> bytes:
        """Return the packet as bytes; see ``MQTTPacket.encode``."""
        properties = self.properties
        if properties.__class__ is not MQTTPublishProps:
            raise ArgumentError(f"properties: MQTTPublishProps expected, got {type(properties).__name__}")
        topic = self.topic
        try:
            encoded_topic = encoded_topics.get(topic)
            first_byte = PUBLISH_FIRST_BYTES.get((self.qos, self.retain, self.dup))
        except TypeError as error:
            raise ArgumentError(f"topic, qos, retain or dup: {error}") from None
        if encoded_topic is None:
            # An empty topic is what a topic alias stands for (section 3.3.2.1).
            encoded_topic = b"\0\0" if topic == "" and properties.TopicAlias is not None else encode_topic(topic)
        payload = self.payload
        if payload.__class__ is not bytes:
            if not isinstance(payload, (bytes, bytearray, memoryview)):
                raise ArgumentError(f"payload: bytes expected, got {type(payload).__name__}")
            payload = bytes(payload)
        if first_byte is None:
            raise ArgumentError(f"qos {self.qos!r}, retain {self.retain!r}, dup {self.dup!r}: qos 0, 1 or 2; dup not with 0 expected")
        packet_id = self.packet_id
        if first_byte & 6:
            if packet_id.__class__ is not int or not 0 < packet_id <= PACKET_ID_MAX:
                check_packet_id(packet_id)
            identifier = _UINT16.pack(packet_id)
        elif packet_id:  # [MQTT-2.2.1-2]
            raise ArgumentError(f"packet_id: 0 expected with QoS 0, got {packet_id!r}")
        else:
            identifier = b""
        if properties.PayloadFormatIndicator:
            check_utf8("payload", payload)
        block = properties.encode()
        length = len(encoded_topic) + len(identifier) + len(block) + len(payload)
        encoded_length = _BYTES[length] if length < 128 else encode_length(length)
        return b"".join((_BYTES[first_byte], encoded_length, encoded_topic, identifier, block, payload))


class _Acknowledgement(MQTTPacket):
    """PUBACK, PUBREC, PUBREL and PUBCOMP have one shape (sections 3.4 to 3.7)."""

    __slots__ = ()
    _fields = ("packet_id", "reason_code", "properties")

    _packet_type: ClassVar[PacketType]
    _first_byte: ClassVar[int]
    _properties_class: ClassVar[type[Properties]]

    packet_id: int
    reason_code: int
    properties: Any

    def encode(self) -> bytes:
        """Return the packet as bytes; see ``MQTTPacket.encode``."""
        packet_id = self.packet_id
        if packet_id.__class__ is not int or not 0 < packet_id <= PACKET_ID_MAX:
            check_packet_id(packet_id)
        reason_code = self.reason_code
        block = encode_properties(self._properties_class, self.properties)
        # The reason code is left out when it is 0 and nothing follows, and the property length when there are none (section 3.4.2.1).
        if len(block) == 1:
            if reason_code == 0:
                return _HEADER_AND_PACKET_ID.pack(self._first_byte, 2, packet_id)
            check_reason_code(self._packet_type, reason_code)
            return _HEADER_PACKET_ID_AND_CODE.pack(self._first_byte, 3, packet_id, reason_code)
        check_reason_code(self._packet_type, reason_code)
        return encode_packet(self._first_byte, _UINT16.pack(packet_id), bytes((reason_code,)), block)


class MQTTPubAckPacket(_Acknowledgement):
    """PUBACK: the receiver has taken a QoS 1 message, or refuses it (section 3.4)."""

    __slots__ = ("packet_id", "reason_code", "properties")
    _packet_type = PacketType.PUBACK
    _first_byte = 0x40
    _properties_class = MQTTPubAckProps

    properties: MQTTPubAckProps

    def __init__(self, packet_id: int, reason_code: int = 0, properties: MQTTPubAckProps = MQTTPubAckProps.EMPTY) -> None:
        self.packet_id = packet_id
        self.reason_code = reason_code
        self.properties = properties


class MQTTPubRecPacket(_Acknowledgement):
    """PUBREC: the receiver has taken a QoS 2 message, or refuses it (section 3.5)."""

    __slots__ = ("packet_id", "reason_code", "properties")
    _packet_type = PacketType.PUBREC
    _first_byte = 0x50
    _properties_class = MQTTPubRecProps

    properties: MQTTPubRecProps

    def __init__(self, packet_id: int, reason_code: int = 0, properties: MQTTPubRecProps = MQTTPubRecProps.EMPTY) -> None:
        self.packet_id = packet_id
        self.reason_code = reason_code
        self.properties = properties


class MQTTPubRelPacket(_Acknowledgement):
    """PUBREL: the sender lets go of a QoS 2 message [MQTT-3.6.1-1] (section 3.6)."""

    __slots__ = ("packet_id", "reason_code", "properties")
    _packet_type = PacketType.PUBREL
    _first_byte = 0x62
    _properties_class = MQTTPubRelProps

    properties: MQTTPubRelProps

    def __init__(self, packet_id: int, reason_code: int = 0, properties: MQTTPubRelProps = MQTTPubRelProps.EMPTY) -> None:
        self.packet_id = packet_id
        self.reason_code = reason_code
        self.properties = properties


class MQTTPubCompPacket(_Acknowledgement):
    """PUBCOMP: the end of a QoS 2 exchange (section 3.7)."""

    __slots__ = ("packet_id", "reason_code", "properties")
    _packet_type = PacketType.PUBCOMP
    _first_byte = 0x70
    _properties_class = MQTTPubCompProps

    properties: MQTTPubCompProps

    def __init__(self, packet_id: int, reason_code: int = 0, properties: MQTTPubCompProps = MQTTPubCompProps.EMPTY) -> None:
        self.packet_id = packet_id
        self.reason_code = reason_code
        self.properties = properties


class MQTTSubscribePacket(MQTTPacket):
    """SUBSCRIBE: a client asks for messages (section 3.8)."""

    __slots__ = _fields = ("packet_id", "subscriptions", "properties")

    def __init__(
        self,
        packet_id: int,
        subscriptions: tuple[MQTTSubscription, ...],
        properties: MQTTSubscribeProps = MQTTSubscribeProps.EMPTY,
    ) -> None:
        self.packet_id = packet_id
        self.subscriptions = subscriptions
        self.properties = properties

    def encode(self) -> bytes:
        """Return the packet as bytes; see ``MQTTPacket.encode``."""
        check_packet_id(self.packet_id)
        if not self.subscriptions:  # [MQTT-3.8.3-2]
            raise ArgumentError("subscriptions: at least one expected")
        for subscription in self.subscriptions:
            if not isinstance(subscription, MQTTSubscription):
                raise ArgumentError(f"subscriptions: MQTTSubscription expected, got {type(subscription).__name__}")
        properties = encode_properties(MQTTSubscribeProps, self.properties)
        parts = [subscription.encode() for subscription in self.subscriptions]
        return encode_packet(0x82, _UINT16.pack(self.packet_id), properties, *parts)


class MQTTSubAckPacket(MQTTPacket):
    """SUBACK: one reason code for each filter of a SUBSCRIBE, in its order (section 3.9)."""

    __slots__ = _fields = ("packet_id", "reason_codes", "properties")

    def __init__(self, packet_id: int, reason_codes: tuple[int, ...], properties: MQTTSubAckProps = MQTTSubAckProps.EMPTY) -> None:
        self.packet_id = packet_id
        self.reason_codes = reason_codes
        self.properties = properties

    def encode(self) -> bytes:
        """Return the packet as bytes; see ``MQTTPacket.encode``."""
        check_packet_id(self.packet_id)
        codes = encode_reason_codes(PacketType.SUBACK, self.reason_codes)
        return encode_packet(0x90, _UINT16.pack(self.packet_id), encode_properties(MQTTSubAckProps, self.properties), codes)


class MQTTUnsubscribePacket(MQTTPacket):
    """UNSUBSCRIBE: a client takes subscriptions back (section 3.10)."""

    __slots__ = _fields = ("packet_id", "topic_filters", "properties")

    def __init__(
        self,
        packet_id: int,
        topic_filters: tuple[str, ...],
        properties: MQTTUnsubscribeProps = MQTTUnsubscribeProps.EMPTY,
    ) -> None:
        self.packet_id = packet_id
        self.topic_filters = topic_filters
        self.properties = properties

    def encode(self) -> bytes:
        """Return the packet as bytes; see ``MQTTPacket.encode``."""
        check_packet_id(self.packet_id)
        topic_filters: object = self.topic_filters
        if isinstance(topic_filters, str) or not topic_filters:  # [MQTT-3.10.3-2]
            raise ArgumentError(f"topic_filters: a tuple with at least one filter expected, got {topic_filters!r:.100}")
        parts: list[bytes] = []
        for topic_filter in self.topic_filters:
            parts.append(encode_text("topic_filter", topic_filter))  # [MQTT-3.10.3-1]
            problem = filter_problem(topic_filter)
            if problem:
                raise ArgumentError(problem)
        properties = encode_properties(MQTTUnsubscribeProps, self.properties)
        return encode_packet(0xA2, _UINT16.pack(self.packet_id), properties, *parts)


class MQTTUnsubAckPacket(MQTTPacket):
    """UNSUBACK: one reason code for each filter of an UNSUBSCRIBE, in its order (section 3.11)."""

    __slots__ = _fields = ("packet_id", "reason_codes", "properties")

    def __init__(self, packet_id: int, reason_codes: tuple[int, ...], properties: MQTTUnsubAckProps = MQTTUnsubAckProps.EMPTY) -> None:
        self.packet_id = packet_id
        self.reason_codes = reason_codes
        self.properties = properties

    def encode(self) -> bytes:
        """Return the packet as bytes; see ``MQTTPacket.encode``."""
        check_packet_id(self.packet_id)
        codes = encode_reason_codes(PacketType.UNSUBACK, self.reason_codes)
        return encode_packet(0xB0, _UINT16.pack(self.packet_id), encode_properties(MQTTUnsubAckProps, self.properties), codes)


class MQTTPingReqPacket(MQTTPacket):
    """PINGREQ: a client shows that it is alive and asks the same of the server (section 3.12)."""

    __slots__ = ()

    def encode(self) -> bytes:
        """Return the packet as bytes: always the same two."""
        return b"\xc0\x00"


class MQTTPingRespPacket(MQTTPacket):
    """PINGRESP: the server's answer to PINGREQ (section 3.13)."""

    __slots__ = ()

    def encode(self) -> bytes:
        """Return the packet as bytes: always the same two."""
        return b"\xd0\x00"


class MQTTDisconnectPacket(MQTTPacket):
    """DISCONNECT: the last packet of either side (section 3.14)."""

    __slots__ = _fields = ("reason_code", "properties")

    def __init__(self, reason_code: int = 0, properties: MQTTDisconnectProps = MQTTDisconnectProps.EMPTY) -> None:
        self.reason_code = reason_code
        self.properties = properties

    def encode(self) -> bytes:
        """Return the packet as bytes; see ``MQTTPacket.encode``."""
        check_reason_code(PacketType.DISCONNECT, self.reason_code)
        block = encode_properties(MQTTDisconnectProps, self.properties)
        if len(block) > 1:
            return encode_packet(0xE0, bytes((self.reason_code,)), block)
        # Sections 3.14.2.1 and 3.14.2.2.1: what is 0 at the end may be left out.
        return bytes((0xE0, 1, self.reason_code)) if self.reason_code else b"\xe0\x00"


class MQTTAuthPacket(MQTTPacket):
    """AUTH: a step of extended authentication (section 3.15)."""

    __slots__ = _fields = ("reason_code", "properties")

    def __init__(self, reason_code: int = 0, properties: MQTTAuthProps = MQTTAuthProps.EMPTY) -> None:
        self.reason_code = reason_code
        self.properties = properties

    def encode(self) -> bytes:
        """Return the packet as bytes; see ``MQTTPacket.encode``."""
        check_reason_code(PacketType.AUTH, self.reason_code)
        block = encode_properties(MQTTAuthProps, self.properties)
        if len(block) == 1 and not self.reason_code:  # section 3.15.2.1
            return b"\xf0\x00"
        if self.properties.AuthenticationMethod is None:  # section 3.15.2.2.2
            raise ArgumentError("properties: AUTH needs an AuthenticationMethod")
        return encode_packet(0xF0, bytes((self.reason_code,)), block)
