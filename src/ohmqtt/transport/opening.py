"""From an address to an open connection: names, the race between addresses, TLS settings.

Owns the rules of connecting. The only room that blocks, and only until its deadline; it must not start threads.
Invariant: whatever was opened here and isn't returned is closed, however the attempt ends.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

from ohmqtt.errors import ArgumentError, ConnectError, NotSupportedError

from .stream import SocketTransport, Transport
from .tls import start_tls

if TYPE_CHECKING:
    import ssl

    from ohmqtt.address import Address

__all__ = ["Resolve", "SocketOption", "open_transport"]

#: RFC 8305, section 5: the "Connection Attempt Delay" that it recommends.
_ATTEMPT_DELAY_S = 0.25

#: A day: longer than anybody waits, and short enough for every system's clocks and counters.
_TIMEOUT_S_MAX = 86_400

#: (level, option, value), as for :meth:`socket.socket.setsockopt`.
SocketOption = tuple[int, int, "int | bytes"]
#: (family, socket address), as :func:`socket.getaddrinfo` gives them.
_Candidate = tuple[int, Any]
#: The shape of :func:`socket.getaddrinfo`.
Resolve = Callable[..., Iterable[tuple[Any, Any, Any, Any, Any]]]


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

    ``timeout_s`` (seconds, > 0, at most a day) bounds everything: resolving, connecting and the TLS handshake; only the resolver itself can't be
    interrupted. With ``mqtts://`` the server is verified: ``tls_context`` is ``ssl.create_default_context()`` unless given,
    ``server_hostname`` is the name that its certificate must carry if that isn't the address's host, ``alpn`` are the protocols to
    offer (set on a given context, too). ``source_address`` is the local (host, port), ``socket_options`` are (level, option, value)
    set before connecting, ``tcp_nodelay`` turns off Nagle's algorithm, which would delay small packets. ``resolve`` takes the place
    of :func:`socket.getaddrinfo`.

    Raises :class:`ArgumentError` for a bad argument, among them TLS settings for an address without TLS; :class:`NotSupportedError`
    for WebSocket, and where the platform lacks Unix sockets or Python lacks TLS; :class:`ConnectError` otherwise, naming every
    address tried and what became of it.
    """
    if not 0 < timeout_s <= _TIMEOUT_S_MAX:
        raise ArgumentError(f"timeout_s must be greater than 0 and at most {_TIMEOUT_S_MAX:,}, not {timeout_s!r}")
    if not address.tls and (tls_context is not None or server_hostname is not None or alpn is not None):
        raise ArgumentError(f"tls_context, server_hostname and alpn need an address with TLS (mqtts://), not {address}")
    if address.scheme in {"ws", "wss"}:
        raise NotSupportedError(f"cannot connect to {address}: WebSocket is not supported yet")
    deadline = time.monotonic() + timeout_s
    if address.scheme == "unix":
        return _open_unix(address, timeout_s, socket_options, getattr(socket, "AF_UNIX", None))
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


def _open_unix(address: Address, timeout_s: float, options: Sequence[SocketOption], family: int | None) -> Transport:
    if family is None:
        raise NotSupportedError(f"cannot connect to {address}: this platform has no Unix sockets")
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        _set_options(sock, options)
        sock.settimeout(timeout_s)
        sock.connect(address.path)
        return SocketTransport(sock, str(address))
    except OSError as error:
        sock.close()
        raise ConnectError(f"cannot connect to {address}: {_reason(error)}") from error
    except BaseException:
        sock.close()
        raise


def _resolve(address: Address, resolve: Resolve) -> list[_Candidate]:
    """Return the addresses without repetition, the families in turn, beginning with the resolver's first choice."""
    try:
        found = [(entry[0], entry[4]) for entry in resolve(address.host, address.port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as error:
        raise ConnectError(f"cannot connect to {address}: the name can't be resolved: {_reason(error)}") from error
    by_family: dict[int, list[_Candidate]] = {}
    for candidate in dict.fromkeys(found):
        by_family.setdefault(candidate[0], []).append(candidate)
    if not by_family:
        raise ConnectError(f"cannot connect to {address}: the name has no address")
    ordered: list[_Candidate] = []
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
    candidates: Sequence[_Candidate],
    deadline: float,
    source_address: tuple[str, int] | None,
    options: Sequence[SocketOption],
    failures: list[tuple[str, Exception]],
) -> tuple[socket.socket, str] | None:
    """Return the first socket to connect, and its name; ``None`` if none does in time, and then ``failures`` tells what became of each."""
    waiting = list(reversed(candidates))
    in_flight: dict[socket.socket, str] = {}
    next_start = 0.0
    selector = selectors.DefaultSelector()
    try:
        while waiting or in_flight:
            now = time.monotonic()
            if now >= deadline:
                failures.extend((name, TimeoutError("no answer in time")) for name in in_flight.values())
                failures.extend((_name(candidate[1]), TimeoutError("time was up before it was tried")) for candidate in reversed(waiting))
                return None
            if waiting and now >= next_start:
                family, socket_address = waiting.pop()
                name = _name(socket_address)
                try:
                    sock = _begin_connect(family, socket_address, source_address, options)
                except OSError as error:
                    failures.append((name, error))
                else:
                    in_flight[sock] = name
                    selector.register(sock, selectors.EVENT_WRITE)
                    next_start = now + _ATTEMPT_DELAY_S
                continue
            until = min(next_start, deadline) if waiting else deadline
            for key, _ in selector.select(until - now):
                sock = cast("socket.socket", key.fileobj)
                selector.unregister(sock)
                name = in_flight.pop(sock)
                failure = _connect_failure(sock)
                if failure is None:
                    return sock, name
                sock.close()
                failures.append((name, failure))
                next_start = now
        return None
    finally:
        selector.close()
        for sock in in_flight:
            sock.close()


def _begin_connect(
    family: int, socket_address: Any, source_address: tuple[str, int] | None, options: Sequence[SocketOption]
) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        _set_options(sock, options)
        if source_address is not None:
            _bind(sock, source_address)
        try:
            sock.connect(socket_address)
        except BlockingIOError:
            pass
    except BaseException:
        sock.close()
        raise
    return sock


def _set_options(sock: socket.socket, options: Sequence[SocketOption]) -> None:
    for option in options:
        try:
            sock.setsockopt(*option)
        except (TypeError, OverflowError) as error:
            raise ArgumentError(f"socket_options must be (level, option, value) each, not {option!r}") from error


def _bind(sock: socket.socket, source_address: tuple[str, int]) -> None:
    try:
        sock.bind(source_address)
    except (TypeError, OverflowError) as error:
        raise ArgumentError(f"source_address must be (host, port), not {source_address!r}") from error


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
            if isinstance(alpn, str):
                raise TypeError("a str is a sequence of its characters")
            context.set_alpn_protocols(list(alpn))
        except (OSError, ValueError, TypeError) as error:
            raise ArgumentError(f"alpn must be a sequence of names with 1 to 255 ASCII characters, not {alpn!r}") from error
    return context


def _certificate_name(host: str) -> str:
    # Neither the final dot of an absolute name nor the zone of a link-local address is in a certificate.
    return host.removesuffix(".").partition("%")[0]


def _name(socket_address: Any) -> str:
    host, port = socket_address[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
