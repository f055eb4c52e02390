"""The records that the core passes around: plain data, with a few answers about itself."""

from __future__ import annotations

from typing import Any

import pytest

from ohmqtt.errors import CancelledError, PublishError
from ohmqtt.link import encode_topic_field
from ohmqtt.packet import MQTTPubAckPacket, MQTTPubCompPacket, MQTTPublishPacket, MQTTPubRecPacket, MQTTSubscription
from ohmqtt.property import MQTTPubAckProps, MQTTPublishProps, MQTTSubscribeProps, MQTTUnsubscribeProps
from ohmqtt.records import Message, Outgoing, Request, State, Subscription
from tests.outbound_world import connected_link, publication

# -- publications -----------------------------------------------------------------------------------------------------------------------------


def test_a_publication_begins_unsent_and_without_outcome() -> None:
    message = Outgoing(encode_topic_field(b"topic"), b"payload", 1, 0x32)
    assert (message.state, message.sent, message.sequence, message.packet_id) == (State.QUEUED, False, 0, 0)
    assert message.claimed
    assert not message.done
    assert message.outcome is None
    assert message.waiters is None
    assert message.options is None


def test_a_publication_is_a_publish_packet() -> None:
    properties = MQTTPublishProps(ContentType="text", UserProperty=[("a", "b")])
    message = publication(b"payload", 2, topic="wetter/Köln", retain=True, properties=properties)
    message.packet_id = 7
    assert message.topic == "wetter/Köln"
    packet = message.packet()
    assert packet == MQTTPublishPacket("wetter/Köln", b"payload", 2, True, False, 7, properties)
    assert len(packet.encode()) == message.size


@pytest.mark.parametrize("expiry_s", [None, 0, 10])
def test_a_publication_knows_the_interval_that_it_was_published_with(expiry_s: int | None) -> None:
    properties = MQTTPublishProps(ContentType="text", MessageExpiryInterval=expiry_s)
    assert publication(properties=properties).expiry_s == expiry_s


@pytest.mark.parametrize("size", [0, 110, 115, 120, 125, 16_370, 16_375, 16_380, 2_097_130, 2_097_140, 2_097_150])
@pytest.mark.parametrize("qos", [0, 1])
def test_the_size_counts_every_byte(qos: int, size: int) -> None:
    for extra in range(6):
        message = publication(bytes(size + extra), qos)
        message.packet_id = qos
        assert message.size == len(message.packet().encode())


@pytest.mark.parametrize(
    ("qos", "outcome", "expected"),
    [
        (0, None, None),
        (1, 4, MQTTPubAckPacket(9)),
        (2, 7, MQTTPubCompPacket(9)),
        (1, MQTTPubAckPacket(9, 0x10), MQTTPubAckPacket(9, 0x10)),
        (1, PublishError("no", MQTTPubRecPacket(9, 0x80)), MQTTPubRecPacket(9, 0x80)),
        (1, CancelledError("cancelled"), None),
    ],
    ids=["QoS 0", "PUBACK", "PUBCOMP", "with a code", "rejected", "cancelled"],
)
def test_the_acknowledgement_is_made_when_somebody_asks(qos: int, outcome: Any, expected: Any) -> None:
    message = publication(qos=qos)
    message.packet_id = 9
    message.outcome = outcome
    assert message.ack is None  # not before it may be seen
    message.done = True
    assert message.ack == expected
    assert message.ack is message.ack


# -- messages ---------------------------------------------------------------------------------------------------------------------------------


def received(qos: int) -> Message:
    return Message("topic", b"payload", qos, False, False, 1 if qos else 0, MQTTPublishProps.EMPTY)


def test_a_message_is_acknowledged_on_the_link_that_brought_it() -> None:
    calls: list[Any] = []
    link = connected_link()
    link.acknowledge = lambda *arguments: calls.append(arguments)
    message = received(1)
    message.link = link
    properties = MQTTPubAckProps(ReasonString="why")
    message.ack()
    message.ack(0x80, properties)
    assert calls == [(message, 0, None), (message, 0x80, properties)]


def test_there_is_nothing_to_acknowledge_without_qos_or_link() -> None:
    calls: list[Any] = []
    link = connected_link()
    link.acknowledge = lambda *arguments: calls.append(arguments)
    message = received(0)
    message.link = link
    message.ack()
    message = received(2)
    message.link = None
    message.ack()
    message.link = connected_link()  # whose session is driven by hand
    message.ack()
    assert calls == []


# -- subscriptions and requests ---------------------------------------------------------------------------------------------------------------


def test_a_subscription_begins_ungranted() -> None:
    options = MQTTSubscription("filter")
    subscription = Subscription(options, print, 3, (("a", "b"),))
    assert (subscription.options, subscription.callback, subscription.group) == (options, print, 3)
    assert (subscription.identifier, subscription.granted, subscription.user_properties) == (0, None, (("a", "b"),))


def test_a_request_begins_unsettled() -> None:
    subscription = Subscription(MQTTSubscription("filter"), None)
    request = Request([subscription.options], MQTTSubscribeProps.EMPTY, [subscription])
    assert (request.items, request.subscriptions, request.packet_id) == ((subscription.options,), (subscription,), 0)
    assert not request.settled
    assert not request.done
    assert request.outcome is None
    assert request.waiters is None
    assert Request(["filter"], MQTTUnsubscribeProps.EMPTY).subscriptions == ()
