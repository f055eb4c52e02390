"""What the machine gives to a client: time, chance, sleep, network, threads.

Nothing else of the client's may ask for these. So a client can live in a made-up world, where a test says what time it is.
"""

from __future__ import annotations

import random
import selectors
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..transport import open_transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..transport import Transport

__all__ = ["World"]


@dataclass
class World:
    """The surroundings of one client; the machine's, unless named.

    :param monotonic: The time in seconds, from any start; it never goes back.
    :param random: A number from 0 to 1, 1 excluded, for the jitter of reconnects.
    :param selector: Makes what the driver sleeps in until the network, a wake-up or a deadline.
    :param open_transport: Opens a network connection, as `ohmqtt.transport.open_transport` does.
    :param make_thread: Makes a thread, as `threading.Thread` does.
    """

    monotonic: Callable[[], float] = time.monotonic
    random: Callable[[], float] = random.random
    selector: Callable[[], selectors.BaseSelector] = selectors.DefaultSelector
    open_transport: Callable[..., Transport] = open_transport
    make_thread: Callable[..., threading.Thread] = threading.Thread
