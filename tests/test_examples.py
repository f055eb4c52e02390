"""The examples do what they say, each as a user starts it, against a real broker (SCRAM: against a scripted one)."""

from __future__ import annotations

import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import examples
import pytest

from ohmqtt.testing.scram import ScramServer, make_verifier
from tests.certificates import write_certificates
from tests.mosquitto import free_port
from tests.peer import Peer

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from tests.mosquitto import Mosquitto

ROOT = Path(__file__).parent.parent
TIMEOUT_S = 200.0

NAMES = sorted(module.name for module in pkgutil.iter_modules(examples.__path__) if not module.name.startswith("_"))
WITHOUT_A_BROKER = {"toolkit"}

pytestmark = pytest.mark.slow


def command(name: str, *arguments: str) -> list[str]:
    return [sys.executable, "-X", "dev", "-W", "error", "-u", "-m", f"examples.{name}", *arguments]


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(name, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)


def output(name: str, *arguments: str) -> str:
    """Run an example that must succeed without a word on standard error; return what it printed."""
    result = run(name, *arguments)
    assert (result.returncode, result.stderr) == (0, ""), result.stdout
    return result.stdout


class Server:
    """An example that runs beside the test; ``with`` starts it and ends it."""

    def __init__(self, name: str, *arguments: str) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command(name, *arguments), cwd=ROOT, stdout=pipe, stderr=pipe, stdin=subprocess.DEVNULL, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def rest(self) -> list[str]:
        printed, problems = self.process.communicate(timeout=TIMEOUT_S)
        assert (self.process.returncode, problems) == (0, "")
        return printed.splitlines()


def test_subscriber_gets_what_the_publisher_sends(mosquitto: Mosquitto, tmp_path: Path) -> None:
    common = ["--address", mosquitto.address, "--topic", "test_examples/numbers", "--count", "3"]
    with Server("subscribe", *common) as subscriber:
        assert subscriber.line() == "subscribed to test_examples/numbers"
        published = output("persistent_publisher", *common, "--database", str(tmp_path / "example.db"), "--session-expiry", "60")
        texts = [f"message {number}" for number in range(3)]
        assert published.splitlines() == texts
        assert subscriber.rest() == [f"test_examples/numbers {text}" for text in texts]


def test_publish(mosquitto: Mosquitto) -> None:
    common = ["--address", mosquitto.address, "--topic", "test_examples/publish"]
    with Server("subscribe", *common, "--count", "1") as subscriber:
        subscriber.line()
        assert output("publish", *common, "--payload", "grüße") == "published to test_examples/publish: grüße\n"
        assert subscriber.rest() == ["test_examples/publish grüße"]


def test_retained_publish(mosquitto: Mosquitto) -> None:
    common = ["--address", mosquitto.address, "--topic", "test_examples/state"]
    assert output("retained_publish", *common, "--payload", "off") == "test_examples/state is 'off' from now on\n"
    with Server("subscribe", *common, "--count", "1") as subscriber:
        assert "test_examples/state off" in [subscriber.line(), *subscriber.rest()]
    assert output("retained_publish", *common, "--remove") == "removed the retained message of test_examples/state\n"


def test_publish_and_wait(mosquitto: Mosquitto) -> None:
    lines = output("publish_and_wait", "--address", mosquitto.address).splitlines()
    assert [line.split("(")[0] for line in lines] == ["QoS 0: handed over", "QoS 1: MQTTPubAckPacket", "QoS 2: MQTTPubCompPacket"]


def test_rpc(mosquitto: Mosquitto) -> None:
    common = ["--address", mosquitto.address, "--topic", "test_examples/multiply"]
    with Server("rpc_server", *common, "--count", "2") as server:
        assert server.line() == "answering requests to test_examples/multiply"
        assert json.loads(output("rpc_caller", *common, "6", "7")) == {"result": 42}
        assert json.loads(output("rpc_caller", *common, "6", "-7")) == {"result": -42}
        assert server.rest() == []


def test_low_bandwidth(mosquitto: Mosquitto) -> None:
    topic = "test_examples/low_bandwidth/a-long-topic-name"
    with Server("subscribe", "--address", mosquitto.address, "--topic", topic, "--count", "5") as subscriber:
        subscriber.line()
        printed = output("low_bandwidth", "--address", mosquitto.address, "--topic", topic, "--count", "5")
        assert printed == f"published 5 measurements; each but the first without the {len(topic)} bytes of its topic name\n"
        assert subscriber.rest() == [f"{topic} {number}" for number in range(5)]


def test_tls(mosquitto_factory: Callable[..., Mosquitto], tmp_path: Path) -> None:
    files = write_certificates(tmp_path)
    broker = mosquitto_factory(certificate=files.server, key=files.server_key, authority=files.authority)
    own = ["--authority", str(files.authority), "--certificate", str(files.client), "--key", str(files.client_key)]
    assert output("tls", "--address", broker.client_certificate_address, *own) == "published to ohmqtt/example over TLS\n"
    refused = run("tls", "--address", broker.tls_address)
    assert refused.returncode == 1
    assert "certificate" in refused.stderr


def test_authentication_by_password(mosquitto_factory: Callable[..., Mosquitto]) -> None:
    broker = mosquitto_factory(users={"me": "secret"})
    arguments = ["--address", broker.address, "--user-name", "me", "--password"]
    assert output("authentication", *arguments, "secret") == "connected as me\n"
    refused = run("authentication", *arguments, "wrong")
    assert refused.returncode == 1
    assert "0x87" in refused.stderr or "0x86" in refused.stderr


def test_authentication_by_scram() -> None:
    method = "SCRAM-SHA-256"
    me = ["--user-name", "me", "--password", "secret", "--scram"]
    with Peer() as peer, Server("authentication", "--address", peer.address, *me) as client:
        link = peer.accept()
        server = ScramServer({"me": make_verifier(b"secret")})
        first = link.expect("CONNECT").properties
        assert first["AuthenticationMethod"] == method
        link.auth(0x18, AuthenticationMethod=method, AuthenticationData=server.challenge(first["AuthenticationData"]))
        proof = link.expect("AUTH", reason_code=0x18).properties["AuthenticationData"]
        link.connack(0, AuthenticationMethod=method, AuthenticationData=server.verify(proof))
        assert client.rest() == ["connected as me"]
        link.expect("DISCONNECT", reason_code=0)


def test_single_threaded(mosquitto: Mosquitto) -> None:
    printed = output("single_threaded", "--address", mosquitto.address, "--topic", "test_examples/single", "--count", "3")
    assert printed.splitlines() == ["received message 0", "received message 1", "received message 2"]


def test_toolkit() -> None:
    assert output("toolkit")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in WITHOUT_A_BROKER])
def test_without_a_broker_an_example_says_so_in_one_line(name: str, tmp_path: Path) -> None:
    address = f"localhost:{free_port()}"
    more = {"persistent_publisher": ["--database", str(tmp_path / "example.db")], "rpc_caller": ["6", "7"]}.get(name, [])
    result = run(name, "--address", address, "--wait", "0.5", *more)
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(f"No broker answers at {'mqtts://' if name == 'tls' else ''}{address} (")
    assert re.search("mosquitto", result.stderr)


def test_what_is_no_address_is_an_error_of_the_command_line() -> None:
    result = run("publish", "--address", "localhost:mqtt")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].endswith(
        "argument --address: address 'localhost:mqtt': the port must be a number from 1 to 65,535"
    )


def test_every_example_is_tried_here() -> None:
    tried = Path(__file__).read_text(encoding="utf-8")
    assert not [name for name in NAMES if not re.search(rf'(output|run|Server)\("{name}"', tried)]
