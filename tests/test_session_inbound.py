"""Messages from the server: once each, answered in order, on the link that brought them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from ohmqtt.errors import ArgumentError, ProtocolError
from ohmqtt.journal import FORGET, RECEIVE, StoredState
from ohmqtt.mqtt_spec import CLIENT_REASON_CODES, PacketType
from ohmqtt.property import MQTTPubAckProps, MQTTPubRecProps
from ohmqtt.session.inbound import UNMATCHED_MAX
from tests.core_pair import Pair, ack, publish

if TYPE_CHECKING:
    from ohmqtt.records import Message
    from tests.strict_parser import WirePacket

IDS = [1, 255, 256, 65_535]


def told(packets: list[WirePacket]) -> list[tuple[str, int]]:
    return [(packet.kind, packet.packet_id) for packet in packets]


def take(pair: Pair, *data: bytes) -> Message:
    """Feed what brings one message, and return it."""
    before = len(pair.messages())
    assert pair.feed(*data) == []
    (message,) = pair.messages()[before:]
    return message


def breaks(pair: Pair, data: bytes) -> int:
    """Feed what the server must not send; return the reason code of our DISCONNECT."""
    goodbye = pair.feed(data)[-1]
    assert goodbye.kind == "DISCONNECT"
    assert isinstance(pair.ending().error, ProtocolError)
    code: int = goodbye.reason_code
    return code


# ---- the answers that each QoS asks for ----------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.3.4-1", "MQTT-2.2.1-5", "MQTT-4.3.2-4", "MQTT-4.3.3-8", "MQTT-4.3.3-11")
@pytest.mark.parametrize("packet_id", IDS)
def test_each_qos_is_answered_as_it_asks_when_the_callback_has_returned(packet_id: int) -> None:
    pair = Pair().connect()
    take(pair, publish("a"))
    one = take(pair, publish("a", b"", 1, packet_id))
    assert told(pair.answer(one)) == [("PUBACK", packet_id)]
    two = take(pair, publish("a", b"", 2, packet_id))
    assert told(pair.answer(two)) == [("PUBREC", packet_id)]
    assert told(pair.feed(ack(0x62, packet_id))) == [("PUBCOMP", packet_id)]
    assert pair.sent()[-1].reason_code == 0


@pytest.mark.spec("MQTT-2.2.1-4", "MQTT-2.2.1")
def test_identifiers_of_the_two_directions_do_not_meet() -> None:
    pair = Pair().connect()
    ours = [pair.publish(qos=1), pair.publish(qos=2)]
    theirs = [take(pair, publish("a", b"", 1, 1)), take(pair, publish("a", b"", 2, 2))]
    assert told([*pair.answer(theirs[0]), *pair.answer(theirs[1])]) == [("PUBACK", 1), ("PUBREC", 2)]
    assert told(pair.feed(ack(0x50, 2), ack(0x62, 2), ack(0x40, 1), ack(0x70, 2))) == [("PUBREL", 2), ("PUBCOMP", 2)]
    assert all(not isinstance(message.outcome, Exception) and message.outcome for message in ours)


def test_the_first_answer_counts() -> None:
    pair = Pair().connect()
    message = take(pair, publish("a", b"", 1, 1))
    (puback,) = pair.answer(message, 0x97)
    assert puback.reason_code == 0x97
    assert pair.answer(message) == []


@pytest.mark.spec("MQTT-4.3.2-5")
def test_after_its_puback_an_identifier_means_a_new_message_whatever_dup_says() -> None:
    pair = Pair().connect()
    for dup in (False, True, True):
        pair.answer(take(pair, publish("a", b"same", 1, 1, dup=dup)))
    assert len(pair.messages()) == 3


@pytest.mark.spec("MQTT-4.3.3-10", "MQTT-4.3.3-12", "MQTT-3.3.1.1")
def test_a_qos_2_repeat_before_pubrel_is_answered_again_and_not_delivered_again() -> None:
    pair = Pair().connect()
    message = take(pair, publish("a", b"", 2, 1))
    assert pair.feed(publish("a", b"", 2, 1, dup=True)) == []  # while its callback runs
    assert told(pair.answer(message)) == [("PUBREC", 1), ("PUBREC", 1)]
    for dup in (False, True):
        assert told(pair.feed(publish("a", b"", 2, 1, dup=dup))) == [("PUBREC", 1)]
    assert told(pair.feed(ack(0x62, 1))) == [("PUBCOMP", 1)]
    assert len(pair.messages()) == 1
    assert pair.session.link is not None
    assert pair.session.link.inbound_open == 0
    take(pair, publish("a", b"", 2, 1, dup=True))


@pytest.mark.parametrize("code", [0, 0x80])
def test_a_repeat_that_waits_behind_another_message_does_not_outlive_its_exchange(code: int) -> None:
    pair = Pair().connect()
    first = take(pair, publish("a", b"1", 2, 1))
    blocker = take(pair, publish("b", b"", 2, 2))
    assert pair.feed(publish("a", b"1", 2, 1, dup=True)) == []
    assert told(pair.answer(first, code)) == [("PUBREC", 1)]
    if not code:
        assert told(pair.feed(ack(0x62, 1))) == [("PUBCOMP", 1)]
    second = take(pair, publish("a", b"2", 2, 1))
    assert told(pair.answer(blocker)) == [("PUBREC", 2)]
    assert told(pair.answer(second)) == [("PUBREC", 1)]
    assert told(pair.feed(ack(0x62, 1), ack(0x62, 2))) == [("PUBCOMP", 1), ("PUBCOMP", 2)]
    assert pair.session.link is not None
    assert pair.session.link.inbound_open == 0
    assert pair.session.inbound.repeated == set()


@pytest.mark.spec("MQTT-3.7.2-1", "MQTT-4.3.3-11", "MQTT-3.4")
def test_a_pubrel_for_nothing_is_told_so() -> None:
    pair = Pair().connect()
    (pubcomp,) = pair.feed(ack(0x62, 9))
    assert (pubcomp.kind, pubcomp.packet_id, pubcomp.reason_code) == ("PUBCOMP", 9, 0x92)
    assert pair.session.link is not None
    assert pair.session.link.inbound_open == 0


def test_a_pubrel_before_our_pubrec_is_a_protocol_error() -> None:
    pair = Pair().connect()
    take(pair, publish("a", b"", 2, 1))
    assert breaks(pair, ack(0x62, 1)) == 0x82
    pair = Pair().connect()
    take(pair, publish("a", b"", 2, 1))
    second = take(pair, publish("a", b"", 2, 2))
    pair.answer(second)  # held back by the first
    assert breaks(pair, ack(0x62, 2)) == 0x82


def test_a_qos_1_identifier_without_puback_is_not_used_again_on_its_connection() -> None:
    pair = Pair().connect()
    take(pair, publish("a", b"", 1, 1))
    assert breaks(pair, publish("a", b"", 1, 1, dup=True)) == 0x82


# ---- order --------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-4.6.0-2")
def test_pubacks_leave_in_order_of_arrival_however_the_answers_come() -> None:
    pair = Pair().connect()
    messages = [take(pair, publish("a", b"", 1, i)) for i in (5, 3, 9, 1)]
    assert pair.answer(messages[2]) == []
    assert pair.answer(messages[1]) == []
    assert told(pair.answer(messages[0])) == [("PUBACK", 5), ("PUBACK", 3), ("PUBACK", 9)]
    assert told(pair.answer(messages[3])) == [("PUBACK", 1)]


@pytest.mark.spec("MQTT-4.6.0-3")
def test_pubrecs_leave_in_order_of_arrival_and_do_not_wait_for_pubacks() -> None:
    pair = Pair().connect()
    one = take(pair, publish("a", b"", 1, 1))
    messages = [take(pair, publish("a", b"", 2, i)) for i in (5, 3, 9)]
    assert pair.answer(messages[1]) == []
    assert told(pair.answer(messages[0])) == [("PUBREC", 5), ("PUBREC", 3)]
    assert told(pair.answer(one)) == [("PUBACK", 1)]
    assert told(pair.answer(messages[2])) == [("PUBREC", 9)]


@pytest.mark.spec("MQTT-4.6.0-5")
def test_messages_are_handed_over_in_order_of_arrival() -> None:
    pair = Pair().connect()
    pair.feed(b"".join(publish(str(i), b"", i % 3, i if i % 3 else 0) for i in range(1, 30)))
    assert [message.topic for message in pair.messages()] == [str(i) for i in range(1, 30)]


# ---- our Receive Maximum ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.3.4-9", "MQTT-3.3.4")
@pytest.mark.parametrize("kinds", [(1, 1, 1), (2, 2, 2), (2, 1, 2)])
def test_more_than_our_receive_maximum_is_a_protocol_error(kinds: tuple[int, ...]) -> None:
    pair = Pair().connect(ReceiveMaximum=2)
    messages = [take(pair, publish("a", b"", qos, i)) for i, qos in enumerate(kinds[:2], 1)]
    assert breaks(pair, publish("a", b"", kinds[2], 3)) == 0x93
    assert pair.messages() == messages
    pair = Pair().connect(ReceiveMaximum=2)
    for i, qos in enumerate(kinds * 3, 1):
        pair.answer(take(pair, publish("a", b"", qos, i)))
        pair.feed(*([ack(0x62, i)] if qos == 2 else []))
    assert pair.session.connected_link() is not None


@pytest.mark.parametrize("qos", [1, 2])
def test_a_receive_maximum_that_nobody_named_is_asked_for_and_not_enforced(qos: int) -> None:
    pair = Pair().connect()
    pair.feed(b"".join(publish("a", b"", qos, i) for i in range(1, 2_001)))
    assert len(pair.messages()) == 2_000
    assert pair.session.connected_link() is not None


@pytest.mark.spec("MQTT-3.3.4-9")
def test_a_qos_2_exchange_counts_until_its_end_and_a_rejected_one_until_its_pubrec() -> None:
    pair = Pair().connect(ReceiveMaximum=2)
    for i in (1, 2):
        pair.answer(take(pair, publish("a", b"", 2, i)))
    assert breaks(pair, publish("a", b"", 1, 3)) == 0x93
    pair = Pair().connect(ReceiveMaximum=1)
    for i in range(1, 5):
        pair.answer(take(pair, publish("a", b"", 2, i)), 0x80)
    assert pair.session.connected_link() is not None


def test_a_new_link_begins_with_a_whole_receive_maximum() -> None:
    pair = Pair().connect(ReceiveMaximum=2)
    old = [take(pair, publish("a", b"", 1, i)) for i in (1, 2)]
    pair.lose()
    pair.reconnect()
    assert pair.feed(publish("a", b"", 1, 1, dup=True), publish("a", b"", 1, 2, dup=True)) == []
    assert told([*pair.answer(old[1]), *pair.answer(old[0])]) == [("PUBACK", 1), ("PUBACK", 2)]
    assert pair.session.link is not None
    assert pair.session.link.inbound_open == 0


# ---- reason codes and properties ------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.4.2-1", "MQTT-3.5.2-1")
@pytest.mark.parametrize("code", sorted(CLIENT_REASON_CODES[PacketType.PUBACK]))
@pytest.mark.parametrize("qos", [1, 2])
def test_every_code_that_a_client_may_send_can_be_an_answer(qos: int, code: int) -> None:
    pair = Pair().connect()
    (answer,) = pair.answer(take(pair, publish("a", b"", qos, 7)), code)
    assert (answer.packet_id, answer.reason_code) == (7, code)


@pytest.mark.spec("MQTT-3.4.2-1", "MQTT-3.5.2-1")
@pytest.mark.parametrize(("code", "properties"), [(0x10, None), (0x92, None), (1, None), ("0", None), (0, MQTTPubRecProps.EMPTY), (0, {})])
def test_what_cannot_be_an_answer_is_refused_at_the_call_and_answers_nothing(code: Any, properties: Any) -> None:
    pair = Pair().connect()
    message = take(pair, publish("a", b"", 1, 1))
    with pytest.raises(ArgumentError, match=r"reason_code|properties"):
        pair.answer(message, code, properties)
    assert told(pair.answer(message)) == [("PUBACK", 1)]


@pytest.mark.spec("MQTT-3.4.2-2", "MQTT-3.4.2-3", "MQTT-3.5.2-2", "MQTT-3.5.2-3")
@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize(
    ("limit", "names"), [(27, {"ReasonString", "UserProperty"}), (26, {"ReasonString"}), (13, {"ReasonString"}), (12, set()), (5, set())]
)
def test_properties_of_an_answer_fit_or_are_left_out(qos: int, limit: int, names: set[str]) -> None:
    pair = Pair()
    pair.start()
    pair.open()
    pair.accept(MaximumPacketSize=limit)
    properties = MQTTPubAckProps(ReasonString="text", UserProperty=[("name", "value")])
    (answer,) = pair.answer(take(pair, publish("a", b"", qos, 1)), 0x80, properties)
    assert len(answer.raw) <= limit
    assert set(answer.properties) == names
    assert answer.reason_code == 0x80


def test_success_can_carry_properties() -> None:
    pair = Pair().connect()
    (answer,) = pair.answer(take(pair, publish("a", b"", 1, 1)), 0, MQTTPubAckProps(ReasonString="fine"))
    assert (answer.reason_code, answer.properties) == (0, {"ReasonString": "fine"})
    (answer,) = pair.answer(take(pair, publish("a", b"", 2, 1)), 0, MQTTPubAckProps(ReasonString="fine"))
    assert (answer.kind, answer.properties) == ("PUBREC", {"ReasonString": "fine"})
    (answer,) = pair.answer(take(pair, publish("a", b"", 1, 1)), 0, MQTTPubAckProps.EMPTY)
    assert len(answer.raw) == 4


@pytest.mark.spec("MQTT-4.3.3-9")
def test_a_rejected_qos_2_message_is_over_and_its_identifier_new() -> None:
    pair = Pair(durable=True).connect()
    pair.answer(take(pair, publish("a", b"", 2, 1)), 0x97)
    assert pair.journal() == []
    take(pair, publish("a", b"", 2, 1))


# ---- over a lost link -----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-4.3.3-10", "MQTT-4.4.0-1")
@pytest.mark.parametrize("answered", ["before the link was lost", "between the links", "on the new link"])
@pytest.mark.parametrize("code", [0, 0x80])
@pytest.mark.parametrize("qos", [1, 2])
def test_a_message_under_way_is_delivered_once_and_answered_on_the_link_that_brought_it_last(qos: int, code: int, answered: str) -> None:
    pair = Pair().connect()
    take(pair, publish("first", b"", qos, 8))  # it holds the other's answer back
    message = take(pair, publish("a", b"x", qos, 1))
    if answered == "before the link was lost":
        assert pair.answer(message, code) == []
    pair.lose()
    if answered == "between the links":
        assert pair.answer(message, code) == []
    pair.reconnect()
    sent = pair.feed(publish("a", b"x", qos, 1, dup=True))
    if answered == "on the new link":
        assert sent == []
        sent = pair.answer(message, code)
    kind = "PUBACK" if qos == 1 else "PUBREC"
    assert [(packet.kind, packet.packet_id, packet.reason_code) for packet in sent] == [(kind, 1, code)]
    assert len(pair.messages()) == 2


def test_no_answer_leaves_on_a_link_that_did_not_bring_the_message() -> None:
    pair = Pair().connect()
    messages = [take(pair, publish("a", b"", qos, qos)) for qos in (1, 2)]
    pair.lose()
    pair.reconnect()
    for message in messages:
        assert pair.answer(message) == []
    assert pair.kinds()[-1] == "CONNECT"


@pytest.mark.parametrize("again", [publish("a", b"x", 1, 1), publish("a", b"y", 1, 1, dup=True), publish("b", b"x", 1, 1, dup=True)])
def test_a_qos_1_message_that_is_not_the_same_again_is_a_new_one(again: bytes) -> None:
    pair = Pair().connect()
    old = take(pair, publish("a", b"x", 1, 1))
    pair.lose()
    pair.reconnect()
    new = take(pair, again)
    assert pair.answer(old) == []
    assert told(pair.answer(new)) == [("PUBACK", 1)]
    assert pair.session.inbound.deliveries == {}


@pytest.mark.spec("MQTT-3.3.1.1")
def test_dup_alone_proves_nothing() -> None:
    pair = Pair().connect()
    for qos in (1, 2):
        assert take(pair, publish("a", b"", qos, qos, dup=True)).dup


@pytest.mark.spec("MQTT-4.3.3-10", "MQTT-4.3.3-12", "MQTT-4.3.3-11")
def test_after_pubrec_the_exchange_goes_on_on_the_next_link() -> None:
    pair = Pair().connect()
    pair.answer(take(pair, publish("a", b"", 2, 1)))
    pair.lose()
    pair.reconnect()
    assert told(pair.feed(ack(0x62, 1))) == [("PUBCOMP", 1)]
    pair.answer(take(pair, publish("a", b"", 2, 1)))
    pair.lose()
    pair.reconnect()
    assert told(pair.feed(publish("a", b"", 2, 1, dup=True), ack(0x62, 1))) == [("PUBREC", 1), ("PUBCOMP", 1)]
    assert len(pair.messages()) == 2


@pytest.mark.spec("MQTT-3.2.2-5", "MQTT-4.1")
def test_a_lost_session_forgets_identifiers_and_keeps_messages() -> None:
    pair = Pair().connect()
    old = [take(pair, publish("a", b"x", qos, qos)) for qos in (1, 2)]
    pair.answer(take(pair, publish("b", b"x", 2, 3)), 0)
    pair.lose()
    pair.reconnect(session_present=False)
    for message in old:
        assert pair.answer(message) == []
    new = [take(pair, publish("a", b"x", qos, packet_id, dup=True)) for qos, packet_id in ((1, 1), (2, 2), (2, 3))]
    assert told([packet for message in new for packet in pair.answer(message)]) == [("PUBACK", 1), ("PUBREC", 2), ("PUBREC", 3)]


# ---- the database ----------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-4.3.3-8")
def test_an_identifier_is_on_disk_before_its_pubrec_and_off_it_before_its_pubcomp() -> None:
    pair = Pair(durable=True).connect()
    message = take(pair, publish("a", b"", 2, 5))
    assert pair.journal() == []
    pair.log.clear()
    pair.answer(message)
    assert pair.order() == [f"journal {RECEIVE}", "PUBREC"]
    pair.log.clear()
    pair.feed(ack(0x62, 5))
    assert pair.order() == [f"journal {FORGET}", "PUBCOMP"]
    assert pair.journal() == [(FORGET, 5)]


def test_while_the_disk_refuses_neither_pubrec_nor_pubcomp_leaves() -> None:
    pair = Pair(durable=True).connect()
    message = take(pair, publish("a", b"", 2, 5))
    pair.disk_is_broken = True
    assert pair.answer(message) == []
    pair.disk_is_broken = False
    pair.pump()
    assert pair.kinds() == ["PUBREC"]
    pair.disk_is_broken = True
    assert pair.feed(ack(0x62, 5)) == []
    pair.lose()
    pair.disk_is_broken = False
    pair.pump()
    assert pair.journal()[-1] == (FORGET, 5)
    assert "PUBCOMP" not in pair.kinds()
    pair.reconnect()
    assert pair.feed(ack(0x62, 5))[0].reason_code == 0x92


def test_an_answer_between_two_links_is_on_disk_before_the_pubrec_of_the_second() -> None:
    pair = Pair(durable=True).connect()
    message = take(pair, publish("a", b"", 2, 5))
    pair.lose()
    pair.answer(message)
    assert (RECEIVE, 5) in pair.journal()
    pair.reconnect()
    assert told(pair.feed(publish("a", b"", 2, 5, dup=True))) == [("PUBREC", 5)]
    assert pair.journal().count((RECEIVE, 5)) == 1


@pytest.mark.spec("MQTT-4.3.3-10")
def test_what_a_former_process_received_is_not_delivered_again() -> None:
    pair = Pair(durable=True)
    pair.session.recover(StoredState("me", "1 ours", 1, [], [7, 8], 0, 0), lambda _: pytest.fail("no rows"))
    pair.start()
    pair.open()
    pair.accept(session_present=True)
    assert told(pair.feed(publish("a", b"", 2, 7, dup=True), ack(0x62, 7), ack(0x62, 8))) == [("PUBREC", 7), ("PUBCOMP", 7), ("PUBCOMP", 8)]
    assert pair.messages() == []
    assert [entry for entry in pair.journal() if entry[0] == FORGET] == [(FORGET, 7), (FORGET, 8)]


@pytest.mark.spec("MQTT-4.3.3-13")
def test_an_exchange_is_finished_however_long_it_takes() -> None:
    pair = Pair().connect(keep_alive=0)
    message = take(pair, publish("a", b"", 2, 1, MessageExpiryInterval=1))
    pair.now = 100.0
    assert told([*pair.answer(message), *pair.feed(ack(0x62, 1))]) == [("PUBREC", 1), ("PUBCOMP", 1)]


# ---- messages without a callback ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-4.5.0-2", "MQTT-3.3.2-3")
def test_a_message_that_nobody_wants_is_held_and_then_acknowledged_counted_and_reported() -> None:
    pair = Pair(unmatched_s=5.0).connect()
    for i in (1, 2):
        pair.session.hold(take(pair, publish("nobody", b"", i, i)), float(i))
    pair.at(5.9)
    assert pair.kinds() == []
    pair.at(6.0)
    assert pair.kinds() == ["PUBACK"]
    pair.at(7.0)
    assert pair.kinds() == ["PUBACK", "PUBREC"]
    assert pair.session.inbound.unmatched_count == 2
    assert [("nobody" in report.text, report.level) for report in pair.reports()] == [(True, 30)] * 2
    assert pair.session.inbound.deadline() is None


def test_a_subscription_in_time_gets_what_was_held_for_it_and_nothing_else() -> None:
    pair = Pair().connect()
    pair.subscribe("early")
    held = [take(pair, publish(topic, b"", 1, i)) for i, topic in enumerate(("a/1", "b", "a/2", "a/3"), 1)]
    for message in held:
        pair.session.hold(message, pair.now)
    pair.session.answer(held[3])
    pair.log.clear()
    pair.subscribe("a/+")
    assert pair.messages() == [held[0], held[2]]
    assert [message for _, message in pair.session.inbound.unmatched] == [held[1]]
    pair.subscribe("c")
    assert len(pair.session.inbound.unmatched) == 1


def test_an_answered_message_is_neither_held_nor_given_up() -> None:
    pair = Pair().connect()
    message = take(pair, publish("a", b"", 1, 1))
    pair.answer(message)
    pair.session.hold(message, pair.now)
    assert not pair.session.inbound.unmatched
    message = take(pair, publish("a", b"", 1, 1))
    pair.session.hold(message, pair.now)
    pair.answer(message)
    pair.log.clear()
    pair.at(5.0)
    assert pair.log == []
    assert pair.session.inbound.unmatched_count == 0


def test_what_is_held_is_bounded() -> None:
    pair = Pair().connect(ReceiveMaximum=65_535)
    pair.feed(b"".join(publish("a", b"", 1, i) for i in range(1, UNMATCHED_MAX + 2)))
    for message in pair.messages():
        pair.session.hold(message, pair.now)
    pair.pump()
    assert pair.kinds() == ["PUBACK"]
    assert len(pair.session.inbound.unmatched) == UNMATCHED_MAX


def test_a_held_message_whose_link_was_lost_is_given_up_in_silence_on_the_wire() -> None:
    pair = Pair().connect()
    pair.session.hold(take(pair, publish("a", b"", 1, 1)), pair.now)
    pair.lose()
    pair.at(5.0)
    assert pair.kinds() == []
    pair.reconnect()
    assert told(pair.feed(publish("a", b"", 1, 1, dup=True))) == [("PUBACK", 1)]


# ---- a server, at random ------------------------------------------------------------------------------------------------------------------------------------


class Server:
    """A server's side of its own publications: QoS 1 and 2, re-sent on resume, within the client's Receive Maximum."""

    def __init__(self, source: random.Random, receive_maximum: int) -> None:
        self.source = source
        self.receive_maximum = receive_maximum
        self.open: dict[int, tuple[int, bytes, bool]] = {}  # identifier: QoS, payload, whether PUBREL is next
        self.sent_here: set[int] = set()
        self.order: list[tuple[str, int]] = []  # the answers that are due on this link, in order of arrival
        self.count = 0

    def resume(self) -> list[bytes]:
        self.order.clear()
        self.sent_here = set(self.open)
        return [self._packet(packet_id, dup=True) for packet_id in self.open]

    def _packet(self, packet_id: int, *, dup: bool) -> bytes:
        qos, payload, released = self.open[packet_id]
        if released:
            return ack(0x62, packet_id)
        self.order.append(("PUBACK" if qos == 1 else "PUBREC", packet_id))
        return publish("t", payload, qos, packet_id, dup=dup)

    def send(self) -> list[bytes]:
        if len(self.open) >= self.receive_maximum:
            return []
        packet_id = next(i for i in range(1, 65_536) if i not in self.open)
        self.count += 1
        self.open[packet_id] = (self.source.choice([1, 2]), b"%d" % self.count, False)
        return [self._packet(packet_id, dup=False)]

    def receive(self, packets: list[WirePacket]) -> list[bytes]:
        answers = []
        for packet in packets:
            packet_id = packet.packet_id
            qos, payload, _ = self.open[packet_id]
            if packet.kind != "PUBCOMP":
                # Each kind in its own order, and only what this link brought.
                assert next(due for due in self.order if due[0] == packet.kind) == (packet.kind, packet_id)
                self.order.remove((packet.kind, packet_id))
            if packet.kind == "PUBREC":
                self.open[packet_id] = (qos, payload, True)
                answers.append(ack(0x62, packet_id))
            else:
                del self.open[packet_id]
        return answers


@pytest.mark.spec("MQTT-4.3.3-10", "MQTT-4.6.0-2", "MQTT-4.6.0-3", "MQTT-4.4.0-1")
@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_over_links_that_break_anywhere_qos_2_comes_exactly_once_and_qos_1_at_least_once(seed: int, durable: bool) -> None:
    source = random.Random(seed)
    pair = Pair(durable=durable).connect(ReceiveMaximum=6)
    server = Server(source, 6)
    unanswered: list[Message] = []
    delivered: list[tuple[int, bytes]] = []
    to_client: list[bytes] = []
    to_server: list[WirePacket] = []
    steps = 0
    while server.count < 60 or server.open:
        steps += 1
        assert steps < 20_000
        pair.log.clear()
        chance = source.random()
        if chance < 0.02:
            to_client.clear()
            to_server.clear()
            pair.lose()
            pair.reconnect()
            to_client += server.resume()
            continue
        if chance < 0.35 and server.count < 60:
            to_client += server.send()
        elif chance < 0.6 and to_client:
            to_server += pair.feed(to_client.pop(0))
        elif chance < 0.8 and unanswered:
            to_server += pair.answer(unanswered.pop(source.randrange(len(unanswered))))
        elif to_server:
            to_client += server.receive([to_server.pop(0)])
        unanswered += pair.messages()
        delivered += [(message.qos, message.payload) for message in pair.messages()]
    for qos in (1, 2):
        payloads = [payload for level, payload in delivered if level == qos]
        assert len(set(payloads)) == len(payloads) or qos == 1
    assert {payload for _, payload in delivered} == {b"%d" % i for i in range(1, 61)}
    assert not any(pair.session.inbound.received)
    assert pair.session.link is not None
    assert pair.session.link.inbound_open == 0
