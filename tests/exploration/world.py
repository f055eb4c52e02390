"""One small world: the real Session, the rule "journal, then wire, then user", a store, a server, a user, and everything that can happen next.

`steps` says what can happen, `take` lets one of these happen. Every promise to the user and to the server is judged at the moment when it
is kept or broken, and `judge_rest` judges what is left when nothing more has to happen. Time stands still, but for two steps: "deletions
that trail are due", and "the Message Expiry Interval runs out". Whether the core is sound inside is `tests.exploration.soundness`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ohmqtt.errors import LinkLostError, MQTTError, StoreError
from ohmqtt.link import CLOSING, encode_topic_field
from ohmqtt.packet import MQTTConnectPacket
from ohmqtt.property import MQTTConnectProps, MQTTPublishProps
from ohmqtt.records import Message, Options, Outgoing, SessionLostPolicy, Undelivered
from ohmqtt.session import WAITING, Session, SessionSettings
from ohmqtt.session.baskets import TRAIL_S
from ohmqtt.topic_alias import AliasPolicy
from tests.exploration.broker import Broker, Violation, describe, require, split
from tests.exploration.store import Store

if TYPE_CHECKING:
    from ohmqtt.journal import StoredMessage
    from ohmqtt.session import Turn
    from tests.exploration.controls import Control

__all__ = ["DOWN", "IN_BASKET", "OPTIONAL", "SETTINGS", "UP", "Case", "Publication", "World"]

EXPIRY_S = 5
LATER = 10.0
TOPIC = encode_topic_field(b"t")
PLAIN = MQTTPublishProps.EMPTY.encode()
EXPIRING = MQTTPublishProps(MessageExpiryInterval=EXPIRY_S).encode()

UP, CUT, DOWN = range(3)
UNHEARD, IN_BASKET, IN_TURN, HEARD = range(4)

# A network that breaks, not a server that closes: nothing that was sent is suspected of it.
LOST = LinkLostError("the network connection broke")
LOST.__cause__ = OSError("no route to host")
REFUSED = StoreError("disk full")

CONNECT = {
    maximum: MQTTConnectPacket("me", False, 0, properties=MQTTConnectProps(SessionExpiryInterval=0xFFFFFFFF, ReceiveMaximum=maximum))
    for maximum in (1, 2, 3)
}
SETTINGS = {policy: SessionSettings(session_lost_policy=policy) for policy in SessionLostPolicy}

OPTIONAL = frozenset({"cut", "lose", "crash", "power", "stall", "refuse", "expire"})
"""Steps that need not happen: where only these are left, the world is at rest."""


@dataclass(frozen=True)
class Case:
    """How large a world is, and what may go wrong in it."""

    outbound: tuple[int, ...] = ()
    inbound: tuple[int, ...] = ()
    receive_maximum: int = 1
    disconnects: int = 0
    crashes: int = 0
    session_losses: int = 0
    rejections: int = 0
    refused_commits: int = 0
    failed_callbacks: int = 0
    expiry: bool = False
    fast: bool = False
    republish: bool = False
    # Whether what the client wrote arrives at a time of its own, packet by packet, instead of at once or never.
    fine: bool = False

    def __str__(self) -> str:
        """Return the case in short."""
        parts = [
            f"out {''.join(map(str, self.outbound)) or '-'}",
            f"in {''.join(map(str, self.inbound)) or '-'}",
            f"RM {self.receive_maximum}",
        ]
        for name in ("disconnects", "crashes", "session_losses", "rejections", "refused_commits", "failed_callbacks"):
            count = getattr(self, name)
            if count:
                parts.append(f"{count} {name.replace('_', ' ')}")
        return ", ".join(parts + [name for name in ("expiry", "fast", "republish", "fine") if getattr(self, name)])


class Publication(Outgoing):
    """An `Outgoing` as a handle is one: it can be referred to weakly."""

    __slots__ = ("__weakref__",)


class World:
    """Everything that there is, as plain data. A crash takes away the session, the open turn, the inbox and the handles."""

    def __init__(self, case: Case, control: Control | None = None) -> None:
        self.case = case
        self.control = control
        self.broker = Broker(case.inbound, case.receive_maximum)
        self.store = Store()
        # What a control keeps from the store.
        self.held_back: list[tuple[Any, ...]] = []
        self.connection = DOWN
        self.late = False
        # How much may still go wrong.
        self.disconnects = 0
        self.crashes = 0
        self.session_losses = 0
        self.rejections = case.rejections
        self.refused_commits = case.refused_commits
        self.failed_callbacks = case.failed_callbacks
        # Messages to the server, by number: published so far; the handles of this process; those whose `publish` returned; what was told.
        self.published = 0
        self.handles: dict[int, Publication] = {}
        self.promised: frozenset[int] = frozenset()
        self.told: dict[int, str] = {}
        # Messages whose end was known to a process that died before it could say so.
        self.unheard: frozenset[int] = frozenset()
        # Messages from the server: waiting for their callbacks; whose callback ran; whose callback must not run again; answered, and whether
        # the answer is in a basket, in the open turn, or on disk; lost with the server's session.
        self.inbox: list[Message] = []
        self.ran: frozenset[int] = frozenset()
        self.over: frozenset[int] = frozenset()
        self.answers: dict[int, int] = {}
        self.gone: frozenset[int] = frozenset()
        # Whether the client has heard that the server lost its session.
        self.loss = HEARD
        # A power cut took commits back: then only what the disk still had is promised.
        self.weak = False
        self._begin()
        for step in ("dial", "commit", "release", "arrive", "receive", "commit", "release"):
            require(self.take(step), f"the first connection needs {step}")
        self.disconnects, self.crashes, self.session_losses = case.disconnects, case.crashes, case.session_losses

    @property
    def now(self) -> float:
        """The time, in seconds."""
        return LATER if self.late else 0.0

    # ---- what can happen -------------------------------------------------------------------------------------------------------------

    def steps(self) -> list[str]:
        """Return what may be able to happen now; `take` has the last word."""
        broker, case = self.broker, self.case
        found: list[str] = []
        if self.crashes:
            found.append("power" if case.fast else "crash")
        if broker.to_server and self.connection == UP:
            found.append("arrive")
            first = broker.to_server[0][0]
            if self.rejections and first & 0xF0 == 0x30:
                found.append("arrive, rejected")
            if self.session_losses and first == 0x10 and broker.with_session and self.loss == HEARD:
                found.append("arrive, session lost")
            if not case.fine:
                # What arrives when makes no difference to anybody but by what never does: all of it at once, or the first few and no more.
                if self.disconnects:
                    found.append("cut")
                return found
        if self.connection == DOWN and self.session.phase == WAITING:
            found.append("dial")
            if not case.fine:
                # What happens before dialling can as well happen before CONNECT leaves.
                return found
        if self.published < len(case.outbound):
            found.append("publish")
        found += self._steps_of_turns()
        if broker.to_client:
            found.append("receive")
        if self.connection == UP and broker.may_send():
            found.append("send")
        if self.inbox:
            found.append("callback")
            if self.failed_callbacks and self.inbox[0].answer is None:
                found.append("callback, failing")
        if self.connection == CUT:
            found.append("notice")
        elif self.connection == UP and self.disconnects:
            found.append("lose")
        if case.expiry and not self.late:
            found.append("expire")
        return found

    def _steps_of_turns(self) -> list[str]:
        """Return what can happen between the session and its store."""
        session = self.session
        found: list[str] = []
        if self.turn is not None and self.committed:
            return ["release"]
        outbound = session.outbound
        waits = session.connected_link() is not None and (outbound.queue or outbound.resend)
        if self.turn is not None or session.baskets.any() or waits:
            found.append("commit")
            if self.refused_commits:
                found.append("refuse")
            # At a commit that the disk would have heard of: earlier is no difference.
            written = waits or session.baskets.required or (self.turn is not None and self.turn.journal)
            if written and self.case.fast and self.crashes and self.store.stalled is None:
                found.append("stall")
        if self.turn is None:
            if session.wanted_rows(self.now) is not None:
                found.append("load")
            if session.baskets.trailing_since is not None and not session.baskets.required:
                found.append("tick")
        return found

    def take(self, step: str) -> bool:
        """Let `step` happen; False: it can't, and nothing has changed that matters. Raises `Violation` if a promise is broken."""
        name, _, how = step.partition(", ")
        happened = STEPS[name](self, how)
        link = self.session.link
        require(link is None or link.state < CLOSING, f"the client closes the connection: {link.close_error if link is not None else None}")
        self._forget_what_does_not_matter()
        return happened is not False

    def describe(self, step: str) -> str:
        """Return in words what `step` would be."""
        name, _, how = step.partition(", ")
        words = TOLD[name]
        if name == "arrive":
            words = f"{describe(self.broker.to_server[0])} arrives at the server"
        elif name == "receive":
            words = f"the client reads {describe(self.broker.to_client[0])}"
        elif name == "publish":
            words = f"the user publishes message {self.published}"
        elif name == "callback":
            words = f"the callback of message {self.inbox[0].payload[0]} runs"
        return f"{words}, {how}" if how else words

    def _forget_what_does_not_matter(self) -> None:
        """Make equal what is equal to anybody: names of turns, what is only shown to people, and counts that nothing here depends on."""
        session = self.session
        session.baskets.turn_number = 1
        session.backoff.attempts = 0
        session.last_error = None
        # Identifiers come round: the next one is the lowest that is free, as soon as it is.
        session.outbound.last_packet_id = 0
        link = session.link
        if link is not None:
            link.publishes_sent = 0
            link.acked = False

    # ---- the process -----------------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """A process opens the store and connects."""
        policy = SessionLostPolicy.REPUBLISH if self.case.republish else SessionLostPolicy.CLEAR
        self.session = Session(SETTINGS[policy], durable=True)
        self.turn: Turn | None = None
        self.committed = False
        if self.control is not None:
            self.control.prepare(self.session)
        self.session.recover(self.store.image.load(self.now), self._make)
        self.session.connect(CONNECT[self.case.receive_maximum], self.now)

    def _make(self, row: StoredMessage) -> Publication:
        message = self._publication(row.payload, row.qos, row.properties, row.expiry_s)
        message.sequence = row.sequence
        message.packet_id = row.packet_id
        return message

    def _publication(self, payload: bytes, qos: int, properties: bytes, expiry_s: float | None) -> Publication:
        options = None if expiry_s is None else Options(AliasPolicy.NEVER, self.now + expiry_s)
        return Publication(TOPIC, payload, qos, 0x30 | qos << 1, properties, options)

    def _crash(self, _: str, power_cut: bool = False) -> None:
        """The process ends at once, or with it the power; another one takes over what the disk has."""
        self.crashes -= 1
        if power_cut and self.store.stalled is not None:
            self.store.image = self.store.stalled
            self.store.stalled = None
            self.weak = self.broker.lenient = True
            self.promised = frozenset(kept.payload[0] for _, _, kept in self.store.image.rows.values())
        self._disconnected()
        if self.turn is not None and self.committed:
            # An end is on disk before anybody hears of it, so a process may die in between: its own users are gone with it.
            ended: list[Any] = [message for message in self.turn.resolved if isinstance(message.outcome, MQTTError)]
            ended += [event.message for event in self.turn.events if isinstance(event, Undelivered)]
            self.unheard |= {message.payload[0] for message in ended}
        self.handles.clear()
        self.inbox.clear()
        self.held_back.clear()
        # A crash between a callback and its commit repeats the callback, unless the server has forgotten the message.
        heard = frozenset(number for number, where in self.answers.items() if where == HEARD)
        self.over = frozenset() if self.weak else self.over & (heard | self.gone)
        self.answers = {number: where for number, where in self.answers.items() if where == HEARD}
        if self.loss != HEARD:
            self.loss = UNHEARD
        self._begin()

    def _power(self, _: str) -> bool:
        if self.store.stalled is None:
            return False
        self._crash(_, power_cut=True)
        return True

    # ---- turns -----------------------------------------------------------------------------------------------------------------------

    def _take_turn(self) -> Turn | None:
        """Return the turn that is to be committed."""
        if self.turn is None:
            self.turn = turn = self.session.take(self.now)
            if turn is None:
                return None
            self._advance(IN_BASKET, IN_TURN)
        return self.turn

    def _advance(self, before: int, after: int) -> None:
        """What was known in a basket is in the turn, or what was in the turn is on disk."""
        for number, where in self.answers.items():
            if where == before:
                self.answers[number] = after
        if self.loss == before:
            self.loss = after

    def _commit(self, _: str) -> bool:
        turn = self._take_turn()
        if turn is None:
            return False
        if turn.journal:
            self.store.commit(turn.journal if self.control is None else self.control.journal(turn.journal, self))
            self.session.retry_at = None
        self.committed = True
        self._advance(IN_TURN, HEARD)
        return True

    def _refuse(self, _: str) -> bool:
        """The disk refuses a commit."""
        turn = self._take_turn()
        if turn is None or not turn.journal:
            return False
        self.refused_commits -= 1
        for message in self.session.commit_failed(turn, REFUSED, self.now):
            self._tell(message)
        self.session.take_urgent()
        if not turn.journal:
            self.committed = True
            self._advance(IN_TURN, HEARD)
        return True

    def _stall(self, _: str) -> None:
        """From now on the disk hears of no commit, and nobody knows."""
        self.store.stall()

    def _release(self, _: str) -> None:
        turn = self.turn
        assert turn is not None
        self.turn = None
        self.committed = False
        session = self.session
        session.release(turn, self.now)
        self.promised |= {message.payload[0] for message in turn.accepted}
        for request in turn.resolved:
            self._tell(request)
        for event in turn.events:
            if isinstance(event, Message):
                self.inbox.append(event)
            elif isinstance(event, Undelivered):
                self._hear_undelivered(event)
        session.delivered(len(turn.events), turn.received_bytes)
        link = session.link
        if link is not None:
            while chunk := bytes(link.next_chunk(self.now)):
                session.outbound.flushed(link.sent(len(chunk), self.now))
                self._write(split(chunk))

    def _load(self, _: str) -> bool:
        wanted = self.session.wanted_rows(self.now)
        assert wanted is not None
        rows = self.store.image.load_queued(wanted[0], wanted[1], self.now)
        self.session.loaded(rows, self._make, self.now)
        return bool(rows)

    def _tick(self, _: str) -> None:
        self.session.tick(self.now + TRAIL_S)

    def _expire(self, _: str) -> None:
        self.late = True
        self.session.tick(self.now)

    # ---- the network -----------------------------------------------------------------------------------------------------------------

    def _write(self, packets: list[bytes]) -> None:
        if self.control is None:
            self._judge_writes(packets)
        if self.connection == UP:
            self.broker.to_server += packets

    def _arrive(self, how: str) -> None:
        broker = self.broker
        if broker.to_server[0][0] == 0x10 and (how == "session lost" or self.loss == UNHEARD):
            # MQTT can't tell a client that it has missed the end of a session: if the CONNACK that said so is lost, the next one says that
            # there is a session, the new one. Here the server is kind, and says it again until it was heard.
            self.session_losses -= how == "session lost"
            self.loss = UNHEARD
            self.gone |= {number for number, _ in broker.in_flight.values()}
            broker.forget_session()
        if how == "rejected":
            self.rejections -= 1
        before = len(broker.delivered)
        broker.arrive(how == "rejected")
        for number in broker.delivered[before:]:
            self._judge_arrival(number)

    def _receive(self, _: str) -> None:
        packet = self.broker.to_client.pop(0)
        if packet[0] == 0x20 and self.loss == UNHEARD:
            self.loss = IN_BASKET
        self.session.receive(packet, self.now)

    def _send(self, _: str) -> None:
        self.broker.send()

    def _dial(self, _: str) -> None:
        require(self.session.dial(self.now) and self.session.opened(self.now), "the client doesn't connect again")
        self.connection = UP

    def _cut(self, _: str) -> None:
        """The rest of what was written never arrives, and the client doesn't know yet."""
        self.disconnects -= 1
        self.connection = CUT
        self.broker.to_server.clear()

    def _lose(self, _: str) -> None:
        """The connection breaks; what is under way either way is lost."""
        self.disconnects -= 1
        self._notice(_)

    def _notice(self, _: str) -> None:
        """The client sees the end of the connection; what it hasn't read is lost."""
        self._disconnected()
        self.session.link_lost(LOST, self.now, 0.0)

    def _disconnected(self) -> None:
        self.connection = DOWN
        self.broker.disconnected()

    # ---- the user --------------------------------------------------------------------------------------------------------------------

    def _publish(self, _: str) -> None:
        number = self.published
        self.published += 1
        expiry_s = EXPIRY_S if self.case.expiry else None
        message = self._publication(bytes((number,)), self.case.outbound[number], PLAIN if expiry_s is None else EXPIRING, expiry_s)
        self.handles[number] = message
        self.session.publish(message)

    def _callback(self, how: str) -> None:
        """A callback runs, returns (or raises), and its message is answered."""
        message = self.inbox.pop(0)
        number = message.payload[0]
        if message.qos == 2:
            require(number not in self.over, f"the callback of QoS 2 message {number} from the server runs again")
        first = number not in self.ran
        require(not first or self.weak or all(number > other for other in self.ran), f"message {number} from the server comes out of order")
        self.ran |= {number}
        if how:
            # The exchange ends with a refusal; the server may well try again.
            self.failed_callbacks -= 1
        else:
            self.over |= {number}
            self.answers[number] = IN_BASKET
        self.session.answer(message, 0x80 if how else 0)

    def _tell(self, message: Any) -> None:
        """A handle is resolved."""
        number = message.payload[0]
        require(not message.done, f"the handle of message {number} is resolved twice")
        message.done = True
        if number not in self.handles:
            # A former process published it. Nobody hears this; what went wrong is told as an event.
            return
        require(self.handles[number] is message, f"message {number} has two handles")
        outcome = message.outcome
        told = type(outcome).__name__ if isinstance(outcome, MQTTError) else "acknowledged"
        self.told[number] = told
        broker = self.broker
        if told == "acknowledged":
            require(number in broker.delivered or self.weak, f"message {number} is said to be acknowledged, and never arrived")
        elif told == "PublishError":
            require(number in broker.rejected, f"message {number} is said to be rejected, and wasn't")
        elif told == "SessionLostError":
            require(self.case.session_losses, f"message {number} is said to be lost with a session that wasn't lost")
        elif told in ("MessageExpiredError", "StoreError"):
            require(number not in broker.delivered, f"message {number} arrived, and its handle says {told}")
        else:
            raise Violation(f"the handle of message {number} says {outcome!r}")

    def _hear_undelivered(self, event: Undelivered) -> None:
        """A message that a former process published ends otherwise than acknowledged."""
        number = event.message.payload[0]
        require(number not in self.handles, f"message {number} is reported as undelivered, and has a handle")
        before = self.told.get(number, "acknowledged")
        # Only the deletion of an acknowledged message may trail what its user was told.
        require(before == "acknowledged" or self.weak, f"message {number} is reported as undelivered, and its user was told {before}")
        self.told[number] = f"undelivered: {type(event.error).__name__}"

    # ---- judgement -------------------------------------------------------------------------------------------------------------------

    def _judge_arrival(self, number: int) -> None:
        """A message was accepted by the server."""
        broker = self.broker
        told = self.told.get(number)
        before = broker.delivered[:-1]
        require(told in (None, "acknowledged") or self.weak, f"message {number} arrives, and its user was told {told}")
        if self.case.outbound[number] == 2 and number in before:
            again = self.case.republish and self.session_losses < self.case.session_losses
            require(again or self.weak, f"QoS 2 message {number} arrives twice")
        if number not in before and number not in broker.rejected:
            require(self.weak or all(number > other for other in before), f"message {number} arrives behind {before}")

    def _judge_writes(self, packets: list[bytes]) -> None:
        """Nothing leaves before what it depends on is committed."""
        rows = {packet_id: (released, kept) for packet_id, released, kept in self.store.image.rows.values() if packet_id}
        for packet in packets:
            kind = packet[0] >> 4
            if kind == 3:
                start = 4 + (packet[2] << 8 | packet[3])
                row = rows.get(packet[start] << 8 | packet[start + 1])
                require(row is not None and row[1].payload == packet[-1:], f"PUBLISH of message {packet[-1]} leaves before it is on disk")
            elif packet[0] == 0x62 and len(packet) == 4:
                row = rows.get(packet[2] << 8 | packet[3])
                require(row is None or row[0], f"PUBREL {packet[3]} leaves before its PUBREC is on disk")
            elif packet[0] == 0x50 and len(packet) == 4:
                require(packet[3] in self.store.image.received, f"PUBREC {packet[3]} leaves before its identifier is on disk")
            elif packet[0] == 0x70 and len(packet) == 4:
                require(packet[3] not in self.store.image.received, f"PUBCOMP {packet[3]} leaves before the end of its exchange is on disk")

    def judge_rest(self) -> None:
        """Nothing more has to happen: every promise must have been kept, and nothing be left over."""
        for number in range(self.published):
            told = self.told.get(number)
            if number in self.handles:
                require(told is not None, f"message {number} is left over: its handle is never resolved")
            elif number in self.promised - self.unheard and number not in self.broker.swallowed:
                require(
                    told is not None or number in self.broker.delivered, f"message {number} is lost: it never arrived, and nobody is told"
                )
        for number, qos in enumerate(self.case.inbound):
            # Where the end of an exchange was lost with the power, a new message may be taken for a repeat of the old one.
            if qos == 1 or not self.weak:
                require(number in self.ran | self.gone, f"message {number} from the server is lost: its callback never runs")


TOLD = {
    "arrive": "",
    "callback": "",
    "commit": "a turn is committed",
    "crash": "the process is killed; another one opens the database",
    "cut": "the network breaks: nothing of the rest arrives",
    "dial": "the client connects again",
    "expire": "the Message Expiry Interval runs out",
    "load": "rows are loaded",
    "lose": "the connection breaks",
    "notice": "the client sees that the connection is broken",
    "power": "the power is cut; another process opens the database",
    "publish": "",
    "receive": "",
    "refuse": "the disk refuses a turn",
    "release": "the turn is released to the network and the user",
    "send": "the server sends the next message",
    "stall": "the disk falls behind: it hears of no commit from now on",
    "tick": "what trails is due",
}

STEPS: dict[str, Any] = {
    "arrive": World._arrive,
    "callback": World._callback,
    "commit": World._commit,
    "crash": World._crash,
    "cut": World._cut,
    "dial": World._dial,
    "expire": World._expire,
    "load": World._load,
    "lose": World._lose,
    "notice": World._notice,
    "power": World._power,
    "publish": World._publish,
    "receive": World._receive,
    "refuse": World._refuse,
    "release": World._release,
    "send": World._send,
    "stall": World._stall,
    "tick": World._tick,
}
