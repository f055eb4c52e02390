"""Transports: real sockets on loopback, a resolver that is handed over, and real certificates.

A port "refuses" when a socket is bound to it and doesn't listen: nobody else can get it meanwhile. An address "swallows" when a
listener's backlog is full: the system then drops what asks for a connection, as a dead route does.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import socket
import ssl
import struct
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from ohmqtt.address import Address, parse_address
from ohmqtt.errors import ArgumentError, ConnectError, NotSupportedError
from ohmqtt.testing.transport import check_transport
from ohmqtt.transport import SocketOption, SocketTransport, TLSTransport, Transport, open_transport, start_tls
from ohmqtt.transport import opening as opening_module
from ohmqtt.transport import tls as tls_module
from tests.certificates import Certificates, write_certificates
from tests.mosquitto import free_port, machine_has_ipv6

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    ConnectPeer = Callable[[], "tuple[TLSTransport, Peer]"]

PATIENCE_S = 60.0
#: For SO_LINGER: on, for no time at all.
NO_LINGER = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)

needs_ipv6 = pytest.mark.skipif(not machine_has_ipv6(), reason="this machine has no IPv6")
needs_unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="this platform has no Unix sockets")

# -- peers ----------------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return write_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def background() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


class Sockets:
    """Makes sockets and closes them when the test is over."""

    def __init__(self) -> None:
        self.made: list[socket.socket | Transport] = []

    def keep(self, sock: Any) -> Any:
        self.made.append(sock)
        return sock

    def listener(self, host: str = "127.0.0.1", port: int = 0, backlog: int | None = None) -> socket.socket:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=backlog)
        listener.settimeout(PATIENCE_S)
        self.keep(listener)
        return listener

    def refusing(self, host: str = "127.0.0.1") -> tuple[Any, ...]:
        """An address at which nobody listens, and nobody can."""
        sock = self.keep(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM))
        sock.bind((host, 0))
        return tuple(sock.getsockname())

    def swallowing(self) -> tuple[Any, ...]:
        """An address that doesn't answer at all."""
        address = self.listener(backlog=0).getsockname()
        for _ in range(16):
            filler = self.keep(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
            if not select.select([], [filler], [], 0.1)[1]:
                return tuple(address)
        pytest.skip("this system lets more connections wait than it was asked to")

    def accept(self, listener: socket.socket) -> socket.socket:
        sock: socket.socket = self.keep(listener.accept()[0])
        sock.settimeout(PATIENCE_S)
        return sock

    def pair(self) -> tuple[socket.socket, socket.socket]:
        listener = self.listener()
        client = self.keep(socket.create_connection(listener.getsockname()))
        return client, self.accept(listener)


@pytest.fixture
def sockets() -> Iterator[Sockets]:
    sockets = Sockets()
    yield sockets
    for sock in sockets.made:
        sock.close()


class Resolver:
    """Stands in for getaddrinfo: gives the addresses it was made with, and remembers what it was asked."""

    def __init__(self, *socket_addresses: tuple[Any, ...]) -> None:
        self.socket_addresses = socket_addresses
        self.asked: list[tuple[Any, ...]] = []

    def __call__(self, host: str, port: int, *, type: int) -> list[tuple[Any, Any, Any, Any, Any]]:  # noqa: A002
        self.asked.append((host, port, type))
        return [(socket.AF_INET6 if ":" in a[0] else socket.AF_INET, type, 6, "", a) for a in self.socket_addresses]


def address_of(listener: socket.socket, scheme: str = "mqtt", host: str = "localhost") -> Address:
    return Address(scheme, host, listener.getsockname()[1])


def receive(transport: Transport, size: int) -> bytes:
    """Receive exactly ``size`` bytes, or up to the end of the stream."""
    data = b""
    while len(data) < size:
        piece = transport.receive(size - len(data))
        if piece == b"":
            break
        data += piece or b""
        if piece is None and not transport.pending():
            assert select.select([transport], [], [], PATIENCE_S)[0]
    return data


def reset(sock: socket.socket) -> None:
    """Close so that the peer's connection is reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    sock.close()


# -- plain sockets --------------------------------------------------------------------------------------------------------------------------


@needs_unix
def test_plain_transport_conforms_over_a_socket_pair() -> None:
    def make_pair() -> tuple[Transport, Transport]:
        here, there = socket.socketpair()
        return SocketTransport(here, "here"), SocketTransport(there, "there")

    check_transport(make_pair)


def test_plain_transport_conforms_over_tcp(sockets: Sockets) -> None:
    def make_pair() -> tuple[Transport, Transport]:
        here, there = sockets.pair()
        return SocketTransport(here, "here"), SocketTransport(there, "there")

    check_transport(make_pair)


def test_a_reset_is_an_error_and_not_an_end(sockets: Sockets) -> None:
    here, there = sockets.pair()
    transport = sockets.keep(SocketTransport(here, "here"))
    reset(there)
    with pytest.raises(ConnectionResetError):
        receive(transport, 1)


def test_closing_with_unread_bytes_does_not_reset_the_connection(sockets: Sockets) -> None:
    here, there = sockets.pair()
    transport = SocketTransport(here, "here")
    there.sendall(b"never read")
    assert select.select([transport], [], [], PATIENCE_S)[0]
    transport.send(b"goodbye")
    transport.close()
    assert there.recv(100) == b"goodbye"
    assert there.recv(100) == b""


def test_closing_an_unconnected_socket_does_not_raise() -> None:
    transport = SocketTransport(socket.socket(), "nowhere")
    transport.close()
    assert transport.fileno() == -1


def test_transports_name_where_they_lead(sockets: Sockets) -> None:
    here, _ = sockets.pair()
    assert repr(SocketTransport(here, "127.0.0.1:1883")) == "<SocketTransport 127.0.0.1:1883>"


# -- connecting -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
@pytest.mark.spec("MQTT-4.2.0-1")
def test_connects_over_tcp(sockets: Sockets, host: str) -> None:
    listener = sockets.listener(host)
    transport = sockets.keep(open_transport(address_of(listener, host=host)))
    peer = sockets.accept(listener)
    assert transport.send(b"there") == 5
    assert peer.recv(100) == b"there"
    peer.sendall(b"and back")
    assert receive(transport, 8) == b"and back"
    shown = f"[{host}]" if ":" in host else host
    assert transport.description == f"{shown}:{listener.getsockname()[1]}"
    assert isinstance(transport, SocketTransport)


def test_names_are_resolved_by_the_system(sockets: Sockets) -> None:
    listener = sockets.listener()
    transport = sockets.keep(open_transport(parse_address(f"localhost:{listener.getsockname()[1]}")))
    assert transport.description.startswith("127.0.0.1:")


def test_names_are_resolved_anew_each_time(sockets: Sockets) -> None:
    listener = sockets.listener()
    resolver = Resolver(listener.getsockname())
    for _ in range(2):
        sockets.keep(open_transport(Address("mqtt", "broker.example", 1883), resolve=resolver))
    assert resolver.asked == [("broker.example", 1883, socket.SOCK_STREAM)] * 2


def test_a_name_that_cannot_be_resolved_says_so() -> None:
    def resolve(*_: Any, **__: Any) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(ConnectError, match=r"mqtt://x\.example:1883: the name can't be resolved: Name or service not known") as caught:
        open_transport(parse_address("x.example"), resolve=resolve)
    assert isinstance(caught.value.__cause__, socket.gaierror)


def test_a_name_that_the_system_cannot_encode_is_a_failure_to_connect() -> None:
    def resolve(*_: Any, **__: Any) -> list[Any]:
        raise UnicodeError("label empty or too long")

    with pytest.raises(ConnectError, match="can't be resolved: label empty or too long"):
        open_transport(Address("mqtt", "a..b", 1883), resolve=resolve)


def test_a_name_without_addresses_says_so() -> None:
    with pytest.raises(ConnectError, match=r"mqtt://x\.example:1883: the name has no address"):
        open_transport(parse_address("x.example"), resolve=Resolver())


def test_the_next_address_is_tried_when_one_refuses(sockets: Sockets) -> None:
    listener = sockets.listener()
    # To wait 250 ms after each would take ten seconds, which leaves some for a machine that is busy.
    resolver = Resolver(*(sockets.refusing() for _ in range(40)), listener.getsockname())
    began = time.monotonic()
    transport = sockets.keep(open_transport(parse_address("x.example"), resolve=resolver))
    assert time.monotonic() - began < 8
    assert transport.send(b"x") == 1
    assert sockets.accept(listener).recv(1) == b"x"


@needs_ipv6
def test_families_take_turns_and_repetitions_are_left_out(sockets: Sockets) -> None:
    six = [sockets.refusing("::1") for _ in range(3)]
    four = [sockets.refusing() for _ in range(2)]
    with pytest.raises(ConnectError) as caught:
        open_transport(parse_address("x.example"), resolve=Resolver(*six, six[0], *four, four[1]))
    expected = [six[0], four[0], six[1], four[1], six[2]]
    tried = str(caught.value).removeprefix("cannot connect to mqtt://x.example:1883: ").split("; ")
    assert [text.split(": ")[0] for text in tried] == [f"[{a[0]}]:{a[1]}" if ":" in a[0] else f"{a[0]}:{a[1]}" for a in expected]
    assert all(text.endswith(os.strerror(errno.ECONNREFUSED)) for text in tried)
    assert isinstance(caught.value.__cause__, ConnectionRefusedError)


@pytest.mark.slow
def test_the_next_address_is_tried_after_250_ms_of_silence(sockets: Sockets) -> None:
    listener = sockets.listener()
    resolver = Resolver(sockets.swallowing(), listener.getsockname())
    began = time.monotonic()
    transport = sockets.keep(open_transport(parse_address("x.example"), resolve=resolver))
    assert 0.25 <= time.monotonic() - began < 20
    assert transport.description == f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.slow
def test_a_slow_address_may_still_win_the_race(sockets: Sockets) -> None:
    """The second attempt fails at once, and the first one is still waited for."""
    swallowing = sockets.swallowing()
    with pytest.raises(ConnectError) as caught:
        open_transport(parse_address("x.example"), resolve=Resolver(swallowing, sockets.refusing()), timeout_s=2.0)
    refused, timed_out = str(caught.value).removeprefix("cannot connect to mqtt://x.example:1883: ").split("; ")
    assert refused.endswith(os.strerror(errno.ECONNREFUSED))
    assert timed_out == f"127.0.0.1:{swallowing[1]}: no answer in time"


def test_the_timeout_bounds_all_attempts_together(sockets: Sockets) -> None:
    swallowing = sockets.swallowing()
    began = time.monotonic()
    with pytest.raises(ConnectError) as caught:
        open_transport(parse_address("x.example"), timeout_s=0.05, resolve=Resolver(swallowing, ("127.0.0.1", 1)))
    assert 0.05 <= time.monotonic() - began < 20
    assert f"127.0.0.1:{swallowing[1]}: no answer in time; 127.0.0.1:1: time was up before it was tried" in str(caught.value)
    assert isinstance(caught.value.__cause__, TimeoutError)


def test_resolving_counts_towards_the_timeout() -> None:
    with pytest.raises(ConnectError, match=r"127\.0\.0\.1:1: time was up before it was tried"):
        open_transport(parse_address("x.example"), timeout_s=1e-9, resolve=Resolver(("127.0.0.1", 1)))


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf"), 86_401])
def test_the_timeout_has_limits(timeout_s: float) -> None:
    with pytest.raises(ArgumentError, match=r"timeout_s must be greater than 0 and at most 86,400"):
        open_transport(parse_address("localhost"), timeout_s=timeout_s)


def test_a_socket_connected_to_itself_is_no_server() -> None:
    port = free_port()
    with pytest.raises(ConnectError, match=r"nobody listens there \(the socket connected to itself\)"):
        open_transport(Address("mqtt", "127.0.0.1", port), source_address=("127.0.0.1", port))


def test_a_connection_that_ended_at_once_is_a_failure(sockets: Sockets) -> None:
    # What is left when the peer closes between the system's word and ours: no error, and no peer either.
    failure = opening_module._connect_failure(sockets.keep(socket.socket()))
    assert failure is not None
    assert failure.errno == errno.ENOTCONN


def test_nothing_stays_open_after_a_failure(sockets: Sockets) -> None:
    with pytest.raises(ConnectError):
        open_transport(parse_address("x.example"), resolve=Resolver(sockets.swallowing(), sockets.refusing()), timeout_s=0.01)
    gc.collect()  # a socket left open would warn here, and warnings are errors


@pytest.mark.parametrize("tcp_nodelay", [True, False])
def test_nagles_algorithm_is_off_unless_wanted(sockets: Sockets, tcp_nodelay: bool) -> None:
    listener = sockets.listener()
    transport = sockets.keep(open_transport(address_of(listener, host="127.0.0.1"), tcp_nodelay=tcp_nodelay))
    assert bool(transport._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)) is tcp_nodelay


def test_socket_options_are_set(sockets: Sockets) -> None:
    listener = sockets.listener()
    options: list[SocketOption] = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)]
    transport = sockets.keep(open_transport(address_of(listener, host="127.0.0.1"), socket_options=options))
    assert transport._socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    assert transport._socket.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(NO_LINGER)) == NO_LINGER


def test_an_option_that_the_system_refuses_is_a_failure_to_connect(sockets: Sockets) -> None:
    listener = sockets.listener()
    with pytest.raises(ConnectError, match=r"127\.0\.0\.1:"):
        open_transport(address_of(listener, host="127.0.0.1"), socket_options=[(socket.SOL_SOCKET, 0x7FFF, 1)])


@pytest.mark.parametrize("option", [(1,), (1, "x", 1), "x", 7, (socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 80)])
def test_an_option_that_is_none_is_a_bad_argument(sockets: Sockets, option: Any) -> None:
    with pytest.raises(ArgumentError, match=r"socket_options must be \(level, option, value\) each, not "):
        open_transport(address_of(sockets.listener(), host="127.0.0.1"), socket_options=[option])


def test_the_source_address_is_used(sockets: Sockets) -> None:
    listener = sockets.listener()
    place = ("127.0.0.1", free_port())
    sockets.keep(open_transport(address_of(listener, host="127.0.0.1"), source_address=place))
    assert sockets.accept(listener).getpeername() == place


def test_a_source_address_that_is_not_ours_is_a_failure_to_connect(sockets: Sockets) -> None:
    with pytest.raises(ConnectError, match=r"127\.0\.0\.1:"):
        open_transport(address_of(sockets.listener(), host="127.0.0.1"), source_address=("192.0.2.1", 0))


@pytest.mark.parametrize("source_address", ["127.0.0.1", ("127.0.0.1",), ("127.0.0.1", 70000), ("127.0.0.1", "x")])
def test_a_source_address_that_is_none_is_a_bad_argument(sockets: Sockets, source_address: Any) -> None:
    with pytest.raises(ArgumentError, match=r"source_address must be \(host, port\), not "):
        open_transport(address_of(sockets.listener(), host="127.0.0.1"), source_address=source_address)


@pytest.mark.parametrize("text", ["ws://localhost", "wss://localhost"])
def test_websocket_is_not_there_yet(text: str) -> None:
    with pytest.raises(NotSupportedError, match="WebSocket is not supported yet"):
        open_transport(parse_address(text))


# -- Unix sockets ---------------------------------------------------------------------------------------------------------------------------


@needs_unix
@pytest.mark.spec("MQTT-4.2.0-1")
def test_connects_over_a_unix_socket(sockets: Sockets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = short_path(tmp_path, monkeypatch)
    listener = sockets.keep(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    listener.bind(str(path))
    listener.listen()
    options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]
    transport = sockets.keep(open_transport(parse_address(f"unix:{path}"), socket_options=options))
    peer = sockets.accept(listener)
    assert transport.send(b"there") == 5
    assert peer.recv(100) == b"there"
    assert transport.description == f"unix:{path}"


def short_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "s"
    if len(str(path)) > 100:
        pytest.skip("the folder for temporary files has a longer path than a Unix socket may have")
    return path


@needs_unix
def test_a_missing_unix_socket_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = short_path(tmp_path, monkeypatch)
    with pytest.raises(ConnectError, match=f"cannot connect to unix:{path}: {os.strerror(errno.ENOENT)}") as caught:
        open_transport(parse_address(f"unix:{path}"))
    assert isinstance(caught.value.__cause__, FileNotFoundError)


@needs_unix
def test_a_bad_option_for_a_unix_socket_is_a_bad_argument(tmp_path: Path) -> None:
    option: Any = (1, 2)
    with pytest.raises(ArgumentError, match="socket_options"):
        open_transport(Address("unix", path="/x"), socket_options=[option])


def test_a_platform_without_unix_sockets_says_so() -> None:
    with pytest.raises(NotSupportedError, match=r"cannot connect to unix:/x: this platform has no Unix sockets"):
        opening_module._open_unix(parse_address("unix:/x"), 1.0, (), None)


# -- TLS: whom to trust ---------------------------------------------------------------------------------------------------------------------


class TLSServer:
    """Accepts one connection in the background, over TLS."""

    def __init__(self, sockets: Sockets, background: ThreadPoolExecutor, context: ssl.SSLContext, host: str = "127.0.0.1") -> None:
        self.listener = sockets.listener(host)
        self.sockets = sockets
        self.context = context
        self.accepted: Future[TLSTransport] = background.submit(self._accept)

    def _accept(self) -> TLSTransport:
        sock = self.sockets.accept(self.listener)
        transport = start_tls(sock, self.context, server_side=True, timeout_s=PATIENCE_S)
        self.sockets.keep(transport)
        return transport

    def address(self, host: str = "localhost") -> Address:
        return address_of(self.listener, "mqtts", host)


@pytest.mark.spec("MQTT-4.2.0-1")
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", pytest.param("::1", marks=needs_ipv6), "localhost."])
def test_connects_over_tls_by_name_and_by_number(
    sockets: Sockets, background: ThreadPoolExecutor, certificates: Certificates, host: str
) -> None:
    server = TLSServer(sockets, background, certificates.server_context(), "::1" if host == "::1" else "127.0.0.1")
    resolver = Resolver(server.listener.getsockname())
    transport = sockets.keep(open_transport(server.address(host), tls_context=certificates.client_context(), resolve=resolver))
    peer = server.accepted.result(PATIENCE_S)
    assert transport.send(b"there") == 5
    assert receive(peer, 5) == b"there"
    peer.send(b"and back")
    assert receive(transport, 8) == b"and back"
    assert transport.description.endswith(f":{server.listener.getsockname()[1]} {transport.tls.version()}")
    assert repr(transport) == f"<TLSTransport {transport.description}>"


def test_a_zone_is_no_part_of_a_certificate() -> None:
    assert opening_module._certificate_name("fe80::1%eth0") == "fe80::1"


def test_the_default_context_trusts_the_systems_authorities(
    sockets: Sockets, background: ThreadPoolExecutor, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
    server = TLSServer(sockets, background, certificates.server_context())
    transport = sockets.keep(open_transport(server.address()))
    assert isinstance(transport, TLSTransport)
    assert transport.tls.context.verify_mode is ssl.CERT_REQUIRED
    assert transport.tls.context.check_hostname
    assert transport.tls.getpeercert()
    server.accepted.result(PATIENCE_S)


def test_the_default_context_refuses_an_unknown_authority(
    sockets: Sockets, background: ThreadPoolExecutor, certificates: Certificates
) -> None:
    server = TLSServer(sockets, background, certificates.server_context())
    with pytest.raises(ConnectError, match=r"the TLS handshake failed: .*CERTIFICATE_VERIFY_FAILED") as caught:
        open_transport(server.address())
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
    with pytest.raises(ssl.SSLError, match=r"(?i)unknown.ca"):  # the alert told the server why
        server.accepted.result(PATIENCE_S)


@pytest.mark.parametrize(
    ("shown", "words"), [("stranger", "self.signed|issuer"), ("misnamed", "(?i)hostname mismatch"), ("expired", "has expired")]
)
def test_a_bad_certificate_is_refused(
    sockets: Sockets, background: ThreadPoolExecutor, certificates: Certificates, shown: str, words: str
) -> None:
    server = TLSServer(sockets, background, certificates.server_context(shown))
    with pytest.raises(ConnectError, match=words) as caught:
        open_transport(server.address(), tls_context=certificates.client_context())
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
    with pytest.raises(ssl.SSLError):
        server.accepted.result(PATIENCE_S)


def test_the_name_to_verify_may_be_given(sockets: Sockets, background: ThreadPoolExecutor, certificates: Certificates) -> None:
    server = TLSServer(sockets, background, certificates.server_context("misnamed"))
    context = certificates.client_context()
    sockets.keep(open_transport(server.address(), tls_context=context, server_hostname="elsewhere.example"))
    server.accepted.result(PATIENCE_S)


@pytest.mark.parametrize("name", ["", ".example"])
def test_a_name_that_is_none_is_a_bad_argument(sockets: Sockets, certificates: Certificates, name: str) -> None:
    with pytest.raises(ArgumentError, match="server_hostname must be a host name or an IP address, not "):
        open_transport(
            address_of(sockets.listener(), "mqtts", "127.0.0.1"), tls_context=certificates.client_context(), server_hostname=name
        )


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_certificate_is_shown(
    sockets: Sockets, background: ThreadPoolExecutor, certificates: Certificates, version: ssl.TLSVersion
) -> None:
    server = TLSServer(sockets, background, demanding_context(certificates, version))
    context = certificates.client_context()
    context.load_cert_chain(certificates.client, certificates.client_key)
    transport = sockets.keep(open_transport(server.address(), tls_context=context))
    assert transport.description.endswith({ssl.TLSVersion.TLSv1_2: "TLSv1.2", ssl.TLSVersion.TLSv1_3: "TLSv1.3"}[version])
    certificate: Any = server.accepted.result(PATIENCE_S).tls.getpeercert()
    assert certificate is not None
    assert ("email", "client@tests.example") in certificate["subjectAltName"]


def demanding_context(certificates: Certificates, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = certificates.server_context()
    context.load_verify_locations(certificates.authority)
    context.verify_mode = ssl.CERT_REQUIRED
    context.minimum_version = context.maximum_version = version
    return context


def test_a_missing_client_certificate_fails_the_handshake_of_tls_1_2(
    sockets: Sockets, background: ThreadPoolExecutor, certificates: Certificates
) -> None:
    server = TLSServer(sockets, background, demanding_context(certificates, ssl.TLSVersion.TLSv1_2))
    with pytest.raises(ConnectError, match="the TLS handshake failed"):
        open_transport(server.address(), tls_context=certificates.client_context())
    with pytest.raises(ssl.SSLError):
        server.accepted.result(PATIENCE_S)


def test_a_missing_client_certificate_fails_the_first_receive_of_tls_1_3(
    sockets: Sockets, background: ThreadPoolExecutor, certificates: Certificates
) -> None:
    server = TLSServer(sockets, background, demanding_context(certificates, ssl.TLSVersion.TLSv1_3))
    transport = sockets.keep(open_transport(server.address(), tls_context=certificates.client_context()))
    with pytest.raises(ssl.SSLError):
        server.accepted.result(PATIENCE_S)
    with pytest.raises(ssl.SSLError, match=r"(?i)certificate.required"):
        receive(transport, 1)


def test_alpn_is_offered(sockets: Sockets, background: ThreadPoolExecutor, certificates: Certificates) -> None:
    context = certificates.server_context()
    context.set_alpn_protocols(["other", "mqtt"])
    server = TLSServer(sockets, background, context)
    transport = sockets.keep(open_transport(server.address(), tls_context=certificates.client_context(), alpn=["mqtt"]))
    assert isinstance(transport, TLSTransport)
    assert transport.tls.selected_alpn_protocol() == "mqtt"
    assert server.accepted.result(PATIENCE_S).tls.selected_alpn_protocol() == "mqtt"


@pytest.mark.parametrize("alpn", ["mqtt", [""], ["x" * 256], ["ü"], [7], 7])
def test_bad_alpn_is_a_bad_argument(certificates: Certificates, alpn: Any) -> None:
    with pytest.raises(ArgumentError, match="alpn must be a sequence of names with 1 to 255 ASCII characters"):
        open_transport(parse_address("mqtts://localhost"), alpn=alpn, tls_context=certificates.client_context())


@pytest.mark.parametrize("text", ["mqtt://localhost", "unix:/x"])
def test_tls_settings_need_an_address_with_tls(text: str, certificates: Certificates) -> None:
    settings: list[dict[str, Any]] = [{"tls_context": certificates.client_context()}, {"server_hostname": "x"}, {"alpn": ["mqtt"]}]
    for setting in settings:
        with pytest.raises(ArgumentError, match="need an address with TLS"):
            open_transport(parse_address(text), **setting)


def test_a_python_without_tls_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ssl", None)
    with pytest.raises(NotSupportedError, match=r"cannot connect to mqtts://localhost:8883: this Python has no TLS"):
        open_transport(parse_address("mqtts://localhost"))


# -- TLS: the handshake ---------------------------------------------------------------------------------------------------------------------


def test_a_peer_that_hangs_up_during_the_handshake(sockets: Sockets, background: ThreadPoolExecutor, certificates: Certificates) -> None:
    listener = sockets.listener()

    def hang_up() -> None:
        peer = sockets.accept(listener)
        peer.recv(65536)
        peer.close()

    done = background.submit(hang_up)
    with pytest.raises(ConnectError, match="the peer closed the connection during the TLS handshake"):
        open_transport(address_of(listener, "mqtts", "127.0.0.1"), tls_context=certificates.client_context())
    done.result(PATIENCE_S)


def test_a_peer_that_does_not_speak_tls(sockets: Sockets, background: ThreadPoolExecutor, certificates: Certificates) -> None:
    listener = sockets.listener()

    def answer() -> bytes:
        peer = sockets.accept(listener)
        peer.sendall(b"\x20\x03\x00\x84\x00")
        data = b""
        while piece := peer.recv(65536):
            data += piece
        return data

    heard = background.submit(answer)
    with pytest.raises(ConnectError, match=r"the TLS handshake failed: \[SSL"):
        open_transport(address_of(listener, "mqtts", "127.0.0.1"), tls_context=certificates.client_context())
    assert heard.result(PATIENCE_S)[-7:-4] == b"\x15\x03\x01"  # an alert is the last that it hears


def test_a_silent_peer_times_the_handshake_out(sockets: Sockets, certificates: Certificates) -> None:
    listener = sockets.listener()
    with pytest.raises(ConnectError, match="the TLS handshake failed: timed out") as caught:
        open_transport(address_of(listener, "mqtts", "127.0.0.1"), timeout_s=0.2, tls_context=certificates.client_context())
    assert isinstance(caught.value.__cause__, TimeoutError)


def test_a_handshake_whose_time_is_up_is_not_begun(sockets: Sockets, certificates: Certificates) -> None:
    here, there = sockets.pair()
    with pytest.raises(TimeoutError):
        start_tls(here, certificates.client_context(), server_hostname="localhost", timeout_s=0)
    assert here.fileno() == -1
    assert there.recv(1) == b""


def test_an_alert_that_cannot_be_sent_is_let_go(sockets: Sockets) -> None:
    here, there = sockets.pair()
    reset(there)
    assert select.select([here], [], [], PATIENCE_S)[0]
    tls_module._send_alert(here, b"alert")


# -- TLS: the stream ------------------------------------------------------------------------------------------------------------------------


class Peer:
    """The server's end of a TLS connection, with its encrypted bytes in our hands."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext) -> None:
        self.sock = sock
        self.incoming = ssl.MemoryBIO()
        self.outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)

    def handshake(self) -> None:
        while True:
            try:
                self.tls.do_handshake()
            except ssl.SSLWantReadError:
                self.sock.sendall(self.outgoing.read())
                self.incoming.write(self.sock.recv(65536))
            else:
                self.sock.sendall(self.outgoing.read())
                return

    def encrypt(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self.outgoing.read()

    def goodbye(self) -> bytes:
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self.outgoing.read()

    def decrypt(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                data += self.tls.read(size - len(data))
            except ssl.SSLWantReadError:
                self.incoming.write(self.sock.recv(65536))
        return data


@pytest.fixture
def connect_peer(sockets: Sockets, background: ThreadPoolExecutor, certificates: Certificates) -> ConnectPeer:
    def connect() -> tuple[TLSTransport, Peer]:
        here, there = sockets.pair()
        peer = Peer(there, certificates.server_context())
        done = background.submit(peer.handshake)
        transport = sockets.keep(start_tls(here, certificates.client_context(), server_hostname="localhost", description="here"))
        done.result(PATIENCE_S)
        # The session tickets of TLS 1.3: nothing else is on its way now.
        while transport.receive(1) is not None or transport.pending():
            pass
        return transport, peer

    return connect


def arrive(transport: Transport) -> None:
    """Wait until something is there to be read."""
    assert select.select([transport], [], [], PATIENCE_S)[0]


@pytest.mark.slow
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_transport_conforms(
    sockets: Sockets, background: ThreadPoolExecutor, certificates: Certificates, version: ssl.TLSVersion
) -> None:
    context = certificates.client_context()
    context.minimum_version = context.maximum_version = version

    def make_pair() -> tuple[Transport, Transport]:
        here, there = sockets.pair()
        server = background.submit(start_tls, there, certificates.server_context(), server_side=True, description="there")
        client = start_tls(here, context, server_hostname="localhost", description="here")
        return client, server.result(PATIENCE_S)

    check_transport(make_pair)


def test_bytes_left_in_the_tls_layer_are_reported(connect_peer: ConnectPeer) -> None:
    transport, peer = connect_peer()
    peer.sock.sendall(peer.encrypt(b"one record") + peer.encrypt(b"another"))
    arrive(transport)
    assert transport.receive(3) == b"one"
    assert not select.select([transport], [], [], 0)[0]  # the descriptor knows nothing of it
    assert transport.pending()
    assert transport.receive(100) == b" recordanother"
    assert not transport.pending()
    assert transport.receive(100) is None


def test_a_read_that_ends_with_its_record_leaves_nothing(connect_peer: ConnectPeer) -> None:
    transport, peer = connect_peer()
    peer.sock.sendall(peer.encrypt(b"12345"))
    arrive(transport)
    assert transport.receive(5) == b"12345"
    # It may say that there could be more; asking settles it.
    assert transport.receive(5) is None
    assert not transport.pending()


def test_many_small_records_come_in_one_piece(connect_peer: ConnectPeer) -> None:
    transport, peer = connect_peer()
    peer.sock.sendall(b"".join(peer.encrypt(b"%03d" % number) for number in range(300)))
    arrive(transport)
    assert transport.receive(65536) == b"".join(b"%03d" % number for number in range(300))


def test_half_a_record_is_waited_for(connect_peer: ConnectPeer) -> None:
    transport, peer = connect_peer()
    whole, encrypted = peer.encrypt(b"whole"), peer.encrypt(b"in two parts")
    peer.sock.sendall(whole + encrypted[:9])
    arrive(transport)
    assert transport.receive(100) == b"whole"
    assert not transport.pending()
    assert transport.receive(100) is None
    peer.sock.sendall(encrypted[9:])
    arrive(transport)
    assert transport.receive(100) == b"in two parts"


def test_a_goodbye_ends_the_stream_although_tcp_goes_on(connect_peer: ConnectPeer) -> None:
    transport, peer = connect_peer()
    peer.sock.sendall(peer.encrypt(b"the end") + peer.goodbye())
    arrive(transport)
    assert transport.receive(100) == b"the end"
    assert transport.pending()
    for _ in range(3):
        assert transport.receive(100) == b""
    transport.close()


def test_an_end_without_goodbye_is_an_end(connect_peer: ConnectPeer) -> None:
    transport, peer = connect_peer()
    peer.sock.close()
    arrive(transport)
    for _ in range(3):
        assert transport.receive(100) == b""


def test_the_goodbye_reaches_the_peer(connect_peer: ConnectPeer) -> None:
    transport, peer = connect_peer()
    transport.send(b"last")
    transport.close()
    assert peer.decrypt(4) == b"last"
    while piece := peer.sock.recv(100):
        peer.incoming.write(piece)
    assert peer.tls.read(1) == b""  # without the goodbye this would be an error


def test_a_forged_record_is_an_error_that_stays_and_the_peer_is_told(
    connect_peer: ConnectPeer,
) -> None:
    transport, peer = connect_peer()
    forged = bytearray(peer.encrypt(b"forged"))
    genuine = peer.encrypt(b"genuine")
    forged[-1] ^= 1
    peer.sock.sendall(bytes(forged) + genuine)
    arrive(transport)
    for _ in range(3):
        with pytest.raises(ssl.SSLError, match=r"(?i)bad.record.mac|record.layer.failure"):
            transport.receive(100)
        assert transport.pending()
    with pytest.raises(ssl.SSLError, match=r"(?i)alert.bad.record.mac"):
        peer.decrypt(1)


def test_what_came_before_a_forged_record_is_kept(connect_peer: ConnectPeer) -> None:
    transport, peer = connect_peer()
    genuine = peer.encrypt(b"genuine")
    forged = bytearray(peer.encrypt(b"forged"))
    forged[-1] ^= 1
    peer.sock.sendall(genuine + bytes(forged))
    arrive(transport)
    assert transport.receive(100) == b"genuine"
    assert transport.pending()
    with pytest.raises(ssl.SSLError):
        transport.receive(100)


def test_what_had_no_room_is_offered_again(connect_peer: ConnectPeer) -> None:
    transport, peer = connect_peer()
    data = memoryview(bytes(range(256)) * (1 << 15))  # 8 MiB: more than sockets hold
    sent = 0
    while taken := transport.send(data[sent:]):
        sent += taken
    assert 0 < sent < len(data)
    assert transport.wants_write()
    with pytest.raises(ArgumentError, match=r"data must begin with the \d+ bytes that could not be sent before, it has only 1"):
        transport.send(b"x")
    assert transport.send(data[sent:]) == 0
    arrived = bytearray()
    while len(arrived) < len(data):
        arrived += peer.decrypt(1)
        arrived += peer.tls.read(1 << 20)
        if sent < len(data):
            sent += transport.send(data[sent:])
    assert arrived == data
    assert not transport.wants_write()


def test_reading_flushes_what_waits_to_be_sent(connect_peer: ConnectPeer) -> None:
    transport, peer = connect_peer()
    data = bytes(65536)
    sent = 0
    while taken := transport.send(data):
        sent += taken
    assert transport.wants_write()
    while transport.wants_write():
        peer.decrypt(1)
        peer.tls.read(1 << 20)
        assert transport.receive(1) is None
    # The piece is with the socket now, and is reported as taken when it is offered once more.
    assert transport.send(data) == len(data)
    assert peer.decrypt(len(data)) == data


def test_a_broken_connection_does_not_hide_what_was_received(connect_peer: ConnectPeer) -> None:
    transport, peer = connect_peer()
    while transport.send(bytes(65536)):
        pass
    reset(peer.sock)
    arrive(transport)
    # The flush that comes first meets the reset, and leaves it at that.
    assert transport.receive(1) == b""


class Renegotiating:
    """Stands in for the TLS object of a server that negotiates anew: writing has to wait for reading."""

    def __init__(self, tls: ssl.SSLObject) -> None:
        self.read = tls.read
        self.unwrap = tls.unwrap

    def write(self, data: bytes) -> int:
        raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "The operation did not complete (read)")


def test_a_renegotiation_holds_sending_up(connect_peer: ConnectPeer, sockets: Sockets) -> None:
    transport, _ = connect_peer()
    stand_in: Any = Renegotiating(transport.tls)
    here, _ = sockets.pair()
    renegotiating = sockets.keep(TLSTransport(here, stand_in, ssl.MemoryBIO(), ssl.MemoryBIO(), "renegotiating"))
    assert renegotiating.send(b"x") == 0
    assert not renegotiating.wants_write()


def test_closing_tells_a_peer_that_does_not_read_nothing_and_returns(connect_peer: ConnectPeer) -> None:
    transport, _ = connect_peer()
    while transport.send(bytes(65536)):
        pass
    transport.close()
    transport.close()
    assert transport.fileno() == -1
