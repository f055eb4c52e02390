"""The broker's core as a client sees it: opening, sessions, time, goodbyes, faults. Its bytes are read by the strict parser."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from ohmqtt.auth import ScramSHA256
from ohmqtt.errors import ArgumentError, AuthenticationError
from ohmqtt.packet import (
    MQTTAuthPacket,
    MQTTConnectPacket,
    MQTTDisconnectPacket,
    MQTTPacket,
    MQTTPingReqPacket,
    MQTTPingRespPacket,
    MQTTPubAckPacket,
    MQTTPublishPacket,
    MQTTWill,
)
from ohmqtt.property import MQTTAuthProps, MQTTConnectProps, MQTTDisconnectProps, MQTTWillProps
from ohmqtt.testing.broker import BrokerCore, BrokerSettings, Connection, Direction, Ending
from ohmqtt.testing.scram import ScramServer, make_verifier
from tests.broker_core_tools import Peer, connect, open_with
from tests.strict_parser import encode_packet

if TYPE_CHECKING:
    from collections.abc import Sequence

# -- opening ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.1.4-5", "MQTT-3.2.2-3", "MQTT-3.1.2-6")
def test_a_broker_without_limits_announces_no_more_than_its_aliases() -> None:
    connack = open_with(Peer(BrokerCore()))
    assert (connack.session_present, connack.properties) == (False, {"TopicAliasMaximum": 16})


@pytest.mark.spec("MQTT-3.2.2-9")
def test_every_limit_is_announced() -> None:
    settings = BrokerSettings(
        receive_maximum=3,
        maximum_packet_size=1000,
        maximum_qos=1,
        retain_available=False,
        wildcard_subscription_available=False,
        subscription_identifier_available=False,
        shared_subscription_available=False,
        topic_alias_maximum=0,
        session_expiry_max_s=10,
        server_keep_alive=7,
        response_information="replies/",
    )
    connack = open_with(Peer(BrokerCore(settings)), SessionExpiryInterval=11, RequestResponseInformation=1)
    assert connack.properties == {
        "ReceiveMaximum": 3,
        "MaximumPacketSize": 1000,
        "MaximumQoS": 1,
        "RetainAvailable": 0,
        "WildcardSubscriptionAvailable": 0,
        "SubscriptionIdentifierAvailable": 0,
        "SharedSubscriptionAvailable": 0,
        "SessionExpiryInterval": 10,
        "ServerKeepAlive": 7,
        "ResponseInformation": "replies/",
    }


@pytest.mark.spec("MQTT-3.1.2-28")
def test_response_information_is_for_those_who_ask() -> None:
    core = BrokerCore(BrokerSettings(response_information="replies/"))
    assert "ResponseInformation" not in open_with(Peer(core)).properties


@pytest.mark.parametrize(("name", "value"), [("receive_maximum", 0), ("maximum_qos", 3), ("server_keep_alive", -1)])
def test_a_limit_that_can_not_be_announced_is_refused(name: str, value: int) -> None:
    arguments: Any = {name: value}
    with pytest.raises(ArgumentError, match=name):
        BrokerSettings(**arguments)


@pytest.mark.spec("MQTT-3.1.3-6", "MQTT-3.1.3-7", "MQTT-3.2.2-16")
def test_an_empty_client_id_gets_one_that_nobody_has() -> None:
    core = BrokerCore()
    connect(core, "assigned1")
    peer = Peer(core)
    assert open_with(peer, "").properties["AssignedClientIdentifier"] == "assigned2" == peer.end.client_id


@pytest.mark.spec("MQTT-3.1.3-8", "MQTT-3.2.2-7")
def test_an_empty_client_id_may_be_refused() -> None:
    peer = Peer(BrokerCore(BrokerSettings(assign_client_ids=False)))
    assert open_with(peer, "").reason_code == 0x85
    assert peer.end.closing


@pytest.mark.spec("MQTT-3.1.4-2", "MQTT-3.1.4-6")
def test_who_is_refused_is_not_listened_to() -> None:
    def authenticate(client_id: str, user_name: str | None, password: bytes | None) -> int | None:
        return None if (user_name, password) == ("me", b"secret") else 0x86

    core = BrokerCore(BrokerSettings(authenticate=authenticate))
    other = Peer(core)
    answers = other.say(MQTTConnectPacket("c", user_name="me", password=b"wrong"), MQTTPublishPacket("a", b"x", retain=True))
    assert [answer.reason_code for answer in answers] == [0x86]
    assert other.end.closing
    assert not core.retained
    assert open_with(Peer(core), user_name="me", password=b"secret").reason_code == 0


@pytest.mark.spec("MQTT-3.2.2-12", "MQTT-3.2.2-13")
def test_a_will_beyond_the_limits_is_refused() -> None:
    core = BrokerCore(BrokerSettings(maximum_qos=1, retain_available=False, authorize=lambda client_id, action, topic: 0x87))
    assert open_with(Peer(core), will=MQTTWill("w", qos=2)).reason_code == 0x9B
    assert open_with(Peer(core), will=MQTTWill("w", retain=True)).reason_code == 0x9A
    assert open_with(Peer(core), will=MQTTWill("w")).reason_code == 0x87


def test_a_server_reference_goes_with_the_codes_that_speak_of_another_server() -> None:
    core = BrokerCore(BrokerSettings(server_reference="other:1883", authenticate=lambda *_: 0x9C))
    connack = open_with(Peer(core))
    assert (connack.reason_code, connack.properties["ServerReference"]) == (0x9C, "other:1883")


@pytest.mark.spec("MQTT-3.1.0-1", "MQTT-3.14.0-1")
@pytest.mark.parametrize("first", [b"\xc0\x00", b"\xe0\x00", b"\x00\x00", b"\x47\x00"])
def test_what_does_not_begin_with_connect_is_closed_without_a_word(first: bytes) -> None:
    peer = Peer(BrokerCore())
    assert not peer.say(first)
    assert peer.end.closing


@pytest.mark.spec("MQTT-3.1.2-1", "MQTT-3.1.2-2", "MQTT-3.1.2-3", "MQTT-3.1.4-1")
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"\x00\x04MQTT\x04\x00\x00\x00\x00\x00\x00", 0x84),
        (b"\x00\x04MQTX\x05\x00\x00\x00\x00\x00\x00", 0x84),
        (b"\x00\x04MQTT\x05\x01\x00\x00\x00\x00\x00", 0x81),
    ],
)
def test_a_connect_that_does_not_fit_is_refused(body: bytes, code: int) -> None:
    peer = Peer(BrokerCore())
    assert peer.one(encode_packet(0x10, body)).reason_code == code
    assert peer.end.closing


@pytest.mark.spec("MQTT-3.1.0-2")
def test_a_second_connect_is_a_protocol_error() -> None:
    peer = connect(BrokerCore())
    assert peer.one(MQTTConnectPacket("c")).reason_code == 0x82
    assert peer.end.closing
    # One of another version has a code that a DISCONNECT can't have.
    peer = connect(BrokerCore())
    assert peer.one(encode_packet(0x10, b"\x00\x04MQTT\x04\x00\x00\x00\x00\x00\x00")).reason_code == 0x82


@pytest.mark.spec("MQTT-2.1.3-1", "MQTT-4.13.1-1", "MQTT-3.14.1-1", "MQTT-3.8.1-1", "MQTT-3.10.1-1", "MQTT-3.6.1-1")
@pytest.mark.spec("MQTT-3.15.1-1", "MQTT-1.5.5", "MQTT-1.5.5-1")
@pytest.mark.parametrize(
    "data",
    [b"\xc0\x80\x00", b"\xe1\x00", b"\xf1\x00", b"\x80\x00", b"\xa0\x00", b"\x60\x02\x00\x01", b"\x36\x00", b"\xc0\xff\xff\xff\xff\x7f"],
)
def test_malformed_packets_end_the_connection_with_0x81(data: bytes) -> None:
    peer = connect(BrokerCore())
    assert peer.one(data).reason_code == 0x81
    assert peer.end.closing
    assert not peer.say(MQTTPingReqPacket())


@pytest.mark.parametrize("packet", [MQTTPingRespPacket(), MQTTPubAckPacket(1, 0x10), MQTTDisconnectPacket(0x8E), b"\xf0\x00"])
def test_what_only_a_server_may_send_is_a_protocol_error(packet: MQTTPacket | bytes) -> None:
    assert connect(BrokerCore()).one(packet).reason_code == 0x82


def test_bytes_may_be_split_anywhere() -> None:
    peer = connect(BrokerCore())
    peer.subscribe("a")
    answers = [peer.say(bytes((byte,))) for byte in MQTTPublishPacket("a", b"payload").encode()]
    assert [len(answer) for answer in answers] == [0] * (len(answers) - 1) + [1]


# -- enhanced authentication --------------------------------------------------------------------------------------------------------------

METHOD = "SCRAM-SHA-256"
USERS = {"me": make_verifier(b"secret")}
WITH_SCRAM = BrokerSettings(authenticators={METHOD: lambda: ScramServer(USERS)})


def auth(code: int, data: bytes | None = None, method: str = METHOD) -> MQTTAuthPacket:
    return MQTTAuthPacket(code, MQTTAuthProps(AuthenticationMethod=method, AuthenticationData=data))


def scram_connect(core: BrokerCore, client: ScramSHA256) -> Peer:
    peer = Peer(core)
    first = peer.one(MQTTConnectPacket("c", properties=MQTTConnectProps(AuthenticationMethod=METHOD, AuthenticationData=client.start())))
    assert (first.kind, first.reason_code, first.properties["AuthenticationMethod"]) == ("AUTH", 0x18, METHOD)
    connack = peer.one(auth(0x18, client.respond(first.properties["AuthenticationData"])))
    assert (connack.kind, connack.reason_code) == ("CONNACK", 0)
    client.finish(connack.properties["AuthenticationData"])
    return peer


@pytest.mark.spec("MQTT-4.12.0-2", "MQTT-4.12.0-5")
def test_a_client_authenticates_and_does_it_again() -> None:
    client = ScramSHA256("me", "secret")
    peer = scram_connect(BrokerCore(WITH_SCRAM), client)
    challenge = peer.one(auth(0x19, client.start()))
    assert peer.kinds(MQTTPingReqPacket()) == ["PINGRESP"]
    end = peer.one(auth(0x18, client.respond(challenge.properties["AuthenticationData"])))
    assert (end.kind, end.reason_code) == ("AUTH", 0)
    client.finish(end.properties["AuthenticationData"])


@pytest.mark.spec("MQTT-4.12.1-2")
@pytest.mark.parametrize(
    ("packets", "code"),
    [
        ([auth(0x19, b"nonsense")], 0x87),
        ([auth(0x19, b"n,,n=nobody,r=abc")], 0x87),
        ([auth(0x19)], 0x87),
        ([auth(0x19, b"n,,n=me,r=abc"), auth(0x18)], 0x87),
        ([auth(0x18)], 0x82),
        ([auth(0x19, method="other")], 0x82),
        ([auth(0x19, b"n,,n=me,r=abc"), auth(0x19)], 0x82),
    ],
)
def test_a_failed_re_authentication_ends_the_connection(packets: list[MQTTPacket], code: int) -> None:
    peer = scram_connect(BrokerCore(WITH_SCRAM), ScramSHA256("me", "secret"))
    last = peer.say(*packets)[-1]
    assert (last.kind, last.reason_code) == ("DISCONNECT", code)
    assert peer.end.closing


@pytest.mark.spec("MQTT-3.15.2-1")
@pytest.mark.parametrize("code", [0x00, 0x01, 0x87])
def test_an_auth_of_a_client_says_continue_or_again_and_nothing_else(code: int) -> None:
    client = ScramSHA256("me", "secret")
    peer = scram_connect(BrokerCore(WITH_SCRAM), client)
    challenge = peer.one(auth(0x19, client.start()))
    # All but the code is as it should be.
    answer = bytearray(auth(0x18, client.respond(challenge.properties["AuthenticationData"])).encode())
    assert answer[2] == 0x18
    answer[2] = code
    end = peer.one(bytes(answer))
    assert (end.kind, end.reason_code) == ("DISCONNECT", 0x82)
    assert peer.end.closing


@pytest.mark.spec("MQTT-4.12.0-1", "MQTT-4.12.0-4", "MQTT-3.1.2-30")
def test_authentication_may_fail_before_connack() -> None:
    core = BrokerCore(WITH_SCRAM)
    assert open_with(Peer(core), AuthenticationMethod="other").reason_code == 0x8C
    assert open_with(Peer(core), AuthenticationMethod=METHOD, AuthenticationData=b"x").reason_code == 0x87
    connecting = MQTTConnectPacket("c", properties=MQTTConnectProps(AuthenticationMethod=METHOD, AuthenticationData=b"n,,n=me,r=abc"))
    peer = Peer(core)
    assert peer.say(connecting, MQTTPingReqPacket())[1].reason_code == 0x82
    peer = Peer(core)
    assert peer.say(connecting, b"\xff\x00")[1].reason_code == 0x81
    peer = Peer(core)
    assert len(peer.say(connecting, MQTTDisconnectPacket())) == 1
    assert peer.end.closing
    assert not core.sessions


@pytest.mark.parametrize(
    ("proof", "message"),
    [
        (b"c=biws,r=abcserver-nonce", "no client-final-message"),
        (b"c=eSws,r=abcserver-nonce,p=" + b"A" * 43 + b"=", "channel binding"),
        (b"c=biws,r=other,p=" + b"A" * 43 + b"=", "nonce is not ours"),
    ],
)
def test_the_scram_server_is_strict(proof: bytes, message: str) -> None:
    server = ScramServer(USERS)
    server.challenge(b"n,,n=me,r=abc")
    with pytest.raises(AuthenticationError, match=message):
        server.verify(proof)


@pytest.mark.spec("MQTT-4.12.0-6")
def test_without_a_method_there_is_no_auth() -> None:
    peer = connect(BrokerCore(WITH_SCRAM))
    assert peer.one(auth(0x19)).reason_code == 0x82


# -- sessions and time --------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.1.2-5", "MQTT-3.1.2-23", "MQTT-4.1.0-2", "MQTT-3.1.3-2")
def test_a_session_is_kept_for_its_expiry_interval() -> None:
    core = BrokerCore()
    connect(core, SessionExpiryInterval=10).lost(5.0)
    assert core.deadline() == 15.0
    core.tick(14.9)
    peer = connect(core, SessionExpiryInterval=0xFFFFFFFF, present=True)
    peer.lost()
    assert core.deadline() is None
    core.tick(1e9)
    peer = connect(core, present=True)
    peer.lost()
    assert not core.sessions


def test_a_session_without_a_will_ends_when_it_is_due() -> None:
    core = BrokerCore()
    connect(core, SessionExpiryInterval=10).lost(0.0)
    connect(core, "other", SessionExpiryInterval=99, will=MQTTWill("w", properties=MQTTWillProps(WillDelayInterval=5))).lost(0.0)
    core.tick(10.0)
    assert list(core.sessions) == ["other"]


@pytest.mark.spec("MQTT-3.1.2-4", "MQTT-3.2.2-2", "MQTT-3.1.4-4")
def test_clean_start_ends_the_session_before() -> None:
    core = BrokerCore()
    peer = connect(core, SessionExpiryInterval=10)
    peer.subscribe("a/+")
    peer.lost()
    peer = connect(core, clean_start=True)
    assert not peer.publish("a/b")


@pytest.mark.spec("MQTT-3.1.4-3")
def test_a_second_connection_takes_the_session_over() -> None:
    core = BrokerCore()
    first = connect(core, SessionExpiryInterval=10)
    second = connect(core, present=True)
    assert first.hear()[0].reason_code == 0x8E
    assert first.end.closing
    first.lost()
    assert second.kinds(MQTTPingReqPacket()) == ["PINGRESP"]


def test_disconnect_may_change_the_expiry_but_not_from_zero() -> None:
    core = BrokerCore(BrokerSettings(session_expiry_max_s=100))
    lasting = MQTTDisconnectPacket(0, MQTTDisconnectProps(SessionExpiryInterval=500))
    peer = connect(core, SessionExpiryInterval=10)
    peer.say(lasting)
    assert core.deadline() == 100.0
    assert peer.end.disconnected_with == lasting
    peer = connect(core, clean_start=True)
    assert peer.one(lasting).reason_code == 0x82
    assert not core.sessions


@pytest.mark.spec("MQTT-3.1.2-22", "MQTT-3.12.4-1", "MQTT-3.2.2-22")
def test_silence_ends_a_connection_after_one_and_a_half_keep_alives() -> None:
    core = BrokerCore()
    peer = connect(core, keep_alive=10)
    assert peer.kinds(MQTTPingReqPacket(), now=8.0) == ["PINGRESP"]
    assert core.deadline() == 23.0
    core.tick(22.9)
    assert not peer.end.closing
    core.tick(23.0)
    assert peer.hear()[0].reason_code == 0x8D
    assert peer.end in core.dirty or peer.end.closing
    connect(core)
    assert core.deadline() is None


def test_a_connection_without_connect_is_closed() -> None:
    core = BrokerCore()
    peer = Peer(core)
    assert core.deadline() == 10.0
    core.tick(10.0)
    assert peer.end.closing
    assert not peer.hear()


# -- wills --------------------------------------------------------------------------------------------------------------------------------

WILL = MQTTWill(
    "w",
    b"gone",
    1,
    True,
    MQTTWillProps(
        WillDelayInterval=5,
        MessageExpiryInterval=60,
        ContentType="t",
        ResponseTopic="r",
        CorrelationData=b"c",
        PayloadFormatIndicator=1,
        UserProperty=(("a", "1"), ("a", "2")),
    ),
)


@pytest.mark.spec("MQTT-3.1.2-7", "MQTT-3.1.2-8", "MQTT-3.1.2-10", "MQTT-3.1.2-15", "MQTT-3.1.3-10")
def test_a_will_comes_after_its_delay_with_all_its_properties() -> None:
    core = BrokerCore()
    watcher = connect(core, "watcher")
    watcher.subscribe("w", retain_as_published=True)
    connect(core, will=WILL, SessionExpiryInterval=99).lost(1.0)
    assert core.deadline() == 6.0
    core.tick(6.0)
    (message,) = watcher.hear()
    assert (message.topic, message.payload, message.qos, message.retain) == ("w", b"gone", 1, True)
    assert message.properties == {
        "MessageExpiryInterval": 60,
        "ContentType": "t",
        "ResponseTopic": "r",
        "CorrelationData": b"c",
        "PayloadFormatIndicator": 1,
        "UserProperty": [("a", "1"), ("a", "2")],
    }
    core.tick(99.0)
    assert not watcher.hear()


@pytest.mark.spec("MQTT-3.1.3-9", "MQTT-3.14.4-3", "MQTT-3.1.2-14")
def test_when_a_will_comes_at_once_and_when_never() -> None:
    core = BrokerCore()
    watcher = connect(core, "watcher")
    watcher.subscribe("#", retain_as_published=True)
    soon = MQTTWill("w", b"gone")
    connect(core, will=soon, SessionExpiryInterval=9).lost()
    assert [message.retain for message in watcher.hear()] == [False]
    connect(core, clean_start=True, will=WILL).lost()  # the session ends with the connection
    assert len(watcher.hear()) == 1
    connect(core, will=soon).say(MQTTDisconnectPacket(0x04))
    assert len(watcher.hear()) == 1
    connect(core, will=soon).say(MQTTDisconnectPacket())
    connect(core, will=WILL, SessionExpiryInterval=9).lost()
    connect(core, SessionExpiryInterval=50, present=True).lost()
    assert core.deadline() == 50.0
    core.tick(99.0)
    assert not watcher.hear()


# -- goodbyes and packet sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.14.4-1", "MQTT-3.14.4-2")
def test_the_broker_says_goodbye() -> None:
    core = BrokerCore(BrokerSettings(server_reference="other:1883"))
    peer = connect(core)
    assert core.disconnect("c", 0x9D, now=1.0)
    assert peer.hear()[0].properties == {"ServerReference": "other:1883"}
    assert peer.end.closing
    peer.end.handle(MQTTPingReqPacket(), 1.0)
    peer.end.send(MQTTPingRespPacket())
    peer.end.transmit(MQTTPingRespPacket())
    assert not peer.hear()
    assert not core.disconnect("c", 0x98)
    peer = connect(core, SessionExpiryInterval=5)
    core.disconnect("c", 0x9C, MQTTDisconnectProps(ServerReference="third", ReasonString="busy"))
    assert peer.hear()[0].properties == {"ServerReference": "third", "ReasonString": "busy"}
    assert not core.disconnect("c", 0x98)


@pytest.mark.spec("MQTT-3.1.2-24", "MQTT-3.14.2-3", "MQTT-3.14.2-4")
def test_what_explains_is_left_out_if_the_client_takes_no_more() -> None:
    core = BrokerCore()
    peer = connect(core, MaximumPacketSize=10)
    core.disconnect("c", 0x98, MQTTDisconnectProps(ReasonString="a long explanation", UserProperty=(("a", "b"),)))
    (goodbye,) = peer.hear()
    assert goodbye.properties == {}
    peer = Peer(core)
    assert not peer.say(MQTTConnectPacket("c", properties=MQTTConnectProps(MaximumPacketSize=4)))
    assert peer.end.closing
    peer = connect(core, MaximumPacketSize=8)
    peer.end.send(MQTTPublishPacket("a", b"too large"))
    assert peer.end.closing


@pytest.mark.spec("MQTT-3.2.2-15")
def test_a_packet_larger_than_announced_ends_the_connection() -> None:
    peer = connect(BrokerCore(BrokerSettings(maximum_packet_size=30)))
    assert peer.one(MQTTPublishPacket("a", bytes(100))).reason_code == 0x95


# -- restart, copies, scripts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("persistent", [True, False])
def test_a_restart_keeps_what_the_settings_say(persistent: bool) -> None:
    core = BrokerCore(BrokerSettings(persistent=persistent))
    core.publish("kept", b"x", retain=True)
    lasting, passing = connect(core, "lasting", SessionExpiryInterval=99), connect(core, "passing")
    core.restart(3.0)
    assert lasting.end.closing
    assert passing.end.closing
    assert not passing.hear()
    assert not core.connections
    assert (list(core.sessions), list(core.retained)) == ((["lasting"], ["kept"]) if persistent else ([], []))


def test_a_copy_goes_its_own_way() -> None:
    core = BrokerCore()
    peer = connect(core)
    peer.subscribe("a", 1)
    twin = copy.deepcopy(core)
    peer.publish("a", qos=1)
    assert len(core.sessions["c"].in_flight) == 1
    assert copy.deepcopy(core).sessions["c"].in_flight == core.sessions["c"].in_flight
    assert not twin.sessions["c"].in_flight
    (end,) = twin.connections
    end.receive(MQTTPingReqPacket().encode(), 1.0)
    assert bytes(end.output) == b"\xd0\x00"
    assert repr(end) == "Connection('c', closing=False)"


def test_a_script_sees_every_packet_and_may_do_otherwise() -> None:
    core = BrokerCore()
    peer = connect(core)
    seen: list[tuple[str, Direction]] = []
    verdicts: dict[tuple[str, Direction], Sequence[MQTTPacket | bytes | Ending]] = {}

    def script(connection: Connection, packet: MQTTPacket, direction: Direction) -> Sequence[MQTTPacket | bytes | Ending] | None:
        assert connection is peer.end
        key = (type(packet).__name__, direction)
        seen.append(key)
        return verdicts.get(key)

    core.script = script
    ping, pong = ("MQTTPingReqPacket", Direction.RECEIVED), ("MQTTPingRespPacket", Direction.SENT)
    assert peer.kinds(MQTTPingReqPacket()) == ["PINGRESP"]
    assert seen == [ping, pong]
    verdicts[pong] = (MQTTPingRespPacket(), b"\xd0\x00")
    assert peer.kinds(MQTTPingReqPacket()) == ["PINGRESP"] * 2
    verdicts[ping] = ()
    assert not peer.kinds(MQTTPingReqPacket())
    verdicts[ping] = (MQTTPingReqPacket(), b"\xd0\x00")
    assert peer.kinds(MQTTPingReqPacket()) == ["PINGRESP"] * 3
    verdicts[ping] = (MQTTPubAckPacket(1, 0x10), MQTTPingReqPacket())
    assert [packet.reason_code for packet in peer.say(MQTTPingReqPacket())] == [0x82]


def test_a_delivery_that_ends_a_session_leaves_the_others_theirs() -> None:
    core = BrokerCore()
    first, second = connect(core, "first"), connect(core, "second", will=MQTTWill("a", b"gone"))
    for peer in (first, second):
        peer.subscribe("a")
        peer.subscribe("+")
        peer.subscribe("$share/g/+")
    core.script = lambda connection, packet, direction: (Ending.CLOSE,) if connection is second.end else None
    core.publish("a", qos=1)
    assert list(core.sessions) == ["first"]
    assert [packet.payload for packet in first.hear()].count(b"gone") == 2


def test_a_will_that_ends_another_session_when_both_are_due() -> None:
    core = BrokerCore()
    will = MQTTWill("a", b"gone", properties=MQTTWillProps(WillDelayInterval=5))
    connect(core, "first", will=will, SessionExpiryInterval=9).lost(0.0)
    connect(core, "second").subscribe("a")
    core.script = lambda connection, packet, direction: (Ending.CLOSE,)
    core.tick(5.0)
    assert list(core.sessions) == ["first"]


@pytest.mark.parametrize(("ending", "rest"), [(Ending.CLOSE, ["PINGRESP"]), (Ending.ABORT, [])])
def test_a_script_ends_a_connection(ending: Ending, rest: list[str]) -> None:
    core = BrokerCore()
    peer = connect(core)
    core.script = lambda connection, packet, direction: (b"\xd0\x00", ending, b"\xd0\x00") if direction is Direction.RECEIVED else None
    assert peer.kinds(MQTTPingReqPacket()) == rest
    assert peer.end.closing
    assert not core.sessions
