"""Publish numbered messages that survive the end of this process.

Each message is in the database before ``publish`` returns. Kill the process at any time, even with ``kill -9``, and start it again with the
same database: what was not acknowledged yet is sent first, and with QoS 2 nothing arrives twice.

Try it beside ``subscribe.py``::

    python3 -m examples.persistent_publisher --database /tmp/example.db --count 1000
"""

from __future__ import annotations

import time

from examples._common import argument_parser, wait_for_broker
from ohmqtt.client import Client
from ohmqtt.property import MQTTConnectProps

ACK_TIMEOUT_S = 60.0


def main() -> None:
    parser = argument_parser("Publish numbered messages that survive the end of this process.")
    parser.add_argument("--database", default="persistent_publisher.db", help="where unacknowledged messages are kept")
    parser.add_argument("--fast", action="store_true", help="survive a killed process, but not a power cut")
    parser.add_argument("--client-id", default="ohmqtt-persistent-publisher", help="belongs to the database, like the messages in it")
    parser.add_argument("--session-expiry", type=int, default=86_400, help="how long the broker keeps our session, in seconds")
    parser.add_argument("--prefix", default="message", help="the payload is this, a space and a number")
    parser.add_argument("--count", type=int, default=10, help="how many messages to publish")
    parser.add_argument("--interval", type=float, default=0.0, help="seconds between two messages")
    arguments = parser.parse_args()

    with Client(db_path=arguments.database, db_fast=arguments.fast) as client:
        client.connect(
            arguments.address,
            client_id=arguments.client_id,
            connect_properties=MQTTConnectProps(SessionExpiryInterval=arguments.session_expiry),
        )
        wait_for_broker(client, arguments)
        handles = []
        for number in range(arguments.count):
            text = f"{arguments.prefix} {number}"
            handles.append(client.publish(arguments.topic, text.encode(), qos=2))
            # From here on the message is safe, so this line is a promise.
            print(text, flush=True)
            time.sleep(arguments.interval)
        for handle in handles:
            handle.wait_for_ack(timeout=ACK_TIMEOUT_S)


if __name__ == "__main__":
    main()
