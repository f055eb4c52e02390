"""The server's side of SCRAM-SHA-256 (RFC 5802, RFC 7677): it keeps verifiers instead of passwords, and lets nobody in without a proof.

Written from the RFC and independent of ``ohmqtt.auth``, down to PBKDF2; it checks what it gets strictly, so that a sloppy client fails.
For tests: it tells a client which user names exist, and PBKDF2 in Python is slow.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import AuthenticationError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ScramServer", "Verifier", "make_verifier"]


def _sha256_hmac(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()


def _salted_password(password: bytes, salt: bytes, iterations: int) -> bytes:
    """Compute Hi() of RFC 5802 section 2.2, as it is written there."""
    block = _sha256_hmac(password, salt + b"\0\0\0\1")
    result = int.from_bytes(block, "big")
    for _ in range(iterations - 1):
        block = _sha256_hmac(password, block)
        result ^= int.from_bytes(block, "big")
    return result.to_bytes(32, "big")


@dataclass
class Verifier:
    """What the server keeps of a user (RFC 5802 section 3)."""

    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes


def make_verifier(prepared_password: bytes, salt: bytes = b"salt of the tests", iterations: int = 4_096) -> Verifier:
    """Return the verifier of a password that went through SASLprep. It takes some 10 ms, so make it once."""
    salted_password = _salted_password(prepared_password, salt, iterations)
    client_key = _sha256_hmac(salted_password, b"Client Key")
    return Verifier(salt, iterations, hashlib.sha256(client_key).digest(), _sha256_hmac(salted_password, b"Server Key"))


class ScramServer:
    """One exchange: ``challenge`` answers the client's first message, ``verify`` its final one. ``user_name`` tells who came in.

    For a broker: ``BrokerSettings(authenticators={"SCRAM-SHA-256": lambda: ScramServer(users)})``. The nonce is always the same unless
    one is given, so that tests can be repeated.
    """

    def __init__(self, users: Mapping[str, Verifier], nonce: str = "server-nonce") -> None:
        self.users = users
        self.nonce = nonce
        self.user_name: str | None = None
        self.client_first = ""
        self.server_first = ""
        self.full_nonce = ""

    def step(self, data: bytes | None) -> tuple[bool, bytes | None]:
        """Answer the next message; see ``ServerAuthenticator``.

        Raises:
            AuthenticationError: the client is refused.
        """
        if self.user_name is None:
            return False, self.challenge(data or b"")
        return True, self.verify(data or b"")

    def challenge(self, message: bytes) -> bytes:
        """Return the server-first-message.

        Raises:
            AuthenticationError: no client-first-message, or no such user.
        """
        parsed = re.fullmatch(r"n,,(n=((?:[^,=]|=2C|=3D)+),r=([\x21-\x2b\x2d-\x7e]+))", message.decode(errors="replace"))
        if parsed is None:
            raise AuthenticationError(f"no client-first-message: {message!r}")
        self.client_first = parsed[1]
        user_name = parsed[2].replace("=2C", ",").replace("=3D", "=")
        self.user_name = user_name
        if user_name not in self.users:
            raise AuthenticationError(f"no user {user_name!r}")
        verifier = self.users[user_name]
        self.full_nonce = parsed[3] + self.nonce
        self.server_first = f"r={self.full_nonce},s={b64encode(verifier.salt).decode()},i={verifier.iterations}"
        return self.server_first.encode()

    def verify(self, message: bytes) -> bytes:
        """Return the server-final-message.

        Raises:
            AuthenticationError: the proof is wrong, or belongs to another exchange.
        """
        assert self.user_name is not None
        parsed = re.fullmatch(r"(c=([^,]*),r=([^,]*)),p=([A-Za-z0-9+/]{43}=)", message.decode(errors="replace"))
        if parsed is None:
            raise AuthenticationError("no client-final-message")
        if parsed[2] != b64encode(b"n,,").decode():
            raise AuthenticationError("the channel binding is not the header of the first message")
        if parsed[3] != self.full_nonce:
            raise AuthenticationError("the nonce is not ours")
        verifier = self.users[self.user_name]
        auth_message = f"{self.client_first},{self.server_first},{parsed[1]}".encode()
        client_signature = _sha256_hmac(verifier.stored_key, auth_message)
        client_key = bytes(a ^ b for a, b in zip(b64decode(parsed[4]), client_signature, strict=True))
        if hashlib.sha256(client_key).digest() != verifier.stored_key:
            raise AuthenticationError("the proof is wrong")
        return b"v=" + b64encode(_sha256_hmac(verifier.server_key, auth_message))
