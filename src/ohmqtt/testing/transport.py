"""Check that a transport keeps what the client relies upon: `check_transport`, for every implementation of ``ohmqtt.transport.Transport``.

Owns no socket: the caller's ``make_pair`` connects two ends. Needs no test framework; a failure is an ``AssertionError`` that says what
was expected. It waits for descriptors, not for a time.
"""

from __future__ import annotations

import selectors
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ohmqtt.transport import Transport

__all__ = ["check_transport"]

#: For a transport without a descriptor, which can't be waited for.
_PAUSE_S = 0.001
#: More than a system keeps for a peer that doesn't read; a transport that takes this much never says no.
_UNREAD_BYTES_MAX = 1 << 26
_RECEIVE_BYTES = 65536


def check_transport(make_pair: Callable[[], tuple[Transport, Transport]], *, patience_s: float = 10.0) -> None:
    """Check a transport against the protocol: whole bytes in order, would-block, small reads, the end of the stream, closing.

    ``make_pair`` returns the two ends of a new connection, handshakes done. It is called several times, and each end is checked in
    both roles. An end whose ``fileno()`` is negative (in memory) is asked again and again instead of being waited for.
    ``patience_s``: how long (seconds) to wait for what must come.

    Raises ``AssertionError`` with what was expected and what was found.
    """
    for check in (_check_quiet, _check_whole, _check_small_reads, _check_would_block, _check_end, _check_close, _check_close_unread):
        for swapped in (False, True):
            first, second = make_pair()
            try:
                check(_Pair(second, first, patience_s) if swapped else _Pair(first, second, patience_s))
            finally:
                first.close()
                second.close()


class _Pair:
    """The two ends of a connection, with what every check does to them."""

    def __init__(self, here: Transport, there: Transport, patience_s: float) -> None:
        self.here = here
        self.there = there
        self.patience_s = patience_s

    def wait(self, end: Transport) -> None:
        """Wait until the descriptor says that there is something to be read."""
        if end.fileno() < 0:
            time.sleep(_PAUSE_S)
            return
        with selectors.DefaultSelector() as selector:
            selector.register(end.fileno(), selectors.EVENT_READ)
            _expect(bool(selector.select(self.patience_s)), f"nothing happened on {end.description} for {self.patience_s:g} s")

    def receive(self, end: Transport, size: int = _RECEIVE_BYTES) -> bytes:
        """Return the next bytes, or ``b""`` at the end of the stream."""
        deadline = time.monotonic() + self.patience_s
        while True:
            if not end.pending():
                # What waits inside can't be seen here: with pending() False it must all be in the descriptor.
                self.wait(end)
            data = end.receive(size)
            if data is not None:
                _expect(len(data) <= size, f"receive({size}) must return at most {size} bytes, it returned {len(data)}")
                return data
            _expect(time.monotonic() < deadline, f"receive() returned nothing for {self.patience_s:g} s, although something was sent")

    def receive_until(self, end: Transport, arrived: bytearray, size: int, step: int = _RECEIVE_BYTES) -> None:
        while len(arrived) < size:
            piece = self.receive(end, step)
            _expect(piece != b"", "the stream must not end before it is closed")
            arrived += piece

    def send_all(self, data: bytes | bytearray | memoryview, arrived: bytearray) -> None:
        """Send everything from here, and receive there what has to make room for it."""
        sent = 0
        while sent < len(data):
            taken = self.here.send(data[sent:])
            _expect(0 <= taken <= len(data) - sent, f"send() must return how much of the {len(data) - sent} bytes it took, not {taken}")
            sent += taken
            if not taken:
                self.receive_until(self.there, arrived, len(arrived) + 1)

    def fill(self, data: bytes) -> int:
        """Send ``data`` over and over until nothing is taken any more, and return how many bytes were."""
        total = 0
        while True:
            # Always as much as before: what is offered again must not be shorter.
            offered = total % len(data)
            taken = self.here.send(data[offered:] + data[:offered])
            if not taken:
                return total
            total += taken
            _expect(total < _UNREAD_BYTES_MAX, f"send() must return 0 some time when the peer doesn't read, it took {total} bytes")


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _check_quiet(pair: _Pair) -> None:
    for end in (pair.here, pair.there):
        _expect(bool(end.description), "description must say where the connection leads, it is empty")
        data = end.receive(_RECEIVE_BYTES)
        while data is None and end.pending():
            data = end.receive(_RECEIVE_BYTES)
        _expect(data is None, f"receive() must return None when nothing was sent, it returned {data!r}")
        _expect(not end.wants_write(), "wants_write() must be False when nothing waits to be sent")


def _check_whole(pair: _Pair) -> None:
    pattern = bytes(range(251))
    for data in (b"x", bytearray(b"bytearray"), memoryview(b"memoryview")[3:], pattern * 70, pattern * 6000):
        arrived = bytearray()
        pair.send_all(data, arrived)
        pair.receive_until(pair.there, arrived, len(data))
        _expect(arrived == data, f"{len(data)} bytes of {type(data).__name__} must arrive as they were sent, in order")


def _check_small_reads(pair: _Pair) -> None:
    data = bytes(range(250)) * 3
    arrived = bytearray()
    pair.send_all(data, arrived)
    pair.receive_until(pair.there, arrived, len(data), step=7)
    _expect(arrived == data, "small reads must return all bytes, in order")


def _check_would_block(pair: _Pair) -> None:
    data = bytes(range(251)) * 1024
    taken = pair.fill(data)
    at = taken % len(data)
    _expect(pair.here.send(data[at:] + data) == 0, "send() must return 0 again while the peer doesn't read")
    # What had no room, which must be offered again, and a little more.
    rest = data[at:] + data[:at] + b"more"
    arrived = bytearray()
    pair.send_all(rest, arrived)
    whole = data * (taken // len(data)) + data[:at] + rest
    pair.receive_until(pair.there, arrived, len(whole))
    _expect(arrived == whole, "nothing may be lost, repeated or reordered by a send() that had to wait")


def _check_end(pair: _Pair) -> None:
    _expect(pair.here.send(b"the end") == 7, "send() must take 7 bytes on a fresh connection")
    pair.here.close()
    arrived = bytearray()
    while piece := pair.receive(pair.there):
        arrived += piece
    _expect(arrived == b"the end", f"what was sent before close() must arrive, {bytes(arrived)!r} did")
    _expect(pair.receive(pair.there) == b"", "the end of the stream must stay: receive() returns b'' again")


def _check_close(pair: _Pair) -> None:
    end = pair.here
    for _ in range(3):
        end.close()
    _expect(end.fileno() < 0, "fileno() must be negative after close()")
    _expect(not end.pending(), "pending() must be False after close()")
    _expect(_fails(lambda: end.receive(1)), "receive() must raise OSError after close()")
    _expect(_fails(lambda: end.send(b"x")), "send() must raise OSError after close()")


def _check_close_unread(pair: _Pair) -> None:
    pair.fill(bytes(_RECEIVE_BYTES))
    began = time.monotonic()
    pair.here.close()
    _expect(time.monotonic() - began < pair.patience_s, "close() must not wait for a peer that doesn't read")


def _fails(call: Callable[[], object]) -> bool:
    try:
        call()
    except OSError:
        return True
    return False
