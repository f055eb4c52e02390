"""What was accepted and never sent: bounds, policies, expiry, rows on disk; and the journal against memory, at random. No I/O."""

from __future__ import annotations

import gc
import random
import weakref
from typing import Any

import pytest

from ohmqtt.errors import MessageDroppedError, MessageExpiredError, QueueFullError, ServerLimitError, StoreError
from ohmqtt.packet import MQTTPubAckPacket, MQTTPublishPacket, MQTTPubRecPacket
from ohmqtt.property import MQTTPublishProps
from ohmqtt.records import SessionLostPolicy, State
from ohmqtt.session import QueuePolicy
from ohmqtt.session.backlog import SWEEP_MIN
from ohmqtt.topic_alias import AliasPolicy
from tests.outbound_world import FakeStore, Publication, World, expiring, publication, restored, weight


def payloads(sent: list[Any]) -> list[bytes]:
    return [packet.payload for packet in sent if isinstance(packet, MQTTPublishPacket)]


def test_only_what_can_still_be_sent_waits() -> None:
    world = World()
    assert not world.outbound.waits()
    message = world.publish(b"1")
    assert world.outbound.waits()
    assert world.outbound.cancel(message)
    assert not world.outbound.waits()


def test_what_a_goodbye_left_in_the_database_goes_on_under_a_new_handle() -> None:
    world = World(FakeStore())
    message = expiring(b"1", 10, world.now)
    world.outbound.publish(message, None)
    world.outbound.close_out(session_survives=True)
    world.turn()
    assert message.done
    heir: Any = world.outbound.heir(message)
    assert id(world.outbound.heir(message)) == id(heir)
    assert not heir.done
    heir.claimed = True
    world.outbound.expire(10.0)
    world.turn()
    assert isinstance(heir.outcome, MessageExpiredError)
    assert heir.done
    assert world.undelivered() == []


# -- bounds and policies ----------------------------------------------------------------------------------------------------------------------

ONE = weight(publication(b"1"))


@pytest.mark.parametrize("policy", [QueuePolicy.RAISE, QueuePolicy.WAIT])
@pytest.mark.parametrize("bound", [{"queue_messages_max": 2}, {"queue_bytes_max": 2 * ONE}], ids=["messages", "bytes"])
def test_a_full_queue_raises(policy: QueuePolicy, bound: dict[str, Any]) -> None:
    world = World(queue_policy=policy, **bound)
    messages = world.publish_all(b"1", b"2")
    assert not world.outbound.has_room(publication(b"3"))
    with pytest.raises(QueueFullError, match="2 of"):
        world.publish(b"3")
    world.connect()
    assert not world.outbound.has_room(publication(b"3"))  # in flight counts
    world.puback(messages[0])
    assert world.outbound.has_room(publication(b"3"))
    world.publish(b"3")
    assert payloads(world.turn()) == [b"3"]
    world.check()


@pytest.mark.parametrize("qos", [0, 1])
def test_the_newest_is_dropped(qos: int) -> None:
    world = World(queue_policy=QueuePolicy.DROP_NEWEST, queue_messages_max=2)
    messages = world.publish_all(b"1", b"2", b"3", qos=qos)
    world.turn()
    assert world.resolved == [messages[2]]
    assert isinstance(messages[2].outcome, MessageDroppedError)
    assert payloads(world.connect()) == [b"1", b"2"]
    world.check()


@pytest.mark.parametrize("store", [None, FakeStore()], ids=["in memory", "stored"])
def test_the_oldest_is_dropped(store: FakeStore | None) -> None:
    world = World(store, queue_policy=QueuePolicy.DROP_OLDEST, queue_bytes_max=3 * ONE)
    messages = world.publish_all(b"1", b"2", b"3")
    world.outbound.cancel(messages[0])
    world.publish(b"4")
    big = world.publish(bytes(1 + ONE))  # takes the room of two
    world.turn()
    assert [type(message.outcome) for message in messages[1:]] == [MessageDroppedError] * 2
    assert payloads(world.connect()) == [b"4", big.payload]
    world.check()
    # What is in flight can't be dropped, nor is anything dropped for what never fits.
    with pytest.raises(QueueFullError):
        world.publish(bytes(ONE))
    world.puback(big)
    world.publish(b"5", 0)
    with pytest.raises(QueueFullError, match="queue_bytes_max"):
        world.publish(bytes(3 * ONE))
    assert payloads(world.turn()) == [b"5"]
    world.check()


def test_qos_0_without_a_connection_can_be_dropped() -> None:
    world = World(queue_qos0=False)
    message = world.publish(b"1", 0)
    world.publish(b"2", 1)
    world.turn()
    assert isinstance(message.outcome, MessageDroppedError)
    assert payloads(world.connect(ReceiveMaximum=1)) == [b"2"]
    world.publish(b"3", 1)
    world.publish(b"4", 0)  # connected, and waiting its turn
    assert payloads(world.turn()) == []
    world.puback(world.outbound.in_flight[1])
    assert payloads(world.turn()) == [b"3", b"4"]


def test_the_queue_is_sent_in_order_once_there_is_a_connection() -> None:
    world = World()
    messages = [world.publish(b"%d" % i, i % 3) for i in range(7)]
    sent = world.connect()
    assert payloads(sent) == [message.payload for message in messages]
    assert [packet.packet_id for packet in sent] == [0, 1, 2, 0, 3, 4, 0]
    world.check()


# -- expiry -----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.3.2-5")
@pytest.mark.parametrize("qos", [0, 1])
def test_what_expires_in_the_queue_is_settled_in_time(qos: int) -> None:
    world = World(FakeStore())
    messages = [expiring(b"%d" % seconds, seconds, world.now, qos) for seconds in (20, 10, 10)]
    for message in messages:
        world.outbound.publish(message, None)
    world.publish(b"for ever", qos)
    assert world.outbound.expiring[0][0] == 10.0
    world.outbound.expire(9.999)
    world.turn()
    assert world.resolved == []
    world.outbound.expire(10.0)
    world.turn()
    assert world.resolved == messages[1:]
    assert all(isinstance(message.outcome, MessageExpiredError) for message in messages[1:])
    world.check()
    world.now = 15.5
    sent = world.connect()
    assert [(packet.payload, packet.properties.MessageExpiryInterval) for packet in sent] == [(b"20", 5), (b"for ever", None)]
    world.check()


def test_a_row_grows_older_while_it_waits_for_the_disk() -> None:
    store = FakeStore()
    world = World(store)
    world.outbound.publish(expiring(b"soon", 10, world.now), None)
    world.outbound.publish(expiring(b"too late", 4, world.now), None)
    world.now = 4.5
    world.turn()
    assert [row.expiry_s for row in store.rows.values()] == [5.5, 0.0]
    world.check()


def test_what_expired_unnoticed_is_not_sent() -> None:
    world = World()
    message = expiring(b"payload", 10, world.now)
    world.outbound.publish(message, None)
    world.now = 10.0
    assert world.connect() == []
    assert isinstance(message.outcome, MessageExpiredError)


def test_an_interval_of_0_expires_unless_it_is_sent_at_once() -> None:
    world = World()
    queued = expiring(b"1", 0, world.now)
    world.outbound.publish(queued, None)
    world.outbound.expire(world.now)
    assert isinstance(queued.outcome, MessageExpiredError)
    world.connect()
    world.outbound.publish(expiring(b"2", 0, world.now), world.link)
    (sent,) = world.turn()
    assert sent.properties.MessageExpiryInterval == 0


def test_what_expired_on_disk_names_the_interval_that_was_published() -> None:
    store = FakeStore()
    former = World(store)
    former.outbound.publish(expiring(b"payload", 10, former.now), None)
    former.turn()
    store.rows[1].expiry_s = 0.0
    world = World(store)
    world.turn()
    (event,) = world.events
    assert "of 10 s" in str(event.error)


def test_what_expires_on_disk_is_settled_in_time_if_somebody_holds_it() -> None:
    world = World(FakeStore(), window_messages=1)
    world.publish(b"in memory")
    held = expiring(b"held", 10, world.now)
    world.outbound.publish(held, None)
    world.outbound.publish(expiring(b"not held", 10, world.now), None)
    world.turn()
    gc.collect()
    assert len(world.outbound.stored_handles) == 1
    world.now = 10.0
    world.outbound.expire(world.now)
    world.turn()
    assert world.resolved == [held]
    assert world.outbound.stored_rows == 1
    world.check()
    assert payloads(world.connect()) == [b"in memory"]
    assert len(world.undelivered()) == 1
    assert world.outbound.messages == 1
    world.check()


def test_what_expires_on_disk_is_settled_in_time_if_somebody_has_asked_for_it() -> None:
    store = FakeStore()
    former = World(store)
    former.publish(b"in memory")
    former.outbound.publish(expiring(b"asked for", 10, former.now), None)
    former.turn()
    world = World(store, window_messages=1)
    world.turn()
    _, asked_for = world.outbound.claim(store.load_queued(0, 10, 1_000), restored)
    assert asked_for.state == State.STORED
    world.outbound.expire(10.0)
    assert isinstance(asked_for.outcome, MessageExpiredError)
    world.check()


# -- what is settled holds no memory ----------------------------------------------------------------------------------------------------------


def test_what_was_acknowledged_is_let_go_of_long_before_it_would_expire() -> None:
    world = World()
    world.connect(ReceiveMaximum=10)
    living: list[weakref.ref[Publication]] = []

    def publish_and_acknowledge() -> None:
        messages = [expiring(b"payload", 86_400, world.now) for _ in range(20)]
        living.extend(weakref.ref(message) for message in messages)
        for message in messages:
            world.outbound.publish(message, world.link)
        for message in messages:
            if message.state == State.QUEUED:
                world.turn()
            world.puback(message)
        world.turn()
        world.resolved.clear()
        world.outbound.expire(world.now)

    for _ in range(100):
        publish_and_acknowledge()
    assert len(world.outbound.expiring) <= SWEEP_MIN
    assert sum(reference() is not None for reference in living) <= SWEEP_MIN


def test_after_a_rush_hour_nothing_is_left_of_it() -> None:
    world = World()
    messages = [expiring(b"payload", 86_400, world.now) for _ in range(2 * SWEEP_MIN)]
    for message in messages:
        world.outbound.publish(message, None)
    world.connect()
    for message in messages:
        world.puback(message)
    world.outbound.expire(world.now)
    assert world.outbound.expiring == []


def test_what_was_cancelled_is_let_go_of_though_nothing_is_sent() -> None:
    world = World(FakeStore(), window_messages=10)
    kept = world.publish(b"kept")
    world.publish_all(*(b"window" for _ in range(9)))
    on_disk = world.publish(b"on disk")
    kept_qos0 = world.publish(b"kept", 0)
    for _ in range(3 * SWEEP_MIN):
        world.outbound.cancel(world.publish(qos=0))
        assert len(world.outbound.behind_stored) <= SWEEP_MIN + 50
    assert on_disk.state == State.STORED
    world.check()
    assert payloads(world.connect()) == [b"kept", *[b"window"] * 9, b"on disk", b"kept"]
    assert kept.sent
    assert kept_qos0.done


def test_what_was_cancelled_in_the_queue_is_let_go_of_though_nothing_is_sent() -> None:
    world = World()
    kept = expiring(b"kept", 10, world.now)
    world.outbound.publish(kept, None)
    for _ in range(3 * SWEEP_MIN):
        world.outbound.cancel(world.publish())
        assert len(world.outbound.queue) <= SWEEP_MIN + 50
    world.check()
    assert kept.outcome is None
    world.outbound.expire(10.0)
    assert isinstance(kept.outcome, MessageExpiredError)


# -- rows that are on disk only ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"window_messages": 4}, {"window_bytes": 4 * ONE}], ids=["messages", "bytes"])
def test_a_backlog_is_held_in_memory_window_by_window(settings: dict[str, Any]) -> None:
    store = FakeStore()
    world = World(store, **settings)
    for i in range(50):
        world.publish(b"%d" % (i % 10))
        world.turn()
        assert len(world.outbound.queue) <= 4
    gc.collect()
    assert world.outbound.stored_rows == 46
    assert len(world.resolved) == 0
    world.check()
    assert payloads(world.connect(ReceiveMaximum=1)) == [b"0"]
    seen = []
    while world.outbound.in_flight:
        message = next(iter(world.outbound.in_flight.values()))
        seen.append((message.payload, message.packet_id))
        assert len(world.outbound.queue) <= 4
        world.check()
        world.puback(message)
        world.turn()
    assert seen == [(b"%d" % (i % 10), i + 1) for i in range(50)]
    outbound = world.outbound
    assert (outbound.messages, outbound.bytes, outbound.queue_bytes) == (0, 0, 0)
    # The way is short again.
    world.publish(b"next")
    assert payloads(world.turn()) == [b"next"]
    world.baskets.required = True
    world.turn()
    assert store.rows.keys() == {51}


def test_only_held_handles_are_kept_of_what_is_on_disk() -> None:
    world = World(FakeStore(), window_messages=1)
    world.publish(b"1")
    held = world.publish(b"2")
    gone = weakref.ref(world.publish(b"3"))
    world.turn()
    gc.collect()
    assert held.state == State.STORED
    assert gone() is None
    assert payloads(world.connect()) == [b"1", b"2", b"3"]
    assert held.state == State.ASSIGNED
    world.check()


@pytest.mark.parametrize("qos", [0, 1])
def test_what_is_new_does_not_overtake_rows_that_are_still_to_be_loaded(qos: int) -> None:
    world = World(FakeStore(), window_messages=1)
    world.publish_all(b"1", b"2", b"3")
    world.turn()
    world.accept()
    world.release(world.take())
    assert payloads(world.flush()) == [b"1"]
    # Nothing waits in memory, and the quota has room.
    world.publish(b"new", qos)
    assert payloads(world.turn()) == [b"2", b"3", b"new"]
    world.check()


def test_qos_0_does_not_overtake_rows_on_disk() -> None:
    world = World(FakeStore(), window_messages=2)
    for i in range(10):
        world.publish(b"%d" % i, 0 if i % 3 == 2 else 1)
    world.turn()
    world.check()
    # More than one load: what was accepted in between keeps its place.
    assert payloads(world.connect()) == [b"%d" % i for i in range(10)]
    world.check()


def test_rows_that_are_cancelled_on_disk_leave_nothing_behind() -> None:
    world = World(FakeStore(), window_messages=1)
    messages = [world.publish(b"1"), world.publish(b"2"), world.publish(b"3"), world.publish(b"4", 0)]
    world.turn()
    for message in messages[1:3]:
        assert world.outbound.cancel(message)
    world.check()
    assert world.outbound.stored_rows == 0
    assert payloads(world.connect()) == [b"1", b"4"]
    world.check()
    world.publish(b"5")
    assert payloads(world.turn()) == [b"5"]


def test_a_row_that_is_cancelled_while_it_is_loaded_is_not_sent() -> None:
    store = FakeStore()
    world = World(store, window_messages=2)
    messages = world.publish_all(b"1", b"2", b"3", b"4", b"5")
    world.turn()
    world.accept()
    world.release(world.take())
    wanted = world.outbound.wanted_rows()
    assert wanted is not None
    assert wanted[:2] == (2, 2)
    rows = store.load_queued(*wanted)
    assert [row.payload for row in rows] == [b"3", b"4"]
    for message in (messages[2], messages[4]):
        world.outbound.cancel(message)
    world.outbound.loaded(rows, restored, world.now)
    assert world.outbound.stored_deleted == {5}
    world.check()
    assert payloads(world.turn()) == [b"1", b"2", b"4"]
    world.check()


def test_nothing_is_wanted_while_enough_is_in_memory() -> None:
    world = World(FakeStore(), window_messages=4, window_bytes=4 * ONE)
    assert world.outbound.wanted_rows() is None
    world.publish_all(b"1", b"2", b"3", b"4", b"5")
    assert world.outbound.wanted_rows() is None
    world.connect(ReceiveMaximum=1)
    world.outbound.queue.clear()
    world.outbound.queue_bytes = 3 * ONE
    world.outbound.stored_rows = 1
    assert world.outbound.wanted_rows() is None


def test_an_empty_load_changes_nothing() -> None:
    world = World(FakeStore(), window_messages=1)
    world.publish_all(b"1", b"2")
    world.outbound.loaded([], restored, world.now)
    world.check()


def test_a_stored_publication_keeps_all_that_it_was_published_with() -> None:
    store = FakeStore()
    world = World(store)
    properties = MQTTPublishProps(ContentType="text", MessageExpiryInterval=60)
    world.publish(b"payload", 2, topic="wetter/Köln", retain=True, properties=properties, alias_policy=AliasPolicy.TRY)
    world.publish(b"plain", 1)
    world.turn()
    row = store.rows[1]
    assert (row.qos, row.retain, row.topic, row.payload) == (2, True, "wetter/Köln", b"payload")
    assert (row.alias_policy, row.expiry_s, row.packet_id, row.released) == (AliasPolicy.TRY.value, 60, 0, 0)
    assert (store.rows[2].alias_policy, store.rows[2].expiry_s) == (0, None)
    again = World(store)
    again.now = 10.0
    first, second = again.connect(session_present=True)
    assert first == MQTTPublishPacket("wetter/Köln", b"payload", 2, True, False, 1, properties.replace(MessageExpiryInterval=50))
    assert second == MQTTPublishPacket("topic", b"plain", 1, False, False, 2)
    assert again.outbound.next_sequence == 3


# -- the journal against memory, at random ----------------------------------------------------------------------------------------------------


class Weather:
    """Random operations on a World, each followed by a look at every invariant."""

    def __init__(self, seed: int) -> None:
        self.random = rng = random.Random(seed)
        self.store = FakeStore() if seed % 4 else None
        self.settings: dict[str, Any] = {
            "window_messages": rng.choice([1, 3, 2_048]),
            "session_lost_policy": rng.choice(list(SessionLostPolicy)),
            "queue_policy": rng.choice(list(QueuePolicy)),
            "queue_messages_max": rng.choice([5, 30, 1_000]),
            "keep_poison": rng.random() < 0.5,
        }
        self.world = World(self.store, **self.settings)
        self.messages: list[Publication] = []
        self.turns: list[Any] = []

    def step(self) -> None:
        world = self.world
        steps = [self.publish] * 6 + [self.turn] * 4 + [self.acknowledge] * 5 + [self.cancel, self.later, self.link] * 2
        if self.random.random() < 0.02:
            steps = [self.goodbye, self.crash, self.refuse]
        self.random.choice(steps)()
        world = self.world
        world.check()

    def publish(self) -> None:
        world, rng = self.world, self.random
        properties = MQTTPublishProps(MessageExpiryInterval=rng.randrange(20)) if rng.random() < 0.2 else MQTTPublishProps.EMPTY
        message = publication(b"x" * rng.randrange(10), rng.randrange(3), properties=properties, now=world.now)
        try:
            world.outbound.publish(message, world.link)
        except (QueueFullError, ServerLimitError):
            return
        self.messages.append(message)

    def turn(self) -> None:
        self.world.turn()

    def acknowledge(self) -> None:
        world, rng = self.world, self.random
        if world.link is None:
            return
        sent = [message for message in world.outbound.in_flight.values() if message.sent]
        if sent and rng.random() < 0.6:
            message = rng.choice(sent)
            failed = rng.random() < 0.2
            if message.qos == 1:
                world.puback(message, MQTTPubAckPacket(message.packet_id, 0x80) if failed else None)
            else:
                world.pubrec(message, MQTTPubRecPacket(message.packet_id, 0x80) if failed else None)
        elif world.outbound.released:
            world.pubcomp(rng.choice(list(world.outbound.released.values())))

    def cancel(self) -> None:
        if self.messages:
            self.world.outbound.cancel(self.random.choice(self.messages))

    def later(self) -> None:
        self.world.now += self.random.random() * 5
        self.world.outbound.expire(self.world.now)

    def link(self) -> None:
        world, rng = self.world, self.random
        if world.link is not None:
            world.lose_link(closed_by_peer=rng.random() < 0.7)
        else:
            world.accept(rng.random() < 0.7, ReceiveMaximum=rng.choice([1, 3, 100]), MaximumQoS=1 if rng.random() < 0.1 else None)

    def goodbye(self) -> None:
        world, rng = self.world, self.random
        survives = rng.random() < 0.5
        world.outbound.close_out(survives)
        if not survives:
            world.outbound.session_lost()
        world.release(world.baskets.take(world.link, world.now))
        world.flush()
        if world.link is not None:
            world.lose_link(closed_by_peer=False)
        assert all(message.done for message in self.messages)
        self.messages.clear()

    def crash(self) -> None:
        if self.store is None:
            return
        now = self.world.now
        self.world = World(self.store, **self.settings)
        self.world.now = now
        self.messages.clear()

    def refuse(self) -> None:
        world = self.world
        if self.store is None:
            return
        turn = world.take()
        error = StoreError("disk full")
        world.resolve(world.outbound.withdraw(turn, error, world.link) + world.outbound.withdraw(world.baskets, error, world.link))
        world.release(turn)

    def calm_down(self) -> None:
        """With a kind server, everything comes to its end."""
        world = self.world
        if world.link is not None:
            world.lose_link(closed_by_peer=False)
        world.accept(True)
        for _ in range(10_000):
            world.turn()
            outbound = world.outbound
            if not outbound.messages:
                break
            for message in list(outbound.in_flight.values()):
                (world.puback if message.qos == 1 else world.pubrec)(message)
            for message in list(outbound.released.values()):
                world.pubcomp(message)
        world.turn()
        world.check()
        assert world.outbound.messages == world.outbound.bytes == world.outbound.stored_rows == 0
        assert world.connected.send_quota == world.connected.send_quota_max
        assert all(message.done for message in self.messages)


def test_rows_of_a_former_process_weigh_the_same_before_and_after_they_are_loaded() -> None:
    """A store counts topics without their lengths, and each row took two bytes more off the queue's bound than it had put there."""
    store = FakeStore()
    former = World(store)
    former.publish_all(b"one", b"two")
    former.turn()
    world = World(store)
    assert world.outbound.bytes == former.outbound.bytes
    world.connect()
    for message in list(world.outbound.in_flight.values()):
        world.puback(message)
    assert world.outbound.bytes == 0


@pytest.mark.parametrize("seed", range(8))
def test_journal_memory_and_quota_agree_whatever_happens(seed: int) -> None:
    play(seed, 150)


@pytest.mark.slow
def test_journal_memory_and_quota_agree_whatever_happens_for_long() -> None:
    for seed in range(8, 58):
        play(seed, 600)


def play(seed: int, steps: int) -> None:
    weather = Weather(seed)
    try:
        for _ in range(steps):
            weather.step()
        weather.calm_down()
    except Exception as error:
        raise AssertionError(f"seed {seed}, {steps} steps: {error}") from error
