"""What makes a broker fit to listen beyond this machine: TLS, and rules for those who connect."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from broker.errors import BrokerStartError

if TYPE_CHECKING:
    from pathlib import Path

    from broker.tls import ServerTls


@dataclass(frozen=True, slots=True)
class Security:
    """How a broker proves itself, and whom it lets do what.

    Attributes:
        tls: without it the broker listens on loopback only.
        access: an access file (`broker.access_file`); without it everybody may do everything, on loopback only. It is
            read again by `reload`.
    """

    tls: ServerTls | None = None
    access: Path | None = None

    def stamp(self) -> tuple[tuple[int, int] | None, ...]:
        """Return something that differs once a file was replaced, or its mode changed, to know when to reload."""
        files = [self.access]
        if self.tls is not None:
            files += [self.tls.certificate, self.tls.key, self.tls.ca, self.tls.crl]
        return tuple(_stamp(file) for file in files)


def place(host: str, security: Security) -> str:
    """Return the numeric address to listen at.

    Raises:
        BrokerStartError: `host` is no address, or is beyond loopback and TLS or access rules are missing.
    """
    if host == "localhost":
        return "127.0.0.1"
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        address = None
    if address is not None and (address.is_loopback or (security.tls is not None and security.access is not None)):
        return str(address)
    missing = [
        what
        for what, given in (("TLS", security.tls is not None), ("access control", security.access is not None))
        if not given
    ]
    if not missing:
        raise BrokerStartError(
            f"{host!r} is no address to listen at: give the number of one of this machine's addresses, "
            "0.0.0.0 or :: for all of them"
        )
    raise BrokerStartError(
        f"without {' and '.join(missing)} a broker listens on loopback only, not on {host!r}: leave out --host, or "
        "give a certificate and its key (--cert, --key), the authority of its clients (--ca) and who may do what "
        "(--access)"
    )


def _stamp(file: Path | None) -> tuple[int, int] | None:
    try:
        return None if file is None else ((status := file.stat()).st_ctime_ns, status.st_ino)
    except OSError:
        return None
