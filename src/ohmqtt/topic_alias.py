"""Topic Aliases (section 3.3.2.3.4): small numbers that stand for topic names within one network connection.

Owns the two maps of one connection, one for each direction, and the choice of which topics are worth an alias. Both maps die with the
connection [MQTT-3.3.2-7]: there is no reset. No clock, no randomness: the same calls give the same aliases.

Invariant: an alias is left to stand alone only after it was given out together with its topic, and until another topic takes it over;
that holds if the packets leave in the order of the calls to ``assign``.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from .errors import ArgumentError, ProtocolError, TopicAliasError
from .mqtt_spec import ReasonCode

__all__ = ["AliasPolicy", "InboundAliases", "OutboundAliases"]

ALIAS_MAX: Final = 65_535
# AliasPolicy.TRY takes no more aliases than this from a server that offers more: about 1 MB, and beyond it the savings are thin.
TRY_ALIASES_MAX: Final = 4_096
# A topic takes an alias over from another one when it was used this much more often of late: 2 × the other's uses + 4.
TAKEOVER_FACTOR: Final = 2
TAKEOVER_HEAD_START: Final = 4
# A round is as many uses of topics without alias as there are aliases, but at least this many: of fewer, counts would be mere chance.
ROUND_MIN: Final = 16

_UNALIASED: Final = (0, True)


class AliasPolicy(Enum):
    """Whether a publication uses a Topic Alias in place of its topic name.

    NEVER: no alias. TRY: one if the server offers any and the topic is among the busiest. ALWAYS: one, or the call raises.
    """

    NEVER = 0
    TRY = 1
    ALWAYS = 2


_NEVER: Final = AliasPolicy.NEVER
_ALWAYS: Final = AliasPolicy.ALWAYS


class _Binding:
    """An alias and its topic. ``announced``: the server knows it. ``required``: promised to AliasPolicy.ALWAYS, never taken over."""

    __slots__ = ("alias", "alone", "announced", "required", "topic", "uses")

    def __init__(self, topic: str, alias: int, uses: int) -> None:
        self.topic = topic
        self.alias = alias
        self.uses = uses
        self.announced = False
        self.required = False
        self.alone = (alias, False)


class OutboundAliases:
    """The aliases that we send on one network connection.

    Among topics with ``AliasPolicy.TRY``, the busiest of late keep their aliases. Uses are counted; each use of a topic that has no alias
    compares it with the holder of one, the next in turn, and takes that alias over if the topic is clearly busier. At the end of a round
    all counts are halved, so that former glory fades. What a call costs on average doesn't depend on the number of aliases.

    ``maximum`` is the server's Topic Alias Maximum, 0 to 65,535 (section 3.2.2.3.8).
    """

    __slots__ = ("_bindings", "_misses", "_slots", "_waiting", "maximum")

    def __init__(self, maximum: int) -> None:
        if not 0 <= maximum <= ALIAS_MAX:
            raise ArgumentError(f"Topic Alias Maximum {maximum} is out of range 0 to {ALIAS_MAX:,}")
        self.maximum = maximum
        self._bindings: dict[str, _Binding] = {}
        self._slots: list[_Binding] = []  # by alias - 1
        # Recent uses of topics without alias. Halving keeps their sum, and so the number of topics, below that of two rounds.
        self._waiting: dict[str, int] = {}
        self._misses = 0  # in this round

    def assign(self, topic: str, policy: AliasPolicy) -> tuple[int, bool]:
        """Choose the alias for a PUBLISH that is about to be written.

        Returns the alias, or 0 for none; and whether the packet must carry the topic name. The packets must be written so, in the order
        of the calls; whoever leaves the alias off in spite of it says so with :meth:`discard`.

        Raises:
            TopicAliasError: the policy is ALWAYS, no alias is to be had, and none was reserved for this topic.
        """
        if policy is _NEVER:
            return _UNALIASED
        binding = self._bindings.get(topic)
        if policy is _ALWAYS and (binding is None or not binding.required):
            self.reserve(topic)
            binding = self._bindings[topic]
        elif binding is None:
            binding = self._try(topic)
            if binding is None:
                return _UNALIASED
        binding.uses += 1
        if binding.announced:
            return binding.alone
        binding.announced = True
        return binding.alias, True

    def reserve(self, topic: str) -> None:
        """Promise an alias to a topic, for the life of the connection, so that :meth:`assign` can't fail for it.

        Raises:
            TopicAliasError: the server offers none, or all that it offers are promised to other topics.
        """
        binding = self._bindings.get(topic)
        if binding is None:
            binding = self._bind_new(topic) if len(self._slots) < self.maximum else self._take_from_least_used(topic)
        binding.required = True

    def discard(self, topic: str) -> None:
        """Note that a packet left without the alias that :meth:`assign` chose, because it would have been too large with it.

        The next packet announces the alias anew. A topic that has none is left alone.
        """
        binding = self._bindings.get(topic)
        if binding is not None:
            binding.announced = False

    def _try(self, topic: str) -> _Binding | None:
        """Give a topic an alias if one is free or held by a topic that is clearly less used."""
        slots = self._slots
        if len(slots) < self.maximum and len(slots) < TRY_ALIASES_MAX:
            return self._bind_new(topic)
        if not slots:
            return None
        uses = self._waiting[topic] = self._waiting.get(topic, 0) + 1
        holder = slots[self._misses % len(slots)]
        self._misses += 1
        if not holder.required and uses >= TAKEOVER_FACTOR * holder.uses + TAKEOVER_HEAD_START:
            self._waiting[holder.topic] = holder.uses
            return self._rebind(holder, topic)
        if self._misses >= len(slots) and self._misses >= ROUND_MIN:
            self._misses = 0
            for holder in slots:
                holder.uses >>= 1
            self._waiting = {waiting: uses >> 1 for waiting, uses in self._waiting.items() if uses > 1}
        return None

    def _bind_new(self, topic: str) -> _Binding:
        """Use an alias for the first time."""
        binding = _Binding(topic, len(self._slots) + 1, self._waiting.pop(topic, 0))
        self._slots.append(binding)
        self._bindings[topic] = binding
        return binding

    def _rebind(self, holder: _Binding, topic: str) -> _Binding:
        """Move an alias to another topic."""
        del self._bindings[holder.topic]
        binding = _Binding(topic, holder.alias, self._waiting.pop(topic, 0))
        self._slots[holder.alias - 1] = binding
        self._bindings[topic] = binding
        return binding

    def _take_from_least_used(self, topic: str) -> _Binding:
        """Take an alias away from AliasPolicy.TRY. Rare, and therefore a plain search."""
        holders = [holder for holder in self._slots if not holder.required]
        if not holders:
            if not self.maximum:
                raise TopicAliasError("AliasPolicy.ALWAYS: the server offers no topic aliases (its Topic Alias Maximum is 0)")
            raise TopicAliasError(
                f"AliasPolicy.ALWAYS: all {self.maximum:,} topic aliases that the server offers are promised to other topics"
            )
        return self._rebind(min(holders, key=lambda holder: holder.uses), topic)


class InboundAliases:
    """The aliases that the server sends on one network connection.

    ``maximum`` is the Topic Alias Maximum that our CONNECT offered, 0 to 65,535 (section 3.1.2.11.5). It bounds the memory: so many topics.
    """

    __slots__ = ("_topics", "maximum")

    def __init__(self, maximum: int) -> None:
        if not 0 <= maximum <= ALIAS_MAX:
            raise ArgumentError(f"Topic Alias Maximum {maximum} is out of range 0 to {ALIAS_MAX:,}")
        self.maximum = maximum
        self._topics: dict[int, str] = {}

    def resolve(self, topic: str, alias: int) -> str:
        """Return the topic of a received PUBLISH that carries an alias, and note what the alias stands for.

        ``topic`` is the topic name as received, empty if the alias stands alone.

        Raises:
            ProtocolError: 0x94 if the alias is 0 or larger than offered; 0x82 if it stands alone and for nothing.
        """
        if not topic:
            known = self._topics.get(alias)
            if known is not None:
                return known
        if not 0 < alias <= self.maximum:  # [MQTT-3.1.2-26] [MQTT-3.1.2-27] [MQTT-3.3.2-8]
            raise ProtocolError(
                f"PUBLISH with topic alias {alias}; its receiver offered {_offered(self.maximum)}", ReasonCode.TOPIC_ALIAS_INVALID
            )
        if not topic:
            raise ProtocolError(f"PUBLISH without topic name, and topic alias {alias} was not set on this connection")
        self._topics[alias] = topic
        return topic


def _offered(maximum: int) -> str:
    """Describe which aliases the server may use."""
    return f"1 to {maximum:,}" if maximum else "none"
