"""How long a message takes to the peer and back to the callback: ``python3 -m bench.round_trip``.

One message at a time: publish, the sink sends it back on the same topic at the same QoS, the callback wakes the publisher. Percentiles of
one fresh process per run, the runs of all clients interleaved; the median of the runs' percentiles is quoted with its spread. The wake-up
of the waiting thread is part of every client's figure.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
_TOPIC = "bench/topic"
_WAIT_S = 20.0

# A client's way in: given (port, QoS, callback), it returns (publish, close).
_Open = Callable[[int, int, Callable[..., None]], "tuple[Callable[[bytes], object], Callable[[], object]]"]


def _open_ohmqtt(port: int, qos: int, callback: Callable[..., None]) -> tuple[Callable[[bytes], object], Callable[[], object]]:
    from ohmqtt import Client

    client = Client()
    client.start_loop()
    client.connect(f"127.0.0.1:{port}", client_id="bench")
    client.wait_for_connect(10.0)
    client.subscribe(_TOPIC, callback, max_qos=qos).wait_for_ack(10.0)

    def close() -> None:
        client.disconnect()
        client.shutdown()

    return lambda payload: client.publish(_TOPIC, payload, qos=qos), close


def _open_bare(port: int, qos: int, callback: Callable[..., None]) -> tuple[Callable[[bytes], object], Callable[[], object]]:
    from bench.bare_threads import BareClient

    client = BareClient(port)
    client.subscribe(_TOPIC, callback, qos)
    return lambda payload: client.publish(_TOPIC, payload, qos), client.close


def _open_paho(port: int, qos: int, callback: Callable[..., None]) -> tuple[Callable[[bytes], object], Callable[[], object]]:
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    subscribed = threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="bench", protocol=paho.MQTTv5)

    def on_connect(*_arguments: object) -> None:
        client.subscribe(_TOPIC, qos)

    client.on_connect = on_connect
    client.on_subscribe = lambda *_arguments: subscribed.set()
    client.on_message = callback
    # Without this each exchange of more than one packet waits 40 ms for a delayed acknowledgement of TCP.
    no_delay: Any = lambda _client, _data, link: link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # noqa: E731
    client.on_socket_open = no_delay
    client.connect("127.0.0.1", port)
    client.loop_start()
    if not subscribed.wait(10.0):
        raise TimeoutError("not subscribed")

    def close() -> None:
        client.disconnect()
        client.loop_stop()

    return lambda payload: client.publish(_TOPIC, payload, qos), close


_CLIENTS: dict[str, _Open] = {"ohmqtt": _open_ohmqtt, "bare": _open_bare, "paho": _open_paho}


def _child(options: argparse.Namespace) -> None:
    """Measure in this process and print the percentiles in µs."""
    arrived = threading.Semaphore(0)
    publish, close = _CLIENTS[options.child](options.port, options.qos, lambda *_arguments: arrived.release())
    times: list[float] = []
    clock = time.perf_counter
    for number in range(options.count):
        payload = number.to_bytes(8, "big") + b"x" * (options.size - 8)
        start = clock()
        publish(payload)
        if not arrived.acquire(timeout=_WAIT_S):
            raise TimeoutError(f"message {number} did not come back")
        times.append((clock() - start) * 1e6)
    close()
    # The first ones pay for imports and caches.
    times = sorted(times[options.count // 10 :])
    print(json.dumps({"p50": times[len(times) // 2], "p99": times[len(times) * 99 // 100], "worst": times[-1]}))


def _one_run(name: str, qos: int, options: argparse.Namespace) -> dict[str, Any]:
    from bench.sink import Sink

    with Sink(case="echo", qos=qos, count=options.count, size=options.size, timeout=_WAIT_S + 30) as sink:
        command = [sys.executable, str(Path(__file__).resolve()), "--child", name, "--qos", str(qos), "--port", str(sink.port)]
        command += ["--count", str(options.count), "--size", str(options.size)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_WAIT_S + 30, check=False)
        except subprocess.TimeoutExpired:
            return {"error": "hung"}
        if done.returncode:
            return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
        report = sink.report()
    return dict(json.loads(done.stdout)) if report["ok"] else {"error": f"the sink says: {report['error']}"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=2000, help="messages in a run (default 2000)")
    parser.add_argument("--size", type=int, default=16, help="payload bytes, at least 8 (default 16)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each, interleaved (default 5)")
    parser.add_argument("--clients", default="ohmqtt,bare", help=f"of {','.join(_CLIENTS)}")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--qos", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path[:0] = [str(_HERE.parent), str(_HERE.parent / "src")]
    if options.child:
        _child(options)
        return 0
    names = options.clients.split(",")
    results: dict[tuple[int, str], list[dict[str, Any]]] = {(qos, name): [] for qos in (0, 1, 2) for name in names}
    print(
        f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}; Python {sys.version.split()[0]}; {options.count} messages, {options.runs} runs"
    )
    for _ in range(options.runs):
        for (qos, name), runs in results.items():
            runs.append(_one_run(name, qos, options))
    print(f"{'QoS':<4} {'client':<8} {'p50 µs':<24} {'p99 µs':<24}")
    for (qos, name), runs in results.items():
        good = [run for run in runs if "error" not in run]
        cells = []
        for key in ("p50", "p99") if good else ():
            values = [run[key] for run in good]
            cells.append(f"{statistics.median(values):.0f} ({min(values):.0f}–{max(values):.0f})")
        errors = {run["error"] for run in runs if "error" in run}
        print(f"{qos:<4} {name:<8} {''.join(f'{cell:<25}' for cell in cells)}{'; '.join(sorted(errors))}")
    return 1 if any("error" in run for runs in results.values() for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
