"""The fifteen packets: their bytes, what may be left out, what a decoder refuses and with which reason code, what ``encode`` refuses."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

import ohmqtt.packet
from ohmqtt.errors import ArgumentError, MalformedPacketError, ProtocolError
from ohmqtt.mqtt_spec import REASON_CODES, VARINT_MAX, PacketType
from ohmqtt.packet import (
    DECODERS,
    MQTTAuthPacket,
    MQTTConnAckPacket,
    MQTTConnectPacket,
    MQTTDisconnectPacket,
    MQTTPacket,
    MQTTPingReqPacket,
    MQTTPingRespPacket,
    MQTTPubAckPacket,
    MQTTPubCompPacket,
    MQTTPublishPacket,
    MQTTPubRecPacket,
    MQTTPubRelPacket,
    MQTTSubAckPacket,
    MQTTSubscribePacket,
    MQTTSubscription,
    MQTTUnsubAckPacket,
    MQTTUnsubscribePacket,
    MQTTWill,
    decode_packet,
    decode_publish,
)
from ohmqtt.packet.fields import decoded_topics, encoded_topics
from ohmqtt.property import (
    MQTTAuthProps,
    MQTTConnAckProps,
    MQTTConnectProps,
    MQTTDisconnectProps,
    MQTTPubAckProps,
    MQTTPubCompProps,
    MQTTPublishProps,
    MQTTPubRecProps,
    MQTTPubRelProps,
    MQTTSubAckProps,
    MQTTSubscribeProps,
    MQTTUnsubAckProps,
    MQTTUnsubscribeProps,
    MQTTWillProps,
)
from ohmqtt.topic import validate_topic_filter, validate_topic_name

USER = [("k", "v")]
USER_HEX = "2600016b000176"

# A record and its bytes, the shortest form that the standard allows.
PACKETS: list[tuple[MQTTPacket, str]] = [
    (MQTTConnectPacket(), "10 0d 0004 4d515454 05 00 0000 00 0000"),
    (MQTTConnectPacket("c", True, 60), "10 0e 0004 4d515454 05 02 003c 00 0001 63"),
    (MQTTConnectPacket("", user_name=""), "10 0f 0004 4d515454 05 80 0000 00 0000 0000"),
    (MQTTConnectPacket("", password=b"\0"), "10 10 0004 4d515454 05 40 0000 00 0000 000100"),
    (MQTTConnectPacket("", will=MQTTWill("w")), "10 13 0004 4d515454 05 04 0000 00 0000 00 000177 0000"),
    (
        MQTTConnectPacket(
            "c",
            True,
            65_535,
            MQTTWill("w", b"p", 2, True, MQTTWillProps(WillDelayInterval=5)),
            "u",
            b"pw",
            MQTTConnectProps(SessionExpiryInterval=1),
        ),
        "10 26 0004 4d515454 05 f6 ffff 0511 00000001 0001 63 0518 00000005 0001 77 0001 70 0001 75 0002 7077",
    ),
    (MQTTConnAckPacket(), "20 03 00 00 00"),
    (MQTTConnAckPacket(0, True, MQTTConnAckProps(ServerKeepAlive=9)), "20 06 01 00 03 130009"),
    (MQTTConnAckPacket(0x87), "20 03 00 87 00"),
    (MQTTPublishPacket("t"), "30 04 0001 74 00"),
    (MQTTPublishPacket("t", b"x", retain=True), "31 05 0001 74 00 78"),
    (MQTTPublishPacket("t", b"x", 1, False, False, 1), "32 07 0001 74 0001 00 78"),
    (MQTTPublishPacket("t", b"\0", 2, True, True, 65_535), "3d 07 0001 74 ffff 00 00"),
    (MQTTPublishPacket("", b"x", properties=MQTTPublishProps(TopicAlias=1)), "30 07 0000 03 230001 78"),
    (MQTTPublishPacket("\ufefft", b"x"), "30 08 0004 efbbbf74 00 78"),
    (MQTTPubAckPacket(1), "40 02 0001"),
    (MQTTPubAckPacket(256, 0x10), "40 03 0100 10"),
    (MQTTPubAckPacket(65_535, 0, MQTTPubAckProps(UserProperty=USER)), f"40 0b ffff 00 07 {USER_HEX}"),
    (MQTTPubRecPacket(1), "50 02 0001"),
    (MQTTPubRecPacket(1, 0x97), "50 03 0001 97"),
    (MQTTPubRecPacket(1, 0x97, MQTTPubRecProps(ReasonString="r")), "50 08 0001 97 04 1f000172"),
    (MQTTPubRelPacket(255), "62 02 00ff"),
    (MQTTPubRelPacket(255, 0x92), "62 03 00ff 92"),
    (MQTTPubRelPacket(255, 0, MQTTPubRelProps(UserProperty=USER)), f"62 0b 00ff 00 07 {USER_HEX}"),
    (MQTTPubCompPacket(1), "70 02 0001"),
    (MQTTPubCompPacket(1, 0x92), "70 03 0001 92"),
    (MQTTPubCompPacket(1, 0x92, MQTTPubCompProps(UserProperty=USER)), f"70 0b 0001 92 07 {USER_HEX}"),
    (MQTTSubscribePacket(1, (MQTTSubscription("a"),)), "82 07 0001 00 0001 61 02"),
    (
        MQTTSubscribePacket(
            2,
            (MQTTSubscription("a/#", 0, True, True, 2), MQTTSubscription("$share/g/+", 1, retain_handling=1)),
            MQTTSubscribeProps(SubscriptionIdentifier=1),
        ),
        "82 18 0002 020b01 0003 612f23 2c 000a 2473686172652f672f2b 11",
    ),
    (MQTTSubAckPacket(1, (0, 1, 2, 0x80)), "90 07 0001 00 00010280"),
    (MQTTSubAckPacket(1, (0xA2,), MQTTSubAckProps(ReasonString="")), "90 07 0001 03 1f0000 a2"),
    (MQTTUnsubscribePacket(1, ("a", "$share/g/b")), "a2 12 0001 00 0001 61 000a 2473686172652f672f62"),
    (MQTTUnsubscribePacket(1, ("a",), MQTTUnsubscribeProps(UserProperty=USER)), f"a2 0d 0001 07 {USER_HEX} 0001 61"),
    (MQTTUnsubAckPacket(1, (0, 0x11)), "b0 05 0001 00 0011"),
    (MQTTUnsubAckPacket(1, (0x87,), MQTTUnsubAckProps(UserProperty=USER)), f"b0 0b 0001 07 {USER_HEX} 87"),
    (MQTTPingReqPacket(), "c0 00"),
    (MQTTPingRespPacket(), "d0 00"),
    (MQTTDisconnectPacket(), "e0 00"),
    (MQTTDisconnectPacket(0x04), "e0 01 04"),
    (MQTTDisconnectPacket(0, MQTTDisconnectProps(SessionExpiryInterval=0)), "e0 07 00 05 1100000000"),
    (MQTTDisconnectPacket(0x9D, MQTTDisconnectProps(ServerReference="s")), "e0 06 9d 04 1c000173"),
    (MQTTAuthPacket(), "f0 00"),
    (MQTTAuthPacket(0x18, MQTTAuthProps(AuthenticationMethod="m", AuthenticationData=b"")), "f0 09 18 07 1500016d 160000"),
    (MQTTAuthPacket(0, MQTTAuthProps(AuthenticationMethod="m")), "f0 06 00 04 1500016d"),
]

# Other bytes that mean the same: nothing need be left out, and anything may be said at length (sections 3.4 to 3.7, 3.14, 3.15).
LONGER_FORMS: list[tuple[MQTTPacket, str]] = [
    (MQTTPubAckPacket(1), "40 03 0001 00"),
    (MQTTPubAckPacket(1), "40 04 0001 00 00"),
    (MQTTPubRecPacket(1, 0x10), "50 04 0001 10 00"),
    (MQTTPubRelPacket(1), "62 04 0001 00 00"),
    (MQTTPubCompPacket(1), "70 03 0001 00"),
    (MQTTDisconnectPacket(), "e0 01 00"),
    (MQTTDisconnectPacket(), "e0 02 00 00"),
    (MQTTDisconnectPacket(0x8B), "e0 02 8b 00"),
]

MALFORMED = 0x81
PROTOCOL = 0x82
# What a peer may not send, and what our DISCONNECT says to it.
BAD: list[tuple[str, int]] = [
    # CONNECT
    ("10 0d 0004 4d515455 05 00 0000 00 0000", 0x84),
    ("10 0d 0004 4d515454 04 00 0000 00 0000", 0x84),
    ("10 0d 0004 4d515454 05 01 0000 00 0000", MALFORMED),  # reserved flag
    ("10 0d 0004 4d515454 05 08 0000 00 0000", MALFORMED),  # Will QoS without a Will
    ("10 0d 0004 4d515454 05 20 0000 00 0000", MALFORMED),  # Will Retain without a Will
    ("10 13 0004 4d515454 05 1c 0000 00 0000 00 000177 0000", MALFORMED),  # Will QoS 3
    ("10 12 0004 4d515454 05 04 0000 00 0000 00 0000 0000", PROTOCOL),  # empty Will Topic
    ("10 13 0004 4d515454 05 04 0000 00 0000 00 00012b 0000", PROTOCOL),  # wildcard in it
    ("10 16 0004 4d515454 05 04 0000 00 0000 020101 000177 0001ff", 0x99),  # Will Payload is no UTF-8
    ("10 0e 0004 4d515454 05 00 0000 00 0000 00", MALFORMED),  # one byte too many
    ("10 0d 0004 4d515454 05 80 0000 00 0000", MALFORMED),  # no User Name
    ("10 0d 0004 4d515454 05 40 0000 00 0000", MALFORMED),  # no Password
    ("10 0b 0004 4d515454 05 00 0000 00", MALFORMED),  # no Client Identifier
    # CONNACK
    ("20 03 02 00 00", MALFORMED),
    ("20 03 80 00 00", MALFORMED),
    ("20 03 00 01 00", PROTOCOL),
    ("20 03 00 05 00", PROTOCOL),
    ("20 03 00 ff 00", PROTOCOL),
    ("20 02 00 00", MALFORMED),
    ("20 01 00", MALFORMED),
    ("20 00", MALFORMED),
    ("20 04 00 00 00 00", MALFORMED),
    # PUBLISH
    ("30 00", MALFORMED),
    ("30 02 0001", MALFORMED),
    ("30 03 0001 74", MALFORMED),  # no property length
    ("30 04 0002 74 00", MALFORMED),  # topic leads out of the packet
    ("30 05 0003 74 00 78", MALFORMED),
    ("30 06 0001 74 05 0101", MALFORMED),  # properties lead out of the packet
    ("32 05 0001 74 0001", MALFORMED),
    ("32 05 0001 74 0000", MALFORMED),
    ("32 04 0001 74 00", MALFORMED),
    ("32 06 0001 74 0000 00", PROTOCOL),  # packet identifier 0
    ("30 05 0002 612b 00", PROTOCOL),
    ("30 06 0003 612f23 00", PROTOCOL),
    ("30 03 0000 00", PROTOCOL),  # neither topic nor alias
    ("30 05 0000 02 0101", PROTOCOL),
    ("30 07 0001 74 03 230000", 0x94),  # alias 0
    ("30 06 0001 74 02 0b00", PROTOCOL),  # Subscription Identifier 0
    ("30 04 0001 00 00", MALFORMED),  # U+0000
    ("30 06 0003 eda080 00", MALFORMED),  # a surrogate
    ("30 04 0001 ff 00", MALFORMED),
    # PUBACK, PUBREC, PUBREL, PUBCOMP
    *[
        (f"{first_byte} {body}", reason_code)
        for first_byte in ("40", "50", "62", "70")
        for body, reason_code in [
            ("00", MALFORMED),
            ("01 00", MALFORMED),
            ("02 0000", PROTOCOL),
            ("03 0001 01", PROTOCOL),
            ("03 0001 ff", PROTOCOL),
            ("05 0001 00 00 00", MALFORMED),
            ("05 0001 00 01 00", MALFORMED),
            ("05 0001 00 02 00", MALFORMED),
        ]
    ],
    ("40 03 0001 92", PROTOCOL),
    ("50 03 0001 92", PROTOCOL),
    ("62 03 0001 10", PROTOCOL),
    ("70 03 0001 80", PROTOCOL),
    # SUBSCRIBE
    ("82 06 0001 00 0001 61", MALFORMED),  # no options
    ("82 07 0000 00 0001 61 02", PROTOCOL),
    ("82 03 0001 00", PROTOCOL),  # no filter
    ("82 07 0001 00 0001 61 42", MALFORMED),  # reserved bits
    ("82 07 0001 00 0001 61 82", MALFORMED),
    ("82 07 0001 00 0001 61 03", PROTOCOL),  # QoS 3
    ("82 07 0001 00 0001 61 32", PROTOCOL),  # Retain Handling 3
    ("82 06 0001 00 0000 02", PROTOCOL),  # empty filter
    ("82 08 0001 00 0002 612b 02", PROTOCOL),
    ("82 10 0001 00 000a 2473686172652f672f62 06", PROTOCOL),  # No Local with a shared subscription
    ("82 02 0001", MALFORMED),
    # SUBACK, UNSUBACK
    ("90 03 0001 00", PROTOCOL),
    ("90 04 0001 00 03", PROTOCOL),
    ("90 04 0001 00 7f", PROTOCOL),
    ("90 05 0001 00 00 11", PROTOCOL),
    ("90 04 0000 00 00", PROTOCOL),
    ("90 02 0001", MALFORMED),
    ("b0 03 0001 00", PROTOCOL),
    ("b0 04 0001 00 01", PROTOCOL),
    ("b0 04 0001 00 7f", PROTOCOL),
    ("b0 04 0000 00 00", PROTOCOL),
    ("b0 01 00", MALFORMED),
    # UNSUBSCRIBE
    ("a2 03 0001 00", PROTOCOL),
    ("a2 05 0001 00 0000", PROTOCOL),
    ("a2 07 0001 00 0002 2361", PROTOCOL),
    ("a2 06 0000 00 0001 61", PROTOCOL),
    ("a2 06 0001 00 0002 61", MALFORMED),
    # PINGREQ, PINGRESP
    ("c0 01 00", MALFORMED),
    ("d0 01 00", MALFORMED),
    # DISCONNECT
    ("e0 01 01", PROTOCOL),
    ("e0 01 10", PROTOCOL),
    ("e0 03 00 00 00", MALFORMED),
    ("e0 02 00 01", MALFORMED),
    # AUTH
    ("f0 01 18", MALFORMED),  # no property length
    ("f0 02 18 00", PROTOCOL),  # no method
    ("f0 02 00 00", PROTOCOL),
    ("f0 06 01 04 1500016d", PROTOCOL),
    ("f0 06 80 04 1500016d", PROTOCOL),
    ("f0 07 18 04 1500016d 00", MALFORMED),
]

LEGAL_FIRST_BYTES = {
    0x10,
    0x20,
    *range(0x30, 0x36),
    *range(0x3A, 0x3E),
    0x40,
    0x50,
    0x62,
    0x70,
    0x82,
    0x90,
    0xA2,
    0xB0,
    0xC0,
    0xD0,
    0xE0,
    0xF0,
}


def decode(data: bytes) -> MQTTPacket:
    decoded = decode_packet(data)
    assert decoded is not None
    packet, offset = decoded
    assert offset == len(data)
    return packet


def identity(entry: object) -> str:
    return entry.replace(" ", "") if isinstance(entry, str) else type(entry).__name__


# ---------------------------------------------------------------------------------------------------------- wire format


@pytest.mark.spec(
    "MQTT-2.1.3-1",
    "MQTT-2.2.1-2",
    "MQTT-2.2.2-1",
    "MQTT-3.1.2-1",
    "MQTT-3.1.2-9",
    "MQTT-3.1.2-11",
    "MQTT-3.1.2-13",
    "MQTT-3.1.2-16",
    "MQTT-3.1.2-17",
    "MQTT-3.1.2-18",
    "MQTT-3.1.2-19",
    "MQTT-3.1.3-1",
    "MQTT-3.1.3-3",
    "MQTT-3.3.1-1",
    "MQTT-3.3.2-1",
    "MQTT-3.6.1-1",
    "MQTT-3.8.1-1",
    "MQTT-3.8.3-5",
    "MQTT-3.10.1-1",
    "MQTT-3.14.1-1",
    "MQTT-3.15.1-1",
    "MQTT-3.4.2.1",
    "MQTT-4.8.2",
)
@pytest.mark.parametrize(("packet", "encoded"), PACKETS, ids=identity)
def test_packets_are_written_as_the_standard_says_and_come_back(packet: MQTTPacket, encoded: str) -> None:
    data = bytes.fromhex(encoded)
    assert packet.encode() == data
    assert decode(data) == packet
    assert decode(data).encode() == data


@pytest.mark.spec("MQTT-3.4.2.1")
@pytest.mark.parametrize(("packet", "encoded"), LONGER_FORMS, ids=identity)
def test_what_may_be_left_out_may_be_there(packet: MQTTPacket, encoded: str) -> None:
    assert decode(bytes.fromhex(encoded)) == packet


@pytest.mark.parametrize(("packet", "encoded"), PACKETS, ids=identity)
def test_a_packet_is_found_in_any_buffer(packet: MQTTPacket, encoded: str) -> None:
    data = bytes.fromhex(encoded)
    for buffer in (bytes, bytearray, memoryview):
        assert decode_packet(buffer(b"?" + data + b"\xff?"), 1) == (packet, 1 + len(data))
    # The decoders by first byte find it in the middle as well.
    assert DECODERS[data[0]](b"?" + data + b"\xff?", 3, 1 + len(data), data[0]) == packet


@pytest.mark.parametrize(("packet", "encoded"), PACKETS, ids=identity)
def test_an_incomplete_packet_is_waited_for(packet: MQTTPacket, encoded: str) -> None:
    data = bytes.fromhex(encoded)
    for end in range(len(data)):
        assert decode_packet(data[:end]) is None


@pytest.mark.parametrize(("packet", "encoded"), PACKETS, ids=identity)
def test_a_packet_that_ends_too_early_is_malformed(packet: MQTTPacket, encoded: str) -> None:
    whole = bytes.fromhex(encoded)
    # What may be left out is left out in some of these, and lists of reason codes may end anywhere.
    for length in range(len(whole) - 2):
        for rest in (b"", whole[2 + length :], b"\0" * 8):
            data = bytes((whole[0], length)) + whole[2 : 2 + length] + rest
            try:
                decoded = decode_packet(data)
            except ProtocolError:
                continue
            assert decoded is not None
            assert decoded[1] == 2 + length
            assert decoded[0].encode()[:2] == data[:2] or isinstance(
                packet, (MQTTPublishPacket, MQTTPubAckPacket, MQTTPubRecPacket, MQTTPubRelPacket, MQTTPubCompPacket, MQTTDisconnectPacket)
            )


@pytest.mark.parametrize("size", [0, 1, 120, 121, 16_376, 16_377, 2_097_144, 2_097_145])
def test_remaining_length_takes_as_few_bytes_as_it_can(size: int) -> None:
    packet = MQTTPublishPacket("topic", b"x" * (size), 0)
    data = packet.encode()
    remaining = size + 8
    assert len(data) - remaining == 1 + (1 if remaining < 128 else 2 if remaining < 16_384 else 3 if remaining < 2_097_152 else 4)
    assert decode(data) == packet


@pytest.mark.spec("MQTT-1.5.5-1", "MQTT-1.5.5")
@pytest.mark.parametrize("length", ["8000", "848000", "ff808000", "ffffffff7f", "ffffffff", "80808080"])
def test_a_bad_remaining_length_is_malformed(length: str) -> None:
    with pytest.raises(MalformedPacketError) as caught:
        decode_packet(b"\x30" + bytes.fromhex(length))
    assert caught.value.reason_code == 0x81


def test_a_remaining_length_that_is_not_complete_is_waited_for() -> None:
    for data in (b"", b"\x30", b"\x30\xff", b"\x30\xff\xff", b"\x30\xff\xff\xff", b"\x30\xff\xff\xff\x7f", b"\x30\x80\x01"):
        assert decode_packet(data) is None


@pytest.mark.spec("MQTT-3.1.2-24")
def test_a_packet_larger_than_agreed_is_refused_before_it_has_arrived() -> None:
    data = MQTTPublishPacket("t", b"x" * 200).encode()
    assert decode_packet(data, packet_size_max=len(data)) is not None
    for part in (data, data[:3]):
        with pytest.raises(ProtocolError, match=f"packet of {len(data)} bytes is larger than {len(data) - 1}") as caught:
            decode_packet(part, packet_size_max=len(data) - 1)
        assert caught.value.reason_code == 0x95


@pytest.mark.spec(
    "MQTT-1.5.4-1",
    "MQTT-1.5.4-2",
    "MQTT-2.2.1-3",
    "MQTT-3.2.2-1",
    "MQTT-3.2.2-8",
    "MQTT-3.3.2-1",
    "MQTT-3.3.2-2",
    "MQTT-3.3.2-8",
    "MQTT-3.4.2-1",
    "MQTT-3.5.2-1",
    "MQTT-3.6.2-1",
    "MQTT-3.7.2-1",
    "MQTT-3.9.3-2",
    "MQTT-3.11.3-2",
    "MQTT-3.14.2-1",
    "MQTT-3.15.2-1",
    "MQTT-3.1.2.11.10",
)
@pytest.mark.parametrize(("encoded", "reason_code"), BAD, ids=identity)
def test_what_a_peer_may_not_send_has_a_reason_code(encoded: str, reason_code: int) -> None:
    data = bytes.fromhex(encoded)
    for rest in (b"", b"\0" * 8, b"\xff" * 8):
        with pytest.raises(ProtocolError) as caught:
            decode_packet(data + rest)
        assert caught.value.reason_code == reason_code, caught.value
        assert isinstance(caught.value, MalformedPacketError) is (reason_code == 0x81)


@pytest.mark.spec(
    "MQTT-2.1.3-1",
    "MQTT-3.3.1-2",
    "MQTT-3.3.1-4",
    "MQTT-3.6.1-1",
    "MQTT-3.8.1-1",
    "MQTT-3.10.1-1",
    "MQTT-3.14.1-1",
    "MQTT-3.15.1-1",
)
def test_illegal_first_bytes_are_malformed() -> None:
    assert len(DECODERS) == 256
    for first_byte in set(range(256)) - LEGAL_FIRST_BYTES:
        with pytest.raises(MalformedPacketError, match=f"0x{first_byte:02X}"):
            decode_packet(bytes((first_byte, 0)))
        if first_byte >> 4 == PacketType.PUBLISH:
            with pytest.raises(MalformedPacketError, match=f"0x{first_byte:02X}"):
                decode_publish(b"\0\1t\0\1\0", 0, 6, first_byte)


@pytest.mark.spec(
    "MQTT-3.2.2-8",
    "MQTT-3.4.2-1",
    "MQTT-3.9.3-2",
    "MQTT-3.11.3-2",
    "MQTT-3.14.2-1",
    "MQTT-3.15.2-1",
    "MQTT-2.4",
    "MQTT-3.5.2-1",
    "MQTT-3.6.2-1",
    "MQTT-3.7.2-1",
)
def test_every_reason_code_in_every_packet() -> None:
    method = bytes.fromhex("04 1500016d")
    bodies: dict[int, tuple[int, bytes, bytes]] = {
        PacketType.CONNACK: (0x20, b"\0", b"\0"),
        PacketType.PUBACK: (0x40, b"\0\1", b""),
        PacketType.PUBREC: (0x50, b"\0\1", b"\0"),
        PacketType.PUBREL: (0x62, b"\0\1", b""),
        PacketType.PUBCOMP: (0x70, b"\0\1", b"\0"),
        PacketType.SUBACK: (0x90, b"\0\1\0", b""),
        PacketType.UNSUBACK: (0xB0, b"\0\1\0", b""),
        PacketType.DISCONNECT: (0xE0, b"", b""),
        PacketType.AUTH: (0xF0, b"", method),
    }
    assert set(bodies) == set(REASON_CODES)
    for packet_type, (first_byte, before, after) in bodies.items():
        for code in range(256):
            body = before + bytes((code,)) + after
            data = bytes((first_byte, len(body))) + body
            if code in REASON_CODES[packet_type]:
                packet: Any = decode(data)
                assert code in getattr(packet, "reason_codes", ()) or packet.reason_code == code
                assert decode(packet.encode()) == packet
            else:
                with pytest.raises(ProtocolError, match=f"0x{code:02X}") as caught:
                    decode(data)
                assert caught.value.reason_code == 0x82


@pytest.mark.spec("MQTT-3.2.2-6")
def test_a_refusal_with_session_present_is_a_refusal() -> None:
    assert decode(bytes.fromhex("20 03 01 87 00")) == MQTTConnAckPacket(0x87, True)


@pytest.mark.spec("MQTT-1.5.4-3")
def test_a_byte_order_mark_is_a_character() -> None:
    packet = decode(bytes.fromhex("30 08 0004 efbbbf74 00 78"))
    assert isinstance(packet, MQTTPublishPacket)
    assert packet.topic == "\ufefft"


@pytest.mark.spec("MQTT-3.3.2.3.2")
def test_a_payload_that_is_not_what_it_says_is_decoded() -> None:
    """Section 3.3.2.3.2: the receiver may answer 0x99; that is not the decoder's decision."""
    data = bytes.fromhex("30 07 0001 74 02 0101 ff")
    packet = decode(data)
    assert packet == MQTTPublishPacket("t", b"\xff", properties=MQTTPublishProps(PayloadFormatIndicator=1))
    with pytest.raises(ArgumentError, match="payload: PayloadFormatIndicator is 1, but byte 0 is no UTF-8"):
        packet.encode()
    assert MQTTPublishPacket("t", "é".encode(), properties=MQTTPublishProps(PayloadFormatIndicator=1)).encode()


# -------------------------------------------------------------------------------------------------------------- PUBLISH


def test_decode_publish_makes_any_record() -> None:
    data = bytes.fromhex("0001 74 0007 00 78")
    assert decode_publish(data, 0, len(data), 0x3B) == MQTTPublishPacket("t", b"x", 1, True, True, 7)
    assert decode_publish(data, 0, len(data), 0x3B, lambda *fields: fields) == ("t", b"x", 1, True, True, 7, MQTTPublishProps.EMPTY)

    class Message(MQTTPublishPacket):
        __slots__ = ("seen",)

    message = decode_publish(data, 0, len(data), 0x34, Message)
    assert type(message) is Message
    assert message == Message("t", b"x", 2, False, False, 7)
    assert message != MQTTPublishPacket("t", b"x", 2, False, False, 7)
    assert repr(message).startswith("Message(topic='t', payload=b'x', qos=2, ")


def test_topic_caches_are_bounded_and_hold_valid_names_only() -> None:
    for cache in (decoded_topics, encoded_topics):
        cache.clear()
    for number in range(4_096):
        decoded_topics[f"topic/{number}".encode()] = f"topic/{number}"
        encoded_topics[f"topic/{number}"] = b""
    for number in range(4_096, 4_100):
        packet = MQTTPublishPacket(f"topic/{number}")
        assert decode(packet.encode()) == packet
    assert len(decoded_topics) == len(encoded_topics) == 4
    long = MQTTPublishPacket("é" * 200)
    assert decode(long.encode()) == long
    assert decode(long.encode()) == long
    assert len(decoded_topics) == len(encoded_topics) == 4
    for bad in ("a/+", "#", ""):
        with pytest.raises(ArgumentError):
            MQTTPublishPacket(bad).encode()
        with pytest.raises(ProtocolError):
            decode(bytes((0x30, len(bad) + 3, 0, len(bad))) + bad.encode() + b"\0")
    assert set(decoded_topics.values()) == set(encoded_topics) == {f"topic/{number}" for number in range(4_096, 4_100)}
    for cache in (decoded_topics, encoded_topics):
        cache.clear()


def test_a_cached_topic_does_not_hide_that_a_packet_is_cut_short() -> None:
    data = MQTTPublishPacket("cached/topic", b"payload").encode()
    decode(data)
    for length in range(14):
        with pytest.raises(MalformedPacketError):
            decode_publish(data, 2, 2 + length, 0x30)


@pytest.mark.parametrize("payload", [bytearray(b"xy"), memoryview(b"xy"), memoryview(b"yx")[::-1]])
def test_any_buffer_can_be_a_payload(payload: Any) -> None:
    assert MQTTPublishPacket("t", payload).encode() == bytes.fromhex("30 06 0001 74 00 7879")


def test_a_packet_longer_than_the_standard_allows_is_refused() -> None:
    class Endless(bytes):
        """Says that it is long without being it: a real payload of 256 MiB would make the test slow."""

        def __len__(self) -> int:
            return VARINT_MAX

    with pytest.raises(ArgumentError, match=f"packet of {VARINT_MAX + 4} bytes is longer than {VARINT_MAX}"):
        ohmqtt.packet.fields.encode_packet(0x30, b"\0\1t\0", Endless())


# -------------------------------------------------------------------------------------------- arguments that are refused

OTHER: Any = MQTTConnectProps.EMPTY
WRONG: Any = "wrong"

REFUSED: list[tuple[MQTTPacket, str]] = [
    (MQTTConnectPacket("a\0"), r"client_id: text holds U\+0000"),
    (MQTTConnectPacket(WRONG, clean_start=WRONG), "clean_start: True or False expected, got 'wrong'"),
    (MQTTConnectPacket(keep_alive=65_536), "keep_alive: 65536 is out of range, 0 to 65535"),
    (MQTTConnectPacket(keep_alive=-1), "keep_alive: -1 is out of range"),
    (MQTTConnectPacket(will=WRONG), "will: MQTTWill expected, got str"),
    (MQTTConnectPacket(user_name="\ud800"), "user_name: text holds a lone surrogate"),
    (MQTTConnectPacket(password=b"x" * 65_536), "password: up to 65535 bytes expected"),
    (MQTTConnectPacket(password=WRONG), "password: up to 65535 bytes expected"),
    (MQTTConnectPacket(properties=MQTTWillProps.EMPTY), "properties: MQTTConnectProps expected, got MQTTWillProps"),  # type: ignore[arg-type]
    (MQTTConnAckPacket(1), "reason_code: 0x01 Granted QoS 1 is no reason code of CONNACK"),
    (MQTTConnAckPacket(0x87, True), "session_present: not allowed with 0x87 Not authorized"),
    (MQTTConnAckPacket(0, WRONG), "session_present: True or False expected"),
    (MQTTConnAckPacket(0, properties=OTHER), "properties: MQTTConnAckProps expected"),
    (MQTTPublishPacket(""), "topic name is empty"),
    (MQTTPublishPacket("", properties=MQTTPublishProps(PayloadFormatIndicator=1)), "topic name is empty"),
    (MQTTPublishPacket("a/+"), "'a/\\+' holds a wildcard"),
    (MQTTPublishPacket("a\0"), r"topic: text holds U\+0000"),
    (MQTTPublishPacket("\ud800"), "topic: text holds a lone surrogate"),
    (MQTTPublishPacket("x" * 65_536), "topic: text of 65536 bytes"),
    (MQTTPublishPacket(1), "topic: str expected, got int"),  # type: ignore[arg-type]
    (MQTTPublishPacket([]), "topic, qos, retain or dup: .*unhashable"),  # type: ignore[arg-type]
    (MQTTPublishPacket("t", WRONG), "payload: bytes expected, got str"),
    (MQTTPublishPacket("t", b"", 3), "qos 3, retain False, dup False"),
    (MQTTPublishPacket("t", b"", -1), "qos -1"),
    (MQTTPublishPacket("t", b"", 0, dup=True), "dup not with 0 expected"),
    (MQTTPublishPacket("t", b"", 0, retain=2), "retain 2"),  # type: ignore[arg-type]
    (MQTTPublishPacket("t", b"", 1), "packet_id: 0 is out of range, 1 to 65535"),
    (MQTTPublishPacket("t", b"", 2, packet_id=65_536), "packet_id: 65536 is out of range"),
    (MQTTPublishPacket("t", b"", 2, packet_id=WRONG), "packet_id: 'wrong' is out of range"),
    (MQTTPublishPacket("t", packet_id=1), "packet_id: 0 expected with QoS 0, got 1"),
    (MQTTPublishPacket("t", properties=OTHER), "properties: MQTTPublishProps expected, got MQTTConnectProps"),
    (MQTTPubAckPacket(0), "packet_id: 0 is out of range"),
    (MQTTPubAckPacket(1, 0x92), "reason_code: 0x92 Packet identifier not found is no reason code of PUBACK"),
    (MQTTPubRecPacket(65_536), "packet_id: 65536 is out of range"),
    (MQTTPubRecPacket(1, 1, MQTTPubRecProps(ReasonString="x")), "reason_code: 0x01"),
    (MQTTPubRelPacket(1, 0x80), "reason_code: 0x80 Unspecified error is no reason code of PUBREL"),
    (MQTTPubRelPacket(1, WRONG), "reason_code: integer expected, got 'wrong'"),
    (MQTTPubCompPacket(1, 0, OTHER), "properties: MQTTPubCompProps expected"),
    (MQTTSubscribePacket(0, (MQTTSubscription("a"),)), "packet_id: 0"),
    (MQTTSubscribePacket(1, ()), "subscriptions: at least one expected"),
    (MQTTSubscribePacket(1, WRONG), "subscriptions: MQTTSubscription expected, got str"),
    (MQTTSubscribePacket(1, (MQTTSubscription("a"),), OTHER), "properties: MQTTSubscribeProps expected"),
    (MQTTSubAckPacket(0, (0,)), "packet_id: 0"),
    (MQTTSubAckPacket(1, ()), "reason_codes: at least one expected"),
    (MQTTSubAckPacket(1, (0, 3)), "reason_code: 0x03 unknown reason code is no reason code of SUBACK"),
    (MQTTSubAckPacket(1, (0,), OTHER), "properties: MQTTSubAckProps expected"),
    (MQTTUnsubscribePacket(0, ("a",)), "packet_id: 0"),
    (MQTTUnsubscribePacket(1, ()), r"at least one filter expected, got \(\)"),
    (MQTTUnsubscribePacket(1, WRONG), "at least one filter expected, got 'wrong'"),
    (MQTTUnsubscribePacket(1, ("a", "b#")), "'b#' has a # that isn't a whole level"),
    (MQTTUnsubscribePacket(1, ("a\0",)), r"topic_filter: text holds U\+0000"),
    (MQTTUnsubscribePacket(1, ("a",), OTHER), "properties: MQTTUnsubscribeProps expected"),
    (MQTTUnsubAckPacket(0, (0,)), "packet_id: 0"),
    (MQTTUnsubAckPacket(1, (1,)), "reason_code: 0x01 .* UNSUBACK"),
    (MQTTUnsubAckPacket(1, (0,), OTHER), "properties: MQTTUnsubAckProps expected"),
    (MQTTDisconnectPacket(0x10), "reason_code: 0x10 .* DISCONNECT"),
    (MQTTDisconnectPacket(0, OTHER), "properties: MQTTDisconnectProps expected"),
    (MQTTAuthPacket(0x80), "reason_code: 0x80 .* AUTH"),
    (MQTTAuthPacket(0x18), "AUTH needs an AuthenticationMethod"),
    (MQTTAuthPacket(0, MQTTAuthProps(UserProperty=USER)), "AUTH needs an AuthenticationMethod"),
    (MQTTAuthPacket(0, OTHER), "properties: MQTTAuthProps expected"),
]


@pytest.mark.spec(
    "MQTT-1.5.4-1",
    "MQTT-1.5.4-2",
    "MQTT-2.2.1-2",
    "MQTT-2.2.1-3",
    "MQTT-3.1.3-4",
    "MQTT-3.1.3-12",
    "MQTT-3.3.1-2",
    "MQTT-3.3.1-4",
    "MQTT-3.3.2-2",
    "MQTT-3.4.2-1",
    "MQTT-3.8.3-2",
    "MQTT-3.10.3-1",
    "MQTT-3.10.3-2",
    "MQTT-4.7.3-1",
    "MQTT-4.7.3-2",
    "MQTT-4.7.3-3",
)
@pytest.mark.parametrize(("packet", "message"), REFUSED, ids=identity)
def test_encode_refuses_what_the_standard_forbids(packet: MQTTPacket, message: str) -> None:
    with pytest.raises(ArgumentError, match=message) as caught:
        packet.encode()
    assert len(str(caught.value)) < 300


def test_the_base_of_all_records_is_no_packet() -> None:
    with pytest.raises(NotImplementedError):
        MQTTPacket().encode()


# ---------------------------------------------------------------------------------------------------- filters and wills


@pytest.mark.spec("MQTT-3.1.2-12", "MQTT-3.1.3-11", "MQTT-4.7.0-1", "MQTT-4.7.3-1")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("",), "will: topic name is empty"),
        (("a/#",), "will: topic name 'a/#' holds a wildcard"),
        (("a\0",), r"will topic: text holds U\+0000"),
        (("\ud800",), "will topic: text holds a lone surrogate"),
        (("x" * 65_536,), "will topic: text of 65536 bytes"),
        (("t", b"", -1), "will qos: -1 is none of 0, 1, 2"),
        ((1,), "will topic: str expected"),
        (("t", "text"), "will payload: bytes expected, got str"),
        (("t", b"x" * 65_536), "will payload: binary data of 65536 bytes"),
        (("t", b"", 3), "will qos: 3 is none of 0, 1, 2"),
        (("t", b"", 0, 2), "will retain: True or False expected, got 2"),
        (("t", b"", 0, False, MQTTPublishProps.EMPTY), "properties: MQTTWillProps expected, got MQTTPublishProps"),
        (("t", b"\xff", 0, False, MQTTWillProps(PayloadFormatIndicator=1)), "will payload: PayloadFormatIndicator is 1"),
    ],
)
def test_a_bad_will_is_refused_at_once(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        MQTTWill(*arguments)


def test_a_will_copies_its_payload() -> None:
    buffer: Any = bytearray(b"ab")
    will = MQTTWill("t", buffer)
    buffer[0] = 0
    assert will.payload == b"ab"
    assert MQTTWill("t", "é".encode(), properties=MQTTWillProps(PayloadFormatIndicator=1)).payload == b"\xc3\xa9"


GOOD_FILTERS = [
    "a",
    "/",
    "//",
    "+",
    "#",
    "/#",
    "+/+",
    "a/+/b",
    "a//#",
    "$SYS/#",
    "$share",
    "$share/g/#",
    "$share/g//",
    "$shared/x",
    "$share/g/+/+",
    "é/ ",
]
BAD_FILTERS = [
    *("", "a#", "#/a", "a/#/b", "##", "a+", "+a", "+a/b", "a/b+/c", "#+", "$share/", "$share/g", "$share//", "$share//t", "$share/g/"),
    *("$share/+/t", "$share/#/t", "$share/a+/t", "$share/g/a#", "$share/g/#/a", "$share/g/+a", "a\0b", "\ud800", "x" * 65_536),
]


@pytest.mark.spec("MQTT-3.8.3-1", "MQTT-4.7.1-1", "MQTT-4.7.1-2", "MQTT-4.7.3-1", "MQTT-4.7.3-2", "MQTT-4.8.2-1", "MQTT-4.8.2-2")
@pytest.mark.parametrize("topic_filter", GOOD_FILTERS)
def test_good_filters(topic_filter: str) -> None:
    assert MQTTSubscription(topic_filter).topic_filter == topic_filter
    assert validate_topic_filter(topic_filter)
    packet = MQTTUnsubscribePacket(1, (topic_filter,))
    assert decode(packet.encode()) == packet


@pytest.mark.spec(
    "MQTT-3.8.3-1", "MQTT-4.7.1-1", "MQTT-4.7.1-2", "MQTT-4.7.3-1", "MQTT-4.7.3-2", "MQTT-4.8.2-1", "MQTT-4.8.2-2", "MQTT-3.10.3-1"
)
@pytest.mark.parametrize("topic_filter", BAD_FILTERS)
def test_bad_filters(topic_filter: str) -> None:
    with pytest.raises(ArgumentError):
        MQTTSubscription(topic_filter)
    with pytest.raises(ArgumentError):
        MQTTUnsubscribePacket(1, (topic_filter,)).encode()
    with pytest.raises(ArgumentError):
        validate_topic_filter(topic_filter)


def test_packets_and_the_topic_room_agree_on_every_short_text() -> None:
    """Packets come before topics in the order of the rooms, and so each has the rules; here they are held together."""
    texts = [""]
    for _ in range(4):
        texts += [text + letter for text in texts for letter in "a/+#"]
    for text in sorted({*texts, *[f"$share/{text}" for text in texts]}):
        assert accepts(MQTTSubscription, text) == accepts(validate_topic_filter, text), text
        assert accepts(MQTTWill, text) == accepts(validate_topic_name, text), text


def accepts(check: Any, text: str) -> bool:
    try:
        check(text)
    except ArgumentError:
        return False
    return True


@pytest.mark.spec("MQTT-3.8.3-4", "MQTT-3.8.3.1")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a", 3), "max_qos: 3 is none of 0, 1, 2"),
        (("a", "1"), "max_qos: '1' is none of 0, 1, 2"),
        (("a", 0, 2), "no_local: True or False expected"),
        (("a", 0, False, None), "retain_as_published: True or False expected"),
        (("a", 0, False, False, 3), "retain_handling: 3 is none of 0, 1, 2"),
        (("$share/g/a", 0, True), "no_local: not allowed with the shared subscription"),
    ],
)
def test_bad_subscription_options_are_refused_at_once(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        MQTTSubscription(*arguments)


@pytest.mark.spec("MQTT-3.3.1-9", "MQTT-3.3.1-10", "MQTT-3.3.1-11", "MQTT-3.8.3-5")
def test_subscription_options_are_written_as_asked() -> None:
    for options in range(0x30):
        max_qos, no_local, as_published, handling = options & 3, bool(options & 4), bool(options & 8), options >> 4
        if max_qos < 3:
            subscription = MQTTSubscription("a", max_qos, no_local, as_published, handling)
            assert subscription.encode() == b"\0\1a" + bytes((options,))


# ------------------------------------------------------------------------------------------------------ records as values


@pytest.mark.parametrize(("packet", "encoded"), PACKETS, ids=identity)
def test_records_can_be_compared_copied_pickled_and_shown(packet: MQTTPacket, encoded: str) -> None:
    for other in (copy.copy(packet), copy.deepcopy(packet), pickle.loads(pickle.dumps(packet))):
        assert other == packet
        assert repr(other) == repr(packet)
    assert repr(packet).startswith(type(packet).__name__ + "(")
    assert not hasattr(packet, "__dict__")
    assert packet != encoded
    with pytest.raises(TypeError, match="unhashable"):
        hash(packet)
    assert [entry for entry, _ in PACKETS if entry == packet] == [packet]


def test_a_record_shows_its_fields_and_never_a_password() -> None:
    assert repr(MQTTPubAckPacket(1, 0x10)) == "MQTTPubAckPacket(packet_id=1, reason_code=16, properties=MQTTPubAckProps())"
    shown = repr(MQTTConnectPacket("c", user_name="u", password=b"secret"))
    assert "password=..., " in shown
    assert "user_name='u'" in shown
    assert "password=None" in repr(MQTTConnectPacket("c"))


@pytest.mark.parametrize(
    "value",
    [MQTTSubscription("$share/g/a", 1, False, True, 2), MQTTWill("t", b"p", 1, True, MQTTWillProps(UserProperty=USER))],
    ids=identity,
)
def test_filters_and_wills_are_immutable_values(value: Any) -> None:
    name = value._fields[0]
    with pytest.raises(AttributeError, match="is immutable"):
        setattr(value, name, "other")
    with pytest.raises(AttributeError, match="is immutable"):
        delattr(value, name)
    for other in (copy.copy(value), copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert other == value
        assert hash(other) == hash(value)
        assert repr(other) == repr(value)
    assert value != "other"
    assert value != MQTTSubscription("other")


def test_subscription_repr_names_its_options() -> None:
    assert repr(MQTTSubscription("a", 1)) == (
        "MQTTSubscription(topic_filter='a', max_qos=1, no_local=False, retain_as_published=False, retain_handling=0)"
    )
