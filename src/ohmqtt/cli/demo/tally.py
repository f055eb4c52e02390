"""The count that the demonstration is about: which numbers were accepted, which arrived, and how often.

Two counters, number by number, and nothing that is taken on trust. A number counts as *accepted* when the publisher's process has said that
``publish`` returned for it, and as *delivered* each time the subscriber's callback gets it. Whatever goes wrong then shows:

- a number that was accepted once more than it was delivered is lost;
- a number that was delivered more than once is duplicated, whoever is to blame, the publisher itself included;
- a number that arrives without ever having been accepted makes delivered more than sent.

Any thread may call any method: the subscriber's callbacks count on one thread, what the publisher says on another one.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass

__all__ = ["Result", "Tally"]


@dataclass(frozen=True)
class Result:
    """What came of it: numbers of messages, and of connections that were made again."""

    sent: int
    delivered: int
    lost: int
    duplicated: int
    reconnects: int

    @property
    def good(self) -> bool:
        """Whether each message that was sent arrived exactly once, and nothing else did."""
        return self.sent == self.delivered > 0 and not self.lost and not self.duplicated


class Tally:
    """Count messages by their numbers, 1, 2, 3 …, and connections."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._accepted: Counter[int] = Counter()
        self._delivered: Counter[int] = Counter()
        self._strangers = 0
        self._connections = 0
        self._last = 0
        self.sent = 0
        self.delivered = 0

    def connected(self) -> None:
        """Count a connection that the broker has accepted."""
        with self._lock:
            self._connections += 1

    def accept(self, number: int) -> None:
        """Count a number that ``publish`` returned for."""
        with self._lock:
            self._accept(number)

    def resume(self, number: int) -> int:
        """Hear with which number a new publisher goes on, and return how many its predecessor had not told of.

        Its database says so: all numbers before that one were accepted, also one for which ``publish`` had just returned, or was about to,
        in the moment of the kill. A database that has forgotten some makes the publisher accept them a second time, and the sum shows it.
        """
        with self._lock:
            untold = range(self._last + 1, number)
            for former in untold:
                self._accept(former)
            return len(untold)

    def _accept(self, number: int) -> None:
        self._accepted[number] += 1
        self._last = number
        self.sent += 1

    def deliver(self, payload: bytes) -> None:
        """Count a message that the subscriber got."""
        with self._lock:
            self.delivered += 1
            if payload.isdigit():
                self._delivered[int(payload)] += 1
            else:
                self._strangers += 1

    def missing(self) -> int:
        """Return how many accepted messages have not arrived."""
        with self._lock:
            return (self._accepted - self._delivered).total()

    def result(self, clients: int) -> Result:
        """Return the sums; each of so many clients had to connect once, and the other connections were made again."""
        with self._lock:
            lost = (self._accepted - self._delivered).total()
            duplicated = self._delivered.total() - len(self._delivered)
            return Result(self.sent, self.delivered, lost, duplicated, max(0, self._connections - clients))
