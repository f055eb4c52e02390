"""Who gets what: subscriptions by Topic Filter, shared ones in turn, and the retained messages. Knows no packets and no connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...topic import TopicTree, is_shared, matches
from .records import Delivery, Message, Subscription

if TYPE_CHECKING:
    from .session import Session

__all__ = ["Router"]


class Router:
    """The subscriptions of all sessions, and the retained messages by topic."""

    def __init__(self) -> None:
        # By filter, `$share/name/` included, then by Client Identifier.
        self.tree: TopicTree[dict[str, Subscription]] = TopicTree()
        self.retained: dict[str, Message] = {}

    def subscribe(self, subscription: Subscription) -> None:
        """Add a subscription, or replace the one that its session has with the same filter [MQTT-3.8.4-3]."""
        subscribers = self.tree.get(subscription.topic_filter)
        if subscribers is None:
            subscribers = self.tree[subscription.topic_filter] = {}
        subscribers[subscription.session.client_id] = subscription
        subscription.session.subscriptions[subscription.topic_filter] = subscription

    def unsubscribe(self, session: Session, topic_filter: str) -> bool:
        """Remove a subscription; return whether there was one. Filters are compared character by character [MQTT-3.10.4-1]."""
        if session.subscriptions.pop(topic_filter, None) is None:
            return False
        subscribers = self.tree.get(topic_filter)
        assert subscribers is not None
        del subscribers[session.client_id]
        if not subscribers:
            del self.tree[topic_filter]
        return True

    def route(self, message: Message, now: float, *, one_copy: bool) -> bool:
        """Retain a message if it asks for it, and hand it to each session that is due it; return whether anybody has subscribed."""
        if message.retain:
            if message.payload:
                self.retained[message.topic] = message  # [MQTT-3.3.1-5]
            else:
                self.retained.pop(message.topic, None)  # [MQTT-3.3.1-6] [MQTT-3.3.1-7]
        due: dict[str, list[Subscription]] = {}
        # Chosen first and handed over afterwards: a delivery may close a connection, and so end subscriptions.
        chosen: list[tuple[Session, Delivery]] = []
        found = False
        for subscribers in self.tree.match(message.topic):
            found = True
            first = next(iter(subscribers.values()))
            if is_shared(first.topic_filter):
                subscription = _in_turn(subscribers)
                chosen.append((subscription.session, subscription.deliver(message)))
                continue
            for client_id, subscription in subscribers.items():
                if subscription.no_local and client_id == message.publisher:  # [MQTT-3.8.3-3]
                    continue
                due.setdefault(client_id, []).append(subscription)
        for subscriptions in due.values():
            deliveries = [subscription.deliver(message) for subscription in subscriptions]
            if one_copy and len(deliveries) > 1:
                deliveries = [_joined(deliveries)]
            chosen += [(subscriptions[0].session, delivery) for delivery in deliveries]
        for session, delivery in chosen:
            session.deliver(delivery, now)
        return found

    def pass_on(self, delivery: Delivery, now: float) -> None:
        """Hand a message of a Shared Subscription to a member; if there is none any more, it is forgotten (section 4.8.2)."""
        subscribers = self.tree.get(delivery.shared_by)
        if subscribers is not None:
            subscription = _in_turn(subscribers)
            subscription.session.deliver(subscription.deliver(delivery.message), now)

    def retained_for(self, subscription: Subscription, now: float) -> list[Delivery]:
        """Return what a new subscription is due of the retained messages; those that have expired are forgotten."""
        self.purge(now)
        identifiers = (subscription.identifier,) if subscription.identifier else ()
        # A retained message sent for a new subscription always has RETAIN 1 (section 3.3.1.3).
        return [
            Delivery(message, min(message.qos, subscription.qos), True, identifiers)
            for topic, message in self.retained.items()
            if matches(subscription.topic_filter, topic)
        ]

    def purge(self, now: float) -> None:
        """Forget retained messages that have expired (section 3.3.2.3.3)."""
        for topic in [topic for topic, message in self.retained.items() if message.expired(now)]:
            del self.retained[topic]


def _in_turn(subscribers: dict[str, Subscription]) -> Subscription:
    """Choose who gets a message of a Shared Subscription: the connected in turn; if nobody is, all in turn (section 4.8.2)."""
    client_id = next((name for name, one in subscribers.items() if one.session.connection is not None), next(iter(subscribers)))
    chosen = subscribers.pop(client_id)
    subscribers[client_id] = chosen
    return chosen


def _joined(deliveries: list[Delivery]) -> Delivery:
    """Make one copy of those by overlapping subscriptions: the highest QoS [MQTT-3.3.4-2], all identifiers [MQTT-3.3.4-4]."""
    return Delivery(
        deliveries[0].message,
        max([delivery.qos for delivery in deliveries]),
        any(delivery.retain for delivery in deliveries),
        tuple([identifier for delivery in deliveries for identifier in delivery.identifiers]),
    )
