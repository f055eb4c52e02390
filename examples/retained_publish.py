"""Publish a retained message, which the broker keeps for everybody who subscribes later; an empty payload removes it.

python3 -m examples.retained_publish --topic some/state --payload on
python3 -m examples.retained_publish --topic some/state --remove
"""

from __future__ import annotations

from examples._common import argument_parser, wait_for_broker
from ohmqtt import Client, MQTTPublishProps


def main() -> None:
    parser = argument_parser("Publish a retained message.")
    parser.add_argument("--payload", default="on", help="sent as UTF-8")
    parser.add_argument("--keep", type=int, metavar="SECONDS", help="how long the broker keeps it; without: for ever")
    parser.add_argument("--remove", action="store_true", help="remove the retained message instead")
    arguments = parser.parse_args()
    payload = "" if arguments.remove else arguments.payload

    with Client() as client:
        client.connect(arguments.address)
        wait_for_broker(client, arguments)
        properties = MQTTPublishProps(PayloadFormatIndicator=1, MessageExpiryInterval=arguments.keep)
        client.publish(arguments.topic, payload, qos=1, retain=True, properties=properties).wait_for_ack(timeout=5.0)
    print(f"removed the retained message of {arguments.topic}" if arguments.remove else f"{arguments.topic} is {payload!r} from now on")


if __name__ == "__main__":
    main()
