"""SCRAM-SHA-256 against the published exchange, and against a server that really verifies."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING

import pytest

import ohmqtt.auth as auth_module
from ohmqtt.auth import Authenticator, ScramSHA256
from ohmqtt.errors import ArgumentError, AuthenticationError
from ohmqtt.testing.scram import ScramServer, Verifier, make_verifier

if TYPE_CHECKING:
    from collections.abc import Callable

# RFC 7677 section 3.
PUBLISHED_NONCE = "rOprNGfwEbeRWgbNEkqO"
PUBLISHED = [
    b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
    b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
]


@pytest.fixture(scope="module")
def pencil() -> Verifier:
    return make_verifier(b"pencil")


def log_in(authenticator: Authenticator, server: ScramServer) -> None:
    """Carry the messages between the two ends, as CONNECT, AUTH, AUTH and CONNACK would."""
    first = authenticator.start()
    assert first is not None
    final = authenticator.respond(server.challenge(first))
    assert final is not None
    authenticator.finish(server.verify(final))


def published() -> ScramSHA256:
    return ScramSHA256("user", "pencil", nonce=lambda: PUBLISHED_NONCE)


def test_the_published_exchange_is_reproduced() -> None:
    client = published()
    assert client.method == "SCRAM-SHA-256"
    assert client.start() == PUBLISHED[0]
    assert client.respond(PUBLISHED[1]) == PUBLISHED[2]
    client.finish(PUBLISHED[3])


def test_the_server_of_these_tests_reproduces_the_published_exchange() -> None:
    server = ScramServer(
        {"user": make_verifier(b"pencil", bytes.fromhex("5b6d99689d12358eec a04b141236fa81"))}, "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    )
    assert server.challenge(PUBLISHED[0]) == PUBLISHED[1]
    assert server.verify(PUBLISHED[2]) == PUBLISHED[3]


def test_both_sides_prove_themselves(pencil: Verifier) -> None:
    server = ScramServer({"user": pencil})
    log_in(ScramSHA256("user", "pencil"), server)
    assert server.user_name == "user"


def test_a_wrong_password_is_refused_by_the_server(pencil: Verifier) -> None:
    with pytest.raises(AuthenticationError, match="the proof is wrong"):
        log_in(ScramSHA256("user", "crayon"), ScramServer({"user": pencil}))


def test_one_authenticator_serves_many_exchanges_each_with_a_new_nonce(pencil: Verifier) -> None:
    client = ScramSHA256("user", "pencil")
    nonces = set()
    for _ in range(3):
        server = ScramServer({"user": pencil})
        log_in(client, server)
        nonces.add(server.full_nonce)
    assert len(nonces) == 3
    assert client.method == "SCRAM-SHA-256"


def test_a_broken_off_exchange_leaves_nothing_behind(pencil: Verifier) -> None:
    client = ScramSHA256("user", "pencil")
    client.start()
    log_in(client, ScramServer({"user": pencil}))
    client.respond(ScramServer({"user": pencil}).challenge(client.start()))
    client.start()
    with pytest.raises(AuthenticationError, match="without asking for our proof"):
        client.finish(b"v=" + b64encode(bytes(32)))
    log_in(client, ScramServer({"user": pencil}))


@pytest.mark.parametrize("user_name", ["a,b", "a=b", "=2C", ",=,=", "ünï", "\U0001f511"])
def test_user_names_arrive_as_they_are(user_name: str, pencil: Verifier) -> None:
    server = ScramServer({user_name: pencil})
    log_in(ScramSHA256(user_name, "pencil"), server)
    assert server.user_name == user_name


# RFC 4013 section 3, and more of section 2.
@pytest.mark.parametrize(
    ("given", "prepared"),
    [
        ("I\u00adX", "IX"),
        ("user", "user"),
        ("USER", "USER"),
        ("\u00aa", "a"),
        ("\u2168", "IX"),
        ("a\u00a0b\u3000c", "a b c"),
        ("e\u0301", "\u00e9"),
        ("\u0627\u0628", "\u0627\u0628"),
        ("\u06271\u0628", "\u06271\u0628"),
    ],
)
def test_user_name_and_password_are_prepared(given: str, prepared: str) -> None:
    server = ScramServer({prepared: make_verifier(prepared.encode())})
    client = ScramSHA256(given, given)
    assert client.user_name == prepared
    log_in(client, server)


@pytest.mark.parametrize(
    "text", ["\u0007", "a\u007f", "\u200e", "\ue000", "\ufffd", "\u2ff0", "\U000e0001", chr(0xD800), "\ufdd0", "\u0340x\u206a"]
)
def test_prohibited_characters_are_refused_without_showing_them(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"^user name: character \d is prohibited by SASLprep"):
        ScramSHA256(text, "pencil")
    with pytest.raises(ArgumentError, match=r"^password: character \d is prohibited by SASLprep"):
        ScramSHA256("user", text)


@pytest.mark.parametrize("text", ["\u06271", "1\u0627", "\u0627a\u0628"])
def test_mixed_directions_are_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="mixes right-to-left with other characters"):
        ScramSHA256("user", text)


def test_characters_newer_than_saslprep_may_be_in_user_names_and_in_passwords_given_as_bytes() -> None:
    key = "\U0001f511"
    with pytest.raises(ArgumentError, match="password: character 0 is unknown to SASLprep"):
        ScramSHA256("user", key)
    log_in(ScramSHA256(key, key.encode()), ScramServer({key: make_verifier(key.encode())}))


def test_an_empty_password_is_a_password() -> None:
    log_in(ScramSHA256("user", ""), ScramServer({"user": make_verifier(b"")}))


@pytest.mark.parametrize("user_name", ["", "\u00ad"])
def test_an_empty_user_name_is_refused(user_name: str) -> None:
    with pytest.raises(ArgumentError, match="user name is empty"):
        ScramSHA256(user_name, "pencil")


def test_what_is_not_text_is_refused() -> None:
    with pytest.raises(ArgumentError, match="user name must be a str, not bytes"):
        ScramSHA256(b"user", "pencil")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    with pytest.raises(ArgumentError, match="password must be a str, not int"):
        ScramSHA256("user", 5)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_the_password_is_not_shown() -> None:
    client = ScramSHA256("user", "pencil")
    assert repr(client) == "ScramSHA256('user', …)"
    client.respond(ScramServer({"user": Verifier(b"salt", 4_096, b"", b"")}).challenge(client.start()))
    assert "pencil" not in repr(client)


@pytest.mark.parametrize("nonce", ["", "a,b", "a b", "a\x7f", "é"])
def test_a_nonce_that_is_none_is_refused(nonce: str) -> None:
    with pytest.raises(ArgumentError, match="nonce must return printable ASCII"):
        ScramSHA256("user", "pencil", nonce=lambda: nonce).start()


NONCE, SALT = PUBLISHED_NONCE.encode() + b"%", b"W22ZaJ0SNY7soEsUEjb6gQ=="


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (None, "the server sent no Authentication Data"),
        (b"", "does not begin with nonce, salt and iteration count"),
        (b"r=\xff", "not UTF-8"),
        (b"m=x,r=" + NONCE + b",s=" + SALT + b",i=4096", "demands an extension"),
        (b"r=" + NONCE + b",s=" + SALT, "does not begin with nonce, salt and iteration count"),
        (b"s=" + SALT + b",r=" + NONCE + b",i=4096", "does not begin with nonce, salt and iteration count"),
        (b"r=,s=" + SALT + b",i=4096", "nonce is empty or not printable"),
        (b"r=" + NONCE + b"\0,s=" + SALT + b",i=4096", "nonce is empty or not printable"),
        (b"r=" + PUBLISHED_NONCE.encode() + b",s=" + SALT + b",i=4096", "nonce does not extend ours"),
        (b"r=x" + NONCE + b",s=" + SALT + b",i=4096", "nonce does not extend ours"),
        (b"r=" + NONCE[1:] + b",s=" + SALT + b",i=4096", "nonce does not extend ours"),
        (b"r=" + NONCE + b",s=,i=4096", "salt is empty"),
        (b"r=" + NONCE + b",s=!!!!,i=4096", "salt is not base64"),
        (b"r=" + NONCE + b",s=W22,i=4096", "salt is not base64"),
        (b"r=" + NONCE + b",s=W\xc3\xa9==,i=4096", "salt is not base64"),
        (b"r=" + NONCE + b",s=" + SALT + b",i=4095", r"iteration count '4095' is not in 4,096 to 1,000,000"),
        (b"r=" + NONCE + b",s=" + SALT + b",i=1", "iteration count '1'"),
        (b"r=" + NONCE + b",s=" + SALT + b",i=1000001", "iteration count '1000001'"),
        (b"r=" + NONCE + b",s=" + SALT + b",i=" + b"9" * 60_000, r"iteration count '9{20}' is not"),
        (b"r=" + NONCE + b",s=" + SALT + b",i=-4096", "iteration count '-4096'"),
        (b"r=" + NONCE + b",s=" + SALT + b",i=", "iteration count ''"),
        (b"r=" + NONCE + b",s=" + SALT + ",i=٤٠٩٦".encode(), "iteration count"),
        (b"r=" + NONCE + b",s=" + SALT + ",i=4²00".encode(), "iteration count"),
    ],
)  # fmt: skip
def test_a_bad_first_message_of_the_server_is_refused(message: bytes | None, reason: str) -> None:
    client = published()
    client.start()
    with pytest.raises(AuthenticationError, match=reason):
        client.respond(message)
    with pytest.raises(AuthenticationError, match="without asking for our proof"):
        client.finish(PUBLISHED[3])


@pytest.mark.parametrize("iterations", [4_096, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_iteration_counts_up_to_both_limits_are_accepted(iterations: int) -> None:
    client = published()
    client.start()
    assert client.respond(b"r=" + NONCE + b",s=" + SALT + b",i=%d" % iterations).startswith(b"c=biws,r=" + NONCE + b",p=")


def test_extensions_that_need_not_be_understood_are_left_aside() -> None:
    client = published()
    client.start()
    client.respond(PUBLISHED[1] + b",x=unknown")
    signature = client._server_signature
    client.finish(b"v=" + b64encode(signature) + b",x=unknown")


def forged(change: Callable[[bytes], bytes | None]) -> None:
    client = published()
    client.start()
    client.respond(PUBLISHED[1])
    client.finish(change(PUBLISHED[3]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda _: None, "the server sent no Authentication Data"),
        (lambda _: b"", "has no signature"),
        (lambda _: b"v=", "signature is wrong"),
        (lambda _: b"v=*", "signature is not base64"),
        (lambda _: b"v=\xff", "not UTF-8"),
        (lambda message: message.replace(b"v=6", b"v=7"), "signature is wrong, it does not know the password"),
        (lambda message: message[:-4], "signature is wrong"),
        (lambda message: b"x=1," + message, "has no signature"),
        (lambda message: b"e=invalid-proof," + message, "the server reported the error 'invalid-proof'"),
        (lambda _: "e=\x1b[2Jé".encode() + b"x" * 60_000, r"the server reported the error '\\x1b\[2J\\xe9x{75}'$"),
    ],
)  # fmt: skip
def test_a_server_that_does_not_prove_itself_is_refused(change: Callable[[bytes], bytes | None], reason: str) -> None:
    with pytest.raises(AuthenticationError, match=reason):
        forged(change)


def test_a_server_without_the_password_is_refused(pencil: Verifier) -> None:
    impostor = Verifier(pencil.salt, pencil.iterations, pencil.stored_key, bytes(32))
    with pytest.raises(AuthenticationError, match="does not know the password"):
        log_in(ScramSHA256("user", "pencil"), ScramServer({"user": impostor}))


def test_a_server_that_skips_the_challenge_is_refused() -> None:
    client = published()
    with pytest.raises(AuthenticationError, match="without asking for our proof"):
        client.finish(PUBLISHED[3])
    client.start()
    with pytest.raises(AuthenticationError, match="without asking for our proof"):
        client.finish(PUBLISHED[3])


def test_a_server_that_asks_twice_or_out_of_turn_is_refused() -> None:
    client = published()
    with pytest.raises(AuthenticationError, match="asked for more than one answer"):
        client.respond(PUBLISHED[1])
    client.start()
    client.respond(PUBLISHED[1])
    with pytest.raises(AuthenticationError, match="asked for more than one answer"):
        client.respond(PUBLISHED[1])


def test_a_final_message_counts_once() -> None:
    client = published()
    client.start()
    client.respond(PUBLISHED[1])
    client.finish(PUBLISHED[3])
    with pytest.raises(AuthenticationError, match="without asking for our proof"):
        client.finish(PUBLISHED[3])


def test_the_public_names_are_these() -> None:
    assert set(auth_module.__all__) == {"Authenticator", "ScramSHA256"}
