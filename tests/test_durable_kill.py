"""A publisher is killed with SIGKILL again and again, and goes on with what its database knows: nothing that `publish` returned for is lost.

The subscriber at the other side of a real broker counts. At QoS 2 there is no duplicate; order per topic holds (at QoS 1: of first arrivals).
Then the roles are changed, and it is the subscriber who is killed.
"""

from __future__ import annotations

import contextlib
import random
import secrets
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.broker_tools import PATIENCE_S, Inbox, child, collect_messages, connected_client, unused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tests.mosquitto import Mosquitto

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL"),
]

LIVES = 13  # for each of the four modes: 52 kills in a full run
TOPICS = 3
IN_A_LIFE_MAX = 400  # what one life publishes at most, so that the last one can finish

# Publishes from two threads (their commits share transactions) and says on its output what `publish` returned for.
PUBLISHER = """
import os, sys, threading
from ohmqtt import Client, MQTTConnectProps, SessionSettings

address, path, mode, client_id, topic, qos, life, count = sys.argv[1:]
os.write(1, b"born\\n")

def publish(thread):
    for number in range(int(count)):
        if number % 50 == 49:
            names = [(f"{topic}/{thread}/{n}", f"{life} {number} {n}".encode()) for n in range(3)]
            client.publish_many(names, int(qos))
            os.write(1, "".join(f"{name} {payload.decode()}\\n" for name, payload in names).encode())
        else:
            name, payload = f"{topic}/{thread}/{number % 3}", f"{life} {number} 0"
            client.publish(name, payload, int(qos))
            os.write(1, f"{name} {payload}\\n".encode())

settings = SessionSettings(reconnect_initial_s=0.02, reconnect_max_s=0.2, window_messages=64)
with Client(path, db_fast=mode == "fast", settings=settings) as client:
    client.connect(address, client_id, connect_properties=MQTTConnectProps(SessionExpiryInterval=3600))
    threads = [threading.Thread(target=publish, args=(n,)) for n in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for handle in client.pending():
        handle.wait_for_ack(250.0)
    client.publish(f"{topic}/end", life, 2).wait_for_ack(250.0)
    sys.stdin.read()
"""


class Lives:
    """The publisher's lives, and what it was promised in them."""

    def __init__(self, address: str, path: Path, mode: str, qos: int, chance: random.Random) -> None:
        self.topic = unused()
        self.accepted: list[tuple[str, str]] = []
        self._arguments = (address, path, mode, unused("client"), self.topic, qos)
        self._chance = chance

    def live(self, life: int, inbox: Inbox) -> None:
        """Let it live for a while, and kill it: while it opens the database, after so many accepted messages, or so many delivered ones."""
        chance = self._chance
        how = chance.randrange(4)
        arrived = len(inbox.now())
        with child(PUBLISHER, *self._arguments, life, IN_A_LIFE_MAX) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "born\n"
            if how == 0:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(chance.uniform(0.0, 0.4))
            elif how == 1:
                inbox.wait(arrived + chance.randint(1, IN_A_LIFE_MAX), 250.0)
            else:
                for _ in range(chance.choice((1, 2, 10, 100, IN_A_LIFE_MAX)) if how == 2 else chance.randint(1, IN_A_LIFE_MAX)):
                    self._promised(process.stdout.readline())
            process.kill()
            for line in process.stdout:
                self._promised(line)
            assert process.wait() == -signal.SIGKILL, "it ended by itself"

    def _promised(self, line: str) -> None:
        # The last line may be cut, but pipes take short ones whole.
        if line.endswith("\n"):
            topic, payload = line.rstrip("\n").split(" ", 1)
            self.accepted.append((topic, payload))

    def last(self, inbox: Inbox) -> None:
        """Let it live until everything is acknowledged, and arrived."""
        with child(PUBLISHER, *self._arguments, LIVES, 1) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stdout.readline() == "born\n"
            inbox.wait_until(lambda messages: bool(messages) and messages[-1].topic == f"{self.topic}/end", 250.0)
            process.stdin.close()
            for line in process.stdout:
                self._promised(line)
            assert process.wait(PATIENCE_S) == 0


# Says on its output what its callback got.
SUBSCRIBER = """
import os, sys
from ohmqtt import Client, MQTTConnectProps, SessionSettings

address, path, client_id, topic = sys.argv[1:]
with Client(path, settings=SessionSettings(reconnect_initial_s=0.02, reconnect_max_s=0.2)) as client:
    subscription = client.subscribe(f"{topic}/#", lambda client, message: os.write(1, b"%s %s\\n" % (message.topic.encode(), message.payload)))
    client.connect(address, client_id, connect_properties=MQTTConnectProps(SessionExpiryInterval=3600))
    subscription.wait_for_ack(60)
    os.write(1, b"subscribed 0\\n")
    sys.stdin.read()
"""


def number_of(payload: str) -> tuple[int, ...]:
    return tuple(int(word) for word in payload.split())


@pytest.mark.spec("MQTT-4.3.2-1", "MQTT-4.3.3-1", "MQTT-4.4.0-1", "MQTT-4.6.0-1", "MQTT-4.6.0-4")
@pytest.mark.parametrize("mode", ["safe", "fast"])
@pytest.mark.parametrize("qos", [1, 2])
def test_a_publisher_that_is_killed_again_and_again_loses_nothing(
    mosquitto_factory: Callable[..., Mosquitto], tmp_path: Path, qos: int, mode: str
) -> None:
    seed = secrets.randbits(32)
    sys.stdout.write(f"seed {seed}\n")  # shown beside a failure
    broker = mosquitto_factory(config=["max_queued_messages 0", "max_inflight_messages 50"])
    lives = Lives(broker.address, tmp_path / "queue.db", mode, qos, random.Random(seed))
    with connected_client(broker.address) as subscriber:
        inbox = collect_messages(subscriber, f"{lives.topic}/#")
        for life in range(LIVES):
            lives.live(life, inbox)
        lives.last(inbox)
        arrivals = [(message.topic, message.payload.decode()) for message in inbox.now()[:-1]]
    first_arrivals = list(dict.fromkeys(arrivals))
    lost = set(lives.accepted) - set(arrivals)
    assert not lost, f"{len(lost)} of {len(lives.accepted)} messages are lost: {sorted(lost)[:10]}"
    # What was on disk at the moment of the kill, and not reported yet: at most what two threads had under way.
    assert len(first_arrivals) - len(lives.accepted) <= LIVES * 2 * TOPICS
    if qos == 2:
        assert len(arrivals) == len(first_arrivals), "duplicates at QoS 2"
    for topic in {topic for topic, _ in arrivals}:
        numbers = [number_of(payload) for name, payload in first_arrivals if name == topic]
        assert numbers == sorted(numbers), f"out of order in {topic}"


def arrivals_in_a_life(output: Iterable[str]) -> list[tuple[str, int]]:
    """Return (topic, number) of each message; the last line may be cut."""
    words = [line.split() for line in output if line.endswith("\n")]
    return [(topic, int(number)) for topic, number in words if topic != "subscribed"]


@pytest.mark.spec("MQTT-4.3.3-8", "MQTT-4.3.3-10", "MQTT-4.5.0-1", "MQTT-4.3.2-4")
@pytest.mark.parametrize("qos", [1, 2])
def test_a_subscriber_that_is_killed_again_and_again_gets_everything(
    mosquitto_factory: Callable[..., Mosquitto], tmp_path: Path, qos: int
) -> None:
    seed = secrets.randbits(32)
    sys.stdout.write(f"seed {seed}\n")  # shown beside a failure
    chance = random.Random(seed)
    broker = mosquitto_factory(config=["max_queued_messages 0", "max_inflight_messages 50"])
    topic = unused()
    arguments = (broker.address, tmp_path / "queue.db", unused("client"), topic)
    lives: list[list[tuple[str, int]]] = []
    sent: list[tuple[str, int]] = []
    with connected_client(broker.address) as publisher:
        # The first life only subscribes.
        with child(SUBSCRIBER, *arguments) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "subscribed 0\n"
        for _ in range(LIVES // 2):
            for _ in range(100):
                sent.append((f"{topic}/{len(sent) % TOPICS}", len(sent) + 1))
                publisher.publish(sent[-1][0], b"%d" % sent[-1][1], qos)
            with child(SUBSCRIBER, *arguments) as process:
                assert process.stdout is not None
                lines = [process.stdout.readline() for _ in range(chance.randint(1, 100))]
                process.kill()
                lives.append(arrivals_in_a_life([*lines, *process.stdout]))
                assert process.wait() == -signal.SIGKILL, "it ended by itself"
        publisher.publish(f"{topic}/end", b"0", qos).wait_for_ack(PATIENCE_S)
        with child(SUBSCRIBER, *arguments) as process:
            assert process.stdout is not None
            lines = []
            while not lines or not lines[-1].startswith(f"{topic}/end"):
                lines.append(process.stdout.readline())
            lives.append(arrivals_in_a_life(lines[:-1]))
    arrivals = [arrival for life in lives for arrival in life]
    first_arrivals = list(dict.fromkeys(arrivals))
    assert set(sent) == set(first_arrivals), f"lost: {sorted(set(sent) - set(first_arrivals))[:10]}"
    for name in {name for name, _ in sent}:
        numbers = [number for topic, number in first_arrivals if topic == name]
        assert numbers == sorted(numbers), f"out of order in {name}"
    for life in lives:
        assert len(life) == len(set(life)), "a callback was run twice in one life"
    if qos == 2:
        # A callback is repeated if the process died before the commit that followed it: what comes again later are the last ones of a life.
        for number, life in enumerate(lives):
            again = set(life) & {arrival for later in lives[number + 1 :] for arrival in later}
            assert again == set(life[len(life) - len(again) :])
