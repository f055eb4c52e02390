"""Playing a story: one step after the other on a `Stage`, and then, with all faults healed, until everything is at rest."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ohmqtt.errors import ForeignSessionError
from ohmqtt.session import IDLE, STOPPED
from tests.simulation import fate, user
from tests.simulation.stage import Stage
from tests.simulation.surroundings import CrashedError, Violation

if TYPE_CHECKING:
    from tests.simulation.process import Process
    from tests.simulation.story import Step, Story

__all__ = ["PLAYED", "play"]

PLAYED = {**user.STEPS, **fate.STEPS}
# Of a hundred publications, one at a time may be under way, and each takes several rounds.
ROUNDS_MAX = 1_000


def play(story: Story, steps: Mapping[str, Callable[[Stage, int, int], None]] = PLAYED) -> tuple[Counter[str], Exception | None]:
    """Play a story; return what happened how often, and what was wrong first."""
    Violation.raised.clear()
    # The log is user code as well, and would be most of the time that a story takes.
    logger = logging.getLogger("ohmqtt")
    before, logger.disabled = logger.disabled, True
    stage = Stage(story, steps)
    failure: Exception | None = None
    try:
        _play_on(stage)
    except Exception as error:
        # Who swallowed the first violation has perhaps brought about another one.
        failure = Violation.raised[0] if Violation.raised else error
        if stage.process is not None:
            stage.process.bury()
    finally:
        logger.disabled = before
    return stage.judge.events, failure


def _play_on(stage: Stage) -> None:
    """Play the story to its end, and then until everything is at rest."""
    stage.usable()
    for step in stage.story.steps:
        if step.place:
            stage.waiting.setdefault(step.place, deque()).append(step)
        else:
            _perform(stage, step)
    _come_to_rest(stage)
    stage.judge.check_end()
    _say_goodbye(stage)
    _guard(stage, stage.kill, 1, 0)


def _perform(stage: Stage, step: Step) -> None:
    """Let one step of the story happen, and look at what became of it."""
    stage.waits = stage.looks = 0
    _guard(stage, stage.do, step)
    _guard(stage, user.resume_blocked, stage)
    stage.judge.check()


def _guard(stage: Stage, function: Callable[..., Any], *arguments: Any) -> None:
    """Do something in the course of which the process may die; what a dead process does then has no meaning."""
    try:
        function(*arguments)
    except CrashedError:
        pass
    except Exception:
        if stage.process is None or not stage.process.dead:
            raise
    if Violation.raised:
        raise Violation.raised[0]
    process = stage.process
    if process is not None and process.dead:
        process.bury()
        stage.process = None


def _come_to_rest(stage: Stage) -> None:
    """The faults are over: everything that is open must come to its end."""
    stage.waiting.clear()
    stage.crash_after_commit = False
    stage.raises = 0
    for number in range(ROUNDS_MAX):
        stage.waits = stage.looks = 0
        stage.heal()
        process = stage.process
        if process is None or process.driver.closed:
            _guard(stage, stage.start)
        elif process.driver.closing:
            _guard(stage, stage.turn)
        else:
            _guard(stage, _settle_down, stage, process, number)
        stage.judge.check()
        if process is not None and process is stage.process and stage.judge.is_at_rest(process):
            return
    raise Violation(f"it doesn't come to rest: {stage.judge.describe_unrest()}")


def _say_goodbye(stage: Stage) -> None:
    """Disconnect when all is at rest: the server must hear of it, and the user of everything that is left."""
    before = stage.server.goodbyes
    _guard(stage, user.disconnect, stage, 0, 2)
    stage.flow()
    stage.judge.check()
    if stage.server.goodbyes != before + 1:
        raise Violation("the user has disconnected, and no DISCONNECT came")
    stage.judge.check_requests()


def _settle_down(stage: Stage, process: Process, number: int) -> None:
    """Connect if that is needed, acknowledge what is held, and let everything take its course."""
    session = process.driver.session
    if session.phase == STOPPED and stage.server.final is None and not isinstance(session.failure, ForeignSessionError):
        raise Violation(f"the client has stopped connecting, and the server has not said that it is useless: {session.failure!r}")
    if session.phase in {IDLE, STOPPED} and session.link is None:
        stage.connect(process, stage.foreign)
    stage.foreign = stage.foreign and session.connected_link() is None
    user.resume_blocked(stage)
    stage.turn()
    stage.flow()
    while process.held:
        user.ack(stage, 0, 1)
    deadline = session.deadline()
    if number % 4 == 3:
        stage.pass_time(0.2 if deadline is None else min(20.0, max(0.05, deadline - stage.now)))
