"""Start a Mosquitto, and run ``python -m ohmqtt demo`` with it. Arguments go to the demonstration."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from ohmqtt.cli import main
from tests.mosquitto import Mosquitto, MosquittoError

if __name__ == "__main__":
    try:
        with Mosquitto(unix=False) as mosquitto:
            sys.exit(main(["demo", "--address", mosquitto.address, *sys.argv[1:]]))
    except MosquittoError as error:
        sys.exit(f"{error}")
