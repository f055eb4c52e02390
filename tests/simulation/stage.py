"""The stage: the client's process, its server, its disk and its clock while a story is played, and whatever the client asks of them.

Owns the time, what is on its way, what the story still holds in store for a place (`waiting`), and what it has prepared (`fail_commits`,
`no_route`, …). Whenever the client is where something could happen beside it, `pause` lets it happen. The steps themselves are in `user`
and `fate`, and what is right is for the `Judge` to say.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any

from ohmqtt.errors import ConnectError, MQTTError, StoreError
from ohmqtt.property import MQTTConnectProps
from ohmqtt.session import IDLE, STOPPED
from tests.simulation.judge import Judge
from tests.simulation.process import Process
from tests.simulation.server import Limits, Server
from tests.simulation.surroundings import BlockedError, CrashedError, Disk, Pipe, Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ohmqtt.packet import MQTTPublishPacket
    from ohmqtt.records import Message
    from tests.simulation.judge import Sent
    from tests.simulation.process import Thread
    from tests.simulation.server import ServerLink
    from tests.simulation.story import Step, Story
    from tests.simulation.surroundings import Journal, StoreOfProcess

__all__ = ["TOPICS", "Stage"]

CLIENT_ID = "simulated"
TOPICS = ("a", "b")
# A callback that the client waits for is looked at each 5 ms, and a call of the user's waits for 10 s at most, several of them perhaps.
WAITS_MAX = 10_000
LOOKS_MAX = 300


class UserError(Exception):
    """What a callback of the user's raises."""


class Stage:
    """What there is while one story is played. `steps` says how each step is done."""

    def __init__(self, story: Story, steps: Mapping[str, Callable[[Stage, int, int], None]]) -> None:
        setting = story.setting
        self.story = story
        self.steps = steps
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

    def do(self, step: Step) -> None:
        """A step happens."""
        self.steps[step.name](self, step.a, step.b)

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
        pipe = Pipe(self.pipe_number, self, self.judge.events["process"], not process.pipes)
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

    # ---- the life of the client ----------------------------------------------------------------------------------------------------------

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
        setting = self.story.setting
        self.connect(process, setting.clean or (self.foreign and not setting.overlap))
        if not self.judge.subscribed:
            self.judge.subscribed = True
            self.subscribe(process, "a", 2)
        else:
            for topic_filter in ("a", "b"):
                self.subscribe(process, topic_filter, 2)
        return process

    def connect(self, process: Process, clean: bool) -> None:
        setting = self.story.setting
        session = process.driver.session
        if session.phase in {IDLE, STOPPED} and session.link is None:
            self.server.final = None
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
        handle = self.call(process.client.subscribe, topic_filter, lambda _, message: self.deliver(process, tag, message), qos)
        self.judge.requested(process, handle)

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

    # ---- the client's threads ------------------------------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Each of them takes a turn."""
        self.step()
        self.commit()
        self.dial()
        self.drain()

    def step(self) -> None:
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

    def drain(self) -> None:
        process = self.process
        if process is not None and not process.dead:
            process.driver.delivery.drain()

    def commit(self) -> None:
        process = self.process
        commits = None if process is None or process.dead else process.driver.commits
        if commits is not None and self.story.setting.threads and (commits.handed or commits.ending) and "commit" not in self.inside:
            try:
                commits.run()
            except BlockedError:
                pass

    def dial(self) -> None:
        if self.dials and "dial" not in self.inside:
            thread = self.dials.popleft()
            thread.target(*thread.args)

    # ---- time and the network ------------------------------------------------------------------------------------------------------------

    def pass_time(self, seconds: float) -> None:
        self.looks = 0
        self.now += seconds
        if self.inside:
            self.stood_still_until = self.now
        self.server.now = self.now

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
