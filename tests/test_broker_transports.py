"""The plain things, over every way to reach a broker: TCP on IPv4 and IPv6, TLS with and without a client certificate, Unix socket."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, NamedTuple

import pytest

from ohmqtt import Client, MQTTPubAckPacket, MQTTPubCompPacket
from tests.broker_tools import FAST, PATIENCE_S, Inbox, Seen, collect_messages, connected_client, unused
from tests.certificates import Certificates, write_certificates
from tests.mosquitto import Mosquitto, machine_has_ipv6

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ohmqtt import MQTTConnAckPacket

pytestmark = pytest.mark.broker


class Way(NamedTuple):
    """How to reach the broker."""

    address: str
    tls_context: ssl.SSLContext | None


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return write_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def broker(certificates: Certificates) -> Iterator[Mosquitto]:
    with Mosquitto(certificate=certificates.server, key=certificates.server_key, authority=certificates.authority) as broker:
        yield broker


@pytest.fixture(params=["IPv4", "IPv6", "TLS", "client certificate", "Unix socket"])
def way(request: pytest.FixtureRequest, broker: Mosquitto, certificates: Certificates) -> Way:
    if request.param == "IPv6" and not machine_has_ipv6():
        pytest.skip("this machine has no IPv6")
    if request.param == "Unix socket" and not broker.has_unix:
        pytest.skip("this machine has no Unix sockets")
    context = certificates.client_context() if request.param in {"TLS", "client certificate"} else None
    if request.param == "client certificate":
        assert context is not None
        context.load_cert_chain(certificates.client, certificates.client_key)
    addresses = {
        "IPv4": lambda: f"mqtt://127.0.0.1:{broker.port}",
        "IPv6": lambda: broker.ipv6_address,
        "TLS": lambda: broker.tls_address,
        "client certificate": lambda: broker.client_certificate_address,
        "Unix socket": lambda: broker.unix_address,
    }
    return Way(addresses[request.param](), context)


def test_connect_gives_the_connack_and_disconnect_ends_it(way: Way, broker: Mosquitto) -> None:
    client_id = unused("client")
    seen: Seen[MQTTConnAckPacket] = Seen()
    with Client(settings=FAST) as client:
        client.on_connect = seen
        assert not client.is_connected()
        client.connect(way.address, client_id, tls_context=way.tls_context)
        connack = client.wait_for_connect(PATIENCE_S)
        assert client.is_connected()
        assert (connack.reason_code, connack.session_present) == (0, False)
        assert [client.connack] == [connack]
        assert seen.wait() == [connack]
        assert client.client_id == client_id
        client.disconnect()
        assert not client.is_connected()
        assert client.connack is None
    broker.wait_for_log(f"Received DISCONNECT from {client_id}")


@pytest.mark.parametrize("granted", [0, 1, 2])
@pytest.mark.spec("MQTT-4.3.1-1", "MQTT-4.3.2-1", "MQTT-4.3.3-1")
def test_every_quality_of_service_both_ways(way: Way, granted: int) -> None:
    topic = unused()
    with connected_client(way.address, tls_context=way.tls_context) as client:
        inbox = collect_messages(client, topic, granted)
        acks = [client.publish(topic, f"QoS {qos}", qos).wait_for_ack(PATIENCE_S) for qos in (0, 1, 2)]
        messages = inbox.wait(3)
    assert acks[0] is None
    assert isinstance(acks[1], MQTTPubAckPacket)
    assert isinstance(acks[2], MQTTPubCompPacket)
    assert [(message.topic, message.payload, message.qos) for message in messages] == [
        (topic, f"QoS {qos}".encode(), min(qos, granted)) for qos in (0, 1, 2)
    ]
    assert not any(message.dup or message.retain for message in messages)


@pytest.mark.slow
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.spec("MQTT-4.6.0-5", "MQTT-4.2.0-1")
def test_thousands_arrive_once_and_in_order(way: Way, qos: int) -> None:
    topic = unused()
    payloads = [b"%d" % i for i in range(2_000)]
    with connected_client(way.address, tls_context=way.tls_context) as client:
        inbox = collect_messages(client, topic, qos)
        handles = [client.publish(topic, payload, qos) for payload in payloads]
        for handle in handles:
            handle.wait_for_ack(PATIENCE_S)
        # More than 1,000 can wait for a subscriber at this broker (max_queued_messages), and QoS 0 may be dropped beyond that.
        received = inbox.wait_payloads(1_000 if qos == 0 else 2_000)
    if qos:
        assert received == payloads
    else:
        assert received == sorted(set(received), key=int)


@pytest.mark.slow
def test_a_payload_of_one_mebibyte_arrives_unaltered(way: Way) -> None:
    topic = unused()
    payload = bytes(range(256)) * 4_096
    with connected_client(way.address, tls_context=way.tls_context) as client:
        inbox = collect_messages(client, topic)
        for qos in (0, 1, 2):
            client.publish(topic, payload, qos).wait_for_ack(PATIENCE_S)
        received = inbox.wait_payloads(3)
    assert received == [payload] * 3


@pytest.mark.slow
def test_a_payload_of_16_mebibytes_arrives_unaltered(way: Way) -> None:
    topic = unused()
    payload = bytes(range(256)) * 65_536
    with connected_client(way.address, tls_context=way.tls_context) as client:
        inbox = collect_messages(client, topic)
        client.publish(topic, payload, 1).wait_for_ack(PATIENCE_S)
        assert inbox.wait_payloads() == [payload]


def test_the_same_client_connects_again_after_disconnect(way: Way) -> None:
    topic, client_id = unused(), unused("client")
    inbox = Inbox()
    with Client(settings=FAST) as client:
        for turn in range(3):
            client.connect(way.address, client_id, tls_context=way.tls_context)
            assert client.wait_for_connect(PATIENCE_S).session_present is False
            if not turn:
                client.subscribe(topic, inbox).wait_for_ack(PATIENCE_S)
            client.publish(topic, b"%d" % turn, 2).wait_for_ack(PATIENCE_S)
            assert inbox.wait_payloads(turn + 1)[-1] == b"%d" % turn
            client.disconnect()
    assert inbox.payloads() == [b"0", b"1", b"2"]


def test_what_was_published_before_the_connection_is_sent(way: Way) -> None:
    topic = unused()
    with connected_client(way.address, tls_context=way.tls_context) as subscriber:
        inbox = collect_messages(subscriber, topic)
        with Client(settings=FAST) as publisher:
            publisher.connect(way.address, tls_context=way.tls_context)
            for qos in (0, 1, 2):
                publisher.publish(topic, b"%d" % qos, qos)
            # Leaving `with` waits for all of them.
        assert inbox.wait_payloads(3) == [b"0", b"1", b"2"]
