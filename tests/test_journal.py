"""The records of the journal: plain, comparable, and readable in a failing test."""

from __future__ import annotations

from ohmqtt.journal import StoredMessage, StoredState


def message(payload: bytes = b"payload") -> StoredMessage:
    return StoredMessage(7, 3, 2, 1, True, "a/b", b"\0", payload, 1, 60)


def test_messages_compare_by_value() -> None:
    assert message() == message()
    assert message() != message(b"other")
    assert message() != "a message"


def test_states_compare_by_value() -> None:
    assert StoredState("c", "1 ours", 8, [message()], [5], 1, 10) == StoredState("c", "1 ours", 8, [message()], [5], 1, 10)
    assert StoredState("c", "1 ours", 8, [message()], [5], 1, 10) != StoredState("d", "1 ours", 8, [message()], [5], 1, 10)
    assert StoredState("c", None, 1, [], [], 0, 0) != "a state"


def test_a_repr_shows_each_field_and_shortens_long_payloads() -> None:
    shown = repr(message(b"x" * 1_000))
    assert shown.startswith("StoredMessage(7, packet_id=3, released=2, qos=1, retain=True, topic='a/b'")
    assert len(shown) < 300
    assert "payload=b'payload'" in repr(message())
    assert "client_id='c'" in repr(StoredState("c", None, 1, [], [], 0, 0))
