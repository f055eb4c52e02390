"""What must outlive the process: the protocol of a store, which applies the Session's journal, and the SQLite store.

Owns the database file, from the moment it is opened until it is closed: one process, one client. It knows nothing of packets, links or
time other than the wall clock that ages the rows while no process is there to do it. It must not decide anything: the session says what
to keep, in a journal; the store makes it durable.

Invariant: a journal is applied whole, in order, before ``commit`` returns, or not at all when it raises. What the file holds is the
result of the first *n* journals for some *n*, never anything between.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import threading
import time
import weakref
from binascii import crc32
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Protocol

from .errors import ArgumentError, ForkedError, StateError, StoreDamagedError, StoreError, StoreFormatError, StoreInUseError
from .journal import DELETE, FORGET, IDENTITY, INSERT, RECEIVE, RELEASE, REQUEUE, SEND, SESSION, StoredMessage, StoredState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["SQLiteStore", "Store", "set_aside"]


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


# --- the SQLite store ---

_APPLICATION_ID: Final = 0x6F515454  # "oQTT", bytes 68 to 71 of the file
_SCHEMA_VERSION: Final = 1  # in the low byte of SQLite's user_version, bytes 60 to 63 of the file
_FAST: Final = 0x100  # also in user_version: who writes the log doesn't wait for the disk, so a power cut may leave holes in it
_LOG_BYTES_KEPT: Final = 16 << 20  # after one large transaction the write-ahead log is cut back to this
_SUFFIXES: Final = ("", "-journal", "-wal", "-shm")  # what SQLite puts beside a database
_MAGIC: Final = b"SQLite format 3\0"
_JOURNAL_MAGIC: Final = bytes.fromhex("d9d505f920a163d7")

# SQLite stores an integer in as few bytes as it needs. What changes in a row, packet_id and released, is shifted to where its width is
# constant (3 and 8 bytes): an UPDATE that doesn't change the length of a row writes only the page with the change, not the whole payload.
_ID_BASE: Final = 65_536
_RELEASED_BASE: Final = 72_057_594_037_927_936

# One b-tree without further index: a commit of one message writes one page. Columns that are counted come first, the long ones last.
_SCHEMA: Final = """
CREATE TABLE message (
    sequence INTEGER PRIMARY KEY,
    packet_id INTEGER NOT NULL,      -- 2^16 + packet identifier (2^16: never sent)
    released INTEGER NOT NULL,       -- 2^56 + order of its PUBREC (2^56: none yet)
    size INTEGER NOT NULL,           -- bytes of topic, properties and payload
    flags INTEGER NOT NULL,          -- QoS + 4 * RETAIN + 8 * alias policy (a column each would cost 0.5 of 6 us)
    expiry_s REAL,                   -- seconds that were left at stored_at
    stored_at REAL,                  -- wall clock, only with expiry_s
    checksum INTEGER NOT NULL,       -- CRC-32 of topic (begun with the flags), properties and payload
    topic TEXT NOT NULL,
    properties BLOB NOT NULL,
    payload BLOB NOT NULL
);
CREATE TABLE received (packet_id INTEGER PRIMARY KEY, arrival INTEGER NOT NULL);
CREATE TABLE owner (client_id TEXT, session TEXT, last_sequence INTEGER NOT NULL);
INSERT INTO owner VALUES (NULL, NULL, 0);
"""

_INSERT_SQL: Final = "INSERT INTO message VALUES (?,?,?,?,?,?,?,?,?,?,?)"
_SEND_SQL: Final = "UPDATE message SET packet_id = ? WHERE sequence = ?"
_REQUEUE_SQL: Final = "UPDATE message SET packet_id = 65536, released = 72057594037927936 WHERE sequence = ?"
_RELEASE_SQL: Final = "UPDATE message SET released = ? WHERE sequence = ?"
_DELETE_SQL: Final = "DELETE FROM message WHERE sequence = ?"
_RECEIVE_SQL: Final = "INSERT OR IGNORE INTO received VALUES (?,?)"
_FORGET_SQL: Final = "DELETE FROM received WHERE packet_id = ?"
_COUNT_SQL: Final = "SELECT count(*), total(size) FROM message WHERE packet_id = 65536"
_IN_FLIGHT_SQL: Final = "SELECT * FROM message WHERE packet_id > 65536 ORDER BY sequence"
_QUEUED_SQL: Final = "SELECT * FROM message WHERE sequence > ? AND packet_id = 65536 ORDER BY sequence LIMIT ?"

_opened: weakref.WeakValueDictionary[tuple[int, int], SQLiteStore] = weakref.WeakValueDictionary()  # by device and inode
_opening = threading.RLock()  # held while a file is opened or closed, and while the process forks


class SQLiteStore:
    """Keep the state of one client in one SQLite file (WAL), readable by any SQLite tool once the client is closed.

    ``path`` is a file that this class wrote before, an empty one, or one that doesn't exist yet in a folder that does.
    ``fast=False``: ``commit`` returns when the disk has the data (``synchronous=FULL``). ``fast=True``: when the operating system has
    them (``synchronous=NORMAL``): a killed process loses nothing, a power cut may lose the last moments.
    ``wall_clock`` returns seconds; it is only used to age messages with a Message Expiry Interval while no process runs.

    Raises :class:`~ohmqtt.StoreInUseError`, :class:`~ohmqtt.StoreFormatError` (somebody else's file, or a newer version's) or
    :class:`~ohmqtt.StoreDamagedError`, and has changed nothing then; :class:`~ohmqtt.StoreError` if SQLite can't open, create or write
    the file; :class:`~ohmqtt.ArgumentError` if ``path`` is none. Every call in a forked child raises :class:`~ohmqtt.ForkedError`,
    apart from ``close``, which does nothing there.
    """

    def __init__(self, path: str | os.PathLike[str], *, fast: bool = False, wall_clock: Callable[[], float] = time.time) -> None:
        self.path: Final = _real_path(path)
        self.fast: Final = bool(fast)
        self._wall_clock = wall_clock
        self._pid = os.getpid()
        self._loaded: StoredState | None = None
        self._connection: sqlite3.Connection | None = None
        with _opening:
            if _file_key(self.path) in _opened:
                raise _in_use(self.path)
            _examine(self.path)
            try:
                connection = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
                self._cursor = connection.cursor()
                try:
                    self._take()
                    self._loaded = self._read()  # finds damage, before anything is written
                    self._set_mode()
                except BaseException:
                    _abandon(self._cursor)
                    raise
            except (sqlite3.Error, OSError) as error:
                raise _translate(error, self.path) from error
            self._connection = connection
            _opened[_file_key(self.path)] = self

    def _take(self) -> None:
        """Take the lock, see whose file it is, and make what isn't there."""
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
            execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            for statement in _SCHEMA.split(";"):
                execute(statement)
            execute("COMMIT")
        else:
            _check_marks(self.path, application_id, version)  # once more: the log may know better than the file
            execute("ROLLBACK")
        execute("PRAGMA journal_mode = WAL")

    def _set_mode(self) -> None:
        execute = self._cursor.execute
        fold = "PRAGMA wal_checkpoint(TRUNCATE)"
        wanted = _SCHEMA_VERSION | (_FAST if self.fast else 0)
        # A power cut may have left frames behind the end of the log. Found behind those of this life they would look like damage; so it is
        # folded in first, which gives the next log other salts.
        if execute("PRAGMA user_version").fetchone()[0] != wanted:
            execute(fold).fetchall()
            execute(f"PRAGMA user_version = {wanted}")
            execute(fold).fetchall()  # into the file, where it is looked for
        else:
            with suppress(sqlite3.OperationalError):  # on a full disk, what is there can still be sent
                execute(fold).fetchall()
        if self.fast:
            execute("PRAGMA synchronous = NORMAL")
        execute(f"PRAGMA journal_size_limit = {_LOG_BYTES_KEPT}").fetchall()

    def _read(self) -> StoredState:
        execute = self._cursor.execute
        client_id, session, last_sequence = execute("SELECT * FROM owner").fetchone()
        received = execute("SELECT packet_id, arrival FROM received ORDER BY arrival").fetchall()
        self._arrival: int = received[-1][1] if received else 0
        queued_messages, queued_bytes = execute(_COUNT_SQL).fetchone()
        self._recorded: int = last_sequence
        self._last: int = max(last_sequence, execute("SELECT max(sequence) FROM message").fetchone()[0] or 0)
        now = self._wall_clock()
        in_flight = [self._message(row, now) for row in execute(_IN_FLIGHT_SQL)]
        identifiers = [packet_id for packet_id, _ in received]
        return StoredState(client_id, session, self._last + 1, in_flight, identifiers, queued_messages, int(queued_bytes))

    def _message(self, row: tuple[Any, ...], now: float) -> StoredMessage:
        sequence, packet_id, released, _, flags, expiry_s, stored_at, checksum, topic, properties, payload = row
        if checksum != crc32(payload, crc32(properties, crc32(topic.encode(), flags))):
            raise _damaged(self.path, f"message {sequence} doesn't have its checksum")
        if expiry_s is not None:
            # A clock that was set back makes nothing younger than it was.
            expiry_s = max(0, expiry_s - max(0, now - stored_at))
        packet_id -= _ID_BASE
        released -= _RELEASED_BASE
        retain = flags & 4 != 0
        return StoredMessage(sequence, packet_id, released, flags & 3, retain, topic, properties, payload, flags >> 3, expiry_s)

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
        """Return the first never-sent messages after a sequence number: at most so many and so large together, but at least one."""
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
        except (sqlite3.Error, StoreDamagedError) as error:
            # What is sound before the damage can still be sent; the next call meets it first, and says so.
            if not messages and isinstance(error, sqlite3.Error):
                raise _translate(error, self.path) from error
            if not messages:
                raise
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
            if len(journal) == 1 and journal[0][0] == INSERT and not connection.in_transaction:
                execute(_INSERT_SQL, self._row(journal[0][1]))  # a transaction of its own: 3 of 24 µs less
                return
            execute("BEGIN IMMEDIATE")
            recorded = self._apply(journal)
            execute("COMMIT")
            self._recorded = recorded
        except BaseException as error:
            with suppress(sqlite3.Error):  # if this fails as well, the next BEGIN does, and tries it again
                connection.rollback()
            if isinstance(error, sqlite3.Error):
                raise _translate(error, self.path) from error
            raise

    def _apply(self, journal: Sequence[tuple[Any, ...]]) -> int:
        """Apply the journal, run by run of equal entries; return the sequence number that ``owner`` then has."""
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
                executemany(_INSERT_SQL, [self._row(message) for _, message in run])
            elif kind == DELETE:
                executemany(_DELETE_SQL, [entry[1:] for entry in run])
                # The highest sequence number ever used follows from its row; it is written down only when that row goes.
                if recorded < self._last and any(entry[1] == self._last for entry in run):
                    recorded = self._last
                    execute("UPDATE owner SET last_sequence = ?", (recorded,))
            elif kind == RECEIVE:
                executemany(_RECEIVE_SQL, [(entry[1], self._arrival + n) for n, entry in enumerate(run, 1)])
                self._arrival += len(run)
            elif kind == FORGET:
                executemany(_FORGET_SQL, [entry[1:] for entry in run])
            elif kind == IDENTITY:
                execute("UPDATE owner SET client_id = ?", run[-1][1:])
            elif kind == SESSION:
                execute("UPDATE owner SET session = ?", run[-1][1:])
            else:
                self._update(kind, run)
        return recorded

    def _update(self, kind: int, run: Sequence[tuple[Any, ...]]) -> None:
        if kind == SEND:
            self._cursor.executemany(_SEND_SQL, [(_ID_BASE + packet_id, sequence) for _, sequence, packet_id in run])
        elif kind == REQUEUE:
            self._cursor.executemany(_REQUEUE_SQL, [entry[1:] for entry in run])
        elif kind == RELEASE:
            self._cursor.executemany(_RELEASE_SQL, [(_RELEASED_BASE + order, sequence) for _, sequence, order in run])
        else:
            raise StoreError(f"{self.path}: there is no kind {kind!r} of journal entry")
        if self._cursor.rowcount != len(run):
            raise StoreError(f"{self.path}: the journal changes a message that isn't stored: {run!r}")

    def _row(self, message: StoredMessage) -> tuple[Any, ...]:
        sequence, topic, properties, payload, expiry_s = (
            message.sequence,
            message.topic,
            message.properties,
            message.payload,
            message.expiry_s,
        )
        topic_utf8 = topic.encode()
        flags = message.qos | message.retain << 2 | message.alias_policy << 3
        if sequence > self._last:  # noqa: PLR1730  # max() would take thrice as long
            self._last = sequence  # too high if the transaction fails, which does no harm: a number is left out
        return (
            sequence,
            _ID_BASE + message.packet_id,
            _RELEASED_BASE + message.released,
            len(topic_utf8) + len(properties) + len(payload),
            flags,
            expiry_s,
            None if expiry_s is None else self._wall_clock(),
            crc32(payload, crc32(properties, crc32(topic_utf8, flags))),
            topic,
            properties,
            payload,
        )

    def close(self) -> None:
        """Fold the write-ahead log into the file and let go of it. Never raises; does nothing the second time, or in a forked child."""
        if self._connection is None or os.getpid() != self._pid:
            return
        with _opening:
            connection, self._connection = self._connection, None
            self._cursor.close()  # a statement that is still held would keep SQLite from closing
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
        present = [suffix for suffix in _SUFFIXES if Path(f"{real}{suffix}").exists()]
        if not present:
            raise StoreError(f"{real}: there is no such file to set aside")
        if present[0] == "" and _is_locked(real):
            raise _in_use(real)
        number = 1
        while any(Path(f"{real}.damaged-{number}{suffix}").exists() for suffix in _SUFFIXES):
            number += 1
        aside = Path(f"{real}.damaged-{number}")
        try:
            # The main file goes first: should we die here, a log without its file is still reported as damage. The other way round,
            # the file without its log would open, and the messages in the log would be missing without a sign.
            for suffix in present:
                Path(f"{real}{suffix}").rename(f"{aside}{suffix}")
        except OSError as error:
            raise StoreError(f"{real}: could not be set aside: {error.strerror}") from error
    return aside


def _abandon(cursor: sqlite3.Cursor) -> None:
    """Close a connection without the checkpoint that SQLite makes at the last close: the file isn't ours to change."""
    connection = cursor.connection
    cursor.close()
    connection.interrupt()  # stops the checkpoint before its first page; then the write-ahead log stays as it is
    with suppress(sqlite3.Error):
        connection.close()


def _real_path(path: object) -> Path:
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str) or not text or "\0" in text or text == ":memory:":
        raise ArgumentError(f"the database's path is {text!r}; it must name a file (without a path, everything is kept in memory)")
    return Path(os.path.realpath(text))


def _file_key(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (-1, -1)  # nobody has open what isn't there
    return status.st_dev, status.st_ino


# --- looking at files without SQLite ---


def _examine(path: Path) -> None:
    """Look at a file before SQLite does: opening somebody else's database would already change it (its log is folded in at close).

    Only called if no client of this process has the file open: closing a file drops all POSIX locks that the process has on it.
    """
    try:
        if path.exists() and not path.is_file():
            raise StoreFormatError(f"{path}: not a database but {'a folder' if path.is_dir() else 'a special file'}")
        # What is published is nobody else's business, unless the owner of the file decides otherwise.
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600), "rb") as file:
            header = file.read(100)
        if header:
            _check_first_page(path, header)
        with suppress(FileNotFoundError), Path(f"{path}-wal").open("rb") as log:
            words = _find_damage(log, header)
            if words:
                # Looked at while its owner is writing, a sound log may seem to be damaged.
                raise _in_use(path) if _is_locked(path) else _damaged(path, words)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error


def _check_first_page(path: Path, header: bytes) -> None:
    if not header.strip(b"\0"):
        if _was_being_made(path):
            return
        raise _damaged(path, "it begins with zeros")
    version, application_id = struct.unpack(">60xI4xI28x", header.ljust(100, b"\0"))
    if not header.startswith(_MAGIC):
        if application_id == _APPLICATION_ID:
            raise _damaged(path, "its first bytes are not SQLite's")
        raise StoreFormatError(f"{path}: not an ΩQTT database, or its first page is damaged; it was not changed")
    if len(header) < 100:
        raise _damaged(path, "it ends within its header")
    _check_marks(path, application_id, version)


def _was_being_made(path: Path) -> bool:
    """Say whether there is a rollback journal of a file that was empty before: a power cut while it was made, and SQLite empties it again."""
    with suppress(FileNotFoundError), Path(f"{path}-journal").open("rb") as journal:
        magic, _, _, pages_before = struct.unpack(">8s3I", journal.read(20).ljust(20, b"\xff"))
        return bool(magic == _JOURNAL_MAGIC and pages_before == 0)
    return False


def _check_marks(path: Path, application_id: int, version: int) -> None:
    if application_id != _APPLICATION_ID:
        raise StoreFormatError(f"{path}: a database, but not one of ΩQTT (application id {application_id:#x}); it was not changed")
    version &= ~_FAST
    if version != _SCHEMA_VERSION:
        age = "a newer" if version > _SCHEMA_VERSION else "another"
        raise StoreFormatError(
            f"{path}: written by {age} version of ΩQTT (format {version}; this version knows {_SCHEMA_VERSION}); it was not changed"
        )


def _is_locked(path: Path) -> bool:
    """Say whether another process holds any of SQLite's locks, without SQLite, which at close deletes a log that it finds nothing in."""
    try:
        import fcntl
    except ImportError:  # pragma: platform win32
        return False  # there, files that are open can't be renamed anyway
    with path.open("r+b") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x4000_0002)  # all of SQLite's shared locks
        except OSError:
            return True
    return False


def _find_damage(log: BinaryIO, header: bytes) -> str:
    """Find damage in a write-ahead log that SQLite would pass over: it takes the first bad frame for the end of the log.

    A power cut may leave such a frame in the transaction that was being written, and that one only: the one before it was on disk before
    it began. So a commit of a *later* transaction behind a bad frame means that something was lost that had been there. The log of a fast
    writer gives no such hint. (File format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log)
    """
    start = log.read(32)
    if not header:
        return "there is a write-ahead log, but the file that it belongs to is missing or empty" if start else ""
    if len(start) < 32 or header[62] & (_FAST >> 8):
        return ""
    magic, _, page_size, _, *salts, sum_0, sum_1 = struct.unpack(">8I", start)
    order = ">" if magic & 1 else "<"
    sums = (sum_0, sum_1)
    if magic & ~1 != 0x377F_0682 or _wal_checksum(order, start[:24], (0, 0)) != sums:
        # The header of the log is on disk before its first frame is written.
        return "the header of its write-ahead log" if log.read(1) else ""
    number = bad_frame = commits_needed = 0
    while len(frame := log.read(24 + page_size)) == 24 + page_size:
        number += 1
        _, commit, *frame_salts, sum_0, sum_1 = struct.unpack_from(">6I", frame)
        known = frame_salts == salts  # frames from before the log was started over have other salts
        good = known and _wal_checksum(order, frame[24:], _wal_checksum(order, frame[:8], sums)) == (sum_0, sum_1)
        sums = (sum_0, sum_1)
        if not good and not bad_frame:
            bad_frame = number
            # The first commit behind it may be that of its own transaction, unless it is itself one that ends a transaction.
            commits_needed = 1 if known and commit else 2
        elif good and bad_frame and commit:
            commits_needed -= 1
            if not commits_needed:
                return f"frame {bad_frame} of its write-ahead log"
    return ""


def _wal_checksum(order: str, data: bytes, sums: tuple[int, int]) -> tuple[int, int]:
    sum_0, sum_1 = sums
    words = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for word_0, word_1 in zip(words, words, strict=True):
        sum_0 = (sum_0 + word_0 + sum_1) & 0xFFFF_FFFF
        sum_1 = (sum_1 + word_1 + sum_0) & 0xFFFF_FFFF
    return sum_0, sum_1


# --- errors ---


def _in_use(path: Path) -> StoreInUseError:
    return StoreInUseError(f"{path}: another process, or another client in this one, has the database open")


def _damaged(path: Path, words: str) -> StoreDamagedError:
    return StoreDamagedError(
        f"{path}: the database is damaged ({words}). It was not changed. To start with an empty one and keep this one for a repair, "
        "call ohmqtt.store.set_aside() with its path"
    )


def _translate(error: Exception, path: Path) -> StoreError:
    """Say with our classes what SQLite said. By its words: Python 3.10 doesn't give its codes."""
    words = str(error)
    # SQLITE_CORRUPT and SQLITE_NOTADB come as DatabaseError itself, everything else as a class derived from it.
    if type(error) is sqlite3.DatabaseError:
        return _damaged(path, words)
    if "locked" in words:
        return _in_use(path)
    return StoreError(f"{path}: {words}")


# --- fork ---


def _before_fork() -> None:
    _opening.acquire()
    if _opened:
        with suppress(ImportError):
            import_module("ctypes")  # here and not in the child, where the threads that other imports wait for are missing


def _after_fork_in_parent() -> None:
    _opening.release()


def _after_fork_in_child() -> None:
    """Keep the parent's connections alive for ever.

    If one were collected, or the child's interpreter ended in the ordinary way, SQLite would close it: fold the log into the file and
    delete it, under the eyes of the parent, which goes on writing to a log that has no name any more. All that is lost without a sign.
    """
    with suppress(ImportError):
        ctypes = import_module("ctypes")
        for store in list(_opened.values()):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(store))
    _opening.release()


with suppress(AttributeError):  # Windows can't fork
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
