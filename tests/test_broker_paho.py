"""Beside a foreign client: what paho-mqtt publishes is what we receive, and the reverse, properties and all."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from ohmqtt import Message, MQTTConnectProps, MQTTPublishProps, MQTTWill
from tests.broker_tools import PATIENCE_S, Seen, collect_messages, connected_client, unused

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.mosquitto import Mosquitto

USER_PROPERTIES = [("key", "first"), ("other", "ü ☃ 𐍈"), ("key", "second"), ("", ""), ("key", "first")]


class Foreign:
    """A paho client that keeps what it receives."""

    def __init__(self, broker: Mosquitto) -> None:
        self.messages: Seen[Any] = Seen()
        self.ready = threading.Event()
        self.subscribed = threading.Event()
        self.client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self.client.on_connect = lambda *_: self.ready.set()
        self.client.on_subscribe = lambda *_: self.subscribed.set()
        self.client.on_message = lambda _client, _data, message: self.messages.add(message)
        self.client.connect("127.0.0.1", broker.port)
        self.client.loop_start()
        assert self.ready.wait(PATIENCE_S)

    def subscribe(self, topic_filter: str, **options: Any) -> None:
        self.subscribed.clear()
        self.client.subscribe(topic_filter, options=SubscribeOptions(qos=2, **options))
        assert self.subscribed.wait(PATIENCE_S)

    def publish(self, topic: str, payload: bytes, qos: int, retain: bool = False, properties: Properties | None = None) -> None:
        self.client.publish(topic, payload, qos, retain, properties).wait_for_publish(PATIENCE_S)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def foreign(mosquitto: Mosquitto) -> Iterator[Foreign]:
    client = Foreign(mosquitto)
    try:
        yield client
    finally:
        client.close()


def of_foreign(message: Any) -> tuple[Any, ...]:
    properties = message.properties
    return (
        message.topic,
        message.payload,
        message.qos,
        message.retain,
        getattr(properties, "PayloadFormatIndicator", None),
        getattr(properties, "ContentType", None),
        getattr(properties, "ResponseTopic", None),
        getattr(properties, "CorrelationData", None),
        getattr(properties, "UserProperty", []),
    )


def of_ours(message: Message) -> tuple[Any, ...]:
    properties = message.properties
    return (
        message.topic,
        message.payload,
        message.qos,
        message.retain,
        properties.PayloadFormatIndicator,
        properties.ContentType,
        properties.ResponseTopic,
        properties.CorrelationData,
        list(properties.UserProperty),
    )


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_we_receive_what_paho_publishes(mosquitto: Mosquitto, foreign: Foreign, qos: int) -> None:
    topic = unused()
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.PayloadFormatIndicator = 1
    properties.MessageExpiryInterval = 1_000
    properties.ContentType = "text/plain"
    properties.ResponseTopic = "answers/here"
    properties.CorrelationData = bytes(range(256))
    properties.UserProperty = USER_PROPERTIES
    with connected_client(mosquitto.address) as client:
        inbox = collect_messages(client, topic)
        foreign.publish(topic, b"plain", qos)
        foreign.publish(topic, "Grüße".encode(), qos, properties=properties)
        foreign.publish(topic, b"", qos)
        messages = inbox.wait(3)
    full = (topic, "Grüße".encode(), qos, False, 1, "text/plain", "answers/here", bytes(range(256)), USER_PROPERTIES)
    empty: tuple[Any, ...] = (None, None, None, None, [])
    assert [of_ours(message) for message in messages] == [(topic, b"plain", qos, False, *empty), full, (topic, b"", qos, False, *empty)]
    expiry_s = messages[1].properties.MessageExpiryInterval
    assert expiry_s is not None
    assert 990 <= expiry_s <= 1_000


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_paho_receives_what_we_publish(mosquitto: Mosquitto, foreign: Foreign, qos: int) -> None:
    topic = unused()
    properties = MQTTPublishProps(
        PayloadFormatIndicator=1,
        MessageExpiryInterval=1_000,
        ContentType="text/plain",
        ResponseTopic="answers/here",
        CorrelationData=bytes(range(256)),
        UserProperty=USER_PROPERTIES,
    )
    foreign.subscribe(topic)
    with connected_client(mosquitto.address) as client:
        client.publish(topic, b"plain", qos).wait_for_ack(PATIENCE_S)
        client.publish(topic, "Grüße", qos, properties=properties).wait_for_ack(PATIENCE_S)
        client.publish(topic, b"", qos).wait_for_ack(PATIENCE_S)
        messages = foreign.messages.wait(3)
    full = (topic, "Grüße".encode(), qos, False, 1, "text/plain", "answers/here", bytes(range(256)), USER_PROPERTIES)
    empty: tuple[Any, ...] = (None, None, None, None, [])
    assert [of_foreign(message) for message in messages] == [(topic, b"plain", qos, False, *empty), full, (topic, b"", qos, False, *empty)]
    assert 990 <= messages[1].properties.MessageExpiryInterval <= 1_000


@pytest.mark.slow
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_both_receive_the_same(mosquitto: Mosquitto, foreign: Foreign, qos: int) -> None:
    base = unused()
    foreign.subscribe(f"{base}/#")
    with connected_client(mosquitto.address) as client:
        inbox = collect_messages(client, f"{base}/#")
        for i in range(50):
            if i % 2:
                foreign.publish(f"{base}/{i}", b"%d" % i, qos)
            else:
                client.publish(f"{base}/{i}", b"%d" % i, qos).wait_for_ack(PATIENCE_S)
        ours, others = inbox.wait(50), foreign.messages.wait(50)
    # The broker may take the last QoS 0 of one connection before that of the other; what it took it gave to both in the same order.
    assert [of_ours(message) for message in ours] == [of_foreign(message) for message in others]
    assert {message.topic for message in ours} == {f"{base}/{i}" for i in range(50)}


def test_retained_messages_and_wills_cross_over(mosquitto: Mosquitto, foreign: Foreign) -> None:
    ours, theirs, will = unused(), unused(), unused()
    foreign.subscribe(will)
    with connected_client(mosquitto.address, will=MQTTWill(will, b"gone", 1)) as client:
        client.publish(ours, b"ours", 1, retain=True).wait_for_ack(PATIENCE_S)
        foreign.publish(theirs, b"theirs", 1, retain=True)
        foreign.subscribe(ours)
        assert collect_messages(client, theirs).wait()[0].retain
        (message,) = foreign.messages.wait()
        assert (message.payload, message.retain) == (b"ours", True)
        client.publish(ours, b"", 1, retain=True).wait_for_ack(PATIENCE_S)
        foreign.publish(theirs, b"", 1, retain=True)
        client.disconnect(4)
        assert foreign.messages.wait_until(lambda messages: messages[-1].topic == will)[-1].payload == b"gone"


def test_a_session_of_paho_is_foreign_to_us(mosquitto: Mosquitto) -> None:
    client_id = unused("client")
    ready = threading.Event()
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = 100
    other = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5)
    other.on_connect = lambda *_: ready.set()
    other.connect("127.0.0.1", mosquitto.port, clean_start=True, properties=properties)
    other.loop_start()
    assert ready.wait(PATIENCE_S)
    other.disconnect()
    other.loop_stop()
    with connected_client(
        mosquitto.address, client_id, clean_start=True, connect_properties=MQTTConnectProps(SessionExpiryInterval=0)
    ) as client:
        assert client.connack is not None
        assert not client.connack.session_present
