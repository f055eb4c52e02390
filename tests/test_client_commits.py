"""Turns and the disk: what leaves when, who is told what when the disk refuses, and that nothing spins or hangs meanwhile."""

from __future__ import annotations

import threading
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest

from ohmqtt.client import Client
from ohmqtt.errors import ClientClosedError, MessageDroppedError, QueueFullError, StateError, StoreError, StoreInUseError
from ohmqtt.session import QueuePolicy, SessionSettings
from ohmqtt.store import SQLiteStore
from tests.client_tools import KEEP_ALIVE_S, PATIENCE_S, QUICK, Mailbox, attach, in_thread, linked, log_box, relink, subscribed
from tests.peer import Peer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Disk(SQLiteStore):
    """A database that fails as told: each entry of `commits` and `loads` is None, or what the next call raises."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.commits: deque[BaseException | None] = deque()
        self.loads: deque[Exception | None] = deque()
        self.closes: deque[Exception | None] = deque()
        self.broken: Exception | None = None
        self.committed: list[tuple[Any, ...]] = []
        self.calls = 0
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        self.closed = threading.Event()
        self.reading: Callable[..., None] = lambda *_: None

    def _act(self, told: deque[Any]) -> None:
        self.calls += 1
        error = told.popleft() if told else self.broken
        if error is not None:
            raise error

    def commit(self, journal: Any) -> None:
        """Commit, or fail."""
        self.entered.set()
        assert self.gate.wait(PATIENCE_S)
        self._act(self.commits)
        super().commit(journal)
        self.committed += journal

    def load_queued(self, after_sequence: int, messages_max: int, bytes_max: int) -> Any:
        """Load, or fail."""
        self.reading()
        self._act(self.loads)
        return super().load_queued(after_sequence, messages_max, bytes_max)

    def close(self) -> None:
        """Close, and say so if told."""
        super().close()
        self.closed.set()
        self.broken = None
        self._act(self.closes)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path / "queue.db")


FULL = StoreError("disk full")


def until(client: Client, condition: Callable[[], bool]) -> None:
    """Wait for something that the client's lock guards; looks again whenever anything has moved, and each hundredth of a second."""
    driver = client._driver
    assert driver is not None
    deadline = monotonic() + PATIENCE_S
    with driver.lock:
        while not condition():
            assert monotonic() < deadline
            driver.changed.wait(0.01)


@pytest.mark.parametrize("error", [FULL, RuntimeError("a bug in somebody's own store")])
def test_publish_raises_what_the_disk_said_and_accepts_nothing(disk: Disk, error: Exception) -> None:
    with Client(store=disk) as client:
        disk.commits.append(error)
        with pytest.raises(StoreError, match=r"disk full|somebody's own store"):
            client.publish("t", b"refused", 1)
        client.publish("t", b"kept", 2)
        assert [handle.payload for handle in client.pending()] == [b"kept"]


def test_what_is_accepted_after_a_refusal_is_on_disk_when_publish_returns(disk: Disk) -> None:
    """The turn that failed was numbered before this one: it must not pass for its commit."""
    with linked(store=disk, client_id="c") as (client, link, _):
        subscribed(client, link, "t", lambda *_: None)
        # What the peer sent is in the same turn, so the turn is kept for another try.
        disk.broken = FULL
        link.publish("t", b"", 2, 9)
        while client._driver.commits.failed_turn is None:  # type: ignore[union-attr]
            assert disk.entered.wait(PATIENCE_S)
        for _ in range(3):
            with pytest.raises(StoreError, match="disk full"):
                client.publish("t", b"refused", 1)
        disk.broken = None
        handle = client.publish("t", b"kept", 1)
        assert any(entry[0] == 0 and entry[1].payload == b"kept" for entry in disk.committed)
        assert not any(entry[0] == 0 and entry[1].payload == b"refused" for entry in disk.committed)
        kinds = {link.receive().kind for _ in range(2)}
        assert kinds == {"PUBREC", "PUBLISH"}
        link.puback(handle.packet_id)
        handle.wait_for_ack(PATIENCE_S)


@pytest.mark.slow
@pytest.mark.spec("MQTT-4.3.3-8")
def test_what_the_peer_sent_is_kept_and_tried_again_without_haste(disk: Disk) -> None:
    box = Mailbox()
    with log_box() as log, linked(store=disk, client_id="c") as (client, link, _):
        subscribed(client, link, "t", box)
        disk.commits.extend([FULL])
        calls = disk.calls
        link.publish("t", b"x", 2, 9)
        assert box.get().payload == b"x"
        link.expect("PUBREC", packet_id=9)
        # A refusal and one more try, however long the second between them is: nothing spins.
        assert disk.calls - calls <= 4
        assert "disk full" in log.get().getMessage()


def test_nothing_leaves_before_it_is_committed(disk: Disk) -> None:
    with linked(store=disk, client_id="c") as (client, link, _):
        disk.gate.clear()
        publishes = [in_thread(client.publish, "t", b"%d" % i, 1) for i in range(3)]
        link.expect_nothing()
        assert all(publish.is_running() for publish in publishes)
        disk.gate.set()
        handles = [publish.result() for publish in publishes]
        ids = [link.expect("PUBLISH").packet_id for _ in range(3)]
        for packet_id in ids:
            link.puback(packet_id)
        for handle in handles:
            handle.wait_for_ack(PATIENCE_S)


def test_qos_0_beside_a_database(disk: Disk) -> None:
    with linked(store=disk, client_id="c") as (client, link, _):
        assert client.publish("t", b"").wait_for_ack(PATIENCE_S) is None
        link.expect("PUBLISH", qos=0)
        handles = client.publish_many([("a", b""), ("b", b"")], 1)
        for _ in handles:
            link.puback(link.expect("PUBLISH").packet_id)
        for handle in handles:
            assert handle.wait_for_ack(PATIENCE_S) is not None


def test_publish_many_raises_what_the_disk_said(disk: Disk) -> None:
    with Client(store=disk) as client:
        disk.commits.append(FULL)
        with pytest.raises(StoreError, match="disk full"):
            client.publish_many([("a", b""), ("b", b"")], 1)
        assert list(client.pending()) == []


def fill(path: Path, count: int) -> None:
    """Leave publications in the database, as a former process would."""
    client = Client(path)
    client.publish_many([("t", b"%d" % i) for i in range(count)], 1)
    client.close()


@pytest.mark.slow
def test_rows_that_cannot_be_read_are_asked_for_again_without_haste(tmp_path: Path) -> None:
    fill(tmp_path / "q.db", 3)
    disk = Disk(tmp_path / "q.db")
    disk.loads.append(StoreError("unreadable"))
    with log_box() as log, Peer() as peer, Client(store=disk, settings=QUICK) as client:
        link = attach(client, peer)
        assert "unreadable" in log.get().getMessage()
        for i in range(3):
            packet = link.expect("PUBLISH", PATIENCE_S, payload=b"%d" % i)
            link.puback(packet.packet_id)
        assert disk.calls <= 20


def test_a_backlog_is_sent_window_by_window_in_order(tmp_path: Path) -> None:
    fill(tmp_path / "q.db", 50)
    settings = SessionSettings(window_messages=4, reconnect_initial_s=0.01)
    with Peer() as peer, Client(tmp_path / "q.db", settings=settings) as client:
        link = attach(client, peer)
        late = client.publish("t", b"50", 1)
        for i in range(51):
            link.puback(link.expect("PUBLISH", payload=b"%d" % i).packet_id)
        late.wait_for_ack(PATIENCE_S)
        assert list(client.pending()) == []


def test_pending_iterates_over_what_is_in_memory_and_what_is_on_disk(tmp_path: Path) -> None:
    fill(tmp_path / "q.db", 20)
    client = Client(tmp_path / "q.db", settings=SessionSettings(window_messages=4))
    handles = list(client.pending())
    assert [int(handle.payload) for handle in handles] == list(range(20))
    assert handles[10].cancel()
    assert [int(handle.payload) for handle in client.pending()] == [i for i in range(20) if i != 10]
    client.close()
    for handle in handles[:10]:
        error = handle.exception()
        assert isinstance(error, ClientClosedError)
        assert error.stored


def test_the_oldest_on_disk_make_room_if_the_policy_says_so(tmp_path: Path) -> None:
    settings = SessionSettings(queue_messages_max=10, window_messages=2, queue_policy=QueuePolicy.DROP_OLDEST)
    with Client(tmp_path / "q.db", settings=settings) as client:
        handles = [client.publish("t", b"%d" % i, 1) for i in range(15)]
        for handle in handles[:5]:
            assert isinstance(handle.exception(PATIENCE_S), MessageDroppedError)
        assert [int(handle.payload) for handle in client.pending()] == list(range(5, 15))


def test_the_oldest_make_room_although_they_are_on_disk_only(tmp_path: Path) -> None:
    settings = SessionSettings(queue_messages_max=10, queue_bytes_max=200, window_messages=2, queue_policy=QueuePolicy.DROP_OLDEST)
    client = Client(tmp_path / "q.db", settings=settings)
    for i in range(14):
        client.publish("t", b"%d" % i, 1)
    # This one takes the room of more than are in memory at a time.
    client.publish("t", bytes(170), 1)
    assert list(client.pending())[-1].payload == bytes(170)
    with pytest.raises(QueueFullError, match="takes 200 bytes"):
        client.publish("t", bytes(300), 1)
    client.close()


def test_what_was_sent_makes_no_room(disk: Disk) -> None:
    with linked(SessionSettings(queue_messages_max=1, queue_policy=QueuePolicy.DROP_OLDEST), store=disk, client_id="c") as (
        client,
        link,
        _,
    ):
        client.publish("t", b"sent", 1)
        link.expect("PUBLISH")
        with pytest.raises(QueueFullError, match="1 of 1"):
            client.publish("t", b"", 1)


def test_rows_that_cannot_be_read_make_no_room(tmp_path: Path) -> None:
    fill(tmp_path / "q.db", 10)
    disk = Disk(tmp_path / "q.db")
    client = Client(store=disk, settings=SessionSettings(queue_messages_max=10, queue_policy=QueuePolicy.DROP_OLDEST))
    disk.loads.append(StoreError("unreadable"))
    with pytest.raises(QueueFullError, match="10 of 10"):
        client.publish("t", b"", 1)
    client.close()


def test_whoever_looks_at_the_queue_waits_for_who_commits(disk: Disk) -> None:
    with Client(store=disk) as client:
        disk.gate.clear()
        publishes = in_thread(client.publish, "t", b"x", 1)
        assert disk.entered.wait(PATIENCE_S)
        looks = in_thread(lambda: [handle.payload for handle in client.pending()])
        asks = in_thread(lambda: [handle.payload for handle in client.pending()])
        disk.gate.set()
        publishes.result()
        assert looks.result() == asks.result() == [b"x"]


def test_only_one_at_a_time_has_the_store(disk: Disk) -> None:
    def use() -> None:
        with commits.alone():
            assert commits.busy

    with Client(store=disk) as client:
        driver: Any = client._driver
        commits = driver.commits
        with commits.alone():
            uses = in_thread(use)
            while not commits.ended._waiters:
                assert uses.is_running()
        uses.result()


def test_what_waits_in_memory_is_pending() -> None:
    with Client() as client:
        client.publish("t", b"0")
        client.publish_many([("t", b"1"), ("t", b"2")], 2)
        assert [handle.payload for handle in client.pending()] == [b"1", b"2"]


def test_a_full_queue_beside_a_database_waits_for_room(disk: Disk) -> None:
    with linked(SessionSettings(queue_messages_max=1), store=disk, client_id="c") as (client, link, _):
        client.publish("t", b"", 1)
        blocked = in_thread(client.publish, "late", b"", 1)
        packet_id = link.expect("PUBLISH").packet_id
        link.expect_nothing()
        assert blocked.is_running()
        link.puback(packet_id)
        link.puback(link.expect("PUBLISH", topic="late").packet_id)
        blocked.result().wait_for_ack(PATIENCE_S)


def test_a_full_queue_beside_a_database_says_so_without_a_connection(disk: Disk) -> None:
    with Client(store=disk, settings=SessionSettings(queue_messages_max=1)) as client:
        client.publish("t", b"", 1)
        with pytest.raises(QueueFullError):
            client.publish("t", b"", 1)


def test_a_goodbye_waits_until_what_it_depends_on_is_on_disk(disk: Disk) -> None:
    with linked(store=disk, client_id="c") as (client, link, _):
        disk.entered.clear()
        disk.gate.clear()
        publishes = in_thread(client.publish, "t", b"", 1)
        assert disk.entered.wait(PATIENCE_S)
        ends = in_thread(client.disconnect)
        link.expect_nothing()
        disk.gate.set()
        publishes.result()
        link.expect("PUBLISH")
        link.expect("DISCONNECT")
        link.expect_eof()
        ends.result()


@pytest.mark.slow
@pytest.mark.spec("MQTT-3.1.2-20")
def test_a_disk_that_hangs_while_the_io_thread_has_something_for_it_delays_neither_pings_nor_reading(disk: Disk) -> None:
    """PUBREC must be on disk before PUBREL leaves: nobody but the I/O thread brings it there."""
    box = Mailbox()
    with linked(store=disk, client_id="c", keep_alive=KEEP_ALIVE_S) as (client, link, _):
        subscribed(client, link, "t", box, 0)
        handle = client.publish("t", b"", 2)
        packet_id = link.expect("PUBLISH").packet_id
        disk.entered.clear()
        disk.gate.clear()
        link.pubrec(packet_id)
        assert disk.entered.wait(PATIENCE_S)
        link.expect("PINGREQ")
        link.pingresp()
        link.publish("t", b"read", 0)
        link.expect("PINGREQ")
        link.pingresp()
        # Read, but not told: its turn comes after the one that the disk has.
        assert box.is_empty()
        disk.gate.set()
        link.expect("PUBREL", packet_id=packet_id)
        assert box.get().payload == b"read"
        link.pubcomp(packet_id)
        handle.wait_for_ack(PATIENCE_S)


@pytest.mark.parametrize("leader", ["committer", "publisher"])
def test_a_client_whose_disk_hangs_still_ends(disk: Disk, leader: str) -> None:
    with linked(SessionSettings(store_timeout_s=0.1, close_timeout_s=0.01), store=disk, client_id="c") as (client, link, _):
        sent = client.publish("t", b"sent", 2)
        packet_id = link.expect("PUBLISH").packet_id
        disk.entered.clear()
        disk.gate.clear()
        if leader == "committer":
            link.pubrec(packet_id)
            assert disk.entered.wait(PATIENCE_S)
            calls = [in_thread(client.publish, "t", b"behind", 1)]
        else:
            calls = [in_thread(client.publish, "t", b"first", 1)]
            assert disk.entered.wait(PATIENCE_S)
            calls.append(in_thread(client.publish, "t", b"behind", 1))
        session = client._session
        until(client, lambda: bool(session.baskets.accepted))
        client.close(0.0)
        assert client._driver is not None
        assert client._driver.closed
        with pytest.raises(ClientClosedError):
            sent.wait_for_ack(0.0)
        # Whether it is stored isn't known, so the call must not return as if it were.
        with pytest.raises(StoreError, match="has not answered"):
            calls[-1].result()
        # The one in the disk's hands hears it when the disk lets go of it, and the store is closed then.
        disk.gate.set()
        for call in calls[:-1]:
            with pytest.raises(StoreError, match="has not answered"):
                call.result()
        assert disk.closed.wait(PATIENCE_S)
    with Client(store=SQLiteStore(disk.path)) as heir:
        # The first one reached the disk after all; nothing that was promised is missing.
        payloads = [handle.payload for handle in heir.pending()]
        assert payloads == ([b"sent"] if leader == "committer" else [b"sent", b"first"])


def test_a_client_whose_disk_hangs_while_rows_are_read_still_ends(disk: Disk) -> None:
    reading = threading.Event()
    gate = threading.Event()

    def read(*_: Any) -> None:
        reading.set()
        assert gate.wait(PATIENCE_S)

    settings = SessionSettings(store_timeout_s=0.1, close_timeout_s=0.01)
    with Client(store=disk, settings=settings) as client:
        handle = client.publish("t", b"kept", 1)
        disk.reading = read
        reads = in_thread(list, client.pending())
        assert reading.wait(PATIENCE_S)
        client.close(0.0)
        with pytest.raises(ClientClosedError):
            handle.wait_for_ack(0.0)
        gate.set()
        assert reads.result() == [handle]
        assert disk.closed.wait(PATIENCE_S)


@pytest.mark.slow
def test_a_commit_that_failed_is_tried_again_although_nothing_else_happens(disk: Disk) -> None:
    """The committer fails while the I/O thread sleeps: it must hear of the new try, which no packet and no keep alive brings about."""
    with linked(store=disk, client_id="c", keep_alive=0) as (client, link, _):
        handle = client.publish("t", b"", 2)
        packet_id = link.expect("PUBLISH").packet_id
        driver = client._driver
        assert driver is not None
        disk.entered.clear()
        disk.gate.clear()
        # The first refusal is told to the user, which happens to wake the I/O thread; the second one is not.
        disk.commits.extend([FULL, FULL])
        link.pubrec(packet_id)
        assert disk.entered.wait(PATIENCE_S)
        until(client, lambda: driver.sleeping)
        disk.gate.set()
        link.expect("PUBREL", packet_id=packet_id)
        link.pubcomp(packet_id)
        handle.wait_for_ack(PATIENCE_S)


def test_nobody_waits_for_what_the_disk_is_to_do_while_it_is_busy(disk: Disk) -> None:
    """Its time has come, and comes again each time that somebody looks: the I/O thread would spin."""
    client = Client(store=disk)
    driver = client._driver
    assert driver is not None
    assert driver.commits is not None
    driver._before(0.0)
    with driver.commits.alone():
        driver.session.retry_at = driver.monotonic()
        assert driver._before(0.5) == 0.5
    driver.again = False
    assert driver._before(0.5) == 0.0
    client.shutdown()


def test_an_internal_error_of_the_committer_is_reported_and_loses_nothing(disk: Disk) -> None:
    class BugError(BaseException):
        """Nothing that a store may raise."""

    with log_box() as log, linked(store=disk, client_id="c") as (client, link, peer):
        handle = client.publish("t", b"", 2)
        packet_id = link.expect("PUBLISH").packet_id
        disk.commits.append(BugError("in the middle"))
        link.pubrec(packet_id)
        assert "in the middle" in log.get().getMessage()
        link.expect("DISCONNECT")
        link.close()
        link = relink(peer)
        link.expect("PUBREL", packet_id=packet_id)
        link.pubcomp(packet_id)
        handle.wait_for_ack(PATIENCE_S)


@pytest.mark.parametrize("closing", [None, StoreError("not even that")])
def test_a_client_whose_disk_is_gone_still_ends(disk: Disk, closing: Exception | None) -> None:
    with log_box() as log, linked(store=disk, client_id="c") as (client, link, _):
        subscribed(client, link, "t", lambda *_: None)
        kept = client.publish("t", b"", 1)
        link.expect("PUBLISH")
        disk.broken = FULL
        disk.closes.append(closing)
        link.publish("t", b"", 2, 9)
        while client._driver.commits.failed_turn is None:  # type: ignore[union-attr]
            assert disk.entered.wait(PATIENCE_S)
        client.shutdown()
        link.read_all_until_eof()
        assert isinstance(kept.exception(PATIENCE_S), ClientClosedError)
        client.close()
        with pytest.raises(StateError, match="closed"):
            client.publish("t")
        assert "disk full" in log.get().getMessage()
        while "its database has not taken the last changes (1)" not in log.get().getMessage():
            pass


def test_a_database_in_use_is_refused_at_once(tmp_path: Path) -> None:
    with Client(tmp_path / "q.db"), pytest.raises(StoreInUseError):
        Client(tmp_path / "q.db")


def test_a_store_that_cannot_be_read_at_the_start_is_closed(tmp_path: Path) -> None:
    class Unreadable(Disk):
        def load(self) -> Any:
            raise StoreError("unreadable")

    store = Unreadable(tmp_path / "q.db")
    with pytest.raises(StoreError, match="unreadable"):
        Client(store=store)
    # It was closed: another one can have it.
    Client(tmp_path / "q.db").close()


def test_a_session_goes_on_after_a_restart(tmp_path: Path) -> None:
    with Peer() as peer:
        with Client(tmp_path / "q.db", settings=QUICK) as client:
            link = attach(client, peer)
            client.publish("t", b"sent", 1)
            link.expect("PUBLISH", payload=b"sent")
            client.shutdown()
        with Client(tmp_path / "q.db", settings=QUICK) as client:
            client.connect(peer.address)
            link = relink(peer)
            link.puback(link.expect("PUBLISH", payload=b"sent", dup=True).packet_id)
            client.wait_for_connect(PATIENCE_S)
            client.disconnect()
