"""Topic aliases of one network connection, both directions."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ohmqtt.topic_alias as topic_alias_module
from ohmqtt.errors import ArgumentError, ProtocolError, TopicAliasError
from ohmqtt.topic_alias import AliasPolicy, InboundAliases, OutboundAliases

NEVER, TRY, ALWAYS = AliasPolicy.NEVER, AliasPolicy.TRY, AliasPolicy.ALWAYS


class Server:
    """The other end: what the packets that we send mean to a server with its own map."""

    def __init__(self, maximum: int) -> None:
        self.aliases = InboundAliases(maximum)

    def receive(self, topic: str, alias: int, topic_sent: bool) -> None:
        """Check that the packet arrives as a publication to ``topic``."""
        if alias:
            assert self.aliases.resolve(topic if topic_sent else "", alias) == topic
        else:
            assert topic_sent


def test_never_uses_no_alias_even_for_a_topic_that_has_one() -> None:
    aliases = OutboundAliases(5)
    assert aliases.assign("a", NEVER) == (0, True)
    assert aliases.assign("a", TRY) == (1, True)
    assert aliases.assign("a", NEVER) == (0, True)


@pytest.mark.spec("MQTT-3.3.2-8")
def test_the_first_packet_announces_and_later_ones_leave_the_topic_out() -> None:
    aliases = OutboundAliases(5)
    assert [aliases.assign("a", TRY) for _ in range(3)] == [(1, True), (1, False), (1, False)]
    assert [aliases.assign("b", ALWAYS) for _ in range(3)] == [(2, True), (2, False), (2, False)]


@pytest.mark.spec("MQTT-3.2.2-17", "MQTT-3.3.2-9")
def test_no_alias_is_larger_than_the_server_allows() -> None:
    aliases = OutboundAliases(2)
    assert [aliases.assign(topic, TRY) for topic in ("a", "b", "c")] == [(1, True), (2, True), (0, True)]


@pytest.mark.spec("MQTT-3.2.2-18")
def test_without_a_maximum_there_are_no_aliases() -> None:
    aliases = OutboundAliases(0)
    assert [aliases.assign("a", TRY) for _ in range(100)] == [(0, True)] * 100
    with pytest.raises(TopicAliasError, match="the server offers no topic aliases"):
        aliases.assign("a", ALWAYS)
    with pytest.raises(TopicAliasError, match="the server offers no topic aliases"):
        aliases.reserve("a")


def test_always_raises_when_all_aliases_are_promised() -> None:
    aliases = OutboundAliases(2)
    aliases.reserve("a")
    assert aliases.assign("b", ALWAYS) == (1 + 1, True)
    with pytest.raises(TopicAliasError, match="all 2 topic aliases that the server offers are promised to other topics"):
        aliases.assign("c", ALWAYS)
    with pytest.raises(TopicAliasError, match="promised"):
        aliases.reserve("c")
    assert [aliases.assign("c", TRY) for _ in range(100)] == [(0, True)] * 100
    assert aliases.assign("a", ALWAYS) == (1, True)
    assert aliases.assign("a", TRY) == (1, False)


def test_a_reserved_alias_is_announced_by_the_first_packet() -> None:
    aliases = OutboundAliases(1)
    aliases.reserve("a")
    aliases.reserve("a")
    assert aliases.assign("a", ALWAYS) == (1, True)
    aliases.reserve("a")
    assert aliases.assign("a", ALWAYS) == (1, False)


def test_always_takes_the_alias_of_the_least_used_topic_that_only_tried() -> None:
    aliases = OutboundAliases(3)
    for topic in ["a", "b", "c", "c", "a", "b", "a"]:
        aliases.assign(topic, TRY)
    aliases.assign("b", ALWAYS)
    assert aliases.assign("d", ALWAYS) == (3, True)  # c was used least of a and c; b is promised.
    assert aliases.assign("c", TRY) == (0, True)
    assert aliases.assign("e", ALWAYS) == (1, True)
    assert aliases.assign("b", TRY) == (2, False)


def test_a_busy_topic_takes_over_from_an_idle_one_and_announces_itself() -> None:
    aliases = OutboundAliases(2)
    for topic in ("busy", "idle"):
        aliases.assign(topic, TRY)
    outcomes = []
    for _ in range(40):
        assert aliases.assign("busy", TRY) == (1, False)
        outcomes.append(aliases.assign("new", TRY))
    first = outcomes.index((2, True))
    assert outcomes == [(0, True)] * first + [(2, True)] + [(2, False)] * (39 - first)
    assert aliases.assign("idle", TRY) == (0, True)


def test_one_alias_goes_to_the_topic_that_is_used_three_times_as_often() -> None:
    aliases = OutboundAliases(1)
    for _ in range(200):
        for topic in ("seldom", "often", "often", "often"):
            aliases.assign(topic, TRY)
    assert aliases.assign("often", TRY) == (1, False)
    assert aliases.assign("seldom", TRY) == (0, True)


@pytest.mark.parametrize(("maximum", "topics"), [(1, 2), (1, 5), (10, 11), (10, 20), (10, 100), (50, 200)])
def test_equally_used_topics_do_not_push_each_other_out(maximum: int, topics: int) -> None:
    aliases = OutboundAliases(maximum)
    for _ in range(100):
        for number in range(topics):
            alias, _ = aliases.assign(f"t/{number}", TRY)
            assert alias == (number + 1 if number < maximum else 0)


def test_former_glory_fades() -> None:
    aliases = OutboundAliases(4)
    for number in range(4):
        for _ in range(10_000 if number == 3 else 1_000):
            aliases.assign(f"old/{number}", TRY)
    outcomes: list[tuple[int, bool]] = []
    for _ in range(120):
        outcomes = [aliases.assign(f"new/{number}", TRY) for number in range(4)]
    assert sorted(outcomes) == [(1, False), (2, False), (3, False), (4, False)]


def test_most_of_a_skewed_load_is_aliased() -> None:
    generator = random.Random(5)
    topics = [f"topic/{number}" for number in range(1_000)]
    weights = [1 / (number + 1) for number in range(1_000)]
    aliases = OutboundAliases(20)
    server = Server(20)
    generator.shuffle(topics)
    aliased = 0
    drawn = generator.choices(topics, weights, k=20_000)
    for topic in drawn:
        alias, topic_sent = aliases.assign(topic, TRY)
        server.receive(topic, alias, topic_sent)
        aliased += not topic_sent
    possible = sum(weights[:20]) / sum(weights)  # With hindsight: the twenty busiest topics.
    assert aliased / len(drawn) > 0.8 * possible
    assert len(aliases._waiting) <= 2 * 20


def test_few_uses_of_many_topics_keep_a_bounded_memory() -> None:
    aliases = OutboundAliases(30)
    for number in range(5_000):
        aliases.assign(f"once/{number}", TRY)
        assert len(aliases._waiting) <= 60
    assert len(aliases._bindings) == 30


def test_try_takes_a_limited_number_of_aliases_and_always_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_alias_module, "TRY_ALIASES_MAX", 2)
    aliases = OutboundAliases(65_535)
    assert [aliases.assign(topic, TRY) for topic in ("a", "b", "c")] == [(1, True), (2, True), (0, True)]
    assert aliases.assign("d", ALWAYS) == (3, True)
    assert aliases.assign("c", ALWAYS) == (4, True)
    assert "c" not in aliases._waiting


def test_an_alias_that_was_left_off_is_announced_again() -> None:
    aliases = OutboundAliases(1)
    assert aliases.assign("a", TRY) == (1, True)
    aliases.discard("a")
    aliases.discard("unknown")
    assert aliases.assign("a", TRY) == (1, True)
    assert aliases.assign("a", TRY) == (1, False)


def test_two_connections_share_nothing() -> None:
    OutboundAliases(1).assign("a", TRY)
    assert OutboundAliases(1).assign("a", TRY) == (1, True)


@pytest.mark.parametrize("maximum", [-1, 65_536])
@pytest.mark.parametrize("aliases", [OutboundAliases, InboundAliases])
def test_a_maximum_out_of_range_is_refused(aliases: type[OutboundAliases | InboundAliases], maximum: int) -> None:
    with pytest.raises(ArgumentError, match=rf"Topic Alias Maximum {maximum} is out of range 0 to 65,535"):
        aliases(maximum)


@pytest.mark.slow
@settings(derandomize=True, deadline=None, database=None)
@given(
    maximum=st.integers(0, 4),
    calls=st.lists(st.tuples(st.sampled_from("abcdefg"), st.sampled_from([NEVER, TRY, TRY, ALWAYS, "reserve", "discard"])), max_size=120),
)
def test_the_server_always_understands_which_topic_is_meant(maximum: int, calls: list[tuple[str, AliasPolicy | str]]) -> None:
    aliases = OutboundAliases(maximum)
    server = Server(maximum)
    promised: set[str] = set()
    for topic, action in calls:
        if action == "discard":
            aliases.assign(topic, TRY)
            aliases.discard(topic)  # The packet leaves with its full topic, without the alias.
            continue
        may_fail = topic not in promised and len(promised) == maximum
        try:
            if action == "reserve":
                aliases.reserve(topic)
                promised.add(topic)
                continue
            assert isinstance(action, AliasPolicy)
            alias, topic_sent = aliases.assign(topic, action)
        except TopicAliasError:
            assert may_fail
            continue
        server.receive(topic, alias, topic_sent)
        assert alias or action is not ALWAYS
        if action is ALWAYS:
            promised.add(topic)


# ------------------------------------------------------------------------------------------------------------------- inbound


@pytest.mark.spec("MQTT-3.3.2-10")
def test_every_offered_alias_can_be_set_used_and_set_again() -> None:
    aliases = InboundAliases(5)
    assert aliases.resolve("a", 1) == "a"
    assert aliases.resolve("b", 5) == "b"
    assert aliases.resolve("", 1) == "a"
    assert aliases.resolve("", 5) == "b"
    assert aliases.resolve("c", 1) == "c"
    assert aliases.resolve("", 1) == "c"


@pytest.mark.spec("MQTT-3.1.2-26", "MQTT-3.3.2-8")
@pytest.mark.parametrize("alias", [0, 6, 65_535])
@pytest.mark.parametrize("topic", ["", "a"])
def test_an_alias_out_of_range_is_a_protocol_error(alias: int, topic: str) -> None:
    with pytest.raises(ProtocolError, match=rf"topic alias {alias}; its receiver offered 1 to 5") as caught:
        InboundAliases(5).resolve(topic, alias)
    assert caught.value.reason_code == 0x94


@pytest.mark.spec("MQTT-3.1.2-27")
def test_any_alias_is_a_protocol_error_when_none_was_offered() -> None:
    with pytest.raises(ProtocolError, match="its receiver offered none") as caught:
        InboundAliases(0).resolve("a", 1)
    assert caught.value.reason_code == 0x94


@pytest.mark.spec("MQTT-3.3.2-7")
def test_an_alias_that_was_not_set_on_this_connection_is_a_protocol_error() -> None:
    InboundAliases(5).resolve("a", 1)
    with pytest.raises(ProtocolError, match="topic alias 1 was not set on this connection") as caught:
        InboundAliases(5).resolve("", 1)
    assert caught.value.reason_code == 0x82


def test_the_public_names_are_these() -> None:
    assert set(topic_alias_module.__all__) == {"AliasPolicy", "InboundAliases", "OutboundAliases"}
    assert [policy.value for policy in AliasPolicy] == [0, 1, 2]
