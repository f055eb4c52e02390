"""The examples and the demonstration do what they say, against a real broker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.mosquitto import free_port

if TYPE_CHECKING:
    from tests.mosquitto import Mosquitto

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 50.0

pytestmark = pytest.mark.slow


def command(script: str, *arguments: str) -> list[str]:
    return [sys.executable, "-X", "dev", "-W", "error", "-u", str(ROOT / script), *arguments]


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(script, *arguments), capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def test_subscriber_gets_what_the_publisher_sends(mosquitto: Mosquitto, tmp_path: Path) -> None:
    common = ["--address", mosquitto.address, "--topic", "test_examples/numbers", "--count", "3"]
    subscriber = subprocess.Popen(
        command("examples/subscribe.py", *common), stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )
    with subscriber:
        try:
            assert subscriber.stdout is not None
            assert subscriber.stdout.readline() == "subscribed to test_examples/numbers\n"
            published = run(
                "examples/persistent_publisher.py", *common, "--database", str(tmp_path / "example.db"), "--session-expiry", "60"
            )
            assert (published.returncode, published.stderr) == (0, "")
            received, problems = subscriber.communicate(timeout=TIMEOUT_S)
        finally:
            subscriber.kill()
    texts = [f"message {number}" for number in range(3)]
    assert published.stdout.splitlines() == texts
    assert received.splitlines() == [f"test_examples/numbers {text}" for text in texts]
    assert (subscriber.returncode, problems) == (0, "")


@pytest.mark.parametrize("script", ["examples/subscribe.py", "examples/persistent_publisher.py"])
def test_without_a_broker_an_example_says_so_in_one_line(script: str, tmp_path: Path) -> None:
    address = f"localhost:{free_port()}"
    more = ["--database", str(tmp_path / "example.db")] if "publisher" in script else []
    result = run(script, "--address", address, "--wait", "0.5", *more)
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"No broker answers at {address}")


def test_demonstration_loses_nothing_and_repeats_nothing(mosquitto: Mosquitto) -> None:
    result = run("scripts/run_demo.py", "--port", str(mosquitto.port), "--messages", "50")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "missing    0\nduplicates 0\n" in result.stdout
    assert result.stdout.count("killed with SIGKILL") == 3
