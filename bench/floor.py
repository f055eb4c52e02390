"""The floor: the least that a correct single-threaded program in pure Python must do for each message.

Parse, encode, count, batch; no API, no thread, no handle. It says what the interpreter itself costs, and so how much of a client's figure
is the client's. Each function works on a connected blocking socket and returns when everything is acknowledged or delivered.
"""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["connect", "publish", "receive"]

_READ_BYTES = 256 * 1024
_BATCH_BYTES = 128 * 1024
_LARGE_BYTES = 16 * 1024


def _length(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def connect(port: int, receive_maximum: int = 1024) -> tuple[socket.socket, int]:
    """Connect and return the socket and the server's Receive Maximum."""
    link = socket.create_connection(("127.0.0.1", port))
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.sendall(b"\x10\x15\0\4MQTT\5\2\0\x3c\3\x21" + receive_maximum.to_bytes(2, "big") + b"\0\5bench")
    connack = link.recv(64)
    at, window = 5, 65535
    while at < len(connack):
        if connack[at] == 0x21:
            window = connack[at + 1] << 8 | connack[at + 2]
        at += 3
    return link, window


def publish(link: socket.socket, window: int, topic: str, payloads: Sequence[bytes], qos: int) -> None:
    """Publish all payloads in batches as large as the Receive Maximum and one send allow, and wait for all acknowledgements."""
    raw = topic.encode()
    head = len(raw).to_bytes(2, "big") + raw
    first = bytes((0x30 | qos << 1,))
    count = len(payloads)
    in_flight: set[int] = set()
    done = next_at = packet_id = 0
    rest = b""
    acks = [0x40, 0x40, 0x50][qos]
    while done < count:
        out: list[bytes] = []
        size = 0
        while next_at < count and size < _BATCH_BYTES and len(in_flight) < window:
            payload = payloads[next_at]
            next_at += 1
            length = len(head) + len(payload) + (3 if qos else 1)
            header = first + (bytes((length,)) if length < 128 else _length(length)) + head
            if qos:
                packet_id = packet_id % 65535 + 1
                while packet_id in in_flight:
                    packet_id = packet_id % 65535 + 1
                in_flight.add(packet_id)
                header += packet_id.to_bytes(2, "big")
            if length < _LARGE_BYTES:
                packet = header + b"\0" + payload
                out.append(packet)
                size += len(packet)
            else:
                out.append(header + b"\0")
                link.sendall(b"".join(out))
                out.clear()
                link.sendall(payload)
                size += length
        if out:
            link.sendall(b"".join(out))
        if not qos:
            done = next_at
            continue
        data = rest + link.recv(_READ_BYTES)
        at, end = 0, len(data) - 3
        replies: list[bytes] = []
        while at < end:
            if data[at] == acks or data[at] == 0x70:
                if qos == 2 and data[at] == 0x50:
                    replies.append(b"\x62\2" + data[at + 2 : at + 4])
                else:
                    in_flight.remove(data[at + 2] << 8 | data[at + 3])
                    done += 1
            at += 2 + data[at + 1]
        rest = data[at:]
        if replies:
            link.sendall(b"".join(replies))


def receive(link: socket.socket, topic: str, count: int, qos: int) -> None:
    """Subscribe, take ``count`` messages and the end mark, acknowledge them burst by burst."""
    raw = topic.encode()
    body = b"\0\1\0" + len(raw).to_bytes(2, "big") + raw + bytes((qos,))
    link.sendall(b"\x82" + _length(len(body)) + body)
    topics: dict[bytes, str] = {}
    received: set[int] = set()
    chunks: list[bytes] = []
    missing = taken = 0
    while taken <= count:
        chunk = link.recv(_READ_BYTES)
        if not chunk:
            raise ConnectionError("closed")
        chunks.append(chunk)
        missing -= len(chunk)
        if missing > 0:
            continue
        data = b"".join(chunks) if len(chunks) > 1 else chunk
        at, end = 0, len(data)
        missing = 1
        replies: list[bytes] = []
        while end - at >= 2:
            first, length, start = data[at], data[at + 1], at + 2
            if length > 127:
                length &= 127
                shift = 7
                while start < end:
                    byte = data[start]
                    start += 1
                    length |= (byte & 127) << shift
                    shift += 7
                    if byte < 128:
                        break
                else:
                    break
            stop = start + length
            if stop > end:
                missing = stop - end
                break
            kind = first & 0xF0
            if kind == 0x30:
                topic_end = start + 2 + (data[start] << 8 | data[start + 1])
                raw = data[start + 2 : topic_end]
                name = topics.get(raw)
                if name is None:
                    topics[raw] = raw.decode()
                if first & 6:
                    identifier = data[topic_end : topic_end + 2]
                    topic_end += 2
                    if first & 4:
                        received.add(identifier[0] << 8 | identifier[1])
                        replies.append(b"\x50\2" + identifier)
                    else:
                        replies.append(b"\x40\2" + identifier)
                payload = data[topic_end + 1 + data[topic_end] : stop]
                taken += 1
                if not payload:
                    raise ValueError("a message without payload")
            elif kind == 0x60:
                received.discard(data[start] << 8 | data[start + 1])
                replies.append(b"\x70\2" + data[start : start + 2])
            at = stop
        chunks = [data[at:]] if at < end else []
        if replies:
            link.sendall(b"".join(replies))
