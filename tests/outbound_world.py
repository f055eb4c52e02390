"""A world for the tests of outbound publications: a fake clock, a fake store, a link whose bytes are read packet by packet. No threads."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from ohmqtt.journal import DELETE, INSERT, RELEASE, REQUEUE, SEND, SESSION, StoredMessage, StoredState
from ohmqtt.link import Link, encode_topic_field
from ohmqtt.packet import MQTTConnAckPacket, MQTTConnectPacket, decode_packet
from ohmqtt.property import MQTTConnAckProps, MQTTConnectProps, MQTTPublishProps
from ohmqtt.records import Options, Outgoing, State, Undelivered
from ohmqtt.session import Baskets, SessionSettings
from ohmqtt.session.identity import Identity
from ohmqtt.session.outbound import Outbound
from ohmqtt.topic_alias import AliasPolicy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ohmqtt.session import Turn


class Publication(Outgoing):
    """An `Outgoing` as a handle is one: it can be referred to weakly."""

    __slots__ = ("__weakref__",)


def publication(
    payload: bytes = b"payload",
    qos: int = 1,
    *,
    topic: str = "topic",
    retain: bool = False,
    properties: MQTTPublishProps = MQTTPublishProps.EMPTY,
    now: float = 0.0,
    alias_policy: AliasPolicy = AliasPolicy.NEVER,
) -> Publication:
    """Make a publication as the client makes it at the call."""
    expiry_s = properties.MessageExpiryInterval
    options = None
    if expiry_s is not None or alias_policy is not AliasPolicy.NEVER:
        options = Options(alias_policy, None if expiry_s is None else now + expiry_s)
    return Publication(encode_topic_field(topic.encode()), payload, qos, 0x30 | qos << 1 | retain, properties.encode(), options)


def expiring(payload: bytes, expiry_s: int, now: float, qos: int = 1) -> Publication:
    """Make a publication with a Message Expiry Interval."""
    return publication(payload, qos, properties=MQTTPublishProps(MessageExpiryInterval=expiry_s), now=now)


def restored(row: StoredMessage) -> Publication:
    """Make a publication of a stored row, at the time 0."""
    options = None
    if row.alias_policy or row.expiry_s is not None:
        options = Options(AliasPolicy(row.alias_policy), None if row.expiry_s is None else row.expiry_s)
    message = Publication(
        encode_topic_field(row.topic.encode()), row.payload, row.qos, 0x30 | row.qos << 1 | row.retain, row.properties, options
    )
    message.sequence = row.sequence
    message.packet_id = row.packet_id
    return message


def connected_link(now: float = 0.0, keep_alive: int = 0, connect: MQTTConnectProps = MQTTConnectProps.EMPTY, **properties: Any) -> Link:
    """Make a Link that has its CONNACK, with `properties`."""
    link = Link(MQTTConnectPacket("id", keep_alive=keep_alive, properties=connect), None, now)
    link.accept(MQTTConnAckPacket(0, False, MQTTConnAckProps(**properties)), now)
    return link


def packets(data: bytes) -> list[Any]:
    """Decode whole packets."""
    found = []
    offset = 0
    while offset < len(data):
        decoded = decode_packet(data, offset)
        assert decoded is not None
        packet, offset = decoded
        found.append(packet)
    return found


def flush(link: Link, now: float = 0.0) -> list[Any]:
    """Let the socket take everything; return the packets."""
    data = b""
    while chunk := link.next_chunk(now):
        data += bytes(chunk)
        link.sent(len(chunk), now)
    return packets(data)


class FakeStore:
    """What a database would hold: rows by sequence number, and what is known of the session."""

    def __init__(self) -> None:
        self.rows: dict[int, StoredMessage] = {}
        self.session: str | None = None
        self.next_sequence = 1

    def commit(self, journal: list[tuple[Any, ...]]) -> None:
        for entry in journal:
            kind, about = entry[:2]
            if kind == INSERT:
                assert about.sequence not in self.rows
                assert about.sequence >= self.next_sequence
                self.rows[about.sequence] = copy.copy(about)
                self.next_sequence = about.sequence + 1
            elif kind == SEND:
                assert self.rows[about].packet_id == 0
                self.rows[about].packet_id = entry[2]
            elif kind == REQUEUE:
                self.rows[about].packet_id = self.rows[about].released = 0
            elif kind == RELEASE:
                assert self.rows[about].packet_id
                self.rows[about].released = entry[2]
            elif kind == SESSION:
                self.session = about
            else:
                assert kind == DELETE
                del self.rows[about]
            open_ids = [row.packet_id for row in self.rows.values() if row.packet_id]
            assert len(open_ids) == len(set(open_ids))

    def load(self) -> StoredState:
        rows = [copy.copy(self.rows[sequence]) for sequence in sorted(self.rows)]
        queued = [row for row in rows if not row.packet_id]
        size = sum(len(row.topic.encode()) + len(row.properties) + len(row.payload) for row in queued)
        return StoredState("id", self.session, self.next_sequence, [row for row in rows if row.packet_id], [], len(queued), size)

    def load_queued(self, after: int, messages_max: int, bytes_max: int) -> list[StoredMessage]:
        found: list[StoredMessage] = []
        size = 0
        for sequence in sorted(self.rows):
            row = self.rows[sequence]
            if sequence > after and not row.packet_id:
                size += len(row.topic.encode()) + 2 + len(row.properties) + len(row.payload)
                if found and (len(found) >= messages_max or size > bytes_max):
                    break
                found.append(copy.copy(row))
        return found


class World:
    """Outbound with its baskets, and a driver's turn in miniature: journal, then wire, then user."""

    def __init__(self, store: FakeStore | None = None, **settings: Any) -> None:
        self.store = store
        self.baskets = Baskets(store is not None)
        self.identity = Identity(self.baskets)
        self.outbound = Outbound(self.baskets, SessionSettings(**settings), self.identity)
        self.link: Link | None = None
        self.now = 0.0
        self.turns: list[Turn] = []
        self.resolved: list[Any] = []
        self.events: list[Any] = []
        if store is not None:
            state = store.load()
            self.identity.recover(state)
            self.outbound.recover(state, restored)

    # ---- the driver's part -----------------------------------------------------------------------------------------------------------

    def take(self) -> Turn:
        """Pump, and take a turn."""
        if self.link is not None:
            self.outbound.pump(self.link, self.now)
        return self.baskets.take(self.link, self.now)

    def release(self, turn: Turn) -> None:
        """The turn is on disk."""
        if self.store is not None:
            self.store.commit(turn.journal)
        if turn.link is self.link and turn.link is not None:
            turn.link.outbox.extend(turn.writes)
        else:
            self.outbound.drop_writes(turn.writes)
        self.resolve(turn.resolved)
        self.events += turn.events

    def resolve(self, requests: list[Any]) -> None:
        for request in requests:
            assert not request.done, "resolved twice"
            request.done = True
            self.resolved.append(request)

    def turn(self) -> list[Any]:
        """Let everything go its way; return the packets that the socket took."""
        self.release(self.take())
        while self.store is not None and (wanted := self.outbound.wanted_rows()) is not None:
            rows = self.store.load_queued(*wanted)
            self.outbound.loaded(rows, restored, self.now)
            self.release(self.take())
            if not rows:
                break
        return self.flush()

    def flush(self) -> list[Any]:
        if self.link is None:
            return []
        found: list[Any] = []
        while chunk := self.link.next_chunk(self.now):
            found += packets(bytes(chunk))
            flushed = self.link.sent(len(chunk), self.now)
            self.outbound.flushed(flushed)
            self.resolve(flushed)
        return found

    # ---- what happens ------------------------------------------------------------------------------------------------------------------

    def connect(self, session_present: bool = False, **properties: Any) -> list[Any]:
        """Get a new link, resume or lose the session; return what is sent at once."""
        self.accept(session_present, **properties)
        return self.turn()

    def accept(self, session_present: bool = False, **properties: Any) -> Link:
        assert self.link is None
        self.link = connected_link(self.now, **properties)
        if not session_present:
            self.outbound.session_lost()
        self.outbound.resume(self.link)
        return self.link

    def lose_link(self, closed_by_peer: bool = True) -> None:
        """The network connection ends; what was in the baskets for it goes with it."""
        link = self.link
        assert link is not None
        self.link = None
        self.outbound.drop_writes(self.baskets.writes)
        self.baskets.writes.clear()
        self.outbound.link_lost(link, closed_by_peer)
        self.turn()

    def publish(self, payload: bytes = b"payload", qos: int = 1, **options: Any) -> Publication:
        message = publication(payload, qos, now=self.now, **options)
        self.outbound.publish(message, self.link)
        return message

    def publish_all(self, *payloads: bytes, qos: int = 1) -> list[Publication]:
        return [self.publish(payload, qos) for payload in payloads]

    @property
    def connected(self) -> Link:
        assert self.link is not None
        return self.link

    def puback(self, message: Outgoing, packet: Any = None) -> None:
        self.outbound.puback(message.packet_id, self.connected, packet)

    def pubrec(self, message: Outgoing, packet: Any = None) -> None:
        self.outbound.pubrec(message.packet_id, self.connected, packet)

    def pubcomp(self, message: Outgoing, packet: Any = None) -> None:
        self.outbound.pubcomp(message.packet_id, self.connected, packet)

    def undelivered(self) -> list[Undelivered]:
        return [event for event in self.events if isinstance(event, Undelivered)]

    # ---- invariants ----------------------------------------------------------------------------------------------------------------------

    def unsettled(self) -> Iterator[Outgoing]:
        """Every publication in memory that isn't settled, except QoS 0 on its way to the socket."""
        outbound = self.outbound
        yield from outbound.released.values()
        yield from outbound.in_flight.values()
        yield from (message for message in (*outbound.queue, *outbound.behind_stored) if message.state == State.QUEUED)

    def check(self) -> None:
        """Memory, counters, quota and journal agree."""
        outbound = self.outbound
        assert all(message.state == State.ASSIGNED and message.packet_id == key for key, message in outbound.in_flight.items())
        assert all(message.state == State.RELEASED and message.packet_id == key for key, message in outbound.released.items())
        assert not outbound.in_flight.keys() & outbound.released.keys()
        assert outbound.queue_bytes == sum(weight(message) for message in outbound.queue)
        waiting = list(outbound.queue)
        assert [message.sequence for message in waiting] == sorted(message.sequence for message in waiting)
        unsettled = list(self.unsettled())
        if self.link is not None:
            self.check_quota(self.link)
        if self.store is None:
            assert not outbound.stored_rows
            assert not self.baskets.journal
            return
        # What the disk will hold once the journal is committed is what is in memory.
        disk = copy.deepcopy(self.store)
        disk.commit(self.baskets.journal)
        known = Identity(Baskets(durable=True))
        known.recover(disk.load())
        assert known.retired == outbound.retired
        in_memory = {message.sequence: message for message in unsettled if message.qos}
        on_disk_only = {sequence: row for sequence, row in disk.rows.items() if sequence not in in_memory}
        assert in_memory.keys() <= disk.rows.keys()
        assert len(on_disk_only) == outbound.stored_rows
        assert all(sequence > outbound.stored_after and not row.packet_id for sequence, row in on_disk_only.items())
        for sequence, message in in_memory.items():
            row = disk.rows[sequence]
            assert row.packet_id == (message.packet_id if message.state != State.QUEUED else 0)
            assert bool(row.released) == (message.state == State.RELEASED)
        released = sorted((row for row in disk.rows.values() if row.released), key=lambda row: row.released)
        assert [row.packet_id for row in released] == list(outbound.released)
        assert outbound.next_sequence >= disk.next_sequence
        written = self.written_qos0()
        assert outbound.messages == len(unsettled) + outbound.stored_rows + len(written)
        rows_weight = sum(len(row.topic.encode()) + 2 + len(row.properties) + len(row.payload) for row in on_disk_only.values())
        assert outbound.bytes == sum(map(weight, [*unsettled, *written])) + rows_weight

    def written_qos0(self) -> list[Outgoing]:
        writes: list[Any] = [*self.baskets.writes]
        if self.link is not None:
            writes += [*self.link.outbox, *self.link.flushing]
        return [write for write in writes if isinstance(write, Outgoing) and write.state == State.WRITTEN]

    def check_quota(self, link: Link) -> None:
        """Open exchanges and what is left of the quota are the server's Receive Maximum [MQTT-4.9.0-1]."""
        outbound = self.outbound
        uncharged = [message for message in outbound.resend if message.state == State.ASSIGNED]
        charged = len(outbound.in_flight) + len(outbound.released) - len(uncharged)
        assert link.send_quota == link.send_quota_max - charged
        assert link.send_quota <= link.send_quota_max


def weight(message: Outgoing) -> int:
    return len(message.topic_field) + len(message.properties) + len(message.payload)
