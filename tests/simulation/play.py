"""Playing a story: the real client among its surroundings, and every step of the story as a method.

With threads, the client believes that it has an I/O thread, a committer and a delivery thread: here each of their turns is a call. A call of
the user's that would wait for them lets them take their turns meanwhile, or stands still if it was made in the middle of one (`BlockedError`).
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from ohmqtt.client import Client
from ohmqtt.client.world import World
from ohmqtt.errors import ConnectError, MQTTError, StoreError
from ohmqtt.property import MQTTConnectProps, MQTTPublishProps
from ohmqtt.records import SessionLostPolicy
from ohmqtt.session import IDLE, STOPPED, QueuePolicy, SessionSettings
from ohmqtt.topic_alias import AliasPolicy
from tests.simulation.judge import Judge, Sent
from tests.simulation.server import Limits, Server, ServerLink
from tests.simulation.surroundings import BlockedError, CrashedError, Disk, Pipe, Selector, StoreOfProcess, Violation

if TYPE_CHECKING:
    from ohmqtt.packet import MQTTPublishPacket
    from ohmqtt.records import Message
    from tests.simulation.story import Step, Story
    from tests.simulation.surroundings import Journal

__all__ = ["Play", "play"]

CLIENT_ID = "simulated"
TOPICS = ("a", "b")
TIMES_S = (0.05, 0.2, 1.0, 2.0, 6.0, 15.0, 61.0, 300.0)
WAITS_MAX = 400
LOOKS_MAX = 300
TURNS_MAX = 100
ROUNDS_MAX = 150


class UserError(Exception):
    """What a callback of the user's raises."""


class Condition:
    """In place of a condition that threads wait for each other with: who waits lets the others take their turns."""

    def __init__(self, lock: Any, others: Callable[[float | None], None]) -> None:
        self._lock = lock
        self._others = others

    def wait(self, timeout: float | None = None) -> bool:
        self._lock.release()
        try:
            self._others(timeout)
        finally:
            self._lock.acquire()
        return True

    def notify(self, n: int = 1) -> None:
        pass

    def notify_all(self) -> None:
        pass


class Thread:
    """A thread whose turns are taken by the story."""

    def __init__(self, play: Play, target: Callable[..., None], args: tuple[Any, ...] = (), name: str = "", daemon: bool = True) -> None:
        self.play = play
        self.target = target
        self.args = args
        self.name = name

    def start(self) -> None:
        if self.name == "ohmqtt-dial":
            self.play.dials.append(self)

    def join(self, timeout: float | None = None) -> None:
        pass

    def is_alive(self) -> bool:
        return True


class Process:
    """One life of the client."""

    def __init__(self, play: Play) -> None:
        setting = play.story.setting
        self.dead = False
        self.held: deque[Message] = deque()
        # Of the I/O thread: whether it is at work, and when it wants to be woken if nobody does before.
        self.in_turn = False
        self.wake_at = 0.0
        self.pipes: dict[int, Pipe] = {}
        self.store = None if play.disk is None else StoreOfProcess(play.disk, play)
        world = World(
            monotonic=lambda: play.now,
            random=lambda: setting.jitter,
            selector=lambda: Selector(play, self.pipes, self.is_woken),
            open_transport=play.open_transport,
            make_thread=lambda **options: Thread(play, **options),  # type: ignore[arg-type]
        )
        self.client = client = Client(settings=_settings(setting), manual_ack=setting.manual_ack, store=self.store, world=world)
        driver: Any = client._driver
        self.driver = driver
        driver.changed = Condition(driver.lock, play.others)
        if driver.commits is not None:
            driver.commits.ended = driver.changed
            driver.commits.asked = Condition(driver.lock, play.nobody)
        if setting.on_message:
            client.on_message = lambda _, message: play.deliver(self, 0, message)
        client.on_undelivered = play.undelivered
        client.on_connect = lambda *_: play.judge.note("on_connect")
        client.on_disconnect = lambda *_: play.judge.note("on_disconnect")
        if setting.threads:
            client.start_loop()

    def is_woken(self) -> bool:
        return not self.driver.sleeping

    def is_awake(self, now: float) -> bool:
        """Return whether the I/O thread has anything to wake up for."""
        driver = self.driver
        if now >= self.wake_at or not driver.sleeping or driver.closing:
            return True
        return driver.transport is not None and driver.interest and driver.transport.is_ready(driver.interest) != 0

    def bury(self) -> None:
        """Let go of what a dead process holds, without a word to anybody."""
        self.client._abandon_after_fork()
        self.driver.discard()

    def is_alive(self) -> bool:
        """Return whether the client is there, closing perhaps."""
        return not (self.dead or self.driver.closed)

    def is_usable(self) -> bool:
        return not (self.dead or self.driver.closing or self.driver.closed)


def _settings(setting: Any) -> SessionSettings:
    return SessionSettings(
        queue_messages_max=setting.queue_max or 65_535,
        queue_policy=QueuePolicy(setting.queue_policy),
        queue_qos0=setting.queue_qos0,
        session_lost_policy=SessionLostPolicy(int(setting.republish)),
        reconnect_max_s=4.0,
        window_messages=setting.window or 2_048,
        inbound_messages_max=setting.inbound_max or 20_000,
        inbound_messages_hard_max=2 * setting.inbound_max or 100_000,
    )


class Play:
    """One story while it is being played."""

    def __init__(self, story: Story) -> None:
        setting = story.setting
        self.story = story
        self.now = 1_000.0
        self.judge = Judge(self)
        self.server = Server(self.judge, setting.several_copies, setting.strict)
        self.server.limits = Limits(setting.server_receive_maximum, aliases=setting.aliases)
        self.disk = None if setting.database == "none" else Disk(setting.database == "fast")
        self.process: Process | None = None
        self.pipe_number = 0
        self.dials: deque[Thread] = deque()
        # What waits for the client to come to a place, and where it is now.
        self.waiting: dict[str, deque[Step]] = {}
        self.inside: list[str] = []
        self.waits = 0
        self.looks = 0
        # A thread of the client was in the middle of something until then, and took no turn.
        self.stood_still_until = 0.0
        self.calls: list[tuple[int, tuple[Sent, ...]]] = []
        self.blocked: list[tuple[Sent, int]] = []
        self.fail_commits = 0
        self.fail_loads = 0
        self.no_route = 0
        self.raises = 0
        self.crash_after_commit = False
        self.foreign = False
        self.tags = 0

    # ---- what the surroundings ask for ---------------------------------------------------------------------------------------------------

    def pause(self, place: str) -> None:
        steps = self.waiting.get(place)
        process = self.process
        if steps and place not in self.inside:
            self.inside.append(place)
            try:
                step = steps.popleft()
                self.judge.note(f"{step.name} at {place}")
                self.do(step)
            finally:
                self.inside.pop()
        if process is not None and process.dead:
            raise CrashedError

    def sleep(self, timeout: float, is_ready: Callable[[], bool]) -> None:
        self.pause("sleep")
        if is_ready():
            return
        self._wait_once()
        self.flow()
        if not is_ready():
            self.pass_time(timeout)

    def others(self, timeout: float | None) -> None:
        """A thread of the user's waits for the others."""
        if self.inside or not self.story.setting.threads:
            raise BlockedError
        self._wait_once()
        before = self.now
        self.turn()
        self.flow()
        if before == self.now:
            process = self.process
            deadline = None if process is None else process.driver.session.deadline()
            left = 1.0 if timeout is None else timeout
            self.pass_time(left if deadline is None else min(left, max(0.001, deadline - self.now)))
        if self.process is None or self.process.dead:
            raise CrashedError

    def nobody(self, timeout: float | None) -> None:
        """The committer has nothing to do."""
        raise BlockedError

    def _wait_once(self) -> None:
        self.waits += 1
        if self.waits > 10:
            # Whoever waits for so long shall be given what he waits for.
            self.heal()
        if self.waits > WAITS_MAX:
            raise Violation("a call never returns")

    def look(self) -> None:
        self.looks += 1
        if self.looks > LOOKS_MAX:
            raise Violation("the driver spins: it looks again and again, and neither sleeps nor finds anything")

    def offered(self, pipe: Pipe, data: bytes) -> None:
        self.judge.check_offered(pipe, data)

    def before_commit(self, store: StoreOfProcess, journal: Journal) -> None:
        self.judge.note("commit")
        self.judge.look_at_handles()
        self.pause("commit")
        if self.fail_commits:
            self.fail_commits -= 1
            self.judge.note("commit fails")
            raise StoreError("the disk is full")

    def after_commit(self, store: StoreOfProcess) -> None:
        if self.crash_after_commit:
            self.crash_after_commit = False
            self.kill(0, 0)

    def before_load(self) -> None:
        self.judge.note("load")
        if self.fail_loads:
            self.fail_loads -= 1
            self.judge.note("load fails")
            raise StoreError("the disk can't be read")

    def open_transport(self, **options: Any) -> Any:
        process = self.process
        assert process is not None
        self.pause("dial")
        if self.no_route:
            self.no_route -= 1
            self.judge.note("dial fails")
            raise ConnectError("no route to the server")
        self.pipe_number += 1
        pipe = Pipe(self.pipe_number, self, self.judge.events["process"])
        process.pipes[pipe.fileno()] = pipe
        self.server.accept(pipe)
        return pipe

    # ---- user code -----------------------------------------------------------------------------------------------------------------------

    def deliver(self, process: Process, tag: int, message: Message) -> None:
        """A callback of the user's runs."""
        if process.dead:
            raise CrashedError
        number = self.judge.begin_callback(process, tag, message)
        if "commit" not in self.inside:
            self.pause("callback")
        if self.raises and not ("commit" in self.inside or (self.story.setting.threads is False and self.inside)):
            self.raises -= 1
            self.judge.end_callback(number, 0x83)
            raise UserError("the user's callback failed")
        if self.story.setting.manual_ack and message.qos:
            process.held.append(message)
        else:
            self.judge.end_callback(number, 0)

    def undelivered(self, packet: MQTTPublishPacket, error: MQTTError) -> None:
        judge = self.judge
        judge.note("on_undelivered")
        judge.telling = int(packet.payload.split(b" ", 1)[0])
        judge.look_at_handles()
        judge.tell(judge.sent[judge.telling], error)
        judge.telling = 0

    # ---- the machinery -----------------------------------------------------------------------------------------------------------------

    def do(self, step: Step) -> None:
        method = _METHODS.get(step.name)
        if method is None:
            method = _METHODS.setdefault(step.name, getattr(Play, f"do_{step.name}"))
        method(self, step.a, step.b)

    def call(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
        """Make a call of the user's; what it may raise is noted."""
        try:
            return function(*arguments, **keywords)
        except MQTTError as error:
            self.judge.note(f"{type(error).__name__} at a call")
        except BlockedError:
            self.judge.note("a call waits")
        return None

    def usable(self) -> Process | None:
        """Return the client's process if it can be used; make a new one if that is possible here."""
        process = self.process
        if process is not None and process.is_usable():
            return process
        if self.inside or (process is not None and not (process.dead or process.driver.closed)):
            return None
        return self.start()

    def start(self) -> Process:
        """A new process begins, and connects."""
        if self.process is not None:
            self.judge.end_process(self.process)
            self.process = None
        self.dials.clear()
        self.blocked.clear()
        self.process = process = Process(self)
        self.judge.note("process")
        self.judge.begin_process(process)
        self.connect(process, self.foreign and not self.story.setting.overlap)
        if not self.judge.subscribed:
            self.judge.subscribed = True
            self.subscribe(process, "a", 2)
        else:
            for topic_filter in ("a", "b"):
                self.subscribe(process, topic_filter, 2)
        return process

    def connect(self, process: Process, clean: bool) -> None:
        setting = self.story.setting
        properties = MQTTConnectProps(
            SessionExpiryInterval=None if setting.expiry_s < 0 else setting.expiry_s, ReceiveMaximum=setting.receive_maximum or None
        )
        self.call(
            process.client.connect,
            "server",
            CLIENT_ID,
            clean_start=clean,
            keep_alive=setting.keep_alive,
            connect_properties=properties,
        )

    def subscribe(self, process: Process, topic_filter: str, qos: int) -> None:
        self.tags += 1
        tag = self.tags
        self.call(process.client.subscribe, topic_filter, lambda _, message: self.deliver(process, tag, message), qos)

    def pass_time(self, seconds: float) -> None:
        self.looks = 0
        self.now += seconds
        if self.inside:
            self.stood_still_until = self.now
        self.server.now = self.now

    def turn(self) -> None:
        """Each thread of the client takes a turn."""
        self.do_step(0, 0)
        self.do_commit(0, 0)
        self.do_dial(0, 0)
        self.do_drain(0, 0)

    def flow(self) -> None:
        """What is on its way arrives."""
        for link in list(self.server.links):
            if not link.pipe.frozen:
                self.arrive_up(link, len(link.pipe.up))
        process = self.process
        if process is not None and not process.dead:
            pipe = self.pipe()
            if pipe is not None and not pipe.frozen:
                pipe.arrive_at_client(len(pipe.down))

    def pipe(self) -> Pipe | None:
        """Return the client's network connection."""
        process = self.process
        if process is None or process.dead:
            return None
        pipe: Pipe | None = process.driver.transport or process.driver.arrived
        return pipe

    def arrive_up(self, link: ServerLink, count: int) -> None:
        pipe = link.pipe
        data = bytes(pipe.up[:count])
        del pipe.up[:count]
        if data:
            self.server.arrive(link, data)
        if not pipe.up and (pipe.closed_by_client or pipe.end_for_client is not False):
            self.server.lost(link)

    def kill(self, a: int, b: int) -> None:
        """The process dies here: with the power (what isn't on the platter may be lost), or alone."""
        process = self.process
        if process is None or process.dead:
            return
        self.judge.note("process dies" + (f" at {self.inside[-1]}" if self.inside else ""))
        self.judge.end_process(process)
        process.dead = True
        pipe: Pipe | None = process.driver.transport or process.driver.arrived
        if process.store is not None:
            process.store.dead = True
        if self.disk is not None and a % 3 == 0 and self.disk.unsynced:
            lost = self.disk.power_cut(b % (len(self.disk.unsynced) + 1))
            if lost:
                self.judge.note("transactions lost with the power")
                self.judge.torn = True
                # Even that the session is ours may be forgotten.
                self.foreign = True
        if pipe is not None:
            del pipe.up[a // 3 % (len(pipe.up) + 1) :]
        for pipe in process.pipes.values():
            pipe.closed_by_client = True
        if self.disk is None:
            self.foreign = True
        self.blocked.clear()
        self.dials.clear()

    # ---- the steps: the user ---------------------------------------------------------------------------------------------------------------

    def do_publish(self, a: int, b: int) -> None:
        process = self.usable()
        if process is None:
            return
        entry, arguments = self._publication(process, a % 3, a // 3, b)
        self.calling(entry)
        driver = process.driver
        number = driver.session.baskets.turn_number
        try:
            entry.take_handle(process.client.publish(**arguments))
        except MQTTError as error:
            entry.raised = error
            self.judge.note(f"{type(error).__name__} at publish")
        except CrashedError:
            entry.limbo = True
            raise
        except BlockedError:
            self.judge.note("a publish waits")
            found = self._find(driver, entry.payload)
            if found is None:
                entry.raised = StoreError("it waits for ever")
            else:
                entry.limbo = True
                entry.take_handle(found)
                self.blocked.append((entry, number))
        else:
            self.judge.accepted(entry)

    def _publication(self, process: Process, qos: int, a: int, b: int) -> tuple[Sent, dict[str, Any]]:
        flavour = b % 12
        expiry_s = (1, 5, 100)[b // 12 % 3] if flavour == 0 else None
        policy = AliasPolicy.TRY if flavour == 1 else AliasPolicy.ALWAYS if flavour == 2 and not qos else AliasPolicy.NEVER
        entry = self.judge.new_publication(process, qos, TOPICS[a % 2], flavour == 3, expiry_s, 200 if flavour == 4 else 0)
        properties = None if expiry_s is None else MQTTPublishProps(MessageExpiryInterval=expiry_s)
        return entry, {
            "topic": entry.topic,
            "payload": entry.payload,
            "qos": qos,
            "retain": entry.retain,
            "properties": properties,
            "alias_policy": policy,
        }

    @staticmethod
    def _find(driver: Any, payload: bytes) -> Any:
        """Find the handle of a publication whose call stands still."""
        outbound = driver.session.outbound
        for messages in (outbound.in_flight.values(), outbound.queue, outbound.stored_handles.values(), outbound.behind_stored):
            for message in messages:
                if message.payload == payload:
                    return message
        for write in driver.session.baskets.writes:
            if type(write) is not bytes and write.payload == payload:
                return write
        return None

    def resume_blocked(self) -> None:
        """Calls that stood still go on."""
        while self.blocked and self.process is not None and self.process.is_usable():
            entry, number = self.blocked.pop(0)
            try:
                self.process.driver.commits.settle(number)
            except BlockedError:
                self.blocked.insert(0, (entry, number))
                return
            handle = entry.handles[-1]
            entry.limbo = False
            if handle.done and isinstance(handle.outcome, StoreError):
                entry.raised = handle.outcome
            else:
                self.judge.accepted(entry)

    def calling(self, *entries: Sent) -> None:
        """A call publishes these. If one under it has not returned, it may wait for room, and who comes first is open."""
        self.calls = [(depth, others) for depth, others in self.calls if depth < len(self.inside)]
        for _, others in self.calls:
            for entry in (*others, *entries):
                entry.out_of_order = True
        self.calls.append((len(self.inside), entries))

    def do_publish_many(self, a: int, b: int) -> None:
        process = self.usable()
        if process is None:
            return
        qos = a % 3
        made = [self._publication(process, qos, a // 3 + i, 5)[0] for i in range(2 + b % 2)]
        self.calling(*made)
        try:
            handles = process.client.publish_many([(entry.topic, entry.payload) for entry in made], qos)
        except (MQTTError, BlockedError, CrashedError) as error:
            # Which of them were accepted is not said.
            for entry in made:
                entry.limbo = True
                if process.dead:
                    continue
                found = self._find(process.driver, entry.payload)
                if found is not None:
                    entry.take_handle(found)
                elif isinstance(error, StoreError):
                    entry.raised = error
            if isinstance(error, CrashedError):
                raise
            return
        for entry, handle in zip(made, handles):
            entry.take_handle(handle)
        for entry in made:
            self.judge.accepted(entry)

    def do_subscribe(self, a: int, b: int) -> None:
        process = self.usable()
        if process is not None:
            filters = ("a", "b", "#") if self.story.setting.overlap else ("a", "b")
            self.subscribe(process, filters[a % len(filters)], b % 3)

    def do_unsubscribe(self, a: int, b: int) -> None:
        process = self.usable()
        if process is not None:
            self.judge.unsubscribes = True
            self.call(process.client.unsubscribe, ("a", "b", "#")[a % 3])

    def do_ack(self, a: int, b: int) -> None:
        process = self.process
        if process is None or not process.is_usable() or not process.held:
            return
        held = process.held
        held.rotate(-(a % len(held)))
        message = held.popleft()
        reason_code = 0x83 if b % 8 == 0 else 0
        self.judge.end_callback(int(message.payload.split(b" ", 1)[0]), reason_code)
        self.call(message.ack, reason_code)

    def do_cancel(self, a: int, b: int) -> None:
        process = self.process
        if process is None or not process.is_usable():
            return
        handles = self.judge.open_handles(process)
        if handles:
            entry, handle = handles[a % len(handles)]
            entry.cancelled = True
            self.judge.note("cancel")
            self.call(handle.cancel)

    def do_connect(self, a: int, b: int) -> None:
        process = self.usable()
        if process is not None:
            self.connect(process, (self.foreign or a % 4 == 0) and b % 8 != 0)

    def do_disconnect(self, a: int, b: int) -> None:
        process = self.usable()
        if process is not None:
            self.say_goodbye(process.client.disconnect, 4 if a % 5 == 4 else 0, timeout=(0.0, 1.0, 10.0)[b % 3])

    def say_goodbye(self, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
        self.judge.goodbyes += 1
        self.judge.in_goodbye += 1
        try:
            self.call(function, *arguments, **keywords)
        finally:
            # What was published while it waited may have ended with it.
            self.judge.goodbyes += 1
            self.judge.in_goodbye -= 1

    def do_close(self, a: int, b: int) -> None:
        process = self.usable()
        if process is None:
            return
        self.judge.note("close")
        if a % 2:
            self.say_goodbye(process.client.shutdown)
        else:
            self.say_goodbye(process.client.close, (0.0, 1.0, 10.0)[b % 3])
        if self.disk is None:
            self.foreign = True

    def do_pending(self, a: int, b: int) -> None:
        process = self.usable()
        if process is None:
            return
        self.call(self.take_pending, process)

    def take_pending(self, process: Process) -> None:
        """The user takes every handle that there is to be had, until the disk stops him perhaps."""
        for handle in process.client.pending():
            entry = self.judge.sent[int(handle.payload.split(b" ", 1)[0])]
            if all(handle is not known for known in entry.handles):
                self.judge.note("pending() gives a handle")
                entry.take_handle(handle)
            elif handle.done:
                raise Violation(f"pending() gives message {entry.number}, whose outcome is known")

    def do_wait(self, a: int, b: int) -> None:
        process = self.usable()
        if process is None or self.inside:
            return
        handles = self.judge.open_handles(process)
        if handles:
            # With threads it would be a real lock that is waited for.
            timeout = 0.0 if self.story.setting.threads else (0.0, 1.0, 10.0)[b % 3]
            self.call(handles[a % len(handles)][1].wait_for_ack, timeout)

    def do_raise(self, a: int, b: int) -> None:
        self.raises += 1

    # ---- the steps: turns ------------------------------------------------------------------------------------------------------------------

    def do_step(self, a: int, b: int) -> None:
        process = self.process
        if process is None or process.dead or process.driver.closed:
            return
        driver = process.driver
        if not self.story.setting.threads:
            if not driver.stepping.locked():
                driver.take_turn(0.0)
        elif not process.in_turn and process.is_awake(self.now) and not (self.inside and driver.closing):
            process.in_turn = True
            try:
                driver.step(0.0)
                if process.is_alive():
                    # So long it would sleep now.
                    wait_s = driver._before(None)
                    process.wake_at = inf if wait_s is None else self.now + wait_s
            finally:
                process.in_turn = False

    def do_drain(self, a: int, b: int) -> None:
        process = self.process
        if process is not None and not process.dead:
            process.driver.delivery.drain()

    def do_commit(self, a: int, b: int) -> None:
        process = self.process
        commits = None if process is None or process.dead else process.driver.commits
        if commits is not None and self.story.setting.threads and (commits.handed or commits.ending) and "commit" not in self.inside:
            try:
                commits.run()
            except BlockedError:
                pass

    def do_dial(self, a: int, b: int) -> None:
        if self.dials and "dial" not in self.inside:
            thread = self.dials.popleft()
            thread.target(*thread.args)

    def do_run(self, a: int, b: int) -> None:
        for _ in range(1 + a % 4):
            self.turn()
            self.flow()

    def do_up(self, a: int, b: int) -> None:
        links = self.server.links
        if links:
            link = links[a % len(links)]
            if not link.pipe.frozen:
                size = len(link.pipe.up)
                self.arrive_up(link, size if b % 2 else b // 2 % (size + 1))

    def do_down(self, a: int, b: int) -> None:
        pipe = self.pipe()
        if pipe is not None and not pipe.frozen:
            size = len(pipe.down)
            pipe.arrive_at_client(size if b % 2 else b // 2 % (size + 1))

    def do_advance(self, a: int, b: int) -> None:
        target = self.now + TIMES_S[a % len(TIMES_S)]
        process = self.process
        if self.inside or process is None or process.dead:
            self.pass_time(max(0.0, target - self.now))
            return
        for _ in range(TURNS_MAX):
            if not process.is_alive():
                break
            deadline = process.driver.session.deadline()
            if deadline is None or deadline > target:
                self.pass_time(max(0.0, target - self.now))
                break
            self.pass_time(max(0.0, deadline - self.now))
            self.turn()
            if b % 3:
                self.flow()
                self.turn()
            self.judge.check_keep_alive()

    # ---- the steps: the network ------------------------------------------------------------------------------------------------------------

    def do_room(self, a: int, b: int) -> None:
        pipe = self.pipe()
        if pipe is not None:
            pipe.room = None if a % 3 == 0 else b % 40

    def do_cut(self, a: int, b: int) -> None:
        pipe = self.pipe()
        if pipe is None:
            return
        self.judge.note("cut")
        pipe.frozen = False
        link = next((link for link in self.server.links if link.pipe is pipe), None)
        del pipe.up[b % (len(pipe.up) + 1) :]
        if link is not None:
            self.arrive_up(link, len(pipe.up))
        pipe.arrive_at_client(a // 8 % (len(pipe.down) + 1))
        pipe.break_for_client((True, ConnectionResetError("reset by peer"), OSError(110, "timed out"))[a % 3])
        if link is not None and a // 4 % 2:
            self.server.lost(link)

    def do_freeze(self, a: int, b: int) -> None:
        pipe = self.pipe()
        if pipe is not None:
            pipe.frozen = not pipe.frozen
            self.judge.note("freeze")

    def do_no_route(self, a: int, b: int) -> None:
        self.no_route = a % 3

    # ---- the steps: the server -------------------------------------------------------------------------------------------------------------

    def do_message(self, a: int, b: int) -> None:
        self.server.publish(TOPICS[a % 2 if b % 4 == 0 else 0], (2, 2, 1, 1, 0)[b // 4 % 5])

    def do_lazy(self, a: int, b: int) -> None:
        self.server.lazy = not self.server.lazy

    def do_answer(self, a: int, b: int) -> None:
        self.server.answer_held(1 + a % 3)

    def do_reject(self, a: int, b: int) -> None:
        self.server.reject_next.append((0x97, 0x83, 0x10, 0x87)[a % 4])

    def do_refuse(self, a: int, b: int) -> None:
        self.server.refuse_next.append((0x88, 0x89, 0x97, 0x87)[a % 4])

    def do_refuse_filter(self, a: int, b: int) -> None:
        self.server.subscribe_refusals += 1

    def do_mute(self, a: int, b: int) -> None:
        self.server.mute = not self.server.mute

    def do_lose(self, a: int, b: int) -> None:
        self.judge.note("session lost")
        for link in list(self.server.links):
            if link.session is not None:
                self.server.close(link, (None, 0x8B)[a % 2])
        self.server.lose_session()

    def do_restart(self, a: int, b: int) -> None:
        for link in list(self.server.links):
            self.server.close(link, (None, 0x8B)[a % 2])

    def do_goodbye(self, a: int, b: int) -> None:
        link = self.server.connected_link()
        if link is not None:
            self.judge.note("server closes")
            self.server.close(link, (None, 0x8B, 0x97, 0x93, 0x82, 0x8E)[a % 6])

    def do_limits(self, a: int, b: int) -> None:
        self.server.limits = Limits(
            receive_maximum=(0, 1, 2, 3)[a % 4],
            packet_size_max=(0, 0, 60)[a // 4 % 3],
            qos_max=(2, 2, 2, 1, 0)[b % 5],
            retain=b // 5 % 4 != 0,
            aliases=(0, 1, 2)[b // 20 % 3],
            keep_alive=(0, 0, 5)[b // 60 % 3],
            expiry_s=(-1, -1, 0, 3)[b // 180 % 4],
        )

    def do_poison(self, a: int, b: int) -> None:
        self.server.poisons_next = True

    # ---- the steps: the disk ---------------------------------------------------------------------------------------------------------------

    def do_fail(self, a: int, b: int) -> None:
        self.fail_commits = a % 3

    def do_fail_load(self, a: int, b: int) -> None:
        self.fail_loads = a % 3

    def do_sync(self, a: int, b: int) -> None:
        if self.disk is not None:
            self.disk.sync(a % (len(self.disk.unsynced) + 1))

    def do_crash(self, a: int, b: int) -> None:
        if self.inside and self.inside[-1] == "commit" and b % 2:
            self.crash_after_commit = True
        else:
            self.kill(a, b)

    # ---- the whole -------------------------------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """The faults end."""
        server = self.server
        server.lazy = server.mute = False
        server.reject_next.clear()
        server.refuse_next.clear()
        server.subscribe_refusals = 0
        server.answer_held(len(server.held))
        self.fail_commits = self.fail_loads = self.no_route = 0
        pipe = self.pipe()
        if pipe is not None:
            pipe.frozen = False
            pipe.room = None

    def perform(self, step: Step) -> None:
        """Let one step of the story happen, and look at what became of it."""
        self.waits = self.looks = 0
        self.guard(self.do, step)
        self.guard(self.resume_blocked)
        self.judge.check()

    def guard(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Do something in the course of which the process may die; what a dead process does then has no meaning."""
        try:
            function(*arguments)
        except CrashedError:
            pass
        except Exception:
            if self.process is None or not self.process.dead:
                raise
        if Violation.raised:
            raise Violation.raised[0]
        process = self.process
        if process is not None and process.dead:
            process.bury()
            self.process = None

    def run(self) -> None:
        """Play the story to its end, and then until everything is at rest."""
        self.usable()
        for step in self.story.steps:
            if step.place:
                self.waiting.setdefault(step.place, deque()).append(step)
            else:
                self.perform(step)
        self.come_to_rest()
        self.judge.check_end()
        if self.process is not None:
            self.guard(self.kill, 1, 0)

    def come_to_rest(self) -> None:
        """The faults are over: everything that is open must come to its end."""
        self.waiting.clear()
        self.crash_after_commit = False
        self.raises = 0
        for number in range(ROUNDS_MAX):
            self.waits = self.looks = 0
            self.heal()
            process = self.process
            if process is None or process.driver.closed:
                self.guard(self.start)
            elif process.driver.closing:
                self.guard(self.turn)
            else:
                self.guard(self.settle_down, process, number)
            self.judge.check()
            if process is not None and process is self.process and self.judge.is_at_rest(process):
                return
        raise Violation(f"it doesn't come to rest: {self.judge.describe_unrest()}")

    def settle_down(self, process: Process, number: int) -> None:
        session = process.driver.session
        if session.phase in {IDLE, STOPPED} and session.link is None:
            self.connect(process, self.foreign)
        self.foreign = self.foreign and session.connected_link() is None
        self.resume_blocked()
        self.turn()
        self.flow()
        while process.held:
            self.do_ack(0, 1)
        deadline = session.deadline()
        if number % 4 == 3:
            self.pass_time(0.2 if deadline is None else min(20.0, max(0.05, deadline - self.now)))


_METHODS: dict[str, Callable[[Play, int, int], None]] = {}


def play(story: Story) -> tuple[Counter[str], Exception | None]:
    """Play a story; return what happened how often, and what was wrong."""
    Violation.raised.clear()
    # The log is user code as well, and would be most of the time that a story takes.
    logger = logging.getLogger("ohmqtt")
    before, logger.disabled = logger.disabled, True
    drama = Play(story)
    failure: Exception | None = None
    try:
        drama.run()
    except Exception as error:
        failure = error
        if drama.process is not None:
            drama.process.bury()
    finally:
        logger.disabled = before
    return drama.judge.events, failure
