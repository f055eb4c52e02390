"""Two MQTT clients behind one face, so that a scenario can be played by either: ours, and paho-mqtt as a foreign one.

Each connects through a `Proxy` of its own, by which a scenario takes its network away and gives it back.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, NamedTuple

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from ohmqtt import (
    AliasPolicy,
    Client,
    ConnectRefusedError,
    MQTTConnectProps,
    MQTTDisconnectProps,
    MQTTPublishProps,
    MQTTSubscribeProps,
    MQTTWill,
    MQTTWillProps,
    PublishError,
    SessionSettings,
    SubscribeError,
)
from ohmqtt.testing import Proxy
from tests.broker_tools import PATIENCE_S, Seen

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

    from ohmqtt import Message

__all__ = ["Got", "Ours", "Paho", "Party", "Refused", "Will"]

# PUBCOMP 0x92 answers a PUBREL that was sent again although it had arrived: that is a success.
UNKNOWN = 0x92

# What scenarios look at, in the standard's words, which both clients use for their attributes.
MESSAGE_PROPERTIES = (
    "PayloadFormatIndicator",
    "MessageExpiryInterval",
    "ContentType",
    "ResponseTopic",
    "CorrelationData",
    "SubscriptionIdentifier",
    "UserProperty",
)
CONNACK_PROPERTIES = (
    "SessionExpiryInterval",
    "ReceiveMaximum",
    "MaximumQoS",
    "RetainAvailable",
    "MaximumPacketSize",
    "AssignedClientIdentifier",
    "TopicAliasMaximum",
    "ServerKeepAlive",
)


class Refused(Exception):
    """The server refused the connection; its argument is the reason code."""


class Got(NamedTuple):
    """A message as it arrived; properties that it hadn't are not in the dictionary."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: dict[str, Any]


class Will(NamedTuple):
    """What a party leaves behind."""

    topic: str
    payload: bytes
    qos: int = 0
    delay_s: int = 0


def _dictionary(properties: Any, names: tuple[str, ...]) -> dict[str, Any]:
    found = {name: getattr(properties, name, None) for name in names}
    return {
        name: list(value) if isinstance(value, (tuple, list)) else value for name, value in found.items() if value not in (None, (), [])
    }


class Party(ABC):
    """One client of a scenario, connected when it is made."""

    #: Whether it never sends a PUBLISH again once its PUBREL may have left.
    keeps_its_word = True
    #: Whether it knows what a Topic Alias of the server stands for.
    resolves_aliases = True
    #: Whether it sends nothing that the server said it can't take.
    obeys_limits = True

    def __init__(self, address: str) -> None:
        self.messages: Seen[Got] = Seen()
        #: The reason codes of DISCONNECT packets from the server.
        self.goodbyes: Seen[int] = Seen()
        #: (Session Present, properties) of each CONNACK.
        self.connacks: Seen[tuple[bool, dict[str, Any]]] = Seen()
        self.losses: Seen[object] = Seen()
        self.proxy = Proxy(address).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.close()
        finally:
            self.proxy.stop()

    @property
    def session_present(self) -> bool:
        return self.connacks.now()[-1][0]

    @property
    def connack(self) -> dict[str, Any]:
        return self.connacks.now()[-1][1]

    def away(self) -> None:
        """Lose the network, until `back`."""
        lost = len(self.losses.now())
        self.proxy.refuse()
        self.proxy.cut()
        self.losses.wait(lost + 1)

    def back(self) -> None:
        """Have the network again, and be connected."""
        connacks = len(self.connacks.now())
        self.proxy.heal()
        self.connacks.wait(connacks + 1)

    def got(self, count: int = 1) -> list[tuple[str, bytes]]:
        """Wait for messages, and return their topics and payloads."""
        return [(message.topic, message.payload) for message in self.messages.wait(count)]

    def publish(self, topic: str, payload: bytes = b"", qos: int = 0, retain: bool = False, **properties: Any) -> int:
        """Publish, and return the reason code of the acknowledgement; 0 with QoS 0."""
        return self.begin_to_publish(topic, payload, qos, retain, **properties)()

    @abstractmethod
    def begin_to_publish(
        self, topic: str, payload: bytes = b"", qos: int = 0, retain: bool = False, **properties: Any
    ) -> Callable[[], int]:
        """Publish, and return what waits for the acknowledgement and returns its reason code."""

    @abstractmethod
    def publish_by_alias(self, topic: str, payload: bytes, qos: int) -> None:
        """Publish with a Topic Alias, and wait for the acknowledgement."""

    @abstractmethod
    def subscribe(
        self, topic_filter: str, qos: int = 2, *, no_local: bool = False, as_published: bool = False, handling: int = 0, identifier: int = 0
    ) -> int:
        """Subscribe, and return the reason code."""

    @abstractmethod
    def unsubscribe(self, topic_filter: str) -> int:
        """Unsubscribe, and return the reason code."""

    @abstractmethod
    def leave(self, reason_code: int = 0, **properties: Any) -> None:
        """Say goodbye, and don't come back. The broker has heard it, or will before it hears from anybody who comes later."""

    @abstractmethod
    def close(self) -> None:
        """End."""


class Ours(Party):
    """A party played by ΩQTT."""

    def __init__(
        self,
        address: str,
        client_id: str = "",
        *,
        clean_start: bool = True,
        expiry_s: int = 0,
        will: Will | None = None,
        user_name: str | None = None,
        password: str | None = None,
        **properties: Any,
    ) -> None:
        super().__init__(address)
        settings = SessionSettings(reconnect_initial_s=0.02, reconnect_max_s=0.05, adopt_session=not clean_start)
        self.client = Client(settings=settings)
        self.client.on_message = lambda _, message: self.messages.add(_ours(message))
        self.client.on_connect = lambda _, connack: self.connacks.add(
            (connack.session_present, _dictionary(connack.properties, CONNACK_PROPERTIES))
        )
        self.client.on_disconnect = self._on_disconnect
        self.client.start_loop()
        try:
            self.client.connect(
                self.proxy.address,
                client_id,
                clean_start=clean_start,
                user_name=user_name,
                password=password,
                will=None if will is None else MQTTWill(will.topic, will.payload, will.qos, False, _will_delay(will)),
                connect_properties=MQTTConnectProps(SessionExpiryInterval=expiry_s, **properties),
            )
            self.client.wait_for_connect(PATIENCE_S)
            self.connacks.wait()
        except ConnectRefusedError as error:
            self.__exit__(None, None, None)
            raise Refused(error.packet.reason_code) from error

    def _on_disconnect(self, _: Client, event: Any) -> None:
        if event.packet is not None:
            self.goodbyes.add(event.packet.reason_code)
        self.losses.add(event)

    def begin_to_publish(
        self, topic: str, payload: bytes = b"", qos: int = 0, retain: bool = False, **properties: Any
    ) -> Callable[[], int]:
        handle = self.client.publish(topic, payload, qos, retain, MQTTPublishProps(**properties))

        def wait() -> int:
            try:
                ack = handle.wait_for_ack(PATIENCE_S)
            except PublishError as error:
                return error.ack.reason_code
            return 0 if ack is None or ack.reason_code == UNKNOWN else ack.reason_code

        return wait

    def publish_by_alias(self, topic: str, payload: bytes, qos: int) -> None:
        self.client.publish(topic, payload, qos, alias_policy=AliasPolicy.TRY).wait_for_ack(PATIENCE_S)

    def subscribe(
        self, topic_filter: str, qos: int = 2, *, no_local: bool = False, as_published: bool = False, handling: int = 0, identifier: int = 0
    ) -> int:
        properties = MQTTSubscribeProps(SubscriptionIdentifier=identifier) if identifier else None
        handle = self.client.subscribe(
            topic_filter,
            None,
            qos,
            no_local=no_local,
            retain_as_published=as_published,
            retain_handling=handling,
            properties=properties,
        )
        try:
            return handle.wait_for_ack(PATIENCE_S).reason_codes[0]
        except SubscribeError as error:
            return error.suback.reason_codes[0]

    def unsubscribe(self, topic_filter: str) -> int:
        return self.client.unsubscribe(topic_filter).wait_for_ack(PATIENCE_S).reason_codes[0]

    def leave(self, reason_code: int = 0, **properties: Any) -> None:
        self.client.disconnect(reason_code, MQTTDisconnectProps(**properties))
        self.proxy.wait_for_links(0)

    def close(self) -> None:
        self.client.close(0.0)


def _ours(message: Message) -> Got:
    return Got(message.topic, message.payload, message.qos, message.retain, _dictionary(message.properties, MESSAGE_PROPERTIES))


def _will_delay(will: Will) -> MQTTWillProps:
    return MQTTWillProps(WillDelayInterval=will.delay_s) if will.delay_s else MQTTWillProps.EMPTY


class Paho(Party):
    """A party played by paho-mqtt."""

    # Where a second link is lost before the PUBREL could be sent again, it goes back to the PUBLISH.
    keeps_its_word = False
    resolves_aliases = False
    obeys_limits = False

    def __init__(
        self,
        address: str,
        client_id: str = "",
        *,
        clean_start: bool = True,
        expiry_s: int = 0,
        will: Will | None = None,
        user_name: str | None = None,
        password: str | None = None,
        **properties: Any,
    ) -> None:
        super().__init__(address)
        self._answers: dict[tuple[str, int], int] = {}
        self._answered = threading.Condition()
        self._refused: list[int] = []
        self._alias_of = ""
        client = self.client = paho.Client(CallbackAPIVersion.VERSION2, client_id, protocol=paho.MQTTv5)
        client.reconnect_delay_set(0.02, 0.05)  # type: ignore[arg-type]
        client.on_message = lambda _client, _data, message: self.messages.add(_pahos(message))
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = lambda _client, _data, mid, code, _properties: self._answer("PUBLISH", mid, code)
        client.on_subscribe = lambda _client, _data, mid, codes, _properties: self._answer("SUBSCRIBE", mid, codes[0])
        client.on_unsubscribe = self._on_unsubscribe
        if user_name is not None:
            client.username_pw_set(user_name, password)
        if will is not None:
            delay = _properties(PacketTypes.WILLMESSAGE, WillDelayInterval=will.delay_s) if will.delay_s else None
            client.will_set(will.topic, will.payload, will.qos, False, delay)
        host, _, port = self.proxy.address.removeprefix("mqtt://").rpartition(":")
        client.connect(
            host,
            int(port),
            clean_start=paho.MQTT_CLEAN_START_FIRST_ONLY if clean_start else False,
            properties=_properties(PacketTypes.CONNECT, SessionExpiryInterval=expiry_s, **properties),
        )
        client.loop_start()
        with self._answered:
            assert self._answered.wait_for(lambda: self._refused or self.connacks.now(), PATIENCE_S)
        if self._refused:
            self.__exit__(None, None, None)
            raise Refused(self._refused[0])

    def _on_connect(self, _client: Any, _data: Any, flags: Any, code: Any, properties: Any) -> None:
        with self._answered:
            if code.is_failure:
                self._refused.append(code.value)
            else:
                self.connacks.add((bool(flags.session_present), _dictionary(properties, CONNACK_PROPERTIES)))
            self._answered.notify_all()

    def _on_disconnect(self, _client: Any, _data: Any, flags: Any, code: Any, _properties: Any) -> None:
        if flags.is_disconnect_packet_from_server:
            self.goodbyes.add(code.value)
        self.losses.add(code)

    def _on_unsubscribe(self, _client: Any, _data: Any, mid: int, codes: Any, _properties: Any) -> None:
        self._answer("UNSUBSCRIBE", mid, codes[0])

    def _answer(self, kind: str, mid: int, code: Any) -> None:
        with self._answered:
            self._answers[kind, mid] = code.value
            self._answered.notify_all()

    def _await_answer(self, kind: str, mid: int | None) -> int:
        assert mid is not None
        with self._answered:
            assert self._answered.wait_for(lambda: (kind, mid) in self._answers, PATIENCE_S), f"no answer to {kind} {mid}"
            return self._answers.pop((kind, mid))

    def begin_to_publish(
        self, topic: str, payload: bytes = b"", qos: int = 0, retain: bool = False, **properties: Any
    ) -> Callable[[], int]:
        mid = self.client.publish(topic, payload, qos, retain, _properties(PacketTypes.PUBLISH, **properties)).mid

        def wait() -> int:
            code = self._await_answer("PUBLISH", mid)
            return 0 if code == UNKNOWN else code

        return wait

    def publish_by_alias(self, topic: str, payload: bytes, qos: int) -> None:
        known = self._alias_of == topic
        self._alias_of = topic
        self.publish("" if known else topic, payload, qos, TopicAlias=1)

    def subscribe(
        self, topic_filter: str, qos: int = 2, *, no_local: bool = False, as_published: bool = False, handling: int = 0, identifier: int = 0
    ) -> int:
        properties = _properties(PacketTypes.SUBSCRIBE, SubscriptionIdentifier=identifier) if identifier else None
        options = SubscribeOptions(qos, no_local, as_published, handling)
        return self._await_answer("SUBSCRIBE", self.client.subscribe(topic_filter, options=options, properties=properties)[1])

    def unsubscribe(self, topic_filter: str) -> int:
        return self._await_answer("UNSUBSCRIBE", self.client.unsubscribe(topic_filter)[1])

    def leave(self, reason_code: int = 0, **properties: Any) -> None:
        lost = len(self.losses.now())
        code = ReasonCode(PacketTypes.DISCONNECT, identifier=reason_code)
        self.client.disconnect(code, _properties(PacketTypes.DISCONNECT, **properties))
        self.losses.wait(lost + 1)
        self.proxy.wait_for_links(0)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def _pahos(message: paho.MQTTMessage) -> Got:
    return Got(
        message.topic, bytes(message.payload), message.qos, bool(message.retain), _dictionary(message.properties, MESSAGE_PROPERTIES)
    )


def _properties(packet_type: int, **values: Any) -> Properties:
    properties = Properties(packet_type)  # type: ignore[no-untyped-call]
    for name, value in values.items():
        setattr(properties, name, value)
    return properties
