"""Who the client is for the server, and whether the session there is ours.

Owns the Client Identifier, the identifier that the database belongs to, the recorded fact that the server may have a session of ours, and
the packet identifiers that this session has for ever. Its invariants: the fact is recorded before a CONNECT that could make it true leaves;
and the text in the journal says all that must be known of the session after a restart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import StoreOwnerError
from ..journal import IDENTITY, SESSION

if TYPE_CHECKING:
    from ..journal import StoredState
    from .baskets import Baskets

__all__ = ["Identity"]


class Identity:
    """The Client Identifier [MQTT-3.1.3-2], and what is known about the session that goes with it."""

    __slots__ = ("baskets", "client_id", "ended", "epoch", "ours", "ours_before", "owner", "retired")

    def __init__(self, baskets: Baskets) -> None:
        self.baskets = baskets
        self.client_id = ""
        self.owner: str | None = None
        self.ours = False
        self.epoch = 0
        # As `ours` was before the CONNECT that is under way.
        self.ours_before = False
        # Whose session we ended ourselves. The server may read our next CONNECT, on another connection, before the DISCONNECT that says so;
        # Clean Start then keeps the session that is over from coming back.
        self.ended: str | None = None
        # Packet identifiers of exchanges that we gave up, and that the server may know as long as the session lasts.
        self.retired: set[int] = set()

    def recover(self, state: StoredState) -> None:
        """Take over what a store kept from a former process."""
        self.owner = state.client_id
        self.client_id = state.client_id or ""
        if state.session is not None:
            # "3 ours", "3 none ended", "3 ours retired 7 8"
            known, _, retired = state.session.partition(" retired ")
            epoch, ours, *ended = known.split()
            self.epoch = int(epoch)
            self.ours = ours == "ours"
            self.ended = self.client_id if ended else None
            self.retired.update(map(int, retired.split()))

    def resolve(self, client_id: str) -> str:
        """Return the identifier to connect with: an empty one becomes the database's.

        :raises StoreOwnerError: the database belongs to another one.
        """
        owner = self.owner
        if owner is None:
            return client_id
        if client_id and client_id != owner:
            raise StoreOwnerError(f"the database belongs to client id {owner!r}, not to {client_id!r}: use another db_path, or that id")
        return owner

    def is_another(self, client_id: str) -> bool:
        """Return whether `client_id` names another session than the one of which something may be left."""
        return client_id != self.client_id and (self.ours or bool(self.client_id))

    def claim(self, client_id: str) -> None:
        """Use this identifier from now on; a database without an owner belongs to it from now on [MQTT-3.1.3-7]."""
        self.client_id = client_id
        if self.baskets.durable and client_id and self.owner is None:
            self.owner = client_id
            self.baskets.record(IDENTITY, client_id)

    def end(self) -> None:
        """The session at the server has ended, by our own doing."""
        self.ended = self.client_id
        self.own(False)

    def established(self) -> None:
        """The server has accepted a connection: a session that we ended before is over."""
        if self.ended is not None:
            self.ended = None
            self.record()

    def greet(self) -> None:
        """A CONNECT is about to be handed to the wire: from here on the server may have a session of ours, whatever becomes of the answer."""
        # An empty identifier names no session that there could have been before.
        self.ours_before = self.ours and bool(self.client_id)
        if not self.ours:
            self.own(True)

    def refused(self) -> None:
        """The server has made no session for our CONNECT."""
        if not self.ours_before and self.ours:
            self.own(False)

    def own(self, ours: bool) -> None:
        """Record whether the server may have a session of ours; each session that we begin has a number."""
        self.ours = ours
        if ours:
            self.epoch += 1
        self.record()

    def free(self, packet_id: int) -> None:
        """The server has ended an exchange that we gave up: its identifier may be used again [MQTT-2.2.1-3]."""
        if packet_id in self.retired:
            self.retired.remove(packet_id)
            self.record()

    def free_all(self) -> None:
        """The session has ended, and all exchanges with it."""
        if self.retired:
            self.retired.clear()
            self.record()

    def record(self) -> None:
        """Have what is known of the session put on disk; whoever adds to `retired` says so once for all."""
        if not self.baskets.durable:
            return
        text = f"{self.epoch} {'ours' if self.ours else 'none'}"
        if self.ended is not None and self.ended == self.client_id:
            text += " ended"
        if self.retired:
            text += f" retired {' '.join(map(str, sorted(self.retired)))}"
        self.baskets.record(SESSION, text)
