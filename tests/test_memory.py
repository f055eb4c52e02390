"""Every queue has a bound, and memory stays within it: broker away, broker frozen, backlog on disk, messages given up.

Memory is that of a process of its own, as the operating system sees it.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from bench.sink import Sink
from ohmqtt import Client, MessageDroppedError, QueueFullError, QueuePolicy, SessionSettings
from tests.broker_tools import FAST, PATIENCE_S, child, unused
from tests.durable_tools import Call, connect
from tests.mosquitto import free_port
from tests.peer import Peer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

only_with_proc = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")

MIB = 1 << 20

# What each program begins with: `grown()` is by how much memory has grown since the last `start()`.
MEASURE = """
import json, sys
from ohmqtt import *

def memory():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) * 1024

def start():
    global before
    before = memory()

def grown():
    return memory() - before

def count(publish, messages):
    accepted = full = 0
    for number in range(messages):
        try:
            publish(number)
        except QueueFullError:
            full += 1
        else:
            accepted += 1
    return {"accepted": accepted, "full": full, "grown": grown()}
"""


def figures(program: str, *arguments: object) -> dict[str, Any]:
    with child(MEASURE + program, *arguments) as process:
        assert process.stdout is not None
        result: dict[str, Any] = json.loads(process.stdout.readline())
        assert process.wait(PATIENCE_S) == 0
        return result


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as peer:
        yield peer


# -- the broker is away -------------------------------------------------------------------------------------------------------------------

AWAY = """
with Client() as client:
    client.connect(sys.argv[1], "x")
    client.publish("t", b"", 1)
    start()
    print(json.dumps(count(lambda number: client.publish("t", b"%16d" % number, int(sys.argv[2])), 100_000)), flush=True)
    client.shutdown()
"""


@only_with_proc
@pytest.mark.slow
@pytest.mark.parametrize("qos", [0, 1])
def test_a_hundred_thousand_messages_without_a_broker_end_at_the_bound(qos: int) -> None:
    result = figures(AWAY, f"127.0.0.1:{free_port()}", qos)
    assert result["accepted"] == 65_534
    assert result["full"] == 100_000 - 65_534
    assert result["grown"] < 65_535 * 600


LARGE = """
with Client() as client:
    client.connect(sys.argv[1], "x")
    start()
    print(json.dumps(count(lambda number: client.publish("t", bytes(100_000), 1), 2_000)), flush=True)
    client.shutdown()
"""


@only_with_proc
@pytest.mark.slow
def test_large_messages_without_a_broker_end_at_the_bound_in_bytes() -> None:
    result = figures(LARGE, f"127.0.0.1:{free_port()}")
    assert result["accepted"] == (64 * MIB) // 100_004
    assert result["grown"] < 80 * MIB


# -- given up -----------------------------------------------------------------------------------------------------------------------------

CANCELLED = """
with Client(sys.argv[1] or None, db_fast=True) as client:
    client.publish("t", b"the first one stays", 1)
    for number in range(2_000):
        client.publish("t", bytes(1_000), 1).cancel()
    start()
    for number in range(30_000):
        client.publish("t", bytes(1_000), 1).cancel()
    for number in range(30_000):
        client.publish("t", bytes(1_000), 0, properties=MQTTPublishProps(MessageExpiryInterval=1_000_000)).cancel()
    print(json.dumps({"grown": grown()}), flush=True)
    client.shutdown()
"""


@only_with_proc
@pytest.mark.slow
@pytest.mark.parametrize("durable", [False, True])
def test_cancelled_messages_hold_no_memory(tmp_path: Path, durable: bool) -> None:
    assert figures(CANCELLED, tmp_path / "queue.db" if durable else "")["grown"] < 12 * MIB


REFUSED = """
class Full:
    def load(self):
        from ohmqtt.journal import StoredState
        return StoredState(None, None, 1, [], [], 0, 0)
    def load_queued(self, *arguments):
        return []
    def commit(self, journal):
        raise StoreError("full")
    def close(self):
        pass

def publish():
    try:
        client.publish("t", bytes(1_000), 1, properties=MQTTPublishProps(MessageExpiryInterval=1_000_000))
    except StoreError:
        return
    raise AssertionError

with Client(store=Full()) as client:
    for number in range(2_000):
        publish()
    start()
    for number in range(30_000):
        publish()
    print(json.dumps({"grown": grown()}), flush=True)
    client.shutdown()
"""


@only_with_proc
@pytest.mark.slow
def test_messages_that_the_disk_refused_hold_no_memory() -> None:
    assert figures(REFUSED)["grown"] < 15 * MIB


SENT = """
with Client(settings=SessionSettings(queue_messages_max=1_000)) as client:
    client.connect("127.0.0.1:" + sys.argv[1], "x")
    client.wait_for_connect(60)
    properties = MQTTPublishProps(MessageExpiryInterval=1_000_000)
    def publish(first, last):
        for number in range(first, last):
            handle = client.publish("t", number.to_bytes(8, "big") + bytes(992), 1, properties=properties if int(sys.argv[2]) else None)
        handle.wait_for_ack(250)
    publish(0, 20_000)
    start()
    publish(20_000, 80_000)
    print(json.dumps({"grown": grown()}), flush=True)
"""


@only_with_proc
@pytest.mark.slow
@pytest.mark.parametrize("expiring", [0, 1])
def test_acknowledged_messages_hold_no_memory(expiring: int) -> None:
    with Sink(case="publish", qos=1, count=80_000, size=1_000, receive_maximum=100, timeout=250) as sink:
        assert figures(SENT, sink.port, expiring)["grown"] < 12 * MIB


# -- a backlog on disk --------------------------------------------------------------------------------------------------------------------

BACKLOG = """
path, window = sys.argv[1:]
settings = SessionSettings(queue_messages_max=1_000_000, queue_bytes_max=1 << 30, window_messages=int(window))
with Client(path, db_fast=True, settings=settings) as client:
    start()
    for number in range(60):
        client.publish_many([("t", bytes(1_000))] * 1_000, 1, properties=MQTTPublishProps(MessageExpiryInterval=1_000_000))
    written = grown()
    client.shutdown()
with Client(path, db_fast=True, settings=settings) as client:
    start()
    iterated = sum(1 for _ in client.pending())
    print(json.dumps({"written": written, "iterated": iterated, "grown": grown()}), flush=True)
    client.shutdown()
"""


@only_with_proc
@pytest.mark.slow
def test_a_backlog_larger_than_the_window_stays_on_disk(tmp_path: Path) -> None:
    result = figures(BACKLOG, tmp_path / "queue.db", 2_048)
    assert result["iterated"] == 60_000
    # 60 MB of payloads; the page cache of SQLite and the watch over what expires are bounded by themselves.
    assert result["written"] < 20 * MIB
    assert result["grown"] < 15 * MIB


# -- what each policy does ----------------------------------------------------------------------------------------------------------------


def settings(policy: QueuePolicy, **bounds: Any) -> SessionSettings:
    return SessionSettings(queue_policy=policy, reconnect_initial_s=0.02, reconnect_max_s=0.2, **bounds)


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("policy", [QueuePolicy.WAIT, QueuePolicy.RAISE])
def test_while_not_connected_a_full_queue_raises(policy: QueuePolicy, qos: int) -> None:
    with Client(settings=settings(policy, queue_messages_max=3)) as client:
        handles = [client.publish("t", b"x", qos) for _ in range(3)]
        with pytest.raises(QueueFullError, match="3 of 3 messages"):
            client.publish("t", b"x", qos)
        assert handles[0].cancel()
        client.publish("t", b"x", qos)
        client.shutdown()


@pytest.mark.parametrize("policy", [QueuePolicy.WAIT, QueuePolicy.RAISE])
def test_while_not_connected_a_queue_that_is_full_in_bytes_raises(policy: QueuePolicy) -> None:
    with Client(settings=settings(policy, queue_bytes_max=1_000)) as client:
        client.publish("t", bytes(900), 1)
        with pytest.raises(QueueFullError, match="of 1000 bytes"):
            client.publish("t", bytes(100), 1)
        client.publish("t", bytes(50), 1)
        client.shutdown()


def test_while_connected_raise_raises(peer: Peer) -> None:
    with Client(settings=settings(QueuePolicy.RAISE, queue_messages_max=2)) as client:
        link = connect(client, peer)
        handles = [client.publish("t", b"x", 1) for _ in range(2)]
        ids = [link.expect("PUBLISH").packet_id for _ in range(2)]
        with pytest.raises(QueueFullError):
            client.publish("t", b"x", 1)
        link.puback(ids[0])
        handles[0].wait_for_ack(PATIENCE_S)
        client.publish("t", b"x", 1)
        client.shutdown()


def test_while_connected_wait_waits_for_room(peer: Peer) -> None:
    with Client(settings=settings(QueuePolicy.WAIT, queue_messages_max=2)) as client:
        link = connect(client, peer)
        for _ in range(2):
            client.publish("t", b"x", 1)
        packet_id = link.expect("PUBLISH").packet_id
        link.expect("PUBLISH")
        call = Call(client.publish, "t", b"third", 1)
        link.expect_nothing()
        assert call.is_alive()
        link.puback(packet_id)
        link.expect("PUBLISH", payload=b"third")
        call.result()
        client.shutdown()


def test_what_waits_for_room_is_told_when_the_link_is_lost(peer: Peer) -> None:
    with Client(settings=settings(QueuePolicy.WAIT, queue_messages_max=1)) as client:
        link = connect(client, peer)
        client.publish("t", b"x", 1)
        link.expect("PUBLISH")
        call = Call(client.publish, "t", b"second", 1)
        link.expect_nothing()
        link.cut()
        with pytest.raises(QueueFullError):
            call.result()
        client.shutdown()


def test_what_can_never_fit_does_not_wait(peer: Peer) -> None:
    with Client(settings=settings(QueuePolicy.WAIT, queue_bytes_max=1_000)) as client:
        connect(client, peer)
        with pytest.raises(QueueFullError):
            client.publish("t", bytes(2_000), 1)
        client.shutdown()


@pytest.mark.parametrize("connected", [False, True])
def test_drop_oldest_drops_what_was_never_sent(peer: Peer, connected: bool) -> None:
    with Client(settings=settings(QueuePolicy.DROP_OLDEST, queue_messages_max=5)) as client:
        link = connect(client, peer, ReceiveMaximum=1) if connected else None
        handles = [client.publish("t", b"%d" % number, number % 2 + 1) for number in range(10)]
        # The one that was sent holds its place; the oldest of the others make room.
        dropped = range(1, 6) if connected else range(5)
        for number in dropped:
            with pytest.raises(MessageDroppedError, match="oldest"):
                handles[number].wait_for_ack(PATIENCE_S)
        kept = [number for number in range(10) if number not in dropped]
        assert [int(handle.payload) for handle in client.pending()] == kept
        link = link or connect(client, peer)
        for number in kept:
            packet = link.expect("PUBLISH", payload=b"%d" % number)
            if packet.qos == 1:
                link.puback(packet.packet_id)
            else:
                link.pubrec(packet.packet_id, 0x80)
        client.shutdown()


def test_drop_oldest_raises_if_all_were_sent(peer: Peer) -> None:
    with Client(settings=settings(QueuePolicy.DROP_OLDEST, queue_messages_max=2)) as client:
        link = connect(client, peer)
        for _ in range(2):
            client.publish("t", b"x", 1)
            link.expect("PUBLISH")
        with pytest.raises(QueueFullError):
            client.publish("t", b"x", 1)
        client.shutdown()


def test_drop_newest_tells_it_by_the_handle() -> None:
    with Client(settings=settings(QueuePolicy.DROP_NEWEST, queue_messages_max=2)) as client:
        handles = [client.publish("t", b"%d" % number, 1) for number in range(4)]
        for handle in handles[2:]:
            with pytest.raises(MessageDroppedError, match="newest"):
                handle.wait_for_ack(PATIENCE_S)
        assert [handle.payload for handle in client.pending()] == [b"0", b"1"]
        client.shutdown()


def test_qos_0_may_be_dropped_while_not_connected() -> None:
    with Client(settings=SessionSettings(queue_qos0=False)) as client:
        with pytest.raises(MessageDroppedError, match="queue_qos0"):
            client.publish("t", b"x", 0).wait_for_ack(PATIENCE_S)
        client.publish("t", b"x", 1)
        assert len(list(client.pending())) == 1
        client.shutdown()


@pytest.mark.slow
def test_qos_0_to_a_frozen_server_is_bounded(peer: Peer) -> None:
    with Client(settings=settings(QueuePolicy.RAISE, queue_messages_max=5_000, queue_bytes_max=20 * MIB)) as client:
        connect(client, peer)
        with pytest.raises(QueueFullError):
            for _ in range(100_000):
                client.publish("t", bytes(10_000), 0)
        client.shutdown()


def test_what_was_queued_before_connect_arrives_in_order(peer: Peer) -> None:
    with Client(settings=FAST) as client:
        for number in range(10):
            client.publish("t", b"%d" % number, number % 3)
        link = connect(client, peer, client_id=unused("client"))
        for number in range(10):
            link.expect("PUBLISH", payload=b"%d" % number, qos=number % 3)
        client.shutdown()
