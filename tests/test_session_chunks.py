"""The chunk law: however a stream of packets is cut, the same events, writes and outcomes come of it."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from ohmqtt.packet import MQTTDisconnectPacket, MQTTSubAckPacket
from ohmqtt.records import Connected, Disconnected, Message, Outgoing, Report
from tests.core_pair import Pair, ack, auth, connack, publish

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

SEEDS = range(16)

BAD = [
    b"\xf1\x00",
    b"\x30\x80\x00",
    b"\x30\xff\xff\xff\xff\x01",
    publish("t", bytes(600)),
    b"\x32\x06\0\x01a\0\0\0",
    b"\x20\x03\0\0\0",
    b"\x00\x00",
    ack(0x40, 0),
]


def outcome(value: Any) -> Any:
    """Make an outcome or event comparable: what matters of it, without identities."""
    if isinstance(value, Message):
        return ("Message", value.topic, value.payload, value.qos, value.packet_id, value.dup, repr(value.properties))
    if isinstance(value, Outgoing):
        return ("Outgoing", value.topic, repr(value.outcome))
    if isinstance(value, Disconnected):
        return ("Disconnected", repr(value.error), value.was_connected, value.retry_in_s)
    if isinstance(value, (Connected, Report)):
        return repr(value)
    return ("Request", repr(value.outcome))


def good_stream(source: random.Random) -> bytes:
    """Return what a server may well send behind its CONNACK: two exchanges of ours are open, and an SUBACK is awaited."""
    pieces = []
    open_ids: list[int] = []
    next_id = 1
    ours = [ack(0x40, 2), ack(0x50, 3), MQTTSubAckPacket(1, (1,)).encode()]
    for _ in range(source.randrange(5, 25)):
        match source.randrange(8):
            case 0:
                pieces.append(publish("a", bytes(source.randrange(300))))
            case 1:
                pieces.append(publish("b/c", b"x" * source.choice([0, 1, 130]), 1, next_id, dup=source.random() < 0.5))
                next_id += 1
            case 2:
                pieces.append(publish("d", b"y", 2, next_id, UserProperty=[("k", "v")], MessageExpiryInterval=5))
                open_ids.append(next_id)
                next_id += 1
            case 3:
                pieces.append(publish("alias", b"", TopicAlias=source.randrange(1, 4)))
            case 4:
                pieces.append(b"\xd0\x00")
            case 5 if ours:
                pieces.append(ours.pop(0))
            case 6:
                pieces.append(ack(0x62, 60_000 + source.randrange(100)))
            case _:
                pieces.append(ack(0x40, 40_000))
    return b"".join(pieces)


def play(connected_by: list[bytes], chunks: Iterable[bytes], *, turns: bool) -> tuple[Any, ...]:
    """Feed the chunks; `turns`: the driver passes a turn between them. Return all that can be seen from outside."""
    pair = Pair(inbound_messages_hard_max=10_000_000)
    pair.start(TopicAliasMaximum=3, MaximumPacketSize=500)
    pair.subscribe("f")
    pair.publish("one", qos=1)
    pair.publish("two", qos=2)
    pair.open()
    pair.feed(*connected_by)
    for chunk in chunks:
        pair.session.receive(chunk, pair.now)
        if turns:
            pair.pump()
    pair.pump()
    session = pair.session
    seen = {kind: [entry for what, entry in pair.log if what == kind] for kind in ("event", "wire", "resolved")}
    link = session.link
    state = (
        None if link is None else (b"".join(link.remainder), link.inbound_open, sorted(link.qos2_open), link.send_quota, len(link.pubacks))
    )
    return (
        [outcome(event) for event in seen["event"]],
        [entry if entry == "EOF" else entry.raw for entry in seen["wire"]],
        [outcome(value) for value in seen["resolved"]],
        state,
        sorted(session.inbound.received),
        sorted(session.outbound.in_flight),
        session.phase,
    )


def cuts(stream: bytes, source: random.Random) -> Iterator[list[bytes]]:
    yield [stream[i : i + 1] for i in range(len(stream))]
    for i in range(0, len(stream) + 1, max(1, len(stream) // 12)):
        yield [stream[:i], stream[i:]]
    for _ in range(6):
        points = sorted(source.randrange(len(stream) + 1) for _ in range(source.randrange(1, 12)))
        yield [stream[a:b] for a, b in zip([0, *points], [*points, len(stream)])]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_good_stream_cut_anywhere_gives_the_same(seed: int) -> None:
    source = random.Random(seed)
    stream = good_stream(source)
    whole = play([connack()], [stream], turns=True)
    assert whole[3] is not None
    for chunks in cuts(stream, source):
        assert b"".join(chunks) == stream
        assert play([connack()], chunks, turns=True) == whole
        assert play([connack()], chunks, turns=False) == whole


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stream_that_ends_badly_cut_anywhere_ends_the_same(seed: int) -> None:
    """What was accepted before the error is delivered; what was to be written before it may or may not have left, so it is not compared."""
    source = random.Random(1_000 + seed)
    stream = good_stream(source) + BAD[seed % len(BAD)] + publish("never", b"")
    events, wire, _, state, received, _, phase = play([connack()], [stream], turns=False)
    assert state is None
    assert events[-1][0] == "Disconnected"
    assert not any(event[1] == "never" for event in events if event[0] == "Message")
    for chunks in cuts(stream, source):
        again = play([connack()], chunks, turns=False)
        assert (again[0], again[1], again[3], again[4], again[6]) == (events, wire, state, received, phase)
        with_turns = play([connack()], chunks, turns=True)
        assert [event for event in with_turns[0] if event[0] == "Message"] == [event for event in events if event[0] == "Message"]
        assert with_turns[0][-1] == events[-1]
        assert with_turns[1][-2:] == wire[-2:]


@pytest.mark.parametrize("end", [MQTTDisconnectPacket(0x8B).encode(), connack(0x88), b"\xe0\x00"], ids=["DISCONNECT", "refusal", "short"])
def test_a_stream_that_the_server_ends_cut_anywhere_ends_the_same(end: bytes) -> None:
    before = [] if end[0] == 0x20 else [connack(), publish("a"), publish("b", b"", 1, 1)]
    stream = end + publish("never")
    whole = play(before, [stream], turns=True)
    assert whole[1][-1] == "EOF"
    for i in range(len(stream) + 1):
        assert play(before, [stream[:i], stream[i:]], turns=True) == whole


def test_behind_an_authentication_the_law_holds_too() -> None:
    connected = connack(AuthenticationMethod="M")
    for tail in (publish("a") + publish("b", b"", 1, 1), publish("a") + b"\xf1\x00", publish("t", bytes(600))):
        stream = auth(0x18, b"1") + connected + tail
        seen = set()
        for i in range(0, min(len(connected) + len(tail), 50) + 1, 2):
            for j in (i, i + 1, len(stream)):
                pair = Pair()
                pair.start(AuthenticationMethod="M", MaximumPacketSize=500)
                pair.open()
                for chunk in (stream[: len(stream) - len(connected) - len(tail)], *_behind(stream, i, j, len(connected) + len(tail))):
                    pair.feed(chunk)
                    if pair.session.auth_steps and not pair.session.auth_steps[0].finish:
                        pair.session.authenticated(pair.session.auth_steps.pop(), b"2", None, pair.now)
                        pair.pump()
                (step,) = pair.session.auth_steps
                pair.session.auth_steps.clear()
                pair.session.authenticated(step, None, None, pair.now)
                pair.pump()
                seen.add(repr(([outcome(event) for event in pair.events()], pair.kinds())))
        assert len(seen) == 1


def _behind(stream: bytes, i: int, j: int, size: int) -> list[bytes]:
    """Cut the last `size` bytes of the stream at two places."""
    rest = stream[len(stream) - size :]
    i, j = min(i, size), min(j, size)
    return [rest[:i], rest[i:j], rest[j:]]
