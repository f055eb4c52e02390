"""Publications on their way out: packet identifiers, quota, the flows of QoS 1 and 2, resumption and session loss.

Owns every exchange from the packet identifier to the final acknowledgement; what was never sent is the `Backlog`'s. Its invariants: a packet
identifier belongs to one exchange at a time and is free again only after the final acknowledgement; publications leave in the order in
which they were accepted; each is settled exactly once; and the journal, replayed, always gives the state in memory.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ..errors import (
    CancelledError,
    ClientClosedError,
    LinkLostError,
    MQTTError,
    PoisonMessageError,
    ProtocolError,
    PublishError,
    SessionLostError,
    TopicAliasError,
)
from ..journal import DELETE, INSERT, RELEASE, REQUEUE, SEND
from ..mqtt_spec import PACKET_ID_MAX, reason_name
from ..packet import MQTTPubRelPacket
from ..records import SessionLostPolicy, State
from ..serialization import encode_uint16
from ..topic_alias import AliasPolicy
from .backlog import Backlog, expiry_error, is_overdue

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from ..journal import StoredMessage, StoredState
    from ..link import Link
    from ..packet import MQTTPubAckPacket, MQTTPubCompPacket, MQTTPubRecPacket
    from ..records import Outgoing, Request
    from .baskets import Baskets, Turn
    from .identity import Identity
    from .settings import SessionSettings

__all__ = ["Outbound"]

QUEUED, STORED, ASSIGNED = State.QUEUED, State.STORED, State.ASSIGNED
RELEASED, WRITTEN, SETTLED = State.RELEASED, State.WRITTEN, State.SETTLED

OUTBOX_BYTES_MAX = 262_144
"""QoS 0 publications stay in the queue, where a policy can reach them, once this much is on its way to the socket."""

TOPIC_LENGTH_BYTES = 2

FRUITLESS_LINKS_MAX = 3
"""After so many links in a row without an acknowledgement, publications are re-sent one at a time, and one that ends so many is poison."""


class Outbound(Backlog):
    """All publications that were accepted and are not settled."""

    def __init__(self, baskets: Baskets, settings: SessionSettings, identity: Identity) -> None:
        super().__init__(baskets, settings)
        self.identity = identity
        self.last_packet_id = 0
        # Exchanges by packet identifier; requests (SUBSCRIBE, UNSUBSCRIBE) share the identifiers.
        self.in_flight: dict[int, Outgoing] = {}
        self.released: dict[int, Outgoing] = {}
        self.requests: dict[int, Request] = {}
        self.retired = identity.retired
        self.release_order = 1
        self.resent_releases: set[int] = set()
        # What is to be sent again on this link, by sequence: from the first of these on, nothing counts against the link's quota yet.
        self.resend: deque[Outgoing] = deque()
        # Poison: links in a row that were lost without one new acknowledgement, and how often that happened to one publication alone.
        self.fruitless_links = 0
        self.suspect = 0
        self.strikes = 0

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
        if (self.messages >= settings.queue_messages_max or self.bytes + weight > settings.queue_bytes_max) and not self.make_room(
            message, weight
        ):
            return
        self.messages += 1
        self.bytes += weight
        if link is not None and not self.queue and not self.stored_rows and not self.resend and self.fruitless_links < FRUITLESS_LINKS_MAX:
            if not qos:
                if link.outbox_bytes < OUTBOX_BYTES_MAX:
                    link.outbox_bytes += weight
                    message.state = WRITTEN
                    self.baskets.writes.append(message)
                    return
            elif link.send_quota > 0:
                packet_id = self.allocate()
                if packet_id:
                    link.send_quota -= 1
                    message.sequence = self.next_sequence
                    self.next_sequence += 1
                    message.packet_id = packet_id
                    message.state = ASSIGNED
                    self.in_flight[packet_id] = message
                    if self.durable:
                        self.insert(message)
                    self.baskets.writes.append(message)
                    return
        self.enqueue(message, link)

    def allocate(self) -> int:
        """Return a packet identifier that no exchange of ours uses, or 0 if there is none [MQTT-2.2.1-3]."""
        packet_id = self.last_packet_id
        in_flight, released, requests, retired = self.in_flight, self.released, self.requests, self.retired
        while True:
            packet_id = packet_id + 1 if packet_id < PACKET_ID_MAX else 1
            if packet_id not in in_flight and packet_id not in released and packet_id not in requests and packet_id not in retired:
                self.last_packet_id = packet_id
                return packet_id
            if len(in_flight) + len(released) + len(requests) + len(retired) >= PACKET_ID_MAX:
                return 0

    # ---- sending ---------------------------------------------------------------------------------------------------------------------

    def pump(self, link: Link, now: float) -> None:
        """Write what may be written now: first what must be re-sent, then the queue, within the server's Receive Maximum."""
        if self.resend:
            retired = len(self.retired)
            self._send_again(link, now)
            if len(self.retired) > retired:
                self.identity.record()
            if self.resend:
                return
        queue = self.queue
        while queue:
            message = queue[0]
            if message.state == QUEUED and not self.expired(message, now) and not self._start(message, link):
                return
            queue.popleft()
            self.queue_bytes -= len(message.payload) + len(message.topic_field) + len(message.properties)

    def _send_again(self, link: Link, now: float) -> None:
        """Write what the resumed session has open, as far as the quota goes. What has never left may have expired meanwhile."""
        resend, writes = self.resend, self.baskets.writes
        while resend:
            message = resend[0]
            if message.state == ASSIGNED:
                if link.send_quota <= 0 or self._one_at_a_time():  # [MQTT-4.9.0-2]
                    return
                if not message.sent and is_overdue(message, now):
                    self._give_up(message, expiry_error(message))
                elif self._takes(link, message):
                    link.send_quota -= 1
                    writes.append(message)
            resend.popleft()

    def _start(self, message: Outgoing, link: Link) -> bool:
        """Send a publication for the first time; False: not now."""
        if self._one_at_a_time():
            return False
        if not message.qos:
            if link.outbox_bytes >= OUTBOX_BYTES_MAX:
                return False
            if self._takes(link, message):
                link.outbox_bytes += len(message.payload) + len(message.topic_field) + len(message.properties)
                message.state = WRITTEN
                self.baskets.writes.append(message)
            return True
        packet_id = self.allocate() if link.send_quota > 0 else 0  # [MQTT-4.9.0-2]
        if not packet_id:
            return False
        if self._takes(link, message):
            link.send_quota -= 1
            message.packet_id = packet_id
            message.state = ASSIGNED
            self.in_flight[packet_id] = message
            if self.durable:
                self.baskets.record(SEND, message.sequence, packet_id)
            self.baskets.writes.append(message)
        return True

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
        except MQTTError as error:
            self._give_up(message, error)
            return False
        return True

    def _give_up(self, message: Outgoing, error: MQTTError) -> None:
        """Settle a publication that may not be sent any more; if it was, its identifier isn't free as long as the session lasts.

        The caller has that recorded.
        """
        if self.in_flight.pop(message.packet_id, None) is not None and message.sent:
            self.retired.add(message.packet_id)
        self.settle(message, error)

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
            writes.append(
                b"\x62\x02" + encode_uint16(packet_id) if packet_id in self.released else MQTTPubRelPacket(packet_id, 0x92).encode()
            )
            return
        if message.qos != 2:
            raise ProtocolError(f"PUBREC for packet identifier {packet_id}, which is in use by a QoS 1 exchange")
        del self.in_flight[packet_id]
        if packet is not None and packet.reason_code >= 0x80:  # [MQTT-4.4.0-2]: it ends the exchange
            self._complete(message, link, packet, 5)
            return
        link.acked = True
        self.fruitless_links = 0
        if self._is_uncharged(message):
            link.send_quota -= 1
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
            self.identity.free(packet_id)
            return
        if packet_id in self.resent_releases:
            # 0x92 to a PUBREL that was sent before: the server had finished the exchange, only its answer was lost.
            self.resent_releases.remove(packet_id)
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
        if link.send_quota < link.send_quota_max and not self._is_uncharged(message):
            link.send_quota += 1
        link.acked = True
        self.fruitless_links = 0
        if packet is not None and packet.reason_code >= 0x80 and not success:
            text = packet.properties.ReasonString
            reason = reason_name(packet.reason_code) + (f": {text}" if text else "")
            self.settle(message, PublishError(f"the server rejected the publication to {message.topic!r} with {reason}", packet))
            return
        message.state = SETTLED
        self.messages -= 1
        self.bytes -= len(message.payload) + len(message.topic_field) + len(message.properties)
        if self.durable:
            self.baskets.trail(DELETE, message.sequence)
        if message.outcome is None:
            message.outcome = packet_type if packet is None else packet
            self.baskets.resolved.append(message)
        elif self.heirs:
            self.bequeath(message, packet_type if packet is None else packet)

    def _is_uncharged(self, message: Outgoing) -> bool:
        """Return whether an open exchange hasn't been taken up on this link yet, so that it doesn't count against its quota."""
        return bool(self.resend) and message.state == ASSIGNED and message.sequence >= self.resend[0].sequence

    def cancel(self, message: Outgoing) -> bool:
        """Cancel a publication for its caller. If it was sent, its exchange goes on without it [MQTT-2.2.1-3]. False: too late."""
        if message.outcome is not None:
            return False
        # Where it stands, only the one knows that goes on in its name.
        origin, _ = self.heirs.get(message.sequence, (message, None))
        if origin.state in (SETTLED, WRITTEN):
            return False
        if origin.state in (ASSIGNED, RELEASED):
            message.outcome = CancelledError("cancelled on its way or after it was sent: the server may have it all the same")
            self.baskets.resolved.append(message)
            self.heirs.pop(message.sequence, None)
            origin.claimed = True
        else:
            self.settle(origin, CancelledError("cancelled before it was sent"))
        return True

    # ---- the life of links and sessions --------------------------------------------------------------------------------------------------

    def resume(self, link: Link) -> None:
        """Send again what the resumed session has open: PUBRELs in the order of their PUBRECs, then PUBLISHes [MQTT-4.4.0-1]."""
        for packet_id in self.released:  # [MQTT-4.6.0-4]
            self.baskets.writes.append(b"\x62\x02" + encode_uint16(packet_id))
        self.resent_releases = set(self.released)
        # Each open exchange counts against the new Receive Maximum: those with a PUBREL from now on, the others when they are re-sent.
        link.send_quota -= len(self.released)
        # They were put there in the order of their sequence numbers [MQTT-4.6.0-1].
        self.resend = deque(self.in_flight.values())

    def link_lost(self, link: Link, closed_by_peer: bool) -> None:
        """Keep what belongs to the session; settle the QoS 0 publications that were on their way."""
        self.resend.clear()
        for message in link.flushing:
            self._lose(message)
        for write in link.outbox:
            if type(write) is not bytes:
                self._lose(write)  # type: ignore[arg-type]
        if closed_by_peer and link.publishes_sent and not link.acked and self.in_flight:
            self.fruitless_links += 1
            if self.fruitless_links == FRUITLESS_LINKS_MAX:
                self.suspect = 0
            elif self.fruitless_links > FRUITLESS_LINKS_MAX and not self.settings.keep_poison:
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
        """Count the lost link against the one publication that was on its way: the oldest that was ever sent."""
        first = min((message for message in self.in_flight.values() if message.sent), key=_sequence, default=None)
        if first is None:
            return
        if first.sequence != self.suspect:
            self.suspect = first.sequence
            self.strikes = 0
        self.strikes += 1
        if self.strikes >= FRUITLESS_LINKS_MAX:
            self._give_up(first, PoisonMessageError(f"the server closed {self.strikes} connections in a row upon this message alone"))
            self.identity.record()
            self.fruitless_links = 0

    def session_lost(self) -> None:
        """The server has no session: apply the policy to what was sent and isn't acknowledged [MQTT-3.2.2-5]."""
        again: list[Outgoing] = []
        for message in (*self.released.values(), *self.in_flight.values()):
            if self._goes_again(message):
                again.append(message)
            else:
                self.settle(
                    message,
                    SessionLostError("the server lost the session while the message was unacknowledged: it may have arrived or not"),
                )
        self.in_flight.clear()
        self.released.clear()
        self.identity.free_all()
        self._requeue(again)

    def requeue_unsent(self) -> None:
        """There will be no other link in this process: what has an identifier and never left isn't part of the session, and is queued again."""
        unsent = [message for message in self.in_flight.values() if not message.sent]
        for message in unsent:
            del self.in_flight[message.packet_id]
            if not self._goes_again(message):
                self.settle(message, CancelledError("cancelled before it was sent"))
        self._requeue([message for message in unsent if message.state != SETTLED])

    def _requeue(self, again: list[Outgoing]) -> None:
        """Put publications before the queue, as if they had never been sent."""
        again.sort(key=_sequence, reverse=True)
        for message in again:
            message.packet_id = 0
            message.state = QUEUED
            message.sent = False
            self.baskets.record(REQUEUE, message.sequence)
            self.watch_expiry(message)
            self.queue.appendleft(message)
            self.queue_bytes += len(message.payload) + len(message.topic_field) + len(message.properties)
        if again:
            # All older than what is on disk only; now that they are rows like those, they must not be loaded.
            self.stored_after = max(self.stored_after, again[0].sequence)

    def _goes_again(self, message: Outgoing) -> bool:
        """Return whether an exchange that ends with its session becomes a new publication: if never sent, or by the policy."""
        if message.outcome is not None and message.claimed:
            # Whoever published it has given it up.
            return False
        republish = self.settings.session_lost_policy is SessionLostPolicy.REPUBLISH
        return not message.sent or (republish and message.state == ASSIGNED)

    def close_out(self, session_survives: bool) -> None:
        """The client says goodbye: settle every handle with `ClientClosedError`, keep what the database or a surviving session needs."""
        stored = self.durable
        for message in (*self.released.values(), *self.in_flight.values()):
            if session_survives or (stored and self._goes_again(message)):
                self._close(message, stored)
            else:
                self.in_flight.pop(message.packet_id, None)
                self.released.pop(message.packet_id, None)
                self.settle(
                    message, ClientClosedError("the client was closed before the message was acknowledged: the server may have it or not")
                )
        for message in (*self.queue, *self.behind_stored):
            if message.state == QUEUED:
                if stored and message.qos:
                    self._close(message, stored)
                else:
                    self.settle(message, ClientClosedError("the client was closed before the message was sent"))
        for message in list(self.stored_handles.values()):
            self._close(message, stored)
        self.stored_handles.clear()

    def _close(self, message: Outgoing, stored: bool) -> None:
        """Resolve the handle of a publication that is kept."""
        where = "the database keeps it for the next connection" if stored else "the server may have it or not"
        error = ClientClosedError(f"the client was closed before the message was acknowledged: {where}", stored)
        if message.outcome is not None:
            self.bequeath(message, error)
            return
        message.outcome = error
        self.baskets.resolved.append(message)
        # What a database keeps is somebody's concern: a failure after this is reported. The rest is nobody's any more.
        message.claimed = not stored

    # ---- the database ----------------------------------------------------------------------------------------------------------------------

    def recover(self, state: StoredState, make: Callable[[StoredMessage], Outgoing]) -> None:
        """Take over what a former process left. What it had in flight may have been sent, so it goes out with DUP."""
        self.next_sequence = state.next_sequence
        released: list[tuple[int, Outgoing]] = []
        for row in state.in_flight:
            message = make(row)
            message.sent = True
            message.claimed = False
            self.messages += 1
            self.bytes += len(message.payload) + len(message.topic_field) + len(message.properties)
            if row.released:
                message.state = RELEASED
                released.append((row.released, message))
            else:
                message.state = ASSIGNED
                self.in_flight[message.packet_id] = message
        released.sort(key=_order)  # [MQTT-4.6.0-4]
        for order, message in released:
            self.released[message.packet_id] = message
            self.release_order = order + 1
        self.stored_rows = state.queued_messages
        self.messages += state.queued_messages
        # A store counts topics without their lengths; here each stands with its own.
        self.bytes += state.queued_bytes + TOPIC_LENGTH_BYTES * state.queued_messages

    def withdraw(self, turn: Turn | Baskets, error: MQTTError, link: Link | None) -> list[Outgoing]:
        """The disk refused `turn`: take its new publications back, identifier and quota included; what came from the peer is kept."""
        withdrawn = set()
        found = []
        for message in turn.accepted:
            withdrawn.add(message.sequence)
            if message.state == SETTLED:
                continue
            if self.in_flight.pop(message.packet_id, None) is not None:
                if link is not None and not self._is_uncharged(message):
                    link.send_quota = min(link.send_quota + 1, link.send_quota_max)
            elif message.state == STORED:
                self.forget_stored(message)
            message.state = SETTLED
            self.messages -= 1
            self.bytes -= len(message.payload) + len(message.topic_field) + len(message.properties)
            if message.outcome is None or isinstance(message.outcome, ClientClosedError):
                # What a goodbye has said of it meanwhile, that it is stored, isn't true, and nobody has heard it yet.
                message.outcome = error
                found.append(message)
        turn.accepted.clear()
        for resolved in (turn.resolved, self.baskets.resolved):
            resolved[:] = [request for request in resolved if request.outcome is not error]
        for entries in (turn.journal, self.baskets.journal):
            entries[:] = [entry for entry in entries if entry[0] not in ABOUT_MESSAGES or _entry_sequence(entry) not in withdrawn]
        for writes in (turn.writes, self.baskets.writes):
            writes[:] = [write for write in writes if type(write) is bytes or not write.qos or write.sequence not in withdrawn]  # type: ignore[union-attr]
        return found

    def claim(self, rows: list[StoredMessage], make: Callable[[StoredMessage], Outgoing]) -> list[Outgoing]:
        """Return the publications of stored rows as ones that somebody holds; those whose outcome is known already are left out."""
        self.sweep()
        in_memory: dict[int, Outgoing] = {}
        if rows and (not self.stored_rows or rows[0].sequence <= self.stored_after):
            # Some were loaded for sending since the caller read them.
            in_memory = {message.sequence: message for message in self.pending()}
        claimed = []
        for row in rows:
            sequence = row.sequence
            message: Outgoing | None
            if not self.stored_rows or sequence <= self.stored_after or sequence in self.stored_deleted:
                message = in_memory.get(sequence)
                if message is None:
                    continue
            else:
                message = self.stored_handles.get(sequence)
                if message is None:
                    message = make(row)
                    message.state = STORED
                    self.stored_handles[sequence] = message
                    self.watch_expiry(message)
            message.claimed = True
            claimed.append(message)
        return claimed

    def pending(self) -> Iterator[Outgoing]:
        """Return the QoS 1 and 2 publications in memory whose outcome isn't known, in the order in which they were accepted.

        Of those that were kept at a goodbye, which has resolved their handles, the heirs.
        """
        found = []
        for message in (*self.released.values(), *self.in_flight.values(), *self.queue):
            if message.qos and message.state != SETTLED:
                if message.outcome is None:
                    found.append(message)
                elif message.done and not message.claimed:
                    found.append(self.heir(message))
        found.sort(key=_sequence)
        return iter(found)


ABOUT_MESSAGES = frozenset({INSERT, SEND, REQUEUE, RELEASE, DELETE})


def _entry_sequence(entry: tuple[Any, ...]) -> int:
    """Return the sequence number of the publication that a journal entry is about."""
    sequence: int = entry[1].sequence if entry[0] == INSERT else entry[1]
    return sequence


def _sequence(message: Outgoing) -> int:
    return message.sequence


def _order(item: tuple[int, Outgoing]) -> int:
    return item[0]
