"""A model of an MQTT 5.0 server, exactly as large as the exploration needs: session state of QoS 1 and 2, in plain data.

It is written from the standard and shares nothing with the library: its own few lines of codec, its own tables. It answers at once, since a
late answer is one that the client reads late. It is strict: whatever a client may not do raises `Violation`.
"""

from __future__ import annotations

__all__ = ["Broker", "Violation", "describe", "require", "split"]

PUBACK, PUBREC, PUBREL, PUBCOMP = 0x40, 0x50, 0x62, 0x70
REJECTED = 0x97


class Violation(AssertionError):
    """A promise was broken; the message says which."""


def require(condition: object, text: str) -> None:
    """Raise `Violation` with `text` unless the condition holds."""
    if not condition:
        raise Violation(text)


def split(data: bytes) -> list[bytes]:
    """Cut a stream of whole packets, each shorter than 128 bytes, into packets."""
    packets = []
    while data:
        end = 2 + data[1]
        require(data[1] < 128 and end <= len(data), f"the client wrote no whole packet: {data!r}")
        packets.append(data[:end])
        data = data[end:]
    return packets


def describe(data: bytes) -> str:
    """Return a packet in a few words."""
    kind = data[0] >> 4
    packet_id = data[2] << 8 | data[3]
    if kind == 3:
        start = 4 + packet_id
        dup = ", DUP" if data[0] & 8 else ""
        return f"PUBLISH {data[start] << 8 | data[start + 1]} (message {data[-1]}, QoS {data[0] >> 1 & 3}{dup})"
    if kind in (4, 5, 6, 7):
        name = {4: "PUBACK", 5: "PUBREC", 6: "PUBREL", 7: "PUBCOMP"}[kind]
        return f"{name} {packet_id}" + (f" (0x{data[4]:02x})" if len(data) > 4 else "")
    return "CONNECT" if kind == 1 else f"CONNACK (Session Present {data[2]})"


def ack(first: int, packet_id: int, reason_code: int = 0) -> bytes:
    """Encode a PUBACK, PUBREC, PUBREL or PUBCOMP."""
    if reason_code:
        return bytes((first, 3, packet_id >> 8, packet_id & 0xFF, reason_code))
    return bytes((first, 2, packet_id >> 8, packet_id & 0xFF))


class Broker:
    """The server: its session with the one client, its connection, and what it has accepted.

    Messages are numbers from 0 on; the payload of a PUBLISH is its number as one byte. A message of the client counts as delivered when
    its PUBLISH is accepted for the first time: from then on it is the server's business (section 4.3.3, method A).
    """

    __slots__ = (
        "delivered", "in_flight", "lenient", "pubacks", "pubrecs", "pubrels", "queue", "quota", "receive_maximum", "received", "rejected", "seen",
        "swallowed", "to_client", "to_server", "with_session",
    )  # fmt: skip

    def __init__(self, inbound: tuple[int, ...], receive_maximum: int) -> None:
        self.receive_maximum = receive_maximum
        self.with_session = False
        # After a power cut of a client whose disk was behind, what it does can't always be right.
        self.lenient = False
        # The session: from the client, QoS 2 identifiers whose PUBREL is awaited; to the client, exchanges in their order (QoS 0: PUBREL).
        self.received: dict[int, int] = {}
        self.in_flight: dict[int, tuple[int, int]] = {}
        self.seen: set[int] = set()
        # What some publisher has for the client: message numbers and their QoS.
        self.queue: list[tuple[int, int]] = list(enumerate(inbound))
        # The connection: packets on the way, and which identifiers the client may acknowledge, in order.
        self.to_client: list[bytes] = []
        self.to_server: list[bytes] = []
        self.quota = 0
        self.pubacks: list[int] = []
        self.pubrecs: list[int] = []
        self.pubrels: list[int] = []
        # What happened, for the judge: messages accepted and refused, in order.
        self.delivered: list[int] = []
        self.rejected: list[int] = []
        # After a power cut only: taken for a repeat of an exchange that the client has forgotten.
        self.swallowed: list[int] = []

    # ---- the connection --------------------------------------------------------------------------------------------------------------

    def disconnected(self) -> None:
        """The network connection is gone, with all that was under way."""
        self.quota = 0
        for under_way in (self.to_client, self.to_server, self.pubacks, self.pubrecs, self.pubrels):
            under_way.clear()

    def forget_session(self) -> None:
        """Lose the session; what was never sent isn't part of it, and what was sent is gone (the publisher's message is not sent again)."""
        self.with_session = False
        self.received.clear()
        self.in_flight.clear()
        self.seen.clear()

    def arrive(self, reject: bool = False) -> None:
        """The next packet of the client arrives, and is answered. `reject`: a PUBLISH is refused."""
        data = self.to_server.pop(0)
        kind = data[0] >> 4
        packet_id = data[2] << 8 | data[3]
        reason_code = data[4] if len(data) > 4 else 0
        if kind == 1:
            self._connect(data)
        elif kind == 3:
            self._publish(data, reject)
        elif kind == 4:
            require(self.pubacks[:1] == [packet_id], f"PUBACK {packet_id}, and this connection waits for {self.pubacks} in this order")
            self.pubacks.pop(0)
            del self.in_flight[packet_id]
            self.quota += 1
        elif kind == 5:
            self._pubrec(packet_id, reason_code)
        elif kind == 6:
            known = self.received.pop(packet_id, None) is not None
            self.to_client.append(ack(PUBCOMP, packet_id, 0 if known else 0x92))
        elif kind == 7:
            require(packet_id in self.pubrels, f"PUBCOMP {packet_id}, and this connection brought no PUBREL for it")
            self.pubrels.remove(packet_id)
            del self.in_flight[packet_id]
            self.quota += 1
        else:
            raise Violation(f"a packet that nobody expects: {data!r}")

    def _connect(self, data: bytes) -> None:
        """Answer CONNECT: resume the session, if there is one, and send again what is open in it [MQTT-4.4.0-1]."""
        require(data[2:9] == b"\0\4MQTT\5", f"no MQTT 5.0 CONNECT: {data!r}")
        if data[9] & 2:
            self.forget_session()
        present = self.with_session
        self.with_session = True
        self.to_client.append(bytes((0x20, 6, present, 0, 3, 0x21, 0, self.receive_maximum)))
        self.quota = self.receive_maximum
        for packet_id, (number, qos) in self.in_flight.items():
            self.quota -= 1
            if qos:
                self._send(packet_id, number, qos, 8)
            else:
                self.pubrels.append(packet_id)
                self.to_client.append(ack(PUBREL, packet_id))

    # ---- from the client -------------------------------------------------------------------------------------------------------------

    def _publish(self, data: bytes, reject: bool) -> None:
        dup, qos = data[0] & 8, data[0] >> 1 & 3
        start = 4 + (data[2] << 8 | data[3])
        packet_id = data[start] << 8 | data[start + 1]
        number = data[-1]
        # What the client has not read yet it can't have counted: its open exchanges, as it must see them [MQTT-3.3.4-7].
        unread = sum(1 for packet in self.to_client if packet[0] in (PUBACK, PUBCOMP) or (packet[0] == PUBREC and len(packet) > 4))
        self._judge(
            len(self.received) - (packet_id in self.received) + unread < self.receive_maximum, "more PUBLISHes than Receive Maximum"
        )
        self._judge(dup or number not in self.seen, f"message {number} again, without DUP")
        self._judge(
            self.received.get(packet_id, number) == number, f"PUBLISH {packet_id} of message {number}, and the identifier is in use"
        )
        self.seen.add(number)
        if qos == 2 and packet_id in self.received:
            if self.received[packet_id] != number and number not in self.swallowed:
                self.swallowed.append(number)
            self.to_client.append(ack(PUBREC, packet_id))  # [MQTT-4.3.3-10]
            return
        if reject:
            self.rejected.append(number)
            # Once it is refused, the next attempt would be another message.
            self.seen.discard(number)
        else:
            self.delivered.append(number)
            if qos == 2:
                self.received[packet_id] = number
        self.to_client.append(ack(PUBACK if qos == 1 else PUBREC, packet_id, REJECTED if reject else 0))

    def _judge(self, condition: object, text: str) -> None:
        require(condition or self.lenient, text)

    # ---- to the client ---------------------------------------------------------------------------------------------------------------

    def may_send(self) -> bool:
        """Return whether a message may go to the client now."""
        return bool(self.queue and self.quota > 0)

    def send(self) -> None:
        """Send the next message, under the lowest free identifier: it means another message as soon as it may."""
        number, qos = self.queue.pop(0)
        packet_id = next(candidate for candidate in range(1, 9) if candidate not in self.in_flight)
        self.quota -= 1
        self.in_flight[packet_id] = number, qos
        self._send(packet_id, number, qos, 0)

    def _send(self, packet_id: int, number: int, qos: int, dup: int) -> None:
        (self.pubacks if qos == 1 else self.pubrecs).append(packet_id)
        self.to_client.append(bytes((0x30 | dup | qos << 1, 7, 0, 1, 0x69, 0, packet_id, 0, number)))

    def _pubrec(self, packet_id: int, reason_code: int) -> None:
        require(self.pubrecs[:1] == [packet_id], f"PUBREC {packet_id}, and this connection waits for {self.pubrecs} in this order")
        self.pubrecs.pop(0)
        number, _ = self.in_flight.pop(packet_id)
        if reason_code >= 0x80:
            self.quota += 1
            return
        # PUBRELs are sent again in the order of their PUBRECs, behind what still waits for one.
        self.in_flight[packet_id] = number, 0
        self.pubrels.append(packet_id)
        self.to_client.append(ack(PUBREL, packet_id))
