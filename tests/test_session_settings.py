"""The caller's choices: each default can be given back, and each bad value is refused by name."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from ohmqtt.errors import ArgumentError
from ohmqtt.records import SessionLostPolicy
from ohmqtt.session import QueuePolicy, SessionSettings

NAMES = [field.name for field in fields(SessionSettings)]
NUMBERS = [name for name in NAMES if type(getattr(SessionSettings(), name)) in (int, float)]
TIMES = [name for name in NUMBERS if name.endswith("_s")]
BOUNDS = [name for name in NUMBERS if name not in TIMES]
SWITCHES = [name for name in NAMES if isinstance(getattr(SessionSettings(), name), bool)]


def made(name: str, value: Any) -> SessionSettings:
    return SessionSettings(**{name: value})


def test_every_setting_is_documented() -> None:
    assert SessionSettings.__doc__ is not None
    for name in NAMES:
        assert f":param {name}:" in SessionSettings.__doc__


def test_the_defaults_lose_nothing() -> None:
    settings = SessionSettings()
    assert settings.queue_policy is QueuePolicy.WAIT
    assert settings.session_lost_policy is SessionLostPolicy.CLEAR
    assert settings.queue_qos0
    assert settings.reconnect
    assert not settings.adopt_session
    assert not settings.keep_poison
    assert SessionSettings(**vars(settings)) == settings


def test_settings_do_not_change() -> None:
    with pytest.raises(FrozenInstanceError):
        SessionSettings().reconnect = False  # type: ignore[misc]


@pytest.mark.parametrize("name", BOUNDS)
@pytest.mark.parametrize("value", [0, -1, 0.5, float("nan"), "10", None, True])
def test_a_bound_is_at_least_1(name: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=f"{name} is .*, expected a number of at least 1"):
        made(name, value)


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("value", [-0.001, float("nan"), "10", None, False])
def test_a_time_is_at_least_0(name: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=f"{name} is .*, expected a number of at least 0"):
        made(name, value)


@pytest.mark.parametrize("name", NUMBERS)
def test_good_numbers(name: str) -> None:
    for value in (1, 2.5, float("inf"), *([0, 0.0] if name in TIMES else [])):
        assert getattr(made(name, value), name) == value


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("value", [0, 1, None, "no"])
def test_a_switch_is_true_or_false(name: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=f"{name} is .*, expected True or False"):
        made(name, value)
    assert getattr(made(name, True), name) is True


@pytest.mark.parametrize(("name", "kind"), [("queue_policy", QueuePolicy), ("session_lost_policy", SessionLostPolicy)])
def test_a_policy_is_one_of_its_kind(name: str, kind: Any) -> None:
    for member in kind:
        assert getattr(made(name, member), name) is member
    for value in ("wait", 0, None, QueuePolicy if kind is SessionLostPolicy else SessionLostPolicy.CLEAR):
        with pytest.raises(ArgumentError, match=f"{name} is .*, expected one of {kind.__name__}"):
            made(name, value)
