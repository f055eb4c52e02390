"""A clock that stands still until it is told to move: what takes an hour is tested at once, and comes out the same each time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from ohmqtt.errors import ArgumentError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["FakeClock"]


class FakeClock:
    """Give the time in seconds when called, as ``time.monotonic`` does; it only moves by `advance`. Safe to use from several threads.

    :param now: Where it begins, in seconds.

    >>> clock = FakeClock()
    >>> clock.advance(1.5)
    >>> clock()
    1.5
    """

    def __init__(self, now: float = 0.0) -> None:
        self._now = float(now)
        self._lock = threading.Lock()
        self._listeners: list[Callable[[], object]] = []

    def __call__(self) -> float:
        """Return the time in seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move the clock forward, and return when everybody who listens has acted on the new time.

        They first do what is left to do at the old time: a link that was lost before `advance` was lost at the old time.

        :param seconds: 0 or more.
        :raises ArgumentError: it would go backwards, or `seconds` is no number.
        """
        if not seconds >= 0:
            raise ArgumentError(f"seconds: 0 or more expected, got {seconds!r}")
        with self._lock:
            listeners = tuple(self._listeners)
        # Without the lock: a listener may look at the clock, or stop listening.
        for listener in listeners:
            listener()
        with self._lock:
            self._now += seconds
        for listener in listeners:
            listener()

    def on_advance(self, callback: Callable[[], object]) -> Callable[[], None]:
        """Have `callback()` called just before and after each `advance`, on the thread that calls it; return what ends that."""
        with self._lock:
            self._listeners.append(callback)

        def stop_listening() -> None:
            with self._lock:
                if callback in self._listeners:
                    self._listeners.remove(callback)

        return stop_listening
