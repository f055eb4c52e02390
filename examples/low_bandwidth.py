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
        # ALWAYS: rather an error than a long packet. TRY: an alias if the broker offers one.
        policy = AliasPolicy.ALWAYS
        for number in range(arguments.count):
            try:
                client.publish(arguments.topic, str(number), alias_policy=policy)
            except TopicAliasError as error:
                print(f"no Topic Alias: {error}")
                policy = AliasPolicy.TRY
                client.publish(arguments.topic, str(number), alias_policy=policy)
    topic_bytes = len(arguments.topic.encode())
    saved = f"each but the first without the {topic_bytes} bytes of its topic name" if policy is AliasPolicy.ALWAYS else "in longer packets"
    print(f"published {arguments.count} measurements; {saved}")


if __name__ == "__main__":
    main()
