"""Who we are for the server, and whether its session is ours."""

from __future__ import annotations

import pytest

from ohmqtt.errors import StoreOwnerError
from ohmqtt.journal import IDENTITY, SESSION, StoredState
from ohmqtt.session.baskets import Baskets
from ohmqtt.session.identity import Identity


def identity(client_id: str | None = None, session: str | None = None, *, durable: bool = True) -> Identity:
    made = Identity(Baskets(durable))
    made.recover(StoredState(client_id, session, 1, [], [], 0, 0))
    return made


def test_a_fresh_store_says_nothing() -> None:
    fresh = identity()
    assert (fresh.client_id, fresh.owner, fresh.ours, fresh.epoch) == ("", None, False, 0)
    assert fresh.baskets.journal == []


@pytest.mark.parametrize(("text", "ours", "epoch"), [("3 ours", True, 3), ("4 none", False, 4)])
def test_a_used_store_says_whose_it_is(text: str, ours: bool, epoch: int) -> None:
    used = identity("me", text)
    assert (used.client_id, used.owner, used.ours, used.epoch) == ("me", "me", ours, epoch)


@pytest.mark.parametrize(
    ("text", "ended", "retired"),
    [
        ("3 ours", None, set()),
        ("3 none ended", "me", set()),
        ("3 ours retired 7 65535", None, {7, 65_535}),
        ("3 none ended retired 1", "me", {1}),
    ],
)
def test_every_form_of_the_text_is_read_and_written(text: str, ended: str | None, retired: set[int]) -> None:
    used = identity("me", text)
    assert (used.ended, used.retired) == (ended, retired)
    used.record()
    assert used.baskets.journal == [(SESSION, text)]


@pytest.mark.spec("MQTT-2.2.1-3")
def test_retired_identifiers_are_free_again_one_by_one_or_with_the_session() -> None:
    used = identity("me", "3 ours retired 1 2 3")
    used.free(2)
    used.free(2)
    used.free_all()
    used.free_all()
    assert used.baskets.journal == [(SESSION, "3 ours retired 1 3"), (SESSION, "3 ours")]
    assert used.retired == set()


def test_without_a_database_the_end_of_a_session_frees_them_as_well() -> None:
    used = identity(durable=False)
    used.retired.add(7)
    used.free_all()
    assert used.retired == set()
    assert used.baskets.journal == []


def test_the_owner_answers_for_an_empty_id_and_refuses_another() -> None:
    assert identity().resolve("any") == "any"
    used = identity("me")
    assert used.resolve("") == "me"
    assert used.resolve("me") == "me"
    with pytest.raises(StoreOwnerError, match="'me', not to 'you'"):
        used.resolve("you")


@pytest.mark.spec("MQTT-3.1.3-2")
def test_another_id_is_another_session() -> None:
    used = identity("me", "1 ours")
    assert not used.is_another("me")
    fresh = identity()
    assert not fresh.is_another("me")  # there is nothing that could belong to somebody
    fresh.greet()
    assert fresh.is_another("me")  # a CONNECT with an empty id has left
    assert not fresh.is_another("")
    fresh.claim("me")
    assert fresh.is_another("you")


def test_a_store_is_claimed_once_and_memory_never() -> None:
    fresh = identity()
    fresh.claim("")
    assert fresh.baskets.journal == []
    fresh.claim("me")
    fresh.claim("me")
    assert fresh.baskets.journal == [(IDENTITY, "me")]
    memory = identity(durable=False)
    memory.claim("me")
    memory.claim("you")
    assert (memory.client_id, memory.owner) == ("you", None)


@pytest.mark.spec("MQTT-3.2.2-4")
def test_the_session_is_ours_from_before_connect_leaves_until_it_is_refused() -> None:
    fresh = identity("me")
    fresh.greet()
    facts = [(fresh.ours, fresh.ours_before)]
    assert fresh.baskets.required
    fresh.refused()
    fresh.refused()
    facts.append((fresh.ours, fresh.ours_before))
    fresh.greet()
    fresh.greet()
    facts.append((fresh.ours, fresh.ours_before))
    fresh.refused()
    facts.append((fresh.ours, fresh.ours_before))
    assert facts == [(True, False), (False, False), (True, True), (True, True)]
    assert fresh.baskets.journal == [(SESSION, "1 ours"), (SESSION, "1 none"), (SESSION, "2 ours")]


def test_without_an_id_there_was_no_session_before() -> None:
    fresh = identity()
    fresh.greet()
    fresh.greet()
    assert not fresh.ours_before


def test_a_session_that_we_ended_is_remembered_as_ended() -> None:
    used = identity("me", "3 ours")
    used.end()
    assert used.ended == "me"
    assert not used.ours
    assert used.baskets.journal == [(SESSION, "3 none ended")]


@pytest.mark.parametrize("client_id", ["me", ""])
def test_the_end_is_remembered_over_processes_until_a_connection_is_accepted(client_id: str) -> None:
    used = identity(client_id or None)
    used.claim(client_id)
    used.greet()
    used.baskets.journal.clear()
    used.end()
    ((_, text),) = used.baskets.journal
    after = identity(client_id or None, text)
    ended = [after.ended]
    after.established()
    after.established()
    assert [*ended, after.ended] == [client_id, None]
    assert after.baskets.journal == [(SESSION, "1 none")]
