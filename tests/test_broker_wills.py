"""Wills at a real broker: who dies without a word has one, who says goodbye has none, unless the goodbye asks for it."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from ohmqtt import Client, MQTTConnectProps, MQTTWill, MQTTWillProps
from tests.broker_tools import FAST, PATIENCE_S, child, collect_messages, connected_client, unused

if TYPE_CHECKING:
    from tests.mosquitto import Mosquitto

MORTAL = """
import sys
from ohmqtt import Client, MQTTConnectProps, MQTTWill, MQTTWillProps
address, client_id, topic, delay, expiry = sys.argv[1:]
will = MQTTWill(topic, b"gone", 1, properties=MQTTWillProps(WillDelayInterval=int(delay), UserProperty=(("a", "1"), ("a", "2"))))
with Client() as client:
    client.connect(address, client_id, will=will, connect_properties=MQTTConnectProps(SessionExpiryInterval=int(expiry)))
    client.wait_for_connect(60)
    print("connected", flush=True)
    if sys.stdin.readline() == "raise\\n":
        raise SystemExit("an error in the application")
"""


def wait_until_connected(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "connected\n"


@pytest.mark.slow
@pytest.mark.spec("MQTT-3.1.2-8", "MQTT-3.1.2-14")
def test_a_killed_process_leaves_its_will(mosquitto: Mosquitto) -> None:
    topic = unused()
    with connected_client(mosquitto.address) as heir:
        inbox = collect_messages(heir, topic)
        with child(MORTAL, mosquitto.address, unused("mortal"), topic, 0, 0) as process:
            wait_until_connected(process)
            assert inbox.now() == []
            process.kill()
            (will,) = inbox.wait()
    assert (will.payload, will.qos, will.retain) == (b"gone", 1, False)
    assert will.properties.UserProperty == (("a", "1"), ("a", "2"))


@pytest.mark.slow
@pytest.mark.spec("MQTT-3.14.4-3")
@pytest.mark.parametrize("how", ["end", "raise"])
def test_a_process_that_ends_by_itself_leaves_none(mosquitto: Mosquitto, how: str) -> None:
    topic, client_id = unused(), unused("mortal")
    with connected_client(mosquitto.address) as heir:
        inbox = collect_messages(heir, topic)
        with child(MORTAL, mosquitto.address, client_id, topic, 0, 0) as process:
            wait_until_connected(process)
            process.communicate(f"{how}\n", timeout=PATIENCE_S)
        mosquitto.wait_for_log(f"Received DISCONNECT from {client_id}")
        heir.publish(topic, b"end", 1).wait_for_ack(PATIENCE_S)
        assert inbox.wait_payloads() == [b"end"]


@pytest.mark.spec("MQTT-3.1.2-10", "MQTT-3.14.4-3")
@pytest.mark.parametrize("reason_code", [0, 4])
def test_disconnect_with_the_will(mosquitto: Mosquitto, reason_code: int) -> None:
    topic = unused()
    with connected_client(mosquitto.address) as heir:
        inbox = collect_messages(heir, topic)
        with Client(settings=FAST) as client:
            client.connect(mosquitto.address, unused("mortal"), will=MQTTWill(topic, b"gone", 2))
            client.wait_for_connect(PATIENCE_S)
            client.disconnect(reason_code)
        heir.publish(topic, b"end", 2).wait_for_ack(PATIENCE_S)
        expected = [b"gone", b"end"] if reason_code == 4 else [b"end"]
        assert inbox.wait_payloads(len(expected)) == expected


def test_shutdown_leaves_the_will(mosquitto: Mosquitto) -> None:
    topic = unused()
    with connected_client(mosquitto.address) as heir:
        inbox = collect_messages(heir, topic)
        with connected_client(mosquitto.address, unused("mortal"), will=MQTTWill(topic, b"gone", 1)) as client:
            client.shutdown()
            assert inbox.wait_payloads() == [b"gone"]


@pytest.mark.spec("MQTT-3.1.2-15", "MQTT-3.1.2-14")
def test_a_retained_will_is_there_for_who_comes_later(mosquitto: Mosquitto) -> None:
    topic = unused()
    properties = MQTTWillProps(
        PayloadFormatIndicator=1,
        MessageExpiryInterval=1_000,
        ContentType="text/plain",
        ResponseTopic="answers",
        CorrelationData=b"\x00\xff",
        UserProperty=(("b", "2"), ("a", "1"), ("b", "2")),
    )
    with connected_client(mosquitto.address) as early:
        inbox = collect_messages(early, topic)
        with connected_client(mosquitto.address, unused("mortal"), will=MQTTWill(topic, b"gone", 1, True, properties)) as client:
            client.shutdown()
            inbox.wait()
    with connected_client(mosquitto.address) as late:
        (will,) = collect_messages(late, topic).wait()
        late.publish(topic, b"", 1, retain=True).wait_for_ack(PATIENCE_S)
    assert will.retain
    received = will.properties
    assert received.PayloadFormatIndicator == 1
    assert received.ContentType == "text/plain"
    assert received.ResponseTopic == "answers"
    assert received.CorrelationData == b"\x00\xff"
    assert received.UserProperty == properties.UserProperty
    assert received.MessageExpiryInterval is not None
    assert 990 <= received.MessageExpiryInterval <= 1_000


@pytest.mark.slow
@pytest.mark.spec("MQTT-3.1.3-9")
def test_a_delayed_will_is_not_published_if_the_client_comes_back_in_time(mosquitto: Mosquitto) -> None:
    topic, client_id = unused(), unused("mortal")
    will = MQTTWill(topic, b"gone", 1, properties=MQTTWillProps(WillDelayInterval=6))
    long = MQTTConnectProps(SessionExpiryInterval=100)
    with connected_client(mosquitto.address) as heir:
        inbox = collect_messages(heir, topic)
        with connected_client(mosquitto.address, client_id, will=will, connect_properties=long) as client:
            client.shutdown()
        with connected_client(mosquitto.address, client_id, clean_start=True, connect_properties=long):
            heir.publish(topic, b"back in time", 1).wait_for_ack(PATIENCE_S)
        # This one doesn't come back.
        with connected_client(mosquitto.address, client_id, clean_start=True, will=will, connect_properties=long) as client:
            client.shutdown()
        heir.publish(topic, b"not yet", 1).wait_for_ack(PATIENCE_S)
        assert inbox.wait_payloads(3) == [b"back in time", b"not yet", b"gone"]


@pytest.mark.slow
@pytest.mark.spec("MQTT-3.1.2-8")
def test_a_delayed_will_does_not_wait_longer_than_the_session(mosquitto: Mosquitto) -> None:
    topic = unused()
    with connected_client(mosquitto.address) as heir:
        inbox = collect_messages(heir, topic)
        with child(MORTAL, mosquitto.address, unused("mortal"), topic, 600, 1) as process:
            wait_until_connected(process)
            process.kill()
            assert inbox.wait_payloads() == [b"gone"]
