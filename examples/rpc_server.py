"""Answer requests: the server side of request and response over MQTT 5 (section 4.10 of the standard).

python3 -m examples.rpc_server &
python3 -m examples.rpc_caller 6 7
"""

from __future__ import annotations

import json
import threading

from examples._common import argument_parser, wait_for_broker
from ohmqtt import Client, Message, MQTTPublishProps


def multiply(payload: bytes) -> str:
    """Return the product of two numbers in JSON, or what is wrong with the request."""
    try:
        a, b = json.loads(payload)
        return json.dumps({"result": a * b})
    except (ValueError, TypeError) as error:
        return json.dumps({"error": str(error)})


def main() -> None:
    parser = argument_parser("Answer requests to multiply.")
    parser.set_defaults(topic="ohmqtt/example/multiply")
    parser.add_argument("--count", type=int, default=0, help="end after so many requests; 0 means never")
    arguments = parser.parse_args()
    done = threading.Event()
    left = arguments.count

    def answer(client: Client, request: Message) -> None:
        nonlocal left
        response_topic = request.properties.ResponseTopic
        if response_topic is None:
            return
        properties = MQTTPublishProps(CorrelationData=request.properties.CorrelationData)
        # A callback may publish and wait.
        client.publish(response_topic, multiply(request.payload), qos=1, properties=properties).wait_for_ack(timeout=5.0)
        left -= 1
        if not left:
            done.set()

    with Client() as client:
        client.connect(arguments.address)
        wait_for_broker(client, arguments)
        # Several servers may share the work: each request goes to one of them.
        client.subscribe(f"$share/ohmqtt/{arguments.topic}", answer, max_qos=1).wait_for_ack(timeout=5.0)
        print(f"answering requests to {arguments.topic}", flush=True)
        # A wait without end can't be interrupted by Ctrl-C everywhere.
        while not done.wait(timeout=1.0):
            pass


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        pass
