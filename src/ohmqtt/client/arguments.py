"""Checks of what users hand over, where no packet checks it already: each error names the field, the value and the limit.

Owns no state and takes no lock; whatever passes here can't fail later for a reason that could have been seen at the call.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from ..address import Address, parse_address
from ..errors import ArgumentError, NotSupportedError
from ..packet import MQTTWill
from ..property import MQTTConnectProps

if TYPE_CHECKING:
    from ..auth import Authenticator

__all__ = [
    "check_address",
    "check_connect_properties",
    "check_identity",
    "check_qos",
    "check_retain",
    "check_timeout",
    "check_transport_options",
    "copy_payload",
    "encode_password",
    "expect",
    "listed",
]

CONNECT_TIMEOUT_S_MAX = 86_400


def expect(name: str, value: object, kind: type[Any], words: str) -> None:
    """Raise `ArgumentError` unless `value` is of `kind`, described by `words`."""
    if not isinstance(value, kind):
        raise ArgumentError(f"{name} is {value!r:.100}, expected {words}")


def listed(name: str, values: Any, words: str) -> list[Any]:
    """Return `values` as a list, or raise `ArgumentError` if they are none."""
    if not isinstance(values, Iterable) or isinstance(values, (bytes, bytearray)):
        raise ArgumentError(f"{name} is {values!r:.100}, expected {words}")
    return list(values)


def check_timeout(timeout: Any) -> float | None:
    """Return the timeout in seconds, None if it is longer than any wait, or raise `ArgumentError`."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or math.isnan(timeout):
        raise ArgumentError(f"timeout is {timeout!r:.100}, expected a number of seconds, or None")
    return None if timeout > threading.TIMEOUT_MAX else max(0.0, timeout)


def check_qos(qos: Any) -> int:
    """Return the QoS as a plain int: other integers (an enum's, for example) are welcome."""
    if isinstance(qos, bool) or not isinstance(qos, int):
        raise ArgumentError(f"qos is {qos!r:.100}, expected 0, 1 or 2")
    return int(qos)


def check_retain(retain: object) -> int:
    """Return the RETAIN flag; not by truth, which would retain a message for the "no" of somebody's settings."""
    if not isinstance(retain, int) or retain not in (0, 1):
        raise ArgumentError(f"retain is {retain!r:.100}, expected True or False")
    return int(retain)


def copy_payload(payload: object) -> bytes:
    """Return a copy of the payload as bytes, or raise `ArgumentError`."""
    if payload is None:
        return b""
    if isinstance(payload, str):
        try:
            return payload.encode()
        except UnicodeEncodeError as error:
            raise ArgumentError(f"payload holds a lone surrogate, which UTF-8 can't express: {error}") from error
    if isinstance(payload, (bytes, bytearray, memoryview)):
        return bytes(payload)
    raise ArgumentError(f"payload is of type {type(payload).__name__}, expected bytes, bytearray, memoryview, str or None")


def check_address(address: object) -> Address:
    """Return the address, or raise if it can't be one, or is of a kind that we don't speak."""
    if isinstance(address, str):
        address = parse_address(address)
    if not isinstance(address, Address):
        raise ArgumentError(f"address is {address!r:.100}, expected a str like 'mqtt://host:1883', or an Address")
    if address.scheme in {"ws", "wss"}:
        raise NotSupportedError(f"cannot connect to {address}: WebSocket is not supported yet")
    return address


def encode_password(password: object) -> bytes | None:
    """Return the password as bytes."""
    if isinstance(password, str):
        try:
            return password.encode()
        except UnicodeEncodeError:
            # The value stays unsaid: it is a secret.
            raise ArgumentError("password holds a lone surrogate, which UTF-8 can't express") from None
    if password is None or isinstance(password, bytes):
        return password
    raise ArgumentError(f"password is of type {type(password).__name__}, expected bytes, str or None")


def check_identity(client_id: object, will: object) -> None:
    """Raise for what can't be a Client Identifier (other clients take a port in its place) or a Will; the encoder checks the rest."""
    expect("client_id", client_id, str, "a str; a port belongs to the address: 'localhost:1883'")
    if will is not None:
        expect("will", will, MQTTWill, "MQTTWill or None")


def check_connect_properties(properties: MQTTConnectProps | None, authenticator: Authenticator | None) -> MQTTConnectProps:
    """Return the properties of CONNECT, with the authenticator's method."""
    if properties is None:
        properties = MQTTConnectProps.EMPTY
    expect("connect_properties", properties, MQTTConnectProps, "MQTTConnectProps or None")
    if authenticator is not None:
        for name in ("method", "start", "respond", "finish"):
            if not hasattr(authenticator, name):
                raise ArgumentError(f"authenticator is {authenticator!r:.100}, expected an Authenticator: it has no {name}")
        return properties.replace(AuthenticationMethod=authenticator.method, AuthenticationData=None)
    if properties.AuthenticationMethod is not None:
        raise ArgumentError("connect_properties name an AuthenticationMethod, and no authenticator is given to answer the server")
    return properties


def check_transport_options(options: dict[str, Any]) -> None:
    """Raise for options that no attempt could succeed with."""
    address: Address = options["address"]
    timeout_s = options["timeout_s"]
    if isinstance(timeout_s, bool) or not isinstance(timeout_s, (int, float)) or not 0 < timeout_s <= CONNECT_TIMEOUT_S_MAX:
        raise ArgumentError(f"connect_timeout is {timeout_s!r:.100}, expected more than 0 and at most {CONNECT_TIMEOUT_S_MAX:,} s")
    for name in ("tls_context", "server_hostname", "alpn"):
        if options[name] is not None and not address.tls:
            raise ArgumentError(f"{name} is {options[name]!r:.100}, and needs an address with TLS (mqtts://), not {address}")
    context = options["tls_context"]
    if context is not None and not hasattr(context, "wrap_bio"):
        raise ArgumentError(f"tls_context is {context!r:.100}, expected ssl.SSLContext")
    if options["server_hostname"] is not None:
        expect("server_hostname", options["server_hostname"], str, "a str")
    protocols = options["alpn"]
    if protocols is not None and (
        not isinstance(protocols, (list, tuple))
        or not all(isinstance(name, str) and name.isascii() and 1 <= len(name) <= 255 for name in protocols)
    ):
        raise ArgumentError(f"alpn is {protocols!r:.100}, expected names of 1 to 255 ASCII characters")
    source = options["source_address"]
    if source is not None and not (
        isinstance(source, tuple)
        and len(source) == 2
        and isinstance(source[0], str)
        and isinstance(source[1], int)
        and 0 <= source[1] <= 65_535
    ):
        raise ArgumentError(f"source_address is {source!r:.100}, expected (host, port) with a port of 0 to 65,535")
    options["socket_options"] = listed("socket_options", options["socket_options"], "(level, option, value) each")
    for option in options["socket_options"]:
        if not (
            isinstance(option, tuple)
            and len(option) == 3
            and isinstance(option[0], int)
            and isinstance(option[1], int)
            and isinstance(option[2], (int, bytes))
        ):
            raise ArgumentError(f"socket_options holds {option!r:.100}, expected (level, option, value) each")
