"""The standard's names and numbers: packet types, property identifiers, reason codes, limits.

Owns the constants of MQTT 5.0 (OASIS Standard, 7 March 2019) and the tables of who may send which Reason Code.
Must not hold behaviour. Invariant: everything here is a fixed fact of the standard, built once at import.
"""

from __future__ import annotations

from enum import IntEnum

__all__ = [
    "CLIENT_REASON_CODES",
    "PACKET_ID_MAX",
    "PROTOCOL_NAME",
    "PROTOCOL_VERSION",
    "REASON_CODES",
    "SERVER_REASON_CODES",
    "STRING_BYTES_MAX",
    "UINT32_MAX",
    "VARINT_MAX",
    "PacketType",
    "PropertyId",
    "ReasonCode",
    "reason_name",
]

PROTOCOL_NAME = "MQTT"  # [MQTT-3.1.2-1]
PROTOCOL_VERSION = 5  # section 3.1.2.2
PACKET_ID_MAX = 65_535  # section 2.2.1
UINT32_MAX = 4_294_967_295  # section 1.5.3
VARINT_MAX = 268_435_455  # section 1.5.5: four bytes of seven bits
STRING_BYTES_MAX = 65_535  # section 1.5.4: strings and binary data alike


class PacketType(IntEnum):
    """MQTT Control Packet types (section 2.1.2): the high four bits of the first byte."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


class PropertyId(IntEnum):
    """Property identifiers (section 2.2.2.2), spelled as the standard spells them."""

    PayloadFormatIndicator = 0x01
    MessageExpiryInterval = 0x02
    ContentType = 0x03
    ResponseTopic = 0x08
    CorrelationData = 0x09
    SubscriptionIdentifier = 0x0B
    SessionExpiryInterval = 0x11
    AssignedClientIdentifier = 0x12
    ServerKeepAlive = 0x13
    AuthenticationMethod = 0x15
    AuthenticationData = 0x16
    RequestProblemInformation = 0x17
    WillDelayInterval = 0x18
    RequestResponseInformation = 0x19
    ResponseInformation = 0x1A
    ServerReference = 0x1C
    ReasonString = 0x1F
    ReceiveMaximum = 0x21
    TopicAliasMaximum = 0x22
    TopicAlias = 0x23
    MaximumQoS = 0x24
    RetainAvailable = 0x25
    UserProperty = 0x26
    MaximumPacketSize = 0x27
    WildcardSubscriptionAvailable = 0x28
    SubscriptionIdentifierAvailable = 0x29
    SharedSubscriptionAvailable = 0x2A


class ReasonCode(IntEnum):
    """Reason Codes (section 2.4). Below 0x80 is success, 0x80 and above is failure."""

    SUCCESS = 0x00
    NORMAL_DISCONNECTION = 0x00
    GRANTED_QOS_0 = 0x00
    GRANTED_QOS_1 = 0x01
    GRANTED_QOS_2 = 0x02
    DISCONNECT_WITH_WILL_MESSAGE = 0x04
    NO_MATCHING_SUBSCRIBERS = 0x10
    NO_SUBSCRIPTION_EXISTED = 0x11
    CONTINUE_AUTHENTICATION = 0x18
    RE_AUTHENTICATE = 0x19
    UNSPECIFIED_ERROR = 0x80
    MALFORMED_PACKET = 0x81
    PROTOCOL_ERROR = 0x82
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83
    UNSUPPORTED_PROTOCOL_VERSION = 0x84
    CLIENT_IDENTIFIER_NOT_VALID = 0x85
    BAD_USER_NAME_OR_PASSWORD = 0x86
    NOT_AUTHORIZED = 0x87
    SERVER_UNAVAILABLE = 0x88
    SERVER_BUSY = 0x89
    BANNED = 0x8A
    SERVER_SHUTTING_DOWN = 0x8B
    BAD_AUTHENTICATION_METHOD = 0x8C
    KEEP_ALIVE_TIMEOUT = 0x8D
    SESSION_TAKEN_OVER = 0x8E
    TOPIC_FILTER_INVALID = 0x8F
    TOPIC_NAME_INVALID = 0x90
    PACKET_IDENTIFIER_IN_USE = 0x91
    PACKET_IDENTIFIER_NOT_FOUND = 0x92
    RECEIVE_MAXIMUM_EXCEEDED = 0x93
    TOPIC_ALIAS_INVALID = 0x94
    PACKET_TOO_LARGE = 0x95
    MESSAGE_RATE_TOO_HIGH = 0x96
    QUOTA_EXCEEDED = 0x97
    ADMINISTRATIVE_ACTION = 0x98
    PAYLOAD_FORMAT_INVALID = 0x99
    RETAIN_NOT_SUPPORTED = 0x9A
    QOS_NOT_SUPPORTED = 0x9B
    USE_ANOTHER_SERVER = 0x9C
    SERVER_MOVED = 0x9D
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E
    CONNECTION_RATE_EXCEEDED = 0x9F
    MAXIMUM_CONNECT_TIME = 0xA0
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xA1
    WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED = 0xA2


# Which Reason Codes the standard lists for which packet: 3.2.2.2, 3.4.2.1, 3.5.2.1, 3.6.2.1, 3.7.2.1, 3.9.3, 3.11.3, 3.14.2.1, 3.15.2.1.
_PUBLISH_RESULT = frozenset((0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99))
_RELEASE_RESULT = frozenset((0x00, 0x92))
_DISCONNECT_BOTH = frozenset((0x00, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99))
_DISCONNECT_CLIENT = frozenset((0x04,))
# The table of section 2.4 gives 0x8C to DISCONNECT, the one of 3.14.2.1 leaves it out: it is taken, and never sent.
_DISCONNECT_SERVER = frozenset(
    (0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2),
)
_CONNACK = frozenset(
    (0x00, *range(0x80, 0x8B), 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F),
)
_SUBACK = frozenset((0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2))
_UNSUBACK = frozenset((0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91))

REASON_CODES: dict[int, frozenset[int]] = {
    PacketType.CONNACK: _CONNACK,
    PacketType.PUBACK: _PUBLISH_RESULT,
    PacketType.PUBREC: _PUBLISH_RESULT,
    PacketType.PUBREL: _RELEASE_RESULT,
    PacketType.PUBCOMP: _RELEASE_RESULT,
    PacketType.SUBACK: _SUBACK,
    PacketType.UNSUBACK: _UNSUBACK,
    PacketType.DISCONNECT: _DISCONNECT_BOTH | _DISCONNECT_CLIENT | _DISCONNECT_SERVER,
    PacketType.AUTH: frozenset((0x00, 0x18, 0x19)),
}
"""Every Reason Code that the standard lists for a packet type, whoever sends it."""

CLIENT_REASON_CODES: dict[int, frozenset[int]] = {
    PacketType.PUBACK: _PUBLISH_RESULT - {0x10},  # only a server knows whether anybody subscribed
    PacketType.PUBREC: _PUBLISH_RESULT - {0x10},
    PacketType.PUBREL: _RELEASE_RESULT,
    PacketType.PUBCOMP: _RELEASE_RESULT,
    PacketType.DISCONNECT: _DISCONNECT_BOTH | _DISCONNECT_CLIENT,
    PacketType.AUTH: frozenset((0x18, 0x19)),
}
"""The Reason Codes that a client may send [MQTT-3.4.2-1], [MQTT-3.5.2-1], [MQTT-3.14.2-1], [MQTT-3.15.2-1]."""

SERVER_REASON_CODES: dict[int, frozenset[int]] = {
    PacketType.CONNACK: _CONNACK,
    PacketType.PUBACK: _PUBLISH_RESULT,
    PacketType.PUBREC: _PUBLISH_RESULT,
    PacketType.PUBREL: _RELEASE_RESULT,
    PacketType.PUBCOMP: _RELEASE_RESULT,
    PacketType.SUBACK: _SUBACK,
    PacketType.UNSUBACK: _UNSUBACK,
    PacketType.DISCONNECT: _DISCONNECT_BOTH | _DISCONNECT_SERVER,
    PacketType.AUTH: frozenset((0x00, 0x18)),
}
"""The Reason Codes that a server may send."""

_REASON_NAMES: dict[int, str] = {
    code.value: f"0x{code.value:02X} {code.name.replace('_', ' ').capitalize().replace('qos', 'QoS').replace('Qos', 'QoS')}"
    for code in ReasonCode
}


def reason_name(code: int) -> str:
    """Return a Reason Code as people read it, for example ``"0x97 Quota exceeded"`` (section 2.4).

    A number that the standard doesn't know gives ``"0x7F unknown reason code"``. Raises nothing.
    """
    return _REASON_NAMES.get(code) or f"0x{code:02X} unknown reason code"
