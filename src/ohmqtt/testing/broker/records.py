"""What the broker passes around. ``Message`` and ``Delivery`` never change once made, so that copies of a broker may share them."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from ...packet import MQTTPublishPacket
from ...topic import is_shared

if TYPE_CHECKING:
    from typing_extensions import Self

    from ...property import MQTTPublishProps
    from .session import Session

__all__ = ["Delivery", "Message", "Subscription"]


class _Fixed:
    __slots__ = ()

    def __deepcopy__(self, memo: object) -> Self:
        return self


class Message(_Fixed):
    """An application message as the broker took it.

    ``publisher`` is the Client Identifier that it came from, empty if it is the broker's own; ``taken_at`` and ``expires_at`` are times,
    None for never; ``properties`` are without Topic Alias.
    """

    __slots__ = ("expires_at", "payload", "properties", "publisher", "qos", "retain", "taken_at", "topic")

    def __init__(
        self, topic: str, payload: bytes, qos: int, retain: bool, properties: MQTTPublishProps, publisher: str, now: float
    ) -> None:
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.retain = retain
        self.properties = properties
        self.publisher = publisher
        interval_s = properties.MessageExpiryInterval
        self.taken_at = now
        self.expires_at = None if interval_s is None else now + interval_s

    def __repr__(self) -> str:
        return f"Message({self.topic!r}, {self.payload!r:.60}, qos={self.qos}, retain={self.retain})"

    def expired(self, now: float) -> bool:
        """Return whether its Message Expiry Interval has run out; even one of 0 lets it reach who takes it at once."""
        return self.expires_at is not None and self.expires_at <= now > self.taken_at


class Delivery(_Fixed):
    """A message on its way to one client: at which QoS, with which RETAIN flag and which Subscription Identifiers.

    ``shared_by`` is the filter of the Shared Subscription that it is due to, empty if it is another one's.
    """

    __slots__ = ("identifiers", "message", "qos", "retain", "shared_by")

    def __init__(self, message: Message, qos: int, retain: bool, identifiers: tuple[int, ...], shared_by: str = "") -> None:
        self.message = message
        self.qos = qos
        self.retain = retain
        self.identifiers = identifiers
        self.shared_by = shared_by

    def __repr__(self) -> str:
        return f"Delivery({self.message!r}, qos={self.qos}, retain={self.retain}, identifiers={self.identifiers})"

    def packet(self, packet_id: int, dup: bool, now: float) -> MQTTPublishPacket:
        """Return the PUBLISH for it as it is due now."""
        message = self.message
        properties = message.properties
        if message.expires_at is not None:
            # [MQTT-3.3.2-6] Less the time that it waited; nothing is left of one that was sent before, and ran out since [MQTT-4.3.3-7].
            interval_s: int = properties.MessageExpiryInterval or 0
            remaining_s = min(max(0, ceil(message.expires_at - now)), interval_s)
            if remaining_s != interval_s:
                properties = properties.replace(MessageExpiryInterval=remaining_s)
        if self.identifiers:
            properties = properties.replace(SubscriptionIdentifier=self.identifiers)
        return MQTTPublishPacket(message.topic, message.payload, self.qos, self.retain, dup, packet_id, properties)


class Subscription:
    """What one session gets by one Topic Filter. ``qos`` is the granted one, ``identifier`` the Subscription Identifier or 0."""

    __slots__ = ("identifier", "no_local", "qos", "retain_as_published", "session", "topic_filter")

    def __init__(self, session: Session, topic_filter: str, qos: int, no_local: bool, retain_as_published: bool, identifier: int) -> None:
        self.session = session
        self.topic_filter = topic_filter
        self.qos = qos
        self.no_local = no_local
        self.retain_as_published = retain_as_published
        self.identifier = identifier

    def __repr__(self) -> str:
        return f"Subscription({self.session.client_id!r}, {self.topic_filter!r}, qos={self.qos}, identifier={self.identifier})"

    def deliver(self, message: Message) -> Delivery:
        """Return the delivery of a message by this subscription alone."""
        return Delivery(
            message,
            min(message.qos, self.qos),  # [MQTT-3.8.4-8]
            message.retain and self.retain_as_published,  # [MQTT-3.3.1-12] [MQTT-3.3.1-13]
            (self.identifier,) if self.identifier else (),
            self.topic_filter if is_shared(self.topic_filter) else "",
        )
