"""The journal: what the Session says must be on disk, and what a store gives back of it.

Owns the entries' forms and the records of a stored publication and of a stored session. The Session fills its journal with these tuples;
a `Store` applies a list of them in order, in one transaction.
"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["DELETE", "FORGET", "IDENTITY", "INSERT", "RECEIVE", "RELEASE", "REQUEUE", "SEND", "SESSION", "StoredMessage", "StoredState"]

INSERT: Final = 0  # (INSERT, StoredMessage)            a message was accepted
SEND: Final = 1  # (SEND, sequence, packet_id)          queued → in flight
REQUEUE: Final = 2  # (REQUEUE, sequence)               in flight → as if never sent
RELEASE: Final = 3  # (RELEASE, sequence, order)        its PUBREC arrived as the order-th: PUBREL is pending
DELETE: Final = 4  # (DELETE, sequence)                 done, whatever the outcome
RECEIVE: Final = 5  # (RECEIVE, packet_id)              an inbound QoS 2 message arrived
FORGET: Final = 6  # (FORGET, packet_id)                its PUBREL arrived, or the session is gone
IDENTITY: Final = 7  # (IDENTITY, client_id)            the store belongs to this Client Identifier
SESSION: Final = 8  # (SESSION, text)                   whatever else the session wants to find again


class StoredMessage:
    """An outbound message as a store keeps it.

    ``sequence`` orders all messages for ever, 1 … 2⁶³-1. ``packet_id`` is 0 as long as the message was never sent. ``released`` is 0,
    or the order number of its PUBREC: what is pending then is PUBREL. ``properties`` is the encoded block, length included.
    ``expiry_s`` is the rest of the Message Expiry Interval in seconds when the commit began, or when it was loaded; 0 if it ran out, ``None``
    if there is none.
    """

    __slots__ = ("alias_policy", "expiry_s", "packet_id", "payload", "properties", "qos", "released", "retain", "sequence", "topic")

    def __init__(
        self,
        sequence: int,
        packet_id: int,
        released: int,
        qos: int,
        retain: bool,
        topic: str,
        properties: bytes,
        payload: bytes,
        alias_policy: int = 0,
        expiry_s: float | None = None,
    ) -> None:
        self.sequence = sequence
        self.packet_id = packet_id
        self.released = released
        self.qos = qos
        self.retain = retain
        self.topic = topic
        self.properties = properties
        self.payload = payload
        self.alias_policy = alias_policy
        self.expiry_s = expiry_s

    def _fields(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, StoredMessage) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # a mutable record

    def __repr__(self) -> str:
        return (
            f"StoredMessage({self.sequence}, packet_id={self.packet_id}, released={self.released}, qos={self.qos}, retain={self.retain}, "
            f"topic={self.topic!r}, properties={self.properties!r}, payload={_shorten(self.payload)}, alias_policy={self.alias_policy}, "
            f"expiry_s={self.expiry_s})"
        )


class StoredState:
    """What a store knows when it is opened; the messages that were never sent are only counted.

    ``client_id`` and ``session`` are ``None`` until somebody stored them. ``next_sequence`` is larger than every sequence number that the
    store ever held. ``in_flight`` is ordered by sequence, ``received`` (the identifiers of inbound QoS 2 messages) by arrival.
    ``queued_bytes`` counts topic, properties and payload.
    """

    __slots__ = ("client_id", "in_flight", "next_sequence", "queued_bytes", "queued_messages", "received", "session")

    def __init__(
        self,
        client_id: str | None,
        session: str | None,
        next_sequence: int,
        in_flight: list[StoredMessage],
        received: list[int],
        queued_messages: int,
        queued_bytes: int,
    ) -> None:
        self.client_id = client_id
        self.session = session
        self.next_sequence = next_sequence
        self.in_flight = in_flight
        self.received = received
        self.queued_messages = queued_messages
        self.queued_bytes = queued_bytes

    def _fields(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self.__slots__)

    def __eq__(self, other: object) -> bool:
        return self._fields() == other._fields() if isinstance(other, StoredState) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # a mutable record

    def __repr__(self) -> str:
        return (
            f"StoredState(client_id={self.client_id!r}, session={self.session!r}, next_sequence={self.next_sequence}, "
            f"in_flight={len(self.in_flight)} messages, received={len(self.received)} identifiers, "
            f"queued_messages={self.queued_messages}, queued_bytes={self.queued_bytes})"
        )


def _shorten(payload: bytes) -> str:
    """Show a payload in an error or a repr without flooding it."""
    return repr(payload) if len(payload) <= 40 else f"{payload[:40]!r}… ({len(payload)} bytes)"
