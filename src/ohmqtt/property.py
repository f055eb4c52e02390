"""Properties: one table, one typed class for each packet (section 2.2.2).

Owns identifiers, types and limits of properties, their encoding and decoding. Must not know packets, sessions or which end we are:
what only a server may send is encoded too. Invariant: an instance never changes and always holds legal values, so that encoding it
can't fail; the encoder is the validator.

A property that is absent reads as ``None`` (``()`` for those that may repeat); instances store only what is present, so that a packet
with one property doesn't pay for seventeen. Identifiers and rules are in ``_PROPERTIES``; a class body says which of them its packet has.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, final

from .errors import ArgumentError, MalformedPacketError, ProtocolError
from .mqtt_spec import UINT32_MAX, VARINT_MAX, PropertyId
from .serialization import decode_string, decode_varint, encode_binary, encode_string, encode_string_pair, encode_varint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeAlias

    from typing_extensions import Self

    UserPropertyArgument: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]
    _Encoder: TypeAlias = Callable[["_Row", Any], tuple[object, bytes]]

__all__ = [
    "MQTTAuthProps",
    "MQTTConnAckProps",
    "MQTTConnectProps",
    "MQTTDisconnectProps",
    "MQTTPubAckProps",
    "MQTTPubCompProps",
    "MQTTPubRecProps",
    "MQTTPubRelProps",
    "MQTTPublishProps",
    "MQTTSubAckProps",
    "MQTTSubscribeProps",
    "MQTTUnsubAckProps",
    "MQTTUnsubscribeProps",
    "MQTTWillProps",
    "Properties",
]

# Wire types, in the order in which the decoder asks for them. A topic is a string with rules of its own.
_STRING, _PAIR, _BINARY, _UINT8, _UINT32, _UINT16, _TOPIC, _VARINT, _VARINTS = range(9)

_UINT32_AT = struct.Struct(">I").unpack_from
_UINT16_AFTER_IDENTIFIER = struct.Struct(">BH")
_UINT32_AFTER_IDENTIFIER = struct.Struct(">BI")


# Name, identifier, wire type, smallest integer allowed. The largest follows from the wire type: all bytes are truth values, everything
# else has its whole range.
_Row = tuple[str, int, int, int]


def _row(identifier: PropertyId, wire_type: int, minimum: int = 0) -> _Row:
    return identifier.name, identifier.value, wire_type, minimum


# The one table. Encoders write in this order: Message Expiry Interval comes first, so that whoever ages a queued message finds it
# right after the length.
_PROPERTIES = (
    _row(PropertyId.MessageExpiryInterval, _UINT32),
    _row(PropertyId.PayloadFormatIndicator, _UINT8),
    _row(PropertyId.ContentType, _STRING),
    _row(PropertyId.ResponseTopic, _TOPIC),
    _row(PropertyId.CorrelationData, _BINARY),
    _row(PropertyId.SubscriptionIdentifier, _VARINT, 1),  # as many as there are in a PUBLISH
    _row(PropertyId.SessionExpiryInterval, _UINT32),
    _row(PropertyId.AssignedClientIdentifier, _STRING),
    _row(PropertyId.ServerKeepAlive, _UINT16),
    _row(PropertyId.AuthenticationMethod, _STRING),
    _row(PropertyId.AuthenticationData, _BINARY),
    _row(PropertyId.RequestProblemInformation, _UINT8),
    _row(PropertyId.WillDelayInterval, _UINT32),
    _row(PropertyId.RequestResponseInformation, _UINT8),
    _row(PropertyId.ResponseInformation, _STRING),
    _row(PropertyId.ServerReference, _STRING),
    _row(PropertyId.ReasonString, _STRING),
    _row(PropertyId.ReceiveMaximum, _UINT16, 1),
    _row(PropertyId.TopicAliasMaximum, _UINT16),
    _row(PropertyId.TopicAlias, _UINT16, 1),
    _row(PropertyId.MaximumQoS, _UINT8),
    _row(PropertyId.RetainAvailable, _UINT8),
    _row(PropertyId.MaximumPacketSize, _UINT32, 1),
    _row(PropertyId.WildcardSubscriptionAvailable, _UINT8),
    _row(PropertyId.SubscriptionIdentifierAvailable, _UINT8),
    _row(PropertyId.SharedSubscriptionAvailable, _UINT8),
    _row(PropertyId.UserProperty, _PAIR),
)
_MAXIMUM = {_UINT8: 1, _UINT16: 65_535, _UINT32: UINT32_MAX, _VARINT: VARINT_MAX, _VARINTS: VARINT_MAX}

_new = object.__new__
_set = object.__setattr__


# Encoders by wire type: they check a value against its row and return it as it is kept, and all its occurrences as bytes.


def _encode_string(row: _Row, value: str) -> tuple[str, bytes]:
    return value, _BYTES[row[1]] + encode_string(value)


def _encode_topic(row: _Row, value: str) -> tuple[str, bytes]:
    encoded = encode_string(value)
    if not value or "+" in value or "#" in value:  # [MQTT-3.3.2-14]
        raise ArgumentError(f"a topic name without wildcards expected, got {value[:50]!r}")
    return value, _BYTES[row[1]] + encoded


def _encode_pairs(row: _Row, value: Any) -> tuple[tuple[tuple[str, str], ...], bytes]:
    # In the order given, with repeats [MQTT-3.1.3-10], [MQTT-3.3.2-18].
    pairs: Any = value if value.__class__ is tuple else tuple(value.items() if isinstance(value, Mapping) else value)
    encoded = b"".join([_BYTES[row[1]] + encode_string_pair(pair) for pair in pairs])
    return tuple([(pair[0], pair[1]) for pair in pairs]), encoded


def _encode_binary(row: _Row, value: bytes) -> tuple[bytes, bytes]:
    encoded = encode_binary(value)
    return encoded[2:], _BYTES[row[1]] + encoded


def _encode_integer(row: _Row, value: Any) -> tuple[int, bytes]:
    _, identifier, wire_type, minimum = row
    if value.__class__ is not int:
        if not isinstance(value, int) or (isinstance(value, bool) and wire_type != _UINT8):
            raise ArgumentError(f"integer expected, got {type(value).__name__}: {value!r:.100}")
        value = int(value)
    if not minimum <= value <= _MAXIMUM[wire_type]:
        raise ArgumentError(f"{value} is out of range, {minimum} to {_MAXIMUM[wire_type]}")
    if wire_type == _UINT8:
        return value, bytes((identifier, value))
    if wire_type == _UINT16:
        return value, _UINT16_AFTER_IDENTIFIER.pack(identifier, value)
    if wire_type == _UINT32:
        return value, _UINT32_AFTER_IDENTIFIER.pack(identifier, value)
    return value, _BYTES[identifier] + encode_varint(value)


def _encode_integers(row: _Row, value: int | Iterable[int]) -> tuple[tuple[int, ...], bytes]:
    coded = [_encode_integer(row, item) for item in ((value,) if isinstance(value, int) else value)]
    return tuple([item for item, _ in coded]), b"".join([encoded for _, encoded in coded])


_BYTES = tuple(bytes((value,)) for value in range(128))
# By wire type.
_ENCODERS: tuple[_Encoder, ...] = (
    *(_encode_string, _encode_pairs, _encode_binary),
    *(_encode_integer, _encode_integer, _encode_integer),
    *(_encode_topic, _encode_integer, _encode_integers),
)


def _decode_values(rows: dict[int, tuple[str, int, int]], data: bytes, offset: int, stop: int) -> dict[str, Any]:
    """Decode ``data[offset:stop]``: name, wire type and minimum by identifier → value by name.

    Reading over ``stop`` is found out once, at the end; until then, it must not be mistaken for anything else.
    """
    values: dict[str, Any] = {}
    many: dict[str, list[object]] = {}
    name = ""
    try:
        while offset < stop:
            name, wire_type, minimum = rows[data[offset]]
            if wire_type == _STRING:
                start = offset + 3
                offset = start + (data[offset + 1] << 8 | data[offset + 2])
                value: Any = data[start:offset].decode()
                if "\0" in value:  # [MQTT-1.5.4-2]
                    raise MalformedPacketError(f"{name} holds U+0000")
            elif wire_type == _PAIR:
                start = offset + 3
                middle = start + (data[offset + 1] << 8 | data[offset + 2])
                offset = middle + 2 + (data[middle] << 8 | data[middle + 1])
                key = data[start:middle].decode()
                value = data[middle + 2 : offset].decode()
                if "\0" in key or "\0" in value:  # [MQTT-1.5.7-1]
                    raise MalformedPacketError(f"{name} holds U+0000")
                many.setdefault(name, []).append((key, value))
                continue
            elif wire_type == _BINARY:
                start = offset + 3
                offset = start + (data[offset + 1] << 8 | data[offset + 2])
                value = data[start:offset]
            elif wire_type == _UINT8:
                value = data[offset + 1]
                offset += 2
                if value > 1 and offset <= stop:
                    raise ProtocolError(f"{name}: {value} is neither 0 nor 1")
            elif wire_type == _TOPIC:
                value, offset = decode_string(data, offset + 1, stop)
                if not value or "+" in value or "#" in value:  # [MQTT-3.3.2-14]
                    raise ProtocolError(f"{name}: {value[:50]!r} is no topic name")
            else:
                if wire_type == _UINT32:
                    value = _UINT32_AT(data, offset + 1)[0]
                    offset += 5
                elif wire_type == _UINT16:
                    value = data[offset + 1] << 8 | data[offset + 2]
                    offset += 3
                else:
                    value, offset = decode_varint(data, offset + 1, stop)
                if value < minimum and offset <= stop:
                    # [MQTT-3.3.2-8]
                    raise ProtocolError(f"{name}: {value} is less than {minimum}", 0x94 if name == "TopicAlias" else 0x82)
                if wire_type == _VARINTS:
                    many.setdefault(name, []).append(value)
                    continue
            if name in values:
                raise ProtocolError(f"{name} appears twice")
            values[name] = value
    except KeyError:
        raise MalformedPacketError(f"this packet has no property 0x{data[offset]:02X}") from None
    except (IndexError, struct.error):
        raise MalformedPacketError(f"property {name} is cut short") from None
    except UnicodeDecodeError as error:
        raise MalformedPacketError(f"property {name} is no UTF-8: {error.reason}") from error
    if offset != stop:
        raise MalformedPacketError(f"property {name} is cut short")
    for name, items in many.items():
        values[name] = tuple(items)
    if "AuthenticationData" in values and "AuthenticationMethod" not in values:  # section 3.1.2.11.10
        raise ProtocolError("AuthenticationData without an AuthenticationMethod")
    return values


class Properties:
    """What all property classes have in common. Instances are immutable, hashable, comparable, and false when empty."""

    __slots__ = ("__dict__", "_encoded")

    EMPTY: ClassVar[Self]
    """The shared instance without properties."""

    _encoders: ClassVar[tuple[tuple[str, object, _Row, _Encoder], ...]]
    _by_identifier: ClassVar[dict[int, tuple[str, int, int]]]
    _encoded: bytes

    def __init_subclass__(cls) -> None:
        encoders: list[tuple[str, object, _Row, _Encoder]] = []
        cls._by_identifier = {}
        for row in _PROPERTIES:
            name, identifier, wire_type, minimum = row
            if hasattr(cls, name):
                absent = getattr(cls, name)
                if wire_type == _VARINT and absent == ():
                    wire_type = _VARINTS
                encoders.append((name, absent, row, _ENCODERS[wire_type]))
                cls._by_identifier[identifier] = (name, wire_type, minimum)
        cls._encoders = tuple(encoders)
        type.__setattr__(cls, "EMPTY", cls())

    def _fill(self, arguments: Mapping[str, object]) -> None:
        """Validate and keep the arguments that are neither ``None`` nor ``()``, and their encoding."""
        values: dict[str, object] = {}
        parts: list[bytes] = []
        for name, absent, row, encode in self._encoders:
            value = arguments[name]
            if value is absent or value is None:
                continue
            try:
                value, encoded = encode(row, value)
            except ArgumentError as error:
                raise ArgumentError(f"{name}: {error}") from None
            except (TypeError, ValueError) as error:
                raise ArgumentError(f"{name}: got {type(value).__name__}, {value!r:.100}: {error}") from None
            if encoded:
                values[name] = value
                parts.append(encoded)
        if "AuthenticationData" in values and "AuthenticationMethod" not in values:  # section 3.1.2.11.10
            raise ArgumentError("AuthenticationData: it needs an AuthenticationMethod")
        block = b"".join(parts)
        length = len(block)
        _set(self, "_encoded", (_BYTES[length] if length < 128 else encode_varint(length)) + block)
        _set(self, "__dict__", values)

    def replace(self, **changes: object) -> Self:
        """Return a copy in which the named properties are changed, or removed with ``None``.

        Raises:
            ArgumentError: a value that the constructor refuses.
            TypeError: a name that this packet doesn't have.
        """
        return type(self)(**{**self.__dict__, **changes})

    def encode(self) -> bytes:
        """Return the Property Length and the properties (section 2.2.2), a Message Expiry Interval first."""
        try:
            return self._encoded
        except AttributeError:  # It was decoded, and nobody asked for its bytes so far.
            self._fill({name: getattr(self, name) for name, *_ in self._encoders})
            return self._encoded

    @classmethod
    def decode(cls, data: bytes, offset: int, end: int) -> tuple[Self, int]:
        """Decode Property Length and properties; return them and the offset after them (section 2.2.2).

        Args:
            data: at least ``end`` bytes.
            offset: where the Property Length begins.
            end: where the packet ends.

        Raises:
            MalformedPacketError: no property of this packet, cut short, or a value not of its type.
            ProtocolError: a property twice that may be there once, or a value that the standard forbids.
        """
        if not offset < end <= len(data):
            raise MalformedPacketError(f"property length expected at offset {offset}, where the packet ends")
        length = data[offset]
        if not length:  # [MQTT-2.2.2-1]
            return cls.EMPTY, offset + 1
        if length < 128:
            offset += 1
        else:
            length, offset = decode_varint(data, offset, end)
        stop = offset + length
        if stop > end:
            raise MalformedPacketError(f"properties of {length} bytes at offset {offset} don't end before offset {end}")
        self = _new(cls)
        _set(self, "__dict__", _decode_values(cls._by_identifier, data, offset, stop))
        return self, stop

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: use replace({name}=...)")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable: use replace({name}=None)")

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        return self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash(self.encode())

    def __bool__(self) -> bool:
        return bool(self.__dict__)

    def __repr__(self) -> str:
        present = ", ".join([f"{name}={self.__dict__[name]!r}" for name, *_ in self._encoders if name in self.__dict__])
        return f"{type(self).__name__}({present})"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (type(self), dict(self.__dict__))


def _restore(cls: type[Properties], values: dict[str, Any]) -> Properties:
    return cls(**values)


class _ReasonProps(Properties):
    """Most acknowledgements have the same two."""

    __slots__ = ()

    ReasonString: str | None = None
    UserProperty: tuple[tuple[str, str], ...] = ()

    def __init__(self, *, ReasonString: str | None = None, UserProperty: UserPropertyArgument = ()) -> None:
        self._fill(locals())


@final
class MQTTConnectProps(Properties):
    """Properties of CONNECT (section 3.1.2.11)."""

    SessionExpiryInterval: int | None = None
    AuthenticationMethod: str | None = None
    AuthenticationData: bytes | None = None
    RequestProblemInformation: int | None = None
    RequestResponseInformation: int | None = None
    ReceiveMaximum: int | None = None
    TopicAliasMaximum: int | None = None
    MaximumPacketSize: int | None = None
    UserProperty: tuple[tuple[str, str], ...] = ()

    def __init__(
        self,
        *,
        SessionExpiryInterval: int | None = None,
        AuthenticationMethod: str | None = None,
        AuthenticationData: bytes | None = None,
        RequestProblemInformation: int | None = None,
        RequestResponseInformation: int | None = None,
        ReceiveMaximum: int | None = None,
        TopicAliasMaximum: int | None = None,
        MaximumPacketSize: int | None = None,
        UserProperty: UserPropertyArgument = (),
    ) -> None:
        self._fill(locals())


@final
class MQTTConnAckProps(Properties):
    """Properties of CONNACK (section 3.2.2.3)."""

    SessionExpiryInterval: int | None = None
    AssignedClientIdentifier: str | None = None
    ServerKeepAlive: int | None = None
    AuthenticationMethod: str | None = None
    AuthenticationData: bytes | None = None
    ResponseInformation: str | None = None
    ServerReference: str | None = None
    ReasonString: str | None = None
    ReceiveMaximum: int | None = None
    TopicAliasMaximum: int | None = None
    MaximumQoS: int | None = None
    RetainAvailable: int | None = None
    MaximumPacketSize: int | None = None
    WildcardSubscriptionAvailable: int | None = None
    SubscriptionIdentifierAvailable: int | None = None
    SharedSubscriptionAvailable: int | None = None
    UserProperty: tuple[tuple[str, str], ...] = ()

    def __init__(
        self,
        *,
        SessionExpiryInterval: int | None = None,
        AssignedClientIdentifier: str | None = None,
        ServerKeepAlive: int | None = None,
        AuthenticationMethod: str | None = None,
        AuthenticationData: bytes | None = None,
        ResponseInformation: str | None = None,
        ServerReference: str | None = None,
        ReasonString: str | None = None,
        ReceiveMaximum: int | None = None,
        TopicAliasMaximum: int | None = None,
        MaximumQoS: int | None = None,
        RetainAvailable: int | None = None,
        MaximumPacketSize: int | None = None,
        WildcardSubscriptionAvailable: int | None = None,
        SubscriptionIdentifierAvailable: int | None = None,
        SharedSubscriptionAvailable: int | None = None,
        UserProperty: UserPropertyArgument = (),
    ) -> None:
        self._fill(locals())


@final
class MQTTWillProps(Properties):
    """Properties of the Will in CONNECT (section 3.1.3.2)."""

    MessageExpiryInterval: int | None = None
    PayloadFormatIndicator: int | None = None
    ContentType: str | None = None
    ResponseTopic: str | None = None
    CorrelationData: bytes | None = None
    WillDelayInterval: int | None = None
    UserProperty: tuple[tuple[str, str], ...] = ()

    def __init__(
        self,
        *,
        MessageExpiryInterval: int | None = None,
        PayloadFormatIndicator: int | None = None,
        ContentType: str | None = None,
        ResponseTopic: str | None = None,
        CorrelationData: bytes | None = None,
        WillDelayInterval: int | None = None,
        UserProperty: UserPropertyArgument = (),
    ) -> None:
        self._fill(locals())


@final
class MQTTPublishProps(Properties):
    """Properties of PUBLISH (section 3.3.2.3)."""

    MessageExpiryInterval: int | None = None
    PayloadFormatIndicator: int | None = None
    ContentType: str | None = None
    ResponseTopic: str | None = None
    CorrelationData: bytes | None = None
    SubscriptionIdentifier: tuple[int, ...] = ()
    TopicAlias: int | None = None
    UserProperty: tuple[tuple[str, str], ...] = ()

    def __init__(
        self,
        *,
        MessageExpiryInterval: int | None = None,
        PayloadFormatIndicator: int | None = None,
        ContentType: str | None = None,
        ResponseTopic: str | None = None,
        CorrelationData: bytes | None = None,
        SubscriptionIdentifier: int | Iterable[int] = (),
        TopicAlias: int | None = None,
        UserProperty: UserPropertyArgument = (),
    ) -> None:
        self._fill(locals())


@final
class MQTTPubAckProps(_ReasonProps):
    """Properties of PUBACK (section 3.4.2.2)."""


@final
class MQTTPubRecProps(_ReasonProps):
    """Properties of PUBREC (section 3.5.2.2)."""


@final
class MQTTPubRelProps(_ReasonProps):
    """Properties of PUBREL (section 3.6.2.2)."""


@final
class MQTTPubCompProps(_ReasonProps):
    """Properties of PUBCOMP (section 3.7.2.2)."""


@final
class MQTTSubscribeProps(Properties):
    """Properties of SUBSCRIBE (section 3.8.2.1)."""

    SubscriptionIdentifier: int | None = None
    UserProperty: tuple[tuple[str, str], ...] = ()

    def __init__(self, *, SubscriptionIdentifier: int | None = None, UserProperty: UserPropertyArgument = ()) -> None:
        self._fill(locals())


@final
class MQTTSubAckProps(_ReasonProps):
    """Properties of SUBACK (section 3.9.2.1)."""


@final
class MQTTUnsubscribeProps(Properties):
    """Properties of UNSUBSCRIBE (section 3.10.2.1)."""

    UserProperty: tuple[tuple[str, str], ...] = ()

    def __init__(self, *, UserProperty: UserPropertyArgument = ()) -> None:
        self._fill(locals())


@final
class MQTTUnsubAckProps(_ReasonProps):
    """Properties of UNSUBACK (section 3.11.2.1)."""


@final
class MQTTDisconnectProps(Properties):
    """Properties of DISCONNECT (section 3.14.2.2)."""

    SessionExpiryInterval: int | None = None
    ServerReference: str | None = None
    ReasonString: str | None = None
    UserProperty: tuple[tuple[str, str], ...] = ()

    def __init__(
        self,
        *,
        SessionExpiryInterval: int | None = None,
        ServerReference: str | None = None,
        ReasonString: str | None = None,
        UserProperty: UserPropertyArgument = (),
    ) -> None:
        self._fill(locals())


@final
class MQTTAuthProps(Properties):
    """Properties of AUTH (section 3.15.2.2)."""

    AuthenticationMethod: str | None = None
    AuthenticationData: bytes | None = None
    ReasonString: str | None = None
    UserProperty: tuple[tuple[str, str], ...] = ()

    def __init__(
        self,
        *,
        AuthenticationMethod: str | None = None,
        AuthenticationData: bytes | None = None,
        ReasonString: str | None = None,
        UserProperty: UserPropertyArgument = (),
    ) -> None:
        self._fill(locals())
