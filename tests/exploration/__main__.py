"""Explore: ``python -m tests.exploration [quick|pairs|triples|whole]``. Ends with 1 if a promise is broken or a control isn't caught."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from hashlib import blake2b
from pathlib import Path
from time import perf_counter

import ohmqtt
from tests.exploration.cases import SETS
from tests.exploration.controls import CONTROLS
from tests.exploration.equivalence import compare_and_tell
from tests.exploration.search import explore_and_tell, find_shortest, retell
from tests.exploration.world import Case


def check_controls() -> int:
    """Let each control break its rule, and tell how it is caught. Return how many are not."""
    missed = 0
    for control in CONTROLS:
        report = find_shortest(control.case, control)
        missed += not report.violation
        print(f"\n{'caught' if report.violation else 'NOT CAUGHT'}: {control.name} ({control.case}; {report.states:,} states)")
        for line in retell(report, control):
            print(f"    {line}")
    return missed


def fingerprint() -> str:
    """Return what tells this code from any other: what was explored with another one counts for nothing."""
    assert ohmqtt.__file__ is not None
    digest = blake2b(digest_size=6)
    for folder in (Path(ohmqtt.__file__).parent, Path(__file__).parent):
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


class Results:
    """A file with a line for each world that was explored, so that a run that was interrupted goes on where it stopped."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.code = fingerprint()
        lines = path.read_text().splitlines() if path is not None and path.exists() else []
        self.clean = {line.split(" ", 1)[1].split(": ")[0] for line in lines if line.startswith(self.code) and line.count(": ") == 1}

    def add(self, line: str) -> None:
        """Print a line, and keep it."""
        print(line, flush=True)
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(f"{self.code} {line}\n")


def explore_all(cases: list[Case], jobs: int, minutes: float, results: Results) -> tuple[int, int]:
    """Explore worlds, until the time is up. Return how many were broken, and how many were not begun or not finished."""
    began = perf_counter()
    states = transitions = broken = done = 0
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        found = pool.imap_unordered(explore_and_tell, cases)
        for _ in cases:
            try:
                report, story = found.next(max(0.0, began + minutes * 60 - perf_counter()) if minutes else None)
            except multiprocessing.TimeoutError:
                break
            done += 1
            states += report.states
            transitions += report.transitions
            broken += bool(report.violation)
            results.add(str(report))
            for line in story:
                print(f"    {line}", flush=True)
    took = perf_counter() - began
    print(f"\n{done} of {len(cases)} worlds, {states:,} states, {transitions:,} transitions, {took:.0f} s: {broken} broken")
    return broken, len(cases) - done


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.exploration", description="Take every way that a small world can go.")
    parser.add_argument("set", nargs="?", default="whole", choices=sorted(SETS), help="which worlds (default: whole)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many processes (default: one for each core)")
    parser.add_argument("--only", default="", help="only the worlds whose description has this text")
    parser.add_argument("--minutes", type=float, default=0, help="stop after so many minutes (default: when all is done)")
    parser.add_argument("--results", type=Path, help="a file that remembers the worlds that are done: the next run leaves them out")
    parser.add_argument("--no-controls", action="store_true", help="leave the negative controls out")
    parser.add_argument("--check", action="store_true", help="look whether what makes the worlds small is right, in each state of them")
    arguments = parser.parse_args()
    cases = [case for case in SETS[arguments.set] if arguments.only in str(case)]
    if not cases:
        parser.error(f"no world of {arguments.set!r} has {arguments.only!r} in its description")
    if arguments.check:
        with multiprocessing.get_context("spawn").Pool(arguments.jobs) as pool:
            wrong = 0
            for line, right in pool.imap_unordered(compare_and_tell, cases):
                wrong += not right
                print(line, flush=True)
        print(f"\n{len(cases)} worlds, {wrong} in which something is wrong with what makes them small")
        return 1 if wrong else 0
    missed = 0 if arguments.no_controls else check_controls()
    results = Results(arguments.results)
    rest = [case for case in cases if str(case) not in results.clean]
    print(f"\n{len(rest)} worlds" + (f", {len(cases) - len(rest)} more are done" if len(rest) < len(cases) else ""), flush=True)
    broken, left = explore_all(rest, arguments.jobs, arguments.minutes, results)
    if missed or left:
        print(f"{missed} controls missed, {left} worlds are left")
    return 1 if broken or missed else 0


if __name__ == "__main__":
    sys.exit(main())
