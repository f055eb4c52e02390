"""Nanoseconds to encode and decode a PUBLISH, beside a codec written by hand for exactly that: ``python3 -m bench.codec``.

The hand-written codec shows what the bytes cost in pure Python. It validates nothing, knows PUBLISH only, and keeps properties in a dict.
The toolkit validates everything: strings, ranges, duplicates, lengths, flags. Each figure is the best of several rounds that alternate
between the two, so that a busy machine disturbs both alike. Targets: at most 2 × without properties, at most 1.7 × with six.
"""

from __future__ import annotations

import argparse
import platform
import timeit
from struct import Struct
from typing import TYPE_CHECKING, Any

from ohmqtt.packet import DECODERS, MQTTPublishPacket, decode_packet
from ohmqtt.property import MQTTPublishProps

if TYPE_CHECKING:
    from collections.abc import Callable

TOPIC = "building/7/floor/3/temperature"
PAYLOAD = b"21.5 degrees centigrade at noon"
SIX: dict[str, Any] = {
    "PayloadFormatIndicator": 1,
    "MessageExpiryInterval": 3600,
    "ContentType": "text/plain; charset=utf-8",
    "ResponseTopic": "building/7/answers",
    "CorrelationData": b"0123456789abcdef",
    "UserProperty": (("sensor", "north wall"),),
}

_H = Struct(">H")
_BH = Struct(">BH")
_BI = Struct(">BI")


class HandPublish:
    """The record that the hand-written codec reads and makes."""

    __slots__ = ("dup", "packet_id", "payload", "properties", "qos", "retain", "topic")

    def __init__(self, topic: str, payload: bytes, qos: int, retain: bool, dup: bool, packet_id: int, properties: dict[str, Any]) -> None:
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.retain = retain
        self.dup = dup
        self.packet_id = packet_id
        self.properties = properties


def hand_varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def hand_properties(properties: dict[str, Any]) -> bytes:
    parts = []
    for name, value in properties.items():
        if name == "PayloadFormatIndicator":
            parts.append(bytes((1, value)))
        elif name == "MessageExpiryInterval":
            parts.append(_BI.pack(2, value))
        elif name == "ContentType":
            text = value.encode()
            parts.append(_BH.pack(3, len(text)) + text)
        elif name == "ResponseTopic":
            text = value.encode()
            parts.append(_BH.pack(8, len(text)) + text)
        elif name == "CorrelationData":
            parts.append(_BH.pack(9, len(value)) + value)
        elif name == "UserProperty":
            for key, item in value:
                key_bytes = key.encode()
                item_bytes = item.encode()
                parts.append(_BH.pack(0x26, len(key_bytes)) + key_bytes + _H.pack(len(item_bytes)) + item_bytes)
    block = b"".join(parts)
    return hand_varint(len(block)) + block


def hand_encode(packet: HandPublish) -> bytes:
    topic = packet.topic.encode()
    body = _H.pack(len(topic)) + topic
    if packet.qos:
        body += _H.pack(packet.packet_id)
    body += hand_properties(packet.properties) if packet.properties else b"\0"
    body += packet.payload
    return bytes((0x30 | packet.dup << 3 | packet.qos << 1 | packet.retain,)) + hand_varint(len(body)) + body


def hand_decode(data: bytes) -> HandPublish:
    first = data[0]
    offset = 1
    length = shift = 0
    while True:
        byte = data[offset]
        offset += 1
        length |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
    end = offset + length
    size = _H.unpack_from(data, offset)[0]
    offset += 2
    topic = data[offset : offset + size].decode()
    offset += size
    qos = first >> 1 & 3
    packet_id = 0
    if qos:
        packet_id = _H.unpack_from(data, offset)[0]
        offset += 2
    properties: dict[str, Any] = {}
    size = data[offset]
    offset += 1
    if size:
        shift = 7
        if size > 127:
            size &= 127
            while True:
                byte = data[offset]
                offset += 1
                size |= (byte & 127) << shift
                if byte < 128:
                    break
                shift += 7
        offset = hand_decode_properties(data, offset, offset + size, properties)
    return HandPublish(topic, data[offset:end], qos, bool(first & 1), bool(first & 8), packet_id, properties)


def hand_decode_properties(data: bytes, offset: int, stop: int, properties: dict[str, Any]) -> int:
    while offset < stop:
        identifier = data[offset]
        offset += 1
        if identifier == 1:
            properties["PayloadFormatIndicator"] = data[offset]
            offset += 1
        elif identifier == 2:
            properties["MessageExpiryInterval"] = int.from_bytes(data[offset : offset + 4], "big")
            offset += 4
        elif identifier == 0x26:
            size = _H.unpack_from(data, offset)[0]
            offset += 2
            key = data[offset : offset + size].decode()
            offset += size
            size = _H.unpack_from(data, offset)[0]
            offset += 2
            properties.setdefault("UserProperty", []).append((key, data[offset : offset + size].decode()))
            offset += size
        else:
            size = _H.unpack_from(data, offset)[0]
            offset += 2
            value = data[offset : offset + size]
            offset += size
            if identifier == 3:
                properties["ContentType"] = value.decode()
            elif identifier == 8:
                properties["ResponseTopic"] = value.decode()
            else:
                properties["CorrelationData"] = value
    return offset


def best(pairs: list[tuple[str, Callable[[], object]]], rounds: int) -> dict[str, float]:
    number = 20_000
    figures = dict.fromkeys([name for name, _ in pairs], float("inf"))
    for _ in range(rounds):
        for name, action in pairs:
            figures[name] = min(figures[name], timeit.timeit(action, number=number) / number * 1e9)
    return figures


def compare(title: str, hand: Callable[[], object], ours: Callable[[], object], target: float, rounds: int) -> None:
    figures = best([("hand", hand), ("ours", ours)], rounds)
    ratio = figures["ours"] / figures["hand"]
    aim = f"target {target}" if target else ""
    print(f"{title:<58} {figures['hand']:7.0f} {figures['ours']:7.0f} {ratio:6.2f}  {aim}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds

    hand_plain = HandPublish(TOPIC, PAYLOAD, 1, False, False, 4711, {})
    hand_six = HandPublish(TOPIC, PAYLOAD, 1, False, False, 4711, SIX)
    plain = MQTTPublishPacket(TOPIC, PAYLOAD, 1, False, False, 4711)
    six = MQTTPublishPacket(TOPIC, PAYLOAD, 1, False, False, 4711, MQTTPublishProps(**SIX))
    plain_bytes = plain.encode()
    six_bytes = hand_encode(hand_six)
    assert hand_encode(hand_plain) == plain_bytes
    assert decode_packet(six_bytes) == (six, len(six_bytes))
    assert hand_decode(six.encode()).properties == {**SIX, "UserProperty": list(SIX["UserProperty"])}

    def decode(data: bytes) -> object:
        # As the session does it: the header was read to find out whether the packet is complete.
        first = data[0]
        length = data[1]
        start = 2
        if length > 127:
            length = length & 127 | data[2] << 7
            start = 3
        return DECODERS[first](data, start, start + length, first)

    print(f"Python {platform.python_version()}, {platform.machine()}; ns, best of {rounds} × 20,000")
    print(f"{'PUBLISH QoS 1':<58} {'hand':>7} {'ours':>7} {'ratio':>6}")
    compare("encode, no properties", lambda: hand_encode(hand_plain), plain.encode, 2, rounds)
    compare(
        "encode, no properties, record made too",
        lambda: hand_encode(HandPublish(TOPIC, PAYLOAD, 1, False, False, 4711, {})),
        lambda: MQTTPublishPacket(TOPIC, PAYLOAD, 1, False, False, 4711).encode(),
        2,
        rounds,
    )
    compare("decode, no properties", lambda: hand_decode(plain_bytes), lambda: decode(plain_bytes), 2, rounds)
    compare("decode, no properties, decode_packet", lambda: hand_decode(plain_bytes), lambda: decode_packet(plain_bytes), 0, rounds)
    compare("encode, six properties", lambda: hand_encode(hand_six), six.encode, 1.7, rounds)
    compare(
        "encode, six properties, record and properties made too",
        lambda: hand_encode(HandPublish(TOPIC, PAYLOAD, 1, False, False, 4711, dict(SIX))),
        lambda: MQTTPublishPacket(TOPIC, PAYLOAD, 1, False, False, 4711, MQTTPublishProps(**SIX)).encode(),
        1.7,
        rounds,
    )
    compare("decode, six properties", lambda: hand_decode(six_bytes), lambda: decode(six_bytes), 1.7, rounds)


if __name__ == "__main__":
    main()
