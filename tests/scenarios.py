"""What a client and a broker do together, as stories: each takes a stage (a broker) and a way to join it (a client), whichever they are.

They are played by our client on our broker and on Mosquitto, and by paho-mqtt on our broker: our client and our broker share a codec, so
what one of them gets wrong the other might forgive.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import pytest

from ohmqtt import PacketTooLargeError
from tests.broker_tools import unused
from tests.scenario_clients import Got, Refused, Will

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.scenario_clients import Party

__all__ = ["GUARDED", "LIMITED", "OPEN", "SCENARIOS", "Join", "Stage"]

OPEN = "open"
"""A broker without limits."""

LIMITED = "limited"
"""Maximum QoS 1, no retained messages, Maximum Packet Size 1,000, Receive Maximum 3, Topic Alias Maximum 2, Server Keep Alive 30."""

GUARDED = "guarded"
"""A broker for user anna with the password secret, and nobody else."""


class Stage(Protocol):
    """A broker of each kind, and its time."""

    @property
    def says_goodbye(self) -> bool:
        """Whether it surely sends a DISCONNECT before it closes."""
        ...

    def address(self, kind: str) -> str:
        """Return where the broker is."""
        ...

    def pass_time(self, seconds: float, clients: int) -> None:
        """Let so much time pass for the broker, from when it sees that only so many clients are left."""
        ...


class Join(Protocol):
    """Connect a client, with what `Ours` and `Paho` take."""

    def __call__(self, address: str, client_id: str = "", **options: Any) -> Party: ...


SCENARIOS: dict[str, Callable[[Stage, Join], None]] = {}


def scenario(play: Callable[[Stage, Join], None]) -> Callable[[Stage, Join], None]:
    SCENARIOS[play.__name__] = play
    return play


def texts(messages: list[Got]) -> list[str]:
    return [message.payload.decode() for message in messages]


# Order is promised for each QoS by itself: some clients hand a QoS 2 message over with its PUBREL only.

# ---- messages ----------------------------------------------------------------------------------------------------------------------------


@scenario
def every_qos_arrives_in_order(stage: Stage, join: Join) -> None:
    topic = unused()
    with join(stage.address(OPEN)) as alice, join(stage.address(OPEN)) as bob:
        assert bob.subscribe(topic, 2) == 2
        for n in range(12):
            assert alice.publish(topic, b"%d" % n, n % 3) == 0
        messages = bob.messages.wait(12)
        for qos in (0, 1, 2):
            assert texts([message for message in messages if message.qos == qos]) == [str(n) for n in range(qos, 12, 3)]


@scenario
def the_granted_qos_bounds_what_comes(stage: Stage, join: Join) -> None:
    base = unused()
    with join(stage.address(OPEN)) as alice, join(stage.address(OPEN)) as bob:
        for granted in (0, 1, 2):
            assert bob.subscribe(f"{base}/{granted}", granted) == granted
        for granted in (0, 1, 2):
            for qos in (0, 1, 2):
                alice.publish(f"{base}/{granted}", b"", qos)
        assert [message.qos for message in bob.messages.wait(9)] == [0, 0, 0, 0, 1, 1, 0, 1, 2]


@scenario
def many_at_once(stage: Stage, join: Join) -> None:
    topic = unused()
    with join(stage.address(OPEN)) as alice, join(stage.address(OPEN)) as bob:
        bob.subscribe(topic)
        for wait in [alice.begin_to_publish(topic, b"%d" % n, 1 + n % 2) for n in range(200)]:
            wait()
        messages = bob.messages.wait(200)
        for qos in (1, 2):
            assert texts([message for message in messages if message.qos == qos]) == [str(n) for n in range(qos - 1, 200, 2)]


@scenario
def properties_arrive_as_they_were(stage: Stage, join: Join) -> None:
    topic = unused()
    properties: dict[str, Any] = {
        "PayloadFormatIndicator": 1,
        "ContentType": "text/plain",
        "ResponseTopic": "answers/here",
        "CorrelationData": bytes(range(256)),
        "UserProperty": [("key", "first"), ("other", "ü ☃ 𐍈"), ("key", "second"), ("", "")],
    }
    with join(stage.address(OPEN)) as alice, join(stage.address(OPEN)) as bob:
        bob.subscribe(topic)
        for qos in (0, 1, 2):
            alice.publish(topic, "Grüße".encode(), qos, **properties)
        assert bob.messages.wait(3) == [Got(topic, "Grüße".encode(), qos, False, properties) for qos in (0, 1, 2)]


@scenario
def payloads_and_topics_of_all_kinds(stage: Stage, join: Join) -> None:
    base = unused()
    messages = [(f"{base}/ünï/☃/𐍈", bytes(range(256))), (f"{base}//", b""), (f"{base}/ ", b"\0"), (f"{base}/" + "x" * 200, bytes(1 << 20))]
    with join(stage.address(OPEN)) as alice, join(stage.address(OPEN)) as bob:
        bob.subscribe(f"{base}/#")
        for topic, payload in messages:
            alice.publish(topic, payload, 1)
        assert bob.got(4) == messages


@scenario
def a_request_is_answered(stage: Stage, join: Join) -> None:
    base = unused()
    with join(stage.address(OPEN)) as asker, join(stage.address(OPEN)) as answerer:
        answerer.subscribe(f"{base}/question")
        asker.subscribe(f"{base}/answer")
        asker.publish(f"{base}/question", b"6 * 7", 1, ResponseTopic=f"{base}/answer", CorrelationData=b"\x01")
        (question,) = answerer.messages.wait()
        correlation = question.properties["CorrelationData"]
        answerer.publish(question.properties["ResponseTopic"], b"42", 1, CorrelationData=correlation)
        (answer,) = asker.messages.wait()
        assert (answer.payload, answer.properties["CorrelationData"]) == (b"42", b"\x01")


# ---- subscriptions -----------------------------------------------------------------------------------------------------------------------


@scenario
def filters_with_wildcards(stage: Stage, join: Join) -> None:
    base = unused()
    with join(stage.address(OPEN)) as alice, join(stage.address(OPEN)) as plus, join(stage.address(OPEN)) as hash_:
        plus.subscribe(f"{base}/+/c")
        hash_.subscribe(f"{base}/a/#")
        for topic in ("a", "a/c", "b/c", "a/b/c", "b", "a/c/d"):
            alice.publish(f"{base}/{topic}", topic.encode(), 1)
        assert texts(plus.messages.wait(2)) == ["a/c", "b/c"]
        assert texts(hash_.messages.wait(4)) == ["a", "a/c", "a/b/c", "a/c/d"]


@scenario
def after_unsubscribing_nothing_comes(stage: Stage, join: Join) -> None:
    base = unused()
    with join(stage.address(OPEN)) as alice, join(stage.address(OPEN)) as bob:
        bob.subscribe(f"{base}/a")
        bob.subscribe(f"{base}/b")
        assert bob.unsubscribe(f"{base}/a") == 0
        assert bob.unsubscribe(f"{base}/never") == 0x11
        alice.publish(f"{base}/a", b"", 1)
        alice.publish(f"{base}/b", b"", 1)
        assert bob.got() == [(f"{base}/b", b"")]


@scenario
def one_s_own_messages_only_if_wanted(stage: Stage, join: Join) -> None:
    base = unused()
    with join(stage.address(OPEN)) as alice, join(stage.address(OPEN)) as bob:
        alice.subscribe(f"{base}/both")
        alice.subscribe(f"{base}/others", no_local=True)
        alice.publish(f"{base}/others", b"mine", 1)
        alice.publish(f"{base}/both", b"mine", 1)
        bob.publish(f"{base}/others", b"of bob", 1)
        assert alice.got(2) == [(f"{base}/both", b"mine"), (f"{base}/others", b"of bob")]


@scenario
def subscription_identifiers_come_along(stage: Stage, join: Join) -> None:
    base = unused()
    with join(stage.address(OPEN)) as alice, join(stage.address(OPEN)) as bob:
        bob.subscribe(f"{base}/a", identifier=7)
        bob.subscribe(f"{base}/b/+", identifier=100_000)
        bob.subscribe(f"{base}/c")
        for topic in ("a", "b/x", "c"):
            alice.publish(f"{base}/{topic}", b"", 1)
        found = [message.properties.get("SubscriptionIdentifier") for message in bob.messages.wait(3)]
        assert found == [[7], [100_000], None]


@scenario
def a_shared_subscription_shares(stage: Stage, join: Join) -> None:
    topic, group = unused(), unused("group")
    with join(stage.address(OPEN)) as alice, join(stage.address(OPEN)) as one, join(stage.address(OPEN)) as two:
        for member in (one, two):
            assert member.subscribe(f"$share/{group}/{topic}", 1) == 1
        with join(stage.address(OPEN)) as whole:
            whole.subscribe(topic)
            for n in range(20):
                alice.publish(topic, b"%d" % n, 1)
            assert len(whole.messages.wait(20)) == 20
        shares = [one.messages, two.messages]
        shares[0].wait_until(lambda items: len(items) + len(shares[1].now()) >= 20 or len(items) >= 10)
        shares[1].wait_until(lambda items: len(items) + len(shares[0].now()) >= 20)
        numbers = [int(message.payload) for share in shares for message in share.now()]
        assert sorted(numbers) == list(range(20))
        assert all(share.now() for share in shares)


# ---- retained messages -------------------------------------------------------------------------------------------------------------------


@scenario
def a_retained_message_waits_for_subscribers(stage: Stage, join: Join) -> None:
    topic = unused()
    with join(stage.address(OPEN)) as alice, join(stage.address(OPEN)) as early, join(stage.address(OPEN)) as late:
        early.subscribe(topic)
        alice.publish(topic, b"first", 1, True)
        alice.publish(topic, b"second", 1, True)
        late.subscribe(topic)
        assert [(message.payload, message.retain) for message in early.messages.wait(2)] == [(b"first", False), (b"second", False)]
        assert [(message.payload, message.retain) for message in late.messages.wait(1)] == [(b"second", True)]
        alice.publish(topic, b"", 1, True)
        with join(stage.address(OPEN)) as last:
            last.subscribe(topic)
            alice.publish(topic, b"now", 1)
            assert last.got() == [(topic, b"now")]


@scenario
def subscribers_choose_what_retained_messages_they_get(stage: Stage, join: Join) -> None:
    topic, live = unused(), unused()
    with join(stage.address(OPEN)) as alice, join(stage.address(OPEN)) as bob:
        alice.publish(topic, b"kept", 1, True)
        bob.subscribe(topic, handling=2)
        bob.subscribe(topic, handling=1)  # isn't new any more
        bob.subscribe(topic, handling=0)
        assert [message.retain for message in bob.messages.wait(1)] == [True]
        bob.unsubscribe(topic)
        bob.subscribe(topic, handling=1)
        assert [message.retain for message in bob.messages.wait(2)] == [True, True]
        bob.subscribe(live, as_published=True)
        alice.publish(live, b"", 1, True)
        alice.publish(topic, b"", 1, True)
        assert [message.retain for message in bob.messages.wait(4)][2:] == [True, False]


# ---- Wills -------------------------------------------------------------------------------------------------------------------------------


@scenario
def a_will_speaks_for_who_is_lost(stage: Stage, join: Join) -> None:
    topic = unused()
    with join(stage.address(OPEN)) as watcher:
        watcher.subscribe(topic)
        with join(stage.address(OPEN), will=Will(topic, b"lost", 2)) as alice:
            alice.away()
            (message,) = watcher.messages.wait()
            assert (message.payload, message.qos) == (b"lost", 2)
        with join(stage.address(OPEN), will=Will(topic, b"never said", 1)) as bob:
            bob.leave()
        with join(stage.address(OPEN), will=Will(topic, b"on request", 1)) as carol:
            carol.leave(0x04)
        assert texts(watcher.messages.wait(2)) == ["lost", "on request"]


@scenario
def a_will_waits_for_its_delay(stage: Stage, join: Join) -> None:
    topic, client_id = unused(), unused("client")
    with join(stage.address(OPEN)) as watcher:
        watcher.subscribe(topic)
        with join(stage.address(OPEN), client_id, expiry_s=100, will=Will(topic, b"lost", 1, delay_s=6)) as alice:
            alice.away()
            alice.back()  # in time
            watcher.publish(topic, b"she is back", 1)
            alice.away()
            stage.pass_time(7.5, 1)
            assert texts(watcher.messages.wait(2)) == ["she is back", "lost"]


# ---- sessions ----------------------------------------------------------------------------------------------------------------------------


@scenario
def a_session_is_resumed_with_what_came_meanwhile(stage: Stage, join: Join) -> None:
    topic = unused()
    with join(stage.address(OPEN)) as alice, join(stage.address(OPEN), unused("client"), expiry_s=100) as bob:
        bob.subscribe(topic)
        bob.away()
        for n in range(6):
            alice.publish(topic, b"%d" % n, 1 + n % 2)
        bob.back()
        assert bob.session_present
        messages = bob.messages.wait(6)
        assert texts([message for message in messages if message.qos == 1]) == ["0", "2", "4"]
        assert texts([message for message in messages if message.qos == 2]) == ["1", "3", "5"]


@scenario
def another_process_takes_a_session_on(stage: Stage, join: Join) -> None:
    topic, client_id = unused(), unused("client")
    with join(stage.address(OPEN), client_id, expiry_s=100) as bob:
        bob.subscribe(topic)
        bob.leave()
    with join(stage.address(OPEN)) as alice:
        alice.publish(topic, b"kept", 1)
    with join(stage.address(OPEN), client_id, clean_start=False, expiry_s=100) as bob:
        assert bob.session_present
        assert bob.got() == [(topic, b"kept")]
    with join(stage.address(OPEN), client_id, expiry_s=0) as bob:  # a clean start
        assert not bob.session_present


@scenario
def a_session_expires(stage: Stage, join: Join) -> None:
    client_id = unused("client")
    with join(stage.address(OPEN), client_id, expiry_s=1) as bob:
        bob.away()
        stage.pass_time(4.0, 0)
        bob.back()
        assert not bob.session_present


@scenario
def a_goodbye_may_shorten_the_session(stage: Stage, join: Join) -> None:
    client_id = unused("client")
    with join(stage.address(OPEN), client_id, expiry_s=100) as bob:
        bob.leave(SessionExpiryInterval=0)
    with join(stage.address(OPEN), client_id, clean_start=False) as bob:
        assert not bob.session_present


@scenario
def nothing_is_lost_or_doubled_when_links_are_cut(stage: Stage, join: Join) -> None:
    topic, address = unused(), stage.address(OPEN)
    with join(address, unused("client"), expiry_s=100) as alice, join(address, unused("client"), expiry_s=100) as bob:
        bob.subscribe(topic)
        # In the middle of packets, both ways, one cut after the other.
        for count in (37, 61, 11):
            alice.proxy.cut_after(count, "up")
            alice.proxy.cut_after(count // 3, "down")
            bob.proxy.cut_after(count, "down")
        waits = [alice.begin_to_publish(topic, b"%d" % n, 2) for n in range(20)]
        assert [wait() for wait in waits] == [0] * 20
        numbers = [str(n) for n in range(20)]
        messages = bob.messages.wait_until(lambda items: {*texts(items)} >= {*numbers})
        assert texts(messages) == numbers or not alice.keeps_its_word
        assert alice.proxy.accepted > 3
        assert bob.proxy.accepted > 2


# ---- expiry, aliases, flow ---------------------------------------------------------------------------------------------------------------


@scenario
def a_message_expires(stage: Stage, join: Join) -> None:
    topic = unused()
    with join(stage.address(OPEN)) as alice, join(stage.address(OPEN), unused("client"), expiry_s=100) as bob:
        bob.subscribe(topic)
        bob.away()
        alice.publish(topic, b"short", 1, MessageExpiryInterval=1)
        alice.publish(topic, b"long", 1, MessageExpiryInterval=100)
        stage.pass_time(4.0, 1)
        bob.back()
        (message,) = bob.messages.wait()
        assert message.payload == b"long"
        assert 90 <= message.properties["MessageExpiryInterval"] <= 97


@scenario
def topic_aliases_stand_for_topics(stage: Stage, join: Join) -> None:
    base = unused()
    with join(stage.address(OPEN)) as alice, join(stage.address(OPEN), TopicAliasMaximum=2 if alice.resolves_aliases else 0) as bob:
        bob.subscribe(f"{base}/#")
        for n in range(9):
            # More topics than aliases, so that some of them change hands; each several times.
            alice.publish_by_alias(f"{base}/{n // 2 % 3}", b"%d" % n, 1)
        assert bob.got(9) == [(f"{base}/{n // 2 % 3}", b"%d" % n) for n in range(9)]


@scenario
def a_receiver_that_takes_one_at_a_time(stage: Stage, join: Join) -> None:
    topic = unused()
    with join(stage.address(OPEN)) as alice, join(stage.address(OPEN), ReceiveMaximum=1) as bob:
        bob.subscribe(topic)
        for n in range(10):
            alice.publish(topic, b"%d" % n, 1 + n % 2)
        assert texts(bob.messages.wait(10)) == [str(n) for n in range(10)]


@scenario
def what_is_too_large_for_a_receiver_is_left_out(stage: Stage, join: Join) -> None:
    topic = unused()
    with join(stage.address(OPEN)) as alice, join(stage.address(OPEN), MaximumPacketSize=500) as bob:
        bob.subscribe(topic)
        alice.publish(topic, bytes(1_000), 1)
        alice.publish(topic, b"small", 1)
        assert bob.got() == [(topic, b"small")]


# ---- limits, refusals, goodbyes ----------------------------------------------------------------------------------------------------------


@scenario
def limits_are_announced(stage: Stage, join: Join) -> None:
    topic = unused()
    with join(stage.address(LIMITED)) as alice:
        limits = {
            "MaximumQoS": 1,
            "RetainAvailable": 0,
            "MaximumPacketSize": 1_000,
            "ReceiveMaximum": 3,
            "TopicAliasMaximum": 2,
            "ServerKeepAlive": 30,
        }
        assert {name: alice.connack.get(name) for name in limits} == limits
        assert alice.subscribe(topic, 2) in (1, 2)
        for wait in [alice.begin_to_publish(topic, b"%d" % n, 1) for n in range(10)]:
            assert wait() == 0
        assert texts(alice.messages.wait(10)) == [str(n) for n in range(10)]
        assert {message.qos for message in alice.messages.now()} == {1}


@scenario
def what_the_broker_can_not_take_is_refused_by_one_or_the_other(stage: Stage, join: Join) -> None:
    topic = unused()
    with join(stage.address(LIMITED)) as alice:
        if alice.obeys_limits:
            with pytest.raises(PacketTooLargeError):
                alice.publish(topic, bytes(1_000), 1)
            assert alice.publish(topic, bytes(900), 1) in (0x00, 0x10)
        else:
            alice.begin_to_publish(topic, bytes(1_000), 1)
            assert alice.goodbyes.wait()[0] == 0x95


@scenario
def strangers_are_refused(stage: Stage, join: Join) -> None:
    for user_name, password in ((None, None), ("anna", "wrong"), ("berta", "secret")):
        with pytest.raises(Refused) as caught, join(stage.address(GUARDED), user_name=user_name, password=password):
            pass
        assert caught.value.args[0] in (0x86, 0x87)
    with join(stage.address(GUARDED), user_name="anna", password="secret") as anna:
        assert anna.publish(unused(), b"", 1) in (0x00, 0x10)


@scenario
def the_server_names_who_has_no_name(stage: Stage, join: Join) -> None:
    with join(stage.address(OPEN)) as one, join(stage.address(OPEN)) as two:
        names = [party.connack["AssignedClientIdentifier"] for party in (one, two)]
        assert all(names)
        assert names[0] != names[1]


@scenario
def a_session_is_taken_over(stage: Stage, join: Join) -> None:
    client_id = unused("client")
    with join(stage.address(OPEN), client_id) as first:
        # So that it doesn't take it back.
        first.proxy.refuse()
        with join(stage.address(OPEN), client_id):
            first.losses.wait()
            assert first.goodbyes.now() == [0x8E] or not stage.says_goodbye
