"""What the examples share: the arguments that all of them take, and one clear line when no broker answers."""

from __future__ import annotations

import argparse
import logging
import sys
from typing import TYPE_CHECKING

from ohmqtt.address import parse_address
from ohmqtt.errors import ArgumentError, MQTTError

if TYPE_CHECKING:
    from ohmqtt.client import Client


# It warns of each attempt that fails; until there is a connection one line is enough. Later on its warnings are welcome.
logger = logging.getLogger("ohmqtt")
logger.setLevel(logging.ERROR)


def address(text: str) -> str:
    """Return `text` if it is an address; an error about it is then the command line's."""
    try:
        parse_address(text)
    except ArgumentError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def argument_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with ``--address``, ``--wait`` and ``--topic``; an example adds its own arguments."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--address", type=address, default="localhost:1883", help="host, host:port, mqtt://, mqtts:// or unix:/path of the broker"
    )
    parser.add_argument("--wait", type=float, default=5.0, help="how long to wait for the broker at first, in seconds")
    parser.add_argument("--topic", default="ohmqtt/example", help="the topic to publish or subscribe to")
    return parser


def wait_for_broker(client: Client, arguments: argparse.Namespace) -> None:
    """Wait until the client is connected, or end the program and say why it isn't."""
    try:
        client.wait_for_connect(arguments.wait)
    except MQTTError as error:
        client.shutdown()
        reason = " ".join(str(error.__cause__ or error).split())
        sys.exit(f"No broker answers at {arguments.address} (to get one: install Mosquitto and start `mosquitto`): {reason}")
    logger.setLevel(logging.NOTSET)
