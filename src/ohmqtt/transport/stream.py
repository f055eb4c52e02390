"""What a connection can do, and the plain one: a stream socket as it is (TCP, Unix).

Owns the rules of non-blocking reading, writing and closing. Must not know MQTT, and must not block.
Invariant: receive and send of the plain transport are one call each, which never waits.
"""

from __future__ import annotations

import socket
from typing import Protocol

__all__ = ["SocketTransport", "Transport", "close_socket"]

#: What closing takes off the receive buffer at most.
_DRAIN_BYTES = 1 << 20


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
        close_socket(self._socket)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.description}>"


def close_socket(sock: socket.socket) -> None:
    """Close after what was sent: a socket closed on unread bytes resets the connection, and our DISCONNECT may go down with it."""
    if sock.fileno() == -1:
        return
    try:
        sock.shutdown(socket.SHUT_WR)
        sock.recv(_DRAIN_BYTES)
    except OSError:
        pass
    sock.close()
