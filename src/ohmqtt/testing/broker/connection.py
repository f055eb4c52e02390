"""One network connection of the broker: bytes in, packets judged and handled, bytes out. What dies with it lives here.

Invariant: nothing is written after a DISCONNECT or a refusing CONNACK, and a packet larger than the client takes never.
"""

from __future__ import annotations

from collections import deque
from copy import copy
from math import inf
from typing import TYPE_CHECKING, Any

from ...errors import ProtocolError
from ...mqtt_spec import CLIENT_REASON_CODES, SERVER_REASON_CODES, PacketType, reason_name
from ...packet import (
    MQTTAuthPacket,
    MQTTConnAckPacket,
    MQTTConnectPacket,
    MQTTDisconnectPacket,
    MQTTPacket,
    MQTTPubAckPacket,
    MQTTPubCompPacket,
    MQTTPublishPacket,
    MQTTPubRecPacket,
    MQTTPubRelPacket,
    MQTTSubAckPacket,
    MQTTUnsubAckPacket,
    decode_packet,
)
from ...property import MQTTConnAckProps, MQTTDisconnectProps
from ...topic_alias import AliasPolicy, InboundAliases, OutboundAliases
from . import opening
from .handling import HANDLERS
from .script import Direction, Ending, check_steps

if TYPE_CHECKING:
    from .core import BrokerCore
    from .records import Delivery
    from .script import Script
    from .session import Session
    from .settings import ServerAuthenticator

__all__ = ["Connection"]

_CLIENT_CODES: dict[type[MQTTPacket], frozenset[int]] = {
    MQTTPubAckPacket: CLIENT_REASON_CODES[PacketType.PUBACK],
    MQTTPubRecPacket: CLIENT_REASON_CODES[PacketType.PUBREC],
    MQTTDisconnectPacket: CLIENT_REASON_CODES[PacketType.DISCONNECT],
    MQTTAuthPacket: CLIENT_REASON_CODES[PacketType.AUTH],
}
_WITH_REASON = (MQTTConnAckPacket, MQTTDisconnectPacket)
_WITH_REASON_IF_ASKED = (
    *(MQTTPubAckPacket, MQTTPubRecPacket, MQTTPubRelPacket, MQTTPubCompPacket),
    *(MQTTSubAckPacket, MQTTUnsubAckPacket, MQTTAuthPacket),
)


class Connection:
    """The broker's end of a network connection.

    Whoever serves it takes the bytes in ``output``, and closes the transport once they are written if it is ``closing``.
    """

    def __init__(self, core: BrokerCore) -> None:
        self.core = core
        self.settings = core.settings
        self.output = bytearray()
        self.closing = False
        self.client_id = ""
        self.connect: MQTTConnectPacket | None = None
        self.session: Session | None = None
        self.disconnected_with: MQTTDisconnectPacket | None = None
        self.exchange: ServerAuthenticator | None = None
        self.method: str | None = None
        self.keep_alive_s = 0
        self.receive_maximum = 0
        self.packet_size_max: int | None = None
        self.explains = True
        # QoS 2 identifiers that the client opened on this connection and didn't finish.
        self.inbound: set[int] = set()
        # Identifiers of the QoS 1 and 2 messages that we sent on this connection and that aren't finished.
        self.outbound: set[int] = set()
        # Packet identifiers of PUBLISH packets of former connections that wait for their turn.
        self.resend: deque[int] = deque()
        self.aliases_in = InboundAliases(self.settings.topic_alias_maximum)
        self.aliases_out = OutboundAliases(0)
        self.last_received = core.now
        self._buffer = bytearray()

    def __repr__(self) -> str:
        return f"Connection({self.client_id!r}, closing={self.closing})"

    # ---- from the network ------------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> None:
        """Take bytes from the client, split anywhere."""
        core = self.core
        core.now = now
        # Appended to in place, so that a large packet in many pieces costs no more than its size.
        self._buffer += data
        buffer = self._buffer
        offset = 0
        while not self.closing:
            try:
                found = decode_packet(buffer, offset, packet_size_max=self.settings.maximum_packet_size)
                if found is None:
                    break
                packet, offset = found
                self.last_received = now
                verdict = None if core.script is None else core.script(self, packet, Direction.RECEIVED)
                if verdict is None:
                    self._handle(packet)
                    continue
            except ProtocolError as error:  # [MQTT-4.13.1-1]
                self.fail(error, answer=self.session is not None or self.connect is not None or buffer[offset] >> 4 == 1)
                break
            for step in check_steps(verdict):
                if isinstance(step, MQTTPacket):
                    self.handle(step, now)
                else:
                    self._do(step)
        del buffer[:offset]

    def lost(self, now: float) -> None:
        """Note that the transport has ended, in whatever way."""
        self.core.now = now
        self.output.clear()
        self.close()

    def handle(self, packet: MQTTPacket, now: float) -> None:
        """Handle a packet as if the client had sent it just now, without asking the script."""
        self.core.now = now
        if self.closing:
            return
        try:
            self._handle(packet)
        except ProtocolError as error:
            self.fail(error, answer=True)

    def _handle(self, packet: MQTTPacket) -> None:
        if self.connect is None:
            if not isinstance(packet, MQTTConnectPacket):  # [MQTT-3.1.0-1]
                self.close()
                return
            opening.begin(self, packet)
            return
        handler = HANDLERS.get(type(packet))
        if handler is None:
            raise ProtocolError(f"a client may not send {type(packet).__name__[4:-6].upper()} here")  # [MQTT-3.1.0-2]
        codes = _CLIENT_CODES.get(type(packet))
        if codes is not None and packet.reason_code not in codes:  # type: ignore[attr-defined]
            raise ProtocolError(f"a client may not send {reason_name(packet.reason_code)} here")  # type: ignore[attr-defined]
        if self.session is None and not isinstance(packet, (MQTTAuthPacket, MQTTDisconnectPacket)):  # [MQTT-3.1.2-30]
            raise ProtocolError("only AUTH and DISCONNECT may come before CONNACK")
        handler(self, packet)

    # ---- time ------------------------------------------------------------------------------------------------------------------------

    def deadline(self) -> float:
        """Return when the connection has been silent for too long; ``inf``: never."""
        if self.session is None:
            return self.last_received + self.settings.connect_timeout_s
        # [MQTT-3.1.2-22]
        return self.last_received + 1.5 * self.keep_alive_s if self.keep_alive_s else inf

    def time_out(self) -> None:
        """Close a connection that has been silent for too long."""
        self.disconnect(0x8D)

    # ---- to the network --------------------------------------------------------------------------------------------------------------

    def send(self, packet: MQTTPacket) -> None:
        """Send a packet, unless the script has something else in mind."""
        if self.closing:
            return
        script: Script | None = self.core.script
        verdict = None if script is None else script(self, packet, Direction.SENT)
        if verdict is None:
            self.transmit(packet)
            return
        for step in check_steps(verdict):
            if isinstance(step, MQTTPacket):
                self.transmit(step)
            else:
                self._do(step)

    def transmit(self, packet: MQTTPacket) -> None:
        """Encode a packet and put it to the output, without asking the script."""
        if self.closing:
            return
        if isinstance(packet, MQTTPublishPacket):
            packet = self._with_alias(packet)
        encoded = packet.encode()
        size_max = self.packet_size_max
        if isinstance(packet, _WITH_REASON_IF_ASKED) and packet.properties and not self.explains:  # [MQTT-3.1.2-29]
            packet = _without_reason(packet)
            encoded = packet.encode()
        if size_max is not None and len(encoded) > size_max:
            # [MQTT-3.1.2-24] [MQTT-3.2.2-19] [MQTT-3.2.2-20] [MQTT-3.14.2-3] and so on: what only explains is left out.
            if isinstance(packet, _WITH_REASON + _WITH_REASON_IF_ASKED):
                encoded = _without_reason(packet).encode()
            if len(encoded) > size_max:
                if isinstance(packet, _WITH_REASON):
                    self.close()
                else:
                    # What can't be answered has to end: nobody would know that the answer was left out.
                    self.disconnect(0x95)
                return
        self._write(encoded)

    def publish(self, delivery: Delivery, packet_id: int, *, dup: bool) -> bool:
        """Send a PUBLISH; return False if it is too large for the client [MQTT-3.1.2-24]."""
        packet = delivery.packet(packet_id, dup, self.core.now)
        if self.packet_size_max is not None and len(packet.encode()) > self.packet_size_max:
            return False
        self.send(packet)
        return True

    def refuse(self, reason_code: int, explanation: str = "") -> None:
        """Answer a CONNECT with a refusing CONNACK and close [MQTT-3.2.2-7]."""
        self.send(
            MQTTConnAckPacket(
                reason_code,
                False,  # [MQTT-3.2.2-6]
                MQTTConnAckProps(ReasonString=explanation or reason_name(reason_code), ServerReference=self._reference(reason_code)),
            )
        )
        self.close()

    def disconnect(self, reason_code: int, properties: MQTTDisconnectProps = MQTTDisconnectProps.EMPTY) -> None:
        """Send DISCONNECT if the client is connected [MQTT-3.14.0-1], and close [MQTT-3.14.4-2]."""
        if self.session is not None:
            reference = self._reference(reason_code)
            if reference is not None and properties.ServerReference is None:
                properties = properties.replace(ServerReference=reference)
            self.send(MQTTDisconnectPacket(reason_code, properties))
        self.close()

    def fail(self, error: ProtocolError, *, answer: bool) -> None:
        """Close because the client broke the standard; say so first, unless ``answer`` is false (section 4.13)."""
        if not answer:
            self.close()
            return
        codes = SERVER_REASON_CODES[PacketType.CONNACK if self.session is None else PacketType.DISCONNECT]
        code = error.reason_code if error.reason_code in codes else 0x82
        if self.session is None:
            self.refuse(code, str(error))
        else:
            self.disconnect(code, MQTTDisconnectProps(ReasonString=str(error)))

    def close(self) -> None:
        """Close the network connection once the output is written; the session goes on without it."""
        if self.closing:
            return
        self.closing = True
        core = self.core
        core.connections.pop(self, None)
        core.dirty[self] = None
        session, self.session = self.session, None
        if session is not None:
            core.detach(session)

    def _do(self, step: bytes | Ending) -> None:
        if isinstance(step, bytes):
            self._write(step)
            return
        if step is Ending.ABORT:
            self.output.clear()
        self.close()

    def _write(self, data: bytes) -> None:
        if not self.closing:
            self.output += data
            self.core.dirty[self] = None

    def _reference(self, reason_code: int) -> str | None:
        return self.settings.server_reference if reason_code in (0x9C, 0x9D) else None

    def _with_alias(self, packet: MQTTPublishPacket) -> MQTTPublishPacket:
        """Put a Topic Alias on, if the client offers one for this topic [MQTT-3.1.2-26]."""
        aliases = self.aliases_out
        if not aliases.maximum or packet.properties.TopicAlias is not None:
            return packet
        alias, with_topic = aliases.assign(packet.topic, AliasPolicy.TRY)
        if not alias:
            return packet
        dressed = MQTTPublishPacket(
            packet.topic if with_topic else "",
            packet.payload,
            packet.qos,
            packet.retain,
            packet.dup,
            packet.packet_id,
            packet.properties.replace(TopicAlias=alias),
        )
        if self.packet_size_max is not None and len(dressed.encode()) > self.packet_size_max:
            if with_topic:
                aliases.discard(packet.topic)
            return packet
        return dressed


def _without_reason(packet: Any) -> Any:
    """Return the packet without Reason String and User Properties."""
    bare = copy(packet)
    bare.properties = packet.properties.replace(ReasonString=None, UserProperty=None)
    return bare
