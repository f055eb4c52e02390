"""The fixtures for pytest: a user's test file of a few lines, with the built package in a fresh environment; and cheap if unused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import ohmqtt.testing
from ohmqtt import MQTTError
from ohmqtt.testing import Broker, BrokerSettings

if TYPE_CHECKING:
    from ohmqtt import Client
    from ohmqtt.testing import Faults

PATIENCE_S = 60.0
ROOT = Path(__file__).parent.parent

USERS_TEST = """\
import pytest
from ohmqtt import PublishError


def test_a_message_arrives(mqtt_broker, mqtt_client):
    mqtt_client.publish("greetings", "hello", qos=2).wait_for_ack(30)
    assert [message.payload for message in mqtt_broker.received] == [b"hello"]


def test_a_full_broker_is_reported(mqtt_client, mqtt_faults):
    mqtt_faults.answer("PUBLISH", 0x97)
    with pytest.raises(PublishError):
        mqtt_client.publish("greetings", "hello", qos=1).wait_for_ack(30)
"""


def test_a_client_is_connected_to_a_broker(mqtt_broker: Broker, mqtt_client: Client) -> None:
    assert mqtt_client.is_connected()
    assert mqtt_broker.clients == [mqtt_client.client_id]
    mqtt_client.publish("a", b"x", qos=1).wait_for_ack(PATIENCE_S)
    assert mqtt_broker.wait_for_messages()[0].payload == b"x"


def test_faults_are_the_brokers(mqtt_broker: Broker, mqtt_client: Client, mqtt_faults: Faults) -> None:
    assert mqtt_faults is mqtt_broker.faults
    fault = mqtt_faults.drop_after("PUBLISH")
    mqtt_client.publish("a", b"x", qos=2).wait_for_ack(PATIENCE_S)
    assert fault.fired == 1


def test_a_broker_that_has_become_silent_does_not_delay_the_end(mqtt_client: Client, mqtt_faults: Faults) -> None:
    # Seen in the suite's durations: waiting for an answer would take ten seconds.
    mqtt_faults.silence()
    mqtt_client.publish("a", b"x", qos=1)


class TestSettings:
    @pytest.fixture
    def mqtt_broker_settings(self) -> BrokerSettings:
        return BrokerSettings(maximum_qos=0)

    def test_settings_can_be_overridden(self, mqtt_client: Client) -> None:
        with pytest.raises(MQTTError):
            mqtt_client.publish("a", qos=1)


def test_names_that_there_are_not() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Brocker'"):
        _ = ohmqtt.testing.Brocker


@pytest.mark.parametrize("name", ohmqtt.testing.__all__)
def test_what_the_package_lists_is_there(name: str) -> None:
    assert getattr(ohmqtt.testing, name).__name__ == name


def run(*command: str | Path, folder: Path) -> str:
    # The fresh environment must not see this checkout, nor be measured.
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COVERAGE", "COV_", "PYTEST"))}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, f"{' '.join(map(str, command))}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.mark.slow
def test_unused_it_costs_next_to_nothing(tmp_path: Path) -> None:
    # The package itself is imported with it, but nothing that it doesn't import anyway.
    program = """
import sys, pytest, ohmqtt
before = set(sys.modules)
import ohmqtt.testing.plugin
print(*sorted(set(sys.modules) - before))
"""
    assert run(sys.executable, "-c", program, folder=tmp_path).split() == ["ohmqtt.testing", "ohmqtt.testing.plugin"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_users_test_runs_with_the_built_wheel_in_a_fresh_environment(tmp_path: Path) -> None:
    assert USERS_TEST.count("\n") < 15
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, folder=ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    run(sys.executable, "-m", "venv", tmp_path / "venv", folder=tmp_path)
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    try:
        run(python, "-m", "pip", "install", "--disable-pip-version-check", wheel, "pytest", folder=tmp_path)
    except AssertionError as error:
        pytest.fail(f"This test installs pytest into a fresh environment, for which the package registry must be reachable.\n{error}")
    (tmp_path / "test_mine.py").write_text(USERS_TEST)
    said = run(python, "-m", "pytest", "-q", "-W", "error", "test_mine.py", folder=tmp_path)
    assert "2 passed" in said
    where = run(python, "-c", "import ohmqtt; print(ohmqtt.__file__)", folder=tmp_path)
    assert Path(where.strip()).is_relative_to(tmp_path.resolve())
