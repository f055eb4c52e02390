from __future__ import annotations

import contextlib
import copy
import os
import random
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from ohmqtt.errors import ArgumentError, ForkedError, StateError, StoreDamagedError, StoreError, StoreFormatError, StoreInUseError
from ohmqtt.journal import DELETE, FORGET, IDENTITY, INSERT, RECEIVE, RELEASE, REQUEUE, SEND, SESSION, StoredMessage, StoredState
from ohmqtt.store import SQLiteStore, _after_fork_in_child, _after_fork_in_parent, _before_fork, set_aside
from ohmqtt.testing import check_store

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

Journal = list[tuple[Any, ...]]

ALL = 1 << 40
PAGE = 4096
FRAME = 24 + PAGE
both_modes = pytest.mark.parametrize("fast", [False, True], ids=["safe", "fast"])


# -- helpers ------------------------------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.25

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


def message(sequence: int, packet_id: int = 0, payload: bytes = b"payload", expiry_s: float | None = None) -> StoredMessage:
    return StoredMessage(sequence, packet_id, 0, 1, False, "some/topic", b"\0", payload, 0, expiry_s)


def inserts(first: int, last: int, payload: bytes = b"payload") -> Journal:
    return [(INSERT, message(sequence, payload=payload)) for sequence in range(first, last + 1)]


def sequences(store: SQLiteStore) -> list[int]:
    return [found.sequence for found in store.load_queued(0, ALL, ALL)]


def stored_sequences(path: Path) -> list[int]:
    store = SQLiteStore(path)
    try:
        return sequences(store)
    finally:
        store.close()


def everything(store: Any) -> tuple[StoredState, list[StoredMessage]]:
    return store.load(), store.load_queued(0, ALL, ALL)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset, os.SEEK_SET if offset >= 0 else os.SEEK_END)
        file.write(data)


def filled(path: Path, rows: int = 300) -> Path:
    """Make a database of some dozen pages, closed in good order."""
    store = SQLiteStore(path)
    store.commit(inserts(1, rows, b"x" * 200))
    store.close()
    return path


def crashed(path: Path, *journals: Journal, fast: bool = False) -> Path:
    """Make a database as a killed process leaves it: each journal is a transaction in the write-ahead log."""
    live = path.with_name("live.db")
    store = SQLiteStore(live, fast=fast)
    for journal in journals:
        store.commit(journal)
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{live}{suffix}", f"{path}{suffix}")
    store.close()
    live.unlink()
    return path


def log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def frames_of(path: Path) -> int:
    return (log_of(path).stat().st_size - 32) // FRAME


def python(script: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)


HOLDER = """
import sys
from ohmqtt.store import SQLiteStore
from ohmqtt.journal import INSERT, StoredMessage
store = SQLiteStore(sys.argv[1])
for sequence in range(1, 4):
    store.commit([(INSERT, StoredMessage(sequence, 0, 0, 1, False, "t", b"\\0", b""))])
print("open", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def held_by_another_process(path: Path) -> Generator[subprocess.Popen[str]]:
    with python(HOLDER, path) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "open\n"
            yield process
        finally:
            process.kill()


LOCKER = """
import fcntl, sys
file = open(sys.argv[1], "r+b")
fcntl.lockf(file, fcntl.LOCK_EX, 510, 0x40000002)  # what SQLite does
print("locked", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def locked_by_another_process(path: Path) -> Generator[None]:
    """Do the same without SQLite, and without the time that it takes to import the package."""
    command = [sys.executable, "-I", "-S", "-c", LOCKER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "locked\n"
            yield
        finally:
            process.kill()


@contextlib.contextmanager
def unprivileged() -> Generator[None]:
    """Be somebody whom file permissions bind: root isn't."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def public_path() -> Iterator[Path]:
    """A folder that everybody can enter; pytest's own are for one user."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


class Model:
    """A store in memory, as plain as can be: `disk` outlives it. What the real ones are compared with, and what gets broken on purpose."""

    def __init__(self, disk: dict[Any, Any], clock: Callable[[], float]) -> None:
        self.disk = disk
        self.clock = clock
        disk.setdefault("messages", {})
        disk.setdefault("received", [])

    def age(self, kept: StoredMessage) -> StoredMessage:
        found = copy.copy(kept)
        if found.expiry_s is not None:
            found.expiry_s = max(0, found.expiry_s - max(0, self.clock() - self.disk["stored", kept.sequence]))
        return found

    def load(self) -> StoredState:
        messages = [self.age(kept) for _, kept in sorted(self.disk["messages"].items())]
        queued = [kept for kept in messages if not kept.packet_id]
        return StoredState(
            self.disk.get("client_id"),
            self.disk.get("session"),
            self.disk.get("last", 0) + 1,
            [kept for kept in messages if kept.packet_id],
            list(self.disk["received"]),
            len(queued),
            sum(self.size(kept) for kept in queued),
        )

    def size(self, kept: StoredMessage) -> int:
        return len(kept.topic.encode()) + len(kept.properties) + len(kept.payload)

    def load_queued(self, after_sequence: int, messages_max: int, bytes_max: int) -> list[StoredMessage]:
        found: list[StoredMessage] = []
        for sequence, kept in sorted(self.disk["messages"].items()):
            if sequence > after_sequence and not kept.packet_id and len(found) < messages_max:
                bytes_max -= self.size(kept)
                if found and bytes_max < 0:
                    break
                found.append(self.age(kept))
        return found

    def commit(self, journal: Sequence[tuple[Any, ...]]) -> None:
        before = copy.deepcopy(self.disk)
        try:
            for entry in journal:
                self.apply(*entry)
        except KeyError as error:
            self.disk.clear()
            self.disk.update(before)
            raise StoreError("no such thing") from error

    def apply(self, kind: int, item: Any, value: int = 0) -> None:
        messages, received = self.disk["messages"], self.disk["received"]
        if kind == INSERT:
            if item.sequence in messages:
                raise KeyError(item.sequence)
            messages[item.sequence] = copy.copy(item)
            self.disk["stored", item.sequence] = self.clock()
            self.disk["last"] = max(self.disk.get("last", 0), item.sequence)
        elif kind == SEND:
            messages[item].packet_id = value
        elif kind == REQUEUE:
            messages[item].packet_id = messages[item].released = 0
        elif kind == RELEASE:
            messages[item].released = value
        elif kind == DELETE:
            messages.pop(item, None)
        elif kind == RECEIVE:
            received += [item] if item not in received else []
        elif kind == FORGET:
            received[:] = [packet_id for packet_id in received if packet_id != item]
        else:
            self.disk[{IDENTITY: "client_id", SESSION: "session"}[kind]] = item

    def close(self) -> None:
        pass


# -- what any store must do ---------------------------------------------------------------------------------------------------------------


@both_modes
def test_sqlite_store_keeps_the_protocol(tmp_path: Path, fast: bool) -> None:
    clock = Clock()
    check_store(lambda: SQLiteStore(tmp_path / "a.db", fast=fast, wall_clock=clock), advance_clock=clock.advance)


def test_ageing_is_only_checked_with_a_clock(tmp_path: Path) -> None:
    check_store(lambda: SQLiteStore(tmp_path / "a.db"))


def test_the_model_keeps_the_protocol() -> None:
    disk: dict[Any, Any] = {}
    clock = Clock()
    check_store(lambda: Model(disk, clock), advance_clock=clock.advance)


class OrderByIdentifier(Model):
    def load(self) -> StoredState:
        state = super().load()
        state.in_flight.sort(key=lambda kept: kept.packet_id)
        return state


class NotAtomic(Model):
    def commit(self, journal: Sequence[tuple[Any, ...]]) -> None:
        try:
            for entry in journal:
                self.apply(*entry)
        except KeyError as error:
            raise StoreError("no such thing") from error


class SequenceFromRows(Model):
    def load(self) -> StoredState:
        state = super().load()
        state.next_sequence = max(self.disk["messages"], default=0) + 1
        return state


class ReceivedSorted(Model):
    def load(self) -> StoredState:
        state = super().load()
        state.received.sort()
        return state


class KeepsReleased(Model):
    def apply(self, kind: int, item: Any, value: int = 0) -> None:
        released = self.disk["messages"][item].released if kind == REQUEUE else 0
        super().apply(kind, item, value)
        if kind == REQUEUE:
            self.disk["messages"][item].released = released


class TakesEverything(Model):
    def commit(self, journal: Sequence[tuple[Any, ...]]) -> None:
        with contextlib.suppress(StoreError):
            super().commit(journal)


class IgnoresBytes(Model):
    def load_queued(self, after_sequence: int, messages_max: int, bytes_max: int) -> list[StoredMessage]:
        return super().load_queued(after_sequence, messages_max, ALL)


class NeverAges(Model):
    def age(self, kept: StoredMessage) -> StoredMessage:
        return copy.copy(kept)


class GrowsYounger(Model):
    def age(self, kept: StoredMessage) -> StoredMessage:
        found = copy.copy(kept)
        if found.expiry_s is not None:
            found.expiry_s = max(0, found.expiry_s - (self.clock() - self.disk["stored", kept.sequence]))
        return found


class ForgetsOnClose(Model):
    def close(self) -> None:
        self.disk.pop("session", None)


class RetainIsANumber(Model):
    def age(self, kept: StoredMessage) -> StoredMessage:
        found = super().age(kept)
        found.retain = int(found.retain)  # type: ignore[assignment]
        return found


@pytest.mark.parametrize(
    "broken",
    [
        OrderByIdentifier,
        NotAtomic,
        SequenceFromRows,
        ReceivedSorted,
        KeepsReleased,
        TakesEverything,
        IgnoresBytes,
        NeverAges,
        GrowsYounger,
        ForgetsOnClose,
        RetainIsANumber,
    ],
)
def test_a_broken_store_is_found_out(broken: type[Model]) -> None:
    disk: dict[Any, Any] = {}
    clock = Clock()
    with pytest.raises(AssertionError, match=r"\w"):
        check_store(lambda: broken(disk, clock), advance_clock=clock.advance)


def random_journal(rng: random.Random, store: Model) -> Journal:
    """Make up a journal that a session could write, and now and then one that it couldn't."""
    known = list(store.disk["messages"]) or [1]
    last = store.disk.get("last", 0)
    journal: Journal = []
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        kind = rng.choice((INSERT, INSERT, SEND, REQUEUE, RELEASE, DELETE, RECEIVE, FORGET, IDENTITY, SESSION))
        if kind == INSERT:
            last += rng.randint(1, 3)
            made = message(last, rng.choice((0, 0, last % 65_535 + 1)), rng.randbytes(rng.choice((0, 9, 5_000))), rng.choice((None, 60)))
            journal.append((INSERT, made))
            known.append(last)
        elif kind in {RECEIVE, FORGET}:
            journal.append((kind, rng.randint(1, 20)))
        elif kind in {IDENTITY, SESSION}:
            journal.append((kind, str(rng.random())))
        elif kind in {SEND, RELEASE}:
            journal.append((kind, rng.choice(known), rng.randint(1, 65_535)))
        else:
            journal.append((kind, rng.choice(known)))
    return journal


@pytest.mark.slow
@both_modes
@pytest.mark.parametrize("seed", range(5))
def test_random_journals_do_to_the_file_what_they_do_to_the_model(tmp_path: Path, fast: bool, seed: int) -> None:
    rng = random.Random(seed)
    clock = Clock()
    model = Model({}, clock)
    store = SQLiteStore(tmp_path / "a.db", fast=fast, wall_clock=clock)
    for _ in range(60):
        journal = random_journal(rng, model)
        outcomes: list[type[Exception] | None] = []
        for one in (model, store):
            try:
                one.commit(journal)
                outcomes.append(None)
            except StoreError as error:
                outcomes.append(type(error))
        assert outcomes[0] == outcomes[1], f"seed {seed}: {journal}"
        assert everything(store) == everything(model), f"seed {seed}: {journal}"
        if rng.random() < 0.2:
            store.close()
            clock.advance(rng.choice((-50, 3, 30)))
            store = SQLiteStore(tmp_path / "a.db", fast=fast, wall_clock=clock)
            assert everything(store) == everything(model), f"seed {seed}: after a restart"
    store.close()


# -- rows and time ------------------------------------------------------------------------------------------------------------------------


def test_seconds_left_are_not_rounded(tmp_path: Path) -> None:
    clock = Clock()
    store = SQLiteStore(tmp_path / "a.db", wall_clock=clock)
    store.commit([(INSERT, message(1, expiry_s=9.5))])
    clock.advance(0.75)
    assert store.load_queued(0, 1, ALL)[0].expiry_s == 8.75
    store.close()


def test_a_message_that_expired_while_nobody_ran_is_still_given_back(tmp_path: Path) -> None:
    clock = Clock()
    store = SQLiteStore(tmp_path / "a.db", wall_clock=clock)
    store.commit([(INSERT, message(1, expiry_s=10)), (INSERT, message(2, packet_id=7, expiry_s=10))])
    store.close()
    clock.advance(86_400)
    store = SQLiteStore(tmp_path / "a.db", wall_clock=clock)
    assert store.load().in_flight[0].expiry_s == 0
    assert store.load_queued(0, 1, ALL)[0].expiry_s == 0
    store.close()


def test_a_clock_that_was_set_back_ages_nothing_and_makes_nothing_younger(tmp_path: Path) -> None:
    clock = Clock()
    store = SQLiteStore(tmp_path / "a.db", wall_clock=clock)
    store.commit([(INSERT, message(1, expiry_s=10))])
    store.close()
    clock.advance(-1_000_000)
    store = SQLiteStore(tmp_path / "a.db", wall_clock=clock)
    assert store.load_queued(0, 1, ALL)[0].expiry_s == 10
    store.close()


def test_a_status_change_of_a_large_message_writes_one_page(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store = SQLiteStore(path)
    store.commit([(INSERT, message(1, payload=b"x" * 1_000_000))])
    for journal in ([(SEND, 1, 65_535)], [(RELEASE, 1, 1 << 50)], [(REQUEUE, 1)], [(SEND, 1, 1)]):
        store.commit([(FORGET, 1)])  # the log may start over here, and not below
        before = frames_of(path)
        store.commit(journal)
        assert frames_of(path) - before == 1
    store.close()


def test_a_window_of_the_queue_is_found_without_a_scan(tmp_path: Path) -> None:
    filled(tmp_path / "a.db")
    connection = sqlite3.connect(tmp_path / "a.db")
    query = "EXPLAIN QUERY PLAN SELECT * FROM message WHERE sequence > ? AND packet_id = 65536 ORDER BY sequence LIMIT ?"
    plan = [row[3] for row in connection.execute(query, (5, 5))]
    connection.close()
    assert plan == ["SEARCH message USING INTEGER PRIMARY KEY (rowid>?)"]


def test_load_after_a_commit_reads_again(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "a.db")
    store.commit([(INSERT, message(1))])
    assert store.load().queued_messages == 1
    assert store.load().queued_messages == 1
    store.commit([])
    store.commit([(INSERT, message(2))])
    assert store.load().queued_messages == 2
    store.close()


@pytest.mark.parametrize(
    "bad",
    [
        (INSERT, message(1 << 63)),
        (INSERT, StoredMessage(3, 0, 0, 1, False, "t", b"", cast("bytes", "text"))),
        (INSERT, StoredMessage(3, 0, 0, 1, False, "\ud800", b"", b"")),
        (SEND, 1),
    ],
    ids=["too large a number", "not bytes", "lone surrogate", "too short"],
)
def test_what_can_not_be_stored_raises_and_leaves_nothing_behind(tmp_path: Path, bad: tuple[Any, ...]) -> None:
    store = SQLiteStore(tmp_path / "a.db")
    store.commit([(INSERT, message(1))])
    for journal in ([(DELETE, 1), bad], [bad]):
        with pytest.raises((StoreError, OverflowError, TypeError, ValueError)):
            store.commit(journal)
        assert sequences(store) == [1]
    store.commit([(INSERT, message(2))])
    store.close()
    assert stored_sequences(tmp_path / "a.db") == [1, 2]


# -- opening ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", ":memory:", "a\0b", b"bytes", 7, None])
def test_a_path_that_is_none_is_refused(path: Any) -> None:
    with pytest.raises(ArgumentError, match="path"):
        SQLiteStore(path)


def test_a_path_may_be_an_object_and_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = SQLiteStore(Path("a.db"))
    assert store.path == tmp_path.resolve() / "a.db"
    store.close()
    store.close()
    assert bytes_of(tmp_path).keys() == {"a.db"}, "a log is left behind after close"


def test_an_empty_file_is_taken(tmp_path: Path) -> None:
    (tmp_path / "a.db").touch()
    store = SQLiteStore(tmp_path / "a.db")
    store.commit([(INSERT, message(1))])
    store.close()
    assert stored_sequences(tmp_path / "a.db") == [1]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_a_new_file_is_private_and_an_old_one_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    SQLiteStore(path).close()
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    store = SQLiteStore(path)
    store.commit([(INSERT, message(1))])
    assert path.stat().st_mode & 0o777 == log_of(path).stat().st_mode & 0o777 == 0o640
    store.close()


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "a.db")
    store.close()
    for call in (store.load, lambda: store.load_queued(0, 1, 1), lambda: store.commit([(FORGET, 1)])):
        with pytest.raises(StateError, match=r"a\.db: the database is closed"):
            call()


@both_modes
def test_safe_and_fast_may_change_places(tmp_path: Path, fast: bool) -> None:
    path = tmp_path / "a.db"
    for n, mode in enumerate([fast, not fast, fast], 1):
        store = SQLiteStore(path, fast=mode)
        store.commit([(INSERT, message(n))])
        store.close()
    assert stored_sequences(path) == [1, 2, 3]


def test_a_crash_while_the_file_was_being_made_leaves_one_that_can_be_made(tmp_path: Path) -> None:
    """Then the first page may be there, with our mark, and beside it SQLite's rollback journal, which says that the file was empty."""
    path = filled(tmp_path / "a.db")
    os.truncate(path, PAGE)
    connection = sqlite3.connect(tmp_path / "other.db", isolation_level=None)
    connection.execute("PRAGMA cache_size = 1")
    connection.execute("BEGIN EXCLUSIVE")
    connection.execute("CREATE TABLE filler (data)")
    connection.executemany("INSERT INTO filler VALUES (?)", [(b"x" * 3_000,)] * 10)
    shutil.copyfile(tmp_path / "other.db-journal", f"{path}-journal")
    connection.close()
    store = SQLiteStore(path)
    assert everything(store) == (StoredState(None, None, 1, [], [], 0, 0), [])
    store.close()
    assert not Path(f"{path}-journal").exists()


# -- files that are not ours --------------------------------------------------------------------------------------------------------------


def refused(path: Path, error: type[StoreError], match: str) -> None:
    """Check that the file is refused, that the message names it, and that nothing in its folder was changed."""
    before = bytes_of(path.parent)
    with pytest.raises(error, match=match) as caught:
        SQLiteStore(path)
    assert type(caught.value) is error
    assert str(path) in str(caught.value)
    assert bytes_of(path.parent) == before
    with pytest.raises(error):  # and nothing is held: the second try ends in the same way
        SQLiteStore(path, fast=True)
    assert bytes_of(path.parent) == before


@pytest.mark.parametrize("text", ["x", "Dear diary,\n" * 50, "SQLite format 3"])
def test_a_text_file_is_refused_untouched(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.db").write_text(text)
    refused(tmp_path / "a.db", StoreFormatError, "not an ΩQTT database")


def test_another_programs_database_is_refused_untouched(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "live.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE diary (line)")
    connection.execute("INSERT INTO diary VALUES ('in the log only')")
    folder = tmp_path / "killed"
    folder.mkdir()
    for suffix in ("", "-wal"):
        shutil.copyfile(tmp_path / f"live.db{suffix}", folder / f"a.db{suffix}")
    connection.close()
    refused(folder / "a.db", StoreFormatError, "not one of ΩQTT")
    other = sqlite3.connect(folder / "a.db")
    assert other.execute("SELECT * FROM diary").fetchall() == [("in the log only",)]
    other.close()


def test_a_folder_and_a_special_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.db").mkdir()
    refused(tmp_path / "a.db", StoreFormatError, "a folder")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(StoreFormatError, match="a special file"):
        SQLiteStore(tmp_path / "fifo")


def test_a_missing_folder_is_named_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"missing.a\.db: No such file or directory"):
        SQLiteStore(tmp_path / "missing" / "a.db")
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize(("version", "words"), [(2, "a newer version"), (0, "another version")])
def test_a_newer_format_is_refused_untouched(tmp_path: Path, version: int, words: str) -> None:
    path = filled(tmp_path / "a.db")
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    refused(path, StoreFormatError, words)


def test_a_newer_format_is_noticed_even_if_only_the_log_says_so(tmp_path: Path) -> None:
    live = filled(tmp_path / "live.db")
    connection = sqlite3.connect(live, isolation_level=None)
    connection.execute("PRAGMA user_version = 2")
    folder = tmp_path / "killed"
    folder.mkdir()
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{live}{suffix}", folder / f"a.db{suffix}")
    connection.close()
    refused(folder / "a.db", StoreFormatError, "a newer version")


# -- one owner at a time ------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_second_process_is_refused_until_the_first_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with held_by_another_process(path):
        before = bytes_of(tmp_path)
        with pytest.raises(StoreInUseError, match=r"a\.db: another process"):
            SQLiteStore(path)
        with pytest.raises(StoreInUseError, match="another process"):
            set_aside(path)
        assert bytes_of(tmp_path) == before
    assert stored_sequences(path) == [1, 2, 3]


def test_a_file_that_another_process_has_locked_is_in_use_whatever_it_looks_like(tmp_path: Path) -> None:
    path = crashed(tmp_path / "a.db", *ten_transactions())
    with locked_by_another_process(path):
        refused(path, StoreInUseError, "another process")
    overwrite(log_of(path), 32 + 4 * FRAME + 24, bytes(PAGE))  # as it may look for a moment to somebody who reads while another writes
    with locked_by_another_process(path):
        refused(path, StoreInUseError, "another process")
        with pytest.raises(StoreInUseError, match="another process"):
            set_aside(path)
    refused(path, StoreDamagedError, "frame 5 of its write-ahead log")


def test_a_second_client_in_one_process_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store = SQLiteStore(path)
    (tmp_path / "symbolic.db").symlink_to(path)
    (tmp_path / "hard.db").hardlink_to(path)
    for name in ("a.db", "symbolic.db", "hard.db"):
        with pytest.raises(StoreInUseError, match="another client"):
            SQLiteStore(tmp_path / name)
        with pytest.raises(StoreInUseError, match="another client"):
            set_aside(tmp_path / name)
    store.close()


@pytest.mark.slow
def test_the_first_client_keeps_its_lock_when_a_second_one_was_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store = SQLiteStore(path)
    store.commit([(INSERT, message(1))])
    with pytest.raises(StoreInUseError):
        SQLiteStore(path)
    # A file that is opened and closed loses every POSIX lock of its process: the other process would get in now.
    with python(HOLDER, path, stderr=subprocess.PIPE) as process:
        assert "StoreInUseError" in process.communicate()[1]
    store.commit([(INSERT, message(2))])
    store.close()
    assert stored_sequences(path) == [1, 2]


def test_a_store_that_was_never_closed_leaves_the_file_to_the_next(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "a.db")
    store.commit([(INSERT, message(1))])
    connection = store._connection
    assert connection is not None
    del store
    connection.close()  # what the collector does, though from Python 3.13 on not without a warning
    assert stored_sequences(tmp_path / "a.db") == [1]


def test_a_reader_from_outside_is_reported_as_well(tmp_path: Path) -> None:
    path = filled(tmp_path / "a.db")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT * FROM message").fetchone()
    with pytest.raises(StoreInUseError):
        SQLiteStore(path)
    other.close()
    assert len(stored_sequences(path)) == 300


# -- damage -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "data", "match"),
    [
        (0, bytes(PAGE), "it begins with zeros"),
        (0, b"\xff" * 16, "its first bytes are not SQLite's"),
        (16, b"\x07\x07", "not a database"),
        (100, b"\xff" * 8, "malformed|not a database"),
        (PAGE, bytes(PAGE), "malformed"),
        (3 * PAGE, b"\xa5" * PAGE, "malformed"),
        (9 * PAGE, bytes(PAGE), "malformed"),
        (-PAGE, b"\xa5" * PAGE, "malformed"),
    ],
    ids=["first page", "magic", "page size", "first node", "second page", "fourth page", "tenth page", "last page"],
)
def test_a_damaged_page_is_reported_and_nothing_changed(tmp_path: Path, offset: int, data: bytes, match: str) -> None:
    path = filled(tmp_path / "a.db")
    overwrite(path, offset, data)
    refused(path, StoreDamagedError, match)


@pytest.mark.parametrize("size", [50, 100, PAGE, 5 * PAGE, 5 * PAGE + 1_000])
def test_a_truncated_file_is_reported_and_nothing_changed(tmp_path: Path, size: int) -> None:
    path = filled(tmp_path / "a.db")
    os.truncate(path, size)
    refused(path, StoreDamagedError, "damaged")


def test_a_damaged_page_is_reported_and_the_log_beside_it_stays(tmp_path: Path) -> None:
    path = filled(tmp_path / "live.db")
    store = SQLiteStore(path)
    store.commit([(INSERT, message(1_000))])
    folder = tmp_path / "killed"
    folder.mkdir()
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{path}{suffix}", folder / f"a.db{suffix}")
    store.close()
    overwrite(folder / "a.db", 5 * PAGE, bytes(PAGE))
    refused(folder / "a.db", StoreDamagedError, "malformed")
    assert len(bytes_of(folder)["a.db-wal"]) > FRAME


def test_a_flipped_bit_in_a_payload_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store = SQLiteStore(path)
    store.commit([(INSERT, message(1, payload=b"first payload")), (INSERT, message(2, payload=b"other payload"))])
    store.close()
    overwrite(path, path.read_bytes().index(b"other payload"), b"Other payload")
    store = SQLiteStore(path)
    assert sequences(store) == [1]  # what is before the damage is given back
    with pytest.raises(StoreDamagedError, match=r"message 2 doesn't have its checksum.*set_aside"):
        store.load_queued(1, 1, ALL)
    store.close()


def test_a_flipped_bit_in_a_payload_in_flight_is_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store = SQLiteStore(path)
    store.commit([(INSERT, message(1, packet_id=1, payload=b"first payload"))])
    store.close()
    overwrite(path, path.read_bytes().index(b"first payload"), b"First payload")
    refused(path, StoreDamagedError, "message 1 doesn't have its checksum")


def test_damage_that_shows_later_is_reported_by_the_call_that_meets_it(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    store = SQLiteStore(path)
    store.commit([(INSERT, message(1, payload=b"x" * 50_000))])
    store.close()
    overwrite(path, 8 * PAGE, b"\xa5" * 4)  # a page of the payload points to nowhere; opening has no need of it
    store = SQLiteStore(path)
    before = bytes_of(tmp_path)
    for call in (lambda: store.load_queued(0, 1, 1), lambda: store.commit([(DELETE, 1)])):
        with pytest.raises(StoreDamagedError, match=r"a\.db: the database is damaged \(database disk image is malformed\)"):
            call()
    assert store.load().queued_messages == 1
    store.close()
    assert bytes_of(tmp_path)["a.db"] == before["a.db"]


def test_damage_that_load_meets_is_reported(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "a.db")
    store.commit([(INSERT, message(1))])
    assert store._connection is not None
    store._connection.execute("DROP TABLE received")
    with pytest.raises(StoreError, match=r"a\.db: no such table: received"):
        store.load()
    store.close()


# -- damage in the write-ahead log --------------------------------------------------------------------------------------------------------


def ten_transactions() -> list[Journal]:
    return [inserts(n, n) for n in range(1, 11)]


@pytest.mark.parametrize(
    "within", [24 + 4_000, 24, 16, 8, 4, 0], ids=["page", "page's start", "checksum", "salt", "commit mark", "page number"]
)
@pytest.mark.parametrize("frame", [0, 4, 6])
def test_a_bad_frame_before_good_ones_is_damage(tmp_path: Path, frame: int, within: int) -> None:
    path = crashed(tmp_path / "a.db", *ten_transactions())
    assert frames_of(path) == 10
    log = log_of(path)
    old = log.read_bytes()[32 + frame * FRAME + within]
    overwrite(log, 32 + frame * FRAME + within, bytes([old ^ 0x40]))
    refused(path, StoreDamagedError, rf"frame {frame + 1} of its write-ahead log")


def test_a_lost_header_of_the_log_is_damage(tmp_path: Path) -> None:
    path = crashed(tmp_path / "a.db", *ten_transactions())
    for offset, data in ((24, b"\0\0"), (0, bytes(32))):
        overwrite(log_of(path), offset, data)
        refused(path, StoreDamagedError, "the header of its write-ahead log")


def test_a_log_without_its_file_is_damage(tmp_path: Path) -> None:
    path = crashed(tmp_path / "a.db", *ten_transactions())
    path.write_bytes(b"")
    refused(path, StoreDamagedError, "the file that it belongs to is missing or empty")


def test_an_unfinished_last_transaction_is_no_damage(tmp_path: Path) -> None:
    path = crashed(tmp_path / "a.db", *ten_transactions())
    whole = bytes_of(tmp_path)
    for size in (32 + 9 * FRAME, 32 + 9 * FRAME + 10, 32 + 10 * FRAME - 1):
        for name, data in whole.items():
            (tmp_path / name).write_bytes(data)
        os.truncate(log_of(path), size)
        assert stored_sequences(path) == list(range(1, 10))
    for name, data in whole.items():
        (tmp_path / name).write_bytes(data)
    overwrite(log_of(path), -100, b"torn")
    assert stored_sequences(path) == list(range(1, 10))


@pytest.mark.parametrize("size", [0, 10, 32])
def test_a_log_that_was_only_begun_is_no_damage(tmp_path: Path, size: int) -> None:
    path = crashed(tmp_path / "a.db", *ten_transactions())
    log_of(path).write_bytes(b"\xff" * size)
    assert stored_sequences(path) == []


@pytest.mark.slow
def test_holes_in_a_last_transaction_of_many_pages_are_no_damage(tmp_path: Path) -> None:
    """A power cut may leave the end of a transaction on the disk without its beginning."""
    path = crashed(tmp_path / "a.db", inserts(1, 1), inserts(2, 200, b"x" * 200))
    whole = bytes_of(tmp_path)
    frames = frames_of(path)
    assert frames > 5
    for frame in range(1, frames):
        for hole in (slice(0, FRAME), slice(24, FRAME), slice(0, 24), slice(600, 1_112)):
            for name, data in whole.items():
                (tmp_path / name).write_bytes(data)
            overwrite(log_of(path), 32 + frame * FRAME + hole.start, b"\xa5" * (hole.stop - hole.start))
            assert stored_sequences(path) == [1], f"{hole} of frame {frame}"


def test_what_a_large_transaction_left_in_the_log_before_it_failed_is_no_damage(tmp_path: Path) -> None:
    live = tmp_path / "live.db"
    path = tmp_path / "a.db"
    store = SQLiteStore(live)
    store.commit(inserts(1, 1))
    assert store._connection is not None
    store._connection.execute("PRAGMA cache_size = 10")
    with pytest.raises(StoreError, match="isn't stored"):
        store.commit([*inserts(2, 300, b"x" * 1_000), (SEND, 9_999, 1)])
    for n in range(2, 6):
        store.commit(inserts(n, n))
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{live}{suffix}", f"{path}{suffix}")
    store.close()
    assert frames_of(path) > 50
    assert stored_sequences(path) == [1, 2, 3, 4, 5]


def test_holes_in_a_transaction_of_many_pages_before_others_are_damage(tmp_path: Path) -> None:
    path = crashed(tmp_path / "a.db", inserts(1, 1), inserts(2, 200, b"x" * 200), inserts(201, 201))
    overwrite(log_of(path), 32 + 3 * FRAME + 24, bytes(PAGE))
    refused(path, StoreDamagedError, r"frame 4 of its write-ahead log")


def test_frames_from_before_the_log_was_started_over_are_no_damage(tmp_path: Path) -> None:
    live = tmp_path / "live.db"
    path = tmp_path / "a.db"
    store = SQLiteStore(live)
    for journal in ten_transactions():
        store.commit(journal)
    assert store._connection is not None
    store._connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
    store.commit(inserts(11, 11))
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{live}{suffix}", f"{path}{suffix}")
    store.close()
    assert frames_of(path) == 10
    assert stored_sequences(path) == list(range(1, 12))


def test_holes_in_a_fast_writers_log_are_what_fast_means(tmp_path: Path) -> None:
    path = crashed(tmp_path / "a.db", *ten_transactions(), fast=True)
    overwrite(log_of(path), 32 + 4 * FRAME + 24, bytes(PAGE))
    assert stored_sequences(path) == list(range(1, 5))


# -- set aside ----------------------------------------------------------------------------------------------------------------------------


def test_a_damaged_database_is_set_aside_whole_and_the_path_is_free(tmp_path: Path) -> None:
    path = crashed(tmp_path / "a.db", *ten_transactions())
    overwrite(log_of(path), 32 + 4 * FRAME + 24, bytes(PAGE))
    before = bytes_of(tmp_path)
    aside = set_aside(str(path))
    assert aside == tmp_path.resolve() / "a.db.damaged-1"
    assert bytes_of(tmp_path) == {"a.db.damaged-1": before["a.db"], "a.db.damaged-1-wal": before["a.db-wal"]}
    assert stored_sequences(path) == []
    assert set_aside(path) == tmp_path.resolve() / "a.db.damaged-2"
    with pytest.raises(StoreError, match="no such file to set aside"):
        set_aside(path)


def test_a_log_without_its_file_can_be_set_aside(tmp_path: Path) -> None:
    path = crashed(tmp_path / "a.db", *ten_transactions())
    path.unlink()
    assert set_aside(path) == tmp_path.resolve() / "a.db.damaged-1"
    assert bytes_of(tmp_path).keys() == {"a.db.damaged-1-wal"}
    assert stored_sequences(path) == []


def test_a_file_that_is_no_database_any_more_can_be_set_aside(tmp_path: Path) -> None:
    path = filled(tmp_path / "a.db")
    overwrite(path, 0, bytes(PAGE))
    before = path.read_bytes()
    assert set_aside(path).read_bytes() == before


def test_setting_aside_in_a_read_only_folder_fails_with_the_systems_words(public_path: Path) -> None:
    path = filled(public_path / "a.db")
    path.chmod(0o666)
    public_path.chmod(0o555)
    with unprivileged(), pytest.raises(StoreError, match=r"a\.db: could not be set aside: Permission denied"):
        set_aside(path)
    assert path.exists()


# -- disks that fail ----------------------------------------------------------------------------------------------------------------------


def test_a_read_only_folder_is_reported(public_path: Path) -> None:
    path = filled(public_path / "a.db")
    path.chmod(0o666)
    public_path.chmod(0o555)
    before = bytes_of(public_path)
    with unprivileged():
        with pytest.raises(StoreError, match=r"new\.db: Permission denied"):
            SQLiteStore(public_path / "new.db")
        with pytest.raises(StoreError, match=r"a\.db: (unable to open database file|attempt to write a readonly database)"):
            SQLiteStore(path)
    assert bytes_of(public_path) == before


def test_a_read_only_file_is_reported(public_path: Path) -> None:
    path = filled(public_path / "a.db")
    path.chmod(0o444)
    public_path.chmod(0o777)
    before = bytes_of(public_path)
    with unprivileged(), pytest.raises(StoreError, match=r"a\.db: Permission denied"):
        SQLiteStore(path)
    assert bytes_of(public_path) == before


@both_modes
def test_a_full_disk_refuses_the_whole_journal_and_takes_the_next_when_there_is_room(tmp_path: Path, fast: bool) -> None:
    path = tmp_path / "a.db"
    store = SQLiteStore(path, fast=fast)
    store.commit([*inserts(1, 3), (RECEIVE, 1)])
    before = everything(store)
    assert store._connection is not None
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()
    for journal in ([(DELETE, 1), (FORGET, 1), *inserts(4, 100, b"x" * 300)], inserts(4, 4, b"x" * 20_000)):
        with pytest.raises(StoreError, match=r"a\.db: database or disk is full") as caught:
            store.commit(journal)
        assert type(caught.value) is StoreError
        assert everything(store) == before
    store._connection.execute("PRAGMA max_page_count = 1000000").fetchall()
    store.commit([(DELETE, 1), (FORGET, 1), *inserts(4, 100, b"x" * 300)])
    store.close()
    assert stored_sequences(path) == list(range(2, 101))


@contextlib.contextmanager
def no_file_grows_beyond(size: int) -> Generator[None]:
    """Let the operating system refuse to write beyond a size, in any file of this process: the nearest thing to a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_what_a_crash_left_can_be_read_though_the_disk_is_too_full_to_fold_it_in(tmp_path: Path) -> None:
    path = crashed(tmp_path / "a.db", inserts(1, 100, b"x" * 1_000))
    with no_file_grows_beyond(path.stat().st_size):
        assert stored_sequences(path) == list(range(1, 101))
    assert stored_sequences(path) == list(range(1, 101))


@pytest.mark.slow
@both_modes
def test_a_disk_that_fails_at_any_byte_leaves_the_state_before_or_after(tmp_path: Path, fast: bool) -> None:
    """The limit goes up until the commit passes; after each failure the store, and the file as a killed process leaves it, are looked at."""
    journal: Journal = [(SEND, 1, 9), (DELETE, 2), *inserts(11, 60, b"y" * 300), (RECEIVE, 4), (SESSION, "after")]
    limit = 0
    failures = 0
    while True:
        folder = tmp_path / str(limit)
        folder.mkdir()
        path = folder / "a.db"
        store = SQLiteStore(path, fast=fast)
        store.commit([*inserts(1, 10), (SESSION, "before")])
        before = everything(store)
        failed = False
        with no_file_grows_beyond(limit):
            try:
                store.commit(journal)
            except StoreError:
                failed = True
        copied = folder / "killed.db"
        for suffix in ("", "-wal"):
            shutil.copyfile(f"{path}{suffix}", f"{copied}{suffix}")
        if not failed:
            break
        failures += 1
        assert everything(store) == before
        store.commit([(IDENTITY, "still alive")])
        store.commit([(IDENTITY, before[0].client_id or "")])
        store.close()
        killed = SQLiteStore(copied)
        assert everything(killed) == before
        killed.close()
        limit += 1_500
    after = everything(store)
    store.close()
    assert after[0].session == "after"
    assert failures > 5
    killed = SQLiteStore(copied)
    assert everything(killed) == after
    killed.close()


class FailingCursor:
    """A cursor on a disk that fails once, at the n-th call."""

    def __init__(self, cursor: sqlite3.Cursor, fails_at: int) -> None:
        self.cursor = cursor
        self.calls_left = fails_at

    def __getattr__(self, name: str) -> Any:
        return getattr(self.cursor, name)

    def execute(self, *arguments: Any) -> Any:
        self.count()
        return self.cursor.execute(*arguments)

    def executemany(self, *arguments: Any) -> Any:
        self.count()
        return self.cursor.executemany(*arguments)

    def count(self) -> None:
        self.calls_left -= 1
        if not self.calls_left:
            raise sqlite3.OperationalError("disk I/O error")


def test_an_operation_that_fails_leaves_the_state_before_or_after(tmp_path: Path) -> None:
    journal: Journal = [
        (SEND, 1, 9), (RELEASE, 1, 1), *inserts(11, 12), (DELETE, 12), (RECEIVE, 4), (FORGET, 1), (SESSION, "after"), (REQUEUE, 2), (IDENTITY, "a")
    ]  # fmt: skip
    for fails_at in range(1, 30):
        path = tmp_path / f"{fails_at}.db"
        store = SQLiteStore(path)
        store.commit([*inserts(1, 1), (INSERT, message(2, packet_id=1)), (RECEIVE, 1)])
        before = everything(store)
        whole = store._cursor
        store._cursor = FailingCursor(whole, fails_at)  # type: ignore[assignment]
        failure: StoreError | None = None
        try:
            store.commit(journal)
        except StoreError as error:
            failure = error
        store._cursor = whole
        if failure is None:
            break
        assert "disk I/O error" in str(failure)
        assert everything(store) == before
        store.commit(journal)
        after = everything(store)
        store.close()
        store = SQLiteStore(path)
        assert everything(store) == after
        store.close()
    else:
        pytest.fail("no run passed")
    assert fails_at > 10
    assert store.load().session == "after"
    store.close()


# -- processes ----------------------------------------------------------------------------------------------------------------------------

COMMITTER = """
import sys
from ohmqtt.store import SQLiteStore
from tests.test_store import nth_journal
store = SQLiteStore(sys.argv[1], fast=sys.argv[2] == "True")
n = int(sys.argv[3])
while True:
    n += 1
    store.commit(nth_journal(n))
    sys.stdout.write(f"{n}\\n")
    sys.stdout.flush()
"""


def nth_journal(n: int) -> Journal:
    """Say what the n-th commit of a life is: each message is queued, sent, released and deleted in turn."""
    journal: Journal = [(INSERT, message(n, payload=b"%d" % n * 40))]
    if n > 30:
        journal += [(SEND, n - 30, n % 1_000 + 1), (RECEIVE, n % 1_000 + 1)]
    if n > 60:
        journal += [(RELEASE, n - 60, n), (SESSION, str(n))]
    if n > 90:
        journal += [(DELETE, n - 90), (FORGET, (n - 60) % 1_000 + 1)]
    return journal


@pytest.mark.slow
@both_modes
def test_every_commit_that_returned_survives_kill_9(tmp_path: Path, fast: bool) -> None:
    path = tmp_path / "a.db"
    model = Model({}, Clock())
    n = 0
    for commits in (1, 40, 3, 200):
        with python(COMMITTER, path, fast, n) as process:
            assert process.stdout is not None
            for _ in range(commits):
                process.stdout.readline()
            process.kill()
            reported = n + commits + len(process.stdout.readlines())
        while n < reported:
            n += 1
            model.commit(nth_journal(n))
        store = SQLiteStore(path, fast=fast)
        found = everything(store)
        store.close()
        if found != everything(model):
            n += 1
            model.commit(nth_journal(n))  # committed, and killed before it could be reported
        assert found == everything(model)


FORKER = """
import os, signal, sys
from ohmqtt.errors import ForkedError, StoreInUseError
from ohmqtt.journal import INSERT, StoredMessage
from ohmqtt.store import SQLiteStore

store = SQLiteStore(sys.argv[1])

def put(sequence):
    store.commit([(INSERT, StoredMessage(sequence, 0, 0, 1, False, "t", b"\\0", b""))])

put(1)
put(2)
child = os.fork()
if child == 0:
    for number, call in enumerate((store.load, lambda: store.load_queued(0, 1, 1), lambda: put(3)), 1):
        try:
            call()
        except ForkedError:
            pass
        else:
            sys.exit(number)
    try:
        SQLiteStore(sys.argv[1])
    except StoreInUseError:
        pass
    else:
        sys.exit(4)
    store.close()
    del store
    sys.exit(0)  # the ordinary end of an interpreter, which collects everything
assert os.waitpid(child, 0)[1] == 0, "the child got through to the database"
put(3)
print("done", flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="fork")
def test_a_forked_child_can_not_touch_the_database_and_the_parents_rows_survive(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    with python(FORKER, path) as process:
        assert process.communicate()[0] == "done\n"
    assert stored_sequences(path) == [1, 2, 3]


def test_a_forked_child_keeps_the_connection_it_must_not_close(tmp_path: Path) -> None:
    store = SQLiteStore(tmp_path / "a.db")
    references = sys.getrefcount(store)
    _before_fork()
    _after_fork_in_child()
    assert sys.getrefcount(store) == references + 1
    store._pid += 1
    store.close()
    for call in (store.load, lambda: store.load_queued(0, 1, 1), lambda: store.commit([(FORGET, 1)])):
        with pytest.raises(ForkedError, match=r"belongs to process \d+"):
            call()
    store._pid -= 1
    store.commit([(INSERT, message(1))])
    store.close()


def test_the_parent_goes_on_after_a_fork(tmp_path: Path) -> None:
    _before_fork()
    _after_fork_in_parent()
    store = SQLiteStore(tmp_path / "a.db")
    _before_fork()
    _after_fork_in_parent()
    store.commit([(INSERT, message(1))])
    store.close()


def test_signals_of_the_test_itself_are_as_python_sets_them() -> None:
    """A write beyond RLIMIT_FSIZE is an error and not the end of the process."""
    assert signal.getsignal(signal.SIGXFSZ) == signal.SIG_IGN
