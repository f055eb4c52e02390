"""The client's own books: identifiers, quota, counts, and what the journal says of them. Each is held against the others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ohmqtt.link import CONNECTED
from ohmqtt.records import State
from tests.simulation.surroundings import Violation

if TYPE_CHECKING:
    from tests.simulation.server import ServerSession
    from tests.simulation.surroundings import Disk, Image

__all__ = ["check", "check_sleep", "check_subscriptions"]

QUEUED, ASSIGNED, RELEASED, WRITTEN = State.QUEUED, State.ASSIGNED, State.RELEASED, State.WRITTEN


def check(driver: Any, disk: Disk | None) -> None:
    """Look at a client that nobody is in the middle of."""
    session = driver.session
    _check_identifiers(session)
    _check_counts(driver)
    link = session.link
    if link is not None and link.state == CONNECTED:
        _check_quota(session, link)
    if disk is not None:
        _check_journal(driver, disk)


def check_sleep(driver: Any, wake_at: float, now: float) -> None:
    """The I/O thread is asleep, and nobody is going to wake it: there must be nothing to do."""
    session = driver.session
    commits = driver.commits
    link = session.link
    work = {
        "again": driver.again,
        "a network connection": driver.arrived is not None,
        "acknowledgements": bool(driver.delivery.completed),
        "the end of a link": session.must_close(),
        "writes": link is not None and bool(link.outbox) and not link.unsent,
    }
    if commits is None or not (commits.busy or commits.failed_turn):
        work["a turn"] = session.baskets.any()
        rests = session.retry_at is not None and now < session.retry_at
        work["rows to be loaded"] = commits is not None and not rests and session.wanted_rows(now) is not None
    left = [name for name, is_there in work.items() if is_there]
    if left:
        raise Violation(f"the I/O thread sleeps, and there is something to do: {left}")
    deadline = session.deadline()
    if deadline is not None and deadline < wake_at - 1e-6 and not (commits is not None and commits.busy):
        raise Violation(f"the I/O thread sleeps until {wake_at}, and something is due at {deadline}")


def _check_identifiers(session: Any) -> None:
    """[MQTT-2.2.1-3]: one exchange for each."""
    outbound = session.outbound
    in_flight, released, requests, retired = outbound.in_flight, outbound.released, outbound.requests, outbound.retired
    total = len(in_flight) + len(released) + len(requests) + len(retired)
    if total and len({*in_flight, *released, *requests, *retired}) != total:
        raise Violation(f"a packet identifier is used twice: {list(in_flight)} {list(released)} {list(requests)} {sorted(retired)}")
    for packet_id, message in in_flight.items():
        if message.packet_id != packet_id or message.state != ASSIGNED:
            raise Violation(f"in flight as {packet_id}: {message!r} with identifier {message.packet_id} in state {message.state}")
    for packet_id, message in released.items():
        if message.packet_id != packet_id or message.state != RELEASED or message.qos != 2:
            raise Violation(f"released as {packet_id}: {message!r} with identifier {message.packet_id} in state {message.state}")


def _check_counts(driver: Any) -> None:
    session = driver.session
    outbound = session.outbound
    count = len(outbound.in_flight) + len(outbound.released) + outbound.stored_rows
    count += sum(message.state == QUEUED for message in (*outbound.queue, *outbound.behind_stored))
    written = {id(write): write for write in session.baskets.writes if type(write) is not bytes}
    unfinished = None if driver.commits is None else driver.commits.unfinished
    if unfinished is not None:
        written.update({id(write): write for write in unfinished.writes if type(write) is not bytes})
    link = session.link
    if link is not None:
        written.update({id(write): write for write in (*link.outbox, *link.flushing) if type(write) is not bytes})
    count += sum(write.state == WRITTEN for write in written.values())
    if count != outbound.messages:
        raise Violation(f"{count} publications are open, and the books say {outbound.messages}")
    settings = session.settings
    if count > settings.queue_messages_max:
        raise Violation(f"{count} publications are open, and the bound is {settings.queue_messages_max}")
    if outbound.bytes < 0 or outbound.queue_bytes < 0:
        raise Violation(f"the books have {outbound.bytes} bytes, {outbound.queue_bytes} of them in the queue")


def _check_quota(session: Any, link: Any) -> None:
    """[MQTT-4.9.0-2]: what was lent and what is left are the server's Receive Maximum."""
    outbound = session.outbound
    lent = len(outbound.released) + len(outbound.in_flight)
    if outbound.resend:
        first = outbound.resend[0].sequence
        lent -= sum(message.sequence >= first for message in outbound.in_flight.values())
    if link.send_quota + lent != link.send_quota_max:
        raise Violation(f"the quota is {link.send_quota}, {lent} exchanges are open, and the Receive Maximum is {link.send_quota_max}")
    if link.inbound_open != len(link.pubacks) + len(link.qos2_open):
        raise Violation(f"{link.inbound_open} messages are said to be unacknowledged, and are {len(link.pubacks)} + {len(link.qos2_open)}")


def _check_journal(driver: Any, disk: Disk) -> None:
    """Replayed, the journal gives what is in memory."""
    session = driver.session
    unfinished = driver.commits.unfinished
    journal = session.baskets.journal
    image = disk.volatile
    if journal or (unfinished is not None and unfinished.journal):
        image = image.copy()
        if unfinished is not None:
            image.apply(unfinished.journal, 0.0)
        image.apply(journal, 0.0)
    _compare(session, image)


def _compare(session: Any, image: Image) -> None:
    outbound = session.outbound
    memory = {message.sequence: (packet_id, False) for packet_id, message in outbound.in_flight.items()}
    memory.update({message.sequence: (packet_id, True) for packet_id, message in outbound.released.items()})
    memory.update({message.sequence: (0, False) for message in outbound.queue if message.state == QUEUED and message.qos})
    stored = 0
    for sequence, row in image.rows.items():
        if sequence in memory:
            if memory.pop(sequence) != (row.packet_id, row.released > 0):
                raise Violation(
                    f"the journal has message {row.number} with identifier {row.packet_id}, released {row.released}: memory differs"
                )
        elif row.packet_id or sequence <= outbound.stored_after:
            raise Violation(f"the journal has message {row.number} (identifier {row.packet_id}, released {row.released}), memory hasn't")
        else:
            stored += 1
    if memory:
        raise Violation(f"memory has the publications {memory} (sequence: identifier, released), the journal hasn't")
    if stored != outbound.stored_rows:
        raise Violation(f"{stored} rows are on disk only, and the books say {outbound.stored_rows}")
    orders = [image.rows[message.sequence].released for message in outbound.released.values()]
    if orders != sorted(orders):
        raise Violation(f"PUBRECs in memory are in the order {orders} of the journal [MQTT-4.6.0-4]")
    received = {
        packet_id
        for packet_id, message in session.inbound.received.items()
        if message is None or (message.answer is not None and message.answer < 0x80)
    }
    if received != set(image.received):
        raise Violation(f"received are {sorted(received)}, and the journal says {sorted(image.received)}")
    identity = session.identity
    if image.session is not None:
        epoch, ours = image.session.split()[:2]
        retired = image.session.partition(" retired ")[2].split()
        if int(epoch) != identity.epoch or (ours == "ours") != identity.ours or {int(item) for item in retired} != identity.retired:
            raise Violation(f"the journal says {image.session!r}, and memory {identity.epoch}, {identity.ours}, {identity.retired}")
    if image.next_sequence > outbound.next_sequence:
        raise Violation(f"the next sequence number is {outbound.next_sequence}, and the journal has {image.next_sequence - 1}")


def check_subscriptions(session: Any, server_session: ServerSession | None, were_refused: bool) -> None:
    """All is at rest: the server has each subscription that the client says to have, as it was granted."""
    known = {} if server_session is None else server_session.subscriptions
    for topic_filter, subscription in session.subscriptions.tree:
        qos, identifier = known.get(topic_filter, (-1, 0))
        # If its change was refused, what it was before still stands.
        if qos != subscription.granted or (identifier != subscription.identifier and not were_refused):
            raise Violation(
                f"the subscription to {topic_filter!r} has QoS {subscription.granted} and identifier {subscription.identifier}, "
                f"and at the server {qos} and {identifier}"
            )
