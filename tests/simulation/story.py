"""Stories: what happens to a client and around it, step by step, made from a seed; in words; and shrunk to what matters.

A step is a name and two small numbers. It is read leniently when it is played (the numbers choose among what is there at that moment), so that
any step can be left out of a story and the rest still makes sense. A step with a *place* waits until the client comes there, and happens in
the middle of it: while a commit is under way, while bytes are handed to the socket, while a callback runs, …
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from random import Random
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PLACES", "STEPS", "Setting", "Step", "Story", "make_story", "shrink"]


class Step(NamedTuple):
    """One thing that happens."""

    name: str
    a: int = 0
    b: int = 0
    place: str = ""


@dataclass(frozen=True)
class Setting:
    """What a story begins with. The first value of each is the plainest one."""

    database: str = "none"  # none, safe, fast
    threads: bool = False
    manual_ack: bool = False
    clean: bool = False
    server_receive_maximum: int = 0
    receive_maximum: int = 0
    window: int = 0
    queue_max: int = 0
    queue_policy: int = 0
    republish: bool = False
    queue_qos0: bool = True
    keep_alive: int = 60
    expiry_s: int = -1
    on_message: bool = True
    strict: bool = False
    jitter: float = 0.5
    overlap: bool = False
    several_copies: bool = False
    inbound_max: int = 0
    aliases: int = 0

    def describe(self) -> str:
        """Return what isn't plain about it."""
        plain = Setting()
        unusual = [f"{item.name}={value!r}" for item in fields(self) if (value := getattr(self, item.name)) != getattr(plain, item.name)]
        return ", ".join(unusual) or "nothing unusual"


_CHOICES: dict[str, tuple[object, ...]] = {
    "database": ("none", "none", "safe", "safe", "safe", "fast"),
    "threads": (False, True),
    "manual_ack": (False, False, True),
    "clean": (False, False, False, True),
    "server_receive_maximum": (0, 0, 1, 2, 3),
    "receive_maximum": (0, 0, 1, 2, 3),
    "window": (0, 0, 1, 2),
    "queue_max": (0, 0, 0, 2, 4),
    "queue_policy": (0, 1, 2, 3),
    "republish": (False, False, True),
    "queue_qos0": (True, True, True, False),
    "keep_alive": (60, 10, 0),
    "expiry_s": (-1, 1_000, 1_000, 5, 0),
    "on_message": (True, True, False),
    "strict": (False,) * 15 + (True,),
    "jitter": (0.5, 0.0, 0.99995),
    "overlap": (False, False, True),
    "several_copies": (False, True),
    "inbound_max": (0, 0, 0, 2),
    "aliases": (0, 0, 2),
}


@dataclass(frozen=True)
class Story:
    """A setting and what happens in it."""

    setting: Setting
    steps: tuple[Step, ...] = field(default=())

    def tell(self) -> str:
        """Return the story in words."""
        lines = [f"Setting: {self.setting.describe()}."]
        for number, step in enumerate(self.steps, 1):
            where = f"{PLACES[step.place]}: " if step.place else ""
            lines.append(f"{number:3}. {where}{STEPS[step.name][1]} ({step.name} {step.a} {step.b})")
        return "\n".join(lines)


PLACES = {
    "commit": "in the middle of the next commit",
    "send": "while the next bytes are handed to the socket",
    "dial": "while the next connection is being opened",
    "callback": "in the next callback",
    "sleep": "while the client sleeps next",
}

# How often, and in words. Steps of the same group are drawn more or less often together.
STEPS: dict[str, tuple[float, str, str]] = {
    "publish": (14, "the user publishes", "user"),
    "publish_many": (2, "the user publishes several messages at once", "user"),
    "subscribe": (3, "the user subscribes", "user"),
    "unsubscribe": (1, "the user unsubscribes", "user"),
    "ack": (3, "the user acknowledges a message", "user"),
    "cancel": (2, "the user cancels a publication", "cancel"),
    "connect": (3, "the user connects", "user"),
    "disconnect": (2, "the user disconnects", "end"),
    "close": (1, "the user closes the client", "end"),
    "pending": (1, "the user asks for what is pending", "user"),
    "wait": (1, "the user waits for an acknowledgement", "user"),
    "raise": (1, "a callback raises", "raise"),
    "step": (14, "the driver takes a turn", "turn"),
    "drain": (6, "the callbacks run", "turn"),
    "commit": (6, "the committer works", "turn"),
    "dial": (6, "the attempt to connect goes on", "turn"),
    "run": (10, "everything takes its course for a moment", "run"),
    "up": (8, "bytes reach the server", "turn"),
    "down": (8, "bytes reach the client", "turn"),
    "advance": (5, "time passes", "time"),
    "busy": (0.3, "the user publishes each two seconds for a while, and perhaps nothing arrives", "time"),
    "room": (1, "the socket's buffer is nearly full", "room"),
    "cut": (5, "the connection is cut", "cut"),
    "freeze": (1, "the network is frozen, or thaws", "freeze"),
    "no_route": (1, "the next attempts to connect fail", "refuse"),
    "message": (10, "the server sends a message or three", "message"),
    "lazy": (2, "the server is slow to acknowledge, or quick again", "lazy"),
    "answer": (5, "the server sends an acknowledgement that it held back", "lazy"),
    "reject": (2, "the server will reject a publication", "reject"),
    "refuse": (1, "the server will refuse a connection", "refuse"),
    "refuse_filter": (0.5, "the server will refuse a subscription", "reject"),
    "mute": (0.5, "the server says nothing to CONNECT, or speaks again", "freeze"),
    "lose": (2, "the server loses the session", "lose"),
    "restart": (1, "the server restarts, perhaps with a Receive Maximum of 1", "cut"),
    "goodbye": (1.5, "the server closes the connection", "goodbye"),
    "limits": (1.5, "the server changes its limits", "limits"),
    "poison": (0.7, "the server will choke on a publication", "poison"),
    "fail": (3, "the disk will refuse to write", "fail"),
    "fail_load": (1, "the disk will refuse to read", "fail"),
    "sync": (2, "the disk has written some of what it was given", "sync"),
    "crash": (3, "the process of the client dies", "crash"),
}

_NAMES = tuple(STEPS)
_GROUPS = sorted({group for _, _, group in STEPS.values()})
_FACTORS = (0.0, 0.4, 1.0, 1.0, 1.0, 2.5)
_ALWAYS = {"user", "turn", "run"}
# What can happen beside a client that is in the middle of something.
_MEANWHILE = (
    "publish", "publish", "publish", "subscribe", "unsubscribe", "ack", "ack", "cancel", "disconnect", "step", "step", "drain", "up", "down",
    "cut", "crash", "crash", "fail", "message", "answer", "advance", "lose", "raise", "connect", "goodbye",
)  # fmt: skip
_PLACES = ("commit", "commit", "commit", "send", "dial", "callback", "callback", "sleep")


def make_story(seed: int) -> Story:
    """Return the story of a seed."""
    rng = Random(seed)
    choose = rng.choice
    setting = Setting(**{name: choose(values) for name, values in _CHOICES.items()})  # type: ignore[arg-type]
    # Some things happen often in one story and never in another: so the rare meet the rare.
    factors = {group: choose(_FACTORS) for group in _GROUPS}
    weights = [weight * (max(0.4, factors[group]) if group in _ALWAYS else factors[group]) for weight, _, group in STEPS.values()]
    meanwhile = choose((0.0, 0.1, 0.1, 0.3))
    count = rng.randrange(15, 56)
    bits = rng.getrandbits
    steps = [Step(name, bits(16), bits(16)) for name in rng.choices(_NAMES, weights, k=count)]
    if meanwhile:
        for i, step in enumerate(steps):
            if rng.random() < meanwhile:
                steps[i] = Step(choose(_MEANWHILE), step.a, step.b, choose(_PLACES))
    # Most stories begin with a client that is connected: there is more to be lost then.
    return Story(setting, (*([Step("run", 3)] * choose((0, 2, 2))), *steps))


def shrink(story: Story, fails: Callable[[Story], bool]) -> Story:
    """Return a story that still fails and has as little in it as can be: steps are dropped, the setting and the numbers made plain."""
    changed = True
    while changed:
        changed = False
        size = max(1, len(story.steps) // 2)
        while size:
            start = 0
            while start < len(story.steps):
                shorter = Story(story.setting, story.steps[:start] + story.steps[start + size :])
                if fails(shorter):
                    story = shorter
                    changed = True
                else:
                    start += size
            size //= 2
        for item in fields(Setting):
            plain = getattr(Setting(), item.name)
            if getattr(story.setting, item.name) != plain:
                values = {other.name: getattr(story.setting, other.name) for other in fields(Setting)} | {item.name: plain}
                plainer = Story(Setting(**values), story.steps)
                if fails(plainer):
                    story = plainer
                    changed = True
        for i, step in enumerate(story.steps):
            for plain_value in ({"place": ""}, {"a": 0}, {"b": 0}):
                simpler = step._replace(**plain_value)
                candidate = Story(story.setting, (*story.steps[:i], simpler, *story.steps[i + 1 :]))
                if simpler != step and fails(candidate):
                    step = simpler
                    story = candidate
                    changed = True
    return story
