"""The command line, ``python -m ohmqtt`` or ``ohmqtt``: one module for each command.

A command's module has ``add(commands)``, which adds its parser and sets ``run`` to what returns the exit code. Its imports that take long
stand inside ``run``, so that no command waits for what another one needs.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, cast

from . import demo

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["main"]

COMMANDS = (demo,)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code. Without arguments, those of the process are taken."""
    from ohmqtt import __version__

    parser = argparse.ArgumentParser(prog="ohmqtt", description="MQTT 5.0 that loses nothing.")
    parser.add_argument("--version", action="version", version=f"ohmqtt {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add(commands)
    parsed = parser.parse_args(arguments)
    run = cast("Callable[[argparse.Namespace], int]", parsed.run)
    return run(parsed)
