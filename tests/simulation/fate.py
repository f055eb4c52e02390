"""Steps that nobody asks for: whose turn it is, how time passes, and what the network, the server, the disk and the power do meanwhile.

Each is a function of the `Stage` and the two small numbers of its `Step`, which choose among what is there at that moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation import user
from tests.simulation.server import Limits
from tests.simulation.stage import TOPICS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.stage import Stage

__all__ = ["STEPS"]

TIMES_S = (0.05, 0.2, 1.0, 2.0, 6.0, 15.0, 61.0, 300.0)
TURNS_MAX = 100


# ---- turns, bytes and time ---------------------------------------------------------------------------------------------------------------


def step(stage: Stage, a: int, b: int) -> None:
    stage.step()


def drain(stage: Stage, a: int, b: int) -> None:
    stage.drain()


def commit(stage: Stage, a: int, b: int) -> None:
    stage.commit()


def dial(stage: Stage, a: int, b: int) -> None:
    stage.dial()


def run(stage: Stage, a: int, b: int) -> None:
    for _ in range(1 + a % 4):
        stage.turn()
        stage.flow()


def up(stage: Stage, a: int, b: int) -> None:
    links = stage.server.links
    if links:
        link = links[a % len(links)]
        if not link.pipe.frozen:
            size = len(link.pipe.up)
            stage.arrive_up(link, size if b % 2 else b // 2 % (size + 1))


def down(stage: Stage, a: int, b: int) -> None:
    pipe = stage.pipe()
    if pipe is not None and not pipe.frozen:
        size = len(pipe.down)
        pipe.arrive_at_client(size if b % 2 else b // 2 % (size + 1))


def advance(stage: Stage, a: int, b: int) -> None:
    target = stage.now + TIMES_S[a % len(TIMES_S)]
    process = stage.process
    if stage.inside or process is None or process.dead:
        stage.pass_time(max(0.0, target - stage.now))
        return
    for _ in range(TURNS_MAX):
        if not process.is_alive():
            return
        deadline = process.driver.session.deadline()
        if deadline is None or deadline > target:
            stage.pass_time(max(0.0, target - stage.now))
            break
        stage.pass_time(max(0.0, deadline - stage.now))
        stage.turn()
        if b % 3:
            stage.flow()
            stage.turn()
        stage.judge.check_keep_alive()
    stage.judge.check_keep_alive()


def busy(stage: Stage, a: int, b: int) -> None:
    pipe = stage.pipe()
    if pipe is not None and b % 2:
        # Nothing arrives, and the client has enough to send not to notice.
        pipe.frozen = True
    for _ in range(5 + a % 25):
        user.publish(stage, a, 5)
        stage.turn()
        advance(stage, TIMES_S.index(2.0), b)


# ---- the network -------------------------------------------------------------------------------------------------------------------------


def room(stage: Stage, a: int, b: int) -> None:
    pipe = stage.pipe()
    if pipe is not None:
        pipe.room = None if a % 3 == 0 else b % 40


def cut(stage: Stage, a: int, b: int) -> None:
    pipe = stage.pipe()
    if pipe is None:
        return
    stage.judge.note("cut")
    pipe.frozen = False
    link = next((link for link in stage.server.links if link.pipe is pipe), None)
    del pipe.up[b % (len(pipe.up) + 1) :]
    if link is not None:
        stage.arrive_up(link, len(pipe.up))
    pipe.arrive_at_client(a // 8 % (len(pipe.down) + 1))
    pipe.break_for_client((True, ConnectionResetError("reset by peer"), OSError(110, "timed out"))[a % 3])
    if link is not None and a // 4 % 2:
        stage.server.lost(link)


def freeze(stage: Stage, a: int, b: int) -> None:
    pipe = stage.pipe()
    if pipe is not None:
        pipe.frozen = not pipe.frozen
        stage.judge.note("freeze")


def no_route(stage: Stage, a: int, b: int) -> None:
    stage.no_route = a % 3


# ---- the server --------------------------------------------------------------------------------------------------------------------------


def message(stage: Stage, a: int, b: int) -> None:
    for _ in range((1, 1, 1, 3)[a // 2 % 4]):
        stage.server.publish(TOPICS[a % 2 if b % 4 == 0 else 0], (2, 2, 1, 1, 0)[b // 4 % 5])


def lazy(stage: Stage, a: int, b: int) -> None:
    stage.server.lazy = not stage.server.lazy


def answer(stage: Stage, a: int, b: int) -> None:
    stage.server.answer_held(1 + a % 3)


def reject(stage: Stage, a: int, b: int) -> None:
    stage.server.reject_next.append((0x97, 0x83, 0x10, 0x87)[a % 4])


def refuse(stage: Stage, a: int, b: int) -> None:
    stage.server.refuse_next.append((0x88, 0x89, 0x97, 0x87)[a % 4])


def refuse_filter(stage: Stage, a: int, b: int) -> None:
    stage.server.subscribe_refusals += 1


def mute(stage: Stage, a: int, b: int) -> None:
    stage.server.mute = not stage.server.mute


def lose(stage: Stage, a: int, b: int) -> None:
    stage.judge.note("session lost")
    for link in list(stage.server.links):
        if link.session is not None:
            stage.server.close(link, (None, 0x8B)[a % 2])
    stage.server.lose_session()


def restart(stage: Stage, a: int, b: int) -> None:
    if b % 3 == 0:
        # With another configuration: what is open may be more than it takes at once.
        stage.server.limits = Limits(receive_maximum=1)
    for link in list(stage.server.links):
        stage.server.close(link, (None, 0x8B)[a % 2])


def goodbye(stage: Stage, a: int, b: int) -> None:
    link = stage.server.connected_link()
    if link is not None:
        stage.judge.note("server closes")
        stage.server.close(link, (None, 0x8B, 0x97, 0x93, 0x82, 0x8E)[a % 6])


def limits(stage: Stage, a: int, b: int) -> None:
    stage.server.limits = Limits(
        receive_maximum=(0, 1, 2, 3)[a % 4],
        packet_size_max=(0, 0, 60)[a // 4 % 3],
        qos_max=(2, 2, 2, 1, 0)[b % 5],
        retain=b // 5 % 4 != 0,
        aliases=(0, 1, 2)[b // 20 % 3],
        keep_alive=(0, 0, 5)[b // 60 % 3],
        expiry_s=(-1, -1, 0, 3)[b // 180 % 4],
    )


def poison(stage: Stage, a: int, b: int) -> None:
    stage.server.poisons_next = True


# ---- the disk ----------------------------------------------------------------------------------------------------------------------------


def fail(stage: Stage, a: int, b: int) -> None:
    stage.fail_commits = a % 3


def fail_load(stage: Stage, a: int, b: int) -> None:
    stage.fail_loads = a % 3


def sync(stage: Stage, a: int, b: int) -> None:
    if stage.disk is not None:
        stage.disk.sync(a % (len(stage.disk.unsynced) + 1))


def crash(stage: Stage, a: int, b: int) -> None:
    if stage.inside and stage.inside[-1] == "commit" and b % 2:
        stage.crash_after_commit = True
    else:
        stage.kill(a, b)


STEPS: dict[str, Callable[[Stage, int, int], None]] = {
    "step": step,
    "drain": drain,
    "commit": commit,
    "dial": dial,
    "run": run,
    "up": up,
    "down": down,
    "advance": advance,
    "busy": busy,
    "room": room,
    "cut": cut,
    "freeze": freeze,
    "no_route": no_route,
    "message": message,
    "lazy": lazy,
    "answer": answer,
    "reject": reject,
    "refuse": refuse,
    "refuse_filter": refuse_filter,
    "mute": mute,
    "lose": lose,
    "restart": restart,
    "goodbye": goodbye,
    "limits": limits,
    "poison": poison,
    "fail": fail,
    "fail_load": fail_load,
    "sync": sync,
    "crash": crash,
}
