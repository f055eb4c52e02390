"""Clients that are still open when the process ends or forks.

Owns the registry of open clients and the two hooks of the interpreter. A client that is collected leaves the registry by itself.
"""

from __future__ import annotations

import atexit
import os
import time
import warnings
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .client import Client

__all__ = ["open_clients"]

EXIT_TIMEOUT_S = 3.0
"""How long clients that were left open may take, together, to flush and say goodbye when the process ends."""

open_clients: weakref.WeakSet[Client] = weakref.WeakSet()


def _close_at_exit() -> None:
    """Give clients that were left open a bounded flush and goodbye, those first that can use the time: the bound is one for all."""
    deadline = time.monotonic() + EXIT_TIMEOUT_S
    for client in sorted(open_clients, key=lambda client: client.connack is None):
        try:
            assert client._driver is not None
            client._driver.delivery.exiting = True
            client.close(max(0.0, deadline - time.monotonic()))
        except BaseException as error:
            warnings.warn(f"closing an open client at exit failed: {error!r}", ResourceWarning, stacklevel=1)


def _after_fork_in_child() -> None:
    """Let no client of the parent touch its socket or its database here."""
    for client in list(open_clients):
        client._abandon_after_fork()


atexit.register(_close_at_exit)
# Not every platform can fork.
with suppress(AttributeError):
    os.register_at_fork(after_in_child=_after_fork_in_child)
