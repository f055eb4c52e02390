"""Every way that a world can go: steps are taken from copies of it, and no state is looked at twice.

A copy of a world is its pickle, taken apart and put together again; constants stand in it by number. The same bytes are the state by which it
is known when it comes again.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from collections import deque
from dataclasses import dataclass, field
from hashlib import blake2b
from time import perf_counter
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from ohmqtt import errors
from ohmqtt import property as properties
from ohmqtt.errors import MQTTError
from ohmqtt.journal import StoredMessage
from ohmqtt.packet import MQTTConnAckPacket, MQTTConnectPacket, MQTTPubAckPacket, MQTTPubCompPacket, MQTTPubRecPacket
from ohmqtt.session import SessionSettings
from tests.exploration.broker import Violation, require
from tests.exploration.controls import CONTROLS
from tests.exploration.soundness import judge_always, judge_leftovers
from tests.exploration.world import OPTIONAL, Case, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.exploration.controls import Control

__all__ = ["Report", "explore", "explore_and_tell", "find_shortest", "freeze", "retell", "thaw"]

# ---- copies --------------------------------------------------------------------------------------------------------------------------------

# What is never changed is no state: it is kept once, and stands in a copy by its number.
_constants: list[Any] = []
_numbers: dict[Any, int] = {}
_known: dict[int, int] = {}


def _constant(number: int) -> Any:
    return _constants[number]


def _by_identity(thing: Any) -> tuple[Callable[[int], Any], tuple[int]]:
    return _number(thing, (type(thing), id(thing)))


def _by_fields(thing: Any) -> tuple[Callable[[int], Any], tuple[int]]:
    number = _known.get(id(thing))
    if number is not None:
        return _constant, (number,)
    return _number(thing, (type(thing), repr(thing)))


def _number(thing: Any, key: Any) -> tuple[Callable[[int], Any], tuple[int]]:
    number = _numbers.get(key)
    if number is None:
        number = _numbers[key] = _known[id(thing)] = len(_constants)
        _constants.append(thing)
    return _constant, (number,)


def _weak(handles: WeakValueDictionary[int, Any]) -> tuple[type[WeakValueDictionary[int, Any]], tuple[dict[int, Any]]]:
    return WeakValueDictionary, (dict(handles),)


_reducers: dict[type, Callable[[Any], Any]] = {
    WeakValueDictionary: _weak,
    Case: _by_identity,
    SessionSettings: _by_identity,
    MQTTConnectPacket: _by_fields,
    MQTTConnAckPacket: _by_fields,
    MQTTPubAckPacket: _by_fields,
    MQTTPubRecPacket: _by_fields,
    MQTTPubCompPacket: _by_fields,
    StoredMessage: _by_fields,
}
_reducers |= dict.fromkeys(map(type, CONTROLS), _by_identity)
for _name in properties.__all__:
    _class = getattr(properties, _name)
    if isinstance(_class, type):
        _reducers[_class] = _by_fields
for _name in errors.__all__:
    _class = getattr(errors, _name)
    if isinstance(_class, type) and issubclass(_class, MQTTError):
        _reducers[_class] = _by_fields


def freeze(world: World) -> bytes:
    """Return the state of a world, from which `thaw` makes a copy."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, 5)
    pickler.dispatch_table = copyreg.dispatch_table | _reducers
    pickler.dump(world)
    return buffer.getvalue()


def thaw(state: bytes) -> World:
    """Return another world in this state."""
    world: World = pickle.loads(state)
    return world


# ---- the search ----------------------------------------------------------------------------------------------------------------------------


@dataclass
class Report:
    """What an exploration has seen."""

    case: Case
    states: int = 0
    transitions: int = 0
    rests: int = 0
    seconds: float = 0.0
    violation: str = ""
    story: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """Return the report in a line, and the story of a violation."""
        text = f"{self.case}: {self.states:,} states, {self.transitions:,} transitions, {self.rests:,} ends, {self.seconds:.1f} s"
        return f"{text}: {self.violation}" if self.violation else text


class _Node:
    """A state, what can happen in it, and how it was reached."""

    __slots__ = ("before", "key", "resting", "state", "step", "steps", "world")

    def __init__(self, world: World, state: bytes, key: bytes, before: _Node | None = None, step: str = "") -> None:
        # The first step may be taken from the world itself.
        self.world: World | None = world
        self.state = state
        self.key = key
        self.before = before
        self.step = step
        self.steps = world.steps()
        self.resting = True

    def copy(self) -> World:
        """Return a world in this state that nobody else has."""
        world, self.world = self.world, None
        return thaw(self.state) if world is None else world

    def story(self) -> list[str]:
        steps: list[str] = []
        node: _Node | None = self
        while node is not None and node.step:
            steps.append(node.step)
            node = node.before
        return steps[::-1]


def _key(state: bytes) -> bytes:
    return blake2b(state, digest_size=16).digest()


def explore(case: Case) -> Report:
    """Take every step in every state, depth first, and judge all there is; stop at the first violation, and look for its shortest story."""
    report = Report(case)
    began = perf_counter()
    world = World(case)
    state = freeze(world)
    node = _Node(world, state, _key(state))
    path = [node]
    seen = {node.key}
    on_path = {node.key}
    step = ""
    try:
        while path:
            node = path[-1]
            step = ""
            if not node.steps:
                if node.resting:
                    report.rests += 1
                    world = thaw(node.state)
                    world.judge_rest()
                    judge_leftovers(world)
                on_path.discard(path.pop().key)
                continue
            step = node.steps.pop()
            world = node.copy()
            if not world.take(step):
                continue
            report.transitions += 1
            judge_always(world)
            node.resting &= step in OPTIONAL
            state = freeze(world)
            key = _key(state)
            if key not in seen:
                seen.add(key)
                on_path.add(key)
                path.append(_Node(world, state, key, node, step))
            else:
                require(key not in on_path, "this goes round in circles")
    except Violation as violation:
        report.violation = str(violation)
        report.story = [*node.story(), *filter(None, [step])]
    report.states = len(seen)
    report.seconds = perf_counter() - began
    return report


def find_shortest(case: Case, control: Control | None = None) -> Report:
    """Take every step in every state, breadth first, until a promise to the user or the server is broken: that is the shortest story."""
    report = Report(case)
    began = perf_counter()
    world = World(case, control)
    state = freeze(world)
    key = _key(state)
    seen = {key}
    waiting = deque([_Node(world, state, key)])
    while waiting and not report.violation:
        node = waiting.popleft()
        step = ""
        try:
            for step in node.steps:
                world = node.copy()
                if not world.take(step):
                    continue
                report.transitions += 1
                node.resting &= step in OPTIONAL
                state = freeze(world)
                key = _key(state)
                if key not in seen:
                    seen.add(key)
                    waiting.append(_Node(world, state, key, node, step))
                    # It waits for long, and a frozen one takes less room.
                    waiting[-1].world = None
            step = ""
            if node.resting:
                report.rests += 1
                thaw(node.state).judge_rest()
        except Violation as violation:
            report.violation = str(violation)
            report.story = [*node.story(), *filter(None, [step])]
        node.state = b""
    report.states = len(seen)
    report.seconds = perf_counter() - began
    return report


def retell(report: Report, control: Control | None = None) -> list[str]:
    """Tell the story of a violation step by step, and what it broke."""
    world = World(report.case, control)
    lines = []
    for number, step in enumerate(report.story, 1):
        lines.append(f"{number:2}. {world.describe(step)}")
        try:
            world.take(step)
        except Violation:
            break
    return [*lines, *([f"    {report.violation}"] if report.violation else [])]


def explore_and_tell(case: Case) -> tuple[Report, list[str]]:
    """Explore a case; of what is found, look for the shortest story."""
    report = explore(case)
    if not report.violation:
        return report, []
    shortest = find_shortest(case)
    # What only a look inside has found has no shorter story than the one that was found.
    found = shortest if shortest.violation else report
    return found, retell(found)
