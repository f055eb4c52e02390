"""What the child does with the store, and what must be found afterwards.

A life opens the database, commits journals, and may close it. It says when it begins a commit and when the commit has returned. What may be
found afterwards is the state after some number of commits: not less than what was promised, not more than what was begun.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, NamedTuple

from ohmqtt.journal import DELETE, FORGET, IDENTITY, INSERT, RECEIVE, RELEASE, REQUEUE, SEND, SESSION, StoredMessage, StoredState
from ohmqtt.store import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.disk.power import Image

__all__ = ["Found", "Journal", "Life", "Promises", "State", "check", "plan", "put"]

Journal = list[tuple[Any, ...]]
State = tuple[StoredState, list[StoredMessage]]
ALL = 1 << 40
NAME = "a.db"


def wall_clock() -> float:
    """Return the same time always, so that no row ages."""
    return 1_700_000_000.0


def open_store(folder: Path, fast: bool) -> SQLiteStore:
    return SQLiteStore(folder / NAME, fast=fast, wall_clock=wall_clock)


def state_of(store: SQLiteStore) -> State:
    return store.load(), store.load_queued(0, ALL, ALL)


class Found(AssertionError):
    """A promise was broken: which one, and where."""


class Life(NamedTuple):
    """What one process does with the database."""

    fast: bool
    journals: list[Journal]
    log_pages: int = 1000  # when the write-ahead log is folded into the file
    closes: bool = True
    opens: Callable[[Path, bool], SQLiteStore] = open_store

    def run(self, folder: Path, say: Callable[[str], None]) -> None:
        """Live it, and say so."""
        store = self.opens(folder, self.fast)
        say("opened")
        assert store._connection is not None
        store._connection.execute(f"PRAGMA wal_autocheckpoint = {self.log_pages}").fetchall()
        for journal in self.journals:
            say("begin")
            store.commit(journal)
            say("done")
        if self.closes:
            store.close()
            say("closed")


class Promises:
    """How many commits must be found at least, and at most."""

    def __init__(self) -> None:
        self.least = self.done = self.begun = 0

    def hear(self, words: str, durable: bool) -> None:
        """Take down what the child says; `durable`: a commit that returned is a promise at once."""
        if words == "begin":
            self.begun += 1
        elif words == "done":
            self.done += 1
        if durable or words == "closed":
            self.least = self.done


def put(folder: Path, image: Image) -> None:
    """Make the folder hold these files and no others."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.name not in image:
            path.unlink()
    for name, data in image.items():
        (folder / name).write_bytes(data)


def random_journal(chance: random.Random, state: State) -> Journal:
    """Make up what a session may have to keep, in a database that is in this state."""
    known = [message.sequence for message in (*state[0].in_flight, *state[1])]
    sequence = state[0].next_sequence
    journal: Journal = []
    for _ in range(chance.choice((1, 1, 1, 2, 5))):
        kind = chance.choice((INSERT, INSERT, INSERT, SEND, RELEASE, REQUEUE, DELETE, DELETE, RECEIVE, FORGET, IDENTITY, SESSION))
        if kind == INSERT or (kind in {SEND, RELEASE, REQUEUE, DELETE} and not known):
            payload = chance.randbytes(chance.choice((0, 9, 200, 3_000, 9_000)))
            packet_id = chance.choice((0, sequence % 65_535 + 1))
            expiry_s = chance.choice((None, 60))
            journal.append((INSERT, StoredMessage(sequence, packet_id, 0, 2, False, "some/topic", b"\0", payload, 0, expiry_s)))
            known.append(sequence)
            sequence += 1
        elif kind in {SEND, RELEASE}:
            journal.append((kind, chance.choice(known), chance.randint(1, 65_535)))
        elif kind == REQUEUE:
            journal.append((kind, chance.choice(known)))
        elif kind == DELETE:
            journal.append((kind, known.pop(chance.randrange(len(known)))))
        elif kind in {RECEIVE, FORGET}:
            journal.append((kind, chance.randint(1, 9)))
        else:
            journal.append((kind, f"{chance.random()}"))
    return journal


def plan(folder: Path, image: Image, count: int, chance: random.Random) -> tuple[list[Journal], list[State]]:
    """Make up journals for a database, and return them with the states that they lead to: n commits to the n-th."""
    put(folder, image)
    store = open_store(folder, False)
    states = [state_of(store)]
    journals: list[Journal] = []
    for _ in range(count):
        journals.append(random_journal(chance, states[-1]))
        store.commit(journals[-1])
        states.append(state_of(store))
    store.close()
    return journals, states


def check(folder: Path, states: list[State], promises: Promises, *, fast: bool) -> int:
    """Open what is in the folder with the real store, twice, and return how many commits were found. Raises Found."""
    try:
        store = open_store(folder, fast)
        state = state_of(store)
        found = [n for n in range(promises.least, promises.begun + 1) if states[n] == state]
        if not found:
            others = [n for n, other in enumerate(states) if other == state]
            raise Found(f"{promises.least} commits were promised and {promises.begun} begun; found is the state after {others}: {state}")
        integrity = store._cursor.execute("PRAGMA integrity_check").fetchall()
        if integrity != [("ok",)]:
            raise Found(f"SQLite says {integrity}")
        probe = f"probe {found[-1]}"
        store.commit([(SESSION, probe)])
        store.close()
        store = open_store(folder, not fast)
        again = state_of(store)
        store.close()
    except Found:
        raise
    except Exception as error:
        raise Found(f"{type(error).__name__}: {error}") from error
    state[0].session = probe
    if again != state:
        raise Found(f"the second opening found {again}, the first one {state}")
    return found[-1]
