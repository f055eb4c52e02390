"""What a hand-made bug is."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Bug"]


class Bug(NamedTuple):
    """In `file`, a path below the package, `old` becomes `new`. `old` is there exactly once."""

    name: str
    # What users of some published client came to see because of it.
    lesson: str
    file: str
    old: str
    new: str
    # Who has to notice: these tests, and, unless it says otherwise, the simulation.
    tests: tuple[str, ...]
    played: bool = True
