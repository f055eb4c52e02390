"""Tools for testing programs that use ΩQTT, and extensions of ΩQTT itself. Shipped and public; `docs/testing.md` is the guide.

`Broker` (with `BrokerSettings`, `ScramServer` and `Faults`), `Proxy` and `FakeClock` are for programs; `check_store` and
`check_transport` for extensions. pytest finds the fixtures by itself (`ohmqtt.testing.plugin`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .broker import BrokerCore, BrokerSettings, Ending, ServerAuthenticator
    from .broker.server import Broker
    from .clock import FakeClock
    from .faults import Fault, Faults
    from .proxy import Proxy
    from .scram import ScramServer, make_verifier
    from .store import check_store
    from .transport import check_transport

__all__ = [
    "Broker",
    "BrokerCore",
    "BrokerSettings",
    "Ending",
    "FakeClock",
    "Fault",
    "Faults",
    "Proxy",
    "ScramServer",
    "ServerAuthenticator",
    "check_store",
    "check_transport",
    "make_verifier",
]

_PLACES = {
    "Broker": ".broker.server",
    "BrokerCore": ".broker",
    "BrokerSettings": ".broker",
    "Ending": ".broker",
    "FakeClock": ".clock",
    "Fault": ".faults",
    "Faults": ".faults",
    "Proxy": ".proxy",
    "ScramServer": ".scram",
    "ServerAuthenticator": ".broker",
    "check_store": ".store",
    "check_transport": ".transport",
    "make_verifier": ".scram",
}


def __getattr__(name: str) -> Any:
    # Each on its own: pytest imports this package at every start, for the fixtures, and a test needs one of them at most.
    if name in _PLACES:
        return getattr(import_module(_PLACES[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
