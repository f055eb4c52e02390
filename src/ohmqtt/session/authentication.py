"""Enhanced authentication (section 4.12): the exchange of AUTH packets, and its place in the life of a Link.

Owns which step the authenticator is at. It must not run the authenticator: it puts an `AuthStep` into its list, and a driver answers with
`authenticated`. Its invariant: one step at a time, and nothing that the server sent behind its CONNACK is believed before the last one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import AuthenticationError, MQTTError, ProtocolError, StateError
from ..link import CLOSING, CONNECTED
from ..mqtt_spec import reason_name
from ..packet import MQTTAuthPacket, MQTTConnAckPacket
from ..property import MQTTAuthProps
from ..records import AuthStep, Reauthenticated

if TYPE_CHECKING:
    from ..link import Link
    from .core import Session

__all__ = ["Authentication"]

_REFUSED = 0x83
"""What the server is told when our side fails: Not Authorized (0x87) is for servers only [MQTT-4.12.1-2]."""


class Authentication:
    """The client's side of every AUTH exchange."""

    __slots__ = ("session", "steps")

    def __init__(self, session: Session) -> None:
        self.session = session
        # What the authenticator is wanted for; the driver takes it from here.
        self.steps: list[AuthStep] = []

    def _step(self, link: Link, finish: bool, data: bytes | None, packet: MQTTAuthPacket | MQTTConnAckPacket) -> None:
        if link.auth_step is not None:
            raise ProtocolError(f"{'CONNACK' if isinstance(packet, MQTTConnAckPacket) else 'AUTH'} before our answer to the AUTH before it")
        link.auth_step = step = AuthStep(link, finish, data, packet)
        self.steps.append(step)

    def connack(self, link: Link, packet: MQTTConnAckPacket, now: float) -> bool:
        """The server accepts: return whether its CONNACK may be believed at once. If not, what it sent behind it waits."""
        method = packet.properties.AuthenticationMethod
        if method != link.method:  # [MQTT-4.12.0-5] [MQTT-4.12.0-6]
            raise ProtocolError(f"CONNACK with Authentication Method {method!r}, and CONNECT had {link.method!r}")
        if link.method is None:
            return True
        self._step(link, True, packet.properties.AuthenticationData, packet)
        link.paused = True
        link.connack_at = now + self.session.settings.connack_timeout_s
        return False

    def receive(self, link: Link, packet: MQTTAuthPacket) -> None:
        """Receive an AUTH (section 3.15)."""
        if link.method is None:  # [MQTT-4.12.0-6]
            raise ProtocolError("AUTH from the server, and CONNECT had no Authentication Method")
        method = packet.properties.AuthenticationMethod
        if method != link.method:  # [MQTT-4.12.0-5]
            raise ProtocolError(f"AUTH with Authentication Method {method!r}, and CONNECT had {link.method!r}")
        if not link.authenticating:
            raise ProtocolError("AUTH from the server, and no authentication is under way")
        if packet.reason_code == 0x18:
            self._step(link, False, packet.properties.AuthenticationData, packet)
        elif packet.reason_code == 0x00 and link.state == CONNECTED:
            self._step(link, True, packet.properties.AuthenticationData, packet)
        else:
            raise ProtocolError(f"AUTH from the server with {reason_name(packet.reason_code)}")

    def authenticated(self, step: AuthStep, data: bytes | None, error: Exception | None, now: float) -> None:
        """The authenticator has done `step`: send its answer, or believe the server, or close."""
        session = self.session
        link = step.link
        if link is not session.link or link.state >= CLOSING or link.auth_step is not step:
            return
        link.auth_step = None
        if error is not None:
            failure = error if isinstance(error, AuthenticationError) else AuthenticationError(f"the authenticator failed: {error!r}")
            if failure is not error:
                failure.__cause__ = error
            session.fail_link(failure, now, _REFUSED)
        elif not step.finish:
            self._write(link, 0x18, data, now)  # [MQTT-4.12.0-3]
        elif isinstance(step.packet, MQTTConnAckPacket):
            link.paused = False
            try:
                session.established(link, step.packet, now)
            except MQTTError as failed:
                session.fail_link(failed, now)
                return
            session.receive(b"", now)
        else:
            link.authenticating = False
            session.baskets.events.append(Reauthenticated(step.packet))

    def check(self) -> Link:
        """Return the Link on which a re-authentication may begin, or raise `StateError`."""
        link = self.session.connected_link()
        if link is None:
            raise StateError("auth() needs a connection")
        if link.method is None:  # [MQTT-4.12.0-7]
            raise StateError("auth() needs an authenticator in connect(): without an Authentication Method a client must not send AUTH")
        if link.authenticating:
            raise StateError("a re-authentication is under way")
        return link

    def reauthenticate(self, data: bytes | None, now: float) -> None:
        """Start a re-authentication (section 4.12.1).

        :raises StateError: not connected, or connected without an Authentication Method, or one is under way.
        """
        link = self.check()
        link.authenticating = True
        self._write(link, 0x19, data, now)  # [MQTT-4.12.1-1]

    def _write(self, link: Link, reason_code: int, data: bytes | None, now: float) -> None:
        properties = MQTTAuthProps(AuthenticationMethod=link.method, AuthenticationData=data)
        try:
            encoded = MQTTAuthPacket(reason_code, properties).encode()
            link.check_size("AUTH", len(encoded))
        except MQTTError as error:
            self.session.fail_link(error, now, _REFUSED)
            return
        self.session.baskets.writes.append(encoded)
