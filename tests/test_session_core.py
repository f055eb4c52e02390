"""The Session as a whole: handshake, sessions, goodbye, keep alive, reconnecting, turns. Other files test its pieces."""

from __future__ import annotations

import random

import pytest

from ohmqtt.errors import (
    ArgumentError,
    AuthenticationError,
    ClientClosedError,
    ConnectError,
    ConnectRefusedError,
    ForeignSessionError,
    KeepAliveError,
    LinkLostError,
    MQTTError,
    NotSupportedError,
    PacketTooLargeError,
    PoisonMessageError,
    ProtocolError,
    ServerLimitError,
    SessionLostError,
    StateError,
    StoreError,
    StoreOwnerError,
)
from ohmqtt.journal import DELETE, FORGET, IDENTITY, INSERT, RECEIVE, SESSION, StoredMessage, StoredState
from ohmqtt.packet import MQTTConnectPacket, MQTTDisconnectPacket, MQTTWill
from ohmqtt.property import MQTTConnectProps, MQTTDisconnectProps, MQTTPublishProps
from ohmqtt.records import Connected, Disconnected, Message, Options, Outgoing, Report
from ohmqtt.session import DIALLING, IDLE, LINKED, STOPPED, WAITING, Session, SessionSettings
from ohmqtt.session.core import OUTBOX_WRITES_MAX, RETRY_S
from ohmqtt.topic_alias import AliasPolicy
from tests.core_pair import Pair, ack, auth, connack, publish

BAD = b"\xf1\x00"
"""An AUTH with a reserved bit."""


def outgoing(row: StoredMessage) -> Outgoing:
    message = Outgoing(len(row.topic).to_bytes(2, "big") + row.topic.encode(), row.payload, row.qos, 0x30 | row.qos << 1, row.properties)
    message.sequence = row.sequence
    message.packet_id = row.packet_id
    return message


def stored(client_id: str | None = "me", session: str | None = "1 ours", in_flight: int = 0, received: tuple[int, ...] = ()) -> StoredState:
    rows = [StoredMessage(i, i, 0, 1, False, "t", b"\0", b"p") for i in range(1, in_flight + 1)]
    return StoredState(client_id, session, in_flight + 1, rows, list(received), 0, 0)


def disconnect_packet(reason_code: int, **properties: object) -> bytes:
    return MQTTDisconnectPacket(reason_code, MQTTDisconnectProps(**properties)).encode()  # type: ignore[arg-type]


# ---- CONNECT ------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.1.0-1", "MQTT-3.1.2-1", "MQTT-3.1.3-3")
def test_connect_comes_first_even_if_much_waits() -> None:
    pair = Pair()
    pair.publish(qos=0)
    pair.publish(qos=1)
    pair.subscribe("a")
    assert pair.sent() == []
    pair.start()
    packet = pair.open()
    assert pair.kinds() == ["CONNECT"]
    assert packet.raw[2:8] == b"\x00\x04MQTT"
    assert [p.kind for p in pair.accept()] == ["SUBSCRIBE", "PUBLISH", "PUBLISH"]
    pair.lose()
    pair.publish(qos=0)
    pair.unsubscribe("b")
    pair.log.clear()
    pair.open()
    assert pair.kinds() == ["CONNECT"]
    assert [p.kind for p in pair.accept(session_present=True)] == ["SUBSCRIBE", "UNSUBSCRIBE", "PUBLISH", "PUBLISH"]


@pytest.mark.spec("MQTT-3.1.2-9", "MQTT-3.1.3-1")
def test_what_the_caller_gives_is_what_connect_says() -> None:
    pair = Pair()
    will = MQTTWill("w", b"gone", 1, True)
    given = MQTTConnectPacket("id", True, 7, will, "user", b"secret", MQTTConnectProps(SessionExpiryInterval=5, ReceiveMaximum=9))
    pair.session.connect(given, 0.0)
    packet = pair.open()
    assert (packet.client_id, packet.clean_start, packet.keep_alive) == ("id", True, 7)
    assert packet.raw == given.encode()


def test_unless_named_the_session_outlives_a_broken_link_and_receive_maximum_bounds_what_is_unacknowledged() -> None:
    pair = Pair()
    pair.start()
    assert pair.open().properties == {"SessionExpiryInterval": 300, "ReceiveMaximum": 1024}


@pytest.mark.spec("MQTT-3.1.0-2")
def test_a_second_connect_is_refused_at_every_stage() -> None:
    pair = Pair()
    packet = MQTTConnectPacket("me")
    pair.start()
    with pytest.raises(StateError, match="disconnect"):
        pair.session.connect(packet, 0.0)
    assert pair.session.dial(0.0)
    assert pair.session.phase == DIALLING
    with pytest.raises(StateError):
        pair.session.connect(packet, 0.0)
    assert pair.session.opened(0.0)
    assert pair.session.phase == LINKED
    with pytest.raises(StateError):
        pair.session.connect(packet, 0.0)
    pair.accept()
    with pytest.raises(StateError):
        pair.session.connect(packet, 0.0)
    pair.session.disconnect(0.0)
    with pytest.raises(StateError, match="connected"):
        pair.session.connect(packet, 0.0)  # the goodbye isn't out yet
    pair.pump()
    pair.session.connect(packet, 0.0)
    assert pair.session.phase == WAITING


def test_a_connection_that_nobody_wants_any_more_is_not_used() -> None:
    pair = Pair()
    pair.start()
    assert pair.session.dial(0.0)
    assert not pair.session.dial(0.0)
    pair.disconnect()
    assert not pair.session.opened(0.0)
    pair.session.dial_failed(ConnectError("late"), 0.0, 0.5)
    assert pair.session.phase == IDLE
    assert pair.events() == []
    pair.start()
    assert not pair.session.opened(0.0)  # this is still the attempt before
    assert pair.session.phase == WAITING


def test_authentication_data_of_the_authenticator_goes_into_connect() -> None:
    pair = Pair()
    pair.start(AuthenticationMethod="M")
    assert pair.open(b"first").properties["AuthenticationData"] == b"first"
    pair = Pair()
    pair.start(AuthenticationMethod="M", AuthenticationData=b"named")
    assert pair.open().properties["AuthenticationData"] == b"named"


# ---- CONNACK ------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.2.0-1")
@pytest.mark.parametrize(
    "first", [publish("t"), ack(0x40, 1), b"\xd0\x00", b"\x90\x04\x00\x01\x00\x00", ack(0x62, 1)], ids=lambda data: hex(data[0])
)
def test_nothing_comes_before_connack(first: bytes) -> None:
    pair = Pair()
    pair.start()
    pair.open()
    (goodbye,) = pair.feed(first)
    assert (goodbye.kind, goodbye.reason_code) == ("DISCONNECT", 0x82)
    assert pair.kinds() == ["CONNECT", "DISCONNECT", "EOF"]
    assert pair.messages() == []
    error = pair.ending().error
    assert isinstance(error, ProtocolError)
    assert "before CONNACK" in str(error)
    assert not pair.ending().was_connected


@pytest.mark.spec("MQTT-3.2.0-2")
def test_a_second_connack_is_a_protocol_error() -> None:
    pair = Pair().connect()
    (goodbye,) = pair.feed(connack())
    assert goodbye.reason_code == 0x82
    assert pair.ending().was_connected


def test_without_a_word_before_connect_has_left_nothing_is_said_to_a_server_that_speaks_first() -> None:
    pair = Pair()
    pair.start()
    assert pair.session.dial(0.0)
    assert pair.session.opened(0.0)
    pair.feed(BAD)
    assert pair.kinds() == ["EOF"]
    assert isinstance(pair.ending().error, ProtocolError)


@pytest.mark.spec("MQTT-3.1.0-1")
def test_a_connect_that_waits_for_the_socket_still_goes_before_the_disconnect() -> None:
    pair = Pair()
    pair.start()
    pair.peer_takes_nothing = True
    assert pair.session.dial(0.0)
    assert pair.session.opened(0.0)
    pair.pump()
    pair.feed(BAD)
    pair.peer_takes_nothing = False
    pair.pump()
    assert pair.kinds() == ["CONNECT", "DISCONNECT", "EOF"]


@pytest.mark.spec("MQTT-3.2.2-7", "MQTT-3.2.2-12", "MQTT-3.2.2-13", "MQTT-3.1.2-2", "MQTT-3.1.3-8", "MQTT-4.13.2-1")
@pytest.mark.parametrize("code", [0x81, 0x82, 0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C, 0x90, 0x95, 0x99, 0x9A, 0x9B, 0x9C, 0x9D])
def test_a_refusal_that_cannot_heal_stops_and_says_why(code: int) -> None:
    pair = Pair()
    pair.start()
    pair.open()
    pair.feed(connack(code, ReasonString="because"))
    assert pair.kinds() == ["CONNECT", "EOF"]  # the client closes, whether the server does or not; and says nothing more
    assert pair.session.phase == STOPPED
    failure = pair.session.failure
    assert isinstance(failure, ConnectRefusedError)
    assert failure.packet.reason_code == code
    assert "because" in str(failure)
    event = pair.ending()
    assert event.packet is failure.packet
    assert event.retry_in_s is None
    assert not event.was_connected


@pytest.mark.parametrize("code", [0x80, 0x83, 0x88, 0x89, 0x97, 0x9F])
def test_a_refusal_that_can_heal_is_tried_again(code: int) -> None:
    pair = Pair()
    pair.start()
    pair.open()
    pair.feed(connack(code))
    assert pair.session.phase == WAITING
    assert pair.session.failure is None
    assert isinstance(pair.session.last_error, ConnectRefusedError)
    assert pair.ending().retry_in_s == 0.5
    pair.open()
    pair.accept()
    assert pair.session.connected_link() is not None


@pytest.mark.spec("MQTT-3.2.2-6")
def test_a_refusal_with_session_present_is_a_refusal_all_the_same() -> None:
    pair = Pair()
    pair.start()
    pair.open()
    pair.feed(b"\x20\x03\x01\x87\x00")
    assert pair.session.phase == STOPPED
    assert isinstance(pair.session.failure, ConnectRefusedError)


@pytest.mark.spec("MQTT-4.11")
def test_the_server_reference_is_told_and_the_old_server_not_asked_again() -> None:
    pair = Pair()
    pair.start()
    pair.open()
    pair.feed(connack(0x9D, ServerReference="elsewhere:1883"))
    assert "elsewhere:1883" in str(pair.session.failure)
    assert pair.session.failure.packet.properties.ServerReference == "elsewhere:1883"  # type: ignore[union-attr]


@pytest.mark.spec("MQTT-3.2.2-1", "MQTT-3.2.2-8", "MQTT-3.1.2.11.3", "MQTT-3.2.2.3", "MQTT-2.4")
@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("02 00 00", 0x81),  # a reserved bit
        ("80 00 00", 0x81),
        ("00 01 00", 0x82),  # no reason code of CONNACK
        ("00 02 00", 0x82),
        ("00 05 00", 0x82),
        ("00 ff 00", 0x82),
        ("00 00 03 210000", 0x82),  # Receive Maximum 0
        ("00 00 05 2700000000", 0x82),  # Maximum Packet Size 0
        *[(f"00 00 02 {name}02", 0x82) for name in ("24", "25", "28", "29", "2a")],  # Maximum QoS 2, and a boolean 2
    ],
)
def test_a_connack_that_is_none_does_not_connect(body: str, code: int) -> None:
    pair = Pair()
    pair.start()
    pair.open()
    data = bytes.fromhex(body)
    (goodbye,) = pair.feed(bytes((0x20, len(data))) + data)
    assert (goodbye.kind, goodbye.reason_code) == ("DISCONNECT", code)
    assert pair.kinds()[-1] == "EOF"
    assert pair.session.connected_link() is None
    assert pair.connected() == []
    assert isinstance(pair.ending().error, ProtocolError)


@pytest.mark.spec("MQTT-3.1.4-2")
def test_a_server_that_closes_without_a_connack_fails_the_attempt_at_once() -> None:
    pair = Pair()
    pair.start()
    pair.open()
    pair.lose()
    error = pair.ending().error
    assert isinstance(error, ConnectError)
    assert "no CONNACK" in str(error)
    assert isinstance(error.__cause__, LinkLostError)


@pytest.mark.spec("MQTT-3.2")
def test_a_server_that_stays_silent_is_given_up_in_time() -> None:
    pair = Pair(connack_timeout_s=3.0)
    pair.start()
    pair.open()
    assert pair.session.deadline() == 3.0
    pair.at(2.9)
    assert pair.session.link is not None
    pair.at(3.0)
    assert pair.kinds() == ["CONNECT", "EOF"]
    assert "no CONNACK within 3 s" in str(pair.ending().error)
    assert pair.session.phase == WAITING


def test_an_attempt_whose_connect_waits_for_the_disk_is_given_up_in_time() -> None:
    pair = Pair(durable=True, connack_timeout_s=3.0)
    pair.start()
    assert pair.session.dial(0.0)
    assert pair.session.opened(0.0)
    turn = pair.session.take(0.0)
    assert turn is not None
    assert pair.session.deadline() == 3.0
    pair.session.tick(3.0)
    assert pair.session.must_close()


def test_the_server_has_its_time_from_the_connect_on_and_no_more_however_often_it_asks() -> None:
    pair = Pair(durable=True, connack_timeout_s=3.0)
    pair.start(AuthenticationMethod="M")
    assert pair.session.dial(0.0)
    assert pair.session.opened(0.0)
    turn = pair.session.take(0.0)
    assert turn is not None
    pair.session.release(turn, 1.0)  # the disk took its time
    assert pair.session.deadline() == 4.0
    pair.now = 3.0
    pair.feed(auth(0x18, b"1"))
    (step,) = pair.session.auth_steps
    pair.session.authenticated(step, b"2", None, pair.now)
    pair.pump()
    assert pair.kinds() == ["CONNECT", "AUTH"]
    assert pair.session.deadline() == 4.0


@pytest.mark.spec("MQTT-3.14.0-1", "MQTT-4.11")
def test_a_disconnect_in_place_of_the_connack_is_a_refusal() -> None:
    pair = Pair()
    pair.start()
    pair.open()
    pair.feed(disconnect_packet(0x9D, ServerReference="other"))
    failure = pair.session.failure
    assert isinstance(failure, ConnectRefusedError)
    assert "other" in str(failure)
    assert pair.kinds() == ["CONNECT", "EOF"]
    pair = Pair()
    pair.start()
    pair.open()
    pair.feed(disconnect_packet(0x89))
    assert pair.session.phase == WAITING


# ---- what CONNACK says -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.1.3-6", "MQTT-3.1.3-7", "MQTT-3.2.2-16", "MQTT-3.2.2.3.7")
def test_an_assigned_client_id_is_kept_for_the_next_connection() -> None:
    pair = Pair()
    pair.start("")
    assert pair.open().raw[-2:] == b"\0\0"
    pair.accept(AssignedClientIdentifier="srv-1")
    assert pair.session.client_id == "srv-1"
    pair.lose()
    assert pair.open().client_id == "srv-1"
    pair.accept(session_present=True, AssignedClientIdentifier="ignored")
    assert pair.session.client_id == "srv-1"


def test_an_empty_id_without_an_assigned_one_goes_on_without() -> None:
    pair = Pair()
    pair.start("")
    pair.open()
    pair.accept()
    assert pair.session.client_id == ""
    pair.lose()
    assert pair.open().client_id == ""
    pair.accept()
    assert pair.session.connected_link() is not None


def test_the_database_belongs_to_the_assigned_id() -> None:
    pair = Pair(durable=True)
    pair.start("")
    pair.open()
    pair.accept(AssignedClientIdentifier="srv-1")
    assert (IDENTITY, "srv-1") in pair.journal()
    pair.disconnect()
    with pytest.raises(StoreOwnerError, match="srv-1"):
        pair.start("other")
    pair.start("")
    assert pair.open().client_id == "srv-1"


@pytest.mark.spec("MQTT-3.1.2-21", "MQTT-3.2.2-21")
@pytest.mark.parametrize(("server", "seconds"), [(1, 1), (100, 100), (None, 60)])
def test_the_servers_keep_alive_rules(server: int | None, seconds: int) -> None:
    pair = Pair()
    pair.start(keep_alive=60)
    pair.open()
    pair.accept(ServerKeepAlive=server)
    pair.log.clear()
    deadline = pair.session.deadline()
    assert deadline is not None
    assert seconds * 0.8 < deadline <= seconds
    pair.at(deadline)
    assert pair.kinds() == ["PINGREQ"]


@pytest.mark.spec("MQTT-3.2.2-21")
def test_a_keep_alive_of_0_sends_no_ping() -> None:
    pair = Pair()
    pair.start(keep_alive=60)
    pair.open()
    pair.accept(ServerKeepAlive=0)
    pair.log.clear()
    assert pair.session.deadline() is None
    pair.at(1e6)
    assert pair.log == []


@pytest.mark.spec("MQTT-3.2.2-11", "MQTT-3.2.2-14", "MQTT-3.2.2-15", "MQTT-3.2.2-18")
def test_the_servers_limits_are_obeyed_at_the_call_and_for_what_was_queued() -> None:
    pair = Pair()
    queued = pair.publish(qos=2)
    large = pair.publish(payload=bytes(100))
    pair.start()
    pair.open()
    assert pair.accept(MaximumQoS=1, RetainAvailable=0, MaximumPacketSize=50) == []
    assert isinstance(queued.outcome, ServerLimitError)
    assert isinstance(large.outcome, PacketTooLargeError)
    with pytest.raises(ServerLimitError, match="Maximum QoS"):
        pair.publish(qos=2)
    with pytest.raises(PacketTooLargeError, match="50"):
        pair.publish(payload=bytes(100))
    with pytest.raises(ServerLimitError):
        pair.publish(qos=0, options=Options(AliasPolicy.ALWAYS, None))


@pytest.mark.spec("MQTT-3.2.2-15")
@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_a_server_that_takes_no_acknowledgement_is_left_for_good(size: int) -> None:
    pair = Pair()
    pair.start()
    pair.open()
    goodbye = pair.accept(MaximumPacketSize=size)
    assert [packet.kind for packet in goodbye] == (["DISCONNECT"] if size in (3, 4) else [])
    assert pair.session.phase == (LINKED if size == 5 else STOPPED)
    assert size == 5 or f"is {size} bytes, and an acknowledgement takes up to 5" in str(pair.session.failure)


@pytest.mark.spec("MQTT-3.2.2.3.2")
def test_the_expiry_of_connack_replaces_ours() -> None:
    pair = Pair()
    pair.start(SessionExpiryInterval=100)
    pair.open()
    pair.accept(SessionExpiryInterval=0)
    with pytest.raises(ArgumentError, match="SessionExpiryInterval"):
        pair.disconnect(0, MQTTDisconnectProps(SessionExpiryInterval=10))


@pytest.mark.spec("MQTT-3.2.2.3.2")
def test_a_session_that_the_server_keeps_for_no_time_is_over_when_we_say_goodbye_between_links() -> None:
    pair = Pair(durable=True)
    pair.start(SessionExpiryInterval=100)
    pair.open()
    pair.accept(SessionExpiryInterval=0)
    pair.lose()
    pair.disconnect()
    assert not pair.session.identity.ours


# ---- sessions ----------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.2.2-4")
def test_a_foreign_session_stops_with_an_error_that_names_the_ways_out() -> None:
    pair = Pair()
    pair.start()
    pair.open()
    (goodbye,) = pair.accept(session_present=True)
    assert (goodbye.kind, goodbye.reason_code) == ("DISCONNECT", 0x82)
    failure = pair.session.failure
    assert isinstance(failure, ForeignSessionError)
    for way_out in ("db_path", "clean_start=True", "adopt_session=True"):
        assert way_out in str(failure)
    assert pair.session.phase == STOPPED
    assert pair.connected() == []
    # Trying the same again is refused again: the first attempt has not made the session ours.
    pair.start()
    pair.open()
    pair.accept(session_present=True)
    assert isinstance(pair.session.failure, ForeignSessionError)
    # A clean start is a way out, and the session is ours from then on.
    pair.start(clean_start=True)
    assert pair.open().clean_start
    pair.accept()
    pair.lose()
    pair.reconnect(session_present=True)
    assert pair.session.connected_link() is not None


@pytest.mark.spec("MQTT-3.2.2-15", "MQTT-3.14.2-3")
def test_a_goodbye_to_a_foreign_session_fits_what_its_connack_allows() -> None:
    pair = Pair()
    pair.start()
    pair.open()
    (goodbye,) = pair.accept(session_present=True, MaximumPacketSize=10)
    assert (goodbye.kind, goodbye.reason_code) == ("DISCONNECT", 0x82)
    assert goodbye.properties == {}


def test_a_foreign_session_can_be_adopted() -> None:
    pair = Pair(adopt_session=True)
    pair.start()
    pair.open()
    pair.subscribe("a")
    assert [packet.kind for packet in pair.accept(session_present=True)] == ["SUBSCRIBE"]
    assert pair.connected()[0].connack.session_present


@pytest.mark.spec("MQTT-3.2.2-4", "MQTT-3.2.2-2")
def test_session_present_after_a_clean_start_is_a_protocol_error() -> None:
    pair = Pair(adopt_session=True)
    pair.start(clean_start=True)
    pair.open()
    (goodbye,) = pair.accept(session_present=True)
    assert goodbye.reason_code == 0x82


def test_a_session_that_we_ended_does_not_come_back_if_connect_overtakes_the_disconnect() -> None:
    pair = Pair().connect()
    pair.disconnect()
    pair.start()
    assert pair.open().clean_start
    pair.accept()
    pair.lose()
    assert not pair.open().clean_start
    pair.accept(session_present=True)
    pair.disconnect()
    pair.start("another")
    assert not pair.open().clean_start


def test_only_the_first_connection_behind_a_session_that_we_ended_is_a_clean_start() -> None:
    pair = Pair().connect()
    pair.disconnect()
    pair.start()
    assert pair.open().clean_start
    pair.accept()
    pair.feed(disconnect_packet(0x98))
    assert pair.session.phase == STOPPED
    pair.start()
    assert not pair.open().clean_start


def test_a_session_without_a_name_cannot_come_back_and_needs_no_clean_start() -> None:
    pair = Pair()
    pair.start("")
    pair.open()
    pair.accept()
    pair.disconnect()
    pair.start("")
    assert not pair.open().clean_start


def test_clean_start_holds_until_the_first_successful_connack() -> None:
    pair = Pair()
    pair.start(clean_start=True)
    assert pair.open().clean_start
    pair.lose()
    assert pair.open().clean_start
    pair.feed(connack(0x88))
    assert pair.open().clean_start
    pair.accept()
    pair.lose()
    assert not pair.open().clean_start


def test_a_lost_connack_may_have_made_a_session_of_ours() -> None:
    pair = Pair()
    pair.start()
    pair.open()
    pair.lose()
    pair.reconnect(session_present=True)
    assert pair.session.connected_link() is not None


def test_a_refused_connect_has_not_made_a_session_of_ours() -> None:
    pair = Pair()
    pair.start()
    pair.open()
    pair.feed(connack(0x88))
    pair.open()
    pair.accept(session_present=True)
    assert isinstance(pair.session.failure, ForeignSessionError)


def test_a_refusal_does_not_take_an_older_session_from_us() -> None:
    pair = Pair().connect()
    pair.lose()
    pair.open()
    pair.feed(connack(0x88))
    pair.reconnect(session_present=True)
    assert pair.session.connected_link() is not None


@pytest.mark.spec("MQTT-3.2.2-5", "MQTT-3.1.2-23", "MQTT-4.4.0-1", "MQTT-3.3.1-1", "MQTT-4.1")
def test_session_present_resumes_and_session_lost_forgets() -> None:
    pair = Pair().connect()
    first = pair.publish(qos=1)
    pair.lose()
    (again,) = pair.reconnect(session_present=True)
    assert again.dup
    assert again.packet_id == first.packet_id
    pair.lose()
    waiting = pair.publish(qos=1, payload=b"never sent")
    (fresh,) = pair.reconnect(session_present=False)
    assert isinstance(first.outcome, SessionLostError)
    assert not fresh.dup
    assert fresh.payload == b"never sent"
    assert waiting.outcome is None


@pytest.mark.spec("MQTT-3.3.2-7")
def test_topic_aliases_begin_anew_with_each_connection() -> None:
    pair = Pair()
    aliased = Options(AliasPolicy.TRY, None)
    pair.start()
    pair.open()
    pair.accept(TopicAliasMaximum=1)
    for _ in range(2):
        pair.publish(qos=0, options=aliased)
    assert [packet.topic for packet in pair.sent()[-2:]] == ["t", ""]
    pair.lose()
    pair.reconnect(TopicAliasMaximum=1)
    pair.publish(qos=0, options=aliased)
    assert pair.sent()[-1].topic == "t"


@pytest.mark.spec("MQTT-3.1.2-4", "MQTT-3.2.2-5")
def test_clean_start_over_a_store_drops_what_was_open() -> None:
    pair = Pair(durable=True)
    pair.session.recover(stored(in_flight=2, received=(7,)), outgoing)
    pair.start(clean_start=True)
    pair.open()
    assert pair.accept() == []
    journal = pair.journal()
    assert {entry[:2] for entry in journal if entry[0] in (DELETE, FORGET)} == {(DELETE, 1), (DELETE, 2), (FORGET, 7)}
    assert pair.feed(publish("new", b"", 2, 7)) == []
    assert [message.topic for message in pair.messages()] == ["new"]
    assert pair.session.outbound.allocate() == 1


@pytest.mark.spec("MQTT-2.2.1-3", "MQTT-4.3.2-1", "MQTT-4.3.3-1", "MQTT-2.2.1")
def test_after_a_restart_new_identifiers_keep_clear_of_those_on_disk() -> None:
    pair = Pair(durable=True)
    pair.session.recover(stored(in_flight=3), outgoing)
    pair.start()
    pair.open()
    assert [packet.packet_id for packet in pair.accept(session_present=True)] == [1, 2, 3]
    pair.session.outbound.last_packet_id = 65_534
    pair.publish(qos=1)
    pair.subscribe("a")
    pair.publish(qos=2)
    pair.unsubscribe("a")
    assert sorted(packet.packet_id for packet in pair.sent()[4:]) == [4, 5, 6, 65_535]


@pytest.mark.parametrize(("random", "first"), [(0.0, 1), (0.5, 32_768), (1 - 2**-53, 65_535)])
def test_identifiers_begin_where_chance_says(random: float, first: int) -> None:
    pair = Pair()
    pair.session = Session(SessionSettings(), random=random)
    pair.connect()
    assert [pair.publish(qos=1).packet_id for _ in range(2)] == [first, first % 65_535 + 1]


def test_the_end_of_a_session_is_on_disk_before_anything_of_the_new_one_leaves() -> None:
    pair = Pair(durable=True)
    pair.session.recover(stored(in_flight=1), outgoing)
    pair.start()
    pair.open()
    pair.log.clear()
    pair.publish(payload=b"new")
    pair.log.clear()
    pair.accept()
    order = pair.order()
    assert order.index(f"journal {DELETE}") < order.index("PUBLISH")
    assert order.index(f"journal {DELETE}") < order.index("Connected")


@pytest.mark.spec("MQTT-3.1.3-2")
def test_a_database_resumes_its_session_with_its_id() -> None:
    pair = Pair(durable=True)
    pair.session.recover(stored(in_flight=1, received=(7,)), outgoing)
    assert pair.session.client_id == "me"
    pair.start("")
    assert pair.open().client_id == "me"
    (again,) = pair.accept(session_present=True)
    assert again.dup
    assert [p.kind for p in pair.feed(publish("q", b"", 2, 7, dup=True))] == ["PUBREC"]
    assert pair.messages() == []


@pytest.mark.spec("MQTT-3.1.3-2")
def test_another_id_inherits_nothing() -> None:
    pair = Pair().connect("one")
    message = pair.publish(qos=1)
    pair.subscribe("a")
    pair.feed(b"\x90\x04\x00\x02\x00\x00")
    pair.feed(publish("a", b"", 2, 7))
    pair.answer(pair.messages()[0])
    pair.feed(disconnect_packet(0x98))
    assert pair.session.phase == STOPPED
    pair.start("two")
    assert isinstance(message.outcome, SessionLostError)
    pair.open()
    pair.log.clear()
    assert [packet.kind for packet in pair.accept()] == ["SUBSCRIBE"]
    assert pair.feed(publish("a", b"", 2, 7)) == []
    assert len(pair.messages()) == 1
    pair.feed(disconnect_packet(0x98))
    pair.start("three")
    pair.open()
    pair.accept(session_present=True)
    assert isinstance(pair.session.failure, ForeignSessionError)


def test_an_id_that_was_never_answered_is_another_one_too() -> None:
    pair = Pair(durable=True)
    pair.session.recover(stored(None, "1 ours"), outgoing)
    pair.start("me")
    pair.open()
    pair.accept(session_present=True)
    assert isinstance(pair.session.failure, ForeignSessionError)
    assert "db_path" not in str(pair.session.failure)  # there is one


def test_a_database_of_another_client_is_refused_and_not_changed() -> None:
    pair = Pair(durable=True)
    pair.session.recover(stored("me"), outgoing)
    with pytest.raises(StoreOwnerError, match="'me'"):
        pair.start("you")
    pair.pump()
    assert pair.journal() == []
    assert pair.session.phase == IDLE


def test_a_fresh_database_is_claimed_and_the_session_ours_before_connect_leaves() -> None:
    pair = Pair(durable=True)
    pair.start()
    pair.open()
    assert pair.order() == [f"journal {IDENTITY}", f"journal {SESSION}", "CONNECT"]
    assert (SESSION, "1 ours") in pair.journal()


def test_a_database_without_session_expiry_is_warned_of() -> None:
    pair = Pair(durable=True)
    pair.start(SessionExpiryInterval=0)
    assert any("can't keep its promise" in report.text for report in pair.reports())
    pair = Pair()
    pair.start(SessionExpiryInterval=0)
    assert pair.reports() == []


@pytest.mark.spec("MQTT-4.1.0-1", "MQTT-4.4.0-1")
def test_on_a_connection_that_lives_long_open_exchanges_are_kept_and_nothing_is_sent_again() -> None:
    pair = Pair(durable=True).connect()
    ours = [pair.publish(qos=qos) for qos in (1, 2, 2)]
    pair.feed(ack(0x50, ours[2].packet_id), publish("a", b"", 2, 7))
    pair.answer(pair.messages()[0])
    pair.log.clear()
    while pair.now < 100_000.0:
        deadline = pair.session.deadline()
        assert deadline is not None
        pair.at(deadline)
        pair.feed(b"\xd0\x00")
    assert set(pair.kinds()) == {"PINGREQ"}
    sent = pair.feed(
        ack(0x40, ours[0].packet_id), ack(0x50, ours[1].packet_id), ack(0x70, ours[1].packet_id), ack(0x70, ours[2].packet_id), ack(0x62, 7)
    )
    assert [packet.kind for packet in sent] == ["PUBREL", "PUBCOMP"]
    assert all(message.outcome == (4 if message.qos == 1 else 7) for message in ours)


@pytest.mark.spec("MQTT-3.1.2-6", "MQTT-3.1.2-23", "MQTT-3.1.2.11.2")
def test_with_an_expiry_of_0_a_new_connection_begins_anew() -> None:
    pair = Pair().connect(SessionExpiryInterval=0)
    message = pair.publish(qos=1)
    pair.lose()
    pair.open()
    assert pair.accept(session_present=False) == []
    assert isinstance(message.outcome, SessionLostError)


@pytest.mark.spec("MQTT-3.1.2-28")
def test_response_information_is_asked_for_and_shown() -> None:
    pair = Pair()
    pair.start(RequestResponseInformation=1)
    assert pair.open().properties["RequestResponseInformation"]
    pair.accept(ResponseInformation="base/topic")
    assert pair.connected()[0].connack.properties.ResponseInformation == "base/topic"


@pytest.mark.spec("MQTT-3.1.4-6")
def test_nothing_counts_as_sent_before_the_server_has_accepted() -> None:
    pair = Pair()
    messages = [pair.publish(qos=qos) for qos in (0, 1)]
    pair.start()
    pair.open()
    pair.feed(connack(0x88))
    assert [message.outcome for message in messages] == [None, None]
    pair.open()
    assert [(packet.kind, packet.dup) for packet in pair.accept()] == [("PUBLISH", False), ("PUBLISH", False)]


@pytest.mark.spec("MQTT-3.6.2-2", "MQTT-3.6.2-3", "MQTT-3.7.2-2", "MQTT-3.7.2-3", "MQTT-3.6.2-1")
def test_pubrel_and_pubcomp_never_carry_what_might_not_fit() -> None:
    pair = Pair()
    pair.start()
    pair.open()
    pair.accept(MaximumPacketSize=20)
    message = pair.publish(qos=2)
    sent = pair.feed(ack(0x50, message.packet_id), ack(0x50, 99), ack(0x62, 88))
    assert [(packet.kind, packet.reason_code, packet.properties) for packet in sent] == [
        ("PUBREL", 0, {}),
        ("PUBREL", 0x92, {}),
        ("PUBCOMP", 0x92, {}),
    ]


@pytest.mark.spec("MQTT-2.2.1-5", "MQTT-4.3.3-4", "MQTT-4.3.3-5")
@pytest.mark.parametrize("code", [None, 0x00, 0x10])
@pytest.mark.parametrize("packet_id", [1, 255, 256, 65_535])
def test_a_pubrel_repeats_the_identifier_of_its_publish_whatever_kind_of_success_the_pubrec_tells(packet_id: int, code: int | None) -> None:
    pair = Pair().connect()
    pair.session.outbound.last_packet_id = packet_id - 1
    message = pair.publish(qos=2)
    assert pair.sent()[-1].packet_id == packet_id
    (pubrel,) = pair.feed(ack(0x50, packet_id, code))
    assert pubrel.raw == b"\x62\x02" + packet_id.to_bytes(2, "big")
    outcomes = [message.outcome]
    assert pair.feed(ack(0x70, packet_id)) == []
    outcomes.append(message.outcome)
    assert outcomes == [None, 7]  # the short form of a PUBCOMP


@pytest.mark.spec("MQTT-3.3.4-8", "MQTT-4.9.0-3")
def test_without_quota_everything_but_publish_flows() -> None:
    pair = Pair()
    pair.start(keep_alive=10)
    pair.open()
    pair.accept(ReceiveMaximum=2)
    released, unanswered = pair.publish(qos=2), pair.publish(qos=1)
    waiting = [pair.publish(qos=qos, payload=b"waits") for qos in (1, 2)]
    pair.feed(publish("a", b"", 1, 1), publish("a", b"", 2, 2))
    received = pair.messages()
    pair.log.clear()
    pair.subscribe("a")
    pair.unsubscribe("b")
    (pubrel,) = pair.feed(ack(0x50, released.packet_id))
    assert pubrel.kind == "PUBREL"
    for message in received:
        pair.answer(message)
    pair.feed(ack(0x62, 2))
    pair.at(pair.now + 9.9)
    assert sorted(pair.kinds()) == ["PINGREQ", "PUBACK", "PUBCOMP", "PUBREC", "PUBREL", "SUBSCRIBE", "UNSUBSCRIBE"]
    assert [message.outcome for message in (released, unanswered, *waiting)] == [None] * 4
    pair.disconnect(4)
    assert pair.kinds()[-2:] == ["DISCONNECT", "EOF"]


# ---- DISCONNECT from us ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.14.4-1", "MQTT-3.14.4-2", "MQTT-3.14.4-3")
def test_nothing_follows_our_disconnect_and_the_connection_is_closed() -> None:
    pair = Pair().connect()
    pair.feed(publish("a", b"", 1, 1))
    (message,) = pair.messages()
    pair.peer_takes_nothing = True
    pair.publish(qos=1, payload=b"before")
    pair.session.disconnect(pair.now)
    pair.publish(qos=1, payload=b"behind")
    pair.publish(qos=0, payload=b"behind")
    pair.subscribe("late")
    pair.answer(message)
    pair.session.tick(1.0)
    pair.session.receive(publish("ignored"), 1.0)
    pair.peer_takes_nothing = False
    pair.pump()
    assert pair.kinds() == ["PUBLISH", "DISCONNECT", "EOF"]
    assert pair.sent()[1].reason_code == 0
    assert pair.session.phase == IDLE
    assert pair.ending() == Disconnected(None, None, True, None)


def test_a_servers_goodbye_behind_ours_is_not_heard() -> None:
    pair = Pair().connect()
    pair.peer_takes_nothing = True
    pair.disconnect()
    pair.feed(disconnect_packet(0x8B))
    pair.peer_takes_nothing = False
    pair.pump()
    assert pair.kinds() == ["DISCONNECT", "EOF"]
    assert pair.session.disconnect_packet is None
    assert pair.ending() == Disconnected(None, None, True, None)


def test_a_goodbye_that_does_not_leave_is_bounded() -> None:
    pair = Pair(close_timeout_s=2.0).connect()
    pair.peer_takes_nothing = True
    pair.disconnect()
    assert pair.session.link is not None
    assert pair.session.deadline() == 2.0
    pair.at(1.9)
    assert pair.session.link is not None
    pair.at(2.0)
    assert pair.kinds() == ["EOF"]
    assert pair.session.phase == IDLE


def test_goodbye_is_said_once() -> None:
    pair = Pair().connect()
    pair.peer_takes_nothing = True
    pair.disconnect()
    pair.disconnect()
    pair.peer_takes_nothing = False
    pair.pump()
    assert pair.kinds() == ["DISCONNECT", "EOF"]


def test_a_goodbye_waits_for_a_turn_that_is_being_committed() -> None:
    pair = Pair(durable=True).connect()
    pair.publish()
    pair.session.disconnect(pair.now)
    assert not pair.session.must_close()
    turn = pair.session.take(pair.now)
    assert turn is not None
    assert not pair.session.must_close()
    pair.session.release(turn, pair.now)
    assert not pair.session.must_close()
    pair.pump()
    assert pair.kinds()[-2:] == ["DISCONNECT", "EOF"]


def test_a_goodbye_waits_for_every_turn() -> None:
    pair = Pair(durable=True).connect()
    link = pair.session.link
    assert link is not None
    pair.publish()
    pair.session.publish(Outgoing(b"\0\x01t", b"", 1, 0x32))
    first = pair.session.take(pair.now)
    pair.session.disconnect(pair.now)
    second = pair.session.take(pair.now)
    assert first is not None
    assert second is not None
    pair.session.release(first, pair.now)
    link.sent(len(link.next_chunk(pair.now)), pair.now)
    assert not pair.session.must_close()
    pair.session.release(second, pair.now)
    link.sent(len(link.next_chunk(pair.now)), pair.now)
    assert pair.session.must_close()


def test_without_a_database_and_a_named_expiry_nothing_stays_behind() -> None:
    pair = Pair().connect()
    open_one = pair.publish(qos=1)
    pair.disconnect()
    assert pair.sent()[-1].properties == {"SessionExpiryInterval": 0}
    assert isinstance(open_one.outcome, ClientClosedError)
    assert not open_one.outcome.stored
    assert not pair.session.identity.ours


@pytest.mark.spec("MQTT-3.1.2.11.2")
@pytest.mark.parametrize("expiry_s", [1_000, 4_294_967_295])
@pytest.mark.parametrize("durable", [False, True])
def test_a_named_expiry_is_left_as_it_is(durable: bool, expiry_s: int) -> None:
    pair = Pair(durable=durable)
    pair.start(SessionExpiryInterval=expiry_s)
    assert pair.open().properties["SessionExpiryInterval"] == expiry_s
    pair.accept()
    pair.disconnect()
    assert pair.sent()[-1].properties == {}
    assert pair.session.identity.ours
    pair.start()
    pair.open()
    pair.accept(session_present=True)
    assert pair.session.connected_link() is not None


def test_an_expiry_that_the_goodbye_names_is_left_as_it_is() -> None:
    pair = Pair().connect()
    pair.disconnect(0, MQTTDisconnectProps(SessionExpiryInterval=100))
    assert pair.sent()[-1].properties == {"SessionExpiryInterval": 100}
    assert pair.session.identity.ours


def test_a_session_that_ends_with_its_connection_needs_no_word_about_it() -> None:
    pair = Pair()
    pair.start()
    pair.open()
    pair.accept(SessionExpiryInterval=0)
    pair.disconnect()
    assert pair.sent()[-1].properties == {}
    assert not pair.session.identity.ours


def test_a_goodbye_without_a_session_ends_none() -> None:
    pair = Pair()
    pair.disconnect(0, MQTTDisconnectProps(SessionExpiryInterval=100))  # there is no connection whose interval could be 0
    pair.start()
    pair.disconnect()
    pair.start()
    assert not pair.open().clean_start


def test_with_a_database_the_session_stays() -> None:
    pair = Pair(durable=True).connect()
    message = pair.publish(qos=1)
    pair.disconnect()
    assert pair.sent()[-1].properties == {}
    assert isinstance(message.outcome, ClientClosedError)
    assert message.outcome.stored
    assert not any(entry[0] == DELETE for entry in pair.journal())


def test_a_session_that_is_ended_by_name_takes_what_was_open_with_it() -> None:
    pair = Pair(durable=True).connect()
    message = pair.publish(qos=1)
    pair.feed(publish("a", b"", 2, 9))
    pair.answer(pair.messages()[0])
    pair.log.clear()
    pair.disconnect(0, MQTTDisconnectProps(SessionExpiryInterval=0))
    assert isinstance(message.outcome, ClientClosedError)
    assert not message.outcome.stored
    journal = pair.journal()
    assert (DELETE, message.sequence) in journal
    assert (FORGET, 9) in journal
    assert (SESSION, "1 none ended") in journal


@pytest.mark.spec("MQTT-3.14.2-1", "MQTT-3.14.4-3")
@pytest.mark.parametrize("code", [0x04, 0x80, 0x83, 0x99])
def test_the_reason_code_that_is_asked_for_is_sent_and_the_session_stays(code: int) -> None:
    pair = Pair().connect()
    pair.disconnect(code, MQTTDisconnectProps(ReasonString="why"))
    goodbye = pair.sent()[-1]
    assert goodbye.reason_code == code
    assert goodbye.properties == {"ReasonString": "why"}
    assert pair.session.identity.ours


@pytest.mark.spec("MQTT-3.14.2-1", "MQTT-3.14.2-2", "MQTT-3.14.2.2.2")
def test_what_a_client_cannot_say_is_refused_at_the_call() -> None:
    pair = Pair().connect(SessionExpiryInterval=0)
    for code in (0x87, 0x8E, 0x01, 0x9C):
        with pytest.raises(ArgumentError, match="reason_code"):
            pair.disconnect(code)
    with pytest.raises(ArgumentError, match="must be 0"):
        pair.disconnect(0, MQTTDisconnectProps(SessionExpiryInterval=1))
    with pytest.raises(ArgumentError, match="ServerReference"):
        pair.disconnect(0, MQTTDisconnectProps(ServerReference="x"))
    assert pair.session.connected_link() is not None
    pair.disconnect(0, MQTTDisconnectProps(SessionExpiryInterval=0))
    assert pair.kinds() == ["DISCONNECT", "EOF"]


@pytest.mark.spec("MQTT-3.14.2-3", "MQTT-3.14.2-4", "MQTT-3.2.2-15")
@pytest.mark.parametrize(
    ("limit", "names"),
    [
        (100, {"ReasonString", "UserProperty", "SessionExpiryInterval"}),
        (30, {"ReasonString", "SessionExpiryInterval"}),
        (9, {"SessionExpiryInterval"}),
        (8, set()),
    ],
)
def test_a_goodbye_fits_the_servers_packet_size(limit: int, names: set[str]) -> None:
    pair = Pair()
    pair.start()
    pair.open()
    pair.accept(MaximumPacketSize=limit)
    pair.disconnect(0, MQTTDisconnectProps(ReasonString="reason" * 2, UserProperty=[("name", "value" * 4)]))
    goodbye = pair.sent()[-1]
    assert len(goodbye.raw) <= limit
    assert set(goodbye.properties) == names


def test_disconnect_gives_up_an_attempt() -> None:
    pair = Pair()
    pair.start()
    pair.open()
    pair.disconnect()
    assert pair.kinds() == ["CONNECT", "DISCONNECT", "EOF"]
    assert pair.ending() == Disconnected(None, None, False, None)
    pair = Pair()
    pair.start()
    waiting = pair.publish()
    pair.disconnect()
    assert pair.session.phase == IDLE
    assert isinstance(waiting.outcome, ClientClosedError)


def test_disconnect_while_the_link_is_failing_lets_it_end() -> None:
    pair = Pair().connect()
    pair.peer_takes_nothing = True
    pair.feed(BAD)
    assert pair.session.link is not None
    pair.disconnect()
    pair.peer_takes_nothing = False
    pair.pump()
    assert pair.kinds() == ["DISCONNECT", "EOF"]
    assert pair.session.phase == IDLE


def test_a_goodbye_without_a_connection_leaves_the_database_alone() -> None:
    pair = Pair(durable=True)
    pair.session.recover(stored(in_flight=2, received=(7,)), outgoing)
    pair.disconnect()
    pair.disconnect()
    assert pair.journal() == []
    assert pair.session.identity.ours
    pair.start()
    pair.open()
    assert len(pair.accept(session_present=True)) == 2


def test_abandoned_at_once_the_network_connection_is_closed_and_every_handle_settled() -> None:
    pair = Pair().connect()
    messages = [pair.publish(qos=qos) for qos in (1, 2)]
    request = pair.subscribe("a")
    pair.session.abandon(pair.now)
    pair.pump()
    assert "DISCONNECT" not in pair.kinds()
    assert all(isinstance(message.outcome, ClientClosedError) for message in messages)
    assert isinstance(request.outcome, ClientClosedError)
    assert pair.ending() == Disconnected(None, None, True, None)
    assert pair.session.phase == IDLE
    assert pair.session.link is None
    pair.session.abandon(pair.now)
    pair.start()
    pair.session.abandon(pair.now)
    assert pair.session.phase == IDLE


@pytest.mark.parametrize(("expiry_s", "kept"), [(0, 0), (1, 1)])
def test_abandoned_a_session_that_the_server_keeps_is_kept(expiry_s: int, kept: int) -> None:
    pair = Pair().connect(SessionExpiryInterval=expiry_s)
    message = pair.publish()
    pair.session.abandon(pair.now)
    assert isinstance(message.outcome, ClientClosedError)
    assert len(pair.session.outbound.in_flight) == kept


def test_abandoned_with_a_database_the_rows_stay() -> None:
    pair = Pair(durable=True).connect()
    message = pair.publish()
    pair.log.clear()
    pair.session.abandon(pair.now)
    pair.pump()
    assert isinstance(message.outcome, ClientClosedError)
    assert message.outcome.stored
    assert pair.journal() == []


def test_abandoned_what_could_be_committed_later_is_committed_now() -> None:
    pair = Pair(durable=True).connect()
    message = pair.publish()
    pair.feed(ack(0x40, message.packet_id))
    assert (DELETE, message.sequence) not in pair.journal()
    pair.session.abandon(pair.now)
    pair.pump()
    assert (DELETE, message.sequence) in pair.journal()


def test_abandoned_a_disk_that_refused_is_asked_again_at_once() -> None:
    pair = Pair(durable=True).connect()
    pair.session.publish(Outgoing(b"\0\x01t", b"", 1, 0x32))
    turn = pair.session.take(pair.now)
    assert turn is not None
    pair.session.commit_failed(turn, StoreError("full"), pair.now)
    assert pair.session.retry_at == RETRY_S
    pair.session.abandon(pair.now)
    assert pair.session.retry_at is None


# ---- DISCONNECT from the server ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-4.13.2-1", "MQTT-3.1.4-3", "MQTT-3.14.4", "MQTT-4.11")
@pytest.mark.parametrize("code", [0x87, 0x8E, 0x98, 0x9C, 0x9D])
def test_a_servers_goodbye_that_cannot_heal_stops(code: int) -> None:
    pair = Pair().connect()
    pair.feed(disconnect_packet(code, ReasonString="because"))
    assert pair.kinds() == ["EOF"]
    assert pair.session.phase == STOPPED
    failure = pair.session.failure
    assert isinstance(failure, LinkLostError)
    assert failure.packet is not None
    assert failure.packet.reason_code == code
    assert pair.session.disconnect_packet is failure.packet
    assert pair.ending().packet is failure.packet
    assert pair.ending().was_connected


@pytest.mark.parametrize("code", [0x00, 0x81, 0x89, 0x8B, 0x8D, 0x97, 0x9F, 0xA0])
def test_a_servers_goodbye_that_can_heal_is_followed_by_a_reconnect(code: int) -> None:
    pair = Pair().connect()
    pair.feed(disconnect_packet(code))
    assert pair.session.phase == WAITING
    pair.reconnect()
    assert pair.session.connected_link() is not None


@pytest.mark.spec("MQTT-3.14.2.1", "MQTT-3.14.4")
def test_the_empty_disconnect_means_success() -> None:
    pair = Pair().connect()
    pair.feed(b"\xe0\x00")
    assert pair.session.disconnect_packet == MQTTDisconnectPacket(0)
    assert pair.kinds() == ["EOF"]


def test_what_follows_the_servers_goodbye_is_ignored() -> None:
    pair = Pair().connect()
    pair.feed(b"\xe0\x00" + publish("a"))
    assert pair.messages() == []


def test_a_server_that_says_again_and_again_that_it_chokes_is_spared_the_publication() -> None:
    pair = Pair().connect()
    message = pair.publish()
    for _ in range(10):
        pair.feed(disconnect_packet(0x99))
        pair.reconnect()
    assert isinstance(message.outcome, PoisonMessageError)


def test_an_error_that_we_find_is_no_sign_of_poison() -> None:
    pair = Pair().connect()
    message = pair.publish()
    for _ in range(10):
        pair.feed(BAD)
        assert [packet.kind for packet in pair.reconnect()] == ["PUBLISH"]
    assert message.outcome is None


# ---- protocol errors -----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.14.4-1", "MQTT-4.13.2-1", "MQTT-4.13.1")
def test_a_failed_link_sends_the_reason_and_nothing_else() -> None:
    pair = Pair().connect()
    pair.peer_takes_nothing = True
    lost = pair.publish(qos=0)
    kept = pair.publish(qos=1)
    pair.session.publish(in_basket := Outgoing(b"\0\x01t", b"", 0, 0x30))
    pair.session.receive(BAD, pair.now)
    late = pair.publish(qos=1)
    pair.peer_takes_nothing = False
    pair.pump()
    assert pair.kinds() == ["DISCONNECT", "EOF"]
    assert pair.sent()[0].reason_code == 0x81
    assert pair.sent()[0].properties["ReasonString"]
    assert isinstance(lost.outcome, LinkLostError)
    assert isinstance(in_basket.outcome, LinkLostError)
    assert kept.outcome is None
    again = pair.reconnect()
    assert [packet.dup for packet in again] == [False, False]  # neither has left before
    assert late.outcome is None


def test_writes_of_a_turn_that_was_being_committed_when_the_link_failed_do_not_leave() -> None:
    pair = Pair(durable=True).connect()
    pair.session.publish(Outgoing(b"\0\x01t", b"", 1, 0x32))
    pair.session.publish(zero := Outgoing(b"\0\x01t", b"", 0, 0x30))
    turn = pair.session.take(pair.now)
    assert turn is not None
    pair.session.receive(BAD, pair.now)
    pair.session.release(turn, pair.now)
    pair.pump()
    assert pair.kinds() == ["DISCONNECT", "EOF"]
    assert isinstance(zero.outcome, LinkLostError)


def test_writes_of_a_turn_of_a_dead_link_do_not_leave_on_the_next() -> None:
    pair = Pair(durable=True).connect()
    pair.session.publish(Outgoing(b"\0\x01t", b"", 1, 0x32))
    pair.session.publish(zero := Outgoing(b"\0\x01t", b"", 0, 0x30))
    turn = pair.session.take(pair.now)
    assert turn is not None
    pair.lose()
    pair.open()
    pair.log.clear()
    pair.session.release(turn, pair.now)
    pair.pump()
    assert pair.kinds() == []
    assert isinstance(zero.outcome, LinkLostError)
    assert [packet.kind for packet in pair.accept(session_present=True)] == ["PUBLISH"]


def test_writes_that_nobody_has_taken_when_the_link_ends_do_not_leave_on_the_next() -> None:
    pair = Pair().connect()
    pair.feed(publish("a", b"", 1, 1))
    pair.session.answer(pair.messages()[0])
    pair.session.publish(zero := Outgoing(b"\0\x01t", b"", 0, 0x30))
    pair.session.link_lost(None, pair.now, 0.0)
    assert isinstance(zero.outcome, LinkLostError)
    pair.log.clear()
    assert pair.session.dial(pair.now)
    assert pair.session.opened(pair.now)
    pair.pump()
    assert pair.kinds() == ["CONNECT"]


def test_a_reason_that_does_not_leave_is_waited_for_no_longer_than_a_goodbye() -> None:
    pair = Pair(close_timeout_s=2.0).connect()
    pair.peer_takes_nothing = True
    pair.feed(BAD)
    assert pair.session.deadline() == 2.0
    pair.at(1.9)
    assert pair.session.link is not None
    pair.at(2.0)
    assert pair.kinds() == ["EOF"]


def test_a_failed_link_needs_no_authentication() -> None:
    pair = Pair()
    pair.start(AuthenticationMethod="M")
    pair.open()
    pair.session.receive(auth(0x18, b"1") + BAD, pair.now)
    assert pair.session.auth_steps == []


def test_a_link_fails_only_once() -> None:
    pair = Pair().connect()
    pair.session.fail_link(MQTTError("internal"), pair.now, 0x83)
    pair.session.fail_link(MQTTError("again"), pair.now, 0x82)
    pair.pump()
    assert [packet.reason_code for packet in pair.sent()] == [0x83]
    pair.session.fail_link(MQTTError("without a link"), pair.now)
    assert str(pair.ending().error) == "internal"


def test_a_reason_with_what_a_string_cannot_hold_is_cleaned() -> None:
    pair = Pair().connect()
    pair.session.fail_link(MQTTError("a\0b\ud800" + "x" * 5_000), pair.now)
    pair.pump()
    reason = pair.sent()[0].properties["ReasonString"]
    assert reason.startswith("ab?x")
    assert len(reason) <= 1_000


def test_bytes_of_nobody_are_ignored() -> None:
    pair = Pair()
    pair.session.receive(BAD, 0.0)
    pair.session.link_lost(None, 0.0, 0.5)
    assert pair.events() == []


# ---- reconnecting ----------------------------------------------------------------------------------------------------------------------------------------


def test_backoff_doubles_up_to_its_bound_with_full_jitter() -> None:
    pair = Pair(reconnect_initial_s=1.0, reconnect_max_s=20.0)
    pair.start()
    waits = []
    for _ in range(8):
        assert pair.session.dial(pair.now)
        pair.session.dial_failed(ConnectError("no"), pair.now, 0.75)
        pair.pump()
        wait_s = pair.ending().retry_in_s
        assert wait_s is not None
        waits.append(wait_s)
        assert pair.session.phase == WAITING
        assert pair.session.deadline() == pair.now + wait_s
        assert not pair.session.dial(pair.now + wait_s * 0.99)
        pair.now += wait_s
    assert waits == [0.75, 1.5, 3.0, 6.0, 12.0, 15.0, 15.0, 15.0]
    assert pair.session.dial(pair.now)
    pair.session.dial_failed(ConnectError("no"), pair.now, 0.0)
    pair.pump()
    assert pair.ending().retry_in_s == 0.0


def test_an_attempt_that_lasts_long_is_no_stable_connection() -> None:
    pair = Pair(stable_s=10.0)
    pair.start()
    waits = []
    for _ in range(4):
        pair.open()
        pair.now += 20.0
        pair.lose()
        waits.append(pair.ending().retry_in_s)
    assert waits == [0.5, 1.0, 2.0, 4.0]


def test_connect_tries_at_once_whatever_the_backoff_was() -> None:
    pair = Pair(reconnect_initial_s=30.0)
    pair.start()
    assert pair.session.dial(0.0)
    pair.session.dial_failed(ConnectError("no"), 0.0, 0.5)
    assert pair.session.deadline() == 15.0
    pair.disconnect()
    pair.start()
    assert pair.session.dial(0.0)


def test_backoff_never_overflows() -> None:
    pair = Pair()
    pair.session.backoff.attempts = 100_000
    assert pair.session.backoff.wait_s(0.5) == 30.0


def test_a_server_that_accepts_and_closes_at_once_is_backed_off() -> None:
    pair = Pair(stable_s=10.0)
    pair.start()
    waits = []
    for i in range(5):
        pair.open()
        pair.accept(session_present=i > 0)
        pair.now += 1.0
        pair.lose()
        waits.append(pair.ending().retry_in_s)
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0]


def test_a_stable_period_begins_the_backoff_afresh() -> None:
    pair = Pair(stable_s=10.0)
    pair.start()
    for i, (lasts_s, wait_s) in enumerate([(0.0, 0.5), (9.9, 1.0), (10.5, 0.5), (0.0, 1.0)]):
        pair.open()
        pair.accept(session_present=i > 0)
        pair.now += lasts_s
        pair.lose()
        assert pair.ending().retry_in_s == wait_s


def test_connect_after_a_stop_begins_the_backoff_afresh() -> None:
    pair = Pair()
    pair.start()
    pair.open()
    pair.lose()
    pair.open()
    pair.feed(connack(0x87))
    assert pair.session.phase == STOPPED
    pair.start()
    assert pair.session.failure is None
    pair.open()
    pair.lose()
    assert pair.ending().retry_in_s == 0.5


def test_without_reconnect_the_first_failure_stops() -> None:
    pair = Pair(reconnect=False)
    pair.start()
    assert pair.session.dial(0.0)
    pair.session.dial_failed(error := ConnectError("no"), 0.0, 0.5)
    pair.pump()
    assert pair.session.failure is error
    assert pair.ending() == Disconnected(error, None, False, None)


@pytest.mark.parametrize(
    "error", [AuthenticationError("no"), ArgumentError("bad"), NotSupportedError("ws")], ids=lambda error: type(error).__name__
)
def test_an_attempt_that_will_never_work_stops(error: MQTTError) -> None:
    pair = Pair()
    pair.start()
    assert pair.session.dial(0.0)
    pair.session.dial_failed(error, 0.0, 0.5)
    assert pair.session.failure is error


def test_the_drivers_words_about_a_broken_connection_reach_the_user() -> None:
    pair = Pair().connect()
    pair.lose(error := LinkLostError("connection reset"))
    assert pair.ending().error is error


# ---- keep alive ------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.1.2-20", "MQTT-3.12.4-1")
def test_a_silent_server_is_given_up_and_the_client_reconnects() -> None:
    pair = Pair().connect()
    while pair.session.link is not None:
        deadline = pair.session.deadline()
        assert deadline is not None
        assert deadline <= 120.0
        pair.at(deadline)
    assert pair.kinds() == ["PINGREQ", "EOF"]
    assert isinstance(pair.ending().error, KeepAliveError)
    assert pair.now <= 2 * 60.0
    pair.reconnect()
    assert pair.session.connected_link() is not None


def test_any_byte_is_a_sign_of_life() -> None:
    pair = Pair().connect()
    for _ in range(20):
        deadline = pair.session.deadline()
        assert deadline is not None
        pair.at(deadline)
        pair.feed(b"\xd0")
        pair.feed(b"\x00")
    assert pair.session.connected_link() is not None
    assert set(pair.kinds()) == {"PINGREQ"}


def test_a_pingreq_that_waits_for_the_socket_stays_the_only_one_whatever_comes_in() -> None:
    pair = Pair().connect()
    pair.peer_takes_nothing = True
    pair.at(54.0)
    pair.feed(b"\xd0\x00")
    pair.at(110.0)
    pair.peer_takes_nothing = False
    pair.pump()
    assert pair.kinds() == ["PINGREQ"]


def test_unread_data_is_a_sign_of_life() -> None:
    pair = Pair().connect()
    for _ in range(20):
        deadline = pair.session.deadline()
        assert deadline is not None
        pair.now = deadline
        pair.session.tick(pair.now, unread=True)
        pair.pump()
    assert pair.session.connected_link() is not None


@pytest.mark.spec("MQTT-3.1.2-30")
def test_no_ping_before_connack() -> None:
    pair = Pair(connack_timeout_s=1_000.0)
    pair.start(keep_alive=1)
    pair.open()
    for now in range(1, 100):
        pair.at(float(now))
    assert pair.kinds() == ["CONNECT"]


# ---- the user's calls, and the driver's questions -----------------------------------------------------------------------------------------------------------


def test_hold_and_subscribe_bring_a_message_to_its_callback() -> None:
    pair = Pair().connect()
    pair.feed(publish("a", b"", 1, 1))
    (message,) = pair.messages()
    pair.session.hold(message, pair.now)
    pair.log.clear()
    pair.subscribe("a")
    assert pair.messages() == [message]


def test_a_held_message_is_given_up_in_time() -> None:
    pair = Pair(unmatched_s=5.0).connect()
    pair.feed(publish("a", b"", 1, 1))
    pair.session.hold(pair.messages()[0], pair.now)
    assert pair.session.deadline() == 5.0
    pair.at(5.0)
    assert pair.kinds() == ["PUBACK"]
    assert "matched no callback" in pair.reports()[0].text


def test_the_next_deadline_is_the_earliest_of_all() -> None:
    pair = Pair(connack_timeout_s=30.0)
    assert pair.session.deadline() is None
    pair.publish(options=Options(AliasPolicy.NEVER, 4.0), properties=MQTTPublishProps(MessageExpiryInterval=4))
    pair.publish(options=Options(AliasPolicy.NEVER, 9.0), properties=MQTTPublishProps(MessageExpiryInterval=9))
    assert pair.session.deadline() == 4.0
    pair.start()
    assert pair.session.deadline() == 0.0
    pair.open()
    assert pair.session.deadline() == 4.0
    pair.at(4.0)
    assert pair.session.deadline() == 9.0
    pair.at(9.0)
    assert pair.session.deadline() == 30.0


def test_reading_stops_only_while_callbacks_are_behind_and_nothing_is_awaited() -> None:
    pair = Pair(inbound_messages_max=2)
    assert not pair.session.reading()
    pair.start()
    pair.open()
    assert pair.session.reading()
    pair.accept()
    pair.session.delivered(1, 0)
    assert pair.session.reading()
    pair.feed(publish("a") * 2)
    assert not pair.session.reading()
    message = pair.publish(qos=1)
    assert pair.session.reading()
    pair.feed(ack(0x40, message.packet_id))
    assert not pair.session.reading()
    pair.subscribe("a")
    assert pair.session.reading()
    pair.feed(b"\x90\x04\x00\x02\x00\x00")
    assert not pair.session.reading()
    message = pair.publish(qos=2)
    pair.feed(ack(0x50, message.packet_id))
    assert pair.session.reading()
    pair.feed(ack(0x70, message.packet_id))
    assert not pair.session.reading()
    pair.lose()
    pair.open()
    assert pair.session.reading()  # for the CONNACK
    pair.accept(session_present=True)
    assert not pair.session.reading()
    pair.session.delivered(3, 10)
    assert pair.session.reading()
    pair.peer_takes_nothing = True
    pair.disconnect()
    assert pair.session.link is not None
    assert not pair.session.reading()


def test_a_server_that_takes_no_answer_is_not_read() -> None:
    pair = Pair().connect()
    link = pair.session.link
    assert link is not None
    link.outbox.extend([b"\x40\x02\0\x01"] * OUTBOX_WRITES_MAX)
    assert pair.session.reading()
    link.outbox.append(b"\x40\x02\0\x01")
    assert not pair.session.reading()


def test_idle_means_that_a_goodbye_loses_nothing() -> None:
    pair = Pair()
    idle = pair.session.idle
    assert idle()
    pair.start()
    pair.open()
    pair.accept()
    assert idle()
    message = pair.publish(qos=1)
    assert not idle()
    pair.feed(ack(0x40, message.packet_id))
    assert idle()
    pair.subscribe("a")
    assert not idle()
    pair.feed(b"\x90\x04\x00\x02\x00\x00")
    assert idle()
    pair.session.publish(Outgoing(b"\0\x01t", b"", 0, 0x30))
    assert not idle()
    pair.pump()
    pair.feed(publish("a", b"", 1, 1))
    assert not idle()
    assert idle(inbound=False)
    pair.answer(pair.messages()[0])
    assert idle()
    message = pair.publish(qos=2)
    pair.feed(ack(0x50, message.packet_id))
    assert not idle()
    pair.feed(ack(0x70, message.packet_id))
    assert idle()
    pair.feed(publish("a", b"", 2, 2))
    assert not idle()
    pair.answer(pair.messages()[1])
    assert idle()


def test_with_a_database_sent_is_enough_to_be_idle() -> None:
    pair = Pair(durable=True)
    pair.start()
    pair.open()
    pair.accept(ReceiveMaximum=1)
    first = pair.publish(qos=1)
    assert pair.session.idle()
    pair.publish(qos=1)
    assert not pair.session.idle()
    pair.feed(ack(0x40, first.packet_id))
    assert pair.session.idle()


def test_what_is_on_its_way_to_the_disk_or_the_socket_is_not_sent() -> None:
    pair = Pair(durable=True).connect()
    link = pair.session.link
    assert link is not None
    pair.session.publish(Outgoing(b"\0\x01t", b"", 1, 0x32))
    turn = pair.session.take(pair.now)
    assert turn is not None
    assert not pair.session.idle()
    pair.session.release(turn, pair.now)
    assert not pair.session.idle()
    link.sent(len(link.next_chunk(pair.now)), pair.now)
    assert pair.session.idle()


def test_what_waits_for_a_connection_or_on_disk_only_is_not_sent() -> None:
    pair = Pair()
    pair.subscribe("a")
    assert not pair.session.idle()
    pair = Pair(durable=True)
    pair.session.outbound.stored_rows = 1
    assert not pair.session.idle()


def test_what_a_broken_link_did_not_live_to_send_again_is_sent_already_as_far_as_a_goodbye_goes() -> None:
    pair = Pair(durable=True).connect()
    for _ in range(2):
        pair.publish(qos=1)
    pair.lose()
    assert len(pair.reconnect(ReceiveMaximum=1)) == 1
    assert not pair.session.idle()
    pair.lose()
    assert pair.session.idle()


def test_an_unsubscribe_is_asked_for_like_a_subscribe() -> None:
    pair = Pair().connect()
    pair.unsubscribe("a")
    assert pair.kinds() == ["UNSUBSCRIBE"]


def test_an_authentication_from_the_first_step_to_the_next_exchange() -> None:
    pair = Pair()
    pair.start(AuthenticationMethod="M")
    pair.open(b"1")
    pair.feed(connack(AuthenticationMethod="M", AuthenticationData=b"2"))
    (step,) = pair.session.auth_steps
    pair.session.auth_steps.clear()
    assert pair.session.connected_link() is None
    pair.now = 5.0
    pair.session.authenticated(step, None, None, pair.now)
    assert pair.session.link is not None
    assert pair.session.link.last_received == 0.0  # what the authenticator does is no sign of the server's life
    pair.session.reauthenticate(b"3", pair.now)
    pair.pump()
    assert pair.kinds() == ["CONNECT", "AUTH"]
    pair.feed(BAD)
    assert isinstance(pair.ending().error, ProtocolError)


def test_a_clock_that_ticks_on_a_closed_link_changes_nothing() -> None:
    pair = Pair().connect()
    pair.session.receive(b"\xe0\x00", pair.now)
    pair.session.tick(1_000.0)
    pair.pump()
    assert pair.kinds() == ["EOF"]
    assert "0x00" in str(pair.ending().error)


# ---- turns ------------------------------------------------------------------------------------------------------------------------------------------------


def test_journal_then_wire_then_user() -> None:
    pair = Pair(durable=True).connect()
    pair.publish(qos=1)
    assert pair.order() == [f"journal {INSERT}", "PUBLISH"]
    pair.feed(publish("a", b"", 2, 5))
    pair.log.clear()
    pair.session.receive(publish("b"), pair.now)
    pair.session.answer(next(message for message in pair.session.inbound.received.values() if message is not None))
    pair.pump()
    assert pair.order() == [f"journal {RECEIVE}", "PUBREC", "Message"]


def test_what_may_be_committed_later_is_committed_in_time() -> None:
    pair = Pair(durable=True).connect()
    message = pair.publish()
    pair.feed(ack(0x40, message.packet_id))
    assert (DELETE, message.sequence) not in pair.journal()
    deadline = pair.session.deadline()
    assert deadline is not None
    pair.at(deadline)
    assert (DELETE, message.sequence) in pair.journal()


@pytest.mark.parametrize("packet_id", [1, 5], ids=["the number of the refused one", "another"])
def test_a_refused_commit_takes_publications_back_and_keeps_what_came_from_the_peer(packet_id: int) -> None:
    pair = Pair(durable=True).connect()
    pair.feed(publish("a", b"", 2, packet_id))
    (message,) = pair.messages()
    pair.log.clear()
    pair.disk_is_broken = True
    pair.session.answer(message)
    pair.session.publish(refused := Outgoing(b"\0\x01t", b"", 1, 0x32))
    pair.pump()
    assert isinstance(refused.outcome, StoreError)
    assert refused.sequence == 1
    assert pair.kinds() == []  # neither the PUBREC nor the PUBLISH has left
    assert [report.level for report in pair.reports()] == [40]  # the user hears of it at once
    assert pair.session.retry_at == RETRY_S
    assert pair.session.deadline() == RETRY_S
    assert (pair.session.deadline(disk=False) or 0.0) > RETRY_S  # the keep alive is not the disk's
    pair.feed(publish("b"))
    assert pair.messages() == []  # no later turn overtakes it
    pair.pump()
    assert len(pair.reports()) == 1
    pair.disk_is_broken = False
    pair.now = RETRY_S
    pair.pump()
    assert pair.kinds() == ["PUBREC"]
    assert pair.journal() == [(RECEIVE, packet_id)]
    assert [one.topic for one in pair.messages()] == ["b"]
    assert pair.session.link is not None
    assert pair.session.link.send_quota == 65_535


def test_a_refused_commit_of_a_dead_links_turn_gives_no_quota_to_the_next_link() -> None:
    pair = Pair(durable=True).connect()
    pair.session.publish(refused := Outgoing(b"\0\x01t", b"", 1, 0x32))
    turn = pair.session.take(pair.now)
    assert turn is not None
    pair.lose()
    pair.open()
    pair.accept(session_present=True, ReceiveMaximum=1)
    assert pair.session.link is not None
    # It was sent again on the new link, in a turn that waits behind, and charged there; or not at all.
    assert len(pair.session.outbound.in_flight) + pair.session.link.send_quota == 1
    pair.session.commit_failed(turn, StoreError("full"), pair.now)
    assert pair.session.link.send_quota == 1
    assert pair.session.outbound.in_flight == {}
    assert isinstance(refused.outcome, StoreError)


def test_no_row_is_loaded_before_the_first_connect() -> None:
    """Who opens a database sets the handlers next, `on_undelivered` among them; what is wrong with a row is told after that."""
    session = Pair(durable=True).session
    session.outbound.stored_rows = 1
    assert session.wanted_rows(0.0) is None
    session.connect(MQTTConnectPacket("c"), 0.0)
    assert session.wanted_rows(0.0) is not None


def test_rows_that_cannot_be_loaded_are_reported_once() -> None:
    pair = Pair(durable=True)
    session = pair.session
    session.loading = True
    session.outbound.stored_rows = 1
    session.load_failed(StoreError("gone"), 0.0)
    session.load_failed(StoreError("gone"), 0.5)
    pair.pump()
    assert len(pair.reports()) == 1
    assert session.receiving.waiting_messages == 1
    assert session.retry_at is None  # commits go on
    assert session.deadline() == 0.5 + RETRY_S
    assert session.wanted_rows(0.4 + RETRY_S) is None
    assert session.wanted_rows(0.5 + RETRY_S) is not None
    session.load_failed(StoreError("gone"), 0.6 + RETRY_S)
    assert session.urgent == []  # this has been said
    session.loaded([], lambda row: Outgoing(b"", b"", 1, 0x32), 2.0)
    assert session.deadline() is None
    session.load_failed(StoreError("gone"), 3.0)
    assert len(session.urgent) == 1  # it had worked meanwhile
    session.outbound.stored_rows = 0
    assert session.wanted_rows(9.0) is None
    assert session.deadline() is None


def test_while_commits_are_refused_nothing_is_loaded() -> None:
    pair = Pair(durable=True)
    pair.session.load_failed(StoreError("gone"), 0.0)
    pair.session.publish(Outgoing(b"\0\x01t", b"", 1, 0x32))
    turn = pair.session.take(0.7)
    assert turn is not None
    pair.session.commit_failed(turn, StoreError("full"), 0.7)
    assert pair.session.deadline() == 0.7 + RETRY_S


def test_nothing_to_do_makes_no_turn() -> None:
    pair = Pair().connect()
    assert pair.session.take(pair.now) is None


def test_a_connected_event_and_messages_behind_it_come_in_order() -> None:
    pair = Pair()
    pair.start()
    pair.open()
    pair.feed(connack() + publish("a") + publish("b", b"", 1, 1))
    kinds = [type(event) for event in pair.events()]
    assert kinds == [Connected, Message, Message]


# ---- anything goes -------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [20_251_122])
def test_whatever_the_server_sends_nothing_escapes(seed: int) -> None:
    source = random.Random(seed)
    good = [connack(), publish("a", b"x", 1, 1), publish("a", b"x", 2, 2), ack(0x62, 2), ack(0x40, 1), b"\xd0\x00", disconnect_packet(0x8B)]
    for _ in range(300):
        pair = Pair(durable=source.random() < 0.5)
        pair.start()
        pair.open()
        pair.publish()
        data = bytearray(b"".join(source.choice(good) for _ in range(4)))
        for _ in range(source.randrange(4)):
            data[source.randrange(len(data))] = source.randrange(256)
        pair.feed(bytes(data))
        assert isinstance(pair.events()[-1], (Connected, Disconnected, Message, Report)) if pair.events() else pair.session.link is not None
