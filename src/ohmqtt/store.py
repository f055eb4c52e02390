"""What must outlive the process: the store protocol, the journal that a store applies, and the SQLite store.

Owns the database file, from the moment it is opened until it is closed: one process, one client. It knows nothing of packets, links or
time other than the wall clock that ages the rows while no process is there to do it. It must not decide anything: the session says what
to keep, in a journal; the store makes it durable.

Invariant: a journal is applied whole, in order, before ``commit`` returns, or not at all when it raises. What the file holds is the
result of the first *n* journals for some *n*, never anything between.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import struct
import threading
import time
import weakref
from binascii import crc32
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from .errors import ArgumentError, ForkedError, StateError, StoreDamagedError, StoreError, StoreFormatError, StoreInUseError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "DELETE",
    "FORGET",
    "IDENTITY",
    "INSERT",
    "RECEIVE",
    "RELEASE",
    "REQUEUE",
    "SEND",
    "SESSION",
    "SQLiteStore",
    "Store",
    "StoredMessage",
    "StoredState",
    "set_aside",
]

# Journal entries are tuples; the first element is one of these.
INSERT: Final = 0  # (INSERT, StoredMessage)            a message was accepted
SEND: Final = 1  # (SEND, sequence, packet_id)          queued → in flight
REQUEUE: Final = 2  # (REQUEUE, sequence)               in flight → as if never sent
RELEASE: Final = 3  # (RELEASE, sequence, order)        its PUBREC arrived as the order-th: PUBREL is pending
DELETE: Final = 4  # (DELETE, sequence)                 done, whatever the outcome
RECEIVE: Final = 5  # (RECEIVE, packet_id)              an inbound QoS 2 message arrived
FORGET: Final = 6  # (FORGET, packet_id)                its PUBREL arrived, or the session is gone
IDENTITY: Final = 7  # (IDENTITY, client_id)            the store belongs to this Client Identifier
SESSION: Final = 8  # (SESSION, text)                   whatever else the session wants to find again


class StoredMessage:
    """An outbound message as a store keeps it.

    ``sequence`` orders all messages for ever, 1 … 2⁶³-1. ``packet_id`` is 0 as long as the message was never sent. ``released`` is 0,
    or the order number of its PUBREC: what is pending then is PUBREL. ``properties`` is the encoded block, length included.
    ``expiry_s`` is the rest of the Message Expiry Interval in seconds, 0 if it ran out, ``None`` if there is none.
    """

    __slots__ = ("alias_policy", "expiry_s", "packet_id", "payload", "properties", "qos", "released", "retain", "sequence", "topic")

    def __init__(
        self,
        sequence: int,
        packet_id: int,
        released: int,
        qos: int,
        retain: bool,
        topic: str,
        properties: bytes,
        payload: bytes,
        alias_policy: int = 0,
        expiry_s: int | None = None,
    ) -> None:
        self.sequence = sequence
        self.packet_id = packet_id
        self.released = released
        self.qos = qos
        self.retain = retain
        self.topic = topic
        self.properties = properties
        self.payload = payload
        self.alias_policy = alias_policy
        self.expiry_s = expiry_s

    def _fields(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, StoredMessage) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # a mutable record

    def __repr__(self) -> str:
        return (
            f"StoredMessage({self.sequence}, packet_id={self.packet_id}, released={self.released}, qos={self.qos}, retain={self.retain}, "
            f"topic={self.topic!r}, properties={self.properties!r}, payload={_shorten(self.payload)}, alias_policy={self.alias_policy}, "
            f"expiry_s={self.expiry_s})"
        )


class StoredState:
    """What a store knows when it is opened; the messages that were never sent are only counted.

    ``client_id`` and ``session`` are ``None`` until somebody stored them. ``next_sequence`` is larger than every sequence number that the
    store ever held. ``in_flight`` is ordered by sequence, ``received`` (the identifiers of inbound QoS 2 messages) by arrival.
    ``queued_bytes`` counts topic, properties and payload.
    """

    __slots__ = ("client_id", "in_flight", "next_sequence", "queued_bytes", "queued_messages", "received", "session")

    def __init__(
        self,
        client_id: str | None,
        session: str | None,
        next_sequence: int,
        in_flight: list[StoredMessage],
        received: list[int],
        queued_messages: int,
        queued_bytes: int,
    ) -> None:
        self.client_id = client_id
        self.session = session
        self.next_sequence = next_sequence
        self.in_flight = in_flight
        self.received = received
        self.queued_messages = queued_messages
        self.queued_bytes = queued_bytes

    def _fields(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, StoredState) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # a mutable record

    def __repr__(self) -> str:
        return (
            f"StoredState(client_id={self.client_id!r}, session={self.session!r}, next_sequence={self.next_sequence}, "
            f"in_flight={len(self.in_flight)} messages, received={len(self.received)} identifiers, "
            f"queued_messages={self.queued_messages}, queued_bytes={self.queued_bytes})"
        )


class Store(Protocol):
    """Where a client keeps what must outlive it. Calls are made one at a time, from any thread.

    Check an implementation of your own with :func:`ohmqtt.testing.check_store`.
    """

    def load(self) -> StoredState:
        """Return the whole state, except the messages that were never sent: these are counted, and loaded by ``load_queued``."""
        ...

    def load_queued(self, after_sequence: int, messages_max: int, bytes_max: int) -> list[StoredMessage]:
        """Return the first never-sent messages after a sequence number, in order.

        At most ``messages_max`` of them and ``bytes_max`` bytes (topic, properties and payload), but at least one if there is any.
        """
        ...

    def commit(self, journal: Sequence[tuple[Any, ...]]) -> None:
        """Apply a journal, whole and in order; it is as durable as this store ever makes it when the call returns.

        DELETE and FORGET of what isn't there, and RECEIVE of what is, change nothing. An INSERT of a sequence number that is there,
        and SEND, REQUEUE or RELEASE of one that isn't, are errors.

        Raises :class:`~ohmqtt.StoreError`: then nothing of the journal is applied, and the call may be repeated.
        """
        ...

    def close(self) -> None:
        """Let go of the storage. Never raises; a second call does nothing."""
        ...


def _shorten(payload: bytes) -> str:
    return repr(payload) if len(payload) <= 32 else f"{payload[:32]!r}... ({len(payload)} bytes)"


# --- the SQLite store ---

_APPLICATION_ID: Final = 0x6F515454  # "oQTT", bytes 68 to 71 of the file
_SCHEMA_VERSION: Final = 1
_MAGIC: Final = b"SQLite format 3\0"

# SQLite stores an integer in as few bytes as it needs. What changes in a row, packet_id and released, is shifted to where its width is
# constant (3 and 8 bytes): an UPDATE that doesn't change the length of a row writes only the page with the change, not the whole payload.
_ID_BASE: Final = 1 << 16
_RELEASED_BASE: Final = 1 << 56

# One b-tree without further index: a commit of one message writes one page. Columns that are counted come first, the long ones last.
_SCHEMA: Final = f"""
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_SCHEMA_VERSION};
CREATE TABLE message (
    sequence INTEGER PRIMARY KEY,
    packet_id INTEGER NOT NULL,      -- {_ID_BASE} + packet identifier; {_ID_BASE}: never sent
    released INTEGER NOT NULL,       -- 2^56 + order of its PUBREC; 2^56: none yet
    size INTEGER NOT NULL,           -- bytes of topic, properties and payload
    qos INTEGER NOT NULL,
    retain INTEGER NOT NULL,
    alias_policy INTEGER NOT NULL,
    expiry_s INTEGER,                -- seconds that were left at stored_at
    stored_at REAL,                  -- wall clock, only with expiry_s
    checksum INTEGER NOT NULL,       -- CRC-32 of topic, properties and payload
    topic TEXT NOT NULL,
    properties BLOB NOT NULL,
    payload BLOB NOT NULL
);
CREATE TABLE received (packet_id INTEGER PRIMARY KEY, arrival INTEGER NOT NULL);
CREATE TABLE owner (client_id TEXT, session TEXT, last_sequence INTEGER NOT NULL, fast INTEGER NOT NULL);
INSERT INTO owner VALUES (NULL, NULL, 0, 0);
"""

_INSERT_SQL: Final = "INSERT INTO message VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?)"
_SEND_SQL: Final = "UPDATE message SET packet_id = ? WHERE sequence = ?"
_REQUEUE_SQL: Final = f"UPDATE message SET packet_id = {_ID_BASE}, released = {_RELEASED_BASE} WHERE sequence = ?"
_RELEASE_SQL: Final = "UPDATE message SET released = ? WHERE sequence = ?"
_DELETE_SQL: Final = "DELETE FROM message WHERE sequence = ?"
_RECEIVE_SQL: Final = "INSERT OR IGNORE INTO received VALUES (?,?)"
_FORGET_SQL: Final = "DELETE FROM received WHERE packet_id = ?"
_COUNT_SQL: Final = f"SELECT count(*), total(size) FROM message WHERE packet_id = {_ID_BASE}"
_IN_FLIGHT_SQL: Final = f"SELECT * FROM message WHERE packet_id > {_ID_BASE} ORDER BY sequence"
_QUEUED_SQL: Final = f"SELECT * FROM message WHERE sequence > ? AND packet_id = {_ID_BASE} ORDER BY sequence LIMIT ?"

_opening = threading.Lock()
_opened: weakref.WeakValueDictionary[tuple[int, int], SQLiteStore] = weakref.WeakValueDictionary()  # by device and inode


class SQLiteStore:
    """Keep the state of one client in one SQLite file (WAL), readable by any SQLite tool once the client is closed.

    ``path`` is a file that this class wrote before, an empty one, or one that doesn't exist yet in a folder that does.
    ``fast=False``: ``commit`` returns when the disk has the data (``synchronous=FULL``). ``fast=True``: when the operating system has
    them (``synchronous=NORMAL``): a killed process loses nothing, a power cut may lose the last moments.
    ``wall_clock`` returns seconds; it is only used to age messages with a Message Expiry Interval while no process runs.

    Raises :class:`~ohmqtt.StoreInUseError`, :class:`~ohmqtt.StoreFormatError` (somebody else's file, or a newer version's) or
    :class:`~ohmqtt.StoreDamagedError`, and has changed nothing then; :class:`~ohmqtt.StoreError` if SQLite can't open, create or write
    the file; :class:`~ohmqtt.ArgumentError` if ``path`` is none.
    """

    def __init__(self, path: str | os.PathLike[str], *, fast: bool = False, wall_clock: Callable[[], float] = time.time) -> None:
        self.path = _real_path(path)
        self.fast = bool(fast)
        self._wall_clock = wall_clock
        self._pid = os.getpid()
        with _opening:
            key = _file_key(self.path)
            if key in _opened:
                raise _in_use(self.path)
            _examine(self.path)
            try:
                connection = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
            except sqlite3.Error as error:
                raise _translate(error, self.path) from error
            self._connection: sqlite3.Connection | None = connection
            self._cursor = connection.cursor()
            try:
                self._take()
                self._loaded: StoredState | None = self._read()
            except BaseException as error:
                self._connection = None
                _abandon(connection)
                if isinstance(error, sqlite3.Error):
                    raise _translate(error, self.path) from error
                raise
            _opened[_file_key(self.path) or (0, 0)] = self

    def _take(self) -> None:
        """Take the lock, see whose file it is, create what isn't there, and switch to WAL."""
        execute = self._cursor.execute
        execute("PRAGMA locking_mode = EXCLUSIVE")  # from the first lock until the connection closes; needs no -shm file
        execute("PRAGMA synchronous = FULL")
        execute("PRAGMA fullfsync = 1")  # macOS: an fsync alone leaves the data in the drive's cache
        execute("PRAGMA checkpoint_fullfsync = 1")
        execute("PRAGMA cell_size_check = 1")
        execute("BEGIN EXCLUSIVE")
        application_id = execute("PRAGMA application_id").fetchone()[0]
        version = execute("PRAGMA user_version").fetchone()[0]
        tables = execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not (application_id or version or tables):
            for statement in _SCHEMA.split(";\n")[:-1]:
                execute(statement)
            execute("COMMIT")
        else:
            _check_header(self.path, application_id, version)
            execute("ROLLBACK")
            was_fast = execute("SELECT fast FROM owner").fetchone()[0]
            if not was_fast:
                _check_wal(self.path)
        if execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise StoreError(f"{self.path}: SQLite can't use a write-ahead log here")
        if execute("SELECT fast FROM owner").fetchone()[0] != self.fast:
            execute("UPDATE owner SET fast = ?", (self.fast,))
            execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if self.fast:
            execute("PRAGMA synchronous = NORMAL")
        execute(f"PRAGMA journal_size_limit = {64 << 20}")

    def _read(self) -> StoredState:
        execute = self._cursor.execute
        client_id, session, self._recorded, _ = execute("SELECT * FROM owner").fetchone()
        received = execute("SELECT packet_id, arrival FROM received ORDER BY arrival").fetchall()
        self._arrival: int = received[-1][1] if received else 0
        queued_messages, queued_bytes = execute(_COUNT_SQL).fetchone()
        now = self._wall_clock()
        in_flight = [self._message(row, now) for row in execute(_IN_FLIGHT_SQL)]
        self._last: int = max(self._recorded, execute("SELECT max(sequence) FROM message").fetchone()[0] or 0)
        return StoredState(
            client_id, session, self._last + 1, in_flight, [packet_id for packet_id, _ in received], queued_messages, int(queued_bytes)
        )

    def _message(self, row: tuple[Any, ...], now: float) -> StoredMessage:
        sequence, packet_id, released, _, qos, retain, alias_policy, expiry_s, stored_at, checksum, topic, properties, payload = row
        if checksum != crc32(payload, crc32(properties, crc32(topic.encode()))):
            raise _damaged(self.path, f"message {sequence} fails its checksum")
        if expiry_s is not None:
            age_s = int(now - stored_at)
            if age_s > 0:  # a clock that was set back doesn't make anything younger than it was
                expiry_s = max(0, expiry_s - age_s)
        return StoredMessage(
            sequence, packet_id - _ID_BASE, released - _RELEASED_BASE, qos, bool(retain), topic, properties, payload, alias_policy, expiry_s
        )

    def _check_open(self) -> sqlite3.Connection:
        if os.getpid() != self._pid:
            raise ForkedError(f"{self.path}: the database belongs to process {self._pid}, from which this one was forked")
        if self._connection is None:
            raise StateError(f"{self.path}: the database is closed")
        return self._connection

    def load(self) -> StoredState:
        """Return the whole state, except the messages that were never sent: these are counted."""
        self._check_open()
        state, self._loaded = self._loaded, None
        if state is not None:
            return state
        try:
            return self._read()
        except sqlite3.Error as error:
            raise _translate(error, self.path) from error

    def load_queued(self, after_sequence: int, messages_max: int, bytes_max: int) -> list[StoredMessage]:
        """Return the first never-sent messages after a sequence number: at most so many and so large together, at least one."""
        connection = self._check_open()
        now = self._wall_clock()
        messages: list[StoredMessage] = []
        cursor = connection.cursor()
        try:
            for row in cursor.execute(_QUEUED_SQL, (after_sequence, max(1, messages_max))):
                bytes_max -= row[3]
                if bytes_max < 0 and messages:
                    break
                messages.append(self._message(row, now))
        except sqlite3.Error as error:
            raise _translate(error, self.path) from error
        finally:
            cursor.close()  # an unfinished SELECT would keep the write-ahead log from starting over
        return messages

    def commit(self, journal: Sequence[tuple[Any, ...]]) -> None:
        """Apply a journal in one transaction: on disk when the call returns, or in the operating system's hands if ``fast``."""
        connection = self._check_open()
        if not journal:
            return
        self._loaded = None
        execute = self._cursor.execute
        try:
            execute("BEGIN IMMEDIATE")
            recorded = self._apply(journal)
            execute("COMMIT")
            self._recorded = recorded
        except BaseException as error:
            with suppress(sqlite3.Error):
                if connection.in_transaction:
                    execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise _translate(error, self.path) from error
            raise

    def _apply(self, journal: Sequence[tuple[Any, ...]]) -> int:
        execute, executemany = self._cursor.execute, self._cursor.executemany
        recorded = self._recorded
        end = len(journal)
        start = 0
        while start < end:
            kind = journal[start][0]
            stop = start + 1
            while stop < end and journal[stop][0] == kind:
                stop += 1
            run = journal[start:stop]
            start = stop
            if kind == INSERT:
                executemany(_INSERT_SQL, self._rows(run))
            elif kind == SEND:
                executemany(_SEND_SQL, [(_ID_BASE + packet_id, sequence) for _, sequence, packet_id in run])
                self._expect(run)
            elif kind == REQUEUE:
                executemany(_REQUEUE_SQL, [(sequence,) for _, sequence in run])
                self._expect(run)
            elif kind == RELEASE:
                executemany(_RELEASE_SQL, [(_RELEASED_BASE + order, sequence) for _, sequence, order in run])
                self._expect(run)
            elif kind == DELETE:
                executemany(_DELETE_SQL, [(sequence,) for _, sequence in run])
                # The highest sequence number ever used follows from its row; it is written down only when that row goes.
                if recorded < self._last and any(entry[1] == self._last for entry in run):
                    recorded = self._last
                    execute("UPDATE owner SET last_sequence = ?", (recorded,))
            elif kind == RECEIVE:
                executemany(_RECEIVE_SQL, [(entry[1], self._arrival + n) for n, entry in enumerate(run, 1)])
                self._arrival += len(run)
            elif kind == FORGET:
                executemany(_FORGET_SQL, [(packet_id,) for _, packet_id in run])
            elif kind == IDENTITY:
                execute("UPDATE owner SET client_id = ?", (run[-1][1],))
            elif kind == SESSION:
                execute("UPDATE owner SET session = ?", (run[-1][1],))
            else:
                raise StoreError(f"{self.path}: no journal entry has the kind {kind!r}")
        return recorded

    def _rows(self, run: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        for _, message in run:
            topic, properties, payload, expiry_s = message.topic, message.properties, message.payload, message.expiry_s
            topic_utf8 = topic.encode()
            if message.sequence > self._last:
                self._last = message.sequence
            rows.append(
                (
                    message.sequence,
                    _ID_BASE + message.packet_id,
                    _RELEASED_BASE + message.released,
                    len(topic_utf8) + len(properties) + len(payload),
                    message.qos,
                    message.retain,
                    message.alias_policy,
                    expiry_s,
                    None if expiry_s is None else self._wall_clock(),
                    crc32(payload, crc32(properties, crc32(topic_utf8))),
                    topic,
                    properties,
                    payload,
                )
            )
        return rows

    def _expect(self, run: Sequence[tuple[Any, ...]]) -> None:
        if self._cursor.rowcount != len(run):
            raise StoreError(f"{self.path}: the journal changes a message that isn't stored: {run!r}")

    def close(self) -> None:
        """Fold the write-ahead log into the file and let go of it. Never raises; does nothing the second time, or in a forked child."""
        if self._connection is None or os.getpid() != self._pid:
            return
        with _opening:
            connection, self._connection = self._connection, None
            with suppress(sqlite3.Error):
                connection.close()
            for key in [key for key, store in _opened.items() if store is self]:
                del _opened[key]


def set_aside(path: str | os.PathLike[str]) -> Path:
    """Rename a damaged database, with the write-ahead log that belongs to it, and return its new path. Nothing is deleted.

    The new name is the old one with ``.damaged-1`` (or the next free number) at its end, in the same folder, so that SQLite's recovery
    tools find the two files together. Afterwards the old path is free for an empty database.

    Raises :class:`~ohmqtt.StoreInUseError` if somebody has the database open, :class:`~ohmqtt.StoreError` if there is nothing to rename
    or the operating system refuses.
    """
    real = _real_path(path)
    with _opening:
        if _file_key(real) in _opened:
            raise _in_use(real)
        present = [suffix for suffix in ("", "-journal", "-wal", "-shm") if os.path.lexists(real + suffix)]
        if not present:
            raise StoreError(f"{real}: there is no such file to set aside")
        if "" in present:
            _probe_lock(real)
        number = 1
        while any(os.path.lexists(f"{real}.damaged-{number}{suffix}") for suffix in ("", "-journal", "-wal", "-shm")):
            number += 1
        aside = f"{real}.damaged-{number}"
        try:
            # The main file goes first: should we die here, a log without its file is still reported as damage. The other way round,
            # the file without its log would open, and the messages in the log would be missing without a sign.
            for suffix in present:
                os.rename(real + suffix, aside + suffix)
        except OSError as error:
            raise StoreError(f"{real}: could not be set aside: {error}") from error
    return Path(aside)


def _probe_lock(path: str) -> None:
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        if "locked" in str(error):
            raise _in_use(path) from error
    finally:
        _abandon(connection)


def _abandon(connection: sqlite3.Connection) -> None:
    """Close a connection without the checkpoint that SQLite makes at the last close: the file isn't ours to change."""
    connection.interrupt()  # stops the checkpoint before its first page; then the write-ahead log stays where it is
    with suppress(sqlite3.Error):
        connection.close()


def _real_path(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    if not isinstance(text, str) or not text or "\0" in text or text == ":memory:":
        raise ArgumentError(f"db_path is {text!r}; it must be the path of a file (leave it out to keep everything in memory)")
    return os.path.realpath(text)


def _file_key(path: str) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _examine(path: str) -> None:
    """Look at a file before SQLite does: opening somebody else's database would already change it (its log is folded in at close).

    Only called if no client of this process has the file open: closing a file drops all POSIX locks that the process has on it.
    """
    try:
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise StoreFormatError(f"{path}: not a database but {'a folder' if os.path.isdir(path) else 'a special file'}")
            with open(path, "rb") as file:
                header = file.read(100)
            if header:
                _check_first_page(path, header)
                return
        if os.path.exists(path + "-wal") and os.path.getsize(path + "-wal"):
            raise _damaged(path, "there is a write-ahead log, but the file that it belongs to is missing or empty")
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error
    if not os.path.isdir(os.path.dirname(path)):
        raise StoreError(f"{path}: the folder doesn't exist")


def _check_first_page(path: str, header: bytes) -> None:
    if not header.strip(b"\0"):
        raise _damaged(path, "it begins with zeros")
    version, application_id = struct.unpack(">60xI4xI28x", header.ljust(100, b"\0"))
    if not header.startswith(_MAGIC):
        if application_id == _APPLICATION_ID:
            raise _damaged(path, "its first bytes are not SQLite's")
        raise StoreFormatError(f"{path}: not an ΩQTT database, or its first page is damaged; it was not changed")
    if len(header) < 100:
        raise _damaged(path, "it ends within its header")
    _check_header(path, application_id, version)


def _check_header(path: str, application_id: int, version: int) -> None:
    if application_id != _APPLICATION_ID:
        raise StoreFormatError(f"{path}: a database, but not one of ΩQTT (application id {application_id:#x}); it was not changed")
    if version != _SCHEMA_VERSION:
        raise StoreFormatError(
            f"{path}: written by {'a newer' if version > _SCHEMA_VERSION else 'another'} version of ΩQTT "
            f"(format {version}, this version knows {_SCHEMA_VERSION}); it was not changed"
        )


def _check_wal(path: str) -> None:
    """TODO"""


def _in_use(path: str) -> StoreInUseError:
    return StoreInUseError(f"{path}: another process, or another client in this one, has the database open")


def _damaged(path: str, words: str) -> StoreDamagedError:
    return StoreDamagedError(
        f"{path}: the database is damaged ({words}). It was not changed. To start with an empty one and keep this one for a repair, "
        "call ohmqtt.store.set_aside() with its path"
    )


def _translate(error: sqlite3.Error, path: str) -> StoreError:
    """Say with our classes what SQLite said. By its words: Python 3.10 doesn't give its codes."""
    words = str(error)
    # SQLITE_CORRUPT and SQLITE_NOTADB come as DatabaseError itself, everything else as a class derived from it.
    if type(error) is sqlite3.DatabaseError:
        return _damaged(path, words)
    if "locked" in words:
        return _in_use(path)
    return StoreError(f"{path}: {words}")


def _after_fork_in_child() -> None:
    pass


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
