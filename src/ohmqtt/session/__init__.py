"""The session, sans-I/O: QoS flows, subscriptions, queue, baskets and deadlines.

``core.py`` is the Session itself; ``outbound.py`` (on ``backlog.py``), ``inbound.py`` and ``subscriptions.py`` are its three tables,
``receiving.py`` the way in, ``authentication.py``, ``identity.py`` and ``policy.py`` are what a connection needs thought about,
``baskets.py`` what it fills and a driver empties, ``settings.py`` the caller's choices.
"""

from __future__ import annotations

from .baskets import Baskets, Turn
from .core import DIALLING, IDLE, LINKED, STOPPED, WAITING, Session
from .settings import QueuePolicy, SessionSettings

__all__ = ["DIALLING", "IDLE", "LINKED", "STOPPED", "WAITING", "Baskets", "QueuePolicy", "Session", "SessionSettings", "Turn"]
