"""A Session and the test that plays its driver and its server: a fake clock, bytes in, bytes out, no socket and no thread.

It owns the order "journal, then wire, then user" as a driver would, and writes down what happened in ``log``. Whatever the session sends
passes ``tests.strict_parser`` as a client's packet. It decides nothing by itself but what a driver must do at once: commit, write, close.
"""

from __future__ import annotations

from typing import Any

from ohmqtt.errors import LinkLostError, StoreError
from ohmqtt.journal import StoredState
from ohmqtt.link import encode_topic_field
from ohmqtt.packet import (
    MQTTAuthPacket,
    MQTTConnAckPacket,
    MQTTConnectPacket,
    MQTTPublishPacket,
    MQTTSubscription,
)
from ohmqtt.property import (
    MQTTAuthProps,
    MQTTConnAckProps,
    MQTTConnectProps,
    MQTTPublishProps,
    MQTTSubscribeProps,
    MQTTUnsubscribeProps,
)
from ohmqtt.records import Connected, Disconnected, Message, Options, Outgoing, Report, Request, Subscription
from ohmqtt.session import Session, SessionSettings, Turn
from tests.strict_parser import WirePacket, parse_packet, split_packet

__all__ = ["EMPTY_STORE", "Held", "Pair", "ack", "auth", "connack", "publish", "publish_bytes"]

EMPTY_STORE = StoredState(None, None, 1, [], [], 0, 0)


class Held(Request):
    """A request of which somebody holds the handle."""

    __slots__ = ()


def connack(reason_code: int = 0, *, session_present: bool = False, **properties: Any) -> bytes:
    return MQTTConnAckPacket(reason_code, session_present, MQTTConnAckProps(**properties)).encode()


def publish(topic: str, payload: bytes = b"", qos: int = 0, packet_id: int = 0, *, dup: bool = False, **properties: Any) -> bytes:
    return MQTTPublishPacket(topic, payload, qos, False, dup, packet_id, MQTTPublishProps(**properties)).encode()


def publish_bytes(topic: bytes, payload: bytes, first: int, packet_id: int = 0, properties: bytes = b"\0") -> bytes:
    """Write a PUBLISH without asking whether it is a good one."""
    body = len(topic).to_bytes(2, "big") + topic + (packet_id.to_bytes(2, "big") if packet_id else b"") + properties + payload
    assert len(body) < 128
    return bytes((first, len(body))) + body


def ack(first: int, packet_id: int, reason_code: int | None = None) -> bytes:
    """Write a PUBACK, PUBREC, PUBREL or PUBCOMP; with a reason code: the three-byte form."""
    if reason_code is None:
        return bytes((first, 2)) + packet_id.to_bytes(2, "big")
    return bytes((first, 3)) + packet_id.to_bytes(2, "big") + bytes((reason_code,))


def auth(reason_code: int, data: bytes | None = None, method: str | None = "M") -> bytes:
    if method is None:
        return bytes((0xF0, 2, reason_code, 0))
    return MQTTAuthPacket(reason_code, MQTTAuthProps(AuthenticationMethod=method, AuthenticationData=data)).encode()


class Pair:
    """One session, its driver and its server."""

    def __init__(self, *, durable: bool = False, acknowledge: Any = None, **settings: Any) -> None:
        self.session = Session(SessionSettings(**settings), durable=durable, acknowledge=acknowledge)
        self.now = 0.0
        self.random = 0.5
        self.log: list[tuple[str, Any]] = []
        self.disk_is_broken = False
        self.peer_takes_nothing = False
        self.failed_turn: Turn | None = None
        self.closes = 0
        self.wire = b""
        self.group = 0

    # ---- the driver ----------------------------------------------------------------------------------------------------------------------

    def pump(self) -> None:
        """Do what a driver does after every call: commit, write, hand over, close if it is time to."""
        session = self.session
        while True:
            self._commit()
            self._flush()
            if not session.must_close():
                self.log += [("event", report) for report in session.take_urgent()]
                return
            self.closes += 1
            self.log.append(("wire", "EOF"))
            session.link_lost(None, self.now, self.random)

    def _commit(self) -> None:
        session = self.session
        while True:
            turn = self.failed_turn or session.take(self.now)
            if turn is None:
                return
            if turn.journal and self.disk_is_broken:
                withdrawn = session.commit_failed(turn, StoreError("disk full"), self.now)
                self.log += [("resolved", message) for message in withdrawn]
                if turn.journal:
                    self.failed_turn = turn
                    return
            self.failed_turn = None
            self.log += [("journal", entry) for entry in turn.journal]
            session.release(turn, self.now)
            if turn.writes:
                self._flush()
            self.log += [("resolved", outcome) for outcome in turn.resolved]
            self.log += [("event", event) for event in turn.events]

    def _flush(self) -> None:
        link = self.session.link
        while link is not None and not self.peer_takes_nothing:
            chunk = bytes(link.next_chunk(self.now))
            if not chunk:
                break
            flushed = link.sent(len(chunk), self.now)
            self.session.outbound.flushed(flushed)
            self.wire += chunk
            self.log += [("resolved", message) for message in flushed]
        while (parts := split_packet(self.wire)) is not None:
            self.log.append(("wire", parse_packet(parts[0], "client")))
            self.wire = parts[1]

    def at(self, now: float) -> None:
        """Let the clock go to `now`, in one step; whatever is due happens."""
        self.now = now
        self.session.tick(now)
        self.pump()

    # ---- the server ----------------------------------------------------------------------------------------------------------------------

    def feed(self, *data: bytes) -> list[WirePacket]:
        """The server sends `data`, each piece read at once. Return what the client sent in turn."""
        before = len(self.log)
        for piece in data:
            self.session.receive(piece, self.now)
            self.pump()
        return [entry for kind, entry in self.log[before:] if kind == "wire" and entry != "EOF"]

    def lose(self, error: LinkLostError | None = None) -> None:
        """The network connection breaks."""
        self.closes += 1
        self.session.link_lost(error, self.now, self.random)
        self.wire = b""
        self.pump()

    # ---- whole steps -----------------------------------------------------------------------------------------------------------------------

    def start(self, client_id: str = "me", *, clean_start: bool = False, keep_alive: int = 60, **properties: Any) -> None:
        """The user calls connect()."""
        packet = MQTTConnectPacket(client_id, clean_start, keep_alive, properties=MQTTConnectProps(**properties))
        self.session.connect(packet, self.now)
        self.pump()

    def open(self, authentication_data: bytes | None = None) -> WirePacket:
        """The driver opens the network connection, when it is time to. Return the CONNECT."""
        if not self.session.dial(self.now):
            deadline = self.session.deadline()
            assert deadline is not None
            self.now = max(self.now, deadline)
            assert self.session.dial(self.now)
        assert self.session.opened(self.now, authentication_data)
        self.wire = b""
        self.pump()
        (packet,) = self.sent()[-1:]
        assert packet.kind == "CONNECT"
        return packet

    def accept(self, *, session_present: bool = False, **properties: Any) -> list[WirePacket]:
        """The server answers CONNECT with success. Return what the client sends then."""
        return self.feed(connack(session_present=session_present, **properties))

    def connect(self, client_id: str = "me", **properties: Any) -> Pair:
        """Go all the way to a connection with a new session."""
        self.start(client_id, **properties)
        self.open()
        self.accept()
        assert self.session.connected_link() is not None
        self.log.clear()
        # The user has heard that the connection is there.
        receiving = self.session.receiving
        self.session.delivered(receiving.waiting_messages, receiving.waiting_bytes)
        return self

    def reconnect(self, *, session_present: bool = True, **properties: Any) -> list[WirePacket]:
        """Connect again after a lost link. Return what the client sends behind its CONNECT."""
        self.open()
        return self.accept(session_present=session_present, **properties)

    # ---- the user --------------------------------------------------------------------------------------------------------------------------

    def publish(
        self,
        topic: str = "t",
        payload: bytes = b"p",
        qos: int = 1,
        options: Options | None = None,
        properties: MQTTPublishProps = MQTTPublishProps.EMPTY,
    ) -> Outgoing:
        message = Outgoing(encode_topic_field(topic.encode()), payload, qos, 0x30 | qos << 1, properties.encode(), options)
        self.session.publish(message)
        self.pump()
        return message

    def subscribe(
        self, *topic_filters: str | MQTTSubscription, properties: MQTTSubscribeProps = MQTTSubscribeProps.EMPTY, callback: Any = None
    ) -> Held:
        self.group += 1
        items = [item if isinstance(item, MQTTSubscription) else MQTTSubscription(item) for item in topic_filters]
        subscriptions = [Subscription(item, callback or (lambda *_: None), self.group, properties.UserProperty) for item in items]
        request = Held(items, properties, subscriptions)
        self.session.subscribe(request)
        self.pump()
        return request

    def unsubscribe(self, *topic_filters: str, properties: MQTTUnsubscribeProps = MQTTUnsubscribeProps.EMPTY) -> Held:
        request = Held(topic_filters, properties)
        self.session.unsubscribe(request)
        self.pump()
        return request

    def answer(self, message: Message, reason_code: int = 0, properties: Any = None) -> list[WirePacket]:
        """The callback of `message` has returned. Return what is sent upon it."""
        before = len(self.log)
        self.session.answer(message, reason_code, properties)
        self.pump()
        return [entry for kind, entry in self.log[before:] if kind == "wire" and entry != "EOF"]

    def disconnect(self, *arguments: Any) -> None:
        self.session.disconnect(self.now, *arguments)
        self.pump()

    # ---- looking ---------------------------------------------------------------------------------------------------------------------------

    def sent(self) -> list[WirePacket]:
        return [entry for kind, entry in self.log if kind == "wire" and entry != "EOF"]

    def kinds(self) -> list[str]:
        """Return what went over the wire, as kinds, EOF included."""
        return [entry if entry == "EOF" else entry.kind for kind, entry in self.log if kind == "wire"]

    def journal(self) -> list[tuple[Any, ...]]:
        return [entry for kind, entry in self.log if kind == "journal"]

    def events(self) -> list[Any]:
        return [entry for kind, entry in self.log if kind == "event"]

    def messages(self) -> list[Message]:
        return [event for event in self.events() if isinstance(event, Message)]

    def reports(self) -> list[Report]:
        return [event for event in self.events() if isinstance(event, Report)]

    def connected(self) -> list[Connected]:
        return [event for event in self.events() if isinstance(event, Connected)]

    def ending(self) -> Disconnected:
        """Return the last Disconnected."""
        return [event for event in self.events() if isinstance(event, Disconnected)][-1]

    def order(self) -> list[str]:
        """Return the log in short: journal entries by number, packets by kind, everything else by class."""
        return [_short(kind, entry) for kind, entry in self.log]


def _short(kind: str, entry: Any) -> str:
    if kind == "journal":
        return f"journal {entry[0]}"
    if kind == "wire":
        return "EOF" if entry == "EOF" else str(entry.kind)
    return type(entry).__name__
