"""Negative controls: rules of committing and forgetting, each broken on purpose, and the smallest world in which it shows.

What a control breaks must be caught by what a user or a server can see. The looks inside, which would see it at once, are left out. The
source isn't touched: a control stands between a turn and the store, or changes one method of a session's part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ohmqtt.errors import MessageExpiredError, MQTTError, PublishError, SessionLostError
from ohmqtt.journal import DELETE, FORGET, INSERT, RECEIVE, RELEASE, REQUEUE, SEND
from ohmqtt.records import Undelivered
from ohmqtt.session.inbound import Inbound
from ohmqtt.session.outbound import Outbound
from tests.exploration.world import Case

if TYPE_CHECKING:
    from ohmqtt.link import Link
    from ohmqtt.packet import MQTTPubRecPacket
    from ohmqtt.session import Session, Turn
    from tests.exploration.world import World

__all__ = ["CONTROLS", "Control"]

Journal = list[tuple[Any, ...]]


class Control:
    """One broken rule: what it does, and a world in which that must be caught."""

    def __init__(self, name: str, case: Case) -> None:
        self.name = name
        self.case = case

    def prepare(self, session: Session) -> None:
        """Break something in a session that begins."""

    def journal(self, journal: Journal, world: World) -> Journal:
        """Return what is committed in the place of a turn's journal."""
        del world
        return journal


class NotCommitted(Control):
    """Entries of some kinds never reach the disk, nor what is about rows that are not there then."""

    def __init__(self, name: str, case: Case, *kinds: int) -> None:
        super().__init__(name, case)
        self.kinds = kinds

    def journal(self, journal: Journal, world: World) -> Journal:
        missing = (SEND, RELEASE, REQUEUE) if INSERT in self.kinds else ()
        return [entry for entry in journal if entry[0] not in self.kinds and entry[0] not in missing]


class Trailing(Control):
    """Entries of one kind are left to the commit after: all of them, or those about messages that ended in one way."""

    def __init__(self, name: str, case: Case, kind: int, *errors: type[MQTTError], acknowledged: bool = False) -> None:
        super().__init__(name, case)
        self.kind = kind
        self.errors = errors
        self.acknowledged = acknowledged

    def journal(self, journal: Journal, world: World) -> Journal:
        assert world.turn is not None
        ended = self._ended(world.turn)
        kept = [entry for entry in journal if entry[0] == self.kind and self._trails(entry[1], ended)]
        committed = [*world.held_back, *(entry for entry in journal if entry not in kept)]
        world.held_back = kept
        return committed

    def _trails(self, about: int, ended: set[int]) -> bool:
        return (not self.errors or about in ended) and (not self.acknowledged or about not in ended)

    def _ended(self, turn: Turn) -> set[int]:
        """Return the sequence numbers of the messages of which this turn tells that they failed."""
        wanted = self.errors or (MQTTError,)
        messages: list[Any] = [message for message in turn.resolved if isinstance(message.outcome, wanted)]
        messages += [event.message for event in turn.events if isinstance(event, Undelivered) and isinstance(event.error, wanted)]
        return {message.sequence for message in messages}


class _ReceivedSetKept(Inbound):
    def session_lost(self) -> None:
        self.deliveries.clear()


class _QuotaKept(Outbound):
    def pubrec(self, packet_id: int, link: Link, packet: MQTTPubRecPacket | None = None) -> None:
        before = link.send_quota
        super().pubrec(packet_id, link, packet)
        link.send_quota = before


class Patched(Control):
    """A part of the session has one method too bad."""

    def __init__(self, name: str, case: Case, part: str, kind: type) -> None:
        super().__init__(name, case)
        self.part = part
        self.kind = kind

    def prepare(self, session: Session) -> None:
        getattr(session, self.part).__class__ = self.kind


CONTROLS: tuple[Control, ...] = (
    NotCommitted("PUBREL is not committed", Case((2,), crashes=1), RELEASE),
    NotCommitted("PUBLISH is not committed", Case((1,), crashes=1), INSERT),
    NotCommitted("an inbound identifier is not committed before its PUBREC", Case((), (2,), disconnects=1, crashes=1), RECEIVE),
    Patched(
        "the received set is kept after the session was lost",
        Case((), (2, 2), disconnects=1, session_losses=1),
        "inbound",
        _ReceivedSetKept,
    ),
    Patched("the quota of an error PUBREC is not given back", Case((2, 2), rejections=1), "outbound", _QuotaKept),
    Trailing("the removal of an inbound identifier trails its PUBCOMP", Case((), (2, 2), crashes=1), FORGET),
    Trailing("rows of a lost session outlive its end", Case((2,), disconnects=1, crashes=1, session_losses=1), DELETE, SessionLostError),
    Trailing("a rejected message's row trails its outcome", Case((1,), crashes=1, rejections=1), DELETE, PublishError),
    Trailing("an expired message's row trails its outcome", Case((1, 1), crashes=1, expiry=True), DELETE, MessageExpiredError),
    Trailing("an identifier is used again ahead of a trailing deletion", Case((2, 2), crashes=1), DELETE, acknowledged=True),
)
