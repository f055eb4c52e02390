"""Publications that were accepted and never sent: bounds and policies, expiry, and the rows that are on disk only.

Owns the queue and what stands behind it. Its invariants: `messages` and `bytes` count every publication that isn't settled, wherever it is;
publications leave the backlog in the order of their sequence numbers; and what is settled holds no memory for long.
"""

from __future__ import annotations

from collections import deque
from copy import copy
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from ..errors import MessageDroppedError, MessageExpiredError, QueueFullError
from ..journal import DELETE, INSERT, StoredMessage
from ..records import State, Undelivered
from .settings import QueuePolicy

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..errors import MQTTError
    from ..link import Link
    from ..records import Outgoing
    from .baskets import Baskets
    from .settings import SessionSettings

__all__ = ["Backlog", "expiry_error", "is_overdue"]

QUEUED, STORED, SETTLED = State.QUEUED, State.STORED, State.SETTLED

SWEEP_MIN = 1_000
"""So many settled publications may linger in the queue before it is swept."""


class Backlog:
    """What waits to be sent for the first time."""

    def __init__(self, baskets: Baskets, settings: SessionSettings) -> None:
        self.baskets = baskets
        self.settings = settings
        self.durable = baskets.durable
        self.next_sequence = 1
        # Every publication that isn't settled: queued, in flight, on disk, or QoS 0 on the way to the socket.
        self.messages = 0
        self.bytes = 0
        # What was settled while it waited (cancelled, expired) stays in the queue until it is its turn, or until a sweep.
        self.queue: deque[Outgoing] = deque()
        self.queue_bytes = 0
        # Rows that are on disk only: how many, and the sequence number after which they begin. Who holds a handle of one keeps it alive.
        self.stored_rows = 0
        self.stored_after = 0
        self.stored_handles: WeakValueDictionary[int, Outgoing] = WeakValueDictionary()
        # Rows that were settled while they were on disk only: a load that is under way may still bring them.
        self.stored_deleted: set[int] = set()
        # By sequence number: publications that go on although a goodbye has resolved their handles, and in whose name since somebody asked.
        self.heirs: dict[int, tuple[Outgoing, Outgoing]] = {}
        # QoS 0 publications that came after rows on disk, and must not overtake them.
        self.behind_stored: deque[Outgoing] = deque()
        # When, a counter that makes entries differ, the sequence number, and the publication; None if it is on disk only.
        self.expiring: list[tuple[float, int, int, Outgoing | None]] = []
        self.expiring_counter = 0

    # ---- accepting -------------------------------------------------------------------------------------------------------------------

    def enqueue(self, message: Outgoing, link: Link | None) -> None:
        """Put an accepted publication behind all others."""
        if not message.qos and link is None and not self.settings.queue_qos0:
            self.settle(message, MessageDroppedError("not connected, and QoS 0 isn't queued (queue_qos0=False)"))
            return
        self.sweep()
        message.sequence = self.next_sequence
        self.next_sequence += 1
        if self.durable and message.qos:
            self.insert(message)
            settings = self.settings
            if self.stored_rows or len(self.queue) >= settings.window_messages or self.queue_bytes >= settings.window_bytes:
                message.state = STORED
                if not self.stored_rows:
                    self.stored_after = message.sequence - 1
                self.stored_rows += 1
                self.stored_handles[message.sequence] = message
                self.watch_expiry(message)
                return
        self.watch_expiry(message)
        if self.stored_rows:
            self.behind_stored.append(message)
            return
        self._append(message)

    def _append(self, message: Outgoing) -> None:
        self.queue.append(message)
        self.queue_bytes += len(message.payload) + len(message.topic_field) + len(message.properties)

    def insert(self, message: Outgoing) -> None:
        """Have a new publication put on disk."""
        options = message.options
        row = StoredMessage(
            message.sequence,
            message.packet_id,
            0,
            message.qos,
            bool(message.first & 1),
            message.topic,
            message.properties,
            message.payload,
            0 if options is None else options.alias_policy.value,
        )
        if options is not None and options.expires_at is not None:
            self.baskets.aging.append((row, options.expires_at))
        self.baskets.record(INSERT, row)
        self.baskets.accepted.append(message)

    def make_room(self, message: Outgoing, weight: int) -> bool:
        """Apply the policy of a full queue. Return whether `message` may go in; raise `QueueFullError` if the caller must know or wait."""
        settings = self.settings
        if settings.queue_policy is QueuePolicy.DROP_NEWEST:
            message.state = SETTLED
            message.outcome = MessageDroppedError(f"the outbound queue is full ({self.describe()}): dropped as the newest")
            self.baskets.resolved.append(message)
            return False
        if settings.queue_policy is QueuePolicy.DROP_OLDEST and weight <= settings.queue_bytes_max:
            while self.queue and not self._fits(weight):
                oldest = self.queue.popleft()
                self.queue_bytes -= len(oldest.payload) + len(oldest.topic_field) + len(oldest.properties)
                if oldest.state == QUEUED:
                    self.settle(oldest, MessageDroppedError(f"the outbound queue is full ({self.describe()}): dropped as the oldest"))
            if self._fits(weight):
                return True
        if weight > settings.queue_bytes_max:
            raise QueueFullError(
                f"the publication has {weight} bytes, and the outbound queue takes {settings.queue_bytes_max} bytes (queue_bytes_max)"
            )
        raise QueueFullError(f"the outbound queue is full: {self.describe()}, and this publication has {weight} bytes")

    def waits(self) -> bool:
        """Return whether a publication in memory waits to be sent for the first time."""
        return any(message.state == QUEUED for message in self.queue)

    def _fits(self, weight: int) -> bool:
        return self.messages < self.settings.queue_messages_max and self.bytes + weight <= self.settings.queue_bytes_max

    def has_room(self, message: Outgoing) -> bool:
        """Return whether `message` is within the bounds of the queue now."""
        return self._fits(len(message.payload) + len(message.topic_field) + len(message.properties))

    def describe(self) -> str:
        """Return how full the queue is, in words."""
        settings = self.settings
        return f"{self.messages} of {settings.queue_messages_max} messages, {self.bytes} of {settings.queue_bytes_max} bytes"

    # ---- the end of a publication ------------------------------------------------------------------------------------------------------

    def settle(self, message: Outgoing, error: MQTTError) -> None:
        """Settle a publication with an error; a stored one is deleted before anybody hears of it."""
        if message.state == STORED:
            self.forget_stored(message)
            self.stored_deleted.add(message.sequence)
        message.state = SETTLED
        self.messages -= 1
        self.bytes -= len(message.payload) + len(message.topic_field) + len(message.properties)
        if message.qos:
            self.baskets.record(DELETE, message.sequence)
        if message.outcome is None:
            message.outcome = error
            self.baskets.resolved.append(message)
            heard = message.claimed
        else:
            heard = self.bequeath(message, error) or message.claimed
        if not heard:
            self.baskets.events.append(Undelivered(message, error))

    def heir(self, message: Outgoing) -> Outgoing:
        """Return in whose name `message` goes on, now that a goodbye has resolved its handle."""
        sequence = message.sequence
        if sequence not in self.heirs:
            heir = copy(message)
            heir.outcome = None
            heir.done = False
            self.heirs[sequence] = message, heir
        return self.heirs[sequence][1]

    def bequeath(self, message: Outgoing, outcome: object) -> bool:
        """Resolve the heir of a publication; return whether there is one and somebody holds it."""
        known = self.heirs.pop(message.sequence, None)
        if known is None:
            return False
        heir = known[1]
        heir.packet_id = message.packet_id
        heir.outcome = outcome
        self.baskets.resolved.append(heir)
        return heir.claimed

    def forget_stored(self, message: Outgoing) -> None:
        """One row less is on disk only; what waited behind the last of them moves up."""
        self.stored_handles.pop(message.sequence, None)
        self.stored_rows -= 1
        if not self.stored_rows:
            self._move_up()

    def _move_up(self) -> None:
        for message in self.behind_stored:
            self._append(message)
        self.behind_stored.clear()

    def sweep(self) -> None:
        """Let go of settled publications that only wait for their turn or their expiry, once they are the most."""
        dead = len(self.queue) + len(self.behind_stored) + len(self.expiring) - 4 * (self.messages - self.stored_rows) - SWEEP_MIN
        if dead <= 0 or dead <= 2 * len(self.stored_handles):
            return
        queue, self.queue, self.queue_bytes = self.queue, deque(), 0
        for message in queue:
            if message.state == QUEUED:
                self._append(message)
        self.behind_stored = deque(message for message in self.behind_stored if message.state == QUEUED)
        # One that is in flight can't expire, and is watched anew if it is queued again.
        self.expiring = [
            entry for entry in self.expiring if (entry[2] in self.stored_handles if entry[3] is None else entry[3].state == QUEUED)
        ]
        heapify(self.expiring)

    # ---- expiry ------------------------------------------------------------------------------------------------------------------------

    def watch_expiry(self, message: Outgoing) -> None:
        """Make sure that `message` is looked at when its Message Expiry Interval runs out; one on disk isn't kept in memory for that."""
        options = message.options
        if options is not None and options.expires_at is not None:
            self.expiring_counter += 1
            held = None if message.state == STORED else message
            heappush(self.expiring, (options.expires_at, self.expiring_counter, message.sequence, held))

    def expire(self, now: float) -> None:
        """Settle the queued publications whose Message Expiry Interval has run out. Those that were sent don't expire [MQTT-4.3.3-7]."""
        expiring = self.expiring
        if not expiring:
            return
        while expiring and expiring[0][0] <= now:
            _, _, sequence, message = heappop(expiring)
            if message is None:
                message = self.stored_handles.get(sequence)
            if message is not None:
                self.expired(message, now)
        self.sweep()

    def expired(self, message: Outgoing, now: float) -> bool:
        """Return whether the interval of a publication ran out before it was sent; if so, settle it."""
        if not is_overdue(message, now) or message.state not in (QUEUED, STORED):
            return False
        self.settle(message, expiry_error(message))
        return True

    # ---- the database ----------------------------------------------------------------------------------------------------------------------

    def wanted_rows(self) -> tuple[int, int, int] | None:
        """Return which stored rows are wanted now: after which sequence number, how many at most, how many bytes at most."""
        settings = self.settings
        if not self.stored_rows or len(self.queue) > settings.window_messages // 2 or self.queue_bytes > settings.window_bytes // 2:
            return None
        return self.stored_after, settings.window_messages - len(self.queue), settings.window_bytes - self.queue_bytes

    def loaded(self, rows: list[StoredMessage], make: Callable[[StoredMessage], Outgoing], now: float) -> None:
        """Take rows that the driver loaded, in order; QoS 0 publications that were accepted between them keep their place."""
        for row in rows:
            sequence = row.sequence
            if sequence in self.stored_deleted:
                continue
            while self.behind_stored and self.behind_stored[0].sequence < sequence:
                self._append(self.behind_stored.popleft())
            self.stored_after = sequence
            self.stored_rows -= 1
            message = self.stored_handles.pop(sequence, None)
            if message is None:
                message = make(row)
                message.claimed = False
            message.state = QUEUED
            self._append(message)
            if not self.expired(message, now):
                self.watch_expiry(message)
        if rows:
            # Nothing up to here can be brought by a later load.
            self.stored_deleted = {sequence for sequence in self.stored_deleted if sequence > rows[-1].sequence}
        if not self.stored_rows:
            self._move_up()


def is_overdue(message: Outgoing, now: float) -> bool:
    """Return whether the Message Expiry Interval of a publication has run out."""
    options = message.options
    return options is not None and options.expires_at is not None and options.expires_at <= now


def expiry_error(message: Outgoing) -> MessageExpiredError:
    """Return what a publication ends with whose Message Expiry Interval ran out."""
    return MessageExpiredError(f"the Message Expiry Interval of {message.expiry_s} s ran out before the message was sent")
