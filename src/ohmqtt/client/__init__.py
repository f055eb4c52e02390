"""The threaded client: `Client`, its driver, and the delivery of messages to user code.

``client.py`` is what users call, ``driver.py`` owns socket, clock, disk and lock, ``delivery.py`` runs user code.
"""

from __future__ import annotations

from .client import Client

__all__ = ["Client"]
