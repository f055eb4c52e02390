"""The policy of a connection: which endings can heal, how long to wait before the next attempt, and what a goodbye may say.

Pure functions and one counter. The random number of each backoff comes in from the driver; nothing here knows a clock or a Link.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ArgumentError, AuthenticationError, ForeignSessionError, NotSupportedError, ServerLimitError
from ..mqtt_spec import CLIENT_REASON_CODES, PacketType, reason_name
from ..packet import MQTTConnAckPacket, MQTTDisconnectPacket
from ..property import MQTTDisconnectProps

if TYPE_CHECKING:
    from ..errors import MQTTError
    from .settings import SessionSettings

__all__ = [
    "FATAL_CONNACK",
    "FATAL_DISCONNECT",
    "POISON_DISCONNECT",
    "REQUEST_DISCONNECT",
    "Backoff",
    "check_disconnect",
    "check_packet_size",
    "describe",
    "fit_disconnect",
    "is_by_server",
    "is_fatal",
]

FATAL_CONNACK = frozenset({0x81, 0x82, 0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C, 0x90, 0x95, 0x99, 0x9A, 0x9B, 0x9C, 0x9D})
"""Refusals that a new attempt with the same CONNECT can't heal."""

FATAL_DISCONNECT = frozenset({0x87, 0x8E, 0x98, 0x9C, 0x9D})
"""Reasons of a server's DISCONNECT that a new attempt can't heal; the rest may be about one packet, or about the moment [MQTT-3.1.4-3]."""

POISON_DISCONNECT = frozenset({0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x99, 0x9A, 0x9B})
"""A server that closes with one of these, or without a word, may have choked on a publication."""

REQUEST_DISCONNECT = frozenset({0x8F, 0x9E, 0xA1, 0xA2})
"""A server that closes with one of these has choked on a SUBSCRIBE or UNSUBSCRIBE."""

_DOUBLINGS_MAX = 30

# PUBACK, PUBREC, PUBREL or PUBCOMP with a packet identifier and a reason code.
_ACK_BYTES = 5


class Backoff:
    """How long to wait before the next attempt: exponential, with full jitter, afresh only after a stable period."""

    __slots__ = ("attempts", "settings")

    def __init__(self, settings: SessionSettings) -> None:
        self.settings = settings
        self.attempts = 0

    def wait_s(self, random: float) -> float:
        """Return the waiting time before the next attempt. `random`: 0 ≤ random < 1."""
        settings = self.settings
        bound_s = min(settings.reconnect_max_s, settings.reconnect_initial_s * 2.0 ** min(self.attempts, _DOUBLINGS_MAX))
        self.attempts += 1
        return bound_s * random

    def ended(self, lasted_s: float) -> None:
        """Note that a connection ended after `lasted_s` seconds. One that the server closes at once doesn't count as a success."""
        if lasted_s >= self.settings.stable_s:
            self.attempts = 0


def is_fatal(error: MQTTError) -> bool:
    """Return whether connecting again can't heal `error`, the way in which a connection or an attempt ended."""
    packet = getattr(error, "packet", None)
    if isinstance(packet, MQTTConnAckPacket):
        return packet.reason_code in FATAL_CONNACK
    if isinstance(packet, MQTTDisconnectPacket):
        return packet.reason_code in FATAL_DISCONNECT
    # A bad setting that only the attempt could find, or a scheme that we don't speak, is as final as a refusal to authenticate.
    return isinstance(error, (ForeignSessionError, AuthenticationError, ArgumentError, NotSupportedError))


def is_by_server(error: MQTTError) -> bool:
    """Return whether the server may have ended the connection upon a publication: with a reason, or without a word.

    A network that breaks says so with another error than a closed or reset connection; it has nothing to do with what was sent.
    """
    packet = getattr(error, "packet", None)
    if packet is not None:
        return packet.reason_code in POISON_DISCONNECT
    return error.__cause__ is None or isinstance(error.__cause__, ConnectionError)


def check_packet_size(packet_size_max: int) -> None:
    """Raise if the server's Maximum Packet Size holds no acknowledgement: then no exchange could be ended [MQTT-3.2.2-15]."""
    if packet_size_max < _ACK_BYTES:
        raise ServerLimitError(
            f"the server's Maximum Packet Size is {packet_size_max} bytes, and an acknowledgement takes up to {_ACK_BYTES}"
        )


def describe(packet: MQTTConnAckPacket | MQTTDisconnectPacket) -> str:
    """Return what the server said, in words: reason code, Reason String, Server Reference (section 4.11)."""
    text = packet.properties.ReasonString
    reference = packet.properties.ServerReference
    return reason_name(packet.reason_code) + (f": {text}" if text else "") + (f" (Server Reference {reference!r})" if reference else "")


def check_disconnect(reason_code: int, properties: MQTTDisconnectProps, session_expiry_s: int | None) -> MQTTDisconnectPacket:
    """Return the DISCONNECT, or raise `ArgumentError` if a client can't send it (section 3.14.2).

    `session_expiry_s`: the Session Expiry Interval of the connection; None if there is none.
    """
    if reason_code not in CLIENT_REASON_CODES[PacketType.DISCONNECT]:  # [MQTT-3.14.2-1]
        raise ArgumentError(f"reason_code is {reason_code!r}, and a client's DISCONNECT can't carry it (table 3-10)")
    if properties.SessionExpiryInterval and session_expiry_s == 0:  # section 3.14.2.2.2
        raise ArgumentError(f"SessionExpiryInterval is {properties.SessionExpiryInterval}, and must be 0 because the connection's is 0")
    if properties.ServerReference is not None:
        raise ArgumentError("ServerReference is for the server's DISCONNECT")
    return MQTTDisconnectPacket(reason_code, properties)


def fit_disconnect(packet: MQTTDisconnectPacket, packet_size_max: int) -> tuple[bytes, bool]:
    """Encode a DISCONNECT; leave out what would make it larger than the server accepts [MQTT-3.14.2-3] [MQTT-3.14.2-4].

    Returns the bytes (none if not even the reason code fits), and whether the Session Expiry Interval is in them.
    """
    properties = packet.properties
    expiry_only = MQTTDisconnectProps(SessionExpiryInterval=properties.SessionExpiryInterval)
    for attempt in (properties, properties.replace(UserProperty=()), expiry_only, MQTTDisconnectProps.EMPTY):
        data = MQTTDisconnectPacket(packet.reason_code, attempt).encode()
        if len(data) <= packet_size_max:
            return data, attempt.SessionExpiryInterval is not None
    return b"", False
