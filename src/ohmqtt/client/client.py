"""`Client`: what users call. It validates and encodes at the call, under nobody's lock, and hands the result to the Session.

An argument that was accepted here can't fail later; a call that raises has sent and stored nothing.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, ConnectError, MQTTError, QueueFullError, StateError, WaitTimeoutError
from ..handle import PublishHandle, SubscribeHandle, UnsubscribeHandle
from ..packet import MQTTConnectPacket, MQTTSubscribePacket, MQTTSubscription, MQTTUnsubscribePacket, MQTTWill
from ..property import MQTTConnectProps, MQTTDisconnectProps, MQTTPublishProps, MQTTSubscribeProps, MQTTUnsubscribeProps
from ..records import State, Subscription
from ..session import IDLE, STOPPED, SessionSettings
from ..session.policy import check_disconnect
from ..session.subscriptions import check_filters
from ..topic import validate_topic_filter
from ..topic_alias import AliasPolicy
from .arguments import (
    check_address,
    check_connect_properties,
    check_identity,
    check_timeout,
    check_transport_options,
    encode_password,
    expect,
    listed,
)
from .driver import Driver
from .lifetime import open_clients
from .publishing import Publisher, raise_store_error, restored
from .world import World

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from types import TracebackType

    from typing_extensions import Self

    from ..address import Address
    from ..auth import Authenticator
    from ..packet import MQTTAuthPacket, MQTTConnAckPacket, MQTTDisconnectPacket, MQTTPublishPacket
    from ..records import Disconnected, Message
    from ..store import Store

    MessageCallback = Callable[["Client", Message], object]

__all__ = ["Client"]

CLOSE_TIMEOUT_S = 10.0

NEVER = AliasPolicy.NEVER
SETTLED = State.SETTLED


class Client:
    """An MQTT 5.0 client with an I/O thread and a delivery thread, or without threads.

    ``with Client() as client:`` starts the threads and ends with `disconnect` and `shutdown`. Without threads, `loop_once` and
    `loop_forever` do the I/O and run the callbacks on the caller's thread.

    :param db_path: Where QoS 1 and 2 publications and the session are kept across processes (SQLite); None keeps them in memory.
    :param db_fast: Survive a killed process, but perhaps lose the last moments before a power cut; several times faster.
    :param manual_ack: QoS 1 and 2 messages are acknowledged by `Message.ack`, not when their callback returns.
    :param settings: Bounds, policies and times (`SessionSettings`).
    :param store: Something of your own in place of the database (`ohmqtt.store.Store`).
    :param world: Clock, chance and network in place of the machine's, for tests (`ohmqtt.client.world.World`).
    :raises StoreError: the database is in use, damaged, not ours, or can't be opened. It was not changed.

    User code is set as attributes, and is run on the delivery thread: ``on_connect(client, connack)``,
    ``on_disconnect(client, event)`` (`Disconnected`: error, packet, whether and when the next attempt follows),
    ``on_message(client, message)`` for messages that no subscription has a callback for, ``on_undelivered(message, error)`` for a
    publication that nobody holds a handle of, ``on_auth(client, packet)`` after a re-authentication.
    """

    def __init__(
        self,
        db_path: str | os.PathLike[str] | None = None,
        *,
        db_fast: bool = False,
        manual_ack: bool = False,
        settings: SessionSettings | None = None,
        store: Store | None = None,
        world: World | None = None,
    ) -> None:
        self.on_connect: Callable[[Client, MQTTConnAckPacket], object] | None = None
        self.on_disconnect: Callable[[Client, Disconnected], object] | None = None
        self.on_message: MessageCallback | None = None
        self.on_undelivered: Callable[[MQTTPublishPacket, MQTTError], object] | None = None
        self.on_auth: Callable[[Client, MQTTAuthPacket], object] | None = None
        self._driver: Driver | None = None
        self._settings = SessionSettings() if settings is None else settings
        expect("settings", self._settings, SessionSettings, "SessionSettings or None")
        if db_path is not None:
            if store is not None:
                raise ArgumentError("db_path and store are both given: a client keeps its messages in one place")
            # Only here, because sqlite3 takes longer to import than all the rest.
            from ..store import SQLiteStore

            store = SQLiteStore(db_path, fast=db_fast)
        driver = Driver(self._settings, store, weakref.ref(self), manual_ack, world if world is not None else World())
        # Not a method: the driver must not keep the client alive, which is collected while its threads run if its owner drops it.
        driver.make_message = partial(restored, driver)
        self._driver = driver
        if store is not None:
            try:
                driver.session.recover(store.load(), driver.make_message)
            except BaseException:
                self._driver = None
                driver.discard()
                store.close()
                raise
        self._lock = driver.lock
        self._session = driver.session
        self._publisher = Publisher(driver, self._settings)
        open_clients.add(self)

    # ---- connecting ------------------------------------------------------------------------------------------------------------------

    def connect(
        self,
        address: str | Address,
        client_id: str = "",
        *,
        clean_start: bool = False,
        keep_alive: int = 60,
        user_name: str | None = None,
        password: bytes | str | None = None,
        will: MQTTWill | None = None,
        connect_properties: MQTTConnectProps | None = None,
        authenticator: Authenticator | None = None,
        connect_timeout: float = 30.0,
        tls_context: ssl.SSLContext | None = None,
        server_hostname: str | None = None,
        alpn: Sequence[str] | None = None,
        source_address: tuple[str, int] | None = None,
        socket_options: Sequence[Any] = (),
        tcp_nodelay: bool = True,
    ) -> None:
        """Begin to connect, and stay connected: returns at once, retries with backoff, and gives up only for a reason that can't heal.

        :param address: ``host``, ``host:port``, ``mqtt://``, ``mqtts://``, ``unix:/path``, ``[v6]:port``, with ``user:password@`` or not.
            Ports default to 1883 and 8883.
        :param client_id: Client Identifier; empty: the database's, else assigned by the server (section 3.1.3.1).
        :param clean_start: Discard the server's session; holds until the first successful CONNACK (section 3.1.2.4).
        :param keep_alive: In seconds, 0 to 65,535; 0 turns it off (section 3.1.2.10).
        :param user_name: Takes precedence over the address's.
        :param password: Up to 65,535 bytes; a str is sent as UTF-8.
        :param will: What the server publishes if the connection ends without `disconnect` (section 3.1.2.5).
        :param connect_properties: Section 3.1.2.11. Unless named, Session Expiry Interval is 300 s and Receive Maximum 1,024.
        :param authenticator: For enhanced authentication (section 4.12), for example `ScramSHA256`.
        :param connect_timeout: Bound in seconds of resolving, connecting and the TLS handshake, for each attempt.
        :param tls_context: In place of ``ssl.create_default_context()``, which verifies the server.
        :param server_hostname: The name in the server's certificate, if it isn't the address's host.
        :param alpn: Protocols to offer by ALPN.
        :param source_address: Local (host, port).
        :param socket_options: (level, option, value) each, set before connecting.
        :param tcp_nodelay: Whether to turn Nagle's algorithm off.
        :raises ArgumentError: a bad argument.
        :raises StateError: there is a connection or an attempt already.
        :raises StoreOwnerError: the database belongs to another client id.
        """
        driver = self._usable()
        target = check_address(address)
        properties = check_connect_properties(connect_properties, authenticator)
        check_identity(client_id, will)
        packet = MQTTConnectPacket(
            client_id,
            clean_start,
            keep_alive,
            will,
            target.user_name if user_name is None else user_name,
            target.password if password is None else encode_password(password),
            properties,
        )
        packet.encode()
        options: dict[str, Any] = {
            "address": target,
            "timeout_s": connect_timeout,
            "tls_context": tls_context,
            "server_hostname": server_hostname,
            "alpn": alpn,
            "source_address": source_address,
            "socket_options": socket_options,
            "tcp_nodelay": tcp_nodelay,
        }
        check_transport_options(options)
        with self._lock:
            driver.check()
            self._session.connect(packet, driver.monotonic())
            driver.opening.options = options
            driver.opening.authenticator = authenticator
            number = self._session.baskets.turn_number
        driver.flush(number)

    def wait_for_connect(self, timeout: float | None = None) -> MQTTConnAckPacket:
        """Wait until the server has accepted the connection, and return its CONNACK.

        :param timeout: In seconds; None waits as long as it takes. The client goes on trying after a timeout.
        :raises WaitTimeoutError: not connected within `timeout`.
        :raises ConnectError: the client gave up: `ConnectRefusedError` (``.packet``), `ForeignSessionError`, …
        :raises AuthenticationError: the authenticator refused the server.
        """
        driver = self._usable()
        timeout = check_timeout(timeout)
        session = self._session
        with self._lock:
            if session.phase == IDLE and session.link is None:
                raise StateError("wait_for_connect() before connect()")
            if not driver.wait_until(
                lambda: session.connected_link() is not None or session.phase in (STOPPED, IDLE) or driver.closed, timeout
            ):
                last = session.last_error
                raise WaitTimeoutError(
                    f"not connected within {timeout:g} s" + (f"; the last attempt: {last}" if last is not None else "")
                ) from last
            link = session.connected_link()
            if link is not None:
                assert link.connack is not None
                return link.connack
            failure = session.failure
        if failure is None:
            raise ConnectError("the client was disconnected or closed before the connection was made")
        raise failure

    def is_connected(self) -> bool:
        """Return whether the server has accepted the connection and it still stands."""
        driver = self._driver
        if driver is None:
            return False
        driver.check_fork()
        with self._lock:
            return self._session.connected_link() is not None

    @property
    def connack(self) -> MQTTConnAckPacket | None:
        """The CONNACK of the connection that stands, with all its properties (section 3.2), or None."""
        with self._lock:
            link = self._session.link
            return None if link is None else link.connack

    @property
    def client_id(self) -> str:
        """The Client Identifier: as given, or as the server assigned it; empty if neither is known yet."""
        return self._session.client_id

    @property
    def disconnect_packet(self) -> MQTTDisconnectPacket | None:
        """The last DISCONNECT that the server sent (section 3.14), or None."""
        return self._session.disconnect_packet

    @property
    def failure(self) -> MQTTError | None:
        """Why the client has stopped connecting, or None."""
        return self._session.failure

    def auth(self) -> None:
        """Authenticate again with the authenticator given to `connect` (section 4.12.1); other packets go on flowing.

        ``on_auth`` is called when the server has accepted; if it refuses it closes the connection.

        :raises StateError: not connected, no authenticator, or a re-authentication is under way.
        """
        driver = self._usable()
        authenticator = driver.opening.authenticator
        if authenticator is None:
            raise StateError("auth() needs an authenticator in connect(): without an Authentication Method a client must not send AUTH")
        with self._lock:
            self._session.authentication.check()
        data = authenticator.start()
        with self._lock:
            driver.check()
            self._session.reauthenticate(data, driver.monotonic())
        driver.flush()

    # ---- publishing ------------------------------------------------------------------------------------------------------------------

    def publish(
        self,
        topic: str,
        payload: bytes | bytearray | memoryview | str | None = b"",
        qos: int = 0,
        retain: bool = False,
        properties: MQTTPublishProps | None = None,
        alias_policy: AliasPolicy = NEVER,
    ) -> PublishHandle:
        """Publish a message (section 3.3), and return a handle that waits for the full acknowledgement.

        Everything is validated, copied and encoded here. With a database, a QoS 1 or 2 message is on disk when this returns.

        :param topic: Topic Name, 1 to 65,535 bytes of UTF-8 without wildcards.
        :param payload: A str is sent as UTF-8; None is empty.
        :param qos: 0 at most once, 1 at least once, 2 exactly once.
        :param retain: Whether the server keeps it for later subscribers.
        :param properties: Section 3.3.2.3. Topic Alias and Subscription Identifier aren't the caller's to set.
        :param alias_policy: ``ALWAYS`` is for QoS 0.
        :raises ArgumentError: a bad argument; `ServerLimitError`, `PacketTooLargeError`: the server said that it can't take this.
        :raises TopicAliasError: ``ALWAYS``, and the server offers too few aliases, or there is no connection.
        :raises QueueFullError: the outbound queue is full, and there is no connection. While there is one, this waits (`QueuePolicy`).
        :raises StoreError: the database can't keep the message; it was not accepted.
        :raises StateError: the client is closed.
        """
        handle = self._publisher.outgoing(topic, payload, qos, retain, properties, alias_policy)
        driver: Driver = self._driver  # type: ignore[assignment]
        with self._lock:
            if driver.closing:
                driver.check()
            try:
                self._session.publish(handle)
            except QueueFullError:
                self._publisher.accept_when_room(handle)
            if driver.commits is None:
                if driver.sleeping:
                    driver.sleeping = False
                    driver.wake_now()
                if handle.state == SETTLED:
                    driver.pass_turn(driver.monotonic())
                return handle
            number = self._session.baskets.turn_number
        if qos:
            driver.commits.settle(number)
            raise_store_error(handle)
        driver.flush(number)
        return handle

    def publish_many(
        self,
        messages: Iterable[tuple[str, bytes | bytearray | memoryview | str | None]],
        qos: int = 0,
        retain: bool = False,
        properties: MQTTPublishProps | None = None,
        alias_policy: AliasPolicy = NEVER,
    ) -> list[PublishHandle]:
        """Publish several messages, with a database in one transaction: all of them are on disk when this returns.

        :param messages: (topic, payload) each; the other arguments, and what is raised, are as for `publish`. A bad argument in any of
            them is raised before one is accepted.
        :raises QueueFullError: the queue became full; the messages before stay accepted, and with a database they are on disk.
        :raises StoreError: the database can't keep them; none was accepted.
        """
        handles = [self._publisher.outgoing(topic, payload, qos, retain, properties, alias_policy) for topic, payload in messages]
        driver = self._usable()
        error: MQTTError | None = None
        with self._lock:
            driver.check()
            for handle in handles:
                try:
                    self._publisher.accept(handle)
                except MQTTError as caught:
                    error = caught
                    break
            number = self._session.baskets.turn_number
        driver.flush(number)
        for handle in handles:
            raise_store_error(handle)
        if error is not None:
            raise error
        return handles

    def pending(self) -> Iterator[PublishHandle]:
        """Iterate over the unacknowledged QoS 1 and 2 publications, oldest first, those of a former process included.

        A backlog in the database is read window by window. Who asks for a handle here hears of its outcome through it. What the database
        keeps after a `disconnect` has new handles here: those of before have ended with `ClientClosedError`.
        """
        return self._publisher.pending(self._usable())

    # ---- subscribing -------------------------------------------------------------------------------------------------------------------

    def subscribe(
        self,
        topic_filter: str | MQTTSubscription | Sequence[str | MQTTSubscription],
        callback: MessageCallback | None = None,
        max_qos: int = 2,
        *,
        no_local: bool = False,
        retain_as_published: bool = False,
        retain_handling: int = 0,
        properties: MQTTSubscribeProps | None = None,
    ) -> SubscribeHandle:
        """Subscribe to one or several Topic Filters (section 3.8), and return a handle that waits for the SUBACK.

        A subscription is declared state: it is sent on connect, and again when the server has lost the session. It may be declared
        before `connect`.

        :param topic_filter: A filter, also ``$share/name/filter``; or several, each a str or an `MQTTSubscription` with options of its own.
        :param callback: ``callback(client, message)``, run on the delivery thread; None: messages go to ``on_message``. It may publish
            and wait, subscribe, disconnect. A QoS 1 or 2 message is acknowledged when it has returned.
        :param max_qos: The highest QoS at which the server may send.
        :param no_local: Don't send our own publications back.
        :param retain_as_published: Keep the RETAIN flag as published.
        :param retain_handling: 0 send retained messages, 1 only if the subscription is new, 2 don't.
        :param properties: Section 3.8.2.1.
        :raises ArgumentError: a bad filter or option; `ServerLimitError`: the server said that it doesn't support this.
        """
        driver = self._usable()
        if isinstance(topic_filter, (str, MQTTSubscription)):
            topic_filter = [topic_filter]
        items = [
            item if isinstance(item, MQTTSubscription) else MQTTSubscription(item, max_qos, no_local, retain_as_published, retain_handling)
            for item in listed("topic_filter", topic_filter, "a filter or several")
        ]
        check_filters(items)
        if callback is not None and not callable(callback):
            raise ArgumentError(f"callback is {callback!r}, expected a function of (client, message)")
        properties = MQTTSubscribeProps.EMPTY if properties is None else properties
        expect("properties", properties, MQTTSubscribeProps, "MQTTSubscribeProps or None")
        MQTTSubscribePacket(1, tuple(items), properties).encode()
        with self._lock:
            driver.check()
            driver.subscription_group += 1
            subscriptions = [Subscription(item, callback, driver.subscription_group, properties.UserProperty) for item in items]
            handle = SubscribeHandle(driver, items, properties, subscriptions)
            self._session.subscribe(handle)
        driver.flush()
        return handle

    def unsubscribe(self, topic_filter: str | Sequence[str], properties: MQTTUnsubscribeProps | None = None) -> UnsubscribeHandle:
        """End one or several subscriptions (section 3.10); callbacks stay until the server has confirmed.

        :param topic_filter: As given to `subscribe`, ``$share/name/`` included.
        :param properties: Section 3.10.2.1.
        :raises ArgumentError: a bad filter, or none.
        """
        driver = self._usable()
        items = [topic_filter] if isinstance(topic_filter, str) else listed("topic_filter", topic_filter, "a filter or several")
        check_filters(items)
        for item in items:
            validate_topic_filter(item)
        properties = MQTTUnsubscribeProps.EMPTY if properties is None else properties
        expect("properties", properties, MQTTUnsubscribeProps, "MQTTUnsubscribeProps or None")
        MQTTUnsubscribePacket(1, tuple(items), properties).encode()
        with self._lock:
            driver.check()
            handle = UnsubscribeHandle(driver, items, properties)
            self._session.unsubscribe(handle)
        driver.flush()
        return handle

    # ---- the loop ------------------------------------------------------------------------------------------------------------------------

    def start_loop(self) -> None:
        """Start the I/O thread and the delivery thread. ``with`` does it.

        :raises StateError: they run already, or a loop of the caller's does.
        """
        self._usable().start_threads()

    def loop_once(self, timeout: float | None = 1.0) -> None:
        """Do the I/O that is due, waiting for it at most `timeout` seconds, then run the callbacks, all on this thread.

        :raises StateError: the threads are running, or another thread is in the loop.
        """
        driver = self._usable()
        self._loop_once(driver, check_timeout(timeout))

    def _loop_once(self, driver: Driver, timeout: float | None) -> None:
        if driver.thread is not None:
            raise StateError("the loop runs on its own threads: loop_once() and loop_forever() are for clients without")
        if driver.delivery.here():
            raise StateError("loop_once() in a callback: callbacks don't nest")
        if not driver.looping.acquire(blocking=False):
            raise StateError("another thread is in the loop of this client")
        try:
            driver.take_turn(0.0 if driver.delivery.inbox else timeout)
            driver.delivery.drain()
        finally:
            driver.looping.release()
        driver.finish()

    def loop_forever(self) -> None:
        """Run `loop_once` until the client is disconnected, closed, or has stopped connecting.

        :raises ConnectError, AuthenticationError: why it has stopped.
        :raises StateError: there was no `connect`, or the threads are running.
        """
        driver = self._usable()
        session = self._session
        if session.phase == IDLE and session.link is None:
            raise StateError("loop_forever() before connect()")
        while not driver.closing:
            self._loop_once(driver, None)
            with self._lock:
                ended = session.phase in (IDLE, STOPPED) and session.link is None and not driver.delivery.inbox
            if ended:
                if session.failure is not None:
                    raise session.failure
                return
        driver.finish()

    # ---- the end -------------------------------------------------------------------------------------------------------------------------

    def disconnect(
        self, reason_code: int = 0, properties: MQTTDisconnectProps | None = None, *, timeout: float | None = CLOSE_TIMEOUT_S
    ) -> None:
        """Wait until all is done, say DISCONNECT (section 3.14), and close the network connection. `connect` may be called again.

        Waits until QoS 0 is written, QoS > 0 acknowledged (with a database: sent), requests are answered, and the callbacks of received
        messages have run and are acknowledged (the one that calls this excepted). The rest resolves with `ClientClosedError`.

        :param reason_code: 0; or 4, and the server publishes the Will; or another one that a client may send.
        :param properties: Section 3.14.2.2. Without a database and without a named Session Expiry Interval the session ends with this.
        :param timeout: Bound of the waiting in seconds; None waits as long as it takes, 0 not at all.
        :raises ArgumentError: a reason code or property that a client can't send.
        """
        driver = self._usable()
        session = self._session
        packet_properties = MQTTDisconnectProps.EMPTY if properties is None else properties
        expect("properties", packet_properties, MQTTDisconnectProps, "MQTTDisconnectProps or None")
        link = session.link
        check_disconnect(reason_code, packet_properties, None if link is None else link.session_expiry_s)
        here = driver.delivery.here()
        deadline = driver.deadline(timeout)

        def flushed() -> bool:
            if driver.closed or session.phase in (IDLE, STOPPED):
                return True
            return session.idle(inbound=not here) and (here or driver.delivery.idle())

        # Without threads, the callbacks of what was received are run here, between the rounds of I/O.
        delivery = driver.delivery
        while driver.thread is None and not here:
            delivery.drain()
            with self._lock:
                driver.wait_until(lambda: flushed() or delivery.waits(), driver.left(deadline))
                if not delivery.waits() or driver.left(deadline) == 0.0:
                    break
        with self._lock:
            driver.wait_until(flushed, driver.left(deadline))
            if driver.closed:
                return
            # Of the batch whose callback calls this, and of what is still running when the time is up.
            driver.delivery.acknowledge()
            session.disconnect(driver.monotonic(), reason_code, packet_properties)
            driver.opening.give_up()
        driver.flush(wait=False)
        with self._lock:
            driver.wait_until(lambda: session.link is None, self._settings.close_timeout_s + 1.0)

    def close(self, timeout: float | None = CLOSE_TIMEOUT_S) -> None:
        """`disconnect`, then `shutdown`, and wait for the threads (unless called from one of them). Does nothing on a closed client."""
        driver = self._driver
        if driver is None or driver.closed or driver.forked:
            return
        deadline = driver.deadline(timeout)
        try:
            self.disconnect(timeout=timeout)
        except StateError:
            # Somebody else is closing it.
            pass
        finally:
            self.shutdown()
        current = threading.current_thread()
        for thread, grace_s in ((driver.thread, 1.0 + self._settings.store_timeout_s), (driver.delivery.thread, 1.0)):
            if thread is not None and thread is not current:
                remaining = driver.left(deadline)
                thread.join(None if remaining is None else grace_s + remaining)

    def shutdown(self) -> None:
        """Close at once: no DISCONNECT (so the Will fires), every handle resolves with `ClientClosedError`. Safe in a signal handler."""
        driver = self._driver
        if driver is not None and not driver.closed and not driver.forked:
            driver.shut_down()

    def __enter__(self) -> Self:
        self.start_loop()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        # An interrupt shall not be kept waiting; anything else that was published before the error is still flushed.
        self.close(0.0 if kind is not None and not issubclass(kind, Exception) else CLOSE_TIMEOUT_S)

    def __del__(self) -> None:
        driver = getattr(self, "_driver", None)
        if driver is not None and not driver.closed and not driver.forked:
            warnings.warn(
                f"client {driver.session.client_id!r} was collected while open: use `with` or close()", ResourceWarning, stacklevel=2
            )
            driver.shut_down()

    def _abandon_after_fork(self) -> None:
        if self._driver is not None:
            self._driver.abandon_after_fork()
            self._lock = self._driver.lock

    def _usable(self) -> Driver:
        driver = self._driver
        if driver is None:
            raise StateError("the client could not be opened")
        if driver.closing:
            driver.finish()
            driver.check()
        return driver
