"""Send few bytes: a Topic Alias stands for a long topic name once the broker knows it, and keep alive is rare.

python3 -m examples.low_bandwidth --count 100
"""

from __future__ import annotations

from examples._common import argument_parser, wait_for_broker
from ohmqtt import AliasPolicy, Client, TopicAliasError


def main() -> None:
    parser = argument_parser("Publish measurements in few bytes.")
    parser.set_defaults(topic="ohmqtt/example/a-long-topic-name/that-would-be/in-every-packet")
    parser.add_argument("--count", type=int, default=100, help="how many measurements to publish")
    arguments = parser.parse_args()

    with Client() as client:
        # The longest keep alive: two bytes in each 18 hours instead of each minute.
        client.connect(arguments.address, keep_alive=65_535)
        wait_for_broker(client, arguments)
        payloads = [str(number) for number in range(arguments.count)]
        try:
            # ALWAYS: rather an error than a long packet. TRY: an alias if the broker offers one.
            for payload in payloads:
                client.publish(arguments.topic, payload, alias_policy=AliasPolicy.ALWAYS)
        except TopicAliasError as error:
            print(f"this broker offers no Topic Alias ({error}); going without")
            for payload in payloads:
                client.publish(arguments.topic, payload, alias_policy=AliasPolicy.TRY)
    topic_bytes = len(arguments.topic.encode())
    print(f"published {arguments.count} measurements; each but the first without the {topic_bytes} bytes of its topic name")


if __name__ == "__main__":
    main()
