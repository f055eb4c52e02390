"""The process is killed at each system call that changes the files of its database, and in the midst of each write.

Nothing that a commit, or `publish`, had returned for is lost; nothing is half there.
"""

from __future__ import annotations

import random
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ohmqtt import Client, MQTTConnectProps
from ohmqtt.store import SQLiteStore
from tests.broker_tools import FAST, PATIENCE_S, Inbox, collect_messages, connected_client, unused
from tests.disk.lives import Found, Life, plan, put, wall_clock
from tests.disk.recorder import calls_on
from tests.disk.soak import Tally, cut_power, kill_everywhere, scratch
from tests.disk.tracer import CAN_TRACE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.mosquitto import Mosquitto

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CAN_TRACE, reason="ptrace: Linux on x86_64 or aarch64 only"),
]

both_modes = pytest.mark.parametrize("fast", [False, True], ids=["safe", "fast"])


@both_modes
def test_killed_at_each_system_call_of_the_life_that_makes_the_database(fast: bool) -> None:
    tally = Tally()
    with scratch() as folder:
        journals, states = plan(folder / "plan", {}, 12, random.Random(5))
        kill_everywhere(folder, {}, Life(fast, journals, log_pages=6), states, tally)
    sys.stdout.write(f"{tally}\n")
    assert tally.counts["system calls"] > 50
    assert tally.counts["kills"] > tally.counts["system calls"]


@both_modes
def test_killed_at_each_system_call_of_a_life_that_begins_with_a_log(fast: bool) -> None:
    """Recovery of the log, a change of mode, commits, and the end."""
    tally = Tally()
    chance = random.Random(6)
    with scratch() as folder:
        journals, states = plan(folder / "plan", {}, 5, chance)
        first = Life(not fast, journals, closes=False)
        cuts = cut_power(folder, {}, first, states, Tally(), chance, random_count=0)
        image = next(left for left, state in cuts if state == states[5])
        cuts.close()
        assert len(image["a.db-wal"]) > 4096
        journals, states = plan(folder / "plan", image, 6, chance)
        kill_everywhere(folder, image, Life(fast, journals, log_pages=6), states, tally)
    sys.stdout.write(f"{tally}\n")
    assert tally.counts["kills"] > 50


class InTwo(SQLiteStore):
    """A store that commits in two transactions."""

    def commit(self, journal: Sequence[tuple[Any, ...]]) -> None:
        super().commit(journal[:1])
        super().commit(journal[1:])


class TooEarly(SQLiteStore):
    """A store that commits when it is asked for the next commit."""

    waiting: Sequence[tuple[Any, ...]] = ()

    def commit(self, journal: Sequence[tuple[Any, ...]]) -> None:
        waiting, self.waiting = self.waiting, journal
        super().commit(waiting)

    def close(self) -> None:
        self.commit(())
        super().close()


@pytest.mark.parametrize("broken", [InTwo, TooEarly])
def test_a_store_that_breaks_its_word_is_caught(broken: type[SQLiteStore]) -> None:
    def opens(folder: Path, fast: bool) -> SQLiteStore:
        return broken(folder / "a.db", fast=fast, wall_clock=wall_clock)

    with scratch() as folder:
        journals, states = plan(folder / "plan", {}, 12, random.Random(5))
        with pytest.raises(Found, match="were promised"):
            kill_everywhere(folder, {}, Life(False, journals, opens=opens), states, Tally())


# -- the client ---------------------------------------------------------------------------------------------------------------------------

MESSAGES = 3


def client_life(address: str, path: Path, client_id: str, topic: str, qos: int, say: Callable[[str], None]) -> None:
    """Publish some messages to itself and wait until all have come back; say when `publish` has returned, and what arrived."""
    with Client(path, settings=FAST) as client:
        arrived = client.subscribe(f"{topic}/#", lambda _, message: say(f"arrived {message.payload.decode()}"), qos)
        client.connect(address, client_id, connect_properties=MQTTConnectProps(SessionExpiryInterval=3_600))
        arrived.wait_for_ack(PATIENCE_S)
        for number in range(MESSAGES):
            client.publish(f"{topic}/t", b"%d" % number, qos)
            say(f"published {number}")
        for handle in client.pending():
            handle.wait_for_ack(PATIENCE_S)


@pytest.mark.parametrize("qos", [1, 2])
def test_a_client_is_killed_at_each_system_call_on_its_database(mosquitto: Mosquitto, qos: int) -> None:
    """A second life without a kill sends what is left. Somebody else has subscribed, too, and counts."""
    tally = Tally()
    number = 0
    passed = False
    with scratch() as folder, connected_client(mosquitto.address) as other:
        while not passed:
            number += 1
            passed = True
            topic, client_id = unused(), unused("client")
            inbox = collect_messages(other, f"{topic}/#")
            live = folder / "live"
            put(live, {})
            count = 0
            promised: set[str] = set()
            callbacks: list[str] = []
            life = partial(client_life, mosquitto.address, live / "a.db", client_id, topic, qos)
            for step, _ in calls_on(live, life):
                if isinstance(step, str):
                    what, payload = step.split()
                    callbacks += [payload] if what == "arrived" else []
                    promised |= {payload} if what == "published" else set()
                elif step.result is None:
                    count += 1
                    if count == number:
                        passed = False
                        step.kill()
            later = finish(mosquitto.address, live / "a.db", client_id, topic, qos)
            messages = inbox.wait_until(lambda messages: bool(messages) and messages[-1].topic.endswith("/end"))
            other.unsubscribe(f"{topic}/#")
            arrivals = [message.payload.decode() for message in messages[:-1]]
            where = f"killed at call {number}: promised {promised}, at the other one {arrivals}, callbacks {callbacks} and {later}"
            assert promised <= set(arrivals), where
            assert promised <= {*callbacks, *later}, where
            if qos == 2:
                # A callback may run again in the second life, because the first one died before its commit; the message is sent but once.
                assert all(len(some) == len(set(some)) for some in (arrivals, callbacks, later)), where
            firsts = list(dict.fromkeys(arrivals))
            assert firsts == sorted(firsts), where
            tally.counts["kills"] += not passed
    sys.stdout.write(f"QoS {qos}: {tally}\n")
    assert number > 30


def finish(address: str, path: Path, client_id: str, topic: str, qos: int) -> list[str]:
    """Live on without a kill, until everything is acknowledged and has come back; return what arrived."""
    inbox = Inbox()
    with Client(path, settings=FAST) as client:
        client.subscribe(f"{topic}/#", inbox, qos)
        client.connect(address, client_id, connect_properties=MQTTConnectProps(SessionExpiryInterval=3_600))
        client.wait_for_connect(PATIENCE_S)
        for handle in client.pending():
            handle.wait_for_ack(PATIENCE_S)
        client.publish(f"{topic}/end", b"", qos).wait_for_ack(PATIENCE_S)
        messages = inbox.wait_until(lambda messages: any(message.topic.endswith("/end") for message in messages))
    return [message.payload.decode() for message in messages if message.payload]
