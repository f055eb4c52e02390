"""`Proxy`: a bad network between a client and any broker. It knows bytes and links, not MQTT, so TLS passes through as well.

One thread moves bytes; what it does to them is set by the methods, from any thread, and holds from then on for all links.
Invariant: bytes are passed on in order and unchanged, or not at all and the link is cut; each buffer has a bound.
"""

from __future__ import annotations

import socket
import struct
import time
from collections import deque
from operator import index
from typing import TYPE_CHECKING, Literal

from ohmqtt.address import Address, parse_address
from ohmqtt.errors import ArgumentError, StateError
from ohmqtt.transport.stream import close_socket

from .loop import READ, WRITE, Served

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Way: TypeAlias = Literal["up", "down"]

__all__ = ["Proxy"]

#: From the client to the broker, and from the broker to the client.
WAYS: tuple[Way, ...] = ("up", "down")
CHUNK_BYTES = 65_536
#: So much of one link waits inside the proxy for each way; then it reads no more, and TCP holds the sender back.
HELD_BYTES_MAX = 1 << 20
CONNECT_TIMEOUT_S = 5.0


class _Flow:
    """One way of one link: what was read at `source` and not yet written to `sink`."""

    def __init__(self, link: _Link, way: Way, source: socket.socket, sink: socket.socket) -> None:
        self.link = link
        self.way: Way = way
        self.source = source
        self.sink = sink
        #: When each chunk is due, and its bytes; none are the end of the stream.
        self.chunks: deque[tuple[float, bytes]] = deque()
        self.held_bytes = 0
        self.ended = False
        #: The sink had no room.
        self.blocked = False


class _Link:
    """A client's connection and ours to the broker."""

    def __init__(self, client: socket.socket, broker: socket.socket) -> None:
        self.flows = (_Flow(self, "up", client, broker), _Flow(self, "down", broker, client))


class Proxy(Served):
    """Stand between clients and a broker, and do to their links what networks do. Use it with ``with``, or `start` and `stop`.

    ``client.connect(proxy.address)`` in place of the broker's own address. What a method sets holds from then on, for links that there
    are and that are to come, until `heal`. ``way`` is ``"up"`` (from the client), ``"down"`` (from the broker) or, where a method has
    that for its default, None: both.

    :param target: The broker's address, as for `Client.connect`; it is resolved for each link, and need not be there yet.
    :param clock: What `delay` and `split` go by: ``time.monotonic``, or a `FakeClock`.
    :param host: Where to listen.
    :raises ArgumentError: no address, or one of a WebSocket.
    """

    def __init__(self, target: str, *, clock: Callable[[], float] = time.monotonic, host: str = "127.0.0.1") -> None:
        super().__init__(clock)
        self._target = parse_address(target)
        if self._target.scheme not in {"mqtt", "mqtts", "unix"}:
            raise ArgumentError(f"target: mqtt, mqtts or unix expected, got {self._target.scheme}")
        self._host = host
        self._port = 0
        self._listener: socket.socket | None = None
        self._links: list[_Link] = []
        self._accepted = 0
        self._passed = dict.fromkeys(WAYS, 0)
        self._forget_faults()

    def _forget_faults(self) -> None:
        self._refusing = False
        self._frozen = dict.fromkeys(WAYS, False)
        self._delay_s = dict.fromkeys(WAYS, 0.0)
        self._pieces: dict[Way, tuple[int, float]] = dict.fromkeys(WAYS, (CHUNK_BYTES, 0.0))
        self._cuts: deque[tuple[Way, int]] = deque()

    # ---- what there is ---------------------------------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Where clients connect to: of the target's kind, but for a Unix socket, which becomes plain TCP."""
        if not self._target.tls:
            return str(Address("mqtt", self._host, self.port))
        # By its name, as with a `Broker`: certificates are for names.
        return str(Address("mqtts", "localhost" if self._host == "127.0.0.1" else self._host, self.port))

    @property
    def host(self) -> str:
        """Where it listens, for clients that take host and port by themselves."""
        return self._host

    @property
    def port(self) -> int:
        """The port of `address`."""
        if not self._port:
            raise StateError("a Proxy has an address once it was started")
        return self._port

    @property
    def links(self) -> int:
        """How many links there are now."""
        return self._look(lambda: len(self._links))

    @property
    def accepted(self) -> int:
        """How many links there were in all."""
        return self._look(lambda: self._accepted)

    def passed(self, way: Way) -> int:
        """Return how many bytes were passed on in one way, of all links together."""
        _one_way(way)
        return self._look(lambda: self._passed[way])

    def wait_for_links(self, count: int = 1, timeout: float = 10.0) -> None:
        """Wait until there are exactly `count` links.

        :raises WaitTimeoutError: there were not within `timeout` seconds.
        """
        self._wait_until(lambda: len(self._links) == count, timeout, lambda: f"{count} links; there are {len(self._links)}")

    # ---- faults ----------------------------------------------------------------------------------------------------------------------

    def cut(self, *, reset: bool = False) -> None:
        """Cut all links now. What was passed on arrives, then the stream ends; with `reset`, the peers get a reset (RST)."""
        self._ask(lambda: self._cut_all(reset))

    def cut_after(self, count: int, way: Way = "up") -> None:
        """Cut the link that carries the `count`-th byte from now on in one way, just behind that byte; 0: before the next one.

        The bytes of all links count. Several calls wait for each other: the second one counts from where the first one cut.
        """
        if index(count) < 0:
            raise ArgumentError(f"count: 0 or more bytes expected, got {count}")
        _one_way(way)
        self._look(lambda: self._cuts.append((way, count)))

    def freeze(self, way: Way | None = None) -> None:
        """Pass nothing on, and read nothing either; links stay open. `thaw` or `heal` ends it."""
        self._look(lambda: self._frozen.update(dict.fromkeys(_ways(way), True)))

    def thaw(self, way: Way | None = None) -> None:
        """Pass on again, beginning with what was held."""
        self._look(lambda: self._frozen.update(dict.fromkeys(_ways(way), False)))

    def delay(self, seconds: float, way: Way | None = None) -> None:
        """Pass on what is read from now on so many seconds later. What is on its way at a time is bounded (1 MiB for each link)."""
        if not seconds >= 0:
            raise ArgumentError(f"seconds: 0 or more expected, got {seconds!r}")
        self._look(lambda: self._delay_s.update(dict.fromkeys(_ways(way), seconds)))

    def split(self, size: int, way: Way | None = None, *, pause_s: float = 0.0) -> None:
        """Pass on in pieces of `size` bytes at most, with a pause between them. Without one, TCP may join them again."""
        if index(size) < 1:
            raise ArgumentError(f"size: at least 1 byte expected, got {size}")
        if not pause_s >= 0:
            raise ArgumentError(f"pause_s: 0 or more expected, got {pause_s!r}")
        self._look(lambda: self._pieces.update(dict.fromkeys(_ways(way), (size, pause_s))))

    def refuse(self) -> None:
        """Close new connections at once, until `heal`; links that there are stay."""

        def refuse() -> None:
            self._refusing = True

        self._look(refuse)

    def heal(self) -> None:
        """Take back everything: pass on at once, unhindered, and accept."""
        self._look(self._forget_faults)

    # ---- the thread ------------------------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        # The same port after stop and start, so that clients find it again.
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        self._listener = socket.create_server((self._host, self._port), family=family, backlog=128)
        self._listener.setblocking(False)
        self._port = self._listener.getsockname()[1]
        self._watch(self._listener, READ, lambda _: self._accept())

    def _close(self) -> None:
        self._cut_all(reset=False)
        if self._listener is not None:
            self._listener.close()

    def _accept(self) -> None:
        assert self._listener is not None
        try:
            client, _ = self._listener.accept()
        except OSError:
            # It is gone again.
            return
        try:
            if self._refusing:
                raise ConnectionRefusedError
            broker = self._connect()
        except OSError:
            client.close()
            return
        link = _Link(client, broker)
        self._links.append(link)
        self._accepted += 1
        for sock in (client, broker):
            sock.setblocking(False)
            if sock.family in {socket.AF_INET, socket.AF_INET6}:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _connect(self) -> socket.socket:
        target = self._target
        if target.scheme != "unix":
            return socket.create_connection((target.host, target.port), CONNECT_TIMEOUT_S)
        broker = socket.socket(socket.AF_UNIX)
        try:
            broker.connect(target.path)
        except BaseException:
            broker.close()
            raise
        return broker

    def _read(self, flow: _Flow) -> None:
        try:
            data = flow.source.recv(CHUNK_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        flow.ended = not data
        flow.held_bytes += len(data)
        flow.chunks.append((self._clock() + self._delay_s[flow.way], data))

    def _turn(self, now: float) -> None:
        for link in self._links[:]:
            for flow in link.flows:
                self._pass_on(flow, now)
        for link in self._links:
            up, down = link.flows
            for flow, opposite in ((up, down), (down, up)):
                wants_read = not (flow.ended or self._frozen[flow.way]) and flow.held_bytes < HELD_BYTES_MAX
                self._watch(flow.source, READ * wants_read | WRITE * opposite.blocked, self._on_ready(flow, opposite))

    def _on_ready(self, flow: _Flow, opposite: _Flow) -> Callable[[int], None]:
        def ready(events: int) -> None:
            if events & WRITE:
                opposite.blocked = False
            if events & READ:
                self._read(flow)

        return ready

    def _pass_on(self, flow: _Flow, now: float) -> None:
        """Write what is due, piece by piece, as far as there is room."""
        size, pause_s = self._pieces[flow.way]
        while flow.chunks and flow.link in self._links and not flow.blocked and not self._frozen[flow.way]:
            due, data = flow.chunks[0]
            if due > now:
                return
            if not data:
                self._cut_link(flow.link)
                return
            try:
                # Nothing at all where the cut is due before this byte.
                sent = flow.sink.send(data[: min(size, self._cut_left(flow.way))])
            except BlockingIOError:
                flow.blocked = True
                return
            except OSError:
                self._cut_link(flow.link)
                return
            flow.chunks.popleft()
            if sent < len(data):
                flow.chunks.appendleft((now + pause_s, data[sent:]))
            self._count(flow, sent)

    def _cut_left(self, way: Way) -> int:
        """Return after how many bytes the next cut is due, if it is in this way."""
        return self._cuts[0][1] if self._cuts and self._cuts[0][0] == way else CHUNK_BYTES

    def _count(self, flow: _Flow, sent: int) -> None:
        flow.held_bytes -= sent
        self._passed[flow.way] += sent
        if self._cuts and self._cuts[0][0] == flow.way:
            self._cuts[0] = (flow.way, self._cuts[0][1] - sent)
            if self._cuts[0][1] == 0:
                self._cuts.popleft()
                self._cut_link(flow.link)

    def _cut_link(self, link: _Link, *, reset: bool = False) -> None:
        self._links.remove(link)
        for flow in link.flows:
            self._watch(flow.source, 0)
            if reset:
                flow.source.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                flow.source.close()
            else:
                close_socket(flow.source)

    def _cut_all(self, reset: bool) -> None:
        for link in self._links[:]:
            self._cut_link(link, reset=reset)

    def _due(self) -> float | None:
        return min(
            (
                flow.chunks[0][0]
                for link in self._links
                for flow in link.flows
                if flow.chunks and not flow.blocked and not self._frozen[flow.way]
            ),
            default=None,
        )


def _one_way(way: Way) -> None:
    if way not in WAYS:
        raise ArgumentError(f'way: "up" or "down" expected, got {way!r}')


def _ways(way: Way | None) -> tuple[Way, ...]:
    if way is None:
        return WAYS
    if way not in WAYS:
        raise ArgumentError(f'way: "up", "down" or None expected, got {way!r}')
    return (way,)
