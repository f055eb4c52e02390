"""Every interleaving of a few messages, disconnects and a crash; and each rule of committing, broken on purpose, is caught.

The smallest worlds are for each run, all mixtures of two messages for each run of the slow tests; ``make explore`` takes the whole list.
What makes the worlds small enough is compared with worlds that are explored as they are, the broken ones included.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.exploration.__main__ import Results, fingerprint
from tests.exploration.broker import Broker, Violation, ack
from tests.exploration.cases import ONE_EACH, ONES, PAIRS, QUICK, TRIPLES, cases
from tests.exploration.controls import CONTROLS, Control
from tests.exploration.copies import copy
from tests.exploration.equivalence import compare, freeze, thaw
from tests.exploration.reduction import at_once, key
from tests.exploration.search import Report, explore, explore_and_tell, find_shortest, retell
from tests.exploration.world import Case, World

ROOT = Path(__file__).parent.parent

SMALLEST = [Case((1,)), Case((2,)), Case((1,), crashes=1), Case((2,), crashes=1), Case((), (1,), crashes=1), Case((), (2,), crashes=1)]
# These find their story within a moment; the others search for longer.
QUICK_CONTROLS = [control for control in CONTROLS if len(control.case.outbound) + len(control.case.inbound) + control.case.disconnects < 2]
# Small, and with everything in them that can happen.
COMPARED = [
    *QUICK,
    *cases(2),
    *cases(1, **ONE_EACH, fast=True),
    # After a power cut two messages may have other sequence numbers than without it.
    Case((2, 2), crashes=1, fast=True),
    *cases(1, **ONE_EACH, session_losses=1, fine=True),
    *cases(1, disconnects=1, session_losses=1, rejections=1, refused_commits=1, failed_callbacks=1),
    *cases(1, crashes=1, expiry=True),
]


@pytest.mark.parametrize("case", SMALLEST, ids=str)
def test_a_message_and_a_crash_keep_all_promises(case: Case) -> None:
    report, story = explore_and_tell(case)
    assert not report.violation, "\n".join(story)
    assert report.rests


@pytest.mark.slow
@pytest.mark.parametrize("case", PAIRS, ids=str)
def test_two_messages_a_disconnect_and_a_crash_keep_all_promises(case: Case) -> None:
    report, story = explore_and_tell(case)
    assert not report.violation, "\n".join(story)
    assert report.rests


@pytest.mark.parametrize(
    "control", [pytest.param(control, marks=() if control in QUICK_CONTROLS else pytest.mark.slow, id=control.name) for control in CONTROLS]
)
def test_a_broken_rule_is_caught(control: Control) -> None:
    report = find_shortest(control.case, control)
    assert report.violation, f"nobody sees that {control.name}"
    # The story is one: told again, it ends in the same way.
    assert retell(report, control)[-1].strip() == report.violation
    # And it is the broken rule that is caught.
    assert not find_shortest(control.case).violation


# ---- what makes the worlds small ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [Case((1,)), Case((2,)), Case((), (1,)), Case((), (2,))], ids=str)
def test_the_smallest_worlds_are_the_same_explored_as_they_are(case: Case) -> None:
    comparison = compare(case)
    assert not comparison.violations
    assert comparison.at_once


@pytest.mark.slow
@pytest.mark.parametrize("case", COMPARED, ids=str)
def test_small_worlds_are_the_same_explored_as_they_are(case: Case) -> None:
    comparison = compare(case)
    assert not comparison.violations
    assert comparison.keys <= comparison.states


@pytest.mark.slow
@pytest.mark.parametrize("control", [control for control in CONTROLS if not control.case.expiry], ids=lambda control: control.name)
def test_a_broken_rule_breaks_the_same_promises_in_a_world_explored_as_it_is(control: Control) -> None:
    assert find_shortest(control.case, control).violation in compare(control.case, control).violations


def test_a_copy_is_another_world_in_the_same_state() -> None:
    world = World(Case((1, 2), (2,), 2, disconnects=1, crashes=1))
    state = freeze(world)
    other = copy(world)
    assert freeze(other) == freeze(thaw(state)) == state
    assert other.take("publish")
    assert other.take("commit")
    assert freeze(other) != state == freeze(world)
    assert key(other) != key(world) == key(thaw(state))


def test_ways_that_lead_to_the_same_state_are_one() -> None:
    """A message to the server and one from it: which came first is forgotten."""
    case = Case((1,), (1,))
    one, other = World(case), World(case)
    assert all([one.take("publish"), one.take("send")])
    assert all([other.take("send"), other.take("publish")])
    assert key(one) == key(other)


def test_what_was_accepted_isnt_told_at_once_while_a_crash_is_to_come() -> None:
    """Whether its user heard that it is safe makes it a promise."""
    for crashes, wanted in ((1, ""), (0, "release")):
        world = World(Case((1,), crashes=crashes))
        assert all([world.take("publish"), world.take("commit")])
        assert at_once(world, world.steps()) == wanted


def test_states_that_differ_in_a_promise_are_two() -> None:
    case = Case((1,), disconnects=1, crashes=1)
    told, untold = World(case), World(case)
    for world in (told, untold):
        assert all(map(world.take, ("lose", "dial", "publish", "commit")))
    assert told.take("release")
    for world in (told, untold):
        assert world.take("crash")
    assert told.promised
    assert not untold.promised
    assert key(told) != key(untold)


# ---- the list, the command, the server ---------------------------------------------------------------------------------------------------


def test_the_list_has_every_mixture_of_three_messages() -> None:
    for fast in (False, True):
        three = [case for case in TRIPLES if case.fast == fast]
        assert len({(case.outbound, case.inbound) for case in three}) == 4 * 2**3
        assert {case.receive_maximum for case in three} == {1, 2}
        assert all(case.disconnects == 2 and case.crashes == 1 for case in three)


def test_each_kind_of_trouble_is_compared() -> None:
    plain = Case()
    for name in ("disconnects", "crashes", "session_losses", "rejections", "refused_commits", "failed_callbacks", "expiry", "fast", "fine"):
        assert any(getattr(case, name) != getattr(plain, name) for case in COMPARED), name
        assert any(getattr(case, name) != getattr(plain, name) for case in ONES), name


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "results"
    clean, broken, other = Report(Case((1,))), Report(Case((2,)), violation="a promise: broken"), Report(Case((), (1,)))
    results = Results(path)
    assert not results.clean
    for report in (clean, broken):
        results.add(str(report))
    # What was explored with other code counts for nothing.
    with path.open("a") as file:
        file.write(f"0123456789ab {other}\n")
    assert fingerprint() == results.code
    assert Results(path).clean == {str(clean.case)}


@pytest.mark.slow
def test_the_command_explores_what_is_left_and_compares(tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "tests.exploration", "quick", "--jobs", "1", *arguments]
        return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout

    results = ("--no-controls", "--results", str(tmp_path / "results"))
    assert "2 worlds\n" in run(*results, "--only", "in -")
    assert "2 worlds, 2 more are done" in run(*results)
    assert "4 worlds are left" in run("--no-controls", "--minutes", "0.00001")
    assert "2 worlds, 0 in which something is wrong" in run("--check", "--only", "out -")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run("--only", "nothing")
    assert "no world of 'quick' has 'nothing' in its description" in caught.value.stderr


def test_a_world_without_faults_has_one_end() -> None:
    assert explore(Case((2,))).rests == 1


def test_the_server_of_the_model_is_strict() -> None:
    broker = Broker((1, 1), 2)
    broker.quota = 2
    broker.send()
    broker.send()
    broker.to_server.append(ack(0x40, 2))
    with pytest.raises(Violation, match="PUBACK 2, and this connection waits for"):
        broker.arrive()
