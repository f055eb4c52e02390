"""Show what ΩQTT is for: a publisher is killed with SIGKILL again and again, and the subscriber gets every message exactly once.

Uses the broker at localhost:1883 (``--port`` names another), or starts a Mosquitto there and stops it in the end. Publisher and subscriber are the real examples,
``examples/persistent_publisher.py`` and ``examples/subscribe.py``, each in a process of its own. The exit code is 0 if nothing was missing
and nothing came twice.
"""

from __future__ import annotations

import argparse
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
    from collections.abc import Generator

KILLS = 3
# About a thousand messages a second. A Mosquitto with its default settings drops messages for a subscriber that has 1,000 waiting.
INTERVAL_S = 0.001
PATIENCE_S = 60.0


class Child:
    """An example in a process of its own; its lines are read by a thread, so that it never waits for us."""

    def __init__(self, example: str, *arguments: str) -> None:
        command = [sys.executable, "-u", "-m", f"examples.{example}", *arguments]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self._arrived: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

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
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


def say(*words: object) -> None:
    print(*words, flush=True)


@contextlib.contextmanager
def broker(port: int) -> Generator[None]:
    try:
        socket.create_connection(("localhost", port), timeout=2.0).close()
    except OSError:
        pass
    else:
        say(f"Using the broker that answers at localhost:{port}.")
        yield
        return
    with Mosquitto(port=port, unix=False) as mosquitto:
        say(f"Started a Mosquitto at localhost:{port} (process {mosquitto.pid}).")
        yield


def publish_and_kill(messages: int, options: dict[str, str]) -> list[str]:
    """Run the publisher until it has published ``messages``, several times, and kill it each time but the last.

    Returns:
        The texts for which ``publish`` had returned.

    """
    published: list[str] = []
    for run in range(KILLS + 1):
        last = run == KILLS
        # A run that is to be killed has far more to publish than it gets the time for.
        own = {"--prefix": f"run {run} message", "--count": str(messages if last else messages * 1_000)}
        publisher = Child("persistent_publisher", "--fast", *(word for option in {**options, **own}.items() for word in option))
        try:
            lines: list[str] = []
            while not last and len(lines) < messages and (line := publisher.next_line(PATIENCE_S)) is not None:
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
        elif not last and len(lines) >= messages:
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


def demonstrate(port: int, messages: int) -> bool:
    # A broker that isn't ours may have other clients: take names that nobody else has.
    name = f"ohmqtt-demo-{secrets.token_hex(4)}"
    topic = f"{name}/numbers"
    with tempfile.TemporaryDirectory(prefix="ohmqtt-demo-") as folder:
        subscriber = Child("subscribe", "--address", f"localhost:{port}", "--topic", topic)
        try:
            if not (subscriber.next_line(PATIENCE_S) or "").startswith("subscribed"):
                sys.exit("The subscriber didn't start; what it wrote is above.")
            options = {
                "--address": f"localhost:{port}",
                "--database": str(Path(folder) / "demo.db"),
                "--topic": topic,
                "--client-id": name,
                "--session-expiry": "300",
                "--interval": str(INTERVAL_S),
            }
            published = publish_and_kill(messages, options)
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=1883, help="where the broker is, or is to be started, on localhost (default: 1883)")
    parser.add_argument("--messages", type=int, default=500, help="how many messages each run publishes before it is killed (default: 500)")
    arguments = parser.parse_args()
    try:
        with broker(arguments.port):
            good = demonstrate(arguments.port, arguments.messages)
    except MosquittoError as error:
        sys.exit(f"{error}")
    say()
    say("Every message arrived exactly once." if good else "THIS IS WRONG: messages are missing, or came twice.")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
