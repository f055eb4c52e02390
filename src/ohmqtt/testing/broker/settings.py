"""What a broker announces, allows and keeps. Plain data with hooks; frozen, so that a connection keeps the limits that it was told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

from ...errors import ArgumentError
from ...mqtt_spec import UINT32_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeAlias

    Action: TypeAlias = Literal["publish", "subscribe"]

__all__ = ["BrokerSettings", "ServerAuthenticator", "check_refusal"]


class ServerAuthenticator(Protocol):
    """The server's side of one exchange of enhanced authentication (section 4.12). A new one is made for each exchange."""

    def step(self, data: bytes | None) -> tuple[bool, bytes | None]:
        """Take the client's Authentication Data; return whether the client is authenticated now, and the data of the answer.

        Raises:
            AuthenticationError: the client is refused (0x87).
        """
        ...


@dataclass(frozen=True, kw_only=True)
class BrokerSettings:
    """Everything that can be set about a broker. The defaults limit nothing that the standard leaves open.

    To change settings while a broker runs, give its core new ones (``dataclasses.replace``); open connections keep theirs.

    Announced in CONNACK where they differ from the standard's defaults (section 3.2.2.3):

    Args:
        receive_maximum: how many QoS 1 and 2 messages a client may have unfinished, 1 to 65,535. More: DISCONNECT 0x93.
        maximum_packet_size: in bytes; ``None``: no limit but the standard's. More: DISCONNECT 0x95.
        maximum_qos: 0, 1 or 2. More: DISCONNECT 0x9B.
        retain_available: whether messages can be retained. Otherwise: DISCONNECT 0x9A.
        wildcard_subscription_available: otherwise DISCONNECT 0xA2.
        subscription_identifier_available: otherwise DISCONNECT 0xA1.
        shared_subscription_available: otherwise DISCONNECT 0x9E.
        topic_alias_maximum: how many aliases a client may use, 0 to 65,535.
        session_expiry_max_s: longest Session Expiry Interval granted, in seconds.
        server_keep_alive: in seconds, in place of what the client asks for; ``None``: the client's value.
        response_information: given to clients that ask for it.
        server_reference: sent along with reason codes 0x9C and 0x9D, in CONNACK and DISCONNECT.

    Not announced:

        assign_client_ids: whether a client may come with an empty Client Identifier. Otherwise: CONNACK 0x85.
        topic_aliases_sent_max: how many of the aliases that a client offers are used.
        one_copy: with overlapping subscriptions, send one copy with all Subscription Identifiers; otherwise one for each subscription.
        report_no_subscribers: answer 0x10 in PUBACK and PUBREC if nobody has subscribed.
        queue_qos0: keep QoS 0 messages for clients that aren't connected.
        queue_messages_max: how many messages wait for one client; the newest beyond them are dropped.
        output_bytes_max: how much waits to be written to one client before QoS 0 messages are dropped.
        connect_timeout_s: how long a connection may go without a complete CONNECT, in seconds.
        persistent: whether sessions and retained messages outlive ``BrokerCore.restart``.

    Hooks, called while a packet is handled, so that they must be quick:

        authenticate: ``(client_id, user_name, password)`` → ``None``, or the reason code of a refusing CONNACK (0x80 or more).
        authorize: ``(client_id, "publish" or "subscribe", topic or filter)`` → ``None``, or the reason code of the refusal.
        authenticators: Authentication Method → what makes a ``ServerAuthenticator``.

    Raises:
        ArgumentError: a limit that can't be announced.
    """

    receive_maximum: int = 65_535
    maximum_packet_size: int | None = None
    maximum_qos: int = 2
    retain_available: bool = True
    wildcard_subscription_available: bool = True
    subscription_identifier_available: bool = True
    shared_subscription_available: bool = True
    topic_alias_maximum: int = 16
    session_expiry_max_s: int = UINT32_MAX
    server_keep_alive: int | None = None
    response_information: str | None = None
    server_reference: str | None = None

    assign_client_ids: bool = True
    topic_aliases_sent_max: int = 16
    one_copy: bool = True
    report_no_subscribers: bool = True
    queue_qos0: bool = False
    queue_messages_max: int = 1_000_000
    output_bytes_max: int = 67_108_864
    connect_timeout_s: float = 10.0
    persistent: bool = True

    authenticate: Callable[[str, str | None, bytes | None], int | None] | None = None
    authorize: Callable[[str, Action, str], int | None] | None = None
    authenticators: Mapping[str, Callable[[], ServerAuthenticator]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, minimum, maximum in (
            ("receive_maximum", 1, 65_535),
            ("maximum_packet_size", 1, UINT32_MAX),
            ("maximum_qos", 0, 2),
            ("topic_alias_maximum", 0, 65_535),
            ("topic_aliases_sent_max", 0, 65_535),
            ("session_expiry_max_s", 0, UINT32_MAX),
            ("server_keep_alive", 0, 65_535),
        ):
            value = getattr(self, name)
            if value is None and name in {"maximum_packet_size", "server_keep_alive"}:
                continue
            if not isinstance(value, int):
                raise ArgumentError(f"{name}: int expected, got {value!r:.50}")
            if not minimum <= value <= maximum:
                raise ArgumentError(f"{name}: {value} is out of range, {minimum} to {maximum}")


def check_refusal(hook: str, said: object) -> int | None:
    """Return what a hook said, None or a reason code; nobody is to take False for a refusal, or True for a permission.

    Raises:
        ArgumentError: it said something else.
    """
    if said is None or (isinstance(said, int) and not isinstance(said, bool) and (not said or 0x80 <= said <= 0xFF)):
        return said
    raise ArgumentError(f"{hook} returned {said!r:.50}; None expected, or the reason code of a refusal, 0x80 or more")
