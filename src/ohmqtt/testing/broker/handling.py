"""What the broker does about each packet of a connected client: one function for each packet type, in ``HANDLERS``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...errors import ProtocolError
from ...mqtt_spec import reason_name
from ...packet import (
    MQTTAuthPacket,
    MQTTDisconnectPacket,
    MQTTPacket,
    MQTTPingReqPacket,
    MQTTPingRespPacket,
    MQTTPubAckPacket,
    MQTTPubCompPacket,
    MQTTPublishPacket,
    MQTTPubRecPacket,
    MQTTPubRelPacket,
    MQTTSubAckPacket,
    MQTTSubscribePacket,
    MQTTUnsubAckPacket,
    MQTTUnsubscribePacket,
)
from ...property import MQTTPubAckProps, MQTTPubRecProps, MQTTSubAckProps, MQTTUnsubAckProps
from ...topic import is_shared
from .opening import authenticate
from .records import Message, Subscription
from .settings import check_refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...packet import MQTTSubscription
    from ...property import MQTTPublishProps
    from .connection import Connection
    from .session import Session

__all__ = ["HANDLERS"]

IN_USE = 0x91
IN_USE_EXPLANATION = "the identifier is that of a QoS 2 message that wasn't released yet"


def _session(connection: Connection) -> Session:
    session = connection.session
    assert session is not None
    return session


# ---- from publishers -----------------------------------------------------------------------------------------------------------------


def _publish(connection: Connection, packet: MQTTPublishPacket) -> None:
    session = _session(connection)
    _check_limits(connection, packet)
    packet_id = packet.packet_id
    topic, properties = packet.topic, packet.properties
    alias = properties.TopicAlias
    if alias is not None:  # [MQTT-3.3.2-12]
        topic = connection.aliases_in.resolve(topic, alias)
        properties = properties.replace(TopicAlias=None)
    in_use = packet_id in session.received
    if packet.qos == 2:
        connection.inbound.add(packet_id)
        if in_use and packet.dup:  # [MQTT-4.3.3-10]
            connection.send(MQTTPubRecPacket(packet_id))
            return
        session.received.add(packet_id)
    # Without DUP it is another message (section 3.3.1.1), for which the identifier isn't free (section 2.2.1).
    code = IN_USE if in_use else _take(connection, packet, topic, properties)
    explanation = "" if code < 0x80 else f"{topic[:100]}: {reason_name(code)}"
    if packet.qos == 1:  # [MQTT-3.3.4-1]
        connection.send(
            MQTTPubAckPacket(packet_id, code, MQTTPubAckProps(ReasonString=explanation) if explanation else MQTTPubAckProps.EMPTY)
        )
    elif packet.qos == 2:
        if code >= 0x80:  # [MQTT-4.3.3-9]: what comes next with this identifier is new, also for a message that it was in use for
            session.received.discard(packet_id)
            connection.inbound.discard(packet_id)
        connection.send(
            MQTTPubRecPacket(packet_id, code, MQTTPubRecProps(ReasonString=explanation) if explanation else MQTTPubRecProps.EMPTY)
        )


def _check_limits(connection: Connection, packet: MQTTPublishPacket) -> None:
    settings = connection.settings
    if packet.properties.SubscriptionIdentifier:  # [MQTT-3.3.4-6]
        raise ProtocolError("a client may not send a Subscription Identifier in PUBLISH")
    if packet.qos > settings.maximum_qos:  # [MQTT-3.2.2-11]
        raise ProtocolError(f"QoS {packet.qos}, and Maximum QoS is {settings.maximum_qos}", 0x9B)
    if packet.retain and not settings.retain_available:  # [MQTT-3.2.2-14]
        raise ProtocolError("RETAIN 1, and Retain Available is 0", 0x9A)
    inbound = connection.inbound
    if packet.qos and packet.packet_id not in inbound and len(inbound) >= settings.receive_maximum:  # [MQTT-3.3.4-7]
        raise ProtocolError(f"more than the Receive Maximum of {settings.receive_maximum}", 0x93)


def _take(connection: Connection, packet: MQTTPublishPacket, topic: str, properties: MQTTPublishProps) -> int:
    """Route a message, or refuse it; return the reason code of the acknowledgement."""
    settings = connection.settings
    if properties.PayloadFormatIndicator and not _is_utf8(packet.payload):
        if not packet.qos:
            raise ProtocolError("Payload Format Indicator is 1, and the payload is no UTF-8", 0x99)
        return 0x99
    if settings.authorize is not None:
        code = check_refusal("authorize", settings.authorize(connection.client_id, "publish", topic))
        if code:
            return code
    core = connection.core
    message = Message(topic, packet.payload, packet.qos, packet.retain, properties, connection.client_id, core.now)
    found = core.route(message)
    return 0x10 if settings.report_no_subscribers and not found else 0


def _is_utf8(payload: bytes) -> bool:
    try:
        payload.decode()
    except UnicodeDecodeError:
        return False
    return True


def _pubrel(connection: Connection, packet: MQTTPubRelPacket) -> None:
    received = _session(connection).received
    known = packet.packet_id in received
    received.discard(packet.packet_id)
    connection.inbound.discard(packet.packet_id)
    connection.send(MQTTPubCompPacket(packet.packet_id, 0 if known else 0x92))  # [MQTT-4.3.3-11]


# ---- from subscribers ----------------------------------------------------------------------------------------------------------------


def _finish(connection: Connection, packet_id: int) -> None:
    """End an exchange of ours. What it took of the quota on this connection, if anything, comes back (section 4.9)."""
    session = _session(connection)
    del session.in_flight[packet_id]
    connection.outbound.discard(packet_id)
    session.pump(connection.core.now)


def _puback(connection: Connection, packet: MQTTPubAckPacket) -> None:
    in_flight = _session(connection).in_flight
    if packet.packet_id not in in_flight:
        return
    delivery = in_flight[packet.packet_id]
    if delivery is None or delivery.qos != 1:
        raise ProtocolError(f"PUBACK for the QoS 2 message {packet.packet_id}")
    _finish(connection, packet.packet_id)


def _pubrec(connection: Connection, packet: MQTTPubRecPacket) -> None:
    in_flight = _session(connection).in_flight
    packet_id = packet.packet_id
    if packet_id not in in_flight:
        if packet.reason_code < 0x80:
            connection.send(MQTTPubRelPacket(packet_id, 0x92))
        return
    delivery = in_flight[packet_id]
    if delivery is not None and delivery.qos != 2:
        raise ProtocolError(f"PUBREC for the QoS 1 message {packet_id}")
    if packet.reason_code >= 0x80:
        _finish(connection, packet_id)
        return
    if delivery is not None:
        # Its place in the order is now that of the PUBREL.
        del in_flight[packet_id]
        in_flight[packet_id] = None
    connection.send(MQTTPubRelPacket(packet_id))  # [MQTT-4.3.3-4]


def _pubcomp(connection: Connection, packet: MQTTPubCompPacket) -> None:
    in_flight = _session(connection).in_flight
    if packet.packet_id not in in_flight:
        return
    if in_flight[packet.packet_id] is not None:
        raise ProtocolError(f"PUBCOMP for {packet.packet_id}, which was not released")
    _finish(connection, packet.packet_id)


def _subscribe(connection: Connection, packet: MQTTSubscribePacket) -> None:
    settings = connection.settings
    session = _session(connection)
    identifier = packet.properties.SubscriptionIdentifier or 0
    if identifier and not settings.subscription_identifier_available:
        raise ProtocolError("Subscription Identifiers are not available", 0xA1)
    if packet.packet_id in session.received:
        in_use = (IN_USE,) * len(packet.subscriptions)
        connection.send(MQTTSubAckPacket(packet.packet_id, in_use, MQTTSubAckProps(ReasonString=IN_USE_EXPLANATION)))
        return
    codes: list[int] = []
    retained: list[Subscription] = []
    for asked in packet.subscriptions:
        topic_filter = asked.topic_filter
        if is_shared(topic_filter) and not settings.shared_subscription_available:
            raise ProtocolError("Shared Subscriptions are not available", 0x9E)
        if ("+" in topic_filter or "#" in topic_filter) and not settings.wildcard_subscription_available:
            raise ProtocolError("Wildcard Subscriptions are not available", 0xA2)
        code = None
        if settings.authorize is not None:
            code = check_refusal("authorize", settings.authorize(connection.client_id, "subscribe", topic_filter))
        if code:
            codes.append(code)
            continue
        is_new = topic_filter not in session.subscriptions
        qos = min(asked.max_qos, settings.maximum_qos)  # [MQTT-3.2.2-10]
        subscription = Subscription(session, topic_filter, qos, asked.no_local, asked.retain_as_published, identifier)
        connection.core.router.subscribe(subscription)
        codes.append(qos)
        if settings.retain_available and _wants_retained(asked, is_new):
            retained.append(subscription)
    explanation = MQTTSubAckProps(ReasonString="not all filters were granted") if max(codes) >= 0x80 else MQTTSubAckProps.EMPTY
    connection.send(MQTTSubAckPacket(packet.packet_id, tuple(codes), explanation))  # [MQTT-3.8.4-1], [MQTT-3.9.3-1]
    now = connection.core.now
    for subscription in retained:
        for delivery in connection.core.router.retained_for(subscription, now):
            session.deliver(delivery, now)


def _wants_retained(asked: MQTTSubscription, is_new: bool) -> bool:
    """Return whether a subscription is due retained messages [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11]; a shared one isn't (4.8.2)."""
    return not is_shared(asked.topic_filter) and (asked.retain_handling == 0 or (asked.retain_handling == 1 and is_new))


def _unsubscribe(connection: Connection, packet: MQTTUnsubscribePacket) -> None:
    session = _session(connection)
    if packet.packet_id in session.received:
        in_use = (IN_USE,) * len(packet.topic_filters)
        connection.send(MQTTUnsubAckPacket(packet.packet_id, in_use, MQTTUnsubAckProps(ReasonString=IN_USE_EXPLANATION)))
        return
    router = connection.core.router
    codes = [0x00 if router.unsubscribe(session, topic_filter) else 0x11 for topic_filter in packet.topic_filters]
    connection.send(MQTTUnsubAckPacket(packet.packet_id, tuple(codes)))  # [MQTT-3.10.4-4], [MQTT-3.11.3-1]


# ---- the rest ------------------------------------------------------------------------------------------------------------------------


def _pingreq(connection: Connection, packet: MQTTPingReqPacket) -> None:  # noqa: ARG001 - there is nothing in it
    connection.send(MQTTPingRespPacket())  # [MQTT-3.12.4-1]


def _disconnect(connection: Connection, packet: MQTTDisconnectPacket) -> None:
    session = connection.session
    if session is not None:
        expiry_s = packet.properties.SessionExpiryInterval
        if expiry_s is not None:
            assert connection.connect is not None
            if expiry_s and not connection.connect.properties.SessionExpiryInterval:  # section 3.14.2.2.2
                raise ProtocolError("Session Expiry Interval was 0 and can't be changed by DISCONNECT")
            session.expiry_s = min(expiry_s, connection.settings.session_expiry_max_s)
        if packet.reason_code == 0:  # [MQTT-3.14.4-3]
            session.will = None
    connection.disconnected_with = packet
    connection.close()


# Each takes the packet type that it stands under.
HANDLERS: dict[type[MQTTPacket], Callable[[Connection, Any], None]] = {
    MQTTPublishPacket: _publish,
    MQTTPubAckPacket: _puback,
    MQTTPubRecPacket: _pubrec,
    MQTTPubRelPacket: _pubrel,
    MQTTPubCompPacket: _pubcomp,
    MQTTSubscribePacket: _subscribe,
    MQTTUnsubscribePacket: _unsubscribe,
    MQTTPingReqPacket: _pingreq,
    MQTTDisconnectPacket: _disconnect,
    MQTTAuthPacket: authenticate,
}
