"""`FakeClock`, and the thread under `Broker` and `Proxy` that it drives."""

from __future__ import annotations

import os
import socket
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

import pytest

from ohmqtt.errors import ArgumentError, StateError, WaitTimeoutError
from ohmqtt.testing.clock import FakeClock
from ohmqtt.testing.loop import READ, Served

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE_S = 60.0


def test_it_stands_still_until_it_is_moved() -> None:
    clock = FakeClock(100.0)
    assert clock() == clock() == 100.0
    clock.advance(0.25)
    clock.advance(0)
    assert clock() == 100.25


@pytest.mark.parametrize("seconds", [-0.1, float("nan")])
def test_it_does_not_go_backwards(seconds: float) -> None:
    clock = FakeClock()
    with pytest.raises(ArgumentError, match="seconds: 0 or more expected"):
        clock.advance(seconds)
    assert clock() == 0.0


def test_listeners_are_called_at_the_old_and_at_the_new_time_until_they_stop() -> None:
    clock = FakeClock()
    heard: list[tuple[str, float]] = []
    stop_first = clock.on_advance(lambda: heard.append(("first", clock())))
    clock.on_advance(lambda: heard.append(("second", clock())))
    clock.advance(1)
    stop_first()
    stop_first()
    clock.advance(2)
    assert heard == [("first", 0.0), ("second", 0.0), ("first", 1.0), ("second", 1.0), ("second", 1.0), ("second", 3.0)]


class Bell(Served):
    """Rings at the times that it was told, and writes down when."""

    def __init__(self, clock: Callable[[], float], *times: float) -> None:
        super().__init__(clock)
        self.times = list(times)
        self.rung: list[float] = []
        self.failure: BaseException | None = None

    def _open(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _close(self) -> None:
        self.rung.append(-1.0)

    def _turn(self, now: float) -> None:
        while self.times and self.times[0] <= now:
            self.rung.append(self.times.pop(0))
        if self.failure is not None:
            raise self.failure

    def _due(self) -> float | None:
        return self.times[0] if self.times else None

    def wait_for_rings(self, count: int, timeout: float = PATIENCE_S) -> None:
        self._wait_until(lambda: len(self.rung) >= count, timeout, lambda: f"{count} rings, not {len(self.rung)}")


def test_a_turn_is_done_when_advance_returns() -> None:
    clock = FakeClock()
    with Bell(clock, 1.0, 2.0, 3.0) as bell:
        clock.advance(0.5)
        assert bell.rung == []
        clock.advance(1.5)
        assert bell.rung == [1.0, 2.0]
        bell._ask(lambda: bell.times.insert(0, 2.0))
        assert bell.rung == [1.0, 2.0, 2.0]
    clock.advance(10)
    assert bell.rung == [1.0, 2.0, 2.0, -1.0]


def test_who_moves_the_clock_does_not_mind_what_was_stopped_meanwhile() -> None:
    clock = FakeClock()
    bell = Bell(clock, 1.0)
    clock.on_advance(bell.stop)
    with bell:
        clock.advance(1)
    assert clock() == 1.0
    assert bell.rung == [-1.0]


def test_who_moves_the_clock_hears_of_a_thread_that_has_ended() -> None:
    bell = failing_bell()
    assert isinstance(bell._clock, FakeClock)
    with pytest.raises(StateError, match="doesn't run"):
        bell._clock.advance(1)
    with pytest.raises(KeyError):
        bell.stop()


def test_with_a_real_clock_it_wakes_by_itself() -> None:
    import time

    now = time.monotonic()
    with Bell(time.monotonic, now - 1.0, now + 0.005) as bell:
        bell.wait_for_rings(2)


def test_a_wait_in_vain_says_so() -> None:
    clock = FakeClock()
    with Bell(clock, 1.0) as bell:
        with pytest.raises(WaitTimeoutError, match=r"waited 0\.01 s in vain for 1 rings, not 0"):
            bell.wait_for_rings(1, timeout=0.01)
        clock.advance(1)
        bell.wait_for_rings(1)
        assert not bell._waiting


@pytest.mark.parametrize("error", [KeyError("nothing here"), TimeoutError("in here")])
def test_a_condition_that_raises_raises_where_it_was_waited_for_and_nobody_else_notices(error: Exception) -> None:
    def condition() -> bool:
        raise error

    with Bell(FakeClock()) as bell:
        with pytest.raises(type(error), match="here"):
            bell._wait_until(condition, PATIENCE_S, lambda: "nothing")
        assert not bell._waiting
        bell.wait_for_rings(0)


def test_on_its_own_thread_nothing_is_waited_for() -> None:
    with Bell(FakeClock()) as bell, pytest.raises(StateError, match="its own thread"):
        bell._ask(lambda: bell.wait_for_rings(0))


def test_who_asks_a_thread_that_hangs_is_told_so() -> None:
    hanging, over = threading.Event(), threading.Event()

    def hang() -> None:
        hanging.set()
        over.wait(PATIENCE_S)

    with Bell(FakeClock()) as bell:
        bell._requests.append((hang, Future()))
        bell._wake()
        assert hanging.wait(PATIENCE_S)
        bell._patience_s = 0.01
        with pytest.raises(WaitTimeoutError, match=r"this Bell has been busy for 0\.01 s"):
            bell._ask(lambda: None)
        bell._patience_s = PATIENCE_S
        over.set()


def test_a_timeout_of_what_was_asked_is_its_own() -> None:
    def fail() -> None:
        raise TimeoutError("in here")

    with Bell(FakeClock()) as bell, pytest.raises(TimeoutError, match="in here"):
        bell._ask(fail)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_is_told_that_the_thread_is_not_there() -> None:
    with Bell(FakeClock()) as bell:
        child = os.fork()
        if not child:
            code = 1
            try:
                bell._ask(lambda: None)
            except StateError:
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        bell.wait_for_rings(0)


def test_it_starts_once_and_again_after_a_stop() -> None:
    bell = Bell(FakeClock())
    with bell.start() as same:
        assert same is bell
        with pytest.raises(StateError, match="runs already"):
            bell.start()
    assert not bell.is_running
    bell.stop()
    with bell:
        pass


def test_what_can_not_be_opened_can_be_started_later() -> None:
    bell = Bell(FakeClock())
    bell.failure = OSError("taken")
    with pytest.raises(OSError, match="taken"):
        bell.start()
    assert not bell.is_running
    bell.failure = None
    with bell:
        bell.wait_for_rings(0)


def test_what_is_asked_raises_where_it_was_asked() -> None:
    with Bell(FakeClock()) as bell:
        with pytest.raises(ZeroDivisionError):
            bell._ask(lambda: 1 // 0)
        assert bell._ask(lambda: bell._ask(lambda: threading.current_thread().name)) == "ohmqtt-bell"
    with pytest.raises(StateError, match="doesn't run"):
        bell._ask(lambda: None)


def failing_bell() -> Bell:
    """A bell whose thread has ended by an exception."""
    bell = Bell(FakeClock()).start()

    def fail() -> None:
        bell.failure = KeyError("unexpected")

    with pytest.raises(StateError, match="was stopped") as caught:
        bell._ask(fail)
    assert isinstance(caught.value.__cause__, KeyError)
    return bell


def test_an_exception_that_nobody_expected_is_raised_by_stop() -> None:
    bell = failing_bell()
    with pytest.raises(StateError, match="doesn't run") as caught:
        bell._ask(lambda: None)
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(KeyError, match="unexpected"):
        bell.stop()
    bell.stop()


def test_an_exception_that_nobody_expected_is_raised_by_with_unless_there_is_another() -> None:
    with pytest.raises(KeyError, match="unexpected"), failing_bell():
        pass
    with pytest.raises(ZeroDivisionError), failing_bell():
        assert 1 // 0


def test_who_waits_while_it_is_stopped_hears_so() -> None:
    bell = Bell(FakeClock()).start()
    heard: list[BaseException] = []

    def wait() -> None:
        try:
            bell.wait_for_rings(1)
        except BaseException as error:
            heard.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    bell._wait_until(lambda: len(bell._waiting) == 2, PATIENCE_S, lambda: "a waiter")
    bell.stop()
    waiter.join(PATIENCE_S)
    # The one that looked for the waiter is no longer among them.
    assert [str(error) for error in heard] == ["this Bell was stopped"]


def test_what_had_arrived_when_something_was_asked_is_handled_first() -> None:
    ours, theirs = socket.socketpair()
    heard: list[bytes] = []
    late: Future[list[bytes]] = Future()

    def in_the_middle_of_a_round() -> None:
        # As another thread would: bytes arrive, then something is asked, after the sockets of this round were looked at.
        theirs.send(b"abc")
        bell._requests.append((heard.copy, late))

    with ours, theirs, Bell(FakeClock()) as bell:
        bell._ask(lambda: bell._watch(ours, READ, lambda _: heard.append(ours.recv(1))))
        bell._ask(in_the_middle_of_a_round)
        bell._ask(lambda: None)
        assert late.result(PATIENCE_S) == [b"a", b"b", b"c"]


def test_what_is_asked_is_done_although_there_is_always_more_to_read() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, Bell(FakeClock()) as bell:
        theirs.send(b"x")
        bell._ask(lambda: bell._watch(ours, READ, lambda _: None))
        assert bell._ask(lambda: "done") == "done"


def test_a_full_waker_is_no_failure() -> None:
    with Bell(FakeClock()) as bell:

        def wake_often() -> None:
            for _ in range(5_000):
                bell._wake()

        bell._ask(wake_often)
        assert bell._ask(lambda: "still there") == "still there"
