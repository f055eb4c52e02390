"""Delivery to user code: what callbacks may do, when and in which order acknowledgements leave, overlap, back-pressure."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from ohmqtt.client import Client
from ohmqtt.errors import MessageExpiredError
from ohmqtt.packet import MQTTSubscription
from ohmqtt.property import MQTTPublishProps
from ohmqtt.session import SessionSettings
from ohmqtt.store import SQLiteStore
from tests.client_tools import (
    KEEP_ALIVE_S,
    PATIENCE_S,
    QUICK,
    Gate,
    Mailbox,
    attach,
    in_thread,
    linked,
    log_box,
    publish_bytes,
    relink,
    subscribed,
)
from tests.peer import Peer

if TYPE_CHECKING:
    from pathlib import Path

    from ohmqtt.records import Message
    from tests.peer import Link

# -- what callbacks may do --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [1, 2])
def test_a_callback_publishes_and_waits(qos: int) -> None:
    box = Mailbox()

    def callback(client: Client, message: Message) -> None:
        box(client.publish("answer", message.payload, qos).wait_for_ack(PATIENCE_S))

    with linked() as (client, link, _):
        subscribed(client, link, "ask", callback)
        link.publish("ask", b"?", 1, 5)
        packet_id = link.expect("PUBLISH", topic="answer", payload=b"?").packet_id
        if qos == 2:
            link.pubrec(packet_id)
            link.expect("PUBREL")
            link.pubcomp(packet_id)
        else:
            link.puback(packet_id)
        assert box.get().packet_id == packet_id
        link.expect("PUBACK", packet_id=5)


def test_a_callback_subscribes_and_unsubscribes_and_waits() -> None:
    box = Mailbox()

    def callback(client: Client, _: Message) -> None:
        box(client.subscribe("other", box).wait_for_ack(PATIENCE_S))
        box(client.unsubscribe("t").wait_for_ack(PATIENCE_S))

    with linked() as (client, link, _):
        subscribed(client, link, "t", callback)
        link.publish("t", b"go")
        packet = link.expect("SUBSCRIBE")
        link.suback(packet.packet_id, 1)
        assert box.get().reason_codes == (1,)
        link.unsuback(link.expect("UNSUBSCRIBE").packet_id, 0)
        assert box.get().reason_codes == (0,)
        link.publish("other", b"hello")
        assert box.get().payload == b"hello"


def test_a_callback_disconnects_and_is_not_waited_for() -> None:
    box = Mailbox()

    def callback(client: Client, _: Message) -> None:
        client.disconnect(4)
        box("disconnected")

    with linked() as (client, link, _):
        subscribed(client, link, "t", callback)
        link.publish("t", b"go", 1, 1)
        link.expect("DISCONNECT", reason_code=4)
        link.expect_eof()
        assert box.get() == "disconnected"
        assert not client.is_connected()


def test_a_callback_closes_the_client_and_no_thread_joins_itself() -> None:
    box = Mailbox()

    def callback(client: Client, _: Message) -> None:
        client.close()
        box("closed")

    with linked() as (client, link, _):
        subscribed(client, link, "t", callback)
        link.publish("t", b"go")
        link.expect("DISCONNECT")
        link.expect_eof()
        assert box.get() == "closed"
        driver = client._driver
        assert driver is not None
        assert driver.delivery.thread is not None
        driver.delivery.thread.join(PATIENCE_S)
        assert not driver.delivery.thread.is_alive()


def test_a_callback_that_publishes_into_a_full_queue_waits_for_room() -> None:
    box = Mailbox()

    def callback(client: Client, _message: Message) -> None:
        for _ in range(5):
            client.publish("out", b"", 1)
        box("published")

    with linked(SessionSettings(queue_messages_max=1)) as (client, link, _):
        subscribed(client, link, "t", callback)
        link.publish("t", b"go")
        for _ in range(5):
            link.puback(link.expect("PUBLISH", topic="out").packet_id)
        assert box.get() == "published"


def test_handlers_of_connection_events_may_use_the_client() -> None:
    with Peer() as peer, Client(settings=QUICK) as client:
        box = Mailbox()

        def on_connect(client: Client, _: Any) -> None:
            box(client.publish("hello", b"", 1).wait_for_ack(PATIENCE_S))

        client.on_connect = on_connect
        link = attach(client, peer)
        link.puback(link.expect("PUBLISH", topic="hello").packet_id)
        assert box.get() is not None


# -- a callback that fails --------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-4.5.0-2")
@pytest.mark.parametrize("failure", [ValueError("broken"), SystemExit("broken"), KeyboardInterrupt("broken")])
@pytest.mark.parametrize(("qos", "kind"), [(1, "PUBACK"), (2, "PUBREC")])
@pytest.mark.parametrize("properties", [{}, {"ContentType": "x"}])
def test_a_callback_that_raises_is_logged_and_never_answered_with_success(
    caplog: pytest.LogCaptureFixture, qos: int, kind: str, failure: BaseException, properties: dict[str, Any]
) -> None:
    def callback(_client: Client, message: Message) -> None:
        if message.payload == b"bad":
            raise failure

    with linked() as (client, link, _):
        subscribed(client, link, "t", callback)
        link.publish("t", b"bad", qos, 1, **properties)
        link.expect(kind, packet_id=1, reason_code=0x83)
        link.publish("t", b"good", qos, 2, **properties)
        link.expect(kind, packet_id=2, reason_code=0)
    [record] = [record for record in caplog.records if "callback" in record.message]
    assert "'t'" in record.message
    assert record.exc_info is not None
    assert record.exc_info[1] is failure


def test_a_callback_of_qos_0_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    box = Mailbox()

    def callback(client: Client, message: Message) -> None:
        box(client, message)
        raise ValueError(message.payload)

    with linked() as (client, link, _):
        subscribed(client, link, "t", callback)
        link.publish("t", b"1")
        link.publish("t", b"2")
        assert box.payloads(2) == [b"1", b"2"]
    assert sum("callback" in record.message for record in caplog.records) == 2


def test_a_handler_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def on_connect(*_: Any) -> None:
        raise ValueError("broken")

    with Peer() as peer, Client() as client:
        client.on_connect = on_connect
        attach(client, peer)
    assert any("handler" in record.message and record.exc_info for record in caplog.records)


def test_a_log_that_raises_stops_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise OSError("the log is broken")

    def callback(_client: Client, message: Message) -> None:
        raise ValueError(message.payload)

    handler = Broken()
    logging.getLogger("ohmqtt").addHandler(handler)
    try:
        with linked() as (client, link, _):
            subscribed(client, link, "t", callback)
            link.publish("t", b"", 1, 1)
            link.expect("PUBACK", packet_id=1, reason_code=0x83)
            link.publish("t", b"", 1, 2)
            link.expect("PUBACK", packet_id=2, reason_code=0x83)
    finally:
        logging.getLogger("ohmqtt").removeHandler(handler)
    assert "the log is broken" in capsys.readouterr().err


# -- a slow callback ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-4.6.0-2", "MQTT-4.6.0-3")
@pytest.mark.parametrize(("qos", "kind"), [(1, "PUBACK"), (2, "PUBREC")])
def test_an_acknowledgement_does_not_wait_behind_a_slow_callback(qos: int, kind: str) -> None:
    gate = Gate()
    with linked() as (client, link, _):
        subscribed(client, link, "quick", lambda *_: None)
        subscribed(client, link, "slow", gate)
        for i in range(1, 60, 3):
            gate.open.clear()
            link.send_raw(
                publish_bytes("quick", b"", qos, i) + publish_bytes("slow", b"", qos, i + 1) + publish_bytes("quick", b"", qos, i + 2)
            )
            link.expect(kind, packet_id=i)
            gate.wait_entered()
            gate.open.set()
            link.expect(kind, packet_id=i + 1)
            link.expect(kind, packet_id=i + 2)


def test_a_batch_behind_a_slow_one_is_acknowledged_in_time_too() -> None:
    gate = Gate()
    with linked() as (client, link, _):
        subscribed(client, link, "quick", lambda *_: None)
        subscribed(client, link, "slow", gate)
        link.publish("slow", b"", 1, 1)
        gate.wait_entered()
        link.send_raw(publish_bytes("quick", b"", 1, 2) + publish_bytes("slow", b"", 1, 3))
        # A round trip later both are in the inbox, and the I/O thread sleeps.
        client.publish("t", b"", 1)
        link.puback(link.expect("PUBLISH").packet_id)
        gate.open.set()
        link.expect("PUBACK", packet_id=1)
        link.expect("PUBACK", packet_id=2)
        gate.wait_entered()


@pytest.mark.slow
def test_a_slow_callback_does_not_delay_the_keep_alive() -> None:
    gate = Gate()
    with linked(keep_alive=KEEP_ALIVE_S) as (client, link, _):
        subscribed(client, link, "t", gate)
        link.publish("t", b"", 1, 1)
        gate.wait_entered()
        for _ in range(2):
            link.expect("PINGREQ")
            link.pingresp()
        gate.open.set()
        link.expect("PUBACK", packet_id=1)


# -- manual acknowledgement --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("qos", "kind"), [(1, "PUBACK"), (2, "PUBREC")])
def test_manual_acknowledgements_from_any_thread_in_any_order_leave_in_the_order_of_arrival(qos: int, kind: str) -> None:
    box = Mailbox()
    with linked(manual_ack=True) as (client, link, _):
        subscribed(client, link, "t", box)
        for i in range(1, 6):
            link.publish("t", b"%d" % i, qos, i)
        messages = [box.get() for _ in range(5)]
        for i in (4, 2, 3, 1):
            in_thread(messages[i].ack).result()
        link.expect_nothing()
        in_thread(messages[0].ack, 0x80).result()
        messages[0].ack(0)
        for i in range(1, 6):
            link.expect(kind, packet_id=i, reason_code=0x80 if i == 1 else 0)
        link.expect_nothing()


def test_a_message_that_needs_no_acknowledgement_can_be_acknowledged() -> None:
    box = Mailbox()
    with linked(manual_ack=True) as (client, link, _):
        subscribed(client, link, "t", box)
        link.publish("t", b"")
        box.get().ack()
        link.expect_nothing()


def test_an_acknowledgement_after_the_client_was_closed_does_nothing() -> None:
    box = Mailbox()
    with linked(manual_ack=True) as (client, link, _):
        subscribed(client, link, "t", box)
        link.publish("t", b"", 1, 1)
        message = box.get()
        client.close(0.0)
        message.ack()


# -- a link that dies while a callback runs ------------------------------------------------------------------------------------------------------


def test_qos_1_is_delivered_once_and_answered_on_the_new_link_only() -> None:
    gate = Gate()
    with linked() as (client, link, peer):
        subscribed(client, link, "t", gate)
        link.publish("t", b"x", 1, 7)
        gate.wait_entered()
        link.cut()
        link = relink(peer)
        link.publish("t", b"x", 1, 7, dup=True)
        link.publish("t", b"y", 1, 8)
        link.expect_nothing()
        gate.open.set()
        link.expect("PUBACK", packet_id=7)
        link.expect("PUBACK", packet_id=8)
        gate.wait_entered()
        assert gate.done == [b"x", b"y"]
        link.expect_nothing()


@pytest.mark.spec("MQTT-4.3.3-10")
@pytest.mark.parametrize("dup", [False, True])
def test_qos_2_is_delivered_once_and_answered_on_the_new_link_only(dup: bool) -> None:
    gate = Gate()
    with linked() as (client, link, peer):
        subscribed(client, link, "t", gate)
        link.publish("t", b"x", 2, 7)
        gate.wait_entered()
        link.cut()
        link = relink(peer)
        link.publish("t", b"x", 2, 7, dup=dup)
        link.expect_nothing()
        gate.open.set()
        link.expect("PUBREC", packet_id=7)
        link.pubrel(7)
        link.expect("PUBCOMP", packet_id=7)
        link.publish("t", b"new", 2, 7)
        link.expect("PUBREC", packet_id=7)
        gate.wait_entered()
        assert gate.done == [b"x", b"new"]


@pytest.mark.parametrize("qos", [1, 2])
def test_no_acknowledgement_goes_to_a_session_that_does_not_know_the_message(qos: int) -> None:
    gate = Gate()
    with linked() as (client, link, peer):
        subscribed(client, link, "t", gate)
        link.publish("t", b"x", qos, 7)
        gate.wait_entered()
        link.cut()
        link = relink(peer, session_present=False)
        link.suback(link.expect("SUBSCRIBE").packet_id, 2)
        link.publish("t", b"other", qos, 7)
        gate.open.set()
        link.expect("PUBACK" if qos == 1 else "PUBREC", packet_id=7)
        link.expect_nothing()
        assert gate.done == [b"x", b"other"]


# -- whom a message is due to --------------------------------------------------------------------------------------------------------------------


def test_messages_arrive_in_order_whatever_their_qos() -> None:
    box = Mailbox()
    with linked() as (client, link, _):
        subscribed(client, link, "#", box)
        link.send_raw(b"".join(publish_bytes(f"t/{i % 7}", b"%d" % i, i % 3, i + 1 if i % 3 else 0) for i in range(300)))
        assert box.payloads(300) == [b"%d" % i for i in range(300)]


def answer_subscribes(link: Link, count: int) -> dict[str, int]:
    """Answer SUBSCRIBEs until `count` filters have identifiers of their own; return those."""
    identifiers: dict[str, int] = {}
    while len(set(identifiers.values())) < count:
        packet = link.expect("SUBSCRIBE")
        subscriptions = packet.fields["subscriptions"]
        for subscription in subscriptions:
            identifiers[subscription["topic_filter"]] = packet.properties["SubscriptionIdentifier"]
        link.suback(packet.packet_id, *[2] * len(subscriptions))
    return identifiers


@pytest.mark.parametrize("qos", [0, 1])
def test_the_filters_of_one_call_share_one_run_of_their_callback_for_several_copies(qos: int) -> None:
    box = Mailbox()
    with linked() as (client, link, _):
        client.subscribe(["a/+", "a/b"], box)
        identifiers = answer_subscribes(link, 2)
        for i, identifier in enumerate(identifiers.values(), 1):
            link.publish("a/b", b"once", qos, i if qos else 0, SubscriptionIdentifier=[identifier])
        link.publish("a/c", b"end", 1, 9, SubscriptionIdentifier=[identifiers["a/+"]])
        for i in (1, 2, 9) if qos else (9,):
            link.expect("PUBACK", packet_id=i)
        assert box.payloads(2) == [b"once", b"end"]
        assert box.is_empty()


def test_the_filters_of_one_call_share_one_run_of_their_callback() -> None:
    box = Mailbox()
    with linked() as (client, link, _):
        client.subscribe(["a/+", "a/b"], box)
        identifiers = answer_subscribes(link, 2)
        link.publish("a/b", b"once", 1, 1, SubscriptionIdentifier=list(identifiers.values()))
        link.expect("PUBACK", packet_id=1)
        assert box.get().payload == b"once"
        assert box.is_empty()


@pytest.mark.parametrize("copies", ["one", "several"])
def test_overlapping_subscriptions_run_each_callback_once_whatever_the_server_sends(copies: str) -> None:
    wide, narrow = Mailbox(), Mailbox()
    with linked() as (client, link, _):
        subscribed(client, link, "a/+", wide)
        handle = client.subscribe("a/b", narrow)
        identifiers = answer_subscribes(link, 2)
        handle.wait_for_ack(PATIENCE_S)
        if copies == "one":
            link.publish("a/b", b"x", 1, 1, SubscriptionIdentifier=sorted(identifiers.values()))
            link.expect("PUBACK", packet_id=1)
        else:
            for i, identifier in enumerate(identifiers.values(), 1):
                link.publish("a/b", b"x", 1, i, SubscriptionIdentifier=[identifier])
                link.expect("PUBACK", packet_id=i)
        link.publish("a/c", b"end", 1, 9, SubscriptionIdentifier=[identifiers["a/+"]])
        link.expect("PUBACK", packet_id=9)
        assert wide.payloads(2) == [b"x", b"end"]
        assert narrow.payloads(1) == [b"x"]
        assert narrow.is_empty()


def test_what_no_subscription_has_a_callback_for_goes_to_on_message() -> None:
    box = Mailbox()
    with linked() as (client, link, _):
        client.on_message = box
        subscribed(client, link, "mine", None)
        link.publish("mine", b"1", 1, 1)
        link.publish("unknown", b"2", 2, 2)
        link.publish("mine", b"3", 1, 3)
        assert box.payloads(3) == [b"1", b"2", b"3"]
        assert sorted((packet.kind, packet.packet_id) for packet in (link.receive() for _ in range(3))) == [
            ("PUBACK", 1),
            ("PUBACK", 3),
            ("PUBREC", 2),
        ]


def test_a_message_that_nobody_waits_for_is_held_for_a_subscribe_to_come() -> None:
    box = Mailbox()
    with linked() as (client, link, _):
        link.publish("t", b"early", 1, 1)
        link.publish("other", b"too", 1, 2)
        link.expect_nothing()
        client.subscribe("t", box)
        assert box.get().payload == b"early"
        assert sorted(link.receive().kind for _ in range(2)) == ["PUBACK", "SUBSCRIBE"]
        link.expect_nothing()


def test_a_message_that_nobody_wants_is_acknowledged_and_reported_in_the_end(caplog: pytest.LogCaptureFixture) -> None:
    with linked(SessionSettings(unmatched_s=0.05)) as (_, link, _):
        link.publish("t", b"", 1, 1)
        link.expect("PUBACK", packet_id=1)
    assert any("matched no callback" in record.message and record.levelno == logging.WARNING for record in caplog.records)


def test_a_qos_0_message_that_nobody_wants_is_dropped_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ohmqtt")
    box = Mailbox()
    with linked() as (client, link, _):
        subscribed(client, link, "t", box)
        link.publish("unknown", b"")
        link.publish("t", b"")
        box.get()
    assert any("'unknown'" in record.message for record in caplog.records)


# -- publications that nobody holds a handle of ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_handler", [True, False])
def test_a_former_process_s_message_that_ends_otherwise_is_reported(tmp_path: Path, with_handler: bool) -> None:
    path = tmp_path / "q.db"
    first = Client(path)
    first.publish("t", b"payload", 1, properties=MQTTPublishProps(MessageExpiryInterval=10))
    first.close()
    box = Mailbox()
    client = Client(store=SQLiteStore(path, wall_clock=lambda: time.time() + 100))
    if with_handler:
        client.on_undelivered = lambda message, error: box((message, error))
    with Peer() as peer, log_box() as log, client:
        client.connect(peer.address, "c")
        if with_handler:
            message, error = box.get()
            assert message.topic == "t"
            assert message.payload == b"payload"
            assert isinstance(error, MessageExpiredError)
        assert "'t' was not delivered" in log.get().getMessage()
        client.shutdown()


# -- back-pressure -----------------------------------------------------------------------------------------------------------------------------------


def test_a_flood_of_qos_0_leaves_the_socket_unread_at_the_bound_and_loses_nothing() -> None:
    gate = Gate()
    count, size = 400, 65_536
    with linked(SessionSettings(inbound_messages_max=10)) as (client, link, _):
        subscribed(client, link, "t", gate)
        flood = in_thread(link.send_raw, b"".join(publish_bytes("t", b"%06d" % i + bytes(size)) for i in range(count)), PATIENCE_S)
        gate.wait_entered()
        # A publication gets through: it is written, and its answer isn't read while nothing awaits one.
        client.publish("other", b"").wait_for_ack(PATIENCE_S)
        link.expect("PUBLISH", topic="other")
        assert flood.is_running()
        with client._lock:
            waiting = client._session.receiving.waiting_messages
        assert waiting < 10 + 1_048_576 // size + 2
        gate.open.set()
        flood.result()
        for _ in range(count - 1):
            gate.wait_entered()
        client.disconnect()
    assert [int(payload[:6]) for payload in gate.done] == list(range(count))


@pytest.mark.slow
def test_the_keep_alive_goes_on_while_the_socket_is_left_unread() -> None:
    gate = Gate()
    with linked(SessionSettings(inbound_messages_max=5), keep_alive=KEEP_ALIVE_S) as (client, link, _):
        lost = Mailbox()
        client.on_disconnect = lost
        subscribed(client, link, "t", gate)
        link.send_raw(b"".join(publish_bytes("t", bytes(1_000)) for _ in range(1_000)))
        gate.wait_entered()
        for _ in range(2):
            link.expect("PINGREQ")
        assert client.is_connected()
        gate.open.set()
        link.pingresp()
        for _ in range(999):
            gate.wait_entered()
        client.disconnect()
        link.expect("DISCONNECT")
    assert len(gate.done) == 1_000


def test_beyond_the_hard_bound_qos_0_is_dropped_counted_and_reported(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    count = 3_000
    with linked(SessionSettings(inbound_messages_max=10, inbound_messages_hard_max=20)) as (client, link, _):
        subscribed(client, link, "t", gate)
        link.publish("t", b"first")
        gate.wait_entered()
        # This one awaits an answer, so reading goes on.
        handle = client.publish("other", b"", 1)
        packet_id = link.expect("PUBLISH").packet_id
        link.send_raw(b"".join(publish_bytes("t", bytes(500)) for _ in range(count)))
        link.puback(packet_id)
        assert handle.wait_for_ack(PATIENCE_S) is not None
        dropped = client._session.receiving.dropped_count
        assert dropped > 0
        gate.open.set()
        client.disconnect()
    assert len(gate.done) + dropped == count + 1
    assert any("messages dropped" in record.message for record in caplog.records)


# -- what must never happen, and yet is survived -----------------------------------------------------------------------------------------------------


def test_an_error_of_ours_on_the_delivery_thread_closes_the_link_and_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    box = Mailbox()
    with linked() as (client, link, peer):
        subscribed(client, link, "t", box)
        session: Any = client._session
        driver: Any = client._driver
        with client._lock:
            assert driver.wait_until(driver.delivery.idle, PATIENCE_S)
        works = session.delivered

        def broken(*_: Any) -> None:
            session.delivered = works
            raise AssertionError("a bug of ours")

        session.delivered = broken
        link.publish("t", b"1")
        link.expect("DISCONNECT", reason_code=0x83)
        link.expect_eof()
        link = relink(peer)
        link.publish("t", b"2")
        assert box.payloads(2) == [b"1", b"2"]
    assert any("internal error" in record.message and "a bug of ours" in record.message for record in caplog.records)


def test_a_message_that_an_error_of_ours_struck_is_not_struck_again() -> None:
    box = Mailbox()
    with linked() as (client, link, peer):
        subscribed(client, link, "t", box)
        subscriptions: Any = client._session.subscriptions
        works = subscriptions.due

        def broken(*_: Any) -> None:
            subscriptions.due = works
            raise AssertionError("a bug of ours")

        subscriptions.due = broken
        link.publish("t", b"1", ContentType="x")
        link.expect("DISCONNECT", reason_code=0x83)
        link.expect_eof()
        relink(peer).publish("t", b"2", ContentType="x")
        assert box.payloads(1) == [b"2"]


def test_events_for_a_client_that_is_gone_are_let_go() -> None:
    with linked() as (client, link, _):
        subscribed(client, link, "t", lambda *_: None)
        driver: Any = client._driver
        present, driver.client = driver.client, lambda: None
        link.publish("t", b"", 1, 1)
        link.publish("t", b"")
        client.publish("x", b"", 1)
        link.puback(link.expect("PUBLISH").packet_id)
        driver.client = present


def test_a_callback_runs_on_the_delivery_thread_and_without_the_lock() -> None:
    box = Mailbox()

    def callback(client: Client, _: Message) -> None:
        box((threading.current_thread().name, client._lock.acquire(timeout=PATIENCE_S)))
        client._lock.release()

    with linked() as (client, link, _):
        subscribed(client, link, [MQTTSubscription("t", 1)], callback)
        link.publish("t", b"")
        assert box.get() == ("ohmqtt-delivery", True)
