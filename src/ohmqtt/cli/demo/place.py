"""Where the story takes place: a broker, and a way to take it away for a while.

The embedded broker is stopped and started again, with the sessions that it keeps. Somebody else's broker isn't ours to restart: there, all
connections run through a proxy, and it is the network that goes away.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

from ...address import parse_address
from ...client import Client
from ...errors import MQTTError
from ...session import SessionSettings
from ...testing import Broker, Proxy

if TYPE_CHECKING:
    from collections.abc import Generator

    from ...address import Address

__all__ = ["NoPlaceError", "Place", "open_place"]

CONNECT_TIMEOUT_S = 10.0
BACK = "Both programs connect by themselves, and finish what was half done."


class NoPlaceError(Exception):
    """There is no broker to tell the story with: why."""


class Place(Protocol):
    """A broker that can be reached, until it can't."""

    @property
    def name(self) -> str:
        """As a person calls it."""
        ...

    @property
    def address(self) -> str:
        """Where clients connect to."""
        ...

    @property
    def server_hostname(self) -> str | None:
        """The name in the broker's certificate, if `address` has another one."""
        ...

    def fail(self) -> tuple[str, str]:
        """Take it away; return a title for that, and what it means."""
        ...

    def recover(self) -> tuple[str, str]:
        """Bring it back, under the same address; return a title for that, and what it means."""
        ...


@contextlib.contextmanager
def open_place(address: str | None) -> Generator[Place]:
    """Have a broker within the block: the one at `address`; or, without one, one of our own, in a thread of this process.

    :raises NoPlaceError: no broker answers at `address` that can do what is needed here.
    """
    if address is None:
        with Broker() as broker:
            yield _Embedded(broker)
        return
    try:
        target = parse_address(address)
        qos_max = _probe(target)
    except MQTTError as error:
        raise NoPlaceError(f"No broker to try it with: {error}") from error
    if qos_max is not None:
        raise NoPlaceError(f"The broker at {target} offers no more than QoS {qos_max}; this needs QoS 2.")
    with Proxy(str(target)) as proxy:
        yield _Foreign(proxy, target)


def _probe(target: Address) -> int | None:
    """Connect once, to see that there is a broker and that it lets us in; return its Maximum QoS, or None if it has all."""
    with Client(settings=SessionSettings(reconnect=False)) as client:
        client.connect(target, connect_timeout=CONNECT_TIMEOUT_S)
        return client.wait_for_connect(2 * CONNECT_TIMEOUT_S).properties.MaximumQoS


class _Embedded:
    """Our own broker."""

    name = "one for tests and demonstrations, inside of this process"
    server_hostname = None

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.address = broker.address

    def fail(self) -> tuple[str, str]:
        """Stop it: all connections end, and none can be made."""
        self._broker.stop()
        return "BROKER STOPPED", "All connections are gone, with messages half handed over."

    def recover(self) -> tuple[str, str]:
        """Start it again, on the same port, with the sessions of its clients."""
        self._broker.start()
        return "BROKER STARTED AGAIN", BACK


class _Foreign:
    """Somebody's broker, behind a proxy of ours."""

    def __init__(self, proxy: Proxy, target: Address) -> None:
        self._proxy = proxy
        self.name = f"the one at {target}"
        self.address = _with_credentials(proxy.address, target)
        # TLS goes through the proxy as it is, and the certificate isn't the proxy's.
        self.server_hostname = target.host if target.tls else None

    def fail(self) -> tuple[str, str]:
        """Cut all connections, and let none be made."""
        self._proxy.refuse()
        self._proxy.cut()
        return "NETWORK CUT", "All connections are gone, with messages half handed over. (The broker itself isn't ours to restart.)"

    def recover(self) -> tuple[str, str]:
        """Let connections be made again."""
        self._proxy.heal()
        return "NETWORK BACK", BACK


def _with_credentials(address: str, target: Address) -> str:
    """Return an address with the user name and the password of another one."""
    if target.user_name is None:
        return address
    scheme, _, place = address.partition("://")
    password = "" if target.password is None else ":" + quote(target.password, safe="")
    return f"{scheme}://{quote(target.user_name, safe='')}{password}@{place}"
