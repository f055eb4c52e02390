"""One network connection, bytes in and bytes out, with a clock made of numbers: chunks, limits, the wire form, aliases, keep alive."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from ohmqtt.errors import KeepAliveError, MalformedPacketError, PacketTooLargeError, ProtocolError, ServerLimitError
from ohmqtt.link import (
    CHUNK_BYTES,
    CLOSING,
    CONNECTED,
    CONNECTING,
    PING_MARGIN,
    PINGREQ,
    Link,
    encode_header,
    encode_topic_field,
)
from ohmqtt.packet import (
    MQTTConnAckPacket,
    MQTTConnectPacket,
    MQTTPingReqPacket,
    MQTTPublishPacket,
    MQTTPubRelPacket,
    decode_packet,
)
from ohmqtt.property import MQTTConnAckProps, MQTTConnectProps, MQTTPublishProps
from ohmqtt.serialization import encode_varint
from ohmqtt.topic_alias import AliasPolicy
from tests.outbound_world import connected_link, expiring, flush, packets, publication

if TYPE_CHECKING:
    from ohmqtt.records import Outgoing


def identified(message: Outgoing, packet_id: int = 1) -> Outgoing:
    message.packet_id = packet_id
    return message


def sent(link: Link, *messages: Outgoing, now: float = 0.0) -> list[Any]:
    link.outbox.extend(messages)
    return flush(link, now)


# -- the limits of both sides -----------------------------------------------------------------------------------------------------------------


def test_a_link_begins_with_what_connect_says() -> None:
    properties = MQTTConnectProps(
        MaximumPacketSize=1_000,
        ReceiveMaximum=5,
        RequestProblemInformation=0,
        TopicAliasMaximum=3,
        SessionExpiryInterval=7,
        AuthenticationMethod="A",
    )
    link = Link(MQTTConnectPacket("id", keep_alive=30, properties=properties), None, 5.0)
    assert link.state == CONNECTING
    assert (link.receive_size_max, link.receive_maximum, link.aliases_in.maximum) == (1_000, 5, 3)
    assert not link.request_problem_information
    assert (link.session_expiry_s, link.keep_alive_s, link.method, link.authenticating) == (7, 30, "A", True)
    assert link.send_quota == 0
    assert (link.last_sent, link.last_received, link.connack) == (5.0, 5.0, None)


@pytest.mark.spec("MQTT-4.9.0-1", "MQTT-3.1.2.11.2")
def test_a_link_takes_the_defaults_of_the_standard() -> None:
    link = connected_link(9.0)
    assert (link.receive_size_max, link.receive_maximum, link.aliases_in.maximum) == (268_435_460, 65_535, 0)
    assert link.request_problem_information
    assert (link.session_expiry_s, link.keep_alive_s, link.method, link.authenticating) == (0, 0, None, False)
    assert link.state == CONNECTED
    assert (link.send_quota, link.send_quota_max) == (65_535, 65_535)
    assert (link.packet_size_max, link.qos_max, link.aliases_out.maximum) == (268_435_460, 2, 0)
    assert link.retain_available
    assert link.wildcard_available
    assert link.shared_available
    assert link.identifiers_available
    assert not link.limited
    assert link.connected_at == 9.0


@pytest.mark.spec("MQTT-3.1.2-21", "MQTT-3.2.2-21", "MQTT-4.9.0-1", "MQTT-3.2.2-17", "MQTT-3.2.2.3.2")
def test_connack_rules() -> None:
    link = connected_link(
        keep_alive=60,
        connect=MQTTConnectProps(SessionExpiryInterval=5),
        ReceiveMaximum=3,
        MaximumPacketSize=100,
        MaximumQoS=1,
        RetainAvailable=0,
        WildcardSubscriptionAvailable=0,
        SharedSubscriptionAvailable=0,
        SubscriptionIdentifierAvailable=0,
        TopicAliasMaximum=4,
        ServerKeepAlive=9,
        SessionExpiryInterval=8,
    )
    assert (link.send_quota, link.send_quota_max) == (3, 3)
    assert (link.packet_size_max, link.qos_max, link.aliases_out.maximum) == (100, 1, 4)
    assert not link.retain_available
    assert not link.wildcard_available
    assert not link.shared_available
    assert not link.identifiers_available
    assert link.limited
    assert (link.keep_alive_s, link.session_expiry_s) == (9, 8)


@pytest.mark.parametrize(
    "limit", [{"MaximumPacketSize": 20}, {"MaximumPacketSize": 268_435_459}, {"MaximumQoS": 1}, {"RetainAvailable": 0}]
)
def test_any_limit_makes_a_link_limited(limit: dict[str, Any]) -> None:
    assert connected_link(**limit).limited


@pytest.mark.spec("MQTT-3.2.2-11", "MQTT-3.2.2-14")
def test_what_the_server_can_not_take_is_refused_with_value_and_limit() -> None:
    link = connected_link(MaximumQoS=1, RetainAvailable=0)
    link.check(publication(qos=1))
    with pytest.raises(ServerLimitError, match="qos is 2, and the server's Maximum QoS is 1"):
        link.check(publication(qos=2))
    with pytest.raises(ServerLimitError, match="retain is True, and the server's Retain Available is 0"):
        link.check(publication(retain=True))
    connected_link(MaximumQoS=1).check(publication(retain=True))


@pytest.mark.spec("MQTT-3.2.2-15")
@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("size", [0, 118, 119, 120, 121, 122, 16_375, 16_376, 16_377, 16_378, 16_379, 16_380, 2_097_200])
def test_the_size_is_that_of_the_whole_packet(qos: int, size: int) -> None:
    message = identified(publication(bytes(size), qos))
    link = connected_link(MaximumPacketSize=message.size)
    link.check(message)
    link.outbox.append(message)
    data = b""
    while chunk := link.next_chunk(0.0):
        data += bytes(chunk)
        link.sent(len(chunk), 0.0)
    assert len(data) == message.size
    with pytest.raises(PacketTooLargeError, match=f"PUBLISH takes {message.size} bytes, .* is {message.size - 1} bytes"):
        connected_link(MaximumPacketSize=message.size - 1).check(message)


# -- receiving --------------------------------------------------------------------------------------------------------------------------------


def receive_all(link: Link, data: bytes, cut: int) -> list[tuple[int, bytes]]:
    """Feed `data` in pieces of `cut` bytes, the way the session does; return first byte and body of each packet."""
    found = []
    for at in range(0, len(data), cut):
        ready = link.gather(data[at : at + cut])
        offset = 0
        while (decoded := _whole(ready, offset)) is not None:
            start, end = decoded
            found.append((ready[offset], ready[start:end]))
            offset = end
        if offset < len(ready):
            link.keep(ready, offset)
    return found


def _whole(data: bytes, offset: int) -> tuple[int, int] | None:
    length = shift = 0
    for at in range(offset + 1, min(len(data), offset + 5)):
        length |= (data[at] & 0x7F) << shift
        shift += 7
        if data[at] < 0x80:
            end = at + 1 + length
            return (at + 1, end) if end <= len(data) else None
    return None


@pytest.mark.parametrize("cut", [1, 2, 3, 7, 100, 1_000, 100_000])
def test_packets_are_found_however_the_bytes_are_cut(cut: int) -> None:
    bodies = [bytes([i]) * length for i, length in enumerate((0, 1, 2, 127, 128, 129, 16_384, 0))]
    data = b"".join(b"\x30" + encode_varint(len(body)) + body for body in bodies)
    link = connected_link()
    assert receive_all(link, data, cut) == [(0x30, body) for body in bodies]
    assert not link.remainder


def test_a_whole_packet_is_passed_on_as_it_is() -> None:
    link = connected_link()
    data = b"\xd0\x00"
    assert link.gather(data) is data


@pytest.mark.spec("MQTT-3.1.2-24", "MQTT-3.3.4")
@pytest.mark.parametrize("cut", [1, 2, 5, 100])
def test_a_packet_larger_than_our_limit_is_refused_as_soon_as_its_length_is_known(cut: int) -> None:
    link = connected_link(connect=MQTTConnectProps(MaximumPacketSize=100))
    assert receive_all(link, b"\x30\x62" + bytes(98), cut) == [(0x30, bytes(98))]
    with pytest.raises(ProtocolError, match="101 bytes is larger than our Maximum Packet Size of 100") as caught:
        receive_all(link, b"\x30\x63" + bytes(98), cut)
    assert caught.value.reason_code == 0x95


@pytest.mark.spec("MQTT-1.5.5")
@pytest.mark.parametrize("length", [b"\xff\xff\xff\xff", b"\x80\x80\x80\x80\x01"])
@pytest.mark.parametrize("cut", [1, 9])
def test_a_length_of_more_than_four_bytes_is_malformed(length: bytes, cut: int) -> None:
    with pytest.raises(MalformedPacketError):
        receive_all(connected_link(), b"\x30" + length, cut)


@pytest.mark.spec("MQTT-1.5.5-1")
def test_a_padded_length_is_malformed() -> None:
    with pytest.raises(MalformedPacketError):
        receive_all(connected_link(), b"\x30\x85\x00", 9)


def test_an_incomplete_packet_says_how_much_it_needs() -> None:
    link = connected_link()
    link.keep(b"...\x30", 3)
    assert (link.remainder_bytes, link.remainder_needed) == (1, 2)
    link.keep(b"\x30\x80\x80", 0)
    assert (link.remainder_bytes, link.remainder_needed) == (3, 4)
    link.keep(b"\x30\x80\x80\x01", 0)
    assert (link.remainder_bytes, link.remainder_needed) == (4, 4 + 16_384)
    assert link.gather(bytes(16_383)) == b""
    assert len(link.gather(b"\0")) == 4 + 16_384
    # The largest length that takes four bytes, and the smallest.
    link.keep(b"\x30\xff\xff\xff\x7f", 0)
    assert link.remainder_needed == 268_435_460
    link.keep(b"\x30\x80\x80\x80\x01", 0)
    assert link.remainder_needed == 5 + 2_097_152
    # What waits may be looked at again without anything new.
    link.keep(b"\xd0\x00", 0)
    assert link.gather(b"") == b"\xd0\x00"


@pytest.mark.slow
def test_a_large_packet_is_put_together_once() -> None:
    def cost_s(size: int) -> float:
        data = b"\x30" + encode_varint(size) + bytes(size)
        pieces = [data[at : at + 4_096] for at in range(0, len(data), 4_096)]
        link = connected_link()
        ready = b""
        start = time.process_time()
        for piece in pieces:
            ready = link.gather(piece)
            if ready and len(ready) < len(data):
                link.keep(ready, 0)
        assert ready == data
        return time.process_time() - start

    small = min(cost_s(4_000_000) for _ in range(3))
    large = min(cost_s(64_000_000) for _ in range(3))
    # Sixteen times the size; if each piece were joined to what came before it, it would be 256 times the cost.
    assert large < 80 * max(small, 0.001)


# -- the wire form of PUBLISH -----------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-2.1.3-1", "MQTT-2.2.2-1", "MQTT-3.3.2-1", "MQTT-2.2.1-2")
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("retain", [False, True])
def test_the_bytes_of_a_publish(qos: int, retain: bool) -> None:
    link = connected_link()
    link.outbox.append(identified(publication(b"ab", qos, topic="t", retain=retain), 258))
    expected = bytes([0x30 | qos << 1 | retain, 6 if not qos else 8]) + b"\x00\x01t" + (b"\x01\x02" if qos else b"") + b"\x00ab"
    assert link.next_chunk(0.0) == expected


@pytest.mark.spec("MQTT-1.5.5-1")
@pytest.mark.parametrize("length", [127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
@pytest.mark.parametrize("qos", [0, 1])
def test_the_length_takes_the_fewest_bytes(qos: int, length: int) -> None:
    link = connected_link()
    overhead = 4 + (2 if qos else 0)
    link.outbox.append(identified(publication(bytes(length - overhead), qos, topic="t")))
    data = bytes(link.next_chunk(0.0))
    header = bytes([0x30 | qos << 1]) + encode_varint(length)
    assert data.startswith(header)
    assert len(data) == len(header) + length
    assert encode_header(0x30 | qos << 1, length) == header


def test_the_topic_field_is_bounded() -> None:
    assert encode_topic_field("ö".encode()) == b"\x00\x02\xc3\xb6"
    assert len(encode_topic_field(bytes(65_535))) == 65_537
    with pytest.raises(AssertionError):
        encode_topic_field(bytes(65_536))


@pytest.mark.spec("MQTT-3.3.1-1", "MQTT-4.3.2-2", "MQTT-4.3.3-2")
@pytest.mark.parametrize("qos", [1, 2])
def test_dup_is_set_from_the_second_time_on(qos: int) -> None:
    message = identified(publication(qos=qos))
    assert [sent(connected_link(), message)[0].dup for _ in range(3)] == [False, True, True]


@pytest.mark.spec("MQTT-2.2.1-3")
def test_a_publication_that_lost_its_identifier_does_not_go_out() -> None:
    link = connected_link()
    lost, kept = publication(), identified(publication())
    assert [packet.packet_id for packet in sent(link, lost, kept)] == [1]
    assert not lost.sent
    assert link.publishes_sent == 1
    assert sent(link, lost) == []
    assert not link.pending()


def test_writes_leave_in_order_and_together() -> None:
    link = connected_link()
    link.outbox.extend([MQTTPubRelPacket(1).encode(), publication(b"1", 0), b"\xc0\x00", identified(publication(b"2", 1), 7)])
    assert link.pending()
    chunk = link.next_chunk(0.0)
    assert link.next_chunk(0.0) is chunk
    assert packets(bytes(chunk)) == [
        MQTTPubRelPacket(1),
        MQTTPublishPacket("topic", b"1"),
        MQTTPingReqPacket(),
        MQTTPublishPacket("topic", b"2", 1, False, False, 7),
    ]
    assert link.pending()
    link.sent(len(chunk), 0.0)
    assert not link.pending()
    assert link.next_chunk(0.0) == b""


def test_chunks_are_bounded() -> None:
    link = connected_link()
    link.outbox.extend(publication(bytes(CHUNK_BYTES // 4), 0) for _ in range(10))
    link.outbox.extend([bytes(CHUNK_BYTES), bytes(1)])
    sizes = []
    while chunk := link.next_chunk(0.0):
        sizes.append(len(chunk))
        link.sent(len(chunk), 0.0)
    assert len(sizes) == 4
    assert max(sizes) < 2 * CHUNK_BYTES
    link.outbox.extend([bytes(CHUNK_BYTES // 4)] * 10)
    assert CHUNK_BYTES <= len(link.next_chunk(0.0)) < 2 * CHUNK_BYTES


def test_what_the_socket_does_not_take_is_kept() -> None:
    link = connected_link()
    messages = [publication(b"1", 0), publication(b"2", 0)]
    link.outbox.extend(messages)
    whole = bytes(link.next_chunk(0.0))
    assert link.sent(5, 0.0) == []
    link.outbox.append(b"later")
    rest = link.next_chunk(0.0)
    assert whole[:5] + bytes(rest) == whole
    assert link.sent(1, 0.0) == []
    assert link.sent(len(rest) - 1, 0.0) == messages
    assert link.next_chunk(0.0) == b"later"
    assert link.sent(5, 0.0) == []


def test_bytes_of_qos_0_are_counted_off_as_they_leave() -> None:
    link = connected_link(TopicAliasMaximum=1)
    first, second = publication(bytes(CHUNK_BYTES), 0), publication(b"2", 0, alias_policy=AliasPolicy.TRY)
    for message in (first, identified(publication(b"1")), second):
        link.outbox.append(message)
        if not message.qos:
            link.outbox_bytes += len(message.topic_field) + len(message.properties) + len(message.payload)
    link.sent(len(link.next_chunk(0.0)), 0.0)
    assert link.outbox_bytes == len(second.topic_field) + 2
    flush(link)
    assert link.outbox_bytes == 0


# -- expiry on the wire -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.3.2-6")
@pytest.mark.parametrize(("now", "expected"), [(100.0, 60), (100.1, 60), (101.0, 59), (159.5, 1), (160.0, 1), (500.0, 1)])
def test_the_time_that_a_message_waited_is_taken_off_its_expiry(now: float, expected: int) -> None:
    message = publication(properties=MQTTPublishProps(MessageExpiryInterval=60, ContentType="t"), now=100.0)
    (packet,) = sent(connected_link(), identified(message), now=now)
    assert packet.properties == MQTTPublishProps(MessageExpiryInterval=expected, ContentType="t")


def test_the_expiry_never_grows() -> None:
    message = expiring(b"payload", 60, 100.0)
    (packet,) = sent(connected_link(), identified(message), now=90.0)
    assert packet.properties.MessageExpiryInterval == 60


# -- aliases on the wire ----------------------------------------------------------------------------------------------------------------------


def aliased(policy: AliasPolicy = AliasPolicy.TRY, topic: str = "topic", **options: Any) -> Outgoing:
    return publication(b"payload", 0, topic=topic, alias_policy=policy, **options)


def wire(sent_packets: list[Any]) -> list[tuple[str, int | None]]:
    return [(packet.topic, packet.properties.TopicAlias) for packet in sent_packets]


@pytest.mark.spec("MQTT-3.3.2-8", "MQTT-3.3.2-9", "MQTT-3.2.2-17")
def test_a_topic_is_sent_once_and_then_its_alias_alone() -> None:
    link = connected_link(TopicAliasMaximum=2)
    messages = [aliased(topic=topic) for topic in ("a", "b", "a", "c", "b")]
    assert wire(sent(link, *messages)) == [("a", 1), ("b", 2), ("", 1), ("c", None), ("", 2)]


@pytest.mark.spec("MQTT-3.2.2-18")
@pytest.mark.parametrize("maximum", [None, 0])
def test_no_alias_is_sent_to_a_server_that_offers_none(maximum: int | None) -> None:
    link = connected_link(TopicAliasMaximum=maximum)
    assert wire(sent(link, aliased(), aliased())) == [("topic", None)] * 2


def test_never_means_never() -> None:
    link = connected_link(TopicAliasMaximum=2)
    assert wire(sent(link, aliased(), publication(qos=0), expiring(b"", 5, 0.0, 0))) == [("topic", 1), ("topic", None), ("topic", None)]


def test_always_uses_what_was_reserved() -> None:
    link = connected_link(TopicAliasMaximum=1)
    link.aliases_out.reserve("b")
    assert wire(sent(link, aliased(topic="a"), aliased(AliasPolicy.ALWAYS, "b"))) == [("a", None), ("b", 1)]


def test_an_alias_and_other_properties_go_together() -> None:
    link = connected_link(TopicAliasMaximum=1)
    properties = MQTTPublishProps(ContentType="t", UserProperty=[("a", "b")])
    expiry = properties.replace(MessageExpiryInterval=60)
    found = sent(link, aliased(properties=properties), aliased(properties=expiry, now=0.0), now=10.0)
    assert found[0].properties == properties.replace(TopicAlias=1)
    assert found[1].properties == expiry.replace(TopicAlias=1, MessageExpiryInterval=50)
    assert found[1].topic == ""


@pytest.mark.spec("MQTT-3.2.2-15")
def test_an_alias_that_does_not_fit_is_left_off_and_not_believed_later() -> None:
    message = aliased()
    link = connected_link(TopicAliasMaximum=1, MaximumPacketSize=message.size + 4)
    link.check(message)
    assert wire(sent(link, message)) == [("topic", None)]
    short = publication(b"", 0, alias_policy=AliasPolicy.TRY)
    assert wire(sent(link, short)) == [("topic", 1)]
    # The server knows it now, and it still doesn't fit with a long payload: off for this one, and still known.
    assert wire(sent(link, message, short)) == [("topic", None), ("", 1)]


def test_an_alias_is_used_wherever_it_is_sure_to_fit() -> None:
    # The property takes three bytes; here the Property Length and the Remaining Length take one more each because of it.
    message = aliased(properties=MQTTPublishProps(ContentType="t" * 122))
    message.payload = bytes(16_383 - len(message.topic_field) - len(message.properties))
    link = connected_link(TopicAliasMaximum=1, MaximumPacketSize=message.size + 5)
    link.outbox.append(message)
    chunk = bytes(link.next_chunk(0.0))
    assert len(chunk) == message.size + 5
    assert wire(packets(chunk)) == [("topic", 1)]


def test_a_publication_that_does_not_leave_announces_no_alias() -> None:
    link = connected_link(TopicAliasMaximum=1)
    # Its session has ended while it stood in the outbox, so that it has no packet identifier any more.
    stays = publication(qos=1, alias_policy=AliasPolicy.TRY)
    assert wire(sent(link, stays, aliased())) == [("topic", 1)]


@pytest.mark.spec("MQTT-3.3.2-7")
def test_aliases_end_with_the_link() -> None:
    message = aliased()
    assert wire(sent(connected_link(TopicAliasMaximum=1), message, message)) == [("topic", 1), ("", 1)]
    assert wire(sent(connected_link(TopicAliasMaximum=1), message)) == [("topic", 1)]


# -- keep alive -------------------------------------------------------------------------------------------------------------------------------

KEEP_ALIVE_S = 10


def answered(link: Link, now: float) -> None:
    """A byte arrives, as the session tells the link."""
    link.last_received = now
    if link.ping_pending and link.ping_flushed_at is not None:
        link.ping_pending = False
        link.ping_flushed_at = None


def run(link: Link, now: float, until: float, *, step: float = 0.25, unread: bool = False, socket: bool = True) -> list[float]:
    """Tick at the deadlines, and in between; return when PINGREQ left."""
    pings = []
    while now < until:
        deadline = link.deadline()
        now = min(now + step, until if deadline is None else max(deadline, now + 0.001), until)
        link.tick(now, unread=unread)
        if socket:
            pings += [now for packet in flush(link, now) if packet == MQTTPingReqPacket()]
    return pings


@pytest.mark.spec("MQTT-3.1.2-20")
def test_pingreq_leaves_before_the_interval_ends() -> None:
    link = connected_link(0.0, KEEP_ALIVE_S)
    assert link.deadline() == KEEP_ALIVE_S * PING_MARGIN
    assert run(link, 0.0, 9.5) == [9.0]
    answered(link, 9.6)
    assert link.deadline() == 18.0
    assert run(link, 9.6, 18.5) == [18.0]


@pytest.mark.spec("MQTT-3.1.2-20")
def test_the_interval_counts_from_what_we_sent_though_the_server_talks_on() -> None:
    link = connected_link(0.0, KEEP_ALIVE_S)
    pings: list[float] = []
    for now in range(40):
        link.last_received = float(now)
        pings += run(link, float(now), now + 1.0)
        answered(link, now + 1.0)
    assert pings == [9.0, 18.0, 27.0, 36.0]


def test_the_interval_counts_from_what_we_received_though_we_talk_on() -> None:
    link = connected_link(0.0, KEEP_ALIVE_S)
    now = 0
    with pytest.raises(KeepAliveError, match="no byte from the peer within 5 s of our PINGREQ"):
        for now in range(40):
            sent(link, publication(qos=0), now=float(now))
            run(link, float(now), now + 1.0)
    assert now == 13


def test_a_busy_publisher_notices_that_nobody_answers() -> None:
    """The outbox is never empty, and still the PINGREQ leaves and its time runs."""
    link = connected_link(0.0, KEEP_ALIVE_S)
    now = 0.0
    with pytest.raises(KeepAliveError):
        while now < 100:
            now += 0.5
            link.outbox.extend(publication(bytes(CHUNK_BYTES), 0) for _ in range(3))
            chunk = link.next_chunk(now)
            link.sent(len(chunk), now)
            link.tick(now)
    assert now <= 2 * KEEP_ALIVE_S


def test_pingreq_passes_what_waits_but_no_packet_that_has_begun() -> None:
    link = connected_link(0.0, KEEP_ALIVE_S)
    link.outbox.extend([publication(bytes(CHUNK_BYTES), 0), publication(b"2", 0)])
    begun = bytes(link.next_chunk(8.9))
    link.sent(1, 8.9)
    link.tick(9.0)
    assert link.ping_pending
    rest = bytes(link.next_chunk(9.1))
    assert begun[1:] == rest
    link.sent(len(rest), 9.1)
    assert not link.ping_flushed_at
    assert link.deadline() is None  # the rest is on its way to the socket
    chunk = bytes(link.next_chunk(9.2))
    assert chunk.startswith(PINGREQ)
    link.sent(1, 9.3)
    assert not link.ping_flushed_at
    assert link.deadline() == 9.3 + KEEP_ALIVE_S
    link.sent(len(chunk) - 1, 9.4)
    assert link.ping_flushed_at == 9.4
    assert link.deadline() == 9.4 + KEEP_ALIVE_S / 2


def test_the_link_is_given_up_half_a_keep_alive_after_the_flush() -> None:
    link = connected_link(0.0, KEEP_ALIVE_S)
    assert run(link, 0.0, 9.0) == [9.0]
    link.tick(13.999)
    with pytest.raises(KeepAliveError):
        link.tick(14.0)


def test_a_write_without_progress_is_given_up() -> None:
    link = connected_link(0.0, KEEP_ALIVE_S)
    link.outbox.append(bytes(100))
    link.next_chunk(1.0)
    answered(link, 8.0)
    link.sent(10, 6.0)
    assert link.deadline() == 9.0
    run(link, 8.0, 15.9, socket=False)
    assert link.deadline() == 16.0
    with pytest.raises(KeepAliveError, match="took no byte for the keep alive of 10 s"):
        link.tick(16.0)


def test_a_stalled_pingreq_is_given_up_within_two_keep_alives() -> None:
    link = connected_link(0.0, KEEP_ALIVE_S)
    link.tick(9.0)
    link.next_chunk(9.0)
    assert link.deadline() == 19.0
    with pytest.raises(KeepAliveError):
        run(link, 9.0, 2.0 * KEEP_ALIVE_S, socket=False)


def test_progress_is_a_sign_of_life() -> None:
    link = connected_link(0.0, KEEP_ALIVE_S)
    link.outbox.append(bytes(100))
    link.next_chunk(0.0)
    for second in range(99):
        link.sent(1, float(second))
        link.tick(float(second))
    assert link.ping_pending


@pytest.mark.spec("MQTT-3.2.2-21")
def test_keep_alive_0_turns_everything_off() -> None:
    link = connected_link(0.0, 60, ServerKeepAlive=0)
    link.outbox.append(b"stalled")
    link.next_chunk(0.0)
    assert link.deadline() is None
    link.tick(1e9)
    assert not link.ping_pending


def test_unread_data_is_a_sign_of_life_and_pingreq_leaves_all_the_same() -> None:
    link = connected_link(0.0, KEEP_ALIVE_S)
    pings = run(link, 0.0, 100.0, unread=True)
    assert pings[0] == 9.0
    assert all(KEEP_ALIVE_S * 0.8 < later - earlier <= KEEP_ALIVE_S for earlier, later in pairwise(pings))
    assert pings[-1] > 90
    with pytest.raises(KeepAliveError):
        run(link, 100.0, 130.0)


def test_unread_data_gives_the_next_pingreq_its_full_time() -> None:
    link = connected_link(0.0, KEEP_ALIVE_S)
    assert run(link, 0.0, 9.0) == [9.0]
    link.tick(12.0, unread=True)
    assert link.deadline() == 18.0
    link.tick(18.0)
    assert link.outbox[0] is PINGREQ
    link.tick(18.1)
    assert flush(link, 18.2) == [MQTTPingReqPacket()]
    assert link.deadline() == 18.2 + KEEP_ALIVE_S / 2


def test_a_pingreq_that_waits_for_the_socket_stays_the_only_one_though_data_is_unread() -> None:
    link = connected_link(0.0, KEEP_ALIVE_S)
    for now in (9.0, 12.0, 15.0):
        link.tick(now, unread=True)
    assert list(link.outbox) == [PINGREQ]


def test_a_tick_that_comes_late_sends_pingreq_before_anything_is_given_up() -> None:
    link = connected_link(0.0, KEEP_ALIVE_S)
    link.tick(1_000.0)  # the machine was asleep
    assert flush(link, 1_000.0) == [MQTTPingReqPacket()]
    assert link.deadline() == 1_000.0 + KEEP_ALIVE_S / 2


@pytest.mark.spec("MQTT-3.1.2-30")
def test_nothing_is_sent_before_connack_and_its_absence_has_a_deadline() -> None:
    link = Link(MQTTConnectPacket("id", keep_alive=1), None, 0.0)
    assert link.deadline() is None
    link.connack_at = 30.0
    assert link.deadline() == 30.0
    link.tick(20.0)
    assert not link.pending()
    link.accept(MQTTConnAckPacket(0, False, MQTTConnAckProps.EMPTY), 20.0)
    assert link.deadline() == PING_MARGIN


def test_a_closing_link_has_its_own_deadline() -> None:
    link = connected_link(0.0, KEEP_ALIVE_S)
    link.state = CLOSING
    link.close_at = 3.0
    assert link.deadline() == 3.0
    link.tick(100.0)
    assert not link.ping_pending


def test_the_bytes_of_pingreq() -> None:
    assert decode_packet(PINGREQ) == (MQTTPingReqPacket(), 2)
