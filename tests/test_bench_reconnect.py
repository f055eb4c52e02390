"""A restart with a backlog in the database: the work grows with the rows, not with their square, and the first message leaves soon."""

from __future__ import annotations

import sys

import pytest

from bench.reconnect import measure

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="resource")]

FEW, MANY = 4_096, 32_768


@pytest.mark.parametrize("kind", ["queued", "in flight"])
def test_the_cost_of_a_restart_is_linear_in_the_backlog(kind: str) -> None:
    few, many = measure(kind, FEW), measure(kind, MANY)
    # CPU time of the client, because the machine may be busy. With work that grew with the square it would be eight times as much a message.
    assert many["cpu_s"] / MANY < 2.5 * few["cpu_s"] / FEW + 5e-6
    assert many["open_cpu_s"] / MANY < 4 * few["open_cpu_s"] / FEW
    if kind == "queued":
        # What waits on disk neither delays the first message (it may, once or twice, be the machine that does) nor is held in memory.
        bound_s = 5 * few["first_s"] + 0.2
        assert many["first_s"] < bound_s or any(measure(kind, MANY)["first_s"] < bound_s for _ in range(4))
        assert many["memory_kib"] < few["memory_kib"] + 8_192
