"""The peer that benchmarks run against: a process of its own that answers, checks and reports.

It owns the choice between ``sink.c`` (compiled on first use into the user's cache folder) and the slower Python stand-in below, and starts
either. Both speak the same arguments (``name=value``), print their port first and one JSON report last. Invariant: a client that breaks a
rule (order, identifiers in use, Receive Maximum, something missing) is reported, never timed.

``python3 -m bench.sink case=publish count=1000`` runs the Python stand-in by hand.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import select
import shutil
import socket
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["Sink", "compiled_sink"]

_HERE = Path(__file__).resolve().parent
_READ_BYTES = 256 * 1024


def compiled_sink() -> Path | None:
    """Return the compiled ``sink.c``, building it when its source has changed; None without a C compiler."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if not compiler or os.environ.get("OHMQTT_BENCH_SINK") == "python":
        return None
    source = _HERE / "sink.c"
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = caches / "ohmqtt-bench"
    target = folder / f"sink-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    half_done = folder / f"{target.name}.{os.getpid()}"
    done = subprocess.run([compiler, "-O2", "-o", str(half_done), str(source)], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"sink.c did not compile, the Python sink is used:\n{done.stderr}", file=sys.stderr)
        return None
    half_done.replace(target)
    return target


class Sink:
    """Start a sink for one run.

    Arguments are those of ``sink.c``: ``case`` ("publish", "receive", "echo"), ``count`` (messages), ``size`` (payload bytes), ``qos``
    (of what the sink sends), ``receive_maximum`` (announced in CONNACK, 0: absent), ``topic_alias_maximum``, ``window`` (bound on what the
    sink has in flight, 0: the client's Receive Maximum), ``topics`` (filters to wait for; for publish cases anything but 1 lifts
    the check that the topic stays the same), ``used`` (how many of the filters messages use in turn, the first ones; 0: all), ``connections`` (served one after another), ``timeout`` (seconds).
    """

    def __init__(self, **arguments: float | str) -> None:
        program = compiled_sink()
        command = [str(program)] if program else [sys.executable, str(_HERE / "sink.py")]
        self.language = "C" if program else "Python"
        self._process = subprocess.Popen(
            command + [f"{name}={value}" for name, value in arguments.items()], stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the sink did not start: {command}")
        self.port = int(line)

    def report(self, timeout_s: float = 10.0) -> dict[str, Any]:
        """Wait for the sink's end and return what it saw."""
        text, _ = self._process.communicate(timeout=timeout_s)
        return dict(json.loads(text)) if text.strip() else {"ok": False, "error": "the sink ended without a report"}

    def stop(self) -> None:
        """End the sink, whatever it is doing."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


class _BrokenRuleError(Exception):
    """The client did something that a benchmark must not time."""


class _PythonSink:
    """The stand-in for machines without a C compiler: the same checks, about a tenth of the speed."""

    def __init__(self, options: dict[str, str]) -> None:
        self.case = options.pop("case", "publish")
        self.count = int(options.pop("count", 1000))
        self.size = int(options.pop("size", 16))
        self.qos = int(options.pop("qos", 0))
        self.receive_maximum = int(options.pop("receive_maximum", 0))
        self.topic_alias_maximum = int(options.pop("topic_alias_maximum", 0))
        self.window_max = int(options.pop("window", 0))
        self.topics_wanted = int(options.pop("topics", 1))
        self.topics_used = int(options.pop("used", 0))
        self.connections = int(options.pop("connections", 1))
        self.deadline = time.monotonic() + float(options.pop("timeout", 60))
        if options:
            raise SystemExit(f"unknown arguments: {', '.join(options)}")
        self.publishes = self.acknowledged = self.reads = self.in_flight_peak = self.bytes_in = self.bytes_out = self.sent = 0
        self.first_at = self.last_at = 0.0
        self.unfinished = 0
        self.finished = False

    def run(self) -> dict[str, Any]:
        error = ""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            print(listener.getsockname()[1], flush=True)
            try:
                for _ in range(self.connections):
                    listener.settimeout(max(0.01, self.deadline - time.monotonic()))
                    link, _peer = listener.accept()
                    with link:
                        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                        link.setblocking(False)
                        self._serve(link)
                if self.case != "receive" and self.publishes != self.count:
                    raise _BrokenRuleError(f"{self.publishes} of {self.count} messages came")
                if self.case == "receive" and not self.finished:
                    raise _BrokenRuleError(f"{self.sent} of {self.count} messages sent, {self.acknowledged} acknowledged")
                if self.unfinished:
                    raise _BrokenRuleError(f"{self.unfinished} messages were left unfinished")
            except (_BrokenRuleError, OSError) as problem:
                error = str(problem) or repr(problem)
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "ok": not error,
            "error": error,
            "publishes": self.publishes,
            "acknowledged": self.acknowledged,
            "sent": self.sent,
            "in_flight_peak": self.in_flight_peak,
            "reads": self.reads,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "first_at": self.first_at,
            "elapsed_s": max(0.0, self.last_at - self.first_at),
            "cpu_s": usage.ru_utime + usage.ru_stime,
        }

    def _serve(self, link: socket.socket) -> None:
        self.topics: list[bytes] = []
        self.window = 65535
        self.connected = self.sending = self.gone = False
        self.state_in: dict[int, int] = {}
        self.state_out: dict[int, int] = {}
        self.expected: deque[int] = deque()
        self.releases: list[int] = []
        self.next_identifier = self.next_counter = self.sent = 0
        self.first_topic = b""
        self.out = bytearray()
        data = bytearray()
        while True:
            self._produce()
            readable, _writable, _ = select.select([link], [link] if self.out else [], [], 1.0)
            if time.monotonic() > self.deadline:
                raise _BrokenRuleError(
                    f"timed out: {self.publishes} of {self.count} messages, {self.acknowledged} acknowledged, {self.sent} sent"
                )
            if readable:
                chunk = link.recv(_READ_BYTES)
                if not chunk:
                    if not self.gone:
                        raise _BrokenRuleError("the client closed without DISCONNECT")
                    self.unfinished = len(self.state_in)
                    return
                self.reads += 1
                self.bytes_in += len(chunk)
                data += chunk
                del data[: self._receive(bytes(data))]
            if self.out:
                try:
                    sent = link.send(self.out)
                except BlockingIOError:
                    continue
                self.bytes_out += sent
                del self.out[:sent]
                if not self.out:
                    for identifier in self.releases:
                        del self.state_in[identifier]
                    self.acknowledged += len(self.releases)
                    self.releases.clear()

    def _receive(self, data: bytes) -> int:
        at, end = 0, len(data)
        while end - at >= 2:
            length, shift, body = 0, 0, at + 1
            while body < end:
                byte = data[body]
                body += 1
                length |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
                if shift > 21:
                    raise _BrokenRuleError("bad Remaining Length")
            else:
                break
            if body + length > end:
                break
            self._packet(data[at], data, body, body + length)
            at = body + length
        return at

    def _packet(self, first: int, data: bytes, at: int, end: int) -> None:
        kind = first >> 4
        if self.gone or (not self.connected and kind != 1):
            raise _BrokenRuleError(f"packet 0x{first:02x} before CONNECT or after DISCONNECT")
        if kind == 3:
            self._publish(first, data, at, end)
        elif kind in (4, 5, 6, 7):
            self._ack(first, data[at] << 8 | data[at + 1])
        elif kind == 1:
            self._connect(data, at)
        elif kind in (8, 10):
            self._subscribe(kind, data, at, end)
        elif kind == 12:
            self.out += b"\xd0\0"
        elif kind == 14:
            self.gone = True
        else:
            raise _BrokenRuleError(f"unexpected packet 0x{first:02x}")

    def _connect(self, data: bytes, at: int) -> None:
        if self.connected or data[at : at + 7] != b"\0\4MQTT\5":
            raise _BrokenRuleError("not the first CONNECT, or not MQTT 5")
        at += 10
        stop = at + 1 + data[at]
        at += 1
        while at < stop:
            identifier = data[at]
            if identifier == 0x21:
                self.window = data[at + 1] << 8 | data[at + 2]
            at += {0x11: 5, 0x27: 5, 0x21: 3, 0x22: 3, 0x17: 2, 0x19: 2}.get(identifier, 1 << 30)
        if self.window_max:
            self.window = min(self.window, self.window_max)
        self.connected = True
        properties = b""
        if self.receive_maximum:
            properties += b"\x21" + self.receive_maximum.to_bytes(2, "big")
        if self.topic_alias_maximum:
            properties += b"\x22" + self.topic_alias_maximum.to_bytes(2, "big")
        self.out += bytes((0x20, 3 + len(properties), 0, 0, len(properties))) + properties

    def _publish(self, first: int, data: bytes, at: int, end: int) -> None:
        self.first_at = self.first_at or time.monotonic()
        qos = first >> 1 & 3
        topic_end = at + 2 + (data[at] << 8 | data[at + 1])
        topic = data[at + 2 : topic_end]
        at = topic_end
        identifier = 0
        if qos == 3 or first & 8:
            raise _BrokenRuleError(f"PUBLISH {self.publishes}: bad flags 0x{first:02x}")
        if qos:
            identifier = data[at] << 8 | data[at + 1]
            at += 2
            if identifier == 0 or identifier in self.state_in:
                raise _BrokenRuleError(f"PUBLISH {self.publishes}: packet identifier {identifier} is zero or in use")
            self.state_in[identifier] = 1
            self.in_flight_peak = max(self.in_flight_peak, len(self.state_in))
            if len(self.state_in) > (self.receive_maximum or 65535):
                raise _BrokenRuleError(f"PUBLISH {self.publishes}: Receive Maximum exceeded")
        if data[at] > 127:
            raise _BrokenRuleError("PUBLISH: more properties than this sink reads")
        at += 1 + data[at]
        self.first_topic = self.first_topic or topic
        if topic != self.first_topic and self.topics_wanted == 1 and topic:
            raise _BrokenRuleError(f"PUBLISH {self.publishes}: another topic")
        if end - at != self.size:
            raise _BrokenRuleError(f"PUBLISH {self.publishes}: payload of {end - at} bytes, not {self.size}")
        if self.size >= 8 and int.from_bytes(data[at : at + 8], "big") != self.next_counter:
            raise _BrokenRuleError(f"PUBLISH out of order: {self.next_counter} is next")
        self.next_counter += 1
        self.publishes += 1
        if qos == 0:
            self.acknowledged += 1
        else:
            self.out += bytes((0x40 if qos == 1 else 0x50, 2, identifier >> 8, identifier & 255))
            if qos == 1:
                self.releases.append(identifier)
        if self.case == "echo":
            self._put_publish(min(qos, self.qos), topic or self.first_topic, data[at:end])
        if self.publishes == self.count and qos < 2:
            self.last_at = time.monotonic()

    def _ack(self, first: int, identifier: int) -> None:
        if first == 0x62:
            if self.state_in.get(identifier) != 1:
                raise _BrokenRuleError(f"PUBREL for {identifier}, which is not published")
            self.state_in[identifier] = 2
            self.out += bytes((0x70, 2, identifier >> 8, identifier & 255))
            self.releases.append(identifier)
            if self.publishes == self.count:
                self.last_at = time.monotonic()
        elif first == 0x70:
            if self.state_out.pop(identifier, 0) != 2:
                raise _BrokenRuleError(f"PUBCOMP for {identifier}, which is not released")
            self.acknowledged += 1
        else:
            if not self.expected or self.expected.popleft() != identifier or (first == 0x40) != (self.qos == 1):
                raise _BrokenRuleError(f"packet 0x{first:02x} for {identifier} is out of order")
            if first == 0x40:
                del self.state_out[identifier]
                self.acknowledged += 1
            else:
                self.state_out[identifier] = 2
                self.out += bytes((0x62, 2, identifier >> 8, identifier & 255))

    def _subscribe(self, kind: int, data: bytes, at: int, end: int) -> None:
        identifier = data[at : at + 2]
        at += 3 + data[at + 2]
        codes = bytearray()
        while at < end:
            stop = at + 2 + (data[at] << 8 | data[at + 1])
            if kind == 8:
                if len(self.topics) < self.topics_wanted:
                    self.topics.append(data[at + 2 : stop])
                codes.append(data[stop] & 3)
                stop += 1
            else:
                codes.append(0)
            at = stop
        length = 3 + len(codes)
        header = bytes((length,)) if length < 128 else bytes((length & 127 | 128, length >> 7))
        self.out += bytes((0x90 if kind == 8 else 0xB0,)) + header + identifier + b"\0" + codes
        self.sending = self.case == "receive" and len(self.topics) >= self.topics_wanted

    def _put_publish(self, qos: int, topic: bytes, payload: bytes) -> None:
        length = 3 + len(topic) + len(payload) + (2 if qos else 0)
        out = self.out
        out.append(0x30 | qos << 1)
        while length > 127:
            out.append(length & 127 | 128)
            length >>= 7
        out.append(length)
        out += len(topic).to_bytes(2, "big") + topic
        if qos:
            while True:
                self.next_identifier = self.next_identifier % 65535 + 1
                if self.next_identifier not in self.state_out:
                    break
            self.state_out[self.next_identifier] = 1
            self.in_flight_peak = max(self.in_flight_peak, len(self.state_out))
            self.expected.append(self.next_identifier)
            out += self.next_identifier.to_bytes(2, "big")
        out.append(0)
        out += payload

    def _produce(self) -> None:
        if not self.sending:
            return
        self.first_at = self.first_at or time.monotonic()
        filler = b"x" * (self.size - 8) if self.size >= 8 else b""
        while self.sent < self.count and len(self.out) < _READ_BYTES and (not self.qos or len(self.state_out) < self.window):
            payload = (self.sent.to_bytes(8, "big") + filler)[: self.size]
            self._put_publish(self.qos, self.topics[self.sent % (self.topics_used or len(self.topics))], payload)
            self.sent += 1
        if self.sent == self.count and not self.state_out and not self.finished:
            self.finished = True
            self.last_at = time.monotonic()
            self._put_publish(0, self.topics[0], (self.count.to_bytes(8, "big") + filler)[: self.size])


if __name__ == "__main__":
    print(json.dumps(_PythonSink(dict(text.split("=", 1) for text in sys.argv[1:])).run()))
