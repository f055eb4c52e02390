"""The judge: holds what the client promises against what happened, at every step and at the end.

Owns the user's half of the truth: what was published and what was said about it, what was delivered. Its verdicts rest on what the server
model saw and what the disk holds, never on what the client says of itself; the client's own books are only checked against each other.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from ohmqtt.errors import (
    CancelledError,
    ClientClosedError,
    LinkLostError,
    MessageDroppedError,
    MessageExpiredError,
    PacketTooLargeError,
    PoisonMessageError,
    PublishError,
    ServerLimitError,
    SessionLostError,
    StoreError,
)
from ohmqtt.link import CLOSING, CONNECTED
from ohmqtt.records import Message, Undelivered
from ohmqtt.session import QueuePolicy
from tests.simulation import books, wire
from tests.simulation.surroundings import Image, Violation

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.server import ServerLink
    from tests.simulation.stage import Stage
    from tests.simulation.surroundings import Pipe

__all__ = ["Judge", "Sent"]

SUCCESS = "acknowledged"


def number_of(message: Any) -> int:
    """Return which message this is: its payload begins with it."""
    return int(message.payload.split(b" ", 1)[0])


class Sent:
    """A publication of the user's, and everything that is known of it."""

    __slots__ = (
        "cancelled", "expires_at", "fate", "first_offer", "goodbyes_before", "handles", "judged", "last_words", "limbo", "epoch_before", "number",
        "offers", "published_at", "out_of_order", "payload", "process", "promised", "qos", "raised", "retain", "topic", "end",
    )  # fmt: skip

    def __init__(self, number: int, process: Process, qos: int, topic: str, retain: bool, expires_at: float | None, size: int) -> None:
        self.number = number
        self.process = process
        self.qos = qos
        self.topic = topic
        self.retain = retain
        self.expires_at = expires_at
        self.payload = b"%d " % number + b"x" * size
        # What the call did: raised, or returned (then a database holds it), or neither because its process died or stands still.
        self.raised: Exception | None = None
        self.promised = False
        self.limbo = False
        self.cancelled = False
        # Another publication was accepted while the call of this one waited for room.
        self.out_of_order = False
        # The handles that somebody has, and of how many of them the outcome was looked at.
        self.handles: list[Any] = []
        self.judged = 0
        self.fate: str | Exception | None = None
        # What a process was about to say of it when it died.
        self.last_words: Exception | None = None
        # When its bytes were first handed to a socket, how often, and of QoS 0 where they end.
        self.first_offer: float | None = None
        self.offers = 0
        self.end: tuple[Pipe, int] | None = None
        self.epoch_before = 0
        self.goodbyes_before = 0
        self.published_at = 0.0

    def take_handle(self, handle: Any) -> None:
        self.handles.append(handle)

    def ended(self) -> bool:
        """Return whether its last word was said: it must not be sent after that."""
        fate = self.fate
        if fate is None or fate == SUCCESS:
            return False
        if isinstance(fate, ClientClosedError):
            return False
        return not (isinstance(fate, CancelledError) and "server may have it" in str(fate))


class Judge:
    """See above. Also the server's `Witness`."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.events: Counter[str] = Counter()
        self.sent: dict[int, Sent] = {}
        # Not all of whose handles were seen to be resolved.
        self.open: dict[int, Sent] = {}
        self.last_arrival = [0, 0]
        self.goodbyes = 0
        self.in_goodbye = 0
        self.subscribed = False
        self.telling = 0
        # The power went, and took committed transactions with it: then promises are weaker.
        self.torn = False
        # The server began a session that the client never learned of: nothing in MQTT tells it that what it has open is of an older one.
        self.hidden_losses = 0
        self.learned_epoch = 0
        # Messages: callbacks begun by (number, tag), ended with a reason code, and not sure to be known on disk.
        self.calls: Counter[tuple[int, int]] = Counter()
        self.delivered: Counter[int] = Counter()
        self.finished: dict[int, int] = {}
        self.repeatable: Counter[int] = Counter()
        self.unmatched = 0
        self.wire: dict[Pipe, bytes] = {}
        # Handles of SUBSCRIBE and UNSUBSCRIBE.
        self.requests: list[tuple[Process, Any]] = []

    def note(self, event: str) -> None:
        self.events[event] += 1

    # ---- the life of processes -------------------------------------------------------------------------------------------------------------

    def begin_process(self, process: Process) -> None:
        self.note("recovered with rows" if process.driver.session.outbound.messages else "recovered without rows")

    def end_process(self, process: Process) -> None:
        """The process dies: the callbacks that nobody will remember may run again."""
        if process.driver.closed:
            # In the middle of a step perhaps, with nobody there to look.
            self.look_at_handles()
            self._look_at_what_is_left()
        received = set() if self.stage.disk is None else set(self.stage.disk.volatile.received)
        session = process.driver.session
        server = self.stage.server
        if server.session is not None:
            for packet_id, message in server.session.out.items():
                if message.qos == 2 and not message.released and packet_id not in received:
                    self.repeatable[message.number] = self.delivered[message.number]
        events = list(session.baskets.events)
        for batch, _ in process.driver.delivery.inbox:
            events += batch
        commits = process.driver.commits
        if commits is not None and commits.unfinished is not None:
            events += commits.unfinished.events
        for event in events:
            if isinstance(event, Undelivered):
                # On disk perhaps, and nobody is there any more to hear of it.
                self.sent[number_of(event.message)].last_words = event.error
            elif isinstance(event, Message):
                self.repeatable[number_of(event)] += 1
        for entry in self.open.values():
            entry.limbo = entry.limbo or entry.process is process
            for handle in entry.handles[entry.judged :]:
                if isinstance(handle.outcome, Exception):
                    entry.last_words = handle.outcome
            entry.judged = len(entry.handles)
        self.open.clear()
        self.unmatched += session.inbound.unmatched_count
        # Whether the end of the former session was put on disk in time is anybody's guess.
        if server.session is not None and server.session.epoch > self.learned_epoch:
            self.hidden_losses += 1

    def may_be_foreign(self, pipe: Pipe) -> bool:
        session = self.stage.server.session
        return self.stage.disk is None and session is not None and session.first_pipe.owner != pipe.owner

    def adopted(self, pipe: Pipe) -> None:
        if pipe.is_first:
            raise Violation("the client takes a foreign session for its own, and this is its first connection")
        self.note("takes a foreign session for its own")
        self.torn = True

    def link_ended(self, link: ServerLink) -> None:
        session = link.session
        if session is not None and link.is_new_session and session.epoch > self.learned_epoch:
            self.note("the client never learns of a new session")
            self.hidden_losses += 1

    # ---- publications ----------------------------------------------------------------------------------------------------------------------

    def new_publication(self, process: Process, qos: int, topic: str, retain: bool, expiry_s: int | None, size: int) -> Sent:
        number = len(self.sent) + 1
        entry = Sent(number, process, qos, topic, retain, None if expiry_s is None else self.stage.now + expiry_s, size)
        entry.epoch_before = self.learned_epoch
        entry.goodbyes_before = self.goodbyes
        entry.published_at = self.stage.now
        self.sent[number] = entry
        self.open[number] = entry
        self.note(f"publish QoS {qos}")
        return entry

    def accepted(self, entry: Sent) -> None:
        """The call has returned: with a database, the message is on disk."""
        entry.promised = True
        disk = self.stage.disk
        if disk is None or not entry.qos or entry.handles[-1].state == 5 or entry.handles[-1].done:
            # Nothing more is promised: it has ended, or a goodbye has resolved its handle, and then it may have been dropped for another.
            return
        image = disk.volatile if disk.fast else disk.durable
        if not any(row.number == entry.number for row in image.rows.values()):
            raise Violation(f"publish() of message {entry.number} returned, and the message isn't on disk")

    def open_handles(self, process: Process) -> list[tuple[Sent, Any]]:
        """Return the handles of which the outcome isn't known."""
        return [(entry, handle) for entry in self.open.values() for handle in entry.handles if not handle.done]

    def check_offered(self, pipe: Pipe, data: bytes) -> None:
        """The client hands bytes to the socket: what they depend on must be on disk by now."""
        packets, self.wire[pipe] = wire.split(self.wire.get(pipe, b"") + data)
        disk = self.stage.disk
        image = None if disk is None else disk.volatile if disk.fast else disk.durable
        for first, body, _ in packets:
            kind = first & 0xF0
            if kind == 0x30:
                self._check_publish(pipe, wire.decode_publish(first, body), image)
            elif image is not None and kind in {0x50, 0x60, 0x70}:
                self._check_ack(kind, *wire.decode_ack(body), image)
            elif image is not None and kind == 0x10:
                session = image.session or ""
                if image.client_id is None or not (" ours" in session or " ended" in session):
                    raise Violation(f"CONNECT leaves, and the database says {image.client_id!r}, {session!r}")

    def _check_publish(self, pipe: Pipe, packet: wire.Publish, image: Image | None) -> None:
        entry = self.sent[int(packet.payload.split(b" ", 1)[0])]
        now = self.stage.now
        if entry.raised is not None:
            raise Violation(f"message {entry.number} is sent, and its call raised {entry.raised!r}")
        if not self.torn and (entry.ended() or (entry.fate == SUCCESS and entry.process is self.stage.process)):
            raise Violation(f"message {entry.number} is sent after its last word, {entry.fate!r}")
        if entry.first_offer is None:
            entry.first_offer = now
            if entry.expires_at is not None and pipe.opened_at >= entry.expires_at and entry.process is self.stage.process:
                raise Violation(f"message {entry.number} is sent first at {now}, and its interval ran out at {entry.expires_at}")
            if packet.dup and entry.process is self.stage.process:
                raise Violation(f"message {entry.number} is sent for the first time with DUP [MQTT-3.3.1-2]")
        if entry.expires_at is not None and packet.expiry_s is not None:
            # Reduced by the time that it waited: at least until there was a connection (section 3.3.2.3.3).
            most_s = entry.expires_at - max(entry.published_at, pipe.opened_at)
            if not entry.expires_at - now - 1e-6 <= packet.expiry_s < max(1.0, most_s) + 1:
                raise Violation(
                    f"message {entry.number} leaves with Message Expiry Interval {packet.expiry_s}, and {most_s} s at most are left"
                )
        entry.offers += 1
        if not packet.qos:
            entry.end = (pipe, pipe.offered_bytes)
            return
        if image is not None:
            rows = [row for row in image.rows.values() if row.number == entry.number]
            if not rows and self._is_saying_goodbye(entry):
                self.note("sent together with the goodbye")
                return
            if not rows or rows[0].packet_id != packet.packet_id or rows[0].released:
                raise Violation(
                    f"PUBLISH of message {entry.number} leaves with packet identifier {packet.packet_id}, and the database has "
                    + (f"identifier {rows[0].packet_id}, released {rows[0].released}" if rows else "no such row")
                )

    def _is_saying_goodbye(self, entry: Sent) -> bool:
        """Return whether a goodbye has ended the session, and the message with it, and both are on their way out."""
        process = self.stage.process
        link = None if process is None else process.driver.session.link
        if process is None or link is None or link.state < CLOSING:
            return False
        # What a dead process had of it will never know.
        return all(handle.outcome is not None for handle in entry.handles if handle._driver is process.driver)

    def _check_ack(self, kind: int, packet_id: int, reason_code: int, image: Image) -> None:
        if (image.session or "").endswith(" ended"):
            # It leaves together with the goodbye that has ended the session.
            return
        if kind == 0x60:
            known = any(row.packet_id == packet_id and row.released for row in image.rows.values())
            if not known and not reason_code:
                raise Violation(f"PUBREL leaves for packet identifier {packet_id}, whose PUBREC isn't on disk")
        elif kind == 0x50 and reason_code < 0x80:
            if packet_id not in image.received:
                raise Violation(f"PUBREC leaves for packet identifier {packet_id}, which isn't on disk as received")
        elif packet_id in image.received:
            raise Violation(f"{'PUBCOMP' if kind == 0x70 else 'PUBREC'} leaves for packet identifier {packet_id}, which is still on disk")

    def check_arrival(self, number: int, publish: wire.Publish, epoch: int) -> None:
        entry = self.sent.get(number)
        if entry is None or (publish.topic, publish.qos, publish.retain, publish.payload) != (
            entry.topic,
            entry.qos,
            entry.retain,
            entry.payload,
        ):
            raise Violation(f"message {number} arrived as {publish!r}, which isn't how it was published")
        if (publish.expiry_s is None) != (entry.expires_at is None):
            raise Violation(f"message {number} arrived with Message Expiry Interval {publish.expiry_s}")
        if number not in self.stage.server.arrived_in:
            # A goodbye that ends the session takes QoS 0 along, and what stands before it waits for the next session.
            kind = min(publish.qos, 1) if self.goodbyes else 0
            # A cancelled one that was about to be sent may leave with a goodbye, and nobody counts on its place.
            anywhere = entry.out_of_order or entry.cancelled
            if number < self.last_arrival[kind] and not self.torn and not anywhere:
                raise Violation(f"message {number} arrived first after message {self.last_arrival[kind]} [MQTT-4.6.0-1]")
            if not anywhere:
                self.last_arrival[kind] = max(number, self.last_arrival[kind])
                self.last_arrival[min(publish.qos, 1)] = max(number, self.last_arrival[min(publish.qos, 1)])
        elif publish.dup:
            self.note(f"DUP QoS {publish.qos}")
        else:
            self.note("sent again in a new session")

    def tell(self, entry: Sent, outcome: Any) -> None:
        """Somebody was told what became of a publication: is it true?"""
        server = self.stage.server
        number = entry.number
        if entry.fate == SUCCESS and entry.process is not self.stage.process:
            # The deletion of its row trailed, and the process died before: what is said of it now comes second.
            self.note("told again after a crash")
            return
        if entry.fate is not None and not isinstance(entry.fate, (ClientClosedError, CancelledError)) and not self.torn:
            raise Violation(f"message {number} ended twice: {entry.fate!r}, {outcome!r}")
        if isinstance(outcome, Exception):
            entry.fate = outcome
            self.note(f"handle: {type(outcome).__name__}")
            if not self._is_true(entry, outcome):
                raise Violation(f"message {number} is said to have ended with {outcome!r}")
            return
        entry.fate = SUCCESS
        self.note(f"handle: QoS {entry.qos} acknowledged")
        if not entry.qos:
            if entry.end is None or entry.end[0].taken_bytes < entry.end[1]:
                raise Violation(f"message {number} is said to have been handed over")
        elif self.torn:
            # Identifiers of before and after the power cut may be the same.
            return
        elif not server.accepted[number] or (number not in server.acknowledged and not getattr(outcome, "reason_code", 0) >= 0x80):
            raise Violation(f"message {number} is said to have been acknowledged, and the server has it {server.accepted[number]} times")

    def _is_true(self, entry: Sent, error: Exception) -> bool:
        stage = self.stage
        setting = stage.story.setting
        sent = entry.first_offer is not None
        if isinstance(error, PublishError):
            return entry.number in stage.server.rejected
        if isinstance(error, SessionLostError):
            # Of a former process nobody knows whether it came to send what it had committed.
            sent = sent or entry.process is not stage.process
            return sent and (stage.server.epoch > entry.epoch_before or self._said_goodbye(entry))
        if isinstance(error, MessageExpiredError):
            return entry.expires_at is not None and entry.expires_at <= stage.now and (not sent or setting.republish or self.torn)
        if isinstance(error, MessageDroppedError):
            return (not sent or setting.republish or self.torn) and (
                QueuePolicy(setting.queue_policy).name.startswith("DROP") or not setting.queue_qos0
            )
        if isinstance(error, CancelledError):
            return entry.cancelled
        if isinstance(error, ClientClosedError):
            if stage.disk is not None and entry.qos:
                stored = any(row.number == entry.number for row in stage.disk.volatile.rows.values())
                # It may have ended meanwhile: then that is what is being told.
                known = stored == error.stored or self.telling == entry.number or self._disk_refused_to_the_end()
                if error.stored and not stored:
                    # Kept by the database, and ended since: expired, or dropped for another.
                    known |= entry.expires_at is not None and entry.expires_at <= stage.now
                    known |= bool(setting.queue_max) and QueuePolicy(setting.queue_policy) is QueuePolicy.DROP_OLDEST
                return known and self._said_goodbye(entry)
            return not error.stored and self._said_goodbye(entry)
        if isinstance(error, LinkLostError):
            return entry.qos == 0
        if isinstance(error, StoreError):
            return stage.disk is not None and not sent
        if isinstance(error, PoisonMessageError):
            return sent and stage.server.closings >= 3
        return isinstance(error, (PacketTooLargeError, ServerLimitError))

    def _said_goodbye(self, entry: Sent) -> bool:
        """Return whether the user has said goodbye since, or is about to."""
        return self.goodbyes > entry.goodbyes_before or self.in_goodbye > 0

    # ---- messages --------------------------------------------------------------------------------------------------------------------------

    def begin_callback(self, process: Process, tag: int, message: Message) -> int:
        """A callback of the user's begins; return the number of its message."""
        number = int(message.payload.split(b" ", 1)[0])
        server = self.stage.server
        known = server.topics.get(number)
        if known is None or known[0] != message.topic or message.qos > known[1]:
            raise Violation(f"a callback gets message {number} as {message!r}, and the server sent {known!r}")
        self.calls[number, tag] += 1
        self.delivered[number] += 1
        self.note(f"callback QoS {message.qos}")
        if message.qos == 2 and not self.torn and not self.stage.story.setting.overlap:
            allowed = 1 + self.repeatable[number]
            if self.delivered[number] > allowed:
                raise Violation(f"QoS 2 message {number} is delivered {self.delivered[number]} times, {allowed} at most are due")
        elif self.delivered[number] > server.transmitted[number] * 3 + self.repeatable[number]:
            raise Violation(
                f"message {number} is delivered {self.delivered[number]} times, and was sent {server.transmitted[number]} times"
            )
        return number

    def end_callback(self, number: int, reason_code: int) -> None:
        self.finished[number] = min(reason_code, self.finished.get(number, 0xFF))
        if reason_code >= 0x80:
            # The exchange is over for the client; if the server doesn't hear of it, the message comes again [MQTT-4.3.3-9].
            self.repeatable[number] += 1

    def check_client_ack(self, number: int, reason_code: int) -> None:
        """The client acknowledges a message: its callback has run, or nobody wanted it."""
        self.note("client's ack rejects" if reason_code else "client's ack")
        process = self.stage.process
        unmatched = self.unmatched + (0 if process is None else process.driver.session.inbound.unmatched_count)
        if number in self.finished:
            # If the server didn't hear of that, the message came again, and perhaps nobody wanted it any more.
            if reason_code < 0x80 <= self.finished[number] and not unmatched:
                raise Violation(f"message {number} is acknowledged with Success, and its callback raised")
            return
        if self.torn or self.hidden_losses:
            return
        if not unmatched:
            raise Violation(f"message {number} is acknowledged, and its callback has not returned")
        self.note("acknowledged without a callback")

    # ---- at every step -----------------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Look at everything between two steps."""
        self.look_at_handles()
        process = self.stage.process
        if process is None or process.dead:
            return
        driver = process.driver
        if driver.internal_error is not None:
            raise Violation(f"an internal error: {driver.internal_error!r}") from driver.internal_error
        if driver.closed:
            self._look_at_what_is_left()
            if any(not handle.done for entry in self.open.values() for handle in entry.handles if entry.process is process):
                raise Violation("the client is closed, and a handle is open")
            self.check_requests()
            return
        books.check(driver, self.stage.disk)
        if self.stage.story.setting.threads and not process.is_awake(self.stage.now):
            books.check_sleep(driver, process.wake_at, self.stage.now)
        self._learn(driver)

    def _disk_refused_to_the_end(self) -> bool:
        process = self.stage.process
        return process is not None and process.driver.closing and self.events["commit fails"] > 0

    def _look_at_what_is_left(self) -> None:
        """The client has closed although the disk refused: what it said at the end is not on disk, and is undone by the next process."""
        disk = self.stage.disk
        for row in () if disk is None else disk.volatile.rows.values():
            entry = self.sent[row.number]
            if self._disk_refused_to_the_end() and (entry.ended() or isinstance(entry.fate, ClientClosedError)):
                self.note("the end was told, and the disk refused it")
                entry.last_words = entry.fate if isinstance(entry.fate, Exception) else None
                entry.fate = None

    def look_at_handles(self) -> None:
        for entry in list(self.open.values()):
            handles = entry.handles
            while entry.judged < len(handles) and handles[entry.judged].done:
                self.tell(entry, handles[entry.judged].outcome)
                entry.judged += 1
            if entry.raised is not None or (entry.limbo and not handles) or (handles and entry.judged == len(handles)):
                del self.open[entry.number]
        for entry in self.sent.values():
            if entry.number not in self.open and entry.judged < len(entry.handles):
                self.open[entry.number] = entry

    def _learn(self, driver: Any) -> None:
        """The client knows, for good, of the session that it is in."""
        link = driver.session.link
        if link is None or link.state != CONNECTED:
            return
        commits = driver.commits
        if commits is not None and (commits.unfinished is not None or driver.session.baskets.required):
            return
        server_link = self.stage.server.connected_link()
        if server_link is not None and server_link.pipe is driver.transport and server_link.session is not None:
            if self.may_be_foreign(driver.transport) and not self.torn:
                self.adopted(driver.transport)
            self.learned_epoch = server_link.session.epoch

    def requested(self, process: Process, handle: Any) -> None:
        """A SUBSCRIBE or UNSUBSCRIBE was asked for, or refused at the call."""
        if handle is not None:
            self.requests.append((process, handle))

    def check_requests(self) -> None:
        """There is nothing left to wait for: every request has its outcome."""
        open_ones = [handle for process, handle in self.requests if process is self.stage.process and not handle.done]
        if open_ones:
            raise Violation(f"nothing is left to be done, and requests have no outcome: {open_ones}")

    def check_keep_alive(self) -> None:
        """A connection on which nothing arrives is given up within twice the keep alive."""
        process = self.stage.process
        if process is None or process.dead:
            return
        session = process.driver.session
        link = session.link
        pipe = self.stage.pipe()
        if link is None or pipe is None or link.state != CONNECTED or not link.keep_alive_s or not session.reading():
            return
        silent_s = self.stage.now - max(pipe.last_read_at, link.connected_at, self.stage.stood_still_until)
        if silent_s > 2 * link.keep_alive_s + 1:
            raise Violation(f"nothing arrived for {silent_s} s, the keep alive is {link.keep_alive_s} s, and the connection stands")

    # ---- at the end --------------------------------------------------------------------------------------------------------------------

    def is_at_rest(self, process: Process) -> bool:
        """Return whether nothing is left to happen."""
        driver = process.driver
        session = driver.session
        if process.dead or driver.closing or session.connected_link() is None or driver.delivery.inbox or driver.delivery.completed:
            return False
        if self.stage.blocked or session.baskets.journal or not session.idle() or not self.stage.server.is_quiet(self._given_up(session)):
            return False
        if session.inbound.unmatched or (driver.commits is not None and driver.commits.unfinished is not None):
            return False
        server_link = self.stage.server.connected_link()
        if server_link is None or server_link.pipe is not driver.transport:
            return False
        return not (session.outbound.in_flight or session.outbound.released or self.open)

    def _given_up(self, session: Any) -> set[int]:
        """Return the identifiers of exchanges that the server waits for in vain."""
        known = self.stage.server.session
        return set(known.received) if self.torn and known is not None else set(session.outbound.retired)

    def describe_unrest(self) -> str:
        process = self.stage.process
        if process is None:
            return "no process"
        session = process.driver.session
        return (
            f"phase {session.phase}, failure {session.failure!r}, last error {session.last_error!r}, idle {session.idle()}, "
            f"in flight {list(session.outbound.in_flight)}, released {list(session.outbound.released)}, queue {len(session.outbound.queue)}, "
            f"stored {session.outbound.stored_rows}, open handles {sorted(self.open)}, journal {session.baskets.journal}, "
            f"server quiet {self.stage.server.is_quiet(self._given_up(session))}, unmatched {len(session.inbound.unmatched)}, "
            f"requests {list(session.outbound.requests)}"
        )

    def check_end(self) -> None:
        """All is at rest: every promise is kept by now."""
        stage = self.stage
        process = stage.process
        assert process is not None
        outbound = process.driver.session.outbound
        left = {"messages": outbound.messages, "bytes": outbound.bytes, "queue_bytes": outbound.queue_bytes, "heirs": len(outbound.heirs)}
        if any(left.values()):
            raise Violation(f"all publications have ended, and the books say {left}")
        if stage.disk is not None and (stage.disk.volatile.rows or stage.disk.volatile.received) and not (self.torn or self.hidden_losses):
            raise Violation(f"all is done, and the database holds {list(stage.disk.volatile.rows)}, {list(stage.disk.volatile.received)}")
        self.check_requests()
        refused = bool(self.events["SUBACK refuses"])
        if not (self.torn or (self.hidden_losses and refused)):
            books.check_subscriptions(process.driver.session, stage.server.session, refused)
        for entry in self.sent.values():
            self._check_end_of(entry)
        for number in range(1, stage.server.messages + 1):
            self._check_end_of_message(number)

    def _check_end_of(self, entry: Sent) -> None:
        stage = self.stage
        accepted = stage.server.accepted[entry.number]
        if entry.qos == 2 and accepted > 1 and not (self.torn or self.hidden_losses or stage.story.setting.republish):
            raise Violation(f"QoS 2 message {entry.number} was accepted {accepted} times")
        if entry.qos == 0 and accepted > 1:
            raise Violation(f"QoS 0 message {entry.number} arrived {accepted} times")
        if not entry.qos or not entry.promised or self.torn:
            return
        kept = stage.disk is not None or entry.process is stage.process
        if (
            kept
            and not accepted
            and entry.last_words is None
            and (entry.fate is None or (isinstance(entry.fate, ClientClosedError) and entry.fate.stored))
        ):
            raise Violation(f"message {entry.number} was promised, and is lost: nobody has it, and nobody was told (fate: {entry.fate!r})")

    def _check_end_of_message(self, number: int) -> None:
        server = self.stage.server
        if number in server.completed and not self.delivered[number] and server.completed[number] < 0x80:
            if self.torn or self.hidden_losses or self.events["acknowledged without a callback"]:
                return
            raise Violation(f"the server's message {number} was acknowledged, and no callback had it")
