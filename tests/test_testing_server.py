"""`Broker`: a real broker on real sockets, whose timers are a fake clock's, and which says what it saw."""

from __future__ import annotations

import socket
import ssl
import sys
import tempfile
import threading
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ohmqtt import Client, MQTTConnectProps, MQTTDisconnectProps, MQTTPublishProps, MQTTWill, MQTTWillProps, ReasonCode
from ohmqtt.errors import ArgumentError, StateError, WaitTimeoutError
from ohmqtt.packet import (
    MQTTConnAckPacket,
    MQTTConnectPacket,
    MQTTDisconnectPacket,
    MQTTPingRespPacket,
    MQTTPubAckPacket,
    MQTTPublishPacket,
    MQTTPubRecPacket,
    MQTTPubRelPacket,
    MQTTSubAckPacket,
    MQTTSubscribePacket,
    MQTTSubscription,
)
from ohmqtt.testing import Broker, BrokerSettings, FakeClock, Proxy
from tests.broker_tools import collect_messages
from tests.certificates import Certificates, write_certificates
from tests.raw_client import RawClient

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 60.0
KEPT = MQTTConnectProps(SessionExpiryInterval=100)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock(1_000.0)


@pytest.fixture
def broker(clock: FakeClock) -> Iterator[Broker]:
    with Broker(clock=clock) as broker:
        yield broker


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return write_certificates(tmp_path_factory.mktemp("certificates"))


def subscribe(client: RawClient, topic_filter: str, qos: int = 2) -> None:
    client.send(MQTTSubscribePacket(1, (MQTTSubscription(topic_filter, qos),)))
    client.expect(MQTTSubAckPacket)


# ---- serving -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-4.2.0-1")
def test_a_client_publishes_and_subscribes(broker: Broker) -> None:
    with Client() as client:
        client.connect(broker.address, "me")
        inbox = collect_messages(client, "a/#")
        for qos in (0, 1, 2):
            client.publish("a/b", b"%d" % qos, qos).wait_for_ack(PATIENCE_S)
        assert inbox.wait_payloads(3) == [b"0", b"1", b"2"]
        assert broker.clients == ["me"]


def test_tls(certificates: Certificates) -> None:
    payload = bytes(range(256)) * 2_000  # many records
    with Broker(tls_context=certificates.server_context()) as broker:
        assert broker.tls_address.startswith("mqtts://localhost:")
        with RawClient(broker.tls_address, "me", tls_context=certificates.client_context()) as client:
            subscribe(client, "t")
            client.send(MQTTPublishPacket("t", payload))
            assert client.expect(MQTTPublishPacket).payload == payload
            client.send(MQTTDisconnectPacket())
            client.expect_end()
        with RawClient(broker.address, "plain") as client:
            client.expect_nothing()


def test_a_client_that_is_no_tls_client_is_turned_away(certificates: Certificates) -> None:
    with Broker(tls_context=certificates.server_context()) as broker:
        with RawClient(broker.tls_address) as client:
            client.send(MQTTConnectPacket("me"))
            while client.sock.recv(65536):
                pass
        # One that says nothing keeps nobody else waiting, and one that is gone at once does no harm.
        with RawClient(broker.tls_address), RawClient(broker.tls_address, "me", tls_context=certificates.client_context()) as client:
            client.expect_nothing()


@pytest.mark.skipif(sys.platform == "win32", reason="no Unix sockets")
def test_unix_socket() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "s"
        broker = Broker(unix_path=path)
        for _ in range(2):
            with broker:
                assert broker.unix_address == f"unix:{path}"
                with RawClient(broker.unix_address, "me") as client:
                    client.expect_nothing()
            assert not path.exists()
        path.write_text("somebody else's")
        with pytest.raises(OSError):  # in the system's own words
            broker.start()
        assert path.read_text() == "somebody else's"
        assert not broker.is_running


def test_ipv6() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6")
    try:
        broker = Broker(host="::1").start()
    except OSError:
        pytest.skip("no IPv6 on this machine")
    with broker, RawClient(broker.address, "me") as client:
        assert broker.address.startswith("mqtt://[::1]:")
        client.expect_nothing()


def test_addresses_that_there_are_not() -> None:
    broker = Broker()
    with pytest.raises(StateError, match="started"):
        assert broker.address
    with pytest.raises(StateError, match="started"):
        assert broker.port
    with pytest.raises(StateError, match="tls_context"):
        assert broker.tls_address
    with pytest.raises(StateError, match="tls_context"):
        assert broker.tls_port
    with pytest.raises(StateError, match="unix_path"):
        assert broker.unix_address


def test_host_and_ports_by_themselves(certificates: Certificates) -> None:
    with Broker(tls_context=certificates.server_context()) as broker, Proxy(broker.address) as proxy:
        assert broker.address == f"mqtt://{broker.host}:{broker.port}"
        assert broker.tls_address == f"mqtts://localhost:{broker.tls_port}"
        assert proxy.address == f"mqtt://{proxy.host}:{proxy.port}"


def test_the_address_outlives_a_stop(broker: Broker) -> None:
    address = broker.address
    with RawClient(address, "me", properties=KEPT) as client:
        broker.stop()
        client.expect_end()
    with pytest.raises(ConnectionRefusedError):
        RawClient(address)
    assert broker.clients == []
    broker.start()
    assert broker.address == address
    with RawClient(address, "me", properties=KEPT) as client:
        assert client.connack.session_present


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize("how", ["restart", "stop and start"])
def test_what_a_restart_keeps(clock: FakeClock, persistent: bool, how: str) -> None:
    with Broker(BrokerSettings(persistent=persistent), clock=clock) as broker:
        with RawClient(broker.address, "me", properties=KEPT) as client:
            client.send(MQTTPublishPacket("kept", b"retained", retain=True))
            client.expect_nothing()
            if how == "restart":
                broker.restart()
            else:
                broker.stop()
                broker.start()
            client.expect_end()
        with RawClient(broker.address, "me", properties=KEPT) as client:
            assert client.connack.session_present is persistent
        assert broker.call(lambda: list(broker.core.retained)) == ["kept"] * persistent


def test_a_message_larger_than_all_buffers_reaches_a_slow_reader(broker: Broker) -> None:
    payload = bytes(range(256)) * 49_152  # 12 MiB
    with RawClient(broker.address, "reader") as reader, RawClient(broker.address, "writer") as writer:
        subscribe(reader, "t", 0)
        writer.send(MQTTPublishPacket("t", payload))
        broker.wait_for_messages()
        # It waits for room, and meanwhile others are served.
        writer.expect_nothing()
        line = next(line for line in broker._lines.values() if line.connection.client_id == "reader")
        assert broker.call(lambda: line.blocked)
        # Who takes nothing isn't listened to either.
        assert broker.call(lambda: broker._selector.get_key(line.sock).events) == 2
        assert reader.expect(MQTTPublishPacket).payload == payload
        reader.expect_nothing()


def test_a_reader_that_goes_away_while_much_waits_for_it(broker: Broker) -> None:
    with RawClient(broker.address, "reader") as reader, RawClient(broker.address, "writer") as writer:
        subscribe(reader, "t", 0)
        writer.send(MQTTPublishPacket("t", bytes(12 << 20)))
        broker.wait_for_messages()
        reader.close()
        broker.wait_until(lambda: len(broker.core.connections) == 1)
        writer.expect_nothing()


def test_nothing_is_read_from_a_connection_that_is_closing(broker: Broker) -> None:
    with RawClient(broker.address, "reader") as reader:
        subscribe(reader, "t", 0)
        broker.publish("t", bytes(12 << 20))
        assert broker.disconnect("reader", ReasonCode.SERVER_BUSY)
        assert not broker.disconnect("reader")
        # Too late: it is read only so that the end of the stream is seen.
        before = len(broker.packets)
        reader.sock.sendall(MQTTPublishPacket("late").encode())
        reader.expect(MQTTPublishPacket)
        assert reader.expect(MQTTDisconnectPacket).reason_code == ReasonCode.SERVER_BUSY
        reader.expect_end()
        assert len(broker.packets) == before


def test_what_comes_on_a_closing_connection_is_thrown_away(broker: Broker) -> None:
    with RawClient(broker.address, "me") as client:
        (line,) = broker._lines.values()

        def close_while_blocked() -> bytes:
            line.blocked = True
            broker.core.disconnect("me", 0x8B)
            client.send(MQTTPublishPacket("late"))
            line.sock.setblocking(True)
            broker._read(line)
            line.sock.setblocking(False)
            return bytes(line.connection._buffer)

        assert broker.call(close_while_blocked) == b""
        client.expect(MQTTDisconnectPacket)
        client.expect_end()


def test_sockets_that_were_ready_and_are_no_longer_are_left_alone(broker: Broker, certificates: Certificates) -> None:
    with RawClient(broker.address, "me") as client:
        (line,) = broker._lines.values()
        broker.call(lambda: broker._read(line))
        broker.call(lambda: broker._accept(broker._listeners[0], None))
        client.expect_nothing()


def test_many_clients_at_once(broker: Broker) -> None:
    clients = [RawClient(broker.address, f"c{n}") for n in range(20)]
    for client in clients:
        subscribe(client, "all", 0)
    for n, client in enumerate(clients):
        client.send(MQTTPublishPacket("all", b"%d" % n))
    broker.wait_for_messages(20)
    for client in clients:
        assert sorted(int(client.expect(MQTTPublishPacket).payload) for _ in range(20)) == list(range(20))
        client.close()


# ---- time --------------------------------------------------------------------------------------------------------------------------------


def test_sessions_end_by_the_clock(broker: Broker, clock: FakeClock) -> None:
    with RawClient(broker.address, "me", properties=KEPT) as client:
        client.send(MQTTDisconnectPacket())
        client.expect_end()
    clock.advance(99.5)
    assert "me" in broker.core.sessions
    clock.advance(0.5)
    assert "me" not in broker.core.sessions


def test_a_will_is_delayed_by_the_clock(broker: Broker, clock: FakeClock) -> None:
    will = MQTTWill("will", b"gone", properties=MQTTWillProps(WillDelayInterval=30))
    with RawClient(broker.address, "watcher") as watcher:
        subscribe(watcher, "will")
        with RawClient(broker.address, "me", properties=KEPT, will=will):
            pass
        # The delay counts from when the broker sees the end of the connection.
        broker.wait_until(lambda: len(broker.core.connections) == 1)
        clock.advance(29)
        watcher.expect_nothing()
        clock.advance(1)
        assert watcher.expect(MQTTPublishPacket).payload == b"gone"
        assert [message.publisher for message in broker.received] == ["me"]


def test_a_long_leap_is_like_many_short_ones(broker: Broker, clock: FakeClock) -> None:
    will = MQTTWill("will", b"gone", properties=MQTTWillProps(WillDelayInterval=30))
    with RawClient(broker.address, "me", properties=KEPT, will=will, keep_alive=10) as client:
        # Keep alive (15), Will Delay (30) and the end of the session (100) follow from each other.
        clock.advance(15 + 100)
        assert client.expect(MQTTDisconnectPacket).reason_code == ReasonCode.KEEP_ALIVE_TIMEOUT
        client.expect_end()
    assert [message.topic for message in broker.received] == ["will"]
    assert not broker.core.sessions


def test_with_a_real_clock_timers_run_by_themselves() -> None:
    with Broker(BrokerSettings(connect_timeout_s=0.01)) as broker, RawClient(broker.address) as client:
        client.expect_end()


# ---- what it saw and does ----------------------------------------------------------------------------------------------------------------


def test_what_was_received(broker: Broker) -> None:
    with RawClient(broker.address, "me") as client:
        exactly_once = MQTTPublishPacket("a/2", b"two", 2, packet_id=7)
        again = MQTTPublishPacket("a/2", b"two", 2, dup=True, packet_id=7)
        alias = MQTTPublishProps(TopicAlias=3)
        client.send(MQTTPublishPacket("a/0", b"zero", properties=alias), MQTTPublishPacket("", b"zero again", properties=alias))
        client.send(exactly_once, again, MQTTPubRelPacket(7))
        broker.wait_for_packets("PUBREL")
        assert [(message.topic, message.payload, message.qos) for message in broker.received] == [
            ("a/0", b"zero", 0),
            ("a/0", b"zero again", 0),
            ("a/2", b"two", 2),
        ]
        packets = broker.wait_for_packets("PUBLISH", 4)
        assert [(packet.topic, packet.properties.TopicAlias) for packet in packets] == [("a/0", 3), ("", 3), ("a/2", None), ("a/2", None)]
        assert broker.packets[0] == ("me", MQTTConnectPacket("me"))
        assert broker.packets[-1] == ("me", MQTTPubRelPacket(7))
        assert len(broker.wait_for_messages(1, "a/2")) == 1
        broker.publish("a/2", "from the broker itself doesn't count")
        assert len(broker.received) == 3
        broker.forget()
        assert broker.received == []
        assert broker.packets == []


def test_waiting_for_what_comes_later(broker: Broker) -> None:
    with RawClient(broker.address, "me") as client:
        later = threading.Thread(target=client.send, args=(MQTTPublishPacket("b"), MQTTPublishPacket("a/1"), MQTTPublishPacket("a/2")))
        later.start()
        assert [message.topic for message in broker.wait_for_messages(2, "a/+")] == ["a/1", "a/2"]
        later.join(PATIENCE_S)


def test_waiting_in_vain(broker: Broker) -> None:
    with RawClient(broker.address, "me"):
        with pytest.raises(WaitTimeoutError, match=r"1 messages that match 'a/\+'; 0 messages and these packets came: CONNECT of 'me'"):
            broker.wait_for_messages(1, "a/+", timeout=0.01)
        with pytest.raises(TimeoutError, match="2 SUBSCRIBE"):
            broker.wait_for_packets("SUBSCRIBE", 2, timeout=0.01)
        with pytest.raises(TimeoutError, match="a condition"):
            broker.wait_until(lambda: False, timeout=0.01)
        with pytest.raises(ArgumentError, match="#"):
            broker.wait_for_messages(1, "a/#/b")
        broker.forget()
        with pytest.raises(TimeoutError, match="came: none"):
            broker.wait_for_messages(timeout=0.01)


def test_publishing_from_the_broker(broker: Broker, clock: FakeClock) -> None:
    with RawClient(broker.address, "me") as client:
        subscribe(client, "a", 1)
        assert broker.publish("a", "text", qos=2, properties=MQTTPublishProps(MessageExpiryInterval=9))
        packet = client.expect(MQTTPublishPacket)
        assert (packet.payload, packet.qos, packet.properties.MessageExpiryInterval) == (b"text", 1, 9)
        client.send(MQTTPubAckPacket(packet.packet_id))
        assert not broker.publish("nobody", bytearray(b"x"), retain=True)
        assert broker.call(lambda: broker.core.retained["nobody"].payload) == b"x"
    with pytest.raises(ArgumentError, match="topic"):
        broker.publish("a/#")
    with pytest.raises(ArgumentError, match="qos"):
        broker.publish("a", qos=3)
    with pytest.raises(ArgumentError, match="Topic Alias"):
        broker.publish("a", properties=MQTTPublishProps(TopicAlias=1))


def test_a_qos_2_exchange_with_the_broker(broker: Broker) -> None:
    with RawClient(broker.address, "me") as client:
        subscribe(client, "a")
        broker.publish("a", qos=2)
        packet = client.expect(MQTTPublishPacket)
        client.send(MQTTPubRecPacket(packet.packet_id))
        assert client.expect(MQTTPubRelPacket).packet_id == packet.packet_id


@pytest.mark.spec("MQTT-3.14.2-1", "MQTT-3.14.2-2")
def test_a_goodbye_of_the_broker(broker: Broker) -> None:
    with RawClient(broker.address, "me") as client:
        assert broker.disconnect("me")
        assert client.expect(MQTTDisconnectPacket).reason_code == ReasonCode.SERVER_SHUTTING_DOWN
        client.expect_end()
    assert not broker.disconnect("stranger")
    assert not broker.disconnect("stranger", ReasonCode.NORMAL_DISCONNECTION)
    with pytest.raises(ArgumentError, match="0x04 Disconnect with will message is none that a server may send"):
        broker.disconnect("stranger", ReasonCode.DISCONNECT_WITH_WILL_MESSAGE)
    with pytest.raises(ArgumentError, match="for clients only"):
        broker.disconnect("stranger", properties=MQTTDisconnectProps(SessionExpiryInterval=0))


def test_limits_and_hooks_of_the_settings() -> None:
    settings = BrokerSettings(maximum_qos=1, authenticate=lambda client_id, user_name, password: None if client_id == "me" else 0x87)
    with Broker(settings) as broker:
        with RawClient(broker.address, "me") as client:
            assert client.connack.properties.MaximumQoS == 1
        with RawClient(broker.address) as client:
            client.send(MQTTConnectPacket("you"))
            assert client.expect(MQTTConnAckPacket).reason_code == 0x87
            client.expect_end()


def test_a_hook_that_raises_ends_the_broker_and_says_so() -> None:
    def authenticate(client_id: str, user_name: str | None, password: bytes | None) -> int | None:
        raise ZeroDivisionError(f"for {client_id}")

    with pytest.raises(ZeroDivisionError, match="for me"), Broker(BrokerSettings(authenticate=authenticate)) as broker:
        with RawClient(broker.address) as client:
            client.send(MQTTConnectPacket("me"))
            client.expect_end()
        with pytest.raises(StateError):
            broker.wait_until(lambda: True)


def test_a_hook_may_ask_the_broker() -> None:
    def authorize(client_id: str, action: str, topic: str) -> int | None:
        return None if asked.clients == ["me"] else 0x87

    asked = Broker(BrokerSettings(authorize=authorize))
    with asked, RawClient(asked.address, "me") as client:
        client.send(MQTTSubscribePacket(1, (MQTTSubscription("a", 0),)))
        assert client.expect(MQTTSubAckPacket).reason_codes == (0,)


def test_what_is_called_raises_at_the_caller(broker: Broker) -> None:
    with pytest.raises(ZeroDivisionError):
        broker.call(lambda: 1 // 0)
    broker.stop()
    assert broker.call(broker.now) == 1_000.0
    assert broker.core.deadline() in (None, inf)


@pytest.mark.slow
def test_ssl_is_only_imported_for_tls() -> None:
    import subprocess

    program = "import sys; from ohmqtt.testing import Broker\nwith Broker(): assert 'ssl' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE_S)
    assert issubclass(ssl.SSLWantReadError, OSError)


def test_a_ping_is_answered(broker: Broker) -> None:
    with RawClient(broker.address, "me") as client:
        client.send(b"\xc0\x00")
        client.expect(MQTTPingRespPacket)
