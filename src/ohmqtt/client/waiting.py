"""Waking and waiting: the client's lock, the I/O thread's sleep, and everybody who waits for an outcome.

Its invariant: outcome and waiter are written and looked at under one lock, so no wake-up is lost; and no wait outlives the client.
"""

from __future__ import annotations

import socket
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from ..errors import ConnectError, ForkedError, StateError, WaitTimeoutError
from ..session import STOPPED
from .arguments import check_timeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..records import Outgoing, Request
    from ..session import Session
    from .world import World

__all__ = ["Waiting"]


class Waiting(ABC):
    """The half of the driver that knows who sleeps and who waits."""

    session: Session

    def __init__(self, world: World) -> None:
        self.world = world
        self.monotonic = world.monotonic
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.watchers = 0
        self.waiting: set[Outgoing | Request] = set()
        # Threads, and how to wake the one that sleeps in select().
        self.wake_in, self.wake_out = socket.socketpair()
        self.wake_in.setblocking(False)
        self.wake_out.setblocking(False)
        self.sleeping = False
        self.thread: threading.Thread | None = None
        # Who does a round of I/O holds `stepping`, who is in a loop of the user's holds `looping`.
        self.stepping = threading.Lock()
        self.looping = threading.Lock()
        # `closing` is asked for, and nothing new is accepted; `closed` is done.
        self.closing = False
        self.closed = False
        self.forked = False
        self.internal_error: BaseException | None = None

    @abstractmethod
    def step(self, timeout: float | None) -> None:
        """Do one round of I/O."""

    # ---- the I/O thread's sleep --------------------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Wake the I/O thread if it sleeps; else it looks for work before it does. The lock is held."""
        if self.sleeping:
            self.sleeping = False
            self.wake_now()

    def wake_now(self) -> None:
        """Wake the I/O thread. Takes no lock: safe in a signal handler."""
        try:
            self.wake_in.send(b"\0")
        except OSError:
            # The buffer is full of wake-ups already, or the client is closed.
            pass

    # ---- time --------------------------------------------------------------------------------------------------------------------------------

    def deadline(self, timeout: float | None) -> float | None:
        """Return when a timeout that begins now is over; raise `ArgumentError` if it isn't one."""
        timeout = check_timeout(timeout)
        return None if timeout is None else self.monotonic() + timeout

    def left(self, deadline: float | None) -> float | None:
        """Return the seconds until `deadline`, not below 0."""
        return None if deadline is None else max(0.0, deadline - self.monotonic())

    # ---- waiting -----------------------------------------------------------------------------------------------------------------------------

    def resolve(self, requests: list[Any]) -> None:
        """Make outcomes visible and wake who waits for them. The lock is held."""
        for request in requests:
            request.done = True
            if request.waiters is not None:
                for waiter in request.waiters:
                    waiter.release()
                request.waiters = None

    def notify(self) -> None:
        """Let every waiting call look again. The lock is held."""
        if self.watchers:
            self.changed.notify_all()

    def wait_until(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `condition` holds; False after `timeout` seconds. The lock is held, and released while waiting.

        Without an I/O thread the wait drives the I/O itself.
        """
        deadline = self.deadline(timeout)
        drove = False
        while not condition():
            left = self.left(deadline)
            if left == 0.0:
                break
            if self.thread is None and not self.closed and self.stepping.acquire(blocking=False):
                drove = True
                self.lock.release()
                try:
                    self.step(left)
                finally:
                    self.stepping.release()
                    self.lock.acquire()
                continue
            self.watchers += 1
            try:
                self.changed.wait(left)
            finally:
                self.watchers -= 1
        if drove:
            # Whoever else waits has to drive from now on.
            self.notify()
        return condition()

    def take_turn(self, timeout: float | None) -> None:
        """Do one round of I/O; or, while a wait on another thread does it, wait for what that brings. The lock is not held."""
        with self.lock:
            drives = self.stepping.acquire(blocking=False)
            if not drives:
                self.watchers += 1
                try:
                    self.changed.wait(timeout)
                finally:
                    self.watchers -= 1
                return
        try:
            if not self.closed:
                self.step(timeout)
        finally:
            self.stepping.release()
            # Whoever waits on another thread has to drive from now on.
            with self.lock:
                self.notify()

    def wait(self, request: Outgoing | Request, timeout: float | None) -> None:
        """Wait until `request` is resolved."""
        timeout = check_timeout(timeout)
        if self.thread is None:
            with self.lock:
                self.check_fork()
                in_time = self.wait_until(lambda: request.done or self.closed or self.session.phase == STOPPED, timeout)
        else:
            in_time = self._wait_on_thread(request, timeout)
        if request.done:
            return
        if not in_time:
            with self.lock:
                linked, last = self.session.connected_link() is not None, self.session.last_error
            why = "" if linked else "; there is no connection" if last is None else f"; there is no connection: {last}"
            raise WaitTimeoutError(f"not resolved within {timeout:g} s{why}")
        if self.closed:
            raise StateError("the client is closed") from self.internal_error
        failure = self.session.failure
        raise ConnectError(f"the client has stopped connecting: {failure}") from failure

    def _wait_on_thread(self, request: Outgoing | Request, timeout: float | None) -> bool:
        """Wait beside the I/O thread, which releases a lock when the outcome is known, or when none will be."""
        waiter = threading.Lock()
        waiter.acquire()
        with self.lock:
            self.check_fork()
            if request.done or self.closed or self.session.phase == STOPPED:
                return True
            if request.waiters is None:
                request.waiters = []
            request.waiters.append(waiter)
            self.waiting.add(request)
        try:
            return waiter.acquire(timeout=-1 if timeout is None else timeout)
        finally:
            with self.lock:
                self._stop_waiting(request, waiter)

    def _stop_waiting(self, request: Outgoing | Request, waiter: object) -> None:
        """Take a waiter back. The lock is held."""
        if request.waiters is not None:
            request.waiters.remove(waiter)
            if not request.waiters:
                request.waiters = None
        if request.waiters is None:
            self.waiting.discard(request)

    def _release_waiting(self) -> None:
        """Wake who waits for an outcome that may never come. The lock is held."""
        for request in self.waiting:
            for waiter in request.waiters or ():
                waiter.release()
            request.waiters = None
        self.waiting.clear()
        self.notify()

    # ---- may it be used? ---------------------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise if the client can't be used any more."""
        self.check_fork()
        if self.closed:
            raise StateError("the client is closed") from self.internal_error
        if self.closing:
            raise StateError("the client is being closed")

    def check_fork(self) -> None:
        """Raise in a forked child."""
        if self.forked:
            raise ForkedError("this client belongs to the parent process: make a new one after fork()")
