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

__all__ = ["SocketTransport", "TLSTransport", "Transport", "open_transport", "start_tls"]

#: RFC 8305, section 5: the "Connection Attempt Delay" that it recommends.
ATTEMPT_DELAY_S = 0.25

#: What TLS takes from the socket in one read: four records of the largest size (RFC 8446, section 5.1), or many small ones.
RECEIVE_BYTES = 65536
#: TLS encrypts and sends in pieces of this size: a few records, one system call.
TLS_PIECE_BYTES = 65536
#: One send over TLS stops here, so that a peer as fast as ourselves can't keep the caller from reading.
TLS_SEND_BYTES_MAX = 16 * TLS_PIECE_BYTES

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
    """Read and write TLS over a connected stream socket. Made by :func:`start_tls`.

    OpenSSL works on memory here, not on the socket: one system call then fetches many small records (servers like to send one for
    each packet), and whether another complete one is there is mostly known without asking for it in vain.
    """

    __slots__ = (
        "_begun",
        "_end",
        "_incoming",
        "_more",
        "_outgoing",
        "_read",
        "_receive",
        "_send",
        "_socket",
        "_unsent",
        "_want_read",
        "_write",
        "description",
        "tls",
    )

    def __init__(
        self, connected: socket.socket, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, description: str
    ) -> None:
        """Take over a socket and make it non-blocking; ``tls`` works on the two memories and has finished its handshake."""
        # Here and not at the top: the module costs more to import than all of ΩQTT, and many never use it.
        import ssl

        connected.setblocking(False)
        self._socket = connected
        self._receive = connected.recv
        self._send = connected.send
        #: For looking things up: version, cipher, the peer's certificate, the protocol chosen by ALPN.
        self.tls = tls
        self._read = tls.read
        self._write = tls.write
        self._want_read = ssl.SSLWantReadError
        self._incoming = incoming
        self._outgoing = outgoing
        #: Memory may hold plaintext, a record or the end: look there before asking the socket. The handshake may have left something.
        self._more = True
        #: How the stream ended, once it did: in order (b"") or with an error.
        self._end: bytes | OSError | None = None
        #: Encrypted bytes for which the socket had no room.
        self._unsent = b""
        #: So many bytes of the caller's data are encrypted, in part unsent, and not yet reported as taken.
        self._begun = 0
        self.description = description

    def fileno(self) -> int:
        """Return the socket's descriptor, -1 once closed."""
        return self._socket.fileno()

    def receive(self, size: int) -> bytes | None:
        """Return what has arrived, at most ``size`` bytes, from as many records as are complete."""
        if self._unsent:
            self._flush_quietly()
        data = self._decrypt(size) if self._more else None
        while data is None:
            try:
                encrypted = self._receive(RECEIVE_BYTES)
            except BlockingIOError:
                return None
            if encrypted:
                self._incoming.write(encrypted)
            else:
                # An end without TLS's goodbye is an end as well: each MQTT packet has its length, so none is cut short unnoticed.
                self._end = b""
            data = self._decrypt(size)
        return data

    def _decrypt(self, size: int) -> bytes | None:
        """Return plaintext from memory; ``None`` if no record is complete, ``b""`` at the end of the stream."""
        chunks: list[bytes] = []
        self._more = self._end is not None
        try:
            while self._end is None:
                data = self._read(size)
                if not data:
                    self._end = b""
                    self._more = True
                    break
                chunks.append(data)
                size -= len(data)
                if size <= 0:
                    self._more = True
                    break
                # A read that got less than it asked for has used up its record.
                if not self._incoming.pending:
                    break
        except self._want_read:
            pass
        except OSError as error:
            self._end = error
            self._more = True
        if self._outgoing.pending:
            # TLS's own answer, for example to a key update, or the alert that says what was wrong.
            self._flush_quietly()
        if chunks:
            # What came before the end counts; the end shows at the next call.
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if isinstance(self._end, OSError):
            raise self._end
        return self._end

    def pending(self) -> bool:
        """Tell whether memory may hold what :meth:`receive` had no room for, or the end of the stream."""
        return self._more

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """Encrypt ``data`` in pieces and hand them over. A piece counts as taken when the socket has all of it."""
        size = len(data)
        sent = self._begun
        if sent or self._unsent:
            if size < sent:
                raise ArgumentError(f"data must begin with the {sent} bytes that could not be sent before, it has only {size}")
            if not self._flush():
                return 0
            self._begun = 0
        view = memoryview(data)
        size = min(size, TLS_SEND_BYTES_MAX)
        while sent < size:
            try:
                taken = self._write(view[sent : sent + TLS_PIECE_BYTES])
            except self._want_read:
                # A server that negotiates anew has to be heard first.
                break
            if not self._flush():
                self._begun = taken
                break
            sent += taken
        return sent

    def _flush(self) -> bool:
        """Send what is encrypted; tell whether all of it went."""
        encrypted = self._unsent + self._outgoing.read()
        try:
            sent = self._send(encrypted)
        except BlockingIOError:
            sent = 0
        self._unsent = encrypted[sent:]
        return not self._unsent

    def _flush_quietly(self) -> None:
        # While reading: if the connection is broken, what the peer said last is still worth having; the failure shows soon enough.
        try:
            self._flush()
        except OSError:
            pass

    def wants_write(self) -> bool:
        """Tell whether something encrypted waits for room in the socket."""
        return bool(self._unsent)

    def close(self) -> None:
        """Send TLS's goodbye if there is room for it, and close the socket; what was sent still goes out."""
        if self._socket.fileno() != -1:
            self._more = False
            try:
                # Writes the goodbye to memory, then fails because the peer's isn't there.
                self.tls.unwrap()
            except OSError:
                pass
            self._flush_quietly()
            _close(self._socket)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.description}>"


def start_tls(
    connected: socket.socket,
    context: ssl.SSLContext,
    *,
    server_hostname: str | None = None,
    server_side: bool = False,
    timeout_s: float = 30.0,
    description: str = "",
) -> TLSTransport:
    """Do the TLS handshake over a connected stream socket, and return the transport that owns it. Blocks up to ``timeout_s`` seconds.

    Raises :class:`OSError` (:class:`ssl.SSLError`, :class:`TimeoutError`) if the handshake fails, :class:`ValueError` if the host name
    is none. The socket is closed then.
    """
    import ssl

    deadline = time.monotonic() + timeout_s
    try:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_side=server_side, server_hostname=server_hostname)
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                pass
            except OSError:
                _send_alert(connected, outgoing.read())
                raise
            else:
                break
            connected.settimeout(_time_left(deadline))
            connected.sendall(outgoing.read())
            connected.settimeout(_time_left(deadline))
            encrypted = connected.recv(RECEIVE_BYTES)
            if not encrypted:
                raise ConnectionResetError(errno.ECONNRESET, "the peer closed the connection during the TLS handshake")
            incoming.write(encrypted)
        connected.settimeout(_time_left(deadline))
        connected.sendall(outgoing.read())
        return TLSTransport(connected, tls, incoming, outgoing, f"{description} {tls.version()}".strip())
    except BaseException:
        connected.close()
        raise


def _send_alert(connected: socket.socket, encrypted: bytes) -> None:
    """Let the peer's people know what was wrong, if the socket takes it at once."""
    connected.setblocking(False)
    try:
        connected.send(encrypted)
    except OSError:
        pass


def _time_left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    return left


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
    # Before connecting: what is wrong with the settings shouldn't cost a connection.
    context = _prepare_context(address, tls_context, alpn) if address.tls else None
    options = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), *socket_options] if tcp_nodelay else socket_options
    connected, description = _connect(address, deadline, source_address, options, resolve)
    if context is None:
        return SocketTransport(connected, description)
    name = _certificate_name(address.host) if server_hostname is None else server_hostname
    try:
        return start_tls(connected, context, server_hostname=name, timeout_s=deadline - time.monotonic(), description=description)
    except OSError as error:
        raise ConnectError(f"cannot connect to {address}: {description}: the TLS handshake failed: {_reason(error)}") from error
    except ValueError as error:
        raise ArgumentError(f"server_hostname must be a host name or an IP address, not {name!r}") from error


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


def _connect(
    address: Address, deadline: float, source_address: tuple[str, int] | None, options: Sequence[SocketOption], resolve: Resolve
) -> tuple[socket.socket, str]:
    failures: list[tuple[str, Exception]] = []
    found = _connect_first(_resolve(address, resolve), deadline, source_address, options, failures)
    if found is None:
        tried = "; ".join(f"{name}: {_reason(error)}" for name, error in failures)
        raise ConnectError(f"cannot connect to {address}: {tried}") from failures[-1][1]
    return found


def _connect_first(
    candidates: Sequence[Candidate],
    deadline: float,
    source_address: tuple[str, int] | None,
    options: Sequence[SocketOption],
    failures: list[tuple[str, Exception]],
) -> tuple[socket.socket, str] | None:
    """Return the first socket to connect, and its name; ``None`` if none does in time, and then ``failures`` tells what became of each."""
    waiting = list(reversed(candidates))
    in_flight: dict[socket.socket, str] = {}
    winner: socket.socket | None = None
    next_start = 0.0
    selector = selectors.DefaultSelector()
    try:
        while waiting or in_flight:
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
                    return sock, name
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
    return None


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


def _prepare_context(address: Address, context: ssl.SSLContext | None, alpn: Sequence[str] | None) -> ssl.SSLContext:
    try:
        import ssl
    except ImportError as error:
        raise NotSupportedError(f"cannot connect to {address}: this Python has no TLS (the ssl module)") from error
    if context is None:
        context = ssl.create_default_context()
        context.options |= ssl.OP_NO_RENEGOTIATION
    if alpn is not None:
        try:
            context.set_alpn_protocols(list(alpn))
        except (OSError, ValueError, TypeError) as error:
            raise ArgumentError(f"alpn must be names of 1 to 255 ASCII characters, not {alpn!r}") from error
    return context


def _certificate_name(host: str) -> str:
    # Neither the final dot of an absolute name nor the zone of a link-local address is in a certificate.
    return host.removesuffix(".").partition("%")[0]


def _name(socket_address: Any) -> str:
    host, port = socket_address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
