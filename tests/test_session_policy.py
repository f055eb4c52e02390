"""What can heal, how long to wait, and what a goodbye may say."""

from __future__ import annotations

import pytest

from ohmqtt.errors import (
    ArgumentError,
    AuthenticationError,
    ConnectError,
    ConnectRefusedError,
    ForeignSessionError,
    KeepAliveError,
    LinkLostError,
    MQTTError,
    NotSupportedError,
    ProtocolError,
    ServerLimitError,
)
from ohmqtt.mqtt_spec import CLIENT_REASON_CODES, SERVER_REASON_CODES, PacketType
from ohmqtt.packet import MQTTConnAckPacket, MQTTDisconnectPacket, MQTTPubAckPacket
from ohmqtt.property import MQTTConnAckProps, MQTTDisconnectProps
from ohmqtt.session.policy import (
    FATAL_CONNACK,
    FATAL_DISCONNECT,
    POISON_DISCONNECT,
    REQUEST_DISCONNECT,
    Backoff,
    check_disconnect,
    check_packet_size,
    describe,
    fit_disconnect,
    is_by_server,
    is_fatal,
)
from ohmqtt.session.settings import SessionSettings


@pytest.mark.spec("MQTT-3.2.2-15")
def test_a_server_must_take_every_acknowledgement() -> None:
    check_packet_size(len(MQTTPubAckPacket(1, 0x80).encode()))
    with pytest.raises(ServerLimitError, match="is 4 bytes, and an acknowledgement takes up to 5"):
        check_packet_size(4)


def test_the_tables_name_only_what_a_server_can_say() -> None:
    assert SERVER_REASON_CODES[PacketType.CONNACK] >= FATAL_CONNACK
    assert SERVER_REASON_CODES[PacketType.DISCONNECT] >= FATAL_DISCONNECT | POISON_DISCONNECT | REQUEST_DISCONNECT
    assert not POISON_DISCONNECT & REQUEST_DISCONNECT


@pytest.mark.parametrize(
    ("error", "fatal"),
    [
        (ConnectRefusedError("", MQTTConnAckPacket(0x87)), True),
        (ConnectRefusedError("", MQTTConnAckPacket(0x88)), False),
        (ConnectRefusedError("", MQTTDisconnectPacket(0x8E)), True),
        (LinkLostError("", MQTTDisconnectPacket(0x8E)), True),
        (LinkLostError("", MQTTDisconnectPacket(0x8B)), False),
        (LinkLostError(""), False),
        (KeepAliveError(""), False),
        (ConnectError(""), False),
        (ProtocolError(""), False),
        (ForeignSessionError(""), True),
        (AuthenticationError(""), True),
        (ArgumentError(""), True),
        (NotSupportedError(""), True),
    ],
)
def test_what_a_new_attempt_cannot_heal_is_fatal(error: MQTTError, fatal: bool) -> None:
    assert is_fatal(error) is fatal


def test_the_backoff_is_drawn_evenly_below_a_doubling_bound() -> None:
    backoff = Backoff(SessionSettings(reconnect_initial_s=2.0, reconnect_max_s=10.0, stable_s=5.0))
    assert [backoff.wait_s(random) for random in (0.0, 0.25, 0.5, 0.999)] == [0.0, 1.0, 4.0, 9.99]
    backoff.ended(4.9)
    assert backoff.wait_s(0.5) == 5.0
    backoff.ended(5.0)
    assert backoff.wait_s(0.5) == 1.0


def test_what_the_server_said_is_told_in_words() -> None:
    assert describe(MQTTDisconnectPacket(0x8B)) == "0x8B Server shutting down"
    words = describe(MQTTConnAckPacket(0x9C, False, MQTTConnAckProps(ReasonString="go", ServerReference="b:1")))
    assert words.startswith("0x9C")
    assert words.endswith(": go (Server Reference 'b:1')")


@pytest.mark.spec("MQTT-3.14.2-1")
def test_a_client_says_only_what_a_client_may() -> None:
    for code in CLIENT_REASON_CODES[PacketType.DISCONNECT]:
        assert check_disconnect(code, MQTTDisconnectProps.EMPTY, 0).reason_code == code
    for code in SERVER_REASON_CODES[PacketType.DISCONNECT] - CLIENT_REASON_CODES[PacketType.DISCONNECT]:
        with pytest.raises(ArgumentError, match="table 3-10"):
            check_disconnect(code, MQTTDisconnectProps.EMPTY, 0)
    with pytest.raises(ArgumentError, match="ServerReference"):
        check_disconnect(0, MQTTDisconnectProps(ServerReference="x"), None)


@pytest.mark.spec("MQTT-3.14.2.2.2")
def test_an_expiry_of_0_stays_0() -> None:
    wish = MQTTDisconnectProps(SessionExpiryInterval=5)
    with pytest.raises(ArgumentError, match="SessionExpiryInterval is 5"):
        check_disconnect(0, wish, 0)
    assert check_disconnect(0, wish, 1).properties is wish
    assert check_disconnect(0, wish, None).properties is wish
    check_disconnect(0, MQTTDisconnectProps(SessionExpiryInterval=0), 0)


@pytest.mark.spec("MQTT-3.14.2-3", "MQTT-3.14.2-4")
def test_what_does_not_fit_is_left_out_the_dispensable_first() -> None:
    packet = MQTTDisconnectPacket(0x04, MQTTDisconnectProps(SessionExpiryInterval=7, ReasonString="reason", UserProperty=[("a", "b")]))
    sizes = []
    for limit in range(40, -1, -1):
        data, with_expiry = fit_disconnect(packet, limit)
        assert len(data) <= limit
        assert with_expiry == (len(data) >= 9)
        if len(data) not in sizes:
            sizes.append(len(data))
    assert sizes == [25, 18, 9, 3, 0]


def lost(cause: BaseException | None) -> LinkLostError:
    error = LinkLostError("lost")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "by_server"),
    [
        (LinkLostError("", MQTTDisconnectPacket(0x95)), True),
        (LinkLostError("", MQTTDisconnectPacket(0x8B)), False),
        (lost(None), True),
        (lost(ConnectionResetError()), True),
        (lost(OSError("no route")), False),
    ],
)
def test_a_server_that_closes_with_a_reason_or_without_a_word_may_have_choked(error: MQTTError, by_server: bool) -> None:
    assert is_by_server(error) is by_server
