"""Subscriptions as declared state, the requests about them, and which callbacks a message is due to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ohmqtt.errors import (
    ArgumentError,
    CancelledError,
    ClientClosedError,
    LinkLostError,
    PacketTooLargeError,
    ProtocolError,
    ServerLimitError,
    SubscribeError,
    UnsubscribeError,
)
from ohmqtt.packet import MQTTDisconnectPacket, MQTTSubAckPacket, MQTTSubscription, MQTTUnsubAckPacket
from ohmqtt.property import MQTTDisconnectProps, MQTTSubscribeProps, MQTTUnsubscribeProps
from ohmqtt.session import STOPPED, WAITING
from ohmqtt.session.subscriptions import FILTERS_PER_PACKET_MAX, check_filters
from tests.core_pair import Held, Pair, ack, connack, publish

if TYPE_CHECKING:
    from tests.strict_parser import WirePacket


def suback(packet: WirePacket | int, *codes: int) -> bytes:
    packet_id = packet if isinstance(packet, int) else packet.packet_id
    return MQTTSubAckPacket(packet_id, codes or (2,) * (1 if isinstance(packet, int) else len(packet.subscriptions))).encode()


def unsuback(packet_id: int, *codes: int) -> bytes:
    return MQTTUnsubAckPacket(packet_id, codes).encode()


def filters(packet: WirePacket) -> list[str]:
    if packet.kind == "UNSUBSCRIBE":
        return list(packet.topic_filters)
    return [item["topic_filter"] for item in packet.subscriptions]


OURS = range(268_435_455, 0, -1)
"""The Subscription Identifiers that are given to subscriptions without one, in their order."""


def identifier(packet: WirePacket) -> int | None:
    found: int | None = packet.properties.get("SubscriptionIdentifier")
    return found


def requests(pair: Pair) -> list[WirePacket]:
    return [packet for packet in pair.sent() if packet.kind in ("SUBSCRIBE", "UNSUBSCRIBE")]


def due(pair: Pair, topic: str, *identifiers: int, retain: bool = False) -> list[str] | None:
    """Return the filters whose callbacks are to run for a message; None if they run for another copy."""
    before = len(pair.messages())
    data = publish(topic, b"", SubscriptionIdentifier=list(identifiers))
    pair.feed(bytes((data[0] | retain,)) + data[1:])
    found = pair.session.subscriptions.due(pair.messages()[before])
    return None if found is None else [subscription.options.topic_filter for subscription in found]


def subscribed(pair: Pair, *topic_filters: str | MQTTSubscription, **more: Any) -> list[WirePacket]:
    """Subscribe, and let the server grant all that is asked for. Return the packets."""
    before = len(requests(pair))
    pair.subscribe(*topic_filters, **more)
    sent = requests(pair)[before:]
    pair.feed(*[suback(packet) for packet in sent])
    return sent


# ---- asking -----------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.8.1-1", "MQTT-3.8.3-3", "MQTT-3.8.3-5", "MQTT-3.8.4-5", "MQTT-3.3.1-9", "MQTT-3.3.1-10", "MQTT-3.3.1-11")
def test_several_filters_with_their_options_go_in_one_request() -> None:
    pair = Pair().connect()
    properties = MQTTSubscribeProps(UserProperty=[("a", "b")])
    items = [MQTTSubscription("a", 0, True, True, 1), MQTTSubscription("b/+", 1, retain_handling=2), MQTTSubscription("$share/g/c")]
    pair.subscribe(*items, properties=properties)
    (packet,) = requests(pair)
    assert filters(packet) == ["a", "b/+", "$share/g/c"]
    assert packet.raw.endswith(b"\0\x01a\x1c\0\x03b/+\x21\0\x0a$share/g/c\x02")
    assert packet.properties == {"UserProperty": [("a", "b")]}


@pytest.mark.spec("MQTT-3.8.4-7", "MQTT-3.9.3-1", "MQTT-2.2.1-6", "MQTT-3.8.4-2")
def test_answers_in_any_order_find_their_handles_and_codes_their_filters() -> None:
    pair = Pair().connect()
    first, second = pair.subscribe("a", "b", "c"), pair.subscribe("d")
    pair.feed(suback(2, 1))
    assert (first.outcome, second.outcome) == (None, MQTTSubAckPacket(2, (1,)))
    pair.feed(suback(1, 0, 0x87, 2))
    assert isinstance(first.outcome, SubscribeError)
    assert first.outcome.suback.reason_codes == (0, 0x87, 2)
    assert "'b': 0x87" in str(first.outcome)
    tree = pair.session.subscriptions.tree
    assert [subscription.granted for _, subscription in tree] == [0, 2, 1]
    assert tree.get("b") is None
    assert pair.reports() == []


@pytest.mark.spec("MQTT-3.8.4-2", "MQTT-3.10.4-5")
def test_an_answer_to_nothing_completes_nothing() -> None:
    pair = Pair().connect()
    request = pair.subscribe("a")
    pair.feed(suback(7, 0), unsuback(7, 0))
    assert request.outcome is None
    assert pair.session.connected_link() is not None


@pytest.mark.spec("MQTT-3.8.4-6", "MQTT-3.9.3-2", "MQTT-3.11.3-2")
@pytest.mark.parametrize(
    "answer",
    [
        suback(1, 0),
        suback(1, 0, 0, 0),
        unsuback(1, 0, 0),
        b"\x90\x05\0\x01\0\x03\0",
        b"\x90\x05\0\x01\0\x7f\0",
        suback(2, 0),
        unsuback(2, 0, 0),
        b"\xb0\x04\0\x02\0\x01",
    ],
)
def test_an_answer_that_does_not_fit_is_a_protocol_error_and_the_request_asked_again(answer: bytes) -> None:
    pair = Pair().connect()
    subscribe = pair.subscribe("a", "b")
    unsubscribe = pair.unsubscribe("c")
    (goodbye,) = pair.feed(answer)
    assert goodbye.reason_code in (0x81, 0x82)
    assert isinstance(pair.ending().error, ProtocolError)
    assert [packet.kind for packet in pair.reconnect()] == ["SUBSCRIBE", "UNSUBSCRIBE"]
    pair.feed(suback(requests(pair)[-2]), unsuback(requests(pair)[-1].packet_id, 0))
    assert isinstance(subscribe.outcome, MQTTSubAckPacket)
    assert isinstance(unsubscribe.outcome, MQTTUnsubAckPacket)


@pytest.mark.spec("MQTT-3.8.3-2", "MQTT-3.10.3-2")
def test_a_request_without_a_filter_is_refused() -> None:
    with pytest.raises(ArgumentError, match="at least one"):
        check_filters([])
    check_filters(["a"])


def test_requests_need_no_quota() -> None:
    pair = Pair()
    pair.start()
    pair.open()
    pair.accept(ReceiveMaximum=1)
    pair.publish(qos=1)
    pair.publish(qos=1)
    pair.subscribe("a")
    pair.unsubscribe("b")
    assert pair.kinds() == ["CONNECT", "PUBLISH", "SUBSCRIBE", "UNSUBSCRIBE"]


@pytest.mark.spec("MQTT-2.2.1-3", "MQTT-2.2.1")
def test_requests_share_the_identifiers_with_publications_and_wait_if_there_is_none() -> None:
    pair = Pair(queue_messages_max=70_000).connect()
    messages = []
    for _ in range(65_535):
        message = pair.session.outbound
        messages.append(message.allocate())
        message.in_flight[messages[-1]] = None  # type: ignore[assignment]
    request = pair.subscribe("a")
    assert requests(pair) == []
    del pair.session.outbound.in_flight[77]
    pair.pump()
    assert request.packet_id == 77
    assert filters(requests(pair)[0]) == ["a"]
    pair.session.outbound.in_flight.clear()


# ---- limits of the server --------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.2.2.3.11")
@pytest.mark.parametrize(
    ("limit", "topic_filter", "words"),
    [
        ({"SharedSubscriptionAvailable": 0}, "$share/g/a", "Shared Subscription Available"),
        ({"WildcardSubscriptionAvailable": 0}, "a/+", "Wildcard Subscription Available"),
        ({"WildcardSubscriptionAvailable": 0}, "#", "Wildcard Subscription Available"),
        ({"MaximumPacketSize": 30}, "a" * 30, "30"),
    ],
)
def test_what_the_server_cannot_do_is_refused_at_the_call_or_when_it_says_so(limit: dict[str, Any], topic_filter: str, words: str) -> None:
    pair = Pair()
    early = pair.subscribe(topic_filter)
    pair.start()
    pair.open()
    pair.accept(**limit)
    assert isinstance(early.outcome, (ServerLimitError, PacketTooLargeError))
    assert words in str(early.outcome)
    with pytest.raises((ServerLimitError, PacketTooLargeError), match=words):
        pair.subscribe(topic_filter)
    assert requests(pair) == []
    assert len(pair.session.subscriptions.tree) == 0
    pair.subscribe("fine")
    assert filters(requests(pair)[0]) == ["fine"]


@pytest.mark.spec("MQTT-3.2.2-15")
def test_a_request_may_be_as_large_as_the_server_says_and_no_larger() -> None:
    pair = Pair()
    pair.start()
    pair.open()
    pair.accept(MaximumPacketSize=40)
    pair.subscribe("a" * 32)
    assert len(requests(pair)[0].raw) == 40
    with pytest.raises(PacketTooLargeError, match=r"^SUBSCRIBE takes 41"):
        pair.subscribe("a" * 33)
    pair.unsubscribe("a" * 33)
    assert len(requests(pair)[1].raw) == 40
    with pytest.raises(PacketTooLargeError, match="UNSUBSCRIBE takes 41"):
        pair.unsubscribe("a" * 34)


@pytest.mark.spec("MQTT-3.2.2-15")
def test_an_unsubscribe_that_waited_and_is_too_large_ends_with_an_error() -> None:
    pair = Pair()
    early = pair.unsubscribe("a" * 100)
    pair.start()
    pair.open()
    pair.accept(MaximumPacketSize=40)
    assert isinstance(early.outcome, PacketTooLargeError)


@pytest.mark.spec("MQTT-3.2.2-10")
def test_maximum_qos_does_not_bound_subscriptions() -> None:
    pair = Pair()
    pair.start()
    pair.open()
    pair.accept(MaximumQoS=0)
    pair.subscribe(MQTTSubscription("a", 2))
    assert len(requests(pair)) == 1


@pytest.mark.spec("MQTT-3.2.2.3.11")
def test_identifiers_that_are_not_available_are_refused_if_named_and_left_off_if_ours() -> None:
    pair = Pair()
    pair.start()
    pair.open()
    pair.accept(SubscriptionIdentifierAvailable=0)
    with pytest.raises(ServerLimitError, match="Subscription Identifier Available"):
        pair.subscribe("a", properties=MQTTSubscribeProps(SubscriptionIdentifier=1))
    assert [identifier(packet) for packet in subscribed(pair, "a/#")] == [None]
    assert [identifier(packet) for packet in subscribed(pair, "a/b", "a/+")] == [None]
    assert due(pair, "a/b") == ["a/#", "a/b", "a/+"]


@pytest.mark.spec("MQTT-3.2.2.3.11")
@pytest.mark.parametrize("code", [0x8F, 0x9E, 0xA1, 0xA2])
def test_a_request_that_the_server_closes_upon_is_not_sent_for_ever(code: int) -> None:
    pair = Pair().connect()
    guilty, innocent = pair.subscribe("a/#"), pair.subscribe("b")
    pair.feed(MQTTDisconnectPacket(code).encode())
    assert pair.session.phase == WAITING
    assert isinstance(guilty.outcome, LinkLostError)
    assert f"0x{code:02X}" in str(guilty.outcome)
    assert innocent.outcome is None
    assert [filters(packet) for packet in pair.reconnect(session_present=False)] == [["b"]]


def test_a_request_that_was_cancelled_may_be_what_the_server_closes_upon() -> None:
    pair = Pair().connect()
    guilty, innocent = pair.subscribe("a/#"), pair.subscribe("b")
    pair.session.subscriptions.cancel(guilty)
    pair.feed(MQTTDisconnectPacket(0x8F).encode())
    assert innocent.outcome is None
    assert [filters(packet) for packet in pair.reconnect(session_present=False)] == [["b"]]


def test_a_server_that_closes_for_another_reason_has_not_choked_on_a_request() -> None:
    pair = Pair().connect()
    request = pair.subscribe("a")
    pair.feed(MQTTDisconnectPacket(0x8B).encode())
    assert request.outcome is None
    assert [filters(packet) for packet in pair.reconnect(session_present=False)] == [["a"]]


# ---- over links and sessions --------------------------------------------------------------------------------------------------------------------------------


def test_what_is_declared_before_connect_is_sent_on_connect() -> None:
    pair = Pair()
    request = pair.subscribe("a")
    pair.unsubscribe("b")
    pair.start()
    pair.open()
    assert [filters(packet) for packet in pair.accept()] == [["a"], ["b"]]
    pair.feed(suback(1, 0))
    assert isinstance(request.outcome, MQTTSubAckPacket)


def test_a_request_that_the_link_did_not_live_to_see_answered_is_sent_again_with_the_same_handle() -> None:
    pair = Pair().connect()
    handles = [pair.subscribe("a"), pair.unsubscribe("b"), pair.subscribe("c")]
    pair.lose()
    assert pair.session.outbound.requests == {}
    again = pair.reconnect(session_present=True)
    assert [filters(packet) for packet in again] == [["a"], ["b"], ["c"]]
    pair.feed(suback(again[0]), unsuback(again[1].packet_id, 0x11), suback(again[2]))
    assert [type(handle.outcome) for handle in handles] == [MQTTSubAckPacket, MQTTUnsubAckPacket, MQTTSubAckPacket]


def test_what_was_sent_goes_again_before_what_was_not() -> None:
    pair = Pair().connect()
    pair.subscribe("a")
    pair.subscribe("b")
    pair.session.unsubscribe(Held(["a"], MQTTUnsubscribeProps.EMPTY))
    pair.lose()
    assert [(packet.kind, filters(packet)) for packet in pair.reconnect()] == [
        ("SUBSCRIBE", ["a"]),
        ("SUBSCRIBE", ["b"]),
        ("UNSUBSCRIBE", ["a"]),
    ]


def test_a_resumed_session_is_not_asked_again_and_a_lost_one_wholly() -> None:
    pair = Pair().connect()
    subscribed(pair, "a", "b")
    subscribed(pair, MQTTSubscription("c", 1, retain_handling=1), properties=MQTTSubscribeProps(UserProperty=[("k", "v")]))
    pair.lose()
    assert pair.reconnect(session_present=True) == []
    pair.lose()
    first, second = pair.reconnect(session_present=False)
    assert filters(first) == ["a", "b"]
    assert filters(second) == ["c"]
    assert second.raw.endswith(b"\0\x01c\x11")
    assert second.properties == {"UserProperty": [("k", "v")]}
    pair.feed(suback(first), suback(second))
    assert pair.reports() == []


def test_in_a_new_session_retained_messages_come_although_a_subscription_was_about_to_be_told_apart() -> None:
    pair = Pair().connect()
    subscribed(pair, "y/#")
    pair.subscribe("x/#")
    pair.sent()
    pair.subscribe("+/1")
    pair.lose()
    again = pair.reconnect(session_present=False)
    handling: dict[str, list[int]] = {}
    for packet in again:
        for item in packet.subscriptions:
            handling.setdefault(item["topic_filter"], []).append(item["retain_handling"])
    assert handling["y/#"] == [0]
    assert all(0 in found for found in handling.values())


def test_many_subscriptions_are_asked_for_again_in_few_packets() -> None:
    pair = Pair().connect()
    count = FILTERS_PER_PACKET_MAX * 2 + 1
    for i in range(0, count, 100):
        subscribed(pair, *[f"t/{j}" for j in range(i, min(i + 100, count))])
    pair.lose()
    again = pair.reconnect(session_present=False)
    assert [len(packet.subscriptions) for packet in again] == [FILTERS_PER_PACKET_MAX, FILTERS_PER_PACKET_MAX, 1]


@pytest.mark.spec("MQTT-3.2.2-15")
def test_what_we_put_together_is_taken_apart_if_it_is_too_large() -> None:
    pair = Pair().connect()
    names = [f"topic/number/{i:03}" for i in range(50)]
    for name in names:
        subscribed(pair, name)
    pair.lose()
    again = pair.reconnect(session_present=False, MaximumPacketSize=100)
    assert [name for packet in again for name in filters(packet)] == names
    assert 1 < len(again) < 50
    assert all(len(packet.raw) <= 100 for packet in again)
    assert pair.reports() == []


def test_what_is_too_large_by_itself_is_reported() -> None:
    pair = Pair().connect()
    subscribed(pair, "a" * 50)
    subscribed(pair, "b")
    pair.lose()
    again = pair.reconnect(session_present=False, MaximumPacketSize=40)
    assert [filters(packet) for packet in again] == [["b"]]
    assert len(pair.reports()) == 1


def test_what_a_caller_put_together_is_not_taken_apart() -> None:
    pair = Pair()
    request = pair.subscribe("a" * 30, "b" * 30)
    pair.start()
    pair.open()
    assert pair.accept(MaximumPacketSize=40) == []
    assert isinstance(request.outcome, PacketTooLargeError)
    assert pair.reports() == []  # its handle says it


def test_what_is_taken_apart_keeps_its_identifier() -> None:
    pair = Pair().connect()
    for i in range(20):
        subscribed(pair, f"topic/{i:02}")
    subscribed(pair, "topic/+")
    pair.lose()
    again = pair.reconnect(session_present=False, MaximumPacketSize=100)
    assert len(again) > 2
    assert {identifier(packet) for packet in again if "topic/+" not in filters(packet)} == {OURS[0]}


def test_a_subscription_that_the_next_server_cannot_take_is_reported() -> None:
    pair = Pair().connect()
    subscribed(pair, "a/+")
    subscribed(pair, "b")
    pair.lose()
    again = pair.reconnect(session_present=False, WildcardSubscriptionAvailable=0)
    assert [filters(packet) for packet in again] == []
    (report,) = pair.reports()
    assert "a/+" in report.text


def test_after_a_connect_without_an_answer_the_session_may_be_a_new_one_and_is_asked_again() -> None:
    pair = Pair().connect()
    pair.subscribe("a", "b")
    pair.subscribe(MQTTSubscription("c", retain_handling=2))
    for packet in requests(pair):
        pair.feed(suback(packet))
    pair.lose()
    pair.now += 100.0
    pair.open()
    pair.lose()
    pair.log.clear()
    pair.reconnect(session_present=True)
    again = requests(pair)
    assert [filters(packet) for packet in again] == [["a", "b", "c"]]
    assert [item["retain_handling"] for packet in again for item in packet.subscriptions] == [1, 1, 2]
    for packet in again:
        pair.feed(suback(packet))
    pair.lose()
    pair.log.clear()
    pair.reconnect(session_present=True)
    assert requests(pair) == []


def test_a_refused_connect_begins_no_session() -> None:
    pair = Pair().connect()
    pair.subscribe("a")
    pair.feed(suback(requests(pair)[0]))
    pair.lose()
    pair.now += 100.0
    pair.open()
    pair.feed(connack(0x88))
    pair.log.clear()
    pair.reconnect(session_present=True)
    assert requests(pair) == []


def test_a_connect_without_an_answer_is_not_forgotten_over_a_refusal_behind_it() -> None:
    pair = Pair().connect()
    subscribed(pair, "a")
    pair.lose()
    pair.open()
    pair.lose()
    pair.open()
    pair.feed(connack(0x88))
    pair.log.clear()
    pair.reconnect(session_present=True)
    assert [filters(packet) for packet in requests(pair)] == [["a"]]


def test_a_connect_that_never_left_begins_no_session() -> None:
    pair = Pair().connect()
    subscribed(pair, "a")
    pair.lose()
    pair.now += 100.0
    assert pair.session.dial(pair.now)
    assert pair.session.opened(pair.now)
    pair.lose()
    pair.log.clear()
    pair.reconnect(session_present=True)
    assert requests(pair) == []


def test_a_subscription_that_is_refused_after_a_lost_session_is_reported_and_gone() -> None:
    pair = Pair().connect()
    subscribed(pair, "a", "b")
    pair.lose()
    (again,) = pair.reconnect(session_present=False)
    pair.feed(suback(again, 0, 0x87))
    (report,) = pair.reports()
    assert "'b': 0x87" in report.text
    assert [topic_filter for topic_filter, _ in pair.session.subscriptions.tree] == ["a"]


def test_what_is_about_to_be_ended_is_not_asked_for_again() -> None:
    pair = Pair().connect()
    subscribed(pair, "a")
    subscribed(pair, "b")
    pair.unsubscribe("a")
    pair.lose()
    again = pair.reconnect(session_present=False)
    assert [(packet.kind, filters(packet)) for packet in again] == [("SUBSCRIBE", ["b"]), ("UNSUBSCRIBE", ["a"])]


def test_our_own_request_that_was_lost_with_its_link_is_made_anew() -> None:
    pair = Pair().connect()
    subscribed(pair, "a")
    pair.lose()
    pair.reconnect(session_present=False)
    pair.lose()
    assert [filters(packet) for packet in pair.reconnect(session_present=True)] == [["a"]]
    pair.lose()
    assert [filters(packet) for packet in pair.reconnect(session_present=False)] == [["a"]]


def test_our_own_request_about_a_session_that_is_lost_is_not_sent_to_the_new_one() -> None:
    pair = Pair().connect()
    subscribed(pair, "a/#")
    pair.subscribe("a/b")  # with it goes a request of our own, without retained messages
    pair.lose()
    again = pair.reconnect(session_present=False)
    assert [(filters(packet), identifier(packet)) for packet in again] == [(["a/#"], OURS[0]), (["a/b"], OURS[1])]
    assert again[0].raw.endswith(b"\0\x03a/#\x02")


def test_a_lost_session_does_not_part_a_waiting_request_from_its_identifier() -> None:
    pair = Pair().connect()
    subscribed(pair, "y/#")
    pair.subscribe("x/#")
    pair.subscribe("+/1")
    pair.lose()
    again = pair.reconnect(session_present=False)
    last = {name: identifier(packet) for packet in again for name in filters(packet)}
    assert last == {"x/#": OURS[0], "y/#": OURS[0], "+/1": OURS[1]}


@pytest.mark.spec("MQTT-3.10.4-3", "MQTT-3.8.4", "MQTT-3.10.4-2")
def test_a_message_before_its_suback_and_after_its_unsuback_is_answered() -> None:
    pair = Pair().connect()
    pair.subscribe("a")
    assert due(pair, "a") == ["a"]
    pair.feed(suback(1, 2))
    pair.unsubscribe("a")
    pair.feed(publish("a", b"", 2, 1))
    pair.feed(unsuback(2, 0))
    assert [packet.kind for packet in pair.answer(pair.messages()[-1])] == ["PUBREC"]
    assert [packet.kind for packet in pair.feed(ack(0x62, 1))] == ["PUBCOMP"]


# ---- replacing and ending -----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.8.4-3")
def test_the_same_filter_replaces_the_subscription_and_its_callback() -> None:
    pair = Pair().connect()
    subscribed(pair, "a", callback=len)
    subscribed(pair, MQTTSubscription("a", 0), callback=max)
    ((_, subscription),) = pair.session.subscriptions.tree
    assert subscription.callback is max
    assert subscription.options.max_qos == 0
    pair.lose()
    (again,) = pair.reconnect(session_present=False)
    assert again.raw.endswith(b"\0\x01a\0")


def test_a_refused_replacement_ends_the_subscription() -> None:
    pair = Pair().connect()
    subscribed(pair, "a")
    request = pair.subscribe("a")
    pair.feed(suback(2, 0x80))
    assert isinstance(request.outcome, SubscribeError)
    assert len(pair.session.subscriptions.tree) == 0


def test_a_refusal_counts_although_our_own_request_behind_it_was_granted_before() -> None:
    pair = Pair().connect()
    pair.subscribe("a/#")
    pair.subscribe("a/b")
    first, again, narrow = requests(pair)
    pair.feed(suback(again), suback(narrow), suback(first, 0x80))
    assert [topic_filter for topic_filter, _ in pair.session.subscriptions.tree] == ["a/b"]


def test_the_answer_to_a_replaced_request_touches_only_its_own() -> None:
    pair = Pair().connect()
    old, new = pair.subscribe("a"), pair.subscribe("a")
    pair.feed(suback(1, 0x80), suback(2, 1))
    assert isinstance(old.outcome, SubscribeError)
    assert isinstance(new.outcome, MQTTSubAckPacket)
    assert len(pair.session.subscriptions.tree) == 1


def test_the_same_filter_twice_in_a_call_counts_once() -> None:
    pair = Pair().connect()
    (packet,) = subscribed(pair, "a", "a")
    assert filters(packet) == ["a", "a"]
    assert len(pair.session.subscriptions.tree) == 1
    assert pair.session.subscriptions.identifiers == {}


@pytest.mark.spec("MQTT-3.10.1-1", "MQTT-3.10.4-6", "MQTT-3.11.3-1", "MQTT-4.8.2")
def test_unsubscribe_ends_what_the_server_confirms() -> None:
    pair = Pair().connect()
    subscribed(pair, "a", "b", "$share/g/c")
    request = pair.unsubscribe("a", "b", "$share/g/c", "never", properties=MQTTUnsubscribeProps(UserProperty=[("k", "v")]))
    packet = requests(pair)[-1]
    assert filters(packet) == ["a", "b", "$share/g/c", "never"]
    assert packet.raw[0] == 0xA2
    assert packet.properties == {"UserProperty": [("k", "v")]}
    assert len(pair.session.subscriptions.tree) == 3  # callbacks stay until the server has confirmed
    pair.feed(unsuback(packet.packet_id, 0, 0x87, 0x00, 0x11))
    assert isinstance(request.outcome, UnsubscribeError)
    assert request.outcome.unsuback.reason_codes == (0, 0x87, 0, 0x11)
    assert "'b': 0x87" in str(request.outcome)
    assert [topic_filter for topic_filter, _ in pair.session.subscriptions.tree] == ["b"]


@pytest.mark.spec("MQTT-3.10.4-5")
def test_no_subscription_existed_is_a_success() -> None:
    pair = Pair().connect()
    request = pair.unsubscribe("a")
    pair.feed(unsuback(1, 0x11))
    assert isinstance(request.outcome, MQTTUnsubAckPacket)
    assert [entry for kind, entry in pair.log if kind == "resolved"] == [request]
    assert pair.session.subscriptions.unsubscribing == []


def test_an_unspecified_error_ends_no_subscription() -> None:
    pair = Pair().connect()
    subscribed(pair, "a")
    request = pair.unsubscribe("a")
    pair.feed(unsuback(2, 0x80))
    assert isinstance(request.outcome, UnsubscribeError)
    assert pair.session.subscriptions.tree.get("a") is not None


def test_an_unsubscribe_does_not_end_what_is_subscribed_behind_it() -> None:
    pair = Pair().connect()
    subscribed(pair, "a", callback=len)
    pair.unsubscribe("a")
    pair.subscribe("a", callback=max)
    pair.feed(unsuback(2, 0))
    ((_, subscription),) = pair.session.subscriptions.tree
    assert subscription.callback is max
    pair.feed(suback(3, 0))
    assert subscription.granted == 0


# ---- giving up ---------------------------------------------------------------------------------------------------------------------------------------------


def test_a_cancelled_request_is_not_sent() -> None:
    pair = Pair()
    subscribe, unsubscribe = pair.subscribe("a"), pair.unsubscribe("b")
    assert pair.session.subscriptions.cancel(subscribe)
    assert pair.session.subscriptions.cancel(unsubscribe)
    assert not pair.session.subscriptions.cancel(subscribe)
    assert isinstance(subscribe.outcome, CancelledError)
    pair.start()
    pair.open()
    assert pair.accept() == []
    assert len(pair.session.subscriptions.tree) == 0


def test_a_cancelled_request_gives_way_to_the_one_behind_it() -> None:
    pair = Pair()
    pair.session.subscriptions.cancel(pair.subscribe("a"))
    pair.subscribe("b")
    pair.start()
    pair.open()
    assert [filters(packet) for packet in pair.accept()] == [["b"]]


def test_a_cancelled_request_that_was_sent_keeps_its_identifier_until_the_answer() -> None:
    pair = Pair().connect()
    subscribe = pair.subscribe("a")
    pair.session.subscriptions.cancel(subscribe)
    assert 1 in pair.session.outbound.requests
    pair.feed(suback(1, 0))
    assert pair.session.outbound.requests == {}
    assert isinstance(subscribe.outcome, CancelledError)
    subscribed(pair, "b")
    unsubscribe = pair.unsubscribe("b")
    pair.session.subscriptions.cancel(unsubscribe)
    pair.feed(unsuback(3, 0))
    assert len(pair.session.subscriptions.tree) == 0


def test_a_cancelled_unsubscribe_between_two_links_ends_nothing() -> None:
    pair = Pair().connect()
    subscribed(pair, "a")
    pair.lose()
    pair.session.subscriptions.cancel(pair.unsubscribe("a"))
    assert [(packet.kind, filters(packet)) for packet in pair.reconnect(session_present=False)] == [("SUBSCRIBE", ["a"])]
    assert pair.session.subscriptions.unsubscribing == []


def test_a_cancelled_request_ends_with_its_link() -> None:
    pair = Pair().connect()
    subscribed(pair, "b")
    pair.session.subscriptions.cancel(pair.subscribe("a"))
    pair.session.subscriptions.cancel(pair.unsubscribe("b"))
    pair.lose()
    # Nobody knows whether the server has ended the subscription, so it is asked for again.
    assert [filters(packet) for packet in pair.reconnect(session_present=True)] == [["b"]]


def test_a_goodbye_settles_requests_and_keeps_the_declarations() -> None:
    pair = Pair().connect(SessionExpiryInterval=100)
    subscribed(pair, "a/#")
    sent = pair.subscribe("a/b")  # with it goes a request of our own, for the older one
    pair.disconnect()
    assert isinstance(sent.outcome, ClientClosedError)
    pair.start()
    pair.open()
    again = pair.accept(session_present=True)
    assert sorted(name for packet in again for name in filters(packet)) == ["a/#", "a/b"]


def test_another_session_is_asked_for_everything() -> None:
    pair = Pair(adopt_session=True).connect("one")
    subscribed(pair, "a")
    pair.feed(MQTTDisconnectPacket(0x98, MQTTDisconnectProps.EMPTY).encode())
    assert pair.session.phase == STOPPED
    pair.start("two")
    pair.open()
    assert [filters(packet) for packet in pair.accept(session_present=True)] == [["a"]]


# ---- overlapping filters -----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.3.4-3", "MQTT-3.3.4-4", "MQTT-3.3.4-5")
def test_overlapping_subscriptions_are_told_apart_by_identifiers() -> None:
    pair = Pair().connect()
    (wide,) = subscribed(pair, MQTTSubscription("a/#", 1, no_local=True))
    assert identifier(wide) is None
    again, narrow = subscribed(pair, "a/b")
    assert filters(again) == ["a/#"]
    assert again.raw.endswith(b"\0\x03a/#\x25")  # its options, and Retain Handling 2
    one, two = identifier(again), identifier(narrow)
    assert one is not None
    assert two is not None
    assert one != two
    # A server that sends one copy, one that sends several, and messages that only one of them gets.
    assert due(pair, "a/b", one, two) == ["a/#", "a/b"]
    assert due(pair, "a/b", one) == ["a/#"]
    assert due(pair, "a/b", two) == ["a/b"]
    assert due(pair, "a/c", one) == ["a/#"]
    assert due(pair, "a/b") == ["a/#", "a/b"]


def test_without_an_overlap_no_message_pays_for_an_identifier() -> None:
    pair = Pair().connect()
    assert [identifier(packet) for name in ("a", "b/+", "c/#", "b/c/d") for packet in subscribed(pair, name)] == [None] * 4
    assert pair.session.subscriptions.identifiers == {}


def test_declared_before_connect_an_identifier_that_the_caller_names_is_given_up_in_order() -> None:
    pair = Pair()
    pair.subscribe("a/#")
    pair.subscribe("a/b")
    pair.subscribe("a/+", properties=named(OURS[1]))
    pair.start()
    pair.open()
    sent = [(filters(packet), identifier(packet)) for packet in pair.accept()]
    assert sent == [(["a/#"], None), (["a/#"], OURS[0]), (["a/b"], OURS[1]), (["a/b"], OURS[2]), (["a/+"], OURS[1])]


def test_older_ones_that_do_not_overlap_each_other_share_a_request_and_an_identifier() -> None:
    pair = Pair().connect()
    for i in range(FILTERS_PER_PACKET_MAX + 5):
        subscribed(pair, f"t/{i}")
    *again, wide = subscribed(pair, "#")
    assert [len(packet.subscriptions) for packet in again] == [FILTERS_PER_PACKET_MAX, 5]
    assert {identifier(packet) for packet in again} == {OURS[0]}
    assert identifier(wide) == OURS[1]
    assert due(pair, "t/7", OURS[0]) == ["t/7"]
    assert due(pair, "t/7", OURS[1]) == ["#"]
    assert due(pair, "t/7", *OURS[:2]) == ["t/7", "#"]
    later = subscribed(pair, "t/+")
    assert [(filters(packet), identifier(packet)) for packet in later] == [(["t/+"], OURS[2])]


def test_identifiers_survive_a_lost_session() -> None:
    pair = Pair().connect()
    subscribed(pair, "a/#")
    subscribed(pair, "a/b")
    subscribed(pair, "c")
    pair.lose()
    again = pair.reconnect(session_present=False)
    assert [(filters(packet), identifier(packet)) for packet in again] == [(["a/#"], OURS[0]), (["a/b"], OURS[1]), (["c"], None)]


def test_an_identifier_that_the_caller_names_is_used() -> None:
    pair = Pair().connect()
    named = MQTTSubscribeProps(SubscriptionIdentifier=1)
    assert [identifier(packet) for packet in subscribed(pair, "a", "b", properties=named)] == [1]
    again, wide = subscribed(pair, "c"), subscribed(pair, "#")
    assert [identifier(packet) for packet in again] == [None]
    assert [(filters(packet), identifier(packet)) for packet in wide] == [(["c"], OURS[0]), (["#"], OURS[1])]
    assert due(pair, "a", 1) == ["a"]
    pair.unsubscribe("a")
    pair.feed(unsuback(requests(pair)[-1].packet_id, 0))
    assert pair.session.subscriptions.identifiers == {1: 1, OURS[0]: 1, OURS[1]: 1}


def test_a_replaced_subscription_hands_its_identifier_on() -> None:
    pair = Pair().connect()
    subscribed(pair, "a/#")
    subscribed(pair, "a/b")
    (again,) = subscribed(pair, MQTTSubscription("a/b", 0))
    assert identifier(again) == OURS[1]
    assert due(pair, "a/b", OURS[1]) == ["a/b"]
    (several,) = subscribed(pair, "a/b", "z")
    assert identifier(several) == OURS[2]
    assert pair.session.subscriptions.ours == {OURS[0], OURS[2]}


def test_an_identifier_that_nobody_knows_does_not_lose_the_message() -> None:
    pair = Pair().connect()
    subscribed(pair, "a")
    assert due(pair, "a", 99) == ["a"]
    assert due(pair, "b", 99) == []


def test_a_refused_identifier_leaves_the_older_subscription_as_it_was() -> None:
    pair = Pair().connect()
    subscribed(pair, "a/#")
    pair.subscribe("a/b")
    again, narrow = requests(pair)[-2:]
    pair.feed(suback(again, 0xA1), suback(narrow))
    assert [topic_filter for topic_filter, _ in pair.session.subscriptions.tree] == ["a/#", "a/b"]
    assert "refused 1 of 1" in pair.reports()[0].text


def test_identifiers_are_used_again_only_when_they_are_free() -> None:
    pair = Pair().connect()
    subscriptions = pair.session.subscriptions
    subscriptions.last_identifier = 2
    subscribed(pair, "a/#")
    subscribed(pair, "a/b")
    assert sorted(subscriptions.identifiers) == [1, 268_435_455]
    subscriptions.last_identifier = 2
    subscribed(pair, "a/c")
    assert sorted(subscriptions.identifiers) == [1, 268_435_454, 268_435_455]


def named(value: int) -> MQTTSubscribeProps:
    return MQTTSubscribeProps(SubscriptionIdentifier=value)


def test_an_identifier_that_the_caller_names_is_taken_from_those_that_have_it_by_themselves() -> None:
    pair = Pair().connect()
    for i in range(3):
        subscribed(pair, f"{i}/+")
    subscribed(pair, MQTTSubscription("0/#", 1, retain_handling=1))
    subscribed(pair, "1/#")
    # 0/+ has the first, 0/# the second, 1/+ the third, 1/# the fourth.
    moved, others, new = subscribed(pair, "+/b", properties=named(OURS[1]))
    assert (filters(others), identifier(others)) == (["2/+"], OURS[4])
    assert (filters(moved), identifier(moved)) == (["0/#"], OURS[5])
    assert moved.raw.endswith(b"\0\x030/#\x21")  # its options, and Retain Handling 2
    assert (filters(new), identifier(new)) == (["+/b"], OURS[1])
    tree = pair.session.subscriptions.tree
    assert len({subscription.identifier for _, subscription in tree}) == 6
    assert due(pair, "0/b", OURS[1]) == ["+/b"]
    assert due(pair, "0/b", OURS[5]) == ["0/#"]


def test_an_identifier_that_the_caller_names_twice_is_his_to_share() -> None:
    pair = Pair().connect()
    subscribed(pair, "a/+", properties=named(OURS[0]))
    (second,) = subscribed(pair, "+/b", properties=named(OURS[0]))
    assert (filters(second), identifier(second)) == (["+/b"], OURS[0])
    # It is handed on to a successor without one only if that doesn't share it.
    (again,) = subscribed(pair, "a/+")
    assert identifier(again) == OURS[1]
    (alone,) = subscribed(pair, "+/b")
    assert identifier(alone) == OURS[0]
    # By now it is one that we give.
    moved, third = subscribed(pair, "+/+", properties=named(OURS[0]))
    assert (filters(moved), identifier(moved)) == (["+/b"], OURS[2])
    assert identifier(third) == OURS[0]


def test_the_caller_may_name_the_identifier_of_what_he_replaces() -> None:
    pair = Pair().connect()
    subscribed(pair, "a/#")
    subscribed(pair, "a/b")
    (again,) = subscribed(pair, "a/b", properties=named(OURS[1]))
    assert (filters(again), identifier(again)) == (["a/b"], OURS[1])
    assert pair.session.subscriptions.identifiers == {OURS[0]: 1, OURS[1]: 1}


def test_what_is_being_ended_gives_its_identifier_up_and_is_not_asked_for_again() -> None:
    pair = Pair().connect()
    subscribed(pair, "a/#")
    subscribed(pair, "a/b")
    pair.unsubscribe("a/b")
    (new,) = subscribed(pair, "x", properties=named(OURS[1]))
    assert filters(new) == ["x"]
    # From now on it is the caller's.
    (other,) = subscribed(pair, "y", properties=named(OURS[1]))
    assert filters(other) == ["y"]


def test_the_caller_may_name_the_identifier_that_an_older_subscription_was_given() -> None:
    pair = Pair().connect()
    subscribed(pair, "a/#")
    subscribed(pair, "a/b")
    moved, new = subscribed(pair, "x", properties=named(OURS[0]))
    assert (filters(moved), identifier(moved)) == (["a/#"], OURS[2])
    assert (filters(new), identifier(new)) == (["x"], OURS[0])


@pytest.mark.spec("MQTT-4.8.2-3")
def test_shared_subscriptions_match_by_their_filter() -> None:
    pair = Pair().connect()
    subscribed(pair, "$share/g/a/+")
    assert due(pair, "a/b") == ["$share/g/a/+"]
    assert due(pair, "b") == []


def test_a_subscription_that_is_being_ended_is_not_asked_for_again_because_another_overlaps_it() -> None:
    pair = Pair().connect()
    subscribed(pair, "a/#")
    pair.unsubscribe("a/#")
    (narrow,) = subscribed(pair, "a/b")
    assert filters(narrow) == ["a/b"]
    pair.feed(unsuback(2, 0))
    assert [topic_filter for topic_filter, _ in pair.session.subscriptions.tree] == ["a/b"]


def test_a_request_that_waits_keeps_its_identifier_if_one_of_its_filters_is_replaced() -> None:
    pair = Pair()
    pair.subscribe("x/#", "y/#")
    pair.subscribe("x/1", "y/1")
    pair.subscribe("x/1")
    pair.start()
    pair.open()
    sent = [(filters(packet), identifier(packet)) for packet in pair.accept()]
    assert sent == [(["x/#", "y/#"], None), (["x/#", "y/#"], OURS[0]), (["x/1", "y/1"], OURS[1]), (["x/1"], OURS[1])]


# ---- overlapping filters of one call: their callback runs once ---------------------------------------------------------------------------------------------


def test_filters_of_one_call_that_overlap_get_identifiers_of_their_own() -> None:
    pair = Pair().connect()
    together, apart = subscribed(pair, "z", "a/#", "a/b")
    assert (filters(together), identifier(together)) == (["z", "a/#", "a/b"], OURS[0])
    assert (filters(apart), identifier(apart)) == (["a/b"], OURS[1])
    assert apart.raw.endswith(b"\0\x03a/b\x22")  # Retain Handling 2: what is retained comes with the first one
    # One copy that names both; or two copies, of which the first filter's counts.
    assert due(pair, "a/b", OURS[0], OURS[1]) == ["a/#", "a/b"]
    assert due(pair, "a/b", OURS[0]) == ["a/#"]
    assert due(pair, "a/b", OURS[1]) is None
    assert due(pair, "z", OURS[0]) == ["z"]
    # Retained messages come as each filter asked for them.
    assert due(pair, "a/b", OURS[1], retain=True) == ["a/b"]


def test_of_two_copies_the_one_with_the_higher_granted_qos_counts() -> None:
    pair = Pair().connect()
    pair.subscribe("a/#", "a/b")
    together, apart = requests(pair)
    pair.feed(suback(together, 0, 1), suback(apart, 1))
    assert due(pair, "a/b", OURS[0]) is None
    assert due(pair, "a/b", OURS[1]) == ["a/b"]


@pytest.mark.parametrize("first", [MQTTSubscription("a/#", no_local=True), MQTTSubscription("$share/g/a/#")])
def test_a_copy_is_not_left_to_one_that_may_never_come(first: MQTTSubscription) -> None:
    pair = Pair().connect()
    subscribed(pair, first, "a/b")
    assert due(pair, "a/b", OURS[1]) == ["a/b"]
    assert due(pair, "a/b", OURS[0]) == [first.topic_filter]


def test_a_copy_is_not_left_to_a_subscription_that_is_not_granted_yet() -> None:
    pair = Pair().connect()
    pair.subscribe("a/#", "a/b")
    assert due(pair, "a/b", OURS[1]) == ["a/b"]
    assert due(pair, "a/b", OURS[0]) == ["a/#"]
    pair.feed(suback(requests(pair)[0]))
    pair.lose()
    pair.reconnect(session_present=False)
    assert due(pair, "a/b", OURS[0]) == ["a/#"]
    pair.session.subscriptions.tree.get("a/b").granted = 2  # type: ignore[union-attr]
    assert due(pair, "a/b", OURS[1]) == ["a/b"]
    assert due(pair, "a/b", OURS[0]) == ["a/#"]


def test_a_shared_subscription_leaves_its_copy_to_no_other() -> None:
    pair = Pair().connect()
    subscribed(pair, "a/b", "$share/g/a/#")
    assert due(pair, "a/b", OURS[1]) == ["$share/g/a/#"]


def test_a_copy_that_names_some_is_for_all_that_it_names() -> None:
    pair = Pair().connect()
    subscribed(pair, "a/#", "a/+", "a/b")
    assert due(pair, "a/b", OURS[0], OURS[1]) == ["a/#", "a/+"]
    assert due(pair, "a/b", OURS[2]) is None


def test_filters_of_different_calls_never_take_each_others_copies() -> None:
    pair = Pair().connect()
    subscribed(pair, "a/#")
    subscribed(pair, "a/b")
    assert due(pair, "a/b", OURS[1]) == ["a/b"]


def test_declared_before_connect_they_are_told_apart_as_well() -> None:
    pair = Pair()
    pair.subscribe("a/#", "a/b")
    pair.subscribe("a/+")
    pair.start()
    pair.open()
    sent = pair.accept()
    assert [(filters(packet), identifier(packet)) for packet in sent] == [(["a/#", "a/b"], OURS[0]), (["a/b"], OURS[1]), (["a/+"], OURS[2])]


def test_a_request_is_ours_only_if_nobody_holds_it() -> None:
    assert Held(["a"], MQTTUnsubscribeProps.EMPTY).ends == ()
