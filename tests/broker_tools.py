"""What the end-to-end tests share: something to wait on, quick settings, unused names, and clients in processes of their own.

Nothing here looks inside a client: these tests use the public interface only, and a real broker.
"""

from __future__ import annotations

import contextlib
import os
import random
import selectors
import socket
import struct
import subprocess
import sys
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import ohmqtt
from ohmqtt import Client, Message, SessionSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from typing_extensions import Self


__all__ = ["FAST", "PATIENCE_S", "Cutter", "Inbox", "Seen", "child", "collect_messages", "connected_client", "let_time_pass", "unused"]

T = TypeVar("T")

PATIENCE_S = 60.0
"""How long a test waits for what must happen, on a machine that is busy with other things."""

FAST = SessionSettings(reconnect_initial_s=0.02, reconnect_max_s=0.2)
"""Reconnects without the pauses that are there for real networks."""


class Seen(Generic[T]):
    """A growing list that one thread adds to and another one waits on."""

    def __init__(self) -> None:
        self._items: list[T] = []
        self._changed = threading.Condition()

    def add(self, item: T) -> None:
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()

    def __call__(self, _client: Client, item: T) -> None:
        self.add(item)

    def now(self) -> list[T]:
        """Return what is here, without waiting."""
        with self._changed:
            return self._items[:]

    def clear(self) -> None:
        with self._changed:
            self._items.clear()

    def wait(self, count: int = 1, timeout_s: float = PATIENCE_S) -> list[T]:
        """Return everything as soon as there are `count` items."""
        return self.wait_until(lambda items: len(items) >= count, timeout_s)

    def wait_until(self, condition: Callable[[list[T]], bool], timeout_s: float = PATIENCE_S) -> list[T]:
        """Return everything as soon as `condition` holds of it."""
        with self._changed:
            in_time = self._changed.wait_for(lambda: condition(self._items), timeout_s)
            assert in_time, f"waited {timeout_s:g} s in vain; {len(self._items)} here, the last: {self._items[-3:]!r:.500}"
            return self._items[:]


class Inbox(Seen[Message]):
    """A callback for `subscribe` that keeps the messages."""

    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.now()]

    def wait_payloads(self, count: int = 1, timeout_s: float = PATIENCE_S) -> list[bytes]:
        return [message.payload for message in self.wait(count, timeout_s)]


def unused(what: str = "t") -> str:
    """Return a name (of a topic, a client, a group) that no other test uses."""
    return f"{what}-{uuid.uuid4().hex[:12]}"


def let_time_pass(seconds: float) -> None:
    """Wait for nothing but the clock, for what only time brings about at the broker: the end of a message or of a session."""
    threading.Event().wait(seconds)


@contextlib.contextmanager
def connected_client(address: str, client_id: str = "", *, settings: SessionSettings = FAST, **options: Any) -> Generator[Client]:
    """Open a client that is connected when the block begins. `db_path` goes to the client, the other options to `connect`."""
    db_path = options.pop("db_path", None)
    db_fast = options.pop("db_fast", False)
    with Client(db_path, db_fast=db_fast, settings=settings) as client:
        client.connect(address, client_id, **options)
        client.wait_for_connect(PATIENCE_S)
        yield client


def collect_messages(client: Client, topic_filter: str, max_qos: int = 2, **options: Any) -> Inbox:
    """Subscribe, wait for the SUBACK, and return where the messages arrive."""
    inbox = Inbox()
    client.subscribe(topic_filter, inbox, max_qos, **options).wait_for_ack(PATIENCE_S)
    return inbox


@contextlib.contextmanager
def child(program: str, *arguments: object, environment: dict[str, str] | None = None) -> Generator[subprocess.Popen[str]]:
    """Run `program` in a Python of its own, with its output as text in a pipe; whatever happens, it is gone afterwards."""
    source = str(Path(ohmqtt.__file__).parent.parent)
    paths = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", **(environment or {})},
    )
    try:
        with process:
            try:
                yield process
            finally:
                process.kill()
    finally:
        process.wait()


class Cutter:
    """A way to the broker on which connections are cut off after so many bytes, drawn anew for each from a seed.

    What was read and not yet passed on is lost with the connection, as in a real network.
    """

    def __init__(self, port: int, seed: int, bytes_max: int) -> None:
        self._port = port
        self._random = random.Random(seed)
        self._bytes_max = bytes_max
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        # The thread ends when one end of this pair is closed.
        self._lifeline, lifeline = socket.socketpair()
        self._selector.register(lifeline, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, args=(lifeline,))
        self.cutting = True
        self.cuts = 0
        # For each socket its opposite; for each pair, kept at both, the bytes that are left.
        self._opposite: dict[socket.socket, socket.socket] = {}
        self._left: dict[socket.socket, list[int]] = {}

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._lifeline.close()
        self._thread.join()

    def _run(self, lifeline: socket.socket) -> None:
        living = True
        while living:
            for key, _ in self._selector.select():
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is lifeline:
                    living = False
                elif sock is self._listener:
                    self._accept()
                elif sock in self._opposite:
                    self._pass_on(sock)
        for sock in list(self._opposite):
            self._cut(sock)
        self._selector.close()
        self._listener.close()
        lifeline.close()

    def _accept(self) -> None:
        one, _ = self._listener.accept()
        try:
            other = socket.create_connection(("127.0.0.1", self._port))
        except OSError:
            one.close()
            return
        left = [self._random.randrange(self._bytes_max)]
        for sock, opposite in ((one, other), (other, one)):
            self._opposite[sock] = opposite
            self._left[sock] = left
            self._selector.register(sock, selectors.EVENT_READ)

    def _pass_on(self, sock: socket.socket) -> None:
        left = self._left[sock]
        try:
            data = sock.recv(1_024)
            if self.cutting:
                left[0] -= len(data)
            if not data or left[0] < 0:
                self.cuts += bool(data)
                # A part of the last packet still arrives.
                self._opposite[sock].sendall(data[: len(data) // 2])
                self._cut(sock)
            else:
                self._opposite[sock].sendall(data)
        except OSError:
            self._cut(sock)

    def _cut(self, sock: socket.socket) -> None:
        opposite = self._opposite.pop(sock, None)
        if opposite is None:
            return
        del self._opposite[opposite]
        for end in (sock, opposite):
            del self._left[end]
            self._selector.unregister(end)
            if self._random.random() < 0.5:
                # A reset in place of an orderly end.
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.close()
