"""Every interleaving of a few messages, disconnects and a crash; and each rule of committing, broken on purpose, is caught.

The smallest worlds are for each run, all mixtures of two messages for each run of the slow tests; ``make explore`` takes the whole list.
"""

from __future__ import annotations

import pytest

from tests.exploration.broker import Broker, Violation, ack
from tests.exploration.cases import PAIRS, WHOLE
from tests.exploration.controls import CONTROLS, Control
from tests.exploration.search import explore, explore_and_tell, find_shortest, freeze, retell, thaw
from tests.exploration.world import Case, World

SMALLEST = [Case((1,)), Case((2,)), Case((1,), crashes=1), Case((2,), crashes=1), Case((), (1,), crashes=1), Case((), (2,), crashes=1)]
# These find their story within a moment; the others search for a second or so.
QUICK_CONTROLS = [control for control in CONTROLS if not control.case.disconnects and len(control.case.outbound) + control.case.crashes < 3]


@pytest.mark.parametrize("case", SMALLEST, ids=str)
def test_a_message_and_a_crash_keep_all_promises(case: Case) -> None:
    report, story = explore_and_tell(case)
    assert not report.violation, "\n".join(story)
    assert report.rests


@pytest.mark.slow
@pytest.mark.timeout(300)
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


def test_a_copy_is_another_world_in_the_same_state() -> None:
    world = World(Case((1, 2), (2,), 2, disconnects=1, crashes=1))
    state = freeze(world)
    copy = thaw(state)
    assert freeze(copy) == state
    assert copy.take("publish")
    assert copy.take("commit")
    assert freeze(copy) != state == freeze(world)


def test_ways_that_lead_to_the_same_state_are_one() -> None:
    """A message to the server and one from it: which came first is forgotten."""
    case = Case((1,), (1,))
    one, other = World(case), World(case)
    assert all([one.take("publish"), one.take("send")])
    assert all([other.take("send"), other.take("publish")])
    assert freeze(one) == freeze(other)


def test_the_list_has_every_mixture_of_three_messages() -> None:
    three = [case for case in WHOLE if len(case.outbound) + len(case.inbound) == 3]
    assert len({(case.outbound, case.inbound) for case in three}) == 4 * 2**3
    assert {case.receive_maximum for case in three} == {1, 2}
    assert all(case.disconnects == 2 and case.crashes == 1 for case in three)


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
