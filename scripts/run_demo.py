"""Show what ΩQTT is for: a publisher is killed with SIGKILL again and again, and the subscriber gets every message exactly once.

Uses the broker at localhost:1883, or starts a Mosquitto there and stops it in the end. Publisher and subscriber are the real examples,
``examples/persistent_publisher.py`` and ``examples/subscribe.py``, each in a process of its own. The exit code is 0 if nothing was missing
and nothing came twice.
"""

from __future__ import annotations

import collections
import contextlib
import queue
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.mosquitto import Mosquitto, MosquittoError  # noqa: E402 (the checkout isn't on the path before)

if TYPE_CHECKING:
    from collections.abc import Iterator

PORT = 1883
KILLS = 3
MESSAGES_BEFORE_KILL = 500
MESSAGES_IN_THE_END = 500
# About a thousand messages a second. A Mosquitto with its default settings drops messages for a subscriber that has 1,000 waiting.
INTERVAL_S = 0.001
PATIENCE_S = 60.0


class Child:
    """An example in a process of its own; its lines are read by a thread, so that it never waits for us."""

    def __init__(self, example: str, *arguments: str) -> None:
        command = [sys.executable, "-u", str(ROOT / "examples" / example), *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self._arrived: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._ended = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._arrived.put(line.rstrip("\n"))
        self._arrived.put(None)

    def next_line(self, timeout_s: float) -> str | None:
        """Return the next line of its output; None at the end, or when the time is over."""
        if self._ended:
            return None
        try:
            line = self._arrived.get(timeout=max(timeout_s, 0.0))
        except queue.Empty:
            return None
        self._ended = line is None
        return line

    def rest(self) -> list[str]:
        """Wait for the end of its output and return what is left of it."""
        lines: list[str] = []
        while (line := self.next_line(PATIENCE_S)) is not None:
            lines.append(line)
        return lines

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE_S)


def say(*words: object) -> None:
    print(*words, flush=True)


@contextlib.contextmanager
def broker() -> Iterator[None]:
    try:
        socket.create_connection(("localhost", PORT), timeout=2.0).close()
    except OSError:
        pass
    else:
        say(f"Using the broker that answers at localhost:{PORT}.")
        yield
        return
    with Mosquitto(port=PORT, unix=False) as mosquitto:
        say(f"Started a Mosquitto at localhost:{PORT} (process {mosquitto.pid}).")
        yield


def publish_and_kill(database: Path, topic: str, name: str) -> list[str]:
    """Run the publisher until it has published for a while, several times, and kill it each time but the last.

    Returns:
        The texts for which ``publish`` had returned.

    """
    published: list[str] = []
    for run in range(KILLS + 1):
        last = run == KILLS
        options = {
            "--database": str(database),
            "--topic": topic,
            "--client-id": name,
            "--session-expiry": "300",
            "--prefix": f"run {run} message",
            "--count": str(MESSAGES_IN_THE_END if last else MESSAGES_BEFORE_KILL * 100),
            "--interval": str(INTERVAL_S),
        }
        publisher = Child("persistent_publisher.py", "--fast", *(word for option in options.items() for word in option))
        try:
            lines: list[str] = []
            while not last and len(lines) < MESSAGES_BEFORE_KILL and (line := publisher.next_line(PATIENCE_S)) is not None:
                lines.append(line)
            if not last:
                publisher.process.kill()
            lines += publisher.rest()
            code = publisher.process.wait(PATIENCE_S)
        finally:
            publisher.close()
        published += lines
        if last and code == 0:
            say(f"  publisher, run {run + 1}: published {len(lines):,} messages and ended by itself")
        elif not last and len(lines) >= MESSAGES_BEFORE_KILL:
            say(f"  publisher, run {run + 1}: published {len(lines):,} messages, then killed with SIGKILL")
        else:
            sys.exit(f"The publisher ended by itself with code {code}; what it wrote is above.")
    return published


def receive(subscriber: Child, topic: str, expected: set[str]) -> collections.Counter[str]:
    """Count what the subscriber has got, until it has all and nothing more comes, or patience ends."""
    received: collections.Counter[str] = collections.Counter()
    deadline = time.monotonic() + PATIENCE_S
    missing = set(expected)
    while True:
        # A second of silence in the end, for what would come twice.
        line = subscriber.next_line(deadline - time.monotonic() if missing else 1.0)
        if line is None:
            return received
        text = line.removeprefix(f"{topic} ")
        received[text] += 1
        missing.discard(text)


def demonstrate() -> bool:
    # A broker that isn't ours may have other clients: take names that nobody else has.
    name = f"ohmqtt-demo-{secrets.token_hex(4)}"
    topic = f"{name}/numbers"
    with tempfile.TemporaryDirectory(prefix="ohmqtt-demo-") as folder:
        subscriber = Child("subscribe.py", "--topic", topic)
        try:
            if (subscriber.next_line(PATIENCE_S) or "").startswith("subscribed") is False:
                sys.exit("The subscriber didn't start; what it wrote is above.")
            published = publish_and_kill(Path(folder) / "demo.db", topic, name)
            received = receive(subscriber, topic, set(published))
            if sys.platform != "win32":
                subscriber.process.send_signal(signal.SIGINT)
                subscriber.rest()
        finally:
            subscriber.close()
    # A kill can fall between the moment when a message is safe and the line that says so: such a message was published as well.
    unsaid = len(received.keys() - set(published))
    missing = len(set(published) - received.keys())
    duplicates = received.total() - len(received)
    say()
    say(f"published  {len(published) + unsaid:,}" + (f"  ({unsaid} of them in the instant of a kill)" if unsaid else ""))
    say(f"received   {received.total():,}")
    say(f"missing    {missing:,}")
    say(f"duplicates {duplicates:,}")
    return missing == 0 and duplicates == 0


def main() -> None:
    try:
        with broker():
            good = demonstrate()
    except MosquittoError as error:
        sys.exit(f"{error}")
    say()
    say("Every message arrived exactly once." if good else "THIS IS WRONG: messages are missing, or came twice.")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
