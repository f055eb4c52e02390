"""The process that publishes and is killed: how a program goes on after ``kill -9`` without losing a message or sending one twice.

The messages are the numbers 1, 2, 3 … The question after a kill is: which number is the next one? A file of the program's own can't
answer it. Written after ``publish`` returned, it may lack a number that was accepted (and the program would publish it again); written
before, it may have one that never was (and the number would be missing). ``Client.pending()`` alone can't answer it either: between
``publish`` and the note, the number may have been acknowledged already, and is no longer pending.

So this program keeps no note at all. It lets the one transaction that accepts the message be the note as well: the database numbers what
it accepts, 1, 2, 3 …, and knows its last number for ever, also when the messages themselves are acknowledged and gone. A message's payload
is the number that the database is about to give it. After a kill, the database's next number is the number to go on with: a message that
was accepted was counted by the same commit, and one that wasn't, wasn't. There is no moment between the two for a kill to fall into.

What ``publish`` returned for is reported on the standard output, a line for each number, and that record is what the demonstration counts.
Here a kill can fall between: the last number of a life may be accepted and not reported. The next life's first line tells: ``from 118 35``
(it goes on with 118, and 35 are accepted and not acknowledged).

The orders come on the standard input: first a line of JSON (`Task`, with the address, so that no password is seen in a list of processes);
then numbers, up to which it may publish; then ``end``. The end of the input without it means that nobody counts any more, and ends this
process at once.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ...client import Client
from ...errors import MQTTError
from ...property import MQTTDisconnectProps
from ...session import SessionSettings
from ...store import SQLiteStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ...handle import PublishHandle

__all__ = ["QUICK", "Orders", "Task", "publish"]

QUICK = SessionSettings(reconnect_initial_s=0.05, reconnect_max_s=0.5)
"""A demonstration is over before the pauses that are right for real networks have begun."""

ACK_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Task:
    """What a publisher is to do. Each of its lives gets the same."""

    address: str
    server_hostname: str | None
    database: str
    fast: bool
    client_id: str
    topic: str

    def line(self) -> str:
        """Return it as a line of text."""
        return json.dumps(asdict(self))


class Orders:
    """What the standard input says, read by a thread: how far to publish, and when to end."""

    def __init__(self, task: Task, lines: Iterator[str]) -> None:
        self.task = task
        self._changed = threading.Condition()
        self._limit = 0
        self._over = False
        self.abandoned = False
        """Whether the input has ended without a word: nobody is there any more."""
        self._reader = threading.Thread(target=self._read, args=(lines,), name="orders")
        self._reader.start()

    def _read(self, lines: Iterator[str]) -> None:
        for line in lines:
            with self._changed:
                if line.strip() == "end":
                    self._over = True
                else:
                    self._limit = int(line)
                self._changed.notify_all()
        with self._changed:
            self.abandoned = not self._over
            self._over = True
            self._changed.notify_all()

    def allow(self, number: int) -> bool:
        """Wait until `number` may be published, and return True; or False when it is time to end."""
        with self._changed:
            self._changed.wait_for(lambda: number <= self._limit or self._over)
            return not self._over

    def join(self) -> None:
        """Wait for the end of the input."""
        self._reader.join()


def publish(lines: Iterable[str], report: Callable[[str], object]) -> int:
    """Publish as the orders say, and report: ``from N PENDING``, each number accepted, ``connected``, and ``failed REASON`` if it comes to that.

    :param lines: The orders.
    :param report: Is called with one line after the other, from two threads.
    :returns: The exit code of the process: 0 if all is acknowledged, 1 if it couldn't be, or if nobody is there any more to count.
    """
    lines = iter(lines)
    first = next(lines, None)
    if first is None:
        return 1
    orders = Orders(Task(**json.loads(first)), lines)
    try:
        _publish(orders, report)
    except MQTTError as error:
        report(f"failed {error}")
        return 1
    finally:
        orders.join()
    return 1 if orders.abandoned else 0


def _publish(orders: Orders, report: Callable[[str], object]) -> None:
    task = orders.task
    store = SQLiteStore(task.database, fast=task.fast)
    number = store.load().next_sequence
    with Client(store=store, settings=QUICK) as client:
        client.on_connect = lambda *_: report("connected")
        # What a former life has left comes first; that is the client's business. Its handles are here to hear how that ends.
        unsettled: deque[PublishHandle] = deque(client.pending())
        report(f"from {number} {len(unsettled)}")
        client.connect(task.address, task.client_id, server_hostname=task.server_hostname)
        while orders.allow(number):
            handle = client.publish(task.topic, b"%d" % number, qos=2)
            assert handle.sequence == number, f"the database numbered message {number} as {handle.sequence}"
            report(str(number))
            unsettled.append(handle)
            while unsettled and unsettled[0].is_done():
                unsettled.popleft().wait_for_ack()  # a rejection raises
            number += 1
        if orders.abandoned:
            client.shutdown()
            return
        for handle in unsettled:
            handle.wait_for_ack(ACK_TIMEOUT_S)
        # The broker need not keep this session for a publisher that won't come back.
        client.disconnect(properties=MQTTDisconnectProps(SessionExpiryInterval=0))
