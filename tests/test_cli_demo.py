"""The demonstration as a whole: quickly, with a publisher in this process, and as a user starts it, with processes that are killed."""

from __future__ import annotations

import argparse
import json
import queue
import random
import secrets
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from ohmqtt import Client, __version__
from ohmqtt.cli import main
from ohmqtt.cli.demo import run
from ohmqtt.cli.demo.child import Child
from ohmqtt.cli.demo.publisher import Task, publish
from ohmqtt.cli.demo.story import PATIENCE_S
from ohmqtt.cli.demo.tally import Tally
from tests.broker_tools import Seen, collect_messages, connected_client, unused
from tests.durable_tools import Call
from tests.mosquitto import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from ohmqtt.cli.demo.child import Begin
    from tests.mosquitto import Mosquitto


class ThreadPublisher:
    """The publisher on a thread of this process. It can't be killed as a process can; it leaves everything undone at once."""

    name = "thread 1"

    def __init__(self, hear: Callable[[str], object]) -> None:
        self._orders: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._call = Call(publish, iter(self._orders.get, None), hear)

    def tell(self, line: str) -> None:
        self._orders.put(line)

    def ended(self) -> bool:
        return not self._call.is_alive()

    def wait(self) -> int:
        self._orders.put(None)
        code: int = self._call.result()
        return code

    def kill(self) -> None:
        self.wait()


Tell = Callable[..., tuple[int, str]]


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """A function that tells the story in a moment, and returns the exit code and what was printed."""

    def tell(begin: Begin = ThreadPublisher, *, patience_s: float = PATIENCE_S, silence_s: float = 0.02) -> tuple[int, str]:
        arguments = argparse.Namespace(address=None, seconds=0.05, db_fast=True, plain=True)
        code = run(arguments, begin, patience_s=patience_s, silence_s=silence_s)
        return code, capsys.readouterr().out

    return tell


def figure(printed: str, name: str) -> int:
    """Return a figure of the table."""
    (line,) = [line for line in printed.splitlines() if line.strip().startswith(f"{name} ")]
    return int(line.split()[-1].replace(",", ""))


def test_everything_that_is_sent_arrives_once(tell: Tell) -> None:
    code, printed = tell()
    assert code == 0, printed
    assert figure(printed, "sent") == figure(printed, "delivered") >= 80
    assert figure(printed, "lost") == figure(printed, "duplicated") == 0
    # The second and the third publisher, and for each outage the subscriber, and for the first one the publisher.
    assert figure(printed, "reconnects") == 5
    assert printed.count("PUBLISHER KILLED") == printed.count("BROKER STOPPED") == printed.count("BROKER STARTED AGAIN") == 2
    assert printed.endswith("Every message arrived exactly once.\n")


class Boaster(ThreadPublisher):
    """Says that it has published a message which nobody has seen."""

    def __init__(self, hear: Callable[[str], object]) -> None:
        super().__init__(hear)
        hear("1000000")


@pytest.mark.slow
def test_a_lost_message_shows_and_is_no_success(tell: Tell) -> None:
    code, printed = tell(Boaster, patience_s=5.0)
    assert code == 1
    # All three publishers boast.
    assert (figure(printed, "lost"), figure(printed, "duplicated")) == (3, 0)
    assert "THIS IS WRONG" in printed


class Helped(ThreadPublisher):
    """Has somebody who publishes a number in its place."""

    def tell(self, line: str) -> None:
        if line.startswith("{"):
            self._task = json.loads(line)
        super().tell(line)

    def publish_behind_our_back(self, payload: str) -> None:
        with Client() as client:
            client.connect(self._task["address"])
            client.publish(self._task["topic"], payload, qos=2).wait_for_ack(PATIENCE_S)


class Stutterer(Helped):
    """Publishes its first message twice."""

    def tell(self, line: str) -> None:
        super().tell(line)
        if line == "end":
            self.publish_behind_our_back("1")


class Late(Helped):
    """Publishes its last message when it has ended already."""

    def __init__(self, hear: Callable[[str], object]) -> None:
        super().__init__(hear)
        self._hear = hear

    def wait(self) -> int:
        code = super().wait()
        if code == 0:
            self._hear("1000000")
            Call(self.publish_behind_our_back, "1000000")
        return code


def test_the_last_message_is_waited_for(tell: Tell) -> None:
    code, printed = tell(Late)
    assert code == 0, printed


@pytest.mark.slow
def test_a_doubled_message_shows_and_is_no_success(tell: Tell) -> None:
    code, printed = tell(Stutterer, silence_s=1.0)
    assert code == 1
    assert figure(printed, "lost") == 0
    assert figure(printed, "duplicated") == 1
    assert "THIS IS WRONG" in printed


class Failing(ThreadPublisher):
    """Fails as it is told to: before its task, or at the end."""

    def __init__(self, hear: Callable[[str], object], after: str, words: str | None) -> None:
        super().__init__(hear)
        self._hear = hear
        self._after = after
        self._words = words

    def tell(self, line: str) -> None:
        if line.startswith(self._after):
            if self._words:
                self._hear(f"failed {self._words}")
            self._orders.put(None)
        else:
            super().tell(line)


@pytest.mark.parametrize(
    ("after", "words", "verdict"),
    [
        ("{", "the disk is full", "The publisher gave up. the disk is full"),
        ("{", None, "The publisher gave up."),
        ("end", "not authorized", "The publisher ended with code 1. not authorized"),
    ],
)
def test_a_publisher_that_gives_up_ends_the_story_and_says_why(tell: Tell, after: str, words: str | None, verdict: str) -> None:
    code, printed = tell(lambda hear: Failing(hear, after, words))
    assert code == 1
    assert printed.endswith(f"{verdict}\n")


class Deaf(ThreadPublisher):
    """Waits for its task for ever."""

    def tell(self, line: str) -> None:
        pass


def test_a_story_in_which_nothing_moves_any_more_ends(tell: Tell) -> None:
    code, printed = tell(Deaf, patience_s=0.05)
    assert code == 1
    assert printed.endswith("Nothing has moved for 0.05 s.\n")


class Interrupted(ThreadPublisher):
    """Is there when somebody presses Ctrl-C."""

    def ended(self) -> bool:
        raise KeyboardInterrupt


def test_ctrl_c_ends_the_story(tell: Tell) -> None:
    assert tell(Interrupted)[0] == 130


def test_without_a_broker_it_says_so_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--seconds", "2", "--address", f"localhost:{free_port()}"]) == 2
    captured = capsys.readouterr()
    assert not captured.out
    assert captured.err.startswith("No broker to try it with: ")
    assert captured.err.count("\n") == 1


# ---- the command line -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"), [([], "COMMAND"), (["demo", "--seconds", "0"], "not between"), (["demo", "--seconds", "x"], "x")]
)
def test_what_the_command_line_does_not_know_ends_it(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert words in capsys.readouterr().err


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"ohmqtt {__version__}\n"


def test_the_package_can_be_run() -> None:
    # A publisher that nobody tells anything.
    command = [sys.executable, "-m", "ohmqtt", "demo", "--publisher"]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, timeout=200.0, check=False).returncode == 1


# ---- processes --------------------------------------------------------------------------------------------------------------------------


def demo(*arguments: str) -> str:
    """Run it as a user does; it must end well, without a word on standard error. Returns what it printed."""
    command = [sys.executable, "-X", "dev", "-W", "error", "-m", "ohmqtt", "demo", "--seconds", "2", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=200.0, check=False)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    assert figure(result.stdout, "lost") == figure(result.stdout, "duplicated") == 0
    assert figure(result.stdout, "sent") == figure(result.stdout, "delivered")
    return result.stdout


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the kill has another name")
def test_the_demonstration_as_it_is_started() -> None:
    printed = demo()
    assert "\x1b" not in printed
    assert printed.isascii()
    assert printed.count("got SIGKILL") == 2
    assert printed.count("BROKER STARTED AGAIN") == 2


@pytest.mark.slow
def test_the_demonstration_with_somebody_elses_broker(mosquitto: Mosquitto) -> None:
    printed = demo("--db-fast", "--address", mosquitto.address)
    assert printed.count("NETWORK BACK") == 2


@pytest.mark.slow
def test_a_publisher_that_is_killed_at_any_moment_goes_on_with_the_right_number(mosquitto: Mosquitto, tmp_path: Path) -> None:
    seed = secrets.randbits(32)
    sys.stdout.write(f"seed {seed}\n")  # shown beside a failure
    chance = random.Random(seed)
    tally = Tally()
    with connected_client(mosquitto.address) as subscriber:
        task = Task(mosquitto.address, None, str(tmp_path / "demo.db"), True, unused("demo"), unused())
        inbox = collect_messages(subscriber, task.topic)
        for life in range(20):
            said: Seen[str] = Seen()
            publisher = Child(said.add)
            publisher.tell(task.line())
            publisher.tell("1000000")
            said.wait(chance.choice((1, 2, 3, chance.randint(2, 500))))
            if life == 19:
                publisher.tell("end")
                assert publisher.wait() == 0
            else:
                publisher.kill()
            lines = said.now()
            untold = tally.resume(int(lines[0].split()[1]))
            assert untold <= 1, "more than one number was accepted and not reported"
            for line in lines[1:]:
                if line.isdigit():
                    tally.accept(int(line))
        for payload in inbox.wait_payloads(tally.sent):
            tally.deliver(payload)
    assert tally.result(clients=0).good
