"""The sink of the benchmarks finds fault with clients that cheat: in C, where there is a compiler, and in Python."""

from __future__ import annotations

import socket

import pytest

from bench.sink import Sink, compiled_sink

_CONNECT = b"\x10\x13\x00\x04MQTT\x05\x02\x00\x3c\x03\x21\x00\x02\x00\x03bob"
_LANGUAGES = ["python", "c"] if compiled_sink() else ["python"]

pytestmark = pytest.mark.slow


@pytest.fixture(params=_LANGUAGES)
def language(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "python":
        monkeypatch.setenv("OHMQTT_BENCH_SINK", "python")
    return str(request.param)


def _publish(counter: int, packet_id: int = 0, qos: int = 1, topic: bytes = b"a", size: int = 8, flags: int = 0) -> bytes:
    identifier = packet_id.to_bytes(2, "big") if qos else b""
    body = len(topic).to_bytes(2, "big") + topic + identifier + b"\x00" + (counter.to_bytes(8, "big") + bytes(size))[:size]
    return bytes((0x30 | qos << 1 | flags, len(body))) + body


def _talk(sink: Sink, data: bytes, answers: int = 0) -> bytes:
    """Send CONNECT and bytes, wait for so many bytes behind CONNACK, say goodbye."""
    with socket.create_connection(("127.0.0.1", sink.port), 60) as client:
        client.sendall(_CONNECT)
        received = client.recv(100)
        try:
            client.sendall(data)
            end = len(received) + answers
            while len(received) < end:
                chunk = client.recv(4096)
                if not chunk:
                    break
                received += chunk
            client.sendall(b"\xe0\x00")
        except ConnectionError:
            pass
    return received


_HONEST = {
    "qos 0": b"".join(_publish(number, qos=0) for number in range(3)),
    "qos 1": b"".join(_publish(number, number + 1) for number in range(3)),
}


@pytest.mark.parametrize("name", _HONEST)
def test_an_honest_client_is_timed(language: str, name: str) -> None:
    with Sink(case="publish", count=3, size=8, receive_maximum=9) as sink:
        received = _talk(sink, _HONEST[name], 0 if name == "qos 0" else 12)
        report = sink.report()
    assert received.startswith(b"\x20\x06\x00\x00\x03\x21\x00\x09")
    assert report["ok"], report
    assert report["publishes"] == report["acknowledged"] == 3


def test_qos_2_is_finished(language: str) -> None:
    with Sink(case="publish", count=1, size=8) as sink:
        received = _talk(sink, _publish(0, 7, 2) + b"\x62\x02\x00\x07", 8)
        report = sink.report()
    assert received[5:] == b"\x50\x02\x00\x07\x70\x02\x00\x07"
    assert report["ok"], report


_CHEATS = {
    "out of order": (_publish(1, 1), "out of order"),
    "twice": (_publish(0, 1) + _publish(0, 2), "out of order"),
    "identifier in use": (_publish(0, 1, 2) + _publish(1, 1, 2), "in use"),
    "identifier 0": (_publish(0, 0), "identifier"),
    "Receive Maximum": (_publish(0, 1, 2) + _publish(1, 2, 2) + _publish(2, 3, 2), "Receive Maximum exceeded"),
    "DUP": (_publish(0, 1, flags=8), "bad flags"),
    "another topic": (_publish(0, 1) + _publish(1, 2, topic=b"b"), "another topic"),
    "another size": (_publish(0, 1, size=9), "payload of 9 bytes"),
    "PUBREL of nothing": (b"\x62\x02\x00\x07", "not published"),
    "unfinished": (b"".join(_publish(number, number + 1, 2 * (number == 0)) for number in range(3)), "unfinished"),
    "missing": (_publish(0, 1), "1 of 3 messages"),
    "nothing": (b"", "0 of 3 messages"),
    "DISCONNECT first": (b"\xe0\x00" + _publish(0, 1), "after DISCONNECT"),
}


@pytest.mark.parametrize("name", _CHEATS)
def test_a_client_that_cheats_is_reported(language: str, name: str) -> None:
    data, reason = _CHEATS[name]
    if name == "unfinished":
        data = _publish(0, 1, 2) + _publish(1, qos=0) + _publish(2, qos=0)
    with Sink(case="publish", count=3, size=8, receive_maximum=2, timeout=60) as sink:
        _talk(sink, data, 4 if name in ("unfinished", "missing") else 0)
        report = sink.report()
    assert not report["ok"]
    assert reason in report["error"]


_SUBSCRIBE = b"\x82\x07\x00\x01\x00\x00\x01a\x02"
_SUBACK = 6


def _receive(sink: Sink, answers: list[tuple[int, bytes]]) -> bytes:
    """Subscribe, then read so many bytes and send the answer, step by step."""
    received = b""
    with socket.create_connection(("127.0.0.1", sink.port), 60) as client:
        client.sendall(_CONNECT + _SUBSCRIBE)
        for count, answer in answers:
            end = len(received) + count
            while len(received) < end:
                chunk = client.recv(end - len(received))
                if not chunk:
                    return received
                received += chunk
            client.sendall(answer)
    return received


def test_receive_keeps_the_clients_receive_maximum_and_ends_with_a_mark(language: str) -> None:
    size = len(_publish(0, 1))
    with Sink(case="receive", qos=1, count=3, size=8, timeout=60) as sink:
        answers = [(5 + _SUBACK + 2 * size, b"\x40\x02\x00\x01\x40\x02\x00\x02"), (size, b"\x40\x02\x00\x03"), (size - 2, b"\xe0\x00")]
        received = _receive(sink, answers)
        report = sink.report()
    assert report["ok"], report
    assert report["in_flight_peak"] == 2
    assert received.endswith(_publish(1, 2) + _publish(2, 3) + _publish(3, qos=0))


@pytest.mark.parametrize(
    ("qos", "answer", "reason"),
    [
        (1, b"\x40\x02\x00\x02", "out of order"),
        (1, b"\x50\x02\x00\x01", "0x50"),
        (2, b"\x70\x02\x00\x01", "not released"),
        (2, b"\x50\x02\x00\x02", "out of order"),
        (1, b"\xe0\x00", "3 messages"),
    ],
)
def test_wrong_acknowledgements_are_reported(language: str, qos: int, answer: bytes, reason: str) -> None:
    with Sink(case="receive", qos=qos, count=3, size=8, timeout=60) as sink:
        _receive(sink, [(5 + _SUBACK + 2 * len(_publish(0, 1)), answer)])
        report = sink.report()
    assert not report["ok"]
    assert reason in report["error"]
