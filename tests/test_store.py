from __future__ import annotations

from typing import TYPE_CHECKING

from ohmqtt.store import SQLiteStore
from ohmqtt.testing import check_store

if TYPE_CHECKING:
    from pathlib import Path

import pytest


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.25

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize("fast", [False, True], ids=["safe", "fast"])
def test_sqlite_store_keeps_the_protocol(tmp_path: Path, fast: bool) -> None:
    clock = Clock()
    check_store(lambda: SQLiteStore(tmp_path / "a.db", fast=fast, wall_clock=clock), advance_clock=clock.advance)
