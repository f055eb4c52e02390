"""The seam for faults: a script looks at each packet before it is handled or encoded, and may have something else happen in its place.

A script is ``Callable[[Connection, MQTTPacket, Direction], Sequence[Step] | None]``, set as ``BrokerCore.script``. ``None`` lets the packet
go on. Otherwise the steps are done in order in place of it, without asking the script again; no steps at all: the packet is dropped.

A step is a packet, which is handled (``RECEIVED``) or sent (``SENT``); ``bytes``, which are written as they are, in both directions; or an
``Ending``. The broker's state is that of a broker whose packet got lost: a PUBLISH that a script drops is in flight.

Whoever wants to delay a packet keeps it and returns no steps; later it calls ``Connection.handle(packet, now)`` or
``Connection.transmit(packet)``. A PUBLISH is shown without the Topic Alias that the broker puts on when it is encoded.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from ...errors import ArgumentError
from ...packet import MQTTPacket

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from .connection import Connection

    Step: TypeAlias = "MQTTPacket | bytes | Ending"
    Script: TypeAlias = Callable[[Connection, MQTTPacket, "Direction"], Sequence[Step] | None]

__all__ = ["Direction", "Ending", "check_steps"]


class Direction(Enum):
    """Which way a packet goes, seen from the broker."""

    RECEIVED = "received"
    SENT = "sent"


class Ending(Enum):
    """How a script ends a network connection, without a DISCONNECT: once what was written has left, or at once."""

    CLOSE = "close"
    ABORT = "abort"


def check_steps(verdict: Sequence[Step]) -> Sequence[Step]:
    """Return what a script said, if it is steps. ``b"..."`` alone is none: it must stand in a tuple or a list.

    Raises:
        ArgumentError: it is something else.
    """
    if isinstance(verdict, (tuple, list)) and all(isinstance(step, (MQTTPacket, bytes, Ending)) for step in verdict):
        return verdict
    raise ArgumentError(f"a script returned {verdict!r:.100}; None expected, or a tuple or list of packets, bytes and Ending")
