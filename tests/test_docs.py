"""What the documents show, works: each Python example compiles, imports only names that exist, and runs if it says so.

The word after ``python`` on a fence decides: ```` ```python run ```` is run by itself, ```` ```python broker ```` against a real Mosquitto
(which takes the place of ``localhost:1883``), ```` ```python pytest ```` is a test file that pytest runs, and a plain ```` ```python ```` is compiled and its imports of ``ohmqtt`` are looked up.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import pkgutil
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import ohmqtt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.mosquitto import Mosquitto

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^```python(?P<how>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
RUN_TIMEOUT_S = 200.0


@dataclass(frozen=True)
class Example:
    """One fenced block of Python."""

    place: str
    how: str
    code: str


def examples() -> Iterator[Example]:
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        text = path.read_text(encoding="utf-8")
        for match in FENCE.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            yield Example(f"{path.relative_to(ROOT).as_posix()}:{line}", match["how"].strip(), match["code"])


EXAMPLES = sorted(examples(), key=lambda example: example.place)


def those(*how: str) -> list[object]:
    return [pytest.param(example, id=example.place) for example in EXAMPLES if example.how in how]


def test_every_example_says_a_known_way_to_be_checked() -> None:
    assert {example.how for example in EXAMPLES} <= {"", "run", "broker", "pytest"}


@pytest.mark.parametrize("example", those("", "run", "broker", "pytest"))
def test_example_compiles_and_imports_what_exists(example: Example) -> None:
    tree = ast.parse(example.code, filename=example.place)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ohmqtt":
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{example.place} imports {alias.name}, which {node.module} doesn't have"


def run(example: Example, folder: Path, address: str = "localhost:1883") -> None:
    result = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", example.code.replace("localhost:1883", address)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    assert result.returncode == 0, f"{example.place}\n{result.stdout}\n{result.stderr}"
    assert not result.stderr, f"{example.place}\n{result.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("example", those("run"))
def test_example_runs(example: Example, tmp_path: Path) -> None:
    run(example, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("example", those("broker"))
def test_example_runs_against_a_broker(example: Example, tmp_path: Path, mosquitto: Mosquitto) -> None:
    run(example, tmp_path, mosquitto.address)


@pytest.mark.slow
@pytest.mark.parametrize("example", those("pytest"))
def test_example_passes(example: Example, tmp_path: Path) -> None:
    (tmp_path / "test_example.py").write_text(example.code, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "test_example.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=RUN_TIMEOUT_S,
        check=False,
    )
    assert result.returncode == 0, f"{example.place}\n{result.stdout}\n{result.stderr}"


MODULES = sorted(
    module.name for module in pkgutil.walk_packages(ohmqtt.__path__, "ohmqtt.") if module.name.rpartition(".")[2] != "__main__"
)


@pytest.mark.parametrize("name", ["ohmqtt", *MODULES])
def test_doctests(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0
