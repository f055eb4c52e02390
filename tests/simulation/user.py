"""Steps of the user: every call of the client's that the simulation makes, and what the judge must know of it.

Each is a function of the `Stage` and the two small numbers of its `Step`, which choose among what is there at that moment. A call that
would wait for another thread in the middle of something stands still (`Stage.blocked`) until `resume_blocked`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ohmqtt.errors import MQTTError, StoreError
from ohmqtt.property import MQTTPublishProps
from ohmqtt.topic_alias import AliasPolicy
from tests.simulation.stage import TOPICS
from tests.simulation.surroundings import BlockedError, CrashedError, Violation

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.judge import Sent
    from tests.simulation.process import Process
    from tests.simulation.stage import Stage

__all__ = ["STEPS", "ack", "disconnect", "resume_blocked"]


# ---- publishing --------------------------------------------------------------------------------------------------------------------------


def publish(stage: Stage, a: int, b: int) -> None:
    process = stage.usable()
    if process is None:
        return
    entry, arguments = _publication(stage, process, a % 3, a // 3, b)
    _calling(stage, entry)
    driver = process.driver
    number = driver.session.baskets.turn_number
    try:
        entry.take_handle(process.client.publish(**arguments))
    except MQTTError as error:
        entry.raised = error
        stage.judge.note(f"{type(error).__name__} at publish")
    except CrashedError:
        entry.limbo = True
        raise
    except BlockedError:
        stage.judge.note("a publish waits")
        found = _find(driver, entry.payload)
        if found is None:
            entry.raised = StoreError("it waits for ever")
        else:
            entry.limbo = True
            entry.take_handle(found)
            stage.blocked.append((entry, number))
    else:
        stage.judge.accepted(entry)


def _publication(stage: Stage, process: Process, qos: int, a: int, b: int) -> tuple[Sent, dict[str, Any]]:
    flavour = b % 12
    expiry_s = (1, 5, 100)[b // 12 % 3] if flavour == 0 else None
    policy = AliasPolicy.TRY if flavour == 1 else AliasPolicy.ALWAYS if flavour == 2 and not qos else AliasPolicy.NEVER
    entry = stage.judge.new_publication(process, qos, TOPICS[a % 2], flavour == 3, expiry_s, 200 if flavour == 4 else 0)
    properties = None if expiry_s is None else MQTTPublishProps(MessageExpiryInterval=expiry_s)
    return entry, {
        "topic": entry.topic,
        "payload": entry.payload,
        "qos": qos,
        "retain": entry.retain,
        "properties": properties,
        "alias_policy": policy,
    }


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


def resume_blocked(stage: Stage) -> None:
    """Calls that stood still go on."""
    while stage.blocked and stage.process is not None and stage.process.is_usable():
        entry, number = stage.blocked.pop(0)
        try:
            stage.process.driver.commits.settle(number)
        except BlockedError:
            stage.blocked.insert(0, (entry, number))
            return
        handle = entry.handles[-1]
        entry.limbo = False
        if handle.done and isinstance(handle.outcome, StoreError):
            entry.raised = handle.outcome
        else:
            stage.judge.accepted(entry)


def _calling(stage: Stage, *entries: Sent) -> None:
    """A call publishes these. If one under it has not returned, it may wait for room, and who comes first is open."""
    stage.calls = [(depth, others) for depth, others in stage.calls if depth < len(stage.inside)]
    for _, others in stage.calls:
        for entry in (*others, *entries):
            entry.out_of_order = True
    stage.calls.append((len(stage.inside), entries))


def publish_many(stage: Stage, a: int, b: int) -> None:
    process = stage.usable()
    if process is None:
        return
    qos = a % 3
    made = [_publication(stage, process, qos, a // 3 + i, 5)[0] for i in range(2 + b % 2)]
    _calling(stage, *made)
    try:
        handles = process.client.publish_many([(entry.topic, entry.payload) for entry in made], qos)
    except (MQTTError, BlockedError, CrashedError) as error:
        # Which of them were accepted is not said.
        for entry in made:
            entry.limbo = True
            if process.dead:
                continue
            found = _find(process.driver, entry.payload)
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
        stage.judge.accepted(entry)


# ---- everything else ---------------------------------------------------------------------------------------------------------------------


def subscribe(stage: Stage, a: int, b: int) -> None:
    process = stage.usable()
    if process is not None:
        filters = ("a", "b", "#") if stage.story.setting.overlap else ("a", "b")
        stage.subscribe(process, filters[a % len(filters)], b % 3)


def unsubscribe(stage: Stage, a: int, b: int) -> None:
    process = stage.usable()
    if process is not None:
        stage.judge.requested(process, stage.call(process.client.unsubscribe, ("a", "b", "#")[a % 3]))


def ack(stage: Stage, a: int, b: int) -> None:
    process = stage.process
    if process is None or not process.is_usable() or not process.held:
        return
    held = process.held
    held.rotate(-(a % len(held)))
    message = held.popleft()
    reason_code = 0x83 if b % 8 == 0 else 0
    stage.judge.end_callback(int(message.payload.split(b" ", 1)[0]), reason_code)
    stage.call(message.ack, reason_code)


def cancel(stage: Stage, a: int, b: int) -> None:
    process = stage.process
    if process is None or not process.is_usable():
        return
    handles = stage.judge.open_handles(process)
    if handles:
        entry, handle = handles[a % len(handles)]
        entry.cancelled = True
        stage.judge.note("cancel")
        stage.call(handle.cancel)


def connect(stage: Stage, a: int, b: int) -> None:
    process = stage.usable()
    if process is not None:
        stage.connect(process, (stage.foreign or a % 4 == 0) and b % 8 != 0)


def disconnect(stage: Stage, a: int, b: int) -> None:
    process = stage.usable()
    if process is not None:
        _say_goodbye(stage, process.client.disconnect, 4 if a % 5 == 4 else 0, timeout=(0.0, 1.0, 10.0)[b % 3])


def _say_goodbye(stage: Stage, function: Callable[..., Any], *arguments: Any, **keywords: Any) -> None:
    stage.judge.goodbyes += 1
    stage.judge.in_goodbye += 1
    try:
        stage.call(function, *arguments, **keywords)
    finally:
        # What was published while it waited may have ended with it.
        stage.judge.goodbyes += 1
        stage.judge.in_goodbye -= 1


def close(stage: Stage, a: int, b: int) -> None:
    process = stage.usable()
    if process is None:
        return
    stage.judge.note("close")
    if a % 2:
        _say_goodbye(stage, process.client.shutdown)
    else:
        _say_goodbye(stage, process.client.close, (0.0, 1.0, 10.0)[b % 3])
    if stage.disk is None:
        stage.foreign = True


def pending(stage: Stage, a: int, b: int) -> None:
    process = stage.usable()
    if process is None:
        return
    stage.call(_take_pending, stage, process)


def _take_pending(stage: Stage, process: Process) -> None:
    """The user takes every handle that there is to be had, until the disk stops him perhaps."""
    for handle in process.client.pending():
        entry = stage.judge.sent[int(handle.payload.split(b" ", 1)[0])]
        if all(handle is not known for known in entry.handles):
            stage.judge.note("pending() gives a handle")
            entry.take_handle(handle)
        elif handle.done:
            raise Violation(f"pending() gives message {entry.number}, whose outcome is known")


def wait(stage: Stage, a: int, b: int) -> None:
    process = stage.usable()
    if process is None or stage.inside:
        return
    handles = stage.judge.open_handles(process)
    if handles:
        # With threads it would be a real lock that is waited for.
        timeout = 0.0 if stage.story.setting.threads else (0.0, 1.0, 10.0)[b % 3]
        stage.call(handles[a % len(handles)][1].wait_for_ack, timeout)


def let_raise(stage: Stage, a: int, b: int) -> None:
    stage.raises += 1


STEPS: dict[str, Callable[[Stage, int, int], None]] = {
    "publish": publish,
    "publish_many": publish_many,
    "subscribe": subscribe,
    "unsubscribe": unsubscribe,
    "ack": ack,
    "cancel": cancel,
    "connect": connect,
    "disconnect": disconnect,
    "close": close,
    "pending": pending,
    "wait": wait,
    "raise": let_raise,
}
