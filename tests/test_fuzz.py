"""Whatever bytes arrive: a record that fits the standard, ``None``, or a ``ProtocolError``; never anything else, never for ever.

Valid packets of all kinds with random fields are made, encoded and damaged. They are the same each time, so that a failure is the fault of
the change that is tested; ``OHMQTT_FUZZ_SEED`` names another seed (``OHMQTT_FUZZ_SEED=$RANDOM`` for new packets).
"""

# The seed is printed so that pytest shows it beside a failure; what was caught is looked at where it was caught.
# ruff: noqa: PT017, T201

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING, Any

import pytest

from ohmqtt.errors import ArgumentError, ProtocolError
from ohmqtt.mqtt_spec import REASON_CODES, PacketType, PropertyId
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
)
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
    Properties,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SEED = int(os.environ.get("OHMQTT_FUZZ_SEED") or 0)

ACKNOWLEDGEMENTS: list[tuple[PacketType, type[Any], type[Properties]]] = [
    (PacketType.PUBACK, MQTTPubAckPacket, MQTTPubAckProps),
    (PacketType.PUBREC, MQTTPubRecPacket, MQTTPubRecProps),
    (PacketType.PUBREL, MQTTPubRelPacket, MQTTPubRelProps),
    (PacketType.PUBCOMP, MQTTPubCompPacket, MQTTPubCompProps),
]
CODE_LISTS: list[tuple[PacketType, type[Any], type[Properties]]] = [
    (PacketType.SUBACK, MQTTSubAckPacket, MQTTSubAckProps),
    (PacketType.UNSUBACK, MQTTUnsubAckPacket, MQTTUnsubAckProps),
]
INTEGERS_MAX = {
    **dict.fromkeys(["ServerKeepAlive", "ReceiveMaximum", "TopicAliasMaximum", "TopicAlias"], 65_535),
    **dict.fromkeys(["MessageExpiryInterval", "SessionExpiryInterval", "WillDelayInterval", "MaximumPacketSize"], 4_294_967_295),
    "SubscriptionIdentifier": 268_435_455,
}
BINARIES = {"CorrelationData", "AuthenticationData"}
STRINGS = {
    *("ContentType", "ResponseTopic", "AssignedClientIdentifier", "AuthenticationMethod"),
    *("ResponseInformation", "ServerReference", "ReasonString"),
}
LETTERS = "abcdefgh/$ é€𝄞\ufeff\x01\x7f"


class Maker:
    """Makes random legal packets."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def text(self, length_min: int = 0) -> str:
        length = self.random.choice((length_min, 1, 2, 5, 12)) if self.random.random() < 0.98 else self.random.randrange(100, 300)
        return "".join(self.random.choices(LETTERS, k=length))

    def data(self) -> bytes:
        return self.random.randbytes(self.random.choice((0, 1, 3, 10)) if self.random.random() < 0.98 else 200)

    def integer(self, maximum: int) -> int:
        return self.random.choice((1, maximum, self.random.randrange(1, maximum + 1), self.random.randrange(1, min(maximum, 300) + 1)))

    def topic(self) -> str:
        return self.text(1)

    def topic_filter(self) -> str:
        levels = self.random.choices(["a", "b", "+", "", "é", "c d"], k=self.random.randrange(1, 5))
        if self.random.random() < 0.3:
            levels.append("#")
        if self.random.random() < 0.2:
            levels[:0] = ["$share", "group"]
        return "/".join(levels) if levels not in ([""], ["$share", "group", ""]) else "a"

    def value(self, name: str) -> Any:
        if name == "UserProperty":
            return [(self.text(), self.text()) for _ in range(self.random.randrange(1, 4))]
        if name == "ResponseTopic":
            return self.topic()
        if name in STRINGS:
            return self.text()
        if name in BINARIES:
            return self.data()
        if name in INTEGERS_MAX:
            return self.integer(INTEGERS_MAX[name])
        return self.random.randrange(2)

    def properties(self, cls: type[Any], *, always: tuple[str, ...] = ()) -> Any:
        if self.random.random() < 0.3 and not always:
            return cls.EMPTY
        names = [identifier.name for identifier in PropertyId if hasattr(cls, identifier.name)]
        chosen = {*self.random.sample(names, self.random.randrange(len(names) + 1)), *always}
        if "AuthenticationData" in chosen:
            chosen.add("AuthenticationMethod")
        values = {name: self.value(name) for name in chosen}
        if cls is MQTTPublishProps and "SubscriptionIdentifier" in chosen and self.random.random() < 0.5:
            values["SubscriptionIdentifier"] = [self.value("SubscriptionIdentifier") for _ in range(3)]
        return cls(**values)

    def reason_code(self, packet_type: PacketType) -> int:
        return self.random.choice(sorted(REASON_CODES[packet_type]))

    def payload(self, properties: Any) -> bytes:
        return self.text().encode() if properties.PayloadFormatIndicator else self.data()

    def connect(self) -> MQTTPacket:
        will = None
        if self.random.random() < 0.5:
            properties = self.properties(MQTTWillProps)
            will = MQTTWill(self.topic(), self.payload(properties), self.random.randrange(3), self.random.random() < 0.5, properties)
        return MQTTConnectPacket(
            self.text(),
            self.random.random() < 0.5,
            self.random.randrange(65_536),
            will,
            self.text() if self.random.random() < 0.5 else None,
            self.data() if self.random.random() < 0.5 else None,
            self.properties(MQTTConnectProps),
        )

    def connack(self) -> MQTTPacket:
        code = self.reason_code(PacketType.CONNACK) if self.random.random() < 0.5 else 0
        return MQTTConnAckPacket(code, not code and self.random.random() < 0.5, self.properties(MQTTConnAckProps))

    def publish(self) -> MQTTPacket:
        qos = self.random.randrange(3)
        properties = self.properties(MQTTPublishProps)
        topic = self.topic() if properties.TopicAlias is None or self.random.random() < 0.5 else ""
        packet_id = self.integer(65_535) if qos else 0
        dup = bool(qos and self.random.random() < 0.5)
        return MQTTPublishPacket(topic, self.payload(properties), qos, self.random.random() < 0.5, dup, packet_id, properties)

    def acknowledgement(self) -> MQTTPacket:
        packet_type, record, cls = self.random.choice(ACKNOWLEDGEMENTS)
        packet: MQTTPacket = record(self.integer(65_535), self.reason_code(packet_type), self.properties(cls))
        return packet

    def subscribe(self) -> MQTTPacket:
        subscriptions: list[MQTTSubscription] = []
        for _ in range(self.random.randrange(1, 4)):
            topic_filter = self.topic_filter()
            no_local = not topic_filter.startswith("$share/") and self.random.random() < 0.5
            retain_as_published = self.random.random() < 0.5
            handling = self.random.randrange(3)
            subscriptions.append(MQTTSubscription(topic_filter, self.random.randrange(3), no_local, retain_as_published, handling))
        return MQTTSubscribePacket(self.integer(65_535), tuple(subscriptions), self.properties(MQTTSubscribeProps))

    def code_list(self) -> MQTTPacket:
        packet_type, record, cls = self.random.choice(CODE_LISTS)
        codes = tuple([self.reason_code(packet_type) for _ in range(self.random.randrange(1, 5))])
        packet: MQTTPacket = record(self.integer(65_535), codes, self.properties(cls))
        return packet

    def unsubscribe(self) -> MQTTPacket:
        filters = tuple([self.topic_filter() for _ in range(self.random.randrange(1, 4))])
        return MQTTUnsubscribePacket(self.integer(65_535), filters, self.properties(MQTTUnsubscribeProps))

    def ping(self) -> MQTTPacket:
        return MQTTPingReqPacket() if self.random.random() < 0.5 else MQTTPingRespPacket()

    def disconnect(self) -> MQTTPacket:
        return MQTTDisconnectPacket(self.reason_code(PacketType.DISCONNECT), self.properties(MQTTDisconnectProps))

    def auth(self) -> MQTTPacket:
        return MQTTAuthPacket(self.reason_code(PacketType.AUTH), self.properties(MQTTAuthProps, always=("AuthenticationMethod",)))

    def packet(self) -> MQTTPacket:
        kinds: list[Callable[[], MQTTPacket]] = [
            *(self.connect, self.connack, self.publish, self.publish, self.acknowledgement, self.acknowledgement, self.subscribe),
            *(self.code_list, self.unsubscribe, self.ping, self.disconnect, self.auth),
        ]
        return self.random.choice(kinds)()

    def damage(self, data: bytes, other: bytes) -> bytes:
        """Return the packet with one to three injuries; mostly with a remaining length that fits, so that they are found further in."""
        body = bytearray(data)
        for _ in range(self.random.randrange(1, 4)):
            position = self.random.randrange(len(body)) if body else 0
            match self.random.randrange(7):
                case 0 if body:
                    body[position] ^= 1 << self.random.randrange(8)
                case 1 if body:
                    body[position] = self.random.choice((0, 1, 2, 0x7F, 0x80, 0xC0, 0xED, 0xFF, self.random.randrange(256)))
                case 2:
                    body[position:position] = self.random.randbytes(self.random.randrange(1, 5))
                case 3:
                    del body[position : position + self.random.randrange(1, 5)]
                case 4:
                    del body[position:]
                case 5:
                    body[position:] = other[self.random.randrange(len(other)) :]
                case _:
                    body[position:position] = body[self.random.randrange(len(body) + 1) :][: self.random.randrange(1, 30)]
        if self.random.random() < 0.8 and len(body) >= 2:
            # What is kept of the old length is now part of the body, or the first byte of it is made the length.
            start = 2 if body[1] < 128 or self.random.random() < 0.1 else 3
            rest = bytes(body[start:])
            length = len(rest)
            header = bytes((length,)) if length < 128 else bytes((length & 127 | 128, length >> 7 & 127)) if length < 16_384 else b"\x01"
            return bytes(body[:1]) + header + rest
        return bytes(body)


def check(data: bytes) -> str:
    """Decode, and if that gives a record, see that it stands for itself. Return what happened."""
    try:
        decoded = decode_packet(data, packet_size_max=100_000)
    except ProtocolError as error:
        assert 0x81 <= error.reason_code <= 0x99
        assert len(str(error)) < 500
        return "refused"
    if decoded is None:
        return "incomplete"
    packet, offset = decoded
    assert 2 <= offset <= len(data)
    repr(packet)
    again = encode(packet)
    if again is not None:
        assert decode_packet(again) == (packet, len(again))
        assert len(again) <= offset
    return "taken"


def encode(packet: MQTTPacket) -> bytes | None:
    """Return what was taken as it would be sent, or None if it is one of the two things that are taken and never sent."""
    try:
        return packet.encode()
    except ArgumentError as error:
        assert str(error).startswith(("session_present: not allowed with", "payload: PayloadFormatIndicator is 1"))
        return None


def mutate(seed: int, count: int) -> dict[str, int]:
    print(f"OHMQTT_FUZZ_SEED={SEED}")
    maker = Maker(seed)
    seen = {"refused": 0, "incomplete": 0, "taken": 0}
    other = b"\xe0\x00"
    while sum(seen.values()) < count:
        data = maker.packet().encode()
        for _ in range(5):
            injured = maker.damage(data, other)
            try:
                seen[check(injured)] += 1
            except BaseException:
                print(f"the packet: {injured.hex()}")
                raise
        other = data
    return seen


@pytest.mark.parametrize("part", range(40))
def test_damaged_packets_are_refused_or_mean_something(part: int) -> None:
    seen = mutate(SEED + part, 500)
    # All three happen often: otherwise the injuries don't reach what they are meant for.
    assert min(seen.values()) > 10, seen


@pytest.mark.slow
@pytest.mark.parametrize("part", range(20))
def test_a_million_damaged_packets_are_refused_or_mean_something(part: int) -> None:
    seen = mutate(SEED + 1_000 + part, 50_000)
    assert min(seen.values()) > 1_000, seen


@pytest.mark.parametrize("part", range(10))
def test_random_packets_come_back_as_they_were(part: int) -> None:
    print(f"OHMQTT_FUZZ_SEED={SEED}")
    maker = Maker(SEED + 2_000 + part)
    for _ in range(200):
        packet = maker.packet()
        data = packet.encode()
        assert decode_packet(data) == (packet, len(data))
        decoded = decode_packet(b"\xff" + data + b"\0", 1)
        assert decoded == (packet, 1 + len(data))
        assert decoded is not None
        assert decoded[0].encode() == data
        assert decode_packet(data[: maker.random.randrange(len(data))]) is None


@pytest.mark.parametrize("part", range(10))
def test_noise_is_refused_by_every_decoder(part: int) -> None:
    print(f"OHMQTT_FUZZ_SEED={SEED}")
    chance = random.Random(SEED + 3_000 + part)
    for _ in range(8):
        for first_byte in range(256):
            body = bytes(chance.choices((0, 0, 0, 1, 1, 2, 3, 5, 8, 0x26, 0x61, 0x1F, 0x80, 0xFF), k=chance.randrange(24)))
            try:
                packet = DECODERS[first_byte](b"??" + body + b"\0\0", 2, 2 + len(body), first_byte)
            except ProtocolError:
                continue
            assert isinstance(packet, MQTTPacket)
            again = encode(packet)
            assert again is None or again[0] == first_byte
