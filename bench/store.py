"""What a commit costs: ``SQLiteStore`` beside bare SQLite with the same durability, in one interleaved run.

Run: ``PYTHONPATH=src python bench/store.py [folder on the disk to measure]``. The bare side inserts five columns with a prepared statement
in autocommit mode, once with SQLite's ordinary locking and once with the exclusive lock that ``SQLiteStore`` takes: the least that a
program can do. Each round runs all of them in turn on files of their own; medians and the spread over the rounds are shown.
"""

from __future__ import annotations

import gc
import os
import platform
import shutil
import sqlite3
import statistics
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from ohmqtt.journal import DELETE, INSERT, SEND, StoredMessage
from ohmqtt.store import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 9
PAYLOAD = b"0123456789abcdef"
ROWS = 65_000


class Bare:
    """The bare side: one table, one statement."""

    def __init__(self, path: Path, fast: bool, exclusive: bool) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None)
        execute = self.connection.execute
        if exclusive:
            execute("PRAGMA locking_mode = EXCLUSIVE")
        execute("PRAGMA journal_mode = WAL")
        execute(f"PRAGMA synchronous = {'NORMAL' if fast else 'FULL'}")
        execute("CREATE TABLE message (sequence INTEGER PRIMARY KEY, topic TEXT, qos INTEGER, properties BLOB, payload BLOB)")
        self.sequence = 0

    def one(self, count: int) -> None:
        execute = self.connection.cursor().execute
        for sequence in range(self.sequence + 1, self.sequence + count + 1):
            execute("INSERT INTO message VALUES (?,?,?,?,?)", (sequence, "some/topic", 1, b"\0", PAYLOAD))
        self.sequence += count

    def hundreds(self, count: int) -> None:
        cursor = self.connection.cursor()
        for first in range(self.sequence + 1, self.sequence + count + 1, 100):
            cursor.execute("BEGIN")
            rows = [(sequence, "some/topic", 1, b"\0", PAYLOAD) for sequence in range(first, first + 100)]
            cursor.executemany("INSERT INTO message VALUES (?,?,?,?,?)", rows)
            cursor.execute("COMMIT")
        self.sequence += count


class Ours:
    """Our side: what a client calls."""

    def __init__(self, path: Path, fast: bool) -> None:
        self.store = SQLiteStore(path, fast=fast)
        self.sequence = 0

    def one(self, count: int) -> None:
        commit = self.store.commit
        for sequence in range(self.sequence + 1, self.sequence + count + 1):
            commit([(INSERT, StoredMessage(sequence, 0, 0, 1, False, "some/topic", b"\0", PAYLOAD))])
        self.sequence += count

    def hundreds(self, count: int) -> None:
        commit = self.store.commit
        for first in range(self.sequence + 1, self.sequence + count + 1, 100):
            commit(
                [(INSERT, StoredMessage(sequence, 0, 0, 1, False, "some/topic", b"\0", PAYLOAD)) for sequence in range(first, first + 100)]
            )
        self.sequence += count


def timed(action: Callable[[], object]) -> float:
    gc.collect()
    start = perf_counter()
    action()
    return perf_counter() - start


def commits(folder: Path, fast: bool) -> None:
    sides: dict[str, Bare | Ours] = {
        "bare SQLite": Bare(folder / f"bare-{fast}.db", fast, exclusive=False),
        "bare, exclusive lock": Bare(folder / f"exclusive-{fast}.db", fast, exclusive=True),
        "SQLiteStore": Ours(folder / f"ours-{fast}.db", fast),
    }
    ones, hundreds = (4_000 if fast else 500), 5_000
    figures: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in sides}
    for _ in range(ROUNDS):
        for name, side in sides.items():
            figures[name][0].append(ones / timed(lambda side=side: side.one(ones)))
            figures[name][1].append(hundreds / timed(lambda side=side: side.hundreds(hundreds)))
    bare = [statistics.median(values) for values in figures["bare SQLite"]]
    print(f"\n{'fast (WAL/NORMAL)' if fast else 'safe (WAL/FULL)'}: messages per second, median (lowest ... highest), share of bare SQLite")
    for name, columns in figures.items():
        cells = [
            f"{statistics.median(values):9,.0f} ({min(values):9,.0f} ... {max(values):9,.0f}) {statistics.median(values) / base:5.2f}"
            for values, base in zip(columns, bare, strict=True)
        ]
        print(f"  {name:<22} one at a time {cells[0]}   by 100 {cells[1]}")


def backlog(folder: Path, payload_bytes: int) -> None:
    path = folder / f"backlog-{payload_bytes}.db"
    payload = os.urandom(payload_bytes)
    store = SQLiteStore(path, fast=True)
    for first in range(1, ROWS + 1, 1_000):
        store.commit(
            [(INSERT, StoredMessage(number, 0, 0, 1, False, "some/topic", b"\0", payload)) for number in range(first, first + 1_000)]
        )
    store.close()

    def open_and_close() -> None:
        SQLiteStore(path).close()

    def drain() -> None:
        after = 0
        while window := store.load_queued(after, 1_000, 1 << 30):
            after = window[-1].sequence
            store.commit([(SEND, message.sequence, 1) for message in window])
            store.commit([(DELETE, message.sequence) for message in window])

    opened_s = min(timed(open_and_close) for _ in range(3))
    store = SQLiteStore(path)
    first_window_s = min(timed(lambda: store.load_queued(0, 1_000, 1 << 30)) for _ in range(3))
    drained_s = timed(drain)
    store.close()
    print(
        f"  {ROWS:,} messages of {payload_bytes:>5,} B queued: open {opened_s * 1e3:6.1f} ms, first window of 1,000 "
        f"{first_window_s * 1e3:5.1f} ms, load + send + delete all by 1,000: {drained_s / ROWS * 1e6:5.1f} us each"
    )


def main() -> None:
    print(f"CPython {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} cores, {ROUNDS} rounds")
    folder = Path(tempfile.mkdtemp(dir=sys.argv[1] if len(sys.argv) > 1 else None))
    try:
        commits(folder, fast=False)
        commits(folder, fast=True)
        print("\nbacklog, safe")
        for payload_bytes in (16, 256, 1_024, 4_096):
            backlog(folder, payload_bytes)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
