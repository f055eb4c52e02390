"""Say who you are: by user name and password, or by SCRAM, where the password never travels and the broker proves itself, too.

python3 -m examples.authentication --user-name me --password secret
python3 -m examples.authentication --user-name me --password secret --scram
"""

from __future__ import annotations

from examples._common import argument_parser, wait_for_broker
from ohmqtt import Client, ScramSHA256


def main() -> None:
    parser = argument_parser("Connect with a user name and a password.")
    parser.add_argument("--user-name", default="example")
    parser.add_argument("--password", default="example")
    parser.add_argument("--scram", action="store_true", help="use enhanced authentication (section 4.12): SCRAM-SHA-256")
    arguments = parser.parse_args()

    with Client() as client:
        if arguments.scram:
            client.connect(arguments.address, authenticator=ScramSHA256(arguments.user_name, arguments.password))
        else:
            client.connect(arguments.address, user_name=arguments.user_name, password=arguments.password)
        wait_for_broker(client, arguments)
        print(f"connected as {arguments.user_name}")


if __name__ == "__main__":
    main()
