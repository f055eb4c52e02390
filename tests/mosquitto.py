"""A real Mosquitto, on loopback only, with its own folder, ports and log.

It owns one child process and one temporary folder, and ends only that process, by its id. It must work with Mosquitto 2.0.11 (Debian 12)
and with 2.1, so it uses no option that one of them lacks. Invariant: after ``start`` returns, every listener accepts connections;
after ``stop`` or ``kill`` the process is gone and may be started again on the same ports with the same persisted state.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["MISSING_MESSAGE", "Mosquitto", "MosquittoError", "find_mosquitto", "free_port", "machine_has_ipv6"]

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
LOG_TAIL_CHARACTERS = 8_000

# Below every usual range of ephemeral ports (Linux starts at 32768, macOS and Windows at 49152): an outgoing connection of ours must not
# be given the port of a broker that is down for a moment.
PORT_FIRST, PORT_LAST = 15_000, 32_000

# Test processes that run side by side choose among ports of their own, each port once: while a broker is down for a moment, or a test
# relies on it that nobody listens, no other one takes the place.
_PORT_SHARES = 8
_ports_given: set[int] = set()

# Not `random`: a plugin seeds that alike in every test process, and they would all pick the same ports.
_system_random = random.SystemRandom()

MISSING_MESSAGE = """\
Mosquitto isn't installed, and this test talks to a real one. Install it, for example with one of
    apt-get install mosquitto      (Debian, Ubuntu)
    dnf install mosquitto          (Fedora)
    apk add mosquitto              (Alpine)
    brew install mosquitto         (macOS)
    choco install mosquitto        (Windows)
or name the program in the environment variable OHMQTT_MOSQUITTO. Outside of CI, OHMQTT_NO_BROKER=1 leaves these tests out."""

_FOLDERS = (
    "/usr/sbin",
    "/usr/local/sbin",
    "/opt/homebrew/sbin",
    "/opt/homebrew/opt/mosquitto/sbin",
    "/usr/local/opt/mosquitto/sbin",
    "C:\\Program Files\\mosquitto",
)


class MosquittoError(RuntimeError):
    """Mosquitto didn't start, or ended by itself. The message carries its configuration and its log."""


def find_mosquitto() -> str | None:
    """Return the path of the Mosquitto program, or None. ``sbin`` is looked at too, because a user's PATH often lacks it."""
    named = os.environ.get("OHMQTT_MOSQUITTO")
    if named:
        return shutil.which(named)
    return shutil.which("mosquitto") or shutil.which("mosquitto", path=os.pathsep.join(_FOLDERS))


def machine_has_ipv6() -> bool:
    """Return True if something can be bound to ``::1``."""
    if not socket.has_ipv6:
        return False
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def free_port() -> int:
    """Return a loopback TCP port that nobody uses now, on IPv4 and (where there is one) on IPv6."""
    families = [(socket.AF_INET, "127.0.0.1")]
    if machine_has_ipv6():
        families.append((socket.AF_INET6, "::1"))
    share = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _PORT_SHARES
    for _ in range(1_000):
        port = _system_random.randrange(PORT_FIRST + share, PORT_LAST, _PORT_SHARES)
        if port in _ports_given:
            continue
        try:
            for family, host in families:
                with socket.socket(family, socket.SOCK_STREAM) as probe:
                    probe.bind((host, port))
        except OSError:
            continue
        _ports_given.add(port)
        return port
    message = f"no free port between {PORT_FIRST} and {PORT_LAST}"
    raise MosquittoError(message)


def password_line(user_name: str, password: str) -> str:
    """Return a line of a Mosquitto password file (PBKDF2 with SHA-512, which both 2.0 and 2.1 read)."""
    iterations = 101
    salt = secrets.token_bytes(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, iterations, 64)
    return f"{user_name}:$7${iterations}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


class Mosquitto:
    """One Mosquitto process. Use it as a context manager, or call ``start`` and, in the end, ``close``.

    ``users`` maps user names to passwords and forbids anonymous clients. ``persistent`` keeps sessions and retained messages on disk after
    every change, so that they survive even ``kill``. ``config`` are lines for the whole broker (``max_inflight_messages 1``),
    ``listener_config`` lines for each listener (``max_topic_alias 0``). With ``certificate``, ``key`` and ``authority`` (paths of PEM files)
    there is a TLS listener, and one more that asks for a client certificate signed by ``authority``.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        ipv6: bool | None = None,
        unix: bool | None = None,
        certificate: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
        authority: str | os.PathLike[str] | None = None,
        users: Mapping[str, str] | None = None,
        persistent: bool = False,
        config: Sequence[str] = (),
        listener_config: Sequence[str] = (),
    ) -> None:
        program = find_mosquitto()
        if program is None:
            raise MosquittoError(MISSING_MESSAGE)
        self.program = program
        self.has_ipv6 = machine_has_ipv6() if ipv6 is None else ipv6
        self.has_unix = sys.platform != "win32" if unix is None else unix
        self.has_tls = certificate is not None
        self.port = port or free_port()
        self.tls_port = free_port() if self.has_tls else 0
        self.client_certificate_port = free_port() if self.has_tls else 0
        self._ports_are_ours_to_choose = port == 0
        self._certificate = certificate
        self._key = key
        self._authority = authority
        self._users = dict(users or {})
        self._config = list(config)
        self._listener_config = list(listener_config)
        self._process: subprocess.Popen[bytes] | None = None
        self._frozen = False
        # The path of a Unix socket has about 100 bytes, which the folders of a test runner can exceed.
        self.folder = Path(tempfile.mkdtemp(prefix="ohmqtt-"))
        # It syncs its whole state after every change. Nobody cuts the power, so that memory will do, where the system has such a place.
        memory = "/dev/shm"
        self._state = Path(tempfile.mkdtemp(prefix="ohmqtt-", dir=memory if os.access(memory, os.W_OK) else None)) if persistent else None
        self._log_path = self.folder / "mosquitto.log"

    # -- addresses --------------------------------------------------------------------------------------------------------------------

    @property
    def address(self) -> str:
        """The TCP listener on IPv4, as ``host:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def ipv6_address(self) -> str:
        """The TCP listener on IPv6 (same port). Only if ``has_ipv6``."""
        assert self.has_ipv6, "no IPv6 listener"
        return f"[::1]:{self.port}"

    @property
    def unix_path(self) -> Path:
        """The path of the Unix socket. Only if ``has_unix``."""
        assert self.has_unix, "no Unix socket listener"
        return self.folder / "socket"

    @property
    def unix_address(self) -> str:
        """The Unix socket, as ``unix:/path``."""
        return f"unix:{self.unix_path}"

    @property
    def tls_address(self) -> str:
        """The TLS listener, as ``mqtts://localhost:port``. Only with a certificate."""
        assert self.has_tls, "no TLS listener"
        return f"mqtts://localhost:{self.tls_port}"

    @property
    def client_certificate_address(self) -> str:
        """The TLS listener that asks for a client certificate, as ``mqtts://localhost:port``. Only with a certificate."""
        assert self.has_tls, "no TLS listener"
        return f"mqtts://localhost:{self.client_certificate_port}"

    # -- life -------------------------------------------------------------------------------------------------------------------------

    def start(self) -> Self:
        """Start the process and return when every listener accepts connections.

        Raises:
            MosquittoError: it ended, or didn't listen within a minute.

        """
        assert self._process is None, "already started"
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            self._launch()
            problem = self._wait_for_listeners(deadline)
            if problem is None:
                # From now on somebody knows them: a later start takes the same ports or fails.
                self._ports_are_ours_to_choose = False
                return self
            taken = "ddress already in use" in self.log()
            self.kill()
            if not taken or time.monotonic() > deadline:
                message = f"Mosquitto {problem}\n--- configuration\n{self.configuration()}\n--- log\n{self.log_tail()}"
                raise MosquittoError(message)
            if self._ports_are_ours_to_choose:
                self._choose_ports()

    def stop(self) -> None:
        """End the process with SIGTERM, so that it writes its persisted state; with SIGKILL if that takes longer than a minute."""
        process = self._process
        if process is None:
            return
        self.thaw()
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)
        self._process = None

    def kill(self) -> None:
        """End the process with SIGKILL: nothing is said to clients, nothing more is written."""
        process = self._process
        if process is None:
            return
        process.kill()
        process.wait(STOP_TIMEOUT_S)
        self._process = None
        self._frozen = False

    def restart(self) -> None:
        """Stop and start again on the same ports, with the persisted state if there is one."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Halt the process (SIGSTOP): its connections stay open, and nothing is read or answered."""
        assert self._process is not None, "not running"
        self._send_signal("SIGSTOP")
        self._frozen = True

    def thaw(self) -> None:
        """Let a frozen process go on (SIGCONT)."""
        if self._process is not None and self._frozen:
            self._send_signal("SIGCONT")
            self._frozen = False

    def close(self) -> None:
        """Stop the process and remove its folders."""
        self.stop()
        for folder in filter(None, (self.folder, self._state)):
            shutil.rmtree(folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    # -- looking at it ----------------------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The process id. Only while it runs."""
        assert self._process is not None, "not running"
        return self._process.pid

    def is_running(self) -> bool:
        """Return True if the process was started and hasn't ended."""
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """Return everything that it has logged since this object was made."""
        try:
            return self._log_path.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return ""

    def log_tail(self) -> str:
        """Return the end of the log, short enough for a failure message."""
        return self.log()[-LOG_TAIL_CHARACTERS:]

    def wait_for_log(self, text: str, timeout_s: float = 60.0) -> None:
        """Wait until the log contains ``text``.

        Raises:
            MosquittoError: the process ended or the time ran out first.

        """
        assert self._process is not None, "not running"
        deadline = time.monotonic() + timeout_s
        while text not in self.log():
            ended = _wait_briefly(self._process)
            if (ended or time.monotonic() > deadline) and text not in self.log():
                message = f"Mosquitto never logged {text!r}\n--- log\n{self.log_tail()}"
                raise MosquittoError(message)

    def configuration(self) -> str:
        """Return the text of its configuration file."""
        lines = ["log_dest stderr", "log_type all", "connection_messages true", "per_listener_settings false"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            # Otherwise it becomes the user `mosquitto`, who can't write into our folder.
            lines.append("user root")
        if self._users:
            lines += ["allow_anonymous false", f"password_file {self.folder / 'passwords'}"]
        else:
            lines.append("allow_anonymous true")
        if self._state:
            lines += ["persistence true", f"persistence_location {self._state}{os.sep}", "autosave_on_changes true", "autosave_interval 1"]
        else:
            lines.append("persistence false")
        # By itself it drops what is beyond 1,000 for a subscriber that lags behind, as one on a busy machine does. (With 0, for no bound,
        # 2.0.11 ends the connection of a client whose publication it rejects.)
        lines.append("max_queued_messages 1000000")
        lines += self._config
        listeners = [[f"listener {self.port} 127.0.0.1"]]
        if self.has_ipv6:
            listeners.append([f"listener {self.port} ::1"])
        if self.has_unix:
            listeners.append([f"listener 0 {self.unix_path}"])
        if self.has_tls:
            tls = [f"certfile {self._certificate}", f"keyfile {self._key}"]
            listeners.append([f"listener {self.tls_port} 127.0.0.1", *tls])
            client_certificate = [f"cafile {self._authority}", "require_certificate true"]
            listeners.append([f"listener {self.client_certificate_port} 127.0.0.1", *tls, *client_certificate])
        for listener in listeners:
            lines += ["", *listener, *self._listener_config]
        return "\n".join(lines) + "\n"

    # -- inside -----------------------------------------------------------------------------------------------------------------------

    def _launch(self) -> None:
        self.folder.mkdir(exist_ok=True)
        if self._users:
            passwords = self.folder / "passwords"
            passwords.write_text("".join(password_line(*user) + "\n" for user in self._users.items()), encoding="utf-8")
            passwords.chmod(0o600)
        if self.has_unix:
            # A killed process leaves its socket behind.
            self.unix_path.unlink(missing_ok=True)
        configuration = self.folder / "mosquitto.conf"
        configuration.write_text(self.configuration(), encoding="utf-8")
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [self.program, "-c", str(configuration)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder
            )

    def _wait_for_listeners(self, deadline: float) -> str | None:
        """Return None when all of them accept, otherwise what is wrong."""
        assert self._process is not None
        waiting = list(self._endpoints())
        while waiting:
            if self._process.poll() is not None:
                return f"ended with code {self._process.returncode}"
            if _accepts(*waiting[0]):
                waiting.pop(0)
            elif time.monotonic() > deadline:
                return f"didn't listen on {waiting[0][1]} within {START_TIMEOUT_S} s"
            else:
                _wait_briefly(self._process)
        # Somebody else may have answered on the port, while our process was about to find it taken.
        if _wait_briefly(self._process):
            return f"ended with code {self._process.returncode}"
        return None

    def _endpoints(self) -> list[tuple[int, str | tuple[str, int]]]:
        endpoints: list[tuple[int, str | tuple[str, int]]] = [(socket.AF_INET, ("127.0.0.1", self.port))]
        if self.has_ipv6:
            endpoints.append((socket.AF_INET6, ("::1", self.port)))
        if self.has_unix:
            endpoints.append((socket.AF_UNIX, str(self.unix_path)))
        if self.has_tls:
            endpoints.append((socket.AF_INET, ("127.0.0.1", self.tls_port)))
            endpoints.append((socket.AF_INET, ("127.0.0.1", self.client_certificate_port)))
        return endpoints

    def _choose_ports(self) -> None:
        self.port = free_port()
        if self.has_tls:
            self.tls_port = free_port()
            self.client_certificate_port = free_port()

    def _send_signal(self, name: str) -> None:
        # By name, because Windows hasn't these signals at all.
        assert self._process is not None
        self._process.send_signal(getattr(signal, name))


def _accepts(family: int, where: str | tuple[str, int]) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as probe, contextlib.suppress(OSError):
        probe.settimeout(1.0)
        probe.connect(where)
        return True
    return False


def _wait_briefly(process: subprocess.Popen[bytes]) -> bool:
    """Pause a moment, less if the process ends. Return True if it has."""
    try:
        process.wait(0.02)
    except subprocess.TimeoutExpired:
        return False
    return True
