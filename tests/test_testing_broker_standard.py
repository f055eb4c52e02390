"""The broker's core held against the standard, chapter by chapter: what the tests of its parts leave open, and where it has a choice."""

from __future__ import annotations

from typing import Any

import pytest

from ohmqtt.packet import (
    MQTTAuthPacket,
    MQTTConnectPacket,
    MQTTDisconnectPacket,
    MQTTPacket,
    MQTTPingReqPacket,
    MQTTPubAckPacket,
    MQTTPubCompPacket,
    MQTTPublishPacket,
    MQTTPubRecPacket,
    MQTTPubRelPacket,
    MQTTSubAckPacket,
    MQTTSubscribePacket,
    MQTTSubscription,
    MQTTUnsubAckPacket,
    MQTTUnsubscribePacket,
    MQTTWill,
)
from ohmqtt.property import (
    MQTTAuthProps,
    MQTTConnectProps,
    MQTTDisconnectProps,
    MQTTPubAckProps,
    MQTTPubCompProps,
    MQTTPublishProps,
    MQTTPubRecProps,
    MQTTPubRelProps,
    MQTTSubAckProps,
    MQTTSubscribeProps,
    MQTTUnsubAckProps,
    MQTTWillProps,
)
from ohmqtt.testing.broker import BrokerCore, BrokerSettings
from tests.broker_core_tools import Peer, connect, open_with
from tests.strict_parser import encode_packet

METHOD = "WORD"


class Word:
    """Lets in who says the word."""

    def step(self, data: bytes | None) -> tuple[bool, bytes | None]:
        return data == b"please", None


WITH_METHOD = BrokerSettings(authenticators={METHOD: Word})


def open_with_method(core: BrokerCore, client_id: str = "c", **properties: Any) -> Peer:
    """Begin an opening with enhanced authentication; the broker has asked for the word."""
    peer = Peer(core)
    fields = MQTTConnectProps(AuthenticationMethod=METHOD, **properties)
    assert peer.kinds(MQTTConnectPacket(client_id, properties=fields)) == ["AUTH"]
    return peer


WORD = MQTTAuthPacket(0x18, MQTTAuthProps(AuthenticationMethod=METHOD, AuthenticationData=b"please"))


# -- chapter 1: text -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-1.5.4-1", "MQTT-1.5.4-2", "MQTT-1.5.7-1", "MQTT-3.3.2-1", "MQTT-3.3.2-13", "MQTT-3.3.2-19", "MQTT-4.7.3-2")
@pytest.mark.parametrize("text", [b"\xff", b"\0", b"\xed\xa0\x80", b"\xc0\xaf"])
def test_what_is_no_text_is_malformed_wherever_it_stands(text: bytes) -> None:
    string = bytes((0, len(text))) + text
    for properties in (b"\x03" + string, b"\x08" + string, b"\x26" + string + b"\0\1a", b"\x26\0\1a" + string):
        assert connect(BrokerCore()).one(encode_packet(0x30, b"\0\1a" + bytes((len(properties),)) + properties)).reason_code == 0x81
    assert connect(BrokerCore()).one(encode_packet(0x30, string + b"\0")).reason_code == 0x81
    assert connect(BrokerCore()).one(encode_packet(0x82, b"\0\1\0" + string + b"\0")).reason_code == 0x81
    assert connect(BrokerCore()).one(encode_packet(0xA2, b"\0\1\0" + string)).reason_code == 0x81
    peer = Peer(BrokerCore())
    assert peer.one(encode_packet(0x10, b"\0\4MQTT\5\0\0\0\0" + string)).reason_code == 0x81
    assert peer.end.closing


@pytest.mark.spec("MQTT-1.5.4-3", "MQTT-4.7.3-3", "MQTT-4.7.3-4", "MQTT-3.1.3-5", "MQTT-2.2.1-2", "MQTT-2.2.2-1")
@pytest.mark.parametrize("topic", ["\ufefftopic", "\x01\uffff", "e\u0301", "/", "a b", "x" * 65_535])
def test_every_text_is_taken_and_passed_on_as_it_is(topic: str) -> None:
    core = BrokerCore()
    other = connect(core, "other")
    other.subscribe("\u00e9")
    other.subscribe("topic")
    peer = connect(core, "0123456789abcdefghijABC")
    peer.subscribe(topic)
    (message,) = peer.publish(topic, b"payload")
    assert (message.topic, message.payload, message.packet_id, message.properties) == (topic, b"payload", 0, {})
    assert not other.hear()
    assert list(core.sessions) == ["other", "0123456789abcdefghijABC"]


# -- chapter 2: packet identifiers ---------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-2.2.1", "MQTT-3.4.2-1", "MQTT-3.9.3-2", "MQTT-3.11.3-2")
def test_an_identifier_has_one_exchange_at_a_time() -> None:
    core = BrokerCore()
    watcher = connect(core, "watcher")
    watcher.subscribe("#")
    peer = connect(core)
    peer.publish("a", b"first", qos=2, packet_id=5)
    (answer,) = peer.publish("a", b"second", qos=1, packet_id=5, dup=True)
    assert (answer.kind, answer.packet_id, answer.reason_code) == ("PUBACK", 5, 0x91)
    (answer,) = peer.say(MQTTSubscribePacket(5, (MQTTSubscription("a"), MQTTSubscription("b"))))
    assert (answer.kind, answer.packet_id, answer.reason_codes) == ("SUBACK", 5, [0x91, 0x91])
    peer.say(MQTTSubscribePacket(6, (MQTTSubscription("b"),)))
    (answer,) = peer.say(MQTTUnsubscribePacket(5, ("b", "c")))
    assert (answer.kind, answer.packet_id, answer.reason_codes) == ("UNSUBACK", 5, [0x91, 0x91])
    assert list(core.sessions["c"].subscriptions) == ["b"]
    assert [(p.kind, p.reason_code) for p in peer.say(MQTTPubRelPacket(5))] == [("PUBCOMP", 0)]
    assert peer.publish("a", b"third", qos=1, packet_id=5)[0].reason_code == 0
    assert [p.payload for p in watcher.hear()] == [b"first", b"third"]


@pytest.mark.spec("MQTT-2.2.1", "MQTT-4.3.3-9", "MQTT-4.3.3-10", "MQTT-3.5.2-1")
def test_a_new_qos_2_message_with_the_identifier_of_an_unfinished_one_ends_both() -> None:
    core = BrokerCore(BrokerSettings(receive_maximum=1))
    watcher = connect(core, "watcher")
    watcher.subscribe("#")
    peer = connect(core, SessionExpiryInterval=9)
    peer.publish("a", b"first", qos=2)
    peer.lost()
    peer = connect(core, SessionExpiryInterval=9, present=True)
    (answer,) = peer.publish("a", b"second", qos=2)
    assert (answer.kind, answer.packet_id, answer.reason_code) == ("PUBREC", 1, 0x91)
    assert "0x91" in answer.properties["ReasonString"]
    # Neither counts against the Receive Maximum any more.
    assert [p.kind for p in peer.publish("a", b"other", qos=2, packet_id=2)] == ["PUBREC"]
    peer.say(MQTTPubRelPacket(2))
    assert [(p.kind, p.reason_code) for p in peer.say(MQTTPubRelPacket(1))] == [("PUBCOMP", 0x92)]
    assert peer.publish("a", b"third", qos=2)[0].reason_code == 0
    assert [p.payload for p in watcher.hear()] == [b"first", b"other", b"third"]


@pytest.mark.spec("MQTT-4.3.2-5", "MQTT-3.3.1.1")
def test_after_its_puback_an_identifier_is_free_whatever_dup_says() -> None:
    core = BrokerCore()
    peer = connect(core)
    peer.subscribe("a", 0)
    assert [p.kind for p in peer.publish("a", qos=1)] == ["PUBLISH", "PUBACK"]
    assert [p.kind for p in peer.publish("a", qos=1, dup=True)] == ["PUBLISH", "PUBACK"]


# -- 3.1 and 3.2: opening ------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.3.2.3.2")
def test_a_will_that_is_not_the_text_that_it_says() -> None:
    will = MQTTWill("w", b"1234", properties=MQTTWillProps(PayloadFormatIndicator=1))
    peer = Peer(BrokerCore())
    assert peer.one(MQTTConnectPacket("c", will=will).encode().replace(b"1234", b"123\xff")).reason_code == 0x99
    assert peer.end.closing


@pytest.mark.spec("MQTT-3.2.2-8", "MQTT-3.2.2-6", "MQTT-3.2.2-7")
def test_what_is_wrong_before_connack_is_told_by_a_code_that_connack_has() -> None:
    peer = open_with_method(BrokerCore(WITH_METHOD))
    # A PUBLISH with Topic Alias 0, for which a DISCONNECT would have a code of its own.
    refusal = peer.one(b"\x30\x07\x00\x01a\x03\x23\x00\x00")
    assert (refusal.kind, refusal.reason_code, refusal.session_present) == ("CONNACK", 0x82, False)
    assert peer.end.closing


@pytest.mark.spec("MQTT-3.2.0-1", "MQTT-3.2.0-2", "MQTT-3.2.2-1", "MQTT-3.2.2-3", "MQTT-4.3.3-3")
def test_connack_comes_once_and_ahead_of_all_but_auth() -> None:
    core = BrokerCore(WITH_METHOD)
    peer = connect(core, SessionExpiryInterval=9)
    peer.subscribe("a", retain_as_published=True)
    core.publish("a", qos=2)
    core.publish("a", qos=2)
    peer.say(MQTTPubRecPacket(2))
    peer.lost()
    peer = open_with_method(core)
    core.publish("a", qos=1)
    connack, *rest = peer.say(WORD)
    assert (connack.kind, connack.session_present, connack.properties["AuthenticationMethod"]) == ("CONNACK", True, METHOD)
    assert [(p.kind, p.packet_id) for p in rest] == [("PUBREL", 2), ("PUBLISH", 1), ("PUBLISH", 3)]


@pytest.mark.spec("MQTT-3.2.2-16", "MQTT-3.1.3-6")
def test_an_assigned_identifier_that_somebody_else_has_meanwhile_is_replaced() -> None:
    core = BrokerCore(WITH_METHOD)
    peer = open_with_method(core, "")
    other = connect(core, "assigned1")
    connack = peer.one(WORD)
    assert connack.properties["AssignedClientIdentifier"] == "assigned2" == peer.end.client_id
    assert other.kinds(MQTTPingReqPacket()) == ["PINGRESP"]


@pytest.mark.spec("MQTT-4.1.0-2", "MQTT-3.1.2-8", "MQTT-3.1.3-9")
def test_what_is_overdue_when_the_client_comes_back_has_happened() -> None:
    core = BrokerCore()
    watcher = connect(core, "watcher")
    watcher.subscribe("w")
    will = MQTTWill("w", b"gone", properties=MQTTWillProps(WillDelayInterval=5))
    connect(core, will=will, SessionExpiryInterval=10).lost(0.0)
    peer = connect(core, will=will, SessionExpiryInterval=10, present=True, now=5.0)
    assert len(watcher.hear()) == 1
    peer.lost(5.0)
    peer = connect(core, will=will, SessionExpiryInterval=10, now=15.0)
    assert len(watcher.hear()) == 1
    peer.lost(15.0)
    connect(core, SessionExpiryInterval=10, present=True, now=19.9)
    assert not watcher.hear()


@pytest.mark.spec("MQTT-3.1.4-3", "MQTT-3.1.2-8")
@pytest.mark.parametrize(("expiry", "delay", "clean_start", "published"), [(9, 0, 0, 1), (9, 5, 0, 0), (9, 5, 1, 1), (0, 5, 0, 1)])
def test_the_will_of_a_connection_that_is_taken_over(expiry: int, delay: int, clean_start: int, published: int) -> None:
    core = BrokerCore()
    watcher = connect(core, "watcher")
    watcher.subscribe("w")
    will = MQTTWill("w", b"gone", properties=MQTTWillProps(WillDelayInterval=delay))
    connect(core, will=will, SessionExpiryInterval=expiry)
    connect(core, clean_start=bool(clean_start), present=bool(expiry) and not clean_start)
    assert len(watcher.hear()) == published
    core.tick(99.0)
    assert not watcher.hear()


# -- 3.3: PUBLISH --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.3.2-5", "MQTT-4.5.0-1")
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_message_that_lives_for_no_time_reaches_whom_it_reaches_at_once(qos: int) -> None:
    core = BrokerCore(BrokerSettings(queue_qos0=True))
    now, later = connect(core, "now"), connect(core, "later", SessionExpiryInterval=9)
    for peer in (now, later):
        peer.subscribe("a")
    later.lost(0.0)
    core.publish("a", qos=qos, properties=MQTTPublishProps(MessageExpiryInterval=0))
    assert [(p.qos, p.properties) for p in now.hear()] == [(qos, {"MessageExpiryInterval": 0})]
    assert not connect(core, "later", present=True, now=0.1).hear()


@pytest.mark.spec("MQTT-3.3.2-6", "MQTT-4.3.3-7", "MQTT-4.3.3-13")
def test_what_was_sent_is_sent_again_though_its_time_has_run_out() -> None:
    core = BrokerCore()
    watcher = connect(core, SessionExpiryInterval=99)
    watcher.subscribe("a")
    connect(core, "publisher").publish("a", qos=2, properties=MQTTPublishProps(MessageExpiryInterval=10))
    watcher.lost()
    watcher = connect(core, SessionExpiryInterval=99, present=True, now=20.0)
    assert [(p.dup, p.packet_id, p.properties) for p in watcher.hear()] == [(True, 1, {"MessageExpiryInterval": 0})]
    assert watcher.kinds(MQTTPubRecPacket(1), MQTTPubCompPacket(1)) == ["PUBREL"]
    assert [p.reason_code for p in connect(core, "publisher", present=False).say(MQTTPubRelPacket(1))] == [0x92]


@pytest.mark.spec("MQTT-3.2.2-14")
def test_without_retained_messages_there_are_none() -> None:
    core = BrokerCore()
    core.publish("old", b"x", retain=True)
    core.settings = BrokerSettings(retain_available=False)
    peer = connect(core)
    assert [p.kind for p in peer.subscribe("#", retain_as_published=True)] == ["SUBACK"]
    core.publish("new", b"x", retain=True)
    assert [(p.topic, p.retain) for p in peer.hear()] == [("new", False)]
    assert list(core.retained) == ["old"]


def test_no_local_is_about_forwarding_and_not_about_what_is_retained() -> None:
    core = BrokerCore()
    peer = connect(core)
    peer.publish("a", retain=True)
    assert [p.kind for p in peer.subscribe("a", no_local=True)] == ["SUBACK", "PUBLISH"]
    assert not peer.publish("a", retain=True)


@pytest.mark.spec("MQTT-3.3.2-14", "MQTT-4.7.0-1", "MQTT-3.3.2-2", "MQTT-3.3.2-8", "MQTT-3.3.1-2", "MQTT-3.3.1-4")
@pytest.mark.parametrize(
    ("data", "code"),
    [
        (encode_packet(0x30, b"\0\3a/#\0"), 0x82),
        (encode_packet(0x30, b"\0\1a\x04\x08\0\1+"), 0x82),
        (encode_packet(0x30, b"\0\1a\x03\x23\0\0"), 0x94),
        (encode_packet(0x38, b"\0\1a\0"), 0x81),
        (encode_packet(0x36, b"\0\1a\0\1\0"), 0x81),
        (encode_packet(0x32, b"\0\1a\0\0\0"), 0x82),
        (encode_packet(0x30, b"\0\1\xff\0"), 0x81),
        (encode_packet(0x30, b"\0\0\0"), 0x82),
    ],
)
def test_a_publish_that_the_standard_forbids(data: bytes, code: int) -> None:
    core = BrokerCore()
    watcher, peer = connect(core, "watcher"), connect(core)
    watcher.subscribe("#")
    assert peer.one(data).reason_code == code
    assert peer.end.closing
    assert not watcher.hear()


@pytest.mark.spec("MQTT-4.6.0-5", "MQTT-4.6.0-6")
def test_messages_of_one_qos_keep_their_order_also_behind_those_that_waited() -> None:
    core = BrokerCore(BrokerSettings(queue_qos0=True))
    watcher = connect(core, SessionExpiryInterval=9)
    watcher.subscribe("#")
    watcher.lost()
    core.publish("a", b"1", qos=1)
    core.publish("a", b"2", qos=1)
    core.publish("a", b"3")
    watcher = connect(core, present=True, ReceiveMaximum=1)
    core.publish("a", b"4")
    assert [p.payload for p in watcher.hear()] == [b"1"]
    assert [p.payload for p in watcher.acknowledge(1)] == [b"2"]
    assert [p.payload for p in watcher.acknowledge(2)] == [b"3", b"4"]
    core.publish("a", b"5")
    assert [p.payload for p in watcher.hear()] == [b"5"]


@pytest.mark.spec("MQTT-3.4.2-1", "MQTT-3.5.2-1", "MQTT-3.6.2-1", "MQTT-3.7.2-1", "MQTT-3.14.2-1", "MQTT-2.4")
@pytest.mark.parametrize("data", [b"\x40\3\0\1\x92", b"\x50\3\0\1\1", b"\x62\3\0\1\x91", b"\x70\3\0\1\x80", b"\xe0\1\x8e"])
def test_a_code_that_a_client_may_not_send_there_is_a_protocol_error(data: bytes) -> None:
    peer = connect(BrokerCore())
    assert peer.one(data).reason_code == 0x82
    assert peer.end.closing


# -- 3.8 to 3.11: subscribing --------------------------------------------------------------------------------------------------------------


@pytest.mark.spec(
    "MQTT-3.8.3-4", "MQTT-3.8.3-5", "MQTT-3.8.3-2", "MQTT-4.7.1-1", "MQTT-4.7.1-2", "MQTT-4.7.3-1", "MQTT-4.8.2-1", "MQTT-4.8.2-2"
)
@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"\0\x0a$share/g/a\x04", 0x82),
        (b"\0\1a\x40", 0x81),
        (b"\0\1a\x30", 0x82),
        (b"\0\1a\x03", 0x82),
        (b"", 0x82),
        (b"\0\0\0", 0x82),
        (b"\0\2a#\0", 0x82),
        (b"\0\3#/a\0", 0x82),
        (b"\0\2a+\0", 0x82),
        (b"\0\x09$share//a\0", 0x82),
        (b"\0\x08$share/g\0", 0x82),
        (b"\0\x0a$share/+/a\0", 0x82),
        (b"\0\1\xff\0", 0x81),
    ],
)
def test_a_subscription_that_the_standard_forbids_is_no_matter_of_a_suback(body: bytes, code: int) -> None:
    """Data that isn't allowed is a Protocol Error (1.2) and ends the connection (4.13.1); 0x8F is for well-formed filters (3.9.3)."""
    peer = connect(BrokerCore())
    assert peer.one(encode_packet(0x82, b"\0\1\0" + body)).reason_code == code
    assert peer.end.closing


@pytest.mark.spec("MQTT-3.8.4-1", "MQTT-3.8.4-2", "MQTT-3.8.4-5", "MQTT-3.8.4-6", "MQTT-3.9.3-1", "MQTT-3.9.3-2")
def test_many_filters_are_like_many_subscribes_with_one_answer() -> None:
    core = BrokerCore(BrokerSettings(authorize=lambda client_id, action, topic: 0x8F if topic == "no" else None))
    core.publish("a", b"kept", qos=2, retain=True)
    filters = (MQTTSubscription("a", 0), MQTTSubscription("no"), MQTTSubscription("b", 1), MQTTSubscription("a", 1, retain_handling=1))
    suback, *kept = connect(core).say(MQTTSubscribePacket(65_535, filters, MQTTSubscribeProps(SubscriptionIdentifier=9)))
    assert (suback.packet_id, suback.reason_codes) == (65_535, [0, 0x8F, 1, 1])
    assert [(p.payload, p.qos, p.retain, p.properties["SubscriptionIdentifier"]) for p in kept] == [(b"kept", 0, True, [9])]
    assert {name: one.qos for name, one in core.sessions["c"].subscriptions.items()} == {"a": 1, "b": 1}


@pytest.mark.spec("MQTT-3.8.4-4", "MQTT-3.8.4-3", "MQTT-3.10.4-2", "MQTT-3.10.4-3", "MQTT-3.10.4-6")
def test_what_was_begun_is_finished_when_a_subscription_is_replaced_or_removed() -> None:
    core = BrokerCore()
    peer = connect(core, ReceiveMaximum=1)
    peer.subscribe("a", 2, identifier=1)
    core.publish("a", b"1", qos=2)
    core.publish("a", b"2", qos=2)
    assert [p.payload for p in peer.hear()] == [b"1"]
    peer.subscribe("a", 1, identifier=2)
    core.publish("a", b"3", qos=2)
    assert [p.reason_codes for p in peer.say(MQTTUnsubscribePacket(3, ("a", "a", "A")))] == [[0x00, 0x11, 0x11]]
    core.publish("a", b"4", qos=2)
    assert peer.kinds(MQTTPubRecPacket(1)) == ["PUBREL"]
    (second,) = peer.say(MQTTPubCompPacket(1))
    assert (second.payload, second.qos, second.properties["SubscriptionIdentifier"]) == (b"2", 2, [1])
    (third,) = peer.say(MQTTPubRecPacket(2, 0x80))
    assert (third.payload, third.qos, third.properties["SubscriptionIdentifier"]) == (b"3", 1, [2])
    assert not peer.acknowledge(3)


# -- packet sizes --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.1.2-24", "MQTT-4.13.2-1")
@pytest.mark.parametrize(
    "request_",
    [
        MQTTSubscribePacket(1, tuple([MQTTSubscription(f"{n}") for n in range(50)])),
        MQTTUnsubscribePacket(1, tuple([f"{n}" for n in range(50)])),
    ],
)
def test_an_answer_that_is_too_large_for_its_client_ends_the_connection_with_a_reason(request_: MQTTPacket) -> None:
    peer = connect(BrokerCore(), MaximumPacketSize=40)
    answer = peer.one(request_)
    assert (answer.kind, answer.reason_code) == ("DISCONNECT", 0x95)
    assert peer.end.closing


@pytest.mark.spec("MQTT-3.4.2-3", "MQTT-3.5.2-3", "MQTT-3.6.2-2", "MQTT-3.6.2-3", "MQTT-3.7.2-2", "MQTT-3.7.2-3", "MQTT-3.9.2-2")
@pytest.mark.spec("MQTT-3.11.2-1", "MQTT-3.11.2-2", "MQTT-3.1.2-29")
@pytest.mark.parametrize("limit", [{"RequestProblemInformation": 0}, {"MaximumPacketSize": 20}, {}])
def test_no_acknowledgement_explains_more_than_the_client_takes(limit: dict[str, Any]) -> None:
    peer = connect(BrokerCore(), **limit)
    why: dict[str, Any] = {"ReasonString": "a rather long reason", "UserProperty": [("a", "b")]}
    for packet in (
        MQTTPubAckPacket(1, 0, MQTTPubAckProps(**why)),
        MQTTPubRecPacket(1, 0, MQTTPubRecProps(**why)),
        MQTTPubRelPacket(1, 0, MQTTPubRelProps(**why)),
        MQTTPubCompPacket(1, 0, MQTTPubCompProps(**why)),
        MQTTSubAckPacket(1, (0x80,), MQTTSubAckProps(**why)),
        MQTTUnsubAckPacket(1, (0x80,), MQTTUnsubAckProps(**why)),
    ):
        peer.end.send(packet)
    assert [p.properties for p in peer.hear()] == [{} if limit else why] * 6


@pytest.mark.spec("MQTT-3.2.2-19", "MQTT-3.2.2-20")
def test_a_refusal_is_as_large_as_the_client_takes() -> None:
    core = BrokerCore(BrokerSettings(authenticate=lambda *_: 0x87))
    assert "ReasonString" in open_with(Peer(core)).properties
    assert open_with(Peer(core), MaximumPacketSize=10).properties == {}


@pytest.mark.spec("MQTT-3.1.2-29", "MQTT-3.15.2-2", "MQTT-3.15.2-3")
@pytest.mark.parametrize("limit", [{"RequestProblemInformation": 0}, {"MaximumPacketSize": 60}])
def test_auth_explains_nothing_to_who_does_not_want_it(limit: dict[str, Any]) -> None:
    peer = open_with_method(BrokerCore(WITH_METHOD), **limit)
    explained = MQTTAuthProps(AuthenticationMethod=METHOD, ReasonString="long" * 10, UserProperty=(("a", "b"),))
    peer.end.send(MQTTAuthPacket(0x18, explained))
    assert [p.properties for p in peer.hear()] == [{"AuthenticationMethod": METHOD}]


# -- 3.14: DISCONNECT ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.14.2.2.2")
def test_what_connect_asked_for_decides_whether_disconnect_may_change_the_expiry() -> None:
    core = BrokerCore(BrokerSettings(session_expiry_max_s=0))
    lasting = MQTTDisconnectPacket(0, MQTTDisconnectProps(SessionExpiryInterval=5))
    peer = connect(core, SessionExpiryInterval=10)
    assert not peer.say(lasting)
    assert peer.end.closing
    assert connect(core).one(lasting).reason_code == 0x82


@pytest.mark.spec("MQTT-3.14.4-3", "MQTT-3.1.2-10")
@pytest.mark.parametrize("code", [0x00, 0x04, 0x80, 0x99])
def test_only_a_normal_disconnection_takes_the_will_back(code: int) -> None:
    core = BrokerCore()
    watcher = connect(core, "watcher")
    watcher.subscribe("w")
    connect(core, will=MQTTWill("w", b"gone")).say(MQTTDisconnectPacket(code))
    assert len(watcher.hear()) == (code != 0)


@pytest.mark.spec("MQTT-3.14.2.2.2", "MQTT-3.1.2-8")
def test_a_disconnect_that_is_no_valid_one_leaves_the_will() -> None:
    core = BrokerCore()
    watcher = connect(core, "watcher")
    watcher.subscribe("w")
    peer = connect(core, will=MQTTWill("w", b"gone"))
    assert peer.one(MQTTDisconnectPacket(0, MQTTDisconnectProps(SessionExpiryInterval=5))).reason_code == 0x82
    assert len(watcher.hear()) == 1


# -- 4.8: shared subscriptions -------------------------------------------------------------------------------------------------------------


def share(core: BrokerCore, *names: str, **properties: Any) -> list[Peer]:
    """Connect clients with sessions that share a subscription to "a"."""
    members = [connect(core, name, SessionExpiryInterval=9, **properties) for name in names]
    for member in members:
        member.subscribe("$share/g/a")
    return members


@pytest.mark.spec("MQTT-4.8.2-4", "MQTT-4.8.2-5")
def test_of_a_shared_subscription_what_was_not_sent_goes_to_another_member_when_a_session_ends() -> None:
    core = BrokerCore()
    first, second = share(core, "first", "second", ReceiveMaximum=2)
    second.subscribe("$share/g/a", 1, identifier=7)
    second.lost()
    for payload, qos in ((b"1", 1), (b"2", 2), (b"3", 2), (b"4", 1)):
        core.publish("a", payload, qos=qos)
    core.publish("other", b"5", qos=1)
    assert [p.payload for p in first.hear()] == [b"1", b"2"]
    first.lost()
    again = connect(core, "first", SessionExpiryInterval=9, present=True, ReceiveMaximum=2)
    assert [(p.payload, p.dup) for p in again.hear()] == [(b"1", True), (b"2", True)]
    second = connect(core, "second", present=True)
    assert not second.hear()
    again.say(MQTTDisconnectPacket(0, MQTTDisconnectProps(SessionExpiryInterval=0)))
    # The QoS 1 message that was sent may come twice; the QoS 2 message that was sent mustn't.
    messages = second.hear()
    assert [(p.payload, p.qos, p.dup) for p in messages] == [(b"1", 1, False), (b"3", 1, False), (b"4", 1, False)]
    assert [p.properties for p in messages] == [{"SubscriptionIdentifier": [7]}] * 3


@pytest.mark.spec("MQTT-4.8.2-5")
def test_what_nobody_shares_any_more_is_forgotten() -> None:
    core = BrokerCore()
    (only,) = share(core, "only")
    only.subscribe("b")
    watcher = connect(core, "watcher", SessionExpiryInterval=9)
    watcher.subscribe("$share/g/b")
    only.lost()
    core.publish("a", qos=1)
    core.publish("b", qos=1)
    assert len(watcher.hear()) == 1
    connect(core, "only", clean_start=True).subscribe("$share/g/a")
    assert not watcher.hear()
    assert not core.sessions["only"].queue


@pytest.mark.spec("MQTT-4.8.2-6", "MQTT-4.4.0-2")
@pytest.mark.parametrize("refusal", [MQTTPubAckPacket(1, 0x80), MQTTPubRecPacket(1, 0x97)])
def test_a_shared_message_that_its_client_refuses_goes_to_nobody_else(refusal: MQTTPubAckPacket | MQTTPubRecPacket) -> None:
    core = BrokerCore()
    first, second = share(core, "first", "second")
    core.publish("a", qos=1 if isinstance(refusal, MQTTPubAckPacket) else 2)
    assert len(first.hear()) == 1
    assert not first.say(refusal)
    first.lost()
    assert not connect(core, "first", present=True).hear()
    assert not second.hear()


@pytest.mark.spec("MQTT-4.7.2-1", "MQTT-4.7.3-4")
def test_shared_and_other_subscriptions_each_have_their_copy_and_match_alike() -> None:
    core = BrokerCore()
    peer = connect(core)
    for topic_filter, identifier in (("a/#", 1), ("$share/g/a/#", 2), ("$share/h/+/b", 3), ("$share/g/#", 4), ("A/b", 5)):
        peer.subscribe(topic_filter, identifier=identifier)
    core.publish("a/b")
    assert sorted([p.properties["SubscriptionIdentifier"] for p in peer.hear()]) == [[1], [2], [3], [4]]
    core.publish("$SYS/b")
    assert not peer.hear()


# -- 4.9: flow control ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.3.4-10", "MQTT-4.9.0-3", "MQTT-2.2.1-4", "MQTT-4.1.0-1", "MQTT-4.3.1-1")
def test_everything_but_qos_1_and_2_goes_on_while_the_client_owes_acknowledgements() -> None:
    core = BrokerCore()
    peer = connect(core, ReceiveMaximum=1)
    peer.subscribe("a")
    core.publish("a", b"1", qos=2)
    core.publish("a", b"2", qos=2)
    core.publish("a", b"3")
    assert [(p.payload, p.dup) for p in peer.hear()] == [(b"1", False), (b"3", False)]
    packets = (MQTTPublishPacket("b", qos=1, packet_id=1), MQTTPublishPacket("b", qos=2, packet_id=2), MQTTPubRelPacket(2))
    assert peer.kinds(*packets, MQTTPingReqPacket()) == ["PUBACK", "PUBREC", "PUBCOMP", "PINGRESP"]
    assert [p.kind for p in peer.subscribe("b")] == ["SUBACK"]
    core.tick(1_000_000.0)
    assert peer.kinds(MQTTPubRecPacket(1)) == ["PUBREL"]
    assert [(p.packet_id, p.payload) for p in peer.say(MQTTPubCompPacket(1))] == [(2, b"2")]
