"""Messages through the broker's core: QoS flows, resuming, subscriptions, retained messages, expiry, aliases, limits."""

from __future__ import annotations

from typing import Any

import pytest

from ohmqtt.packet import (
    MQTTPacket,
    MQTTPubAckPacket,
    MQTTPubCompPacket,
    MQTTPublishPacket,
    MQTTPubRecPacket,
    MQTTPubRelPacket,
    MQTTSubscribePacket,
    MQTTSubscription,
    MQTTUnsubscribePacket,
)
from ohmqtt.property import MQTTPublishProps
from ohmqtt.testing.broker import BrokerCore, BrokerSettings, Delivery, Message
from tests.broker_core_tools import connect

# -- from publishers ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.3.4-1", "MQTT-2.2.1-5", "MQTT-4.3.2-4", "MQTT-4.3.3-8", "MQTT-4.3.3-11")
def test_a_publish_is_answered_as_its_qos_asks() -> None:
    core = BrokerCore(BrokerSettings(report_no_subscribers=False))
    peer = connect(core)
    assert not peer.publish("a")
    assert [(p.kind, p.packet_id, p.reason_code) for p in peer.publish("a", qos=1, packet_id=65_535)] == [("PUBACK", 65_535, 0)]
    assert [(p.kind, p.packet_id, p.reason_code) for p in peer.publish("a", qos=2, packet_id=256)] == [("PUBREC", 256, 0)]
    assert core.sessions["c"].received == {256}
    assert [(p.kind, p.reason_code) for p in peer.say(MQTTPubRelPacket(256))] == [("PUBCOMP", 0)]
    assert [(p.kind, p.reason_code) for p in peer.say(MQTTPubRelPacket(256))] == [("PUBCOMP", 0x92)]


def test_nobody_subscribed_is_told() -> None:
    peer = connect(BrokerCore())
    assert peer.publish("a", qos=1)[0].reason_code == 0x10
    assert peer.publish("a", qos=2)[0].reason_code == 0x10


@pytest.mark.spec("MQTT-4.3.3-10", "MQTT-4.3.3-12", "MQTT-3.3.1-3")
def test_a_repeated_qos_2_message_is_passed_on_once() -> None:
    core = BrokerCore()
    watcher = connect(core, "watcher")
    watcher.subscribe("a")
    peer = connect(core, SessionExpiryInterval=9)
    peer.publish("a", qos=2)
    peer.lost()
    peer = connect(core, SessionExpiryInterval=9, present=True)
    assert [p.kind for p in peer.publish("a", qos=2, dup=True)] == ["PUBREC"]
    assert len(watcher.hear()) == 1
    peer.say(MQTTPubRelPacket(1))
    peer.publish("a", qos=2, dup=True)
    assert [p.dup for p in watcher.hear()] == [False]


@pytest.mark.spec("MQTT-4.3.3-9")
def test_who_may_not_publish_is_told_and_nothing_is_passed_on() -> None:
    core = BrokerCore(BrokerSettings(authorize=lambda client_id, action, topic: 0x87 if topic == "secret" else None))
    peer = connect(core)
    assert [p.reason_codes for p in peer.say(MQTTSubscribePacket(1, (MQTTSubscription("secret"), MQTTSubscription("#"))))] == [[0x87, 2]]
    assert not peer.publish("secret")
    (refusal,) = peer.publish("secret", qos=1)
    assert (refusal.kind, refusal.reason_code) == ("PUBACK", 0x87)
    assert "secret" in refusal.properties["ReasonString"]
    (refusal,) = peer.publish("secret", qos=2)
    assert (refusal.kind, refusal.reason_code) == ("PUBREC", 0x87)
    assert not core.sessions["c"].received
    assert [p.kind for p in peer.publish("open")] == ["PUBLISH"]


@pytest.mark.spec("MQTT-3.1.2-29", "MQTT-3.4.2-2", "MQTT-3.5.2-2", "MQTT-3.9.2-1")
def test_explanations_are_left_out_if_unwanted_or_too_large() -> None:
    core = BrokerCore(BrokerSettings(authorize=lambda client_id, action, topic: 0x87))
    limits: list[dict[str, Any]] = [{"RequestProblemInformation": 0}, {"MaximumPacketSize": 8}]
    for limit in limits:
        peer = connect(core, "c", clean_start=True, **limit)
        assert peer.publish("a", qos=1)[0].properties == {}
        assert peer.publish("a", qos=2)[0].properties == {}
        assert peer.subscribe("a")[0].properties == {}


def test_a_payload_that_is_not_what_it_says() -> None:
    core = BrokerCore()
    text = MQTTPublishProps(PayloadFormatIndicator=1)

    def wrong(qos: int) -> bytes:
        encoded = MQTTPublishPacket("a", b"12345", qos, packet_id=1 if qos else 0, properties=text).encode()
        return encoded.replace(b"12345", b"1234\xff")

    peer = connect(core)
    assert peer.one(wrong(1)).reason_code == 0x99
    assert peer.one(wrong(2)).reason_code == 0x99
    assert peer.one(wrong(0)).reason_code == 0x99
    assert peer.end.closing
    assert connect(core).publish("a", b"fine", qos=1, properties=text)[0].reason_code == 0x10


@pytest.mark.parametrize(
    ("settings", "packet", "code"),
    [
        (BrokerSettings(maximum_qos=1), MQTTPublishPacket("a", b"", 2, packet_id=1), 0x9B),
        (BrokerSettings(retain_available=False), MQTTPublishPacket("a", b"", retain=True), 0x9A),
        (BrokerSettings(), MQTTPublishPacket("a", b"", properties=MQTTPublishProps(SubscriptionIdentifier=1)), 0x82),
        (BrokerSettings(), MQTTPublishPacket("a", b"", properties=MQTTPublishProps(TopicAlias=17)), 0x94),
        (BrokerSettings(), MQTTPublishPacket("", b"", properties=MQTTPublishProps(TopicAlias=1)), 0x82),
    ],
)
def test_a_publish_beyond_the_limits_ends_the_connection(settings: BrokerSettings, packet: MQTTPacket, code: int) -> None:
    assert connect(BrokerCore(settings)).one(packet).reason_code == code


@pytest.mark.spec("MQTT-3.3.4-7")
def test_more_than_the_receive_maximum_ends_the_connection() -> None:
    peer = connect(BrokerCore(BrokerSettings(receive_maximum=2)))
    peer.publish("a", qos=1)
    peer.publish("a", qos=2, packet_id=1)
    peer.publish("a", qos=2, packet_id=2)
    assert [p.kind for p in peer.publish("a", qos=2, packet_id=2, dup=True)] == ["PUBREC"]
    peer.say(MQTTPubRelPacket(1))
    peer.publish("a", qos=2, packet_id=3)
    assert peer.publish("a", qos=1, packet_id=4)[0].reason_code == 0x93


@pytest.mark.spec("MQTT-3.3.2-12", "MQTT-3.3.2-7")
def test_a_client_may_use_every_alias_and_move_it() -> None:
    core = BrokerCore(BrokerSettings(topic_alias_maximum=2))
    watcher = connect(core, "watcher")
    watcher.subscribe("#")
    peer = connect(core)
    for topic, alias in (("a", 1), ("b", 2), ("", 1), ("", 2), ("c", 2), ("", 2), ("", 1)):
        peer.publish(topic, properties=MQTTPublishProps(TopicAlias=alias))
    assert [(p.topic, p.properties) for p in watcher.hear()] == [(topic, {}) for topic in "ababcca"]


# -- to subscribers -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.3.2-4", "MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-17", "MQTT-3.3.2-18", "MQTT-3.3.2-20", "MQTT-3.3.2-3")
def test_a_message_passes_with_all_its_properties() -> None:
    core = BrokerCore()
    watcher = connect(core, "watcher")
    watcher.subscribe("a", identifier=7)
    properties = MQTTPublishProps(
        PayloadFormatIndicator=1,
        ContentType="t",
        ResponseTopic="r",
        CorrelationData=b"\0\xff",
        UserProperty=(("b", "1"), ("a", "2"), ("b", "1")),
    )
    connect(core).publish("a", properties=properties)
    (message,) = watcher.hear()
    assert message.properties == {
        "PayloadFormatIndicator": 1,
        "ContentType": "t",
        "ResponseTopic": "r",
        "CorrelationData": b"\0\xff",
        "SubscriptionIdentifier": [7],
        "UserProperty": [("b", "1"), ("a", "2"), ("b", "1")],
    }


@pytest.mark.spec("MQTT-3.8.4-8", "MQTT-3.2.2-10", "MQTT-3.8.4-7")
@pytest.mark.parametrize("granted", [0, 1, 2])
def test_the_lower_qos_counts(granted: int) -> None:
    core = BrokerCore()
    watcher = connect(core, "watcher")
    assert watcher.subscribe("a", granted)[0].reason_codes == [granted]
    for qos in (0, 1, 2):
        core.publish("a", qos=qos)
    assert sorted(p.qos for p in watcher.hear()) == sorted(min(qos, granted) for qos in (0, 1, 2))
    limited = connect(BrokerCore(BrokerSettings(maximum_qos=1)))
    assert limited.subscribe("a", granted)[0].reason_codes == [min(1, granted)]


@pytest.mark.spec(
    "MQTT-4.3.2-2", "MQTT-4.3.2-3", "MQTT-4.3.3-2", "MQTT-4.3.3-4", "MQTT-4.3.3-5", "MQTT-4.3.3-6", "MQTT-4.4.0-1", "MQTT-3.3.1-1"
)
def test_a_resumed_session_goes_on_where_it_stopped() -> None:
    core = BrokerCore()
    watcher = connect(core, SessionExpiryInterval=99)
    watcher.subscribe("#")
    for number, qos in enumerate((1, 2, 2, 1, 2)):
        core.publish(f"{number}", qos=qos)
    assert [(p.packet_id, p.qos, p.dup) for p in watcher.hear()] == [(1, 1, 0), (2, 2, 0), (3, 2, 0), (4, 1, 0), (5, 2, 0)]
    assert watcher.kinds(MQTTPubRecPacket(3), MQTTPubRecPacket(2), MQTTPubAckPacket(4)) == ["PUBREL", "PUBREL"]
    assert watcher.kinds(MQTTPubRecPacket(2)) == ["PUBREL"]
    watcher.lost()
    core.publish("later", qos=1)
    watcher = connect(core, SessionExpiryInterval=99, present=True)
    answers = watcher.hear()
    assert [(p.kind, p.packet_id) for p in answers] == [("PUBREL", 3), ("PUBREL", 2), ("PUBLISH", 1), ("PUBLISH", 5), ("PUBLISH", 6)]
    assert [p.dup for p in answers[2:]] == [True, True, False]
    watcher.say(MQTTPubCompPacket(3), MQTTPubCompPacket(2), MQTTPubAckPacket(1), MQTTPubRecPacket(5, 0x97), MQTTPubAckPacket(6))
    watcher.lost()
    assert not connect(core, present=True).hear()


@pytest.mark.spec("MQTT-3.3.4-9", "MQTT-4.9.0-1", "MQTT-4.9.0-2", "MQTT-4.9.0-3")
def test_no_more_than_the_client_takes_is_in_flight_also_when_resumed() -> None:
    core = BrokerCore(BrokerSettings(queue_qos0=True))
    watcher = connect(core, SessionExpiryInterval=99)
    watcher.subscribe("#")
    for number in range(4):
        core.publish(f"{number}", qos=2 if number else 1)
    assert len(watcher.hear()) == 4
    watcher.say(MQTTPubRecPacket(2))
    watcher.lost()
    core.publish("offline", qos=0)
    core.publish("offline", qos=1)
    watcher = connect(core, present=True, ReceiveMaximum=1, SessionExpiryInterval=99)
    assert [(p.kind, p.packet_id) for p in watcher.hear()] == [("PUBREL", 2), ("PUBLISH", 1)]
    assert watcher.kinds(b"\xc0\x00") == ["PINGRESP"]
    assert not watcher.say(MQTTPubRecPacket(4, 0x80), MQTTPubRecPacket(99, 0x80), MQTTPubAckPacket(99), MQTTPubCompPacket(99))[1:]
    # What ends on this connection without having been sent on it gives nothing back.
    assert not watcher.say(MQTTPubCompPacket(2))
    assert [p.packet_id for p in watcher.acknowledge(1)] == [3]
    # What was ended before it was sent again isn't sent again.
    answers = watcher.say(MQTTPubRecPacket(3), MQTTPubCompPacket(3))
    assert [(p.kind, p.qos if p.kind == "PUBLISH" else None) for p in answers] == [("PUBREL", None), ("PUBLISH", 0), ("PUBLISH", 1)]
    assert list(core.sessions["c"].in_flight) == [5]


@pytest.mark.spec("MQTT-2.2.1-4", "MQTT-4.3.2-1", "MQTT-4.3.3-1")
def test_the_next_identifier_is_a_free_one() -> None:
    core = BrokerCore()
    watcher = connect(core)
    watcher.subscribe("a")
    core.publish("a", qos=1)
    session = core.sessions["c"]
    session.packet_id = 65_535
    core.publish("a", qos=2)
    assert [p.packet_id for p in watcher.hear()] == [1, 2]


@pytest.mark.parametrize("wrong", [MQTTPubAckPacket(2), MQTTPubRecPacket(1), MQTTPubCompPacket(2)])
def test_an_acknowledgement_of_the_wrong_kind_is_a_protocol_error(wrong: MQTTPacket) -> None:
    core = BrokerCore()
    watcher = connect(core)
    watcher.subscribe("a")
    core.publish("a", qos=1)
    core.publish("a", qos=2)
    watcher.hear()
    assert watcher.one(wrong).reason_code == 0x82


def test_a_pubrec_for_nothing_gets_0x92() -> None:
    release = connect(BrokerCore()).one(MQTTPubRecPacket(5))
    assert (release.kind, release.reason_code) == ("PUBREL", 0x92)


@pytest.mark.spec("MQTT-3.1.2-25")
def test_what_is_too_large_for_the_client_counts_as_sent() -> None:
    core = BrokerCore()
    watcher = connect(core, SessionExpiryInterval=99)
    watcher.subscribe("a")
    core.publish("a", bytes(100), qos=1)
    watcher.lost()
    watcher = connect(core, SessionExpiryInterval=99, present=True, MaximumPacketSize=50)
    core.publish("a", bytes(100), qos=1)
    core.publish("a", bytes(100))
    core.publish("a", b"small", qos=1)
    assert [p.payload for p in watcher.hear()] == [b"small"]
    assert len(core.sessions["c"].in_flight) == 1


@pytest.mark.spec("MQTT-4.5.0-1")
def test_what_waits_has_bounds() -> None:
    core = BrokerCore(BrokerSettings(queue_messages_max=2, output_bytes_max=10))
    watcher = connect(core, SessionExpiryInterval=99)
    watcher.subscribe("a")
    for _ in range(3):
        core.publish("a", bytes(10))
    assert len(watcher.hear()) == 1
    watcher.lost()
    core.publish("a")
    for _ in range(3):
        core.publish("a", qos=1)
    session = core.sessions["c"]
    assert (len(session.queue), session.dropped) == (2, 4)
    assert repr(session) == "Session('c', connected=False, queue=2)"


@pytest.mark.spec("MQTT-3.3.2-5", "MQTT-3.3.2-6")
def test_messages_age_while_they_wait() -> None:
    core = BrokerCore()
    watcher = connect(core, SessionExpiryInterval=99)
    watcher.subscribe("#")
    watcher.lost()
    core.publish("short", qos=1, properties=MQTTPublishProps(MessageExpiryInterval=5), now=10.0)
    core.publish("long", qos=1, properties=MQTTPublishProps(MessageExpiryInterval=50))
    watcher = connect(core, SessionExpiryInterval=99, present=True, now=15.5)
    core.tick(15.5)
    watcher.lost(20.5)
    watcher = connect(core, SessionExpiryInterval=99, present=True, now=20.5)
    assert [(p.topic, p.properties) for p in watcher.hear()] == [("long", {"MessageExpiryInterval": 40})]


@pytest.mark.spec("MQTT-3.1.2-26", "MQTT-3.1.2-27", "MQTT-3.3.2-11")
def test_the_broker_uses_the_aliases_that_the_client_offers() -> None:
    core = BrokerCore()
    watcher = connect(core, TopicAliasMaximum=1)
    watcher.subscribe("#")
    for topic in ("topic/1", "topic/1", "topic/2"):
        core.publish(topic)
    got = [(p.topic, p.properties) for p in watcher.hear()]
    assert got == [("topic/1", {"TopicAlias": 1}), ("", {"TopicAlias": 1}), ("topic/2", {})]
    own = MQTTPublishPacket("x", properties=MQTTPublishProps(TopicAlias=1))
    watcher.end.transmit(own)
    assert watcher.hear()[0].topic == "x"


def test_an_alias_that_does_not_fit_is_left_off() -> None:
    core = BrokerCore()
    watcher = connect(core, TopicAliasMaximum=5, MaximumPacketSize=14)
    watcher.subscribe("#")
    for payload in (b"x" * 8, b"x", b"x" * 8):
        core.publish("a", payload)
    assert [(p.topic, "TopicAlias" in p.properties) for p in watcher.hear()] == [("a", False), ("a", True), ("a", False)]


# -- subscriptions ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.3.4-2", "MQTT-3.3.4-3", "MQTT-3.3.4-4", "MQTT-3.3.4-5")
def test_overlapping_subscriptions() -> None:
    for one_copy, expected in (
        (True, [(2, True, [1, 2])]),
        (False, [(1, False, [1]), (2, True, [2]), (0, False, [])]),
    ):
        core = BrokerCore(BrokerSettings(one_copy=one_copy))
        watcher = connect(core)
        watcher.subscribe("a/+", 1, identifier=1)
        watcher.subscribe("a/#", 2, identifier=2, retain_as_published=True)
        watcher.subscribe("#", 0)
        core.publish("a/b", b"x", qos=2, retain=True)
        got = [(p.qos, p.retain, p.properties.get("SubscriptionIdentifier", [])) for p in watcher.hear()]
        assert sorted(got) == sorted(expected)


@pytest.mark.spec("MQTT-3.8.3-3", "MQTT-4.7.2-1")
def test_no_local_and_topics_that_begin_with_a_dollar() -> None:
    core = BrokerCore()
    peer = connect(core)
    peer.subscribe("a", no_local=True)
    assert not peer.publish("a")
    core.publish("a")
    assert len(peer.hear()) == 1
    peer.subscribe("#")
    core.publish("$SYS/a")
    assert not peer.hear()


@pytest.mark.spec("MQTT-4.8.2-3")
def test_shared_subscriptions_take_turns_among_the_connected() -> None:
    core = BrokerCore()
    members = [connect(core, name, SessionExpiryInterval=99) for name in ("x", "y", "z")]
    for member in members:
        member.subscribe("$share/g/a", 1)
        member.subscribe("$share/other/+", 0)
    core.publish("a", qos=1)
    core.publish("a", qos=1)
    assert [sorted(p.qos for p in member.hear()) for member in members] == [[0, 1], [0, 1], []]
    for member in members[1:]:
        member.lost()
    core.publish("a", qos=1)
    assert len(members[0].hear()) == 2
    members[0].lost()
    for _ in range(3):
        core.publish("a", qos=1)
    assert [len(core.sessions[name].queue) for name in ("x", "y", "z")] == [1, 1, 1]


@pytest.mark.spec("MQTT-3.8.4-3", "MQTT-3.10.4-1", "MQTT-3.10.4-2", "MQTT-3.10.4-4", "MQTT-3.10.4-5", "MQTT-3.11.3-1", "MQTT-2.2.1-6")
def test_subscriptions_are_replaced_and_removed() -> None:
    core = BrokerCore()
    peer, other = connect(core), connect(core, "other")
    peer.subscribe("a", 2)
    peer.subscribe("a", 0)
    other.subscribe("a")
    core.publish("a", qos=2)
    assert [p.qos for p in peer.hear()] == [0]
    (answer,) = peer.say(MQTTUnsubscribePacket(9, ("b", "a")))
    assert (answer.packet_id, answer.reason_codes) == (9, [0x11, 0x00])
    core.publish("a")
    assert not peer.hear()
    other.say(MQTTUnsubscribePacket(9, ("a",)))
    assert not list(core.router.tree)


@pytest.mark.parametrize(
    ("settings", "topic_filter", "identifier", "code"),
    [
        (BrokerSettings(wildcard_subscription_available=False), "a/+", None, 0xA2),
        (BrokerSettings(wildcard_subscription_available=False), "#", None, 0xA2),
        (BrokerSettings(shared_subscription_available=False), "$share/g/a", None, 0x9E),
        (BrokerSettings(subscription_identifier_available=False), "a", 1, 0xA1),
    ],
)
def test_what_is_not_available_ends_the_connection(settings: BrokerSettings, topic_filter: str, identifier: int | None, code: int) -> None:
    peer = connect(BrokerCore(settings))
    assert peer.subscribe("plain")[0].reason_codes == [2]
    assert peer.subscribe(topic_filter, identifier=identifier)[0].reason_code == code


# -- retained messages --------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.3.1-5", "MQTT-3.3.1-6", "MQTT-3.3.1-7", "MQTT-3.3.1-8", "MQTT-3.3.1-12", "MQTT-3.3.1-13")
def test_retained_messages_are_kept_replaced_and_deleted() -> None:
    core = BrokerCore()
    peer = connect(core)
    peer.publish("a", b"old", retain=True)
    peer.publish("a", b"new", retain=True)
    peer.publish("a", b"passing")
    assert [(p.payload, p.retain) for p in peer.subscribe("+", identifier=3)[1:]] == [(b"new", True)]
    assert [p.retain for p in peer.publish("a", b"again", retain=True)] == [False]
    assert [p.payload for p in peer.publish("a", b"", retain=True)] == [b""]
    assert not core.retained
    peer.publish("a", b"", retain=True)
    assert repr(Delivery(Message("t", b"p", 1, False, MQTTPublishProps.EMPTY, "c", 0.0), 1, True, (2,))) == (
        "Delivery(Message('t', b'p', qos=1, retain=False), qos=1, retain=True, identifiers=(2,))"
    )
    assert "qos=2, identifier=3" in repr(core.sessions["c"].subscriptions["+"])


@pytest.mark.spec("MQTT-3.3.1-9", "MQTT-3.3.1-10", "MQTT-3.3.1-11", "MQTT-3.8.4-4")
@pytest.mark.parametrize(("handling", "counts"), [(0, (1, 1)), (1, (1, 0)), (2, (0, 0))])
def test_retain_handling(handling: int, counts: tuple[int, int]) -> None:
    core = BrokerCore()
    core.publish("a", b"kept", retain=True)
    core.publish("b", b"other", retain=True)
    peer = connect(core)
    assert len(peer.subscribe("a", retain_handling=handling)) - 1 == counts[0]
    assert len(peer.subscribe("a", retain_handling=handling)) - 1 == counts[1]
    assert len(peer.subscribe("$share/g/a", retain_handling=handling)) == 1


def test_retained_messages_expire() -> None:
    core = BrokerCore()
    properties = MQTTPublishProps(MessageExpiryInterval=10)
    core.publish("a", b"x", retain=True, properties=properties, now=0.0)
    core.publish("b", b"x", retain=True, now=0.0)
    peer = connect(core, now=4.0)
    assert [p.properties["MessageExpiryInterval"] for p in peer.subscribe("a")[1:]] == [6]
    core.tick(10.0)
    assert list(core.retained) == ["b"]
