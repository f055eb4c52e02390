"""TLS over a connected stream socket.

Owns the handshake and the way between plaintext and socket. Must not choose whom to trust: that is the context's.
Invariant: what the socket had no room for is sent before anything that is encrypted later.
"""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING

from ohmqtt.errors import ArgumentError

from .stream import close_socket

if TYPE_CHECKING:
    import socket
    import ssl

__all__ = ["TLSTransport", "start_tls"]

#: What TLS takes from the socket in one read: four records of the largest size (RFC 8446, section 5.1), or many small ones.
_RECEIVE_BYTES = 65536
#: TLS encrypts and sends in pieces of this size: a few records, one system call.
_PIECE_BYTES = 65536
#: One send over TLS stops here, so that a peer as fast as ourselves can't keep the caller from reading.
_SEND_BYTES_MAX = 16 * _PIECE_BYTES


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
                encrypted = self._receive(_RECEIVE_BYTES)
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
        size = min(size, _SEND_BYTES_MAX)
        while sent < size:
            try:
                taken = self._write(view[sent : sent + _PIECE_BYTES])
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
            close_socket(self._socket)

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
            encrypted = connected.recv(_RECEIVE_BYTES)
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
