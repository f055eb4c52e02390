"""Explore: ``python -m tests.exploration [quick|pairs|whole] [--jobs N] [--only TEXT]``. Ends with 1 if a promise is broken or a control isn't caught."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from time import perf_counter

from tests.exploration.cases import SETS
from tests.exploration.controls import CONTROLS
from tests.exploration.search import explore_and_tell, find_shortest, retell


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


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.exploration", description="Take every way that a small world can go.")
    parser.add_argument("set", nargs="?", default="whole", choices=sorted(SETS), help="which worlds (default: whole)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many processes (default: one for each core)")
    parser.add_argument("--only", default="", help="only the worlds whose description has this text")
    parser.add_argument("--no-controls", action="store_true", help="leave the negative controls out")
    arguments = parser.parse_args()
    began = perf_counter()
    missed = 0 if arguments.no_controls else check_controls()
    cases = [case for case in SETS[arguments.set] if arguments.only in str(case)]
    print(f"\n{len(cases)} worlds")
    states = transitions = broken = 0
    with multiprocessing.get_context("spawn").Pool(arguments.jobs) as pool:
        for report, story in pool.imap_unordered(explore_and_tell, cases):
            states += report.states
            transitions += report.transitions
            broken += bool(report.violation)
            print(report, flush=True)
            for line in story:
                print(f"    {line}", flush=True)
    took = perf_counter() - began
    print(f"\n{len(cases)} worlds, {states:,} states, {transitions:,} transitions, {took:.0f} s: {broken} broken, {missed} controls missed")
    return 1 if broken or missed else 0


if __name__ == "__main__":
    sys.exit(main())
