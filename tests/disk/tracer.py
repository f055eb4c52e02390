"""A forked child that stops at each of its system calls, threads and all. Linux only; nothing but the standard library.

Owns ptrace(2) and what depends on the processor: the numbers of the calls, and the registers of their arguments. It knows nothing of
databases. Invariant: whatever happens, the child is dead and reaped when the iteration over it has ended.

The child can end while one of its threads stands still here: another thread has left the process. Whatever asks for such a thread then
raises ProcessLookupError, and nothing more of it is yielded.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import signal
import struct
import sys
import traceback
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Say = Callable[[str], None]

__all__ = ["CAN_TRACE", "Call", "ChildFailed", "trace"]

# The calls that change a file, its name, or what of it is on the disk, and those that make it possible to do so without a call.
_NUMBERS: Final = {
    "x86_64": {
        "open": 2, "creat": 85, "openat": 257, "write": 1, "pwrite64": 18, "writev": 20, "pwritev": 296, "pwritev2": 328, "truncate": 76,
        "ftruncate": 77, "fallocate": 285, "fsync": 74, "fdatasync": 75, "unlink": 87, "unlinkat": 263, "rename": 82, "renameat": 264,
        "renameat2": 316, "link": 86, "linkat": 265, "mmap": 9, "sendfile": 40, "copy_file_range": 326,
    },
    "aarch64": {
        "openat": 56, "write": 64, "pwrite64": 68, "writev": 66, "pwritev": 70, "pwritev2": 287, "truncate": 45, "ftruncate": 46,
        "fallocate": 47, "fsync": 82, "fdatasync": 83, "unlinkat": 35, "renameat": 38, "renameat2": 276, "linkat": 37, "mmap": 222,
        "sendfile": 71, "copy_file_range": 285,
    },
}  # fmt: skip
_THIRD_ARGUMENT: Final = {"x86_64": 12, "aarch64": 2}  # its place among the registers, in words of 8 bytes

CAN_TRACE: Final = sys.platform == "linux" and platform.machine() in _NUMBERS
_NAMES: Final = {number: name for name, number in _NUMBERS.get(platform.machine(), {}).items()}

_TRACEME, _SYSCALL, _SETOPTIONS, _GETREGSET, _SETREGSET, _GET_SYSCALL_INFO = 0, 24, 0x4200, 0x4204, 0x4205, 0x420E
_ENTRY: Final = 1
_GENERAL_REGISTERS: Final = 1
# A system call stops with a mark of its own; new threads and processes are traced as well; and the child dies if we do.
_OPTIONS: Final = 0x1 | 0x2 | 0x4 | 0x8 | 0x10_0000
_SYSCALL_STOP: Final = signal.SIGTRAP | 0x80
_ANY_THREAD: Final = 0x4000_0000  # __WALL

_libc: Any = None


class ChildFailed(AssertionError):
    """The child raised something, which is told here, or ended in a way that nobody asked for."""


class Call:
    """A system call that changes files: before it is made if `result` is None, else after it."""

    def __init__(self, thread: int, name: str, arguments: tuple[int, ...]) -> None:
        self.thread = thread
        self.name = name
        self.arguments = arguments
        self.result: int | None = None

    def path_of(self, descriptor: int) -> str:
        """Say which file is behind one of its descriptors (or what else: ``pipe:[123]``)."""
        descriptor = ctypes.c_int(descriptor).value
        try:
            return str(Path(f"/proc/{self.thread}/cwd" if descriptor == -100 else f"/proc/{self.thread}/fd/{descriptor}").readlink())
        except OSError:
            return ""

    def read(self, address: int, size: int) -> bytes:
        """Read from its memory. Raises ProcessLookupError if it has none any more."""
        try:
            with open(f"/proc/{self.thread}/mem", "rb", buffering=0) as memory:  # noqa: PTH123 (not buffered: it has holes)
                memory.seek(address)
                found = memory.read(size)
        except FileNotFoundError as error:
            raise ProcessLookupError(*error.args) from error
        if size and not found:
            raise ProcessLookupError(errno.ESRCH, "its memory is gone")
        return found

    def text(self, address: int) -> str:
        """Read a path from its memory: as far as the end of its page, and on from there."""
        found = b""
        while b"\0" not in found:
            found += self.read(address + len(found), 4096 - (address + len(found)) % 4096)
        return os.fsdecode(found[: found.index(b"\0")])

    def shorten(self, count: int) -> None:
        """Let a write that is about to be made write only so many bytes."""
        registers = (ctypes.c_uint64 * 40)()
        vector = struct.pack("PN", ctypes.addressof(registers), ctypes.sizeof(registers))
        _ptrace(_GETREGSET, self.thread, _GENERAL_REGISTERS, vector)
        registers[_THIRD_ARGUMENT[platform.machine()]] = count
        used = 27 if platform.machine() == "x86_64" else 34
        _ptrace(_SETREGSET, self.thread, _GENERAL_REGISTERS, struct.pack("PN", ctypes.addressof(registers), used * 8))

    def kill(self) -> None:
        """Kill the whole process here, as nothing but a power cut could do better."""
        os.kill(self.thread, signal.SIGKILL)


def trace(function: Callable[[Say], None]) -> Iterator[Call | str]:
    """Run a function in a forked child, and yield each call of its that changes files: first before it is made, then after.

    The function gets another one, `say`: what it says over a pipe is yielded as text, in its place among the calls. The child is killed
    when the iteration is given up. Raises ChildFailed if the function does.
    """
    global _libc
    _libc = _libc or ctypes.CDLL(None, use_errno=True)
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    child = _fork(function, writing)
    pipe = str(Path(f"/proc/self/fd/{writing}").readlink())
    os.close(writing)
    try:
        os.setpgid(child, child)
        for call in _calls(child):
            if call.name == "write" and call.path_of(call.arguments[0]) == pipe:
                if call.result is not None:
                    words = ""
                    with contextlib.suppress(BlockingIOError):  # what another thread said meanwhile may have been read with the last
                        words = os.read(reading, 1 << 16).decode()
                    if words.startswith("!"):
                        raise ChildFailed(words[1:])
                    yield from words.splitlines()
            else:
                yield call
    finally:
        os.close(reading)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-child, _ANY_THREAD)


def _fork(function: Callable[[Say], None], writing: int) -> int:
    with warnings.catch_warnings():
        # The threads of the test runner (of xdist, of a timeout) hold no lock that the child needs.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return child
    try:
        os.setpgid(0, 0)
        # Should nobody come to trace it. From then on it dies with its tracer, who may look at it for as long as it takes.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)
        _ptrace(_TRACEME, 0, 0, None)
        os.kill(os.getpid(), signal.SIGSTOP)
        signal.alarm(0)
        function(lambda words: _write(writing, words + "\n"))
    except BaseException:
        _write(writing, "!" + traceback.format_exc())
    finally:
        os._exit(0)


def _write(descriptor: int, words: str) -> None:
    os.write(descriptor, words.encode()[: 1 << 15])


def _calls(child: int) -> Iterator[Call]:
    """Let the child run from stop to stop until it is gone."""
    under_way: dict[int, Call] = {}
    os.waitpid(child, _ANY_THREAD | os.WUNTRACED)
    _ptrace(_SETOPTIONS, child, 0, _OPTIONS)
    _ptrace(_SYSCALL, child, 0, 0)
    while True:
        try:
            thread, status = os.waitpid(-child, _ANY_THREAD)
        except ChildProcessError:
            return
        if not os.WIFSTOPPED(status):
            continue
        stopped_by = os.WSTOPSIG(status)
        passed_on = 0
        with contextlib.suppress(ProcessLookupError):  # it was killed meanwhile, or another thread has ended the process
            if stopped_by == _SYSCALL_STOP:
                yield from _at_system_call(thread, under_way)
            elif stopped_by not in {signal.SIGTRAP, signal.SIGSTOP}:  # these are ptrace's own: a new thread, and its first stop
                passed_on = stopped_by
            _ptrace(_SYSCALL, thread, 0, passed_on)


def _at_system_call(thread: int, under_way: dict[int, Call]) -> Iterator[Call]:
    information = ctypes.create_string_buffer(88)
    _ptrace(_GET_SYSCALL_INFO, thread, len(information), information)
    if information.raw[0] == _ENTRY:
        number, *arguments = struct.unpack_from("=7Q", information.raw, 24)
        if number in _NAMES:
            under_way[thread] = Call(thread, _NAMES[number], tuple(arguments))
            yield under_way[thread]
    elif thread in under_way:
        call = under_way.pop(thread)
        (call.result,) = struct.unpack_from("=q", information.raw, 24)
        yield call


def _ptrace(request: int, thread: int, address: int, data: Any) -> None:
    pointer = ctypes.c_void_p(data) if isinstance(data, int) else data
    if _libc.ptrace(ctypes.c_long(request), ctypes.c_int(thread), ctypes.c_void_p(address), pointer) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace: {os.strerror(number)} (may this user trace processes here?)")
