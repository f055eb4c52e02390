"""A throwaway client in the shape of the design, written by hand: what the shape alone costs.

One lock, an I/O thread, a delivery thread, handles, a topic cache, joined writes. No validation, properties, store, timers, reconnect or
errors, and acknowledgements follow a whole batch of callbacks. It is a yardstick beside the real client, not an example to follow.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BareClient", "BareHandle", "BareMessage"]

_QUEUE_MAX = 2048
_QUEUE_BYTES_MAX = 1024 * 1024
_LARGE_BYTES = 16 * 1024
_DELIVERIES_MAX = 4096
_READ_BYTES = 256 * 1024
_RECEIVE_MAXIMUM = 1024


class BareHandle:
    """What a publish returns."""

    __slots__ = ("_client", "done", "waiter")

    def __init__(self, client: BareClient) -> None:
        self._client = client
        self.done = False
        self.waiter: threading.Event | None = None

    def wait_for_ack(self, timeout: float) -> None:
        with self._client.lock:
            if self.done:
                return
            self.waiter = waiter = threading.Event()
        if not waiter.wait(timeout):
            raise TimeoutError("no acknowledgement")


class BareMessage:
    """What a callback gets."""

    __slots__ = ("topic", "payload", "qos", "packet_id")

    def __init__(self, topic: str, payload: bytes, qos: int, packet_id: int) -> None:
        self.topic = topic
        self.payload = payload
        self.qos = qos
        self.packet_id = packet_id


def _length(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


class BareClient:
    """Connect, publish, subscribe, deliver: nothing else."""

    def __init__(self, port: int) -> None:
        self.lock = threading.Lock()
        self._room = threading.Condition(self.lock)
        self._wake_read, self._wake_write = os.pipe()
        self._sleeping = False
        self._closing = False
        self._queue: list[bytes] = []
        self._queue_bytes = 0
        self._written: list[BareHandle] = []
        self._in_flight: dict[int, BareHandle] = {}
        self._next_id = 0
        self._topics: dict[str, bytes] = {}
        self._received_topics: dict[bytes, str] = {}
        self._callback: Callable[[BareClient, BareMessage], None] | None = None
        self._deliveries: deque[list[BareMessage]] = deque()
        self._deliverable = threading.Condition(self.lock)
        self._undelivered = 0
        self._received: set[int] = set()
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(b"\x10\x15\0\4MQTT\5\2\0\x3c\3\x21" + _RECEIVE_MAXIMUM.to_bytes(2, "big") + b"\0\5bench")
        connack = self._socket.recv(64)
        at, self._window = 5, 65535
        while at < len(connack):
            if connack[at] == 0x21:
                self._window = connack[at + 1] << 8 | connack[at + 2]
            at += 3
        self._socket.setblocking(False)
        self._threads = [threading.Thread(target=self._io, daemon=True), threading.Thread(target=self._deliver, daemon=True)]
        for thread in self._threads:
            thread.start()

    def publish(self, topic: str, payload: bytes, qos: int = 0) -> BareHandle:
        topic_bytes = self._topics.get(topic)
        if topic_bytes is None:
            raw = topic.encode()
            topic_bytes = self._topics[topic] = len(raw).to_bytes(2, "big") + raw
        length = len(topic_bytes) + len(payload) + (3 if qos else 1)
        header = bytes((0x30 | qos << 1, length)) if length < 128 else bytes((0x30 | qos << 1,)) + _length(length)
        handle = BareHandle(self)
        with self.lock:
            while len(self._queue) >= _QUEUE_MAX or self._queue_bytes >= _QUEUE_BYTES_MAX or (qos and len(self._in_flight) >= self._window):
                self._room.wait()
            if qos:
                packet_id = self._next_id
                while True:
                    packet_id = packet_id + 1 if packet_id < 65535 else 1
                    if packet_id not in self._in_flight:
                        break
                self._next_id = packet_id
                self._in_flight[packet_id] = handle
                header += topic_bytes + packet_id.to_bytes(2, "big") + b"\0"
            else:
                header += topic_bytes + b"\0"
                self._written.append(handle)
            if len(payload) < _LARGE_BYTES:
                self._queue.append(header + payload)
            else:
                self._queue += (header, payload)
            self._queue_bytes += length
            if self._sleeping:
                self._sleeping = False
                os.write(self._wake_write, b"w")
        return handle

    def subscribe(self, topic_filter: str, callback: Callable[[BareClient, BareMessage], None], max_qos: int = 2) -> None:
        self._callback = callback
        raw = topic_filter.encode()
        body = b"\xff\xff\0" + len(raw).to_bytes(2, "big") + raw + bytes((max_qos,))
        with self.lock:
            self._queue.append(b"\x82" + _length(len(body)) + body)
            self._wake()

    def close(self) -> None:
        with self.lock:
            while self._in_flight or self._received or self._undelivered:
                self._room.wait(0.01)
            self._queue.append(b"\xe0\0")
            self._closing = True
            self._wake()
            self._deliverable.notify()
        for thread in self._threads:
            thread.join()
        self._socket.close()

    def _wake(self) -> None:
        if self._sleeping:
            self._sleeping = False
            os.write(self._wake_write, b"w")

    def _io(self) -> None:
        link, lock = self._socket, self.lock
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        poll.register(link, select.POLLIN)
        pending = memoryview(b"")
        written: list[BareHandle] = []
        chunks: list[bytes] = []
        missing = 0
        while True:
            with lock:
                if not pending:
                    if self._queue:
                        pending = memoryview(b"".join(self._queue))
                        self._queue.clear()
                        self._queue_bytes = 0
                        written, self._written = self._written, []
                        self._room.notify_all()
                    elif self._closing:
                        return
                idle = not pending
                self._sleeping = idle
                full = self._undelivered >= _DELIVERIES_MAX
            if pending:
                try:
                    sent = link.send(pending)
                except BlockingIOError:
                    sent = 0
                pending = pending[sent:]
                if not pending:
                    if written:
                        with lock:
                            for handle in written:
                                handle.done = True
                                if handle.waiter is not None:
                                    handle.waiter.set()
                        written = []
                    ready = poll.poll(0)
                else:
                    poll.modify(link, select.POLLIN | select.POLLOUT)
                    ready = poll.poll()
                    poll.modify(link, select.POLLIN)
            else:
                if full:
                    poll.modify(link, 0)
                ready = poll.poll()
                if full:
                    poll.modify(link, select.POLLIN)
                self._sleeping = False
            for file, events in ready:
                if file == self._wake_read:
                    os.read(file, 4096)
                elif events & select.POLLIN and not full:
                    data = link.recv(_READ_BYTES)
                    if not data:
                        return
                    if chunks:
                        # A large packet is collected and joined once.
                        chunks.append(data)
                        missing -= len(data)
                        if missing > 0:
                            continue
                        data = b"".join(chunks)
                    rest, missing = self._receive(data)
                    chunks = [rest] if rest else []

    def _receive(self, data: bytes) -> tuple[bytes, int]:
        messages: list[BareMessage] = []
        topics = self._received_topics
        at, end, missing = 0, len(data), 1
        with self.lock:
            in_flight, queue, received = self._in_flight, self._queue, self._received
            while end - at >= 2:
                first = data[at]
                length = data[at + 1]
                body = at + 2
                if length > 127:
                    length &= 127
                    shift = 7
                    while True:
                        if body >= end:
                            length = end
                            break
                        byte = data[body]
                        body += 1
                        length |= (byte & 127) << shift
                        if byte < 128:
                            break
                        shift += 7
                stop = body + length
                if stop > end:
                    missing = stop - end
                    break
                kind = first >> 4
                if kind == 3:
                    topic_end = body + 2 + (data[body] << 8 | data[body + 1])
                    raw = data[body + 2 : topic_end]
                    topic = topics.get(raw)
                    if topic is None:
                        topic = topics[raw] = raw.decode()
                    qos = first >> 1 & 3
                    packet_id = 0
                    if qos:
                        packet_id = data[topic_end] << 8 | data[topic_end + 1]
                        topic_end += 2
                    if qos == 2:
                        if packet_id not in received:
                            received.add(packet_id)
                            messages.append(BareMessage(topic, data[topic_end + 1 + data[topic_end] : stop], 2, packet_id))
                    else:
                        messages.append(BareMessage(topic, data[topic_end + 1 + data[topic_end] : stop], qos, packet_id))
                elif kind == 4 or kind == 7:
                    handle = in_flight.pop(data[body] << 8 | data[body + 1])
                    handle.done = True
                    if handle.waiter is not None:
                        handle.waiter.set()
                elif kind == 5:
                    queue.append(b"\x62\2" + data[body : body + 2])
                elif kind == 6:
                    received.discard(data[body] << 8 | data[body + 1])
                    queue.append(b"\x70\2" + data[body : body + 2])
                at = stop
            if messages:
                self._deliveries.append(messages)
                self._undelivered += len(messages)
                self._deliverable.notify()
            self._room.notify_all()
        return data[at:], missing

    def _deliver(self) -> None:
        while True:
            with self.lock:
                while not self._deliveries:
                    if self._closing:
                        return
                    self._deliverable.wait()
                messages = self._deliveries.popleft()
            callback = self._callback
            assert callback is not None
            acks: list[bytes] = []
            for message in messages:
                callback(self, message)
                if message.qos:
                    acks.append((b"\x40\2" if message.qos == 1 else b"\x50\2") + message.packet_id.to_bytes(2, "big"))
            with self.lock:
                self._undelivered -= len(messages)
                self._queue.extend(acks)
                self._wake()
