"""What a backlog in the database costs a restart: ``python3 -m bench.reconnect``.

Rows are left behind by one process, and taken up by a fresh one. *queued* were never sent; *in flight* were sent, half of them at QoS 1 without
an answer, half at QoS 2 with their PUBREC. Measured: opening the database, from ``connect()`` to the first PUBLISH (or PUBREL) at the peer,
until everything is acknowledged, and the peak of memory. Work must grow with the rows, not with their square: the table's last columns
are per message.
"""

from __future__ import annotations

import argparse
import json
import resource
import select
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
_TOPIC = "bench/topic"
_WAIT_S = 120.0
_ID = "bench"


def _peak_kib() -> int:
    """Return the most memory that this process had."""
    try:
        # What getrusage says begins with the size of the process that started this one.
        return next(int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _client(path: str) -> Any:
    from ohmqtt import Client, SessionSettings

    return Client(path, db_fast=True, settings=SessionSettings(queue_messages_max=1 << 20, queue_bytes_max=1 << 30))


def _connect(client: Any, port: int) -> None:
    from ohmqtt import MQTTConnectProps

    client.connect(f"127.0.0.1:{port}", client_id=_ID, connect_properties=MQTTConnectProps(SessionExpiryInterval=3_600))


def _messages(first: int, last: int) -> list[tuple[str, bytes]]:
    return [(_TOPIC, number.to_bytes(8, "big") + b"x" * 8) for number in range(first, last)]


def _fill(path: str, rows: int, port: int) -> None:
    """Leave rows behind; with a port, rows that were sent there."""
    with _client(path) as client:
        if port:
            _connect(client, port)
            client.wait_for_connect(_WAIT_S)
        for first in range(0, rows, 4_096):
            client.publish_many(_messages(first, min(first + 4_096, rows)), 1 if first < rows // 2 or not port else 2)
        while port and client.is_connected():  # the peer closes when it has seen enough
            select.select([], [], [], 0.01)
        client.shutdown()


def _take_up(path: str, rows: int, port: int) -> dict[str, float]:
    """Send what a former process left, and one more."""
    import ohmqtt  # noqa: F401  # not to be measured

    memory_kib = _peak_kib()
    began, cpu_began_s = time.monotonic(), time.process_time()
    client = _client(path)
    opened, cpu_opened_s = time.monotonic(), time.process_time()
    before = resource.getrusage(resource.RUSAGE_SELF)
    with client:
        connected = time.monotonic()
        _connect(client, port)
        client.publish(_TOPIC, _messages(rows, rows + 1)[0][1], 1).wait_for_ack(_WAIT_S)
        done = time.monotonic()
        after = resource.getrusage(resource.RUSAGE_SELF)
        left = sum(1 for _ in client.pending())
    return {
        "open_s": opened - began,
        "open_cpu_s": cpu_opened_s - cpu_began_s,
        "connected_at": connected,
        "drain_s": done - connected,
        "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "memory_kib": _peak_kib() - memory_kib,
        "left": left,
    }


def _keep(port_at: Any, publishes: int, session_present: bool, answering: bool) -> None:
    """Be a server for one connection that keeps a session: count ``publishes``, and answer them all, or only with PUBREC and then close."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], file=port_at, flush=True)
        link, _ = listener.accept()
    seen = releases = 0
    first_at = 0.0
    data = b""
    with link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while chunk := link.recv(262_144):
            data += chunk
            out = bytearray()
            at = 0
            while len(data) - at > 1 and len(data) - at >= 2 + data[at + 1]:
                kind, end = data[at] >> 4, at + 2 + data[at + 1]
                assert data[at + 1] < 128
                if kind == 1:
                    out += bytes((0x20, 3, session_present, 0, 0))
                elif kind == 3:
                    first_at = first_at or time.monotonic()
                    seen += 1
                    topic_end = at + 4 + len(_TOPIC)
                    if data[at] & 4 or answering:
                        out += bytes((0x50 if data[at] & 4 else 0x40, 2)) + data[topic_end : topic_end + 2]
                elif kind == 6:
                    first_at = first_at or time.monotonic()
                    releases += 1
                    if answering:
                        out += b"\x70\x02" + data[at + 2 : at + 4]
                at = end
            data = data[at:]
            link.sendall(out)
            if not answering and seen + releases >= publishes:
                break
    print(json.dumps({"first_at": first_at, "seen": seen, "releases": releases}), file=port_at)


def _process(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench.reconnect", *map(str, arguments)], stdout=subprocess.PIPE, text=True, cwd=_HERE.parent
    )


def _run(*arguments: object) -> str:
    with _process(*arguments) as process:
        text, _ = process.communicate(timeout=_WAIT_S + 30)
    if process.returncode:
        raise RuntimeError(f"{arguments} ended with {process.returncode}")
    return text


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def measure(kind: str, rows: int) -> dict[str, float]:
    """Return the figures of one restart with so many rows that are ``queued`` or ``in flight``."""
    from bench.sink import Sink

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "backlog.db"
        if kind == "queued":
            _run("--fill", path, "--rows", rows, "--port", 0)
            with Sink(case="publish", qos=1, count=rows + 1, size=16, timeout=_WAIT_S) as sink:
                figures: dict[str, float] = json.loads(_run("--take-up", path, "--rows", rows, "--port", sink.port))
                report = sink.report()
            if not report["ok"]:
                raise RuntimeError(f"the sink says: {report['error']}")
        else:
            with _process("--keep", 2 * rows - (rows // 2 + 4_095) // 4_096 * 4_096) as peer:
                _run("--fill", path, "--rows", rows, "--port", int(_line(peer)))
            with _process("--keep", 0) as peer:
                figures = json.loads(_run("--take-up", path, "--rows", rows, "--port", int(_line(peer))))
                report = json.loads(_line(peer))
    if figures["left"]:
        raise RuntimeError(f"{figures['left']} messages were not acknowledged")
    figures["first_s"] = report["first_at"] - figures.pop("connected_at")
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="8192,16384,32768,65024", help="how many rows to leave behind (default 8192,16384,32768,65024)")
    parser.add_argument("--kinds", default="queued,in flight")
    parser.add_argument("--fill", help=argparse.SUPPRESS)
    parser.add_argument("--take-up", help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    sys.path[:0] = [str(_HERE.parent / "src")]
    if options.keep is not None:
        _keep(sys.stdout, options.keep, not options.keep, not options.keep)
    elif options.fill:
        _fill(options.fill, int(options.rows), options.port)
    elif options.take_up:
        print(json.dumps(_take_up(options.take_up, int(options.rows), options.port)))
    else:
        print(f"{'':<10} {'rows':>7} {'open':>9} {'first':>9} {'all':>9} {'memory':>11} {'all':>13} {'CPU':>13}")
        for kind in options.kinds.split(","):
            for rows in map(int, options.rows.split(",")):
                figures = measure(kind, rows)
                print(
                    f"{kind:<10} {rows:>7,} {figures['open_s'] * 1e3:>6.1f} ms {figures['first_s'] * 1e3:>6.1f} ms {figures['drain_s']:>7.3f} s "
                    f"{figures['memory_kib'] / 1024:>7.1f} MiB {figures['drain_s'] / rows * 1e6:>6.1f} µs/msg {figures['cpu_s'] / rows * 1e6:>6.1f} µs/msg",
                    flush=True,
                )
    return 0


if __name__ == "__main__":
    sys.exit(main())
