"""The life of a client: attempts that fail, links that end, goodbyes, shutdown, signals, forks, exits, and errors of our own."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ohmqtt.client import Client, lifetime
from ohmqtt.errors import (
    AuthenticationError,
    ClientClosedError,
    ConnectError,
    ConnectRefusedError,
    ForkedError,
    KeepAliveError,
    LinkLostError,
    QueueFullError,
    StateError,
    WaitTimeoutError,
)
from ohmqtt.packet import MQTTWill
from ohmqtt.property import MQTTConnectProps, MQTTDisconnectProps
from ohmqtt.session import SessionSettings
from ohmqtt.transport import SocketTransport, open_transport
from tests.client_tools import PATIENCE_S, QUICK, Gate, Mailbox, attach, in_thread, linked, log_box, relink, subscribed
from tests.peer import Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

ONCE = SessionSettings(reconnect=False)

ROOT = Path(__file__).parent.parent

# -- attempts that fail -----------------------------------------------------------------------------------------------------------------------


def test_a_refused_attempt_is_made_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    with Client(settings=QUICK) as client:
        disconnected = Mailbox()
        client.on_disconnect = disconnected
        client.connect(address)
        for _ in range(3):
            event = disconnected.get()
            assert isinstance(event.error, ConnectError)
            assert not event.was_connected
            assert event.retry_in_s is not None
        with pytest.raises(WaitTimeoutError, match="the last attempt: cannot connect to"):
            client.wait_for_connect(0.01)
        with pytest.raises(WaitTimeoutError, match="there is no connection: cannot connect to"):
            client.publish("t", b"", 1).wait_for_ack(0.01)


def test_without_reconnection_a_refused_attempt_is_the_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    with Client(settings=ONCE) as client:
        handle = client.publish("t", b"", 1)
        waits = in_thread(handle.wait_for_ack, PATIENCE_S)
        client.connect(address)
        with pytest.raises(ConnectError, match="cannot connect"):
            client.wait_for_connect(PATIENCE_S)
        with pytest.raises(ConnectError, match="has stopped connecting"):
            waits.result()
        with pytest.raises(ConnectError, match="has stopped connecting"):
            handle.wait_for_ack(PATIENCE_S)
        assert isinstance(client.failure, ConnectError)
        assert not handle.is_done()


@pytest.mark.spec("MQTT-3.1.4-2")
def test_a_server_that_closes_without_connack_is_a_failed_attempt() -> None:
    with Peer() as peer, Client(settings=ONCE) as client:
        client.connect(peer.address)
        link = peer.accept()
        link.expect("CONNECT")
        link.close()
        with pytest.raises(ConnectError, match="no CONNACK"):
            client.wait_for_connect(PATIENCE_S)


@pytest.mark.spec("MQTT-3.2")
@pytest.mark.parametrize("reads", [False, True])
def test_a_server_that_never_answers_connect_is_given_up(reads: bool) -> None:
    with Peer() as peer, Client(settings=SessionSettings(connack_timeout_s=0.05, reconnect=False)) as client:
        client.connect(peer.address)
        link = peer.accept()
        if reads:
            link.expect("CONNECT")
        with pytest.raises(ConnectError, match=r"no CONNACK within 0\.05 s"):
            client.wait_for_connect(PATIENCE_S)
        if not reads:
            link.expect("CONNECT")
        link.expect_eof()


@pytest.mark.parametrize("code", [0x84, 0x86, 0x87, 0x8A, 0x9D])
def test_a_refusal_that_cannot_heal_ends_everything_with_its_reason(code: int) -> None:
    with Peer() as peer, Client(settings=QUICK) as client:
        handle = client.publish("t", b"", 1)
        waits = in_thread(handle.wait_for_ack, PATIENCE_S)
        client.connect(peer.address)
        link = peer.accept()
        link.expect("CONNECT")
        link.connack(code, ReasonString="go away", ServerReference="elsewhere")
        with pytest.raises(ConnectRefusedError, match=r"go away.*elsewhere") as caught:
            client.wait_for_connect(PATIENCE_S)
        assert caught.value.packet.reason_code == code
        with pytest.raises(ConnectError, match="go away"):
            waits.result()
        peer.expect_no_connection()
        # What was published is still queued, and a new connect() is welcome.
        link = attach(client, peer)
        link.puback(link.expect("PUBLISH").packet_id)
        assert handle.wait_for_ack(PATIENCE_S) is not None


def test_a_refusal_that_can_heal_is_tried_again() -> None:
    with Peer() as peer, Client(settings=QUICK) as client:
        client.connect(peer.address)
        link = peer.accept()
        link.expect("CONNECT")
        link.connack(0x88)
        relink(peer, session_present=False)
        client.wait_for_connect(PATIENCE_S)


def test_what_the_system_raises_beside_its_own_errors_is_a_failed_attempt() -> None:
    def broken(**_: Any) -> Any:
        raise ZeroDivisionError("broken")

    with Client(settings=ONCE) as client:
        driver: Any = client._driver
        driver.world.open_transport = broken
        client.connect("127.0.0.1:1")
        with pytest.raises(ConnectError, match="broken"):
            client.wait_for_connect(PATIENCE_S)


def test_an_attempt_is_made_although_no_thread_can_be_started() -> None:
    """From CPython 3.12 on a process that ends starts no thread any more."""

    def broken(**_: Any) -> Any:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    with Peer() as peer, Client(settings=ONCE) as client:
        driver: Any = client._driver
        driver.world.make_thread = broken
        client.connect(peer.address)
        link = peer.accept()
        link.handshake()
        client.wait_for_connect(PATIENCE_S)
        client.shutdown()


def test_an_attempt_that_nobody_wants_any_more_is_thrown_away() -> None:
    dialling, go = threading.Event(), threading.Event()

    def late(**options: Any) -> Any:
        dialling.set()
        assert go.wait(PATIENCE_S)
        return open_transport(**options)

    with Peer() as peer, Client(settings=QUICK) as client:
        driver: Any = client._driver
        driver.world.open_transport = late
        client.connect(peer.address)
        assert dialling.wait(PATIENCE_S)
        client.disconnect()
        driver.world.open_transport = open_transport
        link = attach(client, peer)
        go.set()
        peer.accept().expect_eof()
        link.expect_nothing()
        assert client.is_connected()


def test_teardown_does_not_wait_for_an_attempt() -> None:
    with Peer() as peer, Client(settings=QUICK) as client:
        # The peer accepts and never answers the TLS handshake.
        client.connect(f"mqtts://{peer.address}")
        peer.accept()
        client.close(PATIENCE_S)
        with pytest.raises(StateError):
            client.wait_for_connect(0)


def test_disconnect_ends_a_wait_for_the_connection() -> None:
    with Peer() as peer, Client(settings=QUICK) as client:
        client.connect(peer.address)
        link = peer.accept()
        link.expect("CONNECT")
        waits = in_thread(client.wait_for_connect, PATIENCE_S)
        client.disconnect(timeout=0)
        link.expect("DISCONNECT")
        link.expect_eof()
        with pytest.raises(ConnectError, match="disconnected or closed"):
            waits.result()


# -- links that end -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.1.4-3", "MQTT-3.14.4", "MQTT-4.13.2-1")
def test_a_client_that_was_taken_over_does_not_fight() -> None:
    with linked() as (client, link, peer):
        disconnected = Mailbox()
        client.on_disconnect = disconnected
        link.disconnect(0x8E)
        event = disconnected.get()
        assert event.retry_in_s is None
        assert event.packet.reason_code == 0x8E
        peer.expect_no_connection()
        with pytest.raises(LinkLostError, match="0x8E"):
            client.wait_for_connect(PATIENCE_S)


@pytest.mark.parametrize("round_number", range(5))
def test_the_servers_last_words_are_heard_by_a_client_that_is_writing(round_number: int) -> None:
    with linked() as (client, link, peer):
        disconnected = Mailbox()
        client.on_disconnect = disconnected
        stop = threading.Event()

        def publish() -> None:
            while not stop.is_set():
                try:
                    client.publish("t", bytes(10_000))
                except (StateError, QueueFullError):
                    return

        publisher = in_thread(publish)
        link.expect("PUBLISH")
        # Closed on unread data, so that the client's writes fail.
        link.disconnect(0x8E)
        link.close()
        event = disconnected.get()
        assert event.packet is not None
        assert event.packet.reason_code == 0x8E
        stop.set()
        publisher.result()
        peer.expect_no_connection()


def test_the_last_words_are_what_is_there_and_no_more() -> None:
    """A link that fails while writing: nothing to read, the end of the stream, an error, or more than anybody would say."""

    class Failing(SocketTransport):
        __slots__ = ("words",)

        words: list[Any]

        def send(self, data: Any) -> int:
            if bytes(data[:1]) == b"\x30":
                raise BrokenPipeError("broken")
            return super().send(data)

        def receive(self, size: int) -> bytes | None:
            if not self.words:
                return super().receive(size)
            word = self.words[0] if len(self.words) == 1 else self.words.pop(0)
            if isinstance(word, OSError):
                raise word
            assert word is None or isinstance(word, bytes)
            return word

    def opened(words: list[Any]) -> Callable[..., Any]:
        def open_it(**options: Any) -> Any:
            sock = socket.create_connection((options["address"].host, options["address"].port))
            transport = Failing(sock, "fake")
            transport.words = words
            return transport

        return open_it

    for words in ([None], [b""], [ConnectionResetError("reset")], [b"\xd0\x00"]):
        said: list[Any] = []
        with Peer() as peer, Client(settings=ONCE) as client:
            driver: Any = client._driver
            driver.world.open_transport = opened(said)
            attach(client, peer)
            handle = client.publish("held", b"", 1)
            peer.links[0].expect("PUBLISH", topic="held")
            said[:] = words
            client.publish("t", b"")
            with pytest.raises(LinkLostError, match="broken"):
                wait_lost(client)
            with pytest.raises(ConnectError):
                handle.wait_for_ack(PATIENCE_S)


def wait_lost(client: Client) -> None:
    """Wait until the client has stopped, and raise why."""
    with client._lock:
        driver: Any = client._driver
        assert driver.wait_until(lambda: client._session.failure is not None, PATIENCE_S)
    assert client.failure is not None
    raise client.failure


def test_a_large_message_in_many_pieces_arrives() -> None:
    box = Mailbox()
    payload = os.urandom(3_000_000)
    with linked() as (client, link, _):
        subscribed(client, link, "t", box)
        sends = in_thread(link.publish, "t", payload)
        assert box.get().payload == payload
        sends.result()


def test_a_large_message_leaves_in_as_many_pieces_as_it_takes() -> None:
    payload = os.urandom(8_000_000)
    with linked() as (client, link, _):
        handles = [client.publish("t", payload), client.publish("t", b"after")]
        assert link.expect("PUBLISH", PATIENCE_S).payload == payload
        link.expect("PUBLISH", payload=b"after")
        for handle in handles:
            handle.wait_for_ack(PATIENCE_S)


def test_many_chunks_in_a_row_leave_room_for_reading() -> None:
    with linked() as (client, link, _):
        client.publish_many([("t", bytes(200_000))] * 40)
        for _ in range(40):
            link.expect("PUBLISH", PATIENCE_S)


@pytest.mark.slow
@pytest.mark.spec("MQTT-3.1.2-20", "MQTT-3.1.2-21")
def test_a_server_keep_alive_takes_effect_and_a_silent_peer_is_given_up() -> None:
    with linked(ONCE, connack={"ServerKeepAlive": 3}) as (client, link, _):
        disconnected = Mailbox()
        client.on_disconnect = disconnected
        # With its own keep alive, the client would wait for longer than that.
        link.expect("PINGREQ", 30.0)
        link.pingresp()
        link.expect("PINGREQ", 30.0)
        assert isinstance(disconnected.get().error, KeepAliveError)
        link.expect_eof()


@pytest.mark.slow
def test_a_peer_that_never_reads_is_noticed_by_a_publisher_that_never_stops() -> None:
    with linked(ONCE, keep_alive=1) as (client, _, _):
        disconnected = Mailbox()
        client.on_disconnect = disconnected
        stop = threading.Event()

        def publish() -> None:
            while not stop.is_set() and client.is_connected():
                client.publish("t", bytes(100_000))

        publisher = in_thread(publish)
        event = disconnected.get()
        stop.set()
        assert isinstance(event.error, KeepAliveError)
        with pytest.raises(Exception, match=r"queue is full|^$"):
            publisher.result()
            raise AssertionError


# -- goodbye --------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.spec("MQTT-3.14.4-1", "MQTT-3.14.4-2")
def test_leaving_with_flushes_everything_and_says_goodbye_last() -> None:
    with Peer() as peer:

        def user() -> list[Any]:
            with Client() as client:
                client.connect(peer.address, "c", will=MQTTWill("will", b"dead"))
                return [client.publish("t", b"%d" % i, i % 3) for i in range(9)]

        leaves = in_thread(user)
        link = peer.accept()
        link.handshake()
        kinds: list[str] = []
        packet = None
        while not kinds or kinds[-1] != "DISCONNECT":
            packet = link.receive()
            kinds.append(packet.kind)
            if packet.kind == "PUBLISH" and packet.qos == 1:
                link.puback(packet.packet_id)
            elif packet.kind == "PUBLISH" and packet.qos == 2:
                link.pubrec(packet.packet_id)
            elif packet.kind == "PUBREL":
                link.pubcomp(packet.packet_id)
        assert packet is not None
        assert packet.reason_code == 0
        assert sorted(kinds) == ["DISCONNECT"] + ["PUBLISH"] * 9 + ["PUBREL"] * 3
        link.expect_eof()
        for handle in leaves.result():
            assert handle.exception() is None


def test_leaving_waits_for_callbacks_and_their_acknowledgements() -> None:
    gate = Gate()
    with linked() as (client, link, _):
        subscribed(client, link, "t", gate)
        link.publish("t", b"1", 1, 1)
        link.publish("t", b"2", 2, 2)
        gate.wait_entered()
        leaves = in_thread(client.close)
        link.expect_nothing()
        gate.open.set()
        link.expect("PUBACK", packet_id=1)
        link.expect("PUBREC", packet_id=2)
        link.expect("DISCONNECT")
        link.expect_eof()
        leaves.result()
        assert gate.done == [b"1", b"2"]


def test_what_is_not_acknowledged_in_time_is_told_so() -> None:
    with linked() as (client, link, _):
        first = client.publish("t", b"", 1)
        second = client.publish("t", b"", 2)
        asked = client.subscribe("x")
        link.expect("PUBLISH", qos=1)
        link.pubrec(link.expect("PUBLISH", qos=2).packet_id)
        client.disconnect(0x04, MQTTDisconnectProps(ReasonString="enough", SessionExpiryInterval=5), timeout=0.01)
        for handle in (first, second, asked):
            with pytest.raises(ClientClosedError) as caught:
                handle.wait_for_ack(PATIENCE_S)
            assert not caught.value.stored
        packets = link.read_all_until_eof()
        assert packets[-1].kind == "DISCONNECT"
        assert packets[-1].reason_code == 4
        assert packets[-1].properties == {"ReasonString": "enough", "SessionExpiryInterval": 5}


def test_after_disconnect_the_client_can_connect_again() -> None:
    with linked(connect_properties=MQTTConnectProps(SessionExpiryInterval=100)) as (client, link, peer):
        client.disconnect()
        link.expect("DISCONNECT", SessionExpiryInterval=None)
        client.disconnect()
        queued = client.publish("t", b"", 1)
        link = attach(client, peer)
        link.puback(link.expect("PUBLISH").packet_id)
        assert queued.wait_for_ack(PATIENCE_S) is not None


def test_a_peer_that_never_reads_cannot_hold_a_goodbye_back() -> None:
    with linked(SessionSettings(close_timeout_s=0.1)) as (client, _, _):
        handles = [client.publish("t", bytes(1_000_000)) for _ in range(20)]
        client.disconnect(timeout=0.05)
        assert not client.is_connected()
        assert isinstance(handles[-1].exception(PATIENCE_S), (ClientClosedError, LinkLostError))


def test_leaving_with_an_interrupt_does_not_wait() -> None:
    with Peer() as peer:
        client = Client()
        with pytest.raises(KeyboardInterrupt), client:
            attach(client, peer)
            client.publish("t", b"", 1)
            raise KeyboardInterrupt
        [link] = peer.links
        link.expect("PUBLISH")
        link.expect("DISCONNECT")


def test_closing_from_two_threads_is_one_end() -> None:
    with linked() as (client, link, _):
        client.publish("t", b"", 1)
        packet_id = link.expect("PUBLISH").packet_id
        ends = [in_thread(client.close) for _ in range(2)]
        link.puback(packet_id)
        link.expect("DISCONNECT")
        link.expect_eof()
        for end in ends:
            end.result()


def test_shutdown_ends_a_goodbye_that_waits() -> None:
    with linked() as (client, link, _):
        client.publish("t", b"", 1)
        ends = in_thread(client.disconnect, timeout=None)
        link.expect("PUBLISH")
        link.expect_nothing()
        client.shutdown()
        link.expect_eof()
        ends.result()


def test_shutdown_says_nothing_and_settles_everything() -> None:
    with linked(will=MQTTWill("will")) as (client, link, _):
        handles: list[Any] = [client.publish("t", b"", 1), client.publish("t", b"", 2), client.subscribe("x"), client.unsubscribe("y")]
        waits = [in_thread(handle.wait_for_ack, PATIENCE_S) for handle in handles]
        for _ in range(4):
            link.receive()
        client.shutdown()
        link.expect_eof()
        for wait in waits:
            with pytest.raises(ClientClosedError):
                wait.result()
        with pytest.raises(StateError):
            client.publish("t")


# -- signals ----------------------------------------------------------------------------------------------------------------------------------------


def on_signal(action: Callable[[], object]) -> Any:
    """Do `action` in a handler of SIGUSR1; return the previous handler."""
    return signal.signal(signal.SIGUSR1, lambda *_: action())


def send_signal() -> None:
    ident = threading.main_thread().ident
    assert ident is not None
    signal.pthread_kill(ident, signal.SIGUSR1)


@pytest.mark.parametrize("threads", [True, False])
def test_shutdown_in_a_signal_handler_while_publish_waits(threads: bool) -> None:
    with Peer() as peer:
        client = Client(settings=SessionSettings(queue_messages_max=1))
        if threads:
            client.start_loop()
        connects = in_thread(relink, peer, session_present=False)
        client.connect(peer.address)
        client.wait_for_connect(PATIENCE_S)
        link = connects.result()
        held = client.publish("t", b"", 1)
        previous = on_signal(client.shutdown)
        try:

            def interrupt() -> None:
                link.expect("PUBLISH", PATIENCE_S)
                send_signal()
                # A signal that comes just before a system call doesn't end it, and Python sees it only then.
                client._driver.wake_now()  # type: ignore[union-attr]

            interrupts = in_thread(interrupt)
            with pytest.raises(StateError):
                client.publish("t", b"", 1)
            interrupts.result()
        finally:
            signal.signal(signal.SIGUSR1, previous)
        with pytest.raises(ClientClosedError):
            held.wait_for_ack(PATIENCE_S)
        link.expect_eof()
        client.close()


def test_shutdown_in_a_signal_handler_at_any_moment_of_publishing() -> None:
    with linked() as (client, link, _):
        previous = on_signal(client.shutdown)
        handles = []
        try:
            reads = in_thread(link.read_all_until_eof, PATIENCE_S)
            interrupts: Any = None
            with pytest.raises(StateError):
                while True:
                    handles.append(client.publish("t", b"x"))
                    if len(handles) == 2_000:
                        interrupts = in_thread(send_signal)
            interrupts.result()
        finally:
            signal.signal(signal.SIGUSR1, previous)
        for handle in handles:
            handle.exception(PATIENCE_S)
        reads.result()


# -- processes --------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_raises_on_every_call_and_the_parent_goes_on() -> None:
    box = Mailbox()
    with linked(manual_ack=True) as (client, link, _):
        subscribed(client, link, "t", box)
        link.publish("t", b"", 1, 1)
        message = box.get()
        handle = client.publish("t", b"", 1)
        packet_id = link.expect("PUBLISH").packet_id
        calls: list[Callable[[], object]] = [
            lambda: client.publish("t"),
            lambda: client.publish_many([]),
            lambda: client.subscribe("t"),
            lambda: client.unsubscribe("t"),
            lambda: client.connect("x"),
            lambda: client.wait_for_connect(1),
            lambda: list(client.pending()),
            client.is_connected,
            client.auth,
            client.disconnect,
            client.start_loop,
            client.loop_once,
            client.loop_forever,
            handle.wait_for_ack,
            handle.exception,
            handle.cancel,
            message.ack,
        ]
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            failed = 0
            for call in calls:
                try:
                    call()
                except ForkedError:
                    continue
                except BaseException as error:
                    os.write(2, f"{call}: {error!r}\n".encode())
                failed += 1
            # The end of a client that isn't ours is quiet.
            client.close()
            client.shutdown()
            os._exit(failed)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        link.puback(packet_id)
        assert handle.wait_for_ack(PATIENCE_S) is not None
        message.ack()
        link.expect("PUBACK", packet_id=1)
        client.disconnect()
        link.expect("DISCONNECT")
        link.expect_eof()


def run_script(text: str, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(text), *arguments], env=environment, stderr=subprocess.PIPE, text=True
    )


def test_a_client_that_cannot_be_closed_at_exit_does_not_keep_the_others_open() -> None:
    class Broken(Client):
        def close(self, timeout: float | None = None) -> None:
            raise ValueError("broken")

    broken, other = Broken(), Client()
    with pytest.warns(ResourceWarning, match="broken"):
        lifetime._close_at_exit()
    with pytest.raises(StateError, match="closed"):
        other.publish("t")
    Client.close(broken)


def test_a_client_left_open_at_exit_flushes_and_says_goodbye() -> None:
    script = """
        import sys
        from ohmqtt import Client
        client = Client()
        client.start_loop()
        client.connect(sys.argv[1], "left-open")
        client.publish("t", b"last", qos=1)
    """
    with Peer() as peer:
        process = run_script(script, peer.address)
        link = peer.accept(PATIENCE_S)
        link.handshake()
        packet_id = link.expect("PUBLISH", PATIENCE_S, payload=b"last").packet_id
        link.puback(packet_id)
        link.expect("DISCONNECT", PATIENCE_S, reason_code=0)
        link.expect_eof()
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert errors == ""
        assert process.returncode == 0


def test_clients_left_open_at_exit_share_one_bound() -> None:
    asked: list[tuple[bool, float]] = []

    class Slow(Client):
        def close(self, timeout: float | None = None) -> None:
            assert timeout is not None
            asked.append((self.is_connected(), timeout))
            began = time.monotonic()
            super().close(0.0)
            while time.monotonic() == began:
                pass

    with Peer() as peer:
        clients = [Slow() for _ in range(4)]
        clients[2].start_loop()
        attach(clients[2], peer)
        lifetime._close_at_exit()
    assert [connected for connected, _ in asked] == [True, False, False, False]
    times = [timeout for _, timeout in asked]
    assert times == sorted(times, reverse=True)
    assert lifetime.EXIT_TIMEOUT_S >= times[0] > times[3]


def test_an_exit_out_of_a_callback_says_goodbye_all_the_same() -> None:
    script = """
        import sys
        from ohmqtt import Client
        client = Client()
        client.on_message = lambda *_: sys.exit(3)
        client.connect(sys.argv[1], "left-open")
        client.loop_forever()
    """
    with Peer() as peer:
        process = run_script(script, peer.address)
        link = peer.accept(PATIENCE_S)
        link.handshake()
        link.publish("x", b"", 1, 1)
        link.expect("PUBACK", PATIENCE_S, packet_id=1, reason_code=0x83)
        link.expect("DISCONNECT", PATIENCE_S, reason_code=0)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert "the callback for a message to 'x' failed" in errors
        assert "atexit" not in errors
        assert process.returncode == 3


@pytest.mark.slow
def test_a_client_left_open_at_exit_cannot_hold_the_process() -> None:
    script = """
        import sys
        from ohmqtt import Client
        client = Client()
        client.start_loop()
        client.on_message = lambda *_: __import__("threading").Event().wait()
        client.connect(sys.argv[1], "left-open")
        client.publish("t", b"last", qos=1)
        client.wait_for_connect()
    """
    with Peer() as peer:
        process = run_script(script, peer.address)
        link = peer.accept(PATIENCE_S)
        link.handshake()
        link.expect("PUBLISH", PATIENCE_S)
        link.publish("x", b"", 1, 1)
        link.expect("DISCONNECT", PATIENCE_S)
        _, errors = process.communicate(timeout=PATIENCE_S)
        assert errors == ""
        assert process.returncode == 0


def forget(clients: list[Client], *threads: threading.Thread | None) -> None:
    """Let go of the client, and wait for the end of its threads: the delivery thread may have it in its hands still, and be the last."""
    clients.clear()
    gc.collect()
    for thread in filter(None, threads):
        thread.join(PATIENCE_S)
        assert not thread.is_alive()


@pytest.mark.parametrize("threads", [True, False])
def test_a_client_collected_while_open_warns_and_ends(threads: bool) -> None:
    with Peer() as peer:
        client = Client()
        if threads:
            client.start_loop()
        in_thread(relink, peer, session_present=False)
        client.connect(peer.address, "forgotten")
        client.wait_for_connect(PATIENCE_S)
        handle = client.publish("t", b"", 1)
        driver: Any = client._driver
        clients = [client]
        del client
        with pytest.warns(ResourceWarning, match="'forgotten' was collected while open"):
            forget(clients, driver.thread, driver.delivery.thread)
        with pytest.raises(ClientClosedError):
            handle.wait_for_ack(PATIENCE_S)
        assert driver.closed


def test_a_client_that_could_not_be_opened_says_so() -> None:
    client = Client.__new__(Client)
    client._driver = None
    with pytest.raises(StateError, match="could not be opened"):
        client.publish_many([])
    assert not client.is_connected()
    client._abandon_after_fork()
    client.close()
    client.shutdown()


def test_starting_twice_is_refused() -> None:
    with Client() as client, pytest.raises(StateError, match="running already"):
        client.start_loop()


# -- authentication -----------------------------------------------------------------------------------------------------------------------------------


class Riddle:
    """An authenticator: answers with what it was asked, reversed."""

    method = "RIDDLE"

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.threads: list[str] = []

    def start(self) -> bytes | None:
        answer: bytes | None = self._answer("start", b"hello")
        return answer

    def respond(self, data: bytes | None) -> bytes | None:
        answer: bytes | None = self._answer("respond", (data or b"")[::-1])
        return answer

    def finish(self, data: bytes | None) -> None:
        self._answer("finish", data)

    def _answer(self, name: str, default: Any) -> Any:
        self.threads.append(threading.current_thread().name)
        answer = self.answers.get(name, default)
        if isinstance(answer, BaseException):
            raise answer
        return answer


@pytest.mark.spec("MQTT-4.12.0-3", "MQTT-4.12.1-1")
def test_an_authenticator_is_asked_apart_from_the_callbacks() -> None:
    riddle = Riddle()
    with Peer() as peer, Client(settings=QUICK) as client:
        renewed = Mailbox()
        client.on_auth = renewed
        client.connect(peer.address, authenticator=riddle)
        link = peer.accept()
        link.expect("CONNECT", AuthenticationMethod="RIDDLE", AuthenticationData=b"hello")
        link.auth(0x18, AuthenticationMethod="RIDDLE", AuthenticationData=b"abc")
        link.expect("AUTH", reason_code=0x18, AuthenticationData=b"cba")
        link.connack(0, AuthenticationMethod="RIDDLE", AuthenticationData=b"proof")
        client.wait_for_connect(PATIENCE_S)
        client.auth()
        link.expect("AUTH", reason_code=0x19, AuthenticationMethod="RIDDLE", AuthenticationData=b"hello")
        with pytest.raises(StateError, match="under way"):
            client.auth()
        link.auth(0x00, AuthenticationMethod="RIDDLE")
        assert renewed.get().reason_code == 0
        assert "ohmqtt-delivery" not in riddle.threads
        assert "ohmqtt-io" not in riddle.threads


def test_a_re_authentication_that_nobody_asked_to_hear_of() -> None:
    with log_box(logging.INFO) as log, Peer() as peer, Client(settings=QUICK) as client:
        client.connect(peer.address, authenticator=Riddle())
        link = peer.accept()
        link.expect("CONNECT")
        link.connack(0, AuthenticationMethod="RIDDLE")
        client.wait_for_connect(PATIENCE_S)
        client.auth()
        link.expect("AUTH")
        link.auth(0x00, AuthenticationMethod="RIDDLE")
        while log.get().getMessage() != "re-authenticated":
            pass


def test_auth_without_an_authenticator_or_a_connection_is_refused() -> None:
    with linked() as (client, _, _), pytest.raises(StateError, match="authenticator"):
        client.auth()
    with Peer() as peer, Client() as client:
        client.connect(peer.address, authenticator=Riddle())
        with pytest.raises(StateError, match="connection"):
            client.auth()


@pytest.mark.parametrize("answer", [AuthenticationError("I won't"), ValueError("a bug"), "not bytes"])
def test_an_authenticator_that_cannot_start_is_the_end(answer: Any) -> None:
    with Peer() as peer, Client(settings=QUICK) as client:
        client.connect(peer.address, authenticator=Riddle(start=answer))
        with pytest.raises(AuthenticationError):
            client.wait_for_connect(PATIENCE_S)


@pytest.mark.parametrize("step", ["respond", "finish"])
@pytest.mark.parametrize("answer", [AuthenticationError("I won't"), ValueError("a bug"), "not bytes"])
def test_an_authenticator_that_refuses_ends_the_connection(step: str, answer: Any) -> None:
    if step == "finish" and isinstance(answer, str):
        answer = TypeError("finish returns nothing")
    with Peer() as peer, Client(settings=QUICK) as client:
        client.connect(peer.address, authenticator=Riddle(**{step: answer}))
        link = peer.accept()
        link.expect("CONNECT")
        if step == "respond":
            link.auth(0x18, AuthenticationMethod="RIDDLE", AuthenticationData=b"abc")
        else:
            link.connack(0, AuthenticationMethod="RIDDLE")
        with pytest.raises(AuthenticationError):
            client.wait_for_connect(PATIENCE_S)
        for packet in link.read_all_until_eof():
            assert packet.kind == "DISCONNECT"
            assert packet.reason_code in {0x80, 0x83}


def test_an_authenticator_whose_thread_cannot_be_started_ends_the_connection() -> None:
    def broken(**_: Any) -> Any:
        raise RuntimeError("can't start new thread")

    with Peer() as peer, Client(settings=QUICK) as client:
        driver: Any = client._driver
        client.connect(peer.address, authenticator=Riddle())
        link = peer.accept()
        link.expect("CONNECT")
        driver.world.make_thread = broken
        link.auth(0x18, AuthenticationMethod="RIDDLE")
        with pytest.raises(AuthenticationError, match="can't start"):
            client.wait_for_connect(PATIENCE_S)


# -- errors of our own ------------------------------------------------------------------------------------------------------------------------------------


def test_an_error_of_ours_closes_the_link_is_reported_and_keeps_every_handle() -> None:
    with log_box() as log, linked() as (client, link, peer):
        session: Any = client._session
        works = session.tick

        def broken(*_: Any, **__: Any) -> None:
            session.tick = works
            raise AssertionError("a bug of ours")

        handle = client.publish("t", b"", 1)
        link.expect("PUBLISH")
        session.tick = broken
        link.pingresp()
        packet = link.expect("DISCONNECT", reason_code=0x83)
        assert "a bug of ours" in packet.properties["ReasonString"]
        link.expect_eof()
        link = relink(peer)
        link.puback(link.expect("PUBLISH", dup=True).packet_id)
        assert handle.wait_for_ack(PATIENCE_S) is not None
        text = log.get().getMessage()
        assert "internal error" in text
        assert "Traceback" in text


@pytest.mark.parametrize("also", [[], ["fail_link"], ["abandon"], ["link_lost"], ["fail_link", "abandon", "link_lost"]])
def test_an_error_of_ours_that_comes_again_and_again_ends_the_client_and_every_wait(also: list[str]) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise AssertionError("a bug of ours")

    with log_box() as log, linked() as (client, link, _):
        session: Any = client._session
        handle = client.publish("t", b"", 1)
        link.expect("PUBLISH")
        waits = in_thread(handle.wait_for_ack, PATIENCE_S)
        connects = in_thread(client.wait_for_connect, PATIENCE_S)
        for name in ["tick", *also]:
            setattr(session, name, broken)
        link.pingresp()
        with pytest.raises((StateError, ClientClosedError)):
            waits.result()
        with pytest.raises((StateError, ClientClosedError)):
            handle.wait_for_ack(PATIENCE_S)
        driver: Any = client._driver
        driver.thread.join(PATIENCE_S)
        assert not driver.thread.is_alive()
        link.read_all_until_eof()
        with pytest.raises(StateError, match="closed"):
            client.publish("t")
        assert "a bug of ours" in log.get().getMessage()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            connects.thread.join(PATIENCE_S)
        assert not connects.is_running()


class Fake(SocketTransport):
    """A transport that does as told."""

    __slots__ = ("failing", "holds", "swallowed", "swallows")

    failing: bool
    holds: int
    swallowed: int
    swallows: bool

    def send(self, data: Any) -> int:
        if self.failing:
            raise BrokenPipeError("broken")
        if self.swallows:
            self.swallowed += len(data)
            return len(data)
        return super().send(data)

    def pending(self) -> bool:
        self.holds -= 1
        return self.holds >= 0


@contextmanager
def faked(settings: SessionSettings = ONCE) -> Generator[tuple[Client, Any, Any]]:
    """A client whose transport is a fake one."""
    made: list[Fake] = []

    def open_it(**options: Any) -> Fake:
        transport = Fake(socket.create_connection((options["address"].host, options["address"].port)), "fake")
        transport.failing = transport.swallows = False
        transport.holds = 3
        transport.swallowed = 0
        made.append(transport)
        return transport

    with Peer() as peer, Client(settings=settings) as client:
        driver: Any = client._driver
        driver.world.open_transport = open_it
        link = attach(client, peer)
        yield client, link, made[0]
        client.shutdown()


def test_what_a_transport_holds_back_is_asked_for() -> None:
    with faked() as (client, link, transport):
        handle = client.publish("t", b"", 1)
        link.puback(link.expect("PUBLISH").packet_id)
        assert handle.wait_for_ack(PATIENCE_S) is not None
        assert transport.holds <= 0


def test_a_round_of_io_writes_so_much_and_no_more() -> None:
    with faked() as (client, _, transport):
        transport.swallows = True
        client.publish_many([("t", bytes(300_000))] * 30, 1)
        driver: Any = client._driver
        with client._lock:
            assert driver.wait_until(lambda: transport.swallowed > 9_000_000, PATIENCE_S)


def test_last_words_are_left_alone_by_a_client_that_is_far_behind() -> None:
    gate = Gate()
    with faked(SessionSettings(reconnect=False, inbound_messages_max=1)) as (client, link, transport):
        lost = Mailbox()
        client.on_disconnect = lost
        subscribed(client, link, "t", gate)
        link.publish("t", b"1")
        gate.wait_entered()
        link.publish("t", b"2")
        client.publish("t", b"").wait_for_ack(PATIENCE_S)
        transport.failing = True
        client.publish("t", b"")
        with pytest.raises(LinkLostError, match="broken"):
            wait_lost(client)
        gate.open.set()
        assert lost.get().was_connected


def test_a_transport_that_wants_to_write_is_read_again_when_it_can() -> None:
    class Wanting(SocketTransport):
        __slots__ = ("wants",)

        wants: int

        def wants_write(self) -> bool:
            return self.wants > 0

        def receive(self, size: int) -> bytes | None:
            self.wants -= 1
            return super().receive(size)

    def open_it(**options: Any) -> Any:
        transport = Wanting(socket.create_connection((options["address"].host, options["address"].port)), "fake")
        transport.wants = 5
        return transport

    with Peer() as peer, Client() as client:
        driver: Any = client._driver
        driver.world.open_transport = open_it
        link = attach(client, peer)
        handle = client.publish("t", b"", 1)
        link.puback(link.expect("PUBLISH").packet_id)
        assert handle.wait_for_ack(PATIENCE_S) is not None
        with client._lock:
            assert driver.wait_until(lambda: driver.transport.wants <= 0, PATIENCE_S)
