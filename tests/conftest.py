"""Fixtures for the whole test suite, and the rule about tests that need a broker: they run, or they fail and say why.

A test that uses ``mosquitto`` or ``mosquitto_factory`` is marked ``broker`` by itself. Without a Mosquitto such a test *fails*; it is never
left out unasked. ``OHMQTT_NO_BROKER=1`` leaves these tests out on a machine that has none, says so in the summary, and is ignored in CI.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.mosquitto import MISSING_MESSAGE, Mosquitto, find_mosquitto

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

BROKER_FIXTURES = {"mosquitto", "mosquitto_factory"}
COLLECTED = pytest.StashKey[list[pytest.Item]]()


def _is_set(name: str) -> bool:
    return os.environ.get(name, "").lower() not in {"", "0", "false", "no"}


def _leave_broker_tests_out() -> bool:
    return _is_set("OHMQTT_NO_BROKER") and not _is_set("CI")


def pytest_report_header() -> str:
    return f"mosquitto: {find_mosquitto() or 'not installed'}"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    config.stash[COLLECTED] = list(items)
    for item in items:
        if BROKER_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("broker")
    if _leave_broker_tests_out():
        left_out = [item for item in items if item.get_closest_marker("broker")]
        items[:] = [item for item in items if not item.get_closest_marker("broker")]
        config.hook.pytest_deselected(items=left_out)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _leave_broker_tests_out():
        terminalreporter.section("OHMQTT_NO_BROKER", sep="!", red=True, bold=True)
        terminalreporter.line("The tests against a real broker were LEFT OUT, because OHMQTT_NO_BROKER is set. This run proves less.")
    elif _is_set("OHMQTT_NO_BROKER"):
        terminalreporter.line("OHMQTT_NO_BROKER is ignored in CI: the tests against a real broker were run.")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the broker's log beside a failure."""
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            brokers = value.brokers if isinstance(value, MosquittoFactory) else [value]
            for broker in brokers:
                if isinstance(broker, Mosquitto):
                    report.sections.append((f"Log of Mosquitto on port {broker.port}", broker.log_tail()))
    return report


def _require_mosquitto() -> None:
    if find_mosquitto() is None:
        pytest.fail(MISSING_MESSAGE, pytrace=False)


@pytest.fixture(scope="session")
def _shared_mosquitto() -> Iterator[Mosquitto]:
    _require_mosquitto()
    broker = Mosquitto()
    try:
        broker.start()
        yield broker
    finally:
        broker.close()


@pytest.fixture
def mosquitto(_shared_mosquitto: Mosquitto) -> Mosquitto:
    """A running Mosquitto (TCP on IPv4 and IPv6, Unix socket) that all tests share: use your own topics and client identifiers."""
    if not _shared_mosquitto.is_running():
        _shared_mosquitto.kill()
        _shared_mosquitto.start()
    return _shared_mosquitto


class MosquittoFactory:
    """Call it with the arguments of ``Mosquitto`` for a started one of your own; all of them end with the test."""

    def __init__(self) -> None:
        self.brokers: list[Mosquitto] = []

    def __call__(self, **options: Any) -> Mosquitto:
        broker = Mosquitto(**options)
        self.brokers.append(broker)
        return broker.start()

    def close(self) -> None:
        for broker in self.brokers:
            broker.close()


@pytest.fixture
def mosquitto_factory() -> Iterator[Callable[..., Mosquitto]]:
    """A function that starts a Mosquitto of this test's own: ``mosquitto_factory(persistent=True, config=["max_inflight_messages 1"])``."""
    _require_mosquitto()
    factory = MosquittoFactory()
    try:
        yield factory
    finally:
        factory.close()
