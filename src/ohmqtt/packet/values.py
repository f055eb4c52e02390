"""The two parts of packets that users make by themselves: a filter with its options, and a Will. Both are checked at once and immutable."""

from __future__ import annotations

from typing import Any, ClassVar, final

from ..errors import ArgumentError
from ..property import MQTTWillProps
from ..serialization import encode_binary, encode_string
from .fields import check_flag, check_utf8, encode_properties, encode_text, filter_problem, topic_problem

__all__ = ["MQTTSubscription", "MQTTWill"]


class _Frozen:
    """A checked, immutable, hashable value."""

    __slots__ = ()
    _fields: ClassVar[tuple[str, ...]] = ()

    def _values(self) -> tuple[Any, ...]:
        return tuple([getattr(self, name) for name in self._fields])

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Frozen) or other.__class__ is not self.__class__:
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join([f'{name}={getattr(self, name)!r}' for name in self._fields])})"

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), self._values()


_set = object.__setattr__


@final
class MQTTSubscription(_Frozen):
    """One Topic Filter of a SUBSCRIBE with its Subscription Options (section 3.8.3).

    Args:
        topic_filter: the filter, ``$share/{name}/{filter}`` included.
        max_qos: the highest QoS at which the server may send: 0, 1 or 2.
        no_local: don't send what this client published; not with a shared subscription.
        retain_as_published: keep the RETAIN flag as the publisher set it.
        retain_handling: 0 sends retained messages, 1 only if the subscription is new, 2 never.

    Raises:
        ArgumentError: a value that the standard forbids.
    """

    __slots__ = _fields = ("topic_filter", "max_qos", "no_local", "retain_as_published", "retain_handling")

    topic_filter: str
    max_qos: int
    no_local: bool
    retain_as_published: bool
    retain_handling: int

    def __init__(
        self,
        topic_filter: str,
        max_qos: int = 2,
        no_local: bool = False,
        retain_as_published: bool = False,
        retain_handling: int = 0,
    ) -> None:
        encode_text("topic_filter", topic_filter)  # [MQTT-3.8.3-1]
        problem = filter_problem(topic_filter)
        if problem:
            raise ArgumentError(problem)
        if max_qos not in (0, 1, 2):
            raise ArgumentError(f"max_qos: {max_qos!r} is none of 0, 1, 2")
        check_flag("no_local", no_local)
        check_flag("retain_as_published", retain_as_published)
        if retain_handling not in (0, 1, 2):
            raise ArgumentError(f"retain_handling: {retain_handling!r} is none of 0, 1, 2")
        if no_local and topic_filter.startswith("$share/"):  # [MQTT-3.8.3-4]
            raise ArgumentError(f"no_local: not allowed with the shared subscription {topic_filter[:100]!r}")
        _set(self, "topic_filter", topic_filter)
        _set(self, "max_qos", int(max_qos))
        _set(self, "no_local", bool(no_local))
        _set(self, "retain_as_published", bool(retain_as_published))
        _set(self, "retain_handling", int(retain_handling))

    def encode(self) -> bytes:
        """Return the filter and the options byte, as they stand in the payload of a SUBSCRIBE."""
        # Bits 6 and 7 are reserved [MQTT-3.8.3-5].
        options = self.max_qos | self.no_local << 2 | self.retain_as_published << 3 | self.retain_handling << 4
        return encode_string(self.topic_filter) + bytes((options,))


@final
class MQTTWill(_Frozen):
    """The Will Message of a CONNECT (section 3.1.2.5).

    Args:
        topic: a Topic Name, without wildcards.
        payload: up to 65,535 bytes; copied.
        qos: 0, 1 or 2.
        retain: whether the server retains the message when it publishes it.
        properties: its properties, among them the Will Delay Interval.

    Raises:
        ArgumentError: a value that the standard forbids.
    """

    __slots__ = _fields = ("topic", "payload", "qos", "retain", "properties")

    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: MQTTWillProps

    def __init__(
        self,
        topic: str,
        payload: bytes = b"",
        qos: int = 0,
        retain: bool = False,
        properties: MQTTWillProps = MQTTWillProps.EMPTY,
    ) -> None:
        encode_text("will topic", topic)  # [MQTT-3.1.3-11]
        problem = topic_problem(topic)
        if problem:
            raise ArgumentError(f"will: {problem}")
        if qos not in (0, 1, 2):  # [MQTT-3.1.2-12]
            raise ArgumentError(f"will qos: {qos!r} is none of 0, 1, 2")
        check_flag("will retain", retain)
        encode_properties(MQTTWillProps, properties)
        try:
            payload = encode_binary(payload)[2:]
        except ArgumentError as error:
            raise ArgumentError(f"will payload: {error}") from None
        if properties.PayloadFormatIndicator:
            check_utf8("will payload", payload)
        _set(self, "topic", topic)
        _set(self, "payload", payload)
        _set(self, "qos", int(qos))
        _set(self, "retain", bool(retain))
        _set(self, "properties", properties)
