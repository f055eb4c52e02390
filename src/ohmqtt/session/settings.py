"""The choices that a caller makes once for a client: bounds, policies, times. Each has a default that loses nothing."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum

from ..errors import ArgumentError
from ..records import SessionLostPolicy

__all__ = ["QueuePolicy", "SessionSettings"]


class QueuePolicy(Enum):
    """What `publish` does when the outbound queue is at its bound."""

    WAIT = 0
    """Wait while connected, until there is room or the link is lost; raise `QueueFullError` while not connected."""
    RAISE = 1
    """Raise `QueueFullError`."""
    DROP_OLDEST = 2
    """Drop the oldest message that was never sent: its handle fails with `MessageDroppedError`."""
    DROP_NEWEST = 3
    """Drop the new message: its handle fails with `MessageDroppedError`."""


@dataclass(frozen=True)
class SessionSettings:
    """Bounds, policies and times of a client. All times are in seconds, all sizes in bytes.

    :param queue_messages_max: Bound of all publications that aren't settled: queued, in flight and (with a database) on disk.
    :param queue_bytes_max: The same in bytes of topic, properties and payload.
    :param queue_policy: What `publish` does at the bound.
    :param queue_qos0: Whether QoS 0 publications are queued while there is no connection; if not, they are dropped.
    :param session_lost_policy: What becomes of unacknowledged messages when the server lost the session.
    :param adopt_session: Accept a session that the server kept from a former process without a database.
    :param keep_poison: Keep re-sending a message that ended three connections in a row.
    :param reconnect: Whether to connect again after a failed attempt or a lost connection.
    :param reconnect_initial_s: Upper bound of the first backoff; it doubles from attempt to attempt.
    :param reconnect_max_s: Upper bound of every backoff. The waiting time is drawn evenly between 0 and the bound (full jitter).
    :param stable_s: How long a connection must last before the backoff starts afresh.
    :param connack_timeout_s: How long the server may take to answer CONNECT.
    :param close_timeout_s: How long our DISCONNECT may take to leave before the socket is closed anyhow.
    :param store_timeout_s: How long the end of a client waits for a database that doesn't answer.
    :param inbound_messages_max: Above so many undelivered messages the socket is left unread while nothing of ours awaits an answer.
    :param inbound_messages_hard_max: Above so many, QoS 0 messages are dropped, counted and reported.
    :param inbound_bytes_max: As `inbound_messages_max`, in bytes as received.
    :param inbound_bytes_hard_max: As `inbound_messages_hard_max`, in bytes as received.
    :param unmatched_s: How long a QoS > 0 message that matches no callback is held for a `subscribe` to come.
    :param window_messages: With a database: how many queued messages are held in memory; the rest stays on disk.
    :param window_bytes: The same in bytes.
    """

    queue_messages_max: int = 65_535
    queue_bytes_max: int = 67_108_864
    queue_policy: QueuePolicy = QueuePolicy.WAIT
    queue_qos0: bool = True
    session_lost_policy: SessionLostPolicy = SessionLostPolicy.CLEAR
    adopt_session: bool = False
    keep_poison: bool = False
    reconnect: bool = True
    reconnect_initial_s: float = 1.0
    reconnect_max_s: float = 60.0
    stable_s: float = 10.0
    connack_timeout_s: float = 30.0
    close_timeout_s: float = 2.0
    store_timeout_s: float = 5.0
    inbound_messages_max: int = 20_000
    inbound_messages_hard_max: int = 100_000
    inbound_bytes_max: int = 33_554_432
    inbound_bytes_hard_max: int = 134_217_728
    unmatched_s: float = 5.0
    window_messages: int = 2_048
    window_bytes: int = 8_388_608

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(field.default, Enum):
                kind = type(field.default)
                if not isinstance(value, kind):
                    raise ArgumentError(f"{field.name} is {value!r}, expected one of {', '.join(map(str, kind))}")
            elif isinstance(field.default, bool):
                if not isinstance(value, bool):
                    raise ArgumentError(f"{field.name} is {value!r}, expected True or False")
            else:
                # Times may be 0. Not `<`: it would let NaN through.
                least = 0 if field.name.endswith("_s") else 1
                if not isinstance(value, (int, float)) or isinstance(value, bool) or not value >= least:
                    raise ArgumentError(f"{field.name} is {value!r}, expected a number of at least {least}")
