"""Many lives on one disk: each is recorded, the power is cut everywhere, and the next life begins with one of the images that were left."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.disk.lives import Found, Life, Promises, check, plan, put
from tests.disk.power import SECTOR, Disk
from tests.disk.recorder import Said, Sync, calls_on, record

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from tests.disk.lives import State
    from tests.disk.power import Image
    from tests.disk.recorder import Event
    from tests.disk.tracer import Call

__all__ = ["Cut", "Tally", "cut_power", "kill_everywhere", "scratch", "soak"]


class Tally:
    """The figures of a run."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._begun = time.monotonic()

    def __str__(self) -> str:
        words = ", ".join(f"{count:,} {what}" for what, count in self.counts.items())
        return f"{words}; {time.monotonic() - self._begun:.1f} s"


Cut = tuple["Image", "State"]


@contextmanager
def scratch() -> Generator[Path]:
    """Make a folder where syncs cost nothing, if the system has such a place: what they would do is ours to say."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
    try:
        yield folder.resolve()
    finally:
        shutil.rmtree(folder)


def cut_power(
    folder: Path,
    image: Image,
    life: Life,
    states: list[State],
    tally: Tally,
    chance: random.Random,
    *,
    random_count: int = 3,
    believes: Callable[[Event], bool] = lambda event: True,
) -> Generator[Cut]:
    """Record a life that begins with an image; check what the disk may hold after each event; yield it, with the state that was found.

    `believes` says which events the disk gets to know: a disk that is not told of a sync is one that lies about it.
    """
    put(folder / "live", image)
    disk = Disk(image)
    promises = Promises()
    seen: set[bytes] = set()
    for number, event in enumerate(record(folder / "live", lambda say: life.run(folder / "live", say))):
        tally.counts["events"] += 1
        if isinstance(event, Said):
            promises.hear(event.words, durable=not life.fast)
        elif isinstance(event, Sync) and event.name.endswith("-wal"):
            promises.least = promises.done
        if believes(event):
            disk.apply(event)
        for left in disk.images(chance, random_count):
            tally.counts["images"] += 1
            digest = hashlib.sha1(repr((promises.least, promises.begun)).encode(), usedforsecurity=False)
            for name, data in sorted(left.items()):
                digest.update(b"%s %d " % (name.encode(), len(data)))
                digest.update(data)
            if digest.digest() in seen:
                continue
            seen.add(digest.digest())
            tally.counts["different ones"] += 1
            put(folder / "left", left)
            try:
                found = check(folder / "left", states, promises, fast=chance.random() < 0.5)
            except Found as error:
                sizes = {name: len(data) for name, data in left.items()}
                raise Found(
                    f"power cut after event {number}, {event!r:.80}, of a life with fast={life.fast}; left {sizes}: {error}"
                ) from error
            yield left, states[found]


def kill_everywhere(folder: Path, image: Image, life: Life, states: list[State], tally: Tally) -> None:
    """Kill a life at each system call that changes its files, and in the midst of each write, until one passes.

    A write is interrupted where a sector ends; the operating system itself does so only where a page ends.
    """
    number = 0
    passed = False
    while not passed:
        number += 1
        for halved in (False, True):
            put(folder / "live", image)
            promises = Promises()
            passed, until_border, count = True, 0, 0
            for step, _ in calls_on(folder / "live", lambda say: life.run(folder / "live", say)):
                if isinstance(step, str):
                    promises.hear(step, durable=True)
                    continue
                count += step.result is None
                if count == number and step.result is None:
                    passed = False
                    until_border = _bytes_until_border(step)
                    if halved:
                        step.shorten(until_border)
                    else:
                        step.kill()
                elif count == number:
                    step.kill()
            tally.counts["kills"] += not passed
            try:
                check(folder / "live", states, promises, fast=life.fast)
            except Found as error:
                raise Found(f"killed {'half-way in' if halved else 'before'} call {number}: {error}") from error
            if not until_border:
                break
    tally.counts["system calls"] += number - 1


def _bytes_until_border(call: Call) -> int:
    """Return how far a write goes to the border of sectors in its middle; 0 if there is none, or if it's no write."""
    if call.name != "pwrite64":
        return 0
    size, offset = call.arguments[2:4]
    middle = offset + size // 2
    return max(0, middle - middle % SECTOR - offset)


def soak(seed: int, lives: int, random_count: int, tally: Tally) -> None:
    """Live several lives on one disk, with a power cut between any two."""
    chance = random.Random(seed)
    image: Image = {}
    with scratch() as folder:
        for _ in range(lives):
            journals, states = plan(folder / "plan", image, chance.randint(1, 8), chance)
            life = Life(chance.random() < 0.5, journals, chance.choice((4, 10, 1000)), chance.random() < 0.5)
            try:
                cuts = [left for left, _ in cut_power(folder, image, life, states, tally, chance, random_count=random_count)]
            except Found as error:
                raise Found(f"seed {seed}: {error}") from error
            image = chance.choice(cuts)
            tally.counts["lives"] += 1
