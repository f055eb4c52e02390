"""A publisher is killed with SIGKILL again and again, and goes on with what its database knows: nothing that `publish` returned for is lost.

The subscriber at the other side of a real broker counts. At QoS 2 there is no duplicate; order per topic holds (at QoS 1: of first arrivals).
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
    from collections.abc import Callable
    from pathlib import Path

    from tests.mosquitto import Mosquitto

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(180),
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
        handle.wait_for_ack(60.0)
    client.publish(f"{topic}/end", life, 2).wait_for_ack(60.0)
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
                inbox.wait(arrived + chance.randint(1, IN_A_LIFE_MAX))
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
            inbox.wait_until(lambda messages: bool(messages) and messages[-1].topic == f"{self.topic}/end", 90.0)
            assert process.stdin is not None
            process.stdin.close()
            assert process.stdout is not None
            assert process.stdout.readline() == "born\n"
            for line in process.stdout:
                self._promised(line)
            assert process.wait(PATIENCE_S) == 0


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
