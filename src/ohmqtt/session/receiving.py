"""What comes from the server: bytes cut anywhere into packets, packets to whom they concern, and how far the user's callbacks are behind.

Owns the order of the handshake (nothing but AUTH and DISCONNECT before CONNACK, one CONNACK) and the bounds of what waits for callbacks.
Its invariant is the chunk law: however a stream is cut, the same packets are handled in the same order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import LinkLostError, ProtocolError
from ..link import CLOSED, CLOSING, CONNECTED, CONNECTING
from ..mqtt_spec import SERVER_REASON_CODES, PacketType, reason_name
from ..packet import (
    DECODERS,
    MQTTDisconnectPacket,
    MQTTPubAckPacket,
    MQTTPubCompPacket,
    MQTTPubRecPacket,
    MQTTPubRelPacket,
    MQTTSubAckPacket,
    MQTTUnsubAckPacket,
    decode_publish,
)
from ..property import MQTTPublishProps
from ..records import Message, Report
from .policy import describe

if TYPE_CHECKING:
    from ..link import Link
    from .core import Session

__all__ = ["Receiving"]

# Packet types that may carry a Reason String or User Properties even if we asked for no problem information [MQTT-3.1.2-29].
_PROBLEM_INFORMATION_ALLOWED = frozenset({PacketType.CONNACK.value, PacketType.DISCONNECT.value, PacketType.PUBLISH.value})

# Acknowledgements of a packet identifier alone: Success, no properties.
_SHORT_ACKS = frozenset({0x40, 0x50, 0x62, 0x70})

_WARNING = 30


class Receiving:
    """The way in."""

    def __init__(self, session: Session) -> None:
        self.session = session
        # Handed over and not yet taken by the user's callbacks; `received_bytes` came since the last turn was taken.
        self.waiting_messages = 0
        self.waiting_bytes = 0
        self.received_bytes = 0
        self.dropped_count = 0
        self.disconnect_packet: MQTTDisconnectPacket | None = None

    # ---- packets ---------------------------------------------------------------------------------------------------------------------

    def receive(self, link: Link, data: bytes, now: float) -> None:
        """Decode and handle every whole packet of `data`; keep the rest."""
        if link.paused:
            _keep_unseen(link, data)
            return
        data = link.gather(data)
        session = self.session
        events = session.baskets.events
        size = len(data)
        offset = 0
        connected = link.state == CONNECTED
        append = events.append
        inbound = session.inbound
        outbound = session.outbound
        size_max = link.receive_size_max
        no_properties = MQTTPublishProps.EMPTY
        overflow = self._overflow()
        before = len(events)
        while offset + 1 < size:
            first = data[offset]
            length = data[offset + 1]
            start = offset + 2
            if length > 127:
                length, start = _long_length(data, offset, size)
                if not start:
                    break
            end = start + length
            if end - offset > size_max:
                raise ProtocolError(f"a packet of {end - offset} bytes is larger than our Maximum Packet Size of {size_max} bytes", 0x95)
            if end > size:
                break
            if first & 0xF0 == 0x30 and connected:
                message = decode_publish(data, start, end, first, Message)
                if message.properties is not no_properties:
                    self._inspect(message, link)
                if not message.qos:
                    if overflow:
                        self._drop(message)
                    else:
                        append(message)
                elif message.qos == 1:
                    inbound.receive_qos1(message, link)
                else:
                    inbound.receive_qos2(message, link)
            elif length == 2 and connected and first in _SHORT_ACKS:
                packet_id = data[start] << 8 | data[start + 1]
                if not packet_id:
                    raise ProtocolError("an acknowledgement with packet identifier 0")
                if first == 0x40:
                    outbound.puback(packet_id, link)
                elif first == 0x50:
                    outbound.pubrec(packet_id, link)
                elif first == 0x70:
                    outbound.pubcomp(packet_id, link)
                else:
                    inbound.pubrel(packet_id, link)
            else:
                connected = self._receive_other(link, first, data, start, end, now)
                if not connected and _may_not_go_on(link):
                    offset = end
                    break
            offset = end
        if len(events) > before:
            self.received_bytes += offset
        if offset < size:
            _keep_rest(link, data, offset)

    def _inspect(self, message: Message, link: Link) -> None:
        """Handle the properties of a received PUBLISH: Topic Alias, Payload Format Indicator."""
        properties = message.properties
        if properties.TopicAlias is not None:
            message.topic = link.aliases_in.resolve(message.topic, properties.TopicAlias)  # [MQTT-3.3.2-10]
        if properties.PayloadFormatIndicator:
            try:
                message.payload.decode()
            except UnicodeDecodeError as error:
                text = f"a message to {message.topic!r} is marked as UTF-8 and isn't: {error}; it is delivered as it came"
                self.session.baskets.events.append(Report(_WARNING, text))

    def _receive_other(self, link: Link, first: int, data: bytes, start: int, end: int, now: float) -> bool:
        """Handle any packet that is not on the hot path, or comes before CONNACK. Return whether the Link is connected afterwards."""
        packet: Any = DECODERS[first](data, start, end, first)
        self._dispatch(link, first >> 4, packet, now)
        return link.state == CONNECTED

    def _dispatch(self, link: Link, packet_type: int, packet: Any, now: float) -> None:
        if packet_type == PacketType.DISCONNECT:
            self._receive_disconnect(link, packet)
            return
        if not link.request_problem_information and packet_type not in _PROBLEM_INFORMATION_ALLOWED:
            properties = getattr(packet, "properties", None)
            if properties and (properties.ReasonString is not None or properties.UserProperty):
                raise ProtocolError(
                    f"{PacketType(packet_type).name} with a Reason String or User Property, and Request Problem Information is 0"
                )
        session = self.session
        if link.state == CONNECTING:  # [MQTT-3.2.0-1]
            if packet_type == PacketType.CONNACK:
                session.receive_connack(link, packet, now)
            elif packet_type == PacketType.AUTH:
                session.authentication.receive(link, packet)
            else:
                raise ProtocolError(f"{PacketType(packet_type).name} before CONNACK")
            return
        if isinstance(packet, MQTTPubAckPacket):
            session.outbound.puback(packet.packet_id, link, packet)
        elif isinstance(packet, MQTTPubRecPacket):
            session.outbound.pubrec(packet.packet_id, link, packet)
        elif isinstance(packet, MQTTPubCompPacket):
            session.outbound.pubcomp(packet.packet_id, link, packet)
        elif isinstance(packet, MQTTPubRelPacket):
            session.inbound.pubrel(packet.packet_id, link)
        elif isinstance(packet, MQTTSubAckPacket):
            session.subscriptions.suback(packet)
        elif isinstance(packet, MQTTUnsubAckPacket):
            session.subscriptions.unsuback(packet)
        elif packet_type == PacketType.AUTH:
            session.authentication.receive(link, packet)
        elif packet_type != PacketType.PINGRESP:  # [MQTT-3.2.0-2]
            raise ProtocolError(f"{PacketType(packet_type).name} from the server")

    def _receive_disconnect(self, link: Link, packet: MQTTDisconnectPacket) -> None:
        """The server says goodbye: close, and remember what it said [MQTT-4.13.2-1]."""
        self.disconnect_packet = packet
        if packet.reason_code not in SERVER_REASON_CODES[PacketType.DISCONNECT]:  # [MQTT-3.14.2-1]
            raise ProtocolError(f"DISCONNECT from the server with {reason_name(packet.reason_code)}, which only a client may send")
        if packet.properties.SessionExpiryInterval is not None:  # [MQTT-3.14.2-2]
            raise ProtocolError("DISCONNECT from the server with a Session Expiry Interval")
        link.close_error = LinkLostError(f"the server disconnected with {describe(packet)}", packet)
        link.state = CLOSED

    # ---- bounds ----------------------------------------------------------------------------------------------------------------------

    def _behind(self) -> tuple[int, int]:
        """Return how many events, and how many bytes of them, wait for the user: handed over, or still in the basket."""
        return self.waiting_messages + len(self.session.baskets.events), self.waiting_bytes + self.received_bytes

    def _overflow(self) -> bool:
        """Return whether QoS 0 messages are to be dropped."""
        settings = self.session.settings
        messages, size = self._behind()
        return messages >= settings.inbound_messages_hard_max or size >= settings.inbound_bytes_hard_max

    def within_bounds(self) -> bool:
        """Return whether the user's callbacks keep up, so that the socket is to be read whatever happens."""
        settings = self.session.settings
        messages, size = self._behind()
        return messages < settings.inbound_messages_max and size < settings.inbound_bytes_max

    def _drop(self, message: Message) -> None:
        """Drop a QoS 0 message: the user's callbacks are too far behind."""
        self.dropped_count += 1
        if self.dropped_count & (self.dropped_count - 1) == 0:
            messages, _ = self._behind()
            text = f"{self.dropped_count} QoS 0 messages dropped: the callbacks are {messages} messages behind (now: {message.topic!r})"
            self.session.baskets.events.append(Report(_WARNING, text))

    def taken(self, events: int) -> int:
        """A turn takes `events` along: they wait for the user from now on. Return how many received bytes go with them."""
        received_bytes = self.received_bytes
        self.received_bytes = 0
        self.waiting_messages += events
        self.waiting_bytes += received_bytes
        return received_bytes

    def delivered(self, events: int, received_bytes: int) -> None:
        """The user's callbacks have taken so much."""
        self.waiting_messages -= events
        self.waiting_bytes -= received_bytes


def _may_not_go_on(link: Link) -> bool:
    """Return whether what follows in the stream is not to be looked at, now or ever."""
    return link.paused or link.state >= CLOSING


def _keep_rest(link: Link, data: bytes, offset: int) -> None:
    """Keep what comes behind the last whole packet."""
    if link.paused:
        _keep_unseen(link, data[offset:])
    elif link.state < CLOSING:
        link.keep(data, offset)


def _keep_unseen(link: Link, data: bytes) -> None:
    """Keep bytes for later without looking at them: the CONNACK before them isn't believed yet."""
    if data:
        link.remainder_bytes = len(data) + (link.remainder_bytes if link.remainder else 0)
        link.remainder.append(data)
        link.remainder_needed = 0


def _long_length(data: bytes, offset: int, size: int) -> tuple[int, int]:
    """Decode a Remaining Length of more than one byte: value and next offset, or (0, 0) if it isn't complete."""
    length = data[offset + 1] & 0x7F
    shift = 7
    for at in range(offset + 2, offset + 5):
        if at >= size:
            return 0, 0
        byte = data[at]
        length |= (byte & 0x7F) << shift
        if byte < 0x80:
            if not byte:
                raise ProtocolError("Remaining Length is padded: it takes more bytes than it needs [MQTT-1.5.5-1]", 0x81)
            return length, at + 1
        shift += 7
    raise ProtocolError("Remaining Length takes more than four bytes (section 1.5.5)", 0x81)
