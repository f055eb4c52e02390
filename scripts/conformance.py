"""Write docs/conformance.md: which tests show which requirement of docs/requirements.md, and what is not shown and why.

A test names its requirements itself, ``@pytest.mark.spec("MQTT-4.3.3-2")``. They are read from pytest's own collection, so that what counts
is a test that is run. A test of several parameters counts once. Tests of the broker that the kit ships (``tests/test_testing_*``) show what
that broker does, never what the client does. ``--list`` prints the marks as JSON in place of writing the page.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "docs" / "requirements.md"
REPORT = ROOT / "docs" / "conformance.md"

# What no test shows, and why. A row leaves this table with its first test.
ARGUED = {
    "6.0.0-1": "there is no WebSocket transport yet",
    "6.0.0-2": "there is no WebSocket transport yet",
    "6.0.0-3": "there is no WebSocket transport yet",
}

HEAD = """# Conformance

Which tests show that the client does what [MQTT 5.0 asks of it](requirements.md). Written by `make conformance` from the marks of the tests,
never by hand; a test fails when this page is out of date, when a row that binds the client has neither a test nor a reason, and when a mark
names no row.
"""


class Requirement(NamedTuple):
    """A row of the list; a rule without a number has `binds` empty."""

    identifier: str
    binds: str
    rule: str
    chapter: str

    @property
    def binds_client(self) -> bool:
        return self.binds != "S"


# A mark's identifier without its "MQTT-", and the tests that carry it.
Shown = dict[str, list[str]]


def read_requirements(text: str) -> list[Requirement]:
    """Read the tables: four columns each, the first one an identifier, the second what it binds (or the sections of a rule without number)."""
    rows: list[Requirement] = []
    chapter = ""
    for line in text.splitlines():
        if line.startswith("## "):
            chapter = line.removeprefix("## ")
        elif match := re.fullmatch(r"\| (\d[\d.]*(-\d+)?) \| (.+?) \| (.+) \| (.+?) \|", line):
            identifier, number, second, rule, _ = match.groups()
            rows.append(Requirement(identifier, second if number else "", rule, chapter))
    return rows


class _Marked(Protocol):
    @property
    def nodeid(self) -> str: ...
    def iter_markers(self, name: str) -> Iterator[pytest.Mark]: ...


def marks(items: Iterable[_Marked]) -> Shown:
    """Return the tests that carry each identifier, as node ids without parameters, in order."""
    found: dict[str, set[str]] = {}
    for item in items:
        for mark in item.iter_markers("spec"):
            for identifier in mark.args:
                found.setdefault(identifier.removeprefix("MQTT-"), set()).add(item.nodeid.split("[", maxsplit=1)[0])
    return {identifier: sorted(tests) for identifier, tests in sorted(found.items())}


class Collected:
    """A pytest plugin that keeps what was collected, before anything is left out."""

    def __init__(self) -> None:
        self.items: list[pytest.Item] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self.items = list(items)


def collect() -> Shown:
    """Let pytest collect the whole suite in this process, and read the marks."""
    collected = Collected()
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        options = ["--collect-only", "-q", f"--rootdir={ROOT}", f"--config-file={ROOT / 'pyproject.toml'}", str(ROOT / "tests")]
        code = pytest.main(options, plugins=[collected])
    if code != pytest.ExitCode.OK:
        raise SystemExit(output.getvalue())
    return marks(collected.items)


def is_of_client(test: str) -> bool:
    return not Path(test.split("::", maxsplit=1)[0]).name.startswith("test_testing_")


def of_client(shown: Mapping[str, Sequence[str]]) -> Shown:
    """Leave out the tests that show the broker of the kit."""
    found = {identifier: [test for test in tests if is_of_client(test)] for identifier, tests in shown.items()}
    return {identifier: tests for identifier, tests in found.items() if tests}


def of_broker(shown: Mapping[str, Sequence[str]]) -> Shown:
    """Leave out the tests that show the client."""
    found = {identifier: [test for test in tests if not is_of_client(test)] for identifier, tests in shown.items()}
    return {identifier: tests for identifier, tests in found.items() if tests}


def faults(rows: Sequence[Requirement], shown: Mapping[str, Sequence[str]], argued: Mapping[str, str]) -> list[str]:
    """Return what is wrong: rows without test and reason, reasons that nothing needs, marks that name no row."""
    known = {row.identifier for row in rows}
    client = of_client(shown)
    wrong = [
        f"{identifier} is in the list {count} times" for identifier, count in Counter(row.identifier for row in rows).items() if count > 1
    ]
    wrong += [
        f"{row.identifier} binds the client, and has neither a test nor a reason: {row.rule}"
        for row in rows
        if row.binds_client and row.identifier not in client and row.identifier not in argued
    ]
    wrong += [f"{identifier} is argued, and {client[identifier][0]} shows it" for identifier in argued if identifier in client]
    wrong += [f"{identifier} is argued, and no row" for identifier in argued if identifier not in known]
    wrong += [f"{tests[0]} is marked with {identifier}, which is no row" for identifier, tests in shown.items() if identifier not in known]
    return wrong


def report(rows: Sequence[Requirement], shown: Mapping[str, Sequence[str]], argued: Mapping[str, str]) -> str:
    """Return the page."""
    client, broker = of_client(shown), of_broker(shown)
    binding = [row for row in rows if row.binds and row.binds_client]
    rules = [row for row in rows if not row.binds]
    lines = [
        HEAD,
        f"**{_count(binding, client)}** requirements that bind a client are shown, and **{_count(rules, client)}** rules without a number.",
        "",
        "## What is not shown, and why",
        "",
        *_table(
            "| id | rule | why no test shows it |", [_argument(row, argued) for row in binding + rules if row.identifier not in client]
        ),
    ]
    for chapter in dict.fromkeys(row.chapter for row in binding + rules):
        lines += [f"## {chapter}", "", *_tests_of([row for row in binding + rules if row.chapter == chapter], client)]
    lines += ["## What binds the server, as the client meets it", ""]
    lines += _tests_of([row for row in rows if row.binds == "S" and row.identifier in client], client)
    if broker:
        lines += ["## What the broker of the kit does", ""]
        lines += _tests_of([row for row in rows if row.identifier in broker], broker)
    return "\n".join(lines).rstrip("\n") + "\n"


def _count(rows: Sequence[Requirement], shown: Shown) -> str:
    return f"{sum(row.identifier in shown for row in rows)} of {len(rows)}"


def _argument(row: Requirement, argued: Mapping[str, str]) -> str:
    return f"| {row.identifier} | {row.rule} | {argued.get(row.identifier, 'no reason yet')} |"


def _tests_of(rows: Iterable[Requirement], shown: Shown) -> list[str]:
    described = (f"| {row.identifier} | {row.rule} | {_names(shown.get(row.identifier, []))} |" for row in rows)
    return _table("| id | rule | tests |", described)


def _names(tests: Iterable[str]) -> str:
    return "<br>".join(f"`{test.removeprefix('tests/')}`" for test in tests) or "—"


def _table(head: str, rows: Iterable[str]) -> list[str]:
    return [head, "|" + " --- |" * (head.count("|") - 1), *rows, ""]


def main() -> None:
    shown = collect()
    if "--list" in sys.argv[1:]:
        print(json.dumps(shown))
        return
    rows = read_requirements(REQUIREMENTS.read_text(encoding="utf-8"))
    REPORT.write_text(report(rows, shown, ARGUED), encoding="utf-8")
    wrong = faults(rows, shown, ARGUED)
    print(f"{REPORT.relative_to(ROOT)}: {_count([row for row in rows if row.binds and row.binds_client], of_client(shown))}")
    sys.exit("\n".join(wrong) or 0)


if __name__ == "__main__":
    main()
