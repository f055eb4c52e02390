"""What `publish`, `subscribe` and `unsubscribe` return: the truth about one request, and a way to wait for it.

A handle is resolved exactly once. Outcome and waiters are written and looked at under the client's lock, so that no wake-up is lost, with
or without a global interpreter lock; a waiter is made only when somebody waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, cast

from .packet import MQTTSubAckPacket, MQTTUnsubAckPacket
from .records import Outgoing, Request

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .packet import MQTTPubAckPacket, MQTTPubCompPacket, MQTTPubRecPacket, MQTTSubscription
    from .property import MQTTSubscribeProps, MQTTUnsubscribeProps
    from .records import Options, Subscription

__all__ = ["PublishHandle", "SubscribeHandle", "UnsubscribeHandle", "Waits"]


class Waits(Protocol):
    """Whom a handle asks: the driver of its client."""

    def wait(self, request: Outgoing | Request, timeout: float | None) -> None:
        """Wait until `request` is resolved."""
        ...

    def cancel(self, request: Outgoing | Request) -> bool:
        """Give `request` up; False if its outcome is known already."""
        ...


class PublishHandle(Outgoing):
    """A publication on its way. Made by `Client.publish`."""

    __slots__ = ("__weakref__", "_driver")

    def __init__(
        self,
        driver: Waits,
        topic_field: bytes,
        payload: bytes,
        qos: int,
        first: int,
        properties: bytes = b"\0",
        options: Options | None = None,
    ) -> None:
        self._driver = driver
        self.topic_field = topic_field
        self.payload = payload
        self.qos = qos
        self.first = first
        self.properties = properties
        self.options = options
        self.sequence = 0
        self.packet_id = 0
        self.state = 0
        self.sent = False
        self.claimed = True
        self.done = False
        self.outcome = None
        self.waiters = None

    def wait_for_ack(self, timeout: float | None = None) -> MQTTPubAckPacket | MQTTPubRecPacket | MQTTPubCompPacket | None:
        """Wait for the final acknowledgement and return it: PUBACK for QoS 1, PUBCOMP for QoS 2, with all properties.

        QoS 0 has none: None is returned as soon as the bytes were handed to the socket.

        :param timeout: In seconds; None waits as long as it takes. After a timeout the publication goes on, and the handle with it.
        :raises WaitTimeoutError: not acknowledged within `timeout`.
        :raises PublishError: rejected with a reason code ≥ 0x80 (``.ack``).
        :raises SessionLostError, MessageExpiredError, MessageDroppedError, PoisonMessageError, CancelledError, ClientClosedError, StoreError:
            what became of it instead (section 4.3 and `ohmqtt.errors`).
        :raises LinkLostError: QoS 0, on its way when the connection ended.
        :raises PacketTooLargeError, ServerLimitError: accepted before the connection, whose server then said that it can't take this.
        :raises ConnectError: the client has stopped trying to connect, for that reason; the publication is still queued.
        :raises StateError: the client is closed, or belongs to the parent process.
        """
        if not self.done:
            self._driver.wait(self, timeout)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.ack

    def exception(self, timeout: float | None = 0.0) -> Exception | None:
        """Return the error that the publication ended with, or None if it succeeded.

        :raises WaitTimeoutError: not resolved within `timeout` seconds.
        """
        if not self.done:
            self._driver.wait(self, timeout)
        return self.outcome if isinstance(self.outcome, Exception) else None

    def is_done(self) -> bool:
        """Return whether the outcome is known."""
        return self.done

    def cancel(self) -> bool:
        """Give the publication up. False: its outcome is known already, or it is QoS 0 and on its way.

        If it was sent, its packet identifier stays in use until the server's acknowledgement, which nobody hears of.
        """
        return self._driver.cancel(self)

    def __repr__(self) -> str:
        return f"<PublishHandle {self.topic!r} qos={self.qos}{_state(self)}>"


class _RequestHandle(Request):
    """What the handles of SUBSCRIBE and UNSUBSCRIBE share."""

    __slots__ = ("__weakref__", "_driver")

    def __init__(
        self,
        driver: Waits,
        items: Sequence[MQTTSubscription] | Sequence[str],
        properties: MQTTSubscribeProps | MQTTUnsubscribeProps,
        subscriptions: Sequence[Subscription] = (),
    ) -> None:
        super().__init__(items, properties, subscriptions)
        self._driver = driver

    def _result(self, timeout: float | None) -> object:
        if not self.done:
            self._driver.wait(self, timeout)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def exception(self, timeout: float | None = 0.0) -> Exception | None:
        """Return the error that the request ended with, or None if it succeeded.

        :raises WaitTimeoutError: not resolved within `timeout` seconds.
        """
        if not self.done:
            self._driver.wait(self, timeout)
        return self.outcome if isinstance(self.outcome, Exception) else None

    def is_done(self) -> bool:
        """Return whether the outcome is known."""
        return self.done

    def cancel(self) -> bool:
        """Stop waiting for the answer; False if it came already. The server may act on the request all the same."""
        return self._driver.cancel(self)

    def __repr__(self) -> str:
        filters = [getattr(item, "topic_filter", item) for item in self.items]
        return f"<{type(self).__name__} {filters!r:.200}{_state(self)}>"


class SubscribeHandle(_RequestHandle):
    """A SUBSCRIBE on its way. Made by `Client.subscribe`."""

    __slots__ = ()

    def wait_for_ack(self, timeout: float | None = None) -> MQTTSubAckPacket:
        """Wait for the SUBACK and return it: a reason code for each filter, in order (section 3.9).

        :param timeout: In seconds; None waits as long as it takes, over as many connections as it takes.
        :raises WaitTimeoutError: not answered within `timeout`.
        :raises SubscribeError: at least one filter was refused (``.suback``).
        :raises CancelledError, ClientClosedError, ServerLimitError: what became of it instead.
        :raises ConnectError: the client has stopped trying to connect, for that reason; the request still waits.
        :raises StateError: the client is closed, or belongs to the parent process.
        """
        return cast("MQTTSubAckPacket", self._result(timeout))

    @property
    def ack(self) -> MQTTSubAckPacket | None:
        """The SUBACK, or None if it isn't here yet."""
        if not self.done:
            return None
        outcome = getattr(self.outcome, "suback", self.outcome)
        return outcome if isinstance(outcome, MQTTSubAckPacket) else None


class UnsubscribeHandle(_RequestHandle):
    """An UNSUBSCRIBE on its way. Made by `Client.unsubscribe`."""

    __slots__ = ()

    def wait_for_ack(self, timeout: float | None = None) -> MQTTUnsubAckPacket:
        """Wait for the UNSUBACK and return it: a reason code for each filter, in order (section 3.11).

        :param timeout: In seconds; None waits as long as it takes, over as many connections as it takes.
        :raises WaitTimeoutError: not answered within `timeout`.
        :raises UnsubscribeError: at least one filter was refused (``.unsuback``).
        :raises CancelledError, ClientClosedError: what became of it instead.
        :raises ConnectError: the client has stopped trying to connect, for that reason; the request still waits.
        :raises StateError: the client is closed, or belongs to the parent process.
        """
        return cast("MQTTUnsubAckPacket", self._result(timeout))

    @property
    def ack(self) -> MQTTUnsubAckPacket | None:
        """The UNSUBACK, or None if it isn't here yet."""
        if not self.done:
            return None
        outcome = getattr(self.outcome, "unsuback", self.outcome)
        return outcome if isinstance(outcome, MQTTUnsubAckPacket) else None


def _state(request: Outgoing | Request) -> str:
    return f" resolved {request.outcome!r}" if request.done else " pending"
