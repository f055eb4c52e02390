"""Check: ``python -m tests.mutations [--only TEXT] [--seeds N] [--jobs N]``. Ends with 1 if a bug isn't caught by all who have to notice it."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.mutations.check import BUGS, SEEDS, Verdict, check, copy_tree, play, run_tests


def tell(verdict: Verdict) -> None:
    """Print who noticed a bug, and what they said."""
    bug, simulation, tests = verdict
    print(f"{'caught' if verdict.caught else 'NOT CAUGHT'}: {bug.name} ({bug.file})")
    print(f"    stories: {f'{simulation.by}: {simulation.words}' if simulation else '-'}")
    print(f"    tests: {f'{tests.by}: {tests.words}' if tests else '-'}", flush=True)


def table(verdicts: list[Verdict]) -> None:
    """Print a line for each bug."""
    width = max(len(verdict.bug.name) for verdict in verdicts)
    print(f"\n{'bug':{width}} | stories | tests | lesson")
    for bug, simulation, tests in verdicts:
        print(f"{bug.name:{width}} | {simulation.by if simulation else '-':>7} | {tests.by if tests else '-'} | {bug.lesson}")


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description="Put bugs in by hand, and see that each is caught.")
    parser.add_argument("--only", default="", help="only the bugs whose name has this text")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many stories are played with each bug (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many bugs at a time (default: one for each core)")
    arguments = parser.parse_args()
    bugs = [bug for bug in BUGS if arguments.only in bug.name]
    if not bugs:
        parser.error(f"no bug has {arguments.only!r} in its name")
    with tempfile.TemporaryDirectory(prefix="ohmqtt-mutations-") as folder:
        origin = copy_tree(Path(folder) / "unbroken")
        # Who fails without a bug proves nothing by failing with one.
        failed = play(origin, arguments.seeds) or run_tests(origin, sorted({test for bug in bugs for test in bug.tests}))
        if failed:
            print(f"fails without a bug: {failed}")
            return 1
        verdicts = []
        with ThreadPoolExecutor(arguments.jobs) as pool:
            for verdict in pool.map(partial(check, origin=origin, seeds=arguments.seeds), bugs):
                tell(verdict)
                verdicts.append(verdict)
    table(verdicts)
    missed = sum(not verdict.caught for verdict in verdicts)
    print(
        f"\n{len(verdicts)} bugs, {sum(verdict.simulation is not None for verdict in verdicts)} seen by the simulation: {missed} not caught"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
