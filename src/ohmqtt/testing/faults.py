"""What a broker does wrong when it is told to: `Faults`, the script language above the one seam of the core (`broker/script.py`).

Each fault waits for packets of a kind and then has something else happen. Everything here runs on the broker's thread; methods may be
called from any. Invariant: what a fault does depends on the packets alone, not on how they were split or when they came.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING
from weakref import WeakSet

from ohmqtt.errors import ArgumentError
from ohmqtt.packet import (
    MQTTAuthPacket,
    MQTTConnAckPacket,
    MQTTConnectPacket,
    MQTTDisconnectPacket,
    MQTTPacket,
    MQTTPingReqPacket,
    MQTTPingRespPacket,
    MQTTPubAckPacket,
    MQTTPubCompPacket,
    MQTTPublishPacket,
    MQTTPubRecPacket,
    MQTTPubRelPacket,
    MQTTSubAckPacket,
    MQTTSubscribePacket,
    MQTTSubscription,
    MQTTUnsubAckPacket,
    MQTTUnsubscribePacket,
)

from .broker import Direction, Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from .broker import Connection
    from .broker.script import Step
    from .broker.server import Broker

    Steps: TypeAlias = Callable[[Connection, MQTTPacket], Sequence[Step] | None]

__all__ = ["Fault", "Faults", "check_received_kind", "packet_kind"]

_CLASSES: tuple[type[MQTTPacket], ...] = (
    MQTTConnectPacket,
    MQTTConnAckPacket,
    MQTTPublishPacket,
    MQTTPubAckPacket,
    MQTTPubRecPacket,
    MQTTPubRelPacket,
    MQTTPubCompPacket,
    MQTTSubscribePacket,
    MQTTSubAckPacket,
    MQTTUnsubscribePacket,
    MQTTUnsubAckPacket,
    MQTTPingReqPacket,
    MQTTPingRespPacket,
    MQTTDisconnectPacket,
    MQTTAuthPacket,
)
_KINDS: dict[type[MQTTPacket], str] = {kind: kind.__name__[4:-6].upper() for kind in _CLASSES}
_ONLY_RECEIVED = frozenset(("CONNECT", "SUBSCRIBE", "UNSUBSCRIBE", "PINGREQ"))
_ONLY_SENT = frozenset(("CONNACK", "SUBACK", "UNSUBACK", "PINGRESP"))
_WITH_PACKET_ID = frozenset(("PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "UNSUBSCRIBE"))
_ACKNOWLEDGEMENTS = ("PUBACK", "PUBREC", "PUBCOMP", "SUBACK", "UNSUBACK")


def packet_kind(packet: MQTTPacket) -> str:
    """Return the standard's name of a packet's type: ``"PUBLISH"``, ``"PUBREC"``, …"""
    return _KINDS[type(packet)]


def check_received_kind(kind: str) -> None:
    """Raise `ArgumentError` unless `kind` is that of a packet which a broker receives."""
    if kind not in _KINDS.values() or kind in _ONLY_SENT:
        raise ArgumentError(f"kind: that of a packet which a broker receives expected, such as 'PUBLISH', got {kind!r}")


class Fault:
    """One thing that goes wrong, as it was set up by a method of `Faults`: see whether it has, wait for it, or take it back."""

    def __init__(self, broker: Broker, name: str, rule: _Rule) -> None:
        self._broker = broker
        self._name = name
        self._rule = rule

    def __repr__(self) -> str:
        return f"<Fault {self._name}, fired {self._rule.fired} times>"

    @property
    def fired(self) -> int:
        """How often it happened."""
        return self._rule.fired

    def wait(self, timeout: float = 10.0) -> None:
        """Wait until it has happened as often as it was to (at least once, if there is no bound).

        :raises WaitTimeoutError: it had not within `timeout` seconds.
        """
        rule = self._rule
        self._broker.wait_until(lambda: rule.fired >= (rule.times or 1), timeout, f"{self._name} to happen")

    def cancel(self) -> None:
        """Take it back: it won't happen (again)."""
        self._rule.times = self._rule.fired


class _Rule:
    """For which packets it is, when its turn comes, and what happens then."""

    def __init__(
        self,
        kinds: tuple[str, ...],
        steps: Steps,
        count: int,
        times: int | None,
        direction: Direction,
        client_id: str | None,
        answerable: bool,
    ) -> None:
        self.kinds = kinds
        self.steps = steps
        self.count = count
        self.times = times
        self.direction = direction
        self.client_id = client_id
        self.answerable = answerable
        self.seen = 0
        self.fired = 0

    def fits(self, connection: Connection, packet: MQTTPacket, direction: Direction) -> bool:
        if direction is not self.direction or (self.kinds and packet_kind(packet) not in self.kinds):
            return False
        if self.answerable and isinstance(packet, MQTTPublishPacket) and not packet.qos:
            # It has no answer, and no packet identifier.
            return False
        # A CONNECT is shown before the connection knows whose it is.
        return self.client_id in (None, packet.client_id if isinstance(packet, MQTTConnectPacket) else connection.client_id)


class Faults:
    """Have a `Broker` do what brokers and networks do on bad days. Reached as ``broker.faults``.

    What the methods have in common:

    - ``kind`` is a packet type in the standard's words, ``"PUBLISH"``, ``"PUBREC"``, …; ``"*"`` stands for all of them.
    - Packets are those that the broker receives; with ``sent=True``, those that it is about to send. For what only a broker sends
      (CONNACK, SUBACK, UNSUBACK, PINGRESP) that needs no saying.
    - ``count`` is for which one it is, counted from the call, over all clients: 1 is the next one.
    - ``times`` is how many it happens to from there on; None: all.
    - ``client_id`` restricts it to the packets of one client.

    Where several faults are due at one packet, the one that was set up first has it.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._rules: list[_Rule] = []
        self._holding: list[Fault] = []
        self._held: list[tuple[Connection, MQTTPacket, Direction]] = []
        # Connections that are about to be dropped: what the last packet still has the broker answer doesn't leave.
        self._muted: WeakSet[Connection] = WeakSet()

    # ---- lost links ------------------------------------------------------------------------------------------------------------------

    def drop_after(self, kind: str, count: int = 1, *, times: int | None = 1, sent: bool = False, client_id: str | None = None) -> Fault:
        """Drop the link behind a packet: the broker has acted on it, and its answer is lost. With ``sent``: the packet has left."""

        def steps(connection: Connection, packet: MQTTPacket) -> Sequence[Step]:
            self._muted.add(connection)
            return (packet, Ending.CLOSE)

        return self._add(f"drop_after({kind!r}, {count})", kind, steps, count, times, sent, client_id)

    def drop_before(self, kind: str, count: int = 1, *, times: int | None = 1, sent: bool = False, client_id: str | None = None) -> Fault:
        """Drop the link ahead of a packet: it was lost on its way."""
        return self._add(f"drop_before({kind!r}, {count})", kind, lambda *_: (Ending.CLOSE,), count, times, sent, client_id)

    def drop(self, client_id: str | None = None) -> None:
        """Drop all links now, or that of one client."""

        def drop() -> None:
            for connection in self._connections(client_id):
                connection.close()

        self._broker.call(drop)

    # ---- wrong answers ---------------------------------------------------------------------------------------------------------------

    def answer(
        self,
        kind: str,
        answer: int | MQTTPacket | bytes,
        count: int = 1,
        *,
        times: int | None = 1,
        client_id: str | None = None,
    ) -> Fault:
        """Answer a received packet so, without acting on it.

        :param answer: A reason code: for CONNECT it makes a CONNACK, for PUBLISH the PUBACK or PUBREC, and so on. Or a packet; where its
            packet identifier is 0, that of the answered packet is put in. (With both, PUBLISH packets of QoS 0 don't count: they have
            neither an answer nor an identifier.) Or bytes. After a DISCONNECT or a refusing CONNACK the link is closed.
        :raises ArgumentError: a reason code or a packet that the standard forbids here.
        """
        self._check_kind(kind)
        answerable = isinstance(answer, int)
        if isinstance(answer, int):
            if kind not in _EXAMPLES:
                raise ArgumentError(f"kind: one of {', '.join(_EXAMPLES)} expected with a reason code, got {kind!r}")
            _answer_to(_EXAMPLES[kind], answer).encode()
        elif isinstance(answer, MQTTPacket):
            whole = _with_packet_id(answer, 1)
            whole.encode()
            answerable = whole is not answer
            if answerable and kind not in _WITH_PACKET_ID:
                raise ArgumentError(f"kind: {kind!r} has no packet identifier that {packet_kind(answer)} could take")
        elif isinstance(answer, (bytes, bytearray, memoryview)):
            answer = bytes(answer)
        else:
            raise ArgumentError(f"answer: a reason code, a packet or bytes expected, got {answer!r:.50}")

        def steps(_: Connection, packet: MQTTPacket) -> Sequence[Step]:
            if isinstance(answer, bytes):
                return (answer,)
            made = _answer_to(packet, answer) if isinstance(answer, int) else _with_packet_id(answer, getattr(packet, "packet_id", 0))
            ends = isinstance(made, MQTTDisconnectPacket) or (isinstance(made, MQTTConnAckPacket) and made.reason_code >= 0x80)
            return (made.encode(), Ending.CLOSE) if ends else (made.encode(),)

        return self._add(f"answer({kind!r}, {count})", kind, steps, count, times, False, client_id, answerable=answerable)

    def ignore(self, kind: str, count: int = 1, *, times: int | None = 1, sent: bool = False, client_id: str | None = None) -> Fault:
        """Let a packet vanish: the broker doesn't act on it, or doesn't send it."""
        return self._add(f"ignore({kind!r}, {count})", kind, lambda *_: (), count, times, sent, client_id)

    def hold_back(self, *kinds: str, sent: bool = True, client_id: str | None = None) -> Fault:
        """Keep packets instead of sending them (``sent=False``: of acting on them), until `release`. Without a kind: all acknowledgements."""

        def steps(connection: Connection, packet: MQTTPacket) -> Sequence[Step]:
            self._held.append((connection, packet, Direction.SENT if sent else Direction.RECEIVED))
            return ()

        kinds = kinds or _ACKNOWLEDGEMENTS
        fault = self._add(f"hold_back({', '.join(map(repr, kinds))})", kinds, steps, 1, None, sent, client_id)
        self._holding.append(fault)
        return fault

    def release(self) -> int:
        """Let go what was held back, in its order, and hold nothing back any more; return how many packets that were.

        What belonged to a link that has ended is lost with it.
        """
        return self._broker.call(self._release)

    def _release(self) -> int:
        held, self._held = self._held, []
        holding, self._holding = self._holding, []
        for fault in holding:
            fault.cancel()
        for connection, packet, direction in held:
            if direction is Direction.SENT:
                connection.transmit(packet)
            else:
                connection.handle(packet, self._broker.now())
        return len(held)

    # ---- odd bytes and silence -------------------------------------------------------------------------------------------------------

    def send(self, data: bytes | MQTTPacket, *, after: str | None = None, count: int = 1, client_id: str | None = None) -> Fault | None:
        """Send these bytes, right or wrong, to all clients or to one: now, or behind the answer to a received packet, to its sender."""
        if isinstance(data, MQTTPacket):
            data = data.encode()
        elif isinstance(data, (bytes, bytearray, memoryview)):
            data = bytes(data)
        else:
            raise ArgumentError(f"data: bytes or a packet expected, got {data!r:.50}")
        if after is not None:
            return self._add(f"send(after={after!r})", after, lambda _, packet: (packet, data), count, 1, False, client_id)

        def send() -> None:
            for connection in self._connections(client_id):
                connection.output += data
                connection.core.dirty[connection] = None

        self._broker.call(send)
        return None

    def silence(
        self, seconds: float | None = None, *, after: str | None = None, count: int = 1, client_id: str | None = None
    ) -> Fault | None:
        """Do nothing at all for so many seconds (None: until `speak`), as if the broker's process were halted; links stay open.

        Nothing is read or answered, and no timer runs out. ``after`` begins it when the broker has acted on a received packet,
        whose answer then waits.
        """
        if seconds is not None and not seconds >= 0:
            raise ArgumentError(f"seconds: 0 or more expected, got {seconds!r}")
        if after is not None:

            def steps(*_: object) -> None:
                self._broker._fall_silent(seconds)

            return self._add(f"silence(after={after!r})", after, steps, count, 1, False, client_id)
        self._broker.call(lambda: self._broker._fall_silent(seconds))
        return None

    def speak(self) -> None:
        """End a silence. What has arrived meanwhile is read now."""
        self._broker.call(lambda: self._broker._fall_silent(0.0))

    # ---- all of it -------------------------------------------------------------------------------------------------------------------

    def script(
        self, kind: str, steps: Steps, count: int = 1, *, times: int | None = None, sent: bool = False, client_id: str | None = None
    ) -> Fault:
        """Have ``steps(connection, packet)`` say what happens; for what no other method does.

        It runs on the broker's thread and returns None to let the packet go on, or steps in its place: packets (which are acted on, or
        sent), bytes (which are written), and `Ending`. See `ohmqtt.testing.broker.script`.
        """
        if not callable(steps):
            raise ArgumentError(f"steps: a function of a connection and a packet expected, got {steps!r:.50}")
        return self._add(f"script({kind!r}, {count})", kind, steps, count, times, sent, client_id)

    def clear(self) -> None:
        """Take everything back: no fault waits, nothing is held back, nobody is silent."""

        def clear() -> None:
            self._rules.clear()
            self._release()
            self._broker._fall_silent(0.0)

        self._broker.call(clear)

    def judge(self, connection: Connection, packet: MQTTPacket, direction: Direction) -> Sequence[Step] | None:
        """Say what happens to a packet: the core's script. Runs on the broker's thread."""
        if direction is Direction.SENT and connection in self._muted:
            return ()
        steps: Sequence[Step] | None = None
        for rule in self._rules[:]:
            if rule.times is not None and rule.fired >= rule.times:
                self._rules.remove(rule)
            elif rule.fits(connection, packet, direction):
                rule.seen += 1
                if steps is None and rule.seen >= rule.count:
                    rule.fired += 1
                    steps = rule.steps(connection, packet)
        return steps

    def _add(
        self,
        name: str,
        kinds: str | tuple[str, ...],
        steps: Steps,
        count: int,
        times: int | None,
        sent: bool,
        client_id: str | None,
        *,
        answerable: bool = False,
    ) -> Fault:
        kinds = (kinds,) if isinstance(kinds, str) else kinds
        for kind in kinds:
            self._check_kind(kind)
        if count < 1 or (times is not None and times < 1):
            raise ArgumentError(f"count and times: at least 1 expected, got {count} and {times}")
        sent = sent or _ONLY_SENT.issuperset(kinds)
        if sent and not _ONLY_RECEIVED.isdisjoint(kinds):
            raise ArgumentError(f"sent: a broker doesn't send {', '.join(kinds)}")
        direction = Direction.SENT if sent else Direction.RECEIVED
        rule = _Rule(() if "*" in kinds else kinds, steps, count, times, direction, client_id, answerable)
        self._broker.call(lambda: self._rules.append(rule))
        return Fault(self._broker, name, rule)

    @staticmethod
    def _check_kind(kind: str) -> None:
        if kind != "*" and kind not in _KINDS.values():
            raise ArgumentError(f"kind: a packet type such as 'PUBLISH', or '*' expected, got {kind!r}")

    def _connections(self, client_id: str | None) -> list[Connection]:
        connections = self._broker.core.connections
        return [connection for connection in connections if client_id in (None, connection.client_id)]


#: What has an answer with a reason code, one of each.
_EXAMPLES: dict[str, MQTTPacket] = {
    packet_kind(packet): packet
    for packet in (
        MQTTConnectPacket(),
        MQTTPublishPacket("topic", qos=1, packet_id=1),
        MQTTPubRecPacket(1),
        MQTTPubRelPacket(1),
        MQTTSubscribePacket(1, (MQTTSubscription("filter"),)),
        MQTTUnsubscribePacket(1, ("filter",)),
    )
}


def _answer_to(packet: MQTTPacket, code: int) -> MQTTPacket:
    match packet:
        case MQTTPublishPacket(qos=1):
            return MQTTPubAckPacket(packet.packet_id, code)
        case MQTTPublishPacket():
            return MQTTPubRecPacket(packet.packet_id, code)
        case MQTTPubRecPacket():
            return MQTTPubRelPacket(packet.packet_id, code)
        case MQTTPubRelPacket():
            return MQTTPubCompPacket(packet.packet_id, code)
        case MQTTSubscribePacket():
            return MQTTSubAckPacket(packet.packet_id, (code,) * len(packet.subscriptions))
        case MQTTUnsubscribePacket():
            return MQTTUnsubAckPacket(packet.packet_id, (code,) * len(packet.topic_filters))
        case _:
            return MQTTConnAckPacket(code)


def _with_packet_id(answer: MQTTPacket, packet_id: int) -> MQTTPacket:
    """Put the identifier in where there is room for one."""
    if getattr(answer, "packet_id", None) != 0 or isinstance(answer, MQTTPublishPacket):
        return answer
    answer = copy(answer)
    answer.packet_id = packet_id  # type: ignore[attr-defined]
    return answer
