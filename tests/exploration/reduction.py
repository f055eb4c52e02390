"""What makes the worlds small: states that nobody will ever tell apart are one, and a step that nobody can notice is taken at once.

Both say something about the core, and are wrong as soon as it changes in the wrong way. So `tests.exploration.equivalence` explores small
worlds without them, and looks whether each of these arguments holds in each state.

**States** (`key`). Two worlds get the same key only if the same steps are possible in both, lead to the same keys again, and break the same
promises. What the key leaves out is

* what is worked out afresh before it is used again: `ours_before` while no CONNECT is under way, `stored_after` without stored rows, the
  journal of a turn that is committed, the writes of a turn whose connection is gone, and all of that connection but that it isn't this one;
* numbers of which nothing counts but their order: the order numbers of PUBRECs are ranks, and the number of a session is left out. Sequence
  numbers stand as they are, the next one too: after a power cut it isn't what was delivered that tells it;
* counts that are compared with bounds out of reach here: what waits for callbacks;
* what has been judged for the last time. A promise to deliver is kept once the message arrived or its user was told of its end; what was
  told counts as long as somebody holds the handle, or if it was bad news; which answers are on disk counts as long as a crash is to come;
  whether a callback may run again is asked of QoS 2 only; how often and in which order messages arrived isn't asked at all;
* what nobody looks at in this world: Connected and Disconnected, DUP of a message that is under way to its callback, and everything about a
  publication whose handle is resolved but that it is.

All other state is in the key, and so is whatever the core gains: its parts are walked field by field.

**Steps** (`at_once`). Where one step is named, the others wait. Nothing is lost by that if each of them comes to the same whether it is
taken before or behind it, or if it makes no difference to them whether it was taken at all. This holds for

* the release of a turn that writes nothing: only the user hears of it. A crash keeps him from that, which makes a difference only to
  somebody who was promised something (a publication is accepted) or who has no other way to know (it failed);
* any release, when no fault is to come that could be in its way. What leaves earlier arrives, and is answered, in the same order;
* a turn in which there is nothing but events that nobody looks at;
* dialling: the connection is wanted, and what breaks it is counted as well after as before;
* arrival, if it is the only step that there is.
"""

from __future__ import annotations

from collections import deque
from hashlib import blake2b
from marshal import dumps
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from ohmqtt.errors import MQTTError
from ohmqtt.journal import INSERT, RELEASE, SESSION, StoredMessage
from ohmqtt.link import CONNECTED, CONNECTING, Link
from ohmqtt.records import Message, SessionLostPolicy, State, Undelivered
from ohmqtt.session import WAITING, Session
from ohmqtt.session.authentication import Authentication
from ohmqtt.session.baskets import Baskets
from ohmqtt.session.identity import Identity
from ohmqtt.session.inbound import Inbound
from ohmqtt.session.outbound import Outbound
from ohmqtt.session.receiving import Receiving
from ohmqtt.session.subscriptions import Subscriptions
from tests.exploration.broker import Broker
from tests.exploration.copies import fields
from tests.exploration.store import Image
from tests.exploration.world import DOWN, IN_BASKET, SETTINGS, UP, Publication, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from ohmqtt.session import Turn

__all__ = ["at_once", "key"]

# ---- states --------------------------------------------------------------------------------------------------------------------------------

# The parts of a session know each other, and what they are made with never changes.
_PARTS = ("authentication", "auth_steps", "backoff", "baskets", "identity", "inbound", "outbound", "receiving", "session", "settings", "subscriptions", "tree")  # fmt: skip

_LEFT_OUT: dict[type, tuple[str, ...]] = {
    # Whether a CONNECT had no answer decides which subscriptions are asked for again, and there are none.
    Session: ("acknowledge_call", "connect_packet", "link", "unanswered"),
    Outbound: ("expiring", "expiring_counter", "release_order", "stored_after"),
    Receiving: ("received_bytes", "waiting_bytes", "waiting_messages"),
    Identity: ("epoch", "ours_before"),
    Baskets: ("events", "journal", "turn_number"),
    # All that is of the server's CONNACK is the same on each connection, but Session Present, which is dealt with at once.
    # And keep alive is off: nobody asks when something came or went.
    Link: ("aliases_in", "aliases_out", "connack", "connected_at", "last_progress", "last_received", "last_sent"),
    Inbound: ("repeated",),
    Broker: ("delivered", "rejected"),
}


def _pristine() -> dict[type, Any]:
    session = Session(SETTINGS[SessionLostPolicy.CLEAR], durable=True)
    parts = [session, session.outbound, session.inbound, session.subscriptions, session.receiving, session.authentication]
    return {type(part): part for part in parts}


def _getters() -> dict[type, Callable[[Any], tuple[Any, ...]]]:
    """Return what takes the fields of each part that count, those included that it gains one day."""
    found: dict[type, Callable[[Any], tuple[Any, ...]]] = {}
    pristine = _pristine()
    for kind in (Session, Outbound, Inbound, Subscriptions, Receiving, Authentication, Identity, Baskets, Link, Broker):
        names = vars(pristine[kind]) if kind in pristine and not fields(kind) else fields(kind)
        kept = [name for name in names if name not in _PARTS and name not in _LEFT_OUT.get(kind, ())]
        found[kind] = attrgetter(*kept, "__class__")
    return found


_GETTERS = _getters()
_SESSION, _OUTBOUND, _INBOUND, _SUBSCRIPTIONS = _GETTERS[Session], _GETTERS[Outbound], _GETTERS[Inbound], _GETTERS[Subscriptions]
_RECEIVING, _AUTHENTICATION, _IDENTITY, _BASKETS = _GETTERS[Receiving], _GETTERS[Authentication], _GETTERS[Identity], _GETTERS[Baskets]
_LINK, _BROKER = _GETTERS[Link], _GETTERS[Broker]
_BUDGETS = attrgetter(
    "connection", "late", "disconnects", "crashes", "session_losses", "rejections", "refused_commits", "failed_callbacks", "published", "loss",
    "weak", "committed",
)  # fmt: skip
# A row says itself under which identifier its message is, and whether its PUBREC came; what it was accepted with is past.
_STORED = attrgetter(*(name for name in fields(StoredMessage) if name not in ("packet_id", "released")))

_PLAIN = frozenset((int, str, bytes, bool, float, type(None)))


class _View:
    """One world as nested tuples of plain values, in which the same things always stand in the same way."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.link = world.session.link
        # Things that are referred to more than once stand where they come first, and by number then.
        self.known: dict[int, int] = {}
        self.ranks = _rank_orders(world)

    def all(self) -> tuple[Any, ...]:
        world, values = self.world, self.values
        session, link, turn, broker = world.session, world.session.link, world.turn, world.broker
        outbound, identity, baskets = session.outbound, session.identity, session.baskets
        return (
            values(_BROKER(broker)),
            sorted(set(broker.delivered)),
            sorted(set(broker.rejected)),
            self.image(world.store.image),
            None if world.store.stalled is None else self.image(world.store.stalled),
            _BUDGETS(world),
            self.user(),
            None if turn is None else self.turn(turn),
            values(world.inbox),
            values(world.held_back),
            values(_SESSION(session)),
            values(_OUTBOUND(outbound)),
            outbound.stored_after if outbound.stored_rows else None,
            [
                (at, sequence)
                for at, _, sequence, held in sorted(outbound.expiring, key=_place)
                if held is None or held.state == State.QUEUED
            ],
            values(_INBOUND(session.inbound)),
            self.repeated(),
            values(_SUBSCRIPTIONS(session.subscriptions)),
            values(_RECEIVING(session.receiving)),
            values(_AUTHENTICATION(session.authentication)),
            values(_IDENTITY(identity)),
            identity.ours_before if link is not None and link.state == CONNECTING else None,
            values(_BASKETS(baskets)),
            self.journal(baskets.journal),
            self.events(baskets.events),
            baskets.any() or _has_to_send(world),
            None if link is None else values(_LINK(link)),
            sorted((number, self.publication(message)) for number, message in world.handles.items()),
        )

    def user(self) -> tuple[Any, ...]:
        """What the user was promised and told, as far as it will be judged."""
        world = self.world
        told, delivered, handles, qos = world.told, world.broker.delivered, world.handles, world.case.inbound
        return (
            sorted(n for n in world.promised if n not in told and n not in delivered and (world.crashes or n not in handles)),
            sorted((n, what) for n, what in told.items() if n in handles or what != "acknowledged" or n not in delivered),
            sorted(world.unheard),
            sorted(world.ran),
            sorted(number for number in world.over if qos[number] == 2),
            sorted(world.gone),
            _open_answers(world),
        )

    def repeated(self) -> list[int]:
        """Identifiers of which a repeat waits for its PUBREC; what isn't waiting any more, or on no connection, is put there again if it comes."""
        link = self.link
        return [] if link is None else sorted(self.world.session.inbound.repeated & {message.packet_id for message in link.pubrecs})

    def image(self, image: Image) -> tuple[Any, ...]:
        ranks = self.ranks
        rows = [(sequence, row[0], ranks[row[1]], _STORED(row[2])) for sequence, row in sorted(image.rows.items())]
        return image.client_id, _without_number(image.session), image.last_sequence, rows, image.received

    def turn(self, turn: Turn) -> tuple[Any, ...]:
        alive = turn.link is self.link
        return (
            alive,
            () if self.world.committed else self.journal(turn.journal),
            self.values(turn.writes) if alive else (),
            self.events(turn.events),
            self.values(turn.resolved),
            [message.payload for message in turn.accepted],
        )

    def journal(self, journal: list[tuple[Any, ...]]) -> list[Any]:
        found: list[Any] = []
        for entry in journal:
            kind = entry[0]
            if kind == INSERT:
                found.append((kind, entry[1].packet_id, _STORED(entry[1])))
            elif kind == RELEASE:
                found.append((kind, entry[1], self.ranks[entry[2]]))
            elif kind == SESSION:
                found.append((kind, _without_number(entry[1])))
            else:
                found.append(entry)
        return found

    def events(self, events: list[Any]) -> list[Any]:
        """Those that somebody looks at."""
        return [
            self.message(event) if isinstance(event, Message) else (self.value(event.message), type(event.error).__name__)
            for event in events
            if isinstance(event, Message | Undelivered)
        ]

    def message(self, message: Message) -> tuple[Any, ...]:
        number = self.known.get(id(message))
        if number is not None:
            return (number,)
        self.known[id(message)] = len(self.known)
        here = message.link is self.link and self.link is not None
        return message.payload, message.qos, message.packet_id, message.answer, here

    def publication(self, message: Publication) -> tuple[Any, ...]:
        number = self.known.get(id(message))
        if number is not None:
            return (number,)
        self.known[id(message)] = len(self.known)
        if message.state == State.SETTLED:
            # Which acknowledgement it was is nothing to us.
            outcome = message.outcome
            return message.payload, message.done or (type(outcome).__name__ if isinstance(outcome, MQTTError) else "acknowledged")
        options = message.options
        return (
            *(message.payload, message.state, message.sequence, message.packet_id, message.sent, message.done, message.claimed),
            None if message.outcome is None else type(message.outcome).__name__,
            None if options is None else (options.alias_policy.value, options.expires_at),
        )

    def values(self, things: Any) -> list[Any]:
        return [thing if type(thing) in _PLAIN else self.value(thing) for thing in things]

    def value(self, thing: Any) -> Any:
        kind = type(thing)
        if kind in _PLAIN:
            return thing
        if kind is list or kind is deque or kind is tuple:
            return self.values(thing) if thing else ()
        if kind is dict:
            return [(name, self.value(value)) for name, value in thing.items()] if thing else ()
        if kind is set or kind is frozenset:
            return sorted(thing) if thing else ()
        if kind is Publication:
            return self.publication(thing)
        if kind is Message:
            return self.message(thing)
        if kind is type or isinstance(thing, type):
            return thing.__name__
        if isinstance(thing, MQTTError):
            return kind.__name__
        if kind is WeakValueDictionary:
            return sorted((name, self.value(value)) for name, value in thing.items())
        if kind is StoredMessage:
            return _STORED(thing)
        raise TypeError(f"a {kind.__name__} in a state")


def _open_answers(world: World) -> list[tuple[int, int]]:
    """Return the answers of which a crash will ask how far they came."""
    if not world.crashes:
        return []
    qos, gone = world.case.inbound, world.gone
    return sorted((number, where) for number, where in world.answers.items() if qos[number] == 2 and number not in gone)


def _place(entry: tuple[float, int, int, Any]) -> tuple[float, int]:
    return entry[:2]


def _without_number(session: str | None) -> str | None:
    return None if session is None else session.partition(" ")[2]


def _rank_orders(world: World) -> dict[int, int]:
    """Return the rank of each order number of a PUBREC that stands anywhere."""
    orders = {0}
    store = world.store
    for image in (store.image, store.stalled):
        if image is not None:
            orders.update(released for _, released, _ in image.rows.values())
    journals = [world.session.baskets.journal, world.held_back]
    if world.turn is not None and not world.committed:
        journals.append(world.turn.journal)
    for journal in journals:
        orders.update(entry[2] for entry in journal if entry[0] == RELEASE)
    return {order: rank for rank, order in enumerate(sorted(orders))}


def key(world: World) -> bytes:
    """Return what worlds have in common that nobody will ever tell apart."""
    return blake2b(dumps(_View(world).all(), 2), digest_size=16).digest()


# ---- steps ---------------------------------------------------------------------------------------------------------------------------------


def at_once(world: World, steps: list[str]) -> str:
    """Return the one step of `steps` that is taken before all others, or nothing."""
    if steps == ["arrive"]:
        return "arrive"
    if world.committed and "release" in steps and _unnoticed(world):
        return "release"
    if world.turn is None and "commit" in steps and _is_noise(world):
        return "commit"
    if world.connection == DOWN and world.session.phase == WAITING and not world.case.fine and "dial" in steps:
        return "dial"
    return ""


def _unnoticed(world: World) -> bool:
    """Return whether the release of the open turn can't be told from its release at any other time."""
    turn = world.turn
    assert turn is not None
    if not turn.writes or turn.link is not world.session.link:
        return not world.crashes or not (turn.accepted or _tells_of_failure(turn))
    if world.crashes or world.disconnects or world.connection != UP or (world.case.expiry and not world.late):
        return False
    # What the server sends before it has read this arrives before the answer.
    return not (world.rejections or world.session_losses or world.broker.may_send())


def _has_to_send(world: World) -> bool:
    """Return whether there are publications that the next turn would send."""
    link, outbound = world.session.link, world.session.outbound
    if link is None or link.state != CONNECTED or link.send_quota <= 0:
        return False
    return bool(outbound.queue) or any(message.state == State.ASSIGNED for message in outbound.resend)


def _tells_of_failure(turn: Turn) -> bool:
    resolved: list[Any] = turn.resolved
    return any(isinstance(message.outcome, MQTTError) for message in resolved) or any(
        isinstance(event, Undelivered) for event in turn.events
    )


def _is_noise(world: World) -> bool:
    """Return whether the next turn would hold nothing but events that nobody looks at."""
    baskets = world.session.baskets
    if baskets.journal or baskets.writes or baskets.resolved or _has_to_send(world):
        return False
    if world.loss == IN_BASKET or any(where == IN_BASKET for _, where in _open_answers(world)):
        return False
    return bool(baskets.events) and not any(isinstance(event, Message | Undelivered) for event in baskets.events)
