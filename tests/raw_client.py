"""A client that does nothing by itself: it sends the packets that a test names, and waits for those that the test expects."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, TypeVar

from ohmqtt.address import parse_address
from ohmqtt.packet import MQTTConnAckPacket, MQTTConnectPacket, MQTTPacket, MQTTPingReqPacket, MQTTPingRespPacket, decode_packet

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["RawClient"]

P = TypeVar("P", bound=MQTTPacket)

PATIENCE_S = 60.0


class RawClient:
    """A socket that speaks packets. With a client id it has connected when it is there."""

    def __init__(self, address: str, client_id: str | None = None, *, tls_context: ssl.SSLContext | None = None, **connect: Any) -> None:
        target = parse_address(address)
        if target.scheme == "unix":
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(PATIENCE_S)
            self.sock.connect(target.path)
        else:
            self.sock = socket.create_connection((target.host, target.port), PATIENCE_S)
        if tls_context is not None:
            # An end without TLS's goodbye raises.
            self.sock = tls_context.wrap_socket(self.sock, server_hostname=target.host, suppress_ragged_eofs=False)
        self._data = b""
        if client_id is not None:
            self.send(MQTTConnectPacket(client_id, **connect))
            self.connack = self.expect(MQTTConnAckPacket)
            assert self.connack.reason_code == 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def send(self, *packets: MQTTPacket | bytes) -> None:
        """Send in one piece."""
        self.sock.sendall(b"".join(packet if isinstance(packet, bytes) else packet.encode() for packet in packets))

    def receive(self) -> Any:
        """Return the next packet, None at the end of the stream."""
        while True:
            found = decode_packet(self._data, 0)
            if found is not None:
                packet, end = found
                self._data = self._data[end:]
                return packet
            try:
                chunk = self.sock.recv(1 << 22)
            except ConnectionError:
                chunk = b""
            if not chunk:
                assert not self._data, f"the stream ended inside a packet: {self._data[:50]!r}"
                return None
            self._data += chunk

    def expect(self, kind: type[P]) -> P:
        """Return the next packet, which is of this type."""
        packet = self.receive()
        assert isinstance(packet, kind), f"expected {kind.__name__}, got {packet!r}"
        return packet

    def expect_end(self) -> None:
        """Wait for the end of the stream, before which nothing comes."""
        packet = self.receive()
        assert packet is None, f"expected the end of the stream, got {packet!r}"

    def expect_nothing(self) -> None:
        """Check that the server has sent nothing: it answers a ping first."""
        self.send(MQTTPingReqPacket())
        self.expect(MQTTPingRespPacket)
