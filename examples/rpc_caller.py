"""Call the server of ``rpc_server.py`` and wait for its answer.

python3 -m examples.rpc_caller 6 7
"""

from __future__ import annotations

import json
import queue
import sys
import uuid

from examples._common import argument_parser, wait_for_broker
from ohmqtt import Client, Message, MQTTPublishProps


def main() -> None:
    parser = argument_parser("Ask a server to multiply two numbers.")
    parser.set_defaults(topic="ohmqtt/example/multiply")
    parser.add_argument("a", type=float)
    parser.add_argument("b", type=float)
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds to wait for the answer")
    arguments = parser.parse_args()

    answers: queue.Queue[Message] = queue.Queue()
    identity = uuid.uuid4()
    response_topic = f"ohmqtt/example/answers/{identity}"
    with Client() as client:
        client.connect(arguments.address)
        wait_for_broker(client, arguments)
        client.subscribe(response_topic, lambda _client, message: answers.put(message), max_qos=1).wait_for_ack(timeout=5.0)
        # The Correlation Data tells which answer belongs to which request, the expiry how long an answer is worth having.
        properties = MQTTPublishProps(ResponseTopic=response_topic, CorrelationData=identity.bytes, MessageExpiryInterval=60)
        client.publish(arguments.topic, json.dumps([arguments.a, arguments.b]), qos=1, properties=properties).wait_for_ack(timeout=5.0)
        try:
            answer = answers.get(timeout=arguments.timeout)
        except queue.Empty:
            sys.exit(f"no answer within {arguments.timeout:g} s: is rpc_server running?")
        assert answer.properties.CorrelationData == identity.bytes
        print(answer.payload.decode())


if __name__ == "__main__":
    main()
