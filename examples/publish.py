"""Publish one message.

python3 -m examples.publish --topic some/topic --payload hello
"""

from __future__ import annotations

from examples._common import argument_parser, wait_for_broker
from ohmqtt import Client


def main() -> None:
    parser = argument_parser("Publish one message.")
    parser.add_argument("--payload", default="hello from ΩQTT", help="sent as UTF-8")
    arguments = parser.parse_args()

    # Leaving `with` flushes what was published and says goodbye.
    with Client() as client:
        client.connect(arguments.address)
        wait_for_broker(client, arguments)
        client.publish(arguments.topic, arguments.payload)
    print(f"published to {arguments.topic}: {arguments.payload}")


if __name__ == "__main__":
    main()
