"""Whether what makes the worlds small is right: small worlds are explored without it, and each argument is looked at in each state.

A state is here what a pickle of the world says: everything, down to which objects are the same. In each state that there is, it is shown that

* a copy is the same state, and a step that is taken from it leaves the world as it was (`tests.exploration.copies`);
* two states with one key can do the same, get to the same keys by it, and break the same promises (`reduction.key`);
* a state where a step is taken at once can do nothing that it can't do behind that step as well, and it comes to the same, as soon as what is
  taken at once has been taken there, too; or it comes to nothing more than that step (`reduction.at_once`).

From the second follows by induction that nothing is lost with the states that are left out. So it does from the third: wherever a way leads
that the world can go, what is taken at once leads on from there to a state that is explored. That is so where the way begins; and if it is
so before a step of the way, it is so behind it. A state in which nothing has to happen is one of those: in it nothing is taken at once.
That both ways of exploring have the same ends, and break the same promises, is looked at as well.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from tests.exploration.broker import Violation, require
from tests.exploration.copies import IMMUTABLE, copy
from tests.exploration.reduction import at_once, key
from tests.exploration.search import explore, find_shortest
from tests.exploration.soundness import judge_always, judge_leftovers
from tests.exploration.world import OPTIONAL, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.exploration.controls import Control
    from tests.exploration.world import Case

__all__ = ["Comparison", "compare", "compare_and_tell", "freeze", "thaw"]

_PLAIN = (int, str, bytes, bool, float, type(None), frozenset, type)

# What is never changed stands in a state by its number: by its value, as far as it shows that.
_constants: list[Any] = []
_numbers: dict[Any, int] = {}
_known: dict[int, int] = {}


def _constant(number: int) -> Any:
    return _constants[number]


def _by_number(thing: Any) -> tuple[Callable[[int], Any], tuple[int]]:
    number = _known.get(id(thing))
    if number is None:
        value = (type(thing), repr(thing))
        number = _numbers.setdefault(value, len(_constants))
        _known[id(thing)] = number
        # It is kept, so that its address stays its own.
        _constants.append(thing)
    return _constant, (number,)


def _weak(handles: WeakValueDictionary[int, Any]) -> tuple[type[WeakValueDictionary[int, Any]], tuple[dict[int, Any]]]:
    return WeakValueDictionary, (dict(handles),)


def _shows_its_value(kind: type) -> bool:
    return kind not in _PLAIN and not issubclass(kind, tuple) and any("__repr__" in vars(base) for base in kind.__mro__[:-1])


_reducers: dict[type, Callable[[Any], Any]] = {
    WeakValueDictionary: _weak,
    **{kind: _by_number for kind in IMMUTABLE if _shows_its_value(kind)},
}


def freeze(world: World) -> bytes:
    """Return all that there is to say about the state of a world."""
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, 5)
    pickler.dispatch_table = copyreg.dispatch_table | _reducers
    pickler.dump(world)
    return buffer.getvalue()


def thaw(state: bytes) -> World:
    """Return another world in this state."""
    world: World = pickle.loads(state)
    return world


@dataclass
class Comparison:
    """What was seen: states as they are, their keys, how many have a step that is taken at once, ends (by their keys), broken promises."""

    states: int
    keys: int
    at_once: int
    ends: int
    transitions: int
    violations: frozenset[str]

    def __str__(self) -> str:
        """Return the figures in a line."""
        return f"{self.states:,} states with {self.keys:,} keys and {self.transitions:,} transitions, {self.at_once:,} left at once, {self.ends} ends"


class _Unreduced:
    """A world explored as it is."""

    def __init__(self, control: Control | None) -> None:
        self.control = control
        self.outcomes: dict[bytes, dict[str, Any]] = {}
        self.seen: set[bytes] = set()
        self.waiting: list[bytes] = []
        self.at_once = 0
        self.transitions = 0
        self.ends: set[bytes] = set()
        self.violations: set[str] = set()

    def add(self, world: World) -> None:
        state = freeze(world)
        if state not in self.seen:
            self.seen.add(state)
            self.waiting.append(state)

    def step(self, world: World, step: str) -> tuple[World | None, Any]:
        """Take a step from a copy; return where it leads to, and what is to be compared of that: a key, a violation, or None."""
        state = freeze(world)
        other = copy(world)
        require(freeze(other) == state, "a copy is another state")
        try:
            if not other.take(step):
                return None, None
            if self.control is None:
                judge_always(other)
        except Violation as violation:
            self.violations.add(str(violation))
            return None, str(violation)
        finally:
            require(freeze(world) == state, f"{step} changes what it isn't taken from")
        return other, key(other)

    def look(self, world: World) -> None:
        """Take every step, and look at each argument."""
        steps = world.steps()
        outcomes: dict[str, Any] = {}
        for step in steps:
            other, outcome = self.step(world, step)
            if outcome is not None:
                outcomes[step] = outcome
            if other is not None:
                self.transitions += 1
                self.add(other)
        if all(step in OPTIONAL for step in outcomes):
            outcomes["rest"] = self.rest(world)
        number = key(world)
        known = self.outcomes.setdefault(number, outcomes)
        require(known == outcomes, f"two states with one key differ: {sorted(known)} and {sorted(outcomes)}")
        if at_once(world, steps) in outcomes:
            self.at_once += 1
            self.exchange(world, steps)

    def rest(self, world: World) -> str:
        self.ends.add(key(world))
        try:
            world.judge_rest()
            if self.control is None:
                judge_leftovers(world)
        except Violation as violation:
            self.violations.add(str(violation))
            return str(violation)
        return ""

    def settle(self, world: World) -> tuple[World | None, Any]:
        """Take what is to be taken at once; return where it leads to, and what is to be compared of that."""
        while first := at_once(world, world.steps()):
            other, outcome = self.step(world, first)
            if outcome is None:
                break
            if other is None:
                return None, outcome
            world = other
        return world, key(world)

    def exchange(self, world: World, steps: list[str]) -> None:
        """Look whether everything that can happen comes to the same behind what is taken at once."""
        settled, there = self.settle(world)
        if settled is None:
            # What is taken at once breaks a promise, which is seen.
            return
        for step in steps:
            other, outcome = self.step(world, step)
            if other is not None:
                _, outcome = self.settle(other)
            if outcome is None or outcome == there:
                continue
            require(step in settled.steps(), f"{step} can't happen any more behind what is taken at once")
            other, behind = self.step(settled, step)
            if other is not None:
                _, behind = self.settle(other)
            require(behind == outcome, f"{step} comes to something else behind what is taken at once")


def compare(case: Case, control: Control | None = None) -> Comparison:
    """Explore a small world as it is; raise `Violation` where what makes it smaller would be wrong."""
    unreduced = _Unreduced(control)
    unreduced.add(World(case, control))
    while unreduced.waiting:
        unreduced.look(thaw(unreduced.waiting.pop()))
    reduced = explore(case) if control is None else find_shortest(case, control)
    wrong = unreduced.violations
    require(
        reduced.violation in wrong if wrong else not reduced.violation, f"{sorted(wrong)} are broken, and {reduced.violation!r} is seen"
    )
    require(reduced.violation or reduced.rests == len(unreduced.ends), f"{len(unreduced.ends)} ends, and {reduced.rests} are seen")
    return Comparison(
        len(unreduced.seen),
        len(unreduced.outcomes),
        unreduced.at_once,
        len(unreduced.ends),
        unreduced.transitions,
        frozenset(unreduced.violations),
    )


def compare_and_tell(case: Case) -> tuple[str, bool]:
    """Compare a small world; return what was seen in a line, and whether all is right."""
    try:
        return f"{case}: {compare(case)}", True
    except Violation as violation:
        return f"{case}: {violation}", False
