"""Everything on one thread: the program owns the loop, and callbacks run inside it.

python3 -m examples.single_threaded --count 5
"""

from __future__ import annotations

from examples._common import argument_parser, wait_for_broker
from ohmqtt import Client, Message


def main() -> None:
    parser = argument_parser("Publish and receive on one thread.")
    parser.add_argument("--count", type=int, default=5, help="how many messages to exchange with ourselves")
    arguments = parser.parse_args()
    received: list[bytes] = []

    def on_message(_client: Client, message: Message) -> None:
        received.append(message.payload)
        print(f"received {message.payload.decode()}")

    # No `with`, which would start the threads.
    client = Client()
    client.connect(arguments.address)
    wait_for_broker(client, arguments)
    client.subscribe(arguments.topic, on_message).wait_for_ack(timeout=5.0)
    for number in range(arguments.count):
        client.publish(arguments.topic, f"message {number}", qos=1)
    while len(received) < arguments.count:
        client.loop_once(timeout=1.0)
    client.close()


if __name__ == "__main__":
    main()
