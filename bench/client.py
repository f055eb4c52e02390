"""What a message costs: CPU µs per message and messages per second, for ΩQTT and its yardsticks in one interleaved run.

``python3 -m bench.client`` runs everything; ``--help`` lists the choices; ``bench/README.md`` says how to read the result.

It owns the order of the runs and the clock. Each run is a fresh process against a fresh sink; the process times itself from "connected" to
"all acknowledged" (publish) or "the end mark was delivered", which the sink sends after the last acknowledgement (receive). Invariant: a
run that the sink found fault with is reported as such and never enters a median.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
_TOPIC = "bench/topic"
_PREPARED_BYTES_MAX = 64 * 1024 * 1024
_WAIT_S = 120.0

CASES = ("publish0", "receive0", "publish1", "receive1", "publish2", "receive2")


class _Clock:
    """CPU and wall time of this process between start and stop."""

    def start(self) -> None:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self._cpu = usage.ru_utime + usage.ru_stime
        self._wall = time.perf_counter()

    def stop(self) -> None:
        self.wall_s = time.perf_counter() - self._wall
        usage = resource.getrusage(resource.RUSAGE_SELF)
        self.cpu_s = usage.ru_utime + usage.ru_stime - self._cpu
        self.memory_kib = usage.ru_maxrss // (1024 if sys.platform == "darwin" else 1)


class _Payloads(Sequence[bytes]):
    """The payloads: a counter in the first eight bytes. Prepared when they fit into memory, else made when asked for."""

    def __new__(cls, count: int, size: int) -> Any:
        filler = b"x" * max(0, size - 8)
        if count * (size + 64) <= _PREPARED_BYTES_MAX:
            return [(number.to_bytes(8, "big") + filler)[:size] for number in range(count)]
        return super().__new__(cls)

    def __init__(self, count: int, size: int) -> None:
        self._count, self._size, self._filler = count, size, b"x" * max(0, size - 8)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if index >= self._count:
            raise IndexError(index)
        return (index.to_bytes(8, "big") + self._filler)[: self._size]


def _run_ohmqtt(case: str, qos: int, port: int, payloads: Sequence[bytes], filters: Sequence[str], clock: _Clock) -> None:
    from ohmqtt import Client

    with Client() as client:
        client.connect(f"127.0.0.1:{port}", client_id="bench")
        client.wait_for_connect(10.0)
        if case == "publish":
            publish = client.publish
            clock.start()
            handle = None
            for payload in payloads:
                handle = publish(_TOPIC, payload, qos=qos)
            if handle is not None:
                handle.wait_for_ack(_WAIT_S)
            clock.stop()
        else:
            done = threading.Event()
            left = len(payloads) + 1

            def callback(_client: object, _message: object) -> None:
                nonlocal left
                left -= 1
                if not left:
                    done.set()

            subscribed = [client.subscribe(topic_filter, callback, max_qos=qos) for topic_filter in filters[:-1]]
            for subscription in subscribed:
                subscription.wait_for_ack(_WAIT_S)
            clock.start()
            client.subscribe(filters[-1], callback, max_qos=qos)
            _wait(done)
            clock.stop()


def _run_bare(case: str, qos: int, port: int, payloads: Sequence[bytes], filters: Sequence[str], clock: _Clock) -> None:
    from bench.bare_threads import BareClient, BareMessage

    client = BareClient(port)
    if case == "publish":
        publish = client.publish
        clock.start()
        handle = None
        for payload in payloads:
            handle = publish(_TOPIC, payload, qos)
        if handle is not None:
            handle.wait_for_ack(_WAIT_S)
        clock.stop()
    else:
        done = threading.Event()
        left = len(payloads) + 1

        def callback(_client: BareClient, _message: BareMessage) -> None:
            nonlocal left
            left -= 1
            if not left:
                done.set()

        for topic_filter in filters[:-1]:
            client.subscribe(topic_filter, callback, qos)
        clock.start()
        client.subscribe(filters[-1], callback, qos)
        _wait(done)
        clock.stop()
    client.close()


def _run_floor(case: str, qos: int, port: int, payloads: Sequence[bytes], filters: Sequence[str], clock: _Clock) -> None:
    from bench import floor

    link, window = floor.connect(port)
    clock.start()
    if case == "publish":
        floor.publish(link, window, _TOPIC, payloads, qos)
    else:
        floor.receive(link, filters[0], len(payloads), qos)
    clock.stop()
    link.sendall(b"\xe0\0")
    link.close()


def _run_ceiling(case: str, qos: int, port: int, payloads: Sequence[bytes], _filters: Sequence[str], clock: _Clock) -> None:
    """Blast bytes prepared beforehand and count the answer: what the sink itself can take."""
    from bench import floor

    if case != "publish" or qos > 1:
        raise SystemExit("the ceiling has publish0 and publish1 only")
    link, _window = floor.connect(port)
    head = len(_TOPIC).to_bytes(2, "big") + _TOPIC.encode()
    batches: list[tuple[bytes, int]] = []
    for start in range(0, len(payloads), 8192):
        packets = []
        for number in range(start, min(start + 8192, len(payloads))):
            identifier = (number % 65535 + 1).to_bytes(2, "big") if qos else b""
            body = head + identifier + b"\0" + payloads[number]
            length = len(body)
            header = bytearray((0x30 | qos << 1,))
            while length > 127:
                header.append(length & 127 | 128)
                length >>= 7
            header.append(length)
            packets.append(bytes(header) + body)
        batches.append((b"".join(packets), len(packets)))
    clock.start()
    for batch, packets_sent in batches:
        link.sendall(batch)
        missing = 4 * packets_sent if qos else 0
        while missing:
            missing -= len(link.recv(262144))
    if not qos:
        link.sendall(b"\xc0\0")
        link.recv(2)
    clock.stop()
    link.sendall(b"\xe0\0")
    link.close()


def _run_paho(case: str, qos: int, port: int, payloads: Sequence[bytes], filters: Sequence[str], clock: _Clock) -> None:
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    connected, done = threading.Event(), threading.Event()
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="bench", protocol=paho.MQTTv5)
    client.max_inflight_messages_set(65535)
    client.on_connect = lambda *_arguments: connected.set()
    left = len(payloads) if case == "publish" else len(payloads) + 1

    def count_down(*_arguments: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            done.set()

    # Without this each exchange of more than one packet waits 40 ms for a delayed acknowledgement of TCP.
    no_delay: Any = lambda _client, _data, link: link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # noqa: E731
    client.on_socket_open = no_delay
    client.connect("127.0.0.1", port)
    client.loop_start()
    _wait(connected)
    if case == "publish":
        client.on_publish = count_down
        clock.start()
        for payload in payloads:
            client.publish(_TOPIC, payload, qos)
    else:
        client.on_message = count_down
        for topic_filter in filters[:-1]:
            client.subscribe(topic_filter, qos)
        clock.start()
        client.subscribe(filters[-1], qos)
    _wait(done)
    clock.stop()
    client.disconnect()
    client.loop_stop()


def _wait(event: threading.Event) -> None:
    if not event.wait(_WAIT_S):
        raise TimeoutError("not finished")


CONTENDERS: dict[str, Callable[[str, int, int, Sequence[bytes], Sequence[str], _Clock], None]] = {
    "ohmqtt": _run_ohmqtt,
    "bare": _run_bare,
    "floor": _run_floor,
    "paho": _run_paho,
    "ceiling": _run_ceiling,
}


def _child(options: argparse.Namespace) -> None:
    """Run one case in this process and print its figures."""
    case, qos = options.child_case[:-1], int(options.child_case[-1])
    clock = _Clock()
    filters = [_TOPIC] + [f"bench/filter/{number}" for number in range(1, options.subscriptions)]
    CONTENDERS[options.child](case, qos, options.port, _Payloads(options.count, options.size), filters, clock)
    print(json.dumps({"cpu_s": clock.cpu_s, "wall_s": clock.wall_s, "memory_kib": clock.memory_kib}))


def _one_run(contender: str, case: str, options: argparse.Namespace) -> dict[str, Any]:
    """Start a sink and a fresh process, and return the figures of both; ``error`` names what went wrong."""
    from bench.sink import Sink

    kind, qos = case[:-1], int(case[-1])
    arguments = {"case": kind, "qos": qos, "count": options.count, "size": options.size, "timeout": _WAIT_S}
    if kind == "publish":
        arguments["receive_maximum"] = options.receive_maximum
    else:
        arguments["topics"] = options.subscriptions
        arguments["used"] = min(options.topics, options.subscriptions)
        arguments["window"] = options.receive_maximum
    with Sink(**arguments) as sink:
        command = [sys.executable, str(Path(__file__).resolve()), "--child", contender, "--child-case", case, "--port", str(sink.port)]
        command += ["--count", str(options.count), "--size", str(options.size), "--subscriptions", str(options.subscriptions)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_WAIT_S + 30, check=False)
        except subprocess.TimeoutExpired:
            return {"error": "hung"}
        if done.returncode:
            sink.stop()
            last_line = done.stderr.strip().splitlines()[-1:] or ["no message"]
            return {"error": f"failed: {last_line[0]}"}
        report = sink.report()
    if not report["ok"]:
        return {"error": f"the sink says: {report['error']}"}
    return {"client": json.loads(done.stdout.strip().splitlines()[-1]), "sink": report, "language": sink.language}


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def _versions(contenders: Sequence[str]) -> str:
    names = [
        f"{platform.python_implementation()} {platform.python_version()}",
        f"{platform.system()} {platform.machine()}",
        f"{os.cpu_count()} cores",
    ]
    for contender, package in (("ohmqtt", "ohmqtt"), ("paho", "paho-mqtt")):
        if contender in contenders:
            try:
                names.append(f"{package} {importlib.metadata.version(package)}")
            except importlib.metadata.PackageNotFoundError:
                names.append(f"{package} from the source tree")
    return ", ".join(names)


def _print_table(results: dict[tuple[str, str], list[dict[str, Any]]], cases: Sequence[str], contenders: Sequence[str], count: int) -> None:
    medians: dict[tuple[str, str], float] = {}
    print(f"\n{'case':<10} {'client':<8} {'CPU µs per message':<24} {'messages per second':>20}  {'sink CPU µs':>11}  note")
    for case in cases:
        for contender in contenders:
            runs = results[case, contender]
            good = [run for run in runs if "error" not in run]
            errors = sorted({run["error"] for run in runs if "error" in run})
            note = f"{len(runs) - len(good)} of {len(runs)} runs failed: {'; '.join(errors)}" if errors else ""
            if not good:
                print(f"{case:<10} {contender:<8} {'-':<24} {'-':>20}  {'-':>11}  {note}")
                continue
            costs = [run["client"]["cpu_s"] / count * 1e6 for run in good]
            medians[case, contender] = statistics.median(costs)
            rate = statistics.median([count / run["client"]["wall_s"] for run in good])
            sink_cost = statistics.median([run["sink"]["cpu_s"] / count * 1e6 for run in good])
            print(f"{case:<10} {contender:<8} {_spread(costs):<24} {rate:>20,.0f}  {sink_cost:>11.2f}  {note}")
    for yardstick in ("bare", "floor"):
        for contender in contenders:
            pairs = [
                (case, medians[case, contender] / medians[case, yardstick])
                for case in cases
                if (case, contender) in medians and (case, yardstick) in medians
            ]
            if pairs and contender not in (yardstick, "floor", "ceiling"):
                print(f"{contender} / {yardstick}: " + ", ".join(f"{case} {ratio:.2f}" for case, ratio in pairs))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50_000, help="messages in a run (default 50000)")
    parser.add_argument("--size", type=int, default=16, help="payload bytes, at least 8 for the order to be checked (default 16)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each case and client, interleaved (default 5)")
    parser.add_argument("--cases", default=",".join(CASES), help=f"of {','.join(CASES)}")
    parser.add_argument("--clients", default="ohmqtt,bare,floor", help=f"of {','.join(CONTENDERS)}; 'ceiling' shows what the sink can take")
    parser.add_argument("--peers", default="", help="other libraries to run beside: paho")
    parser.add_argument("--receive-maximum", type=int, default=0, help="the sink's, and a bound on what it has in flight; 0: none")
    parser.add_argument("--subscriptions", type=int, default=1, help="filters subscribed to before a receive case (default 1)")
    parser.add_argument("--topics", type=int, default=1, help="how many of them messages use, in turn (default 1)")
    parser.add_argument("--json", metavar="FILE", help="also write every run's figures")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--child-case", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path[:0] = [str(_HERE.parent), str(_HERE.parent / "src")]
    if options.child:
        _child(options)
        return 0
    cases = options.cases.split(",")
    contenders = [name for name in f"{options.clients},{options.peers}".split(",") if name]
    unknown = [name for name in contenders if name not in CONTENDERS] + [case for case in cases if case not in CASES]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}")
    results: dict[tuple[str, str], list[dict[str, Any]]] = {(case, contender): [] for case in cases for contender in contenders}
    started = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    languages: set[str] = set()
    for number in range(options.runs):
        for case in cases:
            for contender in contenders:
                if sys.stderr.isatty():
                    print(f"\rrun {number + 1} of {options.runs}: {case} {contender}          ", end="", file=sys.stderr, flush=True)
                result = _one_run(contender, case, options)
                results[case, contender].append(result)
                languages.add(result.get("language", ""))
    if sys.stderr.isatty():
        print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
    print(f"{started}; {_versions(contenders)}; sink in {' and '.join(sorted(languages - {''})) or '-'}")
    print(f"{options.count:,} messages of {options.size:,} bytes, {options.runs} runs: median (minimum–maximum)")
    _print_table(results, cases, contenders, options.count)
    if options.json:
        Path(options.json).write_text(
            json.dumps([{"case": case, "client": contender, "runs": runs} for (case, contender), runs in results.items()], indent=1)
        )
    return 1 if any("error" in run for runs in results.values() for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
