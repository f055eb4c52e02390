"""The disk's part of the rule "journal, then wire, then user": turns are committed one at a time, in order, and then released.

Owns the store, the lock of whoever is committing, and the turn that the disk refused. It is never under the client's lock while the disk
works. Its invariant: no turn is released before its journal is committed, and none overtakes another.
"""

from __future__ import annotations

import threading
from time import monotonic
from typing import TYPE_CHECKING

from ..errors import StoreError

if TYPE_CHECKING:
    from ..session import Turn
    from ..store import Store
    from .driver import Driver

__all__ = ["Commits"]


class Commits:
    """Commits the turns of one client."""

    def __init__(self, driver: Driver, store: Store) -> None:
        self.driver = driver
        self.store = store
        self.lock = threading.Lock()
        self.failed_turn: Turn | None = None
        # Whoever waits for a turn of this number or a lower one knows its outcome.
        self.settled = 0

    def settle(self, number: int | None = None) -> None:
        """Commit and release all turns there are (or up to `number`), and load what the queue has room for. The client's lock is not held.

        Turns are committed by whoever comes first, for all who wait: that is the group commit. Rows are loaded once in a call: what they
        became shall leave before the next ones are loaded, so that the first of a long backlog doesn't wait for the last.
        """
        driver = self.driver
        session = driver.session
        loaded = False
        while number is None or self.settled < number:
            with self.lock:
                if driver.closed or (number is not None and self.settled >= number):
                    return
                with driver.lock:
                    now = monotonic()
                    resting = session.retry_at is not None and now < session.retry_at
                    turn = self.failed_turn
                    if turn is None:
                        turn = session.take(now)
                    elif number is None and resting:
                        return
                    wanted = None if turn is not None or resting else session.outbound.wanted_rows()
                    if turn is None and wanted is None and not resting:
                        session.retry_at = None
                    if loaded and wanted is not None:
                        driver.again = True
                        driver.wake()
                        return
                if turn is not None:
                    if not self._commit(turn):
                        return
                elif wanted is None or not self._load(wanted):
                    return
                else:
                    loaded = True

    def _commit(self, turn: Turn) -> bool:
        """Commit one turn and release it; False: the disk refused what came from the peer, so nothing may overtake it."""
        driver = self.driver
        session = driver.session
        error: StoreError | None = None
        if turn.journal:
            try:
                self.store.commit(turn.journal)
            except StoreError as caught:
                error = caught
            except Exception as caught:
                # A turn that was taken must come to an end, whatever somebody's own store raises.
                error = StoreError(f"the store failed: {caught!r}")
                error.__cause__ = caught
        with driver.lock:
            now = monotonic()
            if error is not None:
                driver.resolve(session.commit_failed(turn, error, now))
                driver.tell_urgent()
                # What was accepted until now was withdrawn with it; what is accepted from now on belongs to a turn of a later number.
                self.settled = session.baskets.turn_number
                session.baskets.turn_number += 1
                if turn.journal:
                    self.failed_turn = turn
                    driver.notify()
                    return False
            elif turn.journal:
                session.retry_at = None
            self.failed_turn = None
            session.release(turn, now)
            driver.hand_over(turn)
            self.settled = max(self.settled, turn.number)
            driver.wake()
        return True

    def _load(self, wanted: tuple[int, int, int]) -> bool:
        """Load the rows that the Session wants; False if there are none."""
        driver = self.driver
        session = driver.session
        try:
            rows = self.store.load_queued(*wanted)
        except Exception as error:
            with driver.lock:
                session.load_failed(error, monotonic())
                driver.tell_urgent()
            return False
        with driver.lock:
            now = monotonic()
            session.retry_at = None
            session.outbound.loaded(rows, driver.make_message, now)
        return bool(rows)

    def close(self) -> None:
        """Commit what can be committed, hand over the rest as it is, and close the store. The client's lock is not held."""
        driver = self.driver
        try:
            self.settle()
        finally:
            with self.lock:
                with driver.lock:
                    baskets = driver.session.baskets
                    for turn in (self.failed_turn, baskets.take(None, monotonic())):
                        if turn is not None:
                            driver.hand_over(turn)
                self.store.close()
