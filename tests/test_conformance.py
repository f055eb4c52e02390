"""Each requirement that binds a client has a test or a reason, each mark a row, and docs/conformance.md says what is so."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

import pytest

from scripts import conformance
from scripts.conformance import Requirement
from tests.conftest import COLLECTED

if TYPE_CHECKING:
    from collections.abc import Iterator

ROWS = conformance.read_requirements(conformance.REQUIREMENTS.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def shown(pytestconfig: pytest.Config) -> conformance.Shown:
    """The marks of the whole suite: of this run if it collected everything, otherwise (it was asked for a part) of a collection of their own."""
    items = pytestconfig.stash[COLLECTED]
    files = set((conformance.ROOT / "tests").rglob("test_*.py"))
    if files <= {item.path for item in items} and not any("::" in argument for argument in pytestconfig.args):
        return conformance.marks(items)
    command = [sys.executable, conformance.__file__, "--list"]
    result = subprocess.run(command, cwd=conformance.ROOT, capture_output=True, text=True, check=False, timeout=200)
    assert result.returncode == 0, result.stdout + result.stderr
    found: conformance.Shown = json.loads(result.stdout)
    return found


def test_the_list_is_complete() -> None:
    binds = [row.binds for row in ROWS]
    assert {kind: binds.count(kind) for kind in set(binds)} == {"C": 49, "B": 86, "S": 116, "": 33}


def test_each_requirement_has_a_test_or_a_reason_and_each_mark_a_row(shown: conformance.Shown) -> None:
    assert conformance.faults(ROWS, shown, conformance.ARGUED) == []


def test_the_report_is_up_to_date(shown: conformance.Shown) -> None:
    expected = conformance.report(ROWS, shown, conformance.ARGUED)
    assert conformance.REPORT.read_text(encoding="utf-8") == expected, "docs/conformance.md is out of date: make conformance"


# ---- the report itself, on a small list ------------------------------------------------------------------------------------------------------

LIST = """
## Chapter 9

| id | binds | rule, in our words | how a test can see it |
| --- | --- | --- | --- |
| 9.1.0-1 | C | sends | bytes |
| 9.1.0-2 | S | answers | — |
| 9.1.0-3 | B | closes | `a\\|b` \\| c |

## Others

| id | sections | rule, in our words | how a test can see it |
| --- | --- | --- | --- |
| 9.1 | 9.1, 9.2 | waits | time |
"""
SMALL = conformance.read_requirements(LIST)
COMPLETE = {"9.1.0-1": ["tests/test_x.py::test_sends"], "9.1.0-3": ["tests/test_x.py::test_closes"], "9.1": ["tests/test_x.py::test_waits"]}


def test_rows_are_read_from_the_tables() -> None:
    expected = [
        Requirement("9.1.0-1", "C", "sends", "Chapter 9"),
        Requirement("9.1.0-2", "S", "answers", "Chapter 9"),
        Requirement("9.1.0-3", "B", "closes", "Chapter 9"),
        Requirement("9.1", "", "waits", "Others"),
    ]
    assert expected == SMALL


@pytest.mark.parametrize(
    ("shown", "argued", "words"),
    [
        pytest.param({}, {}, "9.1.0-1 binds the client, and has neither", id="no test"),
        pytest.param({"9.1.0-1": ["tests/test_testing_broker.py::test_sends"]}, {}, "9.1.0-1 binds the client", id="only the broker"),
        pytest.param({"9.1": []}, {}, "9.1 binds the client", id="a rule without number"),
        pytest.param({}, {"9.1.0-1": "why not"}, "9.1.0-1 is argued, and tests/test_x.py::test_sends shows it", id="a reason too many"),
        pytest.param({}, {"9.9.9-9": "why not"}, "9.9.9-9 is argued, and no row", id="a reason for nothing"),
        pytest.param(
            {"9.9.9-9": ["tests/test_x.py::test_y"]}, {}, "tests/test_x.py::test_y is marked with 9.9.9-9", id="a mark for nothing"
        ),
    ],
)
def test_what_is_wrong_is_told(shown: conformance.Shown, argued: dict[str, str], words: str) -> None:
    assert conformance.faults(SMALL, COMPLETE, {}) == []
    marks = {**COMPLETE, **shown}
    if words.endswith("neither"):
        del marks["9.1.0-1"]
    (fault,) = conformance.faults(SMALL, marks, argued)
    assert fault.startswith(words)


def test_a_row_that_is_there_twice_is_told() -> None:
    assert conformance.faults([*SMALL, SMALL[0]], COMPLETE, {}) == ["9.1.0-1 is in the list 2 times"]


def test_the_report_counts_what_the_client_shows_and_tells_the_broker_apart() -> None:
    broker = "tests/test_testing_broker.py::test_closes"
    shown = {"9.1.0-1": ["tests/test_x.py::test_sends"], "9.1.0-2": ["tests/test_x.py::test_is_answered", broker], "9.1.0-3": [broker]}
    text = conformance.report(SMALL, shown, {"9.1.0-3": "no time"})
    assert "**1 of 2** requirements that bind a client are shown, and **0 of 1** rules without a number." in text
    assert "| 9.1.0-3 | closes | no time |" in text
    assert "| 9.1.0-1 | sends | `test_x.py::test_sends` |" in text
    ours, _, theirs = text.partition("## What the broker of the kit does")
    assert "| 9.1.0-2 | answers | `test_x.py::test_is_answered` |" in ours
    assert "test_testing_broker" not in ours
    assert "| 9.1.0-3 | closes | `test_testing_broker.py::test_closes` |" in theirs


class Item(NamedTuple):
    """What pytest collected, as far as marks are read from it."""

    nodeid: str
    spec: tuple[str, ...]

    def iter_markers(self, name: str) -> Iterator[pytest.Mark]:
        return iter([getattr(pytest.mark, name)(*self.spec).mark] if self.spec and name == "spec" else [])


def test_a_test_of_many_parameters_is_shown_once() -> None:
    items = [
        Item("tests/test_x.py::test_f[1]", ("MQTT-1.0.0-2", "MQTT-1.0.0-1")),
        Item("tests/test_x.py::test_f[2]", ("MQTT-1.0.0-2", "MQTT-1.0.0-1", "MQTT-1.0")),
        Item("tests/test_x.py::TestC::test_m", ("MQTT-1.0.0-1",)),
        Item("tests/test_x.py::test_unmarked", ()),
    ]
    assert conformance.marks(items) == {
        "1.0": ["tests/test_x.py::test_f"],
        "1.0.0-1": ["tests/test_x.py::TestC::test_m", "tests/test_x.py::test_f"],
        "1.0.0-2": ["tests/test_x.py::test_f"],
    }
