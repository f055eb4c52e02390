"""Running stories: many of them with a report, or one with its words."""

from __future__ import annotations

import argparse
import gc
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

from tests.simulation.play import play
from tests.simulation.story import Story, make_story, shrink

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Report", "main", "run_seeds"]

COLLECT_EACH = 200


class Report:
    """What many stories came to."""

    def __init__(self) -> None:
        self.seeds = 0
        self.steps = 0
        self.seconds = 0.0
        self.events: Counter[str] = Counter()
        self.stories_with: Counter[str] = Counter()
        self.failures: list[tuple[int, Exception]] = []

    def tell(self) -> str:
        rate = self.seeds / self.seconds if self.seconds else 0.0
        lines = [f"{self.seeds:,} seeds, {self.steps:,} steps in {self.seconds:.1f} s: {rate:,.0f} seeds/s; {len(self.failures)} failed"]
        lines += [f"{count:>12,} in {self.stories_with[event]:>10,} stories: {event}" for event, count in sorted(self.events.items())]
        return "\n".join(lines)


def run_seeds(seeds: Iterable[int], failures_max: int = 1, until: float | None = None) -> Report:
    """Play the stories of `seeds`, until so many have failed or the monotonic clock says `until`."""
    report = Report()
    started = time.monotonic()
    gc.collect()
    gc.disable()
    try:
        for seed in seeds:
            story = make_story(seed)
            events, failure = play(story)
            report.seeds += 1
            report.steps += len(story.steps)
            report.events.update(events)
            report.stories_with.update(events.keys())
            if failure is not None:
                report.failures.append((seed, failure))
                if len(report.failures) >= failures_max:
                    break
            if report.seeds % COLLECT_EACH == 0:
                gc.collect()
                if until is not None and time.monotonic() >= until:
                    break
    finally:
        gc.enable()
    report.seconds = time.monotonic() - started
    return report


def explain(seed: int, failure: Exception, shrinks: bool) -> str:
    """Return what went wrong in the story of `seed`, in words."""
    story = make_story(seed)
    lines = [f"seed {seed}: {type(failure).__name__}: {failure}"]
    if shrinks:
        story = shrink(story, lambda candidate: _same(play(candidate)[1], failure))
        lines.append(f"The shortest story that ends like this ({play(story)[1]}):")
    return "\n".join([*lines, story.tell(), f"python -m tests.simulation --seed {seed}"])


def _same(failure: Exception | None, wanted: Exception) -> bool:
    """Return whether a shorter story fails in the same way: by its first words without figures."""
    return failure is not None and _kind(failure) == _kind(wanted)


def _kind(failure: Exception) -> str:
    words = "".join(character for character in str(failure) if not character.isdigit())
    return f"{type(failure).__name__} {words[:40]}"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def main(arguments: list[str] | None = None) -> int:
    """Run stories from the command line; return 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Deterministic simulation of the client.")
    parser.add_argument("--seeds", type=int, default=2_000, help="how many stories")
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--minutes", type=float, help="as many stories as there is time for")
    parser.add_argument("--seed", type=int, help="one story, told in words")
    parser.add_argument("--whole", action="store_true", help="don't shrink")
    parser.add_argument("--failures", type=int, default=1, help="stop after so many")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        story: Story = make_story(options.seed)
        events, failure = play(story)
        _say(story.tell() if failure is None else explain(options.seed, failure, not options.whole))
        _say("\n".join(f"{count:>6} {event}" for event, count in sorted(events.items())))
        return int(failure is not None)
    until = None if options.minutes is None else time.monotonic() + 60 * options.minutes
    count = options.seeds if until is None else sys.maxsize - options.start
    report = run_seeds(range(options.start, options.start + count), options.failures, until)
    _say(report.tell())
    for seed, failure in report.failures:
        _say(explain(seed, failure, not options.whole) if len(report.failures) < 4 else f"seed {seed}: {failure}")
    return int(bool(report.failures))
