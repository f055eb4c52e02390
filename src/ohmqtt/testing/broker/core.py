"""`BrokerCore`: a whole MQTT 5.0 broker without sockets, clock, threads or randomness. For tests, demos and development, not for production.

It is told of connections and their bytes and of the time, and fills each connection's `output`. All of its state is plain data, which can
be looked at and copied. The same calls always give the same bytes: identifiers are assigned by counting, shared subscriptions in turn.

`BrokerCore.script` is the one seam for faults; see `script.py` for what a script may do. `now` is monotonic seconds throughout.
Invariant: a session has at most one connection, and a connection that has one isn't closing.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from ...errors import ArgumentError
from ...mqtt_spec import UINT32_MAX
from ...property import MQTTDisconnectProps, MQTTPublishProps
from .connection import Connection
from .records import Message
from .router import Router
from .session import Session
from .settings import BrokerSettings

if TYPE_CHECKING:
    from ...packet import MQTTWill
    from .script import Script

__all__ = ["BrokerCore"]

_DEFAULTS = BrokerSettings()


class BrokerCore:
    """A broker as a state machine.

    ``sessions`` by Client Identifier, ``retained`` messages by topic and ``connections`` may be read at any time. ``dirty`` holds the
    connections whose ``output`` grew or which began to close since somebody emptied it. ``now`` is the time of the latest call.
    """

    def __init__(self, settings: BrokerSettings | None = None) -> None:
        if not isinstance(settings, BrokerSettings | None):
            raise ArgumentError(f"settings: BrokerSettings expected, got {settings!r:.50}")
        self.settings = settings or _DEFAULTS
        self.script: Script | None = None
        self.now = 0.0
        self.sessions: dict[str, Session] = {}
        self.router = Router()
        # Dictionaries in place of sets: they are gone through in a fixed order.
        self.connections: dict[Connection, None] = {}
        self.dirty: dict[Connection, None] = {}
        self._assigned = 0

    @property
    def retained(self) -> dict[str, Message]:
        """The retained messages by topic; one that has expired may still be there until somebody asks for it."""
        return self.router.retained

    # ---- time and connections --------------------------------------------------------------------------------------------------------

    def accept(self, now: float) -> Connection:
        """Return the broker's end of a network connection that was made just now."""
        self.now = now
        connection = Connection(self)
        self.connections[connection] = None
        return connection

    def deadline(self) -> float | None:
        """Return when ``tick`` is due next, or None. Messages expire without it: it is looked at when they would be sent."""
        due = min([connection.deadline() for connection in self.connections], default=inf)
        for session in self.sessions.values():
            if session.connection is None:
                due = min(due, session.will_at, session.ends_at)
        return None if due == inf else due

    def tick(self, now: float) -> None:
        """Do what has become due: close silent connections, publish delayed Wills, end sessions."""
        self.now = now
        for connection in list(self.connections):
            if connection.deadline() <= now:
                connection.time_out()
        for session in list(self.sessions.values()):
            # A Will that another session published may have ended this one.
            if session.connection is None and session.client_id in self.sessions:
                if session.ends_at <= now:  # [MQTT-4.1.0-2]
                    self.end_session(session)
                elif session.will_at <= now:
                    self._publish_will(session)
        self.router.purge(now)

    def restart(self, now: float) -> None:
        """Carry on as if the broker's process had ended and begun again: all connections are gone without a word.

        If ``settings.persistent``, sessions, retained messages and Wills are kept; otherwise everything is forgotten.
        """
        self.now = now
        if not self.settings.persistent:
            self.sessions.clear()
            self.router = Router()
        for connection in list(self.connections):
            connection.session = None
            connection.output.clear()
            connection.close()
        # All are gone before anything follows from it: a Will reaches nobody's old connection.
        connected = [session for session in self.sessions.values() if session.connection is not None]
        for session in connected:
            session.connection = None
        for session in connected:
            self.detach(session)

    # ---- for tests and demos ---------------------------------------------------------------------------------------------------------

    def publish(
        self,
        topic: str,
        payload: bytes = b"",
        *,
        qos: int = 0,
        retain: bool = False,
        properties: MQTTPublishProps = MQTTPublishProps.EMPTY,
        now: float | None = None,
    ) -> bool:
        """Publish a message from the broker itself; return whether anybody has subscribed. ``now=None``: the time of the latest call."""
        self.now = self.now if now is None else now
        retain = retain and self.settings.retain_available
        return self.route(Message(topic, payload, qos, retain, properties, "", self.now))

    def disconnect(
        self,
        client_id: str,
        reason_code: int,
        properties: MQTTDisconnectProps = MQTTDisconnectProps.EMPTY,
        *,
        now: float | None = None,
    ) -> bool:
        """Send a client a DISCONNECT and close (section 3.14); return whether it was connected.

        With 0x9C and 0x9D the Server Reference of the settings is put in unless ``properties`` name one.
        """
        self.now = self.now if now is None else now
        session = self.sessions.get(client_id)
        if session is None or session.connection is None:
            return False
        session.connection.disconnect(reason_code, properties)
        return True

    def end_session(self, session: Session) -> None:
        """Forget a session that has no connection; a Will that was delayed is published now (section 3.1.3.2.2).

        What others share with it goes to one of them (section 4.8.2), unless it is a QoS 2 message that was sent [MQTT-4.8.2-5].
        """
        assert session.connection is None
        for topic_filter in list(session.subscriptions):
            self.router.unsubscribe(session, topic_filter)
        del self.sessions[session.client_id]
        for delivery in session.to_pass_on():
            self.router.pass_on(delivery, self.now)
        self._publish_will(session)

    # ---- for connections -------------------------------------------------------------------------------------------------------------

    def route(self, message: Message) -> bool:
        """Hand a message to all who are due it; return whether anybody has subscribed."""
        return self.router.route(message, self.now, one_copy=self.settings.one_copy)

    def assign_client_id(self) -> str:
        """Return a Client Identifier that no session has [MQTT-3.1.3-6], of 23 letters and digits at most [MQTT-3.1.3-5]."""
        while True:
            self._assigned += 1
            client_id = f"assigned{self._assigned}"
            if client_id not in self.sessions:
                return client_id

    def begin_session(self, connection: Connection, *, clean_start: bool) -> bool:
        """Give a connection its session, the stored or a new one; return whether there was one."""
        session = self.sessions.get(connection.client_id)
        if session is not None and session.connection is not None:
            session.connection.disconnect(0x8E)  # [MQTT-3.1.4-3]; that may end the session
            session = self.sessions.get(connection.client_id)
        if session is not None:
            # What is overdue has happened, whether tick() was called or not.
            if clean_start or session.ends_at <= self.now:  # [MQTT-3.1.2-4], [MQTT-4.1.0-2]
                self.end_session(session)
                session = None
            elif session.will_at <= self.now:
                self._publish_will(session)
        present = session is not None
        if session is None:  # [MQTT-3.1.2-6]
            session = self.sessions[connection.client_id] = Session(connection.client_id, connection.settings)
        session.settings = connection.settings
        session.connection = connection
        connection.session = session
        session.ends_at = inf
        session.will_at = inf  # [MQTT-3.1.3-9]
        return present

    def detach(self, session: Session) -> None:
        """Note that a session's connection is closed: its Will and its end become due."""
        session.connection = None
        session.ends_at = inf if session.expiry_s == UINT32_MAX else self.now + session.expiry_s
        if session.will is not None:
            session.will_at = self.now + (session.will.properties.WillDelayInterval or 0)
        if session.ends_at <= self.now:
            self.end_session(session)
        elif session.will_at <= self.now:
            self._publish_will(session)

    def _publish_will(self, session: Session) -> None:
        """Publish a session's Will, if there is one, and forget it [MQTT-3.1.2-8] [MQTT-3.1.2-10]."""
        will, session.will = session.will, None
        session.will_at = inf
        if will is not None:
            self.route(_will_message(will, session.client_id, self.now))


def _will_message(will: MQTTWill, client_id: str, now: float) -> Message:
    given = will.properties
    properties = MQTTPublishProps(
        PayloadFormatIndicator=given.PayloadFormatIndicator,
        MessageExpiryInterval=given.MessageExpiryInterval,
        ContentType=given.ContentType,
        ResponseTopic=given.ResponseTopic,
        CorrelationData=given.CorrelationData,
        UserProperty=given.UserProperty,
    )
    return Message(will.topic, will.payload, will.qos, will.retain, properties, client_id, now)
