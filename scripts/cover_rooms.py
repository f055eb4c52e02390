"""Ask for every line and branch of each room of the core from its own test file alone.

What a room promises is then found in one place, and a change of one room can't live on the tests of another. Prints a line for each room;
the exit code is 0 if all are covered. Arguments name rooms (``link``, ``session/inbound``); without any, all of the core is asked for.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "ohmqtt"

# From the bottom of the core to its top. A folder that has one test file is one room.
ROOMS = [
    *("errors", "mqtt_spec", "serialization", "property", "packet", "topic", "topic_alias", "auth", "journal", "records", "link"),
    *(f"session/{name}" for name in ("baskets", "settings", "identity", "policy", "backlog", "outbound", "inbound", "subscriptions")),
    *(f"session/{name}" for name in ("authentication", "receiving", "core")),
]


def cover(room: str) -> tuple[str, bool, str]:
    """Run the tests of one room; return its name, whether it is covered, and what there is to say about it."""
    name = room.replace("/", "_")
    place = f"{SOURCE / room}/*" if (SOURCE / room).is_dir() else f"{SOURCE / room}.py"
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "COVERAGE_FILE": f"{folder}/data"}
        common = [sys.executable, "-m", "coverage"]
        run = [*common, "run", "--branch", f"--data-file={folder}/data", f"--include={place}", "-m", "pytest", "-q", "-m", "not slow"]
        tests = subprocess.run(
            [*run, str(ROOT / "tests" / f"test_{name}.py")], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        if tests.returncode:
            return room, False, tests.stdout + tests.stderr
        subprocess.run([*common, "combine", "-q", f"--data-file={folder}/data", folder], cwd=ROOT, capture_output=True, check=False)
        report = [*common, "report", f"--data-file={folder}/data", f"--include={place}", "--fail-under=100", "--show-missing"]
        result = subprocess.run(report, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        return room, result.returncode == 0, "" if result.returncode == 0 else result.stdout + result.stderr


def main() -> None:
    rooms = sys.argv[1:] or ROOMS
    complete = True
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for room, covered, words in pool.map(cover, rooms):
            print(f"{room}: {'covered by its own tests' if covered else 'NOT COVERED'}", flush=True)
            if words:
                print(words, flush=True)
            complete = complete and covered
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()
