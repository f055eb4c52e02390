"""The check for transports: a good one passes, and each way to be bad is caught."""

from __future__ import annotations

import errno
import time
from typing import TYPE_CHECKING

import pytest

from ohmqtt.testing.transport import check_transport

if TYPE_CHECKING:
    from ohmqtt.transport import Transport

CAPACITY = 300_000


class Memory:
    """One end of a connection in memory, as good as any."""

    description = "memory"
    #: Short where the check waits in vain. Else it doesn't matter, and a busy machine must not be taken for a bad transport.
    patience_s = 60.0

    def __init__(self) -> None:
        self.peer = self
        self.unread = bytearray()
        self.ended = False
        self.closed = False
        # As a TLS transport after its handshake: look inside once.
        self.looked = False

    def check_open(self) -> None:
        if self.closed:
            raise OSError(errno.EBADF, "closed")

    def fileno(self) -> int:
        return -1

    def receive(self, size: int) -> bytes | None:
        self.check_open()
        if not self.looked:
            self.looked = True
            return None
        data = bytes(self.unread[:size])
        del self.unread[:size]
        return data or (b"" if self.ended else None)

    def pending(self) -> bool:
        return not self.closed and (not self.looked or bool(self.unread))

    def send(self, data: bytes | bytearray | memoryview) -> int:
        self.check_open()
        taken = min(len(data), CAPACITY - len(self.peer.unread))
        self.peer.unread += data[:taken]
        return taken

    def wants_write(self) -> bool:
        return False

    def close(self) -> None:
        self.closed = True
        self.peer.ended = True


class Anonymous(Memory):
    description = ""


class Chatty(Memory):
    def __init__(self) -> None:
        super().__init__()
        self.unread += b"hello"


class Restless(Memory):
    def wants_write(self) -> bool:
        return True


class Deaf(Memory):
    patience_s = 0.02

    def receive(self, size: int) -> bytes | None:
        self.check_open()
        self.looked = True
        return None


class Generous(Memory):
    def receive(self, size: int) -> bytes | None:
        return super().receive(size + 1)


class Forgetful(Memory):
    patience_s = 0.02

    def send(self, data: bytes | bytearray | memoryview) -> int:
        super().send(data[1:])
        return len(data)


class Boastful(Memory):
    def send(self, data: bytes | bytearray | memoryview) -> int:
        return super().send(data) + 1


class Twisted(Memory):
    def receive(self, size: int) -> bytes | None:
        data = super().receive(size)
        return data and data[::-1]


class Bottomless(Memory):
    def send(self, data: bytes | bytearray | memoryview) -> int:
        self.check_open()
        if len(self.peer.unread) < CAPACITY:
            self.peer.unread += data
        return len(data)


class Impatient(Memory):
    """Ends the stream instead of saying that there is nothing now."""

    def receive(self, size: int) -> bytes | None:
        data = super().receive(size)
        return b"" if data is None and self.started() else data

    def started(self) -> bool:
        return self.peer.unread != b"" or self.unread != b""


class Stuttering(Memory):
    """Takes a part of what it says it had no room for."""

    def send(self, data: bytes | bytearray | memoryview) -> int:
        taken = super().send(data)
        if not taken:
            self.peer.unread += data[:1]
        return taken


class Endless(Memory):
    patience_s = 0.02

    def receive(self, size: int) -> bytes | None:
        return super().receive(size) or None


class Truncating(Memory):
    def close(self) -> None:
        if not self.closed:
            self.peer.unread.clear()
        super().close()


class OnceEnded(Memory):
    patience_s = 0.02

    def receive(self, size: int) -> bytes | None:
        data = super().receive(size)
        if data == b"":
            self.ended = False
        return data


class CloseRaises(Memory):
    def close(self) -> None:
        self.check_open()
        super().close()


class KeepsDescriptor(Memory):
    def fileno(self) -> int:
        return 2 if self.closed else -1


class PendingForEver(Memory):
    def pending(self) -> bool:
        return self.closed or super().pending()


class ReceivesClosed(Memory):
    def check_open(self) -> None:
        pass


class SendsClosed(Memory):
    def send(self, data: bytes | bytearray | memoryview) -> int:
        return 1 if self.closed else super().send(data)


class SlowToClose(Memory):
    patience_s = 0.1

    def close(self) -> None:
        if len(self.peer.unread) == CAPACITY:
            began = time.monotonic()
            while time.monotonic() - began < self.patience_s:
                pass
        super().close()


BAD = [
    (Anonymous, "description must say"),
    (Chatty, "must return None when nothing was sent"),
    (Restless, "wants_write\\(\\) must be False"),
    (Deaf, "returned nothing for 0.02 s"),
    (Generous, "must return at most"),
    (Forgetful, "nothing for|must arrive as they were sent"),
    (Boastful, "how much of the 1 bytes it took, not 2"),
    (Twisted, "must arrive as they were sent, in order"),
    (Bottomless, "must return 0 some time|must arrive|nothing for"),
    (Impatient, "must not end before it is closed"),
    (Stuttering, "nothing may be lost, repeated or reordered|must arrive as they"),
    (Endless, "returned nothing for 0.02 s"),
    (Truncating, "sent before close\\(\\) must arrive, b'' did"),
    (OnceEnded, "returned nothing for 0.02 s"),
    (CloseRaises, "closed"),
    (KeepsDescriptor, "fileno\\(\\) must be negative"),
    (PendingForEver, "pending\\(\\) must be False after close"),
    (ReceivesClosed, "receive\\(\\) must raise OSError"),
    (SendsClosed, "send\\(\\) must raise OSError"),
    (SlowToClose, "close\\(\\) must not wait"),
]


def check(kind: type[Memory]) -> None:
    def make_pair() -> tuple[Transport, Transport]:
        here, there = kind(), kind()
        here.peer, there.peer = there, here
        return here, there

    check_transport(make_pair, patience_s=kind.patience_s)


def test_a_good_transport_passes() -> None:
    check(Memory)


@pytest.mark.parametrize(("kind", "words"), BAD, ids=[kind.__name__ for kind, _ in BAD])
def test_a_bad_transport_is_caught(kind: type[Memory], words: str) -> None:
    with pytest.raises((AssertionError, OSError), match=words):
        check(kind)
