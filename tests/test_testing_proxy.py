"""`Proxy`: what goes in comes out, in order and unchanged, until it is told to be a bad network."""

from __future__ import annotations

import socket
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ohmqtt.errors import ArgumentError, StateError, WaitTimeoutError
from ohmqtt.testing.clock import FakeClock
from ohmqtt.testing.proxy import HELD_BYTES_MAX, Proxy

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 60.0


class Ends:
    """A proxy with a listening socket as its target, and the two ends of its links."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(PATIENCE_S)
        target = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.proxy = (Proxy(target, clock=clock) if clock is not None else Proxy(target)).start()
        self.sockets: list[socket.socket] = []

    def link(self) -> tuple[socket.socket, socket.socket]:
        host, _, port = self.proxy.address.removeprefix("mqtt://").rpartition(":")
        client = socket.create_connection((host, int(port)), PATIENCE_S)
        self.sockets.append(client)
        broker, _ = self.listener.accept()
        self.sockets.append(broker)
        broker.settimeout(PATIENCE_S)
        return client, broker

    def close(self) -> None:
        self.proxy.stop()
        for sock in (*self.sockets, self.listener):
            sock.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def ends(clock: FakeClock) -> Iterator[Ends]:
    ends = Ends(clock)
    yield ends
    ends.close()


@pytest.fixture
def proxy(ends: Ends) -> Proxy:
    return ends.proxy


def take(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        chunk = sock.recv(count - len(data))
        assert chunk, f"the stream ended after {data!r:.100}"
        data += chunk
    return data


def rest(sock: socket.socket) -> bytes:
    data = b""
    while chunk := sock.recv(65536):
        data += chunk
    return data


def has_nothing(sock: socket.socket) -> bool:
    """Whether nothing is there now. Only after something on the proxy's thread that comes later than what must not be there."""
    sock.setblocking(False)
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    finally:
        sock.settimeout(PATIENCE_S)
    return False


def test_bytes_go_both_ways(ends: Ends) -> None:
    client, broker = ends.link()
    client.sendall(b"up")
    assert take(broker, 2) == b"up"
    broker.sendall(b"down!")
    assert take(client, 5) == b"down!"
    assert (ends.proxy.links, ends.proxy.accepted, ends.proxy.passed("up"), ends.proxy.passed("down")) == (1, 1, 2, 5)


def test_many_bytes_arrive_unchanged_although_buffers_are_bounded(ends: Ends) -> None:
    client, broker = ends.link()
    data = bytes(range(256)) * 32_768  # 8 MiB: more than sockets and the proxy hold together
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    flow = ends.proxy._links[0].flows[0]

    def is_full() -> bool:
        return flow.blocked and flow.held_bytes >= HELD_BYTES_MAX and flow.source not in ends.proxy._selector.get_map()

    # Nothing is taken before the proxy is full and reads no more.
    ends.proxy._wait_until(is_full, PATIENCE_S, lambda: "a full proxy")
    assert take(broker, len(data)) == data
    sender.join(PATIENCE_S)


@pytest.mark.parametrize("first", ["client", "broker"])
def test_the_end_of_a_stream_ends_the_link_behind_the_last_byte(ends: Ends, first: str) -> None:
    one, other = ends.link()
    if first == "broker":
        one, other = other, one
    one.sendall(b"goodbye")
    one.close()
    assert rest(other) == b"goodbye"
    ends.proxy.wait_for_links(0)


def test_cut_ends_all_links_and_new_ones_can_be_made(ends: Ends) -> None:
    first, second = ends.link(), ends.link()
    ends.proxy.cut()
    assert [rest(sock) for sock in (*first, *second)] == [b""] * 4
    client, broker = ends.link()
    client.sendall(b"x")
    assert take(broker, 1) == b"x"
    assert ends.proxy.accepted == 3


def test_cut_with_a_reset(ends: Ends) -> None:
    client, broker = ends.link()
    ends.proxy.cut(reset=True)
    for sock in (client, broker):
        with pytest.raises(ConnectionError):
            sock.recv(1)


@pytest.mark.parametrize("count", [1, 4, 6])
@pytest.mark.parametrize("way", ["up", "down"])
def test_a_link_is_cut_just_behind_the_nth_byte(ends: Ends, way: str, count: int) -> None:
    client, broker = ends.link()
    sender, receiver = (client, broker) if way == "up" else (broker, client)
    ends.proxy.cut_after(count, "up" if way == "up" else "down")
    receiver.sendall(b"the other way doesn't count")
    take(sender, 27)
    sender.sendall(b"abc")
    if count > 3:
        take(receiver, 3)
        assert ends.proxy.links == 1
        sender.sendall(b"def")
        assert rest(receiver) == b"def"[: count - 3]
    else:
        assert rest(receiver) == b"abc"[:count]
    ends.proxy.wait_for_links(0)


def test_cuts_wait_for_each_other(ends: Ends) -> None:
    ends.proxy.cut_after(2, "up")
    ends.proxy.cut_after(0, "down")
    ends.proxy.cut_after(1, "up")
    client, broker = ends.link()
    client.sendall(b"abc")
    assert rest(broker) == b"ab"
    client, broker = ends.link()
    client.sendall(b"more than one")
    assert take(broker, 13) == b"more than one"
    broker.sendall(b"nothing of this")
    assert rest(client) == b""
    client, broker = ends.link()
    client.sendall(b"xy")
    assert rest(broker) == b"x"
    client, broker = ends.link()
    client.sendall(b"that was all")
    assert take(broker, 12) == b"that was all"


def test_a_delay_goes_by_the_clock(ends: Ends, clock: FakeClock) -> None:
    client, broker = ends.link()
    ends.proxy.delay(1.5, "up")
    client.sendall(b"later")
    broker.sendall(b"now")
    assert take(client, 3) == b"now"
    clock.advance(1.25)
    assert has_nothing(broker)
    clock.advance(0.25)
    assert take(broker, 5) == b"later"
    flow = ends.proxy._links[0].flows[0]
    client.sendall(b"a")
    client.close()
    ends.proxy._wait_until(lambda: flow.ended, PATIENCE_S, lambda: "the end of the stream")
    assert has_nothing(broker)
    clock.advance(1.5)
    assert rest(broker) == b"a"


def test_a_real_delay_passes_by_itself() -> None:
    ends = Ends()
    try:
        client, broker = ends.link()
        ends.proxy.delay(0.01)
        client.sendall(b"soon")
        assert take(broker, 4) == b"soon"
    finally:
        ends.close()


def test_pieces_with_pauses(ends: Ends, clock: FakeClock) -> None:
    client, broker = ends.link()
    ends.proxy.split(2, "up", pause_s=1.0)
    client.sendall(b"abcde")
    assert take(broker, 2) == b"ab"
    assert has_nothing(broker)
    clock.advance(1.0)
    assert take(broker, 2) == b"cd"
    assert has_nothing(broker)
    clock.advance(1.0)
    assert take(broker, 1) == b"e"


def test_pieces_without_pauses(ends: Ends) -> None:
    client, broker = ends.link()
    ends.proxy.split(1)
    client.sendall(b"abcde")
    assert take(broker, 5) == b"abcde"


def test_a_frozen_link_stays_open_and_keeps_what_it_held(ends: Ends, clock: FakeClock) -> None:
    client, broker = ends.link()
    ends.proxy.freeze("up")
    client.sendall(b"held")
    broker.sendall(b"the other way")
    assert take(client, 13) == b"the other way"
    clock.advance(0)
    assert has_nothing(broker)
    ends.proxy.freeze()
    broker.sendall(b"held, too")
    clock.advance(0)
    assert has_nothing(client)
    ends.proxy.thaw("up")
    assert take(broker, 4) == b"held"
    clock.advance(0)
    assert has_nothing(client)
    ends.proxy.heal()
    assert take(client, 9) == b"held, too"


def test_connections_are_refused_until_it_heals(ends: Ends) -> None:
    client, broker = ends.link()
    ends.proxy.refuse()
    port = int(ends.proxy.address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as refused:
        assert rest(refused) == b""
    client.sendall(b"still here")
    assert take(broker, 10) == b"still here"
    ends.proxy.heal()
    ends.link()
    assert ends.proxy.links == 2


def test_a_target_that_is_not_there_is_like_a_refusal() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with Proxy(f"127.0.0.1:{port}") as proxy:
        own = int(proxy.address.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", own), PATIENCE_S) as refused:
            assert rest(refused) == b""
        assert proxy.accepted == 0


@pytest.mark.skipif(sys.platform == "win32", reason="no Unix sockets")
def test_the_target_may_be_a_unix_socket() -> None:
    # Not pytest's folder, which can be longer than the path of a Unix socket.
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "s")
        with Proxy(f"unix:{path}") as proxy:
            address = ("127.0.0.1", int(proxy.address.rpartition(":")[2]))
            with socket.create_connection(address, PATIENCE_S) as refused:
                assert rest(refused) == b""
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(path)
                listener.listen()
                with socket.create_connection(address, PATIENCE_S) as client:
                    broker, _ = listener.accept()
                    with broker:
                        client.sendall(b"hello")
                        assert take(broker, 5) == b"hello"


def test_a_stopped_proxy_starts_again_at_its_address(ends: Ends) -> None:
    client, broker = ends.link()
    address = ends.proxy.address
    ends.proxy.stop()
    assert rest(client) == rest(broker) == b""
    ends.proxy.delay(0.0)  # faults can be set while it doesn't run
    ends.proxy.start()
    assert ends.proxy.address == address
    ends.link()


def test_an_end_that_went_away_cuts_the_link(ends: Ends) -> None:
    client, broker = ends.link()
    ends.proxy.freeze("down")
    broker.sendall(b"for nobody")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    ends.proxy.wait_for_links(0)


def test_a_write_to_an_end_that_went_away_cuts_the_link(ends: Ends) -> None:
    client, broker = ends.link()
    ends.proxy.freeze("up")  # so that the proxy doesn't see by reading that the client has gone
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    broker.sendall(b"for nobody")
    ends.proxy.wait_for_links(0)


def test_a_socket_that_was_ready_and_is_no_longer_is_left_alone(ends: Ends) -> None:
    client, broker = ends.link()
    ends.proxy._ask(ends.proxy._accept)
    for flow in ends.proxy._links[0].flows:
        ends.proxy._ask(lambda flow=flow: ends.proxy._read(flow))  # type: ignore[misc]
    client.sendall(b"x")
    assert take(broker, 1) == b"x"
    assert ends.proxy.links == 1


def test_a_place_that_can_not_be_had() -> None:
    proxy = Proxy("localhost", host="192.0.2.1")  # reserved for documentation (RFC 5737)
    with pytest.raises(OSError):  # the system's own words
        proxy.start()
    assert not proxy.is_running


def test_the_address_is_of_the_targets_kind() -> None:
    with Proxy("mqtts://example.test:8883") as proxy:
        assert proxy.address.startswith("mqtts://localhost:")


def test_waiting_for_links_that_never_come(proxy: Proxy) -> None:
    with pytest.raises(WaitTimeoutError, match="1 links; there are 0"):
        proxy.wait_for_links(1, timeout=0.01)
    proxy.wait_for_links(0)


def test_bad_arguments(proxy: Proxy) -> None:
    with pytest.raises(ArgumentError, match="mqtt, mqtts or unix expected, got ws"):
        Proxy("ws://localhost")
    with pytest.raises(ArgumentError, match="count"):
        proxy.cut_after(-1)
    with pytest.raises(ArgumentError, match="way"):
        proxy.cut_after(1, "sideways")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="seconds"):
        proxy.delay(float("nan"))
    with pytest.raises(ArgumentError, match="size"):
        proxy.split(0)
    with pytest.raises(ArgumentError, match="pause_s"):
        proxy.split(1, pause_s=-1.0)


def test_a_proxy_that_was_never_started_has_no_address() -> None:
    proxy = Proxy("localhost")
    with pytest.raises(StateError, match="started"):
        assert proxy.address
    with pytest.raises(StateError, match="doesn't run"):
        proxy.cut()
    proxy.stop()
