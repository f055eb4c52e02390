"""The simulation: a bounded number of stories in each run, every story that once failed, and that it can fail at all.

``OHMQTT_SIMULATION_SEED`` names the first seed; else it is a fresh one each day, and named where a story fails.
"""

from __future__ import annotations

import datetime as dt
import os

import pytest

from tests.simulation import runner
from tests.simulation.play import PLAYED, play
from tests.simulation.stories import STORIES
from tests.simulation.story import STEPS, Setting, Step, Story, make_story, shrink


def first_seed() -> int:
    """Return where the stories of this run begin."""
    named = os.environ.get("OHMQTT_SIMULATION_SEED")
    return int(named) if named else dt.datetime.now(dt.timezone.utc).date().toordinal() * 1_000_000


def check(count: int) -> None:
    """Run so many stories."""
    seed = first_seed()
    report = runner.run_seeds(range(seed, seed + count))
    for failed, failure in report.failures:
        pytest.fail(f"OHMQTT_SIMULATION_SEED={seed}: {runner.explain(failed, failure, True)}")
    assert report.seeds == count


def test_some_stories_end_well() -> None:
    check(40)


@pytest.mark.slow
def test_many_stories_end_well() -> None:
    check(5_000)


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


def test_the_command_runs_stories_and_says_what_happened(capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.main(["--seeds", "10", "--start", "100"]) == 0
    out = capsys.readouterr().out
    assert "10 seeds" in out
    assert "seeds/s" in out
    assert "session new" in out
    assert runner.main(["--seed", "100"]) == 0
    assert "Setting:" in capsys.readouterr().out
