"""The command itself: its arguments, its exit codes, and what it puts together."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import secrets
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

    from .child import Begin

__all__ = ["add", "run"]

SECONDS = 12.0
SECONDS_MAX = 3_600.0


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the parser of this command."""
    parser = commands.add_parser(
        "demo",
        help="see that nothing is lost and nothing comes twice, although the publisher is killed and the broker goes away",
        description="""Publish numbered messages at QoS 2, kill the publisher's process, restart the broker, do both at once, and count what
        arrives. (A broker that isn't ours is not restarted: there, the network is cut.) The exit code is 0 if every message arrived exactly once, 1 if not, 2 if there is no broker to try it with.""",
    )
    parser.add_argument("--address", help="a broker that runs already, such as localhost:1883 (default: one inside of this process)")
    parser.add_argument("--seconds", type=_seconds, default=SECONDS, help="how long to publish, 1 to 3600 (default: %(default)g)")
    parser.add_argument("--db-fast", action="store_true", help="survive a killed process, but perhaps not a power cut; quicker")
    parser.add_argument("--plain", "--no-color", action="store_true", help="plain lines, without colours and moving parts")
    # The demonstration starts its publisher with this.
    parser.add_argument("--publisher", dest="run", action="store_const", const=_be_the_publisher, default=run, help=argparse.SUPPRESS)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 1.0 <= seconds <= SECONDS_MAX:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and {SECONDS_MAX:g}")
    return seconds


def _be_the_publisher(_arguments: argparse.Namespace) -> int:
    from .publisher import publish

    # Ctrl-C reaches all processes of a terminal. This one ends when the other one does, which closes its input.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with _quiet():
        return publish(sys.stdin, lambda line: os.write(1, f"{line}\n".encode()))


def run(arguments: argparse.Namespace, begin: Begin | None = None, **pauses: float) -> int:
    """Tell the story as `arguments` say, and return the exit code.

    :param begin: Starts a publisher; unless given, in a process of its own.
    :param pauses: As for `Story`.
    """
    from .child import Child
    from .place import NoPlaceError, open_place
    from .publisher import Task
    from .screen import open_screen
    from .story import Story
    from .tally import Tally

    screen = open_screen(sys.stdout, plain=arguments.plain)
    # A broker that isn't ours may have other clients: take names that nobody else has.
    name = f"ohmqtt-demo-{secrets.token_hex(4)}"
    try:
        with _quiet(), open_place(arguments.address) as place, tempfile.TemporaryDirectory(prefix="ohmqtt-demo-") as folder:
            database = str(Path(folder) / "publisher.db")
            task = Task(place.address, place.server_hostname, database, arguments.db_fast, name, f"{name}/numbers")
            return 0 if Story(screen, place, task, Tally(), arguments.seconds, begin or Child, **pauses).tell() else 1
    except NoPlaceError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read what is printed has enough of it, `head` for example. Python would complain of what it can't print in the end.
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        return 130


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Keep warnings of lost connections, which are the story here, from the terminal; errors are still logged."""
    log = logging.getLogger("ohmqtt")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)
