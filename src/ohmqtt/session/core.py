"""The Session: everything of an MQTT client that needs thought, and that outlives a network connection.

It is sans-I/O: it touches no socket, disk, thread, clock, random source or logger. It is told bytes, requests and ``now`` (monotonic,
seconds), and fills the baskets: journal, writes, events. A driver empties them in that order and asks for the next `deadline`.

Its invariant: replayed, the journal gives what is in memory; and nothing that depends on the journal leaves before it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from ..errors import (
    ArgumentError,
    AuthenticationError,
    ConnectError,
    ConnectRefusedError,
    ForeignSessionError,
    LinkLostError,
    MQTTError,
    ProtocolError,
    StateError,
    StoreOwnerError,
)
from ..journal import IDENTITY, SESSION
from ..link import CLOSED, CLOSING, CONNECTED, CONNECTING, Link
from ..mqtt_spec import CLIENT_REASON_CODES, PacketType, reason_name
from ..packet import (
    DECODERS,
    MQTTAuthPacket,
    MQTTConnAckPacket,
    MQTTConnectPacket,
    MQTTDisconnectPacket,
    MQTTPubAckPacket,
    MQTTPubCompPacket,
    MQTTPubRecPacket,
    MQTTPubRelPacket,
    MQTTSubAckPacket,
    MQTTUnsubAckPacket,
    decode_publish,
)
from ..property import MQTTAuthProps, MQTTConnectProps, MQTTDisconnectProps, MQTTPublishProps
from ..records import AuthStep, Connected, Disconnected, Message, Reauthenticated, Report
from .baskets import Baskets, Turn
from .inbound import Inbound
from .outbound import Outbound
from .subscriptions import Subscriptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..errors import StoreError
    from ..journal import StoredMessage, StoredState
    from ..property import MQTTPubAckProps
    from ..records import Outgoing, Request
    from .settings import SessionSettings

__all__ = ["DIALLING", "IDLE", "LINKED", "STOPPED", "WAITING", "Session"]

IDLE, WAITING, DIALLING, LINKED, STOPPED = range(5)

EXPIRY_DEFAULT_S = 300
"""Session Expiry Interval unless the caller names one: a broken link shall not lose the session."""

RECEIVE_MAXIMUM_DEFAULT = 1_024
"""Receive Maximum unless the caller names one: it bounds what is delivered and not yet acknowledged."""

# Reasons that a new attempt can't heal. For DISCONNECT only these: the rest may be about one packet, or about the moment.
FATAL_CONNACK = frozenset({0x81, 0x82, 0x84, 0x85, 0x86, 0x87, 0x8A, 0x8C, 0x90, 0x95, 0x99, 0x9A, 0x9B, 0x9C, 0x9D})
FATAL_DISCONNECT = frozenset({0x87, 0x8A, 0x8C, 0x8E, 0x98, 0x9C, 0x9D})
# A server that closes with one of these, or without a word, may have choked on a publication.
POISON_DISCONNECT = frozenset({0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x99, 0x9A, 0x9B})

# Packet types that may carry a Reason String or User Properties even if we asked for no problem information [MQTT-3.1.2-29].
PROBLEM_INFORMATION_ALLOWED = frozenset({PacketType.CONNACK.value, PacketType.DISCONNECT.value, PacketType.PUBLISH.value})

WARNING, ERROR = 30, 40
UNMATCHED_MAX = 10_000

RETRY_S = 1.0
"""How long to wait before the disk is asked again."""


class Session:
    """One client's MQTT session and its connection policy (sans-I/O)."""

    def __init__(
        self,
        settings: SessionSettings,
        *,
        durable: bool = False,
        acknowledge: Callable[[Message, int, MQTTPubAckProps | None], None] | None = None,
    ) -> None:
        self.settings = settings
        self.durable = durable
        self.acknowledge_call = acknowledge
        self.baskets = Baskets(durable)
        self.outbound = Outbound(self.baskets, settings)
        self.inbound = Inbound(self.baskets)
        self.subscriptions = Subscriptions(self.baskets, self.outbound)
        self.auth_steps: list[AuthStep] = []
        # Who we are for the server.
        self.client_id = ""
        self.owner: str | None = None
        self.ours = False
        self.epoch = 0
        # The wish to be connected, and where it stands.
        self.phase = IDLE
        self.connect_packet: MQTTConnectPacket | None = None
        self.expiry_named = False
        self.clean_start = False
        self.link: Link | None = None
        self.ours_before = False
        self.failure: MQTTError | None = None
        self.last_error: MQTTError | None = None
        self.attempts = 0
        self.dial_at = 0.0
        # Received, and not yet taken by the user's callbacks.
        self.waiting_messages = 0
        self.waiting_bytes = 0
        self.received_bytes = 0
        self.unmatched: deque[tuple[float, Message]] = deque()
        self.unmatched_count = 0
        self.dropped_count = 0
        # Turns: taken and not committed.
        self.open_turns = 0
        self.retry_at: float | None = None
        self.disconnect_packet: MQTTDisconnectPacket | None = None

    # ---- connecting ------------------------------------------------------------------------------------------------------------------

    def recover(self, state: StoredState, make: Callable[[StoredMessage], Outgoing]) -> None:
        """Take over what a store kept from a former process."""
        self.outbound.recover(state, make)
        self.owner = state.client_id
        if state.session is not None:
            epoch, ours = state.session.split()
            self.epoch = int(epoch)
            self.ours = ours == "ours"
        for packet_id in state.received:
            self.inbound.received[packet_id] = None

    def connect(self, packet: MQTTConnectPacket, now: float) -> None:
        """Begin to connect, and stay connected until `disconnect` or a reason that can't heal.

        :raises StateError: there is a connection, or an attempt at one.
        :raises StoreOwnerError: the database belongs to another client identifier.
        """
        if self.phase not in (IDLE, STOPPED):
            raise StateError("connect() while connected or connecting: call disconnect() first")
        client_id = packet.client_id
        if self.owner is not None:
            if client_id and client_id != self.owner:
                raise StoreOwnerError(f"the database belongs to client id {self.owner!r}, not to {client_id!r}: use another db_path, or that id")
            client_id = self.owner
        elif self.durable and client_id:
            self.owner = client_id
            self.baskets.record(IDENTITY, client_id)
        if client_id != self.client_id and self.client_id:
            # Another identifier is another session [MQTT-3.1.3-2].
            self._end_session()
        self.client_id = client_id
        properties = packet.properties
        self.expiry_named = properties.SessionExpiryInterval is not None
        if not self.expiry_named:
            properties = properties.replace(SessionExpiryInterval=EXPIRY_DEFAULT_S)
        if properties.ReceiveMaximum is None:
            properties = properties.replace(ReceiveMaximum=RECEIVE_MAXIMUM_DEFAULT)
        if self.durable and properties.SessionExpiryInterval == 0:
            text = "SessionExpiryInterval is 0: the server forgets the session with each connection, so the database can't keep its promise"
            self.baskets.events.append(Report(WARNING, text))
        self.connect_packet = MQTTConnectPacket(
            client_id, packet.clean_start, packet.keep_alive, packet.will, packet.user_name, packet.password, properties
        )
        self.clean_start = packet.clean_start
        self.failure = None
        self.attempts = 0
        self.phase = WAITING
        self.dial_at = now

    def dial(self, now: float) -> bool:
        """Return whether the driver is to open a network connection now; if so, it must answer with `opened` or `dial_failed`."""
        if self.phase != WAITING or now < self.dial_at:
            return False
        self.phase = DIALLING
        return True

    def opened(self, now: float, authentication_data: bytes | None = None) -> bool:
        """The driver has a network connection: send CONNECT [MQTT-3.1.0-1]. False: it isn't wanted any more."""
        template = self.connect_packet
        if self.phase != DIALLING or template is None:
            return False
        properties = template.properties
        if authentication_data is not None:
            properties = properties.replace(AuthenticationData=authentication_data)
        packet = MQTTConnectPacket(
            self.client_id, self.clean_start, template.keep_alive, template.will, template.user_name, template.password, properties
        )
        self.phase = LINKED
        self.link = link = Link(packet, self.acknowledge_call, now)
        link.connack_at = now + self.settings.connack_timeout_s
        # From here on the server may have a session of ours, whatever becomes of the answer; a database must know before the server does.
        self.ours_before = self.ours
        if not self.ours:
            self._own(True)
        self.baskets.writes.append(packet.encode())
        return True

    def _own(self, ours: bool) -> None:
        self.ours = ours
        if ours:
            self.epoch += 1
        self.baskets.record(SESSION, f"{self.epoch} {'ours' if ours else 'none'}")

    def dial_failed(self, error: MQTTError, now: float, random: float) -> None:
        """The driver could not open a network connection. `random`: 0 ≤ random < 1, for the backoff."""
        if self.phase == DIALLING:
            self._retry_or_stop(error, None, False, isinstance(error, AuthenticationError), now, random)

    def _retry_or_stop(
        self, error: MQTTError, packet: MQTTDisconnectPacket | MQTTConnAckPacket | None, was_connected: bool, fatal: bool, now: float, random: float
    ) -> None:
        retry_in_s: float | None = None
        self.last_error = error
        if fatal or not self.settings.reconnect:
            self.phase = STOPPED
            self.failure = error
        else:
            settings = self.settings
            bound_s = min(settings.reconnect_max_s, settings.reconnect_initial_s * 2.0 ** min(self.attempts, 30))
            retry_in_s = bound_s * random
            self.attempts += 1
            self.phase = WAITING
            self.dial_at = now + retry_in_s
        self.baskets.events.append(Disconnected(error, packet, was_connected, retry_in_s))

    def link_lost(self, error: MQTTError | None, now: float, random: float) -> None:
        """The network connection is closed: by the peer (`error` says how) or by the driver, after `must_close` said so."""
        link = self.link
        if link is None:
            return
        self.link = None
        was_connected = link.connack is not None
        by_peer = link.close_error is None
        cause = link.close_error or error or LinkLostError("the server closed the connection")
        packet = getattr(cause, "packet", None)
        if isinstance(packet, MQTTDisconnectPacket):
            by_peer = packet.reason_code in POISON_DISCONNECT
        link.state = CLOSED
        self.outbound.drop_writes(self.baskets.writes)
        self.baskets.writes.clear()
        self.outbound.link_lost(link, by_peer)
        self.subscriptions.link_lost()
        if link.connected_at is not None and now - link.connected_at >= self.settings.stable_s:
            self.attempts = 0
        if self.connect_packet is None:
            self.phase = IDLE
            self.baskets.events.append(Disconnected(None, None, was_connected, None))
            return
        if not was_connected and isinstance(cause, LinkLostError):
            cause = self._not_connected(cause, packet)
        fatal = isinstance(cause, (ForeignSessionError, AuthenticationError))
        if isinstance(packet, MQTTConnAckPacket):
            fatal = packet.reason_code in FATAL_CONNACK
        elif isinstance(packet, MQTTDisconnectPacket):
            fatal = packet.reason_code in FATAL_DISCONNECT
        self._retry_or_stop(cause, packet, was_connected, fatal, now, random)

    @staticmethod
    def _not_connected(cause: LinkLostError, packet: Any) -> ConnectError:
        """Return the error of an attempt that ended before the CONNACK [MQTT-3.1.4-2]."""
        if packet is not None:
            return ConnectRefusedError(str(cause), packet)
        error = ConnectError(f"no CONNACK: {cause}")
        error.__cause__ = cause
        return error

    def disconnect(self, now: float, reason_code: int = 0, properties: MQTTDisconnectProps = MQTTDisconnectProps.EMPTY) -> None:
        """Say goodbye (section 3.14), or give up connecting; settle every open handle.

        :raises ArgumentError: a reason code that a client can't send, or a Session Expiry Interval where CONNECT's was 0.
        """
        link = self.link
        packet = check_disconnect(reason_code, properties, link)
        survives = self.ours and self.connect_packet is not None and bool(self.connect_packet.properties.SessionExpiryInterval)
        if link is not None and link.state in (CONNECTING, CONNECTED):
            survives = bool(link.session_expiry_s)
            if not self.durable and not self.expiry_named and survives and not reason_code and properties.SessionExpiryInterval is None:
                # Nobody asked for the session to be kept beyond a clean end, so nothing stays behind.
                packet = MQTTDisconnectPacket(0, properties.replace(SessionExpiryInterval=0))
            if packet.properties.SessionExpiryInterval is not None:
                survives = packet.properties.SessionExpiryInterval > 0
            data = packet.encode()
            for fallback in (packet.properties.replace(UserProperty=()), packet.properties.replace(UserProperty=(), ReasonString=None)):
                if len(data) > link.packet_size_max:  # [MQTT-3.14.2-3] [MQTT-3.14.2-4]
                    data = MQTTDisconnectPacket(reason_code, fallback).encode()
            self.baskets.writes.append(data)
            link.state = CLOSING  # [MQTT-3.14.4-1]
            link.close_at = now + self.settings.close_timeout_s
            link.connack_at = None
        else:
            self.phase = IDLE
        self.connect_packet = None
        self.outbound.close_out(survives)
        self.subscriptions.close_out()
        if not survives and self.ours:
            self._end_session()

    def abandon(self, now: float) -> None:
        """The client is shut down at once: the network connection is closed, every open handle is settled."""
        survives = self.ours and (self.link is None or bool(self.link.session_expiry_s))
        self.connect_packet = None
        self.link_lost(None, now, 0.0)
        self.phase = IDLE
        self.outbound.close_out(survives)
        self.subscriptions.close_out()

    def _end_session(self) -> None:
        """The session at the server has ended, by our own doing: nothing of it is left."""
        self.outbound.session_lost()
        self.inbound.session_lost()
        self._own(False)

    # ---- receiving --------------------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> None:
        """Take bytes from the network connection, cut anywhere. Whatever they hold, nothing but state and baskets changes."""
        link = self.link
        if link is None or link.state >= CLOSING:
            return
        link.last_received = now
        if link.ping_pending and link.ping_flushed_at is not None and data:
            link.ping_pending = False
            link.ping_flushed_at = None
        events = self.baskets.events
        before = len(events)
        try:
            self._receive(link, link.gather(data), now)
        except MQTTError as error:
            self.fail_link(error, now)
        if len(events) > before:
            self.received_bytes += len(data)

    def _receive(self, link: Link, data: bytes, now: float) -> None:
        """Decode and handle every whole packet of `data`; keep the rest."""
        size = len(data)
        offset = 0
        connected = link.state == CONNECTED
        append = self.baskets.events.append
        inbound = self.inbound
        outbound = self.outbound
        size_max = link.receive_size_max
        no_properties = MQTTPublishProps.EMPTY
        settings = self.settings
        overflow = self.waiting_messages >= settings.inbound_messages_hard_max or self.waiting_bytes >= settings.inbound_bytes_hard_max
        while offset + 1 < size:
            first = data[offset]
            length = data[offset + 1]
            start = offset + 2
            if length > 127:
                length, start = long_length(data, offset, size)
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
            elif length == 2 and connected and first in SHORT_ACKS:
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
                self._receive_other(link, first, data, start, end, now)
                connected = link.state == CONNECTED
                if link.paused or link.state >= CLOSING:
                    offset = end
                    break
            offset = end
        if offset < size and link.state < CLOSING:
            link.keep(data, offset)

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
                self.baskets.events.append(Report(WARNING, text))

    def _drop(self, message: Message) -> None:
        """Drop a QoS 0 message: the user's callbacks are too far behind."""
        self.dropped_count += 1
        if self.dropped_count & (self.dropped_count - 1) == 0:
            text = f"{self.dropped_count} QoS 0 messages dropped: the callbacks are {self.waiting_messages} messages behind (now: {message.topic!r})"
            self.baskets.events.append(Report(WARNING, text))

    def _receive_other(self, link: Link, first: int, data: bytes, start: int, end: int, now: float) -> None:
        """Handle any packet that is not on the hot path, or comes before CONNACK."""
        packet: Any = DECODERS[first](data, start, end, first)
        packet_type = first >> 4
        if packet_type == PacketType.DISCONNECT:
            self._receive_disconnect(link, packet)
            return
        if link.state == CONNECTING:  # [MQTT-3.2.0-1]
            if packet_type == PacketType.CONNACK:
                self._receive_connack(link, packet, now)
            elif packet_type == PacketType.AUTH:
                self._receive_auth(link, packet)
            else:
                raise ProtocolError(f"{PacketType(packet_type).name} before CONNACK")
            return
        if not link.request_problem_information and packet_type not in PROBLEM_INFORMATION_ALLOWED:
            properties = getattr(packet, "properties", None)
            if properties and (properties.ReasonString is not None or properties.UserProperty):
                raise ProtocolError(f"{PacketType(packet_type).name} with a Reason String or User Property, and Request Problem Information is 0")
        if isinstance(packet, MQTTPubAckPacket):
            self.outbound.puback(packet.packet_id, link, packet)
        elif isinstance(packet, MQTTPubRecPacket):
            self.outbound.pubrec(packet.packet_id, link, packet)
        elif isinstance(packet, MQTTPubCompPacket):
            self.outbound.pubcomp(packet.packet_id, link, packet)
        elif isinstance(packet, MQTTPubRelPacket):
            self.inbound.pubrel(packet.packet_id, link, packet)
        elif isinstance(packet, MQTTSubAckPacket):
            self.subscriptions.suback(packet)
        elif isinstance(packet, MQTTUnsubAckPacket):
            self.subscriptions.unsuback(packet)
        elif packet_type == PacketType.AUTH:
            self._receive_auth(link, packet)
        elif packet_type != PacketType.PINGRESP:  # [MQTT-3.2.0-2]
            raise ProtocolError(f"{PacketType(packet_type).name} from the server")

    def _receive_disconnect(self, link: Link, packet: MQTTDisconnectPacket) -> None:
        """The server says goodbye: close, and remember what it said [MQTT-4.13.2-1]."""
        self.disconnect_packet = packet
        if packet.properties.SessionExpiryInterval is not None:  # [MQTT-3.14.2-2]
            raise ProtocolError("DISCONNECT from the server with a Session Expiry Interval")
        text = packet.properties.ReasonString
        reference = packet.properties.ServerReference
        reason = reason_name(packet.reason_code) + (f": {text}" if text else "") + (f" (Server Reference {reference!r})" if reference else "")
        link.close_error = LinkLostError(f"the server disconnected with {reason}", packet)
        link.state = CLOSED

    def _receive_connack(self, link: Link, packet: MQTTConnAckPacket, now: float) -> None:
        if packet.reason_code >= 0x80:
            text = packet.properties.ReasonString
            reference = packet.properties.ServerReference
            reason = reason_name(packet.reason_code) + (f": {text}" if text else "") + (f" (Server Reference {reference!r})" if reference else "")
            link.close_error = ConnectRefusedError(f"the server refused the connection with {reason}", packet)
            link.state = CLOSED
            return
        if packet.properties.AuthenticationMethod != link.method:  # [MQTT-4.12.0-5] [MQTT-4.12.0-6]
            raise ProtocolError(f"CONNACK with Authentication Method {packet.properties.AuthenticationMethod!r}, and CONNECT had {link.method!r}")
        if link.method is not None:
            # The server must prove itself before anything of it is believed: what it sent behind the CONNACK waits.
            link.paused = True
            link.connack_at = now + self.settings.connack_timeout_s
            self.auth_steps.append(AuthStep(link, True, packet.properties.AuthenticationData, packet))
            return
        self._established(link, packet, now)

    def _established(self, link: Link, packet: MQTTConnAckPacket, now: float) -> None:
        """The connection is accepted: resume the session, or begin a new one; then send what waits."""
        if packet.session_present:
            if self.clean_start:
                raise ProtocolError("CONNACK with Session Present 1, and CONNECT had Clean Start 1")
            if not self.ours_before and not self.settings.adopt_session:  # [MQTT-3.2.2-4]
                self._own(False)
                raise ForeignSessionError(
                    f"the server has a session of client id {self.client_id!r} that this client knows nothing of: give db_path to keep sessions "
                    "across processes, clean_start=True to discard that one, or adopt_session=True to take what the server kept"
                )
        link.accept(packet, now)
        assigned = packet.properties.AssignedClientIdentifier
        if assigned is not None and not self.client_id:  # [MQTT-3.1.3-7]
            self.client_id = assigned
            if self.durable:
                self.owner = assigned
                self.baskets.record(IDENTITY, assigned)
        self.clean_start = False
        if not packet.session_present:  # [MQTT-3.2.2-5] [MQTT-3.1.2-4]
            self.outbound.session_lost()
            self.inbound.session_lost()
        self.subscriptions.resume(packet.session_present)
        self.outbound.resume(link)
        self.baskets.events.append(Connected(packet))

    def _receive_auth(self, link: Link, packet: MQTTAuthPacket) -> None:
        """Handle AUTH (section 4.12)."""
        if link.method is None:  # [MQTT-4.12.0-6]
            raise ProtocolError("AUTH from the server, and CONNECT had no Authentication Method")
        if packet.properties.AuthenticationMethod != link.method:  # [MQTT-4.12.0-5]
            raise ProtocolError(f"AUTH with Authentication Method {packet.properties.AuthenticationMethod!r}, and CONNECT had {link.method!r}")
        if not link.authenticating:
            raise ProtocolError("AUTH from the server, and no authentication is under way")
        if packet.reason_code == 0x18:
            self.auth_steps.append(AuthStep(link, False, packet.properties.AuthenticationData, packet))
        elif packet.reason_code == 0x00 and link.state == CONNECTED:
            link.authenticating = False
            self.auth_steps.append(AuthStep(link, True, packet.properties.AuthenticationData, packet))
        else:
            raise ProtocolError(f"AUTH from the server with {reason_name(packet.reason_code)}")

    def authenticated(self, step: AuthStep, data: bytes | None, error: Exception | None, now: float) -> None:
        """The authenticator has done `step`: send its answer, or believe the server, or close."""
        link = step.link
        if link is not self.link or link.state >= CLOSING:
            return
        if error is not None:
            failure = error if isinstance(error, AuthenticationError) else AuthenticationError(f"the authenticator failed: {error!r}")
            if failure is not error:
                failure.__cause__ = error
            self.fail_link(failure, now, 0x83)  # [MQTT-4.12.1-2]
            return
        if not step.finish:
            properties = MQTTAuthProps(AuthenticationMethod=link.method, AuthenticationData=data)
            self._write_auth(link, MQTTAuthPacket(0x18, properties), now)  # [MQTT-4.12.0-3]
        elif isinstance(step.packet, MQTTConnAckPacket):
            link.paused = False
            try:
                self._established(link, step.packet, now)
            except MQTTError as failed:
                self.fail_link(failed, now)
                return
            self.receive(b"", now)
        else:
            self.baskets.events.append(Reauthenticated(step.packet))

    def reauthenticate(self, data: bytes | None, now: float) -> None:
        """Start a re-authentication (section 4.12.1).

        :raises StateError: not connected, or connected without an Authentication Method, or one is under way.
        """
        link = self.link
        if link is None or link.state != CONNECTED:
            raise StateError("auth() needs a connection")
        if link.method is None:  # [MQTT-4.12.0-7]
            raise StateError("auth() needs an authenticator in connect(): without an Authentication Method a client must not send AUTH")
        if link.authenticating:
            raise StateError("a re-authentication is under way")
        self._write_auth(link, MQTTAuthPacket(0x19, MQTTAuthProps(AuthenticationMethod=link.method, AuthenticationData=data)), now)
        link.authenticating = True

    def _write_auth(self, link: Link, packet: MQTTAuthPacket, now: float) -> None:
        data = packet.encode()
        try:
            link.check_size("AUTH", len(data))
        except MQTTError as error:
            self.fail_link(error, now, 0x83)
            return
        self.baskets.writes.append(data)

    def fail_link(self, error: MQTTError, now: float, reason_code: int | None = None) -> None:
        """Close the link for `error`: DISCONNECT with the reason (section 4.13.1), and nothing after it."""
        link = self.link
        if link is None or link.state >= CLOSING:
            return
        code = reason_code or getattr(error, "reason_code", 0x82)
        link.close_error = error
        link.state = CLOSING
        link.close_at = now + self.settings.close_timeout_s
        outbound = self.outbound
        outbound.drop_writes(list(link.outbox))
        link.outbox.clear()
        outbound.drop_writes(self.baskets.writes)
        self.baskets.writes.clear()
        self.auth_steps.clear()
        properties = MQTTDisconnectProps.EMPTY
        text = str(error)[:1_000]
        if len(text.encode("utf-8", "replace")) + 20 <= link.packet_size_max and "\0" not in text:
            properties = MQTTDisconnectProps(ReasonString=text.encode("utf-8", "replace").decode())
        link.outbox.append(MQTTDisconnectPacket(code, properties).encode())

    # ---- the user's calls ---------------------------------------------------------------------------------------------------------------

    def connected_link(self) -> Link | None:
        """Return the Link if the server has accepted the connection and it isn't closing."""
        link = self.link
        return link if link is not None and link.state == CONNECTED else None

    def publish(self, message: Outgoing) -> None:
        """Accept a publication (see `Outbound.publish`)."""
        link = self.link
        self.outbound.publish(message, link if link is not None and link.state == CONNECTED else None)

    def subscribe(self, request: Request) -> None:
        """Declare subscriptions (see `Subscriptions.subscribe`); messages that were held for them go to their callbacks."""
        self.subscriptions.subscribe(request, self.connected_link())
        held = self.unmatched
        if held:
            self.unmatched = deque()
            for deadline, message in held:
                if self.subscriptions.due(message):
                    self.baskets.events.append(message)
                else:
                    self.unmatched.append((deadline, message))

    def unsubscribe(self, request: Request) -> None:
        """Ask for the end of subscriptions."""
        self.subscriptions.unsubscribe(request, self.connected_link())

    def answer(self, message: Message, reason_code: int = 0, properties: MQTTPubAckProps | None = None) -> None:
        """Acknowledge a received QoS 1 or 2 message."""
        self.inbound.answer(message, reason_code, properties, self.connected_link())

    def hold(self, message: Message, now: float) -> None:
        """Hold a message that matches no callback, for a `subscribe` to come."""
        if message.answer is not None:
            return
        self.unmatched.append((now + self.settings.unmatched_s, message))
        if len(self.unmatched) > UNMATCHED_MAX:
            self._give_up_unmatched()

    def _give_up_unmatched(self) -> None:
        _, message = self.unmatched.popleft()
        self.unmatched_count += 1
        self.answer(message)
        text = f"a QoS {message.qos} message to {message.topic!r} matched no callback; it was acknowledged and dropped ({self.unmatched_count} so far)"
        self.baskets.events.append(Report(WARNING, text))

    # ---- the driver's side ----------------------------------------------------------------------------------------------------------------

    def pump(self, now: float) -> bool:
        """Write what may be written now; return whether a turn waits to be taken."""
        link = self.link
        if link is not None and link.state == CONNECTED:
            if self.subscriptions.pending:
                self.subscriptions.pump(link)
            if self.outbound.queue or self.outbound.resend:
                self.outbound.pump(link, now)
        return self.baskets.any()

    def take(self, now: float) -> Turn | None:
        """Write what may be written, and take the baskets; None if there is nothing to do."""
        if not self.pump(now):
            return None
        turn = self.baskets.take(self.link, now)
        self.open_turns += 1
        turn.received_bytes = self.received_bytes
        self.received_bytes = 0
        return turn

    def take_empty(self) -> Turn:
        """Return a turn with nothing in it."""
        return Turn(0, self.link, Baskets(self.durable))

    def release(self, turn: Turn, now: float) -> None:
        """`turn` is committed: its writes join the outbox, unless their Link is gone or has failed."""
        self.open_turns -= 1
        link = turn.link
        if turn.writes:
            if link is not None and link is self.link and link.close_error is None:
                link.outbox.extend(turn.writes)
            else:
                self.outbound.drop_writes(turn.writes)
        if turn.events:
            self.waiting_messages += len(turn.events)
            self.waiting_bytes += turn.received_bytes

    def commit_failed(self, turn: Turn, error: StoreError, now: float) -> list[Outgoing]:
        """The disk refused: take back every publication that isn't promised yet, and return them; the rest is kept for another try."""
        if self.retry_at is None:
            self.baskets.events.append(Report(ERROR, f"the database refused: {error}; it is tried again each {RETRY_S:g} s"))
        self.retry_at = now + RETRY_S
        return self.outbound.withdraw(turn, error, self.link) + self.outbound.withdraw(self.baskets, error, self.link)

    def delivered(self, events: int, received_bytes: int) -> None:
        """The user's callbacks have taken so much."""
        self.waiting_messages -= events
        self.waiting_bytes -= received_bytes

    def reading(self) -> bool:
        """Return whether the socket is to be read: not while the callbacks are far behind and nothing of ours awaits an answer."""
        link = self.link
        if link is None or link.paused or link.state >= CLOSING:
            return False
        settings = self.settings
        if self.waiting_messages < settings.inbound_messages_max and self.waiting_bytes < settings.inbound_bytes_max:
            return True
        outbound = self.outbound
        return bool(link.state != CONNECTED or link.authenticating or outbound.in_flight or outbound.released or outbound.requests)

    def must_close(self) -> bool:
        """Return whether the driver is to close the network connection now, and then to call `link_lost`."""
        link = self.link
        if link is None or link.state < CLOSING:
            return False
        return link.state == CLOSED or not (link.pending() or self.baskets.writes or self.open_turns)

    def deadline(self) -> float | None:
        """Return when `tick` must be called at the latest."""
        at: list[float | None] = [self.baskets.deadline(), self.retry_at]
        if self.phase == WAITING:
            at.append(self.dial_at)
        if self.link is not None:
            at.append(self.link.deadline())
        if self.outbound.expiring:
            at.append(self.outbound.expiring[0][0])
        if self.unmatched:
            at.append(self.unmatched[0][0])
        return min((time for time in at if time is not None), default=None)

    def tick(self, now: float, *, unread: bool = False) -> None:
        """Do what is due. `unread`: the socket holds data that we leave unread, which counts as a sign of life."""
        link = self.link
        if link is not None:
            if link.close_at is not None and now >= link.close_at:
                link.state = CLOSED
            elif link.state == CONNECTING and link.connack_at is not None and now >= link.connack_at:
                link.close_error = ConnectError(f"no CONNACK within {self.settings.connack_timeout_s:g} s")
                link.state = CLOSED
            else:
                try:
                    link.tick(now, unread=unread)
                except LinkLostError as error:
                    link.close_error = error
                    link.state = CLOSED
        self.baskets.tick(now)
        self.outbound.expire(now)
        while self.unmatched and self.unmatched[0][0] <= now:
            self._give_up_unmatched()

    def idle(self, inbound: bool = True) -> bool:
        """Return whether nothing is left to do before a goodbye: all is sent, acknowledged (with a database: sent) and answered.

        `inbound`: whether messages whose acknowledgement has not left count, too.
        """
        outbound = self.outbound
        link = self.link
        if self.subscriptions.pending or outbound.requests or outbound.queue or outbound.stored_rows or outbound.resend or outbound.behind_stored:
            return False
        if self.baskets.writes or self.open_turns or (link is not None and link.pending()):
            return False
        if not self.durable and (outbound.in_flight or outbound.released):
            return False
        return link is None or not inbound or not (link.pubacks or link.pubrecs)


SHORT_ACKS = frozenset({0x40, 0x50, 0x62, 0x70})


def long_length(data: bytes, offset: int, size: int) -> tuple[int, int]:
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


def check_disconnect(reason_code: int, properties: MQTTDisconnectProps, link: Link | None) -> MQTTDisconnectPacket:
    """Return the DISCONNECT, or raise `ArgumentError` if a client can't send it (section 3.14.2)."""
    if reason_code not in CLIENT_REASON_CODES[PacketType.DISCONNECT]:  # [MQTT-3.14.2-1]
        raise ArgumentError(f"reason_code is {reason_code!r}, and a client's DISCONNECT can't carry it (table 3-10)")
    expiry_s = properties.SessionExpiryInterval
    if expiry_s and link is not None and not link.session_expiry_s:  # section 3.14.2.2.2
        raise ArgumentError(f"SessionExpiryInterval is {expiry_s}, and must be 0 because CONNECT's was 0")
    if properties.ServerReference is not None:
        raise ArgumentError("ServerReference is for the server's DISCONNECT")
    return MQTTDisconnectPacket(reason_code, properties)


