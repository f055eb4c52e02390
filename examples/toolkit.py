"""Use the toolkit without any broker: a payload format of your own, and packets to bytes and back.

``ohmqtt.serialization`` has the data types of MQTT (integers, strings, binary data, lengths that grow as they need to); they do for payloads,
too. ``ohmqtt.packet`` makes packets into bytes and bytes into packets, for a proxy, a test, or a look at what is on the wire.

Try it::

    python3 -m examples.toolkit
"""

from __future__ import annotations

from typing import NamedTuple

from ohmqtt.errors import ArgumentError, MalformedPacketError, ProtocolError
from ohmqtt.mqtt_spec import reason_name
from ohmqtt.packet import MQTTPublishPacket, decode_packet
from ohmqtt.property import MQTTPublishProps
from ohmqtt.serialization import (
    decode_binary,
    decode_string,
    decode_uint8,
    decode_uint32,
    decode_varint,
    encode_binary,
    encode_string,
    encode_uint8,
    encode_uint32,
    encode_varint,
)

FORMAT_VERSION = 1


class Reading(NamedTuple):
    """What one sensor measured: the payload of a message."""

    sensor: str
    taken_at_s: int
    samples: tuple[int, ...]
    signature: bytes


def encode_reading(reading: Reading) -> bytes:
    """Version, sensor, time, number of samples, samples, signature. Small numbers take one byte, larger ones up to four."""
    return b"".join(
        (
            encode_uint8(FORMAT_VERSION),
            encode_string(reading.sensor),
            encode_uint32(reading.taken_at_s),
            encode_varint(len(reading.samples)),
            *[encode_varint(sample) for sample in reading.samples],
            encode_binary(reading.signature),
        )
    )


def decode_reading(data: bytes) -> Reading:
    """Each decoder returns the value and where the next one begins, and never reads past ``end``."""
    end = len(data)
    version, offset = decode_uint8(data, 0, end)
    if version != FORMAT_VERSION:
        raise MalformedPacketError(f"a reading of version {version}, {FORMAT_VERSION} expected")
    sensor, offset = decode_string(data, offset, end)
    taken_at_s, offset = decode_uint32(data, offset, end)
    count, offset = decode_varint(data, offset, end)
    samples: list[int] = []
    for _ in range(count):
        sample, offset = decode_varint(data, offset, end)
        samples.append(sample)
    signature, offset = decode_binary(data, offset, end)
    if offset != end:
        raise MalformedPacketError(f"{end - offset} bytes too many after a reading")
    return Reading(sensor, taken_at_s, tuple(samples), signature)


def show_payload(reading: Reading) -> bytes:
    payload = encode_reading(reading)
    print(f"{reading}\n  is {len(payload)} bytes: {payload.hex(' ')}")
    assert decode_reading(payload) == reading
    for damaged in (payload[:-1], b"\x02" + payload[1:]):
        try:
            decode_reading(damaged)
        except MalformedPacketError as error:
            print(f"  damaged: {error}")
    return payload


def show_packets(payload: bytes) -> None:
    properties = MQTTPublishProps(MessageExpiryInterval=3600, UserProperty=[("format", "reading/1")])
    first = MQTTPublishPacket("sensors/attic", payload, qos=1, packet_id=1, properties=properties)
    second = MQTTPublishPacket("sensors/cellar", payload, retain=True)
    # What a network brings: packets end where they like, and the last one isn't complete yet.
    received = first.encode() + second.encode() + first.encode()[:10]
    offset = 0
    while (decoded := decode_packet(received, offset, packet_size_max=65_536)) is not None:
        packet, next_offset = decoded
        print(f"bytes {offset} to {next_offset} are a {packet}")
        offset = next_offset
    print(f"{len(received) - offset} bytes wait for more")


def show_errors() -> None:
    try:
        MQTTPublishPacket("sensors/+", b"", qos=1, packet_id=1).encode()
    except ArgumentError as error:
        print(f"refused before it is sent: {error}")
    try:
        decode_packet(bytes.fromhex("40 03 00 01 92"))
    except ProtocolError as error:
        print(f"refused when it arrives: {error}; the answer is DISCONNECT {reason_name(error.reason_code)}")


def main() -> None:
    payload = show_payload(Reading("attic", 1_750_000_000, (21, 22, 300), b"\x00\xff"))
    show_packets(payload)
    show_errors()


if __name__ == "__main__":
    main()
