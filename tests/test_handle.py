"""Handles: resolved once, waited for by any number of threads, with or without threads of the client's own."""

from __future__ import annotations

from typing import Any

import pytest

from ohmqtt.client import Client
from ohmqtt.errors import (
    CancelledError,
    ClientClosedError,
    MessageExpiredError,
    PacketTooLargeError,
    SessionLostError,
    StateError,
    WaitTimeoutError,
)
from ohmqtt.property import MQTTPublishProps
from ohmqtt.records import SessionLostPolicy
from ohmqtt.session import SessionSettings
from tests.client_tools import PATIENCE_S, Mailbox, in_thread, linked, relink, subscribed


@pytest.mark.parametrize("count", [1, 5])
def test_any_number_of_threads_wait_for_one_outcome(count: int) -> None:
    with linked() as (client, link, _):
        handle = client.publish("t", b"", 1)
        packet_id = link.expect("PUBLISH").packet_id
        waits = [in_thread(handle.wait_for_ack, PATIENCE_S) for _ in range(count)]
        impatient = [in_thread(handle.wait_for_ack, 0.001) for _ in range(count)]
        for wait in impatient:
            with pytest.raises(WaitTimeoutError):
                wait.result()
        link.puback(packet_id)
        acks = [wait.result() for wait in waits]
        assert all(ack == acks[0] for ack in acks)
        assert acks[0].packet_id == packet_id


def test_no_wake_up_is_lost_between_looking_and_waiting() -> None:
    with linked() as (client, link, _):

        def answer() -> None:
            for _ in range(2_000):
                link.puback(link.expect("PUBLISH", PATIENCE_S).packet_id)

        answers = in_thread(answer)
        for _ in range(2_000):
            assert client.publish("t", b"", 1).wait_for_ack(PATIENCE_S) is not None
        answers.result()


def test_a_handle_tells_where_it_stands() -> None:
    with linked() as (client, link, _):
        handle = client.publish("some/topic", b"", 1)
        assert "'some/topic' qos=1 pending" in repr(handle)
        assert not handle.is_done()
        assert handle.ack is None
        with pytest.raises(WaitTimeoutError):
            handle.exception()
        link.puback(link.expect("PUBLISH").packet_id)
        assert handle.exception(PATIENCE_S) is None
        assert handle.is_done()
        assert "resolved" in repr(handle)
        assert handle.wait_for_ack(0) is handle.ack


def test_what_was_not_sent_is_cancelled_for_good() -> None:
    with linked(connack={"ReceiveMaximum": 1}) as (client, link, _):
        first = client.publish("t", b"first", 1)
        second = client.publish("t", b"second", 1)
        third = client.publish("t", b"third", 1)
        packet_id = link.expect("PUBLISH", payload=b"first").packet_id
        assert second.cancel()
        assert second.is_done()
        assert not second.cancel()
        with pytest.raises(CancelledError, match="before it was sent"):
            second.wait_for_ack(0)
        link.puback(packet_id)
        link.puback(link.expect("PUBLISH", payload=b"third").packet_id)
        first.wait_for_ack(PATIENCE_S)
        third.wait_for_ack(PATIENCE_S)
        assert not third.cancel()


@pytest.mark.spec("MQTT-2.2.1-3")
def test_what_was_sent_is_cancelled_for_its_caller_and_its_late_acknowledgement_absorbed() -> None:
    with linked() as (client, link, _):
        handle = client.publish("t", b"", 2)
        waits = in_thread(handle.wait_for_ack, PATIENCE_S)
        packet_id = link.expect("PUBLISH").packet_id
        assert handle.cancel()
        with pytest.raises(CancelledError, match="may have it"):
            waits.result()
        link.pubrec(packet_id)
        link.expect("PUBREL", packet_id=packet_id)
        other = client.publish("t", b"", 1)
        assert link.expect("PUBLISH").packet_id != packet_id
        link.pubcomp(packet_id)
        link.puback(other.packet_id)
        other.wait_for_ack(PATIENCE_S)


def test_a_request_can_be_cancelled() -> None:
    with linked() as (client, link, _):
        handles: list[Any] = [client.subscribe("a"), client.unsubscribe("b")]
        for handle in handles:
            with pytest.raises(WaitTimeoutError):
                handle.exception()
            assert "pending" in repr(handle)
            assert handle.cancel()
            assert handle.is_done()
            assert "resolved CancelledError" in repr(handle)
            assert not handle.cancel()
            with pytest.raises(CancelledError):
                handle.wait_for_ack(0)
            assert isinstance(handle.exception(), CancelledError)
            assert handle.ack is None
        assert repr(handles[0]).startswith("<SubscribeHandle ['a'] ")
        assert repr(handles[1]).startswith("<UnsubscribeHandle ['b'] ")
        link.suback(link.expect("SUBSCRIBE").packet_id, 0)
        link.unsuback(link.expect("UNSUBSCRIBE").packet_id, 0)
        client.publish("t", b"still alive")
        link.expect("PUBLISH")


def test_qos_0_on_its_way_cannot_be_cancelled() -> None:
    with linked() as (client, link, _):
        handle = client.publish("t", b"")
        link.expect("PUBLISH")
        assert handle.wait_for_ack(PATIENCE_S) is None
        assert not handle.cancel()


def test_a_message_that_expired_while_queued_says_so() -> None:
    with linked(connack={"ReceiveMaximum": 1}) as (client, link, _):
        first = client.publish("t", b"", 1)
        late = client.publish("t", b"", 1, properties=MQTTPublishProps(MessageExpiryInterval=0))
        with pytest.raises(MessageExpiredError):
            late.wait_for_ack(PATIENCE_S)
        link.puback(link.expect("PUBLISH").packet_id)
        first.wait_for_ack(PATIENCE_S)


def test_a_lost_session_fails_what_was_sent_and_keeps_what_was_not() -> None:
    with linked(connack={"ReceiveMaximum": 1}) as (client, link, peer):
        sent = client.publish("t", b"sent", 1)
        queued = client.publish("t", b"queued", 1)
        link.expect("PUBLISH")
        link.cut()
        link = relink(peer, session_present=False)
        link.puback(link.expect("PUBLISH", payload=b"queued", dup=False).packet_id)
        assert queued.wait_for_ack(PATIENCE_S) is not None
        with pytest.raises(SessionLostError):
            sent.wait_for_ack(PATIENCE_S)


def test_a_lost_session_republishes_if_asked_to() -> None:
    settings = SessionSettings(session_lost_policy=SessionLostPolicy.REPUBLISH, reconnect_initial_s=0.01, reconnect_max_s=0.01)
    with linked(settings) as (client, link, peer):
        handle = client.publish("t", b"sent", 1)
        link.expect("PUBLISH")
        link.cut()
        link = relink(peer, session_present=False)
        link.puback(link.expect("PUBLISH", payload=b"sent", dup=False).packet_id)
        assert handle.wait_for_ack(PATIENCE_S) is not None


@pytest.mark.spec("MQTT-4.4.0-1", "MQTT-4.6.0-1", "MQTT-4.6.0-4")
def test_a_resumed_session_sends_again_in_order_and_the_same_handles_resolve() -> None:
    with linked() as (client, link, peer):
        handles = [client.publish("t", b"%d" % i, 1 + i % 2) for i in range(6)]
        ids = [link.expect("PUBLISH").packet_id for _ in handles]
        link.pubrec(ids[3])
        link.expect("PUBREL", packet_id=ids[3])
        link.pubrec(ids[1])
        link.expect("PUBREL", packet_id=ids[1])
        link.cut()
        link = relink(peer)
        again = [link.receive() for _ in handles]
        assert [(packet.kind, packet.packet_id) for packet in again[:2]] == [("PUBREL", ids[3]), ("PUBREL", ids[1])]
        assert [(packet.kind, packet.packet_id, packet.dup) for packet in again[2:]] == [("PUBLISH", ids[i], True) for i in (0, 2, 4, 5)]
        for i, packet_id in enumerate(ids):
            if i in {1, 3}:
                link.pubcomp(packet_id)
            elif i % 2 == 0:
                link.puback(packet_id)
            else:
                link.pubrec(packet_id)
                link.expect("PUBREL", packet_id=packet_id)
                link.pubcomp(packet_id)
        for handle in handles:
            assert handle.wait_for_ack(PATIENCE_S) is not None


def test_a_queued_message_that_a_new_server_cannot_take_says_so() -> None:
    with linked(connack={"ReceiveMaximum": 1}) as (client, link, peer):
        client.publish("t", b"", 1)
        large = client.publish("t", bytes(1_000), 1)
        link.expect("PUBLISH")
        link.cut()
        link = relink(peer, MaximumPacketSize=100)
        link.puback(link.expect("PUBLISH").packet_id)
        with pytest.raises(PacketTooLargeError, match="100 bytes"):
            large.wait_for_ack(PATIENCE_S)
        client.publish("t", b"")
        link.expect("PUBLISH", payload=b"")


def test_a_handle_outlives_its_client() -> None:
    client = Client()
    client.start_loop()
    handle = client.publish("t", b"", 1)
    request = client.subscribe("t")
    client.close()
    with pytest.raises(ClientClosedError):
        handle.wait_for_ack(0)
    with pytest.raises(ClientClosedError):
        request.wait_for_ack(0)
    for late in (handle, request):
        with pytest.raises(StateError):
            late.cancel()


def test_waiting_for_two_things_at_once_inside_a_callback() -> None:
    box = Mailbox()

    def callback(client: Client, _: Any) -> None:
        handles = [client.publish("a", b"", 1), client.publish("b", b"", 2)]
        box([handle.wait_for_ack(PATIENCE_S) for handle in reversed(handles)])

    with linked() as (client, link, _):
        subscribed(client, link, "t", callback)
        link.publish("t", b"")
        first = link.expect("PUBLISH").packet_id
        second = link.expect("PUBLISH").packet_id
        link.puback(first)
        link.pubrec(second)
        link.expect("PUBREL")
        link.pubcomp(second)
        assert [ack.packet_id for ack in box.get()] == [second, first]
