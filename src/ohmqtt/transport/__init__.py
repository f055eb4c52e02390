"""Connections: an open, non-blocking byte stream to the server, over TCP, TLS or a Unix socket.

:func:`open_transport` makes one from an address; :class:`Transport` is what the rest of ΩQTT asks of it, so that it can be of another
kind: ``ohmqtt.testing.check_transport`` checks one.
"""

from __future__ import annotations

from .opening import Resolve, SocketOption, open_transport
from .stream import SocketTransport, Transport
from .tls import TLSTransport, start_tls

__all__ = ["Resolve", "SocketOption", "SocketTransport", "TLSTransport", "Transport", "open_transport", "start_tls"]
