"""Corners of the Session that were found by asking where a promise could break. Each test is named after what must not go wrong."""

from __future__ import annotations

import errno

import pytest

from ohmqtt.errors import ClientClosedError, ForeignSessionError, LinkLostError, StoreError
from ohmqtt.journal import DELETE, FORGET, IDENTITY, INSERT, RECEIVE, RELEASE, REQUEUE, SEND, SESSION, StoredMessage, StoredState
from ohmqtt.link import encode_topic_field
from ohmqtt.property import MQTTDisconnectProps
from ohmqtt.records import Outgoing
from tests.core_pair import EMPTY_STORE, Pair


def make(row: StoredMessage) -> Outgoing:
    message = Outgoing(encode_topic_field(row.topic.encode()), row.payload, row.qos, 0x30 | row.qos << 1, row.properties)
    message.sequence = row.sequence
    message.packet_id = row.packet_id
    return message


def replay(pair: Pair) -> StoredState:
    """Return what a store has of the journal."""
    rows: dict[int, StoredMessage] = {}
    received: dict[int, None] = {}
    client_id: str | None = None
    session: str | None = None
    last = 0
    for kind, *rest in pair.journal():
        if kind == INSERT:
            row = rest[0]
            rows[row.sequence] = StoredMessage(
                *(getattr(row, name) for name in ("sequence", "packet_id", "released", "qos", "retain", "topic", "properties", "payload"))
            )
            last = max(last, row.sequence)
        elif kind == SEND:
            rows[rest[0]].packet_id = rest[1]
        elif kind == REQUEUE:
            rows[rest[0]].packet_id = rows[rest[0]].released = 0
        elif kind == RELEASE:
            rows[rest[0]].released = rest[1]
        elif kind == DELETE:
            rows.pop(rest[0], None)
        elif kind == RECEIVE:
            received[rest[0]] = None
        elif kind == FORGET:
            received.pop(rest[0], None)
        elif kind == IDENTITY:
            client_id = rest[0]
        elif kind == SESSION:
            session = rest[0]
    in_flight = [row for row in rows.values() if row.packet_id]
    queued = [row for row in rows.values() if not row.packet_id]
    size = sum(len(row.topic) + len(row.properties) + len(row.payload) for row in queued)
    return StoredState(client_id, session, last + 1, in_flight, list(received), len(queued), size)


def restart(pair: Pair, **settings: object) -> Pair:
    """Return a new process on the same database."""
    other = Pair(durable=True, **settings)
    other.session.recover(replay(pair), make)
    return other


def durable() -> Pair:
    pair = Pair(durable=True)
    pair.session.recover(EMPTY_STORE, make)
    return pair


def test_our_own_goodbyes_are_no_sign_of_poison() -> None:
    """A durable client says goodbye once all is sent, before it is acknowledged; however often it does, the message stays."""
    pair = durable()
    pair.start()
    pair.open()
    pair.accept()
    pair.publish(payload=b"innocent")
    for _ in range(10):
        pair.disconnect()
        assert pair.session.link is None
        pair.start()
        sent = pair.reconnect()
        assert [packet.kind for packet in sent] == ["PUBLISH"]
    assert len(pair.session.outbound.in_flight) == 1


def test_a_network_that_breaks_is_no_sign_of_poison() -> None:
    pair = Pair().connect()
    message = pair.publish()
    for number in (errno.ETIMEDOUT, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENETDOWN) * 3:
        error = LinkLostError("the connection was lost")
        error.__cause__ = OSError(number, "broken")
        pair.lose(error)
        assert [packet.kind for packet in pair.reconnect()] == ["PUBLISH"]
    assert message.outcome is None


def test_a_publication_that_the_disk_refuses_at_the_end_is_not_said_to_be_stored() -> None:
    pair = durable()
    pair.disk_is_broken = True
    message = Outgoing(encode_topic_field(b"t"), b"p", 1, 0x32)
    pair.session.publish(message)
    pair.session.abandon(0.0)
    pair.pump()
    assert isinstance(message.outcome, StoreError)
    assert [entry for kind, entry in pair.log if kind == "resolved"].count(message) == 1


def test_a_publication_that_the_disk_refuses_at_the_goodbye_is_not_said_to_be_stored() -> None:
    pair = durable()
    pair.start()
    pair.open()
    pair.accept()
    pair.disk_is_broken = True
    message = Outgoing(encode_topic_field(b"t"), b"p", 1, 0x32)
    pair.session.publish(message)
    pair.session.disconnect(0.0)
    pair.pump()
    assert isinstance(message.outcome, StoreError)
    assert not isinstance(message.outcome, ClientClosedError)


def test_an_unanswered_unsubscribe_before_a_goodbye_does_not_leave_a_deaf_subscription() -> None:
    """Nobody knows whether the server acted on it, so what is still declared is asked for again."""
    pair = Pair()
    pair.start(SessionExpiryInterval=3_600)
    pair.open()
    pair.accept()
    pair.subscribe("a")
    packet = pair.sent()[-1]
    pair.feed(b"\x90\x04" + packet.packet_id.to_bytes(2, "big") + b"\0\x01")
    pair.unsubscribe("a")
    pair.disconnect()
    assert pair.session.subscriptions.tree.get("a") is not None
    pair.start(SessionExpiryInterval=3_600)
    assert [packet.kind for packet in pair.reconnect()] == ["SUBSCRIBE"]


def test_a_session_that_we_ended_stays_ended_if_the_process_dies_before_the_goodbye_left() -> None:
    pair = durable()
    pair.start()
    pair.open()
    pair.accept()
    pair.peer_takes_nothing = True
    pair.disconnect(0, MQTTDisconnectProps(SessionExpiryInterval=0))
    other = restart(pair)
    other.start()
    assert other.open().clean_start
    other.accept()
    assert other.session.connected_link() is not None
    assert not isinstance(other.session.failure, ForeignSessionError)


def test_what_never_left_before_the_end_is_no_part_of_a_session_that_is_lost() -> None:
    pair = durable()
    pair.start()
    pair.open()
    pair.accept()
    pair.peer_takes_nothing = True
    pair.publish(payload=b"never sent")
    pair.session.abandon(0.0)
    pair.pump()
    state = replay(pair)
    assert (state.queued_messages, state.in_flight) == (1, [])


def test_a_publication_that_was_cancelled_while_it_waited_holds_no_goodbye_back() -> None:
    pair = Pair()
    message = pair.publish()
    assert not pair.session.idle()
    assert pair.session.outbound.cancel(message)
    pair.pump()
    assert pair.session.idle()


@pytest.mark.slow
def test_a_server_that_reads_no_answer_is_not_read_for_ever() -> None:
    pair = Pair().connect(ReceiveMaximum=1)
    link = pair.session.connected_link()
    assert link is not None
    count = 0
    while pair.session.reading() and count < 300_000:
        count += 1
        pair.session.receive(b"\x62\x02\0\x01", 0.0)  # a PUBREL of nothing, which is answered
        turn = pair.session.take(0.0)
        assert turn is not None
        pair.session.release(turn, 0.0)
    assert count < 300_000
    pair.pump()
    assert pair.session.reading()
