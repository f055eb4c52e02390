"""What happens to the files of one folder, from the system calls of a child: an event for each change, and for each promise that it says.

A call that changes files in a way that no event describes (a write through a mapping, say) is an error: nothing is overlooked.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from tests.disk.tracer import Call, trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["Create", "Event", "Rename", "Said", "Sync", "SyncFolder", "Truncate", "Unlink", "Write", "calls_on", "record"]


class Create(NamedTuple):
    """A file was made, empty."""

    name: str


class Write(NamedTuple):
    """Bytes were written into a file."""

    name: str
    offset: int
    data: bytes


class Truncate(NamedTuple):
    """A file was cut off, or made longer."""

    name: str
    size: int


class Unlink(NamedTuple):
    """A file lost its name."""

    name: str


class Rename(NamedTuple):
    """A file got another name."""

    name: str
    new_name: str


class Sync(NamedTuple):
    """What was written into a file is on the disk, and its length."""

    name: str


class SyncFolder(NamedTuple):
    """The names of the files are on the disk."""


class Said(NamedTuple):
    """The child said that it begins something, or promised something."""

    words: str


Event = Create | Write | Truncate | Unlink | Rename | Sync | SyncFolder | Said

_O_CREAT, _O_TRUNC, _PROT_WRITE, _MAP_SHARED = 0o100, 0o1000, 2, 1
# Where the paths are among the arguments of calls that name files; before each path of an -at call stands the folder's descriptor.
_PATHS = {
    "open": [0], "creat": [0], "truncate": [0], "unlink": [0], "rename": [0, 1], "link": [0, 1],
    "openat": [1], "unlinkat": [1], "renameat": [1, 3], "renameat2": [1, 3], "linkat": [1, 3],
}  # fmt: skip
_DESCRIPTORS = {"mmap": 4, "copy_file_range": 2}  # the others have it first


def names_in(call: Call, folder: str) -> list[str]:
    """Return the names of the files in a folder that a call is about; the folder itself is the empty name."""
    if call.name in _PATHS:
        paths = []
        for place in _PATHS[call.name]:
            base = call.path_of(call.arguments[place - 1] if "at" in call.name[-2:] or call.name == "renameat2" else -100)
            paths.append(os.path.join(base, call.text(call.arguments[place])))  # noqa: PTH118 (text, as the child wrote it)
    else:
        paths = [call.path_of(call.arguments[_DESCRIPTORS.get(call.name, 0)])]
    if call.name == "mmap" and not (call.arguments[2] & _PROT_WRITE and call.arguments[3] & _MAP_SHARED):
        return []
    found = [os.path.relpath(path, folder) for path in paths if path == folder or path.startswith(folder + "/")]
    # A file without a name is nobody's any more.
    return ["" if name == "." else name for name in found if not name.endswith(" (deleted)")]


def calls_on(folder: Path, life: Callable[[Callable[[str], None]], None]) -> Iterator[tuple[Call | str, list[str]]]:
    """Yield what a child says, and its system calls on the files of a folder, before and after each, with the files' names."""
    for step in trace(life):
        names = []
        if isinstance(step, Call):
            with contextlib.suppress(ProcessLookupError):  # another thread has ended the process: nobody makes this call any more
                names = names_in(step, str(folder))
        if isinstance(step, str) or names:
            yield step, names


def record(folder: Path, life: Callable[[Callable[[str], None]], None]) -> Iterator[Event]:
    """Yield what a child says, and what it does to the files of a folder."""
    existed = False
    for step, names in calls_on(folder, life):
        if isinstance(step, str):
            yield Said(step)
        elif step.result is None:
            existed = (folder / names[0]).exists()
        elif step.result >= 0:
            yield from _events(step, names, existed)


def _events(call: Call, names: list[str], existed: bool) -> Iterator[Event]:
    name, *others = names
    arguments = call.arguments
    if call.name in {"open", "openat"}:
        flags = arguments[1 if call.name == "open" else 2]
        if not existed:
            yield Create(name)
        elif flags & _O_TRUNC:
            yield Truncate(name, 0)
    elif call.name == "pwrite64":
        assert call.result is not None
        yield Write(name, arguments[3], call.read(arguments[1], call.result))
    elif call.name == "ftruncate":
        yield Truncate(name, arguments[1])
    elif call.name in {"fsync", "fdatasync"}:
        yield Sync(name) if name else SyncFolder()
    elif call.name in {"unlink", "unlinkat"}:
        yield Unlink(name)
    elif call.name.startswith("rename") and len(others) == 1:
        yield Rename(name, others[0])
    else:
        raise AssertionError(f"no event describes {call.name} on {names}")
