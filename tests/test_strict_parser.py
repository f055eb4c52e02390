"""The strict parser of the tests: it judges alone, and it and the library's codec agree about every packet, right or wrong.

The codec and the parser were written apart from each other, so a rule that one of them has wrong shows as a disagreement. Disagreements
that are meant have a name in ``_MEANT``.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from ohmqtt import packet as packet_module
from ohmqtt import property as properties_module
from ohmqtt.errors import ProtocolError
from tests.strict_parser import (
    KINDS,
    PROPERTIES,
    NotStrictError,
    encode_packet,
    encode_properties,
    parse_packet,
    parse_stream,
    split_packet,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ohmqtt.packet import MQTTPacket
    from tests.strict_parser import WirePacket

# Records are made from tuples of random values, which no type checker can follow.
library: Any = packet_module

_TEXTS = ("a", "sensor/7", "Ω", "\ufeffmark", "日本", "x" * 130, "😀/b")
_FILTERS = ("a", "a/b", "+", "#", "a/+/b", "a/#", "/", "$share/g/a/+", "$SYS/#", "Ω/+")
_PROPERTY_CLASSES = {
    "CONNECT": "Connect", "CONNACK": "ConnAck", "WILL": "Will", "PUBLISH": "Publish", "PUBACK": "PubAck", "PUBREC": "PubRec",
    "PUBREL": "PubRel", "PUBCOMP": "PubComp", "SUBSCRIBE": "Subscribe", "SUBACK": "SubAck", "UNSUBSCRIBE": "Unsubscribe",
    "UNSUBACK": "UnsubAck", "DISCONNECT": "Disconnect", "AUTH": "Auth",
}  # fmt: skip
_CODES = {
    "CONNACK": (0, 0x80, 0x87, 0x9F), "PUBACK": (0, 0x10, 0x80, 0x99), "PUBREC": (0, 0x10, 0x91, 0x97), "PUBREL": (0, 0x92),
    "PUBCOMP": (0, 0x92), "SUBACK": (0, 1, 2, 0x80, 0xA2), "UNSUBACK": (0, 0x11, 0x8F), "DISCONNECT": (0, 4, 0x81, 0xA2), "AUTH": (0, 0x18, 0x19),
}  # fmt: skip


_SUBSCRIPTION_FIELDS = ("topic_filter", "max_qos", "no_local", "retain_as_published", "retain_handling")
_PROPERTY_NAMES = tuple(name for name, _kind, _packets in PROPERTIES.values())


class _Generator:
    """Random packets of the library, and what the strict parser must read from their bytes."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def _properties(self, kind: str) -> tuple[Any, dict[str, Any]]:
        cls: Any = getattr(properties_module, f"MQTT{_PROPERTY_CLASSES[kind]}Props")
        pick = self.random.choice
        values: dict[str, Callable[[], Any]] = {
            "PayloadFormatIndicator": lambda: 1,
            "MessageExpiryInterval": lambda: pick((0, 1, 4_294_967_295)),
            "ContentType": lambda: pick(_TEXTS),
            "ResponseTopic": lambda: pick(_TEXTS),
            "CorrelationData": lambda: pick((b"", b"\x00\xff", b"c" * 300)),
            "SubscriptionIdentifier": lambda: pick((1, 128, 268_435_455)) if kind == "SUBSCRIBE" else pick(((1,), (16_384, 7))),
            "SessionExpiryInterval": lambda: pick((0, 300, 4_294_967_295)),
            "AssignedClientIdentifier": lambda: pick(_TEXTS),
            "ServerKeepAlive": lambda: pick((0, 65_535)),
            "AuthenticationMethod": lambda: pick(_TEXTS),
            "AuthenticationData": lambda: pick((b"", b"\x00" * 20)),
            "RequestProblemInformation": lambda: pick((0, 1)),
            "WillDelayInterval": lambda: pick((0, 5)),
            "RequestResponseInformation": lambda: pick((0, 1)),
            "ResponseInformation": lambda: pick(_TEXTS),
            "ServerReference": lambda: pick(_TEXTS),
            "ReasonString": lambda: pick(_TEXTS),
            "ReceiveMaximum": lambda: pick((1, 65_535)),
            "TopicAliasMaximum": lambda: pick((0, 65_535)),
            "TopicAlias": lambda: pick((1, 65_535)),
            "MaximumQoS": lambda: pick((0, 1)),
            "RetainAvailable": lambda: pick((0, 1)),
            "UserProperty": lambda: pick(((("a", "b"),), (("", ""), ("a", "1"), ("a", "Ω")))),
            "MaximumPacketSize": lambda: pick((1, 4_294_967_295)),
            "WildcardSubscriptionAvailable": lambda: pick((0, 1)),
            "SubscriptionIdentifierAvailable": lambda: pick((0, 1)),
            "SharedSubscriptionAvailable": lambda: pick((0, 1)),
        }
        chance = pick((0.0, 0.3, 1.0))
        chosen = {name: value() for name, value in values.items() if hasattr(cls, name) and self.random.random() < chance}
        if "AuthenticationData" in chosen or kind == "AUTH":
            chosen.setdefault("AuthenticationMethod", "M")
        lists = {"UserProperty", "SubscriptionIdentifier"}
        wire = {name: list(value) if name in lists and isinstance(value, tuple) else value for name, value in chosen.items()}
        return cls(**chosen), wire

    def make(self, kind: str) -> tuple[MQTTPacket, dict[str, Any]]:
        pick = self.random.choice
        made: Any = None
        wire: dict[str, Any] = {}
        if kind in _PROPERTY_CLASSES:
            made, wire = self._properties(kind)
        packet_id = pick((1, 255, 256, 65_535))
        fields: dict[str, Any] = {"properties": wire} if made is not None else {}
        if kind in ("PINGREQ", "PINGRESP"):
            return getattr(library, f"MQTT{kind[:4].capitalize()}{kind[4:].capitalize()}Packet")(), fields
        if kind == "CONNECT":
            return self._connect(made, fields)
        if kind == "CONNACK":
            code = pick(_CODES[kind])
            fields |= {"reason_code": code, "session_present": code == 0 and pick((True, False))}
            return library.MQTTConnAckPacket(code, fields["session_present"], made), fields
        if kind == "PUBLISH":
            qos = pick((0, 1, 2))
            fields |= {
                "topic": pick(("", *_TEXTS)) if "TopicAlias" in wire else pick(_TEXTS),
                "payload": pick((b"", b"text", b"p" * 20_000)),
                "qos": qos,
                "retain": pick((True, False)),
                "dup": qos > 0 and pick((True, False)),
                "packet_id": packet_id if qos else 0,
            }
            return library.MQTTPublishPacket(
                *(fields[name] for name in ("topic", "payload", "qos", "retain", "dup", "packet_id")), made
            ), fields
        if kind == "SUBSCRIBE":
            subscriptions = [
                library.MQTTSubscription(
                    text, pick((0, 1, 2)), pick((True, False)) and not text.startswith("$share/"), pick((True, False)), pick((0, 1, 2))
                )
                for text in self.random.sample(_FILTERS, pick((1, 4)))
            ]
            fields |= {"packet_id": packet_id, "subscriptions": [_plain_record(one, _SUBSCRIPTION_FIELDS) for one in subscriptions]}
            return library.MQTTSubscribePacket(packet_id, tuple(subscriptions), made), fields
        if kind == "UNSUBSCRIBE":
            fields |= {"packet_id": packet_id, "topic_filters": self.random.sample(_FILTERS, pick((1, 4)))}
            return library.MQTTUnsubscribePacket(packet_id, tuple(fields["topic_filters"]), made), fields
        cls: Any = getattr(library, f"MQTT{_PROPERTY_CLASSES[kind]}Packet")
        if kind in ("SUBACK", "UNSUBACK"):
            fields |= {"packet_id": packet_id, "reason_codes": [pick(_CODES[kind]) for _ in range(pick((1, 5)))]}
            return cls(packet_id, tuple(fields["reason_codes"]), made), fields
        fields["reason_code"] = pick(_CODES[kind])
        if kind in ("DISCONNECT", "AUTH"):
            return cls(fields["reason_code"], made), fields
        fields["packet_id"] = packet_id
        return cls(packet_id, fields["reason_code"], made), fields

    def _connect(self, made: Any, fields: dict[str, Any]) -> tuple[MQTTPacket, dict[str, Any]]:
        pick = self.random.choice
        will = None
        fields["will"] = None
        if pick((True, False)):
            will_made, will_wire = self._properties("WILL")
            chosen: dict[str, Any] = {
                "topic": pick(_TEXTS),
                "payload": pick((b"", b"gone")),
                "qos": pick((0, 1, 2)),
                "retain": pick((True, False)),
            }
            will = library.MQTTWill(*chosen.values(), will_made)
            fields["will"] = chosen | {"properties": will_wire}
        fields |= {
            "client_id": pick(("", *_TEXTS)),
            "clean_start": pick((True, False)),
            "keep_alive": pick((0, 60, 65_535)),
            "user_name": pick((None, "", "user")),
            "password": pick((None, b"", b"\x00\xff")),
        }
        names = ("client_id", "clean_start", "keep_alive")
        packet = library.MQTTConnectPacket(*(fields[name] for name in names), will, fields["user_name"], fields["password"], made)
        return packet, fields


def _plain(packet: WirePacket) -> dict[str, Any]:
    """The packet's fields without what the library doesn't keep: the order of properties."""
    fields = {name: value for name, value in packet.fields.items() if name != "property_order"}
    if fields.get("will"):
        fields["will"] = {name: value for name, value in fields["will"].items() if name != "property_order"}
    return fields


@pytest.mark.spec("MQTT-1.5.5-1", "MQTT-2.1.3-1", "MQTT-2.2.1-2", "MQTT-2.2.1-5", "MQTT-2.2.2-1", "MQTT-3.1.3-1", "MQTT-3.6.1-1")
@pytest.mark.parametrize("kind", KINDS[1:])
def test_what_the_library_encodes_is_strict_and_says_the_same(kind: str) -> None:
    generator = _Generator(seed=KINDS.index(kind))
    for _ in range(60):
        packet, fields = generator.make(kind)
        raw = packet.encode()
        parsed = parse_packet(raw)
        assert parsed.kind == kind
        assert _plain(parsed) == fields, packet
        assert library.decode_packet(raw) == (packet, len(raw))


def _plain_properties(properties: Any) -> dict[str, Any]:
    found: dict[str, Any] = {name: getattr(properties, name) for name in _PROPERTY_NAMES if hasattr(properties, name)}
    present = {name: value for name, value in found.items() if value not in (None, ())}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in present.items()}


def _plain_record(record: Any, names: Iterable[str]) -> dict[str, Any]:
    """The named fields of a record of the library, in the words of the strict parser."""
    fields: dict[str, Any] = {}
    for name in names:
        value = getattr(record, name)
        if name == "properties":
            value = _plain_properties(value)
        elif name == "will" and value is not None:
            value = _plain_record(value, ("topic", "payload", "qos", "retain", "properties"))
        elif name == "subscriptions":
            value = [_plain_record(one, _SUBSCRIPTION_FIELDS) for one in record.subscriptions]
        elif isinstance(value, tuple):
            value = list(value)
        fields[name] = value
    return fields


# Where the two are meant to differ: what the strict parser says, and why the library takes the packet all the same.
_MEANT = {
    "session present in a refusal": "a refusal is reported as one, whatever its flags say",
    "the payload is marked as UTF-8": "the session decides what becomes of such a message",
}


def _judge(raw: bytes) -> tuple[str | None, str | None]:
    """What each of the two says against the bytes; None if nothing. When neither does, they must have read the same."""
    strict = ours = parsed = decoded = None
    try:
        parsed = parse_packet(raw, minimal=False)
    except NotStrictError as error:
        strict = str(error)
    try:
        decoded = library.decode_packet(raw)
        if decoded is None:
            ours = "incomplete"
        elif decoded[1] != len(raw):
            ours = "bytes behind the packet"
    except ProtocolError as error:
        ours = str(error)
    if strict is None and ours is None and parsed is not None and decoded is not None:
        wanted = _plain(parsed)
        assert _plain_record(decoded[0], wanted) == wanted, raw.hex(" ")
    return strict, ours


def _damage(generator: random.Random, raw: bytes) -> bytes:
    body = bytearray(raw)
    way = generator.randrange(5)
    at = generator.randrange(len(body))
    if way == 0:
        body[at] ^= 1 << generator.randrange(8)
    elif way == 1:
        body[at] = generator.choice((0, 1, 2, 3, 0x23, 0x7F, 0x80, 0xED, 0xFF))
    elif way == 2:
        del body[at]
    elif way == 3:
        body.insert(at, generator.choice((0, 1, 0x26, 0x80)))
    else:
        start = generator.randrange(len(body))
        body[at:at] = body[start : start + generator.randrange(1, 6)]
    if generator.random() < 0.8:
        # A length that fits lets the damage reach the fields.
        parts = None
        try:
            parts = split_packet(raw)
        except NotStrictError:
            pass
        if parts is not None and len(raw) < 120:
            return encode_packet(body[0], bytes(body[2:])) if len(body) > 1 else bytes(body)
    return bytes(body)


@pytest.mark.slow
@pytest.mark.spec(
    "MQTT-1.5.4-1", "MQTT-1.5.4-2", "MQTT-1.5.5-1", "MQTT-1.5.7-1", "MQTT-2.1.3-1", "MQTT-3.3.1-2", "MQTT-3.3.1-4", "MQTT-3.3.2-2"
)
@pytest.mark.parametrize("kind", KINDS[1:])
def test_both_judge_damaged_packets_alike(kind: str) -> None:
    generator = _Generator(seed=1000 + KINDS.index(kind))
    refused = 0
    for _ in range(1500):
        raw = generator.make(kind)[0].encode()
        for _ in range(generator.random.randrange(1, 3)):
            raw = _damage(generator.random, raw)
        if len(raw) < 2:
            continue
        strict, ours = _judge(raw)
        refused += strict is not None
        if (strict is None) != (ours is None) and not any(name in (strict or "") for name in _MEANT):
            pytest.fail(f"{raw[:200].hex(' ')}\nstrict parser: {strict or 'fine'}\nlibrary: {ours or 'fine'}")
    assert refused > 100


_WRONG: dict[str, tuple[bytes, str]] = {
    "packet type 0": (b"\x00\x00", "packet type 0"),
    "reserved flags": (b"\xc1\x00", "reserved flags"),
    "PUBREL without its flag": (b"\x60\x02\x00\x01", "reserved flags"),
    "padded remaining length": (b"\xc0\x80\x00", "shortest form"),
    "remaining length of five bytes": (b"\xc0\xff\xff\xff\xff\x7f", "more than four bytes"),
    "trailing bytes": (b"\xc0\x01\x00", "trailing bytes"),
    "two packets": (b"\xc0\x00\xc0\x00", "behind the packet"),
    "incomplete": (b"\x30\x05\x00", "incomplete"),
    "QoS 3": (b"\x36\x06\x00\x01a\x00\x01\x00", "QoS 3"),
    "DUP with QoS 0": (b"\x38\x04\x00\x01a\x00", "DUP with QoS 0"),
    "packet identifier 0": (b"\x32\x06\x00\x01a\x00\x00\x00", "packet identifier 0"),
    "wildcard in a topic": (b"\x30\x04\x00\x01+\x00", "wildcard"),
    "no topic": (b"\x30\x03\x00\x00\x00", "empty"),
    "U+0000": (b"\x30\x04\x00\x01\x00\x00", "U+0000"),
    "surrogate": (b"\x30\x06\x00\x03\xed\xa0\x80\x00", "not UTF-8"),
    "no property length": (b"\x30\x03\x00\x01a", "property length"),
    "padded property length": (b"\x30\x05\x00\x01a\x80\x00", "shortest form"),
    "unknown property": (b"\x30\x06\x00\x01a\x02\x04\x00", "unknown property"),
    "misplaced property": (b"\x30\x07\x00\x01a\x03\x21\x00\x01", "doesn't belong"),
    "property twice": (b"\x30\x08\x00\x01a\x04\x01\x00\x01\x00", "twice"),
    "boolean 2": (b"\x30\x06\x00\x01a\x02\x01\x02", "not 0 or 1"),
    "topic alias 0": (b"\x30\x07\x00\x01a\x03\x23\x00\x00", "TopicAlias is 0"),
    "payload not as marked": (b"\x30\x07\x00\x01a\x02\x01\x01\xff", "marked as UTF-8"),
    "unlisted reason code": (b"\x40\x03\x00\x01\x01", "not listed"),
    "superfluous reason code": (b"\x40\x03\x00\x01\x00", "longer than it need be"),
    "superfluous property length": (b"\x40\x04\x00\x01\x80\x00", "longer than it need be"),
    "superfluous DISCONNECT reason": (b"\xe0\x01\x00", "longer than it need be"),
    "SUBSCRIBE of nothing": (b"\x82\x03\x00\x01\x00", "no topic filter"),
    "reserved option bits": (b"\x82\x07\x00\x01\x00\x00\x01a\x40", "reserved option bits"),
    "retain handling 3": (b"\x82\x07\x00\x01\x00\x00\x01a\x30", "retain handling 3"),
    "No Local and shared": (b"\x82\x10\x00\x01\x00\x00\x0a$share/g/a\x04", "No Local"),
    "share without a filter": (b"\x82\x0e\x00\x01\x00\x00\x08$share/g\x00", "share name"),
    "share without a name": (b"\x82\x0f\x00\x01\x00\x00\x09$share//a\x00", "bad share name"),
    "# in the middle": (b"\x82\x09\x00\x01\x00\x00\x03#/a\x00", "last level"),
    "+ in a level": (b"\x82\x08\x00\x01\x00\x00\x02a+\x00", "whole level"),
    "UNSUBSCRIBE of nothing": (b"\xa2\x03\x00\x01\x00", "no topic filter"),
    "SUBACK without codes": (b"\x90\x03\x00\x01\x00", "no reason code"),
    "CONNACK flags": (b"\x20\x03\x02\x00\x00", "acknowledge flags"),
    "CONNACK refusal with a session": (b"\x20\x03\x01\x80\x00", "session present"),
    "protocol version 4": (b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x00\x00", "version 4"),
    "reserved connect flag": (b"\x10\x0d\x00\x04MQTT\x05\x01\x00\x00\x00\x00\x00", "reserved flag"),
    "will QoS without a will": (b"\x10\x0d\x00\x04MQTT\x05\x08\x00\x00\x00\x00\x00", "without a will"),
    "will QoS 3": (b"\x10\x0d\x00\x04MQTT\x05\x1c\x00\x00\x00\x00\x00", "will QoS 3"),
    "authentication data alone": (b"\xf0\x06\x18\x04\x16\x00\x01x", "without AuthenticationMethod"),
    "AUTH without a method": (b"\xf0\x02\x18\x00", "no authentication method"),
    "CONNECT that ends early": (b"\x10\x0b\x00\x04MQTT\x05\x00\x00\x00\x00", "client identifier"),
}


@pytest.mark.parametrize("name", _WRONG)
def test_wrong_bytes_are_refused_by_name(name: str) -> None:
    raw, reason = _WRONG[name]
    with pytest.raises(NotStrictError, match=reason.replace("+", r"\+")):
        parse_packet(raw)


@pytest.mark.parametrize(
    ("raw", "sender", "reason"),
    [
        (b"\x20\x03\x00\x00\x00", "client", "not for a client to send"),
        (b"\xc0\x00", "server", "not for a server to send"),
        (b"\x40\x03\x00\x01\x10", "client", "0x10 is not for a client"),
        (b"\xe0\x01\x87", "client", "0x87 is not for a client"),
        (b"\xe0\x01\x04", "server", "0x04 is not for a server"),
        (b"\x30\x06\x00\x01a\x02\x0b\x01", "client", "subscription identifier from a client"),
        (b"\xe0\x07\x00\x05\x11\x00\x00\x00\x01", "server", "session expiry interval from a server"),
        (b"\xe0\x06\x00\x04\x1c\x00\x01s", "client", "server reference from a client"),
        (b"\xf0\x00", "server", "no authentication method"),
    ],
)
def test_each_side_may_send_only_its_own(raw: bytes, sender: str, reason: str) -> None:
    assert parse_packet(raw).raw == raw
    with pytest.raises(NotStrictError, match=reason):
        parse_packet(raw, sender)


def test_longer_forms_pass_when_minimal_is_off() -> None:
    for raw in (b"\x40\x03\x00\x01\x00", b"\x40\x04\x00\x01\x00\x00", b"\xe0\x02\x00\x00"):
        assert parse_packet(raw, minimal=False).reason_code == 0


def test_a_stream_is_cut_into_packets() -> None:
    packets = parse_stream(b"\xc0\x00\x30\x05\x00\x01a\x00x\xe0\x00")
    assert [packet.kind for packet in packets] == ["PINGREQ", "PUBLISH", "DISCONNECT"]
    assert packets[1].payload == b"x"
    assert split_packet(b"\xc0") is None
    assert split_packet(b"\x30\x80") is None
    with pytest.raises(NotStrictError, match="inside a packet"):
        parse_stream(b"\xc0\x00\x30\x05")


def test_a_packet_shows_its_fields_and_knows_no_others() -> None:
    packet = parse_packet(b"\x30\x05\x00\x01a\x00x")
    assert repr(packet).startswith("PUBLISH(topic='a', payload=b'x'")
    with pytest.raises(AttributeError, match="PUBLISH has no field 'reason_code'"):
        _ = packet.reason_code


def test_property_bytes_are_written_in_the_order_given() -> None:
    raw = encode_properties(UserProperty=[("a", "b"), ("a", "c")], MessageExpiryInterval=5, SubscriptionIdentifier=300)
    packet = parse_packet(encode_packet(0x30, b"\x00\x01t" + raw))
    assert packet.property_order == ["UserProperty", "UserProperty", "MessageExpiryInterval", "SubscriptionIdentifier"]
    assert packet.properties == {"UserProperty": [("a", "b"), ("a", "c")], "MessageExpiryInterval": 5, "SubscriptionIdentifier": [300]}
