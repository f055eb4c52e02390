"""Subscriptions at a real broker: what SUBACK and UNSUBACK say, identifiers, overlaps, shared ones, no local, very many."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from ohmqtt import Client, Message, MQTTSubscribeProps, MQTTSubscription, MQTTUnsubscribeProps
from tests.broker_tools import FAST, PATIENCE_S, Inbox, collect_messages, connected_client, unused

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.mosquitto import Mosquitto


@pytest.mark.spec("MQTT-3.8.4-1", "MQTT-3.8.4-6", "MQTT-3.8.4-7", "MQTT-3.9.3-1")
def test_suback_has_a_reason_code_for_each_filter(mosquitto: Mosquitto) -> None:
    base = unused()
    properties = MQTTSubscribeProps(UserProperty=(("who", "asks"),))
    filters = [MQTTSubscription(f"{base}/{qos}", qos) for qos in (2, 0, 1, 0, 2)]
    with connected_client(mosquitto.address) as client:
        handle = client.subscribe(filters, Inbox(), properties=properties)
        suback = handle.wait_for_ack(PATIENCE_S)
        assert suback.reason_codes == (2, 0, 1, 0, 2)
        assert handle.ack is suback
        assert handle.is_done()
        assert handle.exception() is None


@pytest.mark.spec("MQTT-3.10.4-4", "MQTT-3.11.3-1", "MQTT-3.10.4-5")
def test_unsuback_tells_what_there_was(mosquitto: Mosquitto) -> None:
    base = unused()
    with connected_client(mosquitto.address) as client:
        inbox = collect_messages(client, f"{base}/a")
        collect_messages(client, f"{base}/+/c")
        unsuback = client.unsubscribe([f"{base}/a", f"{base}/never", f"{base}/+/c"], MQTTUnsubscribeProps(UserProperty=(("who", "asks"),)))
        assert unsuback.wait_for_ack(PATIENCE_S).reason_codes == (0x00, 0x11, 0x00)
        end = collect_messages(client, f"{base}/end")
        for topic in ("a", "end"):
            client.publish(f"{base}/{topic}", b"", 1).wait_for_ack(PATIENCE_S)
        end.wait()
        assert inbox.now() == []


def test_subscribe_again_replaces_options_and_callback(mosquitto: Mosquitto) -> None:
    topic = unused()
    with connected_client(mosquitto.address) as client:
        first = collect_messages(client, topic, 0)
        second = collect_messages(client, topic, 2)
        client.publish(topic, b"x", 2).wait_for_ack(PATIENCE_S)
        assert [message.qos for message in second.wait()] == [2]
        assert first.now() == []


@pytest.mark.spec("MQTT-3.8.3-3")
@pytest.mark.parametrize("no_local", [False, True])
def test_no_local(mosquitto: Mosquitto, no_local: bool) -> None:
    topic = unused()
    with connected_client(mosquitto.address) as client, connected_client(mosquitto.address) as other:
        inbox = collect_messages(client, topic, no_local=no_local)
        client.publish(topic, b"own", 1).wait_for_ack(PATIENCE_S)
        other.publish(topic, b"foreign", 1).wait_for_ack(PATIENCE_S)
        received = inbox.wait_payloads(1 if no_local else 2)
    assert received == ([b"foreign"] if no_local else [b"own", b"foreign"])


@pytest.mark.spec("MQTT-3.3.4-3", "MQTT-3.3.4-4")
def test_the_subscription_identifier_of_the_user_comes_back(mosquitto: Mosquitto) -> None:
    base = unused()
    with connected_client(mosquitto.address) as client:
        inboxes = {
            identifier: collect_messages(client, f"{base}/{identifier}", properties=MQTTSubscribeProps(SubscriptionIdentifier=identifier))
            for identifier in (1, 127, 128, 268_435_455)
        }
        for identifier, inbox in inboxes.items():
            client.publish(f"{base}/{identifier}", b"", 1).wait_for_ack(PATIENCE_S)
            assert inbox.wait()[0].properties.SubscriptionIdentifier == (identifier,)


# -- overlaps -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.spec("MQTT-3.3.4-2")
def test_each_callback_of_overlapping_subscriptions_runs_once(mosquitto: Mosquitto, qos: int) -> None:
    base = unused()
    filters = [f"{base}/#", f"{base}/+/c", f"{base}/b/c", f"{base}/b/+"]
    with connected_client(mosquitto.address) as client:
        inboxes = [collect_messages(client, topic_filter) for topic_filter in filters]
        payloads = [b"%d" % i for i in range(20)]
        for payload in payloads:
            client.publish(f"{base}/b/c", payload, qos).wait_for_ack(PATIENCE_S)
        for inbox in inboxes:
            inbox.wait(20)
        # A last message to a topic that only one filter matches: whatever came twice has come by then.
        client.publish(f"{base}/end", b"end", qos).wait_for_ack(PATIENCE_S)
        inboxes[0].wait(21)
        assert inboxes[0].payloads() == [*payloads, b"end"]
        assert [inbox.payloads() for inbox in inboxes[1:]] == [payloads] * 3


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_callback_with_several_overlapping_filters_runs_once(mosquitto: Mosquitto, qos: int) -> None:
    base = unused()
    with connected_client(mosquitto.address) as client:
        inbox = collect_messages_of_several(client, [f"{base}/#", f"{base}/b", f"{base}/+"])
        client.publish(f"{base}/b", b"once", qos).wait_for_ack(PATIENCE_S)
        client.publish(f"{base}/x/end", b"end", qos).wait_for_ack(PATIENCE_S)
        inbox.wait_until(lambda items: items[-1:] != [] and items[-1].payload == b"end")
        assert inbox.payloads() == [b"once", b"end"]


def collect_messages_of_several(client: Client, filters: list[str]) -> Inbox:
    inbox = Inbox()
    client.subscribe(filters, inbox).wait_for_ack(PATIENCE_S)
    return inbox


def test_what_is_left_after_one_of_two_overlapping_subscriptions_ended(mosquitto: Mosquitto) -> None:
    base = unused()
    with connected_client(mosquitto.address) as client:
        wide, narrow = collect_messages(client, f"{base}/#"), collect_messages(client, f"{base}/b")
        client.publish(f"{base}/b", b"both", 1).wait_for_ack(PATIENCE_S)
        wide.wait()
        narrow.wait()
        client.unsubscribe(f"{base}/#").wait_for_ack(PATIENCE_S)
        client.publish(f"{base}/b", b"narrow", 1).wait_for_ack(PATIENCE_S)
        assert narrow.wait_payloads(2) == [b"both", b"narrow"]
        assert wide.payloads() == [b"both"]


@pytest.mark.slow
def test_subscriptions_that_begin_to_overlap_under_load_lose_nothing(mosquitto: Mosquitto) -> None:
    base = unused()
    count = 2_000
    with connected_client(mosquitto.address) as client, connected_client(mosquitto.address) as publisher:
        exact = collect_messages(client, f"{base}/b", 1)
        wide = Inbox()
        handles = [publisher.publish(f"{base}/b", b"%d" % i, 1) for i in range(count // 2)]
        handles[200].wait_for_ack(PATIENCE_S)
        client.subscribe(f"{base}/#", wide, 1).wait_for_ack(PATIENCE_S)
        handles += [publisher.publish(f"{base}/b", b"%d" % i, 1) for i in range(count // 2, count)]
        handles.append(publisher.publish(f"{base}/end", b"%d" % count, 1))
        for handle in handles:
            handle.wait_for_ack(PATIENCE_S)
        exact.wait(count)
        late = [int(message.payload) for message in wide.wait_until(lambda items: bool(items) and items[-1].topic == f"{base}/end")]
        assert exact.payloads() == [b"%d" % i for i in range(count)]
        # Which of the messages that were on their way meanwhile are due to the second one is the broker's choice; none comes twice.
        assert late == sorted(set(late))
        assert late[-count // 2 - 1 :] == list(range(count // 2, count + 1))


# -- shared subscriptions -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_each_message_goes_to_one_member_of_a_shared_subscription(mosquitto: Mosquitto, qos: int) -> None:
    base, group = unused(), unused("group")
    with (
        connected_client(mosquitto.address) as one,
        connected_client(mosquitto.address) as two,
        connected_client(mosquitto.address) as publisher,
    ):
        inbox = Inbox()
        members: Counter[Client] = Counter()
        lock = threading.Lock()

        def receive(client: Client, message: Message) -> None:
            with lock:
                members[client] += 1
            inbox(client, message)

        for client in (one, two):
            client.subscribe(f"$share/{group}/{base}/+", receive).wait_for_ack(PATIENCE_S)
        payloads = [b"%d" % i for i in range(200)]
        for payload in payloads:
            publisher.publish(f"{base}/x", payload, qos)
        inbox.wait(200)
        one.unsubscribe(f"$share/{group}/{base}/+").wait_for_ack(PATIENCE_S)
        publisher.publish(f"{base}/x", b"end", qos)
        inbox.wait(201)
    assert sorted(inbox.payloads()) == sorted([*payloads, b"end"])
    assert len(members) == 2
    assert min(members.values()) >= 50


def test_a_shared_subscription_beside_a_normal_one(mosquitto: Mosquitto) -> None:
    topic, group = unused(), unused("group")
    with connected_client(mosquitto.address) as client:
        normal, shared = collect_messages(client, topic), collect_messages(client, f"$share/{group}/{topic}")
        for i in range(10):
            client.publish(topic, b"%d" % i, 1).wait_for_ack(PATIENCE_S)
        normal.wait(10)
        shared.wait(10)
        client.unsubscribe(topic).wait_for_ack(PATIENCE_S)
        client.publish(topic, b"end", 1).wait_for_ack(PATIENCE_S)
        shared.wait(11)
        assert normal.payloads() == [b"%d" % i for i in range(10)]
        assert shared.payloads() == [*normal.payloads(), b"end"]


# -- many -----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ten_thousand_subscriptions(mosquitto_factory: Callable[..., Mosquitto]) -> None:
    broker = mosquitto_factory()
    base = unused()
    filters = [f"{base}/{i % 100}/{i}" for i in range(10_000)]
    inbox = Inbox()
    with Client(settings=FAST) as client:
        client.connect(broker.address, unused("client"))
        handles = [client.subscribe(filters[i : i + 500], inbox, 1) for i in range(0, 5_000, 500)]
        handles += [client.subscribe(topic_filter, inbox, 1) for topic_filter in filters[5_000:]]
        for handle in handles:
            assert set(handle.wait_for_ack(PATIENCE_S).reason_codes) == {1}
        for i in range(0, 10_000, 100):
            client.publish(filters[i], b"%d" % i, 1)
        assert inbox.wait_payloads(100) == [b"%d" % i for i in range(0, 10_000, 100)]
        # The broker forgets all of them; the client doesn't.
        broker.kill()
        broker.start()
        inbox.clear()
        assert client.wait_for_connect(PATIENCE_S).session_present is False
        for i in range(0, 10_000, 100):
            client.publish(filters[i], b"%d" % i, 1, retain=True)
        assert len(inbox.wait(100)) == 100
        for i in range(0, 10_000, 500):
            client.unsubscribe(filters[i : i + 500]).wait_for_ack(PATIENCE_S)
