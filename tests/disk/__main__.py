"""Run for as long as one likes: ``python -m tests.disk --images 1000000 --seed 1``. Ends with the figures; a broken promise ends it at once."""

from __future__ import annotations

import argparse
import secrets
import sys

from tests.disk.lives import Found
from tests.disk.soak import Tally, soak
from tests.disk.tracer import CAN_TRACE


def main() -> int:
    """Run the soak for one seed after the other; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.disk", description="Cut the power at every system call of the store, for many seeds."
    )
    parser.add_argument("--images", type=int, default=100_000, help="how many images are looked at, at least (%(default)s)")
    parser.add_argument("--seed", type=int, default=secrets.randbits(32), help="the first seed; the others follow it")
    parser.add_argument("--lives", type=int, default=4, help="how many lives a disk has, with a power cut between any two (%(default)s)")
    parser.add_argument("--random", type=int, default=3, help="how many random subsets of what is unsynced are looked at (%(default)s)")
    options = parser.parse_args()
    if not CAN_TRACE:
        sys.stdout.write("This needs Linux, on x86_64 or aarch64.\n")
        return 2
    tally = Tally()
    seed = options.seed
    while tally.counts["images"] < options.images:
        try:
            soak(seed, options.lives, options.random, tally)
        except Found as error:
            again = f"--images 1 --seed {seed} --lives {options.lives} --random {options.random}"
            sys.stdout.write(f"{error}\n{tally}\nagain with: python -m tests.disk {again}\n")
            return 1
        seed += 1
        sys.stdout.write(f"seeds {options.seed} to {seed - 1}: {tally}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
