"""Corners of the threaded client that were found by asking where a promise could break. Each test is named after what must not go wrong."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from ohmqtt import Client
from ohmqtt.property import MQTTConnectProps
from tests.broker_tools import FAST
from tests.client_tools import PATIENCE_S, QUICK, attach, in_thread, linked, publish_bytes, subscribed
from tests.durable_tools import WatchedStore
from tests.durable_tools import linked as durable_linked
from tests.peer import Peer

if TYPE_CHECKING:
    from pathlib import Path


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
        for thread in (client._driver.thread, client._driver.delivery.thread):
            thread.join(PATIENCE_S)
    assert handle.is_done()
    assert [zero.is_done() for zero in zeros] == [True] * 3
