"""The scripted peer of the tests does what its script says, and says what went wrong when a client doesn't."""

from __future__ import annotations

import socket
import ssl
import threading
from typing import TYPE_CHECKING

import pytest

from ohmqtt.packet import MQTTConnectPacket, MQTTPubAckPacket, MQTTPublishPacket, MQTTSubscribePacket
from ohmqtt.property import MQTTConnectProps
from tests.certificates import Certificates, write_certificates
from tests.peer import Link, Peer, PeerError
from tests.strict_parser import NotStrictError, parse_stream

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CONNECT = MQTTConnectPacket("me", keep_alive=60, properties=MQTTConnectProps(SessionExpiryInterval=300)).encode()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return write_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as it:
        yield it


@pytest.fixture
def ends(peer: Peer) -> Iterator[tuple[socket.socket, Link]]:
    with socket.create_connection(("127.0.0.1", peer.port), 5) as client:
        yield client, peer.accept()


def test_it_listens_where_its_address_says(peer: Peer) -> None:
    assert peer.address == f"127.0.0.1:{peer.port}"


def test_expect_returns_the_packet_with_its_fields(ends: tuple[socket.socket, Link]) -> None:
    client, link = ends
    client.sendall(_CONNECT + b"\x30\x05\x00\x01a\x00x")
    connect = link.expect(MQTTConnectPacket, client_id="me", SessionExpiryInterval=300, ReceiveMaximum=None)
    assert connect.keep_alive == 60
    assert link.expect("PUBLISH", topic="a", qos=0, properties={}).payload == b"x"
    assert [packet.kind for packet in link.history] == ["CONNECT", "PUBLISH"]
    assert link.bytes_received == len(_CONNECT) + 7


def test_a_packet_may_come_byte_by_byte(ends: tuple[socket.socket, Link]) -> None:
    client, link = ends
    for number, byte in enumerate(_CONNECT):
        client.sendall(bytes((byte,)))
        if number == 20:
            link.expect_nothing(0.001)
    assert link.receive().raw == _CONNECT


def test_another_packet_fails_and_is_shown(ends: tuple[socket.socket, Link]) -> None:
    client, link = ends
    client.sendall(_CONNECT + b"\xc0\x00")
    link.expect("CONNECT")
    with pytest.raises(PeerError, match=r"expected PUBACK\(packet_id=1\), but PINGREQ\(\) came; before that: CONNECT\(client_id='me'"):
        link.expect(MQTTPubAckPacket, packet_id=1)


def test_another_value_fails_and_is_shown(ends: tuple[socket.socket, Link]) -> None:
    client, link = ends
    client.sendall(_CONNECT + b"\x30\x05\x00\x01a\x00x")
    with pytest.raises(PeerError, match="SessionExpiryInterval is 300 in CONNECT"):
        link.expect(MQTTConnectPacket, SessionExpiryInterval=0)
    with pytest.raises(PeerError, match="topic is 'a' in PUBLISH"):
        link.expect(MQTTPublishPacket, topic="b")


def test_nothing_and_half_a_packet_fail_within_the_time(ends: tuple[socket.socket, Link]) -> None:
    client, link = ends
    with pytest.raises(PeerError, match=r"expected PUBLISH\(\) within 0.01 s, but nothing came; nothing came before that"):
        link.expect("PUBLISH", timeout=0.01)
    client.sendall(b"\x30\x05\x00")
    with pytest.raises(PeerError, match="only 30 05 00 came"):
        link.expect("PUBLISH", timeout=0.05)


def test_bytes_that_break_the_standard_fail(ends: tuple[socket.socket, Link]) -> None:
    client, link = ends
    client.sendall(b"\x80\x06\x00\x01\x00\x00\x01a")
    with pytest.raises(NotStrictError, match="SUBSCRIBE: reserved flags 0000"):
        link.expect(MQTTSubscribePacket)


def test_what_only_a_server_may_send_fails(ends: tuple[socket.socket, Link]) -> None:
    client, link = ends
    client.sendall(b"\xd0\x00")
    with pytest.raises(NotStrictError, match="PINGRESP is not for a client"):
        link.receive()


def test_the_end_of_the_stream(ends: tuple[socket.socket, Link]) -> None:
    client, link = ends
    client.sendall(b"\xe0\x00")
    with pytest.raises(PeerError, match="expected the end of the stream, but DISCONNECT"):
        link.expect_eof()
    with pytest.raises(PeerError, match="the connection stayed open"):
        link.expect_eof(0.01)
    client.close()
    assert link.expect_eof() == "closed"
    with pytest.raises(PeerError, match="the client closed the connection"):
        link.expect("PUBLISH")
    with pytest.raises(PeerError, match=r"expected nothing for 0.05 s, but the client closed"):
        link.expect_nothing()


def test_an_end_inside_a_packet_fails(ends: tuple[socket.socket, Link]) -> None:
    client, link = ends
    client.sendall(b"\x30\x05\x00")
    client.close()
    with pytest.raises(PeerError, match="closed the connection inside a packet: 30 05 00"):
        link.expect_eof()


def test_a_reset_is_told_from_a_close(ends: tuple[socket.socket, Link]) -> None:
    client, link = ends
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    client.close()
    assert link.expect_eof() == "reset"


def test_expect_nothing(ends: tuple[socket.socket, Link]) -> None:
    client, link = ends
    link.expect_nothing(0.01)
    client.sendall(b"\xc0\x00")
    with pytest.raises(PeerError, match=r"expected nothing for 5.0 s, but PINGREQ"):
        link.expect_nothing(5.0)


def test_read_all_until_eof(ends: tuple[socket.socket, Link]) -> None:
    client, link = ends
    client.sendall(_CONNECT + b"\xc0\x00")
    with pytest.raises(PeerError, match=r"after \[CONNECT.*PINGREQ\(\)\] the connection stayed open"):
        link.read_all_until_eof(0.05)
    client.sendall(b"\xc0\x00\xe0\x00")
    client.close()
    assert [packet.kind for packet in link.read_all_until_eof()] == ["PINGREQ", "DISCONNECT"]


def test_raw_bytes(ends: tuple[socket.socket, Link]) -> None:
    client, link = ends
    with pytest.raises(PeerError, match=r"expected bytes within 0.01 s"):
        link.receive_raw(0.01)
    client.sendall(b"anything")
    assert link.receive_raw() == b"anything"
    client.close()
    assert link.receive_raw() == b""


def test_handshake(ends: tuple[socket.socket, Link]) -> None:
    client, link = ends
    client.sendall(_CONNECT)
    assert link.handshake(ReceiveMaximum=2).client_id == "me"
    assert client.recv(100) == b"\x20\x06\x00\x00\x03\x21\x00\x02"


def test_everything_it_sends_is_a_servers_packet(ends: tuple[socket.socket, Link]) -> None:
    client, link = ends
    link.connack(0x87, ReasonString="no")
    link.connack(session_present=True)
    link.publish("a", b"x", 1, 7, retain=True, dup=True, ContentType="t")
    link.publish("a")
    link.puback(1)
    link.pubrec(2, 0x91)
    link.pubrel(3, 0x92, ReasonString="no")
    link.pubcomp(4)
    link.suback(5, 0, 1, 0x80)
    link.unsuback(6, 0x11)
    link.pingresp()
    link.auth(AuthenticationMethod="M")
    link.send(MQTTPublishPacket("b", b"y"))
    link.send(b"\xd0\x00")
    link.disconnect(0x8E)
    link.disconnect()
    link.close()
    with client.makefile("rb") as stream:
        packets = parse_stream(stream.read(), "server")
    assert [packet.kind for packet in packets] == [
        "CONNACK",
        "CONNACK",
        "PUBLISH",
        "PUBLISH",
        "PUBACK",
        "PUBREC",
        "PUBREL",
        "PUBCOMP",
        "SUBACK",
        "UNSUBACK",
        "PINGRESP",
        "AUTH",
        "PUBLISH",
        "PINGRESP",
        "DISCONNECT",
        "DISCONNECT",
    ]
    assert packets[2].raw == b"\x3b\x0b\x00\x01a\x00\x07\x04\x03\x00\x01tx"
    assert packets[6].properties == {"ReasonString": "no"}
    assert packets[8].reason_codes == [0, 1, 0x80]


def test_a_client_that_does_not_read_is_told_of(ends: tuple[socket.socket, Link]) -> None:
    _client, link = ends
    with pytest.raises(PeerError, match="the client did not take"):
        link.send_raw(bytes(50_000_000), timeout=0.05)


def test_cut_resets_the_client(ends: tuple[socket.socket, Link]) -> None:
    client, link = ends
    link.cut()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_half_close_still_reads(ends: tuple[socket.socket, Link]) -> None:
    client, link = ends
    link.half_close()
    assert client.recv(1) == b""
    client.sendall(b"\xc0\x00")
    assert link.receive().kind == "PINGREQ"


def test_a_connection_that_does_not_come(peer: Peer) -> None:
    peer.expect_no_connection(0.01)
    with pytest.raises(PeerError, match=r"expected a connection within 0.01 s, but none came"):
        peer.accept(0.01)
    with socket.create_connection(("127.0.0.1", peer.port)), pytest.raises(PeerError, match="but one came"):
        peer.expect_no_connection(5.0)


def test_it_can_stop_listening(peer: Peer) -> None:
    with socket.create_connection(("127.0.0.1", peer.port), 5) as client:
        link = peer.accept()
        peer.stop_listening()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", peer.port), 5)
        client.sendall(_CONNECT)
        link.expect("CONNECT")


def test_a_name_that_is_no_packet_is_refused(ends: tuple[socket.socket, Link]) -> None:
    with pytest.raises(ValueError, match="not a packet: PUBLICATION"):
        ends[1].expect("PUBLICATION")


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
def test_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with Peer(unix_path=path) as peer, socket.socket(socket.AF_UNIX) as client:
        assert peer.address == f"unix:{path}"
        client.connect(str(path))
        client.sendall(_CONNECT)
        assert peer.accept().expect("CONNECT").client_id == "me"


def test_tls(certificates: Certificates) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificates.server, certificates.server_key)
    trusting = ssl.create_default_context(cafile=str(certificates.authority))
    with Peer(tls_context=server, host="localhost") as peer:
        assert peer.address == f"mqtts://localhost:{peer.port}"
        received: list[bytes] = []

        def talk() -> None:
            with (
                socket.create_connection(("localhost", peer.port), 5) as plain,
                trusting.wrap_socket(plain, server_hostname="localhost") as client,
            ):
                client.sendall(_CONNECT * 2000)
                received.append(client.recv(100))

        thread = threading.Thread(target=talk)
        thread.start()
        link = peer.accept()
        for _ in range(2000):
            link.expect("CONNECT")
        link.connack()
        thread.join(5)
        assert received == [b"\x20\x03\x00\x00\x00"]
        assert link.expect_eof() == "closed"


def test_a_tls_handshake_that_fails_is_told_of(certificates: Certificates) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificates.server, certificates.server_key)
    with Peer(tls_context=server) as peer, socket.create_connection(("127.0.0.1", peer.port), 5) as client:
        client.sendall(_CONNECT)
        with pytest.raises(PeerError, match="the TLS handshake failed"):
            peer.accept()
