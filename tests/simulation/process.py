"""One life of the client: the real `Client`, with every thread and lock that it would wait in replaced by a turn that the stage takes.

With threads, the client believes that it has an I/O thread, a committer and a delivery thread: here each of their turns is a call
(`Stage.turn`). A call of the user's that would wait for them lets them take their turns meanwhile, or stands still if it was made in the
middle of one (`BlockedError`).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from ohmqtt.client import Client
from ohmqtt.client.world import World
from ohmqtt.records import SessionLostPolicy
from ohmqtt.session import QueuePolicy, SessionSettings
from tests.simulation.surroundings import Selector, StoreOfProcess

if TYPE_CHECKING:
    from collections.abc import Callable

    from ohmqtt.records import Message
    from tests.simulation.stage import Stage
    from tests.simulation.story import Setting
    from tests.simulation.surroundings import Pipe

__all__ = ["Process"]


class Condition:
    """In place of a condition that threads wait for each other with: who waits lets the others take their turns."""

    def __init__(self, lock: Any, others: Callable[[float | None], None]) -> None:
        self._lock = lock
        self._others = others

    def wait(self, timeout: float | None = None) -> bool:
        self._lock.release()
        try:
            self._others(timeout)
        finally:
            self._lock.acquire()
        return True

    def notify(self, n: int = 1) -> None:
        pass

    def notify_all(self) -> None:
        pass


class Thread:
    """A thread whose turns are taken by the story."""

    def __init__(self, stage: Stage, target: Callable[..., None], args: tuple[Any, ...] = (), name: str = "", daemon: bool = True) -> None:
        self.stage = stage
        self.target = target
        self.args = args
        self.name = name

    def start(self) -> None:
        if self.name == "ohmqtt-dial":
            self.stage.dials.append(self)

    def join(self, timeout: float | None = None) -> None:
        pass

    def is_alive(self) -> bool:
        return True


class Process:
    """One life of the client."""

    def __init__(self, stage: Stage) -> None:
        setting = stage.story.setting
        self.dead = False
        self.held: deque[Message] = deque()
        # Of the I/O thread: whether it is at work, and when it wants to be woken if nobody does before.
        self.in_turn = False
        self.wake_at = 0.0
        self.pipes: dict[int, Pipe] = {}
        self.store = None if stage.disk is None else StoreOfProcess(stage.disk, stage)
        world = World(
            monotonic=lambda: stage.now,
            random=lambda: setting.jitter,
            selector=lambda: Selector(stage, self.pipes, self.is_woken),
            open_transport=stage.open_transport,
            make_thread=lambda **options: Thread(stage, **options),  # type: ignore[arg-type]
        )
        self.client = client = Client(settings=_settings(setting), manual_ack=setting.manual_ack, store=self.store, world=world)
        driver: Any = client._driver
        self.driver = driver
        driver.changed = Condition(driver.lock, stage.others)
        if driver.commits is not None:
            driver.commits.ended = driver.changed
            driver.commits.asked = Condition(driver.lock, stage.nobody)
        if setting.on_message:
            client.on_message = lambda _, message: stage.deliver(self, 0, message)
        client.on_undelivered = stage.undelivered
        client.on_connect = lambda *_: stage.judge.note("on_connect")
        client.on_disconnect = lambda *_: stage.judge.note("on_disconnect")
        if setting.threads:
            client.start_loop()

    def is_woken(self) -> bool:
        return not self.driver.sleeping

    def is_awake(self, now: float) -> bool:
        """Return whether the I/O thread has anything to wake up for."""
        driver = self.driver
        if now >= self.wake_at or not driver.sleeping or driver.closing:
            return True
        return driver.transport is not None and driver.interest and driver.transport.is_ready(driver.interest) != 0

    def bury(self) -> None:
        """Let go of what a dead process holds, without a word to anybody."""
        self.client._abandon_after_fork()
        self.driver.discard()

    def is_alive(self) -> bool:
        """Return whether the client is there, closing perhaps."""
        return not (self.dead or self.driver.closed)

    def is_usable(self) -> bool:
        return not (self.dead or self.driver.closing or self.driver.closed)


def _settings(setting: Setting) -> SessionSettings:
    return SessionSettings(
        queue_messages_max=setting.queue_max or 65_535,
        queue_policy=QueuePolicy(setting.queue_policy),
        queue_qos0=setting.queue_qos0,
        session_lost_policy=SessionLostPolicy(int(setting.republish)),
        reconnect_max_s=4.0,
        window_messages=setting.window or 2_048,
        inbound_messages_max=setting.inbound_max or 20_000,
        inbound_messages_hard_max=2 * setting.inbound_max or 100_000,
    )
