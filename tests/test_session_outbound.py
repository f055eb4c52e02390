"""Publications on their way out: identifiers, quota, the flows of QoS 1 and 2, resumption, session loss, poison, goodbye. No I/O."""

from __future__ import annotations

import time
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from ohmqtt.errors import (
    CancelledError,
    ClientClosedError,
    LinkLostError,
    MessageDroppedError,
    MessageExpiredError,
    PacketTooLargeError,
    PoisonMessageError,
    ProtocolError,
    PublishError,
    QueueFullError,
    ServerLimitError,
    SessionLostError,
    StoreError,
    TopicAliasError,
)
from ohmqtt.journal import SESSION
from ohmqtt.packet import (
    MQTTPubAckPacket,
    MQTTPubCompPacket,
    MQTTPublishPacket,
    MQTTPubRecPacket,
    MQTTPubRelPacket,
    MQTTSubscription,
)
from ohmqtt.property import MQTTPubAckProps, MQTTSubscribeProps
from ohmqtt.records import Request, SessionLostPolicy, State
from ohmqtt.session import QueuePolicy
from ohmqtt.session.outbound import FRUITLESS_LINKS_MAX, OUTBOX_BYTES_MAX
from ohmqtt.topic_alias import AliasPolicy
from tests.outbound_world import FakeStore, World, expiring, flush, restored

if TYPE_CHECKING:
    from ohmqtt.records import Outgoing


def payloads(sent: list[Any]) -> list[bytes]:
    return [packet.payload for packet in sent if isinstance(packet, MQTTPublishPacket)]


def a_request() -> Request:
    return Request([MQTTSubscription("filter")], MQTTSubscribeProps.EMPTY)


# -- the flows of QoS 0, 1 and 2 --------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-4.3.1-1", "MQTT-2.2.1-2", "MQTT-3.3.1-2")
def test_qos_0_is_settled_when_its_bytes_were_handed_over() -> None:
    world = World()
    world.connect()
    message = world.publish(qos=0)
    assert world.resolved == []
    assert world.turn() == [MQTTPublishPacket("topic", b"payload", 0, False, False, 0)]
    assert world.resolved == [message]
    assert message.state == State.SETTLED
    assert message.outcome is None
    assert world.outbound.messages == world.outbound.bytes == world.connected.outbox_bytes == 0
    world.check()


@pytest.mark.spec("MQTT-4.3.2-1", "MQTT-4.3.2-2", "MQTT-4.3.2-3")
def test_qos_1_is_settled_by_its_puback() -> None:
    world = World()
    world.connect()
    message = world.publish(qos=1)
    assert world.turn() == [MQTTPublishPacket("topic", b"payload", 1, False, False, 1)]
    assert not message.done
    world.check()
    world.puback(message)
    world.turn()
    assert message.ack == MQTTPubAckPacket(1)
    assert world.connected.send_quota == 65_535
    assert world.outbound.messages == world.outbound.bytes == 0
    world.check()


@pytest.mark.spec(
    "MQTT-4.3.3-1", "MQTT-4.3.3-2", "MQTT-4.3.3-3", "MQTT-4.3.3-4", "MQTT-4.3.3-5", "MQTT-3.6.1-1", "MQTT-4.9.0-2", "MQTT-4.9"
)
def test_qos_2_is_released_by_its_pubrec_and_settled_by_its_pubcomp() -> None:
    world = World(FakeStore())
    world.connect(ReceiveMaximum=2)
    message = world.publish(qos=2)
    assert world.turn() == [MQTTPublishPacket("topic", b"payload", 2, False, False, 1)]
    world.pubrec(message)
    assert world.turn() == [MQTTPubRelPacket(1)]
    assert not message.done
    assert world.connected.send_quota == 1  # a PUBREC gives nothing back
    world.check()
    world.pubcomp(message)
    world.turn()
    assert message.ack == MQTTPubCompPacket(1)
    assert world.connected.send_quota == 2
    world.check()


def test_an_acknowledgement_with_properties_is_the_outcome() -> None:
    world = World()
    world.connect()
    message = world.publish()
    world.turn()
    ack = MQTTPubAckPacket(message.packet_id, 0x10, MQTTPubAckProps(ReasonString="nobody listens"))
    world.puback(message, ack)
    world.turn()
    assert message.ack is ack


@pytest.mark.spec("MQTT-4.4.0-2", "MQTT-4.9.0-2", "MQTT-4.3.3-4", "MQTT-4.3.3", "MQTT-4.9")
@pytest.mark.parametrize("code", [0x80, 0x97])
@pytest.mark.parametrize(("qos", "kind"), [(1, MQTTPubAckPacket), (2, MQTTPubRecPacket)])
def test_a_rejection_is_an_error_ends_the_exchange_and_gives_the_quota_back(qos: int, kind: Any, code: int) -> None:
    world = World(FakeStore())
    world.connect(ReceiveMaximum=1)
    message = world.publish(qos=qos)
    world.turn()
    packet = kind(message.packet_id, code, kind(1).properties.replace(ReasonString="enough"))
    (world.puback if qos == 1 else world.pubrec)(message, packet)
    assert world.turn() == []  # no PUBREL
    assert isinstance(message.outcome, PublishError)
    assert message.ack is packet
    assert f"0x{code:X}" in str(message.outcome)
    assert "enough" in str(message.outcome)
    assert world.connected.send_quota == 1
    assert not world.outbound.in_flight
    world.check()
    world.lose_link()
    assert world.connect(session_present=True, ReceiveMaximum=1) == []  # nothing of it comes again
    world.outbound.last_packet_id = 0
    assert world.publish(qos=qos).packet_id == message.packet_id


def test_a_refused_release_is_an_error() -> None:
    world = World()
    world.connect()
    message = world.publish(qos=2)
    world.turn()
    world.pubrec(message)
    world.turn()
    world.pubcomp(message, MQTTPubCompPacket(message.packet_id, 0x92))
    world.turn()
    assert isinstance(message.outcome, PublishError)
    world.check()


def test_a_refused_release_that_was_sent_before_is_success() -> None:
    world = World()
    world.connect()
    message = world.publish(qos=2)
    world.turn()
    world.pubrec(message)
    world.turn()
    world.lose_link()
    assert world.connect(session_present=True) == [MQTTPubRelPacket(1)]
    packet = MQTTPubCompPacket(message.packet_id, 0x92)
    world.pubcomp(message, packet)
    world.turn()
    # An error would give the packet as its `ack` as well.
    assert message.outcome is message.ack is packet
    world.check()


def test_a_release_that_was_sent_again_excuses_no_later_one() -> None:
    world = World()
    world.connect()
    message = world.publish(qos=2)
    world.turn()
    world.pubrec(message)
    world.turn()
    world.lose_link()
    world.connect(session_present=True)
    world.pubcomp(message)
    # So many messages later, on the same connection, the identifier stands for another exchange.
    world.outbound.last_packet_id = message.packet_id - 1
    later = world.publish(qos=2)
    assert later.packet_id == message.packet_id
    world.turn()
    world.pubrec(later)
    world.turn()
    world.pubcomp(later, MQTTPubCompPacket(later.packet_id, 0x92))
    world.turn()
    assert isinstance(later.outcome, PublishError)
    world.check()


@pytest.mark.spec("MQTT-3.4")
def test_late_acknowledgements_are_absorbed() -> None:
    world = World()
    link = world.accept()
    world.outbound.puback(7, link)
    world.outbound.pubcomp(7, link)
    world.outbound.pubrec(7, link, MQTTPubRecPacket(7, 0x80))
    assert world.turn() == []
    assert link.send_quota == link.send_quota_max
    world.check()


@pytest.mark.spec("MQTT-3.4", "MQTT-3.6.2-1")
def test_a_pubrec_that_nothing_is_known_of_is_told_so() -> None:
    world = World()
    link = world.accept()
    world.outbound.pubrec(7, link)
    world.outbound.pubrec(8, link, MQTTPubRecPacket(8, 0x10))
    assert world.turn() == [MQTTPubRelPacket(7, 0x92), MQTTPubRelPacket(8, 0x92)]


def test_a_repeated_pubrec_gets_its_pubrel_again() -> None:
    world = World()
    world.connect()
    message = world.publish(qos=2)
    world.turn()
    world.pubrec(message)
    world.pubrec(message)
    assert world.turn() == [MQTTPubRelPacket(1), MQTTPubRelPacket(1)]
    world.check()


def test_an_acknowledgement_of_the_wrong_kind_is_a_protocol_error() -> None:
    world = World()
    link = world.accept()
    first, second, third = world.publish(qos=1), world.publish(qos=2), world.publish(qos=2)
    world.turn()
    world.pubrec(third)
    with pytest.raises(ProtocolError, match="QoS 1 exchange"):
        world.pubrec(first)
    for message in (second, third):
        with pytest.raises(ProtocolError, match="QoS 2 exchange"):
            world.puback(message)
    for message in (first, second):
        with pytest.raises(ProtocolError, match="no PUBREC yet"):
            world.pubcomp(message)
    assert link.send_quota == link.send_quota_max - 3
    world.check()


# -- quota ------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.3.4-7", "MQTT-4.9.0-1", "MQTT-4.9.0-2")
@pytest.mark.parametrize("maximum", [1, 2, 20])
@pytest.mark.parametrize("qos", [1, 2])
def test_no_more_than_receive_maximum_is_open(maximum: int, qos: int) -> None:
    world = World()
    world.connect(ReceiveMaximum=maximum)
    messages = world.publish_all(*(b"%d" % i for i in range(30)), qos=qos)
    assert len(world.turn()) == maximum
    for i, message in enumerate(messages):
        if qos == 1:
            world.puback(message)
        else:
            world.pubrec(message)
            assert world.turn() == [MQTTPubRelPacket(message.packet_id)]
            world.pubcomp(message)
        assert len(world.turn()) == (1 if i + maximum < 30 else 0)
        world.check()
    assert world.connected.send_quota == maximum


def test_qos_0_waits_its_turn_behind_what_has_no_quota() -> None:
    world = World()
    world.connect(ReceiveMaximum=1)
    messages = [world.publish(b"1", 1), world.publish(b"2", 1), world.publish(b"3", 0)]
    assert payloads(world.turn()) == [b"1"]
    world.puback(messages[0])
    assert payloads(world.turn()) == [b"2", b"3"]


@pytest.mark.spec("MQTT-4.9.0-2", "MQTT-3.3.4-7", "MQTT-4.9.0-1", "MQTT-4.9")
def test_an_open_release_counts_against_the_quota_of_a_resumed_link() -> None:
    world = World()
    world.connect(ReceiveMaximum=3)
    released = world.publish_all(b"1", b"2", qos=2)
    assigned = world.publish(b"3", 1)
    world.turn()
    for message in released:
        world.pubrec(message)
    world.turn()
    world.publish(b"4")
    world.lose_link()
    assert world.connect(session_present=True, ReceiveMaximum=2) == [MQTTPubRelPacket(1), MQTTPubRelPacket(2)]
    world.check()
    world.pubcomp(released[0])
    assert payloads(world.turn()) == [b"3"]
    world.check()
    world.puback(assigned)
    assert payloads(world.turn()) == [b"4"]
    world.check()


@pytest.mark.spec("MQTT-3.3.4-7", "MQTT-4.9.0-2", "MQTT-4.9")
def test_more_open_releases_than_the_new_quota_hold_everything_back() -> None:
    world = World()
    world.connect(ReceiveMaximum=3)
    released = world.publish_all(b"1", b"2", b"3", qos=2)
    world.turn()
    for message in released:
        world.pubrec(message)
    world.turn()
    world.lose_link()
    assert len(world.connect(session_present=True, ReceiveMaximum=1)) == 3
    assert world.connected.send_quota == -2
    world.publish(b"4")
    for message in released:
        assert payloads(world.turn()) == []
        world.pubcomp(message)
        world.check()
    assert payloads(world.turn()) == [b"4"]


@pytest.mark.spec("MQTT-3.3.4-7", "MQTT-4.9")
@pytest.mark.parametrize("qos", [1, 2])
def test_an_acknowledgement_before_the_resending_gives_no_quota_that_was_not_taken(qos: int) -> None:
    world = World()
    world.connect(ReceiveMaximum=3)
    messages = world.publish_all(b"1", b"2", b"3", qos=qos)
    world.turn()
    world.lose_link()
    assert payloads(world.connect(session_present=True, ReceiveMaximum=1)) == [b"1"]
    # The answer to what was sent on the former link.
    (world.puback if qos == 1 else world.pubrec)(messages[2])
    world.check()
    assert payloads(world.turn()) == []
    if qos == 2:
        world.pubcomp(messages[2])
        world.pubrec(messages[0])
        world.pubcomp(messages[0])
    else:
        world.puback(messages[0])
    assert payloads(world.turn()) == [b"2"]
    world.check()


@pytest.mark.spec("MQTT-4.9")
def test_a_spurious_acknowledgement_does_not_raise_the_quota_above_its_maximum() -> None:
    world = World()
    world.connect(ReceiveMaximum=1)
    message = world.publish()
    world.connected.send_quota = 1
    world.puback(message)
    assert world.connected.send_quota == 1


def test_publications_are_refused_or_dropped_when_the_queue_is_full() -> None:
    world = World(queue_messages_max=1)
    world.publish()
    with pytest.raises(QueueFullError):
        world.publish()
    world = World(queue_messages_max=1, queue_policy=QueuePolicy.DROP_NEWEST)
    world.publish()
    assert isinstance(world.publish().outcome, MessageDroppedError)
    world.check()


def test_qos_0_waits_where_a_policy_can_reach_it_when_much_is_on_its_way() -> None:
    world = World()
    link = world.accept()
    size = OUTBOX_BYTES_MAX // 4
    messages = world.publish_all(*(bytes(size) for _ in range(10)), qos=0)
    turn = world.take()
    assert [message.state for message in messages] == [State.WRITTEN] * 4 + [State.QUEUED] * 6
    world.release(turn)
    link.next_chunk(world.now)
    assert link.outbox_bytes == 0
    world.release(world.take())
    assert [message.state for message in messages] == [State.WRITTEN] * 8 + [State.QUEUED] * 2
    world.flush()
    world.turn()
    assert all(message.done for message in messages)
    assert link.outbox_bytes == 0


# -- packet identifiers -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-2.2.1-3", "MQTT-2.2.1")
def test_identifiers_wrap_past_those_that_are_open() -> None:
    world = World()
    link = world.accept()
    keep = world.publish(b"keep")
    world.outbound.requests[3] = a_request()
    released = world.publish(b"keep", 2)
    world.turn()
    world.pubrec(released)
    assert (keep.packet_id, released.packet_id) == (1, 2)
    world.outbound.last_packet_id = 65_534
    assert [world.publish().packet_id for _ in range(3)] == [65_535, 4, 5]
    assert link.send_quota == 65_535 - 5


def test_without_a_free_identifier_publications_wait() -> None:
    world = World()
    link = world.accept()
    world.outbound.requests = dict.fromkeys(range(1, 65_536), a_request())
    message = world.publish()
    assert world.turn() == []
    assert message.state == State.QUEUED
    assert link.send_quota == 65_535
    del world.outbound.requests[40_000]
    world.turn()
    assert message.packet_id == 40_000


@pytest.mark.slow
def test_allocation_stays_cheap_with_many_exchanges_open() -> None:
    world = World(queue_messages_max=70_000)
    world.connect()
    start = time.process_time()
    for _ in range(65_536):
        world.publish()
    assert len(world.outbound.in_flight) == 65_535
    assert world.outbound.allocate() == 0
    # A second or two of the processor's. To look at all that are open each time would take more than a minute.
    assert time.process_time() - start < 30


# -- resumption -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.3.1-1", "MQTT-4.4.0-1", "MQTT-4.6.0-1", "MQTT-3.3.1-3", "MQTT-4.3.2-3", "MQTT-4.3.3-3")
def test_a_resumed_session_sends_again_in_order_with_dup_and_before_what_is_new() -> None:
    world = World(FakeStore())
    world.connect()
    messages = [world.publish(b"%d" % i, 1 + i % 2, topic=f"topic/{i % 3}") for i in range(6)]
    world.turn()
    world.lose_link()
    world.publish(b"new", 0)
    world.publish(b"new", 1)
    world.check()
    sent = world.connect(session_present=True)
    assert sent[:6] == [
        MQTTPublishPacket(message.topic, message.payload, message.qos, False, True, message.packet_id) for message in messages
    ]
    assert [(packet.payload, packet.dup) for packet in sent[6:]] == [(b"new", False), (b"new", False)]
    world.check()


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.spec("MQTT-4.6.0-1")
def test_what_is_sent_again_keeps_its_order_when_identifiers_have_wrapped_around(restarted: bool) -> None:
    world = World(FakeStore())
    world.connect()
    world.outbound.last_packet_id = 65_533
    world.publish_all(b"1", b"2", b"3", b"4")
    world.turn()
    world.lose_link()
    sent = (World(world.store) if restarted else world).connect(session_present=True)
    assert [(packet.payload, packet.packet_id) for packet in sent] == [(b"1", 65_534), (b"2", 65_535), (b"3", 1), (b"4", 2)]


@pytest.mark.spec("MQTT-4.3.3-6", "MQTT-4.6.0-4", "MQTT-4.4.0-1", "MQTT-4.3.3-5")
def test_releases_are_sent_again_in_the_order_of_their_pubrecs() -> None:
    store = FakeStore()
    world = World(store)
    world.connect()
    messages = world.publish_all(b"1", b"2", b"3", b"4", qos=2)
    world.turn()
    for i in (2, 0, 3):
        world.pubrec(messages[i])
    assert [packet.packet_id for packet in world.turn()] == [3, 1, 4]
    world.lose_link()
    expected = [MQTTPubRelPacket(3), MQTTPubRelPacket(1), MQTTPubRelPacket(4), MQTTPublishPacket("topic", b"2", 2, False, True, 2)]
    assert world.connect(session_present=True) == expected
    # A new process finds the same on disk.
    again = World(store)
    again.check()
    assert again.connect(session_present=True) == expected
    again.check()
    again.pubrec(again.outbound.in_flight[2])
    assert store.rows[3].released == 1
    again.turn()
    assert store.rows[2].released == 4


@pytest.mark.spec("MQTT-3.3.2-6")
def test_what_expired_while_no_process_ran_is_sent_again_with_the_least_interval() -> None:
    """The server may have it, so the exchange must be ended; an interval of 0 is for nobody to see."""
    store = FakeStore()
    world = World(store)
    world.connect()
    world.outbound.publish(expiring(b"payload", 10, world.now), world.link)
    world.turn()
    store.rows[1].expiry_s = 0.0
    (packet,) = World(store).connect(session_present=True)
    assert packet.dup
    assert packet.properties.MessageExpiryInterval == 1


@pytest.mark.spec("MQTT-4.3.2-2")
def test_what_never_left_goes_out_without_dup_on_the_next_link() -> None:
    world = World(FakeStore())
    world.connect()
    message = world.publish()
    world.lose_link()
    assert message.state == State.ASSIGNED
    assert [packet.dup for packet in world.connect(session_present=True)] == [False]
    world.lose_link()
    assert [packet.dup for packet in world.connect(session_present=True)] == [True]


@pytest.mark.spec("MQTT-4.4.0-1")
def test_nothing_is_sent_again_on_the_same_link() -> None:
    world = World()
    world.connect()
    world.publish()
    assert len(world.turn()) == 1
    world.now = 1_000.0
    assert world.turn() == []


def test_what_is_published_while_the_rest_is_sent_again_comes_after_it() -> None:
    world = World()
    world.connect(ReceiveMaximum=2)
    messages = world.publish_all(b"1", b"2")
    world.turn()
    world.lose_link()
    world.connect(session_present=True, ReceiveMaximum=1)
    world.publish(b"3", 0)
    world.publish(b"4", 1)
    assert world.turn() == []
    world.puback(messages[0])
    assert payloads(world.turn()) == [b"2", b"3"]


@pytest.mark.spec("MQTT-4.3.3-7")
def test_what_has_an_identifier_and_never_left_expires_all_the_same() -> None:
    world = World(FakeStore())
    world.connect()
    message = expiring(b"payload", 5, world.now)
    world.outbound.publish(message, world.link)
    later = world.publish(b"later")
    world.lose_link()
    assert message.state == State.ASSIGNED
    world.now = 100.0
    assert payloads(world.connect(session_present=True)) == [b"later"]
    world.turn()
    assert isinstance(message.outcome, MessageExpiredError)
    assert world.store is not None
    assert list(world.store.rows) == [later.sequence]


@pytest.mark.spec("MQTT-4.3.3-7")
def test_what_was_sent_does_not_expire() -> None:
    world = World()
    world.connect()
    message = expiring(b"payload", 5, world.now)
    world.outbound.publish(message, world.link)
    world.turn()
    world.lose_link()
    world.now = 100.0
    world.outbound.expire(world.now)
    (sent,) = world.connect(session_present=True)
    assert sent.properties.MessageExpiryInterval == 1
    world.puback(message)
    world.turn()
    assert message.ack == MQTTPubAckPacket(message.packet_id)


@pytest.mark.spec("MQTT-4.3.1-1")
def test_qos_0_on_its_way_is_lost_with_the_link_and_the_handle_says_so() -> None:
    world = World()
    world.connect()
    in_chunk = world.publish(b"1", 0)
    world.release(world.take())
    world.connected.next_chunk(world.now)
    in_outbox = world.publish(b"2", 0)
    world.publish(b"3", 1)
    world.baskets.writes.append(MQTTPubRelPacket(9, 0x92).encode())
    world.release(world.take())
    in_basket = world.publish(b"4", 0)
    in_turn = world.publish(b"5", 0)
    turn = world.take()
    world.baskets.writes.append(MQTTPubRelPacket(9, 0x92).encode())
    world.lose_link()
    world.release(turn)
    world.turn()
    for message in (in_chunk, in_outbox, in_basket, in_turn):
        assert isinstance(message.outcome, LinkLostError)
        assert message.done
    assert world.outbound.messages == 1
    assert [(packet.payload, packet.dup) for packet in world.connect(session_present=True)] == [(b"3", False)]


def test_qos_0_in_the_queue_outlives_the_link() -> None:
    world = World()
    message = world.publish(b"1", 0)
    world.connect()
    assert message.done
    message = world.publish(b"2", 0)
    world.turn()


# -- cancelling -------------------------------------------------------------------------------------------------------------------------------


def test_cancelled_in_the_queue_is_never_sent() -> None:
    world = World(FakeStore())
    message = world.publish()
    world.turn()
    assert world.outbound.cancel(message)
    assert not world.outbound.cancel(message)
    world.check()
    assert world.connect() == []
    assert isinstance(message.outcome, CancelledError)
    assert message.done
    assert world.outbound.messages == 0
    world.check()


@pytest.mark.parametrize("sent_before", [True, False], ids=["sent", "in the outbox"])
@pytest.mark.parametrize("qos", [1, 2])
def test_cancelled_after_sending_keeps_its_exchange_until_the_acknowledgement(qos: int, sent_before: bool) -> None:
    world = World(FakeStore())
    world.connect()
    message = world.publish(qos=qos)
    if sent_before:
        world.turn()
    assert world.outbound.cancel(message)
    assert not world.outbound.cancel(message)
    world.turn()
    assert isinstance(message.outcome, CancelledError)
    assert world.outbound.messages == 1
    world.check()
    world.lose_link()
    assert world.connect(session_present=True) == [MQTTPublishPacket("topic", b"payload", qos, False, True, 1)]
    world.check()
    if qos == 1:
        world.puback(message)
    else:
        world.pubrec(message)
        assert world.turn() == [MQTTPubRelPacket(1)]
        assert not world.outbound.cancel(message)
        world.pubcomp(message)
    world.turn()
    assert isinstance(message.outcome, CancelledError)
    assert world.outbound.messages == 0
    assert not world.undelivered()
    world.check()


def test_cancelled_after_the_pubrec_still_completes() -> None:
    world = World()
    world.connect()
    message = world.publish(qos=2)
    world.turn()
    world.pubrec(message)
    assert world.outbound.cancel(message)
    assert world.turn() == [MQTTPubRelPacket(1)]
    world.pubcomp(message, MQTTPubCompPacket(1, 0x92))
    world.turn()
    assert isinstance(message.outcome, CancelledError)
    world.check()


def test_a_rejection_after_the_cancellation_is_nobodys_business() -> None:
    world = World()
    world.connect()
    message = world.publish()
    world.turn()
    world.outbound.cancel(message)
    world.puback(message, MQTTPubAckPacket(1, 0x80))
    world.turn()
    assert isinstance(message.outcome, CancelledError)
    assert not world.undelivered()


def test_qos_0_on_its_way_can_not_be_cancelled() -> None:
    world = World()
    world.connect()
    message = world.publish(qos=0)
    assert not world.outbound.cancel(message)
    world.turn()
    assert not world.outbound.cancel(message)


def test_qos_0_in_the_queue_can_be_cancelled() -> None:
    world = World()
    message = world.publish(qos=0)
    assert world.outbound.cancel(message)
    assert world.connect() == []


# -- the server's limits ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.2.2-11", "MQTT-3.2.2-14", "MQTT-3.2.2-15")
@pytest.mark.parametrize(
    ("limits", "options", "expected"),
    [
        ({"MaximumQoS": 1}, {"qos": 2}, ServerLimitError),
        ({"MaximumQoS": 0}, {"qos": 1}, ServerLimitError),
        ({"RetainAvailable": 0}, {"retain": True}, ServerLimitError),
        ({"MaximumPacketSize": 50}, {"payload": bytes(50)}, PacketTooLargeError),
    ],
    ids=["QoS 2", "QoS 1", "RETAIN", "size"],
)
@pytest.mark.parametrize("when", ["at the call", "queued", "in flight"])
def test_what_the_server_can_not_take(limits: dict[str, Any], options: dict[str, Any], expected: type[Exception], when: str) -> None:
    world = World(FakeStore())
    if when == "at the call":
        world.connect(**limits)
        with pytest.raises(expected):
            world.publish(**options)
        assert world.outbound.messages == 0
        assert world.turn() == []
        world.check()
        return
    if when == "in flight":
        world.connect()
    message = world.publish(**options)
    good = world.publish(b"good", 0)
    world.turn()
    if when == "in flight":
        world.lose_link()
        good = world.publish(b"good", 0)
    assert payloads(world.connect(session_present=when == "in flight", **limits)) == [b"good"]
    assert isinstance(message.outcome, expected)
    assert good.done
    assert world.outbound.messages == 0
    assert not world.outbound.in_flight
    world.check()


@pytest.mark.spec("MQTT-3.2.2-11", "MQTT-3.2.2-14", "MQTT-3.2.2-15")
@pytest.mark.parametrize(
    ("limits", "options"),
    [({"MaximumQoS": 0}, {}), ({"RetainAvailable": 0}, {"retain": True}), ({"MaximumPacketSize": 50}, {"payload": bytes(50)})],
    ids=["QoS", "RETAIN", "size"],
)
@pytest.mark.parametrize("sent", [False, True])
def test_what_a_former_process_left_and_the_server_can_not_take(limits: dict[str, Any], options: dict[str, Any], sent: bool) -> None:
    store = FakeStore()
    before = World(store)
    if sent:
        before.connect()
    before.publish(**options)
    before.turn()
    assert [bool(row.packet_id) for row in store.rows.values()] == [sent]
    after = World(store)
    assert after.connect(session_present=sent, **limits) == []
    assert len(after.undelivered()) == 1
    assert store.rows == {}
    after.check()


def test_an_identifier_that_was_given_up_is_not_used_again_while_the_server_may_know_it() -> None:
    world = World()
    world.connect()
    message = world.publish(bytes(100), 2)
    never_sent = world.publish(bytes(100), 2)
    world.connected.outbox.clear()
    world.turn()
    never_sent.sent = False
    world.lose_link()
    world.connect(session_present=True, MaximumPacketSize=50)
    assert isinstance(message.outcome, PacketTooLargeError)
    assert isinstance(never_sent.outcome, PacketTooLargeError)
    world.outbound.last_packet_id = 0
    assert world.publish().packet_id == 2
    # A PUBREC that comes late all the same leads to its end.
    world.outbound.pubrec(1, world.connected)
    assert world.turn()[-1] == MQTTPubRelPacket(1, 0x92)
    world.outbound.pubcomp(1, world.connected, MQTTPubCompPacket(1, 0x92))
    world.outbound.last_packet_id = 0
    assert world.publish().packet_id == 1


@pytest.mark.spec("MQTT-2.2.1-3")
def test_an_identifier_that_was_given_up_is_not_used_again_after_a_restart() -> None:
    store = FakeStore()
    world = World(store)
    world.connect()
    messages = world.publish_all(b"1", b"2", b"3", qos=2)
    world.turn()
    world.lose_link()
    world.connect(session_present=True, MaximumQoS=1)
    assert all(isinstance(message.outcome, ServerLimitError) for message in messages)
    world.check()
    after = World(store)
    after.connect(session_present=True)
    assert after.publish(b"4", 2).packet_id == 4
    # The server had the second one, and ends it.
    after.outbound.pubrec(2, after.connected)
    after.outbound.pubcomp(2, after.connected, MQTTPubCompPacket(2, 0x92))
    after.outbound.pubcomp(2, after.connected, MQTTPubCompPacket(2, 0x92))
    after.turn()
    after.check()
    again = World(store)
    assert again.outbound.retired == {1, 3}
    again.connect(session_present=False)
    again.check()
    assert World(store).outbound.retired == set()


def test_the_identifiers_of_many_that_are_given_up_are_written_down_once() -> None:
    world = World(FakeStore())
    world.connect()
    world.publish_all(*[b"%d" % i for i in range(100)], qos=2)
    world.turn()
    world.lose_link()
    world.accept(session_present=True, MaximumQoS=1)
    assert [entry[0] for entry in world.take().journal].count(SESSION) == 1


def test_the_end_of_the_session_frees_every_identifier() -> None:
    world = World()
    world.connect()
    world.publish(bytes(100), 2)
    world.turn()
    world.lose_link()
    world.connect(session_present=True, MaximumPacketSize=50)
    assert world.outbound.retired == {1}
    world.lose_link()
    world.connect(session_present=False)
    assert not world.outbound.retired


# -- aliases ----------------------------------------------------------------------------------------------------------------------------------


def test_always_needs_a_link_and_an_alias() -> None:
    world = World()
    with pytest.raises(TopicAliasError, match="needs a connection"):
        world.publish(qos=0, alias_policy=AliasPolicy.ALWAYS)
    world.connect(TopicAliasMaximum=1)
    world.publish(qos=0, alias_policy=AliasPolicy.ALWAYS)
    with pytest.raises(TopicAliasError, match="promised"):
        world.publish(qos=0, topic="other", alias_policy=AliasPolicy.ALWAYS)
    assert world.outbound.messages == 1
    world.check()


def test_always_in_the_queue_finds_that_the_next_server_has_no_alias() -> None:
    world = World()
    world.connect(TopicAliasMaximum=1, ReceiveMaximum=1)
    world.publish(b"1")
    world.publish(b"2")
    message = world.publish(b"3", 0, alias_policy=AliasPolicy.ALWAYS)
    world.turn()
    world.lose_link()
    world.connect(session_present=True)
    assert isinstance(message.outcome, TopicAliasError)


def test_an_alias_is_bound_by_the_first_packet_that_leaves() -> None:
    world = World()
    world.connect(TopicAliasMaximum=1)
    for payload in (b"1", b"2"):
        world.publish(payload, 0, alias_policy=AliasPolicy.ALWAYS)
    assert [(packet.topic, packet.properties.TopicAlias) for packet in world.turn()] == [("topic", 1), ("", 1)]


@pytest.mark.spec("MQTT-3.3.2-7")
def test_what_is_sent_again_announces_its_alias_anew() -> None:
    world = World()
    world.connect(TopicAliasMaximum=5)
    world.publish(b"1", alias_policy=AliasPolicy.TRY)
    world.publish(b"2", alias_policy=AliasPolicy.TRY)
    assert [(packet.topic, packet.properties.TopicAlias) for packet in world.turn()] == [("topic", 1), ("", 1)]
    world.lose_link()
    assert [(packet.topic, packet.properties.TopicAlias) for packet in world.connect(True, TopicAliasMaximum=1)] == [("topic", 1), ("", 1)]
    world.lose_link()
    assert [(packet.topic, packet.properties.TopicAlias) for packet in world.connect(True)] == [("topic", None), ("topic", None)]


# -- session lost -----------------------------------------------------------------------------------------------------------------------------


def a_world_with_every_state(policy: SessionLostPolicy) -> tuple[World, list[Any]]:
    """One of each: released, sent QoS 1, sent QoS 2, identified but never sent, queued."""
    world = World(FakeStore(), session_lost_policy=policy)
    world.connect(ReceiveMaximum=4)
    messages = world.publish_all(b"0", qos=2) + world.publish_all(b"1") + world.publish_all(b"2", qos=2)
    world.turn()
    world.pubrec(messages[0])
    world.turn()
    messages += world.publish_all(b"3", b"4")
    world.release(world.take())
    world.check()
    world.lose_link()
    return world, messages


@pytest.mark.spec("MQTT-3.2.2-5", "MQTT-3.1.2-4", "MQTT-4.1")
def test_a_lost_session_clears_what_was_sent() -> None:
    world, messages = a_world_with_every_state(SessionLostPolicy.CLEAR)
    sent = world.connect(session_present=False)
    assert [(packet.payload, packet.dup, packet.packet_id) for packet in sent] == [(b"3", False, 5), (b"4", False, 6)]
    for message in messages[:3]:
        assert isinstance(message.outcome, SessionLostError)
    world.check()


@pytest.mark.spec("MQTT-4.1")
def test_a_lost_session_republishes_what_has_no_pubrec() -> None:
    world, messages = a_world_with_every_state(SessionLostPolicy.REPUBLISH)
    sent = world.connect(session_present=False, ReceiveMaximum=3)
    assert [(packet.payload, packet.dup) for packet in sent] == [(b"1", False), (b"2", False), (b"3", False)]
    assert isinstance(messages[0].outcome, SessionLostError)
    world.check()
    for message in (messages[1], messages[3]):
        world.puback(message)
    assert payloads(world.turn()) == [b"4"]
    world.check()


@pytest.mark.parametrize("policy", SessionLostPolicy)
def test_what_was_cancelled_does_not_outlive_the_session(policy: SessionLostPolicy) -> None:
    world, messages = a_world_with_every_state(policy)
    for message in messages[1:]:
        assert world.outbound.cancel(message)
    assert world.connect(session_present=False) == []
    assert world.outbound.messages == 0
    world.check()


def test_what_is_republished_may_expire() -> None:
    world = World(session_lost_policy=SessionLostPolicy.REPUBLISH)
    world.connect()
    message = expiring(b"payload", 5, world.now)
    world.outbound.publish(message, world.link)
    world.turn()
    world.lose_link()
    world.now = 6.0
    world.outbound.session_lost()
    world.outbound.expire(world.now)
    assert isinstance(message.outcome, MessageExpiredError)


def test_a_publication_that_waits_for_the_wire_of_an_ended_session_does_not_go_out() -> None:
    world = World(FakeStore())
    link = world.accept()
    message = world.publish()
    world.release(world.take())
    world.outbound.session_lost()
    assert flush(link) == []
    assert not message.sent
    assert message.state == State.QUEUED


def test_what_a_former_process_sent_follows_the_policy_and_comes_before_the_rows_on_disk() -> None:
    store = FakeStore()
    former = World(store)
    former.connect(ReceiveMaximum=2)
    former.publish_all(b"1", b"2", b"3", b"4")
    former.turn()
    world = World(store, session_lost_policy=SessionLostPolicy.REPUBLISH)
    assert payloads(world.connect(session_present=False, ReceiveMaximum=1)) == [b"1"]
    world.check()
    for expected in ([b"2"], [b"3"], [b"4"], []):
        world.puback(next(iter(world.outbound.in_flight.values())))
        assert payloads(world.turn()) == expected
        world.check()


# -- poison -----------------------------------------------------------------------------------------------------------------------------------


def fruitless_links(world: World, count: int, closed_by_peer: bool = True) -> list[list[bytes]]:
    """Resume and lose so many links; return what was sent on each."""
    sent = []
    for _ in range(count):
        sent.append(payloads(world.connect(session_present=True)))
        world.lose_link(closed_by_peer)
    return sent


def test_after_three_fruitless_links_publications_are_sent_one_at_a_time_and_poison_is_found() -> None:
    world = World(FakeStore())
    world.connect()
    messages = world.publish_all(b"1", b"2", b"3", qos=2)
    world.turn()
    world.lose_link()
    assert fruitless_links(world, 2) == [[b"1", b"2", b"3"]] * 2
    world.publish(b"0", 0)
    assert fruitless_links(world, 3) == [[b"1"]] * 3
    assert isinstance(messages[0].outcome, PoisonMessageError)
    assert payloads(world.connect(session_present=True)) == [b"2", b"3", b"0"]
    world.check()
    assert world.outbound.retired == {1}
    assert world.store is not None
    assert World(world.store).outbound.retired == {1}


def test_one_at_a_time_ends_with_an_acknowledgement() -> None:
    world = World()
    world.connect()
    messages = world.publish_all(b"1", b"2", b"3", qos=2)
    world.turn()
    world.lose_link()
    fruitless_links(world, 4)
    assert payloads(world.connect(session_present=True)) == [b"1"]
    world.publish(b"4")
    world.publish(b"5", 0)
    assert payloads(world.turn()) == []
    world.pubrec(messages[0])
    sent = world.turn()
    assert sent[0] == MQTTPubRelPacket(1)
    assert payloads(sent) == [b"2", b"3", b"4", b"5"]
    world.lose_link()
    # The count begins anew.
    assert [len(sent) for sent in fruitless_links(world, 3)] == [3, 3, 3]
    assert [len(sent) for sent in fruitless_links(world, 1)] == [0]  # the open PUBREL is what is on its way


def test_one_at_a_time_holds_back_what_is_new() -> None:
    world = World()
    world.connect()
    message = world.publish(b"1")
    world.turn()
    world.lose_link()
    fruitless_links(world, 2)
    assert payloads(world.connect(session_present=True)) == [b"1"]
    world.publish(b"2", 0)
    world.publish(b"3", 1)
    assert payloads(world.turn()) == []
    world.puback(message)
    assert payloads(world.turn()) == [b"2", b"3"]


def test_strikes_are_counted_in_a_row() -> None:
    world = World()
    world.connect()
    messages = world.publish_all(b"1", b"2")
    world.turn()
    world.lose_link()
    fruitless_links(world, 4)
    assert world.outbound.strikes == 2
    world.connect(session_present=True)
    other = messages[1]
    world.puback(other)
    world.lose_link()
    fruitless_links(world, 5)
    assert world.outbound.strikes == 2
    assert messages[0].outcome is None
    fruitless_links(world, 1)
    assert isinstance(messages[0].outcome, PoisonMessageError)


def test_poison_can_be_kept() -> None:
    world = World(keep_poison=True)
    world.connect()
    message = world.publish(b"1")
    world.turn()
    world.lose_link()
    assert fruitless_links(world, 20) == [[b"1"]] * 20
    assert message.outcome is None


def test_links_that_were_not_closed_by_the_peer_do_not_count() -> None:
    world = World()
    world.connect()
    world.publish(b"1")
    world.turn()
    world.lose_link(closed_by_peer=False)
    fruitless_links(world, 20, closed_by_peer=False)
    assert world.outbound.fruitless_links == 0


def test_links_that_carried_no_publication_do_not_count() -> None:
    world = World()
    world.connect()
    world.publish(b"1")
    world.lose_link()
    assert world.outbound.fruitless_links == 0


def test_qos_0_alone_is_not_held_back_by_former_failures() -> None:
    world = World()
    world.outbound.fruitless_links = FRUITLESS_LINKS_MAX
    world.connect()
    world.publish(b"1", 0)
    world.publish(b"2", 1)
    assert payloads(world.turn()) == [b"1", b"2"]


def test_a_link_that_is_lost_while_only_unsent_publications_are_open_strikes_nobody() -> None:
    world = World()
    world.outbound.fruitless_links = FRUITLESS_LINKS_MAX
    link = world.accept()
    message = world.publish(b"1")
    world.take()
    link.publishes_sent = 1
    world.lose_link()
    assert world.outbound.fruitless_links == FRUITLESS_LINKS_MAX + 1
    assert world.outbound.strikes == 0
    assert message.outcome is None


# -- goodbye ----------------------------------------------------------------------------------------------------------------------------------


def say_goodbye(store: FakeStore | None, survives: bool, policy: SessionLostPolicy = SessionLostPolicy.CLEAR) -> tuple[World, list[Any]]:
    """Close a world that holds: released, sent, cancelled, unsent, queued, queued QoS 0, on disk, QoS 0 behind that."""
    world = World(store, window_messages=2, session_lost_policy=policy)
    world.connect(ReceiveMaximum=4)
    messages = [world.publish(b"0", 2), world.publish(b"1"), world.publish(b"2")]
    world.turn()
    world.pubrec(messages[0])
    world.outbound.cancel(messages[2])
    world.turn()
    messages += [world.publish(b"3"), world.publish(b"4"), world.publish(b"5", 0), world.publish(b"6"), world.publish(b"7", 0)]
    cancelled = world.publish(b"8", 0)
    world.outbound.cancel(cancelled)
    world.release(world.take())
    world.outbound.close_out(survives)
    if not survives:
        world.outbound.session_lost()
    world.release(world.baskets.take(world.link, world.now))
    world.flush()
    world.lose_link(closed_by_peer=False)
    world.check()
    assert all(message.done for message in messages)
    return world, messages


def outcomes(messages: list[Any]) -> list[Any]:
    return [message.outcome.stored if isinstance(message.outcome, ClientClosedError) else type(message.outcome) for message in messages]


def test_goodbye_without_database_and_without_session_settles_everything() -> None:
    world, messages = say_goodbye(None, survives=False)
    assert outcomes(messages) == [False, False, CancelledError, False, False, False, False, False]
    assert world.outbound.messages == 0
    assert not world.outbound.in_flight
    assert not world.outbound.released


@pytest.mark.parametrize("policy", SessionLostPolicy)
def test_goodbye_without_database_lets_the_exchanges_of_a_session_go_on(policy: SessionLostPolicy) -> None:
    world, messages = say_goodbye(None, survives=True, policy=policy)
    assert outcomes(messages) == [False, False, CancelledError, False, False, False, False, False]
    assert world.outbound.messages == 4
    assert [packet.packet_id for packet in world.connect(session_present=True)] == [1, 2, 3, 4]
    world.check()
    world.puback(messages[1])
    world.pubcomp(messages[0])
    world.lose_link()
    # Nobody wants the rest to be published anew, nor to hear of it.
    assert world.connect(session_present=False) == []
    assert world.outbound.messages == 0
    assert not world.undelivered()


def test_goodbye_with_a_database_keeps_everything_but_qos_0() -> None:
    store = FakeStore()
    world, messages = say_goodbye(store, survives=True)
    assert outcomes(messages) == [True, True, CancelledError, True, True, False, True, False]
    assert [row.payload for row in store.rows.values()] == [b"0", b"1", b"2", b"3", b"4", b"6"]
    assert payloads(world.connect(session_present=True)) == [b"1", b"2", b"3", b"4", b"6"]
    world.check()
    # What fails after the goodbye is reported, since no handle can tell.
    world.puback(messages[1], MQTTPubAckPacket(2, 0x80))
    world.puback(messages[3])
    world.turn()
    ((message, error),) = world.undelivered()
    assert message is messages[1]
    assert isinstance(error, PublishError)
    assert isinstance(messages[1].outcome, ClientClosedError)


def test_goodbye_with_a_database_does_not_promise_what_ends_with_the_session() -> None:
    store = FakeStore()
    _, messages = say_goodbye(store, survives=False)
    assert outcomes(messages) == [False, False, CancelledError, True, True, False, True, False]
    assert [row.payload for row in store.rows.values()] == [b"3", b"4", b"6"]


def test_goodbye_with_a_database_keeps_what_is_to_be_published_anew() -> None:
    store = FakeStore()
    _, messages = say_goodbye(store, survives=False, policy=SessionLostPolicy.REPUBLISH)
    assert outcomes(messages) == [False, True, CancelledError, True, True, False, True, False]
    assert [row.payload for row in store.rows.values()] == [b"1", b"3", b"4", b"6"]


def test_a_client_that_ends_queues_again_what_has_an_identifier_and_never_left() -> None:
    store = FakeStore()
    world = World(store, window_messages=1)
    world.connect(ReceiveMaximum=5)
    world.publish(b"1")
    world.turn()
    messages = [world.publish(b"2"), world.publish(b"3"), world.publish(b"4")]
    world.outbound.cancel(messages[1])
    world.release(world.take())
    world.lose_link()
    world.outbound.requeue_unsent()
    world.check()
    world.turn()
    # The cancelled one never left either, so nothing is left of it.
    assert [(row.payload, row.packet_id) for row in store.rows.values()] == [(b"1", 1), (b"2", 0), (b"4", 0)]
    again = World(store)
    assert payloads(again.connect(session_present=False)) == [b"2", b"4"]


def test_goodbye_twice_resolves_once() -> None:
    world = World(FakeStore())
    message = world.publish()
    world.outbound.close_out(True)
    world.outbound.close_out(True)
    world.turn()
    assert message.outcome.stored


# -- a disk that refuses ----------------------------------------------------------------------------------------------------------------------


def refuse(world: World) -> tuple[StoreError, list[Outgoing], list[tuple[Any, ...]]]:
    """Take a turn whose commit fails; return what was withdrawn and what is kept for another try."""
    error = StoreError("disk full")
    turn = world.take()
    found = world.outbound.withdraw(turn, error, world.link) + world.outbound.withdraw(world.baskets, error, world.link)
    world.resolve(found)
    kept = list(turn.journal)
    world.release(turn)
    return error, found, kept


def test_a_refused_publication_is_as_if_it_had_never_been() -> None:
    world = World(FakeStore(), window_messages=1)
    world.connect(ReceiveMaximum=3)
    before = world.publish(b"before")
    world.turn()
    messages = [world.publish(b"1"), world.publish(b"2"), world.publish(b"queued"), world.publish(b"on disk"), world.publish(b"behind", 0)]
    error, found, kept = refuse(world)
    assert found == messages[:4]
    assert all(message.outcome is error for message in found)
    assert kept == []
    assert world.flush() == []
    world.check()
    assert world.connected.send_quota == 2
    assert payloads(world.turn()) == [b"behind"]
    world.puback(before)
    assert payloads([*world.turn(), *([world.publish(b"next")] and world.turn())]) == [b"next"]
    world.check()


def test_what_came_from_the_peer_is_kept_when_the_disk_refuses() -> None:
    world = World(FakeStore())
    world.connect()
    first, second = world.publish_all(b"1", b"2", qos=2)
    world.turn()
    world.pubrec(first)
    world.publish(b"3")
    world.publish(b"4", 0)
    _, found, kept = refuse(world)
    assert [message.payload for message in found] == [b"3"]
    assert len(kept) == 1
    sent = world.flush()
    assert sent[0] == MQTTPubRelPacket(1)
    assert payloads(sent) == [b"4"]
    assert second.outcome is None
    world.check()


def test_a_refused_publication_that_was_settled_meanwhile_keeps_its_outcome() -> None:
    world = World(FakeStore())
    world.accept(ReceiveMaximum=1)
    in_flight = world.publish(b"1")
    world.outbound.cancel(in_flight)
    assert in_flight.state == State.ASSIGNED
    queued = world.publish(b"2")
    world.outbound.cancel(queued)
    _, found, kept = refuse(world)
    assert not found
    assert not kept
    assert isinstance(queued.outcome, CancelledError)
    assert isinstance(in_flight.outcome, CancelledError)
    assert world.flush() == []
    assert world.outbound.messages == 0
    world.check()


def test_a_refused_publication_frees_no_quota_that_it_does_not_have() -> None:
    world = World(FakeStore())
    world.connect(ReceiveMaximum=2)
    kept = world.publish(b"1")
    world.turn()
    message = world.publish(b"2")
    turn = world.take()
    world.lose_link()
    link = world.accept(session_present=True, ReceiveMaximum=1)
    world.outbound.pump(link, world.now)
    assert link.send_quota == 0
    error = StoreError("disk full")
    world.resolve(world.outbound.withdraw(turn, error, link))
    assert message.outcome is error
    assert link.send_quota == 0
    world.check()
    assert payloads(world.turn()) == [b"1"]
    world.puback(kept)
    assert world.turn() == []
    assert link.send_quota == 1


def test_a_refused_publication_without_a_link() -> None:
    world = World(FakeStore())
    world.connect()
    message = world.publish()
    turn = world.take()
    world.lose_link()
    world.resolve(world.outbound.withdraw(turn, StoreError("disk full"), None))
    world.check()
    assert message.packet_id not in world.outbound.in_flight


# -- handles of former processes --------------------------------------------------------------------------------------------------------------


def test_pending_publications_can_be_claimed() -> None:
    store = FakeStore()
    former = World(store, window_messages=2)
    former.connect(ReceiveMaximum=2)
    former.publish(b"0", 2)
    former.publish_all(b"1", b"2", b"3", b"4", b"5")
    former.turn()
    former.pubrec(former.outbound.in_flight[1])
    former.turn()
    world = World(store, window_messages=2)
    world.turn()
    assert [message.payload for message in world.outbound.pending()] == [b"0", b"1", b"2", b"3"]
    assert not any(message.claimed for message in world.outbound.pending())
    rows = store.load().in_flight + store.load_queued(0, 10, 1_000)
    claimed = world.outbound.claim(rows, restored)
    assert [message.payload for message in claimed] == [b"0", b"1", b"2", b"3", b"4", b"5"]
    assert all(message.claimed for message in claimed)
    assert world.outbound.claim(rows[5:6], restored) == [claimed[5]]
    for message in (claimed[3], claimed[4]):
        world.outbound.cancel(message)
    assert world.outbound.claim(rows[3:5], restored) == []
    world.check()
    sent = world.connect(session_present=True)
    assert payloads(sent) == [b"1", b"2", b"5"]
    assert claimed[5].state == State.ASSIGNED
    world.check()


def test_pending_publications_come_in_order_and_qos_0_is_none_of_them() -> None:
    world = World()
    world.connect(ReceiveMaximum=2)
    world.publish_all(b"1", b"2", qos=2)
    world.publish(b"3")
    world.publish(b"4", 0)
    world.outbound.cancel(world.publish(b"5"))
    world.turn()
    world.pubrec(world.outbound.in_flight[2])
    assert [message.payload for message in world.outbound.pending()] == [b"1", b"2", b"3"]


def test_a_failure_that_no_handle_can_tell_is_reported() -> None:
    store = FakeStore()
    former = World(store)
    former.connect()
    former.publish(b"1")
    former.publish(b"2")
    former.turn()
    world = World(store)
    (first, second) = world.outbound.pending()
    second.claimed = True
    world.connect(session_present=False)
    ((message, error),) = world.undelivered()
    assert message is first
    assert isinstance(error, SessionLostError)
    assert isinstance(second.outcome, SessionLostError)
    world.check()


# -- memory -----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_exchange_takes_no_more_than_400_bytes_beyond_topic_and_payload() -> None:
    world = World()
    world.connect()
    payload = b"shared"
    topic = "topic"
    held: list[Any] = []
    count = 10_000
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        held += [world.publish(payload, 2, topic=topic) for _ in range(count)]
        world.turn()
        used = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(world.outbound.in_flight) == count
    assert used / count <= 400, used / count


# -- after a goodbye ----------------------------------------------------------------------------------------------------------------------------


def said_goodbye(*qoses: int, **settings: Any) -> tuple[World, list[Outgoing], list[Outgoing]]:
    """Return a durable world that has said goodbye with publications in flight, these, and the ones in whose name they go on."""
    world = World(FakeStore(), **settings)
    world.connect()
    former: list[Outgoing] = [world.publish(b"%d" % i, qos) for i, qos in enumerate(qoses)]
    world.turn()
    world.outbound.close_out(True)
    assert list(world.outbound.pending()) == []  # nobody has heard of the goodbye yet
    world.lose_link()
    heirs = list(world.outbound.pending())
    assert [heir.payload for heir in heirs] == [message.payload for message in former]
    for heir in heirs:
        heir.claimed = True
    return world, former, heirs


def test_a_publication_that_a_goodbye_has_resolved_goes_on_in_a_new_name() -> None:
    world, former, heirs = said_goodbye(1, 2)
    assert list(world.outbound.pending()) == heirs
    world.connect(session_present=True)
    world.puback(former[0])
    world.pubrec(former[1])
    world.pubcomp(former[1])
    world.turn()
    assert [heir.ack for heir in heirs] == [MQTTPubAckPacket(1), MQTTPubCompPacket(2)]
    assert all(isinstance(message.outcome, ClientClosedError) for message in former)
    assert (list(world.outbound.pending()), world.outbound.heirs, world.events) == ([], {}, [])
    world.check()


def test_the_new_name_hears_of_a_failure_and_nobody_else_does_if_somebody_holds_it() -> None:
    world, _, heirs = said_goodbye(1, 1)
    heirs[1].claimed = False
    world.connect(session_present=False)
    assert all(isinstance(heir.outcome, SessionLostError) and heir.done for heir in heirs)
    assert [event.message.payload for event in world.events] == [b"1"]
    world.check()


@pytest.mark.parametrize("session_present", [True, False])
def test_what_is_cancelled_in_its_new_name_goes_on_only_while_it_must(session_present: bool) -> None:
    world, former, (heir,) = said_goodbye(1, session_lost_policy=SessionLostPolicy.REPUBLISH)
    assert not world.outbound.cancel(former[0])
    assert world.outbound.cancel(heir)
    assert not world.outbound.cancel(heir)
    assert list(world.outbound.pending()) == []
    assert payloads(world.connect(session_present=session_present)) == [b"0"][:session_present]
    if session_present:
        world.puback(former[0])
        world.turn()
    assert isinstance(heir.outcome, CancelledError)
    assert world.resolved.count(heir) == 1
    assert (world.outbound.messages, world.outbound.heirs, world.events) == (0, {}, [])
    world.check()


def test_what_is_published_again_keeps_its_new_name_and_a_second_goodbye_ends_it() -> None:
    world, former, (heir,) = said_goodbye(1, session_lost_policy=SessionLostPolicy.REPUBLISH)
    assert payloads(world.connect(session_present=False)) == [b"0"]
    world.outbound.close_out(True)
    world.turn()
    assert isinstance(heir.outcome, ClientClosedError)
    assert heir.outcome.stored
    assert world.resolved.count(heir) == world.resolved.count(former[0]) == 1
    (another,) = world.outbound.pending()
    assert another is not heir
    assert not another.claimed


def test_what_was_never_sent_can_be_cancelled_in_its_new_name() -> None:
    world = World(FakeStore())
    former = world.publish()
    world.turn()
    world.outbound.close_out(False)
    world.turn()
    (heir,) = world.outbound.pending()
    heir.claimed = True
    assert world.outbound.cancel(heir)
    world.turn()
    assert isinstance(heir.outcome, CancelledError)
    assert isinstance(former.outcome, ClientClosedError)
    assert (world.outbound.messages, world.outbound.heirs, world.events) == (0, {}, [])
    world.check()
