"""A certificate authority for tests, and what it and a stranger have signed, as files in one folder.

Anything that needs TLS may use it: ``certificates = write_certificates(folder)`` in a session-scoped fixture of its own, or run
this module with a folder as its argument. Keys are made anew each time (a few milliseconds); nothing is kept in the repository.
"""

from __future__ import annotations

import datetime as dt
import ssl
import sys
from pathlib import Path
from typing import NamedTuple

import trustme

__all__ = ["Certificates", "write_certificates"]


class Certificates(NamedTuple):
    """The files. A ``…_key`` belongs to the certificate before it; certificate files hold the chain that a peer needs."""

    #: The authority that signed everything here but the last pair.
    authority: Path
    #: For localhost, 127.0.0.1 and ::1.
    server: Path
    server_key: Path
    #: As the server's, but for another name.
    misnamed: Path
    misnamed_key: Path
    #: As the server's, but no longer valid.
    expired: Path
    expired_key: Path
    #: For a client that has to show who it is.
    client: Path
    client_key: Path
    #: Another authority, which nobody trusts, and a certificate for localhost, 127.0.0.1 and ::1 that it signed.
    stranger_authority: Path
    stranger: Path
    stranger_key: Path

    def server_context(self, name: str = "server") -> ssl.SSLContext:
        """Make the context of a server that shows the certificate called ``name`` and asks the client for none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(getattr(self, name), getattr(self, f"{name}_key"))
        return context

    def client_context(self) -> ssl.SSLContext:
        """Make the context of a client that trusts the authority."""
        return ssl.create_default_context(cafile=str(self.authority))


def write_certificates(folder: Path) -> Certificates:
    """Make the authorities, have them sign, and write everything into ``folder``, which must exist."""
    names = ("localhost", "127.0.0.1", "::1")
    now = dt.datetime.now(dt.timezone.utc)
    authority = trustme.CA(organization_name="ΩQTT tests")
    stranger = trustme.CA(organization_name="somebody else")
    certificates = Certificates(*(folder / f"{name}.pem" for name in Certificates._fields))
    authority.cert_pem.write_to_path(certificates.authority)
    stranger.cert_pem.write_to_path(certificates.stranger_authority)
    signed = {
        "server": authority.issue_cert(*names),
        "misnamed": authority.issue_cert("elsewhere.example"),
        "expired": authority.issue_cert(*names, not_before=now - dt.timedelta(days=3), not_after=now - dt.timedelta(days=2)),
        "client": authority.issue_cert("client@tests.example", common_name="test client"),
        "stranger": stranger.issue_cert(*names),
    }
    for name, leaf in signed.items():
        leaf.private_key_pem.write_to_path(getattr(certificates, f"{name}_key"))
        for index, part in enumerate(leaf.cert_chain_pems):
            part.write_to_path(getattr(certificates, name), append=index > 0)
    return certificates


if __name__ == "__main__":
    print("\n".join(map(str, write_certificates(Path(sys.argv[1])))))  # noqa: T201
