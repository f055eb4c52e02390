"""Every way that a world can go: steps are taken from copies of it, and no state is looked at twice.

What counts as the same state, and which steps need not wait for a choice, is `tests.exploration.reduction`'s business.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

from tests.exploration.broker import Violation, require
from tests.exploration.copies import copy
from tests.exploration.reduction import at_once, key
from tests.exploration.soundness import judge_always, judge_leftovers
from tests.exploration.world import OPTIONAL, Case, World

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.exploration.controls import Control

__all__ = ["Report", "explore", "explore_and_tell", "find_shortest", "retell"]


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

    __slots__ = ("before", "key", "resting", "steps", "taken", "world")

    def __init__(self, world: World, steps: list[str], before: _Node | None = None, taken: tuple[str, ...] = ()) -> None:
        self.world = world
        self.key = key(world)
        self.before = before
        self.taken = taken
        # What need not happen comes last: before it, it is known whether anything has to.
        self.steps = sorted(steps, key=OPTIONAL.__contains__)
        self.resting = True

    def story(self) -> list[str]:
        parts: list[tuple[str, ...]] = []
        node: _Node | None = self
        while node is not None:
            parts.append(node.taken)
            node = node.before
        return [step for part in reversed(parts) for step in part]


class _Search:
    """What one exploration has seen so far, and what it judges."""

    def __init__(self, case: Case, control: Control | None, inside: bool) -> None:
        self.report = Report(case)
        self.inside = inside
        # The steps from the last node to where we are: a violation's story ends with them.
        self.taken: list[str] = []
        world = World(case, control)
        self.first = _Node(world, self._settle(world), None, tuple(self.taken))
        self.seen = {self.first.key}

    def _take(self, world: World, step: str) -> bool:
        self.taken.append(step)
        if not world.take(step):
            self.taken.pop()
            return False
        self.report.transitions += 1
        if self.inside:
            judge_always(world)
        return True

    def _settle(self, world: World) -> list[str]:
        """Take what is to be taken at once, and return what can happen then."""
        steps = world.steps()
        while step := at_once(world, steps):
            if not self._take(world, step):
                return [other for other in steps if other != step]
            steps = world.steps()
        return steps

    def after(self, node: _Node) -> Iterator[_Node]:
        """Yield what each step of a node leads to; and judge the node if nothing has to happen in it."""
        rests = False
        while node.steps:
            step = node.steps.pop(0)
            self.taken = []
            if step in OPTIONAL and not rests:
                rests = self._rests(node)
            # Whoever comes last may have the world itself.
            world = copy(node.world) if node.steps or (node.resting and not rests) else node.world
            if not self._take(world, step):
                continue
            node.resting &= step in OPTIONAL
            yield _Node(world, self._settle(world), node, tuple(self.taken))
        self.taken = []
        if not rests:
            self._rests(node)

    def _rests(self, node: _Node) -> bool:
        if node.resting:
            self.report.rests += 1
            node.world.judge_rest()
            if self.inside:
                judge_leftovers(node.world)
        return node.resting


def explore(case: Case) -> Report:
    """Take every step in every state, depth first, and judge all there is; stop at the first violation, and look for its shortest story."""
    began = perf_counter()
    search = _Search(case, None, inside=True)
    seen = search.seen
    node = search.first
    path = [(node, search.after(node))]
    on_path = {node.key}
    try:
        while path:
            node, ways = path[-1]
            found = next(ways, None)
            if found is None:
                path.pop()
                on_path.discard(node.key)
            elif found.key not in seen:
                seen.add(found.key)
                on_path.add(found.key)
                path.append((found, search.after(found)))
            else:
                require(found.key not in on_path, "this goes round in circles")
    except Violation as violation:
        search.report.violation = str(violation)
        search.report.story = [*node.story(), *search.taken]
    search.report.states = len(seen)
    search.report.seconds = perf_counter() - began
    return search.report


def find_shortest(case: Case, control: Control | None = None) -> Report:
    """Take every step in every state, breadth first, until a promise to the user or the server is broken: that is the shortest story."""
    began = perf_counter()
    search = _Search(case, control, inside=False)
    waiting = deque([search.first])
    node = search.first
    try:
        while waiting:
            node = waiting.popleft()
            for found in search.after(node):
                if found.key not in search.seen:
                    search.seen.add(found.key)
                    waiting.append(found)
            del node.world
    except Violation as violation:
        search.report.violation = str(violation)
        search.report.story = [*node.story(), *search.taken]
    search.report.states = len(search.seen)
    search.report.seconds = perf_counter() - began
    return search.report


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
