"""The constants agree with the standard's tables, written down a second time here."""

from __future__ import annotations

import pytest

from ohmqtt.mqtt_spec import (
    CLIENT_REASON_CODES,
    PACKET_ID_MAX,
    PROTOCOL_NAME,
    PROTOCOL_VERSION,
    REASON_CODES,
    SERVER_REASON_CODES,
    STRING_BYTES_MAX,
    UINT32_MAX,
    VARINT_MAX,
    PacketType,
    PropertyId,
    ReasonCode,
    reason_name,
)

# Section 2.4, packet by packet: the code, and who sends it by the tables of chapter 3 (C, S or B for both).
LISTED = {
    "CONNACK": "00S 80S 81S 82S 83S 84S 85S 86S 87S 88S 89S 8AS 8CS 90S 95S 97S 99S 9AS 9BS 9CS 9DS 9FS",
    "PUBACK": "00B 10S 80B 83B 87B 90B 91B 97B 99B",
    "PUBREC": "00B 10S 80B 83B 87B 90B 91B 97B 99B",
    "PUBREL": "00B 92B",
    "PUBCOMP": "00B 92B",
    "SUBACK": "00S 01S 02S 80S 83S 87S 8FS 91S 97S 9ES A1S A2S",
    "UNSUBACK": "00S 11S 80S 83S 87S 8FS 91S",
    "DISCONNECT": "00B 04C 80B 81B 82B 83B 87S 89S 8BS 8CS 8DS 8ES 8FS 90B 93B 94B 95B 96B 97B 98B 99B 9AS 9BS 9CS 9DS 9ES 9FS A0S A1S A2S",
    "AUTH": "00S 18B 19C",
}


def codes_of(packet: str, senders: str) -> set[int]:
    return {int(entry[:2], 16) for entry in LISTED[packet].split() if entry[2] in senders}


@pytest.mark.spec("MQTT-3.4.2-1", "MQTT-3.5.2-1", "MQTT-3.6.2-1", "MQTT-3.7.2-1", "MQTT-3.14.2-1", "MQTT-3.15.2-1")
@pytest.mark.parametrize("packet", LISTED)
def test_reason_codes_are_those_of_the_standard(packet: str) -> None:
    packet_type = PacketType[packet]
    assert REASON_CODES[packet_type] == codes_of(packet, "CSB")
    assert CLIENT_REASON_CODES.get(packet_type, frozenset()) == codes_of(packet, "CB")
    assert SERVER_REASON_CODES.get(packet_type, frozenset()) == codes_of(packet, "SB")


def test_no_table_has_a_packet_that_the_standard_gives_no_reason_code() -> None:
    names = {PacketType(packet_type).name for table in (REASON_CODES, CLIENT_REASON_CODES, SERVER_REASON_CODES) for packet_type in table}
    assert names == set(LISTED)


def test_every_listed_code_has_a_name() -> None:
    assert set().union(*REASON_CODES.values()) == {code.value for code in ReasonCode}


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (0x00, "0x00 Success"),
        (0x02, "0x02 Granted QoS 2"),
        (0x97, "0x97 Quota exceeded"),
        (0x9B, "0x9B QoS not supported"),
        (0x7F, "0x7F unknown reason code"),
    ],
)
def test_reason_codes_have_readable_names(code: int, name: str) -> None:
    assert reason_name(code) == name


def test_packet_types_count_from_connect_to_auth() -> None:
    assert [packet_type.value for packet_type in PacketType] == list(range(1, 16))
    assert [PacketType(1).name, PacketType(15).name] == ["CONNECT", "AUTH"]


def test_property_identifiers_are_unique_and_fit_one_byte() -> None:
    assert len(PropertyId) == 27
    assert all(0 < identifier < 128 for identifier in PropertyId)


def test_limits() -> None:
    assert (PROTOCOL_NAME, PROTOCOL_VERSION) == ("MQTT", 5)
    assert PACKET_ID_MAX == STRING_BYTES_MAX == 2**16 - 1
    assert UINT32_MAX == 2**32 - 1
    assert VARINT_MAX == 2**28 - 1
