"""The fifteen MQTT Control Packets: records, encoders, and decoders by first byte (chapter 3). Public toolkit.

Owns the layout of packets and the rules that can be judged by looking at one packet alone. Must not know sessions, sockets or which
end we are. Invariant: a decoder returns a record that fits the standard, or raises ``ProtocolError`` or ``MalformedPacketError``, and
nothing else; ``encode`` returns bytes that a decoder accepts, or raises ``ArgumentError``.

Records are plain classes with slots: they are made for each packet, and cost as little as a Python object can. Their constructors take
what they are given; ``encode`` is where it is checked. Only ``MQTTSubscription`` and ``MQTTWill`` check at once, and are immutable.
"""

# All decoders are called alike, whether they need the first byte or not.
# ruff: noqa: ARG001

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar, final, overload

from .errors import ArgumentError, MalformedPacketError, ProtocolError
from .mqtt_spec import PACKET_ID_MAX, PROTOCOL_NAME, PROTOCOL_VERSION, REASON_CODES, VARINT_MAX, PacketType, reason_name
from .property import (
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
from .serialization import (
    decode_binary,
    decode_string,
    decode_uint8,
    decode_uint16,
    decode_varint,
    encode_binary,
    encode_string,
    encode_uint16,
    encode_varint,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Decoder: TypeAlias = Callable[[bytes, int, int, int], "MQTTPacket"]

__all__ = [
    "DECODERS",
    "MQTTAuthPacket",
    "MQTTConnAckPacket",
    "MQTTConnectPacket",
    "MQTTDisconnectPacket",
    "MQTTPacket",
    "MQTTPingReqPacket",
    "MQTTPingRespPacket",
    "MQTTPubAckPacket",
    "MQTTPubCompPacket",
    "MQTTPubRecPacket",
    "MQTTPubRelPacket",
    "MQTTPublishPacket",
    "MQTTSubAckPacket",
    "MQTTSubscribePacket",
    "MQTTSubscription",
    "MQTTUnsubAckPacket",
    "MQTTUnsubscribePacket",
    "MQTTWill",
    "decode_packet",
    "decode_publish",
]

_TOPIC_CACHE_ENTRIES_MAX = 4_096
_TOPIC_CACHE_BYTES_MAX = 256

_Record = TypeVar("_Record")

_PROTOCOL = encode_string(PROTOCOL_NAME) + bytes((PROTOCOL_VERSION,))
_NO_PUBLISH_PROPERTIES = MQTTPublishProps.EMPTY
_decode_publish_properties = MQTTPublishProps.decode

_HEADERS = _LENGTHS = tuple(bytes((value,)) for value in range(256))
_UINT16 = Struct(">H")
_HEADER_AND_PACKET_ID = Struct(">BBH")
_HEADER_PACKET_ID_AND_CODE = Struct(">BBHB")


# --------------------------------------------------------------------------------------------------------------- leaves


def _topic_problem(topic: str) -> str:
    """Say what is wrong with a Topic Name beyond being a string (section 4.7), or return an empty string."""
    if not topic:  # [MQTT-4.7.3-1]
        return "topic name is empty"
    if "+" in topic or "#" in topic:  # [MQTT-3.3.2-2], [MQTT-4.7.0-1]
        return f"topic name {topic[:100]!r} holds a wildcard"
    return ""


def _filter_problem(topic_filter: str) -> str:
    """Say what is wrong with a Topic Filter beyond being a string (sections 4.7 and 4.8), or return an empty string."""
    levels = topic_filter.split("/")
    if levels[0] == "$share":
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


def _encode_text(field: str, value: str) -> bytes:
    try:
        return encode_string(value)
    except ArgumentError as error:
        raise ArgumentError(f"{field}: {error}") from None


def _encode_topic(topic: str) -> bytes:
    encoded = _encode_text("topic", topic)
    problem = _topic_problem(topic)
    if problem:
        raise ArgumentError(problem)
    if len(encoded) <= _TOPIC_CACHE_BYTES_MAX:
        if len(_encoded_topics) >= _TOPIC_CACHE_ENTRIES_MAX:
            _encoded_topics.clear()
        _encoded_topics[topic] = encoded
    return encoded


def _decode_topic(data: bytes, start: int, end: int) -> str:
    topic, _ = decode_string(data, start, end)
    if topic:
        problem = _topic_problem(topic)
        if problem:
            raise ProtocolError(problem)
        if len(topic) <= _TOPIC_CACHE_BYTES_MAX:
            if len(_decoded_topics) >= _TOPIC_CACHE_ENTRIES_MAX:
                _decoded_topics.clear()
            _decoded_topics[topic.encode()] = topic
    return topic


# Clients publish and receive few topics many times: a lookup costs a tenth of validating again. All values are valid topic names,
# so that it doesn't matter who put them there, or when they are dropped.
_encoded_topics: dict[str, bytes] = {}
_decoded_topics: dict[bytes, str] = {}


def _check_packet_id(packet_id: object) -> None:
    if not isinstance(packet_id, int) or not 1 <= packet_id <= PACKET_ID_MAX:  # [MQTT-2.2.1-3]
        raise ArgumentError(f"packet_id: {packet_id!r} is out of range, 1 to {PACKET_ID_MAX}")


def _check_reason_code(packet_type: PacketType, reason_code: object) -> None:
    if not isinstance(reason_code, int):
        raise ArgumentError(f"reason_code: integer expected, got {reason_code!r:.100}")
    if reason_code not in REASON_CODES[packet_type]:
        raise ArgumentError(f"reason_code: {reason_name(reason_code)} is no reason code of {packet_type.name}")


def _check_reason_codes(packet_type: PacketType, reason_codes: tuple[int, ...]) -> bytes:
    if not reason_codes:
        raise ArgumentError("reason_codes: at least one expected")
    for reason_code in reason_codes:
        _check_reason_code(packet_type, reason_code)
    return bytes(reason_codes)


def _check_flag(field: str, value: object) -> None:
    if value not in (0, 1):
        raise ArgumentError(f"{field}: True or False expected, got {value!r}")


def _check_utf8(field: str, payload: bytes) -> None:
    try:
        str(payload, "utf-8")
    except UnicodeDecodeError as error:  # sections 3.1.3.2.3 and 3.3.2.3.2
        raise ArgumentError(f"{field}: PayloadFormatIndicator is 1, but byte {error.start} is no UTF-8: {error.reason}") from error


def _encode_properties(cls: type[Properties], properties: Properties) -> bytes:
    if properties.__class__ is not cls:
        raise ArgumentError(f"properties: {cls.__name__} expected, got {type(properties).__name__}")
    return properties.encode()


def _encode_packet(first_byte: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    if len(body) > VARINT_MAX:
        raise ArgumentError(f"packet of {len(body)} bytes is longer than {VARINT_MAX}")
    return bytes((first_byte,)) + encode_varint(len(body)) + body


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


# -------------------------------------------------------------------------------------------------------------- records


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


class _Frozen:
    """A checked, immutable, hashable value."""

    __slots__ = ()
    _fields: ClassVar[tuple[str, ...]] = ()

    def _values(self) -> tuple[Any, ...]:
        return tuple([getattr(self, name) for name in self._fields])

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Frozen) or other.__class__ is not self.__class__:
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join([f'{name}={getattr(self, name)!r}' for name in self._fields])})"

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), self._values()


_set = object.__setattr__


@final
class MQTTSubscription(_Frozen):
    """One Topic Filter of a SUBSCRIBE with its Subscription Options (section 3.8.3).

    Args:
        topic_filter: the filter, ``$share/{name}/{filter}`` included.
        max_qos: the highest QoS at which the server may send: 0, 1 or 2.
        no_local: don't send what this client published; not with a shared subscription.
        retain_as_published: keep the RETAIN flag as the publisher set it.
        retain_handling: 0 sends retained messages, 1 only if the subscription is new, 2 never.

    Raises:
        ArgumentError: a value that the standard forbids.
    """

    __slots__ = _fields = ("topic_filter", "max_qos", "no_local", "retain_as_published", "retain_handling")

    topic_filter: str
    max_qos: int
    no_local: bool
    retain_as_published: bool
    retain_handling: int

    def __init__(
        self,
        topic_filter: str,
        max_qos: int = 2,
        no_local: bool = False,
        retain_as_published: bool = False,
        retain_handling: int = 0,
    ) -> None:
        _encode_text("topic_filter", topic_filter)  # [MQTT-3.8.3-1]
        problem = _filter_problem(topic_filter)
        if problem:
            raise ArgumentError(problem)
        if max_qos not in (0, 1, 2):
            raise ArgumentError(f"max_qos: {max_qos!r} is none of 0, 1, 2")
        _check_flag("no_local", no_local)
        _check_flag("retain_as_published", retain_as_published)
        if retain_handling not in (0, 1, 2):
            raise ArgumentError(f"retain_handling: {retain_handling!r} is none of 0, 1, 2")
        if no_local and topic_filter.startswith("$share/"):  # [MQTT-3.8.3-4]
            raise ArgumentError(f"no_local: not allowed with the shared subscription {topic_filter[:100]!r}")
        _set(self, "topic_filter", topic_filter)
        _set(self, "max_qos", int(max_qos))
        _set(self, "no_local", bool(no_local))
        _set(self, "retain_as_published", bool(retain_as_published))
        _set(self, "retain_handling", int(retain_handling))

    def encode(self) -> bytes:
        """Return the filter and the options byte, as they stand in the payload of a SUBSCRIBE."""
        # Bits 6 and 7 are reserved [MQTT-3.8.3-5].
        options = self.max_qos | self.no_local << 2 | self.retain_as_published << 3 | self.retain_handling << 4
        return encode_string(self.topic_filter) + bytes((options,))


@final
class MQTTWill(_Frozen):
    """The Will Message of a CONNECT (section 3.1.2.5).

    Args:
        topic: a Topic Name, without wildcards.
        payload: up to 65,535 bytes; copied.
        qos: 0, 1 or 2.
        retain: whether the server retains the message when it publishes it.
        properties: its properties, among them the Will Delay Interval.

    Raises:
        ArgumentError: a value that the standard forbids.
    """

    __slots__ = _fields = ("topic", "payload", "qos", "retain", "properties")

    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: MQTTWillProps

    def __init__(
        self,
        topic: str,
        payload: bytes = b"",
        qos: int = 0,
        retain: bool = False,
        properties: MQTTWillProps = MQTTWillProps.EMPTY,
    ) -> None:
        _encode_text("will topic", topic)  # [MQTT-3.1.3-11]
        problem = _topic_problem(topic)
        if problem:
            raise ArgumentError(f"will: {problem}")
        if qos not in (0, 1, 2):  # [MQTT-3.1.2-12]
            raise ArgumentError(f"will qos: {qos!r} is none of 0, 1, 2")
        _check_flag("will retain", retain)
        _encode_properties(MQTTWillProps, properties)
        try:
            payload = encode_binary(payload)[2:]
        except ArgumentError as error:
            raise ArgumentError(f"will payload: {error}") from None
        if properties.PayloadFormatIndicator:
            _check_utf8("will payload", payload)
        _set(self, "topic", topic)
        _set(self, "payload", payload)
        _set(self, "qos", int(qos))
        _set(self, "retain", bool(retain))
        _set(self, "properties", properties)


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
        _check_flag("clean_start", self.clean_start)
        flags = self.clean_start << 1
        parts = [_encode_text("client_id", self.client_id)]  # first, and always there [MQTT-3.1.3-1], [MQTT-3.1.3-3]
        will = self.will
        if will is not None:
            if not isinstance(will, MQTTWill):
                raise ArgumentError(f"will: MQTTWill expected, got {type(will).__name__}")
            flags |= 0x04 | will.qos << 3 | will.retain << 5  # otherwise these stay 0 [MQTT-3.1.2-11], [MQTT-3.1.2-13]
            parts += (will.properties.encode(), encode_string(will.topic), encode_binary(will.payload))  # [MQTT-3.1.2-9]
        if self.user_name is not None:
            flags |= 0x80
            parts.append(_encode_text("user_name", self.user_name))  # [MQTT-3.1.2-17], [MQTT-3.1.3-12]
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
        properties = _encode_properties(MQTTConnectProps, self.properties)
        return _encode_packet(0x10, _PROTOCOL, bytes((flags,)), keep_alive, properties, *parts)

    def __repr__(self) -> str:
        shown = {name: getattr(self, name) for name in self._fields}
        if self.password is not None:
            shown["password"] = ...
        return f"MQTTConnectPacket({', '.join([f'{name}={value!r}' for name, value in shown.items()])})"


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
        _check_reason_code(PacketType.CONNACK, self.reason_code)
        _check_flag("session_present", self.session_present)
        if self.session_present and self.reason_code:  # [MQTT-3.2.2-6]
            raise ArgumentError(f"session_present: not allowed with {reason_name(self.reason_code)}")
        properties = _encode_properties(MQTTConnAckProps, self.properties)
        return _encode_packet(0x20, bytes((self.session_present, self.reason_code)), properties)


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
            encoded_topic = _encoded_topics.get(topic)
            first_byte = _PUBLISH_FIRST_BYTES.get((self.qos, self.retain, self.dup))
        except TypeError as error:
            raise ArgumentError(f"topic, qos, retain or dup: {error}") from None
        if encoded_topic is None:
            # An empty topic is what a topic alias stands for (section 3.3.2.1).
            encoded_topic = b"\0\0" if topic == "" and properties.TopicAlias is not None else _encode_topic(topic)
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
                _check_packet_id(packet_id)
            identifier = _UINT16.pack(packet_id)
        elif packet_id:  # [MQTT-2.2.1-2]
            raise ArgumentError(f"packet_id: 0 expected with QoS 0, got {packet_id!r}")
        else:
            identifier = b""
        if properties.PayloadFormatIndicator:
            _check_utf8("payload", payload)
        block = properties.encode()
        length = len(encoded_topic) + len(identifier) + len(block) + len(payload)
        if length < 128:
            return b"".join((_HEADERS[first_byte], _LENGTHS[length], encoded_topic, identifier, block, payload))
        return _encode_packet(first_byte, encoded_topic, identifier, block, payload)


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
            _check_packet_id(packet_id)
        reason_code = self.reason_code
        block = _encode_properties(self._properties_class, self.properties)
        # The reason code is left out when it is 0 and nothing follows, and the property length when there are none (section 3.4.2.1).
        if len(block) == 1:
            if reason_code == 0:
                return _HEADER_AND_PACKET_ID.pack(self._first_byte, 2, packet_id)
            _check_reason_code(self._packet_type, reason_code)
            return _HEADER_PACKET_ID_AND_CODE.pack(self._first_byte, 3, packet_id, reason_code)
        _check_reason_code(self._packet_type, reason_code)
        return _encode_packet(self._first_byte, _UINT16.pack(packet_id), bytes((reason_code,)), block)


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
        _check_packet_id(self.packet_id)
        if not self.subscriptions:  # [MQTT-3.8.3-2]
            raise ArgumentError("subscriptions: at least one expected")
        for subscription in self.subscriptions:
            if not isinstance(subscription, MQTTSubscription):
                raise ArgumentError(f"subscriptions: MQTTSubscription expected, got {type(subscription).__name__}")
        properties = _encode_properties(MQTTSubscribeProps, self.properties)
        parts = [subscription.encode() for subscription in self.subscriptions]
        return _encode_packet(0x82, _UINT16.pack(self.packet_id), properties, *parts)


class MQTTSubAckPacket(MQTTPacket):
    """SUBACK: one reason code for each filter of a SUBSCRIBE, in its order (section 3.9)."""

    __slots__ = _fields = ("packet_id", "reason_codes", "properties")

    def __init__(self, packet_id: int, reason_codes: tuple[int, ...], properties: MQTTSubAckProps = MQTTSubAckProps.EMPTY) -> None:
        self.packet_id = packet_id
        self.reason_codes = reason_codes
        self.properties = properties

    def encode(self) -> bytes:
        """Return the packet as bytes; see ``MQTTPacket.encode``."""
        _check_packet_id(self.packet_id)
        codes = _check_reason_codes(PacketType.SUBACK, self.reason_codes)
        return _encode_packet(0x90, _UINT16.pack(self.packet_id), _encode_properties(MQTTSubAckProps, self.properties), codes)


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
        _check_packet_id(self.packet_id)
        topic_filters: object = self.topic_filters
        if isinstance(topic_filters, str) or not topic_filters:  # [MQTT-3.10.3-2]
            raise ArgumentError(f"topic_filters: a tuple with at least one filter expected, got {topic_filters!r:.100}")
        parts: list[bytes] = []
        for topic_filter in self.topic_filters:
            parts.append(_encode_text("topic_filter", topic_filter))  # [MQTT-3.10.3-1]
            problem = _filter_problem(topic_filter)
            if problem:
                raise ArgumentError(problem)
        properties = _encode_properties(MQTTUnsubscribeProps, self.properties)
        return _encode_packet(0xA2, _UINT16.pack(self.packet_id), properties, *parts)


class MQTTUnsubAckPacket(MQTTPacket):
    """UNSUBACK: one reason code for each filter of an UNSUBSCRIBE, in its order (section 3.11)."""

    __slots__ = _fields = ("packet_id", "reason_codes", "properties")

    def __init__(self, packet_id: int, reason_codes: tuple[int, ...], properties: MQTTUnsubAckProps = MQTTUnsubAckProps.EMPTY) -> None:
        self.packet_id = packet_id
        self.reason_codes = reason_codes
        self.properties = properties

    def encode(self) -> bytes:
        """Return the packet as bytes; see ``MQTTPacket.encode``."""
        _check_packet_id(self.packet_id)
        codes = _check_reason_codes(PacketType.UNSUBACK, self.reason_codes)
        return _encode_packet(0xB0, _UINT16.pack(self.packet_id), _encode_properties(MQTTUnsubAckProps, self.properties), codes)


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
        _check_reason_code(PacketType.DISCONNECT, self.reason_code)
        block = _encode_properties(MQTTDisconnectProps, self.properties)
        if len(block) > 1:
            return _encode_packet(0xE0, bytes((self.reason_code,)), block)
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
        _check_reason_code(PacketType.AUTH, self.reason_code)
        block = _encode_properties(MQTTAuthProps, self.properties)
        if len(block) == 1 and not self.reason_code:  # section 3.15.2.1
            return b"\xf0\x00"
        if self.properties.AuthenticationMethod is None:  # section 3.15.2.2.2
            raise ArgumentError("properties: AUTH needs an AuthenticationMethod")
        return _encode_packet(0xF0, bytes((self.reason_code,)), block)


# ------------------------------------------------------------------------------------------------------------- decoders


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
    qos, retain, dup = _PUBLISH_FLAGS[first_byte]
    if qos == 3:  # [MQTT-3.3.1-2], [MQTT-3.3.1-4]
        raise MalformedPacketError(f"PUBLISH with first byte 0x{first_byte:02X}: QoS 3, or DUP with QoS 0")
    try:
        offset = start + 2 + (data[start] << 8 | data[start + 1])
        # A length that leads out of the packet is found out at the end; what the cache holds for it is valid, and not used.
        topic = _decoded_topics.get(data[start + 2 : offset])
        if topic is None:
            topic = _decode_topic(data, start, end)
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
            raise ProtocolError(str(error)) from error
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
        problem = _filter_problem(topic_filter)
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


# QoS, RETAIN and DUP by first byte; QoS 3 stands for what isn't allowed.
_PUBLISH_FLAGS = tuple(
    (3 if flags & 6 == 6 or flags & 14 == 8 else flags >> 1 & 3, bool(flags & 1), bool(flags & 8)) for flags in range(256)
)
_PUBLISH_FIRST_BYTES = {legal: 0x30 | flags for flags, legal in enumerate(_PUBLISH_FLAGS[:16]) if legal[0] != 3}

_DECODERS_BY_FIRST_BYTE: dict[int, Decoder] = {
    0x10: _decode_connect,
    0x20: _decode_connack,
    **dict.fromkeys(_PUBLISH_FIRST_BYTES.values(), decode_publish),
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
