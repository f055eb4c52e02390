"""Enhanced authentication (section 4.12): what an authenticator is, and a ready one, SCRAM-SHA-256 (RFC 5802, RFC 7677).

Owns the conversation about Authentication Data, as bytes. Knows no packets and no connection: whoever calls puts the data into CONNECT and
AUTH and takes it from AUTH and CONNACK. An authenticator is called by one thread at a time and may take its time.

Invariant: ``ScramSHA256.finish`` returns only if the server has proved, in this very exchange, that it knows the password's verifier.
"""

from __future__ import annotations

import secrets
import stringprep
import unicodedata
from base64 import b64decode, b64encode
from hashlib import pbkdf2_hmac, sha256
from hmac import compare_digest, digest
from typing import TYPE_CHECKING, Final, Protocol

from .errors import ArgumentError, AuthenticationError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Authenticator", "ScramSHA256"]

# RFC 7677 section 4: fewer iterations make the password too easy to guess for whoever overhears the exchange.
SCRAM_ITERATIONS_MIN: Final = 4_096
# About a second of work; a server that asks for more would keep us busy instead of authenticating.
SCRAM_ITERATIONS_MAX: Final = 1_000_000
NONCE_BYTES: Final = 24

# RFC 5802 section 7: 'n' says that channel binding is not supported; there is no authorization identity.
_GS2_HEADER: Final = "n,,"


class Authenticator(Protocol):
    """What a client needs for enhanced authentication (section 4.12).

    An exchange is ``start``, any number of ``respond``, then ``finish`` if the server accepted. Each connection begins a new exchange, and so
    does each re-authentication; one that was broken off leaves no call behind, only the next ``start``.
    """

    @property
    def method(self) -> str:
        """The Authentication Method, the same in all packets of a connection [MQTT-4.12.0-5]. A plain attribute will do."""
        ...

    def start(self) -> bytes | None:
        """Return the Authentication Data for CONNECT, or for the AUTH with reason code 0x19 that re-authenticates; None for none."""

    def respond(self, data: bytes | None) -> bytes | None:
        """Return the Authentication Data of our answer to an AUTH with reason code 0x18 that carried ``data``.

        Raises:
            AuthenticationError: the exchange is refused, and the connection ends.
        """

    def finish(self, data: bytes | None) -> None:
        """Check the Authentication Data of the successful CONNACK, or of the AUTH with reason code 0x00.

        Raises:
            AuthenticationError: the server did not prove itself, and the connection ends.
        """


class ScramSHA256:
    """SCRAM-SHA-256: the server learns that we know the password, and we that the server knows it, without sending it (RFC 5802, RFC 7677).

    ``user_name`` and ``password`` are prepared with SASLprep (RFC 4013). A password given as bytes is used as it is, for servers that prepare
    it in another way or not at all. ``nonce`` makes the client's part of the nonce: printable ASCII without a comma, never the same twice.
    Channel binding is not offered, so the connection should be TLS.

    Raises:
        ArgumentError: the user name or the password can't be prepared, or the user name is empty.
    """

    __slots__ = ("_client_first", "_client_nonce", "_nonce", "_password", "_server_signature", "user_name")

    method: str = "SCRAM-SHA-256"

    def __init__(self, user_name: str, password: str | bytes, *, nonce: Callable[[], str] | None = None) -> None:
        # RFC 5802 section 5.1 takes the user name as a query, section 2.2 the password as a stored string.
        self.user_name = _saslprep(user_name, "user name", allow_unassigned=True)
        if not self.user_name:
            raise ArgumentError("user name is empty: SCRAM needs at least one character that SASLprep keeps")
        self._password = password if isinstance(password, bytes) else _saslprep(password, "password", allow_unassigned=False).encode()
        self._nonce = nonce or _random_nonce
        self._client_nonce = ""
        self._client_first = ""  # Empty: no exchange waits for the server's first message.
        self._server_signature = b""  # Empty: no exchange waits for the server's last message.

    def __repr__(self) -> str:
        return f"ScramSHA256({self.user_name!r}, …)"

    def start(self) -> bytes:
        """Begin an exchange and return the client's first message.

        Raises:
            ArgumentError: the ``nonce`` callable returned something that is no nonce.
        """
        nonce = self._nonce()
        if not _is_nonce(nonce):
            raise ArgumentError("nonce must return printable ASCII without spaces and commas, at least one character")
        escaped = self.user_name.replace("=", "=3D").replace(",", "=2C")
        self._client_nonce = nonce
        self._client_first = f"n={escaped},r={nonce}"
        self._server_signature = b""
        return (_GS2_HEADER + self._client_first).encode()

    def respond(self, data: bytes | None) -> bytes:
        """Return the client's final message, with its proof, for the server's first message.

        Raises:
            AuthenticationError: the message is not what SCRAM expects here, its nonce doesn't extend ours, or its iteration count is not
                between 4,096 and 1,000,000.
        """
        client_first, self._client_first = self._client_first, ""
        if not client_first:
            raise AuthenticationError("SCRAM-SHA-256: the server asked for more than one answer")
        server_first = _text(data)
        nonce, salt, iterations = _parse_server_first(server_first)
        if not nonce.startswith(self._client_nonce) or len(nonce) == len(self._client_nonce):
            raise AuthenticationError("SCRAM-SHA-256: the server's nonce does not extend ours")
        salted_password = pbkdf2_hmac("sha256", self._password, salt, iterations)
        client_key = digest(salted_password, b"Client Key", "sha256")
        without_proof = f"c={b64encode(_GS2_HEADER.encode()).decode()},r={nonce}"
        auth_message = f"{client_first},{server_first},{without_proof}".encode()
        client_signature = digest(sha256(client_key).digest(), auth_message, "sha256")
        proof = bytes(key ^ signature for key, signature in zip(client_key, client_signature, strict=True))
        self._server_signature = digest(digest(salted_password, b"Server Key", "sha256"), auth_message, "sha256")
        return f"{without_proof},p={b64encode(proof).decode()}".encode()

    def finish(self, data: bytes | None) -> None:
        """Check the server's final message.

        Raises:
            AuthenticationError: it is missing, reports an error, or its signature is wrong: the server doesn't know the password.
        """
        expected, self._server_signature = self._server_signature, b""
        if not expected:
            raise AuthenticationError("SCRAM-SHA-256: the server reported success without asking for our proof")
        attribute = _text(data).partition(",")[0]
        if attribute.startswith("e="):
            raise AuthenticationError(f"SCRAM-SHA-256: the server reported the error {attribute[2:82]!a}")
        if not attribute.startswith("v="):
            raise AuthenticationError("SCRAM-SHA-256: the server's final message has no signature")
        if not compare_digest(_base64(attribute[2:], "signature"), expected):
            raise AuthenticationError("SCRAM-SHA-256: the server's signature is wrong, it does not know the password")


def _random_nonce() -> str:
    return b64encode(secrets.token_bytes(NONCE_BYTES)).decode()


def _is_nonce(text: str) -> bool:
    """Tell whether this is what RFC 5802 section 7 calls printable, at least one character of it."""
    return bool(text) and all("!" <= character <= "~" and character != "," for character in text)


def _text(data: bytes | None) -> str:
    if data is None:
        raise AuthenticationError("SCRAM-SHA-256: the server sent no Authentication Data")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise AuthenticationError("SCRAM-SHA-256: the server's message is not UTF-8") from error


def _base64(text: str, field: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError as error:
        raise AuthenticationError(f"SCRAM-SHA-256: the server's {field} is not base64") from error


def _parse_server_first(message: str) -> tuple[str, bytes, int]:
    """Return nonce, salt and iteration count of ``r=nonce,s=salt,i=count``; extensions that may follow are left aside."""
    if message.startswith("m="):  # RFC 5802 section 5.1: an extension that we must understand, and know none.
        raise AuthenticationError("SCRAM-SHA-256: the server demands an extension that this client does not know")
    attributes = message.split(",")
    if [attribute[:2] for attribute in attributes[:3]] != ["r=", "s=", "i="]:
        raise AuthenticationError("SCRAM-SHA-256: the server's first message does not begin with nonce, salt and iteration count")
    nonce, salt_text, count = (attribute[2:] for attribute in attributes[:3])
    if not _is_nonce(nonce):
        raise AuthenticationError("SCRAM-SHA-256: the server's nonce is empty or not printable ASCII")
    salt = _base64(salt_text, "salt")
    if not salt:
        raise AuthenticationError("SCRAM-SHA-256: the server's salt is empty")
    # The length first: int() of endless digits is slow, and isdigit alone is true for other scripts.
    if len(count) > 9 or not (count.isascii() and count.isdigit()) or not SCRAM_ITERATIONS_MIN <= int(count) <= SCRAM_ITERATIONS_MAX:
        raise AuthenticationError(
            f"SCRAM-SHA-256: the server's iteration count {count[:20]!a} is not in {SCRAM_ITERATIONS_MIN:,} to {SCRAM_ITERATIONS_MAX:,}"
        )
    return nonce, salt, int(count)


_PROHIBITED: Final = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


def _saslprep(text: str, field: str, *, allow_unassigned: bool) -> str:
    """Prepare a text with SASLprep (RFC 4013). Errors name the field and never the text, which may be a password."""
    if not isinstance(text, str):
        raise ArgumentError(f"{field} must be a str, not {type(text).__name__}")
    mapped = "".join(
        " " if stringprep.in_table_c12(character) else character for character in text if not stringprep.in_table_b1(character)
    )
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    for index, character in enumerate(prepared):
        if any(in_table(character) for in_table in _PROHIBITED):
            raise ArgumentError(f"{field}: character {index} is prohibited by SASLprep (RFC 4013 section 2.3)")
        if not allow_unassigned and stringprep.in_table_a1(character):
            raise ArgumentError(f"{field}: character {index} is unknown to SASLprep (RFC 4013 section 2.5); bytes are taken as they are")
    # RFC 3454 section 6: text that holds right-to-left characters begins and ends with one and holds none from left to right.
    right_to_left = [stringprep.in_table_d1(character) for character in prepared]
    if any(right_to_left) and not (
        right_to_left[0] and right_to_left[-1] and not any(stringprep.in_table_d2(character) for character in prepared)
    ):
        raise ArgumentError(f"{field}: mixes right-to-left with other characters in a way that SASLprep prohibits (RFC 4013 section 2.4)")
    return prepared
