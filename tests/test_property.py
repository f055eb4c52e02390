"""Every property in every packet: where it may stand, what it may hold, how it is written, and what is refused."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import Any

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties

import ohmqtt.property
from ohmqtt.errors import ArgumentError, MalformedPacketError, ProtocolError
from ohmqtt.mqtt_spec import PropertyId
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

CLASSES: dict[str, type[Properties]] = {
    "CONNECT": MQTTConnectProps,
    "CONNACK": MQTTConnAckProps,
    "WILL": MQTTWillProps,
    "PUBLISH": MQTTPublishProps,
    "PUBACK": MQTTPubAckProps,
    "PUBREC": MQTTPubRecProps,
    "PUBREL": MQTTPubRelProps,
    "PUBCOMP": MQTTPubCompProps,
    "SUBSCRIBE": MQTTSubscribeProps,
    "SUBACK": MQTTSubAckProps,
    "UNSUBSCRIBE": MQTTUnsubscribeProps,
    "UNSUBACK": MQTTUnsubAckProps,
    "DISCONNECT": MQTTDisconnectProps,
    "AUTH": MQTTAuthProps,
}

# Table 2-4 of the standard (section 2.2.2.2), once more and independently of the source: property, wire type, packets.
TABLE: dict[str, tuple[str, str]] = {
    "PayloadFormatIndicator": ("byte", "PUBLISH WILL"),
    "MessageExpiryInterval": ("four", "PUBLISH WILL"),
    "ContentType": ("string", "PUBLISH WILL"),
    "ResponseTopic": ("topic", "PUBLISH WILL"),
    "CorrelationData": ("binary", "PUBLISH WILL"),
    "SubscriptionIdentifier": ("varint", "PUBLISH SUBSCRIBE"),
    "SessionExpiryInterval": ("four", "CONNECT CONNACK DISCONNECT"),
    "AssignedClientIdentifier": ("string", "CONNACK"),
    "ServerKeepAlive": ("two", "CONNACK"),
    "AuthenticationMethod": ("string", "CONNECT CONNACK AUTH"),
    "AuthenticationData": ("binary", "CONNECT CONNACK AUTH"),
    "RequestProblemInformation": ("byte", "CONNECT"),
    "WillDelayInterval": ("four", "WILL"),
    "RequestResponseInformation": ("byte", "CONNECT"),
    "ResponseInformation": ("string", "CONNACK"),
    "ServerReference": ("string", "CONNACK DISCONNECT"),
    "ReasonString": ("string", "CONNACK PUBACK PUBREC PUBREL PUBCOMP SUBACK UNSUBACK DISCONNECT AUTH"),
    "ReceiveMaximum": ("two+", "CONNECT CONNACK"),
    "TopicAliasMaximum": ("two", "CONNECT CONNACK"),
    "TopicAlias": ("two+", "PUBLISH"),
    "MaximumQoS": ("byte", "CONNACK"),
    "RetainAvailable": ("byte", "CONNACK"),
    "UserProperty": ("pair", " ".join(CLASSES)),
    "MaximumPacketSize": ("four+", "CONNECT CONNACK"),
    "WildcardSubscriptionAvailable": ("byte", "CONNACK"),
    "SubscriptionIdentifierAvailable": ("byte", "CONNACK"),
    "SharedSubscriptionAvailable": ("byte", "CONNACK"),
}

# For each wire type: legal values with their bytes, and values that the constructor refuses. A + stands for "not zero".
LEGAL: dict[str, list[tuple[Any, str]]] = {
    "byte": [(0, "00"), (1, "01")],
    "two": [(0, "0000"), (65_535, "ffff")],
    "two+": [(1, "0001"), (65_535, "ffff")],
    "four": [(0, "00000000"), (4_294_967_295, "ffffffff")],
    "four+": [(1, "00000001"), (4_294_967_295, "ffffffff")],
    "varint": [(1, "01"), (128, "8001"), (268_435_455, "ffffff7f")],
    "string": [("", "0000"), ("\ufeffé", "0005efbbbfc3a9")],
    "topic": [("a/b", "0003612f62"), ("/", "00012f")],
    "binary": [(b"", "0000"), (b"\x00\xff", "000200ff")],
    "pair": [((("", ""),), "00000000"), ((("k", "é"),), "00016b0002c3a9")],
}
REFUSED: dict[str, list[Any]] = {
    "byte": [-1, 2, "1", 1.0, b"\1"],
    "two": [-1, 65_536, True, "1"],
    "two+": [0, -1, 65_536, True, None.__class__],
    "four": [-1, 4_294_967_296, False, 1.5],
    "four+": [0, -1, 4_294_967_296, [1]],
    "varint": [0, -1, 268_435_456, True, "1", 1.5],
    "string": [b"x", 1, "\ud800", "a\0", "x" * 65_536, ()],
    "topic": [b"x", "", "a/+", "#", "a\0", "\udfff", "x" * 65_536],
    "binary": ["x", 1, b"x" * 65_536, ()],
    "pair": [1, "ab", ["ab"], [("a",)], [("a", "b", "c")], [("a", 1)], [(b"a", "b")], {"a": 1}, [("a\0", "b")], [("a", "\ud800")]],
}
# For each wire type: bytes that are there in full and still forbidden, and the reason code.
FORBIDDEN: dict[str, list[tuple[str, int]]] = {
    "byte": [("02", 0x82), ("ff", 0x82)],
    "two": [],
    "two+": [("0000", 0x82)],
    "four": [],
    "four+": [("00000000", 0x82)],
    "varint": [("00", 0x82), ("8100", 0x81), ("ffffffff7f", 0x81)],
    "string": [("000100", 0x81), ("0001ff", 0x81), ("0003eda080", 0x81)],
    "topic": [("0000", 0x82), ("00012b", 0x82), ("0003612f23", 0x82), ("000100", 0x81), ("0001ff", 0x81)],
    "binary": [],
    "pair": [("00010000016b", 0x81), ("00016b000100", 0x81), ("0001ff00016b", 0x81), ("00016b0001ff", 0x81)],
}


def pairs_of(allowed: bool) -> list[tuple[str, str]]:
    return [(name, packet) for name, (_, packets) in TABLE.items() for packet in CLASSES if (packet in packets.split()) is allowed]


def build(packet: str, **values: Any) -> Properties:
    return CLASSES[packet](**values)


def block(*properties: tuple[str, bytes]) -> bytes:
    """Return a property block as a peer would write it."""
    body = b"".join([bytes((PropertyId[name].value,)) + value for name, value in properties])
    assert len(body) < 128
    return bytes((len(body),)) + body


def company(name: str) -> dict[str, Any]:
    """What has to stand beside a property to make it legal."""
    return {"AuthenticationMethod": "m"} if name == "AuthenticationData" else {}


def is_many(name: str, packet: str) -> bool:
    return name == "UserProperty" or (name, packet) == ("SubscriptionIdentifier", "PUBLISH")


def test_the_table_names_every_property_and_class() -> None:
    assert set(TABLE) == {identifier.name for identifier in PropertyId}
    assert {cls.__name__ for cls in CLASSES.values()} == set(ohmqtt.property.__all__) - {"Properties"}


@pytest.mark.parametrize("packet", CLASSES)
def test_signature_and_attributes_of_a_class_are_its_properties(packet: str) -> None:
    cls = CLASSES[packet]
    names = {name for name, (_, packets) in TABLE.items() if packet in packets.split()}
    parameters = inspect.signature(cls).parameters
    assert set(parameters) == names
    for name in names:
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[name].default == getattr(cls.EMPTY, name) == (() if is_many(name, packet) else None)


@pytest.mark.parametrize(("name", "packet"), pairs_of(True))
def test_a_property_is_written_and_read_where_it_belongs(name: str, packet: str) -> None:
    wire_type = TABLE[name][0]
    cls = CLASSES[packet]
    for value, encoded in LEGAL[wire_type]:
        beside = company(name)
        props = build(packet, **{name: value}, **beside)
        kept = (value,) if is_many(name, packet) and wire_type == "varint" else value
        assert getattr(props, name) == kept
        expected = block(*[("AuthenticationMethod", b"\0\1m")] * len(beside), (name, bytes.fromhex(encoded)))
        assert props.encode() == expected
        decoded, offset = cls.decode(b"?" + expected + b"?", 1, 1 + len(expected))
        assert offset == 1 + len(expected)
        assert decoded == props
        assert getattr(decoded, name) == kept
        assert decoded.encode() == expected


@pytest.mark.spec("MQTT-2.2.2.2")
@pytest.mark.parametrize(("name", "packet"), pairs_of(False))
def test_a_property_is_malformed_where_it_does_not_belong(name: str, packet: str) -> None:
    data = block((name, bytes.fromhex(LEGAL[TABLE[name][0]][0][1])))
    with pytest.raises(MalformedPacketError, match=f"no property 0x{PropertyId[name].value:02X}") as caught:
        CLASSES[packet].decode(data, 0, len(data))
    assert caught.value.reason_code == 0x81
    with pytest.raises(TypeError, match=name):
        build(packet, **{name: LEGAL[TABLE[name][0]][0][0]})


@pytest.mark.spec(
    "MQTT-1.5.4-1",
    "MQTT-1.5.4-2",
    "MQTT-1.5.7-1",
    "MQTT-3.3.2-8",
    "MQTT-3.3.2-13",
    "MQTT-3.3.2-14",
    "MQTT-3.3.2-19",
    "MQTT-3.1.2.11.3",
    "MQTT-3.8.2.1.2",
)
@pytest.mark.parametrize(("name", "packet"), pairs_of(True))
def test_values_that_the_standard_forbids_are_refused_at_the_call(name: str, packet: str) -> None:
    for value in REFUSED[TABLE[name][0]]:
        with pytest.raises(ArgumentError, match=f"^{name}: ") as caught:
            build(packet, **{name: value}, **company(name))
        assert len(str(caught.value)) < 300


@pytest.mark.spec(
    "MQTT-1.5.4-1",
    "MQTT-1.5.4-2",
    "MQTT-1.5.7-1",
    "MQTT-3.3.2-8",
    "MQTT-3.3.2-13",
    "MQTT-3.3.2-14",
    "MQTT-3.3.2-19",
    "MQTT-3.1.2.11.3",
    "MQTT-3.2.2.3",
    "MQTT-3.8.2.1.2",
)
@pytest.mark.parametrize(("name", "packet"), pairs_of(True))
def test_values_that_the_standard_forbids_are_a_protocol_error(name: str, packet: str) -> None:
    for encoded, reason_code in FORBIDDEN[TABLE[name][0]]:
        data = block((name, bytes.fromhex(encoded)))
        with pytest.raises(ProtocolError) as caught:
            CLASSES[packet].decode(data, 0, len(data))
        assert caught.value.reason_code == (0x94 if name == "TopicAlias" else reason_code)


@pytest.mark.spec("MQTT-2.2.2.2")
@pytest.mark.parametrize(("name", "packet"), pairs_of(True))
def test_a_property_that_is_cut_short_is_malformed(name: str, packet: str) -> None:
    for value, encoded in LEGAL[TABLE[name][0]]:
        whole = bytes((PropertyId[name].value,)) + bytes.fromhex(encoded)
        for length in range(1, len(whole)):
            # Whether the packet ends there or goes on with something that could be mistaken for the rest.
            for rest in (b"", whole[length:], b"\x00" * 20, b"\xff" * 20):
                data = bytes((length,)) + whole[:length] + rest
                with pytest.raises(ProtocolError) as caught:
                    CLASSES[packet].decode(data, 0, len(data))
                assert caught.value.reason_code == 0x81, (value, length, rest)


@pytest.mark.spec("MQTT-2.2.2", "MQTT-3.8.2.1.2")
@pytest.mark.parametrize(("name", "packet"), pairs_of(True))
def test_only_some_properties_may_be_repeated(name: str, packet: str) -> None:
    values = LEGAL[TABLE[name][0]]
    data = block(*[(name, bytes.fromhex(encoded)) for _, encoded in values[:2]])
    if is_many(name, packet):
        decoded, _ = CLASSES[packet].decode(data, 0, len(data))
        flat = [value[0] if isinstance(value, tuple) else value for value, _ in values[:2]]
        assert getattr(decoded, name) == tuple(flat)
        assert build(packet, **{name: flat}) == decoded
        assert decoded.encode() == data
        return
    with pytest.raises(ProtocolError, match=f"{name} appears twice") as caught:
        CLASSES[packet].decode(data, 0, len(data))
    assert caught.value.reason_code == 0x82


@pytest.mark.spec("MQTT-2.2.2-1")
@pytest.mark.parametrize("packet", CLASSES)
def test_no_properties_are_a_length_of_zero_and_one_shared_instance(packet: str) -> None:
    cls = CLASSES[packet]
    assert cls.decode(b"\0", 0, 1) == (cls.EMPTY, 1)
    assert cls.decode(b"\0", 0, 1)[0] is cls.EMPTY
    assert type(cls.EMPTY) is cls
    assert build(packet).encode() == cls.EMPTY.encode() == b"\0"
    assert build(packet) == cls.EMPTY
    assert build(packet, UserProperty=()) == build(packet, UserProperty=None) == build(packet, UserProperty=[]) == cls.EMPTY
    assert not cls.EMPTY
    assert build(packet, UserProperty=[("a", "b")])


@pytest.mark.spec("MQTT-2.2.2.2")
@pytest.mark.parametrize("packet", CLASSES)
@pytest.mark.parametrize("identifier", [0x00, 0x04, 0x2B, 0x7F, 0x80, 0xFF])
def test_unknown_properties_are_malformed(packet: str, identifier: int) -> None:
    with pytest.raises(MalformedPacketError, match=f"0x{identifier:02X}"):
        CLASSES[packet].decode(bytes((2, identifier, 0)), 0, 3)


@pytest.mark.parametrize(
    ("data", "end"),
    [
        (b"", 0),
        (b"\0", 0),
        (b"", 1),
        (b"\x05\x1f\0\1x", 5),
        (b"\x05\x1f\0\1xyz", 5),
        (b"\x80", 1),
        (b"\x80\x00", 2),
        (b"\xff\xff\xff\xff\x7f", 5),
    ],
)
def test_a_property_length_that_does_not_fit_is_malformed(data: bytes, end: int) -> None:
    with pytest.raises(MalformedPacketError):
        MQTTPubAckProps.decode(data, 0, end)


def test_long_blocks_have_a_longer_length() -> None:
    pairs = tuple((f"key {number}", "x" * number) for number in range(300))
    props = MQTTPublishProps(UserProperty=pairs)
    encoded = props.encode()
    assert encoded[0] & 0x80
    assert MQTTPublishProps.decode(encoded, 0, len(encoded)) == (props, len(encoded))


@pytest.mark.spec("MQTT-3.1.3-10", "MQTT-3.3.2-17", "MQTT-3.3.2-18")
@pytest.mark.parametrize("packet", CLASSES)
def test_user_properties_keep_their_order_and_repeats(packet: str) -> None:
    pairs = (("b", "1"), ("a", "2"), ("b", "1"), ("b", ""))
    props = build(packet, UserProperty=pairs)
    assert props == build(packet, UserProperty=iter([list(pair) for pair in pairs]))
    data = props.encode()
    assert CLASSES[packet].decode(data, 0, len(data))[0].__dict__ == {"UserProperty": pairs}
    assert build(packet, UserProperty={"b": "1", "a": "2"}).__dict__ == {"UserProperty": pairs[:2]}


def test_message_expiry_interval_comes_right_after_the_length() -> None:
    for props in (
        MQTTPublishProps(UserProperty=[("a", "b")], TopicAlias=1, PayloadFormatIndicator=1, MessageExpiryInterval=0x01020304),
        MQTTWillProps(UserProperty=[("a", "b")], WillDelayInterval=1, PayloadFormatIndicator=1, MessageExpiryInterval=0x01020304),
    ):
        assert props.encode()[1:6] == b"\x02\x01\x02\x03\x04"


@pytest.mark.spec("MQTT-3.3.2-15", "MQTT-3.3.2-16", "MQTT-3.3.2-20", "MQTT-3.3.4-3", "MQTT-3.3.4-4")
def test_a_full_block_comes_back_unaltered() -> None:
    props = MQTTPublishProps(
        MessageExpiryInterval=7,
        PayloadFormatIndicator=True,
        ContentType="text/plain",
        ResponseTopic="answers/7",
        CorrelationData=b"\x00\xff",
        SubscriptionIdentifier=[3, 268_435_455, 3],
        TopicAlias=9,
        UserProperty=[("a", "b"), ("a", "c")],
    )
    data = props.encode()
    decoded, offset = MQTTPublishProps.decode(data, 0, len(data))
    assert (decoded, offset) == (props, len(data))
    assert repr(decoded) == (
        "MQTTPublishProps(MessageExpiryInterval=7, PayloadFormatIndicator=1, ContentType='text/plain', ResponseTopic='answers/7', "
        "CorrelationData=b'\\x00\\xff', SubscriptionIdentifier=(3, 268435455, 3), TopicAlias=9, UserProperty=(('a', 'b'), ('a', 'c')))"
    )
    assert type(decoded.PayloadFormatIndicator) is type(props.PayloadFormatIndicator) is int


def test_the_order_on_the_wire_does_not_matter() -> None:
    parts = [("ContentType", b"\0\1c"), ("UserProperty", b"\0\1a\0\1b"), ("TopicAlias", b"\0\2"), ("SubscriptionIdentifier", b"\5")]
    forward, backward = block(*parts), block(*reversed(parts))
    one, _ = MQTTPublishProps.decode(forward, 0, len(forward))
    other, _ = MQTTPublishProps.decode(backward, 0, len(backward))
    assert one == other
    assert one.encode() == other.encode()
    assert hash(one) == hash(other)


@pytest.mark.spec("MQTT-3.1.2.11.10")
@pytest.mark.parametrize("packet", ["CONNECT", "CONNACK", "AUTH"])
def test_authentication_data_needs_a_method(packet: str) -> None:
    with pytest.raises(ArgumentError, match=r"^AuthenticationData: it needs an AuthenticationMethod"):
        build(packet, AuthenticationData=b"x")
    data = block(("AuthenticationData", b"\0\1x"))
    with pytest.raises(ProtocolError, match="without an AuthenticationMethod") as caught:
        CLASSES[packet].decode(data, 0, len(data))
    assert caught.value.reason_code == 0x82


def test_instances_do_not_change() -> None:
    props = MQTTConnectProps(ReceiveMaximum=5)
    with pytest.raises(AttributeError, match=r"immutable: use replace\(ReceiveMaximum=\.\.\.\)"):
        props.ReceiveMaximum = 6
    with pytest.raises(AttributeError, match="immutable"):
        del props.ReceiveMaximum
    assert props.ReceiveMaximum == 5


def test_replace_gives_a_changed_copy() -> None:
    props = MQTTConnectProps(ReceiveMaximum=5, UserProperty=[("a", "b")])
    assert props.replace(ReceiveMaximum=6) == MQTTConnectProps(ReceiveMaximum=6, UserProperty=[("a", "b")])
    assert props.replace(ReceiveMaximum=None, UserProperty=None) == MQTTConnectProps.EMPTY
    assert props.ReceiveMaximum == 5
    with pytest.raises(ArgumentError, match="ReceiveMaximum: 0 is out of range, 1 to 65535"):
        props.replace(ReceiveMaximum=0)
    with pytest.raises(TypeError):
        props.replace(TopicAlias=1)


def test_equality_is_that_of_class_and_values() -> None:
    assert MQTTPubAckProps(ReasonString="x") == MQTTPubAckProps(ReasonString="x")
    assert MQTTPubAckProps(ReasonString="x") != MQTTPubAckProps(ReasonString="y")
    assert MQTTPubAckProps.EMPTY != MQTTPubRecProps.EMPTY
    assert MQTTPubAckProps.EMPTY != "MQTTPubAckProps()"
    assert len({MQTTPubAckProps(ReasonString="x"), MQTTPubAckProps(ReasonString="x"), MQTTPubAckProps.EMPTY}) == 2


@pytest.mark.parametrize("packet", CLASSES)
def test_instances_can_be_copied_and_pickled(packet: str) -> None:
    props = build(packet, UserProperty=[("a", "b")])
    decoded, _ = CLASSES[packet].decode(props.encode(), 0, len(props.encode()))
    assert copy.copy(props) is props
    assert copy.deepcopy([decoded])[0] is decoded
    assert pickle.loads(pickle.dumps(decoded)) == props


def test_many_subscription_identifiers_take_linear_time() -> None:
    data = b"\x80\x80\x02" + b"\x0b\x01" * 16_384
    decoded, _ = MQTTPublishProps.decode(data, 0, len(data))
    assert decoded.SubscriptionIdentifier == (1,) * 16_384


@pytest.mark.parametrize(("name", "packet"), pairs_of(True))
def test_another_implementation_writes_the_same_bytes(name: str, packet: str) -> None:
    """The one difference: paho takes no Maximum Packet Size above 268,435,455, section 3.1.2.11.4 has the whole range."""
    packet_types = {"WILL": PacketTypes.WILLMESSAGE, **{packet: getattr(PacketTypes, packet) for packet in CLASSES if packet != "WILL"}}
    for value, _ in LEGAL[TABLE[name][0]]:
        if name == "MaximumPacketSize" and value > 268_435_455:
            continue
        other: Any = PahoProperties(packet_types[packet])  # type: ignore[no-untyped-call]
        for each in (company(name), {name: list(value) if name == "UserProperty" else value}):
            for key, item in each.items():
                setattr(other, key, item)
        assert build(packet, **{name: value}, **company(name)).encode() == other.pack()
