"""A strict MQTT 5.0 parser for tests, written from the standard and independent of the library's own codec.

It owns the judgement whether bytes are a legal packet: reserved flags, minimal lengths, field order, property tables, trailing bytes, and
what each side may send at all. It must not import ohmqtt: a mistake that both shared would be seen by nobody. It is slow on purpose.
Invariant: what it returns, the standard allows; anything else raises ``NotStrictError``, whose message names the rule.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "KINDS",
    "PROPERTIES",
    "NotStrictError",
    "WirePacket",
    "encode_packet",
    "encode_properties",
    "parse_packet",
    "parse_stream",
    "split_packet",
]

KINDS = (
    "RESERVED",
    "CONNECT",
    "CONNACK",
    "PUBLISH",
    "PUBACK",
    "PUBREC",
    "PUBREL",
    "PUBCOMP",
    "SUBSCRIBE",
    "SUBACK",
    "UNSUBSCRIBE",
    "UNSUBACK",
    "PINGREQ",
    "PINGRESP",
    "DISCONNECT",
    "AUTH",
)

_FROM_CLIENT = {
    "CONNECT", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE", "UNSUBSCRIBE", "PINGREQ", "DISCONNECT", "AUTH",
}  # fmt: skip
_FROM_SERVER = {
    "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBACK", "UNSUBACK", "PINGRESP", "DISCONNECT", "AUTH",
}  # fmt: skip

# Table 2-4 of the standard. WILL stands for the will properties of CONNECT.
_ACKS = "PUBACK PUBREC PUBREL PUBCOMP"
PROPERTIES: dict[int, tuple[str, str, str]] = {
    0x01: ("PayloadFormatIndicator", "bool", "PUBLISH WILL"),
    0x02: ("MessageExpiryInterval", "uint32", "PUBLISH WILL"),
    0x03: ("ContentType", "string", "PUBLISH WILL"),
    0x08: ("ResponseTopic", "topic", "PUBLISH WILL"),
    0x09: ("CorrelationData", "binary", "PUBLISH WILL"),
    0x0B: ("SubscriptionIdentifier", "varint", "PUBLISH SUBSCRIBE"),
    0x11: ("SessionExpiryInterval", "uint32", "CONNECT CONNACK DISCONNECT"),
    0x12: ("AssignedClientIdentifier", "string", "CONNACK"),
    0x13: ("ServerKeepAlive", "uint16", "CONNACK"),
    0x15: ("AuthenticationMethod", "string", "CONNECT CONNACK AUTH"),
    0x16: ("AuthenticationData", "binary", "CONNECT CONNACK AUTH"),
    0x17: ("RequestProblemInformation", "bool", "CONNECT"),
    0x18: ("WillDelayInterval", "uint32", "WILL"),
    0x19: ("RequestResponseInformation", "bool", "CONNECT"),
    0x1A: ("ResponseInformation", "string", "CONNACK"),
    0x1C: ("ServerReference", "string", "CONNACK DISCONNECT"),
    0x1F: ("ReasonString", "string", f"CONNACK {_ACKS} SUBACK UNSUBACK DISCONNECT AUTH"),
    0x21: ("ReceiveMaximum", "uint16", "CONNECT CONNACK"),
    0x22: ("TopicAliasMaximum", "uint16", "CONNECT CONNACK"),
    0x23: ("TopicAlias", "uint16", "PUBLISH"),
    0x24: ("MaximumQoS", "bool", "CONNACK"),
    0x25: ("RetainAvailable", "bool", "CONNACK"),
    0x26: ("UserProperty", "pair", f"CONNECT CONNACK PUBLISH WILL {_ACKS} SUBSCRIBE SUBACK UNSUBSCRIBE UNSUBACK DISCONNECT AUTH"),
    0x27: ("MaximumPacketSize", "uint32", "CONNECT CONNACK"),
    0x28: ("WildcardSubscriptionAvailable", "bool", "CONNACK"),
    0x29: ("SubscriptionIdentifierAvailable", "bool", "CONNACK"),
    0x2A: ("SharedSubscriptionAvailable", "bool", "CONNACK"),
}
_PROPERTY_IDS = {name: identifier for identifier, (name, _kind, _packets) in PROPERTIES.items()}
_NEVER_ZERO = {"ReceiveMaximum", "TopicAlias", "MaximumPacketSize", "SubscriptionIdentifier"}

# Section 2.4, by packet and sender ("B": either).
_REASONS: dict[str, dict[int, str]] = {
    "CONNACK": dict.fromkeys(
        (0, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F),
        "S",
    ),
    "PUBACK": {**dict.fromkeys((0, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99), "B"), 0x10: "S"},
    "PUBREC": {**dict.fromkeys((0, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99), "B"), 0x10: "S"},
    "PUBREL": dict.fromkeys((0, 0x92), "B"),
    "PUBCOMP": dict.fromkeys((0, 0x92), "B"),
    "SUBACK": dict.fromkeys((0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2), "S"),
    "UNSUBACK": dict.fromkeys((0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91), "S"),
    "DISCONNECT": {
        **dict.fromkeys((0, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99), "B"),
        0x04: "C",
        **dict.fromkeys((0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2), "S"),
    },
    "AUTH": {0x00: "S", 0x18: "B", 0x19: "C"},
}


class NotStrictError(AssertionError):
    """The bytes break a rule of the standard; the message names it."""


class WirePacket:
    """A packet as it was on the wire: ``kind``, ``raw``, and one attribute for each field, named as the library names its records'.

    ``properties`` is a dictionary by the standard's names (``UserProperty`` and, in PUBLISH, ``SubscriptionIdentifier`` are lists);
    ``property_order`` lists the names as they came.
    """

    def __init__(self, kind: str, raw: bytes, fields: dict[str, Any]) -> None:
        self.kind = kind
        self.raw = raw
        self.fields = fields

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self.fields[name]
        except KeyError:
            raise AttributeError(f"{self.kind} has no field {name!r}, only {', '.join(self.fields)}") from None

    def __repr__(self) -> str:
        parts = [
            f"{name}={_short(value)}"
            for name, value in self.fields.items()
            if value not in (None, "", b"", {}, []) and name != "property_order"
        ]
        return f"{self.kind}({', '.join(parts)})"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:60]}… ({len(text)} characters)"


class _Reader:
    """Take fields off a body, and never a byte more than there is."""

    def __init__(self, kind: str, data: bytes) -> None:
        self.kind = kind
        self.data = data
        self.at = 0

    def left(self) -> int:
        return len(self.data) - self.at

    def take(self, count: int, what: str) -> bytes:
        if self.left() < count:
            raise NotStrictError(f"{self.kind}: {what} needs {count} bytes, {self.left()} are left")
        self.at += count
        return self.data[self.at - count : self.at]

    def uint8(self, what: str) -> int:
        return self.take(1, what)[0]

    def uint16(self, what: str) -> int:
        return int.from_bytes(self.take(2, what), "big")

    def uint32(self, what: str) -> int:
        return int.from_bytes(self.take(4, what), "big")

    def varint(self, what: str) -> int:
        value = 0
        for position in range(4):
            byte = self.uint8(what)
            value += (byte & 0x7F) << 7 * position
            if byte < 0x80:
                if position and byte == 0:
                    raise NotStrictError(f"{self.kind}: {what} is not in its shortest form [MQTT-1.5.5-1]")
                return value
        raise NotStrictError(f"{self.kind}: {what} has more than four bytes (section 1.5.5)")

    def binary(self, what: str) -> bytes:
        return self.take(self.uint16(f"the length of {what}"), what)

    def string(self, what: str) -> str:
        raw = self.binary(what)
        try:
            text = raw.decode("utf-8", "strict")
        except UnicodeDecodeError as error:
            raise NotStrictError(f"{self.kind}: {what} is not UTF-8 [MQTT-1.5.4-1]: {raw!r}") from error
        if "\0" in text:
            raise NotStrictError(f"{self.kind}: {what} holds U+0000 [MQTT-1.5.4-2]: {text!r}")
        return text

    def identifier(self) -> int:
        value = self.uint16("the packet identifier")
        if value == 0:
            raise NotStrictError(f"{self.kind}: packet identifier 0 [MQTT-2.2.1-3]")
        return value

    def end(self) -> None:
        if self.left():
            raise NotStrictError(f"{self.kind}: {self.left()} trailing bytes: {self.data[self.at :].hex(' ')}")


def _check_topic(kind: str, topic: str, what: str) -> None:
    if not topic:
        raise NotStrictError(f"{kind}: {what} is empty [MQTT-4.7.3-1]")
    if "+" in topic or "#" in topic:
        raise NotStrictError(f"{kind}: {what} holds a wildcard [MQTT-3.3.2-2]: {topic!r}")


def _check_filter(kind: str, topic_filter: str) -> None:
    if not topic_filter:
        raise NotStrictError(f"{kind}: an empty topic filter [MQTT-4.7.3-1]")
    matching = topic_filter
    if topic_filter == "$share" or topic_filter.startswith("$share/"):
        parts = topic_filter.split("/", 2)
        if len(parts) < 3 or not parts[2]:
            raise NotStrictError(f"{kind}: no filter after the share name [MQTT-4.8.2-2]: {topic_filter!r}")
        if not parts[1] or set(parts[1]) & set("+#"):
            raise NotStrictError(f"{kind}: a bad share name [MQTT-4.8.2-1]: {topic_filter!r}")
        matching = parts[2]
    levels = matching.split("/")
    for number, level in enumerate(levels):
        if "#" in level and (level != "#" or number != len(levels) - 1):
            raise NotStrictError(f"{kind}: '#' is not the whole last level [MQTT-4.7.1-1]: {topic_filter!r}")
        if "+" in level and level != "+":
            raise NotStrictError(f"{kind}: '+' is not a whole level [MQTT-4.7.1-2]: {topic_filter!r}")


def _property_value(reader: _Reader, name: str, value_kind: str) -> Any:
    value: Any
    if value_kind == "bool":
        value = reader.uint8(name)
        if value > 1:
            raise NotStrictError(f"{reader.kind}: {name} is {value}, not 0 or 1 (its section)")
    elif value_kind == "uint16":
        value = reader.uint16(name)
    elif value_kind == "uint32":
        value = reader.uint32(name)
    elif value_kind == "varint":
        value = reader.varint(name)
    elif value_kind == "binary":
        value = reader.binary(name)
    elif value_kind == "pair":
        value = (reader.string(f"the name of {name}"), reader.string(f"the value of {name}"))
    else:
        value = reader.string(name)
        if value_kind == "topic":
            _check_topic(reader.kind, value, name)
    if name in _NEVER_ZERO and value == 0:
        raise NotStrictError(f"{reader.kind}: {name} is 0 (its section)")
    return value


def _parse_properties(outer: _Reader, where: str) -> tuple[dict[str, Any], list[str]]:
    reader = _Reader(outer.kind, outer.take(outer.varint("the property length"), "the properties"))
    properties: dict[str, Any] = {}
    order: list[str] = []
    while reader.left():
        identifier = reader.varint("a property identifier")
        if identifier not in PROPERTIES:
            raise NotStrictError(f"{where}: unknown property 0x{identifier:02x} (section 2.2.2.2)")
        name, value_kind, packets = PROPERTIES[identifier]
        if where not in packets.split():
            raise NotStrictError(f"{where}: {name} doesn't belong here (section 2.2.2.2)")
        value = _property_value(reader, name, value_kind)
        order.append(name)
        if name == "UserProperty" or (name == "SubscriptionIdentifier" and where == "PUBLISH"):
            properties.setdefault(name, []).append(value)
        elif name in properties:
            raise NotStrictError(f"{where}: {name} twice (its section)")
        else:
            properties[name] = value
    if "AuthenticationData" in properties and "AuthenticationMethod" not in properties:
        raise NotStrictError(f"{where}: AuthenticationData without AuthenticationMethod (section 3.1.2.11.10)")
    return properties, order


def _check_reason(kind: str, code: int, sender: str | None) -> None:
    by = _REASONS[kind].get(code)
    if by is None:
        raise NotStrictError(f"{kind}: reason code 0x{code:02x} is not listed (section 2.4)")
    if sender is not None and by != "B" and by != sender[0].upper():
        raise NotStrictError(f"{kind}: reason code 0x{code:02x} is not for a {sender}")


def _connect(reader: _Reader, flags: int, sender: str | None, minimal: bool) -> dict[str, Any]:
    name, version = reader.binary("the protocol name"), reader.uint8("the protocol version")
    if name != b"MQTT" or version != 5:
        raise NotStrictError(f"CONNECT: protocol {name!r} version {version} [MQTT-3.1.2-1]")
    bits = reader.uint8("the connect flags")
    will_flag, will_qos, will_retain = bool(bits & 0x04), bits >> 3 & 3, bool(bits & 0x20)
    if bits & 0x01:
        raise NotStrictError("CONNECT: the reserved flag is set [MQTT-3.1.2-3]")
    if not will_flag and (will_qos or will_retain):
        raise NotStrictError("CONNECT: will QoS or will retain without a will [MQTT-3.1.2-11] [MQTT-3.1.2-13]")
    if will_qos == 3:
        raise NotStrictError("CONNECT: will QoS 3 [MQTT-3.1.2-12]")
    keep_alive = reader.uint16("the keep alive")
    properties, order = _parse_properties(reader, "CONNECT")
    client_id = reader.string("the client identifier")
    will: dict[str, Any] | None = None
    if will_flag:
        will_properties, will_order = _parse_properties(reader, "WILL")
        topic = reader.string("the will topic")
        _check_topic("CONNECT", topic, "the will topic")
        payload = reader.binary("the will payload")
        _check_payload_format("CONNECT", will_properties, payload)
        will = {
            "topic": topic,
            "payload": payload,
            "qos": will_qos,
            "retain": will_retain,
            "properties": will_properties,
            "property_order": will_order,
        }
    return {
        "client_id": client_id,
        "clean_start": bool(bits & 0x02),
        "keep_alive": keep_alive,
        "will": will,
        "user_name": reader.string("the user name") if bits & 0x80 else None,
        "password": reader.binary("the password") if bits & 0x40 else None,
        "properties": properties,
        "property_order": order,
    }


def _check_payload_format(kind: str, properties: dict[str, Any], payload: bytes) -> None:
    if properties.get("PayloadFormatIndicator") == 1:
        try:
            payload.decode("utf-8", "strict")
        except UnicodeDecodeError as error:
            raise NotStrictError(f"{kind}: the payload is marked as UTF-8 and isn't (section 3.3.2.3.2)") from error


def _connack(reader: _Reader, flags: int, sender: str | None, minimal: bool) -> dict[str, Any]:
    bits, code = reader.uint8("the acknowledge flags"), reader.uint8("the reason code")
    if bits & 0xFE:
        raise NotStrictError(f"CONNACK: acknowledge flags 0x{bits:02x} [MQTT-3.2.2-1]")
    if bits and code:
        raise NotStrictError("CONNACK: session present in a refusal [MQTT-3.2.2-6]")
    _check_reason("CONNACK", code, sender)
    properties, order = _parse_properties(reader, "CONNACK")
    return {"reason_code": code, "session_present": bool(bits), "properties": properties, "property_order": order}


def _publish(reader: _Reader, flags: int, sender: str | None, minimal: bool) -> dict[str, Any]:
    qos, dup = flags >> 1 & 3, bool(flags & 8)
    if qos == 3:
        raise NotStrictError("PUBLISH: QoS 3 [MQTT-3.3.1-4]")
    if dup and qos == 0:
        raise NotStrictError("PUBLISH: DUP with QoS 0 [MQTT-3.3.1-2]")
    topic = reader.string("the topic name")
    packet_id = reader.identifier() if qos else 0
    properties, order = _parse_properties(reader, "PUBLISH")
    if topic or "TopicAlias" not in properties:
        _check_topic("PUBLISH", topic, "the topic name")
    if sender == "client" and "SubscriptionIdentifier" in properties:
        raise NotStrictError("PUBLISH: a subscription identifier from a client [MQTT-3.3.4-6]")
    payload = reader.take(reader.left(), "the payload")
    _check_payload_format("PUBLISH", properties, payload)
    return {
        "topic": topic,
        "payload": payload,
        "qos": qos,
        "retain": bool(flags & 1),
        "dup": dup,
        "packet_id": packet_id,
        "properties": properties,
        "property_order": order,
    }


def _reason_and_properties(reader: _Reader, sender: str | None, minimal: bool) -> dict[str, Any]:
    """Parse the end that PUBACK … PUBCOMP, DISCONNECT and AUTH have in common: both fields may be left out."""
    kind = reader.kind
    code, properties_given = 0, False
    properties: dict[str, Any] = {}
    order: list[str] = []
    code_given = reader.left() > 0
    if code_given:
        code = reader.uint8("the reason code")
        # Only AUTH lacks the sentence that lets the property length be left out behind a reason code.
        properties_given = reader.left() > 0 or kind == "AUTH"
        if properties_given:
            properties, order = _parse_properties(reader, kind)
    _check_reason(kind, code, sender)
    if minimal and kind != "AUTH" and ((properties_given and not properties) or (code_given and not code and not properties_given)):
        raise NotStrictError(f"{kind}: longer than it need be (reason code 0 and no properties can be left out)")
    return {"reason_code": code, "properties": properties, "property_order": order}


def _ack(reader: _Reader, flags: int, sender: str | None, minimal: bool) -> dict[str, Any]:
    return {"packet_id": reader.identifier(), **_reason_and_properties(reader, sender, minimal)}


def _subscribe(reader: _Reader, flags: int, sender: str | None, minimal: bool) -> dict[str, Any]:
    packet_id = reader.identifier()
    properties, order = _parse_properties(reader, "SUBSCRIBE")
    subscriptions: list[dict[str, Any]] = []
    while reader.left():
        topic_filter, options = reader.string("a topic filter"), reader.uint8("subscription options")
        _check_filter("SUBSCRIBE", topic_filter)
        if options & 0xC0:
            raise NotStrictError(f"SUBSCRIBE: reserved option bits 0x{options:02x} [MQTT-3.8.3-5]")
        if options & 3 == 3 or options >> 4 & 3 == 3:
            raise NotStrictError(f"SUBSCRIBE: options 0x{options:02x}: maximum QoS 3 or retain handling 3 (section 3.8.3.1)")
        if options & 4 and topic_filter.startswith("$share/"):
            raise NotStrictError("SUBSCRIBE: No Local on a shared subscription [MQTT-3.8.3-4]")
        subscriptions.append(
            {
                "topic_filter": topic_filter,
                "max_qos": options & 3,
                "no_local": bool(options & 4),
                "retain_as_published": bool(options & 8),
                "retain_handling": options >> 4 & 3,
            }
        )
    if not subscriptions:
        raise NotStrictError("SUBSCRIBE: no topic filter [MQTT-3.8.3-2]")
    return {"packet_id": packet_id, "subscriptions": subscriptions, "properties": properties, "property_order": order}


def _unsubscribe(reader: _Reader, flags: int, sender: str | None, minimal: bool) -> dict[str, Any]:
    packet_id = reader.identifier()
    properties, order = _parse_properties(reader, "UNSUBSCRIBE")
    topic_filters: list[str] = []
    while reader.left():
        topic_filters.append(reader.string("a topic filter"))
        _check_filter("UNSUBSCRIBE", topic_filters[-1])
    if not topic_filters:
        raise NotStrictError("UNSUBSCRIBE: no topic filter [MQTT-3.10.3-2]")
    return {"packet_id": packet_id, "topic_filters": topic_filters, "properties": properties, "property_order": order}


def _codes(reader: _Reader, flags: int, sender: str | None, minimal: bool) -> dict[str, Any]:
    packet_id = reader.identifier()
    properties, order = _parse_properties(reader, reader.kind)
    codes = list(reader.take(reader.left(), "the reason codes"))
    if not codes:
        raise NotStrictError(f"{reader.kind}: no reason code [MQTT-3.8.4-6]")
    for code in codes:
        _check_reason(reader.kind, code, sender)
    return {"packet_id": packet_id, "reason_codes": codes, "properties": properties, "property_order": order}


def _nothing(reader: _Reader, flags: int, sender: str | None, minimal: bool) -> dict[str, Any]:
    return {}


def _disconnect(reader: _Reader, flags: int, sender: str | None, minimal: bool) -> dict[str, Any]:
    fields = _reason_and_properties(reader, sender, minimal)
    if sender == "server" and "SessionExpiryInterval" in fields["properties"]:
        raise NotStrictError("DISCONNECT: a session expiry interval from a server [MQTT-3.14.2-2]")
    if sender == "client" and "ServerReference" in fields["properties"]:
        raise NotStrictError("DISCONNECT: a server reference from a client (section 3.14.2.2.5)")
    return fields


def _auth(reader: _Reader, flags: int, sender: str | None, minimal: bool) -> dict[str, Any]:
    fields = _reason_and_properties(reader, sender, minimal)
    # Section 3.15.2.1 lets AUTH be empty, section 3.15.2.2.2 doesn't: an empty one passes when it is nobody's.
    if "AuthenticationMethod" not in fields["properties"] and (sender is not None or len(reader.data) > 0):
        raise NotStrictError("AUTH: no authentication method (section 3.15.2.2.2)")
    return fields


_BODIES = {
    "CONNECT": _connect,
    "CONNACK": _connack,
    "PUBLISH": _publish,
    "PUBACK": _ack,
    "PUBREC": _ack,
    "PUBREL": _ack,
    "PUBCOMP": _ack,
    "SUBSCRIBE": _subscribe,
    "SUBACK": _codes,
    "UNSUBSCRIBE": _unsubscribe,
    "UNSUBACK": _codes,
    "PINGREQ": _nothing,
    "PINGRESP": _nothing,
    "DISCONNECT": _disconnect,
    "AUTH": _auth,
}


def split_packet(data: bytes) -> tuple[bytes, bytes] | None:
    """Cut the first packet off a stream: (its bytes, the rest), or None while it is incomplete."""
    if len(data) < 2:
        return None
    length = 0
    for position in range(4):
        if len(data) < 2 + position:
            return None
        byte = data[1 + position]
        length += (byte & 0x7F) << 7 * position
        if byte < 0x80:
            if position and byte == 0:
                raise NotStrictError(f"the remaining length is not in its shortest form [MQTT-1.5.5-1]: {data[:6].hex(' ')}")
            size = 2 + position + length
            return (data[:size], data[size:]) if len(data) >= size else None
    raise NotStrictError(f"the remaining length has more than four bytes (section 1.5.5): {data[:6].hex(' ')}")


def parse_packet(data: bytes, sender: str | None = None, *, minimal: bool = True) -> WirePacket:
    """Parse exactly one packet.

    ``sender`` ("client" or "server") adds the rules for that side; ``minimal`` also refuses fields that could have been left out, which the
    standard allows and a good client avoids. Raises ``NotStrictError``.
    """
    parts = split_packet(data)
    if parts is None:
        raise NotStrictError(f"incomplete packet: {data[:64].hex(' ')}")
    if parts[1]:
        raise NotStrictError(f"{len(parts[1])} bytes behind the packet: {parts[1][:64].hex(' ')}")
    kind, flags = KINDS[data[0] >> 4], data[0] & 0x0F
    if kind == "RESERVED":
        raise NotStrictError("packet type 0 (section 2.1.2)")
    if kind != "PUBLISH" and flags != (0b0010 if kind in ("PUBREL", "SUBSCRIBE", "UNSUBSCRIBE") else 0):
        raise NotStrictError(f"{kind}: reserved flags {flags:04b} [MQTT-2.1.3-1]")
    if sender is not None and kind not in (_FROM_CLIENT if sender == "client" else _FROM_SERVER):
        raise NotStrictError(f"{kind} is not for a {sender} to send (table 2-1)")
    header = 1
    while data[header] & 0x80:
        header += 1
    reader = _Reader(kind, data[header + 1 :])
    try:
        fields = _BODIES[kind](reader, flags, sender, minimal)
        reader.end()
    except NotStrictError as error:
        raise NotStrictError(f"{error}; the packet: {data[:256].hex(' ')}") from error
    return WirePacket(kind, data, fields)


def parse_properties(data: bytes, where: str) -> tuple[dict[str, Any], list[str]]:
    """Parse a property block, length included, and nothing else. ``where`` is the packet's kind, or ``"WILL"``."""
    reader = _Reader(where, data)
    found = _parse_properties(reader, where)
    reader.end()
    return found


def parse_stream(data: bytes, sender: str | None = None, *, minimal: bool = True) -> list[WirePacket]:
    """Parse bytes that hold whole packets and nothing else."""
    packets: list[WirePacket] = []
    while data:
        parts = split_packet(data)
        if parts is None:
            raise NotStrictError(f"the stream ends inside a packet: {data[:64].hex(' ')}")
        packets.append(parse_packet(parts[0], sender, minimal=minimal))
        data = parts[1]
    return packets


def _varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = divmod(value, 128)
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def _prefixed(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return len(raw).to_bytes(2, "big") + raw


def encode_properties(**properties: Any) -> bytes:
    """Write properties, length included, in the order given. Values are not checked: tests send wrong ones too."""
    out = b""
    for name, value in properties.items():
        identifier = _PROPERTY_IDS[name]
        value_kind = PROPERTIES[identifier][1]
        values: list[Any] = [value]
        if name in ("UserProperty", "SubscriptionIdentifier") and not isinstance(value, int):
            values = list(value)
        for one in values:
            out += bytes((identifier,))
            if value_kind == "pair":
                out += _prefixed(one[0]) + _prefixed(one[1])
            elif value_kind in ("string", "topic", "binary"):
                out += _prefixed(one)
            elif value_kind == "varint":
                out += _varint(one)
            else:
                out += int(one).to_bytes({"bool": 1, "uint16": 2, "uint32": 4}[value_kind], "big")
    return _varint(len(out)) + out


def encode_packet(first_byte: int, body: bytes) -> bytes:
    """Put a fixed header before a body."""
    return bytes((first_byte,)) + _varint(len(body)) + body
