"""Breaking a private copy of the tree, and asking the simulation and the tests whether they notice."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.mutations.lost import LOST
from tests.mutations.stuck import STUCK
from tests.mutations.told import TOLD
from tests.mutations.wire import WIRE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.mutations.bug import Bug

__all__ = ["BUGS", "ROOT", "SEEDS", "Noticed", "Verdict", "check", "copy_tree", "play", "run_tests"]

BUGS = (*LOST, *STUCK, *WIRE, *TOLD)

ROOT = Path(__file__).parents[2]

SEEDS = 2_000
"""So many stories are played with each bug, unless one fails before: five seconds."""

ENDLESS_S = 1_800
"""What takes this long hangs, on however busy a machine."""


class Noticed(NamedTuple):
    """What failed: how many stories it took, or which test it was; and its first words."""

    by: str
    words: str


class Verdict(NamedTuple):
    """Who noticed a bug; None: not these."""

    bug: Bug
    simulation: Noticed | None
    tests: Noticed | None

    @property
    def caught(self) -> bool:
        """Whether everybody noticed who has to."""
        return self.tests is not None and (self.simulation is not None or not self.bug.played)


def copy_tree(target: Path, origin: Path = ROOT) -> Path:
    """Copy what the simulation and the tests need to `target`, and return that."""
    for folder in ("src", "tests"):
        shutil.copytree(origin / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(origin / "pyproject.toml", target)
    return target


def check(bug: Bug, origin: Path, seeds: int = SEEDS) -> Verdict:
    """Put `bug` into a copy of `origin`, and return who notices. Raises `ValueError` if its old text isn't there exactly once."""
    with tempfile.TemporaryDirectory(prefix="ohmqtt-mutation-") as folder:
        tree = copy_tree(Path(folder) / "tree", origin)
        path = tree / "src" / "ohmqtt" / bug.file
        text = path.read_text(encoding="utf-8")
        count = text.count(bug.old)
        if count != 1:
            raise ValueError(f"{bug.name!r}: its old text is in {bug.file} {count} times, and must be there once")
        path.write_text(text.replace(bug.old, bug.new), encoding="utf-8")
        return Verdict(bug, play(tree, seeds), run_tests(tree, bug.tests))


def play(tree: Path, seeds: int = SEEDS) -> Noticed | None:
    """Play the first stories of the simulation with the source in `tree`; return what failed."""
    done = _run(tree, "tests.simulation", "--start", "0", "--seeds", str(seeds), "--whole")
    if isinstance(done, Noticed):
        return done
    failed = re.search(r"^seed (\d+): (.*)", done.stdout, re.MULTILINE)
    if done.returncode not in (0, 1) or bool(done.returncode) != bool(failed):
        raise RuntimeError(f"the simulation doesn't run: {done.stdout[-2_000:]}{done.stderr}")
    return Noticed(f"{int(failed[1]) + 1:,}", failed[2]) if failed else None


def run_tests(tree: Path, tests: Sequence[str]) -> Noticed | None:
    """Run tests with the source in `tree`; return which failed first, and why."""
    done = _run(tree, "pytest", "-x", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", *tests)
    if isinstance(done, Noticed):
        return done
    failed = re.search(r"^FAILED \S*::(test_\w+)(?:.*? - )?(.*)", done.stdout, re.MULTILINE)
    if done.returncode not in (0, 1) or bool(done.returncode) != bool(failed):
        raise RuntimeError(f"the tests don't run: {done.stdout[-2_000:]}{done.stderr}")
    return Noticed(failed[1], failed[2]) if failed else None


def _run(tree: Path, module: str, *arguments: str) -> subprocess.CompletedProcess[str] | Noticed:
    """Run a module with the source in `tree`."""
    # What the caller's own pytest or coverage has set is not for this one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV", "OHMQTT"))}
    environment.update(PYTHONPATH=str(tree / "src"), COLUMNS="240")
    command = [sys.executable, "-m", module, *arguments]
    try:
        return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=ENDLESS_S, check=False)
    except subprocess.TimeoutExpired:
        return Noticed("-", f"{module} didn't end within {ENDLESS_S} s")
