"""The Session: everything of an MQTT client that needs thought, and that outlives a network connection.

It is sans-I/O: it touches no socket, disk, thread, clock, random source or logger. It is told bytes, requests and ``now`` (monotonic,
seconds), and fills the baskets: journal, writes, events. A driver empties them in that order and asks for the next `deadline`.

Its invariant: replayed, the journal gives what is in memory; and nothing that depends on the journal leaves before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import (
    ConnectError,
    ConnectRefusedError,
    ForeignSessionError,
    LinkLostError,
    MQTTError,
    ProtocolError,
    StateError,
)
from ..link import CLOSED, CLOSING, CONNECTED, CONNECTING, Link
from ..mqtt_spec import PACKET_ID_MAX
from ..packet import MQTTConnAckPacket, MQTTConnectPacket, MQTTDisconnectPacket
from ..property import MQTTDisconnectProps
from ..records import Connected, Disconnected, Report
from .authentication import Authentication
from .baskets import Baskets, Turn
from .identity import Identity
from .inbound import Inbound, check_answer
from .outbound import Outbound
from .policy import Backoff, check_disconnect, check_packet_size, describe, fit_disconnect, is_by_server, is_fatal
from .receiving import Receiving
from .subscriptions import Subscriptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..errors import StoreError
    from ..journal import StoredMessage, StoredState
    from ..property import MQTTPubAckProps
    from ..records import AuthStep, Message, Outgoing, Request
    from .settings import SessionSettings

__all__ = [
    "DIALLING",
    "EXPIRY_DEFAULT_S",
    "IDLE",
    "LINKED",
    "RECEIVE_MAXIMUM_DEFAULT",
    "RETRY_S",
    "STOPPED",
    "WAITING",
    "Session",
]

IDLE, WAITING, DIALLING, LINKED, STOPPED = range(5)

EXPIRY_DEFAULT_S = 300
"""Session Expiry Interval unless the caller names one: a broken link shall not lose the session."""

RECEIVE_MAXIMUM_DEFAULT = 1_024
"""Receive Maximum unless the caller names one: what a server is asked to keep to. One that the caller names is enforced."""

OUTBOX_WRITES_MAX = 4 * 65_535
"""So many writes never wait for a server that keeps within our Receive Maximum and reads what we send."""

RETRY_S = 1.0
"""How long to wait before the disk is asked again."""

_WARNING, _ERROR = 30, 40
_REASON_CHARACTERS_MAX = 1_000


class Session:
    """One client's MQTT session and its connection policy (sans-I/O).

    `random`: 0 ≤ random < 1, where packet identifiers begin. The server may have exchanges open that nobody here knows of: those of a former
    process whose session is taken over, or those that a database lost with the power. A new QoS 2 message with one of their identifiers would
    be taken for a repeat, acknowledged, and delivered to nobody.
    """

    def __init__(
        self,
        settings: SessionSettings,
        *,
        durable: bool = False,
        acknowledge: Callable[[Message, int, MQTTPubAckProps | None], None] | None = None,
        random: float = 0.0,
    ) -> None:
        self.settings = settings
        self.durable = durable
        self.acknowledge_call = acknowledge
        self.baskets = Baskets(durable)
        self.identity = Identity(self.baskets)
        self.outbound = Outbound(self.baskets, settings, self.identity)
        self.outbound.last_packet_id = int(random * PACKET_ID_MAX)
        self.inbound = Inbound(self.baskets, settings)
        self.subscriptions = Subscriptions(self.baskets, self.outbound)
        self.receiving = Receiving(self)
        self.authentication = Authentication(self)
        self.auth_steps = self.authentication.steps
        self.backoff = Backoff(settings)
        # The wish to be connected, and where it stands.
        self.phase = IDLE
        self.connect_packet: MQTTConnectPacket | None = None
        self.expiry_named = False
        self.receive_maximum_named = False
        self.clean_start = False
        # Whether a CONNECT since the last connection had no answer: it may have begun a session that we know nothing of.
        self.unanswered = False
        # Whether rows that are on disk only may be loaded.
        self.loading = False
        # How long the server keeps the session after the link, as far as we know; None: not known in this process.
        self.session_expiry_s: int | None = None
        self.dial_at = 0.0
        self.link: Link | None = None
        self.failure: MQTTError | None = None
        self.last_error: MQTTError | None = None
        # Turns: taken and not released; and what the user must hear although the disk holds turns back.
        self.open_turns = 0
        # When the disk is asked again: to commit, and to give back rows.
        self.retry_at: float | None = None
        self.reload_at: float | None = None
        self.urgent: list[Report] = []

    @property
    def client_id(self) -> str:
        """The Client Identifier: given, the database's, or assigned by the server; empty if not known yet."""
        return self.identity.client_id

    @property
    def disconnect_packet(self) -> MQTTDisconnectPacket | None:
        """The last DISCONNECT that the server sent, or None."""
        return self.receiving.disconnect_packet

    # ---- connecting ------------------------------------------------------------------------------------------------------------------

    def recover(self, state: StoredState, make: Callable[[StoredMessage], Outgoing]) -> None:
        """Take over what a store kept from a former process."""
        self.outbound.recover(state, make)
        self.identity.recover(state)
        self.inbound.received.update(dict.fromkeys(state.received))

    def connect(self, packet: MQTTConnectPacket, now: float) -> None:
        """Begin to connect, and stay connected until `disconnect` or a reason that can't heal.

        :raises StateError: there is a connection, or an attempt at one.
        :raises StoreOwnerError: the database belongs to another client identifier.
        """
        if self.phase not in (IDLE, STOPPED) or self.link is not None:
            raise StateError("connect() while connected or connecting: call disconnect() first")
        identity = self.identity
        client_id = identity.resolve(packet.client_id)
        if identity.is_another(client_id):
            self._end_session()
        identity.claim(client_id)
        properties = packet.properties
        self.expiry_named = properties.SessionExpiryInterval is not None
        if not self.expiry_named:
            properties = properties.replace(SessionExpiryInterval=EXPIRY_DEFAULT_S)
        self.receive_maximum_named = properties.ReceiveMaximum is not None
        if not self.receive_maximum_named:
            properties = properties.replace(ReceiveMaximum=RECEIVE_MAXIMUM_DEFAULT)
        self.session_expiry_s = properties.SessionExpiryInterval
        if self.durable and not self.session_expiry_s:
            text = "SessionExpiryInterval is 0: the server forgets the session with each connection, so the database can't keep its promise"
            self.baskets.events.append(Report(_WARNING, text))
        self.connect_packet = MQTTConnectPacket(
            client_id, packet.clean_start, packet.keep_alive, packet.will, packet.user_name, packet.password, properties
        )
        self.loading = True
        self.clean_start = packet.clean_start or (bool(client_id) and identity.ended == client_id)
        self.failure = None
        self.backoff.attempts = 0
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
        data = packet.encode()
        self.phase = LINKED
        self.link = link = Link(packet, self.acknowledge_call, now)
        if not self.receive_maximum_named:
            # Our default paces the server and nothing depends on it. To close the connection over it would punish the user for the server:
            # Mosquitto 2.0.11 sends more as soon as the oldest of several messages is acknowledged.
            link.receive_maximum = PACKET_ID_MAX
        link.connack_at = now + self.settings.connack_timeout_s
        self.identity.greet()
        self.baskets.writes.append(data)
        return True

    def dial_failed(self, error: MQTTError, now: float, random: float) -> None:
        """The driver could not open a network connection. `random`: 0 ≤ random < 1, for the backoff."""
        if self.phase == DIALLING:
            self._retry_or_stop(error, False, now, random)

    def _retry_or_stop(self, error: MQTTError, was_connected: bool, now: float, random: float) -> None:
        retry_in_s: float | None = None
        self.last_error = error
        if is_fatal(error) or not self.settings.reconnect:
            self.phase = STOPPED
            self.failure = error
        else:
            retry_in_s = self.backoff.wait_s(random)
            self.phase = WAITING
            self.dial_at = now + retry_in_s
        self.baskets.events.append(Disconnected(error, getattr(error, "packet", None), was_connected, retry_in_s))

    def link_lost(self, error: MQTTError | None, now: float, random: float) -> None:
        """The network connection is closed: by the peer (`error` says how) or by the driver, after `must_close` said so."""
        link = self.link
        if link is None:
            return
        self.link = None
        was_connected = link.connack is not None
        self.unanswered |= link.greeted and not was_connected and not isinstance(link.close_error, ConnectRefusedError)
        cause = link.close_error or error or LinkLostError("the server closed the connection")
        # Neither our own goodbye nor an error that we found is anything that a publication did to the server.
        closed_by_us = self.connect_packet is None or (link.close_error is not None and getattr(cause, "packet", None) is None)
        link.state = CLOSED
        self.auth_steps.clear()
        self.outbound.drop_writes(self.baskets.writes)
        self.baskets.writes.clear()
        self.outbound.link_lost(link, not closed_by_us and is_by_server(cause))
        self.subscriptions.link_lost(cause)
        if link.connected_at is not None:
            self.backoff.ended(now - link.connected_at)
        if self.connect_packet is None:
            self.phase = IDLE
            self.baskets.events.append(Disconnected(None, None, was_connected, None))
            return
        if not was_connected and isinstance(cause, LinkLostError):
            cause = _attempt_failed(cause)
        self._retry_or_stop(cause, was_connected, now, random)

    def disconnect(self, now: float, reason_code: int = 0, properties: MQTTDisconnectProps = MQTTDisconnectProps.EMPTY) -> None:
        """Say goodbye (section 3.14), or give up connecting; settle every open handle.

        :raises ArgumentError: a reason code that a client can't send, or a Session Expiry Interval where CONNECT's was 0.
        """
        link = self.link
        packet = check_disconnect(reason_code, properties, None if link is None else link.session_expiry_s)
        survives = self.identity.ours and self.session_expiry_s != 0
        if link is None:
            self.phase = IDLE
        elif link.state < CLOSING:
            survives = self._say_goodbye(link, packet, now)
        self.connect_packet = None
        self.outbound.close_out(survives)
        self.subscriptions.close_out()
        if not survives and self.identity.ours:
            self._end_session()

    def _say_goodbye(self, link: Link, packet: MQTTDisconnectPacket, now: float) -> bool:
        """Write DISCONNECT, and nothing after it. Return whether the session outlives it."""
        properties = packet.properties
        expiry_s = properties.SessionExpiryInterval
        if expiry_s is None and not self.durable and not self.expiry_named and not packet.reason_code and link.session_expiry_s:
            # Nobody asked for the session to be kept beyond a clean end, so nothing stays behind.
            expiry_s = 0
            packet = MQTTDisconnectPacket(0, properties.replace(SessionExpiryInterval=0))
        data, with_expiry = fit_disconnect(packet, link.packet_size_max)
        self.baskets.writes.append(data)
        link.state = CLOSING  # [MQTT-3.14.4-1]
        link.close_at = now + self.settings.close_timeout_s
        if with_expiry:
            self.session_expiry_s = expiry_s
        return bool(self.session_expiry_s)

    def abandon(self, now: float) -> None:
        """The client is shut down at once: the network connection is closed, every open handle is settled."""
        self.connect_packet = None
        self.link_lost(None, now, 0.0)
        self.phase = IDLE
        self.outbound.requeue_unsent()
        self.outbound.close_out(self.identity.ours and self.session_expiry_s != 0)
        self.subscriptions.close_out()
        self.baskets.hurry()
        self.retry_at = None

    def _end_session(self) -> None:
        """The session at the server has ended, by our own doing: nothing of it is left."""
        self.outbound.session_lost()
        self.inbound.session_lost()
        self.subscriptions.session_lost()
        self.identity.end()

    def fail_link(self, error: MQTTError, now: float, reason_code: int | None = None) -> None:
        """Close the link for `error`: DISCONNECT with the reason (section 4.13.1), and nothing after it."""
        link = self.link
        if link is None or link.state >= CLOSING:
            return
        link.close_error = error
        link.close_at = now + self.settings.close_timeout_s
        self.auth_steps.clear()
        outbound = self.outbound
        outbound.drop_writes(self.baskets.writes)
        self.baskets.writes.clear()
        if not link.greeted:
            # CONNECT has not left, and nothing else may be the first packet [MQTT-3.1.0-1].
            link.state = CLOSED
            return
        if link.state == CONNECTED:
            outbound.drop_writes(list(link.outbox))
            link.outbox.clear()
        link.state = CLOSING
        code: int = getattr(error, "reason_code", 0x82) if reason_code is None else reason_code
        text = str(error)[:_REASON_CHARACTERS_MAX].replace("\0", "").encode("utf-8", "replace").decode()
        data, _ = fit_disconnect(MQTTDisconnectPacket(code, MQTTDisconnectProps(ReasonString=text)), link.packet_size_max)
        if data:
            link.outbox.append(data)

    # ---- receiving -------------------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> None:
        """Take bytes from the network connection, cut anywhere. Whatever they hold, nothing but state and baskets changes."""
        link = self.link
        if link is None or link.state >= CLOSING:
            return
        if data:
            link.last_received = now
            if link.ping_flushed_at is not None:
                link.ping_pending = False
                link.ping_flushed_at = None
        try:
            self.receiving.receive(link, data, now)
        except MQTTError as error:
            self.fail_link(error, now)

    def receive_connack(self, link: Link, packet: MQTTConnAckPacket, now: float) -> None:
        """Receive the CONNACK (section 3.2)."""
        # Whatever we say to it, a goodbye perhaps, must fit already [MQTT-3.2.2-15].
        link.packet_size_max = packet.properties.MaximumPacketSize or link.packet_size_max
        if packet.reason_code >= 0x80:
            self.identity.refused()
            link.close_error = ConnectRefusedError(f"the server refused the connection with {describe(packet)}", packet)
            link.state = CLOSED
            return
        check_packet_size(link.packet_size_max)
        if self.authentication.connack(link, packet, now):
            self.established(link, packet, now)

    def established(self, link: Link, packet: MQTTConnAckPacket, now: float) -> None:
        """The connection is accepted: resume the session, or begin a new one; then send what waits."""
        identity = self.identity
        if packet.session_present:
            if self.clean_start:  # [MQTT-3.2.2-4]
                raise ProtocolError("CONNACK with Session Present 1, and CONNECT had Clean Start 1")
            if not identity.ours_before and not self.settings.adopt_session:  # [MQTT-3.2.2-4]
                identity.own(False)
                raise ForeignSessionError(
                    f"the server has a session of client id {self.client_id!r} that this client knows nothing of: give "
                    f"{'' if self.durable else 'db_path to keep sessions across processes, '}clean_start=True to discard that one, "
                    "or adopt_session=True to take what the server kept"
                )
        link.accept(packet, now)
        self.session_expiry_s = link.session_expiry_s
        assigned = packet.properties.AssignedClientIdentifier
        if assigned is not None and not identity.client_id:
            identity.claim(assigned)
        self.clean_start = False
        identity.established()
        if not packet.session_present:  # [MQTT-3.2.2-5] [MQTT-3.1.2-4]
            self.outbound.session_lost()
            self.inbound.session_lost()
        self.subscriptions.resume(packet.session_present, self.unanswered)
        self.unanswered = False
        self.outbound.resume(link)
        self.baskets.events.append(Connected(packet))

    def authenticated(self, step: AuthStep, data: bytes | None, error: Exception | None, now: float) -> None:
        """The authenticator has done `step` (see `Authentication.authenticated`)."""
        self.authentication.authenticated(step, data, error, now)

    def reauthenticate(self, data: bytes | None, now: float) -> None:
        """Start a re-authentication (see `Authentication.reauthenticate`)."""
        self.authentication.reauthenticate(data, now)

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
        self.inbound.match_held(self.subscriptions)

    def unsubscribe(self, request: Request) -> None:
        """Ask for the end of subscriptions."""
        self.subscriptions.unsubscribe(request, self.connected_link())

    def answer(self, message: Message, reason_code: int = 0, properties: MQTTPubAckProps | None = None) -> None:
        """Acknowledge a received QoS 1 or 2 message.

        :raises ArgumentError: a reason code that a client can't send, or properties of another kind.
        """
        check_answer(reason_code, properties)
        self.inbound.answer(message, reason_code, properties, self.connected_link())

    def hold(self, message: Message, now: float) -> None:
        """Hold a message that matches no callback, for a `subscribe` to come."""
        self.inbound.hold(message, now, self.connected_link())

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
        if turn.events:
            turn.received_bytes = self.receiving.taken(len(turn.events))
        return turn

    def release(self, turn: Turn, now: float) -> None:
        """`turn` is committed: its writes join the outbox, unless their Link is gone or has failed."""
        self.open_turns -= 1
        link = turn.link
        if turn.writes:
            if link is not None and link is self.link and link.close_error is None:
                if not link.greeted:
                    # From now on the server may be expected to answer.
                    link.greeted = True
                    link.connack_at = now + self.settings.connack_timeout_s
                link.outbox.extend(turn.writes)
            else:
                self.outbound.drop_writes(turn.writes)

    def commit_failed(self, turn: Turn, error: StoreError, now: float) -> list[Outgoing]:
        """The disk refused: take back every publication that isn't promised yet, and return them; the rest is kept for another try."""
        if self.retry_at is None:
            self._complain(error)
        self.retry_at = now + RETRY_S
        link = self.connected_link()
        return self.outbound.withdraw(turn, error, link) + self.outbound.withdraw(self.baskets, error, link)

    def wanted_rows(self, now: float) -> tuple[int, int, int] | None:
        """Return which stored rows are to be loaded now (see `Backlog.wanted_rows`): none for a while after the disk has refused.

        And none before the first `connect`: what is wrong with a row is told to handlers that are set by then.
        """
        if not self.loading or (self.reload_at is not None and now < self.reload_at):
            return None
        wanted = self.outbound.wanted_rows()
        if wanted is None:
            self.reload_at = None
        return wanted

    def loaded(self, rows: list[StoredMessage], make: Callable[[StoredMessage], Outgoing], now: float) -> None:
        """Take rows that were wanted."""
        self.reload_at = None
        self.outbound.loaded(rows, make, now)

    def load_failed(self, error: Exception, now: float) -> None:
        """The disk did not give back what it was asked for: say so once, and ask again later. New rows can be written all the same."""
        if self.reload_at is None:
            self._complain(error)
        self.reload_at = now + RETRY_S

    def _complain(self, error: Exception) -> None:
        self.urgent.append(Report(_ERROR, f"the database refused: {error}; it is tried again each {RETRY_S:g} s"))

    def take_urgent(self) -> list[Report]:
        """Take what the user must hear at once, although the disk holds turns back: it promises nothing."""
        urgent = self.urgent[:]
        self.urgent.clear()
        self.receiving.waiting_messages += len(urgent)
        return urgent

    def delivered(self, events: int, received_bytes: int) -> None:
        """The user's callbacks have taken so much."""
        self.receiving.delivered(events, received_bytes)

    def reading(self) -> bool:
        """Return whether the socket is to be read: not while the callbacks are far behind and nothing of ours awaits an answer.

        Nor while the server takes none of our answers to what it sends.
        """
        link = self.link
        if link is None or link.paused or link.state >= CLOSING or len(link.outbox) > OUTBOX_WRITES_MAX:
            return False
        if link.state != CONNECTED or self.receiving.within_bounds():
            return True
        outbound = self.outbound
        return bool(link.authenticating or outbound.in_flight or outbound.released or outbound.requests)

    def must_close(self) -> bool:
        """Return whether the driver is to close the network connection now, and then to call `link_lost`."""
        link = self.link
        if link is None or link.state < CLOSING:
            return False
        return link.state == CLOSED or not (link.pending() or self.baskets.writes or self.open_turns)

    def deadline(self, *, disk: bool = True) -> float | None:
        """Return when `tick` must be called at the latest. `disk` False: leave out what the disk is to do then, since it is busy."""
        at = [self.inbound.deadline()]
        if disk:
            # While a commit is refused nothing is loaded either.
            at += self.baskets.deadline(), self.reload_at if self.retry_at is None else self.retry_at
        if self.phase == WAITING:
            at.append(self.dial_at)
        if self.link is not None:
            at.append(self.link.deadline())
        if self.outbound.expiring:
            at.append(self.outbound.expiring[0][0])
        return min((time for time in at if time is not None), default=None)

    def tick(self, now: float, *, unread: bool = False) -> None:
        """Do what is due. `unread`: the socket holds data that we leave unread, which counts as a sign of life."""
        link = self.link
        if link is not None and link.state != CLOSED:
            try:
                self._tick_link(link, now, unread)
            except (LinkLostError, ConnectError) as error:
                link.close_error = error
                link.state = CLOSED
        self.baskets.tick(now)
        self.outbound.expire(now)
        self.inbound.tick(now, self.connected_link())

    def _tick_link(self, link: Link, now: float, unread: bool) -> None:
        if link.state == CLOSING:
            if link.close_at is not None and now >= link.close_at:
                link.state = CLOSED
        elif link.state == CONNECTING:
            if link.connack_at is not None and now >= link.connack_at:
                raise ConnectError(f"no CONNACK within {self.settings.connack_timeout_s:g} s")
        else:
            link.tick(now, unread=unread)

    def idle(self, inbound: bool = True) -> bool:
        """Return whether nothing is left to do before a goodbye: all is sent, acknowledged (with a database: sent) and answered.

        `inbound`: whether messages whose acknowledgement has not left count, too.
        """
        outbound = self.outbound
        link = self.link
        if (
            self.subscriptions.pending
            or outbound.requests
            or outbound.waits()
            or outbound.stored_rows
            or outbound.resend
            or outbound.behind_stored
        ):
            return False
        if self.baskets.writes or self.open_turns or (link is not None and link.pending()):
            return False
        if not self.durable and (outbound.in_flight or outbound.released):
            return False
        return link is None or not inbound or not (link.pubacks or link.pubrecs)


def _attempt_failed(cause: LinkLostError) -> ConnectError:
    """Return the error of an attempt that ended before the CONNACK [MQTT-3.1.4-2]."""
    if cause.packet is not None:
        return ConnectRefusedError(str(cause), cause.packet)
    error = ConnectError(f"no CONNACK: {cause}")
    error.__cause__ = cause
    return error
