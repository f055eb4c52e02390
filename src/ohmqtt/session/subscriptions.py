"""Subscriptions as declared state: what the user wants, what the server knows, and which callbacks a message is due to.

A subscription is sent on connect and again when the server lost the session. Requests that no link lived to see answered are sent again,
with the same handle. Where filters overlap, Subscription Identifiers tell whose copy a message is; where they don't, none are used, so
that the common case doesn't pay for a property on each message.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ..errors import ArgumentError, CancelledError, ClientClosedError, MQTTError, ProtocolError, ServerLimitError, SubscribeError, UnsubscribeError
from ..mqtt_spec import VARINT_MAX, reason_name
from ..packet import MQTTSubAckPacket, MQTTSubscribePacket, MQTTSubscription, MQTTUnsubscribePacket
from ..property import MQTTSubscribeProps
from ..records import Report, Request, Subscription
from ..topic import TopicTree, is_shared, matches

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..link import Link
    from ..packet import MQTTUnsubAckPacket
    from ..records import Message
    from .baskets import Baskets
    from .outbound import Outbound

__all__ = ["Subscriptions"]

FILTERS_PER_PACKET_MAX = 500
"""How many filters are put into one SUBSCRIBE when all are sent again."""

WARNING = 30


class Subscriptions:
    """The declared subscriptions and the requests about them."""

    def __init__(self, baskets: Baskets, outbound: Outbound) -> None:
        self.baskets = baskets
        self.outbound = outbound
        self.tree: TopicTree[Subscription] = TopicTree()
        self.by_identifier: dict[int, list[Subscription]] = {}
        self.last_identifier = 0
        self.pending: deque[Request] = deque()

    # ---- the user's calls ------------------------------------------------------------------------------------------------------------------

    def subscribe(self, request: Request, link: Link | None) -> None:
        """Declare the subscriptions of `request` and ask for them."""
        if link is not None:
            self._check(request, link)
        own_identifier = request.properties.SubscriptionIdentifier or 0  # type: ignore[union-attr]
        own_filters = {subscription.options.topic_filter for subscription in request.subscriptions}
        others = {other for topic_filter in own_filters for other in self.tree.overlapping(topic_filter)} - own_filters
        again: list[Subscription] = []
        for other in sorted(others):
            known = self.tree.get(other)
            assert known is not None
            if not known.identifier:
                # The older one gets an identifier first, so that no message can come that names the newer one alone.
                known.identifier = self._new_identifier()
                again.append(known)
                self.by_identifier[known.identifier] = [known]
        identifier = own_identifier or (self._new_identifier() if others else 0)
        for subscription in request.subscriptions:
            topic_filter = subscription.options.topic_filter
            replaced = self.tree.get(topic_filter)
            if replaced is not None:
                self._unlist(replaced)
            subscription.identifier = identifier
            self.tree[topic_filter] = subscription  # [MQTT-3.8.4-3]
            if identifier:
                self.by_identifier.setdefault(identifier, []).append(subscription)
        for subscription in again:
            # Retain Handling 2: retained messages came with the first SUBSCRIBE.
            self._send_again([subscription], retain_handling=2)
        self.pending.append(request)

    def unsubscribe(self, request: Request, link: Link | None) -> None:
        """Ask the server to end subscriptions; their callbacks stay until it has."""
        if link is not None:
            self._check(request, link)
        self.pending.append(request)

    def cancel(self, request: Request) -> bool:
        """Give a request up. If it was sent, its identifier stays in use until the answer or the end of the link."""
        if request.settled:
            return False
        self._settle(request, CancelledError("cancelled"))
        return True

    def _new_identifier(self) -> int:
        while True:
            self.last_identifier = self.last_identifier % VARINT_MAX + 1
            if self.last_identifier not in self.by_identifier:
                return self.last_identifier

    def _unlist(self, subscription: Subscription) -> None:
        listed = self.by_identifier.get(subscription.identifier)
        if listed is not None and subscription in listed:
            listed.remove(subscription)
            if not listed:
                del self.by_identifier[subscription.identifier]

    def _check(self, request: Request, link: Link) -> None:
        """Raise if the server has said that it can't do this (section 3.2.2.3)."""
        for item in request.items:
            topic_filter = item.topic_filter if isinstance(item, MQTTSubscription) else item
            if isinstance(item, MQTTSubscription):
                if is_shared(topic_filter) and not link.shared_available:
                    raise ServerLimitError(f"topic filter {topic_filter!r} is shared, and the server's Shared Subscription Available is 0")
                if ("+" in topic_filter or "#" in topic_filter) and not link.wildcard_available:
                    raise ServerLimitError(f"topic filter {topic_filter!r} has a wildcard, and the server's Wildcard Subscription Available is 0")
        if getattr(request.properties, "SubscriptionIdentifier", None) and not link.identifiers_available:
            raise ServerLimitError("SubscriptionIdentifier is given, and the server's Subscription Identifier Available is 0")
        # The identifier that we may add ourselves takes up to five bytes.
        link.check_size("SUBSCRIBE" if request.subscriptions else "UNSUBSCRIBE", len(self._encode(request, link)))

    # ---- the wire ----------------------------------------------------------------------------------------------------------------------------

    def pump(self, link: Link) -> None:
        """Write the requests that wait. They need no quota [MQTT-3.3.4-8]."""
        while self.pending:
            request = self.pending[0]
            if request.settled:
                self.pending.popleft()
                continue
            packet_id = self.outbound.allocate()
            if not packet_id:
                return
            self.pending.popleft()
            request.packet_id = packet_id
            try:
                self._check(request, link)
            except MQTTError as error:
                self._settle(request, error)
                continue
            self.outbound.requests[packet_id] = request
            self.baskets.writes.append(self._encode(request, link))

    def _encode(self, request: Request, link: Link) -> bytes:
        packet_id = request.packet_id or 1
        properties = request.properties
        if not request.subscriptions:
            return MQTTUnsubscribePacket(packet_id, request.items, properties).encode()  # type: ignore[arg-type]
        identifier = request.subscriptions[0].identifier
        if identifier and link.identifiers_available:
            properties = properties.replace(SubscriptionIdentifier=identifier)
        return MQTTSubscribePacket(packet_id, request.items, properties).encode()  # type: ignore[arg-type]

    def suback(self, packet: MQTTSubAckPacket) -> None:
        """Receive a SUBACK: one reason code for each filter, in order [MQTT-3.9.3-1]."""
        request = self.outbound.requests.get(packet.packet_id)
        if request is None:
            return
        if not request.subscriptions or len(packet.reason_codes) != len(request.items):  # [MQTT-3.8.4-6]
            raise ProtocolError(
                f"SUBACK with {len(packet.reason_codes)} reason codes for packet identifier {packet.packet_id}: expected {len(request.subscriptions)}"
            )
        del self.outbound.requests[packet.packet_id]
        refused = []
        for subscription, code in zip(request.subscriptions, packet.reason_codes):
            topic_filter = subscription.options.topic_filter
            if code < 0x80:
                subscription.granted = code
                continue
            refused.append(f"{topic_filter!r}: {reason_name(code)}")
            if self.tree.get(topic_filter) is subscription:
                self._unlist(subscription)
                del self.tree[topic_filter]
        if refused:
            text = f"the server refused {len(refused)} of {len(packet.reason_codes)} topic filters: {', '.join(refused[:10])}"
            if type(request) is Request:
                self.baskets.events.append(Report(WARNING, text))
            self._settle(request, SubscribeError(text, packet))
        else:
            self._settle(request, packet)

    def unsuback(self, packet: MQTTUnsubAckPacket) -> None:
        """Receive an UNSUBACK: one reason code for each filter, in order [MQTT-3.11.3-1]."""
        request = self.outbound.requests.get(packet.packet_id)
        if request is None:
            return
        if request.subscriptions or len(packet.reason_codes) != len(request.items):
            raise ProtocolError(f"UNSUBACK with {len(packet.reason_codes)} reason codes for packet identifier {packet.packet_id}")
        del self.outbound.requests[packet.packet_id]
        refused = []
        for item, code in zip(request.items, packet.reason_codes):
            if code >= 0x80:
                refused.append(f"{item!r}: {reason_name(code)}")
            else:
                self._remove(str(item))
        if refused:
            self._settle(request, UnsubscribeError(f"the server refused to end {len(refused)} subscriptions: {', '.join(refused[:10])}", packet))
        else:
            self._settle(request, packet)

    def _remove(self, topic_filter: str) -> None:
        subscription = self.tree.get(topic_filter)
        if subscription is not None:
            self._unlist(subscription)
            del self.tree[topic_filter]

    def _settle(self, request: Request, outcome: MQTTSubAckPacket | MQTTUnsubAckPacket | MQTTError) -> None:
        if not request.settled:
            request.settled = True
            request.outcome = outcome
            self.baskets.resolved.append(request)

    # ---- the life of links and sessions --------------------------------------------------------------------------------------------------------

    def link_lost(self) -> None:
        """Requests without an answer are sent again on the next link; their identifiers are free."""
        unanswered = [request for request in self.outbound.requests.values() if not request.settled]
        self.outbound.requests.clear()
        self.pending.extendleft(reversed(unanswered))

    def resume(self, session_present: bool) -> None:
        """Send what the server doesn't know: everything if the session is new, else what this process never got an answer for."""
        asked = {id(subscription) for request in self.pending for subscription in request.subscriptions}
        by_identifier: dict[int, list[Subscription]] = {}
        for _, subscription in self.tree:
            if not session_present:
                subscription.granted = None
            if subscription.granted is None and id(subscription) not in asked:
                by_identifier.setdefault(subscription.identifier, []).append(subscription)
        requests: list[Request] = []
        for subscriptions in by_identifier.values():
            for i in range(0, len(subscriptions), FILTERS_PER_PACKET_MAX):
                requests += self._requests(subscriptions[i : i + FILTERS_PER_PACKET_MAX])
        # Before the requests of the user: an UNSUBSCRIBE among them must come after what it ends.
        self.pending.extendleft(reversed(requests))

    def _requests(self, subscriptions: Sequence[Subscription], retain_handling: int | None = None) -> list[Request]:
        """Return requests for subscriptions of one identifier; User Properties differ from call to call and split them."""
        found: dict[tuple[tuple[str, str], ...], list[Subscription]] = {}
        for subscription in subscriptions:
            found.setdefault(subscription.user_properties, []).append(subscription)
        requests = []
        for user_properties, members in found.items():
            items = [member.options for member in members]
            if retain_handling is not None:
                items = [
                    MQTTSubscription(item.topic_filter, item.max_qos, item.no_local, item.retain_as_published, retain_handling) for item in items
                ]
            requests.append(Request(items, MQTTSubscribeProps(UserProperty=user_properties), members))
        return requests

    def _send_again(self, subscriptions: Sequence[Subscription], retain_handling: int) -> None:
        self.pending.extend(self._requests(subscriptions, retain_handling))

    def close_out(self) -> None:
        """Settle every open request: the client says goodbye."""
        for request in (*self.outbound.requests.values(), *self.pending):
            self._settle(request, ClientClosedError("the client was closed before the server answered"))
        self.outbound.requests.clear()
        self.pending.clear()

    # ---- dispatch --------------------------------------------------------------------------------------------------------------------------------

    def due(self, message: Message) -> tuple[Subscription, ...]:
        """Return the subscriptions that `message` is due to: those it names, or all that match if it names none."""
        identifiers = message.properties.SubscriptionIdentifier
        if not identifiers:
            return self.tree.match(message.topic)
        found: list[Subscription] = []
        for identifier in identifiers:
            for subscription in self.by_identifier.get(identifier, ()):
                if subscription not in found and matches(subscription.options.topic_filter, message.topic):
                    found.append(subscription)
        # An identifier that we no longer know (a subscription that was replaced while the message was under way) must not lose the message.
        return tuple(found) or self.tree.match(message.topic)


def check_filters(items: Sequence[object]) -> None:
    """Raise if there is no filter [MQTT-3.8.3-2] [MQTT-3.10.3-2]."""
    if not items:
        raise ArgumentError("topic_filter is an empty list: a request needs at least one Topic Filter")
