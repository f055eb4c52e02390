"""The promises of a client with a database, seen from outside: what the disk refuses, in which order things leave, what a restart finds.

Everything here goes through the public client; the peer is scripted, the database is SQLite's.
"""

from __future__ import annotations

import logging
import select
import sqlite3
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from ohmqtt import (
    AliasPolicy,
    CancelledError,
    Client,
    ClientClosedError,
    ForeignSessionError,
    MessageDroppedError,
    MessageExpiredError,
    MQTTConnectProps,
    MQTTDisconnectProps,
    MQTTPublishProps,
    PublishError,
    PublishHandle,
    QueueFullError,
    QueuePolicy,
    SessionLostError,
    SessionLostPolicy,
    SessionSettings,
    StoreDamagedError,
    StoreError,
    StoreFormatError,
    StoreInUseError,
    StoreOwnerError,
)
from ohmqtt.packet import MQTTPubCompPacket
from ohmqtt.store import SQLiteStore, set_aside
from tests.broker_tools import FAST, PATIENCE_S, Inbox, Seen, child
from tests.durable_tools import CLIENT_ID, LONG, Call, WatchedStore, connect, contents, kinds, linked
from tests.peer import Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from tests.peer import Link

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="fork, RLIMIT_FSIZE, permissions")

Undelivered = Seen[Any]
SMALL = SessionSettings(reconnect_initial_s=0.02, reconnect_max_s=0.2, window_messages=4)


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as peer:
        yield peer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.db"


def publish_before_connect(path: Path, count: int, qos: int = 1, topic: str = "t", **options: Any) -> None:
    """Leave messages in a database that were never sent, as a former process does."""
    with Client(path, **options) as client:
        client.publish_many([(topic, b"%d" % number) for number in range(count)], qos)
        client.shutdown()


def leave_in_flight(path: Path, peer: Peer, qoses: Sequence[int]) -> list[int]:
    """Leave messages in a database that were sent and not acknowledged, as a killed process does; return their packet identifiers."""
    with linked(peer, db_path=path) as (client, link):
        for number, qos in enumerate(qoses):
            client.publish("t", b"%d" % number, qos)
        return [link.expect("PUBLISH", payload=b"%d" % number).packet_id for number in range(len(qoses))]


# -- a database that can't be opened ------------------------------------------------------------------------------------------------------


def make_text(path: Path) -> None:
    path.write_text("shopping list\n" * 1_000)


def make_other_program(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE message (id)")
    connection.close()


def make_newer(path: Path) -> None:
    publish_before_connect(path, 3)
    with path.open("r+b") as file:
        file.seek(60)
        file.write((200).to_bytes(4, "big"))


def make_damaged(path: Path) -> None:
    publish_before_connect(path, 300)
    with path.open("r+b") as file:
        file.truncate(4096 * 3)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (make_text, StoreFormatError),
        (make_other_program, StoreFormatError),
        (make_newer, StoreFormatError),
        (make_damaged, StoreDamagedError),
    ],
)
def test_a_file_that_is_not_ours_to_use_is_refused_and_stays_as_it_is(
    path: Path, make: Callable[[Path], None], error: type[StoreError]
) -> None:
    make(path)
    before = path.read_bytes()
    threads = threading.enumerate()
    with pytest.raises(error, match="was not changed") as raised:
        Client(path)
    assert str(path) in str(raised.value)
    assert path.read_bytes() == before
    assert not [thread for thread in threading.enumerate() if thread not in threads and thread.name.startswith("ohmqtt")]


def test_a_damaged_database_can_be_set_aside_and_the_client_starts_with_an_empty_one(path: Path, peer: Peer) -> None:
    make_damaged(path)
    with pytest.raises(StoreDamagedError, match="set_aside"):
        Client(path)
    aside = set_aside(path)
    assert aside.exists()
    with linked(peer, db_path=path) as (client, _):
        assert list(client.pending()) == []


def test_damage_in_a_message_that_was_in_flight_is_reported_when_the_client_is_made(path: Path, peer: Peer) -> None:
    leave_in_flight(path, peer, [1])
    data = path.read_bytes()
    assert data.count(b"the damaged one") == 0
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE message SET payload = x'00'")
    connection.close()
    for _ in range(2):  # the file is let go of each time
        with pytest.raises(StoreDamagedError, match="checksum"):
            Client(path)


@pytest.mark.slow
def test_damage_in_a_message_that_waits_holds_back_it_and_what_is_behind_it(
    path: Path, peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    publish_before_connect(path, 6)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE message SET payload = x'00' WHERE sequence = 4")
    connection.close()
    with caplog.at_level(logging.ERROR, "ohmqtt"), Client(path, settings=FAST) as client:
        link = connect(client, peer)
        for number in range(3):
            link.puback(link.expect("PUBLISH", payload=b"%d" % number).packet_id)
        link.expect_nothing()
        assert is_idle(1.2)
        with pytest.raises(StoreDamagedError, match="message 4 doesn't have its checksum"):
            list(client.pending())
        client.publish("t", b"new", 1)  # is accepted, and waits behind the others
        link.expect_nothing()
        client.shutdown()
    assert len([record for record in caplog.records if "message 4" in record.getMessage()]) == 1
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT sequence FROM message ORDER BY 1").fetchall() == [(4,), (5,), (6,), (7,)]
    connection.close()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file"):
        Client(tmp_path / "nowhere" / "queue.db")


HOLDER = """
import sys
from ohmqtt import Client
with Client(sys.argv[1]) as client:
    client.publish("t", b"theirs", 1)
    print("open", flush=True)
    sys.stdin.read()
    print(len(list(client.pending())), flush=True)
    client.shutdown()
"""


def test_a_database_in_use_is_refused_and_its_owner_is_not_disturbed(path: Path) -> None:
    with child(HOLDER, path) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "open\n"
        with pytest.raises(StoreInUseError, match="another process"):
            Client(path)
        process.stdin.close()
        assert process.stdout.readline() == "1\n"
    with Client(path) as client:
        with pytest.raises(StoreInUseError, match="another client in this one"):
            Client(path)
        assert [handle.payload for handle in client.pending()] == [b"theirs"]
        client.shutdown()


# -- whose it is --------------------------------------------------------------------------------------------------------------------------


def test_another_client_id_is_refused_at_the_call_and_everything_stays(path: Path, peer: Peer) -> None:
    with linked(peer, db_path=path) as (client, link):
        client.publish("t", b"mine", 1)
        link.expect("PUBLISH")
    before = contents(path)
    with Client(path, settings=FAST) as client:
        with pytest.raises(StoreOwnerError, match=r"the-owner.*another"):
            client.connect(peer.address, "another", connect_properties=LONG)
        peer.expect_no_connection()
        assert [handle.payload for handle in client.pending()] == [b"mine"]
        link = connect(client, peer, session_present=True)  # the right one may still come
        link.expect("PUBLISH", payload=b"mine", dup=True)
        client.shutdown()
    assert contents(path) == before


def test_an_empty_client_id_means_the_databases_owner(path: Path, peer: Peer) -> None:
    with linked(peer, db_path=path):
        pass
    with Client(path, settings=FAST) as client:
        client.connect(peer.address, connect_properties=LONG)
        link = peer.accept()
        link.expect("CONNECT", client_id=CLIENT_ID)
        link.connack(session_present=True)
        client.wait_for_connect(PATIENCE_S)
        assert client.client_id == CLIENT_ID
        client.shutdown()


@pytest.mark.spec("MQTT-3.1.3-7")
def test_an_assigned_client_id_is_recorded_before_anything_is_sent_under_it(path: Path, peer: Peer) -> None:
    store = WatchedStore(path)
    with Client(store=store, settings=FAST) as client:
        client.publish("t", b"x", 1)
        client.connect(peer.address, connect_properties=LONG)
        link = peer.accept()
        link.expect("CONNECT", client_id="")
        store.attempts.clear()
        with store.held():
            link.connack(AssignedClientIdentifier="given")
            store.wait_for("IDENTITY")
            link.expect_nothing()
        link.expect("PUBLISH")
        client.shutdown()
    assert contents(path)[0].client_id == "given"
    with Client(path, settings=FAST) as client:
        client.connect(peer.address, connect_properties=LONG)
        peer.accept().expect("CONNECT", client_id="given")
        client.shutdown()


@pytest.mark.spec("MQTT-3.2.2-4")
def test_a_session_that_the_database_does_not_know_is_foreign_and_a_known_one_is_resumed(path: Path, peer: Peer) -> None:
    with Client(path, settings=FAST) as client:
        client.connect(peer.address, CLIENT_ID, connect_properties=LONG)
        link = peer.accept()
        link.handshake(session_present=True)
        with pytest.raises(ForeignSessionError, match="adopt_session"):
            client.wait_for_connect(PATIENCE_S)
        client.shutdown()
    with Client(path, settings=FAST) as client:  # the refusal is recorded as well: it still isn't ours
        client.connect(peer.address, CLIENT_ID, connect_properties=LONG)
        peer.accept().handshake(session_present=True)
        with pytest.raises(ForeignSessionError):
            client.wait_for_connect(PATIENCE_S)
        client.shutdown()
    with linked(peer, db_path=path):
        pass
    with linked(peer, db_path=path, session_present=True):
        pass


def test_the_session_is_ours_on_disk_before_the_server_hears_of_it(path: Path, peer: Peer) -> None:
    store = WatchedStore(path)
    with Client(store=store, settings=FAST) as client:
        # connect() records the owner, and opening the connection records the session: both are held.
        with store.held():
            call = Call(client.connect, peer.address, CLIENT_ID)
            link = peer.accept() if not call.is_alive() else None
            if link is not None:
                link.expect_nothing()
        call.result()
        link = link or peer.accept()
        link.expect("CONNECT")
        assert "SESSION" in [kind for journal in store.committed for kind in kinds(journal)]
        client.shutdown()


# -- journal, then wire, then user --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [1, 2])
def test_publish_returns_and_publish_is_sent_only_when_the_message_is_on_disk(path: Path, peer: Peer, qos: int) -> None:
    store = WatchedStore(path)
    with linked(peer, store=store) as (client, link):
        store.attempts.clear()
        with store.held():
            call = Call(client.publish, "t", b"x", qos)
            store.wait_for("INSERT")
            link.expect_nothing()
            assert call.is_alive()
        link.expect("PUBLISH", payload=b"x", dup=False)
        call.result()


@pytest.mark.spec("MQTT-4.3.3-4")
def test_pubrel_is_sent_only_when_the_pubrec_is_on_disk(path: Path, peer: Peer) -> None:
    store = WatchedStore(path)
    with linked(peer, store=store) as (client, link):
        handle = client.publish("t", b"x", 2)
        packet_id = link.expect("PUBLISH").packet_id
        store.attempts.clear()
        with store.held():
            link.pubrec(packet_id)
            store.wait_for("RELEASE")
            link.expect_nothing()
        link.expect("PUBREL", packet_id=packet_id)
        link.pubcomp(packet_id)
        handle.wait_for_ack(PATIENCE_S)


@pytest.mark.spec("MQTT-4.3.3-8", "MQTT-4.3.3-12")
def test_pubrec_and_pubcomp_are_sent_only_when_the_identifier_is_on_disk_and_off_it(path: Path, peer: Peer) -> None:
    store = WatchedStore(path)
    inbox = Inbox()
    with linked(peer, store=store) as (client, link):
        client.subscribe("t", inbox)
        link.suback(link.expect("SUBSCRIBE").packet_id, 2)
        store.attempts.clear()
        with store.held():
            link.publish("t", b"x", 2, 77)
            store.wait_for("RECEIVE")
            link.expect_nothing()
        link.expect("PUBREC", packet_id=77)
        with store.held():
            link.pubrel(77)
            store.wait_for("FORGET")
            link.expect_nothing()
        link.expect("PUBCOMP", packet_id=77)
        assert inbox.payloads() == [b"x"]


def test_a_queued_message_is_sent_only_when_its_packet_identifier_is_on_disk(path: Path, peer: Peer) -> None:
    publish_before_connect(path, 1)
    store = WatchedStore(path)
    with Client(store=store, settings=FAST) as client:
        client.connect(peer.address, CLIENT_ID, connect_properties=LONG)
        link = peer.accept()
        link.expect("CONNECT")
        store.attempts.clear()
        with store.held():
            link.connack()
            store.wait_for("SEND")
            link.expect_nothing()
        packet_id = link.expect("PUBLISH", dup=False).packet_id
        client.shutdown()
    state, queued = contents(path)
    assert [message.packet_id for message in state.in_flight] == [packet_id]
    assert queued == []


def test_an_outcome_other_than_success_is_heard_only_when_it_is_on_disk(path: Path, peer: Peer) -> None:
    store = WatchedStore(path)
    with linked(peer, store=store) as (client, link):
        handle = client.publish("t", b"x", 1)
        packet_id = link.expect("PUBLISH").packet_id
        store.attempts.clear()
        with store.held():
            link.puback(packet_id, 0x87)
            store.wait_for("DELETE")
            assert not handle.is_done()
        with pytest.raises(PublishError):
            handle.wait_for_ack(PATIENCE_S)


# -- the disk refuses ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("qos", [1, 2])
def test_publish_raises_at_the_call_and_nothing_of_it_is_sent(path: Path, peer: Peer, qos: int) -> None:
    store = WatchedStore(path)
    with linked(peer, store=store, ReceiveMaximum=1) as (client, link):
        store.refuse = lambda journal: "INSERT" in kinds(journal)
        for _ in range(3):
            with pytest.raises(StoreError, match="says the test"):
                client.publish("t", b"refused", qos)
        link.expect_nothing()
        store.refuse = lambda journal: False
        # Identifier and quota are whole: with a Receive Maximum of 1 a lost one would stop everything.
        for payload in (b"1", b"2"):
            handle = client.publish("t", payload, 1)
            link.puback(link.expect("PUBLISH", payload=payload).packet_id)
            handle.wait_for_ack(PATIENCE_S)
        assert list(client.pending()) == []


def test_publish_many_is_refused_as_a_whole(path: Path, peer: Peer) -> None:
    store = WatchedStore(path)
    with linked(peer, store=store, ReceiveMaximum=5) as (client, link):
        store.refuse = lambda journal: "INSERT" in kinds(journal)
        with pytest.raises(StoreError):
            client.publish_many([("t", b"x")] * 20, 1)
        link.expect_nothing()
        store.refuse = lambda journal: False
        assert list(client.pending()) == []
        client.publish_many([("t", b"%d" % number) for number in range(5)], 1)
        for number in range(5):
            link.expect("PUBLISH", payload=b"%d" % number)


def test_publishes_that_are_refused_while_not_connected_leave_nothing_behind(path: Path) -> None:
    store = WatchedStore(path)
    with Client(store=store) as client:
        first = client.publish("t", b"1", 1)
        store.refuse = lambda journal: True
        for _ in range(3):
            with pytest.raises(StoreError):
                client.publish("t", b"refused", 1)
        store.refuse = lambda journal: False
        second = client.publish("t", b"2", 1)
        assert [handle.payload for handle in client.pending()] == [b"1", b"2"]
        client.shutdown()
        assert isinstance(first.exception(PATIENCE_S), ClientClosedError)
        assert isinstance(second.exception(PATIENCE_S), ClientClosedError)
    assert [message.payload for message in contents(path)[1]] == [b"1", b"2"]


@pytest.mark.slow
def test_what_came_from_the_peer_is_kept_and_tried_again_without_haste(path: Path, peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    store = WatchedStore(path)
    with caplog.at_level(logging.ERROR, "ohmqtt"), linked(peer, store=store) as (client, link):
        handle = client.publish("t", b"x", 2)
        packet_id = link.expect("PUBLISH").packet_id
        store.attempts.clear()
        store.refuse = lambda journal: True
        began, cpu = time.monotonic(), time.process_time()
        link.pubrec(packet_id)
        store.attempts.wait(1)
        with pytest.raises(StoreError):
            client.publish("t", b"refused", 1)  # asks the disk once more, and doesn't overtake
        store.attempts.wait(4)
        elapsed, cpu = time.monotonic() - began, time.process_time() - cpu
        assert elapsed > 1.5, "the disk is asked too often"
        assert cpu < 0.5 * elapsed, "a busy loop"
        link.expect_nothing()
        assert len([record for record in caplog.records if "the database refused" in record.getMessage()]) == 1
        store.refuse = lambda journal: False
        link.expect("PUBREL", packet_id=packet_id)
        link.pubcomp(packet_id)
        handle.wait_for_ack(PATIENCE_S)


@pytest.mark.slow
def test_a_publish_after_a_refusal_is_on_disk_when_it_returns(path: Path, peer: Peer) -> None:
    """While a turn of the peer's is refused and waits for another try, a publish must not be taken for a part of a committed turn."""
    store = WatchedStore(path)
    with linked(peer, store=store) as (client, link):
        client.publish("t", b"x", 2)
        packet_id = link.expect("PUBLISH").packet_id
        store.attempts.clear()
        store.refuse = lambda journal: True
        link.pubrec(packet_id)
        store.attempts.wait(1)
        for _ in range(3):
            with pytest.raises(StoreError):
                client.publish("t", b"refused", 1)
        store.refuse = lambda journal: False
        client.publish("t", b"accepted", 1)
        assert "INSERT" in kinds(store.committed[-1])
        link.expect("PUBREL", packet_id=packet_id)
        link.expect("PUBLISH", payload=b"accepted")


@pytest.mark.slow
def test_loading_that_fails_is_tried_again_without_haste(path: Path, peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    publish_before_connect(path, 3)
    store = WatchedStore(path)
    store.refuse_loads = True
    with caplog.at_level(logging.ERROR, "ohmqtt"), linked(peer, store=store) as (_client, link):
        began, cpu = time.monotonic(), time.process_time()
        link.expect_nothing(1.5)
        elapsed, cpu = time.monotonic() - began, time.process_time() - cpu
        assert cpu < 0.5 * elapsed, "a busy loop"
        assert store.loads < 10
        assert len(caplog.records) < 5
        store.refuse_loads = False
        for number in range(3):
            link.expect("PUBLISH", payload=b"%d" % number)


def automatic(link: Link, stop: threading.Event, received: list[bytes]) -> None:
    """Answer a client as a server does, and send it two messages."""
    link.publish("in", b"one", 1, 11)
    link.publish("in", b"two", 2, 12)
    while not stop.is_set():
        packet = link._next_or_eof(0.02)
        if packet is None:
            continue
        if packet.kind == "PUBLISH":
            received.append(packet.payload)
            (link.puback if packet.qos == 1 else link.pubrec)(packet.packet_id)
        elif packet.kind == "PUBREL":
            link.pubcomp(packet.packet_id)
        elif packet.kind == "PUBREC":
            link.pubrel(packet.packet_id)
        elif packet.kind == "SUBSCRIBE":
            link.suback(packet.packet_id, 2)


def run_with_refusal(path: Path, peer: Peer, nth: int) -> bool:
    """Do a bit of everything while the n-th commit is refused; return whether there were so many."""
    store = WatchedStore(path)
    counter = iter(range(1, 1_000))
    refused: list[list[str]] = []

    def refuse(journal: Sequence[tuple[Any, ...]]) -> bool:
        if next(counter) == nth:
            refused.append(kinds(journal))
            return True
        return False

    store.refuse = refuse
    inbox = Inbox()
    received: list[bytes] = []
    expected: list[bytes] = []
    stop = threading.Event()
    with Client(store=store, settings=FAST) as client:
        client.subscribe("in", inbox)
        client.connect(peer.address, CLIENT_ID, connect_properties=LONG)
        link = peer.accept()
        link.handshake()
        server = Call(automatic, link, stop, received)
        client.wait_for_connect(PATIENCE_S)
        handles = []
        for number in range(4):
            payload = b"%d" % number
            try:
                handles.append(client.publish("out", payload, 1 + number % 2))
            except StoreError:
                continue
            expected.append(payload)
        for handle in handles:
            handle.wait_for_ack(PATIENCE_S)
        assert inbox.wait_payloads(2) == [b"one", b"two"], f"refused: {refused}"
        client.disconnect()
        stop.set()
        server.result()
    assert received == expected, f"refused: {refused}"
    if not refused or len(store.attempts.now()) > nth:  # else it was the last one: what is done stays on disk, and is done again
        state, queued = contents(path)
        assert (state.in_flight, queued) == ([], []), f"refused: {refused}"
        assert state.received in ([], [12]), f"refused: {refused}"  # a goodbye doesn't wait for the server's PUBREL
    return bool(refused)


@pytest.mark.slow
def test_whichever_commit_the_disk_refuses_nothing_is_lost_or_doubled(tmp_path: Path, peer: Peer) -> None:
    nth = 1
    while run_with_refusal(tmp_path / f"{nth}.db", peer, nth):
        nth += 1
    assert nth > 8


FULL_DISK = """
import resource, sys
from ohmqtt import Client, MQTTConnectProps, SessionSettings, StoreError

address, path, mode = sys.argv[1:]
with Client(path, db_fast=mode == "fast", settings=SessionSettings(reconnect_initial_s=0.02)) as client:
    client.connect(address, "full-disk", connect_properties=MQTTConnectProps(SessionExpiryInterval=3600))
    client.wait_for_connect(60)
    accepted = 0
    room = 200_000
    for _ in range(3):
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        room += 200_000
        try:
            while True:
                client.publish("t", b"%6d" % accepted + bytes(3_000), 1)
                accepted += 1
        except StoreError as error:
            assert path in str(error), error
            print("full", flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    client.publish("t", b"%6d" % accepted + bytes(3_000), 1)
    print(accepted, flush=True)
    for handle in client.pending():
        handle.wait_for_ack(60)
    print("done", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["safe", "fast"])
def test_a_full_disk_refuses_new_messages_and_the_client_goes_on_when_there_is_room(path: Path, peer: Peer, mode: str) -> None:
    with child(FULL_DISK, peer.address, path, mode) as process:
        assert process.stdout is not None
        link = peer.accept()
        link.handshake(ReceiveMaximum=20)
        for _ in range(3):
            assert process.stdout.readline() == "full\n"
        last = int(process.stdout.readline())
        for number in range(last + 1):
            packet = link.expect("PUBLISH")
            assert packet.payload[:6] == b"%6d" % number
            link.puback(packet.packet_id)
        assert process.stdout.readline() == "done\n"
        link.expect("DISCONNECT", timeout=PATIENCE_S)
        link.close()
        assert process.wait(PATIENCE_S) == 0


# -- what a restart finds -----------------------------------------------------------------------------------------------------------------


@pytest.mark.spec(
    "MQTT-4.4.0-1", "MQTT-3.3.1-1", "MQTT-4.6.0-1", "MQTT-4.6.0-4", "MQTT-4.3.2-3", "MQTT-4.3.3-3", "MQTT-4.3.3-5", "MQTT-4.3.3-6"
)
def test_a_restart_resumes_what_was_open_in_its_order_and_then_sends_what_waited(path: Path, peer: Peer) -> None:
    with linked(peer, db_path=path, ReceiveMaximum=4) as (client, link):
        for number, qos in enumerate((2, 1, 2, 2, 1, 1)):
            client.publish("t", b"%d" % number, qos)
        ids = [link.expect("PUBLISH", payload=b"%d" % number).packet_id for number in range(4)]
        # The PUBRECs of 2 and 0 arrive, in this order; 1 and 3 are unanswered; 4 and 5 were never sent.
        for number in (2, 0):
            link.pubrec(ids[number])
            link.expect("PUBREL", packet_id=ids[number])
    with linked(peer, db_path=path, session_present=True, ReceiveMaximum=10) as (client, link):
        link.expect("PUBREL", packet_id=ids[2])
        link.expect("PUBREL", packet_id=ids[0])
        link.expect("PUBLISH", payload=b"1", packet_id=ids[1], dup=True)
        link.expect("PUBLISH", payload=b"3", packet_id=ids[3], dup=True)
        new = [link.expect("PUBLISH", payload=payload, dup=False).packet_id for payload in (b"4", b"5")]
        assert not set(new) & set(ids)
        client.publish("t", b"6", 1)
        link.expect("PUBLISH", payload=b"6", dup=False)


def test_handles_of_a_former_process_can_be_waited_for(path: Path, peer: Peer) -> None:
    ids = leave_in_flight(path, peer, [1, 2])
    publish_before_connect(path, 2)
    with Client(path, settings=FAST) as client:
        handles = list(client.pending())
        assert [handle.payload for handle in handles] == [b"0", b"1", b"0", b"1"]
        assert [handle.qos for handle in handles] == [1, 2, 1, 1]
        link = connect(client, peer, session_present=True)
        link.expect("PUBLISH", packet_id=ids[0])
        link.puback(ids[0], 0x10)
        ack = handles[0].wait_for_ack(PATIENCE_S)
        assert ack is not None
        assert ack.reason_code == 0x10
        link.expect("PUBLISH", packet_id=ids[1])
        link.pubrec(ids[1], 0x97)
        with pytest.raises(PublishError):
            handles[1].wait_for_ack(PATIENCE_S)
        for handle in handles[2:]:
            link.puback(link.expect("PUBLISH").packet_id)
            handle.wait_for_ack(PATIENCE_S)
        assert list(client.pending()) == []
        client.shutdown()


def test_what_becomes_of_messages_that_nobody_holds_is_told(path: Path, peer: Peer) -> None:
    ids = leave_in_flight(path, peer, [1, 1])
    undelivered: Undelivered = Seen()
    with Client(path, settings=FAST) as client:
        client.on_undelivered = lambda message, error: undelivered.add((message.topic, message.payload, type(error)))
        link = connect(client, peer, session_present=True)
        for packet_id in ids:
            link.expect("PUBLISH", packet_id=packet_id)
        link.puback(ids[0])
        link.puback(ids[1], 0x87)
        assert undelivered.wait(1) == [("t", b"1", PublishError)]
        client.shutdown()
    state, queued = contents(path)
    assert (state.in_flight, queued) == ([], [])


def test_a_session_that_the_server_lost_ends_what_was_sent_and_keeps_what_was_not(path: Path, peer: Peer) -> None:
    leave_in_flight(path, peer, [1, 2])
    publish_before_connect(path, 2)
    undelivered: Undelivered = Seen()
    store = WatchedStore(path)
    with Client(store=store, settings=FAST) as client:
        client.on_undelivered = lambda message, error: undelivered.add((message.payload, type(error)))
        client.connect(peer.address, CLIENT_ID, connect_properties=LONG)
        link = peer.accept()
        link.expect("CONNECT")
        store.attempts.clear()
        with store.held():
            link.connack(session_present=False)
            store.wait_for("DELETE")
            link.expect_nothing()
            assert undelivered.now() == []
        assert [link.expect("PUBLISH", dup=False).payload for _ in range(2)] == [b"0", b"1"]
        assert undelivered.wait(2) == [(b"0", SessionLostError), (b"1", SessionLostError)]
        client.shutdown()
    assert len(contents(path)[0].in_flight) == 2


def test_a_lost_session_may_be_republished(path: Path, peer: Peer) -> None:
    leave_in_flight(path, peer, [1, 2])
    publish_before_connect(path, 1, topic="later")
    settings = SessionSettings(session_lost_policy=SessionLostPolicy.REPUBLISH)
    for restart in range(2):
        with linked(peer, db_path=path, settings=settings, ReceiveMaximum=2) as (client, link):
            handles = list(client.pending())
            assert len(handles) == 3
            ids = [link.expect("PUBLISH", topic="t", payload=b"%d" % number, dup=False).packet_id for number in range(2)]
            if restart:
                link.puback(ids[0])
                link.expect("PUBLISH", topic="later")


def test_closing_says_whether_the_database_keeps_the_message(path: Path, peer: Peer) -> None:
    with linked(peer, db_path=path, ReceiveMaximum=1) as (client, link):
        handles = [client.publish("t", payload, 1) for payload in (b"in flight", b"queued")]
        link.expect("PUBLISH")
    for handle in handles:
        with pytest.raises(ClientClosedError) as raised:
            handle.wait_for_ack(PATIENCE_S)
        assert raised.value.stored
    with Client(path) as client:
        assert [handle.payload for handle in client.pending()] == [b"in flight", b"queued"]
        client.shutdown()


def test_what_a_goodbye_leaves_in_the_database_can_be_waited_for_by_the_same_client(path: Path, peer: Peer) -> None:
    undelivered: Undelivered = Seen()
    with linked(peer, db_path=path, ReceiveMaximum=2) as (client, link):
        client.on_undelivered = lambda message, error: undelivered.add((message.payload, type(error)))
        former = [client.publish("t", b"%d" % number, qos) for number, qos in enumerate((1, 2, 1, 1, 1))]
        for _ in range(2):
            link.expect("PUBLISH")
        client.disconnect(timeout=0)
        assert all(isinstance(handle.exception(), ClientClosedError) for handle in former)
        handles = list(client.pending())
        assert [handle.payload for handle in handles] == [b"0", b"1", b"2", b"3", b"4"]
        assert not any(handle.is_done() for handle in handles)
        assert [handle.payload for handle in client.pending()] == [handle.payload for handle in handles]
        assert handles[3].cancel()
        assert not handles[3].cancel()
        link = connect(client, peer, session_present=True, ReceiveMaximum=2)
        link.puback(link.expect("PUBLISH", payload=b"0").packet_id, 0x10)
        ack = handles[0].wait_for_ack(PATIENCE_S)
        assert ack is not None
        assert ack.reason_code == 0x10
        packet_id = link.expect("PUBLISH", payload=b"1").packet_id
        refused = link.expect("PUBLISH", payload=b"2").packet_id
        link.pubrec(packet_id)
        link.expect("PUBREL")
        link.pubcomp(packet_id)
        assert handles[1].wait_for_ack(PATIENCE_S) == MQTTPubCompPacket(packet_id)
        link.puback(refused, 0x87)
        with pytest.raises(PublishError):
            handles[2].wait_for_ack(PATIENCE_S)
        assert isinstance(handles[3].exception(), CancelledError)
        assert [handle.payload for handle in client.pending()] == [b"4"]
        client.disconnect(timeout=0)
        assert isinstance(handles[4].exception(), ClientClosedError)
        (again,) = client.pending()
        assert again is not handles[4]
        assert all(isinstance(handle.exception(), ClientClosedError) for handle in former)
        client.shutdown()
        assert isinstance(again.exception(PATIENCE_S), ClientClosedError)
    assert undelivered.now() == []


def test_a_goodbye_sends_everything_and_the_next_process_resumes_it(path: Path, peer: Peer) -> None:
    with Client(path, settings=FAST) as client:
        link = connect(client, peer)
        handle = client.publish("t", b"x", 1)
        call = Call(client.close)
        packet_id = link.expect("PUBLISH").packet_id
        link.expect("DISCONNECT")  # with a database sent is enough
        link.close()
        call.result()
        with pytest.raises(ClientClosedError) as raised:
            handle.wait_for_ack(PATIENCE_S)
        assert raised.value.stored
    with linked(peer, db_path=path, session_present=True) as (client, link):
        link.expect("PUBLISH", packet_id=packet_id, dup=True)


def test_a_goodbye_may_end_the_session_and_then_nothing_of_it_is_resumed(path: Path, peer: Peer) -> None:
    with Client(path, settings=FAST) as client:
        link = connect(client, peer)
        client.publish("t", b"x", 1)
        link.expect("PUBLISH")
        call = Call(lambda: client.disconnect(properties=MQTTDisconnectProps(SessionExpiryInterval=0)))
        link.expect("DISCONNECT", SessionExpiryInterval=0)
        link.close()
        call.result()
    # What was sent and never acknowledged is not session state of anybody any more: it is told, or sent as new, but never as a duplicate.
    with linked(peer, db_path=path) as (client, link):
        packets = link.history
        assert all(not packet.dup for packet in packets if packet.kind == "PUBLISH")


def test_a_session_expiry_interval_of_0_is_warned_of(path: Path, peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    told = threading.Event()
    with caplog.at_level(logging.WARNING, "ohmqtt"), Client(path, settings=FAST) as client:
        client.on_connect = lambda client, connack: told.set()
        client.connect(peer.address, CLIENT_ID, connect_properties=MQTTConnectProps(SessionExpiryInterval=0))
        peer.accept().handshake()
        assert told.wait(PATIENCE_S)
        client.shutdown()
    assert [record.getMessage() for record in caplog.records if "can't keep its promise" in record.getMessage()] != []


CALLBACK = """
import os, sys
from ohmqtt import Client, MQTTConnectProps, SessionSettings

address, path = sys.argv[1:]

def callback(client, message):
    os.write(1, b"%d %s\\n" % (message.qos, message.payload))
    if message.payload == b"die":
        os.kill(os.getpid(), 9)

with Client(path, settings=SessionSettings(reconnect_initial_s=0.02)) as client:
    client.subscribe("t", callback)
    client.connect(address, "dies", connect_properties=MQTTConnectProps(SessionExpiryInterval=3600))
    sys.stdin.read()
"""


@pytest.mark.slow
def test_only_a_crash_between_callback_and_commit_repeats_the_callback(path: Path, peer: Peer) -> None:
    with child(CALLBACK, peer.address, path) as process:
        assert process.stdout is not None
        link = peer.accept()
        link.handshake()
        link.suback(link.expect("SUBSCRIBE").packet_id, 2)
        link.publish("t", b"done", 2, 1)
        link.expect("PUBREC", packet_id=1)
        link.publish("t", b"die", 2, 2)
        assert process.wait(PATIENCE_S) == -9
        assert process.stdout.read() == "2 done\n2 die\n"
        link.close()
    with child(CALLBACK, peer.address, path) as process:
        assert process.stdout is not None
        link = peer.accept()
        link.handshake(session_present=True)
        link.suback(link.expect("SUBSCRIBE").packet_id, 2)
        link.publish("t", b"done", 2, 1, dup=True)  # the server did not get our PUBREC
        link.expect("PUBREC", packet_id=1)
        link.publish("t", b"other", 2, 2, dup=True)  # stands for the one that killed: its callback is run again
        link.expect("PUBREC", packet_id=2)
        link.pubrel(1)
        link.expect("PUBCOMP", packet_id=1)
        link.pubrel(2)
        link.expect("PUBCOMP", packet_id=2)
        link.publish("t", b"new", 2, 1)
        link.expect("PUBREC", packet_id=1)
        process.kill()
        assert process.stdout.read() == "2 other\n2 new\n"


AT_EXIT = """
import sys
from ohmqtt import Client, MQTTConnectProps

address, path = sys.argv[1:]
client = Client(path)
client.start_loop()
client.connect(address, "leaves", connect_properties=MQTTConnectProps(SessionExpiryInterval=3600))
client.wait_for_connect(60)
client.publish("t", b"last words", 1)
client.publish("t", b"and more", 0)
"""


@pytest.mark.slow
def test_a_program_that_ends_without_closing_still_flushes_and_says_goodbye(path: Path, peer: Peer) -> None:
    with child(AT_EXIT, peer.address, path) as process:
        link = peer.accept()
        link.handshake()
        link.expect("PUBLISH", payload=b"last words")
        link.expect("PUBLISH", payload=b"and more")
        link.expect("DISCONNECT", timeout=PATIENCE_S)
        link.close()
        assert process.wait(PATIENCE_S) == 0
    assert [message.payload for message in contents(path)[0].in_flight] == [b"last words"]


FORK = """
import os, sys
from ohmqtt import Client, ForkedError

path = sys.argv[1]
with Client(path) as client:
    client.publish_many([("t", b"%d" % n) for n in range(100)], 1)
    for way in range(2):
        pid = os.fork()
        if not pid:
            for call in (lambda: client.publish("t", b"child", 1), lambda: list(client.pending()), lambda: client.connect("127.0.0.1", "x")):
                try:
                    call()
                except ForkedError:
                    pass
                else:
                    os._exit(1)
            if way:
                os._exit(0)
            client.close()
            del client
            sys.exit(0)
        _, status = os.waitpid(pid, 0)
        assert status == 0, status
        client.publish_many([("t", b"%d" % n) for n in range(100 + 50 * way, 150 + 50 * way)], 1)
    os.kill(os.getpid(), 9)
"""


@pytest.mark.slow
def test_a_fork_leaves_the_parents_rows_alone(path: Path) -> None:
    with child(FORK, path) as process:
        assert process.wait(PATIENCE_S) == -9
    assert [message.payload for message in contents(path)[1]] == [b"%d" % number for number in range(200)]


# -- idle, slow and without threads -------------------------------------------------------------------------------------------------------


def is_idle(for_s: float = 0.5) -> bool:
    """Return whether this process hardly uses the processor for a while: whoever spins does so in each while that is looked at."""
    for _ in range(3):
        began, cpu = time.monotonic(), time.process_time()
        threading.Event().wait(for_s)
        if time.process_time() - cpu < 0.2 * (time.monotonic() - began):
            return True
    return False


@pytest.mark.slow
def test_a_client_that_can_do_nothing_does_nothing(path: Path, peer: Peer) -> None:
    publish_before_connect(path, 50)
    store = WatchedStore(path)
    with Client(store=store, settings=SMALL) as client:
        assert is_idle(), "with a backlog, and never connected"
        link = connect(client, peer, ReceiveMaximum=2)
        link.expect("PUBLISH")
        link.expect("PUBLISH")
        loads, attempts = store.loads, len(store.attempts.now())
        assert is_idle(), "with a backlog, and no quota"
        link.cut()
        peer.stop_listening()
        assert is_idle(), "with a backlog, and a server that is away"
        assert store.loads <= loads + 60
        assert len(store.attempts.now()) <= attempts + 3
        client.shutdown()


@pytest.mark.slow
def test_closing_ends_even_if_the_disk_refuses_everything(path: Path, peer: Peer) -> None:
    store = WatchedStore(path)
    with Client(store=store, settings=FAST) as client:
        link = connect(client, peer)
        handles = [client.publish("t", b"x", 2), client.publish("t", b"y", 1)]
        ids = [link.expect("PUBLISH").packet_id for _ in range(2)]
        store.refuse = lambda journal: True
        store.attempts.clear()
        link.pubrec(ids[0])
        store.attempts.wait(1)
        began = time.monotonic()
        client.close(timeout=0.5)
        assert time.monotonic() - began < 20.0
        for handle in handles:
            with pytest.raises(ClientClosedError) as raised:
                handle.wait_for_ack(PATIENCE_S)
            assert raised.value.stored
    state, _ = contents(path)
    assert [(message.packet_id, message.released) for message in state.in_flight] == [(packet_id, 0) for packet_id in ids]


def test_the_database_works_without_threads(path: Path, peer: Peer) -> None:
    client = Client(path, settings=FAST)
    try:
        early = client.publish("t", b"early", 1)
        client.connect(peer.address, CLIENT_ID, connect_properties=LONG)
        while not peer.links:
            client.loop_once(0.01)
            if peer_has_connection(peer):
                peer.accept()
        link = peer.links[0]
        link.connack()
        client.wait_for_connect(PATIENCE_S)
        while not early.is_done():
            client.loop_once(0.01)
            packet = link._next_or_eof(0.0)
            if packet is not None and packet.kind == "PUBLISH":
                link.puback(packet.packet_id)
        assert list(client.pending()) == []
    finally:
        client.close(timeout=0.1)
    assert contents(path)[1] == []


def peer_has_connection(peer: Peer) -> bool:
    return bool(select.select([peer._listener], [], [], 0)[0])


def test_a_callback_may_publish_and_wait(path: Path, peer: Peer) -> None:
    acks: Undelivered = Seen()
    with linked(peer, db_path=path) as (client, link):
        client.subscribe("in", lambda client, message: acks.add(client.publish("out", message.payload, 2).wait_for_ack(PATIENCE_S)))
        link.suback(link.expect("SUBSCRIBE").packet_id, 2)
        link.publish("in", b"x", 2, 1)
        packet_id = link.expect("PUBLISH", topic="out").packet_id
        link.pubrec(packet_id)
        link.expect("PUBREL")
        link.pubcomp(packet_id)
        acks.wait(1)
        link.expect("PUBREC", packet_id=1)


def test_the_alias_policy_survives_a_restart(path: Path, peer: Peer) -> None:
    with Client(path) as client:
        for number in range(3):
            client.publish("a/long/topic/name", b"%d" % number, 1, alias_policy=AliasPolicy.TRY)
        client.shutdown()
    with linked(peer, db_path=path, TopicAliasMaximum=5) as (_client, link):
        link.expect("PUBLISH", topic="a/long/topic/name", TopicAlias=1)
        link.expect("PUBLISH", topic="", TopicAlias=1)
        link.expect("PUBLISH", topic="", TopicAlias=1)


# -- transactions -------------------------------------------------------------------------------------------------------------------------


def test_publish_many_is_one_transaction(path: Path) -> None:
    store = WatchedStore(path)
    with Client(store=store) as client:
        client.publish_many([("t", b"x")] * 500, 1)
        assert [len(journal) for journal in store.committed] == [500]
        client.shutdown()


def test_what_publish_many_accepted_before_the_queue_was_full_is_on_disk(path: Path) -> None:
    with Client(path, settings=SessionSettings(queue_messages_max=5)) as client:
        with pytest.raises(QueueFullError):
            client.publish_many([("t", b"%d" % number) for number in range(10)], 1)
        assert [handle.payload for handle in client.pending()] == [b"0", b"1", b"2", b"3", b"4"]
        client.shutdown()
    assert len(contents(path)[1]) == 5


def test_threads_share_transactions(path: Path) -> None:
    store = WatchedStore(path)
    with Client(store=store) as client:
        with store.held():
            calls = [Call(client.publish, "t", b"%d" % number, 1) for number in range(16)]
            store.wait_for("INSERT")
            while len([call for call in calls if not call.is_alive()]) + accepted(client) < 16:
                assert any(call.is_alive() for call in calls)
        for call in calls:
            call.result()
        client.shutdown()
    assert sum(len(journal) for journal in store.committed) == 16
    assert len(store.committed) <= 3


def accepted(client: Client) -> int:
    """Return how many publications the client has accepted and not settled."""
    with client._lock:
        return client._session.outbound.messages


# -- rows that are on disk only -----------------------------------------------------------------------------------------------------------


def test_qos_0_between_rows_on_disk_keeps_its_place(path: Path, peer: Peer) -> None:
    with Client(path, settings=SMALL) as client:
        for number in range(40):
            client.publish("t", b"%d" % number, 0 if number % 3 == 2 else 1)
        link = connect(client, peer, ReceiveMaximum=3)
        for number in range(40):
            packet = link.expect("PUBLISH", payload=b"%d" % number)
            if packet.qos:
                link.puback(packet.packet_id)
        client.publish("t", b"40", 0)
        link.expect("PUBLISH", payload=b"40")
        client.shutdown()


def test_a_backlog_is_sent_in_order_and_new_messages_do_not_overtake_it(path: Path, peer: Peer) -> None:
    publish_before_connect(path, 50)
    with linked(peer, db_path=path, settings=SMALL, ReceiveMaximum=7) as (client, link):
        client.publish_many([("t", b"%d" % number) for number in range(50, 60)], 1)
        for number in range(60):
            packet = link.expect("PUBLISH", payload=b"%d" % number)
            link.puback(packet.packet_id)
            if number == 30:
                client.publish_many([("t", b"%d" % number) for number in range(60, 65)], 2)
        for number in range(60, 65):
            link.expect("PUBLISH", payload=b"%d" % number, qos=2)


def test_large_messages_in_a_backlog_are_loaded_few_at_a_time(path: Path, peer: Peer) -> None:
    with Client(path) as client:
        client.publish_many([("t", b"%3d" % number + bytes(100_000)) for number in range(30)], 1)
        client.shutdown()
    settings = SessionSettings(reconnect_initial_s=0.02, window_bytes=300_000)
    with Client(path, settings=settings) as client:
        link = connect(client, peer, ReceiveMaximum=1)
        for number in range(30):
            packet = link.expect("PUBLISH")
            assert packet.payload[:3] == b"%3d" % number
            with client._lock:
                assert sum(len(message.payload) for message in client._session.outbound.queue) <= 400_100
            link.puback(packet.packet_id)
        client.shutdown()


def test_rows_on_disk_can_be_cancelled(path: Path, peer: Peer) -> None:
    with Client(path, settings=SMALL) as client:
        handles = client.publish_many([("t", b"%d" % number) for number in range(20)], 1)
        client.publish("t", b"behind", 0)
        for number in (5, 10, 19):
            assert handles[number].cancel()
            with pytest.raises(CancelledError):
                handles[number].wait_for_ack(0)
        assert [int(handle.payload) for handle in client.pending()] == [n for n in range(20) if n not in (5, 10, 19)]
        link = connect(client, peer)
        for number in range(20):
            if number not in (5, 10, 19):
                link.puback(link.expect("PUBLISH", payload=b"%d" % number).packet_id)
        link.expect("PUBLISH", payload=b"behind")
        call = Call(client.disconnect)
        link.expect("DISCONNECT", timeout=8.0)  # nothing is taken for undone: that would be waited for, for 10 s
        link.close()
        call.result()
        client.shutdown()
    assert contents(path)[1] == []


def test_all_rows_on_disk_can_be_cancelled_through_pending(path: Path, peer: Peer) -> None:
    publish_before_connect(path, 20)
    with Client(path, settings=SMALL) as client:
        for handle in client.pending():
            assert isinstance(handle, PublishHandle)
            assert handle.cancel()
        assert list(client.pending()) == []
        link = connect(client, peer)
        client.publish("t", b"new", 1)
        link.expect("PUBLISH", payload=b"new")
        client.shutdown()


def test_the_oldest_rows_are_dropped_even_if_they_are_on_disk_only(path: Path) -> None:
    settings = SessionSettings(window_messages=4, queue_messages_max=20, queue_policy=QueuePolicy.DROP_OLDEST)
    undelivered: Undelivered = Seen()
    publish_before_connect(path, 20)
    with Client(path, settings=settings) as client:
        client.on_undelivered = lambda message, error: undelivered.add((message.payload, type(error)))
        handles = [client.publish("t", b"new %d" % number, 1) for number in range(15)]
        assert undelivered.wait(15) == [(b"%d" % number, MessageDroppedError) for number in range(15)]
        for number in range(10):
            client.publish("t", b"newer %d" % number, 1)
        assert undelivered.wait(20)[-1] == (b"19", MessageDroppedError)
        for handle in handles[:5]:
            with pytest.raises(MessageDroppedError):
                handle.wait_for_ack(0)
        left = [handle.payload for handle in client.pending()]
        assert left == [b"new %d" % number for number in range(5, 15)] + [b"newer %d" % number for number in range(10)]
        client.shutdown()
    assert [message.payload for message in contents(path)[1]] == left


def test_a_full_queue_of_a_former_process_refuses_more(path: Path) -> None:
    publish_before_connect(path, 20)
    with Client(path, settings=SessionSettings(window_messages=4, queue_messages_max=20)) as client:
        with pytest.raises(QueueFullError, match="20 of 20 messages"):
            client.publish("t", b"x", 1)
        next(client.pending()).cancel()
        client.publish("t", b"x", 1)
        client.shutdown()


@pytest.mark.slow
def test_rows_on_disk_expire(path: Path, peer: Peer) -> None:
    expiring = MQTTPublishProps(MessageExpiryInterval=1)
    undelivered: Undelivered = Seen()
    with Client(path, settings=SMALL) as client:
        client.on_undelivered = lambda message, error: undelivered.add((message.payload, type(error)))
        handles = [client.publish("t", b"%d" % number, 1, properties=expiring if number % 2 else None) for number in range(20)]
        for number in range(1, 20, 2):
            with pytest.raises(MessageExpiredError):
                handles[number].wait_for_ack(PATIENCE_S)
        link = connect(client, peer)
        for number in range(0, 20, 2):
            link.expect("PUBLISH", payload=b"%d" % number)
        client.shutdown()
    assert undelivered.now() == []


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.spec("MQTT-3.3.2-6")
def test_messages_age_while_no_process_runs(path: Path, peer: Peer) -> None:
    clock = Clock()
    undelivered: Undelivered = Seen()
    with Client(store=SQLiteStore(path, wall_clock=clock)) as client:
        for expiry_s in (50, 500, None):
            client.publish("t", str(expiry_s), 1, properties=MQTTPublishProps(MessageExpiryInterval=expiry_s))
        client.shutdown()
    clock.now += 100
    with Client(store=SQLiteStore(path, wall_clock=clock), settings=FAST) as client:
        client.on_undelivered = lambda message, error: undelivered.add((message.payload, type(error)))
        link = connect(client, peer)
        # Real time goes on, too: some seconds, if the machine is busy.
        assert 370 <= link.expect("PUBLISH", payload=b"500").properties["MessageExpiryInterval"] <= 400
        link.expect("PUBLISH", payload=b"None", MessageExpiryInterval=None)
        assert undelivered.wait(1) == [(b"50", MessageExpiredError)]
        client.shutdown()


def test_pending_is_complete_while_the_backlog_moves(path: Path, peer: Peer) -> None:
    publish_before_connect(path, 60)
    with linked(peer, db_path=path, settings=SMALL, ReceiveMaximum=3) as (client, link):
        seen = []
        for handle in client.pending():
            seen.append(int(handle.payload))
            if len(seen) % 2 == 0:
                link.puback(link.expect("PUBLISH").packet_id)
        # Each one that was unacknowledged when it was its turn, in order, and none twice.
        assert seen == sorted(set(seen))
        assert set(range(35, 60)) <= set(seen)
