"""The thread under `Broker` and `Proxy`: it waits for sockets, for a clock and for what other threads ask, and does one thing at a time.

Owns the thread, the selector and the way to wake it. Must not know MQTT. Invariant: everything that its heir does happens on this thread,
so the heir needs no lock; who asks from elsewhere waits until it is done.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from abc import ABC, abstractmethod
from collections import deque
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from concurrent.futures import wait as wait_for_futures
from typing import TYPE_CHECKING, Any, TypeVar

from ohmqtt.errors import StateError, WaitTimeoutError

from .clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["READ", "WRITE", "Served"]

T = TypeVar("T")

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE

#: How often the sockets are looked at before something that was asked is done, while there is always more.
CATCH_UP_ROUNDS = 100

_log = logging.getLogger(__name__)


class Served(ABC):
    """What a daemon thread serves between `start` and `stop`. Heirs say what one turn is, and when the next one is due.

    An exception on the thread that nobody expected, for example of a hook, ends it: connections are closed, and `stop` raises it.
    """

    #: How long the thread is waited for. It is busy for milliseconds; only a hook that hangs takes this long.
    _patience_s = 30.0

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._selector: selectors.BaseSelector
        self._stop_listening: Callable[[], None]
        self._requests: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._waiting: dict[Future[None], Callable[[], bool]] = {}
        self._stopping = False
        self._ended = True
        self._error: BaseException | None = None

    # ---- what heirs say --------------------------------------------------------------------------------------------------------------

    @abstractmethod
    def _open(self) -> None:
        """Open the listening sockets and `_watch` them."""

    @abstractmethod
    def _turn(self, now: float) -> None:
        """Do what the time, the last round of reading and what others asked for have made due."""

    @abstractmethod
    def _due(self) -> float | None:
        """Return when the next turn is due at the latest, in seconds of the clock, or None."""

    @abstractmethod
    def _close(self) -> None:
        """Close all sockets, as far as they were opened."""

    # ---- life ------------------------------------------------------------------------------------------------------------------------

    @property
    def is_running(self) -> bool:
        """Whether it serves."""
        return not self._ended

    def start(self) -> Self:
        """Listen, and start the thread. It has an address when this returns, and what connects from then on is served.

        :raises StateError: it runs already.
        :raises OSError: a port or a path can't be had.
        """
        if self._thread is not None:
            raise StateError(f"this {type(self).__name__} runs already")
        self._selector = selectors.DefaultSelector()
        self._waker, self._wakes = socket.socketpair()
        self._waker.setblocking(False)
        self._wakes.setblocking(False)
        self._watch(self._wakes, READ, self._drain)
        try:
            self._open()
        except BaseException:
            self._close_all()
            raise
        self._stopping = self._ended = False
        self._thread = threading.Thread(target=self._run, name=f"ohmqtt-{type(self).__name__.lower()}", daemon=True)
        self._thread.start()
        self._stop_listening = self._clock.on_advance(self._catch_up) if isinstance(self._clock, FakeClock) else _nothing
        return self

    def stop(self) -> None:
        """End the thread and close everything; does nothing if it doesn't run. `start` may follow.

        An exception that ended the thread early is raised here.
        """
        thread = self._thread
        if thread is None:
            return
        self._stop_listening()
        with self._lock:
            self._stopping = True
            self._wake()
        thread.join(self._patience_s)
        self._thread = None
        error, self._error = self._error, None
        if error is not None:
            raise error

    def __enter__(self) -> Self:
        return self if self._thread is not None else self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.stop()
        except Exception:
            # The block's own error is the one to tell; this one is in the log.
            if error is None:
                raise

    # ---- for other threads -----------------------------------------------------------------------------------------------------------

    def _ask(self, function: Callable[[], T]) -> T:
        """Run `function` on the thread, after everything that had arrived by now; return or raise what it does."""
        if self._thread is threading.current_thread():
            return function()
        future: Future[T] = Future()
        with self._lock:
            # A forked process has no other threads than the one that forked.
            if self._ended or self._thread is None or not self._thread.is_alive():
                raise StateError(f"this {type(self).__name__} doesn't run") from self._error
            self._requests.append((function, future))
            self._wake()
        try:
            return future.result(self._patience_s)
        except FutureTimeoutError:
            if future.done():
                # Its own.
                raise
            busy = (
                f"the thread of this {type(self).__name__} has been busy for {self._patience_s:g} s: a hook or a condition doesn't return"
            )
            raise WaitTimeoutError(busy) from None

    def _look(self, function: Callable[[], T]) -> T:
        """Run `function` on the thread if there is one, otherwise here."""
        return function() if self._ended else self._ask(function)

    def _wait_until(self, condition: Callable[[], bool], timeout: float, what: Callable[[], str]) -> None:
        """Wait until `condition()`, which is looked at on the thread after each turn; ``what()`` says what was waited for.

        What `condition` raises is raised here.
        """
        if self._thread is threading.current_thread():
            raise StateError(f"a {type(self).__name__} can't wait on its own thread for what happens there")
        future: Future[None] = Future()
        self._ask(lambda: self._waiting.update({future: condition}))
        wait_for_futures([future], timeout)
        if not future.done() and self._ask(lambda: self._waiting.pop(future, None)) is not None:
            raise WaitTimeoutError(f"waited {timeout:g} s in vain for {self._ask(what)}")
        future.result()

    def _catch_up(self) -> None:
        try:
            self._ask(_nothing)
        except StateError:
            # Another thread stops it meanwhile, which is no failure of who moves the clock.
            if not self._stopping:
                raise

    def _wake(self) -> None:
        try:
            self._waker.send(b"\0")
        except OSError:
            # Full: it is about to wake anyway. Closed: it has ended.
            pass

    # ---- on the thread ---------------------------------------------------------------------------------------------------------------

    def _watch(self, sock: socket.socket, events: int, callback: Callable[[int], None] | None = None) -> None:
        """Have ``callback(events)`` called whenever the socket is ready for one of `events`; 0: no longer."""
        watched = sock in self._selector.get_map()
        if not watched and events:
            self._selector.register(sock, events, callback)
        elif watched and events:
            self._selector.modify(sock, events, callback)
        elif watched:
            self._selector.unregister(sock)

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._round()
        except BaseException as error:  # noqa: BLE001  # nothing ends a thread in silence
            self._error = error
            _log.exception("the thread of a %s ended", type(self).__name__)
        with self._lock:
            self._ended = True
        self._close_all()
        for future in [*[future for _, future in self._requests], *self._waiting]:
            stopped = StateError(f"this {type(self).__name__} was stopped")
            stopped.__cause__ = self._error
            future.set_exception(stopped)
        self._requests.clear()
        self._waiting.clear()

    def _round(self) -> None:
        # Only those that are here before the sockets are looked at: what had arrived when they were asked is handled first.
        asked = len(self._requests)
        self._dispatch(0.0 if asked else self._pause_s())
        self._step()
        for _ in range(CATCH_UP_ROUNDS if asked else 0):
            if not self._dispatch(0.0):
                break
            self._step()
        for _ in range(asked):
            function, future = self._requests[0]
            try:
                result = function()
            except Exception as error:  # noqa: BLE001  # it belongs to who asked
                future.set_exception(error)
            else:
                # What was asked for is done when its consequences are.
                self._step()
                future.set_result(result)
            self._requests.popleft()

    def _dispatch(self, timeout_s: float | None) -> bool:
        """Have everybody told whose socket is ready; return whether there was one."""
        ready = self._selector.select(timeout_s)
        for key, events in ready:
            key.data(events)
        return bool(ready)

    def _step(self) -> None:
        self._turn(self._clock())
        for future, condition in list(self._waiting.items()):
            try:
                if not condition():
                    continue
            except Exception as error:  # noqa: BLE001  # it belongs to who waits
                future.set_exception(error)
            else:
                future.set_result(None)
            del self._waiting[future]

    def _pause_s(self) -> float | None:
        due = self._due()
        if due is None:
            return None
        left_s = max(0.0, due - self._clock())
        # A clock that stands still wakes us when it moves.
        return None if left_s and isinstance(self._clock, FakeClock) else left_s

    def _drain(self, _events: int) -> None:
        self._wakes.recv(4096)

    def _close_all(self) -> None:
        self._close()
        self._selector.close()
        self._waker.close()
        self._wakes.close()


def _nothing() -> None:
    pass
