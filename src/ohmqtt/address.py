"""Where a server is: the text that a person writes, taken apart and checked once.

Owns the address syntax and the default ports. Must not resolve names, open sockets or look at the file system.
Invariant: what :func:`parse_address` returns can be connected to as far as its text can tell, and neither its text forms
nor any error raised here shows a user name or a password.
"""

from __future__ import annotations

import binascii
import os
import socket
from typing import NoReturn

from .errors import ArgumentError

__all__ = ["Address", "parse_address"]

#: The default port of each scheme; a Unix socket has none.
_PORTS = {"mqtt": 1883, "mqtts": 8883, "unix": 0, "ws": 80, "wss": 443}

_PORT_MAX = 65535
#: RFC 1035, section 2.3.4: 255 octets on the wire leave 253 characters of text.
_HOST_BYTES_MAX = 253
_LABEL_BYTES_MAX = 63
#: Linux keeps 108 bytes for the path with its final zero. Other systems keep a few less and say so when connecting.
_UNIX_PATH_BYTES_MAX = 107
#: Never part of a host name. A colon means an IPv6 address without its brackets, the rest belongs to other parts of a URL.
_HOST_FORBIDDEN = frozenset('/?#@[]:%\\"<>^`{|}')


class Address:
    """Say where a server is and who we are to it. Made by :func:`parse_address`; it can't be changed.

    ``scheme`` is ``"mqtt"``, ``"mqtts"``, ``"unix"``, ``"ws"`` or ``"wss"``. ``host`` is a name or an IP address without brackets
    (empty for a Unix socket), ``port`` is 1 to 65,535 (0 for a Unix socket). ``path`` is the file of a Unix socket or the resource
    of a WebSocket (empty otherwise). ``user_name`` and ``password`` are meant for CONNECT (section 3.1.3.5 and 3.1.3.6).

    ``str`` and ``repr`` show neither user name (some services put a token there) nor password.
    """

    __slots__ = ("host", "password", "path", "port", "scheme", "user_name")

    scheme: str
    host: str
    port: int
    path: str
    user_name: str | None
    password: bytes | None

    def __init__(
        self, scheme: str, host: str = "", port: int = 0, path: str = "", user_name: str | None = None, password: bytes | None = None
    ) -> None:
        initialise = object.__setattr__
        initialise(self, "scheme", scheme)
        initialise(self, "host", host)
        initialise(self, "port", port)
        initialise(self, "path", path)
        initialise(self, "user_name", user_name)
        initialise(self, "password", password)

    @property
    def tls(self) -> bool:
        """Tell whether the connection is made over TLS."""
        return self.scheme in {"mqtts", "wss"}

    def _fields(self) -> tuple[str, str, int, str, str | None, bytes | None]:
        return self.scheme, self.host, self.port, self.path, self.user_name, self.password

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"an Address can't be changed ({name})")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"an Address can't be changed ({name})")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Address):
            return NotImplemented
        return self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(self._fields())

    def __reduce__(self) -> tuple[object, ...]:
        return Address, self._fields()

    def __str__(self) -> str:
        if self.scheme == "unix":
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    def __repr__(self) -> str:
        return f"<Address {self}>"


def parse_address(text: str) -> Address:
    """Take an address apart and check it.

    Accepted are ``host``, ``host:port``, ``mqtt://``, ``mqtts://``, ``ws://``, ``wss://`` (each with ``user:password@`` and a port
    if wanted) and ``unix:/path``. Without a scheme it is ``mqtt``: plain TCP, whatever the port. An IPv6 address stands in brackets.
    The default ports are 1883, 8883, 80 and 443; the default resource of a WebSocket is ``/``.

    In ``user:password@`` the characters ``% : @ / ? #`` are written as ``%25`` and so on (RFC 3986); the password is any bytes.
    An empty user name is none: ``:password@`` gives a password alone. The path of a Unix socket is taken as it stands.

    Raises :class:`ArgumentError` for anything else; the message doesn't repeat the credentials.
    """
    if not isinstance(text, str):
        raise ArgumentError(f"address must be a str, not {type(text).__name__}")
    if text[:5].lower() == "unix:":
        return _parse_unix(text)
    if any(character <= " " or character == "\x7f" for character in text):
        raise ArgumentError(f"address {_shown(text)}: spaces and control characters are not allowed")
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "mqtt", text
    scheme = scheme.lower()
    if scheme not in _PORTS:
        raise ArgumentError(f"address {_shown(text)}: the scheme must be one of {', '.join(_PORTS)}")
    authority, path = _split_path(rest)
    if scheme in {"ws", "wss"}:
        path = _check_resource(path, text)
    elif path and path != "/":
        raise ArgumentError(f"address {_shown(text)}: nothing may follow the port with {scheme}://")
    else:
        path = ""
    credentials, _, place = authority.rpartition("@")
    user_name, password = _parse_credentials(credentials, text)
    host, port = _parse_place(place, text)
    return Address(scheme, host, _PORTS[scheme] if port is None else port, path, user_name, password)


def _shown(text: str) -> str:
    """Quote the text for a message, without anything that could be part of a user name or a password."""
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "", text
    _, at, place = rest.rpartition("@")
    return repr(f"{scheme}{separator}{'***@' if at else ''}{place}")


def _split_path(rest: str) -> tuple[str, str]:
    for offset, character in enumerate(rest):
        if character in "/?#":
            return rest[:offset], rest[offset:]
    return rest, ""


def _check_resource(path: str, text: str) -> str:
    if "#" in path or not path.isascii():
        # RFC 6455, section 3, and RFC 3986.
        raise ArgumentError(f"address {_shown(text)}: after the port there is an ASCII path, perhaps with a ?query, and no #fragment")
    return path if path.startswith("/") else f"/{path}"


def _parse_unix(text: str) -> Address:
    path = text[5:]
    credentials = ""
    if path.startswith("//"):
        authority, slash, path = path[2:].partition("/")
        credentials, _, host = authority.rpartition("@")
        path = slash + path
        if host:
            raise ArgumentError(f"address {_shown(text)}: a Unix socket has no host; write unix:/path")
    if not path.startswith("/"):
        raise ArgumentError(f"address {_shown(text)}: the path of a Unix socket must be absolute; write unix:/path")
    if "\0" in path:
        raise ArgumentError(f"address {_shown(text)}: a path can't hold U+0000")
    try:
        size = len(os.fsencode(path))
    except UnicodeEncodeError as error:
        raise ArgumentError(f"address {_shown(text)}: the path can't be encoded for the file system") from error
    if size > _UNIX_PATH_BYTES_MAX:
        raise ArgumentError(f"address {_shown(text)}: the path of a Unix socket has {size} bytes, at most {_UNIX_PATH_BYTES_MAX} fit")
    user_name, password = _parse_credentials(credentials, text)
    return Address("unix", "", 0, path, user_name, password)


def _parse_credentials(credentials: str, text: str) -> tuple[str | None, bytes | None]:
    user, colon, secret = credentials.partition(":")
    try:
        user_name = _percent_decode(user).decode()
        password = _percent_decode(secret) if colon else None
    except ValueError:
        # Not chained: the causes quote what must not be shown.
        raise ArgumentError(
            f"address {_shown(text)}: user name and password must be percent-encoded (a % is written %25), the user name in UTF-8"
        ) from None
    if "\0" in user_name:
        raise ArgumentError(f"address {_shown(text)}: the user name can't hold U+0000")  # [MQTT-1.5.4-2]
    return user_name or None, password


def _percent_decode(text: str) -> bytes:
    first, *parts = text.encode().split(b"%")
    decoded = [first]
    for part in parts:
        if len(part) < 2:
            raise ValueError("two hexadecimal digits must follow %")
        decoded.append(binascii.unhexlify(part[:2]))
        decoded.append(part[2:])
    return b"".join(decoded)


def _parse_place(place: str, text: str) -> tuple[str, int | None]:
    if place.startswith("["):
        host, bracket, after = place[1:].partition("]")
        if not bracket or (after and not after.startswith(":")):
            raise ArgumentError(f"address {_shown(text)}: an IPv6 address is written [address] or [address]:port")
        _check_ipv6(host, text)
        port = after[1:] if after else None
    else:
        host, colon, after = place.partition(":")
        if ":" in after:
            raise ArgumentError(f"address {_shown(text)}: more than one colon; an IPv6 address is written in brackets")
        _check_host(host, text)
        port = after if colon else None
    return host, None if port is None else _parse_port(port, text)


def _parse_port(port: str, text: str) -> int:
    # The length is looked at first: int() of a very long number is slow, and refused with an error of its own.
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else 0
    if not 1 <= number <= _PORT_MAX:
        raise ArgumentError(f"address {_shown(text)}: the port must be a number from 1 to {_PORT_MAX:,}")
    return number


def _check_ipv6(host: str, text: str) -> None:
    number, percent, zone = host.partition("%")
    try:
        socket.inet_pton(socket.AF_INET6, number)
    except (OSError, ValueError) as error:
        raise ArgumentError(f"address {_shown(text)}: no IPv6 address stands between the brackets") from error
    if percent and not zone:
        raise ArgumentError(f"address {_shown(text)}: the zone after % is empty")


def _check_host(host: str, text: str) -> None:
    # The resolver reports a name of this kind with a UnicodeError, far from the call that gave it.
    name = host.removesuffix(".")
    try:
        encoded = name if name.isascii() else name.encode("idna").decode()
    except UnicodeError as error:
        raise ArgumentError(f"address {_shown(text)}: the host is no valid internationalised name") from error
    labels_fit = all(0 < len(label) <= _LABEL_BYTES_MAX for label in encoded.split("."))
    if not labels_fit or len(encoded) > _HOST_BYTES_MAX or not _HOST_FORBIDDEN.isdisjoint(name):
        raise ArgumentError(
            f"address {_shown(text)}: the host must be a name or an IP address; its labels have 1 to {_LABEL_BYTES_MAX} characters"
        )
