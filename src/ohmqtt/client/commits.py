"""The disk's part of the rule "journal, then wire, then user": turns are committed one at a time, in order, and then released.

Owns the store, the right to commit, the turn that the disk refused, and the committer: a thread that does for the I/O thread whatever may
have to wait for the disk, so that a slow disk delays neither PINGREQ nor reading. It is never under the client's lock while the disk works.
Its invariant: no turn is released before its journal is committed, and none overtakes another.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import StoreError
from ..records import Report

if TYPE_CHECKING:
    from collections.abc import Generator

    from ..session import Turn
    from ..session.baskets import Baskets
    from ..store import Store
    from .driver import Driver

__all__ = ["Commits"]

ERROR = 40


class Commits:
    """Commits the turns of one client."""

    def __init__(self, driver: Driver, store: Store) -> None:
        self.driver = driver
        self.store = store
        # Whether somebody is at it, and how the others hear that he is no more; all of this is guarded by the client's lock.
        self.busy = False
        self.ended = threading.Condition(driver.lock)
        self.left_over = False
        # The turn that was taken and isn't released; and the same again if the disk has refused it.
        self.unfinished: Turn | None = None
        self.failed_turn: Turn | None = None
        # Whoever waits for a turn of this number or a lower one knows its outcome.
        self.settled = 0
        # The committer is there if the client has threads. The I/O thread hands the right to commit on to it, or asks it for the end.
        self.asked = threading.Condition(driver.lock)
        self.handed = False
        self.ending = False
        # The store is closed, or is left to whoever still waits for its answer.
        self.over = False

    def settle(self, number: int | None = None, *, wait: bool = True) -> None:
        """Commit and release the turns up to `number`, or what there is now, and load what the queue has room for. The client's lock is not held.

        Turns are committed by whoever comes first, for all who wait: that is the group commit. Who comes later waits for his turn, or, with
        `wait` False, leaves it to them: the I/O thread has other things to do, and is woken if anything is left over. Without a number this is
        one turn and one load, however much comes meanwhile: nobody works for others for ever, and the first of a long backlog doesn't wait
        for the last.
        """
        self._work(number, wait, False)

    def pass_on(self) -> None:
        """Release what needs no disk, and let the committer do the rest. The I/O thread's way; the client's lock is not held."""
        driver = self.driver
        if driver.thread is None:
            self.settle(wait=False)
            return
        with driver.lock:
            if not self._lead(None, False):
                return
            try:
                turn, wanted = self._next(None, driver.session.baskets.turn_number)
                # The right to commit goes with it, so that nobody comes between.
                self.handed = wanted is not None or (turn is not None and bool(turn.journal))
                if turn is not None and not self.handed:
                    self._release(turn, driver.monotonic())
            finally:
                if self.handed:
                    self.asked.notify()
                else:
                    self._leave()

    def is_due(self, now: float) -> bool:
        """Return whether there is a turn to commit, or rows to load, and nobody is at it. The client's lock is held."""
        session = self.driver.session
        if self.busy or self.failed_turn is not None:
            # The later ones wait for the end of that, or for its next try.
            return False
        resting = session.retry_at is not None and now < session.retry_at
        return session.pump(now) or (not resting and session.wanted_rows(now) is not None)

    def run(self) -> None:
        """The committer."""
        driver = self.driver
        while True:
            with driver.lock:
                while not self.handed and not self.ending:
                    self.asked.wait()
                leading, self.handed = self.handed, False
            try:
                if not leading:
                    self._finish()
                    return
                self._work(None, False, True)
            except BaseException as error:
                driver.fail(error)
                if not leading:
                    return

    def _work(self, number: int | None, wait: bool, leading: bool) -> None:
        """Do what `settle` says; `leading` if the right to commit was handed over."""
        driver = self.driver
        loaded = False
        target = -1
        try:
            while True:
                with driver.lock:
                    if target < 0:
                        leading = leading or self._lead(number, wait)
                        if not leading:
                            return
                        target = driver.session.baskets.turn_number
                    turn, wanted = self._next(number, target)
                    if (turn is None and wanted is None) or (loaded and wanted is not None):
                        self.left_over |= wanted is not None
                        leading = False
                        self._leave()
                        return
                if turn is not None:
                    if not self._commit(turn):
                        return
                else:
                    assert wanted is not None
                    if not self._load(wanted):
                        return
                    loaded = True
        finally:
            if leading:
                with driver.lock:
                    self._leave()

    @contextmanager
    def alone(self) -> Generator[None]:
        """Keep everybody else from the store. The client's lock is not held."""
        with self.driver.lock:
            self.driver.check_fork()
            while self.busy:
                self.ended.wait()
            self.busy = True
        try:
            yield
        finally:
            with self.driver.lock:
                self._leave()

    def _lead(self, number: int | None, wait: bool) -> bool:
        """Become the one who commits; False if there is no need to. The client's lock is held."""
        while not self.driver.closed and (number is None or self.settled < number):
            if not self.busy:
                self.busy = True
                return True
            if not wait:
                self.left_over = True
                return False
            self.ended.wait()
        return False

    def _leave(self) -> None:
        """Let another one commit. The client's lock is held."""
        self.busy = False
        self.ended.notify_all()
        driver = self.driver
        interrupted = self.unfinished is not self.failed_turn
        if self.left_over or interrupted or (self.failed_turn is None and driver.session.baskets.any()):
            # Nobody may wait for it, so that it is the I/O thread's.
            self.left_over = False
            driver.again = True
        # Who sleeps has left out what the disk is to do, and does not know of a new try.
        driver.wake()

    def _next(self, number: int | None, target: int) -> tuple[Turn | None, tuple[int, int, int] | None]:
        """Return the turn to be committed, or else which rows are to be loaded. The client's lock is held."""
        driver = self.driver
        session = driver.session
        if driver.closed or (number is not None and self.settled >= number):
            return None, None
        now = driver.monotonic()
        resting = session.retry_at is not None and now < session.retry_at
        turn = self.unfinished
        if turn is not None:
            return None if number is None and resting else turn, None
        if number is not None or self.settled < target:
            # From now on it is there to be committed, until it is released: an interrupt in the middle must not lose it.
            self.unfinished = turn = session.take(now)
        if turn is not None or resting:
            return turn, None
        wanted = session.wanted_rows(now)
        if wanted is None:
            session.retry_at = None
        return None, wanted

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
            if self.over:
                # Nobody waited so long: what became of it was told.
                return False
            now = driver.monotonic()
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
            self._release(turn, now)
        return True

    def _release(self, turn: Turn, now: float) -> None:
        """Let a turn go on to the wire and the user: it needs no disk any more. The client's lock is held."""
        driver = self.driver
        self.unfinished = self.failed_turn = None
        driver.session.release(turn, now)
        driver.hand_over(turn)
        self.settled = max(self.settled, turn.number)
        driver.wake()

    def _load(self, wanted: tuple[int, int, int]) -> bool:
        """Load the rows that the Session wants; False if there are none."""
        driver = self.driver
        session = driver.session
        try:
            rows = self.store.load_queued(*wanted)
        except Exception as error:
            with driver.lock:
                session.load_failed(error, driver.monotonic())
                driver.tell_urgent()
            return False
        with driver.lock:
            session.loaded(rows, driver.make_message, driver.monotonic())
        return bool(rows)

    def close(self) -> None:
        """Commit what can be committed, hand over the rest as it is, and close the store. The client's lock is not held."""
        driver = self.driver
        if driver.thread is None:
            self._finish()
            return
        with driver.lock:
            self.ending = True
            self.asked.notify()
            deadline = driver.deadline(driver.session.settings.store_timeout_s)
            while not self.over and (left := driver.left(deadline)):
                self.ended.wait(left)
            if not self.over:
                self._abandon()

    def _finish(self) -> None:
        """Commit what can be committed, and close the store. The client's lock is not held."""
        driver = self.driver
        try:
            self.settle()
        finally:
            with self.alone():
                with driver.lock:
                    if not self.over:
                        self._tell_refused()
                        self._give_out(driver.monotonic())
                try:
                    self.store.close()
                finally:
                    with driver.lock:
                        self.over = True

    def _tell_refused(self) -> None:
        """Say so if the disk has refused to the end. The client's lock is held."""
        driver = self.driver
        session = driver.session
        refused = len(session.baskets.journal) + (0 if self.unfinished is None else len(self.unfinished.journal))
        if refused:
            text = f"the client ends, and its database has not taken the last changes ({refused}): whoever opens it next may send again, or hear "
            session.urgent.append(Report(ERROR, f"{text}again, of messages that ended with them"))
            driver.tell_urgent()

    def _abandon(self) -> None:
        """The disk doesn't answer: end without it. The client's lock is held."""
        driver = self.driver
        session = driver.session
        text = f"the store has not answered for {session.settings.store_timeout_s:g} s"
        session.urgent.append(Report(ERROR, f"{text}: the client ends without it"))
        turns: list[Turn | Baskets] = [session.baskets]
        if self.unfinished is not None:
            # The disk may still read it.
            self.unfinished.journal = self.unfinished.journal[:]
            turns.insert(0, self.unfinished)
        for turn in turns:
            driver.resolve(session.outbound.withdraw(turn, StoreError(f"{text}: whether it keeps the message isn't known"), None))
        self._give_out(driver.monotonic())
        driver.tell_urgent()
        self.over = True

    def _give_out(self, now: float) -> None:
        """Hand over what was not committed. The client's lock is held."""
        driver = self.driver
        session = driver.session
        if self.unfinished is not None:
            # Its link is gone: what it would have written is settled as lost.
            session.release(self.unfinished, now)
            driver.hand_over(self.unfinished)
        driver.hand_over(session.baskets.take(None, now))
