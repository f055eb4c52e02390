"""Sessions at a real broker: resumed, expired, lost and taken over, by the same object, by another process, after restarts of the broker."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ohmqtt import (
    Client,
    ClientClosedError,
    ConnectError,
    Disconnected,
    ForeignSessionError,
    LinkLostError,
    MQTTConnAckPacket,
    MQTTConnectProps,
    MQTTDisconnectProps,
    SessionLostPolicy,
    SessionSettings,
)
from tests.broker_tools import FAST, PATIENCE_S, Inbox, Seen, child, collect_messages, connected_client, let_time_pass, unused

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mosquitto import Mosquitto

LONG = MQTTConnectProps(SessionExpiryInterval=3_600)
ADOPT = SessionSettings(reconnect_initial_s=0.02, reconnect_max_s=0.2, adopt_session=True)
REPUBLISH = SessionSettings(reconnect_initial_s=0.02, reconnect_max_s=0.2, session_lost_policy=SessionLostPolicy.REPUBLISH)


# -- resumed --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.1.2-5", "MQTT-3.2.2-3")
def test_a_session_that_was_asked_for_outlives_disconnect(mosquitto: Mosquitto) -> None:
    topic, client_id = unused(), unused("client")
    inbox = Inbox()
    with Client(settings=FAST) as client, connected_client(mosquitto.address) as publisher:
        client.subscribe(topic, inbox)
        client.connect(mosquitto.address, client_id, connect_properties=LONG)
        assert client.wait_for_connect(PATIENCE_S).session_present is False
        client.publish(topic, b"0", 1).wait_for_ack(PATIENCE_S)
        inbox.wait()
        client.disconnect()
        for payload in (b"1", b"2"):
            publisher.publish(topic, payload, 2).wait_for_ack(PATIENCE_S)
        client.connect(mosquitto.address, client_id, connect_properties=LONG)
        assert client.wait_for_connect(PATIENCE_S).session_present is True
        assert inbox.wait_payloads(3) == [b"0", b"1", b"2"]


def test_a_session_that_nobody_asked_for_ends_with_a_clean_disconnect(mosquitto: Mosquitto) -> None:
    client_id = unused("client")
    with Client(settings=FAST) as client:
        for _ in range(2):
            client.connect(mosquitto.address, client_id)
            assert client.wait_for_connect(PATIENCE_S).session_present is False
            client.disconnect()


@pytest.mark.slow
@pytest.mark.spec("MQTT-3.1.2-23")
def test_a_session_that_expired_is_made_anew(mosquitto: Mosquitto) -> None:
    topic, client_id = unused(), unused("client")
    short = MQTTConnectProps(SessionExpiryInterval=1)
    with Client(settings=FAST) as client:
        client.connect(mosquitto.address, client_id, connect_properties=short)
        inbox = collect_messages(client, topic)
        client.disconnect()
        mosquitto.wait_for_log(f"Client {client_id} disconnected")
        # Only time ends a session; the broker looks each second, and may be busy.
        let_time_pass(4.0)
        client.connect(mosquitto.address, client_id, connect_properties=short)
        assert client.wait_for_connect(PATIENCE_S).session_present is False
        client.publish(topic, b"again", 1).wait_for_ack(PATIENCE_S)
        assert inbox.wait_payloads() == [b"again"]


@pytest.mark.spec("MQTT-3.1.2-4")
def test_clean_start_discards_the_session_at_the_broker(mosquitto: Mosquitto) -> None:
    topic, client_id = unused(), unused("client")
    with Client(settings=FAST) as client, connected_client(mosquitto.address) as publisher:
        client.connect(mosquitto.address, client_id, connect_properties=LONG)
        old = collect_messages(client, topic)
        client.disconnect()
        publisher.publish(topic, b"for the old session", 1).wait_for_ack(PATIENCE_S)
        client.connect(mosquitto.address, client_id, clean_start=True, connect_properties=LONG)
        assert client.wait_for_connect(PATIENCE_S).session_present is False
        # Subscriptions are declared state: they are there again, and their SUBSCRIBE leaves before this.
        client.publish(topic, b"for the new session", 1).wait_for_ack(PATIENCE_S)
        assert old.wait_payloads() == [b"for the new session"]
        client.disconnect(properties=MQTTDisconnectProps(SessionExpiryInterval=0))


def test_who_loses_the_session_to_another_client_hears_of_it(mosquitto: Mosquitto) -> None:
    client_id = unused("client")
    seen: Seen[Disconnected] = Seen()
    with connected_client(mosquitto.address, client_id, settings=SessionSettings(reconnect=False)) as first:
        first.on_disconnect = seen
        with connected_client(mosquitto.address, client_id, settings=ADOPT) as second:
            (event,) = seen.wait()
            # Mosquitto 2.0.11 closes without a word; newer ones say 0x8E, and then there would be no second attempt either.
            assert isinstance(event.error, LinkLostError)
            assert event.packet is None or event.packet.reason_code == 0x8E
            assert event.was_connected
            assert event.retry_in_s is None
            with pytest.raises(LinkLostError):
                first.wait_for_connect(PATIENCE_S)
            assert first.failure is event.error
            second.publish(unused(), b"", 1).wait_for_ack(PATIENCE_S)


@pytest.mark.spec("MQTT-3.1.3-7")
def test_an_assigned_client_identifier_is_kept_for_reconnects(mosquitto_factory: Callable[..., Mosquitto]) -> None:
    broker = mosquitto_factory(persistent=True)
    connacks: Seen[object] = Seen()
    with Client(settings=FAST) as client:
        client.on_connect = connacks
        client.connect(broker.address)
        connack = client.wait_for_connect(PATIENCE_S)
        assigned = connack.properties.AssignedClientIdentifier
        assert assigned
        assert client.client_id == assigned
        inbox = collect_messages(client, "t")
        broker.restart()
        connacks.wait(2)
        again = client.wait_for_connect(PATIENCE_S)
        assert again.session_present
        assert again.properties.AssignedClientIdentifier is None
        assert client.client_id == assigned
        client.publish("t", b"x", 1).wait_for_ack(PATIENCE_S)
        assert inbox.wait_payloads() == [b"x"]


@pytest.mark.spec("MQTT-3.2.2-4")
def test_a_session_of_a_former_process_is_refused_once_unless_it_is_adopted(mosquitto: Mosquitto) -> None:
    topic, client_id = unused(), unused("client")
    with connected_client(mosquitto.address, client_id, connect_properties=LONG) as client:
        collect_messages(client, topic)
    with connected_client(mosquitto.address) as publisher:
        publisher.publish(topic, b"kept", 1).wait_for_ack(PATIENCE_S)
    with Client(settings=FAST) as client:
        client.connect(mosquitto.address, client_id, connect_properties=LONG)
        with pytest.raises(ForeignSessionError, match="adopt_session"):
            client.wait_for_connect(PATIENCE_S)
        assert not client.is_connected()
    with Client(settings=ADOPT) as client:
        inbox = Inbox()
        client.on_message = inbox
        client.connect(mosquitto.address, client_id, connect_properties=LONG)
        assert client.wait_for_connect(PATIENCE_S).session_present
        assert inbox.wait_payloads() == [b"kept"]


# -- restarts of the broker -------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_session_is_resumed_after_a_restart_of_a_broker_that_keeps_it(mosquitto_factory: Callable[..., Mosquitto]) -> None:
    broker = mosquitto_factory(persistent=True)
    connacks: Seen[MQTTConnAckPacket] = Seen()
    seen: Seen[Disconnected] = Seen()
    with connected_client(broker.address, "subscriber") as client, connected_client(broker.address, "publisher") as publisher:
        client.on_connect = connacks
        client.on_disconnect = seen
        inbox = collect_messages(client, "t")
        publisher.publish("t", b"before", 2).wait_for_ack(PATIENCE_S)
        inbox.wait()
        broker.stop()
        waiting = [publisher.publish("t", b"%d" % i, 2) for i in range(50)]
        broker.start()
        for handle in waiting:
            handle.wait_for_ack(PATIENCE_S)
        assert inbox.wait_payloads(51) == [b"before", *(b"%d" % i for i in range(50))]
        assert connacks.wait()[-1].session_present
        assert seen.now()[0].was_connected


def test_a_broker_that_comes_up_late_is_found(mosquitto_factory: Callable[..., Mosquitto]) -> None:
    broker = mosquitto_factory()
    broker.stop()
    failed: Seen[Disconnected] = Seen()
    with Client(settings=FAST) as client:
        client.on_disconnect = failed
        client.connect(broker.address)
        handle = client.publish("t", b"early", 1)
        events = failed.wait(2)
        assert not any(event.was_connected for event in events)
        assert all(isinstance(event.error, ConnectError) for event in events)
        assert all(event.retry_in_s is not None and event.retry_in_s <= 0.2 for event in events)
        broker.start()
        assert client.wait_for_connect(PATIENCE_S).reason_code == 0
        handle.wait_for_ack(PATIENCE_S)


def test_without_reconnect_the_first_failure_is_final(mosquitto_factory: Callable[..., Mosquitto]) -> None:
    broker = mosquitto_factory()
    broker.stop()
    with Client(settings=SessionSettings(reconnect=False)) as client:
        client.connect(broker.address)
        handle = client.publish("t", b"never", 1)
        with pytest.raises(ConnectError):
            client.wait_for_connect(PATIENCE_S)
        with pytest.raises(ConnectError):
            handle.wait_for_ack(PATIENCE_S)
        broker.start()
        client.connect(broker.address)
        client.wait_for_connect(PATIENCE_S)
        handle.wait_for_ack(PATIENCE_S)


# -- lost -------------------------------------------------------------------------------------------------------------------------------------


def test_subscriptions_are_made_again_when_the_broker_forgot_them(mosquitto_factory: Callable[..., Mosquitto]) -> None:
    broker = mosquitto_factory()
    with connected_client(broker.address, "client") as client:
        inboxes = {topic: collect_messages(client, topic, 1) for topic in ("a", "b/+", "b/#", "$share/g/c")}
        ended = collect_messages(client, "d")
        client.unsubscribe("d").wait_for_ack(PATIENCE_S)
        broker.kill()
        broker.start()
        assert client.wait_for_connect(PATIENCE_S).session_present is False
        for topic in ("d", "a", "b/c", "c"):
            client.publish(topic, topic, 1).wait_for_ack(PATIENCE_S)
        assert inboxes["a"].wait_payloads() == [b"a"]
        assert inboxes["b/+"].wait_payloads() == [b"b/c"]
        assert inboxes["b/#"].wait_payloads() == [b"b/c"]
        assert inboxes["$share/g/c"].wait_payloads() == [b"c"]
        assert ended.now() == []


# -- a process that dies, with a database -------------------------------------------------------------------------------------------------------

PUBLISHER = """
import sys
from ohmqtt import Client, MQTTConnectProps
address, path, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Client(path, db_fast=True) as client:
    client.connect(address, "durable", connect_properties=MQTTConnectProps(SessionExpiryInterval=3600))
    for i in range(count):
        client.publish("t", b"%d" % i, 2)
    print("all accepted", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.slow
@pytest.mark.parametrize("broker_is_up", [True, False])
def test_what_a_killed_process_had_accepted_is_delivered_once_by_the_next(
    mosquitto_factory: Callable[..., Mosquitto], tmp_path: Path, broker_is_up: bool
) -> None:
    broker = mosquitto_factory(persistent=True)
    path = tmp_path / "queue.db"
    with connected_client(broker.address, "subscriber", connect_properties=LONG) as subscriber:
        inbox = collect_messages(subscriber, "t")
        if not broker_is_up:
            broker.stop()
        with child(PUBLISHER, broker.address, path, 500) as publisher:
            assert publisher.stdout is not None
            assert publisher.stdout.readline() == "all accepted\n"
            publisher.kill()
        if not broker_is_up:
            broker.start()
        with connected_client(broker.address, db_path=path, connect_properties=LONG) as heir:
            # The database knows who it belongs to.
            assert heir.client_id == "durable"
            for handle in heir.pending():
                handle.wait_for_ack(PATIENCE_S)
            inbox.wait(500)
            heir.publish("t", b"end", 2).wait_for_ack(PATIENCE_S)
            inbox.wait(501)
    assert inbox.payloads() == [*(b"%d" % i for i in range(500)), b"end"]


SUBSCRIBER = """
import sys, threading
from ohmqtt import Client, MQTTConnectProps
address, path = sys.argv[1:]
blocked = threading.Event()
def callback(client, message):
    print(message.payload.decode(), flush=True)
    if message.payload == b"4":
        blocked.wait()
client = Client(path, db_fast=True)
client.subscribe("t", callback)
client.start_loop()
client.connect(address, "durable", connect_properties=MQTTConnectProps(SessionExpiryInterval=3600))
client.wait_for_connect(60)
print("ready", flush=True)
blocked.wait()
"""


@pytest.mark.slow
@pytest.mark.parametrize("qos", [1, 2])
def test_a_killed_subscriber_with_a_database_loses_nothing(mosquitto_factory: Callable[..., Mosquitto], tmp_path: Path, qos: int) -> None:
    broker = mosquitto_factory()
    path = tmp_path / "queue.db"
    with connected_client(broker.address) as publisher:
        with child(SUBSCRIBER, broker.address, path) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            broker.wait_for_log("Sending SUBACK to durable")
            for i in range(10):
                publisher.publish("t", b"%d" % i, qos).wait_for_ack(PATIENCE_S)
            taken = [process.stdout.readline() for _ in range(5)]
            assert taken == [f"{i}\n" for i in range(5)]
            process.kill()
        inbox = Inbox()
        with Client(path, settings=FAST) as heir:
            heir.subscribe("t", inbox)
            heir.connect(broker.address, connect_properties=LONG)
            assert heir.wait_for_connect(PATIENCE_S).session_present
            received = inbox.wait_until(lambda items: items[-1:] != [] and items[-1].payload == b"9")
    numbers = [int(message.payload) for message in received]
    # The callback of 4 had not returned, so 4 comes again; those before it may, as far as their acknowledgements had not left.
    assert numbers == list(range(numbers[0], 10))
    assert numbers[0] <= 4


@pytest.mark.slow
def test_disconnect_keeps_what_is_not_acknowledged_in_the_database(mosquitto_factory: Callable[..., Mosquitto], tmp_path: Path) -> None:
    broker = mosquitto_factory()
    broker.stop()
    path = tmp_path / "queue.db"
    with Client(path, settings=FAST) as client:
        client.connect(broker.address, "durable", connect_properties=LONG)
        handles = [client.publish("t", b"%d" % i, 1) for i in range(5)]
        client.disconnect(timeout=0.0)
        for handle in handles:
            with pytest.raises(ClientClosedError) as caught:
                handle.wait_for_ack(PATIENCE_S)
            assert caught.value.stored
    broker.start()
    with connected_client(broker.address) as subscriber:
        inbox = collect_messages(subscriber, "t")
        with connected_client(broker.address, db_path=path, connect_properties=LONG):
            assert inbox.wait_payloads(5) == [b"%d" % i for i in range(5)]
