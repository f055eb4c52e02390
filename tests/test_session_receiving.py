"""Bytes into packets, packets to whom they concern, and how far the user's callbacks may be behind."""

from __future__ import annotations

import pytest

from ohmqtt.errors import ProtocolError
from ohmqtt.packet import (
    MQTTDisconnectPacket,
    MQTTPubAckPacket,
    MQTTPubCompPacket,
    MQTTPubRecPacket,
    MQTTPubRelPacket,
    MQTTSubAckPacket,
    MQTTUnsubAckPacket,
)
from ohmqtt.property import (
    MQTTDisconnectProps,
    MQTTPubAckProps,
    MQTTPubCompProps,
    MQTTPubRecProps,
    MQTTPubRelProps,
    MQTTSubAckProps,
    MQTTUnsubAckProps,
)
from tests.core_pair import Pair, ack, auth, connack, publish, publish_bytes
from tests.strict_parser import encode_packet, encode_properties


def refused(pair: Pair, data: bytes) -> int:
    """Feed what a server must not send; return the reason code of our DISCONNECT."""
    (goodbye,) = pair.feed(data)[-1:]
    assert goodbye.kind == "DISCONNECT"
    assert pair.kinds()[-1] == "EOF"
    assert isinstance(pair.ending().error, ProtocolError)
    code: int = goodbye.reason_code
    return code


# ---- framing ---------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-1.5.5-1", "MQTT-1.5.5", "MQTT-4.13.1")
def test_a_remaining_length_is_read_in_every_size_and_refused_if_padded_or_too_long() -> None:
    pair = Pair(inbound_bytes_max=1 << 30).connect()
    for size in (120, 128, 16_383, 16_384, 2_097_151, 2_097_152):
        pair.feed(publish("t", bytes(size)))
    assert [len(message.payload) for message in pair.messages()] == [120, 128, 16_383, 16_384, 2_097_151, 2_097_152]
    # The padded ones would be good packets otherwise.
    padded = (b"\xd0\x80\x00", b"\x30\x84\x00\x00\x01t\x00", b"\x30\x84\x80\x00\x00\x01t\x00")
    for bad in (*padded, b"\x30\xff\xff\xff\xff\x7f", b"\x30\xff\xff\xff\x80"):
        assert refused(Pair().connect(), bad) == 0x81


@pytest.mark.spec("MQTT-3.1.2-24", "MQTT-3.3.4")
@pytest.mark.parametrize("split", [False, True])
def test_a_packet_above_our_maximum_packet_size_is_refused_before_it_is_here(split: bool) -> None:
    pair = Pair().connect(MaximumPacketSize=50)
    exact = publish("t", bytes(44))
    assert len(exact) == 50
    pair.feed(exact)
    assert len(pair.messages()) == 1
    large = publish("t", bytes(50))
    header = large[:2]
    if split:
        pair.feed(header[:1])
        header = header[1:]
    assert refused(pair, header) == 0x95


def test_a_large_packet_in_pieces_is_joined_and_counted_whole() -> None:
    pair = Pair(inbound_bytes_max=100_000).connect()
    data = publish("t", bytes(150_000))
    for i in range(0, len(data), 1_000):
        assert pair.session.reading()
        pair.feed(data[i : i + 1_000])
    assert pair.session.receiving.waiting_bytes == len(data)
    assert not pair.session.reading()
    pair.session.delivered(1, len(data))
    assert pair.session.reading()


@pytest.mark.spec("MQTT-2.1.3-1", "MQTT-3.14.1-1", "MQTT-3.6.1-1", "MQTT-3.15.1-1", "MQTT-4.13.2-1", "MQTT-4.13.1", "MQTT-3.14.4-2")
@pytest.mark.parametrize(
    "good",
    [connack(), *[ack(first, 1) for first in (0x40, 0x50, 0x62, 0x70)]]
    + [bytes.fromhex(data) for data in ("9004 0001 0000", "b004 0001 0000", "d000", "e000", "f000")],
    ids=lambda data: data.hex(),
)
def test_reserved_bits_are_malformed(good: bytes) -> None:
    for bit in (1, 2, 4, 8):
        assert refused(Pair().connect(), bytes((good[0] ^ bit,)) + good[1:]) == 0x81


@pytest.mark.parametrize("first", [0x10, 0x82, 0xA2, 0xC0], ids=["CONNECT", "SUBSCRIBE", "UNSUBSCRIBE", "PINGREQ"])
def test_what_only_a_client_sends_is_refused(first: int) -> None:
    bodies = {
        0x10: b"\0\x04MQTT\x05\0\0\0\0\0\0",
        0x82: b"\0\x01\0\0\x01a\0",
        0xA2: b"\0\x01\0\0\x01a",
        0xC0: b"",
    }
    assert refused(Pair().connect(), encode_packet(first, bodies[first])) == 0x82


@pytest.mark.parametrize("first", [0x40, 0x50, 0x62, 0x70])
def test_an_acknowledgement_of_identifier_0_is_refused(first: int) -> None:
    assert refused(Pair().connect(), ack(first, 0)) in (0x81, 0x82)


def test_pingresp_needs_nothing_and_changes_nothing() -> None:
    pair = Pair().connect()
    assert pair.feed(b"\xd0\x00") == []
    assert pair.events() == []


# ---- PUBLISH -----------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec(
    "MQTT-1.5.4-1",
    "MQTT-1.5.4-2",
    "MQTT-3.3.1-4",
    "MQTT-3.3.2-1",
    "MQTT-3.3.2-2",
    "MQTT-3.3.1-2",
    "MQTT-4.13.1",
    "MQTT-3.3.2.1",
    "MQTT-4.7.3-1",
    "MQTT-4.7.0-1",
)
@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (publish_bytes(b"\xed\xa0\x80", b"", 0x30), 0x81),
        (publish_bytes(b"\xff", b"", 0x30), 0x81),
        (publish_bytes(b"\xc0\xaf", b"", 0x30), 0x81),
        (publish_bytes(b"a\0b", b"", 0x30), 0x81),
        (publish_bytes(b"a/+", b"", 0x30), 0x82),
        (publish_bytes(b"a/#", b"", 0x30), 0x82),
        (publish_bytes(b"a", b"", 0x36, 1), 0x81),
        (publish_bytes(b"a", b"", 0x38), 0x81),
        (publish_bytes(b"", b"", 0x30), 0x82),
    ],
)
def test_a_publish_that_is_none_closes_and_is_not_delivered(bad: bytes, code: int) -> None:
    pair = Pair().connect()
    assert refused(pair, bad) == code
    assert pair.messages() == []


@pytest.mark.spec(
    "MQTT-1.5.4-1",
    "MQTT-1.5.4-2",
    "MQTT-1.5.7-1",
    "MQTT-3.3.2-13",
    "MQTT-3.3.2-14",
    "MQTT-3.3.2-19",
    "MQTT-2.2.2",
    "MQTT-2.2.2.2",
    "MQTT-3.8.2.1.2",
    "MQTT-4.13.1",
)
@pytest.mark.parametrize(
    ("properties", "code"),
    [
        ("03 0001ff", 0x81),  # Content Type
        ("03 0003612f00", 0x81),
        ("08 0003eda080", 0x81),  # Response Topic
        ("08 0003610062", 0x81),
        ("08 0003612f23", 0x82),
        ("08 00012b", 0x82),
        ("08 0000", 0x82),
        ("26 0001ff 000161", 0x81),  # User Property
        ("26 000161 000100", 0x81),
        ("0b 00", 0x82),  # Subscription Identifier
        ("03 000161 03 000161", 0x82),  # twice
        ("11 00000001", 0x81),  # it belongs elsewhere
        ("04 00", 0x81),  # there is none
        ("23 00", 0x81),  # cut short
    ],
)
def test_a_publish_with_a_bad_property_closes_and_is_not_delivered(properties: str, code: int) -> None:
    pair = Pair().connect(TopicAliasMaximum=5)
    block = bytes.fromhex(properties)
    assert refused(pair, publish_bytes(b"a", b"", 0x30, properties=bytes((len(block),)) + block)) == code
    assert pair.messages() == []


@pytest.mark.spec("MQTT-1.5.4", "MQTT-1.5.4-3")
@pytest.mark.parametrize("topic", ["\ufeffa", "a\x01\x7f\x85", "\ufffe/\U0010ffff"])
def test_control_characters_non_characters_and_byte_order_marks_arrive_as_they_are(topic: str) -> None:
    pair = Pair().connect()
    pair.feed(publish_bytes(topic.encode(), b"", 0x30))
    assert [message.topic for message in pair.messages()] == [topic]


@pytest.mark.spec("MQTT-3.3.2-8", "MQTT-3.1.2-26", "MQTT-3.1.2-27", "MQTT-3.3.2-11", "MQTT-3.3.4")
@pytest.mark.parametrize(("offered", "alias"), [(None, 1), (5, 0), (5, 6)])
def test_an_alias_outside_of_our_offer_is_refused(offered: int | None, alias: int) -> None:
    pair = Pair().connect(TopicAliasMaximum=offered)
    block = encode_properties(TopicAlias=alias)
    assert refused(pair, publish_bytes(b"a", b"", 0x30, properties=block)) == 0x94


@pytest.mark.spec("MQTT-3.3.2-10", "MQTT-3.3.2-7", "MQTT-3.3.2.1")
def test_aliases_are_set_used_and_set_anew_and_forgotten_with_the_link() -> None:
    pair = Pair().connect(TopicAliasMaximum=5)
    pair.feed(publish("a", b"", TopicAlias=1), publish("b", b"", TopicAlias=5))
    pair.feed(publish("", b"", TopicAlias=1), publish("", b"", TopicAlias=5))
    pair.feed(publish("c", b"", TopicAlias=1), publish("", b"", 1, 7, TopicAlias=1))
    assert [message.topic for message in pair.messages()] == ["a", "b", "a", "b", "c", "c"]
    pair.lose()
    pair.reconnect()
    assert refused(pair, publish_bytes(b"", b"", 0x30, properties=encode_properties(TopicAlias=1))) == 0x82


@pytest.mark.spec("MQTT-3.3.2.3.2")
def test_a_payload_that_is_not_the_utf8_that_it_claims_is_reported_and_delivered() -> None:
    pair = Pair().connect()
    block = encode_properties(PayloadFormatIndicator=1)
    pair.feed(publish_bytes(b"a", b"\xff", 0x30, properties=block), publish_bytes(b"a", b"\xc3\xa4", 0x30, properties=block))
    assert [message.payload for message in pair.messages()] == [b"\xff", b"\xc3\xa4"]
    assert len(pair.reports()) == 1
    assert "UTF-8" in pair.reports()[0].text


@pytest.mark.spec("MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-17", "MQTT-3.3.2-18", "MQTT-3.3.2-20")
def test_properties_arrive_as_they_were_sent() -> None:
    pair = Pair().connect()
    pairs = [("k", "1"), ("k", "2"), ("a", "")]
    pair.feed(
        publish(
            "a", b"", ResponseTopic="r/t", CorrelationData=b"\0\xff", ContentType="x/y", UserProperty=pairs, SubscriptionIdentifier=[3, 1]
        )
    )
    properties = pair.messages()[0].properties
    assert properties.ResponseTopic == "r/t"
    assert properties.CorrelationData == b"\0\xff"
    assert properties.ContentType == "x/y"
    assert properties.UserProperty == tuple(pairs)
    assert properties.SubscriptionIdentifier == (3, 1)


# ---- acknowledgements find their exchange in every form -----------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.4.2.1")
@pytest.mark.parametrize("form", ["short", "code", "properties"])
def test_a_qos_1_and_a_qos_2_exchange_in_every_form_of_the_acknowledgements(form: str) -> None:
    pair = Pair().connect()
    one, two = pair.publish(qos=1), pair.publish(qos=2)

    def packet(first: int, packet_id: int) -> bytes:
        if form == "short":
            return ack(first, packet_id)
        if form == "code":
            return ack(first, packet_id, 0)
        return {
            0x40: MQTTPubAckPacket(packet_id, 0, MQTTPubAckProps(ReasonString="why")),
            0x50: MQTTPubRecPacket(packet_id, 0, MQTTPubRecProps(ReasonString="why")),
            0x62: MQTTPubRelPacket(packet_id, 0, MQTTPubRelProps(ReasonString="why")),
            0x70: MQTTPubCompPacket(packet_id, 0, MQTTPubCompProps(ReasonString="why")),
        }[first].encode()

    pair.feed(packet(0x40, one.packet_id), packet(0x50, two.packet_id), packet(0x70, two.packet_id))
    assert one.outcome is not None
    assert two.outcome is not None
    assert not isinstance(one.outcome, Exception)
    pair.feed(publish("a", b"", 2, 9))
    pair.answer(pair.messages()[0])
    assert [sent.kind for sent in pair.feed(packet(0x62, 9))] == ["PUBCOMP"]


@pytest.mark.spec(
    "MQTT-3.4.2-1", "MQTT-3.5.2-1", "MQTT-3.6.2-1", "MQTT-3.7.2-1", "MQTT-3.14.2-1", "MQTT-3.15.2-1", "MQTT-2.4", "MQTT-4.13.1"
)
@pytest.mark.parametrize(
    "bad",
    [
        *[ack(0x40, 1, code) for code in (0x01, 0x11, 0x92, 0xFF)],
        *[ack(0x50, 2, code) for code in (0x01, 0x11, 0x92, 0xFF)],
        *[ack(0x62, 7, code) for code in (0x01, 0x10, 0x80, 0xFF)],
        *[ack(0x70, 3, code) for code in (0x01, 0x10, 0x80, 0xFF)],
        *[bytes((0xE0, 1, code)) for code in (0x01, 0x10, 0x92, 0xFF)],
        *[auth(code) for code in (0x00, 0x18)],
        b"\xf0\x06\x01\x04\x15\0\x01M",
        b"\xf0\x06\x19\x04\x15\0\x01M",
    ],
    ids=lambda data: data.hex(),
)
def test_a_reason_code_that_the_server_may_not_send_is_a_protocol_error(bad: bytes) -> None:
    pair = Pair().connect()
    messages = [pair.publish(qos=1), pair.publish(qos=2), pair.publish(qos=2)]
    pair.feed(ack(0x50, 3), publish("a", b"", 2, 7))
    pair.answer(pair.messages()[0])
    assert refused(pair, bad) == 0x82
    assert [message.outcome for message in messages] == [None] * 3


@pytest.mark.spec("MQTT-2.2.1-6")
def test_suback_and_unsuback_find_their_request() -> None:
    pair = Pair().connect()
    subscribe = pair.subscribe("a")
    unsubscribe = pair.unsubscribe("b")
    pair.feed(MQTTUnsubAckPacket(2, (0x11,)).encode(), MQTTSubAckPacket(1, (1,)).encode())
    assert subscribe.outcome == MQTTSubAckPacket(1, (1,))
    assert unsubscribe.outcome == MQTTUnsubAckPacket(2, (0x11,))


@pytest.mark.spec("MQTT-3.1.2-29")
@pytest.mark.parametrize(
    "packet",
    [
        MQTTPubAckPacket(1, 0, MQTTPubAckProps(ReasonString="x")),
        MQTTPubRecPacket(1, 0, MQTTPubRecProps(UserProperty=[("a", "b")])),
        MQTTSubAckPacket(1, (0,), MQTTSubAckProps(ReasonString="x")),
        MQTTUnsubAckPacket(1, (0,), MQTTUnsubAckProps(ReasonString="x")),
    ],
    ids=lambda packet: type(packet).__name__,
)
def test_who_asked_for_no_problem_information_is_told_none(
    packet: MQTTPubAckPacket | MQTTPubRecPacket | MQTTSubAckPacket | MQTTUnsubAckPacket,
) -> None:
    assert refused(Pair().connect(RequestProblemInformation=0), packet.encode()) == 0x82
    pair = Pair().connect()
    pair.publish(qos=1 if isinstance(packet, MQTTPubAckPacket) else 2)
    pair.feed(packet.encode())
    assert pair.session.link is not None


def test_without_problem_information_some_may_still_tell() -> None:
    pair = Pair()
    pair.start(RequestProblemInformation=0)
    pair.open()
    pair.feed(connack(ReasonString="welcome"))
    pair.feed(publish("a", b"", UserProperty=[("a", "b")]))
    assert len(pair.messages()) == 1
    pair.subscribe("a")
    pair.feed(b"\x90\x04\0\x01\0\0")
    pair.feed(MQTTDisconnectPacket(0x8B, MQTTDisconnectProps(ReasonString="bye")).encode())
    assert pair.session.disconnect_packet is not None
    assert "bye" in str(pair.ending().error)


@pytest.mark.spec("MQTT-3.1.2.11.10", "MQTT-4.12.0-6")
def test_auth_without_a_method_is_refused_while_connected() -> None:
    assert refused(Pair().connect(), auth(0x18)) == 0x82


@pytest.mark.spec("MQTT-3.14.2-2")
def test_a_disconnect_with_an_expiry_is_a_protocol_error_and_closes() -> None:
    pair = Pair().connect()
    assert refused(pair, MQTTDisconnectPacket(0, MQTTDisconnectProps(SessionExpiryInterval=1)).encode()) == 0x82
    assert pair.session.disconnect_packet is not None


@pytest.mark.spec("MQTT-3.14.2-1")
def test_a_disconnect_with_a_clients_reason_code_is_a_protocol_error_and_closes() -> None:
    pair = Pair().connect()
    assert refused(pair, MQTTDisconnectPacket(4).encode()) == 0x82
    assert pair.session.link is None


# ---- bounds ------------------------------------------------------------------------------------------------------------------------------------------


def test_above_a_hard_bound_qos_0_is_dropped_counted_and_reported() -> None:
    pair = Pair(inbound_messages_max=2, inbound_messages_hard_max=4).connect()
    pair.publish(qos=1)  # an answer is awaited, so reading goes on
    pair.feed(*[publish("a")] * 4)
    assert pair.session.reading()
    pair.feed(*[publish("b")] * 3, publish("c", b"", 1, 1))
    assert [message.topic for message in pair.messages()] == ["a"] * 4 + ["c"]
    assert pair.session.receiving.dropped_count == 3
    assert [report.text.split()[0] for report in pair.reports()] == ["1", "2"]
    pair.session.delivered(len(pair.events()), 100)
    pair.feed(publish("d"))
    assert pair.messages()[-1].topic == "d"


def test_bytes_are_bounded_like_messages() -> None:
    pair = Pair(inbound_bytes_max=1_000, inbound_bytes_hard_max=2_000).connect()
    pair.feed(publish("a", bytes(1_100)))
    assert not pair.session.reading()
    pair.feed(publish("a", bytes(1_100)), publish("a", bytes(10)))
    assert len(pair.messages()) == 2
    assert pair.session.receiving.dropped_count == 1


def test_what_the_disk_holds_back_counts_as_waiting() -> None:
    pair = Pair(durable=True, inbound_messages_max=3).connect()
    pair.feed(publish("a", b"", 2, 1))
    pair.disk_is_broken = True
    pair.answer(pair.messages()[0])
    pair.log.clear()
    pair.feed(publish("b"), publish("b"))
    assert pair.messages() == []
    assert not pair.session.reading()


def test_a_turn_without_events_takes_no_bytes_along() -> None:
    pair = Pair().connect()
    pair.subscribe("a")
    pair.feed(b"\x90\x04\0\x01\0\0")
    assert (pair.session.receiving.waiting_messages, pair.session.receiving.waiting_bytes) == (0, 0)


# ---- the handshake ---------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.2.0-1", "MQTT-3.2.0-2")
def test_before_connack_only_auth_and_disconnect_and_behind_it_no_other() -> None:
    pair = Pair()
    pair.start()
    pair.open()
    assert refused(pair, publish("a")) == 0x82
    pair = Pair()
    pair.start(AuthenticationMethod="M")
    pair.open()
    pair.feed(auth(0x18))
    assert len(pair.session.auth_steps) == 1
    assert refused(Pair().connect(), connack()) == 0x82


def test_bytes_behind_an_unproven_connack_are_kept_unseen() -> None:
    pair = Pair()
    pair.start(AuthenticationMethod="M")
    pair.open()
    pair.feed(connack(AuthenticationMethod="M"), publish("a")[:2], publish("a")[2:], b"", b"\xf1\x00")
    assert pair.events() == []
    (step,) = pair.session.auth_steps
    pair.session.authenticated(step, None, None, pair.now)
    pair.pump()
    assert [message.topic for message in pair.messages()] == ["a"]
    assert pair.kinds()[-2:] == ["DISCONNECT", "EOF"]


def test_an_unproven_connack_with_bytes_behind_it_in_one_piece() -> None:
    pair = Pair()
    pair.start(AuthenticationMethod="M")
    pair.open()
    pair.feed(connack(AuthenticationMethod="M") + publish("a")[:2], publish("a")[2:])
    (step,) = pair.session.auth_steps
    pair.session.authenticated(step, None, None, pair.now)
    pair.pump()
    assert [message.topic for message in pair.messages()] == ["a"]


def test_what_an_unproven_connack_in_pieces_expected_does_not_hold_back_what_comes_behind_it() -> None:
    pair = Pair()
    pair.start(AuthenticationMethod="M")
    pair.open()
    accepted = connack(AuthenticationMethod="M", AuthenticationData=bytes(50))
    pair.feed(accepted[:10], accepted[10:], publish("a"))
    (step,) = pair.session.auth_steps
    pair.session.authenticated(step, None, None, pair.now)
    pair.pump()
    assert [message.topic for message in pair.messages()] == ["a"]


def test_a_length_that_is_not_complete_waits() -> None:
    pair = Pair().connect()
    data = publish("a", bytes(20_000))
    pair.feed(data[:2])
    pair.feed(data[2:3])
    pair.feed(data[3:])
    assert len(pair.messages()) == 1


def test_nothing_behind_the_servers_goodbye_is_looked_at() -> None:
    pair = Pair().connect()
    pair.feed(b"\xe0\x00" + publish("a"))
    assert pair.messages() == []
    assert pair.kinds() == ["EOF"]
