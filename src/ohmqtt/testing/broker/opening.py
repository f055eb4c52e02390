"""From CONNECT to CONNACK, and enhanced authentication, also when a client does it again (sections 3.1.4 and 4.12)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ...errors import AuthenticationError, ProtocolError
from ...packet import MQTTAuthPacket, MQTTConnAckPacket, MQTTPubRelPacket
from ...property import MQTTAuthProps, MQTTConnAckProps
from ...topic_alias import OutboundAliases
from .settings import check_refusal

if TYPE_CHECKING:
    from ...packet import MQTTConnectPacket
    from .connection import Connection

__all__ = ["authenticate", "begin"]


def begin(connection: Connection, connect: MQTTConnectPacket) -> None:
    """Judge a CONNECT; refuse it, begin enhanced authentication, or accept it at once (section 3.1.4)."""
    settings = connection.settings
    properties = connect.properties
    connection.connect = connect
    connection.client_id = connect.client_id
    connection.packet_size_max = properties.MaximumPacketSize
    connection.explains = properties.RequestProblemInformation != 0
    if not connect.client_id:
        if not settings.assign_client_ids:
            connection.refuse(0x85)  # [MQTT-3.1.3-8]
            return
        connection.client_id = connection.core.assign_client_id()
    code = _judge(connection, connect)
    if code:  # [MQTT-3.1.4-2]
        connection.refuse(code)
        return
    method = properties.AuthenticationMethod
    if method is None:
        _accept(connection, MQTTConnAckProps.EMPTY)
        return
    factory = settings.authenticators.get(method)
    if factory is None:
        connection.refuse(0x8C)  # [MQTT-4.12.0-1]
        return
    connection.method = method
    connection.exchange = factory()
    _step(connection, properties.AuthenticationData)


def authenticate(connection: Connection, packet: MQTTAuthPacket) -> None:
    """Take an AUTH, during the opening or later (section 4.12)."""
    if connection.method is None:  # [MQTT-4.12.0-7]
        raise ProtocolError("AUTH without an Authentication Method in CONNECT")
    if packet.properties.AuthenticationMethod != connection.method:  # [MQTT-4.12.0-5], [MQTT-4.12.1-1]
        raise ProtocolError("AUTH with another Authentication Method than CONNECT")
    if packet.reason_code == 0x19:
        if connection.exchange is not None:
            raise ProtocolError("AUTH 0x19 while an exchange is going on")
        connection.exchange = connection.settings.authenticators[connection.method]()
    elif connection.exchange is None:
        raise ProtocolError("AUTH 0x18 without an exchange")
    _step(connection, packet.properties.AuthenticationData)


def _judge(connection: Connection, connect: MQTTConnectPacket) -> int | None:
    """Return the reason code of the refusal, or None."""
    settings = connection.settings
    will = connect.will
    if will is not None:
        if will.qos > settings.maximum_qos:
            return 0x9B  # [MQTT-3.2.2-12]
        if will.retain and not settings.retain_available:
            return 0x9A  # [MQTT-3.2.2-13]
    code = None
    if settings.authenticate is not None:
        code = check_refusal("authenticate", settings.authenticate(connection.client_id, connect.user_name, connect.password))
    if not code and will is not None and settings.authorize is not None:
        code = check_refusal("authorize", settings.authorize(connection.client_id, "publish", will.topic))
    return code


def _step(connection: Connection, data: bytes | None) -> None:
    exchange = connection.exchange
    assert exchange is not None
    try:
        done, answer = exchange.step(data)
    except AuthenticationError as error:  # [MQTT-4.12.0-4], [MQTT-4.12.1-2]
        raise ProtocolError(str(error), 0x87) from error
    if not done:
        properties = MQTTAuthProps(AuthenticationMethod=connection.method, AuthenticationData=answer)
        connection.send(MQTTAuthPacket(0x18, properties))  # [MQTT-4.12.0-2]
        return
    connection.exchange = None
    if connection.session is None:
        _accept(connection, MQTTConnAckProps(AuthenticationMethod=connection.method, AuthenticationData=answer))
    else:
        connection.send(MQTTAuthPacket(0x00, MQTTAuthProps(AuthenticationMethod=connection.method, AuthenticationData=answer)))


def _accept(connection: Connection, authentication: MQTTConnAckProps) -> None:
    """Take the session up and send CONNACK, then what was left unfinished."""
    connect, settings = connection.connect, connection.settings
    assert connect is not None
    properties = connect.properties
    asked_s = properties.SessionExpiryInterval or 0
    granted_s = min(asked_s, settings.session_expiry_max_s)
    keep_alive = settings.server_keep_alive
    if not connect.client_id and connection.client_id in connection.core.sessions:
        # Somebody named it while this client authenticated [MQTT-3.2.2-16].
        connection.client_id = connection.core.assign_client_id()
    present = connection.core.begin_session(connection, clean_start=connect.clean_start)
    session = connection.session
    assert session is not None
    session.expiry_s = granted_s
    session.will = connect.will  # [MQTT-3.1.2-7]
    connection.keep_alive_s = connect.keep_alive if keep_alive is None else keep_alive  # [MQTT-3.2.2-22]
    connection.receive_maximum = properties.ReceiveMaximum or 65_535
    connection.aliases_out = OutboundAliases(min(properties.TopicAliasMaximum or 0, settings.topic_aliases_sent_max))
    answer = authentication.replace(
        SessionExpiryInterval=granted_s if granted_s != asked_s else None,
        AssignedClientIdentifier=None if connect.client_id else connection.client_id,  # [MQTT-3.1.3-7], [MQTT-3.2.2-16]
        ServerKeepAlive=keep_alive,
        ResponseInformation=settings.response_information if properties.RequestResponseInformation else None,  # [MQTT-3.1.2-28]
        ReceiveMaximum=settings.receive_maximum if settings.receive_maximum < 65_535 else None,
        TopicAliasMaximum=settings.topic_alias_maximum or None,
        MaximumQoS=settings.maximum_qos if settings.maximum_qos < 2 else None,  # [MQTT-3.2.2-9]
        RetainAvailable=_unless(settings.retain_available),
        MaximumPacketSize=settings.maximum_packet_size,
        WildcardSubscriptionAvailable=_unless(settings.wildcard_subscription_available),
        SubscriptionIdentifierAvailable=_unless(settings.subscription_identifier_available),
        SharedSubscriptionAvailable=_unless(settings.shared_subscription_available),
    )
    connection.send(MQTTConnAckPacket(0, present, answer))  # [MQTT-3.1.4-5], [MQTT-3.2.2-2], [MQTT-3.2.2-3]
    for packet_id, delivery in list(session.in_flight.items()):  # [MQTT-4.4.0-1]
        if delivery is None:
            connection.send(MQTTPubRelPacket(packet_id))
        else:
            connection.resend.append(packet_id)
    session.pump(connection.core.now)


def _unless(available: bool) -> int | None:
    """Return the value that a truth about the server is announced with; true is the standard's default and isn't."""
    return None if available else 0
