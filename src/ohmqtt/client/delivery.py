"""Where user code runs: callbacks, connection events and the log, on the delivery thread or on the thread of `loop_once`.

Owns the inbox between the I/O thread and the user. Nothing here runs under the client's lock; the I/O thread never waits for it.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections import deque
from itertools import islice
from operator import length_hint
from typing import TYPE_CHECKING, Any

from ..property import MQTTPublishProps
from ..records import Connected, Disconnected, Message, Reauthenticated, Report, Undelivered

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .client import Client
    from .driver import Driver

__all__ = ["Delivery", "log"]

_logger = logging.getLogger("ohmqtt")

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
        self.exiting = False
        # Taken by user code and not yet acknowledged: filled here without a lock, emptied by whoever has the lock.
        self.completed: deque[Message] = deque()

    def put(self, events: list[Any], received_bytes: int) -> None:
        """Hand events over. The lock is held."""
        self.inbox.append((events, received_bytes))
        self.interrupt()

    def interrupt(self) -> None:
        """Let the delivery thread look again. The lock is held."""
        if self.sleeping:
            self.sleeping = False
            self.wake.release()

    def here(self) -> bool:
        """Return whether the caller runs inside a callback."""
        return self.running_on == threading.get_ident()

    def idle(self) -> bool:
        """Return whether no user code runs or waits to run. The lock is held."""
        return not self.inbox

    def waits(self) -> bool:
        """Return whether there is user code to run and nobody is running it. The lock is held."""
        return bool(self.inbox) and self.running_on is None

    def is_behind(self) -> bool:
        """Return whether a finished callback's acknowledgement could come to wait behind a slow one. The lock is held."""
        # One batch of one message is acknowledged at its end, without anybody looking.
        return (self.running_on is not None or self.thread is not None) and sum(len(events) for events, _ in islice(self.inbox, 2)) > 1

    def run(self) -> None:
        """The delivery thread."""
        while True:
            with self.driver.lock:
                if not self.inbox and self.driver.closed:
                    return
                # Somebody else may be at it still: a loop of the user's that gives way to the threads.
                if not self.inbox or self.running_on is not None:
                    self.sleeping = True
                sleep = self.sleeping
            if sleep:
                self.wake.acquire()
                continue
            try:
                self.drain()
            except BaseException as error:
                self.driver.fail(error)

    def drain(self) -> None:
        """Run all that waits, on this thread. Does nothing if somebody is at it already."""
        driver = self.driver
        with driver.lock:
            if self.running_on is not None:
                return
            self.running_on = threading.get_ident()
        try:
            while self.inbox:
                # A batch stays in the inbox until it is done, so that an interrupt at any moment loses nothing.
                events, received_bytes = self.inbox[0]
                rest = iter(events)
                done = 0
                try:
                    self._run(rest)
                    done = len(events)
                except Exception:
                    done = len(events) - length_hint(rest)
                    raise
                except BaseException:
                    # Ctrl-C in a loop without threads: the callback that it stopped runs again.
                    done = max(0, len(events) - length_hint(rest) - 1)
                    raise
                finally:
                    self._finish(events, done, received_bytes)
        finally:
            with driver.lock:
                self.running_on = None
                self.interrupt()
                driver.notify()

    def _finish(self, events: list[Any], done: int, received_bytes: int) -> None:
        """Acknowledge what was taken; keep what an interrupt left over."""
        driver = self.driver
        with driver.lock:
            if done < len(events):
                self.inbox[0] = (events[done:], received_bytes)
                received_bytes = 0
            else:
                self.inbox.popleft()
            driver.session.delivered(done, received_bytes)
            self.acknowledge()
            if driver.commits is None:
                driver.pass_turn(driver.monotonic())
            driver.wake()
        if driver.commits is not None:
            driver.commits.settle(wait=False)

    def acknowledge(self) -> None:
        """Acknowledge what user code has taken. The lock is held."""
        completed = self.completed
        if completed:
            session = self.driver.session
            link = session.connected_link()
            answer = session.inbound.answer
            while completed:
                answer(completed.popleft(), 0, None, link)

    def _run(self, events: Iterator[Any]) -> None:
        """Run user code for each event."""
        driver = self.driver
        client = driver.client()
        if client is None:
            return
        # On the delivery thread, and when the process ends, nobody is there to be interrupted: `sys.exit()` is a failed callback.
        failure = Exception if driver.thread is None and not self.exiting else BaseException
        cached = driver.session.subscriptions.tree.cache.get
        no_properties = MQTTPublishProps.EMPTY
        automatic = not self.manual_ack
        completed = self.completed.append
        for event in events:
            if type(event) is not Message:
                try:
                    self._tell(client, event)
                except failure as error:
                    log(logging.ERROR, "a handler of a connection event failed", error=error)
                continue
            if event.properties is no_properties:
                due = cached(event.topic)
                if due is not None and len(due) == 1:
                    callback = due[0].callback
                    if callback is not None:
                        try:
                            callback(client, event)
                        except failure as error:
                            self._failed(event, error)
                            continue
                        if event.qos and automatic:
                            completed(event)
                        continue
            self._dispatch(client, event, failure)

    def _dispatch(self, client: Client, message: Message, failure: type[BaseException]) -> None:
        """Give a message to all callbacks that it is due to, to `on_message` if there is none, or hold it for a `subscribe` to come."""
        driver = self.driver
        on_message = client.on_message
        callbacks = []
        requests: set[int] = set()
        with driver.lock:
            due = driver.session.subscriptions.due(message)
            if due is None:
                # The same callbacks run for another copy of it.
                if message.qos:
                    self.completed.append(message)
                return
            for subscription in due:
                callback = subscription.callback or on_message
                # The filters of one call share a callback, which runs once for a message that several of them match.
                if callback is not None and subscription.group not in requests:
                    requests.add(subscription.group)
                    callbacks.append(callback)
            if not callbacks and on_message is not None:
                callbacks.append(on_message)
            if not callbacks and message.qos:
                # Under the same lock as the search, so that no `subscribe` comes between.
                driver.session.hold(message, driver.monotonic())
                driver.wake()
                return
        if not callbacks:
            log(logging.INFO, "a QoS 0 message to %r matched no callback; it was dropped", message.topic)
            return
        failed = False
        for callback in callbacks:
            try:
                callback(client, message)
            except failure as error:
                failed = True
                self._failed(message, error)
        if message.qos and not self.manual_ack and not failed:
            self.completed.append(message)

    def _failed(self, message: Message, error: BaseException) -> None:
        """A callback raised: say so in the log, and to the server."""
        if message.qos:
            self.driver.acknowledge(message, CALLBACK_FAILED, None)
        log(logging.ERROR, "the callback for a message to %r failed", message.topic, error=error)

    def _tell(self, client: Client, event: Any) -> None:
        """Run the handler of a connection event, and write the log."""
        if isinstance(event, Connected):
            log(logging.INFO, "connected: %r", event.connack)
            if client.on_connect is not None:
                client.on_connect(client, event.connack)
        elif isinstance(event, Disconnected):
            if event.error is None:
                log(logging.INFO, "disconnected")
            else:
                then = "giving up" if event.retry_in_s is None else f"next attempt in {event.retry_in_s:.1f} s"
                log(logging.WARNING, "%s: %s; %s", "connection lost" if event.was_connected else "not connected", event.error, then)
            if client.on_disconnect is not None:
                client.on_disconnect(client, event)
        elif isinstance(event, Undelivered):
            log(logging.ERROR, "a message to %r was not delivered: %s", event.message.topic, event.error)
            if client.on_undelivered is not None:
                client.on_undelivered(event.message.packet(), event.error)
        elif isinstance(event, Reauthenticated):
            log(logging.INFO, "re-authenticated")
            if client.on_auth is not None:
                client.on_auth(client, event.packet)
        else:
            assert isinstance(event, Report)
            log(event.level, "%s", event.text)


def log(level: int, text: str, *arguments: object, error: BaseException | None = None) -> None:
    """Write to the log, which is user code: a handler of it that raises is itself only reported, as Python reports such things."""
    try:
        _logger.log(level, text, *arguments, exc_info=error)
    except Exception as failure:
        sys.excepthook(type(failure), failure, failure.__traceback__)
