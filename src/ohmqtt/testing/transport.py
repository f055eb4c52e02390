"""Check that a transport keeps what the client relies upon: `check_transport`, for every implementation of ``ohmqtt.transport.Transport``.

Owns no socket: the caller's ``make_pair`` connects two ends. Needs no test framework; a failure is an ``AssertionError`` that says what
was expected. It waits for descriptors, never for a time, and gives up after ten seconds without progress.
"""

from __future__ import annotations

import selectors
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ohmqtt.transport import Transport

__all__ = ["check_transport"]

_PATIENCE_S = 10.0
#: For a transport without a descriptor, which can't be waited for.
_PAUSE_S = 0.001
#: More than a system keeps for a peer that doesn't read; a transport that takes this much never says no.
_UNREAD_BYTES_MAX = 1 << 26
_RECEIVE_BYTES = 65536


def check_transport(make_pair: Callable[[], tuple[Transport, Transport]]) -> None:
    """Check a transport against the protocol: whole bytes in order, would-block, small reads, the end of the stream, closing.

    ``make_pair`` returns the two ends of a new connection, handshakes done. It is called several times, and each end is checked in
    both roles. An end whose ``fileno()`` is negative (in memory) is asked again and again instead of being waited for.

    Raises ``AssertionError`` with what was expected and what was found.
    """
    for check in (_check_quiet, _check_whole, _check_small_reads, _check_would_block, _check_end, _check_close, _check_close_unread):
        for swapped in (False, True):
            ends = make_pair()
            try:
                check(*(reversed(ends) if swapped else ends))
            finally:
                for end in ends:
                    end.close()


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _check_quiet(here: Transport, there: Transport) -> None:
    for end in (here, there):
        _expect(bool(end.description), "description must say where the connection leads, it is empty")
        data = _settle(end)
        _expect(data is None, f"receive() must return None when nothing was sent, it returned {data!r}")
        _expect(not end.pending(), "pending() must be False after receive() returned None")
        _expect(not end.wants_write(), "wants_write() must be False when nothing waits to be sent")


def _check_whole(here: Transport, there: Transport) -> None:
    pattern = bytes(range(251))
    for data in (b"x", bytearray(b"bytearray"), memoryview(b"memoryview")[3:], pattern * 70, pattern * 6000):
        arrived = _carry(here, there, data)
        _expect(arrived == data, f"{len(data)} bytes of {type(data).__name__} must arrive as they were sent, in order")
    _expect(_carry(there, here, b"back") == b"back", "bytes must travel both ways")


def _check_small_reads(here: Transport, there: Transport) -> None:
    data = bytes(range(250)) * 3
    _send_all(here, data, there, bytearray())
    arrived = bytearray()
    while len(arrived) < len(data):
        if not there.pending():
            # What waits inside can't be seen here: with pending() False it must all be in the descriptor.
            _wait(there, selectors.EVENT_READ)
        piece = there.receive(7)
        _expect(piece != b"", "the stream must not end before it is closed")
        _expect(piece is None or len(piece) <= 7, "receive(7) must return at most 7 bytes")
        arrived += piece or b""
    _expect(arrived == data, "small reads must return all bytes, in order")


def _check_would_block(here: Transport, there: Transport) -> None:
    data = bytes(range(256)) * 1024
    taken = _fill(here, data)
    _expect(here.send(data[taken % len(data) :] + data) == 0, "send() must return 0 again while the peer doesn't read")
    arrived = bytearray()
    # The rest of the piece that could not be sent, and a little more: what is offered again begins with the same bytes.
    rest = data[taken % len(data) :] + b"more"
    _send_all(here, rest, there, arrived)
    expected_size = taken + len(rest)
    while len(arrived) < expected_size:
        arrived += _receive(there)
    whole = data * (taken // len(data)) + data[: taken % len(data)] + rest
    _expect(arrived == whole, "nothing may be lost, repeated or reordered by a send() that had to wait")


def _check_end(here: Transport, there: Transport) -> None:
    _expect(here.send(b"the end") == 7, "send() must take 7 bytes on a fresh connection")
    here.close()
    arrived = bytearray()
    while True:
        piece = _receive(there)
        if not piece:
            break
        arrived += piece
    _expect(arrived == b"the end", f"what was sent before close() must arrive, {bytes(arrived)!r} did")
    _expect(there.receive(_RECEIVE_BYTES) == b"", "the end of the stream must stay: receive() returns b'' again")


def _check_close(here: Transport, _there: Transport) -> None:
    for _ in range(3):
        here.close()
    _expect(here.fileno() < 0, "fileno() must be negative after close()")
    _expect(not here.pending(), "pending() must be False after close()")
    for name, call in (("receive", lambda: here.receive(1)), ("send", lambda: here.send(b"x"))):
        try:
            result = call()
        except OSError:
            continue
        raise AssertionError(f"{name}() must raise OSError after close(), it returned {result!r}")


def _check_close_unread(here: Transport, _there: Transport) -> None:
    _fill(here, bytes(_RECEIVE_BYTES))
    began = time.monotonic()
    here.close()
    _expect(time.monotonic() - began < _PATIENCE_S / 2, "close() must not wait for a peer that doesn't read")


def _wait(end: Transport, event: int) -> None:
    if end.fileno() < 0:
        time.sleep(_PAUSE_S)
        return
    with selectors.DefaultSelector() as selector:
        selector.register(end.fileno(), event)
        _expect(bool(selector.select(_PATIENCE_S)), f"nothing happened on {end.description} for {_PATIENCE_S:g} s")


def _settle(end: Transport) -> bytes | None:
    """Receive until nothing is left that the transport itself deals with."""
    data = end.receive(_RECEIVE_BYTES)
    while data is None and end.pending():
        data = end.receive(_RECEIVE_BYTES)
    return data


def _receive(end: Transport) -> bytes:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        data = end.receive(_RECEIVE_BYTES)
        if data is not None:
            return data
        _wait(end, selectors.EVENT_READ)
    raise AssertionError(f"receive() returned nothing for {_PATIENCE_S:g} s, although something was sent")


def _send_all(sender: Transport, data: bytes | bytearray | memoryview, receiver: Transport, arrived: bytearray) -> None:
    """Send everything, and receive what has to make room for it."""
    sent = 0
    while sent < len(data):
        taken = sender.send(data[sent:])
        _expect(0 <= taken <= len(data) - sent, f"send() must return how much of the {len(data) - sent} bytes it took, not {taken}")
        sent += taken
        if not taken:
            arrived += receiver.receive(_RECEIVE_BYTES) or b""


def _carry(sender: Transport, receiver: Transport, data: bytes | bytearray | memoryview) -> bytes:
    arrived = bytearray()
    _send_all(sender, data, receiver, arrived)
    while len(arrived) < len(data):
        piece = _receive(receiver)
        _expect(piece != b"", "the stream must not end before it is closed")
        arrived += piece
    return bytes(arrived)


def _fill(sender: Transport, data: bytes) -> int:
    """Send ``data`` over and over until nothing is taken any more, and return how many bytes were."""
    total = 0
    while True:
        # Two copies: what is offered again is never shorter than before.
        taken = sender.send((data * 2)[total % len(data) :][: len(data)])
        if not taken:
            return total
        total += taken
        _expect(total < _UNREAD_BYTES_MAX, f"send() must return 0 some time when the peer doesn't read, it took {total} bytes")
