"""The power is cut between any two system calls of the store, and any part of what wasn't synced is lost.

Safe mode: the state that is found is the one after some number of commits, and none that returned is missing. Fast mode: the same, but the
commits since the log was last synced (when it is folded into the file, at the latest by `close`) may be missing, the last ones first. So a
power cut in fast mode may bring back what had been removed, as part of a whole earlier state, never beside what came later. Neither mode
ever takes for damage what a power cut may leave, however often it is cut.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ohmqtt.errors import StoreDamagedError
from ohmqtt.journal import INSERT, StoredMessage
from ohmqtt.store import SQLiteStore
from tests.disk.lives import Found, Journal, Life, open_store, plan, state_of
from tests.disk.power import SECTOR, Disk
from tests.disk.recorder import Create, Event, Rename, Sync, SyncFolder, Truncate, Unlink, Write, calls_on
from tests.disk.soak import Tally, cut_power, scratch, soak
from tests.disk.tracer import CAN_TRACE, Call, ChildFailed, trace

if TYPE_CHECKING:
    from collections.abc import Callable

needs_ptrace = pytest.mark.skipif(not CAN_TRACE, reason="ptrace: Linux on x86_64 or aarch64 only")
both_modes = pytest.mark.parametrize("fast", [False, True], ids=["safe", "fast"])

FRAME = 24 + 4096


def inserts(first: int, last: int, payload: bytes = b"payload") -> Journal:
    return [(INSERT, StoredMessage(n, 0, 0, 2, False, "some/topic", b"\0", payload)) for n in range(first, last + 1)]


# -- the model ----------------------------------------------------------------------------------------------------------------------------


def images(disk: Disk) -> list[dict[str, bytes]]:
    return list(disk.images(random.Random(1), 3))


def disk_after(*events: Event, **image: bytes) -> Disk:
    disk = Disk(image)
    for event in events:
        disk.apply(event)
    return disk


def test_what_is_synced_stays_and_what_is_not_may_go() -> None:
    disk = disk_after(Write("a", 1, b"X"), Sync("a"), Write("a", 2, b"Y"), a=b"abc")
    assert sorted(image["a"] for image in images(disk)) == [b"aXY", b"aXc"]


def test_a_later_write_may_be_there_without_an_earlier_one() -> None:
    disk = disk_after(Write("a", 0, b"X"), Write("a", 3, b"Y"), a=b"ab")
    assert {image["a"] for image in images(disk)} == {b"ab", b"Xb", b"ab\0Y", b"Xb\0Y"}


def test_a_write_is_torn_where_sectors_end() -> None:
    disk = disk_after(Write("a", SECTOR - 1, b"XY"), a=bytes(2 * SECTOR))
    pairs = {image["a"][SECTOR - 1 : SECTOR + 1] for image in images(disk)}
    assert pairs == {b"\0\0", b"X\0", b"\0Y", b"XY"}


def test_a_name_is_there_for_sure_only_when_its_folder_is_synced() -> None:
    disk = disk_after(Create("b"), Write("b", 0, b"x"), Sync("b"))
    assert {} in images(disk)
    disk.apply(SyncFolder())
    assert images(disk) == [{"b": b"x"}]
    disk.apply(Unlink("b"))
    assert {"b": b"x"} in images(disk)
    assert {} in images(disk)


def test_a_new_name_is_there_or_the_old_one_is() -> None:
    disk = disk_after(Rename("a", "b"), a=b"x")
    assert {tuple(image) for image in images(disk)} == {("a",), ("b",)}


def test_a_truncation_may_be_lost() -> None:
    disk = disk_after(Truncate("a", 1), a=b"abc")
    assert {image["a"] for image in images(disk)} == {b"a", b"abc"}
    assert disk.now() == {"a": b"a"}


@needs_ptrace
def test_a_child_that_fails_says_why() -> None:
    with pytest.raises(ChildFailed, match=r"(?s)Traceback.*ZeroDivisionError"):
        list(trace(lambda say: say(str(1 // 0))))


@needs_ptrace
def test_of_a_child_that_is_dead_nothing_can_be_read(tmp_path: Path) -> None:
    def life(_: Callable[[str], None]) -> None:
        (tmp_path / "a").write_bytes(b"x")

    steps = trace(life)
    write = next(step for step in steps if isinstance(step, Call) and step.name == "write")
    assert write.read(write.arguments[1], 1) == b"x"
    write.kill()
    with pytest.raises(ProcessLookupError):
        while True:  # it dies as soon as it gets a processor
            write.text(write.arguments[1])
    assert list(steps) == []


@needs_ptrace
@pytest.mark.slow
def test_a_child_may_end_while_its_other_threads_are_in_system_calls(tmp_path: Path) -> None:
    """One of them has stopped to be looked at when the process goes: in one of some fifteen lives."""

    def write_for_ever() -> None:
        with (tmp_path / "a").open("ab", buffering=0) as file:
            while True:
                file.write(b"x")

    def life(say: Callable[[str], None]) -> None:
        for _ in range(8):
            threading.Thread(target=write_for_ever, daemon=True).start()
        while (tmp_path / "a").stat().st_size < 8:
            pass
        say("left")

    for _ in range(60):
        (tmp_path / "a").write_bytes(b"")
        *_, words = [step for step, _ in calls_on(tmp_path, life) if isinstance(step, str)]
        assert words == "left"


# -- the store ----------------------------------------------------------------------------------------------------------------------------


def cut(fast: bool, commits: int, tally: Tally, **options: object) -> list[object]:
    """Cut the power in a first life that makes the database; return the states that were found."""
    chance = random.Random(3)
    with scratch() as folder:
        journals, states = plan(folder / "plan", {}, commits, chance)
        opens = options.pop("opens", open_store)
        life = Life(fast, journals, log_pages=6, opens=opens)  # type: ignore[arg-type]
        return [states.index(state) for _, state in cut_power(folder, {}, life, states, tally, chance, **options)]  # type: ignore[arg-type]


@needs_ptrace
@pytest.mark.slow
@both_modes
def test_from_the_first_system_call_to_the_last_nothing_promised_is_lost(fast: bool) -> None:
    tally = Tally()
    found = cut(fast, 6, tally)
    sys.stdout.write(f"{tally}\n")
    assert set(found) >= {0, 3, 6}
    assert tally.counts["different ones"] > 300


@needs_ptrace
@pytest.mark.slow
def test_many_lives_on_one_disk_with_a_power_cut_between_any_two() -> None:
    """The same lives each time; ``python -m tests.disk`` has others."""
    tally = Tally()
    seed = 0
    while tally.counts["different ones"] < 4_000:
        soak(seed, 4, 0, tally)
        seed += 1
    sys.stdout.write(f"seeds up to {seed - 1}: {tally}\n")


def careless(pragma: str) -> object:
    def opens(folder: Path, fast: bool) -> SQLiteStore:
        store = open_store(folder, fast)
        assert store._connection is not None
        store._connection.execute(f"PRAGMA {pragma}").fetchall()
        return store

    return opens


@needs_ptrace
@pytest.mark.slow
@pytest.mark.parametrize(
    ("pragma", "words"), [("synchronous = OFF", "header of its write-ahead log"), ("synchronous = NORMAL", "were promised")]
)
def test_a_store_that_does_not_wait_for_the_disk_is_caught(pragma: str, words: str) -> None:
    with pytest.raises(Found, match=words):
        cut(False, 8, Tally(), opens=careless(pragma))


@needs_ptrace
@pytest.mark.slow
@pytest.mark.parametrize(
    "deaf_to", [SyncFolder(), Sync("a.db"), Sync("a.db-wal"), Sync("a.db-journal")], ids=["folder", "file", "log", "journal"]
)
def test_a_disk_that_lies_about_a_sync_is_caught(deaf_to: Event) -> None:
    """Which shows that the model would miss each of these syncs if the store, or SQLite, left it out."""
    with pytest.raises(Found):
        cut(False, 8, Tally(), believes=lambda event: (type(event), event) != (type(deaf_to), deaf_to))


# -- what it found, by hand and quickly ---------------------------------------------------------------------------------------------------


def test_a_power_cut_while_the_file_is_made_is_no_damage(tmp_path: Path) -> None:
    """The last page may be on the disk without the first one. SQLite's rollback journal says that the file was empty before."""
    path = tmp_path / "a.db"
    other = sqlite3.connect(tmp_path / "other.db", isolation_level=None)
    other.execute("PRAGMA cache_size = 1")
    other.execute("BEGIN EXCLUSIVE")
    other.execute("CREATE TABLE filler (data)")
    other.executemany("INSERT INTO filler VALUES (?)", [(b"x" * 3_000,)] * 10)
    shutil.copyfile(tmp_path / "other.db-journal", f"{path}-journal")
    other.close()
    path.write_bytes(bytes(4 * 4096))
    store = SQLiteStore(path)
    assert state_of(store)[0].next_sequence == 1
    store.close()
    for journal in (b"", b"\xd9", bytes(512)):  # nothing that says so
        path.write_bytes(bytes(4 * 4096))
        Path(f"{path}-journal").write_bytes(journal)
        with pytest.raises(StoreDamagedError, match="it begins with zeros"):
            SQLiteStore(path)


def torn(path: Path, *journals: Journal) -> None:
    """Let a power cut come when a large journal is being committed: the third frame of the log isn't on the disk, those behind it are."""
    store = SQLiteStore(path)
    log = Path(f"{path}-wal")
    for journal in journals:
        store.commit(journal)
    files = {name: name.read_bytes() for name in (path, log)}
    store.close()
    for name, data in files.items():
        name.write_bytes(data)
    with log.open("r+b") as file:
        file.seek(32 + 2 * FRAME + 24)
        file.write(bytes(4096))


def test_power_cuts_one_after_the_other_are_no_damage(tmp_path: Path) -> None:
    """What each one leaves behind the end of the log must not be taken for what had been there before a hole."""
    path = tmp_path / "a.db"
    SQLiteStore(path).close()
    torn(path, inserts(1, 1), inserts(2, 100, b"x" * 1_000))
    torn(path, inserts(2, 30, b"x" * 1_000))
    store = SQLiteStore(path)
    store.commit(inserts(2, 2))
    killed = tmp_path / "killed.db"
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{path}{suffix}", f"{killed}{suffix}")
    store.close()
    store = SQLiteStore(killed)
    assert [message.sequence for message in state_of(store)[1]] == [1, 2]
    store.close()


@needs_ptrace
def test_the_first_system_calls_in_brief() -> None:
    """A slice of the slow tests: opening alone, with few images."""
    tally = Tally()
    with scratch() as folder:
        states = plan(folder / "plan", {}, 0, random.Random(1))[1]
        steps = cut_power(folder, {}, Life(False, [], closes=False), states, tally, random.Random(1), random_count=0)
        for _ in range(25):
            next(steps)
        steps.close()
    assert tally.counts["different ones"] == 25
