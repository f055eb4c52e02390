"""Who the client is for the server, and whether the session there is ours."""

from __future__ import annotations

import pytest

from ohmqtt.errors import StoreOwnerError
from ohmqtt.journal import IDENTITY, SESSION, StoredState
from ohmqtt.packet import MQTTConnAckPacket, MQTTConnectPacket, MQTTPacket, decode_packet
from ohmqtt.session import Baskets, Session, SessionSettings
from ohmqtt.session.identity import Identity


def connect(session: Session, client_id: str, *, clean_start: bool = False, session_present: bool = False) -> MQTTConnectPacket:
    """Connect at time 0 and return the CONNECT that went out."""
    session.connect(MQTTConnectPacket(client_id, clean_start), 0.0)
    assert session.dial(0.0)
    assert session.opened(0.0)
    packet = first_packet(session)
    assert isinstance(packet, MQTTConnectPacket)
    session.receive(MQTTConnAckPacket(0, session_present).encode(), 0.0)
    return packet


def first_packet(session: Session) -> MQTTPacket:
    turn = session.take(0.0)
    assert turn is not None
    decoded = decode_packet(turn.writes[0])  # type: ignore[arg-type]
    assert decoded is not None
    session.release(turn, 0.0)
    return decoded[0]


def disconnect(session: Session) -> None:
    session.disconnect(0.0)
    turn = session.take(0.0)
    assert turn is not None
    session.release(turn, 0.0)
    session.link_lost(None, 0.0, 0.0)


def test_a_session_that_we_ended_cannot_come_back_by_a_connect_that_overtakes_its_disconnect() -> None:
    session = Session(SessionSettings())
    assert not connect(session, "c").clean_start
    disconnect(session)
    assert connect(session, "c").clean_start
    assert session.connected_link() is not None
    # It holds for one connection: a broken link resumes.
    session.link_lost(None, 1.0, 0.0)
    assert session.dial(1.0)
    assert session.opened(1.0)
    packet = first_packet(session)
    assert isinstance(packet, MQTTConnectPacket)
    assert not packet.clean_start


def test_an_ended_session_is_no_reason_to_start_that_of_another_identifier_clean() -> None:
    session = Session(SessionSettings())
    connect(session, "c")
    disconnect(session)
    assert not connect(session, "d").clean_start


def test_an_identifier_is_claimed_once_and_the_database_keeps_it() -> None:
    baskets = Baskets(durable=True)
    identity = Identity(baskets)
    assert identity.resolve("") == ""
    identity.claim("c")
    identity.claim("c")
    assert baskets.journal == [(IDENTITY, "c")]
    assert identity.resolve("") == "c"
    with pytest.raises(StoreOwnerError, match=r"'c', not to 'd'"):
        identity.resolve("d")


def test_the_fact_is_recorded_once_and_taken_back_when_the_server_refuses() -> None:
    baskets = Baskets(durable=True)
    identity = Identity(baskets)
    identity.claim("c")
    identity.greet()
    identity.refused()
    assert not identity.ours
    identity.greet()
    identity.greet()
    identity.refused()
    assert identity.ours
    assert [entry for entry in baskets.journal if entry[0] == SESSION] == [(SESSION, "1 ours"), (SESSION, "1 none"), (SESSION, "2 ours")]


@pytest.mark.parametrize(("text", "ours", "epoch"), [(None, False, 0), ("3 ours", True, 3), ("4 none", False, 4)])
def test_a_former_process_is_believed(text: str | None, ours: bool, epoch: int) -> None:
    identity = Identity(Baskets(durable=True))
    identity.recover(StoredState("c", text, 1, [], [], 0, 0))
    assert (identity.ours, identity.epoch, identity.client_id) == (ours, epoch, "c")
    assert identity.is_another("d")
    assert not identity.is_another("c")


def test_without_a_name_there_is_no_former_session() -> None:
    identity = Identity(Baskets(durable=False))
    identity.greet()
    identity.greet()
    assert not identity.ours_before
    assert identity.is_another("c")
