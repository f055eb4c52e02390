"""Topic Names and Topic Filters (sections 4.7 and 4.8.2): their rules, which filter matches what, and the tree that finds filters fast.

Owns the text rules, the plain reference matcher and :class:`TopicTree`. Knows nothing of packets, subscriptions' options or callbacks:
the tree's values are the caller's. Takes no lock; whoever shares a tree between threads serialises the calls.

Invariant: ``tree.match(topic)`` is always the values of exactly those stored filters for which ``matches(filter, topic)`` is true,
oldest filter first. The cache never says anything else: each change of the tree removes what it could have made wrong.
No function here recurses, because a filter may have 65,536 levels.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from .errors import ArgumentError
from .mqtt_spec import STRING_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["TopicTree", "is_shared", "matches", "matching_part", "overlaps", "validate_topic_filter", "validate_topic_name"]

T = TypeVar("T")

SHARED_PREFIX: Final = "$share/"
# The match cache: 10,000 busy topics fit. Long topics and long results stay outside, so that it can't grow beyond some 20 MB.
CACHE_TOPICS_MAX: Final = 16_384
CACHE_TOPIC_CHARACTERS_MAX: Final = 256
CACHE_VALUES_MAX: Final = 64


def validate_topic_name(topic: str) -> bytes:
    """Check a Topic Name and return it as UTF-8 (section 4.7.3).

    A name has 1 to 65,535 bytes of UTF-8 without wildcards, U+0000 and lone surrogates. It is taken as it is: nothing is normalised.

    Raises:
        ArgumentError: the name breaks one of these rules.
    """
    encoded = _encode(topic, "topic name")
    if "+" in topic or "#" in topic:  # [MQTT-3.3.2-2] [MQTT-4.7.0-1]
        raise ArgumentError(f"topic name {_shown(topic)}: the wildcards '+' and '#' are for topic filters only")
    return encoded


def validate_topic_filter(topic_filter: str) -> bytes:
    """Check a Topic Filter, shared (``$share/name/filter``) or not, and return it as UTF-8 (sections 4.7.1, 4.7.3 and 4.8.2).

    A filter has 1 to 65,535 bytes of UTF-8 without U+0000 and lone surrogates; ``+`` is a whole level, ``#`` the whole last level.

    Raises:
        ArgumentError: the filter breaks one of these rules.
    """
    encoded = _encode(topic_filter, "topic filter")
    part = topic_filter
    if topic_filter.startswith(SHARED_PREFIX):
        share_name, separator, part = topic_filter[len(SHARED_PREFIX) :].partition("/")
        if not share_name:  # [MQTT-4.8.2-1]
            raise ArgumentError(f"topic filter {_shown(topic_filter)}: the share name is empty, expected '$share/name/filter'")
        if "+" in share_name or "#" in share_name:  # [MQTT-4.8.2-2]
            raise ArgumentError(f"topic filter {_shown(topic_filter)}: the share name must not contain '+' or '#'")
        if not separator or not part:  # [MQTT-4.8.2-2]
            raise ArgumentError(f"topic filter {_shown(topic_filter)}: no filter after the share name, expected '$share/name/filter'")
    if "#" in part and (part.index("#") != len(part) - 1 or part[-2:] not in ("#", "/#")):  # [MQTT-4.7.1-1]
        raise ArgumentError(f"topic filter {_shown(topic_filter)}: '#' must be the last character, alone or after '/'")
    if "+" in part:  # [MQTT-4.7.1-2]
        for level in part.split("/"):
            if "+" in level and level != "+":
                raise ArgumentError(f"topic filter {_shown(topic_filter)}: '+' must fill a whole level")
    return encoded


def is_shared(topic_filter: str) -> bool:
    """Tell whether the filter is that of a Shared Subscription (section 4.8.2)."""
    return topic_filter.startswith(SHARED_PREFIX)


def matching_part(topic_filter: str) -> str:
    """Return what topics are compared with: the filter itself, or what follows ``$share/name/`` (section 4.8.2)."""
    if topic_filter.startswith(SHARED_PREFIX):
        return topic_filter.split("/", 2)[2]
    return topic_filter


def matches(topic_filter: str, topic: str) -> bool:
    """Tell whether the filter, shared or not, matches the topic name (section 4.7). Both must be valid.

    This is the plain form of the rules; :class:`TopicTree` gives the same answer for many filters at once.
    """
    part = matching_part(topic_filter)
    if topic[0] == "$" and part[0] in "+#":  # [MQTT-4.7.2-1]
        return False
    filter_levels = part.split("/")
    topic_levels = topic.split("/")
    if filter_levels[-1] == "#":
        # '#' stands for any number of levels, none included: 'a/#' matches 'a' as well.
        filter_levels.pop()
        del topic_levels[len(filter_levels) :]
    if len(filter_levels) != len(topic_levels):
        return False
    # [MQTT-4.7.3-4] Levels are compared as they are, without normalisation.
    return all(wanted in ("+", level) for wanted, level in zip(filter_levels, topic_levels, strict=True))


def overlaps(filter_a: str, filter_b: str) -> bool:
    """Tell whether any topic name can match both filters, share names left aside. Both must be valid.

    The limit of 65,535 bytes for that topic name is not considered.
    """
    part_a = matching_part(filter_a)
    part_b = matching_part(filter_b)
    if (part_a[0] == "$" and part_b[0] in "+#") or (part_b[0] == "$" and part_a[0] in "+#"):  # [MQTT-4.7.2-1]
        return False
    if _NO_NAME_FOR_BOTH.get(part_a) == part_b:
        return False
    levels_a = part_a.split("/")
    levels_b = part_b.split("/")
    for level_a, level_b in zip(levels_a, levels_b, strict=False):
        if "#" in (level_a, level_b):
            return True
        if level_a != level_b and "+" not in (level_a, level_b):
            return False
    if len(levels_a) > len(levels_b):
        levels_a, levels_b = levels_b, levels_a
    # What is left over must be able to stand for no level at all.
    return len(levels_a) == len(levels_b) or levels_b[len(levels_a)] == "#"


# '/#' matches one name of a single level, the empty one, and '+' only names of a single level: the name for both would be the empty string,
# which is no Topic Name [MQTT-4.7.3-1].
_NO_NAME_FOR_BOTH: Final = {"+": "/#", "/#": "+"}


class _Entry(Generic[T]):
    """A stored filter. ``order`` counts insertions, so that results can be given oldest first."""

    __slots__ = ("order", "topic_filter", "value")

    def __init__(self, order: int, topic_filter: str, value: T) -> None:
        self.order = order
        self.topic_filter = topic_filter
        self.value = value


class _Node(Generic[T]):
    """One level. ``entries`` are the filters that end here, ``hash_entries`` those that end here with one more level, '#'."""

    __slots__ = ("children", "entries", "hash_entries", "plus")

    def __init__(self) -> None:
        self.children: dict[str, _Node[T]] = {}
        self.plus: _Node[T] | None = None
        self.entries: tuple[_Entry[T], ...] = ()
        self.hash_entries: tuple[_Entry[T], ...] = ()


_by_order = attrgetter("order")


class TopicTree(Generic[T]):
    """A mapping from Topic Filters to values that finds all filters which match a topic name.

    ``tree[filter] = value``, ``del tree[filter]``, ``tree.get(filter)``, ``filter in tree``, ``len(tree)``; iteration gives
    ``(filter, value)``, oldest filter first. A shared filter matches by what follows its share name, and stands beside its unshared twin.
    Trees compare equal when they hold equal values under the same filters in the same order; they can be copied and pickled.

    ``cache`` holds earlier results of :meth:`match` by topic name, for callers who want to save the call:
    ``tree.cache.get(topic)``. It is one dict object for the life of the tree; only the tree writes to it.
    """

    __slots__ = ("_entries", "_order", "_root", "cache")

    def __init__(self, items: Iterable[tuple[str, T]] = ()) -> None:
        self.cache: dict[str, tuple[T, ...]] = {}
        self._entries: dict[str, _Entry[T]] = {}
        self._root: _Node[T] = _Node()
        self._order = 0
        for topic_filter, value in items:
            self[topic_filter] = value

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[tuple[str, T]]:
        return iter([(entry.topic_filter, entry.value) for entry in self._entries.values()])

    def __contains__(self, topic_filter: object) -> bool:
        return topic_filter in self._entries

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TopicTree):
            return NotImplemented
        return list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"TopicTree({list(self)!r})"

    def __reduce__(self) -> tuple[type[TopicTree[T]], tuple[list[tuple[str, T]]]]:
        # Without this, copy and pickle would recurse once for each level.
        return TopicTree, (list(self),)

    def get(self, topic_filter: str) -> T | None:
        """Return the value stored under exactly this filter, or None."""
        entry = self._entries.get(topic_filter)
        return None if entry is None else entry.value

    def __setitem__(self, topic_filter: str, value: T) -> None:
        """Store a value under a filter; a stored filter keeps its place in the order.

        Raises:
            ArgumentError: the filter is not valid.
        """
        entry = self._entries.get(topic_filter)
        if entry is not None:
            entry.value = value
            self._forget_results(matching_part(topic_filter))
            return
        validate_topic_filter(topic_filter)
        self._order += 1
        entry = self._entries[topic_filter] = _Entry(self._order, topic_filter, value)
        part = matching_part(topic_filter)
        node = self._root
        for level in part.split("/"):
            if level == "#":
                node.hash_entries += (entry,)
                break
            if level == "+":
                if node.plus is None:
                    node.plus = _Node()
                node = node.plus
            else:
                child = node.children.get(level)
                if child is None:
                    child = node.children[level] = _Node()
                node = child
        else:
            node.entries += (entry,)
        self._forget_results(part)

    def __delitem__(self, topic_filter: str) -> None:
        """Remove a filter.

        Raises:
            KeyError: it isn't stored.
        """
        entry = self._entries.pop(topic_filter)
        part = matching_part(topic_filter)
        node = self._root
        path: list[tuple[_Node[T], str]] = []
        for level in part.split("/"):
            if level == "#":
                node.hash_entries = _without(node.hash_entries, entry)
                break
            path.append((node, level))
            child = node.plus if level == "+" else node.children[level]
            assert child is not None
            node = child
        else:
            node.entries = _without(node.entries, entry)
        while path and not (node.entries or node.hash_entries or node.children or node.plus):
            node, level = path.pop()
            if level == "+":
                node.plus = None
            else:
                del node.children[level]
        self._forget_results(part)

    def clear(self) -> None:
        """Remove all filters."""
        self._entries.clear()
        self._root = _Node()
        self.cache.clear()

    def match(self, topic: str) -> tuple[T, ...]:
        """Return the values of all filters that match a topic name (section 4.7), oldest filter first. The name must be valid."""
        values = self.cache.get(topic)
        if values is not None:
            return values
        found = self._find(topic)
        if len(found) > 1:
            found.sort(key=_by_order)
        values = tuple([entry.value for entry in found])
        if len(topic) <= CACHE_TOPIC_CHARACTERS_MAX and len(values) <= CACHE_VALUES_MAX:
            if len(self.cache) >= CACHE_TOPICS_MAX:
                self.cache.clear()
            self.cache[topic] = values
        return values

    def overlapping(self, topic_filter: str) -> list[str]:
        """Return the stored filters that some topic name matches together with this one, oldest first.

        The same as asking :func:`overlaps` about each stored filter, this one included if it is stored; but only those parts of the tree
        are visited that the given filter leads to. The filter must be valid.
        """
        part = matching_part(topic_filter)
        found = self._find_overlapping(part)
        found.sort(key=_by_order)
        without = _NO_NAME_FOR_BOTH.get(part)
        return [entry.topic_filter for entry in found if without is None or matching_part(entry.topic_filter) != without]

    def _forget_results(self, part: str) -> None:
        """Remove from the cache what a change under this filter could have made wrong."""
        if "#" in part or "+" in part:
            self.cache.clear()
        else:
            self.cache.pop(part, None)

    def _find(self, topic: str) -> list[_Entry[T]]:
        """Walk down along the topic; come back for each '+' on the way."""
        found: list[_Entry[T]] = []
        levels = topic.split("/")
        count = len(levels)
        postponed: list[tuple[_Node[T], int]] = []
        node: _Node[T] | None = self._root
        index = 0
        if topic[0] == "$":  # [MQTT-4.7.2-1] Only the branch that names the first level.
            node = self._root.children.get(levels[0])
            index = 1
        while True:
            while node is not None:
                if node.hash_entries:
                    found += node.hash_entries
                if index == count:
                    found += node.entries
                    break
                if node.plus is not None:
                    postponed.append((node.plus, index + 1))
                node = node.children.get(levels[index])
                index += 1
            if not postponed:
                return found
            node, index = postponed.pop()

    def _find_overlapping(self, part: str) -> list[_Entry[T]]:
        """Walk all branches that some topic matched by this filter could lead along."""
        found: list[_Entry[T]] = []
        root = self._root
        nodes = [root]
        for level in part.split("/"):
            if level == "#":
                while nodes:
                    node = nodes.pop()
                    found += node.entries
                    found += node.hash_entries
                    nodes += _below(node, node is root)
                return found
            reached: list[_Node[T]] = []
            for node in nodes:
                if level == "+":
                    found += node.hash_entries
                    reached += _below(node, node is root)
                    continue
                child = node.children.get(level)
                if child is not None:
                    reached.append(child)
                if node is root and level[:1] == "$":  # [MQTT-4.7.2-1]
                    continue
                found += node.hash_entries
                if node.plus is not None:
                    reached.append(node.plus)
            nodes = reached
        for node in nodes:
            found += node.entries
            found += node.hash_entries
        return found


def _without(entries: tuple[_Entry[T], ...], entry: _Entry[T]) -> tuple[_Entry[T], ...]:
    index = entries.index(entry)
    return entries[:index] + entries[index + 1 :]


def _below(node: _Node[T], is_root: bool) -> list[_Node[T]]:
    """Return the nodes that a wildcard leads to from here."""
    # [MQTT-4.7.2-1] At the first level, wildcards don't lead to what begins with '$'.
    below = [child for level, child in node.children.items() if not (is_root and level[:1] == "$")]
    if node.plus is not None:
        below.append(node.plus)
    return below


def _encode(text: str, field: str) -> bytes:
    """Check what names and filters have in common and return the text as UTF-8."""
    if not isinstance(text, str):
        raise ArgumentError(f"{field} must be a str, not {type(text).__name__}")
    if not text:  # [MQTT-4.7.3-1]
        raise ArgumentError(f"{field} is empty: it must have at least one character")
    if "\0" in text:  # [MQTT-4.7.3-2]
        raise ArgumentError(f"{field} {_shown(text)} contains U+0000")
    try:
        encoded = text.encode()
    except UnicodeEncodeError as error:  # [MQTT-1.5.4-1]
        raise ArgumentError(f"{field} {_shown(text)} contains a lone surrogate, which UTF-8 can't express") from error
    if len(encoded) > STRING_BYTES_MAX:  # [MQTT-4.7.3-3]
        raise ArgumentError(f"{field} {_shown(text)} has {len(encoded):,} bytes of UTF-8; the limit is {STRING_BYTES_MAX:,}")
    return encoded


def _shown(text: str) -> str:
    """Quote a text for a message, shortened if it is long."""
    return ascii(text) if len(text) <= 80 else f"{text[:60]!a}… ({len(text):,} characters)"
