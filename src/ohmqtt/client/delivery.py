"""Where user code runs: callbacks, connection events and the log, on the delivery thread or on the thread of `loop_once`.

Owns the inbox between the I/O thread and the user. Nothing here runs under the client's lock; the I/O thread never waits for it.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..property import MQTTPublishProps
from ..records import Connected, Disconnected, Message, Reauthenticated, Report, Undelivered

if TYPE_CHECKING:
    from .client import Client
    from .driver import Driver

__all__ = ["Delivery"]

logger = logging.getLogger("ohmqtt")

CALLBACK_FAILED = 0x83
"""What the server is told of a message whose callback raised: implementation specific error, never Success."""


class Delivery:
    """The inbox and the one who empties it."""

    def __init__(self, driver: Driver, manual_ack: bool) -> None:
        self.driver = driver
        self.manual_ack = manual_ack
        self.inbox: deque[tuple[list[Any], int]] = deque()
        self.sleeping = False
        self.wake = threading.Lock()
        self.wake.acquire()
        self.thread: threading.Thread | None = None
        self.running_on: int | None = None
        # Taken by user code and not yet acknowledged: filled here without a lock, emptied by whoever has the lock.
        self.completed: deque[Message] = deque()
        self.busy = False

    def put(self, events: list[Any], received_bytes: int) -> None:
        """Hand events over. The lock is held."""
        self.inbox.append((events, received_bytes))
        if self.sleeping:
            self.sleeping = False
            self.wake.release()

    def interrupt(self) -> None:
        """Let the delivery thread look at `driver.closed`. The lock is held."""
        if self.sleeping:
            self.sleeping = False
            self.wake.release()

    def here(self) -> bool:
        """Return whether the caller runs inside a callback."""
        return self.running_on == threading.get_ident()

    def idle(self) -> bool:
        """Return whether no user code runs or waits to run. The lock is held."""
        return not self.inbox and not self.busy

    def run(self) -> None:
        """The delivery thread."""
        while True:
            with self.driver.lock:
                if not self.inbox:
                    if self.driver.closed:
                        return
                    self.sleeping = True
                else:
                    self.busy = True
            if self.busy:
                self.drain()
            else:
                self.wake.acquire()

    def drain(self) -> None:
        """Run all that waits, on this thread."""
        if self.here():
            return
        self.running_on = threading.get_ident()
        self.busy = True
        try:
            while self.inbox:
                events, received_bytes = self.inbox.popleft()
                done = 0
                try:
                    done = self._run(events)
                finally:
                    self._finish(events, done, received_bytes)
        finally:
            self.running_on = None
            with self.driver.lock:
                self.busy = False
                self.driver.notify()

    def _finish(self, events: list[Any], done: int, received_bytes: int) -> None:
        """Acknowledge what was taken; put back what an interrupt (Ctrl-C in a single-threaded loop) left over."""
        driver = self.driver
        with driver.lock:
            if 0 <= done < len(events):
                self.inbox.appendleft((events[done:], received_bytes))
                received_bytes = 0
                events = events[:done]
            driver.session.delivered(len(events), received_bytes)
            self.acknowledge()
            if driver.store is None:
                driver.pass_turn(monotonic())
            driver.wake()
        if driver.store is not None:
            driver.settle()

    def acknowledge(self) -> None:
        """Acknowledge what user code has taken. The lock is held."""
        completed = self.completed
        if completed:
            session = self.driver.session
            link = session.connected_link()
            answer = session.inbound.answer
            while completed:
                answer(completed.popleft(), 0, None, link)

    def _run(self, events: list[Any]) -> int:
        """Run user code for each event; return how many were taken (-1 is never returned: an interrupt raises, see `_finish`)."""
        driver = self.driver
        client = driver.client()
        if client is None:
            return len(events)
        cached = driver.session.subscriptions.tree.cache.get
        no_properties = MQTTPublishProps.EMPTY
        automatic = not self.manual_ack
        completed = self.completed.append
        for event in events:
            if type(event) is not Message:
                try:
                    self._tell(client, event)
                except Exception:
                    logger.exception("a handler of a connection event failed")
                continue
            if event.properties is no_properties:
                due = cached(event.topic)
                if due is not None and len(due) == 1:
                    callback = due[0].callback
                    if callback is not None:
                        try:
                            callback(client, event)
                        except Exception:
                            self._failed(event)
                            continue
                        if event.qos and automatic:
                            completed(event)
                        continue
            self._dispatch(client, event)
        return len(events)

    def _dispatch(self, client: Client, message: Message) -> None:
        """Give a message to all callbacks that it is due to, to `on_message` if there is none, or hold it for a `subscribe` to come."""
        driver = self.driver
        with driver.lock:
            due = driver.session.subscriptions.due(message)
        callbacks = []
        requests: set[int] = set()
        for subscription in due:
            callback = subscription.callback or client.on_message
            # The filters of one call share a callback, which runs once for a message that several of them match.
            if callback is not None and subscription.group not in requests:
                requests.add(subscription.group)
                callbacks.append(callback)
        if not callbacks and client.on_message is not None:
            callbacks.append(client.on_message)
        if not callbacks:
            if message.qos:
                with driver.lock:
                    driver.session.hold(message, monotonic())
                    driver.wake()
            else:
                logger.info("a QoS 0 message to %r matched no callback; it was dropped", message.topic)
            return
        failed = False
        for callback in callbacks:
            try:
                callback(client, message)
            except Exception:
                failed = True
                self._failed(message)
        if message.qos and not self.manual_ack and not failed:
            self.completed.append(message)

    def _failed(self, message: Message) -> None:
        """A callback raised: say so in the log, and to the server."""
        logger.exception("the callback for a message to %r failed", message.topic)
        if message.qos:
            self.driver.acknowledge(message, CALLBACK_FAILED, None)

    def _tell(self, client: Client, event: Any) -> None:
        """Run the handler of a connection event, and write the log."""
        if isinstance(event, Connected):
            logger.info("connected: %r", event.connack)
            if client.on_connect is not None:
                client.on_connect(client, event.connack)
        elif isinstance(event, Disconnected):
            if event.error is None:
                logger.info("disconnected")
            else:
                then = "giving up" if event.retry_in_s is None else f"next attempt in {event.retry_in_s:.1f} s"
                logger.warning("%s: %s; %s", "connection lost" if event.was_connected else "not connected", event.error, then)
            if client.on_disconnect is not None:
                client.on_disconnect(client, event)
        elif isinstance(event, Undelivered):
            logger.error("a message to %r was not delivered: %s", event.message.topic, event.error)
            if client.on_undelivered is not None:
                client.on_undelivered(event.message.packet(), event.error)
        elif isinstance(event, Reauthenticated):
            logger.info("re-authenticated")
            if client.on_auth is not None:
                client.on_auth(client, event.packet)
        elif isinstance(event, Report):
            logger.log(event.level, "%s", event.text)
