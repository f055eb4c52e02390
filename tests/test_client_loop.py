"""A client without threads: `loop_once`, `loop_forever`, and waits that drive the I/O themselves."""

from __future__ import annotations

import signal
import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from ohmqtt.client import Client
from ohmqtt.errors import (
    ArgumentError,
    AuthenticationError,
    ClientClosedError,
    ConnectRefusedError,
    QueueFullError,
    StateError,
    WaitTimeoutError,
)
from ohmqtt.session import QueuePolicy, SessionSettings
from tests.client_tools import PATIENCE_S, QUICK, Mailbox, in_thread, publish_bytes, relink
from tests.peer import Peer

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from ohmqtt.records import Message
    from tests.peer import Link


@contextmanager
def looped(settings: SessionSettings = QUICK, **options: Any) -> Generator[tuple[Client, Link, Peer]]:
    """A client without threads, connected to a peer."""
    with Peer() as peer:
        client = Client(settings=settings)
        try:
            accepts = in_thread(relink, peer, session_present=False)
            client.connect(peer.address, "c", **options)
            client.wait_for_connect(PATIENCE_S)
            yield client, accepts.result(), peer
        finally:
            client.close(0.0)


def loop_until(client: Client, condition: Callable[[], object]) -> None:
    """Run the client's loop until something is so."""
    for _ in range(10_000):
        if condition():
            return
        client.loop_once(0.01)
    raise AssertionError("it never came")


def asleep_in_loop_once(client: Client) -> in_thread:
    """Return a thread that sleeps in loop_once until something happens."""
    driver: Any = client._driver
    for _ in range(5):
        client.loop_once(0)
    driver.sleeping = False
    loops = in_thread(client.loop_once, None)
    while not driver.sleeping:
        assert loops.is_running()
    return loops


def in_script(link: Link, *steps: Callable[[], object]) -> in_thread:
    """Play the peer's part on a thread, while this one is in the client."""
    return in_thread(lambda: [step() for step in steps])


def test_a_wait_drives_the_io() -> None:
    with looped() as (client, link, _):
        handle = client.publish("t", b"", 1)
        script = in_script(link, lambda: link.puback(link.expect("PUBLISH").packet_id))
        assert handle.wait_for_ack(PATIENCE_S) is not None
        script.result()
        request = client.subscribe("t")
        with pytest.raises(WaitTimeoutError):
            request.wait_for_ack(0.01)
        link.suback(link.expect("SUBSCRIBE").packet_id, 2)
        assert request.wait_for_ack(PATIENCE_S).reason_codes == (2,)
        with pytest.raises(WaitTimeoutError):
            client.publish("t", b"", 1).wait_for_ack(0)


def test_callbacks_run_in_loop_once_on_its_thread_and_never_in_a_wait() -> None:
    seen: list[tuple[str, bytes]] = []
    with looped() as (client, link, _):
        client.subscribe("t", lambda _, message: seen.append((threading.current_thread().name, message.payload)))
        script = in_script(link, lambda: link.suback(link.expect("SUBSCRIBE").packet_id, 2))
        while script.is_running():
            client.loop_once(0.01)
        link.publish("t", b"1", 1, 1)
        handle = client.publish("t", b"", 1)
        script = in_script(link, lambda: link.puback(link.expect("PUBLISH").packet_id))
        handle.wait_for_ack(PATIENCE_S)
        script.result()
        assert seen == []
        link.expect_nothing()
        client.loop_once(0)
        assert seen == [(threading.current_thread().name, b"1")]
        client.loop_once(0)
        link.expect("PUBACK", packet_id=1)


def connected_with(client: Client, link: Link, topic_filter: str, callback: Any) -> None:
    """Subscribe in a client without threads."""
    script = in_script(link, lambda: link.suback(link.expect("SUBSCRIBE").packet_id, 2))
    client.subscribe(topic_filter, callback).wait_for_ack(PATIENCE_S)
    script.result()


@pytest.mark.parametrize("qos", [1, 2])
def test_a_callback_publishes_and_waits_without_threads(qos: int) -> None:
    box = Mailbox()

    def callback(client: Client, _: Message) -> None:
        box(client.publish("answer", b"", qos).wait_for_ack(PATIENCE_S))

    with looped() as (client, link, _):
        connected_with(client, link, "t", callback)
        # The second message waits: callbacks are queued, never re-entered.
        link.send_raw(publish_bytes("t", b"1", 1, 1) + publish_bytes("t", b"2", 1, 2))

        def answer() -> None:
            acknowledged: list[int] = []
            while acknowledged != [1, 2]:
                packet = link.receive()
                if packet.kind == "PUBACK":
                    acknowledged.append(packet.packet_id)
                elif packet.kind == "PUBREL":
                    link.pubcomp(packet.packet_id)
                elif qos == 1:
                    link.puback(packet.packet_id)
                else:
                    link.pubrec(packet.packet_id)

        script = in_thread(answer)
        loop_until(client, lambda: not script.is_running())
        script.result()
        assert box.queue.qsize() == 2


def test_callbacks_do_not_nest_and_neither_do_loops() -> None:
    failures: list[str] = []

    def callback(client: Client, _: Message) -> None:
        for call in (client.loop_once, client.loop_forever):
            try:
                call()
            except StateError as error:
                failures.append(str(error))

    with looped() as (client, link, _):
        connected_with(client, link, "t", callback)
        link.publish("t")
        loop_until(client, lambda: failures)
        assert len(failures) == 2
        assert all("nest" in failure for failure in failures)


def test_threads_and_loops_exclude_each_other() -> None:
    with Client() as client, pytest.raises(StateError, match="threads"):
        client.loop_once(0)
    with looped() as (client, link, _):
        loops = asleep_in_loop_once(client)
        with pytest.raises(StateError, match="another thread"):
            client.loop_once(0)
        with pytest.raises(StateError, match="loop of its owner"):
            client.start_loop()
        link.publish("t")
        loops.result()


def test_a_client_may_start_its_threads_later() -> None:
    with looped() as (client, link, _):
        handle = client.publish("t", b"", 1)
        waits = in_thread(handle.wait_for_ack, PATIENCE_S)
        packet_id = link.expect("PUBLISH").packet_id
        client.start_loop()
        link.puback(packet_id)
        assert waits.result() is not None


def test_a_wait_beside_a_loop_takes_over_when_the_loop_ends() -> None:
    with looped() as (client, link, _):
        loops = asleep_in_loop_once(client)
        handle = client.publish("t", b"", 1)
        loops.result()
        waits = [in_thread(handle.wait_for_ack, PATIENCE_S) for _ in range(3)]
        link.puback(link.expect("PUBLISH").packet_id)
        for wait in waits:
            assert wait.result() is not None


def test_a_loop_gives_way_to_a_wait_on_another_thread() -> None:
    entered, go = threading.Event(), threading.Event()

    def callback(*_: Any) -> None:
        entered.set()
        assert go.wait(PATIENCE_S)

    with looped() as (client, link, _):
        connected_with(client, link, "t", callback)
        link.publish("t")
        loops = in_thread(client.loop_forever)
        assert entered.wait(PATIENCE_S)
        handle = client.publish("t", b"", 1)
        waits = in_thread(handle.wait_for_ack, PATIENCE_S)
        packet_id = link.expect("PUBLISH").packet_id
        # Now the wait drives; the loop comes back and waits beside it.
        go.set()
        link.expect_nothing()
        assert loops.is_running()
        link.puback(packet_id)
        assert waits.result() is not None
        link.disconnect(0x8E)
        with pytest.raises(ConnectionError, match="0x8E"):
            loops.result()


def test_threads_take_over_from_a_loop_whose_callback_starts_them() -> None:
    box = Mailbox()

    def callback(client: Client, message: Message) -> None:
        box(message)
        if message.payload == b"start":
            with pytest.raises(StateError, match="loop of its owner"):
                client.start_loop()

    with looped() as (client, link, _):
        connected_with(client, link, "t", callback)
        link.publish("t", b"start")
        client.loop_once(PATIENCE_S)
        client.loop_once(0)
        box.get()
        client.start_loop()
        link.publish("t", b"more")
        assert box.get().payload == b"more"


def test_loop_forever_ends_with_disconnect_in_a_callback() -> None:
    with looped() as (client, link, _):
        connected_with(client, link, "t", lambda client, _: client.disconnect())
        script = in_script(link, lambda: link.publish("t", b"", 1, 1), lambda: link.expect("DISCONNECT"), link.expect_eof)
        client.loop_forever()
        script.result()
        assert not client.is_connected()
        with pytest.raises(StateError, match="before connect"):
            client.loop_forever()


@pytest.mark.parametrize("end", ["close", "shutdown"])
def test_loop_forever_ends_when_a_callback_closes_the_client(end: str) -> None:
    with looped() as (client, link, _):
        connected_with(client, link, "t", lambda client, _: getattr(client, end)())
        link.send_raw(publish_bytes("t", b"", 1, 1) + publish_bytes("t", b"", 1, 2))
        script = in_script(link, link.read_all_until_eof)
        client.loop_forever()
        kinds = [packet.kind for packet in script.result()[0]]
        assert kinds == (["DISCONNECT"] if end == "close" else [])
        with pytest.raises(StateError, match="closed"):
            client.loop_once()


def test_loop_forever_raises_why_it_has_stopped() -> None:
    with Peer() as peer:
        client = Client(settings=QUICK)

        def refuse() -> None:
            link = peer.accept()
            link.expect("CONNECT")
            link.connack(0x87)

        script = in_thread(refuse)
        client.connect(peer.address)
        with pytest.raises(ConnectRefusedError):
            client.loop_forever()
        script.result()
        with pytest.raises(ConnectRefusedError):
            client.wait_for_connect(PATIENCE_S)
        handle = client.publish("t", b"", 1)
        with pytest.raises(ConnectionError, match="stopped connecting"):
            handle.wait_for_ack(PATIENCE_S)
        client.close()


def test_loop_forever_reconnects() -> None:
    with looped() as (client, link, peer):

        def again() -> None:
            link.cut()
            second = relink(peer)
            second.disconnect(0x8E)

        script = in_thread(again)
        with pytest.raises(ConnectionError, match="0x8E"):
            client.loop_forever()
        script.result()


def test_loops_before_connect() -> None:
    client = Client()
    client.loop_once(0)
    with pytest.raises(ArgumentError, match="timeout"):
        client.loop_once("x")  # type: ignore[arg-type]
    with pytest.raises(StateError, match="before connect"):
        client.loop_forever()
    client.close()
    with pytest.raises(StateError, match="closed"):
        client.loop_forever()


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_in_a_callback_loses_nothing(interruption: type[BaseException]) -> None:
    seen: list[bytes] = []
    interrupted = False

    def callback(_client: Client, message: Message) -> None:
        nonlocal interrupted
        if message.payload == b"3" and not interrupted:
            interrupted = True
            raise interruption
        seen.append(message.payload)

    with looped() as (client, link, _):
        connected_with(client, link, "t", callback)
        link.send_raw(b"".join(publish_bytes("t", b"%d" % i, i % 2, i if i % 2 else 0) for i in range(1, 8)))
        with pytest.raises(interruption):
            client.loop_forever()
        assert seen == [b"1", b"2"]
        loop_until(client, lambda: len(seen) == 7)
        assert seen == [b"%d" % i for i in range(1, 8)]
        client.loop_once(0)
        for i in (1, 3, 5, 7):
            link.expect("PUBACK", packet_id=i, reason_code=0)


def test_an_interrupt_while_asleep_costs_nothing() -> None:
    with looped() as (client, link, _):
        previous = signal.signal(signal.SIGUSR1, signal.default_int_handler)
        try:

            def interrupt() -> None:
                while not client._driver.sleeping:  # type: ignore[union-attr]
                    pass
                ident = threading.main_thread().ident
                assert ident is not None
                signal.pthread_kill(ident, signal.SIGUSR1)
                # A signal that comes just before the system call doesn't end it, and Python sees it only then.
                client._driver.wake_now()  # type: ignore[union-attr]

            script = in_thread(interrupt)
            with pytest.raises(KeyboardInterrupt):
                client.loop_forever()
            script.result()
        finally:
            signal.signal(signal.SIGUSR1, previous)
        assert client.is_connected()
        handle = client.publish("t", b"", 1)
        script = in_script(link, lambda: link.puback(link.expect("PUBLISH").packet_id))
        handle.wait_for_ack(PATIENCE_S)
        script.result()


def test_an_interrupt_in_the_middle_of_a_round_costs_the_link_and_nothing_else() -> None:
    with looped() as (client, link, peer):
        session: Any = client._session
        works = session.tick

        def interrupted(*_: Any, **__: Any) -> None:
            session.tick = works
            raise KeyboardInterrupt

        handle = client.publish("t", b"", 1)
        session.tick = interrupted
        with pytest.raises(KeyboardInterrupt):
            client.loop_once(0)

        def again() -> None:
            link.expect("DISCONNECT", reason_code=0x83)
            second = relink(peer)
            second.puback(second.expect("PUBLISH").packet_id)

        script = in_thread(again)
        assert handle.wait_for_ack(PATIENCE_S) is not None
        script.result()


def test_an_error_of_ours_is_survived_without_threads_too() -> None:
    with looped() as (client, link, peer):
        session: Any = client._session
        works = session.tick

        def broken(*_: Any, **__: Any) -> None:
            session.tick = works
            raise AssertionError("a bug of ours")

        session.tick = broken
        client.loop_once(0)
        link.expect("DISCONNECT", reason_code=0x83)
        script = in_thread(relink, peer)
        loop_until(client, client.is_connected)
        script.result()


def test_disconnect_runs_the_callbacks_of_what_was_received() -> None:
    box = Mailbox()
    with looped() as (client, link, _):
        connected_with(client, link, "t", box)
        link.publish("t", b"1", 1, 1)
        client.loop_once(PATIENCE_S)
        link.publish("t", b"2", 2, 2)
        handle = client.publish("t", b"", 1)
        script = in_script(
            link,
            lambda: link.expect("PUBACK", packet_id=1),
            lambda: link.puback(link.expect("PUBLISH").packet_id),
            lambda: link.expect("PUBREC", packet_id=2),
            lambda: link.expect("DISCONNECT"),
            link.expect_eof,
        )
        handle.wait_for_ack(PATIENCE_S)
        client.disconnect()
        script.result()
        assert box.payloads(2) == [b"1", b"2"]


def test_disconnect_runs_the_callbacks_of_what_comes_while_it_waits() -> None:
    box = Mailbox()
    with looped() as (client, link, _):
        connected_with(client, link, "t", box)
        handle = client.publish("out", b"", 1)

        def answer() -> None:
            packet_id = link.expect("PUBLISH").packet_id
            link.publish("t", b"late", 1, 1)
            link.expect("PUBACK", packet_id=1)
            link.puback(packet_id)
            link.expect("DISCONNECT")
            link.expect_eof()

        script = in_thread(answer)
        client.disconnect()
        script.result()
        assert handle.exception() is None
        assert box.get().payload == b"late"


def test_a_turn_of_a_closed_client_does_nothing() -> None:
    client = Client()
    driver: Any = client._driver
    client.close()
    driver.take_turn(0.0)
    assert driver.failures == 0


def test_disconnect_beside_a_callback_on_another_thread_waits_for_it() -> None:
    entered, go = threading.Event(), threading.Event()

    def callback(*_: Any) -> None:
        entered.set()
        assert go.wait(PATIENCE_S)

    with looped() as (client, link, _):
        connected_with(client, link, "t", callback)
        link.publish("t", b"", 1, 1)
        loops = in_thread(client.loop_forever)
        assert entered.wait(PATIENCE_S)
        ends = in_thread(client.disconnect)
        link.expect_nothing()
        go.set()
        link.expect("PUBACK", packet_id=1)
        link.expect("DISCONNECT")
        link.expect_eof()
        ends.result()
        loops.result()


def test_disconnect_does_not_wait_longer_than_told() -> None:
    with looped(SessionSettings(close_timeout_s=0.05)) as (client, link, _):
        handle = client.publish("t", b"", 1)
        client.disconnect(timeout=0.01)
        assert isinstance(handle.exception(), ClientClosedError)
        assert [packet.kind for packet in link.read_all_until_eof()] == ["PUBLISH", "DISCONNECT"]


def test_publish_waits_for_room_and_drives_the_io_meanwhile() -> None:
    with looped(SessionSettings(queue_messages_max=1)) as (client, link, _):
        client.publish("t", b"", 1)
        script = in_script(link, lambda: link.puback(link.expect("PUBLISH").packet_id), lambda: link.expect("PUBLISH", topic="second"))
        client.publish("second", b"", 1)
        client.loop_once(0)
        script.result()


def test_what_was_dropped_in_favour_of_a_newer_one_is_told_in_the_next_round() -> None:
    client = Client(settings=SessionSettings(queue_messages_max=1, queue_policy=QueuePolicy.DROP_OLDEST))
    first = client.publish("t", b"", 1)
    client.publish("t", b"", 1)
    assert first.exception(PATIENCE_S) is not None
    client.close()
    client = Client(settings=SessionSettings(queue_messages_max=1))
    client.publish("t", b"", 1)
    with pytest.raises(QueueFullError):
        client.publish("t", b"", 1)
    client.close()


def test_a_dial_without_threads_happens_in_the_loop() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    client = Client(settings=SessionSettings(reconnect=False))
    client.connect(address)
    with pytest.raises(ConnectionError, match="cannot connect"):
        client.loop_forever()
    client.close()


def test_an_authenticator_without_threads_runs_in_the_loop() -> None:
    class Method:
        method = "M"

        def start(self) -> bytes | None:
            raise AuthenticationError("I won't")

        def respond(self, data: bytes | None) -> bytes | None:
            return data

        def finish(self, data: bytes | None) -> None:
            pass

    client = Client()
    client.connect("127.0.0.1:1", authenticator=Method())
    with pytest.raises(AuthenticationError, match="I won't"):
        client.loop_forever()
    client.close()


def test_thousands_of_wake_ups_are_one() -> None:
    with looped() as (client, _, _):
        driver: Any = client._driver
        for _ in range(10_000):
            driver.wake_now()
        for _ in range(5):
            client.loop_once(0)
        assert client.is_connected()


# -- shutdown from a signal handler, at moments that must not matter -------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["callback", "round", "lock", "commits"])
def test_shutdown_in_a_signal_handler_at_any_moment(moment: str, tmp_path: Any) -> None:
    with Peer() as peer:
        client = Client(tmp_path / "q.db" if moment == "commits" else None)
        accepts = in_thread(relink, peer, session_present=False)
        client.connect(peer.address)
        client.wait_for_connect(PATIENCE_S)
        link = accepts.result()
        driver: Any = client._driver
        handle = client.publish("t", b"", 1)
        if moment == "callback":
            client.on_message = lambda client, _: client.shutdown()
            link.publish("t", b"")
            client.loop_forever()
        elif moment == "round":
            works = client._session.tick

            def tick(*arguments: Any, **options: Any) -> None:
                client.shutdown()
                works(*arguments, **options)

            session: Any = client._session
            session.tick = tick
            client.loop_forever()
        else:
            with driver.lock if moment == "lock" else driver.commits.alone():
                client.shutdown()
            assert not driver.closed
            with pytest.raises(StateError):
                client.publish_many([])
        assert driver.closed
        assert isinstance(handle.exception(), ClientClosedError)
        link.read_all_until_eof()
        client.close()


def test_a_wait_does_the_end_that_a_signal_handler_could_not_do() -> None:
    with looped() as (client, link, _):
        driver: Any = client._driver
        handle = client.publish("t", b"", 1)
        with driver.lock:
            client.shutdown()
        with pytest.raises(ClientClosedError):
            handle.wait_for_ack(PATIENCE_S)
        link.read_all_until_eof()


def test_the_loop_does_the_end_that_a_signal_handler_could_not_do() -> None:
    with looped() as (client, link, _):
        driver: Any = client._driver

        def callback(client: Client, _: Message) -> None:
            with driver.lock:
                client.shutdown()

        connected_with(client, link, "t", callback)
        link.publish("t", b"")
        client.loop_forever()
        assert driver.closed
        link.read_all_until_eof()


def test_an_end_that_has_to_wait_takes_nobodys_turn() -> None:
    """Who finds the turn taken sleeps until its holder tells; so `shutdown` on another thread must not take it and give it back in silence."""
    client = Client()
    driver: Any = client._driver
    turns = driver.stepping
    taken: list[bool] = []

    class Watched:
        def acquire(self, blocking: bool = True) -> bool:
            taken.append(True)
            return bool(turns.acquire(blocking))

        def release(self) -> None:
            turns.release()

    driver.stepping = Watched()
    with client._lock:
        in_thread(client.shutdown).result()
        assert taken == []
        assert not driver.closed
    client.shutdown()
    assert driver.closed
