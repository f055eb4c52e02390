"""The baskets and the turn: what must be on disk first, what may trail, and that nothing is taken twice."""

from __future__ import annotations

import pytest

from ohmqtt.journal import DELETE, FORGET, INSERT, StoredMessage
from ohmqtt.records import Report
from ohmqtt.session.baskets import TRAIL_S, TRAILING_MAX, Baskets
from tests.outbound_world import connected_link, publication


def test_a_turn_takes_everything_once() -> None:
    baskets = Baskets(durable=True)
    lists = (baskets.writes, baskets.events, baskets.resolved, baskets.accepted, baskets.journal)
    link, message, event = connected_link(), publication(), Report(30, "text")
    baskets.writes += [b"bytes", message]
    baskets.events.append(event)
    baskets.resolved.append(message)
    baskets.accepted.append(message)
    baskets.record(FORGET, 1)
    turn = baskets.take(link, 0.0)
    assert (turn.number, turn.link, turn.received_bytes) == (1, link, 0)
    assert (turn.writes, turn.events, turn.resolved, turn.accepted) == ([b"bytes", message], [event], [message], [message])
    assert turn.journal == [(FORGET, 1)]
    # The lists stay the same objects: whoever fills them may keep a reference.
    assert lists == (baskets.writes, baskets.events, baskets.resolved, baskets.accepted, baskets.journal)
    assert all(
        kept is now for kept, now in zip(lists, (baskets.writes, baskets.events, baskets.resolved, baskets.accepted, baskets.journal))
    )
    empty = baskets.take(None, 0.0)
    assert empty.number == 2
    assert [empty.writes, empty.events, empty.resolved, empty.accepted, empty.journal] == [[]] * 5


def test_a_row_that_expires_grows_older_until_it_is_taken_and_no_longer() -> None:
    baskets = Baskets(durable=True)
    rows = [StoredMessage(number, 0, 0, 1, False, "t", b"\0", b"") for number in (1, 2)]
    for row, expires_at in zip(rows, (10.0, 3.0)):
        baskets.record(INSERT, row)
        baskets.aging.append((row, expires_at))
    baskets.take(None, 4.0)
    assert [row.expiry_s for row in rows] == [6.0, 0.0]
    baskets.take(None, 5.0)
    assert rows[0].expiry_s == 6.0


@pytest.mark.parametrize("name", ["writes", "events", "resolved"])
def test_what_somebody_waits_for_makes_a_turn(name: str) -> None:
    baskets = Baskets(durable=False)
    assert not baskets.any()
    getattr(baskets, name).append(publication())
    assert baskets.any()
    baskets.take(None, 0.0)
    assert not baskets.any()


def test_without_a_database_there_is_no_journal() -> None:
    baskets = Baskets(durable=False)
    baskets.record(FORGET, 1)
    baskets.trail(DELETE, 1)
    assert not baskets.any()
    assert baskets.journal == []
    assert baskets.take(None, 0.0).journal == []
    assert baskets.deadline() is None


def test_what_must_be_on_disk_takes_what_trails_along_in_order() -> None:
    baskets = Baskets(durable=True)
    baskets.trail(DELETE, 1)
    assert not baskets.any()
    assert baskets.take(None, 0.0).journal == []
    baskets.record(FORGET, 7)
    baskets.trail(DELETE, 2)
    assert baskets.any()
    assert baskets.take(None, 0.0).journal == [(DELETE, 1), (FORGET, 7), (DELETE, 2)]
    assert not baskets.any()
    assert baskets.deadline() is None


def test_what_trails_gets_a_commit_of_its_own_after_a_while() -> None:
    baskets = Baskets(durable=True)
    assert baskets.deadline() is None
    baskets.tick(1e9)
    baskets.trail(DELETE, 1)
    baskets.take(None, 5.0)
    baskets.trail(DELETE, 2)
    baskets.take(None, 5.05)
    assert baskets.deadline() == 5.0 + TRAIL_S
    baskets.tick(5.0 + TRAIL_S - 0.001)
    assert not baskets.any()
    baskets.tick(5.0 + TRAIL_S)
    assert baskets.any()
    assert baskets.take(None, 6.0).journal == [(DELETE, 1), (DELETE, 2)]
    assert baskets.deadline() is None
    assert not baskets.any()


def test_what_trails_is_bounded() -> None:
    baskets = Baskets(durable=True)
    for sequence in range(TRAILING_MAX):
        baskets.trail(DELETE, sequence)
    assert baskets.take(None, 0.0).journal == []
    baskets.trail(DELETE, TRAILING_MAX)
    assert len(baskets.take(None, 0.0).journal) == TRAILING_MAX + 1
    assert baskets.journal == []


def test_a_client_that_is_closed_has_what_trails_committed() -> None:
    baskets = Baskets(durable=True)
    baskets.hurry()
    assert not baskets.any()
    baskets.trail(DELETE, 1)
    baskets.hurry()
    assert baskets.any()
    assert baskets.take(None, 0.0).journal == [(DELETE, 1)]


def test_the_row_of_a_cancelled_publication_trails_no_longer_than_others() -> None:
    # Its acknowledgement makes no turn: nobody waits for anything.
    baskets = Baskets(durable=True)
    baskets.trail(DELETE, 1)
    baskets.tick(5.0)
    assert not baskets.any()
    assert baskets.deadline() == 5.0 + TRAIL_S
    baskets.tick(5.0 + TRAIL_S)
    assert baskets.any()
    assert baskets.take(None, 6.0).journal == [(DELETE, 1)]
    baskets.tick(7.0)
    assert baskets.deadline() is None


def test_the_time_to_commit_comes_once_however_slow_the_disk() -> None:
    baskets = Baskets(durable=True)
    baskets.trail(DELETE, 1)
    baskets.tick(5.0)
    baskets.tick(5.0 + TRAIL_S)
    # A driver that can't commit yet would never sleep otherwise.
    assert baskets.deadline() is None
    assert baskets.take(None, 6.0).journal == [(DELETE, 1)]
