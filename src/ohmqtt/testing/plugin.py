"""Fixtures for pytest, which finds them by itself: a broker, a client that is connected to it, and the broker's faults.

pytest imports this module at every start, wanted or not. So it imports next to nothing, and everything else within the fixtures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ohmqtt.client import Client

    from .broker import BrokerSettings
    from .broker.server import Broker
    from .faults import Faults

__all__ = ["mqtt_broker", "mqtt_broker_settings", "mqtt_client", "mqtt_faults"]

CONNECT_TIMEOUT_S = 30.0


@pytest.fixture
def mqtt_broker_settings() -> BrokerSettings | None:
    """Say what `mqtt_broker` is made with: override it in a test module or a conftest, and return a `BrokerSettings`."""
    return None


@pytest.fixture
def mqtt_broker(mqtt_broker_settings: BrokerSettings | None) -> Iterator[Broker]:
    """Run a broker for this test alone; ``mqtt_broker.address`` is where to connect."""
    from .broker.server import Broker

    with Broker(mqtt_broker_settings) as broker:
        yield broker


@pytest.fixture
def mqtt_client(mqtt_broker: Broker) -> Iterator[Client]:
    """Connect a client to `mqtt_broker`; it connects again at once if it loses the link."""
    from ohmqtt.client import Client
    from ohmqtt.session import SessionSettings

    with Client(settings=SessionSettings(reconnect_initial_s=0.02, reconnect_max_s=0.2)) as client:
        try:
            client.connect(mqtt_broker.address)
            client.wait_for_connect(CONNECT_TIMEOUT_S)
            yield client
        finally:
            # Without the goodbye that `with` would wait for: a test may have left a broker that answers nothing.
            client.shutdown()


@pytest.fixture
def mqtt_faults(mqtt_broker: Broker) -> Faults:
    """Return the faults of `mqtt_broker`: have it drop links, refuse, ignore, fall silent."""
    return mqtt_broker.faults
