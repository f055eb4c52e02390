"""The mutation check: its bugs can be put in, its tests are there, and it tells a bug from none. `make mutants` runs all of it."""

from __future__ import annotations

import pytest

from tests.mutations.bug import Bug
from tests.mutations.check import BUGS, ROOT, check

SEEDS = 200


@pytest.mark.parametrize("bug", BUGS, ids=[bug.name for bug in BUGS])
def test_a_bug_fits_the_source_and_names_tests_that_are_there(bug: Bug) -> None:
    assert (ROOT / "src" / "ohmqtt" / bug.file).read_text(encoding="utf-8").count(bug.old) == 1
    assert bug.tests
    for test in bug.tests:
        file, _, name = test.partition("::")
        assert f"\ndef {name}(" in (ROOT / file).read_text(encoding="utf-8")


def test_no_two_bugs_are_the_same() -> None:
    assert len({bug.name for bug in BUGS}) == len({(bug.file, bug.old, bug.new) for bug in BUGS}) == len(BUGS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DUP is not set", "an error PUBREC gives no quota back"])
def test_a_bug_is_caught_by_the_simulation_and_by_its_test(name: str) -> None:
    (bug,) = [bug for bug in BUGS if bug.name == name]
    verdict = check(bug, ROOT, SEEDS)
    assert verdict.caught
    assert verdict.simulation
    assert verdict.tests
    assert bug.tests[0].endswith(verdict.tests.by)


@pytest.mark.slow
def test_what_breaks_nothing_is_not_caught() -> None:
    harmless = Bug("a comment", "", "link.py", "first |= 8  # [MQTT-3.3.1-1]\n", "first |= 8  # set\n", (BUGS[0].tests[0],))
    assert check(harmless, ROOT, SEEDS) == (harmless, None, None)


def test_a_bug_whose_text_is_gone_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 times"):
        check(Bug("gone", "", "link.py", "no such text", "", ()), ROOT)
    with pytest.raises(ValueError, match="times"):
        check(Bug("twice", "", "link.py", "self", "", ()), ROOT)
