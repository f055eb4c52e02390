"""Addresses: what is accepted and what it means, what is refused and how, and that no message shows a secret."""

from __future__ import annotations

import copy
import pickle
import traceback
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ohmqtt.address import Address, parse_address
from ohmqtt.errors import ArgumentError, MQTTError

ACCEPTED = [
    ("localhost", Address("mqtt", "localhost", 1883)),
    ("localhost:8883", Address("mqtt", "localhost", 8883)),
    ("127.0.0.1", Address("mqtt", "127.0.0.1", 1883)),
    ("mqtt://broker.example", Address("mqtt", "broker.example", 1883)),
    ("mqtt://broker.example/", Address("mqtt", "broker.example", 1883)),
    ("MQTT://Broker.Example:1", Address("mqtt", "Broker.Example", 1)),
    ("mqtts://broker.example", Address("mqtts", "broker.example", 8883)),
    ("mqtts://broker.example.:65535", Address("mqtts", "broker.example.", 65535)),
    ("[::1]", Address("mqtt", "::1", 1883)),
    ("[::1]:1884", Address("mqtt", "::1", 1884)),
    ("mqtts://[2001:db8::1]", Address("mqtts", "2001:db8::1", 8883)),
    ("mqtt://[fe80::1%eth0]:1883", Address("mqtt", "fe80::1%eth0", 1883)),
    ("ws://broker.example", Address("ws", "broker.example", 80, "/")),
    ("ws://broker.example:9001/mqtt?tenant=7", Address("ws", "broker.example", 9001, "/mqtt?tenant=7")),
    ("wss://broker.example/mqtt", Address("wss", "broker.example", 443, "/mqtt")),
    ("unix:/run/mosquitto.sock", Address("unix", path="/run/mosquitto.sock")),
    ("unix:///run/mosquitto.sock", Address("unix", path="/run/mosquitto.sock")),
    ("UNIX:/Run/X", Address("unix", path="/Run/X")),
    ("ws://localhost?x", Address("ws", "localhost", 80, "/?x")),
    ("unix:/a folder/100%25@#?", Address("unix", path="/a folder/100%25@#?")),
    ("unix://me:secret@/run/mosquitto.sock", Address("unix", path="/run/mosquitto.sock", user_name="me", password=b"secret")),
    ("unix", Address("mqtt", "unix", 1883)),
    ("my_host-1", Address("mqtt", "my_host-1", 1883)),
    ("bücher.example", Address("mqtt", "bücher.example", 1883)),
    ("me@localhost", Address("mqtt", "localhost", 1883, user_name="me")),
    ("me:@localhost", Address("mqtt", "localhost", 1883, user_name="me", password=b"")),
    ("@localhost", Address("mqtt", "localhost", 1883)),
    (":secret@localhost", Address("mqtt", "localhost", 1883, password=b"secret")),
    ("mqtts://me:s:e@c@[::1]:1", Address("mqtts", "::1", 1, user_name="me", password=b"s:e@c")),
    ("mqtt://m%C3%BCller%40x:%00%ff%2F%25@localhost", Address("mqtt", "localhost", 1883, user_name="müller@x", password=b"\x00\xff/%")),
]

REFUSED = [
    ("", "host must be a name"),
    ("mqtt://", "host must be a name"),
    (":1883", "host must be a name"),
    ("a..b", "host must be a name"),
    (".", "host must be a name"),
    ("x" * 64, "host must be a name"),
    (".".join(["x" * 49] * 6), "host must be a name"),
    ("a^b", "host must be a name"),
    ("50%25", "host must be a name"),
    ("ü" * 64, "no valid internationalised name"),
    ("local host", "spaces and control characters"),
    ("localhost\n", "spaces and control characters"),
    ("localhost\x7f", "spaces and control characters"),
    ("localhost:", "port must be a number from 1 to 65,535"),
    ("localhost:0", "port must be a number from 1 to 65,535"),
    ("localhost:65536", "port must be a number from 1 to 65,535"),
    ("localhost:-1", "port must be a number from 1 to 65,535"),
    ("localhost:1_0", "port must be a number from 1 to 65,535"),
    ("localhost:١", "port must be a number from 1 to 65,535"),
    ("localhost:" + "9" * 5000, "port must be a number from 1 to 65,535"),
    ("::1", "an IPv6 address is written in brackets"),
    ("[::1", "written [address] or [address]:port"),
    ("[::1]1883", "written [address] or [address]:port"),
    ("[]", "no IPv6 address stands between the brackets"),
    ("[127.0.0.1]", "no IPv6 address stands between the brackets"),
    ("[::1\0]", "spaces and control characters"),
    ("[fe80::1%]", "the zone after % is empty"),
    ("http://localhost", "scheme must be one of mqtt, mqtts, unix, ws, wss"),
    ("://localhost", "scheme must be one of"),
    ("mqtt://localhost/topic", "nothing may follow the port"),
    ("mqtt://localhost?client_id=x", "nothing may follow the port"),
    ("localhost#x", "nothing may follow the port"),
    ("ws://localhost/mqtt#part", "an ASCII path, perhaps with a ?query, and no #fragment"),
    ("ws://localhost/ü", "an ASCII path"),
    ("unix:", "must be absolute"),
    ("unix:run/mosquitto.sock", "must be absolute"),
    ("unix://", "must be absolute"),
    ("unix://run/mosquitto.sock", "a Unix socket has no host"),
    ("unix:/a\0b", "can't hold U+0000"),
    ("unix:/\ud800", "can't be encoded for the file system"),
    ("unix:/" + "x" * 107, "has 108 bytes, at most 107 fit"),
    ("unix:/" + "ü" * 54, "has 109 bytes, at most 107 fit"),
    ("%00@localhost", "the user name can't hold U+0000"),
    ("%ff@localhost", "the user name in UTF-8"),
    ("me:50%@localhost", "must be percent-encoded"),
    ("me:50%2@localhost", "must be percent-encoded"),
    ("me:50%zz@localhost", "must be percent-encoded"),
    ("me:\ud800@localhost", "must be percent-encoded"),
]


@pytest.mark.parametrize(("text", "address"), ACCEPTED, ids=[text for text, _ in ACCEPTED])
def test_address_is_taken_apart(text: str, address: Address) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize(("text", "words"), REFUSED, ids=[ascii(text)[:40] for text, _ in REFUSED])
def test_bad_address_is_refused_with_a_reason(text: str, words: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        parse_address(text)
    assert words in str(caught.value)
    assert isinstance(caught.value, MQTTError)
    assert isinstance(caught.value, ValueError)


def test_address_must_be_a_str() -> None:
    with pytest.raises(ArgumentError, match="address must be a str, not bytes"):
        parse_address(b"localhost")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "tls"),
    [("localhost:8883", False), ("mqtts://localhost", True), ("wss://localhost", True), ("ws://localhost", False), ("unix:/x", False)],
)
def test_the_scheme_alone_decides_on_tls(text: str, tls: bool) -> None:
    assert parse_address(text).tls is tls


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("token:secret@localhost", "mqtt://localhost:1883"),
        ("mqtts://token:secret@[::1]", "mqtts://[::1]:8883"),
        ("ws://localhost/mqtt", "ws://localhost:80/mqtt"),
        ("unix:///run/x", "unix:/run/x"),
    ],
)
def test_text_forms_say_where_and_not_who(text: str, shown: str) -> None:
    address = parse_address(text)
    assert str(address) == shown
    assert repr(address) == f"<Address {shown}>"
    assert parse_address(shown) == Address(address.scheme, address.host, address.port, address.path)


@pytest.mark.parametrize(
    "text",
    [
        "token:secret@local host",
        "http://token:secret@localhost",
        "mqtt://token:secret@localhost:x",
        "mqtt://token:secret@localhost/x",
        "mqtt://token:se/secret@localhost",
        "mqtt://token:secret@::1",
        "mqtt://token:secret%@localhost",
        "mqtt://token%ff:secret@localhost",
        "mqtt://token%00:secret@localhost",
        "unix://token:secret@run/x",
        "unix://token:secret@/" + "x" * 120,
        "token://secret@localhost:1:2",
        "token:secret@",
        "token:secret@[::x]",
        "token:secret@x\ud800",
    ],
)
def test_no_error_shows_the_credentials(text: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        parse_address(text)
    # Only what is printed, not the source lines of this test.
    printed = "".join(line for line in traceback.format_exception(caught.value) if not line.startswith("  File"))
    assert "secret" not in printed
    assert "token" not in printed or text.startswith("token://")


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=60))
def test_any_text_gives_an_address_or_an_argument_error(text: str) -> None:
    for prefix in ("", "mqtt://", "mqtts://me:", "ws://", "unix:", "unix://", "["):
        try:
            address = parse_address(prefix + text)
        except ArgumentError:
            continue
        assert parse_address(str(address)) == Address(address.scheme, address.host, address.port, address.path)


@settings(max_examples=40, deadline=None)
@given(st.text(min_size=1).filter(lambda text: "\0" not in text), st.binary())
def test_percent_encoded_credentials_come_back(user_name: str, password: bytes) -> None:
    encoded = "".join(f"%{byte:02x}" for byte in user_name.encode()) + ":" + "".join(f"%{byte:02X}" for byte in password)
    address = parse_address(f"mqtts://{encoded}@localhost")
    assert address.user_name == user_name
    assert address.password == password


def test_address_is_a_value() -> None:
    address = parse_address("mqtts://me:secret@localhost")
    same = parse_address("mqtts://me:secret@localhost:8883")
    assert address == same
    assert hash(address) == hash(same)
    assert address != parse_address("mqtts://me:other@localhost")
    assert address != "mqtts://localhost:8883"
    assert copy.copy(address) == copy.deepcopy(address) == pickle.loads(pickle.dumps(address)) == address


def test_address_cannot_be_changed() -> None:
    address = parse_address("localhost")
    with pytest.raises(AttributeError, match=r"can't be changed \(port\)"):
        address.port = 1
    with pytest.raises(AttributeError, match=r"can't be changed \(port\)"):
        del address.port
    with pytest.raises(AttributeError):
        address.more = 1


def test_paths_of_files_are_taken_as_they_are_written(tmp_path: Path) -> None:
    path = Path("/tmp") / tmp_path.name / "with space %20.sock"
    assert parse_address(f"unix:{path}").path == str(path)
