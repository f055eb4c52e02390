"""The driver: owns socket, clock, disk and lock; empties the Session's baskets in the one order that is allowed.

**Journal, then wire, then user.** `pass_turn` (in memory) and `settle` (with a database) are the only places where a turn's writes join
the outbox and its events go out. `step` is one round of I/O; the I/O thread, `loop_once` and every wait without threads call the same.

One lock guards the Session and everything that is said to be "under the lock". It is never held while user code runs, while the disk is
written, or while a system call may block.
"""

from __future__ import annotations

import selectors
import socket
import threading
from random import random
from time import monotonic
from typing import TYPE_CHECKING, Any

from ..errors import ConnectError, ForkedError, LinkLostError, MQTTError, StateError, StoreError, WaitTimeoutError
from ..link import CLOSING
from ..records import Report
from ..session import STOPPED, Session
from ..transport import open_transport
from .delivery import Delivery

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..auth import Authenticator
    from ..property import MQTTPubAckProps
    from ..records import AuthStep, Message, Outgoing, Request
    from ..session import SessionSettings, Turn
    from ..store import Store
    from ..transport import Transport
    from .client import Client

__all__ = ["Driver"]

RECEIVE_BYTES = 65_536
"""How much is read at a time; more while a larger packet is incomplete."""

RECEIVE_BYTES_MAX = 1_048_576

ACK_DELAY_S = 0.005
"""An acknowledgement waits no longer than this behind a callback that is still running."""

CHUNKS_PER_STEP = 8


class Driver:
    """The I/O side of a client."""

    def __init__(self, settings: SessionSettings, store: Store | None, client: Callable[[], Client | None], manual_ack: bool) -> None:
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.watchers = 0
        self.commit_lock = threading.Lock()
        self.client = client
        self.store = store
        self.session = Session(settings, durable=store is not None, acknowledge=self.acknowledge)
        self.delivery = Delivery(self, manual_ack)
        self.failed_turn: Turn | None = None
        self.committed = 0
        # The network connection.
        self.transport: Transport | None = None
        self.arrived: Transport | None = None
        self.interest = 0
        self.again = False
        self.dial_number = 0
        self.connect_options: dict[str, Any] = {}
        self.authenticator: Authenticator | None = None
        self.make_message: Callable[[Any], Outgoing]
        # Threads, and how to wake the one that sleeps in select().
        self.selector = selectors.DefaultSelector()
        self.wake_in, self.wake_out = socket.socketpair()
        self.wake_in.setblocking(False)
        self.wake_out.setblocking(False)
        self.selector.register(self.wake_out, selectors.EVENT_READ)
        self.sleeping = False
        self.thread: threading.Thread | None = None
        self.stepping = threading.Lock()
        self.closing = False
        self.closed = False
        self.forked = False
        self.waiting: set[Outgoing | Request] = set()
        self.internal_error: BaseException | None = None
        self.subscription_group = 0

    # ---- the rule: journal, then wire, then user ------------------------------------------------------------------------------------------

    def pass_turn(self, now: float) -> None:
        """Empty the baskets; there is no database. The lock is held."""
        turn = self.session.take(now)
        if turn is not None:
            self.session.release(turn, now)
            self._hand_over(turn)

    def settle(self, number: int | None = None) -> None:
        """Commit and release all turns there are (or up to `number`). The lock is not held.

        Turns commit one at a time and in order, by whoever comes first, for all who wait: that is the group commit.
        """
        store = self.store
        assert store is not None
        while number is None or self.committed < number:
            with self.commit_lock:
                if number is not None and self.committed >= number:
                    return
                with self.lock:
                    now = monotonic()
                    turn = self.failed_turn
                    if turn is None:
                        turn = self.session.take(now)
                    elif number is None and self.session.retry_at is not None and now < self.session.retry_at:
                        return
                    wanted = self.session.outbound.wanted_rows() if turn is None else None
                if turn is not None:
                    if not self._commit(store, turn):
                        return
                elif wanted is None or not self._load(store, wanted):
                    return

    def _commit(self, store: Store, turn: Turn) -> bool:
        """Commit one turn and release it; False: the disk refused what came from the peer, so nothing may overtake it."""
        error: StoreError | None = None
        if turn.journal:
            try:
                store.commit(turn.journal)
            except StoreError as caught:
                error = caught
        with self.lock:
            now = monotonic()
            if error is not None:
                self._resolve(self.session.commit_failed(turn, error, now))
                if turn.journal:
                    self.failed_turn = turn
                    self.committed = self.session.baskets.turn_number
                    self.notify()
                    return False
            else:
                self.session.retry_at = None
            self.failed_turn = None
            self.session.release(turn, now)
            self._hand_over(turn)
            self.committed = turn.number
            self.wake()
        return True

    def _load(self, store: Store, wanted: tuple[int, int, int]) -> bool:
        """Load the rows that the Session wants; False if there are none."""
        try:
            rows = store.load_queued(*wanted)
        except StoreError as error:
            with self.lock:
                self._resolve(self.session.commit_failed(self.session.take_empty(), error, monotonic()))
            return False
        with self.lock:
            self.session.outbound.loaded(rows, self.make_message, monotonic())
        return bool(rows)

    def _hand_over(self, turn: Turn) -> None:
        """The third basket: outcomes to their waiters, events to the user. The lock is held."""
        if turn.resolved:
            self._resolve(turn.resolved)
        if turn.events:
            self.delivery.put(turn.events, turn.received_bytes)
        if self.watchers:
            self.changed.notify_all()

    def _resolve(self, requests: list[Any]) -> None:
        """Make outcomes visible and wake who waits for them. The lock is held."""
        for request in requests:
            request.done = True
            if request.waiters is not None:
                for waiter in request.waiters:
                    waiter.release()
                request.waiters = None

    # ---- waking and waiting --------------------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Wake the I/O thread if it sleeps. The lock is held."""
        if self.sleeping:
            self.sleeping = False
            self.wake_now()

    def wake_now(self) -> None:
        """Wake the I/O thread. Takes no lock: safe in a signal handler."""
        try:
            self.wake_in.send(b"\0")
        except (BlockingIOError, OSError):
            # The buffer is full of wake-ups already, or the client is closed.
            pass

    def notify(self) -> None:
        """Let every waiting call look again. The lock is held."""
        if self.watchers:
            self.changed.notify_all()

    def wait_until(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        """Wait until `condition` holds; False after `timeout` seconds. The lock is held, and released while waiting.

        Without an I/O thread the wait drives the I/O itself.
        """
        deadline = None if timeout is None else monotonic() + timeout
        while not condition():
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                return False
            if self.thread is None and not self.closed and self.stepping.acquire(blocking=False):
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
        return True

    def wait(self, request: Outgoing | Request, timeout: float | None) -> None:
        """Wait until `request` is resolved."""
        if self.thread is None:
            with self.lock:
                self.check()
                if not self.wait_until(lambda: request.done or self.session.phase == STOPPED, timeout):
                    raise WaitTimeoutError(f"not resolved within {timeout:g} s")
        else:
            waiter = threading.Lock()
            waiter.acquire()
            with self.lock:
                if request.done:
                    return
                self.check()
                if self.session.phase != STOPPED:
                    if request.waiters is None:
                        request.waiters = []
                    request.waiters.append(waiter)
                    self.waiting.add(request)
                else:
                    waiter.release()
            in_time = waiter.acquire(timeout=-1 if timeout is None else max(0.0, timeout))
            with self.lock:
                if request.waiters is not None and waiter in request.waiters:
                    request.waiters.remove(waiter)
                if not request.waiters:
                    self.waiting.discard(request)
                if not in_time and not request.done:
                    raise WaitTimeoutError(f"not resolved within {timeout:g} s")
        if not request.done:
            failure = self.session.failure
            raise ConnectError(f"the client has stopped connecting: {failure}") from failure

    def _wait(self, request: Outgoing | Request, timeout: float | None) -> None:
        self.wait(request, timeout)

    def _cancel(self, request: Any) -> bool:
        with self.lock:
            self.check()
            done = self.session.outbound.cancel(request) if hasattr(request, "topic_field") else self.session.subscriptions.cancel(request)
        self.flush()
        return done

    def check(self) -> None:
        """Raise if the client can't be used any more."""
        if self.forked:
            raise ForkedError("this client belongs to the parent process: make a new one after fork()")
        if self.closed:
            raise StateError("the client is closed")

    def flush(self, number: int | None = None) -> None:
        """Pass on what a call has put into the baskets. The lock is not held."""
        if self.store is not None:
            self.settle(number)
        with self.lock:
            self.wake()

    def acknowledge(self, message: Message, reason_code: int, properties: MQTTPubAckProps | None) -> None:
        """Acknowledge a received message; any thread."""
        with self.lock:
            if self.closed:
                return
            self.session.answer(message, reason_code, properties)
        self.flush()

    # ---- one round of I/O ------------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """The I/O thread."""
        while not self.closed:
            try:
                self.step(None)
            except Exception as error:
                self._survive(error)

    def _survive(self, error: Exception) -> None:
        """An internal error closes the link and is reported; it never kills the I/O thread in silence."""
        with self.lock:
            now = monotonic()
            first = self.internal_error is None
            self.internal_error = error
            self.session.baskets.events.append(Report(50, f"internal error, please report it: {error!r}"))
            failure = MQTTError(f"internal error: {error!r}")
            failure.__cause__ = error
            self.session.fail_link(failure, now, 0x83)
            if not first and self.session.link is not None:
                self.session.link.outbox.clear()
        try:
            self._write()
            self._after(None)
        except Exception:
            self._teardown()

    def step(self, timeout: float | None) -> None:
        """Wait for the network, a deadline or a wake-up, and do all there is to do then."""
        wait_s = self._before(timeout)
        for key, _ in self.selector.select(wait_s):
            if key.fileobj is self.wake_out:
                self._drain_wake()
        self.sleeping = False
        if self.closing:
            self._teardown()
            return
        data, error = self._read()
        now = monotonic()
        with self.lock:
            session = self.session
            if self.arrived is not None:
                self.transport = self.arrived
                self.arrived = None
                self.interest = 0
            if data:
                session.receive(data, now)
            if self.delivery.completed:
                self.delivery.acknowledge()
            session.tick(now, unread=self._unread(now))
            if self.store is None:
                self.pass_turn(now)
            steps = session.auth_steps[:]
            session.auth_steps.clear()
            dial = session.dial(now)
            if dial:
                self.dial_number += 1
        if self.store is not None:
            self.settle()
        for auth_step in steps:
            self._start(self._authenticate, auth_step)
        if dial:
            self._start(self._dial, self.dial_number)
        self._after(self._write() or error or (ConnectionResetError("the server closed the connection") if data == b"" else None))

    def _before(self, timeout: float | None) -> float | None:
        """Return how long to sleep at most, and be ready to be woken."""
        with self.lock:
            self._watch()
            session = self.session
            now = monotonic()
            if self._has_work(now):
                self.again = False
                return 0.0
            deadline = session.deadline()
            wait_s = timeout if deadline is None else max(0.0, deadline - now)
            if timeout is not None and (wait_s is None or wait_s > timeout):
                wait_s = timeout
            if self.delivery.busy and session.link is not None and (session.link.pubacks or session.link.pubrecs):
                wait_s = ACK_DELAY_S if wait_s is None else min(wait_s, ACK_DELAY_S)
            self.sleeping = True
            return wait_s

    def _has_work(self, now: float) -> bool:
        """Return whether there is something to do before the network or the clock says so. The lock is held."""
        transport = self.transport
        if self.again or self.closing or self.arrived is not None or self.delivery.completed:
            return True
        if transport is not None and ((transport.pending() and self.session.reading()) or self.session.must_close()):
            return True
        # While the disk refuses a turn, the later ones wait for its next try.
        if self.failed_turn is None and self.session.pump(now):
            return True
        link = self.session.link
        return link is not None and transport is not None and bool(link.outbox) and not link.unsent

    def _watch(self) -> None:
        """Tell the selector what to wait for. The lock is held."""
        transport = self.transport
        if transport is None:
            return
        session = self.session
        link = session.link
        interest = selectors.EVENT_READ if session.reading() or (link is not None and link.state >= CLOSING) else 0
        if transport.wants_write() or (link is not None and link.unsent):
            interest |= selectors.EVENT_WRITE
        if interest == self.interest:
            return
        if not self.interest:
            self.selector.register(transport.fileno(), interest)
        elif not interest:
            self.selector.unregister(transport.fileno())
        else:
            self.selector.modify(transport.fileno(), interest)
        self.interest = interest

    def _unread(self, now: float) -> bool:
        """Return whether the socket holds data that we leave unread. The lock is held."""
        transport = self.transport
        if transport is None or self.session.reading():
            return False
        link = self.session.link
        deadline = None if link is None else link.deadline()
        if deadline is None or now < deadline:
            return False
        with selectors.DefaultSelector() as selector:
            selector.register(transport.fileno(), selectors.EVENT_READ)
            return bool(selector.select(0))

    def _read(self) -> tuple[bytes | None, OSError | None]:
        """Read what the socket has, without waiting."""
        transport = self.transport
        if transport is None or not self.interest & selectors.EVENT_READ:
            return None, None
        link = self.session.link
        size = RECEIVE_BYTES
        if link is not None and link.remainder:
            size = min(max(size, link.remainder_needed - link.remainder_bytes), RECEIVE_BYTES_MAX)
        try:
            return transport.receive(size), None
        except OSError as error:
            return None, error

    def _write(self) -> OSError | None:
        """Write what the outbox has, until the socket takes no more."""
        transport = self.transport
        if transport is None:
            return None
        for _ in range(CHUNKS_PER_STEP):
            now = monotonic()
            with self.lock:
                link = self.session.link
                chunk = b"" if link is None else link.next_chunk(now)
            if link is None or not chunk:
                return None
            try:
                count = transport.send(chunk)
            except OSError as error:
                return error
            if not count:
                return None
            with self.lock:
                flushed = link.sent(count, now)
                if flushed:
                    self.session.outbound.flushed(flushed)
                    self._resolve(flushed)
                    self.notify()
                    self.again = bool(self.session.outbound.queue)
            if count < len(chunk):
                return None
        self.again = True
        return None

    def _after(self, error: OSError | None) -> None:
        """Close the network connection if it is time to."""
        with self.lock:
            if error is None and not self.session.must_close():
                self.notify()
                return
            transport = self.transport
            self.transport = None
            if transport is None:
                return
            if self.interest:
                self.selector.unregister(transport.fileno())
                self.interest = 0
        transport.close()
        with self.lock:
            lost = None
            if error is not None:
                lost = LinkLostError(f"the connection to {transport.description} was lost: {error}")
                lost.__cause__ = error
            self.session.link_lost(lost, monotonic(), random())
            self._phase_changed()
            if self.store is None:
                self.pass_turn(monotonic())
        if self.store is not None:
            self.settle()

    def _phase_changed(self) -> None:
        """Wake the waiters of a client that has stopped connecting. The lock is held."""
        if self.session.phase == STOPPED:
            for request in self.waiting:
                for waiter in request.waiters or ():
                    waiter.release()
                request.waiters = None
            self.waiting.clear()
        self.notify()

    def _drain_wake(self) -> None:
        try:
            while len(self.wake_out.recv(4_096)) == 4_096:
                pass
        except (BlockingIOError, OSError):
            pass

    # ---- helper threads: opening a connection, authenticating ------------------------------------------------------------------------------

    def _start(self, function: Callable[[Any], None], argument: Any) -> None:
        """Run `function` where it may block: on a short-lived thread, or here if the user wants no threads."""
        if self.thread is None:
            function(argument)
        else:
            threading.Thread(target=function, args=(argument,), name=f"ohmqtt-{function.__name__.strip('_')}", daemon=True).start()

    def _dial(self, number: int) -> None:
        """Open a network connection and send CONNECT."""
        authenticator = self.authenticator
        error: MQTTError | None = None
        transport = None
        data = None
        try:
            if authenticator is not None:
                data = authenticator.start()
            transport = open_transport(**self.connect_options)
        except MQTTError as caught:
            error = caught
        except Exception as caught:
            error = ConnectError(f"could not connect: {caught!r}")
            error.__cause__ = caught
        now = monotonic()
        with self.lock:
            wanted = number == self.dial_number and not self.closing and not self.closed
            if wanted and error is not None:
                self.session.dial_failed(error, now, random())
                self._phase_changed()
            elif wanted and transport is not None and self.session.opened(now, data):
                self.arrived = transport
                transport = None
            self.wake()
        if transport is not None:
            transport.close()

    def _authenticate(self, step: AuthStep) -> None:
        """Ask the authenticator."""
        authenticator = self.authenticator
        data: bytes | None = None
        error: Exception | None = None
        try:
            if authenticator is None:
                raise StateError("no authenticator")
            if step.finish:
                authenticator.finish(step.data)
            else:
                data = authenticator.respond(step.data)
        except Exception as caught:
            error = caught
        with self.lock:
            self.session.authenticated(step, data, error, monotonic())
            self.wake()

    # ---- the end --------------------------------------------------------------------------------------------------------------------------------

    def start_threads(self) -> None:
        """Start the I/O thread and the delivery thread."""
        with self.lock:
            self.check()
            if self.thread is not None:
                raise StateError("the loop is running already")
            if not self.stepping.acquire(blocking=False):
                raise StateError("loop_once() or loop_forever() is running: a client has either threads or a loop of its owner")
            self.thread = threading.Thread(target=self.run, name="ohmqtt-io", daemon=True)
            self.delivery.thread = threading.Thread(target=self.delivery.run, name="ohmqtt-delivery", daemon=True)
            # A wait that drives the I/O itself must see the thread before it is running.
            self.stepping.release()
            self.thread.start()
            self.delivery.thread.start()

    def shut_down(self) -> None:
        """Ask for the immediate end. Takes no lock that could be held: safe in a signal handler."""
        self.closing = True
        if self.thread is not None:
            self.wake_now()
        elif self.stepping.acquire(blocking=False):
            try:
                if self.lock.acquire(blocking=False):
                    self.lock.release()
                    self._teardown()
            finally:
                self.stepping.release()
        else:
            self.wake_now()

    def _teardown(self) -> None:
        """Close everything and resolve every handle."""
        with self.lock:
            if self.closed:
                return
            transport = self.transport or self.arrived
            self.transport = self.arrived = None
            if transport is not None and self.interest:
                self.selector.unregister(transport.fileno())
            self.interest = 0
            self.dial_number += 1
        if transport is not None:
            transport.close()
        with self.lock:
            self.session.abandon(monotonic())
            if self.store is None:
                self.pass_turn(monotonic())
        if self.store is not None:
            self.settle()
            if self.failed_turn is not None:
                with self.lock:
                    self._hand_over(self.failed_turn)
                    turn = self.session.baskets.take(None, monotonic())
                    self._hand_over(turn)
            with self.commit_lock:
                self.store.close()
        with self.lock:
            self.closed = True
            self.delivery.interrupt()
            self.changed.notify_all()
            self.selector.close()
            self.wake_in.close()
            self.wake_out.close()

    def abandon_after_fork(self) -> None:
        """In a forked child: touch neither socket nor database, and raise on every call."""
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.commit_lock = threading.Lock()
        self.stepping = threading.Lock()
        self.forked = True
        self.closed = True
        self.thread = None
        self.delivery.thread = None
        self.sleeping = False
