"""Tests that are written wrongly: the kit says what is wrong with them, where they are wrong, and never does something else instead."""

from __future__ import annotations

import socket
import ssl
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import trustme

from ohmqtt.errors import ArgumentError
from ohmqtt.packet import (
    MQTTConnectPacket,
    MQTTPingReqPacket,
    MQTTPingRespPacket,
    MQTTPubAckPacket,
    MQTTPublishPacket,
    MQTTPubRecPacket,
    MQTTSubscribePacket,
    MQTTSubscription,
)
from ohmqtt.testing import Broker, BrokerCore, BrokerSettings, Ending, Proxy
from tests.raw_client import RawClient

ONE = MQTTPublishPacket("t", b"1", 1, packet_id=1)
UNIX = pytest.mark.skipif(sys.platform == "win32", reason="no Unix sockets")


# ---- settings and hooks ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [("receive_maximum", None), ("maximum_qos", None), ("session_expiry_max_s", "60"), ("topic_alias_maximum", 1.5)],
)
def test_a_limit_that_is_no_number(name: str, value: object) -> None:
    with pytest.raises(ArgumentError, match=f"{name}: int expected, got "):
        BrokerSettings(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["maximum_packet_size", "server_keep_alive"])
def test_a_limit_that_need_not_be(name: str) -> None:
    assert getattr(BrokerSettings(**{name: None}), name) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [Broker, BrokerCore])
def test_what_is_given_for_settings_is_something_else(kind: Any) -> None:
    with pytest.raises(ArgumentError, match="settings: BrokerSettings expected, got 1883"):
        kind(1883)


@pytest.mark.parametrize("said", [True, False, 1, 0x7F, 0x100, "no"])
def test_a_hook_that_says_yes_or_no_lets_nobody_in_and_keeps_nobody_out(said: Any) -> None:
    with (
        pytest.raises(ArgumentError, match=r"authenticate returned .*; None expected, or the reason code of a refusal"),
        Broker(BrokerSettings(authenticate=lambda *_: said)) as broker,
        RawClient(broker.address) as client,
    ):
        client.send(MQTTConnectPacket("me"))
        client.expect_end()


@pytest.mark.parametrize("packet", [ONE, MQTTSubscribePacket(1, (MQTTSubscription("t"),))])
@pytest.mark.parametrize("said", [True, False])
def test_a_permission_that_is_no_reason_code(said: Any, packet: MQTTPublishPacket | MQTTSubscribePacket) -> None:
    with (
        pytest.raises(ArgumentError, match="authorize returned"),
        Broker(BrokerSettings(authorize=lambda *_: said)) as broker,
        RawClient(broker.address, "me") as client,
    ):
        client.send(packet)
        client.expect_end()


def test_success_is_a_reason_code_as_well() -> None:
    with Broker(BrokerSettings(authenticate=lambda *_: 0, authorize=lambda *_: 0)) as broker, RawClient(broker.address, "me") as client:
        client.send(ONE)
        assert client.expect(MQTTPubAckPacket).reason_code == 0x10


# ---- waiting -----------------------------------------------------------------------------------------------------------------------------


def test_a_condition_that_is_too_early_raises_and_the_broker_goes_on() -> None:
    with Broker() as broker, RawClient(broker.address, "me") as client:
        with pytest.raises(IndexError):
            broker.wait_until(lambda: broker.received[0].payload == b"1")
        with pytest.raises(TypeError):
            broker.wait_for_messages("t")  # type: ignore[arg-type]
        client.send(ONE)
        client.expect(MQTTPubAckPacket)
        broker.wait_until(lambda: broker.received[0].payload == b"1")


@pytest.mark.parametrize("kind", ["subscribe", "SUBACK", "*"])
def test_packets_that_never_come_are_not_waited_for(kind: str) -> None:
    with Broker() as broker, pytest.raises(ArgumentError, match="kind: that of a packet which a broker receives expected"):
        broker.wait_for_packets(kind)


# ---- faults ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verdict", [b"\xd0\x00", "PINGRESP", MQTTPingRespPacket(), Ending.CLOSE, [0xD0, 0x00], True])
@pytest.mark.parametrize("sent", [True, False])
def test_a_script_that_returns_no_steps(verdict: Any, sent: bool) -> None:
    with (
        pytest.raises(ArgumentError, match=r"a script returned .*; None expected, or a tuple or list of packets, bytes and Ending"),
        Broker() as broker,
        RawClient(broker.address, "me") as client,
    ):
        broker.faults.script("*", lambda *_: verdict, sent=sent)
        client.send(MQTTPingReqPacket())
        client.expect_end()


def test_what_can_not_be_sent_or_called_is_refused_at_the_call() -> None:
    faults = Broker().faults
    for data in ("text", 5, None):
        with pytest.raises(ArgumentError, match="data: bytes or a packet expected, got"):
            faults.send(data)  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match=r"answer|kind"):
            faults.answer("PINGREQ", data)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="steps: a function"):
        faults.script("PUBLISH", [b"\xd0\x00"])  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["CONNECT", "PINGREQ", "DISCONNECT", "*"])
def test_an_answer_that_would_find_no_identifier(kind: str) -> None:
    with pytest.raises(ArgumentError, match="has no packet identifier that PUBACK could take"):
        Broker().faults.answer(kind, MQTTPubAckPacket(0))
    Broker().faults.answer(kind, MQTTPubAckPacket(7))


def test_what_has_no_identifier_does_not_count_for_an_answer_that_takes_it() -> None:
    with Broker() as broker, RawClient(broker.address, "me") as client:
        fault = broker.faults.answer("PUBLISH", MQTTPubRecPacket(0, 0x97))
        client.send(MQTTPublishPacket("t", b"0"), MQTTPublishPacket("t", b"2", 2, packet_id=9))
        packet = client.expect(MQTTPubRecPacket)
        assert (packet.packet_id, packet.reason_code, fault.fired) == (9, 0x97, 1)
        assert [message.payload for message in broker.received] == [b"0"]


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_bytes_are_bytes_of_whatever_kind(kind: Any) -> None:
    with Broker() as broker, RawClient(broker.address, "me") as client:
        broker.faults.answer("PINGREQ", kind(b"\xd0\x00"))
        broker.faults.send(kind(b"\xd0\x00"))
        client.expect(MQTTPingRespPacket)
        client.expect_nothing()


# ---- proxy -------------------------------------------------------------------------------------------------------------------------------


def test_a_cut_has_a_way_and_whole_bytes() -> None:
    proxy = Proxy("localhost")
    for way in (None, "sideways"):
        with pytest.raises(ArgumentError, match='way: "up" or "down" expected'):
            proxy.cut_after(1, way)  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match='way: "up" or "down" expected'):
            proxy.passed(way)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match='way: "up", "down" or None expected'):
        proxy.freeze("sideways")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="integer"):
        proxy.cut_after(1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="integer"):
        proxy.split(1.5)  # type: ignore[arg-type]


def test_a_brokers_certificate_is_good_for_the_proxy_as_well() -> None:
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with Broker(tls_context=server) as broker, Proxy(broker.tls_address) as proxy:
        RawClient(proxy.address, "me", tls_context=trusting).close()
        RawClient(broker.tls_address, "me", tls_context=trusting).close()


# ---- Unix sockets ------------------------------------------------------------------------------------------------------------------------


@UNIX
def test_a_unix_socket_that_a_killed_process_left_is_taken_over() -> None:
    # Not the test's own folder: the path of a Unix socket may have 107 characters.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mqtt"
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))
            left.listen()
        assert path.is_socket()
        with Broker(unix_path=path) as broker:
            RawClient(broker.unix_address, "me").close()
            with pytest.raises(OSError, match="in use"):
                Broker(unix_path=path).start()
        assert not path.exists()


@UNIX
def test_what_is_no_unix_socket_is_left_alone() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mqtt"
        path.write_text("precious")
        with pytest.raises(OSError, match="in use"):
            Broker(unix_path=path).start()
        assert path.read_text() == "precious"
