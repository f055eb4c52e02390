"""A client for the sans-I/O broker that says only what a test has it say, and reads strictly what it is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ohmqtt.packet import (
    MQTTConnectPacket,
    MQTTPacket,
    MQTTPubAckPacket,
    MQTTPublishPacket,
    MQTTSubscribePacket,
    MQTTSubscription,
    MQTTWill,
)
from ohmqtt.property import MQTTConnectProps, MQTTPublishProps, MQTTSubscribeProps
from tests.strict_parser import WirePacket, parse_stream

if TYPE_CHECKING:
    from ohmqtt.testing.broker import BrokerCore

NO_PROPERTIES = MQTTPublishProps.EMPTY


class Peer:
    """One network connection to the broker. ``now`` is moved by the tests, and never backwards."""

    def __init__(self, core: BrokerCore, now: float | None = None) -> None:
        self.core = core
        self.end = core.accept(core.now if now is None else now)

    def say(self, *packets: MQTTPacket | bytes, now: float | None = None) -> list[WirePacket]:
        data = b"".join([packet if isinstance(packet, bytes) else packet.encode() for packet in packets])
        self.end.receive(data, self.core.now if now is None else now)
        return self.hear()

    def hear(self) -> list[WirePacket]:
        data = bytes(self.end.output)
        self.end.output.clear()
        self.core.dirty.pop(self.end, None)
        return parse_stream(data, "server")

    def kinds(self, *packets: MQTTPacket | bytes, now: float | None = None) -> list[str]:
        return [packet.kind for packet in self.say(*packets, now=now)]

    def one(self, *packets: MQTTPacket | bytes, now: float | None = None) -> WirePacket:
        answers = self.say(*packets, now=now)
        assert len(answers) == 1, answers
        return answers[0]

    def subscribe(self, topic_filter: str, qos: int = 2, identifier: int | None = None, **options: Any) -> list[WirePacket]:
        subscription = MQTTSubscription(topic_filter, qos, **options)
        return self.say(MQTTSubscribePacket(77, (subscription,), MQTTSubscribeProps(SubscriptionIdentifier=identifier)))

    def publish(self, topic: str, payload: bytes = b"x", qos: int = 0, packet_id: int = 0, **fields: Any) -> list[WirePacket]:
        return self.say(MQTTPublishPacket(topic, payload, qos, packet_id=packet_id or (1 if qos else 0), **fields))

    def lost(self, now: float | None = None) -> None:
        self.end.lost(self.core.now if now is None else now)

    def acknowledge(self, *packet_ids: int) -> list[WirePacket]:
        return self.say(*[MQTTPubAckPacket(packet_id) for packet_id in packet_ids])


def connect(
    core: BrokerCore,
    client_id: str = "c",
    *,
    clean_start: bool = False,
    keep_alive: int = 0,
    will: MQTTWill | None = None,
    now: float | None = None,
    present: bool = False,
    **properties: Any,
) -> Peer:
    """Connect and take the CONNACK off; what follows it stays to be heard."""
    peer = Peer(core, now)
    connack = open_with(peer, client_id, clean_start=clean_start, keep_alive=keep_alive, will=will, **properties)
    assert (connack.reason_code, connack.session_present) == (0, present)
    return peer


def open_with(peer: Peer, client_id: str = "c", **fields: Any) -> WirePacket:
    """Send a CONNECT; return the CONNACK, and put back what came behind it."""
    own = {name: fields.pop(name) for name in ("clean_start", "keep_alive", "will", "user_name", "password") if name in fields}
    packet = MQTTConnectPacket(client_id, properties=MQTTConnectProps(**fields), **own)
    answers = peer.say(packet)
    peer.end.output += b"".join([answer.raw for answer in answers[1:]])
    assert answers[0].kind == "CONNACK"
    return answers[0]
