"""Messages from the server: the received set of QoS 2, acknowledgements in order of arrival, and what waits for the user's callbacks.

Its invariants: a message is handed over once even if its link dies before the acknowledgement; PUBACKs and PUBRECs each leave in the
order in which their PUBLISHes came; and an acknowledgement only ever leaves on the link that brought its PUBLISH.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ..errors import ArgumentError, ProtocolError
from ..journal import FORGET, RECEIVE
from ..mqtt_spec import CLIENT_REASON_CODES, PacketType
from ..packet import MQTTPubAckPacket, MQTTPubCompPacket, MQTTPubRecPacket
from ..property import MQTTPubAckProps, MQTTPubRecProps
from ..records import Report
from ..serialization import encode_uint16

if TYPE_CHECKING:
    from ..link import Link
    from ..records import Message
    from .baskets import Baskets
    from .settings import SessionSettings
    from .subscriptions import Subscriptions

__all__ = ["UNMATCHED_MAX", "Inbound", "check_answer"]

UNMATCHED_MAX = 2_000
"""How many messages are held for a `subscribe` to come."""

_WARNING = 30


class Inbound:
    """What the server sent and the session remembers of it."""

    def __init__(self, baskets: Baskets, settings: SessionSettings) -> None:
        self.baskets = baskets
        self.settings = settings
        # QoS 1: delivered or about to be, and not acknowledged. QoS 2: None once the PUBREC went out (or a former process received it).
        self.deliveries: dict[int, Message] = {}
        self.received: dict[int, Message | None] = {}
        # Identifiers of which a repeat may still wait for its PUBREC.
        self.repeated: set[int] = set()
        # Messages that matched no callback, and when they are given up; the bound is our Receive Maximum for each link, or the one here.
        self.unmatched: deque[tuple[float, Message]] = deque()
        self.unmatched_count = 0

    # ---- arrival -----------------------------------------------------------------------------------------------------------------------

    def receive_qos1(self, message: Message, link: Link) -> None:
        """Receive a QoS 1 PUBLISH (section 4.3.2)."""
        packet_id = message.packet_id
        previous = self.deliveries.get(packet_id)
        link.inbound_open += 1
        if link.inbound_open > link.receive_maximum:
            self._exceeded(link)
        if previous is not None:
            if previous.link is link:
                raise ProtocolError(f"PUBLISH with packet identifier {packet_id}, which has no PUBACK yet on this connection")
            if message.dup and message.topic == previous.topic and message.payload == previous.payload:
                # The same message again: it joins the delivery that is under way, and is answered on this link.
                previous.link = link
                link.pubacks.append(previous)
                if previous.answer is not None:
                    self._flush_pubacks(link)
                return
        message.link = link
        message.answer = None
        self.deliveries[packet_id] = message
        link.pubacks.append(message)
        self.baskets.events.append(message)

    def receive_qos2(self, message: Message, link: Link) -> None:
        """Receive a QoS 2 PUBLISH (section 4.3.3)."""
        packet_id = message.packet_id
        if packet_id not in link.qos2_open:
            link.qos2_open.add(packet_id)
            link.inbound_open += 1
            if link.inbound_open > link.receive_maximum:
                self._exceeded(link)
        if packet_id in self.received:  # [MQTT-4.3.3-10]: answered again, not delivered again, whatever DUP says
            previous = self.received[packet_id]
            self.repeated.add(packet_id)
            if previous is None:
                message.answer = 0
                message.answer_properties = None
                previous = message
            previous.link = link
            link.pubrecs.append(previous)
            if previous.answer is not None:
                self._flush_pubrecs(link)
            return
        message.link = link
        message.answer = None
        self.received[packet_id] = message
        link.pubrecs.append(message)
        self.baskets.events.append(message)

    @staticmethod
    def _exceeded(link: Link) -> None:
        raise ProtocolError(
            f"more than our Receive Maximum of {link.receive_maximum} unacknowledged PUBLISH packets", 0x93
        )  # [MQTT-3.3.4-9]

    def pubrel(self, packet_id: int, link: Link) -> None:
        """Receive a PUBREL: the identifier is free, on disk first, then for the server [MQTT-4.3.3-11] [MQTT-4.3.3-12]."""
        if packet_id in self.received:
            if self.received[packet_id] is not None:
                raise ProtocolError(f"PUBREL for packet identifier {packet_id}, whose PUBLISH has no PUBREC yet")
            del self.received[packet_id]
            if packet_id in self.repeated:
                self._forget_repeats(packet_id, link)
            self.baskets.record(FORGET, packet_id)
            self.baskets.writes.append(b"\x70\x02" + encode_uint16(packet_id))
        else:
            self.baskets.writes.append(MQTTPubCompPacket(packet_id, 0x92).encode())
        if packet_id in link.qos2_open:
            link.qos2_open.discard(packet_id)
            link.inbound_open -= 1

    def _forget_repeats(self, packet_id: int, link: Link) -> None:
        """The exchange is over, and the identifier means a new message: repeats of the old one need no PUBREC any more."""
        self.repeated.discard(packet_id)
        rest = [message for message in link.pubrecs if message.packet_id != packet_id]
        link.pubrecs.clear()
        link.pubrecs.extend(rest)

    # ---- acknowledgement -----------------------------------------------------------------------------------------------------------------

    def answer(self, message: Message, reason_code: int, properties: MQTTPubAckProps | None, link: Link | None) -> None:
        """The user has taken `message` (or refuses it): acknowledge it when its turn comes. The first answer counts."""
        if message.answer is not None:
            return
        message.answer = reason_code
        message.answer_properties = properties
        if message.qos == 1:
            if message.link is link and link is not None:
                self._flush_pubacks(link)
            return
        if self.received.get(message.packet_id) is message:
            if reason_code < 0x80:
                # On disk before its PUBREC [MQTT-4.3.3-8]; the callback has run by now, so a crash before this commit repeats it.
                self.baskets.record(RECEIVE, message.packet_id)
            if message.link is link and link is not None:
                self._flush_pubrecs(link)

    def _flush_pubacks(self, link: Link) -> None:
        """Write the PUBACKs that nothing older holds back [MQTT-4.6.0-2]."""
        pubacks: deque[Message] = link.pubacks
        writes = self.baskets.writes
        deliveries = self.deliveries
        while pubacks:
            message = pubacks[0]
            reason_code = message.answer
            if reason_code is None:
                return
            pubacks.popleft()
            link.inbound_open -= 1
            packet_id = message.packet_id
            deliveries.pop(packet_id, None)
            if reason_code or message.answer_properties:
                writes.append(_fit_ack(MQTTPubAckPacket, packet_id, reason_code, message.answer_properties or MQTTPubAckProps.EMPTY, link))
            else:
                writes.append(b"\x40\x02" + encode_uint16(packet_id))  # [MQTT-4.3.2-4]

    def _flush_pubrecs(self, link: Link) -> None:
        """Write the PUBRECs that nothing older holds back [MQTT-4.6.0-3]."""
        pubrecs: deque[Message] = link.pubrecs
        writes = self.baskets.writes
        while pubrecs:
            message = pubrecs[0]
            reason_code = message.answer
            if reason_code is None:
                return
            pubrecs.popleft()
            packet_id = message.packet_id
            if reason_code >= 0x80:  # [MQTT-4.3.3-9]: the exchange is over, the identifier means a new message
                self.received.pop(packet_id, None)
                if packet_id in self.repeated:
                    self._forget_repeats(packet_id, link)
                link.qos2_open.discard(packet_id)
                link.inbound_open -= 1
            else:
                self.received[packet_id] = None
            if reason_code or message.answer_properties:
                properties = message.answer_properties
                writes.append(
                    _fit_ack(
                        MQTTPubRecPacket,
                        packet_id,
                        reason_code,
                        MQTTPubRecProps(ReasonString=properties.ReasonString, UserProperty=properties.UserProperty)
                        if properties
                        else MQTTPubRecProps.EMPTY,
                        link,
                    )
                )
            else:
                writes.append(b"\x50\x02" + encode_uint16(packet_id))

    # ---- messages without a callback -----------------------------------------------------------------------------------------------------

    def hold(self, message: Message, now: float, link: Link | None) -> None:
        """Hold a message that matches no callback, for a `subscribe` to come."""
        if message.answer is not None:
            return
        self.unmatched.append((now + self.settings.unmatched_s, message))
        if len(self.unmatched) > UNMATCHED_MAX:
            self._give_up(link)

    def match_held(self, subscriptions: Subscriptions) -> None:
        """Hand over the held messages that match a callback by now."""
        held = self.unmatched
        if not held:
            return
        self.unmatched = deque()
        for entry in held:
            message = entry[1]
            if message.answer is not None:
                continue
            if subscriptions.tree.match(message.topic):
                self.baskets.events.append(message)
            else:
                self.unmatched.append(entry)

    def deadline(self) -> float | None:
        """Return when the first held message is given up."""
        return self.unmatched[0][0] if self.unmatched else None

    def tick(self, now: float, link: Link | None) -> None:
        """Give up the messages that were held for long enough."""
        while self.unmatched and self.unmatched[0][0] <= now:
            self._give_up(link)

    def _give_up(self, link: Link | None) -> None:
        """Acknowledge a message that nobody came for [MQTT-4.5.0-2], count it, and say so."""
        _, message = self.unmatched.popleft()
        if message.answer is not None:
            return
        self.unmatched_count += 1
        self.answer(message, 0, None, link)
        text = f"a QoS {message.qos} message to {message.topic!r} matched no callback; it was acknowledged and dropped ({self.unmatched_count} so far)"
        self.baskets.events.append(Report(_WARNING, text))

    # ---- sessions ------------------------------------------------------------------------------------------------------------------------

    def session_lost(self) -> None:
        """The server has no session: identifiers are forgotten; what is queued for callbacks is still delivered, without acknowledgement."""
        for packet_id in self.received:
            self.baskets.record(FORGET, packet_id)
        self.received.clear()
        self.repeated.clear()
        self.deliveries.clear()


def check_answer(reason_code: object, properties: object) -> None:
    """Raise `ArgumentError` if a client can't send this in a PUBACK or PUBREC [MQTT-3.4.2-1] [MQTT-3.5.2-1]."""
    if not isinstance(reason_code, int) or reason_code not in CLIENT_REASON_CODES[PacketType.PUBACK]:
        raise ArgumentError(
            f"reason_code is {reason_code!r}, and a client's PUBACK or PUBREC can't carry it (sections 3.4.2.1 and 3.5.2.1)"
        )
    if properties is not None and not isinstance(properties, MQTTPubAckProps):
        raise ArgumentError(f"properties is {properties!r:.100}, expected MQTTPubAckProps")


def _fit_ack(
    kind: type[MQTTPubAckPacket | MQTTPubRecPacket],
    packet_id: int,
    reason_code: int,
    properties: MQTTPubAckProps | MQTTPubRecProps,
    link: Link,
) -> bytes:
    """Encode an acknowledgement; what would make it larger than the server accepts is left out [MQTT-3.4.2-2] [MQTT-3.4.2-3]."""
    for attempt in (properties, properties.replace(UserProperty=())):
        data = kind(packet_id, reason_code, attempt).encode()  # type: ignore[arg-type]
        if len(data) <= link.packet_size_max:
            return data
    return kind(packet_id, reason_code).encode()
