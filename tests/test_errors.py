"""The exceptions: one tree, drawn in the module's docstring, and each of the built-in kind that a caller would catch."""

from __future__ import annotations

import builtins
import inspect
import pickle
import re

import pytest

from ohmqtt import errors
from ohmqtt.packet import MQTTConnAckPacket, MQTTDisconnectPacket, MQTTPubAckPacket, MQTTSubAckPacket, MQTTUnsubAckPacket

CLASSES = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)]


def test_all_names_the_whole_tree() -> None:
    assert sorted(errors.__all__) == sorted(kind.__name__ for kind in CLASSES)


def test_the_drawing_is_the_tree() -> None:
    drawn: dict[str, str | None] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ([ │├└─]*)(\w+Error)\b(?: \((\w+)\))?", line)
        if found is None:
            continue
        depth = len(found[1]) // 4
        path[depth:] = [found[2]]
        drawn[found[2]] = path[depth - 1] if depth else None
        if found[3]:
            assert issubclass(getattr(errors, found[2]), getattr(builtins, found[3])), line
    assert drawn == {kind.__name__: None if kind is errors.MQTTError else kind.__bases__[0].__name__ for kind in CLASSES}


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: str(kind.__name__))
def test_everything_that_we_raise_can_be_caught_at_once(kind: type[Exception]) -> None:
    assert issubclass(kind, errors.MQTTError)
    assert kind.__doc__


def test_the_peers_errors_carry_the_reason_code_of_our_disconnect() -> None:
    assert errors.ProtocolError("what").reason_code == 0x82
    assert errors.MalformedPacketError("what").reason_code == 0x81
    assert errors.ProtocolError("what", 0x95).reason_code == 0x95


def test_errors_carry_the_packet_that_tells_why() -> None:
    connack = MQTTConnAckPacket(0x87)
    assert errors.ConnectRefusedError("no", connack).packet is connack
    goodbye = MQTTDisconnectPacket(0x8E)
    assert errors.LinkLostError("gone", goodbye).packet is goodbye
    assert errors.LinkLostError("gone").packet is None
    puback = MQTTPubAckPacket(1, 0x87)
    assert errors.PublishError("no", puback).ack is puback
    suback = MQTTSubAckPacket(1, (0x87,))
    assert errors.SubscribeError("no", suback).suback is suback
    unsuback = MQTTUnsubAckPacket(1, (0x87,))
    assert errors.UnsubscribeError("no", unsuback).unsuback is unsuback
    assert errors.ClientClosedError("closed", True).stored
    assert not errors.ClientClosedError("closed").stored


def test_a_timeout_is_a_timeout_and_a_failed_connect_an_os_error() -> None:
    assert issubclass(errors.WaitTimeoutError, TimeoutError)
    assert issubclass(errors.ConnectError, OSError)
    assert issubclass(errors.LinkLostError, ConnectionError)
    assert issubclass(errors.ArgumentError, ValueError)


def test_an_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(errors.ProtocolError("what", 0x95)))
    assert str(error) == "what"
