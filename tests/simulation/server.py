"""A model of an MQTT 5 server with one client: exact in what it remembers, strict in what it takes, and forgetful or rude on command.

Owns the server's half of the truth: which publications arrived, were accepted, rejected and acknowledged, and what it sent itself. It
shares no code with the library. Whatever the standard forbids a client to do on the wire is a `Violation` here, at the packet that does it.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Protocol

from tests.simulation import wire
from tests.simulation.surroundings import Violation

if TYPE_CHECKING:
    from tests.simulation.surroundings import Pipe

__all__ = ["Limits", "Outgoing", "Server", "ServerLink", "ServerSession", "Witness"]


# The reason codes of a story after which it is useless to try again: Not authorized, Session taken over.
FINAL = {0x87, 0x8E}


class Witness(Protocol):
    """Whoever knows what the user of the client has asked for, and what the disk holds."""

    torn: bool

    def check_arrival(self, number: int, publish: wire.Publish, epoch: int) -> None:
        """A publication has arrived: is it one that was asked for, and may it still be on its way?"""

    def check_client_ack(self, number: int, reason_code: int) -> None:
        """The client has acknowledged a message: was it delivered?"""

    def may_be_foreign(self, pipe: Pipe) -> bool:
        """Return whether the server may have a session that the client's process knows nothing of."""
        ...

    def adopted(self, pipe: Pipe) -> None:
        """The client goes on with a session that it knows nothing of: its first CONNECT got no answer, so that it can't know."""

    def link_ended(self, link: ServerLink) -> None:
        """A connection with a session has ended."""

    def note(self, event: str) -> None:
        """Count something interesting."""


class Limits:
    """What the server announces in its CONNACK. 0 where it says nothing."""

    def __init__(
        self,
        receive_maximum: int = 0,
        packet_size_max: int = 0,
        qos_max: int = 2,
        retain: bool = True,
        aliases: int = 0,
        keep_alive: int = 0,
        expiry_s: int = -1,
    ) -> None:
        self.receive_maximum = receive_maximum
        self.packet_size_max = packet_size_max
        self.qos_max = qos_max
        self.retain = retain
        self.aliases = aliases
        self.keep_alive = keep_alive
        self.expiry_s = expiry_s

    def properties(self) -> dict[int, int]:
        found: dict[int, int] = {}
        if self.expiry_s >= 0:
            found[0x11] = self.expiry_s
        if self.keep_alive:
            found[0x13] = self.keep_alive
        if self.receive_maximum:
            found[0x21] = self.receive_maximum
        if self.aliases:
            found[0x22] = self.aliases
        if self.qos_max < 2:
            found[0x24] = self.qos_max
        if not self.retain:
            found[0x25] = 0
        if self.packet_size_max:
            found[0x27] = self.packet_size_max
        return found


class Outgoing:
    """A message of the server on its way to the client."""

    __slots__ = ("identifiers", "number", "packet_id", "qos", "released", "releases", "topic")

    def __init__(self, number: int, topic: str, qos: int, identifiers: list[int]) -> None:
        self.number = number
        self.topic = topic
        self.qos = qos
        self.identifiers = identifiers
        self.packet_id = 0
        self.released = False
        self.releases = 0


class ServerSession:
    """What the server remembers of the client between connections."""

    def __init__(self, epoch: int, first_pipe: Pipe) -> None:
        self.epoch = epoch
        self.first_pipe = first_pipe
        self.expiry_s = 0
        self.ended_at: float | None = None
        self.subscriptions: dict[str, tuple[int, int]] = {}
        # QoS 2 from the client, by packet identifier, until its PUBREL; and as the how-manieth its PUBREC was sent.
        self.received: dict[int, int] = {}
        self.record_order: dict[int, int] = {}
        self.records = 0
        # To the client.
        self.out: dict[int, Outgoing] = {}
        self.queue: deque[Outgoing] = deque()


class ServerLink:
    """The server's end of one network connection."""

    def __init__(self, pipe: Pipe) -> None:
        self.pipe = pipe
        self.buffer = b""
        self.session: ServerSession | None = None
        self.is_new_session = False
        self.is_ignored = False
        self.over = False
        self.limits = Limits()
        self.receive_maximum = 65_535
        self.packet_size_max = 1 << 28
        self.aliases: dict[int, str] = {}
        # Identifiers of the client's open exchanges that were begun on this link.
        self.open: set[int] = set()
        self.requests: set[int] = set()
        self.last_release = 0
        # What the client has to acknowledge next, in this order.
        self.pubacks: deque[int] = deque()
        self.pubrecs: deque[int] = deque()


class Server:
    """The server. `now` is set by whoever plays it."""

    def __init__(self, witness: Witness, several_copies: bool, check_strictly: bool) -> None:
        self.witness = witness
        self.several_copies = several_copies
        self.check_strictly = check_strictly
        self.now = 0.0
        self.limits = Limits()
        self.session: ServerSession | None = None
        self.epoch = 0
        self.links: list[ServerLink] = []
        # What the story wants.
        self.lazy = False
        self.held: deque[tuple[ServerLink, bytes, int, int, int]] = deque()
        self.reject_next: deque[int] = deque()
        self.refuse_next: deque[int] = deque()
        self.subscribe_refusals = 0
        self.mute = False
        self.poison: int | None = None
        self.poisons_next = False
        # The truth.
        self.arrived_in: dict[int, set[int]] = {}
        self.accepted: Counter[int] = Counter()
        self.rejected: set[int] = set()
        self.acknowledged: set[int] = set()
        self.messages = 0
        self.topics: dict[int, tuple[str, int]] = {}
        self.transmitted: Counter[int] = Counter()
        self.completed: dict[int, int] = {}
        self.closings = 0
        self.goodbyes = 0
        # Where it said for the last time that trying again is useless, unless the user has asked for it since.
        self.final: Pipe | None = None

    # ---- the network -------------------------------------------------------------------------------------------------------------------

    def accept(self, pipe: Pipe) -> None:
        self.links.append(ServerLink(pipe))

    def arrive(self, link: ServerLink, data: bytes) -> None:
        """Bytes of the client arrive."""
        if link.over:
            return
        packets, link.buffer = wire.split(link.buffer + data)
        for first, body, size in packets:
            if link not in self.links:
                # A packet before it has ended the connection.
                return
            if self.check_strictly:
                _check_strictly(first, body)
            self._receive(link, first, body, size)

    def lost(self, link: ServerLink) -> None:
        """The network connection has ended."""
        if not link.over:
            self._end(link)

    def _end(self, link: ServerLink) -> None:
        link.over = True
        link.pipe.closed_by_server = True
        self.links.remove(link)
        self.held = deque(entry for entry in self.held if entry[0] is not link)
        session = link.session
        if session is not None:
            self.witness.link_ended(link)
        if session is not None and session is self.session and not any(other.session is session for other in self.links):
            session.ended_at = self.now
            self._expire()

    def _expire(self) -> None:
        session = self.session
        if session is not None and session.ended_at is not None and self.now >= session.ended_at + session.expiry_s:
            self.lose_session()

    def lose_session(self) -> None:
        """Forget the session."""
        self.session = None

    def close(self, link: ServerLink, reason_code: int | None) -> None:
        """Close a connection, with or without a word."""
        if reason_code is not None and link.session is not None:
            self._send(link, wire.packet(0xE0, bytes((reason_code,))))
            if reason_code in FINAL:
                self.final = link.pipe
        self.closings += 1
        self._end(link)

    def connected_link(self) -> ServerLink | None:
        session = self.session
        return next((link for link in self.links if session is not None and link.session is session), None)

    def _send(self, link: ServerLink, data: bytes) -> None:
        link.pipe.down += data

    # ---- packets -----------------------------------------------------------------------------------------------------------------------

    def _receive(self, link: ServerLink, first: int, body: bytes, size: int) -> None:
        kind = first & 0xF0
        if kind == 0x10:
            self._connect(link, wire.decode_connect(body))
            return
        session = link.session
        if session is None:
            if link.is_ignored:
                return
            raise Violation(f"a packet {first:#x} before CONNECT [MQTT-3.1.0-1]")
        if kind != 0xE0 and not self.witness.torn and self.witness.may_be_foreign(link.pipe):
            self.witness.adopted(link.pipe)
        if link.limits.packet_size_max and size > link.limits.packet_size_max:
            raise Violation(f"a packet {first:#x} of {size} bytes, and our Maximum Packet Size is {link.limits.packet_size_max}")
        if kind == 0x30:
            self._publish(link, session, wire.decode_publish(first, body))
        elif kind == 0x40:
            self._puback(link, session, *wire.decode_ack(body))
        elif kind == 0x50:
            self._pubrec(link, session, *wire.decode_ack(body))
        elif kind == 0x60:
            self._pubrel(link, session, *wire.decode_ack(body))
        elif kind == 0x70:
            self._pubcomp(session, *wire.decode_ack(body))
        elif kind == 0x80:
            self._subscribe(link, session, wire.decode_request(body, True))
        elif kind == 0xA0:
            self._unsubscribe(link, session, wire.decode_request(body, False))
        elif kind == 0xC0:
            self.witness.note("PINGREQ")
            self._send(link, b"\xd0\0")
        elif kind == 0xE0:
            self._disconnect(link, session, body)
        else:
            raise Violation(f"a packet {first:#x} from the client")

    def _connect(self, link: ServerLink, packet: wire.Connect) -> None:
        if link.session is not None or link.is_ignored:
            raise Violation("a second CONNECT [MQTT-3.1.0-2]")
        if self.final is not None and self.final.owner == link.pipe.owner and self.final.is_heard_out():
            raise Violation("CONNECT, and the server has said that it is useless")
        self._expire()
        if self.mute:
            self.witness.note("no CONNACK")
            link.is_ignored = True
            return
        if self.refuse_next:
            self.witness.note("CONNACK refuses")
            reason_code = self.refuse_next.popleft()
            self._send(link, wire.connack(False, reason_code, {}))
            if reason_code in FINAL:
                self.final = link.pipe
            self._end(link)
            return
        for other in [other for other in self.links if other.session is not None]:  # [MQTT-3.1.4-3]
            self.witness.note("take-over")
            self.close(other, 0x8E)
        session = self.session
        present = session is not None and not packet.clean_start
        if session is None or packet.clean_start:
            if session is not None:
                self.lose_session()
            self.epoch += 1
            self.session = session = ServerSession(self.epoch, link.pipe)
        session.ended_at = None
        link.limits = limits = self.limits
        session.expiry_s = packet.session_expiry_s if limits.expiry_s < 0 else limits.expiry_s
        link.session = session
        link.is_new_session = not present
        link.receive_maximum = packet.receive_maximum
        link.packet_size_max = packet.packet_size_max
        self.witness.note("session resumed" if present else "session new")
        self._send(link, wire.connack(present, 0, limits.properties()))
        self._resume(link, session)

    def _resume(self, link: ServerLink, session: ServerSession) -> None:
        """Send again what is open [MQTT-4.4.0-1], then what waits."""
        for message in list(session.out.values()):
            if message.released:
                message.releases += 1
                self._send(link, wire.ack(0x62, message.packet_id))
            else:
                # A client must not count on DUP [MQTT-4.3.3-10].
                self._transmit(link, message, dup=message.number % 2 != 0)
        self._pump(link, session)

    def _disconnect(self, link: ServerLink, session: ServerSession, body: bytes) -> None:
        reason_code, expiry_s = wire.decode_disconnect(body)
        if reason_code >= 0x80:
            self.witness.note(f"client closes with {reason_code:#x}")
            if not self.witness.torn and not ((len(body) < 3 or b"knows nothing of" in body) and self.witness.may_be_foreign(link.pipe)):
                raise Violation(f"the client closes with {body[2:].decode(errors='replace')!r}, and the server did nothing wrong")
        else:
            self.goodbyes += 1
        if expiry_s is not None:
            if expiry_s and not session.expiry_s:
                raise Violation("DISCONNECT with a Session Expiry Interval where CONNECT's was 0")
            session.expiry_s = expiry_s
        if link.buffer:
            raise Violation("bytes behind DISCONNECT [MQTT-3.14.4-2]")
        self._end(link)

    # ---- from the client -----------------------------------------------------------------------------------------------------------------

    def _publish(self, link: ServerLink, session: ServerSession, packet: wire.Publish) -> None:
        limits = link.limits
        if packet.qos > limits.qos_max or (packet.retain and not limits.retain):
            raise Violation(f"QoS {packet.qos}, RETAIN {packet.retain}, and the server supports {limits.qos_max} and {limits.retain}")
        topic = packet.topic
        if packet.alias:
            if packet.alias > limits.aliases:
                raise Violation(f"Topic Alias {packet.alias} of {limits.aliases}")
            self.witness.note("Topic Alias" if topic else "Topic Alias alone")
            if topic:
                link.aliases[packet.alias] = topic
            else:
                topic = link.aliases.get(packet.alias, "")
        if not topic:
            raise Violation("PUBLISH without a topic")
        packet = packet._replace(topic=topic)
        number = int(packet.payload.split(b" ", 1)[0])
        packet_id = packet.packet_id
        if packet.qos:
            if packet_id in link.open:
                raise Violation(f"PUBLISH with packet identifier {packet_id}, which is in use on this connection")
            if packet_id in link.requests:
                raise Violation(f"PUBLISH with packet identifier {packet_id}, which a request has")
            if not packet.dup and session.epoch in self.arrived_in.get(number, ()) and not self.witness.torn:
                raise Violation(f"message {number} came again without DUP [MQTT-3.3.1-1]")
            link.open.add(packet_id)
            if len(link.open) > (limits.receive_maximum or 65_535):
                raise Violation(f"{len(link.open)} open exchanges, and our Receive Maximum is {limits.receive_maximum}")
        self.witness.check_arrival(number, packet, session.epoch)
        self.arrived_in.setdefault(number, set()).add(session.epoch)
        if self.poisons_next:
            self.poisons_next = False
            self.poison = number
        if self.poison == number:
            self.witness.note("poison")
            self.close(link, None)
            return
        if not packet.qos:
            self.accepted[number] += 1
            return
        known = session.received.get(packet_id) if packet.qos == 2 else None
        if known is not None and known != number and not self.witness.torn:
            raise Violation(f"packet identifier {packet_id} is message {known}'s, which has no PUBREL yet, and comes with message {number}")
        reason_code = 0
        if self.reject_next and known is None:
            reason_code = self.reject_next.popleft()
        self._acknowledge(link, session, packet, number, reason_code, known is not None)

    def _acknowledge(
        self, link: ServerLink, session: ServerSession, packet: wire.Publish, number: int, reason_code: int, repeated: bool
    ) -> None:
        if reason_code >= 0x80:
            self.witness.note("PUBACK rejects" if packet.qos == 1 else "PUBREC rejects")
        elif not repeated:
            self.accepted[number] += 1
            if packet.qos == 2:
                session.received[packet.packet_id] = number
        else:
            self.witness.note("QoS 2 repeated")
        self._answer(link, 0x40 if packet.qos == 1 else 0x50, packet.packet_id, number, reason_code)

    def _answer(self, link: ServerLink, first: int, packet_id: int, number: int, reason_code: int) -> None:
        data = wire.ack(first, packet_id, reason_code)
        self.held.append((link, data, packet_id, number, first | (reason_code >= 0x80)))
        if not self.lazy:
            self.answer_held(len(self.held))

    def answer_held(self, count: int) -> None:
        """Send the first `count` acknowledgements that were held back."""
        for _ in range(min(count, len(self.held))):
            link, data, packet_id, number, kind = self.held.popleft()
            session = link.session
            assert session is not None
            if kind & 1:
                self.rejected.add(number)
            elif kind == 0x50:
                session.records += 1
                session.record_order[packet_id] = session.records
            elif kind in {0x40, 0x70}:
                self.acknowledged.add(number)
            if kind != 0x50:
                link.open.discard(packet_id)
            link.requests.discard(packet_id)
            self._send(link, data)

    def _pubrel(self, link: ServerLink, session: ServerSession, packet_id: int, reason_code: int) -> None:
        number = session.received.get(packet_id)
        if number is None:
            self.witness.note("PUBCOMP 0x92")
            self.held.append((link, wire.ack(0x70, packet_id, 0x92), packet_id, 0, 0x70))
        else:
            order = session.record_order.get(packet_id)
            if not self.witness.torn:
                if order is None:
                    raise Violation(f"PUBREL for packet identifier {packet_id} without a PUBREC")
                if order < link.last_release:
                    raise Violation(f"PUBREL for packet identifier {packet_id} out of the order of the PUBRECs [MQTT-4.6.0-4]")
                link.last_release = order
            if reason_code:
                raise Violation(f"PUBREL with {reason_code:#x} for packet identifier {packet_id}, whose exchange is open")
            del session.received[packet_id]
            session.record_order.pop(packet_id, None)
            self.held.append((link, wire.ack(0x70, packet_id), packet_id, number, 0x70))
        if not self.lazy:
            self.answer_held(len(self.held))

    def _subscribe(self, link: ServerLink, session: ServerSession, request: wire.Request) -> None:
        self._check_request(link, session, request)
        codes = []
        for topic_filter, options in request.filters:
            if self.subscribe_refusals:
                self.subscribe_refusals -= 1
                self.witness.note("SUBACK refuses")
                codes.append(0x87)
                continue
            qos = min(options & 3, link.limits.qos_max)
            session.subscriptions[topic_filter] = (qos, request.identifier)
            codes.append(qos)
        data = wire.packet(0x90, request.packet_id.to_bytes(2, "big") + b"\0" + bytes(codes))
        self._answer_request(link, request, data)

    def _unsubscribe(self, link: ServerLink, session: ServerSession, request: wire.Request) -> None:
        self._check_request(link, session, request)
        codes = [0 if session.subscriptions.pop(topic_filter, None) else 0x11 for topic_filter, _ in request.filters]
        data = wire.packet(0xB0, request.packet_id.to_bytes(2, "big") + b"\0" + bytes(codes))
        self._answer_request(link, request, data)

    def _check_request(self, link: ServerLink, session: ServerSession, request: wire.Request) -> None:
        packet_id = request.packet_id
        if (
            not packet_id
            or packet_id in link.open
            or packet_id in link.requests
            or (packet_id in session.received and not self.witness.torn)
        ):
            raise Violation(f"a request with packet identifier {packet_id}, which is in use [MQTT-2.2.1-3]")
        link.requests.add(packet_id)

    def _answer_request(self, link: ServerLink, request: wire.Request, data: bytes) -> None:
        self.held.append((link, data, request.packet_id, 0, 0x90))
        if not self.lazy:
            self.answer_held(len(self.held))

    # ---- to the client -------------------------------------------------------------------------------------------------------------------

    def publish(self, topic: str, qos: int) -> None:
        """Somebody publishes something that the client may have subscribed to."""
        session = self.session
        if session is None:
            return
        matching = [wanted for topic_filter, wanted in session.subscriptions.items() if topic_filter in {topic, "#"}]
        if not matching:
            return
        self.messages += 1
        number = self.messages
        self.topics[number] = (topic, qos)
        copies = [[wanted] for wanted in matching] if self.several_copies else [matching]
        link = self.connected_link()
        for wanted in copies:
            granted = min(qos, max(granted for granted, _ in wanted))
            if not granted and link is None:
                continue
            session.queue.append(Outgoing(number, topic, granted, [identifier for _, identifier in wanted if identifier]))
        if link is not None:
            self._pump(link, session)

    def _pump(self, link: ServerLink, session: ServerSession) -> None:
        queue, out = session.queue, session.out
        while queue:
            message = queue[0]
            if message.qos:
                if len(out) >= link.receive_maximum:
                    self.witness.note("our Receive Maximum is reached")
                    return
                message.packet_id = next(packet_id for packet_id in range(1, 65_536) if packet_id not in out)
                out[message.packet_id] = message
            queue.popleft()
            self._transmit(link, message, dup=False)

    def _transmit(self, link: ServerLink, message: Outgoing, dup: bool) -> None:
        self.transmitted[message.number] += 1
        if message.qos == 1:
            link.pubacks.append(message.packet_id)
        elif message.qos:
            link.pubrecs.append(message.packet_id)
        payload = b"%d " % message.number
        self._send(link, wire.publish(message.topic, payload, message.qos, message.packet_id, dup, False, message.identifiers))

    def _puback(self, link: ServerLink, session: ServerSession, packet_id: int, reason_code: int) -> None:
        if not link.pubacks or link.pubacks.popleft() != packet_id:
            raise Violation(
                f"PUBACK for packet identifier {packet_id} out of order, or not for a message of this connection [MQTT-4.6.0-2]"
            )
        message = session.out.pop(packet_id)
        self._done(link, session, message, reason_code)

    def _pubrec(self, link: ServerLink, session: ServerSession, packet_id: int, reason_code: int) -> None:
        if not link.pubrecs or link.pubrecs.popleft() != packet_id:
            raise Violation(
                f"PUBREC for packet identifier {packet_id} out of order, or not for a message of this connection [MQTT-4.6.0-3]"
            )
        message = session.out[packet_id]
        self.witness.check_client_ack(message.number, reason_code)
        if reason_code >= 0x80:
            self.witness.note("client's PUBREC rejects")
            del session.out[packet_id]
            self.completed[message.number] = reason_code
            self._pump(link, session)
            return
        message.released = True
        message.releases += 1
        self._send(link, wire.ack(0x62, packet_id))

    def _pubcomp(self, session: ServerSession, packet_id: int, reason_code: int) -> None:
        message = session.out.get(packet_id)
        if message is None or not message.released:
            raise Violation(f"PUBCOMP for packet identifier {packet_id} without a PUBREL")
        if reason_code and message.releases < 2 and not self.witness.torn:
            raise Violation(f"PUBCOMP with {reason_code:#x} for packet identifier {packet_id}, to the first PUBREL")
        del session.out[packet_id]
        self.completed[message.number] = 0
        link = self.connected_link()
        assert link is not None
        self._pump(link, session)

    def _done(self, link: ServerLink, session: ServerSession, message: Outgoing, reason_code: int) -> None:
        self.witness.check_client_ack(message.number, reason_code)
        self.completed[message.number] = reason_code
        self._pump(link, session)

    def is_quiet(self, given_up: set[int]) -> bool:
        """Return whether the server waits for nothing but the PUBREL of exchanges that the client can't go on with."""
        session = self.session
        return not self.held and (session is None or not (session.out or session.queue or session.received.keys() - given_up))


def _check_strictly(first: int, body: bytes) -> None:
    from tests.strict_parser import NotStrictError, parse_packet

    try:
        parse_packet(wire.packet(first, body), "client")
    except NotStrictError as error:
        raise Violation(f"the client's bytes are no legal packet: {error}") from error
