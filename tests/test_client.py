"""The threaded client against a scripted peer: connecting, publishing, subscribing, and every bad argument of every call."""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, Any, cast

import pytest

from ohmqtt.address import parse_address
from ohmqtt.client import Client
from ohmqtt.errors import (
    ArgumentError,
    ClientClosedError,
    MessageDroppedError,
    NotSupportedError,
    PacketTooLargeError,
    PublishError,
    QueueFullError,
    ServerLimitError,
    StateError,
    SubscribeError,
    TopicAliasError,
    UnsubscribeError,
    WaitTimeoutError,
)
from ohmqtt.packet import MQTTSubscription, MQTTWill
from ohmqtt.property import (
    MQTTConnectProps,
    MQTTDisconnectProps,
    MQTTPubAckProps,
    MQTTPublishProps,
    MQTTSubscribeProps,
    MQTTUnsubscribeProps,
)
from ohmqtt.session import QueuePolicy, SessionSettings
from ohmqtt.topic_alias import AliasPolicy
from tests.client_tools import PATIENCE_S, QUICK, Mailbox, attach, in_thread, linked, relink, subscribed
from tests.peer import Peer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ohmqtt.records import Message

# -- connecting -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.1.0-1")
def test_connect_says_what_it_was_told() -> None:
    with Peer() as peer, Client() as client:
        client.connect(
            f"mqtt://user:secret@{peer.address}",
            "me",
            clean_start=True,
            keep_alive=77,
            will=MQTTWill("gone", b"bye", 1),
            connect_properties=MQTTConnectProps(UserProperty=(("a", "b"),), TopicAliasMaximum=5),
        )
        packet = peer.accept().expect(
            "CONNECT", client_id="me", clean_start=True, keep_alive=77, user_name="user", password=b"secret", TopicAliasMaximum=5
        )
        assert packet.will is not None
        peer.links[0].connack(0, AssignedClientIdentifier="never", ServerKeepAlive=10)
        connack = client.wait_for_connect(PATIENCE_S)
        assert connack.properties.ServerKeepAlive == 10
        assert client.connack == connack
        assert client.client_id == "me"
        assert client.is_connected()
        assert client.failure is None
        assert client.disconnect_packet is None
    assert not client.is_connected()
    assert client.connack is None


def test_user_name_and_password_given_apart_take_precedence_over_the_address() -> None:
    with Peer() as peer, Client() as client:
        client.connect(parse_address(f"mqtt://user:secret@{peer.address}"), user_name="other", password="pässword")
        peer.accept().expect("CONNECT", user_name="other", password="pässword".encode())


@pytest.mark.spec("MQTT-3.1.3-7", "MQTT-3.2.2.3.7")
def test_an_assigned_client_identifier_is_shown_and_used_again() -> None:
    with Peer() as peer, Client(settings=QUICK) as client:
        client.connect(peer.address)
        link = peer.accept()
        link.expect("CONNECT", client_id="")
        link.connack(0, AssignedClientIdentifier="you-are-me")
        client.wait_for_connect(PATIENCE_S)
        assert client.client_id == "you-are-me"
        link.cut()
        peer.accept().expect("CONNECT", client_id="you-are-me", clean_start=False)


def test_wait_for_connect_before_connect_is_refused() -> None:
    with Client() as client, pytest.raises(StateError, match="before connect"):
        client.wait_for_connect(0)


def test_connect_twice_is_refused_and_disturbs_nothing() -> None:
    with linked() as (client, link, peer):
        with pytest.raises(StateError, match="disconnect"):
            client.connect(peer.address)
        client.publish("t", b"x")
        link.expect("PUBLISH", topic="t")
        peer.expect_no_connection()


@pytest.mark.spec("MQTT-3.1.0-1", "MQTT-4.3.3-4")
def test_what_is_published_before_connect_follows_the_connack() -> None:
    with Peer() as peer, Client() as client:
        handles = [client.publish("t", str(qos), qos) for qos in (0, 1, 2)]
        client.connect(peer.address, "c")
        link = peer.accept()
        link.expect("CONNECT")
        link.expect_nothing()
        link.connack()
        _, first, second = (link.expect("PUBLISH", qos=qos).packet_id for qos in (0, 1, 2))
        link.puback(first)
        link.pubrec(second)
        link.expect("PUBREL", packet_id=second)
        link.pubcomp(second)
        assert [None if handle.wait_for_ack(PATIENCE_S) is None else 1 for handle in handles] == [None, 1, 1]


def test_options_of_the_socket_are_taken_over() -> None:
    with Peer() as peer, Client() as client:
        attach(
            client,
            peer,
            socket_options=[(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.SOL_SOCKET, socket.SO_LINGER, bytes(8))],
            source_address=("127.0.0.1", 0),
            connect_timeout=5,
            tcp_nodelay=False,
        )


def test_two_clients_in_one_process_keep_apart() -> None:
    with linked() as (first, first_link, _), linked() as (second, second_link, _):
        one, other = Mailbox(), Mailbox()
        subscribed(first, first_link, "t", one)
        subscribed(second, second_link, "t", other)
        first_link.publish("t", b"first")
        second_link.publish("t", b"second")
        assert one.get().payload == b"first"
        assert other.get().payload == b"second"
        assert one.is_empty()
        assert other.is_empty()


def test_handlers_hear_of_connections_and_of_their_end() -> None:
    with Peer() as peer, Client(settings=QUICK) as client:
        connected, disconnected = Mailbox(), Mailbox()
        client.on_connect = connected
        client.on_disconnect = disconnected
        link = attach(client, peer, connack={"ReceiveMaximum": 7})
        assert connected.get().properties.ReceiveMaximum == 7
        link.disconnect(0x8B, ReasonString="down for a moment")
        event = disconnected.get()
        assert event.was_connected
        assert event.packet.reason_code == 0x8B
        assert event.retry_in_s is not None
        assert "down for a moment" in str(event.error)
        assert client.disconnect_packet is not None
        assert client.disconnect_packet.properties.ReasonString == "down for a moment"
        relink(peer)
        assert connected.get().session_present
    event = disconnected.get()
    assert event.error is None
    assert event.retry_in_s is None


# -- publishing -----------------------------------------------------------------------------------------------------------------------------


def test_qos_0_is_done_when_it_was_handed_to_the_socket() -> None:
    with linked() as (client, link, _):
        handle = client.publish("t", "päyload", retain=True, properties=MQTTPublishProps(ContentType="x"))
        assert handle.wait_for_ack(PATIENCE_S) is None
        assert handle.ack is None
        link.expect("PUBLISH", topic="t", payload="päyload".encode(), qos=0, retain=True, dup=False, ContentType="x")


@pytest.mark.spec("MQTT-4.3.2-3")
def test_qos_1_returns_the_puback_with_its_properties() -> None:
    with linked() as (client, link, _):
        handle = client.publish("t", bytearray(b"x"), 1)
        packet = link.expect("PUBLISH", qos=1)
        assert not handle.is_done()
        link.puback(packet.packet_id, 0x10, ReasonString="nobody")
        ack = handle.wait_for_ack(PATIENCE_S)
        assert ack is not None
        assert ack.reason_code == 0x10
        assert ack.properties.ReasonString == "nobody"
        assert handle.ack is ack


@pytest.mark.spec("MQTT-4.3.3-5")
def test_qos_2_returns_the_pubcomp() -> None:
    with linked() as (client, link, _):
        handle = client.publish("t", memoryview(b"x"), 2)
        packet_id = link.expect("PUBLISH", qos=2).packet_id
        link.pubrec(packet_id)
        link.expect("PUBREL", packet_id=packet_id)
        assert not handle.is_done()
        link.pubcomp(packet_id)
        ack = handle.wait_for_ack(PATIENCE_S)
        assert type(ack).__name__ == "MQTTPubCompPacket"


@pytest.mark.parametrize("kind", ["puback", "pubrec", "pubcomp"])
def test_a_rejected_publication_raises_with_its_acknowledgement(kind: str) -> None:
    with linked() as (client, link, _):
        handle = client.publish("t", None, 1 if kind == "puback" else 2)
        packet_id = link.expect("PUBLISH").packet_id
        if kind == "pubcomp":
            link.pubrec(packet_id)
            link.expect("PUBREL")
        code = 0x92 if kind == "pubcomp" else 0x97
        getattr(link, kind)(packet_id, code, ReasonString="no")
        with pytest.raises(PublishError, match="no") as caught:
            handle.wait_for_ack(PATIENCE_S)
        assert caught.value.ack.reason_code == code
        assert handle.ack is caught.value.ack
        assert isinstance(handle.exception(), PublishError)


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_eight_threads_publish_a_thousand_each(qos: int) -> None:
    with linked() as (client, link, _):

        def publish(number: int) -> None:
            last = None
            for i in range(1_000):
                last = client.publish(f"t/{number}", b"%d" % i, qos)
            assert last is not None
            last.wait_for_ack(PATIENCE_S)

        threads = [in_thread(publish, number) for number in range(8)]
        seen: dict[str, list[int]] = {f"t/{number}": [] for number in range(8)}
        done = 0
        while done < 8_000:
            packet = link.receive(PATIENCE_S)
            if packet.kind == "PUBLISH":
                seen[packet.topic].append(int(packet.payload))
                if qos == 1:
                    link.puback(packet.packet_id)
                elif qos == 2:
                    link.pubrec(packet.packet_id)
                done += qos < 2
            else:
                assert packet.kind == "PUBREL"
                link.pubcomp(packet.packet_id)
                done += 1
        for thread in threads:
            thread.result()
        assert all(numbers == list(range(1_000)) for numbers in seen.values())


@pytest.mark.slow
@pytest.mark.spec("MQTT-2.2.1-3")
def test_packet_identifiers_wrap_around_those_that_are_still_open() -> None:
    open_ones = {2, 40_000, 65_535}
    with linked(connack={"ReceiveMaximum": 10}) as (client, link, _):
        held = {}
        first = 0
        waiting: list[Any] = []
        for number in range(1, 65_600):
            handle = client.publish("t", b"", 1)
            waiting.append(handle)
            packet_id = link.expect("PUBLISH", PATIENCE_S).packet_id
            first = first or packet_id
            if number <= 65_535:
                assert packet_id == (first + number - 2) % 65_535 + 1
            else:
                assert packet_id not in open_ones
                assert packet_id != 0
            if packet_id in open_ones:
                held[packet_id] = handle
            else:
                link.puback(packet_id)
                handle.wait_for_ack(PATIENCE_S)
        assert set(held) == open_ones
        for packet_id, handle in held.items():
            assert not handle.is_done()
            link.puback(packet_id)
            handle.wait_for_ack(PATIENCE_S)


def test_topics_are_cached_within_bounds() -> None:
    with Client() as client:
        for i in range(5_000):
            client.publish(f"t/{i}")
        assert 0 < len(client._publisher._topics) <= 4_096
        client.publish("x" * 300)
        assert "x" * 300 not in client._publisher._topics


@pytest.mark.spec("MQTT-1.5.4-3", "MQTT-1.5.4")
@pytest.mark.parametrize("topic", ["\ufefftopic", "control\x01\x7f\x85", "\ufffe/\U0010ffff"])
def test_a_byte_order_mark_and_control_characters_are_characters_of_a_topic_both_ways(topic: str) -> None:
    box = Mailbox()
    with linked() as (client, link, _):
        subscribed(client, link, "#", box)
        client.publish(topic)
        assert topic.encode() in link.expect("PUBLISH", topic=topic).raw
        link.publish(topic)
        assert box.get().topic == topic


@pytest.mark.spec("MQTT-3.3.1-3")
@pytest.mark.parametrize("qos", [1, 2])
def test_what_came_with_dup_is_sent_on_without_it(qos: int) -> None:
    def echo(client: Client, message: Message) -> None:
        assert message.dup
        client.publish("echo", message.payload, message.qos, message.retain, message.properties)

    with linked() as (client, link, _):
        subscribed(client, link, "t", echo)
        link.publish("t", b"x", qos, 1, dup=True, ContentType="c")
        packets = {packet.kind: packet for packet in (link.receive(), link.receive())}
        assert not packets["PUBLISH"].dup
        assert packets["PUBLISH"].properties == {"ContentType": "c"}


def test_publish_many_is_accepted_together() -> None:
    with linked() as (client, link, _):
        handles = client.publish_many([("a", b"1"), ("b", None)], 1, True)
        for topic in ("a", "b"):
            link.puback(link.expect("PUBLISH", topic=topic, retain=True).packet_id)
        for handle in handles:
            handle.wait_for_ack(PATIENCE_S)
        with pytest.raises(ArgumentError, match="topic"):
            client.publish_many([("fine", b""), ("#", b"")])
        link.expect_nothing()


def test_publish_many_stops_at_what_the_server_cannot_take() -> None:
    with linked(connack={"MaximumPacketSize": 100}) as (client, link, _):
        with pytest.raises(PacketTooLargeError, match="100"):
            client.publish_many([("a", b"1"), ("b", b"x" * 200), ("c", b"3")])
        link.expect("PUBLISH", topic="a")
        link.expect_nothing()


@pytest.mark.spec("MQTT-3.2.2-11", "MQTT-3.2.2-14", "MQTT-3.2.2-15", "MQTT-3.2.2.3.11")
def test_the_servers_limits_are_raised_at_the_call() -> None:
    with linked(connack={"MaximumQoS": 1, "RetainAvailable": 0, "MaximumPacketSize": 50, "WildcardSubscriptionAvailable": 0}) as (
        client,
        link,
        _,
    ):
        with pytest.raises(ServerLimitError, match=r"qos is 2.*Maximum QoS is 1"):
            client.publish("t", b"", 2)
        with pytest.raises(ServerLimitError, match="retain is True"):
            client.publish("t", b"", 1, True)
        with pytest.raises(PacketTooLargeError, match="50 bytes"):
            client.publish("t", b"x" * 50)
        with pytest.raises(ServerLimitError, match="wildcard"):
            client.subscribe("#")
        link.expect_nothing()


@pytest.mark.spec("MQTT-3.2.2-17")
def test_topic_aliases_are_bound_and_used() -> None:
    with linked(connack={"TopicAliasMaximum": 1}) as (client, link, _):
        client.publish("some/topic", b"1", alias_policy=AliasPolicy.ALWAYS)
        link.expect("PUBLISH", topic="some/topic", TopicAlias=1)
        client.publish("some/topic", b"2", alias_policy=AliasPolicy.TRY, properties=MQTTPublishProps(MessageExpiryInterval=60))
        link.expect("PUBLISH", topic="", TopicAlias=1, MessageExpiryInterval=60)
        with pytest.raises(TopicAliasError):
            client.publish("another/topic", b"3", alias_policy=AliasPolicy.ALWAYS)
        client.publish("another/topic", b"4", alias_policy=AliasPolicy.TRY)
        link.expect("PUBLISH", topic="another/topic", TopicAlias=None)


# -- the queue's policies ---------------------------------------------------------------------------------------------------------------------


def test_wait_blocks_while_connected_and_wakes_when_there_is_room() -> None:
    with linked(SessionSettings(queue_messages_max=2)) as (client, link, _):
        for _ in range(2):
            client.publish("t", b"", 1)
        ids = [link.expect("PUBLISH").packet_id for _ in range(2)]
        blocked = in_thread(client.publish, "late", b"", 1)
        link.expect_nothing()
        assert blocked.is_running()
        link.puback(ids[0])
        link.expect("PUBLISH", topic="late")
        blocked.result()


def test_wait_raises_when_the_link_is_lost_and_when_there_is_none() -> None:
    with linked(SessionSettings(queue_messages_max=1, reconnect_initial_s=60)) as (client, link, _):
        client.publish("t", b"", 1)
        link.expect("PUBLISH")
        blocked = in_thread(client.publish, "late", b"", 1)
        link.expect_nothing()
        assert blocked.is_running()
        link.cut()
        with pytest.raises(QueueFullError, match="1 of 1 messages"):
            blocked.result()
        with pytest.raises(QueueFullError):
            client.publish("t", b"", 0)


def test_what_waits_for_room_is_told_that_the_client_is_closed() -> None:
    with linked(SessionSettings(queue_messages_max=1)) as (client, link, _):
        held = client.publish("t", b"", 1)
        link.expect("PUBLISH")
        blocked = in_thread(client.publish, "late", b"", 1)
        link.expect_nothing()
        client.shutdown()
        with pytest.raises(StateError):
            blocked.result()
        with pytest.raises(ClientClosedError):
            held.wait_for_ack(PATIENCE_S)


def test_what_can_never_have_room_is_refused_at_once() -> None:
    with linked(SessionSettings(queue_bytes_max=100)) as (client, link, _):
        with pytest.raises(QueueFullError, match="100 bytes"):
            client.publish("t" * 90, b"x" * 20)
        link.expect_nothing()


def test_publish_many_waits_for_room_in_the_middle() -> None:
    with linked(SessionSettings(queue_messages_max=1)) as (client, link, _):
        call = in_thread(client.publish_many, [("a", b""), ("b", b"")], 1)
        packet_id = link.expect("PUBLISH", topic="a").packet_id
        link.expect_nothing()
        link.puback(packet_id)
        link.puback(link.expect("PUBLISH", topic="b").packet_id)
        for handle in call.result():
            handle.wait_for_ack(PATIENCE_S)


def test_publish_many_says_that_the_queue_is_full() -> None:
    settings = SessionSettings(queue_messages_max=1, queue_policy=QueuePolicy.RAISE)
    with linked(settings) as (client, link, _):
        with pytest.raises(QueueFullError):
            client.publish_many([("a", b""), ("b", b"")], 1)
        link.expect("PUBLISH", topic="a")
        link.expect_nothing()


def test_raise_raises_at_once() -> None:
    with linked(SessionSettings(queue_messages_max=1, queue_policy=QueuePolicy.RAISE)) as (client, link, _):
        client.publish("t", b"", 1)
        with pytest.raises(QueueFullError, match="1 of 1 messages"):
            client.publish("t", b"", 1)
        link.puback(link.expect("PUBLISH").packet_id)


def test_drop_newest_settles_the_new_one_before_publish_returns() -> None:
    with linked(SessionSettings(queue_messages_max=1, queue_policy=QueuePolicy.DROP_NEWEST)) as (client, link, _):
        client.publish("t", b"first", 1)
        dropped = client.publish("t", b"second", 1)
        assert dropped.is_done()
        with pytest.raises(MessageDroppedError, match="newest"):
            dropped.wait_for_ack(0)
        link.expect("PUBLISH", payload=b"first")
        link.expect_nothing()


def test_drop_oldest_settles_the_oldest_that_was_never_sent() -> None:
    with Client(settings=SessionSettings(queue_messages_max=2, queue_policy=QueuePolicy.DROP_OLDEST)) as client:
        first, second, third = (client.publish("t", b"", 1) for _ in range(3))
        with pytest.raises(MessageDroppedError, match="oldest"):
            first.wait_for_ack(PATIENCE_S)
        assert not second.is_done()
        assert not third.is_done()


def test_qos_0_without_a_connection_is_dropped_if_the_user_wants_that() -> None:
    with Client(settings=SessionSettings(queue_qos0=False)) as client:
        handle = client.publish("t", b"")
        assert isinstance(handle.exception(), MessageDroppedError)


def test_the_queue_is_bounded_in_bytes() -> None:
    with Client(settings=SessionSettings(queue_bytes_max=10_000, queue_policy=QueuePolicy.RAISE)) as client:
        accepted = 0
        with pytest.raises(QueueFullError, match="of 10000 bytes"):
            for _ in range(100):
                client.publish("t", b"x" * 500)
                accepted += 500
        assert 9_000 <= accepted <= 10_000


# -- subscribing ----------------------------------------------------------------------------------------------------------------------------


def test_subscribe_sends_its_options_and_returns_the_suback() -> None:
    with linked() as (client, link, _):
        handle = client.subscribe(
            "a/+",
            None,
            1,
            no_local=True,
            retain_as_published=True,
            retain_handling=2,
            properties=MQTTSubscribeProps(UserProperty=(("k", "v"),)),
        )
        packet = link.expect("SUBSCRIBE")
        assert packet.properties == {"UserProperty": [("k", "v")]}
        before = handle.ack
        assert before is None
        link.suback(packet.packet_id, 1, ReasonString="fine")
        suback = handle.wait_for_ack(PATIENCE_S)
        assert suback.reason_codes == (1,)
        assert suback.properties.ReasonString == "fine"
        assert handle.ack is suback
        assert handle.is_done()
        assert handle.exception() is None


@pytest.mark.spec("MQTT-2.2.1-6")
def test_answers_in_another_order_find_their_requests() -> None:
    with linked() as (client, link, _):
        first = client.subscribe("a")
        second = client.subscribe(["b", MQTTSubscription("c", 1)])
        third = client.unsubscribe(["x", "y"])
        ids = [link.expect(kind).packet_id for kind in ("SUBSCRIBE", "SUBSCRIBE", "UNSUBSCRIBE")]
        assert len(set(ids)) == 3
        link.unsuback(ids[2], 0, 0x11)
        link.suback(ids[1], 1, 0x87)
        link.suback(ids[0], 2)
        assert third.wait_for_ack(PATIENCE_S).reason_codes == (0, 0x11)
        assert first.wait_for_ack(PATIENCE_S).reason_codes == (2,)
        with pytest.raises(SubscribeError, match=r"'c'.*0x87") as caught:
            second.wait_for_ack(PATIENCE_S)
        assert caught.value.suback.reason_codes == (1, 0x87)
        assert second.ack is caught.value.suback


def test_a_refused_unsubscribe_raises() -> None:
    with linked() as (client, link, _):
        handle = client.unsubscribe("a", MQTTUnsubscribeProps(UserProperty=(("k", "v"),)))
        before = handle.ack
        assert before is None
        link.unsuback(link.expect("UNSUBSCRIBE").packet_id, 0x87)
        with pytest.raises(UnsubscribeError, match="0x87"):
            handle.wait_for_ack(PATIENCE_S)
        assert handle.ack is not None
        assert handle.ack.reason_codes == (0x87,)


@pytest.mark.spec("MQTT-3.8.4")
def test_subscriptions_declared_before_connect_are_sent_and_catch_the_first_message() -> None:
    box = Mailbox()
    with Peer() as peer, Client() as client:
        client.subscribe("t", box)
        client.connect(peer.address)
        link = peer.accept()
        link.handshake()
        packet = link.expect("SUBSCRIBE")
        # [MQTT-3.8.4]: a PUBLISH may come before the SUBACK.
        link.publish("t", b"early")
        link.suback(packet.packet_id, 2)
        assert box.get().payload == b"early"


def test_a_lost_session_gets_its_subscriptions_again() -> None:
    box = Mailbox()
    with linked() as (client, link, peer):
        subscribed(client, link, "t", box)
        link.cut()
        link = relink(peer, session_present=False)
        link.suback(link.expect("SUBSCRIBE").packet_id, 2)
        link.publish("t", b"again")
        assert box.get().payload == b"again"
        link.cut()
        link = relink(peer, session_present=True)
        link.expect_nothing()


def test_a_request_that_its_link_did_not_live_to_answer_is_sent_again_with_the_same_handle() -> None:
    with linked() as (client, link, peer):
        handle = client.unsubscribe("t")
        link.expect("UNSUBSCRIBE")
        link.cut()
        link = relink(peer)
        link.unsuback(link.expect("UNSUBSCRIBE").packet_id, 0)
        assert handle.wait_for_ack(PATIENCE_S).reason_codes == (0,)


# -- bad arguments --------------------------------------------------------------------------------------------------------------------------


def connect(**options: Any) -> Callable[[Client], object]:
    arguments: dict[str, Any] = {"address": "127.0.0.1:1"}
    arguments.update(options)
    return lambda client: client.connect(**arguments)


def publish(*arguments: Any, **options: Any) -> Callable[[Client], object]:
    return lambda client: client.publish(*arguments, **options)


def subscribe(*arguments: Any, **options: Any) -> Callable[[Client], object]:
    return lambda client: client.subscribe(*arguments, **options)


def unsubscribe(*arguments: Any) -> Callable[[Client], object]:
    return lambda client: client.unsubscribe(*arguments)


def disconnect(*arguments: Any, **options: Any) -> Callable[[Client], object]:
    return lambda client: client.disconnect(*arguments, **options)


LONG = "x" * 65_536

BAD_CALLS: list[tuple[Callable[[Client], object], str]] = [
    (publish(""), r"topic.*empty|topic.*at least"),
    (publish("a/#"), r"topic.*'a/#'"),
    (publish("a\0b"), r"topic.*U\+0000"),
    (publish("\ud800"), r"topic.*surrogate"),
    (publish(LONG), r"topic.*65,?536.*65,?535"),
    (publish("€" * 21_846), r"topic.*65,?538.*65,?535"),
    (publish("a/+/b"), r"topic.*'a/\+/b'"),
    (publish(b"bytes"), r"topic.*b'bytes'|topic.*bytes"),
    (publish(["list"]), r"topic.*list"),
    (publish("t", 5), r"payload.*int"),
    (publish("t", "\ud800"), r"payload.*surrogate"),
    (publish("t", b"", 3), r"qos is 3.*0, 1 or 2"),
    (publish("t", b"", -1), r"qos is -1"),
    (publish("t", b"", True), r"qos is True"),
    (publish("t", b"", 1.0), r"qos is 1\.0"),
    (publish("t", b"", "1"), r"qos is '1'"),
    (publish("t", b"", 0, "no"), r"retain is 'no'"),
    (publish("t", b"", 0, None), r"retain is None"),
    (publish("t", b"", 0, 2), r"retain is 2"),
    (publish("t", b"", properties={"a": 1}), r"properties is .*MQTTPublishProps"),
    (publish("t", b"", properties=MQTTPublishProps(TopicAlias=3)), r"TopicAlias is 3"),
    (publish("t", b"", properties=MQTTPublishProps(SubscriptionIdentifier=3)), r"SubscriptionIdentifier"),
    (publish("t", b"\xff", properties=MQTTPublishProps(PayloadFormatIndicator=1)), r"payload.*UTF-8.*PayloadFormatIndicator"),
    (publish("t", b"", alias_policy="TRY"), r"alias_policy is 'TRY'"),
    (publish("t", b"", 1, alias_policy=AliasPolicy.ALWAYS), r"alias_policy is ALWAYS with qos 1"),
    (subscribe(""), r"filter"),
    (subscribe("a#"), r"filter.*'a#'"),
    (subscribe("a+/b"), r"filter.*'a\+/b'"),
    (subscribe("$share/g"), r"filter.*share"),
    (subscribe("$share//t"), r"filter.*share"),
    (subscribe("a\0"), r"filter.*U\+0000"),
    (subscribe("\ud800"), r"filter.*surrogate"),
    (subscribe("$share/+/t"), r"filter.*share"),
    (subscribe(LONG), r"filter.*65,?535"),
    (subscribe([]), r"topic_filter is an empty"),
    (subscribe(None), r"topic_filter is None"),
    (subscribe(5), r"topic_filter is 5"),
    (subscribe(b"a"), r"topic_filter is b'a'"),
    (subscribe(["a", 5]), r"filter.*5|filter.*int"),
    (subscribe("a", "not callable"), r"callback is 'not callable'"),
    (subscribe("a", None, 3), r"max_qos.*3"),
    (subscribe("a", None, retain_handling=3), r"retain_handling.*3"),
    (subscribe("$share/g/a", no_local=True), r"no_local"),
    (subscribe("a", properties=MQTTUnsubscribeProps.EMPTY), r"properties is .*MQTTSubscribeProps"),
    (unsubscribe(""), r"filter"),
    (unsubscribe("a#"), r"filter.*'a#'"),
    (unsubscribe("a\0"), r"filter.*U\+0000"),
    (unsubscribe("\ud800"), r"filter.*surrogate"),
    (unsubscribe("$share//t"), r"filter.*share"),
    (unsubscribe(LONG), r"filter.*65,?535"),
    (unsubscribe([]), r"topic_filter is an empty"),
    (unsubscribe(None), r"topic_filter is None"),
    (unsubscribe(b"a"), r"topic_filter is b'a'"),
    (unsubscribe([5]), r"filter.*5|filter.*int"),
    (unsubscribe("a", MQTTSubscribeProps.EMPTY), r"properties is .*MQTTUnsubscribeProps"),
    (disconnect(0x01), r"reason_code is 1"),
    (disconnect(0x8E), r"reason_code is 142"),
    (disconnect("x"), r"reason_code is 'x'"),
    (disconnect(0, MQTTPublishProps.EMPTY), r"properties is .*MQTTDisconnectProps"),
    (disconnect(0, MQTTDisconnectProps(ServerReference="x")), r"ServerReference"),
    (disconnect(timeout="x"), r"timeout is 'x'"),
    (lambda client: client.close(True), r"timeout is True"),
    (lambda client: client.wait_for_connect(float("nan")), r"timeout is nan"),
]


@pytest.mark.spec(
    "MQTT-1.5.4-1",
    "MQTT-1.5.4-2",
    "MQTT-3.3.1-4",
    "MQTT-3.3.2-2",
    "MQTT-3.3.2-8",
    "MQTT-3.3.4-6",
    "MQTT-3.8.3-1",
    "MQTT-3.8.3-2",
    "MQTT-3.8.3-4",
    "MQTT-3.10.3-1",
    "MQTT-3.10.3-2",
    "MQTT-3.14.2-1",
    "MQTT-4.7.0-1",
    "MQTT-4.7.1-1",
    "MQTT-4.7.1-2",
    "MQTT-4.7.3-1",
    "MQTT-4.7.3-2",
    "MQTT-4.7.3-3",
    "MQTT-4.8.2-1",
    "MQTT-4.8.2-2",
    "MQTT-3.3.2.3.2",
    "MQTT-3.8.3.1",
)
@pytest.mark.parametrize(("call", "words"), BAD_CALLS, ids=[words for _, words in BAD_CALLS])
def test_a_bad_argument_fails_at_the_call_and_nothing_is_sent(call: Callable[[Client], object], words: str) -> None:
    with linked() as (client, link, _):
        with pytest.raises(ArgumentError) as caught:
            call(client)
        assert re.search(words, str(caught.value)), str(caught.value)
        assert isinstance(caught.value, ValueError)
        client.publish("the/next", b"works")
        link.expect("PUBLISH", topic="the/next")


BAD_CONNECTS: list[tuple[dict[str, Any], str]] = [
    ({"address": ""}, r"address"),
    ({"address": 5}, r"address is 5"),
    ({"address": "http://x"}, r"address|scheme"),
    ({"address": "x:70000"}, r"port.*70000|address.*70000"),
    ({"client_id": 5}, r"client_id.*5"),
    ({"client_id": "a\0"}, r"client_id.*U\+0000"),
    ({"client_id": "\ud800"}, r"client_id.*surrogate"),
    ({"client_id": LONG}, r"client_id.*65,?535"),
    ({"keep_alive": -1}, r"keep_alive.*-1"),
    ({"keep_alive": 65_536}, r"keep_alive.*65,?536"),
    ({"keep_alive": 1.5}, r"keep_alive.*1\.5"),
    ({"user_name": 5}, r"user_name.*5"),
    ({"user_name": "\ud800"}, r"user_name.*surrogate"),
    ({"user_name": "a\0"}, r"user_name.*U\+0000"),
    ({"user_name": LONG}, r"user_name.*65,?535"),
    ({"password": 5}, r"password is of type int"),
    ({"password": "\ud800"}, r"password.*surrogate"),
    ({"password": b"x" * 65_536}, r"password.*65,?535"),
    ({"will": "x"}, r"will is 'x'"),
    ({"connect_properties": MQTTPublishProps.EMPTY}, r"connect_properties is .*MQTTConnectProps"),
    ({"connect_properties": MQTTConnectProps(AuthenticationMethod="SCRAM")}, r"AuthenticationMethod.*authenticator"),
    ({"authenticator": "x"}, r"authenticator is 'x'.*method"),
    ({"connect_timeout": 0}, r"connect_timeout is 0"),
    ({"connect_timeout": 100_000}, r"connect_timeout is 100000.*86,400"),
    ({"connect_timeout": True}, r"connect_timeout is True"),
    ({"connect_timeout": "x"}, r"connect_timeout is 'x'"),
    ({"tls_context": object()}, r"tls_context.*mqtts"),
    ({"server_hostname": "x"}, r"server_hostname.*mqtts"),
    ({"alpn": ["mqtt"]}, r"alpn.*mqtts"),
    ({"address": "mqtts://x", "tls_context": object()}, r"tls_context is .*SSLContext"),
    ({"address": "mqtts://x", "server_hostname": 5}, r"server_hostname is 5"),
    ({"address": "mqtts://x", "alpn": "mqtt"}, r"alpn is 'mqtt'"),
    ({"address": "mqtts://x", "alpn": [""]}, r"alpn is \[''\].*255"),
    ({"source_address": "x"}, r"source_address is 'x'"),
    ({"source_address": ("x", 70_000)}, r"source_address.*65,535"),
    ({"socket_options": [(1, 2)]}, r"socket_options holds \(1, 2\)"),
    ({"socket_options": 5}, r"socket_options is 5"),
]


@pytest.mark.spec("MQTT-1.5.4-1", "MQTT-1.5.4-2", "MQTT-3.1.3-4", "MQTT-3.1.3-12")
@pytest.mark.parametrize(("options", "words"), BAD_CONNECTS, ids=[words for _, words in BAD_CONNECTS])
def test_a_bad_argument_of_connect_fails_at_the_call(options: dict[str, Any], words: str) -> None:
    with Client() as client:
        with pytest.raises(ArgumentError) as caught:
            connect(**options)(client)
        assert re.search(words, str(caught.value)), str(caught.value)
        with pytest.raises(StateError, match="before connect"):
            client.wait_for_connect(0)


@pytest.mark.parametrize("address", ["ws://x", "wss://x"])
def test_what_is_not_supported_yet_says_so_at_the_call(address: str) -> None:
    with Client() as client, pytest.raises(NotSupportedError, match="WebSocket"):
        client.connect(address)


def test_a_secret_is_not_repeated_in_an_error() -> None:
    with Client() as client, pytest.raises(ArgumentError) as caught:
        client.connect("127.0.0.1:1", password="secret\ud800")
    assert "secret" not in str(caught.value)


def test_database_and_store_exclude_each_other() -> None:
    with pytest.raises(ArgumentError, match="db_path and store"):
        Client("/somewhere", store=cast("Any", object()))


def test_a_wait_without_a_connection_says_so() -> None:
    with Client() as client:
        with pytest.raises(WaitTimeoutError, match=r"0\.01 s; there is no connection$"):
            client.publish("t", b"", 1).wait_for_ack(0.01)
        client.shutdown()


def test_settings_of_another_kind_leave_the_database_alone(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"settings is \{\}"):
        Client(tmp_path / "db", settings=cast("Any", {}))
    assert not (tmp_path / "db").exists()


def test_one_and_zero_are_a_retain_flag() -> None:
    with linked() as (client, link, _):
        client.publish("t", b"", retain=cast("Any", 1))
        link.expect("PUBLISH", retain=True)
        client.publish("t", b"", retain=cast("Any", 0))
        link.expect("PUBLISH", retain=False)


def test_an_integer_of_another_kind_is_a_qos() -> None:
    class Level(int):
        pass

    with linked() as (client, link, _):
        client.publish("t", b"", Level(1))
        link.expect("PUBLISH", qos=1)


def test_a_payload_larger_than_a_packet_can_be_is_refused() -> None:
    with Client() as client, pytest.raises(ArgumentError, match="268435460 bytes"):
        client.publish("t", bytes(268_435_460))


@pytest.mark.spec("MQTT-3.4.2-1")
def test_an_ack_with_a_bad_argument_is_refused_and_a_good_one_follows() -> None:
    box = Mailbox()
    with linked(manual_ack=True) as (client, link, _):
        subscribed(client, link, "t", box)
        link.publish("t", b"", 1, 9)
        message = box.get()
        for arguments, words in (((0x01,), "reason_code is 1"), (("x",), "reason_code is 'x'"), ((0, "p"), "properties is 'p'")):
            with pytest.raises(ArgumentError, match=words):
                message.ack(*arguments)
        link.expect_nothing()
        message.ack(0x97, MQTTPubAckProps(ReasonString="full"))
        link.expect("PUBACK", packet_id=9, reason_code=0x97, ReasonString="full")


def test_a_wait_longer_than_a_lifetime_is_no_error() -> None:
    with linked() as (client, link, _):
        handle = client.publish("t", b"", 1)
        waits = in_thread(handle.wait_for_ack, float("inf"))
        link.puback(link.expect("PUBLISH").packet_id)
        assert waits.result() is not None


def test_a_wait_says_how_long_it_waited() -> None:
    with linked() as (client, link, _):
        handle = client.publish("t", b"", 1)
        with pytest.raises(WaitTimeoutError, match=r"0\.01 s$"):
            handle.wait_for_ack(0.01)
        with pytest.raises(TimeoutError):
            handle.wait_for_ack(-1)
        link.puback(link.expect("PUBLISH").packet_id)
        assert handle.wait_for_ack(PATIENCE_S) is not None


def test_calls_of_a_closed_client_say_so() -> None:
    client = Client()
    client.start_loop()
    client.close()
    client.close()
    client.shutdown()
    for call in (
        lambda: client.publish("t"),
        lambda: client.publish_many([("t", b"")]),
        lambda: client.subscribe("t"),
        lambda: client.unsubscribe("t"),
        lambda: client.connect("127.0.0.1:1"),
        lambda: client.wait_for_connect(1),
        client.disconnect,
        client.auth,
        client.start_loop,
        lambda: list(client.pending()),
    ):
        with pytest.raises(StateError, match="closed"):
            call()


def test_user_properties_of_suback_and_unsuback_reach_the_caller() -> None:
    pairs = [("k", "1"), ("k", "2")]
    with linked() as (client, link, _):
        subscribing = client.subscribe("a", lambda *_: None)
        link.suback(link.expect("SUBSCRIBE").packet_id, 2, UserProperty=pairs, ReasonString="fine")
        suback = subscribing.wait_for_ack(PATIENCE_S)
        assert suback.properties.UserProperty == tuple(pairs)
        assert suback.properties.ReasonString == "fine"
        unsubscribing = client.unsubscribe("a")
        link.unsuback(link.expect("UNSUBSCRIBE").packet_id, 0, UserProperty=pairs)
        assert unsubscribing.wait_for_ack(PATIENCE_S).properties.UserProperty == tuple(pairs)
