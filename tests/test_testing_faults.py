"""`Faults`: a broker that does, at the named packet and no other, what it was told to do wrong."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from ohmqtt import Client, MQTTConnectProps, PublishError, SessionSettings
from ohmqtt.errors import ArgumentError, WaitTimeoutError
from ohmqtt.packet import (
    MQTTAuthPacket,
    MQTTConnAckPacket,
    MQTTConnectPacket,
    MQTTDisconnectPacket,
    MQTTPacket,
    MQTTPingReqPacket,
    MQTTPingRespPacket,
    MQTTPubAckPacket,
    MQTTPubCompPacket,
    MQTTPublishPacket,
    MQTTPubRecPacket,
    MQTTPubRelPacket,
    MQTTSubAckPacket,
    MQTTSubscribePacket,
    MQTTSubscription,
    MQTTUnsubAckPacket,
    MQTTUnsubscribePacket,
)
from ohmqtt.testing import Broker, BrokerSettings, Ending, FakeClock, Faults
from tests.raw_client import RawClient

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S = 60.0
KEPT = MQTTConnectProps(SessionExpiryInterval=100)
FAST = SessionSettings(reconnect_initial_s=0.01, reconnect_max_s=0.01)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def broker(clock: FakeClock) -> Iterator[Broker]:
    # Acknowledgements say Success although nobody has subscribed.
    with Broker(BrokerSettings(report_no_subscribers=False), clock=clock) as broker:
        yield broker


@pytest.fixture
def faults(broker: Broker) -> Faults:
    return broker.faults


@pytest.fixture
def client(broker: Broker) -> Iterator[RawClient]:
    with RawClient(broker.address, "me", properties=KEPT) as client:
        yield client


def publish(packet_id: int, qos: int = 1) -> MQTTPublishPacket:
    return MQTTPublishPacket("t", b"%d" % packet_id, qos, packet_id=packet_id)


def payloads(broker: Broker) -> list[bytes]:
    return [message.payload for message in broker.received]


# ---- lost links --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_one_piece", [True, False])
def test_drop_after_a_packet(broker: Broker, faults: Faults, client: RawClient, in_one_piece: bool) -> None:
    fault = faults.drop_after("PUBLISH", count=2)
    # The first is answered, the second is taken and its answer is lost, the third is lost on its way.
    if in_one_piece:
        client.send(publish(1), publish(2), publish(3))
        assert client.expect(MQTTPubAckPacket).packet_id == 1
    else:
        client.send(publish(1))
        assert client.expect(MQTTPubAckPacket).packet_id == 1
        client.send(publish(2))
    client.expect_end()
    assert payloads(broker) == [b"1", b"2"]
    assert fault.fired == 1
    with RawClient(broker.address, "me") as again:
        assert again.connack.session_present
        again.send(publish(4))
        again.expect(MQTTPubAckPacket)


def test_drop_before_a_packet(broker: Broker, faults: Faults, client: RawClient) -> None:
    faults.drop_before("PUBLISH", count=2)
    client.send(publish(1), publish(2))
    assert client.expect(MQTTPubAckPacket).packet_id == 1
    client.expect_end()
    assert payloads(broker) == [b"1"]


def test_drop_after_a_packet_that_is_sent(broker: Broker, faults: Faults, client: RawClient) -> None:
    faults.drop_after("PUBACK", 2, sent=True)
    client.send(publish(1), publish(2), publish(3))
    assert [client.expect(MQTTPubAckPacket).packet_id for _ in range(2)] == [1, 2]
    client.expect_end()
    assert payloads(broker) == [b"1", b"2"]


def test_drop_before_a_packet_that_is_sent(broker: Broker, faults: Faults, client: RawClient) -> None:
    faults.drop_before("PUBACK", sent=True)
    client.send(publish(1))
    client.expect_end()
    assert payloads(broker) == [b"1"]


def test_drop_the_answer_to_connect(broker: Broker, faults: Faults) -> None:
    faults.drop_before("CONNACK")  # only a broker sends it, so that needs no saying
    with RawClient(broker.address) as client:
        client.send(MQTTConnectPacket("me"))
        client.expect_end()


def test_drop_several_times(broker: Broker, faults: Faults) -> None:
    fault = faults.drop_before("CONNECT", times=3)
    for _ in range(3):
        with RawClient(broker.address) as client:
            client.send(MQTTConnectPacket("me"))
            client.expect_end()
    fault.wait()
    with RawClient(broker.address, "me") as client:
        client.expect_nothing()
    assert fault.fired == 3


def test_drop_now(broker: Broker, faults: Faults, client: RawClient) -> None:
    with RawClient(broker.address, "other") as other:
        faults.drop("other")
        other.expect_end()
        client.expect_nothing()
        faults.drop()
        client.expect_end()


def test_faults_of_one_client(broker: Broker, faults: Faults, client: RawClient) -> None:
    faults.answer("CONNECT", 0x89, client_id="third")
    faults.drop_before("PUBLISH", client_id="other")
    client.send(publish(1))
    client.expect(MQTTPubAckPacket)
    with RawClient(broker.address, "other") as other, RawClient(broker.address) as third:
        other.send(publish(1))
        other.expect_end()
        third.send(MQTTConnectPacket("third"))
        assert third.expect(MQTTConnAckPacket).reason_code == 0x89


def test_any_packet(broker: Broker, faults: Faults, client: RawClient) -> None:
    faults.drop_before("*", count=3)
    client.send(publish(1), MQTTPingReqPacket(), publish(2))
    client.expect(MQTTPubAckPacket)
    client.expect(MQTTPingRespPacket)
    client.expect_end()


# ---- wrong answers -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "code", "answer"),
    [
        (publish(5), 0x97, MQTTPubAckPacket(5, 0x97)),
        (publish(5, 2), 0x97, MQTTPubRecPacket(5, 0x97)),
        (MQTTPubRecPacket(5), 0x92, MQTTPubRelPacket(5, 0x92)),
        (MQTTPubRelPacket(5), 0x92, MQTTPubCompPacket(5, 0x92)),
        (
            MQTTSubscribePacket(5, (MQTTSubscription("a"), MQTTSubscription("b"))),
            0x87,
            MQTTSubAckPacket(5, (0x87, 0x87)),
        ),
        (MQTTUnsubscribePacket(5, ("a", "b")), 0x83, MQTTUnsubAckPacket(5, (0x83, 0x83))),
    ],
    ids=["PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBACK", "UNSUBACK"],
)
def test_answer_with_a_reason_code(
    broker: Broker, faults: Faults, client: RawClient, packet: MQTTPacket, code: int, answer: MQTTPacket
) -> None:
    kind = type(packet).__name__[4:-6].upper()
    fault = faults.answer(kind, code)
    client.send(packet)
    assert client.receive() == answer
    assert fault.fired == 1
    client.expect_nothing()
    assert broker.received == []
    assert broker.core.sessions["me"].subscriptions == {}


def test_refuse_a_connect(broker: Broker, faults: Faults) -> None:
    faults.answer("CONNECT", 0x88)
    with RawClient(broker.address) as client:
        client.send(MQTTConnectPacket("me"))
        assert client.expect(MQTTConnAckPacket).reason_code == 0x88
        client.expect_end()
    assert not broker.core.sessions


def test_what_has_no_answer_does_not_count(faults: Faults, client: RawClient) -> None:
    fault = faults.answer("PUBLISH", 0x80)
    client.send(MQTTPublishPacket("t"))
    client.expect_nothing()
    assert fault.fired == 0
    client.send(publish(1))
    assert client.expect(MQTTPubAckPacket).reason_code == 0x80


def test_answer_with_a_packet(faults: Faults, client: RawClient) -> None:
    answer = MQTTPubRecPacket(0, 0x97)
    faults.answer("PUBLISH", answer, 2, times=2)
    client.send(publish(1, 2), publish(2, 2), publish(3, 2))
    assert client.expect(MQTTPubRecPacket) == MQTTPubRecPacket(1)
    assert client.expect(MQTTPubRecPacket) == MQTTPubRecPacket(2, 0x97)
    assert client.expect(MQTTPubRecPacket) == MQTTPubRecPacket(3, 0x97)
    assert answer.packet_id == 0
    faults.answer("PUBREL", MQTTPubCompPacket(77))
    client.send(MQTTPubRelPacket(1))
    assert client.expect(MQTTPubCompPacket).packet_id == 77
    faults.answer("PINGREQ", MQTTPublishPacket("no answer at all"))
    client.send(MQTTPingReqPacket())
    assert client.expect(MQTTPublishPacket).packet_id == 0


def test_answer_with_a_goodbye(faults: Faults, client: RawClient) -> None:
    faults.answer("PUBLISH", MQTTDisconnectPacket(0x96))
    client.send(publish(1))
    assert client.expect(MQTTDisconnectPacket).reason_code == 0x96
    client.expect_end()


def test_answer_with_bytes(faults: Faults, client: RawClient) -> None:
    faults.answer("PINGREQ", b"\xd0\x00\xd0\x00")
    client.send(MQTTPingReqPacket())
    client.expect(MQTTPingRespPacket)
    client.expect(MQTTPingRespPacket)


def test_ignore_packets(broker: Broker, faults: Faults, client: RawClient) -> None:
    faults.ignore("PUBLISH")
    faults.ignore("PUBACK", 2, sent=True)
    client.send(publish(1), publish(2), publish(3), publish(4))
    assert [client.expect(MQTTPubAckPacket).packet_id for _ in range(2)] == [2, 4]
    assert payloads(broker) == [b"2", b"3", b"4"]


def test_hold_back_acknowledgements(broker: Broker, faults: Faults, client: RawClient) -> None:
    faults.hold_back()
    client.send(publish(1), publish(2, 2))
    client.expect_nothing()
    assert payloads(broker) == [b"1", b"2"]
    assert faults.release() == 2
    assert client.expect(MQTTPubAckPacket).packet_id == 1
    assert client.expect(MQTTPubRecPacket).packet_id == 2
    client.send(publish(3))
    client.expect(MQTTPubAckPacket)
    assert faults.release() == 0


def test_hold_back_one_kind_of_what_is_received(broker: Broker, faults: Faults, client: RawClient) -> None:
    faults.hold_back("PUBLISH", sent=False)
    client.send(publish(1))
    client.expect_nothing()
    assert broker.received == []
    assert faults.release() == 1
    client.expect(MQTTPubAckPacket)
    assert payloads(broker) == [b"1"]


def test_what_was_held_back_goes_down_with_its_link(broker: Broker, faults: Faults, client: RawClient) -> None:
    faults.hold_back()
    client.send(publish(1))
    client.expect_nothing()
    faults.drop()
    client.expect_end()
    with RawClient(broker.address, "me") as again:
        assert faults.release() == 1
        again.expect_nothing()


# ---- odd bytes and silence ---------------------------------------------------------------------------------------------------------------


def test_send_bytes_now(broker: Broker, faults: Faults, client: RawClient) -> None:
    with RawClient(broker.address, "other") as other:
        faults.send(b"\xd0\x00")
        client.expect(MQTTPingRespPacket)
        other.expect(MQTTPingRespPacket)
        faults.send(MQTTPublishPacket("t"), client_id="other")
        other.expect(MQTTPublishPacket)
        client.expect_nothing()


def test_send_bytes_after_a_packet(faults: Faults, client: RawClient) -> None:
    fault = faults.send(b"\xd0\x00", after="PUBLISH", count=2)
    client.send(publish(1), publish(2))
    client.expect(MQTTPubAckPacket)
    client.expect(MQTTPubAckPacket)
    client.expect(MQTTPingRespPacket)
    assert fault is not None
    assert fault.fired == 1


def test_silence_by_the_clock(broker: Broker, faults: Faults, client: RawClient, clock: FakeClock) -> None:
    faults.silence(3.0)
    client.send(publish(1))
    clock.advance(2.5)
    assert broker.received == []
    clock.advance(0.5)
    assert payloads(broker) == [b"1"]
    client.expect(MQTTPubAckPacket)


def test_silence_halts_timers_too(broker: Broker, faults: Faults, clock: FakeClock) -> None:
    with RawClient(broker.address, "me", keep_alive=10) as client:
        faults.silence(20.0)
        client.send(MQTTPingReqPacket())
        clock.advance(19)
        # What came in the meantime is read before the keep alive is looked at.
        clock.advance(1)
        client.expect(MQTTPingRespPacket)
        client.expect_nothing()


def test_silence_after_a_packet_until_it_speaks(broker: Broker, faults: Faults, client: RawClient) -> None:
    fault = faults.silence(after="PUBLISH", count=2)
    assert fault is not None
    client.send(publish(1))
    client.expect(MQTTPubAckPacket)
    client.send(publish(2))
    fault.wait()
    assert payloads(broker) == [b"1", b"2"]
    faults.speak()
    assert client.expect(MQTTPubAckPacket).packet_id == 2
    # Silent again, as soon as it listens.
    faults.silence()
    second = faults.silence(after="PUBLISH")
    assert second is not None
    client.send(publish(3))
    faults.speak()
    second.wait()
    faults.speak()
    assert client.expect(MQTTPubAckPacket).packet_id == 3


def test_a_silent_broker_can_be_stopped(broker: Broker, faults: Faults, client: RawClient) -> None:
    faults.silence()
    broker.stop()
    client.expect_end()
    broker.start()
    with RawClient(broker.address, "me") as again:
        again.expect_nothing()


# ---- all of it ---------------------------------------------------------------------------------------------------------------------------


def test_a_script_of_ones_own(broker: Broker, faults: Faults, client: RawClient) -> None:
    faults.script("PUBLISH", lambda connection, packet: None if packet == publish(1) else (b"\xd0\x00", Ending.CLOSE))
    client.send(publish(1), publish(2))
    client.expect(MQTTPubAckPacket)
    client.expect(MQTTPingRespPacket)
    client.expect_end()
    assert payloads(broker) == [b"1"]


def test_the_first_of_several_has_it_and_the_others_come_later(faults: Faults, client: RawClient) -> None:
    first, second = faults.answer("PUBLISH", 0x80), faults.answer("PUBLISH", 0x83)
    client.send(publish(1), publish(2), publish(3))
    assert [client.expect(MQTTPubAckPacket).reason_code for _ in range(3)] == [0x80, 0x83, 0]
    assert (first.fired, second.fired) == (1, 1)


def test_take_a_fault_back(faults: Faults, client: RawClient) -> None:
    fault = faults.answer("PUBLISH", 0x80, times=None)
    client.send(publish(1))
    assert client.expect(MQTTPubAckPacket).reason_code == 0x80
    fault.wait()
    fault.cancel()
    client.send(publish(2))
    assert client.expect(MQTTPubAckPacket).reason_code == 0
    assert repr(faults.answer("PUBLISH", 0x80)) == "<Fault answer('PUBLISH', 1), fired 0 times>"
    assert repr(fault) == "<Fault answer('PUBLISH', 1), fired 1 times>"


def test_take_everything_back(faults: Faults, client: RawClient) -> None:
    faults.hold_back("PUBACK")
    client.send(publish(1))
    client.expect_nothing()
    faults.drop_before("PUBLISH")
    faults.silence()
    faults.clear()
    client.expect(MQTTPubAckPacket)
    client.send(publish(2))
    client.expect(MQTTPubAckPacket)


def test_wait_for_a_fault(faults: Faults, client: RawClient) -> None:
    fault = faults.ignore("PUBLISH", times=2)
    with pytest.raises(WaitTimeoutError, match=r"ignore\('PUBLISH', 1\) to happen"):
        fault.wait(0.01)
    sender = threading.Thread(target=client.send, args=(publish(1), publish(2)))
    sender.start()
    fault.wait()
    sender.join(PATIENCE_S)
    assert fault.fired == 2


def test_bad_arguments(faults: Faults) -> None:
    with pytest.raises(ArgumentError, match="kind: a packet type such as 'PUBLISH'"):
        faults.ignore("publish")
    with pytest.raises(ArgumentError, match="kind: a packet type"):
        faults.answer("PUB", b"")
    with pytest.raises(ArgumentError, match="CONNECT, PUBLISH, PUBREC"):
        faults.answer("PINGREQ", 0x80)
    with pytest.raises(ArgumentError, match="reason"):
        faults.answer("PUBLISH", 0x88)
    with pytest.raises(ArgumentError, match="reason"):
        faults.answer("PUBLISH", MQTTPubAckPacket(0, 0x88))
    with pytest.raises(ArgumentError, match="properties"):
        faults.answer("AUTH", MQTTAuthPacket(0x18))
    with pytest.raises(ArgumentError, match="at least 1"):
        faults.drop_after("PUBLISH", 0)
    with pytest.raises(ArgumentError, match="at least 1"):
        faults.drop_after("PUBLISH", times=0)
    with pytest.raises(ArgumentError, match="doesn't send CONNECT"):
        faults.drop_after("CONNECT", sent=True)
    with pytest.raises(ArgumentError, match="seconds"):
        faults.silence(-1.0)


def test_faults_can_be_set_up_before_the_broker_runs() -> None:
    broker = Broker()
    broker.faults.answer("CONNECT", 0x88)
    with broker, RawClient(broker.address) as client:
        client.send(MQTTConnectPacket("me"))
        assert client.expect(MQTTConnAckPacket).reason_code == 0x88


# ---- and what they are for ---------------------------------------------------------------------------------------------------------------


def test_a_message_survives_a_lost_answer(broker: Broker, faults: Faults) -> None:
    with Client(settings=FAST) as client:
        client.connect(broker.address)
        faults.drop_after("PUBLISH")
        faults.drop_before("PUBCOMP", sent=True)
        client.publish("t", b"once", qos=2).wait_for_ack(PATIENCE_S)
    assert payloads(broker) == [b"once"]
    assert len(broker.wait_for_packets("CONNECT")) == 3


def test_a_refused_message_says_why(broker: Broker, faults: Faults) -> None:
    with Client() as client:
        client.connect(broker.address)
        faults.answer("PUBLISH", 0x97)
        with pytest.raises(PublishError) as caught:
            client.publish("t", qos=2).wait_for_ack(PATIENCE_S)
        assert caught.value.ack.reason_code == 0x97
