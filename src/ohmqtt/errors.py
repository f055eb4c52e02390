"""Every exception that ΩQTT raises, in one tree.

Three families, told apart by who went wrong: *you* (raised at the call, nothing was sent), *the peer* (the network connection is closed
with a reason code), *the world* (the link, the disk, time). Causes are chained; the message says what, where and what was expected.

::

    MQTTError
    ├── ArgumentError (ValueError)            a bad argument: field, value, limit
    │   ├── PacketTooLargeError               larger than the server's Maximum Packet Size
    │   └── ServerLimitError                  the server said that it doesn't support this
    │       └── TopicAliasError               AliasPolicy.ALWAYS, and no alias is to be had
    ├── StateError (RuntimeError)             a call that doesn't fit the client's state
    │   └── ForkedError                       a client used in a forked child
    ├── ProtocolError                         the peer broke the standard (.reason_code)
    │   └── MalformedPacketError              bytes that are no MQTT packet
    ├── ConnectError (ConnectionError)        no connection could be made
    │   ├── ConnectRefusedError               CONNACK ≥ 0x80, or DISCONNECT in its place (.packet)
    │   └── ForeignSessionError               the server resumed a session that isn't ours
    ├── LinkLostError (ConnectionError)       an established link ended (.packet: the server's DISCONNECT)
    │   └── KeepAliveError                    the peer fell silent
    ├── AuthenticationError                   the authenticator refused
    ├── WaitTimeoutError (TimeoutError)       a wait ended before the thing waited for
    ├── DeliveryError                         a publication that did not reach the server
    │   ├── PublishError                      rejected: reason code ≥ 0x80 (.ack)
    │   ├── MessageExpiredError               its Message Expiry Interval ran out before it was sent
    │   ├── MessageDroppedError               dropped by the queue's policy
    │   ├── QueueFullError                    no room in the outbound queue
    │   ├── SessionLostError                  sent, unacknowledged, and the server lost the session
    │   ├── PoisonMessageError                sending it ended three links in a row
    │   ├── CancelledError                    cancelled by the caller
    │   └── ClientClosedError                 the client was closed first (.stored)
    ├── SubscribeError                        at least one filter was refused (.suback)
    ├── UnsubscribeError                      at least one filter was refused (.unsuback)
    ├── NotSupportedError                     not in this version
    └── StoreError                            the database
        ├── StoreInUseError                   another process, or another client, has it open
        ├── StoreOwnerError                   it belongs to another client identifier
        ├── StoreFormatError                  not ours, or written by a newer version
        └── StoreDamagedError                 SQLite says that the file is damaged
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .packet import (
        MQTTConnAckPacket,
        MQTTDisconnectPacket,
        MQTTPubAckPacket,
        MQTTPubCompPacket,
        MQTTPubRecPacket,
        MQTTSubAckPacket,
        MQTTUnsubAckPacket,
    )

__all__ = [
    "ArgumentError",
    "AuthenticationError",
    "CancelledError",
    "ClientClosedError",
    "ConnectError",
    "ConnectRefusedError",
    "DeliveryError",
    "ForeignSessionError",
    "ForkedError",
    "KeepAliveError",
    "LinkLostError",
    "MQTTError",
    "MalformedPacketError",
    "MessageDroppedError",
    "MessageExpiredError",
    "NotSupportedError",
    "PacketTooLargeError",
    "PoisonMessageError",
    "ProtocolError",
    "PublishError",
    "QueueFullError",
    "ServerLimitError",
    "SessionLostError",
    "StateError",
    "StoreDamagedError",
    "StoreError",
    "StoreFormatError",
    "StoreInUseError",
    "StoreOwnerError",
    "SubscribeError",
    "TopicAliasError",
    "UnsubscribeError",
    "WaitTimeoutError",
]


class MQTTError(Exception):
    """Everything that ΩQTT raises on purpose."""


class ArgumentError(MQTTError, ValueError):
    """A bad argument. The message names the field, the value and the limit; nothing was sent, nothing was stored."""


class PacketTooLargeError(ArgumentError):
    """The packet is larger than the server's Maximum Packet Size [MQTT-3.2.2-15]."""


class ServerLimitError(ArgumentError):
    """The server announced in CONNACK that it doesn't support what was asked for (section 3.2.2.3)."""


class TopicAliasError(ServerLimitError):
    """``AliasPolicy.ALWAYS`` was asked for, and the server has no Topic Alias left for this topic, or there is no link."""


class StateError(MQTTError, RuntimeError):
    """The call doesn't fit the state that the client is in, for example ``loop_once`` beside a running I/O thread."""


class ForkedError(StateError):
    """A client was used in a forked child. Its socket and database belong to the parent: make a new client."""


class ProtocolError(MQTTError):
    """The peer broke the standard. ``reason_code`` is what our DISCONNECT says (section 4.13)."""

    def __init__(self, message: str, reason_code: int = 0x82) -> None:
        super().__init__(message)
        self.reason_code = reason_code


class MalformedPacketError(ProtocolError):
    """Bytes that can't be parsed as the packet they claim to be (reason code 0x81)."""

    def __init__(self, message: str, reason_code: int = 0x81) -> None:
        super().__init__(message, reason_code)


class ConnectError(MQTTError, ConnectionError):
    """No connection could be made, or the attempt was given up."""


class ConnectRefusedError(ConnectError):
    """The server refused: ``packet`` is its CONNACK, or the DISCONNECT that it sent in the CONNACK's place."""

    def __init__(self, message: str, packet: MQTTConnAckPacket | MQTTDisconnectPacket) -> None:
        super().__init__(message)
        self.packet = packet


class ForeignSessionError(ConnectError):
    """The server resumed a session that this client knows nothing of [MQTT-3.2.2-4]."""


class LinkLostError(MQTTError, ConnectionError):
    """An established network connection ended. ``packet`` is the server's DISCONNECT, if it sent one."""

    def __init__(self, message: str, packet: MQTTDisconnectPacket | None = None) -> None:
        super().__init__(message)
        self.packet = packet


class KeepAliveError(LinkLostError):
    """The peer sent nothing, or took nothing, for longer than the keep alive allows (section 3.1.2.10)."""


class AuthenticationError(MQTTError):
    """The authenticator did not accept what the server sent (section 4.12)."""


class WaitTimeoutError(MQTTError, TimeoutError):
    """A wait ended before the thing waited for. The thing itself goes on: wait again, or let it be."""


class DeliveryError(MQTTError):
    """A publication did not reach the server, or the server did not take it.

    Not all of a publication's outcomes are below it: `LinkLostError` (QoS 0), `StoreError`, `PacketTooLargeError` and `ServerLimitError`
    have other parents. All of them are `MQTTError`.
    """


class PublishError(DeliveryError):
    """The server rejected the publication: ``ack`` is the PUBACK, PUBREC or PUBCOMP with a reason code ≥ 0x80."""

    def __init__(self, message: str, ack: MQTTPubAckPacket | MQTTPubRecPacket | MQTTPubCompPacket) -> None:
        super().__init__(message)
        self.ack = ack


class MessageExpiredError(DeliveryError):
    """The Message Expiry Interval ran out while the message was queued; it was never sent (section 3.3.2.3.3)."""


class MessageDroppedError(DeliveryError):
    """The message was dropped, unsent, by the policy of a full queue or because there was no link."""


class QueueFullError(DeliveryError):
    """The outbound queue is at its bound, in messages or in bytes. Nothing was queued."""


class SessionLostError(DeliveryError):
    """The message was sent and not acknowledged, and the server lost the session: it may or may not have arrived."""


class PoisonMessageError(DeliveryError):
    """Sending this message alone ended three links in a row, so it isn't sent any more."""


class CancelledError(DeliveryError):
    """The caller cancelled the request, a publication or a subscription. If it was sent already, the server may still act on it."""


class ClientClosedError(DeliveryError):
    """The client was closed before the request was done. ``stored``: the database keeps it for the next process."""

    def __init__(self, message: str, stored: bool = False) -> None:
        super().__init__(message)
        self.stored = stored


class SubscribeError(MQTTError):
    """The server refused at least one Topic Filter: ``suback`` has a reason code for each."""

    def __init__(self, message: str, suback: MQTTSubAckPacket) -> None:
        super().__init__(message)
        self.suback = suback


class UnsubscribeError(MQTTError):
    """The server refused to remove at least one Topic Filter: ``unsuback`` has a reason code for each."""

    def __init__(self, message: str, unsuback: MQTTUnsubAckPacket) -> None:
        super().__init__(message)
        self.unsuback = unsuback


class NotSupportedError(MQTTError):
    """Understood, but not in this version of ΩQTT."""


class StoreError(MQTTError):
    """The database could not keep or give back what it was asked to. Nothing of the failed transaction was applied."""


class StoreInUseError(StoreError):
    """Another process, or another client in this process, has the database open."""


class StoreOwnerError(StoreError):
    """The database belongs to another client identifier. It was not changed."""


class StoreFormatError(StoreError):
    """The file is no ΩQTT database, or a newer version wrote it. It was not changed."""


class StoreDamagedError(StoreError):
    """SQLite reports damage in the file. It was not changed."""
