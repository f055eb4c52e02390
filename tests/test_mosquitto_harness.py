"""The harness itself: a broker of ours starts, listens everywhere, freezes, dies, comes back, and leaves nothing behind."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.certificates import write_certificates
from tests.mosquitto import MISSING_MESSAGE, Mosquitto, MosquittoError, find_mosquitto

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    MosquittoFactory = Callable[..., Mosquitto]

# CONNECT, MQTT 5.0, Clean Start, no keep alive, empty client identifier.
CONNECT = bytes.fromhex("100d00044d51545405020000000000")
PINGREQ = b"\xc0\x00"
PINGRESP = b"\xd0\x00"


def connected(family: int, where: str | tuple[str, int], connect: bytes = CONNECT) -> tuple[socket.socket, bytes]:
    """Return a socket that has sent CONNECT, and the first bytes of the answer: CONNACK's type, length, flags and reason code."""
    peer = socket.socket(family, socket.SOCK_STREAM)
    peer.settimeout(30.0)
    peer.connect(where)
    peer.sendall(connect)
    head = peer.recv(2)
    body = b""
    while len(body) < head[1]:
        body += peer.recv(head[1] - len(body))
    return peer, head + body[:2]


def connect_with_password(user_name: str, password: str) -> bytes:
    fields = b"".join(len(text).to_bytes(2, "big") + text for text in (b"", user_name.encode(), password.encode()))
    body = b"\x00\x04MQTT\x05\xc2\x00\x00\x00" + fields
    return bytes((0x10, len(body))) + body


def test_every_listener_of_the_shared_broker_answers(mosquitto: Mosquitto) -> None:
    endpoints: list[tuple[int, str | tuple[str, int]]] = [(socket.AF_INET, ("127.0.0.1", mosquitto.port))]
    if mosquitto.has_ipv6:
        endpoints.append((socket.AF_INET6, ("::1", mosquitto.port)))
    if mosquitto.has_unix:
        endpoints.append((socket.AF_UNIX, str(mosquitto.unix_path)))
    for endpoint in endpoints:
        peer, connack = connected(*endpoint)
        peer.close()
        assert connack[0] == 0x20
        assert connack[2:] == b"\x00\x00"


def test_addresses_are_written_as_clients_write_them(mosquitto: Mosquitto) -> None:
    assert mosquitto.address == f"127.0.0.1:{mosquitto.port}"
    if mosquitto.has_ipv6:
        assert mosquitto.ipv6_address == f"[::1]:{mosquitto.port}"
    if mosquitto.has_unix:
        assert mosquitto.unix_address == f"unix:{mosquitto.folder}/socket"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGSTOP")
def test_a_frozen_broker_is_silent_and_answers_when_thawed(mosquitto_factory: MosquittoFactory) -> None:
    broker = mosquitto_factory()
    peer, _ = connected(socket.AF_INET, ("127.0.0.1", broker.port))
    with peer:
        broker.freeze()
        peer.sendall(PINGREQ)
        peer.settimeout(0.2)
        with pytest.raises(TimeoutError):
            peer.recv(2)
        broker.thaw()
        peer.settimeout(30.0)
        assert peer.recv(2) == PINGRESP


@pytest.mark.slow
def test_a_killed_broker_drops_its_links_and_comes_back_on_the_same_port(mosquitto_factory: MosquittoFactory) -> None:
    broker = mosquitto_factory()
    port, pid = broker.port, broker.pid
    peer, _ = connected(socket.AF_INET, ("127.0.0.1", port))
    with peer:
        broker.kill()
        assert not broker.is_running()
        try:
            assert peer.recv(1) == b""
        except ConnectionResetError:
            pass
    broker.restart()
    assert broker.port == port
    assert broker.pid != pid
    peer, connack = connected(socket.AF_INET, ("127.0.0.1", port))
    peer.close()
    assert connack[3] == 0


@pytest.mark.slow
def test_restart_with_persistence_keeps_the_session(mosquitto_factory: MosquittoFactory) -> None:
    # Client identifier "x", no Clean Start, Session Expiry Interval 0xFFFFFFFF.
    connect = b"\x10\x13\x00\x04MQTT\x05\x00\x00\x00\x05\x11\xff\xff\xff\xff\x00\x01x"
    broker = mosquitto_factory(persistent=True)
    where = ("127.0.0.1", broker.port)
    peer, connack = connected(socket.AF_INET, where, connect)
    peer.close()
    assert connack[2] == 0
    broker.restart()
    peer, connack = connected(socket.AF_INET, where, connect)
    peer.close()
    assert connack[2] == 1


@pytest.mark.slow
def test_users_need_their_password(mosquitto_factory: MosquittoFactory) -> None:
    broker = mosquitto_factory(users={"alice": "correct"})
    where = ("127.0.0.1", broker.port)
    for connect, reason_code in (
        (connect_with_password("alice", "correct"), 0),
        (connect_with_password("alice", "wrong"), 0x87),
        (CONNECT, 0x87),
    ):
        peer, connack = connected(socket.AF_INET, where, connect)
        peer.close()
        assert connack[3] == reason_code


@pytest.mark.slow
def test_tls_listeners_show_their_certificate_and_one_asks_for_ours(mosquitto_factory: MosquittoFactory, tmp_path: Path) -> None:
    files = write_certificates(tmp_path)
    broker = mosquitto_factory(certificate=files.server, key=files.server_key, authority=files.authority)

    def connack(port: int, context: ssl.SSLContext) -> bytes:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=30.0) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as peer,
        ):
            peer.sendall(CONNECT)
            return peer.recv(4)

    context = files.client_context()
    assert connack(broker.tls_port, context)[2:] == b"\0\0"
    # An SSLError or a reset, as the platform has it; with TLS 1.3 only when we read.
    with pytest.raises(OSError):
        assert connack(broker.client_certificate_port, context) == b"not this"
    context.load_cert_chain(files.client, files.client_key)
    assert connack(broker.client_certificate_port, context)[2:] == b"\0\0"
    assert broker.tls_address == f"mqtts://localhost:{broker.tls_port}"
    assert broker.client_certificate_address == f"mqtts://localhost:{broker.client_certificate_port}"


@pytest.mark.slow
def test_config_lines_take_effect_and_the_log_is_kept(mosquitto_factory: MosquittoFactory) -> None:
    broker = mosquitto_factory(config=["max_inflight_messages 7"], ipv6=False, unix=False)
    peer, _ = connected(socket.AF_INET, ("127.0.0.1", broker.port))
    peer.close()
    assert "max_inflight_messages 7" in broker.configuration()
    broker.wait_for_log("New client connected")
    with pytest.raises(MosquittoError, match="never logged"):
        broker.wait_for_log("something that it doesn't say", timeout_s=0.05)


@pytest.mark.slow
def test_a_bad_configuration_is_shown_with_the_log() -> None:
    broker = Mosquitto(config=["no_such_option true"])
    try:
        with pytest.raises(MosquittoError, match="no_such_option") as caught:
            broker.start()
        assert "--- log" in str(caught.value)
    finally:
        broker.close()


@pytest.mark.slow
def test_close_leaves_neither_process_nor_folder(mosquitto_factory: MosquittoFactory) -> None:
    broker = mosquitto_factory()
    pid = broker.pid
    broker.close()
    assert not broker.folder.exists()
    if sys.platform != "win32":
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_the_program_can_be_named_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OHMQTT_MOSQUITTO", sys.executable)
    assert find_mosquitto() == sys.executable
    monkeypatch.setenv("OHMQTT_MOSQUITTO", "/no/such/mosquitto")
    assert find_mosquitto() is None


@pytest.mark.slow
def test_without_a_broker_such_a_test_fails_and_says_what_to_install(pytestconfig: pytest.Config) -> None:
    # With CI set, not even OHMQTT_NO_BROKER leaves it out.
    test = "tests/test_mosquitto_harness.py::test_every_listener_of_the_shared_broker_answers"

    def run(**environment: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if name not in {"CI", "OHMQTT_NO_BROKER"}}
        kept["OHMQTT_MOSQUITTO"] = "/no/such/mosquitto"
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", test],
            cwd=pytestconfig.rootpath,
            env={**kept, **environment},
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    failed = run()
    assert failed.returncode == pytest.ExitCode.TESTS_FAILED
    assert MISSING_MESSAGE.splitlines()[0] in failed.stdout
    left_out = run(OHMQTT_NO_BROKER="1")
    assert left_out.returncode == pytest.ExitCode.NO_TESTS_COLLECTED
    assert "LEFT OUT" in left_out.stdout
    in_ci = run(OHMQTT_NO_BROKER="1", CI="true")
    assert in_ci.returncode == pytest.ExitCode.TESTS_FAILED
