"""The fifteen MQTT Control Packets: records, encoders, and decoders by first byte (chapter 3). Public toolkit.

Owns the layout of packets and the rules that can be judged by looking at one packet alone. Must not know sessions, sockets or which
end we are. Invariant: a decoder returns a record that fits the standard, or raises ``ProtocolError`` or ``MalformedPacketError``, and
nothing else; ``encode`` returns bytes that a decoder accepts, or raises ``ArgumentError``.

Records are plain classes with slots: they are made for each packet, and cost as little as a Python object can. Their constructors take
what they are given; ``encode`` is where it is checked. Only ``MQTTSubscription`` and ``MQTTWill`` check at once, and are immutable.
"""

from __future__ import annotations

from .decoders import DECODERS, decode_packet, decode_publish
from .records import (
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
    MQTTUnsubAckPacket,
    MQTTUnsubscribePacket,
)
from .values import MQTTSubscription, MQTTWill

__all__ = [
    "DECODERS",
    "MQTTAuthPacket",
    "MQTTConnAckPacket",
    "MQTTConnectPacket",
    "MQTTDisconnectPacket",
    "MQTTPacket",
    "MQTTPingReqPacket",
    "MQTTPingRespPacket",
    "MQTTPubAckPacket",
    "MQTTPubCompPacket",
    "MQTTPubRecPacket",
    "MQTTPubRelPacket",
    "MQTTPublishPacket",
    "MQTTSubAckPacket",
    "MQTTSubscribePacket",
    "MQTTSubscription",
    "MQTTUnsubAckPacket",
    "MQTTUnsubscribePacket",
    "MQTTWill",
    "decode_packet",
    "decode_publish",
]
