"""Publish with each QoS, wait for the full acknowledgement, and show what the broker answered.

python3 -m examples.publish_and_wait
"""

from __future__ import annotations

import sys

from examples._common import argument_parser, wait_for_broker
from ohmqtt import Client, MQTTError, WaitTimeoutError


def main() -> None:
    parser = argument_parser("Publish with each QoS and wait for the acknowledgement.")
    parser.add_argument("--payload", default="hello", help="sent as UTF-8")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds to wait for each acknowledgement")
    arguments = parser.parse_args()

    with Client() as client:
        client.connect(arguments.address)
        wait_for_broker(client, arguments)
        for qos in (0, 1, 2):
            handle = client.publish(arguments.topic, arguments.payload, qos=qos)
            try:
                ack = handle.wait_for_ack(timeout=arguments.timeout)
            except WaitTimeoutError:
                # The message isn't lost: it is still being sent, and the handle can be waited for again.
                sys.exit(f"QoS {qos}: not acknowledged within {arguments.timeout:g} s")
            except MQTTError as error:
                sys.exit(f"QoS {qos}: {error}")
            print(f"QoS {qos}: {'handed over' if ack is None else ack}")


if __name__ == "__main__":
    main()
