"""What the tests of the durable client share: a store that can be watched, held and refused, and the first steps of a connection."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from ohmqtt import Client, MQTTConnectProps, SessionSettings, StoreError
from ohmqtt.journal import DELETE, FORGET, IDENTITY, INSERT, RECEIVE, RELEASE, REQUEUE, SEND, SESSION, StoredMessage, StoredState
from ohmqtt.store import SQLiteStore
from tests.broker_tools import FAST, PATIENCE_S, Seen

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence
    from pathlib import Path

    from tests.peer import Link, Peer

__all__ = ["CLIENT_ID", "KINDS", "LONG", "Call", "Journal", "WatchedStore", "connect", "contents", "kinds", "linked"]

Journal = list[tuple[Any, ...]]

CLIENT_ID = "the-owner"
LONG = MQTTConnectProps(SessionExpiryInterval=3_600)
KINDS = {
    INSERT: "INSERT",
    SEND: "SEND",
    REQUEUE: "REQUEUE",
    RELEASE: "RELEASE",
    DELETE: "DELETE",
    RECEIVE: "RECEIVE",
    FORGET: "FORGET",
    IDENTITY: "IDENTITY",
    SESSION: "SESSION",
}


def kinds(journal: Sequence[tuple[Any, ...]]) -> list[str]:
    """Return what the entries of a journal do, in words."""
    return [KINDS[entry[0]] for entry in journal]


class WatchedStore:
    """A SQLite store whose commits are remembered, wait at a gate, and are refused when the test says so."""

    def __init__(self, path: Path, **options: Any) -> None:
        self._store = SQLiteStore(path, **options)
        self._gate = threading.Event()
        self._gate.set()
        self.attempts: Seen[Journal] = Seen()  # what came to the gate
        self.committed: list[Journal] = []
        self.loads = 0
        self.refuse: Callable[[Sequence[tuple[Any, ...]]], bool] = lambda journal: False
        self.refuse_loads = False

    @contextlib.contextmanager
    def held(self) -> Generator[None]:
        """Close the gate: commits wait until the end of the block."""
        self._gate.clear()
        try:
            yield
        finally:
            self._gate.set()

    def wait_for(self, kind: str) -> None:
        """Wait until a journal with such an entry is at the gate (or past it), since the last `attempts.clear`."""
        self.attempts.wait_until(lambda journals: any(kind in kinds(journal) for journal in journals))

    def load(self) -> StoredState:
        return self._store.load()

    def load_queued(self, after_sequence: int, messages_max: int, bytes_max: int) -> list[StoredMessage]:
        self.loads += 1
        if self.refuse_loads:
            raise StoreError("the disk can't be read, says the test")
        return self._store.load_queued(after_sequence, messages_max, bytes_max)

    def commit(self, journal: Sequence[tuple[Any, ...]]) -> None:
        self.attempts.add(list(journal))
        assert self._gate.wait(PATIENCE_S), "the test left the gate closed"
        if self.refuse(journal):
            raise StoreError("the disk is full, says the test")
        self._store.commit(journal)
        self.committed.append(list(journal))

    def close(self) -> None:
        self._store.close()


class Call(threading.Thread):
    """A call that may block, on a thread of its own."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        super().__init__(daemon=True)
        self._function = function
        self._arguments = arguments
        self._result: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._function(*self._arguments)
        except BaseException as error:
            self._error = error

    def result(self) -> Any:
        """Wait for the call's end; return or raise what it did."""
        self.join(PATIENCE_S)
        assert not self.is_alive(), "the call has not returned"
        if self._error is not None:
            raise self._error
        return self._result


def connect(client: Client, peer: Peer, *, client_id: str = CLIENT_ID, session_present: bool = False, **connack: Any) -> Link:
    """Connect a client with the scripted peer."""
    client.connect(peer.address, client_id, connect_properties=LONG)
    link = peer.accept()
    link.handshake(session_present, **connack)
    client.wait_for_connect(PATIENCE_S)
    return link


@contextlib.contextmanager
def linked(
    peer: Peer, *, db_path: Path | None = None, store: WatchedStore | None = None, settings: SessionSettings = FAST, **options: Any
) -> Generator[tuple[Client, Link]]:
    """Open a client that is connected with the scripted peer; it is shut down at the end, without a goodbye."""
    with Client(db_path, store=store, settings=settings) as client:
        yield client, connect(client, peer, **options)
        client.shutdown()


def contents(path: Path) -> tuple[StoredState, list[StoredMessage]]:
    """Return what a database holds that nobody has open."""
    store = SQLiteStore(path)
    try:
        return store.load(), store.load_queued(0, 1 << 30, 1 << 40)
    finally:
        store.close()
