"""An MQTT 5.0 broker for tests, demos and development. It keeps everything in memory, and is not made for production."""

from __future__ import annotations

from .connection import Connection
from .core import BrokerCore
from .records import Delivery, Message, Subscription
from .router import Router
from .script import Direction, Ending
from .session import Session
from .settings import BrokerSettings, ServerAuthenticator

__all__ = [
    "BrokerCore",
    "BrokerSettings",
    "Connection",
    "Delivery",
    "Direction",
    "Ending",
    "Message",
    "Router",
    "ServerAuthenticator",
    "Session",
    "Subscription",
]
