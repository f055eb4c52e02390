"""Enhanced authentication (section 4.12): methods, order, the pause until the server has proved itself, re-authentication, failures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from ohmqtt.errors import AuthenticationError, PacketTooLargeError, ProtocolError, StateError
from ohmqtt.packet import MQTTAuthPacket, MQTTDisconnectPacket
from ohmqtt.property import MQTTAuthProps
from ohmqtt.records import Connected, Message, Reauthenticated
from ohmqtt.session import STOPPED, WAITING
from tests.core_pair import Pair, ack, auth, connack, publish

if TYPE_CHECKING:
    from ohmqtt.records import AuthStep
    from tests.strict_parser import WirePacket


class Authenticating(Pair):
    """A pair whose client has an authenticator, played by the test."""

    def step(self) -> AuthStep:
        """Take the one step that the authenticator is wanted for, as a driver does."""
        (step,) = self.session.auth_steps
        self.session.auth_steps.clear()
        return step

    def answer_step(self, step: AuthStep, data: bytes | None = None, error: Exception | None = None) -> list[WirePacket]:
        before = len(self.log)
        self.session.authenticated(step, data, error, self.now)
        self.pump()
        return [entry for kind, entry in self.log[before:] if kind == "wire" and entry != "EOF"]

    def begin(self) -> Authenticating:
        self.start(AuthenticationMethod="M")
        self.open(b"first")
        return self

    def complete(self, **properties: Any) -> Authenticating:
        self.begin()
        self.feed(connack(AuthenticationMethod="M", **properties))
        self.answer_step(self.step())
        assert self.session.connected_link() is not None
        self.log.clear()
        return self


@pytest.mark.spec("MQTT-4.12.0-3", "MQTT-4.12.0-5", "MQTT-3.15.2-1", "MQTT-3.15.2-2", "MQTT-3.15.2-3")
def test_an_exchange_runs_to_the_connection() -> None:
    pair = Authenticating().begin()
    assert pair.sent()[0].properties["AuthenticationMethod"] == "M"
    pair.feed(auth(0x18, b"challenge"))
    step = pair.step()
    assert (step.finish, step.data) == (False, b"challenge")
    (answer,) = pair.answer_step(step, b"response")
    assert (answer.kind, answer.reason_code) == ("AUTH", 0x18)
    assert answer.properties == {"AuthenticationMethod": "M", "AuthenticationData": b"response"}
    pair.feed(auth(0x18, b"more"))
    pair.answer_step(pair.step(), None)
    pair.feed(connack(AuthenticationMethod="M", AuthenticationData=b"proof"))
    step = pair.step()
    assert (step.finish, step.data) == (True, b"proof")
    assert pair.session.connected_link() is None
    pair.answer_step(step)
    assert pair.session.connected_link() is not None
    assert len(pair.connected()) == 1


@pytest.mark.spec("MQTT-3.1.2-30")
def test_only_auth_and_disconnect_go_out_before_connack() -> None:
    pair = Authenticating(connack_timeout_s=100.0)
    pair.start(AuthenticationMethod="M", keep_alive=1)
    pair.open()
    pair.publish(qos=0)
    pair.publish(qos=1)
    pair.subscribe("a")
    pair.at(50.0)
    pair.feed(auth(0x18))
    pair.answer_step(pair.step())
    pair.feed(connack(AuthenticationMethod="M"))
    pair.at(60.0)
    assert pair.kinds() == ["CONNECT", "AUTH"]
    pair.answer_step(pair.step())
    assert pair.kinds() == ["CONNECT", "AUTH", "SUBSCRIBE", "PUBLISH", "PUBLISH"]


def test_what_comes_behind_the_connack_waits_until_the_server_has_proved_itself() -> None:
    pair = Authenticating().begin()
    pair.feed(connack(AuthenticationMethod="M") + publish("a", b"1", 1, 1)[:3])
    assert not pair.session.reading()
    pair.feed(publish("a", b"1", 1, 1)[3:], publish("b", b"2"), b"")
    assert pair.events() == []
    pair.answer_step(pair.step())
    assert pair.session.reading()
    kinds = [type(event) for event in pair.events()]
    assert kinds == [Connected, Message, Message]
    assert pair.session.link is not None
    assert not pair.session.link.remainder


def test_a_server_that_does_not_prove_itself_is_not_believed() -> None:
    pair = Authenticating().begin()
    pair.feed(connack(AuthenticationMethod="M") + publish("a"))
    (goodbye,) = pair.answer_step(pair.step(), error=AuthenticationError("wrong signature"))
    assert (goodbye.kind, goodbye.reason_code) == ("DISCONNECT", 0x83)
    assert pair.messages() == []
    assert pair.connected() == []
    assert pair.session.phase == STOPPED
    assert str(pair.session.failure) == "wrong signature"


def test_an_authenticator_that_fails_is_reported_with_its_cause() -> None:
    pair = Authenticating().begin()
    pair.feed(auth(0x18))
    pair.answer_step(pair.step(), error=ZeroDivisionError("oops"))
    failure = pair.session.failure
    assert isinstance(failure, AuthenticationError)
    assert "oops" in str(failure)
    assert isinstance(failure.__cause__, ZeroDivisionError)


def test_an_authenticator_that_takes_too_long_is_bounded() -> None:
    pair = Authenticating(connack_timeout_s=10.0).begin()
    pair.now = 5.0
    pair.feed(connack(AuthenticationMethod="M"))
    step = pair.step()
    assert pair.session.deadline() == 15.0
    pair.at(15.0)
    assert pair.session.phase == WAITING
    pair.answer_step(step)
    assert pair.session.connected_link() is None


def test_a_session_that_is_not_ours_is_refused_after_the_authentication_too() -> None:
    pair = Authenticating().begin()
    pair.feed(connack(session_present=True, AuthenticationMethod="M"))
    (goodbye,) = pair.answer_step(pair.step())
    assert goodbye.reason_code == 0x82
    assert pair.session.phase == STOPPED


# ---- what a server must not do ------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-4.12.0-5", "MQTT-4.12.0-6", "MQTT-3.1.2.11.10")
@pytest.mark.parametrize("ours", [None, "M"])
@pytest.mark.parametrize("theirs", [None, "M", "other"])
@pytest.mark.parametrize("packet", ["AUTH", "CONNACK"])
def test_every_packet_of_an_exchange_names_the_method_of_connect(packet: str, ours: str | None, theirs: str | None) -> None:
    pair = Pair()
    pair.start(AuthenticationMethod=ours)
    pair.open()
    answer = pair.feed(auth(0x18, method=theirs) if packet == "AUTH" else connack(AuthenticationMethod=theirs))
    if ours == theirs and (ours or packet == "CONNACK"):
        assert answer == []
        assert bool(pair.session.auth_steps) == (ours is not None)
    else:
        assert [(goodbye.kind, goodbye.reason_code) for goodbye in answer] == [("DISCONNECT", 0x82)]
        assert isinstance(pair.ending().error, ProtocolError)
        assert pair.session.auth_steps == []


@pytest.mark.spec("MQTT-4.12.0-4", "MQTT-4.12.0-1")
def test_a_refusal_in_the_middle_is_told() -> None:
    pair = Authenticating().begin()
    pair.feed(auth(0x18))
    step = pair.step()
    pair.feed(connack(0x87))
    assert pair.session.phase == STOPPED
    assert pair.answer_step(step) == []
    pair = Authenticating().begin()
    pair.feed(connack(0x8C))
    assert "0x8C" in str(pair.session.failure)
    pair = Authenticating().begin()
    pair.feed(auth(0x18))
    pair.lose()
    assert pair.session.auth_steps == []
    assert "no CONNACK" in str(pair.ending().error)


@pytest.mark.spec("MQTT-3.15.2-1", "MQTT-4.12.0-2")
@pytest.mark.parametrize("code", [0x00, 0x19, 0x01])
def test_before_connack_the_server_says_continue_and_nothing_else(code: int) -> None:
    pair = Authenticating().begin()
    (goodbye,) = pair.feed(b"\xf0\x06" + bytes((code,)) + b"\x04\x15\0\x01M")
    assert goodbye.kind == "DISCONNECT"
    assert goodbye.reason_code in (0x81, 0x82)


@pytest.mark.spec("MQTT-3.15.1-1", "MQTT-4.13.1")
def test_an_auth_with_a_reserved_bit_is_malformed() -> None:
    pair = Authenticating().begin()
    (goodbye,) = pair.feed(b"\xf1\x00")
    assert goodbye.reason_code == 0x81


def test_one_step_at_a_time() -> None:
    for second in (auth(0x18), connack(AuthenticationMethod="M")):
        pair = Authenticating().begin()
        (goodbye,) = pair.feed(auth(0x18) + second)
        assert goodbye.reason_code == 0x82
        assert "before our answer" in str(pair.ending().error)


def test_an_answer_that_comes_late_or_twice_is_ignored() -> None:
    pair = Authenticating().begin()
    pair.feed(auth(0x18))
    step = pair.step()
    pair.answer_step(step)
    assert pair.answer_step(step) == []
    pair.feed(auth(0x18))
    step = pair.step()
    pair.peer_takes_nothing = True
    pair.feed(b"\xf1\x00")
    assert pair.answer_step(step) == []
    pair.lose()
    pair.peer_takes_nothing = False
    pair.open()
    assert pair.answer_step(step) == []


def test_without_problem_information_auth_carries_none() -> None:
    pair = Authenticating()
    pair.start(AuthenticationMethod="M", RequestProblemInformation=0)
    pair.open()
    (goodbye,) = pair.feed(MQTTAuthPacket(0x18, MQTTAuthProps(AuthenticationMethod="M", ReasonString="x")).encode())
    assert goodbye.reason_code == 0x82


# ---- re-authentication ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-4.12.1-1", "MQTT-4.12.0-3", "MQTT-4.12.0-5", "MQTT-3.15.2-1", "MQTT-3.15.2-2", "MQTT-3.15.2-3", "MQTT-4.12.1")
def test_other_packets_flow_while_authenticating_again() -> None:
    pair = Authenticating().complete()
    pair.session.reauthenticate(b"again", pair.now)
    message = pair.publish(qos=1)
    pair.feed(publish("a"), auth(0x18, b"challenge"))
    step = pair.step()
    pair.feed(ack(0x40, message.packet_id) + publish("b", b"", 1, 1))
    assert message.outcome is not None
    pair.answer_step(step, b"response")
    pair.answer(pair.messages()[1])
    pair.feed(auth(0x00, b"proof"))
    step = pair.step()
    assert (step.finish, step.data) == (True, b"proof")
    assert [(packet.kind, packet.fields.get("reason_code")) for packet in pair.sent()] == [
        ("AUTH", 0x19),
        ("PUBLISH", None),
        ("AUTH", 0x18),
        ("PUBACK", 0),
    ]
    assert pair.sent()[0].properties == {"AuthenticationMethod": "M", "AuthenticationData": b"again"}
    with pytest.raises(StateError, match="under way"):
        pair.session.reauthenticate(None, pair.now)
    pair.answer_step(step)
    assert isinstance(pair.events()[-1], Reauthenticated)
    pair.session.reauthenticate(None, pair.now)


@pytest.mark.spec("MQTT-4.12.0-7")
def test_authenticating_again_needs_a_connection_and_a_method() -> None:
    pair = Pair()
    with pytest.raises(StateError, match="needs a connection"):
        pair.session.reauthenticate(None, 0.0)
    pair.start()
    pair.open()
    with pytest.raises(StateError, match="needs a connection"):
        pair.session.reauthenticate(None, 0.0)
    pair.accept()
    with pytest.raises(StateError, match="must not send AUTH"):
        pair.session.reauthenticate(None, 0.0)
    pair.pump()
    assert pair.kinds() == ["CONNECT"]


@pytest.mark.spec("MQTT-4.12.1-2")
def test_a_failed_reauthentication_closes() -> None:
    pair = Authenticating().complete()
    pair.session.reauthenticate(None, pair.now)
    pair.feed(auth(0x18))
    pair.answer_step(pair.step(), error=AuthenticationError("no"))
    assert pair.kinds() == ["AUTH", "DISCONNECT", "EOF"]
    assert pair.sent()[-1].reason_code == 0x83
    pair = Authenticating().complete()
    pair.session.reauthenticate(None, pair.now)
    pair.feed(MQTTDisconnectPacket(0x87).encode())
    assert pair.session.phase == STOPPED
    assert "0x87" in str(pair.session.failure)


def test_auth_that_nobody_asked_for_is_a_protocol_error() -> None:
    pair = Authenticating().complete()
    (goodbye,) = pair.feed(auth(0x18))
    assert goodbye.reason_code == 0x82
    assert "under way" in str(pair.ending().error)


def test_reading_goes_on_while_an_authentication_is_under_way() -> None:
    pair = Authenticating(inbound_messages_max=1).complete()
    pair.feed(publish("a"))
    assert not pair.session.reading()
    pair.session.reauthenticate(None, pair.now)
    assert pair.session.reading()


@pytest.mark.spec("MQTT-3.2.2-15")
@pytest.mark.parametrize("first", [True, False], ids=["the first", "an answer"])
def test_an_auth_that_the_server_cannot_take_closes(first: bool) -> None:
    for size, kinds in ((29, ["AUTH"]), (30, ["DISCONNECT", "EOF"])):
        pair = Authenticating().complete(MaximumPacketSize=40)
        if first:
            pair.session.reauthenticate(bytes(size), pair.now)
            pair.pump()
        else:
            pair.session.reauthenticate(None, pair.now)
            pair.feed(auth(0x18))
            pair.log.clear()
            pair.answer_step(pair.step(), bytes(size))
        assert pair.kinds() == kinds
        if kinds == ["AUTH"]:
            assert len(pair.sent()[0].raw) == 40
        else:
            assert isinstance(pair.ending().error, PacketTooLargeError)


@pytest.mark.spec("MQTT-3.15.2-1", "MQTT-4.13.1")
@pytest.mark.parametrize("code", [0x19, 0x01, 0x80])
def test_while_authenticating_again_the_server_says_continue_or_success_and_nothing_else(code: int) -> None:
    pair = Authenticating().complete()
    pair.session.reauthenticate(None, pair.now)
    (goodbye,) = pair.feed(b"\xf0\x06" + bytes((code,)) + b"\x04\x15\0\x01M")
    assert goodbye.reason_code == 0x82
    assert pair.kinds()[-1] == "EOF"
    assert pair.session.auth_steps == []
