"""What no protocol can prevent: a broker that dies, forgets, or freezes, while publishers publish."""

from __future__ import annotations

import re
import threading
from collections import Counter
from time import monotonic
from typing import TYPE_CHECKING

import pytest

from ohmqtt import (
    Client,
    Disconnected,
    KeepAliveError,
    LinkLostError,
    Message,
    MQTTError,
    SessionLostError,
    SessionLostPolicy,
    SessionSettings,
)
from tests.broker_tools import FAST, PATIENCE_S, Cutter, Inbox, Seen, collect_messages, connected_client, unused

if TYPE_CHECKING:
    from collections.abc import Callable, Collection
    from pathlib import Path

    from typing_extensions import Self

    from ohmqtt import PublishHandle
    from tests.mosquitto import Mosquitto

    Factory = Callable[..., Mosquitto]

pytestmark = pytest.mark.slow

UNLIMITED = ["max_queued_messages 0", "set_tcp_nodelay true"]
REPUBLISH = SessionSettings(reconnect_initial_s=0.02, reconnect_max_s=0.2, session_lost_policy=SessionLostPolicy.REPUBLISH)
PUBLISHERS = 3


# -- the broker goes and comes back, under load -----------------------------------------------------------------------------------------------


class Load:
    """Several clients that publish one QoS each without a pause, until they are told to stop."""

    def __init__(self, address: str, qos: int, settings: SessionSettings = FAST, at_once: int = 200, until_in: Inbox | None = None) -> None:
        self.at_once = at_once
        self.until_in = until_in
        self.address = address
        self.qos = qos
        self.settings = settings
        self.stopping = threading.Event()
        self.accepted: dict[bytes, PublishHandle] = {}
        self.progress: Seen[int] = Seen()
        self.errors: list[Exception] = []
        self.threads = [threading.Thread(target=self._run, args=(f"publisher{i}",)) for i in range(PUBLISHERS)]

    def __enter__(self) -> Self:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        for thread in self.threads:
            thread.join(2 * PATIENCE_S)
        assert not any(thread.is_alive() for thread in self.threads), "a publisher hangs"

    def _run(self, name: str) -> None:
        try:
            with Client(settings=self.settings) as client:
                client.connect(self.address, name)
                handles: list[PublishHandle] = []
                number = 0
                while not self.stopping.is_set():
                    payload = f"{name} {number}".encode()
                    handles.append(client.publish("load", payload, self.qos))
                    self.accepted[payload] = handles[-1]
                    number += 1
                    self.progress.add(number)
                    if len(handles) >= self.at_once:
                        # Bounded, so that a test ends: the next ones follow when these are done.
                        for handle in handles:
                            handle.exception(PATIENCE_S)
                        handles.clear()
                        if self.until_in is not None:
                            self.until_in.wait_until(Arrival(payload))
                for handle in handles:
                    handle.exception(PATIENCE_S)
        except Exception as error:
            self.errors.append(error)

    def outcomes(self) -> Counter[str]:
        """Return how often which outcome came; every handle has one."""
        assert self.errors == []
        assert all(handle.is_done() for handle in self.accepted.values())
        return Counter(type(handle.exception()).__name__ for handle in self.accepted.values())

    def acknowledged(self) -> set[bytes]:
        return {payload for payload, handle in self.accepted.items() if handle.exception() is None}


class Arrival:
    """Whether a payload is among messages that become more and more: each of them is looked at once."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._looked_at = 0
        self._found = False

    def __call__(self, messages: list[Message]) -> bool:
        self._found = self._found or any(message.payload == self._payload for message in messages[self._looked_at :])
        self._looked_at = len(messages)
        return self._found


def number_of(payload: bytes) -> int:
    return int(payload.split()[1])


def publish_through(load: Load, how_often: int, action: Callable[[], None]) -> None:
    """Do `action` several times while the load goes on."""
    for _ in range(how_often):
        load.progress.clear()
        load.progress.wait(400)
        action()
    load.progress.clear()
    load.progress.wait(400)


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_broker_that_keeps_its_sessions_restarts_under_load(mosquitto_factory: Factory, qos: int) -> None:
    broker = mosquitto_factory(persistent=True, config=UNLIMITED)
    with connected_client(broker.address, "subscriber") as subscriber:
        inbox = collect_messages(subscriber, "load")
        with Load(broker.address, qos, at_once=6 if qos == 2 else 50, until_in=inbox if qos == 2 else None) as load:
            publish_through(load, 3, broker.restart)
        outcomes = load.outcomes()
        received = expect_all(subscriber, inbox, load.acknowledged() if qos else set())
    assert set(outcomes) <= ({"NoneType"} if qos else {"NoneType", "LinkLostError"})
    assert outcomes["NoneType"] > 1_000
    if qos == 2:
        repeated = sum(count - 1 for count in Counter(received).values())
        assert repeated <= repeated_by_broker(broker.log(), "subscriber")
        for i in range(PUBLISHERS):
            numbers = [number_of(payload) for payload in dict.fromkeys(received) if payload.startswith(b"publisher%d " % i)]
            assert numbers == sorted(numbers)


def repeated_by_broker(log: str, client_id: str) -> int:
    """Return how often the broker sent a QoS 2 PUBLISH again that it had sent the PUBREL of, which makes it a new message (MQTT-4.3.3-12).

    Mosquitto 2.0.11 sends more than its limit of 20 once a few wait behind it, and forgets over a restart which of those beyond the limit
    it has released.
    """
    released: set[str] = set()
    count = 0
    for line in log.splitlines():
        if found := re.search(rf"Sending PUBREL to {client_id} \(m(\d+)\)", line):
            released.add(found[1])
        elif found := re.search(rf"Received PUBCOMP from {client_id} \(Mid: (\d+)", line):
            released.discard(found[1])
        elif (found := re.search(rf"Sending PUBLISH to {client_id} \(d1, q2, r0, m(\d+),", line)) and found[1] in released:
            released.discard(found[1])
            count += 1
    return count


@pytest.mark.parametrize("settings", [FAST, REPUBLISH], ids=["CLEAR", "REPUBLISH"])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_broker_that_forgets_is_killed_under_load(mosquitto_factory: Factory, qos: int, settings: SessionSettings) -> None:
    broker = mosquitto_factory(config=UNLIMITED)

    def kill_and_start() -> None:
        broker.kill()
        broker.start()

    with connected_client(broker.address, "subscriber") as subscriber:
        inbox = collect_messages(subscriber, "load")
        with Load(broker.address, qos, settings) as load:
            publish_through(load, 3, kill_and_start)
        outcomes = load.outcomes()
        # What this broker had acknowledged and not yet passed on is lost with it; what comes now goes through.
        received = expect_all(subscriber, inbox, set())
    allowed = {"NoneType"}
    if not qos:
        allowed.add("LinkLostError")
    elif qos == 2 or settings is FAST:
        # With REPUBLISH only what has its PUBREC already can't be saved.
        allowed.add("SessionLostError")
    assert set(outcomes) <= allowed
    assert outcomes["NoneType"] > 1_000
    if qos == 2 and settings is FAST:
        assert max(Counter(received).values()) == 1


@pytest.mark.parametrize("qos", [1, 2])
def test_a_broker_that_keeps_its_sessions_is_killed_under_load(mosquitto_factory: Factory, qos: int) -> None:
    """Mosquitto writes its state now and then, so that it may come back with an older one: nothing can be promised but that it goes on."""
    broker = mosquitto_factory(persistent=True, config=UNLIMITED)

    def kill_and_start() -> None:
        broker.kill()
        broker.start()

    with connected_client(broker.address, "subscriber") as subscriber:
        inbox = collect_messages(subscriber, "load")
        # So that the subscription is on disk.
        broker.restart()
        with Load(broker.address, qos, at_once=50) as load:
            publish_through(load, 3, kill_and_start)
        outcomes = load.outcomes()
        expect_all(subscriber, inbox, set())
    # An older state also counts exchanges as open that are done, and says 0x97 for want of room.
    assert set(outcomes) <= {"NoneType", "SessionLostError", "PublishError"}
    assert outcomes["NoneType"] > 1_000


def expect_all(client: Client, inbox: Inbox, expected: set[bytes]) -> list[bytes]:
    """Wait until a last message and all of `expected` have arrived; return all payloads but the last."""
    client.wait_for_connect(PATIENCE_S)
    end = unused("end").encode()
    client.publish("load", end, 1).wait_for_ack(PATIENCE_S)
    inbox.wait_until(Arrival(end))
    inbox.wait_until(lambda messages: expected <= {message.payload for message in messages})
    return [payload for payload in inbox.payloads() if payload != end]


# -- connections that are cut -------------------------------------------------------------------------------------------------------------------


PAYLOADS = [b"%d" % i + b" " * (i % 50) for i in range(600)]


@pytest.mark.spec("MQTT-4.3.2-2", "MQTT-4.3.3-2", "MQTT-4.4.0-1", "MQTT-4.6.0-1")
@pytest.mark.parametrize("durable", [False, True], ids=["memory", "database"])
@pytest.mark.parametrize("qos", [1, 2])
def test_a_publisher_whose_connections_are_cut_loses_and_repeats_nothing(
    mosquitto: Mosquitto, tmp_path: Path, durable: bool, qos: int
) -> None:
    topic = unused()
    with connected_client(mosquitto.address) as subscriber, Cutter(mosquitto.port, 1, 5_000) as way:
        inbox = collect_messages(subscriber, topic)
        with connected_client(
            way.address, unused("publisher"), db_path=tmp_path / "queue.db" if durable else None, db_fast=True
        ) as publisher:
            for handle in [publisher.publish(topic, payload, qos) for payload in PAYLOADS]:
                handle.wait_for_ack(PATIENCE_S)
            # So that the goodbye gets through.
            way.cutting = False
        assert way.cuts > 5
        subscriber.publish(topic, b"end", qos)
        inbox.wait_until(Arrival(b"end"))
    check_received(inbox, qos)


@pytest.mark.spec("MQTT-4.3.3-8", "MQTT-4.3.3-10", "MQTT-4.3.3-11")
@pytest.mark.parametrize("durable", [False, True], ids=["memory", "database"])
@pytest.mark.parametrize("qos", [1, 2])
def test_a_subscriber_whose_connections_are_cut_misses_and_repeats_nothing(
    mosquitto_factory: Factory, tmp_path: Path, durable: bool, qos: int
) -> None:
    broker = mosquitto_factory()
    topic = unused()
    path = tmp_path / "queue.db" if durable else None
    with Cutter(broker.port, 2, 5_000) as way, connected_client(broker.address) as publisher:
        with connected_client(way.address, "subscriber", db_path=path, db_fast=True) as subscriber:
            inbox = collect_messages(subscriber, topic, qos)
            for i in range(0, len(PAYLOADS), 20):
                # No more than this broker keeps in flight: it repeats all of them on each connection, and no connection lasts long.
                for payload in PAYLOADS[i : i + 20]:
                    publisher.publish(topic, payload, qos)
                inbox.wait_until(Arrival(PAYLOADS[i + 19]))
                # They are in flight until it has the last word of each, which may be cut off as well.
                wait_for_last_words(broker, "subscriber", i + 20)
            way.cutting = False
            publisher.publish(topic, b"end", qos)
            inbox.wait_until(Arrival(b"end"))
        assert way.cuts > 5
    check_received(inbox, qos, published_after_release(broker, "subscriber"))


def published_after_release(broker: Mosquitto, client_id: str) -> set[bytes]:
    """Return which messages the broker published again although it had sent their PUBREL: new messages to any client.

    Mosquitto 2.0 does so if a connection ends after its CONNECT was read and before the PUBREL of the former one is repeated on it.
    """
    released: set[str] = set()
    found: set[bytes] = set()
    for kind, packet_id in re.findall(rf"Sending (PUBREL|PUBLISH) to {client_id} \((?:d\d, q2, r0, )?m(\d+)", broker.log()):
        if kind == "PUBREL":
            released.add(packet_id)
        elif packet_id in released:
            found.add([*PAYLOADS, b"end"][int(packet_id) - 1])  # it counts them from 1
    return found


def wait_for_last_words(broker: Mosquitto, client_id: str, count: int) -> None:
    """Wait until the broker has PUBACK or PUBCOMP of so many messages to a client."""
    pause = threading.Event()
    deadline = monotonic() + 2 * PATIENCE_S
    while len(set(re.findall(rf"Received (?:PUBACK|PUBCOMP) from {client_id} \(Mid: (\d+)", broker.log()))) < count:
        assert monotonic() < deadline, f"{client_id} has not acknowledged {count} messages"
        pause.wait(0.01)


def check_received(inbox: Inbox, qos: int, repeated: Collection[bytes] = ()) -> None:
    """Assert that all of PAYLOADS are there: QoS 2 once and in order, QoS 1 at least once, and each for the first time in order.

    `repeated`: those that the broker sent as new messages once more.
    """
    counts = Counter(payload for payload in inbox.payloads() if payload != b"end")
    assert list(counts) == PAYLOADS  # as they came for the first time
    if qos == 2:
        assert {payload for payload, count in counts.items() if count > 1} <= set(repeated)


# -- what was sent and not acknowledged when the session was lost -------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("policy", list(SessionLostPolicy))
@pytest.mark.spec("MQTT-3.2.2-5")
def test_what_becomes_of_unacknowledged_messages_when_the_session_is_lost(
    mosquitto_factory: Factory, qos: int, policy: SessionLostPolicy
) -> None:
    broker = mosquitto_factory()
    inbox = Inbox()
    settings = SessionSettings(reconnect_initial_s=0.02, reconnect_max_s=0.2, session_lost_policy=policy)
    with connected_client(broker.address, "client", settings=settings) as client:
        client.subscribe("t", inbox).wait_for_ack(PATIENCE_S)
        broker.freeze()
        # The broker takes 20 at a time; the others have never been sent.
        handles = [client.publish("t", b"%d" % i, qos) for i in range(20)]
        # This one, too, is lost with the broker; it is done when it and all before it were handed to the socket.
        client.publish("t", b"handed over").wait_for_ack(PATIENCE_S)
        handles += [client.publish("t", b"%d" % i, qos) for i in range(20, 50)]
        broker.kill()
        broker.start()
        errors = [handle.exception(PATIENCE_S) for handle in handles]
        if policy is SessionLostPolicy.CLEAR:
            assert all(isinstance(error, SessionLostError) for error in errors[:20])
            assert errors[20:] == [None] * 30
            assert inbox.wait_payloads(30) == [b"%d" % i for i in range(20, 50)]
        else:
            assert errors == [None] * 50
            assert inbox.wait_payloads(50) == [b"%d" % i for i in range(50)]


# -- a frozen broker ----------------------------------------------------------------------------------------------------------------------------


def check_noticed(since: float, event: Disconnected, keep_alive_s: float) -> None:
    # Twice the keep alive is the promise, which tests without a clock of their own hold it to; the rest is for a machine that is busy.
    assert monotonic() - since < 2 * keep_alive_s + 20
    assert isinstance(event.error, LinkLostError)
    assert event.was_connected
    assert event.retry_in_s is not None


@pytest.mark.spec("MQTT-3.1.2-20")
def test_a_frozen_broker_is_noticed_while_idle(mosquitto_factory: Factory) -> None:
    broker = mosquitto_factory()
    lost: Seen[Disconnected] = Seen()
    with connected_client(broker.address, "client", keep_alive=1) as client:
        client.on_disconnect = lost
        inbox = collect_messages(client, "t")
        broker.freeze()
        since = monotonic()
        event = lost.wait()[0]
        check_noticed(since, event, 1)
        assert isinstance(event.error, KeepAliveError)
        handle = client.publish("t", b"kept", 1)
        broker.thaw()
        handle.wait_for_ack(PATIENCE_S)
        assert inbox.wait_payloads() == [b"kept"]


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("size", [10, 100_000])
def test_a_frozen_broker_is_noticed_while_publishing(mosquitto_factory: Factory, qos: int, size: int) -> None:
    broker = mosquitto_factory()
    lost: Seen[Disconnected] = Seen()
    handles: list[PublishHandle] = []
    settings = SessionSettings(reconnect_initial_s=0.02, reconnect_max_s=0.2, queue_bytes_max=20_000_000)
    pace = threading.Event()
    with connected_client(broker.address, "client", settings=settings, keep_alive=1) as client:
        client.on_disconnect = lost
        client.publish("t", b"x" * size, qos).wait_for_ack(PATIENCE_S)
        broker.freeze()
        since = monotonic()
        while not lost.now():
            try:
                handles.append(client.publish("t", b"x" * size, qos))
            except MQTTError:
                # The queue is full, and waiting for room ended with the link.
                break
            pace.wait(0.01)
            assert monotonic() - since < 30, "a publisher that goes on never notices"
        check_noticed(since, lost.wait()[0], 1)
        broker.thaw()
        client.wait_for_connect(PATIENCE_S)
        errors = [handle.exception(PATIENCE_S) for handle in handles]
        client.publish("t", b"", 1).wait_for_ack(PATIENCE_S)
    if qos:
        assert set(errors) == {None}
    else:
        assert all(error is None or isinstance(error, LinkLostError) for error in errors)


def test_disconnect_from_a_frozen_broker_ends(mosquitto_factory: Factory) -> None:
    broker = mosquitto_factory()
    with connected_client(broker.address, "client") as client:
        broker.freeze()
        handle = client.publish("t", b"x" * 30_000_000, 1)
        since = monotonic()
        client.disconnect(timeout=0.3)
        # It waits neither for the broker nor as long as a goodbye may take by itself, which is 10 s.
        assert monotonic() - since < 9.0
        assert not client.is_connected()
        assert handle.exception(PATIENCE_S) is not None


def test_a_broker_that_freezes_during_the_handshake_is_given_up(mosquitto_factory: Factory) -> None:
    broker = mosquitto_factory()
    broker.freeze()
    lost: Seen[Disconnected] = Seen()
    settings = SessionSettings(reconnect_initial_s=0.02, reconnect_max_s=0.2, connack_timeout_s=0.3)
    with Client(settings=settings) as client:
        client.on_disconnect = lost
        client.connect(broker.address)
        events = lost.wait(2)
        assert all("CONNACK" in str(event.error) for event in events)
        broker.thaw()
        client.wait_for_connect(PATIENCE_S)
        client.publish("t", b"x", 1).wait_for_ack(PATIENCE_S)
