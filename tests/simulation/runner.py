"""Running stories: many of them with a report, in one process or several, or one with its words."""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import random
import signal
import sys
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import closing, contextmanager
from itertools import islice
from threading import Event
from typing import TYPE_CHECKING

from tests.simulation.play import play
from tests.simulation.story import make_story, shrink

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

__all__ = ["Report", "explain", "main", "run"]

# So many stories are played in one go, in less than a second: between two of them it is looked whether to go on.
CHUNK_SEEDS = 200
FRESH_SEEDS_MAX = 1_000_000_000
# As many as there is time for.
ENDLESS_SEEDS = 1_000_000_000_000
PROGRESS_S = 10.0


class Report:
    """What many stories came to."""

    def __init__(self) -> None:
        self.seeds = 0
        self.steps = 0
        self.seconds = 0.0
        self.events: Counter[str] = Counter()
        self.stories_with: Counter[str] = Counter()
        # By seed, what was wrong.
        self.failures: dict[int, str] = {}

    def add(self, other: Report) -> None:
        """Take over what other stories came to."""
        self.seeds += other.seeds
        self.steps += other.steps
        self.events.update(other.events)
        self.stories_with.update(other.stories_with)
        self.failures.update(other.failures)

    def summary(self) -> str:
        """Return how many stories there were, in a line."""
        rate = self.seeds / self.seconds if self.seconds else 0.0
        failed = f"{len(self.failures)} failed" + "".join(f" {seed}" for seed in sorted(self.failures)[:10])
        return f"{self.seeds:,} seeds, {self.steps:,} steps in {self.seconds:.1f} s: {rate:,.0f} seeds/s; {failed}"

    def tell(self) -> str:
        """Return all of it, except what was wrong."""
        lines = [f"{count:>12,} in {self.stories_with[event]:>10,} stories: {event}" for event, count in sorted(self.events.items())]
        return "\n".join([self.summary(), *lines])


def play_seeds(seeds: range) -> Report:
    """Play the stories of `seeds` in this process."""
    report = Report()
    # Stories are full of cycles; to look for them now and then is enough.
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
                report.failures[seed] = f"{type(failure).__name__}: {failure}"
    finally:
        gc.enable()
    return report


def run(
    seeds: range,
    jobs: int = 1,
    failures_max: int = 1,
    is_over: Callable[[], bool] = lambda: False,
    progress: Callable[[Report], None] = lambda _: None,
) -> Report:
    """Play the stories of `seeds` in so many processes, until so many have failed or `is_over`. `progress` hears of it now and then."""
    report = Report()
    started = told = time.monotonic()
    chunks = (seeds[first : first + CHUNK_SEEDS] for first in range(0, len(seeds), CHUNK_SEEDS))
    with closing((play_seeds(chunk) for chunk in chunks) if jobs == 1 else _play_in_processes(chunks, jobs)) as parts:
        for part in parts:
            report.add(part)
            now = time.monotonic()
            report.seconds = now - started
            if now >= told + PROGRESS_S:
                told = now
                progress(report)
            if len(report.failures) >= failures_max or is_over():
                break
    return report


def _play_in_processes(chunks: Iterator[range], jobs: int) -> Generator[Report, None, None]:
    """Play the stories of `chunks` in several processes; their reports come as they are ready."""
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), _ignore_interrupts) as pool:
        try:
            running = {pool.submit(play_seeds, chunk) for chunk in islice(chunks, 2 * jobs)}
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                running |= {pool.submit(play_seeds, chunk) for chunk in islice(chunks, len(done))}
                yield from [future.result() for future in done]
        finally:
            pool.shutdown(cancel_futures=True)


def _ignore_interrupts() -> None:
    """Ctrl-C is heard by every process of the terminal, and only the first is to do something about it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _interrupts_noted() -> Generator[Event, None, None]:
    """Note Ctrl-C in an event: as an exception it would be one more thing that goes wrong in a story."""
    noted = Event()
    before = signal.signal(signal.SIGINT, lambda *_: noted.set())
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def explain(seed: int, shrinks: bool = True) -> str:
    """Return what goes wrong in the story of `seed`, in words."""
    story = make_story(seed)
    failure = play(story)[1]
    lines = [f"seed {seed}: {type(failure).__name__}: {failure}"]
    if failure is not None and shrinks:
        kind = _kind(failure)
        story = shrink(story, lambda candidate: _kind(play(candidate)[1]) == kind)
        lines.append(f"The shortest story that ends like this ({play(story)[1]}):")
    return "\n".join([*lines, story.tell(), f"python -m tests.simulation --seed {seed}"])


def _kind(failure: BaseException | None) -> str:
    """Return in which way a story fails: the first words without figures."""
    words = "".join(character for character in str(failure) if not character.isdigit())
    return f"{type(failure).__name__} {words[:40]}"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _say_how_far(report: Report) -> None:
    sys.stderr.write(report.summary() + "\n")
    sys.stderr.flush()


def _tell_one(seed: int, shrinks: bool) -> int:
    story = make_story(seed)
    events, failure = play(story)
    _say(story.tell() if failure is None else explain(seed, shrinks))
    _say("\n".join(f"{count:>6} {event}" for event, count in sorted(events.items())))
    return int(failure is not None)


def main(arguments: list[str] | None = None) -> int:
    """Run stories from the command line; return 1 if one failed, and 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Deterministic simulation of the client.")
    parser.add_argument("--seeds", type=int, default=2_000, help="how many stories")
    parser.add_argument("--start", type=int, help="the first seed; otherwise a random one, which is printed")
    parser.add_argument("--minutes", type=float, help="as many stories as there is time for")
    parser.add_argument("--jobs", type=int, default=1, help="in so many processes; 0: one for each core")
    parser.add_argument("--failures", type=int, default=1, help="stop after so many")
    parser.add_argument("--progress", action="store_true", help="say how far it is each 10 s, although stderr is no terminal")
    parser.add_argument("--seed", type=int, help="one story, told in words")
    parser.add_argument("--whole", action="store_true", help="don't shrink")
    options = parser.parse_args(arguments)
    if options.seed is not None:
        return _tell_one(options.seed, not options.whole)
    start: int = random.SystemRandom().randrange(FRESH_SEEDS_MAX) if options.start is None else options.start
    count = options.seeds if options.minutes is None else ENDLESS_SEEDS
    end_at = float("inf") if options.minutes is None else time.monotonic() + 60 * options.minutes
    speaks = options.progress or sys.stderr.isatty()
    _say(f"The first seed is {start} (--start {start}).")
    with _interrupts_noted() as interrupted:
        report = run(
            range(start, start + count),
            options.jobs or os.cpu_count() or 1,
            options.failures,
            lambda: interrupted.is_set() or time.monotonic() >= end_at,
            _say_how_far if speaks else lambda _: None,
        )
    _say(report.tell())
    for number, (seed, failure) in enumerate(sorted(report.failures.items())):
        # Shrinking takes seconds; many that fail at once fail for the same reason.
        _say(explain(seed, not options.whole) if len(report.failures) < 4 or not number else f"seed {seed}: {failure}")
    return 130 if interrupted.is_set() else int(bool(report.failures))
