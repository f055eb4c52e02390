"""What a simulated client lives in: a network, a disk and a sleep that are made up, and do what the story says.

Owns bytes on their way in either direction, and what a disk would still know after a power cut. It decides nothing: where something can
happen in real life beside the client, it asks the story (`Surroundings.pause`).
"""

from __future__ import annotations

import selectors
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from typing import Any, ClassVar, Protocol

from ohmqtt.errors import StoreError
from ohmqtt.journal import DELETE, FORGET, IDENTITY, INSERT, RECEIVE, RELEASE, REQUEUE, SEND, SESSION, StoredMessage, StoredState

__all__ = ["BlockedError", "CrashedError", "Disk", "Image", "Pipe", "Row", "Selector", "StoreOfProcess", "Surroundings", "Violation"]

Journal = Sequence[tuple[Any, ...]]


class Violation(AssertionError):
    """A promise was broken. Whoever swallows it does not make it undone: it is kept in ``raised``."""

    raised: ClassVar[list[Violation]] = []

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.raised.append(self)


class CrashedError(BaseException):
    """The process of the client has died in the middle of what it was doing."""


class BlockedError(BaseException):
    """The call waits for something that another thread has to do first: its thread stands still here."""


class Surroundings(Protocol):
    """The story, as the surroundings see it."""

    now: float

    def pause(self, place: str) -> None:
        """Whatever the story wants to happen while the client is at `place`."""

    def sleep(self, timeout: float, is_ready: Callable[[], bool]) -> None:
        """The client sleeps until `is_ready`, or for `timeout` seconds."""

    def look(self) -> None:
        """The client looks whether something is ready, and does not sleep."""

    def offered(self, pipe: Pipe, data: bytes) -> None:
        """The client has handed these bytes to the socket for the first time."""

    def before_commit(self, store: StoreOfProcess, journal: Journal) -> None:
        """Something is about to be committed: raise what the disk or fate says to that."""

    def after_commit(self, store: StoreOfProcess) -> None:
        """It is on disk, and the call has not returned."""

    def before_load(self) -> None:
        """Rows are about to be read."""


# ---- the network ------------------------------------------------------------------------------------------------------------------------


class Pipe:
    """A network connection: what `ohmqtt.transport.Transport` asks for at the client's end, bytes on their way, and the server's end."""

    def __init__(self, number: int, world: Surroundings, owner: int, is_first: bool) -> None:
        self.number = number
        # Which process of the client it is of, and whether that has had none before.
        self.owner = owner
        self.is_first = is_first
        self.world = world
        self.description = f"pipe {number}"
        # Sent and not arrived; arrived and not read.
        self.up = bytearray()
        self.down = bytearray()
        self.readable = bytearray()
        # How much the client can send before the socket is full; None: no end of it.
        self.room: int | None = None
        # What the client reads behind what has arrived: the end of the stream, or an error.
        self.end_for_client: OSError | bool = False
        self.closed_by_client = False
        self.closed_by_server = False
        self.frozen = False
        self.is_cut = False
        self.taken_bytes = 0
        self.offered_bytes = 0
        self.opened_at = self.last_read_at = world.now

    # The client's end.

    def fileno(self) -> int:
        return 1_000 + self.number

    def pending(self) -> bool:
        return False

    def wants_write(self) -> bool:
        return False

    def receive(self, size: int) -> bytes | None:
        assert not self.closed_by_client
        if self.readable:
            data = bytes(self.readable[:size])
            del self.readable[:size]
            self.last_read_at = self.world.now
            return data
        if self.end_for_client is False:
            return None
        if self.end_for_client is True:
            return b""
        raise self.end_for_client

    def send(self, data: bytes | bytearray | memoryview) -> int:
        assert not self.closed_by_client
        new = self.taken_bytes + len(data) - self.offered_bytes
        if new > 0:
            self.offered_bytes += new
            self.world.offered(self, bytes(data[len(data) - new :]))
        self.world.pause("send")
        if self.end_for_client is not False:
            raise self.end_for_client if isinstance(self.end_for_client, OSError) else ConnectionResetError("reset by peer")
        count = len(data) if self.room is None else min(len(data), self.room)
        self.up += data[:count]
        self.taken_bytes += count
        if self.room is not None:
            self.room -= count
        return count

    def close(self) -> None:
        self.closed_by_client = True

    # Looked at by the selector.

    def is_ready(self, events: int) -> int:
        mask = 0
        if events & selectors.EVENT_READ and (self.readable or self.end_for_client is not False):
            mask = selectors.EVENT_READ
        if events & selectors.EVENT_WRITE and (self.room is None or self.room > 0 or self.end_for_client is not False):
            mask |= selectors.EVENT_WRITE
        return mask

    # In between.

    def is_heard_out(self) -> bool:
        """Return whether the client has read all that the server has sent."""
        return not (self.is_cut or self.down or self.readable)

    def arrive_at_client(self, count: int) -> None:
        if self.end_for_client is not False:
            self.down.clear()
            return
        self.readable += self.down[:count]
        del self.down[:count]
        if self.closed_by_server and not self.down:
            self.end_for_client = True

    def break_for_client(self, error: OSError | bool) -> None:
        """The client hears of the end as soon as it has read what arrived."""
        self.is_cut = True
        self.down.clear()
        if self.end_for_client is False:
            self.end_for_client = error


class Selector(selectors.BaseSelector):
    """What the driver sleeps in. It can wait for pipes; the wake-up's socket is only known by the fact that somebody has woken the driver."""

    def __init__(self, world: Surroundings, pipes: Mapping[int, Pipe], is_woken: Callable[[], bool]) -> None:
        self._world = world
        self._pipes = pipes
        self._is_woken = is_woken
        self._keys: dict[Any, selectors.SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        if fileobj in self._keys:
            raise KeyError(f"{fileobj!r} is registered already")
        self._keys[fileobj] = key = selectors.SelectorKey(fileobj, fileobj if isinstance(fileobj, int) else 0, events, data)
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._keys.pop(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        self.unregister(fileobj)
        return self.register(fileobj, events, data)

    def get_map(self) -> Any:
        return self._keys

    def close(self) -> None:
        self._keys.clear()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._ready()
        if not ready and (timeout is None or timeout > 0):
            self._world.sleep(3_600.0 if timeout is None else timeout, self._is_ready)
            ready = self._ready()
        elif not ready:
            self._world.look()
        return ready

    def _is_ready(self) -> bool:
        return self._is_woken() or bool(self._ready())

    def _ready(self) -> list[tuple[selectors.SelectorKey, int]]:
        found: list[tuple[selectors.SelectorKey, int]] = []
        for fileobj, key in self._keys.items():
            pipe = self._pipes.get(fileobj)
            if pipe is not None:
                mask = pipe.is_ready(key.events)
                if mask:
                    found.append((key, mask))
        return found


# ---- the disk ---------------------------------------------------------------------------------------------------------------------------


class Row:
    """A stored publication."""

    __slots__ = ("message", "number", "packet_id", "released", "stored_at")

    def __init__(self, message: StoredMessage, stored_at: float) -> None:
        self.message = message
        self.number = int(message.payload.split(b" ", 1)[0])
        self.packet_id = message.packet_id
        self.released = message.released
        self.stored_at = stored_at

    def restored(self, now: float) -> StoredMessage:
        """Return the row as a store gives it back."""
        message = copy(self.message)
        message.packet_id = self.packet_id
        message.released = self.released
        if message.expiry_s is not None:
            message.expiry_s = max(0, message.expiry_s - (now - self.stored_at))
        return message


class Image:
    """What is in a database."""

    __slots__ = ("client_id", "next_sequence", "received", "rows", "session")

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.received: dict[int, None] = {}
        self.client_id: str | None = None
        self.session: str | None = None
        self.next_sequence = 1

    def copy(self) -> Image:
        image = Image()
        image.rows = {sequence: copy(row) for sequence, row in self.rows.items()}
        image.received = dict(self.received)
        image.client_id, image.session, image.next_sequence = self.client_id, self.session, self.next_sequence
        return image

    def apply(self, journal: Journal, now: float) -> None:
        """Apply a journal, and be strict about what it may say."""
        rows = self.rows
        for entry in journal:
            kind = entry[0]
            about = entry[1]
            if kind == INSERT:
                if about.sequence in rows or about.sequence < self.next_sequence:
                    raise Violation(f"the journal inserts sequence number {about.sequence}, which was there before")
                rows[about.sequence] = Row(about, now)
                self.next_sequence = about.sequence + 1
            elif kind == DELETE:
                rows.pop(about, None)
            elif kind == RECEIVE:
                self.received[about] = None
            elif kind == FORGET:
                self.received.pop(about, None)
            elif kind == IDENTITY:
                self.client_id = about
            elif kind == SESSION:
                self.session = about
            else:
                row = rows.get(about)
                if row is None:
                    raise Violation(f"the journal says {entry!r}, and there is no such row")
                if kind == SEND:
                    row.packet_id = entry[2]
                elif kind == RELEASE:
                    row.released = entry[2]
                elif kind == REQUEUE:
                    row.packet_id = row.released = 0
                else:
                    raise Violation(f"the journal says {entry!r}, which means nothing")


class Disk:
    """What outlives the processes: an image that the operating system has, and one that is on the platter."""

    def __init__(self, fast: bool) -> None:
        self.fast = fast
        self.volatile = Image()
        self.durable = Image() if fast else self.volatile
        # Committed, and perhaps not on the platter.
        self.unsynced: list[tuple[Journal, float]] = []

    def commit(self, journal: Journal, now: float) -> None:
        self.volatile.apply(journal, now)
        if self.fast:
            self.unsynced.append((list(journal), now))

    def sync(self, count: int) -> None:
        """The first `count` of the unsynced transactions reach the platter."""
        for journal, now in self.unsynced[:count]:
            self.durable.apply(journal, now)
        del self.unsynced[:count]

    def power_cut(self, kept: int) -> int:
        """Only the first `kept` of the unsynced transactions survive; return how many don't."""
        self.sync(kept)
        lost = len(self.unsynced)
        if self.fast:
            self.unsynced.clear()
            self.volatile = self.durable.copy()
        return lost


class StoreOfProcess:
    """The disk as one process of the client sees it (`ohmqtt.store.Store`)."""

    def __init__(self, disk: Disk, world: Surroundings) -> None:
        self._disk = disk
        self._world = world
        self.dead = False
        self.closed = False

    def load(self) -> StoredState:
        image, now = self._disk.volatile, self._world.now
        in_flight = [row.restored(now) for _, row in sorted(image.rows.items()) if row.packet_id]
        queued = [row.message for row in image.rows.values() if not row.packet_id]
        size = sum(len(message.topic.encode()) + len(message.properties) + len(message.payload) for message in queued)
        return StoredState(image.client_id, image.session, image.next_sequence, in_flight, list(image.received), len(queued), size)

    def load_queued(self, after_sequence: int, messages_max: int, bytes_max: int) -> list[StoredMessage]:
        self._check()
        self._world.before_load()
        found: list[StoredMessage] = []
        for sequence, row in sorted(self._disk.volatile.rows.items()):
            if sequence > after_sequence and not row.packet_id:
                message = row.restored(self._world.now)
                bytes_max -= len(message.topic.encode()) + len(message.properties) + len(message.payload)
                if len(found) >= max(1, messages_max) or (bytes_max < 0 and found):
                    break
                found.append(message)
        return found

    def commit(self, journal: Journal) -> None:
        self._check()
        began = self._world.now
        self._world.before_commit(self, journal)
        self._check()
        self._disk.commit(journal, began)
        self._world.after_commit(self)
        self._check()

    def close(self) -> None:
        self.closed = True

    def _check(self) -> None:
        if self.dead:
            raise CrashedError
        if self.closed:
            raise StoreError("the store is closed")
