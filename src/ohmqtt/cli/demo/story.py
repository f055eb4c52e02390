"""The story: publish, kill the publisher, take the broker away, do both at once, and count.

It is told by one thread, which lets time pass in `_wait`. The publisher is a process of its own; what it says is heard on a second thread,
and the subscriber's callbacks run on its client's delivery thread. They meet in the `Tally`.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

from ...client import Client
from ...errors import MQTTError
from .publisher import QUICK

if TYPE_CHECKING:
    from collections.abc import Callable

    from .child import Begin, Publisher
    from .place import Place
    from .publisher import Task
    from .screen import Screen
    from .tally import Tally

__all__ = ["PATIENCE_S", "SILENCE_S", "Story"]

WINDOW = 500
"""So many messages are on their way at most: many brokers drop what is beyond 1,000 for a subscriber that lags behind."""

ENOUGH = 20
"""So many messages make the whole way in each act, whatever time that takes on a busy machine."""

CLIENTS = 2
TICK_S = 0.02
OUTAGE_S = 1.0
SUBSCRIBE_TIMEOUT_S = 15.0
PATIENCE_S = 20.0
SILENCE_S = 0.5


class _StuckError(Exception):
    """The story can't go on: why."""


class Story:
    """Tell it once, with `tell`.

    :param seconds: How long messages are published for; the beginning and the end come on top.
    :param begin: Starts a publisher, whose lines are handed to the function that it is given.
    :param patience_s: How long nothing may move before that is the end.
    :param silence_s: How long to listen, in the end, for what comes twice.
    """

    def __init__(
        self,
        screen: Screen,
        place: Place,
        task: Task,
        tally: Tally,
        seconds: float,
        begin: Begin,
        *,
        patience_s: float = PATIENCE_S,
        silence_s: float = SILENCE_S,
    ) -> None:
        self._screen = screen
        self._place = place
        self._task = task
        self._tally = tally
        self._seconds = seconds
        self._begin = begin
        self._patience_s = patience_s
        self._silence_s = silence_s
        self._publisher: Publisher | None = None
        self._resumes_with = self._pending = 0
        self._failure = ""
        self._began = 0.0

    def tell(self) -> bool:
        """Tell the story and show the table; return whether nothing was lost and nothing came twice.

        A story that is stuck ends early, which isn't good; what was counted until then is shown all the same.
        """
        failure = ""
        with self._screen, Client(settings=QUICK) as subscriber:
            try:
                self._subscribe(subscriber)
                self._publish()
            except (_StuckError, MQTTError) as error:
                failure = f"{error}"
            finally:
                if self._publisher is not None:
                    self._publisher.kill()
            took_s = time.monotonic() - self._began
            # What comes twice would come now.
            time.sleep(self._silence_s)
            subscriber.disconnect()
            return self._conclude(took_s, failure)

    # ---- the acts --------------------------------------------------------------------------------------------------------------------

    def _subscribe(self, subscriber: Client) -> None:
        tally = self._tally
        subscriber.on_connect = lambda *_: tally.connected()
        subscription = subscriber.subscribe(self._task.topic, lambda _, message: tally.deliver(message.payload), max_qos=2)
        self._began = time.monotonic()
        subscriber.connect(self._task.address, f"{self._task.client_id}-subscriber", server_hostname=self._task.server_hostname)
        subscription.wait_for_ack(SUBSCRIBE_TIMEOUT_S)

    def _publish(self) -> None:
        screen, place = self._screen, self._place
        screen.say(
            "In MQTT, programs talk through a broker. Here one program publishes numbered messages, and another one, the subscriber, counts "
            f"what arrives. The broker between them is {place.name}."
        )
        kept = "with the operating system, which survives a kill," if self._task.fast else "on disk"
        screen.say(f'The messages have Quality of Service 2, which promises "exactly once". Each is {kept} before it is sent.')
        self._began = time.monotonic()
        publisher = self._start_publisher()
        screen.say(f"The publisher is {publisher.name}.")
        self._let_pass(0.2)

        self._kill_publisher("Like a crash: no time to save anything. What it had accepted is in its database.")
        publisher = self._start_publisher()
        screen.say(
            f"{publisher.name.capitalize()} opens the same database. {self._pending:,} messages were under way and are finished first; "
            f"then it goes on with number {self._resumes_with:,}."
        )
        self._let_pass(0.45)

        screen.act(*place.fail())
        screen.say("The publisher goes on accepting messages all the same. They wait in its database.")
        self._outage()
        screen.act(*place.recover())
        self._let_pass(0.7)

        screen.act(*place.fail())
        self._kill_publisher("Now both are gone at once.")
        publisher = self._start_publisher()
        screen.say(
            f"{publisher.name.capitalize()} finds {self._pending:,} messages under way and nobody who answers. It accepts number "
            f"{self._resumes_with:,} and what follows, and waits."
        )
        self._outage()
        screen.act(*place.recover())
        self._let_pass(1.0)

        self._finish_publisher(publisher)
        self._wait(lambda: self._tally.missing() == 0)

    def _conclude(self, took_s: float, failure: str) -> bool:
        result = self._tally.result(CLIENTS)
        good = result.good and not failure
        rows = [
            ("sent", f"{result.sent:,}"),
            ("delivered", f"{result.delivered:,}"),
            ("lost", f"{result.lost:,}"),
            ("duplicated", f"{result.duplicated:,}"),
            ("reconnects", f"{result.reconnects:,}"),
            ("messages a second, interruptions included", f"{result.delivered / took_s:,.0f}"),
        ]
        verdict = "Every message arrived exactly once." if good else "THIS IS WRONG: not every message arrived exactly once."
        self._screen.table(rows, f"{verdict} {failure}".rstrip(), good)
        return good

    # ---- the publisher ---------------------------------------------------------------------------------------------------------------

    def _start_publisher(self) -> Publisher:
        self._resumes_with = 0
        publisher = self._publisher = self._begin(self._hear)
        publisher.tell(self._task.line())
        self._wait(lambda: self._resumes_with > 0)
        return publisher

    def _kill_publisher(self, why: str) -> None:
        publisher = self._publisher
        assert publisher is not None
        publisher.kill()
        self._publisher = None
        how = "TerminateProcess" if sys.platform == "win32" else "SIGKILL"
        self._screen.act("PUBLISHER KILLED", f"{publisher.name} got {how}. {why}")

    def _finish_publisher(self, publisher: Publisher) -> None:
        publisher.tell("end")
        code = publisher.wait()
        self._publisher = None
        if code:
            raise _StuckError(f"The publisher ended with code {code}. {self._failure}")

    def _hear(self, line: str) -> None:
        """Take what the publisher says, on the thread that hears it."""
        word, _, rest = line.partition(" ")
        if word == "connected":
            self._tally.connected()
        elif word == "from":
            number, pending = map(int, rest.split())
            self._tally.resume(number)
            self._pending = pending
            self._resumes_with = number
        elif word == "failed":
            self._failure = rest
        else:
            self._tally.accept(int(word))

    # ---- time ------------------------------------------------------------------------------------------------------------------------

    def _let_pass(self, share: float) -> None:
        """Let this share of the time pass, and enough messages make their way since the last act."""
        goal = self._tally.delivered + ENOUGH
        self._wait(lambda: self._share() >= share and self._tally.delivered >= goal)

    def _outage(self) -> None:
        end = time.monotonic() + min(OUTAGE_S, self._seconds / 10)
        self._wait(lambda: time.monotonic() >= end)

    def _share(self) -> float:
        return (time.monotonic() - self._began) / self._seconds

    def _wait(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds. Meanwhile the publisher may go on, and the screen shows how far it is."""
        tally = self._tally
        seen, since = -1, 0.0
        while not condition():
            now = time.monotonic()
            if seen != tally.sent + tally.delivered:
                seen, since = tally.sent + tally.delivered, now
            elif now - since > self._patience_s:
                raise _StuckError(f"Nothing has moved for {self._patience_s:g} s.")
            if self._publisher is not None:
                if self._failure or self._publisher.ended():
                    raise _StuckError(f"The publisher gave up. {self._failure}")
                self._publisher.tell(str(tally.delivered + WINDOW))
            self._screen.progress(min(1.0, self._share()), tally.sent, tally.delivered)
            time.sleep(TICK_S)
