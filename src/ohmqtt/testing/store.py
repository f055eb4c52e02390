"""Check that a store keeps what the client relies upon: `check_store`, for every implementation of ``ohmqtt.store.Store``.

Owns no fixture and no file: the caller's ``make`` opens the storage. Needs no test framework; a failure is an ``AssertionError`` that
says what was expected.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ohmqtt.errors import StoreError
from ohmqtt.journal import DELETE, FORGET, IDENTITY, INSERT, RECEIVE, RELEASE, REQUEUE, SEND, SESSION, StoredMessage, StoredState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ohmqtt.store import Store

__all__ = ["check_store"]

_ALL = 1 << 30  # a bound that nothing here reaches
_HARDLY_S = 60.0  # a check takes less


def check_store(make: Callable[[], Store], *, advance_clock: Callable[[float], None] | None = None) -> None:
    """Check a store against the protocol: order, atomicity, restarts, windows of the queue, expiry.

    ``make`` opens the storage; the first call finds it empty, each later one (always after ``close``) finds what the one before left.
    ``advance_clock`` moves the wall clock that the store reads by some seconds; without it, nothing is checked about ageing.

    Raises ``AssertionError`` with what was expected and what was found.
    """
    probe = _Probe(make)
    _check_empty(probe)
    _check_texts(probe)
    _check_messages(probe)
    _check_order(probe)
    _check_windows(probe)
    _check_received(probe)
    _check_atomicity(probe)
    _check_leniency(probe)
    _check_next_sequence(probe)
    if advance_clock is not None:
        _check_expiry(probe, advance_clock)
    _check_close(probe)


class _Probe:
    """The store under test, reopened at will, and the next sequence number that nobody used yet."""

    def __init__(self, make: Callable[[], Store]) -> None:
        self._make = make
        self.store = make()
        self.sequence = 0

    def reopen(self) -> StoredState:
        self.store.close()
        self.store = self._make()
        return self.store.load()

    def commit(self, *journal: tuple[Any, ...]) -> None:
        self.store.commit(journal)

    def message(self, packet_id: int = 0, payload: bytes = b"payload", expiry_s: float | None = None) -> StoredMessage:
        self.sequence += 1
        return StoredMessage(self.sequence, packet_id, 0, 1, False, "some/topic", b"\0", payload, 0, expiry_s)

    def queued(self, after_sequence: int = 0, messages_max: int = _ALL, bytes_max: int = _ALL) -> list[StoredMessage]:
        return self.store.load_queued(after_sequence, messages_max, bytes_max)

    def refuse(self, what: str, *journal: tuple[Any, ...]) -> None:
        try:
            self.store.commit(journal)
        except StoreError:
            return
        raise AssertionError(f"{what} must raise StoreError, and was accepted")

    def clear(self) -> None:
        state = self.store.load()
        sequences = [message.sequence for message in state.in_flight + self.queued()]
        self.store.commit([(DELETE, sequence) for sequence in sequences] + [(FORGET, packet_id) for packet_id in state.received])


def _equal(what: str, found: object, expected: object) -> None:
    assert found == expected, f"{what}:\n  expected {expected!r}\n  found    {found!r}"


def _young(found: list[StoredMessage], kept: list[StoredMessage]) -> list[StoredMessage]:
    """Give back to what has hardly aged since it was committed what time took from it."""
    for message, before in zip(found, kept):
        if message.expiry_s is not None and before.expiry_s is not None and 0 <= before.expiry_s - message.expiry_s < _HARDLY_S:
            message.expiry_s = before.expiry_s
    return found


def _sequences(messages: Sequence[StoredMessage]) -> list[int]:
    return [message.sequence for message in messages]


def _check_empty(probe: _Probe) -> None:
    expected = StoredState(None, None, 1, [], [], 0, 0)
    _equal("a new store", probe.store.load(), expected)
    _equal("the queue of a new store", probe.queued(), [])
    probe.commit()
    _equal("a new store after an empty journal and a restart", probe.reopen(), expected)


def _check_texts(probe: _Probe) -> None:
    text = '{"epoch": 7, "name": "Ω\\n \U0001f98a"}'
    probe.commit((IDENTITY, "Ω client"), (SESSION, text))
    for when, state in (("at once", probe.store.load()), ("after a restart", probe.reopen())):
        _equal(f"the client identifier {when}", state.client_id, "Ω client")
        _equal(f"the session text {when}", state.session, text)
    probe.commit((SESSION, "first"), (SESSION, "second"), (IDENTITY, ""))
    state = probe.reopen()
    _equal("the session text that was stored twice in one journal", state.session, "second")
    _equal("an empty client identifier (not the same as none)", state.client_id, "")


def _check_messages(probe: _Probe) -> None:
    probe.sequence += 3
    first = probe.sequence - 2
    kept = [
        StoredMessage(first, 0, 0, 0, False, "a", b"\0", b"", 0, None),
        StoredMessage(first + 1, 0, 0, 1, True, "Ω/\U0001f98a/ ", b"\x05\x02\0\0\0\x09", bytes(range(256)) * 300, 1, 9),
        StoredMessage(first + 2, 65535, 3, 2, False, "x" * 65535, b"\0", b"\0\xff", 2, 0xFFFF_FFFF),
    ]
    probe.commit(*[(INSERT, message) for message in kept])
    size = sum(len(message.topic.encode()) + len(message.properties) + len(message.payload) for message in kept[:2])
    for when, state in (("at once", probe.store.load()), ("after a restart", probe.reopen())):
        _equal(f"the messages never sent {when}", _young(probe.queued(), kept), kept[:2])
        _equal(f"the messages in flight {when}", _young(state.in_flight, kept[2:]), kept[2:])
        _equal(f"queued_messages {when}", state.queued_messages, 2)
        _equal(f"queued_bytes {when} (topic, properties, payload)", state.queued_bytes, size)
        assert all(type(message.retain) is bool for message in probe.queued()), "retain must come back as a bool"
        _equal(f"next_sequence {when}", state.next_sequence, first + 3)
    probe.clear()


def _check_order(probe: _Probe) -> None:
    # Packet identifiers go down while sequence numbers go up: an order taken from the identifiers shows.
    messages = [probe.message() for _ in range(5)]
    first = messages[0].sequence
    probe.commit(*[(INSERT, message) for message in reversed(messages)])
    probe.commit(*[(SEND, first + n, 500 - 100 * n) for n in range(4)])
    probe.commit((RELEASE, first + 2, 1), (RELEASE, first, 1 << 40))
    for when, state in (("at once", probe.store.load()), ("after a restart", probe.reopen())):
        _equal(f"the order of the messages in flight {when}", _sequences(state.in_flight), [first, first + 1, first + 2, first + 3])
        _equal(f"their packet identifiers {when}", [message.packet_id for message in state.in_flight], [500, 400, 300, 200])
        _equal(f"the order numbers of their PUBRECs {when}", [message.released for message in state.in_flight], [1 << 40, 0, 1, 0])
        _equal(f"the messages never sent {when}", _sequences(probe.queued()), [first + 4])
        _equal(f"queued_messages {when}", state.queued_messages, 1)
    probe.commit((REQUEUE, first + 3), (REQUEUE, first))
    state = probe.reopen()
    _equal("the messages in flight after REQUEUE", _sequences(state.in_flight), [first + 1, first + 2])
    _equal("the messages never sent after REQUEUE", _sequences(probe.queued()), [first, first + 3, first + 4])
    _equal("packet_id and released after REQUEUE", [(m.packet_id, m.released) for m in probe.queued()], [(0, 0)] * 3)
    # One journal takes a message through its whole life, in the order written.
    message = probe.message()
    probe.commit(
        (INSERT, message),
        (SEND, message.sequence, 7),
        (RELEASE, message.sequence, 2),
        (REQUEUE, message.sequence),
        (SEND, message.sequence, 8),
    )
    found = probe.reopen().in_flight[-1]
    _equal(
        "INSERT, SEND, RELEASE, REQUEUE, SEND in one journal", (found.sequence, found.packet_id, found.released), (message.sequence, 8, 0)
    )
    probe.clear()
    _equal("the state after everything was deleted", probe.reopen().in_flight + probe.queued(), [])


def _check_windows(probe: _Probe) -> None:
    messages = [probe.message(payload=b"x" * 100) for _ in range(20)]
    first, size = messages[0].sequence, len("some/topic") + 1 + 100
    probe.commit(*[(INSERT, message) for message in messages])
    probe.commit(*[(SEND, first + n, n) for n in (1, 2, 5)])
    waiting = [first + n for n in range(20) if n not in (1, 2, 5)]
    _equal("load_queued leaves out what is in flight", _sequences(probe.queued()), waiting)
    _equal("load_queued after a sequence number", _sequences(probe.queued(after_sequence=first + 4)), waiting[3:])
    _equal("load_queued with messages_max", _sequences(probe.queued(messages_max=4)), waiting[:4])
    _equal("load_queued with bytes_max just enough for three", _sequences(probe.queued(bytes_max=3 * size)), waiting[:3])
    _equal("load_queued with bytes_max one byte short of three", _sequences(probe.queued(bytes_max=3 * size - 1)), waiting[:2])
    _equal("load_queued gives one message, however large", _sequences(probe.queued(bytes_max=1)), waiting[:1])
    _equal("load_queued after the last one", probe.queued(after_sequence=first + 19), [])
    seen: list[int] = []
    while window := probe.queued(after_sequence=seen[-1] if seen else 0, messages_max=3):
        seen += _sequences(window)
    _equal("the queue read window by window", seen, waiting)
    probe.clear()


def _check_received(probe: _Probe) -> None:
    probe.commit((RECEIVE, 9), (RECEIVE, 65535), (RECEIVE, 1))
    _equal("received identifiers, in order of arrival", probe.store.load().received, [9, 65535, 1])
    _equal("received identifiers after a restart", probe.reopen().received, [9, 65535, 1])
    probe.commit((FORGET, 9), (RECEIVE, 5), (RECEIVE, 9))
    _equal("an identifier that was forgotten and came again is the last", probe.reopen().received, [65535, 1, 5, 9])
    message = probe.message(packet_id=5)
    probe.commit((INSERT, message), (FORGET, 5))
    state = probe.reopen()
    _equal("the identifiers of the two directions have nothing to do with each other", _sequences(state.in_flight), [message.sequence])
    _equal("received identifiers after FORGET", state.received, [65535, 1, 9])
    probe.clear()
    _equal("received identifiers after all were forgotten", probe.reopen().received, [])


def _check_atomicity(probe: _Probe) -> None:
    queued, flying = probe.message(), probe.message(packet_id=3)
    probe.commit((INSERT, queued), (INSERT, flying), (RECEIVE, 4), (IDENTITY, "before"), (SESSION, "before"))
    before, before_queued = probe.store.load(), probe.queued()
    unknown = probe.sequence + 1_000
    changes: list[tuple[Any, ...]] = [
        (INSERT, probe.message()),
        (SEND, queued.sequence, 9),
        (REQUEUE, flying.sequence),
        (RELEASE, flying.sequence, 1),
        (RECEIVE, 5),
        (FORGET, 4),
        (IDENTITY, "after"),
        (SESSION, "after"),
        (DELETE, flying.sequence),
    ]
    failures: list[tuple[str, tuple[Any, ...]]] = [
        ("INSERT of a sequence number that is there", (INSERT, queued)),
        ("SEND of a message that isn't there", (SEND, unknown, 1)),
        ("REQUEUE of a message that isn't there", (REQUEUE, unknown)),
        ("RELEASE of a message that isn't there", (RELEASE, unknown, 1)),
        ("an entry of an unknown kind", (99, 1)),
    ]
    for what, failure in failures:
        probe.refuse(what, failure)
        probe.refuse(what + ", last in a journal", *changes, failure)
        probe.refuse(what + ", first in a journal", failure, *changes)
        _equal(f"the state after a journal was refused ({what})", probe.store.load(), before)
        _equal(f"the queue after a journal was refused ({what})", probe.queued(), before_queued)
    _equal("the state after refused journals and a restart", probe.reopen(), before)
    probe.commit(*changes)  # and the same journal without the failure is fine
    state = probe.reopen()
    _equal("the journal without its bad entry", (state.client_id, state.session, state.received), ("after", "after", [5]))
    _equal("the journal without its bad entry, in flight", _sequences(state.in_flight), [queued.sequence])
    probe.clear()


def _check_leniency(probe: _Probe) -> None:
    probe.commit((RECEIVE, 8), (RECEIVE, 9))
    before = probe.store.load()
    probe.commit((DELETE, probe.sequence + 1_000), (FORGET, 7), (RECEIVE, 8))
    _equal("DELETE and FORGET of what isn't there, RECEIVE of what is", probe.reopen(), before)
    probe.clear()


def _check_next_sequence(probe: _Probe) -> None:
    probe.clear()
    probe.sequence += 1_000  # a gap is fine
    message = probe.message()
    probe.commit((INSERT, message))
    _equal("next_sequence after a gap", probe.reopen().next_sequence, message.sequence + 1)
    probe.commit((DELETE, message.sequence))
    for when in ("at once", "after one restart", "after another"):
        found = probe.store.load().next_sequence if when == "at once" else probe.reopen().next_sequence
        assert found > message.sequence, f"next_sequence went back {when}, when the last row was deleted: {found} ≤ {message.sequence}"
    kept, gone = probe.message(), probe.message()
    probe.commit((INSERT, kept), (INSERT, gone), (DELETE, gone.sequence))
    found = probe.reopen().next_sequence
    assert found > gone.sequence, f"next_sequence went back when a message came and went in one journal: {found} ≤ {gone.sequence}"
    probe.commit((DELETE, kept.sequence))
    found = probe.reopen().next_sequence
    assert found > gone.sequence, f"next_sequence went back when an older row was deleted: {found} ≤ {gone.sequence}"
    probe.sequence = 1 << 40
    message = probe.message()
    probe.commit((INSERT, message))
    _equal("sequence numbers beyond 32 bits", probe.reopen().next_sequence, message.sequence + 1)
    probe.clear()


def _check_expiry(probe: _Probe, advance_clock: Callable[[float], None]) -> None:
    probe.commit((INSERT, probe.message(expiry_s=100)), (INSERT, probe.message(packet_id=1, expiry_s=30)), (INSERT, probe.message()))

    def left() -> list[float | None]:
        state = probe.reopen()
        return [message.expiry_s for message in state.in_flight + probe.queued()]

    _equal("seconds left, at once", left(), [30, 100, None])
    advance_clock(20)
    _equal("seconds left, after 20 s away", left(), [10, 80, None])
    advance_clock(20)
    _equal("seconds left, after 40 s away (0: expired, and still there)", left(), [0, 60, None])
    advance_clock(-1_000_000)
    found = left()
    assert found in ([30, 100, None], [0, 60, None]), f"a clock that was set back must make no message live longer than new: {found}"
    advance_clock(1_000_000)
    probe.clear()


def _check_close(probe: _Probe) -> None:
    message = probe.message()
    probe.commit((INSERT, message))
    probe.store.close()
    probe.store.close()
    _equal("the queue after close was called twice", (probe.reopen().queued_messages, _sequences(probe.queued())), (1, [message.sequence]))
    probe.clear()
    probe.store.close()
