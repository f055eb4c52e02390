"""A small SCRAM-SHA-256 server for tests: it keeps verifiers instead of passwords, and lets nobody in without a correct proof.

Written from RFC 5802 and independent of ``ohmqtt.auth``, down to PBKDF2; it checks what it gets strictly, so that a sloppy client fails.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass


def sha256_hmac(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()


def salted_password_of(password: bytes, salt: bytes, iterations: int) -> bytes:
    """Hi() of RFC 5802 section 2.2, as it is written there."""
    block = sha256_hmac(password, salt + b"\0\0\0\1")
    result = int.from_bytes(block, "big")
    for _ in range(iterations - 1):
        block = sha256_hmac(password, block)
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
    salted_password = salted_password_of(prepared_password, salt, iterations)
    client_key = sha256_hmac(salted_password, b"Client Key")
    return Verifier(salt, iterations, hashlib.sha256(client_key).digest(), sha256_hmac(salted_password, b"Server Key"))


class Refused(Exception):
    """The server lets this client not in."""


class ScramServer:
    """One exchange: ``challenge`` answers the client's first message, ``verify`` its final one. ``user_name`` tells who came in."""

    def __init__(self, users: dict[str, Verifier], nonce: str = "server-nonce") -> None:
        self.users = users
        self.nonce = nonce
        self.user_name: str | None = None
        self.client_first = ""
        self.server_first = ""
        self.full_nonce = ""

    def challenge(self, message: bytes) -> bytes:
        parsed = re.fullmatch(r"n,,(n=((?:[^,=]|=2C|=3D)+),r=([\x21-\x2b\x2d-\x7e]+))", message.decode())
        if parsed is None:
            raise Refused(f"no client-first-message: {message!r}")
        self.client_first = parsed[1]
        self.user_name = parsed[2].replace("=2C", ",").replace("=3D", "=")
        if self.user_name not in self.users:
            raise Refused(f"no user {self.user_name!r}")
        verifier = self.users[self.user_name]
        self.full_nonce = parsed[3] + self.nonce
        self.server_first = f"r={self.full_nonce},s={b64encode(verifier.salt).decode()},i={verifier.iterations}"
        return self.server_first.encode()

    def verify(self, message: bytes) -> bytes:
        assert self.user_name is not None
        parsed = re.fullmatch(r"(c=([^,]*),r=([^,]*)),p=([A-Za-z0-9+/]{43}=)", message.decode())
        if parsed is None:
            raise Refused(f"no client-final-message: {message!r}")
        if b64decode(parsed[2]) != b"n,,":
            raise Refused("the channel binding is not the header of the first message")
        if parsed[3] != self.full_nonce:
            raise Refused("the nonce is not ours")
        verifier = self.users[self.user_name]
        auth_message = f"{self.client_first},{self.server_first},{parsed[1]}".encode()
        client_signature = sha256_hmac(verifier.stored_key, auth_message)
        client_key = bytes(a ^ b for a, b in zip(b64decode(parsed[4]), client_signature, strict=True))
        if hashlib.sha256(client_key).digest() != verifier.stored_key:
            raise Refused("the proof is wrong")
        return b"v=" + b64encode(sha256_hmac(verifier.server_key, auth_message))
