"""What a message carries, through a real broker and back: properties, the RETAIN flag, expiry, request and response."""

from __future__ import annotations

import pytest

from ohmqtt import Client, Message, MessageExpiredError, MQTTPublishProps
from tests.broker_tools import FAST, PATIENCE_S, Inbox, collect_messages, connected_client, let_time_pass, unused
from tests.mosquitto import Mosquitto, free_port

USER_PROPERTIES = (("key", "first"), ("other", "ü ☃ 𐍈"), ("key", "second"), ("", ""), ("key", "first"))


# -- properties ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.spec("MQTT-3.3.2-4", "MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-17", "MQTT-3.3.2-18", "MQTT-3.3.2-20")
def test_all_properties_arrive_unaltered_and_in_order(mosquitto: Mosquitto, qos: int) -> None:
    topic = unused()
    properties = MQTTPublishProps(
        PayloadFormatIndicator=1,
        MessageExpiryInterval=4_000_000_000,
        ContentType="text/plain; charset=utf-8",
        ResponseTopic=f"{topic}/answer",
        CorrelationData=bytes(range(256)),
        UserProperty=USER_PROPERTIES,
    )
    with connected_client(mosquitto.address) as client:
        inbox = collect_messages(client, topic)
        client.publish(topic, "Grüße", qos, properties=properties).wait_for_ack(PATIENCE_S)
        (message,) = inbox.wait()
    assert message.payload.decode() == "Grüße"
    received = message.properties
    # The broker may have held it for a moment.
    assert received.MessageExpiryInterval is not None
    assert 3_999_999_990 <= received.MessageExpiryInterval <= 4_000_000_000
    assert received.replace(MessageExpiryInterval=4_000_000_000) == properties


def test_user_properties_alone_keep_their_order(mosquitto: Mosquitto) -> None:
    topic = unused()
    many = tuple((f"key {i % 7}", f"value {i}") for i in range(500))
    with connected_client(mosquitto.address) as client:
        inbox = collect_messages(client, topic)
        client.publish(topic, b"", 1, properties=MQTTPublishProps(UserProperty=many)).wait_for_ack(PATIENCE_S)
        assert inbox.wait()[0].properties.UserProperty == many


@pytest.mark.parametrize("payload", [b"", bytes(range(256)), "text", bytearray(b"array"), memoryview(b"view"), None])
def test_every_kind_of_payload(mosquitto: Mosquitto, payload: bytes | str | bytearray | memoryview | None) -> None:
    topic = unused()
    expected = b"" if payload is None else payload.encode() if isinstance(payload, str) else bytes(payload)
    with connected_client(mosquitto.address) as client:
        inbox = collect_messages(client, topic)
        client.publish(topic, payload, 1).wait_for_ack(PATIENCE_S)
        assert inbox.wait_payloads() == [expected]


@pytest.mark.spec("MQTT-1.5.4-3", "MQTT-4.7.3-4")
@pytest.mark.parametrize(
    "name", ["ü/☃/𐍈", "with space", "/", "//", "\ufeffmark", "x" * 30_000], ids=["unicode", "space", "slash", "slashes", "BOM", "long"]
)
def test_every_kind_of_topic(mosquitto: Mosquitto, name: str) -> None:
    topic = f"{unused()}{name}"
    with connected_client(mosquitto.address) as client:
        inbox = collect_messages(client, topic)
        client.publish(topic, b"here", 1).wait_for_ack(PATIENCE_S)
        assert [(message.topic, message.payload) for message in inbox.wait()] == [(topic, b"here")]


@pytest.mark.slow
@pytest.mark.spec("MQTT-4.7.1-1")
def test_the_levels_of_wildcards_are_those_of_the_broker(mosquitto: Mosquitto) -> None:
    base = unused()
    filters = [f"{base}/#", f"{base}/+", f"{base}/+/c", f"{base}/b/#", f"{base}/b/+", f"{base}/b", f"+/{base}", f"{base}/+/+/d"]
    topics = [base, f"{base}/", f"{base}/b", f"{base}/b/", f"{base}/b/c", f"{base}/b/c/d", f"x/{base}", f"{base}//d"]
    for topic_filter in filters:
        # One client for each filter: what the broker sends, and nothing else, decides.
        with connected_client(mosquitto.address) as client, connected_client(mosquitto.address) as counter:
            by_callback = collect_messages(client, topic_filter)
            by_broker = Inbox()
            counter.on_message = by_broker
            counter.subscribe(topic_filter).wait_for_ack(PATIENCE_S)
            for inbox in (client, counter):
                inbox.subscribe(f"{base}-end", by_callback if inbox is client else by_broker).wait_for_ack(PATIENCE_S)
            for topic in (*topics, f"{base}-end"):
                client.publish(topic, b"", 1).wait_for_ack(PATIENCE_S)
            expected = [message.topic for message in by_broker.wait_until(ended)]
            assert [message.topic for message in by_callback.wait_until(ended)] == expected


def ended(messages: list[Message]) -> bool:
    return bool(messages) and messages[-1].topic.endswith("-end")


# -- request and response -------------------------------------------------------------------------------------------------------------------


def test_request_and_response(mosquitto: Mosquitto) -> None:
    question, answers = unused("question"), unused("answer")

    def respond(client: Client, message: Message) -> None:
        assert message.properties.ResponseTopic is not None
        answer = MQTTPublishProps(CorrelationData=message.properties.CorrelationData)
        # Publishing and waiting inside a callback is allowed.
        client.publish(message.properties.ResponseTopic, message.payload.upper(), 1, properties=answer).wait_for_ack(PATIENCE_S)

    with connected_client(mosquitto.address) as server, connected_client(mosquitto.address) as client:
        server.subscribe(question, respond, 1).wait_for_ack(PATIENCE_S)
        inbox = collect_messages(client, answers)
        for i in range(10):
            request = MQTTPublishProps(ResponseTopic=answers, CorrelationData=b"%d" % i)
            client.publish(question, f"what is {i}?", 1, properties=request)
        messages = inbox.wait(10)
    assert [message.properties.CorrelationData for message in messages] == [b"%d" % i for i in range(10)]
    assert [message.payload for message in messages] == [b"WHAT IS %d?" % i for i in range(10)]


# -- the RETAIN flag ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.3.1-5", "MQTT-3.3.1-6", "MQTT-3.3.1-8", "MQTT-3.3.1-9", "MQTT-3.3.1-12")
def test_a_retained_message_is_set_replaced_and_deleted(mosquitto: Mosquitto) -> None:
    topic = unused()
    properties = MQTTPublishProps(ContentType="x", UserProperty=USER_PROPERTIES)

    def what_is_retained() -> list[tuple[bytes, bool]]:
        with connected_client(mosquitto.address) as fresh:
            inbox = Inbox()
            fresh.on_message = inbox
            fresh.subscribe(topic).wait_for_ack(PATIENCE_S)
            fresh.publish(topic, b"end", 1).wait_for_ack(PATIENCE_S)
            return [
                (message.payload, message.retain) for message in inbox.wait_until(lambda items: bool(items) and items[-1].payload == b"end")
            ][:-1]

    with connected_client(mosquitto.address) as client:
        inbox = collect_messages(client, topic)
        client.publish(topic, b"one", 1, retain=True, properties=properties).wait_for_ack(PATIENCE_S)
        assert what_is_retained() == [(b"one", True)]
        with connected_client(mosquitto.address) as fresh:
            late = collect_messages(fresh, topic).wait()
            assert late[0].properties == properties
        client.publish(topic, b"two", 2, retain=True).wait_for_ack(PATIENCE_S)
        assert what_is_retained() == [(b"two", True)]
        client.publish(topic, b"not retained", 1).wait_for_ack(PATIENCE_S)
        assert what_is_retained() == [(b"two", True)]
        client.publish(topic, b"", 1, retain=True).wait_for_ack(PATIENCE_S)
        assert what_is_retained() == []
        live = [(message.payload, message.retain) for message in inbox.wait(8) if message.payload != b"end"]
    # Who was subscribed already gets them as normal messages.
    assert live == [(b"one", False), (b"two", False), (b"not retained", False), (b"", False)]


@pytest.mark.spec("MQTT-3.3.1-9", "MQTT-3.3.1-10", "MQTT-3.3.1-11")
@pytest.mark.parametrize(("retain_handling", "expected"), [(0, [2, 2]), (1, [2, 0]), (2, [0, 0])])
def test_retain_handling(mosquitto: Mosquitto, retain_handling: int, expected: list[int]) -> None:
    base = unused()
    with connected_client(mosquitto.address) as client:
        for name in ("a", "b"):
            client.publish(f"{base}/{name}", b"kept", 1, retain=True).wait_for_ack(PATIENCE_S)
        counts = []
        inbox = Inbox()
        for turn in range(2):
            inbox.clear()
            client.subscribe(f"{base}/#", inbox, retain_handling=retain_handling).wait_for_ack(PATIENCE_S)
            client.publish(f"{base}/end", b"%d" % turn, 1).wait_for_ack(PATIENCE_S)
            messages = inbox.wait_until(lambda items: any(item.topic == f"{base}/end" for item in items))
            counts.append(sum(message.retain for message in messages))
        for name in ("a", "b"):
            client.publish(f"{base}/{name}", b"", 1, retain=True).wait_for_ack(PATIENCE_S)
    assert counts == expected


@pytest.mark.spec("MQTT-3.3.1-12", "MQTT-3.3.1-13")
@pytest.mark.parametrize("retain_as_published", [False, True])
def test_retain_as_published(mosquitto: Mosquitto, retain_as_published: bool) -> None:
    topic = unused()
    with connected_client(mosquitto.address) as client:
        inbox = collect_messages(client, topic, retain_as_published=retain_as_published)
        client.publish(topic, b"kept", 1, retain=True).wait_for_ack(PATIENCE_S)
        client.publish(topic, b"passing", 1).wait_for_ack(PATIENCE_S)
        client.publish(topic, b"", 1, retain=True).wait_for_ack(PATIENCE_S)
        assert [message.retain for message in inbox.wait(3)] == [retain_as_published, False, retain_as_published]


# -- expiry ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.spec("MQTT-3.3.2-5", "MQTT-3.3.2-6")
def test_the_broker_drops_what_has_expired_and_says_how_long_the_rest_has_left(mosquitto: Mosquitto) -> None:
    topic, client_id = unused(), unused("client")
    inbox = Inbox()
    with Client(settings=FAST) as subscriber:
        subscriber.connect(mosquitto.address, client_id)
        subscriber.subscribe(topic, inbox).wait_for_ack(PATIENCE_S)
        # Reason code 4 is not the clean goodbye that ends the session; there is no will.
        subscriber.disconnect(4)
        with connected_client(mosquitto.address) as publisher:
            for seconds in (1, 1_000):
                properties = MQTTPublishProps(MessageExpiryInterval=seconds)
                publisher.publish(topic, f"{seconds} s", 1, properties=properties).wait_for_ack(PATIENCE_S)
            let_time_pass(4.0)
            subscriber.connect(mosquitto.address, client_id)
            assert subscriber.wait_for_connect(PATIENCE_S).session_present
            publisher.publish(topic, b"end", 1).wait_for_ack(PATIENCE_S)
        messages = inbox.wait(2)
    assert [message.payload for message in messages] == [b"1000 s", b"end"]
    left_s = messages[0].properties.MessageExpiryInterval
    assert left_s is not None
    assert 900 < left_s <= 997


@pytest.mark.slow
@pytest.mark.broker
def test_what_waits_for_a_connection_ages_too() -> None:
    port = free_port()
    topic = unused()
    with Client(settings=FAST) as publisher:
        publisher.connect(f"127.0.0.1:{port}")
        expired = publisher.publish(topic, b"too late", 1, properties=MQTTPublishProps(MessageExpiryInterval=1))
        kept = publisher.publish(topic, b"in time", 1, retain=True, properties=MQTTPublishProps(MessageExpiryInterval=1_000))
        with pytest.raises(MessageExpiredError):
            expired.wait_for_ack(PATIENCE_S)
        with Mosquitto(port=port), connected_client(f"127.0.0.1:{port}") as subscriber:
            kept.wait_for_ack(PATIENCE_S)
            (message,) = collect_messages(subscriber, topic).wait()
    assert message.payload == b"in time"
    left_s = message.properties.MessageExpiryInterval
    assert left_s is not None
    assert 900 < left_s <= 999
