"""Connections: an open, non-blocking byte stream to the server, over TCP, TLS or a Unix socket.

Owns name resolution, the race between addresses, the TLS handshake and the rules of non-blocking reading and writing.
Must not know MQTT, start threads, or block anywhere but in :func:`open_transport`.
Invariant: whatever :func:`open_transport` opened and doesn't return is closed, however it ends.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from .errors import ArgumentError, ConnectError, NotSupportedError

if TYPE_CHECKING:
    import ssl

    from .address import Address

__all__ = ["SocketTransport", "TLSTransport", "Transport", "open_transport"]

#: RFC 8305, section 5: the "Connection Attempt Delay" that it recommends.
ATTEMPT_DELAY_S = 0.25

#: The largest piece of plaintext that a TLS record holds (RFC 8446, section 5.1).
RECORD_BYTES_MAX = 16384

#: One TLS send stops here, so that a peer as fast as ourselves can't keep the caller from reading.
TLS_SEND_BYTES_MAX = 64 * RECORD_BYTES_MAX

#: What close() takes off the receive buffer at most, in pieces of this size.
DRAIN_BYTES = 65536
DRAIN_READS_MAX = 16

#: (level, option, value), as for :meth:`socket.socket.setsockopt`.
SocketOption = tuple[int, int, "int | bytes"]
#: (family, socket address), as :func:`socket.getaddrinfo` gives them.
Candidate = tuple[int, Any]
#: The shape of :func:`socket.getaddrinfo`.
Resolve = Callable[..., Iterable[tuple[Any, Any, Any, Any, Any]]]


class Transport(Protocol):
    """An open connection that never blocks. One thread at a time may use it."""

    @property
    def description(self) -> str:
        """Where the connection leads and how, for people, for example ``"127.0.0.1:8883 TLSv1.3"``."""
        ...

    def fileno(self) -> int:
        """Return the descriptor to wait on, -1 after :meth:`close`."""
        ...

    def receive(self, size: int) -> bytes | None:
        """Return 1 to ``size`` received bytes, ``None`` if there are none now, ``b""`` at the end of the stream.

        Raises :class:`OSError` (:class:`ssl.SSLError` is one) when the connection failed or is closed.
        """
        ...

    def pending(self) -> bool:
        """Tell whether received bytes wait inside, where waiting on the descriptor can't see them. Then call :meth:`receive` first."""
        ...

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Take a first part of ``data`` and return its length in bytes; 0 if nothing can be taken now.

        What wasn't taken must be where the next call's ``data`` begins, and that call must not offer less: bytes may be encrypted
        already. ``data`` isn't empty. Raises :class:`OSError` as :meth:`receive` does.
        """
        ...

    def wants_write(self) -> bool:
        """Tell whether :meth:`receive` has to be called again once the descriptor is writable."""
        ...

    def close(self) -> None:
        """Close the connection. Never blocks, never raises, and may be called again."""
        ...


class SocketTransport:
    """Read and write a connected stream socket, as it is."""

    __slots__ = ("_receive", "_send", "_socket", "description")

    def __init__(self, connected: socket.socket, description: str) -> None:
        """Take over a connected stream socket, and make it non-blocking."""
        connected.setblocking(False)
        self._socket = connected
        self._receive = connected.recv
        self._send = connected.send
        self.description = description

    def fileno(self) -> int:
        """Return the socket's descriptor, -1 once closed."""
        return self._socket.fileno()

    def receive(self, size: int) -> bytes | None:
        """Return what has arrived, at most ``size`` bytes."""
        try:
            return self._receive(size)
        except BlockingIOError:
            return None

    def pending(self) -> bool:
        """Return ``False``: a plain socket holds nothing back."""
        return False

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Hand over as much of ``data`` as there is room for."""
        try:
            return self._send(data)
        except BlockingIOError:
            return 0

    def wants_write(self) -> bool:
        """Return ``False``: a plain socket reads without writing."""
        return False

    def close(self) -> None:
        """Close the socket; what was sent still goes out."""
        _close(self._socket)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.description}>"


class TLSTransport:
    """Read and write a TLS socket whose handshake is done."""

    __slots__ = ("_begun", "_receive", "_send", "_socket", "_want_read", "_want_write", "_wants_write", "description")

    def __init__(self, connected: ssl.SSLSocket, description: str) -> None:
        """Take over a TLS socket after its handshake, and make it non-blocking."""
        # Here and not at the top: the module costs more to import than all of ΩQTT, and many never use it.
        import ssl

        connected.setblocking(False)
        self._socket = connected
        self._receive = connected.recv
        self._send = connected.send
        self._want_read = ssl.SSLWantReadError
        self._want_write = ssl.SSLWantWriteError
        self._wants_write = False
        #: The size of the record that is encrypted already and waits inside for room in the socket.
        self._begun = 0
        self.description = description

    def fileno(self) -> int:
        """Return the socket's descriptor, -1 once closed."""
        return self._socket.fileno()

    def receive(self, size: int) -> bytes | None:
        """Return what is there, up to ``size``, from as many records as it takes: servers like to send a record for each packet."""
        data = self._receive_record(size)
        if not data:
            return data
        chunks = [data]
        size -= len(data)
        while size > 0:
            try:
                data = self._receive_record(size)
            except OSError:
                # What came before the failure counts. The failure stays: the next call meets it again, or the end of the stream.
                break
            if not data:
                break
            chunks.append(data)
            size -= len(data)
        return b"".join(chunks) if len(chunks) > 1 else chunks[0]

    def _receive_record(self, size: int) -> bytes | None:
        self._wants_write = False
        try:
            return self._receive(min(size, RECORD_BYTES_MAX))
        except self._want_read:
            return None
        except self._want_write:
            self._wants_write = True
            return None

    def pending(self) -> bool:
        """Tell whether part of a decrypted record waits inside."""
        return self._socket.pending() > 0

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Write record by record. OpenSSL wants a record that had no room to be offered again whole, and neither larger nor smaller."""
        size = len(data)
        begun = self._begun
        if size < begun:
            raise ArgumentError(f"data must begin with the {begun} bytes that the last call could not send, it has {size}")
        if not begun and size <= RECORD_BYTES_MAX:
            return self._send_record(data, size)
        sent = 0
        view = memoryview(data)
        size = min(size, TLS_SEND_BYTES_MAX)
        while sent < size:
            taken = self._send_record(view[sent:], self._begun or RECORD_BYTES_MAX)
            if not taken:
                break
            sent += taken
        return sent

    def _send_record(self, data: bytes | bytearray | memoryview, size: int) -> int:
        try:
            taken = self._send(data if len(data) <= size else data[:size])
        except (self._want_write, self._want_read):
            self._begun = min(size, len(data))
            return 0
        self._begun = 0
        return taken

    def wants_write(self) -> bool:
        """Tell whether TLS must write before it can go on reading."""
        return self._wants_write

    def close(self) -> None:
        """Send TLS's goodbye if there is room for it, and close the socket; what was sent still goes out."""
        if self._socket.fileno() != -1:
            try:
                # Says goodbye, and fails at once because it can't wait for the answer.
                self._socket.unwrap()
            except (OSError, ValueError):
                pass
        _close(self._socket)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.description}>"


def _close(sock: socket.socket) -> None:
    """Close after what was sent: a socket closed on unread bytes resets the connection, and our DISCONNECT may go down with it."""
    if sock.fileno() == -1:
        return
    try:
        sock.shutdown(socket.SHUT_WR)
        for _ in range(DRAIN_READS_MAX):
            if not sock.recv(DRAIN_BYTES):
                break
    except OSError:
        pass
    try:
        sock.close()
    except OSError:
        pass


def open_transport(
    address: Address,
    *,
    timeout_s: float = 30.0,
    tls_context: ssl.SSLContext | None = None,
    server_hostname: str | None = None,
    alpn: Sequence[str] | None = None,
    source_address: tuple[str, int] | None = None,
    socket_options: Sequence[SocketOption] = (),
    tcp_nodelay: bool = True,
    resolve: Resolve = socket.getaddrinfo,
) -> Transport:
    """Connect to a server and return the open connection. Blocks: meant for a helper thread.

    The name is resolved anew with each call, and all its addresses are tried, IPv6 and IPv4 in turn: the next one 250 ms after the
    previous one, or at once when that failed; the first to connect is taken (RFC 8305).

    ``timeout_s`` (seconds, > 0) bounds everything: resolving, connecting and the TLS handshake; only the resolver itself can't be
    interrupted. With ``mqtts://`` the server is verified: ``tls_context`` is ``ssl.create_default_context()`` unless given,
    ``server_hostname`` is the name that its certificate must carry if that isn't the address's host, ``alpn`` are the protocols to
    offer (set on a given context, too). ``source_address`` is the local (host, port), ``socket_options`` are (level, option, value)
    set before connecting, ``tcp_nodelay`` turns off Nagle's algorithm, which would delay small packets. ``resolve`` takes the place
    of :func:`socket.getaddrinfo`.

    Raises :class:`ArgumentError` for a bad argument, among them TLS settings for an address without TLS; :class:`NotSupportedError`
    for WebSocket, and where the platform lacks Unix sockets or Python lacks TLS; :class:`ConnectError` otherwise, naming every
    address tried and what became of it.
    """
    if not timeout_s > 0:
        raise ArgumentError(f"timeout_s must be greater than 0, not {timeout_s!r}")
    if not address.tls and (tls_context is not None or server_hostname is not None or alpn is not None):
        raise ArgumentError(f"tls_context, server_hostname and alpn need an address with TLS (mqtts://), not {address}")
    if address.scheme in {"ws", "wss"}:
        raise NotSupportedError(f"cannot connect to {address}: WebSocket is not supported yet")
    deadline = time.monotonic() + timeout_s
    if address.scheme == "unix":
        return _open_unix(address, timeout_s, socket_options)
    options = list(socket_options)
    if tcp_nodelay:
        options.insert(0, (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1))
    candidates = _resolve(address, resolve)
    failures: list[tuple[str, Exception]] = []
    connected = _connect_first(candidates, deadline, source_address, options, failures)
    if connected is None:
        tried = "; ".join(f"{name}: {_reason(error)}" for name, error in failures)
        raise ConnectError(f"cannot connect to {address}: {tried}") from failures[-1][1]
    description = _name(connected.getpeername())
    if not address.tls:
        return SocketTransport(connected, description)
    return _start_tls(connected, description, address, deadline, tls_context, server_hostname, alpn)


def _open_unix(address: Address, timeout_s: float, options: Sequence[SocketOption]) -> Transport:
    family: int | None = getattr(socket, "AF_UNIX", None)
    if family is None:
        raise NotSupportedError(f"cannot connect to {address}: this platform has no Unix sockets")
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        for option in options:
            sock.setsockopt(*option)
        sock.settimeout(timeout_s)
        sock.connect(address.path)
        return SocketTransport(sock, str(address))
    except OSError as error:
        sock.close()
        raise ConnectError(f"cannot connect to {address}: {_reason(error)}") from error
    except BaseException:
        sock.close()
        raise


def _resolve(address: Address, resolve: Resolve) -> list[Candidate]:
    """Return the addresses without repetition, the families in turn, beginning with the resolver's first choice."""
    try:
        found = [(entry[0], entry[4]) for entry in resolve(address.host, address.port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as error:
        raise ConnectError(f"cannot connect to {address}: the name can't be resolved: {_reason(error)}") from error
    by_family: dict[int, list[Candidate]] = {}
    for candidate in dict.fromkeys(found):
        by_family.setdefault(candidate[0], []).append(candidate)
    if not by_family:
        raise ConnectError(f"cannot connect to {address}: the name has no address")
    ordered: list[Candidate] = []
    for rank in range(max(map(len, by_family.values()))):
        ordered.extend(candidates[rank] for candidates in by_family.values() if rank < len(candidates))
    return ordered


def _connect_first(
    candidates: Sequence[Candidate],
    deadline: float,
    source_address: tuple[str, int] | None,
    options: Sequence[SocketOption],
    failures: list[tuple[str, Exception]],
) -> socket.socket | None:
    """Return the first socket to connect; ``None`` if none does before the deadline, and then ``failures`` has each candidate's story."""
    waiting = list(reversed(candidates))
    in_flight: dict[socket.socket, str] = {}
    winner: socket.socket | None = None
    next_start = 0.0
    selector = selectors.DefaultSelector()
    try:
        while winner is None and (waiting or in_flight):
            now = time.monotonic()
            if now >= deadline:
                failures.extend((name, TimeoutError("no answer in time")) for name in in_flight.values())
                failures.extend((_name(candidate[1]), TimeoutError("time was up before it was tried")) for candidate in reversed(waiting))
                break
            if waiting and now >= next_start:
                family, socket_address = waiting.pop()
                name = _name(socket_address)
                try:
                    sock = socket.socket(family, socket.SOCK_STREAM)
                    in_flight[sock] = name
                    _begin_connect(sock, socket_address, source_address, options)
                except OSError as error:
                    failures.append((name, error))
                else:
                    selector.register(sock, selectors.EVENT_WRITE, (sock, name))
                    next_start = now + ATTEMPT_DELAY_S
                continue
            until = min(next_start, deadline) if waiting else deadline
            for key, _ in selector.select(until - now):
                sock, name = key.data
                failure = _connect_failure(sock)
                if failure is None:
                    winner = sock
                    break
                failures.append((name, failure))
                selector.unregister(sock)
                del in_flight[sock]
                sock.close()
                next_start = now
    finally:
        selector.close()
        for sock in in_flight:
            if sock is not winner:
                sock.close()
    return winner


def _begin_connect(
    sock: socket.socket, socket_address: Any, source_address: tuple[str, int] | None, options: Sequence[SocketOption]
) -> None:
    sock.setblocking(False)
    for option in options:
        sock.setsockopt(*option)
    if source_address is not None:
        sock.bind(source_address)
    try:
        sock.connect(socket_address)
    except BlockingIOError:
        pass


def _connect_failure(sock: socket.socket) -> OSError | None:
    """Say why a finished attempt to connect failed; ``None`` if it didn't."""
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        return OSError(code, os.strerror(code))
    try:
        to_itself = sock.getsockname() == sock.getpeername()
    except OSError as error:
        return error
    if to_itself:
        # TCP lets a socket connect to itself if its own port happens to be the one that it looks for and nobody listens there.
        return ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens there (the socket connected to itself)")
    return None


def _start_tls(
    connected: socket.socket,
    name: str,
    address: Address,
    deadline: float,
    context: ssl.SSLContext | None,
    server_hostname: str | None,
    alpn: Sequence[str] | None,
) -> Transport:
    try:
        try:
            import ssl
        except ImportError as error:
            raise NotSupportedError(f"cannot connect to {address}: this Python has no ssl module") from error
        if context is None:
            context = ssl.create_default_context()
            context.options |= ssl.OP_NO_RENEGOTIATION
        if alpn is not None:
            context.set_alpn_protocols(list(alpn))
        if server_hostname is None:
            # Neither the final dot of an absolute name nor the zone of a link-local address is in a certificate.
            server_hostname = address.host.rstrip(".").partition("%")[0]
        connected.settimeout(max(deadline - time.monotonic(), 0.001))
        encrypted = context.wrap_socket(connected, server_hostname=server_hostname)
    except (OSError, ValueError) as error:
        connected.close()
        raise ConnectError(f"cannot connect to {address}: {name}: the TLS handshake failed: {_reason(error)}") from error
    except BaseException:
        connected.close()
        raise
    return TLSTransport(encrypted, f"{name} {encrypted.version()}")


def _name(socket_address: Any) -> str:
    host, port = socket_address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
