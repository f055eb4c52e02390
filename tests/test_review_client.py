"""Corners of the threaded client that were found by asking where a promise could break. Each test is named after what must not go wrong."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest

from ohmqtt import AliasPolicy, Client
from ohmqtt.property import MQTTConnectProps
from tests.client_tools import KEEP_ALIVE_S, PATIENCE_S, QUICK, attach, linked, publish_bytes, subscribed
from tests.durable_tools import Call, WatchedStore
from tests.durable_tools import linked as durable_linked
from tests.peer import Peer

if TYPE_CHECKING:
    from pathlib import Path


def driver_of(client: Client) -> Any:
    return client._driver


def test_messages_whose_callbacks_have_returned_are_acknowledged_before_a_goodbye_from_the_next_callback() -> None:
    def callback(client: Client, message: Any) -> None:
        if message.payload == b"3":
            client.disconnect(timeout=0.0)

    with linked(connect_properties=MQTTConnectProps(SessionExpiryInterval=3_600)) as (client, link, _):
        subscribed(client, link, "t", callback)
        link.send_raw(b"".join(publish_bytes("t", b"%d" % number, 1, number) for number in (1, 2, 3)))
        sent = link.read_all_until_eof(PATIENCE_S)
    assert [(packet.kind, packet.fields.get("packet_id")) for packet in sent] == [("PUBACK", 1), ("PUBACK", 2), ("DISCONNECT", None)]


def test_a_qos_0_publication_behind_a_turn_that_the_disk_refuses_is_resolved_at_the_end(tmp_path: Path) -> None:
    store = WatchedStore(tmp_path / "db")
    with Peer() as peer, durable_linked(peer, store=store) as (client, link):
        handle = client.publish("t", b"2", 2)
        packet = link.expect("PUBLISH")
        store.refuse = lambda journal: True
        store.attempts.clear()
        link.pubrec(packet.packet_id)
        store.wait_for("RELEASE")
        zeros = [client.publish("t", b"0") for _ in range(3)]
        client.shutdown()
        for thread in (driver_of(client).thread, driver_of(client).delivery.thread):
            thread.join(PATIENCE_S)
    assert handle.is_done()
    assert [zero.is_done() for zero in zeros] == [True] * 3


@pytest.mark.slow
def test_a_commit_that_hangs_in_a_publishers_thread_delays_neither_pings_nor_reading(tmp_path: Path) -> None:
    store = WatchedStore(tmp_path / "db")
    with Peer() as peer, Client(store=store, settings=QUICK) as client:
        link = attach(client, peer, keep_alive=KEEP_ALIVE_S)
        store.attempts.clear()
        while not driver_of(client).sleeping:  # else the I/O thread may be the one that commits
            time.sleep(0.001)
        with store.held():
            call = Call(client.publish, "t", b"", 1)
            store.wait_for("INSERT")
            for _ in range(2):
                link.expect("PINGREQ")
                link.pingresp()
        call.result()
        link.expect("PUBLISH")
        client.shutdown()


def test_publishers_who_wait_share_a_transaction(tmp_path: Path) -> None:
    store = WatchedStore(tmp_path / "db")
    with Client(store=store) as client:
        store.attempts.clear()
        with store.held():
            calls = [Call(client.publish, "t", b"0", 1)]
            store.wait_for("INSERT")
            calls += [Call(client.publish, "t", b"%d" % number, 1) for number in range(1, 9)]
            while len(client._session.baskets.accepted) < 8:
                time.sleep(0.001)
        for call in calls:
            call.result()
        assert [len(journal) for journal in store.committed] == [1, 8]
        client.shutdown()


def test_nobody_commits_for_others_for_ever(tmp_path: Path) -> None:
    """While others publish as fast as the disk commits, the I/O thread goes back to its socket after one turn."""
    store = WatchedStore(tmp_path / "db")
    client = Client(store=store)
    other = Client()

    def meanwhile(journal: Any) -> bool:
        with driver_of(client).lock:
            client._session.publish(other._publisher.outgoing("t", b"", 1, False, None, AliasPolicy.NEVER))
        return False

    with driver_of(client).lock:
        client._session.publish(other._publisher.outgoing("t", b"", 1, False, None, AliasPolicy.NEVER))
    store.refuse = meanwhile
    driver_of(client).commits.settle(wait=False)
    assert len(store.committed) == 1
    assert driver_of(client).again
    store.refuse = lambda journal: False
    client.shutdown()
    other.shutdown()


def test_an_interrupt_during_a_commit_loses_no_turn(tmp_path: Path) -> None:
    """The publication may be stored or not, as its call has not returned; but what comes later must not fail because of it."""
    store = WatchedStore(tmp_path / "db")
    interrupts = [KeyboardInterrupt()]

    def interrupted(journal: Any) -> bool:
        if interrupts:
            raise interrupts.pop()
        return False

    with Peer() as peer, Client(store=store, settings=QUICK) as client:
        link = attach(client, peer, connack={"ReceiveMaximum": 1})
        driver = driver_of(client)
        while driver.commits.busy or not driver.sleeping:  # else the committer may be the one that is interrupted
            time.sleep(0.001)
        store.attempts.clear()
        store.refuse = interrupted
        with pytest.raises(KeyboardInterrupt):
            client.publish("t", b"1", 1)
        handle = client.publish("t", b"2", 1)
        for payload in (b"1", b"2"):
            packet = link.expect("PUBLISH", payload=payload)
            link.puback(packet.packet_id)
        handle.wait_for_ack(PATIENCE_S)
        client.shutdown()
