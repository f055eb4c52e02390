"""The driver: owns socket, clock and lock; empties the Session's baskets in the one order that is allowed.

**Journal, then wire, then user.** `pass_turn` (in memory) and `Commits.settle` (with a database) are the only places where a turn's writes
join the outbox and its events go out. `step` is one round of I/O; the I/O thread, `loop_once` and every wait without threads call the same.

One lock guards the Session and everything that is said to be "under the lock". It is never held while user code runs, while the disk is
written, or while a system call may block. Whatever goes wrong in a round closes the network connection and is reported; no handle is left open.
"""

from __future__ import annotations

import selectors
import threading
import traceback
from typing import TYPE_CHECKING, Any

from ..errors import LinkLostError, MQTTError, StateError
from ..link import CLOSED, CLOSING
from ..records import Outgoing, Report
from ..session import STOPPED, Session
from .commits import Commits
from .delivery import Delivery
from .opening import Opening
from .waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..property import MQTTPubAckProps
    from ..records import Message, Request
    from ..session import SessionSettings, Turn
    from ..store import Store
    from ..transport import Transport
    from .client import Client
    from .world import World

__all__ = ["Driver"]

RECEIVE_BYTES = 65_536
"""How much is read at a time; more while a larger packet is incomplete."""

RECEIVE_BYTES_MAX = 1_048_576

ACK_DELAY_S = 0.005
"""An acknowledgement waits no longer than this behind a callback that is still running."""

SIGNAL_DELAY_S = 1.0
"""Without threads the sleep is bounded: a signal that arrives right before the system call is looked at no later than this."""

CHUNKS_PER_STEP = 8

LAST_READS = 64
"""How often a broken connection is read for what the server said before it closed."""

FAILURES_MAX = 5
"""After so many failed rounds in a row the client can't be helped and is shut down."""

CRITICAL = 50


class Driver(Waiting):
    """The I/O side of a client."""

    def __init__(
        self, settings: SessionSettings, store: Store | None, client: Callable[[], Client | None], manual_ack: bool, world: World
    ) -> None:
        super().__init__(world)
        self.client = client
        self.store = store
        self.session = Session(settings, durable=store is not None, acknowledge=self.acknowledge, random=world.random())
        self.delivery = Delivery(self, manual_ack)
        self.commits = None if store is None else Commits(self, store)
        # The network connection.
        self.opening = Opening(self)
        self.transport: Transport | None = None
        self.arrived: Transport | None = None
        self.interest = 0
        # Once before the first sleep: a database may have something to tell.
        self.again = True
        self.selector = world.selector()
        self.selector.register(self.wake_out, selectors.EVENT_READ)
        self.failures = 0
        self.make_message: Callable[[Any], Outgoing]
        self.subscription_group = 0

    # ---- the rule: journal, then wire, then user ------------------------------------------------------------------------------------------

    def pass_turn(self, now: float) -> None:
        """Empty the baskets; there is no database. The lock is held."""
        turn = self.session.take(now)
        if turn is not None:
            self.session.release(turn, now)
            self.hand_over(turn)

    def hand_over(self, turn: Turn) -> None:
        """The third basket: outcomes to their waiters, events to the user. The lock is held."""
        if turn.resolved:
            self.resolve(turn.resolved)
        if turn.events:
            self.delivery.put(turn.events, turn.received_bytes)
        if self.watchers:
            self.changed.notify_all()

    def tell_urgent(self) -> None:
        """Tell the user what can't wait for a turn. The lock is held."""
        if self.session.urgent:
            self.delivery.put(self.session.take_urgent(), 0)

    def flush(self, number: int | None = None, *, wait: bool = True) -> None:
        """Pass on what a call has put into the baskets, and wait for the disk or not. The lock is not held."""
        if self.commits is not None and wait:
            self.commits.settle(number)
        elif self.commits is not None:
            self.commits.pass_on()
        with self.lock:
            if self.commits is None:
                self.pass_turn(self.monotonic())
            self.wake()

    # ---- calls ----------------------------------------------------------------------------------------------------------------------------

    def cancel(self, request: Outgoing | Request) -> bool:
        """Give a request up; False if its outcome is known already."""
        with self.lock:
            self.check()
            session = self.session
            done = session.outbound.cancel(request) if isinstance(request, Outgoing) else session.subscriptions.cancel(request)
        self.flush()
        return done

    def acknowledge(self, message: Message, reason_code: int, properties: MQTTPubAckProps | None) -> None:
        """Acknowledge a received message; any thread."""
        self.check_fork()
        with self.lock:
            if self.closed:
                return
            self.session.answer(message, reason_code, properties)
        self.flush()

    # ---- one round of I/O ------------------------------------------------------------------------------------------------------------------

    def run(self) -> None:
        """The I/O thread."""
        while not self.closed:
            self.step(None)

    def step(self, timeout: float | None) -> None:
        """Wait for the network, a deadline or a wake-up, and do all there is to do then."""
        acting = False
        try:
            ready = self._sleep(timeout)
            acting = True
            self._act(ready)
            self.failures = 0
        except Exception as error:
            self._survive(error)
        except BaseException as error:
            # Ctrl-C without threads. Asleep, nothing is lost; in the middle of a round the connection can't be trusted any more.
            if acting:
                self.fail(error)
            raise

    def fail(self, error: BaseException) -> None:
        """Something went wrong that should not: close the network connection, and say so in the log. The lock is not held."""
        self._report(error)
        with self.lock:
            failure = MQTTError(f"internal error: {error!r}")
            failure.__cause__ = error
            self.session.fail_link(failure, self.monotonic(), 0x83)
            link = self.session.link
            if self.failures and link is not None:
                # A goodbye was tried already.
                link.close_error = link.close_error or failure
                link.state = CLOSED
            self.wake()

    def _report(self, error: BaseException) -> None:
        """Say in the log that something went wrong that should not. The lock is not held."""
        self.internal_error = error
        text = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        with self.lock:
            self.session.urgent.append(Report(CRITICAL, f"internal error, please report it: {error!r}\n{text}"))
            self.tell_urgent()

    def _survive(self, error: Exception) -> None:
        """A round failed: it never kills the I/O thread in silence."""
        try:
            self.fail(error)
            self.failures += 1
            if self.failures < FAILURES_MAX:
                self._after(self._write())
                return
        except Exception as another:
            self.internal_error = another
            self.failures += 1
        if self.failures >= FAILURES_MAX:
            self._teardown()

    def _sleep(self, timeout: float | None) -> int:
        """Wait for something to do; return what the network connection is ready for."""
        ready = 0
        for key, mask in self.selector.select(self._before(timeout)):
            if key.fileobj is self.wake_out:
                self._drain_wake()
            else:
                ready = mask
        self.sleeping = False
        return ready

    def _act(self, ready: int) -> None:
        """Do all there is to do now."""
        if self.closing:
            self._teardown()
            return
        data, error = self._read(ready)
        now = self.monotonic()
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
            if self.commits is None:
                self.pass_turn(now)
            steps = session.auth_steps[:]
            session.auth_steps.clear()
            dial = self.opening.begin() if session.dial(now) else 0
        if self.commits is not None:
            self.commits.pass_on()
        for auth_step in steps:
            self.opening.authenticate(auth_step)
        if dial:
            self.opening.dial(dial)
        failure = self._write()
        if failure is not None:
            self._hear_out()
        self._after(failure or error or (ConnectionResetError("the server closed the connection") if data == b"" else None))

    def _before(self, timeout: float | None) -> float | None:
        """Return how long to sleep at most, and be ready to be woken."""
        with self.lock:
            self._watch()
            session = self.session
            now = self.monotonic()
            if self._has_work(now):
                self.again = False
                return 0.0
            # Who commits wakes us at the end: until then nothing that the disk is to do can be done.
            deadline = session.deadline(disk=self.commits is None or not self.commits.busy)
            wait_s = timeout if deadline is None else max(0.0, deadline - now)
            if timeout is not None and (wait_s is None or wait_s > timeout):
                wait_s = timeout
            link = session.link
            if link is not None and (link.pubacks or link.pubrecs) and self.delivery.is_behind():
                wait_s = ACK_DELAY_S if wait_s is None else min(wait_s, ACK_DELAY_S)
            if self.thread is None and (wait_s is None or wait_s > SIGNAL_DELAY_S):
                wait_s = SIGNAL_DELAY_S
            self.sleeping = True
            return wait_s

    def _has_work(self, now: float) -> bool:
        """Return whether there is something to do before the network or the clock says so. The lock is held."""
        session = self.session
        transport = self.transport
        if self.again or self.closing or self.arrived is not None or self.delivery.completed or session.auth_steps or session.must_close():
            return True
        if transport is not None and transport.pending() and session.reading():
            return True
        if session.pump(now) if self.commits is None else self.commits.is_due(now):
            return True
        link = session.link
        return link is not None and transport is not None and bool(link.outbox) and not link.unsent

    def _watch(self) -> None:
        """Tell the selector what to wait for. The lock is held."""
        transport = self.transport
        if transport is None:
            return
        session = self.session
        link = session.link
        interest = 0
        if session.reading() or (link is not None and link.state >= CLOSING):
            interest = selectors.EVENT_READ
            if transport.wants_write():
                interest |= selectors.EVENT_WRITE
        if link is not None and link.unsent:
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
        with self.world.selector() as selector:
            selector.register(transport.fileno(), selectors.EVENT_READ)
            return transport.pending() or bool(selector.select(0))

    def _read(self, ready: int) -> tuple[bytes | None, OSError | None]:
        """Read what the socket has, without waiting."""
        transport = self.transport
        if transport is None or not self.interest & selectors.EVENT_READ or not (ready or transport.pending()):
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
            now = self.monotonic()
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
                    self.resolve(flushed)
                    self.notify()
            if count < len(chunk):
                return None
        self.again = True
        return None

    def _hear_out(self) -> None:
        """The peer closed while we were writing: its last words, which say why, may still be there to be read."""
        transport = self.transport
        assert transport is not None
        with self.lock:
            reads = LAST_READS if self.session.reading() else 0
        for _ in range(reads):
            try:
                data = transport.receive(RECEIVE_BYTES)
            except OSError:
                return
            if not data:
                return
            with self.lock:
                self.session.receive(data, self.monotonic())

    def _after(self, error: OSError | None) -> None:
        """Close the network connection if it is time to."""
        with self.lock:
            if error is None and not self.session.must_close():
                self.notify()
                return
            transport = self._let_go()
        if transport is not None:
            transport.close()
        with self.lock:
            lost = None
            if error is not None and transport is not None:
                lost = LinkLostError(f"the connection to {transport.description} was lost: {error}")
                lost.__cause__ = error
            self.session.link_lost(lost, self.monotonic(), self.world.random())
            self.phase_changed()
            if self.commits is None:
                self.pass_turn(self.monotonic())
        if self.commits is not None:
            self.commits.pass_on()

    def _let_go(self) -> Transport | None:
        """Take the network connection out of everything, for the caller to close. The lock is held."""
        transport = self.transport or self.arrived
        self.transport = self.arrived = None
        if transport is not None and self.interest:
            self.selector.unregister(transport.fileno())
        self.interest = 0
        return transport

    def phase_changed(self) -> None:
        """Wake the waiters of a client that has stopped connecting. The lock is held."""
        if self.session.phase == STOPPED:
            self._release_waiting()
        self.notify()

    def _drain_wake(self) -> None:
        # What is left of more than that wakes once more.
        self.wake_out.recv(4_096)

    # ---- the end --------------------------------------------------------------------------------------------------------------------------------

    def start_threads(self) -> None:
        """Start the I/O thread and the delivery thread."""
        with self.lock:
            self.check()
            if self.thread is not None:
                raise StateError("the loop is running already")
            if not self.looping.acquire(blocking=False):
                raise StateError("loop_once() or loop_forever() is running: a client has either threads or a loop of its owner")
            try:
                delivery = self.world.make_thread(target=self.delivery.run, name="ohmqtt-delivery", daemon=True)
                # Seen from now on: a wait that drives the I/O gives way.
                self.thread = self.world.make_thread(target=self.run, name="ohmqtt-io", daemon=True)
                self.delivery.thread = delivery
            finally:
                self.looping.release()
        self.wake_now()
        with self.stepping:
            if self.commits is not None:
                self.world.make_thread(target=self.commits.run, name="ohmqtt-commits", daemon=True).start()
            delivery.start()
            self.thread.start()

    def shut_down(self) -> None:
        """Ask for the immediate end. Takes no lock that could be held: safe in a signal handler."""
        self.closing = True
        if self.thread is None:
            self.finish()
        self.wake_now()

    def finish(self) -> None:
        """Without threads: do the end that was asked for, if nobody is in the middle of something; else whoever is does it then."""
        if not self.closing or self.closed or self.thread is not None or not self.lock.acquire(blocking=False):
            return
        try:
            # Under the lock: whoever finds the turn taken sleeps until its holder tells, so it must not be taken and given back in silence.
            if (self.commits is not None and self.commits.busy) or not self.stepping.acquire(blocking=False):
                return
        finally:
            self.lock.release()
        try:
            self._teardown()
        finally:
            self.stepping.release()

    def _teardown(self) -> None:
        """Close everything and resolve every handle."""
        with self.lock:
            self.closing = True
            transport = self._let_go()
            self.opening.give_up()
        if transport is not None:
            transport.close()
        try:
            with self.lock:
                self.session.abandon(self.monotonic())
                if self.commits is None:
                    self.pass_turn(self.monotonic())
            if self.commits is not None:
                self.commits.close()
        except Exception as error:
            self._report(error)
        with self.lock:
            self.closed = True
            self._release_waiting()
            if self.commits is not None:
                self.commits.ended.notify_all()
            self.delivery.interrupt()
            self.discard()

    def discard(self) -> None:
        """Let go of what waking needs: at the end, or if the client could not be opened."""
        self.selector.close()
        self.wake_in.close()
        self.wake_out.close()

    def abandon_after_fork(self) -> None:
        """In a forked child: touch neither socket nor database, and raise on every call."""
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.stepping = threading.Lock()
        self.looping = threading.Lock()
        self.forked = True
        self.closing = True
        self.closed = True
        self.thread = None
        self.delivery.thread = None
        self.sleeping = False
