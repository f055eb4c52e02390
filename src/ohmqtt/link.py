"""One network connection, from the first byte to the last: what must be forgotten with it lives here, and nothing else.

A Link owns the receive buffer, the handshake state, the limits of the CONNACK, the alias maps, the send quota, the outbox and the keep-alive
times. It reads no clock (``now`` comes in) and touches no socket. There is no ``reset()``: a new network connection gets a new Link.

Its invariant: bytes leave in the order in which their writes joined the outbox, and a Topic Alias is bound at the moment its PUBLISH is encoded.
"""

from __future__ import annotations

from collections import deque
from math import ceil
from typing import TYPE_CHECKING

from .errors import KeepAliveError, MalformedPacketError, PacketTooLargeError, ProtocolError, ServerLimitError
from .mqtt_spec import STRING_BYTES_MAX, VARINT_MAX
from .serialization import decode_uint32, decode_varint, encode_uint16, encode_uint32, encode_varint
from .topic_alias import AliasPolicy, InboundAliases, OutboundAliases

if TYPE_CHECKING:
    from collections.abc import Callable

    from .errors import MQTTError
    from .packet import MQTTConnAckPacket, MQTTConnectPacket
    from .property import MQTTPubAckProps
    from .records import AuthStep, Message, Outgoing

__all__ = ["CHUNK_BYTES", "CLOSED", "CLOSING", "CONNECTED", "CONNECTING", "PINGREQ", "Link", "encode_header", "encode_topic_field"]

CONNECTING, CONNECTED, CLOSING, CLOSED = range(4)

PINGREQ = b"\xc0\x00"

CHUNK_BYTES = 262_144
"""How much is joined into one send: past this, copying costs more than the system calls that it saves."""

PING_MARGIN = 0.9
"""PINGREQ goes out at this part of the keep alive, so that it arrives *within* the interval [MQTT-3.1.2-20]."""

# Byte positions: a PUBLISH's properties begin with their length; Message Expiry Interval, if present, is always the first property.
EXPIRY_BYTES = 5

# The most that a Topic Alias adds: the property, and a longer Property Length and Remaining Length.
ALIAS_BYTES = 5


class Link:
    """The state of one network connection (sans-I/O)."""

    __slots__ = (
        "acknowledge",
        "acked",
        "auth_step",
        "authenticating",
        "close_at",
        "close_error",
        "connack",
        "connack_at",
        "connected_at",
        "aliases_in",
        "aliases_out",
        "flushing",
        "greeted",
        "inbound_open",
        "keep_alive_s",
        "last_progress",
        "last_received",
        "last_sent",
        "limited",
        "method",
        "outbox",
        "outbox_bytes",
        "packet_size_max",
        "paused",
        "ping_flushed_at",
        "ping_pending",
        "pubacks",
        "pubrecs",
        "publishes_sent",
        "qos_max",
        "qos2_open",
        "receive_maximum",
        "receive_size_max",
        "remainder",
        "remainder_bytes",
        "remainder_needed",
        "request_problem_information",
        "retain_available",
        "send_quota",
        "send_quota_max",
        "session_expiry_s",
        "shared_available",
        "state",
        "identifiers_available",
        "unsent",
        "wildcard_available",
    )

    def __init__(
        self, connect: MQTTConnectPacket, acknowledge: Callable[[Message, int, MQTTPubAckProps | None], None] | None, now: float
    ) -> None:
        properties = connect.properties
        self.acknowledge = acknowledge
        self.state = CONNECTING
        self.method = properties.AuthenticationMethod
        self.authenticating = self.method is not None
        # What the authenticator is at; one step at a time.
        self.auth_step: AuthStep | None = None
        # Whether CONNECT has joined the outbox.
        self.greeted = False
        self.connack: MQTTConnAckPacket | None = None
        self.close_error: MQTTError | None = None
        self.close_at: float | None = None
        self.connack_at: float | None = None
        self.connected_at: float | None = None
        self.paused = False
        # Receive buffer: the pieces of one incomplete packet, and how many bytes it takes before parsing again makes sense.
        self.remainder: list[bytes] = []
        self.remainder_bytes = 0
        self.remainder_needed = 0
        # What we offered to the server.
        self.receive_size_max: int = properties.MaximumPacketSize or VARINT_MAX + 5
        self.receive_maximum: int = properties.ReceiveMaximum or 65_535
        self.request_problem_information = properties.RequestProblemInformation != 0
        self.aliases_in = InboundAliases(properties.TopicAliasMaximum or 0)
        self.session_expiry_s: int = properties.SessionExpiryInterval or 0
        self.keep_alive_s: float = connect.keep_alive
        # What the server offers, known from its CONNACK.
        self.packet_size_max = VARINT_MAX + 5
        self.qos_max = 2
        self.retain_available = True
        self.wildcard_available = True
        self.shared_available = True
        self.identifiers_available = True
        self.limited = False
        self.aliases_out = OutboundAliases(0)
        self.send_quota = 0
        self.send_quota_max = 0
        # Exchanges.
        self.publishes_sent = 0
        self.acked = False
        self.pubacks: deque[Message] = deque()
        self.pubrecs: deque[Message] = deque()
        self.qos2_open: set[int] = set()
        self.inbound_open = 0
        # Outbox: what may leave, in order; `unsent` is the chunk being written, `flushing` the QoS 0 publications that are in it.
        self.outbox: deque[bytes | Outgoing] = deque()
        self.outbox_bytes = 0
        self.unsent: memoryview | bytes = b""
        self.flushing: list[Outgoing] = []
        # Keep alive.
        self.last_received = now
        self.last_sent = now
        self.last_progress = now
        self.ping_pending = False
        self.ping_flushed_at: float | None = None

    # ---- receiving -------------------------------------------------------------------------------------------------------------------

    def gather(self, data: bytes) -> bytes:
        """Return what can be parsed now: `data` behind the incomplete packet before it, or ``b""`` while a large packet is incomplete."""
        remainder = self.remainder
        if not remainder:
            return data
        remainder.append(data)
        self.remainder_bytes += len(data)
        if self.remainder_bytes < self.remainder_needed:
            return b""
        # Chunks of a large packet are joined once, so that the cost stays linear in its size.
        data = b"".join(remainder)
        remainder.clear()
        return data

    def keep(self, data: bytes, offset: int) -> None:
        """Keep the incomplete packet that starts at `offset` for the next `gather`."""
        rest = data[offset:]
        self.remainder = [rest]
        self.remainder_bytes = size = len(rest)
        self.remainder_needed = size + 1
        for i in range(1, min(size, 5)):
            if rest[i] < 0x80:
                length, start = decode_varint(rest, 1, size)
                self.remainder_needed = start + length
                if self.remainder_needed > self.receive_size_max:
                    raise ProtocolError(
                        f"a packet of {self.remainder_needed} bytes is larger than our Maximum Packet Size of {self.receive_size_max} bytes",
                        0x95,
                    )
                return
        if size >= 5:
            raise MalformedPacketError("Remaining Length takes more than four bytes (section 1.5.5)")

    # ---- limits of the server ---------------------------------------------------------------------------------------------------------

    def accept(self, connack: MQTTConnAckPacket, now: float) -> None:
        """Take over the limits of a successful CONNACK (section 3.2.2.3)."""
        properties = connack.properties
        self.connack = connack
        self.state = CONNECTED
        self.authenticating = False
        self.connack_at = None
        self.connected_at = now
        self.send_quota = self.send_quota_max = properties.ReceiveMaximum or 65_535  # [MQTT-4.9.0-1]
        if properties.MaximumPacketSize is not None:
            self.packet_size_max = properties.MaximumPacketSize
        if properties.MaximumQoS is not None:
            self.qos_max = properties.MaximumQoS
        self.retain_available = properties.RetainAvailable != 0
        self.wildcard_available = properties.WildcardSubscriptionAvailable != 0
        self.shared_available = properties.SharedSubscriptionAvailable != 0
        self.identifiers_available = properties.SubscriptionIdentifierAvailable != 0
        self.limited = self.packet_size_max < VARINT_MAX + 5 or self.qos_max < 2 or not self.retain_available
        self.aliases_out = OutboundAliases(properties.TopicAliasMaximum or 0)  # [MQTT-3.2.2-17] [MQTT-3.2.2-18]
        if properties.ServerKeepAlive is not None:
            self.keep_alive_s = properties.ServerKeepAlive  # [MQTT-3.1.2-21]
        if properties.SessionExpiryInterval is not None:
            self.session_expiry_s = properties.SessionExpiryInterval  # section 3.2.2.3.2

    def check(self, message: Outgoing) -> None:
        """Raise if the server can't take `message` (its full topic counted: an alias that doesn't fit is left off)."""
        if message.qos > self.qos_max:  # [MQTT-3.2.2-11]
            raise ServerLimitError(f"qos is {message.qos}, and the server's Maximum QoS is {self.qos_max}")
        if message.first & 1 and not self.retain_available:  # [MQTT-3.2.2-14]
            raise ServerLimitError("retain is True, and the server's Retain Available is 0")
        self.check_size("PUBLISH", message.size)

    def check_size(self, name: str, size: int) -> None:
        """Raise if a packet of `size` bytes in all is larger than the server's Maximum Packet Size."""
        if size > self.packet_size_max:  # [MQTT-3.2.2-15]
            raise PacketTooLargeError(f"{name} takes {size} bytes, and the server's Maximum Packet Size is {self.packet_size_max} bytes")

    # ---- sending ---------------------------------------------------------------------------------------------------------------------

    def next_chunk(self, now: float) -> memoryview | bytes:
        """Return the bytes to hand to the socket now (``b""``: none). Give back what was taken with `sent`."""
        if self.unsent:
            return self.unsent
        outbox = self.outbox
        if not outbox:
            return b""
        self.last_progress = now
        pieces: list[bytes] = []
        size = 0
        waiting = self.outbox_bytes
        while outbox and size < CHUNK_BYTES:
            write = outbox.popleft()
            if type(write) is bytes:
                pieces.append(write)
                size += len(write)
                continue
            message: Outgoing = write  # type: ignore[assignment]
            first = message.first
            qos = first & 6
            if qos and not message.packet_id:
                # The session ended while it stood here, so it waits for a new one. What doesn't leave announces no alias.
                continue
            topic_field = message.topic_field
            properties = message.properties
            payload = message.payload
            if message.options is not None:
                topic_field, properties = self._dress(message, now)
            if qos:
                self.publishes_sent += 1
                length = len(topic_field) + 2 + len(properties) + len(payload)
                if message.sent:
                    first |= 8  # [MQTT-3.3.1-1]
                else:
                    message.sent = True  # [MQTT-4.3.2-2] [MQTT-4.3.3-2]
                pieces += (
                    bytes((first, length)) if length < 128 else encode_header(first, length),
                    topic_field,
                    encode_uint16(message.packet_id),
                    properties,
                    payload,
                )
            else:
                length = len(topic_field) + len(properties) + len(payload)
                pieces += (bytes((first, length)) if length < 128 else encode_header(first, length), topic_field, properties, payload)
                self.flushing.append(message)
                waiting -= length if message.options is None else len(message.topic_field) + len(message.properties) + len(payload)
            size += length + 2
        self.outbox_bytes = waiting
        chunk = b"".join(pieces)
        self.unsent = chunk
        return chunk

    def sent(self, count: int, now: float) -> list[Outgoing]:
        """Note that the socket took `count` bytes of the chunk; return the QoS 0 publications that are now wholly handed over."""
        unsent = self.unsent
        self.last_progress = now
        if count < len(unsent):
            self.unsent = memoryview(unsent)[count:]
            return []
        self.unsent = b""
        self.last_sent = now
        if self.ping_pending and self.ping_flushed_at is None and not (self.outbox and self.outbox[0] is PINGREQ):
            self.ping_flushed_at = now
        flushed = self.flushing
        if flushed:
            self.flushing = []
        return flushed

    def pending(self) -> bool:
        """Return whether anything waits to be written."""
        return bool(self.unsent) or bool(self.outbox)

    def _dress(self, message: Outgoing, now: float) -> tuple[bytes, bytes]:
        """Return the topic field and the properties of `message` as they go on the wire now: remaining expiry, Topic Alias."""
        topic_field = message.topic_field
        properties = message.properties
        options = message.options
        assert options is not None
        _, start = decode_varint(properties, 0, len(properties))
        block = properties[start:]
        if options.expires_at is not None:
            # Reduced by the time it waited (section 3.3.2.3.3). What ran out before it was sent is sorted out before: so at least 1.
            published_s, _ = decode_uint32(block, 1, EXPIRY_BYTES)
            remaining_s = max(1, ceil(options.expires_at - now))
            block = b"\x02" + encode_uint32(min(remaining_s, published_s)) + block[EXPIRY_BYTES:]
        if options.alias_policy is not AliasPolicy.NEVER:
            alias, topic_must_be_sent = self.aliases_out.assign(message.topic, options.alias_policy)
            if alias and message.size + ALIAS_BYTES > self.packet_size_max:
                # An alias that doesn't fit is left off, and a binding that wasn't sent must not be believed later.
                if topic_must_be_sent:
                    self.aliases_out.discard(message.topic)
            elif alias:
                block = b"\x23" + encode_uint16(alias) + block
                if not topic_must_be_sent:
                    topic_field = b"\x00\x00"
        return topic_field, encode_varint(len(block)) + block

    # ---- keep alive ------------------------------------------------------------------------------------------------------------------

    def deadline(self) -> float | None:
        """Return when `tick` must be called next, if nothing happens before."""
        if self.close_at is not None:
            return self.close_at
        if self.state == CONNECTING:
            return self.connack_at
        keep_alive_s = self.keep_alive_s
        if not keep_alive_s:
            return None
        at = None if self.ping_pending else min(self.last_sent, self.last_received) + keep_alive_s * PING_MARGIN
        if self.ping_flushed_at is not None:
            at = self.ping_flushed_at + keep_alive_s / 2
        if self.unsent:
            stalled_at = self.last_progress + keep_alive_s
            at = stalled_at if at is None else min(at, stalled_at)
        return at

    def tick(self, now: float, *, unread: bool = False) -> None:
        """Send PINGREQ if it is due; raise `KeepAliveError` if the peer is silent. `unread`: the socket holds data that we don't read."""
        keep_alive_s = self.keep_alive_s
        if not keep_alive_s or self.state != CONNECTED:
            return
        if unread:
            # What the peer sent, its PINGRESP perhaps, waits in the socket: a sign of life. Our next PINGREQ must not wait for it.
            self.last_received = now
            if self.ping_flushed_at is not None:
                self.ping_pending = False
                self.ping_flushed_at = None
        if self.unsent and now >= self.last_progress + keep_alive_s:
            raise KeepAliveError(f"the peer took no byte for the keep alive of {keep_alive_s:g} s")
        if self.ping_pending:
            if self.ping_flushed_at is not None and now >= self.ping_flushed_at + keep_alive_s / 2:
                raise KeepAliveError(f"no byte from the peer within {keep_alive_s / 2:g} s of our PINGREQ")
        elif now >= min(self.last_sent, self.last_received) + keep_alive_s * PING_MARGIN:
            # Before all that waits: behind it, a busy publisher would never see it flushed, nor notice that nobody answers.
            self.ping_pending = True
            self.outbox.appendleft(PINGREQ)  # [MQTT-3.1.2-20]


def encode_header(first: int, length: int) -> bytes:
    """Return a fixed header: the first byte and the Remaining Length (section 2.1)."""
    return bytes((first,)) + encode_varint(length)


def encode_topic_field(topic: bytes) -> bytes:
    """Return the topic as it stands in a PUBLISH, its length before it. `topic` is valid UTF-8 of at most 65,535 bytes."""
    assert len(topic) <= STRING_BYTES_MAX
    return encode_uint16(len(topic)) + topic
