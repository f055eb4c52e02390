"""The scenarios, played by our client on our broker and on Mosquitto, and by paho-mqtt on our broker."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from ohmqtt.testing import Broker, BrokerSettings, FakeClock
from tests.broker_tools import let_time_pass
from tests.scenario_clients import Ours, Paho

pytest.register_assert_rewrite("tests.scenarios")
from tests.scenarios import GUARDED, LIMITED, OPEN, SCENARIOS  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.mosquitto import Mosquitto

# Real time has to pass on Mosquitto.
SLOW_ON_MOSQUITTO = {"a_will_waits_for_its_delay", "a_session_expires", "a_message_expires"}


class OurStage:
    """Our broker. Its time is a fake clock's."""

    says_goodbye = True

    def __init__(self, brokers: ExitStack) -> None:
        self._brokers = brokers
        self._clock = FakeClock()

    def address(self, kind: str) -> str:
        if kind not in self.__dict__:
            self.__dict__[kind] = self._brokers.enter_context(Broker(self._settings(kind), clock=self._clock))
        return str(self.__dict__[kind].address)

    @staticmethod
    def _settings(kind: str) -> BrokerSettings:
        if kind == LIMITED:
            return BrokerSettings(
                maximum_qos=1,
                retain_available=False,
                maximum_packet_size=1_000,
                receive_maximum=3,
                topic_alias_maximum=2,
                server_keep_alive=30,
                report_no_subscribers=False,
            )
        if kind == GUARDED:
            return BrokerSettings(
                authenticate=lambda _, user_name, password: None if (user_name, password) == ("anna", b"secret") else 0x86
            )
        return BrokerSettings(report_no_subscribers=False)

    def pass_time(self, seconds: float, clients: int) -> None:
        broker: Broker = self.__dict__[OPEN]
        broker.wait_until(lambda: len(broker.core.connections) == clients)
        self._clock.advance(seconds)


class MosquittosStage:
    """Mosquitto."""

    says_goodbye = False  # 2.0 doesn't, newer ones do

    def __init__(self, shared: Mosquitto, start: Callable[..., Mosquitto]) -> None:
        self._shared = shared
        self._start = start
        self._brokers: dict[str, Mosquitto] = {OPEN: shared}

    def address(self, kind: str) -> str:
        if kind not in self._brokers:
            self._brokers[kind] = self._start(**self._options(kind))
        return self._brokers[kind].address

    @staticmethod
    def _options(kind: str) -> dict[str, object]:
        if kind == GUARDED:
            return {"users": {"anna": "secret"}}
        return {
            "config": ["max_packet_size 1000", "retain_available false", "max_keepalive 30", "max_inflight_messages 3"],
            "listener_config": ["max_qos 1", "max_topic_alias 2"],
        }

    def pass_time(self, seconds: float, clients: int) -> None:
        let_time_pass(seconds)


@pytest.fixture
def our_stage() -> Iterator[OurStage]:
    with ExitStack() as brokers:
        yield OurStage(brokers)


@pytest.mark.parametrize("name", SCENARIOS)
def test_our_client_on_our_broker(name: str, our_stage: OurStage) -> None:
    SCENARIOS[name](our_stage, Ours)


@pytest.mark.parametrize("name", SCENARIOS)
def test_paho_on_our_broker(name: str, our_stage: OurStage) -> None:
    SCENARIOS[name](our_stage, Paho)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW_ON_MOSQUITTO else ()) for name in SCENARIOS])
def test_our_client_on_mosquitto(name: str, mosquitto: Mosquitto, mosquitto_factory: Callable[..., Mosquitto]) -> None:
    SCENARIOS[name](MosquittosStage(mosquitto, mosquitto_factory), Ours)
