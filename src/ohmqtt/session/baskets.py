"""The baskets that the Session fills and a driver empties, and the turn in which they are taken together.

The rule that everything else rests on: **journal, then wire, then user.** A turn's journal is committed before its writes join the send
buffer and before its events go out. Only the deletion of an acknowledged publication may trail: it promises nothing to anybody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from ..journal import StoredMessage
    from ..link import Link
    from ..records import Outgoing, Request

__all__ = ["TRAILING_MAX", "TRAIL_S", "Baskets", "Turn"]

TRAIL_S = 0.1
"""How long deletions may trail before they get a commit of their own."""

TRAILING_MAX = 1_000
"""How many journal entries may trail."""


class Turn:
    """What was in the baskets at one moment. ``journal`` is empty if nothing of it needs the disk first."""

    __slots__ = ("accepted", "events", "journal", "link", "number", "received_bytes", "resolved", "writes")

    def __init__(self, number: int, link: Link | None, baskets: Baskets) -> None:
        self.number = number
        self.received_bytes = 0
        self.link = link
        self.journal: list[tuple[Any, ...]] = []
        self.writes = baskets.writes[:]
        self.events = baskets.events[:]
        self.resolved = baskets.resolved[:]
        self.accepted = baskets.accepted[:]


class Baskets:
    """Journal, writes, events. The lists stay the same objects, so that whoever fills them may keep a reference."""

    __slots__ = ("accepted", "aging", "durable", "events", "journal", "required", "resolved", "trailing_since", "turn_number", "writes")

    def __init__(self, durable: bool) -> None:
        self.durable = durable
        self.journal: list[tuple[Any, ...]] = []
        self.required = False
        self.trailing_since: float | None = None
        self.writes: list[bytes | Outgoing] = []
        self.events: list[Any] = []
        self.resolved: list[Outgoing | Request] = []
        self.accepted: list[Outgoing] = []
        # Rows of the journal that expire, and when: they grow older until the commit begins.
        self.aging: list[tuple[StoredMessage, float]] = []
        self.turn_number = 1

    def record(self, *entry: Any) -> None:
        """Add a journal entry that must be on disk before anything of this turn leaves."""
        if self.durable:
            self.journal.append(entry)
            self.required = True

    def trail(self, *entry: Any) -> None:
        """Add a journal entry that may be committed later, though never out of order."""
        if self.durable:
            self.journal.append(entry)

    def any(self) -> bool:
        """Return whether a turn would hold anything that somebody waits for."""
        return bool(self.required or self.writes or self.events or self.resolved)

    def take(self, link: Link | None, now: float) -> Turn:
        """Empty the baskets into a Turn."""
        for row, expires_at in self.aging:
            row.expiry_s = max(0.0, expires_at - now)
        self.aging.clear()
        turn = Turn(self.turn_number, link, self)
        self.turn_number += 1
        if self.required or len(self.journal) > TRAILING_MAX:
            turn.journal = self.journal[:]
            self.journal.clear()
            self.required = False
            self.trailing_since = None
        elif self.journal and self.trailing_since is None:
            self.trailing_since = now
        self.writes.clear()
        self.events.clear()
        self.resolved.clear()
        self.accepted.clear()
        return turn

    def deadline(self) -> float | None:
        """Return when trailing entries want a commit of their own; None if they have asked for it."""
        # Else the driver would find the time come again and again, for as long as a slow disk is at the commit before.
        return None if self.trailing_since is None or self.required else self.trailing_since + TRAIL_S

    def hurry(self) -> None:
        """Ask for a commit of what trails: the client is being closed, and a clean end leaves nothing to do twice."""
        self.required = bool(self.journal)

    def tick(self, now: float) -> None:
        """Ask for a commit if deletions have trailed for long enough."""
        if self.trailing_since is None:
            if self.journal:
                # The acknowledgement of a publication that was cancelled makes no turn that would note the time.
                self.trailing_since = now
        elif now >= self.trailing_since + TRAIL_S:
            self.required = True
