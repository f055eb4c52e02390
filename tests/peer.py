"""A scripted MQTT 5.0 peer: the server's end of a real socket, driven step by step by the test itself.

It owns a listening socket and the links it accepted; the test's own thread says what happens next. Everything a client sends passes
``tests.strict_parser``. Every wait is bounded, and a failed one says what came instead. Invariant: nothing is read or sent unless the test
asks for it, so a peer that the test leaves alone is a frozen server.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import struct
import time
from typing import TYPE_CHECKING, Any, Protocol

from tests.strict_parser import KINDS, WirePacket, encode_packet, encode_properties, parse_packet, split_packet

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["Link", "Peer", "PeerError"]

_TIMEOUT_S = 30.0


class _Encodable(Protocol):
    def encode(self) -> bytes: ...


class PeerError(AssertionError):
    """The client did not do what the test's script expects."""


def _kind_of(packet_class: type[object] | str) -> str:
    name = packet_class if isinstance(packet_class, str) else packet_class.__name__
    kind = name.removeprefix("MQTT").removesuffix("Packet").upper()
    if kind not in KINDS:
        raise ValueError(f"not a packet: {name}")
    return kind


class Link:
    """One accepted connection. Made by ``Peer.accept``."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._data = b""
        self._eof: str | None = None
        self.history: list[WirePacket] = []
        self.bytes_received = 0

    # Receiving

    def receive(self, timeout: float = _TIMEOUT_S) -> WirePacket:
        """Return the next packet, whatever it is."""
        return self._next("a packet", timeout)

    def expect(self, packet_class: type[object] | str, timeout: float = _TIMEOUT_S, **fields: Any) -> WirePacket:
        """Return the next packet, which must be of this class (or kind, like ``"PUBACK"``) and have these field values.

        A name in the standard's CamelCase is a property (``SessionExpiryInterval=300``; ``None``: absent); ``properties={…}`` compares all
        of them.
        """
        kind = _kind_of(packet_class)
        wanted = f"{kind}({', '.join(f'{name}={value!r}' for name, value in fields.items())})"
        packet = self._next(wanted, timeout)
        if packet.kind != kind:
            raise PeerError(f"expected {wanted}, but {packet!r} came; {self._past(1)}")
        for name, value in fields.items():
            actual = packet.properties.get(name) if name[0].isupper() else packet.fields.get(name, "no such field")
            if actual != value:
                raise PeerError(f"expected {wanted}, but {name} is {actual!r} in {packet!r}; {self._past(1)}")
        return packet

    def expect_eof(self, timeout: float = _TIMEOUT_S) -> str:
        """Wait until the client closes; nothing may come before that. Returns "closed" or "reset"."""
        packet = self._next_or_eof(timeout)
        if packet is not None:
            raise PeerError(f"expected the end of the stream, but {packet!r} came; {self._past(1)}")
        if self._eof is None:
            raise PeerError(f"expected the end of the stream within {timeout} s, but the connection stayed open; {self._past()}")
        return self._eof

    def expect_nothing(self, for_s: float = 0.05) -> None:
        """Check that nothing comes for a short while, not even the end of the stream."""
        packet = self._next_or_eof(for_s)
        if packet is not None:
            raise PeerError(f"expected nothing for {for_s} s, but {packet!r} came; {self._past(1)}")
        if self._eof is not None:
            raise PeerError(f"expected nothing for {for_s} s, but the client {self._eof} the connection; {self._past()}")

    def read_all_until_eof(self, timeout: float = _TIMEOUT_S) -> list[WirePacket]:
        """Return every packet up to the end of the stream."""
        deadline = time.monotonic() + timeout
        packets: list[WirePacket] = []
        while True:
            packet = self._next_or_eof(max(0.0, deadline - time.monotonic()))
            if packet is not None:
                packets.append(packet)
            elif self._eof is not None:
                return packets
            else:
                raise PeerError(f"expected the end of the stream within {timeout} s, but after {packets!r} the connection stayed open")

    def receive_raw(self, timeout: float = _TIMEOUT_S) -> bytes:
        """Return whatever bytes are there, unparsed; ``b""`` at the end of the stream."""
        if not self._data and self._eof is None and not self._read(time.monotonic() + timeout):
            raise PeerError(f"expected bytes within {timeout} s, but nothing came; {self._past()}")
        data, self._data = self._data, b""
        return data

    def _next(self, wanted: str, timeout: float) -> WirePacket:
        packet = self._next_or_eof(timeout)
        if packet is not None:
            return packet
        if self._eof is not None:
            raise PeerError(f"expected {wanted}, but the client {self._eof} the connection; {self._past()}")
        part = f"only {self._data[:64].hex(' ')}" if self._data else "nothing"
        raise PeerError(f"expected {wanted} within {timeout} s, but {part} came; {self._past()}")

    def _next_or_eof(self, timeout: float) -> WirePacket | None:
        deadline = time.monotonic() + timeout
        while True:
            parts = split_packet(self._data)
            if parts is not None:
                raw, self._data = parts
                packet = parse_packet(raw, "client")
                self.history.append(packet)
                return packet
            if self._eof is not None:
                if self._data:
                    raise PeerError(f"the client {self._eof} the connection inside a packet: {self._data[:64].hex(' ')}; {self._past()}")
                return None
            if not self._read(deadline):
                return None

    def _read(self, deadline: float) -> bool:
        """Read once, at most until the deadline; False when the time is over."""
        while True:
            tls_pending = isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0
            if not tls_pending and not select.select([self._socket], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return False
            try:
                chunk = self._socket.recv(65536)
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                continue
            except ssl.SSLEOFError:
                self._eof = "closed"
            except ConnectionError:
                self._eof = "reset"
            else:
                self._data += chunk
                self.bytes_received += len(chunk)
                if not chunk:
                    self._eof = "closed"
            return True

    def _past(self, without: int = 0) -> str:
        history = self.history[: len(self.history) - without]
        return f"before that: {', '.join(repr(packet) for packet in history[-5:])}" if history else "nothing came before that"

    # Sending

    def send(self, packet: bytes | _Encodable, timeout: float = _TIMEOUT_S) -> None:
        """Send bytes, or a packet record of the library."""
        self.send_raw(packet if isinstance(packet, bytes) else packet.encode(), timeout)

    def send_raw(self, data: bytes, timeout: float = _TIMEOUT_S) -> None:
        """Send bytes as they are, right or wrong."""
        deadline = time.monotonic() + timeout
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
                continue
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                pass
            if not select.select([], [self._socket], [], max(0.0, deadline - time.monotonic()))[1]:
                raise PeerError(f"the client did not take {len(view)} of {len(data)} bytes within {timeout} s; {self._past()}")

    def connack(self, reason_code: int = 0, session_present: bool = False, **properties: Any) -> None:
        """Send CONNACK."""
        self.send_raw(encode_packet(0x20, bytes((int(session_present), reason_code)) + encode_properties(**properties)))

    def handshake(self, session_present: bool = False, **properties: Any) -> WirePacket:
        """Expect CONNECT, answer with a good CONNACK, return the CONNECT."""
        packet = self.expect("CONNECT")
        self.connack(0, session_present, **properties)
        return packet

    def publish(
        self, topic: str, payload: bytes = b"", qos: int = 0, packet_id: int = 0, retain: bool = False, dup: bool = False, **properties: Any
    ) -> None:
        """Send PUBLISH."""
        raw = topic.encode()
        body = (
            len(raw).to_bytes(2, "big") + raw + (packet_id.to_bytes(2, "big") if qos else b"") + encode_properties(**properties) + payload
        )
        self.send_raw(encode_packet(0x30 | dup << 3 | qos << 1 | retain, body))

    def puback(self, packet_id: int, reason_code: int = 0, **properties: Any) -> None:
        """Send PUBACK."""
        self._send_ack(0x40, packet_id.to_bytes(2, "big"), reason_code, properties)

    def pubrec(self, packet_id: int, reason_code: int = 0, **properties: Any) -> None:
        """Send PUBREC."""
        self._send_ack(0x50, packet_id.to_bytes(2, "big"), reason_code, properties)

    def pubrel(self, packet_id: int, reason_code: int = 0, **properties: Any) -> None:
        """Send PUBREL."""
        self._send_ack(0x62, packet_id.to_bytes(2, "big"), reason_code, properties)

    def pubcomp(self, packet_id: int, reason_code: int = 0, **properties: Any) -> None:
        """Send PUBCOMP."""
        self._send_ack(0x70, packet_id.to_bytes(2, "big"), reason_code, properties)

    def suback(self, packet_id: int, *reason_codes: int, **properties: Any) -> None:
        """Send SUBACK."""
        self.send_raw(encode_packet(0x90, packet_id.to_bytes(2, "big") + encode_properties(**properties) + bytes(reason_codes)))

    def unsuback(self, packet_id: int, *reason_codes: int, **properties: Any) -> None:
        """Send UNSUBACK."""
        self.send_raw(encode_packet(0xB0, packet_id.to_bytes(2, "big") + encode_properties(**properties) + bytes(reason_codes)))

    def pingresp(self) -> None:
        """Send PINGRESP."""
        self.send_raw(b"\xd0\x00")

    def disconnect(self, reason_code: int = 0, **properties: Any) -> None:
        """Send DISCONNECT."""
        self._send_ack(0xE0, b"", reason_code, properties)

    def auth(self, reason_code: int = 0x18, **properties: Any) -> None:
        """Send AUTH."""
        self.send_raw(encode_packet(0xF0, bytes((reason_code,)) + encode_properties(**properties)))

    def _send_ack(self, first_byte: int, head: bytes, reason_code: int, properties: dict[str, Any]) -> None:
        if properties:
            head += bytes((reason_code,)) + encode_properties(**properties)
        elif reason_code:
            head += bytes((reason_code,))
        self.send_raw(encode_packet(first_byte, head))

    # Ending

    def close(self) -> None:
        """Close in an orderly way (the client reads the end of the stream, or a reset if it had sent more)."""
        self._socket.close()

    def cut(self) -> None:
        """Cut the connection: the client gets a reset."""
        with contextlib.suppress(OSError):
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def half_close(self) -> None:
        """End our direction only: the client reads the end of the stream, we can still read what it sends."""
        self._socket.shutdown(socket.SHUT_WR)


class Peer:
    """A server's listening end: TCP on a free loopback port, or a Unix socket; with TLS when a context is given.

    ``address`` is what ``Client.connect`` takes. Leaving ``with`` closes everything.
    """

    def __init__(self, unix_path: Path | str | None = None, tls_context: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self._tls_context = tls_context
        self.links: list[Link] = []
        self.port = 0
        if unix_path is not None:
            self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._listener.bind(str(unix_path))
            self._listener.listen(16)
            self.address = f"unix:{unix_path}"
        else:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._listener = socket.create_server((host, 0), family=family, backlog=16)
            self.port = self._listener.getsockname()[1]
            name = f"[{host}]" if ":" in host else host
            self.address = f"mqtts://{name}:{self.port}" if tls_context else f"{name}:{self.port}"

    def accept(self, timeout: float = _TIMEOUT_S) -> Link:
        """Wait for the next connection and, with TLS, for its handshake."""
        deadline = time.monotonic() + timeout
        self._listener.settimeout(timeout)
        try:
            connection, _ = self._listener.accept()
        except TimeoutError:
            raise PeerError(f"expected a connection within {timeout} s, but none came ({len(self.links)} came before)") from None
        if connection.family != getattr(socket, "AF_UNIX", None):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls_context is not None:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                connection = self._tls_context.wrap_socket(connection, server_side=True)
            except OSError as error:
                connection.close()
                raise PeerError(f"the TLS handshake failed: {error!r}") from error
        connection.setblocking(False)
        link = Link(connection)
        self.links.append(link)
        return link

    def expect_no_connection(self, for_s: float = 0.05) -> None:
        """Check that nobody connects for a short while."""
        if select.select([self._listener], [], [], for_s)[0]:
            raise PeerError(f"expected no connection for {for_s} s, but one came")

    def stop_listening(self) -> None:
        """Refuse further connections; accepted ones live on."""
        self._listener.close()

    def close(self) -> None:
        """Close the listening socket and all links."""
        self._listener.close()
        for link in self.links:
            link.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
