"""What the examples share: the arguments that all of them take, and one clear line when no broker answers."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from ohmqtt.errors import MQTTError

if TYPE_CHECKING:
    from ohmqtt.client import Client

CONNECT_TIMEOUT_S = 10.0


def argument_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with ``--address`` and ``--topic``; an example adds its own arguments."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--address", default="localhost:1883", help="host, host:port, mqtt://, mqtts:// or unix:/path of the broker")
    parser.add_argument("--topic", default="ohmqtt/example", help="the topic to publish or subscribe to")
    return parser


def wait_for_broker(client: Client, address: str) -> None:
    """Wait until the client is connected, or end the program and say why it isn't."""
    try:
        client.wait_for_connect(CONNECT_TIMEOUT_S)
    except MQTTError as error:
        client.shutdown()
        sys.exit(f"No broker answers at {address}: {error}")
