"""Whether the core is sound inside, at any moment and at rest: what no user and no server can see, and what the next trouble comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ohmqtt.records import State
from tests.exploration.broker import require

if TYPE_CHECKING:
    from ohmqtt.link import Link
    from ohmqtt.records import Outgoing
    from ohmqtt.session import Session
    from tests.exploration.store import Image
    from tests.exploration.world import World

__all__ = ["judge_always", "judge_leftovers"]


def judge_always(world: World) -> None:
    """Memory, counters, quota and journal agree, whatever happens next."""
    session = world.session
    disk = world.store.image.copy()
    if world.turn is not None and not world.committed:
        disk.apply(world.turn.journal)
    disk.apply(session.baskets.journal)
    outbound = session.outbound
    unsettled: list[Outgoing] = [message for message in outbound.queue if message.state == State.QUEUED]
    for packet_id, message in outbound.in_flight.items():
        require(message.state == State.ASSIGNED and message.packet_id == packet_id, f"in flight under {packet_id}: {message.state}")
        unsettled.append(message)
    for packet_id, message in outbound.released.items():
        require(message.state == State.RELEASED and message.packet_id == packet_id, f"released under {packet_id}: {message.state}")
        require(packet_id not in outbound.in_flight, f"two exchanges use identifier {packet_id}")
        unsettled.append(message)
    _judge_rows(session, disk, unsettled)
    _judge_received(session, disk)
    link = session.connected_link()
    if link is not None:
        _judge_quota(session, link)


def _judge_rows(session: Session, disk: Image, unsettled: list[Outgoing]) -> None:
    """Replayed, the journal gives the publications in memory, and those that are counted as being on disk only."""
    outbound = session.outbound
    rows = disk.rows
    size = 0
    for message in unsettled:
        row = rows.pop(message.sequence, None)
        require(row is not None, f"message {message.payload[0]} is in memory, and wouldn't be on disk")
        assert row is not None
        packet_id = 0 if message.state == State.QUEUED else message.packet_id
        require(row[0] == packet_id, f"message {message.payload[0]} has identifier {packet_id}, and would have {row[0]} on disk")
        require((row[1] != 0) == (message.state == State.RELEASED), f"message {message.payload[0]}: PUBREC in memory or on disk alone")
        size += len(message.topic_field) + len(message.properties) + len(message.payload)
    for packet_id, _, kept in rows.values():
        require(not packet_id, f"message {kept.payload[0]} would be on disk with identifier {packet_id}, and isn't in memory")
        size += 2 + len(kept.topic) + len(kept.properties) + len(kept.payload)
    require(len(rows) == outbound.stored_rows, f"{len(rows)} rows would be on disk only, and {outbound.stored_rows} are counted")
    require(outbound.messages == len(unsettled) + len(rows), f"{len(unsettled) + len(rows)} messages, and {outbound.messages} are counted")
    require(outbound.bytes == size, f"{size} bytes of messages, and {outbound.bytes} are counted")
    require(outbound.next_sequence > disk.last_sequence, "a sequence number would be used again")


def _judge_received(session: Session, disk: Image) -> None:
    """What is on disk of the received set is what was answered with success."""
    received = {
        packet_id
        for packet_id, message in session.inbound.received.items()
        if message is None or (message.answer is not None and message.answer < 0x80)
    }
    require(received == set(disk.received), f"received identifiers: {sorted(received)} in memory, {sorted(disk.received)} would be on disk")
    words = (disk.session or "").split()
    require(
        ("ours" in words) == session.identity.ours, f"the session is ours: {session.identity.ours}, and {disk.session!r} would be on disk"
    )


def _judge_quota(session: Session, link: Link) -> None:
    """Open exchanges and what is left of the quota are the server's Receive Maximum [MQTT-4.9.0-1]."""
    outbound = session.outbound
    waiting = sum(1 for message in outbound.resend if message.state == State.ASSIGNED)
    charged = len(outbound.in_flight) + len(outbound.released) - waiting
    require(link.send_quota == link.send_quota_max - charged, f"{charged} exchanges, and quota {link.send_quota} of {link.send_quota_max}")
    require(link.send_quota >= 0, f"quota {link.send_quota}")


def judge_leftovers(world: World) -> None:
    """At rest nothing is left: no identifier, no row, no quota, on neither side."""
    session, broker = world.session, world.broker
    outbound, inbound, baskets = session.outbound, session.inbound, session.baskets
    link = session.connected_link()
    require(link is not None, "no connection, and nothing that brings it back")
    assert link is not None
    left: dict[str, object] = {
        "identifiers in flight": outbound.in_flight,
        "released identifiers": outbound.released,
        "identifiers of requests": outbound.requests,
        "retired identifiers": outbound.retired,
        "publications to be sent again": outbound.resend,
        "queued publications": any(message.state == State.QUEUED for message in outbound.queue),
        "counted publications": outbound.messages,
        "counted bytes": outbound.bytes,
        "counted rows": outbound.stored_rows,
        "unfinished deliveries": inbound.deliveries,
        "exchanges open on the link": (link.inbound_open or link.qos2_open or link.pubacks or link.pubrecs),
        "baskets": (baskets.journal or baskets.writes or baskets.events or baskets.resolved),
        "rows on disk": world.store.image.rows,
        "quota in use": link.send_quota_max - link.send_quota,
    }
    if not world.weak:
        left |= {
            "received identifiers": inbound.received,
            "repeated identifiers": inbound.repeated,
            "received identifiers on disk": world.store.image.received,
            "identifiers that the server still has of ours": broker.received,
            "messages that the server can't send": broker.queue,
            "exchanges that the server can't end": broker.in_flight,
        }
    for name, what in left.items():
        require(not what, f"left at rest: {name}: {what!r}")
