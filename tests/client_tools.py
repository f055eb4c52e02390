"""What the tests of the threaded client share: a client beside a scripted peer, a mailbox as a callback, and patience instead of sleep."""

from __future__ import annotations

import logging
import queue
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ohmqtt.client import Client
from ohmqtt.packet import MQTTPublishPacket
from ohmqtt.session import SessionSettings
from tests.peer import Peer

if TYPE_CHECKING:
    from collections.abc import Generator

    from ohmqtt.records import Message
    from tests.peer import Link

__all__ = [
    "KEEP_ALIVE_S",
    "PATIENCE_S",
    "QUICK",
    "Gate",
    "Mailbox",
    "attach",
    "in_thread",
    "linked",
    "log_box",
    "publish_bytes",
    "relink",
    "subscribed",
]

PATIENCE_S = 60.0
"""How long a test waits for what must happen; none is meant to take it."""

KEEP_ALIVE_S = 4
"""The shortest that a test asks for: an answer to PINGREQ that is half of that late is taken for none, however busy the machine is."""

QUICK = SessionSettings(reconnect_initial_s=0.01, reconnect_max_s=0.01)
"""Reconnects without making the test wait."""


class Mailbox:
    """A callback that keeps what it is called with."""

    def __init__(self) -> None:
        self.queue: queue.Queue[Any] = queue.Queue()

    def __call__(self, *arguments: Any) -> None:
        """Take a message (``client, message``) or whatever a handler gets: the last argument is kept."""
        self.queue.put(arguments[-1])

    def get(self) -> Any:
        """Return the next one."""
        return self.queue.get(timeout=PATIENCE_S)

    def payloads(self, count: int) -> list[bytes]:
        """Return the payloads of the next messages."""
        return [self.get().payload for _ in range(count)]

    def is_empty(self) -> bool:
        """Return whether nothing waits."""
        return self.queue.empty()


class Gate:
    """A callback that says when it was entered and waits until it is let go; what it returned from is in `done`."""

    def __init__(self) -> None:
        self.entered: queue.Queue[Message] = queue.Queue()
        self.open = threading.Event()
        self.done: list[bytes] = []

    def __call__(self, _client: Client, message: Message) -> None:
        """Wait at the gate."""
        self.entered.put(message)
        assert self.open.wait(PATIENCE_S)
        self.done.append(message.payload)

    def wait_entered(self) -> Message:
        """Wait until a callback stands at the gate."""
        return self.entered.get(timeout=PATIENCE_S)


@contextmanager
def log_box(level: int = logging.WARNING) -> Generator[Mailbox]:
    """A mailbox of what ΩQTT writes to the log."""
    box = Mailbox()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            box(record)

    handler = Handler(level)
    logger = logging.getLogger("ohmqtt")
    before = logger.level
    logger.setLevel(level)
    logger.addHandler(handler)
    try:
        yield box
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)


def attach(
    client: Client,
    peer: Peer,
    client_id: str = "c",
    *,
    session_present: bool = False,
    connack: dict[str, Any] | None = None,
    **options: Any,
) -> Link:
    """Connect `client` to `peer` and return the accepted link."""
    client.connect(peer.address, client_id, **options)
    link = peer.accept(PATIENCE_S)
    link.handshake(session_present, **(connack or {}))
    client.wait_for_connect(PATIENCE_S)
    return link


@contextmanager
def linked(
    settings: SessionSettings = QUICK, *, connack: dict[str, Any] | None = None, manual_ack: bool = False, store: Any = None, **options: Any
) -> Generator[tuple[Client, Link, Peer]]:
    """A client with threads, connected to a peer. Afterwards the peer goes first, so that nobody waits for its answers."""
    with Peer() as peer:
        client = Client(settings=settings, manual_ack=manual_ack, store=store)
        client.start_loop()
        try:
            link = attach(client, peer, connack=connack, **options)
            yield client, link, peer
        finally:
            client.close(0.0)


def relink(peer: Peer, *, session_present: bool = True, **connack: Any) -> Link:
    """Accept the client's next connection."""
    link = peer.accept(PATIENCE_S)
    link.handshake(session_present, **connack)
    return link


def subscribed(client: Client, link: Link, topic_filter: Any, callback: Any, max_qos: int = 2) -> None:
    """Subscribe, and answer for the peer."""
    handle = client.subscribe(topic_filter, callback, max_qos)
    packet = link.expect("SUBSCRIBE", PATIENCE_S)
    link.suback(packet.packet_id, *[max_qos] * (1 if isinstance(topic_filter, str) else len(topic_filter)))
    handle.wait_for_ack(PATIENCE_S)


class in_thread:
    """Run a function on a thread of its own; `result` waits for it."""

    def __init__(self, function: Any, *arguments: Any, **keywords: Any) -> None:
        self.value: Any = None
        self.error: BaseException | None = None

        def run() -> None:
            try:
                self.value = function(*arguments, **keywords)
            except BaseException as error:
                self.error = error

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def is_running(self) -> bool:
        """Return whether the function has not returned."""
        return self.thread.is_alive()

    def result(self) -> Any:
        """Wait for the function, and return or raise what it did."""
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive(), "it did not return"
        if self.error is not None:
            raise self.error
        return self.value


def publish_bytes(topic: str, payload: bytes = b"", qos: int = 0, packet_id: int = 0) -> bytes:
    """Return a PUBLISH as it is on the wire, for several in one piece."""
    return MQTTPublishPacket(topic, payload, qos, False, False, packet_id).encode()
