"""The parts of the demonstration, each by itself: the count, the publisher and its lives, its process, what is shown, and the broker."""

from __future__ import annotations

import contextlib
import io
import os
import queue
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from ohmqtt.cli import main
from ohmqtt.cli.demo.child import Child
from ohmqtt.cli.demo.place import NoPlaceError, open_place
from ohmqtt.cli.demo.publisher import Task, publish
from ohmqtt.cli.demo.screen import PlainScreen, RichScreen, open_screen
from ohmqtt.cli.demo.tally import Result, Tally
from tests.broker_tools import Seen, collect_messages, connected_client, unused
from tests.durable_tools import Call
from tests.mosquitto import free_port
from tests.peer import Peer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ohmqtt.cli.demo.screen import Screen
    from tests.mosquitto import Mosquitto


# ---- the count ------------------------------------------------------------------------------------------------------------------------


def count(accepted: list[int], delivered: list[bytes]) -> Result:
    tally = Tally()
    for number in accepted:
        tally.accept(number)
    for payload in delivered:
        tally.deliver(payload)
    return tally.result(clients=0)


def test_what_was_sent_once_and_delivered_once_is_good() -> None:
    result = count([1, 2, 3], [b"1", b"2", b"3"])
    assert result == Result(sent=3, delivered=3, lost=0, duplicated=0, reconnects=0)
    assert result.good


@pytest.mark.parametrize(
    ("accepted", "delivered", "lost", "duplicated"),
    [
        pytest.param([1, 2, 3], [b"1", b"3"], 1, 0, id="a message is lost"),
        pytest.param([1, 2, 3], [b"1", b"2", b"3", b"2"], 0, 1, id="a message comes twice"),
        pytest.param([1, 2, 3], [b"1", b"1", b"3"], 1, 1, id="one for another"),
        pytest.param([1, 2, 2, 3], [b"1", b"2", b"3"], 1, 0, id="the database forgot a message that was accepted"),
        pytest.param([1, 2, 2, 3], [b"1", b"2", b"2", b"3"], 0, 1, id="the publisher publishes one twice"),
        pytest.param([1, 2], [b"1", b"2", b"3"], 0, 0, id="nobody sent it"),
        pytest.param([1, 2], [b"1", b"2", b"hello"], 0, 0, id="somebody else's message"),
        pytest.param([], [], 0, 0, id="nothing happened at all"),
    ],
)
def test_what_goes_wrong_shows(accepted: list[int], delivered: list[bytes], lost: int, duplicated: int) -> None:
    result = count(accepted, delivered)
    assert (result.sent, result.delivered) == (len(accepted), len(delivered))
    assert (result.lost, result.duplicated) == (lost, duplicated)
    assert not result.good


def test_a_number_accepted_in_the_moment_of_a_kill_counts_when_the_next_life_tells() -> None:
    tally = Tally()
    tally.resume(1)
    tally.accept(1)
    tally.resume(3)
    assert tally.sent == 2
    assert tally.missing() == 2
    tally.deliver(b"1")
    tally.deliver(b"2")
    assert tally.missing() == 0
    assert tally.result(clients=0).good


def test_a_number_that_the_database_forgot_is_lost_although_it_is_published_again() -> None:
    tally = Tally()
    for number in (1, 2):
        tally.accept(number)
    tally.resume(2)
    tally.accept(2)
    for payload in (b"1", b"2"):
        tally.deliver(payload)
    assert tally.result(clients=0).lost == 1


def test_the_first_connection_of_each_client_is_no_reconnect() -> None:
    tally = Tally()
    assert tally.result(clients=2).reconnects == 0
    for _ in range(5):
        tally.connected()
    assert tally.result(clients=2).reconnects == 3


# ---- the publisher's process ------------------------------------------------------------------------------------------------------------


def run_child(program: str, tell: str | None = None) -> tuple[Child, Seen[str]]:
    heard: Seen[str] = Seen()
    # Isolated and without site packages: it starts in a few milliseconds.
    child = Child(heard.add, [sys.executable, "-ISc", program])
    if tell is not None:
        child.tell(tell)
    return child, heard


def test_a_child_is_told_and_heard_and_ends_when_its_input_does() -> None:
    child, heard = run_child("import sys; [print(line, end='', flush=True) for line in sys.stdin]; sys.exit(3)", "hello")
    assert heard.wait() == ["hello"]
    assert not child.ended()
    child.tell("goodbye")
    assert child.wait() == 3
    assert child.ended()
    assert heard.now() == ["hello", "goodbye"]


def test_a_killed_child_was_heard_until_the_end_but_for_half_a_line() -> None:
    child, heard = run_child("import os, time; os.write(1, b'whole\\nhalf'); time.sleep(60)")
    heard.wait()
    child.kill()
    assert heard.now() == ["whole"]
    child.kill()
    child.tell("nobody is there")
    assert child.ended()


# ---- the publisher ----------------------------------------------------------------------------------------------------------------------


class Life:
    """One life of the publisher, in this process: it is told lines, and what it says is kept."""

    def __init__(self, task: Task, *orders: str, dies_after: str = "never") -> None:
        self.said: Seen[str] = Seen()
        self._dies_after = dies_after
        self._orders: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._call = Call(publish, iter(self._orders.get, None), self._report)
        for line in (task.line(), *orders):
            self.tell(line)

    def _report(self, line: str) -> None:
        if line == self._dies_after:
            # As much of SIGKILL as a test in one process can have: what is on disk is there, and not a word comes out.
            self.tell(None)
            raise KilledError
        self.said.add(line)

    def tell(self, line: str | None) -> None:
        self._orders.put(line)

    def end(self) -> int:
        """Close its input, and return its exit code."""
        self.tell(None)
        return self.result()

    def result(self) -> int:
        """Wait for its end, and return its exit code."""
        code: int = self._call.result()
        return code

    def numbers(self) -> list[int]:
        return [int(line) for line in self.said.now() if line.isdigit()]


class KilledError(BaseException):
    """The publisher is dead."""


@pytest.fixture
def task(mosquitto: Mosquitto, tmp_path: Path) -> Task:
    return Task(mosquitto.address, None, str(tmp_path / "publisher.db"), True, unused("demo"), unused())


def test_the_publisher_publishes_as_far_as_it_may_and_ends_when_all_is_acknowledged(mosquitto: Mosquitto, task: Task) -> None:
    with connected_client(mosquitto.address) as subscriber:
        inbox = collect_messages(subscriber, task.topic)
        life = Life(task, "2")
        life.said.wait_until(lambda lines: "2" in lines)
        assert life.numbers() == [1, 2]
        life.tell("5")
        life.said.wait_until(lambda lines: "5" in lines)
        life.tell("end")
        assert life.end() == 0
        assert life.numbers() == [1, 2, 3, 4, 5]
        assert life.said.now()[0] == "from 1 0"
        assert life.said.now().count("connected") == 1
        assert inbox.wait_payloads(5) == [b"1", b"2", b"3", b"4", b"5"]


def test_the_publisher_that_nobody_listens_to_any_more_ends(task: Task) -> None:
    life = Life(task, "3")
    life.said.wait_until(lambda lines: "3" in lines)
    assert life.end() == 1
    assert publish([], lambda _line: None) == 1


@pytest.mark.parametrize("offline", [False, True])
def test_a_number_that_was_accepted_and_not_reported_is_not_published_again(mosquitto: Mosquitto, task: Task, offline: bool) -> None:
    """The worst moment for a kill: `publish` has returned for 3, and nobody was told."""
    with connected_client(mosquitto.address) as subscriber:
        inbox = collect_messages(subscriber, task.topic)
        first = Life(replace(task, address="127.0.0.1:1") if offline else task, "10", dies_after="3")
        with pytest.raises(KilledError):
            first.result()
        assert first.numbers() == [1, 2]
        second = Life(task, "5")
        second.said.wait_until(lambda lines: "5" in lines)
        second.tell("end")
        assert second.end() == 0
        assert second.said.now()[0].startswith("from 4 ")
        if offline:
            assert second.said.now()[0] == "from 4 3"
        assert second.numbers() == [4, 5]
        assert inbox.wait_payloads(5) == [b"1", b"2", b"3", b"4", b"5"]


def test_a_life_goes_on_with_the_right_number_also_when_all_before_it_is_acknowledged_and_gone(task: Task) -> None:
    for life, number in enumerate((3, 6)):
        publisher = Life(task, str(number))
        publisher.said.wait(number - life * 3 + 2)
        publisher.tell("end")
        assert publisher.end() == 0
        assert publisher.said.now()[0] == f"from {life * 3 + 1} 0"


def test_the_publisher_says_why_it_gives_up(mosquitto_factory: Callable[..., Mosquitto], tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text("topic read #\n", encoding="utf-8")
    mosquitto = mosquitto_factory(config=[f"acl_file {rules}"])
    life = Life(Task(mosquitto.address, None, str(tmp_path / "publisher.db"), True, "demo", "t"), "1")
    life.said.wait_until(lambda lines: "1" in lines)
    life.tell("end")
    assert life.end() == 1
    assert "0x87" in life.said.now()[-1]


# ---- the command ------------------------------------------------------------------------------------------------------------------------


def test_a_reader_that_has_read_enough_ends_the_story_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
        assert main(["demo", "--seconds", "1"]) == 141
    assert capsys.readouterr().err == ""


def test_a_number_of_seconds_is_a_number(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["demo", "--seconds", "soon"])
    assert "argument --seconds: 'soon' is no number" in capsys.readouterr().err


# ---- what is shown ----------------------------------------------------------------------------------------------------------------------

ROWS = [("sent", "1,234"), ("lost", "0")]


def show(screen: Screen, *, good: bool = True) -> None:
    with screen:
        screen.say("word " * 25)
        for percent in (0, 5, 10, 15, 20, 55, 100):
            screen.progress(percent / 100, percent * 20, percent * 10)
        screen.act("CRASH [bang]", "it hurts")
        screen.table(ROWS, "Every one of them.", good)


def test_plain_lines_are_short_and_without_control_codes() -> None:
    file = io.StringIO()
    show(PlainScreen(file))
    assert file.getvalue().splitlines() == [
        ("word " * 20).strip(),
        ("word " * 5).strip(),
        "   10 %  sent 200, delivered 100",
        "   20 %  sent 400, delivered 200",
        "   50 %  sent 1,100, delivered 550",
        "  100 %  sent 2,000, delivered 1,000",
        "* CRASH [bang]: it hurts",
        "",
        "  sent  1,234",
        "  lost      0",
        "",
        "Every one of them.",
    ]


def test_plain_lines_are_no_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    terminal, file = Terminal(), io.StringIO()
    for screen in (open_screen(terminal, plain=True), open_screen(file, plain=True)):
        screen.say("word " * 25)
        screen.act("CRASH", "it hurts " * 5)
    assert max(map(len, terminal.getvalue().splitlines())) <= 30
    assert max(map(len, file.getvalue().splitlines())) > 30


@pytest.mark.parametrize("good", [True, False])
def test_rich_draws_a_bar_and_a_table(good: bool) -> None:
    file = io.StringIO()
    show(RichScreen(Console(file=file, force_terminal=True, width=80, legacy_windows=False)), good=good)
    drawn = file.getvalue()
    assert "\x1b[" in drawn
    assert "CRASH [bang]" in drawn
    assert "2,000" in drawn
    assert "1,234" in drawn
    assert "Every one of them." in drawn


class Terminal(io.StringIO):
    """A file that somebody looks at."""

    def isatty(self) -> bool:
        return True


def test_the_screen_is_drawn_for_somebody_who_looks_on_unless_they_want_it_plain() -> None:
    assert isinstance(open_screen(Terminal(), plain=False), RichScreen)
    assert isinstance(open_screen(Terminal(), plain=True), PlainScreen)
    assert isinstance(open_screen(io.StringIO(), plain=False), PlainScreen)


# ---- the broker -------------------------------------------------------------------------------------------------------------------------


def test_a_network_that_was_cut_comes_back(mosquitto: Mosquitto) -> None:
    with open_place(mosquitto.address) as place, connected_client(place.address) as client:
        assert str(mosquitto.port) in place.name
        lost: Seen[object] = Seen()
        back: Seen[object] = Seen()
        client.on_disconnect = lost
        client.on_connect = back
        assert place.fail()[0] == "NETWORK CUT"
        lost.wait(2)
        # What came until now is the first connection, told late.
        back.clear()
        lost.wait(4)
        assert not back.now()
        assert place.recover()[0] == "NETWORK BACK"
        back.wait()


def test_user_name_and_password_reach_the_broker(mosquitto_factory: Callable[..., Mosquitto]) -> None:
    mosquitto = mosquitto_factory(users={"me@home": "a:b/c"})
    with open_place(f"mqtt://me%40home:a%3Ab%2Fc@127.0.0.1:{mosquitto.port}") as place, connected_client(place.address):
        assert place.server_hostname is None
        assert "home" not in place.name
    with pytest.raises(NoPlaceError, match=r"0x8[67]") as refused, open_place(f"mqtt://me%40home:secret@127.0.0.1:{mosquitto.port}"):
        pass
    assert "secret" not in str(refused.value)


def test_a_user_name_needs_no_password() -> None:
    with Peer() as peer:
        call = Call(welcome, peer)
        with open_place(f"mqtt://you@{peer.address}") as place:
            assert place.address.startswith("mqtt://you@127.0.0.1:")
        call.result()


def test_without_a_broker_there_is_no_place_for_it() -> None:
    with pytest.raises(NoPlaceError, match="No broker to try it with"), open_place(f"localhost:{free_port()}"):
        pass
    with pytest.raises(NoPlaceError, match="port must be a number"), open_place("localhost:eleven"):
        pass


def welcome(peer: Peer, **properties: int) -> None:
    link = peer.accept()
    link.handshake(False, **properties)
    link.expect("DISCONNECT")


def test_a_broker_without_qos_2_will_not_do() -> None:
    with Peer() as peer:
        call = Call(lambda: welcome(peer, MaximumQoS=1))
        with pytest.raises(NoPlaceError, match="no more than QoS 1"), open_place(peer.address):
            pass
        call.result()
