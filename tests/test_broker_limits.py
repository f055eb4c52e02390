"""What a real broker allows and what it refuses: its limits are kept, its refusals are told, ours hold too."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING, Any

import pytest

from ohmqtt import (
    AliasPolicy,
    Client,
    ConnectRefusedError,
    Disconnected,
    Message,
    MQTTConnAckPacket,
    MQTTConnectProps,
    MQTTPubAckProps,
    PacketTooLargeError,
    PublishError,
    ServerLimitError,
    TopicAliasError,
)
from tests.broker_tools import FAST, PATIENCE_S, Inbox, Seen, collect_messages, connected_client, unused

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.mosquitto import Mosquitto

    Factory = Callable[..., Mosquitto]


# -- topic aliases --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.3.2-7", "MQTT-3.3.2-9", "MQTT-3.3.2-12")
@pytest.mark.parametrize("policy", list(AliasPolicy))
@pytest.mark.parametrize("topics", [1, 10, 25])
def test_each_message_arrives_under_its_topic_whatever_its_alias(mosquitto: Mosquitto, policy: AliasPolicy, topics: int) -> None:
    base = unused()
    with connected_client(mosquitto.address) as client:
        assert client.connack is not None
        assert client.connack.properties.TopicAliasMaximum == 10
        inbox = collect_messages(client, f"{base}/#")
        sent: list[str] = []
        for i in range(100):
            topic = f"{base}/{i * 7 % topics}"
            if policy is AliasPolicy.ALWAYS and len({*sent, topic}) > 10:
                with pytest.raises(TopicAliasError):
                    client.publish(topic, topic, alias_policy=policy)
            else:
                client.publish(topic, topic, alias_policy=policy)
                sent.append(topic)
        if policy is not AliasPolicy.ALWAYS:
            for qos in (1, 2):
                client.publish(f"{base}/0", f"{base}/0", qos, alias_policy=policy).wait_for_ack(PATIENCE_S)
                sent.append(f"{base}/0")
        messages = inbox.wait(len(sent))
    assert [message.topic for message in messages] == sent
    assert [message.payload.decode() for message in messages] == sent


@pytest.mark.slow
def test_aliases_are_made_anew_with_each_connection(mosquitto_factory: Factory) -> None:
    broker = mosquitto_factory()
    inbox = Inbox()
    with connected_client(broker.address) as client:
        client.subscribe("#", inbox).wait_for_ack(PATIENCE_S)
        for turn in range(3):
            for i in range(10):
                client.publish(f"turn {turn}/{i}", f"turn {turn}/{i}", alias_policy=AliasPolicy.ALWAYS)
                client.publish(f"turn {turn}/{i}", f"turn {turn}/{i}", alias_policy=AliasPolicy.ALWAYS)
            inbox.wait(20)
            assert all(message.topic == message.payload.decode() for message in inbox.now())
            inbox.clear()
            broker.kill()
            broker.start()
            client.wait_for_connect(PATIENCE_S)
            client.publish("end", b"end", 1).wait_for_ack(PATIENCE_S)
            assert inbox.wait_payloads() == [b"end"]
            inbox.clear()


def test_an_alias_is_not_to_be_had_where_the_broker_offers_none(mosquitto_factory: Factory) -> None:
    broker = mosquitto_factory(listener_config=["max_topic_alias 0"])
    with connected_client(broker.address) as client:
        inbox = collect_messages(client, "t")
        with pytest.raises(TopicAliasError):
            client.publish("t", b"always", alias_policy=AliasPolicy.ALWAYS)
        client.publish("t", b"try", alias_policy=AliasPolicy.TRY)
        assert inbox.wait_payloads() == [b"try"]


# -- Receive Maximum ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.spec("MQTT-3.3.4-7", "MQTT-4.9.0-1", "MQTT-4.9.0-2")
@pytest.mark.parametrize("receive_maximum", [None, 1, 3])
@pytest.mark.parametrize("qos", [1, 2])
def test_thousands_at_once_stay_within_the_receive_maximum(mosquitto_factory: Factory, receive_maximum: int | None, qos: int) -> None:
    # The broker ends the connection (0x93) of a client that exceeds it.
    lines = [] if receive_maximum is None else [f"max_inflight_messages {receive_maximum}"]
    broker = mosquitto_factory(config=[*lines, "max_queued_messages 0"])
    lost: Seen[Disconnected] = Seen()
    with connected_client(broker.address) as client, connected_client(broker.address) as subscriber:
        assert client.connack is not None
        assert client.connack.properties.ReceiveMaximum == (receive_maximum or 20)
        client.on_disconnect = lost
        inbox = collect_messages(subscriber, "t")
        payloads = [b"%d" % i for i in range(3_000)]
        for handle in [client.publish("t", payload, qos) for payload in payloads]:
            handle.wait_for_ack(PATIENCE_S)
        assert inbox.wait_payloads(3_000) == payloads
        assert lost.now() == []


@pytest.mark.spec("MQTT-3.3.4-9")
@pytest.mark.parametrize("qos", [1, 2])
def test_our_receive_maximum_bounds_what_the_broker_sends_unacknowledged(mosquitto: Mosquitto, qos: int) -> None:
    topic = unused()
    arrived: queue.Queue[Message] = queue.Queue()
    with Client(manual_ack=True, settings=FAST) as client, connected_client(mosquitto.address) as publisher:
        client.connect(mosquitto.address, connect_properties=MQTTConnectProps(ReceiveMaximum=3))
        client.subscribe(topic, lambda _, message: arrived.put(message)).wait_for_ack(PATIENCE_S)
        # No more than four: Mosquitto 2.0.11 itself forgets the limit when the oldest of several is acknowledged.
        for i in range(4):
            publisher.publish(topic, b"%d" % i, qos).wait_for_ack(PATIENCE_S)
        held = [arrived.get(timeout=PATIENCE_S) for _ in range(3)]
        # A round trip later there is still no fourth.
        client.subscribe(unused(), lambda *_: None).wait_for_ack(PATIENCE_S)
        assert arrived.empty()
        held[0].ack()
        held.append(arrived.get(timeout=PATIENCE_S))
        for message in held:
            message.ack()
    assert [int(message.payload) for message in held] == [0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("qos", [1, 2])
def test_a_slow_callback_is_no_reason_to_lose_the_connection(mosquitto_factory: Factory, qos: int) -> None:
    """Mosquitto 2.0.11 sends more than the Receive Maximum as soon as the oldest of several messages is acknowledged.

    A client that took its own default for a law would be disconnected again and again, with longer and longer pauses.
    """
    broker = mosquitto_factory(config=["max_queued_messages 0"])
    lost: Seen[Disconnected] = Seen()
    inbox = Inbox()
    pause = threading.Event()

    def receive(client: Client, message: Message) -> None:
        pause.wait(0.000_2)
        inbox(client, message)

    with connected_client(broker.address) as client, connected_client(broker.address) as publisher:
        client.on_disconnect = lost
        client.subscribe("t", receive).wait_for_ack(PATIENCE_S)
        for handle in [publisher.publish("t", b"%d" % i, qos) for i in range(4_000)]:
            handle.wait_for_ack(PATIENCE_S)
        inbox.wait(4_000)
        assert lost.now() == []
    assert inbox.payloads() == [b"%d" % i for i in range(4_000)]


def test_messages_acknowledged_in_another_order_arrive_and_are_done(mosquitto: Mosquitto) -> None:
    topic = unused()
    arrived: queue.Queue[Message] = queue.Queue()
    with Client(manual_ack=True, settings=FAST) as client, connected_client(mosquitto.address) as publisher:
        client.connect(mosquitto.address, connect_properties=MQTTConnectProps(ReceiveMaximum=10))
        client.subscribe(topic, lambda _, message: arrived.put(message)).wait_for_ack(PATIENCE_S)
        for i in range(20):
            publisher.publish(topic, b"%d" % i, 1 + i % 2).wait_for_ack(PATIENCE_S)
        numbers: list[int] = []
        while len(numbers) < 20:
            held = [arrived.get(timeout=PATIENCE_S) for _ in range(10)]
            for message in reversed(held):
                message.ack(properties=MQTTPubAckProps(UserProperty=(("late", "but here"),)))
                message.ack()
            numbers += [int(message.payload) for message in held]
    assert numbers == list(range(20))


# -- sizes ----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.2.2-15")
def test_the_brokers_maximum_packet_size_is_kept(mosquitto_factory: Factory) -> None:
    broker = mosquitto_factory(config=["max_packet_size 1000"])
    with Client(settings=FAST) as client:
        inbox = Inbox()
        client.subscribe("t", inbox)
        early = client.publish("t", b"x" * 1_000, 1)
        small = client.publish("t", b"small", 1)
        client.connect(broker.address)
        assert client.wait_for_connect(PATIENCE_S).properties.MaximumPacketSize == 1_000
        # What was accepted before anybody knew the limit ends with the reason, and doesn't stop the rest.
        with pytest.raises(PacketTooLargeError, match="1000 bytes"):
            early.wait_for_ack(PATIENCE_S)
        small.wait_for_ack(PATIENCE_S)
        for qos in (0, 1, 2):
            fits = 1_000 - 3 - 3 - 1 - (2 if qos else 0)
            with pytest.raises(PacketTooLargeError):
                client.publish("t", b"x" * (fits + 1), qos)
            client.publish("t", b"x" * fits, qos, alias_policy=AliasPolicy.TRY).wait_for_ack(PATIENCE_S)
        with pytest.raises(PacketTooLargeError):
            client.subscribe("f" * 1_000, inbox)
        assert [len(payload) for payload in inbox.wait_payloads(4)] == [5, 993, 991, 991]


@pytest.mark.spec("MQTT-3.1.2-24", "MQTT-3.1.2-25")
def test_our_maximum_packet_size_is_kept_by_the_broker(mosquitto: Mosquitto) -> None:
    topic = unused()
    with (
        connected_client(mosquitto.address, connect_properties=MQTTConnectProps(MaximumPacketSize=500)) as client,
        connected_client(mosquitto.address) as publisher,
    ):
        inbox = collect_messages(client, topic)
        for size in (400, 600, 401):
            publisher.publish(topic, b"x" * size, 1).wait_for_ack(PATIENCE_S)
        assert [len(payload) for payload in inbox.wait_payloads(2)] == [400, 401]


# -- what the broker doesn't have -------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.2.2-14")
def test_a_broker_without_retained_messages(mosquitto_factory: Factory) -> None:
    broker = mosquitto_factory(config=["retain_available false"])
    with connected_client(broker.address) as client:
        assert client.connack is not None
        assert client.connack.properties.RetainAvailable == 0
        with pytest.raises(ServerLimitError, match="retain"):
            client.publish("t", b"x", retain=True)
        client.publish("t", b"x", 1).wait_for_ack(PATIENCE_S)


@pytest.mark.spec("MQTT-3.2.2-11", "MQTT-3.2.2-10")
def test_a_broker_with_a_lower_maximum_qos(mosquitto_factory: Factory) -> None:
    broker = mosquitto_factory(listener_config=["max_qos 1"])
    with Client(settings=FAST) as client:
        early = client.publish("t", b"too good", 2)
        client.connect(broker.address)
        assert client.wait_for_connect(PATIENCE_S).properties.MaximumQoS == 1
        with pytest.raises(ServerLimitError, match="Maximum QoS"):
            early.wait_for_ack(PATIENCE_S)
        with pytest.raises(ServerLimitError, match="Maximum QoS"):
            client.publish("t", b"too good", 2)
        inbox = Inbox()
        assert client.subscribe("t", inbox, 2).wait_for_ack(PATIENCE_S).reason_codes[0] in {1, 2}
        client.publish("t", b"x", 1).wait_for_ack(PATIENCE_S)
        assert inbox.wait_payloads() == [b"x"]


@pytest.mark.spec("MQTT-3.1.2-21", "MQTT-3.2.2-22")
def test_a_broker_that_names_a_shorter_keep_alive(mosquitto_factory: Factory) -> None:
    broker = mosquitto_factory(config=["max_keepalive 10"])
    with connected_client(broker.address, keep_alive=600) as client:
        assert client.connack is not None
        assert client.connack.properties.ServerKeepAlive == 10


@pytest.mark.slow
@pytest.mark.spec("MQTT-3.1.2-20", "MQTT-3.12.4-1")
def test_an_idle_connection_is_kept_alive(mosquitto_factory: Factory) -> None:
    broker = mosquitto_factory()
    lost: Seen[Disconnected] = Seen()
    with connected_client(broker.address, "idle", keep_alive=4) as client:
        client.on_disconnect = lost
        # The broker ends a connection that is silent for 6 s. This leaves two seconds for a machine that is busy.
        wait_for_log_count(broker, "Sending PINGRESP to idle", 2)
        assert client.is_connected()
        assert lost.now() == []


def wait_for_log_count(broker: Mosquitto, text: str, count: int) -> None:
    """Wait until the broker has logged `text` so many times."""
    pause = threading.Event()
    for _ in range(1_000):
        if broker.log().count(text) >= count:
            return
        pause.wait(0.06)
    pytest.fail(f"the broker has not logged {text!r} {count} times")


# -- refusals -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_address", [False, True])
def test_a_user_name_and_a_password_open_the_door(mosquitto_factory: Factory, by_address: bool) -> None:
    broker = mosquitto_factory(users={"anna": "gehe/im:@ü"})
    address = f"mqtt://anna:gehe%2Fim%3A%40%C3%BC@{broker.address}" if by_address else broker.address
    options: dict[str, Any] = {} if by_address else {"user_name": "anna", "password": "gehe/im:@ü"}
    with connected_client(address, **options) as client:
        client.publish("t", b"x", 1).wait_for_ack(PATIENCE_S)


@pytest.mark.parametrize(("user_name", "password"), [("anna", b"wrong"), ("nobody", b"secret"), (None, None), ("anna", None)])
def test_bad_credentials_stop_the_client_with_the_reason(mosquitto_factory: Factory, user_name: str | None, password: bytes | None) -> None:
    broker = mosquitto_factory(users={"anna": "secret"})
    seen: Seen[Disconnected] = Seen()
    with Client(settings=FAST) as client:
        client.on_disconnect = seen
        handle = client.publish("t", b"waits", 1)
        client.connect(broker.address, user_name=user_name, password=password)
        with pytest.raises(ConnectRefusedError) as caught:
            client.wait_for_connect(PATIENCE_S)
        assert isinstance(caught.value.packet, MQTTConnAckPacket)
        assert caught.value.packet.reason_code in {0x86, 0x87}
        assert client.failure is caught.value
        # A wait says so, too, instead of hanging.
        with pytest.raises(ConnectionError):
            handle.wait_for_ack(PATIENCE_S)
        (event,) = seen.wait()
        assert event.retry_in_s is None
        assert event.packet == caught.value.packet
        # Nothing is lost: with better credentials it goes on.
        client.connect(broker.address, user_name="anna", password="secret")
        client.wait_for_connect(PATIENCE_S)
        handle.wait_for_ack(PATIENCE_S)


@pytest.mark.spec("MQTT-4.4.0-2", "MQTT-4.9.0-2")
@pytest.mark.parametrize("qos", [1, 2])
def test_a_publication_that_the_broker_rejects_raises_with_its_acknowledgement(
    mosquitto_factory: Factory, tmp_path: Path, qos: int
) -> None:
    access = tmp_path / "access"
    access.write_text("topic readwrite allowed/#\n", encoding="utf-8")
    broker = mosquitto_factory(config=[f"acl_file {access}"])
    with connected_client(broker.address) as client:
        # More than the Receive Maximum: a rejection gives its place back.
        rejected = [client.publish("forbidden", b"x", qos) for _ in range(50)]
        for handle in rejected:
            with pytest.raises(PublishError, match="Not authorized") as caught:
                handle.wait_for_ack(PATIENCE_S)
            assert caught.value.ack.reason_code == 0x87
            assert handle.ack is caught.value.ack
        client.publish("allowed/x", b"x", qos).wait_for_ack(PATIENCE_S)


@pytest.mark.parametrize("qos", [1, 2])
def test_an_acknowledgement_may_say_that_nobody_listens(mosquitto: Mosquitto, qos: int) -> None:
    with connected_client(mosquitto.address) as client:
        ack = client.publish(unused(), b"x", qos).wait_for_ack(PATIENCE_S)
    assert ack is not None
    # QoS 2 says it in the PUBREC, and ends with a PUBCOMP of Success.
    assert ack.reason_code == (0x10 if qos == 1 else 0)
