"""What may block, or is the user's, and yet isn't a callback: opening a network connection, and asking the authenticator.

Each runs on a short-lived thread of its own, or on the caller's if the user wants no threads. Its invariant: an attempt ends in exactly one
of three ways: its connection is taken over, its failure is told to the Session, or nobody wants it any more and it is closed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import AuthenticationError, ConnectError, MQTTError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..auth import Authenticator
    from ..records import AuthStep
    from ..transport import Transport
    from .driver import Driver

__all__ = ["Opening", "ask", "unusable"]

REFUSED = 0x83


class Opening:
    """Attempts to connect, and steps of an authentication."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.options: dict[str, Any] = {}
        self.authenticator: Authenticator | None = None
        # Which attempt is wanted; the result of an older one is thrown away.
        self.number = 0

    def give_up(self) -> None:
        """Forget the attempt that is under way. The lock is held."""
        self.number += 1

    def begin(self) -> int:
        """Return the number of a new attempt, for `dial`. The lock is held."""
        self.number += 1
        return self.number

    def dial(self, number: int) -> None:
        """Make an attempt to connect. The lock is not held."""
        try:
            self._start(self._dial, number)
        except RuntimeError:
            # No thread to be had: from CPython 3.12 on that is so as soon as the process ends, and what is queued shall still leave.
            # There is no connection that the I/O thread would neglect meanwhile.
            self._dial(number)

    def authenticate(self, step: AuthStep) -> None:
        """Ask the authenticator. The lock is not held."""
        try:
            self._start(self._authenticate, step)
        except RuntimeError as error:
            self._authenticated(step, None, error)

    def _start(self, function: Callable[[Any], None], argument: Any) -> None:
        if self.driver.thread is None:
            function(argument)
        else:
            self.driver.world.make_thread(
                target=function, args=(argument,), name=f"ohmqtt-{function.__name__.strip('_')}", daemon=True
            ).start()

    def _dial(self, number: int) -> None:
        transport: Transport | None = None
        data: bytes | None = None
        error: MQTTError | None = None
        try:
            if self.authenticator is not None:
                data = ask(self.authenticator.start)
            transport = self.driver.world.open_transport(**self.options)
        except MQTTError as caught:
            error = caught
        except Exception as caught:
            error = ConnectError(f"could not connect: {caught!r}")
            error.__cause__ = caught
        self._dialled(number, transport, data, error)

    def _dialled(self, number: int, transport: Transport | None, data: bytes | None, error: MQTTError | None) -> None:
        driver = self.driver
        session = driver.session
        with driver.lock:
            now = driver.monotonic()
            if number == self.number:
                if transport is not None:
                    try:
                        taken = session.opened(now, data)
                        assert taken, "an attempt that is wanted is one that the Session waits for"
                        driver.arrived = transport
                        transport = None
                    except MQTTError as caught:
                        error = unusable(caught)
                if error is not None:
                    session.dial_failed(error, now, driver.world.random())
                    driver.phase_changed()
            driver.wake()
        if transport is not None:
            transport.close()

    def _authenticate(self, step: AuthStep) -> None:
        authenticator = self.authenticator
        assert authenticator is not None
        data: bytes | None = None
        error: Exception | None = None
        try:
            if step.finish:
                authenticator.finish(step.data)
            else:
                data = authenticator.respond(step.data)
        except Exception as caught:
            error = caught
        self._authenticated(step, data, error)

    def _authenticated(self, step: AuthStep, data: bytes | None, error: Exception | None) -> None:
        driver = self.driver
        with driver.lock:
            now = driver.monotonic()
            try:
                driver.session.authenticated(step, data, error, now)
            except MQTTError as caught:
                driver.session.fail_link(unusable(caught), now, REFUSED)
            driver.wake()


def unusable(error: MQTTError) -> AuthenticationError:
    """Return the error of an authenticator whose answer can't be sent."""
    failure = AuthenticationError(f"what the authenticator gave can't be sent: {error}")
    failure.__cause__ = error
    return failure


def ask(function: Callable[[], bytes | None]) -> bytes | None:
    """Ask the authenticator for its first data; whatever it raises is a refusal that no new attempt heals."""
    try:
        return function()
    except AuthenticationError:
        raise
    except Exception as caught:
        raise AuthenticationError(f"the authenticator failed: {caught!r}") from caught
