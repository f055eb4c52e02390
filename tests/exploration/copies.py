"""Copies of a world: the same objects once more, to take a step from, by value and by who refers to whom.

What is never changed is shared. What isn't known here is copied field by field, so that nothing that the core gains is forgotten.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from ohmqtt import errors
from ohmqtt import packet as packets
from ohmqtt import property as properties
from ohmqtt.records import Connected, Disconnected, Options, Report
from ohmqtt.session import SessionSettings
from ohmqtt.session.policy import Backoff
from ohmqtt.topic import TopicTree
from ohmqtt.topic_alias import InboundAliases, OutboundAliases
from tests.exploration.controls import CONTROLS
from tests.exploration.world import Case

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.exploration.world import World

__all__ = ["IMMUTABLE", "copy", "fields"]

Known = dict[int, Any]


def _classes(module: Any) -> Iterator[type]:
    return (thing for name in module.__all__ if isinstance(thing := getattr(module, name), type))


IMMUTABLE: frozenset[type] = frozenset(
    (
        *(int, str, bytes, bool, float, type(None), frozenset, type),
        *(Case, SessionSettings, Connected, Disconnected, Options, Report),
        *(Backoff, TopicTree, InboundAliases, OutboundAliases),
        *_classes(errors),
        *_classes(packets),
        *_classes(properties),
        *map(type, CONTROLS),
    )
)
"""Types of things that nobody changes: copies share them."""


def fields(kind: type) -> tuple[str, ...]:
    """Return the slots of a class and of its bases."""
    names = [name for base in kind.__mro__ for name in base.__dict__.get("__slots__", ())]
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def _copy(thing: Any, known: Known) -> Any:
    other = known.get(id(thing))
    return _copiers[type(thing)](thing, known) if other is None else other


def _copy_list(thing: list[Any], known: Known) -> list[Any]:
    known[id(thing)] = other = [value if type(value) in IMMUTABLE else _copy(value, known) for value in thing]
    return other


def _copy_deque(thing: deque[Any], known: Known) -> deque[Any]:
    known[id(thing)] = other = deque([value if type(value) in IMMUTABLE else _copy(value, known) for value in thing])
    return other


def _copy_set(thing: set[Any], known: Known) -> set[Any]:
    known[id(thing)] = other = thing.copy()
    return other


def _copy_dict(thing: dict[Any, Any], known: Known) -> dict[Any, Any]:
    known[id(thing)] = other = {key: value if type(value) in IMMUTABLE else _copy(value, known) for key, value in thing.items()}
    return other


def _copy_weak(thing: WeakValueDictionary[Any, Any], known: Known) -> WeakValueDictionary[Any, Any]:
    known[id(thing)] = other = WeakValueDictionary({key: _copy(value, known) for key, value in thing.items()})
    return other


def _copy_tuple(thing: tuple[Any, ...], known: Known) -> tuple[Any, ...]:
    if all(type(value) in IMMUTABLE for value in thing):
        return thing
    values = [value if type(value) in IMMUTABLE else _copy(value, known) for value in thing]
    make = getattr(thing, "_make", tuple)
    copied: tuple[Any, ...] = make(values)
    known[id(thing)] = copied
    return copied


def _copier(kind: Any) -> Callable[[Any, Known], Any]:
    """Return what copies objects of a class."""
    if issubclass(kind, tuple):
        return _copy_tuple
    names = fields(kind)
    if not names and kind.__dictoffset__:
        return _copy_attributes
    if not names or kind.__dictoffset__:
        raise TypeError(f"a world with a {kind.__name__} in it")
    space: dict[str, Any] = {}
    all_fields = ", ".join(f"thing.{name}" for name in names)
    exec(f"def get(thing): return {all_fields},\ndef fill(thing, values): {all_fields}, = values", space)
    get, fill = space["get"], space["fill"]

    def copy_slots(thing: Any, known: Known) -> Any:
        known[id(thing)] = other = kind.__new__(kind)
        try:
            values = get(thing)
        except AttributeError:
            for name in names:
                if hasattr(thing, name):
                    value = getattr(thing, name)
                    setattr(other, name, value if type(value) in IMMUTABLE else _copy(value, known))
        else:
            fill(other, [value if type(value) in IMMUTABLE else _copy(value, known) for value in values])
        return other

    return copy_slots


def _copy_attributes(thing: Any, known: Known) -> Any:
    kind: Any = type(thing)
    known[id(thing)] = other = kind.__new__(kind)
    other.__dict__.update({name: value if type(value) in IMMUTABLE else _copy(value, known) for name, value in thing.__dict__.items()})
    return other


class _Copiers(dict[type, "Callable[[Any, Known], Any]"]):
    def __missing__(self, kind: type) -> Callable[[Any, Known], Any]:
        self[kind] = copier = _copier(kind)
        return copier


_copiers = _Copiers({list: _copy_list, deque: _copy_deque, set: _copy_set, dict: _copy_dict, WeakValueDictionary: _copy_weak})


def copy(world: World) -> World:
    """Return another world in the same state."""
    other: World = _copy(world, {})
    return other
