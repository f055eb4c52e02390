"""Subscriptions as declared state: what the user wants, what the server knows, and which callbacks a message is due to.

A subscription is sent on connect and again when the server lost the session. Requests that no link lived to see answered are sent again,
with the same handle. Where filters overlap, Subscription Identifiers tell whose copy a message is; where they don't, none are used, so
that the common case doesn't pay for a property on each message.

Its invariants: a subscription without an identifier overlaps no other one; and what overlaps shares an identifier only if callers named it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from ..errors import (
    ArgumentError,
    CancelledError,
    ClientClosedError,
    MQTTError,
    PacketTooLargeError,
    ProtocolError,
    ServerLimitError,
    SubscribeError,
    UnsubscribeError,
)
from ..mqtt_spec import VARINT_MAX, reason_name
from ..packet import MQTTSubAckPacket, MQTTSubscribePacket, MQTTSubscription, MQTTUnsubscribePacket
from ..property import MQTTSubscribeProps
from ..records import Report, Request, Subscription
from ..topic import TopicTree, is_shared
from .policy import REQUEST_DISCONNECT

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..link import Link
    from ..packet import MQTTUnsubAckPacket
    from ..records import Message
    from .baskets import Baskets
    from .outbound import Outbound

__all__ = ["FILTERS_PER_PACKET_MAX", "Subscriptions", "check_filters"]

FILTERS_PER_PACKET_MAX = 500
"""How many filters are put into one SUBSCRIBE of our own."""

_WARNING = 30


class Subscriptions:
    """The declared subscriptions and the requests about them."""

    def __init__(self, baskets: Baskets, outbound: Outbound) -> None:
        self.baskets = baskets
        self.outbound = outbound
        self.tree: TopicTree[Subscription] = TopicTree()
        # Subscription Identifiers in use, and how many subscriptions have each. Ours are those that no caller has named: they are given from
        # the end of the range, where callers hardly ever are, and give way to one who is.
        self.identifiers: dict[int, int] = {}
        self.ours: set[int] = set()
        self.last_identifier = VARINT_MAX + 1
        self.pending: deque[Request] = deque()
        # The UNSUBSCRIBEs that are not settled and were meant for something.
        self.unsubscribing: list[Request] = []

    # ---- the user's calls ------------------------------------------------------------------------------------------------------------------

    def subscribe(self, request: Request, link: Link | None) -> None:
        """Declare the subscriptions of `request` and ask for them."""
        if link is not None:
            self._check(request, link)
        tree = self.tree
        identifier: int = request.properties.SubscriptionIdentifier or 0  # type: ignore[union-attr]
        reusable = 0
        # The same filter twice in a call: the last one counts, as at the server.
        own = {subscription.options.topic_filter: subscription for subscription in request.subscriptions}
        for topic_filter, subscription in own.items():
            before = tree.get(topic_filter)
            if before is not None:
                ours = before.identifier in self.ours
                reusable = before.identifier
                self._set_identifier(before, 0)
                if reusable in self.identifiers and not ours:
                    # Its caller shares it, and not with this one.
                    reusable = 0
            tree[topic_filter] = subscription  # [MQTT-3.8.4-3]
        others: set[str] = set()
        tangled: list[Subscription] = []
        for topic_filter, subscription in own.items():
            overlapping = tree.overlapping(topic_filter)
            others.update(other for other in overlapping if other not in own)
            if any(other in own and other != topic_filter for other in overlapping):
                tangled.append(subscription)
        fresh = self._identify(others)
        moved = self._vacate(identifier) if identifier in self.ours else []
        separate: list[Subscription] = []
        if not identifier:
            # Filters of one call that overlap are told apart as well; all but one get their identifier with a SUBSCRIBE of their own.
            separate = tangled[1:]
            if others or tangled:
                # Of what is replaced, messages may be under way: alone, its successor answers to the same identifier.
                identifier = (reusable if len(own) == 1 else 0) or self._new_identifier()
                self.ours.add(identifier)
        request.identifier = identifier
        for subscription in own.values():
            self._set_identifier(subscription, identifier)
        for subscription in separate:
            self._set_identifier(subscription, self._new_identifier())
        available = link is None or link.identifiers_available
        # The older ones first, so that no message can come that names the newer one alone. Retain Handling 2: retained messages came or
        # come with the first SUBSCRIBE.
        if available:
            self.pending.extend(self._requests(moved, retain_handling=2))
            self.pending.extend(self._requests(fresh, retain_handling=2))
        self.pending.append(request)
        if available:
            for subscription in separate:
                self.pending.extend(self._requests([subscription], retain_handling=2))

    def _identify(self, topic_filters: Iterable[str]) -> list[Subscription]:
        """Give an identifier to those of the filters that have none, and return them. They overlap each other nowhere, so one will do."""
        found = map(self.tree.get, sorted(topic_filters))
        fresh = [known for known in found if known is not None and not known.identifier]
        return self._rename(fresh)

    def _vacate(self, identifier: int) -> list[Subscription]:
        """A caller names an identifier that we gave: give another one to those that have it, and return them."""
        moved = self._rename([known for _, known in self.tree if known.identifier == identifier])
        self.ours.discard(identifier)
        return moved

    def _rename(self, subscriptions: list[Subscription]) -> list[Subscription]:
        """Give a new identifier to those of the subscriptions that aren't about to be ended, and return them."""
        # What is about to be ended must not be asked for again behind that.
        ending = {id(known) for request in self.unsubscribing for known in request.ends} if subscriptions else ()
        renamed = [known for known in subscriptions if id(known) not in ending]
        if renamed:
            identifier = self._new_identifier()
            for known in renamed:
                self._set_identifier(known, identifier)
        return renamed

    def unsubscribe(self, request: Request, link: Link | None) -> None:
        """Ask the server to end subscriptions; their callbacks stay until it has."""
        if link is not None:
            self._check(request, link)
        # What is subscribed anew behind this request is not ended by it.
        request.ends = tuple(known for item in request.items if (known := self.tree.get(str(item))) is not None)
        if request.ends:
            self.unsubscribing.append(request)
        self.pending.append(request)

    def cancel(self, request: Request) -> bool:
        """Give a request up, and what it declared. If it was sent, its identifier stays in use until the answer or the end of the link."""
        if request.settled:
            return False
        for subscription in request.subscriptions:
            self._remove(subscription)
        self._settle(request, CancelledError("cancelled: if the request was sent, the server may act on it all the same"))
        return True

    def _new_identifier(self) -> int:
        while True:
            self.last_identifier = self.last_identifier - 1 or VARINT_MAX
            if self.last_identifier not in self.identifiers:
                self.ours.add(self.last_identifier)
                return self.last_identifier

    def _count(self, identifier: int, change: int) -> None:
        if identifier:
            count = self.identifiers.get(identifier, 0) + change
            if count:
                self.identifiers[identifier] = count
            else:
                del self.identifiers[identifier]
                self.ours.discard(identifier)

    def _set_identifier(self, subscription: Subscription, identifier: int) -> None:
        self._count(subscription.identifier, -1)
        subscription.identifier = identifier
        self._count(identifier, 1)

    def _remove(self, subscription: Subscription) -> None:
        topic_filter = subscription.options.topic_filter
        if self.tree.get(topic_filter) is subscription:
            self._set_identifier(subscription, 0)
            del self.tree[topic_filter]

    def _check(self, request: Request, link: Link) -> None:
        """Raise if the server has said that it can't do this (section 3.2.2.3)."""
        for item in request.items:
            if isinstance(item, MQTTSubscription):
                topic_filter = item.topic_filter
                if is_shared(topic_filter) and not link.shared_available:
                    raise ServerLimitError(f"topic filter {topic_filter!r} is shared, and the server's Shared Subscription Available is 0")
                if ("+" in topic_filter or "#" in topic_filter) and not link.wildcard_available:
                    raise ServerLimitError(
                        f"topic filter {topic_filter!r} has a wildcard, and the server's Wildcard Subscription Available is 0"
                    )
        if getattr(request.properties, "SubscriptionIdentifier", None) and not link.identifiers_available:
            raise ServerLimitError("SubscriptionIdentifier is given, and the server's Subscription Identifier Available is 0")
        link.check_size("SUBSCRIBE" if request.subscriptions else "UNSUBSCRIBE", len(self._encode(request, link)))

    # ---- the wire ----------------------------------------------------------------------------------------------------------------------------

    def pump(self, link: Link) -> None:
        """Write the requests that wait. They need no quota [MQTT-3.3.4-8]."""
        pending = self.pending
        while pending:
            request = pending[0]
            if request.settled:
                pending.popleft()
                continue
            try:
                self._check(request, link)
            except MQTTError as error:
                pending.popleft()
                half = len(request.subscriptions) // 2
                if half and _is_ours(request) and isinstance(error, PacketTooLargeError):
                    # We put these together, so we can take them apart.
                    whole = request.subscriptions
                    pending.extendleft((_part(request, whole[half:]), _part(request, whole[:half])))
                else:
                    self._refuse(request, error)
                continue
            packet_id = self.outbound.allocate()
            if not packet_id:
                return
            pending.popleft()
            request.packet_id = packet_id
            self.outbound.requests[packet_id] = request
            self.baskets.writes.append(self._encode(request, link))

    @staticmethod
    def _encode(request: Request, link: Link) -> bytes:
        packet_id = request.packet_id or 1
        properties = request.properties
        if not request.subscriptions:
            return MQTTUnsubscribePacket(packet_id, request.items, properties).encode()  # type: ignore[arg-type]
        if request.identifier and link.identifiers_available:
            properties = properties.replace(SubscriptionIdentifier=request.identifier)
        return MQTTSubscribePacket(packet_id, request.items, properties).encode()  # type: ignore[arg-type]

    def _answered(self, packet_id: int, reason_codes: Sequence[int], name: str) -> Request | None:
        """Return the request that is answered, None if it is none of ours; raise if the answer doesn't fit."""
        request = self.outbound.requests.get(packet_id)
        if request is None:
            return None
        expected = "SUBACK" if request.subscriptions else "UNSUBACK"
        if name != expected or len(reason_codes) != len(request.items):  # [MQTT-3.8.4-6]
            raise ProtocolError(
                f"{name} with {len(reason_codes)} reason codes for packet identifier {packet_id}: expected {expected} with {len(request.items)}"
            )
        del self.outbound.requests[packet_id]
        return request

    def suback(self, packet: MQTTSubAckPacket) -> None:
        """Receive a SUBACK: one reason code for each filter, in order [MQTT-3.9.3-1]."""
        request = self._answered(packet.packet_id, packet.reason_codes, "SUBACK")
        if request is None:
            return
        refused = []
        for subscription, code in zip(request.subscriptions, packet.reason_codes):
            if code < 0x80:
                subscription.granted = code
                continue
            refused.append(f"{subscription.options.topic_filter!r}: {reason_name(code)}")
            # If only the change of a subscription was refused, what it was before still stands.
            if not _is_ours(request) or subscription.granted is None:
                self._remove(subscription)
        if refused:
            text = f"the server refused {len(refused)} of {len(packet.reason_codes)} topic filters: {', '.join(refused[:10])}"
            if _is_ours(request):
                self.baskets.events.append(Report(_WARNING, text))
            self._settle(request, SubscribeError(text, packet))
        else:
            self._settle(request, packet)

    def unsuback(self, packet: MQTTUnsubAckPacket) -> None:
        """Receive an UNSUBACK: one reason code for each filter, in order [MQTT-3.11.3-1]."""
        request = self._answered(packet.packet_id, packet.reason_codes, "UNSUBACK")
        if request is None:
            return
        refused = {str(item): reason_name(code) for item, code in zip(request.items, packet.reason_codes) if code >= 0x80}
        for subscription in request.ends:
            if subscription.options.topic_filter not in refused:
                self._remove(subscription)
        if refused:
            text = ", ".join([f"{topic_filter!r}: {reason}" for topic_filter, reason in refused.items()][:10])
            self._settle(request, UnsubscribeError(f"the server refused to end {len(refused)} subscriptions: {text}", packet))
        else:
            self._settle(request, packet)

    def _settle(self, request: Request, outcome: MQTTSubAckPacket | MQTTUnsubAckPacket | MQTTError) -> None:
        if not request.settled:
            request.settled = True
            if request.ends:
                self.unsubscribing.remove(request)
            request.outcome = outcome
            self.baskets.resolved.append(request)

    def _refuse(self, request: Request, error: MQTTError) -> None:
        """This server can't take `request`: it and what it declared end here."""
        for subscription in request.subscriptions:
            self._remove(subscription)
        if _is_ours(request):
            filters = ", ".join([repr(subscription.options.topic_filter) for subscription in request.subscriptions][:10])
            self.baskets.events.append(Report(_WARNING, f"the server can't take the subscription to {filters} any more: {error}"))
        self._settle(request, error)

    # ---- the life of links and sessions --------------------------------------------------------------------------------------------------------

    def link_lost(self, error: MQTTError) -> None:
        """Requests without an answer are sent again on the next link; their identifiers are free."""
        again: list[Request] = []
        packet = getattr(error, "packet", None)
        blamed = packet is not None and packet.reason_code in REQUEST_DISCONNECT
        self._forget_ends()
        for request in self.outbound.requests.values():
            # Answers come in order: the first one without is what the server closed upon. It must not become a reconnect loop.
            guilty, blamed = blamed, False
            if request.settled:
                continue
            if guilty:
                self._refuse(request, error)
            else:
                again.append(request)
        self.outbound.requests.clear()
        self.pending.extendleft(reversed(again))

    def _forget_ends(self) -> None:
        """Nobody knows whether the server acted on an UNSUBSCRIBE without an answer: unless it is sent again, what it ends is asked for again."""
        for request in self.outbound.requests.values():
            for subscription in request.ends:
                subscription.granted = None

    def session_lost(self) -> None:
        """The server knows none of the subscriptions any more."""
        for _, subscription in self.tree:
            subscription.granted = None

    def resume(self, session_present: bool, doubtful: bool = False) -> None:
        """Send what the server doesn't know: everything if the session is new, else what this process never got an answer for.

        `doubtful`: a CONNECT had no answer, so that the session that is present may be a new one that it began. Then the rest is asked for
        again, and retained messages come only if the subscription was not there.
        """
        asked = {id(subscription) for request in self.pending if not _is_ours(request) for subscription in request.subscriptions}
        if not session_present:
            self.session_lost()
            # Our own requests were about what the old session had; what is about requests that are still to come keeps its place.
            kept: deque[Request] = deque()
            for request in self.pending:
                if not _is_ours(request):
                    kept.append(request)
                elif members := [member for member in request.subscriptions if id(member) in asked]:
                    kept.append(_part(request, members))
            self.pending = kept
        for request in self.pending:
            if not request.settled:
                # What is about to be ended isn't asked for.
                asked.update(id(subscription) for subscription in (*request.subscriptions, *request.ends))
        missing: dict[tuple[int, int], list[Subscription]] = {}
        for _, subscription in self.tree:
            if (subscription.granted is None or doubtful) and id(subscription) not in asked:
                retain_handling = 0 if subscription.granted is None else 1
                missing.setdefault((subscription.identifier, retain_handling), []).append(subscription)
        requests: list[Request] = []
        for (_, retain_handling), members in missing.items():
            requests += self._requests(members, retain_handling)
        # Before the requests of the user, which came later.
        self.pending.extendleft(reversed(requests))

    @staticmethod
    def _requests(subscriptions: Sequence[Subscription], retain_handling: int = 0) -> list[Request]:
        """Return requests for subscriptions of one identifier; User Properties differ from call to call and split them.

        `retain_handling`: at least this, whatever the user has asked for the first time.
        """
        found: dict[tuple[tuple[str, str], ...], list[Subscription]] = {}
        for subscription in subscriptions:
            found.setdefault(subscription.user_properties, []).append(subscription)
        requests = []
        for user_properties, members in found.items():
            properties = MQTTSubscribeProps(UserProperty=user_properties)
            items = [member.options for member in members]
            if retain_handling:
                items = [
                    MQTTSubscription(
                        item.topic_filter, item.max_qos, item.no_local, item.retain_as_published, max(item.retain_handling, retain_handling)
                    )
                    for item in items
                ]
            for i in range(0, len(items), FILTERS_PER_PACKET_MAX):
                part = slice(i, i + FILTERS_PER_PACKET_MAX)
                request = Request(items[part], properties, members[part])
                request.identifier = members[0].identifier
                requests.append(request)
        return requests

    def close_out(self) -> None:
        """Settle every open request: the client says goodbye."""
        self._forget_ends()
        for request in (*self.outbound.requests.values(), *self.pending):
            if _is_ours(request):
                # Never answered, so it is asked for again at the next connect.
                for subscription in request.subscriptions:
                    subscription.granted = None
            self._settle(request, ClientClosedError("the client was closed before the server answered"))
        self.outbound.requests.clear()
        self.pending.clear()

    # ---- dispatch --------------------------------------------------------------------------------------------------------------------------------

    def due(self, message: Message) -> tuple[Subscription, ...] | None:
        """Return the subscriptions that `message` is due to: those it names, or all that match if it names none.

        None: their callbacks run for another copy of the message, so this one is only to be acknowledged.
        """
        matching = self.tree.match(message.topic)
        identifiers = message.properties.SubscriptionIdentifier
        if not identifiers or not matching:
            return matching
        named = [subscription for subscription in matching if subscription.identifier in identifiers]
        if not named:
            # Only identifiers that we no longer know (a former process's, or of what was replaced meanwhile) must not lose the message.
            return matching
        if len(named) < len(matching) and not message.retain:
            named = [subscription for subscription in named if not _has_better_copy(subscription, matching, identifiers)]
        return tuple(named) or None


def _part(request: Request, members: Sequence[Subscription]) -> Request:
    """Return a SUBSCRIBE of ours for some of the subscriptions of `request`, which is another one of ours."""
    wanted = set(map(id, members))
    items: list[Any] = [item for item, subscription in zip(request.items, request.subscriptions) if id(subscription) in wanted]
    part = Request(items, request.properties, members)
    part.identifier = request.identifier
    return part


def _is_ours(request: Request) -> bool:
    """Return whether nobody holds a handle of `request`: we made it ourselves."""
    return type(request) is Request


def _has_better_copy(subscription: Subscription, matching: Sequence[Subscription], identifiers: Sequence[int]) -> bool:
    """Return whether the callback of `subscription` is sure to run for another copy of the message.

    `matching`: all subscriptions that the message matches; `identifiers`: those that this copy names. The copy that counts is the one of the
    filter with the highest granted QoS; if there are several, of the first.
    """
    granted = subscription.granted
    if granted is None or is_shared(subscription.options.topic_filter):
        return False
    earlier = True
    for other in matching:
        if other is subscription:
            earlier = False
        elif (
            other.group == subscription.group
            and other.identifier not in identifiers
            and other.identifier
            and other.granted is not None
            and (other.granted > granted or (earlier and other.granted == granted))
            and not other.options.no_local
            and not is_shared(other.options.topic_filter)
        ):
            return True
    return False


def check_filters(items: Sequence[object]) -> None:
    """Raise if there is no filter [MQTT-3.8.3-2] [MQTT-3.10.3-2]."""
    if not items:
        raise ArgumentError("topic_filter is an empty list: a request needs at least one Topic Filter")
