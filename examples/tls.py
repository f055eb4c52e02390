"""Connect with TLS. The server is verified unless you take the verification away yourself.

python3 -m examples.tls --address mqtts://broker.example.com
python3 -m examples.tls --address mqtts://localhost --authority ca.pem --certificate me.pem --key me.key
"""

from __future__ import annotations

import ssl

from examples._common import argument_parser, wait_for_broker
from ohmqtt import Client


def main() -> None:
    parser = argument_parser("Publish one message over TLS.")
    parser.set_defaults(address="mqtts://localhost")
    parser.add_argument("--authority", help="a file with the certificates to trust, in place of the system's")
    parser.add_argument("--certificate", help="a file with our own certificate, if the broker wants one")
    parser.add_argument("--key", help="a file with our own private key")
    arguments = parser.parse_args()

    # Any SSLContext will do; without one, this very default context is used.
    context = ssl.create_default_context(cafile=arguments.authority)
    if arguments.certificate:
        context.load_cert_chain(arguments.certificate, arguments.key)
    # In the client's addresses no scheme means plain TCP. Here it doesn't.
    if "://" not in arguments.address:
        arguments.address = f"mqtts://{arguments.address}"
    with Client() as client:
        client.connect(arguments.address, tls_context=context)
        wait_for_broker(client, arguments)
        client.publish(arguments.topic, "hello over TLS", qos=1).wait_for_ack(timeout=5.0)
    print(f"published to {arguments.topic} over TLS")


if __name__ == "__main__":
    main()
