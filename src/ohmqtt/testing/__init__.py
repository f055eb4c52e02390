"""Tools for testing programs that use ΩQTT, and extensions of ΩQTT itself. Shipped and public."""

from __future__ import annotations

from .broker import BrokerCore, BrokerSettings
from .store import check_store

__all__ = ["BrokerCore", "BrokerSettings", "check_store"]
