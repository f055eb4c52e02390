"""The things that the core passes around: publications out, messages in, requests, subscriptions, and what the user is to hear.

Plain data with slots, made once per message on the hot path. They hold no socket, no lock and no clock.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from .packet import MQTTPubAckPacket, MQTTPubCompPacket, MQTTPublishPacket
from .property import MQTTPublishProps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from .errors import MQTTError
    from .link import Link
    from .packet import (
        MQTTAuthPacket,
        MQTTConnAckPacket,
        MQTTDisconnectPacket,
        MQTTPubRecPacket,
        MQTTSubAckPacket,
        MQTTSubscription,
        MQTTUnsubAckPacket,
    )
    from .property import MQTTPubAckProps, MQTTSubscribeProps, MQTTUnsubscribeProps
    from .topic_alias import AliasPolicy

__all__ = [
    "AuthStep",
    "Connected",
    "Disconnected",
    "Message",
    "Options",
    "Outgoing",
    "Reauthenticated",
    "Report",
    "Request",
    "SessionLostPolicy",
    "State",
    "Subscription",
    "Undelivered",
]


class SessionLostPolicy(Enum):
    """What becomes of messages that were sent and not acknowledged when the server has lost the session (section 4.4)."""

    CLEAR = 0
    """Their handles fail with `SessionLostError`."""
    REPUBLISH = 1
    """Those without a PUBREC are published again as new messages, before all others. QoS 2 is then at least once."""


class State:
    """Where a publication stands. Plain integers: they are compared for each message."""

    QUEUED = 0  # accepted, in memory, without a packet identifier
    STORED = 1  # accepted, on disk only
    ASSIGNED = 2  # has a packet identifier; its PUBLISH is on the way to the wire or there, unacknowledged
    RELEASED = 3  # PUBREC came; PUBREL is on the way to the wire or there, unacknowledged
    WRITTEN = 4  # QoS 0, on the way to the wire
    SETTLED = 5  # the outcome is known


class Options(NamedTuple):
    """The rarer wishes of a publication; most have none."""

    alias_policy: AliasPolicy
    expires_at: float | None  # monotonic, seconds


class Outgoing:
    """One publication on its way out: what was accepted at the call, and where it stands.

    ``topic_field`` and ``properties`` are encoded at the call (each with its length before it), ``first`` is the first byte of the
    PUBLISH without DUP. ``outcome`` is valid once ``state`` is SETTLED: None for QoS 0, an exception, a packet, or the packet type of an
    acknowledgement with Success and no properties, which is most of them and is made into a packet only when somebody asks. ``done`` is set
    by the driver when the outcome may be seen, and ``waiters`` are what it wakes then; both under its lock.

    A caller may give up, or the client say goodbye, while the exchange with the server goes on: then ``outcome`` is known before ``state``
    is SETTLED, and what the server says later changes it no more. ``claimed`` is False if nobody has a handle to hear a failure from.
    """

    __slots__ = (
        "claimed",
        "done",
        "first",
        "options",
        "outcome",
        "packet_id",
        "payload",
        "properties",
        "qos",
        "sent",
        "sequence",
        "state",
        "topic_field",
        "waiters",
    )

    def __init__(
        self, topic_field: bytes, payload: bytes, qos: int, first: int, properties: bytes = b"\0", options: Options | None = None
    ) -> None:
        self.topic_field = topic_field
        self.payload = payload
        self.qos = qos
        self.first = first
        self.properties = properties
        self.options = options
        self.sequence = 0
        self.packet_id = 0
        self.state = 0
        self.sent = False
        self.claimed = True
        self.done = False
        self.outcome: Any = None
        self.waiters: list[Any] | None = None

    @property
    def topic(self) -> str:
        """The Topic Name."""
        return self.topic_field[2:].decode()

    @property
    def expiry_s(self) -> int | None:
        """The Message Expiry Interval in seconds as it was published, or None."""
        return self.packet().properties.MessageExpiryInterval

    @property
    def size(self) -> int:
        """The size in bytes of the whole PUBLISH with its full topic and without a Topic Alias."""
        length = len(self.topic_field) + len(self.properties) + len(self.payload)
        if self.qos:
            length += 2
        return length + (2 if length < 128 else 3 if length < 16_384 else 4 if length < 2_097_152 else 5)

    @property
    def ack(self) -> MQTTPubAckPacket | MQTTPubRecPacket | MQTTPubCompPacket | None:
        """The final acknowledgement with all its properties, or None: not yet, or QoS 0, or an error without one."""
        outcome = self.outcome
        if not self.done or outcome is None:
            return None
        if type(outcome) is int:
            self.outcome = outcome = MQTTPubAckPacket(self.packet_id) if outcome == 4 else MQTTPubCompPacket(self.packet_id)
        if isinstance(outcome, Exception):
            return getattr(outcome, "ack", None)
        return outcome  # type: ignore[no-any-return]

    def packet(self) -> MQTTPublishPacket:
        """Return the publication as a PUBLISH record (as it was published, without Topic Alias)."""
        properties, _ = MQTTPublishProps.decode(self.properties, 0, len(self.properties))
        return MQTTPublishPacket(self.topic, self.payload, self.qos, bool(self.first & 1), False, self.packet_id, properties)


class Message(MQTTPublishPacket):
    """A message from the server, as a callback gets it: a PUBLISH with all its properties, and `ack` for manual acknowledgement.

    ``topic`` (str), ``payload`` (bytes), ``qos`` (0, 1, 2), ``retain`` and ``dup`` (bool), ``packet_id`` (0 with QoS 0) and ``properties``
    (`MQTTPublishProps`) are as the server sent them; a Topic Alias is resolved.
    ``link`` is the network connection that brought it (QoS > 0 only), ``answer`` the reason code of its acknowledgement once it is known.
    """

    __slots__ = ("answer", "answer_properties", "link")

    link: Link | None
    answer: int | None
    answer_properties: MQTTPubAckProps | None

    def ack(self, reason_code: int = 0, properties: MQTTPubAckProps | None = None) -> None:
        """Acknowledge the message (sections 3.4 and 3.5): from any thread, in any order, any number of times (the first one counts).

        The acknowledgements leave in the order in which the messages arrived [MQTT-4.6.0-2] [MQTT-4.6.0-3]. Does nothing for QoS 0, and
        sends nothing if the network connection that brought the message is gone.

        :param reason_code: 0 for Success, or one of 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99: the server is told that the message
            was not accepted.
        :param properties: Reason String and User Properties; left out if they would exceed the server's Maximum Packet Size.
        :raises ArgumentError: a reason code that a client can't send in a PUBACK or PUBREC.
        """
        if self.qos and self.link is not None and self.link.acknowledge is not None:
            self.link.acknowledge(self, reason_code, properties)


class Subscription:
    """One Topic Filter that the user wants, with its options, its callback and what the server granted.

    ``group`` is the same for the filters of one call: their callback runs once for a message that several of them match.
    """

    __slots__ = ("callback", "granted", "group", "identifier", "options", "user_properties")

    def __init__(
        self,
        options: MQTTSubscription,
        callback: Callable[..., object] | None,
        group: int = 0,
        user_properties: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.options = options
        self.callback = callback
        self.group = group
        self.identifier = 0
        self.user_properties = user_properties
        self.granted: int | None = None


class Request:
    """A SUBSCRIBE or UNSUBSCRIBE, kept until it is answered: a request that its Link did not live to see answered is sent again."""

    __slots__ = ("done", "ends", "identifier", "items", "outcome", "packet_id", "properties", "settled", "subscriptions", "waiters")

    def __init__(
        self,
        items: Sequence[MQTTSubscription] | Sequence[str],
        properties: MQTTSubscribeProps | MQTTUnsubscribeProps,
        subscriptions: Sequence[Subscription] = (),
    ) -> None:
        self.items = tuple(items)
        self.properties = properties
        self.subscriptions = tuple(subscriptions)
        # Of a SUBSCRIBE: the Subscription Identifier, 0 for none.
        self.identifier = 0
        # Of an UNSUBSCRIBE: the subscriptions that it was meant for.
        self.ends: tuple[Subscription, ...] = ()
        self.packet_id = 0
        self.settled = False
        self.done = False
        self.outcome: MQTTSubAckPacket | MQTTUnsubAckPacket | MQTTError | None = None
        self.waiters: list[Any] | None = None


# ---- what the user is to hear, besides messages and outcomes --------------------------------------------------------------------------------


class Connected(NamedTuple):
    """The server accepted the connection."""

    connack: MQTTConnAckPacket


class Disconnected(NamedTuple):
    """An established connection ended, or an attempt failed. ``retry_in_s`` is None if nothing more will be tried."""

    error: MQTTError | None
    packet: MQTTDisconnectPacket | MQTTConnAckPacket | None
    was_connected: bool
    retry_in_s: float | None


class Reauthenticated(NamedTuple):
    """A re-authentication was completed by the server (section 4.12.1)."""

    packet: MQTTAuthPacket


class AuthStep(NamedTuple):
    """The authenticator is wanted: ``finish`` False → `respond`, True → `finish`, with the server's Authentication Data."""

    link: Link
    finish: bool
    data: bytes | None
    packet: MQTTAuthPacket | MQTTConnAckPacket


class Undelivered(NamedTuple):
    """A publication that nobody holds a handle of ended otherwise than acknowledged."""

    message: Outgoing
    error: MQTTError


class Report(NamedTuple):
    """Something that the user should be able to see in the log."""

    level: int  # as in the logging module
    text: str
