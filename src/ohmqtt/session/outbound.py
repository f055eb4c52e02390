"""Publications on their way out: packet identifiers, quota, the queue, the flows of QoS 1 and 2, resumption and session loss.

Owns every `Outgoing` from its acceptance until its outcome is known. Its invariants: a packet identifier belongs to one exchange at a
time and is free again only after the final acknowledgement; publications leave in the order in which they were accepted; each is settled
exactly once; and the journal, replayed, always gives the state in memory.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from ..errors import (
    CancelledError,
    ClientClosedError,
    LinkLostError,
    MessageDroppedError,
    MessageExpiredError,
    MQTTError,
    PoisonMessageError,
    ProtocolError,
    PublishError,
    QueueFullError,
    ServerLimitError,
    SessionLostError,
    TopicAliasError,
)
from ..journal import DELETE, INSERT, RELEASE, REQUEUE, SEND, StoredMessage
from ..mqtt_spec import PACKET_ID_MAX, reason_name
from ..packet import MQTTPubAckPacket, MQTTPubCompPacket, MQTTPubRecPacket, MQTTPubRelPacket
from ..records import Forgotten, Outgoing, SessionLostPolicy, State, Undelivered
from ..serialization import encode_uint16
from ..topic_alias import AliasPolicy
from .settings import QueuePolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ..link import Link
    from ..records import Request
    from .baskets import Baskets, Turn
    from .settings import SessionSettings

__all__ = ["Outbound"]

QUEUED, STORED, ASSIGNED, RELEASED, WRITTEN, SETTLED = range(6)
assert (State.QUEUED, State.STORED, State.ASSIGNED, State.RELEASED, State.WRITTEN, State.SETTLED) == tuple(range(6))

OUTBOX_BYTES_MAX = 262_144
"""QoS 0 publications stay in the queue, where a policy can reach them, once this much is on its way to the socket."""

FRUITLESS_LINKS_MAX = 3
"""After so many links in a row without an acknowledgement, publications are re-sent one at a time, and one that ends so many is poison."""


class Outbound:
    """All publications that were accepted and are not settled."""

    def __init__(self, baskets: Baskets, settings: SessionSettings) -> None:
        self.baskets = baskets
        self.settings = settings
        self.durable = baskets.durable
        self.next_sequence = 1
        self.last_packet_id = 0
        self.messages = 0
        self.bytes = 0
        # Exchanges by packet identifier; requests (SUBSCRIBE, UNSUBSCRIBE) share the identifiers.
        self.in_flight: dict[int, Outgoing] = {}
        self.released: dict[int, Outgoing] = {}
        self.requests: dict[int, Request] = {}
        self.release_order = 1
        self.resent_releases: set[int] = set()
        self.resend: deque[Outgoing] = deque()
        self.queue: deque[Outgoing] = deque()
        # Rows that are on disk only: how many, and the sequence number after which they begin.
        self.stored_rows = 0
        self.stored_after = 0
        self.stored_handles: WeakValueDictionary[int, Outgoing] = WeakValueDictionary()
        self.stored_deleted: set[int] = set()
        self.behind_stored: deque[Outgoing] = deque()
        self.expiring: list[tuple[float, int, Outgoing]] = []
        self.expiring_counter = 0
        # Poison: links in a row that were lost without one new acknowledgement, and what ended them while alone.
        self.fruitless_links = 0
        self.strikes: dict[int, int] = {}

    # ---- accepting -------------------------------------------------------------------------------------------------------------------

    def publish(self, message: Outgoing, link: Link | None) -> None:
        """Accept a publication, or raise. `link` is the connected Link, if there is one.

        :raises ServerLimitError: the server can't take it.
        :raises TopicAliasError: `AliasPolicy.ALWAYS` and no alias is to be had.
        :raises QueueFullError: no room, and the policy doesn't make any.
        """
        qos = message.qos
        options = message.options
        if link is not None:
            if link.limited:
                link.check(message)
            if options is not None and options.alias_policy is AliasPolicy.ALWAYS:
                link.aliases_out.reserve(message.topic)
        elif options is not None and options.alias_policy is AliasPolicy.ALWAYS:
            raise TopicAliasError("AliasPolicy.ALWAYS needs a connection: the server's Topic Alias Maximum isn't known before CONNACK")
        weight = len(message.payload) + len(message.topic_field) + len(message.properties)
        settings = self.settings
        if (self.messages >= settings.queue_messages_max or self.bytes + weight > settings.queue_bytes_max) and not self._make_room(message, weight):
            return
        self.messages += 1
        self.bytes += weight
        if link is not None and not self.queue and not self.stored_rows and not self.resend:
            if not qos:
                if link.outbox_bytes < OUTBOX_BYTES_MAX:
                    link.outbox_bytes += weight
                    message.state = WRITTEN
                    self.baskets.writes.append(message)
                    return
            elif link.send_quota > 0 and self.fruitless_links < FRUITLESS_LINKS_MAX:
                packet_id = self.allocate()
                if packet_id:
                    link.send_quota -= 1
                    message.sequence = self.next_sequence
                    self.next_sequence += 1
                    message.packet_id = packet_id
                    message.state = ASSIGNED
                    self.in_flight[packet_id] = message
                    if self.durable:
                        self._insert(message)
                    self.baskets.writes.append(message)
                    return
        self._enqueue(message, link)

    def allocate(self) -> int:
        """Return a packet identifier that no exchange of ours uses, or 0 if there is none [MQTT-2.2.1-3]."""
        packet_id = self.last_packet_id
        in_flight, released, requests = self.in_flight, self.released, self.requests
        for _ in range(PACKET_ID_MAX):
            packet_id = packet_id + 1 if packet_id < PACKET_ID_MAX else 1
            if packet_id not in in_flight and packet_id not in released and packet_id not in requests:
                self.last_packet_id = packet_id
                return packet_id
            if len(in_flight) + len(released) + len(requests) >= PACKET_ID_MAX:
                break
        return 0

    def _enqueue(self, message: Outgoing, link: Link | None) -> None:
        """Put an accepted publication behind all others."""
        if not message.qos and link is None and not self.settings.queue_qos0:
            self.settle(message, MessageDroppedError("not connected, and QoS 0 isn't queued (queue_qos0=False)"))
            return
        message.sequence = self.next_sequence
        self.next_sequence += 1
        self._watch_expiry(message)
        if self.durable and message.qos:
            self._insert(message)
            if self.stored_rows or len(self.queue) >= self.settings.window_messages:
                self._leave_on_disk(message)
                return
        elif self.stored_rows:
            self.behind_stored.append(message)
            return
        if not self.stored_rows:
            self.stored_after = message.sequence
        self.queue.append(message)

    def _leave_on_disk(self, message: Outgoing) -> None:
        """Let go of a publication that is in the database: whoever holds its handle keeps it, the queue doesn't."""
        message.state = STORED
        self.stored_rows += 1
        self.stored_handles[message.sequence] = message

    def _insert(self, message: Outgoing) -> None:
        options = message.options
        self.baskets.record(
            INSERT,
            StoredMessage(
                message.sequence,
                message.packet_id,
                0,
                message.qos,
                bool(message.first & 1),
                message.topic,
                message.properties,
                message.payload,
                0 if options is None else options.alias_policy.value,
                None if options is None or options.expires_at is None else options.expiry_s,
            ),
        )
        self.baskets.accepted.append(message)

    def _watch_expiry(self, message: Outgoing) -> None:
        options = message.options
        if options is not None and options.expires_at is not None:
            self.expiring_counter += 1
            heappush(self.expiring, (options.expires_at, self.expiring_counter, message))

    def _make_room(self, message: Outgoing, weight: int) -> bool:
        """Apply the policy of a full queue. Return whether `message` may go in; raise `QueueFullError` if the caller must know or wait."""
        settings = self.settings
        if settings.queue_policy is QueuePolicy.DROP_NEWEST:
            message.state = SETTLED
            message.outcome = MessageDroppedError(f"the outbound queue is full ({self.describe()}): dropped as the newest")
            self.baskets.resolved.append(message)
            return False
        if settings.queue_policy is QueuePolicy.DROP_OLDEST and weight <= settings.queue_bytes_max:
            while self.queue and (self.messages >= settings.queue_messages_max or self.bytes + weight > settings.queue_bytes_max):
                oldest = self.queue.popleft()
                if oldest.state == QUEUED:
                    self.settle(oldest, MessageDroppedError(f"the outbound queue is full ({self.describe()}): dropped as the oldest"))
            if self.messages < settings.queue_messages_max and self.bytes + weight <= settings.queue_bytes_max:
                return True
        raise QueueFullError(f"the outbound queue is full: {self.describe()}, and this publication has {weight} bytes")

    def has_room(self, message: Outgoing) -> bool:
        """Return whether `message` is within the bounds of the queue now."""
        weight = len(message.payload) + len(message.topic_field) + len(message.properties)
        return self.messages < self.settings.queue_messages_max and self.bytes + weight <= self.settings.queue_bytes_max

    def describe(self) -> str:
        """Return how full the queue is, in words."""
        settings = self.settings
        return f"{self.messages} of {settings.queue_messages_max} messages, {self.bytes} of {settings.queue_bytes_max} bytes"

    # ---- sending ---------------------------------------------------------------------------------------------------------------------

    def pump(self, link: Link, now: float) -> None:
        """Write what may be written now: first what must be re-sent, then the queue, within the server's Receive Maximum."""
        writes = self.baskets.writes
        while self.resend:
            message = self.resend[0]
            if message.state == ASSIGNED:
                if link.send_quota <= 0 or self._one_at_a_time():  # [MQTT-4.9.0-2]
                    return
                if self._takes(link, message):
                    link.send_quota -= 1
                    writes.append(message)
            self.resend.popleft()
        queue = self.queue
        while queue:
            message = queue[0]
            if message.state != QUEUED or self._expired(message, now):
                queue.popleft()
                continue
            if message.qos:
                if link.send_quota <= 0 or self._one_at_a_time():
                    return
                packet_id = self.allocate()
                if not packet_id:
                    return
                queue.popleft()
                if self._takes(link, message):
                    link.send_quota -= 1
                    message.packet_id = packet_id
                    message.state = ASSIGNED
                    self.in_flight[packet_id] = message
                    if self.durable:
                        self.baskets.record(SEND, message.sequence, packet_id)
                    writes.append(message)
            else:
                if link.outbox_bytes >= OUTBOX_BYTES_MAX:
                    return
                queue.popleft()
                if self._takes(link, message):
                    link.outbox_bytes += len(message.payload) + len(message.topic_field) + len(message.properties)
                    message.state = WRITTEN
                    writes.append(message)

    def _one_at_a_time(self) -> bool:
        """Return whether links keep dying without an acknowledgement and something is on its way already."""
        return self.fruitless_links >= FRUITLESS_LINKS_MAX and len(self.in_flight) + len(self.released) > len(self.resend)

    def _takes(self, link: Link, message: Outgoing) -> bool:
        """Return whether this server can take `message`; if it can't, settle it with the reason."""
        try:
            if link.limited:
                link.check(message)
            if message.options is not None and message.options.alias_policy is AliasPolicy.ALWAYS:
                link.aliases_out.reserve(message.topic)
        except (ServerLimitError, MQTTError) as error:
            self.in_flight.pop(message.packet_id, None)
            self.settle(message, error)
            return False
        return True

    def flushed(self, messages: list[Outgoing]) -> None:
        """Settle QoS 0 publications whose bytes were handed to the socket."""
        for message in messages:
            self.bytes -= len(message.payload) + len(message.topic_field) + len(message.properties)
            message.state = SETTLED
        self.messages -= len(messages)

    # ---- acknowledgements --------------------------------------------------------------------------------------------------------------

    def puback(self, packet_id: int, link: Link, packet: MQTTPubAckPacket | None = None) -> None:
        """Receive a PUBACK; `packet` is None for Success without properties. One for an unknown identifier is a late one: absorbed."""
        message = self.in_flight.get(packet_id)
        if message is None or message.qos != 1:
            if message is not None or packet_id in self.released:
                raise ProtocolError(f"PUBACK for packet identifier {packet_id}, which is in use by a QoS 2 exchange")
            return
        del self.in_flight[packet_id]
        self._complete(message, link, packet, 4)

    def pubrec(self, packet_id: int, link: Link, packet: MQTTPubRecPacket | None = None) -> None:
        """Receive a PUBREC (section 4.3.3)."""
        writes = self.baskets.writes
        message = self.in_flight.get(packet_id)
        if message is None:
            if packet is not None and packet.reason_code >= 0x80:
                return
            # A repeated PUBREC gets its PUBREL again; one that we know nothing of is told so.
            writes.append(b"\x62\x02" + encode_uint16(packet_id) if packet_id in self.released else MQTTPubRelPacket(packet_id, 0x92).encode())
            return
        if message.qos != 2:
            raise ProtocolError(f"PUBREC for packet identifier {packet_id}, which is in use by a QoS 1 exchange")
        del self.in_flight[packet_id]
        if packet is not None and packet.reason_code >= 0x80:  # [MQTT-4.4.0-2]: it ends the exchange
            self._complete(message, link, packet, 5)
            return
        link.acked = True
        self.fruitless_links = 0
        message.state = RELEASED
        self.released[packet_id] = message
        self.baskets.record(RELEASE, message.sequence, self.release_order)
        self.release_order += 1
        writes.append(b"\x62\x02" + encode_uint16(packet_id))  # [MQTT-4.3.3-4] [MQTT-4.6.0-4]

    def pubcomp(self, packet_id: int, link: Link, packet: MQTTPubCompPacket | None = None) -> None:
        """Receive a PUBCOMP (section 4.3.3)."""
        message = self.released.pop(packet_id, None)
        if message is None:
            if packet_id in self.in_flight:
                raise ProtocolError(f"PUBCOMP for packet identifier {packet_id}, whose PUBLISH has no PUBREC yet")
            return
        if packet is not None and packet.reason_code >= 0x80 and packet_id in self.resent_releases:
            # 0x92 to a PUBREL that was sent before: the server had finished the exchange, only its answer was lost.
            self._complete(message, link, packet, 7, success=True)
        else:
            self._complete(message, link, packet, 7)

    def _complete(
        self,
        message: Outgoing,
        link: Link,
        packet: MQTTPubAckPacket | MQTTPubRecPacket | MQTTPubCompPacket | None,
        packet_type: int,
        success: bool = False,
    ) -> None:
        """End an exchange with its final acknowledgement, and take its quota back [MQTT-4.9.0-2]."""
        if link.send_quota < link.send_quota_max:
            link.send_quota += 1
        link.acked = True
        self.fruitless_links = 0
        if packet is not None and packet.reason_code >= 0x80 and not success:
            text = packet.properties.ReasonString
            reason = reason_name(packet.reason_code) + (f": {text}" if text else "")
            self.settle(message, PublishError(f"the server rejected the publication to {message.topic!r} with {reason}", packet))
            return
        message.state = SETTLED
        message.outcome = packet_type if packet is None else packet
        self.messages -= 1
        self.bytes -= len(message.payload) + len(message.topic_field) + len(message.properties)
        if self.durable:
            self.baskets.trail(DELETE, message.sequence)
        self.baskets.resolved.append(message)

    def settle(self, message: Outgoing, error: MQTTError) -> None:
        """Settle a publication with an error; a stored one is deleted before anybody hears of it."""
        stored = message.state == STORED
        message.state = SETTLED
        message.outcome = error
        self.messages -= 1
        self.bytes -= len(message.payload) + len(message.topic_field) + len(message.properties)
        if message.qos and message.sequence:
            self.baskets.record(DELETE, message.sequence)
            if stored:
                self.stored_deleted.add(message.sequence)
        self.strikes.pop(message.sequence, None)
        self.baskets.resolved.append(message)
        if not message.claimed and type(message) is not Forgotten:
            self.baskets.events.append(Undelivered(message, error))

    def cancel(self, message: Outgoing) -> bool:
        """Cancel a publication for its caller. If it was sent, its exchange goes on without it [MQTT-2.2.1-3]. False: too late."""
        if message.state == SETTLED or message.state == WRITTEN:
            return False
        if message.state in (ASSIGNED, RELEASED):
            self._replace(message, Forgotten)
            message.state = SETTLED
            message.outcome = CancelledError("cancelled after it was sent: the server may have it all the same")
            self.baskets.resolved.append(message)
            return True
        self.settle(message, CancelledError("cancelled before it was sent"))
        return True

    def _replace(self, message: Outgoing, kind: type[Outgoing]) -> None:
        """Let a copy without a waiter take the place of `message` in its exchange."""
        other = message.detach(kind)
        (self.released if message.state == RELEASED else self.in_flight)[message.packet_id] = other
        for pending in (self.resend, self.baskets.writes):
            for i, entry in enumerate(pending):
                if entry is message:
                    pending[i] = other

    # ---- expiry ------------------------------------------------------------------------------------------------------------------------

    def expire(self, now: float) -> None:
        """Settle the queued publications whose Message Expiry Interval has run out. Those that were sent don't expire [MQTT-4.3.3-7]."""
        while self.expiring and self.expiring[0][0] <= now:
            self._expired(heappop(self.expiring)[2], now)

    def _expired(self, message: Outgoing, now: float) -> bool:
        options = message.options
        if options is None or options.expires_at is None or options.expires_at > now or message.state not in (QUEUED, STORED):
            return False
        self.settle(message, MessageExpiredError(f"the Message Expiry Interval of {options.expiry_s} s ran out before the message was sent"))
        return True

    # ---- the life of links and sessions --------------------------------------------------------------------------------------------------

    def resume(self, link: Link) -> None:
        """Send again what the resumed session has open: PUBRELs in the order of their PUBRECs, then PUBLISHes [MQTT-4.4.0-1]."""
        for packet_id in self.released:  # [MQTT-4.6.0-4]
            self.baskets.writes.append(b"\x62\x02" + encode_uint16(packet_id))
        self.resent_releases = set(self.released)
        # Each open exchange counts against the new Receive Maximum: those with a PUBREL from now on, the others when they are re-sent.
        link.send_quota -= len(self.released)
        self.resend = deque(sorted(self.in_flight.values(), key=lambda message: message.sequence))  # [MQTT-4.6.0-1]

    def link_lost(self, link: Link, closed_by_peer: bool) -> None:
        """Keep what belongs to the session; settle the QoS 0 publications that were on their way."""
        self.resend.clear()
        self.resent_releases.clear()
        for message in link.flushing:
            self._lose(message)
        for write in link.outbox:
            if type(write) is not bytes:
                self._lose(write)  # type: ignore[arg-type]
        if closed_by_peer and link.publishes_sent and not link.acked and self.in_flight:
            self.fruitless_links += 1
            if self.fruitless_links > FRUITLESS_LINKS_MAX and not self.settings.keep_poison:
                self._strike()

    def drop_writes(self, writes: list[bytes | Outgoing]) -> None:
        """Settle the QoS 0 publications among writes whose Link is gone."""
        for write in writes:
            if type(write) is not bytes:
                self._lose(write)  # type: ignore[arg-type]

    def _lose(self, message: Outgoing) -> None:
        if message.state == WRITTEN:
            self.settle(message, LinkLostError("the connection ended before the QoS 0 message was handed over"))  # [MQTT-4.3.1-1]

    def _strike(self) -> None:
        """Count the lost link against the one publication that was on its way."""
        sent = [message for message in self.in_flight.values() if message.sent]
        first = min(sent, key=lambda message: message.sequence, default=None)
        if first is None:
            return
        strikes = self.strikes[first.sequence] = self.strikes.get(first.sequence, 0) + 1
        if strikes >= FRUITLESS_LINKS_MAX:
            del self.in_flight[first.packet_id]
            self.settle(first, PoisonMessageError(f"the server closed {strikes} connections in a row upon this message alone"))
            self.fruitless_links = 0

    def session_lost(self) -> None:
        """The server has no session: apply the policy to what was sent and isn't acknowledged [MQTT-3.2.2-5]."""
        republish = self.settings.session_lost_policy is SessionLostPolicy.REPUBLISH
        again: list[Outgoing] = []
        for message in (*self.released.values(), *self.in_flight.values()):
            if not message.sent or (republish and message.state == ASSIGNED):
                again.append(message)
            else:
                self.settle(message, SessionLostError("the server lost the session while the message was unacknowledged: it may have arrived or not"))
        self.in_flight.clear()
        self.released.clear()
        again.sort(key=lambda message: message.sequence, reverse=True)
        for message in again:
            message.packet_id = 0
            message.state = QUEUED
            message.sent = False
            self.baskets.record(REQUEUE, message.sequence)
            self._watch_expiry(message)
            self.queue.appendleft(message)
        self.resend.clear()

    def close_out(self, session_survives: bool) -> None:
        """The client says goodbye: settle every handle with `ClientClosedError`, keep what the database or a surviving session needs."""
        stored = self.durable
        for message in [*self.released.values(), *self.in_flight.values()]:
            if stored or session_survives:
                self._replace(message, Outgoing if stored else Forgotten)
                self._close(message, stored)
            else:
                self.settle(message, ClientClosedError("the client was closed before the message was acknowledged"))
        if not stored and not session_survives:
            self.in_flight.clear()
            self.released.clear()
        for queue in (self.queue, self.behind_stored):
            for i, message in enumerate(queue):
                if message.state != QUEUED:
                    continue
                if stored and message.qos:
                    queue[i] = message.detach(Outgoing)
                    self._close(message, stored)
                else:
                    self.settle(message, ClientClosedError("the client was closed before the message was sent"))
        for message in list(self.stored_handles.values()):
            if message.state == STORED:
                self._close(message, stored)
        self.stored_handles.clear()

    def _close(self, message: Outgoing, stored: bool) -> None:
        message.state = SETTLED
        where = "the database keeps it for the next connection" if stored else "the server may have it"
        message.outcome = ClientClosedError(f"the client was closed before the message was acknowledged; {where}", stored)
        self.baskets.resolved.append(message)

    # ---- the database ----------------------------------------------------------------------------------------------------------------------

    def recover(self, message: Outgoing, released: int) -> None:
        """Take over a publication that a former process had in flight. It may have been sent, so it goes out with DUP."""
        self.messages += 1
        self.bytes += len(message.payload) + len(message.topic_field) + len(message.properties)
        message.sent = True
        message.claimed = False
        if released:
            message.state = RELEASED
            self.released[message.packet_id] = message
            self.release_order = max(self.release_order, released + 1)
        else:
            message.state = ASSIGNED
            self.in_flight[message.packet_id] = message

    def wanted_rows(self) -> tuple[int, int, int] | None:
        """Return which stored rows are wanted now: after which sequence number, how many at most, how many bytes at most."""
        settings = self.settings
        if not self.stored_rows or len(self.queue) > settings.window_messages // 2:
            return None
        return self.stored_after, settings.window_messages - len(self.queue), settings.window_bytes

    def loaded(self, rows: list[StoredMessage], make: Callable[[StoredMessage], Outgoing], now: float) -> None:
        """Take rows that the driver loaded, in order; QoS 0 publications that were accepted between them keep their place."""
        for row in rows:
            self.stored_after = row.sequence
            self.stored_rows -= 1
            if row.sequence in self.stored_deleted:
                self.stored_deleted.discard(row.sequence)
                continue
            while self.behind_stored and self.behind_stored[0].sequence < row.sequence:
                self.queue.append(self.behind_stored.popleft())
            message = self.stored_handles.pop(row.sequence, None)
            if message is None:
                message = make(row)
                message.claimed = False
            message.state = QUEUED
            self.queue.append(message)
            if not self._expired(message, now):
                self._watch_expiry(message)
        if not self.stored_rows:
            self.queue.extend(self.behind_stored)
            self.behind_stored.clear()
            self.stored_deleted.clear()

    def withdraw(self, turn: Turn | Baskets, error: MQTTError, link: Link | None) -> list[Outgoing]:
        """The disk refused `turn`: take its new publications back, identifier and quota included; what came from the peer is kept."""
        withdrawn = set()
        found = []
        for message in turn.accepted:
            withdrawn.add(message.sequence)
            if message.state == SETTLED:
                continue
            found.append(message)
            if message.state == ASSIGNED:
                del self.in_flight[message.packet_id]
                if link is not None:
                    link.send_quota = min(link.send_quota + 1, link.send_quota_max)
            elif message.state == STORED:
                self.stored_rows -= 1
                self.stored_handles.pop(message.sequence, None)
            message.state = SETTLED
            message.outcome = error
            self.messages -= 1
            self.bytes -= len(message.payload) + len(message.topic_field) + len(message.properties)
        for entries in (turn.journal, self.baskets.journal):
            entries[:] = [entry for entry in entries if not (entry[0] in (SEND, RELEASE, DELETE, REQUEUE) and entry[1] in withdrawn)]
        turn.journal[:] = [entry for entry in turn.journal if entry[0] != INSERT]
        turn.writes[:] = [write for write in turn.writes if type(write) is bytes or write.sequence not in withdrawn or not write.qos]  # type: ignore[union-attr]
        turn.accepted.clear()
        return found

    def claim(self, row: StoredMessage, make: Callable[[StoredMessage], Outgoing]) -> Outgoing | None:
        """Return the publication of a stored row as one that somebody holds; None if it is settled already."""
        if row.sequence in self.stored_deleted:
            return None
        if row.sequence <= self.stored_after:
            for message in (*self.in_flight.values(), *self.released.values(), *self.queue):
                if message.sequence == row.sequence and message.state != SETTLED:
                    message.claimed = True
                    return message
            return None
        held = self.stored_handles.get(row.sequence)
        if held is None:
            held = make(row)
            held.state = STORED
            self.stored_handles[row.sequence] = held
        held.claimed = True
        return held

    def pending(self) -> Iterator[Outgoing]:
        """Return the unsettled QoS 1 and 2 publications that are in memory, in the order in which they were accepted."""
        found = [message for message in (*self.released.values(), *self.in_flight.values(), *self.queue) if message.qos and message.state != SETTLED]
        return iter(sorted(found, key=lambda message: message.sequence))
