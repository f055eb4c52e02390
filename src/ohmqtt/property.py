"""Properties: one table, one typed class for each packet (section 2.2.2).

Owns identifiers, types and limits of properties, their encoding and decoding. Must not know packets, sessions or which end we are:
what only a server may send is encoded too. Invariant: an instance never changes and always holds legal values, so that encoding it
can't fail; the encoder is the validator.

A property that is absent reads as ``None`` (``()`` for those that may repeat); instances store only what is present, so that a packet
with one property doesn't pay for seventeen. Identifiers and rules are in ``_PROPERTIES``; a class body says which of them its packet has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from struct import Struct
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, final

from .errors import ArgumentError, MalformedPacketError, ProtocolError
from .mqtt_spec import UINT32_MAX, VARINT_MAX, PropertyId, ReasonCode
from .serialization import decode_varint, encode_binary, encode_string, encode_string_pair, encode_varint

if TYPE_CHECKING:
    from typing import TypeAlias

    from typing_extensions import Self

    UserPropertyArgument: TypeAlias = Mapping[str, str] | Iterable[tuple[str, str]]

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

# Wire types, in the order in which the decoder asks for them.
_STRING, _PAIR, _BINARY, _UINT8, _UINT16, _UINT32, _VARINT, _VARINTS = range(8)

_UINT16_AFTER_IDENTIFIER = Struct(">BH")
_UINT32_AFTER_IDENTIFIER = Struct(">BI")


class _Row(NamedTuple):
    name: str
    identifier: int
    wire_type: int
    minimum: int = 0
    maximum: int = 0
    # What a value outside minimum..maximum is answered with.
    reason_code: int = ReasonCode.PROTOCOL_ERROR.value


def _row(identifier: PropertyId, wire_type: int, minimum: int = 0, maximum: int = 0, reason_code: int = 0x82) -> _Row:
    return _Row(identifier.name, identifier.value, wire_type, minimum, maximum, reason_code)


# The one table. Encoders write in this order: Message Expiry Interval comes first, so that whoever ages a queued message finds it
# right after the length.
_PROPERTIES = (
    _row(PropertyId.MessageExpiryInterval, _UINT32, 0, UINT32_MAX),
    _row(PropertyId.PayloadFormatIndicator, _UINT8, 0, 1),
    _row(PropertyId.ContentType, _STRING),
    _row(PropertyId.ResponseTopic, _STRING),
    _row(PropertyId.CorrelationData, _BINARY),
    _row(PropertyId.SubscriptionIdentifier, _VARINT, 1, VARINT_MAX),
    _row(PropertyId.SessionExpiryInterval, _UINT32, 0, UINT32_MAX),
    _row(PropertyId.AssignedClientIdentifier, _STRING),
    _row(PropertyId.ServerKeepAlive, _UINT16, 0, 65_535),
    _row(PropertyId.AuthenticationMethod, _STRING),
    _row(PropertyId.AuthenticationData, _BINARY),
    _row(PropertyId.RequestProblemInformation, _UINT8, 0, 1),
    _row(PropertyId.WillDelayInterval, _UINT32, 0, UINT32_MAX),
    _row(PropertyId.RequestResponseInformation, _UINT8, 0, 1),
    _row(PropertyId.ResponseInformation, _STRING),
    _row(PropertyId.ServerReference, _STRING),
    _row(PropertyId.ReasonString, _STRING),
    _row(PropertyId.ReceiveMaximum, _UINT16, 1, 65_535),
    _row(PropertyId.TopicAliasMaximum, _UINT16, 0, 65_535),
    _row(PropertyId.TopicAlias, _UINT16, 1, 65_535, ReasonCode.TOPIC_ALIAS_INVALID.value),  # [MQTT-3.3.2-8]
    _row(PropertyId.MaximumQoS, _UINT8, 0, 1),
    _row(PropertyId.RetainAvailable, _UINT8, 0, 1),
    _row(PropertyId.MaximumPacketSize, _UINT32, 1, UINT32_MAX),
    _row(PropertyId.WildcardSubscriptionAvailable, _UINT8, 0, 1),
    _row(PropertyId.SubscriptionIdentifierAvailable, _UINT8, 0, 1),
    _row(PropertyId.SharedSubscriptionAvailable, _UINT8, 0, 1),
    _row(PropertyId.UserProperty, _PAIR),
)
_RESPONSE_TOPIC = PropertyId.ResponseTopic.value

_new = object.__new__
_set = object.__setattr__


def _encode_integer(row: _Row, value: object) -> tuple[int, bytes]:
    """Check one integer against its row; return it as a plain ``int``, and identifier and value as bytes."""
    _, identifier, wire_type, minimum, maximum, _ = row
    if not isinstance(value, int) or (value.__class__ is bool and maximum != 1):
        raise ArgumentError(f"integer expected, got {type(value).__name__}: {value!r:.100}")
    if not minimum <= value <= maximum:
        raise ArgumentError(f"{value} is out of range, {minimum} to {maximum}")
    value = int(value)
    if wire_type == _UINT8:
        return value, bytes((identifier, value))
    if wire_type == _UINT16:
        return value, _UINT16_AFTER_IDENTIFIER.pack(identifier, value)
    if wire_type == _UINT32:
        return value, _UINT32_AFTER_IDENTIFIER.pack(identifier, value)
    return value, bytes((identifier,)) + encode_varint(value)


def _encode_value(row: _Row, value: Any) -> tuple[object, bytes]:
    """Check one value against its row; return it as it is kept, and all its occurrences as bytes."""
    name, identifier, wire_type = row[:3]
    try:
        if wire_type == _STRING:
            encoded = encode_string(value)
            if identifier == _RESPONSE_TOPIC and (not value or "+" in value or "#" in value):  # [MQTT-3.3.2-14]
                raise ArgumentError(f"a topic name without wildcards expected, got {value[:50]!r}")
            return value, bytes((identifier,)) + encoded
        if wire_type == _PAIR:
            pairs = tuple(value.items() if isinstance(value, Mapping) else value)
            tag = bytes((identifier,))
            # In the order given, with repeats [MQTT-3.1.3-10], [MQTT-3.3.2-18].
            return tuple(map(tuple, pairs)), b"".join([tag + encode_string_pair(pair) for pair in pairs])
        if wire_type == _BINARY:
            encoded = encode_binary(value)
            return encoded[2:], bytes((identifier,)) + encoded
        if wire_type == _VARINTS:
            coded = [_encode_integer(row, item) for item in ((value,) if isinstance(value, int) else value)]
            return tuple([item for item, _ in coded]), b"".join([encoded for _, encoded in coded])
        return _encode_integer(row, value)
    except ArgumentError as error:
        raise ArgumentError(f"{name}: {error}") from None
    except TypeError as error:
        raise ArgumentError(f"{name}: got {type(value).__name__}, {value!r:.100}: {error}") from None


class Properties:
    """What all property classes have in common. Instances are immutable, hashable, comparable, and false when empty."""

    __slots__ = ("__dict__", "_encoded")

    EMPTY: ClassVar[Self]
    """The shared instance without properties."""

    _rows: ClassVar[tuple[_Row, ...]]
    _by_identifier: ClassVar[dict[int, _Row]]
    _encoded: bytes

    def __init__(self) -> None:
        self._fill({})

    def __init_subclass__(cls) -> None:
        # A class attribute that may repeat defaults to (): that, too, is said only in the class body.
        cls._rows = tuple(
            row._replace(wire_type=_VARINTS) if row.wire_type == _VARINT and getattr(cls, row.name) == () else row
            for row in _PROPERTIES
            if hasattr(cls, row.name)
        )
        cls._by_identifier = {row.identifier: row for row in cls._rows}
        type.__setattr__(cls, "EMPTY", cls())

    def _fill(self, arguments: Mapping[str, object]) -> None:
        """Validate and keep the arguments that are neither ``None`` nor empty, and their encoding."""
        values: dict[str, object] = {}
        parts: list[bytes] = []
        for row in self._rows:
            value = arguments[row.name]
            if value is None:
                continue
            value, encoded = _encode_value(row, value)
            if value != () or row.wire_type == _STRING:
                values[row.name] = value
                parts.append(encoded)
        if "AuthenticationData" in values and "AuthenticationMethod" not in values:  # section 3.1.2.11.10
            raise ArgumentError("AuthenticationData: it needs an AuthenticationMethod")
        encoded = b"".join(parts)
        _set(self, "_encoded", encode_varint(len(encoded)) + encoded)
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
            self._fill({row.name: getattr(self, row.name) for row in self._rows})
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
        if offset >= end:
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
        rows = cls._by_identifier
        values: dict[str, Any] = {}
        name = ""
        # Reading over `stop` is found out once, at the end; nothing is kept then.
        try:
            while offset < stop:
                name, identifier, wire_type, minimum, maximum, reason_code = rows[data[offset]]
                if wire_type == _STRING:
                    start = offset + 3
                    offset = start + (data[offset + 1] << 8 | data[offset + 2])
                    value: Any = str(data[start:offset], "utf-8")
                    if "\0" in value:  # [MQTT-1.5.4-2]
                        raise MalformedPacketError(f"{name} holds U+0000")
                    if identifier == _RESPONSE_TOPIC and offset <= stop and (not value or "+" in value or "#" in value):
                        raise ProtocolError(f"{name} {value[:50]!r} is no topic name")  # [MQTT-3.3.2-14]
                elif wire_type == _PAIR:
                    start = offset + 3
                    middle = start + (data[offset + 1] << 8 | data[offset + 2])
                    key = str(data[start:middle], "utf-8")
                    start = middle + 2
                    offset = start + (data[middle] << 8 | data[middle + 1])
                    value = str(data[start:offset], "utf-8")
                    if "\0" in key or "\0" in value:  # [MQTT-1.5.7-1]
                        raise MalformedPacketError(f"{name} holds U+0000")
                    if name in values:
                        values[name].append((key, value))
                    else:
                        values[name] = [(key, value)]
                    continue
                elif wire_type == _BINARY:
                    start = offset + 3
                    offset = start + (data[offset + 1] << 8 | data[offset + 2])
                    value = data[start:offset]
                else:
                    if wire_type == _UINT8:
                        value = data[offset + 1]
                        offset += 2
                    elif wire_type == _UINT32:
                        value = data[offset + 1] << 24 | data[offset + 2] << 16 | data[offset + 3] << 8 | data[offset + 4]
                        offset += 5
                    elif wire_type == _UINT16:
                        value = data[offset + 1] << 8 | data[offset + 2]
                        offset += 3
                    else:
                        value, offset = decode_varint(data, offset + 1, stop)
                    if not minimum <= value <= maximum and offset <= stop:
                        raise ProtocolError(f"{name}: {value} is out of range, {minimum} to {maximum}", reason_code)
                    if wire_type == _VARINTS:
                        if name in values:
                            values[name].append(value)
                        else:
                            values[name] = [value]
                        continue
                if name in values:
                    raise ProtocolError(f"{name} appears twice")
                values[name] = value
        except KeyError:
            raise MalformedPacketError(f"{cls.__name__} has no property 0x{data[offset]:02X}") from None
        except IndexError:
            raise MalformedPacketError(f"properties at offset {offset} are cut short") from None
        except UnicodeDecodeError as error:
            raise MalformedPacketError(f"property {name} is no UTF-8: {error.reason}") from error
        if offset != stop:
            raise MalformedPacketError(f"the last property is cut short at offset {stop}")
        if "UserProperty" in values:
            values["UserProperty"] = tuple(values["UserProperty"])
        if values.get("SubscriptionIdentifier").__class__ is list:
            values["SubscriptionIdentifier"] = tuple(values["SubscriptionIdentifier"])
        if "AuthenticationData" in values and "AuthenticationMethod" not in values:  # section 3.1.2.11.10
            raise ProtocolError("AuthenticationData without an AuthenticationMethod")
        self = _new(cls)
        _set(self, "__dict__", values)
        return self, offset

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
        present = ", ".join([f"{row.name}={self.__dict__[row.name]!r}" for row in self._rows if row.name in self.__dict__])
        return f"{type(self).__name__}({present})"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return _restore, (type(self), dict(self.__dict__))


def _restore(cls: type[Properties], values: dict[str, Any]) -> Properties:
    return cls(**values)


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
class MQTTPubAckProps(Properties):
    """Properties of PUBACK (section 3.4.2.2)."""

    ReasonString: str | None = None
    UserProperty: tuple[tuple[str, str], ...] = ()

    def __init__(
        self,
        *,
        ReasonString: str | None = None,
        UserProperty: UserPropertyArgument = (),
    ) -> None:
        self._fill(locals())


@final
class MQTTPubRecProps(Properties):
    """Properties of PUBREC (section 3.5.2.2)."""

    ReasonString: str | None = None
    UserProperty: tuple[tuple[str, str], ...] = ()

    def __init__(
        self,
        *,
        ReasonString: str | None = None,
        UserProperty: UserPropertyArgument = (),
    ) -> None:
        self._fill(locals())


@final
class MQTTPubRelProps(Properties):
    """Properties of PUBREL (section 3.6.2.2)."""

    ReasonString: str | None = None
    UserProperty: tuple[tuple[str, str], ...] = ()

    def __init__(
        self,
        *,
        ReasonString: str | None = None,
        UserProperty: UserPropertyArgument = (),
    ) -> None:
        self._fill(locals())


@final
class MQTTPubCompProps(Properties):
    """Properties of PUBCOMP (section 3.7.2.2)."""

    ReasonString: str | None = None
    UserProperty: tuple[tuple[str, str], ...] = ()

    def __init__(
        self,
        *,
        ReasonString: str | None = None,
        UserProperty: UserPropertyArgument = (),
    ) -> None:
        self._fill(locals())


@final
class MQTTSubscribeProps(Properties):
    """Properties of SUBSCRIBE (section 3.8.2.1)."""

    SubscriptionIdentifier: int | None = None
    UserProperty: tuple[tuple[str, str], ...] = ()

    def __init__(
        self,
        *,
        SubscriptionIdentifier: int | None = None,
        UserProperty: UserPropertyArgument = (),
    ) -> None:
        self._fill(locals())


@final
class MQTTSubAckProps(Properties):
    """Properties of SUBACK (section 3.9.2.1)."""

    ReasonString: str | None = None
    UserProperty: tuple[tuple[str, str], ...] = ()

    def __init__(
        self,
        *,
        ReasonString: str | None = None,
        UserProperty: UserPropertyArgument = (),
    ) -> None:
        self._fill(locals())


@final
class MQTTUnsubscribeProps(Properties):
    """Properties of UNSUBSCRIBE (section 3.10.2.1)."""

    UserProperty: tuple[tuple[str, str], ...] = ()

    def __init__(
        self,
        *,
        UserProperty: UserPropertyArgument = (),
    ) -> None:
        self._fill(locals())


@final
class MQTTUnsubAckProps(Properties):
    """Properties of UNSUBACK (section 3.11.2.1)."""

    ReasonString: str | None = None
    UserProperty: tuple[tuple[str, str], ...] = ()

    def __init__(
        self,
        *,
        ReasonString: str | None = None,
        UserProperty: UserPropertyArgument = (),
    ) -> None:
        self._fill(locals())


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
