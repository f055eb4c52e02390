"""The publisher's process, seen from its parent: started, told something, heard, killed, waited for."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["PUBLISHER", "Begin", "Child", "Publisher"]

PUBLISHER = (sys.executable, "-m", "ohmqtt", "demo", "--publisher")


class Publisher(Protocol):
    """What the story does with a publisher."""

    name: str
    """Such as ``process 4711``."""

    def tell(self, line: str) -> None:
        """Send a line, to no effect if nobody is there any more."""
        ...

    def ended(self) -> bool:
        """Return whether it has ended, and everything that it said was heard."""
        ...

    def wait(self) -> int:
        """Close its input, wait for its end, and return its exit code."""
        ...

    def kill(self) -> None:
        """Kill it without a warning, and hear what it has said until then. Does nothing to one that has ended."""
        ...


class Begin(Protocol):
    """How a publisher is started."""

    def __call__(self, hear: Callable[[str], object], /) -> Publisher:
        """Start it. What it says is handed to `hear`, line by line, on another thread."""
        ...


class Child:
    """A process whose output is heard line by line, on a thread, so that it never waits for us.

    :param hear: Is called with each whole line. What was cut by the end of the process is left out.
    """

    def __init__(self, hear: Callable[[str], object], command: Sequence[str] = PUBLISHER) -> None:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, encoding="utf-8")  # noqa: S603  # our own Python
        self._hear = hear
        self._ear = threading.Thread(target=self._listen, name="ear", daemon=True)
        self._ear.start()
        self.name = f"process {self._process.pid}"

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            for line in lines:
                if line.endswith("\n"):
                    self._hear(line.rstrip())

    def tell(self, line: str) -> None:
        """Send a line, to no effect if nobody is there any more."""
        assert self._process.stdin is not None
        # Its end of the pipe may be closed, and so may ours.
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def ended(self) -> bool:
        """Return whether it has ended, and everything that it said was heard."""
        return not self._ear.is_alive() and self._process.poll() is not None

    def wait(self) -> int:
        """Close its input, wait for its end, and return its exit code."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._ear.join()
        return self._process.wait()

    def kill(self) -> None:
        """Kill it without a warning (SIGKILL, TerminateProcess), and hear what it has said until then. It may have ended already."""
        self._process.kill()
        self.wait()
