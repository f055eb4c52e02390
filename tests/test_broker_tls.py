"""TLS to a real broker: who is believed and who isn't, from where the authorities come, and that a refusal is told."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from ohmqtt import Client, ConnectError, Disconnected, SessionSettings
from tests.broker_tools import FAST, PATIENCE_S, Seen, child, collect_messages, connected_client, unused
from tests.certificates import Certificates, write_certificates
from tests.mosquitto import Mosquitto

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return write_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def broker(certificates: Certificates) -> Iterator[Mosquitto]:
    with Mosquitto(certificate=certificates.server, key=certificates.server_key, authority=certificates.authority, unix=False) as broker:
        yield broker


def refusals(address: str, tls_context: ssl.SSLContext | None, count: int, **options: str) -> list[Disconnected]:
    """Return the first events of a client that can't get through."""
    seen: Seen[Disconnected] = Seen()
    with Client(settings=FAST) as client:
        client.on_disconnect = seen
        client.connect(address, tls_context=tls_context, **options)  # type: ignore[arg-type]
        events = seen.wait(count)
        assert not client.is_connected()
        with pytest.raises(TimeoutError, match=r"certificate|handshake|CONNACK|lost"):
            client.wait_for_connect(0.0)
    return events


def told(events: list[Disconnected]) -> str:
    """Return what the errors and their causes say."""
    words = []
    for event in events:
        assert isinstance(event.error, ConnectError)
        assert not event.was_connected
        words.append(str(event.error))
    return "\n".join(words)


def test_the_default_context_believes_the_authorities_of_the_machine_only(broker: Mosquitto) -> None:
    events = refusals(broker.tls_address, None, 2)
    assert "certificate verify failed" in told(events)
    # It is tried again with backoff, and told each time: the certificate may be renewed.
    assert all(event.retry_in_s is not None for event in events)


def test_a_server_of_another_authority_is_refused(broker: Mosquitto, certificates: Certificates) -> None:
    context = ssl.create_default_context(cafile=str(certificates.stranger_authority))
    assert "certificate verify failed" in told(refusals(broker.tls_address, context, 1))


def test_a_server_of_another_name_is_refused(certificates: Certificates) -> None:
    with Mosquitto(
        certificate=certificates.misnamed, key=certificates.misnamed_key, authority=certificates.authority, unix=False
    ) as broker:
        text = told(refusals(broker.tls_address, certificates.client_context(), 1))
        assert "certificate verify failed" in text
        assert "localhost" in text
        # Whoever knows its name can say so.
        with connected_client(broker.tls_address, tls_context=certificates.client_context(), server_hostname="elsewhere.example") as client:
            assert client.is_connected()


def test_an_expired_certificate_is_refused(certificates: Certificates) -> None:
    with Mosquitto(certificate=certificates.expired, key=certificates.expired_key, authority=certificates.authority, unix=False) as broker:
        assert "expired" in told(refusals(broker.tls_address, certificates.client_context(), 1))


def test_without_the_client_certificate_that_the_broker_asks_for(broker: Mosquitto, certificates: Certificates) -> None:
    events = refusals(broker.client_certificate_address, certificates.client_context(), 1)
    assert told(events)


def test_plain_words_to_a_tls_listener_and_the_reverse(broker: Mosquitto, certificates: Certificates) -> None:
    assert told(refusals(f"mqtt://127.0.0.1:{broker.tls_port}", None, 1))
    assert told(refusals(f"mqtts://localhost:{broker.port}", certificates.client_context(), 1))


def test_without_reconnect_a_refusal_ends_the_attempt(broker: Mosquitto) -> None:
    with Client(settings=SessionSettings(reconnect=False)) as client:
        client.connect(broker.tls_address)
        with pytest.raises(ConnectError, match="certificate verify failed") as caught:
            client.wait_for_connect(PATIENCE_S)
        cause: BaseException | None = caught.value
        chain = []
        while cause is not None:
            chain.append(type(cause))
            cause = cause.__cause__
        assert ssl.SSLCertVerificationError in chain


def test_protocols_are_offered_without_harm_to_a_broker_that_knows_none(broker: Mosquitto, certificates: Certificates) -> None:
    topic = unused()
    with connected_client(broker.tls_address, tls_context=certificates.client_context(), alpn=["mqtt", "x-amzn-mqtt-ca"]) as client:
        inbox = collect_messages(client, topic)
        client.publish(topic, b"x", 2).wait_for_ack(PATIENCE_S)
        assert inbox.wait_payloads() == [b"x"]


PROGRAM = """
import sys
from ohmqtt import Client, SessionSettings
with Client(settings=SessionSettings(reconnect=False)) as client:
    client.connect(sys.argv[1])
    try:
        client.wait_for_connect(60)
        client.publish("t", b"x", 1).wait_for_ack(60)
        print("through")
    except Exception as error:
        print(type(error).__name__, error)
"""


@pytest.mark.slow
def test_the_authorities_of_the_environment_are_used_by_default(broker: Mosquitto, certificates: Certificates, tmp_path: Path) -> None:
    for authority, expected in ((certificates.authority, "through"), (certificates.stranger_authority, "certificate verify failed")):
        environment = {"SSL_CERT_FILE": str(authority), "SSL_CERT_DIR": str(tmp_path)}
        with child(PROGRAM, broker.tls_address, environment=environment) as process:
            output, _ = process.communicate(timeout=PATIENCE_S)
        assert expected in output
