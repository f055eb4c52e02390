"""A store in memory: what a database would hold, as plain data, and what of it would survive a power cut.

In safe mode whatever is committed is on the disk. In fast mode the disk may be behind: from some commit on, it hears of nothing more
(`stall`); a killed process loses nothing of that, a power cut loses all of it, in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ohmqtt.journal import DELETE, FORGET, IDENTITY, INSERT, RECEIVE, RELEASE, REQUEUE, SEND, SESSION, StoredMessage, StoredState
from tests.exploration.broker import require

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Image", "Store"]


class Image:
    """What a database file says at one moment."""

    __slots__ = ("client_id", "last_sequence", "received", "rows", "session")

    def __init__(self) -> None:
        self.client_id: str | None = None
        self.session: str | None = None
        self.last_sequence = 0
        # By sequence number: packet identifier, order of its PUBREC, and the message as it was accepted.
        self.rows: dict[int, tuple[int, int, StoredMessage]] = {}
        self.received: tuple[int, ...] = ()

    def copy(self) -> Image:
        """Return another one with the same contents."""
        other = Image()
        other.client_id, other.session, other.last_sequence = self.client_id, self.session, self.last_sequence
        other.rows, other.received = self.rows.copy(), self.received
        return other

    def apply(self, journal: Iterable[tuple[Any, ...]]) -> None:
        """Apply a journal, as `ohmqtt.store.Store.commit` says."""
        rows = self.rows
        for entry in journal:
            kind, about = entry[:2]
            if kind == INSERT:
                require(about.sequence > self.last_sequence, f"INSERT of sequence {about.sequence} after {self.last_sequence}")
                rows[about.sequence] = about.packet_id, about.released, about
                self.last_sequence = about.sequence
            elif kind == SEND:
                rows[about] = entry[2], 0, rows[about][2]
            elif kind == REQUEUE:
                rows[about] = 0, 0, rows[about][2]
            elif kind == RELEASE:
                rows[about] = rows[about][0], entry[2], rows[about][2]
            elif kind == DELETE:
                rows.pop(about, None)
            elif kind == RECEIVE:
                if about not in self.received:
                    self.received += (about,)
            elif kind == FORGET:
                self.received = tuple(packet_id for packet_id in self.received if packet_id != about)
            elif kind == IDENTITY:
                self.client_id = about
            else:
                require(kind == SESSION, f"no journal entry: {entry!r}")
                self.session = about

    def message(self, sequence: int, age_s: float) -> StoredMessage:
        """Return a row as a store gives it back."""
        packet_id, released, kept = self.rows[sequence]
        expiry_s = None if kept.expiry_s is None else max(0, kept.expiry_s - age_s)
        return StoredMessage(
            sequence, packet_id, released, kept.qos, kept.retain, kept.topic, kept.properties, kept.payload, kept.alias_policy, expiry_s
        )

    def load(self, age_s: float = 0.0) -> StoredState:
        """Return the state with which a new process begins."""
        in_flight = [self.message(sequence, age_s) for sequence in sorted(self.rows) if self.rows[sequence][0]]
        queued = [kept for packet_id, _, kept in self.rows.values() if not packet_id]
        size = sum(len(kept.topic.encode()) + len(kept.properties) + len(kept.payload) for kept in queued)
        return StoredState(self.client_id, self.session, self.last_sequence + 1, in_flight, list(self.received), len(queued), size)

    def load_queued(self, after: int, messages_max: int, age_s: float = 0.0) -> list[StoredMessage]:
        """Return the first rows that were never sent, after a sequence number."""
        found = [sequence for sequence in sorted(self.rows) if sequence > after and not self.rows[sequence][0]]
        return [self.message(sequence, age_s) for sequence in found[:messages_max]]


class Store:
    """The image that the process sees, and the older one that a power cut leaves."""

    __slots__ = ("image", "stalled")

    def __init__(self) -> None:
        self.image = Image()
        self.stalled: Image | None = None

    def commit(self, journal: list[tuple[Any, ...]]) -> None:
        """Apply a turn's journal in one transaction."""
        self.image.apply(journal)

    def stall(self) -> None:
        """From now on the disk hears of nothing."""
        self.stalled = self.image.copy()

    def survivor(self, power_cut: bool) -> Image:
        """Return what is left when the process is killed, or the power is cut."""
        return self.stalled if power_cut and self.stalled is not None else self.image
