"""Subscribe, and print each message that arrives: its topic, a space, its payload.

The callback runs on a thread of its own: it may take its time, publish, or subscribe. With QoS 1 and 2 the broker gets our acknowledgement
when it has returned.
"""

from __future__ import annotations

import threading

from examples._common import argument_parser, wait_for_broker
from ohmqtt.client import Client
from ohmqtt.records import Message


def main() -> None:
    parser = argument_parser("Subscribe, and print each message that arrives.")
    parser.add_argument("--qos", type=int, choices=(0, 1, 2), default=2, help="the highest QoS to receive messages with")
    parser.add_argument("--count", type=int, default=0, help="end after so many messages; 0 means never")
    arguments = parser.parse_args()

    done = threading.Event()
    received = 0

    def on_message(client: Client, message: Message) -> None:
        nonlocal received
        received += 1
        print(message.topic, message.payload.decode(errors="replace"), flush=True)
        if received == arguments.count:
            done.set()

    with Client() as client:
        client.connect(arguments.address)
        wait_for_broker(client, arguments)
        client.subscribe(arguments.topic, on_message, max_qos=arguments.qos).wait_for_ack(timeout=10.0)
        print("subscribed to", arguments.topic, flush=True)
        try:
            # A wait without end can't be interrupted by Ctrl-C everywhere.
            while not done.wait(timeout=1.0):
                pass
        except KeyboardInterrupt:
            print("interrupted after", received, "messages", flush=True)


if __name__ == "__main__":
    main()
