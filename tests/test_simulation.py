"""The simulation: the same bounded number of stories in each run, every story that once failed, and that it can fail at all.

The stories are the same each time, so that a failure is the fault of the change that is tested; ``OHMQTT_SIMULATION_SEED`` names another first
seed. New stories are for ``make sim``.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.simulation import runner
from tests.simulation.play import PLAYED, play
from tests.simulation.stories import STORIES
from tests.simulation.story import STEPS, Setting, Step, Story, make_story, shrink

if TYPE_CHECKING:
    from tests.simulation.stage import Stage

FIRST_SEED = int(os.environ.get("OHMQTT_SIMULATION_SEED") or 0)


def check(first: int, count: int) -> None:
    """Run so many stories."""
    report = runner.run(range(first, first + count))
    for seed in report.failures:
        pytest.fail(runner.explain(seed))
    assert report.seeds == count


def test_some_stories_end_well() -> None:
    check(FIRST_SEED, 40)


@pytest.mark.slow
@pytest.mark.parametrize("thousand", range(5))
def test_many_stories_end_well(thousand: int) -> None:
    check(FIRST_SEED + 1_000 * thousand, 1_000)


@pytest.mark.parametrize("name", sorted(STORIES))
def test_what_failed_once_ends_well(name: str) -> None:
    failure = play(STORIES[name])[1]
    assert failure is None, STORIES[name].tell()


def test_a_seed_tells_the_same_story_each_time() -> None:
    for seed in range(5):
        assert make_story(seed) == make_story(seed)
        first, again = play(make_story(seed)), play(make_story(seed))
        assert first[0] == again[0]
        assert first[1] is again[1] is None


def test_there_is_somebody_who_does_each_step() -> None:
    assert PLAYED.keys() == STEPS.keys()


def test_a_failing_story_is_shrunk_to_what_matters() -> None:
    needed = {"publish", "cut"}
    story = make_story(3)
    steps = (*story.steps, Step("publish", 5, 7), Step("run", 1), Step("cut", 9, 9, "commit"), Step("step"))
    setting = Setting(database="safe", manual_ack=True)

    def fails(candidate: Story) -> bool:
        return candidate.setting.database == "safe" and needed <= {step.name for step in candidate.steps}

    short = shrink(Story(setting, steps), fails)
    assert sorted(step.name for step in short.steps) == ["cut", "publish"]
    assert short.setting == Setting(database="safe")
    assert all(step.a == step.b == 0 and not step.place for step in short.steps)
    assert "the connection is cut" in short.tell()


def lose_a_row(stage: Stage, a: int, b: int) -> None:
    assert stage.disk is not None
    stage.disk.volatile.rows.clear()


def deliver_twice(stage: Stage, a: int, b: int) -> None:
    assert stage.process is not None
    while stage.process.held:
        message = stage.process.held.popleft()
        stage.deliver(stage.process, 1, message)
        message.ack()


def send_twice(stage: Stage, a: int, b: int) -> None:
    for link in stage.server.links:
        link.pipe.up *= 2


def lose_an_answer(stage: Stage, a: int, b: int) -> None:
    stage.server.held.clear()


SABOTAGE = {
    "a publication that was promised": (
        lose_a_row,
        Story(Setting(database="safe"), (Step("publish", 1), Step("sync"))),
        "memory has the publications",
    ),
    "a message of QoS 2 once": (
        deliver_twice,
        Story(Setting(manual_ack=True), (Step("run", 3), Step("message"), Step("run", 3), Step("sync"))),
        "is delivered 2 times",
    ),
    "each packet once": (
        send_twice,
        Story(Setting(), (Step("run", 3), Step("publish", 1), Step("step"), Step("sync"))),
        "came again without DUP",
    ),
    "an end of everything": (
        lose_an_answer,
        Story(Setting(), (Step("run", 3), Step("lazy"), Step("publish", 1), Step("run", 3), Step("sync"))),
        "it doesn't come to rest",
    ),
}


@pytest.mark.parametrize("what", sorted(SABOTAGE))
def test_the_judge_asks_for(what: str) -> None:
    """What is done behind the client's back is like a fault of its own."""
    saboteur, story, words = SABOTAGE[what]
    assert play(story)[1] is None
    assert words in str(play(story, {**PLAYED, "sync": saboteur})[1])


def test_the_command_runs_stories_and_says_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.main(["--seeds", "10", "--start", "100"]) == 0
    out = capsys.readouterr().out
    assert "--start 100" in out
    assert "10 seeds" in out
    assert "seeds/s" in out
    assert "session new" in out
    assert runner.main(["--seed", "100"]) == 0
    assert "Setting:" in capsys.readouterr().out


def test_the_command_takes_fresh_seeds_and_names_them(capsys: pytest.CaptureFixture[str]) -> None:
    first = set()
    for _ in range(3):
        assert runner.main(["--seeds", "1"]) == 0
        first.add(capsys.readouterr().out.splitlines()[0])
    assert len(first) == 3


@pytest.mark.slow
def test_a_run_ends_between_two_chunks_when_it_is_told_to() -> None:
    assert runner.run(range(10**12), is_over=lambda: True).seeds == runner.CHUNK_SEEDS


@pytest.mark.slow
def test_several_processes_come_to_the_same() -> None:
    seeds = range(1_000, 1_600)
    alone, together = runner.run(seeds), runner.run(seeds, jobs=2)
    assert (alone.seeds, alone.steps) == (together.seeds, together.steps) == (600, alone.steps)
    assert alone.events == together.events
    assert alone.stories_with == together.stories_with
