"""The power-cut model: which images of a folder a disk may hold when the power is cut.

What POSIX promises and no more: the bytes of a file are on the disk when the file has been synced, a name when its folder has. Of everything
since then, any part may be there or not, whatever the order in which it was done: each sector of a write by itself, each truncation, each
name. A sector (512 bytes) is written whole or not at all. What was never written reads as zeros.
"""

from __future__ import annotations

from itertools import pairwise, product
from typing import TYPE_CHECKING, Final, NamedTuple

from tests.disk.recorder import Create, Rename, Said, Sync, SyncFolder, Truncate, Unlink, Write

if TYPE_CHECKING:
    import random
    from collections.abc import Iterable, Iterator, Sequence

    from tests.disk.recorder import Event

__all__ = ["SECTOR", "Disk", "Image"]

SECTOR: Final = 512
PAGE: Final = 4096
SMALL: Final = 5
"""Of so many unsynced parts, every subset is looked at."""

Image = dict[str, bytes]


class _Part(NamedTuple):
    """What reaches the disk whole or not at all: a sector of a write, or a truncation (without data, offset is the size)."""

    offset: int
    data: bytes | None
    write: int  # the number of the write that it belongs to


class _File:
    def __init__(self, durable: bytes = b"") -> None:
        self.durable = durable
        self.pending: list[_Part] = []

    def content(self, kept: Iterable[_Part]) -> bytes:
        content = bytearray(self.durable)
        for offset, data, _ in kept:
            if len(content) < offset:
                content += bytes(offset - len(content))
            if data is None:
                del content[offset:]
            else:
                content[offset : offset + len(data)] = data
        return bytes(content)


_Names = dict[str, "_File | None"]


class Disk:
    """A folder on a disk, as a process sees it and as it is when the power is cut."""

    def __init__(self, image: Image) -> None:
        self._durable: dict[str, _File] = {name: _File(data) for name, data in image.items()}
        self._names = dict(self._durable)
        self._pending: list[_Names] = []  # changes of names, each whole or not at all
        self._writes = 0

    def apply(self, event: Event) -> None:
        """Do what the child did."""
        self._writes += 1
        match event:
            case Create(name):
                self._rename({name: _File()})
            case Unlink(name):
                self._rename({name: None})
            case Rename(name, new_name):
                self._rename({new_name: self._names[name], name: None})
            case Write(name, offset, data):
                # Borders of sectors, not of the write: a sector that two writes share keeps what was there.
                borders = [offset, *range(offset - offset % SECTOR + SECTOR, offset + len(data), SECTOR), offset + len(data)]
                for start, end in pairwise(borders):
                    self._names[name].pending.append(_Part(start, data[start - offset : end - offset], self._writes))
            case Truncate(name, size):
                self._names[name].pending.append(_Part(size, None, self._writes))
            case Sync(name):
                file = self._names[name]
                file.durable, file.pending = file.content(file.pending), []
            case SyncFolder():
                self._durable, self._pending = dict(self._names), []
            case Said():
                pass

    def _rename(self, change: _Names) -> None:
        self._pending.append(change)
        for name, file in change.items():
            self._names.pop(name, None)
            if file is not None:
                self._names[name] = file

    def now(self) -> Image:
        """Return what a process sees: the image when nothing is lost."""
        return {name: file.content(file.pending) for name, file in self._names.items()}

    def images(self, chance: random.Random, random_count: int) -> Iterator[Image]:
        """Yield what the disk may hold now.

        By whole writes, by pages and by sectors: every subset if there are few; else each suffix lost, each part lost, each part alone, and
        some random subsets.
        """
        files = list({id(file): file for file in self._files()}.values())
        parts: list[tuple[_File | None, int]] = [(None, n) for n in range(len(self._pending))]
        parts += [(file, n) for file in files for n in range(len(file.pending))]
        writes: dict[object, set[int]] = {}
        pages: dict[object, set[int]] = {}
        for place, (file, n) in enumerate(parts):
            part = None if file is None else file.pending[n]
            writes.setdefault((id(file), part.write if part else n), set()).add(place)
            pages.setdefault((id(file), part.offset // PAGE if part else n, part.write if part else 0), set()).add(place)
        seen: set[frozenset[int]] = set()
        for groups in (list(writes.values()), list(pages.values()), [{place} for place in range(len(parts))]):
            for choice in _choices(len(groups), chance, random_count):
                kept = frozenset(place for group in choice for place in groups[group])
                if kept not in seen:
                    seen.add(kept)
                    yield self._image(parts, kept)

    def _files(self) -> Iterator[_File]:
        yield from self._durable.values()
        for change in self._pending:
            yield from (file for file in change.values() if file is not None)

    def _image(self, parts: Sequence[tuple[_File | None, int]], kept: frozenset[int]) -> Image:
        names: dict[str, _File | None] = dict(self._durable)
        contents: dict[int, list[_Part]] = {}
        for place in sorted(kept):
            file, n = parts[place]
            if file is None:
                names.update(self._pending[n])
            else:
                contents.setdefault(id(file), []).append(file.pending[n])
        return {name: file.content(contents.get(id(file), ())) for name, file in names.items() if file is not None}


def _choices(count: int, chance: random.Random, random_count: int) -> Iterator[Sequence[int]]:
    if count <= SMALL:
        for bits in product((False, True), repeat=count):
            yield [n for n, bit in enumerate(bits) if bit]
        return
    for n in range(count + 1):
        yield range(n)
    for n in range(count):
        yield [n]
        yield [other for other in range(count) if other != n]
    for _ in range(random_count):
        likely = chance.choice((0.1, 0.5, 0.9))
        yield [n for n in range(count) if chance.random() < likely]
