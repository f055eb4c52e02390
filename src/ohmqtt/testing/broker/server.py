"""`Broker`: a thread that serves a `BrokerCore` on TCP, TLS and a Unix socket. For tests, demos and development, not for production.

Owns the sockets. Must not judge packets: that is the core's, and `Faults`'. Invariant: everything happens on one thread, in the order
read, run due timers, do what was asked, write; so what a method asked for is done, and its bytes are on their way, when it returns.
"""

from __future__ import annotations

import errno
import socket
import time
from collections import deque
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ...address import Address
from ...errors import ArgumentError, StateError
from ...mqtt_spec import SERVER_REASON_CODES, PacketType, reason_name
from ...packet import MQTTConnectPacket, MQTTPublishPacket
from ...property import MQTTDisconnectProps, MQTTPublishProps
from ...topic import matches, validate_topic_filter
from ...transport.stream import close_socket
from ..faults import Faults, check_received_kind, packet_kind
from ..loop import READ, WRITE, Served
from .core import BrokerCore
from .script import Direction

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import Callable, Sequence

    from ...packet import MQTTPacket
    from .connection import Connection
    from .records import Message
    from .script import Step
    from .settings import BrokerSettings

__all__ = ["Broker"]

T = TypeVar("T")

CHUNK_BYTES = 65_536
#: Who lets so much output wait isn't read from, until it has taken some.
OUTPUT_BYTES_MAX = 1 << 20
#: Whoever listens at a Unix socket is reached at once, unless many others wait for him.
PROBE_TIMEOUT_S = 1.0
#: So many messages and packets are remembered, the latest.
REMEMBERED_MAX = 100_000


class _RecordingCore(BrokerCore):
    """A core that remembers which messages it took."""

    def __init__(self, settings: BrokerSettings | None) -> None:
        super().__init__(settings)
        self.taken: deque[Message] = deque(maxlen=REMEMBERED_MAX)

    def route(self, message: Message) -> bool:
        if message.publisher:
            self.taken.append(message)
        return super().route(message)


class _Line:
    """A client's socket and the core's end of it."""

    def __init__(self, sock: socket.socket, connection: Connection, not_now: tuple[type[OSError], ...]) -> None:
        self.sock = sock
        self.connection = connection
        #: What the socket raises if it has nothing, or no room, at the moment.
        self.not_now = not_now
        self.blocked = False


class Broker(Served):
    """A real MQTT 5.0 broker inside this process. Use it with ``with``, or `start` and `stop`. It is for tests, demos and development.

    :param settings: Limits, hooks and what is kept (`BrokerSettings`). The defaults limit nothing.
    :param clock: What its timers go by (keep alive, expiry, Will delay): ``time.monotonic``, or a `FakeClock`.
    :param host: Where to listen.
    :param port: TCP port; 0: a free one, which stays the same over `stop` and `start`.
    :param tls_context: A server's context (``ssl.PROTOCOL_TLS_SERVER``) with a certificate: there is a TLS port, too.
    :param unix_path: Listen on a Unix socket here, too. Its path may have about 100 bytes.

    ``core`` is the `BrokerCore` (sessions, retained messages, settings); look at it by `call`. ``faults`` has it misbehave.
    An exception in a hook of the settings ends the broker, and is raised by `stop` (that is, at the end of ``with``).
    """

    def __init__(
        self,
        settings: BrokerSettings | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        host: str = "127.0.0.1",
        port: int = 0,
        tls_context: ssl.SSLContext | None = None,
        unix_path: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(clock)
        self._host = host
        self._port = port
        self._tls_context = tls_context
        self._tls_port = 0
        self._unix_path = None if unix_path is None else Path(unix_path)
        self._listeners: list[socket.socket] = []
        self._lines: dict[Connection, _Line] = {}
        self._packets: deque[tuple[str, MQTTPacket]] = deque(maxlen=REMEMBERED_MAX)
        #: When a silence ends; ``inf``: nobody knows.
        self._silent_until: float | None = None
        self._core = _RecordingCore(settings)
        self._core.script = self._script
        self.faults = Faults(self)

    # ---- where it is -----------------------------------------------------------------------------------------------------------------

    @property
    def core(self) -> BrokerCore:
        """The broker itself, without the sockets. While it runs, look at it and change it within `call` only."""
        return self._core

    @property
    def address(self) -> str:
        """Where clients connect to: ``mqtt://127.0.0.1:port``."""
        return str(Address("mqtt", self._host, self.port))

    @property
    def host(self) -> str:
        """The host of `address`, for clients that take it by itself."""
        return self._host

    @property
    def port(self) -> int:
        """The port of `address`, for clients that take it by itself; that of `tls_address` is `tls_port`."""
        return self._started(self._port)

    @property
    def tls_port(self) -> int:
        """The port of `tls_address`."""
        if self._tls_context is None:
            raise StateError("a Broker without tls_context has no TLS port")
        return self._started(self._tls_port)

    @property
    def tls_address(self) -> str:
        """Where clients connect to by TLS: ``mqtts://localhost:port``, since certificates are for names."""
        if self._tls_context is None:
            raise StateError("a Broker without tls_context has no TLS address")
        return str(Address("mqtts", "localhost" if self._host == "127.0.0.1" else self._host, self.tls_port))

    @property
    def unix_address(self) -> str:
        """Where clients connect to by Unix socket: ``unix:/path``."""
        if self._unix_path is None:
            raise StateError("a Broker without unix_path has no Unix address")
        return f"unix:{self._unix_path}"

    @staticmethod
    def _started(port: int) -> int:
        if not port:
            raise StateError("a Broker has an address once it was started")
        return port

    def now(self) -> float:
        """Return the time in seconds of the broker's clock."""
        return self._clock()

    # ---- what it does when asked -----------------------------------------------------------------------------------------------------

    def call(self, function: Callable[[], T]) -> T:
        """Run `function()` on the broker's thread, between two packets, and return or raise what it does.

        Everything that had arrived by now is handled before, and what it causes is done when this returns. Where the broker doesn't
        run, `function` is called at once.
        """
        return self._look(function)

    def publish(
        self,
        topic: str,
        payload: bytes | bytearray | memoryview | str = b"",
        *,
        qos: int = 0,
        retain: bool = False,
        properties: MQTTPublishProps = MQTTPublishProps.EMPTY,
    ) -> bool:
        """Publish a message from the broker itself; return whether anybody has subscribed.

        :raises ArgumentError: a bad topic, payload, QoS or property.
        """
        data = payload.encode() if isinstance(payload, str) else bytes(payload)
        if properties.TopicAlias is not None or properties.SubscriptionIdentifier:
            raise ArgumentError("properties: Topic Alias and Subscription Identifier are the broker's own")
        MQTTPublishPacket(topic, data, qos, retain, False, 1 if qos else 0, properties).encode()
        return self.call(lambda: self._core.publish(topic, data, qos=qos, retain=retain, properties=properties, now=self._clock()))

    def disconnect(self, client_id: str, reason_code: int = 0x8B, properties: MQTTDisconnectProps = MQTTDisconnectProps.EMPTY) -> bool:
        """Send a client a DISCONNECT (0x8B: Server shutting down) and close; return whether it was connected (section 3.14).

        :raises ArgumentError: what a server may not send in it. `Faults.send` sends it all the same.
        """
        if reason_code not in SERVER_REASON_CODES[PacketType.DISCONNECT]:  # [MQTT-3.14.2-1]
            raise ArgumentError(f"reason_code: {reason_name(reason_code)} is none that a server may send in DISCONNECT")
        if properties.SessionExpiryInterval is not None:  # [MQTT-3.14.2-2]
            raise ArgumentError("properties: a Session Expiry Interval in DISCONNECT is for clients only")
        return self.call(lambda: self._core.disconnect(client_id, reason_code, properties, now=self._clock()))

    def restart(self) -> None:
        """Begin again as if the process had been killed: links end without a word, the addresses stay.

        With ``settings.persistent``, which is the default, sessions and retained messages are kept.
        """

        def restart() -> None:
            self._core.restart(self._clock())
            for line in list(self._lines.values()):
                self._close_line(line)

        self.call(restart)

    # ---- what it saw -----------------------------------------------------------------------------------------------------------------

    @property
    def clients(self) -> list[str]:
        """The Client Identifiers that are connected."""
        return self.call(lambda: [connection.client_id for connection in self._core.connections if connection.session is not None])

    @property
    def received(self) -> list[Message]:
        """The messages that clients published and it took, each once, in order: topic, payload, qos, retain, properties, publisher.

        A message that was sent again is here once, a refused one not at all, and a Will counts as its client's.
        """
        return self.call(lambda: list(self._core.taken))

    @property
    def packets(self) -> list[tuple[str, MQTTPacket]]:
        """Every packet that arrived, as it came, with the client's identifier as far as that was known."""
        return self.call(lambda: list(self._packets))

    def forget(self) -> None:
        """Forget what was received: `received` and `packets` begin anew."""

        def forget() -> None:
            self._core.taken.clear()
            self._packets.clear()

        self.call(forget)

    def wait_for_messages(self, count: int = 1, topic_filter: str = "#", *, timeout: float = 10.0) -> list[Message]:
        """Wait until `count` messages that match have been `received`, and return all of them that have.

        :raises WaitTimeoutError: there were fewer within `timeout` seconds.
        """
        validate_topic_filter(topic_filter)

        def found() -> list[Message]:
            return [message for message in self._core.taken if matches(topic_filter, message.topic)]

        self.wait_until(lambda: len(found()) >= count, timeout, f"{count} messages that match {topic_filter!r}")
        return self.call(found)

    def wait_for_packets(self, kind: str, count: int = 1, *, timeout: float = 10.0) -> list[Any]:
        """Wait until `count` packets of a kind (``"SUBSCRIBE"``) have arrived and were handled, and return all that have.

        :raises ArgumentError: a broker receives no such packets.
        :raises WaitTimeoutError: there were fewer within `timeout` seconds.
        """
        check_received_kind(kind)

        def found() -> list[MQTTPacket]:
            return [packet for _, packet in self._packets if packet_kind(packet) == kind]

        self.wait_until(lambda: len(found()) >= count, timeout, f"{count} {kind}")
        return self.call(found)

    def wait_until(self, condition: Callable[[], bool], timeout: float = 10.0, what: str = "a condition") -> None:
        """Wait until `condition()` holds; it is looked at on the broker's thread, whenever that has done something.

        :raises WaitTimeoutError: it did not within `timeout` seconds.
        """
        self._wait_until(condition, timeout, lambda: f"{what}; {len(self._core.taken)} messages and these packets came: {self._past()}")

    def _past(self) -> str:
        return ", ".join(f"{packet_kind(packet)} of {client_id!r}" for client_id, packet in list(self._packets)[-10:]) or "none"

    # ---- the thread ------------------------------------------------------------------------------------------------------------------

    def _script(self, connection: Connection, packet: MQTTPacket, direction: Direction) -> Sequence[Step] | None:
        if direction is Direction.RECEIVED:
            client_id = packet.client_id if isinstance(packet, MQTTConnectPacket) else connection.client_id
            self._packets.append((client_id, packet))
        return self.faults.judge(connection, packet, direction)

    def _open(self) -> None:
        # What a former run left is as after a restart.
        self._core.restart(self._clock())
        self._core.dirty.clear()
        self._silent_until = None
        self._port = self._listen(self._port, None)
        if self._tls_context is not None:
            self._tls_port = self._listen(self._tls_port, self._tls_context)
        if self._unix_path is not None:
            _remove_left_socket(self._unix_path)
            listener = socket.socket(socket.AF_UNIX)
            self._listeners.append(listener)
            listener.bind(str(self._unix_path))
            listener.listen(128)
            self._serve(listener, None)

    def _listen(self, port: int, context: ssl.SSLContext | None) -> int:
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        listener = socket.create_server((self._host, port), family=family, backlog=128)
        self._listeners.append(listener)
        self._serve(listener, context)
        return int(listener.getsockname()[1])

    def _serve(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        listener.setblocking(False)
        self._watch(listener, READ, lambda _: self._accept(listener, context))

    def _close(self) -> None:
        for line in list(self._lines.values()):
            line.connection.lost(self._clock())
            self._close_line(line)
        for listener in self._listeners:
            name = listener.getsockname()
            listener.close()
            if isinstance(name, str) and name:
                Path(name).unlink(missing_ok=True)
        self._listeners.clear()

    def _accept(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        not_now: tuple[type[OSError], ...] = (BlockingIOError,)
        try:
            sock, _ = listener.accept()
            if sock.family != getattr(socket, "AF_UNIX", None):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if context is not None:
                # Only here, because the module costs more to import than all the rest.
                import ssl

                not_now = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
                # The first read does the handshake.
                sock = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except OSError:
            # It is gone again.
            return
        sock.setblocking(False)
        connection = self._core.accept(self._clock())
        line = self._lines[connection] = _Line(sock, connection, not_now)
        self._adjust(line)

    def _adjust(self, line: _Line) -> None:
        """Watch a socket for what it is wanted for now."""
        reads = len(line.connection.output) < OUTPUT_BYTES_MAX
        events = 0 if self._silent_until is not None else READ * reads | WRITE * line.blocked
        self._watch(line.sock, events, lambda _: self._on_ready(line))

    def _on_ready(self, line: _Line) -> None:
        if line.blocked:
            line.blocked = False
            self._flush(line)
        if line.connection in self._lines:
            self._read(line)

    def _read(self, line: _Line) -> None:
        connection = line.connection
        try:
            data = line.sock.recv(CHUNK_BYTES)
        except line.not_now:
            return
        except OSError:
            data = b""
        if not data:
            connection.lost(self._clock())
            self._close_line(line)
        elif not connection.closing:
            connection.receive(data, self._clock())

    def _turn(self, now: float) -> None:
        if self._silent_until is not None and self._silent_until <= now:
            self._silent_until = None
            for line in self._lines.values():
                self._adjust(line)
            # What came meanwhile came before what time has made due.
            self._dispatch(0.0)
        if self._silent_until is not None:
            return
        core = self._core
        while (due := core.deadline()) is not None and due <= now:
            # One after the other, each at its own time, so that a long leap of a clock is like many short ones.
            core.tick(max(due, core.now))
        while core.dirty:
            connection, _ = core.dirty.popitem()
            if connection in self._lines:
                self._flush(self._lines[connection])

    def _flush(self, line: _Line) -> None:
        """Write as much output as there is room for, and close behind it if that is wanted."""
        output = line.connection.output
        try:
            while output and not line.blocked:
                with memoryview(output) as view, view[:CHUNK_BYTES] as piece:
                    sent = line.sock.send(piece)
                del output[:sent]
        except line.not_now:
            line.blocked = True
        except OSError:
            line.connection.lost(self._clock())
            self._close_line(line)
            return
        if line.connection.closing and not output:
            self._close_line(line)
        else:
            self._adjust(line)

    def _close_line(self, line: _Line) -> None:
        del self._lines[line.connection]
        self._watch(line.sock, 0)
        if self._tls_context is not None and isinstance(line.sock, self._tls_context.sslsocket_class):
            try:
                # TLS's own goodbye; the client's isn't waited for.
                line.sock.unwrap()
            except (OSError, ValueError):
                pass
        close_socket(line.sock)

    def _due(self) -> float | None:
        if self._silent_until is None:
            return self._core.deadline()
        return None if self._silent_until == inf else self._silent_until

    # ---- for faults, on the thread ---------------------------------------------------------------------------------------------------

    def _fall_silent(self, seconds: float | None) -> None:
        """Do nothing for so many seconds; use `Faults.silence`."""
        self._silent_until = inf if seconds is None else self._clock() + seconds
        for line in self._lines.values():
            self._adjust(line)


def _remove_left_socket(path: Path) -> None:
    """Remove the Unix socket of a process that ended without closing it: one where nobody listens."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PROBE_TIMEOUT_S)
        if probe.connect_ex(str(path)) == errno.ECONNREFUSED:
            path.unlink(missing_ok=True)
