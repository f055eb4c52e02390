"""Our bytes beside those of another implementation: paho-mqtt, driven through its public API against the scripted peer.

The two must write the same bytes for the same packet. Where they are meant to differ, the test says so by name:

* *property order*: paho writes properties by identifier; we write Message Expiry Interval first, so that it can be aged in place, and User
  Properties where our table has them. The standard leaves the order open (section 2.2.2.2), apart from User Properties among themselves.
* *U+FEFF*: paho writes it and refuses to read it; the standard calls it an ordinary character [MQTT-1.5.4-3].
* *password alone*: paho leaves a password out when there is no user name; MQTT 5.0 allows it [MQTT-3.1.2-19].
* *Maximum Packet Size*: paho stops at 268,435,455; the standard's limit is the four bytes' (section 3.1.2.11.4).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from paho.mqtt import client as paho_client
from paho.mqtt import properties as paho_properties
from paho.mqtt import reasoncodes, subscribeoptions
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes

from ohmqtt import packet as packet_module
from ohmqtt import property as property_module
from tests.peer import Link, Peer
from tests.strict_parser import PROPERTIES, parse_packet, parse_properties

if TYPE_CHECKING:
    from collections.abc import Iterator

# Both sides are called with names from tables, which no type checker can follow.
ours: Any = packet_module
our_properties: Any = property_module
paho: Any = paho_client
theirs: Any = paho_properties

_CLASSES = {
    "CONNECT": "Connect", "CONNACK": "ConnAck", "WILL": "Will", "PUBLISH": "Publish", "PUBACK": "PubAck", "PUBREC": "PubRec",
    "PUBREL": "PubRel", "PUBCOMP": "PubComp", "SUBSCRIBE": "Subscribe", "SUBACK": "SubAck", "UNSUBSCRIBE": "Unsubscribe",
    "UNSUBACK": "UnsubAck", "DISCONNECT": "Disconnect", "AUTH": "Auth",
}  # fmt: skip
_SAMPLES: dict[str, tuple[Any, ...]] = {
    "bool": (0, 1),
    "uint16": (1, 0x0102, 65_535),
    "uint32": (1, 0x01020304, 268_435_455),
    "varint": (1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455),
    "string": ("text", "Ω/日本/😀", "\ufeffx", "s" * 65_535),
    "topic": ("text", "Ω/日本/😀", "\ufeffx"),
    "binary": (b"", b"\x00\xff", b"b" * 65_535),
    "pair": ((("a", "b"),), (("", ""), ("k", "1"), ("k", "Ω"))),
}
_PLACES = [(name, kind, place) for name, kind, places in PROPERTIES.values() for place in places.split()]


def _make_ours(place: str, **values: Any) -> Any:
    return getattr(our_properties, f"MQTT{_CLASSES[place]}Props")(**values)


def _make_theirs(place: str, **values: Any) -> Any:
    made = theirs.Properties(PacketTypes.WILLMESSAGE if place == "WILL" else getattr(PacketTypes, place))
    for name, value in values.items():
        setattr(made, name, list(value) if isinstance(value, tuple) else value)
    return made


@pytest.mark.parametrize(("name", "kind", "place"), _PLACES)
def test_each_property_alone_has_the_same_bytes(name: str, kind: str, place: str) -> None:
    for value in _SAMPLES[kind]:
        # AUTH without a method, and data without a method, are refused by us at once.
        values = {"AuthenticationMethod": "M", name: value} if name == "AuthenticationData" else {name: value}
        raw = _make_ours(place, **values).encode()
        assert raw == _make_theirs(place, **values).pack()
        if isinstance(value, str) and "\ufeff" in value:
            continue  # The difference named "U+FEFF".
        read = theirs.Properties(PacketTypes.WILLMESSAGE if place == "WILL" else getattr(PacketTypes, place))
        read.unpack(raw)
        found = {key: getattr(read, key) for key in values}
        if place == "SUBSCRIBE" and name == "SubscriptionIdentifier":
            (found[name],) = found[name]
        assert _make_ours(place, **found) == _make_ours(place, **values)


@pytest.mark.parametrize("place", _CLASSES)
def test_all_properties_together_differ_in_nothing_but_order(place: str) -> None:
    values = {name: _SAMPLES[kind][1] for name, kind, places in PROPERTIES.values() if place in places.split()}
    raw = _make_ours(place, **values).encode()
    their_raw = _make_theirs(place, **values).pack()
    assert len(raw) == len(their_raw)
    # The difference named "property order": paho's bytes of each property, in our order.
    body = b"".join(_make_theirs(place, **{name: values[name]}).pack()[1:] for name in _order(place, raw))
    assert raw == their_raw[: len(raw) - len(body)] + body


def _order(place: str, raw: bytes) -> list[str]:
    """The names of properties as they stand in the bytes, each once."""
    return list(dict.fromkeys(parse_properties(raw, place)[1]))


def test_no_properties_is_one_byte() -> None:
    for place in _CLASSES:
        assert _make_ours(place).encode() == _make_theirs(place).pack() == b"\x00"


class _Paho:
    """A paho client without threads, on a link to the scripted peer."""

    def __init__(self, peer: Peer, client_id: str = "me") -> None:
        self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5, reconnect_on_failure=False)
        self.peer = peer

    def connect(self, **options: Any) -> bytes:
        """Connect and return the bytes of CONNECT."""
        self.client.connect("127.0.0.1", self.peer.port, **options)
        self.link: Link = self.peer.accept()
        raw = self.link.handshake(TopicAliasMaximum=10).raw
        self.loop()
        assert self.client.is_connected()
        return raw

    def loop(self) -> None:
        """Let it read one packet."""
        assert self.client.loop(5.0) == paho.MQTT_ERR_SUCCESS

    def sent(self) -> bytes:
        """Return the bytes of the next packet that it sent."""
        return self.link.receive().raw


@pytest.fixture
def peer() -> Iterator[Peer]:
    with Peer() as it:
        yield it


@pytest.fixture
def connected(peer: Peer) -> Iterator[_Paho]:
    it = _Paho(peer)
    it.connect()
    yield it
    it.client.disconnect()


@pytest.mark.parametrize(
    ("client_id", "clean_start", "keep_alive", "user_name", "password", "properties"),
    [
        ("me", False, 60, None, None, {}),
        ("", True, 0, "user", None, {}),
        ("Ω", True, 65_535, "", b"", {"SessionExpiryInterval": 300}),
        ("me", False, 1, "user", b"\x00\xff", {"ReceiveMaximum": 5, "UserProperty": (("a", "b"), ("a", "c"))}),
    ],
)
@pytest.mark.parametrize("with_will", [False, True])
@pytest.mark.spec(
    "MQTT-3.1.2-1", "MQTT-3.1.2-9", "MQTT-3.1.2-11", "MQTT-3.1.2-13", "MQTT-3.1.2-16", "MQTT-3.1.2-17", "MQTT-3.1.3-1", "MQTT-3.1.3-3"
)
def test_connect(
    peer: Peer,
    client_id: str,
    clean_start: bool,
    keep_alive: int,
    user_name: str | None,
    password: bytes | None,
    properties: dict[str, Any],
    with_will: bool,
) -> None:
    other = _Paho(peer, client_id)
    will = None
    if user_name is not None:
        other.client.username_pw_set(user_name, None if password is None else password.decode("latin-1"))
        if password is not None:
            password = password.decode("latin-1").encode()
    if with_will:
        will = ours.MQTTWill("gone", b"now", 1, True, _make_ours("WILL", WillDelayInterval=5, ContentType="t"))
        other.client.will_set("gone", b"now", 1, True, _make_theirs("WILL", WillDelayInterval=5, ContentType="t"))
    raw = other.connect(keepalive=keep_alive, clean_start=clean_start, properties=_make_theirs("CONNECT", **properties))
    record = ours.MQTTConnectPacket(client_id, clean_start, keep_alive, will, user_name, password, _make_ours("CONNECT", **properties))
    assert record.encode() == raw
    other.client.disconnect()


@pytest.mark.spec("MQTT-3.1.2-19")
def test_a_password_alone_is_ours_only(peer: Peer) -> None:
    other = _Paho(peer)
    other.client.username_pw_set(None, "secret")
    raw = other.connect()
    assert parse_packet(raw).password is None
    record = ours.MQTTConnectPacket("me", True, 60, password=b"secret")
    assert parse_packet(record.encode()).password == b"secret"
    assert record.encode()[9] & 0xC0 == 0x40
    other.client.disconnect()


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize(
    ("topic", "payload", "properties"),
    [
        ("a", b"", {}),
        ("Ω/" + "t" * 65_000, b"p" * 100, {"TopicAlias": 3}),
        ("a/b", b"\x00\xff" * 40_000, {"ContentType": "t", "CorrelationData": b"\x00", "UserProperty": (("k", "v"),)}),
        ("a", "Ωtext".encode(), {"PayloadFormatIndicator": 1, "ResponseTopic": "answers"}),
        ("a", b"p" * 118, {}),
        ("a", b"p" * 122, {"MessageExpiryInterval": 7}),
    ],
)
@pytest.mark.spec("MQTT-2.2.1-2", "MQTT-3.3.2-1", "MQTT-4.3.1-1", "MQTT-4.3.2-2", "MQTT-4.3.3-2")
def test_publish(connected: _Paho, qos: int, retain: bool, topic: str, payload: bytes, properties: dict[str, Any]) -> None:
    made = _make_theirs("PUBLISH", **properties) if properties else None
    information = connected.client.publish(topic, payload, qos, retain, made)
    packet_id = information.mid if qos else 0
    assert (
        ours.MQTTPublishPacket(topic, payload, qos, retain, False, packet_id, _make_ours("PUBLISH", **properties)).encode()
        == connected.sent()
    )


def test_publish_acknowledgements(connected: _Paho) -> None:
    link = connected.link
    information = connected.client.publish("a", b"", 2)
    link.expect("PUBLISH")
    link.pubrec(information.mid)
    connected.loop()
    assert ours.MQTTPubRelPacket(information.mid).encode() == connected.sent()
    link.publish("a", b"", 1, 256)
    connected.loop()
    assert ours.MQTTPubAckPacket(256).encode() == connected.sent()
    link.publish("a", b"", 2, 65_535)
    connected.loop()
    assert ours.MQTTPubRecPacket(65_535).encode() == connected.sent()
    link.pubrel(65_535)
    connected.loop()
    assert ours.MQTTPubCompPacket(65_535).encode() == connected.sent()


@pytest.mark.parametrize("properties", [{}, {"SubscriptionIdentifier": 268_435_455, "UserProperty": (("a", "b"),)}])
@pytest.mark.spec("MQTT-3.8.1-1", "MQTT-3.8.3-5")
def test_subscribe(connected: _Paho, properties: dict[str, Any]) -> None:
    wanted = [
        ("a/+", 0, False, False, 0),
        ("$share/g/Ω", 1, False, True, 1),
        ("#", 2, True, True, 2),
    ]
    made = _make_theirs("SUBSCRIBE", **properties) if properties else None
    _, packet_id = connected.client.subscribe([(one[0], subscriptionoptions(*one[1:])) for one in wanted], properties=made)
    record = ours.MQTTSubscribePacket(
        packet_id, tuple(ours.MQTTSubscription(*one) for one in wanted), _make_ours("SUBSCRIBE", **properties)
    )
    assert record.encode() == connected.sent()


@pytest.mark.parametrize("properties", [{}, {"UserProperty": (("a", "b"), ("a", "c"))}])
@pytest.mark.spec("MQTT-3.10.1-1")
def test_unsubscribe(connected: _Paho, properties: dict[str, Any]) -> None:
    filters = ("a/+", "$share/g/Ω", "#")
    made = _make_theirs("UNSUBSCRIBE", **properties) if properties else None
    _, packet_id = connected.client.unsubscribe(list(filters), made)
    assert ours.MQTTUnsubscribePacket(packet_id, filters, _make_ours("UNSUBSCRIBE", **properties)).encode() == connected.sent()


@pytest.mark.parametrize(
    ("reason_code", "properties"),
    [(0, {}), (4, {}), (0x82, {"ReasonString": "no"}), (0, {"SessionExpiryInterval": 5, "UserProperty": (("a", "b"),)})],
)
def test_disconnect(peer: Peer, reason_code: int, properties: dict[str, Any]) -> None:
    other = _Paho(peer)
    other.connect()
    made = _make_theirs("DISCONNECT", **properties) if properties else None
    other.client.disconnect(reasoncodes.ReasonCode(PacketTypes.DISCONNECT, identifier=reason_code) if reason_code else None, made)
    raw = other.sent() if reason_code or not properties else other.link.receive_raw()
    assert ours.MQTTDisconnectPacket(reason_code, _make_ours("DISCONNECT", **properties)).encode() == raw


@pytest.mark.slow
def test_ping(peer: Peer) -> None:
    other = _Paho(peer)
    other.connect(keepalive=1)
    while True:
        other.client.loop(0.2)
        try:
            raw = other.link.receive(0.01).raw
        except AssertionError:
            continue
        break
    assert ours.MQTTPingReqPacket().encode() == raw
    other.client.disconnect()


def subscriptionoptions(qos: int, no_local: bool, retain_as_published: bool, retain_handling: int) -> Any:
    """Make paho's options of ours."""
    made: Any = subscribeoptions
    return made.SubscribeOptions(qos, no_local, retain_as_published, retain_handling)
