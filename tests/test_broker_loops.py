"""Clients without threads of their own: `loop_once` and `loop_forever` against a real broker."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from ohmqtt import Client, ConnectRefusedError, Message, MQTTWill, StateError
from tests.broker_tools import FAST, PATIENCE_S, Seen, collect_messages, connected_client, unused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.mosquitto import Mosquitto


@pytest.fixture
def client() -> Iterator[Client]:
    client = Client(settings=FAST)
    try:
        yield client
    finally:
        client.close()


def test_loop_once_carries_messages_and_runs_callbacks_on_the_callers_thread(mosquitto: Mosquitto, client: Client) -> None:
    topic = unused()
    received: list[tuple[bytes, int]] = []
    client.connect(mosquitto.address)
    client.subscribe(topic, lambda _, message: received.append((message.payload, threading.get_ident())))
    handles = [client.publish(topic, b"%d" % qos, qos) for qos in (0, 1, 2)]
    while len(received) < 3 or not all(handle.is_done() for handle in handles):
        client.loop_once(PATIENCE_S)
    assert received == [(b"%d" % qos, threading.get_ident()) for qos in (0, 1, 2)]


def test_waiting_drives_the_loop(mosquitto: Mosquitto, client: Client) -> None:
    topic = unused()
    received: list[bytes] = []
    client.connect(mosquitto.address)
    assert client.wait_for_connect(PATIENCE_S).reason_code == 0
    client.subscribe(topic, lambda _, message: received.append(message.payload)).wait_for_ack(PATIENCE_S)
    for qos in (1, 2):
        client.publish(topic, b"%d" % qos, qos).wait_for_ack(PATIENCE_S)
    client.disconnect()
    # The goodbye waits for the callbacks, and so runs them.
    assert received == [b"1", b"2"]
    assert not client.is_connected()


@pytest.mark.slow
def test_a_callback_may_publish_and_wait_without_being_entered_again(mosquitto: Mosquitto, client: Client) -> None:
    question, answer = unused(), unused()
    depth = 0
    deepest = 0
    answers: list[bytes] = []

    def respond(client: Client, message: Message) -> None:
        nonlocal depth, deepest
        depth += 1
        deepest = max(deepest, depth)
        client.publish(answer, message.payload, 1).wait_for_ack(PATIENCE_S)
        depth -= 1

    client.connect(mosquitto.address)
    client.subscribe(question, respond)
    client.subscribe(answer, lambda _, message: answers.append(message.payload))
    for i in range(5):
        client.publish(question, b"%d" % i, 1)
    while len(answers) < 5:
        client.loop_once(PATIENCE_S)
    assert answers == [b"%d" % i for i in range(5)]
    assert deepest == 1


def test_loop_forever_ends_with_disconnect_in_a_callback(mosquitto: Mosquitto, client: Client) -> None:
    topic = unused()
    payloads: list[bytes] = []

    def receive(client: Client, message: Message) -> None:
        payloads.append(message.payload)
        if message.payload == b"stop":
            client.disconnect()

    client.connect(mosquitto.address, will=MQTTWill(topic, b"will"))
    client.subscribe(topic, receive)
    for payload in (b"go", b"on", b"stop"):
        client.publish(topic, payload, 1)
    client.loop_forever()
    assert payloads == [b"go", b"on", b"stop"]
    assert not client.is_connected()


def test_loop_forever_raises_what_stopped_it(mosquitto_factory: Callable[..., Mosquitto], client: Client) -> None:
    broker = mosquitto_factory(users={"anna": "secret"})
    client.connect(broker.address, user_name="anna", password="wrong")
    with pytest.raises(ConnectRefusedError):
        client.loop_forever()


def test_loop_forever_is_ended_by_shutdown_from_another_thread(mosquitto: Mosquitto, client: Client) -> None:
    connected: Seen[object] = Seen()
    client.on_connect = connected
    client.connect(mosquitto.address)

    def end() -> None:
        connected.wait()
        client.shutdown()

    thread = threading.Thread(target=end)
    thread.start()
    client.loop_forever()
    thread.join()
    with pytest.raises(StateError):
        client.publish("t", b"x")


def test_other_threads_may_publish_into_the_loop(mosquitto: Mosquitto, client: Client) -> None:
    topic = unused()
    with connected_client(mosquitto.address) as subscriber:
        inbox = collect_messages(subscriber, topic)
        looping = threading.Event()
        # Told by the loop itself: the thread's own waits could do all the I/O before the loop begins.
        client.on_connect = lambda *_: looping.set()
        client.connect(mosquitto.address)
        errors: list[Exception] = []

        def publish() -> None:
            try:
                assert looping.wait(PATIENCE_S)
                for i in range(100):
                    client.publish(topic, b"%d" % i, 1).wait_for_ack(PATIENCE_S)
                client.shutdown()
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=publish)
        thread.start()
        client.loop_forever()
        thread.join()
        assert errors == []
        assert inbox.wait_payloads(100) == [b"%d" % i for i in range(100)]


@pytest.mark.slow
def test_the_loop_survives_a_restart_of_the_broker(mosquitto_factory: Callable[..., Mosquitto], client: Client) -> None:
    broker = mosquitto_factory(persistent=True)
    received: list[bytes] = []
    client.connect(broker.address, "looping")
    client.subscribe("t", lambda _, message: received.append(message.payload)).wait_for_ack(PATIENCE_S)
    for turn in range(3):
        broker.restart()
        handle = client.publish("t", b"%d" % turn, 2)
        while not (handle.is_done() and len(received) > turn):
            client.loop_once(PATIENCE_S)
    assert received == [b"0", b"1", b"2"]


def test_threads_and_a_loop_of_the_owner_exclude_each_other(mosquitto: Mosquitto) -> None:
    with connected_client(mosquitto.address) as client:
        with pytest.raises(StateError, match="threads"):
            client.loop_once(0)
        with pytest.raises(StateError):
            client.start_loop()
        with pytest.raises(StateError, match="disconnect"):
            client.connect(mosquitto.address)
