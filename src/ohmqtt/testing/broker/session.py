"""What the broker keeps of a client between its connections (section 4.1): subscriptions, unfinished exchanges, what waits, the Will.

Invariant: `in_flight` has its entries in the order in which their packets, PUBLISH or PUBREL, were first sent.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING

from ...mqtt_spec import PACKET_ID_MAX

if TYPE_CHECKING:
    from ...packet import MQTTWill
    from .connection import Connection
    from .records import Delivery, Subscription
    from .settings import BrokerSettings

__all__ = ["Session"]


class Session:
    """The session of one client. ``ends_at`` counts only while there is no connection; ``inf`` is never."""

    __slots__ = (
        "client_id",
        "connection",
        "dropped",
        "ends_at",
        "expiry_s",
        "in_flight",
        "packet_id",
        "queue",
        "received",
        "settings",
        "subscriptions",
        "will",
        "will_at",
    )

    def __init__(self, client_id: str, settings: BrokerSettings) -> None:
        self.client_id = client_id
        self.settings = settings
        self.connection: Connection | None = None
        self.subscriptions: dict[str, Subscription] = {}
        self.queue: deque[Delivery] = deque()
        # What was sent and not finished: a PUBLISH with its delivery, a PUBREL as None.
        self.in_flight: dict[int, Delivery | None] = {}
        self.received: set[int] = set()  # QoS 2 identifiers between PUBREC and PUBREL
        self.packet_id = 0
        self.dropped = 0
        self.expiry_s = 0
        self.ends_at = inf
        self.will: MQTTWill | None = None
        self.will_at = inf

    def __repr__(self) -> str:
        return f"Session({self.client_id!r}, connected={self.connection is not None}, queue={len(self.queue)})"

    def deliver(self, delivery: Delivery, now: float) -> None:
        """Send a message now, or keep it until it can be sent."""
        connection = self.connection
        settings = self.settings
        # What has waited for the client goes ahead of the same topic's next message [MQTT-4.6.0-5].
        if not delivery.qos and connection is not None and not (settings.queue_qos0 and self.queue):
            if len(connection.output) <= settings.output_bytes_max:
                connection.publish(delivery, 0, dup=False)
            else:
                self.dropped += 1
        elif (not delivery.qos and not settings.queue_qos0) or len(self.queue) >= settings.queue_messages_max:
            self.dropped += 1
        else:
            self.queue.append(delivery)
            self.pump(now)

    def pump(self, now: float) -> None:
        """Send what waits, as far as the client's Receive Maximum allows [MQTT-3.3.4-9], what was sent before first [MQTT-4.4.0-1]."""
        connection = self.connection
        if connection is None:
            return
        outbound = connection.outbound
        while connection.resend and len(outbound) < connection.receive_maximum:
            packet_id = connection.resend.popleft()
            delivery = self.in_flight.get(packet_id)
            if delivery is None:
                # Acknowledged before it was sent again.
                continue
            if connection.publish(delivery, packet_id, dup=True):
                outbound.add(packet_id)
            else:
                del self.in_flight[packet_id]
        queue = self.queue
        while queue and len(outbound) < connection.receive_maximum and len(self.in_flight) < PACKET_ID_MAX:
            delivery = queue.popleft()
            if delivery.message.expired(now):  # [MQTT-3.3.2-5]
                continue
            if not delivery.qos:
                connection.publish(delivery, 0, dup=False)
                continue
            packet_id = self._next_packet_id()
            # What is too large counts as sent and done [MQTT-3.1.2-25].
            if connection.publish(delivery, packet_id, dup=False):
                self.in_flight[packet_id] = delivery
                outbound.add(packet_id)

    def to_pass_on(self) -> list[Delivery]:
        """Return what others should have of the Shared Subscriptions if the session ends: what wasn't sent, and QoS 1 messages that were."""
        sent = [delivery for delivery in self.in_flight.values() if delivery is not None and delivery.qos == 1]
        return [delivery for delivery in (*sent, *self.queue) if delivery.shared_by]

    def _next_packet_id(self) -> int:
        packet_id = self.packet_id
        while True:
            packet_id = packet_id % PACKET_ID_MAX + 1
            if packet_id not in self.in_flight:  # [MQTT-2.2.1-4]
                self.packet_id = packet_id
                return packet_id
