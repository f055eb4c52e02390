"""From the caller's arguments to a publication that the Session has accepted: validation, encoding, and waiting for room.

Owns the cache of encoded topics. What passes here can't fail to encode later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ArgumentError, QueueFullError, StoreError
from ..handle import PublishHandle
from ..link import encode_topic_field
from ..mqtt_spec import VARINT_MAX
from ..property import MQTTPublishProps
from ..records import Options
from ..session import QueuePolicy, SessionSettings
from ..topic import validate_topic_name
from ..topic_alias import AliasPolicy
from .arguments import check_qos, check_retain, copy_payload, expect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..journal import StoredMessage
    from .driver import Driver

__all__ = ["Publisher", "raise_store_error", "restored"]

TOPICS_CACHED_MAX = 4_096
TOPIC_CACHED_CHARACTERS_MAX = 256

PACKET_BYTES_MAX = VARINT_MAX + 5
PAYLOAD_CHECKED_FROM = 268_000_000
"""Below this no topic and properties can make a PUBLISH too large."""

NEVER = AliasPolicy.NEVER


class Publisher:
    """Makes publications and hands them to the Session."""

    def __init__(self, driver: Driver, settings: SessionSettings) -> None:
        self._driver = driver
        self._session = driver.session
        self._settings = settings
        self._topics: dict[str, bytes] = {}

    def outgoing(
        self,
        topic: str,
        payload: bytes | bytearray | memoryview | str | None,
        qos: int,
        retain: bool,
        properties: MQTTPublishProps | None,
        alias_policy: AliasPolicy,
    ) -> PublishHandle:
        """Validate and encode a publication."""
        try:
            topic_field = self._topics[topic]
        except (KeyError, TypeError):
            topic_field = self._topic_field(topic)
        if type(payload) is not bytes:
            payload = copy_payload(payload)
        if qos.__class__ is not int:
            qos = check_qos(qos)
        if not 0 <= qos <= 2:
            raise ArgumentError(f"qos is {qos!r}, expected 0, 1 or 2")  # [MQTT-3.3.1-4]
        flag = 0 if retain is False else check_retain(retain)
        encoded = b"\0"
        options = None
        if properties is not None or alias_policy is not NEVER:
            encoded, options = self._options(properties, alias_policy, qos, payload)
        handle = PublishHandle(self._driver, topic_field, payload, qos, 0x30 | qos << 1 | flag, encoded, options)
        if len(payload) > PAYLOAD_CHECKED_FROM and handle.size > PACKET_BYTES_MAX:
            raise ArgumentError(
                f"payload has {len(payload)} bytes: PUBLISH would take {handle.size}, and the limit is {PACKET_BYTES_MAX} (section 2.1.4)"
            )
        return handle

    def _topic_field(self, topic: str) -> bytes:
        """Validate and encode a topic; the fields of short ones are kept."""
        topic_field = encode_topic_field(validate_topic_name(topic))
        if len(topic) <= TOPIC_CACHED_CHARACTERS_MAX:
            if len(self._topics) >= TOPICS_CACHED_MAX:
                self._topics.clear()
            self._topics[topic] = topic_field
        return topic_field

    def _options(
        self, properties: MQTTPublishProps | None, alias_policy: AliasPolicy, qos: int, payload: bytes
    ) -> tuple[bytes, Options | None]:
        """Validate and encode what most publications don't have."""
        if not isinstance(alias_policy, AliasPolicy):
            raise ArgumentError(f"alias_policy is {alias_policy!r}, expected one of {', '.join(map(str, AliasPolicy))}")
        if alias_policy is AliasPolicy.ALWAYS and qos:
            raise ArgumentError(
                f"alias_policy is ALWAYS with qos {qos}: it is for QoS 0, because a message that is sent again may find no alias"
            )
        if properties is None:
            properties = MQTTPublishProps.EMPTY
        expect("properties", properties, MQTTPublishProps, "MQTTPublishProps or None")
        if properties.TopicAlias is not None:
            raise ArgumentError(f"TopicAlias is {properties.TopicAlias}: aliases belong to a connection, use alias_policy instead")
        if properties.SubscriptionIdentifier:  # [MQTT-3.3.4-6]
            raise ArgumentError("SubscriptionIdentifier must not be in a client's PUBLISH")
        if properties.PayloadFormatIndicator:
            try:
                payload.decode()
            except UnicodeDecodeError as error:
                raise ArgumentError(f"payload isn't UTF-8, and PayloadFormatIndicator is 1: {error}") from error
        expiry_s = properties.MessageExpiryInterval
        options = None
        if expiry_s is not None or alias_policy is not NEVER:
            options = Options(alias_policy, None if expiry_s is None else self._driver.monotonic() + expiry_s)
        return properties.encode(), options

    def accept(self, handle: PublishHandle) -> None:
        """Hand `handle` to the Session, or wait until it has room, as the policy says. The lock is held, and let go of while waiting."""
        try:
            self._session.publish(handle)
        except QueueFullError:
            self.accept_when_room(handle)

    def accept_when_room(self, handle: PublishHandle) -> None:
        """Accept `handle` as soon as the queue has room, while connected; raise `QueueFullError` else. The lock is held."""
        session = self._session
        driver = self._driver
        weight = len(handle.payload) + len(handle.topic_field) + len(handle.properties)
        fits = weight <= self._settings.queue_bytes_max
        policy = self._settings.queue_policy
        if fits and policy is QueuePolicy.DROP_OLDEST and driver.commits is not None:
            self._accept_for_the_oldest(handle)
            return
        while fits and policy is QueuePolicy.WAIT and session.connected_link() is not None:
            driver.wake()
            if driver.commits is not None:
                self._settle()
            driver.wait_until(lambda: session.outbound.has_room(handle) or session.connected_link() is None or driver.closing, None)
            driver.check()
            if session.outbound.has_room(handle):
                break
        session.publish(handle)

    def _accept_for_the_oldest(self, handle: PublishHandle) -> None:
        """Accept `handle` in the place of the oldest publications, which may be on disk only. The lock is held."""
        outbound = self._session.outbound
        self._session.loading = True
        while outbound.stored_rows:
            self._settle()
            if not outbound.queue:
                break
            try:
                self._session.publish(handle)
            except QueueFullError:
                continue
            return
        self._session.publish(handle)

    def _settle(self) -> None:
        """Commit what there is, and load what the queue has room for. The lock is held, and let go of meanwhile."""
        assert self._driver.commits is not None
        self._driver.lock.release()
        try:
            self._driver.commits.settle()
        finally:
            self._driver.lock.acquire()
        self._driver.check()

    def pending(self, driver: Driver) -> Iterator[PublishHandle]:
        """Iterate over the unacknowledged publications (see `Client.pending`)."""
        after = 0
        with driver.lock:
            found = list(self._session.outbound.pending())
        for message in found:
            after = max(after, message.sequence)
            assert isinstance(message, PublishHandle)
            with driver.lock:
                # A goodbye may have come in between: then it isn't this one that goes on.
                message.claimed |= message.outcome is None
            yield message
        commits = driver.commits
        while commits is not None:
            commits.settle()
            with commits.alone():
                driver.check()
                rows = commits.store.load_queued(after, self._settings.window_messages, self._settings.window_bytes)
                with driver.lock:
                    handles = self._session.outbound.claim(rows, driver.make_message)
            if not rows:
                return
            after = rows[-1].sequence
            for handle in handles:
                assert isinstance(handle, PublishHandle)
                yield handle


def raise_store_error(handle: PublishHandle) -> None:
    """Raise what the database said about a publication that it refused."""
    if handle.done and isinstance(handle.outcome, StoreError):
        raise handle.outcome


def restored(driver: Driver, row: StoredMessage) -> PublishHandle:
    """Make a handle of a stored row."""
    options = None
    if row.alias_policy or row.expiry_s is not None:
        expires_at = None if row.expiry_s is None else driver.monotonic() + row.expiry_s
        options = Options(AliasPolicy(row.alias_policy), expires_at)
    first = 0x30 | row.qos << 1 | row.retain
    handle = PublishHandle(driver, encode_topic_field(row.topic.encode()), row.payload, row.qos, first, row.properties, options)
    handle.sequence = row.sequence
    handle.packet_id = row.packet_id
    return handle
