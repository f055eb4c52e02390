"""ΩQTT: a reliable and persistent MQTT 5.0 client library in pure Python.

Everything below is importable from here and from its own module. The serializers are a toolkit of their own: `ohmqtt.serialization`,
`ohmqtt.property`, `ohmqtt.packet`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import errors, packet
from . import property as _property
from .address import Address, parse_address
from .client import Client
from .errors import *  # noqa: F403  # the tree of exceptions, named in errors.__all__
from .handle import PublishHandle, SubscribeHandle, UnsubscribeHandle
from .mqtt_spec import PacketType, PropertyId, ReasonCode, reason_name
from .packet import *  # noqa: F403  # the packet records, named in packet.__all__
from .property import *  # noqa: F403  # the property classes, named in property.__all__
from .records import Disconnected, Message, SessionLostPolicy
from .session import QueuePolicy, SessionSettings
from .topic_alias import AliasPolicy

if TYPE_CHECKING:
    from .auth import Authenticator, ScramSHA256

__version__ = "0.1.0"

__all__ = [
    "Address",
    "AliasPolicy",
    "Authenticator",
    "Client",
    "Disconnected",
    "Message",
    "PacketType",
    "PropertyId",
    "PublishHandle",
    "QueuePolicy",
    "ReasonCode",
    "ScramSHA256",
    "SessionLostPolicy",
    "SessionSettings",
    "SubscribeHandle",
    "UnsubscribeHandle",
    "__version__",
    "parse_address",
    "reason_name",
]
__all__ += errors.__all__
__all__ += packet.__all__
__all__ += _property.__all__


def __getattr__(name: str) -> Any:
    # Few clients need them, and what they import takes longer than all the rest.
    if name in ("Authenticator", "ScramSHA256"):
        from . import auth

        return getattr(auth, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
